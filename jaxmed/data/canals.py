"""Labelled axial slices of CT scans -> records of the canal detector (paper 001, 2.1).

Two layouts: boxes somebody drew, in a table; or masks of vertebrae, whose canals are
the holes in them.
"""

import logging
from pathlib import Path

import numpy as np
from scipy import ndimage

from jaxmed.ct import axial
from jaxmed.ct.path import DETECTED, PathRules, trace_path
from jaxmed.data import identity
from jaxmed.data.cohorts import Cohort, read_rows
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
    coordinates. A row without a box says that no canal is in the slice. A column
    patient_id tells which scans are of one patient (cohorts.Cohort.group).

    Args:
        source: folder of scans.
        labels: the table.
        size_px, pixel_mm: of ct.axial.resample.
        read: (path) -> Volume.

    Yields:
        Record, see make_record.

    Returns:
        dict, for the manifest: `found` of cohorts.Cohort. What it excludes or can't
        read has no records.

    Raises:
        RecordError: the table lacks a column or has no rows, a number is none, a box
            is empty, outside of its slice or the second one there, a series or slice
            is not there.
        ImageError: no scans in `source`.
    """
    cohort = Cohort(source, read=read)
    names = read_rows(labels, columns=())[0][1]
    unit = _MM if _MM[0] in names else _PIXELS
    for case_id, rows in cohort.group(labels, columns=('slice', *unit)).items():
        volume, boxes = cohort.read(case_id), {}
        if volume is None:
            continue
        for line, row in rows:
            number, corners = _parse(labels, line, row, unit)
            place = _slice_of(volume, number)
            if place is None:
                raise RecordError(
                    labels, f'line {line}: slice {number} is not in {case_id}')
            if place in boxes:
                raise RecordError(labels, f'line {line}: slice {number} comes twice')
            box = corners and _to_voxels(volume, place, np.array(corners), unit)
            if box is not None and not _inside(box, volume.volume_hu.shape[1:]):
                raise RecordError(
                    labels, f'line {line}: the box is empty or outside of its slice')
            boxes[place] = box
        yield from _records(volume, boxes, case_id, size_px=size_px, pixel_mm=pixel_mm)
    return cohort.found


def read_masks(source, *, labels, size_px, pixel_mm, step_mm, read, read_mask):
    """Yields slices of scans whose vertebrae are outlined.

    Args:
        source: folder of scans.
        labels: folder of masks: 0 is none, all else vertebra. That of the scan A/B is
            A/B with a suffix, or the only A/B_* or A/B-*.
        size_px, pixel_mm: of ct.axial.resample.
        step_mm: least distance between two slices.
        read: (path) -> Volume.
        read_mask: (path, Volume) -> labels [D, H, W] in the volume's orientation.

    Yields:
        Record, see make_record; only of slices in which a canal is closed.

    Returns:
        As read_boxes; a scan without a mask, or with one on another grid, is
        unprocessable.

    Raises:
        ImageError: no scans in `source`.
    """
    cohort = Cohort(source, read=read)
    for case_id in cohort.scans:
        volume = cohort.read(case_id)
        if volume is None:
            continue
        boxes = cohort.attempt(case_id, lambda: find_canals(
            read_mask(_find_mask(Path(labels), case_id), volume), volume.spacing_mm
        ))
        chosen, last = {}, -np.inf
        for place, box in sorted((boxes or {}).items()):
            if (place - last) * volume.spacing_mm[0] >= step_mm - 1e-6:
                chosen[place], last = box, place
        if boxes == {}:
            LOG.warning('%s: no closed canal in its mask', case_id)
        yield from _records(
            volume, chosen, case_id, size_px=size_px, pixel_mm=pixel_mm
        )
    return cohort.found


def _find_mask(folder, case_id):
    place = folder / case_id
    found = [
        path for path in (place.parent.iterdir() if place.parent.is_dir() else ())
        if path.is_file() and path.name.startswith(place.name)
    ]
    same = [path for path in found if path.name[len(place.name):].startswith('.')]
    others = [path for path in found if path.name[len(place.name):][:1] in ('_', '-')]
    if len(same or others) != 1:
        raise ImageError(place, 'several masks' if same or others else 'no mask')
    return (same or others)[0]


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


def _parse(table, line, row, unit):
    """(slice, four numbers or None) of a row of the table."""
    try:
        number = int(row['slice'])
        texts = [row[name] for name in unit]
        corners = tuple(map(float, texts)) if any(texts) else None
    except ValueError:
        raise RecordError(table, f'line {line}: not a number') from None
    if corners and not np.all(np.isfinite(corners)):
        raise RecordError(table, f'line {line}: not a number')
    return number, corners


def _axial(volume):
    """(axis of the file that is the volume's d, its sign, its place at d = 0).

    That which does not change within a slice: a tilted gantry moves rows and columns
    from slice to slice, by more than a pixel.
    """
    axis = int(np.abs(volume.to_source[:3, 1:3]).sum(axis=1).argmin())
    return axis, volume.to_source[axis, 0], volume.to_source[axis, 3]


def _slice_of(volume, number):
    """The d of the file's slice `number`, None if there is none."""
    _, sign, first = _axial(volume)
    place = round((number - first) / sign)
    return place if 0 <= place < len(volume.volume_hu) else None


def slice_number(volume, place):
    """The file's number of the slice at d."""
    _, sign, first = _axial(volume)
    return round(first + sign * place)


def _to_voxels(volume, place, corners, unit):
    """Two corners as a table has them -> (h0, w0, h1, w1), in the slice at d."""
    corners = np.reshape(corners, (2, 2))  # (x, y) of each
    if unit == _MM:
        lines = volume.affine[:2]
    else:
        # Pixel i reaches from i to i + 1 in a table and is at i in an affine.
        corners = corners - 0.5
        rest = [axis for axis in range(3) if axis != _axial(volume)[0]]
        lines = volume.to_source[rest[::-1]]  # columns (x) before rows (y)
    shifts = lines[:, 0] * place + lines[:, 3]
    ends = np.linalg.solve(lines[:, 1:3], (corners - shifts).T).T + 0.5
    return np.concatenate([ends.min(axis=0), ends.max(axis=0)])


def _inside(box, sides):
    low, high = np.array(box[:2]), np.array(box[2:])
    return bool(np.all(high > low) and np.all(low >= 0) and np.all(high <= sides))
