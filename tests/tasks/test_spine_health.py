"""Spine health by its commands, from drawn people, ratings, KIMORE and videos."""

import csv
import gzip
import json
import shutil
import zipfile

import cv2
import jax
import numpy as np
import pytest

from configs import spine_health_lstm as config
from jaxmed import runs
from jaxmed.data import landmark_files, records
from jaxmed.data.phantoms import stick_figures, walkers
from jaxmed.errors import ConfigError, InputError, RecordError
from jaxmed.pose.skeletons import KINECT, Motion
from jaxmed.tasks import spine_health
from tests.commands import drain, run, state_of
from tests.data.landmark_text import save_shares
from tests.videos import read_frames

TASK = 'spine_health'
CUT = dict(frames=30, stride=15, rate_hz=10.0)
WIDTHS = dict(embedding=8, hidden=8, dense=8, convolutions=1)
TINY = (
    '--config=configs/spine_health_lstm.py:strong',
    *(f'--config.task.{name}={value}' for name, value in CUT.items()),
    *(f'--config.task.model.{name}={value}' for name, value in WIDTHS.items()),
    '--config.task.model.bidirectional=False', '--config.train.epochs=1',
    '--config.train.batch_size=8', '--config.train.steps_per_epoch=2',
    '--config.optimizer.warmup_steps=1', '--config.evaluate.resamples=20',
)
BUNDLE = 'models/pose_landmarker_full.task'


def make(variant='strong', **changes):
    options = config.get_config(variant).task.to_dict() | CUT
    return spine_health.make(**options | changes)


def draw(*, count=1, seed=5, exercises=('walk',)):
    return list(walkers.subjects(count=count, seed=seed, exercises=exercises))


def read_table(path):
    with open(path, newline='') as file:
        return {row['case']: row for row in csv.DictReader(file)}


def numbers_of(workdir):
    return json.loads((workdir / 'report' / 'report.json').read_text())


def summaries(report):
    return {(result['source'], result['data']): {
        name: value['value'] for name, value in result['values'].items()}
        for result in report['results']}


# What a table of cases is made of, by hand.

def rows_of(index, truth, *, case=None, spread=0.0):
    count = len(index)
    names = np.array([f'c{i}' for i in range(count)] if case is None else case)
    return {
        'index': np.array(index, np.float32), 'truth': np.array(truth, np.float32),
        'spread': np.broadcast_to(np.float32(spread), count), 'case_id': names,
        'seen': np.ones(count, np.float32), 'patient_id': names,
        'example_id': np.array([f'{name}@{i}' for i, name in enumerate(names)])}


def test_windows_are_averaged_by_case_and_an_unknown_rating_stays_unknown():
    rows = rows_of(
        [0.2, 0.9, 0.4, 0.6, 0.3], [0.5, np.nan, 0.5, 0.5, np.nan],
        case=['b', 'a', 'b', 'b', 'a'], spread=[0.1, 0.2, 0.2, 0.3, 0.4])
    cases = spine_health.cases(rows)
    assert list(cases['case_id']) == list(cases['patient_id']) == ['a', 'b']
    np.testing.assert_allclose(cases['index'], [0.6, 0.4], rtol=1e-6)
    np.testing.assert_allclose(cases['spread'], [0.3, 0.2], rtol=1e-6)
    np.testing.assert_allclose(cases['truth'], [np.nan, 0.5])
    np.testing.assert_allclose(cases['error'], [np.nan, 0.1], atol=1e-6)
    np.testing.assert_array_equal(cases['windows'], [2, 3])
    assert 'example_id' not in cases
    metrics = make().metrics
    assert metrics['mae'](cases) == pytest.approx(0.1, abs=1e-6)


def test_the_index_is_the_mean_by_shares_of_what_is_in_range():
    # Indices over, in and under the range, and the logarithm of a deviation.
    sequence = np.log([[np.e ** 1.4, 0.1], [np.e ** 0.6, 0.2], [np.e ** -0.2, 0.4]])
    outputs = {'sequence': sequence.astype(np.float32)}
    answer = spine_health.probabilities(outputs, gaussian=True, tree_share=0)
    np.testing.assert_allclose(answer['index'], [1, 0.6, 0], rtol=1e-6)
    np.testing.assert_allclose(answer['spread'], [0.1, 0.2, 0.4], rtol=1e-6)
    outputs['trees'] = np.array([0.2, 1.3, 0.5], np.float32)
    answer = spine_health.probabilities(outputs, gaussian=False, tree_share=0.25)
    np.testing.assert_allclose(answer['index'], [0.8, 0.7, 0.125], rtol=1e-6)
    np.testing.assert_array_equal(answer['spread'], [0, 0, 0])


def test_any_number_of_windows_is_answered_in_two_sizes_of_batches():
    sizes = set()

    def apply(batch):
        sizes.add(len(batch['inputs']))
        return {'index': batch['inputs'].sum(axis=(1, 2, 3)), 'spread': batch['step_s']}

    for count in (1, 3, 4, 9):
        record = {
            'inputs': np.arange(count, dtype=np.float32).reshape(-1, 1, 1, 1),
            'frame_mask': np.ones((count, 1)), 'segment': np.zeros((count, 1)),
            'step_s': np.arange(count) / 10}
        answer = spine_health.infer(apply, record, batch_size=4)
        np.testing.assert_array_equal(answer['index'], np.arange(count))
        np.testing.assert_array_equal(answer['spread'], np.arange(count) / 10)
    assert sizes == {1, 4}


@pytest.mark.parametrize('changes, words', [
    (dict(skeleton='octopus'), 'octopus'), (dict(dtype='float16'), 'task.dtype'),
    (dict(loss='hinge'), 'task.loss'), (dict(loss='gaussian'), 'task.loss'),
    (dict(limits_quantile=0.5), 'task.limits_quantile'),
    (dict(limits_quantile=-0.1), 'task.limits_quantile'),
    (dict(steps=31), 'task.steps: 31 of 30 frames'), (dict(steps=-1), 'task.steps'),
    (dict(exercise='swim'), 'task.exercise'), (dict(unit='crowd'), 'task.unit'),
    (dict(span='half'), 'task.span'), (dict(stride=31), 'task.stride'),
    (dict(features_of_frames=('smell',)), 'task.features'),
    (dict(smoothing='sandpaper'), 'smoothing'),
    (dict(landmarker='oracle'), 'landmarker'),
    (dict(min_visibility=2.0), 'min_visibility'), (dict(rate_hz=0.0), 'rate_hz'),
    (dict(turn_deg=-5.0), 'turn_deg'), (dict(warp=1.5), 'warp'),
    (dict(noise=-1.0), 'noise'), (dict(forget=2.0), 'forget'),
    (dict(max_gap_s=-1.0), 'max_gap_s'), (dict(landmark_mode='film'), 'landmark_mode'),
    (dict(landmark_dtype='int8'), 'landmark_dtype'), (dict(max_pixels=0), 'max_pixels'),
    (dict(max_seconds=float('inf')), 'max_seconds'),
    (dict(rate_hz=float('nan')), 'rate_hz'), (dict(tree_share=1.5), 'tree_share'),
])
def test_options_that_do_not_fit_are_named(changes, words):
    with pytest.raises(ConfigError, match=words):
        make(**changes)


# Limits of the training set.

class Listed:
    """Records in a list, as a data source."""

    def __init__(self, found):
        self._found = found

    def __len__(self):
        return len(self._found)

    def __getitem__(self, place):
        return self._found[place]


def features_of(task, found):
    """Of all real frames of records, [frames, F]."""
    parts = []
    for record in found:
        batch = {name: np.asarray(record[name])[None] for name in (
            'inputs', 'frame_mask', 'segment', 'step_s')}
        inputs = task.model.look(task.preprocess(batch)['inputs'])
        parts.append(np.asarray(inputs['features'])[np.asarray(inputs['mask']) > 0])
    return np.concatenate(parts)


@pytest.mark.parametrize('quantile', [0.0, 0.05])
def test_limits_are_quantiles_of_the_training_sets_real_frames(quantile):
    task = make(
        model=config.get_config('strong').task.model.to_dict() | WIDTHS,
        limits_quantile=quantile)
    found = list(task.phantoms(count=6, seed=0))
    for record in found[:2]:  # padded, with what must not come in
        record['frame_mask'] = np.arange(30) < 20
        record['inputs'][20:] = np.nan
    # A joint that is never seen has features that never change.
    for record in found:
        record['inputs'][:, 0, :3] = np.nan
    variables = {'params': {}, 'limits': {'sequence': {'low': 0, 'high': 1}}}
    limits = task.begin(Listed(found), variables)['limits']['sequence']
    values = features_of(task, found)
    for name, share in (('low', quantile), ('high', 1 - quantile)):
        assert limits[name].dtype == np.float32
        np.testing.assert_allclose(
            limits[name], np.quantile(values, share, axis=0), atol=1e-4)
    # Equal limits: the network makes 0 of it, models.pose_lstm.
    np.testing.assert_array_equal(limits['low'][:3], limits['high'][:3])
    assert np.all(limits['high'][3:9] > limits['low'][3:9])
    assert variables['limits']['sequence']['low'] == 0  # what was given stays


# The commands, on drawn people.

@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp('spine') / 'records'
    code, text = run('prepare', *TINY, '--phantoms=60', '--seed=1',
                     '--splits=0.2,0.6,0.2', f'--output={folder}')
    assert code == 0, text
    return folder


@pytest.fixture(scope='module')
def trained(prepared):
    workdir = prepared.parent / 'run'
    code, text = run(
        'train', *TINY, f'--config.data.records={prepared}', f'--workdir={workdir}')
    assert code == 0, text
    return workdir, text


def open_split(folder, split):
    source = records.open_records(folder, split, task=TASK, verify=True)
    return [source[place] for place in range(len(source))]


def test_records_of_one_step_for_all_frames_are_refused_by_name(tmp_path):
    task = make()
    found = [record | {'step_s': np.float32(0.1)}
             for record in task.phantoms(count=9, seed=0)]
    folder = tmp_path / 'records'
    records.write_records(found, folder, task=TASK, fractions=(1, 0, 0), seed=0)
    with pytest.raises(RecordError) as caught:
        records.check_records(
            records.open_records(folder, 'train', task=TASK, verify=True),
            task.example, folder=folder)
    assert str(caught.value) == (
        f'{folder}: step_s is float32[] in these records, the task needs '
        'float32[30]; prepare them with the same task options')


def test_drawn_people_are_prepared_each_on_one_side(prepared):
    sides, exercises = {}, set()
    for split in records.SPLITS:
        found = open_split(prepared, split)
        sides[split] = {record['patient_id'] for record in found}
        exercises |= {record['exercise'] for record in found}
        for record in found:
            assert record['inputs'].shape == (30, 33, 4)
            assert 0 <= record['targets'][0] <= 1
    assert sum(map(len, sides.values())) == len(set().union(*sides.values())) == 20
    assert all(len(people) >= 3 for people in sides.values())
    assert exercises == {'touch toes', 'walk', 'jump'}


def test_training_ends_with_a_report_that_has_baselines_and_what_to_doubt(trained):
    workdir, text = trained
    assert 'mae' in text and 'gradient boosting' in text
    found = summaries(numbers_of(workdir))
    assert {source for source, data in found if data == 'test'} == {
        'this model', 'mean per exercise', 'ridge', 'gradient boosting'}
    assert ('this model', 'train') in found and ('this model', 'valid') in found
    names = {'mae', 'rmse', 'spearman', 'r2', 'within_0.05', 'within_0.1', 'flag_auc',
             'flag_sensitivity', 'flag_specificity'}
    assert found['this model', 'test'].keys() == names
    for result in numbers_of(workdir)['results']:
        compared = result['source'] != 'this model'
        assert result['differences'].keys() == (names if compared else set())
    page = (workdir / 'report' / 'report.html').read_text()
    for words in ('Red flag', 'How far to trust it', 'By exercise', 'Agreement',
                  '>minus ridge<'):
        assert words in page
    assert 'phantom-' in page  # cases are named, and people by no more than a hash
    cases = numbers_of(workdir)['cases']
    assert len(cases['case_id']) == len(set(cases['case_id']))
    assert all(0 <= index <= 1 for index in cases['index'])


def test_the_run_keeps_the_training_sets_limits_and_its_calibration(trained, prepared):
    workdir, _ = trained
    options = runs.read_config(workdir)['task']
    limits = state_of(workdir)[0].model_state['limits']['sequence']
    values = features_of(spine_health.make(**options), open_split(prepared, 'train'))
    for name, share in (('low', 0.01), ('high', 0.99)):
        expected = np.quantile(values, share, axis=0)
        changes = np.ptp(values, axis=0) > 1e-3
        np.testing.assert_allclose(
            limits[name][changes], expected[changes], rtol=1e-3, atol=1e-3)
    kept = runs.read_calibration(workdir)
    found = open_split(prepared, 'valid')
    for name, column in (
        ('people', 'patient_id'), ('cases', 'case_id'), ('windows', 'example_id'),
    ):
        assert kept[name] == len({record[column] for record in found}) >= 9
    assert kept['views'] == 2 and kept['windows'] > kept['cases'] > kept['people']
    assert 0 < kept['width'] < 1 and 0 < kept['window_width'] < 1
    assert not kept['by_spread']


def test_limits_are_the_same_after_more_updates_and_a_resume(trained, prepared):
    workdir, _ = trained
    longer, flags = prepared.parent / 'longer', (
        f'--config.data.records={prepared}', '--config.train.epochs=2')
    # Killed after the first of two epochs, as far as files can tell.
    shutil.copytree(workdir, longer)
    path = longer / 'config.json'
    path.write_text(path.read_text().replace('"epochs": 1', '"epochs": 2'))
    before = state_of(longer)[0]
    code, text = run('train', *TINY, *flags, f'--workdir={longer}')
    assert code == 0, text
    after = state_of(longer)[0]
    assert (before.step, after.step) == (2, 4)
    jax.tree.map(np.testing.assert_array_equal, before.model_state['limits'],
                 after.model_state['limits'])
    first = before.params['sequence']['index']['kernel']
    assert np.any(first != after.params['sequence']['index']['kernel'])


def test_a_calibration_of_an_older_jaxmed_is_deleted_or_fitted_anew(
        trained, prepared, tmp_path):
    workdir = tmp_path / 'run'
    shutil.copytree(trained[0], workdir)
    path = workdir / 'calibration.json'
    whole = json.loads(path.read_text())
    old = {name: value for name, value in whole.items() if name != 'window_width'}
    path.write_text(json.dumps(old))
    code, text = run('evaluate', f'--workdir={workdir}')
    assert code == 2 and text.splitlines()[-1].startswith(
        f'error: {path}: fitted by an older jaxmed, without window_width: '), text
    again = 'train', *TINY, f'--config.data.records={prepared}', f'--workdir={workdir}'
    code, text = run(*again)
    assert code == 0 and json.loads(path.read_text()) == whole, text
    path.unlink()
    (task,), *_ = runs.load_members([workdir])
    assert task.findings.keywords['interval'] is None


def test_training_records_of_another_shape_beside_a_prepared_set_are_one_line(
        trained, prepared, tmp_path):
    workdir, own = tmp_path / 'run', tmp_path / 'own'
    shutil.copytree(trained[0], workdir)
    found = [record | {'step_s': np.float32(0.1)}
             for record in make().phantoms(count=9, seed=0)]
    records.write_records(found, own, task=TASK, fractions=(1, 0, 0), seed=0)
    path = workdir / 'config.json'
    path.write_text(path.read_text().replace(str(prepared), str(own)))
    code, text = run('evaluate', f'--workdir={workdir}', f'--records={prepared}')
    assert code == 2 and text.splitlines()[-1].startswith(
        f'error: {own}: step_s is float32[] in these records'), text


def test_a_run_is_evaluated_on_another_split(trained):
    workdir, _ = trained
    code, text = run('evaluate', f'--workdir={workdir}', '--split=valid', '--views=1',
                     f'--output={workdir}/valid')
    assert code == 0, text
    page = (workdir / 'valid' / 'report.html').read_text()
    assert 'Calibrated with 2 of the views and measured with 1' in page
    assert "Split &#39;valid&#39;" in page or "Split 'valid'" in page


def write_bad_files(folder):
    """Name -> what its reason holds, of files that can't be predicted."""
    motion = draw()[0].motion
    good = folder / 'good walk.csv'
    landmark_files.write_motion(good, motion)
    lines = good.read_text().splitlines()
    cells = lines[9].split(',')

    def write(name, lines):
        (folder / name).write_text('\n'.join(lines) + '\n')

    write('nan.csv', [lines[0]] + [
        ','.join([str(i / 10), *['nan'] * (len(cells) - 1)]) for i in range(40)])
    text = ','.join([cells[0], 'seven', *cells[2:]])
    write('text.csv', [*lines[:9], text, *lines[10:]])
    write('joints.csv', [','.join(line.split(',')[:-4]) for line in lines])
    write('short.csv', lines[:6])
    (folder / 'empty.csv').write_text('')
    (folder / 'cut.csv.gz').write_bytes(gzip.compress(good.read_bytes())[:2000])
    landmark_files.write_motion(folder / 'kinect.csv', Motion(
        np.ones((40, 25, 3), np.float32), np.ones((40, 25), np.float32),
        np.arange(40) / 10, KINECT.name))
    (folder / 'no.mp4').write_text('not a video')
    return {
        'nan.csv': 'nobody is in any of its 40 frames', 'text.csv': 'no number',
        'joints.csv': '32 joints, 33 are needed', 'short.csv': 'too short',
        'empty.csv': 'empty file', 'cut.csv.gz': 'damaged or truncated',
        'kinect.csv': '25 joints, 33 are needed', 'no.mp4': 'landmark_model'}


COLUMNS = [
    'case', 'status', 'reason', 'index', 'low', 'high', 'red_flag', 'exercise',
    'windows', 'windows_left_out', 'seconds', 'frames_read_share', 'person_share',
    'visibility', 'joints_known_share']


def test_a_folder_of_landmarks_is_predicted_and_what_is_bad_costs_its_own_row(
    trained, tmp_path
):
    workdir, _ = trained
    source, output = tmp_path / 'in', tmp_path / 'out'
    source.mkdir()
    bad = write_bad_files(source)
    (source / 'no.mp4').unlink()  # without a model this is the command's fault
    del bad['no.mp4']
    for walk in draw(exercises=('touch_toes', 'jump')):
        (source / 'deep').mkdir(exist_ok=True)
        landmark_files.write_motion(
            source / 'deep' / f'p1_{walk.exercise}_2.csv.gz', walk.motion)
    code, text = run(
        'predict', f'--workdir={workdir}', f'--input={source}', f'--output={output}')
    assert code == 3 and f'3 predicted, {len(bad)} failed' in text, text
    rows = read_table(output / 'findings.csv')
    assert list(next(iter(rows.values()))) == COLUMNS
    for name, words in bad.items():
        row = rows[name.removesuffix('.gz').removesuffix('.csv')]
        assert row['status'] == 'unprocessable' and words in row['reason']
        assert row['index'] == '' and '\n' not in row['reason']
    width = runs.read_calibration(workdir)['width']
    exercises = {}
    for case, row in rows.items():
        if row['status'] != 'done':
            continue
        index, low, high = (float(row[name]) for name in ('index', 'low', 'high'))
        assert 0 <= index <= 1
        assert low == pytest.approx(max(index - width, 0), abs=2e-4)
        assert high == pytest.approx(min(index + width, 1), abs=2e-4)
        assert row['red_flag'] == ('yes' if index > 0.5 else 'no')
        assert 4 < float(row['seconds']) < 7 and int(row['windows']) >= 2
        assert row['frames_read_share'] == '1.0'
        assert 0.9 < float(row['person_share']) <= 1
        exercises[case] = row['exercise']
        plot = cv2.imread(str(output / case / 'index.png'))
        phases = cv2.imread(str(output / 'overlays' / f'{case}.png'))
        assert min(plot.shape[:2]) > 300 and min(phases.shape[:2]) > 300
    assert exercises == {
        'good walk': 'walk', 'deep/p1_touch_toes_2': 'touch toes',
        'deep/p1_jump_2': 'jump'}
    details = json.loads((output / 'findings.json').read_text())
    done = [row for row in details if row['status'] == 'done']
    window = runs.read_calibration(workdir)['window_width']
    for one in (one for row in done for one in row['windows_found']):
        assert one['low'] == pytest.approx(max(one['index'] - window, 0), abs=2e-4)
    assert len(done) == 3 and all(
        len(row['windows_found']) == row['windows'] and row['read']['frames'] > 50
        and 'gaps_filled_share' in row['cleaned'][0] for row in done)
    assert 'good walk' in (output / 'index.html').read_text()


@pytest.mark.parametrize('name', [
    'nan.csv', 'text.csv', 'joints.csv', 'short.csv', 'empty.csv', 'cut.csv.gz',
    'kinect.csv', 'no.mp4'])
def test_a_bad_file_is_one_line_that_names_it(tmp_path, name):
    bad = write_bad_files(tmp_path)
    with pytest.raises(InputError) as caught:
        make().read(tmp_path / name, case_id='c')
    text = str(caught.value)
    where = 'task.landmark_model' if name == 'no.mp4' else str(tmp_path / name)
    assert text.startswith(f'{where}: ') and bad[name] in text and '\n' not in text


def test_a_single_bad_file_is_exit_code_2_and_leaves_nothing(trained, tmp_path):
    workdir, _ = trained
    write_bad_files(tmp_path)
    path, output = tmp_path / 'short.csv', tmp_path / 'out'
    code, text = run('predict', f'--workdir={workdir}', f'--input={path}',
                     f'--output={output}')
    last = text.splitlines()[-1]
    assert code == 2 and last.startswith(f'error: {path}: too short'), text
    assert 'Traceback' not in text and not output.exists()
    # Nor may a window be other than the network was trained on.
    code, text = run('predict', f'--workdir={workdir}', f'--output={output}',
                     f'--input={tmp_path}/good walk.csv', '--task=frames=60')
    assert code == 2 and text.splitlines()[-1].startswith(
        'error: --task: changes what the network is or sees'), text
    assert not output.exists()


def test_a_trained_model_is_told_the_rate_and_picture_of_another_source(
        trained, tmp_path):
    workdir, _ = trained
    motion = draw()[0].motion
    steady = motion._replace(
        time_s=np.arange(len(motion.time_s)) / 25,
        visibility=np.ones_like(motion.visibility))
    folder, output = tmp_path / 'in', tmp_path / 'out'
    folder.mkdir()
    landmark_files.write_motion(folder / 'walk.csv', steady)
    save_shares(folder / 'walk.json', steady)
    height, width = steady.size_hw
    code, text = run(
        'predict', f'--workdir={workdir}', f'--input={folder}', f'--output={output}',
        f'--task=source_hz=25,landmark_size_hw=({height},{width})')
    assert code == 0, text
    with open(output / 'findings.csv', newline='') as file:
        one, other = (float(row['index']) for row in csv.DictReader(file))
    assert one == pytest.approx(other, abs=1e-3)
    # Without, the reason tells how.
    code, text = run('predict', f'--workdir={workdir}', f'--output={tmp_path}/no',
                     f'--input={folder}/walk.json')
    assert code == 2 and "--task='landmark_size_hw=(H,W)'" in text, text
    # What the model has learnt on stays.
    for options in ({'rate_hz': 25.0}, {'source_hz': 25.0, 'max_gap_s': 0.1}):
        with pytest.raises(ConfigError, match='changes what the network is or sees'):
            runs.load(workdir, task_options=options)


# A person's recordings together, from a table of ratings.

def write_rated(folder, *, people=9):
    """Three recordings of each of some people, and their table."""
    rows = ['subject,exercise,video,rating,group,split']
    for walk in draw(count=people, exercises=walkers.EXERCISES):
        name = f'{walk.subject}/{walk.exercise}.csv.gz'
        (folder / walk.subject).mkdir(parents=True, exist_ok=True)
        landmark_files.write_motion(folder / name, walk.motion)
        rows.append(
            f'{walk.subject},{walk.exercise},{name},{walk.rating:.1f},G{people % 2},')
    (folder / 'ratings.csv').write_text('\n'.join(rows) + '\n')
    return rows


def test_a_persons_three_recordings_are_one_example_from_table_to_finding(tmp_path):
    source, workdir, output = (tmp_path / name for name in ('in', 'run', 'out'))
    write_rated(source)
    flags = (*TINY, '--config.task.unit=subject', '--config.task.loss=gaussian',
             '--config.task.model.likelihood=gaussian')
    code, text = run(
        'prepare', *flags, '--layout=ratings', f'--source={source}', '--seed=3',
        '--splits=0.6,0,0.4', f'--output={tmp_path}/records')
    assert code == 0, text
    (record, *_) = open_split(tmp_path / 'records', 'train')
    assert record['inputs'].shape == (90, 33, 4) and record['exercise'] == 'all'
    np.testing.assert_array_equal(np.unique(record['segment'][record['frame_mask']]),
                                  [0, 1, 2])
    code, text = run('train', *flags, f'--config.data.records={tmp_path}/records',
                     f'--workdir={workdir}')
    assert code == 0, text
    assert runs.read_calibration(workdir) == {}  # there is no validation split
    person = sorted(path for path in source.iterdir() if path.is_dir())[0]
    code, text = run('predict', f'--workdir={workdir}', f'--input={person}',
                     f'--output={output}')
    assert code == 0, text
    ((case, row),) = read_table(output / 'findings.csv').items()
    assert case == person.name and row['exercise'] == 'all'
    assert 0 <= float(row['index']) <= 1 and row['low'] == row['high'] == ''
    (details,) = json.loads((output / 'findings.json').read_text())
    assert len(details['cleaned']) == 3
    told = details['recordings']
    assert [one['exercise'] for one in told] == ['touch toes', 'walk', 'jump']
    assert all(4 < one['seconds'] < 7 for one in told)
    assert float(row['seconds']) == pytest.approx(
        sum(one['seconds'] for one in told), abs=0.02)
    assert details['interval'] == {'width': None, 'reason': 'not calibrated'}


def test_a_persons_frames_in_folders_are_read_and_an_exercise_twice_is_refused(
    tmp_path
):
    rows = write_rated(tmp_path, people=1)
    (person,) = (path for path in tmp_path.iterdir() if path.is_dir())
    task = make(unit='subject')
    assert task.files(tmp_path) == [(person, person.name)]
    record = task.read(person, case_id='c')
    assert [part[0] for part in record['parts']] == ['touch toes', 'walk', 'jump']
    shutil.copy(person / 'walk.csv.gz', person / 'walk again.csv.gz')
    with pytest.raises(InputError, match='walk again.csv.gz'):
        task.read(person, case_id='c')
    rows.append(rows[2].replace('walk.csv', 'walk again.csv'))
    (tmp_path / 'ratings.csv').write_text('\n'.join(rows) + '\n')
    found, told = drain(task.sources['ratings'](tmp_path))
    assert not found and 'walk again.csv.gz' in str(told['unprocessable'])
    frames = tmp_path / 'p2' / 'walk'
    frames.mkdir(parents=True)
    cv2.imwrite(str(frames / '1.png'), np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(ConfigError, match='task.landmark_model'):
        task.read(tmp_path / 'p2', case_id='c')


@pytest.mark.parametrize('words', [
    'line 2: rating 101 is outside 0-100', 'lines 2 and 3: one subject in two splits'])
def test_a_bad_table_of_ratings_is_one_line_and_nothing_is_written(tmp_path, words):
    rows = write_rated(tmp_path, people=2)
    if 'splits' in words:
        rows[1], rows[2] = rows[1] + 'train', rows[2] + 'test'
    else:
        cells = rows[1].split(',')
        rows[1] = ','.join([*cells[:3], '101', *cells[4:]])
    (tmp_path / 'ratings.csv').write_text('\n'.join(rows) + '\n')
    code, text = run('prepare', *TINY, '--layout=ratings', f'--source={tmp_path}',
                     f'--output={tmp_path}/records')
    last = text.splitlines()[-1]
    assert code == 2 and last.startswith(f'error: {tmp_path}/ratings.csv: '), text
    assert words in last and 'phantom' not in last  # the person is not named
    assert not (tmp_path / 'records').exists()


# KIMORE: another skeleton, whole recordings, scores of a table.

def test_kimore_goes_from_its_files_to_findings(sample_data, tmp_path):
    source, workdir, output = (tmp_path / name for name in ('in', 'run', 'out'))
    source.mkdir()
    folder = sample_data / 'pose' / 'kimore'
    people = sorted({path.name.split('_Es')[0] for path in folder.glob('*.csv.gz')})
    chosen = people[:3] + people[-3:]
    for person in chosen:
        for number in (1, 5):
            shutil.copy(folder / f'{person}_Es{number}.csv.gz', source)
    shutil.copy(folder / 'scores.csv', source)
    flags = ('--config=configs/spine_health_lstm.py:kimore', *TINY[1:])
    code, text = run('prepare', *flags, '--layout=kimore', f'--source={source}',
                     '--splits=0.5,0,0.5', '--seed=2', f'--output={tmp_path}/records')
    assert code == 0, text
    found = open_split(tmp_path / 'records', 'train')
    found += open_split(tmp_path / 'records', 'test')
    with open(folder / 'scores.csv', newline='') as file:
        scores = {f'{row["subject"]}_Es{row["exercise"]}': row['clinical_TS']
                  for row in csv.DictReader(file)}
    assert {record['case_id'] for record in found} == {
        f'{person}_Es{number}' for person in chosen for number in (1, 5)
        if scores[f'{person}_Es{number}']}
    for record in found:
        score = float(scores[record['case_id']])
        assert record['targets'][0] == pytest.approx(1 - score / 50, abs=1e-6)
        assert record['inputs'].shape == (30, 25, 4) and record['frame_mask'].all()
        assert record['exercise'] == f'es{record["case_id"][-1]}'
    code, text = run('train', *flags, f'--config.data.records={tmp_path}/records',
                     f'--workdir={workdir}')
    assert code == 0, text
    assert 'BackPain' in (workdir / 'report' / 'report.html').read_text()
    code, text = run('predict', f'--workdir={workdir}', f'--input={source}',
                     f'--output={output}')
    assert code == 0, text
    rows = read_table(output / 'findings.csv')
    assert len(rows) == 12 and {row['exercise'] for row in rows.values()} == {
        'es1', 'es5'}
    assert all(0 <= float(row['index']) <= 1 for row in rows.values())
    # A video gives another skeleton.
    (tmp_path / 'a.mp4').write_bytes(b'')
    code, text = run('predict', f'--workdir={workdir}', f'--input={tmp_path}/a.mp4',
                     f'--output={tmp_path}/none')
    assert code == 2 and text.splitlines()[-1] == (
        f'error: {tmp_path}/a.mp4: a video gives skeleton blazepose, this model takes '
        'kinect')
    assert not (tmp_path / 'none').exists()


# Pixels.

@pytest.fixture(scope='module')
def bundle():
    import os
    from pathlib import Path

    folder = os.environ.get('JAXMED_SAMPLE_DATA')
    if not folder:
        pytest.skip('JAXMED_SAMPLE_DATA is unset: no landmark model')
    return Path(folder) / BUNDLE


@pytest.fixture(scope='module')
def video(tmp_path_factory):
    """A drawn walk, 10 frames a second."""
    path = tmp_path_factory.mktemp('videos') / 'a walk.mp4'
    joints = stick_figures.write_video(
        path, draw(seed=0)[0].motion, rate_hz=10.0, size_hw=(320, 320), seed=0)
    return path, len(joints)


def test_a_video_goes_from_pixels_to_an_index_and_an_annotated_video(
    trained, bundle, video, tmp_path
):
    path, frames = video
    output = tmp_path / 'out'
    code, text = run(
        'predict', f'--workdir={trained[0]}', f'--input={path}', f'--output={output}',
        f'--task=landmark_model={bundle},annotate=true,cache={tmp_path}/kept')
    assert code == 0, text
    ((case, row),) = read_table(output / 'findings.csv').items()
    assert case == 'a walk' and row['exercise'] == 'walk'
    assert 0 <= float(row['low']) <= float(row['index']) <= float(row['high']) <= 1
    assert float(row['person_share']) > 0.8
    (details,) = json.loads((output / 'findings.json').read_text())
    assert details['read']['frames'] == frames
    assert len(read_frames(output / case / 'annotated.mp4')) == frames
    assert cv2.imread(str(output / case / 'index.png')) is not None
    assert len(list((tmp_path / 'kept').iterdir())) == 1
    assert 'W0000' not in text and 'I0000' not in text  # of MediaPipe's own log


def make_bad_videos(folder, video):
    """Name -> what its reason holds."""
    data = video.read_bytes()
    (folder / 'text.mp4').write_text('not a video')
    (folder / 'empty.mp4').write_bytes(b'')
    (folder / 'cut.mp4').write_bytes(data[:len(data) // 2])
    still = cv2.VideoWriter(
        str(folder / 'nobody.mp4'), cv2.VideoWriter_fourcc(*'mp4v'), 10.0, (64, 64))
    for _ in range(12):
        still.write(np.full((64, 64, 3), 90, np.uint8))
    still.release()
    none = cv2.VideoWriter(
        str(folder / 'none.mp4'), cv2.VideoWriter_fourcc(*'mp4v'), 10.0, (64, 64))
    none.release()
    motion = draw(seed=0)[0].motion
    stick_figures.write_video(
        folder / 'short.mp4', motion._replace(
            joints=motion.joints[:12], time_s=motion.time_s[:12]),
        rate_hz=10.0, size_hw=(320, 320), seed=0)
    return {
        'text.mp4': 'not a video', 'empty.mp4': 'empty file',
        'cut.mp4': 'damaged or truncated', 'nobody.mp4': 'nobody is visible',
        'none.mp4': '', 'short.mp4': 'too short', 'absent.mp4': 'No such file'}


@pytest.mark.parametrize('name', [
    'text.mp4', 'empty.mp4', 'cut.mp4', 'nobody.mp4', 'none.mp4', 'short.mp4',
    'absent.mp4'])
def test_a_bad_video_is_one_line_that_names_it(bundle, video, tmp_path, name):
    bad = make_bad_videos(tmp_path, video[0])
    task = make(landmark_model=str(bundle))
    with pytest.raises(InputError) as caught:
        task.read(tmp_path / name, case_id='c')
    text = str(caught.value)
    assert text.startswith(f'{tmp_path / name}: ') and '\n' not in text
    assert bad[name] in text, text


@pytest.mark.parametrize('kind', ['absent', 'text', 'cut', 'another', 'sha256'])
@pytest.mark.parametrize('landmarker', ['mediapipe', 'jax'])
def test_a_wrong_landmark_model_is_told_and_no_fault_of_the_video(
    bundle, video, tmp_path, kind, landmarker
):
    model, digest = tmp_path / 'model.task', ''
    if kind == 'text':
        model.write_text('no model')
    elif kind == 'cut':
        model.write_bytes(bundle.read_bytes()[:-5000])
    elif kind == 'another':
        with zipfile.ZipFile(model, 'w') as file:
            file.writestr('hand_detector.tflite', b'TFL3')
    elif kind == 'sha256':
        shutil.copy(bundle, model)
        digest = 'ab' * 32
    task = make(
        landmark_model=str(model), landmark_sha256=digest, landmarker=landmarker)
    with pytest.raises(ConfigError) as caught:
        task.read(video[0], case_id='c')
    text = str(caught.value)
    assert str(model) in text and '\n' not in text
    assert (digest in text) and (kind != 'sha256' or 'SHA-256' in text)
