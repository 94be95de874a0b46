"""What the report of spine health says beyond its metrics: of whom, and how sure."""

import math
from collections import Counter

import numpy as np

from jaxmed import metrics
from jaxmed.classification import figures
from jaxmed.classification.intervals import number_of, undefined
from jaxmed.metrics import RED_FLAG
from jaxmed.report import Section, Table
from jaxmed.tasks.spine_agreement import predicted_and_true
from jaxmed.tasks.spine_cells import (
    BOOTSTRAP,
    KINDS,
    THIRDS,
    WILSON,
    count_people,
    measure,
    only,
    people_of,
    range_of,
    row_of,
    share_cell,
    sizes_of,
    thirds,
    why_undefined,
)
from jaxmed.tasks.spine_sureness import how_sure

ROWS_SHOWN = 20  # of a table
FEW_PEOPLE = 10  # fewer: their interval means little
# What counts of data.movements mean, in the order in which they are shown.
COUNTS = {
    'frames': 'Frames read',
    'frames_nobody': 'Frames with nobody',
    'frames_several_people': 'Frames with several people',
    'frames_jumped': 'Frames with somebody else',
    'frames_dropped': 'Frames missing by their time stamps',
    'frames_undecodable': 'Frames that are damaged',
    'frames_trimmed': 'Frames cut off at the ends, with nobody',
    'frames_after': 'Frames after resampling',
    'time_stamps_mended': 'Time stamps mended',
    'joints_inferred_share': 'Joints that the sensor only inferred',
    'joints_dropped_share': 'Joints dropped: hardly visible',
    'joints_jumped_share': 'Joints dropped: they jump',
    'gaps_filled_share': 'Joints interpolated',
    'joints_unknown_share': 'Joints still unknown after cleaning',
}


def sections(
    cases, *, valid_cases, probe_cases, found, changed, external, calibrations, picture,
    resamples,
):
    """Everything a report says of spine health beyond its table of metrics.

    Args:
        cases: rows of the measured split, [N] each: 'index' and 'truth' in [0, 1]
            (truth NaN where unknown), 'spread' (0 where unknown), 'seen', 'exercise'
            and 'group' (texts, perhaps ''), 'case_id', 'patient_id'; where each run
            predicted cases of its own 'fold', the number of its calibration.
        found: what launch.prepare counted, {} if nothing: data.movements.read, and
            'shared_patients', people on both sides of the split.
        calibrations: tasks.spine_intervals.calibrate of each run, {} where there is
            none.
        valid_cases, probe_cases, changed, external, picture: of other tasks.
        resamples: of every bootstrap over people.

    Returns:
        list of report.Section.
    """
    del valid_cases, probe_cases, changed, external, picture
    cases = {name: np.asarray(column) for name, column in cases.items()}
    known = np.isfinite(cases['truth'].astype(float))
    rows = {name: column[known] for name, column in cases.items()}
    options = dict(resamples=resamples, seed=0)
    return [
        predicted_and_true(rows, options),
        _by_kind(rows, options),
        _red_flag(rows, options),
        how_sure(rows, calibrations, options),
        _quality(rows, found, options),
        _trust(cases, rows, found, calibrations, options),
    ]


def _by_kind(rows, options):
    tables = [_tabulate('By exercise', 'Exercise', rows, rows['exercise'], options)]
    if np.any(rows['group'] != ''):
        tables.append(_tabulate('By group', 'Group', rows, rows['group'], options))
    patients, of = np.unique(rows['patient_id'], return_inverse=True)
    counts = np.bincount(of)
    averaged = {
        name: np.bincount(of, rows[name].astype(float)) / counts
        for name in ('index', 'truth', 'spread')} | {'patient_id': patients}
    each = f'{len(of) / len(patients):.3g} cases each, on average' if len(of) else ''
    tables.append(Table('By person', ['', *KINDS], [
        row_of({'value': 'Mean over cases', 'reason': each}, averaged, options)],
        "Predicted and true index are averaged over a person's cases."))
    text = (
        f'Bias is predicted minus true. {BOOTSTRAP} Of fewer than {FEW_PEOPLE} people '
        'they are too narrow and mean little. To tell people apart within an exercise '
        '(Spearman) is harder than to tell apart exercises that are rated differently.')
    return Section('By exercise, group and person', text, tables)


def _tabulate(title, heading, rows, column, options):
    names = sorted(Counter(column.tolist()).items(), key=lambda pair: -pair[1])
    chosen = sorted(
        (name for name, _ in names[:ROWS_SHOWN]), key=lambda name: (not name, name))
    more = len(names) - len(chosen)
    return Table(
        title, [heading, *KINDS], [
            row_of(name or 'none given', only(rows, column == name), options)
            for name in chosen] or [row_of('none', rows, options)],
        f'{more:,} with fewer cases not shown.' if more else '')


def _red_flag(rows, options):
    index, truth = rows['index'].astype(float), rows['truth'].astype(float)
    flagged, raised = truth > RED_FLAG, index > RED_FLAG
    people = rows['patient_id']
    title, count = 'Red flag', int(flagged.sum())
    if not len(truth) or np.isnan(index).any():
        return Section(title, f'Nothing is counted: {why_undefined(rows)}.')
    shares = [
        [{'value': name, 'reason': meaning},
         share_cell(right, chosen, people, options, why=why),
         f'{int(right[chosen].sum()):,} of {int(chosen.sum()):,}']
        for name, meaning, chosen, right, why in (
            ('Sensitivity', 'of true red flags, those raised', flagged, raised,
             'no true red flag'),
            ('Specificity', 'of all others, those not raised', ~flagged, ~raised,
             'only true red flags'),
            ('PPV', 'of raised flags, those that are true', raised, flagged,
             'no flag is raised'),
            ('NPV', 'of all others, those without a true one', ~raised, ~flagged,
             'a flag is raised everywhere'),
            ('Prevalence', 'of all, true red flags', truth >= 0, flagged, ''),
        )]
    (area,) = measure(rows, metrics.flag_auc, options)
    one_kind = '' if 0 < count < len(truth) else (
        'only true red flags' if count else 'no true red flag')
    if one_kind:
        area = undefined(one_kind)
    shares.append([
        {'value': 'AUC', 'reason': 'by any threshold of the predicted index'}, area,
        None])
    text = (
        f'An index over {RED_FLAG:g} is a red flag: see a professional (paper 000, '
        f'section IV). It is true of {count:,} of {sizes_of(rows)}.')
    if one_kind:
        text += f' What it takes both kinds for is not defined: {one_kind}.'
    scored = {'probability': index[:, None], 'targets': flagged[:, None].astype(float)}
    # Over, not from: the next greater number is the first that raises it.
    curve = figures.roc(scored, 0, 'Red flag', points=[np.nextafter(RED_FLAG, 1)])
    return Section(title, text, tables=[
        Table('Counts', ['Cases', 'True red flag', 'None'], [
            ['Raised', int((raised & flagged).sum()), int((raised & ~flagged).sum())],
            ['Not raised', int((~raised & flagged).sum()),
             int((~raised & ~flagged).sum())]]),
        Table('Rates', ['', 'Value', 'Cases'], shares,
              f'PPV and NPV hold where red flags are as frequent as here. {WILSON} One '
              'without width says that no error was seen, not that none will be.'),
    ], figures=[] if curve is None else [curve._replace(
        caption=curve.caption.replace('images', 'cases')
        + f' Dot: an index over {RED_FLAG:g}; dashed: a coin.')])


def _quality(rows, found, options):
    seen, tables, text = rows['seen'].astype(float), [], ''
    member = thirds(seen)
    if member is not None:
        lines = []
        for number, name in enumerate(THIRDS):
            part = only(rows, member == number)
            if len(part['truth']):
                lines.append(row_of(
                    {'value': name, 'reason': range_of(part['seen'])}, part, options))
        tables.append(Table(
            'By share of joints that are known', ['Share', *KINDS], lines,
            f'Of all joints in all frames, after cleaning. {BOOTSTRAP}'))
    elif len(seen):
        text = (
            f'The share of joints that are known is {seen[0]:.3f} everywhere.')
    counts = found.get('counts') or {}
    if counts:
        tables.append(Table(
            'What reading and cleaning met', ['', 'Value', 'Of all frames'],
            [[_name_of(name), *_amount(name, counts)] for name in (
                *(name for name in COUNTS if name in counts),
                *(name for name in counts if name not in (*COUNTS, 'frames_before')))],
            'Of all splits together. Joints: a mean over recordings.'))
    if 'recordings' not in found:
        text += (
            '\n\nThe records do not tell of recordings that were left out or could '
            'not be read.')
        return Section('Quality of the input', text.strip(), tables)
    failed, unrated = found.get('unprocessable', {}), found.get('unrated', 0)
    text += (
        f'\n\nUsed are {number_of(found["recordings"], "recording")}, by '
        f'{people_of(found["subjects"])} with a rating, of all splits together; left '
        f'out are {unrated:,} without a rating, {len(failed):,} cases that gave '
        f'nothing to judge, and {found.get("windows_left_out", 0):,} windows in which '
        'hips and shoulders are visible too seldom. Nothing here says how the model '
        'would have done on these.')
    if failed:
        more = len(failed) - ROWS_SHOWN
        tables.append(Table(
            'Left out', ['Case', 'Reason'],
            [list(pair) for pair in sorted(failed.items())[:ROWS_SHOWN]],
            f'{more:,} more not shown.' if more > 0 else ''))
    return Section('Quality of the input', text.strip(), tables)


def _name_of(name):
    return COUNTS.get(name, name.replace('_', ' ').capitalize())


def _amount(name, counts):
    """Cells of a count, and of what it is of all frames that were read."""
    value = counts[name]
    if name.endswith('share'):
        return f'{value:.2%}', None
    shown = f'{value:,}' if isinstance(value, int) else value
    if name == 'frames_after' or not name.startswith('frames_') or (
            not counts.get('frames')):
        return shown, None
    return shown, f'{value / counts["frames"]:.2%}'


def _trust(cases, rows, found, calibrations, options):
    people = count_people(rows)
    unknown = len(cases['truth']) - len(rows['truth'])
    lines = [
        ['People measured', people, 'few: intervals of so few are too narrow'
         if people < FEW_PEOPLE else ''],
        ['Cases measured', len(rows['truth']),
         f'{unknown:,} more have no rating and count nowhere' if unknown else ''],
    ]
    mae, rank = measure(rows, lambda columns: np.array([
        metrics.mae(columns), metrics.spearman(columns)]), options)
    for name, cell in (('MAE', mae), ('Spearman', rank)):
        width = cell['high'] - cell['low']
        lines.append([
            f'Width of the interval of {name}',
            undefined(cell['reason']) if math.isnan(width) else width,
            'as much may change with other people'])
    shared = found.get('shared_patients')
    lines.append(['People on both sides of the split', 'not known' if shared is None
                  else shared, {None: 'measured on records of others', 0: ''}.get(
                      shared, 'the model has seen them: its numbers flatter')])
    widths = [values for values in calibrations if values.get('width') is not None]
    lines.append([
        'People behind the intervals of single predictions',
        ', '.join(f'{values["people"]:,}' for values in widths) or 'none',
        'those of the validation split'])
    text = (
        f'The numbers are of {sizes_of(rows)}, and their intervals tell what other '
        'such people would change; other cameras, rooms, exercises or raters are not '
        'in them.' + (
            f' {people_of(shared)} measured here {"is" if shared == 1 else "are"} '
            'also among those the model was fitted to or chosen by: read nothing here '
            'as of unseen people.' if shared else '') +
        '\n\nThe truth is a rating that a volunteer or a clinician gave. Others, or '
        'the same one on another day, would give another, and a model learns what '
        'they overlook. Of drawn people it is what they were drawn with. The index is '
        f'no diagnosis, and one of {RED_FLAG:g} or less does not rule anything out.'
        '\n\nIn the table of differences, look first whether the model is better than '
        'the mean per exercise, ridge regression and gradient boosting, which see '
        'only summaries of the movement, and whether the intervals leave room for '
        'doubt. Where a split at random stands there, the same people are on both '
        'sides of it: the better it looks, the more such a split flatters, and it '
        'says nothing of people the model has not seen. The value on train is no '
        'measure either.')
    return Section('How far to trust it', text, [
        Table('', ['What', 'Value', 'What it means'], lines)])
