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


def cross_entropy(logits, targets, *, label_smoothing=0.0, class_weights=None):
    """Cross-entropy of exclusive classes; soft targets (mixup) are welcome.

    Args:
        logits: [B, K].
        targets: [B, K], rows that add up to 1.
        label_smoothing: share of each target spread evenly over the K classes.
        class_weights: [K], or None for ones; a row weighs the mean of its classes.

    Returns:
        [B] float32, in nats.
    """
    targets = targets.astype(jnp.float32)
    smooth = targets * (1.0 - label_smoothing) + label_smoothing / targets.shape[-1]
    losses = optax.softmax_cross_entropy(logits.astype(jnp.float32), smooth)
    if class_weights is None:
        return losses
    return losses * (targets @ jnp.asarray(class_weights, jnp.float32))


def known_binary_cross_entropy(
    logits, targets, *, label_smoothing=0.0, class_weights=None
):
    """Binary cross-entropy of findings, averaged over those that are known.

    An unknown label is NaN: it adds no loss and no gradient. An example of which
    nothing is known has loss 0.

    Args:
        logits: [B, K].
        targets: [B, K] in [0, 1], or NaN.
        label_smoothing: share of each target drawn towards 1/2.
        class_weights: [K] factors of the losses of present findings, or None.

    Returns:
        [B] float32, in nats.
    """
    known = ~jnp.isnan(targets)
    # Chosen before the loss: NaN * 0 is NaN, in the gradient too.
    targets = jnp.where(known, targets, 0.0).astype(jnp.float32)
    smooth = targets * (1.0 - label_smoothing) + label_smoothing / 2
    losses = optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), smooth)
    if class_weights is not None:
        weights = jnp.asarray(class_weights, jnp.float32)
        losses *= 1.0 + targets * (weights - 1.0)
    counts = jnp.maximum(known.sum(axis=-1), 1)
    return jnp.where(known, losses, 0.0).sum(axis=-1) / counts


def series_and_patches(outputs, targets, *, patch_weight):
    """Paper 001's loss: of the whole series, and of its patches as far as known.

    L = L1(Y_agg, F_agg) + lambda L2(Y_seq, F_seq), both binary cross-entropies, L2 the
    mean over the patches whose label is known.

    Args:
        outputs: {'series': logits [B], 'patches': logits [B, K]}.
        targets: [B, 1 + K] in {0, 1, NaN}, of the series, then of its patches.
        patch_weight: lambda.

    Returns:
        [B] float32, in nats.
    """
    series = known_binary_cross_entropy(outputs['series'][:, None], targets[:, :1])
    return series + patch_weight * known_binary_cross_entropy(
        outputs['patches'], targets[:, 1:])


def squared_error(outputs, targets):
    """Squared error of a number.

    Args:
        outputs, targets: [B, 1].

    Returns:
        [B] float32.
    """
    return (outputs[:, 0] - targets[:, 0]) ** 2


def huber(outputs, targets, *, delta=0.1):
    """Absolute error, squared where it is below `delta`: outliers pull no harder.

    Args:
        outputs, targets: [B, 1].
        delta: of the index, 0.1: below it raters disagree.

    Returns:
        [B] float32: about |error| - delta / 2 beyond delta.
    """
    return optax.huber_loss(outputs[:, 0], targets[:, 0], delta=delta) / delta


def gaussian(outputs, targets):
    """Negative log-likelihood under a normal distribution, without its constant.

    Args:
        outputs: [B, 2], mean and log of the standard deviation.
        targets: [B, 1].

    Returns:
        [B] float32, in nats.
    """
    mean, log_spread = outputs[:, 0], outputs[:, 1]
    return 0.5 * ((targets[:, 0] - mean) * jnp.exp(-log_spread)) ** 2 + log_spread
