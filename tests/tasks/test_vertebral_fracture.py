"""Patches of a spine through the task: labels, views, a whole run."""

import jax.numpy as jnp
import numpy as np
import pytest
import SimpleITK as sitk

from configs import vertebral_fracture as config
from jaxmed import losses
from jaxmed.data import records
from jaxmed.errors import ConfigError
from jaxmed.tasks import vertebral_fracture as task_module
from tests.commands import run

SMALL = dict(patch_shape=(16, 16, 16), num_patches=8)


def make(**changes):
    options = config.get_config('phantom').task.to_dict() | SMALL
    return task_module.make(**options | {'detector': None} | changes)


def test_hu_go_through_the_papers_window():
    batch = {'inputs': np.array([-1024, -50, 370, 790, 3000], np.int16).reshape(
        1, 1, 5, 1, 1), 'patch_mask': np.ones((1, 1)), 'position': np.zeros((1, 1))}
    ready = task_module.preprocess(
        batch, shape=(5, 1, 1), centre_hu=370.0, width_hu=840.0)
    np.testing.assert_allclose(
        ready['inputs']['patches'].ravel(), [0, 0, 0.5, 1, 1], atol=1e-6)


def test_the_loss_is_the_series_and_lambda_times_the_known_patches():
    outputs = {'series': jnp.array([0.0, 2.0]), 'patches': jnp.array(
        [[0.0, 3.0], [1.0, 1.0]])}
    targets = jnp.array([[1, 0, np.nan], [0, np.nan, np.nan]])
    loss = losses.series_and_patches(outputs, targets, patch_weight=0.5)
    np.testing.assert_allclose(
        loss, [1.5 * np.log(2), np.log1p(np.exp(2.0))], rtol=1e-6)


def batch_of(task, count=16):
    rng = np.random.default_rng(0)
    shape = task.example['inputs'].shape
    return task.preprocess({
        'inputs': rng.integers(-200, 900, (count, *shape), np.int16),
        'patch_mask': np.ones((count, shape[0]), np.float32),
        'position': np.zeros((count, shape[0]), np.float32),
    })


def test_smaller_networks_see_means_of_hu_and_larger_ones_a_ramp():
    hu = np.tile(np.array([0, 100, 200, 300], np.int16)[:, None, None], (1, 2, 2))
    batch = {'inputs': hu[None, None], 'patch_mask': 1, 'position': 0}
    rows = [
        np.asarray(task_module.preprocess(
            batch, shape=(rows, 2, 2), centre_hu=500.0, width_hu=1000.0,
        )['inputs']['patches'])[0, 0, :, 0, 0, 0] for rows in (2, 7)
    ]
    assert rows[0][0] + rows[0][1] == pytest.approx(0.3, abs=1e-5)
    assert 0.05 < rows[0][0] < 0.1  # an antialias filter is wider than two rows
    np.testing.assert_allclose(np.diff(rows[1])[1:-1], 0.4 / 7, atol=1e-5)


def test_views_average_a_spine_and_its_mirror_image():
    task = make()
    inputs = batch_of(task, 2)['inputs']
    flipped = task.views[1].forward(inputs)
    np.testing.assert_array_equal(
        flipped['patches'], inputs['patches'][..., ::-1, :])
    np.testing.assert_array_equal(flipped['mask'], inputs['mask'])


def test_unknown_series_count_in_no_metric():
    task = make()
    rows = {
        'probability': np.array([[0.9], [0.2], [0.6]]),
        'targets': np.array([[1.0], [0.0], [np.nan]]),
        'patch_probability': np.array([[0.9, 0.1], [0.2, 0.3], [0.4, 0.8]]),
        'patch_targets': np.array([[1.0, 0.0], [0.0, np.nan], [np.nan, np.nan]]),
        'patch_mask': np.ones((3, 2)),
        'case_id': np.array(['a', 'b', 'c']),
    }
    cases = task.cases(rows)
    np.testing.assert_allclose(cases['certainty'], [0.9, 0.8, np.nan])
    assert task.metrics['auc'](cases) == 1.0
    assert task.metrics['patch_auc'](cases) == 1.0


@pytest.mark.parametrize('changes, words', [
    (dict(dtype='float16'), 'float16'), (dict(height_mm=0), 'task.height_mm'),
    (dict(box_mm=(1, 2)), 'task.box_mm'), (dict(num_patches=-1), 'num_patches'),
])
def test_options_that_do_not_fit_are_named(changes, words):
    with pytest.raises(ConfigError, match=words):
        make(**changes)


def test_reading_a_scan_needs_a_detector(tmp_path):
    (tmp_path / 'labels.csv').write_text('series,fracture\na,1\n')
    command = (
        'prepare', '--config=configs/vertebral_fracture.py', f'--source={tmp_path}',
        f'--labels={tmp_path}/labels.csv', f'--output={tmp_path}/records')
    code, text = run(*command)  # the only layout need not be named
    assert code == 2 and 'no scans' in text
    hu = np.random.default_rng(0).integers(-1000, 1000, (20, 32, 32), np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(hu), str(tmp_path / 'a.nii.gz'))
    code, text = run(*command)
    assert code == 2 and text.startswith('error: task.detector: '), text
    assert not (tmp_path / 'records').exists()


def test_drawn_spines_train_and_report(tmp_path):
    small = dict(patch_shape=(8, 8, 8), num_patches=20)
    records.write_records(
        make(**small).phantoms(count=4, seed=0), tmp_path / 'records',
        task='vertebral_fracture', fractions=(1, 0, 0), seed=0)
    code, text = run(
        'train', '--config=configs/vertebral_fracture.py:phantom',
        '--config.task.patch_shape=(8,8,8)', '--config.task.model.widths=(2,2,2)',
        f'--config.data.records={tmp_path}/records', '--config.train.epochs=2',
        '--config.train.batch_size=2', '--config.optimizer.warmup_steps=1',
        '--config.evaluate.resamples=20', f'--workdir={tmp_path}/run')
    assert code == 0, text
    assert 'patch_auc' in text and (tmp_path / 'run/report/report.html').is_file()
