"""Bundles: what is opened, and what is refused before it takes memory."""

import hashlib
import os
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxmed.errors import InputError
from jaxmed.models import blazepose
from jaxmed.models.blazepose import DETECTOR, LANDMARKS, open_bundle

NO_BUNDLE = 'no .task bundle, or a damaged one'


@pytest.fixture(scope='module')
def bundle():
    folder = os.environ.get('JAXMED_SAMPLE_DATA')
    if not folder:
        pytest.skip('JAXMED_SAMPLE_DATA is not set')
    return Path(folder, 'models', 'pose_landmarker_full.task')


def write(path, **entries):
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(f'{name}.tflite', data)
    return path


def refused(path, sha256=''):
    with pytest.raises(InputError) as error:
        open_bundle(path, sha256=sha256)
    assert '\n' not in str(error.value) and path.name in str(error.value)
    return error.value.reason


def test_the_full_bundle_has_the_networks_and_their_weights(bundle):
    digest = hashlib.sha256(bundle.read_bytes()).hexdigest()
    networks = open_bundle(bundle, sha256=digest.upper())
    assert networks.sha256 == digest
    assert networks.detector.output_shapes == ((2254, 12), (2254, 1))
    assert networks.landmarks.output_shapes[0] == (39 * 5,)
    leaves = jax.tree.leaves(networks.params)
    assert all(leaf.dtype == np.float32 for leaf in leaves)
    # The first convolution: 3 x 3 of 3 colours to 24 channels.
    first = networks.params['landmarks']['001_conv_2d']
    assert first['kernel'].shape == (3, 3, 3, 24) and first['bias'].shape == (24,)


def test_another_sha256_is_refused(bundle):
    assert 'its SHA-256 is' in refused(bundle, sha256='0' * 64)


def test_what_is_no_bundle_is_refused(tmp_path):
    path = tmp_path / 'x.task'
    assert refused(path) == 'No such file or directory'
    assert refused(tmp_path) == 'not a file'
    path.write_bytes(b'')
    assert refused(path) == NO_BUNDLE
    path.write_bytes(b'\x89PNG\r\n\x1a\n' * 99)
    assert refused(path) == NO_BUNDLE
    assert refused(write(path, hand_landmarks=b'x')) == (
        f'no pose landmarker, or a damaged one: {DETECTOR} is not in it')
    assert refused(write(path, pose_detector=b'x')) == (
        f'no pose landmarker, or a damaged one: {LANDMARKS} is not in it')
    write(path, pose_detector=b'x', pose_landmarks_detector=b'x')
    assert refused(path) == 'not a TensorFlow Lite file of version 3'


def test_a_named_pipe_does_not_hang(tmp_path):
    path = tmp_path / 'pipe.task'
    os.mkfifo(path)
    assert refused(path) == 'not a file'


def test_sizes_are_checked_before_anything_is_unpacked(tmp_path, monkeypatch):
    path = tmp_path / 'x.task'
    write(path, pose_detector=bytes(2_000_000), pose_landmarks_detector=b'x')
    monkeypatch.setattr(blazepose, 'MAX_BYTES', 1_000_000)
    assert path.stat().st_size < 10_000
    assert refused(path) == '2000001 bytes unpacked, limit 1000000'
    monkeypatch.setattr(blazepose, 'MAX_BYTES', 100)
    assert 'bytes, limit 100' in refused(path)


def test_a_bundle_that_declares_less_than_it_holds_is_refused(tmp_path):
    path = tmp_path / 'x.task'
    write(path, pose_detector=bytes(50_000), pose_landmarks_detector=b'x')
    data = path.read_bytes()
    size = (50_000).to_bytes(4, 'little')
    assert data.count(size) == 2
    path.write_bytes(data.replace(size, (60_000).to_bytes(4, 'little')))
    refused(path)
    path.write_bytes(data.replace(size, (40_000).to_bytes(4, 'little')))
    refused(path)


def test_networks_of_other_shapes_are_refused(bundle, tmp_path):
    archive = zipfile.ZipFile(bundle)
    swapped = write(
        tmp_path / 'swapped.task', pose_detector=archive.read(LANDMARKS),
        pose_landmarks_detector=archive.read(DETECTOR))
    assert refused(swapped).startswith('maps (256, 256, 3) to')


def test_truncated_and_damaged_bundles_are_refused(bundle, tmp_path):
    data, path = bundle.read_bytes(), tmp_path / 'x.task'
    for end in (10, 1000, len(data) // 2, len(data) - 5):
        path.write_bytes(data[:end])
        refused(path)
    middle = bytearray(data)
    middle[1_000_000:1_000_100] = bytes(100)  # the archive's check sum tells
    path.write_bytes(middle)
    assert refused(path).endswith('.tflite in it is damaged')
    archive = zipfile.ZipFile(bundle)
    write(path, pose_detector=archive.read(DETECTOR)[:1_500_000],
          pose_landmarks_detector=archive.read(LANDMARKS))
    assert refused(path).startswith('damaged: ')
