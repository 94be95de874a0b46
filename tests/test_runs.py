"""Runs that need another run: loaded in time, and part of what made a finding."""

import csv
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
import SimpleITK as sitk

import jaxmed
import launch
from configs import spinal_cord_yolo, vertebral_fracture
from jaxmed import runs, train
from jaxmed.checkpoint import Checkpoints
from jaxmed.errors import CheckpointError, ConfigError
from tests.commands import ROOT, run


def write_run(folder, config, *, seed=0, step=1):
    """A run of no training at all."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'config.json').write_text(json.dumps(config))
    (folder / 'cases.csv').write_text('case_id\n')
    state = train.init_state(runs.make_task(config), optax.sgd(0.1), seed=seed)
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(step, jax.device_get(state), {'step': step})
        checkpoints.wait()
    return folder


def cord_config(**changes):
    config = spinal_cord_yolo.get_config().to_dict()
    config['task'].update(
        dict(widths=(2, 2, 2, 2), depth=4, size_px=32, pixel_mm=14.0) | changes)
    return config


def fracture_config(detector=''):
    config = vertebral_fracture.get_config('phantom').to_dict()
    config['task'].update(
        detector=str(detector), patch_shape=(8, 8, 8), num_patches=8,
        box_mm=(40.0, 10.0, 20.0))
    config['task']['model'].update(widths=(2,))
    return config


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs')
    write_run(folder / 'cord', cord_config())
    write_run(folder / 'fracture', fracture_config(folder / 'moved'))
    return folder


def test_a_detector_that_moved_is_missed_only_where_a_scan_is_read(folder, tmp_path):
    (task,), _, config, _ = runs.load_members([folder / 'fracture'])
    assert config['task']['detector'] == str(folder / 'moved')
    hu = np.random.default_rng(0).integers(-1000, 1000, (20, 32, 32), np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(hu), str(tmp_path / 'a.nii.gz'))
    with pytest.raises(ConfigError, match='^task.detector: .*moved: not a run folder'):
        task.read(tmp_path / 'a.nii.gz', case_id='a')
    with pytest.raises(CheckpointError, match='moved: not a run folder'):
        runs.load(folder / 'fracture', reads=True)
    with pytest.raises(ConfigError, match='^task.detector: name a trained run'):
        runs.load(folder / 'fracture', task_options={'detector': ''}, reads=True)
    runs.load(folder / 'fracture', task_options={'detector': ''})


def test_what_made_a_finding_is_the_detector_wherever_it_lies_and_the_version(
    folder, tmp_path, monkeypatch
):
    def made_by(cord):
        return runs.load(
            folder / 'fracture', task_options={'detector': str(cord)}).made_by

    first = made_by(folder / 'cord')
    assert first == made_by(write_run(tmp_path / 'copy', cord_config()))
    # Another one at the same place.
    write_run(tmp_path / 'copy', cord_config(min_confidence=0.4))
    other = made_by(tmp_path / 'copy')
    longer = made_by(write_run(tmp_path / 'longer', cord_config(), step=2))
    none = runs.load(folder / 'fracture', task_options={'detector': ''}).made_by
    monkeypatch.setattr(jaxmed, '__version__', '0.0.7')
    newer = made_by(folder / 'cord')
    assert len({first, other, longer, none, newer}) == 5


def test_prediction_without_a_detector_ends_in_one_line(folder, tmp_path):
    (tmp_path / 'in').mkdir()
    for name in 'ab':
        (tmp_path / 'in' / f'{name}.nii.gz').write_bytes(b'damaged')
    for options, words in (
        ('detector=""', 'error: task.detector: name a trained run'),
        (f'detector={folder}/cords', f'error: {folder}/cords: not a run folder'),
        (f'detector={folder}/fracture',
         f"error: {folder}/fracture: a run of task 'vertebral_fracture', not of"),
        (f'detector={folder}/cord,window_centre_hu=100',
         'error: --task: changes what the network is or sees'),
        (f'detector={folder}/cord,read_seconds=x',
         "error: task.read_seconds: 'x' where there was 120.0"),
        (f'detector={folder}/cord,mirror=3', 'error: task.mirror: 3 where there was T'),
        (f'detector={folder}/cord,min_slice=3', 'error: task vertebral_fracture: '),
    ):
        code, text = run(
            'predict', f'--workdir={folder}/fracture', f'--task={options}',
            f'--input={tmp_path}/in', f'--output={tmp_path}/out')
        assert code == 2 and text.startswith(words) and text.count('\n') == 1, text
        assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('name, change, words', [
    ('config.json', lambda c: c['task'].update(model=[1]), 'error: task vertebral'),
    ('config.json', lambda c: c['task'].update(model='x'), 'error: task vertebral'),
    ('config.json', lambda c: c['evaluate'].update(views='a'), 'error: evaluate.views'),
    ('calibration.json', [1], 'calibration.json: damaged'),
    ('calibration.json', [], 'calibration.json: damaged'),
])
def test_a_run_of_damaged_files_ends_in_one_line(
    folder, tmp_path, name, change, words
):
    shutil.copytree(folder / 'fracture', tmp_path / 'run')
    if callable(change):
        values = json.loads((tmp_path / 'run' / name).read_text())
        change(values)
    else:
        values = change
    (tmp_path / 'run' / name).write_text(json.dumps(values))
    (tmp_path / 'a.nii.gz').write_bytes(b'damaged')
    code, text = run(
        'predict', f'--workdir={tmp_path}/run', f'--task=detector={folder}/cord',
        f'--input={tmp_path}/a.nii.gz', f'--output={tmp_path}/out')
    assert code == 2 and text.count('\n') == 1 and words in text, text
    assert text.startswith('error: ') and not (tmp_path / 'out').exists()


def test_a_run_without_an_option_that_came_later_is_told_to_be_old(folder, tmp_path):
    shutil.copytree(folder / 'cord', tmp_path / 'run')
    path = tmp_path / 'run' / 'config.json'
    config = json.loads(path.read_text())
    del config['task']['pixel_mm']
    path.write_text(json.dumps(config))
    with pytest.raises(ConfigError) as caught:
        runs.load(tmp_path / 'run')
    assert str(caught.value) == (
        'task.pixel_mm: missing; a run of task spinal_cord without it was trained by '
        'an older jaxmed: train it anew')


def test_the_detector_of_a_preparation_is_of_its_task(folder, tmp_path):
    hu = np.random.default_rng(0).integers(-1000, 1000, (20, 32, 32), np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(hu), str(tmp_path / 'a.nii.gz'))
    task = runs.make_task(fracture_config(folder / 'fracture'))
    with pytest.raises(ConfigError, match="a run of task 'vertebral_fracture', not of"):
        task.read(tmp_path / 'a.nii.gz', case_id='a')


def test_predicting_with_a_detector_costs_a_damaged_scan_its_row(folder, tmp_path):
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in' / 'a.nii.gz').write_bytes(b'damaged')
    code, text = run(
        'predict', f'--workdir={folder}/fracture', f'--task=detector={folder}/cord',
        f'--input={tmp_path}/in', f'--output={tmp_path}/out')
    assert code == 3, text
    with open(tmp_path / 'out' / 'findings.csv', newline='') as file:
        (row,) = csv.DictReader(file)
    assert row['status'] == 'unprocessable'


def test_the_detectors_place_is_made_absolute_for_the_machines_of_a_cluster():
    words = 'import launch; print(launch.parse_options(["detector=runs/cord", "a=1"]))'
    done = subprocess.run(
        [sys.executable, '-c', words], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == str({'detector': f'{ROOT}/runs/cord', 'a': 1})


@pytest.mark.parametrize('flag, options', [
    ('hw=(480,640),hz=25', {'hw': [480, 640], 'hz': 25}),
    ('a=x, hw=[480, 640]', {'a': 'x', 'hw': [480, 640]}),
    ("names=(\"a\",),hw=()", {'names': ['a'], 'hw': []}),
    ('a=[[1,2],[3,4]],b=2', {'a': [[1, 2], [3, 4]], 'b': 2}),
    ('a=walk (2,m=1', {'a': 'walk (2', 'm': 1}),
])
def test_several_values_of_an_option_are_in_brackets(flag, options):
    pairs = [pair.strip() for pair in flag.split(',')]  # as a list flag cuts it
    assert launch.parse_options(pairs) == options
