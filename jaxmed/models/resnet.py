"""ResNet (He et al. 2016), v1.5; ResNet50 is one of paper 003's three networks."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmed.models.layers import Conv, Dropout, max_pool

_WIDTH = 64  # of the first stage; each later one has twice as many
_EXPANSION = 4  # of a bottleneck's last convolution
_INIT = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


class ResNet(nn.Module):
    """A 7x7 stem, four stages of residual blocks, and the mean over the image.

    25,557,032 parameters for `ResNet50` at 3 channels and 1000 classes (18: 11,689,512;
    34: 21,797,672; 101: 44,549,160). v1.5, as torchvision has it: a stage's stride lies
    in the 3x3 convolution of its first block, not in the 1x1 before, where
    arXiv:1512.03385 has it.

    Kernels start Kaiming normal by outputs and norms as the identity, the classifier
    with PyTorch's default (uniform, 1 / sqrt(inputs)) and a bias of zero: torchvision's
    but for that bias.

    Attributes:
        num_classes: K.
        blocks: residual blocks of each stage.
        bottleneck: blocks of 1x1, 3x3 and 1x1 convolutions rather than of two 3x3.
        dropout: share of the pooled features dropped, in [0, 1); 0 in the original.
        dtype: what layers compute in; parameters, running statistics and logits are
            float32.
        axis_name: mapped axis over whose devices a batch is spread; None if there is
            none.
    """

    num_classes: int
    blocks: tuple[int, ...]
    bottleneck: bool
    dropout: float
    dtype: Any
    axis_name: str | None

    def setup(self):
        self.conv1 = Conv(
            _WIDTH, (7, 7), self.dtype, (2, 2), ((3, 3), (3, 3)), use_bias=False,
            kernel_init=_INIT,
        )
        self.norm1 = nn.BatchNorm(
            momentum=0.9, dtype=self.dtype, axis_name=self.axis_name
        )
        self.stages = [
            _Block(
                _WIDTH * 2**stage, 2 if stage and not block else 1, self.bottleneck,
                self.dtype, self.axis_name, name=f'stage{stage + 1}_block{block + 1}',
            )
            for stage, blocks in enumerate(self.blocks)
            for block in range(blocks)
        ]
        self.drop = Dropout(self.dropout, self.axis_name, name='dropout')
        self.outputs = nn.Dense(
            self.num_classes, dtype=self.dtype,
            kernel_init=nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform'),
        )

    def __call__(self, inputs, *, train: bool) -> jax.Array:
        """Maps images to logits.

        Args:
            inputs: [B, H, W, C] of any size, 224 in the papers.
            train: whether to drop features and to normalise by the batch.

        Returns:
            [B, K] float32.
        """
        return self.head(self.features(inputs, train=train), train=train)

    def features(self, inputs, *, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, ceil(H / 32), ceil(W / 32), features] of the last stage.

        Which is where Grad-CAM looks.
        """
        x = self.norm1(self.conv1(inputs), use_running_average=not train)
        x = max_pool(nn.relu(x), 3, 2, 1)
        for block in self.stages:
            x = block(x, train=train)
        return x

    def head(self, features, *, train: bool) -> jax.Array:
        """What `features` gave -> logits [B, K] float32."""
        x = jnp.mean(features, axis=(1, 2), dtype=jnp.float32)
        return self.outputs(self.drop(x, train=train)).astype(jnp.float32)


class _Block(nn.Module):
    """Convolutions with norms beside a shortcut, which is convolved where sizes change.

    Attributes:
        width: features of the inner convolutions.
        stride: of the block's 3x3 (the first of two) and of the shortcut.
        bottleneck, dtype, axis_name: of ResNet.
    """

    width: int
    stride: int
    bottleneck: bool
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, inputs, *, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), features]."""

        def conv(x, width, size, stride, name):
            pads = ((size // 2, size // 2),) * 2
            x = Conv(
                width, (size, size), self.dtype, (stride, stride), pads,
                use_bias=False, kernel_init=_INIT, name=f'conv{name}',
            )(x)
            return nn.BatchNorm(
                use_running_average=not train, momentum=0.9, dtype=self.dtype,
                axis_name=self.axis_name, name=f'norm{name}',
            )(x)

        if self.bottleneck:
            width = _EXPANSION * self.width
            x = nn.relu(conv(inputs, self.width, 1, 1, 1))
            x = nn.relu(conv(x, self.width, 3, self.stride, 2))
            x = conv(x, width, 1, 1, 3)
        else:
            width = self.width
            x = nn.relu(conv(inputs, width, 3, self.stride, 1))
            x = conv(x, width, 3, 1, 2)
        shortcut = inputs
        if self.stride > 1 or inputs.shape[-1] != width:
            shortcut = conv(inputs, width, 1, self.stride, '_shortcut')
        return nn.relu(x + shortcut)


ResNet18 = functools.partial(ResNet, blocks=(2, 2, 2, 2), bottleneck=False)
ResNet34 = functools.partial(ResNet, blocks=(3, 4, 6, 3), bottleneck=False)
ResNet50 = functools.partial(ResNet, blocks=(3, 4, 6, 3), bottleneck=True)
ResNet101 = functools.partial(ResNet, blocks=(3, 4, 23, 3), bottleneck=True)
