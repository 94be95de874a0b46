"""What a .tflite file holds: operators by name, tensors, constants made dense.

tensorflow/lite/schema/schema.fbs; fields are named below by their places in its tables.
"""

import math

import numpy as np

from jaxmed.errors import InputError
from jaxmed.models.flatbuffer import read_root

_MAX_WEIGHTS = 1 << 27  # of all constants together, once they are unpacked
MAX_ACTIVATIONS = 1 << 26  # of one tensor, for one picture

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


class File:
    """A .tflite file of one graph: its operators' kinds, tensors and constants."""

    def __init__(self, data, where):
        self.where = where
        model = read_root(data)
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

    def kind(self, operator):
        """The name of an operator and the Table of its options, None without."""
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
        """Refuses what is no float32 of one picture."""
        shape = self.shape(index)
        kind = self.tensors[index].number(1, 'b')
        if kind != _FLOAT32:
            self.refuse(f'tensor {index} is of type {kind}, not float32')
        if not shape or shape[0] != 1 or min(shape) < 1:
            self.refuse(f'tensor {index} of shape {shape}, not of one picture')
        if math.prod(shape) > MAX_ACTIVATIONS:
            self.refuse(f'tensor {index} of shape {shape}, limit {MAX_ACTIVATIONS}')

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
        if math.prod(self.shape(origin)) != math.prod(self.shape(index)):
            self.refuse(f'tensor {index} is unpacked from another size')
        if origin not in self.constants:
            values = self._read_constant(origin, dtype)
            if values is None:
                return None
            self.constants[origin] = values
        return self.constants[origin]

    def _read_constant(self, index, dtype):
        tensor, shape = self.tensors[index], self.shape(index)
        buffer = tensor.number(2, 'I')
        if buffer >= len(self.buffers):
            self.refuse(f'buffer {buffer} of {len(self.buffers)}')
        data = self.buffers[buffer].array(0, np.dtype('u1'))
        if data is None or not len(data):
            return None
        kind = tensor.number(1, 'b')
        stored = _TYPES.get(kind)
        if stored is None or (stored.kind == 'i') != (dtype == np.int32):
            self.refuse(f'constant tensor {index} is of type {kind}')
        if min(shape, default=1) < 1:
            self.refuse(f'constant tensor {index} of shape {shape}')
        self.weights += math.prod(shape)
        if self.weights > _MAX_WEIGHTS:
            self.refuse(f'more than {_MAX_WEIGHTS} weights')
        values = data.view(stored)
        sparsity = tensor.table(6)
        if sparsity is not None:
            values = self._densify(values, shape, sparsity)
        if values.size != math.prod(shape):
            self.refuse(f'tensor {index} of shape {shape} has {values.size} values')
        values = values.reshape(shape).astype(dtype)
        if not np.all(np.isfinite(values)):
            self.refuse(f'constant tensor {index} is not finite')
        return values

    def _densify(self, values, shape, sparsity):
        """Rows of which only some columns are stored become whole ones."""
        order, levels = sparsity.numbers(0), sparsity.tables(2)
        formats = [level.number(0, 'b') for level in levels]
        rank = len(shape)
        if order != tuple(range(rank)) or sparsity.numbers(1):
            self.refuse('DENSIFY of blocks or of another order of dimensions')
        if formats != [0] * (rank - 1) + [1]:
            self.refuse(f'DENSIFY of dimensions stored as {formats}')
        segments, places = (
            self._sparse_numbers(levels[-1], field).astype(np.int64)
            for field in (2, 4))
        rows, counts = math.prod(shape[:-1]), np.diff(segments)
        if (len(segments) != rows + 1 or segments[0] != 0 or np.any(counts < 0)
                or segments[-1] != len(places) or len(places) != len(values)
                or np.any(places < 0) or np.any(places >= shape[-1])):
            self.refuse('a sparse tensor whose indices do not fit')
        dense = np.zeros((rows, shape[-1]), values.dtype)
        dense[np.repeat(np.arange(rows), counts), places] = values
        return dense

    def _sparse_numbers(self, level, field):
        """The list of a union: its kind in `field`, its table in the next."""
        kind, table = level.number(field, 'B'), level.table(field + 1)
        if kind not in _SPARSE_INDICES or table is None:
            self.refuse(f'sparse indices of kind {kind}')
        found = table.array(0, _SPARSE_INDICES[kind])
        return np.zeros(0, np.int32) if found is None else found
