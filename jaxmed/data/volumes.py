"""CT scans -> int16 HU in one orientation, with the way back to the file.

Files are parsed in a process of their own, with a memory and a time limit
(`confined.run`): one that is hostile costs itself and not the run.
"""

import gzip
import itertools
import os
import re
import stat
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any, Mapping, NamedTuple

import numpy as np
import SimpleITK as sitk

from jaxmed.data import confined, dicom, dicom_series, identity
from jaxmed.data.dicom_series import HIGHEST_HU, HIGHEST_VALUE, LOWEST_HU, LOWEST_VALUE
from jaxmed.errors import ImageError

SUFFIXES = ('.nii.gz', '.nii', '.mha', '.mhd', '.nrrd', '.nhdr', '.zip')

_SKEW = 1e-3  # cosine between axes that are perpendicular
_SAME_GRID = 0.5  # voxels

# Of a zip: bytes of all files per voxel of the limit, times a series chosen among
# others; and how many there may be.
_BYTES_PER_VOXEL, _MOST_MEMBERS = 8, 20000
_SLACK_BYTES = 1 << 26

_BLOCK = 1 << 22  # voxels converted at a time

# A mask has the size of a volume that could be read, and may be float64.
_MASK_BYTES, _MASK_SECONDS = 16, 120

# Names of masks that lie beside their scans: 'seg-vert_msk', 'case1_mask', 'labels'.
_MASK_NAME = re.compile(
    r'(?:^|[-_. ])(?:mask|msk|seg|segmentation|labels?map|labels)s?(?=$|[-_. ])', re.I)
_MASK_FOLDERS = ('masks', 'segmentations', 'labels', 'labelstr', 'labelsts')

# NIfTI's codes of types; complex and coloured ones are missing on purpose.
_NIFTI_TYPES = {2: 'u1', 4: 'i2', 8: 'i4', 16: 'f4', 64: 'f8', 256: 'i1', 512: 'u2',
                768: 'u4', 1024: 'i8', 1280: 'u8'}
_NIFTI_COLOURS = {128: 'colour', 2304: 'colour', 32: 'complex', 1792: 'complex'}
_NIFTI_UNITS_MM = {1: 1000.0, 3: 0.001}  # metres, micrometres; else mm


class Volume(NamedTuple):
    """A scan whose slices go from feet to head, rows to the back, columns to the left.

    Axes are the patient's as closely as a permutation and flips of the file's axes
    allow; what is left of an oblique scan's rotation is in `affine`.
    """

    volume_hu: np.ndarray  # int16 [D, H, W]
    affine: np.ndarray  # float64 [4, 4]: voxel (d, h, w, 1) -> patient LPS mm (x, y, z)
    to_source: np.ndarray  # float64 [4, 4]: voxel (d, h, w, 1) -> the file's (k, j, i)
    source_shape: tuple[int, int, int]  # (k, j, i): slices, rows, columns of the file
    patient_id: str  # hash of the patient's id in the file, or of its pixels
    facts: Mapping[str, Any]  # JSON: format, series chosen, kernel, what was left out

    @property
    def spacing_mm(self):
        """Between voxels along (d, h, w), float64 [3]."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)


def read_volume(path, *, min_slices, max_voxels, memory_bytes, seconds):
    """Reads a CT scan.

    A folder of DICOM files (any names and order, folders in it, other files among
    them) or a zip of one: the most useful series is chosen and made regular, see
    `dicom_series.read_series`. Or one NIfTI (also gzipped), MHA, MHD or NRRD file.
    What a file is, its content says.

    Of DICOM files the source's k counts slices in order of position, from feet to
    head, missing ones included; j is the row and i the column. Of a tilted gantry
    `to_source` holds the shear.

    HU are rounded and limited to [-1024, 32767]. `facts['exclusion']` says why the
    paper (001) would leave such a scan out: 'cardiac CT', 'PET-CT', 'lung kernel
    only', 'lung window only'; '' if nothing is known against it.
    `facts['orientation_assumed']` is true of a file that states none (a NIfTI with
    neither sform nor qform): its axes are then taken for the format's own, and the
    patient may be mirrored. `facts['left_out']` counts the DICOM files that weren't
    used, with reasons.

    Args:
        path: folder or file.
        min_slices: fewest slices, in the file and along the patient.
        max_voxels: most voxels; checked before any memory is taken.
        memory_bytes: most memory for parsing, the volume included.
        seconds: most time.

    Returns:
        Volume.

    Raises:
        ImageError: nothing there, no CT, too few slices, localisers only, several
            patients, no regular grid, damaged, values that aren't HU, over a limit, a
            zip with paths that lead out of it.
    """
    limits = dict(min_slices=min_slices, max_voxels=max_voxels)
    try:
        # Owned by this process, which is there to remove it when the other is not.
        with tempfile.TemporaryDirectory(prefix='jaxmed-') as folder:
            volume_hu, affine, to_source, shape, patient_id, facts = confined.run(
                _read, str(path), scratch=folder, memory_bytes=memory_bytes,
                seconds=seconds, **limits)
    except confined.Failed as error:
        raise ImageError(path, f'reading it {error}') from None
    return Volume(
        volume_hu, affine, to_source, tuple(shape), patient_id, facts)


def read_mask(path, volume):
    """Reads a label mask and turns it as its scan is turned.

    Args:
        path: NIfTI, MHA, MHD or NRRD file on the grid of the scan's file, in any
            orientation.
        volume: the scan, of read_volume.

    Returns:
        Labels, [D, H, W]: uint8, or int16 where a label is above 255 or negative.

    Raises:
        ImageError: as read_volume; labels that are no whole numbers; another grid (a
            corner more than half a voxel away).
    """
    size = volume.volume_hu.size
    try:
        labels, = confined.run(
            _read_mask, str(path), shape=volume.volume_hu.shape,
            affine=volume.affine.tolist(),
            memory_bytes=_MASK_BYTES * size + 4 * _SLACK_BYTES, seconds=_MASK_SECONDS)
    except confined.Failed as error:
        raise ImageError(path, f'reading it {error}') from None
    return labels


def find_scans(path):
    """Lists scans: one file, one folder of DICOM files, or all below a folder.

    A folder that directly holds DICOM files is one scan, the series in folders in it
    included, as long as their CT files are the same patient's (or nobody's): of each
    folder one file is looked at. Where there are several patients the folders are
    scans of their own, and so is the one that holds them: its own files aren't left
    out in silence, but `read_volume` refuses it.
    Other folders are searched for such folders and for files with a scan's suffix.
    Masks, by name ('case_mask.nii.gz', 'segmentations/'), and hidden files are left
    out. A file named by itself is taken as it is.

    Returns:
        list of (Path, case id), at least one; sorted. The case id is the path
        relative to the folder, without suffix where no two would share one.

    Raises:
        ImageError: no such file or folder, or no scan in it.
    """
    path = Path(path)
    if not path.is_dir():
        if not path.exists():
            raise ImageError(path, 'No such file or directory')
        return [(path, identity.printable(_without_suffix(path)))]
    found = _find_below(path)
    if not found:
        raise ImageError(path, f'no scans (DICOM {" ".join(SUFFIXES)})')
    if found == [path]:
        return [(path, identity.printable(path.resolve().name))]
    names = [str(file.relative_to(path).parent / _without_suffix(file))
             for file in found]
    if len(set(map(identity.printable, names))) < len(names):
        names = [file.relative_to(path).as_posix() for file in found]
    cases, seen = [], set()
    for name in map(identity.printable, names):
        numbers = (f'{name}~{number}' for number in itertools.count(2))
        case = next(c for c in itertools.chain([name], numbers) if c not in seen)
        seen.add(case)
        cases.append(case)
    return list(zip(found, cases))


def _without_suffix(path):
    """A folder may be named by a UID, whose last number is no suffix."""
    if not path.is_dir():
        for suffix in SUFFIXES + dicom.SUFFIXES:
            if path.name.lower().endswith(suffix) and len(path.name) > len(suffix):
                return path.name[:-len(suffix)]
    return path.name


def _find_below(folder):
    try:
        entries = sorted(
            entry for entry in folder.iterdir() if not entry.name.startswith('.'))
    except OSError as error:
        raise ImageError(folder, error.strerror) from None
    found = []
    if any(_is_slice(entry) for entry in entries):
        if len(_patients_below(folder)) < 2:
            return [folder]
        found.append(folder)
    for entry in entries:
        if entry.is_dir():
            # Links to folders aren't followed: they may lead round in a circle.
            if not entry.is_symlink() and entry.name.lower() not in _MASK_FOLDERS:
                found += _find_below(entry)
        elif entry.name.lower().endswith(SUFFIXES):
            name = _without_suffix(entry)
            if name.lower().endswith('_ct') or not _MASK_NAME.search(name):
                found.append(entry)
    return found


def _patients_below(folder):
    """Hashes of the ids in one CT file of each folder."""
    patients = set()
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith('.')]
        files = (Path(parent, name) for name in sorted(names) if name[0] != '.')
        file = next(filter(_is_slice, files), None)
        patients.add(file and dicom_series.read_patient(file))
    return patients - {'', None}


def _is_slice(path):
    return path.name.upper() != 'DICOMDIR' and dicom.is_dicom(path)


# --- in the confined process ------------------------------------------------------


def _read(path, *, min_slices, max_voxels):
    """What read_volume returns, as a tuple."""
    kind = _kind(path)
    patient, facts = '', {'format': kind, 'exclusion': ''}
    limits = dict(min_slices=min_slices, max_voxels=max_voxels)
    if kind in ('folder', 'zip'):
        if kind == 'zip':
            files = _unzip(path, tempfile.mkdtemp(), max_voxels)
        else:
            files = [(str(file), str(file)) for file in dicom_series.find_files(path)]
        if not files:
            raise ImageError(path, f'no DICOM files in this {kind}')
        stack = dicom_series.read_series(files, path, **limits)
        values, affine, to_file = stack.volume_hu, stack.affine, stack.to_source
        shape, patient, facts = stack.source_shape, stack.patient, stack.facts
    else:
        values, affine, stated = _read_file(path, kind, max_voxels, _to_hu)
        facts['orientation_assumed'] = not stated
        shape, to_file = values.shape, np.eye(4)
    if min(values.shape) == 1:
        raise ImageError(path, 'a single slice')
    values, affine, to_stack = _turn(values, affine)
    if len(values) < min_slices:
        raise ImageError(
            path, f'{len(values)} slices, at least {min_slices} are needed')
    return (values, affine, to_file @ to_stack, shape,
            patient or identity.content_id(values), facts)


def _read_mask(path, *, shape, affine):
    kind = _kind(path)
    if kind in ('folder', 'zip'):
        raise ImageError(path, 'a mask is one NIfTI, MHA, MHD or NRRD file')
    size = int(np.prod(shape))
    labels, own, _ = _read_file(path, kind, size, _to_labels)
    # The volume's voxels in the mask: a permutation with flips, within half a voxel.
    away = np.linalg.inv(own) @ np.array(affine)
    turn = np.rint(away[:3, :3])
    axes = np.abs(turn).argmax(axis=0)
    permutes = np.array_equal(np.sort(axes), [0, 1, 2]) and np.array_equal(
        np.abs(turn), np.eye(3)[:, axes])
    if not permutes or tuple(labels.shape[axis] for axis in axes) != tuple(shape):
        size = ' x '.join(map(str, labels.shape))
        raise ImageError(
            path, f'a mask on another grid: {size} voxels unlike the scan\'s')
    signs = turn[axes, range(3)]
    start = np.zeros(3)
    start[axes] = np.where(signs < 0, np.array(shape) - 1, 0)
    corners = np.array(list(itertools.product(*[(0, n - 1) for n in shape])))
    apart = corners @ (away[:3, :3] - turn).T + away[:3, 3] - start
    if np.abs(apart).max() > _SAME_GRID:
        raise ImageError(
            path, f'a mask on another grid: up to {np.abs(apart).max():.1f} voxels '
            'beside the scan\'s')
    labels = labels.transpose(axes)[tuple(slice(None, None, int(s)) for s in signs)]
    return [np.ascontiguousarray(labels)]


def _kind(path):
    """'folder', 'zip', 'NIfTI', 'MetaImage' or 'NRRD', by the content."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            return 'folder'
        if not stat.S_ISREG(mode):
            raise ImageError(path, 'not a file')
        with open(path, 'rb') as file:
            start = file.read(512)
        if start.startswith(b'\x1f\x8b'):
            with gzip.open(path) as file:
                start = file.read(512)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, 'strerror', None) or 'damaged or truncated gzip'
        raise ImageError(path, reason) from None
    if not start:
        raise ImageError(path, 'empty file')
    if dicom.is_dicom(path):
        raise ImageError(path, 'one DICOM file is no scan: name the folder it lies in')
    if start.startswith(b'PK'):
        return 'zip'
    if start.startswith(b'NRRD'):
        return 'NRRD'
    if re.match(rb'\s*(ObjectType|Comment|NDims)\s*=', start):
        return 'MetaImage'
    if start[:4] in (struct.pack(order + 'i', size)
                     for order in '<>' for size in (348, 540)):
        return 'NIfTI'
    raise ImageError(path, 'no scan: DICOM folder, zip, NIfTI, MHA, MHD or NRRD')


def _turn(values, affine):
    """Permutes and flips axes to (feet to head, front to back, right to left).

    Returns:
        (values, affine, [4, 4] from the new voxels to the old).
    """
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    # Patient axes z, y, x, which lead to the head, the back and the left.
    axes = max(itertools.permutations(range(3)), key=lambda axes: sum(
        abs(cosines[2 - i, axis]) for i, axis in enumerate(axes)))
    to_old = np.zeros((4, 4))
    to_old[3, 3] = 1
    flips = []
    for i, axis in enumerate(axes):
        forward = cosines[2 - i, axis] > 0
        to_old[axis, i] = 1 if forward else -1
        to_old[axis, 3] = 0 if forward else values.shape[axis] - 1
        flips.append(slice(None, None, 1 if forward else -1))
    values = np.ascontiguousarray(values.transpose(axes)[tuple(flips)])
    return values, affine @ to_old, to_old


# --- a file that holds a whole scan -----------------------------------------------


def _read_file(path, kind, max_voxels, convert):
    """(converted values [k, j, i], affine [4, 4] to LPS mm, is it stated) of a file."""
    if kind == 'NIfTI':
        return _read_nifti(path, max_voxels, convert)
    reader = sitk.ImageFileReader()
    reader.SetImageIO({'NRRD': 'NrrdImageIO', 'MetaImage': 'MetaImageIO'}[kind])
    reader.SetFileName(path)
    stated = _check_header(path, kind)
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        raise ImageError(path, f'damaged {kind} header') from None
    sides = list(reader.GetSize())
    _check_sides(path, sides, max_voxels)
    if reader.GetNumberOfComponents() != 1:
        raise ImageError(path, 'a colour or vector image')
    if sitk.GetPixelIDValueAsString(reader.GetPixelIDValue()).startswith('complex'):
        raise ImageError(path, 'complex values')
    dimensions = len(sides)
    spacing, origin = reader.GetSpacing()[:3], reader.GetOrigin()[:3]
    direction = np.reshape(reader.GetDirection(), (dimensions, dimensions))[:3, :3]
    affine = _to_affine(path, direction * np.array(spacing), origin)
    if dimensions > 3:
        reader.SetExtractSize(sides[:3] + [0] * (dimensions - 3))
    try:
        image = reader.Execute()
    except RuntimeError as error:
        if 'alloc' in str(error):
            raise MemoryError from None
        raise ImageError(path, f'damaged or truncated {kind}') from None
    values = sitk.GetArrayViewFromImage(image)
    blocks = ((values[k], k) for k in range(len(values)))
    return convert(path, blocks, values.shape), affine, stated


def _check_header(path, kind):
    """Checks what ITK would correct or follow: spacing, and files named in a header.

    Returns:
        Whether the header states an orientation.
    """
    with open(path, 'rb') as file:
        text = file.read(1 << 16).decode('latin-1')
    if kind == 'NRRD':
        text = re.split(r'\r?\n\r?\n', text, maxsplit=1)[0]
    fields = {}
    for line in text.splitlines():
        name, _, value = line.partition('=' if kind == 'MetaImage' else ':')
        name = name.strip().lower().replace(' ', '')
        fields.setdefault(name, value.strip())
        if name == 'elementdatafile':
            break  # the pixels follow
    data = fields.get('elementdatafile') or fields.get('datafile') or 'LOCAL'
    if data != 'LOCAL' and (
        PurePosixPath(data.replace('\\', '/')).name != data
        or data.startswith('LIST') or '%' in data or data.startswith('.')
    ):
        raise ImageError(path, 'its pixels must be one file in the same folder')
    if data != 'LOCAL' and not Path(path).with_name(data).is_file():
        raise ImageError(path, 'the file with its pixels is missing')
    spacing = fields.get('elementspacing') or fields.get('spacings')
    if spacing:
        _check_spacing(path, spacing.split()[:3])
    return not fields.keys().isdisjoint(
        ('transformmatrix', 'orientation', 'rotation', 'spacedirections'))


def _check_spacing(path, texts):
    for text in texts:
        try:
            good = np.isfinite(float(text)) and float(text) > 0
        except ValueError:
            good = False
        if not good:
            values = ' x '.join(str(text)[:16] for text in texts)
            raise ImageError(path, f'spacing {values} mm')


def _check_sides(path, sides, max_voxels):
    """Sides (i, j, k, ...) of a header."""
    beyond = [side for side in sides[3:] if side > 1]
    if beyond:
        raise ImageError(path, f'{len(sides)}D: {beyond[0]} volumes in one file')
    if len(sides) < 3 or min(sides[:3]) == 1:
        raise ImageError(path, 'a single slice')
    if min(sides[:3]) < 1:
        raise ImageError(path, 'no voxels')
    voxels = int(np.prod([int(side) for side in sides[:3]], dtype=object))
    if voxels > max_voxels:
        size = ' x '.join(map(str, sides[:3]))
        raise ImageError(path, f'{size} voxels, limit {max_voxels}')


def _to_affine(path, columns, origin):
    """Columns (i, j, k) [3, 3] and an origin in LPS mm -> affine of (k, j, i)."""
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(columns, np.float64)[:, ::-1]
    affine[:3, 3] = origin
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.all(np.isfinite(affine)) or not spacing.min() > 0:
        raise ImageError(path, 'spacing or orientation that is zero or no number')
    cosines = affine[:3, :3] / spacing
    if np.abs(cosines.T @ cosines - np.eye(3)).max() > _SKEW:
        raise ImageError(path, 'skewed axes: resample it to a rectangular grid')
    return affine


def _read_nifti(path, max_voxels, convert):
    """NIfTI-1 and -2 in one file, block by block.

    ITK fills what a truncated file lacks with zeros and takes 1 mm for a spacing of
    zero; and a gzipped file needn't be in memory twice.
    """
    try:
        with open(path, 'rb') as file:
            packed = file.read(2) == b'\x1f\x8b'
        with gzip.open(path) if packed else open(path, 'rb') as file:
            header = _nifti_header(path, file.read(540))
            _check_sides(path, header['sides'], max_voxels)
            _check_spacing(path, [f'{mm:g}' for mm in header['spacing']])
            affine = _to_affine(path, *_nifti_axes(path, header))
            left = header['start'] - 540
            if left < 0:
                file.seek(header['start'])
            while left > 0:
                part = file.read(min(left, 1 << 20))
                if not part:
                    raise EOFError
                left -= len(part)
            shape = tuple(header['sides'][2::-1])
            blocks = _nifti_blocks(file, header, shape)
            stated = max(header['codes']) > 0
            return convert(path, blocks, shape), affine, stated
    except (EOFError, zlib.error, struct.error, gzip.BadGzipFile):
        raise ImageError(path, 'damaged or truncated NIfTI') from None
    except OSError as error:
        raise ImageError(path, error.strerror or 'damaged NIfTI') from None


def _nifti_header(path, data):
    order = '<' if data[:4] in (struct.pack('<i', 348), struct.pack('<i', 540)) else '>'

    def field(form, place):
        return struct.unpack_from(order + form, data, place)

    if field('i', 0) == (348,):
        if data[344:348] != b'n+1\0':
            raise ImageError(path, 'NIfTI or Analyze in two files is not read')
        dims, pixdim, code = field('8h', 40), field('8f', 76), field('h', 70)
        start, scale = field('f', 108), field('2f', 112)
        codes, units = field('2h', 252), data[123]
        turn, rows = field('6f', 256), field('12f', 280)
    else:
        dims, pixdim, code = field('8q', 16), field('8d', 104), field('h', 12)
        start, scale = field('q', 168), field('2d', 176)
        codes, units = field('2i', 344), field('i', 500)[0]
        turn, rows = field('6d', 352), field('12d', 400)
    if not 1 <= dims[0] <= 7 or not 0 <= start[0] < 1 << 30:
        raise ImageError(path, 'damaged NIfTI header')
    if code[0] not in _NIFTI_TYPES:
        kind = _NIFTI_COLOURS.get(code[0], f'of type {code[0]}')
        raise ImageError(path, f'a {kind} NIfTI is not read')
    unit = _NIFTI_UNITS_MM.get(units & 7, 1.0)
    return dict(
        sides=list(dims[1:dims[0] + 1]), spacing=[unit * mm for mm in pixdim[1:4]],
        hand=-1.0 if pixdim[0] < 0 else 1.0, kind=order + _NIFTI_TYPES[code[0]],
        start=int(start[0]), scale=scale, codes=codes, turn=np.array(turn),
        rows=unit * np.reshape(rows, (3, 4)), unit=unit)


def _nifti_axes(path, header):
    """(columns [3, 3], origin [3]) in LPS mm: sform, else qform, else the grid's."""
    quaternion, affine = header['codes']
    columns, origin = np.diag(header['spacing']), np.zeros(3)
    if quaternion > 0:
        b, c, d = header['turn'][:3]
        a = np.sqrt(max(1 - b * b - c * c - d * d, 0))
        turn = np.array([
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c]])
        columns = turn * header['spacing'] * [1, 1, header['hand']]
        origin = header['unit'] * header['turn'][3:]
    if affine > 0:
        columns, origin = header['rows'][:, :3], header['rows'][:, 3]
        lengths = np.linalg.norm(columns, axis=0)
        if not np.allclose(lengths, header['spacing'], rtol=0.02):
            raise ImageError(path, 'two spacings: of its axes {} and {} mm'.format(
                *(' x '.join(f'{mm:.3g}' for mm in some)
                  for some in (lengths, header['spacing']))))
    away = np.diag([-1.0, -1.0, 1.0])  # from RAS
    return away @ columns, away @ origin


def _nifti_blocks(file, header, shape):
    """Yields (values [j, i], k), scaled."""
    kind = np.dtype(header['kind'])
    slope, intercept = header['scale']
    size = shape[1] * shape[2] * kind.itemsize
    for k in range(shape[0]):
        data = file.read(size)
        if len(data) < size:
            raise EOFError
        values = np.frombuffer(data, kind).reshape(shape[1:])
        if np.isfinite(slope) and slope and (slope, intercept) != (1, 0):
            values = values * np.float64(slope) + np.float64(intercept)
        yield values, k
    file.read(1)  # the end of a gzip is where its check sum is


def _to_hu(path, blocks, shape):
    """Slices of any type -> int16 HU, checked."""
    volume = np.empty(shape, np.int16)
    low, high, within = np.inf, -np.inf, 0
    for values, k in blocks:
        smallest, largest = float(values.min()), float(values.max())
        if not (np.isfinite(smallest) and np.isfinite(largest)):
            raise ImageError(path, 'values that are NaN or infinite')
        if smallest < LOWEST_VALUE or largest > HIGHEST_VALUE:
            sound = values[(values >= LOWEST_VALUE) & (values <= HIGHEST_VALUE)]
            within += sound.size
            if sound.size:
                low, high = min(low, sound.min()), max(high, sound.max())
        else:
            within += values.size
            low, high = min(low, smallest), max(high, largest)
        if values.dtype.kind == 'f':
            values = np.rint(values)
        volume[k] = np.clip(values, LOWEST_HU, HIGHEST_HU)
    dicom_series.check_within(path, within, volume.size)
    dicom_series.check_range(path, low, high)
    return volume


def _to_labels(path, blocks, shape):
    """Slices of any type -> uint8 or int16 labels."""
    labels = np.empty(shape, np.int16)
    limits = np.iinfo(np.int16)
    for values, k in blocks:
        if values.dtype.kind == 'f' and not np.array_equal(values, np.rint(values)):
            raise ImageError(path, 'labels that are no whole numbers')
        if values.min() < limits.min or values.max() > limits.max:
            raise ImageError(path, f'labels beyond {limits.min} to {limits.max}')
        labels[k] = values
    if labels.min() >= 0 and labels.max() <= 255:
        return labels.astype(np.uint8)
    return labels


# --- a zip ------------------------------------------------------------------------


def _unzip(path, scratch, max_voxels):
    """Unpacks the DICOM files of a zip into `scratch`; [(path, name in messages)].

    Files are numbered, so that no name in the zip decides where anything is written;
    names that try to are an error all the same.
    """
    limit = _BYTES_PER_VOXEL * max_voxels + _SLACK_BYTES
    files, total = [], 0
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > _MOST_MEMBERS:
                raise ImageError(
                    path, f'{len(members)} files, limit {_MOST_MEMBERS}')
            for member in members:
                _check_member(path, member)
                total += member.file_size
            if total > limit:
                raise ImageError(path, f'{total} bytes unpacked, limit {limit}')
            left = limit
            for number, member in enumerate(members):
                name = PurePosixPath(member.filename)
                if member.is_dir() or any(part.startswith('.') for part in name.parts):
                    continue
                file = Path(scratch, str(number))
                # What a member declares needn't be what it holds.
                with archive.open(member) as packed, open(file, 'wb') as out:
                    while part := packed.read(1 << 20):
                        left -= len(part)
                        if left < 0:
                            raise ImageError(
                                path, f'more than {limit} bytes unpacked')
                        out.write(part)
                if dicom.is_dicom(file):
                    files.append((str(file), f'{path}/{name}'))
                else:
                    file.unlink()
    except ImageError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, struct.error, ValueError):
        raise ImageError(path, 'damaged or truncated zip') from None
    except NotImplementedError:
        raise ImageError(path, 'a zip of a kind that is not read') from None
    except OSError as error:
        raise ImageError(path, error.strerror or 'damaged zip') from None
    return files


def _check_member(path, member):
    name = member.filename.replace('\\', '/')
    if name.startswith('/') or re.match('[A-Za-z]:', name):
        raise ImageError(path, 'a zip with an absolute path')
    if '..' in name.split('/'):
        raise ImageError(path, "a zip with a path that leads out of it ('..')")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise ImageError(path, 'a zip with a symbolic link')
    if member.flag_bits & 1:
        raise ImageError(path, 'an encrypted zip')
