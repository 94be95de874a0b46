"""What was seen is written whole, however it ends."""

import os
import signal

import pytest

from jaxmed.errors import ConfigError, InputError
from jaxmed.pose import player
from jaxmed.pose.skeletons import BLAZEPOSE
from tests.pose.moving_dot import make_frames, make_live
from tests.videos import read_frames


def play(system, source, output, **options):
    return player.play(system, source, **dict(
        name='video', realtime=False, endless=False, output=output,
        output_rate_hz=30.0) | options)


def test_a_written_video_is_as_long_as_what_was_seen(tmp_path):
    # 20 frames at 10 Hz: the last is seen 1.9 s after the first.
    told = play(make_live(), make_frames(20, rate_hz=10.0), tmp_path / 'slow.mp4')
    assert told['frames'] == 20
    assert len(read_frames(tmp_path / 'slow.mp4')) == 58
    play(make_live(), make_frames(61, rate_hz=120.0), tmp_path / 'fast.mp4')
    assert len(read_frames(tmp_path / 'fast.mp4')) == 16


def test_what_was_seen_before_a_camera_vanished_is_written(tmp_path):
    with pytest.raises(InputError, match='no more pictures'):
        play(make_live(), make_frames(12), tmp_path / 'seen.mp4', endless=True)
    assert len(read_frames(tmp_path / 'seen.mp4')) == 12

    def gone():
        raise InputError('camera', 'no such camera')
        yield

    with pytest.raises(InputError, match='no such camera'):
        play(make_live(), gone(), tmp_path / 'nothing.mp4', endless=True)
    assert [path.name for path in tmp_path.iterdir()] == ['seen.mp4']


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM], ids=['INT', 'TERM'])
def test_a_signal_ends_it_with_a_whole_video(tmp_path, number):
    def interrupted():
        for frame in make_frames(10_000):
            if frame.number == 20:
                os.kill(os.getpid(), number)
            yield frame

    before = signal.getsignal(number)
    told = play(make_live(), interrupted(), tmp_path / 'cut.mp4')
    assert 10 <= told['frames'] < 60
    assert len(read_frames(tmp_path / 'cut.mp4')) == told['frames']
    assert signal.getsignal(number) is before


def test_without_a_screen_a_window_is_refused_before_anything_is_read(monkeypatch):
    monkeypatch.delenv('DISPLAY', raising=False)
    monkeypatch.delenv('WAYLAND_DISPLAY', raising=False)
    monkeypatch.setattr('sys.platform', 'linux')
    source = make_frames(10)
    with pytest.raises(ConfigError, match='--output'):
        play(make_live(), source, None)
    assert next(source).number == 0


def test_a_screen_that_does_not_answer_is_refused(monkeypatch):
    monkeypatch.setenv('DISPLAY', ':987')
    monkeypatch.delenv('WAYLAND_DISPLAY', raising=False)
    with pytest.raises(ConfigError, match='--output'):
        player.check_screen()


def test_the_skeleton_of_a_real_video_stays_on_the_person(sample_data, tmp_path):
    from jaxmed.data import videos
    from jaxmed.pose import landmarks

    recording = sample_data / 'pose' / 'video' / 'pose2sim_single_cam01.mp4'
    bundle = sample_data / 'models' / 'pose_landmarker_full.task'
    windows = []

    def score(inputs, frame_mask):
        windows.append(inputs[frame_mask])
        return 0.3, 0.2, 0.4

    with (
        videos.open_video(recording, max_pixels=1 << 22, max_seconds=10) as video,
        landmarks.make_landmarker(
            'mediapipe', bundle, sha256='', mode='video', max_people=1, dtype='float32',
        ) as landmarker,
    ):
        system = make_live(landmarker, score, frames=15, max_height=640)
        told = play(system, video, tmp_path / 'seen.mp4', seconds=0.6)
    assert told['frames_nobody'] == 0 and told['windows_scored'] > 0
    # In the first 0.6 s the person is in the middle third of 1080 x 1920 pixels.
    hips = windows[1][:, list(BLAZEPOSE.hips)]
    assert (300 < hips[..., 0]).all() and (hips[..., 0] < 560).all()
    assert (600 < hips[..., 1]).all() and (hips[..., 1] < 900).all()
    assert read_frames(tmp_path / 'seen.mp4')[0].shape[0] == 640
