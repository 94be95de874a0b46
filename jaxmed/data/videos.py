"""Videos, folders of frames and cameras -> upright RGB frames with time stamps."""

import hashlib
import logging
import math
import os
from array import array
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxmed.data import images, landmark_files
from jaxmed.data.video_decoder import Decoder
from jaxmed.data.video_streams import RATES_HZ, FolderStream, list_frames
from jaxmed.errors import ImageError

LOG = logging.getLogger('jaxmed')

SUFFIXES = ('.mp4', '.mov', '.m4v', '.avi', '.mkv', '.webm', '.mpg', '.mpeg', '.wmv',
            '.3gp')

# Stamps that are closer than the greatest rate allows are not believed.
_CLOSEST_S = 0.5 / RATES_HZ[1]
_GAP = 1.5  # usual intervals between two frames: more, and one is missing


class Frame(NamedTuple):
    """One picture of a video."""

    rgb: np.ndarray  # uint8 [H, W, 3], upright, contiguous, the reader's own
    time_s: float  # from the first frame
    number: int  # in the source, from 0; those of frames dropped are skipped


def open_video(source, *, max_pixels, max_seconds, rate_hz=None, loop=False):
    """Opens a video file, a folder of frames or a camera.

    Frames are turned upright as a file's rotation says, and have the first one's size:
    where a file's changes midway, OpenCV scales them. Time is the container's, so
    that a variable rate is kept; stamps that don't increase, or lead beyond the
    stated length, are replaced by one nominal interval after the last and counted.
    Frames that can't be decoded are left out and counted. Pixels are taken to be
    square.

    The pictures of a folder are its frames, in the order of the numbers in their names
    ('frame2' before 'frame10'), all of one size.

    Args:
        source: path of a file or folder; or a camera's number, int or digits.
        max_pixels: most width x height.
        max_seconds: longest file (or round of it); checked by its header, and while it
            is read. Of a camera, when it ends. May be infinite.
        rate_hz: of a folder, which has none of its own; nothing else looks at it.
        loop: a file or folder begins again at its end; time goes on.

    Returns:
        Video.

    Raises:
        ImageError: nothing there, no video, damaged from the start, no such camera, a
            limit broken by the header. Later on, from the iterator: no frame at all, a
            limit broken, a size that changes, a decoder that crashed or hangs.
    """
    number = camera_number(source)
    if number is None and Path(source).is_dir():
        stream = FolderStream(Path(source), max_pixels, rate_hz, loop)
    else:
        stream = Decoder(source, number, max_pixels, loop)
    try:
        if number is None and stream.listed / stream.rate_hz > max_seconds:
            raise ImageError(source, f'{stream.listed / stream.rate_hz:.1f} s, limit '
                             f'{max_seconds:g} s')
        return Video(
            stream, source, camera=number is not None, max_seconds=max_seconds,
            endless=loop or number is not None)
    except BaseException:
        stream.close()
        raise


def camera_number(source):
    """The number of a camera; None for a file or folder, whatever its name."""
    if isinstance(source, int):
        return source
    text = str(source)
    if text.isascii() and text.isdigit() and not os.path.exists(text):
        return int(text)
    return None


def is_frames(path):
    """Whether a folder holds pictures, the frames of one video.

    Pictures beside or above a video or a file of landmarks are covers and the like,
    and so are those above a folder of more pictures. (Of as many: these are smaller
    copies.)
    """
    path = Path(path)
    if not path.is_dir():
        return False
    pictures = 0
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if name[0] != '.']
        names = [name.lower() for name in names if name[0] != '.']
        if any(name.endswith(SUFFIXES) or landmark_files.is_landmarks(name)
               for name in names):
            return False
        count = sum(name.endswith(images.SUFFIXES) for name in names)
        if folder == str(path):
            pictures = count
        if not pictures or count > pictures:
            return False
    return True


def hash_video(source):
    """SHA-256, in hex, of a file's bytes, or of the pictures of a folder in order.

    Returns:
        str; None for a camera.

    Raises:
        ImageError: nothing there, or it can't be read.
    """
    if camera_number(source) is not None:
        return None
    try:
        if not Path(source).is_dir():
            return _hash_file(source).hexdigest()
        digest = hashlib.sha256()
        for path in list_frames(Path(source)):
            digest.update(_hash_file(path).digest())
        return digest.hexdigest()
    except OSError as error:
        raise ImageError(source, error.strerror) from None


def _hash_file(path):
    with images.open_file(path) as file:
        return hashlib.file_digest(file, 'sha256')


class Video:
    """An open video: iterate over it, once, for its Frames; close it, or use `with`.

    Attributes:
        size_hw: (height, width) of every frame, in pixels, upright.
        rate_hz: nominal rate, or where it is above 60 Hz and the first time stamps deny
            it theirs; see counts for what it was.
    """

    def __init__(self, stream, source, *, camera, max_seconds, endless):
        self.size_hw, self.rate_hz = stream.size_hw, stream.rate_hz
        self._stream, self._source, self._camera = stream, source, camera
        self._max_seconds, self._closed = max_seconds, False
        self._frames = self._mended = 0
        self._time_s = 0.0  # of the last frame
        self._times = None if endless else array('d')
        self._iterator = self._read()

    def __iter__(self):
        return self._iterator

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """Ends the decoder."""
        self._closed = True
        self._stream.stop()
        self._stream.close()

    @property
    def counts(self):
        """What was read so far, a dict of numbers.

        frames; frames_dropped: of a file read once, missing by the time stamps (gaps
        beyond one and a half of the median interval); frames_undecodable;
        time_stamps_mended; rate_hz: mean of what was read, 0 for less than two frames;
        seconds: from the first frame to the last; width_px, height_px.
        """
        frames = self._frames
        undecodable = self._stream.undecodable
        if self._times is not None and len(self._times) > 2:
            gaps = np.diff(self._times)
            missing = np.round(gaps / np.median(gaps)) - 1
            missing = int(missing[gaps > _GAP * np.median(gaps)].sum())
            dropped = max(missing - undecodable, 0)
        else:
            dropped = 0
        return {
            'frames': frames, 'frames_dropped': dropped,
            'frames_undecodable': undecodable, 'time_stamps_mended': self._mended,
            'rate_hz': (frames - 1) / self._time_s if self._time_s > 0 else 0.0,
            'seconds': self._time_s, 'width_px': self.size_hw[1],
            'height_px': self.size_hw[0],
        }

    def _read(self):
        """Yields every frame."""
        first_s = None  # the stamp that is this round's zero
        begin_s = round_s = 0.0  # when this round began; when its last frame was
        for found in self._stream:
            if found is None:  # begins again
                begin_s, first_s = self._time_s + 1 / self.rate_hz, None
                continue
            rgb, stamp_s = found
            if first_s is None:
                usable = stamp_s is not None and math.isfinite(stamp_s)
                self._mended += not usable
                first_s, round_s = stamp_s if usable else 0.0, 0.0
            else:
                round_s = self._mend(stamp_s, first_s, round_s)
            if round_s > self._max_seconds:
                if self._camera:
                    return
                raise ImageError(self._source, f'more than {self._max_seconds:g} s')
            self._time_s = begin_s + round_s
            if self._times is not None:
                self._times.append(self._time_s)
            self._frames += 1
            yield Frame(rgb, self._time_s, self._frames - 1)
        if self._closed:
            return
        if not self._frames:
            raise ImageError(self._source, 'no frame that can be decoded')
        if self._stream.undecodable:
            lost = self._stream.undecodable
            # Trimmed: an edit list leaves out frames that are listed.
            LOG.warning('%s: damaged, truncated or trimmed, %d of %d frames are not '
                        'decoded', self._source, lost, lost + self._frames)

    def _mend(self, stamp_s, first_s, last_s):
        """Seconds since the round's first frame, greater than `last_s`."""
        listed_s = self._stream.listed / self.rate_hz
        if stamp_s is not None and math.isfinite(stamp_s):
            # A header's length is that of a constant rate, or an estimate.
            most_s = max(2 * listed_s, last_s) + 10 if listed_s else math.inf
            if last_s + _CLOSEST_S <= stamp_s - first_s <= most_s:
                return stamp_s - first_s
        self._mended += 1
        return last_s + 1 / self.rate_hz
