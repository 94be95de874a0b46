"""How far off single predictions may be: each person weighs alike, windows apart."""

import json

import numpy as np
import pytest

from configs import spine_health_lstm as config
from jaxmed.errors import InputError
from jaxmed.tasks import spine_health, spine_intervals

FIXED = {
    'width': 0.2, 'window_width': 0.3, 'by_spread': False, 'level': 0.9, 'people': 19,
    'cases': 19, 'windows': 57, 'reason': ''}


def rows_of(error, *, people=None, truth=0.2, spread=0.0):
    """Rows that are off by so much; each of another person unless `people` says whose.
    """
    count = len(error)
    truth = np.broadcast_to(np.float64(truth), count)
    return {
        'index': truth + error, 'truth': truth,
        'spread': np.broadcast_to(np.float64(spread), count),
        'patient_id': np.array([
            f'p{i:04}' for i in (range(count) if people is None else people)])}


def width_of(error, **options):
    rows = rows_of(np.asarray(error, float), **options)
    return spine_intervals.calibrate(rows, rows)['width']


@pytest.mark.parametrize('count, rank', [(9, 9), (19, 18), (10, 10), (100, 91)])
def test_of_one_case_each_it_is_the_error_of_the_hand_counted_rank(count, rank):
    # The smallest rank r with r / (count + 1) >= 0.9.
    assert rank / (count + 1) >= 0.9 > (rank - 1) / (count + 1)
    errors = np.random.default_rng(0).permutation(np.arange(1, count + 1) / 200)
    rows = rows_of(errors)
    values = spine_intervals.calibrate(rows, rows)
    assert values['width'] == values['window_width'] == pytest.approx(rank / 200)
    assert values['people'] == values['cases'] == values['windows'] == count
    assert not values['by_spread'] and values['reason'] == ''
    json.dumps(values)


def test_who_has_many_cases_weighs_no_more_than_who_has_one():
    few = np.arange(1, 10) / 100
    # Nine people: all of them are needed, however many small errors one of them has.
    assert width_of([*few, *[0.001] * 99], people=[*range(9), *[0] * 99]) == (
        pytest.approx(0.09))
    # Nineteen: 18 of 20 shares are needed, and one person's are not among them.
    many = np.arange(1, 20) / 100
    assert width_of([*many, *[0.9] * 99], people=[*range(19), *[18] * 99]) == (
        pytest.approx(0.18))
    # The person with 0.01 and 0.9 has half a share of each: 0.5 + 17 are too few, with
    # the 18th of the others it is 18.5.
    assert width_of([0.01, 0.9, *many[1:]], people=[0, *range(19)]) == (
        pytest.approx(0.19))


def test_of_fewer_than_nine_people_there_is_no_interval():
    errors = np.arange(18) / 100
    people = np.arange(18) // 2
    rows = rows_of(errors, people=people)
    assert spine_intervals.calibrate(rows, rows)['width'] == pytest.approx(0.17)
    rows['truth'] = np.where(people == 4, np.nan, 0.2)  # without a rating: no one
    values = spine_intervals.calibrate(rows, rows)
    assert values['width'] is None and values['window_width'] is None
    assert (values['people'], values['cases']) == (8, 16)
    assert values['reason'] == (
        'only 8 of the 9 people that an interval of level 0.9 takes')
    nobody = rows_of([0.1], truth=np.nan)
    nobody = spine_intervals.calibrate(nobody, nobody)
    assert nobody['width'] is None and nobody['people'] == 0
    json.dumps(nobody)


def test_windows_have_a_width_of_their_own_errors():
    # Of a case two windows, off by 0.1 more and less than the case.
    errors = np.random.default_rng(0).permutation(np.arange(1, 20) / 100)
    cases = rows_of(errors, truth=0.5)
    windows = rows_of(
        (errors[:, None] + [0.1, -0.1]).ravel(), truth=0.5, people=np.arange(38) // 2)
    values = spine_intervals.calibrate(cases, windows)
    assert values['width'] == pytest.approx(0.18)
    # 38 halves of a share, of which 36 are needed: all but 0.28 and 0.29.
    assert values['window_width'] == pytest.approx(0.27)
    assert (values['cases'], values['windows']) == (19, 38)
    assert spine_intervals.of_windows(values)['width'] == values['window_width']
    assert spine_intervals.of_windows(None) is None


def test_a_task_calibrates_cases_as_means_and_windows_one_by_one():
    options = config.get_config('strong').task.to_dict()
    calibrate = spine_health.make(**options).calibrate
    errors = np.arange(1, 20) / 100
    rows = rows_of(
        (errors[:, None] + [0.1, -0.1]).ravel(), truth=0.5, people=np.arange(38) // 2)
    names = np.array([f'{name}/walk' for name in rows['patient_id']])
    values = calibrate(rows | {
        'case_id': names, 'example_id': names, 'seen': np.ones(38)})
    assert (values['width'], values['window_width']) == pytest.approx((0.18, 0.27))


@pytest.mark.parametrize('by_spread', [False, True])
def test_intervals_hold_in_nine_of_ten_new_people_and_follow_the_spread(by_spread):
    random = np.random.default_rng(0)

    def draw_rows(people):
        """One to six cases each, whose errors are much alike."""
        whose = np.repeat(np.arange(people), random.integers(1, 7, people))
        spread = random.uniform(0.01, 0.1, people)[whose]
        error = spread * (random.standard_t(3, people)[whose]
                          + 0.3 * random.normal(size=len(whose)))
        return rows_of(error, people=whose, truth=0, spread=spread * by_spread), spread

    held = []
    for _ in range(150):
        (fitted, _), (new, spread) = draw_rows(49), draw_rows(200)
        values = spine_intervals.calibrate(fitted, fitted)
        assert values['by_spread'] == by_spread and values['people'] == 49
        half = values['width'] * (spread if by_spread else 1)
        hits, (_, whose) = np.abs(new['index']) <= half, np.unique(
            new['patient_id'], return_inverse=True)
        held.append(np.mean(np.bincount(whose, hits) / np.bincount(whose)))
    # From 0.9 to 0.9 and two shares of 50; 0.005 is two standard errors.
    assert 0.9 - 0.005 <= np.mean(held) <= 0.94 + 0.005


def test_many_alike_cases_of_few_people_promise_no_more_than_the_people_do():
    random = np.random.default_rng(1)
    held, as_if_apart = [], []
    for _ in range(400):
        errors = np.abs(random.normal(size=14))
        repeated = np.repeat(errors, 20)
        new = np.abs(random.normal(size=500))
        held.append(np.mean(new <= width_of(repeated, people=np.arange(280) // 20)))
        as_if_apart.append(np.mean(new <= width_of(repeated)))
    # The greatest of 14: 14 of 15; as if apart the 253rd of 280, the 13th: 13 of 15.
    assert np.mean(held) == pytest.approx(14 / 15, abs=0.015)
    assert np.mean(as_if_apart) == pytest.approx(13 / 15, abs=0.015)


def test_an_ensemble_has_the_widest_intervals_of_its_members_or_none():
    def values(width, window_width=0.5, by_spread=False):
        return FIXED | {
            'width': width, 'window_width': window_width, 'by_spread': by_spread,
            'reason': '' if width else 'few'}

    def interval(*several):
        task = spine_health.make(**config.get_config('strong').task.to_dict())
        return task.together(several).findings.keywords['interval']

    assert interval(values(0.1), values(0.3), values(0.2)) == values(0.3)
    assert interval(values(0.1, 0.6), values(0.3, 0.4)) == values(0.3, 0.6)
    assert interval(values(0.1), values(None, None)) == values(None, None)
    # One of them is not calibrated; or one is in spreads, the other in indices.
    assert interval(values(0.1), {}) is None
    assert interval(values(0.1), values(1.7, by_spread=True)) is None


def test_a_calibration_without_a_width_of_windows_is_refused():
    task = spine_health.make(**config.get_config('strong').task.to_dict())
    assert task.calibrated(FIXED).findings.keywords['interval'] == FIXED
    with pytest.raises(InputError, match='fitted by an older jaxmed, without window'):
        task.calibrated({'width': 0.2, 'by_spread': False, 'level': 0.9})
    with pytest.raises(KeyError, match='width'):  # of no version
        task.calibrated({'by_spread': False})


@pytest.mark.parametrize('index, spread, interval, expected', [
    (0.3, 0.0, None, (0.3, None, None)),
    (0.3, 0.0, FIXED | {'width': None, 'reason': 'few'}, (0.3, None, None)),
    (0.3, 9.0, FIXED, (0.3, 0.1, 0.5)),
    (0.1, 0.0, FIXED, (0.1, 0.0, 0.3)), (0.9, 0.0, FIXED, (0.9, 0.7, 1.0)),
    (0.5, 0.1, FIXED | {'width': 2.0, 'by_spread': True}, (0.5, 0.3, 0.7)),
])
def test_an_interval_is_as_wide_as_was_calibrated_and_within_0_and_1(
    index, spread, interval, expected
):
    assert spine_intervals.bounds(index, spread, interval) == pytest.approx(expected)
