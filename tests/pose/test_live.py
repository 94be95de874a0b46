"""Buffers stay bounded, time stays uniform, and no index outlives its person."""

import math
import os
import signal
import threading
import time
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest

from jaxmed.data.phantoms import walkers
from jaxmed.errors import ConfigError, InputError
from jaxmed.pose import cleaning, live
from jaxmed.pose.skeletons import BLAZEPOSE, Motion

SIZE_HW = 120, 160
TRUNK = [*BLAZEPOSE.hips, *BLAZEPOSE.shoulders]


class Frame(NamedTuple):
    rgb: Any
    time_s: float
    number: int


class Pose(NamedTuple):
    joints: Any
    visibility: Any
    people: int


class Spotter:
    """A landmarker of people who are one white dot; it may take its time."""

    counts_people = False

    def __init__(self, seconds=0.0, *, visible=slice(None)):
        self.seconds, self.visible = seconds, visible

    def find(self, frames):
        time.sleep(self.seconds)
        return [self._find(frame.rgb[..., 0]) for frame in frames]

    def _find(self, grey):
        if grey.max() < 100:
            return None
        rows, columns = np.nonzero(grey > grey.max() / 2)
        place = np.array([columns.mean() + 0.5, rows.mean() + 0.5, 0], np.float32)
        visibility = np.zeros(33, np.float32)
        visibility[self.visible] = 1
        return Pose(np.tile(place, (33, 1)), visibility, 1)


def make_frames(count, *, rate_hz=30.0, size_hw=SIZE_HW, present=lambda number: True):
    """A dot that walks to the right by half a pixel a frame."""
    for number in range(count):
        rgb = np.zeros((*size_hw, 3), np.uint8)
        if present(number):
            left = 20 + number // 2
            rgb[40:44, left:left + 4] = 255
        yield Frame(rgb, number / rate_hz, number)


def where_it_is(inputs, frame_mask):
    """The mean x of the window, in widths of the picture: what a score may be."""
    index = np.nanmean(inputs[frame_mask][..., 0]) / SIZE_HW[1] if (
        frame_mask.any()) else 0.0
    return index, index - 0.1, index + 0.1


def cleaner(**options):
    return partial(cleaning.clean, **dict(
        min_visibility=0.5, max_gap_s=0.2, smoothing='none', rate_hz=30.0) | options)


def make_live(landmarker=None, score=where_it_is, **options):
    return live.Live(landmarker or Spotter(), score, skeleton=BLAZEPOSE, **dict(
        frames=30, buckets=2, rate_hz=30, stride_s=0.0, clean=cleaner(), max_gap_s=0.2,
        least_known=0.5, smoothing_s=0.0, max_height=480, visible_from=0.5,
        stall_s=5.0) | options)


def run(system, source, **options):
    return list(system.run(source, **dict(
        name='video', realtime=False, endless=False) | options))


# --- buckets ----------------------------------------------------------------------


def test_the_frames_in_the_system_never_exceed_n_times_gamma():
    buckets = live.Buckets(3, 2, waiting=100)
    seen, taken = [], []

    def work():
        while not buckets.ended:
            if buckets.take(0.01) is not None:
                taken.append(1)
                seen.append(buckets.held)
                buckets.done()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(3000):
        buckets.put(number, wait=False)
        seen.append(buckets.held)
    buckets.close()
    for thread in threads:
        thread.join()
    assert max(seen) <= buckets.most <= buckets.limit == 6
    assert len(taken) + buckets.dropped == buckets.put_count == 3000
    assert buckets.held == 0


def test_of_what_waits_the_oldest_is_dropped():
    buckets = live.Buckets(4, 1, waiting=1)
    for number in range(5):
        assert buckets.put(number, wait=False)
    assert (buckets.take(0), buckets.dropped, buckets.held) == (4, 4, 1)
    assert buckets.take(0) is None
    three = live.Buckets(4, 2, waiting=3)
    for number in range(5):
        three.put(number, wait=False)
    assert [three.take(0) for _ in range(3)] == [2, 3, 4]


def test_what_is_being_worked_on_counts_until_it_is_done():
    buckets = live.Buckets(2, 1, waiting=2)
    for number in range(2):
        buckets.put(number, wait=False)
        assert buckets.take(0) == number
    assert not buckets.put(2, wait=False)  # both are out: the new one is dropped
    buckets.done()
    assert buckets.put(3, wait=False)
    assert buckets.take(0) == 3
    with pytest.raises(ValueError, match='nothing was taken'):
        for _ in range(3):
            buckets.done()


def test_whoever_waits_for_room_goes_on_when_there_is_some_or_never_will_be():
    buckets = live.Buckets(1, 1, waiting=1)
    buckets.put(0, wait=True)
    added = []
    threads = [threading.Thread(
        target=lambda: added.append(buckets.put(1, wait=True))) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    assert not added
    assert buckets.take(1) == 0
    time.sleep(0.05)
    assert not added  # one is out, and that is all there may be
    buckets.done()
    assert buckets.take(1) == 1
    buckets.close()
    for thread in threads:
        thread.join(timeout=5)
    assert sorted(added) == [False, True] and buckets.dropped == 0


def test_an_error_of_the_source_comes_after_what_it_gave():
    buckets = live.Buckets(4, 1, waiting=4)
    buckets.put('last', wait=False)
    buckets.close(InputError('camera', 'is gone'))
    assert buckets.take(0) == 'last'
    with pytest.raises(InputError, match='is gone'):
        buckets.take(0)


# --- window -----------------------------------------------------------------------


def fill(times_s, *, frames=30, nobody=(), max_gap_s=0.2, rate_hz=30.0):
    """Joints that move linearly: the first x = t, y = 2 t, others x = -t, y = 1."""
    window = live.Window(
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
    assert alone.known_share() == pytest.approx(28 / 30)


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
            enough = window.filled == 30 and window.known_share() >= least - 1e-9
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
    window = live.Window(
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
    assert window.known_share() == pytest.approx(5 / 30)
    assert window.wait_s(0.5) == pytest.approx(10 / 30)  # which make it 15 of 30


# --- latencies, pictures ----------------------------------------------------------


def test_quantiles_are_told_within_one_percent_from_memory_that_does_not_grow():
    latencies = live.Latencies()
    values_s = np.random.default_rng(0).lognormal(math.log(0.02), 0.6, 20_000)
    for value_s in values_s:
        latencies.add('landmarks', value_s)
    told = latencies.summary()['landmarks']
    exact = 1e3 * np.quantile(values_s, [0.5, 0.95, 0.99], method='inverted_cdf')
    np.testing.assert_allclose(
        [told['median_ms'], told['p95_ms'], told['p99_ms']], exact, rtol=0.0101)
    assert told['max_ms'] == pytest.approx(1e3 * values_s.max(), abs=1e-3)
    assert told['count'] == 20_000
    assert sum(counts.nbytes for counts in latencies._counts.values()) < 10_000
    latencies.add('landmarks', 0.0)
    latencies.add('landmarks', 1e9)
    assert latencies.summary()['landmarks']['count'] == 20_002
    assert len(latencies.lines()) == 2


def test_a_picture_is_reduced_to_the_height_asked_for_and_never_enlarged():
    column = np.linspace(0, 255, 300).astype(np.uint8)
    ramp = np.tile(column[:, None, None], (1, 200, 3))
    for height in (16, 75, 100, 149, 150, 299):
        reduced = live.reduce(ramp, height)
        assert reduced.shape[0] == height
        assert reduced.shape[1] == pytest.approx(height * 200 / 300, abs=1)
        assert reduced.mean() == pytest.approx(ramp.mean(), abs=1)
    assert live.reduce(ramp, 300) is ramp and live.reduce(ramp, 9000) is ramp


# --- live -------------------------------------------------------------------------


def test_the_first_index_comes_when_the_window_is_full_and_is_that_of_the_window():
    views = run(make_live(), make_frames(60))
    assert [view.number for view in views] == list(range(60))
    assert [view.index is None for view in views] == [True] * 29 + [False] * 31
    for number, view in enumerate(views[:29]):
        assert view.wait_s == pytest.approx((29 - number) / 30)
        assert view.note.startswith('index in')
    for number, view in enumerate(views[29:], 29):
        # 22 is the middle of the dot at first; it moves every second frame.
        xs = 22 + np.arange(number - 29, number + 1) // 2
        assert view.index == pytest.approx(xs.mean() / SIZE_HW[1], abs=1e-4)
        assert (view.low, view.high) == pytest.approx(
            (view.index - 0.1, view.index + 0.1))
        assert view.wait_s == 0 and not view.note
    assert views[0].picture.shape == (*SIZE_HW, 3)


def test_a_reduced_picture_gives_the_landmarks_of_the_whole_one():
    seen = []

    def keep(inputs, frame_mask):
        seen.append(inputs)
        return where_it_is(inputs, frame_mask)

    for max_height in (480, 60):
        views = run(make_live(score=keep, max_height=max_height), make_frames(40))
        assert views[0].picture.shape[0] == min(max_height, SIZE_HW[0])
    whole, reduced = seen[len(seen) // 2 - 1], seen[-1]
    assert np.abs(whole - reduced).max() < 1.0  # pixel of the whole picture


def test_the_index_ends_when_too_little_of_the_window_has_a_person():
    views = run(make_live(least_known=0.5), make_frames(
        140, present=lambda number: not 40 <= number < 100))
    for view in views:
        # Of the last 30 frames, how many have the person in them.
        window = range(max(view.number - 29, 0), view.number + 1)
        known = sum(not 40 <= number < 100 for number in window)
        expected = view.number >= 29 and known >= 15
        assert (view.index is not None) == expected, view.number
        assert (view.wait_s > 0) == (not expected)
        if 60 <= view.number < 100:
            assert view.note == 'nobody in view'
            assert view.people == 0
        assert (view.low is None) == (view.high is None) == (view.index is None)
    # 15 frames of the person after the 100th: an index again, without the old one.
    assert views[114].index == pytest.approx(
        (22 + np.arange(100, 115) // 2).mean() / SIZE_HW[1], abs=1e-4)


def test_a_face_alone_has_no_index_however_long_it_is_seen():
    views = run(make_live(Spotter(visible=slice(0, 11))), make_frames(60))
    assert all(view.people == 1 for view in views)
    assert all(view.index is None and view.wait_s > 0 for view in views)
    views = run(make_live(Spotter(visible=TRUNK)), make_frames(60))
    assert views[-1].index is not None


def test_several_people_are_counted_where_they_are_looked_for():
    assert 'frames_several_people' not in make_live().summary()
    landmarker = Spotter()
    landmarker.counts_people = True
    assert make_live(landmarker).summary()['frames_several_people'] == 0


def test_a_score_that_is_no_number_gives_no_index():
    for answer in ((math.nan, None, None), (0.4, math.inf, 0.5), (None, None, None)):
        views = run(make_live(score=lambda *window: answer), make_frames(35))
        assert all(view.index is None for view in views)
        assert views[-1].note == 'no index for this movement'
    (*_, last) = run(
        make_live(score=lambda *window: (0.4, None, None)), make_frames(35))
    assert (last.index, last.low, last.high) == (0.4, None, None)


def test_windows_are_scored_once_a_stride():
    system = make_live(stride_s=0.5)
    run(system, make_frames(90))
    # At 29/30 s, and half a second and a second and so on later, until 89/30 s.
    assert system.summary()['windows_scored'] == 5


def test_smoothing_is_exponential_and_forgets_when_the_person_leaves():
    answers = iter([0.0, 0.0, *[1.0] * 1000])  # the first is that of the warm-up

    def step(inputs, frame_mask):
        value = next(answers)
        return value, value, value

    views = run(make_live(score=step, smoothing_s=0.5), make_frames(
        140, present=lambda number: number < 60 or number >= 90))
    for since, view in enumerate(views[29:60]):
        assert view.index == pytest.approx(1 - math.exp(-since / 30 / 0.5), abs=1e-6)
    assert views[85].index is None
    assert next(view.index for view in views[86:] if view.index is not None) == 1.0


def test_a_slow_machine_drops_frames_and_holds_no_more_than_n_times_gamma():
    system = make_live(Spotter(seconds=0.05), frames=10)
    held, latencies = [], []
    for view in system.run(
            make_frames(60, rate_hz=100.0), name='video', realtime=True, endless=False):
        held.append(system.held)
        latencies.append(view.latency_s)
    told = system.summary()
    assert max(held) <= told['frames_held_most'] <= told['frames_held_limit'] == 20
    assert told['frames'] + told['frames_dropped'] == told['frames_captured'] == 60
    assert 3 <= told['frames'] <= 15  # 0.6 s of 0.05 s each
    # The newest is taken: never older than one frame's work and its own.
    assert np.median(latencies) < 0.3
    assert told['frames_per_s'] <= 20
    assert set(told['latency']) >= {
        'capture', 'reduce', 'wait', 'landmarks', 'window', 'draw', 'total'}


def test_a_recording_without_haste_loses_no_frame():
    system = make_live(Spotter(seconds=0.002))
    views = run(system, make_frames(100, rate_hz=1000.0))
    assert [view.number for view in views] == list(range(100))
    assert system.summary()['frames_dropped'] == 0


def test_in_real_time_frames_come_at_their_pace():
    began = time.perf_counter()
    run(make_live(), make_frames(31, rate_hz=100.0), realtime=True)
    assert 0.29 < time.perf_counter() - began < 1.5


def test_it_ends_after_the_seconds_asked_for_or_when_it_is_told_to():
    views = run(make_live(), make_frames(1000), seconds=1.0)
    assert views[-1].time_s == pytest.approx(1.0)
    system = make_live()
    views = run(system, make_frames(1000),
                stop=lambda: system.summary()['frames'] >= 5)
    assert len(views) == 5


def test_a_camera_that_ends_or_falls_silent_is_an_error():
    with pytest.raises(InputError, match='gave no more pictures after 12'):
        run(make_live(), make_frames(12), endless=True)

    released = threading.Event()

    def silent():
        yield from make_frames(3)
        released.wait(10)

    with pytest.raises(InputError, match='gave no picture for 0.2 s'):
        run(make_live(stall_s=0.2), silent(), endless=True)
    released.set()


def test_an_error_of_the_source_reaches_whoever_looks():
    def failing():
        yield from make_frames(3)
        raise InputError('video', 'is damaged')

    views = []
    with pytest.raises(InputError, match='is damaged'):
        for view in make_live().run(
                failing(), name='video', realtime=False, endless=False):
            views.append(view)
    assert len(views) == 3
    with pytest.raises(InputError, match='has no pictures'):
        run(make_live(), iter(()))


def test_no_thread_is_left_when_the_views_are_given_up():
    before = threading.active_count()
    views = make_live().run(
        make_frames(10_000), name='video', realtime=True, endless=False)
    next(views)
    views.close()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_options_out_of_range_are_named():
    for name, value in (
        ('frames', 1), ('buckets', 1), ('rate_hz', 0), ('stride_s', -1),
        ('least_known', 0), ('least_known', 1.1), ('max_height', 4), ('stall_s', 0),
        ('smoothing_s', float('nan')),
    ):
        with pytest.raises(ConfigError, match=name):
            make_live(**{name: value})


# --- sinks ------------------------------------------------------------------------


def count_pictures(path):
    reader = cv2.VideoCapture(str(path))
    count = 0
    while reader.read()[0]:
        count += 1
    return count


def play(system, source, output, **options):
    return live.play(system, source, **dict(
        name='video', realtime=False, endless=False, output=output,
        output_rate_hz=30.0) | options)


def test_a_written_video_is_as_long_as_what_was_seen(tmp_path):
    # 20 frames at 10 Hz: the last is seen 1.9 s after the first.
    told = play(make_live(), make_frames(20, rate_hz=10.0), tmp_path / 'slow.mp4')
    assert told['frames'] == 20
    assert count_pictures(tmp_path / 'slow.mp4') == 58
    play(make_live(), make_frames(61, rate_hz=120.0), tmp_path / 'fast.mp4')
    assert count_pictures(tmp_path / 'fast.mp4') == 16


def test_what_was_seen_before_a_camera_vanished_is_written(tmp_path):
    with pytest.raises(InputError, match='no more pictures'):
        play(make_live(), make_frames(12), tmp_path / 'seen.mp4', endless=True)
    assert count_pictures(tmp_path / 'seen.mp4') == 12

    def gone():
        raise InputError('camera', 'no such camera')
        yield

    with pytest.raises(InputError, match='no such camera'):
        play(make_live(), gone(), tmp_path / 'nothing.mp4', endless=True)
    assert [path.name for path in tmp_path.iterdir()] == ['seen.mp4']


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM], ids=['INT', 'TERM'])
def test_a_signal_ends_it_with_a_whole_video(tmp_path, number):
    def interrupted():
        for frame in make_frames(10_000):
            if frame.number == 20:
                os.kill(os.getpid(), number)
            yield frame

    before = signal.getsignal(number)
    told = play(make_live(), interrupted(), tmp_path / 'cut.mp4')
    assert 10 <= told['frames'] < 60
    assert count_pictures(tmp_path / 'cut.mp4') == told['frames']
    assert signal.getsignal(number) is before


def test_without_a_screen_a_window_is_refused_before_anything_is_read(monkeypatch):
    monkeypatch.delenv('DISPLAY', raising=False)
    monkeypatch.delenv('WAYLAND_DISPLAY', raising=False)
    monkeypatch.setattr('sys.platform', 'linux')
    source = make_frames(10)
    with pytest.raises(ConfigError, match='--output'):
        play(make_live(), source, None)
    assert next(source).number == 0


def test_a_screen_that_does_not_answer_is_refused(monkeypatch):
    monkeypatch.setenv('DISPLAY', ':987')
    monkeypatch.delenv('WAYLAND_DISPLAY', raising=False)
    with pytest.raises(ConfigError, match='--output'):
        live.check_screen()


def test_the_skeleton_of_a_real_video_stays_on_the_person(sample_data, tmp_path):
    from jaxmed.data import videos
    from jaxmed.pose import landmarks

    recording = sample_data / 'pose' / 'video' / 'pose2sim_single_cam01.mp4'
    bundle = sample_data / 'models' / 'pose_landmarker_full.task'
    windows = []

    def score(inputs, frame_mask):
        windows.append(inputs[frame_mask])
        return 0.3, 0.2, 0.4

    with (
        videos.open_video(recording, max_pixels=1 << 22, max_seconds=10) as video,
        landmarks.make_landmarker(
            'mediapipe', bundle, sha256='', mode='video', max_people=1, dtype='float32',
        ) as landmarker,
    ):
        system = make_live(landmarker, score, frames=15, max_height=640)
        told = play(system, video, tmp_path / 'seen.mp4', seconds=0.6)
    assert told['frames_nobody'] == 0 and told['windows_scored'] > 0
    # In the first 0.6 s the person is in the middle third of 1080 x 1920 pixels.
    hips = windows[1][:, list(BLAZEPOSE.hips)]
    assert (300 < hips[..., 0]).all() and (hips[..., 0] < 560).all()
    assert (600 < hips[..., 1]).all() and (hips[..., 1] < 900).all()
    reader = cv2.VideoCapture(str(tmp_path / 'seen.mp4'))
    assert reader.get(cv2.CAP_PROP_FRAME_HEIGHT) == 640
