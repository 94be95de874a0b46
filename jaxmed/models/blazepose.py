"""BlazePose's two networks, from the bundle that MediaPipe's PoseLandmarker reads.

A `.task` file is a zip archive of a detector, which finds people in a picture, and of a
network that finds the landmarks of one person in a square about that person (Bazarevsky
et al. 2020, BlazePose). Lite, full and heavy bundles differ in the second network only.
"""

import hashlib
import io
import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

from jaxmed.errors import InputError
from jaxmed.models.tflite import Network, read_network

DETECTOR, LANDMARKS = 'pose_detector.tflite', 'pose_landmarks_detector.tflite'

# Far above the heavy bundle's 30 MB.
MAX_BYTES = 1 << 27
_MAX_ENTRIES = 64
# What reading a zip archive may raise.
_DAMAGE = (
    zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error, EOFError,
    OSError, ValueError, RuntimeError)

# Input, outputs. Of the detector: for each anchor a box and key points, and a score.
# Of the other: 39 landmarks of x, y, z, visibility and presence; whether there is a
# person; a mask of the person; a map of each landmark; landmarks in metres.
_SHAPES = {
    DETECTOR: ((224, 224, 3), ((2254, 12), (2254, 1))),
    LANDMARKS: (
        (256, 256, 3), ((195,), (1,), (256, 256, 1), (64, 64, 39), (117,))),
}


class Networks(NamedTuple):
    """Both networks; `params` is {'detector': ..., 'landmarks': ...} of float32."""

    detector: Network
    landmarks: Network
    params: dict[str, Any]
    sha256: str  # of the bundle, in hexadecimal


def open_bundle(path, *, sha256):
    """Reads the networks of a bundle.

    Args:
        path: a .task file.
        sha256: what its SHA-256 must be, in hexadecimal; '' accepts any.

    Returns:
        Networks.

    Raises:
        InputError: missing, not such a bundle, of another SHA-256, damaged, larger than
            the limits, or of networks with other inputs or outputs.
    """
    data = read_bundle(path, sha256=sha256)
    found = {}
    for name, network in _extract(path, data).items():
        where = f'{path}: {name}'
        network = read_network(network, where=where)
        wanted = _SHAPES[name]
        if (network.input_shape, network.output_shapes) != wanted:
            raise InputError(
                where, f'maps {network.input_shape} to {network.output_shapes}, not '
                f'{wanted[0]} to {wanted[1]}')
        found[name] = network
    detector, landmarks = found[DETECTOR], found[LANDMARKS]
    params = {'detector': detector.params, 'landmarks': landmarks.params}
    return Networks(
        detector, landmarks, params, hashlib.sha256(data).hexdigest())


def read_bundle(path, *, sha256):
    """The bytes of a bundle, whose every member is whole.

    Args:
        path, sha256: of `open_bundle`.

    Raises:
        InputError: as of `open_bundle`, but of what networks compute.
    """
    try:
        # Opening a named pipe would wait forever for its other end.
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(path, 'not a file')
        if status.st_size > MAX_BYTES:
            raise InputError(path, f'{status.st_size} bytes, limit {MAX_BYTES}')
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(path, error.strerror) from None
    digest = hashlib.sha256(data).hexdigest()
    if sha256 and sha256.lower() != digest:
        raise InputError(path, f'its SHA-256 is {digest}, expected {sha256}')
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if len(entries) > _MAX_ENTRIES:
                raise InputError(path, f'{len(entries)} entries, limit {_MAX_ENTRIES}')
            missing = set(_SHAPES) - {entry.filename for entry in entries}
            if missing:
                raise InputError(
                    path, f'no pose landmarker, or a damaged one: {min(missing)} is '
                    'not in it')
            size = sum(entry.file_size for entry in entries)
            if size > MAX_BYTES:
                raise InputError(path, f'{size} bytes unpacked, limit {MAX_BYTES}')
            # MediaPipe runs what it is given; a network with other bytes in it might
            # do anything.
            damaged = archive.testzip()
    except InputError:
        raise
    except _DAMAGE:
        raise InputError(path, 'no .task bundle, or a damaged one') from None
    if damaged:
        raise InputError(path, f'{damaged} in it is damaged')
    return data


def _extract(path, data):
    """Both networks' bytes, by name."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {name: _read_entry(archive, name, path) for name in _SHAPES}
    except InputError:
        raise
    except _DAMAGE:
        raise InputError(path, 'no .task bundle, or a damaged one') from None


def _read_entry(archive, name, path):
    size = archive.getinfo(name).file_size
    with archive.open(name) as file:
        # A header may lie: no more is unpacked than it declares.
        data = file.read(size + 1)
    if len(data) != size:
        raise InputError(path, f'{name} is not of the {size} bytes it declares')
    return data
