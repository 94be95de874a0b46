"""Checkpoints by orbax: weights, optimiser and place in the data, saved as one.

A save is atomic: it is written aside and renamed, so a process killed in the middle
leaves the earlier one. Two are kept, the best by the monitored metric and the latest.
Leaves are stored under dotted names ('params.conv1_1.kernel'), which makes a strict
restore independent of container types and lets it name the first leaf that misfits.
"""

from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from jaxmed.errors import CheckpointError

FOLDER = 'checkpoints'


class Checkpoints:
    """The checkpoints of one run folder; a context, since saves run in threads."""

    def __init__(self, workdir, *, read_only=False):
        self.folder = Path(workdir).absolute() / FOLDER
        if read_only and not self.folder.is_dir():
            raise CheckpointError(workdir, 'holds no checkpoints: not a run folder')
        options = ocp.CheckpointManagerOptions(
            best_fn=lambda metrics: metrics['value'],
            preservation_policy=checkpoint_managers.AnyPreservationPolicy([
                checkpoint_managers.LatestN(1),
                checkpoint_managers.BestN(
                    get_metric_fn=lambda metrics: metrics['value'],
                    n=1, keep_checkpoints_without_metrics=False,
                ),
            ]),
            create=not read_only,
            read_only=read_only,
            cleanup_tmp_directories=not read_only,  # what a killed save left behind
        )
        self._manager = ocp.CheckpointManager(
            self.folder, options=options,
            item_handlers={
                'weights': ocp.StandardCheckpointHandler(),
                'training': ocp.StandardCheckpointHandler(),
                'place': ocp.JsonCheckpointHandler(),
            },
        )

    def save(self, step, state, place, value=None):
        """Saves in the background; the state may be donated as soon as this returns.

        Args:
            step: updates made.
            state: NamedTuple with params, model_state and whatever else.
            place: JSON: step, data id, curves.
            value: of the monitored metric, larger is better; None if not measured.
        """
        # As NumPy, a state is the same whatever devices held it, and process 0 writes.
        weights, training = _split(jax.device_get(state))
        self._manager.save(
            step,
            args=ocp.args.Composite(
                weights=ocp.args.StandardSave(weights),
                training=ocp.args.StandardSave(training),
                place=ocp.args.JsonSave(place),
            ),
            # NaN can't be ranked; such a state is kept as the latest only.
            metrics=None if value is None or np.isnan(value) else {'value': value},
        )

    def wait(self):
        """Blocks until the last save is on disk."""
        self._manager.wait_until_finished()

    def restore(self, state):
        """The latest (state, place), or None in a new run.

        Args:
            state: a fresh state of the expected shapes and types.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        weights, training = _split(state)
        saved = self._read(
            step,
            weights=ocp.args.StandardRestore(_abstract(weights)),
            training=ocp.args.StandardRestore(_abstract(training)),
            place=ocp.args.JsonRestore(),
        )
        return _fill(state, saved['weights'] | saved['training']), saved['place']

    def restore_weights(self, weights, *, which='best'):
        """Weights of the best (or, where none was measured, the latest) state.

        Args:
            weights: {'params': ..., 'model_state': ...}, expected shapes and types.
            which: 'best' or 'latest'.

        Returns:
            (weights, step).

        Raises:
            CheckpointError: naming the first leaf that does not fit.
        """
        step = self._manager.best_step() if which == 'best' else None
        step = self._manager.latest_step() if step is None else step
        if step is None:
            raise CheckpointError(self.folder, 'holds no finished checkpoint')
        saved = self._read(
            step, weights=ocp.args.StandardRestore(_abstract(_flatten(weights)))
        )['weights']
        return _fill(weights, saved), step

    def place(self):
        """What the latest save says of its place: step, data id, curves."""
        step = self._manager.latest_step()
        if step is None:
            raise CheckpointError(self.folder, 'holds no finished checkpoint')
        return self._read(step, place=ocp.args.JsonRestore())['place']

    def _read(self, step, **items):
        try:
            for item in ('weights', 'training'):
                if item in items:
                    self._check(step, item, items[item].item)
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except CheckpointError:
            raise
        except Exception as error:  # orbax and tensorstore raise many kinds
            reason = str(error).splitlines()[0][:200] if str(error) else repr(error)
            raise CheckpointError(
                self.folder / str(step), f'damaged checkpoint: {reason}'
            ) from error

    def _check(self, step, item, expected):
        """Strict: every leaf there, of this shape and type, and no other."""
        saved = {
            name: (tuple(leaf.shape), leaf.dtype)
            for name, leaf in self._manager.item_metadata(step)[item].items()
        }
        for name in sorted(expected.keys() | saved.keys()):
            have, want = saved.get(name), expected.get(name)
            want = None if want is None else (tuple(want.shape), want.dtype)
            if have != want:
                raise CheckpointError(
                    self.folder / str(step),
                    f'checkpoint of another model: {name} is {_words(have)}, '
                    f'the model needs {_words(want)}',
                )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._manager.close()


def _words(leaf):
    if leaf is None:
        return 'absent'
    shape, dtype = leaf
    return f'{np.dtype(dtype).name}[{",".join(map(str, shape))}]'


def _name(path):
    return jax.tree_util.keystr(path, simple=True, separator='.')


def _flatten(tree):
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(path): leaf for path, leaf in leaves}


def _split(state):
    """(weights, everything else), flat."""
    leaves = _flatten(state)
    weights = {
        name: leaf for name, leaf in leaves.items()
        if name.startswith(('params.', 'model_state.'))
    }
    return weights, {n: leaf for n, leaf in leaves.items() if n not in weights}


def _fill(tree, leaves):
    return jax.tree_util.tree_map_with_path(lambda path, _: leaves[_name(path)], tree)


def _abstract(leaves):
    """Targets that cost no memory and make orbax return NumPy."""
    return {
        name: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
        for name, leaf in leaves.items()
    }
