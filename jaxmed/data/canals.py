"""Labelled axial slices of CT scans -> records of the canal detector (paper 001, 2.1).

Two layouts: boxes somebody drew, in a table; or masks of vertebrae, whose canals are
the holes in them.
"""

import csv
import logging
from pathlib import Path

import numpy as np
from scipy import ndimage

from jaxmed.ct import axial
from jaxmed.ct.path import DETECTED, PathRules, trace_path
from jaxmed.data import identity, volumes
from jaxmed.errors import ImageError, RecordError

LOG = logging.getLogger('jaxmed')

_PIXELS, _MM = ('x0', 'y0', 'x1', 'y1'), ('x0_mm', 'y0_mm', 'x1_mm', 'y1_mm')
_CLOSED_MM = 6.0  # gaps of a vertebra's ring that a hole may have
_CANAL_MM = (9.0, 40.0)  # sides of a canal's box; holes of other sizes are none
_THIN_MM = 4.0  # parts of a hole that are not wider are left out: foramina
_FILLED = 0.5  # least share of its box that a canal fills
# The canal goes on from slice to slice; gaps of joints and discs do not.
_RULES = PathRules(
    min_confidence=0.0, tolerance_mm=5.0, max_slope=0.6, max_jump_mm=30.0,
    extrapolate_mm=0.0,
)


def read_boxes(source, *, labels, size_px, pixel_mm, read):
    """Yields the slices named in a table.

    The table is a CSV with the columns series (path of the scan in `source`, with or
    without its suffix), slice (index along the file's slices, from 0) and the box as
    x0, y0, x1, y1 in pixels of the file's slice (columns and rows, from the outer
    corner of the first pixel) or as x0_mm, y0_mm, x1_mm, y1_mm in the patient's LPS
    coordinates. A row without a box says that no canal is in the slice.

    Args:
        source: folder of scans.
        labels: the table.
        size_px, pixel_mm: of ct.axial.resample.
        read: (path) -> Volume.

    Yields:
        Record, see make_record.

    Returns:
        dict, for the manifest: count of 'scans', and 'excluded': case id -> reason,
        of scans of a kind that the paper leaves out (volumes.read_volume).

    Raises:
        RecordError: the table lacks a column or has no rows, a number is none, a box
            is empty or outside of its slice, a series or slice is not there.
        ImageError: a scan can't be read.
    """
    found = {'scans': 0, 'excluded': {}}
    for series, rows in _read_table(labels).items():
        path = _find_series(Path(source), series, labels)
        volume, boxes = read(path), {}
        if _excludes(found, volume, identity.case_id(path, Path(source))):
            continue
        for line, number, corners, unit in rows:
            place = _slice_of(volume, number)
            if place is None:
                raise RecordError(
                    labels, f'line {line}: slice {number} is not in {series}')
            box = corners and _to_voxels(volume, number, np.array(corners), unit)
            if box is not None and not _inside(box, volume.volume_hu.shape[1:]):
                raise RecordError(
                    labels, f'line {line}: the box is empty or outside of its slice')
            boxes[place] = box
        yield from _records(
            volume, boxes, identity.case_id(path, Path(source)), size_px=size_px,
            pixel_mm=pixel_mm,
        )
    return found


def read_masks(source, *, labels, size_px, pixel_mm, step_mm, read, read_mask):
    """Yields slices of scans whose vertebrae are outlined.

    Args:
        source: folder of scans.
        labels: folder of masks with the scans' names: 0 is none, all else vertebra.
        size_px, pixel_mm: of ct.axial.resample.
        step_mm: least distance between two slices.
        read: (path) -> Volume.
        read_mask: (path, Volume) -> labels [D, H, W] in the volume's orientation.

    Yields:
        Record, see make_record; only of slices in which a canal is closed.

    Returns:
        As read_boxes.

    Raises:
        ImageError: a scan or a mask can't be read, or is missing.
    """
    found = {'scans': 0, 'excluded': {}}
    for path, case_id in volumes.find_scans(Path(source)):
        mask_path = Path(labels) / path.relative_to(source)
        if not mask_path.exists():
            raise ImageError(mask_path, f'no mask for {path.name}')
        volume = read(path)
        if _excludes(found, volume, case_id):
            continue
        boxes = find_canals(read_mask(mask_path, volume), volume.spacing_mm)
        if not boxes:
            LOG.warning('%s: no closed canal in its mask', mask_path)
        chosen, last = {}, -np.inf
        for place, box in sorted(boxes.items()):
            if (place - last) * volume.spacing_mm[0] >= step_mm - 1e-6:
                chosen[place], last = box, place
        yield from _records(
            volume, chosen, case_id, size_px=size_px, pixel_mm=pixel_mm
        )
    return found


def find_canals(labels, spacing_mm):
    """The canal's box in each axial slice in which vertebrae close a ring around it.

    Of all holes that are as large as a canal, and about as round, those count that
    follow each other from slice to slice.

    Args:
        labels: [D, H, W], 0 outside of vertebrae.
        spacing_mm: (d, h, w).

    Returns:
        {d: (h0, w0, h1, w1) in voxels from the outer corner of the first one}.
    """
    spacing_mm = np.asarray(spacing_mm)
    slices, boxes, shares = [], [], []
    closing, opening = (_disc(mm / 2, spacing_mm) for mm in (_CLOSED_MM, _THIN_MM))
    margin = 2 * max(closing.shape)
    for place in np.flatnonzero(np.any(labels, axis=(1, 2))):
        bone = np.pad(labels[place] > 0, margin)
        closed = ndimage.binary_closing(bone, closing)
        inside = ndimage.binary_fill_holes(closed) & ~bone
        holes, count = ndimage.label(ndimage.binary_opening(inside, opening))
        for number, where in enumerate(ndimage.find_objects(holes, count), start=1):
            box = np.array([[s.start, s.stop] for s in where]).T
            sides = (box[1] - box[0]) * spacing_mm[1:]
            filled = float((holes[where] == number).mean())
            if filled >= _FILLED and np.all(
                (sides >= _CANAL_MM[0]) & (sides <= _CANAL_MM[1])
            ):
                slices.append(int(place))
                boxes.append((box - margin).ravel())
                shares.append(filled)
    if len(set(slices)) < 2:
        return {}
    boxes = np.array(boxes)
    centres_mm = (boxes.reshape(-1, 2, 2).mean(axis=1) - 0.5) * spacing_mm[1:]
    try:
        cord = trace_path(
            slices, centres_mm, shares, num_slices=len(labels), spacing_mm=spacing_mm,
            where='mask', rules=_RULES,
        )
    except ImageError:  # no two holes that follow each other
        return {}
    return {
        place: tuple(box.tolist())
        for place, box, centre in zip(slices, boxes, centres_mm)
        if cord.kind[place] == DETECTED
        and np.allclose(cord.centre_mm[place], centre, atol=1e-2)
    }


def _disc(radius_mm, spacing_mm):
    reach = np.maximum(np.round(radius_mm / spacing_mm[1:]), 1)
    grid = np.ogrid[tuple(slice(-int(r), int(r) + 1) for r in reach)]
    return sum((g / r) ** 2 for g, r in zip(grid, reach)) <= 1


def make_record(square, box, *, case_id, patient_id, content_id):
    """One slice as a record.

    Args:
        square: int16 HU [S, S], of ct.axial.resample.
        box: (y0, x0, y1, x1) in pixels of the square, or None for no canal.

    Returns:
        Record: inputs int16 [S, S, 1]; targets float32 [5]: whether there is a canal,
        then x0, y0, x1, y1.
    """
    targets = np.zeros(5, np.float32)
    if box is not None:
        targets[:] = (1, box[1], box[0], box[3], box[2])
    return {
        'inputs': np.ascontiguousarray(square)[..., None], 'targets': targets,
        'example_id': case_id, 'case_id': case_id, 'patient_id': patient_id,
        'content_id': content_id,
    }


def _excludes(found, volume, case_id):
    """Counts a scan; whether it is one of those that the paper leaves out."""
    found['scans'] += 1
    reason = volume.facts['exclusion']
    if reason:
        LOG.warning('%s: left out, %s', case_id, reason)
        found['excluded'][case_id] = reason
    return bool(reason)


def _records(volume, boxes, series, *, size_px, pixel_mm):
    grid = dict(size_px=size_px, pixel_mm=pixel_mm)
    places = sorted(boxes)
    if not places:
        return
    sides, spacing = volume.volume_hu.shape[1:], volume.spacing_mm[1:]
    squares = np.asarray(axial.resample(volume.volume_hu[places], spacing, **grid))
    for place, square in zip(places, squares):
        box = boxes[place]
        if box is not None:
            box = axial.to_square(
                np.reshape(box, (2, 2)), sides, spacing, **grid).ravel()
        yield make_record(
            square, box, case_id=f'{series}/{place:04d}', patient_id=volume.patient_id,
            content_id=identity.content_id(square),
        )


def _read_table(path):
    """{series: [(line, slice, four numbers or None, unit)]}."""
    series = {}
    try:
        with open(path, newline='', encoding='utf-8-sig') as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or []
            unit = _MM if _MM[0] in names else _PIXELS
            for name in ('series', 'slice', *unit):
                if name not in names:
                    raise RecordError(path, f'no column {name!r}')
            for row in reader:
                line = reader.line_num
                texts = [(row[name] or '').strip() for name in unit]
                try:
                    corners = tuple(map(float, texts)) if any(texts) else None
                    number = int(row['slice'])
                except (TypeError, ValueError):
                    raise RecordError(path, f'line {line}: not a number') from None
                if corners and not np.all(np.isfinite(corners)):
                    raise RecordError(path, f'line {line}: not a number')
                series.setdefault(row['series'].strip(), []).append(
                    (line, number, corners, unit))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RecordError(path, getattr(error, 'strerror', None) or 'no CSV') from None
    if not series:
        raise RecordError(path, 'no rows')
    return series


def _find_series(source, series, labels):
    place = (source / series).absolute()
    if series and place.is_relative_to(source.absolute()) and '..' not in place.parts:
        for path in (place, *sorted(place.parent.glob(f'{place.name}.*'))):
            if path.exists():
                return source / path.relative_to(source.absolute())
    raise RecordError(labels, f'series {series!r} is not in {source}')


def _axial(volume):
    """(axis of the file that is the volume's d, its sign)."""
    column = volume.to_source[:3, 0]
    axis = int(np.abs(column).argmax())
    return axis, column[axis]


def _slice_of(volume, number):
    """The d of the file's slice `number`, None if there is none."""
    axis, sign = _axial(volume)
    place = round((number - volume.to_source[axis, 3]) / sign)
    return place if 0 <= place < len(volume.volume_hu) else None


def slice_number(volume, place):
    """The file's number of the slice at d."""
    axis, sign = _axial(volume)
    return round(volume.to_source[axis, 3] + sign * place)


def _to_voxels(volume, number, corners, unit):
    """Two corners as a table has them -> (h0, w0, h1, w1)."""
    x0, y0, x1, y1 = corners
    if unit == _MM:
        z = (volume.affine @ [_slice_of(volume, number), 0, 0, 1])[2]
        ends = np.array([[x0, y0, z, 1], [x1, y1, z, 1]]).T
        ends = np.linalg.solve(volume.affine, ends)[1:3].T + 0.5
    else:
        # Pixel i reaches from i to i + 1 in a table and is at i in an affine.
        axis, _ = _axial(volume)
        ends = np.zeros((2, 4))
        rest = [a for a in range(3) if a != axis]
        ends[:, axis], ends[:, 3] = number, 1
        ends[:, rest] = np.array([[y0, x0], [y1, x1]]) - 0.5
        ends = np.linalg.solve(volume.to_source, ends.T)[1:3].T + 0.5
    return np.concatenate([ends.min(axis=0), ends.max(axis=0)])


def _inside(box, sides):
    low, high = np.array(box[:2]), np.array(box[2:])
    return bool(np.all(high > low) and np.all(low >= 0) and np.all(high <= sides))
