"""Labelled CT scans -> records of patches along the spine (paper 001, 2.2)."""

import logging
import math
from typing import NamedTuple

import numpy as np

from jaxmed.ct import column, patches
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


class Vertebra(NamedTuple):
    """What is known of a vertebra."""

    z_mm: float  # LPS, of its body's middle
    fractured: bool
    grade: float  # Genant's, 0 to 3; NaN where unknown
    level: float  # of LEVELS; NaN where unknown


def read(
    source, *, labels, read_volume, find_cord, box, height_mm, shape, pixel_mm,
    num_patches,
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
        box, height_mm, shape, pixel_mm, num_patches: of make_record.

    Yields:
        Record, see make_record.

    Returns:
        dict, for the manifest: `found` of cohorts.Cohort.

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
    for case_id, (fracture, vertebrae) in table.items():
        volume = cohort.read(case_id)
        record = volume and cohort.attempt(case_id, lambda: make_record(
            volume, find_cord(volume, case_id), case_id=case_id, box=box,
            height_mm=height_mm, shape=shape, pixel_mm=pixel_mm,
            num_patches=num_patches,
        ))
        if record is None:
            continue
        yield record | label_patches(
            record, vertebrae, fracture=fracture, where=labels)
    return cohort.found


def make_record(
    volume, cord, *, case_id, box, height_mm, shape, pixel_mm, num_patches
):
    """The patches of a scan, in HU.

    Args:
        volume: data.volumes.Volume.
        cord: ct.path.Path.
        case_id: str.
        box: ct.column.Box.
        height_mm, shape, pixel_mm: of ct.patches.Tiling.
        num_patches: K that all records have; fillers are 0.

    Returns:
        Record: inputs int16 HU [K, pH, pW, pZ]; patch_mask float32 [K], 1 for a patch;
        position float32 [K]; span_mm float32 [K, 2], LPS z at the middle of the upper
        and the lower end of each patch; first_mm float32 [K, 3] and pitch_mm float32
        [3] of ct.patches.Patches; slice_mm float32 [], between the scan's slices.

    Raises:
        ImageError: more than `num_patches` patches.
    """
    frame = column.make_frame(cord, spacing_mm=volume.spacing_mm)
    tiling = patches.Tiling(
        height_mm, tuple(shape), pixel_mm, (_LOW_HU + _HIGH_HU) / 2, _HIGH_HU - _LOW_HU
    )
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
    ends[:, 0, 0] = first_mm[:, 0]
    ends[:, 1, 0] = first_mm[:, 0] + shape[0] * pitch_mm[0]
    voxels = np.asarray(column.column_to_voxel(frame, ends))
    span_mm = column.voxel_to_patient(volume.affine, voxels)[..., 2]
    fill = num_patches - count

    def pad(x):
        return np.pad(x, [(0, fill)] + [(0, 0)] * (x.ndim - 1))

    return {
        'inputs': pad(inputs), 'patch_mask': pad(np.ones(count, np.float32)),
        'position': pad(np.asarray(cut.position, np.float32)[:count]),
        'span_mm': pad(span_mm.astype(np.float32)), 'first_mm': pad(first_mm),
        'pitch_mm': pitch_mm, 'slice_mm': np.float32(volume.spacing_mm[0]),
        'example_id': case_id, 'case_id': case_id,
        'patient_id': volume.patient_id, 'content_id': identity.content_id(inputs),
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
