"""Whole-trunk CT with known truth: the embedded default for the spine.

A patient is drawn as anatomy (`ct_anatomy`) and a scanner as what it makes of it; any
slice of any grid is then a function of both, so that a detector can be trained on a few
slices each of many patients without rendering their volumes. Everything is varied
beyond what is usual: what is trained on phantoms alone has to know real scans.
"""

import hashlib
import math
from typing import Any, NamedTuple

import numpy as np

from jaxmed.data.phantoms import ct_anatomy as anatomy
from jaxmed.data.phantoms import ct_bones as bones
from jaxmed.data.phantoms import ct_organs as organs
from jaxmed.data.phantoms import ct_spine
from jaxmed.data.phantoms.ct_anatomy import Patient, draw_patient  # noqa: F401
from jaxmed.data.phantoms.ct_scanner import (  # noqa: F401
    AIR,
    Scanner,
    draw_scanner,
    paint_metal,
    paint_table,
    reconstruct,
    reconstruct_column,
    rotation,
)
from jaxmed.data.phantoms.ct_shapes import (
    cover,
    make_section,
    make_stack,
    paint,
    take_slice,
)
from jaxmed.data.volumes import Volume

CANAL = ct_spine.CANAL

# Of render_column: thickest layer of bone, and from soft tissue to soft tissue, drawn.
_LAYER_MM, _SOFT_MM = 1.5, 12.0
_BLOCK = 48  # layers at once: as many as stay in a cache


class Slice(NamedTuple):
    """One axial slice and where its canal is."""

    image_hu: np.ndarray  # int16 [H, W]
    box: tuple | None  # (x0, y0, x1, y1) in pixels, the first reaching from 0 to 1
    centre_mm: np.ndarray | None  # [3] LPS, middle of the canal; None without canal
    labels: np.ndarray  # uint8 [H, W]: VerSe's of vertebrae, CANAL, 0


class Vertebra(NamedTuple):
    """What was drawn of one vertebra, T1 to L5."""

    level: str  # 'T1' to 'L5'
    label: int  # VerSe's: T1 is 8, L5 is 24
    centre_mm: np.ndarray  # [3] LPS, of the body
    heights_mm: np.ndarray  # [3] front, middle, back; as if without a Schmorl node
    whole_mm: float  # height without any loss
    grade: int  # Genant, 0 to 3
    shape: str  # 'normal', 'wedge', 'biconcave' or 'crush'
    height_loss: float  # least of the heights against the whole, 0 to 1
    confounder: str  # '', 'mild', 'schmorl' or 'odd_l5'
    in_scan: bool  # whether the whole body lies within the scan's slices


class Scan(NamedTuple):
    """A volume and all that is known about it."""

    volume: Volume
    labels: np.ndarray  # uint8 [D, H, W]: VerSe's of vertebrae, CANAL, 0
    cord_mm: np.ndarray  # [D, 3] LPS, middle of the canal; NaN where there is none
    vertebrae: list  # of Vertebra, head to feet, T1 to L5


class Grid(NamedTuple):
    """Pixels of a slice."""

    shape: tuple  # (H, W)
    spacing_mm: float
    origin_mm: np.ndarray  # [2] LPS x and y of the first pixel's middle


def scan_range(patient, scanner):
    """Lowest and highest slice of a scan, LPS z in mm, whole steps of spacing apart."""
    turned = rotation(scanner.angles)
    ends = []
    for level in scanner.levels:
        z = float(anatomy.z_of_level(patient, level))
        table = patient.canal
        point = np.array([np.interp(z, table.z_mm, table.x_mm),
                          np.interp(z, table.z_mm, table.y_mm), z])
        ends.append(float((turned @ point + scanner.shift_mm)[2]))
    steps = max(int((ends[0] - ends[1]) / scanner.spacing_mm), 1)
    return ends[1], ends[1] + steps * scanner.spacing_mm


def field_of_view(patient, scanner):
    """The Grid of a scan's slices, about the middle of its trunk."""
    low, high = scan_range(patient, scanner)
    table = patient.canal
    height = (low + high) / 2
    z = float(np.clip((rotation(scanner.angles).T @ (
        np.array([0, 0, height]) - scanner.shift_mm * (0, 0, 1)))[2],
        table.z_mm[0], table.z_mm[-1]))
    middle = np.array([np.interp(z, table.z_mm, table.x_mm),
                       np.interp(z, table.z_mm, table.y_mm) - 50 * patient.depth, z])
    middle = rotation(scanner.angles) @ middle + scanner.shift_mm
    rows, columns = scanner.shape
    spacing = scanner.field_mm / columns
    origin = middle[:2] + scanner.offset_mm - spacing * (
        np.array([columns, rows]) - 1) / 2
    return Grid(scanner.shape, spacing, origin)


def render_slice(patient, scanner, z_mm, *, shape, spacing_mm, origin_mm):
    """Renders one axial slice at any height on any grid of pixels.

    Args:
        patient: Patient.
        scanner: Scanner.
        z_mm: height of the slice, LPS; see `scan_range`.
        shape: (H, W).
        spacing_mm: between pixels.
        origin_mm: (x, y) LPS of the first pixel's middle; see `field_of_view`.

    Returns:
        Slice. The same arguments give the same bytes. No box where the middle of the
        canal lies outside the picture or its padded circle, or below S2.
    """
    image, labels = _expose(patient, scanner, z_mm, shape, spacing_mm, origin_mm)
    rng = np.random.default_rng([scanner.seed, int(round(z_mm * 100)) % 2**32])
    image = reconstruct(rng, image, scanner, spacing_mm)
    if scanner.padding is not None:
        y, x = np.ogrid[:shape[0], :shape[1]]
        middle = (np.array(shape) - 1) / 2
        beyond = np.hypot(y - middle[0], x - middle[1]) > max(shape) / 2
        image[beyond] = scanner.padding
    box, centre = _find_canal(patient, scanner, z_mm, shape, spacing_mm, origin_mm)
    if box is not None and scanner.padding is not None:
        if beyond[int((box[1] + box[3]) / 2), int((box[0] + box[2]) / 2)]:
            box = centre = None  # cut away
    return Slice(image, box, centre, labels)


def render_volume(patient, scanner):
    """Renders a whole scan with its truth.

    Returns:
        Scan; its slices are those of `render_slice` on `field_of_view`.
    """
    low, high = scan_range(patient, scanner)
    grid = field_of_view(patient, scanner)
    count = int(round((high - low) / scanner.spacing_mm)) + 1
    heights = low + scanner.spacing_mm * np.arange(count)
    volume = np.empty((count, *grid.shape), np.int16)
    labels = np.empty((count, *grid.shape), np.uint8)
    cord = np.full((count, 3), np.nan)
    for i, height in enumerate(heights):
        drawn = render_slice(patient, scanner, height, **grid._asdict())
        volume[i], labels[i] = drawn.image_hu, drawn.labels
        if drawn.centre_mm is not None:
            cord[i] = drawn.centre_mm
    affine = np.array([[0, 0, grid.spacing_mm, grid.origin_mm[0]],
                       [0, grid.spacing_mm, 0, grid.origin_mm[1]],
                       [scanner.spacing_mm, 0, 0, low],
                       [0, 0, 0, 1]], float)
    facts: dict[str, Any] = {'format': 'phantom', 'seed': scanner.seed}
    identity = hashlib.sha256(patient.texture.tobytes()).hexdigest()[:16]
    scan = Volume(volume, affine, np.eye(4), volume.shape, identity, facts)
    return Scan(scan, labels, cord, find_vertebrae(patient, scanner))


def find_vertebrae(patient, scanner):
    """The vertebrae T1 to L5 as they lie in a scan: list of Vertebra."""
    low, high = scan_range(patient, scanner)
    spine = patient.spine
    turned = rotation(scanner.angles)
    found = []
    for i in range(anatomy.T1 - anatomy.TOP, anatomy.S1 - anatomy.TOP):
        front, _, back = spine.height[i] - spine.heights[i]
        # The middle of what is left of the body.
        sink = (0.5 - spine.top_share[i]) * (front + back) / 2
        centre = spine.centre_mm[i] + sink * spine.axes[i, 2]
        centre = turned @ centre + scanner.shift_mm
        reach = spine.height[i] / 2 * spine.axes[i, 2, 2] + spine.half_depth[i] * abs(
            spine.axes[i, 1, 2])
        heights = spine.heights[i] - (0, 2 * spine.hollow[i], 0)
        label = i + anatomy.TOP
        found.append(Vertebra(
            anatomy.NAMES[label], label, centre, heights,
            float(spine.height[i]), int(spine.grade[i]), spine.shape[i],
            float(1 - heights.min() / spine.height[i]), spine.confounder[i],
            bool(low + reach <= centre[2] <= high - reach)))
    return found


def _to_patient(scanner, z_mm, spacing_mm, origin_mm):
    """[3, 3]: (column, row, 1) -> the patient's x, y, z."""
    grid = np.array([[spacing_mm, 0, origin_mm[0]], [0, spacing_mm, origin_mm[1]],
                     [0, 0, z_mm]], float)
    grid[:, 2] -= scanner.shift_mm
    return rotation(scanner.angles).T @ grid


def _expose(patient, scanner, z_mm, shape, spacing_mm, origin_mm):
    """HU without noise and kernel, float32 [H, W], and labels uint8 [H, W]."""
    section, image = _expose_soft(
        patient, scanner, z_mm, shape, spacing_mm, origin_mm)
    labels = ct_spine.paint_spine(section, image)
    paint_metal(section, image, scanner)
    return image, labels


def _expose_soft(patient, scanner, z_mm, shape, spacing_mm, origin_mm):
    """Section, and HU of all but spine and metal."""
    section = make_section(
        patient, _to_patient(scanner, z_mm, spacing_mm, origin_mm), shape,
        edge_mm=_edge_mm(scanner))
    image = np.full(shape, AIR, np.float32)
    paint_table(section, image, scanner, z_mm, spacing_mm, origin_mm)
    skin = organs.paint_trunk(section, image, scanner.arms)
    if scanner.blanket_hu > AIR:
        paint(image, scanner.blanket_hu, cover(np.abs(skin - 4) - 1.5, 2.0)
              * (section.behind < 0))
    distance, centre = organs.paint_inside(section, image, scanner.contrast)
    bones.paint_ribs(section, image, distance, centre)
    bones.paint_shoulders(section, image, scanner.arms)
    bones.paint_pelvis(section, image)
    return section, image


def _edge_mm(scanner):
    return 0.8 + 0.25 * scanner.thickness_mm


def render_column(patient, scanner, heights_mm, origins_mm, *, shape, spacing_mm):
    """Renders a window that follows the spine through all slices of a scan.

    What `render_slice` draws, some twenty times as fast: the spine in all slices at
    once, averaged over their thickness, soft tissue every few millimetres with all
    between interpolated. Noise and metal are of each slice.

    Args:
        patient: Patient.
        scanner: Scanner; its padding does not count.
        heights_mm: [D] of the slices, LPS, evenly ascending.
        origins_mm: [D, 2] LPS x and y of the first pixel's middle in each slice.
        shape: (H, W).
        spacing_mm: between pixels; large ones are no less noisy than they should be.

    Returns:
        int16 [D, H, W]. The same arguments give the same bytes.
    """
    thin = max(math.ceil(scanner.thickness_mm / _LAYER_MM), 1)  # layers of a slice
    steps = (np.arange(thin) - (thin - 1) / 2) * scanner.thickness_mm / thin
    layers = (heights_mm[:, None] + steps).ravel()
    origins = np.repeat(origins_mm, thin, axis=0)
    count = max(math.ceil(np.ptp(layers) / _SOFT_MM), 1) + 1
    knots = np.linspace(layers.min(), layers.max(), count)
    soft, shadow_mm = [], []
    for knot in knots:
        origin = np.array([np.interp(knot, heights_mm, f) for f in origins_mm.T])
        section, image = _expose_soft(
            patient, scanner, knot, shape, spacing_mm, origin)
        soft.append(image)
        shadow_mm.append(organs.measure_shadow(section, scanner.arms))
    soft = np.stack(soft)
    place = np.clip((layers - knots[0]) / (knots[1] - knots[0]), 0, count - 1 - 1e-6)
    below, share = place.astype(int), (place % 1).astype(np.float32)[:, None, None]
    images = soft[below] * (1 - share)
    images += soft[below + 1] * share
    edge_mm = 0.8 + 0.25 * scanner.thickness_mm / thin
    for first in range(0, len(layers), _BLOCK):
        block = slice(first, first + _BLOCK)
        matrices = np.stack([
            _to_patient(scanner, z, spacing_mm, o)
            for z, o in zip(layers[block], origins[block])])
        stack = make_stack(patient, matrices, shape, edge_mm=edge_mm)
        stack = stack._replace(patient=anatomy.to_single(patient))
        ct_spine.paint_column(stack, images[block])
        if scanner.metal:
            for d, image in enumerate(images[block]):
                paint_metal(take_slice(stack, d), image, scanner)
    images = images.reshape(-1, thin, *shape).mean(axis=1)
    shadow_mm = np.interp(heights_mm, knots, shadow_mm)
    rng = np.random.default_rng(scanner.seed)
    return reconstruct_column(rng, images, scanner, spacing_mm, shadow_mm)


def canal_centres(patient, scanner, heights_mm):
    """`canal_centre` at many heights: [D, 2]."""
    probes = make_stack(patient, np.stack([
        _to_patient(scanner, z, 1.0, (0, 0)) for z in heights_mm]), (1, 1), edge_mm=1)
    points = np.concatenate(
        [*probes.canal[:2], probes.height_mm], axis=-1)[:, 0].astype(float)
    return (points @ rotation(scanner.angles).T + scanner.shift_mm)[:, :2]


def canal_centre(patient, scanner, z_mm):
    """Where the canal is, or would go on, at a height: (x, y) LPS in mm."""
    return _probe_canal(patient, scanner, z_mm)[1][:2]


def _probe_canal(patient, scanner, z_mm):
    """(level, centre [3] LPS) where a slice meets the canal, in the scanner."""
    probe = make_section(
        patient, _to_patient(scanner, z_mm, 1.0, (0, 0)), (1, 1), edge_mm=1)
    point = np.array([probe.canal[0], probe.canal[1], probe.height_mm])
    return probe.level, rotation(scanner.angles) @ point + scanner.shift_mm


def _find_canal(patient, scanner, z_mm, shape, spacing_mm, origin_mm):
    """Box in pixels and centre in mm, or (None, None) where there is no canal."""
    step = 0.5
    # Where the slice meets the canal, in the scanner.
    level, centre = _probe_canal(patient, scanner, z_mm)
    if not anatomy.TOP - 1 < level < ct_spine.CANAL_END:
        return None, None
    half = 60
    corner = centre[:2] - half * step
    near = make_section(patient, _to_patient(scanner, z_mm, step, corner),
                        (2 * half + 1,) * 2, edge_mm=1)
    inside = ct_spine.canal_distance(near) < 0
    rows, columns = np.nonzero(inside.any(1))[0], np.nonzero(inside.any(0))[0]
    if not len(rows):
        return None, None
    low = corner + step * (np.array([columns[0], rows[0]]) - 0.5)
    high = corner + step * (np.array([columns[-1], rows[-1]]) + 0.5)
    x0, y0 = (low - origin_mm) / spacing_mm + 0.5
    x1, y1 = (high - origin_mm) / spacing_mm + 0.5
    middle = np.array([*((low + high) / 2), z_mm])
    x, y = (middle[:2] - origin_mm) / spacing_mm + 0.5
    if not (0 <= x < shape[1] and 0 <= y < shape[0]):
        return None, None
    return (float(x0), float(y0), float(x1), float(y1)), middle
