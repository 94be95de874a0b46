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
