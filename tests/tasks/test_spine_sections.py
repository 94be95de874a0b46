import json
import math
import warnings

import numpy as np
import pytest

from jaxmed import metrics, report
from jaxmed.classification import calibration, figures
from jaxmed.tasks import spine_intervals, spine_sections

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


FOUND = {
    'recordings': 55, 'subjects': 20, 'unrated': 4, 'shared_patients': 0,
    'unprocessable': {'p3/jump': 'nobody is visible in it'},
    'counts': {'frames': 2000, 'frames_before': 2000, 'frames_nobody': 50,
               'frames_after': 4000, 'time_stamps_mended': 3, 'frames_odd': 1,
               'joints_dropped_share': 0.125}}


def test_every_part_is_there_and_the_report_holds_it_without_who_it_was(tmp_path):
    cases = draw()
    parts = make(cases, found=FOUND, calibrations=[FIXED | {'by_spread': True}])
    numbers, page = write(tmp_path, cases, parts)
    assert [part['title'] for part in json.loads(numbers)['sections']] == TITLES
    assert 'secret' not in page and 'secret' not in numbers
    for words in ('BackPain', 'touch toes', 'p3/jump', 'Frames with nobody', '2.50%',
                  'no diagnosis', 'split at random', '12.50%'):
        assert words in page
    assert page.count('<svg viewBox') == 3  # scatter, ROC; the histogram of errors


def test_bias_limits_and_slopes_are_those_worked_out_by_hand():
    # Predicted = 0.3 + (true - 0.3) / 2 + 0.1: differences 0.25, 0.15, 0.05, -0.05.
    table = tables_of(make(rows_of(
        [0.25, 0.35, 0.45, 0.55], [0, 0.2, 0.4, 0.6]))['Predicted and true'])
    values = [row['Value']['value'] for row in table['Agreement'].values()]
    wide = 1.96 * math.sqrt(2 * (0.15 ** 2 + 0.05 ** 2) / 3)
    assert values == pytest.approx([0.1, 0.1 - wide, 0.1 + wide, 0.5, 2.0])


def test_intervals_are_those_of_a_bootstrap_over_people():
    cases = draw()
    table = tables_of(make(cases, resamples=50)['By exercise, group and person'])
    jumps = only(cases, cases['exercise'] == 'jump')
    cell = table['By exercise']['jump']['MAE']
    assert cell['value'] == pytest.approx(metrics.mae(jumps))
    numbers = {name: jumps[name] for name in ('index', 'truth')}
    assert (cell['low'], cell['high']) == pytest.approx(metrics.bootstrap_interval(
        numbers, metrics.mae, groups=jumps['patient_id'], resamples=50, seed=0))


@pytest.mark.parametrize('slope, words', [
    (0.5, 'shrinks towards the mean: of a true difference of 0.10 its predictions show '
     '0.05'), (1.0, 'can not be told'), (1.5, 'differ more than the truth does'),
    (-0.3, 'do not follow the truth'),
], ids=['shrinks', 'keeps', 'exaggerates', 'contradicts'])
def test_it_says_plainly_whether_predictions_shrink(slope, words):
    random = np.random.default_rng(0)
    truth = 0.35 + 0.3 * random.random(60)
    index = 0.5 + slope * (truth - 0.5) + 0.01 * random.normal(size=60)
    text = make(rows_of(index, truth), resamples=200)['Predicted and true'].text
    assert words in text
    assert ('The model shrinks' in text) == (slope == 0.5)


def test_the_mean_of_those_with_a_red_flag_stands_beside_their_truth():
    text = make(rows_of([0.4, 0.5, 0.1], [0.6, 0.8, 0.5]))['Predicted and true'].text
    assert ('Where the true index is over 0.5 (2 cases) its mean is 0.70, that of the '
            'predictions 0.45.') in text


def test_points_are_where_the_axes_say_and_shapes_tell_exercises_apart():
    cases = rows_of([0.25, 0.5, NAN], [0.75, 0.1, 0.2],
                    exercise=['jump', 'walk & "turn"', 'jump'])
    (figure,) = make(cases)['Predicted and true'].figures
    x, y = figures.locate(0.75, 0.25)
    assert f'<circle class="dot" cx="{x}" cy="{y}" r="3.5"' in figure.svg
    x, y = figures.locate(0.1, 0.5)
    assert f'<rect class="other" x="{x - 3.5:g}" y="{y - 3.5:g}"' in figure.svg
    assert figure.svg.count('<circle') == 2 and figure.svg.count('<rect') == 2  # + key
    assert 'walk &amp; &quot;turn&quot;' in figure.svg
    assert 'case-0: 0.25, true 0.75' in figure.svg


def test_many_exercises_share_a_shape_and_of_many_points_some_are_drawn():
    count = spine_sections.POINTS_DRAWN + 1
    cases = rows_of(np.linspace(0, 1, count), np.linspace(0, 1, count),
                    exercise=[f'e{i % 6}' for i in range(count)])
    part = make(cases, resamples=2)['Predicted and true']
    assert part.figures[0].svg.count('<circle') == spine_sections.POINTS_DRAWN
    assert '<rect' not in part.figures[0].svg
    assert '800 of 801 points are drawn' in part.figures[0].caption


def test_exercises_groups_and_people_are_measured_apart():
    cases = rows_of(
        [0.1, 0.3, 0.5, 0.9], [0.2, 0.3, 0.7, 0.5], people=[0, 0, 1, 1],
        exercise=['jump', 'walk', 'jump', 'walk'], group=['a', 'a', '', ''])
    tables = tables_of(make(cases)['By exercise, group and person'])
    jump, walk = tables['By exercise']['jump'], tables['By exercise']['walk']
    assert (jump['Cases'], jump['People']) == (2, 2)
    assert jump['MAE']['value'] == pytest.approx(0.15)
    assert jump['Bias']['value'] == pytest.approx(-0.15)
    assert walk['Bias']['value'] == pytest.approx(0.2)
    assert walk['Mean true index']['value'] == pytest.approx(0.4)
    assert list(tables['By group']) == ['a', 'none given']
    assert tables['By group']['a']['People'] == 1
    assert tables['By group']['a']['MAE']['reason'] == 'no interval: one person only'
    # 0.2 of 0.25, and 0.7 of 0.6: 0.05 and 0.1 off.
    person = tables['By person']['Mean over cases, 2 cases each, on average']
    assert (person['Cases'], person['People']) == (2, 2)
    assert person['MAE']['value'] == pytest.approx(0.075)
    assert person['Bias']['value'] == pytest.approx(0.025)
    assert person['Spearman']['value'] == pytest.approx(1)


def test_groups_without_names_have_no_table_and_of_many_exercises_most_cases_count():
    many = [f'e{i:02}' for i in range(25) for _ in range(25 - i)]
    part = make(rows_of(np.linspace(0, 1, len(many)), np.linspace(0, 1, len(many)),
                        exercise=many), resamples=2)['By exercise, group and person']
    assert [table.title for table in part.tables] == ['By exercise', 'By person']
    assert len(part.tables[0].rows) == spine_sections.ROWS_SHOWN
    assert part.tables[0].rows[0][0] == 'e00' and part.tables[0].rows[-1][0] == 'e19'
    assert part.tables[0].note == '5 with fewer cases not shown.'


def test_red_flags_are_over_a_half_and_counted_by_hand():
    # One exactly at 0.5 on either side is none.
    index = [0.6, 0.5, 0.7, 0.4, 0.2, 0.9]
    truth = [0.5, 0.8, 0.9, 0.1, 0.5, 0.6]
    part = make(rows_of(index, truth), resamples=200)['Red flag']
    tables = tables_of(part)
    assert tables['Counts'] == {
        'Raised': {'True red flag': 2, 'None': 1},
        'Not raised': {'True red flag': 1, 'None': 2}}
    rates = {name.split(',')[0]: row for name, row in tables['Rates'].items()}
    for name, right, of in (('Sensitivity', 2, 3), ('Specificity', 2, 3), ('PPV', 2, 3),
                            ('NPV', 2, 3), ('Prevalence', 3, 6)):
        assert rates[name]['Value']['value'] == pytest.approx(right / of)
        assert rates[name]['Cases'] == f'{right} of {of}'
        assert rates[name]['Value']['low'] < right / of < rates[name]['Value']['high']
    # True flags at 0.5, 0.7 and 0.9, others at 0.6, 0.4 and 0.2: 8 of 9 pairs.
    assert rates['AUC']['Value']['value'] == pytest.approx(8 / 9)
    x, y = figures.locate(1 / 3, 2 / 3)
    assert f'<circle class="dot" cx="{x}" cy="{y}"' in part.figures[0].svg
    assert 'AUC 0.889; 3 of 6 cases' in part.figures[0].caption


def test_sensitivity_has_the_interval_of_the_main_table():
    cases = draw()
    rates = tables_of(make(cases, resamples=50)['Red flag'])['Rates']
    cell = rates['Sensitivity, of true red flags, those raised']['Value']
    main = report.summarise(
        cases, {'s': metrics.flag_sensitivity}, resamples=50, seed=0)['s']
    assert [cell[name] for name in ('value', 'low', 'high')] == pytest.approx(
        [main[name] for name in ('value', 'low', 'high')])


def test_a_share_of_all_has_the_interval_of_as_many_people():
    cases = rows_of([0.9] * 4, [0.8] * 4, people=[0, 0, 1, 1])
    part = make(cases)['Red flag']
    rates = {name.split(',')[0]: row['Value']
             for name, row in tables_of(part)['Rates'].items()}
    low, _ = calibration.wilson_interval(2, 2)
    assert rates['Sensitivity']['low'] == pytest.approx(float(low))
    assert rates['Specificity']['reason'] == 'only true red flags'
    assert rates['AUC']['reason'] == 'only true red flags'
    assert not part.figures and 'only true red flags' in part.text


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
    assert spine_sections._luck(19, 0.9) == pytest.approx(
        np.quantile(reached, [0.025, 0.975]), abs=0.01)


def test_of_several_runs_narrowest_and_widest_are_shown():
    cases = rows_of([0.3, 0.5, 0.9, 0.1], [0.4, 0.9, 0.7, 0.0])
    part = make(cases, calibrations=[
        FIXED, FIXED | {'width': 0.5}, {}, FIXED | {'width': 0.05}])['How sure']
    (table,) = tables_of(part).values()
    assert table['All, narrowest']['Truth within']['value'] == 0
    assert table['All, widest']['Truth within']['value'] == 1
    assert len(table) == 6
    assert 'Without any: 1 of 4 runs' in part.text and 'of 3 runs' in part.text


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


def test_equal_values_share_a_third():
    third = spine_sections._thirds(np.array([1.0, 1.0, 0.2, 1.0, 0.1, 1.0]))
    assert third.tolist() == [1, 1, 0, 1, 0, 1]
    assert spine_sections._thirds(np.full(5, 0.3)) is None
    assert np.bincount(spine_sections._thirds(np.arange(10.0))).tolist() == [4, 3, 3]


def test_errors_are_told_by_the_share_of_joints_seen():
    cases = rows_of([0.5, 0.5, 0.3, 0.3, 0.2, 0.2], [0.2, 0.2, 0.2, 0.2, 0.2, 0.2],
                    seen=[0.5, 0.6, 0.8, 0.9, 1.0, 1.0])
    table = tables_of(make(cases)['Quality of the input'])[
        'By share of joints that are known']
    errors = [row['MAE']['value'] for row in table.values()]
    assert errors == pytest.approx([0.3, 0.1, 0])
    assert list(table)[0] == 'Lowest third, 0.500 to 0.600'
    text = make(rows_of([0.5], [0.2]))['Quality of the input'].text
    assert 'The share of joints that are known is 1.000 everywhere.' in text


def test_what_reading_met_and_left_out_is_told():
    found = FOUND | {'unprocessable': {f'p{i:02}': 'damaged' for i in range(23)}}
    part = make(draw(), found=found)['Quality of the input']
    tables = tables_of(part)
    met = tables['What reading and cleaning met']
    assert met['Frames read'] == {'Value': '2,000', 'Of all frames': None}
    assert met['Frames with nobody'] == {'Value': '50', 'Of all frames': '2.50%'}
    assert met['Frames after resampling']['Of all frames'] is None
    assert met['Joints dropped: hardly visible']['Value'] == '12.50%'
    assert list(met)[-1] == 'Frames odd' and len(met) == 6
    assert list(tables['Left out']) == [f'p{i:02}' for i in range(20)]
    assert part.tables[-1].note == '3 more not shown.'
    assert 'Used are 55 recordings, by 20 people' in part.text
    assert '4 without a rating and 23 cases' in part.text


def test_people_on_both_sides_are_told():
    part = make(draw(), found={'shared_patients': 2})['How far to trust it']
    assert '2 people measured here are also among those' in part.text
    row = tables_of(part)['']['People on both sides of the split']
    assert row['Value'] == 2 and 'flatter' in row['What it means']
    part = make(draw(), found={'shared_patients': 0})['How far to trust it']
    assert 'both sides' not in part.text.split('\n\n')[0]
    assert tables_of(make(draw())['How far to trust it'])[''][
        'People on both sides of the split']['Value'] == 'not known'


def test_unknown_ratings_count_nowhere_but_in_how_many_there_are():
    cases = draw()
    blank = dict(cases, truth=np.where(np.arange(60) < 6, NAN, cases['truth']))
    rest = only(cases, np.arange(60) >= 6)
    options = dict(found=FOUND, calibrations=[FIXED])
    for title, part in make(blank, **options).items():
        other = make(rest, **options)[title]
        assert part.text == other.text
        if title != 'How far to trust it':
            assert part.tables == other.tables
    row = tables_of(make(blank)['How far to trust it'])['']['Cases measured']
    assert row == {'Value': 54,
                   'What it means': '6 more have no rating and count nowhere'}


def some(**columns):
    return draw() | columns


STRANGE = {
    'one case': rows_of([0.4], [0.6], spread=[0.1]),
    'one person': rows_of([0.4, 0.6], [0.6, 0.7], people=[0, 0]),
    'all unknown': some(truth=np.full(60, NAN)),
    'constant truth': some(truth=np.full(60, 0.3)),
    'constant index': some(index=np.full(60, 0.3)),
    'all of both constant': some(index=np.full(60, 0.3), truth=np.full(60, 0.3)),
    'an index that is not a number': some(
        index=np.where(np.arange(60) == 3, NAN, 0.4)),
    'no exercise': some(exercise=np.full(60, '')),
    'single precision': {
        name: column.astype(np.float32) if column.dtype.kind == 'f' else column
        for name, column in draw().items()},
    'nobody': only(draw(), np.zeros(60, bool)),
}


@pytest.mark.parametrize('calibrations', [[{}], [], [FIXED], [
    FIXED | {'by_spread': True}, FIXED]], ids=['none', 'no run', 'one', 'two'])
@pytest.mark.parametrize('name', list(STRANGE))
def test_strange_cases_make_a_report_without_a_warning(name, calibrations, tmp_path):
    cases = STRANGE[name]
    parts = make(cases, calibrations=calibrations, resamples=4)
    for part in parts.values():
        for table in part.tables:
            assert all(len(row) == len(table.header) for row in table.rows)
            for cell in (cell for row in table.rows for cell in row):
                if isinstance(cell, dict) and isinstance(cell['value'], float) and (
                        math.isnan(cell['value'])):
                    assert cell['reason'], (part.title, table.title)
    if len(cases['case_id']):
        numbers, page = write(tmp_path, cases, parts)
        assert 'nan' not in page.lower().replace('finan', '').split('all metrics')[-1]
        json.loads(numbers)


def test_the_same_cases_give_the_same_words_and_numbers():
    assert repr(make(draw(), found=FOUND, calibrations=[FIXED])) == repr(
        make(draw(), found=FOUND, calibrations=[FIXED]))
