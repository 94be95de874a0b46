"""Layers of small volumes, in forms that XLA runs fast on a CPU.

There XLA 0.10 computes a convolution in three dimensions, and its gradients, in plain
loops: at 32 patches of 32 x 32 x 24 and 8 channels ten to twenty times slower than the
two-dimensional one that does the same work. So a convolution is one over slices and
rows, gradients by kernels are matrix products, and a block of convolutions takes a few
volumes at a time, which stay in the cache. Accelerators keep the native forms.
"""

import functools
import math
from typing import Any, Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

# Of a normal variable ReLU leaves this share of the deviation, inverted.
_RELU_GAIN = math.sqrt(2 / (1 - 1 / math.pi))
_SIZE = 3  # of kernels, in each direction
_SHARES_AT_ONCE = 1 << 20  # numbers that a convolution computes before they are added
# Features below which two columns are taken as one of twice the features.
_FEW_FEATURES = 16
_COPIES_AT_ONCE = 1 << 19  # numbers on the left of a product
_FEW_CHANNELS = 4  # below which all taps are copies of the input


@jax.custom_vjp
def convolve(inputs, kernel):
    """3x3x3 'SAME' convolution: [B, D, H, W, C] -> [B, D, H, W, features].

    Three-dimensional cross-correlation; differentiable once, in reverse mode.

    Args:
        inputs: [B, D, H, W, C].
        kernel: [3, 3, 3, C, features], of the same type.
    """
    return lax.platform_dependent(
        inputs, kernel, default=_native,
        cpu=lambda inputs, kernel: _map_some(
            lambda volumes: _by_columns(volumes, kernel), inputs,
            at_once=_at_once(inputs, kernel)),
    )


def _native(inputs, kernel):
    return lax.conv_general_dilated(
        inputs, kernel, (1, 1, 1), 'SAME',
        dimension_numbers=('NDHWC', 'DHWIO', 'NDHWC'),
    )


def _at_once(inputs, kernel):
    """How many volumes have so few shares that those stay in the cache."""
    return _divisor(
        len(inputs), _SHARES_AT_ONCE // (
            math.prod(inputs.shape[1:4]) * _SIZE * kernel.shape[-1]))


def _divisor(number, limit):
    """The largest one that is not above a limit, or 1."""
    return max(n for n in range(1, max(min(number, limit), 1) + 1) if number % n == 0)


def _map_some(function, tree, *, at_once, count=None):
    """`function` of `at_once` examples at a time: trees of [B, ...] -> the same.

    With a `count` zeros of those behind the first so many, where nothing is computed.
    """
    batch = len(jax.tree.leaves(tree)[0])
    if at_once == batch and count is None:
        return function(tree)
    tree = jax.tree.map(lambda x: x.reshape(-1, at_once, *x.shape[1:]), tree)
    if count is None:
        answers = lax.map(function, tree)
    else:
        answers = lax.map(
            lambda args: _unless_behind(function, args[0], count, args[1]),
            (jnp.arange(0, batch, at_once), tree))
    return jax.tree.map(lambda x: x.reshape(batch, *x.shape[2:]), answers)


def _unless_behind(function, first, count, *args):
    """`function` of arguments, or zeros of its kind if `first` is not below `count`."""
    kinds = jax.eval_shape(function, *args)
    return lax.cond(
        first < count, function,
        lambda *_: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), kinds), *args)


def _joined(width, features):
    """Columns that are one place: two where features are few, lest vectors be empty."""
    return 2 if features < _FEW_FEATURES and width % 2 == 0 else 1


def _by_columns(inputs, kernel):
    """`convolve` as a two-dimensional convolution over slices and rows.

    It gives the shares of each place of one or two columns in those columns, the one
    before and the one behind, and the latter, shifted, are added. So few features
    become three or four times as many, which fills the vector units, and no input is
    copied: rows of places lie in memory as one, the next row a dilation away.
    """
    batch, depth, height, width, channels = inputs.shape
    features = kernel.shape[-1]
    joined = _joined(width, features)
    places = width // joined
    # Of input column i of a place, in column o - 1 of the output.
    taps = [
        [kernel[:, :, i - o + 2] if 0 <= i - o + 2 < _SIZE
         else jnp.zeros_like(kernel[:, :, 0]) for o in range(joined + 2)]
        for i in range(joined)
    ]
    taps = jnp.concatenate([jnp.concatenate(row, axis=-1) for row in taps], axis=-2)
    shares = lax.conv_general_dilated(
        inputs.reshape(batch, depth, height * places, joined * channels), taps, (1, 1),
        ((1, 1), (places, places)), rhs_dilation=(1, places),
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    before, *columns, behind = jnp.split(shares, joined + 2, axis=-1)
    # Chosen, not padded at the ends of each row: XLA would write those to memory.
    place = (jnp.arange(height * places) % places)[:, None]
    columns[0] += jnp.where(place > 0, _pad(behind[:, :, :-1], 2, 1, 0), 0)
    columns[-1] += jnp.where(place < places - 1, _pad(before[:, :, 1:], 2, 0, 1), 0)
    return jnp.concatenate(columns, axis=-1).reshape(
        batch, depth, height, width, features)


def _turn(kernel):
    """The kernel that maps gradients of outputs to those of inputs."""
    return kernel[::-1, ::-1, ::-1].swapaxes(3, 4)


def _convolve_backward(residuals, grad):
    inputs, kernel = residuals

    def native(inputs, kernel, grad):
        _, transpose = jax.vjp(_native, inputs, kernel)
        return transpose(grad)

    def by_volume(inputs, kernel, grad):
        by_inputs = _map_some(
            lambda some: _by_columns(some, _turn(kernel)), grad,
            at_once=_at_once(grad, _turn(kernel)))
        by_kernel = _gradient_by_kernel(inputs, grad, kernel.shape)
        return by_inputs, by_kernel.astype(kernel.dtype)

    # Resolved when compiled, so that a program exported for a GPU gets its own form.
    return lax.platform_dependent(
        inputs, kernel, grad, cpu=by_volume, default=native)


convolve.defvjp(lambda *args: (convolve(*args), args), _convolve_backward)


def _gradient_by_kernel(inputs, grad, shape):
    """Gradient of `convolve` by a kernel of a shape, float32.

    One matrix product of a few volumes at a time, contracted over voxels. Its left side
    holds the inputs of the 3 x 3 taps over height and width, its right side the output
    gradients of the 3 taps over depth: 9 + 3 copies give all 27. On the left features
    come first, so that a copy is of whole slices, shifted, and not of a few numbers at
    each voxel.

    Few features make a thin product of many copies. Then two columns are one place of
    twice the features, to which come the columns before and behind: a third more
    products in half as many, larger copies. Of few channels four columns are a place,
    the left side holds all 27 taps, and the right side is the gradient as it is.
    """
    batch, depth, height, width, channels = inputs.shape
    features, few = shape[-1], channels < _FEW_CHANNELS
    joined = 4 if few and width % 4 == 0 else _joined(width, features)
    seen = joined + _SIZE - 1  # columns that a place sees
    places = depth, height, width // joined
    copies = _SIZE * seen * channels * (_SIZE if few else 1)
    at_once = _divisor(batch, _COPIES_AT_ONCE // (copies * math.prod(places)))

    def products(inputs, grad):
        left = inputs.reshape(-1, joined * channels).T.reshape(-1, at_once, *places)
        left = _pad(left, 3, 1, 1)
        left = jnp.concatenate([
            _pad(left[-channels:, ..., :-1], 4, 1, 0), left,
            _pad(left[:channels, ..., 1:], 4, 0, 1)])
        left = jnp.concatenate(
            [left[:, :, :, i : i + height] for i in range(_SIZE)])
        right = grad.reshape(at_once, *places, -1)
        if few:
            left = _pad(left, 2, 1, 1)
            left = jnp.concatenate([left[:, :, i : i + depth] for i in range(_SIZE)])
        else:
            right = _pad(right, 1, 1, 1)
            right = jnp.concatenate(
                [right[:, _SIZE - 1 - i :][:, :depth] for i in range(_SIZE)], axis=-1)
        return jnp.matmul(
            left.reshape(len(left), -1), right.reshape(-1, right.shape[-1]),
            preferred_element_type=jnp.float32,
        )

    some = [x.reshape(-1, at_once, *x.shape[1:]) for x in (inputs, grad)]
    if at_once == batch:
        total = products(inputs, grad)
    else:
        size = copies, joined * features * (1 if few else _SIZE)
        total = lax.fori_loop(
            0, batch // at_once,
            lambda step, total: total + products(*(
                lax.dynamic_index_in_dim(x, step, keepdims=False) for x in some)),
            jnp.zeros(size, jnp.float32),
        )
    if few:
        total = total.reshape(_SIZE, _SIZE, seen, channels, joined, features)
    else:
        total = total.reshape(_SIZE, seen, channels, _SIZE, joined, features)
        total = total.transpose(3, 0, 1, 2, 4, 5)
    return sum(total[:, :, j : j + _SIZE, :, j] for j in range(joined))


def _pad(x, axis, low, high):
    pads = [(0, 0)] * x.ndim
    pads[axis] = low, high
    return jnp.pad(x, pads)


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


@jax.custom_vjp
def convolve_and_pool(inputs, count, kernels, biases):
    """Convolutions with biases and ReLU, the last with 2x2x2 max pooling: a block.

    The same as `convolve`, bias, `max_pool` and ReLU, one after the other. On a CPU a
    few volumes at a time go through all of them, in the cache, what lies between the
    last convolution and the pooling is never stored, and fillers cost nothing.
    Differentiable once, in reverse mode.

    Args:
        inputs: [B, D, H, W, C].
        count: [] int, examples that count; those behind them are fillers, whose outputs
            mean nothing and of which no gradient may come.
        kernels: sequence of [3, 3, 3, C, features], of the type of `inputs`.
        biases: sequence of [features], as many; float32.

    Returns:
        [B, D // 2, H // 2, W // 2, features of the last].
    """
    return _block_forward(inputs, count, kernels, biases)[0]


def _block_forward(inputs, count, kernels, biases):
    def native(inputs, count, kernels, biases):
        return _through_block(_native, inputs, kernels, biases)

    def by_volume(inputs, count, kernels, biases):
        return _map_some(
            lambda some: _through_block(_by_columns, some, kernels, biases), inputs,
            at_once=min(map(functools.partial(_at_once, inputs), kernels)), count=count)

    outputs, inner, winner = lax.platform_dependent(
        inputs, count, kernels, biases, cpu=by_volume, default=native)
    return outputs, (inputs, count, inner, winner, outputs, kernels, biases)


def _through_block(convolve, x, kernels, biases):
    """Outputs, what is between the convolutions, and which of eight values won."""
    inner = []
    for kernel, bias in zip(kernels, biases):
        x = (convolve(x, kernel) + bias).astype(x.dtype)
        if len(inner) < len(kernels) - 1:
            x = jnp.maximum(x, 0)
            inner.append(x)
    x, (winner, _) = _max_pool_forward(x)
    return jnp.maximum(x, 0), tuple(inner), winner


def _block_backward(residuals, grad):
    inputs, count, inner, winner, outputs, kernels, biases = residuals

    def native(count, *args):
        def gradients(x, kernel, grad):
            _, transpose = jax.vjp(_native, x, kernel)
            return transpose(grad)

        by_inputs, by_kernels, by_biases = _back_through_block(
            gradients, *args, kernels=kernels)
        return by_inputs, by_kernels, by_biases

    def by_volume(count, *args):
        def gradients(x, kernel, grad):
            return _by_columns(grad, _turn(kernel)), _gradient_by_kernel(
                x, grad, kernel.shape)

        at_once = min(_at_once(inputs, kernel) for kernel in kernels)
        args = jax.tree.map(
            lambda x: x.reshape(-1, at_once, *x.shape[1:]), args)

        def back(*some):
            return _back_through_block(gradients, *some, kernels=kernels)

        def add(totals, some):
            by_inputs, *parts = _unless_behind(back, some[0], count, *some[1:])
            return jax.tree.map(jnp.add, totals, parts), by_inputs

        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, jnp.float32), [list(kernels), list(biases)])
        starts = jnp.arange(0, len(inputs), at_once)
        totals, by_inputs = lax.scan(add, zeros, (starts, *args))
        return by_inputs.reshape(inputs.shape), *totals

    by_inputs, by_kernels, by_biases = lax.platform_dependent(
        count, inputs, inner, winner, outputs, grad, cpu=by_volume, default=native)
    return by_inputs, None, *(
        tuple(x.astype(y.dtype) for x, y in zip(some, like))
        for some, like in ((by_kernels, kernels), (by_biases, biases)))


def _back_through_block(gradients, inputs, inner, winner, outputs, grad, *, kernels):
    """Gradients by inputs, kernels and biases; the latter two float32 lists."""
    grad = jnp.where(outputs > 0, grad, 0)
    by_biases = [_sum_features(grad)]  # what the pooling passes over adds nothing
    sizes = inputs[..., :0]
    grad = _max_pool_backward((winner, sizes), grad)[0]
    by_kernels = []
    layers = [inputs, *inner]
    for x, kernel in zip(layers[::-1], kernels[::-1]):
        grad, by_kernel = gradients(x, kernel, grad)
        by_kernels.insert(0, by_kernel.astype(jnp.float32))
        if len(by_kernels) < len(kernels):
            grad = jnp.where(x > 0, grad, 0)
            by_biases.insert(0, _sum_features(grad))
    return grad, by_kernels, by_biases


def _sum_features(x):
    """[..., W, C] -> [C] float32, columns last: rows of several fill the vectors."""
    rows = x.reshape(-1, x.shape[-2] * x.shape[-1]).astype(jnp.float32).sum(axis=0)
    return rows.reshape(x.shape[-2:]).sum(axis=0)


convolve_and_pool.defvjp(_block_forward, _block_backward)


class Conv3D(nn.Module):
    """flax.linen.Conv of 3x3x3 kernels: same parameters, same result.

    Attributes:
        features: channels of the output.
        use_bias: whether to add a bias to each feature.
        dtype: what to compute in; parameters are float32.
        kernel_init: (key, shape) -> the first kernel. The first bias is zero.
        standardised: whether each feature's kernel is taken with mean 0 and a deviation
            such that features keep their deviation through ReLU, times a gain that is
            learnt. So a network without batch norm learns as fast as with it, and
            nothing depends on a batch.

    Source of the latter: Brock, De and Smith 2021, Characterizing signal propagation to
        close the performance gap in unnormalized ResNets, equation 3.
    """

    features: int
    use_bias: bool
    dtype: Any
    kernel_init: Callable[..., jax.Array] = nn.initializers.glorot_uniform()
    standardised: bool = False

    @nn.compact
    def parameters(self, channels):
        """The kernel, of type `dtype`, and the bias, float32, or None."""
        shape = (_SIZE,) * 3 + (channels, self.features)
        kernel = self.param('kernel', self.kernel_init, shape)
        if self.standardised:
            gain = self.param('gain', nn.initializers.ones, (self.features,))
            axes, count = (0, 1, 2, 3), math.prod(shape[:-1])
            kernel -= kernel.mean(axes)
            deviation = jnp.sqrt(count * jnp.square(kernel).mean(axes) + 1e-6)
            kernel *= gain * _RELU_GAIN / deviation
        kernel = kernel.astype(self.dtype)
        if not self.use_bias:
            return kernel, None
        return kernel, self.param('bias', nn.initializers.zeros, (self.features,))

    def __call__(self, inputs) -> jax.Array:
        """[B, D, H, W, C] -> [B, D, H, W, features] of type `dtype`."""
        kernel, bias = self.parameters(inputs.shape[-1])
        outputs = convolve(inputs.astype(self.dtype), kernel)
        if bias is not None:
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
