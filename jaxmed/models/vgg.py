"""VGG (Simonyan & Zisserman 2015); VGG11 is one of paper 003's three networks."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmed.errors import ConfigError
from jaxmed.models.layers import Conv, Dropout, adaptive_average_pool, max_pool


class VGG(nn.Module):
    """Blocks of 3x3 convolutions, each ended by a pooling, and three dense layers.

    Without batch norm `VGG11` is configuration A of arXiv:1409.1556: 132,863,336
    parameters at 3 channels and 1000 classes. Batch norm follows each convolution and
    leaves it its bias, as in torchvision, whose weights fit.

    Kernels start Kaiming normal by outputs, dense layers normal with 0.01, biases zero:
    torchvision's.

    Attributes:
        num_classes: K.
        blocks: features of the convolutions of each block.
        batch_norm: whether a batch norm follows each convolution.
        dropout: share of activations dropped after each hidden dense layer, in
            [0, 1); 0.5 in the original.
        dtype: what layers compute in; parameters, running statistics and logits are
            float32.
        axis_name: mapped axis over whose devices a batch is spread; None if there is
            none.
        head_width: units of the two hidden dense layers; 4096 in the original.
    """

    num_classes: int
    blocks: tuple[tuple[int, ...], ...]
    batch_norm: bool
    dropout: float
    dtype: Any
    axis_name: str | None
    head_width: int = 4096

    def setup(self):
        widths = [width for block in self.blocks for width in block]
        init = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
        self.convolutions = [
            Conv(width, (3, 3), self.dtype, kernel_init=init, name=f'conv{number}')
            for number, width in enumerate(widths, start=1)
        ]
        self.norms = [
            nn.BatchNorm(
                momentum=0.9, dtype=self.dtype, axis_name=self.axis_name,
                name=f'norm{number}',
            )
            for number, _ in enumerate(widths, start=1)
            if self.batch_norm
        ]
        init = nn.initializers.normal(0.01)
        self.hidden = [
            nn.Dense(
                self.head_width, dtype=self.dtype, kernel_init=init,
                name=f'dense{number}',
            )
            for number in (1, 2)
        ]
        self.dropouts = [
            Dropout(self.dropout, self.axis_name, name=f'dropout{i}') for i in (1, 2)
        ]
        self.outputs = nn.Dense(self.num_classes, dtype=self.dtype, kernel_init=init)

    def __call__(self, inputs, *, train: bool) -> jax.Array:
        """Maps images to logits.

        Args:
            inputs: [B, H, W, C]; H and W are at least 2 ** len(blocks), and 224 in the
                papers.
            train: whether to drop activations and to normalise by the batch.

        Returns:
            [B, K] float32.
        """
        return self.head(self.features(inputs, train=train), train=train)

    def features(self, inputs, *, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H', W', features], the last convolution's activations.

        H' is 14 for VGG11 and an H of 224. Before the last pooling: that is where
        Grad-CAM looks.
        """
        smallest = 2 ** len(self.blocks)
        if min(inputs.shape[1:3]) < smallest:
            raise ConfigError(
                'image size', f'{inputs.shape[1]} x {inputs.shape[2]} is too small for '
                f'VGG: each side needs {smallest} pixels'
            )
        x, index = inputs, 0
        for level, block in enumerate(self.blocks):
            x = max_pool(x) if level else x
            for _ in block:
                x = self.convolutions[index](x)
                if self.batch_norm:
                    x = self.norms[index](x, use_running_average=not train)
                x, index = nn.relu(x), index + 1
        return x

    def head(self, features, *, train: bool) -> jax.Array:
        """What `features` gave -> logits [B, K] float32."""
        x = adaptive_average_pool(max_pool(features), 7)
        x = x.reshape(x.shape[0], -1)
        for dense, dropout in zip(self.hidden, self.dropouts):
            x = dropout(nn.relu(dense(x)), train=train)
        return self.outputs(x).astype(jnp.float32)


VGG11 = functools.partial(
    VGG, blocks=((64,), (128,), (256, 256), (512, 512), (512, 512))
)
