"""The benchmark: rivals in processes of their own, and the command as a whole."""

import json
import subprocess
import sys

import numpy as np
import pytest

from launch import benchmarks
from tests.commands import ROOT, TINY


def test_a_rival_takes_turns_in_processes_with_and_without_our_malloc(
    tmp_path, monkeypatch
):
    monkeypatch.setenv('GLIBC_TUNABLES', 'glibc.malloc.hugetlb=1')
    log = tmp_path / 'log'
    arrays = np.ones((2, 3, 4, 1), np.float32), np.zeros((2, 5), np.float32)
    config = {'log': str(log)}
    with benchmarks.start('tests.numpy_rival', config, *arrays) as rivals:
        assert list(rivals) == ['numpy', "numpy, jaxmed's malloc"]
        for train, _ in rivals.values():
            train()
        with pytest.raises(RuntimeError, match='numpy ended with code 3'):
            rivals['numpy'][1]()
    assert log.read_text().splitlines() == [
        'train (2, 3, 4, 1) (2, 5) plain',
        'train (2, 3, 4, 1) (2, 5) glibc.malloc.hugetlb=1',
    ]


def test_the_command_times_training_prediction_and_input(tmp_path):
    output = tmp_path / 'speed.json'
    subprocess.run(
        [sys.executable, '-m', 'launch.benchmark', *TINY, '--rounds=2',
         f'--output={output}'], cwd=ROOT, check=True, capture_output=True, timeout=240,
    )
    result = json.loads(output.read_text())
    for kind in ('train', 'forward'):
        times = result['seconds']['jaxmed'][kind]
        assert 0 < times['min'] <= times['median'] <= times['max']
        assert result['images_per_s']['jaxmed'][kind] == pytest.approx(
            result['batch_size'] / times['median'])
    assert 0 <= result['pipeline']['input_wait'] < 1
    assert 0 < result['warm_start']['warm_s'] < result['warm_start']['cold_s']
    assert result['decoding']['images_per_s'] > 0
    assert result['memory']['host_peak_bytes'] > 1e8
