"""From what is true of each frame of a movement to its index (paper 000)."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmed.errors import ConfigError
from jaxmed.models.layers import Dropout
from jaxmed.models.layers3d import MaskedBatchNorm
from jaxmed.models.recurrent import CELLS, Recurrent

NORMS = ('none', 'layer', 'batch')
POOLINGS = ('last', 'mean', 'mean_max', 'statistics', 'attention')
LIKELIHOODS = ('point', 'gaussian')
# The network's view of a scaled feature: unseen movements may go beyond the training
# set's limits by half their range, a landmark that jumped away no further.
SEEN = 2.0
# A predicted standard deviation stays between them; it begins at about their geometric
# mean. Indices are in [0, 1], where 0.29 is that of any value being as likely.
DEVIATIONS = (0.01, 1.0)


class PoseLSTM(nn.Module):
    """An embedding of each frame, a recurrent network, dense layers, one index.

    The paper's network has these parameters, F features a frame and C of context:
        embedding   F + C -> 193, linear                      193 (F + C + 1)
        cell1       LSTM, 193 -> 193, its equations (3)-(5)   4 * 193 (193 + 193 + 1)
        dense       193 + C -> 193, leaky ReLU                193 (193 + C + 1)
        index       193 -> 1, leaky ReLU, its equation (2)    193 + 1
    which for the paper's 193 features without context are 37,442 + 298,764 + 37,442 +
    194 = 373,842; for 99, three of each BlazePose landmark, 355,700. The paper gives
    neither an activation of the embedding nor which states the dense layer sees.

    Min-max scaling: the variables 'low' and 'high' [F] of the collection 'limits'
    become -1 and 1, what is beyond them is clipped to +-SEEN. They are the training
    set's, set by whoever trains, 0 and 1 before, and not changed here. Where they are
    equal, features are 0. (The paper scales without saying to what. Scaled to [0, 1],
    all features share an offset of several times their spread, and drawn movements were
    learnt only after 200 updates, in place of 50.)
    The context joins the features of each frame and, once more, what is pooled.

    With `convolutions`, each is followed by the norm and a leaky ReLU; `residual` adds
    its input. With a stride it gives every stride-th frame. Frames are embedded first.

    Pooling, over the h_t of the real frames (of the frames themselves if the cell is
    'none'): the 'last' one of each direction, that is, the one that has read all; the
    'mean'; 'mean_max', [mean, maximum]; 'statistics', these and the standard
    deviation; or 'attention', sum a_t h_t with a = softmax of
    u tanh(V h_t + e).

    Fillers (mask 0) are treated as if they were not there; they must be behind all
    real frames. A movement without a frame is pooled to zeros.

    Dense kernels and W of the cells start Glorot uniform, convolutions He normal, the
    last layer's kernel close to 0, so that training begins at `first_index`: there the
    leaky ReLU is not flat. See models.recurrent for the cells.

    Attributes:
        embedding: units, also of each convolution; 0 for none, without convolutions.
        cell: 'none', or a name in models.recurrent.CELLS: 'lstm', 'gru', 'rnn'.
        hidden: units of each direction, and of the attention.
        layers: of the cell, each reading the states of the one before.
        bidirectional: whether each layer also reads from the last frame to the first.
        convolutions: over time, between embedding and cell.
        width: frames a convolution sees; odd.
        stride: frames that each convolution goes on by.
        norm: of the embedding and of each convolution: 'none', 'layer', or 'batch',
            over the real frames of the batch.
        pooling: one of POOLINGS.
        dense: units of the layer after pooling; 0 for none.
        dropout: share dropped of what goes into each layer of the cell but the first,
            and into the dense layer and the last one, in [0, 1).
        slope: of the leaky ReLUs below 0; the paper's is 0.01.
        likelihood: 'point', or 'gaussian' for an index with a standard deviation.
        first_index: bias of the last layer before training; a sound one is the mean
            index of the training set.
        dtype: what layers compute in; parameters, states and outputs are float32.
        axis_name: mapped axis over whose devices a batch is spread; None if there is
            none.
        residual: see above.
        embedding_dropout: share of the embedded features (of the features, if there is
            no embedding) dropped, the same in all frames of an example: its
            neighbours would tell what a single frame lost.
        recurrent_dropout: see models.recurrent.
    """

    embedding: int
    cell: str
    hidden: int
    layers: int
    bidirectional: bool
    convolutions: int
    width: int
    stride: int
    norm: str
    pooling: str
    dense: int
    dropout: float
    slope: float
    likelihood: str
    first_index: float
    dtype: Any
    axis_name: str | None
    residual: bool = True
    embedding_dropout: float = 0.0
    recurrent_dropout: float = 0.0

    @nn.compact
    def __call__(self, inputs, *, train: bool) -> jax.Array:
        """Maps movements to indices.

        Args:
            inputs: {'features': [B, T, F]; 'mask': [B, T], 1 for a frame, 0 for a
                filler; 'context': [B, C], C may be 0}.
            train: whether to drop activations and to normalise by the batch.

        Returns:
            float32 [B, 1], the index; or with likelihood 'gaussian' [B, 2], its mean
            and the logarithm of its standard deviation.
        """
        self._check()
        mask = inputs['mask'].T > 0  # frames first, as they are read
        context = inputs['context'].astype(jnp.float32)
        x = self._scale(inputs['features']).swapaxes(0, 1)
        repeated = jnp.broadcast_to(context, (len(x), *context.shape))
        # Chosen, not multiplied: whatever a filler holds goes no further.
        x = jnp.where(
            mask[..., None], jnp.concatenate([x, repeated], axis=-1), 0.0)

        x, mask, front = self._embed(x, mask, train)
        last = None
        if self.cell != 'none':
            for layer in range(1, self.layers + 1):
                if layer > 1:
                    x = self._drop(x, self.dropout, f'dropout{layer}', train)
                x, last = Recurrent(
                    self.cell, self.hidden, 2 if self.bidirectional else 1, self.dtype,
                    nn.initializers.glorot_uniform(), self.recurrent_dropout,
                    self.axis_name, name=f'cell{layer}',
                )(x, mask, train=train, front=front)
                front = None
        pooled = self._pool(x, mask, last)

        pooled = jnp.concatenate([pooled.astype(jnp.float32), context], axis=-1)
        pooled = self._drop(pooled, self.dropout, 'dropout', train)
        if self.dense:
            pooled = self._dense(self.dense, 'dense')(pooled)
            pooled = nn.leaky_relu(pooled, self.slope)
            pooled = self._drop(pooled, self.dropout, 'dense_dropout', train)
        return self._index(pooled)

    def _check(self):
        for name, choices in (
            ('cell', ('none', *CELLS)), ('norm', NORMS), ('pooling', POOLINGS),
            ('likelihood', LIKELIHOODS),
        ):
            value = getattr(self, name)
            if value not in choices:
                raise ConfigError(name, f'{value!r} is none of {", ".join(choices)}')
        for name, least in (
            ('embedding', 0), ('hidden', 1), ('layers', 1), ('convolutions', 0),
            ('width', 1), ('stride', 1), ('dense', 0),
        ):
            value = getattr(self, name)
            if value < least:
                raise ConfigError(name, f'must be at least {least}, got {value}')
        if self.width % 2 == 0:
            raise ConfigError('width', f'must be odd, got {self.width}')
        if self.convolutions and not self.embedding:
            raise ConfigError('convolutions', 'need an embedding')
        for name in ('dropout', 'embedding_dropout', 'recurrent_dropout'):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ConfigError(name, f'must be in [0, 1), got {value}')

    def _scale(self, features):
        """[B, T, F] -> the same, of SEEN; whatever fillers hold."""
        shape = features.shape[-1:]
        low = self.variable('limits', 'low', jnp.zeros, shape).value
        high = self.variable('limits', 'high', jnp.ones, shape).value
        some = high > low
        scale = jnp.where(some, 1 / jnp.where(some, high - low, 1.0), 0.0)
        scaled = 2 * (features.astype(jnp.float32) - low) * scale - some
        return jnp.clip(scaled, -SEEN, SEEN)

    def _embed(self, x, mask, train):
        """Frames, and the embedding itself if the first cell may do it: (x, mask, V).
        """
        dropping = train and self.embedding_dropout > 0
        front = None
        if self.embedding:
            front = kernel, bias = _Affine(
                self.embedding, name='embedding')(x.shape[-1])
            if (self.convolutions or self.norm != 'none' or dropping
                    or self.cell == 'none'):
                x = x.astype(self.dtype) @ kernel.astype(self.dtype)
                x = self._normalise(x + bias.astype(self.dtype), mask, 0, train)
                x, front = jnp.where(mask[..., None], x, 0), None
        x = self._drop(x, self.embedding_dropout, 'embedding_dropout', train)
        for number in range(1, self.convolutions + 1):
            y = self._dense(
                self.embedding, f'convolution{number}', nn.initializers.he_normal(),
            )(_windows(x, self.width, self.stride))
            x, mask = x[:: self.stride], mask[:: self.stride]
            y = nn.leaky_relu(self._normalise(y, mask, number, train), self.slope)
            x = jnp.where(mask[..., None], x + y if self.residual else y, 0)
        return x, mask, front

    def _normalise(self, x, mask, number, train):
        if self.norm == 'layer':
            return nn.LayerNorm(dtype=self.dtype, name=f'norm{number}')(x)
        if self.norm == 'batch':
            norm = MaskedBatchNorm(self.dtype, self.axis_name, name=f'norm{number}')
            flat = norm(x.reshape(-1, x.shape[-1]), mask.reshape(-1), train=train)
            return flat.reshape(x.shape)
        return x

    def _drop(self, x, rate, name, train):
        """Drops of [B, D] each by itself, of [T, B, D] units in all frames."""
        if not train or not rate:
            return x
        kept = Dropout(rate, self.axis_name, name=name)(
            jnp.ones(x.shape[-2:], x.dtype), train=True)
        return x * kept

    def _pool(self, x, mask, last):
        """[T, B, D], [T, B], the cell's last states or None -> [B, D, 2 D or 3 D]."""
        real = mask[..., None]
        if self.pooling == 'last':
            if last is not None:
                return last
            ahead = jnp.concatenate([real[1:], jnp.zeros_like(real[:1])])
            return jnp.where(real & ~ahead, x, 0).sum(axis=0)
        if self.pooling == 'attention':
            hidden = jnp.tanh(self._dense(self.hidden, 'attention_hidden')(x))
            scores = self._dense(1, 'attention')(hidden).astype(jnp.float32)
            return (nn.softmax(scores, axis=0, where=real) * x).sum(axis=0)
        x = x.astype(jnp.float32)
        mean = jnp.where(real, x, 0).sum(axis=0) / jnp.maximum(real.sum(axis=0), 1)
        if self.pooling == 'mean':
            return mean
        # Finite, lest gradients become NaN.
        most = jnp.where(real, x, jnp.finfo(jnp.float32).min).max(axis=0)
        parts = [mean, jnp.where(real.any(axis=0), most, 0)]
        if self.pooling == 'statistics':
            squares = jnp.where(real, (x - mean) ** 2, 0).sum(axis=0)
            variance = squares / jnp.maximum(real.sum(axis=0), 1)
            # Away from 0, where the root has no finite slope.
            parts.append(jnp.sqrt(variance + 1e-6))
        return jnp.concatenate(parts, axis=-1)

    def _index(self, x):
        # In float32: an index in bfloat16 has steps of 1/256.
        values = nn.Dense(
            1 + (self.likelihood == 'gaussian'), dtype=jnp.float32,
            kernel_init=nn.initializers.normal(0.01),
            bias_init=lambda key, shape, dtype: jnp.zeros(
                shape, dtype).at[0].set(self.first_index), name='index',
        )(x.astype(jnp.float32))
        index = nn.leaky_relu(values[:, :1], self.slope)
        if self.likelihood == 'point':
            return index
        low, high = map(math.log, DEVIATIONS)
        # Bent, not cut off: beyond a limit there would be no gradient to come back by.
        half = (high - low) / 2
        bent = (high + low) / 2 + half * jnp.tanh(values[:, 1:] / half)
        return jnp.concatenate([index, bent], axis=-1)

    def _dense(self, features, name, kernel_init=nn.initializers.glorot_uniform()):
        return nn.Dense(
            features, dtype=self.dtype, kernel_init=kernel_init, name=name)


class _Affine(nn.Module):
    """Parameters of a linear layer that another one applies: see its `front`."""

    features: int

    @nn.compact
    def __call__(self, inputs) -> tuple[jax.Array, jax.Array]:
        """Number of inputs -> kernel [inputs, features] and bias [features]."""
        kernel = self.param(
            'kernel', nn.initializers.glorot_uniform(), (inputs, self.features))
        return kernel, self.param('bias', nn.initializers.zeros, (self.features,))


def _windows(x, width, stride):
    """[T, B, D] -> [ceil(T / stride), B, width * D]: the frames around each.

    What is behind the last frame, or ahead of the first, is zero. As one array, so that
    a convolution is one matrix product, and so are its gradients, which XLA is slow at
    on a CPU.
    """
    reach, steps = width // 2, len(x)
    padded = jnp.pad(x, [(reach, reach), (0, 0), (0, 0)])
    return jnp.concatenate(
        [padded[j : j + steps : stride] for j in range(width)], axis=-1)
