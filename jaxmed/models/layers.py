"""Layers with the mathematics of Flax's and a form that XLA compiles well on CPUs.

XLA runs a forward convolution on a CPU fast and the gradient by the kernel slowly: it
writes the latter as a convolution whose window is the whole image. `Conv` replaces
that one gradient. `UpsampleConcatConv` and `max_pool` leave work out.
"""

import functools
from typing import Any, Sequence

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

# Below this many pixels an image XLA's own kernel gradient is as fast.
_MIN_PIXELS = 1024


def _native_convolve(inputs, kernel, strides, padding):
    return lax.conv_general_dilated(
        inputs, kernel, strides, padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(inputs, kernel, strides, padding):
    """Two-dimensional cross-correlation; once differentiable, in reverse mode.

    Args:
        inputs: [B, H, W, C].
        kernel: [kh, kw, C, features], of the same type.
        strides: (down, right).
        padding: ((top, bottom), (left, right)), in pixels.

    Returns:
        [B, H', W', features].
    """
    return _native_convolve(inputs, kernel, strides, padding)


def _convolve_forward(inputs, kernel, strides, padding):
    return _native_convolve(inputs, kernel, strides, padding), (inputs, kernel)


def _convolve_backward(strides, padding, residuals, grad):
    inputs, kernel = residuals
    # By the inputs it is a forward convolution already.
    _, by_inputs = jax.vjp(
        lambda x: _native_convolve(x, kernel, strides, padding), inputs
    )

    def native(inputs, grad):
        _, by_kernel = jax.vjp(
            lambda k: _native_convolve(inputs, k, strides, padding), kernel
        )
        return by_kernel(grad)[0]

    by_products = functools.partial(
        _kernel_gradient, size=kernel.shape[:2], padding=padding
    )
    pixels = grad.shape[1] * grad.shape[2]
    if tuple(strides) != (1, 1) or pixels < _MIN_PIXELS or kernel.shape[:2] == (1, 1):
        by_products = native
    # Resolved when compiled, so that exporting for another device is right as well.
    kernel_grad = lax.platform_dependent(inputs, grad, cpu=by_products, default=native)
    return by_inputs(grad)[0], kernel_grad


convolve.defvjp(_convolve_forward, _convolve_backward)


def _kernel_gradient(inputs, grad, *, size, padding):
    """Gradient by the kernel as one matrix product an image.

    The product contracts over pixels. Its left side holds the image once for each
    column of the kernel, shifted; its right side the output gradient once for each
    row. So kh + kw shifted copies give all kh * kw taps, where im2col takes kh * kw;
    and one image at a time, they stay in the cache.
    """
    (kh, kw), channels, features = size, inputs.shape[-1], grad.shape[-1]
    height, width = grad.shape[1:3]
    rows = height + kh - 1

    def add_image(total, image_and_grad):
        image, grad = image_and_grad
        image = jnp.pad(image, (*padding, (0, 0)))
        grad = jnp.pad(grad, ((kh - 1, kh - 1), (0, 0), (0, 0)))
        left = jnp.concatenate([image[:, j : j + width] for j in range(kw)], -1)
        right = jnp.concatenate(
            [grad[i : i + rows] for i in reversed(range(kh))], axis=-1
        )
        product = lax.dot_general(
            left.reshape(-1, kw * channels),
            right.reshape(-1, kh * features),
            (((0,), (0,)), ((), ())),
            preferred_element_type=jnp.float32,
        )
        return total + product, None

    zeros = jnp.zeros((kw * channels, kh * features), jnp.float32)
    total, _ = lax.scan(add_image, zeros, (inputs, grad))
    total = total.reshape(kw, channels, kh, features).transpose(2, 0, 1, 3)
    return total.astype(grad.dtype)


def _pad_widths(padding, sizes, kernel_size, strides):
    """'SAME' or 'VALID' as pixels on each side, as XLA reads them."""
    return tuple(
        tuple(int(n) for n in pair)
        for pair in lax.padtype_to_pads(sizes, kernel_size, strides, padding)
    )


class Conv(nn.Module):
    """flax.linen.Conv in two dimensions, undilated: same parameters, same result.

    Attributes:
        features: channels of the output.
        kernel_size: (kh, kw).
        strides: (down, right).
        padding: 'SAME' or 'VALID'.
        use_bias: whether to add a bias to each feature.
        dtype: what to compute in; parameters are float32.
    """

    features: int
    kernel_size: Sequence[int]
    dtype: Any
    strides: Sequence[int] = (1, 1)
    padding: str = 'SAME'
    use_bias: bool = True
    kernel_init: Any = nn.initializers.glorot_uniform()

    @nn.compact
    def __call__(self, inputs) -> jax.Array:
        """[B, H, W, C] -> [B, H', W', features] of type `dtype`."""
        size, strides = tuple(self.kernel_size), tuple(self.strides)
        shape = (*size, inputs.shape[-1], self.features)
        kernel = self.param('kernel', self.kernel_init, shape)
        padding = _pad_widths(self.padding, inputs.shape[1:3], size, strides)
        inputs, kernel = inputs.astype(self.dtype), kernel.astype(self.dtype)
        outputs = convolve(inputs, kernel, strides, padding)
        if self.use_bias:
            bias = self.param('bias', nn.initializers.zeros, (self.features,))
            outputs += bias.astype(self.dtype)
        return outputs


class UpsampleConcatConv(nn.Module):
    """3x3 convolution of [upsampled coarse, skip], building neither of the two.

    In nearest upsampling by 2, the three taps of a row meet only two coarse pixels,
    so a fine pixel takes 2x2 products with sums of taps rather than 3x3. All four
    phases (fine pixels of one coarse pixel) come from one 2x2 convolution.

    Attributes:
        features: channels of the output.
        use_bias: whether to add a bias to each feature.
        dtype: what to compute in; parameters are float32.
    """

    features: int
    use_bias: bool
    dtype: Any
    kernel_init: Any = nn.initializers.glorot_uniform()

    @nn.compact
    def __call__(self, coarse, skip) -> jax.Array:
        """[B, H, W, C], [B, 2H, 2W, C'] -> [B, 2H, 2W, features] of type `dtype`."""
        batch, height, width, channels = coarse.shape
        shape = (3, 3, channels + skip.shape[-1], self.features)
        kernel = self.param('kernel', self.kernel_init, shape)
        ones = ((1, 1), (1, 1))
        fine = convolve(
            skip.astype(self.dtype),
            kernel[:, :, channels:].astype(self.dtype),
            (1, 1),
            ones,
        )

        # taps[phase, coarse pixel, tap]: phase 0 (left, above) sees tap 0 one coarse
        # pixel back and taps 1, 2 in its own; phase 1 taps 0, 1 and tap 2 one ahead.
        taps = jnp.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], jnp.float32)
        phases = jnp.einsum(
            'rit,sju,tuco->ijcrso', taps, taps, kernel[:, :, :channels],
            precision=lax.Precision.HIGHEST,
        )
        phases = phases.reshape(2, 2, channels, -1).astype(self.dtype)
        coarse = convolve(coarse.astype(self.dtype), phases, (1, 1), ones)
        coarse = coarse.reshape(batch, height + 1, width + 1, 2, 2, self.features)
        rows = [
            jnp.stack(
                [coarse[:, r:r + height, s:s + width, r, s] for s in range(2)], axis=3
            )
            for r in range(2)
        ]
        outputs = fine + jnp.stack(rows, axis=2).reshape(fine.shape)
        if self.use_bias:
            bias = self.param('bias', nn.initializers.zeros, (self.features,))
            outputs += bias.astype(self.dtype)
        return outputs


def _quarters(x):
    """[B, H, W, C] -> the four [B, H / 2, W / 2, C] of a 2x2 window, row by row."""
    return [x[:, r::2, s::2] for r in range(2) for s in range(2)]


@jax.custom_vjp
def max_pool(inputs):
    """Maximum over 2x2 windows; of equal ones the first takes the gradient.

    Args:
        inputs: [B, H, W, C], H and W even.

    Returns:
        [B, H / 2, W / 2, C].
    """
    return functools.reduce(jnp.maximum, _quarters(inputs))


def _max_pool_forward(inputs):
    outputs = max_pool(inputs)
    return outputs, (inputs, outputs)


def _max_pool_backward(residuals, grad):
    inputs, outputs = residuals
    taken, parts = False, []
    for quarter in _quarters(inputs):
        first = (quarter == outputs) & ~jnp.asarray(taken)
        parts.append(jnp.where(first, grad, 0))
        taken = first | taken
    rows = [jnp.stack(parts[r : r + 2], axis=3) for r in (0, 2)]
    return (jnp.stack(rows, axis=2).reshape(inputs.shape),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


class Dropout(nn.Module):
    """Dropout whose mask does not depend on how many devices share the batch.

    Each example's mask follows from the 'dropout' rng, which must be the same on all
    devices, and from the example's position in the global batch. A decision takes 8
    random bits: the true rate is the multiple of 1/256 next to `rate`, and what is
    kept is scaled by the true one.

    Attributes:
        rate: share dropped, in [0, 1).
        axis_name: mapped axis over whose devices the batch is spread, or None.
    """

    rate: float
    axis_name: str | None

    @nn.compact
    def __call__(self, inputs, *, train: bool) -> jax.Array:
        """[B, ...] -> the same shape and type; the identity unless training."""
        dropped = round(self.rate * 256)
        if not 0 <= dropped < 256:
            raise ValueError(f'dropout rate must be in [0, 1), got {self.rate}')
        if not train or dropped == 0 or self.is_initializing():
            return inputs
        batch, size = inputs.shape[0], inputs[0].size
        positions = jnp.arange(batch)
        if self.axis_name is not None:
            positions += lax.axis_index(self.axis_name) * batch
        key = self.make_rng('dropout')

        def draw(position):
            words = jax.random.bits(jax.random.fold_in(key, position), (-(-size // 4),))
            return lax.bitcast_convert_type(words, jnp.uint8).reshape(-1)[:size]

        kept = jax.vmap(draw)(positions).reshape(inputs.shape) >= dropped
        scale = jnp.asarray(256 / (256 - dropped), inputs.dtype)
        return jnp.where(kept, inputs * scale, 0)
