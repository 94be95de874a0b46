"""Boosted regression trees as arrays: grown on the host, evaluated on the device."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


class BoostedTrees(nn.Module):
    """A sum of regression trees, a column and a threshold a node (Friedman 2001).

    The variables of the collection 'trees' are not learnt by gradients but set by
    whoever trains, with `from_sklearn`, and 0 before; nodes of a tree are numbered row
    by row from its root, so that those below node n are 2 n + 1 and 2 n + 2:
        column     [N, 2^depth - 1]  which column decides; whole numbers, as float32,
                                     since collections are averaged over devices
        threshold  [N, 2^depth - 1]  greater values go to the second node below
        value      [N, 2^depth]      what each leaf adds
        base       []                what is added up to

    Attributes:
        count: N, trees.
        depth: decisions on the way to a leaf.
    """

    count: int
    depth: int

    @nn.compact
    def __call__(self, columns) -> jax.Array:
        """Columns [B, S] -> float32 [B]."""
        nodes = 2 ** self.depth - 1

        def declare(name, *shape):
            return jnp.asarray(self.variable('trees', name, jnp.zeros, shape).value)

        column = jnp.round(declare('column', self.count, nodes)).astype(jnp.int32)
        threshold = declare('threshold', self.count, nodes)
        value = declare('value', self.count, nodes + 1)
        tree = jnp.arange(self.count)
        node = jnp.zeros((len(columns), self.count), jnp.int32)
        for _ in range(self.depth):
            seen = jnp.take_along_axis(columns, column[tree, node], axis=1)
            node = 2 * node + 1 + (seen > threshold[tree, node])
        return declare('base') + value[tree, node - nodes].sum(axis=1)


def from_sklearn(model):
    """Variables of BoostedTrees from a fitted GradientBoostingRegressor.

    Args:
        model: of max_depth d and n_estimators N.

    Returns:
        {'column', 'threshold', 'value', 'base'}, float32.
    """
    depth, nodes = model.max_depth, 2 ** model.max_depth - 1
    count = len(model.estimators_)
    column = np.zeros((count, nodes), np.float32)
    # Above it is nothing: where a tree ends early, all go the first way.
    threshold = np.full((count, nodes), np.finfo(np.float32).max)
    value = np.zeros((count, nodes + 1))

    def copy(number, tree, node, place, depth):
        if not depth:
            value[number, place - nodes] = model.learning_rate * tree.value[node, 0, 0]
            return
        ends = tree.children_left[node] < 0
        if not ends:
            column[number, place] = tree.feature[node]
            threshold[number, place] = _round_down(tree.threshold[node])
        for way, below in enumerate((tree.children_left, tree.children_right)):
            copy(number, tree, node if ends else below[node], 2 * place + 1 + way,
                 depth - 1)

    for number, (estimator,) in enumerate(model.estimators_):
        copy(number, estimator.tree_, 0, 0, depth)
    return {
        'column': column, 'threshold': threshold.astype(np.float32),
        'value': value.astype(np.float32),
        'base': np.float32(model.init_.constant_.item())}


def _round_down(threshold):
    """The greatest float32 up to it: float32 values fall on the same side of both."""
    rounded = np.float32(threshold)
    return rounded if rounded <= threshold else np.nextafter(
        rounded, np.float32(-np.inf))
