"""The cord's path through a scan, from slices to files, with a detector that knows."""

import functools
import json

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
import SimpleITK as sitk

from configs import spinal_cord_yolo
from jaxmed import predict, runs, train
from jaxmed.data.volumes import Volume
from jaxmed.errors import ConfigError, ImageError
from jaxmed.tasks import spinal_cord
from tests.commands import run


def make(**changes):
    options = spinal_cord_yolo.get_config().task.to_dict()
    return spinal_cord.make(**options | changes)


def scan_with_a_blob(depth=120, spacing=(3.0, 1.5, 1.5), hidden=()):
    """A bright blob that wanders; in the slices of `hidden` there is none."""
    volume = np.full((depth, 200, 220), -1000, np.int16)
    heights = np.arange(depth)
    centres = np.stack([110 + 0.2 * heights, 90 + 10 * np.sin(heights / 40)], axis=1)
    rows, columns = np.mgrid[:200, :220]
    for place, (h, w) in enumerate(centres):
        if place not in hidden:
            volume[place][np.hypot(rows - h, columns - w) < 6] = 1000
    affine = np.array([  # columns go to the left, rows to the back, slices up
        [0, 0, spacing[2], -50], [0, spacing[1], 0, -80], [spacing[0], 0, 0, 700],
        [0, 0, 0, 1]], float)
    return Volume(
        volume, affine, np.eye(4), volume.shape, 'hash', {'exclusion': ''}), centres


def knows(batch, *, sure=0.9):
    """A detector: [B, 1, 5], the box around what is bright, if anything is."""
    bright = np.asarray(batch['inputs'])[..., 0] > 0
    found = []
    for image in bright:
        rows, columns = np.nonzero(image)
        found.append([0, 0, 1, 1, 0.01] if not len(rows) else [
            columns.min(), rows.min(), columns.max() + 1, rows.max() + 1, sure])
    return jnp.array(found, jnp.float32)[:, None]


def record_of(volume):
    return {'volume': volume, 'case_id': 'a'}


def test_the_path_follows_what_is_detected_and_says_what_is_not():
    task = make()
    volume, centres = scan_with_a_blob(hidden=range(60, 120))
    detections, cord = task.infer(knows, record_of(volume), batch_size=4)
    # 30 mm are 10 slices; above the 59th nothing is sure, so a quarter and half of a
    # step around each of those slices was looked at as well.
    assert list(detections.slices[:7]) == [4, 14, 24, 34, 44, 54, 59]
    assert set(np.diff(detections.slices)) <= {1, 2, 3, 4, 5, 10}
    off = np.linalg.norm(cord.centre_mm[:60] / 1.5 - centres[:60], axis=1)
    assert off.max() < 1.5  # pixels of the scan; the detector's own are 2 mm
    kinds = [('detected', 'interpolated', 'extrapolated')[k] for k in cord.kind]
    assert kinds[4] == kinds[59] == 'detected'
    assert kinds[3] == kinds[60] == 'extrapolated'
    assert kinds[5] == 'interpolated'


def test_boxes_count_from_corners_and_the_path_from_centres_of_voxels():
    """Each detection is rounded to the detector's pixels; their mean is not off."""
    volume, centres = scan_with_a_blob()
    _, cord = make(step_mm=3.0).infer(knows, record_of(volume), batch_size=8)
    drift = (cord.centre_mm / 1.5 - centres).mean(axis=0)
    assert np.abs(drift).max() < 0.25, drift


def test_cord_json_has_each_slice_in_the_patients_millimetres():
    task = make()
    volume, centres = scan_with_a_blob()
    record = record_of(volume)
    finding = task.findings(record, task.infer(knows, record, batch_size=4))
    entries = finding.files['cord.json']
    assert [entry['slice'] for entry in entries] == list(range(120))
    for entry, place, (h, w) in zip(entries, range(120), centres):
        # x to the left along w, y to the back along h, z up along d.
        expected = -50 + 1.5 * w, -80 + 1.5 * h, 700 + 3.0 * place
        found = entry['x_mm'], entry['y_mm'], entry['z_mm']
        np.testing.assert_allclose(found, expected, atol=2.5)
    assert {'detected', 'interpolated', 'extrapolated'} == {e['kind'] for e in entries}
    assert finding.row['slices'] == 120 and finding.row['detected'] == 12
    for name in ('sagittal.png', 'coronal.png'):
        picture = finding.files[name]
        assert picture.dtype == np.uint8 and picture.shape[0] == 360
    # Straightened: the blob is a straight line in the middle of the view from the side.
    bright = finding.files['sagittal.png'][60:300, 20:, 2] > 200
    columns = np.array([np.flatnonzero(row).mean() for row in bright if row.any()])
    assert len(columns) > 200 and columns.std() < 1.5
    axial = [name for name in finding.files if name.startswith('axial_')]
    assert len(axial) == 12


def test_file_slices_are_counted_as_the_file_counts_them():
    task = make()
    volume, _ = scan_with_a_blob()
    turned = np.diag([-1.0, 1, 1, 1])
    turned[0, 3] = 119  # the file's first slice is the uppermost
    record = record_of(volume._replace(to_source=turned))
    finding = task.findings(record, task.infer(knows, record, batch_size=4))
    z_mm = [entry['z_mm'] for entry in finding.files['cord.json']]
    assert z_mm == sorted(z_mm, reverse=True) and z_mm[0] == 700 + 3 * 119


def test_a_short_scan_is_looked_at_in_three_places():
    volume, centres = scan_with_a_blob(depth=28, spacing=(1.0, 1.5, 1.5))
    detections, cord = make().infer(knows, record_of(volume), batch_size=4)
    assert len(detections.slices) >= 3
    off = np.linalg.norm(cord.centre_mm / 1.5 - centres, axis=1)
    assert off.max() < 1.5


def test_pictures_show_the_box_that_the_path_runs_through():
    """Something is surer than the canal in one slice, far from the others."""
    volume, centres = scan_with_a_blob()

    def misled(batch):
        found = np.asarray(knows(batch, sure=0.8))
        wrong = np.full_like(found, 0.05)
        wrong[:, 0, :4] = (10, 10, 20, 20)
        wrong[found[:, 0, 1] > 131, 0, 4] = 0.9  # in the uppermost slice looked at
        return jnp.array(np.concatenate([found, wrong], axis=1))

    task = make()
    record = record_of(volume)
    detections, cord = answer = task.infer(misled, record, batch_size=4)
    surest = detections.boxes[:, 0].reshape(-1, 2, 2).mean(1) - 0.5
    away = np.linalg.norm(surest - centres[detections.slices], axis=1)
    assert away.max() > 30  # else nothing is shown here
    assert np.linalg.norm(cord.centre_mm / 1.5 - centres, axis=1).max() < 2
    files = task.findings(record, answer).files
    for place in detections.slices[away > 30]:
        picture = files[f'axial_{place:04d}.png'].astype(int)
        green = np.argwhere(picture[..., 1] - picture[..., 0] > 60)
        np.testing.assert_allclose(green.mean(axis=0), centres[place], atol=3)


def test_a_scan_without_a_spine_is_unprocessable_with_a_reason():
    task = make(min_confidence=0.9)  # an untrained network's are all about 0.5
    volume, _ = scan_with_a_blob(hidden=range(120))
    with pytest.raises(ImageError, match='no spine found'):
        task.infer(knows, record_of(volume), batch_size=4)
    state = train.init_state(task, runs_optimizer(), seed=0)
    predictor = predict.Predictor(
        [task], [{'params': state.params, 'model_state': state.model_state}], views=1,
        batch_size=4)
    error, = predictor.predict([record_of(volume)])
    assert isinstance(error, ImageError) and 'no spine found' in error.reason


def runs_optimizer():
    import optax

    return optax.sgd(0.1)


def test_metrics_by_hand():
    rows = {
        'iou': np.array([0.8, 0.6, 0.4, np.nan]),
        'distance_mm': np.array([1.0, 12.0, 2.0, np.nan]),
        'confidence': np.array([0.9, 0.2, 0.6, 0.7]),
        'targets': np.array([[1.0], [1], [1], [0]]),
    }
    assert spinal_cord.agreement(rows) == 1 / 3  # the second is far, the third small
    np.testing.assert_allclose(spinal_cord.mean_iou(rows), 0.6)
    assert spinal_cord.median_distance(rows) == 2.0
    assert spinal_cord.found(rows, min_confidence=0.5) == 2 / 3
    assert spinal_cord.false_alarms(rows, min_confidence=0.5) == 1.0


@pytest.mark.parametrize('changes, words', [
    (dict(size_px=225), '225 is not a multiple of 8'),
    (dict(dtype='float16'), 'float16'), (dict(anchors_mm=()), 'positive pairs'),
    (dict(anchors_mm=((0, 5),)), 'positive pairs'), (dict(step_mm=0), 'task.step_mm'),
    (dict(min_confidence=2), 'task.min_confidence'),
])
def test_options_that_do_not_fit_are_named(changes, words):
    with pytest.raises(ConfigError, match=words):
        make(**changes)


TINY = (
    '--config=configs/spinal_cord_yolo.py:phantom', '--config.task.widths=(4,8,8)',
    '--config.task.depth=1', '--config.task.size_px=96', '--config.task.pixel_mm=4.5',
    '--config.data.phantoms=32', '--config.train.epochs=2',
    '--config.train.batch_size=4', '--config.optimizer.warmup_steps=2',
)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('cord') / 'run'
    code, output = run('train', *TINY, f'--workdir={workdir}')
    assert code == 0, output
    return workdir, output


def test_drawn_slices_train_and_report_in_one_command(trained):
    workdir, output = trained
    assert 'mean place, test' in output and 'agreement' in output
    page = (workdir / 'report' / 'report.html').read_text()
    assert 'The spinal canal in CT' in page
    assert list((workdir / 'report' / 'overlays').rglob('*.png'))


def test_a_folder_of_scans_is_predicted_with_a_status_for_each(trained, tmp_path):
    source, output = tmp_path / 'scans', tmp_path / 'out'
    source.mkdir()
    volume, _ = scan_with_a_blob(depth=60)
    image = sitk.GetImageFromArray(volume.volume_hu)
    image.SetSpacing((1.5, 1.5, 3.0))
    sitk.WriteImage(image, str(source / 'good.nii.gz'))
    flat = sitk.GetImageFromArray(volume.volume_hu[:3])
    sitk.WriteImage(flat, str(source / 'flat.nii.gz'))
    (source / 'torn.nii.gz').write_bytes((source / 'good.nii.gz').read_bytes()[:900])
    code, text = run(
        'predict', f'--workdir={trained[0]}', f'--input={source}', f'--output={output}',
        '--task=min_confidence=0,tolerance_mm=500,max_jump_mm=500')
    assert code == 3 and 'Traceback' not in text, text
    rows = {row['case']: row for row in json.loads(
        (output / 'findings.json').read_text())}
    assert {case: row['status'] for case, row in rows.items()} == {
        'good': 'done', 'flat': 'unprocessable', 'torn': 'unprocessable'}
    entries = json.loads((output / 'good' / 'cord.json').read_text())
    assert len(entries) == 60
    assert set(entries[0]) == {'slice', 'x_mm', 'y_mm', 'z_mm', 'confidence', 'kind'}
    assert cv2.imread(str(output / 'good' / 'sagittal.png')) is not None
    assert cv2.imread(str(output / 'good' / 'coronal.png')) is not None
    assert not (output / 'flat').exists() and not (output / 'torn').exists()


def test_tables_and_masks_become_records(trained, tmp_path):
    source = tmp_path / 'scans'
    source.mkdir()
    volume, centres = scan_with_a_blob(depth=40)
    image = sitk.GetImageFromArray(volume.volume_hu)
    image.SetSpacing((1.5, 1.5, 3.0))
    sitk.WriteImage(image, str(source / 'a.nii.gz'))
    lines = ['series,slice,x0,y0,x1,y1'] + [
        f'a,{k},{w - 6},{h - 6},{w + 6},{h + 6}'
        for k, (h, w) in enumerate(centres) if k % 5 == 0]
    (tmp_path / 'boxes.csv').write_text('\n'.join(lines))
    prepare = functools.partial(
        run, 'prepare', TINY[0], '--layout=boxes', f'--source={source}',
        '--splits=1,0,0')
    code, text = prepare(
        f'--labels={tmp_path}/boxes.csv', f'--output={tmp_path}/records')
    assert code == 0 and '8 records' in text, text
    code, text = prepare(f'--output={tmp_path}/none')
    assert code == 2 and '--labels' in text and not (tmp_path / 'none').exists()
    task = runs.make_task(spinal_cord_yolo.get_config().to_dict())
    assert set(task.sources) == {'boxes', 'masks'}
