"""What spine health reads: files without time or size, and a person's recordings."""

import itertools

import cv2
import jax
import numpy as np
import pytest

from configs import spine_health_lstm as config
from jaxmed.data import landmark_files, videos
from jaxmed.data.phantoms import walkers
from jaxmed.errors import ConfigError, InputError
from jaxmed.tasks import spine_health, spine_reading
from tests.data.landmark_text import save_shares

CUT = dict(frames=30, stride=15, rate_hz=10.0)


def make(**changes):
    options = config.get_config('strong').task.to_dict() | CUT
    return spine_health.make(**options | changes)


@pytest.fixture(scope='module')
def walk():
    return next(walkers.subjects(count=1, seed=0, exercises=('walk',))).motion


def save_without_times(path, motion):
    landmark_files.write_motion(path, motion)
    table = [line.split(',', 1)[1] for line in path.read_text().splitlines()]
    path.write_text('\n'.join(table) + '\n')
    return path


def test_shares_of_a_portrait_give_what_its_pixels_give(tmp_path, walk):
    steady = walk._replace(
        time_s=np.arange(len(walk.time_s)) / 30, visibility=np.ones_like(
            walk.visibility))
    landmark_files.write_motion(tmp_path / 'walk.csv', steady)
    shares = save_shares(tmp_path / 'walk.json', steady)
    task = make(landmark_size_hw=steady.size_hw)
    one, other = (task.read(path, case_id='c') for path in (
        tmp_path / 'walk.csv', shares))
    np.testing.assert_allclose(
        one['inputs'][..., :3], other['inputs'][..., :3], rtol=1e-3, atol=0.1)
    assert other['parts'][0][1].size_hw is None  # no picture to draw on
    with pytest.raises(InputError, match='set landmark_size_hw') as caught:
        make().read(shares, case_id='c')
    assert str(caught.value).startswith(str(shares)) and '\n' not in str(caught.value)


@pytest.mark.parametrize('size_hw', [(480,), (480, 0), ('480', '640'), (1, 2, 3)])
def test_a_picture_has_a_height_and_a_width(size_hw):
    with pytest.raises(ConfigError, match='task.landmark_size_hw'):
        make(landmark_size_hw=size_hw)


def test_runs_that_read_otherwise_are_no_ensemble():
    one, other = make().reading, make(landmark_size_hw=[480, 640]).reading
    assert one['landmark_size_hw'] == () and other['landmark_size_hw'] == (480, 640)
    assert make(source_hz=25.0).reading['source_hz'] == 25 != one['source_hz']


def test_sources_without_time_have_a_rate_of_their_own(tmp_path, walk):
    path = save_without_times(tmp_path / 'walk.csv', walk)
    record = make(source_hz=25.0).read(path, case_id='c')
    _, found, cleaned, _ = record['parts'][0]
    np.testing.assert_allclose(np.diff(found.time_s), 1 / 25)
    np.testing.assert_allclose(np.diff(cleaned.time_s), 1 / 10)
    with pytest.raises(ConfigError, match='task.source_hz'):
        make(source_hz=0.0)


def test_a_folder_of_frames_has_that_rate_too(tmp_path, sample_data):
    with videos.open_video(
        sorted((sample_data / 'pose' / 'video').glob('*.mp4'))[0],
        max_pixels=10**8, max_seconds=60,
    ) as video:
        for frame in itertools.islice(video, 6):
            cv2.imwrite(str(tmp_path / f'{frame.number}.png'), frame.rgb[..., ::-1])
    options = dict(
        source_hz=2.0, landmarker='mediapipe',
        landmark_model=str(sample_data / 'models' / 'pose_landmarker_full.task'))
    for unit in ('video', 'subject'):  # such a folder is one recording of a person
        record = make(unit=unit, **options).read(tmp_path, case_id='c')
        (part,) = record['parts']
        np.testing.assert_allclose(part[1].time_s, np.arange(6) / 2)


@pytest.mark.parametrize('last_s', [1e15, np.inf, 700.0])
def test_wild_time_stamps_are_one_line(tmp_path, walk, last_s):
    time_s = walk.time_s.copy()
    time_s[-1] = last_s
    landmark_files.write_motion(tmp_path / 'walk.csv', walk._replace(time_s=time_s))
    with pytest.raises(InputError, match='finite time|limit 600') as caught:
        make().read(tmp_path / 'walk.csv', case_id='c')
    assert '\n' not in str(caught.value)


def test_a_face_alone_has_no_index(tmp_path, walk):
    joints = walk.joints.copy()
    joints[:, 11:] = np.nan
    landmark_files.write_motion(tmp_path / 'walk.csv', walk._replace(joints=joints))
    with pytest.raises(InputError, match='hips and shoulders are hardly ever visible'):
        make().read(tmp_path / 'walk.csv', case_id='c')


def test_a_person_shows_an_exercise_once(tmp_path, walk):
    task = make(unit='subject')
    for name in ('walk.csv', 'jump.csv'):
        landmark_files.write_motion(tmp_path / name, walk)
    assert task.read(tmp_path, case_id='c')['exercise'] == 'all'
    (tmp_path / 'jump.csv').rename(tmp_path / 'walk 2.csv')
    with pytest.raises(InputError, match='walk.csv shows .* and so does walk 2.csv'):
        task.read(tmp_path, case_id='c')


def test_the_exercise_of_the_option_is_found_as_those_of_files_are(
    tmp_path, walk, caplog
):
    landmark_files.write_motion(tmp_path / 'a.csv', walk)
    assert make().read(tmp_path / 'a.csv', case_id='c')['exercise'] == 'other'
    assert 'none of the exercises touch toes, walk, jump' in caplog.text
    caplog.clear()
    (tmp_path / 'b.csv').write_text('no landmarks')  # that alone is told of it
    with pytest.raises(InputError):
        make().read(tmp_path / 'b.csv', case_id='c')
    task = make(exercise='Walk 2 m')
    record = task.read(tmp_path / 'a.csv', case_id='c')
    assert record['exercise'] == 'walk' and (
        record['segment'][record['frame_mask']] == 1).all()
    assert not caplog.text


def test_a_person_is_read_when_all_their_recordings_are_done(tmp_path, walk):
    for name in ('ada/walk.csv', 'ada/jump.csv', 'bob/walk.csv'):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        landmark_files.write_motion(path, walk)
    (tmp_path / 'eve').mkdir()  # of whom there is nothing
    entries = [(tmp_path / name, name) for name in ('ada', 'bob', 'eve')]

    def last_first(files):
        assert len(files) == 3
        return iter(sorted(files, key=lambda path: path.parts[-2:], reverse=True))

    cut = make(unit='subject').look_ahead.keywords['cut']
    found = spine_reading.look_ahead(entries, cut=cut, find_ahead=last_first)
    assert [name for _, name in found] == ['eve', 'bob', 'ada']
    # Where nothing can be done ahead they come as they are.
    for task in (make(), make(unit='subject', landmarker='jax', cache=str(tmp_path))):
        assert sorted(task.look_ahead(entries)) == entries


def test_an_accelerator_fills_the_cache_before_videos_are_read(
        tmp_path, sample_data, walk, monkeypatch):
    entries = [(tmp_path / name, name) for name in ('a', 'b', 'c', 'walk.csv')]
    for path in sorted((sample_data / 'pose/video').glob('*.mp4')):
        with videos.open_video(path, max_pixels=10**8, max_seconds=60) as video:
            folder = entries[path.stem.endswith('2')][0]
            folder.mkdir()
            for frame in itertools.islice(video, 2):
                small = cv2.resize(frame.rgb, (270, 480), interpolation=cv2.INTER_AREA)
                cv2.imwrite(str(folder / f'{frame.number}.png'), small[..., ::-1])
    (tmp_path / 'c').mkdir()  # and no video in it
    landmark_files.write_motion(tmp_path / 'walk.csv', walk)
    options = dict(
        landmarker='jax', landmark_batch=2, cache=str(tmp_path / 'cache'),
        landmark_model=str(sample_data / 'models/pose_landmarker_full.task'))
    assert list(make(**options).look_ahead(entries)) == entries
    assert not (tmp_path / 'cache').exists()  # a CPU is no faster with several
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    task = make(**options)
    found = [name for _, name in task.look_ahead(entries)]
    assert sorted(found) == ['a', 'b', 'c', 'walk.csv'] and found[0] == 'walk.csv'
    assert len(list((tmp_path / 'cache').iterdir())) == 2
    monkeypatch.setattr(videos, 'open_video', None)  # can't be called
    for path, _ in entries[:2]:
        with pytest.raises(InputError, match='too short'):
            task.read(path, case_id='c')
    wrong = make(**options | dict(landmark_sha256='0' * 64))
    with pytest.raises(ConfigError, match='expected 0000'):
        list(wrong.look_ahead(entries))


@pytest.mark.parametrize('size', [0, 257])
def test_a_call_of_the_landmarker_has_a_size(size):
    with pytest.raises(ConfigError, match='task.landmark_batch'):
        make(landmark_batch=size)


def test_a_cache_that_cannot_be_made_is_no_fault_of_a_video(tmp_path, sample_data):
    (tmp_path / 'file').write_bytes(b'')
    task = make(
        landmark_model=str(sample_data / 'models' / 'pose_landmarker_full.task'),
        cache=str(tmp_path / 'file' / 'cache'))
    video = sorted((sample_data / 'pose' / 'video').glob('*.mp4'))[0]
    with pytest.raises(ConfigError, match='cache: Not a directory'):
        task.read(video, case_id='c')
