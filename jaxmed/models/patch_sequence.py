"""From the patches of a spine to a fracture logit of each and of all (paper 001)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxmed.errors import ConfigError
from jaxmed.models.layers import Dropout
from jaxmed.models.layers3d import (
    Conv3D,
    MaskedBatchNorm,
    convolve_and_pool,
    max_pool,
)

REPRESENTATIONS = ('flatten', 'rows', 'mean', 'max')
SEQUENCES = ('none', 'max', 'lstm', 'bilstm')
AGGREGATIONS = (
    'max', 'smoothed_max', 'mean', 'noisy_or', 'lstm', 'bilstm', 'attention')
INITIALISATIONS = {
    'glorot_uniform': nn.initializers.glorot_uniform(),  # the Keras default
    'glorot_normal': nn.initializers.glorot_normal(),
    'he_uniform': nn.initializers.he_uniform(),
    'he_normal': nn.initializers.he_normal(),
}
# The ensemble's three (section 3.3). Of the third the paper tells the name only: here
# one convolution a block, and nothing looks beyond a patch but the maximum.
FAMILIES = {
    'sequence_lstm': dict(convolutions=2, sequence='lstm', aggregation='max'),
    'sequence_max': dict(convolutions=2, sequence='none', aggregation='max'),
    'shallow': dict(convolutions=1, sequence='none', aggregation='max'),
}
_DIRECTIONS = {'lstm': 1, 'bilstm': 2}


class PatchSequence(nn.Module):
    """A 3D CNN on each patch, a model of their sequence, and one of the whole spine.

    The paper's F_rep is blocks of `convolutions` 3x3x3 convolutions (ReLU, 'SAME') and
    2x2x2 max pooling, of 8, 16 and 32 features, that give z_i of patch i; `position`
    appends its place along the spine, and with a `projection` a dense layer (ReLU)
    makes z_i of both.

    F_seq makes h_i of the z_i, and the patch logits s_i = w h_i + b:
        none      h_i = z_i.
        max       h_i = z_i, and s_i becomes the maximum over the `window` patches
                  around i: each is "scored according to its environment".
        lstm      h_i is the state of an LSTM that read z_1 ... z_i from head to feet.
        bilstm    h_i is [that, the state of another that read z_k ... z_i].

    F_agg makes the series logit t; with p_i = sigmoid(s_i):
        max           t = max s_i, the logit of max p_i.
        smoothed_max  t = max of the logits of q_i, the mean of p_j over the `window`
                      patches around i (fewer at the ends).
        mean          t = logit of the mean of p_i.
        noisy_or      t = logit of 1 - prod (1 - p_i): any of them, were they
                      independent (Viola et al. 2005, section 3).
        lstm, bilstm  t = v c + d; c is the last state of an LSTM that read all
                      [h_i, p_i]; of both directions, the two last states.
        attention     t = v sum a_i [h_i, p_i] + d, with
                      a = softmax of u tanh(V [h_i, p_i] + e) (Ilse et al. 2018).

    Logits of means and products come from sums of exp(log p) and exp(log (1 - p)), so
    that they neither overflow nor lose the small ones.

    Fillers (mask 0) are treated as if they were not there, wherever they stand, in
    batch norms too; their own logits are 0. So is t of a series without a patch.

    Attributes:
        centre, spread: patches become (x - centre) / spread; 0 and 1 leave them as they
            are, as the paper has it. Of bone in the paper's window x has a deviation of
            about 0.15 around 0.2, and the first layer learns as much more slowly.
        widths: features of each block.
        convolutions: of each block, before its pooling.
        batch_norm: whether a norm stands between convolution and ReLU.
        standardised: whether kernels are, see layers3d.Conv3D; without batch_norm.
        representation: what becomes of the last block: 'flatten' (fits one size of
            patches); the maximum of each of its 'rows', so that what is seen of one
            vertebra isn't mixed with its neighbours'; or the 'mean' or 'max' over all
            voxels.
        position: whether z_i ends with the patch's relative position.
        projection: units of that dense layer; 0 for none.
        sequence: F_seq, one of SEQUENCES.
        residual: whether h_i is [the state of the LSTM, z_i].
        aggregation: F_agg, one of AGGREGATIONS.
        window: patches that the filter of 'max' and 'smoothed_max' covers; odd.
        hidden: units of each LSTM and direction, and of the attention.
        dropout: share of each z_i dropped, in [0, 1).
        initialisation: of kernels, one of INITIALISATIONS; LSTM states are mixed by
            orthogonal matrices, biases start zero (an LSTM's forget gate at one).
        first_logit: bias of the patch logits before training. Few patches are
            fractured, and from 0 it takes hundreds of updates to learn just that
            (Lin et al. 2017, section 3.3: -4.6).
        dtype: what layers compute in; parameters, statistics, LSTM states and logits
            are float32.
        axis_name: mapped axis over whose devices a batch is spread; None if there is
            none.
    """

    centre: float
    spread: float
    widths: tuple[int, ...]
    convolutions: int
    batch_norm: bool
    standardised: bool
    representation: str
    position: bool
    projection: int
    sequence: str
    residual: bool
    aggregation: str
    window: int
    hidden: int
    dropout: float
    initialisation: str
    first_logit: float
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, inputs, *, train: bool) -> dict[str, jax.Array]:
        """Maps patches to logits.

        Args:
            inputs: {'patches': [B, k, pH, pW, pZ, C] in [0, 1]; 'mask': [B, k], 1 for
                a patch, 0 for a filler; 'position': [B, k] in [0, 1], 0 at the top}.
            train: whether to drop activations and to normalise by the batch.

        Returns:
            {'series': [B], 'patches': [B, k]}, both float32.
        """
        self._check(inputs['patches'].shape[2:5])
        mask = inputs['mask'] > 0
        features = self._represent(inputs['patches'], mask, train)
        if self.position:
            place = inputs['position'][..., None].astype(features.dtype)
            features = jnp.concatenate([features, place], axis=-1)

        # Fillers go behind, so that neighbours are neighbours.
        order = jnp.argsort(~mask, axis=1, stable=True)
        mask = jnp.take_along_axis(mask, order, axis=1)
        features = jnp.take_along_axis(features, order[..., None], axis=1)
        features = jnp.where(mask[..., None], features, 0)
        if self.projection:
            features = nn.relu(self._dense(self.projection, 'projection')(features))
            features = jnp.where(mask[..., None], features, 0)
        dropout = Dropout(self.dropout, self.axis_name, name='dropout')
        features = dropout(features, train=train)

        if self.sequence in _DIRECTIONS:
            states, _ = self._lstm(self.sequence, 'sequence')(features, mask)
            if self.residual:
                states = jnp.concatenate([states, features], axis=-1)
            features = states
        logits = nn.Dense(
            1, dtype=self.dtype, kernel_init=self._init,
            bias_init=nn.initializers.constant(self.first_logit), name='patch_logits',
        )(features)[..., 0].astype(jnp.float32)
        if self.sequence == 'max':
            logits = max_filter(logits, mask, window=self.window)
        series = self._aggregate(features, logits, mask)
        series = jnp.where(mask.any(axis=1), series, 0.0)
        logits = jnp.where(mask, logits, 0.0)
        places = jnp.argsort(order, axis=1)
        return {
            'series': series, 'patches': jnp.take_along_axis(logits, places, axis=1)}

    def _check(self, size):
        for name, choices in (
            ('representation', REPRESENTATIONS),
            ('sequence', SEQUENCES),
            ('aggregation', AGGREGATIONS),
            ('initialisation', tuple(INITIALISATIONS)),
        ):
            value = getattr(self, name)
            if value not in choices:
                raise ConfigError(name, f'{value!r} is none of {", ".join(choices)}')
        if self.window < 1 or self.window % 2 == 0:
            raise ConfigError('window', f'must be odd and positive, got {self.window}')
        if self.projection < 0:
            raise ConfigError(
                'projection', f'must not be negative, got {self.projection}')
        if not self.spread > 0:
            raise ConfigError('spread', f'must be positive, got {self.spread}')
        if self.standardised and self.batch_norm:
            raise ConfigError('standardised', 'is in place of batch_norm, not with it')
        least = 2 ** len(self.widths)
        if min(size) < least:
            raise ConfigError(
                'patch size', f'{" x ".join(map(str, size))} is too small: '
                f'{len(self.widths)} poolings need {least} voxels each way'
            )

    def _represent(self, patches, mask, train):
        """[B, k, pH, pW, pZ, C], [B, k] -> [B, k, D] of type `dtype`."""
        real = jnp.asarray(mask).reshape(-1)
        x = (patches - self.centre) / self.spread
        x = x.reshape(-1, *patches.shape[2:]).astype(self.dtype)
        # Chosen, not multiplied: whatever a filler holds goes no further.
        x = jnp.where(real[:, None, None, None, None], x, 0)
        # Behind all patches nothing is computed of fillers.
        order, count = jnp.argsort(~real, stable=True), real.sum()
        x, real = jnp.take(x, order, axis=0), jnp.take(real, order)
        for block, width in enumerate(self.widths, start=1):
            convolutions = [
                Conv3D(
                    width, use_bias=not self.batch_norm, dtype=self.dtype,
                    kernel_init=self._init, standardised=self.standardised,
                    name=f'conv{block}_{number}',
                ) for number in range(1, self.convolutions + 1)
            ]
            if not self.batch_norm:
                channels = [x.shape[-1]] + [width] * (self.convolutions - 1)
                x = convolve_and_pool(x, count, *zip(*(
                    c.parameters(n) for c, n in zip(convolutions, channels))))
                continue
            for number, convolve in enumerate(convolutions, start=1):
                norm = MaskedBatchNorm(
                    self.dtype, self.axis_name, name=f'norm{block}_{number}')
                x = norm(convolve(x), real, train=train)
                if number == self.convolutions:
                    x = max_pool(x)  # before ReLU, the same after: an eighth to do
                x = nn.relu(x)
        if self.representation == 'rows':
            x = x.max((2, 3))
        elif self.representation == 'mean':
            x = x.mean((1, 2, 3))
        elif self.representation == 'max':
            x = x.max((1, 2, 3))
        x = jnp.take(x, jnp.argsort(order), axis=0)
        return x.reshape(*mask.shape, -1)

    def _aggregate(self, features, logits, mask):
        """h [B, k, D], s [B, k], mask [B, k] -> t [B] float32."""
        if self.aggregation == 'max':
            return jnp.where(mask, logits, -jnp.inf).max(axis=1)
        if self.aggregation == 'mean':
            return mean_logit(logits, mask)
        if self.aggregation == 'noisy_or':
            return any_logit(logits, mask)
        if self.aggregation == 'smoothed_max':
            smooth = smooth_filter(logits, mask, window=self.window)
            return jnp.where(mask, smooth, -jnp.inf).max(axis=1)
        scores = nn.sigmoid(logits)[..., None].astype(features.dtype)
        items = jnp.concatenate([features, scores], axis=-1)
        if self.aggregation == 'attention':
            hidden = jnp.tanh(self._dense(self.hidden, 'attention_hidden')(items))
            weights = self._dense(1, 'attention')(hidden)[..., 0].astype(jnp.float32)
            # Of nothing, all weigh the same, lest gradients become NaN.
            counted = mask | ~mask.any(axis=1, keepdims=True)
            weights = nn.softmax(weights, axis=1, where=counted)
            pooled = jnp.einsum('bk,bkd->bd', weights, items.astype(jnp.float32))
        else:
            _, pooled = self._lstm(self.aggregation, 'aggregation')(items, mask)
        return self._dense(1, 'series_logit')(pooled)[..., 0].astype(jnp.float32)

    @property
    def _init(self):
        return INITIALISATIONS[self.initialisation]

    def _dense(self, features, name):
        return nn.Dense(
            features, dtype=self.dtype, kernel_init=self._init, name=name)

    def _lstm(self, kind, name):
        return MaskedLSTM(
            self.hidden, _DIRECTIONS[kind], self.dtype, self._init, name=f'{name}_lstm')


class MaskedLSTM(nn.Module):
    """An LSTM, or two in opposite directions, that pass over fillers.

    With [i, f, g, o] = x_t W + h_(t-1) U + b of four shares of `hidden` each,
        c_t = sigmoid(f) c_(t-1) + sigmoid(i) tanh(g),
        h_t = sigmoid(o) tanh(c_t),
    as in Keras; h and c start at zero, and a filler leaves them as they are.

    Attributes:
        hidden: units of each direction.
        directions: 1, first to last; or 2, the second of them last to first.
        dtype: type of the matrix products; states are float32.
        kernel_init: (key, shape) -> the first W. U starts orthogonal, b zero but for
            the forget gate's share, which is one.
    """

    hidden: int
    directions: int
    dtype: Any
    kernel_init: Any

    @nn.compact
    def __call__(self, inputs, mask) -> tuple[jax.Array, jax.Array]:
        """Reads sequences.

        Args:
            inputs: [B, k, D].
            mask: [B, k], True for an item.

        Returns:
            h of each place, [B, k, directions * hidden], and the last ones,
            [B, directions * hidden]; float32.
        """

        def forget_one(key, shape):
            del key
            forget = jnp.arange(shape[-1]) // self.hidden == 1
            return jnp.broadcast_to(forget.astype(jnp.float32), shape)

        gates, ways = 4 * self.hidden, range(self.directions)
        shape = inputs.shape[-1], gates
        kernels = [self.param(f'kernel{way}', self.kernel_init, shape) for way in ways]
        states = [
            self.param(
                f'recurrent{way}', nn.initializers.orthogonal(), (self.hidden, gates))
            for way in ways
        ]
        biases = [self.param(f'bias{way}', forget_one, (gates,)) for way in ways]

        # All that does not depend on a state is one product, ahead of the loop.
        kernel = jnp.concatenate(kernels, axis=1).astype(self.dtype)
        projected = inputs.astype(self.dtype) @ kernel
        projected = projected.astype(jnp.float32) + jnp.concatenate(biases)
        # [k, directions, B, ...], the second direction turned around.
        projected = jnp.split(projected.swapaxes(0, 1), self.directions, axis=-1)
        real = [mask.T[..., None]] * self.directions
        projected, real = (
            jnp.stack([x[::-1] if way else x for way, x in enumerate(values)], axis=1)
            for values in (projected, real)
        )
        recurrent = jnp.stack(states).astype(self.dtype)

        def step(carry, item):
            (h, c), (x, present) = carry, item
            x = x + (h.astype(self.dtype) @ recurrent).astype(jnp.float32)
            i, f, g, o = jnp.split(x, 4, axis=-1)
            new_c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
            new_h = nn.sigmoid(o) * jnp.tanh(new_c)
            h, c = jnp.where(present, new_h, h), jnp.where(present, new_c, c)
            return (h, c), h

        # Zeros made of the inputs vary over a mapped axis where those do.
        zeros = projected[0, ..., : self.hidden] * 0
        (last, _), every = lax.scan(step, (zeros, zeros), (projected, real))
        every = [every[::-1, way] if way else every[:, way] for way in ways]
        return jnp.concatenate(every, -1).swapaxes(0, 1), jnp.concatenate(last, -1)


def _neighbours(values, *, window, fill):
    """[B, k] -> [B, k, window]: around each, itself in the middle; `fill` outside."""
    reach, count = window // 2, values.shape[1]
    padded = jnp.pad(values, ((0, 0), (reach, reach)), constant_values=fill)
    return jnp.stack([padded[:, j : j + count] for j in range(window)], axis=-1)


def max_filter(logits, mask, *, window):
    """The maximum over each patch and its neighbours.

    Args:
        logits: [B, k].
        mask: [B, k], True for a patch; fillers are behind all patches.
        window: patches that the filter covers, odd.

    Returns:
        [B, k]; what it says of fillers means nothing.
    """
    logits = jnp.where(mask, logits, -jnp.inf)
    around = _neighbours(logits, window=window, fill=-jnp.inf).max(axis=-1)
    return jnp.where(mask, around, 0.0)


def mean_logit(logits, mask):
    """The logit of the mean probability: logits [..., k], mask [..., k] -> [...].

    log(sum p / sum (1 - p)), each from log-probabilities. Of nothing, it is 0.
    """
    some = mask.any(axis=-1)
    # Where there is nothing the sums are of ones, lest gradients become NaN.
    counted = mask | ~some[..., None]
    sums = (
        jax.nn.logsumexp(jax.nn.log_sigmoid(sign * logits), axis=-1, where=counted)
        for sign in (1, -1)
    )
    return jnp.where(some, next(sums) - next(sums), 0.0)


def any_logit(logits, mask):
    """The logit of 1 - prod (1 - p): logits [..., k], mask [..., k] -> [...].

    With a = -log prod (1 - p) it is log(exp(a) - 1), about log sum p where a is small.
    Of nothing, it is 0.
    """
    some = mask.any(axis=-1)
    counted = mask | ~some[..., None]
    rest = jnp.sum(jax.nn.softplus(logits), axis=-1, where=counted)
    few = rest < 1e-6  # where float32 has no digits left of exp(a) - 1
    safe = jnp.where(few, 1.0, rest)
    value = jnp.where(
        few, jax.nn.logsumexp(jax.nn.log_sigmoid(logits), axis=-1, where=counted),
        safe + jnp.log(-jnp.expm1(-safe)))
    return jnp.where(some, value, 0.0)


def smooth_filter(logits, mask, *, window):
    """`mean_logit` of each patch and its neighbours; arguments as of `max_filter`."""
    return mean_logit(
        _neighbours(logits, window=window, fill=0.0),
        _neighbours(mask, window=window, fill=False),
    )
