"""A float TensorFlow Lite network as a pure function of a parameter tree.

For the networks that MediaPipe's bundles hold, whose weights are float16, some of them
sparse. Weights are unpacked once, when the file is read, to the float32 tree; only what
is left of the graph is computed afterwards. All that the reader does not know it
refuses by name: a network that is read computes what the file says.

The format: tensorflow/lite/schema/schema.fbs, a FlatBuffer. Fields are named below by
their places in its tables.
"""

import struct
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmed.errors import InputError

# Limits of what is read, far above what a network of a phone needs.
MAX_BYTES = 1 << 28
_MAX_TENSORS = 10_000
_MAX_WEIGHTS = 1 << 27  # of all constants together, once they are unpacked
_MAX_ACTIVATIONS = 1 << 26  # of one tensor, for one picture

_FLOAT32, _FLOAT16, _INT32 = 0, 1, 2  # TensorType
_TYPES = {_FLOAT32: np.dtype('<f4'), _FLOAT16: np.dtype('<f2'), _INT32: np.dtype('<i4')}
_SPARSE_INDICES = {1: np.dtype('<i4'), 2: np.dtype('<u2'), 3: np.dtype('u1')}

# BuiltinOperator: name, the last version that means what is done here, and the kind of
# options. Later versions add types, not other arithmetic, but nobody has looked.
_OPERATORS = {
    0: ('ADD', 1, 11), 2: ('CONCATENATION', 1, 10), 3: ('CONV_2D', 2, 1),
    4: ('DEPTHWISE_CONV_2D', 2, 2), 5: ('DEPTH_TO_SPACE', 1, 94),
    6: ('DEQUANTIZE', 3, 38), 14: ('LOGISTIC', 1, None), 17: ('MAX_POOL_2D', 1, 5),
    22: ('RESHAPE', 1, 17), 23: ('RESIZE_BILINEAR', 3, 15), 34: ('PAD', 1, 22),
    124: ('DENSIFY', 1, 99),
}
# All names of BuiltinOperator, to say what is refused.
_NAMES = '''
    ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE
    DEQUANTIZE EMBEDDING_LOOKUP FLOOR FULLY_CONNECTED HASHTABLE_LOOKUP
    L2_NORMALIZATION L2_POOL_2D LOCAL_RESPONSE_NORMALIZATION LOGISTIC LSH_PROJECTION
    LSTM MAX_POOL_2D MUL RELU RELU_N1_TO_1 RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX
    SPACE_TO_DEPTH SVDF TANH CONCAT_EMBEDDINGS SKIP_GRAM CALL CUSTOM
    EMBEDDING_LOOKUP_SPARSE PAD UNIDIRECTIONAL_SEQUENCE_RNN GATHER BATCH_TO_SPACE_ND
    SPACE_TO_BATCH_ND TRANSPOSE MEAN SUB DIV SQUEEZE UNIDIRECTIONAL_SEQUENCE_LSTM
    STRIDED_SLICE BIDIRECTIONAL_SEQUENCE_RNN EXP TOPK_V2 SPLIT LOG_SOFTMAX DELEGATE
    BIDIRECTIONAL_SEQUENCE_LSTM CAST PRELU MAXIMUM ARG_MAX MINIMUM LESS NEG PADV2
    GREATER GREATER_EQUAL LESS_EQUAL SELECT SLICE SIN TRANSPOSE_CONV SPARSE_TO_DENSE
    TILE EXPAND_DIMS EQUAL NOT_EQUAL LOG SUM SQRT RSQRT SHAPE POW ARG_MIN FAKE_QUANT
    REDUCE_PROD REDUCE_MAX PACK LOGICAL_OR ONE_HOT LOGICAL_AND LOGICAL_NOT UNPACK
    REDUCE_MIN FLOOR_DIV REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD RANGE
    RESIZE_NEAREST_NEIGHBOR LEAKY_RELU SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V
    UNIQUE CEIL REVERSE_V2 ADD_N GATHER_ND COS WHERE RANK ELU REVERSE_SEQUENCE
    MATRIX_DIAG QUANTIZE MATRIX_SET_DIAG ROUND HARD_SWISH IF WHILE
    NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 SCATTER_ND SELECT_V2 DENSIFY
    SEGMENT_SUM BATCH_MATMUL PLACEHOLDER_FOR_GREATER_OP_CODES CUMSUM CALL_ONCE
    BROADCAST_TO RFFT2D CONV_3D IMAG REAL COMPLEX_ABS HASHTABLE HASHTABLE_FIND
    HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL CONV_3D_TRANSPOSE VAR_HANDLE
    READ_VARIABLE ASSIGN_VARIABLE BROADCAST_ARGS RANDOM_STANDARD_NORMAL BUCKETIZE
    RANDOM_UNIFORM MULTINOMIAL GELU DYNAMIC_UPDATE_SLICE RELU_0_TO_1
    UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_SUM ATAN2
    UNSORTED_SEGMENT_MIN SIGN BITCAST BITWISE_XOR RIGHT_SHIFT
'''.split()
_PADDINGS = {0: 'SAME', 1: 'VALID'}
# ActivationFunctionType; TANH is left out, which LiteRT leaves out of convolutions.
_ACTIVATIONS = {
    0: lambda x: x,
    1: jax.nn.relu,
    2: lambda x: jnp.clip(x, -1, 1),
    3: jax.nn.relu6,
}


# Accelerators multiply float32 in fewer bits (TF32, bfloat16) unless they are told.
_EXACT = lax.Precision.HIGHEST


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
        return _Reader(data, where).read()
    except InputError:
        raise
    # Damage may show anywhere: an offset beyond the end, a shape that does not fit.
    except Exception as error:
        reason = str(error).strip().split('\n')[0] or type(error).__name__
        raise InputError(where, f'damaged: {reason}') from None


class _Table:
    """A table of a FlatBuffer; each access is checked to be inside the bytes."""

    def __init__(self, data, at):
        self.data, self.at = data, at
        self.fields = at - _number(data, at, '<i')
        self.size = _number(data, self.fields, '<H')

    def _place(self, field):
        entry = 4 + 2 * field
        if entry + 2 > self.size:
            return 0
        offset = _number(self.data, self.fields + entry, '<H')
        return self.at + offset if offset else 0

    def number(self, field, kind, default=0):
        place = self._place(field)
        return _number(self.data, place, '<' + kind) if place else default

    def table(self, field):
        place = self._place(field)
        return _Table(self.data, _follow(self.data, place)) if place else None

    def array(self, field, dtype):
        """[n] of a type; a view of the bytes. None if the field is absent."""
        place = self._place(field)
        if not place:
            return None
        start = _follow(self.data, place)
        count = _number(self.data, start, '<I')
        if start + 4 + count * dtype.itemsize > len(self.data):
            raise ValueError('a list goes beyond the end')
        return np.frombuffer(self.data, dtype, count, start + 4)

    def numbers(self, field):
        found = self.array(field, _TYPES[_INT32])
        return () if found is None else tuple(found.tolist())

    def tables(self, field):
        place = self._place(field)
        if not place:
            return []
        start = _follow(self.data, place)
        count = _number(self.data, start, '<I')
        if count > _MAX_TENSORS:
            raise ValueError(f'a list of {count} tables, limit {_MAX_TENSORS}')
        places = range(start + 4, start + 4 + 4 * count, 4)
        return [_Table(self.data, _follow(self.data, place)) for place in places]


def _number(data, at, kind):
    # A negative place would count from the end.
    if at < 0 or at + struct.calcsize(kind) > len(data):
        raise ValueError('an offset goes beyond the end')
    return struct.unpack_from(kind, data, at)[0]


def _follow(data, at):
    return at + _number(data, at, '<I')


class _Reader:
    """One file on its way to a `Network`."""

    def __init__(self, data, where):
        self.where = where
        model = _Table(data, _follow(data, 0))
        if model.number(0, 'I') != 3:
            self.refuse(f'schema version {model.number(0, "I")}, not 3')
        graphs = model.tables(2)
        if len(graphs) != 1:
            self.refuse(f'{len(graphs)} graphs, not 1')
        self.codes, self.buffers = model.tables(1), model.tables(4)
        self.graph = graphs[0]
        self.tensors = self.graph.tables(0)
        self.shapes = [tensor.numbers(0) for tensor in self.tensors]
        self.constants = {}  # tensor -> array, of those asked for
        self.weights = 0  # elements in all of these
        self.unpacked = {}  # tensor -> the operator that makes it of a constant

    def refuse(self, reason):
        raise InputError(self.where, reason)

    def read(self):
        inputs, outputs = self.graph.numbers(1), self.graph.numbers(2)
        if len(inputs) != 1 or not outputs:
            self.refuse(f'{len(inputs)} inputs, {len(outputs)} outputs, not 1 and 1+')
        for index in (*inputs, *outputs):
            self.check_activation(index)
        params, steps, made = {}, [], set(inputs)
        for operator in self.graph.tables(3):
            kind, options = self.kind(operator)
            sources, results = operator.numbers(1), operator.numbers(2)
            if len(results) != 1:
                self.refuse(f'{kind} with {len(results)} outputs')
            if kind in ('DENSIFY', 'DEQUANTIZE'):
                self.unpacked[results[0]] = sources[0]
                continue
            self.check_activation(results[0])
            weights, compute, used = _BUILDERS[kind](self, options, sources, results[0])
            missing = [index for index in used if index not in made]
            if missing:
                self.refuse(f'{kind} reads tensor {missing[0]}, which nothing makes')
            name = f'{len(steps):03d}_{kind.lower()}'
            if weights:
                params[name] = weights
            steps.append(_Step(name, compute, tuple(used), results[0]))
            made.add(results[0])
        if not set(outputs) <= made:
            self.refuse('an output that no operator makes')
        shapes = {index: self.shapes[index][1:] for index in made}
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

    def kind(self, operator):
        index = operator.number(0, 'I')
        if index >= len(self.codes):
            self.refuse(f'operator code {index} of {len(self.codes)}')
        code = self.codes[index]
        # Old files have the code in a byte; new ones 127 there, when it is larger.
        number = max(code.number(0, 'b'), code.number(3, 'i'))
        custom = code.array(1, np.dtype('u1'))
        if custom is not None and number == 32:
            name = ascii(bytes(custom[:40]).decode(errors='replace'))
            self.refuse(f'unknown operator: custom {name}')
        if number not in _OPERATORS:
            name = _NAMES[number] if 0 <= number < len(_NAMES) else f'number {number}'
            self.refuse(f'unknown operator: {name}')
        kind, newest, options_kind = _OPERATORS[number]
        version = code.number(2, 'i', 1)
        if not 1 <= version <= newest:
            self.refuse(f'{kind} of version {version}, known up to {newest}')
        found, options = operator.number(3, 'B'), operator.table(4)
        if found not in (0, options_kind):
            self.refuse(f'{kind} with options of kind {found}')
        return kind, options if found else None

    def check_activation(self, index):
        shape = self.shape(index)
        kind = self.tensors[index].number(1, 'b')
        if kind != _FLOAT32:
            self.refuse(f'tensor {index} is of type {kind}, not float32')
        if not shape or shape[0] != 1 or min(shape) < 1:
            self.refuse(f'tensor {index} of shape {shape}, not of one picture')
        if _size(shape) > _MAX_ACTIVATIONS:
            self.refuse(f'tensor {index} of shape {shape}, limit {_MAX_ACTIVATIONS}')

    def shape(self, index):
        if not 0 <= index < len(self.tensors):
            self.refuse(f'tensor {index} of {len(self.tensors)}')
        return self.shapes[index]

    def constant(self, index, dtype):
        """A constant tensor, dense: float16 comes as float32; None if there is none."""
        origin, seen = index, set()
        while origin in self.unpacked and origin not in seen:
            seen.add(origin)
            origin = self.unpacked[origin]
        shape = self.shape(origin)
        if _size(shape) != _size(self.shape(index)):
            self.refuse(f'tensor {index} is unpacked from another size')
        if origin in self.constants:
            return self.constants[origin]
        buffer = self.tensors[origin].number(2, 'I')
        if buffer >= len(self.buffers):
            self.refuse(f'buffer {buffer} of {len(self.buffers)}')
        data = self.buffers[buffer].array(0, np.dtype('u1'))
        if data is None or not len(data):
            return None
        stored = _TYPES.get(self.tensors[origin].number(1, 'b'))
        if stored is None or (stored.kind == 'i') != (dtype == np.int32):
            kind = self.tensors[origin].number(1, 'b')
            self.refuse(f'constant tensor {origin} is of type {kind}')
        if min(shape, default=1) < 1:
            self.refuse(f'constant tensor {origin} of shape {shape}')
        self.weights += _size(shape)
        if self.weights > _MAX_WEIGHTS:
            self.refuse(f'more than {_MAX_WEIGHTS} weights')
        values = data.view(stored)
        sparsity = self.tensors[origin].table(6)
        if sparsity is not None:
            values = self.densify(values, shape, sparsity)
        if values.size != _size(shape):
            self.refuse(
                f'tensor {origin} of shape {shape} has {values.size} values')
        values = values.reshape(shape).astype(dtype)
        if not np.all(np.isfinite(values)):
            self.refuse(f'constant tensor {origin} is not finite')
        self.constants[origin] = values
        return values

    def densify(self, values, shape, sparsity):
        """Rows of which only some columns are stored become whole ones."""
        order, levels = sparsity.numbers(0), sparsity.tables(2)
        formats = [level.number(0, 'b') for level in levels]
        rank = len(shape)
        if order != tuple(range(rank)) or sparsity.numbers(1):
            self.refuse('DENSIFY of blocks or of another order of dimensions')
        if formats != [0] * (rank - 1) + [1]:
            self.refuse(f'DENSIFY of dimensions stored as {formats}')
        segments, places = (
            self.sparse_numbers(levels[-1], field).astype(np.int64) for field in (2, 4))
        rows, counts = _size(shape[:-1]), np.diff(segments)
        if (len(segments) != rows + 1 or segments[0] != 0 or np.any(counts < 0)
                or segments[-1] != len(places) or len(places) != len(values)
                or np.any(places < 0) or np.any(places >= shape[-1])):
            self.refuse('a sparse tensor whose indices do not fit')
        dense = np.zeros((rows, shape[-1]), values.dtype)
        dense[np.repeat(np.arange(rows), counts), places] = values
        return dense

    def sparse_numbers(self, level, field):
        """The list of a union: its kind in `field`, its table in the next."""
        kind, table = level.number(field, 'B'), level.table(field + 1)
        if kind not in _SPARSE_INDICES or table is None:
            self.refuse(f'sparse indices of kind {kind}')
        found = table.array(0, _SPARSE_INDICES[kind])
        return np.zeros(0, np.int32) if found is None else found

    def option(self, options, field, kind, default, allowed, what):
        value = default if options is None else options.number(field, kind, default)
        if value not in allowed:
            self.refuse(f'{what} {value}')
        return allowed[value] if isinstance(allowed, dict) else value

    def activation(self, options, field, what):
        return self.option(options, field, 'b', 0, _ACTIVATIONS, f'{what}: activation')


def _size(shape):
    size = 1
    for length in shape:  # Python's integers don't overflow
        size *= length
    return size


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


# Builders: (reader, options, sources, result) -> (weights, compute, inputs used).


def _strides(reader, options, first, what):
    allowed = range(1, 17)
    width, height = (
        reader.option(options, first + place, 'i', 0, allowed, f'{what}: stride')
        for place in (0, 1))
    return height, width


def _filters(reader, sources, what, first):
    if len(sources) not in (2, 3):
        reader.refuse(f'{what} with {len(sources)} inputs')
    kernel = reader.constant(sources[1], np.float32)
    if kernel is None:
        reader.refuse(f'{what} whose filters are not constant')
    if kernel.ndim != 4:
        reader.refuse(f'{what} with filters of shape {kernel.shape}')
    weights = {'kernel': kernel.transpose(first)}
    if len(sources) == 3 and sources[2] >= 0:
        bias = weights['bias'] = reader.constant(sources[2], np.float32)
        if bias is None or bias.shape != weights['kernel'].shape[-1:]:
            reader.refuse(f'{what} whose biases are not constant, one a channel')
    return weights


def _conv_2d(reader, options, sources, result):
    what = 'CONV_2D'
    weights = _filters(reader, sources, what, (1, 2, 3, 0))  # OHWI -> HWIO
    strides = _strides(reader, options, 1, what)
    padding = reader.option(options, 0, 'b', 0, _PADDINGS, f'{what}: padding')
    activation = reader.activation(options, 3, what)
    for field in (4, 5):
        reader.option(options, field, 'i', 1, (1,), f'{what}: dilation')
    pointwise = weights['kernel'].shape[:2] == (1, 1) and strides == (1, 1)

    def compute(weights, dtype, x):
        x, kernel = x.astype(dtype), weights['kernel'].astype(dtype)
        options = dict(
            precision=_EXACT if dtype == jnp.float32 else None,
            preferred_element_type=jnp.float32)
        if pointwise:
            y = jnp.einsum('bhwi,io->bhwo', x, kernel[0, 0], **options)
        else:
            y = lax.conv_general_dilated(
                x, kernel, strides, padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
                **options)
        return activation(y + weights['bias'] if 'bias' in weights else y)

    return weights, compute, sources[:1]


def _depthwise_conv_2d(reader, options, sources, result):
    what = 'DEPTHWISE_CONV_2D'
    weights = _filters(reader, sources, what, (1, 2, 0, 3))  # [1, h, w, C] -> HW1C
    strides = _strides(reader, options, 1, what)
    padding = reader.option(options, 0, 'b', 0, _PADDINGS, f'{what}: padding')
    activation = reader.activation(options, 4, what)
    for field, name in ((3, 'depth multiplier'), (5, 'dilation'), (6, 'dilation')):
        default = 0 if field == 3 else 1
        reader.option(options, field, 'i', default, (1,), f'{what}: {name}')
    channels = weights['kernel'].shape[-1]
    if reader.shape(sources[0])[-1:] != (channels,):
        reader.refuse(f'{what} of {channels} filters for another number of channels')

    def compute(weights, dtype, x):
        y = lax.platform_dependent(
            x, weights['kernel'],
            cpu=lambda x, kernel: _shifted_sum(x, kernel, strides, padding),
            default=lambda x, kernel: lax.conv_general_dilated(
                x, kernel, strides, padding, feature_group_count=channels,
                dimension_numbers=('NHWC', 'HWIO', 'NHWC'), precision=_EXACT),
        )
        return activation(y + weights['bias'] if 'bias' in weights else y)

    return weights, compute, sources[:1]


def _shifted_sum(x, kernel, strides, padding):
    """A depthwise convolution as a sum of shifted pictures, one for each weight."""
    size = kernel.shape[:2]
    pads = lax.padtype_to_pads(x.shape[1:3], size, strides, padding)
    # Behind a barrier, lest the loop ask of each pixel whether it is padding.
    x = lax.optimization_barrier(jnp.pad(x, ((0, 0), *pads, (0, 0))))
    out = [(n - k) // s + 1 for n, k, s in zip(x.shape[1:3], size, strides)]
    total = 0
    for row in range(size[0]):
        for column in range(size[1]):
            ends = [start + (n - 1) * s + 1
                    for start, n, s in zip((row, column), out, strides)]
            shifted = x[:, row:ends[0]:strides[0], column:ends[1]:strides[1]]
            total = total + shifted * kernel[row, column, 0]
    return total


def _max_pool_2d(reader, options, sources, result):
    what = 'MAX_POOL_2D'
    strides = _strides(reader, options, 1, what)
    window = tuple(
        reader.option(options, field, 'i', 0, range(1, 65), f'{what}: window')
        for field in (4, 3))
    padding = reader.option(options, 0, 'b', 0, _PADDINGS, f'{what}: padding')
    activation = reader.activation(options, 5, what)

    def compute(weights, dtype, x):
        pooled = lax.reduce_window(
            x, jnp.array(-jnp.inf, x.dtype), lax.max, (1, *window, 1), (1, *strides, 1),
            padding)
        return activation(pooled)

    return {}, compute, sources[:1]


def _add(reader, options, sources, result):
    if len(sources) != 2:
        reader.refuse(f'ADD with {len(sources)} inputs')
    activation = reader.activation(options, 0, 'ADD')
    if reader.shape(sources[0]) != reader.shape(sources[1]):
        reader.refuse('ADD of tensors of two shapes')
    return {}, lambda weights, dtype, a, b: activation(a + b), sources


def _concatenation(reader, options, sources, result):
    activation = reader.activation(options, 1, 'CONCATENATION')
    rank = len(reader.shape(result))
    # Negative axes count from the end; the pictures are never joined.
    allowed = {axis: axis % rank for axis in range(-rank, rank) if axis % rank}
    axis = reader.option(options, 0, 'i', 0, allowed, 'CONCATENATION: axis')
    return (
        {}, lambda weights, dtype, *xs: activation(jnp.concatenate(xs, axis)), sources)


def _reshape(reader, options, sources, result):
    # The shape is also the second input or an option; all say what the result's says.
    shape = reader.shape(result)[1:]
    return {}, lambda weights, dtype, x: x.reshape(x.shape[0], *shape), sources[:1]


def _pad(reader, options, sources, result):
    pads = reader.constant(sources[1], np.int32) if len(sources) == 2 else None
    rank = len(reader.shape(result))
    if pads is None or pads.shape != (rank, 2):
        reader.refuse('PAD by what is not a constant of its rank')
    if np.any(pads < 0) or np.any(pads[0]):
        reader.refuse(f'PAD by {pads.tolist()}')
    widths = tuple(map(tuple, pads.tolist()))
    before, after = reader.shape(sources[0]), reader.shape(result)
    if tuple(n + sum(w) for n, w in zip(before, widths)) != after:
        reader.refuse(f'PAD of {before} by {pads.tolist()} to {after}')
    return {}, lambda weights, dtype, x: jnp.pad(x, widths), sources[:1]


def _depth_to_space(reader, options, sources, result):
    block = reader.option(
        options, 0, 'i', 0, range(1, 65), 'DEPTH_TO_SPACE: block size')

    def compute(weights, dtype, x):
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height, width, block, block, channels // block**2)
        return x.transpose(0, 1, 3, 2, 4, 5).reshape(
            batch, height * block, width * block, -1)

    return {}, compute, sources[:1]


def _resize_bilinear(reader, options, sources, result):
    what = 'RESIZE_BILINEAR'
    corners = bool(reader.option(options, 2, 'B', 0, (0, 1), f'{what}: align corners'))
    half = bool(reader.option(options, 3, 'B', 0, (0, 1), f'{what}: half pixels'))
    if corners and half:
        reader.refuse(f'{what} with both align corners and half pixels')
    size = reader.constant(sources[1], np.int32) if len(sources) == 2 else None
    before, after = reader.shape(sources[0]), reader.shape(result)
    if size is None or len(before) != 4 or tuple(size) != after[1:3]:
        reader.refuse(f'{what} to what is not its constant size')
    rows, columns = (
        _interpolation(n, m, corners, half) for n, m in zip(before[1:3], after[1:3]))

    def compute(weights, dtype, x):
        x = jnp.einsum('yh,bhwc->bywc', rows, x, precision=_EXACT)
        return jnp.einsum('xw,bywc->byxc', columns, x, precision=_EXACT)

    return {}, compute, sources[:1]


def _interpolation(old, new, corners, half):
    """[new, old] float32: weights of linear interpolation between neighbours."""
    if _size((old, new)) > _MAX_ACTIVATIONS:
        raise ValueError(f'RESIZE_BILINEAR from {old} to {new}')
    scale = (old - 1) / (new - 1) if corners and new > 1 else old / new
    places = (np.arange(new) + 0.5) * scale - 0.5 if half else np.arange(new) * scale
    places = np.clip(places, 0, old - 1)
    low = np.floor(places).astype(int)
    high = np.minimum(low + 1, old - 1)
    share = (places - low).astype(np.float32)
    weights = np.zeros((new, old), np.float32)
    np.add.at(weights, (np.arange(new), low), 1 - share)
    np.add.at(weights, (np.arange(new), high), share)
    return weights


def _logistic(reader, options, sources, result):
    return {}, lambda weights, dtype, x: jax.nn.sigmoid(x), sources[:1]


_BUILDERS: dict[str, Any] = {
    'ADD': _add, 'CONCATENATION': _concatenation, 'CONV_2D': _conv_2d,
    'DEPTHWISE_CONV_2D': _depthwise_conv_2d, 'DEPTH_TO_SPACE': _depth_to_space,
    'LOGISTIC': _logistic, 'MAX_POOL_2D': _max_pool_2d, 'PAD': _pad,
    'RESHAPE': _reshape, 'RESIZE_BILINEAR': _resize_bilinear,
}
