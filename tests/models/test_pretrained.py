"""Weights of PyTorch's networks: the same logits here, and nothing else gets in."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import save_file

from jaxmed.errors import CheckpointError, ConfigError
from jaxmed.models import pretrained
from jaxmed.models.alexnet import AlexNet
from jaxmed.models.cnn import CNN
from jaxmed.models.resnet import ResNet, ResNet18, ResNet34, ResNet50
from jaxmed.models.vgg import VGG11

OPTIONS = dict(dropout=0.0, dtype=jnp.float32, axis_name=None)


def shapes(model, channels=3):
    images = jnp.zeros((1, 64, 64, channels))
    return jax.eval_shape(
        lambda key: model.init(key, images, train=False), jax.random.key(0)
    )


def apply(model, variables, images):
    return np.array(jax.jit(lambda v, x: model.apply(v, x, train=False))(
        variables, images))


def make_torch(name, num_classes, seed=0):
    """A network of random weights that keep the signal, in evaluation mode."""
    torch = pytest.importorskip('torch', reason='parity is with PyTorch')
    from launch.benchmarks import torch_classifiers

    with torch.device('meta'):
        network = torch_classifiers.build(name, channels=3, num_classes=num_classes)
    network = network.to_empty(device='cpu').eval()
    torch.manual_seed(seed)
    for key, tensor in network.state_dict().items():
        if tensor.ndim > 1:
            bound = (6 / tensor[0].numel()) ** 0.5
            tensor.uniform_(-bound, bound)
        elif key.endswith(('weight', 'running_var')):
            tensor.uniform_(0.5, 1.5)
        elif not key.endswith('num_batches_tracked'):
            tensor.uniform_(-0.2, 0.2)
        else:
            tensor.fill_(7)
    return network


def save_torch(network, path):
    from safetensors.torch import save_file

    save_file(network.state_dict(), path)


def run_torch(network, images):
    import torch

    with torch.inference_mode():
        return network(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()


@pytest.mark.parametrize('name, model, size, half', [
    ('alexnet', AlexNet(num_classes=5, **OPTIONS), (224, 224), None),
    # Half the bytes: the networks of 128 million weights in each of the small types.
    ('vgg11', VGG11(num_classes=5, batch_norm=False, **OPTIONS), (96, 64), 'float16'),
    ('vgg11_bn', VGG11(num_classes=5, batch_norm=True, **OPTIONS), (64, 96),
     'bfloat16'),
    ('resnet18', ResNet18(num_classes=5, **OPTIONS), (65, 64), None),
    ('resnet50', ResNet50(num_classes=5, **OPTIONS), (96, 96), None),
])
def test_pytorchs_weights_give_pytorchs_logits(name, model, size, half, tmp_path):
    network, path = make_torch(name, 5), tmp_path / 'weights.safetensors'
    if half is not None:
        import torch

        network.to(getattr(torch, half))
    save_torch(network, path)
    images = np.random.default_rng(0).standard_normal((2, *size, 3), np.float32)
    expected = run_torch(network.float(), images)
    variables, report = pretrained.load(path, model, shapes(model))
    path.unlink()  # half a gigabyte

    assert report.fresh == report.left_out == () and not report.grey
    assert len(report.loaded) == len(jax.tree.leaves(variables))
    actual = apply(model, variables, images)
    scale = np.abs(expected).max()
    assert scale > 0.5
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * max(scale, 1))


def resnet18_tensors(*, channels=3, num_classes=1000, seed=0):
    """torchvision's state dict: names and shapes as its files have them."""
    random = np.random.default_rng(seed)
    tensors = {}

    def conv(name, inputs, outputs, size):
        shape = outputs, inputs, size, size
        tensors[f'{name}.weight'] = random.standard_normal(shape, np.float32)

    def norm(name, features):
        for kind in ('weight', 'bias', 'running_mean', 'running_var'):
            tensors[f'{name}.{kind}'] = random.random(features, np.float32)
        tensors[f'{name}.num_batches_tracked'] = np.array(9)

    conv('conv1', channels, 64, 7)
    norm('bn1', 64)
    inputs = 64
    for stage, width in enumerate((64, 128, 256, 512), start=1):
        for block in (0, 1):
            name = f'layer{stage}.{block}'
            conv(f'{name}.conv1', inputs, width, 3)
            conv(f'{name}.conv2', width, width, 3)
            norm(f'{name}.bn1', width)
            norm(f'{name}.bn2', width)
            if inputs != width:
                conv(f'{name}.downsample.0', inputs, width, 1)
                norm(f'{name}.downsample.1', width)
            inputs = width
    tensors['fc.weight'] = random.standard_normal((num_classes, 512), np.float32)
    tensors['fc.bias'] = random.random(num_classes, np.float32)
    return tensors


@pytest.fixture(scope='module')
def tensors():
    return resnet18_tensors()


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'weights.safetensors'


@pytest.fixture
def refused(path):
    """Saves tensors and says why they are refused, which takes one line."""

    def refuse(tensors=None, model=ResNet18(num_classes=3, **OPTIONS), **options):
        if tensors is not None:
            save_file(tensors, path)
        with pytest.raises(CheckpointError) as caught:
            pretrained.load(path, model, shapes(model), **options)
        assert str(caught.value).startswith(f'{path}: ')
        assert '\n' not in str(caught.value)
        return caught.value.reason

    return refuse


def test_each_array_is_its_tensor_with_the_outputs_last(tensors, path):
    save_file(tensors, path)
    model = ResNet18(num_classes=1000, **OPTIONS)
    variables, report = pretrained.load(path, model, shapes(model))
    params, stats = variables['params'], variables['batch_stats']
    block = params['stage2_block1']
    for array, name in (
        (params['conv1']['kernel'], 'conv1.weight'),
        (block['conv2']['kernel'], 'layer2.0.conv2.weight'),
        (block['conv_shortcut']['kernel'], 'layer2.0.downsample.0.weight'),
    ):
        np.testing.assert_array_equal(array, tensors[name].transpose(2, 3, 1, 0))
    for array, name in (
        (params['outputs']['kernel'].T, 'fc.weight'),
        (params['outputs']['bias'], 'fc.bias'),
        (block['norm1']['scale'], 'layer2.0.bn1.weight'),
        (block['norm1']['bias'], 'layer2.0.bn1.bias'),
        (stats['norm1']['mean'], 'bn1.running_mean'),
        (stats['stage2_block1']['norm_shortcut']['var'],
         'layer2.0.downsample.1.running_var'),
    ):
        np.testing.assert_array_equal(array, tensors[name])
    assert report.network == 'ResNet18'
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert report.sha256 == digest and digest in str(report)


def test_only_a_head_of_other_classes_keeps_its_fresh_values(tensors, path):
    save_file(tensors, path)
    model = ResNet18(num_classes=3, **OPTIONS)
    fresh = jax.tree.map(lambda x: np.full(x.shape, 8, np.float32), shapes(model))
    variables, report = pretrained.load(path, model, fresh)
    assert report.left_out == ('fc.bias', 'fc.weight')
    assert report.fresh == ('params/outputs/bias', 'params/outputs/kernel')
    assert 'left out: fc.bias, fc.weight' in str(report)
    untouched = [
        '/'.join(key.key for key in keys)
        for keys, leaf in jax.tree_util.tree_leaves_with_path(variables)
        if np.all(leaf == 8)
    ]
    assert tuple(untouched) == report.fresh


def test_a_file_without_a_head_leaves_the_models(tensors, path):
    save_file({k: v for k, v in tensors.items() if not k.startswith('fc')}, path)
    model = ResNet18(num_classes=1000, **OPTIONS)
    _, report = pretrained.load(path, model, shapes(model))
    assert report.left_out == () and len(report.fresh) == 2


def test_a_grey_model_computes_what_the_rgb_one_does_on_equal_channels(tensors, path):
    save_file(tensors, path)
    grey = np.random.default_rng(1).standard_normal((1, 64, 64, 1), np.float32)
    model = ResNet(
        num_classes=1000, blocks=(2, 2, 2, 2), bottleneck=False, **OPTIONS
    )
    features = []
    for channels in (1, 3):
        variables, report = pretrained.load(path, model, shapes(model, channels))
        assert report.grey == (channels == 1)
        features.append(jax.jit(
            lambda v, x: model.clone(blocks=()).apply(
                v, x, method='features', train=False)
        )(variables, grey.repeat(channels, axis=-1)))
    np.testing.assert_allclose(*features, atol=1e-4)


def test_the_first_dense_kernel_is_turned_from_channels_first_to_last(path):
    # Weight [o, i] of a pixel (y, x) of channel c at i = (6 c + y) 6 + x; here at
    # (6 y + x) 256 + c. Values up to 2048 are exact in float16.
    places = (np.arange(256 * 36) % 2048).astype(np.float16)
    tensors = {
        'classifier.1.weight': np.broadcast_to(places, (4096, 256 * 36)).copy(),
        'classifier.4.weight': np.zeros((4096, 4096), np.float16),
        'classifier.6.weight': np.zeros((9, 4096), np.float16),
    }
    channels = 3
    for place, width, size in ((0, 64, 11), (3, 192, 5), (6, 384, 3), (8, 256, 3),
                               (10, 256, 3)):
        shape = width, channels, size, size
        tensors[f'features.{place}.weight'] = np.zeros(shape, np.float16)
        channels = width
    tensors |= {
        name.replace('weight', 'bias'): np.zeros(len(tensor), np.float16)
        for name, tensor in tensors.items()
    }
    save_file(tensors, path)
    model = AlexNet(num_classes=9, **OPTIONS)
    variables, _ = pretrained.load(path, model, shapes(model))
    kernel = variables['params']['dense1']['kernel']
    y, x, c = np.unravel_index(np.arange(6 * 6 * 256), (6, 6, 256))
    np.testing.assert_array_equal(kernel[:, 5], (6 * (6 * c + y) + x) % 2048)


@pytest.mark.parametrize('model, name', [
    (ResNet34, 'ResNet34'), (ResNet50, 'ResNet50'), (AlexNet, 'AlexNet'),
])
def test_weights_of_another_network_are_refused_by_name(tensors, refused, model, name):
    reason = refused(tensors, model(num_classes=3, **OPTIONS))
    assert reason.startswith(f'weights of ResNet18, not of {name}: it has no ')


def test_weights_of_an_unknown_network_are_refused(tensors, refused):
    reason = refused({'blocks.0.attn.qkv.weight': np.zeros((3, 3), np.float32)})
    assert reason == 'weights of another network, not of ResNet18: it has no conv1'
    extra = {'layer4.2.conv1.weight': np.zeros((3, 3), np.float32)}
    reason = refused(tensors | extra)
    assert reason.endswith('not of ResNet18: it has a layer layer4.2.conv1')


@pytest.mark.parametrize('name, value, reason', [
    ('layer3.1.conv2.weight', np.zeros((256, 256, 1, 1), np.float32),
     'layer3.1.conv2.weight has the shape (256, 256, 1, 1); '
     'params/stage3_block2/conv2/kernel of the model takes (256, 256, 3, 3)'),
    ('conv1.weight', np.zeros((64, 4, 7, 7), np.float32),
     'conv1.weight has the shape (64, 4, 7, 7); '
     'params/conv1/kernel of the model takes (64, 3, 7, 7)'),
    ('bn1.running_var', np.zeros(64, np.int32),
     'bn1.running_var holds I32, not floating point'),
    ('bn1.running_var', np.full(64, np.nan, np.float32),
     'bn1.running_var holds values that are not finite'),
    ('bn1.running_max', np.zeros(64, np.float32),
     'bn1.running_max has no place in ResNet18'),
])
def test_a_tensor_that_does_not_fit_is_named(tensors, refused, name, value, reason):
    assert refused(tensors | {name: value}) == reason


def test_an_absent_tensor_is_named(tensors, refused):
    del (tensors := dict(tensors))['layer1.0.bn2.running_var']
    assert refused(tensors) == (
        'it has no layer1.0.bn2.running_var '
        '(batch_stats/stage1_block1/norm2/var of the model)'
    )


@pytest.mark.parametrize('keep', [0, 4, 400, -1])
def test_a_truncated_file_is_refused(tensors, refused, path, keep):
    save_file(tensors, path)
    path.write_bytes(path.read_bytes()[:keep])
    assert refused().startswith('not a whole safetensors file: ')


def test_a_header_that_claims_more_than_the_file_has_is_refused(refused, path):
    header = b'{"conv1.weight":{"dtype":"F32","shape":[1000000000000],"data_offsets":'
    header += b'[0,4000000000000]}}'
    path.write_bytes(len(header).to_bytes(8, 'little') + header + bytes(64))
    assert refused().startswith('not a whole safetensors file: ')


@pytest.mark.parametrize('start', [
    b'PK\x03\x04\0\0\x08\x08', b'\x80\x02\x8a\nl\xfc\x9cF'])
def test_a_pickled_file_is_refused_unread(refused, path, start):
    path.write_bytes(start + bytes(100))
    assert refused().startswith('a pickled file, which may run any code')
    # A safetensors file whose header is as long as these two bytes say is none.
    path.write_bytes(start[:2] + bytes(100))
    assert refused().startswith('not a whole safetensors file')


def test_what_is_no_file_is_refused(refused, path):
    assert refused() == 'No such file or directory'
    path.mkdir()
    assert refused() == 'Is a directory'


def test_another_sha256_is_refused_with_both(tensors, refused, path):
    save_file(tensors, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert refused(sha256='12ab') == f'its SHA-256 is {digest}, not 12ab'
    model = ResNet18(num_classes=1000, **OPTIONS)
    pretrained.load(path, model, shapes(model), sha256=digest.upper())


def test_a_model_for_which_there_are_no_weights_is_refused(tensors, path):
    save_file(tensors, path)
    model = CNN(
        num_classes=3, widths=(4,), kernel_size=3, stride=1, padding='SAME',
        pooling='max', activation='relu', batch_norm=False, flatten=False, hidden=0,
        use_bias=True, **OPTIONS,
    )
    with pytest.raises(ConfigError, match='no weights are known that fit a CNN'):
        pretrained.load(path, model, shapes(model))


def test_groups_are_stages_and_convolutions_with_their_norms():
    model = VGG11(num_classes=3, batch_norm=True, **OPTIONS)
    labels = pretrained.layer_labels(shapes(model)['params'])
    assert labels['norm4'] == {'scale': 'conv4', 'bias': 'conv4'}
    assert labels['dense2']['kernel'] == 'dense2'
    params = shapes(ResNet18(num_classes=3, **OPTIONS))['params']
    labels = pretrained.layer_labels(params)
    assert labels['stage3_block2']['norm1']['bias'] == 'stage3'
    rates = pretrained.layer_rates(params, decay=0.5, freeze='stage1')
    expected = [('conv1', 0), ('stage1', 0), ('stage2', 1 / 8), ('stage3', 1 / 4),
                ('stage4', 1 / 2), ('outputs', 1)]
    assert list(rates.items()) == expected


def test_groups_beyond_nine_follow_by_number():
    params = {f'conv{i}': {'kernel': 0.0} for i in range(1, 12)} | {
        'outputs': {'bias': 0.0}, 'dense1': {'bias': 0.0}}
    rates = pretrained.layer_rates(params, decay=1.0, freeze='conv9')
    assert [label for label, rate in rates.items() if rate == 1] == [
        'conv10', 'conv11', 'dense1', 'outputs']


def test_updates_are_scaled_after_adam_and_what_is_frozen_stays():
    params = {
        'conv1': {'kernel': jnp.ones(3)}, 'conv2': {'kernel': jnp.ones(3)},
        'outputs': {'kernel': jnp.ones(3)},
    }
    tx = optax.chain(
        optax.adamw(0.1, weight_decay=0.5),
        pretrained.scale_by_depth(decay=0.25, freeze='conv1'),
    )
    grads = jax.tree.map(lambda x: 7 * x, params)
    grads['conv1']['kernel'] *= np.inf
    updates, _ = tx.update(grads, tx.init(params), params)
    # Adam's first step is the sign; with the decay -0.1 * (1 + 0.5).
    expected = {'conv1': 0, 'conv2': -0.15 * 0.25, 'outputs': -0.15}
    for name, value in expected.items():
        np.testing.assert_allclose(updates[name]['kernel'], value, rtol=1e-5)


def test_labels_and_rates_serve_multi_transform():
    params = {'conv1': {'kernel': jnp.ones(3)}, 'outputs': {'kernel': jnp.ones(3)}}
    rates = pretrained.layer_rates(params, decay=1.0, freeze='conv1')
    transforms = {
        label: optax.sgd(rate) if rate else optax.set_to_zero()
        for label, rate in rates.items()
    }
    tx = optax.multi_transform(transforms, pretrained.layer_labels)
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_array_equal(updates['conv1']['kernel'], np.zeros(3))
    np.testing.assert_array_equal(updates['outputs']['kernel'], -np.ones(3))


@pytest.mark.parametrize('options, reason', [
    (dict(decay=0.0, freeze=''), r'decay: 0.0 is not in \(0, 1\]'),
    (dict(decay=1.0, freeze='conv3'), "freeze: 'conv3' is none of conv1, outputs"),
])
def test_rates_that_make_no_sense_are_refused(options, reason):
    with pytest.raises(ConfigError, match=reason):
        pretrained.layer_rates({'conv1': {'a': 0}, 'outputs': {'a': 0}}, **options)
