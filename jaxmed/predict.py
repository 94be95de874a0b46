"""Weights and records -> rows: the one prediction path.

Probabilities are averaged over members and views. The evaluator, validation during
training and prediction on files all share it; only what feeds it differs.
"""

import functools
import itertools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jaxmed.data import pipeline
from jaxmed.errors import InputError


def replicate(tree, devices=None):
    """Lays arrays on devices, all local ones by default: what pmap expects."""
    mesh = jax.sharding.Mesh(devices or jax.local_devices(), ('devices',))
    return jax.device_put(
        tree, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    )


def variables_of(weights):
    """{'params', 'model_state'} -> what Linen's apply takes."""
    return {'params': weights['params'], **weights['model_state']}


def _make_forward(tasks, views):
    """(members, batch) -> (averaged probabilities, outputs of the first member)."""

    def forward(members, batch):
        first, parts = None, []
        for task, weights in zip(tasks, members, strict=True):
            variables = variables_of(weights)
            inputs = task.preprocess(batch)['inputs']
            for view in task.views[:views]:
                outputs = task.model.apply(
                    variables, view.forward(inputs), train=False
                )
                first = outputs if first is None else first
                parts.append(view.inverse(task.probabilities(outputs)))
        return jax.tree.map(lambda *leaves: sum(leaves) / len(parts), *parts), first

    return forward


def make_apply(tasks, *, views):
    """Builds (members, batch) -> probabilities, averaged over members and views.

    Args:
        tasks: one Task per member; models and preprocessing may differ, what the
            probabilities mean may not.
        views: how many of its views each task averages; 1 is the identity alone.

    Returns:
        A pure function; `members` is a sequence of {'params', 'model_state'} and
        `batch` holds raw records, [B, ...].
    """
    forward = _make_forward(tasks, views)
    return lambda members, batch: forward(members, batch)[0]


def make_split_rows(tasks, *, views, baseline=None, change=None):
    """Builds a function that predicts every record of a split.

    Compiled once for all calls with the same batch size; runs on all local devices,
    and each process takes its share of the records.

    Args:
        tasks: one Task per member; the first one makes the rows.
        views: as in make_apply.
        baseline: (raw batch) -> probabilities on the host, in place of the model.
        change: (raw batch) -> raw batch on the host, before all else.

    Returns:
        (members, source, *, batch_size) -> Rows in the order of the records; the
        column 'loss' is that of the first member under the first view.
    """
    task = tasks[0]
    forward = _make_forward(tasks, views)

    def step(members, batch):
        probabilities, outputs = forward(members, batch)
        loss = task.loss(outputs, task.preprocess(batch))
        return {**task.rows(probabilities, batch), 'loss': loss}

    compiled = jax.pmap(step, in_axes=(None, 0))
    baseline_rows = jax.jit(task.rows)

    def predict_batch(members, batch):
        if change is not None:
            batch = change(batch)
        arrays, strings = pipeline.split_strings(batch)
        if baseline is None:
            rows = compiled(
                members, pipeline.shard(batch, devices=jax.local_device_count())
            )
            rows = {k: v.reshape(-1, *v.shape[2:]) for k, v in rows.items()}
        else:
            rows = baseline_rows(baseline(batch), arrays)
        return {**rows, 'mask': arrays['mask'], **strings}

    def split_rows(members, source, *, batch_size):
        devices = jax.local_device_count()
        batches = pipeline.eval_batches(
            source, batch_size=math.ceil(batch_size / devices) * devices,
            index=jax.process_index(), count=jax.process_count(),
        )
        members = replicate(members)  # once, not with every batch
        # Dispatched one ahead: reading a batch overlaps with computing the last.
        rows, pending = [], None
        for batch in batches:
            previous, pending = pending, predict_batch(members, batch)
            if previous is not None:
                rows.append(jax.device_get(previous))
        rows.append(jax.device_get(pending))
        rows = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        rows = _gather(rows)
        keep = rows.pop('mask') > 0
        return {name: column[keep] for name, column in rows.items()}

    return split_rows


def _gather(rows):
    """Joins the rows of all processes, in the order of the records."""
    if jax.process_count() == 1:
        return rows
    strings = [column for column in rows.values() if column.dtype.kind == 'U']
    widest = max((len(text.encode()) for c in strings for text in c), default=1)
    width = int(multihost_utils.process_allgather(np.array(widest)).max())
    coded = {
        name: _encode(column, width) if column.dtype.kind == 'U' else column
        for name, column in rows.items()
    }
    # Record i went to process i % count, so interleaving restores the order.
    joined = jax.tree.map(
        lambda column: np.swapaxes(column, 0, 1).reshape(-1, *column.shape[2:]),
        multihost_utils.process_allgather(coded, tiled=False),
    )
    return {
        name: _decode(column) if rows[name].dtype.kind == 'U' else np.asarray(column)
        for name, column in joined.items()
    }


def _encode(strings, width):
    coded = np.zeros((len(strings), width), np.uint8)
    for place, text in enumerate(strings):
        data = text.encode()
        coded[place, :len(data)] = np.frombuffer(data, np.uint8)
    return coded


def _decode(coded):
    return np.array([
        bytes(row).rstrip(b'\0').decode() for row in coded
    ])


def example_inputs(task):
    """Model inputs of the task's example, [1, ...] abstract."""
    arrays, _ = pipeline.split_strings(pipeline.stack([task.example]))
    return jax.eval_shape(lambda batch: task.preprocess(batch)['inputs'], arrays)


def weights_spec(task):
    """Shapes and types of the weights, {'params': ..., 'model_state': ...}."""

    def init(key):
        inputs = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), example_inputs(task)
        )
        variables = task.model.init(key, inputs, train=False)
        params = variables.pop('params')
        return {'params': params, 'model_state': variables}

    return jax.eval_shape(init, jax.random.key(0))


class Predictor:
    """A trained task: files in, findings out.

    Args:
        tasks: one Task per member.
        members: sequence of {'params', 'model_state'}; several are averaged.
        views: as in make_apply.
        batch_size: examples that go through the network at once.
        explain: whether findings show where the network looks, of a task that can.
        made_by: str that differs wherever predictions may.

    Attributes:
        task: of the first member.
        made_by: as given.
        together: how many records `predict` had best be given at once.
    """

    def __init__(
        self, tasks, members, *, views, batch_size, explain=True, made_by=''
    ):
        self.task, self._batch_size, self.made_by = tasks[0], batch_size, made_by
        self.together = batch_size if self.task.infer is None else 1
        devices = jax.local_devices()
        # A batch that can't be shared out evenly goes to the first device alone.
        self._devices = devices if batch_size % len(devices) == 0 else devices[:1]
        self._members = replicate(list(members), self._devices)
        compiled = functools.partial(
            jax.pmap, in_axes=(None, 0), devices=self._devices
        )
        self._probabilities = compiled(make_apply(tasks, views=views))
        self._maps = None if not explain or self.task.explain is None else compiled(
            lambda members, asked: self.task.explain(variables_of(members[0]), *asked)
        )

    def apply(self, batch):
        """Probabilities of raw arrays [B, ...], shared out over the devices.

        Each B is compiled for; where it does not divide, copies fill it up.

        Returns:
            [B, ...] on the first device; nothing waits.
        """
        return self._share(self._probabilities, batch)

    def _share(self, compiled, batch):
        devices = len(self._devices)
        size = len(jax.tree.leaves(batch)[0])

        def share(x):
            if size % devices:
                filler = jnp.repeat(x[-1:], -size % devices, axis=0)
                x = jnp.concatenate([x, filler])
            return x.reshape(devices, -1, *x.shape[1:])

        out = compiled(self._members, jax.tree.map(share, batch))
        out = jax.device_put(out, self._devices[0])
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:size], out)

    def predict(self, records):
        """The Finding of each of some records, which may be of any size.

        In place of one that nothing can be said of stands the InputError that says why.
        """
        if self.task.infer is not None:
            return [self._infer(record) for record in records]
        found = []
        for start in range(0, len(records), self._batch_size):
            found += self._predict_batch(records[start:start + self._batch_size])
        return found

    def _infer(self, record):
        try:
            answer = self.task.infer(
                self.apply, record, batch_size=self._batch_size
            )
        except InputError as error:
            return error
        return self.task.findings(record, answer)

    def _predict_batch(self, records):
        # Two shapes are compiled for and no more: one record, and a whole batch.
        filler = records[-1:] * (self._batch_size - len(records))
        batch = self._stack(records if len(records) == 1 else [*records, *filler])
        columns = [np.asarray(self.apply(batch))]
        if self._maps is not None:
            likeliest = columns[0].argmax(axis=-1)
            columns.append(np.asarray(self._share(self._maps, (batch, likeliest))))
        return [
            self.task.findings(record, *parts)
            for record, *parts in zip(records, *columns)
        ]

    def _stack(self, records):
        names = [n for n in self.task.example if n in records[0]]
        return pipeline.split_strings(pipeline.stack(
            [{name: record[name] for name in names} for record in records]
        ))[0]

    def look_ahead(self, files):
        """Iterator of these of task.files, in the order they had better be read in."""
        return iter(files) if self.task.look_ahead is None else (
            self.task.look_ahead(files))

    def explain(self, record, number):
        """Where the first member sees class `number`: [H, W] in [0, 1]."""
        asked = self._stack([record]), np.array([number])
        return np.asarray(self._share(self._maps, asked)[0])

    def __call__(self, path):
        """Findings of a file, or a list of them for a folder; bad input raises."""
        path = Path(path)
        files, found = self.task.files(path), {}
        order = self.look_ahead(files)
        while some := list(itertools.islice(order, self.together)):
            found |= zip(some, self.predict([
                self.task.read(file, case_id=case_id) for file, case_id in some
            ]))
        findings = [found[entry] for entry in files]
        for finding in findings:
            if isinstance(finding, InputError):
                raise finding
        return findings if path.is_dir() else findings[0]
