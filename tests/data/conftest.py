"""Pictures, videos, movements and DICOM files made on the spot."""

import struct

import cv2
import numpy as np
import pytest

from jaxmed.data.phantoms import radiographs as phantoms
from jaxmed.pose.skeletons import BLAZEPOSE, Motion
from tests.data.films import RATE_HZ, picture, write_film

PLAIN, IMPLICIT, BIG = (f'1.2.840.10008.1.2{end}' for end in ('.1', '', '.2'))
CAPTURE = '1.2.840.10008.5.1.4.1.1.7'


@pytest.fixture
def drawn():
    """(seed, size_px, patterns) -> a drawn radiograph, uint8 [size_px, size_px]."""
    def draw(seed, size_px=256, patterns=()):
        rng = np.random.default_rng(seed)
        return phantoms.draw_radiograph(rng, size_px=size_px, patterns=patterns)[0]

    return draw


@pytest.fixture
def save():
    """Writes a picture (grey, RGB or RGBA) and returns its path."""
    def write(path, picture):
        path.parent.mkdir(parents=True, exist_ok=True)
        if picture.ndim == 3:
            order = [2, 1, 0, 3][:picture.shape[2]]
            picture = np.ascontiguousarray(picture[..., order])
        done, data = cv2.imencode(path.suffix.lower(), picture)
        assert done
        path.write_bytes(data.tobytes())
        return path

    return write


@pytest.fixture
def film(tmp_path):
    """Writes a video of `picture`s and returns its path."""
    def write(name='film.mp4', frames=20, rate_hz=RATE_HZ):
        return write_film(tmp_path, name, frames=frames, rate_hz=rate_hz)

    return write


@pytest.fixture
def folder(tmp_path, save):
    """Writes pictures under the names given, in that order, and returns the folder."""
    def write(*names, pictures=None):
        for number, name in enumerate(names):
            frame = picture(number) if pictures is None else pictures[number]
            save(tmp_path / 'frames' / name, frame)
        return tmp_path / 'frames'

    return write


@pytest.fixture
def motion():
    rng = np.random.default_rng(0)
    joints = rng.normal(size=(4, 33, 3)).astype(np.float32)
    visibility = rng.uniform(size=(4, 33)).astype(np.float32)
    joints[1], visibility[1] = np.nan, 0
    joints[2, 5], visibility[2, 5] = np.nan, 0
    return Motion(joints, visibility, np.array([0, 1 / 30, 0.1, 1 / 7]), 'blazepose')


@pytest.fixture
def rows(motion):
    """A named table as columns -> cells."""
    table = {'time_s': motion.time_s}
    for joint, name in enumerate(BLAZEPOSE.joints):
        for axis in range(3):
            table[f'{"xyz"[axis]}_{name}'] = motion.joints[:, joint, axis]
        table[f'visibility_{name}'] = motion.visibility[:, joint]
    return table


def element(group, number, kind, value, order='<', explicit=True):
    value = value.encode('latin-1') if isinstance(value, str) else value
    value += (b'\0' if kind in ('UI', 'OB') else b' ') * (len(value) % 2)
    head = struct.pack(order + 'HH', group, number)
    if not explicit:
        return head + struct.pack(order + 'I', len(value)) + value
    head += kind.encode()
    if kind in ('OB', 'OW', 'SQ', 'UN'):
        return head + b'\0\0' + struct.pack(order + 'I', len(value)) + value
    return head + struct.pack(order + 'H', len(value)) + value


@pytest.fixture
def dicom():
    """Writes a DICOM file by hand and returns its path.

    `pixels` uint8, uint16 or int16; `tags` maps (group, element) to (type, value) and
    replaces what is written otherwise; None leaves an element out, bytes are written
    as they are.
    """
    def write(path, pixels, *, tags=None, bits=None, marked=True, syntax=PLAIN):
        order, explicit = '>' if syntax == BIG else '<', syntax != IMPLICIT
        pixels = pixels.astype(pixels.dtype.newbyteorder(order))
        pixels = np.ascontiguousarray(pixels)
        allocated = 8 * pixels.itemsize
        rows, columns, samples = (*pixels.shape, 1)[:3]

        def short(*numbers):
            return 'US', struct.pack(f'{order}{len(numbers)}H', *numbers)

        header = {
            (0x0008, 0x0016): ('UI', CAPTURE), (0x0008, 0x0018): ('UI', '1.2.3'),
            (0x0008, 0x0060): ('CS', 'DX'), (0x0010, 0x0010): ('PN', 'Roe^Jane'),
            (0x0010, 0x0020): ('LO', 'MRN-4711'),
            (0x0028, 0x0002): short(samples),
            (0x0028, 0x0004): ('CS', 'RGB' if samples == 3 else 'MONOCHROME2'),
            (0x0028, 0x0006): short(0) if samples == 3 else None,
            (0x0028, 0x0010): short(rows), (0x0028, 0x0011): short(columns),
            (0x0028, 0x0100): short(allocated),
            (0x0028, 0x0101): short(bits or allocated),
            (0x0028, 0x0102): short((bits or allocated) - 1),
            (0x0028, 0x0103): short(int(pixels.dtype.kind == 'i')),
            (0x7FE0, 0x0010): ('OW' if allocated == 16 else 'OB', pixels.tobytes()),
        } | (tags or {})
        meta = (
            element(2, 1, 'OB', b'\0\1') + element(2, 2, 'UI', CAPTURE)
            + element(2, 3, 'UI', '1.2.3') + element(2, 0x10, 'UI', syntax))
        meta = element(2, 0, 'UL', struct.pack('<I', len(meta))) + meta
        body = b''.join(
            value if isinstance(value, bytes)
            else element(*key, *value, order=order, explicit=explicit)
            for key, value in sorted(header.items()) if value)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(128) + (b'DICM' if marked else b'____') + meta + body)
        return path

    return write
