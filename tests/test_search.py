"""Searches: the best ensemble of a grid, what a killed one keeps, what is refused."""

import json
import os
import signal
import threading

import numpy as np
import pytest

import launch
from configs import vertebral_fracture as config_file
from jaxmed import jobs, runs, search, train
from jaxmed.data import records
from jaxmed.errors import ConfigError, InputError, RecordError
from tests.commands import run


def tiny():
    """The phantom config, a network of no time."""
    config = config_file.get_config('phantom').to_dict()
    config['task'] |= {'patch_shape': (4, 4, 4), 'num_patches': 2, 'turn_deg': 0.0}
    config['task']['model'] |= {
        'widths': (2,), 'convolutions': 1, 'sequence': 'none', 'batch_norm': False}
    config['optimizer'] |= {'warmup_steps': 1}
    config['train'] |= {'epochs': 1, 'steps_per_epoch': 2}
    config['evaluate'] |= {'resamples': 50}
    return config


def draw(folder, *, valid=(0, 1)):
    """Spines of noise, fractured ones brighter; `valid`: labels of that split."""
    task, rng = runs.make_task(tiny()), np.random.default_rng(0)

    def drawn():
        for i in range(48):
            split = ('train', 'valid', 'test')[i % 3]
            label = valid[i % 2] if split == 'valid' else i % 2
            noise = rng.normal(300 + 60 * label, 60, task.example['inputs'].shape)
            yield {name: np.array(value) for name, value in task.example.items()} | {
                'inputs': noise.astype(np.int16),
                'targets': np.full(3, label, np.float32),
                'pitch_mm': np.full(3, 5, np.float32), 'context_mm': np.float32(0),
                'example_id': f'scan-{i}', 'case_id': f'scan-{i}', 'split': split,
                'patient_id': f'patient-{i}', 'content_id': f'content-{i}'}

    records.write_records(
        drawn(), folder, task='vertebral_fracture', fractions=(1, 0, 0), seed=0)
    return folder


def run_search(config, workdir, *, grid, members=2, metric=None):
    return search.run_search(
        config, workdir, grid=grid, name='mine', members=members, count=None,
        engine='local', metric=metric, setup=launch.configure, python='python')


def test_the_best_ensemble_is_found_measured_and_kept(tmp_path):
    config = tiny()
    config['data']['records'] = str(draw(tmp_path / 'records'))
    grid = {'axes': {'model': {
        'with place': {'task.model.position': True},
        'without': {'task.model.position': False},
        'broken': {'task.model.window': 2},
    }}}
    folder = tmp_path / 'search'
    found = run_search(config, folder, grid=grid)
    summary = json.loads((folder / 'search.json').read_text())
    assert summary['chosen']['names'] == ['with-place', 'without']
    broken = summary['runs'][2]
    assert broken['status'] == 'failed' and 'must be odd' in broken['reason']
    assert 'must be odd' in found.text and '| yes |' in found.text
    # What was averaged here is what launch.evaluate averages.
    report = json.loads((folder / 'report/report.json').read_text())
    measured = report['results'][0]['values']['auc']
    for key in ('value', 'low', 'high'):
        np.testing.assert_allclose(summary['chosen']['test'][key], measured[key])
    assert found.results[0].values['auc']['value'] == measured['value']
    paths = ','.join(str(folder / 'runs' / name) for name in ('with-place', 'without'))
    commands = (folder / 'ensemble.txt').read_text()
    assert f'launch.evaluate --workdir={paths}\n' in commands
    assert f'launch.predict --workdir={paths} --task=detector=DETECTOR ' in commands

    # Of a search that was stopped while one run had ended.
    before = {name: (folder / name).read_bytes() for name in (
        'search.md', 'search.csv', 'search.json', 'times.csv')}
    (folder / 'runs/without/rows_valid.npz').unlink()
    torn = (folder / 'runs/with-place/rows_test.npz').read_bytes()[:-30]
    (folder / 'runs/with-place/rows_test.npz').write_bytes(torn)
    (folder / 'search.md').unlink()
    kept = (folder / 'runs/with-place/checkpoints').stat().st_mtime_ns
    run_search(config, folder, grid=grid)
    for name, data in before.items():
        if name != 'times.csv':
            assert (folder / name).read_bytes() == data, name
    assert (folder / 'runs/with-place/checkpoints').stat().st_mtime_ns == kept

    config['train']['epochs'] = 2
    with pytest.raises(ConfigError, match=r'train.epochs \(1 -> 2\)'):
        run_search(config, folder, grid=grid)
    config['train']['epochs'] = 1
    grid['axes']['model']['without']['task.model.hidden'] = 3
    with pytest.raises(
        ConfigError, match=r'runs/without: .* task.model.hidden \(32 -> 3\)'
    ):
        run_search(config, folder, grid=grid)


def test_too_few_runs_end_a_search_and_leave_no_table(tmp_path):
    config = tiny()
    config['data']['records'] = str(draw(tmp_path / 'records'))
    grid = {'rows': {'broken': {'task.model.window': 2}}}
    with pytest.raises(InputError, match='0 of 1 runs ended, 1 are needed; broken: '):
        run_search(config, tmp_path / 'search', grid=grid)
    assert {path.name for path in (tmp_path / 'search').iterdir()} <= {
        'plan.json', 'runs'}


def test_an_interrupted_run_is_gone_on_with(tmp_path):
    config = tiny()
    config['data']['records'] = str(draw(tmp_path / 'records'))
    config['train'] |= {'steps_per_epoch': 300, 'checkpoint_every': 20}
    grid = {'rows': {'full': {}}}
    run = tmp_path / 'search/runs/full'
    done = threading.Event()

    def stop():
        while not done.wait(0.02):
            if runs.has_begun(run):
                os.kill(os.getpid(), signal.SIGTERM)
                return

    watch = threading.Thread(target=stop)
    watch.start()
    try:
        with train.Interrupt(), pytest.raises(train.Interrupted):
            run_search(config, tmp_path / 'search', grid=grid)
    finally:
        done.set()
        watch.join()
    before = json.loads((run / 'trained.json').read_text())
    assert not before['finished'] and before['seconds'] > 0
    assert not (run / 'rows_valid.npz').exists()
    found = run_search(config, tmp_path / 'search', grid=grid)
    after = json.loads((run / 'trained.json').read_text())
    assert after['finished'] and after['seconds'] > before['seconds']
    assert '| full |' in found.text and not found.commands


def test_records_of_a_plan_that_was_corrected_are_drawn_anew(tmp_path, monkeypatch):
    """Also where a search is killed while it draws them."""
    config, drawn = tiny(), []
    config['data']['phantoms'] = 48
    grid = {'rows': {'broken': {'task.model.window': 2}}}

    def die(task, folder, config):
        drawn.append(config['data']['phantoms'])
        raise KeyboardInterrupt

    def attempt(reason, words=None):
        with pytest.raises(reason, match=words):
            run_search(config, tmp_path, grid=grid)

    monkeypatch.setattr(jobs, 'draw_phantoms', die)
    attempt(KeyboardInterrupt)
    attempt(KeyboardInterrupt)
    draw(tmp_path / 'records')
    attempt(InputError, '0 of 1 runs ended')  # they are there
    config['data']['phantoms'] = 49
    attempt(KeyboardInterrupt)
    attempt(KeyboardInterrupt)
    assert drawn == [48, 48, 49, 49]


def test_what_can_not_be_searched_is_told_before_anything_is_written(tmp_path):
    config = tiny()
    config['data']['records'] = str(draw(tmp_path / 'records', valid=(1, 1)))
    grid = {'axes': {'train.seed': [0, 1]}}
    folder = tmp_path / 'search'
    with pytest.raises(
        RecordError, match=r'auc is undefined .* class is absent \(16 cases with, 0'
    ):
        run_search(config, folder, grid=grid)
    with pytest.raises(ConfigError, match='run patch_shape-2x4x4: inputs is int16'):
        run_search(config, folder, grid={
            'axes': {'task.patch_shape': [(2, 4, 4), (4, 4, 4)]}})
    for options, words in (
        (dict(members=3), 'only 2 runs'), (dict(members=0), 'not positive'),
        (dict(members=28, grid={'axes': {'train.seed': list(range(30))}}), 'ways'),
        (dict(metric='dice'), "--metric: 'dice'"),
        (dict(metric='-valid_loss'), "'valid_loss' is none of auc"),
    ):
        with pytest.raises(ConfigError, match=words):
            run_search(config, folder, **dict(grid=grid) | options)
    config['data']['records'] = ''
    config['data']['phantoms'] = 0
    with pytest.raises(ConfigError, match='data.records'):
        run_search(config, folder, grid=grid)
    assert not folder.exists()
    (tmp_path / 'photographs').mkdir()
    (tmp_path / 'photographs' / 'cat.png').touch()
    config['data']['phantoms'] = 4
    with pytest.raises(ConfigError, match='no folder of a search'):
        run_search(config, tmp_path / 'photographs', grid=grid)


def test_commands_name_what_they_can_not_use(tmp_path):
    begin = ('search', '--config=configs/vertebral_fracture.py:phantom',
             f'--workdir={tmp_path}/a')
    code, text = run(*begin, '--grid=everything')
    assert code == 2 and 'pool, aggregations, ablation' in text, text
    (tmp_path / 'grid.json').write_text('{"axes": ')
    code, text = run(*begin, f'--grid={tmp_path}/grid.json')
    assert code == 2 and 'grid.json: not JSON' in text, text
    assert text.count('\n') == 1 and not (tmp_path / 'a').exists()
