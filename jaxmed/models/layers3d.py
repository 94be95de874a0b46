"""Layers of small volumes, in forms that XLA runs fast on a CPU.

There XLA 0.10 computes a convolution in three dimensions, and its gradients, in plain
loops: at 32 patches of 32 x 32 x 24 and 8 channels ten to twenty times slower than the
two-dimensional one that does the same work. So depth becomes part of the batch, which
costs nothing, and gradients by kernels are matrix products. Accelerators keep the
native forms.
"""

from typing import Any, Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxmed.models import layers

_SIZE = 3  # of kernels, in each direction
_SAME = ((1, 1), (1, 1))
_SHARES_AT_ONCE = 1 << 20  # numbers that a convolution computes before they are added
# Features below which columns are paired in the gradient by a kernel.
_FEW_FEATURES = 16


@jax.custom_vjp
def convolve(inputs, kernel):
    """3x3x3 'SAME' convolution: [B, D, H, W, C] -> [B, D, H, W, features].

    Three-dimensional cross-correlation; differentiable once, in reverse mode.

    On a CPU, one two-dimensional convolution gives the shares of each slice in three,
    the next, itself and the one before, and shifted they are added. So few features
    become three times as many, which fills the vector units, and no input is copied.
    A few volumes at a time, whose shares stay in the cache.

    Args:
        inputs: [B, D, H, W, C].
        kernel: [3, 3, 3, C, features], of the same type.
    """
    batch, depth, height, width, channels = inputs.shape
    features = kernel.shape[-1]
    at_once = max(_SHARES_AT_ONCE // (depth * height * width * _SIZE * features), 1)
    at_once = max(n for n in range(1, min(at_once, batch) + 1) if batch % n == 0)

    def by_slices(inputs, kernel):
        taps = kernel.transpose(1, 2, 3, 0, 4)
        taps = taps.reshape(_SIZE, _SIZE, channels, _SIZE * features)

        def convolve_some(volumes):
            slices = volumes.reshape(-1, height, width, channels)
            shares = layers.convolve(slices, taps, (1, 1), _SAME)
            shares = shares.reshape(at_once, depth, height, width, -1)
            below, same, above = jnp.split(shares, _SIZE, axis=-1)
            return _shift(below, 1) + same + _shift(above, -1)

        volumes = inputs.reshape(-1, at_once, *inputs.shape[1:])
        return lax.map(convolve_some, volumes).reshape(*inputs.shape[:-1], features)

    return lax.platform_dependent(inputs, kernel, cpu=by_slices, default=_native)


def _native(inputs, kernel):
    return lax.conv_general_dilated(
        inputs, kernel, (1, 1, 1), 'SAME',
        dimension_numbers=('NDHWC', 'DHWIO', 'NDHWC'),
    )


def _shift(x, slices):
    """Moves along depth; zeros follow."""
    pads = [(0, 0, 0), (slices, -slices, 0), *[(0, 0, 0)] * (x.ndim - 2)]
    return lax.pad(x, jnp.zeros((), x.dtype), pads)


def _convolve_backward(residuals, grad):
    inputs, kernel = residuals
    turned = kernel[::-1, ::-1, ::-1].swapaxes(3, 4)
    return convolve(grad, turned), _gradient_by_kernel(inputs, kernel, grad)


convolve.defvjp(lambda *args: (convolve(*args), args), _convolve_backward)


def _gradient_by_kernel(inputs, kernel, grad):
    """Gradient of `convolve` by its kernel, whose values do not matter.

    On a CPU, one matrix product a volume, contracted over voxels. Its left side holds
    the inputs of the 3 x 3 taps over height and width, its right side the output
    gradients of the 3 taps over depth: 9 + 3 copies give all 27.

    Few features make a thin product of many copies. Then two columns are one place of
    twice the features, to which the left side adds the columns before and behind: a
    third more products in half as many, larger copies.
    """
    channels, features = kernel.shape[3:]
    batch, depth, height, width, _ = inputs.shape
    joined = 2 if features < _FEW_FEATURES and width % 2 == 0 else 1
    seen = joined + _SIZE - 1  # columns that a place sees

    def products(inputs, grad):
        places = depth, height, width // joined

        def pad(x, axis, low, high):
            pads = [(0, 0)] * x.ndim
            pads[axis] = low, high
            return jnp.pad(x, pads)

        def add_product(step, total):
            volume = lax.dynamic_index_in_dim(inputs, step, keepdims=False)
            volume = pad(pad(volume.reshape(*places, -1), 1, 1, 1), 0, 1, 1)
            before = pad(volume[:, :, :-1, -channels:], 2, 1, 0)
            behind = pad(volume[:, :, 1:, :channels], 2, 0, 1)
            volume = jnp.concatenate([before, volume, behind], axis=-1)
            rows = [volume[:, i : i + height] for i in range(_SIZE)]
            volume_grad = lax.dynamic_index_in_dim(grad, step, keepdims=False)
            volume_grad = pad(volume_grad.reshape(*places, -1), 0, 2, 2)
            slices = [
                volume_grad[_SIZE - 1 - i :][: depth + 2] for i in range(_SIZE)]
            return total + jnp.matmul(
                jnp.concatenate(rows, axis=-1).reshape(-1, total.shape[0]).T,
                jnp.concatenate(slices, axis=-1).reshape(-1, total.shape[1]),
                preferred_element_type=jnp.float32,
            )

        shape = _SIZE * seen * channels, _SIZE * joined * features
        total = lax.fori_loop(
            0, batch, add_product, jnp.zeros(shape, jnp.float32))
        total = total.reshape(_SIZE, seen, channels, _SIZE, joined, features)
        taps = sum(total[:, j : j + _SIZE, :, :, j] for j in range(joined))
        return taps.transpose(3, 0, 1, 2, 4).astype(kernel.dtype)

    def native(inputs, grad):
        _, by_kernel = jax.vjp(lambda k: _native(inputs, k), kernel)
        return by_kernel(grad)[0]

    # Resolved when compiled, so that a program exported for a GPU gets its own form.
    return lax.platform_dependent(inputs, grad, cpu=products, default=native)


@jax.custom_vjp
def max_pool(inputs):
    """[B, D, H, W, C] -> [B, D // 2, H // 2, W // 2, C], the maxima of 2x2x2 windows.

    Of equal values the first takes the gradient; what no whole window covers is left
    out. Differentiable once, in reverse mode.
    """
    return _max_pool_forward(inputs)[0]


def _max_pool_forward(inputs):
    # Which value won is kept: see `layers.max_pool`.
    sides = [n // 2 for n in inputs.shape[1:4]]
    x = inputs[:, : 2 * sides[0], : 2 * sides[1], : 2 * sides[2]]
    x = x.reshape(len(x), sides[0], 2, sides[1], 2, sides[2], 2, x.shape[-1])
    outputs, *others = [
        x[:, :, i, :, j, :, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    winner = jnp.zeros(outputs.shape, jnp.int8)
    for index, other in enumerate(others, start=1):
        winner = jnp.where(other > outputs, jnp.int8(index), winner)
        outputs = jnp.maximum(outputs, other)
    # An empty array tells backward the size of the input.
    return outputs, (winner, inputs[..., :0])


def _max_pool_backward(residuals, grad):
    winner, (_, *sides, _) = residuals[0], residuals[1].shape
    index = jnp.arange(8, dtype=jnp.int8).reshape(2, 1, 2, 1, 2, 1)
    winner, grad = (jnp.expand_dims(x, (2, 4, 6)) for x in (winner, grad))
    grad = jnp.where(winner == index, grad, 0)
    batch, depth, _, height, _, width, _, channels = grad.shape
    grad = grad.reshape(batch, 2 * depth, 2 * height, 2 * width, channels)
    pads = [(0, side - covered) for side, covered in zip(sides, grad.shape[1:4])]
    return (jnp.pad(grad, [(0, 0), *pads, (0, 0)]),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


class Conv3D(nn.Module):
    """flax.linen.Conv of 3x3x3 kernels: same parameters, same result.

    Attributes:
        features: channels of the output.
        use_bias: whether to add a bias to each feature.
        dtype: what to compute in; parameters are float32.
        kernel_init: (key, shape) -> the first kernel. The first bias is zero.
    """

    features: int
    use_bias: bool
    dtype: Any
    kernel_init: Callable[..., jax.Array] = nn.initializers.glorot_uniform()

    @nn.compact
    def __call__(self, inputs) -> jax.Array:
        """[B, D, H, W, C] -> [B, D, H, W, features] of type `dtype`."""
        shape = (_SIZE,) * 3 + (inputs.shape[-1], self.features)
        kernel = self.param('kernel', self.kernel_init, shape)
        outputs = convolve(inputs.astype(self.dtype), kernel.astype(self.dtype))
        if self.use_bias:
            bias = self.param('bias', nn.initializers.zeros, (self.features,))
            outputs = (outputs + bias).astype(self.dtype)
        return outputs


class MaskedBatchNorm(nn.Module):
    """Batch norm whose statistics are those of the real examples on all devices.

    flax.linen.BatchNorm averages the devices' means, whatever number of examples
    stands behind each; here sums and counts are added. Where no example is real, the
    running statistics are left alone. Parameters and statistics have Flax's names.

    Attributes:
        dtype: type of the outputs; statistics are float32.
        axis_name: mapped axis over whose devices the batch is spread, or None.
        momentum: of the running statistics.
        epsilon: added to the variance.
    """

    dtype: Any
    axis_name: str | None
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, inputs, mask, *, train: bool) -> jax.Array:
        """[B, ..., C] and mask [B], 1 for a real example -> the inputs' shape."""
        shape = inputs.shape[-1:]
        scale = self.param('scale', nn.initializers.ones, shape)
        bias = self.param('bias', nn.initializers.zeros, shape)
        mean = self.variable('batch_stats', 'mean', jnp.zeros, shape)
        variance = self.variable('batch_stats', 'var', jnp.ones, shape)
        now = mean.value, variance.value
        if train:
            axes = tuple(range(1, inputs.ndim - 1))
            x = inputs.astype(jnp.float32)
            weights = mask.astype(jnp.float32)
            values = jnp.size(x[0, ..., 0]) if x.ndim > 2 else 1
            sums = weights.sum() * values, *(
                weights @ jnp.sum(power, axes) for power in (x, jnp.square(x)))
            if self.axis_name is not None and not self.is_initializing():
                sums = lax.psum(sums, self.axis_name)
            count, total, squares = sums
            some = count > 0
            count = jnp.maximum(count, 1)
            average = total / count
            now = average, jnp.maximum(squares / count - average**2, 0)
            if not self.is_initializing():
                for running, value in zip((mean, variance), now):
                    update = running.value + (1 - self.momentum) * (
                        value - running.value)
                    running.value = jnp.where(some, update, running.value)
        factor = scale * lax.rsqrt(now[1] + self.epsilon)
        return (inputs * factor + (bias - now[0] * factor)).astype(self.dtype)
