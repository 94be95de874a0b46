"""Scores of a classifier over a whole split, from one row per image.

Columns that every function here reads:
  probability  float [N, K]
  targets      float [N, K]; one-hot where classes exclude each other, else 0 or 1 for
               each label; NaN where unknown, which counts neither for nor against

A by-class score is (rows, *, exclusive, only, threshold) -> [K], NaN where a class has
nothing to measure. `macro`, `weighted`, `for_class` and `at_threshold` make of it the
rows -> float that report.summarise asks for.

Undefined is NaN and not 0, as everywhere in jaxmed, with one exception made for the
sake of comparison: a class that is there and never predicted has precision 0, as in
papers and in scikit-learn (zero_division=0). Else a model that never names a rare class
would be better for it. Where scikit-learn departs: it gives a class that is absent from
the split recall 0, here it is left out.

A NaN probability (training has diverged) makes the class's scores NaN.
"""

import functools
import math

import numpy as np

ALL = slice(None)


def _select(rows, only):
    """Probabilities and targets of some classes, and where the target is known."""
    probability = np.asarray(rows['probability'], float)[:, only]
    targets = np.asarray(rows['targets'], float)[:, only]
    return probability, targets, ~np.isnan(targets)


def _counts(rows, *, exclusive, only, threshold):
    """Images found, called wrongly, missed and rightly passed over: four [K]."""
    probability, targets, known = _select(rows, only)
    if exclusive:  # the most probable class; the first of equals
        every = np.asarray(rows['probability'], float)
        chosen = np.argmax(every, axis=1)
        said = chosen[:, None] == np.arange(every.shape[1])[only]
        broken = np.isnan(every)
    else:
        said = probability >= threshold
        broken = np.isnan(probability)
    said, yes = said & known, targets == 1
    ones = np.ones(len(known))  # a product counts faster than a sum over the images
    found, called, with_class, all_known = (
        ones @ kind for kind in (said & yes, said, yes, known)
    )
    counts = np.stack([
        found, called - found, with_class - found,
        all_known - called - with_class + found,
    ])
    if broken.any():
        broken = broken.any(axis=1, keepdims=True) if exclusive else broken
        counts[:, (broken & known).any(axis=0)] = np.nan
    return np.where(np.isnan(threshold), np.nan, counts)


def _ratio(part, whole):
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)


def recall(rows, *, exclusive, only=ALL, threshold=0.5):
    """Share of the images with the class that are found (sensitivity)."""
    found, _, missed, _ = _counts(
        rows, exclusive=exclusive, only=only, threshold=threshold
    )
    return _ratio(found, found + missed)


def specificity(rows, *, exclusive, only=ALL, threshold=0.5):
    """Share of the images without the class that are not called it."""
    _, false, _, passed = _counts(
        rows, exclusive=exclusive, only=only, threshold=threshold
    )
    return _ratio(passed, passed + false)


def ppv(rows, *, exclusive, only=ALL, threshold=0.5):
    """Share of the images called the class that have it, as often as it is here."""
    found, false, _, _ = _counts(
        rows, exclusive=exclusive, only=only, threshold=threshold
    )
    return _ratio(found, found + false)


def npv(rows, *, exclusive, only=ALL, threshold=0.5):
    """Share of the images not called the class that lack it, as often as it is here."""
    _, _, missed, passed = _counts(
        rows, exclusive=exclusive, only=only, threshold=threshold
    )
    return _ratio(passed, passed + missed)


def precision(rows, *, exclusive, only=ALL, threshold=0.5):
    """Share of the images called the class that have it; 0 if it is never called."""
    found, false, missed, _ = _counts(
        rows, exclusive=exclusive, only=only, threshold=threshold
    )
    never = (found + false == 0) & (missed > 0)
    return np.where(never, 0.0, _ratio(found, found + false))


def f1(rows, *, exclusive, only=ALL, threshold=0.5):
    """Harmonic mean of precision and recall of the class."""
    found, false, missed, _ = _counts(
        rows, exclusive=exclusive, only=only, threshold=threshold
    )
    return _ratio(2 * found, 2 * found + false + missed)


def auc(rows, *, exclusive, only=ALL, threshold=0.5):
    """Chance that an image with the class gets a higher probability than one without.

    Area under the ROC curve, each class against the rest; equal probabilities count
    half. NaN unless there are images of both kinds. `exclusive` and `threshold` don't
    matter.

    Source: Hanley and McNeil 1982, Radiology 143:29, the Mann-Whitney statistic.
    """
    del exclusive, threshold
    values = []
    for score, truth in _columns(rows, only):
        with_class, without = np.sort(score[truth]), np.sort(score[~truth])
        pairs = len(with_class) * len(without)
        if not pairs or np.isnan(score).any():
            values.append(np.nan)
            continue
        beaten = np.searchsorted(without, with_class, 'left').sum()
        beaten += np.searchsorted(without, with_class, 'right').sum()
        values.append(beaten / (2 * pairs))
    return np.array(values, float)


def average_precision(rows, *, exclusive, only=ALL, threshold=0.5):
    """Precision averaged over the recalls that thresholds reach; chance: prevalence.

    The sum of (R_n - R_(n-1)) P_n over distinct probabilities, as in scikit-learn.
    NaN unless there are images of both kinds. `exclusive` and `threshold` don't matter.
    """
    del exclusive, threshold
    values = []
    for score, truth in _columns(rows, only):
        if truth.all() or not truth.any() or np.isnan(score).any():
            values.append(np.nan)
            continue
        found, called, _ = _sweep(score, truth)
        gained = np.diff(found, prepend=0)
        values.append(np.sum(gained * found / called) / found[-1])
    return np.array(values, float)


def _columns(rows, only):
    """(probabilities, truth) of the images in which a class is known, per class."""
    probability, targets, known = _select(rows, only)
    for k in range(targets.shape[1]):
        kept = known[:, k]
        kept = ALL if kept.all() else kept  # much faster than a mask of True
        yield probability[kept, k], targets[kept, k] == 1


def _sweep(score, truth):
    """Images found and images called at each distinct threshold, highest first."""
    order = np.argsort(-score)
    score, truth = score[order], truth[order]
    last = np.flatnonzero(np.append(score[1:] != score[:-1], len(score) > 0))
    return np.cumsum(truth)[last], last + 1, score[last]


def roc_curve(rows, k):
    """(false positive rates, sensitivities, thresholds) of class k, from 0 to 1.

    Each [P + 1] for P distinct probabilities; the first threshold is infinite. Empty
    unless there are images of both kinds.
    """
    ((score, truth),) = _columns(rows, [k])
    if truth.all() or not truth.any() or np.isnan(score).any():
        return np.zeros(0), np.zeros(0), np.zeros(0)
    found, called, thresholds = _sweep(score, truth)
    false = called - found
    return (
        np.append(0.0, false / false[-1]), np.append(0.0, found / found[-1]),
        np.append(np.inf, thresholds),
    )


def precision_recall_curve(rows, k):
    """(recalls, precisions, thresholds) of class k, highest threshold first, [P].

    Empty unless there are images of both kinds.
    """
    ((score, truth),) = _columns(rows, [k])
    if truth.all() or not truth.any() or np.isnan(score).any():
        return np.zeros(0), np.zeros(0), np.zeros(0)
    found, called, thresholds = _sweep(score, truth)
    return found / found[-1], found / called, thresholds


def accuracy(rows, *, exclusive):
    """Share of right answers: images, or labels known one way or the other.

    With several labels, every known one of every image counts once. A model that always
    says no then reaches 1 - prevalence: read it beside that baseline.
    """
    found, false, missed, passed = _counts(
        rows, exclusive=exclusive, only=ALL, threshold=0.5
    ).sum(axis=1)
    if exclusive:  # each known image is found in one class or missed in one
        return float(_ratio(found, found + missed))
    return float(_ratio(found + passed, found + false + missed + passed))


def balanced_accuracy(rows, *, exclusive):
    """Accuracy as if all classes were equally frequent.

    The mean recall of the classes that occur; with several labels, the mean over them
    of (sensitivity + specificity) / 2.
    """
    sensitivities = recall(rows, exclusive=exclusive)
    if exclusive:
        return _mean(sensitivities)
    return _mean((sensitivities + specificity(rows, exclusive=False)) / 2)


def confusion(rows):
    """Images by actual (rows) and predicted (columns) class, [K, K] int.

    For classes that exclude each other; unknown images are left out.
    """
    probability, targets, known = _select(rows, ALL)
    known = known.all(axis=1)
    num_classes = targets.shape[1]
    pairs = (
        np.argmax(targets[known], axis=1) * num_classes
        + np.argmax(probability[known], axis=1)
    )
    return np.bincount(pairs, minlength=num_classes ** 2).reshape(
        num_classes, num_classes
    )


def support(rows, *, only=ALL):
    """(images with the class, images where it is known), each [K] int."""
    _, targets, known = _select(rows, only)
    return (targets == 1).sum(axis=0), known.sum(axis=0)


def classes_left_out(rows):
    """Number of classes without images of both kinds: no mean of AUC has them."""
    positives, known = support(rows)
    return int(((positives == 0) | (positives == known)).sum())


def _mean(values):
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float('nan')


def macro(score, *, exclusive):
    """Makes rows -> float: the mean of a by-class score where it is defined."""

    def metric(rows):
        return _mean(score(rows, exclusive=exclusive))

    metric.__doc__ = f'{_meaning(score)} Mean over the classes.'
    return metric


def weighted(score, *, exclusive):
    """Makes rows -> float: a by-class score, weighted by the images with each class."""

    def metric(rows):
        values, weights = score(rows, exclusive=exclusive), support(rows)[0]
        kept = ~np.isnan(values) & (weights > 0)
        if not kept.any():
            return float('nan')
        return float(np.average(values[kept], weights=weights[kept]))

    metric.__doc__ = f'{_meaning(score)} Weighted by the images of each class.'
    return metric


def for_class(score, k, *, exclusive):
    """Makes rows -> float: a by-class score of class k alone."""

    def metric(rows):
        return float(score(rows, exclusive=exclusive, only=[k])[0])

    metric.__doc__ = score.__doc__
    return metric


def at_threshold(score, k, threshold):
    """Makes rows -> float: class k called from a probability on, whatever the others.

    NaN for a NaN threshold. Meant for recall, specificity, ppv and npv.
    """

    def metric(rows):
        return float(score(rows, exclusive=False, only=[k], threshold=threshold)[0])

    metric.__doc__ = f'{_meaning(score)} Called from {threshold:.3g} on.'
    return metric


def _meaning(score):
    return score.__doc__.splitlines()[0]


def make_metrics(*, exclusive):
    """The scores a report begins with: name -> (rows -> float), headline first.

    With several labels AUC leads, since accuracy flatters a model that says nothing.
    """

    rates = {
        'accuracy': functools.partial(accuracy, exclusive=exclusive),
        'balanced_accuracy': functools.partial(balanced_accuracy, exclusive=exclusive),
    }
    ranks = {
        'auc': macro(auc, exclusive=exclusive),
        'average_precision': macro(average_precision, exclusive=exclusive),
    }
    return {
        **(rates if exclusive else ranks),
        'precision': macro(precision, exclusive=exclusive),
        'recall': macro(recall, exclusive=exclusive),
        'f1': macro(f1, exclusive=exclusive),
        'f1_weighted': weighted(f1, exclusive=exclusive),
        **(ranks if exclusive else rates),
    }


def threshold_for_sensitivity(rows, k, *, sensitivity):
    """The highest threshold that still finds this share of the images with class k.

    Choose it on validation rows: on the rows it was chosen on, it promises too much.

    Returns:
        A probability of one of the rows; the class is called from it on. NaN without
        any image with the class.
    """
    ((score, truth),) = _columns(rows, [k])
    found = np.sort(score[truth])[::-1]
    if not len(found) or np.isnan(score).any():
        return float('nan')
    wanted = math.ceil(sensitivity * len(found) - 1e-9)  # 0.95 * 20 isn't quite 19
    return float(found[max(wanted, 1) - 1])


def threshold_youden(rows, k):
    """The threshold with the largest sensitivity + specificity for class k.

    The lowest of several, which misses least. NaN unless there are images of both
    kinds. Choose it on validation rows.

    Source: Youden 1950, Cancer 3:32.
    """
    false_rates, sensitivities, thresholds = roc_curve(rows, k)
    if not len(thresholds):
        return float('nan')
    gains = np.round(sensitivities - false_rates, 12)  # equal is equal
    best = len(gains) - 1 - np.argmax(gains[::-1])
    return float(thresholds[best])


def prevalence(targets):
    """Share of the images with each class, where it is known: [N, K] -> [K].

    0 for a class that is known of no image.
    """
    targets = np.asarray(targets, float)
    known = ~np.isnan(targets)
    return np.nansum(targets, axis=0) / np.maximum(known.sum(axis=0), 1)


def majority(shares):
    """Makes the baseline that gives every image the shares of the training classes.

    Its answer is the largest class (each label carried by over half of the images), its
    AUC is 0.5, and it is calibrated wherever classes are as frequent as in training.

    Args:
        shares: [K], of `prevalence` of the training targets.

    Returns:
        (raw batch) -> [B, K] float32.
    """
    shares = np.asarray(shares, np.float32)
    return lambda batch: np.tile(shares, (len(batch['inputs']), 1))


def always_negative(num_classes):
    """Makes the baseline that finds nothing in any image: raw batch -> zeros [B, K]."""
    return majority(np.zeros(num_classes))
