"""Does a probability of 0.8 come true in 8 of 10 images? Measured, and mended.

Rows as in `scores`. Where classes exclude each other, what is asked of the model is how
sure it is of the class it names; with several labels, each known one counts on its own.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize, special

BOUNDS = (0.05, 20.0)  # of a temperature
# float32 probabilities of a sure model are exactly 0 or 1; their logits are infinite.
NEAREST = 1e-7
BINS = 10


class Bins(NamedTuple):
    """Images sorted by how sure the model is, in bins of about as many: each [bins]."""

    count: np.ndarray
    probability: np.ndarray  # mean of those the model gave
    share: np.ndarray  # how many of them came true
    low: np.ndarray  # 95% Wilson interval of the share
    high: np.ndarray


def fit_temperature(probability, targets, *, exclusive):
    """The temperature that makes probabilities fit the known targets best.

    Minimises the negative log-likelihood, plus (ln T)^2 / 2: a guess that T is near
    1, worth about one image. Dozens of images overrule it; a model without a mistake
    on the few it is fitted to would else be made infinitely sure. Fit it on
    validation rows.

    Args:
        probability: [N, K], not yet scaled.
        targets: [N, K]; NaN is unknown.
        exclusive: classes exclude each other (softmax), or labels (sigmoid).

    Returns:
        T, within BOUNDS; over 1 for a model that was too sure. 1.0 if nothing is known.

    Raises:
        ValueError: a known probability is NaN.

    Source: Guo, Pleiss, Sun and Weinberger 2017, On Calibration of Modern Neural
        Networks, section 4.2; the prior is ours.
    """
    logits, targets = _known_logits(probability, targets, exclusive=exclusive)
    if not len(targets):
        return 1.0
    if np.isnan(logits).any():
        raise ValueError('no temperature fits a probability of NaN')

    def cost(log_temperature):
        scaled = logits * np.exp(-log_temperature)
        return _loss(scaled, targets, exclusive).sum() + log_temperature ** 2 / 2

    fitted = optimize.minimize_scalar(cost, bounds=np.log(BOUNDS), method='bounded')
    return float(np.exp(fitted.x))


def _known_logits(probability, targets, *, exclusive):
    """Logits and targets that are known: [n, K] for classes, [n] for labels."""
    probability, targets = np.asarray(probability, float), np.asarray(targets, float)
    known = ~np.isnan(targets)
    known = known.all(axis=1) if exclusive else known
    return _logits(probability, exclusive)[known], targets[known]


def _logits(probability, exclusive):
    probability = np.clip(probability, NEAREST, 1 - NEAREST)
    return np.log(probability) if exclusive else special.logit(probability)


def _loss(logits, targets, exclusive):
    """Negative log-likelihood in nats of each image, or each known label."""
    if exclusive:
        return -np.sum(targets * special.log_softmax(logits, axis=1), axis=1)
    return np.logaddexp(0.0, logits) - targets * logits


def apply_temperature(probability, temperature, *, exclusive):
    """Probabilities of the same model at another temperature, NumPy.

    What is named (the most probable class, the labels over 0.5) stays the same.

    Args:
        probability: [..., K], not yet scaled.
        temperature: of fit_temperature.
        exclusive: softmax over the classes, or a sigmoid each.

    Returns:
        [..., K] float64.
    """
    logits = _logits(np.asarray(probability, float), exclusive) / temperature
    return special.softmax(logits, axis=-1) if exclusive else special.expit(logits)


def scale_logits(logits, temperature, *, exclusive):
    """Logits [..., K] -> calibrated probabilities; traceable, for a Task's device."""
    scaled = jnp.asarray(logits, jnp.float32) / temperature
    return jax.nn.softmax(scaled) if exclusive else jax.nn.sigmoid(scaled)


def log_loss(rows, *, exclusive):
    """Mean negative log-likelihood, in nats; lower is better."""
    logits, targets = _known_logits(
        rows['probability'], rows['targets'], exclusive=exclusive
    )
    if not len(targets):
        return float('nan')
    return float(_loss(logits, targets, exclusive).mean())


def brier(rows, *, exclusive):
    """Mean squared distance of probabilities from what came true; lower is better.

    Summed over classes that exclude each other (0 to 2); the mean over known labels
    else (0 to 1).

    Source: Brier 1950, Monthly Weather Review 78:1, equation 2.
    """
    targets = np.asarray(rows['targets'], float)
    squares = (np.asarray(rows['probability'], float) - targets) ** 2
    known = ~np.isnan(targets)
    squares = squares[known.all(axis=1)].sum(axis=1) if exclusive else squares[known]
    return float(squares.mean()) if len(squares) else float('nan')


def sureness(rows, *, exclusive, k=None):
    """(probability, whether it came true) of what the model is asked about, [n]."""
    probability = np.asarray(rows['probability'], float)
    targets = np.asarray(rows['targets'], float)
    if k is not None:
        probability, targets = probability[:, [k]], targets[:, [k]]
    elif exclusive:
        best = np.argmax(probability, axis=1)[:, None]
        probability = np.take_along_axis(probability, best, axis=1)
        targets = np.take_along_axis(targets, best, axis=1)
    known = ~np.isnan(targets)
    return probability[known], targets[known]


def _members(probability, bins):
    """The bin of each value, [n] in 0 .. bins - 1; equal values share a bin.

    By rank, not by the order of the rows, so the result doesn't depend on it.
    """
    rank = np.searchsorted(np.sort(probability), probability, 'left')
    return rank * bins // max(len(rank), 1)


def expected_calibration_error(rows, *, exclusive, bins=BINS):
    """Mean gap between how sure the model is and how often it is right.

    Over bins of about equally many images (equal mass), weighted by their number; equal
    probabilities are never torn apart. Bins of equal width would leave most of them to
    a handful of images. Few images make any model look worse: `error_by_chance` says
    how much.

    Source: Guo et al. 2017, equation 3; Nguyen and O'Connor 2015 for equal mass.
    """
    probability, truth = sureness(rows, exclusive=exclusive)
    if not len(truth) or np.isnan(probability).any():
        return float('nan')
    member = _members(probability, bins)
    gaps = np.bincount(member, weights=probability - truth, minlength=bins)
    return float(np.abs(gaps).sum() / len(truth))


def error_by_chance(rows, *, exclusive, bins=BINS, draws=200, seed=0):
    """The expected calibration error of a perfect model with these probabilities.

    Truths are drawn from the probabilities themselves: (mean, 95th percentile) of the
    error over the draws. A model within it can't be told from a calibrated one here.
    """
    probability, _ = sureness(rows, exclusive=exclusive)
    if not len(probability) or np.isnan(probability).any():
        return float('nan'), float('nan')
    member = _members(probability, bins)
    generator, errors = np.random.default_rng(seed), np.empty(draws)
    for draw in range(draws):
        truth = generator.random(len(probability)) < probability
        gaps = np.bincount(member, weights=probability - truth, minlength=bins)
        errors[draw] = np.abs(gaps).sum() / len(probability)
    return float(errors.mean()), float(np.quantile(errors, 0.95))


def wilson_interval(hits, total):
    """95% interval of a share, also good near 0 and 1: (low, high), NaN for none of 0.

    Images count as independent, which those of one patient aren't.

    Source: Wilson 1927, JASA 22:209.
    """
    hits, total = np.asarray(hits, float), np.asarray(total, float)
    z, some = 1.959964, np.where(total > 0, total, np.nan)
    share = hits / some
    middle = (share + z ** 2 / (2 * some)) / (1 + z ** 2 / some)
    spread = np.sqrt(share * (1 - share) / some + (z / (2 * some)) ** 2)
    spread = z * spread / (1 + z ** 2 / some)
    # Rounding must not leave the share outside its own interval.
    return np.clip(middle - spread, 0, share), np.clip(middle + spread, share, 1)


def reliability(rows, *, exclusive, bins=BINS, k=None):
    """Bins of a reliability diagram; empty ones are left out.

    Args:
        rows: columns, [N, K].
        exclusive: ask about the class named, not about each label.
        bins: how many at most; equal probabilities share one.
        k: ask about this class alone.
    """
    probability, truth = sureness(rows, exclusive=exclusive, k=k)
    kept = ~np.isnan(probability)
    probability, truth = probability[kept], truth[kept]
    member = _members(probability, bins)
    count = np.bincount(member, minlength=bins)
    some = count > 0
    hits = np.bincount(member, weights=truth, minlength=bins)[some]
    sums = np.bincount(member, weights=probability, minlength=bins)[some]
    count = count[some]
    return Bins(count, sums / count, hits / count, *wilson_interval(hits, count))
