"""The commands as a user runs them: killed, resumed, distributed, wrongly used."""

import importlib.util
import json
import os
import platform
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest

import jaxmed
import launch
from jaxmed import progress, runs
from jaxmed.data import records
from jaxmed.errors import RecordError
from tests.commands import ROOT, TINY, command, finish, run, start, state_of


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """One finished tiny run that several tests look at."""
    workdir = tmp_path_factory.mktemp('runs') / 'trained'
    code, output = run('train', *TINY, f'--workdir={workdir}', warm=False)
    assert code == 0, output
    return workdir, output


def test_training_ends_with_a_report_and_an_overlay(trained):
    workdir, output = trained
    paths = dict(
        line.split(': ', 1) for line in output.splitlines()
        if line.startswith(('report', 'numbers', 'overlay'))
    )
    assert all(Path(path).is_file() for path in paths.values()) and len(paths) == 3
    numbers = json.loads(Path(paths['numbers']).read_text())
    assert numbers['results'][0]['data'] == 'test'
    dice = numbers['results'][0]['values']['dice']
    line = next(line for line in output.splitlines() if line.startswith('dice '))
    assert f'{dice["value"]:.4f}' in line and dice['n_cases'] > 0
    sources = [(result['source'], result['data']) for result in numbers['results']]
    assert ('this model', 'train') in sources and ('Otsu on grey', 'test') in sources
    assert cv2.imread(paths['overlay']) is not None
    assert list(workdir.glob('events.*'))


def test_a_finished_run_started_again_only_reports(trained):
    workdir, output = trained
    before = state_of(workdir)[0]
    code, again = run('train', *TINY, f'--workdir={workdir}')
    assert code == 0
    assert again[again.index('this model'):] == output[output.index('this model'):]
    jax.tree.map(np.testing.assert_array_equal, before, state_of(workdir)[0])


LONG = (
    *TINY, '--config.train.epochs=4', '--config.train.steps_per_epoch=10',
    '--config.train.checkpoint_every=1',
)


def saved_steps(workdir):
    folder = workdir / 'checkpoints'
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return [int(name) for name in names if name.isdigit()], [
        name for name in names if not name.isdigit()]


@pytest.mark.parametrize('seed', [0])
def test_a_run_killed_at_random_ends_with_the_same_bits(tmp_path, seed):
    code, output = run('train', *LONG, f'--workdir={tmp_path / "whole"}')
    assert code == 0, output
    draw, workdir = random.Random(seed), tmp_path / 'killed'
    kills, while_saving, attempt = 0, 0, -1
    while (kills < 5 or not while_saving) and attempt < 12:
        attempt += 1
        begun = max(saved_steps(workdir)[0], default=0)
        process = start('train', *LONG, f'--workdir={workdir}')
        goal, saving = begun + draw.randint(1, 5), attempt % 2
        while process.poll() is None:
            finished, partial = saved_steps(workdir)
            # On odd turns not after a save but in the middle of one.
            if max(finished, default=0) >= goal and (partial or not saving):
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.0 if saving else draw.uniform(0.0, 0.02))
        process.communicate()
        if process.returncode == -signal.SIGKILL:
            kills += 1
            while_saving += bool(saved_steps(workdir)[1])
    code, output = run('train', *LONG, f'--workdir={workdir}')
    assert code == 0, output
    assert kills >= 5 and while_saving >= 1, (kills, while_saving)
    (whole, place), (killed, other) = state_of(tmp_path / 'whole'), state_of(workdir)
    assert place['step'] == other['step'] == 40
    jax.tree.map(np.testing.assert_array_equal, whole, killed)
    assert not saved_steps(workdir)[1]  # what the kills left half-written is gone


@pytest.mark.parametrize('number, workers', [(signal.SIGTERM, 2), (signal.SIGINT, 2)])
def test_a_signal_saves_exits_0_and_says_how_to_resume(tmp_path, number, workers):
    endless = (*TINY, '--config.train.epochs=1000', '--config.train.steps_per_epoch=50',
               f'--config.runtime.workers={workers}', f'--workdir={tmp_path / "run"}')
    process = start('train', *endless, start_new_session=True)
    for line in process.stdout:
        if progress.FIRST_UPDATE in line:
            break
    os.killpg(process.pid, number)  # as a terminal does: reading processes too
    output = finish(process, seconds=60)
    assert process.returncode == 0, output
    assert 'Traceback' not in output
    assert 'to resume, run again: ' in output and ' -m launch.train' in output
    state, place = state_of(tmp_path / 'run')
    assert f'stopped after update {place["step"]};' in output
    assert int(state.step) == place['step'] >= 1


def test_sigterm_before_the_loop_exits_0_and_leaves_no_half_records(tmp_path):
    process = start('train', *TINY, '--config.data.phantoms=100000',
                    f'--workdir={tmp_path / "run"}')
    while process.poll() is None and not list(tmp_path.glob('run/.records.partial-*')):
        time.sleep(0.05)
    # Where coverage meets a file for the first time it holds a lock, for ever if the
    # signal raises there.
    time.sleep(2)
    process.send_signal(signal.SIGTERM)
    output = finish(process, seconds=60)
    assert process.returncode == 0, output
    assert 'stopped outside of the training loop; to resume' in output
    assert list(tmp_path.glob('run/*')) == list(tmp_path.glob('run/.*')) == []


def test_two_processes_of_two_devices_train_like_one_device(trained, tmp_path):
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    shared = (*TINY, f'--workdir={tmp_path / "run"}', '--distributed',
              f'--coordinator=127.0.0.1:{port}', '--num_processes=2')
    processes = [
        start('train', *shared, f'--process_id={i}', devices=2) for i in (0, 1)]
    outputs = [finish(process, seconds=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    one, two = state_of(trained[0])[0], state_of(tmp_path / 'run')[0]
    assert int(two.step) == 6
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        (one.params, one.model_state), (two.params, two.model_state),
    )
    assert (tmp_path / 'run' / 'report' / 'report.html').is_file()


def test_a_changed_config_is_refused_and_names_the_fields(trained):
    code, output = run(
        'train', *TINY, f'--workdir={trained[0]}', '--config.optimizer.clip_norm=2.0',
        '--config.runtime.log_every=3',
    )
    assert code == 2
    assert 'optimizer.clip_norm (1.0 -> 2.0);' in output
    assert 'log_every' not in output and 'Traceback' not in output


def smears(folder):
    """Three smears of several sizes, a broken one, a text file."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    for name, size in (('small', (20, 25)), ('tile', (32, 32)), ('large', (70, 101))):
        picture = draw.integers(0, 255, (*size, 3), np.uint8)
        assert cv2.imwrite(str(folder / f'{name}.png'), picture)
    data = (folder / 'large.png').read_bytes()
    (folder / 'torn.png').write_bytes(data[:len(data) // 2])
    (folder / 'notes.txt').write_text('no image')
    return folder


def test_one_bad_file_in_a_folder_costs_its_own_row(trained, tmp_path):
    source, output = smears(tmp_path / 'in'), tmp_path / 'out'
    (output / 'masks').mkdir(parents=True)
    (output / 'masks' / 'torn.png').touch()  # of a time when it was whole
    code, text = run('predict', f'--workdir={trained[0]}', f'--input={source}',
                     f'--output={output}')
    assert code == 3, text
    assert '3 predicted, 1 failed' in text and 'Traceback' not in text
    assert 'torn: unprocessable: ' in text and 'large: done' in text
    rows = json.loads((output / 'findings.json').read_text())
    assert {row['case']: row['status'] for row in rows} == {
        'small': 'done', 'tile': 'done', 'large': 'done', 'torn': 'unprocessable'}
    assert 'truncated' in next(row['reason'] for row in rows if row['case'] == 'torn')
    for name, size in (('small', (20, 25)), ('tile', (32, 32)), ('large', (70, 101))):
        mask = cv2.imread(str(output / 'masks' / f'{name}.png'), cv2.IMREAD_UNCHANGED)
        assert mask.shape == size and set(np.unique(mask)) <= {0, 255}
        assert cv2.imread(str(output / 'overlays' / f'{name}.png')) is not None
    assert not (output / 'masks' / 'torn.png').exists()
    lines = (output / 'findings.csv').read_text().splitlines()
    assert lines[0].startswith('case,status,reason,count') and len(lines) == 5
    assert sorted(p.name for p in output.iterdir()) == [
        'findings.csv', 'findings.json', 'findings.jsonl', 'masks', 'overlays']


def predicted(output):
    return {
        path.relative_to(output).as_posix(): path.read_bytes()
        for path in sorted(output.rglob('*.*')) if path.suffix != '.jsonl'
    }


def test_a_long_prediction_goes_on_where_it_was_killed(trained, tmp_path):
    source, output = smears(tmp_path / 'in'), tmp_path / 'out'
    flags = [f'--workdir={trained[0]}', f'--input={source}', f'--output={output}']
    code, text = run('predict', *flags, '--resume')
    assert code == 3 and 'were done before' not in text
    whole = predicted(output)
    # What a kill leaves: some lines, the last one torn, no tables.
    journal = output / 'findings.jsonl'
    lines = journal.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if b'"small"' in line or b'"torn"' in line]
    journal.write_bytes(b''.join(kept) + lines[-1][:30])
    (output / 'findings.csv').unlink()
    (output / 'masks' / 'large.png').unlink()
    untouched = (output / 'masks' / 'small.png').stat().st_mtime_ns
    code, text = run('predict', *flags, '--resume')
    assert code == 3 and '1 of 4 cases were done before' in text, text  # bad: again
    assert predicted(output) == whole
    assert (output / 'masks' / 'small.png').stat().st_mtime_ns == untouched
    # A file that changed, and all files for another model, are done again.
    assert cv2.imwrite(str(source / 'small.png'), np.zeros((9, 9, 3), np.uint8))
    code, text = run('predict', *flags, '--resume')
    assert '2 of 4 cases were done before' in text, text
    assert cv2.imread(str(output / 'masks' / 'small.png')).shape == (9, 9, 3)
    code, text = run('predict', *flags, '--resume', '--views=1', '--task=overlap_px=8')
    assert 'were done before' not in text


@pytest.mark.skipif(
    importlib.util.find_spec('ray') is None, reason='Ray is an optional extra')
def test_a_cluster_writes_what_one_machine_writes(trained, tmp_path):
    source = smears(tmp_path / 'in')
    for engine in ('local', 'ray'):
        # In a process of its own: Ray starts others.
        code, text = run(
            'predict', f'--workdir={trained[0]}', f'--input={source}',
            f'--output={tmp_path / engine}', f'--engine={engine}', warm=False)
        assert code == 3 and '3 predicted, 1 failed' in text, text
        assert 'torn' in text and 'Traceback' not in text
    assert predicted(tmp_path / 'ray') == predicted(tmp_path / 'local')


def test_the_papers_way_of_prediction_is_an_option(trained, tmp_path):
    """Without a dark region it predicts nothing; windows may find something."""
    picture = np.full((50, 60, 3), 240, np.uint8)
    picture[20:40, 20:45] = (90, 30, 120)
    cv2.imwrite(str(tmp_path / 'cell.png'), picture)
    cv2.imwrite(str(tmp_path / 'empty.png'), np.full((50, 60, 3), 240, np.uint8))
    counts = {}
    for name in ('cell', 'empty'):
        code, output = run(
            'predict', f'--workdir={trained[0]}', f'--input={tmp_path / name}.png',
            f'--output={tmp_path / name}',
            # Of any confidence: a model of six updates has little.
            '--task=sweep=crops,crop_min_area_px=100,min_confidence=0',
        )
        assert code == 0, output
        mask = cv2.imread(str(tmp_path / name / 'masks' / f'{name}.png'), 0)
        counts[name] = int((mask > 0).sum())
    assert counts['empty'] == 0 < counts['cell']


def test_a_run_is_measured_on_another_prepared_set(trained, tmp_path):
    """SigTuple's layout, prepared as an external test set."""
    (tmp_path / 'in').mkdir()
    for record in runs.make_task(runs.read_config(trained[0])).phantoms(
        count=3, seed=99
    ):
        name = str(tmp_path / 'in' / record['case_id'])
        cv2.imwrite(f'{name}.png', record['inputs'])
        cv2.imwrite(f'{name}-mask.png', 255 * record['targets'])
    code, output = run(
        'prepare', TINY[0], *TINY[2:4], '--layout=sigtuple',
        f'--source={tmp_path / "in"}', f'--output={tmp_path / "set"}', '--splits=0,0,1',
    )
    assert code == 0 and 'test        3 records      3 cases' in output, output
    code, output = run('evaluate', f'--workdir={trained[0]}',
                       f'--records={tmp_path / "set"}')
    assert code == 0 and 'this model on test: 3 cases' in output, output
    code, output = run('evaluate', f'--workdir={trained[0]},{trained[0]}',
                       f'--output={tmp_path / "both"}')
    assert code == 0 and 'this model on test: 4 cases' in output, output


def test_drawn_cases_are_a_test_set_when_the_seed_is_another(trained, tmp_path):
    for seed, code, words in (
        (7, 0, 'this model on test: 4 cases'),
        (0, 2, 'all cases to be measured were trained on'),
    ):
        folder = tmp_path / str(seed)
        assert run(
            'prepare', TINY[0], *TINY[2:4], '--phantoms=4', f'--seed={seed}',
            f'--output={folder}', '--splits=0,0,1')[0] == 0
        outcome, output = run(
            'evaluate', f'--workdir={trained[0]}', f'--records={folder}')
        assert outcome == code and words in output, output


@pytest.mark.parametrize('module, flags, words', [
    ('predict', '--workdir={run} --input={torn} --output={out}', 'truncated'),
    ('predict', '--workdir={run} --input={none} --output={out}', 'none.png'),
    ('predict', '--workdir={tmp} --input={torn} --output={out}', 'not a run folder'),
    ('evaluate', '--workdir={run} --records={tmp}', 'no manifest.json'),
    ('train', '--config=configs/white_blood_cell_unet.py:phantom --workdir={out} '
     '--config.data.phantom_splits=(0.5,0.4,0.2)', 'data.phantom_splits: three shares'),
    ('evaluate', '--workdir={run} --views=9', 'evaluate.views: 9 is not in [1, 8]'),
    ('prepare', '--config=configs/white_blood_cell_unet.py --layout=sigtuple '
     '--source={empty} --output={out}', 'no images'),
    ('prepare', '--config=configs/white_blood_cell_unet.py --layout=x '
     '--source={empty} --output={out}', "'x' is none of"),
    ('prepare', '--config=configs/white_blood_cell_unet.py --layout=sigtuple '
     '--source={empty} --output={out} --splits=1,1,1', '--splits'),
    ('prepare', '--config=configs/white_blood_cell_unet.py --output={out}',
     '--source: name a folder'),
    ('prepare', '--config=configs/white_blood_cell_unet.py --output={out} '
     '--source={empty} --phantoms=3', '--phantoms: does not go with --source'),
    ('train', '--config=configs/white_blood_cell_unet.py:x --workdir={out}', "'x'"),
    ('train', '--config=configs/nothing.py --workdir={out}', 'nothing.py'),
    ('train', '--config=configs/white_blood_cell_unet.py --workdir={out} '
     '--config.task.width=3', 'width'),
    ('train', '--config=configs/white_blood_cell_unet.py:phantom --workdir={out} '
     '--config.task.tile=32 --config.task.overlap_px=16 --config.optimizer_name=sgdx '
     '--config.data.records={run}/records', 'sgdx'),
    ('train', '--config=configs/white_blood_cell_unet.py --workdir={out} --bogus=1',
     'bogus'),
    ('train', '--config=configs/white_blood_cell_unet.py:phantom --workdir={out} '
     '--config.train.epochs=0', 'train.epochs: 0 is not positive'),
    ('train', '--config=configs/white_blood_cell_unet.py --workdir={out} '
     '--config.data.records={run}/records', 'inputs is uint8[32, 32, 3] in these'),
    ('prepare', '--config=configs/white_blood_cell_unet.py --layout=sigtuple '
     '--source={run} --output={run}/report --overwrite', 'is no folder of records'),
    ('predict', '--workdir={run} --input={empty} --output={empty}/in', 'lies in the'),
])
def test_bad_input_is_one_line_and_exit_code_2(trained, tmp_path, module, flags, words):
    torn = tmp_path / 'torn.jpg'
    cv2.imwrite(str(torn), np.zeros((50, 50, 3), np.uint8))
    torn.write_bytes(torn.read_bytes()[:-100])
    (tmp_path / 'empty').mkdir()
    names = dict(
        run=trained[0], torn=torn, none=tmp_path / 'none.png', tmp=tmp_path,
        out=tmp_path / 'out', empty=tmp_path / 'empty',
    )
    code, output = run(module, *flags.format(**names).split())
    assert code == 2, output
    errors = [line for line in output.splitlines() if line.startswith('error: ')]
    assert len(errors) == 1 and words in errors[0]
    assert 'Traceback' not in output
    assert not (tmp_path / 'out').exists()


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='a switch of glibc')
@pytest.mark.parametrize('own', [None, 'glibc.malloc.check=0'])
def test_commands_keep_memory_unless_told_otherwise(own):
    code = (
        'import os, launch\n'
        'launch.run(lambda _: print(os.environ["GLIBC_TUNABLES"]))'
    )
    environment = {k: v for k, v in os.environ.items() if k != 'GLIBC_TUNABLES'}
    if own:
        environment['GLIBC_TUNABLES'] = own
    output = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, env=environment, text=True,
        capture_output=True, timeout=60,
    ).stdout
    assert output.strip() == (own or launch.MALLOC)


def test_a_run_is_found_from_another_folder(trained, tmp_path):
    """Records named by a relative path, resumed and measured from elsewhere."""
    source = runs.records_folder(trained[0], runs.read_config(trained[0]))
    relative = os.path.relpath(source, ROOT)
    flags = (*TINY, f'--config.data.records={relative}', f'--workdir={tmp_path / "r"}')
    code, output = run('train', *flags)
    assert code == 0, output
    elsewhere = subprocess.run(
        command('evaluate', f'--workdir={tmp_path / "r"}'), cwd=tmp_path, text=True,
        capture_output=True, env=os.environ | {'PYTHONPATH': str(ROOT)},
    )
    assert elsewhere.returncode == 0, elsewhere.stderr


def test_anothers_records_can_not_write_outside_of_the_output(trained, tmp_path):
    records_of_run = records.open_records(
        trained[0] / 'records', 'test', task='white_blood_cell', verify=True)
    record = records_of_run[0] | {'case_id': '../../escaped'}
    for name in ('content_id', 'patient_id'):
        record[name] = 'new'
    with pytest.raises(RecordError, match='can not name a file'):
        records.write_records(
            [record], tmp_path / 'hostile', task='white_blood_cell',
            fractions=(0, 0, 1), seed=0,
        )
    original = records.check_case_id
    records.check_case_id = lambda case_id: None  # as a hostile writer would
    try:
        records.write_records(
            [record], tmp_path / 'hostile', task='white_blood_cell',
            fractions=(0, 0, 1), seed=0,
        )
    finally:
        records.check_case_id = original
    code, output = run('evaluate', f'--workdir={trained[0]}',
                       f'--records={tmp_path / "hostile"}', f'--output={tmp_path}/a/b')
    assert code == 2 and 'can not name a file' in output, output
    assert not list(tmp_path.rglob('escaped*'))


def test_the_library_predicts_as_the_command_does(trained, tmp_path):
    source = smears(tmp_path / 'in')
    finding = jaxmed.load(trained[0])(source / 'large.png')
    code, output = run(
        'predict', f'--workdir={trained[0]}', f'--input={source / "large.png"}',
        f'--output={tmp_path / "out"}',
    )
    assert code == 0, output
    mask = cv2.imread(str(tmp_path / 'out' / 'masks' / 'large.png'), 0)
    np.testing.assert_array_equal(finding.pictures['masks'], mask)
