"""The index of a window that moves: when it is scored, smoothed and forgotten."""

import math
from collections import deque

CURVE_POINTS = 240
_SLACK_S = 1e-6  # what rounding may add to a time
_NONE = 'no index for this movement'


class RunningIndex:
    """The index of a person as frames come.

    Args:
        window: window.Window, which is given the frames by somebody else.
        score: as live.Live's.
        stride_s, least_known, smoothing_s: as live.Live's.
        latencies: latencies.Latencies, for the stages 'clean' and 'score'.
    """

    def __init__(
        self, window, score, *, stride_s, least_known, smoothing_s, latencies,
    ):
        self.stride_s = stride_s
        self.curve = deque(maxlen=CURVE_POINTS)  # (time_s, index), NaN where it ended
        self.scores = 0  # windows scored so far
        self._window, self._score = window, score
        self._least_known, self._smoothing_s = least_known, smoothing_s
        self._latencies = latencies
        self._values, self._due_s = None, -math.inf

    @property
    def values(self):
        """(index, low, high), each None where there is none."""
        return self._values or (None, None, None)

    def update(self, time_s, people):
        """Scores the window when it is time to.

        Args:
            time_s: of the window's newest frame.
            people: seen in it.

        Returns:
            (wait_s, note) of live.View.
        """
        wait_s = self._window.wait_s(self._least_known)
        if wait_s > 0:
            # A window that knows too little says nothing, and nor does an older one.
            if self._values is not None:
                self.curve.append((time_s, math.nan))
            self._values, self._due_s = None, -math.inf
            return wait_s, (
                f'index in {wait_s:.1f} s' if people else 'nobody in view')
        scored_s = self._due_s - self.stride_s
        # Times before the last score are another recording's.
        if not scored_s <= time_s < self._due_s - _SLACK_S:
            self._values = self._smooth(self._read_score(), time_s - scored_s)
            self._due_s = time_s + self.stride_s
            self.curve.append(
                (time_s, math.nan if self._values is None else self._values[0]))
        return 0.0, '' if self._values else _NONE

    def _read_score(self):
        """(index, low, high) of the window, or None where it can't be told."""
        lap = self._latencies.laps()
        window = self._window.read()
        lap('clean')
        scored = self._score(*window)
        lap('score')
        self.scores += 1
        scored = tuple(None if value is None else float(value) for value in scored)
        finite = all(value is None or math.isfinite(value) for value in scored)
        return scored if finite and scored[0] is not None else None

    def _smooth(self, scored, since_s):
        """Exponentially, with what was told `since_s` ago."""
        if scored is None or self._values is None or not self._smoothing_s > 0:
            return scored
        share = 1 - math.exp(-since_s / self._smoothing_s)
        return tuple(
            new if None in (old, new) else old + share * (new - old)
            for old, new in zip(self._values, scored, strict=True))
