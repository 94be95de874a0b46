"""U-Net: the paper's parameter count, PyTorch's values, and independence of devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmed.models import unet


def make_unet(**options):
    defaults = dict(
        num_classes=1,
        widths=(4, 6, 8),
        dropout=0.0,
        batch_norm=False,
        dtype=jnp.float32,
        axis_name=None,
    )
    return unet.UNet(**{**defaults, **options})


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def normal_variables(model, images):
    """Kernels that keep the activations' size; vectors near one."""

    def draw(leaf):
        if len(leaf.shape) == 1:
            return 1 + 0.1 * normal(8, *leaf.shape)
        return normal(9, *leaf.shape) / (leaf.size // leaf.shape[-1]) ** 0.5

    shapes = jax.eval_shape(
        lambda key: model.init(key, images, train=False), jax.random.key(0)
    )
    return jax.tree.map(draw, shapes)


def count_parameters(model, channels):
    images = jnp.zeros((1, 128, 128, channels))
    variables = jax.eval_shape(
        lambda key: model.init(key, images, train=False), jax.random.key(0)
    )
    return sum(x.size for x in jax.tree.leaves(variables['params']))


def test_papers_network_has_its_7_846_081_parameters():
    def conv(inputs, outputs):
        return 3 * 3 * inputs * outputs + outputs

    # Encoder and bottleneck, then decoder: each block's two convolutions.
    blocks = [(1, 32), (32, 64), (64, 128), (128, 256), (256, 512)]
    blocks += [(512 + 256, 256), (256 + 128, 128), (128 + 64, 64), (64 + 32, 32)]
    expected = sum(conv(a, b) + conv(b, b) for a, b in blocks) + 32 + 1
    assert expected == 7_846_081  # the sum that the paper prints
    model = make_unet(widths=(32, 64, 128, 256, 512))
    assert count_parameters(model, channels=1) == expected
    # Two more input channels and classes are 3 * 3 * 2 * 32 and 2 * (32 + 1) more.
    model = make_unet(widths=(32, 64, 128, 256, 512), num_classes=3)
    assert count_parameters(model, channels=3) == expected + 576 + 66


def test_batch_norm_adds_a_scale_for_each_feature_and_replaces_the_biases():
    difference = count_parameters(make_unet(batch_norm=True), 3) - count_parameters(
        make_unet(), 3
    )
    assert difference == 2 * (4 + 6 + 8 + 6 + 4)


@pytest.mark.parametrize('depth', [1, 2, 4])
def test_each_pixel_has_its_logits_at_any_depth(depth):
    model = make_unet(widths=(2, 3, 4, 5)[:depth], num_classes=3, dtype=jnp.bfloat16)
    images = jnp.zeros((2, 3 * 2 ** (depth - 1), 5 * 2 ** (depth - 1), 3))
    logits, variables = jax.eval_shape(
        lambda key: model.init_with_output(key, images, train=False), jax.random.key(0)
    )
    assert logits.shape == (*images.shape[:3], 3) and logits.dtype == jnp.float32
    dtypes = {x.dtype for x in jax.tree.leaves(variables)}
    assert dtypes == {jnp.dtype('float32')}


def test_a_size_that_cannot_be_halved_is_refused_with_the_multiple():
    model = make_unet(widths=(2, 2, 2, 2))
    with pytest.raises(ValueError, match='multiples of 8, got 16 x 20'):
        model.init(jax.random.key(0), jnp.zeros((1, 16, 20, 1)), train=False)


def test_dropout_acts_in_training_only():
    model = make_unet(dropout=0.5, widths=(4, 6))
    images = normal(0, 1, 8, 8, 1)
    variables = normal_variables(model, images)

    @functools.partial(jax.jit, static_argnums=0)
    def apply(train, seed):
        rngs = {'dropout': jax.random.key(seed)}
        return model.apply(variables, images, train=train, rngs=rngs)

    assert jnp.all(apply(False, 0) == apply(False, 1))
    assert jnp.any(apply(True, 0) != apply(True, 1))


def test_training_does_not_depend_on_two_devices_sharing_the_batch():
    options = dict(batch_norm=True, dropout=0.3, widths=(4, 6))
    images = normal(0, 4, 32, 32, 3)
    weights = normal(1, 4, 32, 32, 1)
    variables = normal_variables(make_unet(**options), images)

    def gradients(axis_name, images, weights):
        def loss(params):
            logits, state = make_unet(**options, axis_name=axis_name).apply(
                {**variables, 'params': params},
                images,
                train=True,
                mutable=['batch_stats'],
                rngs={'dropout': jax.random.key(3)},
            )
            return jnp.sum(logits * weights), state

        return jax.grad(loss, has_aux=True)(variables['params'])

    expected = jax.jit(lambda *x: gradients(None, *x))(images, weights)

    def share(images, weights):
        grads, state = gradients('devices', images, weights)
        return jax.lax.psum(grads, 'devices'), state

    split = (x.reshape(2, 2, *x.shape[1:]) for x in (images, weights))
    actual = jax.jit(jax.vmap(share, axis_name='devices', out_axes=None))(*split)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(
            x, y, rtol=0, atol=1e-4 * np.abs(y).max()
        ),
        actual,
        expected,
    )


def test_logits_and_gradients_equal_pytorchs():
    torch = pytest.importorskip('torch')
    functional = torch.nn.functional
    model = make_unet(num_classes=2, widths=(3, 4))
    images, weights = normal(0, 2, 64, 48, 3), normal(1, 2, 64, 48, 2)
    params = normal_variables(model, images)['params']

    def loss(params):
        logits = model.apply({'params': params}, images, train=True)
        return jnp.sum(logits * weights) / weights.size, logits

    grads, logits = jax.jit(jax.grad(loss, has_aux=True))(params)

    kernels = {  # HWIO -> OIHW
        name: torch.tensor(np.transpose(leaf['kernel'], (3, 2, 0, 1)).copy())
        for name, leaf in params.items()
    }
    biases = {name: torch.tensor(np.array(p['bias'])) for name, p in params.items()}
    for tensor in (*kernels.values(), *biases.values()):
        tensor.requires_grad_()

    def conv(x, name):
        x = functional.conv2d(x, kernels[name], biases[name], padding='same')
        return x if name == 'outputs' else torch.relu(x)

    x, skips = torch.tensor(images.transpose(0, 3, 1, 2).copy()), []
    for level in (1, 2):
        if level > 1:
            skips.append(x)
            x = functional.max_pool2d(x, 2)
        x = conv(conv(x, f'conv{level}_1'), f'conv{level}_2')
    x = functional.interpolate(x, scale_factor=2, mode='nearest')
    x = torch.cat([x, skips.pop()], dim=1)
    x = conv(conv(x, 'conv3_1'), 'conv3_2')
    expected = conv(x, 'outputs').permute(0, 2, 3, 1)
    (expected * torch.tensor(weights)).mean().backward()

    np.testing.assert_allclose(logits, expected.detach(), atol=1e-4)
    for name, grad in grads.items():
        kernel = kernels[name].grad.permute(2, 3, 1, 0)
        np.testing.assert_allclose(grad['kernel'], kernel, atol=1e-4)
        np.testing.assert_allclose(grad['bias'], biases[name].grad, atol=1e-4)
