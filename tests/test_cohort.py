"""One page of a folder: sorted, escaped, small, whole; and how it comes to be."""

import base64
import csv
import functools
import hashlib
import html.parser
import importlib.util
import json
import os
import re
import subprocess
import sys
from urllib.parse import unquote

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmed import cohort, findings, predict
from jaxmed.errors import ConfigError, ImageError
from jaxmed.types import Finding, Page
from tests.commands import ROOT

PAGE = Page('probability', 'verdict', 'overlays', {'z_mm': 'At', 'warnings': 'Words'})


class Parsed(html.parser.HTMLParser):
    """Rows of the table, and every address in the page."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.addresses, self.tags, self._in = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        attributes = dict(attributes)
        self.addresses += [attributes[n] for n in ('src', 'href') if n in attributes]
        if tag == 'tr' and 'data-risk' in attributes:
            self.rows.append((attributes, []))
            self._in = True

    def handle_endtag(self, tag):
        self._in = self._in and tag != 'tr'

    def handle_data(self, data):
        if self._in and data.strip():
            self.rows[-1][1].append(data.strip())


def line(case, probability=None, *, reason='', files=None, **row):
    if probability is None:
        return {'case': case, 'row': {'status': 'unprocessable', 'reason': reason},
                'details': {}, 'files': []}
    return {
        'case': case, 'details': {}, 'row': {
            'status': 'done', 'reason': '', 'probability': probability, **row},
        'files': [f'overlays/{case}.png'] if files is None else files}


def summarise(folder, task, lines):
    for entry in lines:
        for name in entry['files']:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = np.random.default_rng(0).integers(0, 255, (600, 400, 3), np.uint8)
            assert cv2.imwrite(str(path), cv2.blur(picture, (9, 9)))
    cohort.summarise(folder, task._replace(page=PAGE), lines)
    text = (folder / 'index.html').read_text()
    return text, Parsed(text)


def test_cases_come_by_risk_and_what_failed_last_with_its_reason(tmp_path, toy_task):
    _, page = summarise(tmp_path, toy_task(), [
        line('b', 0.2, verdict='below'), line('bad', reason='no spine found'),
        line('c', 0.9, verdict='above', warnings='thick slices'),
        line('a', 0.2, verdict='below')])
    assert [texts[0] for _, texts in page.rows] == ['c', 'a', 'b', 'bad']
    assert [a['data-risk'] for a, _ in page.rows] == ['0.9', '0.2', '0.2', '']
    assert [a['data-status'] for a, _ in page.rows][-2:] == ['done', 'unprocessable']
    assert 'thick slices' in page.rows[0][1] and 'no spine found' in page.rows[3][1]
    assert '0.90' in page.rows[0][1] and 'above' in page.rows[0][1]


def test_verdicts_are_counted_in_words_that_fit(tmp_path, toy_task):
    text, page = summarise(tmp_path, toy_task(), [
        line('a', 0.9, verdict='above'), line('b', 0.2, verdict='below'),
        line('c', 0.1, verdict='not judged')])
    for words in ('above the threshold', 'below the threshold', 'not judged'):
        assert f'<dt>{words}</dt><dd>1</dd>' in text
    assert [a['data-verdict'] for a, _ in page.rows] == ['above', 'below', 'not judged']


def test_names_cannot_become_markup_or_addresses(tmp_path, toy_task):
    evil = 'x" onload=alert(1) <script>&#?%41 y'
    files = [f'overlays/{evil}.png', f'{evil}/javascript:alert(1)']
    text, page = summarise(tmp_path, toy_task(), [
        line(evil, 0.5, warnings='<img src=//evil>'), line('<b>', reason='<i>')])
    assert page.tags.count('script') == 1 and page.tags.count('img') == 1
    assert page.tags.count('i') == 1  # the bar's own
    assert '<img src=//evil>' not in text
    assert page.rows[0][1][0] == evil and '<img src=//evil>' in page.rows[0][1]
    links = [a for a in page.addresses if not a.startswith('data:')]
    assert all(a.startswith('./') for a in links)
    assert f'./{files[0]}' in [unquote(a) for a in links]


def test_the_page_loads_nothing_and_only_its_own_script_may_run(tmp_path, toy_task):
    text, page = summarise(tmp_path, toy_task(), [line('a', 0.5)])
    assert all(a.startswith(('./', 'data:image/jpeg;base64,')) for a in page.addresses)
    script = re.search('<script>(.*?)</script>', text, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text and "default-src 'none'" in text
    assert not re.search(r'\son[a-z]+=', text) and '//' not in script


def test_five_hundred_scans_stay_small(tmp_path, toy_task, monkeypatch):
    lines = [line(f'{i:03d}', i / 1000) for i in range(20)]
    text, page = summarise(tmp_path, toy_task(), lines)
    assert len(text) / 20 * 500 < 30e6
    thumbnails = sum(a.startswith('data:') for a in page.addresses)
    assert thumbnails == 20
    # Beyond the limit the least likely have a link and no picture.
    most = max(len(a) for a in page.addresses)
    monkeypatch.setattr(cohort, 'MOST_BYTES', 5 * most)
    _, page = summarise(tmp_path, toy_task(), lines)
    shown = [a.startswith('data:') for a in page.addresses if 'css' not in a]
    assert sum(shown) == 5 and './overlays/000.png' in page.addresses


def test_a_picture_that_is_gone_costs_itself(tmp_path, toy_task):
    lines = [line('a', 0.5), line('b', 0.4)]
    summarise(tmp_path, toy_task(), lines)
    (tmp_path / 'overlays/a.png').write_bytes(b'torn')
    cohort.summarise(tmp_path, toy_task()._replace(page=PAGE), lines)
    page = Parsed((tmp_path / 'index.html').read_text())
    assert sum(a.startswith('data:') for a in page.addresses) == 1
    assert len(page.rows) == 2


# --- through a prediction -----------------------------------------------------------


def read_number(file, *, case_id):
    text = file.read_text()
    if text == 'bad':
        raise ImageError(file, 'not a number')
    return {'inputs': np.full(3, float(text), np.float32), 'case_id': case_id,
            'example_id': case_id, 'patient_id': case_id}


def find_number(record, prediction):
    return Finding(
        row={'probability': round(float(record['inputs'][0]), 3)}, details={},
        pictures={'overlays': np.full((60, 40, 3), 100, np.uint8)})


def write_both(file, record, finding, *, kinds, made_by):
    if float(record['inputs'][0]) > 0.8:
        raise ImageError(file, 'the series was not found again')
    return {f'{kind}.dcm': f'{kind} {made_by}'.encode() for kind in kinds}


def load_numbers(make, **changes):
    task = make()._replace(**dict(
        files=lambda path: [(p, p.name) for p in sorted(path.iterdir())],
        read=read_number, findings=find_number, page=PAGE, dicom=write_both
    ) | changes)
    variables = task.model.init(jax.random.key(0), jnp.zeros((1, 3)), train=False)
    weights = {'params': variables.pop('params'), 'model_state': variables}
    return predict.Predictor([task], [weights], views=1, batch_size=4, made_by='m')


@pytest.fixture
def loader(toy_task, tmp_path):
    (tmp_path / 'in').mkdir()
    for name, text in (('a', '0.1'), ('b', '0.7'), ('c', 'bad')):
        (tmp_path / 'in' / name).write_text(text)

    return functools.partial(load_numbers, toy_task)


def run(load, tmp_path, *, resume=False, dicom=()):
    pytest.importorskip('highdicom', reason='optional') if dicom else None
    rows, failed = findings.predict_files(
        load, tmp_path / 'in', tmp_path / 'out', resume=resume, engine='local',
        dicom=dicom, summarise=cohort.summarise)
    return {row['case']: row['status'] for row in rows}, failed


def test_a_resumed_prediction_has_the_whole_page(loader, tmp_path):
    assert run(loader, tmp_path)[1] == 1
    page = tmp_path / 'out' / 'index.html'
    whole = page.read_bytes()
    page.unlink()
    (tmp_path / 'out' / 'overlays' / 'b.png').unlink()  # so it is done again, a is not
    assert run(loader, tmp_path, resume=True)[1] == 1
    assert page.read_bytes() == whole
    assert len(Parsed(whole.decode()).rows) == 3


def test_files_are_read_in_the_order_in_which_the_task_is_ready_for_them(
        loader, tmp_path):
    order = []

    def read(file, *, case_id):
        order.append(case_id)
        return read_number(file, case_id=case_id)

    statuses, failed = run(functools.partial(
        loader, read=read, look_ahead=lambda entries: reversed(entries)), tmp_path)
    assert order == ['c', 'b', 'a'] and failed == 1
    assert list(statuses) == ['a', 'b', 'c']  # the table has an order of its own


def test_a_folder_in_python_is_read_as_the_task_is_ready_and_answered_in_order(
        loader, tmp_path):
    (tmp_path / 'in' / 'c').write_text('0.9')
    order = []

    def read(file, *, case_id):
        order.append(case_id)
        return read_number(file, case_id=case_id)

    found = loader(
        read=read, look_ahead=lambda entries: reversed(entries))(tmp_path / 'in')
    assert order == ['c', 'b', 'a']
    assert [finding.row['probability'] for finding in found] == [0.1, 0.7, 0.9]


IN_A_CLUSTER = """
import functools, os, pathlib, sys, time
import ray
from jaxmed import findings
from tests import conftest, test_cohort
folder = pathlib.Path(sys.argv[1])
ray.init(num_cpus=2, num_gpus=1, include_dashboard=False)  # told so: there is none

def look_ahead(entries):
    with open(folder / 'told', 'a') as file:
        print(*(case_id for _, case_id in entries), file=file)
    return reversed(entries)

def read(file, *, case_id):
    journal, patience = folder / 'out' / 'findings.jsonl', 60
    while case_id == 'b' and patience:  # until those before it are written
        if journal.is_file() and journal.read_text().count('\\n') >= 4:
            os._exit(1)
        time.sleep(1)
        patience -= 1
    return test_cohort.read_number(file, case_id=case_id)

load = functools.partial(
    test_cohort.load_numbers, conftest.make_task, look_ahead=look_ahead, read=read)
rows, failed = findings.predict_files(
    load, folder / 'in', folder / 'out', resume=False, engine='ray', dicom=(),
    summarise=lambda *_: None)
print([(row['case'], row['reason']) for row in rows])
"""


@pytest.mark.skipif(
    importlib.util.find_spec('ray') is None, reason='Ray is an optional extra')
def test_a_worker_with_a_gpu_is_told_of_many_files_and_its_death_costs_one(tmp_path):
    (tmp_path / 'in').mkdir()
    for name in 'abcdefgh':
        (tmp_path / 'in' / name).write_text('bad' if name == 'd' else '0.2')
    # In a process of its own: Ray starts others.
    done = subprocess.run(
        [sys.executable, '-c', IN_A_CLUSTER, str(tmp_path)], cwd=ROOT,
        env=os.environ | {'PYTHONPATH': str(ROOT)}, capture_output=True, text=True,
        timeout=900)
    assert done.returncode == 0, done.stderr
    reasons = dict(eval(done.stdout.splitlines()[-1]))
    assert ''.join(reasons) == 'abcdefgh'
    assert {name: reason for name, reason in reasons.items() if reason} == {
        'b': 'the worker died on it', 'd': 'not a number'}
    first, *others = (tmp_path / 'told').read_text().splitlines()
    assert first == 'a b c d e f g h'  # and not the four that are computed together
    # What was done before it died is not done again.
    assert sorted(others) == ['a', 'b', 'c', 'd']


def test_a_wrong_option_is_no_scans_fault(loader, tmp_path):
    def read(file, *, case_id):
        raise ConfigError('task.detector', 'name a run')

    with pytest.raises(ConfigError, match='^task.detector: name a run$'):
        run(functools.partial(loader, read=read), tmp_path)


@pytest.mark.parametrize('infer', [None, lambda apply, record, batch_size: None])
def test_what_nothing_can_be_said_of_costs_its_own_row(loader, tmp_path, infer):
    def find(record, prediction):
        if float(record['inputs'][0]) > 0.5:
            raise ImageError(record['case_id'], 'the network gave no number')
        return find_number(record, prediction)

    (tmp_path / 'in' / 'd').write_text('0.2')  # in one batch with b
    statuses, failed = run(
        functools.partial(loader, findings=find, infer=infer), tmp_path)
    assert failed == 2 and statuses == {
        'a': 'done', 'b': 'unprocessable', 'c': 'unprocessable', 'd': 'done'}


def test_findings_are_json_whatever_is_in_them(loader, tmp_path):
    def find(record, prediction):
        return Finding(
            row={'probability': 0.5, 'ratio': np.float64('nan')}, pictures={},
            details={'deep': [{'x': float('inf')}, 1.5]},
            files={'own.json': {'x': float('nan')}})

    def refuse(word):
        raise ValueError(word)

    run(functools.partial(loader, findings=find), tmp_path)
    run(functools.partial(loader, findings=find), tmp_path, resume=True)
    texts = (tmp_path / 'out/findings.jsonl').read_text().splitlines()
    texts += [(tmp_path / 'out' / name).read_text()
              for name in ('findings.json', 'a/own.json')]
    whole = [json.loads(text, parse_constant=refuse) for text in texts]
    first = whole[-2][0]
    assert first['ratio'] is None and first['deep'] == [{'x': None}, 1.5]
    # As lines that an earlier version wrote may hold.
    journal = tmp_path / 'out' / 'findings.jsonl'
    journal.write_text(journal.read_text().replace('null', 'NaN'))
    run(functools.partial(loader, findings=find), tmp_path, resume=True)
    json.loads((tmp_path / 'out/findings.json').read_text(), parse_constant=refuse)


def test_a_task_without_a_page_writes_none(loader, tmp_path):
    run(functools.partial(loader, page=None), tmp_path)
    assert (tmp_path / 'out' / 'findings.csv').is_file()
    assert not (tmp_path / 'out' / 'index.html').exists()


def test_dicom_files_come_on_request_and_a_resume_adds_them(loader, tmp_path):
    run(loader, tmp_path)
    assert not list((tmp_path / 'out').rglob('*.dcm'))
    statuses, _ = run(loader, tmp_path, resume=True, dicom=('sc', 'sr'))
    assert statuses == {'a': 'done', 'b': 'done', 'c': 'unprocessable'}
    assert (tmp_path / 'out/a/sr.dcm').read_bytes() == b'sr m'
    before = (tmp_path / 'out/a/sr.dcm').stat().st_mtime_ns
    run(loader, tmp_path, resume=True, dicom=('sr', 'sc'))  # in any order
    assert (tmp_path / 'out/a/sr.dcm').stat().st_mtime_ns == before
    run(loader, tmp_path)  # of the last one only what was asked for stays
    assert not list((tmp_path / 'out').rglob('*.dcm'))


def test_a_case_whose_dicom_fails_is_unprocessable(loader, tmp_path):
    (tmp_path / 'in' / 'd').write_text('0.9')
    assert run(loader, tmp_path, dicom=('sc',))[0]['d'] == 'unprocessable'
    with open(tmp_path / 'out' / 'findings.csv', newline='') as file:
        reasons = {row['case']: row['reason'] for row in csv.DictReader(file)}
    assert 'not found again' in reasons['d'] and reasons['a'] == ''


def test_a_task_without_dicom_says_so_before_anything_is_read(loader, tmp_path):
    with pytest.raises(ConfigError, match='--dicom: this task has no DICOM'):
        run(functools.partial(loader, dicom=None), tmp_path, dicom=('sc',))
    assert not (tmp_path / 'out').exists()
