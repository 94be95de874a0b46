"""The process that decodes one video for video_decoder: its whole life."""

import json
import math
import mmap
import os
import socket
import time

import cv2
import numpy as np

from jaxmed.data import processes

# Reads that fail in a row before that is the end: as many as frames are listed and
# missing, within these.
_PATIENCE, _MOST_PATIENCE = 8, 1000
# A rate above what is usual is compared with the stamps of the first frames.
_MEASURED_FROM_HZ, _MEASURED_FRAMES = 60, 32


def serve(request):
    """Decodes one video.

    Args:
        request: JSON of video_decoder.Decoder: camera, its number or null; file,
            memory and channel, file descriptors; loop; memory_bytes, the most.
    """
    request = json.loads(request)
    channel = socket.socket(fileno=request['channel'])
    processes.end_with(channel.fileno())
    processes.silence()

    def send(**message):
        channel.sendall(json.dumps(message).encode() + b'\n')

    most = request['memory_bytes']
    processes.limit_memory(most)
    try:
        _decode(request, channel, send)
    except (BrokenPipeError, ConnectionResetError):
        pass
    except (MemoryError, cv2.error) as error:
        if isinstance(error, cv2.error) and error.code != cv2.Error.StsNoMem:
            send(error='damaged')
        else:
            send(error=f'decoding it needs more than {most >> 20} MiB')


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
    measured_hz = None
    if number is None and rate_hz > _MEASURED_FROM_HZ:
        measured_hz = _measure_rate(capture)
        capture.release()
        capture = _open_capture(request)
    send(size_hw=size_hw, rate_hz=rate_hz, listed=listed, measured_hz=measured_hz)
    slots = None
    while True:
        decoded = passed = 0
        for failed, frame in _read(capture, 0 if number is not None else listed):
            decoded, passed = decoded + 1, passed + failed
            stamp_ms = (1000 * time.monotonic() if number is not None
                        else capture.get(cv2.CAP_PROP_POS_MSEC))
            if list(frame.shape) != [*size_hw, 3]:
                send(size_hw=frame.shape[:2])
                return
            slot = channel.recv(1)
            if not slot:
                return
            if slots is None:
                slots = np.frombuffer(mmap.mmap(request['memory'], 0), np.uint8)
                slots = slots.reshape(-1, *size_hw, 3)
            cv2.cvtColor(frame, cv2.COLOR_BGR2RGB, dst=slots[slot[0]])
            send(slot=slot[0],
                 ms=stamp_ms if math.isfinite(stamp_ms) else None)
        ends = not (request['loop'] and decoded) or number is not None
        send(failed=passed, ends=ends)
        if ends:
            return
        capture.release()
        capture = _open_capture(request)


def _measure_rate(capture):
    """Frames a second by the first time stamps, or None; goes beyond those frames."""
    stamps_ms = []
    while len(stamps_ms) < _MEASURED_FRAMES and capture.grab():
        stamps_ms.append(capture.get(cv2.CAP_PROP_POS_MSEC))
    step_ms = np.median(np.diff(stamps_ms)) if len(stamps_ms) > 1 else 0
    return 1000 / step_ms if math.isfinite(step_ms) and step_ms > 0 else None


def _read(capture, listed):
    """Yields (reads that failed before it, frame BGR); listed: 0 if that is unknown."""
    failed = seen = 0
    while True:
        done, frame = capture.read()
        if done:
            yield failed, frame
            seen, failed = seen + failed + 1, 0
            continue
        # Where one frame is damaged, the next may be sound.
        failed += 1
        if failed > min(max(listed - seen, _PATIENCE), _MOST_PATIENCE):
            return


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
