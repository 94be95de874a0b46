"""Axial slices as the detector sees them: one pixel size, one number of pixels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

AIR_HU = -1024
_BUCKET_PX = 256  # slices are padded to multiples, so that few sizes are compiled


def resample(slices_hu, spacing_mm, *, size_px, pixel_mm):
    """Slices of any size -> the square around their middle, antialiased.

    What is outside of a slice is air.

    Args:
        slices_hu: int16 [n, H, W].
        spacing_mm: (down, right) of a pixel.
        size_px, pixel_mm: pixels of a side, and what each measures.

    Returns:
        int16 [n, size_px, size_px] on the device.
    """
    sides = slices_hu.shape[1:]
    padded = np.full(
        (len(slices_hu), *(-(-side // _BUCKET_PX) * _BUCKET_PX for side in sides)),
        AIR_HU, np.int16,
    )
    padded[:, :sides[0], :sides[1]] = slices_hu
    scale = np.asarray(spacing_mm, np.float32) / pixel_mm
    return _resample(
        padded, scale, size_px / 2 - np.float32(sides) * scale / 2, size_px=size_px
    )


@functools.partial(jax.jit, static_argnames='size_px')
def _resample(slices_hu, scale, translation, *, size_px):
    # Places outside come out as 0, which is to be air.
    values = jax.image.scale_and_translate(
        slices_hu.astype(jnp.float32) - AIR_HU, (len(slices_hu), size_px, size_px),
        (1, 2), scale, translation, method='linear',
    )
    return jnp.round(values + AIR_HU).astype(jnp.int16)


def to_square(places, sides, spacing_mm, *, size_px, pixel_mm):
    """(h, w) in voxels of a slice -> (y, x) in pixels of its square, [..., 2].

    Both count from the outer corner of the first pixel: its centre is at 0.5.
    """
    scale = np.asarray(spacing_mm) / pixel_mm
    return (np.asarray(places) - np.asarray(sides) / 2) * scale + size_px / 2


def from_square(places, sides, spacing_mm, *, size_px, pixel_mm):
    """The inverse of to_square."""
    scale = np.asarray(spacing_mm) / pixel_mm
    return (np.asarray(places) - size_px / 2) / scale + np.asarray(sides) / 2
