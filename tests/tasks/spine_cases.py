"""Cases of spine health by hand and drawn, and the sections of a report on them."""

import warnings

import numpy as np

from jaxmed import metrics, report
from jaxmed.tasks import spine_sections

NAN = float('nan')
TITLES = ['Predicted and true', 'By exercise, group and person', 'Red flag', 'How sure',
          'Quality of the input', 'How far to trust it']
FIXED = {
    'width': 0.2, 'window_width': 0.25, 'by_spread': False, 'level': 0.9, 'people': 19,
    'cases': 38, 'windows': 190, 'reason': ''}


def rows_of(index, truth, *, people=None, exercise=None, group=None, spread=None,
            seen=None):
    count = len(index)
    index, truth = np.asarray(index, float), np.asarray(truth, float)
    return {
        'index': index, 'truth': truth, 'error': np.abs(index - truth),
        'spread': np.zeros(count) if spread is None else np.asarray(spread, float),
        'seen': np.ones(count) if seen is None else np.asarray(seen, float),
        'windows': np.ones(count, int),
        'exercise': np.array(['walk'] * count if exercise is None else exercise, str),
        'group': np.array([''] * count if group is None else group, str),
        'case_id': np.array([f'case-{i}' for i in range(count)], str),
        'patient_id': np.array(
            [f'secret-{i if people is None else people[i]}' for i in range(count)],
            str)}


def draw(*, people=20, exercises=3, seed=0):
    """People whose three exercises are rated alike, and predictions that shrink."""
    random = np.random.default_rng(seed)
    who = np.repeat(np.arange(people), exercises)
    truth = np.clip(random.random(people)[who]
                    + 0.1 * random.normal(size=len(who)), 0, 1)
    spread = 0.05 + 0.05 * random.random(len(who))
    index = np.clip(0.5 + 0.6 * (truth - 0.5) + spread * random.normal(size=len(who)),
                    0, 1)
    return rows_of(
        index, truth, people=who, spread=spread, seen=random.random(len(who)),
        exercise=np.array(['walk', 'jump', 'touch toes'])[
            np.arange(len(who)) % exercises],
        group=np.where(who % 2 == 0, 'BackPain', 'Expert'))


def make(cases, *, found=None, calibrations=({},), resamples=20):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        parts = spine_sections.sections(
            cases, valid_cases=None, probe_cases=cases, found=found or {}, changed={},
            external={}, calibrations=list(calibrations), picture=None,
            resamples=resamples)
    assert [part.title for part in parts] == TITLES
    return {part.title: part for part in parts}


def tables_of(part):
    """title -> heading of a row -> heading of a column -> cell."""
    def words(cell):
        if not isinstance(cell, dict):
            return cell
        return ', '.join(filter(None, (cell['value'], cell['reason'])))

    return {table.title: {
        words(row[0]): dict(zip(table.header[1:], row[1:], strict=True))
        for row in table.rows} for table in part.tables}


def write(folder, cases, parts):
    summary = report.summarise(cases, {'mae': metrics.mae}, resamples=5, seed=0)
    paths = report.write(
        folder, title='t', about='', cases=cases, scores={'error': False}, render=None,
        legend='', results=[report.Result('m', 'test', summary)], histories={},
        best_step=None, warnings=[], command='', facts={},
        sections=list(parts.values()))
    return [path.read_text(encoding='utf-8') for path in paths]


def only(rows, chosen):
    return {name: column[chosen] for name, column in rows.items()}
