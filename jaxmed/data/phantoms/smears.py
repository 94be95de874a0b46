"""Synthetic blood smears with known truth: the embedded default for white cells.

Cells are drawn as absorbance and become a picture by Beer and Lambert: light times
exp(-absorbance). Colours, sizes and densities were measured on the SigTuple patches
(paper 002): red cells absorb as much as cytoplasm does, so brightness alone finds
neither, and the shapes follow what haematology tells a leucocyte by. The truth is
exact; a real mask is what somebody drew in steps of a few pixels.
"""

import hashlib
from typing import NamedTuple

import cv2
import numpy as np

from jaxmed.data import smears
from jaxmed.data.phantoms import blood_cells

_PATCH = 160  # up to this side a smear is a patch around one leucocyte

# Absorbance (red, green, blue) as measured on SigTuple patches, -ln(cell / light): the
# 120 patches and as many phantoms agree within 12 levels of 255 in the mean of every
# channel of slide, red cells, nuclei and cytoplasm.
_RED_CELL = np.array([0.40, 0.54, 0.35], np.float32)
_NUCLEUS = np.array([1.15, 2.35, 0.45], np.float32)
_PLATELET = np.array([0.65, 1.00, 0.25], np.float32)
_LIGHT = np.array([0.91, 0.94, 0.885], np.float32)


class Patient(NamedTuple):
    """What the smears of one patient have in common: blood, stain and microscope."""

    light: np.ndarray  # [3] in (0, 1], colour of the empty slide
    slope_yx: np.ndarray  # [2] loss of light from one side to the other
    vignette: float  # loss of light in the corners
    scale: float  # magnification, 1 for the diameters here
    blur_px: float
    sharpening: float  # what a phone's camera adds
    red_cell: np.ndarray  # [3] absorbance
    red_diameter_px: float
    red_cover: float  # share of the slide under red cells
    pallor: float  # how much paler the middle of a red cell is
    eccentricity: float
    nucleus: np.ndarray  # [3] absorbance
    cytoplasm_tint: np.ndarray  # [3] factor


def draw_patient(rng):
    """Draws how the smears of one synthetic patient look."""
    stain = rng.uniform(0.8, 1.15)
    light = _LIGHT + rng.normal(0, 0.011, 3) + rng.normal(0, 0.025)
    return Patient(
        light=np.clip(light, 0.7, 1.0),
        slope_yx=rng.uniform(-0.08, 0.08, 2),
        vignette=rng.uniform(0, 0.10),
        scale=rng.uniform(0.88, 1.12),
        blur_px=rng.uniform(0.55, 1.05),
        sharpening=rng.uniform(0.5, 1.5),
        red_cell=_RED_CELL * stain * rng.uniform(0.75, 1.2) * rng.normal(1, 0.05, 3),
        red_diameter_px=rng.uniform(25, 33),
        red_cover=rng.uniform(0.25, 0.72),
        pallor=rng.uniform(0.1, 1.0),
        eccentricity=rng.uniform(0.03, 0.13),
        nucleus=_NUCLEUS * stain * rng.normal(1, 0.07, 3),
        cytoplasm_tint=stain * rng.uniform(0.75, 1.15) * rng.normal(1, 0.07, 3),
    )


def draw_smear(rng, *, size_hw, patient=None):
    """Draws one smear and its truth.

    Up to 160 pixels a side the smear is a patch with a leucocyte near its middle, as
    the SigTuple patches are: 1 in 16 has none, 1 in 10 a touching pair. Larger ones
    have a leucocyte in every 240 x 240 pixels on average, also cut by the border.

    Args:
        rng: np.random.Generator; all that the picture depends on.
        size_hw: height and width in pixels.
        patient: Patient; None draws one.

    Returns:
        image uint8 [H, W, 3], RGB; labels int32 [H, W], 0 for background and i for
        the i-th leucocyte, 1 to their number. Touching leucocytes have two labels.
    """
    image, labels, _ = _draw(rng, size_hw, patient or draw_patient(rng))
    return image, labels


def records(*, seed, count, size_hw, tile, smears_per_patient, num_classes):
    """Yields the tiles of `count` smears, as `smears.read_pairs` does of real ones.

    Smear i is a function of (seed, i // smears_per_patient, i) alone.

    Args:
        seed: non-negative.
        count: smears.
        size_hw: of a smear.
        tile: pixels of a tile's side; (tile, tile) smears are one tile each.
        smears_per_patient: that share stain, light and patient id.
        num_classes: 1 for the leucocyte; 2 for the leucocyte and its nucleus.

    Yields:
        Record: targets uint8 [tile, tile, num_classes] in {0, 1}; case ids
        'phantom-0001' and on; the rest as in `smears.read_pairs`.
    """
    for i in range(count):
        number = i // smears_per_patient
        patient = draw_patient(np.random.default_rng([seed, 0, number]))
        rng = np.random.default_rng([seed, 1, i])
        image, labels, nuclei = _draw(rng, size_hw, patient)
        channels = np.stack([labels > 0, nuclei], axis=-1)[..., :num_classes]
        identity = hashlib.sha256(f'phantom:{seed}:{number}'.encode()).hexdigest()
        yield from smears.cut(
            image, channels.astype(np.uint8), tile=tile,
            case_id=f'phantom-{i + 1:04d}', patient_id=identity[:16],
            content_id=smears.content_id(image))


def _draw(rng, size_hw, patient):
    """Image uint8 [H, W, 3], labels int32 [H, W], nuclei bool [H, W]."""
    height, width = size_hw
    whites = _place_whites(rng, height, width, patient.scale)
    reds = _place_reds(rng, height, width, patient, whites)
    absorbance = blood_cells.red_cells(rng, height, width, patient, reds)[..., None]
    absorbance = absorbance * patient.red_cell.astype(np.float32)
    _dirt(rng, absorbance)
    slide = blood_cells.Slide(
        absorbance=absorbance, labels=np.zeros((height, width), np.int32),
        nuclei=np.zeros((height, width), bool),
        nearest=np.full((height, width), np.inf, np.float32))
    for i, (y, x, radius, kind) in enumerate(whites, 1):
        drawn = blood_cells.leucocyte(rng, y, x, radius, kind, patient)
        blood_cells.paste(slide, i, y, x, radius, drawn)
    _platelets(rng, absorbance, patient.scale)
    image = np.exp(-absorbance) * _lamp(rng, height, width, patient)
    _field_stop(rng, image, whites)
    # A cell that turned out to lie outside leaves no gap in the numbers.
    present, labels = np.unique(slide.labels, return_inverse=True)
    labels = labels.reshape(height, width) + (present[0] > 0)
    return _photograph(rng, image, patient), labels.astype(np.int32), slide.nuclei


def _place_whites(rng, height, width, scale):
    """Centres, radii and kinds of leucocytes: list of (y, x, radius, kind)."""
    shares = np.array([kind[0] for kind in blood_cells.KINDS.values()])

    def one(y, x):
        kind = str(rng.choice(list(blood_cells.KINDS), p=shares / shares.sum()))
        _, smallest, largest, *_ = blood_cells.KINDS[kind]
        return [y, x, rng.uniform(smallest, largest) / 2 * scale, kind]

    patch = max(height, width) <= _PATCH
    if patch:
        middle = np.array([height, width]) / 2 + rng.normal(0, 6, 2)
        cells = [one(*middle)] if rng.random() > 1 / 16 else []
    else:
        cells = []
        for _ in range(rng.poisson(height * width / 240.0**2)):
            cell = one(rng.uniform(0, height), rng.uniform(0, width))
            if all(np.hypot(cell[0] - y, cell[1] - x) > 1.15 * (cell[2] + radius)
                   for y, x, radius, _ in cells):
                cells.append(cell)
    for y, x, radius, _ in cells[:]:
        if rng.random() < 1 / 10:
            angle, other = rng.uniform(0, 2 * np.pi), one(0, 0)
            distance = rng.uniform(0.88, 1.0) * (radius + other[2])
            other[:2] = y + distance * np.sin(angle), x + distance * np.cos(angle)
            if all(np.hypot(other[0] - c[0], other[1] - c[1]) > 0.87 * (other[2] + c[2])
                   for c in cells):
                cells.append(other)
    return cells


def _place_reds(rng, height, width, patient, whites):
    """Centres and radii of red cells: float [n, 3] (y, x, radius).

    They press against leucocytes and seldom lie under them; among themselves they
    overlap when there are many.
    """
    radius = patient.red_diameter_px * patient.scale / 2
    margin = radius
    wanted = patient.red_cover * (height + 2 * margin) * (width + 2 * margin)
    wanted = int(wanted / (np.pi * radius**2))
    count = 4 * wanted
    points = rng.uniform(-margin, [height + margin, width + margin], (count, 2))
    radii = radius * np.clip(rng.normal(1, 0.11, count), 0.55, 1.4)
    # How near another may come, in parts of the sum of the radii.
    closeness = np.where(rng.random(count) < patient.red_cover / 2, 0.55, 0.93)
    kept = np.zeros((count + len(whites), 3))
    for i, (y, x, size, _) in enumerate(whites):
        kept[i] = y, x, size
    n = first = len(whites)
    for point, size, near in zip(points, radii, closeness):
        distance = np.hypot(kept[:n, 0] - point[0], kept[:n, 1] - point[1])
        limit = np.full(n, near)
        limit[:first] = 0.93 if near > 0.9 else 0.80
        if np.all(distance > limit * (kept[:n, 2] + size)):
            kept[n] = *point, size
            n += 1
            if n - first == wanted:
                break
    return kept[first:n]


def _platelets(rng, absorbance, scale):
    """Purple dots of a few pixels, now and then a giant one: what isn't a nucleus."""
    height, width = absorbance.shape[:2]
    for _ in range(rng.poisson(height * width / 7000.0)):
        giant = rng.random() < 0.12
        radius = scale * (rng.uniform(4.5, 8) if giant else rng.uniform(1.6, 4))
        strength = rng.uniform(0.4, 0.8) if giant else rng.uniform(0.5, 1.7)
        blood_cells.add_blob(rng, absorbance, radius, _PLATELET * strength, grain=0.3)


def _dirt(rng, absorbance):
    """Smudges of stain and dark specks."""
    parts = absorbance.shape[0] * absorbance.shape[1] / 128.0**2
    for _ in range(rng.poisson(0.10 * parts)):
        tint = np.array([0.30, 0.16, 0.12], np.float32) * rng.uniform(0.3, 1.0)
        blood_cells.add_blob(rng, absorbance, rng.uniform(6, 15), tint, grain=0.5)
    for _ in range(rng.poisson(0.15 * parts)):
        tint = np.array([1.3, 1.0, 1.2], np.float32) * rng.uniform(0.4, 1.0)
        blood_cells.add_blob(rng, absorbance, rng.uniform(0.8, 2.2), tint, grain=0.0)


def _lamp(rng, height, width, patient):
    """Light that falls on the slide: float32 [H, W, 3]."""
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    slope_y, slope_x = patient.slope_yx + rng.normal(0, 0.015, 2)
    shade = 1 - slope_y / 2 * y - slope_x / 2 * x - patient.vignette / 2 * (y**2 + x**2)
    shade = shade + 0.006 * blood_cells.clouds(rng, (height, width), 24)
    colour = patient.light * rng.normal(1, 0.01, 3)
    return (shade[..., None] * colour).astype(np.float32)


def _field_stop(rng, image, whites):
    """Darkens a corner beyond the microscope's field, seldom, clear of leucocytes."""
    if rng.random() > 0.06:
        return
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    size = max(height, width)
    reach = size * rng.uniform(1.2, 3.0)  # radius of the field
    edge = size * rng.uniform(0.40, 0.60)  # from the middle to the stop
    centre = np.array([height, width]) / 2
    centre -= (reach - edge) * blood_cells.direction(angle)
    beyond = np.hypot(y - np.float32(centre[0]), x - np.float32(centre[1])) - reach
    for cy, cx, radius, _ in whites:
        if np.hypot(cy - centre[0], cx - centre[1]) + 1.4 * radius > reach:
            return
    ragged = beyond + 0.6 * blood_cells.clouds(rng, (height, width), 10)
    dark = blood_cells.soft(ragged, 1.5)[..., None]
    # The glass bends blue away first: the rim is yellow.
    image *= 1 - np.exp(-(beyond / 4)**2)[..., None] * np.array([0.0, 0.05, 0.35])
    image *= 1 - 0.97 * dark


def _photograph(rng, image, patient):
    """Focus, a phone's sharpening, noise and JPEG: uint8 [H, W, 3]."""
    sigma = patient.blur_px * rng.uniform(0.85, 1.25)
    if rng.random() < 0.06:
        sigma += rng.uniform(0.6, 1.6)
    image = cv2.GaussianBlur(image, (0, 0), sigma)
    image += patient.sharpening * (image - cv2.GaussianBlur(image, (0, 0), 2.2))
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    image = image * 255 + cv2.GaussianBlur(noise, (0, 0), 0.7) * rng.uniform(1.5, 5)
    pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 96))]
    _, data = cv2.imencode('.jpg', np.ascontiguousarray(pixels[..., ::-1]), quality)
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])
