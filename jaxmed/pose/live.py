"""The index while a person moves: bounded buffers from the camera to the picture.

    capture (a thread) -> landmarks -> window -> score -> draw

Paper 000 bounds the frames in its system by N frames a buffer times gamma buffers
(equation 1). Here one buffer is the window, N landmarks on a uniform grid of time, and
a fixed number of poses that it is made of; the others may hold pictures. A machine that
is too slow drops pictures instead of queuing them: what is shown is always new. All
that is kept has a fixed size, over days.
"""

import math
import time
from typing import NamedTuple

import numpy as np

from jaxmed.errors import ConfigError
from jaxmed.pose.capture import Capture
from jaxmed.pose.drawing import draw_pose
from jaxmed.pose.latencies import Latencies
from jaxmed.pose.panel import draw_panel
from jaxmed.pose.running_index import CURVE_POINTS, RunningIndex
from jaxmed.pose.window import Window


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
        self._rate_hz, self._max_height = rate_hz, int(max_height)
        self._visible_from, self._stall_s = visible_from, stall_s
        self._latencies = Latencies()
        self._window = Window(
            self._frames, skeleton=skeleton, clean=clean, rate_hz=rate_hz,
            max_gap_s=max_gap_s, visible_from=visible_from)
        self._index = RunningIndex(
            self._window, score, stride_s=stride_s, least_known=least_known,
            smoothing_s=smoothing_s, latencies=self._latencies)
        self._counts = dict.fromkeys(('frames', 'frames_nobody'), 0)
        self._people_counts = (
            {'frames_several_people': 0} if landmarker.counts_people else {})
        self._most_held, self._wall_s, self._images = 0, 0.0, None
        self._pace = _Pace()

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
            'windows_scored': self._index.scores, **self._people_counts,
            'frames_captured': images.put_count if images else 0,
            'frames_dropped': images.dropped if images else 0,
            'frames_held_most': self._most_held,
            'frames_held_limit': self._frames * self._buckets,  # equation 1
            'seconds': round(self._wall_s, 3),
            'frames_per_s': round(
                self._counts['frames'] / self._wall_s, 2) if self._wall_s else 0.0,
            'latency': self._latencies.summary(),
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
        self._score(*self._window.read())
        with Capture(
            source, realtime=realtime, frames=self._frames, buckets=self._buckets - 1,
            max_height=self._max_height, latencies=self._latencies,
        ) as capture:
            self._images = capture.images
            began_s = time.perf_counter()
            for captured in capture.frames(
                name=name, endless=endless, stall_s=self._stall_s, seconds=seconds,
                stop=stop,
            ):
                view = self._step(captured, realtime)
                self._most_held = max(self._most_held, self.held)
                self._wall_s = time.perf_counter() - began_s
                yield view

    def _step(self, captured, realtime):
        """One frame through all stages."""
        frame = captured.frame
        lap = self._latencies.laps(captured.at_s)
        lap('wait')
        (pose,) = self._landmarker.find([frame])
        lap('landmarks')
        people = self._add(captured, pose)
        lap('window')
        wait_s, note = self._index.update(frame.time_s, people)
        lap = self._latencies.laps()
        text = ([note] if note else []) + self._pace.text(realtime)
        picture = self._draw(frame.rgb, pose, text)
        drawn_s = lap('draw')
        latency_s = drawn_s - captured.at_s
        self._latencies.add('total', latency_s)
        self._pace.add(latency_s, drawn_s)
        index, low, high = self._index.values
        return View(
            picture, frame.number, frame.time_s, index, low, high, wait_s, note, people,
            latency_s)

    def _add(self, captured, pose):
        """Adds a frame to the window and to the counts; returns the people in it."""
        time_s, rgb = captured.frame.time_s, captured.frame.rgb
        self._counts['frames'] += 1
        if pose is None:
            self._window.add(time_s, None, None)
            self._counts['frames_nobody'] += 1
            return 0
        down, across = np.divide(captured.size_hw, rgb.shape[:2])
        # Back to the pixels of the frame as it came; z is in the scale of x.
        joints = pose.joints * np.array([across, down, across], np.float32)
        self._window.add(time_s, joints, pose.visibility)
        people = int(pose.people)
        for name in self._people_counts:
            self._people_counts[name] += people > 1
        return people

    def _draw(self, rgb, pose, text):
        picture = rgb
        if pose is not None:
            picture = draw_pose(
                picture, pose.joints, pose.visibility, skeleton=self._skeleton,
                visible_from=self._visible_from, hidden='faint')
        index, low, high = self._index.values
        curve = self._index.curve
        span_s = max(self._index.stride_s, 1 / self._rate_hz) * CURVE_POINTS
        return draw_panel(
            picture, index, low=low, high=high, text=text,
            curve=list(zip(*curve)) if curve else ((), ()),
            curve_s=min(span_s, 4 * self._frames / self._rate_hz))


class _Pace:
    """How fast the picture says the machine is; smoothed, or nobody could read it."""

    def __init__(self):
        self._latency_s = self._step_s = self._last_at_s = None

    def add(self, latency_s, at_s):
        if self._last_at_s is not None:
            self._step_s = self._smooth(self._step_s, at_s - self._last_at_s)
        self._latency_s = self._smooth(self._latency_s, latency_s)
        self._last_at_s = at_s

    @staticmethod
    def _smooth(old, new):
        return new if old is None else 0.95 * old + 0.05 * new

    def text(self, realtime):
        """A line or none."""
        if not self._step_s:
            return []
        behind = f', {1e3 * self._latency_s:.0f} ms behind'
        # Where there is no haste frames wait for as long as they like.
        return [f'{1 / self._step_s:.0f} frames/s' + (behind if realtime else '')]
