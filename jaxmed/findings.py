"""Prediction on a file or a folder: pictures, findings.csv and findings.json.

A long job can be stopped and resumed, and shared out over machines: each case is a
piece of work of its own, and a line of findings.jsonl as soon as it is done.
"""

import csv
import io
import itertools
import json
import logging
import math
import os
from pathlib import Path

import cv2
import jax
import numpy as np
from tqdm import tqdm

from jaxmed.data import dicom_writing
from jaxmed.data.pipeline import Prefetch
from jaxmed.errors import ConfigError, InputError

LOG = logging.getLogger('jaxmed')
ENGINES = ('local', 'ray')
KINDS = ('masks', 'overlays')  # of pictures that tasks make
_AHEAD = 64  # cases that a worker on a cluster is told of at once, at most


def predict_files(load, path, output, *, resume, engine, dicom, summarise):
    """Predicts every case under `path` and writes what was found.

    In a folder one bad file costs its own row, with status and reason; a single bad
    file raises. The next files are read while the device works on these.

    Args:
        load: () -> predict.Predictor; called here, and on each machine of a cluster.
        path: a file or a folder.
        output: folder; gets KIND/NAME.png for each kind of picture, CASE/NAME for what
            a case has of its own, findings.csv and findings.json. Each file appears
            whole or not at all.
        resume: whether cases stay as they are that the same model has done, of files
            that have not changed since.
        engine: 'local', or 'ray': over the cluster that RAY_ADDRESS names, all of whose
            machines see `path` and `output`, or over this machine's devices.
        dicom: kinds of DICOM files to write for each case, of dicom_writing.KINDS.
        summarise: (output, task, lines of the journal) -> None, of a folder: what sums
            it up, each time from all that is known of it.

    Returns:
        (rows of findings.csv as dicts, number of cases that failed).

    Raises:
        InputError: the single file is bad, or nothing can be read or written.
    """
    path, output = Path(path), Path(output)
    if engine not in ENGINES:
        raise ConfigError('--engine', f'{engine!r} is none of {ENGINES}')
    if engine == 'ray':
        # This process only shares out; the devices are the workers'.
        jax.config.update('jax_platforms', 'cpu')
    predictor = load()
    if dicom:
        dicom_writing.check_kinds(dicom)
        if predictor.task.dicom is None:
            raise ConfigError('--dicom', 'this task has no DICOM to write')
    if output.resolve().is_relative_to(path.resolve()):
        raise InputError(output, 'lies in the input: pictures would be read as cases')
    files = predictor.task.files(path)
    journal = _Journal(
        output, '+'.join([predictor.made_by, *sorted(dicom)]))
    stamps = {entry: _stamp(entry[0]) for entry in files}  # before anything is read
    todo = [
        entry for entry in files
        if not resume or not journal.has(entry[1], stamps[entry])
    ]
    if len(todo) < len(files):
        LOG.info('%d of %d cases were done before', len(files) - len(todo), len(files))
    if engine == 'ray':
        done = _share_out(
            load, todo, output, dicom=dicom, together=predictor.together,
            ahead=predictor.task.look_ahead is not None)
    else:
        done = _predict_all(predictor, todo, output, dicom=dicom)
    try:
        before = len(files) - len(todo)
        with tqdm(total=len(files), initial=before, disable=None) as bar:
            for (file, case_id), line in done:
                stamp = stamps[file, case_id]
                if isinstance(line, InputError):
                    if file == path:
                        raise line
                    LOG.warning('%s: unprocessable: %s', case_id, line.reason)
                    row = {'status': 'unprocessable', 'reason': line.reason}
                    line = {'row': row, 'details': {}, 'files': []}
                else:
                    LOG.info('%s: done', case_id)
                journal.add(case_id, stamp, line)
                bar.update()
    finally:
        done.close()
        # What was done so far is kept, whatever ended the loop.
        lines = journal.write_tables([case_id for _, case_id in files])
        if lines and path.is_dir():
            summarise(output, predictor.task, lines)
    rows = [{'case': line['case']} | line['row'] for line in lines]
    return rows, sum(row['status'] != 'done' for row in rows)


def _predict_all(predictor, entries, output, *, dicom):
    """Yields (entry, its line of the journal, or the InputError) and writes files."""
    task = predictor.task

    def read(entry):
        try:
            return entry, task.read(entry[0], case_id=entry[1])
        except ConfigError:  # no file's fault: no other one could be read either
            raise
        except InputError as error:
            return entry, error

    order = predictor.look_ahead(entries)
    with Prefetch(order, read, depth=predictor.together) as ready:
        while some := list(itertools.islice(ready, predictor.together)):
            found = iter(_predict(
                predictor,
                [record for _, record in some if not isinstance(record, InputError)],
            ))
            for entry, record in some:
                found_now = record if isinstance(record, InputError) else next(found)
                if dicom and not isinstance(found_now, InputError):
                    found_now = _with_dicom(
                        predictor, entry[0], record, found_now, dicom)
                if isinstance(found_now, InputError):
                    yield entry, found_now
                    continue
                yield entry, {
                    'row': {'status': 'done', 'reason': ''} | found_now.row,
                    'details': found_now.details,
                    'files': _write_files(output, entry[1], found_now),
                }


def _predict(predictor, records):
    """Findings; in place of one that can't be made the InputError that says why."""
    try:
        return predictor.predict(records)
    except ConfigError:
        raise
    except InputError as error:
        if len(records) == 1:
            return [error]
    return [found for record in records for found in _predict(predictor, [record])]


def _with_dicom(predictor, file, record, finding, kinds):
    """The finding with its DICOM files, or the InputError that says why not."""
    try:
        files = predictor.task.dicom(
            file, record, finding, kinds=kinds, made_by=predictor.made_by)
    except InputError as error:
        return error
    return finding._replace(files={**finding.files, **files})


def _share_out(load, entries, output, *, dicom, together, ahead):
    """_predict_all over a Ray cluster, in any order.

    `ahead`: whether to be told of many helps the task, which it does on a GPU.
    """
    try:
        import ray
    except ImportError:
        raise ConfigError(
            '--engine', "Ray is not installed: pip install 'jaxmed[ray]'"
        ) from None

    class Worker:
        def __init__(self):
            self.predictor = load()

        def predict(self, some):
            yield from _predict_all(
                self.predictor, some, output.absolute(), dicom=dicom)

    ray.init(
        ignore_reinit_error=True, include_dashboard=False, log_to_driver=False,
        logging_level=logging.ERROR,
    )
    # One worker to a GPU, or where there is none to a machine: XLA uses all its cores.
    gpus = int(ray.cluster_resources().get('GPU', 0))
    count = max(1, min(gpus or len(ray.nodes()), len(entries)))
    options = dict(num_cpus=1, num_gpus=1 if gpus else 0, scheduling_strategy='SPREAD')
    worker = ray.remote(**options)(Worker)
    given = {case_id: file for file, case_id in entries}
    size = together
    if ahead and gpus:
        size = max(together, min(_AHEAD, math.ceil(len(entries) / count)))
    groups = [
        [(Path(file).absolute(), case_id) for file, case_id in entries[i:i + size]]
        for i in range(0, len(entries), size)
    ]
    try:
        idle, running = [worker.remote() for _ in range(count)], {}
        while groups or running:
            while groups and idle:
                some, actor = groups.pop(0), idle.pop()
                lines = actor.predict.options(num_returns='streaming').remote(some)
                running[lines] = actor, some
            (lines,), _ = ray.wait(list(running))
            actor, left = running[lines]
            try:
                entry, line = ray.get(next(lines))
                left.remove(entry)
            except StopIteration:
                del running[lines]
                idle.append(actor)
                continue
            except ray.exceptions.RayTaskError as error:
                raise error.cause if isinstance(error.cause, InputError) else error
            except ray.exceptions.RayActorError:  # killed, of memory most likely
                del running[lines]
                idle.append(worker.remote())
                if len(left) != 1:  # which of them it was is seen one by one
                    groups += [[entry] for entry in left]
                    continue
                (entry,) = left
                line = InputError(entry[0], 'the worker died on it')
            yield (given[entry[1]], entry[1]), line
    finally:
        ray.shutdown()


class _Journal:
    """What is known of each case, kept as lines of JSON from the first one on."""

    def __init__(self, output, made_by):
        self.output, self.made_by = output, made_by
        self.path = output / 'findings.jsonl'
        self.lines = {line['case']: line for line in self._read()}
        self.told = set()  # cases whose line is this model's
        self.file = None

    def _read(self):
        """The whole lines of earlier runs; the last one may be torn."""
        try:
            text = self.path.read_text()
        except (OSError, UnicodeDecodeError):
            return
        for line in text.splitlines():
            try:
                line = _finite(json.loads(line))
                line['case'], line['made_by'], line['stamp'], line['row']['status']
                line['details'], line['files']
            except (ValueError, KeyError, TypeError):
                continue
            yield line

    def has(self, case_id, stamp):
        """Whether this model has done this case, and all that it wrote is there.

        What failed is tried again: there may be more time or memory.
        """
        line = self.lines.get(case_id)
        done = (
            line is not None and line['made_by'] == self.made_by
            and line['stamp'] == stamp and line['row']['status'] == 'done'
            and all((self.output / name).is_file() for name in line['files'])
        )
        if done:
            self.told.add(case_id)
        return done

    def add(self, case_id, stamp, line):
        line = _finite({
            'case': case_id, 'made_by': self.made_by, 'stamp': stamp, **line})
        earlier = [f'{kind}/{case_id}.png' for kind in KINDS]
        earlier += self.lines.get(case_id, {'files': []})['files']
        for name in set(earlier) - set(line['files']):
            if _is_below(name):  # of other numbers than the new ones
                (self.output / name).unlink(missing_ok=True)
        self.lines[case_id] = line
        self.told.add(case_id)
        try:
            if self.file is None:
                replace(self.path, b''.join(map(_encode, self.lines.values())))
                self.file = open(self.path, 'ab')
                return
            self.file.write(_encode(line))
            self.file.flush()
        except OSError as error:
            raise InputError(self.path, f"can't be written: {error.strerror}") from None

    def write_tables(self, case_ids):
        """findings.csv and findings.json of these cases; returns their lines."""
        if self.file is not None:
            self.file.close()
        lines = [self.lines[case_id] for case_id in case_ids if case_id in self.told]
        rows = [{'case': line['case']} | line['row'] for line in lines]
        if rows:
            columns = list(dict.fromkeys(name for row in rows for name in row))
            table = io.StringIO()
            writer = csv.DictWriter(table, columns, restval='', lineterminator='\n')
            writer.writeheader()
            writer.writerows(rows)
            replace(self.output / 'findings.csv', table.getvalue().encode())
            details = [row | line['details'] for row, line in zip(rows, lines)]
            replace(
                self.output / 'findings.json',
                json.dumps(details, indent=1, allow_nan=False).encode())
        return lines


def _encode(line):
    return json.dumps(line, allow_nan=False).encode() + b'\n'


def _finite(value):
    """What JSON has no word for (NaN, infinity) becomes None."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_below(name):
    return not Path(name).is_absolute() and '..' not in Path(name).parts


def _stamp(file):
    """What changes when a file, or one in a folder, does: [files, bytes, newest]."""
    file = Path(file)
    paths = sorted(file.rglob('*')) if file.is_dir() else [file]
    try:
        stats = [path.stat() for path in paths]
    except OSError:
        return []
    return [len(stats), sum(s.st_size for s in stats), max(
        (s.st_mtime_ns for s in stats), default=0)]


def _write_files(output, case_id, finding):
    """Writes what is in files of its own; returns their names in `output`."""
    names = []
    for kind, picture in finding.pictures.items():
        names.append(f'{kind}/{case_id}.png')
        write_png(output / names[-1], picture)
    for name, content in finding.files.items():
        names.append(f'{case_id}/{name}')
        if isinstance(content, np.ndarray):
            write_png(output / names[-1], content)
        elif isinstance(content, bytes):
            replace(output / names[-1], content)
        else:
            replace(output / names[-1], json.dumps(
                _finite(content), indent=1, allow_nan=False).encode())
    return names


def write_png(path, picture):
    """uint8 [H, W] or RGB [H, W, 3] -> a PNG that appears whole."""
    if picture.ndim == 3:
        picture = picture[..., ::-1]  # OpenCV writes BGR
    done, data = cv2.imencode('.png', np.ascontiguousarray(picture))
    if not done:
        raise InputError(path, 'the picture could not be encoded')
    replace(path, data.tobytes())


def replace(path, data):
    """Writes bytes under another name and renames: never half a file."""
    partial = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(path, f"can't be written: {error.strerror}") from None
