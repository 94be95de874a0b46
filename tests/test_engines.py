"""Engines: answers from processes, and what becomes of those that die."""

import importlib.util
import multiprocessing
import signal
import subprocess
import sys
import time

import pytest

from jaxmed import engines
from jaxmed.errors import ConfigError
from tests.commands import ROOT

PIECES = [('1 + 1',), ('1 / 0',), ("__import__('os')._exit(3)",),
          ("__import__('os').kill(__import__('os').getpid(), 9)",), ('2 + 2',)]


def test_a_process_that_dies_costs_its_own_piece():
    found = dict(engines.share_out(eval, PIECES, engine='local'))
    assert (found[0], found[4]) == (2, 4)
    assert found[1].reason == 'ZeroDivisionError: division by zero'
    assert found[2].reason == 'its process ended with code 3'
    assert 'was killed' in found[3].reason
    with pytest.raises(ConfigError, match='--engine'):
        list(engines.share_out(eval, PIECES, engine='cloud'))


def test_an_interruption_ends_the_process_that_works():
    def stop(number, frame):
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, stop)
    began = time.monotonic()
    try:
        with pytest.raises(InterruptedError):
            signal.setitimer(signal.ITIMER_REAL, 1)
            list(engines.share_out(time.sleep, [(60,)], engine='local'))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began < 20 and not multiprocessing.active_children()


@pytest.mark.skipif(
    importlib.util.find_spec('ray') is None, reason='Ray is an optional extra')
def test_a_cluster_gives_the_same_answers():
    # In a process of its own: Ray starts others.
    done = subprocess.run(
        [sys.executable, '-c', 'from jaxmed import engines\n'
         f'print(dict(engines.share_out(eval, {PIECES[:3]}, engine="ray")))'],
        cwd=ROOT, capture_output=True, text=True, timeout=120)
    last = done.stdout.splitlines()[-1]  # Ray tells of the worker that died
    found = eval(last, {'Failure': engines.Failure})
    assert found[0] == 2 and found[1].reason.startswith('ZeroDivisionError')
    assert found[2].reason.startswith('its process died')
