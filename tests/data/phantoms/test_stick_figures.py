"""Videos of drawn people: what is in them, and that they are found in them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxmed.data.phantoms import stick_figures, walkers
from jaxmed.errors import ConfigError, InputError
from jaxmed.pose.skeletons import KINECT
from tests.data.phantoms.people import draw
from tests.videos import read_frames


def test_a_video_has_the_frames_and_landmarks_it_says(tmp_path):
    _, motion = draw('jump')
    joints = stick_figures.write_video(
        tmp_path / 'a.mp4', motion, rate_hz=10.0, size_hw=(240, 320), seed=1)
    frames = read_frames(tmp_path / 'a.mp4')
    assert len(frames) == len(joints) == int(motion.time_s[-1] * 10 + 0.01) + 1
    assert frames[0].shape == (240, 320, 3)
    # Scaled to the smaller side and centred.
    factor = min(240 / motion.size_hw[0], 320 / motion.size_hw[1])
    side = (320 - factor * motion.size_hw[1]) / 2
    np.testing.assert_allclose(
        joints[0, :, 0], motion.joints[0, :, 0] * factor + side, rtol=1e-4)
    # The trunk differs from the wall beside the person.
    trunk = joints[0, [11, 12, 23, 24], :2].mean(axis=0).astype(int)
    wall = frames[0][trunk[1], 2]
    assert np.abs(frames[0][trunk[1], trunk[0]].astype(int) - wall).max() > 30


def test_the_same_seed_gives_the_same_video_and_another_other_clothes(tmp_path):
    _, motion = draw('walk')
    pictures = []
    for name, seed in (('a', 1), ('b', 1), ('c', 2)):
        path = tmp_path / f'{name}.mp4'
        stick_figures.write_video(
            path, motion, rate_hz=2.0, size_hw=(120, 160), seed=seed)
        pictures.append(np.stack(read_frames(path)))
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert np.abs(pictures[0].astype(int) - pictures[2]).mean() > 2


def test_moments_between_frames_are_interpolated_and_gaps_stay_gaps(tmp_path):
    joints = np.zeros((4, 33, 3), np.float32)
    joints[:, :, 0] = np.array([10, 20, np.nan, 40])[:, None]
    motion = draw('walk')[1]._replace(
        joints=joints, time_s=np.array([0.0, 0.2, 0.4, 0.6]), size_hw=(100, 100))
    placed = stick_figures.place_motion(
        motion, rate_hz=10.0, size_hw=(200, 200), where='x')
    np.testing.assert_allclose(
        placed[:, 0, 0], [20, 30, 40, np.nan, np.nan, np.nan, 80], rtol=1e-5)


def test_what_cannot_be_drawn_is_refused_by_name(tmp_path):
    _, motion = draw('walk')
    options = dict(rate_hz=10.0, size_hw=(120, 160), seed=0)
    for bad in (motion._replace(skeleton=KINECT.name), motion._replace(size_hw=None)):
        with pytest.raises(InputError, match='a.mp4: only BlazePose'):
            stick_figures.write_video(tmp_path / 'a.mp4', bad, **options)
    with pytest.raises(ConfigError, match='size_hw'):
        stick_figures.write_video(
            tmp_path / 'a.mp4', motion, **options | {'size_hw': (121, 160)})
    with pytest.raises(ConfigError, match='rate_hz'):
        stick_figures.write_video(
            tmp_path / 'a.mp4', motion, **options | {'rate_hz': 0.0})
    with pytest.raises(ConfigError, match='b.avi: '):
        stick_figures.write_video(tmp_path / 'b.avi', motion, **options)
    assert not list(tmp_path.iterdir())
    (tmp_path / 'file').write_bytes(b'')
    with pytest.raises(InputError, match="b.mp4: can't be written"):
        stick_figures.write_video(tmp_path / 'file' / 'b.mp4', motion, **options)


def test_a_video_that_the_disk_does_not_hold_leaves_what_was_there(tmp_path):
    path = tmp_path / 'new' / 'walk.mp4'
    _, motion = draw('walk')
    options = dict(rate_hz=10.0, size_hw=(240, 320), seed=0)
    stick_figures.write_video(path, motion, **options)  # its folder is made
    before = path.read_bytes()
    code = '''
import resource, signal, sys
from jaxmed.data.phantoms import stick_figures
from jaxmed.errors import InputError
from tests.data.phantoms.people import draw
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
try:
    stick_figures.write_video(
        sys.argv[1], draw('jump')[1], rate_hz=10.0, size_hw=(240, 320), seed=1)
except InputError as error:
    sys.exit(0 if 'is the disk full?' in str(error) else 3)
sys.exit(2)
'''
    done = subprocess.run(
        [sys.executable, '-c', code, path], capture_output=True, timeout=60,
        cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == ['walk.mp4']


@pytest.mark.skipif(
    'JAXMED_SAMPLE_DATA' not in os.environ, reason='JAXMED_SAMPLE_DATA is unset')
def test_mediapipe_finds_the_drawn_person_where_he_is(tmp_path):
    mediapipe = pytest.importorskip('mediapipe')
    from mediapipe.tasks.python import BaseOptions, vision
    model = Path(os.environ['JAXMED_SAMPLE_DATA']) / 'models/pose_landmarker_full.task'
    options = vision.PoseLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=str(model)),
        running_mode=vision.RunningMode.IMAGE)
    found, errors = [], []
    with vision.PoseLandmarker.create_from_options(options) as landmarker:
        for seed, exercise in enumerate(walkers.EXERCISES):
            _, motion = draw(exercise, seed=seed, number=seed)
            path = tmp_path / f'{exercise}.mp4'
            joints = stick_figures.write_video(
                path, motion, rate_hz=2.0, size_hw=(480, 480), seed=seed)
            height_px = stick_figures.measure(joints)
            for number, frame in enumerate(read_frames(path)):
                image = mediapipe.Image(
                    image_format=mediapipe.ImageFormat.SRGB,
                    data=frame)
                poses = landmarker.detect(image).pose_landmarks
                found.append(bool(poses))
                for pose in poses:
                    places = np.array([[p.x * 480, p.y * 480] for p in pose])
                    away = np.linalg.norm(places - joints[number, :, :2], axis=1)
                    errors.append(away / height_px[number])
    assert np.mean(found) > 0.85
    assert np.median(errors) < 0.025  # of the height
