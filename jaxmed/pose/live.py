"""The index while a person moves: bounded buffers from the camera to the picture.

    capture (a thread) -> landmarks -> window -> score -> draw

Paper 000 bounds the frames in its system by N frames a buffer times gamma buffers
(equation 1). Here one buffer is the window, N landmarks on a uniform grid of time, and
a fixed number of poses that it is made of; the others may hold pictures. A machine that
is too slow drops pictures instead of queuing them: what is shown is always new. All
that is kept has a fixed size, over days.
"""

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from typing import Any, NamedTuple

import cv2
import numpy as np

from jaxmed.errors import ConfigError, InputError
from jaxmed.pose import drawing
from jaxmed.pose.skeletons import Motion

_AHEAD = 4  # pictures decoded ahead where none may be dropped
_POLL_S = 0.1  # how long a wish to stop may go unnoticed
_CURVE_POINTS = 240
_SLACK_S = 1e-6  # what rounding may add to a time
# Poses that are kept: so many a second, of so long before the window and a gap.
_MOST_HZ, _SETTLED_S, _LONGEST_GAP_S = 120.0, 1.0, 10.0
_CLOCK = time.perf_counter


class View(NamedTuple):
    """What is known at one frame."""

    picture: np.ndarray  # uint8 [H, W, 3], annotated
    number: int  # of the frame in its source
    time_s: float  # of the frame
    index: float | None  # in [0, 1], 0 best; None: there is none
    low: float | None  # its interval, where the score gives one
    high: float | None
    wait_s: float  # until there is an index if the person stays in view; 0 with one
    note: str  # why there is none, else ''
    people: int  # seen in this frame
    latency_s: float  # from the capture of the frame to its annotated picture


class Buckets:
    """Frames in the system, at most frames * buckets of them (paper 000, equation 1).

    A queue between threads. What was taken counts until it is `done`.

    Args:
        frames: N, of a bucket.
        buckets: gamma.
        waiting: the most that wait to be taken; 1 keeps only the newest.

    Raises:
        ConfigError: one of these is below 1.
    """

    def __init__(self, frames, buckets, *, waiting):
        for name, value in (
            ('frames', frames), ('buckets', buckets), ('waiting', waiting),
        ):
            if value < 1:
                raise ConfigError(name, f'{value} is below 1')
        self.limit = int(frames) * int(buckets)
        self.put_count, self.dropped, self.most = 0, 0, 0
        self._most_waiting = min(int(waiting), self.limit)
        self._waiting, self._out = deque(), 0
        self._closed, self._error = False, None
        self._changed = threading.Condition()

    @property
    def held(self):
        """Frames that wait or are being worked on."""
        return len(self._waiting) + self._out

    def put(self, item, *, wait):
        """Adds a frame.

        Args:
            item: anything.
            wait: wait for room; else the oldest that waits is dropped, or the new one
                where all are being worked on.

        Returns:
            Whether it was added.
        """
        with self._changed:
            self.put_count += 1
            if wait:
                self._changed.wait_for(lambda: self._closed or not self._full())
            while not self._closed and self._full():
                self.dropped += 1
                if not self._waiting:
                    return False
                self._waiting.popleft()
            if self._closed:
                return False
            self._waiting.append(item)
            self.most = max(self.most, self.held)
            self._changed.notify_all()
            return True

    def _full(self):
        return len(self._waiting) >= self._most_waiting or self.held >= self.limit

    def take(self, timeout_s):
        """The oldest frame that waits, or None: nothing came, or nothing will come.

        Raises:
            What `close` was given, once nothing waits.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._waiting or self._closed, timeout=timeout_s)
            if self._waiting:
                self._out += 1
                item = self._waiting.popleft()
                self._changed.notify_all()
                return item
            if self._error is not None:
                raise self._error
            return None

    def done(self):
        """One that was taken has left the system."""
        with self._changed:
            if not self._out:
                raise ValueError('nothing was taken')
            self._out -= 1
            self._changed.notify_all()

    def close(self, error=None):
        """Nothing is added from now on; what waits can still be taken."""
        with self._changed:
            self._closed, self._error = True, self._error or error
            self._changed.notify_all()

    @property
    def ended(self):
        """Whether it is closed and nothing waits."""
        return self._closed and not self._waiting


class Window:
    """The last N frames of landmarks, cleaned as recordings are.

    Poses of a little more time than that are kept as they were found. `read` cleans
    them: its frames are the last N of all that cleaning the whole recording would give,
    but for what goes by its median torso (jumps, the 1 euro filter).
    They lie on a uniform grid of time, which begins where somebody is first seen.

    Of poses that come faster than 120 a second, or twice the grid's rate, some are left
    out, so that what is kept has a fixed size.

    Args:
        frames: N.
        skeleton: skeletons.Skeleton of J joints.
        clean: Motion -> Motion, cleaning.clean with its options.
        rate_hz, max_gap_s: of these options.
        visible_from: least visibility of a joint that counts as seen: min_visibility of
            these options.
    """

    def __init__(self, frames, *, skeleton, clean, rate_hz, max_gap_s, visible_from):
        self._skeleton, self._clean = skeleton, clean
        self._rate_hz, self._max_gap_s = float(rate_hz), float(max_gap_s)
        self._visible_from = visible_from
        # What begins a gap or a smoothing before the window shows in it.
        self._before_s = min(self._max_gap_s, _LONGEST_GAP_S) + _SETTLED_S
        most_hz = max(_MOST_HZ, 2 * self._rate_hz)
        self._least_s = (1 - 1e-3) / most_hz
        most = math.ceil((frames / self._rate_hz + self._before_s) * most_hz) + 2
        self._poses = np.empty((most, len(skeleton.joints), 4), np.float32)
        self._times_s = np.empty(most)
        self._known = np.zeros(frames, bool)
        self.restarts = 0
        self._clear()

    def _clear(self):
        self._count, self._next = 0, 0  # poses, and frames of the grid, so far
        self._first_s = self._last_s = self._start_s = None
        self._last_known = False
        self._known[:] = False

    @property
    def filled(self):
        """Frames of the grid that lie within the recording, at most N."""
        return min(self._next, len(self._known))

    def add(self, time_s, joints, visibility):
        """Adds a frame.

        A time before the last frame's is another recording: the window begins anew.

        Args:
            time_s: of the frame.
            joints: [J, 3], NaN where unknown; None where nobody was found.
            visibility: [J]; None where nobody was found.
        """
        pose = np.full(self._poses.shape[1:], np.nan, np.float32)
        pose[:, 3] = 0
        if joints is not None:
            pose[:, :3], pose[:, 3] = joints, visibility
        if self._last_s is not None and time_s < self._last_s:
            self.restarts += 1
            self._clear()
        if self._last_s is None:
            self._first_s = time_s
        elif time_s - self._last_s < self._least_s:
            return
        self._poses[self._count % len(self._poses)] = pose
        self._times_s[self._count % len(self._poses)] = time_s
        self._count += 1
        seen = self._seen(pose)
        if self._start_s is None and seen.any():
            # Whoever is seen soon was there from the beginning, for cleaning.
            soon = time_s - self._first_s <= self._max_gap_s
            self._start_s = self._first_s if soon else time_s
        known = bool(seen[list(self._skeleton.hips + self._skeleton.shoulders)].all())
        if self._start_s is not None:
            self._go_on(time_s, known)
        self._last_s, self._last_known = time_s, known

    def _seen(self, poses):
        return np.isfinite(poses[..., :3]).all(axis=-1) & (
            poses[..., 3] >= self._visible_from)

    def _go_on(self, time_s, known):
        """Frames of the grid until `time_s`: in which are hips and shoulders known?"""
        frames = len(self._known)
        # A grid instant that rounding puts a microsecond later is this one.
        last = math.floor((time_s - self._start_s) * self._rate_hz + 1e-6)
        numbers = np.arange(max(self._next, last - frames + 1), last + 1)
        at_s = self._start_s + numbers / self._rate_hz
        near_s = 0.5 / self._rate_hz
        found = known & (np.abs(at_s - time_s) <= near_s)
        if self._last_s is not None and self._last_known:
            between = known and time_s - self._last_s <= self._max_gap_s
            found |= between | (np.abs(at_s - self._last_s) <= near_s)
        self._known[numbers % frames] = found
        self._next = max(self._next, last + 1)

    def read(self):
        """The window, oldest frame first.

        Returns:
            inputs float32 [N, J, 4], x y z as in skeletons.Motion and visibility, NaN
            and 0 where nobody was found; frame_mask bool [N], False on the frames at
            the end that a recording shorter than N doesn't have.
        """
        frames, filled = len(self._known), self.filled
        inputs = np.full((frames, *self._poses.shape[1:]), np.nan, np.float32)
        inputs[..., 3] = 0
        mask = np.arange(frames) < filled
        if not filled:
            return inputs, mask
        first = self._next - filled
        order = np.arange(max(self._count - len(self._poses), 0), self._count)
        order %= len(self._poses)
        since_s = self._start_s + first / self._rate_hz - self._before_s
        order = order[self._times_s[order] >= since_s]
        times_s, poses = self._times_s[order], self._poses[order]
        if times_s[0] > self._first_s:  # else it is all of the recording
            times_s, poses = self._begin_on_grid(times_s, poses)
        cleaned = self._clean(Motion(
            poses[..., :3], poses[..., 3], times_s, self._skeleton.name))
        places = np.rint(
            (cleaned.time_s - self._start_s) * self._rate_hz).astype(int) - first
        within = (places >= 0) & (places < filled)
        inputs[places[within], :, :3] = cleaned.joints[within]
        inputs[places[within], :, 3] = cleaned.visibility[within]
        return inputs, mask

    def _begin_on_grid(self, times_s, poses):
        """Times and poses whose first known one is at an instant of the grid.

        With that one cleaning begins its own grid, or with the first of all, where it
        fills what is before; so both are moved.
        """
        first_s, last_s = ((times_s[[0, -1]] - self._start_s) * self._rate_hz)
        numbers = np.arange(math.ceil(first_s - 1e-6), math.floor(last_s + 1e-6) + 1)
        if len(times_s) == 1 or not len(numbers):
            return times_s, poses
        at_s = self._start_s + numbers / self._rate_hz
        left = np.searchsorted(times_s, at_s, side='right') - 1
        left = left.clip(0, len(times_s) - 2)
        gap_s = times_s[left + 1] - times_s[left]
        share = ((at_s - times_s[left]) / gap_s).clip(0, 1)
        share = np.where(share < 1e-4, 0, np.where(share > 1 - 1e-4, 1, share))
        seen = self._seen(poses)
        usable = np.select(
            [(share == 0)[:, None], (share == 1)[:, None], (
                gap_s <= self._max_gap_s)[:, None]],
            [seen[left], seen[left + 1], seen[left] & seen[left + 1]], False,
        ).any(axis=1)
        if not usable.any():
            return times_s, poses
        place = np.argmax(usable)
        one, other, share = poses[left[place]], poses[left[place] + 1], share[place]
        if 0 < share < 1:
            begun = one * (1 - share) + other * share
            # A joint that is hardly seen in one of both isn't known.
            begun[:, 3] = np.minimum(one[:, 3], other[:, 3])
        else:
            begun = other if share else one
        moved = left[place] + (share == 1)
        times_s, poses = times_s.copy(), poses.copy()
        poses[:moved, :, :3], poses[:moved, :, 3] = np.nan, 0
        poses[moved], times_s[moved] = begun, at_s[place]
        if moved:
            times_s[0] = self._start_s + math.floor(first_s + 1e-6) / self._rate_hz
        return times_s, poses

    def known_share(self):
        """The share of the N frames with both hips and both shoulders."""
        return float(self._known.mean())

    def wait_s(self, least_known):
        """Seconds until it is full and known enough, if the person stays in view."""
        frames = len(self._known)
        order = np.arange(self._next - frames, self._next) % frames
        left = np.append(self._known[order], 0)[::-1].cumsum()[::-1]
        coming = np.arange(frames + 1)
        enough = (left + coming >= least_known * frames) & (
            coming >= frames - self.filled)
        return float(np.argmax(enough)) / self._rate_hz


class Latencies:
    """How long each stage took: a histogram of fixed size for each.

    Bins are 2% wide, from 10 microseconds to 100 seconds: what `summary` tells is
    within 1% of the value.
    """

    _FIRST_S, _STEP, _BINS = 1e-5, math.log(1.02), 815

    def __init__(self):
        self._counts, self._longest_s = {}, {}

    def add(self, stage, seconds):
        """Counts one run of a stage."""
        if stage not in self._counts:
            self._counts[stage] = np.zeros(self._BINS, np.int64)
            self._longest_s[stage] = 0.0
        place = math.log(max(seconds, self._FIRST_S) / self._FIRST_S) / self._STEP
        self._counts[stage][min(int(place), self._BINS - 1)] += 1
        self._longest_s[stage] = max(self._longest_s[stage], seconds)

    def summary(self):
        """Stage -> count, median_ms, p95_ms, p99_ms and max_ms."""
        told = {}
        # The capture thread may add a stage meanwhile.
        for stage, counts in list(self._counts.items()):
            count = int(counts.sum())
            bins = np.searchsorted(
                counts.cumsum(), np.ceil(np.array([0.5, 0.95, 0.99]) * count))
            seconds = self._FIRST_S * np.exp((bins + 0.5) * self._STEP)
            longest_s = self._longest_s[stage]
            told[stage] = {'count': count} | {
                name: round(1e3 * min(float(value), longest_s), 3) for name, value in
                zip(('median_ms', 'p95_ms', 'p99_ms'), seconds, strict=True)
            } | {'max_ms': round(1e3 * longest_s, 3)}
        return told

    def lines(self):
        """The summary as a table, a line each."""
        told = self.summary()
        width = max(map(len, told), default=0)
        return [f'{"":{width}}   median      p95      p99 ms'] + [
            f'{stage:{width}} ' + ' '.join(
                f'{values[name]:8.2f}' for name in ('median_ms', 'p95_ms', 'p99_ms'))
            for stage, values in told.items()]


class _Captured(NamedTuple):
    frame: Any  # reduced
    size_hw: tuple[int, int]  # before that
    at_s: float  # of the clock


class Live:
    """Landmarks, window, score and drawing of one person before a camera.

    Args:
        landmarker: `.find(frames)` -> a pose or None for each; a pose has `joints`
            [J, 3] in pixels of the frame, `visibility` [J] and `people`;
            `.counts_people`, whether it looks for several.
        score: (inputs float32 [N, J, 4], frame_mask bool [N]) -> (index, low, high),
            the latter two None where it has no interval; see Window.read. The joints
            are in pixels of the frame before it was reduced. Called once on an empty
            window before the first picture, so that it is compiled by then.
        skeleton: skeletons.Skeleton of J joints.
        frames: N, of the window. The paper: 150.
        buckets: gamma. The window takes one, pictures share the others.
        rate_hz: of the window. The paper: 30.
        stride_s: from one score to the next.
        clean, max_gap_s: of Window.
        least_known: in (0, 1], the share of the window's frames with both hips and both
            shoulders of a person, below which there is no index.
        smoothing_s: time constant of the index's exponential smoothing; 0 for none.
        max_height: pixels; a frame that is higher is reduced to it before landmarks
            are found and drawn.
        visible_from: of Window; joints below it are drawn faint.
        stall_s: without a picture for so long, a camera is taken to be gone.

    Raises:
        ConfigError: an option is out of range.
    """

    def __init__(
        self, landmarker, score, *, skeleton, frames, buckets, rate_hz, stride_s,
        clean, max_gap_s, least_known, smoothing_s, max_height, visible_from, stall_s,
    ):
        for name, value, least in (
            ('frames', frames, 2), ('buckets', buckets, 2),
            ('max_height', max_height, 16), ('stride_s', stride_s, 0),
            ('max_gap_s', max_gap_s, 0),
            ('smoothing_s', smoothing_s, 0), ('visible_from', visible_from, 0),
        ):
            if not value >= least:
                raise ConfigError(name, f'{value} is below {least}')
        for name, value, most in (
            ('rate_hz', rate_hz, 1000), ('least_known', least_known, 1),
            ('stall_s', stall_s, math.inf),
        ):
            if not 0 < value <= most:
                raise ConfigError(name, f'{value} is not above 0 and at most {most}')
        self._landmarker, self._score, self._skeleton = landmarker, score, skeleton
        self._frames, self._buckets = int(frames), int(buckets)
        self._rate_hz, self._stride_s = rate_hz, stride_s
        self._clean, self._max_gap_s = clean, max_gap_s
        self._least_known = least_known
        self._smoothing_s, self._max_height = smoothing_s, int(max_height)
        self._visible_from, self._stall_s = visible_from, stall_s
        self.latencies = Latencies()
        self._counts = dict.fromkeys(
            ('frames', 'frames_nobody', 'windows_scored'), 0)
        if landmarker.counts_people:
            self._counts['frames_several_people'] = 0
        self._most_held, self._wall_s, self._images = 0, 0.0, None

    @property
    def held_limit(self):
        """N * gamma: the most frames in the system (paper 000, equation 1)."""
        return self._frames * self._buckets

    @property
    def held(self):
        """Frames in the system now: pictures and landmarks."""
        if self._images is None:
            return 0
        return self._images.held + self._window.filled

    def summary(self):
        """What happened so far: flat counts, rates and `latency`, a dict by stage."""
        images = self._images
        return self._counts | {
            'frames_captured': images.put_count if images else 0,
            'frames_dropped': images.dropped if images else 0,
            'frames_held_most': self._most_held, 'frames_held_limit': self.held_limit,
            'seconds': round(self._wall_s, 3),
            'frames_per_s': round(
                self._counts['frames'] / self._wall_s, 2) if self._wall_s else 0.0,
            'latency': self.latencies.summary(),
        }

    def run(
        self, source, *, name, realtime, endless, seconds=math.inf, stop=lambda: False,
    ):
        """Goes through a source's frames as they come; ends with it.

        Frames are read by a thread of their own, while landmarks of the one before
        are found. The thread ends with the generator, at the latest when the source
        gives its next frame. A Live runs once.

        Args:
            source: iterable of frames with `rgb` uint8 [H, W, 3], `time_s`, `number`.
            name: of the source, for messages.
            realtime: frames come at the pace of their times and those that can't be
                kept up with are dropped; else each one is worked on in its turn.
            endless: the source is a camera: its end is an error.
            seconds: ends after so much of the source's time.
            stop: () -> whether to end; asked at least every 0.1 s.

        Yields:
            View.

        Raises:
            InputError: of the source; a camera that ended or gave nothing for
                `stall_s`; no frames at all.
        """
        if self._images is not None:
            raise ValueError('a Live runs once')
        self._window = Window(
            self._frames, skeleton=self._skeleton, clean=self._clean,
            rate_hz=self._rate_hz, max_gap_s=self._max_gap_s,
            visible_from=self._visible_from)
        self._score(*self._window.read())
        self._images = Buckets(
            self._frames, self._buckets - 1, waiting=1 if realtime else _AHEAD)
        self._realtime, self._curve = realtime, deque(maxlen=_CURVE_POINTS)
        self._index, self._due_s = None, -math.inf
        self._shown_latency_s, self._shown_step_s, self._last_at_s = None, None, None
        ended = threading.Event()
        thread = threading.Thread(
            target=self._capture, args=(source, realtime, ended), daemon=True)
        thread.start()
        began_s = waited_from_s = _CLOCK()
        first_s = None
        try:
            while not stop():
                captured = self._images.take(_POLL_S)
                if captured is None:
                    if self._images.ended:
                        break
                    if endless and _CLOCK() - waited_from_s > self._stall_s:
                        raise InputError(
                            name, f'gave no picture for {self._stall_s:g} s')
                    continue
                view = self._step(captured)
                self._most_held = max(self._most_held, self.held)
                self._wall_s = _CLOCK() - began_s
                yield view
                self._images.done()
                waited_from_s = _CLOCK()
                first_s = view.time_s if first_s is None else first_s
                if view.time_s - first_s >= seconds:
                    return
            if stop():
                return
            if endless:
                raise InputError(
                    name, f'gave no more pictures after {self._counts["frames"]}')
            if not self._counts['frames']:
                raise InputError(name, 'has no pictures')
        finally:
            ended.set()
            self._images.close()
            thread.join(timeout=2 * _POLL_S)

    def _capture(self, source, realtime, ended):
        """Reads frames until the source or the run ends: the capture thread."""
        origin_s = None
        try:
            iterator = iter(source)
            while not ended.is_set():
                begun_s = _CLOCK()
                frame = next(iterator, None)
                if frame is None:
                    break
                self.latencies.add('capture', _CLOCK() - begun_s)
                if realtime:  # a file is read faster than it is to be played
                    if origin_s is None:
                        origin_s = _CLOCK() - frame.time_s
                    while not ended.is_set():
                        early_s = origin_s + frame.time_s - _CLOCK()
                        if early_s <= 0:
                            break
                        ended.wait(min(early_s, _POLL_S))
                at_s = _CLOCK()
                size_hw = frame.rgb.shape[:2]
                frame = frame._replace(rgb=reduce(frame.rgb, self._max_height))
                self.latencies.add('reduce', _CLOCK() - at_s)
                self._images.put(
                    _Captured(frame, size_hw, at_s), wait=not realtime)
            self._images.close()
        except Exception as error:  # raised again where frames are taken
            self._images.close(error)

    def _step(self, captured):
        """One frame through all stages."""
        began_s = _CLOCK()
        self.latencies.add('wait', began_s - captured.at_s)
        frame, rgb = captured.frame, captured.frame.rgb
        (pose,) = self._landmarker.find([frame])
        found_s = _CLOCK()
        self.latencies.add('landmarks', found_s - began_s)

        if pose is None:
            self._window.add(frame.time_s, None, None)
        else:
            down, across = np.divide(captured.size_hw, rgb.shape[:2])
            # Back to the pixels of the frame as it came; z is in the scale of x.
            joints = pose.joints * np.array([across, down, across], np.float32)
            self._window.add(frame.time_s, joints, pose.visibility)
        people = 0 if pose is None else int(pose.people)
        self._counts['frames'] += 1
        self._counts['frames_nobody'] += pose is None
        if 'frames_several_people' in self._counts:
            self._counts['frames_several_people'] += people > 1
        windowed_s = _CLOCK()
        self.latencies.add('window', windowed_s - found_s)

        wait_s, note = self._update(frame.time_s, people)
        scored_s = _CLOCK()
        picture = self._draw(rgb, pose, frame.time_s, wait_s, note)
        drawn_s = _CLOCK()
        self.latencies.add('draw', drawn_s - scored_s)
        latency_s = drawn_s - captured.at_s
        self.latencies.add('total', latency_s)
        self._show_rates(latency_s, drawn_s)
        index, low, high = self._index or (None, None, None)
        return View(
            picture, frame.number, frame.time_s, index, low, high, wait_s, note, people,
            latency_s)

    def _update(self, time_s, people):
        """Scores the window when it is time to; returns (wait_s, note)."""
        wait_s = self._window.wait_s(self._least_known)
        if wait_s > 0:
            # A window that knows too little says nothing, and nor does an older one.
            if self._index is not None:
                self._curve.append((time_s, math.nan))
            self._index, self._due_s = None, -math.inf
            return wait_s, (
                f'index in {wait_s:.1f} s' if people else 'nobody in view')
        # Times before the last score are another recording's.
        if self._due_s - self._stride_s <= time_s < self._due_s - _SLACK_S:
            return 0.0, '' if self._index else 'no index for this movement'
        begun_s = _CLOCK()
        window = self._window.read()
        cleaned_s = _CLOCK()
        self.latencies.add('clean', cleaned_s - begun_s)
        scored = self._score(*window)
        self.latencies.add('score', _CLOCK() - cleaned_s)
        self._counts['windows_scored'] += 1
        scored = tuple(None if value is None else float(value) for value in scored)
        since_s = time_s - (self._due_s - self._stride_s)
        self._due_s = time_s + self._stride_s
        if not all(value is None or math.isfinite(value) for value in scored) or (
                scored[0] is None):
            self._index = None
            self._curve.append((time_s, math.nan))
            return 0.0, 'no index for this movement'
        if self._index is not None and self._smoothing_s > 0:
            share = 1 - math.exp(-since_s / self._smoothing_s)
            scored = tuple(
                new if None in (old, new) else old + share * (new - old)
                for old, new in zip(self._index, scored, strict=True))
        self._index = scored
        self._curve.append((time_s, scored[0]))
        return 0.0, ''

    def _draw(self, rgb, pose, time_s, wait_s, note):
        picture = rgb
        if pose is not None:
            picture = drawing.draw_pose(
                picture, pose.joints, pose.visibility, skeleton=self._skeleton,
                visible_from=self._visible_from, hidden='faint')
        text = [note] if note else []
        if self._shown_step_s:
            text.append(f'{1 / self._shown_step_s:.0f} frames/s')
            if self._realtime:  # else frames wait for as long as they like
                text[-1] += f', {1e3 * self._shown_latency_s:.0f} ms behind'
        index, low, high = self._index or (None, None, None)
        span_s = max(self._stride_s, 1 / self._rate_hz) * _CURVE_POINTS
        return drawing.draw_panel(
            picture, index, low=low, high=high, text=text,
            curve=list(zip(*self._curve)) if self._curve else ((), ()),
            curve_s=min(span_s, 4 * self._frames / self._rate_hz))

    def _show_rates(self, latency_s, at_s):
        """Smooths what the panel tells, or nobody could read it."""
        if self._last_at_s is not None:
            step_s = at_s - self._last_at_s
            self._shown_step_s = step_s if self._shown_step_s is None else (
                0.95 * self._shown_step_s + 0.05 * step_s)
        self._shown_latency_s = latency_s if self._shown_latency_s is None else (
            0.95 * self._shown_latency_s + 0.05 * latency_s)
        self._last_at_s = at_s


def reduce(rgb, max_height):
    """A picture at most `max_height` high, [H, W, 3]; never enlarged.

    Halved by averaging as long as that goes, then interpolated: averaging by another
    factor takes five times as long.
    """
    height, width = rgb.shape[:2]
    if height <= max_height:
        return rgb
    halvings = int(math.log2(height / max_height) + 1e-9)
    if halvings:
        rgb = cv2.resize(
            rgb, (max(width >> halvings, 1), height >> halvings),
            interpolation=cv2.INTER_AREA)
    if rgb.shape[0] > max_height:
        rgb = cv2.resize(
            rgb, (max(round(width * max_height / height), 1), max_height),
            interpolation=cv2.INTER_LINEAR)
    return rgb


class Stop:
    """Ctrl-C and SIGTERM as a wish to end; a second one ends at once.

    A context manager; outside of the main thread, where signals are somebody else's,
    it does nothing.
    """

    def __init__(self):
        self.wanted = False

    def __enter__(self):
        self._old = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._old[number] = signal.signal(number, self._note)
            except ValueError:
                break
        return self

    def _note(self, number, frame):
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True

    def __exit__(self, *exception):
        for number, handler in self._old.items():
            signal.signal(number, handler)


def play(
    live, source, *, name, realtime, endless, output, output_rate_hz, seconds=math.inf,
):
    """Runs until the source ends, the window is closed, or Ctrl-C or SIGTERM.

    Args:
        live: Live.
        source, name, realtime, endless, seconds: as in `Live.run`.
        output: .mp4 to write; None shows a window. It is as long as what was seen
            took, whatever was dropped.
        output_rate_hz: pictures a second of `output`.

    Returns:
        Live.summary().

    Raises:
        ConfigError: a window where there is no screen.
        InputError: as `Live.run` and drawing.write_video. What was seen before a
            camera vanished is written.
    """
    if output is None:
        check_screen()
    with Stop() as stop:
        views = live.run(
            source, name=name, realtime=realtime, endless=endless, seconds=seconds,
            stop=lambda: stop.wanted)
        try:
            if output is None:
                _show(views, name)
            else:
                _record(views, output, output_rate_hz)
        finally:
            views.close()
    return live.summary()


def check_screen():
    """Refuses to show a window where none can be.

    Raises:
        ConfigError: no screen, or OpenCV was built without windows.
    """
    advice = 'name a video with --output'
    if sys.platform.startswith('linux') and not (
            os.environ.get('DISPLAY') or os.environ.get('WAYLAND_DISPLAY')):
        raise ConfigError('--output', f'there is no screen: {advice}')
    # In a process of its own: where the screen doesn't answer, Qt ends the process.
    try:
        done = subprocess.run(
            [sys.executable, '-c', "import cv2; cv2.namedWindow('jaxmed')"],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
        works = done.returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        works = False
    if not works:
        raise ConfigError('--output', f'OpenCV can open no window here: {advice}')


def _show(views, title):
    cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
    sized = False
    try:
        for view in views:
            if not sized:
                cv2.resizeWindow(title, view.picture.shape[1], view.picture.shape[0])
                sized = True
            cv2.imshow(title, cv2.cvtColor(view.picture, cv2.COLOR_RGB2BGR))
            key = cv2.waitKey(1) & 0xff
            if key in (ord('q'), 27) or (
                    cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) < 1):
                return
    finally:
        cv2.destroyAllWindows()


def _record(views, output, rate_hz):
    failed = []

    def kept():
        try:
            yield from views
        except InputError as error:  # the source's: what was seen is still a video
            failed.append(error)

    with drawing.VideoFile(output, rate_hz=rate_hz) as video:
        for picture in drawing.pace(
                ((view.time_s, view.picture) for view in kept()), rate_hz=rate_hz):
            video.write(picture)
        if failed and not video.frames:
            raise failed[0]
    if failed:
        raise failed[0]
