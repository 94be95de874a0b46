import json
import math

import numpy as np
import pytest

from jaxmed import metrics, report
from jaxmed.classification import calibration, figures
from jaxmed.tasks import spine_cells, spine_sections
from tests.tasks.spine_cases import (
    FIXED,
    NAN,
    TITLES,
    draw,
    make,
    only,
    rows_of,
    tables_of,
    write,
)

FOUND = {
    'recordings': 55, 'subjects': 20, 'unrated': 4, 'shared_patients': 0,
    'windows_left_out': 7,
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


def test_intervals_are_those_of_a_bootstrap_over_people():
    cases = draw()
    table = tables_of(make(cases, resamples=50)['By exercise, group and person'])
    jumps = only(cases, cases['exercise'] == 'jump')
    cell = table['By exercise']['jump']['MAE']
    assert cell['value'] == pytest.approx(metrics.mae(jumps))
    numbers = {name: jumps[name] for name in ('index', 'truth')}
    assert (cell['low'], cell['high']) == pytest.approx(metrics.bootstrap_interval(
        numbers, metrics.mae, groups=jumps['patient_id'], resamples=50, seed=0))


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


def test_equal_values_share_a_third():
    third = spine_cells.thirds(np.array([1.0, 1.0, 0.2, 1.0, 0.1, 1.0]))
    assert third.tolist() == [1, 1, 0, 1, 0, 1]
    assert spine_cells.thirds(np.full(5, 0.3)) is None
    assert np.bincount(spine_cells.thirds(np.arange(10.0))).tolist() == [4, 3, 3]


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
    assert '4 without a rating, 23 cases' in part.text
    assert 'and 7 windows in which' in part.text


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
