"""Networks that are read compute what LiteRT does; others are refused by name."""

import os
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmed.errors import InputError
from jaxmed.models import tflite
from tests.models.tflite_writer import (
    NETWORKS,
    conv,
    run_litert,
    schema,
    sparse_weights,
)


def test_sparse_weights_are_the_rows_worked_out_by_hand():
    network = tflite.read_network(sparse_weights().bytes(), where='x')
    kernel, = (w['kernel'] for w in network.params.values())
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel[0, 0].T, [[0, 7, 0], [5, 0, 6]])
    assert network.operators == ('CONV_2D',)


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
