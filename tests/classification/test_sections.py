import json
import re

import numpy as np
import pytest

from jaxmed import report
from jaxmed.classification import calibration, figures, sections

NAN = float('nan')
CLASSES = ['Covid', 'No <b>finding</b>', 'Viral & bacterial pneumonia']
FAST = dict(resamples=20, seed=0)


def make_rows(*, exclusive=True, count=60, per_patient=2, seed=0):
    random = np.random.default_rng(seed)
    truth = np.arange(count) % 3
    targets = np.eye(3)[truth]
    logits = 2 * targets + random.normal(size=(count, 3))
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    if not exclusive:
        probability = 1 / (1 + np.exp(1 - logits))
        targets = np.where(random.random((count, 3)) < 0.1, NAN, targets)
    return {
        'case_id': np.array([f'image-{i}' for i in range(count)]),
        'patient_id': np.array([f'secret-{i // per_patient}' for i in range(count)]),
        'probability': probability, 'targets': targets,
        'thumbnail': random.integers(0, 256, (count, 32, 32)).astype(np.uint8)}


def make(rows, exclusive=True, **options):
    first = {name: column[:1] for name, column in rows.items()}  # no long probes
    options = {'probe_rows': first, **FAST, **options}
    return {part.title: part for part in sections.sections(
        rows, classes=CLASSES, exclusive=exclusive, **options)}


def write(folder, rows, parts):
    summary = report.summarise(
        rows, {'constant': lambda rows: 1.0}, resamples=5, seed=0)
    paths = report.write(
        folder, title='t', about='', cases=rows, scores={}, render=None, legend='',
        results=[report.Result('m', 'test', summary)], histories={}, best_step=None,
        warnings=[], command='', facts={}, sections=list(parts.values()))
    return [path.read_text(encoding='utf-8') for path in paths]


def cells_of(part):
    return [cell for row in part.tables[0].rows for cell in row
            if isinstance(cell, dict)]


@pytest.mark.parametrize('exclusive', [True, False])
def test_every_part_is_there_and_the_report_holds_it(tmp_path, exclusive):
    rows = make_rows(exclusive=exclusive) | {'view': 1 + np.arange(60) % 2}
    picture = report.Figure('a', 'b', pixels=np.zeros((8, 8), np.uint8))
    parts = make(
        rows, exclusive, temperature=2.0, valid_rows=make_rows(
            exclusive=exclusive, seed=1),
        changed={'lungs blacked out': rows}, external={'other': rows},
        duplicates={'exact_duplicates': 1}, galleries={'Covid': [picture]},
        probe_rows=None)
    assert list(parts) == [
        'Class by class', 'Every threshold', 'Calibration', 'Operating points',
        'Can the number be trusted?', 'Where the model looks']
    text, page = write(tmp_path, rows, parts)
    assert 'secret' not in text + page
    assert 'No <b>' not in page and 'No &lt;b&gt;finding' in page
    assert not re.search(r'\bnan\b', page, re.IGNORECASE)
    assert len(json.loads(text)['sections']) == 6
    assert len(parts['Class by class'].figures) == exclusive  # confusion matrix
    assert len(parts['Every threshold'].figures) == 9
    assert len(parts['Calibration'].figures) == 2


def test_class_table_counts_images_and_patients_and_agrees_with_summarise():
    rows = make_rows()
    (first, *_) = make(rows)['Class by class'].tables[0].rows
    assert first[0] == 'Covid'
    assert first[1] == {'value': '20 of 60', 'reason': '20 patients'}
    from jaxmed.classification import scores
    expected = report.summarise(
        rows, {'auc': scores.for_class(scores.auc, 0, exclusive=True)}, **FAST)['auc']
    for name in ('value', 'low', 'high', 'n_patients', 'n_cases'):
        assert first[5][name] == pytest.approx(expected[name])


def test_a_class_without_images_is_not_defined_and_says_so(tmp_path):
    rows = make_rows()
    rows['targets'] = np.eye(3)[np.arange(60) % 2]
    parts = make(rows, valid_rows=rows)
    last = parts['Class by class'].tables[0].rows[-1]
    assert np.isnan(last[2]['value'])
    assert last[2]['reason'] == 'only one class: no images have it'
    assert '1 of 3 classes' in parts['Class by class'].text
    assert 'Viral' in parts['Every threshold'].text
    assert len(parts['Every threshold'].figures) == 7  # its histogram is left
    points = parts['Operating points'].tables[0]
    assert len(points.rows) == 4 and 'Viral' in points.note
    _, page = write(tmp_path, rows, parts)
    assert 'not defined' in page and 'only one class: no images have it' in page


def test_few_patients_with_a_class_give_no_interval():
    rows = make_rows(per_patient=30)  # two patients with 10 images of each class
    for cell in cells_of(make(rows)['Class by class'])[1:6]:
        assert np.isfinite(cell['value']) and np.isnan(cell['low'])
        assert cell['reason'].startswith('no interval: 2 patients with')
    rows = make_rows(count=60, per_patient=60)
    first = make(rows)['Class by class'].tables[0].rows[0]
    assert first[2]['reason'] == 'no interval: 1 patient with it'


def test_before_scaling_is_what_the_model_said():
    raw = make_rows()
    scaled = raw | {'probability': calibration.apply_temperature(
        raw['probability'], 2.5, exclusive=True)}
    undone = make(scaled, temperature=2.5)['Calibration']
    given = make(scaled, temperature=2.5, uncalibrated=raw)['Calibration']
    for first, second in zip(undone.tables[0].rows, given.tables[0].rows):
        assert first[1]['value'] == pytest.approx(second[1]['value'])
    expected = calibration.log_loss(raw, exclusive=True)
    assert undone.tables[0].rows[-1][1]['value'] == pytest.approx(expected)
    assert undone.tables[0].rows[-1][2]['value'] == pytest.approx(
        calibration.log_loss(scaled, exclusive=True))
    assert '2.50' in undone.text and 'too sure' in undone.text
    assert 'not scaled' in make(raw)['Calibration'].text
    folds = make(scaled, temperature=[2.0, 3.0], uncalibrated=raw)['Calibration']
    assert '2.00, 3.00' in folds.text


def test_operating_points_are_chosen_on_validation_rows():
    rows, valid = make_rows(), make_rows(seed=1)
    table = make(rows, valid_rows=valid)['Operating points'].tables[0]
    from jaxmed.classification import scores
    threshold = scores.threshold_for_sensitivity(valid, 0, sensitivity=0.95)
    assert table.rows[0][1] == threshold
    assert table.rows[0][2]['value'] == scores.at_threshold(
        scores.recall, 0, threshold)(rows)
    assert 'Operating points' not in make(rows)


def test_worrying_checks_are_named_above_their_table():
    rows = make_rows(count=120)
    rows['thumbnail'][rows['targets'][:, 0] == 1, :2] = 255
    part = make(rows, probe_rows=None)['Can the number be trusted?']
    assert 'Worrying here: The class, from the rim' in part.text
    verdicts = {row[0]: row[2] for row in part.tables[0].rows}
    assert verdicts['The class, from the rim of a 32-pixel thumbnail'] == 'worrying'
    assert 'Worrying here' not in make(make_rows(), probe_rows=None)[
        'Can the number be trusted?'].text


@pytest.mark.parametrize('exclusive', [True, False])
def test_one_image_of_one_patient_still_makes_a_report(tmp_path, exclusive):
    one = {name: column[:1] for name, column in make_rows().items()}
    parts = make(one, exclusive, valid_rows=one)
    _, page = write(tmp_path, one, parts)
    assert not re.search(r'\b(nan|inf)\b', page, re.IGNORECASE)


def test_unknown_everywhere_still_makes_a_report(tmp_path):
    rows = make_rows()
    rows['targets'] = np.full_like(rows['targets'], NAN)
    _, page = write(tmp_path, rows, make(rows, valid_rows=rows))
    assert 'unknown in all images' in page
    assert not re.search(r'\bnan\b', page, re.IGNORECASE)


def test_cases_picked_are_the_worst_and_best_of_each_class():
    rows = {'targets': np.eye(2)[[0, 0, 0, 0, 0, 1]],
            'probability': np.array([
                [0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3], [0.4, 0.6],
                [0.3, 0.7]])}
    picked = sections.pick_cases(rows, classes=['a', 'b'], exclusive=True, count=2)
    assert [case[0] for case in picked['a']] == [1, 4, 0, 3]
    assert picked['a'][0] == (1, 0, 'Worst: a 0.200, called b 0.800')
    assert picked['a'][2] == (0, 0, 'Best: a 0.900')
    assert [case[:2] for case in picked['b']] == [(5, 1)]  # alone, so worst only
    rows['targets'][5] = NAN
    assert list(sections.pick_cases(rows, classes=['a', 'b'], exclusive=True)) == ['a']


def test_confusion_matrix_draws_each_count():
    rows = make_rows()
    figure = figures.confusion_matrix(rows, CLASSES)
    assert figure.svg.count('<rect') == 9 and '<b>' not in figure.svg
    counts = figure.numbers['counts']
    assert counts.sum() == 60
    for count in counts.ravel():
        assert f'>{count}</text>' in figure.svg
    assert f'{np.trace(counts)} of 60' in figure.alt


def test_roc_curve_runs_from_corner_to_corner():
    figure = figures.roc(make_rows(), 0, 'Covid')
    bottom, right = figures.TOP + figures.SIDE, figures.LEFT + figures.SIDE
    path = figure.svg.split('class="curve curve-0" d="M')[1].split('"')[0]
    assert path.startswith(f'{figures.LEFT}.0 {bottom}.0L')
    assert path.endswith(f'{right}.0 {figures.TOP}.0')
    many = make_rows(count=3000)
    assert figures.roc(many, 0, 'Covid').svg.count('L') < figures.POINTS + 9


def test_reliability_dots_lie_where_the_bins_are():
    rows = {'probability': np.array([[0.25]] * 4), 'targets': np.array([[1.0]] * 4)}
    figure = figures.reliability_diagram(rows, exclusive=False, title='t')
    x = figures.LEFT + figures.SIDE / 4
    assert f'<circle class="dot" cx="{x}" cy="{figures.TOP}.0"' in figure.svg
    assert figure.numbers['count'].tolist() == [4] and 'N = 4' in figure.caption
