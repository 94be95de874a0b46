"""The task of radiographs: its options, its numbers, and its commands."""

import csv
import hashlib
import json
import shutil
import subprocess
import sys

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxmed
from configs import chest_xray, chest_xray_cnn
from jaxmed import runs
from jaxmed.data import records
from jaxmed.errors import ConfigError
from jaxmed.models import pretrained
from jaxmed.tasks.chest_xray import DATA_SETS, cases
from tests.commands import ROOT, run, state_of
from tests.models.test_pretrained import resnet18_tensors

SMALL = (
    '--config=configs/chest_xray_cnn.py:phantom', '--config.task.store_px=40',
    '--config.task.input_px=32', '--config.task.options.widths=(4,8)',
    '--config.data.phantoms=40', '--config.optimizer.warmup_steps=1',
    '--config.train.epochs=2', '--config.train.batch_size=8',
    '--config.train.steps_per_epoch=2', '--config.evaluate.resamples=50',
)


def make(**changes):
    config = chest_xray_cnn.get_config('phantom').to_dict()
    config['task'] |= dict(store_px=40, input_px=32) | changes
    return runs.make_task(config)


@pytest.mark.parametrize('channels, mean, std', [
    (1, pretrained.GREY_MEAN, pretrained.GREY_STD),
    (3, pretrained.RGB_MEAN, pretrained.RGB_STD),
])
def test_the_middle_is_cut_out_and_normalised_as_pretrained_networks_want(
    channels, mean, std
):
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 1), np.uint8)
    ready = make(channels=channels).preprocess({'inputs': jnp.array(images)})
    assert ready['inputs'].shape == (2, 32, 32, channels)
    expected = (images[:, 4:36, 4:36] / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(ready['inputs'], expected, rtol=1e-4, atol=1e-5)


def test_rows_keep_labels_views_and_a_thumbnail_of_what_the_network_saw():
    image = np.zeros((1, 40, 40, 1), np.uint8)
    image[:, 4:36, 4:20] = 200  # the left half of the middle
    batch = {'inputs': jnp.array(image), 'targets': jnp.array([[0.0, 1.0, 0.0]]),
             'view': jnp.array([2], jnp.int8), 'source': jnp.array([1], jnp.int8),
             'origin': jnp.array([3], jnp.int16)}
    rows = make().rows(jnp.array([[0.2, 0.7, 0.1]]), batch)
    assert rows['thumbnail'].shape == (1, 32, 32)
    np.testing.assert_array_equal(rows['thumbnail'][0, :, :16], 200)
    np.testing.assert_array_equal(rows['thumbnail'][0, :, 16:], 0)
    assert [rows[name].item() for name in ('view', 'source', 'origin')] == [2, 1, 3]


def test_certainty_is_the_mean_probability_of_what_is_known_to_be_true():
    found = cases({
        'probability': np.array([[0.9, 0.2, 0.6], [0.5, 0.5, 0.5]]),
        'targets': np.array([[1.0, 0.0, np.nan], [np.nan] * 3]),
        'loss': np.zeros(2),
    })
    np.testing.assert_allclose(found['certainty'], [(0.9 + 0.8) / 2, 0])
    assert 'loss' not in found


def test_a_calibration_softens_probabilities_and_leaves_the_rest():
    task = make()
    logits = jnp.array([[2.0, 0.0, -2.0]])
    soft = task.calibrated({'temperature': 2.0}).probabilities(logits)
    np.testing.assert_allclose(soft, task.probabilities(logits / 2), rtol=1e-6)
    many = make(data_set='covid_chestxray')
    np.testing.assert_allclose(
        many.probabilities(jnp.zeros((1, 9))), np.full((1, 9), 0.5)
    )


@pytest.mark.parametrize('changes, words', [
    (dict(network='lenet'), "task.network: 'lenet' is none of"),
    (dict(data_set='mnist'), "task.data_set: 'mnist' is none of"),
    (dict(data_set='', classes=('a',)), 'task.classes'),
    (dict(input_px=41), 'task.input_px: 41 is not in'),
    (dict(class_weights=(1.0, 2.0)), 'task.class_weights: 2 weights, 3 classes'),
    (dict(channels=2), 'task.channels'),
])
def test_options_that_do_not_fit_are_named(changes, words):
    with pytest.raises(ConfigError, match=words):
        make(**changes)


@pytest.mark.parametrize('variant', chest_xray.VARIANTS)
def test_every_variant_makes_a_task_of_the_papers_classes(variant):
    for data_set, (classes, _) in DATA_SETS.items():
        config = chest_xray_cnn.get_config(variant)
        config.task.data_set = data_set
        task = runs.make_task(config.to_dict())
        assert task.example['targets'].shape == (len(classes),)


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="'best': there are strong, phantom"):
        chest_xray_cnn.get_config('best')


@pytest.fixture(scope='module')
def folds(tmp_path_factory):
    """Two folds of drawn radiographs, prepared from files and trained."""
    folder = tmp_path_factory.mktemp('cxr')
    source = folder / 'source'
    phantoms = make().phantoms(count=30, seed=0)
    for number, record in enumerate(phantoms):
        name = DATA_SETS['three_class'][0][int(record['targets'].argmax())]
        path = source / name / f'{number:03d}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), record['inputs'])
    for fold in (0, 1):
        code, output = run(
            'prepare', *SMALL[:3], '--layout=class_folders', f'--source={source}',
            f'--output={folder}/records{fold}', '--splits=0.3,0.2,0.5',
            f'--fold={fold}',
        )
        assert code == 0, output
        code, output = run(
            'train', *SMALL, f'--config.data.records={folder}/records{fold}',
            f'--workdir={folder}/run{fold}',
        )
        assert code == 0, output
    return folder


def test_a_run_ends_with_a_calibration_and_the_tests_of_trust(folds):
    calibration = json.loads((folds / 'run0' / 'calibration.json').read_text())
    assert 0.01 < calibration['temperature'] < 100
    page = (folds / 'run0' / 'report' / 'report.html').read_text()
    for words in ('majority class', 'lungs blacked out', 'Calibration', 'Worst: '):
        assert words in page, words


def test_folds_are_counted_together_each_case_once(folds):
    workdirs = f'{folds}/run0,{folds}/run1'
    code, output = run(
        'evaluate', f'--workdir={workdirs}', '--pooled', f'--output={folds}/pooled'
    )
    assert code == 0, output
    numbers = json.loads((folds / 'pooled' / 'report.json').read_text())
    assert len(numbers['cases']['case_id']) == 30
    code, output = run('evaluate', f'--workdir={folds}/run0,{folds}/run0', '--pooled')
    assert code == 2 and 'comes twice' in output.splitlines()[-1]


def test_a_run_stands_in_the_papers_tables(folds):
    flags = ('evaluate', '--table', f'--output={folds}/table')
    code, output = run(*flags, f'--workdir={folds}/run0')
    assert code == 0, output
    numbers = json.loads((folds / 'run0' / 'report_test' / 'report.json').read_text())
    with open(folds / 'table' / 'table.csv', newline='') as file:
        cells = {
            (row['metric'], row['data_set'], row['network']): row
            for row in csv.DictReader(file)
        }
    for metric in ('accuracy', 'precision', 'recall', 'f1'):
        cell = cells[metric, 'Dataset2', 'cnn']
        value = numbers['results'][0]['values'][metric]['value']
        assert float(cell['value']) == pytest.approx(value)
        assert int(cell['n_images']) == len(numbers['cases']['case_id'])
    assert cells['accuracy', 'Dataset2', 'VGG11']['paper'] == '0.9548'
    assert (folds / 'table' / 'table.md').read_text() in output
    code, output = run(*flags, f'--workdir={folds}/run0,{folds}/run1')
    assert code == 2 and 'two entries of cnn' in output.splitlines()[-1]
    code, output = run(*flags, f'--workdir={folds}/run0', '--pooled')
    assert code == 2 and '--pooled: does not go with --table' in output


def test_another_set_stands_beside_without_what_was_trained_on(folds):
    code, output = run(
        'prepare', *SMALL[:3], '--layout=class_folders', f'--source={folds}/source',
        f'--output={folds}/all', '--splits=0,0,1',
    )
    assert code == 0, output
    code, output = run(
        'evaluate', f'--workdir={folds}/run0', f'--external={folds}/all',
        f'--output={folds}/external',
    )
    assert code == 0, output
    assert 'this model, all' in output
    page = (folds / 'external' / 'report.html').read_text()
    assert 'cases are left out, since run0' in page
    (folds / 'test').symlink_to(folds / 'all')
    code, output = run(
        'evaluate', f'--workdir={folds}/run0', f'--external={folds}/test')
    assert code == 2 and "--external: 'test' is taken" in output


def test_copies_of_what_was_trained_on_are_found_in_other_sets():
    pictures = [
        np.random.default_rng(seed).normal(128, 40, (24, 24)) for seed in range(3)
    ]
    pictures = [
        cv2.resize(picture, (144, 144), interpolation=cv2.INTER_CUBIC)
        + np.random.default_rng(9).normal(0, 8, (144, 144)) for picture in pictures
    ]
    pictures = [np.clip(picture, 0, 255).astype(np.uint8) for picture in pictures]
    _, jpeg = cv2.imencode('.jpg', pictures[1], [cv2.IMWRITE_JPEG_QUALITY, 60])
    copy = cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE)
    assert (copy != pictures[1]).any()

    def source(images):
        return [{'case_id': str(i), 'inputs': image[..., None]}
                for i, image in enumerate(images)]

    assert make().find_copies(source([pictures[0], copy]), source(pictures[1:])) == {
        '1'}


def test_records_prepared_anew_are_not_taken_for_those_trained_on(folds, tmp_path):
    flags = ('prepare', *SMALL[:3], '--layout=class_folders',
             f'--source={folds}/source', f'--output={tmp_path}/records')
    assert run(*flags, '--splits=0.6,0.2,0.2')[0] == 0
    code, output = run('train', *SMALL, f'--config.data.records={tmp_path}/records',
                       f'--workdir={tmp_path}/run')
    assert code == 0, output
    assert run(*flags, '--splits=0.3,0.2,0.5', '--overwrite')[0] == 0
    code, output = run('evaluate', f'--workdir={tmp_path}/run')
    assert code == 2 and 'are not the records that the run was trained on' in output
    code, output = run('evaluate', f'--workdir={tmp_path}/run',
                       f'--records={tmp_path}/records')
    assert code == 0 and (tmp_path / 'run' / 'report_records_test').is_dir(), output


def test_runs_that_do_not_fit_or_are_damaged_are_one_line(folds, tmp_path):
    other = tmp_path / 'other'
    shutil.copytree(folds / 'run0', other)
    config = json.loads((other / 'config.json').read_text())
    config['task']['classes'] = ['Normal', 'Covid', 'Viral_Pneumonia']
    (other / 'config.json').write_text(json.dumps(config))
    code, output = run('evaluate', f'--workdir={folds}/run0,{other}')
    assert code == 2 and f'error: {other}: a run with other labels than' in output
    shutil.copytree(folds / 'run0', tmp_path / 'damaged')
    (tmp_path / 'damaged' / 'calibration.json').write_text('{"heat": 1}')
    code, output = run('evaluate', f'--workdir={tmp_path}/damaged')
    assert code == 2 and "calibration.json: damaged: KeyError('temperature')" in output


def test_records_of_other_classes_are_refused(folds, tmp_path):
    code, output = run(
        'train', *SMALL, f'--config.data.records={folds}/records0',
        "--config.task.classes=('Normal','Covid','Viral_Pneumonia')",
        f'--workdir={tmp_path}/run',
    )
    assert code == 2 and 'the task has Normal, Covid, Viral_Pneumonia' in output


SEVERAL = (*SMALL, '--config.task.data_set=covid_chestxray')


@pytest.fixture(scope='module')
def several(tmp_path_factory):
    """A run on the layout of covid-chestxray: labels that occur together, or unknown.
    """
    folder = tmp_path_factory.mktemp('several')
    (folder / 'source' / 'images').mkdir(parents=True)
    lines = ['patientid,finding,view,filename,url']
    classes, _ = DATA_SETS['covid_chestxray']
    drawn = make(data_set='covid_chestxray').phantoms(count=36, seed=0)
    for number, record in enumerate(drawn):
        named = [name for name, value in zip(classes, record['targets']) if value == 1]
        finding = 'todo' if number % 9 == 8 else ', '.join(named) or 'No Finding'
        lines.append(
            f'{number // 2},"{finding}",PA,{number}.png,https://{number % 3}.org/x')
        cv2.imwrite(
            str(folder / 'source' / 'images' / f'{number}.png'), record['inputs'])
    (folder / 'source' / 'metadata.csv').write_text('\n'.join(lines))
    code, output = run(
        'prepare', *SEVERAL, '--layout=covid_chestxray', f'--source={folder}/source',
        f'--output={folder}/records', '--splits=0.5,0.2,0.3',
    )
    assert code == 0, output
    code, output = run(
        'train', *SEVERAL, f'--config.data.records={folder}/records',
        f'--workdir={folder}/run',
    )
    assert code == 0, output
    return folder, output


def test_several_findings_an_image_are_trained_and_reported(several):
    folder, output = several
    assert 'always negative, test' in output and 'majority of each, test' in output
    cases = list(csv.DictReader(open(folder / 'records' / 'cases.csv', newline='')))
    sides = {}
    for case in cases:
        sides.setdefault(case['patient_id'], set()).add(case['split'])
    assert len(cases) == 36 and len(sides) <= 18
    assert all(len(side) == 1 for side in sides.values())
    page = (folder / 'run' / 'report' / 'report.html').read_text()
    assert 'Patients on both sides' in page and 'Streptococcus' in page
    assert 'The class, from the hospital or collection' in page
    manifest = json.loads((folder / 'records' / 'manifest.json').read_text())
    assert manifest['found']['origins'] == ['0.org', '1.org', '2.org']
    for split in records.SPLITS:
        source = records.open_records(
            folder / 'records', split, task='chest_xray', verify=True)
        for place in range(len(source)):
            number = int(source[place]['case_id'].rpartition('/')[2])
            assert source[place]['origin'] == 1 + number % 3


def test_several_findings_an_image_are_predicted(several, tmp_path):
    folder, _ = several
    finding = jaxmed.load(folder / 'run')(folder / 'source' / 'images' / '0.png')
    values = [finding.row[name] for name in DATA_SETS['covid_chestxray'][0]]
    assert all(0 <= value <= 1 for value in values)
    named = [name for name, value in zip(DATA_SETS['covid_chestxray'][0], values)
             if value >= 0.5]
    assert finding.row['finding'] == '; '.join(named)


def test_several_findings_an_image_are_no_classes(several, tmp_path):
    folder, _ = several
    code, output = run(
        'prepare', *SMALL[:3], '--layout=covid_chestxray', f'--source={folder}/source',
        f'--output={tmp_path}/records',
    )
    assert code == 2 and 'task.data_set: ' in output and 'several findings' in output


def test_prediction_writes_calibrated_probabilities_and_warns_of_other_pictures(
    folds, tmp_path
):
    source = folds / 'source' / 'Normal'
    code, output = run(
        'predict', f'--workdir={folds}/run0', f'--input={source}',
        f'--output={tmp_path}',
    )
    assert code == 0, output
    with open(tmp_path / 'findings.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(list(source.iterdir()))
    for row in rows:
        values = [float(row[name]) for name in DATA_SETS['three_class'][0]]
        assert abs(sum(values) - 1) < 1e-3
        assert (tmp_path / 'overlays' / f'{row["case"]}.png').is_file()
    finding = jaxmed.load(folds / 'run0')(next(iter(sorted(source.iterdir()))))
    assert finding.row['finding'] == rows[0]['finding']
    np.testing.assert_allclose(
        [finding.row[n] for n in DATA_SETS['three_class'][0]],
        [float(rows[0][n]) for n in DATA_SETS['three_class'][0]], atol=1e-4,
    )


def test_files_are_predicted_together_one_bad_one_among_them(folds, tmp_path):
    (tmp_path / 'in').mkdir()
    for number, path in enumerate(sorted((folds / 'source' / 'Covid').iterdir())[:6]):
        (tmp_path / 'in' / f'{number}.png').write_bytes(path.read_bytes())
    (tmp_path / 'in' / '3.png').write_bytes(b'no picture')
    output = tmp_path / 'out'
    one = predict_rows(folds / 'run0', tmp_path / 'in', output, batch_size=1)
    assert [row['status'] for row in one] == [
        *['done'] * 3, 'unprocessable', *['done'] * 2]
    several = predict_rows(folds / 'run0', tmp_path / 'in', output, batch_size=4)
    assert len({row['Covid'] for row in one}) > 3  # else any order would do
    for alone, row in zip(one, several, strict=True):
        assert row['case'] == alone['case'] and row['status'] == alone['status']
        if row['status'] == 'done':
            assert abs(float(row['Covid']) - float(alone['Covid'])) < 2e-4
    overlays = output / 'overlays'
    assert sorted(path.name for path in overlays.iterdir()) == [
        '0.png', '1.png', '2.png', '4.png', '5.png']
    predict_rows(folds / 'run0', tmp_path / 'in', output, batch_size=4, explain=False)
    assert not list(overlays.iterdir())  # none of before stays beside new numbers


def predict_rows(workdir, source, output, *, batch_size, explain=True):
    code, text = run(
        'predict', f'--workdir={workdir}', f'--input={source}', f'--output={output}',
        f'--batch_size={batch_size}', '--explain' if explain else '--noexplain',
    )
    assert code == 3, text  # one file is none
    with open(output / 'findings.csv', newline='') as file:
        return list(csv.DictReader(file))


def test_a_map_shows_the_class_that_is_named(folds):
    predictor = jaxmed.load(folds / 'run0')
    paths = sorted((folds / 'source').rglob('*.png'))[::9]
    records_ = [predictor.task.read(path, case_id=path.stem) for path in paths]
    found = predictor.predict(records_)
    for record, finding in zip(records_, found, strict=True):
        named = DATA_SETS['three_class'][0].index(finding.details['explained'])
        values = [finding.row[name] for name in DATA_SETS['three_class'][0]]
        assert values[named] == max(values)
        for number in range(3):
            seen = predictor.explain(record, number)
            picture = predictor.task.findings(record, np.array(values), seen)
            difference = np.abs(
                finding.pictures['overlays'].astype(int) - picture.pictures['overlays'])
            assert (difference.max() <= 2) == (number == named)


def test_weights_of_others_are_taken_and_frozen_below_the_head(tmp_path):
    tensors = resnet18_tensors()
    path = tmp_path / 'weights.safetensors'
    save_file(tensors, path)
    flags = (
        'train', '--config=configs/chest_xray_resnet50.py:phantom', *SMALL[1:3],
        *SMALL[4:], '--config.task.network=resnet18',
        '--config.optimizer.freeze=stage4', f'--config.train.init_from={path}',
        f'--workdir={tmp_path}/run',
    )
    code, output = run(*flags, '--config.train.init_sha256=' + 64 * '0')
    assert code == 2 and str(path) in output.splitlines()[-1], output
    code, output = run(*flags)
    assert code == 0 and hashlib.sha256(path.read_bytes()).hexdigest() in output
    state, _ = state_of(tmp_path / 'run')
    kernel = tensors['layer4.1.conv2.weight'].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(
        state.params['stage4_block2']['conv2']['kernel'], kernel
    )
    assert state.params['outputs']['kernel'].shape == (512, 3)  # the head is fresh


def test_weights_that_are_absent_are_named(tmp_path):
    done = subprocess.run(
        [sys.executable, '-m', 'launch.train', *SMALL,
         '--config.train.init_from=/nowhere.safetensors', f'--workdir={tmp_path}/run'],
        cwd=ROOT, capture_output=True, text=True, timeout=240,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith('error: /nowhere.safetensors: ')
