"""Columns are found by their names, in any order."""

import numpy as np
import pytest

from jaxmed.data.landmark_files import write_motion
from jaxmed.pose.skeletons import BLAZEPOSE, KINECT, Motion
from tests.data.landmark_text import NAMES, PICTURE, read, refuse, save_named


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


def test_a_joint_whose_cells_are_empty_or_nan_was_not_seen(tmp_path, rows, motion):
    for axis, cell in (('x', ''), ('y', 'nan'), ('z', 'NaN'), ('visibility', '')):
        rows[f'{axis}_nose'] = [cell, *rows[f'{axis}_nose'][1:]]
    del rows['visibility_left_hip']
    found = read(save_named(tmp_path / 'a.csv', rows), skeleton=BLAZEPOSE)
    assert np.isnan(found.joints[0, 0]).all() and found.visibility[0, 0] == 0
    np.testing.assert_array_equal(found.joints[0, 1:], motion.joints[0, 1:])
    hip = NAMES.index('left_hip')  # there, and no word of its visibility
    assert found.visibility[0, hip] == 1


@pytest.mark.parametrize('column, reason', [
    ('y_nose', 'frame 3, joint nose: some coordinates are no numbers'),
    ('z_left_hip', 'frame 3, joint left_hip: some coordinates are no numbers'),
    ('visibility_nose', 'line 4: no visibility of nose'),
])
def test_a_joint_that_is_told_in_part_is_refused(tmp_path, rows, column, reason):
    rows[column] = [*rows[column][:2], 'nan', rows[column][3]]
    refuse(save_named(tmp_path / 'a.csv', rows), reason, skeleton=BLAZEPOSE)


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


# Axes and units.

def stand(*, hips=(300.0, 260.0), torso=100.0, frames=4):
    """A person who stands in a picture of 480 x 640 pixels: (x, y, z) [T, 33, 3]."""
    joints = np.zeros((frames, 33, 3), np.float32)
    heights = {'shoulder': 1.0, 'hip': 0.0, 'knee': -0.8, 'ankle': -1.6}
    for number, name in enumerate(NAMES):
        side, _, part = name.partition('_')
        across = {'left': 0.2, 'right': -0.2}.get(side, 0.0)
        joints[:, number, 0] = hips[0] + across * torso
        joints[:, number, 1] = hips[1] - heights.get(part, 0.5) * torso
        joints[:, number, 2] = across * torso
    return joints


def save(path, joints):
    write_motion(path, Motion(
        joints.astype(np.float32), np.ones(joints.shape[:2], np.float32),
        np.arange(len(joints)) / 30, 'blazepose'))
    return path


def test_a_body_whose_y_goes_up_is_refused(tmp_path):
    path, joints = tmp_path / 'a.csv', stand()
    reason = 'in 4 of 4 frames: does its y go up? It must go down'
    for turned in (joints * [1, -1, 1], [0, 480, 0] + joints * [1, -1, 1]):
        refuse(save(path, turned), reason, **PICTURE)
    # Without their feet, too.
    feet = [number for number, name in enumerate(NAMES) if 'ankle' in name]
    turned[:, feet] = np.nan
    refuse(save(path, turned), reason, **PICTURE)
    turned[0] = joints[0]
    assert len(read(save(path, turned), **PICTURE).time_s) == 4  # 3 of 4


def test_who_bends_down_or_lies_is_no_body_whose_y_goes_up(tmp_path):
    path, joints = tmp_path / 'a.csv', stand()
    hips = NAMES.index('left_hip')
    above = np.arange(33) < hips
    bent = joints.copy()
    bent[:, above, 1] = 2 * 260 - bent[:, above, 1]  # all the time
    # Head down on a slope, shoulders a little lower than hips, feet on a chair.
    lying = stand()[..., [1, 0, 2]]
    lying[..., 1] -= 0.1 * (lying[..., 0] - 260)
    for pose in (bent, lying):
        np.testing.assert_array_equal(read(save(path, pose), **PICTURE).joints, pose)


def test_shares_of_a_picture_become_pixels_once_its_size_is_told(tmp_path):
    joints = stand()
    joints[0, 0] = np.nan
    shares = joints / np.float32([640, 480, 640 / 4])
    path = save(tmp_path / 'a.csv', shares)
    refuse(path, 'set landmark_size_hw', skeleton=BLAZEPOSE)
    found = read(path, **PICTURE)
    np.testing.assert_allclose(found.joints, joints, rtol=1e-5, atol=1e-4)
    assert found.size_hw == (480, 640)
    # Their feet out of the picture.
    lower = shares + np.float32([0, 0.6, 0])
    refuse(save(path, lower), 'set landmark_size_hw', skeleton=BLAZEPOSE)


def test_metres_about_the_hips_and_pixels_are_taken_as_they_are(tmp_path):
    for joints in (stand(hips=(0, 0), torso=0.5), stand()):
        path = save(tmp_path / 'a.csv', joints)
        for options in (PICTURE, dict(skeleton=BLAZEPOSE)):
            np.testing.assert_array_equal(read(path, **options).joints, joints)
