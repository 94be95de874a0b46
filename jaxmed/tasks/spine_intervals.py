"""Intervals of single predictions of spine health: how far off they may be."""

import math

import numpy as np

from jaxmed.errors import CheckpointError

LEVEL = 0.9  # share of new cases that hold the truth
FEWEST = math.ceil(LEVEL / (1 - LEVEL) - 1e-9)  # people: of fewer there is no interval


def calibrate(cases, windows):
    """How far predictions are off, from those of the validation split.

    The interval of a case is its index +- 'width', that of one window of it, which has
    seen less, +- 'window_width'; by a spread, both are times the spread. It is to hold
    the truth of a new person's case, or window, in LEVEL of new people.

    The recordings of a person resemble each other, so each person weighs alike, however
    many they are: 1 / (people + 1) is shared out over a person's errors, and the last
    share, of the new person, counts as more than any of them. With one case each this
    is the rank of split conformal prediction (Vovk 2005).

    Args:
        cases, windows: rows with 'index', 'truth' (of the recording; NaN if unknown,
            such a row doesn't count), 'spread' (0: unknown) and 'patient_id', [N].

    Returns:
        {'width', 'window_width', 'by_spread', 'level', 'people', 'cases', 'windows',
        'reason'}: widths None, with a reason, where people are fewer than FEWEST.

    Source: Lee, Barber and Willett 2023, Distribution-free inference with hierarchical
    data, hierarchical conformal prediction (arXiv 2306.06342); Dunn, Wasserman and
    Ramdas 2022, JASA 118:2491, for what else can be done with such data.
    """
    cases, windows = (
        {name: rows[name][~np.isnan(rows['truth'])]
         for name in ('index', 'truth', 'spread', 'patient_id')}
        for rows in (cases, windows))
    people = len(np.unique(cases['patient_id']))
    by_spread = bool(people and (windows['spread'] > 0).all())
    values = {
        'by_spread': by_spread, 'level': LEVEL, 'people': people,
        'cases': len(cases['truth']), 'windows': len(windows['truth'])}
    if people < FEWEST:
        return values | {
            'width': None, 'window_width': None, 'reason': f'only {people} of the '
            f'{FEWEST} people that an interval of level {LEVEL:g} takes'}
    return values | {
        'width': _quantile(cases, by_spread),
        'window_width': _quantile(windows, by_spread), 'reason': ''}


def _quantile(rows, by_spread):
    """The error that new people's stay below in LEVEL of them, of at least FEWEST."""
    off = np.abs(np.asarray(rows['index'], float) - rows['truth'])
    if by_spread:
        off = off / rows['spread']
    _, member, counts = np.unique(
        rows['patient_id'], return_inverse=True, return_counts=True)
    weight = 1 / ((len(counts) + 1) * counts[member])
    order = np.argsort(off, kind='stable')
    reached = np.cumsum(weight[order])
    place = int(np.argmax(reached >= LEVEL - 1e-9))  # 9 of 10 isn't quite 0.9
    return float(off[order][place])


def check(values):
    """The same values of `calibrate`.

    Raises:
        KeyError: one that an interval takes is missing.
        CheckpointError: the width of single windows is, which once there was not.
    """
    for name in ('width', 'by_spread'):
        values[name]
    if 'window_width' not in values:
        raise CheckpointError('window_width', (
            'fitted by an older jaxmed, without window_width: repeat launch.train, '
            'which fits it anew, or delete it and have no intervals'))
    return values


def join(several):
    """Of several members the widest: none was fitted to their mean.

    Args:
        several: of `calibrate`, of each; {} where there is none.

    Returns:
        Of `calibrate`; None where one has none, or they can't be compared: a width in
        spreads and one in indices.
    """
    if not several or not all(several) or (
            len({values['by_spread'] for values in several}) > 1):
        return None
    widest, widest_of_windows = (max(several, key=lambda values: (
        math.inf if values[name] is None else values[name]))
        for name in ('width', 'window_width'))
    return widest | {'window_width': widest_of_windows['window_width']}


def of_windows(interval):
    """The interval of `calibrate` (or None) for single windows, as `bounds` takes it.
    """
    return interval and interval | {'width': interval['window_width']}


def bounds(index, spread, interval):
    """(index, low, high), all in [0, 1]; None, None without an interval."""
    index = float(index)
    if interval is None or interval['width'] is None:
        return index, None, None
    half = interval['width'] * (float(spread) if interval['by_spread'] else 1.0)
    return index, max(index - half, 0.0), min(index + half, 1.0)
