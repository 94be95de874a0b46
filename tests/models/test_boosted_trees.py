"""Trees that scikit-learn grows say the same as arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingRegressor

from jaxmed.models.boosted_trees import BoostedTrees, from_sklearn


def evaluate(variables, columns, *, count, depth):
    return jax.jit(BoostedTrees(count, depth).apply)({'trees': variables}, columns)


def test_a_tree_worked_out_by_hand():
    variables = {
        # The root asks for column 1; then 0 on the one side, 2 on the other.
        'column': jnp.array([[1.0, 0.0, 2.0]]),
        'threshold': jnp.array([[0.5, -1.0, 3.0]]),
        'value': jnp.array([[1.0, 2.0, 3.0, 4.0]]), 'base': jnp.float32(10)}
    columns = jnp.array([
        [-2.0, 0.0, 9.0], [0.0, 0.5, 9.0], [0.0, 0.6, 3.0], [0.0, 0.6, 3.1]])
    found = evaluate(variables, columns, count=1, depth=2)
    np.testing.assert_array_equal(found, [11, 12, 13, 14])


@pytest.mark.parametrize('loss', ['huber', 'squared_error'])
def test_they_are_scikit_learns_on_values_from_both_sides_of_each_threshold(loss):
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(300, 6)).astype(np.float32)
    truth = columns[:, 0] * (columns[:, 1] > 0) + 0.1 * rng.normal(size=300)
    model = GradientBoostingRegressor(
        loss=loss, n_estimators=30, max_depth=3, random_state=0).fit(columns, truth)
    # Of a few values each, so that many fall on a threshold or next to it.
    edges = np.concatenate([tree.tree_.threshold for (tree,) in model.estimators_])
    edges = edges.astype(np.float32)
    columns = rng.choice(np.concatenate([
        edges, np.nextafter(edges, np.float32(9)), np.nextafter(edges, np.float32(-9)),
    ]), (2000, 6))
    found = evaluate(from_sklearn(model), columns, count=30, depth=3)
    np.testing.assert_allclose(found, model.predict(columns), atol=1e-5)


def test_trees_that_end_early_are_filled_up():
    columns = np.array([[0.0], [1.0]], np.float32)
    model = GradientBoostingRegressor(n_estimators=2, max_depth=3).fit(columns, [0, 1])
    assert max(tree.get_depth() for (tree,) in model.estimators_) == 1
    found = evaluate(from_sklearn(model), columns, count=2, depth=3)
    np.testing.assert_allclose(found, model.predict(columns), atol=1e-6)
