"""Rivals of a run: other options on the same records, beside it in its report."""

import json

import pytest

from configs import spine_health_lstm
from jaxmed import jobs
from jaxmed.data import records
from jaxmed.errors import ConfigError
from tests.commands import run
from tests.test_jobs_folds import TASK, TINY, make

PLAIN = tuple(flag.replace(':phantom', ':strong') for flag in TINY)


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp('rivals') / 'records'
    records.write_records(
        make().phantoms(count=18, seed=4), folder, task=TASK,
        fractions=(0.6, 0.2, 0.2), seed=0)
    return folder


def write_config(path, rivals):
    """TINY's options with rivals: name -> changes."""
    path.write_text(
        'from configs import spine_health_lstm\n\n\n'
        'def get_config():\n'
        "    config = spine_health_lstm.get_config('strong')\n"
        f'    for name, changes in {rivals!r}.items():\n'
        '        config.rivals[name] = changes\n'
        '    return config\n')
    return (f'--config={path}', *PLAIN[1:])


def train(flags, prepared, workdir):
    return run('train', *flags, f'--config.data.records={prepared}',
               f'--workdir={workdir}')


def results_of(workdir):
    report = json.loads((workdir / 'report' / 'report.json').read_text())
    return {(result['source'], result['data']): result['values']
            for result in report['results']}


def test_a_finished_run_gets_a_rival_and_stays_what_it_was(prepared, tmp_path):
    workdir, config = tmp_path / 'run', tmp_path / 'config.py'
    code, text = train(PLAIN, prepared, workdir)
    assert code == 0, text
    before = results_of(workdir)
    saved = {path: path.stat().st_mtime_ns for path in workdir.glob('checkpoints/*')}
    rivals = {'RNN': {'task': {'model': {'cell': 'rnn'}}}}
    code, text = train(write_config(config, rivals), prepared, workdir)
    assert code == 0, text
    after = results_of(workdir)
    assert saved and saved == {
        path: path.stat().st_mtime_ns for path in workdir.glob('checkpoints/*')}
    assert after.keys() - before.keys() == {('RNN', 'test')}
    assert all(after[name] == values for name, values in before.items())
    assert (workdir / 'rivals' / 'RNN' / 'checkpoints').is_dir()
    # What it was trained with may be no other now, and that is told before training.
    rivals['RNN'] = {'task': {'model': {'cell': 'gru'}}}
    code, text = train((
        *write_config(config, rivals), '--config.train.epochs=2'), prepared, workdir)
    assert code == 2 and text.splitlines()[-1].startswith(
        f'error: {workdir}/rivals/RNN: the config changed since this run began: '
        'task.model.cell (rnn -> gru)'), text
    # Without it the run is told of alone.
    code, text = train(PLAIN, prepared, workdir)
    assert code == 0 and results_of(workdir) == before, text


def refuse(names, workdir, *, folds=0):
    """What training with rivals of these names is refused with."""
    config = spine_health_lstm.get_config('strong').to_dict() | {
        'rivals': {name: {'task': {'loss': 'huber'}} for name in names}}
    options = dict(command='', interrupt=None)
    with pytest.raises(ConfigError) as caught:
        if folds:
            jobs.cross_validate(
                config, workdir, folds=folds, valid=0.0, leak=False, **options)
        else:
            jobs.train_run(config, workdir, **options)
    assert not workdir.exists()
    return str(caught.value)


@pytest.mark.parametrize('name', [
    'train', 'valid', 'test', 'Test', 'this model', 'paper', 'split at random'])
@pytest.mark.parametrize('folds', [0, 2])
def test_a_name_that_the_report_has_for_something_else_is_refused_before_training(
    tmp_path, name, folds
):
    text = refuse([name], tmp_path / 'run', folds=folds)
    assert text == f'rivals: {name!r} is taken'


def test_names_of_one_folder_are_refused(tmp_path):
    assert refuse(['rnn', 'RNN'], tmp_path / 'run') == "rivals: 'RNN' is taken"


@pytest.mark.parametrize('name', ['../run', 'a/b', '..', '.hidden', '', 'x' * 300])
def test_a_name_that_is_none_of_a_folder_is_refused(tmp_path, name):
    text = refuse([name], tmp_path / 'run')
    assert text == f'rivals: {name!r} can not name a folder'


@pytest.mark.parametrize('change, words', [
    ({'model': {'size': 3}},
     "error: grid rival wide: the config has no field 'task.model.size'"),
    ({'loss': 'hinge'}, "error: task.loss: 'hinge' is none of")], ids=['field', 'loss'])
def test_a_rival_that_is_none_is_named_before_anything_is_trained(
    prepared, tmp_path, change, words
):
    workdir = tmp_path / 'run'
    flags = write_config(tmp_path / 'config.py', {'wide': {'task': change}})
    code, text = train(flags, prepared, workdir)
    assert code == 2 and text.splitlines()[-1].startswith(words), text
    assert not workdir.exists()
