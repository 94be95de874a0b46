"""A YOLO9000-style detector of one class, for axial slices (paper 001, 2.1).

The image is a grid of cells. In each cell each anchor, a box of fixed size, predicts by
how much it is moved and stretched, and how sure it is to hold an object whose centre
lies in this cell (Redmon and Farhadi 2017, section 2, 'Direct location prediction').

Boxes are (x0, y0, x1, y1): x to the right and y down, in pixels of the input, the first
pixel reaching from 0 to 1.
"""

from typing import Any, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmed.models.layers import Conv, max_pool

_SLOPE = 0.1  # of the leaky ReLU


class YOLO(nn.Module):
    """Convolutions with batch norm, halved after each but the last few, then 1x1.

    Attributes:
        widths: features of the stages; between two of them the image is halved, so a
            cell is 2 ** (len(widths) - 1) pixels wide.
        depth: convolutions of the last stage, which look around.
        anchors: boxes (width, height) in pixels.
        dtype: what to compute in; parameters and outputs are float32.
        axis_name: mapped axis of the devices, for batch norm.
    """

    widths: Sequence[int]
    depth: int
    anchors: Sequence[tuple[float, float]]
    dtype: Any
    axis_name: str | None = None

    @nn.compact
    def __call__(self, inputs, *, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H / cell, W / cell, anchors, 5] float32.

        The last axis is (tx, ty, tw, th, to) as `decode` takes them. H and W are
        multiples of the cell.
        """
        x = inputs
        for stage, width in enumerate(self.widths):
            if stage:
                x = max_pool(x)
            for _ in range(self.depth if stage == len(self.widths) - 1 else 1):
                x = Conv(width, (3, 3), self.dtype, use_bias=False)(x)
                x = nn.BatchNorm(
                    use_running_average=not train, momentum=0.9, dtype=self.dtype,
                    axis_name=self.axis_name,
                )(x)
                x = nn.leaky_relu(x, _SLOPE)
        x = Conv(5 * len(self.anchors), (1, 1), self.dtype)(x)
        return x.reshape(*x.shape[:3], -1, 5).astype(jnp.float32)


def decode(outputs, *, anchors, cell_px):
    """What the network gives -> boxes and how sure each is.

    A centre lies at cell + sigmoid(t), a side is anchor * exp(t); the confidence, an
    estimate of the IoU with an object, is sigmoid(to).

    Args:
        outputs: [B, G, G', A, 5] of YOLO.
        anchors: A pairs (width, height) in pixels.
        cell_px: pixels of a cell.

    Returns:
        [B, G, G', A, 5] float32: x0, y0, x1, y1 in pixels, confidence in [0, 1].
    """
    rows, columns = outputs.shape[1:3]
    corner = jnp.stack(
        jnp.meshgrid(jnp.arange(columns), jnp.arange(rows)), axis=-1
    )[:, :, None]  # (x, y) of [G, G', 1]
    centre = (corner + jax.nn.sigmoid(outputs[..., :2])) * cell_px
    # exp is cut off: one wild output must not make an infinite box.
    half = jnp.array(anchors) * jnp.exp(jnp.clip(outputs[..., 2:4], -4.0, 4.0)) / 2
    sure = jax.nn.sigmoid(outputs[..., 4:])
    return jnp.concatenate([centre - half, centre + half, sure], axis=-1)


def iou(boxes, others):
    """Intersection over union of boxes [..., 4], broadcast; 0 where both are empty."""
    low = jnp.maximum(boxes[..., :2], others[..., :2])
    high = jnp.minimum(boxes[..., 2:4], others[..., 2:4])
    shared = jnp.prod(jnp.maximum(high - low, 0.0), axis=-1)
    sizes = sum(
        jnp.prod(jnp.maximum(b[..., 2:4] - b[..., :2], 0.0), axis=-1)
        for b in (boxes, others)
    )
    union = sizes - shared
    return jnp.where(union > 0, shared / jnp.where(union > 0, union, 1.0), 0.0)


def loss(outputs, boxes, present, *, anchors, cell_px, box_weight, background_weight):
    """How far one object an image is missed, and how much is seen that isn't there.

    Responsible is the anchor of the most similar shape in the cell of the object's
    centre: its offsets are drawn to the object's, its confidence to the IoU it has
    reached. Confidences elsewhere are drawn to 0, but for boxes that overlap the object
    with an IoU above 0.6. As in YOLO9000, except that confidences are compared by
    cross-entropy: squares of sigmoids hardly move where they are most wrong.

    Args:
        outputs: [B, G, G', A, 5] of YOLO.
        boxes: [B, 4]; anything where nothing is present.
        present: [B] in {0, 1, NaN}; NaN is unknown and costs nothing.
        anchors, cell_px: of decode.
        box_weight: of the offsets.
        background_weight: of confidences where no object is.

    Returns:
        [B] float32.
    """
    known = ~jnp.isnan(present)
    there = jnp.where(known, present, 0.0) > 0
    boxes = jnp.where(there[:, None], boxes, jnp.array([0.0, 0.0, 1.0, 1.0]))
    sizes = boxes[:, 2:] - boxes[:, :2]
    place = (boxes[:, :2] + boxes[:, 2:]) / 2 / cell_px
    rows, columns, count = outputs.shape[1:4]
    last = jnp.array([columns - 1, rows - 1])
    cell = jnp.clip(jnp.floor(place), 0, last).astype(jnp.int32)
    shapes = jnp.array(anchors)
    corner = jnp.zeros_like(sizes)
    similar = iou(  # of boxes laid on one corner
        jnp.concatenate([corner, sizes], axis=-1)[:, None],
        jnp.concatenate([jnp.zeros_like(shapes), shapes], axis=-1)[None],
    ).argmax(axis=-1)
    number = (cell[:, 1] * columns + cell[:, 0]) * count + similar
    flat = outputs.reshape(len(outputs), -1, 5)

    def chosen(x):
        return jnp.take_along_axis(x, number[:, None, None], axis=1)[:, 0]

    own = chosen(flat)
    found = decode(outputs, anchors=anchors, cell_px=cell_px).reshape(flat.shape)
    overlaps = jax.lax.stop_gradient(iou(found[..., :4], boxes[:, None]))
    reached = jnp.take_along_axis(overlaps, number[:, None], axis=1)[:, 0]
    moved = jax.nn.sigmoid(own[:, :2]) - (place - cell)
    stretched = own[:, 2:4] - jnp.log(sizes / shapes[similar])
    offsets = jnp.sum(moved**2 + stretched**2, axis=-1)
    responsible = there[:, None] & (jnp.arange(flat.shape[1]) == number[:, None])
    elsewhere = ~responsible & ~(there[:, None] & (overlaps > 0.6))
    background = jnp.sum(jax.nn.softplus(flat[..., 4]) * elsewhere, axis=-1)
    sure = jax.nn.softplus(own[:, 4]) - reached * own[:, 4]  # cross-entropy
    total = there * (box_weight * offsets + sure) + background_weight * background
    return jnp.where(known, total, 0.0)


def suppress(found, *, iou_limit, count):
    """Non-maximum suppression: the surest boxes, none of which overlaps a surer one.

    Args:
        found: [B, ..., 5] of decode, any number of axes between.
        iou_limit: boxes that overlap a kept one by more are dropped.
        count: boxes to keep.

    Returns:
        [B, count, 5], the surest first; zeros where there are no more.
    """

    def one(found):
        def keep(found, _):
            first = found[:, 4].argmax()
            rest = (iou(found[:, :4], found[first, :4]) <= iou_limit) & (
                jnp.arange(len(found)) != first
            )
            return found * rest[:, None], found[first]

        return jax.lax.scan(keep, found, length=count)[1]

    return jax.vmap(one)(found.reshape(len(found), -1, 5))
