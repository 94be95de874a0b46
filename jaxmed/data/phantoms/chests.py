"""Chests as thickness of tissue in the beam, and the film behind them.

In parts of a chest's soft tissue: body, ribs, spine, heart and vessels add to it, air
in the lungs takes away. `phantoms.radiographs` adds what is to be found.

Coordinates: x from -1 (the patient's right) to 1, y from -1 (top) to 1.
"""

import functools
from typing import NamedTuple

import cv2
import numpy as np

from jaxmed.data.phantoms.blood_cells import clouds, soft

# Half width of the body at heights from the neck to the belly.
_BODY_Y = (-1.1, -0.95, -0.82, -0.68, -0.5, -0.1, 0.4, 1.1)
_BODY_X = (0.20, 0.22, 0.42, 0.86, 1.02, 0.93, 0.87, 0.92)


class Patient(NamedTuple):
    """What all radiographs of one patient share."""

    width: float  # of the chest, 1 is usual
    height: float
    lung_top: float  # y
    heart: float  # size, 1 is usual
    heart_tilt: float  # radians
    aorta: float
    rib_spacing: float
    rib_strength: float
    breast: float  # tissue over the lower lungs
    bones: float
    seed: int  # of vessels and of the chest's asymmetry


def draw_patient(rng):
    """Draws the anatomy of one synthetic patient."""
    return Patient(
        width=rng.uniform(0.86, 1.08),
        height=rng.uniform(0.9, 1.1),
        lung_top=rng.uniform(-0.8, -0.66),
        heart=rng.uniform(0.85, 1.15),
        heart_tilt=rng.uniform(0.35, 0.8),
        aorta=rng.uniform(0.6, 1.3),
        rib_spacing=rng.uniform(0.125, 0.155),
        rib_strength=rng.uniform(0.6, 1.2),
        breast=rng.uniform(0, 1) * (rng.random() < 0.5),
        bones=rng.uniform(0.7, 1.2),
        seed=int(rng.integers(2**32)),
    )


def coordinates(rng, size, patient):
    """float32 x and y of every pixel: shifted, turned, scaled and bent a little."""
    line = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    y, x = line[:, None], line[None]
    turn = np.float32(rng.normal(0, 0.025))
    zoom = rng.uniform(1.02, 1.25)
    left, down = rng.normal(0, 0.03, 2)
    bend = max(size // 4, 2)
    x, y = (
        ((x + turn * y) / np.float32(patient.width * zoom) + np.float32(left)
         + 0.008 * clouds(rng, (size, size), bend)),
        ((y - turn * x) / np.float32(patient.height * zoom) + np.float32(down)
         + 0.008 * clouds(rng, (size, size), bend)),
    )
    return x, y


class Lungs(NamedTuple):
    """Both lungs; `side` of a pixel is -1 on the patient's right and 1 on the left."""

    mask: np.ndarray  # float32 [H, W] in [0, 1]
    inside: np.ndarray  # signed distance to the border, positive inside
    across: np.ndarray  # 0 at the mediastinum to 1 at the ribs
    down: np.ndarray  # 0 at the apex to 1 at the diaphragm
    side: np.ndarray
    base: np.ndarray  # y of the diaphragm
    pixel: float


def find_lungs(rng, shape, x, y, patient, view):
    side = np.where(x < 0, np.float32(-1), np.float32(1))
    u = np.abs(x)
    breath = {'PA': 0.50, 'AP': 0.44}.get(view, 0.37) + rng.normal(0, 0.03)
    lift = np.where(side < 0, 0.03, -0.02) + shape.normal(0, 0.015)
    bottom = (breath - lift).astype(np.float32)
    top = np.float32(patient.lung_top)
    down = (y - top) / (bottom - top)
    rest = np.clip(1 - down, 0, 1)
    high = rest * rest
    lateral = np.sqrt(1 - high * high) * (0.69 + 0.05 * down)
    medial = 0.09 + 0.19 * high * high * high
    dome = 0.11 + shape.uniform(0, 0.05)
    base = bottom + 0.07 - dome * np.clip(1 - ((u - 0.36) / 0.38)**2, 0, 1)
    inside = np.minimum(np.minimum(lateral - u, u - medial), base - y)
    pixel = 2.0 / x.shape[0]
    return Lungs(
        mask=soft(inside, 0.011), inside=inside,
        across=np.clip((u - medial) / np.maximum(lateral - medial, 0.05), 0, 1),
        down=np.clip(down, 0, 1), side=side, base=base, pixel=pixel)


def draw_body(shape, x, y, patient, view, lungs):
    """Thickness of a healthy chest, and the lungs as far as the heart leaves them."""
    u = np.abs(x)
    half = np.interp(y[:, y.shape[1] // 2], _BODY_Y, _BODY_X).astype(np.float32)
    half = cv2.GaussianBlur(half[:, None], (1, 0), 1, sigmaY=len(half) / 40)
    skin = half - u
    part = skin / half
    thickness = 0.25 * soft(skin, 0.02) + 0.8 * np.sqrt(
        np.clip(part * (1.2 - part / 3), 0, None))
    thickness += 0.30 * soft(y - lungs.base, 0.05) * soft(0.8 - u, 0.05)
    size = patient.heart * (1.18 if view != 'PA' else 1.0)
    # The heart lies on the diaphragm; vessels and fat blur into it above.
    low = float(np.mean(lungs.base[lungs.base.shape[0] // 2])) - 0.20
    heart = ball(x - 0.13, y - low, 0.32 * size, 0.23 * size, patient.heart_tilt)
    atrium = ball(x + 0.06, y - low - 0.02, 0.15 * size, 0.22 * size, 0)
    trunk = ball(x - 0.06, y - low + 0.24, 0.13, 0.22, 0.3)
    heart = np.maximum(np.maximum(heart, 0.85 * atrium), 0.7 * trunk)
    knob = ball(x - 0.08, y + 0.27, 0.085 * patient.aorta, 0.11, 0)
    edge = 0.12 + 0.04 * shape.random() + 0.03 * np.clip(-y, 0, 1)
    middle = flat_top(u / edge)
    lung = lungs.mask * (1 - soft(heart - 0.25, 0.09)) * (1 - soft(knob - 0.3, 0.12))
    lung *= 1 - 0.9 * middle
    thickness *= 1 - 0.66 * lung
    thickness += 0.26 * heart + 0.09 * knob + 0.24 * middle * soft(0.9 - np.abs(y), 0.1)
    discs = 0.75 + 0.25 * np.cos(y * (2 * np.pi / (0.9 * patient.rib_spacing)))
    thickness += 0.16 * patient.bones * flat_top(x / 0.075) * discs
    thickness -= 0.14 * flat_top((x + 0.01) / 0.035) * soft(-0.20 - y, 0.03)  # trachea
    thickness += patient.rib_strength * _ribs(shape, u, y, patient, lungs)
    thickness += 0.18 * patient.bones * _clavicles(shape, u, x, y, patient)
    wings = ball(u - 0.83, y + 0.30, 0.16, 0.42, -0.15)
    thickness += 0.09 * patient.bones * soft(wings - 0.05, 0.03)
    if patient.breast:
        thickness += 0.20 * patient.breast * ball(u - 0.42, y - 0.30, 0.36, 0.30, 0)
    if shape.random() < 0.6:  # air in the stomach
        thickness -= 0.35 * ball(
            x - 0.40, y - lungs.base - 0.09, 0.17 * shape.uniform(0.5, 1), 0.07, 0)
    return np.maximum(thickness, 0).astype(np.float32), lung.astype(np.float32)


def flat_top(distance):
    """1 within a distance of 1, 0 outside, smoothly."""
    square = distance * distance
    return np.exp(-square * square)


def ball(x, y, radius_x, radius_y, turn):
    """Thickness of an ellipsoid, 1 in its middle and 0 outside."""
    c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    across, along = (c * x + s * y) / radius_x, (c * y - s * x) / radius_y
    return np.sqrt(np.clip(1 - across * across - along * along, 0, None))


def _ribs(shape, u, y, patient, lungs):
    """Posterior ribs fall a little outwards, anterior ones steeply inwards."""
    spacing = patient.rib_spacing
    phase = shape.random()
    posterior = y + 0.05 * np.sin(3.2 * u) - 0.30 * u**2 + lungs.side * 0.01
    anterior = y + 0.45 * u
    total = 0.0
    for curve, strength, cover in (
        (posterior, 0.105, soft(u - 0.09, 0.02)),
        (anterior, 0.06, soft(u - 0.34, 0.06)),
    ):
        place = np.abs((curve / spacing + phase) % 1 - 0.5)
        band = soft(0.21 - place, 0.035) + 0.5 * flat_top((place - 0.19) / 0.06)
        total = total + strength * cover * band
    # The cage ends at the skin, above the first rib and below the last.
    cage = soft(lungs.inside + 0.075, 0.012)
    return total * cage * soft(y - patient.lung_top + 0.05, 0.03) * soft(0.62 - y, 0.1)


def _clavicles(shape, u, x, y, patient):
    height = patient.lung_top + 0.12 + shape.normal(0, 0.02) + 0.02 * x
    middle = height - 0.16 * u + 0.10 * np.sin(5 * u)
    return soft(0.028 - np.abs(y - middle), 0.008) * soft(u - 0.12, 0.02) * soft(
        0.85 - u, 0.05)


def draw_vessels(seed, x, y, lung):
    """Thickness of the vessels: float32 as `lung`."""
    size = lung.shape[0]
    # Drawn in the frame's coordinates and looked up in the bent ones.
    drawn = cv2.remap(
        _vessel_tree(seed, size), (x + 1) * (size / 2) - 0.5,
        (y + 1) * (size / 2) - 0.5, cv2.INTER_LINEAR)
    return (0.26 / 255) * drawn * lung


@functools.lru_cache(maxsize=2)
def _vessel_tree(seed, size):
    """Branches from both hila, thinner outwards: float32 [size, size] in [0, 255]."""
    shape = np.random.default_rng([seed, 1])
    canvas = np.zeros((size, size), np.uint8)

    def grow(at, angle, length, width):
        bends = angle + np.cumsum(shape.normal(0, 0.22, 3))
        steps = length / 3 * np.stack([np.cos(bends), np.sin(bends)], axis=1)
        points = at + np.cumsum(np.concatenate([np.zeros((1, 2)), steps]), axis=0)
        cv2.polylines(
            canvas, [np.int32(4 * size * (points + 1))], False,
            int(min(60 * width, 255)), max(round(width * size / 256), 1), cv2.LINE_AA,
            shift=3)
        if width < 1.1:
            return
        ways = shape.uniform(0.2, 0.6, 2) * (-1, 1)
        for way, shorter in zip(ways, shape.uniform(0.6, 0.9, 2)):
            grow(points[-1], bends[-1] + way, shorter * length, 0.68 * width)

    for side in (-1, 1):
        for angle in shape.uniform(-1.2, 1.3, 4):
            start = np.array([side * 0.15, -0.05 + 0.1 * angle])
            direction = angle if side > 0 else np.pi - angle
            grow(start, direction, shape.uniform(0.18, 0.28), shape.uniform(2.2, 3.4))
    return cv2.GaussianBlur(canvas.astype(np.float32), (0, 0), size / 380)


def add_devices(rng, thickness, view):
    """Cables and electrodes, more often on those who lie."""
    size = thickness.shape[0]
    if rng.random() > (0.1 if view == 'PA' else 0.5):
        return
    canvas = np.zeros((size, size), np.uint8)
    for _ in range(rng.integers(1, 4)):
        ends = rng.uniform(0, size, (4, 2))
        t = np.linspace(0, 1, 30)[:, None]
        curve = ((1 - t)**3 * ends[0] + 3 * (1 - t)**2 * t * ends[1]
                 + 3 * (1 - t) * t**2 * ends[2] + t**3 * ends[3])
        cv2.polylines(canvas, [np.int32(8 * curve)], False, 255,
                      max(size // 160, 1), cv2.LINE_AA, shift=3)
        cv2.circle(canvas, [int(v) for v in ends[3]], max(size // 60, 1), 255, -1)
    thickness += np.float32(rng.uniform(0.1, 0.3) / 255) * canvas


def expose(rng, thickness, view):
    """Thickness -> film: uint8 [H, W]."""
    size = thickness.shape[0]
    film = 1 - np.exp(-rng.uniform(1.2, 1.9) * thickness)
    film = cv2.GaussianBlur(film, (0, 0), size / 256 * rng.uniform(0.4, 1.0))
    sharp = rng.uniform(0, 0.7)
    film += sharp * (film - cv2.GaussianBlur(film, (0, 0), size / 64))
    film += rng.uniform(0.003, 0.012) * rng.standard_normal(film.shape, np.float32)
    low, high = np.quantile(film[::4, ::4], [0.01, 0.99])
    film = np.clip((film - low) / max(high - low, 1e-3), 0, 1)
    # The same mean whatever the lungs hold: a power that is found in three steps.
    wanted, power = rng.uniform(0.40, 0.60), 1.0
    few = film[::4, ::4] + 1e-4
    for _ in range(4):
        power *= np.log(wanted) / np.log(np.mean(few**power))
    curve = np.linspace(0, 1, 4096) ** np.clip(power, 0.3, 3)
    film = np.rint(255 * curve).astype(np.uint8)[(film * 4095).astype(np.uint16)]
    _mark(rng, film, view)
    if rng.random() < 0.2:  # collimated
        edge = int(size * rng.uniform(0.01, 0.05))
        film[:edge] = film[size - edge:] = rng.integers(0, 12)
    return film


def _mark(rng, film, view):
    """Letters that say the side and, now and then, the view."""
    size = film.shape[0]
    words = [str(rng.choice(['R', 'L', 'D', '']))]
    if rng.random() < 0.3:
        words.append(str(rng.choice(['PORTABLE', 'ERECT', '12:40', 'KV 85'])))
    if rng.random() < 0.3:
        words.append(view.upper())
    for word in words:
        y = rng.uniform(0.05, 0.2) * size
        # A side's letter is on its side of the film.
        x = rng.uniform(0.02, 0.12) * size
        if word not in ('R', 'D'):
            x = rng.uniform(0.72, 0.85) * size
        cv2.putText(film, word, (int(x), int(y)), cv2.FONT_HERSHEY_SIMPLEX,
                    size / 256 * (rng.uniform(0.4, 0.8) if len(word) < 2 else 0.3),
                    int(rng.integers(200, 256)), max(size // 200, 1), cv2.LINE_AA)
