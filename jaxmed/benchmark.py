"""Speed and memory of a task: its own train step, forward pass and input pipeline.

Rivals run in the same minutes, turn by turn, so a ratio holds on a machine whose speed
drifts.
"""

import contextlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import jax
import numpy as np

from jaxmed import predict, progress, train
from jaxmed.data import pipeline

# Of a turn: the clock of a virtual machine may tick every 4 ms only.
TURN_S = 0.2


def measure(task, optimizer, source, *, batch_size, rounds, workers, start_rivals):
    """Times one task.

    Args:
        task: Task.
        optimizer: optimizers.Optimizer.
        source: random access to Records.
        batch_size: examples an update, over all devices.
        rounds: timed turns of every step.
        workers: reading processes of the input pipeline.
        start_rivals: (inputs, targets) -> context manager that gives {name: (train
            step, forward)}, blocking functions; or None.

    Returns:
        Dict of seconds (medians), images/s, ratios and bytes; JSON.
    """
    devices = jax.local_devices()
    state = predict.replicate(train.init_state(task, optimizer.tx, seed=0))
    step = train.compile_step(train.make_train_step(task, optimizer.tx), pmap=True)
    forward = jax.pmap(
        predict.make_apply([task], views=1), in_axes=(None, 0)
    )
    key = jax.random.key(0)
    host = pipeline.stack([source[i % len(source)] for i in range(batch_size)])
    batch = train.put_batch(host)
    members = [{'params': state.params, 'model_state': state.model_state}]
    members = jax.tree.map(np.asarray, members)

    compile_s = {}
    began = time.perf_counter()
    state, scalars = step(state, batch, key)
    jax.block_until_ready(scalars)
    compile_s['train'] = time.perf_counter() - began
    members = predict.replicate(members)
    began = time.perf_counter()
    jax.block_until_ready(forward(members, batch))
    compile_s['forward'] = time.perf_counter() - began
    memory = {'host_peak_bytes': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
              * 1024}
    statistics_of = devices[0].memory_stats() or {}
    if 'peak_bytes_in_use' in statistics_of:
        memory['device_peak_bytes'] = statistics_of['peak_bytes_in_use']

    box = [state]

    def train_once():
        box[0], scalars = step(box[0], batch, key)
        jax.block_until_ready(scalars)

    steps = {
        'jaxmed': (train_once, lambda: jax.block_until_ready(forward(members, batch))),
    }
    with contextlib.ExitStack() as stack:
        if start_rivals is not None:
            ready = jax.device_get(
                jax.jit(task.preprocess)(pipeline.split_strings(host)[0])
            )
            steps |= stack.enter_context(
                start_rivals(ready['inputs'], ready['targets'])
            )
        seconds = _interleave(steps, rounds)
    result = {
        'batch_size': batch_size, 'rounds': rounds,
        'compile_s': compile_s, 'memory': memory,
        'seconds': {
            name: {kind: {
                'median': statistics.median(values), 'min': min(values),
                'max': max(values),
            } for kind, values in kinds.items()} for name, kinds in seconds.items()
        },
        'images_per_s': {
            name: {kind: batch_size / statistics.median(values)
                   for kind, values in kinds.items()}
            for name, kinds in seconds.items()
        },
        'times_faster_than': {
            name: {
                # Turn by turn: both ran in the same second of a drifting machine.
                kind: statistics.median(
                    other / own
                    for own, other in zip(seconds['jaxmed'][kind], values)
                ) for kind, values in kinds.items()
            } for name, kinds in seconds.items() if name != 'jaxmed'
        },
    }
    return result | {'pipeline': _pipeline(
        box[0], step, key, source, batch_size, rounds, workers)}


def _interleave(steps, rounds):
    seconds = {name: {'train': [], 'forward': []} for name in steps}
    for kind in ('train', 'forward'):
        for turn in range(rounds + 1):  # the first turn warms up
            for name, pair in steps.items():
                spent = time_calls(pair[kind == 'forward'], least_s=TURN_S)
                if turn:
                    seconds[name][kind].append(spent)
    return seconds


def time_calls(function, *, least_s):
    """Mean seconds of as many calls in a row as take `least_s`, at least one."""
    began, calls, spent = time.perf_counter(), 0, 0.0
    while not calls or spent < least_s:
        function()
        calls += 1
        spent = time.perf_counter() - began
    return spent / calls


def _pipeline(state, step, key, source, batch_size, rounds, workers):
    """The trainer's loop with its real input: how long does it wait for data?"""
    batches = pipeline.train_batches(
        source, batch_size=batch_size, seed=0, workers=workers
    )
    with pipeline.Prefetch(batches, train.put_batch) as ready:
        state, scalars = step(state, next(ready), key)
        jax.block_until_ready(scalars)
        waited, began = ready.waited_s, time.perf_counter()
        for _ in range(rounds):
            # Asked for when the device has nothing left to do: each wait is idle time.
            state, scalars = step(state, next(ready), key)
            jax.block_until_ready(scalars)
        total = time.perf_counter() - began
        waited = ready.waited_s - waited
    batches = pipeline.train_batches(
        source, batch_size=batch_size, seed=0, workers=workers
    )
    next(batches)
    began = time.perf_counter()
    for _ in range(4 * rounds):
        next(batches)
    reading = time.perf_counter() - began
    return {
        'images_per_s': rounds * batch_size / total, 'input_wait': waited / total,
        'reading_images_per_s': 4 * rounds * batch_size / reading,
        'workers': workers,
    }


def measure_decoding(task, source, *, count=16, side_px=1024):
    """Images/s of reading and decoding files alone, one after the other.

    Args:
        task: Task of pictures.
        source: random access to its Records, uint8 inputs [H, W, C].
        count: files.
        side_px: of a file.

    Returns:
        {'images_per_s', 'side_px'} of PNG files of these pictures, made larger.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f'{number}.png' for number in range(count)]
        for number, path in enumerate(paths):
            picture = source[number % len(source)]['inputs']
            picture = cv2.resize(picture, (side_px, side_px))
            if not cv2.imwrite(str(path), picture):
                raise RuntimeError(f'{path} could not be written')
        began = time.perf_counter()
        for path in paths:
            task.read(path, case_id=path.stem)
        seconds = time.perf_counter() - began
    return {'images_per_s': count / seconds, 'side_px': side_px}


def start_times(flags, *, cwd):
    """Seconds from a command to its first update: cold, then with the cache warm.

    Args:
        flags: of launch.train.
        cwd: folder of the project's configs.

    Returns:
        {'cold_s', 'warm_s'}.
    """
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ('cold_s', 'warm_s'):
            began = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, '-m', 'launch.train', *flags,
                 f'--workdir={folder}/{name}'],
                cwd=cwd, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                env=os.environ | {'JAX_COMPILATION_CACHE_DIR': f'{folder}/cache'},
            )
            lines = []
            for line in process.stderr:
                lines.append(line)
                if progress.FIRST_UPDATE in line:
                    seconds[name] = time.perf_counter() - began
                    break
            process.kill()
            process.wait()
            if name not in seconds:
                raise RuntimeError(f'no first update: {"".join(lines[-5:])}')
    return seconds
