"""Drawn trunks with known fractures as patches: the default of vertebral fractures."""

import hashlib

import numpy as np

from jaxmed.ct.path import DETECTED, Path
from jaxmed.data import spines, volumes
from jaxmed.data.phantoms import ct

_MARGIN_MM = 10.0  # drawn around the box that patches are cut from
_PIXEL_MM = 1.2


def records(
    *, count, seed, off_mm, box, height_mm, shape, pixel_mm, num_patches, min_grade
):
    """Yields scans of drawn patients, as data.spines does of real ones.

    Only what lies around the spine is drawn.

    Args:
        count: scans, one a patient.
        seed: of all of them.
        off_mm: deviation of the path from the canal's middle, as a detector's is.
        box, height_mm, shape, pixel_mm, num_patches: of spines.make_record.
        min_grade: Genant grade from which on a vertebra counts as fractured.

    Yields:
        Record of spines.make_record, with targets as spines.read's.
    """
    drawn = 0
    while drawn < count:
        rng = np.random.default_rng((seed, drawn, 1))
        patient, scanner = ct.draw_patient(rng), ct.draw_scanner(rng)
        scan = _draw(patient, scanner, rng, off_mm, box)
        name = f'spine:{seed}:{drawn}'.encode()
        volume = scan[0]._replace(patient_id=hashlib.sha256(name).hexdigest()[:16])
        record = spines.make_record(
            volume, scan[1], case_id=f'phantom-{drawn:05d}', box=box,
            height_mm=height_mm, shape=shape, pixel_mm=pixel_mm,
            num_patches=num_patches,
        )
        low, high = record['span_mm'][record['patch_mask'] > 0][[-1, 0], [1, 0]]
        vertebrae = [
            spines.Vertebra(v.centre_mm[2], v.grade >= min_grade, v.grade, v.label)
            for v in ct.find_vertebrae(patient, scanner)
            if low < v.centre_mm[2] < high
        ]
        yield record | spines.label_patches(
            record, vertebrae, fracture=float(any(v.fractured for v in vertebrae)),
            where='phantom')
        drawn += 1


def _draw(patient, scanner, rng, off_mm, box):
    """(Volume of the surroundings of the canal, Path)."""
    low, high = ct.scan_range(patient, scanner)
    heights = np.arange(low, high + 1e-6, scanner.spacing_mm)
    centres = np.array([
        ct.canal_centre(patient, scanner, z_mm) for z_mm in heights])
    middle = centres.mean(axis=0)
    reach = np.abs(centres - middle).max(axis=0) + _MARGIN_MM  # x, y
    x0, x1 = middle[0] - reach[0] - box.half_width_mm, middle[0] + reach[0] + (
        box.half_width_mm)
    y0, y1 = middle[1] - reach[1] - box.front_mm, middle[1] + reach[1] + box.back_mm
    sides = int((y1 - y0) / _PIXEL_MM), int((x1 - x0) / _PIXEL_MM)
    slices = np.stack([
        ct.render_slice(
            patient, scanner._replace(padding=None), z_mm, shape=sides,
            spacing_mm=_PIXEL_MM, origin_mm=np.array([x0, y0]),
        ).image_hu for z_mm in heights
    ])
    affine = np.array([
        [0, 0, _PIXEL_MM, x0], [0, _PIXEL_MM, 0, y0],
        [scanner.spacing_mm, 0, 0, heights[0]], [0, 0, 0, 1],
    ])
    volume = volumes.Volume(
        slices, affine, np.eye(4), slices.shape, '', {'exclusion': ''})
    # A detector looks every 30 mm and is a little off.
    knots = np.arange(low, high + 30, 30)
    off = np.stack([
        np.interp(heights, knots, rng.normal(0, off_mm, len(knots))) for _ in range(2)
    ], axis=1)
    places = (centres - [x0, y0] + off)[:, ::-1]
    return volume, Path(
        places.astype(np.float32), np.ones(len(heights), np.float32),
        np.full(len(heights), DETECTED, np.int8),
    )
