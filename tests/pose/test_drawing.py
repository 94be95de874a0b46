"""Skeletons sit where they should."""


import numpy as np
import pytest

from jaxmed.errors import ConfigError
from jaxmed.pose import drawing
from jaxmed.pose.panel import draw_panel
from jaxmed.pose.skeletons import BLAZEPOSE, KINECT

JOINTS = BLAZEPOSE.places


def pose(**places):
    """Joints at (x, y); all others are NaN."""
    joints = np.full((33, 3), np.nan, np.float32)
    for name, place in places.items():
        joints[JOINTS[name]] = *place, 0
    return joints


def draw(joints, *, visibility=None, ground=128, size=720, hidden='faint'):
    picture = np.full((size, size, 3), ground, np.uint8)
    visibility = np.ones(33) if visibility is None else visibility
    return drawing.draw_pose(
        picture, joints, visibility, skeleton=BLAZEPOSE, visible_from=0.6,
        hidden=hidden)


def person():
    """Joints anywhere in 720 x 720 pixels."""
    return np.random.default_rng(0).uniform(120, 600, (33, 3)).astype(np.float32)


def test_the_left_is_orange_the_right_blue_and_what_joins_them_white():
    picture = draw(pose(
        left_shoulder=(560, 80), left_elbow=(560, 400), right_shoulder=(160, 80),
        right_elbow=(160, 400)))
    assert tuple(picture[240, 560]) == drawing.LEFT
    assert tuple(picture[240, 160]) == drawing.RIGHT
    assert tuple(picture[80, 360]) == drawing.MIDDLE
    assert tuple(picture[560, 360]) == (128, 128, 128)


def test_a_bone_from_the_spine_to_a_limb_has_the_colour_of_the_limb():
    joints = np.full((25, 3), np.nan)
    for name, place in (
        ('SpineBase', (360, 360)), ('HipLeft', (600, 360)), ('HipRight', (120, 360)),
        ('SpineMid', (360, 120)),
    ):
        joints[KINECT.joints.index(name)] = *place, 0
    picture = drawing.draw_pose(
        np.zeros((720, 720, 3), np.uint8), joints, np.ones(25), skeleton=KINECT,
        visible_from=0.5, hidden='omit')
    assert tuple(picture[360, 480]) == drawing.LEFT
    assert tuple(picture[360, 240]) == drawing.RIGHT
    assert tuple(picture[240, 360]) == drawing.MIDDLE


def test_swapping_the_sides_swaps_the_colours_and_nothing_else():
    joints = pose(
        left_shoulder=(560, 80), left_elbow=(600, 400), right_shoulder=(160, 80),
        right_elbow=(120, 400))
    one, other = draw(joints), draw(joints[list(BLAZEPOSE.mirror)])
    orange = (one == drawing.LEFT).all(-1)
    assert orange.sum() > 50
    np.testing.assert_array_equal(orange, (other == drawing.RIGHT).all(-1))


def test_the_picture_that_is_given_stays_as_it_is():
    picture = np.full((720, 720, 3), 7, np.uint8)
    drawing.draw_pose(
        picture, person(), np.full(33, 0.5), skeleton=BLAZEPOSE, visible_from=0.6,
        hidden='faint')
    draw_panel(picture, 0.7, text=('one',))
    assert (picture == 7).all()


def test_what_is_hidden_is_fainter_or_left_out():
    joints = pose(left_shoulder=(560, 80), left_elbow=(560, 400))
    hidden = np.ones(33)
    hidden[JOINTS['left_elbow']] = 0.59
    faint = draw(joints, visibility=hidden)
    np.testing.assert_allclose(  # 0.4 of the colour on 0.6 of the ground
        faint[240, 560], 0.4 * np.array(drawing.LEFT) + 0.6 * 128, atol=1)
    omitted = draw(joints, visibility=hidden, hidden='omit')
    assert tuple(omitted[240, 560]) == (128, 128, 128)
    assert tuple(omitted[80, 560]) == drawing.LEFT  # the shoulder is in view
    hidden[JOINTS['left_elbow']] = 0.6
    assert tuple(draw(joints, visibility=hidden)[240, 560]) == drawing.LEFT


def test_joints_that_are_unknown_or_far_away_are_left_out():
    for nowhere in (np.nan, np.inf, -np.inf, 1e8, -1e30):
        assert (draw(np.full((33, 3), nowhere, np.float32)) == 128).all(), nowhere
    for nowhere in (np.nan, 1e30):
        lone = draw(pose(left_shoulder=(560, 80), left_elbow=(560, nowhere)))
        assert (lone[120:] == 128).all()


@pytest.mark.parametrize('far', [800, 1e4, 1e6])
def test_a_bone_that_leaves_the_picture_is_drawn_up_to_its_edge(far):
    picture = draw(pose(left_shoulder=(360, 240), left_elbow=(far, 240)))
    assert (picture[240, 360:] == drawing.LEFT).all()
    assert (picture[240, :330] == 128).all()
    across = draw(pose(left_shoulder=(-far, -far), left_elbow=(far, far)))
    diagonal = across[np.arange(720), np.arange(720)]
    assert (diagonal == drawing.LEFT).all()


def test_lines_are_thicker_on_larger_pictures():
    def breadth(size):
        picture = draw(
            pose(left_shoulder=(size / 2, 10), left_elbow=(size / 2, size - 10)),
            size=size)
        return int((picture[size // 2] == drawing.LEFT).all(-1).sum())

    assert breadth(1440) >= 3 * breadth(360) > 0


@pytest.mark.parametrize('ground', [0, 70, 128, 200, 255])
def test_a_bone_stands_out_from_any_ground(ground):
    picture = draw(pose(left_hip=(160, 360), right_hip=(560, 360)), ground=ground)
    column = picture[:, 360].astype(int).mean(axis=-1)
    assert abs(column - ground).max() > 100


def test_a_wrong_number_of_joints_is_refused():
    with pytest.raises(ValueError, match='25 joints.*expected 33'):
        draw(np.zeros((25, 3)), visibility=np.ones(25))
    with pytest.raises(ConfigError, match='hidden'):
        draw(person(), hidden='blurred')


def moving(frames=60):
    """Somebody who bends: [T, 33, 3] and visibilities."""
    base = person() / 100
    bend = np.linspace(0, 0.3, frames)[:, None]
    joints = np.repeat(base[None], frames, axis=0)
    joints[:, :11, 1] += bend
    return joints, np.ones((frames, 33)), np.arange(frames) / 30


def stick(joints, visibility, time_s, **options):
    return drawing.draw_skeleton(
        joints, visibility, time_s, skeleton=BLAZEPOSE, visible_from=0.5,
        **dict(phases=4, size_hw=(200, 480)) | options)


def test_each_phase_has_a_figure_in_its_own_column():
    picture = stick(*moving())
    assert picture.shape == (200, 480, 3)
    orange = (picture == drawing.LEFT).all(-1)
    assert (orange.reshape(200, 4, 120).sum(axis=(0, 2)) > 30).all()


def test_a_figure_looks_the_same_wherever_it_stands_and_in_whatever_unit():
    joints, visibility, time_s = moving()
    one = stick(joints, visibility, time_s)
    other = stick(joints * 4 + np.array([32, -8, 16]), visibility, time_s)
    assert (one != other).any(-1).mean() < 0.002  # float rounding


def test_a_sensor_that_jumps_in_one_frame_makes_nobody_small():
    joints, visibility, time_s = moving(401)
    jumping = joints.copy()
    jumping[7] += 500
    drawn = [
        (stick(each, visibility, time_s) != drawing._PAPER).any(-1).sum()
        for each in (joints, jumping)]
    assert drawn[1] > 0.8 * drawn[0]


def test_frames_without_anybody_are_passed_over_and_nobody_at_all_is_told():
    joints, visibility, time_s = moving()
    joints[:40] = np.nan
    visibility[:40] = 0
    assert ((stick(joints, visibility, time_s) == drawing.LEFT).all(-1)).any()
    empty = stick(joints * np.nan, visibility, time_s)
    assert 0 < (empty != empty[0, 0]).any(-1).sum() < empty[..., 0].size / 20
    with pytest.raises(ConfigError, match='view'):
        stick(*moving(), view='above')


def test_somebody_of_whom_little_is_seen_is_drawn():
    joints, visibility, time_s = moving()
    hips, shoulders = BLAZEPOSE.hips, BLAZEPOSE.shoulders
    joints[:, np.setdiff1d(np.arange(33), [*hips, *shoulders])] = np.nan
    assert (stick(joints, visibility, time_s) == drawing.LEFT).all(-1).any()


def test_the_side_view_shows_depth():
    joints, visibility, time_s = moving()
    joints[..., 2] = 0  # flat: a line from the side
    wide, thin = (
        np.ptp(np.nonzero((stick(
            joints, visibility, time_s, view=view, phases=1) == drawing.LEFT
        ).all(-1))[1]) for view in ('front', 'side'))
    assert thin < 10 < wide
