"""A float TensorFlow Lite network as a pure function of a parameter tree.

For the networks that MediaPipe's bundles hold, whose weights are float16, some of them
sparse. Weights are unpacked once, when the file is read, to the float32 tree; only what
is left of the graph is computed afterwards. All that the reader does not know it
refuses by name: a network that is read computes what the file says.
"""

from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmed.errors import InputError
from jaxmed.models.tflite_file import File
from jaxmed.models.tflite_operators import BUILDERS, Node

MAX_BYTES = 1 << 28  # far above what a network of a phone needs


class Network(NamedTuple):
    """What a file holds.

    `apply(params, inputs, *, dtype)` maps [B, *input_shape] to the tuple of outputs,
    [B, *shape] float32 for each of `output_shapes`. It is pure and may be compiled.
    `dtype` is what matrices and dense filters are multiplied in; sums, depthwise
    filters and what is kept between operators are float32.
    """

    apply: Callable[..., tuple[jax.Array, ...]]
    params: dict[str, dict[str, np.ndarray]]  # float32, by operator
    input_shape: tuple[int, ...]
    output_shapes: tuple[tuple[int, ...], ...]
    operators: tuple[str, ...]  # their names, constants' left out


class _Step(NamedTuple):
    """An operator that is left for the device."""

    name: str  # its place and its kind: '017_conv_2d'
    compute: Callable[..., jax.Array]  # (weights, dtype, *inputs) -> output
    inputs: tuple[int, ...]
    output: int


def read_network(data, *, where):
    """Reads a network of one input and one picture a time.

    Args:
        data: bytes of a .tflite file.
        where: what errors call it.

    Returns:
        Network; B may be any, although files say 1.

    Raises:
        InputError: the bytes are damaged, hold what is not known here (named), or more
            than the limits allow.
    """
    if len(data) > MAX_BYTES:
        raise InputError(where, f'{len(data)} bytes, limit {MAX_BYTES}')
    if data[4:8] != b'TFL3':
        raise InputError(where, 'not a TensorFlow Lite file of version 3')
    try:
        return _read(File(data, where))
    except InputError:
        raise
    # Damage may show anywhere: an offset beyond the end, a shape that does not fit.
    except Exception as error:
        reason = str(error).strip().split('\n')[0] or type(error).__name__
        raise InputError(where, f'damaged: {reason}') from None


def _read(file):
    inputs, outputs = file.graph.numbers(1), file.graph.numbers(2)
    if len(inputs) != 1 or not outputs:
        file.refuse(f'{len(inputs)} inputs, {len(outputs)} outputs, not 1 and 1+')
    for index in (*inputs, *outputs):
        file.check_activation(index)
    params, steps = _read_steps(file, inputs[0])
    made = {inputs[0], *(step.output for step in steps)}
    if not set(outputs) <= made:
        file.refuse('an output that no operator makes')
    shapes = {index: file.shapes[index][1:] for index in made}
    network = Network(
        _make_apply(steps, shapes, inputs[0], outputs), params, shapes[inputs[0]],
        tuple(shapes[index] for index in outputs),
        tuple(sorted({step.name[4:].upper() for step in steps})),
    )
    # Shapes are computed and compared with those of the file; nothing else is.
    jax.eval_shape(
        lambda p, x: network.apply(p, x, dtype=jnp.float32), params,
        jax.ShapeDtypeStruct((1, *network.input_shape), jnp.float32))
    return network


def _read_steps(file, source):
    """Parameters and steps of all operators that don't unpack constants."""
    params, steps, made = {}, [], {source}
    for operator in file.graph.tables(3):
        kind, options = file.kind(operator)
        sources, results = operator.numbers(1), operator.numbers(2)
        if len(results) != 1:
            file.refuse(f'{kind} with {len(results)} outputs')
        if kind in ('DENSIFY', 'DEQUANTIZE'):
            file.unpacked[results[0]] = sources[0]
            continue
        file.check_activation(results[0])
        weights, compute, used = BUILDERS[kind](
            Node(file, kind, options, sources, results[0]))
        missing = [index for index in used if index not in made]
        if missing:
            file.refuse(f'{kind} reads tensor {missing[0]}, which nothing makes')
        name = f'{len(steps):03d}_{kind.lower()}'
        if weights:
            params[name] = weights
        steps.append(_Step(name, compute, tuple(used), results[0]))
        made.add(results[0])
    return params, steps


def _make_apply(steps, shapes, source, outputs):
    def apply(params, inputs, *, dtype):
        values = {source: inputs.astype(jnp.float32)}
        for step in steps:
            value = step.compute(
                params.get(step.name, {}), dtype,
                *(values[index] for index in step.inputs))
            if value.shape[1:] != shapes[step.output]:
                raise ValueError(
                    f'{step.name} gives {value.shape[1:]}, not {shapes[step.output]}')
            values[step.output] = value
        return tuple(values[index] for index in outputs)

    return apply
