"""Augmentation: image and mask move as one, examples on their own, nothing is lost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmed import transforms


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
