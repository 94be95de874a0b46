"""Synthetic scanners for CT: geometry, table, metal, kernel and noise."""

from typing import NamedTuple

import cv2
import numpy as np

from jaxmed.data.phantoms import ct_anatomy as anatomy
from jaxmed.data.phantoms.ct_bones import cage
from jaxmed.data.phantoms.ct_organs import wall
from jaxmed.data.phantoms.ct_shapes import blob, cover, paint

AIR = -1000.0  # HU
_LEAST, _MOST = -1024, 3071
_USUAL_MM = 0.7  # pixels that Scanner.noise_hu is told for


class Scanner(NamedTuple):
    """How one scan is made, and how the patient lies in it."""

    spacing_mm: float  # from slice to slice
    thickness_mm: float  # of what a slice averages
    shape: tuple  # (H, W) of a slice
    field_mm: float  # width of the picture
    offset_mm: np.ndarray  # [2] of its middle from the trunk's, x and y
    levels: tuple  # top and bottom of the scan, as levels of `ct_anatomy`
    angles: np.ndarray  # [3] degrees: turned about z, tilted about x, leaning about y
    shift_mm: np.ndarray  # [3] of the patient's origin, LPS
    noise_hu: float  # deviation, of a slice through a usual chest
    streaks: float  # how much noisier rays through shoulders and hips are
    blur_mm: float  # deviation of the kernel
    sharpening: float  # 0 for soft kernels
    gain: float  # of HU above air, 1 if calibrated
    arms: np.ndarray  # [6], see `ct_bones.arm_axis`
    contrast: np.ndarray  # [4] HU in arteries, veins, organs and bowel
    table: np.ndarray  # [5] gap, radius of its curve, thickness, HU of shell and foam
    blanket_hu: float  # of a cover on the patient; air for none
    metal: str  # '', 'screws', 'cement', 'wires' or 'leads'
    metal_level: float
    padding: int | None  # value outside the circle that was reconstructed; None: none
    seed: int  # of the noise


def draw_scanner(rng):
    """Draws a scanner, its settings and how a patient is laid in it.

    Args:
        rng: np.random.Generator; the scanner is a function of its state alone.

    Returns:
        Scanner.
    """
    spacing = float(rng.choice([0.7, 1, 1.25, 1.5, 2, 2.5, 3, 5], p=[
        .05, .15, .15, .1, .15, .15, .15, .1]))
    side = int(rng.choice([512, 512, 512, 512, 400, 384, 320, 256]))
    height = side if rng.random() < 0.85 else int(side * rng.uniform(0.6, 1))
    low = rng.random() < 0.3  # pelvis included
    top = rng.choice([rng.uniform(5.5, 9), rng.uniform(14, 18), rng.uniform(6, 20)])
    bottom = rng.choice([rng.uniform(24, 28), rng.uniform(19, 23),
                         rng.uniform(min(top + 4, 26), 28)])
    raised = float(rng.random() < 0.65)
    phase = rng.random()
    arteries = 0.0 if phase < 0.35 else rng.uniform(30, 330)
    veins = arteries * rng.uniform(0.1, 1.0)
    bowel = rng.uniform(150, 900) if rng.random() < 0.3 else 0.0
    odd = rng.random() < 0.15
    return Scanner(
        spacing_mm=spacing,
        thickness_mm=spacing * (rng.uniform(1, 1.6) if rng.random() < 0.3 else 1.0),
        shape=(height, side),
        field_mm=rng.uniform(*((230, 330) if rng.random() < 0.12 else (320, 500))),
        offset_mm=rng.normal(0, 12, 2) * (1 + 2 * (rng.random() < 0.1)),
        levels=(float(top), float(31 if low else max(bottom, top + 3))),
        angles=np.array([np.clip(rng.normal(0, 5 if odd else 2.5), -12, 12),
                         np.clip(rng.normal(0, 4 if odd else 2), -10, 10),
                         np.clip(rng.normal(0, 4 if odd else 2), -10, 10)]),
        shift_mm=rng.uniform(-1, 1, 3) * (30, 30, 400),
        noise_hu=float(rng.choice([0, 1], p=[.08, .92])
                       * min(np.exp(rng.normal(2.7, 0.7)), 70)),
        streaks=rng.uniform(0, 1.0),
        blur_mm=rng.uniform(0.2, 1.1),
        sharpening=max(rng.normal(0.0, 0.9), 0.0),
        gain=rng.normal(1.0, 0.015),
        arms=np.array([raised, rng.uniform(-0.7, 1.0), rng.normal(0, 10),
                       rng.normal(0, 12), rng.uniform(-5, 35), rng.uniform(-10, 60)]),
        contrast=np.array([arteries, veins, veins * rng.uniform(0.2, 0.6), bowel]),
        table=np.array([rng.uniform(0, 12), rng.uniform(200, 900),
                        rng.uniform(0.8, 4.5), rng.uniform(-700, 500),
                        rng.uniform(-990, -850)]),
        blanket_hu=rng.uniform(-950, -600) if rng.random() < 0.3 else AIR,
        metal=str(rng.choice(['', 'screws', 'cement', 'wires', 'leads'],
                             p=[.76, .06, .05, .06, .07])),
        metal_level=rng.uniform(9, 24),
        padding=(None, -1024, -2000, -2048, -3024, 0)[
            rng.choice(6, p=[.4, .2, .15, .1, .1, .05])],
        seed=int(rng.integers(2**31)),
    )


def rotation(angles):
    """[3, 3]: patient -> scanner, of turn about z, tilt about x and lean about y."""
    (cz, cx, cy), (sz, sx, sy) = np.cos(np.radians(angles)), np.sin(np.radians(angles))
    turn = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    lean = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    return turn @ tilt @ lean


def paint_table(section, image, scanner, z_mm, spacing_mm, origin_mm):
    patient = section.patient
    gap, radius, thick, shell, foam = scanner.table
    # The lowest part of the back lies on it.
    lowest = -np.inf
    turned = rotation(scanner.angles)
    for level in (11, 14, 17, 20, 23, 26):
        z = float(anatomy.z_of_level(patient, level))
        y = np.interp(z, patient.canal.z_mm, patient.canal.y_mm)
        y = y + 0.97 * (52 * patient.size + patient.back_fat_mm + 2)
        x = np.interp(z, patient.canal.z_mm, patient.canal.x_mm)
        lowest = max(lowest, (turned @ (x, y, z) + scanner.shift_mm)[1])
    top = lowest + gap
    rows, columns = image.shape
    y = origin_mm[1] + spacing_mm * np.arange(rows, dtype=np.float32)[:, None]
    x = origin_mm[0] + spacing_mm * np.arange(columns, dtype=np.float32)[None]
    x = x - np.float32(scanner.shift_mm[0])
    first = max(int((top - 90 - origin_mm[1]) / spacing_mm), 0)
    if first >= rows:
        return
    y = y[first:]
    # A trough: its bed bends up to the sides, its bottom is flatter.
    bed = y - np.float32(top) + x * x / np.float32(2 * radius)
    floor = y - np.float32(top + 45) + x * x / np.float32(6 * radius)
    inside = np.maximum(np.maximum(-bed, floor), np.abs(x) - 215)
    part = image[first:]
    paint(part, shell, cover(inside, max(spacing_mm, 1.0)))
    paint(part, foam, cover(inside + thick, max(spacing_mm, 1.0)))


def paint_metal(section, image, scanner):
    patient, level = section.patient, section.level
    size = patient.size
    spots = []
    here = abs(level - scanner.metal_level) < 2.2
    _, _, _, _, wide, deep, _ = section.canal
    if scanner.metal == 'screws' and here:
        for sign in (-1, 1):
            out = sign * (wide + 5 * size)
            spots.append((3200, (out * 1.15, deep + 22 * size), (3.0, 3.0)))
            if abs(level - round(level)) < 0.13:
                for t in np.linspace(0, 1, 9):
                    spots.append((3200, (out * (1.15 - 0.45 * t), deep + 20 * size
                                         - t * 60 * size), (2.6, 3.2)))
    elif scanner.metal == 'cement' and abs(level - round(scanner.metal_level)) < 0.28:
        half = np.interp(level, range(5, 28), patient.spine.half_depth)
        spots.append((1600, (4 * np.sin(level * 20), -deep - half * size),
                      (9 * size, 7 * size)))
    elif scanner.metal == 'wires' and 10.5 < level < 16 and level % 1 < 0.25:
        _, centre, radii = cage(section)
        spots.append((2800, (3, centre[1] - radii[1] - 3), (4.0, 1.5)))
    elif scanner.metal == 'leads' and 9 < level < 18:
        centre, radii = wall(section)
        spots.append((2500, (70 * np.sin(level), centre[1] - radii[1]
                             - patient.fat_mm - 3), (2.0, 1.5)))
    for value, centre, radii in spots:
        blob(section, image, value, centre, radii)
    if spots and scanner.metal == 'screws':
        for sign in (-1, 1):
            x = section.across - np.float32(sign * (wide + 5 * size) * 1.1)
            y = section.behind - np.float32(deep + 15 * size)
            far = np.hypot(x, y)
            rays = np.cos(7 * np.arctan2(y, x) + level * 30)
            image += 160 * rays * np.exp(-far / 45) * (far > 4)


def reconstruct(rng, image, scanner, spacing_mm):
    """Kernel and noise: int16 [H, W]."""
    width = spacing_mm / 0.7  # larger pixels average noise
    image = _apply_kernel(image, scanner, spacing_mm)
    if scanner.noise_hu:
        noise = rng.standard_normal(image.shape, dtype=np.float32)
        noise = _correlate(noise, scanner, spacing_mm)
        noise /= max(float(noise.std()), 1e-6)
        # Rays across shoulders and hips keep few photons: streaks from side to side.
        path = np.clip(image, 0, 2500).sum(1, keepdims=True) * (spacing_mm / 1000)
        starved = np.exp(np.clip((path - 280) / 130, -1.5, 1.6)) * scanner.streaks
        streak = cv2.blur(noise, (max(int(31 / spacing_mm), 3), 1))
        streak /= max(float(streak.std()), 1e-6)
        level = scanner.noise_hu * (1 + 0.6 * scanner.sharpening) / np.sqrt(width)
        body = np.float32(0.35) + np.float32(0.65) * (cv2.blur(
            image, (31, 31)) > 300)
        image = image + np.float32(level) * body * (
            noise + 0.7 * starved.astype(np.float32) * streak)
    return _to_hu(image)


def reconstruct_column(rng, images, scanner, spacing_mm, shadow_mm):
    """The same of the middle of each slice, whose sides are not there to be measured.

    Pixels may be large: a mean over some of them is as noisy as if they were those of
    a usual scanner, whatever their size.

    Args:
        rng: np.random.Generator.
        images: float32 [D, H, W], HU.
        scanner: Scanner.
        spacing_mm: between pixels.
        shadow_mm: [D] of water, what rays from side to side pass.

    Returns:
        int16 [D, H, W].
    """
    images = np.stack([_apply_kernel(i, scanner, spacing_mm) for i in images])
    if scanner.noise_hu:
        power, _ = _noise_power(scanner, spacing_mm)
        usual, deviation = _noise_power(scanner, _USUAL_MM)
        level = scanner.noise_hu * (1 + 0.6 * scanner.sharpening)
        starved = np.exp(np.clip(
            (shadow_mm - 280) / 130, -1.5, 1.6)) * scanner.streaks
        noise = rng.standard_normal(images.shape, dtype=np.float32)
        noise = np.stack([_correlate(n, scanner, spacing_mm) for n in noise])
        noise *= np.float32(np.sqrt(usual / power) / deviation)
        size = max(int(31 / spacing_mm), 3)
        streaks = np.stack([cv2.blur(n, (size, 1)) for n in noise])
        streaks *= (0.7 * starved / max(float(streaks.std()), 1e-6)).astype(
            np.float32)[:, None, None]
        noise += streaks
        size = int(37 / spacing_mm) | 1
        for image, grain in zip(images, noise):
            inside = cv2.blur(image, (size, size)) > 300
            image += np.float32(level) * grain * np.where(
                inside, np.float32(1), np.float32(0.35))
    return _to_hu(images)


def _apply_kernel(image, scanner, spacing_mm):
    """Above air, times its gain; blurred or sharpened."""
    sigma = scanner.blur_mm / spacing_mm
    image = (image - np.float32(AIR)) * np.float32(scanner.gain)
    if sigma > 0.25:
        image = cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    if scanner.sharpening > 0.05:
        low = cv2.GaussianBlur(image, (0, 0), max(1.2 / spacing_mm, 0.5),
                               borderType=cv2.BORDER_REPLICATE)
        image = image + np.float32(scanner.sharpening) * (image - low)
    return image


def _correlate(noise, scanner, spacing_mm):
    """White noise -> the grain of a kernel."""
    noise = cv2.GaussianBlur(noise, (0, 0), max(0.55 / spacing_mm, 0.3))
    if scanner.sharpening < 0.6:  # soft kernels leave coarse grain
        noise = noise + 0.7 * cv2.GaussianBlur(noise, (0, 0), max(
            1.0 / spacing_mm, 0.4))
    return noise


def _noise_power(scanner, spacing_mm):
    """Of _correlate's noise: variance of a mean over 1 mm2 or more, deviation."""
    dot = np.zeros((65, 65), np.float32)
    dot[32, 32] = 1
    spread = _correlate(dot, scanner, spacing_mm)
    return (spread.sum() * spacing_mm) ** 2, float(np.sqrt((spread**2).sum()))


def _to_hu(image):
    return np.clip(np.rint(image + np.float32(AIR)), _LEAST, _MOST).astype(np.int16)
