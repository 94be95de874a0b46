"""Random changes are of the whole spine, in millimetres, in half of all cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmed.ct import augmentation

KEYS = jax.random.split(jax.random.key(1), 32)


def change(augment, patches):
    batch = {'inputs': {'patches': jnp.array(patches), 'mask': 'kept'}}
    inputs = augment(KEYS, batch)['inputs']
    assert inputs['mask'] == 'kept'
    return np.asarray(inputs['patches'])


@pytest.mark.parametrize('augment, axis', [
    (augmentation.mirror, 4), (augmentation.upend, 2)])
def test_a_spine_is_flipped_as_a_whole_in_half_of_cases(augment, axis):
    before = np.random.default_rng(0).random((32, 3, 5, 4, 6, 1), np.float32)
    after = change(augment, before)
    same = (after == before).all(axis=(1, 2, 3, 4, 5))
    flipped = (after == np.flip(before, axis)).all(axis=(1, 2, 3, 4, 5))
    assert 8 < same.sum() < 24
    np.testing.assert_array_equal(same, ~flipped)


def lines(turn_deg, zoom):
    """Two lines along rows of 1 mm, 16 columns of 4 mm apart -> places in each row.

    Soft ones, since thin ones are sampled unevenly.
    """
    away = np.arange(65) - np.array([[24], [40]])
    profile = np.exp(-away**2 / 5).sum(axis=0)
    patches = np.tile(profile[:, None, None], (32, 2, 33, 1, 1, 1)).astype(np.float32)
    out = change(augmentation.make_move(
        turn_deg=turn_deg, zoom=zoom, shift_mm=0.0, pitch_mm=(1.0, 4.0)),
        patches)[..., 0, 0]
    np.testing.assert_array_equal(out[:, 0], out[:, 1])
    halves = out[:, 0, :, :32], out[:, 0, :, 33:]
    return [(x * np.arange(32)).sum(-1) / x.sum(-1) for x in halves]


def test_a_turn_is_in_millimetres_and_the_same_for_all_patches_of_a_spine():
    left, right = lines(20.0, 0.0)
    slopes = (left[:, 24] - left[:, 8]) * 4 / 16  # mm to the side a mm
    degrees = np.rad2deg(np.arctan(slopes))
    assert 8 < np.sum(np.abs(degrees) > 0.5) < 24  # half of all cases
    assert 12 < np.abs(degrees).max() < 20.7  # means of samples are a little off
    turned = np.cos(np.deg2rad(degrees))  # across, lines are as far apart as before
    np.testing.assert_allclose(
        (33 + right - left)[:, 16] * turned, 16, atol=0.1)


def test_a_zoom_leaves_half_as_they_are():
    left, right = lines(0.0, 0.2)
    ratios = (33 + right - left)[:, 16] / 16
    kept = np.abs(ratios - 1) < 1e-3
    assert 8 < kept.sum() < 24
    assert 0.8 < ratios.min() < 0.95 and 1.05 < ratios.max() < 1.25
    np.testing.assert_allclose(left[:, 4], left[:, 28], atol=1e-3)


def test_a_shift_is_in_millimetres_in_both_directions():
    down, along = np.mgrid[:12, :20].astype(np.float32)
    ramps = np.stack([down * 2.0, along * 4.0])  # mm: two patches of one spine
    patches = np.tile(ramps[..., None, None], (32, 1, 1, 1, 1, 1))
    moved = change(augmentation.make_move(
        turn_deg=0.0, zoom=0.0, shift_mm=3.0, pitch_mm=(2.0, 4.0)), patches)
    by = (moved - patches)[:, :, 5, 5, 0, 0]
    np.testing.assert_allclose((moved - patches)[:, 0, 3, 9, 0, 0], by[:, 0], atol=1e-4)
    kept = (np.abs(by) < 1e-4).all(axis=1)
    assert 8 < kept.sum() < 24
    assert 2 < np.abs(by[:, 0]).max() <= 3 and 2 < np.abs(by[:, 1]).max() <= 3


def test_thicker_slices_share_what_is_in_a_row_with_its_neighbours():
    before = np.zeros((32, 2, 9, 2, 2, 1), np.float32)
    before[:, :, 4] = 1
    after = change(augmentation.make_slab(strength=0.6), before)
    np.testing.assert_allclose(after.sum(axis=2), 1, rtol=1e-6)
    share = 1 - after[:, 0, 4, 0, 0, 0]
    np.testing.assert_allclose(after[:, 1, 3, 1, 1, 0], share / 2, atol=1e-7)
    assert 8 < (share == 0).sum() < 24 and 0.4 < share.max() <= 0.6
    flat = np.ones_like(before)
    np.testing.assert_allclose(
        change(augmentation.make_slab(strength=0.6), flat), 1, rtol=1e-6)


def test_light_changes_gain_and_offset_within_zero_and_one():
    ramp = np.linspace(0, 1, 11, dtype=np.float32)
    before = np.tile(ramp, (32, 2, 3, 3, 1))[..., None]
    after = change(augmentation.make_light(strength=0.1), before)
    kept = (after == before).all(axis=(1, 2, 3, 4, 5))
    assert 8 < kept.sum() < 24 and after.min() >= 0 and after.max() <= 1
    gains = np.diff(after[:, 0, 0, 0, 4:7, 0]).mean(axis=1) / 0.1
    assert np.all(np.abs(np.log(gains)) < 0.101) and np.ptp(gains) > 0.08
    np.testing.assert_array_equal(after[:, 0], after[:, 1])
