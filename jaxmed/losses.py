"""Losses: outputs and targets -> [B], one value per example, never masked.

The trainer masks and averages over the real examples of all devices.
"""

import jax
import jax.numpy as jnp
import optax


def soft_dice(logits, targets, *, smooth=1.0):
    """One minus the Dice coefficient of probabilities, averaged over classes.

    Per image, where the paper (002, `dice_coef_loss`) pools the whole batch: pooled,
    a large cell drowns a small one, and the value depends on how images are batched.
    `smooth` stands in numerator and denominator, so two empty masks have loss 0.

    Args:
        logits: [B, ..., K].
        targets: [B, ..., K] in {0, 1}.
        smooth: pixels added on both sides.

    Returns:
        [B] float32 in [0, 1].
    """
    axes = tuple(range(1, logits.ndim - 1))
    predicted = jax.nn.sigmoid(logits.astype(jnp.float32))
    targets = targets.astype(jnp.float32)
    overlap = jnp.sum(predicted * targets, axis=axes)
    size = jnp.sum(predicted, axis=axes) + jnp.sum(targets, axis=axes)
    return jnp.mean(1.0 - (2.0 * overlap + smooth) / (size + smooth), axis=-1)


def pixel_cross_entropy(logits, targets):
    """Binary cross-entropy averaged over pixels and classes.

    Args:
        logits: [B, ..., K].
        targets: [B, ..., K] in {0, 1}.

    Returns:
        [B] float32, in nats.
    """
    loss = optax.sigmoid_binary_cross_entropy(
        logits.astype(jnp.float32), targets.astype(jnp.float32)
    )
    return jnp.mean(loss, axis=tuple(range(1, loss.ndim)))
