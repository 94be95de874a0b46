"""Weights trained elsewhere: torchvision's and timm's, from safetensors files.

Nothing is unpickled and nothing is downloaded. A file becomes safetensors where it was
made: `safetensors.torch.save_file(model.state_dict(), 'resnet50.safetensors')`.
"""

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from safetensors import SafetensorError, safe_open

from jaxmed.errors import CheckpointError, ConfigError
from jaxmed.models.alexnet import AlexNet
from jaxmed.models.resnet import ResNet, ResNet18, ResNet34, ResNet50, ResNet101
from jaxmed.models.vgg import VGG, VGG11

# What both normalise images in [0, 1] by, and the means of it for grey images: summed
# RGB kernels want their input on the same scale.
RGB_MEAN, RGB_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY_MEAN, GREY_STD = 0.449, 0.226

_OPTIONS = dict(num_classes=1000, dropout=0.0, dtype=jnp.float32, axis_name=None)
_NETWORKS = {
    'AlexNet': AlexNet(**_OPTIONS),
    'VGG11': VGG11(batch_norm=False, **_OPTIONS),
    'VGG11 with batch norm': VGG11(batch_norm=True, **_OPTIONS),
    'ResNet18': ResNet18(**_OPTIONS),
    'ResNet34': ResNet34(**_OPTIONS),
    'ResNet50': ResNet50(**_OPTIONS),
    'ResNet101': ResNet101(**_OPTIONS),
}
_STEM, _HEAD = 'params/conv1/kernel', 'params/outputs/'
_TENSORS = {
    'kernel': 'weight', 'scale': 'weight', 'bias': 'bias', 'mean': 'running_mean',
    'var': 'running_var',
}
_FLOATS = ('F64', 'F32', 'F16', 'BF16')


class Report(NamedTuple):
    """What `load` took from a file; as text, what a log should say of it."""

    sha256: str  # of the file, in hexadecimal
    network: str  # 'ResNet50'
    loaded: tuple[str, ...]  # arrays of the model: 'params/conv1/kernel'
    fresh: tuple[str, ...]  # arrays that keep their first values: the head, or none
    left_out: tuple[str, ...]  # tensors of the file: its head, or none
    grey: bool  # whether the stem's kernels of red, green and blue were added up

    def __str__(self):
        return (
            f'{self.network}: {len(self.loaded)} arrays loaded'
            + (', the RGB kernels of the stem added up' if self.grey else '')
            + f'; left out: {", ".join(self.left_out) or "nothing"}'
            + f'; not loaded: {", ".join(self.fresh) or "nothing"}'
            + f'; SHA-256 {self.sha256}'
        )


def load(path, model, variables, *, sha256=''):
    """Replaces a model's fresh variables by those of a file.

    Tensors are found by their names in torchvision or timm; names, types and shapes are
    all checked before the first value is read. Each array of the model must be there
    and each tensor of the file be used. Only the classifier may be one of other
    classes, or absent: then the model's keeps its fresh values.

    A model of one input channel gets the sum of the stem's RGB kernels, which computes
    on a grey image what the RGB network does on three equal channels. Running variances
    are PyTorch's unbiased ones, larger by one part in the number of a batch's pixels
    than the biased ones that training goes on with.

    Args:
        path: a .safetensors file of float16, bfloat16, float32 or float64.
        model: AlexNet, VGG or ResNet.
        variables: what `model.init` gave: {'params': ..., 'batch_stats': ...}.
        sha256: what the file's SHA-256 must be, in hexadecimal; '' accepts any.

    Returns:
        (variables, Report): the same tree of float32 arrays.

    Raises:
        CheckpointError: the file is missing, damaged, pickled, of another SHA-256 or of
            another network; names the file and the first array that does not fit.
    """
    path = Path(path)
    digest = _digest(path)
    if sha256 and sha256.lower() != digest:
        raise CheckpointError(path, f'its SHA-256 is {digest}, not {sha256}')
    leaves = _leaves(variables)
    try:
        with safe_open(path, framework='numpy') as file:
            found = {name: file.get_slice(name) for name in file.keys()}
            sources = _sources(path, found, model, leaves)
            fitting = _fitting(path, found, model, leaves, sources)
            arrays = {
                leaf: _read(path, file, name, leaves[leaf].shape, _side(model, leaf))
                for leaf, name in fitting.items()
            }
            grey = _STEM in fitting and (
                found[fitting[_STEM]].get_shape()[1] != leaves[_STEM].shape[2]
            )
    except (SafetensorError, OSError) as error:
        raise CheckpointError(path, f'not a whole safetensors file: {error}') from None
    report = Report(
        sha256=digest,
        network=_name(model),
        loaded=tuple(arrays),
        fresh=tuple(leaf for leaf in leaves if leaf not in arrays),
        left_out=tuple(x for leaf, x in sources.items() if leaf not in arrays),
        grey=grey,
    )
    return _replace(variables, arrays), report


def _digest(path):
    try:
        with open(path, 'rb') as file:
            # torch.save writes a zip archive; before 1.6 it was a bare pickle. The
            # length of a safetensors header may begin alike, but ends in zeros.
            begin = file.read(8)
            if begin[:2] in (b'PK', b'\x80\x02') and any(begin[4:]):
                raise CheckpointError(
                    path, 'a pickled file, which may run any code when it is read; '
                    'have it saved as safetensors where it was made'
                )
            file.seek(0)
            return hashlib.file_digest(file, 'sha256').hexdigest()
    except OSError as error:
        raise CheckpointError(path, error.strerror) from None


def _leaves(variables):
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {'/'.join(key.key for key in keys): leaf for keys, leaf in leaves}


def _replace(variables, arrays):
    def replace(keys, leaf):
        return arrays.get('/'.join(key.key for key in keys), leaf)

    return jax.tree_util.tree_map_with_path(replace, variables)


def _layers(model):
    """Layer of a model -> its names in torchvision and, where it has others, timm."""
    if isinstance(model, AlexNet):
        places = {f'conv{i}': x for i, x in enumerate((0, 3, 6, 8, 10), start=1)}
        layers = {name: (f'features.{x}',) for name, x in places.items()}
        layers |= {'dense1': ('classifier.1',), 'dense2': ('classifier.4',)}
        return layers | {'outputs': ('classifier.6',)}
    if isinstance(model, VGG):
        layers, place, number = {}, 0, 1
        for block in model.blocks:
            for _ in block:
                layers[f'conv{number}'] = (f'features.{place}',)
                if model.batch_norm:
                    place += 1
                    layers[f'norm{number}'] = (f'features.{place}',)
                place, number = place + 2, number + 1  # the ReLU has a place as well
            place += 1  # and so has the pooling
        layers['dense1'] = 'classifier.0', 'pre_logits.fc1'
        layers['dense2'] = 'classifier.3', 'pre_logits.fc2'
        return layers | {'outputs': ('classifier.6', 'head.fc')}
    if isinstance(model, ResNet):
        layers = {'conv1': ('conv1',), 'norm1': ('bn1',)}
        for stage, blocks in enumerate(model.blocks, start=1):
            for block in range(blocks):
                ours, theirs = f'stage{stage}_block{block + 1}', f'layer{stage}.{block}'
                names = {f'{i}': (f'conv{i}', f'bn{i}') for i in (1, 2)}
                if model.bottleneck:
                    names['3'] = 'conv3', 'bn3'
                if not block and (stage > 1 or model.bottleneck):
                    names['_shortcut'] = 'downsample.0', 'downsample.1'
                for name, (conv, norm) in names.items():
                    layers[f'{ours}/conv{name}'] = (f'{theirs}.{conv}',)
                    layers[f'{ours}/norm{name}'] = (f'{theirs}.{norm}',)
        return layers | {'outputs': ('fc',)}
    raise ConfigError(
        'init_from', f'no weights are known that fit a {type(model).__name__}'
    )


def _name(model):
    layers = _layers(model)
    same = (name for name, other in _NETWORKS.items() if _layers(other) == layers)
    return next(same, type(model).__name__)


def _difference(model, layers):
    """The first difference between a model and a file's layers, in words, or ''."""
    expected = _layers(model)
    for ours, theirs in expected.items():
        if not layers & set(theirs) and ours != 'outputs':
            return f'it has no {theirs[0]}'
    others = sorted(layers.difference(*expected.values()))
    return f'it has a layer {others[0]}' if others else ''


def _sources(path, found, model, leaves):
    """Array of the model -> tensor of the file; a head that is absent has none."""
    stored = {name.rpartition('.')[0] for name in found}
    difference = _difference(model, stored)
    if difference:
        others = (x for x, other in _NETWORKS.items() if not _difference(other, stored))
        network = next(others, 'another network')
        raise CheckpointError(
            path, f'weights of {network}, not of {_name(model)}: {difference}'
        )
    layers, sources = _layers(model), {}
    for leaf in leaves:
        _, *layer, kind = leaf.split('/')
        names = [f'{name}.{_TENSORS[kind]}' for name in layers['/'.join(layer)]]
        name = next((name for name in names if name in found), None)
        if name is not None:
            sources[leaf] = name
        elif not leaf.startswith(_HEAD):
            raise CheckpointError(path, f'it has no {names[0]} ({leaf} of the model)')
    for name in sorted(set(found) - set(sources.values())):
        if not name.endswith('.num_batches_tracked'):  # PyTorch counts, nothing more
            raise CheckpointError(path, f'{name} has no place in {_name(model)}')
    return sources


def _fitting(path, found, model, leaves, sources):
    """Those of `sources` to be read: all, or all but a head of other classes."""
    misfits = {leaf: None for leaf in leaves if leaf not in sources}
    for leaf, name in sources.items():
        if found[name].get_dtype() not in _FLOATS:
            raise CheckpointError(
                path, f'{name} holds {found[name].get_dtype()}, not floating point'
            )
        shape, ours = tuple(found[name].get_shape()), leaves[leaf].shape
        accepted = _accepted(leaf, ours, _side(model, leaf))
        if shape in accepted:
            continue
        if not leaf.startswith(_HEAD):
            raise CheckpointError(
                path, f'{name} has the shape {shape}; {leaf} of the model takes '
                + ' or '.join(map(str, accepted))
            )
        misfits[leaf] = name
    return {
        leaf: name for leaf, name in sources.items()
        if not (misfits and leaf.startswith(_HEAD))
    }


def _side(model, leaf):
    """Side of the pooled image that a dense layer sees flattened."""
    if leaf != 'params/dense1/kernel':
        return 1
    return 6 if isinstance(model, AlexNet) else 7


def _accepted(leaf, shape, side):
    """PyTorch's shapes for an array: outputs first, and timm's dense convolutions."""
    if len(shape) == 2:
        inputs, outputs = shape
        dense = (outputs, inputs // side**2, side, side)
        return (outputs, inputs), dense
    if len(shape) == 4:
        height, width, inputs, outputs = shape
        channels = (1, 3) if leaf == _STEM and inputs == 1 else (inputs,)
        return tuple((outputs, x, height, width) for x in channels)
    return (shape,)


def _read(path, file, name, shape, side):
    """A tensor as a float32 array of `shape`: height, width, inputs, outputs."""
    tensor = file.get_tensor(name).astype(np.float32)
    if not np.isfinite(tensor).all():
        raise CheckpointError(path, f'{name} holds values that are not finite')
    if len(shape) == 4:
        tensor = tensor.transpose(2, 3, 1, 0)
        if shape[2] < tensor.shape[2]:
            tensor = tensor.sum(2, keepdims=True)
    elif len(shape) == 2:
        # PyTorch flattens an image channels first, this project channels last.
        tensor = tensor.reshape(shape[1], -1, side, side).transpose(2, 3, 1, 0)
    return jnp.asarray(tensor.reshape(shape))


def layer_labels(params):
    """Names each array's group of layers, for `optax.multi_transform`.

    A group is a convolution with its norm, a stage of a ResNet, or a dense layer:
    'conv1', 'stage3', 'dense2', 'outputs'.

    Args:
        params: of AlexNet, VGG, ResNet or CNN, or a tree like it.

    Returns:
        The same tree of labels.
    """
    def label(keys, _):
        kind, number = re.match('([a-z]+)([0-9]*)', keys[0].key).groups()
        return f'{"conv" if kind == "norm" else kind}{number}'

    return jax.tree_util.tree_map_with_path(label, params)


def layer_rates(params, *, decay, freeze):
    """Learning-rate multipliers that fall towards the input.

    Early layers carry what all images share, late ones what the task needs
    (layer-wise decay: Howard & Ruder 2018, arXiv:1801.06146, section 3.2).

    Args:
        params: as of `layer_labels`.
        decay: multiplier from one group to the one before it, in (0, 1]; 1 fine-tunes
            all alike.
        freeze: the last group to stay as it is, all before it too: 'stage3', 'dense2'
            (all but the classifier of AlexNet and VGG); '' freezes none.

    Returns:
        {label: multiplier} from input to output; 1 for 'outputs', 0 where frozen.
    """
    kinds = ('conv', 'stage', 'dense', 'outputs')

    def depth(label):
        kind, number = re.fullmatch('([a-z]+)([0-9]*)', label).groups()
        return kinds.index(kind), int(number or 0)

    labels = sorted(set(jax.tree.leaves(layer_labels(params))), key=depth)
    if not 0 < decay <= 1:
        raise ConfigError('decay', f'{decay} is not in (0, 1]')
    if freeze and freeze not in labels:
        raise ConfigError('freeze', f'{freeze!r} is none of {", ".join(labels)}')
    frozen = labels.index(freeze) + 1 if freeze else 0
    return {
        label: float(index >= frozen) * decay ** (len(labels) - 1 - index)
        for index, label in enumerate(labels)
    }


def scale_by_depth(*, decay, freeze):
    """The last link of an optax chain: updates times their `layer_rates`.

    After the optimiser, as Adam undoes what scales gradients. Weight decay is scaled
    with the rest, so what is frozen does not move; its batch norms still normalise by
    the batch and gather statistics while training.

    Args:
        decay, freeze: of `layer_rates`.

    Returns:
        optax.GradientTransformation without a state.
    """
    def scale(updates, params):
        del params
        rates = layer_rates(updates, decay=decay, freeze=freeze)
        # Not a product with 0, which leaves NaN and infinity as they are.
        return jax.tree.map(
            lambda update, label: update * rates[label] if rates[label] else
            jnp.zeros_like(update), updates, layer_labels(updates),
        )

    return optax.stateless(scale)
