"""Predicts a file or every case of a folder.

    python -m launch.predict --workdir=/tmp/run --input=smear.jpg --output=/tmp/out

Exit code 2 for bad input, 3 when some files of a folder failed.
"""

from absl import flags

import launch
from jaxmed import findings, runs

_WORKDIR = flags.DEFINE_list('workdir', None, 'Run folder, or several of them.')
_INPUT = flags.DEFINE_string('input', None, 'File or folder.')
_OUTPUT = flags.DEFINE_string('output', None, 'Folder for pictures and findings.')
_VIEWS = flags.DEFINE_integer('views', None, 'Of test-time augmentation.')
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 8, 'Examples at once.')
flags.mark_flags_as_required(['workdir', 'input', 'output'])


def main(argv):
    predictor = runs.load(
        _WORKDIR.value, views=_VIEWS.value, batch_size=_BATCH_SIZE.value
    )
    rows, failed = findings.predict_files(predictor, _INPUT.value, _OUTPUT.value)
    print(f'{len(rows) - failed} predicted, {failed} failed')
    print(f'findings: {_OUTPUT.value}/findings.csv')
    return 3 if failed else 0


if __name__ == '__main__':
    launch.run(main)
