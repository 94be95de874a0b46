"""Interpreters beside this one, for what may crash, hang or allocate without end.

They are clean: neither forked (JAX has threads) nor spawned by multiprocessing (that
would run the launcher again).
"""

import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import threading

# Linux counts written private memory; elsewhere there is only the address space.
MEMORY = resource.RLIMIT_DATA if sys.platform == 'linux' else resource.RLIMIT_AS


def start(module, argument, *, numbers, environment):
    """Starts an interpreter that does nothing but `module.serve(argument)`.

    In a session of its own: Ctrl-C in a terminal is for this process alone.

    Args:
        module: of jaxmed.data, by its last name.
        argument: str.
        numbers: file descriptors that it gets, with these numbers.
        environment: variables beyond this process's.

    Returns:
        subprocess.Popen.
    """
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    return subprocess.Popen(
        [sys.executable, '-c', f'import sys; from jaxmed.data import {module}; '
         f'{module}.serve(sys.argv[1])', argument],
        pass_fds=numbers, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        env=os.environ | {
            'PYTHONPATH': paths, 'OPENBLAS_NUM_THREADS': '1', 'MALLOC_ARENA_MAX': '2',
        } | environment,
        start_new_session=True,
    )


def end(process):
    """Ends it; returns what ended it, if it was not this: 'SIGSEGV', 'exit code 1'."""
    try:
        # A crash closes the channel a moment before the process is gone.
        code = process.wait(0.2)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f'exit code {code}'


def open_memory():
    """A file in memory, to be shared by its descriptor."""
    if hasattr(os, 'memfd_create'):
        return open(os.memfd_create('jaxmed'), 'w+b', buffering=0)
    return tempfile.TemporaryFile(buffering=0)


# --- in the other process ---------------------------------------------------------


def end_with(number, before=lambda: None):
    """Ends this process, busy or not, when the other side of a socket has gone.

    But for code that holds the interpreter's lock.

    Args:
        number: file descriptor.
        before: called first.
    """
    def wait():
        poll = select.poll()
        poll.register(number, 0)  # hang-ups are always reported
        poll.poll()
        before()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def silence():
    """What libraries print about files reaches nobody's terminal."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def limit_memory(most_bytes):
    """Returns the limits as they were, for resource.setrlimit(MEMORY, ...)."""
    before = resource.getrlimit(MEMORY)
    hard = before[1]
    most = most_bytes if hard == resource.RLIM_INFINITY else min(most_bytes, hard)
    resource.setrlimit(MEMORY, (most, hard))
    return before
