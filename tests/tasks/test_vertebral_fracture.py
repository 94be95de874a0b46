"""Patches of a spine through the task: labels, views, a whole run."""

import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import SimpleITK as sitk

from configs import vertebral_fracture as config
from jaxmed import losses, predict, runs
from jaxmed.classification import fractures as operation
from jaxmed.classification import platt
from jaxmed.data import pipeline, records
from jaxmed.errors import CheckpointError, ConfigError
from jaxmed.tasks import vertebral_fracture as task_module
from tests.commands import run

SMALL = dict(patch_shape=(16, 16, 16), num_patches=8)
TINY = dict(patch_shape=(8, 8, 8), num_patches=24, box_mm=(40.0, 10.0, 20.0))


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


def test_views_are_a_spine_its_mirror_image_and_its_patches_upside_down():
    task = make()
    inputs = batch_of(task, 2)['inputs']
    mirrored, turned, both = (view.forward(inputs) for view in task.views[1:])
    left = inputs['patches'][..., ::-1, :]
    np.testing.assert_array_equal(mirrored['patches'], left)
    np.testing.assert_array_equal(
        turned['patches'], inputs['patches'][:, :, ::-1])  # patches keep their order
    np.testing.assert_array_equal(both['patches'], left[:, :, ::-1])
    np.testing.assert_array_equal(mirrored['mask'], inputs['mask'])


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


@pytest.fixture(scope='module')
def members(tmp_path_factory):
    """Two runs on the same drawn spines, of networks of different kinds and sizes."""
    folder = tmp_path_factory.mktemp('members')
    records.write_records(
        make(**TINY).phantoms(count=7, seed=0, fractured=0.5), folder / 'records',
        task='vertebral_fracture', fractions=(0.5, 0.3, 0.2), seed=3)
    common = (
        'train', '--config=configs/vertebral_fracture.py:phantom',
        '--config.task.patch_shape=(8,8,8)', '--config.task.num_patches=24',
        '--config.task.box_mm=(40.,10.,20.)', '--config.train.batch_size=2',
        f'--config.data.records={folder}/records', '--config.train.epochs=2',
        '--config.optimizer.warmup_steps=1', '--config.evaluate.resamples=20',
        '--config.evaluate.views=2')
    for name, options in {
        'lstm': (
            '--config.task.model.widths=(4,4)', '--config.task.model.sequence=lstm'),
        'shallow': (
            '--config.task.model.widths=(4,)', '--config.task.network_shape=(6,4,4)',
            '--config.task.model.sequence=none', '--config.task.model.convolutions=1'),
    }.items():
        code, text = run(*common, *options, f'--workdir={folder}/{name}')
        assert code == 0, text
        assert 'patch_auc' in text
    return folder


def open_all(folder):
    return [
        source[place] for split in ('train', 'valid', 'test')
        for source in [records.open_records(
            folder / 'records', split, task='vertebral_fracture', verify=False)]
        for place in range(len(source))
    ]


def test_a_run_reports_with_sections_and_keeps_its_calibration(members):
    page = (members / 'lstm/report/report.html').read_text()
    assert 'FROC' in page and 'Genant' in page
    values = runs.read_calibration(members / 'lstm')
    assert {'scale', 'offset', 'thresholds', 'tuning', 'patches'} <= values.keys()


def test_a_run_is_calibrated_with_as_many_views_as_it_is_used_with(members):
    values = runs.read_calibration(members / 'lstm')
    used = runs.read_config(members / 'lstm')['evaluate']['views']
    assert values['views'] == used == 2
    source = records.open_records(
        members / 'records', 'valid', task='vertebral_fracture', verify=False)
    (task,), weights, _, _ = runs.load_members([members / 'lstm'], calibrate=False)
    one, two = (
        predict.make_split_rows([task], views=views)(weights, source, batch_size=4)
        for views in (1, 2))
    assert np.abs(one['probability'] - two['probability']).max() > 1e-4
    scaled = platt.scale_probabilities(
        two['probability'], scale=values['scale'], offset=values['offset'])
    np.testing.assert_allclose(values['tuning']['probability'], scaled, rtol=1e-5)
    code, text = run('evaluate', f'--workdir={members}/lstm', '--views=1',
                     f'--output={members}/report1')
    assert code == 0, text
    words = 'Calibrated with 2 of the views and measured with 1'
    assert words in (members / 'report1/report.html').read_text()
    assert words not in (members / 'lstm/report/report.html').read_text()


def test_the_highest_patch_is_the_scan_where_that_is_the_maximum():
    outputs = {'series': jnp.array([2.0]), 'patches': jnp.array([[2.0, -1.0]])}
    values = {'scale': 0.5, 'offset': -1.0, 'reason': '', 'thresholds': dict.fromkeys(
        ('youden', 'specificity', 'sensitivity', 'patch'))}
    shared = values | {'patches': {'scale': 0.5, 'offset': -1.0, 'reason': ''}}
    found = make().calibrated(shared).probabilities(outputs)
    np.testing.assert_allclose(found['series'], [0.5])
    np.testing.assert_allclose(found['patches'], [[0.5, 1 / (1 + np.exp(1.5))]])
    # A run that was calibrated before patches were.
    found = make().calibrated(values).probabilities(outputs)
    np.testing.assert_allclose(found['patches'][0, 0], 1 / (1 + np.exp(-2)))
    options = config.get_config('phantom').task.model.to_dict()
    for aggregation, by_maximum in (('max', True), ('mean', False)):
        task = make(model=options | {'aggregation': aggregation})
        assert task.calibrate.keywords == {'by_maximum': by_maximum}


@pytest.mark.parametrize('patience, words', [
    (1, 'auc is undefined on the validation split: a class is absent '
        r'\(0 cases with, 1 without\), so nothing tells when to stop'),
    (0, 'balanced batches need two classes, but all known are 0')])
def test_training_says_at_once_where_a_class_is_absent(tmp_path, patience, words):
    folder = tmp_path / 'records'
    records.write_records(
        make(**TINY).phantoms(count=3, seed=0, fractured=0.0), folder,
        task='vertebral_fracture', fractions=(0.4, 0.3, 0.3), seed=5)
    code, text = run(
        'train', '--config=configs/vertebral_fracture.py:phantom',
        '--config.task.patch_shape=(8,8,8)', '--config.task.num_patches=24',
        '--config.task.box_mm=(40.,10.,20.)', f'--config.data.records={folder}',
        '--config.task.model.widths=(4,4)', f'--config.train.patience={patience}',
        f'--workdir={tmp_path}/run')
    assert code == 2 and re.search(words, text.splitlines()[-1]), text
    assert (patience > 0) == ('no state is the best one, the last counts' not in text)


def test_a_spine_is_drawn_in_columns_of_eight_with_what_is_said_beside_each_patch():
    count = 11
    hu = np.full((16, 24, 8, 4), -1024, np.int16)
    hu[:count, 4:20] = 3000  # white, but for the context above and below
    record = {
        'inputs': hu, 'patch_mask': (np.arange(16) < count).astype(np.float32),
        'pitch_mm': np.array([2.0, 5.0, 10.0], np.float32),
        'context_mm': np.float32(8.0)}
    said, truth = np.zeros(16), np.full(16, np.nan)
    said[[1, 9]] = 1.0, 0.5
    truth[[0, 10]] = 1, 0
    picture = task_module.draw_spine(record, said, truth=truth)
    # 16 rows of 2 mm, 8 columns of 5 mm, 2 pixels a mm.
    height, bar, pitch = 64, 10, 110
    assert picture.shape == (8 * height, 3 * pitch, 3)
    cells = picture.reshape(8, height, 3, pitch, 3).swapaxes(0, 2).transpose(
        0, 2, 1, 3, 4).reshape(24, height, pitch, 3)
    left, middle = cells[:, 1:, :bar], cells[:, 1:, bar:-2 * bar]
    right = cells[:, 1:, -2 * bar:-bar]
    assert np.all(middle[:count] == 255) and np.all(cells[count:] == 0)
    assert np.all(cells[:count, 0, :-bar] == task_module.drawing.GREEN)
    assert np.all(left[1] == (230, 60, 230)) and np.all(left[9] == (115, 30, 115))
    assert np.all(left[[0, *range(2, 9), 10]] == 0)
    assert np.all(right[0] == (230, 60, 230)) and np.all(right[10] == 0)
    assert np.all(right[1:10] == 90)
    many = record | {
        'inputs': np.tile(hu[:1], (30, 1, 1, 1)), 'patch_mask': np.ones(30)}
    picture = task_module.draw_spine(many, np.zeros(30))
    assert picture.shape == (8 * height, 4 * pitch, 3)


def calibrate_drawn(seed):
    """Of a model that sees some of what there is, on the same 200 scans."""
    truth = np.random.default_rng(9).random((200, 1)) < 0.5
    seen = np.random.default_rng(seed).normal(size=(200, 1)) + np.where(truth, 1, -1)
    probability = 1 / (1 + np.exp(-2 * seen))
    return operation.calibrate({
        'probability': probability, 'targets': truth.astype(float),
        'patch_probability': probability, 'patch_targets': truth.astype(float),
        'patch_mask': np.ones((200, 1)), 'case_id': np.arange(200).astype(str),
    }, by_maximum=True)


def test_an_ensemble_of_networks_of_several_sizes_is_the_scaled_mean_of_its_members(
    members, tmp_path
):
    found = open_all(members)
    paths, kept = [members / 'lstm', members / 'shallow'], []
    for number, path in enumerate(paths):  # as if fitted to more scans than a test has
        shutil.copytree(path, tmp_path / path.name)
        kept.append(json.loads(json.dumps(calibrate_drawn(number) | {'views': 2})))
        runs.write_calibration(tmp_path / path.name, kept[-1])
    paths = [tmp_path / path.name for path in paths]
    scaling = operation.calibrate_together(kept)
    assert scaling['scale'] > 1.2 and kept[0]['patches'] != kept[1]['patches']
    together = runs.load(paths, views=2)
    alone = [runs.load(path, views=2) for path in paths]
    expected = {}
    for record in found[:3]:
        mean, *parts = (
            predictor.task.infer(predictor.apply, record, batch_size=1)
            for predictor in (together, *alone))
        for name, values in (('series', scaling), ('patches', scaling['patches'])):
            np.testing.assert_allclose(mean[name], platt.scale_probabilities(
                (parts[0][name] + parts[1][name]) / 2, scale=values['scale'],
                offset=values['offset']), atol=1e-6)
        expected[record['case_id']] = mean['series']
        assert abs(parts[0]['series'] - parts[1]['series']) > 1e-5
    # Its verdict is by a threshold of the mean, not by the first member's.
    point = together.task.findings.keywords['operating_point']
    first = alone[0].task.findings.keywords['operating_point']
    assert point.threshold == scaling['thresholds']['specificity'] != first.threshold
    assert together.task.findings.keywords['calibrated']
    # A split is told the same as a scan.
    tasks, weights, _, _ = runs.load_members(paths)
    rows = predict.make_split_rows(tasks, views=2)(weights, found[:3], batch_size=3)
    np.testing.assert_allclose(
        rows['probability'][:, 0], [expected[name] for name in rows['case_id']],
        atol=1e-5)
    # Without tuning scans in common their mean is not said to be calibrated.
    runs.write_calibration(paths[1], kept[1] | {'tuning': kept[1]['tuning'] | {
        'case_id': [f'other-{n}' for n in range(200)]}})
    apart = runs.load(paths, views=2).task.findings.keywords
    assert apart['operating_point'] is None and not apart['calibrated']


def test_fillers_order_batches_and_devices_change_no_case(members):
    found = open_all(members)
    predictor = runs.load(members / 'lstm', views=2)
    task, weights = predictor.task, predictor._members
    reference = {}
    for record in found:
        reference[record['case_id']] = predictor.task.infer(
            predictor.apply, record, batch_size=1)

    def compare(case_id, series, patches):
        expected = reference[case_id]
        np.testing.assert_allclose(series, expected['series'], atol=1e-5)
        count = min(len(patches), len(expected['patches']))
        np.testing.assert_allclose(
            patches[:count], expected['patches'][:count], atol=1e-5)

    for source, batch_size in ((found, 4), (found[::-1], 8)):  # of four devices
        rows = predict.make_split_rows([task], views=2)(
            list(jax.device_get(weights)), source, batch_size=batch_size)
        for i, case_id in enumerate(rows['case_id']):
            real = rows['patch_mask'][i] > 0
            compare(
                case_id, rows['probability'][i, 0], rows['patch_probability'][i][real])
    one = jax.jit(predict.make_apply([task], views=2))  # of one device
    batch, _ = pipeline.split_strings(pipeline.stack(found))
    answers = jax.device_get(one(list(jax.device_get(weights)), batch))
    for i, record in enumerate(found):
        compare(
            record['case_id'], answers['series'][i],
            answers['patches'][i][record['patch_mask'] > 0])


def test_members_that_read_otherwise_are_no_ensemble(members, tmp_path):
    other = tmp_path / 'other'
    shutil.copytree(members / 'lstm', other)
    path = other / 'config.json'
    path.write_text(path.read_text().replace('"height_mm": 32.0', '"height_mm": 30.0'))
    with pytest.raises(CheckpointError, match='reads with height_mm 30.0, and .* 32.0'):
        runs.load([members / 'lstm', other])
