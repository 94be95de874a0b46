"""How sure an area under the ROC curve is, and whether that of another model differs.

By DeLong's placements: psi(x, y) is 1 where a case with the finding is scored above one
without, 1/2 where they are equal, else 0; the area is the mean of psi over all pairs.
A case's placement is its mean of psi over the cases of the other kind, and the spread
of the placements is how sure the area is. Of midranks they take one sort instead of
all pairs (Sun and Xu 2014).

Several scans of a patient resemble each other: placements are summed over each patient
before their spread is taken (Obuchowski 1997). With one scan a patient that is DeLong's
variance to the last digit.

Sources: DeLong, DeLong and Clarke-Pearson 1988, Biometrics 44:837; Sun and Xu 2014,
IEEE Signal Processing Letters 21:1389; Obuchowski 1997, Biometrics 53:567; Newcombe
2006, Statistics in Medicine 25:559, method 5; Pepe 2003, The Statistical Evaluation of
Medical Tests, section 5.2, for the logit.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import optimize, special, stats

Z = 1.959964  # of 95% of a normal distribution
_NO_SPREAD = 1e-12  # but for rounding


class Area(NamedTuple):
    """An area under the ROC curve; what is undefined is NaN."""

    value: float
    low: float  # 95% interval, within [0, 1]
    high: float
    deviation: float  # DeLong's standard error
    n_with: int  # cases with the finding, of those whose truth is known
    n_without: int


class Difference(NamedTuple):
    """The first of two areas minus the second; what is undefined is NaN."""

    value: float
    low: float  # 95% interval, within [-1, 1]
    high: float
    p: float  # of a difference as large between equal areas, both sides
    n_with: int
    n_without: int


def measure_auc(probability, targets, *, groups=None):
    """The area under the ROC curve with its 95% interval.

    The interval is symmetric in logit(area), so it stays within [0, 1]:
    logit(A) +- 1.96 s / (A (1 - A)) with DeLong's s. Where every placement is the same,
    at A = 1 or 0 and of a model that gives all cases one score, s = 0 says nothing.
    There the interval is Newcombe's: of all areas t those with
    |A - t| <= 1.96 sqrt(v(t)), where v(t) is the variance that an area t would have
    with so many cases, or patients. Of A = 1 its bounds are 1 and what 'no error among
    so many' leaves possible.

    Args:
        probability: [N], or anything else that ranks.
        targets: [N] in {0, 1, NaN}; NaN is left out.
        groups: [N], the patient of each case; None if each has one.

    Returns:
        Area. All NaN but the counts where a kind has no case or a known one's
        probability is NaN; no interval or deviation where a kind has one patient only,
        which says nothing about the next one.
    """
    (parts,), truth, groups = _placements([probability], targets, groups)
    counts = int(truth.sum()), int((~truth).sum())
    if parts is None:
        return Area(*[math.nan] * 4, *counts)
    area, shares = parts
    spread = math.sqrt(_variance(shares, truth, groups))
    patients = [len(np.unique(groups[truth == kind])) for kind in (True, False)]
    low, high = math.nan, math.nan
    if min(patients) > 1 and spread < _NO_SPREAD:
        low, high = 1 - _farthest(1 - area, *patients), _farthest(area, *patients)
    elif min(patients) > 1:
        reach = Z * spread / (area * (1 - area))
        low, high = special.expit(special.logit(area) + np.array([-reach, reach]))
    return Area(area, float(low), float(high), spread, *counts)


def compare_aucs(first, second, targets, *, groups=None):
    """DeLong's test of two models on the same cases.

    The interval is value +- 1.96 s, cut to [-1, 1]. Where s is 0 (two models that rank
    alike, or that both make no mistake), p is 1 for equal areas and undefined else.

    Args:
        first, second: [N], probabilities of the same cases in the same order.
        targets: [N] in {0, 1, NaN}; NaN is left out.
        groups: [N], the patient of each case; None if each has one.

    Returns:
        Difference; NaN as in measure_auc.
    """
    parts, truth, groups = _placements([first, second], targets, groups)
    counts = int(truth.sum()), int((~truth).sum())
    if None in parts:
        return Difference(*[math.nan] * 4, *counts)
    (area, shares), (other, others) = parts
    value = area - other
    # The variance of a difference is that of the differences of the placements.
    spread = math.sqrt(_variance(shares - others, truth, groups))
    if math.isnan(spread):
        return Difference(value, *[math.nan] * 3, *counts)
    if spread < _NO_SPREAD:
        p = 1.0 if abs(value) < 1e-12 else math.nan
    else:
        p = float(2 * special.ndtr(-abs(value) / spread))
    return Difference(
        value, max(value - Z * spread, -1.0), min(value + Z * spread, 1.0), p, *counts)


def _placements(scores, targets, groups):
    """Each model's (area, [n] of what each case adds to its error); truth; groups.

    In place of a pair there is None where the area is undefined.
    """
    targets = np.asarray(targets, float)
    known = ~np.isnan(targets)
    truth = targets[known] == 1
    groups = np.arange(len(truth)) if groups is None else np.asarray(groups)[known]
    n_with, n_without = truth.sum(), (~truth).sum()
    parts = []
    for score in scores:
        score = np.asarray(score, float)[known]
        if not n_with or not n_without or np.isnan(score).any():
            parts.append(None)
            continue
        ranks = stats.rankdata(score)  # midranks
        place = np.empty(len(score))
        # How many of the other kind are below, equal ones for half.
        place[truth] = (ranks[truth] - stats.rankdata(score[truth])) / n_without
        place[~truth] = 1 - (ranks[~truth] - stats.rankdata(score[~truth])) / n_with
        area = float(place[truth].mean())
        parts.append((area, (place - area) / np.where(truth, n_with, n_without)))
    return parts, truth, groups


def _variance(shares, truth, groups):
    """Of an area, from what each case adds to its error, summed over patients."""
    _, member = np.unique(groups, return_inverse=True)
    sums = [np.bincount(member, weights=shares * kind) for kind in (truth, ~truth)]
    variance = 0.0
    for kind, total in zip((truth, ~truth), sums):
        patients = len(np.unique(member[kind]))
        if patients < 2:
            return math.nan
        variance += patients / (patients - 1) * np.sum(total ** 2)
    # Patients who have scans of both kinds; without any this is 0.
    every = len(sums[0])
    variance += 2 * every / (every - 1) * np.sum(sums[0] * sums[1])
    return max(float(variance), 0.0)


def _farthest(observed, n_with, n_without):
    """The highest area that an observed one leaves possible."""
    if observed >= 1:
        return 1.0
    middle = (n_with + n_without) / 2 - 1

    def excess(area):
        variance = area * (1 - area) / (n_with * n_without) * (
            1 + middle * ((1 - area) / (2 - area) + area / (1 + area)))
        return (area - observed) ** 2 - Z ** 2 * variance

    return float(optimize.brentq(excess, max(observed, 1e-12), 1.0))
