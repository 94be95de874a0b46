"""Layers with the mathematics of Flax's, in forms that XLA runs fast on a CPU.

There XLA 0.10 runs forward convolutions well (YNNPACK), gradients by the kernel badly
(a convolution whose window is the image). The latter are matrix products here, and a
decoder neither upsamples nor concatenates. No accelerator was timed: it keeps XLA's
kernel gradients, but shares the other forms, which only leave work out.
"""

import functools
import math
from typing import Any, Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Images of fewer pixels share one matrix product: alone they are too little work.
_MIN_PIXELS = 1024
_ONE_EACH_SIDE = ((1, 1), (1, 1))


def _convolve(inputs, kernel, strides, padding):
    if min(inputs.shape[1:3]) < max(kernel.shape[:2]):
        inputs = _pad_apart(inputs, padding)
        padding = ((0, 0), (0, 0))
    return lax.conv_general_dilated(
        inputs, kernel, strides, padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )


def _pad_apart(inputs, padding, dilation=(1, 1)):
    """Pads rows and columns, and spreads them out, before a convolution and not in it.

    XLA computes a convolution over fewer pixels than its kernel has as plain loops on a
    CPU: 512 to 512 channels at 2 x 2 pixels take 270 ms, of the padded image 6 ms.
    """
    pads = [(*pad, gap - 1) for pad, gap in zip(padding, dilation)]
    return lax.optimization_barrier(
        lax.pad(inputs, jnp.zeros((), inputs.dtype), [(0, 0, 0), *pads, (0, 0, 0)])
    )


def _gradient_by_inputs(shape, kernel, grad, strides, padding):
    """Gradient of `convolve` by inputs of a shape: a forward convolution as it is."""
    sides = kernel.shape[:2]
    if min(grad.shape[1:3]) >= max(sides):
        inputs = jnp.zeros(shape, grad.dtype)  # its values do not matter
        _, transpose = jax.vjp(
            lambda x: _convolve(x, kernel, strides, padding), inputs)
        return transpose(grad)[0]
    pads = []
    for size, grown, side, step, pad in zip(
        shape[1:3], grad.shape[1:3], sides, strides, padding
    ):
        before = side - 1 - pad[0]
        pads.append((before, size + side - 1 - before - ((grown - 1) * step + 1)))
    return _convolve(
        _pad_apart(grad, pads, strides), kernel[::-1, ::-1].swapaxes(2, 3), (1, 1),
        ((0, 0), (0, 0)),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(inputs, kernel, strides, padding):
    """[B, H, W, C], [kh, kw, C, features] -> [B, H', W', features].

    Two-dimensional cross-correlation; differentiable once, in reverse mode.

    Args:
        inputs: [B, H, W, C].
        kernel: [kh, kw, C, features], of the same type.
        strides: (down, right).
        padding: ((top, bottom), (left, right)), in pixels.
    """
    return _convolve(inputs, kernel, strides, padding)


def _convolve_backward(strides, padding, residuals, grad):
    inputs, kernel = residuals
    return (
        _gradient_by_inputs(inputs.shape, kernel, grad, strides, padding),
        _gradient_by_kernel(inputs, kernel, grad, strides, padding),
    )


convolve.defvjp(lambda *args: (_convolve(*args), args[:2]), _convolve_backward)


def _gradient_by_kernel(inputs, kernel, grad, strides, padding):
    """Gradient of `convolve` by its kernel, whose values do not matter.

    On a CPU, one matrix product an image, contracted over pixels. Its left side holds
    the image once for each column of the kernel, shifted; its right side the output
    gradient once for each row. So kh + kw copies give all kh * kw taps, where im2col
    takes kh * kw; and of one image at a time they stay in the cache. A stride splits
    the rows: row = stride * tap + phase, phases on the left, taps on the right.
    """
    (kh, kw, channels, features), (down, right) = kernel.shape, strides
    batch, height, width, _ = grad.shape
    taps = -(-kh // down)
    rows, last = height + taps - 1, (width - 1) * right + 1
    top, sides = padding[0][0], padding[1]
    bottom = rows * down - inputs.shape[1] - top  # negative: rows no tap reaches
    per_step = 1 if height * width >= _MIN_PIXELS else batch

    def products(inputs, grad):
        def pad(x, rows, columns):  # lax.pad, as it also crops
            pads = [(0, 0, 0), (*rows, 0), (*columns, 0), (0, 0, 0)]
            return lax.pad(x, jnp.zeros((), x.dtype), pads)

        def add_product(step, total):
            image, image_grad = (
                lax.dynamic_slice_in_dim(x, step * per_step, per_step)
                for x in (inputs, grad)
            )
            image = pad(image, (top, bottom), sides)
            image_grad = pad(image_grad, (taps - 1, taps - 1), (0, 0))
            columns = [
                image[:, phase::down, j : j + last : right]
                for phase in range(down)
                for j in range(kw)
            ]
            shifts = [image_grad[:, taps - 1 - i :][:, :rows] for i in range(taps)]
            # As matrices: XLA is slower at contracting three axes.
            return total + jnp.matmul(
                jnp.concatenate(columns, axis=-1).reshape(-1, total.shape[0]).T,
                jnp.concatenate(shifts, axis=-1).reshape(-1, total.shape[1]),
                preferred_element_type=jnp.float32,
            )

        total = jnp.zeros((down * kw * channels, taps * features), jnp.float32)
        total = lax.fori_loop(0, batch // per_step, add_product, total)
        total = total.reshape(down, kw, channels, taps, features)
        total = total.transpose(3, 0, 1, 2, 4).reshape(-1, *kernel.shape[1:])
        return total[:kh].astype(kernel.dtype)

    def native(inputs, grad):
        _, by_kernel = jax.vjp(lambda k: _convolve(inputs, k, strides, padding), kernel)
        return by_kernel(grad)[0]

    # Resolved when compiled, so that a program exported for a GPU gets its own form.
    return lax.platform_dependent(inputs, grad, cpu=products, default=native)


@jax.custom_vjp
def mix_channels(inputs, kernel):
    """A 1x1 convolution: [B, H, W, C], [C, features] -> [B, H, W, features].

    Differentiable once, in reverse mode.
    """
    return inputs @ kernel


def _mix_channels_backward(residuals, grad):
    # Without a barrier XLA computes the gradient anew for the kernel, turned around
    # in memory: a third of a ResNet50's backward pass on a CPU.
    inputs, kernel = residuals
    inputs, grad = lax.optimization_barrier((inputs, grad))
    by_kernel = jnp.matmul(
        inputs.reshape(-1, inputs.shape[-1]).T, grad.reshape(-1, grad.shape[-1]),
        preferred_element_type=jnp.float32,
    )
    return grad @ kernel.T, by_kernel.astype(kernel.dtype)


mix_channels.defvjp(
    lambda *args: (mix_channels(*args), args), _mix_channels_backward
)


def _interleave(phases):
    """n rows of n [B, H, W, C] -> [B, nH, nW, C], one to each pixel of n x n."""
    batch, height, width, channels = phases[0][0].shape
    rows = jnp.stack([jnp.stack(row, axis=3) for row in phases], axis=2)
    sides = len(phases) * height, len(phases) * width
    return rows.reshape(batch, *sides, channels)


@jax.custom_vjp
def convolve_upsampled(inputs, kernel):
    """Transposed convolution of stride 2 with a 4x4 kernel, differentiable once.

    Output row 2p + r meets two taps only: kernel row r on input p + r - 1 and row
    r + 2 on input p + r; columns alike. So one 2x2 convolution with 4 * features
    outputs computes all four phases (r, s), phase (1, 1) one coarse pixel later.

    Args:
        inputs: [B, H, W, C].
        kernel: [4, 4, C, features], of the same type.

    Returns:
        [B, 2H, 2W, features].
    """
    height, width, channels = inputs.shape[1:]
    features = kernel.shape[-1]
    kernel = kernel.reshape(2, 2, 2, 2, channels, features).transpose(0, 2, 4, 1, 3, 5)
    kernel = kernel.reshape(2, 2, channels, 4 * features)
    phases = jnp.split(_convolve(inputs, kernel, (1, 1), _ONE_EACH_SIDE), 4, axis=-1)
    phases = [
        [phases[2 * r + s][:, r : r + height, s : s + width] for s in (0, 1)]
        for r in (0, 1)
    ]
    return _interleave(phases)


def _convolve_upsampled_backward(residuals, grad):
    # The transpose: a convolution of stride 2 that maps `grad` to coarse pixels.
    inputs, kernel = residuals
    kernel = kernel[::-1, ::-1].swapaxes(2, 3)
    by_inputs = _convolve(grad, kernel, (2, 2), _ONE_EACH_SIDE)
    by_kernel = _gradient_by_kernel(grad, kernel, inputs, (2, 2), _ONE_EACH_SIDE)
    return by_inputs, by_kernel[::-1, ::-1].swapaxes(2, 3)


convolve_upsampled.defvjp(
    lambda *args: (convolve_upsampled(*args), args), _convolve_upsampled_backward
)


class Conv(nn.Module):
    """flax.linen.Conv in two dimensions: same parameters, same result.

    The kernel starts Glorot uniform (the Keras default), the bias zero.

    Attributes:
        features: channels of the output.
        kernel_size: (kh, kw).
        dtype: what to compute in; parameters are float32.
        strides: (down, right).
        padding: 'SAME', 'VALID' or ((top, bottom), (left, right)) in pixels.
        use_bias: whether to add a bias to each feature.
        kernel_init: (key, shape) -> the first kernel.
    """

    features: int
    kernel_size: Sequence[int]
    dtype: Any
    strides: Sequence[int] = (1, 1)
    padding: str | Sequence[tuple[int, int]] = 'SAME'
    use_bias: bool = True
    kernel_init: Callable[..., jax.Array] = nn.initializers.glorot_uniform()

    @nn.compact
    def __call__(self, inputs) -> jax.Array:
        """[B, H, W, C] -> [B, H', W', features] of type `dtype`."""
        size, strides = tuple(self.kernel_size), tuple(self.strides)
        shape = (*size, inputs.shape[-1], self.features)
        kernel = self.param('kernel', self.kernel_init, shape)
        inputs, kernel = inputs.astype(self.dtype), kernel.astype(self.dtype)
        pads = self.padding
        if isinstance(pads, str):
            pads = lax.padtype_to_pads(inputs.shape[1:3], size, strides, pads)
        # custom_vjp needs hashable arguments: plain integers in tuples.
        pads = tuple((int(low), int(high)) for low, high in pads)
        if size == (1, 1) and pads == ((0, 0), (0, 0)):
            seen = inputs[:, :: strides[0], :: strides[1]]
            outputs = mix_channels(seen, kernel[0, 0])
        else:
            outputs = convolve(inputs, kernel, strides, pads)
        if self.use_bias:
            bias = self.param('bias', nn.initializers.zeros, (self.features,))
            outputs = (outputs + bias).astype(self.dtype)
        return outputs


class UpsampleConcatConv(nn.Module):
    """3x3 'SAME' convolution of [upsampled coarse, skip], building neither of the two.

    Nearest upsampling puts each coarse pixel under two neighbouring taps, so on coarse
    pixels the taps (a, b, c) act as (a, a + b, b + c, c) at stride 1/2: 4 products a
    fine pixel rather than 9. Parameters are those of the plain form.

    Attributes:
        features: channels of the output.
        use_bias: whether to add a bias to each feature.
        dtype: what to compute in; parameters, and the sums of taps, are float32.
    """

    features: int
    use_bias: bool
    dtype: Any

    @nn.compact
    def __call__(self, coarse, skip) -> jax.Array:
        """[B, H, W, C], [B, 2H, 2W, C'] -> [B, 2H, 2W, features] of type `dtype`."""
        channels = coarse.shape[-1]
        shape = (3, 3, channels + skip.shape[-1], self.features)
        kernel = self.param('kernel', nn.initializers.glorot_uniform(), shape)
        taps = kernel[:, :, :channels]
        for _ in range(2):  # rows, then columns
            taps = jnp.concatenate([taps[:1], taps[:-1] + taps[1:], taps[-1:]])
            taps = taps.swapaxes(0, 1)
        coarse, skip, taps, skip_kernel = (
            x.astype(self.dtype) for x in (coarse, skip, taps, kernel[:, :, channels:])
        )
        outputs = convolve(skip, skip_kernel, (1, 1), _ONE_EACH_SIDE)
        outputs += convolve_upsampled(coarse, taps)
        if self.use_bias:
            bias = self.param('bias', nn.initializers.zeros, (self.features,))
            outputs = (outputs + bias).astype(self.dtype)
        return outputs


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def max_pool(inputs, size=2, stride=2, padding=0):
    """The maxima of square windows; what no whole window covers is left out.

    Of equal values the first takes the gradient, as in PyTorch. XLA's own gradient
    (select and scatter) runs on one core and takes longer than a convolution.

    Args:
        inputs: [B, H, W, C].
        size: side of a window.
        stride: pixels between windows, at most `size`.
        padding: pixels added on each side, which never win; less than `size`.

    Returns:
        [B, H', W', C] with H' = (H + 2 * padding - size) // stride + 1.
    """
    return _max_pool_forward(inputs, size, stride, padding)[0]


def _max_pool_forward(inputs, size, stride, padding):
    # Backward must not ask which input equals the output: XLA may compute the input
    # anew, fused and so rounded in another way, and then none does.
    if padding:
        pads = [(0, 0, 0), (padding, padding, 0), (padding, padding, 0), (0, 0, 0)]
        inputs = lax.pad(inputs, jnp.array(-jnp.inf, inputs.dtype), pads)
    height, width = ((n - size) // stride + 1 for n in inputs.shape[1:3])
    outputs, *others = [
        inputs[:, r:, s:][:, ::stride, ::stride][:, :height, :width]
        for r in range(size)
        for s in range(size)
    ]
    winner = jnp.zeros(outputs.shape, jnp.int8)
    for index, other in enumerate(others, start=1):
        winner = jnp.where(other > outputs, jnp.int8(index), winner)
        outputs = jnp.maximum(outputs, other)
    # An empty array tells backward the size of the input.
    return outputs, (winner, inputs[..., :0])


def _max_pool_backward(size, stride, padding, residuals, grad):
    # Pixel (stride * p + r, stride * q + s) is seen by the taps r, r + stride, ... and
    # s, s + stride, ... of the windows p, p - 1, ... and q, q - 1, ...: one sum for
    # each phase (r, s), where scattering would write each pixel several times.
    winner, (height, width) = residuals[0], residuals[1].shape[1:3]
    before = -(-size // stride) - 1  # windows ahead of p that still see a pixel of p
    rows, columns = (-(-n // stride) for n in (height, width))

    def pad(x):
        pads = [(before, n - m, 0) for n, m in zip((rows, columns), x.shape[1:3])]
        return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *pads, (0, 0, 0)])

    winner, grad = pad(winner), pad(grad)

    def phase(r, s):
        shares = []
        for i, row in enumerate(range(r, size, stride)):
            for j, column in enumerate(range(s, size, stride)):
                won, share = (
                    x[:, before - i :, before - j :][:, :rows, :columns]
                    for x in (winner, grad)
                )
                shares.append(jnp.where(won == row * size + column, share, 0))
        return sum(shares)

    grad = _interleave([[phase(r, s) for s in range(stride)] for r in range(stride)])
    return (grad[:, padding : height - padding, padding : width - padding],)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def adaptive_average_pool(inputs, size):
    """[B, H, W, C] -> [B, size, size, C]: means of `size` x `size` shares of an image.

    Share i goes from pixel floor(i * H / size) to before ceil((i + 1) * H / size), as
    in PyTorch: shares of a size that does not divide overlap, and of an image smaller
    than `size` they repeat its pixels.
    """

    def weights(pixels):
        edges = np.arange(size + 1) * pixels
        place, low, high = np.arange(pixels), edges[:-1] // size, -(-edges[1:] // size)
        inside = (place >= low[:, None]) & (place < high[:, None])
        return (inside / (high - low)[:, None]).astype(inputs.dtype)

    if inputs.shape[1:3] == (size, size):
        return inputs
    rows, columns = map(weights, inputs.shape[1:3])
    return jnp.einsum('bhwc,ph,qw->bpqc', inputs, rows, columns)


class Dropout(nn.Module):
    """Dropout whose masks do not depend on how many devices share the batch.

    An example's mask follows from the 'dropout' rng, which must be the same on all
    devices, and from its position in the global batch. What is kept is scaled by
    1 / (1 - rate).

    Attributes:
        rate: share dropped, in [0, 1).
        axis_name: mapped axis over whose devices the batch is spread, or None.
    """

    rate: float
    axis_name: str | None

    @nn.compact
    def __call__(self, inputs, *, train: bool) -> jax.Array:
        """[B, ...] -> the same shape and type; the identity unless training."""
        if not 0 <= self.rate < 1:
            raise ValueError(f'dropout rate must be in [0, 1), got {self.rate}')
        if not train or self.rate == 0 or self.is_initializing():
            return inputs
        positions = jnp.arange(inputs.shape[0])
        if self.axis_name is not None:
            positions += lax.axis_index(self.axis_name) * inputs.shape[0]
        key = self.make_rng('dropout')
        keys = jax.vmap(lambda position: jax.random.fold_in(key, position))(positions)
        kept = _hash_places(keys, inputs.shape[1:]) >= jnp.uint32(self.rate * 2**32)
        scale = jnp.asarray(1 / (1 - self.rate), inputs.dtype)
        return jnp.where(kept, inputs * scale, 0)


def _hash_places(keys, shape):
    """Keys [B] -> uint32 [B, *shape], a hash of each key and the place in `shape`.

    Good enough to drop activations and, unlike threefry, a few integer operations
    that XLA fuses into what reads them: no bits go through memory. Each word of the
    key is mixed in by lowbias32 (C. Wellons, nullprogram.com/blog/2018/07/31).
    """
    words = jax.random.key_data(keys).T.reshape(-1, len(keys), *[1] * len(shape))
    bits = jnp.arange(math.prod(shape), dtype=jnp.uint32).reshape(1, *shape)
    for word in words:
        bits = bits ^ word
        bits = (bits ^ (bits >> 16)) * jnp.uint32(0x7FEB352D)
        bits = (bits ^ (bits >> 15)) * jnp.uint32(0x846CA68B)
        bits = bits ^ (bits >> 16)
    return bits
