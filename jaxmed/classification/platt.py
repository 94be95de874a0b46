"""A probability made to come true: scale and offset of its logit, fitted to few scans.

A temperature (calibration.py) can't mend a model that is wrong by a constant: one that
was trained on as many fractured as sound spines, or that takes the maximum over twenty
patches, says yes too often everywhere.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize, special

# What is believed before a scan is seen: ln(scale) is 0 +- 1 and the offset 0 +- 2. The
# offset of a model trained on half fractured spines, used where 1 in 8 is, is 2.
SCALE_SPREAD, OFFSET_SPREAD = 1.0, 2.0
SCALES, OFFSETS = (0.05, 20.0), (-10.0, 10.0)  # no fit leaves these
_SMALLEST = float(np.finfo(np.float32).tiny)
_LARGEST = 1 - 2.0 ** -24  # next to 1 in float32


def fit_scaling(probability, targets):
    """The scale and the offset with which probabilities fit the known targets best.

    Of p becomes sigmoid(scale * logit(p) + offset). Minimises the negative
    log-likelihood plus (ln(scale) / 1)^2 / 2 + (offset / 2)^2 / 2, a mild belief that
    nothing needs to be mended: dozens of scans overrule it, and a few that the model
    tells apart without a mistake do not make it infinitely sure. The scale is positive,
    so the order of cases, and with it each model's AUC, stays.

    Args:
        probability: [N], not yet scaled.
        targets: [N] in {0, 1, NaN}.

    Returns:
        {'scale', 'offset', 'reason'}: within SCALES and OFFSETS, with the reason ''.
        1 and 0 with a reason where one of the two kinds is absent (an offset would say
        that all are of the other) or a known case's probability is NaN.

    Source: Platt 1999, Advances in Large Margin Classifiers, chapter 5; the priors in
        place of his smoothed targets are ours.
    """
    targets = np.asarray(targets, float)
    known = ~np.isnan(targets)
    truth = targets[known]
    logits = _logits(probability)[known]
    reason = (
        'no scan with a fracture to fit to' if not (truth == 1).any() else
        'no scan without a fracture to fit to' if not (truth == 0).any() else
        'a probability is not a number' if np.isnan(logits).any() else '')
    if reason:
        return {'scale': 1.0, 'offset': 0.0, 'reason': reason}

    def cost(values):
        stretch, offset = values
        scaled = math.exp(stretch) * logits + offset
        error = special.expit(scaled) - truth
        loss = np.sum(np.logaddexp(0.0, scaled) - truth * scaled)
        loss += (stretch / SCALE_SPREAD) ** 2 / 2 + (offset / OFFSET_SPREAD) ** 2 / 2
        return loss, np.array([
            np.sum(error * (scaled - offset)) + stretch / SCALE_SPREAD ** 2,
            np.sum(error) + offset / OFFSET_SPREAD ** 2])

    fitted = optimize.minimize(
        cost, (0.0, 0.0), jac=True, method='L-BFGS-B',
        bounds=[tuple(np.log(SCALES)), OFFSETS], options={'gtol': 1e-9, 'ftol': 1e-14})
    return {'scale': float(np.exp(fitted.x[0])), 'offset': float(fitted.x[1]),
            'reason': ''}


def scale_logits(logits, *, scale, offset):
    """Logits -> calibrated probabilities of the same shape, float32; traceable."""
    return jax.nn.sigmoid(scale * jnp.asarray(logits, jnp.float32) + offset)


def rescale(probability, *, scale, offset):
    """The same from probabilities, float32; traceable."""
    probability = jnp.clip(
        jnp.asarray(probability, jnp.float32), _SMALLEST, _LARGEST)
    logits = jnp.log(probability) - jnp.log1p(-probability)
    return scale_logits(logits, scale=scale, offset=offset)


def scale_probabilities(probability, *, scale, offset):
    """The same as `rescale`, NumPy, float64.

    What float32 has already made exactly 0 or 1 is taken for the number next to it.
    """
    return special.expit(scale * _logits(probability) + offset)


def undo(probability, *, scale, offset):
    """What scale_probabilities was given, NumPy, float64."""
    return special.expit((_logits(probability) - offset) / scale)


def _logits(probability):
    return special.logit(np.clip(np.asarray(probability, float), _SMALLEST, _LARGEST))
