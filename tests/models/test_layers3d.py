"""Layers of volumes against the plain forms they stand for."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxmed.models import layers3d
from tests.models import trees

close = partial(trees.close, least=0.0)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def value_and_gradients(function, *inputs):
    @jax.jit
    def compute(*inputs):
        outputs, vjp = jax.vjp(function, *inputs)
        return outputs, vjp(normal(7, *outputs.shape).astype(outputs.dtype))

    return compute(*inputs)


@pytest.mark.parametrize(
    'size, channels, features',
    [
        ((8, 6, 10), 5, 4),  # pairs of columns
        ((4, 6, 8), 1, 8),  # four of them, and all taps copied, in the gradient
        ((8, 6, 10), 5, 16),  # single ones, as there are features enough
        ((5, 4, 7), 2, 4),  # an odd column
        ((1, 9, 2), 2, 3),
        ((3, 1, 1), 4, 8),  # smaller than the kernel
        ((2, 2, 2), 1, 1),
    ],
)
@pytest.mark.parametrize('use_bias', [True, False])
def test_conv3d_gives_the_values_and_gradients_of_flax(
    size, channels, features, use_bias
):
    inputs = normal(0, 2, *size, channels)
    conv = layers3d.Conv3D(features, use_bias=use_bias, dtype=jnp.float32)
    flax_conv = nn.Conv(features, (3, 3, 3), use_bias=use_bias)
    params = {'kernel': normal(1, 3, 3, 3, channels, features)}
    if use_bias:
        params['bias'] = normal(2, features)
    shapes = jax.eval_shape(conv.init, jax.random.key(0), inputs)['params']
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, params)

    def run(module):
        return value_and_gradients(
            lambda params, x: module.apply({'params': params}, x), params, inputs)

    close(run(conv), run(flax_conv))


def test_many_volumes_are_taken_a_few_at_a_time():
    # 6 of 64 x 32 x 16 voxels: one convolution or product at a time, and two.
    inputs = normal(0, 6, 64, 32, 16, 4)
    for features in (2, 6):
        kernel = normal(1, 3, 3, 3, 4, features)
        assert layers3d._at_once(inputs, kernel) < 6
        close(
            value_and_gradients(layers3d.convolve, inputs, kernel),
            value_and_gradients(layers3d._native, inputs, kernel))


def plain_block(inputs, kernels, biases):
    for kernel, bias in zip(kernels[:-1], biases):
        inputs = nn.relu(layers3d._native(inputs, kernel) + bias)
    inputs = layers3d._native(inputs, kernels[-1]) + biases[-1]
    window = (1, 2, 2, 2, 1)
    return nn.relu(
        lax.reduce_window(inputs, -jnp.inf, lax.max, window, window, 'VALID'))


def whole_block(inputs, kernels, biases):
    return layers3d.convolve_and_pool(inputs, len(inputs), kernels, biases)


@pytest.mark.parametrize('size, widths', [
    ((4, 6, 8), (1, 8, 8)), ((5, 7, 3), (2, 4)), ((2, 2, 2), (3, 16, 5, 4)),
    ((48, 32, 32), (1, 8, 8)),  # one volume at a time
])
def test_a_block_is_its_layers_one_after_the_other(size, widths):
    kernels = tuple(
        0.3 * normal(i, 3, 3, 3, *pair)
        for i, pair in enumerate(zip(widths, widths[1:])))
    biases = tuple(normal(9, n) for n in widths[1:])
    arguments = normal(8, 3, *size, widths[0]), kernels, biases
    close(
        value_and_gradients(whole_block, *arguments),
        value_and_gradients(plain_block, *arguments))


@pytest.mark.parametrize('count', [0, 1, 3, 6])
def test_a_block_computes_nothing_of_fillers_and_the_rest_as_ever(count):
    # One volume at a time, as the others would hide what is left out.
    kernels = tuple(0.3 * normal(i, 3, 3, 3, n, 8) for i, n in enumerate((1, 8)))
    biases = normal(9, 8), normal(7, 8)
    inputs = jnp.asarray(normal(8, 6, 48, 32, 32, 1))
    assert layers3d._at_once(inputs, kernels[1]) == 1

    def block(inputs, kernels, biases):
        outputs = layers3d.convolve_and_pool(inputs, count, kernels, biases)
        return outputs.at[count:].set(0)

    def expected(inputs, kernels, biases):
        return whole_block(inputs, kernels, biases).at[count:].set(0)

    outputs = layers3d.convolve_and_pool(
        inputs.at[count:].set(jnp.nan), count, kernels, biases)
    assert not outputs[count:].any()  # of NaN, if they were computed
    close(
        value_and_gradients(block, inputs, kernels, biases),
        value_and_gradients(expected, inputs, kernels, biases))


def test_a_block_computes_in_the_type_of_its_inputs():
    kernels = tuple(0.2 * normal(i, 3, 3, 3, 4, 4) for i in (1, 2))
    biases, inputs = (normal(3, 4), normal(4, 4)), normal(0, 2, 4, 6, 4, 4)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (inputs, kernels))
    outputs, (*grads, by_biases) = value_and_gradients(
        whole_block, *half, biases)
    assert {x.dtype for x in jax.tree.leaves((outputs, grads))} == {
        jnp.dtype('bfloat16')}
    assert {x.dtype for x in by_biases} == {jnp.dtype('float32')}
    exact, _ = value_and_gradients(whole_block, inputs, kernels, biases)
    close(outputs.astype(jnp.float32), exact, 6 * 2**-8)


def test_conv3d_computes_in_bfloat16_and_keeps_its_parameters():
    inputs = normal(0, 2, 4, 6, 4, 3)
    conv = layers3d.Conv3D(4, use_bias=True, dtype=jnp.bfloat16)
    params = {'kernel': normal(1, 3, 3, 3, 3, 4), 'bias': normal(2, 4)}
    outputs, (grads,) = value_and_gradients(
        lambda params: conv.apply({'params': params}, inputs), params)
    assert outputs.dtype == jnp.bfloat16
    assert {grad.dtype for grad in grads.values()} == {jnp.dtype('float32')}
    expected, (exact,) = value_and_gradients(
        lambda params: nn.Conv(4, (3, 3, 3)).apply({'params': params}, inputs), params)
    # Three sums of 8 bits each, of up to the largest value.
    close(outputs.astype(jnp.float32), expected, 3 * 2**-8)
    close(grads, exact, 3 * 2**-8)


def test_standardised_kernels_keep_the_deviation_through_relu_whatever_their_own():
    inputs = normal(0, 8, 12, 12, 12, 16)
    conv = layers3d.Conv3D(32, use_bias=True, dtype=jnp.float32, standardised=True)
    params = conv.init(jax.random.key(0), inputs)['params']
    assert set(params) == {'kernel', 'gain', 'bias'}
    first = conv.apply({'params': params}, inputs)
    inner = nn.relu(first)[:, 1:-1, 1:-1, 1:-1]  # without the zeros around
    np.testing.assert_allclose(inner.std((0, 1, 2, 3)), 1, atol=0.15)
    changed = params | {'kernel': 7 * params['kernel'] + 0.5}
    close(conv.apply({'params': changed}, inputs), first, 1e-4)
    doubled = params | {'gain': 2 * params['gain']}
    close(conv.apply({'params': doubled}, inputs), 2 * first, 1e-5)


@pytest.mark.parametrize('block', [False, True])
def test_accelerators_get_the_native_convolutions(block):
    inputs, kernel = jnp.zeros((2, 4, 4, 4, 8)), jnp.zeros((3, 3, 3, 8, 8))

    def convolve(inputs, kernel):
        if block:
            return whole_block(inputs, (kernel,), (jnp.zeros(8),))
        return layers3d.convolve(inputs, kernel)

    def step(inputs, kernel):
        outputs, vjp = jax.vjp(convolve, inputs, kernel)
        return vjp(outputs)

    text = jax.export.export(jax.jit(step), platforms=['cuda'])(
        inputs, kernel).mlir_module()
    convolutions = [
        line for line in text.splitlines() if 'stablehlo.convolution' in line]
    assert len(convolutions) == 3  # forward, by inputs, by the kernel
    assert all('0, 1, 2' in line for line in convolutions)
    assert 'dot_general' not in text


@pytest.mark.parametrize('size', [(4, 6, 8), (5, 7, 3), (2, 2, 2)])
def test_max_pool_takes_the_maxima_of_whole_windows_and_sends_gradients_there(size):
    inputs = normal(0, 2, *size, 3)

    def reduce(inputs):
        window = (1, 2, 2, 2, 1)
        return lax.reduce_window(inputs, -jnp.inf, lax.max, window, window, 'VALID')

    close(
        value_and_gradients(layers3d.max_pool, inputs),
        value_and_gradients(reduce, inputs),
        tolerance=0,
    )


def test_max_pool_of_equal_values_gives_the_gradient_to_the_first():
    grad = jax.grad(lambda x: layers3d.max_pool(x).sum())(jnp.ones((1, 2, 2, 2, 1)))
    np.testing.assert_array_equal(grad.ravel(), [1, 0, 0, 0, 0, 0, 0, 0])


def norm(axis_name=None):
    return layers3d.MaskedBatchNorm(jnp.float32, axis_name)


def start(channels):
    return {
        'params': {'scale': normal(1, channels), 'bias': normal(2, channels)},
        'batch_stats': {'mean': normal(3, channels), 'var': normal(4, channels) ** 2},
    }


def test_batch_norm_without_fillers_is_that_of_flax():
    x = 3 + 2 * normal(0, 4, 3, 2, 5, 6)
    for train in (True, False):
        flax_norm = nn.BatchNorm(use_running_average=not train, momentum=0.9)
        expected = flax_norm.apply(start(6), x, mutable=['batch_stats'])
        close(norm().apply(
            start(6), x, jnp.ones(4), train=train, mutable=['batch_stats']), expected)


def test_batch_norm_by_hand_ignores_a_filler():
    x = np.array([[1.0], [3.0], [1000.0]], np.float32)
    variables = {
        'params': {'scale': jnp.ones(1), 'bias': jnp.zeros(1)},
        'batch_stats': {'mean': jnp.zeros(1), 'var': jnp.ones(1)},
    }
    outputs, changed = norm().apply(
        variables, x, jnp.array([1, 1, 0]), train=True, mutable=['batch_stats'])
    # Mean 2 and variance 1 of [1, 3].
    np.testing.assert_allclose(outputs[:2, 0], [-1, 1], atol=1e-5)
    np.testing.assert_allclose(changed['batch_stats']['mean'], [0.2], rtol=1e-5)
    np.testing.assert_allclose(changed['batch_stats']['var'], [1.0], rtol=1e-5)


def test_batch_norm_of_fillers_alone_is_finite_and_leaves_statistics():
    def loss(params):
        variables = start(2) | {'params': params}
        outputs, changed = norm().apply(
            variables, normal(0, 3, 2), jnp.zeros(3), train=True,
            mutable=['batch_stats'])
        return outputs.sum(), changed

    grads, changed = jax.grad(loss, has_aux=True)(start(2)['params'])
    assert all(np.isfinite(grad).all() for grad in grads.values())
    close(changed['batch_stats'], start(2)['batch_stats'], 0)


def test_batch_norm_weighs_devices_by_their_real_examples(devices):
    x, mask = normal(0, 8, 3, 2), np.array([1, 1, 1, 0, 0, 0, 1, 0], np.float32)
    expected, stats = norm().apply(
        start(2), x, mask, train=True, mutable=['batch_stats'])

    def one(x, mask):
        return norm('devices').apply(
            start(2), x, mask, train=True, mutable=['batch_stats'])

    outputs, shared = jax.pmap(one, axis_name='devices')(
        x.reshape(4, 2, 3, 2), mask.reshape(4, 2))
    close(outputs.reshape(8, 3, 2), expected)
    close(jax.tree.map(lambda x: x[0], shared), stats)
