"""Drawn trunks with known fractures as patches: the default of vertebral fractures."""

import hashlib

import numpy as np

from jaxmed.ct.path import DETECTED, Path
from jaxmed.data import spines, volumes
from jaxmed.data.phantoms import ct_column


def records(
    *, count, seed, off_mm, box, height_mm, context_mm, shape, pixel_mm, num_patches,
    min_grade, fractured=None, spacing_mm=None, noise=1.0,
):
    """Yields scans of drawn patients, as data.spines does of real ones.

    Only what lies around the spine is drawn, on pixels of about half a patch voxel and
    slices of 1.25 mm or more, by as many processes as there are cores while this one
    cuts patches. The last three options are for sets other than the default's.

    Args:
        count: scans, one a patient.
        seed: of all of them.
        off_mm: deviation of the path from the canal's middle, as a detector's is.
        box, height_mm, context_mm, shape, pixel_mm, num_patches: of spines.make_record.
        min_grade: Genant grade from which on a vertebra counts as fractured.
        fractured: share of scans with a fractured vertebra; None for as many as
            patients and scans as they are drawn have.
        spacing_mm: from slice to slice in all scans; None for those of drawn scanners,
            1.25 to 5.
        noise: factor of the scanners' noise.

    Yields:
        Record of spines.make_record, with targets as spines.read's.

    Raises:
        ConfigError: no drawn patient has what `fractured` asks for.
    """
    settings = ct_column.Settings(
        seed=int(seed), off_mm=float(off_mm), front_mm=float(box.front_mm),
        back_mm=float(box.back_mm), half_width_mm=float(box.half_width_mm),
        pitch_mm=min((box.front_mm + box.back_mm) / shape[1],
                     2 * box.half_width_mm / shape[2]),
        min_grade=int(min_grade),
        fractured=None if fractured is None else float(fractured),
        spacing_mm=None if spacing_mm is None else float(spacing_mm),
        noise=float(noise))
    for number, drawn in enumerate(ct_column.draw_scans(settings, count)):
        name = f'spine:{seed}:{number}'.encode()
        case_id = f'phantom-{number:05d}'
        record = spines.make_record(
            _to_volume(drawn, hashlib.sha256(name).hexdigest()[:16]), _to_path(drawn),
            case_id=case_id, box=box, height_mm=height_mm, context_mm=context_mm,
            shape=shape, pixel_mm=pixel_mm, num_patches=num_patches)
        vertebrae = [
            spines.Vertebra(float(z_mm), bool(broken), float(grade), float(level))
            for z_mm, broken, grade, level in drawn.vertebrae]
        yield record | spines.label_patches(
            record, vertebrae, fracture=float(any(v.fractured for v in vertebrae)),
            where='phantom')


def _to_volume(drawn, patient_id):
    """Its slices are shifted: of the affine only heights are true in all of them."""
    x_mm, y_mm = drawn.origins_mm.mean(axis=0)
    step_mm = float(np.diff(drawn.heights_mm[:2])[0])
    affine = np.array([
        [0, 0, drawn.pixel_mm, x_mm], [0, drawn.pixel_mm, 0, y_mm],
        [step_mm, 0, 0, drawn.heights_mm[0]], [0, 0, 0, 1],
    ])
    return volumes.Volume(
        drawn.images_hu, affine, np.eye(4), drawn.images_hu.shape, patient_id,
        {'exclusion': ''})


def _to_path(drawn):
    count = len(drawn.images_hu)
    return Path(
        np.tile(drawn.place_mm[::-1], (count, 1)).astype(np.float32),
        np.ones(count, np.float32), np.full(count, DETECTED, np.int8))
