import os
from pathlib import Path

import numpy as np
import pytest

from jaxmed.data.landmark_files import read_motion
from jaxmed.errors import ConfigError, InputError
from jaxmed.pose import cleaning
from jaxmed.pose.cleaning import OneEuro, Savgol
from jaxmed.pose.skeletons import KINECT, Motion

OPTIONS = dict(min_visibility=0.6, max_gap_s=0.2, smoothing='none', rate_hz=30.0)


def clean(motion, **options):
    return cleaning.clean(motion, **(OPTIONS | options))


def make_motion(frames=30, *, rate_hz=30.0, time_s=None):
    """A body 2 units high that moves right at 1 unit a second, wholly visible."""
    time_s = np.arange(frames) / rate_hz if time_s is None else np.array(time_s, float)
    rng = np.random.default_rng(0)
    pose = rng.normal(size=(25, 3)) * 0.1
    pose[list(KINECT.hips)] = [[0.1, 1, 0], [-0.1, 1, 0]]
    pose[list(KINECT.shoulders)] = [[0.2, 0, 0], [-0.2, 0, 0]]
    joints = np.repeat(pose[None], len(time_s), axis=0)
    joints[..., 0] += time_s[:, None]
    return Motion(joints.astype(np.float32), np.ones(joints.shape[:2], np.float32),
                  time_s, 'kinect')


def hide(motion, frames, joint=7, visibility=0.3):
    motion.visibility[frames, joint] = visibility
    motion.joints[frames, joint] = 99.0
    return motion


def test_a_clean_motion_stays_as_it_is():
    motion = make_motion()
    found = clean(motion)
    np.testing.assert_allclose(found.joints, motion.joints, atol=1e-6)
    np.testing.assert_allclose(found.time_s, motion.time_s)
    assert found.joints.dtype == found.visibility.dtype == np.float32
    assert found.counts == {
        'frames_before': 30, 'frames_after': 30, 'frames_trimmed': 0,
        'joints_dropped_share': 0.0, 'joints_jumped_share': 0.0,
        'gaps_filled_share': 0.0, 'joints_unknown_share': 0.0}


def test_a_short_gap_is_filled_in_a_line_and_keeps_its_visibility():
    truth = make_motion()
    found = clean(hide(make_motion(), slice(10, 15)))  # 6 steps between known ones
    np.testing.assert_allclose(found.joints, truth.joints, atol=1e-6)
    np.testing.assert_allclose(found.visibility[10:15, 7], 0.3)
    assert found.counts['joints_dropped_share'] == pytest.approx(5 / 750)
    assert found.counts['gaps_filled_share'] == pytest.approx(5 / 750)


def test_a_long_gap_stays_unknown():
    found = clean(hide(make_motion(), slice(10, 16)))
    assert np.isnan(found.joints[10:16, 7]).all()
    assert np.isfinite(found.joints[:, :7]).all() and np.isfinite(
        found.joints[[9, 16], 7]).all()
    assert found.counts['gaps_filled_share'] == 0
    assert found.counts['joints_unknown_share'] == pytest.approx(6 / 750)


def test_at_the_ends_the_nearest_known_value_is_held_for_as_long():
    found = clean(hide(hide(make_motion(), slice(0, 6)), slice(23, 30)))
    np.testing.assert_allclose(
        found.joints[:6, 7], np.repeat(found.joints[6:7, 7], 6, axis=0))
    assert np.isnan(found.joints[23:, 7]).all()


def test_a_gap_is_measured_in_seconds():
    time_s = [0, 0.1, 0.2, 0.29, 0.38, 0.5]
    truth = make_motion(time_s=time_s)
    found = clean(hide(make_motion(time_s=time_s), [3]), rate_hz=10)
    np.testing.assert_allclose(found.joints[3, 7, 0], truth.joints[0, 7, 0] + 0.3,
                               rtol=1e-5)
    found = clean(hide(make_motion(time_s=time_s), [3]), rate_hz=10, max_gap_s=0.17)
    assert np.isnan(found.joints[3, 7]).all()


def test_a_joint_that_jumps_is_put_back_and_a_move_is_left_alone():
    motion = make_motion()
    motion.joints[12:14, 7, 1] += 5.0
    motion.joints[20:, 8, 1] += 5.0  # goes somewhere, and stays
    found = clean(motion)
    truth = make_motion().joints
    np.testing.assert_allclose(found.joints[:, 7], truth[:, 7], atol=1e-6)
    np.testing.assert_allclose(found.joints[:, 8], motion.joints[:, 8], atol=1e-6)
    assert found.counts['joints_jumped_share'] == pytest.approx(2 / 750)


def test_ends_without_anybody_are_cut_off_and_time_stamps_stay():
    motion = make_motion()
    for frames in (slice(0, 8), slice(22, 30)):
        motion.joints[frames], motion.visibility[frames] = np.nan, 0
    found = clean(motion, max_gap_s=0.1)
    assert len(found.time_s) == 14 and found.time_s[0] == pytest.approx(8 / 30)
    assert found.counts['frames_trimmed'] == 16
    np.testing.assert_allclose(found.joints, motion.joints[8:22], atol=1e-6)


def test_nobody_at_all_is_a_motion_without_frames():
    motion = make_motion()
    motion.visibility[:] = 0.5
    found = clean(motion, smoothing='savgol', savgol=Savgol(0.2, 2))
    assert found.joints.shape == (0, 25, 3) and found.counts['frames_after'] == 0
    assert found.counts['joints_dropped_share'] == 1.0
    with pytest.raises(InputError, match='a.csv: nobody is visible in it'):
        cleaning.check_length(found, min_frames=1, where='a.csv')


@pytest.mark.parametrize('joint', [KINECT.hips[0], KINECT.shoulders[1]])
def test_a_body_without_a_hip_or_a_shoulder_is_not_judged(joint):
    motion = make_motion(30)
    motion.joints[5:, joint] = np.nan
    cleaning.check_length(motion, min_frames=5, where='a.csv')
    reason = 'a.csv: hips and shoulders are hardly ever visible: in 5 frames'
    with pytest.raises(InputError, match=reason):
        cleaning.check_length(motion, min_frames=6, where='a.csv')
    with pytest.raises(InputError, match='too short'):
        cleaning.check_length(motion, min_frames=31, where='a.csv')


def test_a_face_alone_is_not_judged():
    motion = make_motion(30)
    motion.joints[:, np.arange(25) != KINECT.joints.index('Head')] = np.nan
    with pytest.raises(InputError, match='hips and shoulders are hardly ever visible'):
        cleaning.check_length(motion, min_frames=1, where='a.csv')


def test_too_short_is_told_with_both_numbers():
    cleaning.check_length(make_motion(30), min_frames=30, where='a.csv')
    with pytest.raises(InputError, match='too short: .* in 30 frames, at least 31'):
        cleaning.check_length(make_motion(30), min_frames=31, where='a.csv')


@pytest.mark.parametrize('rate_hz', [15.0, 25.0, 30.0, 50.0, 60.0, 120.0])
def test_a_steady_move_is_the_same_at_any_rate(rate_hz):
    found = clean(make_motion(int(2 * rate_hz) + 1, rate_hz=rate_hz))
    assert len(found.time_s) == 61 and np.isfinite(found.joints).all()
    np.testing.assert_allclose(np.diff(found.time_s), 1 / 30)
    inner = slice(1, -1)  # at its ends there is less to average
    np.testing.assert_allclose(
        found.joints[inner], make_motion(61).joints[inner], atol=1e-5)


def test_true_time_stamps_count_where_the_rate_varies():
    rng = np.random.default_rng(1)
    time_s = np.concatenate([[0], np.sort(rng.uniform(0, 2, 70)), [2]])
    found = clean(make_motion(time_s=time_s), rate_hz=20)
    np.testing.assert_allclose(
        found.joints[1:-1], make_motion(41, rate_hz=20).joints[1:-1], atol=1e-5)


def test_sixty_frames_a_second_are_averaged_into_thirty():
    motion = make_motion(61, rate_hz=60)
    motion.joints[:, 7, 1] = np.arange(61) % 2 * 0.4  # 30 Hz, which 30 Hz can't hold
    motion.joints[:, 8, 1] = 0
    motion.joints[30, 8, 1] = 0.4
    found = clean(motion)
    np.testing.assert_allclose(found.joints[1:-1, 7, 1], 0.2, atol=1e-5)
    # The kernel of 1/4 1/2 1/4, met at its middle.
    np.testing.assert_allclose(found.joints[14:17, 8, 1], [0, 0.2, 0], atol=1e-6)


def test_no_frames_are_made_of_a_hole_in_the_time_stamps():
    time_s = np.concatenate([np.arange(15), np.arange(45, 60)]) / 30
    found = clean(make_motion(time_s=time_s))
    assert len(found.time_s) == 60
    unknown = np.isnan(found.joints).all(axis=(1, 2))
    np.testing.assert_array_equal(np.flatnonzero(unknown), np.arange(15, 45))
    assert (found.visibility[unknown] == 0).all()
    assert np.isfinite(clean(make_motion(time_s=time_s), max_gap_s=2).joints).all()
    found = clean(make_motion(time_s=time_s), rate_hz=10)  # and averaged
    assert 8 <= np.isnan(found.joints).all(axis=(1, 2)).sum() <= 10


def test_world_coordinates_go_the_same_way():
    motion = hide(make_motion(61, rate_hz=60), slice(10, 14))
    motion = motion._replace(world=motion.joints * 0.5)
    for smoothing in ('none', 'savgol'):
        found = clean(motion, smoothing=smoothing, savgol=Savgol(0.2, 2))
        np.testing.assert_allclose(found.world, found.joints * 0.5, atol=1e-5)
    assert clean(make_motion()).world is None


def test_savgol_leaves_a_parabola_and_quietens_noise():
    motion = make_motion(90)
    parabola = motion.time_s**2
    motion.joints[:, 7, 1] = parabola
    noise = np.random.default_rng(2).normal(size=90) * 0.02
    motion.joints[:, 8, 1] = noise
    hide(motion, slice(40, 60), joint=7)
    found = clean(motion, smoothing='savgol', savgol=Savgol(0.3, 2))
    known = np.r_[0:40, 60:90]
    np.testing.assert_allclose(found.joints[known, 7, 1], parabola[known], atol=1e-5)
    assert np.isnan(found.joints[40:60, 7]).all()
    # The variance of 9 frames' mean by a parabola: 0.255 (Savitzky 1964).
    assert np.std(found.joints[:, 8, 1]) < 0.65 * np.std(noise)


def test_one_euro_follows_casiez_in_its_first_steps():
    motion = make_motion(3)
    motion.joints[:, 7, 1] = [0, 0.3, 0.1]
    options = OneEuro(min_cutoff_hz=1.0, beta=2.0, derivative_cutoff_hz=1.5)
    found = clean(motion, smoothing='one_euro', one_euro=options)

    def alpha(cutoff):
        return 1 / (1 + 30 / (2 * np.pi * cutoff))

    y, dy = 0.0, 0.0  # the torso of this body is 1
    for frame, x in enumerate([0, 0.3, 0.1]):
        dy = alpha(1.5) * (x - y) * 30 + (1 - alpha(1.5)) * dy
        share = alpha(1.0 + 2.0 * abs(dy)) if frame else 1.0
        y = share * x + (1 - share) * y
        assert found.joints[frame, 7, 1] == pytest.approx(y, rel=1e-5)


def test_one_euro_starts_anew_behind_a_gap_and_counts_in_torsos():
    motion = hide(make_motion(60), slice(20, 40))
    motion.joints[40:, 7, 1] += 3
    options = OneEuro(1.0, 0.5, 1.0)
    found = clean(motion, smoothing='one_euro', one_euro=options)
    np.testing.assert_allclose(found.joints[40, 7], motion.joints[40, 7], atol=1e-6)
    assert np.isnan(found.joints[20:40, 7]).all()
    larger = motion._replace(joints=motion.joints * 50)
    np.testing.assert_allclose(
        clean(larger, smoothing='one_euro', one_euro=options).joints,
        found.joints * 50, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize('options, field', [
    (dict(min_visibility=1.5), 'min_visibility'),
    (dict(max_gap_s=-1), 'max_gap_s'),
    (dict(rate_hz=0), 'rate_hz'),
    (dict(smoothing='median'), 'smoothing'),
    (dict(smoothing='one_euro'), 'one_euro'),
    (dict(smoothing='one_euro', one_euro=OneEuro(0, 1, 1)), 'one_euro'),
    (dict(smoothing='savgol'), 'savgol'),
    (dict(smoothing='savgol', savgol=Savgol(0.1, 3)), 'savgol'),
])
def test_options_out_of_range_are_refused(options, field):
    with pytest.raises(ConfigError, match=field):
        clean(make_motion(), **options)


def test_the_motion_that_was_given_is_not_changed():
    motion = hide(make_motion(), slice(3, 5))
    before = motion.joints.copy()
    clean(motion, smoothing='savgol', savgol=Savgol(0.2, 2))
    np.testing.assert_array_equal(motion.joints, before)


def test_windows_cover_a_motion_to_its_last_frame():
    motion = make_motion(25)
    motion.visibility[:] = np.arange(25)[:, None] / 25
    inputs, mask, first_s = cleaning.cut_windows(motion, frames=10, stride=6)
    assert inputs.shape == (4, 10, 25, 4) and inputs.dtype == np.float32
    np.testing.assert_allclose(first_s, np.array([0, 6, 12, 15]) / 30)
    assert mask.shape == (4, 10) and mask.dtype == bool and mask.all()
    np.testing.assert_array_equal(inputs[3, ..., :3], motion.joints[15:])
    np.testing.assert_array_equal(inputs[1, ..., 3], motion.visibility[6:16])
    assert len(cleaning.cut_windows(make_motion(22), frames=10, stride=6)[0]) == 3
    assert len(cleaning.cut_windows(make_motion(10), frames=10, stride=6)[0]) == 1


def test_a_short_motion_is_one_window_padded_at_its_end():
    motion = make_motion(7)
    inputs, mask, first_s = cleaning.cut_windows(motion, frames=10, stride=5)
    assert inputs.shape == (1, 10, 25, 4) and first_s.tolist() == [0]
    np.testing.assert_array_equal(mask[0], np.arange(10) < 7)
    np.testing.assert_array_equal(inputs[0, :7, :, :3], motion.joints)
    assert np.isnan(inputs[0, 7:, :, :3]).all() and (inputs[0, 7:, :, 3] == 0).all()


def test_a_stride_that_leaves_frames_out_is_refused():
    for stride in (0, 11):
        with pytest.raises(ConfigError, match='stride'):
            cleaning.cut_windows(make_motion(), frames=10, stride=stride)


@pytest.mark.parametrize('frames', [20, 61, 150])
def test_a_stretched_motion_has_its_first_and_last_frame_and_its_seconds(frames):
    motion = make_motion(61)
    inputs, mask, first_s, seconds = cleaning.stretch(motion, frames=frames)
    assert inputs.shape == (1, frames, 25, 4) and mask.shape == (1, frames)
    assert mask.all() and first_s == [0] and seconds == [2.0]
    line = np.linspace(0, 2, frames) + motion.joints[0, 7, 0]
    np.testing.assert_allclose(inputs[0, 1:-1, 7, 0], line[1:-1], atol=1e-5)
    speed = np.diff(inputs[0, :, :, 0], axis=0) * (frames - 1) / seconds
    np.testing.assert_allclose(speed[2:-2], 1.0, atol=1e-3)


def test_a_stretched_motion_is_unknown_where_a_joint_is():
    motion = make_motion(60)
    motion.joints[30:, 7] = np.nan
    inputs, *_ = cleaning.stretch(motion, frames=30)
    unknown = np.isnan(inputs[0, :, 7, 0])
    assert not unknown[:14].any() and unknown[16:].all()
    single, mask, _, seconds = cleaning.stretch(make_motion(1), frames=5)
    assert single.shape == (1, 5, 25, 4) and np.isfinite(single).all()
    assert mask.all() and seconds == [0]


def test_real_kimore_is_cleaned_with_little_lost():
    if 'JAXMED_SAMPLE_DATA' not in os.environ:
        pytest.skip('JAXMED_SAMPLE_DATA is unset')
    folder = Path(os.environ['JAXMED_SAMPLE_DATA'], 'pose/kimore')
    for path in sorted(folder.glob('*_Es5.csv.gz'))[::10]:
        motion = read_motion(path, skeleton=KINECT, max_frames=5000, max_seconds=600.0,
                             rate_hz=30.0)
        found = clean(motion)
        assert found.counts['joints_unknown_share'] < 0.02
        assert found.counts['joints_jumped_share'] < 0.02
