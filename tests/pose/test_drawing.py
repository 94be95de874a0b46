"""Skeletons sit where they should, panels tell the index, videos are whole."""

import resource
import subprocess
import sys

import cv2
import numpy as np
import pytest

from jaxmed.errors import ConfigError, InputError
from jaxmed.pose import drawing
from jaxmed.pose.skeletons import BLAZEPOSE, KINECT

JOINTS = {name: number for number, name in enumerate(BLAZEPOSE.joints)}


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
    drawing.draw_panel(picture, 0.7, text=('one',))
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


def bar(index, **options):
    """Coloured pixels in the bar's row of a panel on a picture of scale 1."""
    picture = drawing.draw_panel(
        np.full((900, 500, 3), 90, np.uint8), index, **options)
    row = picture[58]  # the margin is 8, the bar from 48 to 57 below it
    return (row == drawing._CALM).all(-1).sum(), (row == drawing._RED).all(-1).sum()


def test_the_bar_is_as_long_as_the_index_and_red_over_one_half():
    assert bar(0.25)[0] == pytest.approx(0.25 * 244, abs=2)
    assert bar(0.499) == (pytest.approx(0.499 * 244, abs=3), 0)
    # The line at the limit hides a pixel or two of the bar.
    assert bar(0.501) == (0, pytest.approx(0.5 * 244, abs=3))
    assert bar(1.0) == (0, pytest.approx(244, abs=3))
    assert bar(7.0) == bar(1.0)
    assert bar(-3.0)[0] <= 1


def test_without_an_index_there_is_no_bar_and_no_flag():
    for unknown in (None, float('nan')):
        assert bar(unknown, low=0.2, high=0.9) == (0, 0)


def flag(index):
    picture = drawing.draw_panel(np.full((900, 500, 3), 90, np.uint8), index)
    return bool((picture[15:35, 180:270] == drawing._RED).all(-1).sum() > 500)


def test_the_red_flag_is_up_over_one_half():
    assert [flag(index) for index in (None, 0.0, 0.5, 0.51, 0.9)] == [
        False, False, False, True, True]


def test_a_panel_fits_on_a_picture_of_any_size():
    curve = np.arange(9.0), np.array([0.1, np.nan, 0.3, 0.4, np.nan, 0.5, 0.9, 1.2, -1])
    for height, width in (
        (1, 1), (16, 16), (48, 640), (640, 48), (97, 131), (1080, 1920),
    ):
        picture = np.zeros((height, width, 3), np.uint8)
        for some in (None, curve, ((), ())):
            drawn = drawing.draw_panel(
                picture, 0.6, low=0.5, high=0.7, text=('index in 3.0 s', 'x' * 200),
                curve=some, curve_s=4.0)
            assert drawn.shape == picture.shape and drawn.dtype == np.uint8


def plot(index, **options):
    count = len(index)
    given = dict(
        low=None, high=None, quality_time_s=np.arange(30) / 10,
        quality=np.full(30, 0.9), size_hw=(301, 400)) | options
    return drawing.plot_index(np.arange(count) * 0.5, index, **given)


def count_red_dots(picture):
    return int((abs(picture.astype(int) - drawing._RED).max(-1) < 12).sum())


def test_a_plot_marks_what_is_red_and_shows_gaps_and_a_lone_index():
    for index in ([], [np.nan], [0.3], [0.2, np.nan, 0.7], [1.4, -0.3]):
        picture = plot(np.array(index))
        assert picture.shape == (301, 400, 3) and picture.dtype == np.uint8
    line = count_red_dots(plot(np.array([0.2])))
    assert count_red_dots(plot(np.array([0.8]))) > line + 10
    np.testing.assert_array_equal(
        plot(np.array([0.1, 0.9])), plot(np.array([0.1, 0.9])))


def test_a_plot_leaves_pyplot_alone():
    code = (
        'import sys, numpy as np; from jaxmed.pose import drawing; '
        'drawing.plot_index([0.], [.4], [.3], [.5], quality_time_s=[0.], quality=[1.], '
        'size_hw=(200, 300)); assert "matplotlib.pyplot" not in sys.modules')
    subprocess.run([sys.executable, '-c', code], check=True, timeout=60)


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


def test_nobody_at_all_is_refused_and_some_frames_without_anybody_are_not():
    joints, visibility, time_s = moving()
    joints[:40] = np.nan
    visibility[:40] = 0
    assert ((stick(joints, visibility, time_s) == drawing.LEFT).all(-1)).any()
    with pytest.raises(InputError, match='nobody'):
        stick(joints * np.nan, visibility, time_s)
    with pytest.raises(ConfigError, match='view'):
        stick(*moving(), view='above')


def test_the_side_view_shows_depth():
    joints, visibility, time_s = moving()
    joints[..., 2] = 0  # flat: a line from the side
    wide, thin = (
        np.ptp(np.nonzero((stick(
            joints, visibility, time_s, view=view, phases=1) == drawing.LEFT
        ).all(-1))[1]) for view in ('front', 'side'))
    assert thin < 10 < wide


COLOURS = [(200, 40, 40), (40, 180, 40), (40, 60, 210)]


def frames(size_hw):
    for colour in COLOURS:
        yield np.full((*size_hw, 3), colour, np.uint8)


def read(path):
    reader = cv2.VideoCapture(str(path))
    rate_hz, pictures = reader.get(cv2.CAP_PROP_FPS), []
    while True:
        done, picture = reader.read()
        if not done:
            return rate_hz, np.array(pictures)[..., ::-1]
        pictures.append(picture)


def paced(times_s, rate_hz=10.0):
    return list(drawing.pace(
        zip(times_s, range(len(times_s))), rate_hz=rate_hz))


def test_pictures_of_any_times_are_shown_at_their_pace():
    assert paced([]) == [] and paced([7.0]) == [0]
    even = np.arange(50) / 10 + 3
    assert paced(even) == list(range(50))
    # Stamps that are rounded to milliseconds, or late by less than half a picture.
    assert paced(np.round(np.arange(50) / 29.97, 3), 29.97) == list(range(50))
    # 0, 0.1 and 0.5 s: the second stays until the third comes.
    assert paced([0.0, 0.1, 0.5]) == [0, 1, 1, 1, 1, 2]
    assert paced([0.0, 0.01, 0.02, 0.1, 0.12]) == [0, 3]
    assert paced(np.arange(41) / 40) == [0, *range(2, 41, 4)]


def test_of_a_long_silence_ten_seconds_are_shown():
    found = paced([0.0, 3600.0, 3600.1, 3600.2])
    assert found == [0] * 100 + [1, 2, 3]


def test_a_written_video_reads_back_in_order_at_its_rate_with_even_sides(tmp_path):
    path = tmp_path / 'new' / 'walk.mp4'
    assert drawing.write_video(path, frames((45, 63)), rate_hz=12.5) == 3
    rate_hz, pictures = read(path)
    assert rate_hz == pytest.approx(12.5)
    assert pictures.shape == (3, 46, 64, 3)
    np.testing.assert_allclose(pictures.mean(axis=(1, 2)), COLOURS, atol=10)
    assert [each.name for each in path.parent.iterdir()] == ['walk.mp4']


def test_a_video_that_fails_midway_leaves_what_was_there(tmp_path):
    path = tmp_path / 'walk.mp4'
    path.write_bytes(b'before')

    def failing():
        yield from frames((48, 64))
        raise InputError('camera', 'is gone')

    with pytest.raises(InputError, match='is gone'):
        drawing.write_video(path, failing(), rate_hz=30)
    assert path.read_bytes() == b'before'
    assert list(tmp_path.iterdir()) == [path]


def test_what_can_not_be_a_video_is_refused_in_one_line(tmp_path):
    (tmp_path / 'file').write_bytes(b'')
    (tmp_path / 'folder.mp4').mkdir()

    def two_sizes():
        yield from frames((48, 64))
        yield from frames((48, 66))

    for name, pictures, rate_hz, reason in (
        ('walk.avi', frames((48, 64)), 30, 'mp4'),
        ('walk.mp4', frames((48, 64)), 0, 'rate_hz'),
        ('walk.mp4', frames((48, 64)), float('nan'), 'rate_hz'),
        ('walk.mp4', iter(()), 30, 'no pictures'),
        ('walk.mp4', two_sizes(), 30, 'pictures of'),
        ('file/walk.mp4', frames((48, 64)), 30, "can't be written"),
        ('folder.mp4', frames((48, 64)), 30, 'is a folder'),
    ):
        with pytest.raises(InputError, match=reason) as told:
            drawing.write_video(tmp_path / name, pictures, rate_hz=rate_hz)
        assert '\n' not in str(told.value)
    assert sorted(each.name for each in tmp_path.iterdir()) == ['file', 'folder.mp4']


def test_a_full_disk_is_an_error_and_leaves_no_video(tmp_path):
    code = '''
import sys, numpy as np
from jaxmed.errors import InputError
from jaxmed.pose import drawing
noise = np.random.default_rng(0).integers(0, 255, (20, 240, 320, 3), dtype=np.uint8)
try:
    drawing.write_video(sys.argv[1], noise, rate_hz=30)
except InputError as error:
    print(error)
'''
    limit = 64 << 10  # bytes of a file: noise needs more

    done = subprocess.run(
        [sys.executable, '-c', code, str(tmp_path / 'walk.mp4')], text=True, timeout=60,
        capture_output=True, preexec_fn=lambda: resource.setrlimit(
            resource.RLIMIT_FSIZE, (limit, limit)))
    assert 'could be written' in done.stdout, done
    assert not list(tmp_path.iterdir())
