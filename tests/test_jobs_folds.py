"""Cross-validation: everyone is tested once, by a model that has not seen them."""

import json
import signal
import time

import numpy as np
import pytest

from configs import spine_health_lstm
from jaxmed import jobs
from jaxmed.data import records
from jaxmed.tasks import spine_health
from tests.commands import finish, run, start

TASK = 'spine_health'
OPTIONS = dict(
    skeleton='blazepose', span='window', frames=20, stride=20, rate_hz=5.0,
    exercises=('walk', 'jump'))
TINY = (
    # It has a rival, 'RNN'.
    '--config=configs/spine_health_lstm.py:phantom',
    *(f'--config.task.{name}={value}' for name, value in OPTIONS.items()),
    *(f'--config.task.model.{name}={value}' for name, value in dict(
        embedding=6, hidden=6, dense=6, convolutions=1, bidirectional=False).items()),
    '--config.train.epochs=1', '--config.train.steps_per_epoch=2',
    '--config.train.batch_size=8', '--config.optimizer.warmup_steps=1',
    '--config.evaluate.resamples=20',
)
FOLDED, MEAN = '2 folds, each on its own', 'mean per exercise'


def make():
    options = spine_health_lstm.get_config('phantom').task.to_dict()
    return spine_health.make(**options | OPTIONS)


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    """Nine people, two recordings each, however they were split before."""
    folder = tmp_path_factory.mktemp('folds') / 'records'
    records.write_records(
        make().phantoms(count=18, seed=4), folder, task=TASK,
        fractions=(0.6, 0.2, 0.2), seed=0)
    return folder


@pytest.fixture(scope='module')
def flags(prepared):
    return (*TINY, f'--config.data.records={prepared}', '--folds=2')


@pytest.fixture(scope='module')
def validated(flags, prepared):
    workdir = prepared.parent / 'run'
    code, text = run('train', *flags, '--leak', f'--workdir={workdir}')
    assert code == 0, text
    return workdir, text


def report_of(workdir):
    return json.loads((workdir / 'report' / 'report.json').read_text())


def results_of(workdir):
    """(source, data) -> metric -> its summary."""
    return {(result['source'], result['data']): result['values']
            for result in report_of(workdir)['results']}


def open_split(folder, split):
    source = records.open_records(folder, split, task=TASK, verify=True)
    return [source[place] for place in range(len(source))]


def mean_by_case(values, found):
    """case id -> mean over its windows."""
    cases = {}
    for value, record in zip(values, found):
        cases.setdefault(record['case_id'], []).append(value)
    return {case: np.mean(each) for case, each in cases.items()}


def test_everyone_is_tested_once_by_a_model_that_has_not_seen_them(
    validated, prepared
):
    workdir, text = validated
    everyone = {row['case_id']: row['patient_id']
                for row in records.read_cases(prepared)}
    cases = report_of(workdir)['cases']
    assert sorted(cases['case_id']) == sorted(everyone) and len(everyone) == 18
    tested = []
    for fold in range(2):
        rows = records.read_cases(workdir / f'fold_{fold}' / 'records')
        sides = {split: {row['patient_id'] for row in rows if row['split'] == split}
                 for split in ('train', 'test')}
        assert not sides['train'] & sides['test']
        assert len(sides['train'] | sides['test']) == 9
        tested += sides['test']
    assert sorted(tested) == sorted(set(everyone.values()))
    for case_id, fold in zip(cases['case_id'], cases['fold'], strict=True):
        assert {row['split'] for row in records.read_cases(
            workdir / f'fold_{fold}' / 'records') if row['case_id'] == case_id} == {
                'test'}
    found = results_of(workdir)[FOLDED, 'test']['mae']
    assert (found['n_cases'], found['n_patients']) == (18, 9)
    assert f'{FOLDED} on test: 18 cases of 9 patients' in text


def test_baselines_a_rival_and_a_split_at_random_stand_beside(validated):
    workdir, text = validated
    found = results_of(workdir)
    assert found.keys() == {
        (FOLDED, 'test'), (MEAN, 'test'), ('ridge', 'test'),
        ('gradient boosting', 'test'), ('RNN', 'test'), (jobs.LEAK, 'test')}
    # All of them of the same cases and people, also where people were split.
    assert {values['mae']['n_cases'] for values in found.values()} == {18}
    assert {values['mae']['n_patients'] for values in found.values()} == {9}
    assert found['RNN', 'test']['mae'] != found[FOLDED, 'test']['mae']
    for fold in range(2):
        rival = workdir / f'fold_{fold}' / 'rivals' / 'RNN'
        config = json.loads((rival / 'config.json').read_text())
        assert config['task']['model']['cell'] == 'rnn' and config['rivals'] == {}
        # On the same records as the model that it stands beside.
        assert config['data']['records'] == str(workdir / f'fold_{fold}' / 'records')
        leak = workdir / f'leak_{fold}'
        assert (leak / 'checkpoints').is_dir() and not (leak / 'rivals').exists()
    page = (workdir / 'report' / 'report.html').read_text()
    assert jobs.LEAK in page and 'RNN' in page and 'phantom-' in page


def test_each_of_them_is_compared_with_the_model_case_by_case(validated):
    workdir, _ = validated
    first, *others = report_of(workdir)['results']
    assert not first['differences'] and len(others) == 5
    for other in others:
        assert other['differences'].keys() == first['values'].keys()
        for name, found in other['differences'].items():
            if found['value'] is not None:
                assert found['value'] == pytest.approx(
                    first['values'][name]['value'] - other['values'][name]['value'])
        mae = other['differences']['mae']
        assert mae['low'] <= mae['value'] <= mae['high'] and mae['lower_is_better']
    page = (workdir / 'report' / 'report.html').read_text()
    assert '>minus RNN<' in page and f'>minus {jobs.LEAK}<' in page


def test_a_split_at_random_has_people_on_both_sides(validated):
    workdir, _ = validated
    sides, tested = {}, []
    for fold in range(2):
        for row in records.read_cases(workdir / f'leak_{fold}' / 'records'):
            person = row['case_id'].split('/')[0]
            sides.setdefault((fold, person), set()).add(row['split'])
            tested += [row['case_id']] * (row['split'] == 'test')
    assert len(tested) == len(set(tested)) == 18
    assert sum(both == {'train', 'test'} for both in sides.values()) > 4


def test_a_split_at_random_by_itself_is_of_people_and_names_none(validated, prepared):
    workdir, _ = validated
    code, text = run('evaluate', f'--workdir={workdir}/leak_0')
    assert code == 0, text
    cases = {row['case_id']: row['patient_id'] for row in records.read_cases(prepared)}
    (folder,) = (workdir / 'leak_0').glob('report*')
    report = (folder / 'report.json').read_text()
    found = json.loads(report)
    people = {cases[case] for case in found['cases']['case_id']}
    assert found['results'][0]['values']['mae']['n_patients'] == len(people)
    assert not any(person in report for person in cases.values())


def test_baselines_of_each_fold_are_fitted_to_its_own_training_people(validated):
    workdir, _ = validated
    folders = [workdir / f'fold_{fold}' / 'records' for fold in range(2)]

    def errors(fitted_to):
        """Absolute errors by case, of means of the training records of these folds."""
        found = {}
        for folder, fitted in zip(folders, fitted_to):
            train, test = open_split(fitted, 'train'), open_split(folder, 'test')
            means = {
                name: np.mean([record['targets'][0] for record in train
                               if record['exercise'] == name])
                for name in ('walk', 'jump')}
            predicted = mean_by_case([means[r['exercise']] for r in test], test)
            truth = mean_by_case([record['targets'][0] for record in test], test)
            found |= {case: abs(predicted[case] - truth[case]) for case in truth}
        return list(found.values())

    reported = results_of(workdir)[MEAN, 'test']['mae']['value']
    assert reported == pytest.approx(np.mean(errors(folders)), abs=1e-5)
    assert abs(reported - np.mean(errors([folders[0]] * 2))) > 1e-3
    assert abs(reported - np.mean(errors(folders[::-1]))) > 1e-3


def test_killed_between_folds_and_resumed_it_tells_the_same_numbers(
    validated, flags, tmp_path
):
    workdir = tmp_path / 'killed'
    process = start('train', *flags, f'--workdir={workdir}')
    until = time.monotonic() + 240
    while not (workdir / 'fold_1' / 'records').exists():
        assert process.poll() is None, finish(process, seconds=1)
        assert time.monotonic() < until
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    finish(process, seconds=30)
    first = workdir / 'fold_0'
    assert not (workdir / 'report').exists() and (first / 'rivals').is_dir()
    saved = {path: path.stat().st_mtime_ns for path in first.glob('checkpoints/*')}
    code, text = run('train', *flags, f'--workdir={workdir}')
    assert code == 0, text
    # What was finished is not trained again.
    assert saved == {path: path.stat().st_mtime_ns
                     for path in first.glob('checkpoints/*')}
    whole, resumed = results_of(validated[0]), results_of(workdir)
    assert whole.keys() - resumed.keys() == {(jobs.LEAK, 'test')}
    for key, values in resumed.items():
        assert values == whole[key], key
    assert report_of(workdir)['cases'] == report_of(validated[0])['cases']


def test_other_folds_or_other_records_in_the_same_folder_are_refused(
    validated, flags, prepared
):
    workdir, _ = validated
    for changed, number in ((('--folds=3',), 0), (('--fold_valid=0.25',), 0)):
        code, text = run('train', *flags, *changed, f'--workdir={workdir}')
        assert code == 2 and text.splitlines()[-1] == (
            f'error: {workdir}/fold_{number}/records: was dealt from other records, or '
            'into other folds: take another --workdir'), text
    other = prepared.parent / 'other'
    records.write_records(
        make().phantoms(count=18, seed=5), other, task=TASK, fractions=(1, 0, 0),
        seed=0)
    code, text = run('train', *flags, f'--config.data.records={other}',
                     f'--workdir={workdir}')
    assert code == 2 and 'was dealt from other records' in text


@pytest.mark.parametrize('asked, words', [
    (('--leak',), 'error: --leak: goes with --folds'),
    (('--fold_valid=0.1',), 'error: --fold_valid: goes with --folds'),
    (('--folds=1',), 'error: --folds: 1: at least 2'),
    (('--folds=-2',), 'error: flags: '),
    (('--folds=10',), 'error: --folds: 10 folds of 9'),
    (('--folds=2', '--fold_valid=1.0'), 'error: --folds: 2 with a share of 1.0'),
])
def test_folds_that_can_not_be_are_one_line_and_nothing_is_written(
    prepared, tmp_path, asked, words
):
    workdir = tmp_path / 'run'
    code, text = run('train', *TINY, f'--config.data.records={prepared}', *asked,
                     f'--workdir={workdir}')
    assert code == 2 and text.splitlines()[-1].startswith(words), text
    assert not workdir.exists()
