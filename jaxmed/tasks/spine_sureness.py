"""The report of spine health: how sure predictions are, by interval and by spread."""

import math

import numpy as np
from scipy import stats

from jaxmed import metrics
from jaxmed.classification.intervals import number_of
from jaxmed.metrics import RED_FLAG
from jaxmed.report import Section, Table
from jaxmed.tasks import spine_intervals
from jaxmed.tasks.spine_cells import (
    BOOTSTRAP,
    THIRDS,
    WILSON,
    count_people,
    measure,
    only,
    range_of,
    share_cell,
    thirds,
    why_undefined,
)
from jaxmed.tasks.spine_intervals import bounds


def how_sure(rows, calibrations, options):
    """Section of the intervals that users are given, and of the model's own spread.

    Args:
        rows: of cases with a rating, see tasks.spine_sections.
        calibrations: of each run, see tasks.spine_sections.
        options: of the bootstrap.
    """
    text, tables = '', []
    folded = 'fold' in rows
    # What predicts: each run its own fold, or the mean of all.
    given = calibrations if folded else [spine_intervals.join(calibrations) or {}]
    usable = [values for values in given if values.get('width') is not None]
    if not len(rows['truth']) or np.isnan(rows['index'].astype(float)).any():
        text = f'Nothing is measured: {why_undefined(rows)}.'
        usable = []
    elif not usable:
        text = (
            'Single predictions come without an interval: '
            f'{_why_none(given) or _why_none(calibrations) or _NEVER}.')
    if usable:
        text, table = _coverage(rows, given, usable, len(calibrations), options)
        tables = [table]
    spread = rows['spread'].astype(float)
    if not text.startswith('Nothing') and np.all(spread > 0):
        words, table = _by_spread(rows, spread, options)
        text, tables = f'{text}\n\n{words}', [*tables, table]
    elif not text.startswith('Nothing'):
        text += '\n\nThe model gives no spread of its own: it is equally sure of all.'
    return Section('How sure', text, tables)


_NEVER = 'none was fitted to validation cases'


def _why_none(calibrations):
    return '; '.join(sorted({
        values.get('reason', '') for values in calibrations} - {''}))


def _coverage(rows, given, usable, runs, options):
    """(text, table): how often the truth is within the intervals users are given."""
    fold = rows['fold'] if 'fold' in rows else np.zeros(len(rows['truth']), int)
    ends = np.array([
        bounds(index, spread, given[number] or None)[1:]
        for index, spread, number in zip(rows['index'], rows['spread'], fold)], float)
    has, level = np.isfinite(ends[:, 0]), usable[0]['level']
    rows, (low, high) = only(rows, has), ends[has].T
    truth, lines = rows['truth'].astype(float), []
    inside = (truth >= low - 1e-9) & (truth <= high + 1e-9)
    decided = (low > RED_FLAG) | (high <= RED_FLAG)
    for name, chosen in (
        ('All', truth >= 0), (f'True index over {RED_FLAG:g}', truth > RED_FLAG),
        (f'True index {RED_FLAG:g} or less', truth <= RED_FLAG),
    ):
        part = only(rows, chosen) | {'spread': (high - low)[chosen]}
        (width,) = measure(part, lambda columns: _mean(columns['spread']), options)
        lines.append([
            name, int(chosen.sum()), count_people(part),
            *(share_cell(hits, chosen, rows['patient_id'], options,
                         why='there are none') for hits in (inside, decided)), width])
    text = _words_of_intervals(usable, 'fold' in rows, runs)
    if len(usable) < len(given):
        text += (
            f' {len(given) - len(usable):,} of {len(given):,} folds have none '
            f'({_why_none(given) or _NEVER}): {number_of(int(np.sum(~has)), "case")} '
            'of theirs count nowhere here.')
    text += f' {_words_of_coverage(lines[0][3], level)}' if len(truth) else ''
    return text, Table('Intervals of single predictions', [
        '', 'Cases', 'People', 'Truth within', f'On one side of {RED_FLAG:g}',
        'Mean width'], lines,
        'Such intervals are right on average, not of each kind: see whether they are '
        f'of those with a red flag. On one side of {RED_FLAG:g}: where the interval '
        f'leaves no doubt whether to raise it. {WILSON}')


def _words_of_intervals(usable, folded, runs):
    """What intervals come from, and what single windows have."""
    people, level = min(values['people'] for values in usable), usable[0]['level']
    low, high = _luck(people, level)
    text = (
        f'A prediction comes with an interval that is to hold the truth in {level:.0%} '
        f'of new people, by the errors in {_from_to("cases", usable)} validation cases '
        f'of {_from_to("people", usable)} people. By the luck of which {people:,} '
        f'people these are it may as well hold it in {low:.0%} to {high:.0%}, as if '
        'all of a person\'s cases were alike.')
    if folded:
        text += (
            ' Each fold has its own: a case is measured with that of the fold that '
            'predicted it.')
    elif runs > 1:
        text += f' Of {runs:,} runs, whose mean is predicted, it is the widest one.'
    if any(values['windows'] > values['cases'] for values in usable):
        text += (
            ' A single window of a recording, as shown over time and live, has an '
            f'interval of its own: {_from_to("window_width", usable)} to either side'
            f'{", in spreads" if usable[0]["by_spread"] else ""}, beside '
            f'{_from_to("width", usable)} of a whole recording.')
    return text


def _from_to(name, usable):
    """A number of `calibrate` of one run, or from the least to the greatest of several.
    """
    ends = sorted({min(values[name] for values in usable),
                   max(values[name] for values in usable)})
    return ' to '.join(
        f'{end:,}' if isinstance(end, int) else f'{end:.3f}' for end in ends)


def _luck(count, level):
    """95% of the coverages that split conformal intervals of `count` people have.

    Exactly so with one case each, or equal ones.

    Source: Vovk 2012, Conditional validity of inductive conformal predictors, 2.
    """
    rank = min(math.ceil((count + 1) * level), count)
    return stats.beta.interval(0.95, rank, count + 1 - rank)


def _words_of_coverage(cell, level):
    share = f'{cell["value"]:.3f} of these ({cell["low"]:.3f} to {cell["high"]:.3f})'
    verdict = 'in line with that'
    if cell['high'] < level:
        verdict = 'too few: they are too narrow here'
    elif cell['low'] > level:
        verdict = 'more than they should: they are wider than need be'
    return f'They hold the truth in {share}, {verdict}.'


def _mean(values):
    return float(np.mean(values)) if len(values) else math.nan


def _by_spread(rows, spread, options):
    def related(columns):
        error = np.abs(columns['index'] - columns['truth'])
        return metrics.spearman({'index': columns['spread'], 'truth': error})

    (cell,) = measure(rows, related, options)
    text = (
        'The model gives each prediction a spread of its own. Where it is greater, '
        'errors should be: ')
    text += ('that can\'t be told here.' if math.isnan(cell['value']) else
             f'their rank correlation is {cell["value"]:.2f}' + (
                 ' (no interval).' if math.isnan(cell['low']) else
                 f' ({cell["low"]:.2f} to {cell["high"]:.2f}).'))
    member = thirds(spread)
    lines = []
    for number, name in enumerate(THIRDS if member is not None else ('All',)):
        part = rows if member is None else only(rows, member == number)
        if not len(part['truth']):
            continue  # equal values share a third
        error, expected = measure(part, lambda columns: np.array([
            metrics.mae(columns),
            _mean(columns['spread']) * math.sqrt(2 / math.pi)]), options)
        lines.append([
            {'value': name, 'reason': range_of(part['spread'])}, len(part['truth']),
            count_people(part), error, expected])
    return text, Table(
        'By spread', ['Spread', 'Cases', 'People', 'Mean error', 'Expected'], lines,
        'Mean error: of the absolute errors. Expected: of a normal distribution with '
        f'these spreads. {BOOTSTRAP}')
