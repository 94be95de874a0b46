"""One chest radiograph, of any format -> a grey square and what is known about it."""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from jaxmed.data import dicom, identity, images
from jaxmed.errors import ImageError

# `view` of a record is an index: how the patient stood to the film. The last three
# are slices of CT that lie among the radiographs of covid-chestxray.
VIEWS = (
    'unknown', 'PA', 'AP', 'AP Supine', 'L', 'AP Erect', 'AP Semi Erect', 'Axial',
    'Coronal', 'CT',
)
FRONTAL = ('PA', 'AP', 'AP Supine', 'AP Erect', 'AP Semi Erect')

# `source` of a record is an index: how the file was stored, which tells collections
# apart and must not tell classes apart. Colour means three channels, grey or not.
SOURCES = (
    'unknown', 'JPEG grey', 'JPEG colour', 'PNG grey', 'PNG colour', 'BMP grey',
    'BMP colour', 'TIFF grey', 'TIFF colour', 'DICOM grey', 'DICOM colour',
)

SUFFIXES = images.SUFFIXES + dicom.SUFFIXES
_RADIOGRAPHY = ('', 'CR', 'DX', 'RG', 'RF', 'XA', 'PX', 'OT', 'SC')
_DICOM_VIEWS = {'PA': 'PA', 'AP': 'AP', 'LL': 'L', 'RL': 'L', 'LATERAL': 'L', 'L': 'L'}

# Measured: of 245 radiographs and CT slices, some tinted blue or pink and some with
# coloured letters, none exceeds 12.3 and 3.5 levels of colour, 0.14 of middle tones is
# the least and 0.47 the largest part of one level; smears have 5.2 and more of the
# second.
_TINT, _COLOURS, _MIDDLE_TONES, _ONE_TONE = 25.0, 4.3, 0.05, 0.7
_FLAT = 3.0  # levels of standard deviation
_LONG = 2.5  # long side in parts of the short one
_SMALL = 64  # px; below this ribs run into each other


class Picture(NamedTuple):
    """A file as it was decoded."""

    grey: np.ndarray  # uint8 [H, W]
    source: str  # in SOURCES
    view: str  # in VIEWS
    patient: str  # a hash from a DICOM header, or ''
    oddities: list  # of str; see `oddities`


def read_radiograph(path, *, store_px, max_pixels):
    """Reads a radiograph as a grey square.

    JPEG, PNG, BMP and TIFF (`images.read_levels`) or single-frame DICOM
    (`dicom.read_dicom`). 16-bit grey is scaled by its own range
    (`images.scale_by_range`), colour becomes luma (ITU-R BT.601), transparency is
    black. The square in the middle is kept and scaled to `store_px`, down by area and
    up by cubic interpolation: the paper's (003) resize and centre crop; its crop to
    224 and normalisation follow on the device.

    Args:
        path: file.
        store_px: side of the square.
        max_pixels: most width x height; checked before decoding.

    Returns:
        uint8 [store_px, store_px].

    Raises:
        ImageError: as `images.read_image` and `dicom.read_dicom`.
    """
    return square(decode(path, max_pixels=max_pixels).grey, store_px)


def oddities(image):
    """Says in short phrases why a picture is clearly no radiograph; mostly nothing.

    Args:
        image: uint8 [H, W], [H, W, 1] or RGB [H, W, 3], as large as it came.

    Returns:
        list of str: colour beyond a tint, a long strip, a flat or a tiny picture,
        black and white without greys (text, a mask).
    """
    image = image.reshape(*image.shape[:2], -1)
    height, width, channels = image.shape
    found = []
    if max(height, width) > _LONG * min(height, width):
        found.append(f'a strip of {width} x {height} pixels')
    if min(height, width) < _SMALL:
        found.append(f'only {width} x {height} pixels')
    if channels == 3:
        # By area: a JPEG's colour noise goes, what is coloured stays.
        small = cv2.resize(image, (128, 128), interpolation=cv2.INTER_AREA)
        if _is_colourful(small.reshape(-1, 3).astype(np.float32)):
            found.append('colours')
    # Samples and not means: of small letters means would be grey.
    levels = cv2.resize(image, (256, 256), interpolation=cv2.INTER_NEAREST)
    levels = _to_grey(levels).ravel().astype(np.float32)
    if levels.std() < _FLAT:
        return found + ['hardly any contrast']
    low, high = np.quantile(levels, [0.01, 0.99])
    edge = 0.15 * (high - low)
    if np.mean((levels > low + edge) & (levels < high - edge)) < _MIDDLE_TONES:
        found.append('black and white without greys')
    elif np.bincount(levels.astype(int) // 8).max() > _ONE_TONE * levels.size:
        found.append('mostly of one grey level')
    return found


def _is_colourful(pixels):
    """Whether [N, 3] have more than a tint, which is a function of the grey level."""
    grey = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    colour = pixels - grey[:, None]
    level = np.clip(grey / 16, 0, 15).astype(int)
    count = np.maximum(np.bincount(level, minlength=16), 1)
    spread = 0.0
    for channel in colour.T:
        mean = np.bincount(level, channel, 16) / count
        spread += np.mean((channel - mean[level]) ** 2)
    return np.abs(colour).max(1).mean() > _TINT or spread**0.5 > _COLOURS


def find_unlabelled(path):
    """Lists what to predict on: one file, or all pictures below a folder.

    DICOM files need no suffix. Lung masks (a folder 'masks' beside one of 'images',
    as in the COVID-19 Radiography Database) and hidden files are left out. A file
    named by itself is taken as it is.

    Returns:
        list of (Path, case id), at least one. The case id is the path relative to
        the folder without suffix; where two would share one, all keep theirs.

    Raises:
        ImageError: no such folder, or none of its files is a picture.
    """
    path = Path(path)
    if not path.is_dir():
        return [(path, identity.printable(path.stem))]
    found = [file for file in find_pictures(path) if not _is_mask(file, path)]
    if not found:
        raise ImageError(path, 'no pictures but masks')
    return list(zip(found, identity.case_ids(found, path)))


def find_pictures(folder):
    """`images.find_images`, DICOM files with and without a suffix included."""
    return images.find_images(folder, suffixes=SUFFIXES, recognise=_is_bare_dicom)


def _is_bare_dicom(path):
    # A file may be named by a UID: what follows its last point is a number.
    bare = not path.suffix or path.suffix[1:].isdecimal()
    return bare and path.name.upper() != 'DICOMDIR' and dicom.is_dicom(path)


def _is_mask(file, root):
    for parent in file.relative_to(root).parents:
        if parent.name.lower() == 'masks':
            beside = (root / parent).parent
            if any((beside / name).is_dir() for name in ('images', 'Images')):
                return True
    return False


def read_one(path, *, case_id, store_px, max_pixels):
    """Reads one radiograph without labels.

    Returns:
        Record: as of `listings.read_listed` without targets, and 'oddities', a str:
        what is strange about the picture, '' for nothing. The patient is the picture
        alone.

    Raises:
        ImageError: as `read_radiograph`.
    """
    picture = decode(path, max_pixels=max_pixels)
    content = identity.content_id(picture.grey)
    return make_record(
        square(picture.grey, store_px), picture.grey.shape, source=picture.source,
        view=picture.view, case_id=case_id, patient_id=content, content_id=content,
    ) | {'oddities': '; '.join(picture.oddities)}


def decode(path, *, max_pixels):
    """Decodes a file by what it is, whatever its name says.

    Returns:
        Picture.

    Raises:
        ImageError: as `read_radiograph`.
    """
    path = Path(path)
    if dicom.is_dicom(path) or path.suffix.lower() in dicom.SUFFIXES:
        picture = dicom.read_dicom(path, max_pixels=max_pixels)
        strange = oddities(picture.pixels)
        if picture.modality not in _RADIOGRAPHY:
            strange.append(f'DICOM of modality {picture.modality[:16]}')
        colour = 'colour' if picture.pixels.ndim == 3 else 'grey'
        return Picture(
            _to_grey(picture.pixels), f'DICOM {colour}',
            _DICOM_VIEWS.get(picture.view, 'unknown'), picture.patient, strange)
    levels, kind = images.read_levels(path, max_pixels=max_pixels)
    if levels.dtype != np.uint8:
        levels = images.scale_by_range(levels)
    source = f'{kind} {"colour" if levels.ndim == 3 else "grey"}'
    return Picture(_to_grey(levels), source, 'unknown', '', oddities(levels))


def _to_grey(pixels):
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) if pixels.ndim == 3 else pixels


def square(grey, side):
    """The middle of a picture, uint8 [side, side]."""
    height, width = grey.shape
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    middle = np.ascontiguousarray(grey[top:top + short, left:left + short])
    way = cv2.INTER_AREA if short >= side else cv2.INTER_CUBIC
    return cv2.resize(middle, (side, side), interpolation=way)


def make_record(
    pixels, size, *, source, view, case_id, patient_id, content_id, origin=0
):
    """The fields that labelled and unlabelled records share.

    `origin` says which hospital or collection a picture is from, 0 for unknown; other
    numbers mean something within one prepared set.
    """
    return {
        'inputs': pixels[..., None],
        'source': np.int8(SOURCES.index(source)),
        'view': np.int8(VIEWS.index(view)),
        'origin': np.int16(origin),
        'size_hw': np.array(size, np.int32),
        'example_id': case_id,
        'case_id': case_id,
        'patient_id': patient_id,
        'content_id': content_id,
    }
