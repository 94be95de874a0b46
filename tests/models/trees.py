"""Comparing trees of arrays, and computing them once."""

import jax
import numpy as np


def close(actual, expected, tolerance=1e-5, *, least=1.0):
    """Compares leaf by leaf, relative to each leaf's largest value.

    Args:
        actual, expected: trees of the same shapes.
        tolerance: of the largest value, or of `least` where that is larger.
    """
    def compare(x, y):
        assert np.shape(x) == np.shape(y)
        scale = max(least, np.abs(y).max())
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * scale)

    jax.tree.map(compare, actual, expected)


def compiled(function, *inputs):
    """What takes longer to optimise than to run."""
    options = {'xla_backend_optimization_level': 0}
    return jax.jit(function).lower(*inputs).compile(options)


def computed(function, *inputs):
    """Runs it once."""
    return compiled(function, *inputs)(*inputs)
