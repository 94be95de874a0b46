"""The curved spine made straight: a box around the cord on every slice, stacked.

Three coordinate systems, and maps between them:
  voxel   (d, h, w) of the scan, voxel centres at whole numbers
  column  mm (below the top of the scan, behind the cord, to the left of the cord)
  patient LPS mm, through the volume's affine

Slices stay the scan's own axial slices, only shifted so that the cord is straight:
heights stay true heights, which is what a fracture is graded by.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmed.ct.buckets import bucket
from jaxmed.ct.fourier import fourier_matrix

AIR_HU = -1024  # beyond the edge of the scan

# Slices that go to the device at once. At 0.3 mm a box of 150 mm is 512 pixels wide:
# 16 MiB as int16, four times that at work.
BLOCK = 32


class Box(NamedTuple):
    """What is cut out of each slice around the cord: Box(60, 60, 60) for all of it.

    The bodies lie before the cord. Measured from the canal's middle on two masks of
    real spines, T9 to L5, 99.9% of the voxels lie within 47 mm before it (an L1 body
    with its rim: 48.2 mm at most), 46 mm behind it (the tip of a spinous process:
    52.3 mm) and 46 mm to each side (a transverse process of L3: 52.8 mm); bodies
    alone within 48, -5 and 31 mm. 60 mm leave 7 mm and more for larger people,
    osteophytes, and a path that is not quite in the middle.
    """

    front_mm: float  # before the cord's centre
    back_mm: float  # behind it
    half_width_mm: float  # to each side


class Frame(NamedTuple):
    """A scan's geometry along its cord; arrays, so that it passes through jit."""

    spacing_mm: Any  # float32 [3], along (d, h, w)
    count: Any  # [] int32, slices of the scan
    centre_mm: Any  # float32 [D', 2], the cord; D' >= count, the last one repeated


class Column(NamedTuple):
    """A straightened spine: rows from head to feet, front to back, right to left."""

    values_hu: np.ndarray  # float32 [N, Y, X]
    frame: Frame
    first_mm: np.ndarray  # float32 [3], column mm of the outer corner of [0, 0, 0]
    pitch_mm: np.ndarray  # float32 [3], from one sample to the next


def make_frame(path, *, spacing_mm):
    """Binds a Path [D] to the scan's spacing [3], in the size of its bucket."""
    centre_mm = np.asarray(path.centre_mm, np.float32)
    spacing_mm = np.asarray(spacing_mm, np.float32)
    if centre_mm.ndim != 2 or centre_mm.shape[1] != 2 or spacing_mm.shape != (3,):
        raise ValueError(
            f'path {centre_mm.shape} and spacing {spacing_mm.shape}, expected [D, 2] '
            'and [3]')
    if not np.isfinite(centre_mm).all() or not np.all(spacing_mm > 0):
        raise ValueError(f'path or spacing_mm={spacing_mm} not finite or not above 0')
    count = len(centre_mm)
    fill = bucket(count) - count
    return Frame(
        spacing_mm, np.int32(count), np.pad(centre_mm, ((0, fill), (0, 0)), 'edge'))


def straighten(volume_hu, frame, *, box, pixel_mm):
    """Reconstructs the column around the cord with (nearly) cubic voxels.

    Each slice is sampled around the cord (see `sample_slices`), then the stack is
    resampled along the column by the Fourier method, continued by its mirror image.
    Pixels are exactly as large as divides the box and the scan's length evenly: N
    rows of D * spacing / N mm, N = round(D * spacing / pixel_mm). The paper takes
    each scan's own pixel size; a common one makes scans comparable.

    [:, :, X // 2] is the sagittal picture through the cord; with a wider box,
    [:, y, :] at 20 to 25 mm before the cord is a coronal one through the bodies.

    Sample [n, y, x] lies at first_mm + ((n, y, x) + 1/2) * pitch_mm in column mm.

    Args:
        volume_hu: int16 [D, H, W], feet first, front first, right first.
        frame: Frame of the scan.
        box: Box.
        pixel_mm: distance between samples, about.

    Returns:
        Column; NumPy.
    """
    extent_mm = _extent_mm(box)
    shape = tuple(max(round(side / pixel_mm), 1) for side in extent_mm)
    length_mm = len(volume_hu) * float(frame.spacing_mm[0])
    num = max(round(length_mm / pixel_mm), 1)
    slices = sample_slices(volume_hu, frame, box=box, shape=shape)
    rows = _resample_rows(slices, frame.count, num, num_size=bucket(num))
    pitch_mm = (length_mm / num, *(e / s for e, s in zip(extent_mm, shape)))
    return Column(
        # Contiguous and of its own: not a view that keeps the whole bucket.
        np.array(np.asarray(rows)[:num][::-1]), frame, corner_mm(box),
        np.array(pitch_mm, np.float32))


def corner_mm(box):
    """The box's upper, front, right corner in column mm, float32 [3]."""
    return np.array([0, -box.front_mm, -box.half_width_mm], np.float32)


def _extent_mm(box):
    extent_mm = (box.front_mm + box.back_mm, 2 * box.half_width_mm)
    if min(extent_mm) <= 0:
        raise ValueError(f'{box} is empty')
    return extent_mm


@partial(jax.jit, static_argnames='num_size')
def _resample_rows(slices, count, num, *, num_size):
    matrix = fourier_matrix(
        count, num, size=len(slices), num_size=num_size, mirror=True)
    return jnp.einsum(
        'nd,dyx->nyx', matrix, slices, precision=lax.Precision.HIGHEST)


def sample_slices(volume_hu, frame, *, box, shape):
    """Samples the box around the cord on every slice.

    Linear between pixels; where samples are further apart than pixels, a mean over
    their surroundings (see `linear_weights`). Only a window around the box goes to
    the device, in blocks of slices, so that neither its memory nor the compiled
    shapes depend on the scan's size: a volume may as well be a memory map.

    Args:
        volume_hu: int16 [D, H, W].
        frame: Frame of the scan.
        box: Box.
        shape: samples (Y, X), evenly spread over the box: sample (y, x) at
            ((y, x) + 1/2) * extent / shape from the box's front right edge.

    Returns:
        float32 [D', Y, X] in HU on the device, feet first as the scan; 0 past the
        last slice, and AIR_HU outside of the scan.
    """
    count = int(frame.count)
    if volume_hu.ndim != 3 or volume_hu.dtype != np.int16 or len(volume_hu) != count:
        raise ValueError(
            f'volume is {volume_hu.dtype} {volume_hu.shape}, expected int16 [D, H, W] '
            f'with the {count} slices of the path')
    pitch_mm = np.array(_extent_mm(box), np.float32) / np.array(shape, np.float32)
    ratio = pitch_mm / frame.spacing_mm[1:]
    reach = np.ceil(_reach(ratio)).astype(int)
    window = tuple(
        bucket(math.ceil((s - 1) * r) + 2 * m + 2)
        for s, r, m in zip(shape, ratio, reach))
    corners, offsets = _place_windows(
        frame.centre_mm, frame.spacing_mm, corner_mm(box)[1:] + pitch_mm / 2, reach)
    corners = np.asarray(corners)

    slices = jnp.zeros((len(frame.centre_mm), *shape), jnp.float32)
    for first in range(0, count, BLOCK):
        block = np.full((BLOCK, *window), AIR_HU, np.int16)
        for number, d in enumerate(range(first, min(first + BLOCK, count))):
            _copy_window(volume_hu[d], corners[d], block[number])
        slices = _sample_block(
            slices, block, offsets, ratio, np.int32(first), np.int32(count))
    return slices


@jax.jit
def _place_windows(centre_mm, spacing_mm, first_mm, reach):
    """Whole pixels where windows start [D', 2], and the first sample's place there."""
    index = (centre_mm + first_mm) / spacing_mm[1:]
    corners = jnp.floor(index).astype(jnp.int32) - reach
    return corners, index - corners


def _copy_window(image, corner, window):
    """Copies what of `image` lies in the window; the rest of it stays as it is."""
    low = np.maximum(corner, 0)
    high = np.minimum(corner + window.shape, image.shape)
    if np.all(high > low):
        (top, left), (bottom, right) = low - corner, high - corner
        window[top:bottom, left:right] = image[low[0]:high[0], low[1]:high[1]]


@partial(jax.jit, donate_argnums=0)
def _sample_block(slices, block, offsets, ratio, first, count):
    offsets = lax.dynamic_slice_in_dim(offsets, first, len(block))
    rows, columns = (
        linear_weights(
            offsets[:, axis, None] + ratio[axis] * jnp.arange(slices.shape[axis + 1]),
            ratio[axis], size=block.shape[axis + 1])
        for axis in (0, 1))
    highest = lax.Precision.HIGHEST
    sampled = jnp.einsum(
        'byh,bhw->byw', rows, block.astype(jnp.float32), precision=highest)
    sampled = jnp.einsum('byw,bxw->byx', sampled, columns, precision=highest)
    real = first + jnp.arange(len(block)) < count
    sampled = jnp.where(real[:, None, None], sampled, 0.0)
    return lax.dynamic_update_slice_in_dim(slices, sampled, first, 0)


def _spread(ratio):
    """Pixels over which `linear_weights` averages."""
    return (2 * np.maximum(ratio * ratio - 1, 0)) ** 0.5


def _reach(ratio):
    """How far from a sample pixels still count in `linear_weights`."""
    return 1 + _spread(ratio) / 2


def linear_weights(centres, ratio, *, size):
    """What each pixel counts in samples by linear interpolation, antialiased.

    Up to one pixel from sample to sample plainly linear. Beyond, the mean of the
    linear interpolation over sqrt(2 (ratio^2 - 1)) pixels around the sample: as wide
    as the usual triangle of half-width `ratio` (equal variances), but the triangle
    cut into pixels shifts edges by up to a few hundredths of a pixel; this is exact
    on any ramp, so what it samples stays in its place.

    Args:
        centres: [...], where samples lie; pixel centres are at whole numbers.
        ratio: [], pixels from one sample to the next.
        size: number of pixels.

    Returns:
        float32 [..., size]; not normalised: pixels beyond 0 to size - 1 are missing.
    """
    away = centres[..., None] - jnp.arange(size)
    triangle = jnp.maximum(1 - jnp.abs(away), 0.0)

    def cumulative(x):  # of the triangle, in a form that is exact at both ends
        x = jnp.clip(x, -1, 1)
        return 0.5 + x - 0.5 * x * jnp.abs(x)

    spread = jnp.sqrt(2 * jnp.maximum(ratio * ratio - 1, 0.0))
    half = jnp.maximum(spread, 0.02) / 2
    mean = (cumulative(away + half) - cumulative(away - half)) / (2 * half)
    # Below it the difference is lost in rounding, and the mean is the triangle.
    return jnp.where(spread < 0.02, triangle, mean)


@jax.jit
def column_to_voxel(frame, points_mm):
    """Column mm -> the scan's voxels.

    Args:
        frame: Frame.
        points_mm: [..., 3], (below the top edge of the uppermost slice, behind the
            cord, to the left of the cord).

    Returns:
        float32 [..., 3], (d, h, w). Beyond the scan's ends the cord counts as
        vertical.
    """
    d = frame.count - 0.5 - points_mm[..., 0] / frame.spacing_mm[0]
    in_plane = (points_mm[..., 1:] + cord_mm(frame, d)) / frame.spacing_mm[1:]
    return jnp.concatenate([d[..., None], in_plane], axis=-1)


@jax.jit
def voxel_to_column(frame, voxels):
    """The scan's voxels (d, h, w) [..., 3] -> column mm, float32 [..., 3]."""
    d = voxels[..., 0]
    below = (frame.count - 0.5 - d) * frame.spacing_mm[0]
    in_plane = voxels[..., 1:] * frame.spacing_mm[1:] - cord_mm(frame, d)
    return jnp.concatenate([below[..., None], in_plane], axis=-1)


def cord_mm(frame, d):
    """The cord's centre in mm at fractional slices, [..., 2]."""
    d = jnp.clip(d, 0, frame.count - 1)
    low = jnp.clip(jnp.floor(d).astype(jnp.int32), 0, frame.count - 1)
    share = (d - low)[..., None]
    high = jnp.minimum(low + 1, frame.count - 1)
    centre_mm = jnp.asarray(frame.centre_mm)
    return centre_mm[low] * (1 - share) + centre_mm[high] * share


def voxel_to_patient(affine, voxels):
    """The scan's voxels (d, h, w) [..., 3] -> patient LPS mm (x, y, z), [..., 3].

    NumPy float64: a scanner's origin may lie metres away.
    """
    affine = np.asarray(affine, np.float64)
    return np.asarray(voxels, np.float64) @ affine[:3, :3].T + affine[:3, 3]


def patient_to_voxel(affine, points_mm):
    """The inverse of `voxel_to_patient`."""
    affine = np.asarray(affine, np.float64)
    offset = np.asarray(points_mm, np.float64) - affine[:3, 3]
    return offset @ np.linalg.inv(affine[:3, :3]).T
