"""How long the stages of the live path take, in memory that does not grow."""

import math
import time

import numpy as np


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

    def laps(self, since_s=None):
        """A stop watch for stages that follow each other.

        Args:
            since_s: of the clock, time.perf_counter; None: now.

        Returns:
            stage -> the clock's time, having added the stage's time since the one
            before, or since `since_s`.
        """
        last_s = time.perf_counter() if since_s is None else since_s

        def lap(stage):
            nonlocal last_s
            now_s = time.perf_counter()
            self.add(stage, now_s - last_s)
            last_s = now_s
            return now_s

        return lap

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
