"""Predicts a file or every case of a folder.

    python -m launch.predict --workdir=/tmp/run --input=smear.jpg --output=/tmp/out

Exit code 2 for bad input, 3 when some files of a folder failed.
"""

import functools
from pathlib import Path

from absl import flags

import launch
from jaxmed import cohort, findings, runs

_WORKDIR = flags.DEFINE_list('workdir', None, 'Run folder, or several of them.')
_INPUT = flags.DEFINE_string('input', None, 'File or folder.')
_OUTPUT = flags.DEFINE_string('output', None, 'Folder for pictures and findings.')
_VIEWS = flags.DEFINE_integer('views', None, 'Of test-time augmentation.')
_BATCH_SIZE = flags.DEFINE_integer(
    'batch_size', 8, 'Examples at once.', lower_bound=1
)
_TASK = flags.DEFINE_list(
    'task', [], 'Options of the task in place of those of the run: sweep=crops,...'
)
_EXPLAIN = flags.DEFINE_bool(
    'explain', True, 'Draw where the network looks, if the task can (Grad-CAM).'
)
_RESUME = flags.DEFINE_bool(
    'resume', False, 'Leave what this model has done, of files that did not change.'
)
_ENGINE = flags.DEFINE_enum(
    'engine', 'local', findings.ENGINES, 'Or on the machines of a Ray cluster.'
)
_DICOM = flags.DEFINE_list(
    'dicom', [], 'Files for an archive, of tasks that have them: sc (the picture, a '
    'Secondary Capture), sr (the numbers, a Structured Report).'
)
flags.mark_flags_as_required(['workdir', 'input', 'output'])


def main(argv):
    load = functools.partial(
        # A cluster's machines have working folders of their own.
        runs.load, [str(Path(path).absolute()) for path in _WORKDIR.value],
        views=_VIEWS.value, batch_size=_BATCH_SIZE.value,
        task_options=launch.parse_options(_TASK.value),
        explain=_EXPLAIN.value, reads=True,
    )
    rows, failed = findings.predict_files(
        load, _INPUT.value, _OUTPUT.value, resume=_RESUME.value, engine=_ENGINE.value,
        dicom=_DICOM.value, summarise=cohort.summarise,
    )
    print(f'{len(rows) - failed} predicted, {failed} failed')
    print(f'findings: {_OUTPUT.value}/findings.csv')
    return 3 if failed else 0


if __name__ == '__main__':
    launch.run(main)
