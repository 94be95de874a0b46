"""Labelled CT scans -> records of patches along the spine (paper 001, 2.2)."""

import itertools
import logging
import math
from typing import Any, Mapping, NamedTuple

import numpy as np

from jaxmed.ct import column, patches, path
from jaxmed.data import identity
from jaxmed.data.cohorts import Cohort
from jaxmed.errors import ImageError, RecordError

LOG = logging.getLogger('jaxmed')

# Patches are cut without the network's window, which is of the model: these limits
# hold all of a scan's HU but metal.
_LOW_HU, _HIGH_HU = -1024.0, 3072.0

# VerSe's numbers of vertebrae: C1 is 1, T1 8, L1 20; L6 25, T13 28.
LEVELS = {
    **{f'C{n}': n for n in range(1, 8)}, **{f'T{n}': 7 + n for n in range(1, 13)},
    **{f'L{n}': 19 + n for n in range(1, 7)}, 'T13': 28,
}

# Where vertebral bodies lie: mm behind the cord (before it, so negative), and to each
# side of it. See column.Box; 2 mm are left for the path's error.
BODIES_MM, BODIES_HALF_MM = (-50.0, -3.0), 32.0
_BONE_HU = 250

# The picture from the side: the mean of a few millimetres of its depth.
_VIEW = column.Box(front_mm=80.0, back_mm=60.0, half_width_mm=1.25)
_VIEW_PIXEL_MM = 0.5
_VIEW_HU = (-200.0, 800.0)  # black and white: thin bone still differs from discs


class Vertebra(NamedTuple):
    """What is known of a vertebra."""

    z_mm: float  # LPS, of its body's middle
    fractured: bool
    grade: float  # Genant's, 0 to 3; NaN where unknown
    level: float  # of LEVELS; NaN where unknown


class Region(NamedTuple):
    """The smallest boxes that hold a part of each patch, cut at the scan's edges."""

    voxels: np.ndarray  # int32 [k, 2, 3], (d, h, w) of the volume: first, one past last
    source: np.ndarray  # int32 [k, 2, 3], the same in the file's (k, j, i)
    corners_mm: np.ndarray  # float64 [k, 2, 3], least and greatest LPS (x, y, z)


class Scan(NamedTuple):
    """Where the k patches of a scan lie, and how well the scan could be read."""

    patch: Region  # what the network saw of it, but for its context
    bodies: Region  # its part where vertebral bodies lie
    outline_mm: np.ndarray  # float64 [k, 4, 3]: LPS of that part, seen from the side
    inside: np.ndarray  # float64 [k], share of the bodies' region that was scanned
    bone: np.ndarray  # float64 [k], share of the bodies' region that is bone
    side_view: np.ndarray  # uint8 [N, Y]: straightened, head up, front on the left
    view_pitch_mm: tuple[float, float]  # of its pixels
    view_rows: np.ndarray  # float64 [k, 2]: edges of each patch in it
    view_columns: tuple[float, float]  # edges of the bodies' region in it
    affine: np.ndarray  # of the Volume
    to_source: np.ndarray  # of the Volume
    cord: Mapping[str, Any]  # JSON: share of slices by kind, surest things, gaps
    facts: Mapping[str, Any]  # of the Volume


def read(
    source, *, labels, read_volume, find_cord, box, height_mm, context_mm, shape,
    pixel_mm, num_patches,
):
    """Yields one record a scan that the table names.

    The table is a CSV with the columns series (path of the scan in `source`, with or
    without its suffix) and fracture (1, 0, or nothing where it is unknown), and perhaps
    z_mm: the height of a fractured vertebra in the patient's LPS coordinates, one row
    for each; and of that vertebra grade (Genant: 1, 2 or 3) and level (T1 to L5). A
    series with fracture 0 has no fractured patch; one with heights has those patches
    fractured that they lie in; of others the patches are unknown.

    Args:
        source: folder of scans.
        labels: the table.
        read_volume: (path) -> Volume.
        find_cord: (Volume, case id) -> ct.path.Path.
        box, height_mm, context_mm, shape, pixel_mm, num_patches: of make_record.

    Yields:
        Record, see make_record.

    Returns:
        dict, for the manifest: `found` of cohorts.Cohort, and 'unprocessable_targets',
        whether these have a fracture, None where unknown.

    Raises:
        RecordError: the table lacks a column or has no rows, a value is none, rows of a
            series contradict each other, a height or series is not there.
        ImageError: no scans in `source`.
    """
    cohort = Cohort(source, read=read_volume)
    table = {
        case_id: _settle(labels, rows)
        for case_id, rows in cohort.group(labels, columns=('fracture',)).items()
    }
    unprocessable = cohort.found['unprocessable_targets'] = {}
    for case_id, (fracture, vertebrae) in table.items():
        volume = cohort.read(case_id)
        record = volume and cohort.attempt(case_id, lambda: make_record(
            volume, find_cord(volume, case_id), case_id=case_id, box=box,
            height_mm=height_mm, context_mm=context_mm, shape=shape,
            pixel_mm=pixel_mm, num_patches=num_patches,
        ))
        if record is None:
            if case_id in cohort.found['unprocessable']:
                unprocessable[case_id] = None if math.isnan(fracture) else fracture
            continue
        yield record | label_patches(
            record, vertebrae, fracture=fracture, where=labels)
    return cohort.found


def make_record(
    volume, cord, *, case_id, box, height_mm, context_mm, shape, pixel_mm, num_patches
):
    """The patches of a scan, in HU.

    Args:
        volume: data.volumes.Volume.
        cord: ct.path.Path.
        case_id: str.
        box: ct.column.Box.
        height_mm, context_mm, shape, pixel_mm: of ct.patches.Tiling.
        num_patches: K that all records have; fillers are 0.

    Returns:
        Record: inputs int16 HU [K, pH, pW, pZ]; patch_mask float32 [K], 1 for a patch;
        position float32 [K]; span_mm float32 [K, 2], LPS z at the middle of the upper
        and the lower end of each patch, without its context; first_mm float32 [K, 3]
        and pitch_mm float32 [3] of ct.patches.Patches; context_mm float32 []; slice_mm
        float32 [], between the scan's slices.

    Raises:
        ImageError: more than `num_patches` patches.
    """
    frame = column.make_frame(cord, spacing_mm=volume.spacing_mm)
    tiling = patches.Tiling(
        height_mm, tuple(shape), pixel_mm, (_LOW_HU + _HIGH_HU) / 2,
        _HIGH_HU - _LOW_HU, context_mm)
    cut = patches.cut_patches(volume.volume_hu, frame, box=box, tiling=tiling)
    count = int(np.sum(cut.mask))
    if count > num_patches:
        raise ImageError(case_id, f'{count} patches of {height_mm} mm, limit '
                         f'{num_patches} (task.num_patches)')
    values = np.asarray(cut.values)[:count, ..., 0]
    inputs = np.round(values * (_HIGH_HU - _LOW_HU) + _LOW_HU).astype(np.int16)
    first_mm, pitch_mm = np.asarray(cut.first_mm)[:count], np.asarray(cut.pitch_mm)
    # On the cord, which is at 0 behind and beside itself.
    ends = np.zeros((count, 2, 3), np.float32)
    ends[:, :, 0] = first_mm[:, :1] + [context_mm, context_mm + height_mm]
    voxels = np.asarray(column.column_to_voxel(frame, ends))
    span_mm = column.voxel_to_patient(volume.affine, voxels)[..., 2]
    fill = num_patches - count

    def pad(x):
        return np.pad(x, [(0, fill)] + [(0, 0)] * (x.ndim - 1))

    return {
        'inputs': pad(inputs), 'patch_mask': pad(np.ones(count, np.float32)),
        'position': pad(np.asarray(cut.position, np.float32)[:count]),
        'span_mm': pad(span_mm.astype(np.float32)), 'first_mm': pad(first_mm),
        'pitch_mm': pitch_mm, 'context_mm': np.float32(context_mm),
        'slice_mm': np.float32(volume.spacing_mm[0]),
        'example_id': case_id, 'case_id': case_id,
        'patient_id': volume.patient_id, 'content_id': identity.content_id(inputs),
    }


def read_scan(file, *, case_id, read_volume, find_cord, cut):
    """A scan to predict: the record of make_record, and `scan`, of describe_scan.

    Args:
        file: of volumes.find_scans.
        case_id: str.
        read_volume, find_cord: of read.
        cut: keywords of make_record: box, height_mm and so on.
    """
    volume = read_volume(file)
    cord = find_cord(volume, case_id)
    record = make_record(volume, cord, case_id=case_id, **cut)
    return record | {'scan': describe_scan(record, volume, cord)}


def describe_scan(record, volume, cord):
    """What prediction tells of a scan beside probabilities. Holds no volume.

    Args:
        record: of make_record.
        volume: data.volumes.Volume.
        cord: ct.path.Path.

    Returns:
        Scan.
    """
    count = int(record['patch_mask'].sum())
    shape, pitch_mm = record['inputs'].shape[1:], record['pitch_mm']
    frame = column.make_frame(cord, spacing_mm=volume.spacing_mm)
    cut = patches.Patches(
        None, record['patch_mask'], record['position'], record['first_mm'], pitch_mm,
        frame)
    # Patches without their context.
    rows_mm = record['context_mm'], shape[0] * pitch_mm[0] - record['context_mm']
    whole = np.array([[0, 0, 0], np.array(shape) * pitch_mm])
    whole[:, 0] = rows_mm
    sides = np.clip(np.array([
        [rows_mm[0], BODIES_MM[0], -BODIES_HALF_MM],
        [rows_mm[1], BODIES_MM[1], BODIES_HALF_MM],
    ]) - [0, *record['first_mm'][0, 1:]], 0, np.array(shape) * pitch_mm)
    patch, _ = _locate(cut, whole / pitch_mm - 0.5, volume, count)
    bodies, inside = _locate(cut, sides / pitch_mm - 0.5, volume, count)

    (i0, j0, l0), (i1, j1, l1) = np.round(sides / pitch_mm).astype(int)
    bone = record['inputs'][:count, i0:i1, j0:j1, l0:l1] >= _BONE_HU
    straight = column.straighten(
        volume.volume_hu, frame, box=_VIEW, pixel_mm=_VIEW_PIXEL_MM)
    down, right = straight.pitch_mm[:2].astype(float)
    ends = record['first_mm'][:count, :1].astype(float) + rows_mm
    return Scan(
        patch, bodies, _outline(frame, volume, ends), inside,
        bone.mean(axis=(1, 2, 3)), _to_grey(straight.values_hu.mean(axis=2)),
        (down, right), np.clip(ends / down, 0, len(straight.values_hu)),
        tuple(float(side - straight.first_mm[1]) / right for side in BODIES_MM),
        volume.affine, volume.to_source, _describe_cord(cord, volume.spacing_mm[0]),
        dict(volume.facts))


def _to_grey(values_hu):
    black, white = _VIEW_HU
    share = np.clip((values_hu - black) / (white - black), 0, 1)
    return np.round(255 * share).astype(np.uint8)


def _locate(cut, corners, volume, count):
    """(Region, shares inside of the scan) of a box [2, 3] in each of the patches."""
    numbers = np.arange(len(cut.first_mm))
    low, high = (np.broadcast_to(c, (len(numbers), 3)).astype(np.float32)
                 for c in corners)
    edges = np.stack(patches.box_to_voxels(cut, numbers, low, high), axis=1)[:count]
    shape = np.array(volume.volume_hu.shape)
    kept = np.clip(edges.astype(np.float64), -0.5, shape - 0.5)
    extent = edges[:, 1] - edges[:, 0]
    inside = np.prod((kept[:, 1] - kept[:, 0]) / np.maximum(extent, 1e-6), axis=1)
    # All eight corners: the file's axes and the patient's may be turned or sheared.
    choose = np.array(list(itertools.product((0, 1), repeat=3)))
    places = kept[:, choose, np.arange(3)]  # [k, 8, 3]

    source = column.voxel_to_patient(volume.to_source, places)
    points_mm = column.voxel_to_patient(volume.affine, places)
    return Region(
        _whole(kept[:, 0], kept[:, 1], shape),
        _whole(source.min(axis=1), source.max(axis=1), volume.source_shape),
        np.stack([points_mm.min(axis=1), points_mm.max(axis=1)], axis=1),
    ), inside


def _whole(low, high, shape):
    """Edges, voxel centres at whole numbers -> int32 [k, 2, 3] for slicing."""
    # A rounding error more than a voxel's edge needs no further voxel.
    first, beyond = np.floor(low + 0.5 + 1e-3), np.ceil(high + 0.5 - 1e-3)
    return np.clip(np.stack([first, beyond], axis=1), 0, shape).astype(np.int32)


def _outline(frame, volume, ends_mm):
    """LPS [k, 4, 3]: upper front, upper back, lower back, lower front; in a plane."""
    (upper, lower), (front, back) = ends_mm.T, BODIES_MM
    points = np.zeros((len(ends_mm), 4, 3), np.float32)
    points[:, :2, 0], points[:, 2:, 0] = upper[:, None], lower[:, None]
    points[:, :, 1] = front, back, back, front
    voxels = np.array(column.column_to_voxel(frame, points))
    # Parallel to the scan's own sagittal slices, through the cord's middle.
    voxels[..., 2] = voxels[..., 2].mean(axis=1, keepdims=True)
    voxels = np.clip(voxels, -0.5, np.array(volume.volume_hu.shape) - 0.5)
    return column.voxel_to_patient(volume.affine, voxels)


def _describe_cord(cord, slice_mm):
    """How far the path is to be trusted, JSON."""
    detected = np.flatnonzero(cord.kind == path.DETECTED)
    shares = np.bincount(cord.kind, minlength=len(path.KINDS)) / len(cord.kind)
    sure = cord.confidence[detected]
    gap = float(np.diff(detected).max()) if len(detected) > 1 else 0.0
    return {
        **{f'{name}_share': round(float(share), 4)
           for name, share in zip(path.KINDS, shares)},
        'detections': len(detected),
        'confidence': round(float(sure.mean()), 4) if len(sure) else None,
        'longest_gap_mm': round(gap * float(slice_mm), 1),
        'slices': len(cord.kind), 'slice_mm': round(float(slice_mm), 4),
    }


def label_patches(record, vertebrae, *, fracture, where):
    """What is known of a scan and its patches.

    A patch is fractured that the middle of a fractured vertebra lies in.

    Args:
        record: of make_record.
        vertebrae: Vertebra each; all fractured ones, if any is told.
        fracture: 1, 0 or NaN, of the series.
        where: what an error names.

    Returns:
        targets float32 [1 + K], of the series and its patches, NaN where unknown and
        for fillers; grade float32 [K], the highest of the fractured vertebrae in a
        patch, 0 without one, NaN where unknown; level float32 [K], of the vertebra
        next to the patch's middle, NaN where none of it is told.

    Raises:
        RecordError: a fractured vertebra lies in no patch.
    """
    real = record['patch_mask'] > 0
    low_mm, high_mm = record['span_mm'].min(axis=1), record['span_mm'].max(axis=1)
    known = fracture == 0 or any(vertebra.fractured for vertebra in vertebrae)
    broken = np.where(real & known, 0, np.nan).astype(np.float32)
    grade, level = broken.copy(), np.full_like(broken, np.nan)
    nearest_mm = np.full(len(real), np.inf)
    for vertebra in vertebrae:
        inside = real & (low_mm <= vertebra.z_mm) & (vertebra.z_mm <= high_mm)
        if vertebra.fractured and not inside.any():
            raise RecordError(where, f'z_mm {vertebra.z_mm} is not in the scan '
                              f'{record["case_id"]}')
        if vertebra.fractured:
            broken[inside] = 1
            # NaN, once there, stays: the patch's highest grade is not known.
            grade[inside] = np.maximum(grade[inside], vertebra.grade)
        away_mm = np.abs((low_mm + high_mm) / 2 - vertebra.z_mm)
        closer = inside & (away_mm < nearest_mm)
        nearest_mm[closer], level[closer] = away_mm[closer], vertebra.level
    return {
        'targets': np.append(np.float32(fracture), broken), 'grade': grade,
        'level': level,
    }


def _settle(table, rows):
    """(fracture or NaN, its fractured vertebrae) of the rows of one series."""
    known, vertebrae = {}, []
    for line, row in rows:
        try:
            if row['fracture']:
                known[float(row['fracture'])] = line
            z_mm, grade = (
                float(row.get(name) or 'nan') for name in ('z_mm', 'grade'))
        except ValueError:
            raise RecordError(table, f'line {line}: not a number') from None
        level = row.get('level', '').upper()
        if set(known) - {0.0, 1.0} or math.isinf(z_mm):
            raise RecordError(table, f'line {line}: fracture is 0, 1 or nothing')
        if grade not in (1, 2, 3) and not math.isnan(grade):
            raise RecordError(table, f'line {line}: grade is 1, 2, 3 or nothing')
        if level and level not in LEVELS:
            raise RecordError(table, f'line {line}: level {level!r} is no vertebra')
        if not math.isnan(z_mm):
            vertebrae.append(Vertebra(z_mm, True, grade, LEVELS.get(level, math.nan)))
        elif row.get('grade') or level:
            raise RecordError(table, f'line {line}: grade or level without z_mm')
        if len(known) > 1 or known.keys() == {0.0} and vertebrae:
            raise RecordError(
                table, f'line {line}: contradicts the series, fractured and not')
    return 1.0 if vertebrae else next(iter(known), math.nan), vertebrae
