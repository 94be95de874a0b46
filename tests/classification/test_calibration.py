import warnings
from statistics import NormalDist

import jax
import numpy as np
import pytest
from scipy import special
from sklearn import metrics as sklearn_metrics

from jaxmed.classification import calibration

NAN = float('nan')


def drawn_rows(*, count, temperature, exclusive, seed=0, classes=3):
    """Truths drawn from logits; the model's logits are `temperature` times these."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(count, classes)) * 1.5
    if exclusive:
        shares = special.softmax(logits, axis=1)
        chosen = (random.random((count, 1)) > np.cumsum(shares, axis=1)).sum(axis=1)
        targets = np.eye(classes)[np.minimum(chosen, classes - 1)]
        probability = special.softmax(logits * temperature, axis=1)
    else:
        targets = (random.random(logits.shape) < special.expit(logits)).astype(float)
        probability = special.expit(logits * temperature)
    return {'probability': probability, 'targets': targets}


def fit(rows, exclusive):
    return calibration.fit_temperature(
        rows['probability'], rows['targets'], exclusive=exclusive)


@pytest.mark.parametrize('exclusive', [True, False])
@pytest.mark.parametrize('temperature', [0.5, 1.0, 3.0])
def test_the_temperature_the_data_were_drawn_with_is_found(temperature, exclusive):
    rows = drawn_rows(count=4000, temperature=temperature, exclusive=exclusive)
    # One standard error of ln T is about 0.03.
    assert fit(rows, exclusive) == pytest.approx(temperature, rel=0.1)


@pytest.mark.parametrize('exclusive', [True, False])
def test_scaling_mends_what_it_is_fitted_to(exclusive):
    valid = drawn_rows(count=500, temperature=3.0, exclusive=exclusive, seed=1)
    test = drawn_rows(count=2000, temperature=3.0, exclusive=exclusive, seed=2)
    mended = test | {'probability': calibration.apply_temperature(
        test['probability'], fit(valid, exclusive), exclusive=exclusive)}
    for score in (calibration.log_loss, calibration.brier,
                  calibration.expected_calibration_error):
        assert score(mended, exclusive=exclusive) < score(test, exclusive=exclusive)
    error = calibration.expected_calibration_error(mended, exclusive=exclusive)
    assert error < calibration.error_by_chance(mended, exclusive=exclusive)[1] * 1.3


@pytest.mark.parametrize('exclusive', [True, False])
def test_few_images_without_a_mistake_do_not_make_the_model_infinitely_sure(exclusive):
    targets = np.eye(3)[[0, 1, 2, 0, 1]]
    low, high = calibration.BOUNDS
    for sureness in (0.6, 0.9, 1 - 1e-9, 1.0):
        probability = np.where(targets == 1, sureness, (1 - sureness) / 2)
        fitted = calibration.fit_temperature(probability, targets, exclusive=exclusive)
        assert 0.15 < fitted <= 1.01
    wrong = 1 - targets  # sure and always wrong
    assert 1 < calibration.fit_temperature(wrong, targets, exclusive=exclusive) <= high
    assert low < 0.15


@pytest.mark.parametrize('exclusive', [True, False])
def test_unknown_targets_do_not_move_the_temperature(exclusive):
    rows = drawn_rows(count=200, temperature=2.0, exclusive=exclusive)
    before = fit(rows, exclusive)
    more = {
        'probability': np.concatenate([rows['probability'], np.full((50, 3), 0.999)]),
        'targets': np.concatenate([rows['targets'], np.full((50, 3), NAN)])}
    assert fit(more, exclusive) == pytest.approx(before, rel=1e-4)
    nothing = {'probability': np.full((2, 3), 0.5), 'targets': np.full((2, 3), NAN)}
    assert fit(nothing, exclusive) == 1.0
    with pytest.raises(ValueError, match='NaN'):
        fit(rows | {'probability': rows['probability'] * NAN}, exclusive)


@pytest.mark.parametrize('exclusive', [True, False])
def test_temperature_on_probabilities_is_that_on_logits(exclusive):
    logits = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32) * 3
    given = special.softmax(logits, axis=1) if exclusive else special.expit(logits)
    scale = jax.jit(
        lambda x, t: calibration.scale_logits(x, t, exclusive=exclusive))
    for temperature in (0.5, 1.0, 2.5):
        ours = calibration.apply_temperature(given, temperature, exclusive=exclusive)
        np.testing.assert_allclose(scale(logits, temperature), ours, atol=2e-5)
    same = calibration.apply_temperature(given, 1.0, exclusive=exclusive)
    np.testing.assert_allclose(same, given, atol=1e-6)


def test_temperature_keeps_what_is_named():
    rows = drawn_rows(count=100, temperature=1.0, exclusive=True)
    for temperature in (0.1, 10.0):
        scaled = calibration.apply_temperature(
            rows['probability'], temperature, exclusive=True)
        np.testing.assert_array_equal(
            scaled.argmax(axis=1), rows['probability'].argmax(axis=1))
        labels = calibration.apply_temperature(
            rows['probability'], temperature, exclusive=False)
        np.testing.assert_array_equal(labels > 0.5, rows['probability'] > 0.5)


def test_calibration_error_is_worked_out_by_hand():
    # Labels in two bins of two: (0.1, 0.3), of which one is true, and (0.6, 1.0), both.
    rows = {'probability': np.array([[0.6], [0.1], [1.0], [0.3]]),
            'targets': np.array([[1.0], [0.0], [1.0], [1.0]])}
    expected = (abs(0.4 - 1) + abs(1.6 - 2)) / 4
    assert calibration.expected_calibration_error(
        rows, exclusive=False, bins=2) == pytest.approx(expected)
    bins = calibration.reliability(rows, exclusive=False, bins=2)
    assert bins.count.tolist() == [2, 2]
    np.testing.assert_allclose(bins.probability, [0.2, 0.8])
    np.testing.assert_allclose(bins.share, [0.5, 1.0])


def test_exclusive_classes_are_asked_how_sure_the_model_is_of_the_one_it_names():
    rows = {'probability': np.array([[0.5, 0.3, 0.2], [0.1, 0.9, 0.0]]),
            'targets': np.eye(3)[[0, 2]]}
    # 0.5 came true, 0.9 didn't; in one bin the gap is |1.4 - 1| / 2.
    assert calibration.expected_calibration_error(
        rows, exclusive=True, bins=1) == pytest.approx(0.2)
    assert calibration.expected_calibration_error(
        rows, exclusive=True, bins=2) == pytest.approx((0.5 + 0.9) / 2)


def test_equal_probabilities_share_a_bin_whatever_the_order():
    # The majority baseline: 30 of 100 come true at 0.3 each, so it is calibrated.
    targets = np.arange(100)[:, None] < 30
    rows = {'probability': np.full((100, 1), 0.3), 'targets': targets.astype(float)}
    assert calibration.expected_calibration_error(
        rows, exclusive=False) == pytest.approx(0, abs=1e-12)
    assert calibration.reliability(rows, exclusive=False).count.tolist() == [100]
    rows = drawn_rows(count=200, temperature=2.0, exclusive=False)
    rows['probability'] = np.round(rows['probability'], 1)
    turned = {name: column[::-1] for name, column in rows.items()}
    assert calibration.expected_calibration_error(
        rows, exclusive=False) == pytest.approx(
        calibration.expected_calibration_error(turned, exclusive=False))


def test_bins_hold_equally_many():
    rows = drawn_rows(count=1000, temperature=1.0, exclusive=True)
    bins = calibration.reliability(rows, exclusive=True)
    assert bins.count.tolist() == [100] * 10
    assert (np.diff(bins.probability) > 0).all()
    one = calibration.reliability(rows, exclusive=True, k=1)
    assert one.count.sum() == 1000
    assert np.average(one.share, weights=one.count) == pytest.approx(
        rows['targets'][:, 1].mean())


def test_chance_error_is_that_of_a_calibrated_model():
    rows = drawn_rows(count=300, temperature=1.0, exclusive=True)
    mean, high = calibration.error_by_chance(rows, exclusive=True)
    errors = []
    for seed in range(40):
        drawn = drawn_rows(count=300, temperature=1.0, exclusive=True, seed=seed)
        errors.append(calibration.expected_calibration_error(drawn, exclusive=True))
    assert mean == pytest.approx(np.mean(errors), rel=0.15)
    assert mean < high and np.mean(np.array(errors) > high) < 0.2
    sure = drawn_rows(count=300, temperature=4.0, exclusive=True)
    assert calibration.expected_calibration_error(
        sure, exclusive=True) > calibration.error_by_chance(sure, exclusive=True)[1]


def test_brier_and_log_loss_agree_with_scikit_learn():
    rows = drawn_rows(count=100, temperature=1.0, exclusive=True)
    truth = rows['targets'].argmax(axis=1)
    assert calibration.log_loss(rows, exclusive=True) == pytest.approx(
        sklearn_metrics.log_loss(truth, rows['probability']))
    several = drawn_rows(count=100, temperature=1.0, exclusive=False, classes=1)
    assert calibration.brier(several, exclusive=False) == pytest.approx(
        sklearn_metrics.brier_score_loss(
            several['targets'][:, 0], several['probability'][:, 0]))
    assert calibration.log_loss(several, exclusive=False) == pytest.approx(
        sklearn_metrics.log_loss(
            several['targets'][:, 0], several['probability'][:, 0]))
    # Worst of all: sure of a wrong class, off by 1 in two of them.
    wrong = {'probability': np.array([[1.0, 0.0]]), 'targets': np.array([[0.0, 1.0]])}
    assert calibration.brier(wrong, exclusive=True) == 2.0
    assert calibration.brier(wrong, exclusive=False) == 1.0
    wrong['targets'][0, 0] = NAN
    assert calibration.brier(wrong, exclusive=False) == 1.0


def test_wilson_interval_is_that_of_the_textbook():
    z = NormalDist().inv_cdf(0.975)
    low, high = calibration.wilson_interval([0, 5, 10, 0], [10, 10, 10, 0])
    # None of n: from 0 to z^2 / (n + z^2).
    assert low[0] == 0 and high[0] == pytest.approx(z ** 2 / (10 + z ** 2))
    assert high[2] == 1 and low[2] == pytest.approx(10 / (10 + z ** 2))
    assert (low[1], high[1]) == (pytest.approx(0.2366, abs=1e-4),
                                 pytest.approx(0.7634, abs=1e-4))
    assert np.isnan([low[3], high[3]]).all()


@pytest.mark.parametrize('exclusive', [True, False])
def test_nothing_known_is_nan_without_a_warning(exclusive):
    for rows in ({'probability': np.zeros((0, 3)), 'targets': np.zeros((0, 3))},
                 {'probability': np.ones((2, 3)), 'targets': np.full((2, 3), NAN)}):
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            for score in (calibration.log_loss, calibration.brier,
                          calibration.expected_calibration_error):
                assert np.isnan(score(rows, exclusive=exclusive))
            assert np.isnan(
                calibration.error_by_chance(rows, exclusive=exclusive)).all()
            assert not len(calibration.reliability(rows, exclusive=exclusive).count)
