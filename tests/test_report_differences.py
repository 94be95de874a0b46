"""A result minus another on the same cases, with the same patients drawn for both."""

import json

import numpy as np
import optax
import pytest

from jaxmed import evaluate, metrics, predict, report, train
from jaxmed.data import pipeline

LOWER = ('mae', 'rmse')
METRICS = {'mae': metrics.mae, 'rmse': metrics.rmse, 'spearman': metrics.spearman}


def mean_score(rows):
    """Mean of the scores."""
    return float(np.mean(rows['score']))


def scored(scores, patients):
    cases = {'case_id': np.array([f'c{i:03}' for i in range(len(scores))]),
             'score': np.array(scores, float), 'patient_id': np.array(list(patients))}
    return report.measure(cases, {'score': mean_score}, resamples=400, seed=0)


def draw(*, noise, people=30, seed=0):
    """Two cases a person, and an index that is off by so much."""
    random = np.random.default_rng(seed)
    truth = random.random(2 * people)
    return {
        'case_id': np.array([f'c{i:03}' for i in range(2 * people)]),
        'patient_id': np.array([f'p{i // 2:02}' for i in range(2 * people)]),
        'index': truth + noise * random.normal(size=2 * people), 'truth': truth}


def measure(cases):
    return report.measure(cases, METRICS, resamples=200, seed=0)


def compare(cases, others):
    return report.compare(measure(cases), measure(others), lower_is_better=LOWER)


def shuffle(cases, seed=1):
    order = np.random.default_rng(seed).permutation(len(cases['case_id']))
    return {name: column[order] for name, column in cases.items()}


def test_a_difference_is_that_of_the_same_people_worked_out_by_hand():
    # Of draws aa, ab, bb (1/4, 1/2, 1/4) one has means 0, 3/4, 1: a has one case, b
    # three. The other has 0.2, 0.2 / 4 + 0.6 * 3 / 4 = 0.5, and 0.6.
    found = report.compare(
        scored([0, 1, 1, 1], 'abbb'), scored([0.2, 0.6, 0.6, 0.6], 'abbb'),
        lower_is_better=())['score']
    assert found['value'] == pytest.approx(0.75 - 0.5)
    assert (found['low'], found['high']) == pytest.approx((0 - 0.2, 1 - 0.6))
    assert found['verdict'] == 'holds 0: undecided'


def test_what_makes_people_hard_for_both_cancels_out():
    scores = np.array([0.0, 0.3, 0.9, 0.5])
    one, other = scored(scores, 'abcd'), scored(scores - 0.25, 'abcd')
    found = report.compare(one, other, lower_is_better=())['score']
    assert (found['value'], found['low'], found['high']) == pytest.approx([0.25] * 3)
    assert found['verdict'] == 'excludes 0: better'
    # By themselves they overlap.
    assert report.describe(one)['score']['low'] < report.describe(other)['score'][
        'high']


def test_the_same_predictions_differ_by_exactly_nothing_in_any_order():
    cases = draw(noise=0.2)
    for others in (cases, shuffle(cases)):
        found = compare(cases, others)
        assert list(found) == list(METRICS)
        for value in found.values():
            assert value['value'] == value['low'] == value['high'] == 0
            assert value['verdict'].startswith('holds 0')


def test_signs_are_of_the_first_minus_the_other_and_words_follow_the_metric():
    good, poor = draw(noise=0.01), draw(noise=0.3)
    found, swapped = compare(good, poor), compare(poor, good)
    assert found['mae']['value'] == pytest.approx(
        metrics.mae(good) - metrics.mae(poor)) and found['mae']['high'] < 0
    assert found['spearman']['low'] > 0
    for name in METRICS:
        assert found[name]['lower_is_better'] == (name in LOWER)
        assert found[name]['verdict'] == 'excludes 0: better'
        assert swapped[name]['verdict'] == 'excludes 0: worse'
        assert [swapped[name][key] for key in ('value', 'low', 'high')] == (
            pytest.approx([-found[name][key] for key in ('value', 'high', 'low')]))


def test_nothing_is_said_of_other_cases_of_other_people_or_of_other_draws():
    cases = draw(noise=0.1)
    fewer = {name: column[:-1] for name, column in cases.items()}
    moved = cases | {'patient_id': np.roll(cases['patient_id'], 1)}
    assert compare(cases, fewer) == compare(cases, moved) == {}
    for options in (dict(resamples=200, seed=1), dict(resamples=100, seed=0)):
        assert report.compare(
            measure(cases), report.measure(cases, METRICS, **options),
            lower_is_better=LOWER) == {}


def test_without_a_value_or_with_one_person_there_is_no_verdict():
    cases = draw(noise=0.1)
    constant = cases | {'index': np.full(60, 0.5)}
    found = compare(cases, constant)['spearman']
    assert np.isnan(found['value']) and found['verdict'] == 'interval undefined here'
    alone = cases | {'patient_id': np.full(60, 'p')}
    found = compare(alone, alone | {'index': cases['truth']})['mae']
    assert found['value'] > 0 and np.isnan(found['low'])
    assert found['verdict'] == 'interval undefined here'


def write(folder, results, cases):
    json_path, html_path = report.write(
        folder, title='t', about='', cases=cases, scores={}, render=None, legend='',
        results=results, histories={}, best_step=None, warnings=[], command='',
        facts={})
    return (json.loads(json_path.read_text(encoding='utf-8')),
            html_path.read_text(encoding='utf-8'))


def test_the_report_has_them_as_numbers_and_as_a_table(tmp_path):
    cases, poor = draw(noise=0.05), draw(noise=0.3)
    one, other = (report.describe(measure(rows)) for rows in (cases, poor))
    found = compare(cases, poor)
    constant = compare(cases, cases | {'index': np.full(60, 0.5)})
    data, page = write(tmp_path, [
        report.Result('mine', 'test', one), report.Result('<ridge>', 'test', other,
                                                          found),
        report.Result('mean', 'test', other, constant),
        report.Result('mine', 'train', one)], cases)
    assert data['results'][1]['differences'] == found
    assert data['results'][2]['differences']['spearman']['value'] is None
    assert data['results'][0]['differences'] == data['results'][3]['differences'] == {}
    table = page.split('<h2>This model minus the others</h2>')[1].split('</table>')[0]
    assert '>minus &lt;ridge&gt;<' in table and 'train' not in table
    mae = found['mae']
    assert (f'<b>{mae["value"]:.3f}</b><small>95% interval <span class="range">'
            f'{mae["low"]:.3f} to {mae["high"]:.3f}</span></small><small>'
            'excludes 0: better</small>') in table
    assert f'<b>+{found["spearman"]["value"]:.3f}</b>' in table
    assert table.count('Lower is better: under 0') == 2
    assert table.count('Higher is better: over 0') == 1
    assert '–<small>undefined here</small>' in table
    _, page = write(tmp_path, [report.Result('mine', 'test', one)], cases)
    assert 'minus' not in page


class Backwards:
    """A data source from its end."""

    def __init__(self, source):
        self._source = source

    def __len__(self):
        return len(self._source)

    def __getitem__(self, place):
        return self._source[len(self._source) - 1 - place]


def test_baselines_and_rivals_are_compared_and_other_data_is_not(toy_task, examples):
    task = toy_task()._replace(
        baselines={'nothing': lambda batch: np.zeros(len(batch['mask']), np.float32)})
    state = train.init_state(task, optax.sgd(0.1), seed=0)
    members = [{'params': state.params, 'model_state': state.model_state}]
    source = examples(9)
    results, measured = evaluate.evaluate(
        {'test': [([task], members, source)],
         'twin': [([task], members, Backwards(source))],
         'fewer': [([task], members, pipeline.Subset(source, [0, 1, 2]))],
         'valid': [([task], members, source)]},
        views=1, batch_size=4, resamples=50, seed=0, rivals=('twin', 'fewer'))
    found = {result.source if result.data == 'test' else result.data: result
             for result in results}
    assert list(found) == ['this model', 'nothing', 'twin', 'fewer', 'valid']
    assert [bool(result.differences) for result in found.values()] == [
        False, True, True, False, False]
    twin = found['twin'].differences['closeness']
    assert twin['value'] == twin['low'] == twin['high'] == 0
    first, nothing = (task.metrics['closeness'](rows) for rows in (
        measured['test'][0], predict.make_split_rows(
            [task], views=1, baseline=task.baselines['nothing'])(
                members, source, batch_size=4)))
    difference = found['nothing'].differences['closeness']
    assert difference['value'] == pytest.approx(first - nothing)
    assert difference['low'] < difference['high']
