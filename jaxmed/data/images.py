"""Pictures from disk: refused with a reason, or decoded whole.

Pillow and not OpenCV: it reads the header first, so that a limit is checked before
anything is allocated, and it raises on a truncated file, of which OpenCV makes a
picture with a grey bottom.
"""

import contextlib
import logging
import os
import stat
import threading
import warnings
from pathlib import Path

import numpy as np
from PIL import (
    BmpImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
)

from jaxmed.errors import ImageError

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff')

# First bytes -> decoder; nothing else is opened, whatever its name says. Calling the
# decoder and not Image.open keeps Pillow's own pixel limit, a global, out of the way.
_DECODERS = {
    b'\xff\xd8\xff': JpegImagePlugin.JpegImageFile,
    b'\x89PNG\r\n\x1a\n': PngImagePlugin.PngImageFile,
    b'BM': BmpImagePlugin.BmpImageFile,
    b'II*\0': TiffImagePlugin.TiffImageFile,
    b'MM\0*': TiffImagePlugin.TiffImageFile,
}
_SIXTEEN_BIT = ('I;16', 'I;16L', 'I;16B', 'I;16N')
_LIMITLESS = ('I', 'F')  # 32 bit: no white level to scale by
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # tag of a TIFF and one of its values

# Share of the levels beyond either end of `scale_by_range`.
_BEYOND = 0.001

# A grey picture saved as a colour JPEG has channels that differ by a few levels.
_COLOUR_LEVELS = 64

# Pillow talks about odd metadata to whoever reads stderr; pixels are all we want.
warnings.filterwarnings('ignore', module=r'PIL\.')
logging.getLogger('PIL').setLevel(logging.CRITICAL)
_STDERR_LOCK = threading.Lock()


def read_image(path, *, max_pixels):
    """Reads a JPEG, PNG, BMP or TIFF (its first page) as RGB.

    The EXIF orientation is applied, transparency is laid on white (what a slide
    shows where nothing is), and CMYK and palettes are converted. 16-bit grey is
    divided by 257 and rounded, so that 65535 becomes 255: a camera that fills only
    12 of 16 bits gives a dark picture. Of 16-bit colour Pillow keeps the high byte.

    Args:
        path: file.
        max_pixels: most width x height; checked before decoding.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        ImageError: no such file, not a file, unreadable, empty, none of the formats,
            over the limit, truncated or damaged. Damage inside a JPEG's data that
            leaves its length intact is decoded without a complaint.
    """
    return _read(path, max_pixels, _to_rgb)


def read_grey(path, *, max_pixels):
    """Reads a grey picture: a mask, most of the time.

    As `read_image`, orientation by the file's own EXIF included, but transparency is
    dropped: laid on white it would turn a mask's background into foreground.

    Returns:
        uint8 [H, W].

    Raises:
        ImageError: as `read_image`, and for a picture that has colours.
    """
    return _read(path, max_pixels, _to_grey)


def read_levels(path, *, max_pixels):
    """Reads a picture without a loss of levels: for what is scaled by its own range.

    As `read_image`, but grey stays grey and 16-bit grey keeps its 16 bits.
    Transparency is laid on black, what a radiograph shows where nothing is. Of 16-bit
    colour Pillow keeps the high byte.

    Returns:
        (levels, format): uint8 or uint16 [H, W], or uint8 [H, W, 3] RGB; 'JPEG',
        'PNG', 'BMP' or 'TIFF'.

    Raises:
        ImageError: as `read_image`.
    """
    return _read(path, max_pixels, _to_levels)


def scale_by_range(levels, *, left_out=None):
    """Scales grey levels to 0..255 by their own range, robustly.

    0 and 255 are the 0.1% and the 99.9% quantile, so that a marker's letters or a
    dead pixel don't make all else dark; a picture of one level becomes 0.

    Args:
        levels: [H, W], of any real type.
        left_out: a level that is no part of the picture: what fills the frame.

    Returns:
        uint8 [H, W].
    """
    levels = np.asarray(levels, np.float32)
    known = levels.ravel() if left_out is None else levels[levels != left_out]
    if not known.size:
        known = levels.ravel()
    low, high = np.quantile(known, [_BEYOND, 1 - _BEYOND])
    if high <= low:  # nearly all of one level: then all there is counts
        low, high = known.min(), known.max()
    scaled = (levels - low) * (255.0 / max(high - low, 1e-12))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def find_images(folder, *, suffixes=SUFFIXES, recognise=None):
    """Files with an image's suffix below `folder`, sorted; hidden ones are skipped.

    Args:
        folder: to be searched, folders in it included.
        suffixes: in lower case; a file's may be in any.
        recognise: path of any other file -> whether it is an image all the same;
            None leaves these out.

    Returns:
        list of Path, at least one.

    Raises:
        ImageError: no such folder, an unreadable one, or no image in it.
    """
    def is_image(path):
        if path.suffix.lower() in suffixes:
            return True
        return recognise is not None and recognise(path)

    def fail(error):
        raise ImageError(error.filename, error.strerror)

    found = []
    # Links to folders aren't followed: they may lead round in a circle.
    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith('.')]
        paths = [Path(parent, name) for name in names if not name.startswith('.')]
        found += [path for path in paths if is_image(path)]
    if not found:
        raise ImageError(folder, f'no images ({" ".join(suffixes)})')
    return sorted(found)


def open_file(path):
    """Opens a file for its bytes.

    Raises:
        ImageError: there is none, or it can't be opened.
    """
    try:
        # Opening a named pipe would wait forever for its other end.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ImageError(path, 'not a file')
        return open(path, 'rb')
    except OSError as error:
        raise ImageError(path, error.strerror) from None


def _read(path, max_pixels, convert):
    with open_file(path) as file:
        start = file.read(8)
        if not start:
            raise ImageError(path, 'empty file')
        for magic, decoder in _DECODERS.items():
            if start.startswith(magic):
                break
        else:
            raise ImageError(path, 'not a JPEG, PNG, BMP or TIFF')
        file.seek(0)
        try:
            return _decode(decoder(file), path, max_pixels, convert)
        except ImageError:
            raise
        # Damaged bytes make Pillow raise nearly anything: OSError, SyntaxError,
        # struct.error, zlib.error, ValueError, KeyError, OverflowError ...
        except Exception as error:
            raise ImageError(path, f'damaged or truncated: {error}') from None


def _decode(image, path, max_pixels, convert):
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(path, f'{width} x {height} pixels, limit {max_pixels}')
    if image.mode in _LIMITLESS:
        raise ImageError(path, '32 bits a channel, at most 16 can be read')
    # libtiff, which decodes compressed TIFFs, prints what it finds wrong.
    compressed = any(tile.codec_name == 'libtiff' for tile in image.tile)
    with silent_stderr() if compressed else contextlib.nullcontext():
        image.load()
    kind, tags = image.format, getattr(image, 'tag_v2', {})
    image = ImageOps.exif_transpose(image)
    if image.mode in _SIXTEEN_BIT and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        # Of 8 bits Pillow does this itself.
        image = Image.fromarray(65535 - np.asarray(image).astype(np.uint16))
    image.format = kind  # a copy has forgotten it
    return convert(image, path)


@contextlib.contextmanager
def silent_stderr():
    """Nothing is printed, by C libraries either; for moments, it is the process's."""
    with _STDERR_LOCK:
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)


def _to_levels(image, path):
    if image.mode in _SIXTEEN_BIT:
        return np.asarray(image).astype(np.uint16), image.format
    kind = image.format
    if image.has_transparency_data:
        black = Image.new('RGBA', image.size, 'black')
        image = Image.alpha_composite(black, image.convert('RGBA')).convert(
            'L' if image.mode in ('L', 'LA', 'La', '1') else 'RGB')
    if image.mode == '1':
        image = image.convert('L')
    return np.array(image if image.mode == 'L' else image.convert('RGB')), kind


def _eight_bits(image):
    """Sixteen bits are scaled to eight; other pictures stay as they are."""
    if image.mode not in _SIXTEEN_BIT:
        return image
    levels = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8))


def _to_rgb(image, path):
    image = _eight_bits(image)
    if image.has_transparency_data:
        white = Image.new('RGBA', image.size, 'white')
        image = Image.alpha_composite(white, image.convert('RGBA'))
    return np.array(image.convert('RGB'))


def _to_grey(image, path):
    image = _eight_bits(image)
    if image.mode in ('L', 'LA'):
        return np.array(image.getchannel('L'))
    pixels = np.array(image.convert('RGB'))
    spread = int(np.ptp(pixels, axis=-1).max())
    if spread > _COLOUR_LEVELS:
        raise ImageError(path, f'grey is needed, channels differ by {spread} levels')
    return np.array(Image.fromarray(pixels).convert('L'))
