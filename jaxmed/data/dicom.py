"""Single-frame DICOM files -> grey pictures as a radiologist's screen shows them.

SimpleITK (GDCM) decodes; what is told of a patient's name is never asked for.
"""

import hashlib
import os
import stat
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from jaxmed.data.images import scale_by_range, silent_stderr
from jaxmed.errors import ImageError

SUFFIXES = ('.dcm', '.dicom')

_MARK_AT, _MARK = 128, b'DICM'
_HEADER_BYTES = 4096  # in which the transfer syntax is looked for

# Element (0002,0010) with its type, and the syntaxes that store pixels as they are.
_SYNTAX = b'\x02\x00\x10\x00UI'
_PLAIN = (b'1.2.840.10008.1.2', b'1.2.840.10008.1.2.1', b'1.2.840.10008.1.2.2')

# What anonymisers write for everybody is nobody's id.
_PLACEHOLDERS = ('', '0', 'anon', 'anonymous', 'anonymized', 'anonymised', 'none',
                 'unknown', 'patient', 'n/a', 'na')


class Picture(NamedTuple):
    """A DICOM file's picture and the little that is kept of its header."""

    pixels: np.ndarray  # uint8 [H, W], or [H, W, 3] RGB of a colour secondary capture
    view: str  # View Position: 'PA', 'AP', 'LL', ... or ''
    modality: str  # 'DX', 'CR', 'CT', ...
    patient: str  # 16 hex digits of a hash of the patient's id; '' where there is none


def is_dicom(path):
    """Whether a file carries the mark of the format; False if it can't be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, 'rb') as file:
            return file.read(_MARK_AT + 4)[_MARK_AT:] == _MARK
    except OSError:
        return False


def read_dicom(path, *, max_pixels):
    """Reads a DICOM file with one picture.

    Stored values go through rescale slope and intercept, then through the first VOI
    window (LINEAR, LINEAR_EXACT or SIGMOID); without a window, from the darkest to
    the brightest value but one pixel in a thousand at either end, padding left out.
    MONOCHROME1 is inverted. Modality and VOI look-up tables are not applied.

    Args:
        path: file.
        max_pixels: most width x height; checked before decoding.

    Returns:
        Picture.

    Raises:
        ImageError: no such file, no DICOM file, damaged or truncated, no picture in
            it, several frames, over the limit.
    """
    if not is_dicom(path):
        raise ImageError(path, _why_not(path))
    # GDCM takes the whole file into memory to read a header; nothing that is allowed
    # is this long.
    size = os.path.getsize(path)
    if size > 8 * max_pixels + (1 << 26):
        raise ImageError(path, f'{size} bytes are too many for {max_pixels} pixels')
    reader = sitk.ImageFileReader()
    reader.SetImageIO('GDCMImageIO')
    reader.SetFileName(os.fsdecode(path))
    try:
        with silent_stderr():
            reader.ReadImageInformation()
    except RuntimeError:
        raise ImageError(
            path, 'damaged or truncated DICOM, or one without a picture') from None
    width, height, *rest = reader.GetSize()
    frames = int(np.prod(rest, dtype=np.int64))
    if frames != 1:
        raise ImageError(path, f'{frames} frames; only a single one can be read')
    if width * height > max_pixels:
        raise ImageError(path, f'{width} x {height} pixels, limit {max_pixels}')
    tags = _Tags(reader)
    _check_length(path, size, width * height, tags)
    try:
        with silent_stderr():
            values = sitk.GetArrayFromImage(reader.Execute())[0]
    except RuntimeError:
        raise ImageError(path, 'damaged DICOM, or a compression not known') from None
    return Picture(
        pixels=_to_screen(values, tags),
        view=tags.text('0018|5101').upper(),
        modality=tags.text('0008|0060').upper(),
        patient=_hide(tags.text('0010|0020')),
    )


class _Tags:
    """Elements of a header by number; what is absent or no number is a default."""

    def __init__(self, reader):
        self._reader = reader

    def text(self, key):
        if not self._reader.HasMetaDataKey(key):
            return ''
        # ITK hands on bytes that are no UTF-8 as surrogates; NULs pad to even length.
        return self._reader.GetMetaData(key).strip(' \0\n\t')

    def number(self, key, default=None):
        try:
            value = float(self.text(key).split('\\')[0])
        except ValueError:
            return default
        return value if np.isfinite(value) else default


def _why_not(path):
    try:
        with open(path, 'rb') as file:
            return 'not a DICOM file' if file.read(1) else 'empty file'
    except OSError as error:
        return error.strerror


def _check_length(path, size, pixels, tags):
    """Pixels that are stored plain and missing would be read from foreign memory."""
    with open(path, 'rb') as file:
        _, found, rest = file.read(_HEADER_BYTES).partition(_SYNTAX)
    length = int.from_bytes(rest[:2], 'little')
    if not found or rest[2:2 + length].rstrip(b'\0 ') not in _PLAIN:
        return
    bits = tags.number('0028|0100', 8.0) * tags.number('0028|0002', 1.0)
    if size < pixels * bits / 8:
        raise ImageError(path, f'truncated: {size} bytes for {pixels} pixels')


def _to_screen(values, tags):
    """Values as ITK gives them (rescaled) -> uint8 [H, W] or [H, W, 3]."""
    photometric = tags.text('0028|0004')
    if values.ndim == 3:
        # RGB: ITK has converted YBR and looked up palettes.
        values = values[..., :3] if values.shape[-1] >= 3 else values[..., 0]
        if values.dtype == np.uint8:
            return values
        return scale_by_range(values.reshape(len(values), -1)).reshape(values.shape)
    slope = tags.number('0028|1053', 1.0) or 1.0
    intercept = tags.number('0028|1052', 0.0)
    values = values.astype(np.float32)
    inverted = photometric == 'MONOCHROME1'
    if inverted:
        # ITK has turned the stored values about; a window is in those of the file.
        ends = -1.0 if tags.number('0028|0103') else (
            2.0 ** tags.number('0028|0101', 16.0) - 1)
        values = slope * ends + 2 * intercept - values
    centre, width = tags.number('0028|1050'), tags.number('0028|1051')
    if centre is None or width is None or width <= 0:
        padding = tags.number('0028|0120')
        if padding is not None:
            padding = np.float32(slope * padding + intercept)
        pixels = scale_by_range(values, left_out=padding)
    else:
        pixels = _window(values, centre, width, tags.text('0028|1056'))
    return 255 - pixels if inverted else pixels


def _window(values, centre, width, function):
    """DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3: values -> uint8."""
    if function == 'SIGMOID':
        share = 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -50, 50)))
    elif function == 'LINEAR_EXACT' or width <= 1:
        share = (values - centre) / width + 0.5
    else:
        share = (values - (centre - 0.5)) / (width - 1) + 0.5
    return np.clip(np.rint(share * 255), 0, 255).astype(np.uint8)


def _hide(patient):
    if patient.casefold() in _PLACEHOLDERS:
        return ''
    patient = patient.encode(errors='surrogateescape')
    return hashlib.sha256(b'dicom:' + patient).hexdigest()[:16]
