"""What a stream of frames is, and that of a folder of them.

A stream is iterated over for (rgb uint8 [H, W, 3], stamp in s or None), and None where
a looped one begins again. It has

    size_hw, rate_hz: of the header;
    listed: frames that the header tells of, 0 if it doesn't;
    undecodable: frames that were listed or passed over, and not decoded;
    stop(): ends it, from any thread;
    close(): lets go of what a thread that reads must have let go before.
"""

import itertools
import logging
import re

from jaxmed.data import images
from jaxmed.errors import ImageError

LOG = logging.getLogger('jaxmed')

RATES_HZ = 0.1, 1000.0  # what is believed of a rate in frames a second


class FolderStream:
    """The pictures of a folder, in order."""

    def __init__(self, folder, max_pixels, rate_hz, loop):
        if rate_hz is None or not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
            raise ImageError(folder, f'a folder of frames at {rate_hz} frames a second')
        self.rate_hz, self.undecodable = rate_hz, 0
        self._paths, self._max_pixels = list_frames(folder), max_pixels
        self._loop, self._closed = loop, False
        self.listed = len(self._paths)
        for path in self._paths:
            try:
                self.size_hw = images.read_image(path, max_pixels=max_pixels).shape[:2]
                return
            except ImageError as error:
                first = error
                if 'limit' in error.reason:
                    break
        raise first

    def __iter__(self):
        for turn in itertools.count():
            for number, path in enumerate(self._paths):
                if self._closed:
                    return
                try:
                    rgb = images.read_image(path, max_pixels=self._max_pixels)
                except ImageError as error:
                    if not turn:
                        self.undecodable += 1
                        LOG.warning('%s', error)
                    continue
                check_size(path, rgb.shape[:2], self.size_hw)
                yield rgb, number / self.rate_hz
            if not self._loop:
                return
            yield None

    def stop(self):
        self._closed = True

    close = stop


def list_frames(folder):
    """Paths of the pictures, in the order of the numbers in their names.

    Raises:
        ImageError: there are none.
    """
    paths = [path for path in folder.iterdir() if not path.name.startswith('.')
             and path.suffix.lower() in images.SUFFIXES]
    if not paths:
        raise ImageError(folder, f'no frames ({" ".join(images.SUFFIXES)})')

    def key(path):
        # Text and numbers alternate, so that like is compared with like.
        parts = re.split(r'([0-9]+)', path.name)
        return [int(part) if i % 2 else part for i, part in enumerate(parts)], path.name

    return sorted(paths, key=key)


def check_size(where, size_hw, expected_hw):
    """Refuses a frame of another size than the first one's."""
    if tuple(size_hw) != tuple(expected_hw):
        (height, width), (first_height, first_width) = size_hw, expected_hw
        raise ImageError(where, f'a frame of {width} x {height} pixels in a video of '
                         f'{first_width} x {first_height}')
