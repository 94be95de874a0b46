"""Videos, folders of frames and cameras -> upright RGB frames with time stamps.

A file is decoded by OpenCV's FFmpeg in a process of its own: one that makes the decoder
crash, hang or allocate without end costs itself and not the run, what the decoder
prints reaches nobody's terminal, and decoding overlaps with whatever is done with the
frames. `confined.run` answers once and whole, which a video is too large for; here the
frames come one by one through a few slots of shared memory. They are copied out of it
by reading a file: the other process can't take memory away that this one looks at.
"""

import hashlib
import itertools
import json
import logging
import math
import mmap
import os
import re
import resource
import select
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from jaxmed.data import images, landmark_files
from jaxmed.errors import ImageError

LOG = logging.getLogger('jaxmed')

SUFFIXES = ('.mp4', '.mov', '.m4v', '.avi', '.mkv', '.webm', '.mpg', '.mpeg', '.wmv',
            '.3gp')

# First bytes of a container -> its name. Nothing else is opened, whatever its name
# says: among FFmpeg's formats are lists of other files and addresses to be opened.
_CONTAINERS = (
    (rb'....(ftyp|moov|mdat|wide|free|skip|pnot)', 'MP4'), (rb'RIFF....AVI ', 'AVI'),
    (rb'\x1aE\xdf\xa3', 'Matroska'), (rb'\x00\x00\x01[\xb3\xba]', 'MPEG'),
    (rb'G.{187}G', 'MPEG'), (rb'.{4}G.{191}G', 'MPEG'), (rb'\x30\x26\xb2\x75', 'ASF'),
    (rb'FLV\x01', 'FLV'), (rb'OggS', 'Ogg'),
)
_LISTING = ('MP4', 'AVI')  # that state how many frames they hold and don't estimate it

# A header's rate in frames a second is believed between these; else _USUAL_HZ is used.
# Stamps that are closer than the greatest rate allows are not believed either.
_RATES_HZ, _USUAL_HZ = (0.1, 1000.0), 30.0
_CLOSEST_S = 0.5 / _RATES_HZ[1]
_GAP = 1.5  # usual intervals between two frames: more, and one is missing

_SLOTS = 4  # frames decoded ahead
_START_S, _FRAME_S = 60, 30  # most time to open a file, and to the next frame
# Of the decoder: the interpreter and its modules, and reference frames. A codec keeps
# up to 16 of them and one for each thread, of 1.5 to 4 bytes a pixel.
_PLAIN_BYTES, _BYTES_PER_PIXEL = 1 << 30, 100
# Reads that fail in a row before that is the end: as many as frames are listed and
# missing, within these.
_PATIENCE, _MOST_PATIENCE = 8, 1000
_LONGEST_LINE = 4096
_LINUX = sys.platform == 'linux'


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
    number = _camera_number(source)
    if number is None and Path(source).is_dir():
        stream = _Folder(Path(source), max_pixels, rate_hz, loop)
    else:
        stream = _Decoder(source, number, max_pixels, loop)
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


def is_frames(path):
    """Whether a folder holds pictures, the frames of one video.

    Pictures beside a video or a file of landmarks are covers and the like.
    """
    path = Path(path)
    if not path.is_dir():
        return False
    names = [name for name in map(str.lower, os.listdir(path)) if name[0] != '.']
    return any(name.endswith(images.SUFFIXES) for name in names) and not any(
        name.endswith(SUFFIXES) or landmark_files.is_landmarks(name) for name in names)


def hash_video(source):
    """SHA-256, in hex, of a file's bytes, or of the pictures of a folder in order.

    Returns:
        str; None for a camera.

    Raises:
        ImageError: nothing there, or it can't be read.
    """
    if _camera_number(source) is not None:
        return None
    try:
        if not Path(source).is_dir():
            with _open_file(source) as file:
                return hashlib.file_digest(file, 'sha256').hexdigest()
        digest = hashlib.sha256()
        for path in _list_frames(Path(source)):
            with _open_file(path) as file:
                digest.update(hashlib.file_digest(file, 'sha256').digest())
        return digest.hexdigest()
    except OSError as error:
        raise ImageError(source, error.strerror) from None


class Video:
    """An open video: iterate over it, once, for its Frames; close it, or use `with`.

    Attributes:
        size_hw: (height, width) of every frame, in pixels, upright.
        rate_hz: nominal rate; see counts for what it was.
    """

    def __init__(self, stream, source, *, camera, max_seconds, endless):
        self.size_hw, self.rate_hz = stream.size_hw, stream.rate_hz
        self._stream, self._source, self._camera = stream, source, camera
        self._max_seconds, self._closed = max_seconds, False
        self._frames = self._mended = self._dropped = 0
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


def _camera_number(source):
    """None for what is no camera."""
    if isinstance(source, int):
        return source
    text = str(source)
    if text.isascii() and text.isdigit() and not os.path.exists(text):
        return int(text)
    return None


def _open_file(path):
    """Opening a named pipe would wait forever for its other end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ImageError(path, 'not a file')
    return open(path, 'rb')


def _list_frames(folder):
    paths = [path for path in folder.iterdir() if not path.name.startswith('.')
             and path.suffix.lower() in images.SUFFIXES]
    if not paths:
        raise ImageError(folder, f'no frames ({" ".join(images.SUFFIXES)})')

    def key(path):
        # Text and numbers alternate, so that like is compared with like.
        parts = re.split(r'([0-9]+)', path.name)
        return [int(part) if i % 2 else part for i, part in enumerate(parts)], path.name

    return sorted(paths, key=key)


class _Folder:
    """Frames of a folder; see _Decoder for what a stream has."""

    def __init__(self, folder, max_pixels, rate_hz, loop):
        if rate_hz is None or not _RATES_HZ[0] <= rate_hz <= _RATES_HZ[1]:
            raise ImageError(folder, f'a folder of frames at {rate_hz} frames a second')
        self.rate_hz, self.undecodable = rate_hz, 0
        self._paths, self._max_pixels = _list_frames(folder), max_pixels
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
                _check_size(path, rgb.shape[:2], self.size_hw)
                yield rgb, number / self.rate_hz
            if not self._loop:
                return
            yield None

    def stop(self):
        self._closed = True

    close = stop


def _check_size(where, size_hw, expected_hw):
    if tuple(size_hw) != tuple(expected_hw):
        (height, width), (first_height, first_width) = size_hw, expected_hw
        raise ImageError(where, f'a frame of {width} x {height} pixels in a video of '
                         f'{first_width} x {first_height}')


class _Decoder:
    """The frames of a file or camera, decoded by another process.

    Iterate for (rgb [H, W, 3], stamp in s or None), and None where a looped file
    begins again.

    Attributes:
        size_hw, rate_hz: of the header.
        listed: frames that the header tells of, 0 if it doesn't.
        undecodable: frames that were listed or passed over, and not decoded.
    """

    def __init__(self, source, number, max_pixels, loop):
        self._source, self.undecodable, self._stopped = source, 0, False
        kind, handed = 'camera', []
        self._process = self._file = self._memory = self._channel = self._lines = None
        try:
            if number is None:
                self._file, kind = _open_container(source)
                handed.append(self._file.fileno())
            self._memory = _open_memory()
            self._channel, theirs = socket.socketpair()
            with theirs:
                handed += [self._memory.fileno(), theirs.fileno()]
                self._start(handed, {
                    'camera': number, 'file': handed[0], 'memory': handed[-2],
                    'channel': handed[-1], 'loop': loop,
                    'memory_bytes': int(
                        _PLAIN_BYTES + _BYTES_PER_PIXEL * max_pixels)})
            self._lines = self._channel.makefile('rb')
            self._channel.settimeout(_START_S)
            header = self._receive()
            height, width = self.size_hw = tuple(header['size_hw'])
            if width < 1 or height < 1:
                raise ImageError(source, 'frames without pixels')
            if width * height > max_pixels:
                raise ImageError(
                    source, f'{width} x {height} pixels, limit {max_pixels}')
            rate_hz, listed = header['rate_hz'], header['listed']
            self.rate_hz = (
                rate_hz if _RATES_HZ[0] <= rate_hz <= _RATES_HZ[1] else _USUAL_HZ)
            self.listed = int(listed) if 0 < listed < 1 << 40 else 0
            self._exact = kind in _LISTING
            os.ftruncate(self._memory.fileno(), _SLOTS * 3 * width * height)
            self._channel.settimeout(_FRAME_S)
            self._channel.sendall(bytes(range(_SLOTS)))
        except BaseException:
            self.close()
            raise

    def _start(self, handed, request):
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, '-c', 'import sys; from jaxmed.data import videos; '
             'videos.serve(sys.argv[1])', json.dumps(request)],
            pass_fds=handed, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            env=os.environ | {
                'PYTHONPATH': paths, 'OPENBLAS_NUM_THREADS': '1',
                'MALLOC_ARENA_MAX': '2',
                # No file may name another one, or an address, to be opened.
                'OPENCV_FFMPEG_CAPTURE_OPTIONS': 'protocol_whitelist;file'},
            start_new_session=True,  # Ctrl-C in a terminal is for this process alone
        )

    def _receive(self):
        try:
            line = self._lines.readline(_LONGEST_LINE)
            message = json.loads(line)
        except TimeoutError:
            raise ImageError(self._source, 'decoding it hangs') from None
        except (OSError, ValueError):
            raise ImageError(
                self._source, f'decoding it crashed ({self._end()})') from None
        if 'error' in message:
            raise ImageError(self._source, message['error'])
        return message

    def __iter__(self):
        count, first_turn = 3 * self.size_hw[0] * self.size_hw[1], True
        decoded = 0
        while not self._stopped:
            try:
                message = self._receive()
            except ImageError:
                if self._stopped:  # by another thread
                    return
                raise
            if 'size_hw' in message:
                _check_size(self._source, message['size_hw'], self.size_hw)
            if 'failed' in message:  # the end, or that of a turn
                if first_turn:
                    # Of an estimate a second is no loss.
                    missing = self.listed - decoded
                    if not self._exact and missing <= self.rate_hz:
                        missing = 0
                    self.undecodable = max(message['failed'], missing)
                first_turn = False
                if message['ends']:
                    return
                yield None
                continue
            rgb = np.empty((*self.size_hw, 3), np.uint8)
            slot, place = message['slot'], 0
            view = memoryview(rgb).cast('B')
            while place < count:  # a call reads 2 GiB at most
                try:
                    read = os.preadv(
                        self._memory.fileno(), [view[place:]], slot * count + place)
                    place += read
                except (OSError, ValueError):
                    read = 0
                if not read:
                    if self._stopped:
                        return
                    raise ImageError(self._source, 'decoding it crashed')
            decoded += 1
            try:
                self._channel.sendall(bytes([slot]))
            except OSError:
                pass  # it has ended or crashed, which _receive tells
            stamp_ms = message['ms']
            yield rgb, None if stamp_ms is None else stamp_ms / 1000

    def _end(self):
        """Ends the process; what ended it, if it was not this."""
        process = self._process
        try:
            # A crash closes the channel a moment before the process is gone.
            code = process.wait(0.2)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f'exit code {code}'

    def stop(self):
        """Ends the process, which wakes a thread that waits for a frame."""
        self._stopped = True
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def close(self):
        """Closes what a thread that reads must have let go before."""
        self.stop()
        for file in (self._lines, self._channel, self._memory, self._file):
            if file is not None:
                file.close()


def _open_container(path):
    """(open file, name of its container)."""
    try:
        file = _open_file(path)
    except OSError as error:
        raise ImageError(path, error.strerror) from None
    try:
        start = file.read(512)
        if not start:
            raise ImageError(path, 'empty file')
        for pattern, kind in _CONTAINERS:
            if re.match(pattern, start, re.S):
                return file, kind
        raise ImageError(path, 'not a video (MP4, MOV, AVI, Matroska, WebM, MPEG, WMV, '
                         'FLV, Ogg)')
    except BaseException:
        file.close()
        raise


def _open_memory():
    if hasattr(os, 'memfd_create'):
        return open(os.memfd_create('jaxmed'), 'w+b', buffering=0)
    return tempfile.TemporaryFile(buffering=0)


# --- in the other process ---------------------------------------------------------


def serve(request):
    """Decodes one video; the process's whole life.

    Args:
        request: JSON of _Decoder.
    """
    request = json.loads(request)
    channel = socket.socket(fileno=request['channel'])
    threading.Thread(target=_end_with, args=(channel.fileno(),), daemon=True).start()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

    def send(**message):
        channel.sendall(json.dumps(message).encode() + b'\n')

    limit = resource.RLIMIT_DATA if _LINUX else resource.RLIMIT_AS
    hard = resource.getrlimit(limit)[1]
    most = request['memory_bytes']
    resource.setrlimit(
        limit, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    try:
        _decode(request, channel, send)
    except (BrokenPipeError, ConnectionResetError):
        pass
    except (MemoryError, cv2.error) as error:
        if isinstance(error, cv2.error) and error.code != cv2.Error.StsNoMem:
            send(error='damaged')
        else:
            send(error=f'decoding it needs more than {most >> 20} MiB')


def _end_with(number):
    """Ends this process, busy or not, when the other side has gone."""
    poll = select.poll()
    poll.register(number, 0)  # hang-ups are always reported
    poll.poll()
    os._exit(0)


def _decode(request, channel, send):
    number = request['camera']
    capture = _open_capture(request)
    if not capture.isOpened():
        send(error='no such camera, or it is in use' if number is not None else
             'damaged or truncated, or of a codec that is not read')
        return
    size_hw = [int(capture.get(name)) for name in (
        cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH)]
    rate_hz, listed = (
        float(np.nan_to_num(capture.get(name), posinf=0, neginf=0))
        for name in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT))
    send(size_hw=size_hw, rate_hz=rate_hz, listed=listed)
    memory, slots = None, None
    while True:
        decoded = failed = passed = 0
        while True:
            done, frame = capture.read()
            if not done:
                # Where one frame is damaged, the next may be sound.
                failed += 1
                left = 0 if number is not None else listed - decoded - passed
                if failed > min(max(left, _PATIENCE), _MOST_PATIENCE):
                    break
                continue
            decoded, passed, failed = decoded + 1, passed + failed, 0
            stamp_ms = (1000 * time.monotonic() if number is not None
                        else capture.get(cv2.CAP_PROP_POS_MSEC))
            if list(frame.shape) != [*size_hw, 3]:
                send(size_hw=frame.shape[:2])
                return
            slot = channel.recv(1)
            if not slot:
                return
            if memory is None:
                memory = mmap.mmap(request['memory'], 0)
                slots = np.frombuffer(memory, np.uint8).reshape(-1, *size_hw, 3)
            cv2.cvtColor(frame, cv2.COLOR_BGR2RGB, dst=slots[slot[0]])
            send(slot=slot[0],
                 ms=stamp_ms if math.isfinite(stamp_ms) else None)
        ends = not (request['loop'] and decoded) or number is not None
        send(failed=passed, ends=ends)
        if ends:
            return
        capture.release()
        capture = _open_capture(request)


def _open_capture(request):
    if request['camera'] is not None:
        capture = cv2.VideoCapture(request['camera'])
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        return capture
    # By its number: a path may hold what FFmpeg takes for an address or a pattern.
    os.lseek(request['file'], 0, os.SEEK_SET)
    capture = cv2.VideoCapture(f'/dev/fd/{request["file"]}', cv2.CAP_FFMPEG)
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    return capture
