"""Who was rated how: folders of videos or landmark files with a table of ratings.

    subject,exercise,video,rating,group,split
    p1,touch toes,p1/toes.mp4,85,BackPain,train
    p1,jump,p1/jump.mp4,,BackPain,train

`rating` is 0 (most pain, paper 000, III.B) to 100, or nothing where it is unknown.
`video` is a video, a folder of frames or a file of landmarks, relative to the table.
`group` and `split` (train, valid, test or nothing) may be absent; other columns are
ignored. KIMORE has a table of its own.
"""

import math
import os
import re
import unicodedata
from pathlib import Path
from typing import NamedTuple

from jaxmed.data import identity, listings, tables
from jaxmed.errors import InputError

# What each of KIMORE's exercises is (Capecci et al. 2019).
KIMORE_EXERCISES = {
    'es1': 'lifting of the arms',
    'es2': 'lateral tilt of the trunk with the arms in extension',
    'es3': 'trunk rotation',
    'es4': 'pelvis rotation in the transverse plane',
    'es5': 'squatting',
}
_KIMORE_FILE = re.compile(r'(.+)_es([1-5])\.csv(?:\.gz)?', re.IGNORECASE)
_KIMORE_MOST = 50.0  # the best clinical_TS

_UNKNOWN = ('', 'nan', 'na', 'n/a', 'none', '-', '?')
_SPLITS = {
    'train': 'train', 'training': 'train', 'valid': 'valid', 'val': 'valid',
    'validation': 'valid', 'test': 'test', 'testing': 'test', '': '',
}


class Rated(NamedTuple):
    """One recording of somebody who does an exercise."""

    subject: str  # in one spelling: to be hashed, never to be printed
    exercise: str  # in lower case, words separated by single spaces
    file: Path
    rating: float  # 0 to 100, higher is better; NaN where unknown
    group: str = ''  # 'BackPain'; '' where unknown
    split: str = ''  # 'train', 'valid' or 'test'; '' to be drawn


def read_ratings(path):
    """Reads a table of ratings.

    Args:
        path: the table, or a folder with a ratings.csv in it.

    Returns:
        list of Rated, in the order of the rows. A split that one row of a subject
        states is that of all of them.

    Raises:
        InputError: no table, a table that can't be read or lacks a column; a row
            without a subject or an exercise, with a rating that is no number or outside
            0-100, with an unknown split, or with a file that is absent or in a row
            above already; a subject in two given splits. Lines are named, subjects not.
    """
    path = Path(path)
    table = tables.read_table(path / 'ratings.csv' if path.is_dir() else path)
    columns = {
        'subject': table.need('subject', 'subject_id', 'patient', 'patient_id'),
        'exercise': table.need('exercise', 'task'),
        'video': table.need('video', 'file', 'path', 'landmarks'),
        'rating': table.need('rating', 'score'),
        'group': table.column('group'), 'split': table.column('split'),
    }
    rated, lines = [], {}
    for line, row in table.rows:
        cell = {name: row[key] if key else '' for name, key in columns.items()}
        if not identity.names_someone(cell['subject']):
            raise InputError(table.path, f'line {line}: no subject')
        exercise = listings.fold_name(cell['exercise'])
        if not exercise:
            raise InputError(table.path, f'line {line}: no exercise')
        split = _SPLITS.get(cell['split'].casefold())
        if split is None:
            raise InputError(
                table.path, f'line {line}: split is {cell["split"]!r}, expected one of '
                f'{", ".join(map(repr, _SPLITS))}')
        file = tables.find_file(table.path, cell['video'], line, folders=True)
        # One file however it is spelled, './a.mp4' and 'a.mp4'.
        before = lines.setdefault(os.path.normpath(file), line)
        if before != line:
            raise InputError(
                table.path,
                f'line {line}: {cell["video"]} is in line {before} already')
        rating = _read_rating(table.path, cell['rating'], line, most=100.0)
        rated.append((line, Rated(
            _fold_subject(cell['subject']), exercise, file, rating, cell['group'],
            split)))
    splits = _find_splits(table.path, rated)
    return [row._replace(split=splits.get(row.subject, '')) for _, row in rated]


def read_kimore(folder):
    """Reads the scores of KIMORE: scores.csv beside SUBJECT_EsK.csv.gz.

    The clinical total score, 0 to 50, is doubled. Exercises are 'es1' to 'es5', see
    KIMORE_EXERCISES. Every file is listed, those without a score or a row as not
    rated; a warning says how many. So does one of rows without a file, which are left
    out: a part of the data set comes with the scores of all of it.

    Args:
        folder: that holds both.

    Returns:
        list of Rated, by file name.

    Raises:
        InputError: no table, a table that can't be read or lacks a column; a score
            that is no number or outside 0-50; a recording in two rows or two files; no
            files.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(folder, 'no such folder')
    table = tables.read_table(folder / 'scores.csv')
    subject, exercise = table.need('subject'), table.need('exercise')
    score, group = table.need('clinical_TS'), table.column('group')
    scores, lines = {}, {}
    for line, row in table.rows:
        key = (_fold_subject(row[subject]),
               _kimore_exercise(table.path, row[exercise], line))
        if not key[0]:
            raise InputError(table.path, f'line {line}: no subject')
        if lines.setdefault(key, line) != line:
            raise InputError(
                table.path, f'line {line}: the recording of line {lines[key]} again')
        rating = _read_rating(table.path, row[score], line, most=_KIMORE_MOST)
        scores[key] = rating, row[group] if group else ''
    groups = {key[0]: name for key, (_, name) in scores.items()}
    rated = {}
    for file in sorted(folder.iterdir()):
        match = _KIMORE_FILE.fullmatch(file.name)
        if match is None or file.name.startswith('.'):
            continue
        key = _fold_subject(match[1]), f'es{match[2]}'
        if key in rated:
            raise InputError(file, f'the same recording as {rated[key].file.name}')
        rating, name = scores.get(key, (math.nan, groups.get(key[0], '')))
        rated[key] = Rated(*key, file, rating, name)
    if not rated:
        raise InputError(folder, 'no recordings (SUBJECT_EsK.csv.gz)')
    listings.warn_of(folder, 'recordings without a score', [
        row.file.name for row in rated.values() if math.isnan(row.rating)])
    listings.warn_of(table.path, 'rows without a file: line', [
        line for key, line in lines.items() if key not in rated])
    return list(rated.values())


def _read_rating(path, cell, line, *, most):
    """0-100, from a cell of 0 to `most`."""
    if cell.casefold() in _UNKNOWN:
        return math.nan
    try:
        value = float(cell)
    except ValueError:
        raise InputError(path, f'line {line}: rating {cell!r} is no number') from None
    if not 0 <= value <= most:  # nor is infinity
        raise InputError(path, f'line {line}: rating {cell} is outside 0-{most:g}')
    return value * (100.0 / most)


def _kimore_exercise(path, cell, line):
    name = cell.casefold().removeprefix('es').removesuffix('.0').strip()
    if f'es{name}' not in KIMORE_EXERCISES:
        raise InputError(path, f'line {line}: exercise {cell!r} is none of 1 to 5')
    return f'es{name}'


def _fold_subject(name):
    """One spelling: 'P1' is 'p1', however its letters are composed."""
    folded = unicodedata.normalize('NFC', name.strip()).casefold()
    return unicodedata.normalize('NFC', folded)


def _find_splits(path, rated):
    """subject -> the split that its rows state."""
    sides = {}
    for line, row in rated:
        if row.split:
            side, first = sides.setdefault(row.subject, (row.split, line))
            if side != row.split:
                raise InputError(
                    path, f'lines {first} and {line}: one subject in two splits, '
                    f'{side!r} and {row.split!r}')
    return {subject: side for subject, (side, _) in sides.items()}
