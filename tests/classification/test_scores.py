import time
import warnings

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from jaxmed import report
from jaxmed.classification import scores

NAN = float('nan')
BY_CLASS = (
    scores.recall, scores.specificity, scores.precision, scores.ppv, scores.npv,
    scores.f1, scores.auc, scores.average_precision)

# Six images of three classes; argmax calls 0, 0, 1, 1, 2, 0.
EXCLUSIVE = {
    'probability': np.array([
        [0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.2, 0.6, 0.2], [0.3, 0.4, 0.3],
        [0.1, 0.2, 0.7], [0.4, 0.3, 0.3]]),
    'targets': np.eye(3)[[0, 0, 1, 0, 2, 2]]}

# Four images of two labels; from 0.5 on the first is called in images 0 and 1.
SEVERAL = {
    'probability': np.array([[0.9, 0.1], [0.6, 0.8], [0.2, 0.7], [0.1, 0.4]]),
    'targets': np.array([[1.0, 0.0], [0.0, NAN], [1.0, 1.0], [NAN, 0.0]])}


def random_rows(*, count=200, classes=4, exclusive, unknown=0.0, seed=0):
    """Rows with many ties: probabilities in steps of 0.05."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, count)
    noise = random.normal(size=(count, classes)) + np.eye(classes)[truth]
    if exclusive:
        targets = np.eye(classes)[truth]
        probability = np.exp(noise) / np.exp(noise).sum(axis=1, keepdims=True)
    else:
        targets = (random.random((count, classes)) < 0.3).astype(float)
        probability = 1 / (1 + np.exp(-random.normal(size=targets.shape) - targets))
    targets[random.random(count) < unknown if exclusive else
            random.random(targets.shape) < unknown] = NAN
    return {'probability': np.round(probability * 20) / 20, 'targets': targets}


@pytest.mark.parametrize('score, expected', [
    (scores.recall, [2 / 3, 1, 1 / 2]),
    (scores.specificity, [2 / 3, 4 / 5, 1]),
    (scores.precision, [2 / 3, 1 / 2, 1]),
    (scores.ppv, [2 / 3, 1 / 2, 1]),
    (scores.npv, [2 / 3, 1, 4 / 5]),
    (scores.f1, [2 / 3, 2 / 3, 2 / 3]),
])
def test_scores_of_exclusive_classes_are_those_worked_out_by_hand(score, expected):
    np.testing.assert_allclose(score(EXCLUSIVE, exclusive=True), expected)


def test_accuracy_and_confusion_are_those_worked_out_by_hand():
    assert scores.accuracy(EXCLUSIVE, exclusive=True) == pytest.approx(4 / 6)
    assert scores.balanced_accuracy(EXCLUSIVE, exclusive=True) == pytest.approx(
        (2 / 3 + 1 + 1 / 2) / 3)
    np.testing.assert_array_equal(
        scores.confusion(EXCLUSIVE), [[2, 1, 0], [0, 1, 0], [1, 0, 1]])


def test_unknown_labels_count_neither_for_nor_against():
    # First label: found, false alarm, missed, unknown. Second: passed, unknown, found,
    # passed.
    np.testing.assert_allclose(scores.recall(SEVERAL, exclusive=False), [1 / 2, 1])
    np.testing.assert_allclose(scores.precision(SEVERAL, exclusive=False), [1 / 2, 1])
    np.testing.assert_allclose(scores.specificity(SEVERAL, exclusive=False), [0, 1])
    assert scores.accuracy(SEVERAL, exclusive=False) == pytest.approx(4 / 6)
    assert scores.balanced_accuracy(SEVERAL, exclusive=False) == pytest.approx(
        (0.25 + 1) / 2)
    # 0.9 beats 0.6, 0.2 doesn't; in the second label 0.7 beats 0.1 and 0.4.
    np.testing.assert_allclose(scores.auc(SEVERAL, exclusive=False), [1 / 2, 1])
    positives, known = scores.support(SEVERAL)
    assert positives.tolist() == [2, 1] and known.tolist() == [3, 3]


def test_unknown_images_of_exclusive_classes_change_nothing():
    more = {
        'probability': np.concatenate([EXCLUSIVE['probability'], [[0.1, 0.8, 0.1]]]),
        'targets': np.concatenate([EXCLUSIVE['targets'], [[NAN] * 3]])}
    for score in BY_CLASS:
        np.testing.assert_array_equal(
            score(more, exclusive=True), score(EXCLUSIVE, exclusive=True))
    assert scores.accuracy(more, exclusive=True) == scores.accuracy(
        EXCLUSIVE, exclusive=True)
    np.testing.assert_array_equal(scores.confusion(more), scores.confusion(EXCLUSIVE))


@pytest.mark.parametrize('unknown', [0.0, 0.2])
@pytest.mark.parametrize('seed', [0, 1])
def test_exclusive_scores_agree_with_scikit_learn(seed, unknown):
    rows = random_rows(exclusive=True, unknown=unknown, seed=seed)
    known = ~np.isnan(rows['targets']).any(axis=1)
    assert known.all() == (unknown == 0)
    truth = rows['targets'][known].argmax(axis=1)
    called = rows['probability'][known].argmax(axis=1)
    for average in ('macro', 'weighted'):
        expected = sklearn_metrics.precision_recall_fscore_support(
            truth, called, average=average, zero_division=0)[:3]
        factory = getattr(scores, average)
        values = [factory(score, exclusive=True)(rows)
                  for score in (scores.precision, scores.recall, scores.f1)]
        np.testing.assert_allclose(values, expected)
    assert scores.accuracy(rows, exclusive=True) == pytest.approx(
        sklearn_metrics.accuracy_score(truth, called))
    assert scores.balanced_accuracy(rows, exclusive=True) == pytest.approx(
        sklearn_metrics.balanced_accuracy_score(truth, called))
    np.testing.assert_array_equal(
        scores.confusion(rows), sklearn_metrics.confusion_matrix(truth, called))


@pytest.mark.parametrize('unknown', [0.0, 0.3])
@pytest.mark.parametrize('exclusive', [True, False])
def test_ranking_scores_agree_with_scikit_learn_on_ties(exclusive, unknown):
    rows = random_rows(exclusive=exclusive, unknown=unknown)
    areas = scores.auc(rows, exclusive=exclusive)
    precisions = scores.average_precision(rows, exclusive=exclusive)
    for k in range(4):
        known = ~np.isnan(rows['targets'][:, k])
        truth, score = rows['targets'][known, k], rows['probability'][known, k]
        assert len(np.unique(score)) < len(score) / 5  # there are ties
        assert areas[k] == pytest.approx(sklearn_metrics.roc_auc_score(truth, score))
        assert precisions[k] == pytest.approx(
            sklearn_metrics.average_precision_score(truth, score))
        false_rates, found, thresholds = scores.roc_curve(rows, k)
        expected = sklearn_metrics.roc_curve(truth, score, drop_intermediate=False)
        for ours, theirs in zip((false_rates, found, thresholds), expected):
            np.testing.assert_allclose(ours, theirs)
        recalls, values, thresholds = scores.precision_recall_curve(rows, k)
        expected = sklearn_metrics.precision_recall_curve(truth, score)
        np.testing.assert_allclose(values, expected[0][-2::-1])
        np.testing.assert_allclose(recalls, expected[1][-2::-1])
        np.testing.assert_allclose(thresholds, expected[2][::-1])


def test_several_labels_agree_with_scikit_learn():
    rows = random_rows(exclusive=False)
    called = rows['probability'] >= 0.5
    expected = sklearn_metrics.precision_recall_fscore_support(
        rows['targets'], called, average=None, zero_division=0)
    for score, values in zip((scores.precision, scores.recall, scores.f1), expected):
        np.testing.assert_allclose(score(rows, exclusive=False), values)
    assert scores.accuracy(rows, exclusive=False) == pytest.approx(
        1 - sklearn_metrics.hamming_loss(rows['targets'], called))


def test_a_class_of_one_kind_is_left_out_of_means_and_counted():
    rows = {'probability': np.array([[0.9, 0.3, 0.1], [0.2, 0.4, 0.1]]),
            'targets': np.array([[1.0, 1.0, NAN], [0.0, 1.0, NAN]])}
    np.testing.assert_array_equal(scores.auc(rows, exclusive=False), [1, NAN, NAN])
    assert scores.macro(scores.auc, exclusive=False)(rows) == 1
    assert scores.classes_left_out(rows) == 2
    np.testing.assert_array_equal(
        scores.specificity(rows, exclusive=False), [1, NAN, NAN])


def test_a_class_never_called_has_precision_0_but_no_ppv():
    rows = {'probability': np.array([[0.1, 0.1], [0.2, 0.2]]),
            'targets': np.array([[1.0, 0.0], [0.0, 0.0]])}
    np.testing.assert_array_equal(scores.precision(rows, exclusive=False), [0, NAN])
    np.testing.assert_array_equal(scores.ppv(rows, exclusive=False), [NAN, NAN])
    np.testing.assert_array_equal(scores.f1(rows, exclusive=False), [0, NAN])
    np.testing.assert_array_equal(scores.recall(rows, exclusive=False), [0, NAN])


@pytest.mark.parametrize('exclusive', [True, False])
def test_nothing_to_measure_is_nan_without_a_warning(exclusive):
    for rows in ({'probability': np.zeros((0, 3)), 'targets': np.zeros((0, 3))},
                 {'probability': np.ones((2, 3)), 'targets': np.full((2, 3), NAN)}):
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            for metric in scores.make_metrics(exclusive=exclusive).values():
                assert np.isnan(metric(rows))
            assert scores.confusion(rows).sum() == 0
            assert len(scores.roc_curve(rows, 0)[0]) == 0
            assert np.isnan(scores.threshold_youden(rows, 0))
            assert np.isnan(scores.threshold_for_sensitivity(rows, 0, sensitivity=0.9))
            np.testing.assert_array_equal(scores.prevalence(rows['targets']), [0] * 3)


@pytest.mark.parametrize('exclusive', [True, False])
def test_a_diverged_model_has_no_scores_rather_than_good_ones(exclusive):
    rows = random_rows(exclusive=exclusive)
    broken = rows | {'probability': np.full_like(rows['probability'], NAN)}
    for metric in scores.make_metrics(exclusive=exclusive).values():
        assert np.isnan(metric(broken))
    one = rows | {'probability': rows['probability'].copy()}
    one['probability'][0, 1] = NAN
    assert np.isnan(scores.auc(one, exclusive=exclusive)[1])
    assert not np.isnan(scores.auc(one, exclusive=exclusive)[0])
    assert np.isnan(scores.accuracy(one, exclusive=exclusive))


@pytest.mark.parametrize('exclusive', [True, False])
def test_one_class_alone_is_measured_as_among_all(exclusive):
    rows = random_rows(exclusive=exclusive, unknown=0.1)
    for score in BY_CLASS:
        alone = [
            scores.for_class(score, k, exclusive=exclusive)(rows) for k in range(4)]
        np.testing.assert_array_equal(alone, score(rows, exclusive=exclusive))


@pytest.mark.parametrize('exclusive', [True, False])
def test_the_order_of_images_does_not_matter(exclusive):
    rows = random_rows(exclusive=exclusive, unknown=0.1)
    turned = {name: column[::-1] for name, column in rows.items()}
    for metric in scores.make_metrics(exclusive=exclusive).values():
        assert metric(turned) == pytest.approx(metric(rows))


def test_threshold_for_sensitivity_is_the_highest_that_finds_enough():
    # Twenty images with the class at 0.05, 0.10 .. 1.00; 95% of 20 is 19.
    rows = {'probability': np.append(np.arange(1, 21) / 20, 0.99)[:, None],
            'targets': np.append(np.ones(20), 0)[:, None]}
    threshold = scores.threshold_for_sensitivity(rows, 0, sensitivity=0.95)
    assert threshold == 0.1
    assert scores.at_threshold(scores.recall, 0, threshold)(rows) == 0.95
    assert scores.at_threshold(scores.recall, 0, 0.1001)(rows) < 0.95
    assert scores.threshold_for_sensitivity(rows, 0, sensitivity=1.0) == 0.05


def test_youden_threshold_is_worked_out_by_hand():
    rows = {'probability': np.array([0.9, 0.8, 0.7, 0.6, 0.4, 0.3])[:, None],
            'targets': np.array([1.0, 1, 0, 1, 0, 0])[:, None]}
    # sensitivity - (1 - specificity): 1/3, 2/3, 1/3, 2/3, 1/3, 0; the lower of two.
    threshold = scores.threshold_youden(rows, 0)
    assert threshold == 0.6
    values = [scores.at_threshold(score, 0, threshold)(rows) for score in (
        scores.recall, scores.specificity, scores.ppv, scores.npv)]
    np.testing.assert_allclose(values, [1, 2 / 3, 3 / 4, 1])
    assert np.isnan(scores.at_threshold(scores.recall, 0, NAN)(rows))


def test_thresholds_ignore_the_other_classes():
    # Class 1 is never the most probable one and yet called from 0.3 on.
    assert scores.at_threshold(scores.recall, 2, 0.3)(EXCLUSIVE) == 1.0
    assert scores.for_class(scores.recall, 2, exclusive=True)(EXCLUSIVE) == 0.5


def test_baselines_say_what_training_said():
    targets = np.array([[1, 0], [1, 0], [0, 1], [1, NAN]], float)
    shares = scores.prevalence(targets)
    np.testing.assert_allclose(shares, [0.75, 1 / 3])
    batch = {'inputs': np.zeros((5, 2, 2, 1))}
    probability = scores.majority(shares)(batch)
    assert probability.shape == (5, 2) and probability.dtype == np.float32
    rows = {'probability': probability, 'targets': np.eye(2)[[0, 0, 0, 1, 1]]}
    assert scores.accuracy(rows, exclusive=True) == pytest.approx(0.6)
    assert scores.macro(scores.auc, exclusive=True)(rows) == 0.5
    negative = scores.always_negative(2)(batch)
    assert negative.shape == (5, 2) and not negative.any()
    rows = {'probability': negative, 'targets': np.eye(2)[[0, 0, 0, 0, 1]]}
    # As accurate as 1 - prevalence, and worth nothing.
    assert scores.accuracy(rows, exclusive=False) == 0.5
    assert scores.macro(scores.f1, exclusive=False)(rows) == 0
    assert scores.balanced_accuracy(rows, exclusive=False) == 0.5


def test_every_metric_says_in_the_report_what_it_means():
    rows = random_rows(exclusive=True) | {
        'case_id': np.arange(200).astype(str), 'patient_id': np.arange(200) // 2}
    summary = report.summarise(
        rows, scores.make_metrics(exclusive=True), resamples=5, seed=0)
    assert next(iter(summary)) == 'accuracy'
    assert next(iter(scores.make_metrics(exclusive=False))) == 'auc'
    for value in summary.values():
        assert value['description'].endswith('.')
        assert value['low'] <= value['value'] <= value['high']
    assert summary['f1']['description'] == (
        'Harmonic mean of precision and recall of the class. Mean over the classes.')


def test_a_thousand_resamples_take_seconds():
    rows = random_rows(count=2000, exclusive=True) | {
        'case_id': np.arange(2000).astype(str), 'patient_id': np.arange(2000) // 2}
    metric = scores.macro(scores.auc, exclusive=True)
    begin = time.process_time()
    report.summarise(rows, {'auc': metric}, resamples=100, seed=0)
    assert time.process_time() - begin < 1.0  # takes 0.15
