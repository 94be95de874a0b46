"""What a report says of the intervals that users get, and of a model's own spread."""

import numpy as np
import pytest

from jaxmed.tasks import spine_intervals, spine_sureness
from tests.tasks.spine_cases import FIXED, draw, make, rows_of, tables_of


def test_intervals_are_measured_as_users_get_them():
    # Of width 0.2: 0.1 to 0.5 holds 0.4, 0.3 to 0.7 doesn't hold 0.9, 0.6 to 1 does.
    cases = rows_of([0.3, 0.5, 0.9, 0.1], [0.4, 0.9, 0.7, 0.0])
    part = make(cases, calibrations=[FIXED])['How sure']
    (table,) = tables_of(part).values()
    assert table['All']['Truth within']['value'] == pytest.approx(0.75)
    # Up to 0.5 is no flag; 0.3 to 0.7 leaves a doubt.
    assert table['All']['On one side of 0.5']['value'] == pytest.approx(0.75)
    # 0.7 to 1 and 0 to 0.3: cut off where the index ends.
    assert table['All']['Mean width']['value'] == pytest.approx((0.4 * 2 + 0.3 * 2) / 4)
    assert table['True index over 0.5']['Truth within']['value'] == pytest.approx(0.5)
    assert table['True index 0.5 or less']['Truth within']['value'] == 1
    for words in (
        'in 90% of new people, by the errors in 38 validation cases of 19 people',
        'interval of its own: 0.250 to either side, beside 0.200 of a whole',
    ):
        assert words in part.text
    alike = FIXED | {'windows': 38}  # one window a case: there is nothing to tell
    assert 'window' not in make(cases, calibrations=[alike])['How sure'].text
    assert 'no spread of its own' in part.text


def test_intervals_grow_with_the_spread_where_they_are_calibrated_by_it():
    cases = rows_of([0.3, 0.3, 0.3], [0.35, 0.45, 0.45], spread=[0.1, 0.1, 0.2])
    part = make(cases, calibrations=[FIXED | {'by_spread': True, 'width': 1.0}])
    table = tables_of(part['How sure'])['Intervals of single predictions']
    assert table['All']['Truth within']['value'] == pytest.approx(2 / 3)
    low, high = spine_intervals.bounds(0.3, 0.2, FIXED | {'by_spread': True})[1:]
    assert high - low == pytest.approx(0.08)


@pytest.mark.parametrize('error, words', [
    (0.3, 'too few: they are too narrow here'),
    (0.01, 'more than they should: they are wider than need be')])
def test_it_says_whether_intervals_keep_their_word(error, words):
    truth = np.linspace(0.3, 0.6, 60)
    text = make(rows_of(truth + error, truth), calibrations=[FIXED])['How sure'].text
    assert words in text


def test_luck_of_few_validation_cases_is_that_of_ranks():
    # The greatest of 19 uniform errors: a share u with chance u ** 18, Beta(19 - 1, 2)
    # for the 18th. Simulated: how much of new errors the 18th of 19 is above.
    random = np.random.default_rng(0)
    reached = np.sort(random.random((40_000, 19)), axis=1)[:, 17]
    assert spine_sureness._luck(19, 0.9) == pytest.approx(
        np.quantile(reached, [0.025, 0.975]), abs=0.01)


def test_each_fold_is_measured_with_its_own_intervals():
    # Off by 0.1, 0.4, 0.2 and 0.1; the widths of their folds are 0.05, 0.5, 0.5, 0.2.
    cases = rows_of([0.3, 0.5, 0.9, 0.1], [0.4, 0.9, 0.7, 0.0]) | {
        'fold': np.array([2, 1, 1, 0])}
    calibrations = [FIXED, FIXED | {'width': 0.5, 'people': 12}, FIXED | {
        'width': 0.05}]
    part = make(cases, calibrations=calibrations)['How sure']
    (table,) = tables_of(part).values()
    assert len(table) == 3
    assert table['All']['Truth within']['value'] == pytest.approx(0.75)
    # 0.25 to 0.35, 0 to 1, 0.4 to 1, 0 to 0.3.
    assert table['All']['Mean width']['value'] == pytest.approx(
        (0.1 + 1 + 0.6 + 0.3) / 4)
    assert table['All']['On one side of 0.5']['value'] == pytest.approx(0.5)
    for words in ('Each fold has its own', 'of 12 to 19 people', 'which 12 people',
                  'beside 0.050 to 0.500 of a whole'):
        assert words in part.text
    assert 'have none' not in part.text


def test_cases_of_folds_without_intervals_are_told_and_left_out():
    cases = rows_of([0.3, 0.5, 0.9, 0.1], [0.4, 0.9, 0.7, 0.0]) | {
        'fold': np.array([1, 0, 0, 2])}
    few = FIXED | {'width': None, 'window_width': None, 'reason': 'few people'}
    part = make(cases, calibrations=[few, FIXED, {}])['How sure']
    (table,) = tables_of(part).values()
    assert table['All']['Cases'] == 1 and table['All']['Truth within']['value'] == 1
    assert '2 of 3 folds have none (few people): 3 cases of theirs' in part.text
    part = make(cases, calibrations=[few, few, few])['How sure']
    assert 'come without an interval: few people.' in part.text and not part.tables


def test_the_mean_of_several_runs_is_measured_with_the_widest_intervals():
    cases = rows_of([0.3, 0.5, 0.9, 0.1], [0.4, 0.9, 0.7, 0.0])
    part = make(cases, calibrations=[
        FIXED, FIXED | {'width': 0.5}, FIXED | {'width': 0.05}])['How sure']
    (table,) = tables_of(part).values()
    assert table['All']['Truth within']['value'] == 1 and len(table) == 3
    assert 'Of 3 runs, whose mean is predicted, it is the widest' in part.text
    # One has none, so the mean has none either: as users get it.
    part = make(cases, calibrations=[FIXED, {}])['How sure']
    assert 'come without an interval: none was fitted' in part.text


def test_without_an_interval_the_reason_is_told():
    cases = draw()
    few = FIXED | {'width': None, 'window_width': None, 'people': 4, 'reason':
                   'only 4 of the 9 people that an interval of level 0.9 takes'}
    text = make(cases, calibrations=[few])['How sure'].text
    assert 'come without an interval: only 4 of the 9 people' in text
    assert 'none was fitted' in make(cases)['How sure'].text


def test_thirds_of_spread_tell_whether_it_means_something():
    spread = np.repeat([0.0625, 0.125, 0.25], 4)
    sign = np.tile([1, -1, 1, -1], 3)
    cases = rows_of(0.5 + sign * spread, np.full(12, 0.5), spread=spread)
    part = make(cases)['How sure']
    table = tables_of(part)['By spread']
    for name, value in (
        ('Lowest third, 0.062', 0.0625), ('Middle third, 0.125', 0.125),
        ('Highest third, 0.250', 0.25),
    ):
        assert table[name]['Cases'] == 4
        assert table[name]['Mean error']['value'] == pytest.approx(value)
        # The mean of |x| of a normal distribution is 0.798 of its spread.
        assert table[name]['Expected']['value'] == pytest.approx(0.79788 * value, 1e-4)
    assert 'rank correlation is 1.00' in part.text
