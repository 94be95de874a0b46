"""A video is upright frames with time stamps; other files are named errors."""

import os
import struct
import threading

import cv2
import numpy as np
import pytest

from jaxmed.data import videos
from jaxmed.errors import ImageError

HEIGHT, WIDTH, RATE_HZ = 48, 64, 25
LIMITS = dict(max_pixels=10**6, max_seconds=60)
# Of a display matrix (tkhd): how a decoded frame is turned to be upright, and how
# np.rot90 does the same.
TURNS = {
    90: ((0, 1, 0, -1, 0, 0, HEIGHT, 0), -1),
    180: ((-1, 0, 0, 0, -1, 0, WIDTH, HEIGHT), 2),
    270: ((0, -1, 0, 1, 0, 0, 0, WIDTH), 1),
}


def picture(number):
    """Red in the upper left corner, brightness tells the number; RGB."""
    frame = np.full((HEIGHT, WIDTH, 3), 40 + 5 * (number % 42), np.uint8)
    frame[:16, :16] = 255, 0, 0
    return frame


def number_of(rgb):
    return round((float(rgb[24:, 24:].mean()) - 38.7) / 5)


@pytest.fixture
def film(tmp_path):
    """Writes a video of `picture`s and returns its path."""
    def write(name='film.mp4', frames=20, rate_hz=RATE_HZ):
        codec = {'.mp4': 'mp4v', '.avi': 'MJPG', '.mkv': 'mp4v', '.mpg': 'mpg1'}
        path = tmp_path / name
        writer = cv2.VideoWriter(
            str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec[path.suffix]),
            rate_hz, (WIDTH, HEIGHT))
        assert writer.isOpened()
        for number in range(frames):
            writer.write(np.ascontiguousarray(picture(number)[..., ::-1]))
        writer.release()
        return path

    return write


@pytest.fixture
def folder(tmp_path, save):
    """Writes pictures under the names given, in that order, and returns the folder."""
    def write(*names, pictures=None):
        for number, name in enumerate(names):
            frame = picture(number) if pictures is None else pictures[number]
            save(tmp_path / 'frames' / name, frame)
        return tmp_path / 'frames'

    return write


def read(source, **options):
    with videos.open_video(source, **(LIMITS | options)) as video:
        return list(video), video


def refuse(source, reason, **options):
    with pytest.raises(ImageError) as caught:
        read(source, **options)
    message = str(caught.value)
    assert reason in message and '\n' not in message, message


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


def test_any_name_will_do(film):
    path = film()
    odd = os.fsencode(path.parent) + b'/http:caf\xe9 %03d.mp4'
    os.rename(path, odd)
    assert len(read(os.fsdecode(odd))[0]) == 20


def test_a_decoder_that_needs_too_much_memory_is_an_error(film, monkeypatch):
    monkeypatch.setattr(videos, '_PLAIN_BYTES', 1 << 20)
    monkeypatch.setattr(videos, '_BYTES_PER_PIXEL', 0)
    refuse(film(), 'film.mp4: ')


def test_a_decoder_that_dies_is_an_error(film):
    path = film(frames=200)
    with videos.open_video(path, **LIMITS) as video:
        frames = iter(video)
        next(frames)
        video._stream._process.kill()
        with pytest.raises(ImageError, match=r'crashed \(SIGKILL\)'):
            list(frames)


def test_a_decoder_that_hangs_is_an_error(film, monkeypatch):
    monkeypatch.setattr(videos, '_FRAME_S', 0.2)
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
