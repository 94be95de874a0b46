"""Trains one model on all devices, then measures its best state on the test split.

    python -m launch.train --config=configs/white_blood_cell_unet.py:phantom \
        --workdir=/tmp/run

The same command resumes what was killed. On several hosts, add --distributed (and,
outside of a cluster that jax knows, --coordinator, --num_processes, --process_id).
With --folds=5 five models are trained, each tested on people it has not seen; with
--leak five more, whose split ignores people: what such numbers are worth.
"""

import functools

from absl import flags
from ml_collections import config_flags

import launch
from jaxmed.errors import InputError

_CONFIG = config_flags.DEFINE_config_file('config', None, 'What to train.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Run folder; made or resumed.')
_FOLDS = flags.DEFINE_integer(
    'folds', 0, 'Cross-validate over as many.', lower_bound=0)
_FOLD_VALID = flags.DEFINE_float(
    'fold_valid', 0.0, "Share of the other folds' people to validate with.")
_LEAK = flags.DEFINE_bool('leak', False, 'With --folds: also split people, to compare.')
_DISTRIBUTED = flags.DEFINE_bool('distributed', False, 'One of several processes.')
_COORDINATOR = flags.DEFINE_string('coordinator', None, 'HOST:PORT of process 0.')
_NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'How many there are.')
_PROCESS_ID = flags.DEFINE_integer('process_id', None, 'Which one this is.')
flags.mark_flags_as_required(['config', 'workdir'])


def main(argv):
    import jax

    if _DISTRIBUTED.value:
        jax.distributed.initialize(
            _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
        )
    from jaxmed import jobs, train

    resume = f'to resume, run again: {launch.command()}'
    with train.Interrupt() as interrupt:
        try:
            outcome = _begin(jobs)(
                _CONFIG.value.to_dict(), _WORKDIR.value, command=launch.command(),
                interrupt=interrupt,
            )
        except train.Interrupted:
            print(f'stopped outside of the training loop; {resume}')
            return
    if jax.process_index():
        return
    if not outcome.finished:
        print(f'stopped after update {outcome.step}; {resume}')
        return
    launch.print_results(outcome.results)
    for name, path in outcome.paths.items():
        print(f'{name}: {path}')


def _begin(jobs):
    """What the flags ask for: one run, or one for each fold."""
    if _FOLDS.value:
        return functools.partial(
            jobs.cross_validate, folds=_FOLDS.value, valid=_FOLD_VALID.value,
            leak=_LEAK.value)
    for flag in (_LEAK, _FOLD_VALID):
        if flag.value:
            raise InputError(f'--{flag.name}', 'goes with --folds')
    return jobs.train_run


if __name__ == '__main__':
    launch.run(main)
