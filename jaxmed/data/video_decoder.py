"""The frames of a file or camera, decoded by a process of its own.

OpenCV's FFmpeg decodes: a file that makes it crash, hang or allocate without end costs
itself and not the run, what it prints reaches nobody's terminal, and decoding overlaps
with whatever is done with the frames. `confined.run` answers once and whole, which a
video is too large for; here the frames come one by one through a few slots of shared
memory. They are copied out of it by reading a file: the other process can't take memory
away that this one looks at.
"""

import json
import os
import re
import socket

import numpy as np

from jaxmed.data import images, processes
from jaxmed.data.video_streams import RATES_HZ, check_size
from jaxmed.errors import ImageError

# First bytes of a container -> its name. Nothing else is opened, whatever its name
# says: among FFmpeg's formats are lists of other files and addresses to be opened.
_CONTAINERS = (
    (rb'....(ftyp|moov|mdat|wide|free|skip|pnot)', 'MP4'), (rb'RIFF....AVI ', 'AVI'),
    (rb'\x1aE\xdf\xa3', 'Matroska'), (rb'\x00\x00\x01[\xb3\xba]', 'MPEG'),
    (rb'G.{187}G', 'MPEG'), (rb'.{4}G.{191}G', 'MPEG'), (rb'\x30\x26\xb2\x75', 'ASF'),
    (rb'FLV\x01', 'FLV'), (rb'OggS', 'Ogg'),
)
_LISTING = ('MP4', 'AVI')  # that state how many frames they hold and don't estimate it

_USUAL_HZ = 30.0  # of a header whose rate isn't believed
# Where a file has no rate FFmpeg takes the fineness of its clock for it, such as 1000.
_TOO_FAST = 1.5  # times the rate of the time stamps: more isn't believed
_PAUSE_S = 1.0  # between two stamps: more, and frames are lost, not late
_SLOTS = 4  # frames decoded ahead
_START_S, _FRAME_S = 60, 30  # most time to open a file, and to the next frame
# Of the decoder: the interpreter and its modules, and reference frames. A codec keeps
# up to 16 of them and one for each thread, of 1.5 to 4 bytes a pixel.
_PLAIN_BYTES, _BYTES_PER_PIXEL = 1 << 30, 100
_LONGEST_LINE = 4096


class Decoder:
    """A stream of a file or camera, see video_streams."""

    def __init__(self, source, number, max_pixels, loop):
        self._source, self.undecodable, self._stopped = source, 0, False
        self._process = self._file = self._memory = self._channel = self._lines = None
        try:
            kind = None
            if number is None:
                self._file, kind = _open_container(source)
            self._exact = kind in _LISTING
            self._start(number, max_pixels, loop)
            self._read_header(max_pixels)
            os.ftruncate(
                self._memory.fileno(), _SLOTS * 3 * self.size_hw[0] * self.size_hw[1])
            self._channel.settimeout(_FRAME_S)
            self._give_back(range(_SLOTS))
        except BaseException:
            self.close()
            raise

    def _start(self, number, max_pixels, loop):
        self._memory = processes.open_memory()
        self._channel, theirs = socket.socketpair()
        with theirs:
            request = {
                'camera': number, 'memory': self._memory.fileno(),
                'channel': theirs.fileno(),
                'file': self._file.fileno() if self._file else None, 'loop': loop,
                'memory_bytes': int(_PLAIN_BYTES + _BYTES_PER_PIXEL * max_pixels)}
            self._process = processes.start(
                'video_process', json.dumps(request),
                numbers=[file.fileno() for file in (self._file, self._memory, theirs)
                         if file is not None],
                # No file may name another one, or an address, to be opened.
                environment={
                    'OPENCV_FFMPEG_CAPTURE_OPTIONS': 'protocol_whitelist;file'})
        self._lines = self._channel.makefile('rb')
        self._channel.settimeout(_START_S)

    def _read_header(self, max_pixels):
        header = self._receive()
        height, width = self.size_hw = tuple(header['size_hw'])
        if width < 1 or height < 1:
            raise ImageError(self._source, 'frames without pixels')
        if width * height > max_pixels:
            raise ImageError(
                self._source, f'{width} x {height} pixels, limit {max_pixels}')
        told_hz, listed = header['rate_hz'], header['listed']
        self.rate_hz = _choose_rate(told_hz, header['measured_hz'])
        if not self._exact and told_hz > 0:  # its length times its rate
            listed = round(listed * self.rate_hz / told_hz)
        self.listed = int(listed) if 0 < listed < 1 << 40 else 0

    def _receive(self):
        try:
            line = self._lines.readline(_LONGEST_LINE)
            message = json.loads(line)
        except TimeoutError:
            raise ImageError(self._source, 'decoding it hangs') from None
        except (OSError, ValueError):
            ended = processes.end(self._process)
            raise ImageError(self._source, f'decoding it crashed ({ended})') from None
        if 'error' in message:
            raise ImageError(self._source, message['error'])
        return message

    def __iter__(self):
        decoded, first_turn, last_s, lost_s = 0, True, 0.0, 0.0
        while not self._stopped:
            try:
                message = self._receive()
            except ImageError:
                if self._stopped:  # by another thread
                    return
                raise
            if 'size_hw' in message:
                check_size(self._source, message['size_hw'], self.size_hw)
            if 'failed' in message:  # the end, or that of a turn
                if first_turn:
                    self.undecodable = max(
                        message['failed'], self._missing(decoded, last_s, lost_s))
                first_turn = False
                if message['ends']:
                    return
                yield None
                continue
            rgb = self._fetch(message['slot'])
            if rgb is None:
                return
            decoded += 1
            stamp_s = None if message['ms'] is None else message['ms'] / 1000
            if first_turn and stamp_s is not None:
                # Of stamps that begin again, too, the greatest is how far it came.
                lost_s += stamp_s - last_s if stamp_s - last_s > _PAUSE_S else 0.0
                last_s = max(last_s, stamp_s)
            yield rgb, stamp_s

    def _missing(self, decoded, last_s, lost_s):
        """Frames that were listed beyond those decoded.

        Args:
            decoded: frames.
            last_s: stamp of the last.
            lost_s: sum of the gaps between them that are longer than _PAUSE_S.
        """
        missing = self.listed - decoded
        if self._exact or not self.listed:
            return missing
        # Estimated as length times rate: where the rate varies there may be fewer.
        lost_s += self.listed / self.rate_hz - last_s - 1 / self.rate_hz
        missing = min(missing, round(lost_s * self.rate_hz))
        # Of an estimate a second is no loss.
        return missing if missing > self.rate_hz else 0

    def _fetch(self, slot):
        """Copies a frame out of its slot and gives the slot back; None once stopped."""
        rgb = np.empty((*self.size_hw, 3), np.uint8)
        place, view = 0, memoryview(rgb).cast('B')
        while place < rgb.nbytes:  # a call reads 2 GiB at most
            try:
                read = os.preadv(
                    self._memory.fileno(), [view[place:]], slot * rgb.nbytes + place)
                place += read
            except (OSError, ValueError):
                read = 0
            if not read:
                if self._stopped:
                    return None
                raise ImageError(self._source, 'decoding it crashed')
        self._give_back([slot])
        return rgb

    def _give_back(self, slots):
        """Tells the process which slots it may fill."""
        try:
            self._channel.sendall(bytes(slots))
        except OSError:
            pass  # it has ended or crashed, which _receive tells

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


def _choose_rate(told_hz, measured_hz):
    """Frames a second, as told if that is likely.

    Args:
        told_hz: by the header.
        measured_hz: by the first time stamps; None if it wasn't.
    """
    if measured_hz is not None and told_hz > _TOO_FAST * measured_hz:
        told_hz = measured_hz
    return told_hz if RATES_HZ[0] <= told_hz <= RATES_HZ[1] else _USUAL_HZ


def _open_container(path):
    """(open file, name of its container)."""
    file = images.open_file(path)
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
