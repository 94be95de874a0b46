"""Scores, thresholds and calibration of fractures: of scans and of their patches.

Rows of a split, N scans of K patches at most:
  probability, targets              [N, 1]; a target is 0, 1 or NaN where unknown
  patch_probability, patch_targets  [N, K]; NaN targets are unknown or fillers
  patch_mask                        [N, K]; 1 for a patch, 0 for a filler
  patient_id                        [N] str
"""

import math

import numpy as np

from jaxmed.classification import calibration, platt, scores

PAPER_SPECIFICITY = 0.951  # paper 001, abstract and Table 1; its sensitivity is 0.822
FALSE_PATCHES = tuple(2.0 ** power for power in range(-3, 4))  # a scan; as in LUNA16
# Where patches are called: half a false one a scan is what a reader puts up with.
CALLED_FALSE_PATCHES = 0.5
# Of each kind, before patches get a scaling of their own.
FEWEST_PATCHES = 20
UNSCALED = {'scale': 1.0, 'offset': 0.0}


def auc(rows):
    """Chance that a scan with a fracture is given more than one without (ROC AUC)."""
    return float(scores.auc(_scans(rows), exclusive=False)[0])


def average_precision(rows):
    """Precision averaged over recalls; chance: the share of scans with a fracture."""
    return float(scores.average_precision(_scans(rows), exclusive=False)[0])


def patch_auc(rows):
    """ROC AUC of all patches whose label is known, those of all scans together."""
    return float(scores.auc(flatten_patches(rows), exclusive=False)[0])


def froc_sensitivity(rows):
    """Share of fractured patches found at 1/8, 1/4 .. 8 false ones a scan, the mean."""
    return float(np.mean(froc_sensitivities(rows)))


def brier(rows):
    """Mean squared distance of a scan's probability from the truth; lower is better."""
    return calibration.brier(_scans(rows), exclusive=False)


METRICS = {
    'auc': auc, 'average_precision': average_precision, 'patch_auc': patch_auc,
    'patch_sensitivity': froc_sensitivity, 'brier': brier,
}


def _scans(rows):
    return {name: rows[name] for name in ('probability', 'targets')}


def known_patches(rows):
    """[N, K] bool: patches, not fillers, whose label is known."""
    return (np.asarray(rows['patch_mask']) > 0) & ~np.isnan(rows['patch_targets'])


def flatten_patches(rows):
    """The known patches, one below the other: 'probability' and 'targets', [P, 1]."""
    known = known_patches(rows)
    return {
        'probability': np.asarray(rows['patch_probability'])[known][:, None],
        'targets': np.asarray(rows['patch_targets'])[known][:, None],
    }


def froc(rows):
    """The free-response curve of patches (FROC), highest threshold first.

    Of scans with a known patch only. A fractured vertebra in the overlap of two patches
    counts twice, as it is cut twice.

    Returns:
        (false positive patches a scan, share of fractured patches found, thresholds),
        each [P + 1]; the first threshold is infinite. Empty unless there are fractured
        and sound patches.

    Source: Bunch et al. 1978, Journal of Applied Photographic Engineering 4:166.
    """
    patches = flatten_patches(rows)
    false_rates, sensitivities, thresholds = scores.roc_curve(patches, 0)
    sound = np.sum(patches['targets'] == 0)
    scans = max(int(known_patches(rows).any(axis=1).sum()), 1)
    return false_rates * sound / scans, sensitivities, thresholds


def froc_sensitivities(rows, false_patches=FALSE_PATCHES):
    """The most that is found with at most so many false patches a scan: [R] -> [R].

    Steps, not interpolated: what a threshold reaches. NaN where `froc` is empty.
    """
    false_a_scan, sensitivities, _ = froc(rows)
    if not len(sensitivities):
        return np.full(len(false_patches), np.nan)
    return sensitivities[last_below(false_a_scan, false_patches)]


def last_below(values, limits):
    """Places of the last of rising values that are at most these limits."""
    return np.searchsorted(values, np.asarray(limits) + 1e-9, 'right') - 1


def choose_thresholds(
    cases, *, sensitivity=0.90, specificity=PAPER_SPECIFICITY,
    false_patches=CALLED_FALSE_PATCHES,
):
    """Probabilities from which on a scan, or a patch, is called fractured.

    For rows of the tuning split: on the rows they were chosen on they promise too much.
    A threshold lies halfway between the last probability that is called and the next
    one, so that the last digit of neither matters.

    Args:
        cases: rows.
        sensitivity: 'sensitivity' finds at least this share of the scans with a
            fracture, with as few false calls as that takes, and then as many more as
            cost none.
        specificity: 'specificity' leaves alone at least this share of the scans
            without, finds as much as that allows, and then leaves alone as many more
            as cost none.
        false_patches: 'patch' does the same for patches with at most so many false
            ones a scan.

    Returns:
        A dict that JSON can hold: 'youden' (largest sensitivity + specificity; the
        lowest of several), 'specificity', 'sensitivity' and 'patch', each a float, or
        None where there is none; 'reason' and 'patch_reason' say why, else ''; 'aims'
        {'sensitivity', 'specificity', 'patch'}; 'scans' whose truth is known.
    """
    rows = _scans(cases)
    reason = missing_kind(rows, 'scan')
    chosen = dict.fromkeys(('youden', 'specificity', 'sensitivity', 'patch'))
    if not reason:
        false_rates, found, thresholds = scores.roc_curve(rows, 0)
        gains = np.round(found - false_rates, 12)  # equal is equal
        places = {
            'youden': len(gains) - 1 - int(np.argmax(gains[::-1])),
            'specificity': _cheapest(found, last_below(false_rates, 1 - specificity)),
            'sensitivity': last_below(
                false_rates, false_rates[np.searchsorted(found, sensitivity - 1e-9)]),
        }
        chosen |= {name: _between(thresholds, i) for name, i in places.items()}
    patch_reason = missing_kind(flatten_patches(cases), 'patch')
    if not patch_reason:
        false_a_scan, found, thresholds = froc(cases)
        chosen['patch'] = _between(
            thresholds, _cheapest(found, last_below(false_a_scan, false_patches)))
    return chosen | {
        'reason': reason, 'patch_reason': patch_reason, 'aims': {
            'sensitivity': sensitivity, 'specificity': specificity,
            'patch': false_patches},
        'scans': int(np.sum(~np.isnan(np.asarray(cases['targets'], float)))),
    }


def _cheapest(found, place):
    """The highest threshold's place that finds as much as the one at `place`."""
    return int(np.searchsorted(found, found[place]))


def _between(thresholds, place):
    """A threshold that calls what the one at `place` calls, and is near no score."""
    if place == 0:  # nothing is called
        last, following = 1.0, float(thresholds[1])
        if following >= last:  # over every probability
            return math.nextafter(following, math.inf)
    else:
        last = float(thresholds[place])
        following = float(thresholds[place + 1]) if place + 1 < len(thresholds) else 0.0
    middle = (last + following) / 2
    return middle if middle > following else last


def missing_kind(rows, thing):
    """Why no curve can be drawn of rows [P, 1], in words; '' if it can.

    Args:
        rows: 'probability' and 'targets'.
        thing: what a row is, 'scan' or 'patch'.
    """
    truth = np.asarray(rows['targets'], float)
    known = ~np.isnan(truth)
    if not known.any():
        return f'the truth is known of no {thing}'
    for value, kind in ((1, 'with'), (0, 'without')):
        if not (truth[known] == value).any():
            return f'no {thing} {kind} a fracture'
    broken = np.isnan(np.asarray(rows['probability'], float)[known]).any()
    return 'a probability is not a number' if broken else ''


def calibrate(valid_cases, *, by_maximum):
    """What is fitted to the tuning split, for a run's calibration.json.

    Args:
        valid_cases: rows of the tuning split, as the network gives them.
        by_maximum: whether the logit of a scan is the highest of its patches'.

    Returns:
        {'scale', 'offset', 'reason'} of platt.fit_scaling, for the probability of a
        scan; 'patches', the same for those of its patches: the scan's own `by_maximum`,
        else fitted to patches whose label is known, or 1 and 0 with a reason where
        those are few; 'by_maximum';
        'thresholds' of choose_thresholds, for what these make of them; and 'tuning',
        the scans it was fitted to, which `calibrate_together` needs.
    """
    fitted, cases = _fit(valid_cases, by_maximum=by_maximum)
    return fitted | {
        'tuning': {'case_id': [str(name) for name in cases['case_id']]} | {
            name: [_plain(row) for row in np.asarray(cases[name], float)]
            for name in TUNING},
    }


TUNING = ('probability', 'targets', 'patch_probability', 'patch_targets', 'patch_mask')


def _fit(cases, *, by_maximum):
    """(what `calibrate` returns but 'tuning', the rows that it makes of these)."""
    scan = platt.fit_scaling(cases['probability'], cases['targets'])
    known = flatten_patches(cases)
    fewest = min(int(np.sum(known['targets'] == kind)) for kind in (0, 1))
    if by_maximum:
        patches = dict(scan)
    elif fewest < FEWEST_PATCHES:
        patches = UNSCALED | {
            'reason': missing_kind(known, 'patch') or 'the truth is known of too few '
            f'patches, {fewest} of a kind where {FEWEST_PATCHES} are needed'}
    else:
        patches = platt.fit_scaling(known['probability'], known['targets'])
    scaled = cases | {
        name: platt.scale_probabilities(
            cases[name], scale=fitted['scale'], offset=fitted['offset'])
        for name, fitted in (('probability', scan), ('patch_probability', patches))}
    return scan | {
        'patches': patches, 'by_maximum': by_maximum,
        'thresholds': choose_thresholds(scaled)}, scaled


def _plain(row):
    """[K] -> what JSON holds: six digits that count, None for NaN."""
    return [None if math.isnan(value) else float(f'{value:.6g}')
            for value in row.tolist()]


def calibrate_together(calibrations):
    """What is fitted to the averaged probabilities of several runs.

    The mean of runs that are each calibrated is not: it is less sure than it could be.

    Args:
        calibrations: of `calibrate`, of each run; {} where there is none.

    Returns:
        Of `calibrate`, without 'tuning': scale and offset are for the mean of what
        these runs' own make of their logits. None unless all were fitted to the same
        scans and patches.
    """
    parts = [values.get('tuning') for values in calibrations]
    if not all(parts) or any(p['case_id'] != parts[0]['case_id'] for p in parts):
        return None
    rows = [{name: np.array(part[name], float) for name in TUNING} for part in parts]
    # Records of some may have more fillers.
    most = max(r['patch_mask'].shape[1] for r in rows)
    for r in rows:
        for name, filler in (('probability', 0), ('targets', np.nan), ('mask', 0)):
            column = r[f'patch_{name}']
            r[f'patch_{name}'] = np.pad(
                column, [(0, 0), (0, most - column.shape[1])], constant_values=filler)
    if any((r['patch_mask'] != rows[0]['patch_mask']).any() for r in rows):
        return None
    averaged = {name: np.mean([r[name] for r in rows], axis=0) for name in (
        'probability', 'patch_probability')}
    return _fit(rows[0] | averaged, by_maximum=all(
        values.get('by_maximum', False) for values in calibrations))[0]


def probabilities(outputs, *, scale, offset, patches):
    """Logits of a spine -> calibrated probabilities; traceable.

    Args:
        outputs: {'series': [B], 'patches': [B, K]}.
        scale, offset: of `calibrate`, for scans; 1 and 0 for none.
        patches: {'scale', 'offset'} for patches.
    """
    return {
        'series': platt.scale_logits(outputs['series'], scale=scale, offset=offset),
        'patches': platt.scale_logits(outputs['patches'], **patches),
    }


def rescale(means, *, scale, offset, patches):
    """The same from probabilities {'series', 'patches'}, those of several runs."""
    return {
        'series': platt.rescale(means['series'], scale=scale, offset=offset),
        'patches': platt.rescale(means['patches'], **patches),
    }
