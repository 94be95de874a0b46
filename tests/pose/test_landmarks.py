"""Landmarks of one person, cached, for any video; other inputs are named errors."""

import hashlib
import io
import json
import zipfile

import cv2
import numpy as np
import pytest

from jaxmed.data import videos
from jaxmed.errors import ConfigError, ImageError, InputError
from jaxmed.pose import landmarks

OPTIONS = dict(
    landmarker='mediapipe', sha256='', cache='', max_pixels=4 * 10**6, max_seconds=5,
    mode='video', max_people=1, batch_size=4, dtype='float32')
MAKING = {name: OPTIONS[name] for name in ('sha256', 'mode', 'max_people', 'dtype')}


@pytest.fixture
def model(sample_data):
    return sample_data / 'models/pose_landmarker_full.task'


@pytest.fixture(scope='session')
def clip(tmp_path_factory):
    """(sample data) -> the first frames of a real video, half as large, as pictures."""
    folder = tmp_path_factory.mktemp('clip')

    def make(sample_data, frames=6):
        path = sample_data / 'pose/video/pose2sim_single_cam01.mp4'
        if not list(folder.iterdir()):
            with videos.open_video(path, max_pixels=4 * 10**6, max_seconds=5) as video:
                for frame, _ in zip(video, range(frames)):
                    half = cv2.resize(
                        frame.rgb, (540, 960), interpolation=cv2.INTER_AREA)
                    cv2.imwrite(str(folder / f'{frame.number}.png'), half[..., ::-1])
        return folder

    return make


def find(source, model, **options):
    return landmarks.find_landmarks(
        source, model=model, rate_hz=60, **(OPTIONS | options))


def people(*centres_and_heights):
    """Joints [P, 33, 3]: shoulders and hips as a square, feet and nose on a line."""
    all_joints = []
    for x, y, height in centres_and_heights:
        joints = np.zeros((33, 3), np.float32)
        joints[:, 0] = x + np.linspace(-height / 4, height / 4, 33)
        joints[:, 1] = y + np.linspace(-height / 2, height / 2, 33)
        for joint, (right, down) in {
                11: (-1, -1), 12: (1, -1), 23: (-1, 1), 24: (1, 1)}.items():
            joints[joint, :2] = x + right * height / 8, y + down * height / 8
        all_joints.append(joints)
    return np.stack(all_joints) if all_joints else np.zeros((0, 33, 3), np.float32)


def test_the_largest_is_followed_when_someone_larger_comes():
    follower = landmarks._Follower()
    assert follower.choose(people((100, 100, 80), (300, 100, 100)), 0.0) == 1
    # The other one comes nearer and is larger now, and listed in another place.
    assert follower.choose(people((120, 100, 200), (310, 100, 100)), 0.1) == 1
    assert follower.choose(people((320, 100, 100), (140, 100, 300)), 0.2) == 0


def test_somebody_far_away_is_not_taken_for_the_one_followed():
    follower = landmarks._Follower()
    assert follower.choose(people((300, 100, 100)), 0.0) == 0
    assert follower.choose(people((349, 100, 100)), 0.1) == 0  # half a height
    assert follower.choose(people((400, 100, 100)), 0.2) is None
    assert follower.choose(people(), 0.3) is None
    # Within a second nobody else is taken, after it the largest.
    assert follower.choose(people((90, 100, 100)), 1.05) is None
    assert follower.choose(people((90, 100, 100), (80, 90, 110)), 1.2) == 1


def test_real_landmarks_lie_on_the_person(sample_data, model, clip):
    motion = find(clip(sample_data), model)
    assert motion.skeleton == 'blazepose' and motion.size_hw == (960, 540)
    assert motion.joints.shape == motion.world.shape == (6, 33, 3)
    assert motion.joints.dtype == motion.world.dtype == np.float32
    np.testing.assert_allclose(motion.time_s, np.arange(6) / 60)
    assert motion.visibility.min() >= 0 and motion.visibility.max() <= 1
    # Where a person standing in the first frame has these, seen on the picture:
    # pixels of 540 x 960, within 25.
    for joint, place in {0: (246, 215), 11: (257, 256), 12: (185, 245),
                         23: (230, 368), 27: (203, 545)}.items():
        np.testing.assert_allclose(motion.joints[0, joint, :2], place, atol=25)
    # Shoulders about 0.4 m apart, hips about 0: metres, and about the hips.
    assert 0.2 < np.linalg.norm(motion.world[0, 11] - motion.world[0, 12]) < 0.5
    assert np.abs(motion.world[:, [23, 24]].mean(axis=1)).max() < 0.02
    # z in the scale of x, as in its own metres; MediaPipe's is 3.7 times as deep.
    (wide, _, deep), (wide_m, _, deep_m) = (
        np.ptp(points[0], axis=0) for points in (motion.joints, motion.world))
    assert 0.7 < deep / deep_m / (wide / wide_m) < 1.3
    assert np.corrcoef(motion.joints[0, :, 2], motion.world[0, :, 2])[0, 1] > 0.98
    counts = motion.counts
    assert counts['frames'] == 6 and counts['frames_nobody'] == 0
    assert counts['model_sha256'] == hashlib.sha256(model.read_bytes()).hexdigest()
    json.dumps(counts)


def test_nothing_of_one_video_reaches_the_next(sample_data, model, clip):
    folder = clip(sample_data)
    first, second = find(folder, model), find(folder, model)
    np.testing.assert_array_equal(first.joints, second.joints)
    # In one landmarker the tracking goes on, and the smoothing with it.
    frames = [frame for frame in videos.open_video(
        folder, max_pixels=10**6, max_seconds=5, rate_hz=60)]
    later = [frame._replace(time_s=frame.time_s + 0.1) for frame in frames]
    with landmarks.make_landmarker('mediapipe', model, **MAKING) as landmarker:
        found = [pose.joints for pose in landmarker.find(frames + later)]
    np.testing.assert_allclose(found[:6], first.joints)
    assert np.abs(found[6] - found[0]).max() > 0.01


def test_how_frames_are_grouped_changes_nothing(sample_data, model, clip):
    folder = clip(sample_data)
    one, all_at_once = (find(folder, model, batch_size=size) for size in (1, 64))
    np.testing.assert_array_equal(one.joints, all_at_once.joints)


def test_frames_of_the_same_time_are_not_refused(sample_data, model, clip):
    with videos.open_video(
            clip(sample_data), max_pixels=10**6, max_seconds=5, rate_hz=1000) as video:
        frames = [frame._replace(time_s=frame.time_s / 10) for frame in video]
    with landmarks.make_landmarker('mediapipe', model, **MAKING) as landmarker:
        assert None not in landmarker.find(frames)


def test_a_person_who_leaves_is_nan_and_counted(
        sample_data, model, clip, tmp_path, capfd):
    for path in clip(sample_data).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    grey = np.full((960, 540, 3), 128, np.uint8)
    for number in (4, 5):
        cv2.imwrite(str(tmp_path / f'{number}.png'), grey)
    motion = find(tmp_path, model, mode='image')
    assert np.isnan(motion.joints[4:]).all() and np.isnan(motion.world[4:]).all()
    assert (motion.visibility[4:] == 0).all() and (motion.visibility[:4] > 0).any()
    assert np.isfinite(motion.joints[:4]).all()
    assert motion.counts['frames_nobody'] == 2
    assert capfd.readouterr() == ('', '')  # MediaPipe has nothing to tell a user


def test_two_people_are_counted_and_one_is_followed(
        sample_data, model, clip, tmp_path):
    for path in clip(sample_data).iterdir():
        frame = cv2.imread(str(path))
        small = cv2.resize(frame, None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA)
        both = np.zeros((960, 540 + 432, 3), np.uint8)
        both[:small.shape[0], :432], both[:, 432:] = small, frame
        cv2.imwrite(str(tmp_path / path.name), both)
    motion = find(tmp_path, model, max_people=2)
    assert motion.counts['frames_several_people'] >= 4
    middle = motion.joints[:, [11, 12, 23, 24], 0].mean(axis=1)
    assert (middle > 432).all()  # the larger one


def test_several_people_are_not_counted_where_nobody_looks_for_them(
        sample_data, model, clip):
    counts = find(clip(sample_data), model, max_people=1).counts
    assert 'frames_several_people' not in counts and counts['frames_nobody'] == 0
    # BlazePose in JAX asks its detector of every frame in mode 'image' only.
    for kind, mode, people, counted in (
        ('mediapipe', 'video', 2, True), ('jax', 'video', 2, False),
        ('jax', 'image', 1, True),
    ):
        with landmarks.make_landmarker(
                kind, model, **MAKING | dict(mode=mode, max_people=people)) as found:
            assert found.counts_people == counted


def test_a_cached_motion_is_the_same_and_read_without_the_video(
        sample_data, model, clip, tmp_path, monkeypatch):
    folder, cache = clip(sample_data), tmp_path / 'cache'
    first = find(folder, model, cache=cache)
    monkeypatch.setattr(videos, 'open_video', None)  # can't be called
    again = find(folder, model, cache=cache)
    for name in ('joints', 'visibility', 'world', 'time_s'):
        one, other = getattr(first, name), getattr(again, name)
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype
    assert again.size_hw == first.size_hw and again.counts == first.counts
    file, = cache.iterdir()
    assert folder.name.encode() not in file.read_bytes()


def test_what_changes_landmarks_is_found_anew(sample_data, model, clip, tmp_path):
    folder, cache = clip(sample_data), tmp_path / 'cache'
    find(folder, model, cache=cache)
    find(folder, model, cache=cache, mode='image')
    assert len(list(cache.iterdir())) == 2
    # Not by the video's name, nor by how it is grouped.
    find(folder, model, cache=cache, batch_size=6, dtype='bfloat16')
    assert len(list(cache.iterdir())) == 2
    with pytest.raises(ConfigError, match='batch_size'):
        find(folder, model, cache=cache, batch_size=0)
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='exists'):
        find(folder, model, cache=tmp_path / 'file')


def test_limits_hold_for_what_is_cached(sample_data, model, clip, tmp_path):
    folder, cache = clip(sample_data), tmp_path / 'cache'
    find(folder, model, cache=cache)
    with pytest.raises(ImageError, match='limit'):
        find(folder, model, cache=cache, max_pixels=1000)
    with pytest.raises(ImageError, match='limit'):
        find(folder, model, cache=cache, max_seconds=0.05)


def test_a_damaged_cache_is_made_anew(sample_data, model, clip, tmp_path, caplog):
    folder, cache = clip(sample_data), tmp_path / 'cache'
    first = find(folder, model, cache=cache)
    file, = cache.iterdir()
    whole = file.read_bytes()
    broken = bytearray(whole)
    broken[len(whole) // 2] ^= 0xFF
    other = io.BytesIO()
    with np.load(file) as arrays:
        np.savez(other, **(dict(arrays) | {'world': arrays['world'][1:]}))
    for content in (b'', whole[:100], whole[:-200], bytes(broken), other.getvalue()):
        file.write_bytes(content)
        caplog.clear()
        again = find(folder, model, cache=cache)
        assert 'damaged' in caplog.text
        np.testing.assert_array_equal(again.joints, first.joints)
    assert list(cache.iterdir()) == [file]
    assert landmarks._load(file) is not None


def test_nobody_in_any_frame_is_an_error(model, tmp_path):
    for number in range(3):
        cv2.imwrite(str(tmp_path / f'{number}.png'), np.full((64, 48, 3), 90, np.uint8))
    cache = tmp_path / 'cache'
    with pytest.raises(InputError, match='nobody is visible in 3 frames'):
        find(tmp_path, model, cache=cache)
    assert not list(cache.iterdir())


def test_the_jax_landmarker_sees_the_same_and_follows(sample_data, model, clip):
    folder = clip(sample_data)
    reference = find(folder, model, mode='image')
    with videos.open_video(
            folder, max_pixels=10**6, max_seconds=5, rate_hz=60) as video:
        frames = list(video)
    with landmarks.make_landmarker('jax', model, **MAKING) as landmarker:
        first, second = (landmarker.find(frames[:2]) for _ in range(2))
        assert landmarker.find([]) == []
    for number, pose in enumerate(first + second):
        apart = pose.joints[:, :2] - reference.joints[number % 2, :, :2]
        assert np.linalg.norm(apart, axis=1).mean() < 0.01 * 960
        assert pose.joints.shape == pose.world.shape == (33, 3) and pose.people == 1
    # Where the person was last seen is where it looks, and not what the detector says.
    assert np.abs(first[0].joints - second[0].joints).max() > 1e-3


def bundle(**members):
    data = io.BytesIO()
    with zipfile.ZipFile(data, 'w') as file:
        for name, content in members.items():
            file.writestr(name + '.tflite', content)
    return data.getvalue()


@pytest.mark.parametrize('kind', landmarks.KINDS)
def test_what_is_no_model_is_refused(tmp_path, kind, capfd):
    path = tmp_path / 'model.task'

    def refuse(reason, **options):
        with pytest.raises(InputError) as caught:
            landmarks.make_landmarker(kind, path, **(MAKING | options))
        message = str(caught.value)
        assert message.startswith(str(path)) and '\n' not in message
        assert reason in message, message

    refuse('No such file')
    path.write_bytes(b'')
    refuse('no .task bundle')
    path.write_bytes(b'hello ' * 100)
    refuse('no .task bundle')
    refuse('expected ' + 64 * '0', sha256=64 * '0')
    refuse(hashlib.sha256(path.read_bytes()).hexdigest(), sha256=64 * '0')
    path.write_bytes(bundle(hand_detector=b'x'))
    refuse('pose_detector.tflite is not in it')
    whole = bundle(pose_detector=b'x' * 100, pose_landmarks_detector=b'y' * 100)
    path.write_bytes(whole.replace(b'x' * 100, b'x' * 50 + b'z' * 50))
    refuse('damaged')
    path.write_bytes(whole[:-30])
    refuse('no .task bundle')
    path.write_bytes(whole)
    refuse('')  # no networks
    assert capfd.readouterr() == ('', '')


def test_a_model_with_a_flipped_byte_is_refused(model, tmp_path):
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    path = tmp_path / 'model.task'
    path.write_bytes(data)
    with pytest.raises(InputError, match='damaged'):
        landmarks.make_landmarker('mediapipe', path, **MAKING)


def test_options_are_checked(tmp_path):
    for options in (dict(kind='openpose'), dict(mode='live'), dict(max_people=0)):
        with pytest.raises(ConfigError):
            landmarks.make_landmarker(**(
                {'kind': 'mediapipe', 'model': tmp_path / 'none'} | MAKING | options))
