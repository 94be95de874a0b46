"""The tflite reader: every operator against LiteRT, and what it refuses."""

import os
import zipfile
from pathlib import Path

import flatbuffers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmed.errors import InputError
from jaxmed.models import tflite

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


@pytest.mark.parametrize('name', NETWORKS)
def test_each_operator_computes_what_litert_does_for_any_batch(name):
    data = NETWORKS[name]().bytes()
    network = tflite.read_network(data, where=name)
    inputs = 3 * draw(3, *network.input_shape)
    found, = run(network, inputs)
    wanted, = run_litert(data, inputs)
    assert found.shape == (3, *network.output_shapes[0]) == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=2e-5, rtol=1e-5)


def test_sparse_weights_are_the_rows_worked_out_by_hand():
    network = tflite.read_network(sparse_weights().bytes(), where='x')
    kernel, = (w['kernel'] for w in network.params.values())
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel[0, 0].T, [[0, 7, 0], [5, 0, 6]])
    assert network.operators == ('CONV_2D',)


def test_doubling_mixes_neighbours_three_to_one():
    weights = tflite._interpolation(2, 4, False, True)
    np.testing.assert_allclose(weights, [[1, 0], [.75, .25], [.25, .75], [0, 1]])


@pytest.mark.parametrize('size, strides, padding', [
    (3, (1, 1), 'SAME'), (5, (2, 2), 'VALID'), (3, (2, 2), 'SAME')])
def test_shifted_pictures_add_up_to_a_grouped_convolution(size, strides, padding):
    x, kernel = draw(2, 11, 8, 6), draw(size, size, 1, 6)
    wanted = jax.lax.conv_general_dilated(
        x, kernel, strides, padding, feature_group_count=6,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    np.testing.assert_allclose(
        tflite._shifted_sum(x, kernel, strides, padding), wanted, atol=1e-5)


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


def refused(change):
    """What is said of a convolution after `change`."""
    writer = conv(0, 1, 3, shape=(1, 9, 8, 5))
    change(writer)
    with pytest.raises(InputError) as error:
        tflite.read_network(writer.bytes(), where='net.tflite')
    assert '\n' not in str(error.value) and str(error.value).startswith('net.tflite: ')
    return error.value.reason


def test_unknown_operators_are_refused_by_name():
    def multiply(writer):
        writer.operator('MUL', [0, 0], (1, 9, 8, 3))

    def custom(writer):
        writer.operator('CUSTOM', [0], (1, 9, 8, 3))
        writer.model.operatorCodes[-1].customCode = b'Landmarks2Transform'

    assert refused(multiply) == 'unknown operator: MUL'
    assert refused(custom) == "unknown operator: custom 'Landmarks2Transform'"


def test_versions_types_and_options_without_a_meaning_here_are_refused():
    def option(**changes):
        def change(writer):
            vars(writer.graph.operators[0].builtinOptions).update(changes)
        return change

    def version(writer):
        writer.model.operatorCodes[0].version = 7

    def quantised(writer):
        writer.graph.tensors[1].type = schema.TensorType.INT8

    def whole_numbers(writer):
        writer.graph.tensors[0].type = schema.TensorType.UINT8

    def other_schema(writer):
        writer.model.version = 4

    assert refused(option(dilationHFactor=2)) == 'CONV_2D: dilation 2'
    assert refused(option(fusedActivationFunction=5)) == 'CONV_2D: activation 5'
    assert refused(option(padding=2)) == 'CONV_2D: padding 2'
    assert refused(option(strideW=0)) == 'CONV_2D: stride 0'
    assert refused(version) == 'CONV_2D of version 7, known up to 2'
    assert refused(quantised) == 'constant tensor 1 is of type 9'
    assert refused(whole_numbers) == 'tensor 0 is of type 3, not float32'
    assert refused(other_schema) == 'schema version 4, not 3'


def test_shapes_that_do_not_fit_are_refused():
    def output(writer):
        writer.graph.tensors[-1].shape = [1, 9, 8, 6]

    def kernel(writer):
        writer.graph.tensors[1].shape = [5, 3, 3, 4]

    def pictures(writer):
        writer.graph.tensors[0].shape = [2, 9, 8, 3]

    def huge(writer):
        writer.graph.tensors[0].shape = [1, 2**20, 2**20, 3]

    assert 'gives (9, 8, 5), not (9, 8, 6)' in refused(output)
    assert refused(kernel) == 'tensor 1 of shape (5, 3, 3, 4) has 135 values'
    assert 'not of one picture' in refused(pictures)
    assert 'limit' in refused(huge)


@pytest.mark.parametrize('indices, segments', [
    ((1, 0, 3), (0, 1, 3)), ((1, 0, 2), (0, 4, 3)), ((1, 0, 2), (0, 1, 2)),
    ((1, 0), (0, 1, 2)), ((1, 0, 2), (0, 3))])
def test_sparse_indices_outside_the_tensor_are_refused(indices, segments):
    with pytest.raises(InputError, match='indices do not fit'):
        tflite.read_network(sparse_weights(indices, segments).bytes(), where='x')


def test_damaged_bytes_end_in_an_input_error_or_in_a_network():
    data = NETWORKS['conv_same_relu6']().bytes()
    random, failed = np.random.default_rng(1), 0
    for number in range(150):
        damaged = bytearray(data)
        for place in random.integers(0, len(data), 1 + number % 4):
            damaged[place] = random.integers(256)
        try:
            tflite.read_network(bytes(damaged), where='x')
        except InputError as error:
            failed += 1
            assert '\n' not in str(error)
    assert failed > 30
    for end in range(0, len(data), 37):
        with pytest.raises(InputError):
            tflite.read_network(data[:end], where='x')


def test_lists_longer_than_the_file_take_no_memory():
    data = bytearray(NETWORKS['logistic']().bytes())
    root = int.from_bytes(data[:4], 'little')
    table = root - int.from_bytes(data[root:root + 4], 'little', signed=True)
    field = int.from_bytes(data[table + 8:table + 10], 'little')  # the graphs
    start = root + field
    start += int.from_bytes(data[start:start + 4], 'little')
    data[start:start + 4] = b'\xff\xff\xff\x7f'
    with pytest.raises(InputError, match='a list of 2147483647 tables'):
        tflite.read_network(bytes(data), where='x')


@pytest.mark.parametrize('name', ['pose_detector', 'pose_landmarks_detector'])
def test_real_networks_agree_with_litert(name):
    folder = os.environ.get('JAXMED_SAMPLE_DATA')
    if not folder:
        pytest.skip('JAXMED_SAMPLE_DATA is not set')
    bundle = Path(folder, 'models', 'pose_landmarker_full.task')
    data = zipfile.ZipFile(bundle).read(f'{name}.tflite')
    network = tflite.read_network(data, where=name)
    inputs = real_pictures(Path(folder, 'pose', 'video'), network.input_shape[0])
    if name == 'pose_detector':
        inputs = inputs * 2 - 1
    found = jax.jit(lambda p, x: network.apply(p, x, dtype=jnp.float32))(
        network.params, inputs)
    for output, wanted in zip(found, run_litert(data, inputs), strict=True):
        if output.shape[1:] == (256, 256, 1):
            # The mask's logits go beyond 1000, sums of much larger terms: their
            # probabilities are compared.
            output, wanted = jax.nn.sigmoid(output), jax.nn.sigmoid(wanted)
        np.testing.assert_allclose(output, wanted, rtol=1e-5, atol=1e-3)


def real_pictures(folder, size):
    """A frame of each video, [2, size, size, 3] in [0, 1]."""
    cv2 = pytest.importorskip('cv2')
    pictures = []
    for path in sorted(folder.glob('*.mp4')):
        found, frame = cv2.VideoCapture(str(path)).read()
        assert found
        frame = cv2.resize(frame[300:1380], (size, size), interpolation=cv2.INTER_AREA)
        pictures.append(frame[..., ::-1])
    return np.stack(pictures).astype(np.float32) / 255
