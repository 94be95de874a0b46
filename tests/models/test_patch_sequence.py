"""The model of a spine's patches: worked out by hand, and blind to fillers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmed.errors import ConfigError
from jaxmed.models import patch_sequence
from jaxmed.models.patch_sequence import AGGREGATIONS, FAMILIES, SEQUENCES
from tests.models.trees import close, compiled


def make_model(**options):
    defaults = dict(
        centre=0.0, spread=1.0,
        widths=(3,), convolutions=1, batch_norm=False, standardised=False,
        representation='flatten', position=True, projection=0, sequence='none',
        residual=False, aggregation='max', window=3, hidden=4,
        dropout=0.0, initialisation='glorot_uniform', first_logit=0.0,
        dtype=jnp.float32, axis_name=None,
    )
    return patch_sequence.PatchSequence(**{**defaults, **options})


def make_inputs(mask, *, size=(4, 2, 2), seed=0):
    rng = np.random.default_rng(seed)
    mask = np.array(mask, np.float32)
    return {
        'patches': rng.random((*mask.shape, *size, 1)).astype(np.float32),
        'mask': mask,
        'position': rng.random(mask.shape).astype(np.float32),
    }


def variables_of(model, inputs):
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), inputs, train=False))
    # The same for layers that models share.
    variables = jax.tree.map(
        lambda x: np.random.default_rng(x.size).normal(size=x.shape).astype(np.float32),
        shapes)
    if 'batch_stats' in variables:  # variances are positive
        variables['batch_stats'] = jax.tree.map(np.abs, variables['batch_stats'])
    return variables


def run(models, variables, inputs, *others, train=False):
    """Of each batch: outputs, changed statistics and the parameters' gradients.

    All models, in one program that computes what they share once; of one model the
    results alone.
    """
    alone = not isinstance(models, dict)
    models, variables = (
        ({'': x} if alone else x for x in (models, variables)))

    def loss(params, inputs, name):
        outputs, changed = models[name].apply(
            variables[name] | {'params': params}, inputs, train=train,
            rngs={'dropout': jax.random.key(5)}, mutable=['batch_stats'])
        real = inputs['mask'] * outputs['patches']
        value = (outputs['series'] ** 2).sum() + jnp.sin(real).sum()
        return value, (outputs, changed)

    def all_of_them(inputs):
        results = {}
        for name in models:
            grads, (outputs, changed) = jax.grad(loss, has_aux=True)(
                variables[name]['params'], inputs, name)
            results[name] = outputs, changed, grads
        return results

    program = compiled(all_of_them, inputs)
    results = [program(batch) for batch in (inputs, *others)]
    results = [result[''] if alone else result for result in results]
    return results if others else results[0]


def predict(model, variables, *batches):
    """Outputs of each batch; batches of one shape share a program."""
    program = compiled(lambda x: model.apply(variables, x, train=False), batches[0])
    outputs = [program(batch) for batch in batches]
    return outputs if len(batches) > 1 else outputs[0]


def count(model, inputs):
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), inputs, train=False))
    return {
        name: sum(x.size for x in jax.tree.leaves(layer))
        for name, layer in shapes['params'].items()
    }


def test_the_papers_network_has_the_parameters_of_its_description():
    inputs = make_inputs(np.ones((1, 2)), size=(32, 32, 24))
    model = make_model(
        widths=(8, 16, 32), convolutions=2, sequence='lstm', hidden=64)
    features = 4 * 4 * 3 * 32 + 1  # halved three times; and the position
    assert count(model, inputs) == {
        'conv1_1': 27 * 1 * 8 + 8, 'conv1_2': 27 * 8 * 8 + 8,
        'conv2_1': 27 * 8 * 16 + 16, 'conv2_2': 27 * 16 * 16 + 16,
        'conv3_1': 27 * 16 * 32 + 32, 'conv3_2': 27 * 32 * 32 + 32,
        'sequence_lstm': 4 * 64 * (features + 64 + 1),
        'patch_logits': 64 + 1,
    }


def test_options_shape_the_network():
    inputs = make_inputs(np.ones((1, 2)))
    convolution = 27 * 3 + 3
    assert count(make_model(), inputs) == {
        'conv1_1': convolution, 'patch_logits': 2 * 1 * 1 * 3 + 1 + 1}
    assert count(make_model(representation='mean', position=False), inputs) == {
        'conv1_1': convolution, 'patch_logits': 3 + 1}
    # A norm's scale and offset, no bias.
    assert count(make_model(batch_norm=True), inputs)['norm1_1'] == 3 + 3
    assert count(make_model(batch_norm=True), inputs)['conv1_1'] == 27 * 3
    both = count(make_model(sequence='bilstm', aggregation='attention'), inputs)
    assert both['sequence_lstm'] == 2 * 16 * (7 + 4 + 1)
    # Of [h, p]: twice four states and one probability.
    assert both['attention_hidden'] == 9 * 4 + 4
    assert both['attention'] == 4 + 1
    assert both['series_logit'] == 9 + 1


def test_the_families_of_the_ensemble_differ_as_the_paper_says():
    inputs = make_inputs(np.ones((1, 2)))
    layers = {name: set(count(make_model(**f), inputs)) for name, f in FAMILIES.items()}
    assert layers == {
        'sequence_lstm': {'conv1_1', 'conv1_2', 'sequence_lstm', 'patch_logits'},
        'sequence_max': {'conv1_1', 'conv1_2', 'patch_logits'},
        'shallow': {'conv1_1', 'patch_logits'},
    }


def spread_out(inputs, places, count):
    """The same patches at other places of more, which hold anything."""
    spread = make_inputs(np.zeros((len(places), count)), seed=1)
    spread['patches'] *= 1e6
    spread['patches'][-1] = spread['position'][-1] = np.nan
    for (row, i), name in itertools.product(zip(*inputs['mask'].nonzero()), inputs):
        spread[name][row, places[row][i]] = inputs[name][row, i]
    return spread


def check_same(spread, plain, inputs, places):
    (far, *far_others), (outputs, *others) = spread, plain
    close((far['series'], *far_others), (outputs['series'], *others), 1e-6)
    for row, i in zip(*inputs['mask'].nonzero()):
        close(far['patches'][row, places[row][i]], outputs['patches'][row, i], 1e-6)


@pytest.mark.parametrize('sequence', SEQUENCES)
@pytest.mark.parametrize('position', [True, False])
def test_all_combinations_are_finite_and_blind_to_fillers(sequence, position):
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]], np.float32)
    inputs = make_inputs(mask)
    places = [[1, 3], [0, 2, 3], []]
    spread = spread_out(inputs, places, 4)
    models = {
        aggregation: make_model(
            sequence=sequence, position=position, aggregation=aggregation,
            dropout=0.3, batch_norm=position, residual=position,
            projection=5 * position)
        for aggregation in AGGREGATIONS
    }
    variables = {name: variables_of(model, inputs) for name, model in models.items()}
    plain, moved = run(models, variables, inputs, spread, train=True)
    for name in models:
        outputs, _, grads = plain[name]
        for leaf in jax.tree.leaves(plain[name]):
            assert np.isfinite(leaf).all()
        assert any(np.abs(x).max() > 0 for x in jax.tree.leaves(grads))
        check_same(moved[name], plain[name], inputs, places)
        np.testing.assert_array_equal(outputs['patches'][mask == 0], 0)
        assert outputs['series'][2] == 0
        assert {x.dtype for x in outputs.values()} == {jnp.dtype('float32')}


def test_more_fillers_change_nothing():
    inputs = make_inputs([[1, 1, 0, 0], [1, 1, 1, 0]])
    places = [[0, 3], [1, 2, 5]]
    spread = spread_out(inputs, places, 6)
    model = make_model(
        sequence='bilstm', aggregation='smoothed_max', dropout=0.3, batch_norm=True)
    variables = variables_of(model, inputs)
    few, many = (run(model, variables, x, train=True) for x in (inputs, spread))
    check_same(many, few, inputs, places)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def read(x, kernel, recurrent, bias):
    """States of an LSTM, item by item."""
    h = c = np.zeros(len(recurrent))
    for item in x:
        i, f, g, o = np.split(item @ kernel + h @ recurrent + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        yield h


def test_lstm_is_a_loop_over_the_items_that_are_there():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 3)).astype(np.float32)
    mask = np.array([[1, 1, 1, 1, 0], [1, 0, 1, 0, 1]], bool)
    lstm = patch_sequence.MaskedLSTM(
        4, 2, jnp.float32, jax.nn.initializers.glorot_uniform())
    params = jax.jit(lstm.init)(jax.random.key(0), x, mask)['params']
    for way in '01':  # the forget gate starts open
        np.testing.assert_array_equal(
            params['bias' + way].reshape(4, 4), [[0] * 4, [1] * 4, [0] * 4, [0] * 4])
    params = jax.tree.map(
        lambda p: rng.normal(size=p.shape).astype(np.float32), params)
    every, last = jax.jit(lstm.apply)({'params': params}, x, mask)
    assert every.shape == (2, 5, 8) and last.shape == (2, 8)
    for row in range(2):
        items = x[row][mask[row]]
        names = 'kernel', 'recurrent', 'bias'
        there, back = (
            [params[f'{name}{way}'] for name in names] for way in (0, 1))
        forth = list(read(items, *there))
        back = list(read(items[::-1], *back))[::-1]
        expected = np.concatenate([forth, back], axis=1)
        np.testing.assert_allclose(every[row][mask[row]], expected, atol=1e-5)
        np.testing.assert_allclose(
            last[row], np.concatenate([forth[-1], back[0]]), atol=1e-5)


def test_max_filter_scores_a_patch_by_its_surroundings():
    logits = jnp.array([[-1.0, -4.0, -3.0, -2.0, 9.0]])
    mask = jnp.array([[True, True, True, True, False]])
    filtered = patch_sequence.max_filter(logits, mask, window=3)
    np.testing.assert_array_equal(filtered[0, :4], [-1, -1, -2, -2])
    alone = patch_sequence.max_filter(logits, mask, window=1)
    np.testing.assert_array_equal(alone[0, :4], logits[0, :4])
    wide = patch_sequence.max_filter(logits, mask, window=9)
    np.testing.assert_array_equal(wide[0, :4], [-1] * 4)


def logit(p):
    return np.log(p) - np.log1p(-p)


def test_smoothed_and_mean_logits_are_those_of_mean_probabilities():
    p = np.array([[0.9, 0.2, 0.1, 0.4, 0.99]])
    mask = jnp.array([[True, True, True, True, False]])
    logits = jnp.array(logit(p), jnp.float32)
    smooth = patch_sequence.smooth_filter(logits, mask, window=3)
    means = np.array([0.55, 0.4, 0.7 / 3, 0.25])
    np.testing.assert_allclose(smooth[0, :4], logit(means), atol=1e-5)
    mean = patch_sequence.mean_logit(logits, mask)
    np.testing.assert_allclose(mean, logit(np.array([0.4])), atol=1e-5)


def test_mean_logits_are_sound_where_probabilities_round_to_0_and_1():
    mask = jnp.ones((2, 2), bool)
    logits = jnp.array([[-300.0, -300.0], [300.0, 300.0]])
    values, grads = jax.value_and_grad(
        lambda x: patch_sequence.mean_logit(x, mask).sum())(logits)
    means = patch_sequence.mean_logit(logits, mask)
    np.testing.assert_allclose(means, [-300, 300], rtol=1e-6)
    np.testing.assert_allclose(grads, np.full((2, 2), 0.5), rtol=1e-5)
    # One of two is sure: the mean is 1/2.
    np.testing.assert_allclose(
        patch_sequence.mean_logit(jnp.array([-300.0, 300.0]), mask[0]), 0, atol=1e-5)


def test_the_logit_of_any_is_sound_where_probabilities_round_to_0_and_1():
    mask = jnp.ones(3, bool)
    for logits, expected, shares in (
        ([-200.0, -200.0, -300.0], -200 + np.log(2), [1 / 2, 1 / 2, 0]),
        ([-16.0, -16.0, -16.0], -16 + np.log(3), [1 / 3] * 3),
        ([-13.0, -13.0, -13.0], -13 + np.log(3), [1 / 3] * 3),
        ([0.0, -300.0, 0.0], np.log(3), [2 / 3, 0, 2 / 3]),
        ([90.0, -300.0, 10.0], 100, [1, 0, 1]),
        ([300.0, 300.0, -300.0], 600, [1, 1, 0]),
    ):
        value, grad = jax.value_and_grad(patch_sequence.any_logit)(
            jnp.array(logits), mask)
        np.testing.assert_allclose(value, expected, rtol=2e-6)
        np.testing.assert_allclose(grad, shares, rtol=1e-4, atol=1e-6)
    nothing = jax.value_and_grad(patch_sequence.any_logit)(jnp.ones(3), ~mask)
    np.testing.assert_array_equal(nothing[0], 0)
    np.testing.assert_array_equal(nothing[1], np.zeros(3))


def test_aggregations_without_parameters_follow_from_the_patch_logits():
    inputs = make_inputs([[1, 1, 0, 1, 1]])
    models = [make_model(aggregation=x) for x in (
        'max', 'mean', 'smoothed_max', 'noisy_or')]
    models.append(make_model(sequence='max'))
    variables = variables_of(models[0], inputs)
    plain, mean, smooth, either, filtered = compiled(
        lambda x: [m.apply(variables, x, train=False) for m in models], inputs)(inputs)
    p = sigmoid(np.asarray(plain['patches'][0, [0, 1, 3, 4]], np.float64))
    for outputs, expected in (
        (plain, p.max()),
        (mean, p.mean()),
        (smooth, max(p[:2].mean(), p[:3].mean(), p[1:].mean(), p[2:].mean())),
        (either, 1 - np.prod(1 - p)),
        (filtered, p.max()),
    ):
        np.testing.assert_allclose(outputs['series'], [logit(expected)], rtol=1e-5)
    np.testing.assert_allclose(
        sigmoid(filtered['patches'][0, [0, 1, 3, 4]]),
        [p[:2].max(), p[:3].max(), p[1:].max(), p[2:].max()], rtol=1e-5)


def test_an_lstm_looks_back_only_and_a_bilstm_both_ways():
    inputs = make_inputs([[1, 1, 1, 1]])
    other = {name: x.copy() for name, x in inputs.items()}
    other['patches'][:, 2] += 1.0
    for sequence, seen in (
        ('none', [2]), ('lstm', [2, 3]), ('bilstm', [0, 1, 2, 3])
    ):
        model = make_model(sequence=sequence)
        variables = variables_of(model, inputs)
        first, second = (
            outputs['patches'][0]
            for outputs in predict(model, variables, inputs, other))
        assert np.nonzero(np.abs(first - second) > 1e-7)[0].tolist() == seen


def test_the_position_tells_equal_patches_apart():
    inputs = make_inputs([[1, 1]])
    inputs['patches'][:, 1] = inputs['patches'][:, 0]
    for position in (True, False):
        model = make_model(position=position)
        first, second = predict(
            model, variables_of(model, inputs), inputs)['patches'][0]
        assert (first != second) == position


def test_a_result_does_not_depend_on_the_number_of_devices(devices):
    mask = np.ones((4, 3), np.float32)
    mask[1, 1:] = mask[2] = 0
    inputs = make_inputs(mask)
    options = dict(
        batch_norm=True, dropout=0.3, sequence='lstm', aggregation='attention')
    variables = variables_of(make_model(**options), inputs)

    def apply(inputs, axis_name=None):
        model = make_model(**options, axis_name=axis_name)
        return model.apply(
            variables, inputs, train=True, rngs={'dropout': jax.random.key(5)},
            mutable=['batch_stats'])

    outputs, changed = compiled(apply, inputs)(inputs)
    shared, shared_changed = jax.pmap(
        lambda inputs: apply(inputs, 'devices'), axis_name='devices'
    )({name: x[:, None] for name, x in inputs.items()})
    close({name: x[:, 0] for name, x in shared.items()}, outputs, 1e-5)
    close(jax.tree.map(lambda x: x[0], shared_changed), changed, 1e-5)


def test_a_result_does_not_depend_on_the_rest_of_its_batch():
    inputs = make_inputs([[1, 1, 1], [1, 0, 0], [1, 1, 0]])
    model = make_model(batch_norm=True, sequence='bilstm', aggregation='lstm')
    variables = variables_of(model, inputs)
    alone, together = (
        predict(model, variables, x)
        for x in ({name: x[1:2] for name, x in inputs.items()}, inputs))
    close(alone, {name: x[1:2] for name, x in together.items()}, 1e-6)


def test_rows_keep_their_order_and_nothing_of_where_in_them():
    inputs = make_inputs([[1, 1]], size=(4, 4, 4))
    model = make_model(representation='rows', position=False)
    variables = variables_of(model, inputs)
    assert variables['params']['patch_logits']['kernel'].shape == (2 * 3, 1)
    spot = np.zeros((1, 2, 16, 24, 8, 1), np.float32)
    spot[:, :, 4:6, 6:8, 2:4] = 1.0
    model = make_model(representation='rows', position=False, widths=(3, 4))

    def logits(patches):
        mask = np.ones((1, 2), np.float32)
        x = {'patches': patches, 'mask': mask, 'position': mask * 0}
        return np.asarray(predict(model, variables, x)['patches'])[0, 0]

    variables = variables_of(model, {
        'patches': spot, 'mask': np.ones((1, 2), np.float32),
        'position': np.zeros((1, 2), np.float32)})
    aside, below = np.roll(spot, 8, axis=3), np.roll(spot, 4, axis=2)
    np.testing.assert_allclose(logits(aside), logits(spot), atol=1e-6)
    assert abs(logits(below) - logits(spot)) > 1e-4


def test_bfloat16_gives_float32_logits_near_those_of_float32():
    inputs = make_inputs([[1, 1, 1, 0]])
    options = dict(
        sequence='bilstm', aggregation='lstm', batch_norm=True, representation='max')
    variables = variables_of(make_model(**options), inputs)
    exact = predict(make_model(**options), variables, inputs)
    half = predict(make_model(dtype=jnp.bfloat16, **options), variables, inputs)
    assert {x.dtype for x in half.values()} == {jnp.dtype('float32')}
    close(half, exact, 0.05)


@pytest.mark.parametrize(
    'options, reason',
    [
        ({'sequence': 'gru'}, "'gru' is none of none, max, lstm, bilstm"),
        ({'aggregation': 'sum'}, "'sum' is none of"),
        ({'representation': 'first'}, "'first' is none of"),
        ({'initialisation': 'zeros'}, "'zeros' is none of"),
        ({'window': 2}, 'must be odd and positive, got 2'),
        ({'spread': 0.0}, 'spread: must be positive'),
        ({'projection': -1}, 'projection: must not be negative, got -1'),
        ({'standardised': True, 'batch_norm': True}, 'standardised: is in place of'),
        ({'widths': (2, 2)}, '4 x 2 x 2 is too small: 2 poolings need 4 voxels'),
    ],
)
def test_options_that_do_not_exist_are_said(options, reason):
    with pytest.raises(ConfigError, match=reason):
        count(make_model(**options), make_inputs([[1]]))


def test_one_batch_is_learned_by_heart():
    inputs = make_inputs([[1, 1, 1, 0], [1, 1, 1, 1]], size=(4, 4, 4))
    inputs['patches'][1, 2, :2] *= 0.3  # half of it collapsed
    series = np.array([0.0, 1.0])
    patches = np.zeros((2, 4))
    patches[1, 2] = 1
    model = make_model(widths=(8,), sequence='bilstm', hidden=8)
    params = jax.jit(lambda key: model.init(key, inputs, train=False))(
        jax.random.key(0))
    optimizer = optax.adam(3e-2)

    def loss(params):
        outputs = model.apply(params, inputs, train=True)
        cross_entropy = optax.sigmoid_binary_cross_entropy
        by_patch = cross_entropy(outputs['patches'], patches) * inputs['mask']
        return (cross_entropy(outputs['series'], series).mean()
                + by_patch.sum() / inputs['mask'].sum()), outputs

    def step(params, state):
        (value, outputs), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, value, outputs

    state, losses = optimizer.init(params), []
    step = compiled(step, params, state)
    for _ in range(100):
        params, state, value, outputs = step(params, state)
        losses.append(float(value))
    assert losses[0] > 0.5 and losses[-1] < 0.02
    assert ((outputs['series'] > 0) == series).all()
    assert ((outputs['patches'] > 0) == patches).all()
