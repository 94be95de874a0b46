"""Axial slices of drawn trunks with the canal's box: the detector's own default."""

import hashlib

import numpy as np

from jaxmed.ct.axial import AIR_HU
from jaxmed.data import canals, identity
from jaxmed.data.phantoms import ct


def records(*, count, seed, slices_per_patient, size_px, pixel_mm):
    """Yields slices of drawn patients, as data.canals does of real ones.

    Args:
        count: slices.
        seed: of all of them.
        slices_per_patient: consecutive records of one patient in one scanner, evenly
            spread over the scan.
        size_px, pixel_mm: of ct.axial.resample.

    Yields:
        Record of canals.make_record.
    """
    for number in range(count):
        drawn, place = divmod(number, slices_per_patient)
        if place == 0:
            rng = np.random.default_rng((seed, drawn))
            patient, scanner = ct.draw_patient(rng), ct.draw_scanner(rng)
            low, high = ct.scan_range(patient, scanner)
            steps = (np.arange(slices_per_patient) + rng.random()) / slices_per_patient
            heights = low + steps * (high - low)
        square, box = _render(patient, scanner, heights[place], size_px, pixel_mm)
        name = f'trunk:{seed}:{drawn}'.encode()
        yield canals.make_record(
            square, box, case_id=f'phantom-{drawn:05d}/{place:02d}',
            patient_id=hashlib.sha256(name).hexdigest()[:16],
            content_id=identity.content_id(square),
        )


def _render(patient, scanner, z_mm, size_px, pixel_mm):
    """(int16 [S, S], (y0, x0, y1, x1) or None): the middle of a scanner's picture.

    Drawn at the detector's pixel size; the scanner's smaller pixels would only be
    averaged again.
    """
    view = ct.field_of_view(patient, scanner)
    sides_mm = np.array(view.shape[::-1]) * view.spacing_mm
    middle_mm = view.origin_mm + (sides_mm - view.spacing_mm) / 2
    drawn = ct.render_slice(
        patient, scanner._replace(padding=None), z_mm, shape=(size_px, size_px),
        spacing_mm=pixel_mm, origin_mm=middle_mm - pixel_mm * (size_px - 1) / 2,
    )
    offsets_mm = (np.arange(size_px) - (size_px - 1) / 2) * pixel_mm
    image = drawn.image_hu
    if scanner.padding is not None:  # beyond the circle that was reconstructed
        far = np.hypot(offsets_mm[:, None], offsets_mm) > sides_mm.max() / 2
        image = np.where(far, np.int16(max(scanner.padding, AIR_HU)), image)
    seen = [np.abs(offsets_mm) <= side / 2 for side in sides_mm]
    image = np.where(seen[1][:, None] & seen[0], image, np.int16(AIR_HU))
    box = drawn.box
    if box is not None:
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        inside = seen[0][min(int(x), size_px - 1)] and seen[1][min(int(y), size_px - 1)]
        box = (box[1], box[0], box[3], box[2]) if inside else None
    return image, box
