"""Measures a run on a split and writes report.json and report.html.

    python -m launch.evaluate --workdir=/tmp/run --split=test

Several run folders, separated by commas, are averaged; with --pooled each is measured
on its own records, and with --table each gets its report and all of them one table.
"""

from pathlib import Path

from absl import flags

import launch
from jaxmed import measure
from jaxmed.errors import ConfigError

_WORKDIR = flags.DEFINE_list('workdir', None, 'Run folder, or several of them.')
_SPLIT = flags.DEFINE_enum('split', 'test', ['train', 'valid', 'test'], 'What on.')
_RECORDS = flags.DEFINE_string('records', None, 'Another prepared set.')
_OUTPUT = flags.DEFINE_string('output', None, 'Folder; WORKDIR/report_... if unset.')
_WHICH = flags.DEFINE_enum('which', 'best', ['best', 'latest'], 'Checkpoint.')
_VIEWS = flags.DEFINE_integer('views', None, 'Of test-time augmentation.')
_VERIFY = flags.DEFINE_bool('verify', True, 'Compare the shards with the manifest.')
_EXTERNAL = flags.DEFINE_list('external', [], 'Prepared sets to stand beside.')
_POOLED = flags.DEFINE_bool('pooled', False, 'Folds: each run on its own records.')
_TABLE = flags.DEFINE_bool('table', False, "Each run apart, beside the paper's values.")
flags.mark_flags_as_required(['workdir'])


def main(argv):
    if _TABLE.value:
        tabulate()
    else:
        evaluate()


def tabulate():
    for name in ('records', 'external', 'pooled'):
        if flags.FLAGS[name].value:
            raise ConfigError(f'--{name}', 'does not go with --table')
    output = Path(_OUTPUT.value or Path(_WORKDIR.value[0]) / f'table_{_SPLIT.value}')
    texts = measure.tabulate_runs(
        _WORKDIR.value, split=_SPLIT.value, which=_WHICH.value, views=_VIEWS.value,
        output=output, verify=_VERIFY.value, command=launch.command(),
    )
    print(texts.get('table.md', ''))
    for name in texts:
        print(f'table: {output / name}')


def evaluate():
    outcome = measure.evaluate_run(
        _WORKDIR.value, folder=_RECORDS.value and Path(_RECORDS.value),
        split=_SPLIT.value, which=_WHICH.value, views=_VIEWS.value,
        output=_OUTPUT.value or Path(_WORKDIR.value[0]) / _name(),
        verify=_VERIFY.value, command=launch.command(), external=_EXTERNAL.value,
        pooled=_POOLED.value,
    )
    launch.print_results(outcome.results)
    for name, path in outcome.paths.items():
        print(f'{name}: {path}')


def _name():
    """Of the report's folder: that of the run's own split is not written over."""
    parts = ['report']
    if _RECORDS.value:
        parts.append(Path(_RECORDS.value).name)
    if len(_WORKDIR.value) > 1:
        parts.append('pooled' if _POOLED.value else 'ensemble')
    return '_'.join([*parts, _SPLIT.value])


if __name__ == '__main__':
    launch.run(main)
