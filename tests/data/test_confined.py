"""A call that breaks a limit or its process costs itself; answers come back whole."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from jaxmed.data import confined, images
from jaxmed.errors import ImageError

LIMITS = dict(memory_bytes=300 << 20, seconds=20)


def fail(reason, function, *args, **options):
    with pytest.raises(confined.Failed) as caught:
        confined.run(function, *args, **(LIMITS | options))
    assert reason in str(caught.value) and '\n' not in str(caught.value)
    return str(caught.value)


def test_a_result_comes_back_as_it_was():
    text = ("{'a': (1, [__import__('numpy').arange(3), 2.5, None]), 3: 'é', "
            "'b': __import__('numpy').ones((2, 0)), "
            "'c': __import__('numpy').arange(5.0)[::2]}")
    result = confined.run(eval, text, **LIMITS)
    assert result['a'][0] == 1 and result['a'][1][1:] == [2.5, None]
    assert result[3] == 'é' and result['b'].shape == (2, 0)
    np.testing.assert_array_equal(result['a'][1][0], [0, 1, 2])
    np.testing.assert_array_equal(result['c'], [0, 2, 4])


def test_an_array_can_be_written_to():
    array = confined.run(np.zeros, [3, 4], dtype='int16', **LIMITS)
    array[1] = 7
    assert array.dtype == np.int16 and array.sum() == 28


def test_the_process_is_kept_and_knows_no_jax():
    first = confined.run(os.getpid, **LIMITS)
    assert first != os.getpid() and confined.run(os.getpid, **LIMITS) == first
    assert not confined.run(eval, "'jax' in __import__('sys').modules", **LIMITS)


def test_errors_of_input_are_the_same_on_either_side(tmp_path):
    path = tmp_path / 'none.png'
    with pytest.raises(ImageError) as caught:
        confined.run(images.read_image, path, max_pixels=9, **LIMITS)
    assert str(caught.value) == f'{path}: No such file or directory'


def test_relative_paths_are_those_of_the_caller(tmp_path, monkeypatch):
    confined.run(os.getpid, **LIMITS)
    monkeypatch.chdir(tmp_path)
    assert confined.run(os.getcwd, **LIMITS) == str(tmp_path)


def test_too_much_memory_is_named():
    fail('needed more than 300 MiB', bytearray, 400 << 20)
    assert len(confined.run(np.zeros, 200 << 20, dtype='u1', **LIMITS)) == 200 << 20


def test_a_call_that_hangs_is_ended():
    before = time.monotonic()
    fail('took longer than 0.3 s', time.sleep, 60, seconds=0.3)
    assert time.monotonic() - before < 5


def test_a_crash_costs_a_call_and_not_the_next():
    fail('crashed (SIGABRT)', os.abort)
    fail('crashed (exit code 3)', os._exit, 3)
    assert confined.run(abs, -3, **LIMITS) == 3


def test_what_an_unexpected_error_quotes_is_not_told():
    told = fail('failed with ValueError in ', int, 'Roe^Jane')
    assert 'Roe' not in told


def test_threads_have_processes_of_their_own():
    with ThreadPoolExecutor(2) as pool:
        naps = [pool.submit(confined.run, time.sleep, 0.5, **LIMITS) for _ in range(2)]
        numbers = [pool.submit(confined.run, abs, -n, **LIMITS) for n in range(9)]
        assert [nap.result() for nap in naps] == [None, None]
        assert [number.result() for number in numbers] == list(range(9))


def test_a_function_without_a_name_is_refused():
    with pytest.raises(ValueError, match='lambda'):
        confined.run(lambda: 0, **LIMITS)
