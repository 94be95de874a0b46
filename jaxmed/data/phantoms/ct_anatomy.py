"""Synthetic patients for CT: the spine vertebra by vertebra and the body around it.

Coordinates are the patient's own, in mm: x to the left, y to the back, z to the head,
as LPS. Heights along the trunk are also given as levels: VerSe's number of a vertebra
at its centre (C5 is 5, T1 is 8, L1 is 20, L5 is 24, S1 is 25) and parts between.
Sizes are those of anatomy textbooks, drawn more widely than people vary.
"""

from typing import NamedTuple

import numpy as np

TOP, BOTTOM = 5, 27  # levels drawn as vertebrae: C5 to S3
# Heights are those 0.1 + 0.75 of the half depth in front of a body's axis, 0.1 in front
# of it and 0.65 behind it: the wall at the back is hollow.
MIDDLE, STATION = -0.1, 0.75
WALL = 0.86  # the canal begins there, in parts of the half depth
T1, T12, L1, L5, S1 = 8, 19, 20, 24, 25
NAMES = {level: f'C{level}' for level in range(TOP, T1)}
NAMES |= {level: f'T{level - 7}' for level in range(T1, L1)}
NAMES |= {level: f'L{level - 19}' for level in range(L1, S1)}
NAMES |= {level: f'S{level - 24}' for level in range(S1, BOTTOM + 1)}

# Height lost by Genant's grades, clear of the limits between them.
_LOSSES = {1: (0.205, 0.245), 2: (0.255, 0.395), 3: (0.405, 0.6)}

# Of C5 to S3. Bodies: half widths, half depths and heights; mm.
_HALF_WIDTH = (
    11, 12, 14, 16, 15.3, 14.6, 14.6, 15, 15.5, 16, 16.5, 17, 17.8, 18.8, 20.3, 21.2,
    22, 23, 24, 25, 26, 20, 15)
_HALF_DEPTH = (
    8, 8, 8.2, 8.7, 9.5, 10.3, 11.2, 12, 13, 13.8, 14.4, 15, 15.3, 15.5, 15.8, 16,
    16.5, 17, 17.2, 17.2, 15, 10, 8)
_HEIGHT = (
    13, 13, 14.5, 17, 18, 19, 19.5, 20, 20.5, 21, 21.5, 22, 23, 24, 25.5, 27, 27.5, 28,
    28, 27.5, 29, 25, 22)
DISC = (  # below each
    5.5, 5.5, 5, 4.5, 4, 4, 4, 4.2, 4.5, 4.5, 5, 5, 5.5, 6, 7, 8.5, 10, 11, 11.5, 10,
    1.5, 1, 1)
# How far the axis of a body leans forward, degrees, of a usual supine adult.
_LEAN = (
    2, 8, 16, 22, 21, 18, 14, 9, 5, 1, -2, -5, -7, -9, -11, -12, -9, -1, 10, 23, 40,
    50, 45)
# Canal: half width, half depth, and how triangular (0 oval, 1 pointed at the back).
_CANAL_WIDTH = (
    12.5, 12.5, 12, 10.5, 9, 8.5, 8.3, 8.3, 8.3, 8.3, 8.3, 8.5, 8.8, 9.5, 10.5, 11.3,
    11.6, 12, 12.6, 13.5, 14, 11, 7)
_CANAL_DEPTH = (
    7.5, 7.5, 7.5, 8, 8, 8, 8, 8, 8, 8, 8, 8.2, 8.4, 8.6, 8.8, 8.8, 8.5, 8.2, 8.2, 8.4,
    7, 5.5, 4)
_TRIANGLE = (
    .6, .6, .6, .4, .1, 0, 0, 0, 0, 0, 0, 0, .05, .1, .2, .3, .4, .55, .7, .8, .8, .7,
    .5)


class Spine(NamedTuple):
    """Vertebrae from C5 to S3: [V] or [V, ...], V = 23."""

    centre_mm: np.ndarray  # [V, 3] middle of the body as it was before any fracture
    axes: np.ndarray  # [V, 3, 3] rows: unit vectors to its left, back and head
    half_width: np.ndarray  # [V]
    half_depth: np.ndarray  # [V]
    height: np.ndarray  # [V] before any fracture
    heights: np.ndarray  # [V, 3] in front, in the middle and at the back, no hollow
    top_share: np.ndarray  # [V] of what the height has lost, at the upper endplate
    disc: np.ndarray  # [V] height of the disc below
    waist: np.ndarray  # [V] part by which the middle is narrower
    hollow: np.ndarray  # [V] mm by which endplates sink in the middle
    osteophyte: np.ndarray  # [V] mm by which the rims stand out
    process: np.ndarray  # [V] factor of the lengths of processes
    droop: np.ndarray  # [V] mm by which the tip of the spinous process hangs
    schmorl: np.ndarray  # [V, 5] place (left, back), radius, depth, +1 top or -1 bottom
    grade: np.ndarray  # [V] int, Genant 0 to 3
    shape: tuple  # [V] 'normal', 'wedge', 'biconcave' or 'crush'
    confounder: tuple  # [V] '', 'mild', 'schmorl' or 'odd_l5'


class Canal(NamedTuple):
    """The spinal canal at heights z_mm, which ascend: each [N]."""

    z_mm: np.ndarray
    x_mm: np.ndarray
    y_mm: np.ndarray
    lean: np.ndarray  # dy/dz
    sway: np.ndarray  # dx/dz
    half_width: np.ndarray
    half_depth: np.ndarray
    triangle: np.ndarray
    level: np.ndarray


class Patient(NamedTuple):
    """All that is the same in every scan of one patient but contrast medium."""

    spine: Spine
    canal: Canal
    age: float
    size: float  # of the skeleton, 1 is usual
    girth: float  # of the muscle wall
    depth: float  # of the trunk from front to back
    fat_mm: float  # under the skin at the sides
    belly_mm: float  # more of it in front
    back_fat_mm: float
    lost_muscle: float  # 0 to 1, how much of it has turned to fat
    fat_hu: float
    muscle_hu: float
    spongy_hu: float
    cortex_hu: float
    cortex_mm: float
    disc_hu: float
    marrow_spread: float  # of the spongy bone's texture, HU
    sclerosis: float  # 0 to 1, hard spots and dense endplates
    lung_hu: float
    cord: np.ndarray  # [4] half width, half depth, level where it ends, HU
    fluid_hu: float
    epidural_hu: float
    rib_drop: float  # mm from back to front
    rib_size: float
    organ: np.ndarray  # [24] uniform in [-1, 1]: places and sizes of organs
    effusion: np.ndarray  # [2] mm of fluid behind right and left lung
    solid_lung: float  # how much of the lung is filled
    calcium: float  # of the vessels, 0 to 1
    mirrored: bool  # organs on the other side
    bowel_gas: float  # 0 to 1
    texture: np.ndarray  # [8, 3] offsets into the noise of `ct_shapes.grain`


def draw_patient(rng):
    """Draws the anatomy of one adult.

    Args:
        rng: np.random.Generator; the patient is a function of its state alone.

    Returns:
        Patient.
    """
    age = rng.uniform(25, 95)
    size = float(np.clip(rng.normal(1.0, 0.09), 0.78, 1.22))
    old = np.clip((age - 45) / 45, 0, 1)
    spine = _draw_spine(rng, size, old)
    fat = rng.gamma(2.0, 9.0) + 2
    return Patient(
        spine=spine,
        canal=_canal(rng, spine, size),
        age=age,
        size=size,
        girth=size * rng.uniform(0.85, 1.22) * (1 + fat / 250),
        depth=size * rng.uniform(0.8, 1.22) * (1 + fat / 200),
        fat_mm=min(fat, 65.0),
        belly_mm=rng.uniform(-0.3, 1.2) * min(fat, 40.0),
        back_fat_mm=min(fat, 65.0) * rng.uniform(0.3, 1.1),
        lost_muscle=float(np.clip(rng.beta(1.2, 3) + 0.35 * old, 0, 1)),
        fat_hu=rng.uniform(-125, -75),
        muscle_hu=rng.uniform(25, 75),
        spongy_hu=max(rng.normal(230 - 150 * old, 60), 15),
        cortex_hu=rng.uniform(380, 1100) * (1 - 0.25 * old),
        cortex_mm=rng.uniform(0.8, 2.4) * (1 - 0.25 * old),
        disc_hu=rng.uniform(45, 130),
        marrow_spread=rng.uniform(5, 60),
        sclerosis=rng.beta(1, 2),
        lung_hu=rng.uniform(-940, -650),
        cord=np.array([rng.uniform(4, 6.5), rng.uniform(3, 4.6),
                       rng.uniform(18.6, 21.4), rng.uniform(25, 60)]),
        fluid_hu=rng.uniform(-5, 32),
        epidural_hu=rng.uniform(-110, 5),
        rib_drop=rng.uniform(55, 125) * size,
        rib_size=rng.uniform(0.8, 1.25) * size,
        organ=rng.uniform(-1, 1, 24),
        effusion=np.maximum(rng.normal(-45, 40, 2), 0),
        solid_lung=max(rng.normal(-0.6, 0.7), 0.0),
        calcium=rng.beta(1, 2) * old,
        mirrored=bool(rng.random() < 0.1),
        bowel_gas=rng.beta(1.3, 1.6),
        texture=rng.uniform(0, 64, (8, 3)),
    )


def to_single(part):
    """A Patient, or part of one, whose numbers leave pictures float32."""
    if isinstance(part, np.ndarray) and part.dtype == np.float64:
        return part.astype(np.float32)
    if isinstance(part, np.floating):
        return float(part)
    if hasattr(part, '_fields'):
        return type(part)(*map(to_single, part))
    return part


def z_of_level(patient, level):
    """Height in mm, in the patient's coordinates, of a level; beyond C5 to S3 too."""
    return _extend(level, patient.canal.level[::-1], patient.canal.z_mm[::-1])


def _extend(where, places, values):
    """np.interp that goes on as straight lines; `places` ascend."""
    where = np.asarray(where, float)
    inside = np.interp(where, places, values)
    n = min(5, len(places) - 1)
    first = (values[n] - values[0]) / (places[n] - places[0])
    last = (values[-1] - values[-1 - n]) / (places[-1] - places[-1 - n])
    return (inside + np.minimum(where - places[0], 0) * first
            + np.maximum(where - places[-1], 0) * last)


def _draw_spine(rng, size, old):
    levels = np.arange(TOP, BOTTOM + 1)
    count = len(levels)
    wide, tall = size * rng.uniform(0.9, 1.12), size * rng.uniform(0.92, 1.08)
    half_width = np.array(_HALF_WIDTH) * wide * rng.normal(1, 0.03, count)
    half_depth = np.array(_HALF_DEPTH) * wide * rng.normal(1, 0.03, count)
    height = np.array(_HEIGHT) * tall * rng.normal(1, 0.02, count)
    worn = np.where(
        rng.random(count) < 0.1 + 0.4 * old, rng.uniform(0.3, 0.9, count), 1)
    worn[levels >= S1] = 1
    disc = np.array(DISC) * tall * rng.uniform(0.85, 1.15, count) * worn
    heights, grade, shape, confounder, schmorl = _draw_heights(
        rng, levels, height, half_width, half_depth, old)
    hollow = height * rng.uniform(0.0, 0.025, count) * (levels < S1)
    hollow = np.where(np.array(shape) == 'normal', hollow, 0)
    osteophyte = rng.gamma(1.0, 0.5 + 1.5 * old, count) * (worn < 1) * (levels < S1)
    top_share = rng.uniform(0.45, 0.9, count)

    # Curves of the whole: thoracic, lumbar and sacral parts vary by themselves.
    lean = np.array(_LEAN) + rng.normal(0, 1.5, count)
    lumbar, thoracic = rng.uniform(0.2, 1.2), rng.uniform(0.4, 1.3)
    gain = np.interp(levels, [7, 9, 16, 19, 23, 25], [
        1, thoracic, thoracic, lumbar, lumbar, rng.uniform(0.7, 1.15)])
    lean = lean * gain
    # On a table the line from neck to loin is level whatever the curves are.
    trunk = slice(2, 20)
    lean -= np.average(lean[trunk], weights=height[trunk]) + rng.normal(0, 2)
    roll, turn = _scoliosis(rng, levels)
    centre = np.zeros((count, 3))
    axes = np.zeros((count, 3, 3))
    bent = 0.0  # by wedged bodies below
    point = np.zeros(3)
    reach = STATION * half_depth
    for i in range(count - 1, -1, -1):
        front, back = height[i] - heights[i, 0], height[i] - heights[i, 2]
        wedge = np.degrees(np.arctan((front - back) / (2 * reach[i])))
        lower, upper = (1 - top_share[i]) * wedge, top_share[i] * wedge
        axes[i] = _frame(lean[i] + bent + 0.7 * lower, roll[i], turn[i])
        bent = min(bent + 0.7 * (lower + upper), 35.0)  # people balance what is more
        rim = (front + back) / 2
        up = axes[i, 2]
        centre[i] = point + up * (height[i] / 2 - (1 - top_share[i]) * rim)
        point = centre[i] + up * (height[i] / 2 - top_share[i] * rim)
        if i:
            ahead = _frame(lean[i - 1] + bent, roll[i - 1], turn[i - 1])[2]
            point = point + disc[i - 1] * (up + ahead) / 2
    middle = centre[levels == 17][0]  # T10 is over the origin of x and y
    centre -= [middle[0], middle[1], centre[levels == L5][0][2]]
    return Spine(
        centre_mm=centre, axes=axes, half_width=half_width, half_depth=half_depth,
        height=height, heights=heights, top_share=top_share, disc=disc,
        waist=rng.uniform(0.04, 0.16, count), hollow=hollow, osteophyte=osteophyte,
        process=rng.uniform(0.85, 1.2, count) * size,
        droop=_droop(levels) * rng.uniform(0.8, 1.2, count) * size,
        schmorl=schmorl, grade=grade, shape=tuple(shape), confounder=tuple(confounder))


def _droop(levels):
    return np.interp(levels, [5, 7, 8, 10, 13, 16, 18, 20, 24, 25, 27],
                     [8, 10, 13, 22, 30, 27, 13, 9, 7, 0, -5])


def _scoliosis(rng, levels):
    """Lean to the side and turn about the axis, degrees, [V] each."""
    amplitude = abs(rng.normal(0, 3)) + (rng.random() < 0.15) * rng.uniform(5, 18)
    phase, waves = rng.uniform(0, 2 * np.pi), rng.uniform(0.7, 1.8)
    along = (levels - 6) / 20 * 2 * np.pi * waves + phase
    quiet = np.interp(levels, [5, 8, 22, 25], [0.5, 1, 1, 0.2])
    roll = amplitude * np.sin(along) * quiet + rng.normal(0, 1, len(levels))
    turn = rng.uniform(0.3, 1.2) * amplitude * np.cos(along) * quiet
    return roll, turn + rng.normal(0, 1, len(levels))


def _frame(lean, roll, turn):
    """Rows: left, back and up of a body that leans forward and aside; degrees."""
    lean, roll, turn = np.radians([lean, roll, turn])
    up = np.array([np.sin(roll), -np.sin(lean) * np.cos(roll),
                   np.cos(lean) * np.cos(roll)])
    left = np.array([np.cos(turn), np.sin(turn), 0.0])
    left -= up * (left @ up)
    left /= np.linalg.norm(left)
    return np.stack([left, np.cross(up, left), up])


def _draw_heights(rng, levels, height, half_width, half_depth, old):
    """Heights in front, middle and back of each body, and what was drawn."""
    count = len(levels)
    heights = np.repeat(height[:, None], 3, axis=1)
    grade, shape, confounder = np.zeros(count, int), ['normal'] * count, [''] * count
    schmorl = np.zeros((count, 5))
    # Thoracic bodies are a little lower in front, L5 a little lower at the back.
    slight = np.interp(levels, [7, 9, 14, 20, 22, 24], [0, 0, .05, .05, 0, -.07])
    slight = slight * rng.uniform(0, 1.4, count)
    heights[:, 0] *= 1 - np.maximum(slight, 0)
    heights[:, 2] *= 1 - np.maximum(-slight, 0)
    # Fractures cluster at T7-T8 and about the thoracolumbar junction.
    prone = np.interp(levels, [8, 10, 14, 16, 19, 20, 22, 24], [
        .2, .4, 1, .8, 1.5, 1.5, .8, .5])
    for i, level in enumerate(levels):
        if not T1 <= level <= L5:
            continue
        chance = rng.random()
        fracture, mild, node = prone[i] * (0.015 + 0.14 * old), 0.06, 0.06
        if chance < fracture:
            grade[i] = rng.choice([1, 2, 3], p=[0.4, 0.4, 0.2])
            loss = rng.uniform(*_LOSSES[grade[i]])
        elif chance < fracture + mild:
            confounder[i], loss = 'mild', rng.uniform(0.09, 0.18)
        elif chance < fracture + mild + node:
            confounder[i] = 'schmorl'
            schmorl[i] = (
                rng.uniform(-0.35, 0.35) * half_width[i],
                rng.uniform(-0.3, 0.3) * half_depth[i], rng.uniform(2.5, 6.5),
                rng.uniform(2.5, 0.3 * height[i]), rng.choice([-1, 1]))
            continue
        elif level == L5 and rng.random() < 0.25:
            # Lower at the back, or as a whole, than a fracture's rule would have it.
            confounder[i] = 'odd_l5'
            heights[i] *= (1, rng.uniform(.88, 1), rng.uniform(.7, .85))
            continue
        else:
            continue
        shape[i] = str(rng.choice(['wedge', 'biconcave', 'crush'], p=[.5, .3, .2]))
        left = 1 - loss
        heights[i] = height[i] * np.array({
            'wedge': (left, 1 - loss * rng.uniform(.4, .65), 1),
            'biconcave': (1 - loss * rng.uniform(0, .35), left, 1),
            'crush': (left * rng.uniform(1, 1.04), left * rng.uniform(1, 1.04), left),
        }[shape[i]])
    return heights, grade, shape, confounder, schmorl


def _canal(rng, spine, size):
    """Smooth tables of the canal from the vertebrae's frames."""
    levels = np.arange(TOP, BOTTOM + 1)
    wide, deep = size * rng.uniform(0.85, 1.2, 2)
    narrow = 1 - 0.3 * (rng.random(len(levels)) < 0.05)
    half_width = np.array(_CANAL_WIDTH) * wide * rng.normal(1, 0.03, len(levels))
    half_depth = np.array(_CANAL_DEPTH) * deep * narrow * rng.normal(
        1, 0.03, len(levels))
    behind = WALL * spine.half_depth + half_depth + 0.3
    centre = spine.centre_mm + behind[:, None] * spine.axes[:, 1]
    z = np.arange(centre[-1, 2] - 10, centre[0, 2] + 10, 2.0)
    fields = np.column_stack(
        [centre[:, :2], half_width, half_depth, _TRIANGLE, levels])[::-1]
    fields = np.stack([_extend(z, centre[::-1, 2], f) for f in fields.T])
    window = np.hanning(15)
    padded = np.pad(fields, ((0, 0), (7, 7)), 'reflect', reflect_type='odd')
    fields = np.stack([np.convolve(f, window / window.sum(), 'valid') for f in padded])
    x, y, half_width, half_depth, triangle, level = fields
    return Canal(z, x, y, np.gradient(y, z), np.gradient(x, z), half_width, half_depth,
                 triangle, level)
