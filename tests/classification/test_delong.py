import math
import warnings

import numpy as np
import pytest
from scipy import special, stats

from jaxmed import metrics
from jaxmed.classification import delong, scores

NAN = float('nan')


def draw(*, count, seed, apart=1.0, share=0.4, step=0.1):
    """Scores of two models on the same cases, with ties, and the truth."""
    random = np.random.default_rng(seed)
    truth = (random.random(count) < share).astype(float)
    common = random.normal(size=count) + apart * truth
    first, second = (
        np.round((common + random.normal(size=count)) / step) * step for _ in range(2))
    return first, second, truth


def by_all_pairs(first, second, truth):
    """DeLong's covariance of two areas as it is written, over every pair."""
    places = []
    for score in (first, second):
        above = score[truth == 1][:, None] - score[truth == 0][None, :]
        psi = (above > 0) + 0.5 * (above == 0)
        places.append((psi.mean(axis=1), psi.mean(axis=0), psi.mean()))
    (x, y, area), (u, v, other) = places
    return area, other, np.cov(x, u) / len(x) + np.cov(y, v) / len(y)


def test_an_area_of_four_cases_is_worked_out_by_hand():
    # With: 3, 5. Without: 1, 4. Of four pairs 3 < 4 alone is wrong. Placements 1/2, 1
    # and 1, 1/2: each a variance of 1/8, over two cases each: 1/8 in all.
    area = delong.measure_auc([3, 5, 1, 4], [1, 1, 0, 0])
    assert area.value == 0.75 and area.n_with == area.n_without == 2
    assert area.deviation == pytest.approx(math.sqrt(1 / 8))
    reach = 1.959964 * math.sqrt(1 / 8) / (3 / 16)
    assert area.low == pytest.approx(1 / (1 + math.exp(reach) / 3))
    assert area.high == pytest.approx(1 / (1 + math.exp(-reach) / 3))


def test_two_models_on_four_cases_are_worked_out_by_hand():
    # The second has the area 1, all placements 1: the variance is that of the first.
    result = delong.compare_aucs([3, 5, 1, 4], [3, 5, 1, 2], [1, 1, 0, 0])
    assert result.value == -0.25
    assert result.p == pytest.approx(2 * stats.norm.sf(0.25 * math.sqrt(8)))
    assert result.low == pytest.approx(-0.25 - 1.959964 / math.sqrt(8))
    back = delong.compare_aucs([3, 5, 1, 2], [3, 5, 1, 4], [1, 1, 0, 0])
    assert back.value == 0.25 and back.p == result.p and back.high == -result.low


@pytest.mark.parametrize('seed', range(4))
def test_midranks_give_what_all_pairs_give(seed):
    first, second, truth = draw(count=80, seed=seed)
    area, other, covariance = by_all_pairs(first, second, truth)
    measured = delong.measure_auc(first, truth)
    assert measured.value == pytest.approx(area)
    assert measured.deviation ** 2 == pytest.approx(covariance[0, 0])
    result = delong.compare_aucs(first, second, truth)
    spread = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert result.value == pytest.approx(area - other)
    assert result.p == pytest.approx(2 * stats.norm.sf(abs(area - other) / spread))
    assert result.high - result.low == pytest.approx(2 * 1.959964 * spread)


def test_the_area_is_that_of_scores():
    first, _, truth = draw(count=300, seed=5)
    rows = {'probability': first[:, None], 'targets': truth[:, None]}
    assert delong.measure_auc(first, truth).value == pytest.approx(
        scores.auc(rows, exclusive=False)[0])


def test_deviations_are_those_of_a_bootstrap():
    first, second, truth = draw(count=300, seed=6)
    rows = {'first': first, 'second': second, 'truth': truth}

    def both(rows):
        areas = [delong.measure_auc(rows[name], rows['truth']).value
                 for name in ('first', 'second')]
        return np.array([areas[0], areas[0] - areas[1]])

    low, high = metrics.bootstrap_interval(
        rows, both, groups=np.arange(300), resamples=1500, seed=0)
    # Quantiles of 1500 draws are sure to some 5% of the width.
    area, difference = delong.measure_auc(first, truth), delong.compare_aucs(
        first, second, truth)
    assert area.high - area.low == pytest.approx(high[0] - low[0], rel=0.1)
    assert difference.high - difference.low == pytest.approx(high[1] - low[1], rel=0.1)


def test_scans_of_one_patient_promise_no_more_than_one_of_them():
    first, second, truth = draw(count=100, seed=7)
    once = delong.measure_auc(first, truth)
    patients = np.repeat(np.arange(100), 3)
    thrice = delong.measure_auc(
        np.repeat(first, 3), np.repeat(truth, 3), groups=patients)
    assert thrice.deviation == pytest.approx(once.deviation)
    ignored = delong.measure_auc(np.repeat(first, 3), np.repeat(truth, 3))
    assert ignored.deviation < once.deviation / 1.5
    before, after = delong.compare_aucs(first, second, truth), delong.compare_aucs(
        *(np.repeat(x, 3) for x in (first, second, truth)), groups=patients)
    assert after.p == pytest.approx(before.p)


def test_patients_with_scans_of_both_kinds_count_with_their_covariance():
    # Their scans move together, so what is above stays above: the area is surer.
    random = np.random.default_rng(8)
    patients, truth = np.repeat(np.arange(150), 2), np.tile([0.0, 1.0], 150)
    score = np.repeat(random.normal(size=150) * 2, 2) + truth + random.normal(size=300)
    apart = delong.measure_auc(score, truth)
    together = delong.measure_auc(score, truth, groups=patients)
    assert together.value == apart.value and together.deviation < apart.deviation
    low, high = metrics.bootstrap_interval(
        {'score': score, 'truth': truth}, lambda rows: delong.measure_auc(
            rows['score'], rows['truth']).value,
        groups=patients, resamples=1000, seed=0)
    assert together.high - together.low == pytest.approx(high - low, rel=0.12)


def test_a_perfect_area_has_an_interval_of_some_width():
    few, many = (delong.measure_auc(np.arange(n), np.arange(n) >= n // 2)
                 for n in (20, 200))
    for area in (few, many):
        assert area.value == area.high == 1 and area.deviation == 0
    assert few.low < many.low < 1
    # At its lower bound t: 1 - t = 1.96 sqrt(v(t)), v of 10 and 10 cases.
    t = few.low
    variance = t * (1 - t) / 100 * (1 + 9 * ((1 - t) / (2 - t) + t / (1 + t)))
    assert 1 - t == pytest.approx(1.959964 * math.sqrt(variance))
    worst = delong.measure_auc(-np.arange(20), np.arange(20) >= 10)
    assert (worst.value, worst.low) == (0, 0)
    assert worst.high == pytest.approx(1 - few.low)


def test_a_model_that_says_the_same_of_all_is_not_sure_of_its_area():
    truth = np.arange(60) >= 40
    area = delong.measure_auc(np.full(60, 0.3), truth)
    assert area.value == 0.5 and area.deviation < 1e-12
    for t in (area.low, area.high):  # 1/2 - t = -+1.96 sqrt(v(t)), v of 20 and 40 cases
        variance = t * (1 - t) / 800 * (1 + 29 * ((1 - t) / (2 - t) + t / (1 + t)))
        assert abs(0.5 - t) == pytest.approx(1.959964 * math.sqrt(variance))
    assert area.low == pytest.approx(1 - area.high)
    # About as wide as that of a model that guesses.
    guess = delong.measure_auc(np.random.default_rng(0).random(60), truth)
    assert area.high - area.low == pytest.approx(guess.high - guess.low, rel=0.2)


def test_intervals_stay_within_0_and_1_and_hold_the_truth_as_often_as_they_say():
    random, held, runs = np.random.default_rng(9), 0, 400
    true, apart = 0.95, special.ndtri(0.95) * math.sqrt(2)
    truth = np.repeat([1.0, 0.0], [30, 60])
    for _ in range(runs):
        area = delong.measure_auc(random.normal(size=90) + apart * truth, truth)
        assert 0 <= area.low <= area.value <= area.high <= 1
        held += area.low <= true <= area.high
    assert 0.92 <= held / runs <= 0.98


def test_equal_areas_are_told_apart_as_rarely_as_they_should_be():
    p = [delong.compare_aucs(*draw(count=120, seed=seed, step=1e-6)).p
         for seed in range(400)]
    assert 0.02 <= np.mean(np.array(p) < 0.05) <= 0.08


def test_models_that_rank_alike_do_not_differ():
    first, _, truth = draw(count=50, seed=3)
    result = delong.compare_aucs(first, 3 * first + 1, truth)
    assert (result.value, result.low, result.high, result.p) == (0, 0, 0, 1)
    perfect = np.arange(10) >= 5
    opposite = delong.compare_aucs(perfect, ~perfect, perfect)
    assert opposite.value == 1 and math.isnan(opposite.p)


def test_what_is_undefined_is_nan_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for score, truth, counts in (
            ([1, 2], [1, 1], (2, 0)), ([1, 2], [0, 0], (0, 2)), ([], [], (0, 0)),
            ([NAN, 2], [1, 0], (1, 1)),
        ):
            area = delong.measure_auc(score, truth)
            assert area[4:] == counts and np.isnan(area[:4]).all()
            assert np.isnan(delong.compare_aucs(score, score, truth)[:4]).all()
        alone = delong.measure_auc([2, 1, 0], [1, 0, 0])
        assert alone.value == 1 and math.isnan(alone.low)
        same = delong.compare_aucs([2, 1, 0], [1, 2, 0], [1, 0, 0])
        assert same.value == 0.5 and math.isnan(same.p)


def test_cases_of_unknown_truth_are_left_out():
    first, second, truth = draw(count=60, seed=4)
    more = np.append(truth, [NAN, NAN])
    for extra in ([5.0, 1.0], [NAN, 0.0]):
        assert delong.measure_auc(np.append(first, extra), more) == delong.measure_auc(
            first, truth)
        longer = np.append(first, extra), np.append(second, extra)
        assert delong.compare_aucs(*longer, more, groups=np.arange(62)) == (
            delong.compare_aucs(first, second, truth))
