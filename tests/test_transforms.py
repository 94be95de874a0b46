"""Augmentation: image and mask move as one, examples on their own, nothing is lost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmed import transforms
from jaxmed.errors import ConfigError


def batch_of(size=6, count=64):
    images = np.random.default_rng(0).uniform(size=(size, size, 3)).astype(np.float32)
    targets = (images[..., :1] > 0.5).astype(np.float32)
    return {
        'inputs': jnp.array(np.repeat(images[None], count, 0)),
        'targets': jnp.array(np.repeat(targets[None], count, 0)),
        'mask': jnp.ones(count),
    }


def keys_of(count=64):
    return jax.random.split(jax.random.key(0), count)


@pytest.mark.parametrize('augment, symmetries', [
    (transforms.flip, 4), (transforms.flip_and_turn, 8)])
def test_every_symmetry_comes_and_mask_follows_image(augment, symmetries):
    out = augment(keys_of(), batch_of())
    np.testing.assert_array_equal(
        out['targets'], (out['inputs'][..., :1] > 0.5).astype(np.float32)
    )
    seen = {np.asarray(image).tobytes() for image in out['inputs']}
    assert len(seen) == symmetries
    expected = {
        np.ascontiguousarray(view.forward(batch_of(count=1)['inputs'])[0]).tobytes()
        for view in transforms.SQUARE_VIEWS
    }
    assert seen <= expected


def test_an_example_is_augmented_alike_wherever_it_lies():
    augment = transforms.compose(
        transforms.flip_and_turn, transforms.make_colour_and_light(strength=0.2)
    )
    whole = augment(keys_of(), batch_of())['inputs']
    part = augment(keys_of()[40:48], batch_of(count=8))['inputs']
    np.testing.assert_allclose(whole[40:48], part, atol=1e-6)


def test_colour_and_light_stay_in_range_and_leave_the_mask():
    batch = batch_of()
    out = transforms.make_colour_and_light(strength=0.3)(keys_of(), batch)
    assert 0 <= float(out['inputs'].min()) and float(out['inputs'].max()) <= 1
    np.testing.assert_array_equal(out['targets'], batch['targets'])
    assert len({np.asarray(image).tobytes() for image in out['inputs']}) == 64
    # Changes are about nothing on average: brightness drifts by less than 5%.
    drift = float(out['inputs'].mean() / batch['inputs'].mean())
    assert abs(drift - 1) < 0.05
    same = transforms.make_colour_and_light(strength=0.0)(keys_of(), batch)
    np.testing.assert_allclose(same['inputs'], batch['inputs'], atol=1e-6)


def test_views_are_eight_different_ones_and_lead_back():
    image = batch_of(count=2)['inputs']
    seen = set()
    for view in transforms.SQUARE_VIEWS:
        seen.add(np.ascontiguousarray(view.forward(image)).tobytes())
        np.testing.assert_array_equal(view.inverse(view.forward(image)), image)
    assert len(seen) == 8
    np.testing.assert_array_equal(transforms.SQUARE_VIEWS[0].forward(image), image)


def test_a_field_stop_darkens_some_pictures_softly_and_drops_what_it_hides():
    bright = {
        'inputs': jnp.full((400, 16, 16, 3), 0.9),
        'targets': jnp.ones((400, 16, 16, 1)),
    }
    out = transforms.make_field_stop(probability=0.25)(keys_of(400), bright)
    touched = np.asarray(out['targets']).min(axis=(1, 2, 3)) == 0
    # Some arcs pass outside of the picture, so at most a quarter is touched.
    assert 0.1 < touched.mean() < 0.25 + 4 * (0.25 * 0.75 / 400) ** 0.5
    hidden = np.asarray(out['targets'][..., 0]) == 0
    assert np.asarray(out['inputs'])[hidden].max() < 0.55
    # The middle of the picture, where the cell is, stays.
    assert not hidden[:, 6:10, 6:10].any()
    never = transforms.make_field_stop(probability=0.0)(keys_of(400), bright)
    np.testing.assert_array_equal(never['targets'], bright['targets'])


def test_a_shift_moves_image_and_mask_alike_by_whole_steps():
    batch = batch_of(size=16, count=200)
    out = transforms.make_shift(multiple_px=4)(keys_of(200), batch)
    np.testing.assert_array_equal(
        out['targets'], (out['inputs'][..., :1] > 0.5).astype(np.float32)
    )
    image = np.asarray(batch['inputs'][0])
    allowed = {
        np.roll(image, (4 * i, 4 * j), (0, 1)).tobytes()
        for i in range(4) for j in range(4)
    }
    seen = [np.asarray(shifted).tobytes() for shifted in out['inputs']]
    assert set(seen) == allowed
    # Half stay, and of the others one in sixteen by chance.
    stay = 0.5 + 0.5 / 16
    assert abs(seen.count(image.tobytes()) / 200 - stay) < 4 * (stay**2 / 200) ** 0.5


def test_a_mirrored_side_swaps_left_and_right_alone_and_no_target():
    batch = batch_of()
    out = transforms.mirror_sides(keys_of(), batch)
    seen = {np.asarray(image).tobytes() for image in out['inputs']}
    image = np.asarray(batch['inputs'][0])
    assert seen == {image.tobytes(), np.ascontiguousarray(image[:, ::-1]).tobytes()}
    np.testing.assert_array_equal(out['targets'], batch['targets'])


def test_an_affine_of_nothing_is_the_identity_and_keeps_a_plane_a_plane():
    batch = batch_of(size=9)
    still = transforms.make_affine(turn_deg=0.0, scale=0.0, shift=0.0)
    np.testing.assert_allclose(
        still(keys_of(), batch)['inputs'], batch['inputs'], atol=1e-5)
    rows, columns = jnp.meshgrid(jnp.arange(41.0), jnp.arange(31.0), indexing='ij')
    batch = {'inputs': jnp.repeat((2 * rows + 3 * columns)[None, ..., None], 64, 0)}
    moved = transforms.make_affine(turn_deg=20.0, scale=0.2, shift=0.1)
    inner = np.asarray(moved(keys_of(), batch)['inputs'])[:, 15:26, 12:19, 0]
    # Bilinear sampling of a plane is exact: slopes are the same everywhere.
    for axis in (1, 2):
        slopes = np.diff(inner, axis=axis)
        assert np.ptp(slopes, axis=(1, 2)).max() < 1e-3
        assert np.ptp(slopes[:, 0, 0]) > 0.5  # and differ between examples
    centre = inner[:, 5, 3] - (2 * 20 + 3 * 15)  # shifts of up to 4.1 and 3.1 pixels
    assert 4 < np.abs(centre).max() < 2 * 4.1 * 1.3 + 3 * 3.1 * 1.3


def test_mixup_blends_partners_and_their_targets_alike():
    count = 64
    values = jnp.arange(count, dtype=jnp.float32)
    batch = {
        'inputs': values[:, None, None, None] * jnp.ones((count, 2, 2, 1)),
        'targets': jnp.stack([values, jnp.where(values == 6, jnp.nan, 0.0)], axis=-1),
    }
    out = transforms.make_mixup(alpha=1.0)(keys_of(), batch)
    blended = np.asarray(out['inputs'][:, 0, 0, 0])
    np.testing.assert_allclose(out['targets'][:, 0], blended, rtol=1e-6)
    own = np.abs(blended - (np.arange(count) ^ 1))  # partners differ by 1
    assert 0 <= own.min() < 0.1 and 0.9 < own.max() <= 1
    assert set(np.flatnonzero(np.isnan(out['targets'][:, 1]))) == {6, 7}
    # Two devices of half the batch each do the same.
    halves = [
        transforms.make_mixup(alpha=1.0)(
            keys_of()[part], {name: value[part] for name, value in batch.items()})
        for part in (slice(32), slice(32, None))
    ]
    joined = jnp.concatenate([half['inputs'] for half in halves])
    np.testing.assert_array_equal(joined, out['inputs'])


def test_mixup_needs_pairs():
    batch = {'inputs': jnp.zeros((3, 2, 2, 1)), 'targets': jnp.zeros((3, 2))}
    with pytest.raises(ConfigError, match='needs pairs'):
        transforms.make_mixup(alpha=1.0)(keys_of(3), batch)


def test_a_box_follows_what_it_frames():
    rng = np.random.default_rng(1)
    images, targets = np.zeros((48, 60, 70, 1), np.float32), []
    for image in images:
        y, x = rng.integers(18, 40, 2)
        rows, columns = np.ogrid[:60, :70]
        # An ellipse of half sides 9 and 6 around the middle of a pixel.
        image[((rows - y) / 9)**2 + ((columns - x) / 6)**2 <= 1] = 1
        targets.append((1, x + 0.5 - 6.5, y + 0.5 - 9.5, x + 0.5 + 6.5, y + 0.5 + 9.5))
    batch = {'inputs': jnp.array(images), 'targets': jnp.array(targets, jnp.float32)}
    augment = transforms.make_box_affine(turn_deg=30.0, scale=0.2, shift=0.2)
    out = augment(keys_of(48), batch)
    checked = 0
    for image, (there, x0, y0, x1, y1) in zip(out['inputs'], out['targets']):
        rows, columns = np.nonzero(np.asarray(image)[..., 0] > 0.5)
        if not there or x0 < 1 or y0 < 1 or x1 > 69 or y1 > 59:
            continue
        seen = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        np.testing.assert_allclose(seen, (x0, y0, x1, y1), atol=1.6)
        checked += 1
    assert checked > 20
    centres = np.asarray(out['targets'][:, 1:3] + out['targets'][:, 3:]) / 2
    outside = np.any((centres < 0) | (centres > [70, 60]), axis=1)
    assert not np.any(np.asarray(out['targets'][:, 0])[outside])
    unknown = augment(keys_of(48), batch | {'targets': batch['targets'] * jnp.nan})
    assert np.isnan(np.asarray(unknown['targets'][:, 0])).all()


def test_noise_is_as_strong_as_drawn_and_alike_in_all_channels():
    batch = {'inputs': jnp.zeros((64, 32, 32, 2))}
    out = np.asarray(transforms.make_noise(strength=0.5)(keys_of(), batch)['inputs'])
    np.testing.assert_array_equal(out[..., 0], out[..., 1])
    deviations = out[..., 0].std(axis=(1, 2))
    assert deviations.max() < 0.55 and 0.2 < deviations.mean() < 0.3
