"""Every operator against LiteRT."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmed.models import tflite, tflite_operators
from tests.models.tflite_writer import NETWORKS, draw, run, run_litert


@pytest.mark.parametrize('name', NETWORKS)
def test_each_operator_computes_what_litert_does_for_any_batch(name):
    data = NETWORKS[name]().bytes()
    network = tflite.read_network(data, where=name)
    inputs = 3 * draw(3, *network.input_shape)
    found, = run(network, inputs)
    wanted, = run_litert(data, inputs)
    assert found.shape == (3, *network.output_shapes[0]) == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=2e-5, rtol=1e-5)


def test_doubling_mixes_neighbours_three_to_one():
    weights = tflite_operators._interpolation(2, 4, False, True)
    np.testing.assert_allclose(weights, [[1, 0], [.75, .25], [.25, .75], [0, 1]])


@pytest.mark.parametrize('size, strides, padding', [
    (3, (1, 1), 'SAME'), (5, (2, 2), 'VALID'), (3, (2, 2), 'SAME')])
def test_shifted_pictures_add_up_to_a_grouped_convolution(size, strides, padding):
    x, kernel = draw(2, 11, 8, 6), draw(size, size, 1, 6)
    wanted = jax.lax.conv_general_dilated(
        x, kernel, strides, padding, feature_group_count=6,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    np.testing.assert_allclose(
        tflite_operators._shifted_sum(x, kernel, strides, padding), wanted, atol=1e-5)


def test_bfloat16_is_near_float32_and_comes_out_as_float32():
    network = tflite.read_network(NETWORKS['conv_pointwise']().bytes(), where='x')
    inputs = draw(2, *network.input_shape)
    exact, = run(network, inputs)
    rough, = run(network, inputs, jnp.bfloat16)
    assert rough.dtype == jnp.float32
    assert 0 < jnp.abs(rough - exact).max() < 0.1


def test_products_of_float32_are_exact_wherever_they_are_computed():
    def precisions(dtype):
        found = []
        for name in sorted(NETWORKS):
            network = tflite.read_network(NETWORKS[name]().bytes(), where=name)
            graph = jax.make_jaxpr(lambda p, x: network.apply(p, x, dtype=dtype))(
                network.params, np.zeros((1, *network.input_shape), np.float32))
            found += [
                (equation.invars[0].aval.dtype, equation.params['precision'])
                for equation in equations(graph.jaxpr)
                if equation.primitive.name in ('dot_general', 'conv_general_dilated')]
        return found

    highest = (jax.lax.Precision.HIGHEST,) * 2
    found = precisions(jnp.float32)
    assert len(found) >= 10 and all(precision == highest for _, precision in found)
    kinds = {(str(kind), precision) for kind, precision in precisions(jnp.bfloat16)}
    assert kinds == {('bfloat16', None), ('float32', highest)}


def equations(jaxpr):
    """Of a graph and of all graphs within it."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.core.jaxprs_in_params(equation.params):
            yield from equations(inner)
