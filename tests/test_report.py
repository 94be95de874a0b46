import base64
import functools
import html.parser
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from jaxmed import report
from jaxmed.errors import InputError

SCRIPT = '<script>alert(1)</script>'


def mean_score(rows):
    """Mean of the scores, 0 to 1.

    Only the line above belongs in a report.
    """
    return float(np.mean(rows['score']))


def undefined(rows):
    """Never defined."""
    return float('nan')


def make_cases(scores=(0.5, 0.5, 0.5, 0.5), patients=None):
    names = [f'case-{i}' for i in range(len(scores))]
    return {'case_id': np.array(names), 'score': np.array(scores),
            'patient_id': np.array(patients or [f'secret-{name}' for name in names])}


def write(folder, cases=None, **changes):
    cases = make_cases() if cases is None else cases
    options = {
        'title': 'Phantoms', 'about': '', 'cases': cases, 'scores': {'score': True},
        'results': [report.Result('This model', 'test', report.summarise(
            cases, {'score': mean_score}, resamples=20, seed=0))],
        'render': None, 'legend': '', 'histories': {}, 'best_step': None,
        'warnings': [], 'command': '', 'facts': {}}
    json_path, html_path = report.write(folder, **options | changes)

    def refuse(constant):
        raise ValueError(f'{constant} is not JSON')

    text = json_path.read_text(encoding='utf-8')
    page = html_path.read_text(encoding='utf-8')
    return json.loads(text, parse_constant=refuse), page


class Elements(html.parser.HTMLParser):
    """(tag, attributes) of every element of a page, and its visible words."""

    def __init__(self, page):
        super().__init__()
        self.found, self.words = [], ''
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words += data

    def of(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def test_summary_counts_patients_and_cases_and_describes_the_metric():
    cases = make_cases(patients=['a', 'a', 'a', 'b'])
    metric = functools.partial(mean_score)
    summary = report.summarise(cases, {'score': metric}, resamples=50, seed=3)
    # Every score is 0.5, so every resample's mean is.
    assert summary == {'score': {
        'value': 0.5, 'low': 0.5, 'high': 0.5, 'n_patients': 2, 'n_cases': 4,
        'resamples': 50, 'seed': 3, 'description': 'Mean of the scores, 0 to 1.'}}


def test_interval_resamples_patients_not_cases():
    # Patient a has 0 everywhere, b has 1: a resample is aa, ab or bb, with means
    # 0, 1/2 and 1, and aa and bb each come up in a quarter of them.
    cases = make_cases([0.0] * 50 + [1.0] * 50, ['a'] * 50 + ['b'] * 50)
    summary = report.summarise(cases, {'score': mean_score}, resamples=400, seed=0)
    assert (summary['score']['low'], summary['score']['high']) == (0.0, 1.0)


def test_no_cases_are_an_input_error():
    with pytest.raises(InputError, match='none to measure'):
        report.summarise(make_cases([]), {'score': mean_score}, resamples=5, seed=0)


def test_every_number_in_the_json_has_its_interval_and_counts(tmp_path):
    data, _ = write(tmp_path)
    (result,) = data['results']
    assert (result['source'], result['data']) == ('This model', 'test')
    value = result['values']['score']
    assert (value['value'], value['low'], value['high']) == (0.5, 0.5, 0.5)
    assert (value['n_patients'], value['n_cases']) == (4, 4)
    assert data['cases']['score'] == [0.5] * 4
    assert list(data) == sorted(data)


def test_nan_is_null_in_strict_json_and_undefined_on_the_page(tmp_path):
    cases = make_cases([0.25, np.nan, np.inf])
    summary = report.summarise(cases, {'nothing': undefined}, resamples=5, seed=0)
    data, page = write(tmp_path, cases, results=[report.Result('m', 'test', summary)])
    value = data['results'][0]['values']['nothing']
    assert [value[key] for key in ('value', 'low', 'high')] == [None] * 3
    assert value['n_cases'] == 3
    assert data['cases']['score'] == [0.25, None, None]
    words = Elements(page).words
    assert '–' in words and 'undefined here' in words
    assert 'Undefined for 2 cases' in words
    assert 'nan' not in words.lower()


def test_the_headline_is_the_value_in_the_json(tmp_path):
    cases = make_cases([0.1, 0.2, 0.6, 0.3])  # mean 1.2 / 4 = 0.3
    data, page = write(tmp_path, cases)
    value = data['results'][0]['values'][data['headline']]
    shown = re.search('class="value">([^<]*)<', page)[1]
    assert shown == f'{value["value"]:.3f}' == '0.300'
    assert f'{value["low"]:.3f} to {value["high"]:.3f}' in page
    assert '4 cases of 4 patients' in page


def test_a_paper_that_gives_no_interval_stands_beside_the_model(tmp_path):
    summary = report.summarise(make_cases(), {'score': mean_score, 'other': mean_score},
                               resamples=5, seed=0)
    paper = report.Result('Paper', 'its own images', {'score': {'value': 0.942729}})
    data, page = write(tmp_path, results=[report.Result('m', 'test', summary), paper])
    assert data['results'][1]['values']['score']['value'] == 0.942729
    assert data['results'][1]['values']['score']['n_patients'] is None
    words = Elements(page).words
    assert '0.943' in words and 'no interval given' in words and 'N not given' in words
    assert page.count('–<small>not given</small>') == 1  # the metric the paper lacks


def test_comparison_places_values_on_one_axis(tmp_path):
    def named(name, value):
        return report.Result(name, 'test', {'score': {
            'value': value, 'low': 0.0, 'high': 1.0, 'n_patients': 9, 'n_cases': 9}})

    _, page = write(tmp_path, results=[named('a', 0.25), named('b', 0.75)])
    circles = Elements(page).of('circle')  # the axis goes from 0 to 1
    assert [circle['cx'] for circle in circles] == ['25.0%', '75.0%']


def test_few_patients_are_a_warning_on_top(tmp_path):
    data, page = write(tmp_path, make_cases([0.5] * 9), warnings=['Ignored 3 cases.'])
    assert data['warnings'][0] == 'Ignored 3 cases.'
    assert 'Only 9 patients' in data['warnings'][1]
    assert page.index('Ignored 3 cases.') < page.index('class="value"')
    data, page = write(tmp_path, make_cases([0.5] * 10))
    assert data['warnings'] == [] and 'Read this first' not in page


def test_the_page_loads_nothing_and_every_picture_has_a_text(tmp_path):
    _, page = write(
        tmp_path, render=lambda case: np.zeros([8, 8, 3], np.uint8), best_step=1,
        histories={'train': [{'step': 1, 'loss': 2.0}, {'step': 2, 'loss': 1.0}]})
    elements = Elements(page)
    assert '://' not in page and 'url(' not in page and '@import' not in page
    tags = {tag for tag, _ in elements.found}
    assert not tags & {'script', 'link', 'iframe', 'object'}
    images = elements.of('img')
    assert len(images) == 4
    assert all(image['src'].startswith('data:image/jpeg;base64,') for image in images)
    assert all('case-' in image['alt'] for image in images)
    for chart in elements.of('svg'):
        assert 'aria-label' in chart or chart['aria-hidden'] == 'true'


def test_everything_a_caller_gives_is_escaped(tmp_path):
    cases = make_cases() | {'case_id': np.array([SCRIPT] * 4)}
    values = report.summarise(cases, {SCRIPT: mean_score}, resamples=5, seed=0)
    result = report.Result(SCRIPT, SCRIPT, values)
    data, page = write(
        tmp_path, cases, title=SCRIPT, about=SCRIPT, legend=SCRIPT, warnings=[SCRIPT],
        command=SCRIPT, results=[result, result], best_step=1,
        facts={SCRIPT: SCRIPT, 'config': {SCRIPT: SCRIPT}},
        histories={SCRIPT: [{'step': 1, SCRIPT: 1.0}]},
        render=lambda case: np.zeros([8, 8], np.uint8))
    assert data['cases']['case_id'] == [SCRIPT] * 4
    assert not Elements(page).of('script')
    assert page.count('&lt;script&gt;alert(1)') > 20
    assert '<script' not in page.lower()


def test_patient_ids_are_in_neither_file(tmp_path):
    write(tmp_path, render=lambda case: np.zeros([8, 8], np.uint8))
    for path in tmp_path.iterdir():
        assert 'secret' not in path.read_text(encoding='utf-8')


def test_the_same_input_gives_the_same_bytes(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, [20, 20, 3], np.uint8)
    for name in 'ab':
        write(tmp_path / name, render=lambda case: noise, facts={'z': 1, 'a': {'b': 2}},
              histories={'train': [{'step': 1, 'loss': 2.0}]})
    for name in ('report.json', 'report.html'):
        first, second = tmp_path / 'a' / name, tmp_path / 'b' / name
        assert first.read_bytes() == second.read_bytes()


def test_a_failure_leaves_the_earlier_report_and_nothing_else(tmp_path):
    write(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == {'report.json', 'report.html'}

    def fail(case):
        raise RuntimeError('no picture')

    with pytest.raises(RuntimeError, match='no picture'):
        write(tmp_path, render=fail, title='New')
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_reader_of_the_earlier_report_is_not_disturbed(tmp_path):
    write(tmp_path, title='Earlier')
    before = (tmp_path / 'report.html').read_text(encoding='utf-8')
    with (tmp_path / 'report.html').open(encoding='utf-8') as reader:
        _, page = write(tmp_path, title='Later')
        assert reader.read() == before  # replaced as a whole, not overwritten
    assert page == before.replace('Earlier', 'Later')


def test_a_file_that_cannot_be_replaced_leaves_no_temporary_file(tmp_path):
    (tmp_path / 'report.html' / 'in the way').mkdir(parents=True)
    with pytest.raises(InputError, match="can't be written"):
        write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {'report.json', 'report.html'}
    (tmp_path / 'file').touch()
    with pytest.raises(InputError, match="can't be written"):
        write(tmp_path / 'file')


@pytest.mark.parametrize('higher_is_better, expected', [
    (True, ['case-3', 'case-1', 'case-0']), (False, ['case-0', 'case-1', 'case-3'])])
def test_worst_cases_come_first_and_none_is_also_a_best(
        tmp_path, higher_is_better, expected):
    cases = make_cases([0.9, 0.5, np.nan, 0.1])
    _, page = write(tmp_path, cases, scores={'score': higher_is_better},
                    render=lambda case: np.zeros([8, 8], np.uint8))
    texts = [image['alt'] for image in Elements(page).of('img')]
    # Three defined scores: the larger half, two, are worst; one is left to be best.
    assert [re.search('case-.', text)[0] for text in texts] == expected
    assert [text.split()[0] for text in texts] == ['Worst', 'Worst', 'Best']
    assert f'worst 0.{"1" if higher_is_better else "9"}00 ({expected[0]})' in page


def test_only_the_pictures_shown_are_asked_for(tmp_path):
    asked = []

    def render(case):
        asked.append(case)
        return np.zeros([8, 8], np.uint8)

    write(tmp_path, make_cases(np.arange(30) / 30), render=render)
    assert asked == [f'case-{i}' for i in [0, 1, 2, 3, 4, 5, 29, 28, 27, 26, 25, 24]]


def test_pictures_are_made_small():
    source = report._picture(np.zeros([480, 960, 3], np.uint8))
    image = Image.open(io.BytesIO(base64.b64decode(source.split(',')[1])))
    assert image.size == (480, 240)


def test_histogram_bars_count_the_cases(tmp_path):
    _, page = write(tmp_path, make_cases([0.0, 0.01, 0.5, 1.0]))
    # From 0 to 1 in steps of 0.05: two cases in the first bar, one in the bar that
    # starts at 0.5, and 1.0 belongs to the last. Charts go from x = 56 to 464.
    bars = Elements(page).of('rect')
    assert [float(bar['x']) for bar in bars] == pytest.approx(
        [56.0, 56 + 408 * 0.5, 56 + 408 * 0.95], abs=0.06)
    assert float(bars[0]['height']) == 2 * float(bars[1]['height'])  # but one has half


def test_curves_break_where_a_value_is_not_finite():
    nan = float('nan')
    (chart,) = report._curves({
        'train': [{'step': 0, 'loss': 0.0}, {'step': 4, 'loss': nan},
                  {'step': 6, 'loss': 0.5}, {'step': 10, 'loss': 1.0}],
        'validation': [{'step': 5, 'loss': 0.5}]}, 5)
    # Steps 0 to 10 lie on x = 56 to 464, losses 0 to 1 on y = 194 to 28.
    assert chart['paths'] == {'train': 'M56.0 194.0h0M300.8 111.0h0L464.0 28.0',
                              'validation': 'M260.0 111.0h0'}
    assert chart['mark'] == 260.0


def test_a_best_step_that_no_curve_reached_is_still_on_the_chart():
    (chart,) = report._curves({'train': [{'step': 0, 'loss': 1.0},
                                         {'step': 5, 'loss': 0.0}]}, 10)
    assert chart['mark'] == 464.0 and chart['paths']['train'].endswith('L260.0 194.0')


def test_long_curves_are_thinned_but_keep_both_ends():
    points = [{'step': step, 'loss': 1.0 - step / 10000} for step in range(10001)]
    (chart,) = report._curves({'train': points}, None)
    path = chart['paths']['train']
    assert path.count('L') == 399
    assert path.startswith('M56.0 28.0') and path.endswith('L464.0 194.0')


def test_sections_without_content_are_left_out(tmp_path):
    _, page = write(tmp_path, scores={}, render=lambda case: np.zeros([8, 8], np.uint8))
    headings = re.findall('<h2>([^<]*)</h2>', page)
    assert headings == ['All metrics', 'Cases', 'How this was made']
    _, page = write(tmp_path, render=lambda case: np.zeros([8, 8], np.uint8),
                    histories={'train': [{'step': 1, 'loss': 1.0}], 'validation': []})
    headings = re.findall('<h2>([^<]*)</h2>', page)
    assert headings == ['All metrics', 'Case by case', 'Pictures', 'Training', 'Cases',
                        'How this was made']


SVG = '<svg viewBox="0 0 300 20"><path class="curve" d="M0 0h9"/></svg>'


def make_section(**changes):
    return report.Section('Extra', **{
        'text': 'First words.\n\nSecond words.',
        'tables': [report.Table('By class', ['Class', 'AUC', 'N'], [
            ['Covid', {'value': 0.91, 'low': 0.8, 'high': 0.97, 'n_patients': 5}, 55],
            ['Normal', {'value': float('nan'), 'reason': 'only one class'}, None],
        ], 'A note.')],
        'figures': [report.Figure('A line', 'Its caption', svg=SVG, numbers=[0.125])],
        'galleries': {'Best': [
            report.Figure('A square', 'Grey', pixels=np.zeros([8, 8], np.uint8))]},
    } | changes)


def test_sections_follow_the_metrics_with_all_they_hold(tmp_path):
    _, page = write(tmp_path, sections=[make_section(), report.Section('Bare')])
    headings = re.findall('<h2>([^<]*)</h2>', page)
    assert headings[:3] == ['All metrics', 'Extra', 'Bare']
    assert '<p>First words.</p>' in page and '<p>Second words.</p>' in page
    assert '<div>0.910<small class=range>0.800 to 0.970</small></div>' in page
    assert '<div>not defined<small>only one class</small></div>' in page
    elements = Elements(page)
    cells = [cell for cell in elements.of('td')
             if cell.get('data-column') in ('AUC', 'N')]
    assert [cell['data-column'] for cell in cells] == ['AUC', 'N'] * 2
    assert [cell.get('class') for cell in cells] == [None, None, None, 'empty']
    assert 'A note.' in elements.words and 'Its caption' in elements.words
    (image,) = elements.of('img')
    assert image['alt'] == 'A square' and image['src'].startswith('data:image/jpeg')
    (drawing,) = [svg for svg in elements.of('svg') if svg.get('viewbox') ==
                  '0 0 300 20']
    assert drawing['aria-label'] == 'A line'
    assert 'style="width: 300.0px"' in page
    assert 'nan' not in elements.words.lower()


def test_json_holds_the_numbers_of_the_sections_but_no_picture(tmp_path):
    data, _ = write(tmp_path, sections=[make_section()])
    (section,) = data['sections']
    assert section['title'] == 'Extra'
    (table,) = section['tables']
    assert table['rows'][0] == [
        'Covid', {'value': 0.91, 'low': 0.8, 'high': 0.97, 'n_patients': 5}, 55]
    assert table['rows'][1][1] == {'value': None, 'reason': 'only one class'}
    assert section['figures'] == [
        {'alt': 'A line', 'caption': 'Its caption', 'numbers': [0.125]}]
    assert section['galleries']['Best'][0]['alt'] == 'A square'
    assert write(tmp_path)[0]['sections'] == []


def test_sections_escape_what_they_are_given(tmp_path):
    cell = {'value': SCRIPT, 'reason': SCRIPT}
    picture = report.Figure(SCRIPT, SCRIPT, pixels=np.zeros([8, 8], np.uint8))
    section = report.Section(
        SCRIPT, SCRIPT, [report.Table(SCRIPT, [SCRIPT] * 2, [[cell, cell]], SCRIPT)],
        [report.Figure(SCRIPT, SCRIPT, svg=SVG), picture], {SCRIPT: [picture]})
    _, page = write(tmp_path, sections=[section])
    assert not Elements(page).of('script') and '<script' not in page.lower()


@pytest.mark.parametrize('inside', [
    '<script>1</script>', '<path onclick="1"/>', '<image href="x"/>',
    '<path style="fill: url(x)"/>', '<foreignObject/>', '<a href="x"/>', '<path',
    '<use/>', '&undefined;'])
def test_a_drawing_that_does_more_than_draw_is_refused(tmp_path, inside):
    svg = f'<svg viewBox="0 0 9 9">{inside}</svg>'
    with pytest.raises(ValueError, match='SVG'):
        write(tmp_path, sections=[
            make_section(figures=[report.Figure('', '', svg=svg)])])
    with pytest.raises(ValueError, match='viewBox'):
        write(tmp_path, sections=[
            make_section(figures=[report.Figure('', '', svg='<svg/>')])])
    assert not list(tmp_path.iterdir())


def test_many_charts_are_folded_away(tmp_path):
    figure = report.Figure('A line', '', svg=SVG)
    for count, folded in ((12, False), (13, True)):
        _, page = write(tmp_path, sections=[make_section(figures=[figure] * count)])
        assert (f'All {count} charts' in page) == folded
        assert page.count('viewBox="0 0 300 20"') == count


@pytest.mark.parametrize('cell, shown', [
    (0.5, ('0.500', '', False)), (7, ('7', '', False)), ('text', ('text', '', False)),
    (None, ('', '', False)), (float('nan'), ('not defined', '', False)),
    ({'value': 0.5, 'low': 0.25, 'high': float('nan')}, ('0.500', '', False)),
    ({'value': 0.5, 'low': 0.25, 'high': 0.75}, ('0.500', '0.250 to 0.750', True)),
    ({'value': None, 'reason': 'why'}, ('not defined', 'why', False))])
def test_cells_of_tables_are_shown_as_a_reader_wants_them(cell, shown):
    assert report._cell(cell) == shown


def test_pictures_are_in_neither_file_and_metrics_get_numbers_only(tmp_path):
    cases = make_cases() | {'thumbnail': np.full([4, 32, 32], 77, np.uint8),
                            'probability': np.full([4, 2], 0.5)}

    def check(rows):
        assert set(rows) == {'score', 'probability'}
        return 1.0

    assert report.summarise(cases, {'check': check}, resamples=2, seed=0)
    data, page = write(tmp_path, cases)
    assert 'thumbnail' not in data['cases'] and 'humbnail' not in page
    assert data['cases']['probability'] == [[0.5, 0.5]] * 4


@pytest.mark.parametrize('value, text', [
    (0.9427291, '0.943'), (np.float32(0.5), '0.500'), (float('nan'), '–'), (None, '–'),
    (0.0, '0.000'), (0.00012, '1.20e-04'), (-1234.56, '-1,234.6'), (7, '7'),
    (np.int64(7), '7'), ('train-7', 'train-7')])
def test_numbers_are_shown_as_a_reader_wants_them(value, text):
    assert report._show(value) == text
