"""Work shared out over fresh processes, here or on the machines of a Ray cluster.

A piece of work that crashes costs itself: memory that a network took, a compiler that
died and a broken driver go with the process.
"""

import logging
import multiprocessing
import multiprocessing.connection
import os
import threading
import traceback
from typing import NamedTuple

from jaxmed.errors import ConfigError, InputError

ENGINES = ('local', 'ray')
# Imported once: what starts the processes has it, and has not touched a device.
PRELOAD = ['jaxmed.jobs']
LEAVE_S = 300  # that a process has to save and leave after a signal


class Failure(NamedTuple):
    """What stands in place of an answer."""

    reason: str


def share_out(function, pieces, *, engine):
    """Calls function(*piece) for each piece, each in a process of its own.

    Args:
        function: of a module, or functools.partial of one, so that processes can
            import it.
        pieces: sequence of tuples.
        engine: 'local', one after the other; or 'ray': side by side over the cluster
            that RAY_ADDRESS names, one to a GPU, or where there is none to a machine.

    Yields:
        (place in `pieces`, what came back or Failure), as they end.
    """
    if engine not in ENGINES:
        raise ConfigError('--engine', f'{engine!r} is none of {ENGINES}')
    return (_over_ray if engine == 'ray' else _one_by_one)(function, pieces)


def _answer(function, piece):
    try:
        return function(*piece)
    except InputError as error:
        return Failure(str(error))
    except Exception as error:  # a defect, or a device out of memory: it is told
        traceback.print_exc()
        first = str(error).strip().splitlines()[:1]
        return Failure(': '.join([type(error).__name__, *first]))


def _one_by_one(function, pieces):
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(PRELOAD)
    for place, piece in enumerate(pieces):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_serve, args=(sender, function, piece))
        process.start()
        sender.close()
        try:
            try:
                answer = receiver.recv()
            except EOFError:  # it ended without a word
                process.join()
                answer = Failure(_why(process.exitcode))
            process.join()
        finally:
            _end(process)
            receiver.close()
        yield place, answer


def _end(process):
    """A signal to a process that still works, and time to save."""
    if process.is_alive():
        process.terminate()
        process.join(LEAVE_S)
        process.kill()
        process.join()


def _why(code):
    if code == -9:
        return 'its process was killed, for the memory that it took most likely'
    return f'its process ended with {f"signal {-code}" if code < 0 else f"code {code}"}'


def _serve(sender, function, piece):
    threading.Thread(target=_follow_parent, daemon=True).start()
    sender.send(_answer(function, piece))
    sender.close()


def _follow_parent():
    """Ends this process with the one that asked: two must not train the same run."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _over_ray(function, pieces):
    try:
        import ray
    except ImportError:
        raise ConfigError(
            '--engine', "Ray is not installed: pip install 'jaxmed[ray]'"
        ) from None
    ray.init(
        ignore_reinit_error=True, include_dashboard=False, log_to_driver=False,
        logging_level=logging.ERROR,
    )
    # One to a GPU, or where there is none to a machine: XLA uses all its cores.
    gpus = int(ray.cluster_resources().get('GPU', 0))
    most = gpus or len(ray.nodes())

    # A process serves one call: it gives back all of a device's memory at its end.
    @ray.remote(
        num_cpus=1, num_gpus=1 if gpus else 0, scheduling_strategy='SPREAD',
        max_calls=1, max_retries=0,
    )
    def call(piece):
        return _answer(function, piece)

    waiting, running = list(enumerate(pieces)), {}
    try:
        while waiting or running:
            while waiting and len(running) < most:
                place, piece = waiting.pop(0)
                running[call.remote(piece)] = place
            (answer,), _ = ray.wait(list(running))
            place = running.pop(answer)
            try:
                found = ray.get(answer)
            except ray.exceptions.RayError as error:
                found = Failure(f'its process died ({type(error).__name__})')
            yield place, found
    finally:
        ray.shutdown()
