"""Memory stays bounded, and no index outlives its person."""

import math
import threading
import time

import numpy as np
import pytest

from jaxmed.errors import ConfigError, InputError
from tests.pose.moving_dot import (
    SIZE_HW,
    TRUNK,
    Spotter,
    make_frames,
    make_live,
    run,
    where_it_is,
)


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
