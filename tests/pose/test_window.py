"""Time stays uniform, and a window is that of the whole recording cleaned."""

import math

import numpy as np
import pytest

from jaxmed.data.phantoms import walkers
from jaxmed.pose import cleaning
from jaxmed.pose.skeletons import BLAZEPOSE, Motion
from jaxmed.pose.window import Window
from tests.pose.moving_dot import TRUNK, cleaner


def fill(times_s, *, frames=30, nobody=(), max_gap_s=0.2, rate_hz=30.0):
    """Joints that move linearly: the first x = t, y = 2 t, others x = -t, y = 1."""
    window = Window(
        frames, skeleton=BLAZEPOSE, rate_hz=rate_hz, max_gap_s=max_gap_s,
        visible_from=0.5, clean=cleaner(rate_hz=rate_hz, max_gap_s=max_gap_s))
    for number, time_s in enumerate(times_s):
        if number in nobody:
            window.add(time_s, None, None)
        else:
            window.add(
                time_s,
                np.array([[time_s, 2 * time_s, 0], *[[-time_s, 1, 0]] * 32]),
                np.array([0.5, *[1.0] * 32]))
    return window


def test_poses_at_any_times_become_a_uniform_grid():
    times_s = np.cumsum(np.random.default_rng(0).uniform(0.005, 0.15, 60))
    inputs, mask = fill(times_s).read()
    # The grid begins at the first pose; the last instant is not after the last pose.
    last = math.floor((times_s[-1] - times_s[0]) * 30)
    grid_s = times_s[0] + np.arange(last - 29, last + 1) / 30
    np.testing.assert_allclose(inputs[:, 0, 0], grid_s, rtol=1e-5)
    np.testing.assert_allclose(inputs[:, 0, 1], 2 * grid_s, rtol=1e-5)
    np.testing.assert_allclose(inputs[:, 1, 0], -grid_s, rtol=1e-5)
    np.testing.assert_allclose(
        inputs[..., 3], np.tile([0.5] + 32 * [1.0], (30, 1)), rtol=1e-6)
    assert inputs.dtype == np.float32 and mask.all()


def test_dropped_frames_leave_the_window_as_it_is_while_the_gaps_are_short():
    times_s = np.arange(61) / 30
    kept = np.delete(times_s, [3, 10, 11, 25, 40, 41, 42])
    np.testing.assert_allclose(
        fill(times_s).read()[0], fill(kept).read()[0], atol=1e-5)


def test_a_longer_gap_is_unknown_and_a_short_one_is_filled_as_cleaning_does():
    times_s = np.delete(np.arange(30) / 30, np.arange(10, 20))  # 11 intervals
    inputs, mask = fill(times_s).read()
    assert mask.all()
    known = np.isfinite(inputs[..., :3]).all(axis=(1, 2))
    assert known.tolist() == [True] * 10 + [False] * 10 + [True] * 10
    assert (inputs[~known][..., 3] == 0).all()
    alone = fill(np.arange(30) / 30, nobody=(4, 5))
    inputs, _ = alone.read()
    np.testing.assert_allclose(inputs[:, 0, 0], np.arange(30) / 30, atol=1e-6)
    assert not inputs[4:6, :, 3].any()  # nobody was seen there


def test_a_window_that_is_not_full_is_padded_at_its_end():
    inputs, mask = fill(np.arange(12) / 30).read()
    assert mask.tolist() == [True] * 12 + [False] * 18
    np.testing.assert_allclose(inputs[:12, 0, 0], np.arange(12) / 30, atol=1e-6)
    assert np.isnan(inputs[12:, :, :3]).all() and (inputs[12:, :, 3] == 0).all()
    empty, mask = fill([]).read()
    assert empty.shape == (30, 33, 4) and not mask.any()


def test_after_a_silence_longer_than_the_window_nothing_old_is_left():
    window = fill([*np.arange(30) / 30, 5.0, 5.0 + 1 / 30])
    inputs, mask = window.read()
    assert mask.all()
    known = np.isfinite(inputs[..., 0]).all(axis=1)
    assert np.flatnonzero(known).tolist() == [28, 29]
    np.testing.assert_allclose(inputs[28:, 0, 0], [5.0, 5.0 + 1 / 30], rtol=1e-6)


def test_a_time_before_the_last_begins_the_window_anew():
    window = fill([*np.arange(30) / 30, 0.0, 1 / 30])
    assert (window.filled, window.restarts) == (2, 1)
    same = fill([0.0, 0.0, 0.0, 1 / 30])  # stamps that stand still don't
    assert (same.filled, same.restarts) == (2, 0)


def test_the_wait_is_as_long_as_it_then_takes():
    for times_s, nobody, least in (
        (np.arange(7) / 30, (), 0.5),
        (np.arange(45) / 30, tuple(range(10, 45)), 0.5),
        (np.arange(60) / 30, tuple(range(20, 40)), 0.8),
        (np.arange(60) / 30, tuple(range(60)), 1.0),
        (np.arange(60) / 30, (), 1.0),
    ):
        window = fill(times_s, nobody=nobody)
        steps = round(window.wait_s(least) * 30)
        for step in range(steps + 1):
            seen = (window.read()[0][:, TRUNK[0], 3] > 0).mean()
            enough = window.filled == 30 and seen >= least - 1e-9
            assert enough == (step == steps), (step, steps)
            number = len(times_s) + step
            window.add(number / 30, np.zeros((33, 3)), np.ones(33))


def drawn_walk(*, seconds, rate_hz, seed=0):
    """A drawn walk with frames lost, nobody now and then, and joints hardly seen."""
    walk = next(walkers.subjects(count=1, seed=seed, exercises=('walk',))).motion
    rng = np.random.default_rng(seed)
    time_s = walk.time_s[0] + np.arange(0, seconds, 1 / rate_hz)
    time_s = time_s[(time_s <= walk.time_s[-1]) & (rng.random(len(time_s)) > 0.05)]
    near = np.searchsorted(walk.time_s, time_s).clip(0, len(walk.time_s) - 1)
    joints, visibility = walk.joints[near].copy(), walk.visibility[near].copy()
    visibility[:] = 0.9
    visibility[rng.random(visibility.shape) < 0.1] = 0.2
    joints[rng.random(visibility.shape) < 0.002, 0] += 400  # they jump
    for begin, length in ((0, 3), (40, 4), (75, 16)):
        joints[begin:begin + length] = np.nan
        visibility[begin:begin + length] = 0
    return Motion(joints, visibility, time_s, 'blazepose')


@pytest.mark.parametrize('rate_hz, smoothing', [
    (30.0, {'smoothing': 'none'}), (24.0, {'smoothing': 'none'}),
    (60.0, {'smoothing': 'none'}),
    (30.0, {'smoothing': 'savgol', 'savgol': cleaning.Savgol(0.3, 2)}),
    (24.0, {'smoothing': 'one_euro', 'one_euro': cleaning.OneEuro(1.5, 2.0, 1.0)}),
], ids=['30', '24', '60', 'savgol', 'one euro'])
def test_a_window_is_that_of_the_whole_recording_cleaned(rate_hz, smoothing):
    motion = drawn_walk(seconds=9, rate_hz=rate_hz)
    clean = cleaner(**smoothing)
    window = Window(
        45, skeleton=BLAZEPOSE, clean=clean, rate_hz=30, max_gap_s=0.2,
        visible_from=0.5)
    compared = gaps = later = 0
    for number, time_s in enumerate(motion.time_s):
        nobody = np.isnan(motion.joints[number]).all()
        window.add(time_s, *(
            (None, None) if nobody else
            (motion.joints[number], motion.visibility[number])))
        if nobody or number % 11:
            continue
        inputs, mask, _ = cleaning.cut_windows(clean(motion._replace(**{
            name: getattr(motion, name)[:number + 1]
            for name in ('joints', 'visibility', 'time_s')})), frames=45, stride=45)
        found, found_mask = window.read()
        np.testing.assert_array_equal(found_mask, mask[-1])
        np.testing.assert_array_equal(np.isnan(found), np.isnan(inputs[-1]))
        # Pixels. One euro remembers for longer, and goes by the torso's median length.
        one_euro = 'one_euro' in smoothing
        np.testing.assert_allclose(found, inputs[-1], atol=3 if one_euro else 0.02)
        assert np.nanquantile(np.abs(found - inputs[-1]), 0.98) < 0.3
        compared += 1
        gaps += np.isnan(found[mask[-1]][..., :3]).all(axis=(1, 2)).any()
        later += time_s > 4
    assert compared >= 5 and gaps and later


def test_what_is_kept_has_one_size_however_fast_poses_come():
    window = fill(np.arange(40_000) / 2000)  # of 20 s
    assert window._poses.nbytes == fill([])._poses.nbytes < 500_000
    inputs, mask = window.read()
    # As much of the past as the window needs is still there.
    assert mask.all() and np.isfinite(inputs).all()
    last_s = np.floor(np.arange(40_000)[-1] / 2000 * 30) / 30
    np.testing.assert_allclose(
        inputs[:, 0, 0], last_s + np.arange(-29, 1) / 30, atol=0.04)


def test_a_face_without_hips_and_shoulders_is_no_known_frame():
    window = fill([])
    for number in range(60):
        visibility = np.where(np.arange(33) < 11, 1.0, 0.1)
        if number >= 45:
            visibility[TRUNK] = 0.9
        if number >= 50:
            visibility[TRUNK[0]] = 0.4  # a hip: one is enough to know too little
        window.add(number / 30, np.ones((33, 3)), visibility)
    assert window.filled == 30
    assert window.wait_s(0.5) == pytest.approx(10 / 30)  # which make it 15 of 30
