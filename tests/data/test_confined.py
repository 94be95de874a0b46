"""A call that breaks a limit or its process costs itself; answers come back whole."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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


@pytest.mark.skipif(sys.platform != 'linux', reason='of glibc')
def test_memory_that_a_call_has_freed_counts_again():
    # The C library would keep freed blocks for the next call, after which the size up
    # to which it does so grows.
    call = "len([bytes(8 << 20), bytes(16 << 20)])"
    for _ in range(2):
        confined.run(eval, call, **LIMITS)
    refuse_all = LIMITS | {'memory_bytes': 6 << 20}
    with pytest.raises(confined.Failed, match='needed more than 6 MiB'):
        confined.run(eval, 'len(bytes(10 << 20))', **refuse_all)


def test_a_call_that_hangs_is_ended():
    before = time.monotonic()
    fail('took longer than 0.3 s', time.sleep, 60, seconds=0.3)
    assert time.monotonic() - before < 5


def test_a_crash_costs_a_call_and_not_the_next():
    fail('crashed (SIGABRT)', os.abort)
    fail('crashed (exit code 3)', os._exit, 3)
    assert confined.run(abs, -3, **LIMITS) == 3


def test_a_process_that_died_while_it_waited_is_replaced():
    number = confined.run(os.getpid, **LIMITS)
    os.kill(number, signal.SIGKILL)
    confined._IDLE[-1].process.wait()
    assert confined.run(os.getpid, **LIMITS) != number


def test_the_keys_of_a_terminal_do_not_reach_the_process():
    assert confined.run(os.getsid, 0, **LIMITS) != os.getsid(0)


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_a_busy_process_and_its_files_end_with_the_caller(tmp_path, number):
    scratch, told = tmp_path / 'scratch', tmp_path / 'told'
    scratch.mkdir()
    work = ('import os, tempfile, time; tempfile.mkstemp(); '
            f'open({str(told)!r}, "w").write(f"{{os.getpid()}}."); time.sleep(60)')
    caller = subprocess.Popen([
        sys.executable, '-c', 'import sys; from jaxmed.data import confined; '
        'confined.run(exec, sys.argv[1], memory_bytes=1 << 28, seconds=60, '
        'scratch=sys.argv[2])', work, scratch])
    wait_until(lambda: told.exists() and told.read_text().endswith('.'))
    assert len(list(scratch.iterdir())) == 1
    caller.send_signal(number)
    caller.wait()
    worker = int(told.read_text()[:-1])
    wait_until(lambda: not scratch.exists() and not is_alive(worker))


def wait_until(true):
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(process):
    try:
        # A process that nobody waits for any more may remain as a name.
        state = Path(f'/proc/{process}/stat').read_text().rsplit(')', 1)[1].split()[0]
    except OSError:
        return False
    return state not in 'ZX'


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
