"""Looks for the spinal canal on a few axial slices of a scan (paper 001, 2.1)."""

import functools
from typing import NamedTuple

import jax
import numpy as np

from jaxmed.ct import axial
from jaxmed.models import yolo

_CANDIDATES = 3  # boxes of a slice that a path may choose from
_SAME_IOU = 0.3  # boxes that overlap by more are one


class Detections(NamedTuple):
    """The likeliest boxes of the slices that were looked at, in their order."""

    slices: np.ndarray  # int [n], d of the volume, ascending
    boxes: np.ndarray  # float64 [n, candidates, 4]: h0, w0, h1, w1 in voxels, from the
    # outer corner of the first one; the surest first
    confidence: np.ndarray  # float64 [n, candidates] in [0, 1]; 0 where there is none


def detect(
    apply, volume_hu, spacing_mm, *, size_px, pixel_mm, step_mm, min_confidence,
    batch_size,
):
    """Detects on slices a step apart, and near those where nothing is sure.

    An unsure slice is one of streaks, of a disc, or above or below the spine: it is
    looked for again a quarter and half of a step below and above it.

    Args:
        apply: raw batch -> boxes and confidences [B, ..., 5] as yolo.decode's.
        volume_hu: int16 [D, H, W].
        spacing_mm: (d, h, w).
        size_px, pixel_mm: of axial.resample.
        step_mm: between two slices (30 in the paper).
        min_confidence: below it a slice is unsure.
        batch_size: slices at once.

    Returns:
        Detections, of all slices that were looked at, unsure ones too.
    """
    depth = len(volume_hu)
    # A path needs two slices that are sure: a short scan is looked at thrice.
    step = max(1, min(round(step_mm / spacing_mm[0]), depth // 3))
    first = ((depth - 1) % step) // 2  # as far from the lower end as from the upper
    places = list(range(first, depth, step))
    look = functools.partial(
        _look, apply, volume_hu, spacing_mm, size_px=size_px, pixel_mm=pixel_mm,
        batch_size=batch_size,
    )
    found = look(places)
    unsure = [p for p in places if found[p][1][0] < min_confidence]
    shifts = {round(step * share) for share in (-0.5, -0.25, 0.25, 0.5)} - {0}
    again = sorted({
        p + shift for p in unsure for shift in shifts if 0 <= p + shift < depth
    } - set(places))
    found |= look(again)
    slices = sorted(found)
    return Detections(
        np.array(slices), np.stack([found[s][0] for s in slices]),
        np.stack([found[s][1] for s in slices]),
    )


def _look(apply, volume_hu, spacing_mm, places, *, size_px, pixel_mm, batch_size):
    """{slice: (boxes [candidates, 4], confidences [candidates])}."""
    grid = dict(size_px=size_px, pixel_mm=pixel_mm)
    found, sides = {}, volume_hu.shape[1:]
    for start in range(0, len(places), batch_size):
        some = places[start:start + batch_size]
        # Filled up with the last one: a single shape is compiled for.
        filled = some + some[-1:] * (batch_size - len(some))
        squares = axial.resample(volume_hu[filled], spacing_mm[1:], **grid)
        best = np.asarray(_choose(apply({'inputs': squares[..., None]})))
        corners = best[..., [1, 0, 3, 2]].reshape(len(best), _CANDIDATES, 2, 2)
        boxes = axial.from_square(corners, sides, spacing_mm[1:], **grid)
        for place, box, sure in zip(some, boxes, best[..., 4]):
            found[place] = box.reshape(_CANDIDATES, 4), sure.astype(np.float64)
    return found


_choose = jax.jit(functools.partial(
    yolo.suppress, iou_limit=_SAME_IOU, count=_CANDIDATES
))
