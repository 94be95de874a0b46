"""launch.live as a user runs it: a video in, a video with index and latencies out."""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from jaxmed import runs
from jaxmed.data.phantoms import stick_figures, walkers
from tests.commands import finish, run, start
from tests.videos import read_frames

TINY = (
    '--config=configs/spine_health_lstm.py', '--config.task.frames=20',
    '--config.task.stride=20', '--config.task.rate_hz=10.0',
    '--config.task.min_visibility=0.3',
    *(f'--config.task.model.{name}={value}' for name, value in dict(
        embedding=6, hidden=6, dense=6).items()),
    '--config.train.epochs=1', '--config.train.steps_per_epoch=1',
    '--config.train.batch_size=8',
    '--config.data.phantoms=75', '--config.data.phantom_splits=(0.4,0.4,0.2)',
    '--config.evaluate.resamples=5',
)
RATE_HZ, SIZE = 10.0, 240


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('live') / 'run'
    code, text = run('train', *TINY, f'--workdir={workdir}')
    assert code == 0, text
    assert runs.read_calibration(workdir)['width'] > 0
    return workdir


@pytest.fixture(scope='module')
def bundle():
    folder = os.environ.get('JAXMED_SAMPLE_DATA')
    if not folder:
        pytest.skip('JAXMED_SAMPLE_DATA is unset: no landmark model')
    return Path(folder) / 'models' / 'pose_landmarker_full.task'


@pytest.fixture(scope='module')
def video(tmp_path_factory):
    """A drawn walk of about five seconds."""
    path = tmp_path_factory.mktemp('videos') / 'walk.mp4'
    (walk,) = walkers.subjects(count=1, seed=0, exercises=('walk',))
    joints = stick_figures.write_video(
        path, walk.motion, rate_hz=RATE_HZ, size_hw=(SIZE, SIZE), seed=0)
    return path, len(joints)


def live(workdir, *flags):
    return run('live', f'--workdir={workdir}', *flags)


def told(text):
    """name -> what follows it, of the lines that sum up."""
    return dict(line.split(': ', 1) for line in text.splitlines() if ': ' in line)


def test_a_video_is_shown_as_it_plays_and_latencies_are_told(
    trained, bundle, video, tmp_path
):
    path, frames = video
    output = tmp_path / 'seen.mp4'
    code, text = live(
        trained, f'--input={path}', f'--output={output}', f'--rate_hz={RATE_HZ}',
        f'--task=landmark_model={bundle},exercise=walk', '--height=200')
    assert code == 0, text
    summary = told(text)
    # Every frame is looked at, or dropped for being late.
    seen, dropped = int(summary['frames']), int(summary['frames_dropped'])
    assert seen + dropped == int(summary['frames_captured']) == frames and seen > 10
    assert 0 < int(summary['frames_held_most']) <= int(summary['frames_held_limit'])
    assert summary['frames_held_limit'] == '40'  # 20 frames, 2 buckets
    assert int(summary['windows_scored']) > 0
    for stage in ('capture', 'landmarks', 'window', 'score', 'draw', 'total'):
        (line,) = [line for line in text.splitlines() if line.startswith(f'{stage} ')]
        for name in ('median_ms', 'p95_ms', 'p99_ms'):
            assert float(line.split(f'{name} ')[1].split()[0]) >= 0
    pictures = read_frames(output)
    # As long as it played; smaller than it came.
    assert len(pictures) == pytest.approx(frames, abs=3)
    assert pictures[0].shape == (200, 200, 3)
    originals = read_frames(path)
    drawn = np.abs(pictures[-1].astype(int) - cv2.resize(originals[-1], (200, 200)))
    assert (drawn.max(axis=-1) > 80).mean() > 0.02  # skeleton and panel
    assert 'Traceback' not in text


def test_a_looped_video_ends_after_the_seconds_asked_for(
    trained, bundle, video, tmp_path
):
    output = tmp_path / 'seen.mp4'
    code, text = live(
        trained, f'--input={video[0]}', f'--output={output}', '--loop', '--seconds=6.5',
        '--rate_hz=5', '--buckets=3', '--smoothing_s=0', '--stride_s=0.5',
        f'--task=landmark_model={bundle}')
    assert code == 0, text
    assert told(text)['frames_held_limit'] == '60'
    assert 6.0 < float(told(text)['seconds']) < 12
    assert len(read_frames(output)) == pytest.approx(6.5 * 5, abs=3)


def test_a_folder_of_frames_plays_at_the_rate_of_its_source(
    trained, bundle, video, tmp_path
):
    folder, output = tmp_path / 'walk', tmp_path / 'seen.mp4'
    folder.mkdir()
    for number, frame in enumerate(read_frames(video[0])[:13]):
        cv2.imwrite(str(folder / f'{number}.png'), frame)
    code, text = live(
        trained, f'--input={folder}', f'--output={output}', f'--rate_hz={RATE_HZ}',
        f'--task=landmark_model={bundle},source_hz=4')
    assert code == 0, text
    # 3 s and not the 1.2 s of the window's 10 frames a second.
    assert len(read_frames(output)) == pytest.approx(3 * RATE_HZ, abs=5)


def test_ctrl_c_ends_it_with_a_whole_video_and_its_summary(
    trained, bundle, video, tmp_path
):
    output = tmp_path / 'seen.mp4'
    process = start(
        'live', f'--workdir={trained}', f'--input={video[0]}', f'--output={output}',
        '--loop', f'--task=landmark_model={bundle}')
    until = time.monotonic() + 120
    # The video is there under another name from its beginning.
    while not any(path.stat().st_size for path in tmp_path.glob('.*.mp4')):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    text = finish(process, seconds=60)
    assert process.returncode == 0, text
    assert int(told(text)['frames']) > 0 and 'Traceback' not in text
    assert len(read_frames(output)) > 0
    assert list(tmp_path.iterdir()) == [output]


# What can't be shown.

def copy_run(trained, folder, *changes):
    """A run with other texts in its config."""
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns('records', 'report'))
    path = folder / 'config.json'
    text = path.read_text()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    path.write_text(text)
    return folder


def fails(code, text, line):
    last = text.splitlines()[-1]
    assert code == 2 and last.startswith(f'error: {line}'), text
    assert 'Traceback' not in text


@pytest.mark.parametrize('change, words', [
    (('"span": "window"', '"span": "whole"'), 'task.span: a live index needs a model '),
    (('"unit": "video"', '"unit": "subject"'), 'task.span: a live index needs '),
], ids=['whole', 'subject'])
def test_a_model_of_something_else_than_windows_is_refused(
    trained, tmp_path, change, words
):
    workdir = copy_run(trained, tmp_path / 'run', change)
    fails(*live(workdir, '--input=0', '--output=x.mp4'), words)


def test_what_is_no_run_is_refused(tmp_path):
    fails(*live(tmp_path, '--input=0'), f'{tmp_path}: not a run folder')


def test_videos_need_a_landmark_model_that_is_one(trained, video, tmp_path):
    output = tmp_path / 'seen.mp4'
    flags = (f'--input={video[0]}', f'--output={output}')
    fails(*live(trained, *flags), 'task.landmark_model: name a .task bundle')
    (tmp_path / 'no.task').write_text('no model')
    fails(*live(trained, *flags, f'--task=landmark_model={tmp_path}/no.task'),
          f'{tmp_path}/no.task: no .task bundle, or a damaged one')
    assert not output.exists()


def test_what_gives_no_pictures_is_named(trained, tmp_path):
    output = tmp_path / 'seen.mp4'
    # The input is opened before the model: any name will do.
    flags = (f'--output={output}', '--task=landmark_model=none.task')
    (tmp_path / 'a.mp4').write_text('no video')
    for name, words in (
        ('987', '987: no such camera, or it is in use'),
        (f'{tmp_path}/a.mp4', f'{tmp_path}/a.mp4: not a video'),
        (f'{tmp_path}/b.mp4', f'{tmp_path}/b.mp4: No such file'),
    ):
        fails(*live(trained, f'--input={name}', *flags), words)
    fails(*live(trained, '--input=987', '--loop', *flags),
          '--loop: does not go with a camera')
    # Not a number to open a camera by, though digits: a file that is absent.
    fails(*live(trained, '--input=\u0663', '--loop', *flags), '\u0663: No such file')
    assert not output.exists()


def test_a_video_is_not_written_over_itself(trained, tmp_path):
    path, link = tmp_path / 'walk.mp4', tmp_path / 'seen.mp4'
    path.write_bytes(b'a video')
    link.symlink_to(path)
    # Before the model, which is none, and the video.
    for output in (path, f'{tmp_path}/../{tmp_path.name}/walk.mp4', link):
        fails(*live(trained, f'--input={path}', f'--output={output}',
                    '--task=landmark_model=none.task'),
              f'--output: {output} is the --input')
    assert path.read_bytes() == b'a video'


@pytest.mark.skipif(
    not sys.platform.startswith('linux') or bool(
        os.environ.get('DISPLAY') or os.environ.get('WAYLAND_DISPLAY')),
    reason='there is a screen, or may be one')
def test_without_a_screen_an_output_is_asked_for(trained, bundle, video):
    fails(*live(trained, f'--input={video[0]}', f'--task=landmark_model={bundle}'),
          '--output: there is no screen: name a video with --output')


@pytest.mark.parametrize('flag, words', [
    ('--output=seen.avi', 'seen.avi: annotated videos are written as .mp4'),
    ('--buckets=1', 'buckets: 1 is below 2'), ('--seconds=-1', 'flags: '),
])
def test_flags_out_of_range_are_named(trained, bundle, video, tmp_path, flag, words):
    fails(*live(trained, f'--input={video[0]}', f'--output={tmp_path}/seen.mp4',
                f'--task=landmark_model={bundle}', flag), words)
    assert not list(tmp_path.iterdir())
