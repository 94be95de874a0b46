"""The commands, run as a user runs them, or faster: forked from a warm process."""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import jax

import launch
from jaxmed import jobs, runs, train
from jaxmed.checkpoint import Checkpoints

ROOT = Path(__file__).parent.parent
TINY = (
    '--config=configs/white_blood_cell_unet.py:phantom', '--config.task.widths=(4,8)',
    '--config.task.tile=32', '--config.task.overlap_px=16',
    '--config.task.min_area_px=20', '--config.data.phantoms=24',
    '--config.evaluate.views=1', '--config.optimizer.warmup_steps=1',
    '--config.train.steps_per_epoch=3', '--config.train.epochs=2',
)
# Has imported what commands import, which takes longer than most of them run.
_WARM = multiprocessing.get_context('forkserver')
_WARM.set_forkserver_preload(['jaxmed.jobs', 'tests.commands'])


def command(module, *flags):
    return [sys.executable, '-m', f'launch.{module}', *map(str, flags)]


def environment(devices):
    return {'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}'}


def start(module, *flags, devices=1, **options):
    """A command as a user starts it."""
    variables = environment(devices) | {'PYTHONFAULTHANDLER': '1'}
    return subprocess.Popen(
        command(module, *flags), cwd=ROOT, env=os.environ | variables, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options,
    )


def finish(process, *, seconds):
    """What a started command prints until it ends; of a stuck one, where it is."""
    try:
        return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # faulthandler prints all threads
        output = process.communicate(timeout=60)[0]
        raise TimeoutError(f'after {seconds} s: {output}') from None


def run(module, *flags, devices=1, warm=True):
    """A command, to its end.

    Args:
        module: of launch.
        flags: its flags.
        devices: how many a CPU counts as.
        warm: fork it from a process that has imported all, rather than start it.

    Returns:
        (exit code, what it printed).
    """
    if not warm:
        process = start(module, *flags, devices=devices)
        output = finish(process, seconds=240)
        return process.returncode, output
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / 'output'
        process = _WARM.Process(target=_serve, args=(
            output, command(module, *flags), environment(devices)
        ))
        process.start()
        process.join(240)
        if process.is_alive():
            process.kill()
            raise TimeoutError(f'{module}: {output.read_text()}')
        return process.exitcode, output.read_text()


def state_of(workdir):
    """The latest (state, place) of a run."""
    config = runs.read_config(workdir)
    task = runs.make_task(config)
    optimizer = jobs.make_optimizer(config, steps=1000, steps_per_epoch=1)
    with Checkpoints(workdir, read_only=True) as checkpoints:
        state, place = checkpoints.restore(
            train.init_state(task, optimizer.tx, seed=0)
        )
    return jax.device_get(state), place


def _serve(output, words, variables):
    with open(output, 'wb') as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    os.chdir(ROOT)
    # As launch.run would by starting anew.
    os.environ.update(variables, GLIBC_TUNABLES=launch.MALLOC)
    sys.path.insert(0, str(ROOT))
    sys.orig_argv[:], sys.argv[:] = words, words[2:]
    runpy.run_module(words[2], run_name='__main__', alter_sys=True)


def drain(generator):
    """(what a generator yields, what it returns)."""
    found = []
    while True:
        try:
            found.append(next(generator))
        except StopIteration as stop:
            return found, stop.value
