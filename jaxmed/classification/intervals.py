"""Values with intervals, as cells of report.Table: shares and areas of few scans.

A cell is {'value', 'low', 'high', ..}; one without a value has a 'reason' in words.
Rows as in `fractures`.
"""

import math

import numpy as np

from jaxmed.classification import calibration, delong, fractures
from jaxmed.metrics import bootstrap_interval

WILSON = (
    '95% intervals of shares are Wilson\'s; where patients have several scans or '
    'patches, as if all of a patient\'s were alike.')


def undefined(reason):
    """A cell without a value."""
    return {'value': math.nan, 'reason': reason}


def number_of(number, thing):
    """3, 'scan' -> '3 scans'."""
    return f'{number:,} {thing}{"s" * (number != 1)}'


def truth_of(cases):
    """(probability, target) of each scan, [N]."""
    return (np.asarray(cases['probability'], float)[:, 0],
            np.asarray(cases['targets'], float)[:, 0])


def sizes_of(cases):
    """Of a table's column: how many scans have a fracture, of how many it is known."""
    _, target = truth_of(cases)
    known = ~np.isnan(target)
    return f'{np.sum(target == 1):,} of {known.sum():,}'


def share_of(hits, patients, reason):
    """Cell of how many of some scans or patches are hits, with Wilson's interval.

    Args:
        hits: bool, one an answer.
        patients: of each answer.
        reason: why there is no value if there is no answer.
    """
    if not len(hits):
        return undefined(reason)
    worth = worth_of(patients)
    share = float(np.mean(hits))
    low, high = calibration.wilson_interval(share * worth, worth)
    return {'value': share, 'low': float(low), 'high': float(high), 'n': len(hits),
            'n_patients': len(np.unique(patients))}


def worth_of(patients):
    """Answers that are worth as much as these if all of a patient's are alike (Kish).

    With one answer a patient, as many as there are.
    """
    _, sizes = np.unique(patients, return_counts=True)
    return float(sizes.sum() ** 2 / np.sum(sizes ** 2)) if len(sizes) else 0.0


def rates_of(cases, thresholds, rule):
    """Cells of sensitivity, specificity, PPV and NPV of scans.

    Args:
        cases: rows.
        thresholds: of fractures.choose_thresholds.
        rule: which of them.
    """
    threshold = thresholds[rule]
    probability, target = truth_of(cases)
    patients = np.asarray(cases['patient_id'])
    if threshold is None:
        return [undefined(f'no threshold: {thresholds["reason"]}')] * 4
    if np.isnan(probability[~np.isnan(target)]).any():
        return [undefined('a probability is not a number')] * 4
    called = probability >= threshold
    cells = []
    for chosen, right, why in (
        (target == 1, called, 'no scan with a fracture'),
        (target == 0, ~called, 'no scan without a fracture'),
        (called & ~np.isnan(target), target == 1, 'no scan is called'),
        (~called & ~np.isnan(target), target == 0, 'every scan is called'),
    ):
        cells.append(share_of(right[chosen], patients[chosen], why))
    return cells


def area_of(probability, targets, patients, *, thing):
    """Cell of an AUC with DeLong's interval.

    Args:
        probability, targets: [n].
        patients: [n], whose each is.
        thing: what each is, 'scan' or 'patch'.
    """
    area = delong.measure_auc(probability, targets, groups=patients)
    reason = fractures.missing_kind(
        {'probability': probability, 'targets': targets}, thing)
    if not reason and math.isnan(area.low):
        reason = 'no interval: one patient only'
    return area._asdict() | {'reason': reason}


def resample(rows, metric, *, patients, options):
    """Cells of the values that `metric` gives of rows, with intervals over patients.

    Args:
        rows: columns, [N, ...].
        metric: rows -> float or [M].
        patients: [N].
        options: 'resamples' and 'seed' of metrics.bootstrap_interval.
    """
    values = np.atleast_1d(metric(rows))
    low, high = np.atleast_2d(*bootstrap_interval(
        rows, metric, groups=patients, **options))
    return [
        {'value': float(value), 'low': float(bottom), 'high': float(top),
         'n_patients': len(np.unique(patients))} | options
        for value, bottom, top in np.broadcast(values, low.ravel(), high.ravel())]
