"""Losses against values worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmed import losses

FAR = 50.0  # a logit whose sigmoid is 0 or 1 in float32


def test_soft_dice_of_half_an_overlap():
    # Two of four pixels predicted, two real, one shared; smooth 1 on both sides.
    logits = jnp.array([FAR, FAR, -FAR, -FAR]).reshape(1, 2, 2, 1)
    targets = jnp.array([0.0, 1.0, 1.0, 0.0]).reshape(1, 2, 2, 1)
    np.testing.assert_allclose(
        losses.soft_dice(logits, targets), [1 - (2 * 1 + 1) / (2 + 2 + 1)], rtol=1e-6
    )


def test_soft_dice_of_two_empty_masks_is_zero_and_of_opposites_almost_one():
    empty = jnp.full((1, 8, 8, 1), -FAR)
    np.testing.assert_allclose(
        losses.soft_dice(empty, jnp.zeros((1, 8, 8, 1))), [0.0], atol=1e-6
    )
    np.testing.assert_allclose(
        losses.soft_dice(empty, jnp.ones((1, 8, 8, 1))), [1 - 1 / 65], rtol=1e-6
    )


def test_soft_dice_counts_classes_and_images_alike():
    logits = jnp.where(jnp.arange(2) == 0, FAR, -FAR) * jnp.ones((3, 4, 4, 2))
    targets = jnp.ones((3, 4, 4, 2))
    # First class perfect, second all missed: (0 + 1 - 1 / 17) / 2.
    np.testing.assert_allclose(
        losses.soft_dice(logits, targets), [(1 - 1 / 17) / 2] * 3, rtol=1e-5
    )


def test_pixel_cross_entropy_of_a_guess_is_ln_2():
    targets = jnp.array([0.0, 1.0, 1.0, 0.0]).reshape(1, 2, 2, 1)
    np.testing.assert_allclose(
        losses.pixel_cross_entropy(jnp.zeros((1, 2, 2, 1)), targets), [np.log(2)],
        rtol=1e-6,
    )


def test_losses_of_bfloat16_logits_are_float32():
    logits = jnp.zeros((2, 4, 4, 1), jnp.bfloat16)
    targets = jnp.ones((2, 4, 4, 1), jnp.uint8)
    for loss in (losses.soft_dice, losses.pixel_cross_entropy):
        assert loss(logits, targets).dtype == jnp.float32
        grads = jax.grad(lambda x: loss(x, targets).sum())(logits)
        assert np.isfinite(np.asarray(grads, np.float32)).all()


def test_cross_entropy_weighs_smooths_and_takes_soft_targets():
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]))
    targets = jnp.eye(3)[jnp.array([1, 2])]
    np.testing.assert_allclose(
        losses.cross_entropy(logits, targets), -np.log([0.3, 0.8]), rtol=1e-5
    )
    np.testing.assert_allclose(
        losses.cross_entropy(logits, targets, class_weights=(9.0, 2.0, 0.5)),
        -np.log([0.3, 0.8]) * [2.0, 0.5], rtol=1e-5,
    )
    smoothed = losses.cross_entropy(logits, targets, label_smoothing=0.3)
    expected = -(np.log([0.5, 0.3, 0.2]) @ [0.1, 0.8, 0.1])
    np.testing.assert_allclose(smoothed[0], expected, rtol=1e-5)
    blend = losses.cross_entropy(logits, jnp.array([[0.25, 0.75, 0.0]] * 2))
    np.testing.assert_allclose(
        blend[0], -(np.log([0.5, 0.3]) @ [0.25, 0.75]), rtol=1e-5
    )


def test_unknown_findings_bring_neither_loss_nor_gradient():
    logits = jnp.array([[0.0, 3.0, -1.0], [2.0, 2.0, 2.0]])
    targets = jnp.array([[1.0, jnp.nan, 0.0], [jnp.nan] * 3])
    values = losses.known_binary_cross_entropy(logits, targets)
    expected = (np.log(2) + np.log1p(np.exp(-1))) / 2
    np.testing.assert_allclose(values, [expected, 0.0], rtol=1e-6)
    grads = jax.grad(
        lambda x: losses.known_binary_cross_entropy(x, targets).sum())(logits)
    known = [[-0.25, 0, 1 / (1 + np.e) / 2], [0, 0, 0]]
    np.testing.assert_allclose(grads, known, rtol=1e-5)
    # Weights are of present findings; smoothing draws to 1/2.
    weighted = losses.known_binary_cross_entropy(
        logits, targets, class_weights=(4.0, 1.0, 9.0))
    expected = (4 * np.log(2) + np.log1p(np.exp(-1))) / 2
    np.testing.assert_allclose(weighted[0], expected, rtol=1e-6)
    smoothed = losses.known_binary_cross_entropy(logits, targets, label_smoothing=0.2)
    expected = (np.log(2) + np.log1p(np.exp(-1)) + 0.1) / 2
    np.testing.assert_allclose(smoothed[0], expected, rtol=1e-6)
