import warnings

import numpy as np
import pytest
from scipy import stats

from jaxmed import metrics

METRICS = (
    metrics.dice, metrics.dice_median, metrics.dice_worst, metrics.iou,
    metrics.precision, metrics.recall, metrics.boundary_f1, metrics.count_error,
    metrics.count_bias)

# Four images: perfect, half, a miss, and one without cells and without prediction.
ROWS = {
    'intersection': np.array([10, 6, 0, 0]),
    'predicted': np.array([10, 8, 0, 0]),
    'actual': np.array([10, 16, 5, 0]),
    'boundary_precision': np.array([1.0, 0.6, 0.0, np.nan]),
    'boundary_recall': np.array([1.0, 0.3, 0.0, np.nan]),
    'count_predicted': np.array([1, 4, 0, 0]),
    'count_actual': np.array([1, 2, 1, 0]),
}


def mean_value(rows):
    return float(np.mean(rows['value']))


@pytest.mark.parametrize('metric, expected', [
    (metrics.dice, (1 + 0.5 + 0) / 3),  # 2 * 6 / (8 + 16) = 0.5
    (metrics.dice_median, 0.5),
    (metrics.dice_worst, 0.0),
    (metrics.iou, (1 + 6 / 18 + 0) / 3),
    (metrics.precision, (1 + 6 / 8) / 2),
    (metrics.recall, (1 + 6 / 16 + 0) / 3),
    (metrics.boundary_f1, (1 + 0.4 + 0) / 3),  # 2 * 0.18 / 0.9 = 0.4
    (metrics.count_error, (0 + 2 + 1 + 0) / 4),
    (metrics.count_bias, (0 + 2 - 1 + 0) / 4),
])
def test_metrics_are_those_worked_out_by_hand(metric, expected):
    value = metric(ROWS)
    assert isinstance(value, float)
    assert value == pytest.approx(expected)


@pytest.mark.parametrize('metric', METRICS)
def test_nothing_to_average_is_nan_without_a_warning(metric):
    none = {name: column[:0] for name, column in ROWS.items()}
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert np.isnan(metric(none))


@pytest.mark.parametrize('metric', METRICS[:7])
def test_an_image_without_cells_and_prediction_tells_nothing(metric):
    last = {name: column[3:] for name, column in ROWS.items()}
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert np.isnan(metric(last))


@pytest.mark.parametrize('metric', METRICS)
def test_the_order_of_images_does_not_matter(metric):
    turned = {name: column[::-1] for name, column in ROWS.items()}
    assert metric(turned) == pytest.approx(metric(ROWS))


def test_unsigned_counts_do_not_wrap_around():
    rows = {
        'count_predicted': np.array([0, 3], np.uint8),
        'count_actual': np.array([2, 3], np.uint8)}
    assert metrics.count_bias(rows) == -1
    assert metrics.count_error(rows) == 1


def test_images_with_an_unknown_count_are_left_out():
    rows = {
        'count_predicted': np.array([5, 3]), 'count_actual': np.array([np.nan, 1.0])}
    assert metrics.count_error(rows) == 2


def test_equal_values_have_an_interval_of_no_width():
    interval = metrics.bootstrap_interval(
        {'value': np.full(9, 0.75)}, mean_value, groups=np.arange(9) // 2, seed=0)
    assert interval == (0.75, 0.75)


def test_patients_are_drawn_whole():
    # A has one image of value 0, B three of value 1: AA, AB or BA, BB give 0, 3/4, 1.
    rows = {'value': np.array([1.0, 0.0, 1.0, 1.0])}
    groups = np.array(['B', 'A', 'B', 'B'])
    seen = []

    def record_mean(drawn):
        seen.append(mean_value(drawn))
        return seen[-1]

    interval = metrics.bootstrap_interval(
        rows, record_mean, groups=groups, resamples=4000, seed=0)
    values, counts = np.unique(seen, return_counts=True)
    assert values.tolist() == [0.0, 0.75, 1.0]
    # Probabilities 1/4, 1/2, 1/4; four standard errors are 0.032.
    np.testing.assert_allclose(counts / 4000, [0.25, 0.5, 0.25], atol=0.032)
    assert interval == (0.0, 1.0)
    assert metrics.bootstrap_interval(
        rows, mean_value, groups=groups, seed=0, level=0.4) == (0.75, 0.75)


def test_columns_are_resampled_together():
    rows = {'value': np.arange(20.0), 'twice': 2 * np.arange(20.0), 'name': np.array(
        [str(number) for number in range(20)])}

    def check(drawn):
        np.testing.assert_array_equal(drawn['twice'], 2 * drawn['value'])
        np.testing.assert_array_equal(drawn['name'].astype(float), drawn['value'])
        return mean_value(drawn)

    metrics.bootstrap_interval(
        rows, check, groups=np.arange(20) % 7, resamples=20, seed=0)


def test_interval_of_single_image_patients_agrees_with_scipy():
    values = np.random.default_rng(0).beta(5, 2, size=60)
    low, high = metrics.bootstrap_interval(
        {'value': values}, mean_value, groups=np.arange(60), resamples=4000, seed=1)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method='percentile',
        rng=np.random.default_rng(2)).confidence_interval
    # The Monte-Carlo error of a bound is about 0.0005 here; the width about 0.08.
    np.testing.assert_allclose((low, high), (expected.low, expected.high), atol=0.003)


def test_images_of_one_patient_widen_the_interval():
    values = np.random.default_rng(0).normal(size=30)
    rows = {'value': np.repeat(values, 10)}
    by_image, by_patient = (
        np.diff(metrics.bootstrap_interval(rows, mean_value, groups=groups, seed=0))
        for groups in (np.arange(300), np.repeat(np.arange(30), 10)))
    # Ten identical images say as much as one: sqrt(10) = 3.2 times as wide.
    assert 2.6 < by_patient / by_image < 3.8


def test_interval_depends_on_the_seed_alone():
    rows, groups = {'value': np.random.default_rng(0).random(25)}, np.arange(25) // 3
    first, again, other = (
        metrics.bootstrap_interval(
            rows, mean_value, groups=groups, resamples=200, seed=seed)
        for seed in (3, 3, 4))
    assert first == again != other


def test_names_of_patients_do_not_matter():
    rows, groups = {'value': np.random.default_rng(0).random(25)}, np.arange(25) // 3
    assert metrics.bootstrap_interval(
        rows, mean_value, groups=groups, seed=3) == metrics.bootstrap_interval(
        rows, mean_value, groups=[f'patient-{group}' for group in groups], seed=3)


def test_resamples_without_a_value_are_left_out():
    def mean_if_first_is_drawn(rows):
        return mean_value(rows) if (rows['value'] == 2.0).any() else float('nan')

    # Undefined for BB only, a quarter of the resamples; AA is 2, AB and BA are 1.
    assert metrics.bootstrap_interval(
        {'value': np.array([2.0, 0.0])}, mean_if_first_is_drawn, groups=['A', 'B'],
        seed=0) == (1.0, 2.0)


def test_a_metric_mostly_undefined_has_no_interval():
    def mean_if_all_are_drawn(rows):  # 6 of 27 resamples
        return mean_value(rows) if len(set(rows['value'])) == 3 else float('nan')

    assert np.isnan(metrics.bootstrap_interval(
        {'value': np.arange(3.0)}, mean_if_all_are_drawn, groups=[0, 1, 2],
        seed=0)).all()


def test_several_values_share_their_resamples():
    rows, groups = {'value': np.random.default_rng(0).random(25)}, np.arange(25) // 3

    def rare(rows):
        return float('nan') if rows['value'].max() > rows['value'].min() else 1.0

    def often(rows):
        return np.nan if rows['value'][0] < 0.2 else mean_value(rows)

    together = metrics.bootstrap_interval(
        rows, lambda rows: np.array([mean_value(rows), rare(rows), often(rows)]),
        groups=groups, resamples=200, seed=3)
    alone = [metrics.bootstrap_interval(
        rows, metric, groups=groups, resamples=200, seed=3)
        for metric in (mean_value, rare, often)]
    np.testing.assert_array_equal(np.transpose(together), alone)
    assert np.isnan(alone[1]).all() and not np.isnan(alone[2]).any()


@pytest.mark.parametrize('images', [0, 1, 5])
def test_one_patient_has_no_interval(images):
    assert np.isnan(metrics.bootstrap_interval(
        {'value': np.ones(images)}, mean_value, groups=np.zeros(images), seed=0)).all()
