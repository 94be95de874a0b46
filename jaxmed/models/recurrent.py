"""Recurrent layers whose loops hold nothing but what needs the last state.

The products with the inputs are one matrix product ahead of the loop, and the gradient
of the recurrent kernel is one behind it, over all frames, where differentiating a scan
would add up a product a frame. Four things make a difference on a CPU (jax 0.10.2,
two cores, 32 x 150 frames, 193 units): all gates of a frame pass through one tanh, as
sigmoid(a) = (1 + tanh(a / 2)) / 2 (gate by gate XLA's fusions take three times as long
as the whole array does); what backward needs is written over the products that it
came from; biases are a row of the kernel, so that neither they nor their gradient
pass over all gates once more; and rows of a batch know nothing of each other: sixteen
at a time go through the loop as a chain of their own, since XLA's product of 16 rows
takes less than half of what that of 32 takes (the forward loop is a quarter faster so,
forward and backward a tenth). Other devices take all rows at once.
"""

import functools
from typing import Any, Callable, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxmed.errors import ConfigError
from jaxmed.models.layers import Dropout

_CHAIN_ROWS, _MOST_CHAINS = 16, 8


class _Cell(NamedTuple):
    """One frame of a cell; `kept` is all that its gradient needs, [B, shares * H]."""

    scales: tuple[float, ...]  # of each share of the products: 1/2 where sigmoid is
    kept: int  # shares
    states: int  # h, and an LSTM's c
    step: Callable[..., Any]  # (x, p, states) -> (states, kept)
    # (kept, states before, gradients of the states) -> (gradient of x, and of p where
    # it is another, as shares in the place of `kept`; gradients of the states before)
    back: Callable[..., Any]
    of_product: Callable[..., jax.Array]  # that gradient, [..., shares * H] -> of p


def _gate(x):
    return 0.5 * x + 0.5


def _rnn_step(x, p, states):
    h = jnp.tanh(x + p)
    return (h,), h


def _rnn_back(kept, before, grads):
    return grads[0] * (1 - kept * kept), (jnp.zeros_like(grads[0]),)


def _lstm_step(x, p, states):
    kept = jnp.tanh(x + p)
    i, f, g, o = jnp.split(kept, 4, axis=-1)
    c = _gate(f) * states[1] + _gate(i) * g
    return (_gate(o) * jnp.tanh(c), c), kept


def _lstm_back(kept, before, grads):
    i, f, g, o = jnp.split(kept, 4, axis=-1)
    squashed = jnp.tanh(_gate(f) * before[1] + _gate(i) * g)
    dh, dc = grads
    dc = dc + dh * _gate(o) * (1 - squashed * squashed)
    parts = [0.5 * dc * g, 0.5 * dc * before[1], dc * _gate(i), 0.5 * dh * squashed]
    grad = jnp.concatenate(parts, axis=-1) * (1 - kept * kept)
    return grad, (jnp.zeros_like(dh), dc * _gate(f))


def _gru_step(x, p, states):
    hidden = states[0].shape[-1]
    gates = jnp.tanh(x[..., : 2 * hidden] + p[..., : 2 * hidden])
    r, z = jnp.split(_gate(gates), 2, axis=-1)
    n = jnp.tanh(x[..., 2 * hidden :] + r * p[..., 2 * hidden :])
    kept = jnp.concatenate([gates, n, p[..., 2 * hidden :]], axis=-1)
    return (n + z * (states[0] - n),), kept


def _gru_back(kept, before, grads):
    r, z, n, q = jnp.split(kept, 4, axis=-1)
    dh = grads[0]
    dn = dh * (1 - _gate(z)) * (1 - n * n)
    dr = 0.5 * dn * q * (1 - r * r)
    dz = 0.5 * dh * (before[0] - n) * (1 - z * z)
    grad = jnp.concatenate([dr, dz, dn, dn * _gate(r)], axis=-1)
    return grad, (dh * _gate(z),)


def _without_third(grad):
    r, z, _, q = jnp.split(grad, 4, axis=-1)
    return jnp.concatenate([r, z, q], axis=-1)


CELLS = {
    'rnn': _Cell((1.0,), 1, 1, _rnn_step, _rnn_back, lambda grad: grad),
    'gru': _Cell((0.5, 0.5, 1.0), 4, 1, _gru_step, _gru_back, _without_third),
    'lstm': _Cell(
        (0.5, 0.5, 1.0, 0.5), 4, 2, _lstm_step, _lstm_back, lambda grad: grad),
}


def _times(states, kernel):
    return jnp.matmul(
        states.astype(kernel.dtype), kernel, preferred_element_type=jnp.float32)


def _at(array, place, start, rows):
    """Rows of a frame of [T, B, D]."""
    return lax.dynamic_slice(
        array, (place, start, 0), (1, rows, array.shape[-1]))[0]


def _put(array, place, start, value):
    return lax.dynamic_update_slice(array, value[None], (place, start, 0))


def _with_chains(function, *arrays, rows):
    """function(*arrays, starts=...), where the chains of the batch's rows begin."""
    starts = list(range(0, rows, max(_CHAIN_ROWS, -(-rows // _MOST_CHAINS)))) or [0]
    if len(starts) == 1:
        return function(*arrays, starts=starts)
    return lax.platform_dependent(
        *arrays, cpu=functools.partial(function, starts=starts),
        default=functools.partial(function, starts=[0]))


def _cut(array, starts):
    """[B, D] -> its chains; None, as many of it."""
    if array is None:
        return [None] * len(starts)
    return jnp.split(array, starts[1:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def recur(cell, backwards, x, kernel, offset, keep, real):
    """The states of a cell that reads frames one by one; they begin at zero.

    Differentiable once, in reverse mode, by x, kernel and offset.

    Args:
        cell: a name in CELLS.
        backwards: whether the last frame is read first.
        x: [T, B, G] float32, the scaled products with the inputs and all biases; G is
            the number of the cell's shares times H.
        kernel: [H, G], scaled, of the type that products are computed in.
        offset: [G] float32, added to the products with the states: a GRU's. Or None.
        keep: [B, H], what states are multiplied by ahead of the product. Or None.
        real: [T, B, 1] bool; where it is False a frame leaves the states as they are.

    Returns:
        h of each frame, [T, B, H] float32, and the last one to be read, [B, H].
    """
    every, last, _ = _recur(
        cell, backwards, x, kernel, offset, keep, real, differentiate=False)
    return every[0], last


def _recur(cell, backwards, x, kernel, offset, keep, real, *, differentiate):
    """Every state, tuple of [T, B, H]; the last h; what is kept, [T, B, shares * H].

    The last h is that of the loop, not of the array: where nothing else is asked for,
    XLA leaves the array out.
    """
    read = functools.partial(_read, CELLS[cell], backwards, differentiate)
    return _with_chains(read, x, kernel, offset, keep, real, rows=x.shape[1])


def _read(
    cell, backwards, differentiate, x, kernel, offset, keep, real, *, starts,
):
    """What _recur gives."""
    hidden, steps, width = kernel.shape[0], len(x), x.shape[-1]
    # Made of the inputs, so that they vary over a mapped axis where those do.
    begin = x[0, :, :hidden] * 0
    # Without gradients the other states need not be written down.
    written = cell.states if differentiate else 1
    every = (jnp.broadcast_to(begin, (steps, *begin.shape)),) * written
    if differentiate:
        x = jnp.pad(x, [(0, 0), (0, 0), (0, cell.kept * hidden - width)])
    keeps = _cut(keep, starts)

    def read(number, carry):
        chains, every, x = carry
        place = steps - 1 - number if backwards else number
        after = []
        for start, states, keep in zip(starts, chains, keeps):
            rows = len(states[0])
            p = _times(states[0] if keep is None else states[0] * keep, kernel)
            if offset is not None:
                p = p + offset
            new, kept = cell.step(_at(x, place, start, rows)[:, :width], p, states)
            present = _at(real, place, start, rows)
            states = tuple(jnp.where(present, *pair) for pair in zip(new, states))
            every = tuple(
                _put(a, place, start, s) for a, s in zip(every, states))
            if differentiate:
                x = _put(x, place, start, kept)
            after.append(states)
        return after, every, x

    chains = [(rows,) * cell.states for rows in _cut(begin, starts)]
    chains, every, kept = lax.fori_loop(0, steps, read, (chains, every, x))
    return every, jnp.concatenate([states[0] for states in chains]), kept


def _recur_forward(cell, backwards, x, kernel, offset, keep, real):
    every, last, kept = _recur(
        cell, backwards, x, kernel, offset, keep, real, differentiate=True)
    return (every[0], last), (every, kept, kernel, offset, keep, real)


def _recur_backward(cell, backwards, residuals, grads):
    grad, of_last = grads
    every, kept, kernel, offset, keep, real = residuals
    cell, shares = CELLS[cell], len(CELLS[cell].scales)
    first = jnp.zeros_like(every[0][:1])
    before = tuple(
        jnp.concatenate([a[1:], first] if backwards else [first, a[:-1]])
        for a in every)
    of_kept = _with_chains(
        functools.partial(_unread, cell, backwards), kept, before, real, grad, of_last,
        kernel.T, keep, rows=len(of_last))
    of_product = cell.of_product(of_kept)
    states = before[0] if keep is None else before[0] * keep
    of_kernel = jnp.matmul(
        states.reshape(-1, states.shape[-1]).T.astype(kernel.dtype),
        of_product.reshape(-1, of_product.shape[-1]).astype(kernel.dtype),
        preferred_element_type=jnp.float32)
    return (
        of_kept[..., : shares * states.shape[-1]], of_kernel.astype(kernel.dtype),
        None if offset is None else of_product.sum((0, 1)), None, None,
    )


def _unread(
    cell, backwards, kept, before, real, grad, of_last, turned, keep, *, starts,
):
    """The gradient of what is kept, [T, B, shares * H]."""
    cut = functools.partial(_cut, starts=starts)

    def read(grads, keep, kept, before, present, grad):
        grads = (grads[0] + grad, *grads[1:])
        inside = tuple(jnp.where(present, g, 0) for g in grads)
        of_kept, earlier = cell.back(kept, before, inside)
        through = _times(cell.of_product(of_kept), turned)
        if keep is not None:
            through = through * keep
        earlier = (earlier[0] + through, *earlier[1:])
        earlier = tuple(
            e + jnp.where(present, 0, g) for e, g in zip(earlier, grads))
        return earlier, of_kept

    def read_all(chains, frame):
        kept, before, present, grad = frame
        chains, of_kept = zip(*map(
            read, chains, cut(keep), cut(kept), zip(*map(cut, before)), cut(present),
            cut(grad)))
        return chains, jnp.concatenate(of_kept)

    chains = tuple(
        (rows, *[rows * 0] * (cell.states - 1)) for rows in cut(of_last))
    _, of_kept = lax.scan(
        read_all, chains, (kept, before, real, grad), reverse=not backwards)
    return of_kept


recur.defvjp(_recur_forward, _recur_backward)


class Recurrent(nn.Module):
    """An RNN, a GRU or an LSTM, or two in opposite directions, that pass over fillers.

    With shares of `hidden` units each and sigma = sigmoid,
        rnn   h_t = tanh(x_t W + h_(t-1) U + b);
        gru   [r, z, n] = x_t W + b, [r', z', n'] = h_(t-1) U + [0, 0, b'],
              h_t = (1 - s) m + s h_(t-1) with s = sigma(z + z') and
              m = tanh(n + sigma(r + r') n');
        lstm  [i, f, g, o] = x_t W + h_(t-1) U + b,
              c_t = sigma(f) c_(t-1) + sigma(i) tanh(g), h_t = sigma(o) tanh(c_t):
              equations (3)-(5) of paper 000 with the usual candidate g;
    as in PyTorch, whose second bias adds nothing but for n'. h and c start at zero; a
    filler leaves them as they are, wherever it stands. So backwards it is the last
    real frame that is read first, and the last state of a sequence is h at its end.

    W starts as `kernel_init` has it, U orthogonal, b zero but for an LSTM's forget
    gate, which starts open at one (Jozefowicz et al. 2015).

    Attributes:
        cell: a name in CELLS.
        hidden: units of each direction.
        directions: 1, first to last; or 2, the second of them last to first.
        dtype: type of the matrix products; states are float32.
        kernel_init: (key, shape) -> the first W.
        dropout: share of h that does not reach the next product, in training; the same
            units in all frames of an example (Gal and Ghahramani 2016).
        axis_name: mapped axis over whose devices the batch is spread, or None.
    """

    cell: str
    hidden: int
    directions: int
    dtype: Any
    kernel_init: Any
    dropout: float = 0.0
    axis_name: str | None = None

    @nn.compact
    def __call__(self, inputs, mask, *, train, front=None):
        """Reads sequences.

        Args:
            inputs: [T, B, D], or [T, B, F] with a `front`.
            mask: [T, B], True for a frame.
            train: whether to drop.
            front: kernel [F, D] and bias [D] of a linear layer in front. Its kernel is
                multiplied with W first where that is less to do than both in turn.

        Returns:
            h of each frame, [T, B, directions * hidden], and the last ones, [B,
            directions * hidden]; float32.
        """
        if self.cell not in CELLS:
            raise ConfigError('cell', f'{self.cell!r} is none of {", ".join(CELLS)}')
        cell = CELLS[self.cell]
        real = mask[..., None] > 0
        scales = jnp.repeat(jnp.array(cell.scales), self.hidden)
        width = len(cell.scales) * self.hidden
        if front is not None and not _is_less_merged(inputs, front[0], width):
            inputs, front = _with_bias(inputs, *front, self.dtype), None
        seen = inputs.shape[-1] if front is None else front[0].shape[1]

        def forget_one(key, shape):
            del key
            forget = jnp.arange(shape[0]) // self.hidden == 1
            return forget.astype(jnp.float32) * (self.cell == 'lstm')

        ways = range(self.directions)

        def declare(name, init, *shape):
            return [self.param(f'{name}{way}', init, shape) for way in ways]

        kernels = declare('kernel', self.kernel_init, seen, width)
        recurrents = declare(
            'recurrent', nn.initializers.orthogonal(), self.hidden, width)
        biases = declare('bias', forget_one, width)
        offsets = [None] * self.directions
        if self.cell == 'gru':
            offsets = declare('recurrent_bias', nn.initializers.zeros, self.hidden)
            offsets = [jnp.pad(b, (2 * self.hidden, 0)) for b in offsets]

        every, last = [], []
        for way, (kernel, recurrent, bias, offset) in enumerate(
            zip(kernels, recurrents, biases, offsets)
        ):
            if front is not None:
                kernel, bias = front[0] @ kernel, bias + front[1] @ kernel
            x = _with_bias(inputs, kernel * scales, bias * scales, self.dtype)
            keep = None
            if train and self.dropout and not self.is_initializing():
                keep = Dropout(self.dropout, self.axis_name, name=f'dropout{way}')(
                    jnp.ones((inputs.shape[1], self.hidden)), train=True)
            states, final = recur(
                self.cell, bool(way), x, (recurrent * scales).astype(self.dtype),
                offset, keep, real)
            every.append(states)
            last.append(final)
        return jnp.concatenate(every, axis=-1), jnp.concatenate(last, axis=-1)


def _is_less_merged(inputs, kernel, width):
    """Whether x (V W) takes fewer multiplications than (x V) W."""
    rows, (features, between) = inputs[..., 0].size, kernel.shape
    merged = features * width * (between + rows)
    return merged < rows * between * (features + width)


def _with_bias(inputs, kernel, bias, dtype):
    """[..., D] -> [..., G] float32: a product that the bias is part of."""
    ones = jnp.ones((*inputs.shape[:-1], 1), dtype)
    inputs = jnp.concatenate([inputs.astype(dtype), ones], axis=-1)
    kernel = jnp.concatenate([kernel, bias[None]]).astype(dtype)
    outputs = jnp.matmul(
        inputs.reshape(-1, inputs.shape[-1]), kernel,
        preferred_element_type=jnp.float32)
    return outputs.reshape(*inputs.shape[:-1], -1)
