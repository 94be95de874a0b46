"""Prediction on a file or a folder: pictures, findings.csv and findings.json."""

import csv
import io
import itertools
import json
import logging
import os
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from jaxmed.data.pipeline import Prefetch
from jaxmed.errors import InputError
from jaxmed.types import Finding

LOG = logging.getLogger('jaxmed')
KINDS = ('masks', 'overlays')  # of pictures that tasks make


def predict_files(predictor, path, output):
    """Predicts every case under `path` and writes what was found.

    In a folder one bad file costs its own row, with status and reason; a single bad
    file raises. The next files are read while the device works on these.

    Args:
        predictor: predict.Predictor.
        path: a file or a folder.
        output: folder; gets KIND/NAME.png for each kind of picture, findings.csv and
            findings.json. Each file appears whole or not at all.

    Returns:
        (rows of findings.csv as dicts, number of cases that failed).

    Raises:
        InputError: the single file is bad, or nothing can be read or written.
    """
    path, output = Path(path), Path(output)
    task = predictor.task
    if output.resolve().is_relative_to(path.resolve()):
        raise InputError(output, 'lies in the input: pictures would be read as cases')
    files = task.files(path)

    def read(entry):
        file, case_id = entry
        try:
            return file, case_id, task.read(file, case_id=case_id), None
        except InputError as error:
            return file, case_id, None, error

    rows, details, failed = [], [], 0
    try:
        with (
            Prefetch(iter(files), read, depth=predictor.together + 1) as ready,
            tqdm(total=len(files), disable=None) as bar,
        ):
            while some := list(itertools.islice(ready, predictor.together)):
                found = iter(predictor.predict(
                    [record for _, _, record, error in some if error is None]
                ))
                for file, case_id, _, error in some:
                    row = {'case': case_id, 'status': 'done', 'reason': ''}
                    if error is not None:
                        if file == path:
                            raise error
                        failed += 1
                        LOG.warning('%s', error)
                        row |= {'status': 'failed', 'reason': error.reason}
                    finding = next(found) if error is None else Finding({}, {}, {})
                    _write_pictures(output, case_id, finding.pictures)
                    rows.append(row | finding.row)
                    details.append(row | finding.row | finding.details)
                    bar.update()
    finally:
        if rows:  # what was done so far is kept, whatever ends the loop
            _write_tables(output, rows, details)
    return rows, failed


def _write_pictures(output, case_id, pictures):
    """A PNG of each kind; none of an earlier prediction stays beside them."""
    for kind in KINDS:
        path = output / kind / f'{case_id}.png'
        if kind in pictures:
            write_png(path, pictures[kind])
        else:
            path.unlink(missing_ok=True)


def _write_tables(output, rows, details):
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, restval='', lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    replace(output / 'findings.csv', table.getvalue().encode())
    replace(output / 'findings.json', json.dumps(details, indent=1).encode())


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
