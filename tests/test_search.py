"""Searches: the runs of a grid, the best ensemble, and what a killed one keeps."""

import copy
import importlib.util
import itertools
import json
import multiprocessing
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import launch
from configs import vertebral_fracture as config_file
from configs.grids import GRIDS
from jaxmed import engines, grids, runs, search
from jaxmed.classification import scores
from jaxmed.data import records
from jaxmed.errors import ConfigError, InputError, RecordError
from tests.commands import ROOT, run

CONFIG = {
    'task_name': 'toy', 'task': {'model': {'depth': 2, 'name': 'a'}, 'shape': ()},
    'data': {'records': '', 'phantoms': 0}, 'optimizer': {'rate': 0.1},
    'train': {'seed': 0, 'long': True}, 'evaluate': {'views': 1},
}
AXES = {
    'depth': {'one': {'task.model.depth': 1}, 'two': {'task.model.depth': 2}},
    'optimizer.rate': [0.1, 0.01, 0.001],
    'task.shape': [(), [8, 8]],
}


def expand(grid, count=None, seed=0):
    return grids.expand(grid, CONFIG, count=count, seed=seed, name='g')


def test_axes_are_multiplied_and_change_nothing_else():
    before = copy.deepcopy(CONFIG)
    listed = expand({'axes': AXES})
    assert len(listed) == 2 * 3 * 2 and CONFIG == before
    assert listed[0].name == 'one-rate-0.1-shape-own'
    assert listed[-1].name == 'two-rate-0.001-shape-8x8'
    last = listed[-1]
    assert last.choices == {
        'depth': 'two', 'optimizer.rate': 'rate 0.001', 'task.shape': 'shape 8x8'}
    assert last.config == CONFIG | {
        'task': {'model': {'depth': 2, 'name': 'a'}, 'shape': (8, 8)},
        'optimizer': {'rate': 0.001}}


def test_rows_stand_as_they_are():
    listed = expand({'rows': {'full': {}, 'max + place': {'train.long': False}}})
    assert [(r.name, r.title) for r in listed] == [
        ('full', 'full'), ('max-place', 'max + place')]
    assert listed[0].config == CONFIG and not listed[1].config['train']['long']


@pytest.mark.parametrize('seed', [0, 1])
def test_a_draw_takes_every_choice_about_equally_often_and_can_grow(seed):
    axes = {name: {f'{name}{i}': {} for i in range(size)}
            for name, size in dict(a=3, b=2, c=2, d=4).items()}
    twelve = expand({'axes': axes}, count=12, seed=seed)
    assert twelve[0].name == 'a0-b0-c0-d0'
    for axis, choices in axes.items():
        taken = [sum(r.choices[axis] == choice for r in twelve) for choice in choices]
        assert max(taken) - min(taken) <= 1, (axis, taken)
    # No two axes go hand in hand: each pair of choices comes, where 12 runs allow it.
    for one, two in ('ab', 'ac', 'bc', 'bd', 'cd'):
        pairs = {(r.choices[one], r.choices[two]) for r in twelve}
        assert len(pairs) == len(axes[one]) * len(axes[two]), (one, two)
    seven = expand({'axes': axes}, count=7, seed=seed)
    assert [r.name for r in seven] == [r.name for r in twelve[:7]]
    assert len(expand({'axes': axes, 'count': 5}, seed=seed)) == 5
    other = expand({'axes': axes}, count=12, seed=seed + 7)
    assert [r.name for r in other] != [r.name for r in twelve]


@pytest.mark.parametrize('grid, words', [
    ([], 'axes'), ({'axes': {}, 'rows': {}}, 'either'), ({'rows': {}}, "'rows'"),
    ({'axes': AXES, 'cuont': 3}, "'cuont'"), ({'axes': AXES, 'count': 0}, 'count'),
    ({'axes': AXES, 'title': 3}, "'title'"),
    ({'axes': AXES, 'literature': [('a', 1)]}, "'literature'"),
    ({'rows': {'a': {'task.modle.depth': 1}}}, "no field 'task.modle.depth'"),
    ({'rows': {'a': {'task.model.depth.x': 1}}}, "no field 'task.model.depth.x'"),
    ({'rows': {'a': {'task.model.depth': 'deep'}}}, "'deep' does not fit"),
    ({'rows': {'a': {'task.model.depth': True}}}, 'True does not fit'),
    ({'rows': {'a': {'task.model': {'depth': 1}}}}, 'fields of its own'),
    ({'rows': {'a': {'data.records': '/b'}}}, 'same for all runs'),
    ({'rows': {'a': {'task_name': 'other'}}}, 'same for all runs'),
    ({'rows': {'a': {'evaluate.views': 2}}}, 'same for all runs'),
    ({'rows': {'a b': {}, 'A-b': {}}}, "the same as 'a b'"),
    ({'rows': {'../..': {}}}, 'can not name a run'),
    ({'rows': {'a': 3}}, "'rows'"),
    ({'axes': {'optimizer.rate': [0.1, 1e-1]}}, 'a value twice'),
    ({'axes': {'x': {'a': {'train.seed': 1}}, 'train.seed': [1]}}, "by 'x' and"),
    ({'axes': {f'a{i}': {str(j): {} for j in range(10)} for i in range(6)}}, 'limit'),
])
def test_a_grid_that_does_not_fit_is_told_where(grid, words):
    with pytest.raises(ConfigError, match=re.escape(words)) as raised:
        expand(grid)
    assert str(raised.value).startswith('grid g: ')


@pytest.mark.parametrize('variant', ['', 'phantom'])
def test_the_papers_grids_fit_the_config_of_fractures(variant):
    config = config_file.get_config(variant).to_dict()
    found = {
        name: grids.expand(make(config), config, count=None, seed=0, name=name)
        for name, make in GRIDS['vertebral_fracture'].items()}
    assert found['pool'][0].config == config | {'task': config['task'] | {
        'model': found['pool'][0].config['task']['model']}}  # the config's own setting
    assert len(found['pool'][0].choices) == 6
    assert found['ablation'][0].config == config
    for listed in found.values():
        for one in listed:
            runs.make_task(one.config)


def test_areas_of_many_models_are_those_of_one_with_ties():
    rng = np.random.default_rng(0)
    truth = rng.random(41) < 0.3
    table = np.round(rng.random((50, 41)), 1)
    expected = [roc_auc_score(truth, row) for row in table]
    np.testing.assert_allclose(search.auc_of_many(table, truth), expected, rtol=1e-12)
    assert np.isnan(search.auc_of_many(table, np.zeros(41, bool))).all()
    table[3, 5] = np.nan
    assert np.flatnonzero(np.isnan(search.auc_of_many(table, truth))).tolist() == [3]


def metric_of(name, sign=1, function=None):
    function = function or scores.make_metrics(exclusive=False)[name]
    return SimpleNamespace(metric=name, sign=sign, value=function)


def members(count, cases=30, classes=1, seed=0):
    rng = np.random.default_rng(seed)
    targets = (rng.random((cases, classes)) < 0.4).astype(np.float32)
    targets[-2:, 0] = np.nan
    return {
        f'run{i}': {
            'probability': np.round(
                rng.random((cases, classes)) + 0.3 * np.nan_to_num(targets), 1
            ).astype(np.float32), 'targets': targets, 'loss': rng.random(cases),
        } for i in rng.permutation(count)
    }


@pytest.mark.parametrize('name, classes', [('auc', 1), ('auc', 3), ('f1', 1)])
def test_the_best_ensemble_is_that_of_an_exhaustive_search(name, classes):
    rows, metric = members(7, classes=classes), metric_of(name)
    best, number = search.rank_ensembles(metric, rows, size=3)
    by_hand = {}
    for few in itertools.combinations(sorted(rows), 3):
        mean = np.mean([rows[n]['probability'].astype(float) for n in few], axis=0)
        by_hand[few] = metric.value(rows[few[0]] | {'probability': mean})
    assert number == 35 and len(best) == search.SHOWN
    ranked = sorted(by_hand.values(), reverse=True)
    np.testing.assert_allclose([b.value for b in best], ranked[:search.SHOWN])
    for one in best:
        np.testing.assert_allclose(one.value, by_hand[one.names])


def test_equal_ensembles_are_ordered_by_loss_and_then_by_name():
    same = {'probability': np.array([[0.9], [0.1]]), 'targets': np.array([[1], [0]])}
    rows = {
        name: same | {'loss': np.array([loss, loss])}
        for name, loss in (('d', 0.2), ('c', 0.3), ('b', 0.2), ('a', np.nan))
    } | {'bad': {
        'probability': same['probability'][::-1], 'targets': same['targets'],
        'loss': np.zeros(2)}}
    best, _ = search.rank_ensembles(metric_of('auc'), rows, size=1)
    assert [one.names[0] for one in best] == ['b', 'd', 'c', 'a', 'bad']
    best, _ = search.rank_ensembles(metric_of('auc', sign=-1), rows, size=1)
    assert best[0].names == ('bad',)


def test_maps_and_patches_are_averaged_and_keep_their_type():
    def member(p, q, m):
        return {'probability': np.float32([[p]]), 'targets': np.ones((1, 1)), 'loss': 1,
                'patch_probability': np.float32([[q]]), 'map': np.uint8([m])}

    rows = search.average([member(0.2, 0.0, 1), member(0.4, 1.0, 2)])
    np.testing.assert_allclose(rows['probability'], [[0.3]], rtol=1e-6)
    assert rows['patch_probability'] == 0.5 and rows['map'] == 1 and 'loss' not in rows
    rows = search.average([
        {'probability': np.uint8([[254, 0]])}, {'probability': np.uint8([[255, 1]])},
        {'probability': np.uint8([[255, 0]])}])
    assert rows['probability'].tolist() == [[255, 0]]
    assert rows['probability'].dtype == np.uint8


PIECES = [('1 + 1',), ('1 / 0',), ("__import__('os')._exit(3)",),
          ("__import__('os').kill(__import__('os').getpid(), 9)",), ('2 + 2',)]


def test_a_process_that_dies_costs_its_own_piece():
    found = dict(engines.share_out(eval, PIECES, engine='local'))
    assert (found[0], found[4]) == (2, 4)
    assert found[1].reason == 'ZeroDivisionError: division by zero'
    assert found[2].reason == 'its process ended with code 3'
    assert 'was killed' in found[3].reason
    with pytest.raises(ConfigError, match='--engine'):
        list(engines.share_out(eval, PIECES, engine='cloud'))


def test_an_interruption_ends_the_process_that_works():
    def stop(number, frame):
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, stop)
    began = time.monotonic()
    try:
        with pytest.raises(InterruptedError):
            signal.setitimer(signal.ITIMER_REAL, 1)
            list(engines.share_out(time.sleep, [(60,)], engine='local'))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began < 20 and not multiprocessing.active_children()


@pytest.mark.skipif(
    importlib.util.find_spec('ray') is None, reason='Ray is an optional extra')
def test_a_cluster_gives_the_same_answers():
    # In a process of its own: Ray starts others.
    done = subprocess.run(
        [sys.executable, '-c', 'from jaxmed import engines\n'
         f'print(dict(engines.share_out(eval, {PIECES[:3]}, engine="ray")))'],
        cwd=ROOT, capture_output=True, text=True, timeout=120)
    last = done.stdout.splitlines()[-1]  # Ray tells of the worker that died
    found = eval(last, {'Failure': engines.Failure})
    assert found[0] == 2 and found[1].reason.startswith('ZeroDivisionError')
    assert found[2].reason.startswith('its process died')


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

    # Of a search that was stopped while one run had ended.
    before = {name: (folder / name).read_bytes() for name in (
        'search.md', 'search.csv', 'search.json', 'times.csv')}
    (folder / 'runs/without/rows_valid.npz').unlink()
    (folder / 'runs/with-place/rows_test.npz').write_bytes(b'torn')
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
    with pytest.raises(ConfigError, match='run without'):
        run_search(config, folder, grid=grid)


def test_too_few_runs_end_a_search_and_leave_no_table(tmp_path):
    config = tiny()
    config['data']['records'] = str(draw(tmp_path / 'records'))
    grid = {'rows': {'broken': {'task.model.window': 2}}}
    with pytest.raises(InputError, match='0 of 1 runs ended, 1 are needed; broken: '):
        run_search(config, tmp_path / 'search', grid=grid)
    assert {path.name for path in (tmp_path / 'search').iterdir()} <= {
        'plan.json', 'runs'}


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
        (dict(metric='dice'), "--metric: 'dice'"),
        (dict(metric='-valid_loss'), "'valid_loss' is none of auc"),
    ):
        with pytest.raises(ConfigError, match=words):
            run_search(config, folder, grid=grid, **options)
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
