"""One slice of a patient as a picture: where its pixels lie, and how to paint on it.

Shapes are distances in mm, negative inside. An edge is as soft as a pixel is large:
what a voxel covers in part it shows in part.
"""

import functools
from typing import NamedTuple

import cv2
import numpy as np

from jaxmed.data.phantoms.ct_anatomy import z_of_level

_TILE = 64  # of the noise, which repeats


class Section(NamedTuple):
    """Pixels of one slice in the patient's coordinates, each [H, W] float32, mm.

    `across` and `behind` are x and y seen from the canal: the trunk follows its bends.
    A stack of slices (`make_stack`) has pixels [D, H, W]; what is one number of a slice
    is then an array [D, 1, 1], and the two matrices are [D, 2, 3].
    """

    patient: NamedTuple
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    across: np.ndarray
    behind: np.ndarray
    to_pixel: np.ndarray  # [2, 3]: (across, behind, 1) -> (column, row)
    from_pixel: np.ndarray  # [2, 3], the other way round
    height_mm: float  # z where the slice meets the canal
    level: float
    canal: tuple  # x, y, dy/dz, dx/dz, half width, half depth, triangle at that height
    pixel_mm: float
    edge_mm: float  # width of a soft edge
    organ_sign: float  # -1 for a mirrored patient


def make_section(patient, to_patient, shape, *, edge_mm):
    """Lays a grid of pixels over a patient.

    Args:
        patient: Patient.
        to_patient: [3, 3]: (column, row, 1) -> x, y, z of the patient.
        shape: (H, W).
        edge_mm: how wide edges are beyond a pixel, by the thickness of the slice.

    Returns:
        Section.
    """
    table = patient.canal
    height = _meet_canal(table, to_patient)
    at = _canal_at(table, height)
    level = float(_level_at(patient, height))
    column = np.arange(shape[1], dtype=np.float32)[None]
    row = np.arange(shape[0], dtype=np.float32)[:, None]
    m = to_patient.astype(np.float32)
    x, y, z = (m[i, 0] * column + m[i, 1] * row + m[i, 2] for i in range(3))
    rise = z - np.float32(height)
    across = x - np.float32(at[0]) - np.float32(at[3]) * rise
    behind = y - np.float32(at[1]) - np.float32(at[2]) * rise
    # The same as a matrix, the other way round.
    bent = to_patient[:2] - np.outer([at[3], at[2]], to_patient[2])
    bent[:, 2] -= np.array(at[:2]) - height * np.array([at[3], at[2]])
    to_pixel = np.linalg.inv(np.vstack([bent, [0, 0, 1]]))[:2]
    from_pixel = np.linalg.inv(np.vstack([to_pixel, [0, 0, 1]]))[:2]
    pixel = float(np.sqrt(abs(np.linalg.det(to_patient[:2, :2]))))
    return Section(
        patient, x, y, z, across, behind, to_pixel, from_pixel, height, level, at,
        pixel, max(pixel, edge_mm), -1.0 if patient.mirrored else 1.0)


def make_stack(patient, to_patient, shape, *, edge_mm):
    """The same of parallel slices at once: `to_patient` is [D, 3, 3].

    Returns:
        Section of [D, H, W] pixels.
    """
    table = patient.canal
    plane = np.linalg.inv(to_patient[0, :2, :2])
    heights = to_patient[:, 2, 2]
    for _ in range(6):  # as _meet_canal
        inside = np.clip(heights, table.z_mm[0], table.z_mm[-1])
        at = np.stack([np.interp(inside, table.z_mm, f) for f in (
            table.x_mm, table.y_mm)], axis=1)
        column_row = (at - to_patient[:, :2, 2]) @ plane.T
        heights = column_row @ to_patient[0, 2, :2] + to_patient[:, 2, 2]
    inside = np.clip(heights, table.z_mm[0], table.z_mm[-1])
    at = np.array([np.interp(inside, table.z_mm, f) for f in (
        table.x_mm, table.y_mm, table.lean, table.sway, table.half_width,
        table.half_depth, table.triangle)])
    at[2:4] *= heights == inside
    levels = _level_at(patient, heights)
    column = np.arange(shape[1], dtype=np.float32)
    row = np.arange(shape[0], dtype=np.float32)[:, None]
    m = to_patient.astype(np.float32)[..., None, None]
    x, y, z = (m[:, i, 0] * column + m[:, i, 1] * row + m[:, i, 2] for i in range(3))
    height, *canal = (
        f.astype(np.float32)[:, None, None] for f in (heights, *at))
    rise = z - height
    across = x - canal[0] - canal[3] * rise
    behind = y - canal[1] - canal[2] * rise
    slope = at[[3, 2]].T  # sway, lean
    bent = to_patient[:, :2] - slope[:, :, None] * to_patient[:, 2:]
    bent[:, :, 2] -= at[:2].T - heights[:, None] * slope
    last = np.broadcast_to([[[0.0, 0, 1]]], (len(bent), 1, 3))
    to_pixel = np.linalg.inv(np.concatenate([bent, last], axis=1))[:, :2]
    pixel = float(np.sqrt(abs(np.linalg.det(to_patient[0, :2, :2]))))
    return Section(
        patient, x, y, z, across, behind, to_pixel, bent,
        heights[:, None, None], levels.astype(np.float32)[:, None, None],
        tuple(canal), pixel, max(pixel, edge_mm), -1.0 if patient.mirrored else 1.0)


def take_slice(stack, d):
    """The Section of one slice of a stack."""
    return stack._replace(
        **{name: getattr(stack, name)[d] for name in (
            'x', 'y', 'z', 'across', 'behind', 'to_pixel', 'from_pixel')},
        height_mm=float(stack.height_mm[d, 0, 0]), level=float(stack.level[d, 0, 0]),
        canal=tuple(float(f[d, 0, 0]) for f in stack.canal))


def _meet_canal(table, to_patient):
    """Height at which the plane of a slice meets the canal, by a few steps."""
    plane = np.linalg.inv(to_patient[:2, :2])
    height = to_patient[2, 2]
    for _ in range(6):
        inside = float(np.clip(height, table.z_mm[0], table.z_mm[-1]))
        at = [float(np.interp(inside, table.z_mm, f)) for f in (
            table.x_mm, table.y_mm)]
        column_row = plane @ (np.array(at) - to_patient[:2, 2])
        height = float(to_patient[2, :2] @ column_row + to_patient[2, 2])
    return height


def _canal_at(table, z):
    """x, y, lean, sway, half width, half depth and triangle at a height; straight on
    beyond the ends."""
    inside = float(np.clip(z, table.z_mm[0], table.z_mm[-1]))
    x, y, lean, sway, width, depth, triangle = (
        float(np.interp(inside, table.z_mm, f)) for f in (
            table.x_mm, table.y_mm, table.lean, table.sway, table.half_width,
            table.half_depth, table.triangle))
    over = z - inside
    if over:
        sway = lean = 0.0
    return x, y, lean, sway, width, depth, triangle


def _level_at(patient, z):
    table = patient.canal
    beyond = (z < table.z_mm[0]) | (z > table.z_mm[-1])
    level = np.interp(z, table.z_mm, table.level)
    if np.any(beyond):
        levels = np.linspace(-5, 45, 501)
        level = np.where(
            beyond, np.interp(-z, -z_of_level(patient, levels), levels), level)
    return level


def window(section, across, behind, reach):
    """Slices (rows, columns) of the pixels within `reach` mm of a point, or None."""
    column, row = section.to_pixel @ (across, behind, 1.0)
    far = reach / section.pixel_mm + 3
    height, width = section.x.shape
    top, bottom = max(int(row - far), 0), min(int(row + far) + 2, height)
    left, right = max(int(column - far), 0), min(int(column + far) + 2, width)
    if top >= bottom or left >= right:
        return None
    return slice(top, bottom), slice(left, right)


def find_bounds(coordinates):
    """Where coordinates of pixels, which are linear in each slice, begin and end.

    Args:
        coordinates: of [..., H, W].

    Returns:
        For each axis of the pixels (least, most): [n, coordinates], of all pixels that
        share a place on this axis.
    """
    ends = [np.stack([f[..., ::max(f.shape[-1] - 1, 1)] for f in coordinates], -1)]
    ends.insert(0, np.stack(
        [f[..., ::max(f.shape[-2] - 1, 1), :] for f in coordinates], -1))
    columns, rows = ends
    places = [(rows, -3), (columns, -2)]
    if coordinates[0].ndim == 3:
        places.insert(0, (rows[:, ::max(rows.shape[1] - 1, 1)], 0))
    bounds = []
    for values, axis in places:
        others = tuple(i for i in range(values.ndim - 1) if i != axis % values.ndim)
        bounds.append((values.min(axis=others), values.max(axis=others)))
    return bounds


def find_place(bounds, low, high):
    """Window of the pixels that a box from `low` to `high` reaches into, or None."""
    place = []
    for least, most in bounds:
        hit = np.flatnonzero(((most >= low) & (least <= high)).all(axis=-1))
        if not len(hit):
            return None
        place.append(slice(int(hit[0]), int(hit[-1]) + 1))
    return tuple(place)


def crop(section, place):
    """The Section within a window."""
    return section._replace(**{name: getattr(section, name)[place] for name in (
        'x', 'y', 'z', 'across', 'behind')})


def cover(distance, edge_mm):
    """Part of each pixel that lies inside: float32 in [0, 1]."""
    return np.clip(0.5 - distance / np.float32(edge_mm), 0, 1)


def meet(first, second, round_mm):
    """Distance to what two shapes share, its inner corners rounded."""
    corner = np.maximum(np.float32(round_mm) - np.abs(first - second), 0)
    return np.maximum(first, second) + corner * corner / np.float32(4 * round_mm)


def paint(image, value, share):
    """Lets `value`, a number or a picture, cover `image` by `share`, in place."""
    image += (value - image) * share


def oval(across, behind, centre, radii, *, power=2.0):
    """About the distance to a superellipse: exact at the ends of its axes."""
    u = np.abs(across - np.float32(centre[0])) / np.float32(radii[0])
    v = np.abs(behind - np.float32(centre[1])) / np.float32(radii[1])
    if power == 2.0:
        r = np.sqrt(u * u + v * v)
    elif power == 4.0:
        u, v = u * u, v * v
        r = np.sqrt(np.sqrt(u * u + v * v))
    else:
        p = np.float32(power)
        r = (u**p + v**p) ** np.float32(1 / power)
    return (r - 1) * np.float32(np.minimum(*radii))


def rod(x, y, z, first, last, radius, *, squash=1.0):
    """Distance to a rod with round ends; `squash` < 1 makes it taller by 1 / squash."""
    p, q = np.asarray(first, float), np.asarray(last, float)
    along = (q - p) * (1, 1, squash)
    x, y, z = (np.subtract(c, np.float32(o)) for c, o in zip((x, y, z), p))
    if squash != 1.0:
        z = z * np.float32(squash)
    ax, ay, az = (np.float32(a) for a in along)
    t = np.clip((x * ax + y * ay + z * az) / np.float32(along @ along + 1e-6), 0, 1)
    x, y, z = x - t * ax, y - t * ay, z - t * az
    return np.sqrt(x * x + y * y + z * z) - np.float32(radius)


def stroke(section, first, last, radius):
    """Distance to a line of round ends in the plane, in (across, behind)."""
    return rod(section.across, section.behind, 0.0, (*first, 0), (*last, 0), radius)


def blob(section, image, value, centre, radii, *, power=2.0):
    """Paints one superellipse where it is. `centre` counts from the canal, mm."""
    if min(radii) <= 0.3:
        return
    place = window(section, *centre, max(radii) + section.edge_mm)
    if place is None:
        return
    distance = oval(section.across[place], section.behind[place], centre, radii,
                    power=power)
    paint(image[place], value, cover(distance, section.edge_mm))


def bone(section, distance, *, cortex_mm, cortex_hu, spongy_hu):
    """Hounsfield units of bone with a hard shell, and its share of the pixels."""
    shell = cover(-cortex_mm - distance, section.edge_mm)
    return spongy_hu + (cortex_hu - spongy_hu) * shell, cover(distance, section.edge_mm)


@functools.lru_cache(maxsize=1)
def _tile():
    """Smooth noise that repeats: float32 [64, 64, 64], mean 0, deviation 1."""
    noise = np.random.default_rng(0).standard_normal((_TILE,) * 3)
    frequency = np.fft.fftfreq(_TILE)
    low = np.exp(-2 * (np.pi * 1.3 * frequency) ** 2)
    noise = np.fft.ifftn(
        np.fft.fftn(noise) * low[:, None, None] * low[:, None] * low).real
    return (noise / noise.std()).astype(np.float32)


def grain(section, scale_mm, channel, *, place=None):
    """Smooth noise that belongs to the patient, [H, W] float32, deviation about 1.

    Args:
        section: Section, of one slice.
        scale_mm: between the knots of the noise; it wavers over about three of them.
        channel: 0 to 7; others waver elsewhere.
        place: window of the pixels wanted; None for all.
    """
    rows, columns = place or tuple(slice(0, n) for n in section.x.shape)
    offset = section.patient.texture[channel]
    depth = (section.height_mm / scale_mm + offset[2]) % _TILE
    below = int(depth) % _TILE
    part = np.float32(depth - int(depth))
    tile = _tile()
    plane = tile[below] * (1 - part) + tile[(below + 1) % _TILE] * part
    matrix = section.from_pixel / scale_mm  # to the tile
    matrix[:, 2] += matrix[:, :2] @ (columns.start, rows.start) + offset[:2]
    matrix[:, 2] %= _TILE
    return cv2.warpAffine(
        plane, matrix, (columns.stop - columns.start, rows.stop - rows.start),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_WRAP)
