"""Pictures of any size through a network of one size: windows out, maps back.

The network is compiled once, for [batch_size, window, window, 3]. A picture goes to
the device as a flat list of pixels whose length is rounded up to a power of two, and
its height and width go along as numbers, so that cutting and blending compile once
per power of two (ten times from 128 x 128 to eight megapixels), never per size. A
canvas rounded up in both sides would waste more memory and meet the square of that.

Nothing waits for the device between two batches: cut, network and blend are queued,
and only the finished map comes back.
"""

from functools import partial

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

# What a window counts at its very edge, where a network sees half of the context,
# relative to its middle. Above zero: at a picture's corner nobody else votes.
EDGE_WEIGHT = 1e-2


def window_starts(length, window, stride):
    """Starts of windows that cover [0, length) completely.

    The last window is shifted back to end at the border, so it may overlap its
    neighbour by more than window - stride.

    Args:
        length: pixels to cover, at least 1.
        window: pixels of a window. A length of at most one window gives [0].
        stride: pixels from one start to the next, in [1, window].

    Returns:
        list of int, ascending.
    """
    if length < 1:
        raise ValueError(f'length={length}, expected at least 1')
    if not 1 <= stride <= window:
        raise ValueError(f'stride={stride}, expected 1 to window={window}')
    last = max(length - window, 0)
    return [*range(0, last, stride), last]


def predict_windows(apply, image, *, window, overlap, batch_size):
    """Sliding windows, blended by a raised cosine.

    Args:
        apply: uint8 [batch_size, window, window, 3] -> probabilities
            [batch_size, window, window, K], compiled by the caller.
        image: uint8 [H, W, 3], RGB, of any size; a side shorter than a window is
            continued by reflection.
        window: pixels of a window's side.
        overlap: pixels that neighbouring windows share at least, in [0, window).
        batch_size: windows a call of `apply`; the last call is filled up with
            windows of no weight.

    Returns:
        float32 [H, W, K], NumPy.
    """
    return queue_windows(
        apply, image, window=window, overlap=overlap, batch_size=batch_size)()


def queue_windows(apply, image, *, window, overlap, batch_size):
    """As `predict_windows`, but returns at once: call what it returns for the map.

    Lets the host decode the next picture while the device works on this one.
    """
    _check(image)
    height, width = image.shape[:2]
    corners = [
        (top, left)
        for top in window_starts(height, window, window - overlap)
        for left in window_starts(width, window, window - overlap)
    ]
    total = _sweep(apply, image, corners, _blend, window, batch_size)
    return lambda: _fetch(_normalise(total), height, width)


def find_crops(image, *, window, threshold, min_area):
    """Corners of the windows paper 002 predicts: one around each dark region.

    Grey value at most `threshold`, 8-connected, at least `min_area` pixels; a
    window around the centre of the bounding box, moved inside the picture.

    Returns:
        list of (top, left), in the order of the regions' first pixels, as
        skimage.measure.label numbers them.
    """
    dark = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) <= threshold
    regions, _ = ndimage.label(dark, structure=np.ones((3, 3)))
    areas = np.bincount(regions.ravel())
    corners = []
    for index, box in enumerate(ndimage.find_objects(regions), start=1):
        if areas[index] < min_area:
            continue
        corners.append(tuple(
            max(0, min((side.start + side.stop - window) // 2, length - window))
            for side, length in zip(box, image.shape)))
    return corners


def predict_crops(apply, image, *, window, threshold, min_area, batch_size):
    """The way of paper 002 ('Submission Data'): only windows around dark regions.

    Pasted, not blended: where windows overlap the later region overwrites the
    earlier one, as in the paper, even if it cuts the earlier cell at the window's
    edge. Outside all windows the probability is 0. Two departures: pixels under the
    paper's CLEAN_THRESH are not painted white (its value is not published), and a
    picture smaller than a window is continued by reflection, not skipped.

    Args:
        apply, image, window, batch_size: as in `predict_windows`.
        threshold: grey value in [0, 255] up to which a pixel is dark.
        min_area: pixels; the paper takes 500.

    Returns:
        float32 [H, W, K], NumPy.
    """
    _check(image)
    corners = find_crops(
        image, window=window, threshold=threshold, min_area=min_area)
    total = _sweep(apply, image, corners, _paste, window, batch_size)
    return _fetch(total[:, :-1], *image.shape[:2])


def stitch(tiles, origins, size_hw):
    """Puts a case's tiles back; where they overlap, their mean.

    Args:
        tiles: [n, h, w, ...], numbers.
        origins: [n, 2], row and column of each tile's first pixel. What lies
            outside the picture (the padding of a small one) is cut off.
        size_hw: height and width of the picture.

    Returns:
        float32 [H, W, ...]; 0 where no tile is.
    """
    tiles = np.asarray(tiles)
    height, width = (int(side) for side in size_hw)
    total = np.zeros((height, width, *tiles.shape[3:]), np.float32)
    count = np.zeros((height, width) + (1,) * (tiles.ndim - 3), np.float32)
    for tile, (top, left) in zip(tiles, np.asarray(origins).astype(int)):
        rows = slice(max(top, 0), min(top + tile.shape[0], height))
        columns = slice(max(left, 0), min(left + tile.shape[1], width))
        inside = tile[rows.start - top:rows.stop - top,
                      columns.start - left:columns.stop - left]
        total[rows, columns] += inside
        count[rows, columns] += 1
    return total / np.maximum(count, 1)


def _check(image):
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f'image is {image.dtype} {image.shape}, expected uint8 [H, W, 3]')
    if 0 in image.shape:
        raise ValueError(f'image of {image.shape} has no pixels')


def _sweep(apply, image, corners, place, window, batch_size):
    """Queues all batches; returns the sums [pixels, K + 1], still on the device."""
    count = max(len(corners), 1)  # no region: one empty batch tells what K is
    count += -count % batch_size
    order = np.zeros(count, np.int32)  # 0 marks a window that only fills the batch
    order[:len(corners)] = 1 + np.arange(len(corners))
    tops_lefts = np.zeros((count, 2), np.int32)
    tops_lefts[:len(corners)] = np.reshape(corners, (-1, 2))

    size = np.array(image.shape[:2], np.int32)
    pixels = np.zeros((_bucket(size.prod(), window), 3), np.uint8)
    pixels[:size.prod()] = image.reshape(-1, 3)
    pixels = jax.device_put(pixels)

    total = None
    for first in range(0, count, batch_size):
        batch = slice(first, first + batch_size)
        inputs = _cut(pixels, size, tops_lefts[batch], window=window)
        probabilities = apply(inputs)
        if total is None:
            total = jnp.zeros(
                (len(pixels), probabilities.shape[-1] + 1), jnp.float32)
        total = place(total, size, tops_lefts[batch], order[batch], probabilities)
    return total


def _bucket(count, window):
    """The next power of two, and at least one window: few shapes, at most 2x."""
    return 1 << (max(int(count), window * window) - 1).bit_length()


def _fetch(pixels, height, width):
    # A copy: on a CPU `asarray` is a read-only view that keeps the whole bucket.
    return np.array(np.asarray(pixels)[:height * width]).reshape(height, width, -1)


def _rows_columns(corners, window):
    """Where the pixels of windows lie: rows [B, window, 1], columns [B, 1, window]."""
    offsets = jnp.arange(window)
    rows = corners[:, 0, None, None] + offsets[:, None]
    columns = corners[:, 1, None, None] + offsets
    return rows, columns


def _reflect(position, length):
    """Maps any position into [0, length) by mirrors at the outermost pixels."""
    period = jnp.maximum(2 * (length - 1), 1)
    position = position % period
    return jnp.minimum(position, period - position)


@partial(jax.jit, static_argnames='window')
def _cut(pixels, size, corners, *, window):
    """Windows [B, window, window, 3] of a picture given as a list of pixels."""
    rows, columns = _rows_columns(corners, window)
    return pixels[_reflect(rows, size[0]) * size[1] + _reflect(columns, size[1])]


def _destinations(total, size, corners, order, window):
    """Index of each pixel in `total` [B, window, window]; past its end for none."""
    rows, columns = _rows_columns(corners, window)
    inside = (rows < size[0]) & (columns < size[1]) & (order[:, None, None] > 0)
    return jnp.where(inside, rows * size[1] + columns, len(total))


@partial(jax.jit, donate_argnums=0)
def _blend(total, size, corners, order, probabilities):
    """Adds windows times their weight, and the weight as the last column."""
    window = probabilities.shape[1]
    wave = jnp.sin(jnp.pi * (jnp.arange(window) + 0.5) / window) ** 2
    side = EDGE_WEIGHT + (1 - EDGE_WEIGHT) * wave
    weight = jnp.broadcast_to(
        (side[:, None] * side)[None, :, :, None], (*probabilities.shape[:3], 1))
    votes = jnp.concatenate([probabilities.astype(jnp.float32) * weight, weight], -1)
    where = _destinations(total, size, corners, order, window)
    return total.at[where].add(votes, mode='drop')


@partial(jax.jit, donate_argnums=0)
def _paste(total, size, corners, order, probabilities):
    """Overwrites; the last column holds the number of the window that wrote last.

    A scatter that meets a pixel twice keeps either value, so the winner is decided
    first, by a maximum, and only the winner writes.
    """
    where = _destinations(total, size, corners, order, probabilities.shape[1])
    number = order.astype(jnp.float32)[:, None, None]
    last = total[:, -1].at[where].max(number, mode='drop')
    won = last.at[where].get(mode='fill', fill_value=-1) == number
    votes = jnp.concatenate([
        probabilities.astype(jnp.float32),
        jnp.broadcast_to(number[..., None], (*where.shape, 1))], -1)
    return total.at[jnp.where(won, where, len(total))].set(votes, mode='drop')


@jax.jit
def _normalise(total):
    weight = total[:, -1:]
    return jnp.where(weight > 0, total[:, :-1] / jnp.where(weight > 0, weight, 1), 0)
