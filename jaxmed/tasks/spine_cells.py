"""Numbers of the report of spine health: cells with intervals over people, and rows.

Rows are those of cases: 'index', 'truth', 'spread', 'patient_id' and more, [N] each.
"""

import math

import numpy as np

from jaxmed import metrics
from jaxmed.classification.intervals import (
    number_of,
    resample,
    share_of,
    undefined,
)

BOOTSTRAP = '95% intervals over people (bootstrap).'
WILSON = (
    "95% intervals over people (bootstrap); of shares of all or of none Wilson's, as "
    "if all of a person's cases were alike.")


def count_people(rows):
    return len(np.unique(rows['patient_id']))


def people_of(number):
    return f'{number:,} {"person" if number == 1 else "people"}'


def sizes_of(rows):
    return f'{number_of(len(rows["truth"]), "case")} of {people_of(count_people(rows))}'


def why_undefined(rows):
    """Why a number of regression is not defined, or ''."""
    index, truth = (np.asarray(rows[name], float) for name in ('index', 'truth'))
    for undefined_here, reason in (
        (not len(truth), 'nobody here has a rating'),
        (np.isnan(index).any(), 'an index is not a number'),
        (len(truth) == 1, 'one case only'),
        (len(truth) and np.ptp(truth) == 0, 'all true indices are equal'),
        (len(truth) and np.ptp(index) == 0, 'all predicted indices are equal'),
    ):
        if undefined_here:
            return reason
    return ''


def measure(rows, metric, options):
    """Cells of what `metric` says of rows, float or [M], with bootstrap intervals."""
    columns = {
        name: np.asarray(rows[name], float) for name in ('index', 'truth', 'spread')}
    cells = resample(columns, metric, patients=rows['patient_id'], options=options)
    why = why_undefined(rows)
    for cell in cells:
        for name in ('value', 'low', 'high'):
            if abs(cell[name]) < 1e-3:  # would be shown as a power of ten
                cell[name] = round(cell[name], 3) + 0.0
        if math.isnan(cell['value']):
            cell['reason'] = why
        elif math.isnan(cell['low']):
            cell['reason'] = 'no interval: one person only' if (
                cell['n_patients'] == 1) else 'no interval: undefined in most resamples'
    return cells


def share_cell(hits, chosen, people, options, *, why):
    """Cell of the share of hits among the chosen; `why` there are none.

    Args:
        hits, chosen: bool [N].
        people: [N], whose each is.
        options: of the bootstrap.
    """
    if not chosen.any():
        return undefined(why)

    def share(rows):
        count = rows['chosen'].sum()
        return rows['hits'].sum() / count if count else math.nan

    (cell,) = resample({'hits': hits & chosen, 'chosen': chosen}, share,
                       patients=people, options=options)
    if cell['low'] < cell['high'] and 0 < cell['value'] < 1:
        return cell
    return share_of(hits[chosen], people[chosen], why)


def only(rows, chosen):
    return {name: column[chosen] for name, column in rows.items()}


KINDS = ('Cases', 'People', 'MAE', 'Spearman', 'Mean true index', 'Bias')


def row_of(name, rows, options):
    """A row of a table with the columns KINDS."""
    def numbers(columns):
        truth = columns['truth']
        mean = truth.mean() if len(truth) else math.nan
        return np.array([
            metrics.mae(columns), metrics.spearman(columns), mean,
            np.mean(columns['index']) - mean if len(truth) else math.nan])

    cells = measure(rows, numbers, options)
    return [name, len(rows['truth']), count_people(rows), *cells]


def thirds(values):
    """[N] in 0..2 by rank, the same for equal values; None where all are equal."""
    if not len(values) or np.ptp(values) == 0:
        return None
    return np.searchsorted(np.sort(values), values) * 3 // len(values)


THIRDS = ('Lowest third', 'Middle third', 'Highest third')


def range_of(values):
    """The least and the greatest value, in words."""
    low, high = float(np.min(values)), float(np.max(values))
    return f'{low:.3f}' if low == high else f'{low:.3f} to {high:.3f}'
