"""Labelled CT scans -> records of patches along the spine (paper 001, 2.2)."""

import logging

import numpy as np

from jaxmed.ct import column, patches
from jaxmed.data import identity
from jaxmed.data.cohorts import Cohort
from jaxmed.errors import ImageError, RecordError

LOG = logging.getLogger('jaxmed')

# Patches are cut without the network's window, which is of the model: these limits
# hold all of a scan's HU but metal.
_LOW_HU, _HIGH_HU = -1024.0, 3072.0


def read(
    source, *, labels, read_volume, find_cord, box, height_mm, shape, pixel_mm,
    num_patches,
):
    """Yields one record a scan that the table names.

    The table is a CSV with the columns series (path of the scan in `source`, with or
    without its suffix) and fracture (1, 0, or nothing where it is unknown), and perhaps
    z_mm: the height of a fractured vertebra in the patient's LPS coordinates, one row
    for each. A series with fracture 0 has no fractured patch; one with heights has
    those patches fractured that they lie in; of others the patches are unknown.

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
    for case_id, (fracture, heights_mm) in table.items():
        volume = cohort.read(case_id)
        record = volume and cohort.attempt(case_id, lambda: make_record(
            volume, find_cord(volume, case_id), case_id=case_id, box=box,
            height_mm=height_mm, shape=shape, pixel_mm=pixel_mm,
            num_patches=num_patches,
        ))
        if record is None:
            continue
        targets = np.full(1 + num_patches, np.nan, np.float32)
        targets[0] = fracture
        if fracture == 0:
            targets[1:] = np.where(record['patch_mask'] > 0, 0, np.nan)
        elif heights_mm:
            targets[1:] = label_patches(record, heights_mm, where=labels)
        yield record | {'targets': targets}
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
        [3] of ct.patches.Patches.

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
        'pitch_mm': pitch_mm, 'example_id': case_id, 'case_id': case_id,
        'patient_id': volume.patient_id, 'content_id': identity.content_id(inputs),
    }


def label_patches(record, heights_mm, *, where):
    """1 for the patches that a height lies in, 0 for the others, NaN for fillers.

    Raises:
        RecordError: a height lies in no patch.
    """
    targets = np.where(record['patch_mask'] > 0, 0, np.nan).astype(np.float32)
    for z_mm in heights_mm:
        inside = (record['span_mm'].min(axis=1) <= z_mm) & (
            record['span_mm'].max(axis=1) >= z_mm) & (record['patch_mask'] > 0)
        if not inside.any():
            raise RecordError(
                where, f'z_mm {z_mm} is not in the scan {record["case_id"]}')
        targets[inside] = 1
    return targets


def _settle(table, rows):
    """(fracture or NaN, heights) of the rows of one series."""
    known, heights_mm = {}, []
    for line, row in rows:
        try:
            text = row['fracture']
            if text:
                known[float(text)] = line
            if row.get('z_mm'):
                heights_mm.append(float(row['z_mm']))
        except ValueError:
            raise RecordError(table, f'line {line}: not a number') from None
        if set(known) - {0.0, 1.0} or not np.all(np.isfinite(heights_mm)):
            raise RecordError(table, f'line {line}: fracture is 0, 1 or nothing')
        if len(known) > 1 or known.keys() == {0.0} and heights_mm:
            raise RecordError(
                table, f'line {line}: contradicts the series, fractured and not')
    return (1.0 if heights_mm else next(iter(known), np.nan)), heights_mm
