"""A folder of DICOM files -> the CT series worth reading, as one regular stack.

Headers come first, of all files; then one series is chosen, and only its pixels are
decoded. Elements are read by `dicom.parse_header`, which checks every length. What is
kept of them is technical: no name, date, UID or free text leaves this module. The hash
of a series' UID does, by which who has the files finds it again.
"""

import hashlib
import mmap
import os
import re
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Mapping, NamedTuple

import numpy as np

from jaxmed.data import dicom
from jaxmed.errors import ImageError

LOWEST_HU, HIGHEST_HU = -1024, 32767

# Values that a scanner may write: metal at one end, what lies outside of the scanned
# circle at the other. Some write other things outside, which is 22% of a square.
LOWEST_VALUE, HIGHEST_VALUE = -5000, 40000
LEAST_WITHIN = 0.5  # part of the values that must lie between them
_LEAST_RANGE = 100  # HU from the lowest to the highest value: fat and bone differ by it
_GREY_LEVELS = 255

_DIRECTORY = (0x0004, 0x1200)  # only a DICOMDIR has it
_CLASS, _IMAGE_TYPE = (0x0008, 0x0016), (0x0008, 0x0008)
_ACQUISITION, _PHASE = (0x0020, 0x0012), (0x0020, 0x0100)
_MODALITY, _MAKER = (0x0008, 0x0060), (0x0008, 0x0070)
_DESCRIPTION, _PROTOCOL = (0x0008, 0x103E), (0x0018, 0x1030)
_PATIENT, _BODY_PART = (0x0010, 0x0020), (0x0018, 0x0015)
_THICKNESS, _KERNEL = (0x0018, 0x0050), (0x0018, 0x1210)
_STUDY, _SERIES = (0x0020, 0x000D), (0x0020, 0x000E)
_POSITION, _ORIENTATION = (0x0020, 0x0032), (0x0020, 0x0037)
_FRAMES, _ROWS, _COLUMNS = (0x0028, 0x0008), (0x0028, 0x0010), (0x0028, 0x0011)
_SPACING, _PADDING = (0x0028, 0x0030), (0x0028, 0x0120)
_CENTRE = (0x0028, 0x1050)
_INTERCEPT, _SLOPE, _UNIT = (0x0028, 0x1052), (0x0028, 0x1053), (0x0028, 0x1054)
_WANTED = frozenset((
    _DIRECTORY, _CLASS, _IMAGE_TYPE, _ACQUISITION, _PHASE, _MODALITY, _MAKER,
    _DESCRIPTION, _PROTOCOL, _PATIENT, _BODY_PART, _THICKNESS, _KERNEL, _STUDY,
    _SERIES, _POSITION, _ORIENTATION, _SPACING, _CENTRE, _INTERCEPT, _SLOPE, _UNIT,
))

_SINGLE, _CAPTURE = '1.2.840.10008.5.1.4.1.1.2', '1.2.840.10008.5.1.4.1.1.7'
_ENHANCED = ('1.2.840.10008.5.1.4.1.1.2.1', '1.2.840.10008.5.1.4.1.1.2.2')

# Values of Image Type.
_LOCALIZERS = {'LOCALIZER', 'LOCALISER', 'SCOUT', 'TOPOGRAM', 'SURVIEW', 'SCANOGRAM'}
_PROJECTIONS = {'MIP', 'MINIP', 'MIN IP', 'MAX IP', 'PROJECTION IMAGE', 'VRT', 'SSD',
                'VOLUME RENDERING', 'RENDERED', 'SCREEN SAVE', 'SUBTRACTION'}

# How far from each other two numbers may be and still mean the same.
_SAME_COSINE, _SAME_SPACING, _SAME_MM = 1e-3, 1e-3, 0.02
_REGULAR = 0.1  # slice spacings that a slice may lie beside its place
_DRIFT_PX = 0.25  # sideways shift along a whole series that is none
_STEEPEST = 0.8  # mm of sideways shift per mm: gantries tilt by 30 degrees (0.58)
_AXIAL = 0.8  # cosine between a slice's normal and the patient's axis
# Interpolated over: one missing slice, or what is within a standard slice's distance.
_GAP_SLICES, _GAP_MM = 2.1, 5.5

_PATIENT_WITHIN = 1 << 16  # bytes from the start of a file

_THREADS = min(os.cpu_count() or 1, 4)

_MAKERS = ('SIEMENS', 'GE', 'PHILIPS', 'TOSHIBA', 'CANON', 'HITACHI', 'FUJI',
           'NEUSOFT', 'UIH', 'SAMSUNG')

# A window centre below this shows lungs: -600 and -500 are usual.
_LUNG_CENTRE = -300

# Words of Series Description and Protocol Name. A tracer's name (FDG) is no sign: the
# diagnostic scan with contrast of the same visit carries it as well.
_WORD = '(?<![A-Z])(?:%s)(?![A-Z])'
_PET = re.compile(_WORD % (
    r'PET|PET[ /_+-]*CT|CT[ /_+-]*PET|CTAC|AC[ _-]*CT|CT[ _-]*AC|ATTENUATION\w*'
    r'|ATT[ _.-]*CORR\w*'))
_CARDIAC = re.compile(_WORD % (
    r'CARDIAC|CARDIO|CORONAR\w*|KORONAR\w*|HEART|HERZ|CORCTA|CCTA|CA(?:LCIUM)?[ _-]*'
    r'SCOR\w*|CACS?|BEST(?:DIAST|SYST)\w*|TAVI|TAVR'))
_NOT_CARDIAC = re.compile(r'(?:NON|NOT|NO|WITHOUT)[ _-]*CARDIAC')
_HEART_PARTS = ('HEART', 'CARDIAC', 'CORONARY', 'CORONARYARTERY')


class Stack(NamedTuple):
    """A series on a regular grid whose first axis goes towards the head."""

    volume_hu: np.ndarray  # int16 [K, J, I]
    affine: np.ndarray  # [4, 4]: voxel (k, j, i, 1) of the stack -> patient LPS mm
    to_source: np.ndarray  # [4, 4]: voxel of the stack -> (k, j, i) of the files
    source_shape: tuple[int, int, int]  # slices (missing ones too), rows, columns
    patient: str  # hash of the patient's id, or ''
    facts: Mapping[str, Any]


class _Slice(NamedTuple):
    path: Path
    name: str  # in messages
    header: dicom.Header  # of a damaged file what could be read
    place: int | None  # of the pixels
    damage: str  # '' or why it can't be read


class _Series(NamedTuple):
    """A series that could be read."""

    slices: list  # of _Slice, from feet to head
    damaged: list  # of _Slice: files of the series that can't be read
    positions_mm: np.ndarray  # [N] along the normal
    axes: np.ndarray  # [3, 3]: normal towards the head, down a column, along a row
    spacing_mm: np.ndarray  # [2]: between rows, between columns
    kind: str  # of the kernel: 'soft', 'bone', 'lung' or 'unknown'
    derived: bool
    exclusion: str  # '' or why the paper left such series out
    counts: dict  # what was left out within the series


class _Unfit(Exception):
    """Why a series can't be read."""


def find_files(folder):
    """DICOM files in a folder and the folders in it, sorted; hidden ones are skipped.

    Raises:
        ImageError: a folder that can't be read.
    """
    def fail(error):
        raise ImageError(error.filename, error.strerror)

    found = []
    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith('.')]
        found += [Path(parent, name) for name in names if not name.startswith('.')]
    return sorted(path for path in found if dicom.is_dicom(path))


def read_patient(path):
    """Hash of the patient's id in a CT file, or ''.

    May be called outside of a confined process: it reads little and never fails.
    """
    try:
        with open(path, 'rb') as file:
            start = memoryview(file.read(_PATIENT_WITHIN))
        header, _ = dicom.parse_header(start, _WANTED)
    except dicom.Damaged as error:  # most files are longer
        header = error.header
    except (OSError, dicom.Unread):
        return ''
    return _patient(header)


def hide_series(header):
    """The UID of a file's series -> 16 hex digits of its hash; '' of none."""
    uid = header.text(_SERIES)
    return uid and hashlib.sha256(f'series:{uid}'.encode()).hexdigest()[:16]


def _patient(header):
    if header.text(_MODALITY).upper() != 'CT':
        return ''
    return dicom.hide(header.text(_PATIENT))


def read_series(files, where, *, min_slices, max_voxels):
    """Reads the most useful CT series among DICOM files.

    Left out: other modalities, localisers (Image Type), secondary captures,
    projections (MIP, renderings), values that are not HU, series that aren't axial or
    have fewer than `min_slices` positions. Of what remains one is chosen: one that
    the paper wouldn't exclude before one that it would, soft-tissue or bone kernel
    before an unknown and that before a lung kernel, original before derived, then
    the most slices.

    Files that can't be parsed are left out like those of other modalities, unless
    what could be parsed says that they are slices of a series: then it can't be read.
    A series that can't be read (a hole, a damaged slice, values that aren't HU) is
    left out as well, with the reason, and the next best is read.

    Reconstructions with different kernels that share a series UID are series of their
    own. Within a series, of files with one position and the same pixels one is kept.
    Where several acquisitions (or temporal positions) have slices at one position,
    the one with most slices is kept, then the lowest number; of the others what lies
    beyond it remains. Other slices at one position are an error.
    Gaps up to twice the usual spacing or 5.5 mm, and uneven spacing, are interpolated
    linearly. A tilted gantry's slices are moved back in their planes by linear
    interpolation, onto a grid that holds all of them.

    Values are stored value x rescale slope + intercept, rounded, limited to
    [-1024, 32767]; padding is -1024.

    Args:
        files: list of (path, name in messages).
        where: what the scan is called in messages.
        min_slices: fewest slice positions.
        max_voxels: most voxels; checked before pixels are read.

    Returns:
        Stack.

    Raises:
        ImageError: nothing to read, with a reason for each series; CT files of
            several patients; of series that all can't be read the best one's reason:
            a damaged file, a gap ('no slices between z = .. and .. mm').
    """
    slices = [_read_header(path, name) for path, name in files]
    slices = [one for one in slices if _DIRECTORY not in one.header.elements]
    groups = {}
    for one in slices:
        groups.setdefault(one.header.text(_SERIES), []).append(one)
    with_pet = {one.header.text(_STUDY) for one in slices
                if one.header.text(_MODALITY).upper() == 'PT'}
    chosen, left_out, failures = [], [], []
    for _, group in sorted(groups.items()):
        for part in _split(group, left_out):
            try:
                chosen.append(_judge(part, with_pet, min_slices))
            except _Unfit as error:
                left_out.append((len(part), str(error)))
            except ImageError as error:  # of pixels that had to be compared
                failures.append(_forget_frames(error))
                left_out.append((len(part), error.reason))
    patients = {_patient(one.header) for one in slices if not one.damage} - {''}
    if len(patients) > 1:
        raise ImageError(
            where, f'CT of several patients ({len(patients)}): name the folder of one')
    chosen.sort(key=_preference)
    for place, series in enumerate(chosen):
        try:
            stack = _build(series, where, max_voxels)
        except ImageError as error:
            failures.insert(place, _forget_frames(error))
            left_out.append((len(series.slices), error.reason))
            continue
        for other in chosen[place + 1:]:
            words = ' derived' if other.derived else ''
            left_out.append((
                len(other.slices), f'another{words} series, {other.kind} kernel'
                + (f', {other.exclusion}' if other.exclusion else '')))
        left_out = [{'files': count, 'reason': why} for count, why in left_out]
        return stack._replace(facts=stack.facts | {'left_out': left_out})
    if failures:
        raise failures[0]
    found = sorted(left_out, reverse=True)[:4]
    reasons = '; '.join(f'{n} x {why}' for n, why in found) or 'no images'
    raise ImageError(where, f'no CT series to read: {reasons}')


def check_range(where, low, high):
    """A trunk has fat below 0 HU and bone above; pictures and MR have no sign.

    Args:
        where: what the scan is called in messages.
        low, high: its lowest and highest value.

    Raises:
        ImageError: values that are no CT's.
    """
    if low >= 0 and high <= _GREY_LEVELS:
        raise ImageError(where, f'values from {low:g} to {high:g} are grey, not HU')
    if low >= 0 or high <= 0 or high - low < _LEAST_RANGE:
        raise ImageError(where, f'values from {low:g} to {high:g} are not HU')


def check_within(where, within, count):
    """Whether enough of the values are a scanner's; see LEAST_WITHIN."""
    if within < LEAST_WITHIN * count:
        raise ImageError(
            where, f'values beyond {LOWEST_VALUE} to {HIGHEST_VALUE} are not HU')


def _forget_frames(error):
    """The same error, which keeps no volume that was being read alive."""
    return ImageError(error.where, error.reason)


def _read_header(path, name):
    damage, place = '', None
    try:
        header, place = dicom.parse_header(_map(path), _WANTED)
    except OSError as error:
        raise ImageError(name, error.strerror) from None
    except dicom.Unread as error:
        header, damage = dicom.Header(), str(error)
    except dicom.Damaged as error:
        header, damage = error.header, f'damaged or truncated DICOM: {error}'
    # Raw data, too, have the modality CT, and no pixels.
    if not damage and place is None and header.text(_CLASS) in ('', _SINGLE):
        damage = 'truncated DICOM: no pixels'
    return _Slice(path, name, header, place, damage)


def _map(path):
    """A file's bytes, of which only those looked at are read."""
    with open(path, 'rb') as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _preference(series):
    """The smallest is the best."""
    kinds = {'soft': 0, 'bone': 0, 'unknown': 1, 'lung': 2}
    return (
        bool(series.exclusion), kinds[series.kind], series.derived,
        -len(series.slices), series.kind != 'soft',
    )


# --- which series -----------------------------------------------------------------


def _split(group, left_out):
    """Files of one series UID -> lists of one kernel's slices, damaged ones included.

    A series may as well have been put together of parts with kernels of their own,
    head and trunk; those reach hardly over each other, and are left together.
    """
    slices, counts = [], {}
    for one in group:
        reason = _no_slice(one)
        if reason:
            counts[reason] = counts.get(reason, 0) + 1
        else:
            slices.append(one)
    left_out += [(count, reason) for reason, count in sorted(counts.items())]
    parts = {}
    for one in slices:
        parts.setdefault(one.header.text(_KERNEL).upper(), []).append(one)
    reaches = []
    for part in parts.values():
        z_mm = [one.header.numbers(_POSITION)[2] for one in part if not one.damage]
        reaches += [(min(z_mm), max(z_mm))] if z_mm else []
    for i, (low, high) in enumerate(reaches):
        for lower, higher in reaches[:i]:
            both = min(high, higher) - max(low, lower)
            if both > min(high - low, higher - lower) / 2:
                return list(parts.values())
    return [slices] if slices else []


def _judge(part, with_pet, min_slices):
    """Slices of one series -> _Series."""
    slices = [one for one in part if not one.damage]
    if not slices:
        raise _Unfit(part[0].damage)
    axes, spacing = _geometry(slices)
    if axes[0, 2] < _AXIAL:
        raise _Unfit('not axial')
    positions = [one.header.numbers(_POSITION) @ axes[0] for one in slices]
    order = sorted(range(len(slices)), key=lambda i: (positions[i], slices[i].name))
    slices = [slices[i] for i in order]
    slices, dropped = _one_per_position(slices, np.array(positions)[order])
    positions = np.array([one.header.numbers(_POSITION) @ axes[0] for one in slices])
    if len(slices) < max(min_slices, 2):
        least = max(min_slices, 2)
        raise _Unfit(f'series of {len(slices)} slices, at least {least} are needed')
    first = slices[len(slices) // 2].header
    kind, by_window = _kernel_kind(first)
    return _Series(
        slices, [one for one in part if one.damage], positions, axes, spacing,
        kind=kind, derived=first.text(_IMAGE_TYPE).upper().startswith('DERIVED'),
        exclusion=_exclusion(first, kind, by_window, with_pet), counts=dropped,
    )


def _no_slice(one):
    """Why a file is no slice of a scan, or ''; damaged ones may be slices."""
    header = one.header
    modality = header.text(_MODALITY).upper()
    words = {word.strip() for word in header.text(_IMAGE_TYPE).upper().split('\\')}
    kind = header.text(_CLASS)
    if one.damage and not (modality and header.text(_SERIES)):
        return one.damage
    if modality != 'CT':
        # Two letters of a standard's list; anything else isn't repeated.
        return f'modality {modality if re.fullmatch("[A-Z]{2,10}", modality) else "?"}'
    if kind in _ENHANCED or header.integer(_FRAMES, 1) > 1:
        return 'enhanced multi-frame CT, which is not read'
    if words & _LOCALIZERS:
        return 'localiser'
    if kind.startswith(_CAPTURE):
        return 'secondary capture'
    if words & _PROJECTIONS:
        return 'projection'
    if one.damage:
        return ''
    if one.place is None or not header.integer(_ROWS, 0) * header.integer(_COLUMNS, 0):
        return 'file without a picture'
    if header.text(_UNIT).upper() not in ('', 'HU', 'US'):
        return 'values that are not HU'
    for tag, count, what in (
        (_POSITION, 3, 'slice position'), (_ORIENTATION, 6, 'slice orientation'),
        (_SPACING, 2, 'pixel spacing'),
    ):
        if not header.text(tag):
            return f'no {what}'
        values = header.numbers(tag)
        if values is None or len(values) != count:
            return f'{what} that is no {count} finite numbers'
    row, column = header.numbers(_SPACING)
    if min(row, column) <= 0:
        return f'pixel spacing {row:g} x {column:g} mm'
    return ''


def _geometry(slices):
    """(axes [3, 3], spacing [2]) that all slices share."""
    shapes = {(one.header.integer(_ROWS, 0), one.header.integer(_COLUMNS, 0))
              for one in slices}
    orientations = np.array([one.header.numbers(_ORIENTATION) for one in slices])
    spacings = np.array([one.header.numbers(_SPACING) for one in slices])
    if len(shapes) > 1:
        raise _Unfit(f'mixed geometry: slices of {len(shapes)} sizes')
    if np.ptp(orientations, axis=0).max() > _SAME_COSINE:
        raise _Unfit('mixed geometry: slices of several orientations')
    if np.any(np.ptp(spacings, axis=0) > _SAME_SPACING * spacings.min(axis=0)):
        raise _Unfit('mixed geometry: slices of several pixel spacings')
    if len({one.header.text(_PATIENT) for one in slices}) > 1:
        raise _Unfit('slices of several patients')
    along, down = np.median(orientations, axis=0).reshape(2, 3)
    lengths = np.linalg.norm(along), np.linalg.norm(down)
    if not np.allclose(lengths, 1, atol=0.01) or abs(along @ down) > 0.01:
        raise _Unfit('slice orientation that is none')
    along = along / lengths[0]
    down = down - (down @ along) * along
    down /= np.linalg.norm(down)
    normal = np.cross(along, down)
    if normal[2] < 0:
        normal = -normal
    return np.stack([normal, down, along]), np.median(spacings, axis=0)


def _one_per_position(slices, positions):
    """Drops copies and other acquisitions; sorted slices -> (slices, what was)."""
    dropped = {}
    kept, digests = [], {}

    def digest(one):
        if one.name not in digests:
            values, _, _ = _values_hu(one)
            digests[one.name] = hashlib.sha256(np.ascontiguousarray(values)).digest()
        return digests[one.name]

    groups = np.split(
        np.arange(len(slices)), np.flatnonzero(np.diff(positions) > _SAME_MM) + 1)
    for group in groups:
        distinct = [slices[group[0]]]
        for i in group[1:]:
            if all(digest(slices[i]) != digest(one) for one in distinct):
                distinct.append(slices[i])
        if len(distinct) < len(group):
            count = len(group) - len(distinct)
            dropped['duplicates'] = dropped.get('duplicates', 0) + count
        kept.append(distinct)
    if all(len(distinct) == 1 for distinct in kept):
        return [distinct[0] for distinct in kept], dropped
    if len(kept) == 1:
        raise _Unfit('all slices at one position')
    parts = {}  # slices and the numbers of their positions
    for i, distinct in enumerate(kept):
        for one in distinct:
            number = one.header.integer(_ACQUISITION, 0), one.header.integer(_PHASE, 0)
            parts.setdefault(number, []).append((i, one))
    taken, reaches = {}, []
    for _, part in sorted(parts.items(), key=lambda item: (-len(item[1]), item[0])):
        # Between the slices of an acquisition it shares a position with, others of
        # this one would be of another time.
        places = {i for i, _ in part}
        closed = [(min(reach), max(reach)) for reach in reaches if reach & places]
        free = [(i, one) for i, one in part
                if not any(low <= i <= high for low, high in closed)]
        for i, one in free:
            if i in taken:
                z = one.header.numbers(_POSITION)[2]
                raise _Unfit(f'two different slices at z = {z:g} mm')
            taken[i] = one
        reaches.append({i for i, _ in free})
    dropped['other_acquisitions'] = sum(map(len, kept)) - len(taken)
    return [taken[i] for i in sorted(taken)], dropped


def _kernel_kind(header):
    """('soft', 'bone', 'lung' or 'unknown', whether the window alone says so).

    By the makers' names: Siemens B31f, Br38f, Bl57d (below 50 soft), GE STANDARD,
    Philips B, Canon FC08, UIH B_SOFT_B. Sharp ones that serve lungs and bones alike
    are what the window shows.
    """
    kernel = header.text(_KERNEL).upper().split('\\')[0].strip()
    kernel = re.sub(r'^[A-Z][ _-](?=[A-Z]{4})', '', kernel)
    kernel = re.sub(r'[ _-]', '', kernel)
    centre = header.number(_CENTRE)
    lung_window = centre is not None and centre <= _LUNG_CENTRE
    sharp = 'lung' if lung_window else 'bone'
    canon = re.match(r'FC(\d\d)', kernel)
    siemens = re.match(r'([A-Z])([A-Z]?)(\d\d)', kernel)
    if 'LUNG' in kernel or re.fullmatch(r'L[A-Z]?', kernel):
        return 'lung', False
    if canon:
        tens = int(canon[1]) // 10
        return {3: 'bone', 5: 'lung', 8: sharp}.get(tens, 'soft'), False
    if siemens:
        if siemens[2] == 'L':
            return 'lung', False
        return (sharp if int(siemens[3]) >= 50 else 'soft'), False
    if re.match('BONE|EDGE', kernel):
        return 'bone', False
    if re.match('SOFT|STAND|STND|STD|DETAIL|CHST|SMOOTH|BODY|ABD', kernel) or (
        re.fullmatch('(I?[ABC]|S[ABC])', kernel)
    ):
        return 'soft', False
    if re.match('V?SHARP|ULTRA', kernel) or re.fullmatch('[DE]|Y[A-D]', kernel):
        return sharp, False
    words = header.text(_DESCRIPTION).upper()
    if lung_window or re.search(_WORD % 'LUNGS?|LUNGE', words):
        return 'lung', True
    if re.search(_WORD % 'BONES?|KNOCHEN', words):
        return 'bone', True
    return 'unknown', False


def _exclusion(header, kind, by_window, with_pet):
    """Why the paper (001, 3.1) left such series out, or ''.

    Cardiac: a word for the heart in Series Description, Protocol Name or Body Part.
    PET-CT: 'PET' or attenuation correction in Series Description, Protocol Name or
    Image Type, or images of modality PT of the same study beside it; a scanner that
    has a PET, or a tracer's name, is not enough. Lung: the best there is has a lung
    kernel, or an unknown one and a lung window. A soft kernel shown in a lung window
    has the same HU as ever.
    """
    words = ' '.join(
        header.text(tag).upper().replace('\\', ' ')
        for tag in (_DESCRIPTION, _PROTOCOL))
    heart = _NOT_CARDIAC.sub('', words)
    if _CARDIAC.search(heart) or header.text(_BODY_PART).upper() in _HEART_PARTS:
        return 'cardiac CT'
    kinds = header.text(_IMAGE_TYPE).upper().replace('\\', ' ')
    if _PET.search(f'{words} {kinds}') or header.text(_STUDY) in with_pet:
        return 'PET-CT'
    if kind == 'lung':
        return 'lung window only' if by_window else 'lung kernel only'
    return ''


# --- pixels -----------------------------------------------------------------------


def _values_hu(one):
    """(a file's slice, int16 [H, W] HU, values within a scanner's range, of how many).
    """
    try:
        stored = dicom.stored_values(_map(one.path), one.header, one.place)
        return _to_hu(one, stored)
    except OSError as error:
        raise ImageError(one.name, error.strerror) from None
    except dicom.Unread as error:
        raise ImageError(one.name, error) from None
    except (dicom.Damaged, struct.error, IndexError) as error:
        raise ImageError(
            one.name, f'damaged or truncated DICOM: {error}') from None


def _to_hu(one, stored):
    header = one.header
    for tag in (_SLOPE, _INTERCEPT):
        if header.text(tag) and header.numbers(tag) is None:
            raise ImageError(one.name, 'rescale slope or intercept that is no number')
    slope, intercept = header.number(_SLOPE, 1.0), header.number(_INTERCEPT, 0.0)
    if slope == 0:
        raise ImageError(one.name, 'rescale slope 0')
    if slope == 1 and intercept == round(intercept):
        values = stored + np.int64(np.clip(intercept, -1e6, 1e6)).astype(np.int32)
    else:
        values = np.rint(stored * np.float64(slope) + intercept)
    padding, padded = header.number(_PADDING), False
    within = count = values.size
    if values.min() < LOWEST_VALUE or values.max() > HIGHEST_VALUE:
        beyond = (values < LOWEST_VALUE) | (values > HIGHEST_VALUE)
        if padding is not None:
            padded = beyond & (stored == int(padding))
        count -= int(np.sum(padded))
        within -= int(np.sum(beyond))
    # In place, which on 512 x 512 takes half the time.
    values = np.clip(values, LOWEST_HU, HIGHEST_HU, out=values).astype(np.int16)
    if padding is not None:
        level = slope * padding + intercept
        # Some write a padding value that tissue has: then it isn't used.
        if level > 3071:
            values[stored == int(padding)] = LOWEST_HU
    return values, within, count


def _build(series, where, max_voxels):
    """Reads the pixels of a series onto a regular grid."""
    for one in series.damaged:
        raise ImageError(one.name, one.damage)
    slices, positions, axes = series.slices, series.positions_mm, series.axes
    first = slices[0].header
    rows, columns = first.integer(_ROWS, 0), first.integer(_COLUMNS, 0)
    origins = np.array([one.header.numbers(_POSITION) for one in slices])
    plan, step = _plan(positions, origins, axes, where, series, (rows, columns))
    count = len(plan)

    # Pixels by which a slice lies further down and along than the first.
    drift = (origins - origins[0]) @ axes[1:].T
    along = positions - positions[0]
    slope = np.zeros(2)
    if np.any(np.abs(drift) > _DRIFT_PX * series.spacing_mm):
        slope = along @ drift / (along @ along)
        beside = np.abs(drift - along[:, None] * slope)
        if np.any(beside > 0.5 * series.spacing_mm) or np.hypot(*slope) > _STEEPEST:
            raise ImageError(where, 'mixed geometry: slices that lie side by side')
    shear = slope * step / series.spacing_mm  # pixels per slice of the grid
    lowest = np.minimum(shear * (count - 1), 0)
    height, width = np.array([rows, columns]) + np.ceil(
        np.abs(shear) * (count - 1) - 1e-6).astype(int)
    if count * height * width > max_voxels:
        raise ImageError(
            where, f'{width} x {height} x {count} voxels, limit {max_voxels}')

    sound = []  # (values within a scanner's range, of how many), for each slice

    def decode(index):
        values_hu, *counted = _values_hu(slices[index])
        sound.append(counted)
        if not shear.any():
            return values_hu
        shift = slope * along[index] / series.spacing_mm - lowest
        return _move(values_hu, shift, (height, width))

    volume = np.empty((count, height, width), np.int16)
    interpolated, decoded = 0, {}
    # Codecs and waiting for a disk need no interpreter.
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            for k, (index, weight) in enumerate(plan):
                for i in range(index, min(index + 2 * _THREADS + 2, len(slices))):
                    if i not in decoded:
                        decoded[i] = pool.submit(decode, i)
                for i in [i for i in decoded if i < index]:
                    del decoded[i]
                volume[k] = decoded[index].result()
                if weight:
                    interpolated += 1
                    below = volume[k].astype(np.float32)
                    change = decoded[index + 1].result() - below
                    volume[k] = np.rint(below + np.float32(weight) * change)
        finally:
            for waiting in decoded.values():
                waiting.cancel()
    check_within(where, *np.sum(sound, axis=0))
    check_range(where, float(volume.min()), float(volume.max()))

    affine = np.eye(4)
    affine[:3, :3] = (axes * [[step], *series.spacing_mm[:, None]]).T
    affine[:3, 3] = origins[0] + affine[:3, 1:3] @ lowest
    to_source = np.eye(4)
    to_source[1:3, 0] = -shear
    to_source[1:3, 3] = lowest
    kernel = first.text(_KERNEL).split('\\')[0]
    maker = first.text(_MAKER).upper()
    thickness = first.number(_THICKNESS)
    facts = {
        'format': 'DICOM',
        'series_hash': hide_series(first),
        # A kernel is letters and a number; nothing else is repeated.
        'kernel': kernel if re.fullmatch(
            r'[A-Za-z]{1,9}[+\d]{0,3}[a-z]?|[A-Z]_[A-Z]{4,8}_[A-Z]{1,2}', kernel)
        and series.kind != 'unknown' else '',
        'kernel_kind': series.kind,
        'maker': next((name for name in _MAKERS if maker.startswith(name)), ''),
        'slice_thickness_mm': thickness,
        'slices': len(slices),
        'derived': series.derived,
        'duplicates': series.counts.get('duplicates', 0),
        'other_acquisitions': series.counts.get('other_acquisitions', 0),
        'interpolated_slices': interpolated,
        'tilt_degrees': round(float(np.degrees(np.arctan(np.hypot(*slope)))), 2),
        'exclusion': series.exclusion,
        'orientation_assumed': False,
    }
    return Stack(
        volume, affine, to_source, (count, rows, columns),
        dicom.hide(first.text(_PATIENT)), facts)


def _plan(positions, origins, axes, where, series, shape):
    """Regular slices -> ([(file below, weight of the one above)], spacing in mm)."""
    gaps = np.diff(positions)
    usual = float(np.median(gaps))
    wide = np.flatnonzero(gaps > max(_GAP_SLICES * usual, _GAP_MM))
    wide = [i for i in wide if gaps[i] > (1 + _REGULAR) * usual]
    if wide:
        half = (np.array(shape) - 1) / 2 * series.spacing_mm @ axes[1:]
        low, high = (origins[i] + half for i in (wide[0], wide[0] + 1))
        raise ImageError(
            where, f'no slices between z = {low[2]:.1f} and {high[2]:.1f} mm')
    length = positions[-1] - positions[0]
    even = np.linspace(positions[0], positions[-1], len(positions))
    step = length / (len(positions) - 1)
    if np.abs(positions - even).max() <= _REGULAR * step:
        return [(i, 0.0) for i in range(len(positions))], step
    count = round(length / usual) + 1
    step = length / (count - 1)
    plan = []
    for target in np.linspace(positions[0], positions[-1], count):
        nearest = int(np.abs(positions - target).argmin())
        if abs(positions[nearest] - target) <= _REGULAR / 2 * step:
            plan.append((nearest, 0.0))
            continue
        below = int(np.searchsorted(positions, target)) - 1
        plan.append((below, float((target - positions[below]) / gaps[below])))
    return plan, step


def _move(values, shift, shape):
    """Moves a slice by parts of pixels, down and along, into a larger one."""
    for axis in (0, 1):
        whole = int(np.floor(shift[axis] + 1e-9))
        part = max(shift[axis] - whole, 0.0)
        size = list(values.shape)
        size[axis] = shape[axis] + 1
        wide = np.full(size, LOWEST_HU, np.float32)
        inside = [slice(None)] * 2
        inside[axis] = slice(1 + whole, 1 + whole + values.shape[axis])
        room = wide[tuple(inside)].shape[axis]
        wide[tuple(inside)] = values.take(range(room), axis)
        head, tail = [slice(None)] * 2, [slice(None)] * 2
        head[axis], tail[axis] = slice(1, None), slice(None, -1)
        values = (1 - part) * wide[tuple(head)] + part * wide[tuple(tail)]
    return np.rint(values).astype(np.int16)
