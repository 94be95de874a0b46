"""What each operator of a .tflite file computes, but those that unpack constants.

A builder maps a Node to (weights, compute, inputs used): a dict of arrays; (weights,
dtype, *inputs) -> output; and which tensors these inputs are.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmed.models.tflite_file import MAX_ACTIVATIONS, File

_PADDINGS = {0: 'SAME', 1: 'VALID'}
# ActivationFunctionType; TANH is left out, which LiteRT leaves out of convolutions.
_ACTIVATIONS = {
    0: lambda x: x,
    1: jax.nn.relu,
    2: lambda x: jnp.clip(x, -1, 1),
    3: jax.nn.relu6,
}

# Accelerators multiply float32 in fewer bits (TF32, bfloat16) unless they are told.
_EXACT = lax.Precision.HIGHEST


class Node(NamedTuple):
    """One operator of a file."""

    file: File
    kind: str
    options: Any  # flatbuffer.Table or None
    sources: tuple[int, ...]  # tensors
    result: int

    def refuse(self, reason):
        self.file.refuse(f'{self.kind} {reason}')

    def shape(self, place):
        """Of a source."""
        return self.file.shape(self.sources[place])

    @property
    def result_shape(self):
        return self.file.shape(self.result)

    def second_numbers(self):
        """The constant integers that are the second of two sources, or None."""
        return self.file.constant(self.sources[1], np.int32) if (
            len(self.sources) == 2) else None

    def option(self, field, kind, default, allowed, what):
        """A field of the options, or what `allowed` maps it to."""
        options = self.options
        value = default if options is None else options.number(field, kind, default)
        if value not in allowed:
            self.file.refuse(f'{self.kind}: {what} {value}')
        return allowed[value] if isinstance(allowed, dict) else value

    def activation(self, field):
        return self.option(field, 'b', 0, _ACTIVATIONS, 'activation')

    def strides(self, first):
        width, height = (
            self.option(first + place, 'i', 0, range(1, 17), 'stride')
            for place in (0, 1))
        return height, width


def _filters(node, first):
    sources = node.sources
    if len(sources) not in (2, 3):
        node.refuse(f'with {len(sources)} inputs')
    kernel = node.file.constant(sources[1], np.float32)
    if kernel is None:
        node.refuse('whose filters are not constant')
    if kernel.ndim != 4:
        node.refuse(f'with filters of shape {kernel.shape}')
    weights = {'kernel': kernel.transpose(first)}
    if len(sources) == 3 and sources[2] >= 0:
        bias = weights['bias'] = node.file.constant(sources[2], np.float32)
        if bias is None or bias.shape != weights['kernel'].shape[-1:]:
            node.refuse('whose biases are not constant, one a channel')
    return weights


def _conv_2d(node):
    weights = _filters(node, (1, 2, 3, 0))  # OHWI -> HWIO
    strides = node.strides(1)
    padding = node.option(0, 'b', 0, _PADDINGS, 'padding')
    activation = node.activation(3)
    for field in (4, 5):
        node.option(field, 'i', 1, (1,), 'dilation')
    pointwise = weights['kernel'].shape[:2] == (1, 1) and strides == (1, 1)

    def compute(weights, dtype, x):
        x, kernel = x.astype(dtype), weights['kernel'].astype(dtype)
        options = dict(
            precision=_EXACT if dtype == jnp.float32 else None,
            preferred_element_type=jnp.float32)
        if pointwise:
            y = jnp.einsum('bhwi,io->bhwo', x, kernel[0, 0], **options)
        else:
            y = lax.conv_general_dilated(
                x, kernel, strides, padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
                **options)
        return activation(y + weights['bias'] if 'bias' in weights else y)

    return weights, compute, node.sources[:1]


def _depthwise_conv_2d(node):
    weights = _filters(node, (1, 2, 0, 3))  # [1, h, w, C] -> HW1C
    strides = node.strides(1)
    padding = node.option(0, 'b', 0, _PADDINGS, 'padding')
    activation = node.activation(4)
    for field, name in ((3, 'depth multiplier'), (5, 'dilation'), (6, 'dilation')):
        default = 0 if field == 3 else 1
        node.option(field, 'i', default, (1,), name)
    channels = weights['kernel'].shape[-1]
    if node.shape(0)[-1:] != (channels,):
        node.refuse(f'of {channels} filters for another number of channels')

    def compute(weights, dtype, x):
        y = lax.platform_dependent(
            x, weights['kernel'],
            cpu=lambda x, kernel: _shifted_sum(x, kernel, strides, padding),
            default=lambda x, kernel: lax.conv_general_dilated(
                x, kernel, strides, padding, feature_group_count=channels,
                dimension_numbers=('NHWC', 'HWIO', 'NHWC'), precision=_EXACT),
        )
        return activation(y + weights['bias'] if 'bias' in weights else y)

    return weights, compute, node.sources[:1]


def _shifted_sum(x, kernel, strides, padding):
    """A depthwise convolution as a sum of shifted pictures, one for each weight."""
    size = kernel.shape[:2]
    pads = lax.padtype_to_pads(x.shape[1:3], size, strides, padding)
    # Behind a barrier, lest the loop ask of each pixel whether it is padding.
    x = lax.optimization_barrier(jnp.pad(x, ((0, 0), *pads, (0, 0))))
    out = [(n - k) // s + 1 for n, k, s in zip(x.shape[1:3], size, strides)]
    total = 0
    for row in range(size[0]):
        for column in range(size[1]):
            ends = [start + (n - 1) * s + 1
                    for start, n, s in zip((row, column), out, strides)]
            shifted = x[:, row:ends[0]:strides[0], column:ends[1]:strides[1]]
            total = total + shifted * kernel[row, column, 0]
    return total


def _max_pool_2d(node):
    strides = node.strides(1)
    window = tuple(
        node.option(field, 'i', 0, range(1, 65), 'window') for field in (4, 3))
    padding = node.option(0, 'b', 0, _PADDINGS, 'padding')
    activation = node.activation(5)

    def compute(weights, dtype, x):
        pooled = lax.reduce_window(
            x, jnp.array(-jnp.inf, x.dtype), lax.max, (1, *window, 1), (1, *strides, 1),
            padding)
        return activation(pooled)

    return {}, compute, node.sources[:1]


def _add(node):
    if len(node.sources) != 2:
        node.refuse(f'with {len(node.sources)} inputs')
    activation = node.activation(0)
    if node.shape(0) != node.shape(1):
        node.refuse('of tensors of two shapes')
    return {}, lambda weights, dtype, a, b: activation(a + b), node.sources


def _concatenation(node):
    activation = node.activation(1)
    rank = len(node.result_shape)
    # Negative axes count from the end; the pictures are never joined.
    allowed = {axis: axis % rank for axis in range(-rank, rank) if axis % rank}
    axis = node.option(0, 'i', 0, allowed, 'axis')
    return (
        {}, lambda weights, dtype, *xs: activation(jnp.concatenate(xs, axis)),
        node.sources)


def _reshape(node):
    # The shape is also the second input or an option; all say what the result's says.
    shape = node.result_shape[1:]
    return {}, lambda weights, dtype, x: x.reshape(x.shape[0], *shape), node.sources[:1]


def _pad(node):
    pads = node.second_numbers()
    rank = len(node.result_shape)
    if pads is None or pads.shape != (rank, 2):
        node.refuse('by what is not a constant of its rank')
    if np.any(pads < 0) or np.any(pads[0]):
        node.refuse(f'by {pads.tolist()}')
    widths = tuple(map(tuple, pads.tolist()))
    before, after = node.shape(0), node.result_shape
    if tuple(n + sum(w) for n, w in zip(before, widths)) != after:
        node.refuse(f'of {before} by {pads.tolist()} to {after}')
    return {}, lambda weights, dtype, x: jnp.pad(x, widths), node.sources[:1]


def _depth_to_space(node):
    block = node.option(0, 'i', 0, range(1, 65), 'block size')

    def compute(weights, dtype, x):
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height, width, block, block, channels // block**2)
        return x.transpose(0, 1, 3, 2, 4, 5).reshape(
            batch, height * block, width * block, -1)

    return {}, compute, node.sources[:1]


def _resize_bilinear(node):
    corners = bool(node.option(2, 'B', 0, (0, 1), 'align corners'))
    half = bool(node.option(3, 'B', 0, (0, 1), 'half pixels'))
    if corners and half:
        node.refuse('with both align corners and half pixels')
    size = node.second_numbers()
    before, after = node.shape(0), node.result_shape
    if size is None or len(before) != 4 or tuple(size) != after[1:3]:
        node.refuse('to what is not its constant size')
    rows, columns = (
        _interpolation(n, m, corners, half) for n, m in zip(before[1:3], after[1:3]))

    def compute(weights, dtype, x):
        x = jnp.einsum('yh,bhwc->bywc', rows, x, precision=_EXACT)
        return jnp.einsum('xw,bywc->byxc', columns, x, precision=_EXACT)

    return {}, compute, node.sources[:1]


def _interpolation(old, new, corners, half):
    """[new, old] float32: weights of linear interpolation between neighbours."""
    if old * new > MAX_ACTIVATIONS:
        raise ValueError(f'RESIZE_BILINEAR from {old} to {new}')
    scale = (old - 1) / (new - 1) if corners and new > 1 else old / new
    places = (np.arange(new) + 0.5) * scale - 0.5 if half else np.arange(new) * scale
    places = np.clip(places, 0, old - 1)
    low = np.floor(places).astype(int)
    high = np.minimum(low + 1, old - 1)
    share = (places - low).astype(np.float32)
    weights = np.zeros((new, old), np.float32)
    np.add.at(weights, (np.arange(new), low), 1 - share)
    np.add.at(weights, (np.arange(new), high), share)
    return weights


def _logistic(node):
    return {}, lambda weights, dtype, x: jax.nn.sigmoid(x), node.sources[:1]


BUILDERS = {
    'ADD': _add, 'CONCATENATION': _concatenation, 'CONV_2D': _conv_2d,
    'DEPTHWISE_CONV_2D': _depthwise_conv_2d, 'DEPTH_TO_SPACE': _depth_to_space,
    'LOGISTIC': _logistic, 'MAX_POOL_2D': _max_pool_2d, 'PAD': _pad,
    'RESHAPE': _reshape, 'RESIZE_BILINEAR': _resize_bilinear,
}
