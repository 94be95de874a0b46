"""The same networks in PyTorch, to be timed in the same run; JSON of past runs.

A rival runs in a process of its own, so that neither side disturbs the other's memory
and threads, and takes its turn when told to.
"""

import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

# Task -> module that serves make(config, inputs, targets) -> {name: (train step,
# forward)}, both blocking.
RIVALS = {
    'chest_xray': 'launch.benchmarks.torch_classifiers',
    'spinal_cord': 'launch.benchmarks.torch_yolo',
    'spine_health': 'launch.benchmarks.torch_pose_lstm',
    'vertebral_fracture': 'launch.benchmarks.torch_patch_sequence',
    'white_blood_cell': 'launch.benchmarks.torch_unet',
}
MALLOC = 'GLIBC_TUNABLES'


@contextlib.contextmanager
def start(module, config, inputs, targets):
    """Starts the rivals of a module on one batch; ends them afterwards.

    Args:
        module: one of RIVALS.
        config: nested dicts of the jaxmed run.
        inputs: float32, preprocessed; an array, or a dict of them.
        targets: float32 array.

    Yields:
        {name: (train step, forward)}, blocking functions. Where the launcher changed
        the settings of malloc for itself, each rival runs as PyTorch comes and, as
        'NAME, jaxmed's malloc', with the same settings.
    """
    plain = {key: value for key, value in os.environ.items() if key != MALLOC}
    environments = {'': plain}
    if MALLOC in os.environ:
        environments[", jaxmed's malloc"] = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        batch = Path(folder) / 'batch.npz'
        parts = inputs if isinstance(inputs, dict) else {'': inputs}
        named = {f'inputs.{name}': part for name, part in parts.items()}
        np.savez(batch, targets=targets, **named)
        command = [sys.executable, '-m', module, json.dumps(config), batch]
        rivals = {}
        for suffix, environment in environments.items():
            process = stack.enter_context(subprocess.Popen(
                command, env=environment, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            ))
            stack.callback(process.kill)
            for name in json.loads(process.stdout.readline()):
                rivals[name + suffix] = tuple(
                    functools.partial(_take_turn, process, name, which)
                    for which in (0, 1)
                )
        yield rivals


def _take_turn(process, name, which):
    process.stdin.write(json.dumps([name, which]) + '\n')
    process.stdin.flush()
    if process.stdout.readline() != 'done\n':
        raise RuntimeError(f'{name} ended with code {process.wait()}')


def serve(make):
    """The rivals' side: makes them, names them, then runs what each line asks for."""
    config, batch = sys.argv[1:]
    arrays = np.load(batch)
    inputs = {
        name.partition('.')[2]: arrays[name] for name in arrays if name != 'targets'}
    rivals = make(json.loads(config), inputs.get('', inputs), arrays['targets'])
    print(json.dumps(list(rivals)), flush=True)
    for line in sys.stdin:
        name, which = json.loads(line)
        rivals[name][which]()
        print('done', flush=True)
