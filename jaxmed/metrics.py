"""Numbers over a whole split, from one row per case, and how sure they are.

A metric takes rows (NumPy columns [N]) and returns a float. One value per case is
averaged, never pooled pixels: each patient weighs alike. With nothing to average the
answer is NaN, which is not the same as 0, and no warning.

Columns of segmentation rows, each [N]:
  intersection, predicted, actual      pixels
  boundary_precision, boundary_recall  in [0, 1]; NaN where neither mask has an outline
  count_predicted, count_actual        cells; NaN where unknown
"""

import numpy as np
from scipy import stats


def dice(rows):
    """Mean Dice over the images where the class is present or predicted."""
    return _mean(_dice_values(rows))


def dice_median(rows):
    """Median Dice over the images where the class is present or predicted."""
    values = _dice_values(rows)
    return float(np.median(values)) if len(values) else float('nan')


def dice_worst(rows):
    """The lowest Dice of an image where the class is present or predicted."""
    values = _dice_values(rows)
    return float(np.min(values)) if len(values) else float('nan')


def iou(rows):
    """Mean intersection over union; the images that Dice averages."""
    union = rows['predicted'] + rows['actual'] - rows['intersection']
    return _mean(_ratio(rows['intersection'], union))


def precision(rows):
    """Mean share of the predicted pixels that are right, where any are predicted."""
    return _mean(_ratio(rows['intersection'], rows['predicted']))


def recall(rows):
    """Mean share of the actual pixels that are found, where there are any."""
    return _mean(_ratio(rows['intersection'], rows['actual']))


def boundary_f1(rows):
    """Mean F1 of outlines; an image in which just one side has an outline gives 0."""
    hit, found = rows['boundary_precision'], rows['boundary_recall']
    known = ~(np.isnan(hit) | np.isnan(found))
    hit, found = hit[known], found[known]
    total = hit + found
    return _mean(2 * hit * found / np.where(total > 0, total, 1))


def count_error(rows):
    """Mean absolute difference of cell counts, in cells per image."""
    return _mean(np.abs(_count_differences(rows)))


def count_bias(rows):
    """Mean of predicted minus actual cell counts: above 0 for too many."""
    return _mean(_count_differences(rows))


def bootstrap_interval(rows, metric, *, groups, resamples=1000, seed, level=0.95):
    """Percentile interval of a metric, resampling patients with replacement.

    Images of one patient resemble each other; resampling images would promise more
    than the data hold. Resamples in which the metric is undefined (NaN: no positive
    drawn, say) are left out. Deterministic in `seed`.

    Args:
        rows: columns, each [N, ...].
        metric: rows -> float, or [M] for M values of the same resamples at once.
        groups: [N], the patient of each row; N patients = len(np.unique(groups)).
        resamples: how many times to draw as many patients as there are.
        level: share of the resampled values between the two bounds.

    Returns:
        (low, high), floats or [M]; NaN where over half of the resamples are undefined.
        With fewer than two patients, who say nothing about the next one, two NaN.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """
    return percentile_interval(
        resample(rows, metric, groups=groups, resamples=resamples, seed=seed),
        level=level)


def resample(rows, metric, *, groups, resamples, seed):
    """A metric of patients drawn with replacement, as bootstrap_interval has it.

    The same seed draws the same of as many patients, whatever the rows say of them: of
    two results on the same cases, values minus values are those of paired differences.

    Returns:
        [resamples] or [resamples, M]; NaN where undefined. With fewer than two
        patients there is nothing to draw: [0].
    """
    groups = np.asarray(groups)
    patients, member = np.unique(groups, return_inverse=True)
    if len(patients) < 2:
        return np.zeros(0)
    by_patient = np.argsort(member, kind='stable')  # rows, patient after patient
    sizes = np.bincount(member)
    firsts = np.cumsum(sizes) - sizes
    drawn = np.random.default_rng(seed).integers(
        len(patients), size=(resamples, len(patients)))

    values = []
    for chosen in drawn:
        lengths = sizes[chosen]
        # Runs firsts[i], firsts[i] + 1, ... laid end to end, without a loop.
        shift = firsts[chosen] - (np.cumsum(lengths) - lengths)
        picked = by_patient[np.repeat(shift, lengths) + np.arange(lengths.sum())]
        # np.take: eight times as fast as column[picked] where there are many columns.
        values.append(metric({
            name: np.take(column, picked, axis=0) for name, column in rows.items()}))
    return np.array(values, float)


def percentile_interval(values, *, level=0.95):
    """Bounds of resampled values, [resamples] or [resamples, M], of `resample`.

    Returns:
        (low, high), floats or [M]; NaN where over half are undefined, or none drawn.
    """
    bounds = np.full((2, *values.shape[1:]), np.nan)
    enough = (~np.isnan(values)).sum(axis=0) * 2 >= max(len(values), 1)
    bounds[:, enough] = np.nanquantile(
        values[:, enough], [(1 - level) / 2, (1 + level) / 2], axis=0)
    return tuple(map(_unwrap, bounds))


def _unwrap(values):
    return values if np.ndim(values) else float(values)


def _mean(values):
    return float(np.mean(values)) if len(values) else float('nan')


def _ratio(part, whole):
    """part / whole where there is a whole; the other images are left out."""
    return part[whole > 0] / whole[whole > 0]


def _dice_values(rows):
    return _ratio(2.0 * rows['intersection'], rows['predicted'] + rows['actual'])


def _count_differences(rows):
    difference = np.asarray(rows['count_predicted'], float) - rows['count_actual']
    return difference[~np.isnan(difference)]


# Of regression: rows have 'index', what is predicted, and 'truth', both in [0, 1], [N];
# a row whose truth is NaN counts nowhere.

def mae(rows):
    """Mean absolute error of the index."""
    return _mean(np.abs(_errors(rows)))


def rmse(rows):
    """Root of the mean squared error of the index."""
    return float(np.sqrt(_mean(_errors(rows) ** 2)))


def spearman(rows):
    """Rank correlation of predicted and true index; NaN where one is constant."""
    index, truth = _known(rows)
    if len(index) < 2 or np.ptp(index) == 0 or np.ptp(truth) == 0:
        return float('nan')
    ranks = stats.rankdata(index), stats.rankdata(truth)
    return float(np.corrcoef(*ranks)[0, 1])


def r2(rows):
    """Share of the true index's variance explained; below 0: worse than its mean."""
    truth = _known(rows)[1]
    spread = np.sum((truth - truth.mean()) ** 2) if len(truth) else 0.0
    return float(1 - np.sum(_errors(rows) ** 2) / spread) if spread else float('nan')


def within_005(rows):
    """Share of the predictions at most 0.05 off."""
    return _mean(np.abs(_errors(rows)) <= 0.05 + 1e-9)


def within_010(rows):
    """Share of the predictions at most 0.1 off."""
    return _mean(np.abs(_errors(rows)) <= 0.1 + 1e-9)


RED_FLAG = 0.5  # paper 000, section IV: above it, see a professional


def flag_auc(rows):
    """How well the index tells those whose true index is over 0.5: area under ROC."""
    index, truth = _known(rows)
    flagged = truth > RED_FLAG
    count = int(flagged.sum())
    if not 0 < count < len(flagged):
        return float('nan')
    ranks = stats.rankdata(index)[flagged].sum()
    return float((ranks - count * (count + 1) / 2) / (count * (len(flagged) - count)))


def flag_sensitivity(rows):
    """Share of the true red flags (true index over 0.5) that are raised."""
    index, truth = _known(rows)
    return _mean(index[truth > RED_FLAG] > RED_FLAG)


def flag_specificity(rows):
    """Share of those without a true red flag for whom none is raised."""
    index, truth = _known(rows)
    return _mean(index[truth <= RED_FLAG] <= RED_FLAG)


def _known(rows):
    index, truth = np.asarray(rows['index'], float), np.asarray(rows['truth'], float)
    known = ~np.isnan(truth)
    return index[known], truth[known]


def _errors(rows):
    index, truth = _known(rows)
    return index - truth
