"""The update does not care about devices, masks, kills or who watches."""

import functools
import itertools
import threading
import time

import jax
import numpy as np
import optax
import pytest

from jaxmed import optimizers, train
from jaxmed.checkpoint import Checkpoints
from jaxmed.data import pipeline
from jaxmed.errors import CheckpointError, ConfigError

# 8 examples; a ragged last batch leaves fillers on the last devices only.
MASKS = [[1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]]


class Silent:
    def start(self, step, steps):
        pass

    def begun(self):
        pass

    def point(self, point, **rates):
        pass

    def pictures(self, step, rows):
        pass

    def close(self):
        pass


def make_batch(examples, mask, devices):
    batch = pipeline.stack([examples(8)[place] for place in range(8)])
    batch['mask'] = np.array(mask, np.float32)
    batch['targets'][batch['mask'] == 0] = 1e6  # a filler's loss must not leak
    return pipeline.shard(batch, devices=devices)


@pytest.fixture(scope='module')
def three_updates(toy_task):
    """(examples, devices, mask, pmap=) -> the state after them; compiled once each."""
    task = toy_task(dropout=0.5)
    tx = optax.with_extra_args_support(optax.adam(1e-2))
    compile_step = functools.cache(functools.partial(
        train.compile_step, train.make_train_step(task, tx)
    ))

    def update(examples, devices, mask, *, pmap):
        state = train.init_state(task, tx, seed=0)
        for _ in range(3):
            state, scalars = compile_step(pmap=pmap)(
                state, make_batch(examples, mask, devices), jax.random.key(1)
            )
        return jax.device_get((state.params, state.model_state, scalars))

    return update


@pytest.mark.parametrize('mask', MASKS)
@pytest.mark.parametrize('devices', [2, 4])
@pytest.mark.parametrize('pmap', [False, True])
def test_update_does_not_depend_on_how_many_devices_share_the_batch(
    three_updates, examples, devices, mask, pmap
):
    one = three_updates(examples, 1, mask, pmap=False)
    many = three_updates(examples, devices, mask, pmap=pmap)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), one, many
    )


def test_loss_is_the_mean_over_the_real_examples(toy_task, examples):
    task = toy_task(augment=False)
    tx = optax.with_extra_args_support(optax.sgd(0.0))
    state = train.init_state(task, tx, seed=0)
    step = train.compile_step(train.make_train_step(task, tx), pmap=False)
    batch = make_batch(examples, MASKS[1], 2)
    variables = {'params': state.params, **state.model_state}
    outputs, _ = task.model.clone(axis_name=None).apply(
        variables, batch['inputs'].reshape(8, 3), train=True, mutable=['batch_stats'],
        rngs={'dropout': jax.random.key(0)},
    )
    by_hand = np.mean((outputs[:5] - batch['targets'].reshape(8)[:5]) ** 2)
    _, scalars = step(state, batch, jax.random.key(1))
    np.testing.assert_allclose(scalars['loss'], by_hand, rtol=1e-5)


def fit(task, examples, workdir, *, steps=12, schedule=12, **options):
    optimizer = optimizers.adamw_cosine(
        learning_rate=1e-1, warmup_steps=2, weight_decay=0.0, clip_norm=1.0,
        steps=schedule, steps_per_epoch=1,
    )
    defaults = dict(
        seed=3, steps=steps, eval_batch_size=8, eval_every=4, checkpoint_every=3,
        log_every=5, monitor='closeness',
        patience=0, data_id='a', progress=Silent(),
    )
    with Checkpoints(workdir) as checkpoints, train.Interrupt() as interrupt:
        return train.fit(
            task, optimizer, train.init_state(task, optimizer.tx, seed=3),
            lambda start: pipeline.train_batches(
                examples(20), batch_size=8, seed=3, start=start),
            examples(6, seed=1), checkpoints=checkpoints, interrupt=interrupt,
            **(defaults | options),
        )


def latest(workdir, task):
    optimizer = optimizers.adamw_cosine(
        learning_rate=1e-1, warmup_steps=2, weight_decay=0.0, clip_norm=1.0,
        steps=12, steps_per_epoch=1,
    )
    with Checkpoints(workdir, read_only=True) as checkpoints:
        state, place = checkpoints.restore(
            train.init_state(task, optimizer.tx, seed=9)
        )
    return jax.device_get(state), place


def test_a_run_in_two_parts_ends_with_the_same_bits(toy_task, examples, tmp_path):
    task = toy_task(dropout=0.5)
    whole = fit(task, examples, tmp_path / 'whole')
    fit(task, examples, tmp_path / 'parts', steps=7)
    parts = fit(task, examples, tmp_path / 'parts')
    one, two = latest(tmp_path / 'whole', task), latest(tmp_path / 'parts', task)
    jax.tree.map(np.testing.assert_array_equal, one[0], two[0])
    assert int(one[0].step) == whole.step == parts.step == 12
    validations = [
        {p['step']: p['closeness'] for p in result.points if 'closeness' in p}
        for result in (whole, parts)
    ]
    # The first part also validated at its own end, update 7.
    assert validations[1].pop(7) is not None
    assert validations[0] == validations[1] and list(validations[0]) == [4, 8, 12]


def test_best_and_latest_are_kept_and_best_is_the_best(toy_task, examples, tmp_path):
    task = toy_task()
    result = fit(task, examples, tmp_path)
    values = {p['step']: p['closeness'] for p in result.points if 'closeness' in p}
    best = max(values, key=values.get)
    kept = {int(p.name) for p in (tmp_path / 'checkpoints').iterdir() if p.is_dir()}
    assert kept == {best, 12}
    state, _ = latest(tmp_path, task)
    weights = {'params': state.params, 'model_state': state.model_state}
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.restore_weights(weights)[1] == best
        assert checkpoints.restore_weights(weights, which='latest')[1] == 12


def test_training_lowers_the_loss(toy_task, examples, tmp_path):
    points = fit(
        toy_task(augment=False), examples, tmp_path, steps=120, schedule=120,
        eval_every=120, checkpoint_every=1000,
    ).points
    losses = [point['loss'] for point in points if 'loss' in point]
    assert losses[-1] < 0.1 * losses[0]


def test_a_plateau_stops_the_run_and_stays_stopped(toy_task, examples, tmp_path):
    frozen = toy_task()._replace(metrics={'closeness': lambda rows: 0.5})
    first = fit(frozen, examples, tmp_path, patience=1)
    assert (first.step, first.finished) == (8, True)
    assert fit(frozen, examples, tmp_path, patience=1).step == 8


def test_the_smallest_value_is_the_best_after_a_minus_sign(
    toy_task, examples, tmp_path
):
    fit(toy_task(), examples, tmp_path / 'a', monitor='-closeness')
    points = fit(toy_task(), examples, tmp_path / 'b', monitor='-valid_loss').points
    losses = {p['step']: p['valid_loss'] for p in points if 'valid_loss' in p}
    kept = [
        {int(p.name) for p in (tmp_path / name / 'checkpoints').iterdir() if p.is_dir()}
        for name in 'ab'
    ]
    # Closeness is the negated loss, so its smallest value is the worst one.
    assert kept[0] == {max(losses, key=losses.get), 12}
    assert kept[1] == {min(losses, key=losses.get), 12}


def test_a_metric_that_is_undefined_is_told_once(toy_task, examples, tmp_path, caplog):
    task = toy_task()._replace(metrics={'closeness': lambda rows: np.nan})
    with caplog.at_level('WARNING', logger='jaxmed'):
        assert fit(task, examples, tmp_path).finished
    (told,) = [record.getMessage() for record in caplog.records
               if record.name == 'jaxmed']
    assert 'closeness is undefined on the validation split' in told


def test_other_records_on_resume_are_refused(toy_task, examples, tmp_path):
    fit(toy_task(), examples, tmp_path, steps=3)
    with pytest.raises(ConfigError, match='records changed'):
        fit(toy_task(), examples, tmp_path, data_id='b')


def test_an_unknown_monitor_is_refused(toy_task, examples, tmp_path):
    with pytest.raises(ConfigError, match="'dice' is none of"):
        fit(toy_task(), examples, tmp_path, monitor='dice')


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_checkpoint(
    toy_task, examples, tmp_path
):
    fit(toy_task(), examples, tmp_path, steps=3)
    broken = toy_task()._replace(loss=lambda outputs, batch: outputs * np.nan)
    with pytest.raises(ConfigError, match='the loss is nan'):
        fit(broken, examples, tmp_path)
    assert latest(tmp_path, toy_task())[1]['step'] == 3


@pytest.mark.parametrize('broken', [
    lambda outputs: outputs * np.nan,
    # The loss is 0 and its gradient is not a number.
    lambda outputs: jax.numpy.sqrt(0 * outputs),
])
def test_broken_weights_are_never_saved(toy_task, examples, tmp_path, broken):
    task = toy_task()._replace(loss=lambda outputs, batch: broken(outputs))
    with pytest.raises(ConfigError, match='(loss|grad_norm) is nan before update 1:'):
        fit(task, examples, tmp_path, checkpoint_every=1, log_every=1000)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.restore(train.init_state(
            task, optimizers.adam(
                learning_rate=0.1, layer_decay=1.0, freeze='', steps=1,
                steps_per_epoch=1,
            ).tx, seed=0)) is None


@pytest.mark.parametrize('updates', [0, 2])
def test_readers_that_a_signal_ends_first_leave_a_run_to_resume(
    toy_task, examples, tmp_path, updates
):
    task, begun = toy_task(), threading.Event()

    class Watch(Silent):
        def begun(self):
            begun.set()

    optimizer = optimizers.adamw_cosine(
        learning_rate=1e-1, warmup_steps=2, weight_decay=0.0, clip_norm=1.0, steps=12,
        steps_per_epoch=1,
    )
    with Checkpoints(tmp_path) as checkpoints, train.Interrupt() as interrupt:

        def batches(start):
            yield from itertools.islice(pipeline.train_batches(
                examples(20), batch_size=8, seed=3), updates)
            if updates:
                begun.wait(60)
                time.sleep(0.5)  # the second update needs no compilation
            interrupt.noted = True
            raise RuntimeError('worker process was terminated')

        def run():
            return train.fit(
                task, optimizer, train.init_state(task, optimizer.tx, seed=3), batches,
                None, checkpoints=checkpoints, interrupt=interrupt, seed=3, steps=12,
                eval_batch_size=8, eval_every=100, checkpoint_every=100, log_every=100,
                monitor='closeness', patience=0, data_id='a', progress=Watch(),
            )

        if updates:
            result = run()
            assert (result.step, result.finished) == (2, False)
        else:
            with pytest.raises(train.Interrupted):
                run()
    if updates:
        assert latest(tmp_path, task)[1]['step'] == 2


def test_a_checkpoint_of_another_model_names_the_first_leaf(
    toy_task, examples, tmp_path
):
    fit(toy_task(), examples, tmp_path, steps=3)
    other = train.init_state(toy_task(), optax.adam(1e-3), seed=0)
    other.params['Dense_0']['kernel'] = np.zeros((3, 9), np.float32)
    with Checkpoints(tmp_path, read_only=True) as checkpoints, pytest.raises(
        CheckpointError,
        match=r'params.Dense_0.kernel is float32\[3,8\], the model needs '
              r'float32\[3,9\]',
    ):
        checkpoints.restore(other)


def test_a_damaged_checkpoint_is_one_line(toy_task, examples, tmp_path):
    fit(toy_task(), examples, tmp_path)
    for path in (tmp_path / 'checkpoints').rglob('*'):
        if path.is_file() and path.parent.name == 'd':
            path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match='damaged checkpoint') as error:
        latest(tmp_path, toy_task())
    assert '\n' not in str(error.value)
