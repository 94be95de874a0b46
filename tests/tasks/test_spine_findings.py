"""What is told of one movement: index, interval, red flag, quality, pictures."""

import numpy as np
import pytest

from jaxmed.data import movements, videos
from jaxmed.data.phantoms import walkers
from jaxmed.data.video_writing import VideoFile
from jaxmed.pose import cleaning, drawing, panel
from jaxmed.pose.skeletons import BLAZEPOSE
from jaxmed.tasks import spine_findings
from tests.data.films import write_film
from tests.videos import read_video

CUT = movements.Cut(
    ('touch toes', 'walk', 'jump'), 'video', 'window', 20, 10, 10.0, 1.0)
FIXED = {
    'width': 0.2, 'window_width': 0.3, 'by_spread': False, 'level': 0.9, 'people': 19,
    'cases': 19, 'windows': 57, 'reason': ''}
NONE = FIXED | {'width': None, 'window_width': None}
COLUMNS = [
    'index', 'low', 'high', 'red_flag', 'exercise', 'windows', 'windows_left_out',
    'seconds', 'frames_read_share', 'person_share', 'visibility', 'joints_known_share']


@pytest.fixture(scope='module')
def walk():
    """4 s of a drawn walk at 10 Hz, in a picture of odd sides."""
    found = next(walkers.subjects(count=1, seed=0, exercises=('walk',))).motion
    clean = cleaning.clean(
        found, min_visibility=0.0, max_gap_s=5.0, smoothing='none', rate_hz=10.0)
    count = 40
    scale = np.float32([301 / found.size_hw[1], 201 / found.size_hw[0], 1])
    return clean._replace(
        joints=clean.joints[:count] * scale, visibility=clean.visibility[:count],
        time_s=np.arange(count) / 10, world=None, size_hw=(201, 301),
        counts={'frames': count, 'frames_nobody': 0, 'joints_dropped_share': 0.5})


def make_record(found, clean, path='walk.mp4', exercise='walk'):
    record = movements.cut_record(
        [(exercise, clean)], cut=CUT, case_id='c', subject='s', where=path)
    return record | {'parts': [(exercise, found, clean, path)]}


def make_person(parts):
    """Of (exercise, Motion as found, path) each, cleaned as they were found."""
    cut = CUT._replace(unit='subject')
    parts = movements.in_order(
        [(exercise, found, found, path) for exercise, found, path in parts], cut=cut)
    record = movements.cut_record(
        [(exercise, clean) for exercise, _, clean, _ in parts], cut=cut, case_id='c',
        subject='s', where='c')
    return record | {'parts': parts}


def shorten(motion, frames):
    return motion._replace(
        joints=motion.joints[:frames], visibility=motion.visibility[:frames],
        time_s=motion.time_s[:frames])


def tell(record, index, *, spread=0.0, interval=None, annotate=False, **options):
    index = np.array(index, np.float32)
    return spine_findings.findings(
        record, {'index': index, 'spread': np.full_like(index, spread)},
        interval=interval, **dict(
            dict(skeleton=BLAZEPOSE, cut=CUT, annotate=annotate, max_pixels=10**6,
                 max_seconds=60.0, min_visibility=0.6,
                 source_hz=30.0), **options))


def read_png(picture):
    assert picture.dtype == np.uint8 and picture.ndim == 3
    return picture


def read_bytes(data, folder):
    path = folder / 'read.mp4'
    path.write_bytes(data)
    return read_video(path)


def test_the_index_is_the_mean_over_windows_and_each_of_them_is_told(walk):
    # Of 40 frames: from 0 to 1.9 s, 1 to 2.9 s, 2 to 3.9 s.
    finding = tell(make_record(walk, walk), [0.2, 0.6, 1.0], interval=FIXED)
    assert list(finding.row) == COLUMNS
    assert finding.row['index'] == 0.6 and finding.row['red_flag'] == 'yes'
    assert (finding.row['low'], finding.row['high']) == (0.4, 0.8)
    assert finding.row['exercise'] == 'walk' and finding.row['windows'] == 3
    assert finding.row['seconds'] == 3.9
    windows = finding.details['windows_found']
    assert [(w['first_s'], w['last_s']) for w in windows] == [
        (0.0, 1.9), (1.0, 2.9), (2.0, 3.9)]
    assert [w['index'] for w in windows] == [0.2, 0.6, 1.0]
    # A window has seen less than the whole: 0.3 to either side, not 0.2.
    assert [w['low'] for w in windows] == pytest.approx([0, 0.3, 0.7], abs=1e-6)
    assert [w['high'] for w in windows] == pytest.approx([0.5, 0.9, 1.0], abs=1e-6)
    assert finding.details['interval'] == FIXED


@pytest.mark.parametrize('index, flag', [
    (0.5, 'no'), (0.501, 'yes'), (0.0, 'no'), (1.0, 'yes')])
def test_a_red_flag_is_raised_over_a_half(walk, index, flag):
    assert tell(make_record(walk, walk), [index] * 3).row['red_flag'] == flag


def test_without_a_calibration_there_is_no_interval_and_the_reason_is_told(walk):
    record = make_record(walk, walk)
    finding = tell(record, [0.2] * 3)
    assert finding.row['low'] == finding.row['high'] == ''
    assert finding.details['interval'] == {'width': None, 'reason': 'not calibrated'}
    few = NONE | {'reason': '3 people are too few'}
    finding = tell(record, [0.2] * 3, interval=few)
    assert finding.row['low'] == '' and finding.details['interval'] == few
    assert all(w['low'] is w['high'] is None for w in finding.details['windows_found'])


def test_quality_is_that_of_the_recording_as_it_was_found(walk):
    joints, visibility = walk.joints.copy(), np.full((40, 33), 0.8, np.float32)
    joints[30:], visibility[30:] = np.nan, 0
    visibility[:, :11] = 0.4
    visibility[30:] = 0
    found = walk._replace(joints=joints, visibility=visibility)
    clean = walk._replace(joints=np.where(
        np.arange(33)[:, None] < 11, np.float32(np.nan), walk.joints))
    row = tell(make_record(found, clean), [0.2] * 3).row
    assert row['person_share'] == 0.75  # of frames
    # Of the frames with a person: 11 joints of 0.4, 22 of 0.8.
    assert row['visibility'] == pytest.approx((11 * 0.4 + 22 * 0.8) / 33, abs=1e-4)
    assert row['joints_known_share'] == pytest.approx(22 / 33, abs=1e-4)


def test_frames_of_a_video_that_could_not_be_read_are_told_as_a_share(walk, tmp_path):
    path = tmp_path / 'walk.avi'
    content = write_film(tmp_path, 'whole.avi', frames=80, rate_hz=10).read_bytes()
    path.write_bytes(content[:len(content) // 2])
    with videos.open_video(path, max_pixels=10**6, max_seconds=60) as video:
        for _ in video:
            pass
    counts = video.counts
    lost = counts['frames_undecodable']
    assert 10 < lost < 70 and counts['frames'] == 80 - lost
    cut = walk._replace(counts=counts)
    assert tell(make_record(cut, walk), [0.2] * 3).row['frames_read_share'] == (
        pytest.approx(1 - lost / 80, abs=1e-4))
    # Of a person those of all recordings, and each one's.
    record = make_person([('jump', cut, 'a.mp4'), ('walk', walk, 'b.csv')])
    finding = tell(record, [0.2] * 3)
    assert finding.row['frames_read_share'] == pytest.approx(
        1 - lost / (80 + walk.counts['frames']), abs=1e-4)
    assert [one['frames_read_share'] for one in finding.details['recordings']] == [
        1.0, pytest.approx(1 - lost / 80, abs=1e-4)]
    # The share is 1 only where nothing is lost.
    little = walk._replace(counts={'frames': 10**6, 'frames_undecodable': 1})
    row = tell(make_record(little, walk), [0.2] * 3).row
    assert row['frames_read_share'] == 0.9999
    assert tell(make_record(walk, walk), [0.2] * 3).row['frames_read_share'] == 1


def test_counts_of_frames_are_added_up_over_a_persons_recordings(walk):
    record = make_person([('jump', walk, 'a.mp4'), ('walk', walk, 'b.mp4')])
    finding = tell(record, [0.2] * 3)
    assert finding.details['read'] == {'frames': 80, 'frames_nobody': 0}
    assert finding.details['cleaned'] == [walk.counts, walk.counts]
    assert finding.row['exercise'] == 'all'


def test_each_recording_of_a_person_is_told_by_itself(walk):
    joints = walk.joints.copy()
    joints[20:] = np.nan
    jump = shorten(walk._replace(
        joints=joints, visibility=np.full((40, 33), 0.8, np.float32)), 25)
    record = make_person([
        ('somersault', shorten(walk, 20), 'c.csv'), ('jump', jump, 'b.csv'),
        ('walk', walk._replace(time_s=walk.time_s + 7), 'a.csv')])
    finding = tell(record, [0.2, 0.3, 0.4], interval=FIXED)
    found = finding.details['recordings']
    assert [one['exercise'] for one in found] == ['walk', 'jump', 'other']
    assert [(one['first_s'], one['last_s'], one['seconds']) for one in found] == [
        (7.0, 10.9, 3.9), (0.0, 2.4, 2.4), (0.0, 1.9, 1.9)]
    assert [one['person_share'] for one in found] == [1.0, 0.8, 1.0]
    assert found[1]['visibility'] == found[1]['joints_known_share'] == 0.8
    assert finding.row['seconds'] == 8.2
    assert finding.row['person_share'] == round(80 / 85, 4)
    # A window of the person is one of each recording; a short one is in all of them.
    windows = finding.details['windows_found']
    assert [w['index'] for w in windows] == [0.2, 0.3, 0.4]
    assert [[one['exercise'] for one in w['recordings']] for w in windows] == [
        ['walk', 'jump', 'other']] * 3
    assert [[(one['first_s'], one['last_s']) for one in w['recordings']]
            for w in windows] == [
        [(7.0, 8.9), (0.0, 1.9), (0.0, 1.9)], [(8.0, 9.9), (0.5, 2.4), (0.0, 1.9)],
        [(9.0, 10.9), (0.5, 2.4), (0.0, 1.9)]]
    assert 'first_s' not in windows[0]


def test_one_recording_of_a_person_is_told_as_a_recording_is(walk):
    finding = tell(make_person([('walk', walk, 'a.csv')]), [0.2, 0.6, 1.0])
    assert finding.row == tell(make_record(walk, walk), [0.2, 0.6, 1.0]).row
    assert [w['first_s'] for w in finding.details['windows_found']] == [0, 1, 2]


def test_a_persons_pictures_show_every_recording(walk):
    still = walk._replace(joints=np.repeat(walk.joints[:1], 40, axis=0))
    blind = still._replace(joints=np.where(
        np.arange(33)[:, None] < 11, np.float32(np.nan), still.joints))
    first, second, third = (
        tell(make_person([('walk', walk, 'a.csv'), ('jump', other, 'b.csv')]), index,
             interval=FIXED)
        for other, index in ((still, [0.2] * 3), (blind, [0.2] * 3), (blind, [0.8] * 3))
    )
    alone = tell(make_record(walk, walk), [0.2] * 3).pictures['overlays']
    plots = [read_png(one.files['index.png']) for one in (first, second, third)]
    assert len({plot.shape for plot in plots}) == 1
    apart = np.argwhere((plots[0] != plots[1]).any(axis=-1))
    # The second recording's quality, lower right.
    assert len(apart) and apart.min(axis=0)[0] > 180 and apart.min(axis=0)[1] > 400
    apart = np.argwhere((plots[1] != plots[2]).any(axis=-1))
    assert len(apart) and apart.max(axis=0)[0] < 180  # the index, above
    phases = [one.pictures['overlays'] for one in (first, second)]
    assert phases[0].shape[0] > 2 * alone.shape[0]
    apart = np.argwhere((phases[0] != phases[1]).any(axis=-1))
    assert len(apart) and apart[:, 0].min() > alone.shape[0]


def test_each_video_of_a_person_is_annotated_with_the_persons_index(walk, tmp_path):
    parts = []
    for name, frames in (('jump', 30), ('walk', 40)):
        path = tmp_path / f'{name}.mp4'
        write_video(path, frames, (202, 302))
        seen = shorten(walk._replace(size_hw=(202, 302)), frames)
        parts.append((name, seen, path))
    parts.append(('touch toes', walk._replace(size_hw=None), 'c.csv'))
    finding = tell(make_person(parts), [0.9, 0.05, 0.7], annotate=True)
    assert list(finding.files) == [
        'index.png', 'annotated walk.mp4', 'annotated jump.mp4']
    for name, count in (('walk', 40), ('jump', 30)):
        rate_hz, frames = read_bytes(
            finding.files[f'annotated {name}.mp4'], tmp_path)
        assert len(frames) == count and rate_hz == pytest.approx(10.0)
        red = [count_like(frame, panel.RED) for frame in frames]
        assert min(red) > 0.8 * max(red) > 0  # 0.55, over a half all the time
        assert min(count_like(frame, drawing.LEFT) for frame in frames) > 20


def test_the_pictures_show_something_and_change_with_the_index(walk):
    record = make_record(walk, walk)
    one, other = (tell(record, index, interval=FIXED) for index in (
        [0.1, 0.2, 0.3], [0.9, 0.8, 0.7]))
    for pictures in ((f.pictures['overlays'] for f in (one, other)),
                     (f.files['index.png'] for f in (one, other))):
        first, second = map(read_png, pictures)
        assert first.shape == second.shape and min(first.shape[:2]) > 200
        assert len(np.unique(first.reshape(-1, 3), axis=0)) > 20
        assert np.any(first != second)


def test_the_index_over_time_is_drawn_with_the_interval_of_windows(walk):
    record = make_record(walk, walk)
    drawn, same, other = (
        tell(record, [0.4, 0.5, 0.3], interval=FIXED | changes).files['index.png']
        for changes in ({}, {'width': 0.1}, {'window_width': 0.1}))
    np.testing.assert_array_equal(drawn, same)
    assert np.any(drawn != other)


def test_a_report_draws_the_phases_of_a_case_with_true_and_predicted_index(walk):
    record = make_record(walk, walk)
    window = {name: value[0] if isinstance(value, np.ndarray) else value
              for name, value in record.items()}
    pictures = [
        spine_findings.render(
            [window, window], {'index': np.array([0.2, 0.4]), 'truth': truth},
            skeleton=BLAZEPOSE, cut=CUT)
        for truth in (np.array([0.1, 0.1]), np.full(2, np.nan))]
    assert np.any(pictures[0] != pictures[1])
    # Only in the line of words, which of an unknown index tells less.
    apart = np.argwhere((pictures[0] != pictures[1]).any(axis=-1))
    assert apart[:, 0].max() < 40 and apart[:, 1].min() > 100


def write_video(path, frames, size_hw, rate_hz=10.0):
    height, width = size_hw
    with VideoFile(path, rate_hz=rate_hz) as video:
        for _ in range(frames):
            video.write(np.full((height, width, 3), 128, np.uint8))


def count_like(picture, colour):
    return int((np.abs(picture.astype(int) - colour).max(axis=-1) < 60).sum())


def test_an_annotated_video_has_every_frame_and_the_index_known_by_then(walk, tmp_path):
    path = tmp_path / 'walk.mp4'
    write_video(path, 40, (202, 302))  # as even as videos are
    found = walk._replace(size_hw=(202, 302))
    record = make_record(found, walk, path)
    finding = tell(record, [0.9, 0.9, 0.05], interval=FIXED, annotate=True)
    assert list(finding.files) == ['index.png', 'annotated.mp4']
    rate_hz, frames = read_bytes(finding.files['annotated.mp4'], tmp_path)
    assert len(frames) == 40 and rate_hz == pytest.approx(10.0)
    assert frames[0].shape == (202, 302, 3)
    # The last window ends at 3.9 s: the last frame is the first calm one.
    red = [count_like(frame, panel.RED) for frame in frames]
    calm = [count_like(frame, panel.CALM) for frame in frames]
    assert min(red[:39]) > 2 * red[39] and 2 * max(calm[:39]) < calm[39]
    # A skeleton sits where the joints are: its bones are of these colours.
    for colour in (drawing.LEFT, drawing.RIGHT):
        assert min(count_like(frame, colour) for frame in frames) > 20


def test_where_nobody_is_there_is_no_index(walk, tmp_path):
    """Windows end at 1.9, 2.9 and 3.9 s, and in the second nobody is seen."""
    joints = walk.joints.copy()
    joints[13:25] = np.nan
    path = tmp_path / 'walk.mp4'
    write_video(path, 40, (202, 302))
    found = walk._replace(size_hw=(202, 302), joints=joints)
    finding = tell(make_record(found, found, path), [0.9, 0.1], annotate=True)
    assert finding.row['windows'] == 2 and finding.row['windows_left_out'] == 1
    assert finding.row['index'] == 0.5  # of two, not of three
    _, frames = read_bytes(finding.files['annotated.mp4'], tmp_path)
    red = [count_like(frame, panel.RED) > 50 for frame in frames]
    calm = [count_like(frame, panel.CALM) > 50 for frame in frames]
    # The first one's index stands until another one would have come, at 2.9 s.
    assert red == [True] * 30 + [False] * 10
    assert calm == [False] * 39 + [True]
    whole = tell(make_record(walk, walk), [0.9, 0.5, 0.1]).files['index.png']
    assert np.any(whole != finding.files['index.png'])


def test_an_annotated_video_of_variable_rate_keeps_its_pace(
    walk, tmp_path, monkeypatch
):
    path = tmp_path / 'walk.mp4'
    write_video(path, 40, (202, 302))
    # The last 20 frames come half as fast: 1.9 s and 4 s.
    times_s = np.append(np.arange(20), 19 + 2 * np.arange(1, 21)) / 10
    opened = videos.open_video

    class Late:
        def __init__(self, *args, **options):
            self.video = opened(*args, **options)
            self.rate_hz = self.video.rate_hz

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            self.video.close()

        def __iter__(self):
            for frame, time_s in zip(self.video, times_s):
                yield frame._replace(time_s=float(time_s))

    monkeypatch.setattr(videos, 'open_video', Late)
    record = make_record(walk._replace(size_hw=(202, 302)), walk, path)
    finding = tell(record, [0.1] * 3, annotate=True)
    rate_hz, frames = read_bytes(finding.files['annotated.mp4'], tmp_path)
    assert rate_hz == pytest.approx(10.0) and len(frames) == 60


def test_a_video_is_annotated_on_request_and_landmarks_alone_can_not_be(walk, tmp_path):
    path = tmp_path / 'walk.mp4'
    write_video(path, 40, (202, 302))
    seen = walk._replace(size_hw=(202, 302))
    assert list(tell(make_record(seen, walk, path), [0.1] * 3).files) == ['index.png']
    blind = walk._replace(size_hw=None)
    found = tell(make_record(blind, walk, 'walk.csv'), [0.1] * 3, annotate=True)
    assert list(found.files) == ['index.png']


def test_a_large_video_is_made_smaller_and_its_skeleton_with_it(walk, tmp_path):
    path = tmp_path / 'tall.mp4'
    write_video(path, 12, (1082, 602))
    joints = np.broadcast_to(np.float32([300, 540, 0]), (40, 33, 3)).copy()
    joints[:, 11, :2], joints[:, 12, :2] = (520, 900), (80, 900)  # the shoulders
    found = walk._replace(joints=joints, size_hw=(1082, 602), visibility=np.ones(
        (40, 33), np.float32))
    finding = tell(make_record(found, walk, path), [0.1] * 3, annotate=True)
    _, frames = read_bytes(finding.files['annotated.mp4'], tmp_path)
    assert len(frames) == 12
    height, width = frames[0].shape[:2]
    assert height == 720 and abs(width - 602 * 720 / 1082) <= 2
    y, x = (round(place * 720 / 1082) for place in (900, 300))
    below = frames[0][y - 12:y + 13, x - 40:x + 41]  # the line between the shoulders
    assert count_like(below, drawing.MIDDLE) > 100
