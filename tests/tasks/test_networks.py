"""Each network as the trainer runs it: it learns, on however many devices."""

import importlib

import jax
import numpy as np
import optax
import pytest

from configs import spine_health_lstm, white_blood_cell_unet
from jaxmed import runs, train
from jaxmed.data import pipeline


def make_unet_task():
    """A small U-Net with all that makes an update depend on its batch: batch norm,
    dropout, augmentation.
    """
    config = white_blood_cell_unet.get_config('strong').to_dict()
    config['task'] |= dict(widths=(4, 8), tile=32, overlap_px=16, dropout=0.3)
    return runs.make_task(config, axis_name=train.AXIS)


def make_task(network, side, options):
    """Of a network's own config, but for small images, no dropout, no augmentation."""
    config = importlib.import_module(f'configs.chest_xray_{network}').get_config()
    config = config.to_dict()
    config['task'] |= dict(
        store_px=side, input_px=side, dropout=0.0, mirror=False,
        options=config['task']['options'] | options,
    )
    return runs.make_task(config, axis_name=train.AXIS)


def make_movement_task():
    """A small sequence model with all of its randomness: of four kinds of dropout,
    batch norm over frames that are there, and every augmentation.
    """
    config = spine_health_lstm.get_config('strong').to_dict()
    # Two exercises of four people, one window each: eight examples.
    config['task'] |= dict(
        exercises=('walk', 'jump'), span='whole', frames=12, stride=12, mirror=True,
        turn_deg=15.0, warp=0.3, noise=0.05, forget=0.5, loss='gaussian',
        model=config['task']['model'] | dict(
            embedding=6, hidden=5, dense=4, convolutions=1, norm='batch',
            bidirectional=False, dropout=0.3, embedding_dropout=0.3,
            recurrent_dropout=0.3, likelihood='gaussian'))
    return runs.make_task(config, axis_name=train.AXIS)


@pytest.mark.parametrize('network, side, options, learning_rate', [
    ('alexnet', 64, {'head_width': 256}, 3e-4),
    ('vgg11', 32, {'head_width': 256}, 3e-4),
    ('resnet50', 32, {}, 1e-3),
    ('cnn', 64, {'widths': (16, 32, 64)}, 1e-2),
])
def test_a_batch_of_32_is_learned_by_heart(network, side, options, learning_rate):
    task = make_task(network, side, options)
    batch = pipeline.stack(list(task.phantoms(count=32, seed=0)))
    batch = pipeline.shard(batch, devices=1)
    tx = optax.with_extra_args_support(optax.adam(learning_rate))
    state = train.init_state(task, tx, seed=0)
    step = train.compile_step(train.make_train_step(task, tx), pmap=False)
    losses = [np.inf]
    while losses[-1] >= 0.01 and len(losses) <= 60:
        state, scalars = step(state, batch, jax.random.key(1))
        losses.append(float(scalars['loss']))
    assert losses[-1] < 0.01, losses


@pytest.mark.parametrize('task', [
    make_unet_task(), make_task('alexnet', 64, {'head_width': 32}),
    make_task('vgg11', 32, {'head_width': 32}),
    # One block a stage: the same parts, compiled in a fifth of the time.
    make_task('resnet50', 64, {'blocks': (1, 1, 1, 1)}),
    make_task('cnn', 32, {'widths': (8, 16)}), make_movement_task(),
], ids=['unet', 'alexnet', 'vgg11', 'resnet50', 'cnn', 'movement'])
def test_updates_agree_on_1_2_and_4_devices(task):
    host = pipeline.stack(list(task.phantoms(count=8, seed=0)))
    host['mask'][5:] = 0  # a ragged batch: the last device has fillers only
    # Not Adam: it divides by the gradient's size, also where that is rounding.
    tx = optax.with_extra_args_support(optax.sgd(1e-2))
    first = jax.device_get(train.init_state(task, tx, seed=0))
    updates, losses = {}, {}
    for devices in (1, 2, 4):
        step = train.compile_step(train.make_train_step(task, tx), pmap=True)
        state, scalars = step(
            first, pipeline.shard(host, devices=devices), jax.random.key(1)
        )
        losses[devices] = float(scalars['loss'])
        updates[devices] = jax.tree.map(
            np.subtract, jax.device_get((state.params, state.model_state)),
            (first.params, first.model_state),
        )
    size = float(optax.tree.norm(updates[1]))
    assert size > 0
    for devices in (2, 4):
        np.testing.assert_allclose(losses[devices], losses[1], rtol=1e-5)
        apart = jax.tree.map(np.subtract, updates[devices], updates[1])
        assert float(optax.tree.norm(apart)) < 1e-3 * size
