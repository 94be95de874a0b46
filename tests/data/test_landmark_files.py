"""Landmark files: three layouts, bodies that come and go, clear refusals."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest

from jaxmed.data import landmark_files
from jaxmed.data.landmark_files import read_motion, write_motion
from jaxmed.errors import InputError
from jaxmed.pose.skeletons import BLAZEPOSE, KINECT, Motion

OPTIONS = dict(skeleton=KINECT, max_frames=1000, max_seconds=60.0, rate_hz=30.0)
PICTURE = dict(skeleton=BLAZEPOSE, size_hw=(480, 640))
NAMES = BLAZEPOSE.joints


def read(path, **options):
    return read_motion(path, **(OPTIONS | options))


def refuse(path, reason, **options):
    """Asserts that a file is refused in one line with its name and `reason`."""
    with pytest.raises(InputError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert message.startswith(str(path)) and '\n' not in message
    assert reason in message, message


def body(x=0.0, *, y=0.0, z=3.0, state=2):
    """100 numbers: a body of metre-high joints around (x, y, z)."""
    joints = np.zeros((25, 4))
    joints[:, 0], joints[:, 2], joints[:, 3] = x, z, state
    joints[:, 1] = y + np.linspace(-0.5, 0.5, 25)
    return joints.ravel()


def save_kimore(path, rows):
    path.write_text('\n'.join(','.join(f'{v:.4f}' for v in row) for row in rows))
    return path


@pytest.fixture
def motion():
    rng = np.random.default_rng(0)
    joints = rng.normal(size=(4, 33, 3)).astype(np.float32)
    visibility = rng.uniform(size=(4, 33)).astype(np.float32)
    joints[1], visibility[1] = np.nan, 0
    joints[2, 5], visibility[2, 5] = np.nan, 0
    return Motion(joints, visibility, np.array([0, 1 / 30, 0.1, 1 / 7]), 'blazepose')


@pytest.fixture
def rows(motion):
    """A named table as columns -> cells."""
    table = {'time_s': motion.time_s}
    for joint, name in enumerate(NAMES):
        for axis in range(3):
            table[f'{"xyz"[axis]}_{name}'] = motion.joints[:, joint, axis]
        table[f'visibility_{name}'] = motion.visibility[:, joint]
    return table


def save_named(path, table):
    lines = [','.join(table)]
    lines += [','.join(map(str, cells)) for cells in zip(*table.values())]
    path.write_text('\n'.join(lines) + '\n')
    return path


@pytest.mark.parametrize('name', ['a.csv', 'a.csv.gz'])
def test_what_is_written_is_read_back_to_the_last_bit(tmp_path, motion, name):
    write_motion(tmp_path / name, motion)
    back = read(tmp_path / name, skeleton='blazepose')
    np.testing.assert_array_equal(back.joints, motion.joints)
    np.testing.assert_array_equal(back.visibility, motion.visibility)
    np.testing.assert_array_equal(back.time_s, motion.time_s)
    assert back.joints.dtype == back.visibility.dtype == np.float32
    assert back.counts == {'layout': 'named columns', 'frames': 4, 'frames_nobody': 1}
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_equal_motions_become_equal_files(tmp_path, motion):
    for name in ('a.csv.gz', 'b.csv.gz'):
        write_motion(tmp_path / name, motion)
    assert (tmp_path / 'a.csv.gz').read_bytes() == (tmp_path / 'b.csv.gz').read_bytes()
    with pytest.raises(InputError, match='written as .csv or .csv.gz'):
        write_motion(tmp_path / 'a.json', motion)


def test_columns_may_be_in_any_order_with_any_case_and_others_among_them(
    tmp_path, motion, rows
):
    table = {'Pose ID': ['a', 'b,c', 'd', 'e']} | dict(reversed(rows.items()))
    table = {
        name.replace('left_pinky', 'LeftPinky_1').replace('_nose', '_Nose'): cells
        for name, cells in table.items() if name != 'visibility_right_hip'}
    table['Pose ID'] = [f'"{cell}"' for cell in table['Pose ID']]
    found = read(save_named(tmp_path / 'a.csv', table), skeleton=BLAZEPOSE)
    np.testing.assert_array_equal(found.joints, motion.joints)
    hip = NAMES.index('right_hip')
    np.testing.assert_array_equal(found.visibility[:, hip], [1, 0, 1, 1])
    others = np.arange(33) != hip
    np.testing.assert_array_equal(
        found.visibility[:, others], motion.visibility[:, others])


def test_without_time_stamps_the_rate_tells_the_time(tmp_path, rows):
    del rows['time_s']
    found = read(save_named(tmp_path / 'a.csv', rows), skeleton=BLAZEPOSE, rate_hz=10)
    np.testing.assert_allclose(found.time_s, [0, 0.1, 0.2, 0.3])


def test_time_in_milliseconds_starts_with_the_first_frame(tmp_path, rows):
    rows = {'Timestamp_ms': [500, 533, 600, 633]} | rows
    del rows['time_s']
    found = read(save_named(tmp_path / 'a.csv', rows), skeleton=BLAZEPOSE)
    np.testing.assert_allclose(found.time_s, [0, 0.033, 0.1, 0.133])


def test_an_empty_cell_is_a_joint_that_is_unknown(tmp_path, rows, motion):
    rows['y_nose'] = ['', *rows['y_nose'][1:]]
    rows['visibility_left_hip'] = ['', *rows['visibility_left_hip'][1:]]
    found = read(save_named(tmp_path / 'a.csv', rows), skeleton=BLAZEPOSE)
    assert np.isnan(found.joints[0, 0]).all() and found.visibility[0, 0] == 0
    np.testing.assert_array_equal(found.joints[0, 1:], motion.joints[0, 1:])
    assert found.visibility[0, NAMES.index('left_hip')] == 1  # there, and no word of it


def test_tables_that_are_no_landmarks_are_refused(tmp_path, rows):
    def table(**changes):
        changed = {k: v for k, v in (rows | changes).items() if v is not None}
        return save_named(tmp_path / 'a.csv', changed)

    def blaze(path, reason, **options):
        refuse(path, reason, **({'skeleton': BLAZEPOSE} | options))

    blaze(table(x_nose=[1, 'Miller', 2, 3]), 'line 3: column 2 holds no number')
    blaze(table(z_nose=None), 'no column z_nose')
    blaze(table(x_nose=None, y_nose=None, z_nose=None), '32 joints, 33 are needed')
    blaze(table(x_tail=[0] * 4), '34 joints, 33 are needed')
    blaze(table(x_nose=None, y_nose=None, z_nose=None, x_tail=[0] * 4), "no joint 'no")
    blaze(table(), '33 joints, 25 are needed', skeleton=KINECT)
    blaze(table(X_Nose=[0] * 4), "'X_Nose' is there twice")
    blaze(table(time_s=[0, 2, 1, 3]), 'line 4: time does not increase')
    blaze(table(time_s=[0, 1, '', 3]), 'line 4: no finite time')
    blaze(table(visibility_nose=[87] * 4), 'visibilities outside 0 to 1')
    blaze(table(), '4 frames, limit 3', max_frames=3)
    path = table()
    path.write_text(path.read_text().splitlines()[0])
    blaze(path, 'names of columns and no frames')
    path.write_text(table().read_text()[:-30])
    blaze(path, 'line 5: ')
    path.write_text(table().read_text().replace(',', ';'))
    blaze(path, 'separated by semicolons')
    path.write_text('subject,exercise\na,b\n')
    blaze(path, 'no columns x_NAME')


def test_files_that_are_no_text_or_not_there_are_refused(tmp_path):
    path = tmp_path / 'a.csv'
    refuse(path, 'no such file')
    refuse(tmp_path, 'not a file')
    path.write_bytes(b'')
    refuse(path, 'empty file')
    path.write_bytes(b'\xff\xd8\xff\xe0' * 9)
    refuse(path, 'not text')
    path.write_bytes(b'1,2\0')
    refuse(path, 'not text')
    path.write_bytes(gzip.compress(b'1,2,3\n' * 9999)[:-20])
    refuse(path, 'damaged or truncated')


def test_a_gzip_bomb_is_left_before_it_fills_the_memory(tmp_path):
    path = tmp_path / 'a.csv.gz'
    path.write_bytes(gzip.compress(b'0,' * (8 << 20), 1))
    refuse(path, 'over 1 MiB, the limit for 3 frames', max_frames=3)


def test_kinect_axes_become_those_of_the_picture(tmp_path):
    person = body().reshape(25, 4)
    place = {name: i for i, name in enumerate(KINECT.joints)}
    # Facing the sensor: the left hand is on the sensor's right, where x is negative.
    person[place['HandLeft'], :3] = -0.7, 0.2, 2.5
    person[place['Head'], :3] = 0.0, 0.9, 3.0
    found = read(save_kimore(tmp_path / 'a.csv', [person.ravel()]))
    np.testing.assert_allclose(
        found.joints[0, place['HandLeft']], [0.7, -0.2, 2.5], rtol=1e-6)
    np.testing.assert_allclose(found.joints[0, place['Head']], [0, -0.9, 3], rtol=1e-6)


def test_tracking_states_become_visibilities_and_zeros_nobody(tmp_path):
    person = body().reshape(25, 4)
    person[:3, 3] = 0, 1, 2
    person[3, :3] = 0
    path = save_kimore(
        tmp_path / 'a.csv',
        [person.ravel(), np.zeros(100), np.full(100, np.nan), body()])
    found = read(path)
    np.testing.assert_allclose(found.visibility[0, :5], [0, 0.7, 1, 0, 1])
    assert np.isnan(found.joints[0, 3]).all() and np.isfinite(found.joints[0, 0]).all()
    assert np.isnan(found.joints[1:3]).all() and not found.visibility[1:3].any()
    assert found.counts['frames'] == 4 and found.counts['frames_nobody'] == 2
    assert found.counts['joints_inferred_share'] == pytest.approx(1 / 49)
    np.testing.assert_allclose(found.time_s, np.arange(4) / 30)


def test_the_body_of_the_other_rows_is_followed_wherever_it_stands_in_a_row(tmp_path):
    def person(t):
        return body(0.2 + 0.01 * t)

    rows = [np.concatenate([body(-1), person(0)])]
    rows += [person(t) for t in range(1, 5)]
    rows += [np.concatenate([body(-1), person(t), body(1.5)]) for t in range(5, 8)]
    rows += [np.concatenate([person(t), body(-1)]) for t in range(8, 10)]
    found = read(save_kimore(tmp_path / 'a.csv', rows))
    np.testing.assert_allclose(
        found.joints[:, 0, 0], -0.2 - 0.01 * np.arange(10), atol=1e-6)
    assert found.counts['frames_several_people'] == 6
    assert found.counts['frames_jumped'] == found.counts['frames_nobody'] == 0


@pytest.mark.parametrize('away', [range(10, 14), range(0, 3), range(17, 20)])
def test_who_jumps_by_metres_for_a_while_is_absent_for_that_while(tmp_path, away):
    rows = [body(0.01 * t + 2.0 * (t in away)) for t in range(20)]
    found = read(save_kimore(tmp_path / 'a.csv', rows))
    gone = np.isin(np.arange(20), away)
    np.testing.assert_array_equal(np.isnan(found.joints[:, 0, 0]), gone)
    np.testing.assert_allclose(
        found.joints[~gone, 0, 0], -0.01 * np.arange(20)[~gone], atol=1e-6)
    assert found.counts['frames_jumped'] == found.counts['frames_nobody'] == len(away)
    assert found.counts['jumps'] == 1


def test_a_hand_that_flies_off_does_not_lose_the_body(tmp_path):
    rows = [body() for _ in range(5)]
    rows[2].reshape(25, 4)[:9, 0] = 3.0
    assert read(save_kimore(tmp_path / 'a.csv', rows)).counts['jumps'] == 0


def test_fast_people_are_still_followed(tmp_path):
    rows = [body(0.2 * t) for t in range(10)]  # 6 m/s
    assert read(save_kimore(tmp_path / 'a.csv', rows)).counts['jumps'] == 0


def test_the_body_that_is_tracked_better_is_taken_where_two_stay(tmp_path):
    rows = [np.concatenate([body(-1, state=1), body(0.5)])] * 8
    found = read(save_kimore(tmp_path / 'a.csv', rows))
    np.testing.assert_allclose(found.joints[:, 0, 0], -0.5)


def test_rows_that_are_no_kinect_bodies_are_refused(tmp_path):
    path = tmp_path / 'a.csv'
    refuse(save_kimore(path, [body(), body()[:75]]), 'line 2 has 75 values: 25 joints')
    refuse(save_kimore(path, [np.ones(132)]), 'line 1 has 33 joints: 25 joints of x')
    refuse(save_kimore(path, [np.ones(700)]), 'for 1 to 6 bodies')
    refuse(save_kimore(path, [body()]), '25 joints, 33 are needed', skeleton=BLAZEPOSE)
    refuse(save_kimore(path, [body(), body(state=7)]), 'line 2: a tracking state')
    refuse(save_kimore(path, [np.zeros(100)] * 3), 'nobody is in any of its 3 frames')
    refuse(save_kimore(path, [body()] * 5), '5 frames, limit 4', max_frames=4)
    save_kimore(path, [body()] * 3)
    path.write_text(path.read_text().replace('3.0000', 'Miller', 30))
    refuse(path, 'line 1: column 3 holds no number')
    path.write_text(save_kimore(path, [body()] * 3).read_text()[:-50])
    refuse(path, 'line 3 has ')


def test_a_comma_after_the_last_value_is_none(tmp_path):
    path = save_kimore(tmp_path / 'a.csv', [body()] * 2)
    path.write_text(path.read_text().replace('\n', ',\r\n') + ',\r\n')
    assert read(path).joints.shape == (2, 25, 3)


def frames(*numbers):
    return {f'{n:.1f}': {name.capitalize(): [n / 100, 0.5, -0.1] for name in NAMES}
            for n in numbers}


def save_json(path, content):
    path.write_text(json.dumps(content))
    return path


def test_frames_of_json_are_sorted_by_number_and_missing_ones_take_their_time(tmp_path):
    path = save_json(tmp_path / 'a.json', {'positions': frames(10, 2, 1, 3)})
    found = read(path, **PICTURE)
    np.testing.assert_allclose(found.joints[:, 7, 0], [6.4, 12.8, 19.2, 64])
    np.testing.assert_allclose(found.time_s, np.array([0, 1, 2, 9]) / 30)
    assert (found.visibility == 1).all() and found.counts['layout'] == 'keraal'


def test_shares_of_the_picture_become_pixels_and_its_depth_a_quarter(tmp_path):
    path = save_json(tmp_path / 'a.json', {'positions': frames(1)})
    found = read(path, **PICTURE)
    np.testing.assert_allclose(found.joints[0, 0], [6.4, 240, -16], rtol=1e-6)
    assert found.size_hw == (480, 640)


def test_shares_of_a_picture_of_unknown_size_are_refused(tmp_path):
    path = save_json(tmp_path / 'a.json', {'positions': frames(1)})
    refuse(path, 'set landmark_size_hw', skeleton=BLAZEPOSE)


def test_the_size_of_a_picture_leaves_pixels_and_metres_alone(tmp_path, motion):
    write_motion(tmp_path / 'a.csv', motion)
    found = read(tmp_path / 'a.csv', **PICTURE)
    np.testing.assert_array_equal(found.joints, motion.joints)
    path = save_kimore(tmp_path / 'b.csv', [body(0.5)])
    metres = read(path, size_hw=(480, 640))
    np.testing.assert_array_equal(metres.joints, read(path).joints)
    assert found.size_hw is metres.size_hw is None


@pytest.mark.parametrize('times, reason', [
    (['0', '1', 'inf', '2'], 'line 4: no finite time'),
    (['nan', '1', '2', '3'], 'line 2: no finite time'),
    (['', '1', '2', '3'], 'line 2: no finite time'),
    (['0', '1', '-inf', '2'], 'line 4: no finite time'),
    (['0', '1', '2', '1e15'], 'from its first frame to its last are 1e+15 s, limit 60'),
    (['-1e308', '0', '1', '1e308'], 'are inf s, limit 60'),
    (['0', '33', '67', '100'], 'are 100 s, limit 60 (is its time in seconds?)'),
])
def test_time_stamps_that_nobody_filmed_are_refused(tmp_path, rows, times, reason):
    path = save_named(tmp_path / 'a.csv', rows | {'time_s': times})
    refuse(path, reason, skeleton=BLAZEPOSE)


def test_numbers_of_frames_far_apart_and_too_long_a_recording_are_refused(tmp_path):
    path = save_json(tmp_path / 'a.json', {'positions': {
        '0': frames(1)['1.0'], '1e12': frames(1)['1.0']}})
    refuse(path, 'limit 60', **PICTURE)
    path = save_kimore(tmp_path / 'b.csv', [body()] * 62)
    assert read(path, rate_hz=1.0, max_seconds=61.0).time_s[-1] == 61
    refuse(path, 'are 61 s, limit 60', rate_hz=1.0)


def test_joints_that_json_leaves_out_are_unknown(tmp_path):
    positions = frames(1, 2, 3)
    del positions['1.0']['Nose']
    positions['2.0']['Nose'] = None
    positions['3.0'] = {}
    positions['1.0']['Left_eye'] = [0.1, 0.2, 0.3, 0.4]
    path = save_json(tmp_path / 'a.json', {'positions': positions})
    found = read(path, **PICTURE)
    assert np.isnan(found.joints[:, 0]).all() and np.isnan(found.joints[2]).all()
    assert found.visibility[0, NAMES.index('left_eye')] == np.float32(0.4)
    assert found.counts['frames_nobody'] == 1


def test_other_json_is_refused(tmp_path):
    def blaze(content, reason, **options):
        path = save_json(tmp_path / 'a.json', content)
        refuse(path, reason, **({'skeleton': BLAZEPOSE} | options))

    blaze([1, 2], 'another layout')
    blaze({'landmarks': {}}, 'another layout')
    blaze({'positions': [1]}, 'another layout')
    blaze({'positions': {}}, 'no frames')
    blaze({'positions': {'first': {}}}, "frame 'first' is no number")
    blaze({'positions': {'1': {}, '1.0': {}}}, 'a frame is there twice')
    blaze({'positions': {'1': [1, 2]}}, 'a frame is not joint')
    blaze({'positions': frames(1, 2)}, '2 frames, limit 1', max_frames=1)
    blaze({'positions': frames(1)}, '33 joints, 25 are needed', skeleton=KINECT)
    for point in ([1, 2], 'abc', 7, [1, 2, 'c'], [1, 2, [3]]):
        positions = frames(1, 2)
        positions['2.0']['Nose'] = point
        blaze({'positions': positions}, 'frame 2: a joint is not [x, y, z]')
    path = tmp_path / 'a.json'
    path.write_text('{"positions": {"1.0": ')
    refuse(path, 'not JSON')
    path.write_text('[' * 100000)
    refuse(path, 'not JSON')


def test_landmark_files_of_a_folder_are_found_and_tables_of_ratings_are_not(tmp_path):
    for name in ('b.csv', 'a/c.JSON', 'a.csv.gz', 'ratings.csv', '.d.csv', 'e.mp4'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('')
    found = landmark_files.find_motions(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        'a/c.JSON', 'a.csv.gz', 'b.csv']
    assert landmark_files.find_motions(tmp_path / 'b.csv') == [tmp_path / 'b.csv']
    with pytest.raises(InputError, match='no such file or folder'):
        landmark_files.find_motions(tmp_path / 'x')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(InputError, match='no files of landmarks'):
        landmark_files.find_motions(tmp_path / 'empty')


@pytest.fixture
def samples():
    if 'JAXMED_SAMPLE_DATA' not in os.environ:
        pytest.skip('JAXMED_SAMPLE_DATA is unset')
    return Path(os.environ['JAXMED_SAMPLE_DATA'], 'pose')


def test_real_kimore_people_stand_upright_and_face_the_sensor(samples):
    place = {name: i for i, name in enumerate(KINECT.joints)}
    for path in sorted(samples.glob('kimore/*_Es1.csv.gz'))[::8]:
        found = read(path, max_frames=5000)
        middle = np.nanmedian(found.joints, axis=0)
        assert middle[place['Head'], 1] < middle[place['SpineBase'], 1]  # y is down
        assert middle[place['ShoulderLeft'], 0] > middle[place['ShoulderRight'], 0]
        feet, ankles = (middle[[place[f'{joint}{side}'] for side in ('Left', 'Right')]]
                        for joint in ('Foot', 'Ankle'))
        assert (feet[:, 2] < ankles[:, 2]).all()  # toes point at the viewer


def test_a_bystander_of_real_kimore_is_not_followed(samples):
    found = read(samples / 'kimore/S_ID6_Es5.csv.gz')
    assert found.counts['frames_several_people'] == 55
    assert found.counts['frames_nobody'] == 0
    assert (found.joints[:, 0, 0] < 0).all()  # the bystander is on the other side


def test_real_single_poses_and_keraal_files_are_read(samples):
    poses = read(samples / 'blazepose/landmarks.csv', skeleton=BLAZEPOSE)
    assert poses.joints.shape == (600, 33, 3) and np.isfinite(poses.joints).all()
    for path in samples.glob('keraal/*.json'):
        found = read(path, **PICTURE)
        assert len(found.time_s) > 150 and found.counts['frames_nobody'] == 0
