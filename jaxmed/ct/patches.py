"""Patches that tile the straightened spine, and the way back to the patient.

All that lies between the scan and a patch is linear: sampling around the cord, the
Fourier method along the column, cutting, resizing. Along the column these are one
matrix, [patches * rows, slices], so no straightened volume is ever stored, and scans
share a compiled program whose counts go along as numbers (see `buckets`).
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmed.ct.buckets import bucket
from jaxmed.ct.column import (
    AIR_HU,
    Frame,
    column_to_voxel,
    cord_mm,
    corner_mm,
    linear_weights,
    sample_slices,
    voxel_to_column,
)
from jaxmed.ct.fourier import fourier_matrix

FEWEST = 4  # the number of patches is rounded up to a multiple of this


class Tiling(NamedTuple):
    """How a column becomes patches."""

    height_mm: float  # of a patch, along the column
    shape: tuple[int, int, int]  # (pH, pW, pZ): rows, front to back, right to left
    pixel_mm: float  # of the Fourier method's result along the column
    window_centre_hu: float  # becomes 0.5; the paper: 370
    window_width_hu: float  # from 0 to 1; the paper: 840
    context_mm: float = 0.0  # seen above and below the height; the paper: none


class Patches(NamedTuple):
    """The spine as a network sees it; arrays, on the device."""

    values: Any  # float32 [k', pH, pW, pZ, 1] in [0, 1]; 0 in fillers
    mask: Any  # float32 [k'], 1 for a patch, 0 for one that only fills the bucket
    position: Any  # float32 [k'] in [0, 1], its centre along the column; 0 at the top
    first_mm: Any  # float32 [k', 3], column mm of a patch's outer corner [0, 0, 0]
    pitch_mm: Any  # float32 [3], from one patch voxel to the next
    frame: Frame


def cut_patches(volume_hu, frame, *, box, tiling):
    """Tiles the spine of a scan with as few patches as cover it.

    k = ceil(length / height), spread evenly: the first begins at the top of the
    scan, the last ends at its bottom, neighbours overlap by the same little. A scan
    shorter than a patch is one patch, continued below by air. With a context patches
    reach further up and down, over their neighbours, and over the scan's ends into air:
    so that what the edge of a height cuts in two is whole in both.

    Patch voxel (i, j, l) of patch p lies at first_mm[p] + ((i, j, l) + 1/2) *
    pitch_mm in column mm (see `column`): rows from head to feet, columns from front
    to back, depth from right to left.

    Args:
        volume_hu: int16 [D, H, W], feet first, front first, right first.
        frame: Frame of the scan.
        box: Box.
        tiling: Tiling.

    Returns:
        Patches; k' is k rounded up to a multiple of 4.
    """
    length_mm = len(volume_hu) * float(frame.spacing_mm[0])
    num = max(round(length_mm / tiling.pixel_mm), 1)
    # A rounding error more than a whole number of patches needs no further patch.
    count = max(math.ceil(length_mm / tiling.height_mm - 1e-4), 1)
    slices = sample_slices(volume_hu, frame, box=box, shape=tuple(tiling.shape[1:]))
    extent_mm = (
        tiling.height_mm + 2 * tiling.context_mm, box.front_mm + box.back_mm,
        2 * box.half_width_mm)
    return _tile(
        slices, frame, np.int32(num), np.int32(count), corner_mm(box),
        np.array(extent_mm, np.float32), np.float32(tiling.context_mm),
        np.float32(tiling.window_centre_hu), np.float32(tiling.window_width_hu),
        num_size=bucket(num),
        size=count + -count % FEWEST, rows=tiling.shape[0])


@partial(jax.jit, static_argnames=('num_size', 'size', 'rows'))
def _tile(slices, frame, num, count, corner, extent_mm, context_mm, window_centre,
          window_width, *, num_size, size, rows):
    shape = (rows, *slices.shape[1:])
    pitch_mm = extent_mm / jnp.array(shape)
    spacing_mm, height_mm = frame.spacing_mm[0], extent_mm[0] - 2 * context_mm
    length_mm = frame.count * spacing_mm

    mask = jnp.arange(size) < count
    step_mm = jnp.maximum(length_mm - height_mm, 0) / jnp.maximum(count - 1, 1)
    starts = jnp.where(mask, jnp.arange(size) * step_mm, 0.0)
    firsts = starts - context_mm
    below_mm = (firsts[:, None] + (jnp.arange(rows) + 0.5) * pitch_mm[0]).ravel()

    # Counted from the feet, as slices are.
    row_mm = length_mm / num
    index = (length_mm - below_mm) / row_mm - 0.5
    resize = linear_weights(index, pitch_mm[0] / row_mm, size=num_size)
    resize *= jnp.arange(num_size) < num
    resize /= jnp.maximum(resize.sum(1, keepdims=True), 1e-6)
    fourier = fourier_matrix(
        frame.count, num, size=len(slices), num_size=num_size, mirror=True)
    highest = lax.Precision.HIGHEST
    matrix = jnp.matmul(resize, fourier, precision=highest)
    values = jnp.einsum('nd,dyx->nyx', matrix, slices, precision=highest)

    scanned = (below_mm >= 0) & (below_mm < length_mm)
    values = jnp.where(scanned[:, None, None], values, AIR_HU)
    low = window_centre - window_width / 2
    values = jnp.clip((values - low) / window_width, 0.0, 1.0)
    values = values.reshape(size, *shape, 1) * mask[:, None, None, None, None]

    first_mm = jnp.stack([firsts, *(jnp.full(size, c) for c in corner[1:])], axis=1)
    position = (starts + jnp.minimum(height_mm, length_mm) / 2) / length_mm
    return Patches(values, mask.astype(jnp.float32), position * mask, first_mm,
                   pitch_mm, frame)


@jax.jit
def patch_to_voxel(patches, numbers, places):
    """Patch voxels -> the scan's voxels.

    Args:
        patches: Patches.
        numbers: [...] int, which patch.
        places: [..., 3], (i, j, l), voxel centres at whole numbers.

    Returns:
        float32 [..., 3], (d, h, w), voxel centres at whole numbers.
    """
    first_mm = jnp.asarray(patches.first_mm)[numbers]
    return column_to_voxel(
        patches.frame, first_mm + (places + 0.5) * patches.pitch_mm)


@jax.jit
def voxel_to_patch(patches, voxels):
    """The scan's voxels -> patch voxels; where patches overlap, in the nearer one.

    Args:
        patches: Patches.
        voxels: [..., 3], (d, h, w).

    Returns:
        Numbers [...] int32 of the patch whose middle is nearest in height, places
        float32 [..., 3] in it (i, j, l), and whether the place is within it [...].
    """
    points_mm = voxel_to_column(patches.frame, voxels)
    shape = jnp.array(patches.values.shape[1:4])
    middles = patches.first_mm[:, 0] + shape[0] * patches.pitch_mm[0] / 2
    away = jnp.abs(points_mm[..., :1] - middles)
    numbers = jnp.argmin(jnp.where(patches.mask > 0, away, jnp.inf), axis=-1)
    first_mm = jnp.asarray(patches.first_mm)[numbers]
    places = (points_mm - first_mm) / patches.pitch_mm - 0.5
    # Edges belong to the patch, and float32 leaves about 1e-4 of a voxel.
    inside = jnp.all((places >= -0.501) & (places <= shape - 0.499), axis=-1)
    return numbers.astype(jnp.int32), places, inside


@jax.jit
def box_to_voxels(patches, numbers, low, high):
    """Boxes in patches -> the smallest boxes of the scan that hold them.

    The cord bends within a box, so the box in the scan is wider than the box in the
    straightened patch, by as much as the cord moves sideways over its height.

    Args:
        patches: Patches.
        numbers: [n] int, which patch.
        low, high: [n, 3], opposite corners (i, j, l), voxel centres at whole
            numbers: the whole of voxel i is from i - 1/2 to i + 1/2.

    Returns:
        Corners [n, 3] and [n, 3], (d, h, w), in the same convention.
    """
    frame, first_mm = patches.frame, jnp.asarray(patches.first_mm)[numbers]
    low_mm = first_mm + (low + 0.5) * patches.pitch_mm
    high_mm = first_mm + (high + 0.5) * patches.pitch_mm
    top = column_to_voxel(frame, low_mm)[:, 0]
    bottom = column_to_voxel(frame, high_mm)[:, 0]
    # The path is straight between slices: extremes lie on slices or at the ends.
    slices = jnp.arange(len(frame.centre_mm))
    within = (slices >= bottom[:, None]) & (slices <= top[:, None])
    ends = jnp.stack([cord_mm(frame, bottom), cord_mm(frame, top)], axis=1)
    centres = jnp.broadcast_to(frame.centre_mm, (len(low), *frame.centre_mm.shape))
    within, infinity = within[..., None], jnp.inf
    least = jnp.where(within, centres, infinity).min(1)
    most = jnp.where(within, centres, -infinity).max(1)
    least, most = jnp.minimum(least, ends.min(1)), jnp.maximum(most, ends.max(1))
    in_plane = frame.spacing_mm[1:]
    return (
        jnp.concatenate(
            [bottom[:, None], (least + low_mm[:, 1:]) / in_plane], axis=1),
        jnp.concatenate([top[:, None], (most + high_mm[:, 1:]) / in_plane], axis=1))
