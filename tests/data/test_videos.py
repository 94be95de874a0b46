"""A video is upright frames with time stamps; limits hold, whatever a header says."""

import struct
from pathlib import Path

import numpy as np
import pytest

from jaxmed.data import videos
from jaxmed.errors import ImageError
from tests.data.films import (
    HEIGHT,
    LIMITS,
    RATE_HZ,
    WIDTH,
    number_of,
    picture,
    read,
    refuse,
)

# Of a display matrix (tkhd): how a decoded frame is turned to be upright, and how
# np.rot90 does the same.
TURNS = {
    90: ((0, 1, 0, -1, 0, 0, HEIGHT, 0), -1),
    180: ((-1, 0, 0, 0, -1, 0, WIDTH, HEIGHT), 2),
    270: ((0, -1, 0, 1, 0, 0, 0, WIDTH), 1),
}


def patch(path, name, offset, data):
    """Overwrites bytes of the first box `name` of an MP4, behind the name."""
    content = bytearray(path.read_bytes())
    place = content.index(name) + 4 + offset
    content[place:place + len(data)] = data
    path.write_bytes(content)


def vary_rate(path, runs):
    """Gives an MP4 other frame durations: (frames, ticks of 1/12800 s) each."""
    content = path.read_bytes()
    place = content.index(b'stts') - 4
    size, = struct.unpack_from('>I', content, place)
    table = b'stts' + struct.pack('>2I', 0, len(runs)) + b''.join(
        struct.pack('>2I', *run) for run in runs)
    table = struct.pack('>I', len(table) + 4) + table
    longer = len(table) - size
    content = bytearray(content[:place] + table + content[place + size:])
    for name in (b'moov', b'trak', b'mdia', b'minf', b'stbl'):
        start = content.index(name) - 4
        struct.pack_into(
            '>I', content, start, struct.unpack_from('>I', content, start)[0] + longer)
    path.write_bytes(content)
    ticks = sum(frames * duration for frames, duration in runs)
    patch(path, b'elst', 8, struct.pack('>I', ticks * 1000 // 12800))


def test_a_video_is_rgb_frames_with_time_stamps(film):
    frames, video = read(film())
    assert (video.size_hw, video.rate_hz) == ((HEIGHT, WIDTH), RATE_HZ)
    assert [frame.number for frame in frames] == list(range(20))
    assert [number_of(frame.rgb) for frame in frames] == list(range(20))
    np.testing.assert_allclose([f.time_s for f in frames], np.arange(20) / RATE_HZ)
    rgb = frames[3].rgb
    assert rgb.dtype == np.uint8 and rgb.flags.c_contiguous and rgb.flags.owndata
    red, green, blue = rgb[4:12, 4:12].mean(axis=(0, 1))
    assert red > 200 and green < 60 and blue < 60
    assert video.counts == {
        'frames': 20, 'frames_dropped': 0, 'frames_undecodable': 0,
        'time_stamps_mended': 0, 'rate_hz': pytest.approx(RATE_HZ),
        'seconds': pytest.approx(19 / RATE_HZ), 'width_px': WIDTH, 'height_px': HEIGHT}


@pytest.mark.parametrize('degrees', TURNS)
def test_rotation_of_the_file_is_applied(film, degrees):
    path = film(frames=2)
    matrix, turn = TURNS[degrees]
    patch(path, b'tkhd', 40, struct.pack(
        '>9i', *(value << 16 for value in matrix), 1 << 30))
    frames, video = read(path)
    expected = np.rot90(picture(1), turn)
    assert video.size_hw == frames[1].rgb.shape[:2] == expected.shape[:2]
    assert np.abs(frames[1].rgb.astype(int) - expected).mean() < 12


def test_a_variable_rate_is_kept(film):
    path = film(frames=20)
    vary_rate(path, [(10, 512), (10, 1024)])  # 40 ms, then 80 ms
    frames, video = read(path)
    expected = np.cumsum([0] + [0.04] * 10 + [0.08] * 9)
    np.testing.assert_allclose([f.time_s for f in frames], expected, atol=1e-3)
    assert video.counts['rate_hz'] == pytest.approx(19 / expected[-1], rel=1e-3)


def test_frames_that_time_stamps_lack_are_counted(film):
    path = film(frames=20)
    vary_rate(path, [(8, 512), (1, 3 * 512), (11, 512)])  # two are missing
    assert read(path)[1].counts['frames_dropped'] == 2


def test_stamps_that_begin_again_are_mended(film, tmp_path):
    part = film('part.mpg').read_bytes()
    path = tmp_path / 'twice.mpg'
    path.write_bytes(part + part)
    frames, video = read(path)
    times = np.array([frame.time_s for frame in frames])
    assert len(frames) > 30 and video.counts['time_stamps_mended'] > 10
    np.testing.assert_allclose(np.diff(times), 1 / RATE_HZ, atol=1e-3)


def test_frames_that_lie_in_a_damaged_place_are_counted_and_left_out(film, caplog):
    path = film('film.avi', frames=20)
    content = bytearray(path.read_bytes())
    first = content.index(b'movi')
    chunks = [i for i in range(first, len(content)) if content[i:i + 4] == b'00dc']
    for place in chunks[5:7]:
        content[place + 8:place + 200] = bytes(192)
    path.write_bytes(content)
    frames, video = read(path)
    numbers = [number_of(frame.rgb) for frame in frames]
    assert numbers == [n for n in range(20) if n not in (5, 6)]
    assert video.counts['frames_undecodable'] == 2
    assert video.counts['frames_dropped'] == 0  # the gap is explained
    assert frames[5].time_s == pytest.approx(7 / RATE_HZ)
    assert '2 of 20 frames' in caplog.text


@pytest.mark.parametrize('name', ['film.avi', 'film.mkv', 'film.mp4'])
def test_a_truncated_file_gives_the_frames_up_to_there(film, name, caplog):
    path = film(name, frames=60)
    content = path.read_bytes()
    if name == 'film.mp4':  # its index first, as recorders for the web write it
        start = content.index(b'moov') - 4
        index = bytearray(content[start:])
        place = index.index(b'stco') + 12
        offset, = struct.unpack_from('>I', index, place)
        struct.pack_into('>I', index, place, offset + len(index))
        data = content.index(b'free') - 4
        content = content[:data] + bytes(index) + content[data:start]
        keep = data + len(index) + (start - data) // 2
    else:
        keep = len(content) // 2
    path.write_bytes(content[:keep])
    frames, video = read(path)
    assert 5 < len(frames) < 55
    assert video.counts['frames_undecodable'] == 60 - len(frames)
    assert 'damaged, truncated' in caplog.text
    assert [number_of(f.rgb) for f in frames[:5]] == list(range(5))


def stretch(path, factor):
    """Makes the clock of a Matroska file slower, but not the rate that it tells."""
    content = bytearray(path.read_bytes())
    scale = b'\x2a\xd7\xb1\x83' + (10**6).to_bytes(3, 'big')  # ns
    place = content.index(scale) + 4
    content[place:place + 3] = (factor * 10**6).to_bytes(3, 'big')
    path.write_bytes(content)


@pytest.mark.parametrize('told_hz, factor', [(1000, 10), (25, 2)])
def test_a_rate_that_the_time_stamps_deny_makes_no_damage(
    film, told_hz, factor, caplog
):
    path = film('film.mkv', frames=60, rate_hz=told_hz)
    stretch(path, factor)
    frames, video = read(path)
    assert len(frames) == 60 and video.counts['frames_undecodable'] == 0
    assert not caplog.text
    true_hz = told_hz / factor
    assert video.counts['rate_hz'] == pytest.approx(true_hz)
    # That of a video which others are written like; a usual one is left as it is.
    assert video.rate_hz == pytest.approx(true_hz if told_hz > 60 else told_hz)


@pytest.mark.parametrize('name', ['film.mkv', 'film.mp4', 'film.avi'])
def test_slow_motion_keeps_its_rate(film, name):
    _, video = read(film(name, frames=60, rate_hz=120))
    assert video.rate_hz == pytest.approx(120, rel=0.01)
    assert video.counts['frames'] == 60 and not video.counts['frames_undecodable']


def test_a_damaged_middle_of_an_estimated_file_is_counted(film, caplog):
    path = film('film.mkv', frames=60, rate_hz=5)
    content = bytearray(path.read_bytes())
    clusters = [i for i in range(len(content))
                if content[i:i + 4] == b'\x1f\x43\xb6\x75']
    content[clusters[1]:clusters[2]] = bytes(clusters[2] - clusters[1])
    path.write_bytes(content)
    frames, video = read(path)
    lost = 60 - len(frames)
    assert lost > 5 and video.counts['frames_undecodable'] == lost
    assert 'damaged, truncated' in caplog.text


def test_limits_of_the_header_are_checked_before_decoding(film):
    path = film()
    refuse(path, '64 x 48 pixels, limit 3071', max_pixels=HEIGHT * WIDTH - 1)
    refuse(path, '0.8 s, limit 0.5 s', max_seconds=0.5)
    read(path, max_pixels=HEIGHT * WIDTH, max_seconds=0.8)


def test_a_header_that_lies_about_its_length_does_not_lead_beyond_the_limit(film):
    path = film('film.avi')
    patch(path, b'avih', 4 + 16, struct.pack('<I', 2))  # frames
    patch(path, b'vids', 28, struct.pack('<I', 2))
    with videos.open_video(path, max_pixels=10**6, max_seconds=0.5) as video:
        frames = []
        with pytest.raises(ImageError, match='more than 0.5 s'):
            for frame in video:
                frames.append(frame)
    assert len(frames) == 13  # 0 to 0.48 s


@pytest.mark.parametrize('kind', ['file', 'folder'])
def test_a_looped_video_begins_again_and_time_goes_on(film, folder, kind):
    if kind == 'file':
        source = film(frames=5)
    else:
        source = folder(*(f'{number}.png' for number in range(5)))
    limits = LIMITS | {'max_seconds': 0.2}  # of a round
    with videos.open_video(source, **limits, loop=True, rate_hz=RATE_HZ) as video:
        frames = [frame for frame, _ in zip(video, range(12))]
    assert [number_of(f.rgb) for f in frames] == [0, 1, 2, 3, 4] * 2 + [0, 1]
    assert [frame.number for frame in frames] == list(range(12))
    np.testing.assert_allclose([f.time_s for f in frames], np.arange(12) / RATE_HZ)


def test_a_camera_is_a_number_and_no_file_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / '7').write_bytes(b'')
    assert [videos.camera_number(name) for name in (
        0, '0', '12', '7', Path('7'), '\u0663', '\xb2', 'a.mp4')
    ] == [0, 0, 12, None, None, None, None, None]


def test_the_hash_is_of_the_content(film, folder, tmp_path):
    path = film()
    copy = tmp_path / 'other.mp4'
    copy.write_bytes(path.read_bytes())
    assert videos.hash_video(path) == videos.hash_video(copy)
    copy.write_bytes(path.read_bytes() + b'\0')
    assert videos.hash_video(path) != videos.hash_video(copy)
    frames = folder('1.png', '2.png')
    digest = videos.hash_video(frames)
    (frames / '1.png').rename(frames / '3.png')  # the order changes
    assert videos.hash_video(frames) != digest
    assert videos.hash_video('0') is None
    with pytest.raises(ImageError, match='No such file'):
        videos.hash_video(tmp_path / 'nothing.mp4')


def test_real_videos_are_read(sample_data):
    for path in sorted((sample_data / 'pose/video').glob('*.mp4')):
        with videos.open_video(path, max_pixels=4 * 10**6, max_seconds=5) as video:
            times = [frame.time_s for frame in video]
        assert video.size_hw == (1920, 1080)
        np.testing.assert_allclose(times, np.arange(100) / 60, atol=1e-6)
