import json
import re
import warnings

import numpy as np
import pytest

from jaxmed import report
from jaxmed.classification import calibration, delong, fractures, platt
from jaxmed.tasks import fracture_groups, fracture_sections

NAN = float('nan')


def draw(*, count=60, seed=0, patches=6, per_patient=1, apart=2.5):
    """A split: 40% have a fracture of grade 1 to 3, of half of them levels are told."""
    random = np.random.default_rng(seed)
    fractured = random.random(count) < 0.4
    grade = np.zeros((count, patches))
    for place in np.flatnonzero(fractured):
        grade[place, random.integers(patches - 1)] = random.integers(1, 4)
    mask = np.ones((count, patches))
    mask[:, -1] = 0
    logits = random.normal(size=grade.shape) - 3 + (grade > 0) * (apart + grade / 2)
    probability = mask / (1 + np.exp(-logits))
    level = np.where(mask > 0, 15.0 + 2 * np.arange(patches), NAN)  # T8 to L3 (15..23)
    level[::2] = np.where(grade[::2] > 0, level[::2], NAN)
    return {
        'case_id': np.array([f'scan-{seed}-{i}' for i in range(count)]),
        'patient_id': np.array([f'secret-{seed}-{i // per_patient}'
                                for i in range(count)]),
        'probability': probability.max(axis=1, keepdims=True).astype(np.float32),
        'targets': fractured[:, None].astype(np.float32),
        'patch_probability': probability.astype(np.float32), 'patch_mask': mask,
        'patch_targets': np.where(mask > 0, grade > 0, NAN),
        'position': mask * (np.arange(patches) + 0.5) / (patches - 1),
        'grade': np.where(mask > 0, grade, NAN), 'level': level,
        'slice_mm': np.float32([1.0, 1.5, 2.5, 3.0, 5.0])[np.arange(count) % 5]}


def calibrate(valid):
    return fractures.calibrate(valid, by_maximum=True)


def only(cases, chosen):
    return {name: column[chosen] for name, column in cases.items()}


def make(cases, valid, *, found=None, calibrations=({},), external=None):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        parts = fracture_sections.sections(
            cases, valid_cases=valid, probe_cases=cases, found=found or {}, changed={},
            external=external or {}, calibrations=list(calibrations), picture=None,
            resamples=20)
    return {part.title: part for part in parts}


def tables_of(part):
    return {table.title: {
        row[0]['value'] + ', ' + row[0]['reason'] if isinstance(row[0], dict)
        else row[0]: dict(zip(table.header[1:], row[1:], strict=True))
        for row in table.rows} for table in part.tables}


def write(folder, cases, parts):
    summary = report.summarise(cases, fractures.METRICS, resamples=5, seed=0)
    paths = report.write(
        folder, title='t', about='', cases=cases, scores={}, render=None, legend='',
        results=[report.Result('m', 'test', summary)], histories={}, best_step=None,
        warnings=[], command='', facts={}, sections=list(parts.values()))
    return [path.read_text(encoding='utf-8') for path in paths]


FOUND = {
    'scans': 66, 'excluded': {'a': 'PET-CT', 'b': 'PET-CT'},
    'unprocessable': {'c': 'no spine found', 'd': 'damaged', 'e': 'damaged',
                      'f': 'damaged'},
    'unprocessable_targets': {'c': 1, 'd': 0, 'e': 1, 'f': None}}


def test_every_part_is_there_and_the_report_holds_it(tmp_path):
    cases, valid = draw(), draw(seed=1)
    parts = make(cases, valid, found=FOUND, external={'elsewhere': draw(seed=2)},
                 calibrations=[calibrate(valid)])
    assert list(parts) == ['Operating points', 'Curves', 'Calibration',
                           'Where in the spine', 'By group', 'Outcomes']
    numbers, page = write(tmp_path, cases, parts)
    assert len(json.loads(numbers)['sections']) == 6
    assert 'secret' not in page and 'secret' not in numbers
    assert page.count('<svg viewBox') >= 6
    for words in ('Tomita et al. 2018', 'elsewhere', 'no spine found', 'Genant 3'):
        assert words in page


def test_operating_points_are_chosen_on_tuning_scans_and_measured_here():
    cases, valid = draw(), draw(seed=1)
    part = make(cases, valid)['Operating points']
    table = tables_of(part)['At a threshold']
    chosen = fractures.choose_thresholds(valid)
    score, truth = cases['probability'][:, 0], cases['targets'][:, 0] == 1
    for row, name in (("Youden's index, chosen on tuning scans", 'youden'),
                      ('Specificity 0.951, chosen on tuning scans', 'specificity'),
                      ('Sensitivity 0.9, chosen on tuning scans', 'sensitivity')):
        called = score >= chosen[name]
        assert table[row]['Threshold']['value'] == chosen[name]
        for header, share in (
            ('Sensitivity', called[truth]), ('Specificity', ~called[~truth]),
            ('PPV', truth[called]), ('NPV', ~truth[~called]),
        ):
            cell = table[row][header]
            assert cell['value'] == pytest.approx(share.mean())
            low, high = calibration.wilson_interval(share.sum(), len(share))
            assert (cell['low'], cell['high']) == pytest.approx((low, high))
    own = table["Youden's index, chosen on these scans: optimistic"]
    assert own['Threshold']['value'] == fractures.choose_thresholds(cases)['youden']
    area = tables_of(part)['']['This model']
    exact = delong.measure_auc(score, truth)
    assert area['DeLong']['low'] == exact.low and area['DeLong']['value'] == exact.value
    assert area['Bootstrap over patients']['value'] == pytest.approx(exact.value)
    assert 'aims need not be reached' in part.text
    assert 'promise too much' in make(cases, cases)['Operating points'].text


def test_scans_of_one_patient_widen_the_intervals_of_shares():
    once, valid = draw(), draw(seed=1)
    twice = {name: np.repeat(column, 2, axis=0) for name, column in once.items()}
    before, after = (
        tables_of(make(cases, valid)['Operating points'])['At a threshold'][
            "Youden's index, chosen on tuning scans"] for cases in (once, twice))
    for name in ('Sensitivity', 'Specificity', 'PPV', 'NPV'):
        assert after[name]['n'] == 2 * before[name]['n']
        assert after[name]['low'] == pytest.approx(before[name]['low'])


TUNED = "Youden's index, chosen on tuning scans"


def test_a_run_is_measured_at_the_thresholds_that_prediction_uses():
    cases, kept = draw(), json.loads(json.dumps(calibrate(draw(seed=1))))
    for valid in (None, draw(seed=2)):  # whatever the tuning set would say now
        part = make(cases, valid, calibrations=[kept])['Operating points']
        row = tables_of(part)['At a threshold'][TUNED]
        assert row['Threshold']['value'] == kept['thresholds']['youden']
        assert 'those that prediction uses, chosen on 60 tuning scans and' in part.text
    again = make(draw(seed=1), None, calibrations=[kept])['Operating points']
    assert 'which are measured here' in again.text
    without = make(cases, None, calibrations=[{}])['Operating points']
    assert 'there are no tuning scans' in without.text


def test_an_ensemble_is_measured_at_the_thresholds_of_its_mean():
    cases, first = draw(), calibrate(draw(seed=1))
    second, other = calibrate(draw(seed=1, apart=1.0)), calibrate(draw(seed=3))
    together = fractures.calibrate_together([first, second])
    parts = make(cases, None, calibrations=[first, second])
    row = tables_of(parts['Operating points'])['At a threshold'][TUNED]
    assert row['Threshold']['value'] == together['thresholds']['youden']
    assert f'once more multiplied by {together["scale"]:.2f}' in (
        parts['Calibration'].text)
    raw = platt.undo(cases['probability'], scale=together['scale'],
                     offset=together['offset'])
    before = tables_of(parts['Calibration'])['']['Brier score']['Before scaling']
    assert before['value'] == pytest.approx(
        fractures.brier(cases | {'probability': raw}))
    for calibrations, words in (([first, other], 'share no tuning scans'),
                                ([first, {}], 'with some of these runs')):
        part = make(cases, None, calibrations=calibrations)['Operating points']
        assert words in part.text


def test_a_grade_is_measured_on_its_scans_and_its_patches():
    cases, valid = draw(count=120), draw(seed=1)
    table = tables_of(make(cases, valid)['By group'])['By Genant grade']
    chosen = fractures.choose_thresholds(valid)
    highest = np.nan_to_num(cases['grade']).max(axis=1)
    for grade, name in fracture_groups.GRADES.items():
        score = cases['probability'][highest == grade, 0]
        assert table[name]['Scans'] == f'{len(score)} scans'
        assert table[name]['Sensitivity']['value'] == pytest.approx(
            np.mean(score >= chosen['youden']))
        sound = cases['probability'][highest == 0, 0]
        area = delong.measure_auc(
            np.append(score, sound), np.arange(len(score) + len(sound)) < len(score))
        assert table[name]['AUC against scans without']['value'] == pytest.approx(
            area.value)
        patches = cases['patch_probability'][cases['grade'] == grade]
        assert table[name]['Patches of the grade found']['value'] == pytest.approx(
            np.mean(patches >= chosen['patch']))
    assert 'Grade not told' not in table


def test_the_highest_grade_is_known_only_if_no_other_could_be_higher():
    cases = {
        'patch_targets': np.array([[1, 1], [1, 1], [1, 1], [0, 0], [NAN, NAN], [1, 0]]),
        'patch_mask': np.ones((6, 2)),
        'grade': np.array([[1, 2], [1, NAN], [3, NAN], [0, 0], [NAN, NAN], [2, NAN]])}
    np.testing.assert_array_equal(
        fracture_groups.highest_grade(cases), [2, NAN, 3, NAN, NAN, 2])
    cases = draw()
    cases['grade'][cases['grade'] == 2] = NAN
    table = tables_of(make(cases, draw(seed=1))['By group'])['By Genant grade']
    unknown = np.sum((cases['patch_targets'] == 1) & np.isnan(cases['grade']))
    assert table['Grade not told']['Scans'] == f'{unknown} scans'
    assert table['Genant 2, moderate']['Sensitivity']['reason'] == (
        'no scan of this grade')


def test_slices_of_1_5_and_3_mm_belong_to_the_thinner_group():
    cases = draw()
    cases['slice_mm'][0] += 1e-4  # 1.0001 is 1 mm
    cases['slice_mm'][1] = 1.5000001
    table = tables_of(make(cases, draw(seed=1))['By group'])['By slice thickness']
    counts = {name: row['With a fracture'].split(' of ')[1]
              for name, row in table.items()}
    assert counts == {'Up to 1.5 mm': '24', 'Over 1.5 mm, up to 3 mm': '24',
                      'Over 3 mm': '12'}
    thin = only(cases, np.arange(60) % 5 < 2)
    assert table['Up to 1.5 mm']['AUC']['value'] == pytest.approx(fractures.auc(thin))
    none = make(only(cases, cases['slice_mm'] < 2), draw(seed=1))['By group']
    assert tables_of(none)['By slice thickness']['Over 3 mm']['AUC']['reason'] == (
        'no scan like this')


def test_long_and_short_spines_stand_apart():
    cases, size = draw(), 20
    for name in (
        'patch_mask', 'patch_probability', 'patch_targets', 'position', 'grade', 'level'
    ):
        cases[name] = np.tile(cases[name], size)[:, :size]
    count = np.repeat([7, 8, 13, 14, 20], 12)
    cases['patch_mask'] = (np.arange(size) < count[:, None]).astype(float)
    table = tables_of(make(cases, draw(seed=1))['By group'])['By length of the spine']
    counts = {name: row['With a fracture'].split(' of ')[1]
              for name, row in table.items()}
    assert counts == {'Up to 7': '12', 'Over 7, up to 13': '24', 'Over 13': '24'}
    short = only(cases, count == 7)
    assert table['Up to 7']['AUC']['value'] == pytest.approx(fractures.auc(short))


def test_regions_hold_named_vertebrae_and_thirds_the_patches_of_other_scans():
    cases, valid = draw(), draw(seed=1)
    part = make(cases, valid)['By group']
    table = tables_of(part)['By region of the spine']
    named = only(cases, np.arange(60) % 2 == 1)
    other = only(cases, np.arange(60) % 2 == 0)
    # Patches of T8 and T10, T12 and L2 (19, 21), L4 (23); in thirds 2, 1 and 2.
    for region, columns, third in (
        ('Thoracic, T1 to T10', [0, 1], 'Upper third'),
        ('Thoracolumbar, T11 to L2', [2, 3], 'Middle third'),
        ('Lumbar, L3 to L6', [4], 'Lower third'),
    ):
        parts = {name: named[name][:, columns] for name in (
            'patch_probability', 'patch_targets', 'patch_mask')}
        assert table[region]['AUC of patches']['value'] == pytest.approx(
            fractures.patch_auc(parts), nan_ok=True)
        # A fractured vertebra that is named counts, whatever else is named.
        broken = cases['patch_targets'][:, columns] == 1
        patches = parts['patch_targets'].size + np.sum(broken[::2])
        assert table[region]['Patches with a fracture'] == (
            f'{broken.sum()} of {patches}')
        threshold = fractures.choose_thresholds(valid)['patch']
        found = cases['patch_probability'][:, columns][broken] >= threshold
        assert table[region]['Sensitivity for patches']['value'] == pytest.approx(
            found.mean())
        place = {'Upper third': [0, 1], 'Middle third': [2], 'Lower third': [3, 4]}
        rest = other['patch_targets'][:, place[third]]
        assert table[third]['Patches with a fracture'] == (
            f'{np.sum(rest == 1)} of {rest.size}')
        false = other['patch_probability'][:, place[third]][rest == 0] >= threshold
        assert np.isclose(table[third]['False patches a scan'], false.sum() / 30)
    note = part.tables[3].note
    assert 'named in 30 scans' in note and 'third' in note
    assert 'Neck, C1 to C7' not in table


def test_froc_table_and_figure_tell_what_the_metric_averages():
    cases = draw()
    part = make(cases, draw(seed=1))['Where in the spine']
    table = tables_of(part)['Fractured patches found']
    values = fractures.froc_sensitivities(cases)
    for name, value in zip(('1/8', '1/4', '1/2', '1', '2', '4', '8'), values):
        assert table[name]['Sensitivity']['value'] == value
        called = cases['patch_probability'] >= table[name]['Called from']
        assert np.mean(called[cases['patch_targets'] == 1]) == value
    assert table['Mean of these']['Sensitivity']['value'] == pytest.approx(
        fractures.froc_sensitivity(cases))
    (figure,) = part.figures
    assert f'{values[0]:.3f} at 1/8' in figure.alt
    for label in ('>1/8<', '>1<', '>8<'):
        assert figure.svg.count(label) >= 1
    assert figure.numbers['false_patches_a_scan'][0] == 1 / 8


def test_the_paper_stands_in_the_roc_panel_where_it_says():
    part = make(draw(), draw(seed=1))['Curves']
    # 42 + 270 (1 - 0.951) and 24 + 270 (1 - 0.822), to a tenth.
    assert '<circle class="other" cx="55.2" cy="72.1" r="5"/>' in part.figures[0].svg
    assert 'images' not in part.figures[0].caption


def test_before_scaling_is_what_the_network_said():
    valid, raw = draw(seed=1), draw()
    fitted = calibrate(valid)
    values = {name: fitted[name] for name in ('scale', 'offset')}
    scaled = raw | {
        'probability': platt.scale_probabilities(raw['probability'], **values)}
    part = make(scaled, valid, calibrations=[fitted])['Calibration']
    row = tables_of(part)['']['Brier score']
    assert row['Before scaling']['value'] == pytest.approx(fractures.brier(raw))
    assert row['As given']['value'] == pytest.approx(fractures.brier(scaled))
    assert f'multiplied by {fitted["scale"]:.2f}' in part.text
    assert 'Patches are scaled as their scan is' in part.text
    own = fractures.calibrate(valid, by_maximum=False)
    text = make(scaled, valid, calibrations=[own])['Calibration'].text
    assert 'patches are not calibrated: the truth is known of too few' in text
    plain = make(raw, valid)['Calibration']
    assert plain.tables[0].header == ['Measure', 'As given']
    assert 'not scaled' in plain.text


def test_unprocessable_scans_count_as_not_found_where_their_truth_is_known():
    cases, valid = draw(), draw(seed=1)
    part = make(cases, valid, found=FOUND)['Outcomes']
    tables = tables_of(part)
    assert tables['']['Processed'] == {'Scans': '60', 'Of those handed in': '90.9%'}
    assert tables['Why']['damaged, unprocessable']['Scans'] == '3'
    assert tables['Why']['PET-CT, left out']['Scans'] == '2'
    row = tables['If unprocessable means not found']["Youden's index"]
    called = cases['probability'][:, 0] >= fractures.choose_thresholds(valid)['youden']
    yes, no = (cases['targets'][:, 0] == kind for kind in (1, 0))
    # All processed scans are measured, so all of the unprocessable count: two with a
    # fracture, one without, and one of which nobody knows.
    assert row['Sensitivity with unprocessable']['value'] == pytest.approx(
        called[yes].sum() / (yes.sum() + 2))
    assert row['Specificity, unprocessable right']['value'] == pytest.approx(
        (np.sum(~called[no]) + 1) / (no.sum() + 1))
    assert row['Specificity, unprocessable wrong']['value'] == pytest.approx(
        np.sum(~called[no]) / (no.sum() + 1))
    # A tenth of the processed ones takes a tenth of the others.
    tenth = make(cases, valid, found=FOUND | {'scans': 606})['Outcomes']
    row = tables_of(tenth)['If unprocessable means not found']["Youden's index"]
    assert row['Sensitivity with unprocessable']['value'] == pytest.approx(
        called[yes].sum() / (yes.sum() + 0.2))
    found = {name: FOUND[name] for name in FOUND if name != 'unprocessable_targets'}
    unknown = tables_of(make(cases, valid, found=found)['Outcomes'])
    row = unknown['If unprocessable means not found']["Youden's index"]
    assert 'known of none' in row['Sensitivity with unprocessable']['reason']
    assert 'do not tell' in make(cases, valid)['Outcomes'].text


@pytest.mark.parametrize('absent, kind', [(1, 'with'), (0, 'without')])
@pytest.mark.parametrize('side', ['tuning', 'test'])
def test_a_class_that_is_absent_is_told_in_words(tmp_path, side, absent, kind):
    cases, valid = draw(), draw(seed=1)
    if side == 'tuning':
        valid = only(valid, valid['targets'][:, 0] != absent)
    else:
        cases = only(cases, cases['targets'][:, 0] != absent)
    parts = make(cases, valid, found=FOUND, calibrations=[calibrate(valid)])
    text = parts['Operating points'].text
    words = f'no scan {kind} a fracture'
    if side == 'tuning':
        assert f'No threshold is chosen: {words} in the tuning set' in text
        assert f'{words} to fit to' in parts['Calibration'].text
    else:
        assert f'The AUC is not defined: {words}' in text
        assert f'No curve is drawn: {words}' in parts['Curves'].text
    numbers, page = write(tmp_path, cases, parts)
    assert not re.search(r'\b(nan|inf)\b', page, re.IGNORECASE)
    assert 'not defined' in page


def unknown(cases):
    return cases | {name: np.full_like(cases[name], NAN) for name in (
        'targets', 'patch_targets', 'grade', 'level')}


def diverged(cases):
    return cases | {name: np.full_like(cases[name], NAN) for name in (
        'probability', 'patch_probability')}


@pytest.mark.parametrize('spoil', [
    unknown, diverged, lambda cases: only(cases, slice(0, 1)),
    lambda cases: cases | {'slice_mm': np.full_like(cases['slice_mm'], NAN)}])
def test_whatever_is_missing_a_report_is_written(tmp_path, spoil):
    cases, valid = draw(per_patient=2), draw(seed=1)
    for measured, tuning in ((spoil(cases), valid), (cases, spoil(valid)),
                             (spoil(cases), spoil(valid))):
        parts = make(measured, tuning, found=FOUND,
                     calibrations=[calibrate(tuning)])
        _, page = write(tmp_path, measured, parts)
        assert not re.search(r'\b(nan|inf)\b', page, re.IGNORECASE)
