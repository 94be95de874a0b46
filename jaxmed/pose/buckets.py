"""A queue that bounds the frames in the system (paper 000, equation 1)."""

import threading
from collections import deque

from jaxmed.errors import ConfigError


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
