"""Single-frame DICOM files -> grey pictures as a radiologist's screen shows them.

`parse_header`, `stored_values` and `hide` serve the reader of series as well.

The file's structure is read here, with every length checked against what is there: a
library that trusts a damaged length allocates gigabytes. Only the elements named below
are looked at; a patient's name is not among them. Plain pixels are taken as they lie,
compressed ones go to GDCM (SimpleITK) in a file of nothing but pixels.
"""

import hashlib
import os
import stat
import struct
import tempfile
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from jaxmed.data import identity
from jaxmed.data.images import scale_by_range, silent_stderr
from jaxmed.errors import ImageError

SUFFIXES = ('.dcm', '.dicom')

# GDCM's remarks on odd files; what matters of them is raised.
sitk.ProcessObject.SetGlobalWarningDisplay(False)

_MARK_AT, _MARK = 128, b'DICM'
_START, _BARE_ELEMENTS = 512, 3  # bytes that tell what a file is

_SYNTAX = (0x0002, 0x0010)
_MODALITY, _PATIENT, _VIEW = (0x0008, 0x0060), (0x0010, 0x0020), (0x0018, 0x5101)
_SAMPLES, _PHOTOMETRIC, _PLANAR = (0x0028, 0x0002), (0x0028, 0x0004), (0x0028, 0x0006)
_FRAMES, _ROWS, _COLUMNS = (0x0028, 0x0008), (0x0028, 0x0010), (0x0028, 0x0011)
_ALLOCATED, _STORED, _HIGH = (0x0028, 0x0100), (0x0028, 0x0101), (0x0028, 0x0102)
_SIGNED, _PADDING = (0x0028, 0x0103), (0x0028, 0x0120)
_CENTRE, _WIDTH, _FUNCTION = (0x0028, 0x1050), (0x0028, 0x1051), (0x0028, 0x1056)
_INTERCEPT, _SLOPE = (0x0028, 0x1052), (0x0028, 0x1053)
_FOR_PIXELS = frozenset((
    _SYNTAX, _SAMPLES, _PHOTOMETRIC, _PLANAR, _FRAMES, _ROWS, _COLUMNS, _ALLOCATED,
    _STORED, _HIGH, _SIGNED, _PADDING,
))
_WANTED = frozenset((
    _MODALITY, _PATIENT, _VIEW, _CENTRE, _WIDTH, _FUNCTION, _INTERCEPT, _SLOPE,
))
_PIXELS = (0x7FE0, 0x0010)
_ITEM, _ITEM_END, _SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
_LONG = (b'OB', b'OD', b'OF', b'OL', b'OV', b'OW', b'SQ', b'SV', b'UC', b'UN', b'UR',
         b'UT', b'UV')
_UNDEFINED = 0xFFFFFFFF
_DEEPEST = 16  # sequences within each other
_LONGEST = 4096  # bytes kept of an element

_IMPLICIT, _EXPLICIT = '1.2.840.10008.1.2', '1.2.840.10008.1.2.1'
_BIG_ENDIAN, _DEFLATED = '1.2.840.10008.1.2.2', '1.2.840.10008.1.2.1.99'
# JPEG, JPEG-LS, JPEG 2000 and run lengths: what GDCM decodes.
_COMPRESSED = ('1.2.840.10008.1.2.4.', '1.2.840.10008.1.2.5')

_NO_FRAMES = (0xC4, 0xC8, 0xCC)  # tables of a JPEG stream


class Picture(NamedTuple):
    """A DICOM file's picture and the little that is kept of its header."""

    pixels: np.ndarray  # uint8 [H, W], or [H, W, 3] RGB of a colour secondary capture
    view: str  # View Position: 'PA', 'AP', 'LL', ... or ''
    modality: str  # 'DX', 'CR', 'CT', ...
    patient: str  # 16 hex digits of a hash of the patient's id; '' where there is none


def is_dicom(path):
    """Whether a file carries the mark of the format; False if it can't be read.

    Or whether it starts as files did that old archives wrote, which have no mark:
    with elements of group 8, implicit little endian.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, 'rb') as file:
            start = file.read(_START)
    except OSError:
        return False
    return _is_marked(start) or _is_bare(start)


def _is_marked(data):
    return data[_MARK_AT:_MARK_AT + 4] == _MARK


def _is_bare(data):
    """Three elements of group 8 in their order; no other format begins like that."""
    place, before = 0, -1
    for _ in range(_BARE_ELEMENTS):
        if place + 8 > min(len(data), _START):
            return False
        group, number, length = struct.unpack_from('<HHI', data, place)
        if group != 8 or number <= before or length % 2:
            return False
        place, before = place + 8 + length, number
    return True


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
            it, several frames, over the limit, a kind of pixels that isn't read.
    """
    if not is_dicom(path):
        raise ImageError(path, _why_not(path))
    size = os.path.getsize(path)
    if size > 8 * max_pixels + (1 << 26):
        raise ImageError(path, f'{size} bytes are too many for {max_pixels} pixels')
    try:
        with open(path, 'rb') as file:
            data = memoryview(file.read())
            header, place = parse_header(data, _WANTED)
            fragments = place and _fragments(data, place, header)
    except OSError as error:
        raise ImageError(path, error.strerror) from None
    except Unread as error:
        raise ImageError(path, error) from None
    except (Damaged, struct.error, IndexError):
        raise ImageError(path, 'damaged or truncated DICOM') from None
    width, height = header.integer(_COLUMNS, 0), header.integer(_ROWS, 0)
    if place is None or not width * height:
        raise ImageError(path, 'DICOM without a picture')
    if header.integer(_FRAMES, 1) > 1:
        frames = header.integer(_FRAMES, 1)
        raise ImageError(path, f'{frames} frames; only a single one can be read')
    if width * height > max_pixels:
        raise ImageError(path, f'{width} x {height} pixels, limit {max_pixels}')
    photometric = header.text(_PHOTOMETRIC)
    kind = (header.integer(_ALLOCATED, 0), header.integer(_SAMPLES, 1))
    if kind not in ((8, 1), (16, 1), (8, 3)) or photometric == 'PALETTE COLOR':
        raise ImageError(
            path, f'{kind[1]} x {kind[0]} bits of {photometric!r} are not read')
    try:
        with silent_stderr():  # of the codecs
            values = _decode(header, fragments, (height, width))
    except Unread as error:
        raise ImageError(path, error) from None
    except Damaged as error:
        raise ImageError(path, f'damaged or truncated DICOM: {error}') from None
    return Picture(
        pixels=values if values.ndim == 3 else _to_screen(values, header),
        view=header.text(_VIEW).upper(),
        modality=header.text(_MODALITY).upper(),
        patient=hide(header.text(_PATIENT)),
    )


class Damaged(Exception):
    """A structure that isn't DICOM's.

    `header` of those that parse_header raises: what was read before the damage.
    """

    header = None


class Unread(Exception):
    """A sound file of a kind that isn't read."""


class Header:
    """Wanted elements; what is absent or no number is a default."""

    def __init__(self):
        self.elements, self.order, self.explicit = {}, '<', True

    def text(self, tag):
        _, value = self.elements.get(tag, (b'', b''))
        return bytes(value).decode('latin-1').strip(' \0\t\r\n')

    def number(self, tag, default=None):
        kind, value = self.elements.get(tag, (b'', b''))
        if kind in (b'US', b'SS') and len(value) >= 2:
            letter = 'H' if kind == b'US' else 'h'
            return float(struct.unpack_from(self.order + letter, value)[0])
        try:
            value = float(self.text(tag).split('\\')[0])
        except ValueError:
            return default
        return value if np.isfinite(value) else default

    def numbers(self, tag):
        """All values of a text of numbers, or None where one is no finite number."""
        try:
            values = [float(part) for part in self.text(tag).split('\\')]
        except ValueError:
            return None
        return values if np.all(np.isfinite(values)) else None

    def integer(self, tag, default):
        value = self.number(tag)
        return default if value is None else int(value)


# Types of the elements that hold numbers, for files that don't say.
_SHORTS = (_SAMPLES, _PLANAR, _ROWS, _COLUMNS, _ALLOCATED, _STORED, _HIGH, _SIGNED)


def parse_header(data, wanted):
    """Reads the elements before a file's pixels.

    Args:
        data: memoryview of the whole file; nothing of it is kept.
        wanted: frozenset of tags (group, element); what decoding pixels takes is
            read as well.

    Returns:
        (Header, place of the element that holds the pixels, or None).

    Raises:
        Damaged: a damaged or truncated file.
        Unread: a deflated one.
    """
    header = Header()
    try:
        return header, _read_elements(data, header, wanted)
    except (Damaged, struct.error, IndexError) as error:
        damage = Damaged(error if isinstance(error, Damaged) else 'it ends too early')
        damage.header = header
        raise damage from None


def _read_elements(data, header, wanted):
    """Fills a header; the place of the pixels, or None."""
    place = 0
    if _is_marked(data):
        place = _MARK_AT + 4
    else:
        header.elements[_SYNTAX] = (b'UI', _IMPLICIT.encode())
    while place + 8 <= len(data) and data[place:place + 2] == b'\x02\0':
        tag, kind, start, length = _element(data, place, '<', True)
        if tag == _SYNTAX:
            header.elements[tag] = (kind, bytes(data[start:start + length]))
        place = start + length
    syntax = header.text(_SYNTAX)
    if syntax == _DEFLATED:
        raise Unread(f'transfer syntax {syntax!r} is not read')
    explicit = header.explicit = syntax != _IMPLICIT
    order = header.order = '>' if syntax == _BIG_ENDIAN else '<'
    tag_of = struct.Struct(order + 'HH').unpack_from
    while place + 8 <= len(data):
        if tag_of(data, place) == _PIXELS:
            return place
        tag, kind, start, length = _element(data, place, order, explicit)
        if length == _UNDEFINED:
            inside = explicit and kind != b'UN'
            place = _skip_items(data, start, order, inside, 0)
            continue
        if tag in wanted or tag in _FOR_PIXELS:
            if not explicit and tag in _SHORTS + (_PADDING,):
                signed = tag == _PADDING and header.number(_SIGNED)
                kind = b'SS' if signed else b'US'
            end = start + min(length, _LONGEST)
            header.elements[tag] = (kind, bytes(data[start:end]))
        place = start + length
    if place < len(data):
        raise Damaged('it ends within an element')
    return None


def stored_values(data, header, place):
    """Decodes the grey picture of a file that `parse_header` has read.

    May be called from several threads; codecs may print to stderr.

    Args:
        data: memoryview of the whole file.
        header, place: of parse_header.

    Returns:
        int32 [H, W], before rescale slope and intercept.

    Raises:
        Damaged, Unread, struct.error, IndexError: with the reason.
    """
    shape = header.integer(_ROWS, 0), header.integer(_COLUMNS, 0)
    kind = (header.integer(_ALLOCATED, 0), header.integer(_SAMPLES, 1))
    if kind not in ((8, 1), (16, 1)):
        raise Unread(f'{kind[1]} x {kind[0]} bits are not read')
    return _decode(header, _fragments(data, place, header), shape)


def _element(data, place, order, explicit):
    """(tag, type, start of the value, length), which lies within the data."""
    tag = struct.unpack_from(order + 'HH', data, place)
    kind, start = b'', place + 8
    if explicit and tag[0] != 0xFFFE:
        kind = bytes(data[place + 4:place + 6])
        if not (kind.isalpha() and kind.isupper()):
            raise Damaged('an element without a type')
        if kind in _LONG:
            length, = struct.unpack_from(order + 'I', data, place + 8)
            start += 4
        else:
            length, = struct.unpack_from(order + 'H', data, place + 6)
    else:
        length, = struct.unpack_from(order + 'I', data, place + 4)
    if length != _UNDEFINED and start + length > len(data):
        raise Damaged('an element that is longer than the file')
    return tag, kind, start, length


def _skip_items(data, place, order, explicit, depth):
    """The place behind a sequence of undefined length."""
    if depth > _DEEPEST:
        raise Damaged('sequences within each other')
    while True:
        tag, _, start, length = _element(data, place, order, explicit)
        place = start + (0 if length == _UNDEFINED else length)
        if tag == _SEQUENCE_END:
            return place
        if tag != _ITEM:
            raise Damaged('a sequence of something else than items')
        while length == _UNDEFINED:
            tag, kind, start, inner = _element(data, place, order, explicit)
            if tag == _ITEM_END:
                place = start
                break
            if inner == _UNDEFINED:
                inside = explicit and kind != b'UN'
                place = _skip_items(data, start, order, inside, depth + 1)
            else:
                place = start + inner


def _fragments(data, place, header):
    """Pixels as they lie; of encapsulated ones the items behind the table."""
    _, _, place, length = _element(data, place, header.order, header.explicit)
    if length != _UNDEFINED:
        return [data[place:place + length]]
    found = []
    while True:
        tag, _, start, length = _element(data, place, '<', True)
        if tag == _SEQUENCE_END:
            return found[1:]
        if tag != _ITEM or length == _UNDEFINED:
            raise Damaged('fragments that are no items')
        found.append(data[start:start + length])
        place = start + length


def _decode(header, fragments, shape):
    """Pixels -> stored values: [H, W], or uint8 RGB [H, W, 3]."""
    syntax = header.text(_SYNTAX)
    if syntax.startswith(_COMPRESSED):
        return _decompress(header, fragments, shape)
    if syntax in (_IMPLICIT, _EXPLICIT, _BIG_ENDIAN):
        return _unpack(header, fragments, shape)
    raise Unread(f'transfer syntax {syntax[:64]!r} is not read')


def _unpack(header, fragments, shape):
    """Plain pixels -> stored values: [H, W], or uint8 RGB [H, W, 3]."""
    allocated, samples = header.integer(_ALLOCATED, 0), header.integer(_SAMPLES, 1)
    count = shape[0] * shape[1] * samples
    data = fragments[0] if fragments else b''
    if len(data) < count * allocated // 8:
        raise Damaged(f'{len(data)} bytes for {shape[1]} x {shape[0]} pixels')
    kind = 'u1' if allocated == 8 else header.order + 'u2'
    values = np.frombuffer(data, kind, count)
    if samples == 3:
        if header.integer(_PLANAR, 0):
            values = values.reshape(3, *shape).transpose(1, 2, 0)
        return _to_rgb(values.reshape(*shape, 3), header.text(_PHOTOMETRIC))
    stored = min(header.integer(_STORED, allocated) or allocated, allocated)
    highest = min(max(header.integer(_HIGH, stored - 1), stored - 1), allocated - 1)
    values = values.reshape(shape).astype(np.int32) >> (highest + 1 - stored)
    values &= (1 << stored) - 1  # the other bits may hold an overlay
    if header.integer(_SIGNED, 0):
        values -= (values >> (stored - 1)) << stored
    return values


def _to_rgb(values, photometric):
    if photometric == 'RGB':
        return np.ascontiguousarray(values)
    if photometric != 'YBR_FULL':
        raise Damaged(f'three samples of {photometric!r} are not read')
    luma, blue, red = (values[..., i].astype(np.float32) for i in range(3))
    blue, red = blue - 128, red - 128
    colours = np.stack([  # PS3.3 C.7.6.3.1.2
        luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red,
        luma + 1.772 * blue], axis=-1)
    return np.clip(np.rint(colours), 0, 255).astype(np.uint8)


def _decompress(header, fragments, shape):
    """Compressed pixels -> stored values: [H, W], or uint8 RGB [H, W, 3]."""
    _check_stream(b''.join(fragments), header, shape)
    with tempfile.NamedTemporaryFile(suffix='.dcm') as file:
        file.write(_wrap(header, fragments))
        file.flush()
        reader = sitk.ImageFileReader()
        reader.SetImageIO('GDCMImageIO')
        reader.SetFileName(file.name)
        try:
            values = sitk.GetArrayFromImage(reader.Execute())[0]
        except (RuntimeError, IndexError):
            raise Damaged('its compressed pixels') from None
    if values.shape[:2] != shape or values.ndim == 3 and values.dtype != np.uint8:
        raise Damaged('its compressed pixels')
    return values if values.ndim == 3 else values.astype(np.int32)


def _check_stream(stream, header, shape):
    """Compares what a JPEG or JPEG 2000 stream declares with the header.

    A decoder allocates what the stream says; GDCM's crashes on 51 bits a sample.
    """
    coded = None
    try:
        at = stream.find(b'\xff\x4f\xff\x51')
        if at >= 0:
            right, below, left, above = struct.unpack_from('>4I', stream, at + 8)
            samples, = struct.unpack_from('>H', stream, at + 40)
            bits = [(stream[at + 42 + 3 * i] & 127) + 1 for i in range(samples)]
            coded = (below - above, right - left), samples, max(bits, default=0)
        at = 2
        while coded is None and stream.startswith(b'\xff\xd8'):
            # All frame headers are alike: C0 to CF but three; F7 is JPEG-LS.
            marker = stream[at + 1]
            if marker == 0xF7 or 0xC0 <= marker <= 0xCF and marker not in _NO_FRAMES:
                frame = struct.unpack_from('>BHHB', stream, at + 4)
                coded = frame[1:3], frame[3], frame[0]
            at += 2 + struct.unpack_from('>H', stream, at + 2)[0]
    except (struct.error, IndexError):
        raise Damaged('its compressed pixels') from None
    if not stream:
        raise Damaged('no pixels')
    if coded is None:  # run lengths declare nothing
        return
    size, samples, bits = coded
    if size != shape:
        raise Damaged(f'{size[1]} x {size[0]} pixels are coded')
    if samples != header.integer(_SAMPLES, 1) or not (
        2 <= bits <= header.integer(_ALLOCATED, 0)
    ):
        raise Damaged(f'{samples} samples of {bits} bits are coded')


def _wrap(header, fragments):
    """A DICOM file of the pixels alone: no names, no windows, nothing inverted."""
    def element(tag, kind, value):
        value += (b'\0' if kind in (b'UI', b'OB') else b' ') * (len(value) % 2)
        head = struct.pack('<HH', *tag) + kind
        if kind in _LONG:
            return head + struct.pack('<HI', 0, len(value)) + value
        return head + struct.pack('<H', len(value)) + value

    def item(tag, value):
        return struct.pack('<HHI', *tag, len(value)) + bytes(value)

    kind = b'1.2.840.10008.5.1.4.1.1.7'  # secondary capture
    syntax = header.text(_SYNTAX).encode()
    meta = b''.join((
        element((2, 1), b'OB', b'\0\1'), element((2, 2), b'UI', kind),
        element((2, 3), b'UI', b'1.2.3'), element(_SYNTAX, b'UI', syntax)))
    colour = header.integer(_SAMPLES, 1) == 3
    photometric = header.text(_PHOTOMETRIC).encode() if colour else b'MONOCHROME2'
    allocated = header.integer(_ALLOCATED, 0)
    stored = header.integer(_STORED, allocated)
    body = element((8, 0x16), b'UI', kind) + element((8, 0x18), b'UI', b'1.2.3')
    for tag, value in (
        (_SAMPLES, 3 if colour else 1), (_PHOTOMETRIC, photometric),
        (_PLANAR, 0 if colour else None), (_ROWS, header.integer(_ROWS, 0)),
        (_COLUMNS, header.integer(_COLUMNS, 0)), (_ALLOCATED, allocated),
        (_STORED, stored), (_HIGH, stored - 1), (_SIGNED, header.integer(_SIGNED, 0)),
    ):
        if isinstance(value, int):
            body += element(tag, b'US', struct.pack('<H', value & 0xFFFF))
        elif value is not None:
            body += element(tag, b'CS', value)
    pixels = struct.pack('<HH2sHI', *_PIXELS, b'OB', 0, _UNDEFINED) + item(_ITEM, b'')
    pixels += b''.join(item(_ITEM, part) for part in fragments)
    pixels += item(_SEQUENCE_END, b'')
    size = element((2, 0), b'UL', struct.pack('<I', len(meta)))
    return bytes(_MARK_AT) + _MARK + size + meta + body + pixels


def _why_not(path):
    try:
        with open(path, 'rb') as file:
            return 'not a DICOM file' if file.read(1) else 'empty file'
    except OSError as error:
        return error.strerror


def _to_screen(values, header):
    """Stored values [H, W] -> uint8 [H, W]."""
    slope = header.number(_SLOPE, 1.0) or 1.0
    intercept = header.number(_INTERCEPT, 0.0)
    rescaled = np.float32(slope) * values.astype(np.float32) + np.float32(intercept)
    centre, width = header.number(_CENTRE), header.number(_WIDTH)
    if centre is None or width is None or width <= 0:
        padding = header.number(_PADDING)
        if padding is not None:
            padding = np.float32(slope) * np.float32(padding) + np.float32(intercept)
        pixels = scale_by_range(rescaled, left_out=padding)
    else:
        pixels = _window(rescaled, centre, width, header.text(_FUNCTION))
    return 255 - pixels if header.text(_PHOTOMETRIC) == 'MONOCHROME1' else pixels


def _window(values, centre, width, function):
    """DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3: values -> uint8."""
    if function == 'SIGMOID':
        share = 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -50, 50)))
    elif function == 'LINEAR_EXACT' or width <= 1:
        share = (values - centre) / width + 0.5
    else:
        share = (values - (centre - 0.5)) / (width - 1) + 0.5
    return np.clip(np.rint(share * 255), 0, 255).astype(np.uint8)


def hide(patient):
    """A patient's id -> 16 hex digits of its hash; '' where it is nobody's."""
    if patient == '0' or not identity.names_someone(patient):
        return ''
    return hashlib.sha256(f'dicom:{patient}'.encode()).hexdigest()[:16]
