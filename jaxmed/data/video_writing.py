"""Pictures -> videos that appear whole, at a constant rate."""

import itertools
import math
import os
from pathlib import Path

import cv2
import numpy as np

from jaxmed.errors import ConfigError, ImageError, InputError

_LONGEST_STILL_S = 10.0  # of one picture in a written video


class VideoFile:
    """An mp4 that appears whole: written under another name, then renamed.

    A context manager. Left by an exception, nothing is left behind, and what was
    there before is still there.

    Args:
        path: ends in .mp4.
        rate_hz: pictures a second; kept to 0.005, above 655 Hz to 0.05.

    Raises:
        ConfigError: another suffix or a rate that is none.
        InputError: can't be written.
    """

    def __init__(self, path, *, rate_hz):
        self.path = Path(path)
        self.frames = 0
        if self.path.suffix.lower() != '.mp4':
            raise ConfigError(path, 'annotated videos are written as .mp4')
        if not (np.isfinite(rate_hz) and 0 < rate_hz <= 1000):
            raise ConfigError('rate_hz', f'{rate_hz} is not above 0 and at most 1000')
        # OpenCV makes a fraction of 10, 100 or 1000 of it, MPEG-4 has 16 bits for that.
        digits = 3 if rate_hz < 65 else 2 if rate_hz < 655 else 1
        self._rate_hz = round(float(rate_hz), digits)
        self._writer = self._size_hw = None
        self._partial = self.path.with_name(f'.{self.path.stem}.{os.getpid()}.mp4')

    def __enter__(self):
        # Before an hour is recorded, and with the reason, which OpenCV doesn't tell.
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.is_dir():
                raise InputError(self.path, 'is a folder')
            self._partial.write_bytes(b'')
        except OSError as error:
            raise InputError(
                self.path, f"can't be written: {error.strerror}") from None
        return self

    def write(self, rgb):
        """Adds a picture, uint8 [H, W, 3]; all of one size.

        An odd side is continued by one pixel: codecs store colour for two.
        """
        size_hw = rgb.shape[:2]
        if self._writer is None:
            self._open(size_hw)
        if size_hw != self._size_hw:
            raise ImageError(
                self.path, f'pictures of {self._size_hw} and of {size_hw}')
        bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
        if size_hw[0] % 2 or size_hw[1] % 2:
            bgr = cv2.copyMakeBorder(
                bgr, 0, size_hw[0] % 2, 0, size_hw[1] % 2, cv2.BORDER_REPLICATE)
        self._writer.write(bgr)
        self.frames += 1

    def _open(self, size_hw):
        height, width = (side + side % 2 for side in size_hw)
        # MPEG-4 part 2: the one that all of OpenCV's wheels can encode into an mp4.
        self._writer = cv2.VideoWriter(
            str(self._partial), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*'mp4v'),
            self._rate_hz, (width, height))
        self._size_hw = size_hw
        if not self._writer.isOpened():
            raise InputError(
                self.path, f"OpenCV can't write an mp4 of {width} x {height} pixels")

    def __exit__(self, kind, error, trace):
        try:
            if self._writer is not None:
                self._writer.release()
            if kind is None:
                self._finish()
        finally:
            self._partial.unlink(missing_ok=True)

    def _finish(self):
        if not self.frames:
            raise InputError(self.path, 'no pictures to write')
        # The writer tells no errors; a full disk leaves a file without its index.
        reader = cv2.VideoCapture(str(self._partial), cv2.CAP_FFMPEG)
        written = int(reader.get(cv2.CAP_PROP_FRAME_COUNT)) if reader.isOpened() else 0
        reader.release()
        if written != self.frames:
            raise InputError(
                self.path, f'{written} of {self.frames} pictures could be written: '
                'is the disk full?')
        try:
            os.replace(self._partial, self.path)
        except OSError as error:
            raise InputError(
                self.path, f"can't be written: {error.strerror}") from None


def pace(pictures, *, rate_hz):
    """Pictures of any times as those of a constant rate, at the same pace.

    Each comes at the nearest of the rate's instants, and again until the next one's,
    for 10 s at most: what is missing for longer is cut out. Of several at one instant
    the first is shown.

    Args:
        pictures: iterable of (time in s, picture); times don't decrease.
        rate_hz: pictures a second.

    Yields:
        Pictures.
    """
    most = max(int(_LONGEST_STILL_S * rate_hz), 1)
    start_s = previous = None
    shown = 0
    for time_s, picture in pictures:
        start_s = time_s if start_s is None else start_s
        missing = math.floor((time_s - start_s) * rate_hz + 0.5) + 1 - shown
        if missing > most:
            start_s += (missing - most) / rate_hz
            missing = most
        if missing > 0:
            yield from itertools.repeat(
                picture if previous is None else previous, missing - 1)
            yield picture
            shown += missing
        previous = picture


def write_video(path, frames, *, rate_hz):
    """Writes pictures as an mp4: whole, or not at all.

    Args:
        path: ends in .mp4.
        frames: iterable of uint8 [H, W, 3], RGB, all of one size.
        rate_hz: pictures a second.

    Returns:
        The number of pictures.

    Raises:
        ConfigError: another suffix or a rate that is none.
        InputError: no pictures, sizes that differ, can't be written.
    """
    with VideoFile(path, rate_hz=rate_hz) as video:
        for rgb in frames:
            video.write(rgb)
    return video.frames
