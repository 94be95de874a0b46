import gzip
import math

import numpy as np
import pytest

from jaxmed.data import landmark_files, movements, ratings
from jaxmed.data.phantoms import walkers
from jaxmed.errors import ConfigError, InputError
from jaxmed.pose import cleaning
from jaxmed.pose.skeletons import BLAZEPOSE, Motion
from tests.commands import drain

CUT = movements.Cut(
    ('touch toes', 'walk', 'jump'), 'video', 'window', 40, 20, 10.0, 1.0)


def make_motion(frames, *, start=0.0, rate_hz=10.0):
    """Every joint is where the number of its frame says."""
    number = np.arange(frames, dtype=np.float32) + start
    joints = np.broadcast_to(number[:, None, None], (frames, 33, 3)).copy()
    return Motion(
        joints, np.ones((frames, 33), np.float32), np.arange(frames) / rate_hz,
        'blazepose', counts={'frames': frames, 'joints_dropped_share': 0.5})


def cut(parts, **changes):
    return movements.cut_record(
        parts, cut=CUT._replace(**changes), case_id='c', subject='s', where='c.csv')


def test_windows_begin_every_stride_and_the_last_ends_with_the_recording():
    record = cut([('walk', make_motion(95))])
    assert record['inputs'].shape == (4, 40, 33, 4)
    np.testing.assert_array_equal(record['inputs'][:, 0, 0, 0], [0, 20, 40, 55])
    np.testing.assert_allclose(record['first_s'][:, 0], [0, 2, 4, 5.5])
    np.testing.assert_allclose(record['last_s'][:, 0], [3.9, 5.9, 7.9, 9.4])
    assert record['frame_mask'].all() and (record['segment'] == 1).all()
    assert record['step_s'].shape == (4, 40) and record['step_s'].dtype == np.float32
    np.testing.assert_allclose(record['step_s'], 0.1)


def test_a_short_recording_is_padded_at_its_end():
    record = cut([('walk', make_motion(25))])
    assert record['inputs'].shape[0] == 1
    np.testing.assert_array_equal(record['frame_mask'][0], np.arange(40) < 25)
    assert np.isnan(record['inputs'][0, 25:, :, :3]).all()
    assert (record['inputs'][0, 25:, :, 3] == 0).all()
    assert (record['segment'][0, 25:] == 3).all()
    np.testing.assert_allclose(record['step_s'][0], [0.1] * 25 + [0] * 15)
    assert record['last_s'][0, 0] == pytest.approx(2.4)


def hide(motion, *parts, joints=slice(None)):
    """With nobody, or not these joints, in parts of the frames, (first, end)."""
    hidden = motion.joints.copy()
    for first, end in parts:
        hidden[first:end, joints] = np.nan
    return motion._replace(joints=hidden)


@pytest.mark.parametrize('joints', [slice(None), list(BLAZEPOSE.hips)])
def test_windows_that_know_too_little_of_a_body_are_none(joints):
    # They begin at 0, 20, 40 and 55; of 20 to 59, 19 frames are known.
    record = cut([('walk', hide(make_motion(95), (35, 56), joints=joints))])
    np.testing.assert_allclose(record['first_s'][:, 0], [0, 4, 5.5])
    assert record['windows_left_out'] == 1
    # One frame more is half of them.
    record = cut([('walk', hide(make_motion(95), (35, 55), joints=joints))])
    assert len(record['inputs']) == 4 and record['windows_left_out'] == 0
    # Of a short recording half of its frames are enough.
    record = cut([('walk', hide(make_motion(25), (13, 25), joints=joints))])
    assert len(record['inputs']) == 1


@pytest.mark.parametrize('changes', [{}, {'span': 'whole'}])
def test_a_recording_whose_windows_all_know_too_little_is_refused_by_name(changes):
    hidden = [(place + 4, place + 10) for place in range(0, 95, 10)]
    with pytest.raises(InputError, match='less than 50% of each window') as caught:
        cut([('walk', hide(make_motion(95), *hidden))], **changes)
    assert caught.value.where == 'c.csv'


def test_a_persons_windows_lack_what_one_recording_does_not_show():
    record = cut([
        ('walk', hide(make_motion(95), (35, 56))), ('jump', make_motion(95, start=500)),
    ], unit='subject')
    np.testing.assert_allclose(record['first_s'][:, :2], [
        [0, 0], [4, 2], [5.5, 4], [5.5, 5.5]])
    assert record['windows_left_out'] == 1


def test_a_whole_recording_becomes_one_window_that_knows_its_seconds():
    record = cut([('jump', make_motion(118))], span='whole')
    assert record['inputs'].shape[0] == 1
    middle = record['inputs'][0, 5:-5, 0, 0]
    np.testing.assert_allclose(
        middle, np.linspace(0, 117, 40)[5:-5], atol=0.6)  # averaged over a frame
    np.testing.assert_allclose(record['step_s'], 11.7 / 39, rtol=1e-5)


def test_exercises_of_a_person_follow_each_other_in_their_own_order():
    record = cut(
        [('jump', make_motion(30, start=500)), ('Touch_Toes', make_motion(25))],
        unit='subject')
    assert record['inputs'].shape == (1, 120, 33, 4)
    np.testing.assert_array_equal(
        record['segment'][0], [0] * 25 + [2] * 30 + [3] * 65)
    np.testing.assert_array_equal(
        record['inputs'][0, [0, 24, 25, 54], 0, 0], [0, 24, 500, 529])
    np.testing.assert_array_equal(record['frame_mask'][0], np.arange(120) < 55)
    assert record['exercise'] == 'all'


def test_each_whole_recording_of_a_person_has_a_step_of_its_own():
    record = cut(
        [('jump', make_motion(40)), ('touch toes', make_motion(118)),
         ('walk', make_motion(79))], unit='subject', span='whole')
    assert record['step_s'].shape == (1, 120)
    # Each of 40 frames, from the first to the last: 11.7, 7.8 and 3.9 s.
    np.testing.assert_allclose(
        record['step_s'][0], np.repeat([0.3, 0.2, 0.1], 40), rtol=1e-5)
    alone = cut([('walk', make_motion(79))], unit='subject', span='whole')
    np.testing.assert_allclose(alone['step_s'][0], [0.2] * 40 + [0] * 80, rtol=1e-5)


def test_each_recording_of_a_person_begins_and_ends_at_times_of_its_own():
    jump, walk = make_motion(60), make_motion(30)
    walk = walk._replace(time_s=walk.time_s + 7)
    record = cut([('jump', jump), ('walk', walk)], unit='subject')
    # The walk, which comes first, has one window; the jump has two.
    np.testing.assert_allclose(
        record['first_s'], [[7, 0, np.nan], [7, 2, np.nan]])
    np.testing.assert_allclose(
        record['last_s'], [[9.9, 3.9, np.nan], [9.9, 5.9, np.nan]])


def test_an_unknown_exercise_is_told_as_such():
    record = cut([('somersault', make_motion(40))])
    assert (record['segment'] == 3).all() and record['exercise'] == 'other'


def test_too_short_a_recording_is_refused_by_name():
    with pytest.raises(InputError, match='c.csv: too short'):
        cut([('walk', make_motion(9))])


@pytest.mark.parametrize('name, exercise', [
    ('S_ID3_Es5', 'es5'), ('p1 touch-toes 2', 'touch toes'),
    ('TOUCH_TOES', 'touch toes'),
    ('sidewalk', ''), ('walk', 'walk'), ('walk 2 m', 'walk'),
    ('Walk, fast!', 'walk fast'), ('walk_fast_1', 'walk fast'), ('es', ''),
])
def test_exercises_are_found_in_names_of_files(name, exercise):
    known = ('touch toes', 'walk', 'walk fast', 'es5')
    assert movements.find_exercise(name, known) == exercise
    number = movements.number_of(name, known)
    assert number == (known.index(exercise) if exercise else len(known))


def test_an_exercise_of_this_very_name_goes_before_a_longer_one_in_it():
    known = ('walk!', 'walk', '?', 'walk ?')
    assert [movements.find_exercise(name, known) for name in known] == list(known)
    assert movements.find_exercise('', known) == ''


@pytest.mark.parametrize('one, other', [
    ('walk', 'Walk 2 m'), ('somersault', 'handstand')])
def test_two_recordings_of_an_exercise_are_no_example_of_one_person(one, other):
    movements.check_parts([(one, 'ada/1.mp4'), ('jump', 'ada/2.mp4')], cut=CUT)
    with pytest.raises(InputError, match='2.mp4 shows .* so does 1.mp4') as caught:
        movements.check_parts([(one, 'ada/1.mp4'), (other, 'ada/2.mp4')], cut=CUT)
    assert '\n' not in str(caught.value) and 'ada' not in caught.value.reason


@pytest.mark.parametrize('changes, field', [
    ({'unit': 'crowd'}, 'unit'), ({'span': 'part'}, 'span'), ({'stride': 0}, 'stride'),
    ({'stride': 41}, 'stride'), ({'exercises': ('walk', 'Walk')}, 'exercises'),
    ({'exercises': ()}, 'exercises'),
])
def test_options_that_do_not_fit_are_refused_by_name(changes, field):
    with pytest.raises(ConfigError, match=f'task.{field}'):
        movements.check_cut(CUT._replace(**changes))


def write_folder(folder):
    """Two people, four recordings: one isn't rated, one is too short."""
    rows = ['subject,exercise,video,rating,group']
    for number, (subject, exercise, frames, rating) in enumerate((
        ('ada', 'walk', 95, '80'), ('ada', 'jump', 50, '60'), ('bob', 'walk', 45, ''),
        ('bob', 'jump', 4, '10'), ('bob', 'touch toes', 60, '100'),
    )):
        name = f'{number}.csv.gz'
        landmark_files.write_motion(folder / name, make_motion(frames))
        rows.append(f'{subject},{exercise},{name},{rating},G')
    (folder / 'ratings.csv').write_text('\n'.join(rows))


def read(folder, look_ahead=iter, **changes):
    generator = movements.read(
        folder, list_rated=ratings.read_ratings, cut=CUT._replace(**changes),
        look_ahead=look_ahead,
        read_motion=lambda path: cleaning.clean(
            landmark_files.read_motion(
                path, skeleton=BLAZEPOSE, max_frames=1000, max_seconds=100.0,
                rate_hz=10.0),
            min_visibility=0.6, max_gap_s=0.5, smoothing='none', rate_hz=10.0))
    return drain(generator)


def test_all_rated_recordings_are_told_of_before_the_first_is_read(tmp_path):
    write_folder(tmp_path)
    told = []

    def look_ahead(files):
        told.extend(path.name for path in files)
        for path in files:
            path.unlink()
            yield path

    records, found = read(tmp_path, look_ahead)
    assert sorted(told) == [f'{number}.csv.gz' for number in (0, 1, 3, 4)]
    assert not records and len(found['unprocessable']) == 4  # all were gone by then


def test_rated_recordings_become_records_of_windows(tmp_path):
    write_folder(tmp_path)
    records, found = read(tmp_path)
    assert [record['example_id'] for record in records] == [
        '0@0', '0@1', '0@2', '0@3', '1@0', '1@1', '4@0', '4@1']
    np.testing.assert_allclose(
        [record['targets'][0] for record in records], [0.2] * 4 + [0.4] * 2 + [0] * 2)
    people = [record['patient_id'] for record in records]
    assert len(set(people)) == 2 and people[0] == people[4] != people[6]
    assert 'ada' not in str(people) and records[0]['inputs'].shape == (40, 33, 4)
    assert found['recordings'] == 3 and found['unrated'] == 1
    assert found['subjects'] == 2 and list(found['unprocessable']) == ['3']
    assert 'too short' in found['unprocessable']['3']
    assert found['counts']['frames'] == 95 + 50 + 60


def test_the_recordings_of_a_person_are_one_example_with_the_mean_rating(tmp_path):
    write_folder(tmp_path)
    records, found = read(tmp_path, unit='subject')
    assert {record['case_id'] for record in records} == {
        f'subject-{movements.hash_subject("ada")}'}  # bob's jump is too short
    assert records[0]['targets'][0] == pytest.approx(0.3)
    assert len(records) == 4 and records[0]['inputs'].shape == (120, 33, 4)


def test_a_person_with_two_recordings_of_an_exercise_is_left_out(tmp_path):
    write_folder(tmp_path)
    table = tmp_path / 'ratings.csv'
    table.write_text(table.read_text().replace('ada,jump', 'ada,walk back'))
    assert len(read(tmp_path)[0]) == 8
    with table.open('a') as file:
        file.write('\ncarl,walk,5.csv.gz,50,G')
    landmark_files.write_motion(tmp_path / '5.csv.gz', make_motion(50))
    records, found = read(tmp_path, unit='subject')
    assert len(records) == 2 and len(found['unprocessable']) == 2
    reason = found['unprocessable'][f'subject-{movements.hash_subject("ada")}']
    assert reason == (
        "1.csv.gz shows exercise 'walk', and so does 0.csv.gz of the same person")


def test_exercises_that_nobody_knows_are_counted_and_warned_of(tmp_path, caplog):
    write_folder(tmp_path)
    table = tmp_path / 'ratings.csv'
    text = table.read_text().replace('ada,jump', 'ada,hop')
    table.write_text(text.replace(',walk,', ',walk 2 m,'))
    records, found = read(tmp_path)
    assert found['other_exercise'] == 1
    assert [record['exercise'] for record in records[3:6]] == ['walk', 'other', 'other']
    warned = [line for line in caplog.messages if 'none of the exercises' in line]
    assert len(warned) == 1 and warned[0].endswith('touch toes, walk, jump: 1.csv.gz')
    assert 'ada' not in caplog.text.replace(str(tmp_path), '')


def test_no_rating_at_all_is_one_line(tmp_path):
    write_folder(tmp_path)
    table = tmp_path / 'ratings.csv'
    table.write_text('subject,exercise,video,rating\nada,walk,0.csv.gz,\n')
    with pytest.raises(InputError, match='none of 1 recordings has a rating'):
        read(tmp_path)


def test_recordings_are_found_below_a_folder(tmp_path):
    write_folder(tmp_path)
    (tmp_path / 'b' / 'frames').mkdir(parents=True)
    (tmp_path / 'b' / 'frames' / '1.png').write_bytes(b'')
    (tmp_path / 'b' / 'x.mp4').write_bytes(b'')
    (tmp_path / 'b' / '.hidden.mp4').write_bytes(b'')
    (tmp_path / 'b' / 'notes.txt').write_bytes(b'')
    found = movements.find_recordings(tmp_path, unit='video')
    assert [case for _, case in found] == ['0', '1', '2', '3', '4', 'b/frames', 'b/x']
    people = movements.find_recordings(tmp_path / 'b', unit='subject')
    assert [path.name for path, _ in people] == ['b']
    several = movements.find_recordings(tmp_path, unit='subject')
    assert [case for _, case in several] == [
        f'{tmp_path.name}', f'{tmp_path.name}/b']
    with pytest.raises(InputError, match='no such file'):
        movements.find_recordings(tmp_path / 'none', unit='video')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(InputError, match='neither videos nor'):
        movements.find_recordings(tmp_path / 'empty', unit='video')


@pytest.mark.parametrize('name', ['x.MP4', 'x.csv.gz'])
def test_a_picture_beside_recordings_is_no_recording(tmp_path, name):
    folder = tmp_path / 'p1'
    folder.mkdir()
    for file in ('cover.jpg', name):
        (folder / file).write_bytes(b'')
    for path, case in ((folder, 'x'), (tmp_path, 'p1/x')):
        found = movements.find_recordings(path, unit='video')
        assert found == [(folder / name, case)]
    (folder / name).rename(folder / f'._{name}')
    (folder / 'ratings.csv').write_bytes(b'')
    assert movements.find_recordings(tmp_path, unit='video') == [(folder, 'p1')]


@pytest.mark.parametrize('below', [
    ('p1/walk.csv', 'p2/walk.csv'), ('p1/a/walk.MP4',),
    ('p1/walk/1.png', 'p1/walk/2.png'),
], ids=['landmarks', 'deeper', 'frames'])
def test_a_picture_above_recordings_is_no_recording(tmp_path, below):
    for name in ('setup_photo.jpg', *below):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b'')
    found = movements.find_recordings(tmp_path, unit='video')
    assert [path for path, _ in found] == sorted({
        tmp_path / name if not name.endswith('.png') else (tmp_path / name).parent
        for name in below})


def test_frames_above_smaller_copies_of_them_are_one_video(tmp_path):
    (tmp_path / 'walk/small').mkdir(parents=True)
    (tmp_path / 'walk/.trash').mkdir()
    for name in ('1.png', '2.png', 'small/1.png', 'small/2.png', '.trash/x.mp4'):
        (tmp_path / 'walk' / name).write_bytes(b'')
    for path in (tmp_path, tmp_path / 'walk'):
        found = movements.find_recordings(path, unit='video')
        assert found == [(tmp_path / 'walk', 'walk')]


def test_a_compressed_file_is_named_as_an_open_one(tmp_path):
    landmark_files.write_motion(tmp_path / 'a.csv', make_motion(20))
    (tmp_path / 'a.json.gz').write_bytes(gzip.compress(b'{}'))
    found = movements.find_recordings(tmp_path, unit='video')
    assert len({case for _, case in found}) == 2


def test_drawn_people_become_windows_that_show_them():
    walk = next(walkers.subjects(count=1, seed=0, exercises=('walk',)))
    clean = cleaning.clean(
        walk.motion, min_visibility=0.6, max_gap_s=0.5, smoothing='none', rate_hz=10.0)
    record = cut([('walk', clean)])
    assert 0.5 < record['seen'].mean() <= 1
    assert math.isclose(record['step_s'][0, 0], 0.1, rel_tol=1e-6)
