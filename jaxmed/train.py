"""The one trainer: a compiled update over all devices, and the loop around it."""

import logging
import signal
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.experimental import multihost_utils

from jaxmed import predict
from jaxmed.data import pipeline
from jaxmed.errors import ConfigError

AXIS = 'devices'
LOG = logging.getLogger('jaxmed')


class TrainState(NamedTuple):
    """Arrays only: what it takes to resume, and nothing else."""

    step: Any  # [] int32, updates made so far
    params: Any
    model_state: Any  # e.g. {'batch_stats': ...}; {} for a stateless model
    opt_state: Any


class Result(NamedTuple):
    """How a call of `fit` ended."""

    step: int
    finished: bool  # False: interrupted, run again to resume
    points: list  # [{'step', 'loss', ...}]: the curves
    input_wait: float  # share of the loop's time spent waiting for data


def init_state(task, tx, *, seed):
    """A fresh state; a function of the seed alone, the same on every process."""
    batch = pipeline.stack([task.example])
    arrays, _ = pipeline.split_strings(batch)

    def init(key):
        inputs = task.preprocess(arrays)['inputs']
        variables = task.model.init(key, inputs, train=False)
        params = variables.pop('params')
        return TrainState(jnp.int32(0), params, variables, tx.init(params))

    return jax.jit(init)(jax.random.key(seed))


def make_train_step(task, tx):
    """Builds the pure update (state, batch, key) -> (state, scalars).

    It sees one device's share of the batch under the axis AXIS. The loss is the
    mean over all unmasked examples on all devices, and the randomness of an example
    comes from its place in the whole batch, so the update does not depend on how the
    examples are spread.
    """

    def train_step(state, batch, key):
        key = jax.random.fold_in(key, state.step)
        augment_key, dropout_key = jax.random.split(key)
        size = batch['mask'].shape[0]
        places = lax.axis_index(AXIS) * size + jnp.arange(size)
        keys = jax.vmap(lambda place: jax.random.fold_in(augment_key, place))(places)
        batch = task.augment(keys, task.preprocess(batch))
        count = jnp.maximum(lax.psum(batch['mask'].sum(), AXIS), 1.0)

        def loss_fn(params):
            outputs, model_state = task.model.apply(
                {'params': params, **state.model_state}, batch['inputs'],
                train=True, mutable=list(state.model_state),
                rngs={'dropout': dropout_key},
            )
            # `where`, since NaN * 0 is NaN: a filler may hold anything.
            losses = jnp.where(batch['mask'] > 0, task.loss(outputs, batch), 0.0)
            return jnp.sum(losses * batch['mask']) / count, model_state

        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, model_state), grads = grad_fn(state.params)
        loss, grads = lax.psum((loss, grads), AXIS)  # shares add up to the mean
        model_state = lax.pmean(model_state, AXIS)

        updates, opt_state = tx.update(
            grads, state.opt_state, state.params, value=loss
        )
        params = optax.apply_updates(state.params, updates)
        # As dot products: XLA would write the squares to memory and read them again.
        squares = [jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(grads)]
        scalars = {'loss': loss, 'grad_norm': jnp.sqrt(sum(squares))}
        return TrainState(state.step + 1, params, model_state, opt_state), scalars

    return train_step


def compile_step(step, *, pmap):
    """Runs a per-device step over [devices, B, ...] batches; state has no axis.

    pmap puts each slice on its own device. jit is the same arithmetic on one
    device, which is how tests check many devices on a laptop. The state is donated:
    the update happens in place.
    """
    axes = dict(axis_name=AXIS, in_axes=(None, 0, None), out_axes=None)
    if pmap:
        return jax.pmap(step, **axes, donate_argnums=0)
    return jax.jit(jax.vmap(step, **axes), donate_argnums=0)


def put_batch(batch):
    """Sends a host batch to the local devices, [devices, B / devices, ...]."""
    devices = jax.local_devices()
    mesh = jax.sharding.Mesh(devices, (AXIS,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))
    return jax.device_put(pipeline.shard(batch, devices=len(devices)), sharding)


class Interrupted(BaseException):
    """A signal came where there is nothing to save. No error: nothing may swallow it.
    """


class Interrupt:
    """Turns SIGTERM and SIGINT into an orderly end.

    Within the training loop (`deferred`) a signal is noted, so that the loop can save
    before it leaves; elsewhere it raises Interrupted.
    """

    def __enter__(self):
        self.noted, self.deferred, self._old = False, False, {}
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._old[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread: the caller handles signals
                break
        return self

    def _note(self, number, frame):
        if not self.deferred:
            raise Interrupted
        self.noted = True

    def __exit__(self, *exception):
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def at(self, step):
        """Whether to stop here; the same answer on all processes."""
        if jax.process_count() == 1:
            return self.noted
        if step % 10:  # asking the others costs a round trip
            return False
        return bool(multihost_utils.process_allgather(np.array(self.noted)).any())


def fit(
    task, optimizer, state, make_batches, valid_source, *, checkpoints, seed, steps,
    eval_batch_size, eval_every, checkpoint_every, log_every, monitor, patience,
    data_id, progress, interrupt, pmap=True,
):
    """Trains until `steps` updates, a plateau, or a signal; resumes by itself.

    Same arguments, same devices: the same bits on a CPU, however often the process
    is killed in between, since the order of the data and all randomness are
    functions of (seed, step) and state, place and curves are saved as one.

    Args:
        task: Task.
        optimizer: optimizers.Optimizer.
        state: TrainState to begin with where there is no checkpoint.
        make_batches: number of the first batch -> endless iterator of host batches.
        valid_source: random access to Records; None skips validation and keeps the
            latest state.
        checkpoints: checkpoint.Checkpoints; the latest one is resumed.
        seed: of augmentation and dropout.
        steps: updates in all.
        eval_batch_size: examples a validation batch, of one process.
        eval_every: updates between validations; each one saves.
        checkpoint_every: updates between saves without validation.
        log_every: updates between lines of the log.
        monitor: name of the metric whose largest validation value is the best, or of
            the smallest after a minus sign ('-mae', '-valid_loss').
        patience: validations without a better value before stopping; 0 never stops.
        data_id: what identifies the records; another one on resume is refused.
        progress: progress.Progress, or what quacks like it.
        interrupt: Interrupt, entered.
        pmap: False runs on one device by jit.

    Returns:
        Result.
    """
    sign, monitored = (-1, monitor[1:]) if monitor.startswith('-') else (1, monitor)
    if valid_source is not None and monitored not in (*task.metrics, 'valid_loss'):
        raise ConfigError(
            'monitor', f'{monitored!r} is none of {sorted(task.metrics)}, valid_loss'
        )
    points, start = [], 0
    saved = checkpoints.restore(state)
    if saved is not None:
        state, place = saved
        points, start = place['points'], place['step']
        if place['data_id'] != data_id:
            raise ConfigError(
                checkpoints.folder, 'the prepared records changed since the run began'
            )

    def stalled():
        values = [sign * p[monitored] for p in points if monitored in p]
        return _stalled(values, patience)

    if start >= steps or stalled():
        return Result(start, True, points, 0.0)

    state = predict.replicate(state) if pmap else state
    train_step = compile_step(make_train_step(task, optimizer.tx), pmap=pmap)
    split_rows = predict.make_split_rows([task], views=1)
    key = jax.random.key(seed)

    def save(value=None):
        nonlocal kept
        # A resume must not begin with broken weights, which the next loss would tell.
        _check_finite(scalars, step)
        kept = step
        place = {'step': step, 'data_id': data_id, 'points': points}
        checkpoints.save(step, state, place, value)

    def validate():
        weights = {'params': state.params, 'model_state': state.model_state}
        rows = split_rows([weights], valid_source, batch_size=eval_batch_size)
        cases = task.cases(rows)
        progress.pictures(step, rows)
        values = {name: metric(cases) for name, metric in task.metrics.items()}
        return {'step': step, 'valid_loss': float(np.mean(rows['loss'])), **values}

    put = put_batch if pmap else lambda batch: pipeline.shard(batch, devices=1)
    # The devices of a CPU share threads: with updates queued ahead, one device was
    # seen to wait in an all-reduce for another whose share was never begun, until XLA
    # gave up after 40 s (jax 0.10.2, other programs on the cores). Nothing is lost by
    # waiting here, as batches are made by other threads.
    in_step = jax.default_backend() == 'cpu'
    progress.start(start, steps)
    step, kept, began = start, start, time.perf_counter()
    stop = finished = told = False
    interrupt.deferred = True
    with pipeline.Prefetch(make_batches(start), put) as prefetch:
        meter = _Meter(prefetch)
        while step < steps and not stop and not finished:
            try:
                batch = next(prefetch)
            except Exception:
                # A signal to the whole group ends reading processes before us.
                if not interrupt.noted or jax.process_count() > 1:
                    raise
                stop = True
                if step != kept:
                    save()
                break
            state, scalars = train_step(state, batch, key)
            step += 1
            if in_step:
                jax.block_until_ready(scalars)
            meter.add(scalars, batch['mask'].size * jax.process_count())
            if step == start + 1:
                jax.block_until_ready(scalars)
                progress.begun()
                meter.restart()  # compiling is no part of the rate
            stop = interrupt.at(step)
            last = stop or step == steps
            evaluate = valid_source is not None and (
                step % eval_every == 0 or step == steps
            )
            if evaluate or last or step % log_every == 0:
                means, rates = meter.read()
                _check_finite(means, step)
                rate = optimizer.learning_rate(state.opt_state, step)
                points.append({'step': step, **means, 'learning_rate': rate})
                progress.point(points[-1], **rates)
            if evaluate:
                points.append(validate())
                progress.point(points[-1])
                if np.isnan(points[-1][monitored]) and not told:
                    told = True
                    LOG.warning(
                        '%s is undefined on the validation split: such a state is '
                        'never the best, only the latest', monitored)
                save(sign * points[-1][monitored])
                finished = stalled()
                meter.restart()
            elif last or step % checkpoint_every == 0:
                save()
    if stop and step == start:
        raise Interrupted
    input_wait = prefetch.waited_s / (time.perf_counter() - began)
    checkpoints.wait()
    interrupt.deferred = False
    progress.close()
    return Result(step, finished or step >= steps, points, input_wait)


def _check_finite(scalars, step):
    """Raises ConfigError where a loss or a gradient is infinite or not a number."""
    for name in ('loss', 'grad_norm'):
        if not np.isfinite(scalars[name]):
            raise ConfigError(
                'optimizer', f'the {name} is {float(scalars[name])} before update '
                f'{step}: lower the learning rate; the last checkpoint is kept'
            )


class _Meter:
    """Mean scalars and rates since it was last read; reading waits for the device.

    `input_wait` is the share of time in which the loop waited for a batch. Updates
    are queued ahead, so an accelerator may still have been busy: it is an upper bound
    of the time that the device had nothing to do.
    """

    def __init__(self, prefetch):
        self._prefetch, self._scalars = prefetch, []
        self.restart()

    def restart(self):
        """Forgets the time that has passed, not the scalars."""
        self._began, self._waited = time.perf_counter(), self._prefetch.waited_s
        self._examples = 0

    def add(self, scalars, examples):
        self._scalars.append(scalars)
        self._examples += examples

    def read(self):
        """(means, {'examples_per_s', 'input_wait'}); starts anew."""
        scalars = jax.device_get(self._scalars)
        means = {
            name: float(np.mean([values[name] for values in scalars]))
            for name in sorted(scalars[0], key=lambda name: name != 'loss')
        }
        seconds = max(time.perf_counter() - self._began, 1e-9)
        rates = {
            'examples_per_s': self._examples / seconds,
            'input_wait': (self._prefetch.waited_s - self._waited) / seconds,
        }
        self._scalars = []
        self.restart()
        return means, rates


def _stalled(values, patience):
    """Whether the last `patience` values, larger being better, brought no gain."""
    if not patience or len(values) <= patience:
        return False
    # NaN (no case with the class) never counts as better.
    values = np.nan_to_num(np.array(values, float), nan=-np.inf)
    return bool(values[-patience:].max() <= values[:-patience].max())
