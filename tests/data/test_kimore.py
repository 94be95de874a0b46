"""One body of a Kinect's is followed, and stands upright."""

import numpy as np
import pytest

from jaxmed.pose.skeletons import BLAZEPOSE, KINECT
from tests.data.landmark_text import body, read, refuse, save_kimore


def test_kinect_axes_become_those_of_the_picture(tmp_path):
    person = body().reshape(25, 4)
    place = KINECT.places
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


@pytest.mark.parametrize('axis', range(3))
@pytest.mark.parametrize('cell', [np.nan, np.inf])
def test_a_joint_that_is_told_in_part_is_refused(tmp_path, axis, cell):
    person = body().reshape(25, 4)
    person[KINECT.places['HandLeft'], axis] = cell
    other = np.concatenate([body(1), person.ravel()])  # of either body
    for row in (person.ravel(), other):
        path = save_kimore(tmp_path / 'a.csv', [body(), body(), row])
        refuse(path, 'line 3, joint HandLeft: some coordinates are no numbers')


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


def test_real_kimore_people_stand_upright_and_face_the_sensor(sample_data):
    place = KINECT.places
    for path in sorted(sample_data.glob('pose/kimore/*_Es1.csv.gz'))[::8]:
        found = read(path, max_frames=5000)
        middle = np.nanmedian(found.joints, axis=0)
        assert middle[place['Head'], 1] < middle[place['SpineBase'], 1]  # y is down
        assert middle[place['ShoulderLeft'], 0] > middle[place['ShoulderRight'], 0]
        feet, ankles = (middle[[place[f'{joint}{side}'] for side in ('Left', 'Right')]]
                        for joint in ('Foot', 'Ankle'))
        assert (feet[:, 2] < ankles[:, 2]).all()  # toes point at the viewer


def test_a_bystander_of_real_kimore_is_not_followed(sample_data):
    found = read(sample_data / 'pose/kimore/S_ID6_Es5.csv.gz')
    assert found.counts['frames_several_people'] == 55
    assert found.counts['frames_nobody'] == 0
    assert (found.joints[:, 0, 0] < 0).all()  # the bystander is on the other side
