"""The runs of a search on disk: each is trained and predicted once, wherever it runs.

    DIR/runs/NAME/       a run folder, as launch.train makes them, and besides
      trained.json       whether it has ended, on which records, after how many seconds
      rows_valid.npz     what it predicts of a split; also whose records and how many
      rows_test.npz      views that was, since what was asked may have changed

Each piece of work has a process of its own (engines.py). It leaves its answer in the
run's folder, so what was done before a search was killed is not done again.
"""

import functools
import io
import json
import shlex
import time
import zipfile
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np

from jaxmed import engines, findings, jobs, measure, predict, runs, train
from jaxmed.data import records
from jaxmed.errors import InputError, RecordError
from jaxmed.progress import LOG

TRAINED = 'trained.json'
STAMP = '.stamp'  # among the columns of saved rows: what they were predicted of


class Pool(NamedTuple):
    """Runs that share records, and how they are worked on."""

    workdir: Path  # DIR
    runs: list  # of grids.Run
    records: Path
    views: int  # of test-time augmentation
    engine: str  # of engines.share_out
    setup: Callable  # () -> None, called first in each process
    python: str  # the interpreter that commands name

    def folder(self, name):
        """The folder of a run."""
        return self.workdir / 'runs' / name

    def command(self, module, names, *flags):
        """A command line for these runs."""
        paths = ','.join(str(self.folder(name)) for name in names)
        return shlex.join(
            [self.python, '-m', f'launch.{module}', f'--workdir={paths}', *flags])

    def train(self):
        """Trains what has not ended, and predicts the validation split.

        Returns:
            (names of the runs that ended, name -> reason of those that did not).

        Raises:
            train.Interrupted: by a signal; what was done is kept.
        """
        todo = [run for run in self.runs if self._read(run.name, 'valid') is None]
        before = len(self.runs) - len(todo)
        if before:
            LOG.info('%d of %d runs were trained before', before, len(self.runs))
        place = {'records': str(self.records)}
        pieces = [
            (run.config | {'data': run.config['data'] | place},
             str(self.folder(run.name)), self.views,
             self.command('evaluate', [run.name])) for run in todo
        ]
        failed = {}
        for number, (place, answer) in enumerate(self._ask(_train, pieces), before + 1):
            name, words = todo[place].name, 'trained'
            if answer is None:  # it was told to stop, and so are we
                raise train.Interrupted
            if isinstance(answer, engines.Failure):
                failed[name], words = answer.reason, f'failed: {answer.reason}'
            LOG.info('run %d of %d, %s: %s', number, len(self.runs), name, words)
        return [run.name for run in self.runs if run.name not in failed], failed

    def predict(self, names, split):
        """Rows of a split of runs that ended, each predicted once.

        Returns:
            name -> Rows, the same cases for all.
        """
        todo = [name for name in names if self._read(name, split) is None]
        pieces = [(str(self.folder(name)), split, self.views) for name in todo]
        for place, answer in self._ask(_predict, pieces):
            if isinstance(answer, engines.Failure):
                raise InputError(self.folder(todo[place]), answer.reason)
            LOG.info('%s: split %s is predicted', todo[place], split)
        rows = {name: self._read(name, split) for name in names}
        cases = {name: one['example_id'].tolist() for name, one in rows.items()}
        for name in names:
            if cases[name] != cases[names[0]]:
                raise RecordError(
                    self.folder(name), f'has predicted other cases than {names[0]}')
        return rows

    def report(self, names, split):
        """Writes the report of an ensemble into DIR/report.

        Returns:
            list of report.Result.
        """
        output = self.workdir / 'report'
        piece = ([str(self.folder(name)) for name in names], split, str(output),
                 self.views, self.command('evaluate', names))
        ((_, answer),) = self._ask(_report, [piece])
        if isinstance(answer, engines.Failure):
            raise InputError(output, answer.reason)
        return answer

    def seconds(self):
        """Name -> seconds of training, of all runs."""
        return {run.name: _read_trained(self.folder(run.name))['seconds']
                for run in self.runs}

    def _ask(self, function, pieces):
        return engines.share_out(
            functools.partial(function, self.setup), pieces, engine=self.engine)

    def _read(self, name, split):
        """Rows of a run that has ended, or None where they are not there or of others.
        """
        folder = self.folder(name)
        if not _read_trained(folder)['finished']:
            return None
        try:
            with np.load(folder / f'rows_{split}.npz', allow_pickle=False) as saved:
                rows = {name: saved[name] for name in saved.files}
            kept = str(rows.pop(STAMP))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return rows if kept == _stamp(self.records, self.views) else None


def _train(setup, config, folder, views, command):
    """Trains a run and predicts its validation split; None if it was interrupted."""
    setup()
    folder, data = Path(folder), records.fingerprint(config['data']['records'])
    LOG.info('training %s', folder.name)
    before = _read_trained(folder)
    try:
        with train.Interrupt() as interrupt:
            if not before['finished'] or before['records'] != data:
                began = time.perf_counter()
                try:
                    finished = jobs.train_run(
                        config, folder, command=command, interrupt=interrupt,
                        split='valid',  # the test split is not looked at before
                    ).finished
                except train.Interrupted:
                    finished = False
                seconds = before['seconds'] + time.perf_counter() - began
                if folder.is_dir():
                    findings.replace(folder / TRAINED, json.dumps({
                        'finished': finished, 'seconds': seconds, 'records': data,
                    }).encode())
                if not finished:
                    return None
            return _write_rows(folder, 'valid', views)
    except train.Interrupted:
        return None


def _read_trained(folder):
    """How far a run of a search is, and the seconds that it took."""
    try:
        trained = json.loads((folder / TRAINED).read_text())
        trained['finished'], trained['seconds'] + 0, trained['records']
        return trained
    except (OSError, ValueError, KeyError, TypeError):
        return {'finished': False, 'seconds': 0.0, 'records': ''}


def _predict(setup, folder, split, views):
    setup()
    return _write_rows(Path(folder), split, views)


def _write_rows(folder, split, views):
    """Predicts a split by a run, into its folder."""
    tasks, members, config, _ = runs.load_members([folder])
    place = runs.records_folder(folder, config)
    source = records.open_records(
        place, split, task=config['task_name'], verify=config['runtime']['verify'])
    rows = predict.make_split_rows(tasks, views=views)(
        members, source, batch_size=config['runtime']['eval_batch_size'])
    stream = io.BytesIO()
    np.savez(stream, **rows, **{STAMP: np.array(_stamp(place, views))})
    findings.replace(folder / f'rows_{split}.npz', stream.getvalue())
    return True


def _stamp(place, views):
    return json.dumps([records.fingerprint(place), views])


def _report(setup, workdirs, split, output, views, command):
    setup()
    return measure.evaluate_run(
        workdirs, folder=None, split=split, output=output, which='best', views=views,
        verify=True, command=command,
    ).results
