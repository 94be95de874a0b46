"""Blood cells as absorbance: what `phantoms.smears` puts on a slide.

A cell is drawn on a grid of its own. Its outline is a table of radii by angle, so
that `depth`, the distance from the middle in parts of the outline's radius, tells
inside (below 1) from outside and how far from the border.
"""

from typing import NamedTuple

import cv2
import numpy as np

_ANGLES = 128  # outlines are tables of so many radii

# Kind: share of leucocytes, diameter in px from and to, absorbance of the cytoplasm,
# its grain in parts of that, size of a grain in px. Shares are flatter than in blood,
# where 1 in 200 is a basophil.
KINDS = {
    'neutrophil': (0.40, 50, 66, (0.30, 0.46, 0.15), 0.19, 2),
    'band': (0.10, 52, 68, (0.30, 0.46, 0.17), 0.16, 2),
    'lymphocyte': (0.26, 38, 56, (0.36, 0.35, 0.13), 0.06, 5),
    'monocyte': (0.10, 58, 74, (0.38, 0.46, 0.19), 0.11, 3),
    'eosinophil': (0.09, 52, 66, (0.27, 0.58, 0.33), 0.26, 3),
    'basophil': (0.05, 46, 60, (0.45, 0.75, 0.22), 0.22, 4),
}


class Slide(NamedTuple):
    """What is on the slide so far and the truth about it."""

    absorbance: np.ndarray  # float32 [H, W, 3]
    labels: np.ndarray  # int32 [H, W], number of the leucocyte
    nuclei: np.ndarray  # bool [H, W]
    nearest: np.ndarray  # float32 [H, W], depth in the cell that owns the pixel


def red_cells(rng, height, width, patient, reds):
    """Absorbance of all red cells, float32 [H, W], 1 for the body of a usual one."""
    total = np.zeros((height, width), np.float32)
    n = len(reds)
    if not n:
        return total
    half = int(np.ceil(reds[:, 2].max() * 1.45)) + 1
    corner = np.floor(reds[:, :2]).astype(int) - half
    steps = np.arange(2 * half + 1, dtype=np.float32)
    y = steps[None, :, None] + (corner[:, 0] - reds[:, 0])[:, None, None]
    x = steps[None, None, :] + (corner[:, 1] - reds[:, 1])[:, None, None]
    y, x = y.astype(np.float32), x.astype(np.float32)
    amplitudes = np.array([patient.eccentricity, 0.025, 0.018, 0.010])
    outlines = _outlines(rng, n, amplitudes)
    spiky = rng.random(n) < 0.03
    angles = np.linspace(0, 2 * np.pi, _ANGLES, endpoint=False)
    outlines[spiky] *= 1 + 0.07 * np.sin(angles * 11 + rng.uniform(0, 6))
    radius = reds[:, 2].astype(np.float32)[:, None, None]
    depth = _depth(y, x, outlines) / radius
    shift = rng.normal(0, 0.13, (2, n, 1, 1)).astype(np.float32)
    middle = ((y / radius - shift[0])**2 + (x / radius - shift[1])**2)
    wide = rng.uniform(0.35, 0.70, (n, 1, 1)).astype(np.float32)
    pallor = np.clip(rng.normal(patient.pallor, 0.2, (n, 1, 1)), 0, 0.95)
    body = 1 - pallor.astype(np.float32) * np.exp(-(middle / wide**2)**1.5)
    rim = 0.22 * np.exp(-((depth - 0.9) / 0.09)**2)
    dark = np.where(rng.random((n, 1, 1)) < 0.04, 1.6, rng.normal(1, 0.10, (n, 1, 1)))
    cells = (body + rim) * soft((1 - depth) * radius) * dark.astype(np.float32)
    for cell, (top, left) in zip(cells, corner):
        inside, part = _clip(top, left, cell.shape, total.shape)
        total[inside] += cell[part]
    # Two cells on each other absorb less than their sum: both are thinner there.
    return 1.7 * np.tanh(total / 1.7)


def leucocyte(rng, cy, cx, radius, kind, patient):
    """One leucocyte on its own grid: depth, nucleus and absorbance.

    Returns:
        depth float32 [h, w], 1 on the outline, less inside; nucleus float32 [h, w]
        in [0, 1]; absorbance float32 [h, w, 3] of the cell alone.
    """
    _, _, _, colour, grain, grain_px = KINDS[kind]
    half = int(np.ceil(radius * 1.5)) + 1
    top, left = int(np.floor(cy)) - half, int(np.floor(cx)) - half
    y, x = np.mgrid[:2 * half + 1, :2 * half + 1].astype(np.float32)
    y, x = y + np.float32(top - cy), x + np.float32(left - cx)
    shape = y.shape
    # Neighbours dent a leucocyte: the whole grid is bent, by up to two pixels or so.
    y = y + clouds(rng, shape, 12) * 0.035 * radius
    x = x + clouds(rng, shape, 12) * 0.035 * radius
    outlines = _outlines(rng, 1, np.array([0.05, 0.03, 0.025, 0.012]))
    angles = np.linspace(0, 2 * np.pi, _ANGLES, endpoint=False)
    if rng.random() < 0.25:  # a foot of cytoplasm on one side
        away = np.angle(np.exp(1j * (angles - rng.uniform(0, 2 * np.pi))))
        outlines *= 1 + rng.uniform(0.1, 0.28) * np.exp(-(away / 0.45)**2)
    depth = _depth(y[None], x[None], outlines)[0] / radius
    nucleus = _nucleus(rng, kind, y / radius, x / radius) * radius
    # No nucleus leaves its cell: it ends where half a pixel of cytoplasm is left.
    nucleus = np.minimum(-nucleus, (1 - depth) * radius - 0.5)
    nucleus = soft(nucleus, 0.9)

    base = np.asarray(colour, np.float32) * patient.cytoplasm_tint.astype(np.float32)
    base = base * rng.uniform(0.6, 1.15)  # some are hardly darker than the slide
    grains = 1 + grain * clouds(rng, shape, grain_px)
    grains += 0.12 * clouds(rng, shape, 14)
    if kind == 'monocyte':  # vacuoles
        grains -= 0.8 * (clouds(rng, shape, 6) > 1.9)
    cytoplasm = base * np.clip(grains, 0.15, 2.5)[..., None]
    chromatin = 1 + 0.10 * clouds(rng, shape, 3) + 0.07 * clouds(rng, shape, 9)
    dark = patient.nucleus * rng.normal(1, 0.08)
    if kind == 'lymphocyte':
        dark = dark * rng.uniform(0.65, 1.1)
    dark = dark.astype(np.float32) * np.clip(chromatin, 0.6, 1.5)[..., None]
    absorbance = cytoplasm + (dark - cytoplasm) * nucleus[..., None]
    if kind == 'basophil':  # granules cover the nucleus too
        granules = soft((clouds(rng, shape, 4) - 0.8) * 4)[..., None]
        absorbance = absorbance + 0.7 * granules * (patient.nucleus - absorbance)
    return depth.astype(np.float32), nucleus, absorbance.astype(np.float32)


def _nucleus(rng, kind, y, x):
    """Signed distance to the nucleus, negative inside, in radii of the cell.

    A chain of capsules (thick lines with a radius at each end) makes every type:
    one for a lymphocyte, a thick arc for a monocyte, lobes and thin bridges for the
    granulocytes.
    """
    turn = rng.uniform(0, 2 * np.pi)
    if kind == 'lymphocyte':
        size, length = rng.uniform(0.74, 0.93), rng.uniform(0, 0.22)
        centre = rng.uniform(0, 1.0) * (1 - size) * direction(turn)
        along = length / 2 * direction(rng.uniform(0, 2 * np.pi))
        ends = np.stack([centre - along, centre + along])
        radii, thin = np.full(2, size - length / 2), None
    elif kind in ('monocyte', 'band'):
        band = kind == 'band'
        span = rng.uniform(3.2, 5.2) if band else rng.uniform(1.6, 3.6)
        at = turn + np.linspace(0, span, 7)
        ends = (rng.uniform(0.40, 0.50) if band else rng.uniform(0.30, 0.42))
        ends = ends * direction(at) + rng.normal(0, 0.08, 2)
        radii = rng.uniform(0.17, 0.24) if band else rng.uniform(0.27, 0.36)
        radii, thin = radii * rng.uniform(0.85, 1.2, 7), None
    else:
        lobes = {'neutrophil': rng.integers(2, 6), 'eosinophil': 2}.get(kind, 3)
        span = rng.uniform(2.4, 4.6) if lobes > 2 else rng.uniform(2.4, 3.3)
        at = turn + np.linspace(0, span, lobes) + rng.normal(0, 0.12, lobes)
        ends = rng.uniform(0.36, 0.50) * direction(at) + rng.normal(0, 0.05, 2)
        size = {2: 0.37, 3: 0.31, 4: 0.27, 5: 0.25}[int(lobes)]
        size *= 1.15 if kind == 'basophil' else 1.0
        radii = size * rng.uniform(0.8, 1.15, lobes)
        thin = rng.uniform(0.06, 0.12)
    starts, stops = ends[:-1], ends[1:]
    r0, r1 = radii[:-1], radii[1:]
    if thin is not None:
        bridge = np.full(len(starts), thin)
        lean = np.stack([direction(a) for a in rng.uniform(0, 6.3, len(ends))])
        lean *= 0.35 * radii[:, None]  # lobes are longer than wide
        starts = np.concatenate([starts, ends - lean])
        stops = np.concatenate([stops, ends + lean])
        r0 = r1 = np.concatenate([bridge, radii * 0.85])
    distance = [
        _capsule(y, x, *segment) for segment in zip(starts, stops, r0, r1)
    ]
    # A soft minimum rounds the corners where capsules meet.
    sharpness = 22.0
    return -np.log(sum(np.exp(-sharpness * d) for d in distance)) / sharpness


def _capsule(y, x, start, stop, radius0, radius1):
    along = (stop - start).astype(np.float32)
    length = max(float(along @ along), 1e-6)
    dy, dx = y - np.float32(start[0]), x - np.float32(start[1])
    t = np.clip((dy * along[0] + dx * along[1]) / np.float32(length), 0, 1)
    distance = np.hypot(dy - t * along[0], dx - t * along[1])
    return distance - np.float32(radius0) - t * np.float32(radius1 - radius0)


def paste(slide, label, cy, cx, radius, drawn):
    """Lays a leucocyte over what is there; two that meet share a border half way.

    Args:
        slide: Slide, changed in place.
        label: number of the cell.
        cy, cx, radius: as given to `leucocyte`.
        drawn: what `leucocyte` returned.
    """
    depth, nucleus, absorbance = drawn
    half = depth.shape[0] // 2
    inside, part = _clip(
        int(np.floor(cy)) - half, int(np.floor(cx)) - half, depth.shape,
        slide.labels.shape)
    depth, before = depth[part], slide.nearest[inside]
    edge = np.minimum(1 - depth, (before - depth) / 2) * radius
    below = slide.absorbance[inside]
    below += soft(edge, 1.0)[..., None] * (absorbance[part] - below)
    wins = (depth < 1) & (depth < before)
    slide.labels[inside][wins] = label
    slide.nuclei[inside][wins] = nucleus[part][wins] > 0.5
    slide.nearest[inside] = np.minimum(before, depth)


def add_blob(rng, absorbance, radius, colour, *, grain):
    """Adds a roundish spot at a random place."""
    height, width = absorbance.shape[:2]
    half = int(np.ceil(radius * 1.5)) + 2
    # The clearest of three places: most of these lie between the cells.
    places = rng.uniform(0, [height, width], (3, 2))
    cy, cx = min(places, key=lambda at: absorbance[int(at[0]), int(at[1]), 1])
    top, left = int(cy) - half, int(cx) - half
    y, x = np.mgrid[:2 * half + 1, :2 * half + 1].astype(np.float32)
    outlines = _outlines(rng, 1, np.array([0.09, 0.05, 0.03, 0.02]))
    y, x = y[None] + np.float32(top - cy), x[None] + np.float32(left - cx)
    depth = _depth(y, x, outlines)[0]
    spot = soft(radius - depth) * (1 + grain * clouds(rng, depth.shape, 3))
    inside, part = _clip(top, left, spot.shape, (height, width))
    absorbance[inside] += np.maximum(spot[part], 0)[..., None] * colour


def _outlines(rng, count, amplitudes):
    """Random closed outlines around radius 1: float32 [count, _ANGLES].

    Args:
        amplitudes: [k], typical size of the harmonics 2 (an ellipse) to k + 1.
    """
    angles = np.linspace(0, 2 * np.pi, _ANGLES, endpoint=False)
    orders = np.arange(2, 2 + len(amplitudes))
    sizes = rng.rayleigh(amplitudes, (count, len(orders)))
    phases = rng.uniform(0, 2 * np.pi, (count, len(orders)))
    waves = sizes[..., None] * np.cos(orders[:, None] * angles + phases[..., None])
    # The second one as a true ellipse: 1 + a cos would have a waist.
    ellipse = (1 - 2 * np.clip(waves[:, 0], -0.33, 0.33))**-0.5
    return (ellipse * (1 + waves[:, 1:].sum(1))).astype(np.float32)


def _depth(y, x, outlines):
    """Distance from the middle in parts of the outline's radius: [n, h, w]."""
    # OpenCV's angle is several times faster than NumPy's, and good to 0.3 degrees.
    y, x = (np.ascontiguousarray(a) for a in np.broadcast_arrays(y, x))
    distance, angle = cv2.cartToPolar(x.reshape(len(x), -1), y.reshape(len(y), -1))
    place = (angle * (_ANGLES / (2 * np.pi))).astype(np.int32) % _ANGLES
    radius = np.take_along_axis(outlines, place, axis=1)
    return (distance / radius).reshape(x.shape)


def clouds(rng, shape, pixel):
    """Smooth noise with features of about `pixel` pixels: float32, deviation near 1."""
    rows, columns = (side // pixel + 3 for side in shape)
    coarse = rng.standard_normal((rows, columns), dtype=np.float32)
    # Cubic interpolation takes about a third of the deviation away.
    clouds = cv2.resize(
        coarse, (columns * pixel, rows * pixel), interpolation=cv2.INTER_CUBIC)
    y, x = rng.integers(0, pixel, 2) + pixel // 2
    return 1.4 * clouds[y:y + shape[0], x:x + shape[1]]


def soft(distance, width=0.8):
    """Smooth step from 0 outside to 1 inside; `distance` in px, positive inside."""
    return 1 / (1 + np.exp(np.clip(-distance / width, -30, 30)))


def _clip(top, left, shape, size_hw):
    """Slices of a picture and of a stamp laid on it at (top, left)."""
    inside, part = [], []
    for start, length, limit in zip((top, left), shape, size_hw):
        low, high = max(start, 0), max(min(start + length, limit), 0)
        inside.append(slice(low, max(high, low)))
        part.append(slice(low - start, max(high, low) - start))
    return tuple(inside), tuple(part)


def direction(angle):
    return np.stack([np.sin(angle), np.cos(angle)], axis=-1)
