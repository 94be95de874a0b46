"""A folder of pictures is a video, in the order of their numbers."""

import numpy as np
import pytest

from tests.data.films import number_of, picture, read, refuse


def test_frames_of_a_folder_are_ordered_by_their_numbers(folder):
    path = folder('b1 frame2.png', 'b1 frame10.png', 'b1 frame011.png', 'b2 frame1.png')
    (path / 'notes.txt').write_text('no frame')
    (path / '.hidden.png').write_text('no frame')
    frames, video = read(path, rate_hz=10)
    assert [number_of(frame.rgb) for frame in frames] == [0, 1, 2, 3]
    np.testing.assert_allclose([f.time_s for f in frames], [0, 0.1, 0.2, 0.3])
    assert (frames[0].rgb == picture(0)).all()
    assert video.counts['rate_hz'] == pytest.approx(10)


def test_folders_are_refused_for_what_they_lack(folder, tmp_path):
    path = folder('1.png', '2.png', '3.png')
    refuse(path, 'None frames a second')
    refuse(path, '3.0 s, limit 2 s', rate_hz=1, max_seconds=2)
    refuse(path, 'pixels, limit', rate_hz=1, max_pixels=100)
    (tmp_path / 'empty').mkdir()
    refuse(tmp_path / 'empty', 'no frames', rate_hz=10)


def test_a_folder_of_pictures_of_two_sizes_is_refused(folder):
    path = folder('1.png', '2.png', pictures=[picture(0), picture(1)[:, :32]])
    refuse(path, '32 x 48 pixels in a video of 64 x 48', rate_hz=10)


def test_a_damaged_picture_of_a_folder_is_left_out(folder):
    path = folder('1.png', '2.png', '3.png')
    (path / '2.png').write_bytes((path / '2.png').read_bytes()[:60])
    frames, video = read(path, rate_hz=10)
    np.testing.assert_allclose([frame.time_s for frame in frames], [0, 0.2])
    assert video.counts['frames_undecodable'] == 1
    for name in ('1.png', '3.png'):
        (path / name).write_bytes(b'GIF89a')
    refuse(path, 'not a JPEG', rate_hz=10)
