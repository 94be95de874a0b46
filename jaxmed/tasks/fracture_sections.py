"""What the report of vertebral fractures says beyond its metrics (paper 001, 4)."""

import math
from collections import Counter

import numpy as np

from jaxmed.classification import calibration, figures, fractures, platt
from jaxmed.classification.intervals import (
    WILSON,
    area_of,
    number_of,
    rates_of,
    resample,
    sizes_of,
    truth_of,
    undefined,
    worth_of,
)
from jaxmed.report import Figure, Section, Table
from jaxmed.tasks import fracture_groups

# Paper 001, Table 1: AUC, sensitivity, specificity, cases, what the network sees.
# 2,489 are all of its series; it was measured on 346 of them.
PAPER_SENSITIVITY = 0.822
PAPER_TABLE = {
    'Bar et al. 2017': (None, 0.839, 0.938, 3701, '2D'),
    'Tomita et al. 2018': (0.92, 0.88, 0.71, 1432, '2D'),
    'Valentinitsch et al. 2019': (0.88, 0.80, 0.74, 154, '3D'),
    'Nicolaes et al. 2020': (0.95, 0.905, 0.938, 90, '3D'),
    'The paper of this model': (
        0.955, PAPER_SENSITIVITY, fractures.PAPER_SPECIFICITY, 2489, '3D'),
}
RULES = ('youden', 'specificity', 'sensitivity')
REASONS_SHOWN = 20


def sections(
    cases, *, valid_cases, probe_cases, found, changed, external, calibrations, picture,
    resamples,
):
    """Everything a report says of fractures beyond its table of metrics.

    Args:
        cases: rows of the measured split, see classification.fractures; beside its
            columns 'position', 'grade' and 'level' [N, K], 'slice_mm' [N] and
            'case_id'. Probabilities are those a user is given.
        valid_cases: rows of the tuning split, on which thresholds are chosen where
            none are kept with the runs; or None.
        found: what launch.prepare counted, {} if nothing: 'scans'; 'excluded' and
            'unprocessable', case id -> reason; perhaps 'unprocessable_targets', case
            id -> 0, 1 or None.
        external: name of another data set -> rows.
        calibrations: fractures.calibrate of each run, {} where there is none.
        probe_cases, changed, picture: of other tasks.
        resamples: of every bootstrap over patients.

    Returns:
        list of report.Section.
    """
    del probe_cases, changed, picture
    kept = (
        calibrations[0] if len(calibrations) == 1
        else fractures.calibrate_together(calibrations)) or {}
    thresholds, chosen_on = _thresholds(cases, valid_cases, calibrations, kept)
    options = dict(resamples=resamples, seed=0)
    return [
        _operating_points(cases, thresholds, chosen_on, external, options),
        _curves(cases, thresholds),
        _calibration(cases, calibrations, kept, options),
        _patches(cases, thresholds, options),
        fracture_groups.make_section(cases, thresholds, chosen_on=chosen_on),
        _outcomes(cases, thresholds, found),
    ]


def _thresholds(cases, valid_cases, calibrations, kept):
    """(thresholds, a sentence that says where they come from)."""
    if 'thresholds' in kept:  # what prediction judges by is what is measured
        chosen = kept['thresholds']
        tuning = calibrations[0].get('tuning', {}).get('case_id', [])
        text = 'Thresholds are those that prediction uses, chosen on'
    elif valid_cases is not None:
        chosen = fractures.choose_thresholds(valid_cases)
        tuning = valid_cases['case_id']
        text = 'Thresholds are chosen on'
    else:
        why = 'there are no tuning scans to choose one on'
        if len(calibrations) > 1:
            why = 'these runs share no tuning scans to choose one on' if all(
                'tuning' in values for values in calibrations
            ) else 'nothing was fitted to tuning scans with some of these runs'
        return dict.fromkeys((*RULES, 'patch')) | {
            'reason': why, 'patch_reason': why, 'aims': {}, 'scans': 0,
        }, ''
    text += f' {number_of(chosen["scans"], "tuning scan")}'
    shared = np.isin(cases['case_id'], tuning)
    if shared.any():
        text += (f', {"which" if shared.all() else "some of which"} are measured here: '
                 'sensitivity and specificity promise too much.')
    else:
        text += ' and measured on others: aims need not be reached.'
    return _of_tuning(chosen), text


def _of_tuning(chosen):
    """Thresholds whose reasons say where something lacks."""
    return chosen | {
        name: chosen[name] and f'{chosen[name]} in the tuning set'
        for name in ('reason', 'patch_reason')}


def _rule(name, aims):
    return {
        'youden': "Youden's index",
        'specificity': f'Specificity {aims.get("specificity", 0):g}',
        'sensitivity': f'Sensitivity {aims.get("sensitivity", 0):g}',
    }[name]


def _operating_points(cases, thresholds, chosen_on, external, options):
    probability, target = truth_of(cases)
    patients = np.asarray(cases['patient_id'])
    exact = area_of(probability, target, patients, thing='scan')
    (resampled,) = resample(
        {name: cases[name] for name in ('probability', 'targets')}, fractures.auc,
        patients=patients, options=options)
    aims, missing = thresholds['aims'], thresholds['reason']
    points = [[
        {'value': _rule(name, aims) if aims else name.capitalize(),
         'reason': 'chosen on tuning scans'},
        {'value': _number(thresholds[name]), 'reason': missing},
        *rates_of(cases, thresholds, name),
    ] for name in RULES]
    own = fractures.choose_thresholds(cases)
    points.append([
        {'value': "Youden's index", 'reason': 'chosen on these scans: optimistic'},
        {'value': _number(own['youden']), 'reason': own['reason']},
        *rates_of(cases, own, 'youden')])
    text = (
        f'{number_of(len(target), "scan")} of '
        f'{number_of(len(np.unique(patients)), "patient")}; a fracture is there in '
        f'{sizes_of(cases)} whose truth is known. {"" if missing else chosen_on}')
    if exact['reason']:
        text += f'\n\nThe AUC is not defined: {exact["reason"]}.' if math.isnan(
            exact['value']) else f'\n\nThe AUC has {exact["reason"]}.'
    if missing:
        text += (
            f'\n\nNo threshold is chosen: {missing}.' + ' Nor is an AUC defined there.'
            * (thresholds['scans'] > 0))
    tables = [
        Table('', ['AUC of scans', 'DeLong', 'Bootstrap over patients'], [[
            'This model', exact, resampled | {'reason': exact['reason']}]],
            'DeLong\'s interval is symmetric in the logit, so it stays within 0 and 1; '
            'where it has no width (at an AUC of 1, or with equal scores for all) it '
            'is Newcombe\'s.'),
        Table('At a threshold', ['Chosen for', 'Threshold', 'Sensitivity',
                                 'Specificity', 'PPV', 'NPV'], points,
              'PPV and NPV hold where fractures are as frequent as here. ' + WILSON),
        _beside(cases, thresholds, exact),
    ]
    if external:
        elsewhere = [[
            name, sizes_of(rows),
            area_of(*truth_of(rows), np.asarray(rows['patient_id']), thing='scan'),
            *rates_of(rows, thresholds, 'youden')[:2],
        ] for name, rows in external.items()]
        tables.append(Table(
            'Elsewhere',
            ['Data', 'With a fracture', 'AUC', 'Sensitivity', 'Specificity'], elsewhere,
            "At the threshold of Youden's index, chosen on tuning scans."))
    return Section('Operating points', text, tables=tables)


def _number(value):
    return math.nan if value is None else value


def _beside(cases, thresholds, area):
    rates = rates_of(cases, thresholds, 'specificity')
    rows = [[
        {'value': 'This model', 'reason': 'specificity as in the paper, if the tuning '
         'scans were like these'},
        area, *rates[:2], sizes_of(cases).split(' of ')[1], '3D', 'these scans']]
    for name, (auc, sensitivity, specificity, count, kind) in PAPER_TABLE.items():
        auc = {'value': '–', 'reason': 'not given'} if auc is None else auc
        rows.append([
            name, auc, sensitivity, specificity, f'{count:,}', kind, 'its own data'])
    return Table(
        'Beside the literature (Table 1 of paper 001)',
        ['Model', 'AUC', 'Sensitivity', 'Specificity', 'Cases', 'Sees', 'Measured on'],
        rows,
        'Every row is measured on other scans, so the table ranks nothing. The cases '
        'of the last row are all of its series; its values are of 346 held out.')


def _curves(cases, thresholds):
    rows = {name: cases[name] for name in ('probability', 'targets')}
    points = [thresholds[name] for name in RULES if thresholds[name] is not None]
    curve = figures.roc(rows, 0, 'Fracture', points=points)
    drawn = [curve, figures.precision_recall(rows, 0, 'Fracture'),
             figures.probability_histogram(rows, 0, 'Fracture')]
    if curve is not None:
        x, y = figures.locate(1 - fractures.PAPER_SPECIFICITY, PAPER_SENSITIVITY)
        mark = (f'<circle class="other" cx="{x}" cy="{y}" r="5"/>'
                f'<text x="{x + 11}" y="{y + 14}">the paper</text>')
        drawn[0] = curve._replace(
            svg=curve.svg.replace('</svg>', f'{mark}</svg>'),
            caption=curve.caption + ' Dots: the thresholds; ring: the paper, on its '
            'own data.')
    text = 'Every threshold of a scan\'s probability; dashed: a coin.'
    missing = fractures.missing_kind(rows, 'scan')
    if missing:
        text = f'No curve is drawn: {missing}.'
    return Section('Curves', text, figures=[
        _of_scans(figure) for figure in drawn if figure is not None])


def _of_scans(figure):
    return figure._replace(
        alt=figure.alt.replace('images', 'scans'),
        caption=figure.caption.replace('images', 'scans'))


def _calibration(cases, calibrations, kept, options):
    rows = {name: np.asarray(cases[name], float) for name in ('probability', 'targets')}
    versions = {'As given': rows}
    if kept and (kept['scale'], kept['offset']) != (1.0, 0.0):
        versions = {'Before scaling': rows | {'probability': platt.undo(
            rows['probability'], scale=kept['scale'], offset=kept['offset'])},
            'As given': rows}
    scores_of = {
        'Calibration error': calibration.expected_calibration_error,
        'Brier score': calibration.brier, 'Log loss, nats': calibration.log_loss}

    def measure(version):
        with np.errstate(invalid='ignore'):  # of a model that has diverged
            return np.array([
                score(version, exclusive=False) for score in scores_of.values()])

    patients = np.asarray(cases['patient_id'])
    cells = [resample(version, measure, patients=patients, options=options)
             for version in versions.values()]
    unknown = np.isnan(rows['targets']).all()
    why = fractures.missing_kind(rows, 'scan')
    table = [
        [name, *({**cell, 'reason': '' if np.isfinite(cell['value']) else why}
                 for cell in row)]
        for name, row in zip(scores_of, zip(*cells, strict=True), strict=True)]
    chances = [calibration.error_by_chance(version, exclusive=False)
               for version in versions.values()]
    table.insert(1, ['The same of a perfectly calibrated model', *(
        {'value': mean, 'reason': why if math.isnan(mean)
         else f'up to {high:.3f} in 95 of 100 draws'} for mean, high in chances)])
    share = np.nanmean(rows['targets']) if not unknown else math.nan
    table.insert(3, ['Brier score of always giving the share with a fracture', *(
        [{'value': float(share * (1 - share)), 'reason': why if unknown else
          f'{share:.3f} for every scan'}] * len(versions))])
    drawn = [figures.reliability_diagram(version, exclusive=False, title=title)
             for title, version in versions.items()]
    return Section(
        'Calibration',
        'Of the scans given a probability of 0.8, have 8 in 10 a fracture? '
        + _scaling_text(calibrations, kept),
        tables=[Table('', ['Measure', *versions], table, (
            f'Calibration error: mean gap over {calibration.BINS} bins of equally many '
            'scans. Lower is better in every row. 95% intervals over patients. In the '
            'diagrams, dots on the dashed line are calibrated; bars are 95% Wilson '
            'intervals; below, how often each probability is given.' + (
                f' Before scaling: undone from the mean over '
                f'{"views" if len(calibrations) == 1 else "runs and views"}.'
                if len(versions) > 1 else '')))],
        figures=[figure for figure in drawn if figure is not None])


def _scaling_text(calibrations, kept):
    fitted = [values for values in calibrations if values.get('scale') is not None]
    if not fitted:
        return 'The probabilities are not scaled: nothing was fitted to tuning scans.'
    reasons = sorted({values['reason'] for values in fitted if values.get('reason')})
    shown = '; '.join(map(_words, (v for v in fitted if not v.get('reason'))))
    text = shown and (
        f'The network\'s logit is scaled, as fitted to tuning scans: {shown}.')
    if len(fitted) > 1:
        text += ' Each run is scaled by its own values; '
        text += (
            f'the logit of their mean is once more {_words(kept)}.'
            if kept and not kept['reason'] else
            'the mean of calibrated runs is often not sure enough.')
    if reasons:
        text += f' Left as it was, with nothing to fit to: {"; ".join(reasons)}.'
    patches = kept.get('patches', {'reason': 'nothing was fitted to them'})
    if patches['reason']:
        text += (' Probabilities of patches are not calibrated: '
                 f'{patches["reason"]}.')
    elif kept['by_maximum']:
        text += ' Patches are scaled as their scan is.'
    else:
        text += (' Patches have a scaling of their own, fitted to those whose label is '
                 f'known: {_words(patches)}.')
    return text.strip()


def _words(scaling):
    return (f'multiplied by {scaling["scale"]:.2f}, then '
            f'{scaling["offset"]:+.2f}')


def _patches(cases, thresholds, options):
    patients = np.asarray(cases['patient_id'])
    known = fractures.known_patches(cases)
    flat = fractures.flatten_patches(cases)
    missing = fractures.missing_kind(flat, 'patch')
    scans = int(known.any(axis=1).sum())
    text = (
        f'A patch is a piece of the spine as the network sees it. Known are '
        f'{number_of(int(known.sum()), "patch").replace("patchs", "patches")} of '
        f'{number_of(scans, "scan")}, {int(np.sum(flat["targets"] == 1)):,} with a '
        'fracture.')
    if missing:
        return Section('Where in the spine', f'{text} Nothing is measured: {missing}.')
    slim = {name: cases[name] for name in (
        'patch_mask', 'patch_targets', 'patch_probability')}

    def measure(rows):
        found = fractures.froc_sensitivities(rows)
        return np.array([fractures.patch_auc(rows), *found, found.mean()])

    area, *cells, mean = resample(slim, measure, patients=patients, options=options)
    exact = area_of(
        flat['probability'][:, 0], flat['targets'][:, 0],
        np.repeat(patients, known.sum(axis=1)), thing='patch')
    false_a_scan, _, levels = fractures.froc(cases)
    lowest = levels[fractures.last_below(false_a_scan, fractures.FALSE_PATCHES)]
    return Section(
        'Where in the spine', text,
        tables=[
            Table('', ['AUC of patches', 'Bootstrap over patients', 'DeLong'], [
                ['This model', area, exact]]),
            Table('Fractured patches found', [
                'False patches a scan', 'Sensitivity', 'Called from'], [
                    *([_fraction(rate), cell, threshold] for rate, cell, threshold in
                      zip(fractures.FALSE_PATCHES, cells, lowest, strict=True)),
                    ['Mean of these', mean, None]],
                  'The most that a threshold finds with at most so many false positive '
                  'patches a scan, over scans with known patches. A vertebra in the '
                  'overlap of two patches counts in both. 95% intervals over patients; '
                  'one of no width says that no error was seen, not that none will '
                  'be.'),
        ],
        figures=[_draw_froc(cases, thresholds['patch'])])


def _fraction(rate):
    return f'{rate:g}' if rate >= 1 else f'1/{round(1 / rate)}'


def _draw_froc(cases, threshold):
    """Sensitivity against false patches a scan, which run from 1/8 to 8 by doubling."""
    false_a_scan, found, thresholds = fractures.froc(cases)
    first, last = fractures.FALSE_PATCHES[0], fractures.FALSE_PATCHES[-1]

    def across(rate):
        return np.log2(np.maximum(rate, 1e-9) / first) / np.log2(last / first)

    inside = (false_a_scan > first) & (false_a_scan < last)
    ends = fractures.froc_sensitivities(cases, (first, last))
    columns = figures.thin(
        np.concatenate([[first], false_a_scan[inside], [last]]),
        np.concatenate([ends[:1], found[inside], ends[1:]]))
    marks = [figures.line(across(columns[0]), columns[1], 'curve curve-0')]
    caption = 'Sensitivity for fractured patches.'
    if threshold is not None:
        place = np.searchsorted(-thresholds, -threshold, 'right') - 1
        if first <= false_a_scan[place] <= last:
            marks.append('<circle class="dot" cx="{}" cy="{}" r="5"/>'.format(
                *figures.locate(across(false_a_scan[place]), found[place])))
        caption += (
            f' Patches are called from {threshold:.3f} on: {found[place]:.3f} found, '
            f'{false_a_scan[place]:.2f} false a scan'
            f'{" (dot)" if len(marks) > 1 else ""}.')
    return Figure(
        alt='FROC curve of patches: ' + ', '.join(
            f'{value:.3f} at {_fraction(rate)}' for rate, value in zip(
                fractures.FALSE_PATCHES, fractures.froc_sensitivities(cases))),
        caption=caption,
        svg=figures.panel(marks, 'False positive patches a scan', 'Sensitivity',
                          x_ticks={float(across(rate)): _fraction(rate)
                                   for rate in fractures.FALSE_PATCHES}),
        numbers={'false_patches_a_scan': columns[0], 'sensitivity': columns[1]})


def _outcomes(cases, thresholds, found):
    count = len(cases['case_id'])
    shared = found.get('shared_patients', 0)
    text = (
        f'{number_of(shared, "patient")} of this set {"is" if shared == 1 else "are"} '
        'also among those the model was fitted to or chosen by.\n\n' if shared else '')
    if 'scans' not in found:
        return Section('Outcomes', (
            f'{text}{number_of(count, "scan")} measured. The records do not tell of '
            'scans that were left out or could not be read.'))
    excluded, failed = found.get('excluded', {}), found.get('unprocessable', {})
    processed = found['scans'] - len(excluded) - len(failed)
    rows = [
        ['Handed in', f'{found["scans"]:,}', None],
        ['Processed', f'{processed:,}', _percent(processed, found['scans'])],
        ['Left out: no scan for this task, or its labels misfit', f'{len(excluded):,}',
         _percent(len(excluded), found['scans'])],
        ['Unprocessable', f'{len(failed):,}', _percent(len(failed), found['scans'])],
    ]
    why = [
        [{'value': reason, 'reason': kind}, f'{number:,}']
        for kind, reasons in (('left out', excluded), ('unprocessable', failed))
        for reason, number in Counter(reasons.values()).most_common()]
    tables = [Table(
        '', ['Outcome', 'Scans', 'Of those handed in'], rows,
        f'Of all splits together; {count:,} of the processed ones are measured here.')]
    if why:
        more = len(why) - REASONS_SHOWN
        tables.append(Table(
            'Why', ['Reason', 'Scans'], why[:REASONS_SHOWN],
            f'{number_of(more, "further reason")} not shown.' if more > 0 else ''))
    if failed:
        tables.append(_counting_failures(cases, thresholds, found, processed))
    return Section('Outcomes', (
        f'{text}A scan the model gives no answer for is an outcome too: nobody is '
        'warned of its fracture.'), tables=tables)


def _percent(part, whole):
    return f'{part / whole:.1%}' if whole else None


def _counting_failures(cases, thresholds, found, processed):
    """Sensitivity and specificity if 'unprocessable' is an answer like 'not found'."""
    truths = found.get('unprocessable_targets', {})
    kinds = Counter(truths.get(case) for case in found['unprocessable'])
    # They are in no split; of each, this one's share is taken.
    share = min(1.0, len(cases['case_id']) / max(processed, 1))
    rows = []
    for name in RULES:
        sensitivity, specificity, *_ = rates_of(cases, thresholds, name)
        rows.append([
            _rule(name, thresholds['aims']) if thresholds['aims']
            else name.capitalize(),
            sensitivity, _with_failures(cases, sensitivity, 1, share * kinds[1], 0),
            specificity, _with_failures(cases, specificity, 0, share * kinds[0], 1),
            _with_failures(cases, specificity, 0, share * kinds[0], 0)])
    unknown = len(found['unprocessable']) - kinds[0] - kinds[1]
    return Table(
        'If unprocessable means not found', [
            'Chosen for', 'Sensitivity, processed scans',
            'Sensitivity with unprocessable', 'Specificity, processed scans',
            'Specificity, unprocessable right', 'Specificity, unprocessable wrong'],
        rows,
        f'Of the unprocessable scans {kinds[1]:,} have a fracture, {kinds[0]:,} have '
        f'none and of {unknown:,} it is unknown; the latter do not count. They belong '
        f'to no split: {share:.1%} of them are added, as many as of the processed ones '
        'are measured here. Not to find anything in a scan without a fracture is right '
        'by this rule, and a reader has the work all the same: hence both columns. '
        + WILSON)


def _with_failures(cases, cell, kind, failures, right):
    """A share of the scans of a kind with `failures` more, all right (1) or wrong."""
    if not np.isfinite(cell['value']):
        return cell
    if not failures:
        return undefined('the truth is known of none of this kind')
    _, target = truth_of(cases)
    chosen = target == kind
    count = int(chosen.sum())
    share = (cell['value'] * count + right * failures) / (count + failures)
    worth = worth_of(np.asarray(cases['patient_id'])[chosen]) + failures
    low, high = calibration.wilson_interval(share * worth, worth)
    return {'value': float(share), 'low': float(low), 'high': float(high)}
