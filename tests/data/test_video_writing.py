"""Written videos are whole, or not there at all."""

import resource
import subprocess
import sys

import numpy as np
import pytest

from jaxmed.data.video_writing import pace, write_video
from jaxmed.errors import InputError
from tests.videos import read_video

COLOURS = [(200, 40, 40), (40, 180, 40), (40, 60, 210)]


def frames(size_hw):
    for colour in COLOURS:
        yield np.full((*size_hw, 3), colour, np.uint8)


def paced(times_s, rate_hz=10.0):
    return list(pace(
        zip(times_s, range(len(times_s))), rate_hz=rate_hz))


def test_pictures_of_any_times_are_shown_at_their_pace():
    assert paced([]) == [] and paced([7.0]) == [0]
    even = np.arange(50) / 10 + 3
    assert paced(even) == list(range(50))
    # Stamps that are rounded to milliseconds, or late by less than half a picture.
    assert paced(np.round(np.arange(50) / 29.97, 3), 29.97) == list(range(50))
    # 0, 0.1 and 0.5 s: the second stays until the third comes.
    assert paced([0.0, 0.1, 0.5]) == [0, 1, 1, 1, 1, 2]
    assert paced([0.0, 0.01, 0.02, 0.1, 0.12]) == [0, 3]
    assert paced(np.arange(41) / 40) == [0, *range(2, 41, 4)]


def test_of_a_long_silence_ten_seconds_are_shown():
    found = paced([0.0, 3600.0, 3600.1, 3600.2])
    assert found == [0] * 100 + [1, 2, 3]


def test_a_written_video_reads_back_in_order_at_its_rate_with_even_sides(tmp_path):
    path = tmp_path / 'new' / 'walk.mp4'
    assert write_video(path, frames((45, 63)), rate_hz=12.5) == 3
    rate_hz, pictures = read_video(path)
    assert rate_hz == pytest.approx(12.5)
    assert np.shape(pictures) == (3, 46, 64, 3)
    np.testing.assert_allclose(np.mean(pictures, axis=(1, 2)), COLOURS, atol=10)
    assert [each.name for each in path.parent.iterdir()] == ['walk.mp4']


@pytest.mark.parametrize('rate_hz', [
    0.1, 1000 / 38, 29.97, 64.9996, 1000 / 9, 119.873, 1000 / 7, 654.9996, 999.99])
def test_any_measured_rate_is_one_that_a_video_can_have(tmp_path, rate_hz):
    write_video(tmp_path / 'walk.mp4', frames((48, 64)), rate_hz=rate_hz)
    told_hz, pictures = read_video(tmp_path / 'walk.mp4')
    assert told_hz == pytest.approx(rate_hz, abs=0.051 if rate_hz > 655 else 0.0051)
    assert len(pictures) == 3


def test_a_video_that_fails_midway_leaves_what_was_there(tmp_path):
    path = tmp_path / 'walk.mp4'
    path.write_bytes(b'before')

    def failing():
        yield from frames((48, 64))
        raise InputError('camera', 'is gone')

    with pytest.raises(InputError, match='is gone'):
        write_video(path, failing(), rate_hz=30)
    assert path.read_bytes() == b'before'
    assert list(tmp_path.iterdir()) == [path]


def test_what_can_not_be_a_video_is_refused_in_one_line(tmp_path):
    (tmp_path / 'file').write_bytes(b'')
    (tmp_path / 'folder.mp4').mkdir()

    def two_sizes():
        yield from frames((48, 64))
        yield from frames((48, 66))

    for name, pictures, rate_hz, reason in (
        ('walk.avi', frames((48, 64)), 30, 'mp4'),
        ('walk.mp4', frames((48, 64)), 0, 'rate_hz'),
        ('walk.mp4', frames((48, 64)), float('nan'), 'rate_hz'),
        ('walk.mp4', iter(()), 30, 'no pictures'),
        ('walk.mp4', two_sizes(), 30, 'pictures of'),
        ('file/walk.mp4', frames((48, 64)), 30, "can't be written"),
        ('folder.mp4', frames((48, 64)), 30, 'is a folder'),
    ):
        with pytest.raises(InputError, match=reason) as told:
            write_video(tmp_path / name, pictures, rate_hz=rate_hz)
        assert '\n' not in str(told.value)
    assert sorted(each.name for each in tmp_path.iterdir()) == ['file', 'folder.mp4']


def test_a_full_disk_is_an_error_and_leaves_no_video(tmp_path):
    code = '''
import sys, numpy as np
from jaxmed.data.video_writing import write_video
from jaxmed.errors import InputError
noise = np.random.default_rng(0).integers(0, 255, (20, 240, 320, 3), dtype=np.uint8)
try:
    write_video(sys.argv[1], noise, rate_hz=30)
except InputError as error:
    print(error)
'''
    limit = 64 << 10  # bytes of a file: noise needs more

    done = subprocess.run(
        [sys.executable, '-c', code, str(tmp_path / 'walk.mp4')], text=True, timeout=60,
        capture_output=True, preexec_fn=lambda: resource.setrlimit(
            resource.RLIMIT_FSIZE, (limit, limit)))
    assert 'could be written' in done.stdout, done
    assert not list(tmp_path.iterdir())
