"""Writes small .tflite files, and runs any with LiteRT."""

import flatbuffers
import jax.numpy as jnp
import numpy as np
import pytest

litert = pytest.importorskip(
    'ai_edge_litert.interpreter', reason='ai-edge-litert is a test extra')
schema = pytest.importorskip('ai_edge_litert.schema_py_generated')

RNG = np.random.default_rng(0)


def draw(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


class Writer:
    """Writes a network of a few operators, input first."""

    def __init__(self, shape):
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.subgraphs = 3, [self.graph]
        self.model.operatorCodes, self.model.buffers = [], [schema.BufferT()]
        self.graph.tensors, self.graph.operators = [], []
        self.graph.inputs = [self.tensor(shape)]

    def tensor(self, shape, values=None, kind=None):
        tensor, kinds = schema.TensorT(), schema.TensorType
        tensor.shape, tensor.type = list(shape), kinds.FLOAT32 if kind is None else kind
        if values is not None:
            tensor.type = {'f4': kinds.FLOAT32, 'f2': kinds.FLOAT16, 'i4': kinds.INT32}[
                values.dtype.str[1:]]
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(values.tobytes(), np.uint8)
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def constant(self, values):
        return self.tensor(values.shape, values)

    def operator(self, name, inputs, shape, *, version=1, **options):
        code, operator = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = getattr(schema.BuiltinOperator, name)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = version
        self.model.operatorCodes.append(code)
        operator.opcodeIndex = len(self.model.operatorCodes) - 1
        operator.inputs, operator.outputs = list(inputs), [self.tensor(shape)]
        kind = KINDS.get(name)
        if kind:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            operator.builtinOptions = getattr(schema, kind + 'T')()
            for key, value in options.items():
                assert hasattr(operator.builtinOptions, key), key
                setattr(operator.builtinOptions, key, value)
        self.graph.operators.append(operator)
        self.graph.outputs = operator.outputs
        return operator.outputs[0]

    def bytes(self):
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b'TFL3')
        return bytes(builder.Output())


KINDS = {
    'ADD': 'AddOptions', 'CONCATENATION': 'ConcatenationOptions',
    'CONV_2D': 'Conv2DOptions', 'DEPTHWISE_CONV_2D': 'DepthwiseConv2DOptions',
    'DEPTH_TO_SPACE': 'DepthToSpaceOptions', 'MAX_POOL_2D': 'Pool2DOptions',
    'RESIZE_BILINEAR': 'ResizeBilinearOptions', 'MUL': 'MulOptions',
}


def conv(padding, stride, activation, size=3, *, shape):
    writer = Writer((1, 9, 8, 3))
    writer.operator(
        'CONV_2D', [0, writer.constant(draw(5, size, size, 3)),
                    writer.constant(draw(5))], shape, padding=padding,
        strideW=stride, strideH=stride, fusedActivationFunction=activation)
    return writer


def depthwise(padding, stride, size, *, shape, channels=4):
    writer = Writer((1, 9, 8, channels))
    writer.operator(
        'DEPTHWISE_CONV_2D',
        [0, writer.constant(draw(1, size, size, channels)),
         writer.constant(draw(channels))], shape, padding=padding, strideW=stride,
        strideH=stride, depthMultiplier=1, fusedActivationFunction=3)
    return writer


def simple(name, before, after, *constants, **options):
    writer = Writer(before)
    inputs = [0, *map(writer.constant, constants)]
    writer.operator(name, inputs, after, **options)
    return writer


def twice(name, before, after, **options):
    writer = Writer(before)
    writer.operator(name, [0, 0], after, **options)
    return writer


def half_weights():
    writer = Writer((1, 4, 4, 3))
    stored = writer.constant(draw(2, 1, 1, 3).astype(np.float16))
    kernel = writer.operator('DEQUANTIZE', [stored], (2, 1, 1, 3), version=2)
    writer.operator(
        'CONV_2D', [0, kernel, writer.constant(draw(2))], (1, 4, 4, 2), padding=0,
        strideW=1, strideH=1)
    return writer


def sparse_weights(indices=(1, 0, 2), segments=(0, 1, 3)):
    """Rows [0 7 0] and [5 0 6]."""
    writer = Writer((1, 4, 4, 3))
    values = np.array([7, 5, 6], np.float16)
    stored = writer.tensor((2, 1, 1, 3), values)
    sparsity = schema.SparsityParametersT()
    sparsity.traversalOrder, sparsity.dimMetadata = [0, 1, 2, 3], []
    for size in (2, 1, 1, None):
        level = schema.DimensionMetadataT()
        if size is None:
            level.format = schema.DimensionType.SPARSE_CSR
            level.arraySegmentsType = schema.SparseIndexVector.Uint16Vector
            level.arraySegments = schema.Uint16VectorT()
            level.arraySegments.values = np.array(segments, np.uint16)
            level.arrayIndicesType = schema.SparseIndexVector.Uint8Vector
            level.arrayIndices = schema.Uint8VectorT()
            level.arrayIndices.values = np.array(indices, np.uint8)
        else:
            level.denseSize = size
        sparsity.dimMetadata.append(level)
    writer.graph.tensors[stored].sparsity = sparsity
    halves = writer.operator('DENSIFY', [stored], (2, 1, 1, 3))
    writer.graph.tensors[halves].type = schema.TensorType.FLOAT16
    kernel = writer.operator('DEQUANTIZE', [halves], (2, 1, 1, 3), version=3)
    writer.operator(
        'CONV_2D', [0, kernel, writer.constant(np.zeros(2, np.float32))],
        (1, 4, 4, 2), padding=0, strideW=1, strideH=1)
    return writer


NETWORKS = {
    'conv_same_relu6': lambda: conv(0, 2, 3, shape=(1, 5, 4, 5)),
    'conv_valid_relu': lambda: conv(1, 1, 1, shape=(1, 7, 6, 5)),
    'conv_same_even': lambda: conv(0, 2, 2, 2, shape=(1, 5, 4, 5)),
    'conv_pointwise': lambda: conv(0, 1, 3, 1, shape=(1, 9, 8, 5)),
    'conv_pointwise_stride': lambda: conv(1, 2, 0, 1, shape=(1, 5, 4, 5)),
    'depthwise_same': lambda: depthwise(0, 1, 3, shape=(1, 9, 8, 4)),
    'depthwise_same_stride': lambda: depthwise(0, 2, 3, shape=(1, 5, 4, 4)),
    'depthwise_valid_stride': lambda: depthwise(1, 2, 5, shape=(1, 3, 2, 4)),
    'add_relu6': lambda: twice(
        'ADD', (1, 3, 2, 4), (1, 3, 2, 4), fusedActivationFunction=3),
    'concatenation': lambda: twice(
        'CONCATENATION', (1, 3, 2, 4), (1, 3, 4, 4), axis=-2),
    'depth_to_space': lambda: simple(
        'DEPTH_TO_SPACE', (1, 3, 2, 8), (1, 6, 4, 2), blockSize=2),
    'logistic': lambda: simple('LOGISTIC', (1, 3, 2, 4), (1, 3, 2, 4)),
    'max_pool_same': lambda: simple(
        'MAX_POOL_2D', (1, 5, 4, 3), (1, 3, 2, 3), padding=0, strideW=2, strideH=2,
        filterWidth=3, filterHeight=2),
    'max_pool_valid': lambda: simple(
        'MAX_POOL_2D', (1, 5, 4, 3), (1, 2, 2, 3), padding=1, strideW=2, strideH=2,
        filterWidth=2, filterHeight=2),
    'pad': lambda: simple(
        'PAD', (1, 3, 2, 4), (1, 6, 2, 5),
        np.array([[0, 0], [1, 2], [0, 0], [0, 1]], np.int32)),
    'reshape': lambda: simple(
        'RESHAPE', (1, 3, 2, 4), (1, 6, 4), np.array([1, 6, 4], np.int32)),
    'resize_half': lambda: simple(
        'RESIZE_BILINEAR', (1, 3, 4, 2), (1, 6, 9, 2), np.array([6, 9], np.int32),
        version=3, halfPixelCenters=True),
    'resize_corners': lambda: simple(
        'RESIZE_BILINEAR', (1, 3, 4, 2), (1, 6, 9, 2), np.array([6, 9], np.int32),
        version=3, alignCorners=True),
    'resize_plain': lambda: simple(
        'RESIZE_BILINEAR', (1, 3, 4, 2), (1, 6, 3, 2), np.array([6, 3], np.int32)),
    'half_weights': half_weights,
    'sparse_weights': sparse_weights,
}


def run(network, inputs, dtype=jnp.float32):
    return network.apply(network.params, inputs, dtype=dtype)


def run_litert(data, inputs):
    interpreter = litert.Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    rows = []
    for picture in inputs:
        place = interpreter.get_input_details()[0]['index']
        interpreter.set_tensor(place, picture[None])
        interpreter.invoke()
        rows.append([
            interpreter.get_tensor(output['index'])[0]
            for output in interpreter.get_output_details()])
    return [np.stack(output) for output in zip(*rows)]
