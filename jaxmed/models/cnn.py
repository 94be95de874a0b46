"""A small convolutional network, every element of paper 004 an option."""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmed.errors import ConfigError
from jaxmed.models.layers import Conv, Dropout, max_pool

# Paper 004, section 2. It prints the sigmoid without its "1 +" and tanh with a minus in
# both halves; these are the functions that were meant.
ACTIVATIONS = {
    'sigmoid': nn.sigmoid,  # 1 / (1 + e^-x)
    'tanh': nn.tanh,  # (e^x - e^-x) / (e^x + e^-x)
    'relu': nn.relu,  # max(0, x)
    'leaky_relu': nn.leaky_relu,  # x where x >= 0, else 0.01 x
}


def average_pool(inputs):
    """[B, H, W, C] -> [B, H // 2, W // 2, C], the means of 2x2 windows."""
    batch, height, width, channels = inputs.shape
    height, width = height // 2, width // 2
    x = inputs[:, : 2 * height, : 2 * width]
    return x.reshape(batch, height, 2, width, 2, channels).mean((2, 4))


POOLINGS = {'max': max_pool, 'average': average_pool}


class CNN(nn.Module):
    """Blocks of convolution, activation and 2x2 pooling, then dense layers.

    Two widths, no batch norm and `flatten` are Figure 3 of paper 004: two
    convolutions, two poolings that halve the image, a dense layer and the outputs. It
    prints no sizes but says that the feature maps grow in number from block to block.
    Five or so widths, batch norm and no `flatten` train from scratch on a few hundred
    images, and take images of any size.

    Kernels start Kaiming normal, biases zero.

    Attributes:
        num_classes: K.
        widths: features of each block's convolution.
        kernel_size: side of the kernels, in pixels.
        stride: of the convolutions, in pixels.
        padding: 'SAME' (ceil(H / stride) rows are left) or 'VALID' (whole kernels
            only: (H - kernel_size) // stride + 1 rows).
        pooling: 'max' or 'average'.
        activation: one of ACTIVATIONS.
        batch_norm: whether a batch norm stands between convolution and activation.
        flatten: whether the dense layers see each pixel of the last pooling, so that
            parameters fit one size of images; else they see the mean over all pixels.
        hidden: neurons of the dense layer before the outputs; 0 leaves it out.
        dropout: share of activations dropped before each dense layer, in [0, 1).
        use_bias: whether convolutions and dense layers add a bias.
        dtype: what layers compute in; parameters, running statistics and logits are
            float32.
        axis_name: mapped axis over whose devices a batch is spread; None if there is
            none.
    """

    num_classes: int
    widths: tuple[int, ...]
    kernel_size: int
    stride: int
    padding: str
    pooling: str
    activation: str
    batch_norm: bool
    flatten: bool
    hidden: int
    dropout: float
    use_bias: bool
    dtype: Any
    axis_name: str | None

    def setup(self):
        for name, value, choices in (
            ('padding', self.padding, ('SAME', 'VALID')),
            ('pooling', self.pooling, tuple(POOLINGS)),
            ('activation', self.activation, tuple(ACTIVATIONS)),
        ):
            if value not in choices:
                raise ConfigError(name, f'{value!r} is none of {", ".join(choices)}')
        init = nn.initializers.he_normal()
        self.convolutions = [
            Conv(
                width, (self.kernel_size,) * 2, self.dtype, (self.stride,) * 2,
                self.padding, use_bias=self.use_bias and not self.batch_norm,
                kernel_init=init, name=f'conv{number}',
            )
            for number, width in enumerate(self.widths, start=1)
        ]
        self.norms = [
            nn.BatchNorm(
                momentum=0.9, dtype=self.dtype, axis_name=self.axis_name,
                name=f'norm{number}',
            )
            for number, _ in enumerate(self.widths, start=1)
            if self.batch_norm
        ]
        options = dict(use_bias=self.use_bias, dtype=self.dtype, kernel_init=init)
        if self.hidden:
            self.dense1 = nn.Dense(self.hidden, **options)
        self.outputs = nn.Dense(self.num_classes, **options)
        self.dropouts = [
            Dropout(self.dropout, self.axis_name, name=f'dropout{i}') for i in (1, 2)
        ]

    def __call__(self, inputs, *, train: bool) -> jax.Array:
        """Maps images to logits.

        Softmax (one class of several) or sigmoid (any of several) is the task's, since
        losses take logits.

        Args:
            inputs: [B, H, W, C].
            train: whether to drop activations and to normalise by the batch.

        Returns:
            [B, K] float32.
        """
        return self.head(self.features(inputs, train=train), train=train)

    def features(self, inputs, *, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H', W', widths[-1]], the last convolution's activations.

        Before the last pooling: that is where Grad-CAM looks.
        """
        activation, pool = ACTIVATIONS[self.activation], POOLINGS[self.pooling]
        x = inputs
        for index, convolution in enumerate(self.convolutions):
            x = convolution(pool(x) if index else x)
            if self.batch_norm:
                x = self.norms[index](x, use_running_average=not train)
            if min(x.shape[1:3]) < 2:
                raise ConfigError(
                    'image size',
                    f'{inputs.shape[1]} x {inputs.shape[2]} is too small: block '
                    f'{index + 1} of {len(self.widths)} has {x.shape[1]} x '
                    f'{x.shape[2]} pixels left to pool'
                )
            x = activation(x)
        return x

    def head(self, features, *, train: bool) -> jax.Array:
        """What `features` gave -> logits [B, K] float32."""
        x = POOLINGS[self.pooling](features)
        x = x.reshape(x.shape[0], -1) if self.flatten else x.mean((1, 2))
        if self.hidden:
            x = self.dense1(self.dropouts[0](x, train=train))
            x = ACTIVATIONS[self.activation](x)
        return self.outputs(self.dropouts[1](x, train=train)).astype(jnp.float32)


class Sharing(NamedTuple):
    """Weights of a layer that sees a whole image, without biases."""

    dense_neuron: int  # of one neuron that is connected to each pixel and channel
    dense_layer: int  # of as many such neurons as the convolution has outputs
    convolution: int  # of the convolution: its kernel, shared by all places
    outputs: int  # values that either of the two layers computes


def count_weights(*, height, width, channels, kernel_size, features):
    """What parameter sharing saves (paper 004, sections 3.1 and 3.3), counted.

    The paper's "approximately 187,000 weights to train for a 250 x 250-pixel image with
    three channels" are 187,500, and those of one dense neuron.

    Args:
        height, width, channels: of the image.
        kernel_size: side of the convolution's kernel, in pixels; stride 1, 'SAME'.
        features: of the convolution.

    Returns:
        Sharing.
    """

    def count(layer, shape):
        image = jax.ShapeDtypeStruct(shape, jnp.float32)
        params = jax.eval_shape(layer.init, jax.random.key(0), image)['params']
        return math.prod(params['kernel'].shape)

    pixels = height * width * channels
    convolution = Conv(features, (kernel_size, kernel_size), jnp.float32)
    outputs = height * width * features
    neuron = count(nn.Dense(1), (1, pixels))
    return Sharing(
        dense_neuron=neuron,
        dense_layer=neuron * outputs,
        convolution=count(convolution, (1, height, width, channels)),
        outputs=outputs,
    )
