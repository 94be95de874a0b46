"""The small network: paper 004's elements, worked out by hand."""

import doctest
import functools
import operator
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmed import losses
from jaxmed.errors import ConfigError
from jaxmed.models import cnn, layers


def make_cnn(**options):
    defaults = dict(
        num_classes=3, widths=(4, 6), kernel_size=3, stride=1, padding='SAME',
        pooling='max', activation='relu', batch_norm=False, flatten=True, hidden=5,
        dropout=0.0, use_bias=True, dtype=jnp.float32, axis_name=None,
    )
    return cnn.CNN(**{**defaults, **options})


def init(model, *shape):
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    # Compiled as a whole: operation by operation takes ten times as long.
    compiled = jax.jit(lambda key: model.init(key, images, train=False))
    return compiled(jax.random.key(0)), images


def trace(model, *shape):
    """Variables without their values."""
    init = functools.partial(model.init, train=False)
    return jax.eval_shape(init, jax.random.key(0), jnp.zeros(shape))


def shapes(model, *shape):
    return jax.tree.map(jnp.shape, trace(model, *shape)['params'])


def run(model, variables, images, **options):
    apply = functools.partial(model.apply, train=False, **options)
    return jax.jit(apply)(variables, images)


def test_figure_3_has_two_convolutions_two_poolings_and_a_dense_head():
    assert shapes(make_cnn(), 2, 16, 12, 1) == {
        'conv1': {'kernel': (3, 3, 1, 4), 'bias': (4,)},
        'conv2': {'kernel': (3, 3, 4, 6), 'bias': (6,)},
        'dense1': {'kernel': (4 * 3 * 6, 5), 'bias': (5,)},  # halved twice
        'outputs': {'kernel': (5, 3), 'bias': (3,)},
    }


def test_widths_kernel_stride_padding_and_bias_shape_the_network():
    model = make_cnn(
        widths=(2, 3, 4), kernel_size=5, stride=2, padding='VALID', hidden=0,
        use_bias=False,
    )
    # Convolution: (n - 5) // 2 + 1; pooling: n // 2. 149 -> 73, 36 -> 16, 8 -> 2, 1.
    assert shapes(model, 1, 149, 149, 3) == {
        'conv1': {'kernel': (5, 5, 3, 2)}, 'conv2': {'kernel': (5, 5, 2, 3)},
        'conv3': {'kernel': (5, 5, 3, 4)}, 'outputs': {'kernel': (4, 3)},
    }


@pytest.mark.parametrize('activation, expected', [
    ('sigmoid', [1 / (1 + np.e), 0.5, np.e / (1 + np.e)]),
    ('tanh', [-0.76159416, 0, 0.76159416]),  # (e - 1/e) / (e + 1/e)
    ('relu', [0, 0, 1]),
    ('leaky_relu', [-0.01, 0, 1]),
])
def test_activations_are_the_corrected_formulas(activation, expected):
    actual = cnn.ACTIVATIONS[activation](jnp.array([-1.0, 0.0, 1.0]))
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize('pooling, activation, expected', [
    ('max', 'relu', 7), ('average', 'relu', (2 + 7 + 0 + 5) / 4),
    ('max', 'leaky_relu', 7), ('average', 'leaky_relu', (2 + 7 - 0.02 + 5) / 4),
])
def test_a_network_of_ones_pools_and_activates_by_hand(pooling, activation, expected):
    model = make_cnn(
        widths=(1,), kernel_size=1, pooling=pooling, activation=activation, hidden=0,
        num_classes=1,
    )
    image = jnp.array([[1.0, 6.0, 9.0], [-3.0, 4.0, 9.0]])[None, :, :, None]
    variables = trace(model, 1, 2, 3, 1)
    variables = jax.tree.map(lambda x: jnp.ones(x.shape), variables)  # biases as well
    # x + 1 is [2, 7], [-2, 5] and a column that no window covers; outputs add 1 again.
    logits = run(model, variables, image)
    np.testing.assert_allclose(logits, [[expected + 1]], rtol=1e-6)


def test_without_flatten_the_head_sees_means_and_takes_any_size():
    model = make_cnn(
        widths=(8,) * 5, batch_norm=True, flatten=False, hidden=0, dropout=0.3
    )
    params = shapes(model, 1, 64, 64, 1)
    assert params['outputs'] == {'kernel': (8, 3), 'bias': (3,)}
    assert 'bias' not in params['conv1']  # the norm's offset replaces it
    assert params == shapes(model, 2, 128, 96, 1)


def test_features_then_head_are_the_model():
    model = make_cnn(batch_norm=True, pooling='average', activation='tanh')
    variables, images = init(model, 2, 16, 16, 3)
    features = run(model, variables, images, method='features')
    assert features.shape == (2, 8, 8, 6)  # before the last pooling
    logits = run(model, variables, features, method='head')
    expected = run(model, variables, images)
    np.testing.assert_allclose(logits, expected, rtol=1e-6)


def test_bfloat16_gives_float32_logits_of_float32_parameters():
    model = make_cnn(dtype=jnp.bfloat16, batch_norm=True)
    variables, images = trace(model, 2, 16, 16, 3), jnp.zeros((2, 16, 16, 3))

    def apply(method):
        apply = functools.partial(model.apply, train=False, method=method)
        return jax.eval_shape(apply, variables, images)

    leaves = jax.tree.leaves((variables, apply('__call__')))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype('float32')}
    assert apply('features').dtype == jnp.bfloat16


def test_dropout_acts_in_training_only():
    model = make_cnn(dropout=0.5)
    variables, images = init(model, 1, 16, 16, 1)

    @functools.partial(jax.jit, static_argnums=0)
    def apply(train, seed):
        rngs = {'dropout': jax.random.key(seed)}
        return model.apply(variables, images, train=train, rngs=rngs)

    assert jnp.all(apply(False, 0) == apply(False, 1))
    assert jnp.any(apply(True, 0) != apply(True, 1))


@pytest.mark.parametrize('option, value, reason', [
    ('padding', 'same', "padding: 'same' is none of SAME, VALID"),
    ('pooling', 'min', "pooling: 'min' is none of max, average"),
    ('activation', 'swish', "activation: 'swish' is none of sigmoid, tanh"),
])
def test_an_option_that_does_not_exist_is_refused_with_those_that_do(
    option, value, reason
):
    with pytest.raises(ConfigError, match=reason):
        trace(make_cnn(**{option: value}), 1, 16, 16, 1)


def test_an_image_too_small_for_the_blocks_is_refused():
    with pytest.raises(ConfigError, match='8 x 9 is too small.*block 4 of 4'):
        trace(make_cnn(widths=(2,) * 4), 1, 8, 9, 1)
    trace(make_cnn(widths=(2,) * 3), 1, 8, 9, 1)


def test_sharing_saves_all_but_a_kernel_of_187_500_weights_a_neuron():
    sharing = cnn.count_weights(
        height=250, width=250, channels=3, kernel_size=5, features=16
    )
    assert sharing.dense_neuron == 250 * 250 * 3 == 187_500
    assert sharing.outputs == 250 * 250 * 16
    assert sharing.dense_layer == 187_500 * 250 * 250 * 16
    assert sharing.convolution == 5 * 5 * 3 * 16 == 1200


def test_the_page_of_elements_counts_right_and_names_what_is_there():
    page = Path(cnn.__file__).with_name('README.md')
    failed, tried = doctest.testfile(
        str(page), module_relative=False, globs={'cnn': cnn}
    )
    assert tried and not failed
    named = re.findall(r'`((?:cnn|layers|losses)\.[A-Za-z_.]+)', page.read_text())
    assert len(set(named)) > 8
    for name in named:
        operator.attrgetter(name.partition('.')[2])(
            {'cnn': cnn, 'layers': layers, 'losses': losses}[name.partition('.')[0]])


def test_one_batch_is_learned_by_heart():
    model = make_cnn(widths=(8, 8), batch_norm=True, flatten=False, hidden=0)
    variables, images = init(model, 8, 16, 16, 1)
    labels = jnp.arange(8) % 3

    @jax.jit
    def step(variables):
        def loss(params):
            logits, state = model.apply(
                {**variables, 'params': params}, images, train=True,
                mutable=['batch_stats'],
            )
            rows = jnp.arange(8)
            return -jnp.mean(jax.nn.log_softmax(logits)[rows, labels]), state

        (value, state), grads = jax.value_and_grad(loss, has_aux=True)(
            variables['params'])
        params = jax.tree.map(lambda p, g: p - 0.5 * g, variables['params'], grads)
        return {'params': params, **state}, value

    for _ in range(300):
        variables, value = step(variables)
    assert value < 0.01
