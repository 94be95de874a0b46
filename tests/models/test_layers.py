"""Layers against the plain forms they stand for."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmed.models import layers
from tests.models import trees

close = partial(trees.close, least=0.0)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def normal_params(module, *inputs):
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)['params']
    return jax.tree.map(lambda x: normal(9, *x.shape), shapes)


def values_and_gradients(module, params, *inputs):
    """Outputs, and the gradients of a weighted sum of them by parameters and inputs."""

    @jax.jit
    def compute(params, *inputs):
        outputs, vjp = jax.vjp(
            lambda params, *inputs: module.apply({'params': params}, *inputs),
            params,
            *inputs,
        )
        return outputs, vjp(normal(7, *outputs.shape).astype(outputs.dtype))

    return compute(params, *inputs)


@pytest.mark.parametrize(
    'size, channels, kernel_size, strides, padding',
    [
        ((64, 48), 3, (3, 3), (1, 1), 'SAME'),  # one product an image
        ((64, 48), 1, (3, 3), (1, 1), 'VALID'),
        ((9, 7), 5, (1, 1), (1, 1), 'SAME'),
        ((9, 7), 1, (2, 5), (1, 1), 'VALID'),  # one product a batch
        ((12, 11), 3, (3, 3), (2, 2), 'SAME'),
        ((12, 11), 3, (1, 1), (2, 2), 'SAME'),  # rows and columns no tap reaches
        ((23, 19), 3, (5, 3), (3, 2), 'SAME'),
        ((23, 19), 3, (7, 5), (2, 4), ((3, 1), (2, 0))),  # pixels of each side
        # Fewer pixels than taps: before the convolution, behind it, or both.
        ((2, 1), 3, (3, 3), (1, 1), 'SAME'),
        ((4, 5), 3, (3, 3), (2, 2), ((1, 1), (1, 1))),
        ((3, 2), 3, (5, 3), (3, 2), 'SAME'),
    ],
)
def test_conv_gives_the_values_and_gradients_of_flax(
    size, channels, kernel_size, strides, padding
):
    inputs = normal(0, 2, *size, channels)
    options = dict(strides=strides, padding=padding)
    conv = layers.Conv(4, kernel_size, dtype=jnp.float32, **options)
    flax_conv = nn.Conv(4, kernel_size, **options)
    params = normal_params(conv, inputs)
    close(
        values_and_gradients(conv, params, inputs),
        values_and_gradients(flax_conv, params, inputs),
    )


def test_conv_without_bias_has_a_kernel_only():
    conv = layers.Conv(4, (3, 3), dtype=jnp.float32, use_bias=False)
    params = normal_params(conv, jnp.zeros((1, 8, 8, 2)))
    assert jax.tree.map(jnp.shape, params) == {'kernel': (3, 3, 2, 4)}


class PlainUpsampleConcatConv(nn.Module):
    features: int

    @nn.compact
    def __call__(self, coarse, skip):
        fine = coarse.repeat(2, axis=1).repeat(2, axis=2)
        params = nn.Conv(self.features, (3, 3), name='plain')
        return params(jnp.concatenate([fine, skip], axis=-1))


@pytest.mark.parametrize('size', [(5, 7), (24, 48)])
def test_upsample_concat_conv_equals_upsampling_then_concatenating_then_conv(size):
    height, width = size
    coarse = normal(0, 2, height, width, 3)
    skip = normal(1, 2, 2 * height, 2 * width, 2)
    layer = layers.UpsampleConcatConv(4, use_bias=True, dtype=jnp.float32)
    params = normal_params(layer, coarse, skip)
    outputs, (by_params, *by_inputs) = values_and_gradients(layer, params, coarse, skip)
    expected, (by_plain, *by_plain_inputs) = values_and_gradients(
        PlainUpsampleConcatConv(4), {'plain': params}, coarse, skip
    )
    close(
        (outputs, by_params, by_inputs), (expected, by_plain['plain'], by_plain_inputs)
    )


def test_convolutions_in_bfloat16_stay_near_those_in_float32():
    coarse = normal(0, 2, 20, 36, 3)
    skip = normal(1, 2, 40, 72, 2)
    half, full = (
        layers.UpsampleConcatConv(4, use_bias=True, dtype=dtype)
        for dtype in (jnp.bfloat16, jnp.float32)
    )
    params = normal_params(full, coarse, skip)
    outputs, grads = values_and_gradients(half, params, coarse, skip)
    assert outputs.dtype == jnp.bfloat16
    assert {grad.dtype for grad in jax.tree.leaves(grads)} == {jnp.dtype('float32')}
    expected = values_and_gradients(full, params, coarse, skip)
    close((outputs.astype(jnp.float32), grads), expected, tolerance=2**-6)


def test_gradients_under_vmap_are_those_of_each_slice():
    conv = layers.Conv(4, (3, 3), dtype=jnp.float32)
    inputs = normal(0, 3, 2, 40, 40, 2)
    params = normal_params(conv, inputs[0])

    def grad(inputs):
        return jax.grad(
            lambda params: jnp.sum(jnp.sin(conv.apply({'params': params}, inputs)))
        )(params)

    close(
        jax.jit(jax.vmap(grad))(inputs),
        jax.tree.map(lambda *x: jnp.stack(x), *[jax.jit(grad)(x) for x in inputs]),
    )


def test_max_pool_gives_the_gradient_to_the_first_of_the_largest():
    image = jnp.array([[1.0, 2.0, 0.0, 0.0], [4.0, 3.0, 0.0, 0.0]])[None, :, :, None]
    outputs, vjp = jax.vjp(layers.max_pool, image)
    np.testing.assert_array_equal(outputs[0, :, :, 0], [[4.0, 0.0]])
    (grad,) = vjp(jnp.array([5.0, 7.0]).reshape(outputs.shape))
    expected = [[0.0, 0.0, 7.0, 0.0], [5.0, 0.0, 0.0, 0.0]]
    np.testing.assert_array_equal(grad[0, :, :, 0], expected)


def test_max_pool_gives_the_values_and_gradients_of_flax():
    inputs = normal(0, 2, 6, 10, 3)
    weights = normal(1, 2, 3, 5, 3)

    def flax_pool(inputs):
        return nn.max_pool(inputs, (2, 2), strides=(2, 2))

    np.testing.assert_array_equal(layers.max_pool(inputs), flax_pool(inputs))
    actual, expected = (
        jax.grad(lambda x: jnp.sum(pool(x) * weights))(inputs)
        for pool in (layers.max_pool, flax_pool)
    )
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    'height, width, size, stride, padding',
    [
        (7, 9, 3, 2, 0),
        (8, 10, 3, 2, 0),  # the last row and column are in no window
        (7, 8, 3, 2, 1),
        (9, 7, 2, 2, 0),
        (6, 8, 3, 1, 1),
        (11, 13, 5, 3, 2),
    ],
)
def test_overlapping_max_pool_gives_the_values_and_gradients_of_flax(
    height, width, size, stride, padding
):
    inputs = normal(0, 2, height, width, 3)

    def flax_pool(inputs):
        pads = ((padding, padding),) * 2
        return nn.max_pool(inputs, (size, size), (stride, stride), pads)

    weights = normal(1, *flax_pool(inputs).shape)
    pools = (lambda x: layers.max_pool(x, size, stride, padding)), flax_pool
    np.testing.assert_array_equal(*(pool(inputs) for pool in pools))
    actual, expected = (
        jax.jit(jax.grad(lambda x: jnp.sum(pool(x) * weights)))(inputs)
        for pool in pools
    )
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_overlapping_max_pool_adds_up_what_several_windows_send_back():
    # Columns 0-2 and 2-4; the 5 wins in both, and of the two 1s the first.
    image = jnp.array([[1.0, 1, 5, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    image = image[None, :, :, None]
    outputs, vjp = jax.vjp(lambda x: layers.max_pool(x, 3, 2), image)
    np.testing.assert_array_equal(outputs[0, :, :, 0], [[5.0, 5.0]])
    (grad,) = vjp(jnp.array([10.0, 1.0]).reshape(outputs.shape))
    np.testing.assert_array_equal(grad[0, 0, :, 0], [0, 0, 11, 0, 0])
    assert not np.any(grad[0, 1:])


def test_adaptive_average_pool_takes_shares_that_overlap_or_repeat():
    row = jnp.array([1.0, 2, 4, 8, 16])
    image = jnp.broadcast_to(row[None, None, :, None], (1, 3, 5, 1))
    # Floor and ceiling of 0, 5/3, 10/3, 5: columns 0-1, 1-3 and 3-4.
    pooled = layers.adaptive_average_pool(image, 3)
    expected = np.broadcast_to([1.5, 14 / 3, 12], (3, 3))
    np.testing.assert_allclose(pooled[0, :, :, 0], expected, rtol=1e-6)
    repeated = layers.adaptive_average_pool(image[:, :1, :2], 4)
    expected = np.broadcast_to([1.0, 1, 2, 2], (4, 4))
    np.testing.assert_allclose(repeated[0, :, :, 0], expected, rtol=1e-6)


def drop(inputs, *, rate, axis_name=None, seed=0):
    module = layers.Dropout(rate, axis_name)
    return module.apply({}, inputs, train=True, rngs={'dropout': jax.random.key(seed)})


@pytest.mark.parametrize('devices', [1, 2, 4])
def test_dropout_does_not_depend_on_how_many_devices_share_the_batch(devices):
    inputs = jnp.ones((8, 5, 3))
    split = inputs.reshape(devices, -1, 5, 3)
    outputs = jax.vmap(
        lambda x: drop(x, rate=0.5, axis_name='devices'), axis_name='devices'
    )(split)
    np.testing.assert_array_equal(outputs.reshape(8, 5, 3), drop(inputs, rate=0.5))


def test_dropout_under_pmap_is_the_one_without():
    inputs = jnp.ones((1, 4, 5, 3))
    outputs = jax.pmap(
        lambda x: drop(x, rate=0.5, axis_name='devices'), axis_name='devices'
    )(inputs)
    np.testing.assert_array_equal(outputs[0], drop(inputs[0], rate=0.5))


def test_dropout_keeps_its_share_and_scales_it_to_the_same_mean():
    outputs = drop(jnp.ones((4, 64, 64, 16)), rate=0.2)
    kept = 0.8
    np.testing.assert_allclose(np.unique(outputs), [0, 1 / kept], rtol=1e-6)
    # 262,144 decisions: the share's standard error is 0.0008.
    np.testing.assert_allclose(np.mean(outputs > 0), kept, atol=0.004)


def test_dropout_draws_each_example_channel_and_seed_anew():
    outputs = drop(jnp.ones((2, 64, 64)), rate=0.5)
    reseeded = drop(jnp.ones((1, 64, 64)), rate=0.5, seed=1)
    shifted = [np.roll(outputs[0], by, axis) for by in (1, 2, 8) for axis in (0, 1)]
    others = [outputs[1], outputs[0].T, reseeded[0], *shifted]
    for other in others:  # 4,096 pairs of fair coins: standard error 0.008
        np.testing.assert_allclose(np.mean(outputs[0] == other), 0.5, atol=0.04)


def test_dropout_masks_are_as_uneven_as_coins():
    # Sums over 64 x 64 blocks of a fair coin: variance 1/4 of each place's.
    kept = drop(jnp.ones((64, 64, 64)), rate=0.5) > 0
    for axes in [(1,), (2,), (1, 2)]:
        sums = kept.sum(axes)
        spread = np.var(sums) / (np.prod([64] * len(axes)) / 4)
        np.testing.assert_allclose(spread, 1, atol=5 * (2 / sums.size) ** 0.5)


def test_dropout_gradient_flows_through_what_was_kept():
    inputs = jnp.ones((2, 3, 5))
    grad = jax.grad(lambda x: drop(x, rate=0.25).sum())(inputs)
    np.testing.assert_array_equal(grad, drop(inputs, rate=0.25))


def test_dropout_needs_no_rng_when_it_drops_nothing():
    inputs = jnp.ones((2, 3))
    for rate, train in [(0.0, True), (0.5, False)]:
        outputs = layers.Dropout(rate, 'unbound').apply({}, inputs, train=train)
        np.testing.assert_array_equal(outputs, inputs)


def test_dropout_initialises_outside_of_its_axis():
    layers.Dropout(0.5, 'unbound').init(jax.random.key(0), jnp.ones((2, 3)), train=True)


@pytest.mark.parametrize('rate', [-0.1, 1.0])
def test_dropout_refuses_a_rate_that_is_no_share(rate):
    with pytest.raises(ValueError, match=str(rate)):
        drop(jnp.ones((2, 3)), rate=rate)
