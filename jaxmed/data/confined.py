"""Runs a function on untrusted files in a process with a memory and a time limit.

A damaged or hostile file can make a library allocate without end, hang or crash; that
must cost one file and not the run. The process is a clean interpreter and imports only
what the function needs. It is kept for the next call and replaced when it dies.
Answers are JSON and plain arrays, so that a process that a file has taken over can't
make this one run anything.
"""

import atexit
import builtins
import importlib.util
import json
import mmap
import os
import resource
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from jaxmed import errors
from jaxmed.data import processes

_HEAD = struct.Struct('<QQ')  # bytes of the answer, bytes of its arrays
_LONGEST = 1 << 26  # bytes of JSON
_GRACE = 5  # s; a process whose parent has gone ends itself
_ALIGNED = 64
_START_SECONDS = 60
_ONE_THREAD = dict.fromkeys((
    'OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS',
), '1')

_REMOVALS = 100  # tries, while the function still writes

_IDLE = []  # started processes that wait for work
_scratch = None  # of the call in progress, in the process that answers it


class Failed(Exception):
    """Why a call gave nothing: 'needed more than 512 MiB', 'took longer than 9 s'."""


def run(function, *args, memory_bytes, seconds, scratch=None, **options):
    """Calls a function in a process of its own.

    May be called from several threads; each then has its own process.

    Args:
        function: one that a module has by its name: no lambda, no method.
        args, options: what JSON can hold; paths arrive as str, tuples as lists.
        memory_bytes: most memory beyond what the interpreter and the function's
            modules take; the arrays of the answer come on top.
        seconds: most time, of the clock.
        scratch: folder for temporary files, which the caller removes: the function's
            `tempfile.gettempdir()`. Should this process end first, killed or not,
            the other one removes it. None for the usual one.

    Returns:
        What the function returned: dicts, lists (of tuples, too), numbers, str and
        arrays of numbers, which lie in memory of their own.

    Raises:
        InputError: the one that the function raised, of the same kind.
        Failed: a limit was broken, the process crashed, or the function raised
            something else (only its type and place are told: a message may quote
            what a file says about a patient).
        ValueError: a function that can't be found by its name.
    """
    module, name = function.__module__, function.__qualname__
    if '<' in name or module == '__main__':
        raise ValueError(f'{module}.{name} is no function of a module')
    request = json.dumps({
        'module': module, 'name': name, 'args': args, 'options': options,
        'memory_bytes': int(memory_bytes), 'seconds': seconds, 'folder': os.getcwd(),
        'scratch': scratch and os.path.abspath(scratch),
    }, default=_plain).encode()
    worker = _take()
    keep = False
    try:
        answer, arrays = worker.ask(request, seconds)
        keep = answer['keep']
    except TimeoutError:
        raise Failed(f'took longer than {seconds:g} s') from None
    except (OSError, EOFError):
        raise Failed(f'crashed ({worker.end()})') from None
    finally:
        if keep:
            _IDLE.append(worker)
        else:
            worker.end()
    if 'error' in answer:
        kind, where, reason = answer['error']
        raise _KINDS[kind](where, reason)
    if 'failed' in answer:
        raise Failed(answer['failed'])
    return _unpack(answer['result'], arrays)


_KINDS = {kind.__name__: kind for kind in (
    errors.InputError, errors.ImageError, errors.RecordError, errors.CheckpointError,
    errors.ConfigError,
)}


def _take():
    """A process that waits, or a new one."""
    while True:
        try:
            worker = _IDLE.pop()
        except IndexError:
            return _Worker()
        if worker.process.poll() is None:
            return worker
        worker.end()  # it died since its last call: no fault of the next one


class _Worker:
    """A process that waits for requests."""

    def __init__(self):
        self.channel, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            self.process = processes.start(
                'confined', str(number), numbers=[number],
                # Freed arrays go back at once: none lies unused in the heap, where the
                # next call could take it without being counted.
                environment=_ONE_THREAD | {'MALLOC_MMAP_THRESHOLD_': str(1 << 20)})
        try:
            self.channel.settimeout(_START_SECONDS)
            if self.channel.recv(1) != b'+':
                raise EOFError
        except (OSError, EOFError):
            self.end()
            raise RuntimeError('a confined interpreter does not start') from None

    def ask(self, request, seconds):
        """Bytes -> (answer, mapped bytes of its arrays or None)."""
        deadline = time.monotonic() + seconds
        self.channel.settimeout(seconds)
        self.channel.sendall(_HEAD.pack(len(request), 0) + request)
        head, numbers, _, _ = socket.recv_fds(self.channel, _HEAD.size, 1)
        try:
            if len(head) < _HEAD.size:
                raise EOFError
            length, size = _HEAD.unpack(head)
            if length > _LONGEST:
                raise EOFError
            left = max(deadline - time.monotonic(), _GRACE)
            self.channel.settimeout(left)
            answer = json.loads(_receive(self.channel, length))
            if not size:
                return answer, None
            if not numbers or os.fstat(numbers[0]).st_size < size:
                raise EOFError
            # Private: the arrays can be written to, which the file never sees.
            return answer, mmap.mmap(numbers[0], size, access=mmap.ACCESS_COPY)
        finally:
            for number in numbers:
                os.close(number)

    def end(self):
        """Ends the process; what ended it, if it was not this."""
        self.channel.close()
        return processes.end(self.process)


def _forget():
    """The processes of a parent that was forked are the parent's."""
    _IDLE.clear()


def _end_all():
    while _IDLE:
        _IDLE.pop().end()


os.register_at_fork(after_in_child=_forget)
atexit.register(_end_all)


def serve(number):
    """Answers requests until the other side has gone; the process's whole life.

    Args:
        number: file descriptor of the socket, in digits.
    """
    channel = socket.socket(fileno=int(number))
    # Code that holds the interpreter's lock is left to the timer of `_answer`.
    processes.end_with(channel.fileno(), _remove_scratch)
    channel.sendall(b'+')
    processes.silence()
    while True:
        try:
            length, _ = _HEAD.unpack(_receive(channel, _HEAD.size))
            request = json.loads(_receive(channel, length))
        except (EOFError, OSError):
            return
        arrays = []
        answer = _answer(request, arrays)
        text = json.dumps(answer).encode()
        size = sum(-(-array.nbytes // _ALIGNED) * _ALIGNED for array in arrays)
        head = _HEAD.pack(len(text), size)
        if arrays:
            with processes.open_memory() as file:
                for array in arrays:
                    data = memoryview(array.reshape(-1).view(np.uint8))
                    while data:  # a call writes 2 GiB at most
                        data = data[file.write(data):]
                    file.seek(-array.nbytes % _ALIGNED, os.SEEK_CUR)
                file.truncate(size)
                socket.send_fds(channel, [head], [file.fileno()])
        else:
            channel.sendall(head)
        channel.sendall(text)
        arrays = array = data = None  # not kept until the next request


def _remove_scratch():
    for _ in range(_REMOVALS):
        if not _scratch or not os.path.exists(_scratch):
            break
        shutil.rmtree(_scratch, ignore_errors=True)


def _answer(request, arrays):
    """Calls what a request asks for; `arrays` is filled."""
    global _scratch
    os.chdir(request['folder'])
    _scratch = tempfile.tempdir = request['scratch']
    seconds, memory_bytes = request['seconds'], request['memory_bytes']
    function = _find(request['module'], request['name'])
    before = _held_bytes()
    signal.setitimer(signal.ITIMER_REAL, seconds + _GRACE)
    limits = processes.limit_memory(before + memory_bytes)
    try:
        result = function(*request['args'], **request['options'])
        answer = {'result': result}
    except errors.InputError as error:
        answer = {'error': (type(error).__name__, error.where, error.reason)}
    except MemoryError:
        mebibytes = memory_bytes >> 20
        answer = {'failed': f'needed more than {mebibytes} MiB', 'keep': False}
    except Exception as error:
        answer = {'failed': f'failed with {_describe(error)}', 'keep': False}
    finally:
        resource.setrlimit(processes.MEMORY, limits)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _scratch = tempfile.tempdir = None
    if 'result' in answer:
        answer['result'] = _pack(answer['result'], arrays)
    # What a library has leaked must not count against the next file.
    held = _held_bytes() - before - sum(array.nbytes for array in arrays)
    return {'keep': held < memory_bytes // 8 + (1 << 26)} | answer


def _find(module, name):
    if module == 'builtins':
        found = builtins
    else:
        if importlib.util.find_spec(module) is None:
            raise ImportError(module)
        __import__(module)
        found = sys.modules[module]
    for part in name.split('.'):
        found = getattr(found, part)
    return found


def _describe(error):
    """Type and innermost place of an error, without its message."""
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    place = Path(trace.tb_frame.f_code.co_filename).name
    return f'{type(error).__name__} in {place}:{trace.tb_lineno}'


def _held_bytes():
    """What counts against the limit."""
    try:
        with open('/proc/self/status') as file:
            fields = dict(line.split(':', 1) for line in file)
    except OSError:
        return 0
    counted = 'VmData' if processes.MEMORY == resource.RLIMIT_DATA else 'VmSize'
    return int(fields[counted].split()[0]) << 10


def _receive(channel, length):
    data = bytearray()
    while len(data) < length:
        part = channel.recv(min(length - len(data), 1 << 20))
        if not part:
            raise EOFError
        data += part
    return data


def _plain(value):
    """What JSON doesn't know."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f'{type(value).__name__} can not be handed over')


def _pack(value, arrays):
    """Replaces the arrays in a result by their places; others are JSON's."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in 'biufc':
            raise TypeError(f'an array of {value.dtype}')
        arrays.append(np.ascontiguousarray(value))
        return {'array': [len(arrays) - 1, value.dtype.str, value.shape]}
    if isinstance(value, dict):
        return {'dict': [[key, _pack(item, arrays)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_pack(item, arrays) for item in value]
    return _plain(value) if isinstance(value, (np.generic, os.PathLike)) else value


def _unpack(value, data):
    """Undoes _pack; array after array, as they lie."""
    place = 0

    def unpack(value):
        nonlocal place
        if isinstance(value, list):
            return [unpack(item) for item in value]
        if not isinstance(value, dict):
            return value
        if 'dict' in value:
            return {key: unpack(item) for key, item in value['dict']}
        _, kind, shape = value['array']
        kind, count = np.dtype(kind), int(np.prod(shape, dtype=np.int64))
        if not count:
            return np.zeros(shape, kind)
        array = np.frombuffer(data, kind, count, place).reshape(shape)
        place += -(-array.nbytes // _ALIGNED) * _ALIGNED
        return array

    return unpack(value)
