"""Recurrent layers: as PyTorch has them, as differentiated scans, blind to fillers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxmed.models import patch_sequence, recurrent
from jaxmed.models.recurrent import CELLS, Recurrent
from tests.models.trees import close, computed

GLOROT = jax.nn.initializers.glorot_uniform()


def make_layer(cell, *, hidden=4, directions=1, **options):
    return Recurrent(
        cell, hidden, directions, options.pop('dtype', jnp.float32), GLOROT, **options)


def make_inputs(steps, batch, features, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(steps, batch, features)).astype(np.float32)


def params_of(layer, inputs, mask, scale=0.5, **options):
    shapes = jax.eval_shape(lambda: layer.init(
        jax.random.key(0), inputs, mask, train=False, **options))['params']
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda x: (scale * rng.normal(size=x.shape)).astype(np.float32), shapes)


def run(layer, params, inputs, mask, **options):
    """States, last states, and gradients by parameters and inputs of their squares."""

    def loss(params, inputs):
        every, last = layer.apply(
            {'params': params}, inputs, mask, train=options.get('train', False),
            front=options.get('front'), rngs={'dropout': jax.random.key(3)})
        weights = jnp.arange(every.shape[-1]) % 3 + 1.0
        value = (jnp.where(mask[..., None], every, 0) ** 2 * weights).sum()
        return value + (last * weights).sum(), (every, last)

    (_, outputs), grads = computed(
        jax.value_and_grad(loss, (0, 1), has_aux=True), params, inputs)
    return outputs, grads


@pytest.mark.parametrize('cell', sorted(CELLS))
@pytest.mark.parametrize('directions', [1, 2])
def test_two_layers_and_their_gradients_are_pytorchs(cell, directions):
    torch = pytest.importorskip('torch')
    steps, batch, features, hidden, layers = 30, 3, 7, 5, 2
    inputs, mask = make_inputs(steps, batch, features), np.ones((steps, batch), bool)
    ours = make_layer(cell, hidden=hidden, directions=directions)
    theirs = getattr(torch.nn, cell.upper())(
        features, hidden, layers, bidirectional=directions == 2)
    named = dict(theirs.named_parameters())
    params = [params_of(ours, inputs, mask)]
    params.append(
        params_of(ours, make_inputs(steps, batch, hidden * directions), mask))

    def places():
        for layer in range(layers):
            for way in range(directions):
                yield params[layer], layer, way, f'_l{layer}' + '_reverse' * way

    with torch.no_grad():
        for values, _, way, suffix in places():
            for name, other in (
                ('kernel', 'weight_ih'), ('recurrent', 'weight_hh'),
                ('bias', 'bias_ih'),
            ):
                value = torch.tensor(np.array(values[f'{name}{way}'].T))
                named[other + suffix].copy_(value)
            named['bias_hh' + suffix].zero_()
            if cell == 'gru':
                named['bias_hh' + suffix][2 * hidden:] = torch.tensor(
                    values[f'recurrent_bias{way}'])
    x = torch.tensor(inputs, requires_grad=True)
    expected, _ = theirs(x)
    (expected ** 3).sum().backward()

    def loss(params, inputs):
        for values in params:
            inputs, _ = ours.apply({'params': values}, inputs, mask, train=False)
        return (inputs ** 3).sum(), inputs

    (_, states), (grads, by_inputs) = computed(
        jax.value_and_grad(loss, (0, 1), has_aux=True), params, inputs)
    close(states, expected.detach().numpy())
    close(by_inputs, x.grad.numpy())
    for _, layer, way, suffix in places():
        found = grads[layer]
        for name, other in (
            ('kernel', 'weight_ih'), ('recurrent', 'weight_hh'), ('bias', 'bias_ih'),
        ):
            close(found[f'{name}{way}'], named[other + suffix].grad.numpy().T)
        if cell == 'gru':
            close(found[f'recurrent_bias{way}'],
                  named['bias_hh' + suffix].grad.numpy()[2 * hidden:])


def sigmoid(x):
    return 1 / (1 + jnp.exp(-x))


def read_by_hand(cell, params, inputs, mask):
    """The docstring's formulas in a scan that JAX differentiates."""
    every, last = [], []
    for way in range(sum(name.startswith('kernel') for name in params)):
        kernel, inner, bias = (
            params[f'{name}{way}'] for name in ('kernel', 'recurrent', 'bias'))
        hidden = len(inner)

        def step(state, item):
            h, c = state
            x, present = item
            x, p = x @ kernel + bias, h @ inner
            if cell == 'rnn':
                new, new_c = jnp.tanh(x + p), c
            elif cell == 'gru':
                r, z = (sigmoid(x + p)[:, n * hidden:][:, :hidden] for n in (0, 1))
                q = p[:, 2 * hidden:] + params[f'recurrent_bias{way}']
                new = (1 - z) * jnp.tanh(x[:, 2 * hidden:] + r * q) + z * h
                new_c = c
            else:
                i, f, g, o = jnp.split(x + p, 4, axis=-1)
                new_c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
                new = sigmoid(o) * jnp.tanh(new_c)
            h, c = (jnp.where(present[:, None], *pair)
                    for pair in ((new, h), (new_c, c)))
            return (h, c), h

        zeros = jnp.zeros((inputs.shape[1], hidden))
        (h, _), states = lax.scan(
            step, (zeros, zeros), (inputs, mask), reverse=bool(way))
        every.append(states)
        last.append(h)
    return jnp.concatenate(every, -1), jnp.concatenate(last, -1)


@pytest.mark.parametrize('batch', [4, 36, 148])  # in one chain, and in several
@pytest.mark.parametrize('cell', sorted(CELLS))
def test_gradients_are_those_of_a_scan_wherever_fillers_stand(cell, batch):
    inputs = make_inputs(6, batch, 3)
    mask = np.tile(np.array([
        [1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [0, 1, 0, 1, 1, 0], [0] * 6,
    ], bool).T, batch // 4)
    layer = make_layer(cell, directions=2)
    params = params_of(layer, inputs, mask)
    outputs, grads = run(layer, params, inputs, mask)

    def loss(params, inputs):
        every, last = read_by_hand(cell, params, inputs, mask)
        weights = jnp.arange(8) % 3 + 1.0
        value = (jnp.where(mask[..., None], every, 0) ** 2 * weights).sum()
        return value + (last * weights).sum(), (every, last)

    (_, expected), expected_grads = computed(
        jax.value_and_grad(loss, (0, 1), has_aux=True), params, inputs)
    close(outputs, expected)
    close(grads, expected_grads)
    np.testing.assert_array_equal(outputs[1][3], 0)  # nothing was read
    np.testing.assert_array_equal(grads[1][~mask], 0)


def test_it_is_the_lstm_of_patches():
    inputs, mask = make_inputs(5, 3, 4), np.random.default_rng(2).random((5, 3)) > 0.4
    layer = make_layer('lstm', directions=2)
    params = params_of(layer, inputs, mask)
    other = patch_sequence.MaskedLSTM(4, 2, jnp.float32, GLOROT)
    turned = inputs.swapaxes(0, 1), mask.T
    expected = computed(lambda *x: other.apply({'params': params}, *x), *turned)
    outputs, _ = run(layer, params, inputs, mask)
    close(outputs, (expected[0].swapaxes(0, 1), expected[1]), 1e-6)
    begin, there = computed(lambda key: (
        layer.init(key, inputs, mask, train=False), other.init(key, *turned),
    ), jax.random.key(0))
    assert jax.tree.structure(begin) == jax.tree.structure(there)
    close(begin, there, 0)


def test_cells_start_orthogonal_with_an_open_forget_gate():
    inputs, mask = make_inputs(2, 1, 3), np.ones((2, 1), bool)
    begin = computed(lambda key: {
        cell: make_layer(cell).init(key, inputs, mask, train=False)['params']
        for cell in CELLS
    }, jax.random.key(0))
    for cell, params in begin.items():
        product = params['recurrent0'] @ params['recurrent0'].T
        np.testing.assert_allclose(product, np.eye(4), atol=1e-5)
        bias = np.zeros((len(CELLS[cell].scales), 4))
        if cell == 'lstm':
            bias[1] = 1
        np.testing.assert_array_equal(params['bias0'], bias.reshape(-1))


@pytest.mark.parametrize('steps', [2, 40])  # few rows apart, many merged
def test_a_linear_layer_in_front_is_one_whichever_way_it_is_multiplied(steps):
    inputs, mask = make_inputs(steps, 3, 4), np.ones((steps, 3), bool)
    kernel, bias = make_inputs(1, 4, 6, seed=5)[0], make_inputs(1, 1, 6, seed=6)[0, 0]
    assert recurrent._is_less_merged(inputs, kernel, 16) == (steps == 40)
    layer = make_layer('lstm', directions=2)
    between = inputs @ kernel + bias
    params = params_of(layer, between, mask)
    (states, grads), (expected, expected_grads) = (
        run(layer, params, inputs, mask, front=(kernel, bias)),
        run(layer, params, between, mask))
    close(states, expected)
    close(grads[0], expected_grads[0])
    close(grads[1], expected_grads[1] @ kernel.T)


@pytest.mark.parametrize('batch', [2, 18])
def test_dropped_units_of_a_state_stay_dropped_in_all_frames(batch):
    inputs, mask = make_inputs(12, batch, 3), np.ones((12, batch), bool)
    layer = make_layer('rnn', hidden=6, dropout=0.5)
    params = params_of(layer, inputs, mask)
    params['kernel0'][:] = 0
    params['bias0'][:] = 1
    # Units that see one state each: h_t = tanh(1 + 2 k h_(t-1)).
    params['recurrent0'] = 2 * np.eye(6, dtype=np.float32)
    (states, _), grads = run(layer, params, inputs, mask, train=True)
    dropped = np.isclose(states[1], np.tanh(1))
    assert 0 < dropped.sum() < dropped.size
    for state in np.asarray(states[1:]):
        np.testing.assert_array_equal(np.isclose(state, np.tanh(1)), dropped)
    kept = np.tanh(1 + 2 * 2 * np.tanh(1))  # what is kept is doubled
    np.testing.assert_allclose(states[1][~dropped], kept, rtol=1e-5)
    # Gradient of U by hand, of what `run` sums up.
    k, h = np.where(dropped, 0.0, 2.0), np.asarray(states, np.float64)
    weights = np.arange(6) % 3 + 1.0
    before, total = np.zeros((batch, 6)), np.zeros((6, 6))
    for t in reversed(range(12)):
        grad = (before + 2 * h[t] * weights + (t == 11) * weights) * (1 - h[t] ** 2)
        if t:
            total += (h[t - 1] * k).T @ grad
        before = grad @ params['recurrent0'].T * k
    close(grads[0]['recurrent0'], total, 1e-5)
    plain, _ = run(layer, params, inputs, mask)
    np.testing.assert_allclose(plain[0][1], np.tanh(1 + 2 * np.tanh(1)), rtol=1e-5)


def test_bfloat16_products_leave_states_and_gradients_in_float32():
    inputs, mask = make_inputs(20, 2, 8), np.ones((20, 2), bool)
    layer = make_layer('lstm', hidden=8, dtype=jnp.bfloat16)
    params = params_of(layer, inputs, mask, scale=0.3)
    (outputs, grads), (expected, _) = (
        run(x, params, inputs, mask) for x in (layer, make_layer('lstm', hidden=8)))
    leaves = jax.tree.leaves((outputs, grads))
    assert {x.dtype for x in leaves} == {jnp.dtype('float32')}
    close(outputs, expected, 0.03)


def test_long_sequences_and_single_frames_have_finite_gradients():
    for steps in (1, 500):
        inputs, mask = make_inputs(steps, 2, 3), np.ones((steps, 2), bool)
        for cell in CELLS:
            layer = make_layer(cell, directions=2)
            for leaf in jax.tree.leaves(
                run(layer, params_of(layer, inputs, mask, scale=3.0), inputs, mask)
            ):
                assert np.isfinite(leaf).all()
