"""U-Net (Ronneberger et al. 2015), as paper 002 built it for white blood cells."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmed.models.layers import Conv, Dropout, UpsampleConcatConv, max_pool


class UNet(nn.Module):
    """Encoder, decoder and skips; same padding, so that a logit lies on each pixel.

    With widths (32, 64, 128, 256, 512), one input channel, one class and no batch
    norm this is paper 002's network layer by layer: 7,846,081 parameters, under its
    names (conv1_1 ... conv9_2, outputs) and its initialiser (Glorot uniform, the
    Keras default). Dropout follows each pooling and each decoder block; the
    bottleneck has none. Depth, widths, channels, classes and batch norm (convolution,
    norm, ReLU; the norm's offset replaces the bias) are options the paper lacks.

    Attributes:
        num_classes: channels of the output.
        widths: channels of each level, the finest first.
        dropout: share of the activations dropped, in [0, 1).
        batch_norm: whether a batch norm follows each convolution but the last.
        dtype: what convolutions compute in; parameters stay float32.
        axis_name: mapped axis over whose devices a batch is spread; None if there is
            none.
    """

    num_classes: int
    widths: tuple[int, ...]
    dropout: float
    batch_norm: bool
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, inputs, *, train: bool) -> jax.Array:
        """Maps images to logits.

        Args:
            inputs: [B, H, W, C]; H and W are multiples of 2**(len(widths) - 1).
            train: whether to drop activations and to normalise by the batch.

        Returns:
            [B, H, W, num_classes] float32.
        """
        depth = len(self.widths)
        multiple = 2 ** (depth - 1)
        if any(size % multiple for size in inputs.shape[1:3]):
            raise ValueError(
                f'U-Net of depth {depth}: height and width must be multiples of '
                f'{multiple}, got {inputs.shape[1]} x {inputs.shape[2]}'
            )

        use_bias = not self.batch_norm

        def conv(x, width, name):
            options = dict(use_bias=use_bias, dtype=self.dtype)
            return norm(Conv(width, (3, 3), **options, name=f'conv{name}')(x), name)

        def norm(x, name):
            if self.batch_norm:
                x = nn.BatchNorm(
                    use_running_average=not train,
                    momentum=0.9,
                    dtype=self.dtype,
                    axis_name=self.axis_name,
                    name=f'norm{name}',
                )(x)
            return nn.relu(x)

        def drop(x, name):
            dropout = Dropout(self.dropout, self.axis_name, name=f'dropout_{name}')
            return dropout(x, train=train)

        x, skips = inputs.astype(self.dtype), []
        for level, width in enumerate(self.widths, start=1):
            if level > 1:
                skips.append(x)
                x = drop(max_pool(x), level - 1)
            x = conv(x, width, f'{level}_1')
            x = conv(x, width, f'{level}_2')
        for level, width in enumerate(self.widths[-2::-1], start=depth + 1):
            up = UpsampleConcatConv(
                width, use_bias=use_bias, dtype=self.dtype, name=f'conv{level}_1'
            )
            x = norm(up(x, skips.pop()), f'{level}_1')
            x = conv(x, width, f'{level}_2')
            x = drop(x, level)
        logits = Conv(self.num_classes, (1, 1), dtype=self.dtype, name='outputs')(x)
        return logits.astype(jnp.float32)
