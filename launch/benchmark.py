"""Times training, prediction and input of a task, beside PyTorch if it is installed.

    python -m launch.benchmark --config=configs/white_blood_cell_unet.py \
        --output=launch/benchmarks/white_blood_cell_cpu.json

Of spine health, --config.task.landmark_model=MODEL.task adds landmarks and live runs.
"""

import functools
import importlib.util
import json
import platform
import shlex
import sys
import tempfile
from pathlib import Path

from absl import flags
from ml_collections import config_flags

import launch
from launch.benchmarks import ct_case, pose_case

_CONFIG = config_flags.DEFINE_config_file('config', None, 'What to time.')
_OUTPUT = flags.DEFINE_string('output', None, 'JSON file to write.')
_ROUNDS = flags.DEFINE_integer(
    'rounds', 10, 'Timed turns of every step.', lower_bound=1
)
_FRAMES = flags.DEFINE_integer(
    'frames', 2000, 'Of a video, that memory is watched over.', lower_bound=2
)
_LIVE_S = flags.DEFINE_float(
    'live_s', 20.0, 'Seconds of a live run.', lower_bound=1.0
)
flags.mark_flags_as_required(['config'])


def _measure_scans(config):
    return {
        'case': ct_case.measure(config, rounds=_ROUNDS.value, depth=250),
        'tall_case': ct_case.measure(config, rounds=1, depth=1200),
    }


def _measure_fractures(config):
    from configs import spinal_cord_yolo

    return {'case': ct_case.measure(
        config, rounds=_ROUNDS.value, depth=250,
        detector=spinal_cord_yolo.get_config().to_dict())}


def _measure_videos(config):
    return {'case': pose_case.measure(
        config, rounds=_ROUNDS.value, frames=_FRAMES.value, live_s=_LIVE_S.value)}


# Task -> from its files to its findings. Of other tasks, pictures are decoded.
CASES = {
    'spinal_cord': _measure_scans, 'spine_health': _measure_videos,
    'vertebral_fracture': _measure_fractures,
}


def main(argv):
    import jax

    from jaxmed import benchmark, findings, jobs, runs, train
    from jaxmed.data import records
    from launch import benchmarks

    config = _CONFIG.value.to_dict()
    name, batch_size = config['task_name'], config['train']['batch_size']
    task = runs.make_task(config, axis_name=train.AXIS)
    rival = benchmarks.RIVALS.get(name)
    if rival is None or importlib.util.find_spec('torch') is None:
        start_rivals = None
    else:
        start_rivals = functools.partial(benchmarks.start, rival, config)
    with tempfile.TemporaryDirectory() as folder:
        # Drawn examples: speed does not depend on what a picture shows.
        records.write_records(
            task.phantoms(count=64, seed=0), Path(folder) / 'records', task=name,
            fractions=(1, 0, 0), seed=0, labels=task.labels,
        )
        source = records.open_records(
            Path(folder) / 'records', 'train', task=name, verify=True)
        result = benchmark.measure(
            task, jobs.make_optimizer(config, steps=1000, steps_per_epoch=100),
            source, batch_size=batch_size, rounds=_ROUNDS.value,
            workers=config['runtime']['workers'],
            start_rivals=start_rivals,
        )
        if name in CASES:
            result |= CASES[name](config)
        else:
            result['decoding'] = benchmark.measure_decoding(task, source)
        warm = benchmark.start_times(
            [arg for arg in sys.argv[1:] if arg.startswith('--config')]
            + [f'--config.data.records={folder}/records'], cwd=Path.cwd(),
        )
    device = jax.devices()[0]
    result |= {
        # Without the interpreter's path: the file is to be shared.
        'command': shlex.join(['python', '-m', 'launch.benchmark', *sys.argv[1:]]),
        'config': config, 'warm_start': warm,
        'machine': {
            'device': f'{jax.device_count()} x {device.device_kind}',
            'cpu': platform.processor() or platform.machine(), 'jax': jax.__version__,
            'python': platform.python_version(),
        },
    }
    text = json.dumps(result, indent=1, sort_keys=True)
    print(text)
    if _OUTPUT.value:
        findings.replace(Path(_OUTPUT.value), text.encode() + b'\n')


if __name__ == '__main__':
    launch.run(main)
