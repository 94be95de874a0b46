"""AlexNet (Krizhevsky 2014), one of paper 003's three networks."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmed.errors import ConfigError
from jaxmed.models.layers import Conv, Dropout, adaptive_average_pool, max_pool

_SMALLEST = 63  # one pixel is left after the third pooling
# Features, kernel size, stride and padding in pixels; three are followed by a pooling.
_CONVOLUTIONS = ((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1))
_CONVOLUTIONS += ((256, 3, 1, 1),)


class AlexNet(nn.Module):
    """Five convolutions and three dense layers, as torchvision has them.

    61,100,840 parameters at 3 channels and 1000 classes. That is the network of "One
    weird trick for parallelizing convolutional neural networks" (arXiv:1404.5997),
    which has neither the two groups nor the response normalisation of 2012.

    Kernels start Kaiming normal (by inputs: with a stride of 4 the output side would
    start the first layer at a fifth), dense layers normal with 0.01, as in 2012 and in
    torchvision's VGG; biases zero. torchvision leaves PyTorch's default, uniform of
    about a third of that variance, from which the signal fades over eight layers.

    Attributes:
        num_classes: K.
        dropout: share of activations dropped before each hidden dense layer, in
            [0, 1); 0.5 in the original.
        dtype: what layers compute in; parameters and logits are float32.
        axis_name: mapped axis over whose devices a batch is spread; None if there is
            none.
        head_width: units of the two hidden dense layers; 4096 in the original.
    """

    num_classes: int
    dropout: float
    dtype: Any
    axis_name: str | None
    head_width: int = 4096

    def setup(self):
        self.convolutions = [
            Conv(
                features, (size, size), self.dtype, (stride, stride),
                ((padding, padding), (padding, padding)),
                kernel_init=nn.initializers.he_normal(), name=f'conv{number}',
            )
            for number, (features, size, stride, padding) in enumerate(_CONVOLUTIONS, 1)
        ]
        self.dropouts = [
            Dropout(self.dropout, self.axis_name, name=f'dropout{i}') for i in (1, 2)
        ]
        init = nn.initializers.normal(0.01)
        self.hidden = [
            nn.Dense(
                self.head_width, dtype=self.dtype, kernel_init=init,
                name=f'dense{number}',
            )
            for number in (1, 2)
        ]
        self.outputs = nn.Dense(self.num_classes, dtype=self.dtype, kernel_init=init)

    def __call__(self, inputs, *, train: bool) -> jax.Array:
        """Maps images to logits.

        Args:
            inputs: [B, H, W, C]; H and W are at least 63, and 224 or 227 in papers.
            train: whether to drop activations.

        Returns:
            [B, K] float32.
        """
        return self.head(self.features(inputs, train=train), train=train)

    def features(self, inputs, *, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H', W', 256], the last convolution's activations.

        H' is 13 for an H of 224. Before the last pooling: that is where Grad-CAM looks.
        """
        del train
        if min(inputs.shape[1:3]) < _SMALLEST:
            raise ConfigError(
                'image size', f'{inputs.shape[1]} x {inputs.shape[2]} is too small for '
                f'AlexNet: each side needs {_SMALLEST} pixels'
            )
        x = inputs
        for number, convolution in enumerate(self.convolutions, start=1):
            x = nn.relu(convolution(x))
            if number <= 2:
                x = max_pool(x, 3, 2)
        return x

    def head(self, features, *, train: bool) -> jax.Array:
        """What `features` gave -> logits [B, K] float32."""
        x = adaptive_average_pool(max_pool(features, 3, 2), 6)
        x = x.reshape(x.shape[0], -1)
        for dropout, dense in zip(self.dropouts, self.hidden):
            x = nn.relu(dense(dropout(x, train=train)))
        return self.outputs(x).astype(jnp.float32)
