"""Pictures read by a thread of their own, ahead of what is done with them."""

import math
import threading
import time
from typing import Any, NamedTuple

import cv2

from jaxmed.errors import InputError
from jaxmed.pose.buckets import Buckets

_AHEAD = 4  # pictures decoded ahead where none may be dropped
_POLL_S = 0.1  # how long a wish to stop may go unnoticed


class Captured(NamedTuple):
    """A frame as it waits for its turn."""

    frame: Any  # reduced
    size_hw: tuple[int, int]  # before that
    at_s: float  # of the clock, time.perf_counter


class Capture:
    """Reads a source into bounded buckets, in a thread; a context manager.

    The thread ends with it, at the latest when the source gives its next frame.

    Args:
        source, realtime: as in live.Live.run.
        frames, buckets: of buckets.Buckets.
        max_height: pixels; a picture that is higher is reduced to it.
        latencies: latencies.Latencies, for the stages 'capture' and 'reduce'.
    """

    def __init__(self, source, *, realtime, frames, buckets, max_height, latencies):
        self.images = Buckets(frames, buckets, waiting=1 if realtime else _AHEAD)
        self._source, self._realtime = source, realtime
        self._max_height, self._latencies = max_height, latencies
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._ended.set()
        self.images.close()
        self._thread.join(timeout=2 * _POLL_S)

    def _read(self):
        """Reads frames until the source or the run ends: what the thread does."""
        origin_s = None
        try:
            iterator = iter(self._source)
            while not self._ended.is_set():
                lap = self._latencies.laps()
                frame = next(iterator, None)
                if frame is None:
                    break
                lap('capture')
                if self._realtime:  # a file is read faster than it is to be played
                    if origin_s is None:
                        origin_s = time.perf_counter() - frame.time_s
                    self._wait_until(origin_s + frame.time_s)
                at_s = time.perf_counter()
                lap = self._latencies.laps(at_s)
                size_hw = frame.rgb.shape[:2]
                frame = frame._replace(rgb=reduce(frame.rgb, self._max_height))
                lap('reduce')
                self.images.put(
                    Captured(frame, size_hw, at_s), wait=not self._realtime)
            self.images.close()
        except Exception as error:  # raised again where frames are taken
            self.images.close(error)

    def _wait_until(self, at_s):
        while not self._ended.is_set():
            early_s = at_s - time.perf_counter()
            if early_s <= 0:
                break
            self._ended.wait(min(early_s, _POLL_S))

    def frames(self, *, name, endless, stall_s, seconds, stop):
        """Each frame in its turn; done with when the next one is asked for.

        Args:
            stall_s: without a frame for so long, an endless source is taken to be gone.
            name, endless, seconds, stop: as in live.Live.run.

        Yields:
            Captured.

        Raises:
            InputError: as live.Live.run.
        """
        waited_from_s, count, first_s = time.perf_counter(), 0, None
        while not stop():
            captured = self.images.take(_POLL_S)
            if captured is None:
                if self.images.ended:
                    break
                if endless and time.perf_counter() - waited_from_s > stall_s:
                    raise InputError(name, f'gave no picture for {stall_s:g} s')
                continue
            count += 1
            yield captured
            self.images.done()
            waited_from_s = time.perf_counter()
            time_s = captured.frame.time_s
            first_s = time_s if first_s is None else first_s
            if time_s - first_s >= seconds:
                return
        if stop():
            return
        if endless:
            raise InputError(name, f'gave no more pictures after {count}')
        if not count:
            raise InputError(name, 'has no pictures')


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
