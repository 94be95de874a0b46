"""Trains the models of a grid; finds the best few to average, or compares them.

    python -m launch.search --config=configs/vertebral_fracture.py:phantom \
        --grid=pool --workdir=/tmp/pool

Grids are those of configs/grids.py or a JSON file (jaxmed/grids.py). The same command
goes on with what was killed. Exit code 2 for bad input, or too few runs that end.
"""

import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

import launch
from configs.grids import GRIDS
from jaxmed import engines, grids
from jaxmed.errors import ConfigError

_CONFIG = config_flags.DEFINE_config_file('config', None, 'What all runs begin with.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder; made or gone on with.')
_GRID = flags.DEFINE_string('grid', 'pool', 'Name of a grid, or a JSON file.')
_MEMBERS = flags.DEFINE_integer('members', 3, 'Of an ensemble.')
_COUNT = flags.DEFINE_integer('count', None, 'Runs to draw from the axes of a grid.')
_METRIC = flags.DEFINE_string('metric', None, 'In place of the one that is monitored.')
_ENGINE = flags.DEFINE_enum(
    'engine', 'local', engines.ENGINES, 'Or on the machines of a Ray cluster.')
flags.mark_flags_as_required(['config', 'workdir'])


def main(argv):
    from jaxmed import search, train

    config = _CONFIG.value.to_dict()
    with train.Interrupt():
        try:
            found = search.run_search(
                config, _WORKDIR.value, grid=read_grid(config),
                name=Path(_GRID.value).name,
                members=_MEMBERS.value, count=_COUNT.value, engine=_ENGINE.value,
                metric=_METRIC.value, setup=launch.configure, python=sys.executable,
            )
        except train.Interrupted:
            print(f'stopped; to go on, run again: {launch.command()}')
            return
    print(found.text)
    if found.results:
        launch.print_results(found.results)
    for name, path in found.tables.items():
        print(f'{name}: {path}')
    print('\n'.join(found.commands))


def read_grid(config):
    """The grid that --grid names, for this config."""
    if _GRID.value.endswith('.json'):
        return grids.read_grid(_GRID.value)
    task = config['task_name']
    known = GRIDS.get(task, {})
    if _GRID.value not in known:
        raise ConfigError(
            '--grid', f'{_GRID.value!r} is no JSON file; of task {task} there are: '
            f'{", ".join(known) or "none"}')
    return known[_GRID.value](config)


if __name__ == '__main__':
    launch.run(main)
