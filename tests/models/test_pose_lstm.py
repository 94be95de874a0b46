"""The model of movements: the paper's sizes, its options, and blind to fillers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmed.errors import ConfigError
from jaxmed.models.pose_lstm import DEVIATIONS, PoseLSTM, _windows
from tests.models.trees import close, computed

PAPER = dict(
    embedding=193, cell='lstm', hidden=193, layers=1, bidirectional=False,
    convolutions=0, width=5, stride=2, norm='none', pooling='last', dense=193,
    dropout=0.0, slope=0.01, likelihood='point', first_index=0.3,
)
# Every option is in one of them at least.
MODELS = {
    'paper': {},
    'gaussian': dict(likelihood='gaussian', layers=2, cell='gru', dropout=0.3),
    'both ways': dict(
        bidirectional=True, pooling='statistics', convolutions=2, norm='layer',
        embedding_dropout=0.2, recurrent_dropout=0.2),
    'attention': dict(pooling='attention', cell='rnn', embedding=0, bidirectional=True),
    'pooled frames': dict(cell='none', pooling='mean', norm='batch', dense=0),
    'last frame': dict(
        cell='none', pooling='last', convolutions=1, residual=False, width=3),
}


def make_model(**options):
    # A slope that lets a test see what is below 0.
    small = dict(PAPER, embedding=5, hidden=4, dense=3, slope=0.5)
    return PoseLSTM(**{
        **small, 'dtype': jnp.float32, 'axis_name': None, **options})


def make_inputs(lengths, steps, *, features=6, context=2, seed=0):
    """Each movement is the same whatever stands beside and behind it; fillers are NaN.
    """
    mask = (np.arange(steps) < np.array(lengths)[:, None]).astype(np.float32)
    values = np.full((*mask.shape, features), np.nan, np.float32)
    for row, length in enumerate(lengths):
        rng = np.random.default_rng([seed, row])
        values[row, :length] = rng.random((length, features))
    rng = np.random.default_rng(seed)
    return {'features': values, 'mask': mask,
            'context': rng.random((len(lengths), context)).astype(np.float32)}


def shapes_of(model, inputs):
    return jax.eval_shape(lambda: model.init(jax.random.key(0), inputs, train=False))


def variables_of(model, inputs, scale=0.5):
    rng = np.random.default_rng(1)
    shapes = shapes_of(model, inputs)
    variables = {'params': jax.tree.map(
        lambda x: (scale * rng.normal(size=x.shape)).astype(np.float32),
        shapes['params'])}
    variables['limits'] = {
        'low': -np.ones(shapes['limits']['low'].shape, np.float32),
        'high': np.ones(shapes['limits']['high'].shape, np.float32)}
    if 'batch_stats' in shapes:
        variables['batch_stats'] = jax.tree.map(
            lambda x: np.ones(x.shape, np.float32), shapes['batch_stats'])
    return variables


def run(model, variables, inputs, *, train):
    """Outputs, and gradients of their sum of squares by the parameters."""

    def loss(params, inputs):
        outputs, _ = model.apply(
            {**variables, 'params': params}, inputs, train=train,
            rngs={'dropout': jax.random.key(2)}, mutable=['batch_stats'])
        return (outputs ** 2).sum(), outputs

    grads, outputs = computed(
        jax.grad(loss, has_aux=True), variables['params'], inputs)
    return outputs, grads


@pytest.mark.parametrize('features, context, total', [
    (193, 0, 373_842), (99, 0, 355_700), (99, 4, 355_700 + 2 * 4 * 193)])
def test_the_papers_network_has_the_parameters_of_its_table(features, context, total):
    inputs = make_inputs([2], 2, features=features, context=context)
    model = PoseLSTM(**PAPER, dtype=jnp.float32, axis_name=None)
    shapes = shapes_of(model, inputs)
    counts = {
        name: sum(x.size for x in jax.tree.leaves(layer))
        for name, layer in shapes['params'].items()
    }
    assert counts == {
        'embedding': 193 * (features + context + 1),
        'cell1': 4 * 193 * (193 + 193 + 1),
        'dense': 193 * (193 + context + 1),
        'index': 193 + 1,
    }
    assert sum(counts.values()) == total
    assert shapes['limits']['low'].shape == (features,)


def test_options_shape_the_network():
    inputs = make_inputs([4], 4)

    def counts(**options):
        params = shapes_of(make_model(**options), inputs)['params']
        return {
            name: sum(x.size for x in jax.tree.leaves(layer))
            for name, layer in params.items()
        }

    assert counts(cell='none', embedding=0) == {  # of 6 features and 2 of context
        'dense': 3 * (8 + 2 + 1), 'index': 3 + 1}
    both = counts(
        bidirectional=True, layers=2, pooling='statistics', convolutions=1,
        norm='layer', likelihood='gaussian')
    assert both['convolution1'] == 5 * (5 * 5 + 1)  # five frames of five units
    assert both['norm0'] == both['norm1'] == 2 * 5
    assert both['cell1'] == 2 * 4 * 4 * (5 + 4 + 1)
    assert both['cell2'] == 2 * 4 * 4 * (2 * 4 + 4 + 1)
    assert both['dense'] == 3 * (3 * 2 * 4 + 2 + 1)
    assert both['index'] == 2 * (3 + 1)
    seen = counts(cell='gru', pooling='attention', dense=0)
    assert seen['cell1'] == 3 * 4 * (5 + 4 + 1) + 4
    assert seen['attention_hidden'] == 4 * (4 + 1)
    assert seen['attention'] == 4 + 1
    assert seen['index'] == 4 + 2 + 1


@pytest.mark.parametrize('name', MODELS)
def test_all_options_are_finite_and_blind_to_fillers(name):
    model = make_model(**MODELS[name])
    few, many = make_inputs([1, 7, 5, 0], 7), make_inputs([1, 7, 5, 0], 12)
    variables = variables_of(model, few)
    outputs, grads = run(model, variables, few, train=True)
    assert outputs.shape == (4, 1 + (name == 'gaussian'))
    for leaf in jax.tree.leaves((outputs, grads)):
        assert np.isfinite(leaf).all() and leaf.dtype == np.float32
    assert any(np.abs(x).max() > 0 for x in jax.tree.leaves(grads))
    longer, longer_grads = run(model, variables, many, train=True)
    close(longer, outputs)
    close(longer_grads, grads)
    together = computed(lambda x: model.apply(variables, x, train=False), few)
    one = {key: value[1:2] for key, value in few.items()}
    alone = computed(lambda x: model.apply(variables, x, train=False), one)
    close(alone, together[1:2])


def test_features_are_scaled_by_the_limits_and_no_landmark_jumps_far():
    model = make_model(cell='none', embedding=0, dense=0, pooling='mean', slope=1.0)
    inputs = {
        'features': np.array([[[10.0, 3.0, 7.0], [20.0, 5.0, 9.0]]], np.float32),
        'mask': np.ones((1, 2), np.float32), 'context': np.array([[8.0]], np.float32),
    }
    kernel = np.array([[1.0], [10.0], [100.0], [0.0], [1000.0]], np.float32)
    variables = {
        'params': {'index': {'kernel': kernel, 'bias': np.zeros(1, np.float32)}},
        'limits': {'low': np.array([0.0, 4.0, 7.0], np.float32),
                   'high': np.array([10.0, 6.0, 7.0], np.float32)},
    }
    # (1 + 2) / 2, as 3 is too far; (-2 + 0) / 2; 0, as its limits are one.
    outputs = model.apply(variables, inputs, train=False)
    np.testing.assert_allclose(outputs, [[1.5 - 10 + 8000]])
    changed = model.apply(
        variables, inputs, train=True, mutable=['limits', 'batch_stats'])[1]
    np.testing.assert_array_equal(changed['limits']['low'], [0, 4, 7])


def test_training_begins_at_the_first_index():
    inputs = make_inputs([9, 30, 0], 30)
    for likelihood in ('point', 'gaussian'):
        model = make_model(likelihood=likelihood, embedding=32, hidden=32, dense=32)
        outputs = computed(lambda key: model.apply(
            model.init(key, inputs, train=False), inputs, train=False),
            jax.random.key(0))
        np.testing.assert_allclose(outputs[:, 0], 0.3, atol=0.05)
    np.testing.assert_allclose(outputs[:, 1], math.log(0.1), atol=0.1)


def test_an_index_leaks_below_zero_and_a_deviation_stays_in_its_bounds():
    model = make_model(
        cell='none', embedding=0, dense=0, likelihood='gaussian', slope=0.01)
    inputs = make_inputs([1], 1, features=1, context=1)
    for bias, expected in ((-2.0, [-0.02, DEVIATIONS[0]]), (2.0, [2.0, DEVIATIONS[1]])):
        variables = {
            'params': {'index': {
                'kernel': np.zeros((3, 2), np.float32),
                'bias': np.array([bias, 50 * bias], np.float32)}},
            'limits': {'low': np.zeros(1), 'high': np.ones(1)},
        }
        outputs = model.apply(variables, inputs, train=False)
        found = [outputs[0, 0], np.exp(outputs[0, 1])]
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_pooling_is_over_the_real_frames():
    inputs = make_inputs([3], 5, features=2, context=0)
    frames = inputs['features'][0, :3]
    for pooling, expected in (
        ('last', frames[2]), ('mean', frames.mean(axis=0)),
        ('mean_max', [*frames.mean(axis=0), *frames.max(axis=0)]),
        ('statistics', [
            *frames.mean(axis=0), *frames.max(axis=0), *frames.std(axis=0)]),
    ):
        model = make_model(
            cell='none', embedding=0, dense=0, pooling=pooling, slope=1.0)
        variables = variables_of(model, inputs)
        weights = variables['params']['index']
        np.testing.assert_allclose(
            model.apply(variables, inputs, train=False)[0],
            np.array(expected) @ weights['kernel'] + weights['bias'], rtol=1e-5)


def test_both_directions_read_from_their_own_end():
    model = make_model(bidirectional=True)
    inputs = make_inputs([4], 6, features=2, context=0)
    variables = variables_of(model, inputs)
    turned = {**inputs, 'features': np.concatenate(
        [inputs['features'][:, 3::-1], inputs['features'][:, 4:]], axis=1)}
    swapped = jax.tree.map(np.copy, variables)
    for name in ('kernel', 'recurrent', 'bias'):
        for way, other in ('01', '10'):
            swapped['params']['cell1'][name + way] = (
                variables['params']['cell1'][name + other])
    kernel = variables['params']['dense']['kernel']
    swapped['params']['dense']['kernel'] = np.concatenate([kernel[4:], kernel[:4]])
    outputs, expected = (
        computed(lambda x: model.apply(v, x, train=False), x)
        for v, x in ((swapped, turned), (variables, inputs)))
    close(outputs, expected)
    assert np.abs(
        computed(lambda x: model.apply(variables, x, train=False), turned) - expected
    ).max() > 1e-3


def test_a_convolution_is_a_product_with_the_frames_around():
    x, kernel = np.random.default_rng(0).normal(size=(7, 2, 3)), np.arange(45) / 9
    kernel = kernel.reshape(5, 3, 3)
    for stride in (1, 2, 3):
        found = _windows(jnp.asarray(x), 5, stride) @ kernel.reshape(15, 3)
        expected = np.stack([
            np.convolve(x[:, b, c], kernel[::-1, c, d], 'same')[::stride]
            for b in range(2) for d in range(3) for c in range(3)
        ]).reshape(2, 3, 3, -1).sum(axis=2).transpose(2, 0, 1)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_dropout_drops_in_training_only_and_one_unit_in_all_frames():
    inputs = make_inputs([40] * 8, 40, features=50, context=0)
    inputs['features'][:] = 1
    model = make_model(
        cell='none', embedding=0, dense=0, pooling='mean_max', slope=1.0,
        embedding_dropout=0.5)
    variables = variables_of(model, inputs)
    weights = variables['params']['index']
    weights['kernel'][:] = np.repeat([[-1.0], [1.0]], 50, axis=0)  # maximum - mean
    weights['bias'][:] = 0
    for train in (True, False):
        outputs, _ = run(model, variables, inputs, train=train)
        np.testing.assert_allclose(outputs, np.zeros((8, 1)), atol=1e-5)
    weights['kernel'][50:] = 0
    outputs, _ = run(model, variables, inputs, train=True)
    assert len(set(outputs[:, 0].tolist())) > 2  # each example has its own
    assert (outputs % 2 == 0).all()  # what is kept is doubled


def test_bfloat16_is_close_and_gives_float32():
    inputs = make_inputs([12, 9], 12)
    for name, options in MODELS.items():
        models = [make_model(**options, dtype=t) for t in (jnp.bfloat16, jnp.float32)]
        variables = variables_of(models[0], inputs, scale=0.3)
        outputs, expected = computed(
            lambda x: [m.apply(variables, x, train=False) for m in models], inputs)
        assert outputs.dtype == jnp.float32
        close(outputs, expected, 0.05)


def test_long_movements_have_finite_gradients():
    inputs = make_inputs([500, 3], 500)
    model = make_model(bidirectional=True)
    for leaf in jax.tree.leaves(
        run(model, variables_of(model, inputs, scale=2.0), inputs, train=True)
    ):
        assert np.isfinite(leaf).all()


def test_the_papers_layers_learn_a_few_movements_by_heart():
    inputs = make_inputs([20] * 8, 20, context=0)
    targets = np.linspace(0, 1, 8, dtype=np.float32)[:, None]
    model = make_model(embedding=16, hidden=16, dense=16, first_index=0.5)
    tx = optax.adam(1e-2)

    def train(key):
        variables = model.init(key, inputs, train=False)

        def update(state, _):
            params, opt_state = state
            value, grads = jax.value_and_grad(lambda p: jnp.abs(model.apply(
                {**variables, 'params': p}, inputs, train=True) - targets).mean()
            )(params)
            updates, opt_state = tx.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), value

        params = variables['params']
        return jax.lax.scan(update, (params, tx.init(params)), length=300)[1]

    errors = jax.jit(train)(jax.random.key(0))
    assert errors[0] > 0.2 and errors[-1] < 0.03


def test_the_rival_in_pytorch_is_the_same_network():
    torch = pytest.importorskip('torch')
    from launch.benchmarks import torch_pose_lstm

    inputs = make_inputs([9, 4], 9)
    inputs['features'] = np.nan_to_num(inputs['features'])
    for options in (
        {}, dict(bidirectional=True, pooling='mean_max', convolutions=2, norm='layer'),
        dict(cell='gru', pooling='attention', likelihood='gaussian', layers=2),
        dict(cell='none', embedding=0, dense=0),
    ):
        model = make_model(**options)
        variables = variables_of(model, inputs)
        rival = torch_pose_lstm.build(
            {**PAPER, 'embedding': 5, 'hidden': 4, 'dense': 3, 'slope': 0.5, **options},
            features=6, context=2)
        load(rival, variables['params'], torch)
        expected = rival(*(torch.from_numpy(inputs[name]) for name in (
            'features', 'mask', 'context')))
        outputs = computed(lambda x: model.apply(variables, x, train=False), inputs)
        close(outputs, expected.detach().numpy())


def load(rival, params, torch):
    """Gives the PyTorch module jaxmed's parameters; all of either must be used."""
    left = dict(rival.named_parameters())

    def put(name, value):
        with torch.no_grad():
            left.pop(name).copy_(torch.from_numpy(np.array(value)))

    for name, layer in params.items():
        number = int(name[-1]) if name[-1].isdigit() else None
        if name.startswith('cell'):
            for key, value in layer.items():
                suffix = f'_l{number - 1}' + '_reverse' * (key[-1] == '1')
                if key.startswith('kernel'):
                    put('cell.weight_ih' + suffix, value.T)
                elif key.startswith('recurrent_bias'):
                    put('cell.bias_hh' + suffix, np.pad(value, (2 * len(value), 0)))
                elif key.startswith('recurrent'):
                    put('cell.weight_hh' + suffix, value.T)
                else:
                    put('cell.bias_ih' + suffix, value)
        elif name.startswith('norm'):
            put(f'norms.{number}.weight', layer['scale'])
            put(f'norms.{number}.bias', layer['bias'])
        elif name.startswith('convolution'):
            kernel = layer['kernel'].reshape(5, -1, layer['kernel'].shape[-1])
            put(f'convolutions.{number - 1}.weight', kernel.transpose(2, 1, 0))
            put(f'convolutions.{number - 1}.bias', layer['bias'])
        else:
            put(f'{name}.weight', layer['kernel'].T)
            put(f'{name}.bias', layer['bias'])
    for name in list(left):  # a second bias, which jaxmed leaves out
        assert 'bias_hh' in name
        put(name, np.zeros(left[name].shape, np.float32))


@pytest.mark.parametrize('field, value', [
    ('cell', 'transformer'), ('pooling', 'max'), ('likelihood', 'laplace'),
    ('norm', 'group'), ('width', 4), ('hidden', 0), ('dropout', 1.0),
])
def test_an_option_out_of_range_is_named(field, value):
    with pytest.raises(ConfigError, match=f'^{field}: .*{value}'):
        shapes_of(make_model(**{field: value}), make_inputs([2], 2))


def test_convolutions_need_an_embedding():
    with pytest.raises(ConfigError, match='convolutions'):
        shapes_of(make_model(convolutions=1, embedding=0), make_inputs([2], 2))
