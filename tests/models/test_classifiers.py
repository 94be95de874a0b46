"""AlexNet, VGG and ResNet: torchvision's sizes, and what every model promises."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmed.errors import ConfigError
from jaxmed.models.alexnet import AlexNet
from jaxmed.models.resnet import ResNet, ResNet18, ResNet34, ResNet50, ResNet101
from jaxmed.models.vgg import VGG11

MODELS = {
    'AlexNet': AlexNet,
    'VGG11': functools.partial(VGG11, batch_norm=False),
    'VGG11 with batch norm': functools.partial(VGG11, batch_norm=True),
    'ResNet18': ResNet18,
    'ResNet34': ResNet34,
    'ResNet50': ResNet50,
    'ResNet101': ResNet101,
}


def make(name, **options):
    defaults = dict(num_classes=4, dropout=0.0, dtype=jnp.float32, axis_name=None)
    return MODELS[name](**{**defaults, **options})


def shapes(model, images):
    """Shapes of (logits, variables), without computing anything."""
    return jax.eval_shape(
        lambda key: model.init_with_output(key, images, train=False),
        jax.random.key(0),
    )


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def draw(tree):
    """Kernels that keep the activations' size; vectors near one."""

    def one(leaf):
        if len(leaf.shape) == 1:
            return 1 + 0.1 * normal(8, *leaf.shape)
        return normal(9, *leaf.shape) * math.sqrt(2 / math.prod(leaf.shape[:-1]))

    return jax.tree.map(one, tree)


def draw_features(model, images):
    """Variables of what comes before the head: without the millions of dense layers."""
    _, variables = shapes(model, images)
    variables['params'] = {
        name: leaf for name, leaf in variables['params'].items()
        if not name.startswith(('dense', 'outputs'))
    }
    return draw(variables)


@pytest.mark.parametrize('name, channels, num_classes, expected', [
    ('AlexNet', 3, 1000, 61_100_840),
    ('VGG11', 3, 1000, 132_863_336),
    # A scale and an offset for each of 64 + 128 + 2 * 256 + 4 * 512 features.
    ('VGG11 with batch norm', 3, 1000, 132_863_336 + 2 * 2752),
    ('ResNet18', 3, 1000, 11_689_512),
    ('ResNet34', 3, 1000, 21_797_672),
    ('ResNet50', 3, 1000, 25_557_032),
    ('ResNet101', 3, 1000, 44_549_160),
    # One channel has a third of the stem, three classes 3 / 1000 of the classifier.
    ('AlexNet', 1, 3, 61_100_840 - 2 * 11 * 11 * 64 - 997 * 4097),
    ('VGG11', 1, 3, 132_863_336 - 2 * 3 * 3 * 64 - 997 * 4097),
    ('ResNet50', 1, 3, 25_557_032 - 2 * 7 * 7 * 64 - 997 * 2049),
])
def test_parameters_are_as_many_as_torchvisions(name, channels, num_classes, expected):
    images = jnp.zeros((1, 224, 224, channels))
    _, variables = shapes(make(name, num_classes=num_classes), images)
    assert sum(x.size for x in jax.tree.leaves(variables['params'])) == expected


@pytest.mark.parametrize('name', MODELS)
@pytest.mark.parametrize('size', [(64, 64), (227, 227), (224, 321)])
def test_images_of_any_size_have_float32_logits_of_float32_parameters(name, size):
    model = make(name, dtype=jnp.bfloat16)
    logits, variables = shapes(model, jnp.zeros((2, *size, 3)))
    assert logits.shape == (2, 4)
    leaves = jax.tree.leaves((logits, variables))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype('float32')}


@pytest.mark.parametrize('name', ['AlexNet', 'VGG11', 'ResNet18'])
def test_bfloat16_is_what_the_layers_compute_in(name):
    images = normal(0, 2, 64, 64, 3)
    features = {}
    for dtype in (jnp.bfloat16, jnp.float32):
        model = make(name, dtype=dtype)
        variables = draw_features(model, images)
        features[dtype] = jax.jit(
            lambda x: model.apply(variables, x, method='features', train=False)
        )(images)
    half, full = features[jnp.bfloat16], features[jnp.float32]
    assert half.dtype == jnp.bfloat16 and full.dtype == jnp.float32
    difference = np.linalg.norm(half.astype(jnp.float32) - full) / np.linalg.norm(full)
    assert 1e-4 < difference < 0.05  # 8 bits a value


@pytest.mark.parametrize('name, expected', [
    ('AlexNet', (2, 13, 13, 256)),
    ('VGG11', (2, 14, 14, 512)),
    ('ResNet18', (2, 7, 7, 512)),
    ('ResNet50', (2, 7, 7, 2048)),
])
def test_the_last_feature_map_is_that_of_the_papers(name, expected):
    model, images = make(name), jnp.zeros((2, 224, 224, 3))
    _, variables = shapes(model, images)
    apply = functools.partial(model.apply, method='features', train=False)
    assert jax.eval_shape(apply, variables, images).shape == expected


@pytest.mark.parametrize('name', ['AlexNet', 'ResNet18'])
def test_features_then_head_are_the_model(name):
    model, images = make(name), normal(0, 2, 80, 64, 1)
    variables = draw(shapes(model, images)[1])

    @jax.jit
    def compute(variables, images):
        apply = functools.partial(model.apply, variables, train=False)
        features = apply(images, method='features')
        # What Grad-CAM asks for: a class's logit as a function of the features.
        head = functools.partial(apply, method='head')
        grad = jax.grad(lambda x: head(x)[:, 1].sum())(features)
        return head(features), apply(images), features, grad

    logits, expected, features, grad = compute(variables, images)
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())
    assert grad.shape == features.shape and np.any(grad != 0)


@pytest.mark.parametrize('name', ['AlexNet', 'VGG11', 'ResNet18'])
def test_dropout_acts_in_training_only_and_in_the_head(name):
    model, images = make(name, dropout=0.5), jnp.zeros((1, 64, 64, 3))
    _, variables = shapes(model, images)
    rngs = {'dropout': jax.random.key(0)}

    def trace(method, inputs, train):
        apply = functools.partial(
            model.apply, method=method, train=train, rngs=rngs,
            mutable=['batch_stats'],
        )
        return jax.make_jaxpr(apply, return_shape=True)(variables, inputs)

    _, (features, _) = trace('features', images, False)
    drops = {
        (method, train): 'fold_in' in str(trace(method, inputs, train)[0])
        for method, inputs in (('features', images), ('head', features))
        for train in (True, False)
    }
    assert [key for key, value in drops.items() if value] == [('head', True)]


@pytest.mark.parametrize('name, layer', [
    ('VGG11 with batch norm', 'norm1'), ('ResNet18', 'norm1'),
])
def test_training_normalises_by_the_batch_and_moves_the_running_statistics(name, layer):
    model = make(name)
    images = 3 + 2 * normal(0, 2, 32, 32, 3)
    variables = draw_features(model, images)
    # The identity where the stem allows it: its first three features are the channels.
    stem = variables['params']['conv1']
    kernel = np.zeros_like(stem['kernel'])
    kernel[kernel.shape[0] // 2, kernel.shape[1] // 2, :3, :3] = np.eye(3)
    stem['kernel'] = kernel
    if 'bias' in stem:
        stem['bias'] = np.zeros_like(stem['bias'])
    apply = jax.jit(functools.partial(
        model.apply, method='features', train=True, mutable=['batch_stats']
    ))
    _, state = apply(variables, images)
    seen = images if name != 'ResNet18' else images[:, ::2, ::2]  # its stride
    before, after = (
        x['batch_stats'][layer] for x in (variables, state)
    )
    for kind, value in (('mean', seen.mean((0, 1, 2))), ('var', seen.var((0, 1, 2)))):
        expected = 0.9 * before[kind][:3] + 0.1 * value
        np.testing.assert_allclose(after[kind][:3], expected, rtol=1e-4)


@pytest.mark.parametrize('name', ['VGG11 with batch norm', 'ResNet18'])
def test_statistics_do_not_depend_on_two_devices_sharing_the_batch(name):
    images = normal(0, 4, 32, 32, 3)
    variables = draw_features(make(name), images)

    def features(axis_name, images):
        return make(name, axis_name=axis_name).apply(
            variables, images, method='features', train=True, mutable=['batch_stats']
        )

    expected, expected_state = jax.jit(functools.partial(features, None))(images)
    actual, state = jax.jit(jax.vmap(
        functools.partial(features, 'devices'), axis_name='devices', out_axes=(0, None)
    ))(images.reshape(2, 2, *images.shape[1:]))
    actual = actual.reshape(expected.shape)
    np.testing.assert_allclose(actual, expected, atol=2e-3 * np.abs(expected).max())
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4 * np.abs(y).max()),
        state, expected_state,
    )


@pytest.mark.parametrize('name, size, needed', [
    ('AlexNet', (62, 80), 63), ('VGG11', (40, 31), 32),
])
def test_an_image_of_which_nothing_would_be_left_is_refused(name, size, needed):
    reason = f'{size[0]} x {size[1]} is too small for .* needs {needed} pixels'
    with pytest.raises(ConfigError, match=reason):
        shapes(make(name), jnp.zeros((1, *size, 1)))
    larger = jnp.zeros((1, *(max(side, needed) for side in size), 1))
    shapes(make(name), larger)


def test_first_kernels_keep_the_signal():
    # Kaiming by inputs has a variance of 2 / (kh * kw * C), by outputs of features.
    def spread(model, layer, method='features', shape=(1, 64, 64, 3)):
        init = jax.jit(functools.partial(model.init, method=method, train=False))
        params = init(jax.random.key(0), jnp.zeros(shape))['params']
        return float(jnp.var(params[layer]['kernel']))

    resnet = ResNet(
        num_classes=3, blocks=(1,), bottleneck=False, dropout=0.0, dtype=jnp.float32,
        axis_name=None,
    )
    np.testing.assert_allclose(spread(resnet, 'conv1'), 2 / (49 * 64), rtol=0.1)
    dense = spread(resnet, 'outputs', 'head', (1, 2, 2, 64))
    np.testing.assert_allclose(dense, 1 / (3 * 64), rtol=0.3)
    alexnet = spread(make('AlexNet'), 'conv1')
    np.testing.assert_allclose(alexnet, 2 / (121 * 3), rtol=0.1)
