"""Videos side by side have the landmarks of each alone, whatever is wrong with one."""

import threading

import cv2
import jax
import numpy as np
import pytest

from jaxmed.data import videos
from jaxmed.errors import ConfigError, InputError
from jaxmed.pose import landmarks, side_by_side
from jaxmed.pose.skeletons import Motion

LIMITS = dict(max_pixels=10**6, max_seconds=5.0, rate_hz=60)
OPTIONS = dict(sha256='', cache='', dtype='float32', **LIMITS)


@pytest.fixture
def model(sample_data):
    return sample_data / 'models/pose_landmarker_full.task'


@pytest.fixture(scope='session')
def frames(tmp_path_factory):
    """(sample data) -> frames [12, 480, 270, 3] of each of two real videos, BGR."""
    read = {}

    def make(sample_data):
        for path in sorted((sample_data / 'pose/video').glob('*.mp4')):
            if path not in read:
                with videos.open_video(
                        path, max_pixels=4 * 10**6, max_seconds=5) as video:
                    read[path] = np.stack([
                        cv2.resize(frame.rgb, (270, 480), interpolation=cv2.INTER_AREA)
                        for frame, _ in zip(video, range(12))])[..., ::-1]
        return list(read.values())

    return make


def save(folder, pictures):
    folder.mkdir()
    for number, picture in enumerate(pictures):
        cv2.imwrite(str(folder / f'{number}.png'), picture)
    return folder


@pytest.fixture
def clips(sample_data, frames, tmp_path):
    """Folders of frames: unlike in length and size, one of nobody, and one no video."""
    first, second = frames(sample_data)
    grey = np.full((3, 480, 270, 3), 90, np.uint8)
    broken = tmp_path / 'broken.mp4'
    broken.write_bytes(b'....ftyp' + bytes(100))
    return [
        save(tmp_path / 'a', first[:3]), save(tmp_path / 'b', second[:6]),
        save(tmp_path / 'nobody', grey), broken,
        save(tmp_path / 'c', [grey[0], *first[6:9]]),
        save(tmp_path / 'wide', [np.hstack([frame, grey[0]]) for frame in second[:2]]),
        save(tmp_path / 'd', second[8:]),
    ]


def alone(source, model, **options):
    return landmarks.find_landmarks(
        source, model=model, landmarker='jax', mode='video', max_people=1,
        batch_size=1, **(OPTIONS | options))


def beside(sources, model, **options):
    return list(side_by_side.find_side_by_side(
        sources, model=model, **(OPTIONS | dict(at_once=2) | options)))


def agree(one, other):
    assert isinstance(one, Motion) and isinstance(other, Motion)
    for name in ('joints', 'visibility', 'world', 'time_s'):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert getattr(one, name).dtype == getattr(other, name).dtype
    assert one.counts == other.counts and one.size_hw == other.size_hw
    assert one.skeleton == other.skeleton


def test_each_has_the_landmarks_that_it_has_alone_and_a_bad_one_costs_itself(
        clips, model, tmp_path):
    cache = tmp_path / 'cache'
    kept = alone(clips[0], model, cache=cache)
    found = dict(beside(clips, model, cache=cache))
    assert set(found) == set(clips)
    agree(found[clips[0]], kept)
    for clip in clips:
        if clip.name in ('nobody', 'broken.mp4'):
            with pytest.raises(InputError) as caught:
                alone(clip, model)
            assert str(found[clip]) == str(caught.value)
        else:
            agree(found[clip], alone(clip, model))
    # What is kept of them is what find_landmarks looks for.
    assert len(list(cache.iterdir())) == 5
    before = {path: path.read_bytes() for path in cache.iterdir()}
    agree(alone(clips[-1], model, cache=cache), found[clips[-1]])
    assert {path: path.read_bytes() for path in cache.iterdir()} == before


def test_an_accelerator_is_given_a_frame_of_each_video_at_a_time(
        frames, sample_data, model, tmp_path, monkeypatch):
    first, second = frames(sample_data)
    clips = [save(tmp_path / 'a', first[:3]), save(tmp_path / 'b', second[:3])]
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    found = dict(beside(clips, model))
    for clip in clips:
        one, reference = found[clip], alone(clip, model)
        apart = np.linalg.norm((one.joints - reference.joints)[..., :2], axis=-1)
        # Rounding at first, of which what follows trembles.
        assert apart[0].max() < 0.1 and apart.max() < 0.01 * 480
        np.testing.assert_array_equal(one.time_s, reference.time_s)
        assert one.counts == reference.counts


def test_what_is_not_waited_for_is_ended(clips, model):
    before = threading.active_count()
    found = side_by_side.find_side_by_side(
        clips[2:], model=model, at_once=1, **OPTIONS)
    source, error = next(found)
    assert source.name == 'nobody' and 'nobody is visible in 3' in error.reason
    assert threading.active_count() > before
    found.close()
    assert threading.active_count() <= before


def test_what_is_no_videos_fault_is_told_at_once(clips, model, tmp_path):
    wrong = tmp_path / 'wrong.task'
    wrong.write_bytes(b'no bundle')
    for refused, options in (
        (InputError, dict(model=wrong)), (ConfigError, dict(at_once=0)),
        (InputError, dict(cache=wrong)),
    ):
        with pytest.raises(refused):
            beside(clips, **(dict(model=model) | options))
    assert beside([], model) == []
