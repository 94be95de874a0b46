"""A file that is no video, or ends its decoder, is a named error and leaves nothing."""

import os
import threading

import pytest

from jaxmed.data import video_decoder, videos
from jaxmed.errors import ImageError
from tests.data.films import LIMITS, read, refuse


def test_a_damaged_video_prints_nothing(film, capfd):
    path = film()
    content = bytearray(path.read_bytes())
    content[content.index(b'mdat') + 500::50] = b'\xff' * len(
        content[content.index(b'mdat') + 500::50])
    path.write_bytes(content)
    try:
        read(path)
    except ImageError:
        pass
    assert capfd.readouterr() == ('', '')


def test_a_camera_that_is_not_there_is_an_error():
    refuse('97', 'no such camera')
    refuse(97, 'no such camera')


def test_a_file_without_its_index_is_an_error(film):
    path = film()
    path.write_bytes(path.read_bytes()[:800])
    refuse(path, 'damaged or truncated')


def test_what_is_no_video_is_refused(tmp_path, capfd):
    path = tmp_path / 'film.mp4'
    refuse(path, 'No such file')
    path.write_bytes(b'')
    refuse(path, 'empty file')
    path.write_text('subject,exercise,video,rating\n' * 50)
    refuse(path, 'not a video')
    # A playlist: FFmpeg would open what it names.
    path.write_text('#EXTM3U\n#EXTINF:1,\n/etc/hostname\n#EXT-X-ENDLIST\n')
    refuse(path, 'not a video')
    path.write_bytes(b'\0\0\0\x1cftypisom' + bytes(range(256)) * 4)
    refuse(path, 'damaged or truncated')
    pipe = tmp_path / 'pipe.mp4'
    os.mkfifo(pipe)
    refuse(pipe, 'not a file')
    assert capfd.readouterr() == ('', '')


def test_any_name_will_do(film):
    path = film()
    odd = os.fsencode(path.parent) + b'/http:caf\xe9 %03d.mp4'
    os.rename(path, odd)
    assert len(read(os.fsdecode(odd))[0]) == 20


def test_a_decoder_that_needs_too_much_memory_is_an_error(film, monkeypatch):
    monkeypatch.setattr(video_decoder, '_PLAIN_BYTES', 1 << 20)
    monkeypatch.setattr(video_decoder, '_BYTES_PER_PIXEL', 0)
    refuse(film(), 'film.mp4: ')


def test_a_decoder_that_dies_is_an_error(film):
    path = film(frames=200)
    with videos.open_video(path, **LIMITS) as video:
        frames = iter(video)
        next(frames)
        video._stream._process.kill()
        with pytest.raises(ImageError, match=r'crashed \(SIGKILL\)'):
            list(frames)


def test_a_decoder_that_ends_before_its_first_frame_is_asked_for_tells_why(
    film, monkeypatch
):
    path = film('film.avi')
    content = bytearray(path.read_bytes())
    first = content.index(b'movi') + 4
    end = content.index(b'idx1', first)
    content[first:end] = bytes(end - first)  # it opens, and holds no picture
    path.write_bytes(content)
    read_header = video_decoder.Decoder._read_header

    def wait_for_its_end(self, max_pixels):
        read_header(self, max_pixels)
        assert self._process.wait(60) == 0

    monkeypatch.setattr(video_decoder.Decoder, '_read_header', wait_for_its_end)
    refuse(path, 'no frame that can be decoded')


def test_a_decoder_that_hangs_is_an_error(film, monkeypatch):
    monkeypatch.setattr(video_decoder, '_FRAME_S', 0.2)
    with videos.open_video(film(frames=200), **LIMITS) as video:
        frames = iter(video)
        next(frames)
        os.kill(video._stream._process.pid, 19)  # SIGSTOP
        with pytest.raises(ImageError, match='hangs'):
            list(frames)


def test_nothing_is_left_behind(film):
    path = film()
    read(path)
    before, threads = os.listdir('/proc/self/fd'), threading.active_count()
    with videos.open_video(path, **LIMITS) as video:
        next(iter(video))
        process = video._stream._process
    assert process.returncode is not None
    with videos.open_video(path, **LIMITS, loop=True) as video:
        next(iter(video))
    assert threading.active_count() == threads
    assert len(os.listdir('/proc/self/fd')) == len(before)
