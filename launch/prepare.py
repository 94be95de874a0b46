"""Turns a source folder into records: shards, manifest and table of cases.

    python -m launch.prepare --config=configs/white_blood_cell_unet.py \
        --layout=sigtuple --source=Train_Data --output=/data/wbc

With --phantoms in place of --source cases are drawn: with another --seed than 0, which
training draws with, and --splits=0,0,1 a test set that no model has seen.
"""

import functools
import inspect
from pathlib import Path

from absl import flags
from ml_collections import config_flags

import launch
from jaxmed import runs
from jaxmed.data import records
from jaxmed.errors import InputError

_CONFIG = config_flags.DEFINE_config_file('config', None, 'Task and its options.')
_LAYOUT = flags.DEFINE_string('layout', None, 'Of the source, if there are several.')
_SOURCE = flags.DEFINE_string('source', None, 'Folder with the raw files.')
_LABELS = flags.DEFINE_string('labels', None, 'Table or folder, where apart from it.')
_OUTPUT = flags.DEFINE_string('output', None, 'Folder for the records.')
_SPLITS = flags.DEFINE_string('splits', '0.8,0.1,0.1', 'Shares of train,valid,test.')
_PHANTOMS = flags.DEFINE_integer(
    'phantoms', 0, 'Cases to draw in place of a source.', lower_bound=0
)
_SEED = flags.DEFINE_integer('seed', 0, 'Of the split, and of what is drawn.')
_FOLD = flags.DEFINE_integer('fold', 0, 'With test share 0.2: 0 to 4 test all.')
_OVERWRITE = flags.DEFINE_bool('overwrite', False, 'Replace the output folder.')
flags.mark_flags_as_required(['config', 'output'])


def main(argv):
    config = _CONFIG.value.to_dict()
    task = runs.make_task(config)
    fractions = records.parse_fractions(_SPLITS.value)
    records.check_target(_OUTPUT.value, overwrite=_OVERWRITE.value)
    manifest = records.write_records(
        _records(task), _OUTPUT.value, task=config['task_name'], fractions=fractions,
        seed=_SEED.value, fold=_FOLD.value, overwrite=_OVERWRITE.value,
        labels=task.labels,
    )
    for name, split in manifest['splits'].items():
        print(f'{name:6}{split["records"]:7} records{split["cases"]:7} cases'
              f'{split["patients"]:7} patients or groups')
        counts = split.get('labels', [])
        if split['records'] and counts:
            print('       ' + ', '.join(map('{} {}'.format, task.labels, counts)))
    print(f'records: {_OUTPUT.value}')


def _records(task):
    """What the flags ask for."""
    if _PHANTOMS.value:
        for flag in (_SOURCE, _LAYOUT, _LABELS):
            if flag.value is not None:
                raise InputError('--phantoms', f'does not go with --{flag.name}')
        return task.phantoms(count=_PHANTOMS.value, seed=_SEED.value)
    if _SOURCE.value is None:
        raise InputError('--source', 'name a folder, or a number of --phantoms')
    layout = _LAYOUT.value or (next(iter(task.sources)) if len(task.sources) == 1
                               else None)
    if layout not in task.sources:
        raise InputError('--layout', f'{layout!r} is none of {[*task.sources]}')
    read = task.sources[layout]
    if 'labels' in inspect.signature(read).parameters:
        if _LABELS.value is None:
            raise InputError('--labels', f'layout {layout!r} needs them')
        read = functools.partial(read, labels=Path(_LABELS.value))
    elif _LABELS.value is not None:
        raise InputError('--labels', f'layout {layout!r} has its own')
    return read(Path(_SOURCE.value))


if __name__ == '__main__':
    launch.run(main)
