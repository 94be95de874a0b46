"""Ensembles: averages, the exhaustive search among them, and metrics that rank them."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from jaxmed import ensembles
from jaxmed.classification import scores
from jaxmed.errors import ConfigError


def test_areas_of_many_models_are_those_of_one_with_ties():
    rng = np.random.default_rng(0)
    truth = rng.random(41) < 0.3
    table = np.round(rng.random((50, 41)), 1)
    expected = [roc_auc_score(truth, row) for row in table]
    np.testing.assert_allclose(
        ensembles.auc_of_many(table, truth), expected, rtol=1e-12)
    assert np.isnan(ensembles.auc_of_many(table, np.zeros(41, bool))).all()
    table[3, 5] = np.nan
    assert np.flatnonzero(np.isnan(ensembles.auc_of_many(table, truth))) == [3]


def metric_of(text):
    task = SimpleNamespace(
        metrics=scores.make_metrics(exclusive=False), cases=lambda rows: rows)
    return ensembles.make_metric(task, text, resamples=200)


def members(count, cases=30, classes=1, seed=0):
    rng = np.random.default_rng(seed)
    targets = (rng.random((cases, classes)) < 0.4).astype(np.float32)
    targets[-2:, 0] = np.nan
    return {
        f'run{i}': {
            'probability': np.round(
                rng.random((cases, classes)) + 0.3 * np.nan_to_num(targets), 1
            ).astype(np.float32), 'targets': targets, 'loss': rng.random(cases),
        } for i in rng.permutation(count)
    }


@pytest.mark.parametrize('name, classes', [('auc', 1), ('auc', 3), ('f1', 1)])
def test_the_best_ensemble_is_that_of_an_exhaustive_search(name, classes):
    rows, metric = members(7, classes=classes), metric_of(name)
    best, number = ensembles.rank(metric, rows, size=3)
    by_hand = {}
    for few in itertools.combinations(sorted(rows), 3):
        mean = np.mean([rows[n]['probability'].astype(float) for n in few], axis=0)
        by_hand[few] = metric.value(rows[few[0]] | {'probability': mean})
    assert number == 35 and len(best) == ensembles.SHOWN
    ranked = sorted(by_hand.values(), reverse=True)
    np.testing.assert_allclose([b.value for b in best], ranked[:ensembles.SHOWN])
    for one in best:
        np.testing.assert_allclose(one.value, by_hand[one.names])


def test_equal_ensembles_are_ordered_by_loss_and_then_by_name():
    same = {'probability': np.array([[0.9], [0.1]]), 'targets': np.array([[1], [0]])}
    rows = {
        name: same | {'loss': np.array([loss, loss])}
        for name, loss in (('d', 0.2), ('c', 0.3), ('b', 0.2), ('a', np.nan))
    } | {'bad': {
        'probability': same['probability'][::-1], 'targets': same['targets'],
        'loss': np.zeros(2)}}
    best, _ = ensembles.rank(metric_of('auc'), rows, size=1)
    assert [one.names[0] for one in best] == ['b', 'd', 'c', 'a', 'bad']
    best, _ = ensembles.rank(metric_of('-auc'), rows, size=1)
    assert best[0].names == ('bad',)


def test_maps_and_patches_are_averaged_and_keep_their_type():
    def member(p, q, m):
        return {'probability': np.float32([[p]]), 'targets': np.ones((1, 1)), 'loss': 1,
                'patch_probability': np.float32([[q]]), 'map': np.uint8([m])}

    rows = ensembles.average([member(0.2, 0.0, 1), member(0.4, 1.0, 2)])
    np.testing.assert_allclose(rows['probability'], [[0.3]], rtol=1e-6)
    assert rows['patch_probability'] == 0.5 and rows['map'] == 1 and 'loss' not in rows
    rows = ensembles.average([
        {'probability': np.uint8([[254, 0]])}, {'probability': np.uint8([[255, 1]])},
        {'probability': np.uint8([[255, 0]])}])
    assert rows['probability'].tolist() == [[255, 0]]
    assert rows['probability'].dtype == np.uint8


def patients(probability, targets):
    return {
        'probability': np.array(probability, float)[:, None],
        'targets': np.array(targets, float)[:, None],
        'case_id': np.arange(len(targets)).astype(str),
        'patient_id': np.arange(len(targets)).astype(str)}


def test_a_difference_is_that_of_the_areas_and_of_the_same_patients():
    targets = [1] * 10 + [0] * 10
    good = patients(targets, targets)
    poor = patients([0, *targets[1:]], targets)  # one of ten is tied with all ten
    found = metric_of('auc').compare(good, poor)
    np.testing.assert_allclose(found['value'], 1 - 0.95)  # of 100 pairs 10 count half
    assert 0 <= found['low'] < 0.05 < found['high'] and 0 < found['p'] < 1
    swapped = metric_of('auc').compare(poor, good)
    np.testing.assert_allclose(
        [swapped['value'], swapped['low'], swapped['high'], swapped['p']],
        [-found['value'], -found['high'], -found['low'], found['p']])
    same = metric_of('f1').compare(good, good)
    assert (same['value'], same['low'], same['high'], same['p']) == (0, 0, 0, None)


def test_an_operating_point_is_chosen_on_one_split_and_measured_on_another():
    valid = patients([0.9, 0.7, 0.4, 0.2], [1, 1, 0, 0])  # best from 0.7 on
    test = patients([0.8, 0.6, 0.75, 0.1], [1, 1, 0, 0])
    assert metric_of('auc').operate(valid, test) == {
        'threshold': 0.7, 'sensitivity': 0.5, 'specificity': 0.5}
    assert metric_of('f1').operate(valid, test) is None


def test_a_metric_that_the_task_has_not_is_told():
    with pytest.raises(ConfigError, match="--metric: 'dice' is none of auc"):
        metric_of('-dice')
