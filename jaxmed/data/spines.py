"""Labelled CT scans -> records of patches along the spine (paper 001, 2.2)."""

import itertools
import logging
import math
from collections import Counter
from pathlib import Path
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

# Least share of that region that was scanned, and of it that is bone: else a patch is
# no view of the spine, and what a network says of it would speak for the patient. Of
# the few real scans here, spines have 2.4% of bone (osteoporotic, 3 mm voxels) and
# more, what is cut before the sacrum 0.7%, and below or beside the spine 0 to 0.1%.
_LEAST_INSIDE, _LEAST_BONE = 0.5, 0.01
OUTSIDE = 'mostly outside of the scanned field'
BONELESS = 'hardly any bone where vertebral bodies should be'

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
    position: np.ndarray  # float32 [k], see make_record
    z_mm: np.ndarray  # float64 [k, 2], LPS: least and greatest, without context
    inside: np.ndarray  # float64 [k], share of the bodies' region that was scanned
    bone: np.ndarray  # float64 [k], share of the bodies' region that is bone
    skipped: tuple[str, ...]  # k: '' or why no network should judge it
    judged_mm: float  # of the spine, along it: in patches that aren't skipped
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
    for each; and of that vertebra grade (Genant: 1, 2 or 3) and level (T1 to L5); and
    patient_id, the same in all series of a patient (cohorts.Cohort.group). A
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
        dict, for the manifest: `found` of cohorts.Cohort, where scans that show none
        of their heights are 'excluded'; 'unprocessable_targets', whether these have a
        fracture, None where unknown; and 'outside', case id -> the heights that are
        left out since other ones of the scan are in it.

    Raises:
        RecordError: the table lacks a column or has no rows, a value is none, rows of a
            series contradict each other, a series is not there.
        ImageError: no scans in `source`.
    """
    cohort = Cohort(source, read=read_volume)
    table = {
        case_id: _settle(labels, rows)
        for case_id, rows in cohort.group(
            labels, columns=('fracture',), others=('z_mm', 'grade', 'level')).items()
    }
    unprocessable = cohort.found['unprocessable_targets'] = {}
    left_out = cohort.found['outside'] = {}
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
        # Labels of a whole spine beside a scan of a part of it are no mistake.
        shown = {line: vertebra for line, vertebra in vertebrae.items()
                 if _holding(record, vertebra.z_mm).any()}
        outside = ', '.join(
            f'z_mm {vertebra.z_mm:g} (line {line})'
            for line, vertebra in vertebrae.items() if line not in shown)
        if outside:
            words = f'{outside} of {Path(labels).name}: not in the scan'
            LOG.warning('%s: %s%s', case_id, '' if shown else 'left out, ', words)
            # Where none is, heights may be wrong, so 'sound' would be a guess.
            (left_out if shown else cohort.found['excluded'])[case_id] = words
            if not shown:
                continue
        yield record | label_patches(
            record, shown.values(), fracture=fracture, where=labels)
    return cohort.found


def _holding(record, z_mm):
    """The patches that a height lies in, bool [K]."""
    low_mm, high_mm = record['span_mm'].min(axis=1), record['span_mm'].max(axis=1)
    return (record['patch_mask'] > 0) & (low_mm <= z_mm) & (z_mm <= high_mm)


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
    """A scan to predict: the record of skip_patches, with `scan`.

    Args:
        file: of volumes.find_scans.
        case_id: str.
        read_volume, find_cord: of read.
        cut: keywords of make_record: box, height_mm and so on.

    Raises:
        ImageError: it can't be read, has no spine or too long a one, or the path that
            was found misses the spine everywhere.
    """
    volume = read_volume(file)
    cord = find_cord(volume, case_id)
    record = make_record(volume, cord, case_id=case_id, **cut)
    return skip_patches(record, describe_scan(record, volume, cord))


def skip_patches(record, scan):
    """A record of which a network sees only those patches that show the spine.

    Args:
        record: of make_record.
        scan: of describe_scan.

    Returns:
        The record with `scan`. Patches that `scan` skips are fillers: not in
        patch_mask, and behind the others, which keep their order.

    Raises:
        ImageError: no patch is left.
    """
    bad = np.array([bool(reason) for reason in scan.skipped])
    if bad.all():
        reasons = ', '.join(
            f'{count} {reason}' for reason, count in Counter(scan.skipped).items())
        raise ImageError(record['case_id'], f'no patch shows the spine: {reasons}')
    order = np.argsort(bad, kind='stable')
    first = np.arange(len(bad)) < len(bad) - bad.sum()
    moved = {}
    for name in ('inputs', 'patch_mask', 'position', 'span_mm', 'first_mm'):
        moved[name] = record[name].copy()
        moved[name][:len(bad)] = record[name][order]
    moved['patch_mask'][:len(bad)] = first
    return record | moved | {'scan': scan}


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
    view_rows = np.clip(ends / down, 0, len(straight.values_hu))
    bone = bone.mean(axis=(1, 2, 3))
    skipped = tuple(map(_why_skip, inside, bone))
    judged = [i for i in range(count) if not skipped[i]]
    return Scan(
        patch, bodies, _outline(frame, volume, ends), record['position'][:count],
        np.sort(record['span_mm'][:count].astype(float), axis=1), inside, bone, skipped,
        _length(view_rows[judged] * down), _to_grey(straight.values_hu.mean(axis=2)),
        (down, right), view_rows,
        tuple(float(side - straight.first_mm[1]) / right for side in BODIES_MM),
        volume.affine, volume.to_source, _describe_cord(cord, volume.spacing_mm[0]),
        dict(volume.facts))


def _why_skip(inside, bone):
    if inside < _LEAST_INSIDE:
        return OUTSIDE
    return BONELESS if bone < _LEAST_BONE else ''


def _length(spans):
    """Of the union of spans [n, 2]: neighbours may overlap."""
    total, end = 0.0, -math.inf
    for low, high in sorted(spans.tolist()):
        total += max(high - max(low, end), 0.0)
        end = max(high, end)
    return total


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
    middle_mm = record['span_mm'].mean(axis=1)
    known = fracture == 0 or any(vertebra.fractured for vertebra in vertebrae)
    broken = np.where(real & known, 0, np.nan).astype(np.float32)
    grade, level = broken.copy(), np.full_like(broken, np.nan)
    nearest_mm = np.full(len(real), np.inf)
    for vertebra in vertebrae:
        inside = _holding(record, vertebra.z_mm)
        if vertebra.fractured and not inside.any():
            raise RecordError(where, f'z_mm {vertebra.z_mm} is not in the scan '
                              f'{record["case_id"]}')
        if vertebra.fractured:
            broken[inside] = 1
            # NaN, once there, stays: the patch's highest grade is not known.
            grade[inside] = np.maximum(grade[inside], vertebra.grade)
        away_mm = np.abs(middle_mm - vertebra.z_mm)
        closer = inside & (away_mm < nearest_mm)
        nearest_mm[closer], level[closer] = away_mm[closer], vertebra.level
    return {
        'targets': np.append(np.float32(fracture), broken), 'grade': grade,
        'level': level,
    }


def _settle(table, rows):
    """(fracture or NaN, line -> fractured vertebra) of the rows of one series."""
    known, vertebrae = {}, {}
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
            vertebrae[line] = Vertebra(z_mm, True, grade, LEVELS.get(level, math.nan))
        elif row.get('grade') or level:
            raise RecordError(table, f'line {line}: grade or level without z_mm')
        if len(known) > 1 or known.keys() == {0.0} and vertebrae:
            raise RecordError(
                table, f'line {line}: contradicts the series, fractured and not')
    return 1.0 if vertebrae else next(iter(known), math.nan), vertebrae
