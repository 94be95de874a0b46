"""Where the spinal cord runs: from detections on some slices to every slice."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmed.ct.buckets import bucket
from jaxmed.errors import ImageError

DETECTED, INTERPOLATED, EXTRAPOLATED = range(3)
KINDS = ('detected', 'interpolated', 'extrapolated')

# Over how much of an end its slope is taken. Two detections 30 mm apart, each off by
# 2 mm, give a slope that is off by 0.1; over a shorter stretch than _SHORTEST_MM it
# would be mostly noise, and the path goes on straight.
_SLOPE_OVER_MM, _SHORTEST_MM = 60.0, 15.0


class PathRules(NamedTuple):
    """What makes a detection sure and believable."""

    min_confidence: float  # in [0, 1]; less sure detections are not looked at
    tolerance_mm: float  # sideways, between two good detections on the same height
    max_slope: float  # mm sideways per mm of height
    max_jump_mm: float  # sideways, however great the height between two
    extrapolate_mm: float  # beyond the last detection: how far its slope is followed


class Path(NamedTuple):
    """The cord on every slice of a scan, NumPy, feet first as the slices."""

    centre_mm: np.ndarray  # float32 [D, 2]: h * spacing_h, w * spacing_w
    confidence: np.ndarray  # float32 [D], interpolated as the path is
    kind: np.ndarray  # int8 [D]: DETECTED, INTERPOLATED or EXTRAPOLATED


def trace_path(slices, centres_mm, confidences, *, num_slices, spacing_mm, where,
               rules):
    """Connects detections of the cord to a path through the whole scan.

    Of all detections the chain of greatest summed confidence is kept in which each
    can follow the one below: they lie on different slices, and apart sideways by at
    most tolerance_mm + max_slope * height between them, but never by more than
    max_jump_mm: else leaving out good detections would open a way to a bad one.
    A detector errs by taking the aorta, the trachea or the table for the canal,
    40 mm and more away; a mean or median of neighbours would be drawn by two such
    in a row, a chain leaves them out. Several detections on a slice are welcome: at
    most one stays.

    Between kept detections the path is linear. Beyond the last it follows the slope
    of the last 60 mm of detections (least squares) for `extrapolate_mm`, then stays:
    a spine bends back and does not run out of the body.

    Measured on two masks of real spines (T9 to S1), from canal to canal: at most
    0.46 mm sideways per mm over 30 mm of height, 0.53 over 60 mm and 32 mm in all
    over 100 mm; a sacrum leans by more. tolerance_mm=8, max_slope=0.8, max_jump_mm=40
    and extrapolate_mm=30 leave room for both.

    Args:
        slices: [M] int, slice d of each detection, in any order.
        centres_mm: [M, 2], (h * spacing_h, w * spacing_w) of each, where h and w are
            whole numbers at the centres of voxels.
        confidences: [M] in [0, 1].
        num_slices: D of the scan.
        spacing_mm: [3], along (d, h, w).
        where: names the scan in the error.
        rules: PathRules.

    Returns:
        Path of NumPy arrays [D].

    Raises:
        ImageError: fewer than two sure slices ('no spine found').
    """
    slices = np.asarray(slices, np.int32).reshape(-1)
    centres_mm = np.asarray(centres_mm, np.float32).reshape(-1, 2)
    confidences = np.asarray(confidences, np.float32).reshape(-1)
    if not len(slices) == len(centres_mm) == len(confidences):
        raise ValueError(
            f'{len(slices)} slices, {len(centres_mm)} centres and '
            f'{len(confidences)} confidences, expected as many of each')
    if np.any((slices < 0) | (slices >= num_slices)):
        raise ValueError(
            f'slices {slices.min()} to {slices.max()} of a scan of {num_slices}')

    # NaN is not at least anything, so that an undefined detection falls out too.
    sure = (confidences >= rules.min_confidence) & np.isfinite(centres_mm).all(1)
    found = len(set(slices[sure]))
    if found < 2:
        raise ImageError(where, f'no spine found: {found} sure slices, at least 2')
    order = np.flatnonzero(sure)[np.argsort(slices[sure], kind='stable')]
    size = bucket(len(order))

    def padded(values):
        fill = [(0, size - len(order))] + [(0, 0)] * (values.ndim - 1)
        return np.pad(values[order], fill)

    centre, confidence, kind, kept = jax.device_get(_trace(
        padded(slices), padded(centres_mm), padded(confidences), len(order),
        num_slices, np.float32(spacing_mm[0]), np.float32(rules.tolerance_mm),
        np.float32(rules.max_slope), np.float32(rules.max_jump_mm),
        np.float32(rules.extrapolate_mm),
        np.arange(bucket(num_slices), dtype=np.int32)))
    if kept < 2:
        raise ImageError(
            where, f'no spine found: {found} sure slices, none of which fit together')
    return Path(*(values[:num_slices].copy() for values in (centre, confidence, kind)))


@jax.jit
def _trace(slices, centres, confidences, count, num_slices, spacing_mm, tolerance_mm,
           max_slope, max_jump_mm, extrapolate_mm, slice_numbers):
    heights = slices * spacing_mm
    real = jnp.arange(len(slices)) < count
    rise = heights[:, None] - heights
    apart = jnp.linalg.norm(centres[:, None] - centres, axis=-1)
    allowed = jnp.minimum(tolerance_mm + max_slope * rise, max_jump_mm)
    follows = real[:, None] & real & (rise > 0) & (apart <= allowed)
    kept = _best_chain(confidences, real, follows)

    # The kept ones to the front; they stay in order of height.
    order = jnp.argsort(~kept, stable=True)
    heights, centres, confidences = heights[order], centres[order], confidences[order]
    total = kept.sum()
    among = jnp.arange(len(slices)) < total

    z = slice_numbers * spacing_mm
    searched = jnp.where(among, heights, jnp.inf)
    upper = jnp.clip(jnp.searchsorted(searched, z), 1, jnp.maximum(total - 1, 1))
    lower = upper - 1
    gap = heights[upper] - heights[lower]
    share = jnp.clip((z - heights[lower]) / jnp.where(gap > 0, gap, 1.0), 0.0, 1.0)
    centre = _mix(centres[lower], centres[upper], share[:, None])
    confidence = _mix(confidences[lower], confidences[upper], share)

    feet, head = heights[0], heights[total - 1]
    for end, second, beyond in ((0, 1, jnp.minimum(z - feet, 0)),
                                (total - 1, total - 2, jnp.maximum(z - head, 0))):
        distance = jnp.abs(heights - heights[end])
        reach = jnp.maximum(_SLOPE_OVER_MM, distance[second])
        near = among & (distance <= reach)
        slope = _slope(heights, centres, near)
        slope *= jnp.max(jnp.where(near, distance, 0)) >= _SHORTEST_MM
        slope *= jnp.minimum(
            1.0, max_slope / jnp.maximum(jnp.linalg.norm(slope), 1e-6))
        followed = jnp.clip(beyond, -extrapolate_mm, extrapolate_mm)
        centre += followed[:, None] * slope

    outside = (z < feet) | (z > head)
    kind = jnp.where(outside, EXTRAPOLATED, INTERPOLATED).astype(jnp.int8)
    where_kept = jnp.where(among, slices[order], len(slice_numbers))
    kind = kind.at[where_kept].set(DETECTED, mode='drop')
    return centre, confidence, kind, total


def _mix(a, b, share):
    # Not a + share * (b - a), which at 1 misses b by a rounding.
    return a * (1 - share) + b * share


def _slope(heights, centres, near):
    """Of the least-squares line through the detections `near`, [2]."""
    count = jnp.maximum(near.sum(), 1)
    z = jnp.where(near, heights - jnp.sum(heights * near) / count, 0.0)
    return z @ centres / jnp.maximum(z @ z, 1e-6)


def _best_chain(confidences, real, follows):
    """Which detections are in the chain of greatest confidence, [M] bool."""

    def extend(scores, number):
        before = jnp.where(follows[number], scores, -1.0)
        best = jnp.argmax(before)
        score = confidences[number] + jnp.maximum(before[best], 0.0)
        score = jnp.where(real[number], score, -1.0)
        return scores.at[number].set(score), jnp.where(before[best] < 0, -1, best)

    numbers = jnp.arange(len(real))
    scores, below = lax.scan(extend, jnp.zeros(len(real)), numbers)

    def walk_down(current, number):
        hit = number == current
        return jnp.where(hit, below[number], current), hit

    _, kept = lax.scan(walk_down, jnp.argmax(scores), numbers, reverse=True)
    return kept
