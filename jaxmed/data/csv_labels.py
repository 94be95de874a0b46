"""The layout of a plain CSV: path,label or path and a column per class.

    path,label,patient_id            path,Pneumonia,ARDS,patient_id,view,split
    a/1.png,COVID-19,p1              a/1.png,1,0,p1,PA,train
    a/2.dcm,Normal,p2                a/2.dcm,0,,p2,AP,test

Paths are relative to the CSV. `patient_id`, `view` (a name in radiographs.VIEWS),
`split` (train, valid, test or nothing) and `origin` (a hospital or collection) may be
absent; other columns are ignored.
"""

import os
from pathlib import Path

import numpy as np

from jaxmed.data import identity, listings, radiographs, tables
from jaxmed.data.listings import Listing
from jaxmed.errors import InputError

_PATHS = ('path', 'file', 'filename', 'image')
_PATIENTS = ('patient_id', 'patientid', 'patient')
_VALUES = {'0': 0.0, '0.0': 0.0, '1': 1.0, '1.0': 1.0, '': np.nan}
_SPLITS = {
    'train': 'train', 'training': 'train', 'valid': 'valid', 'val': 'valid',
    'validation': 'valid', 'test': 'test', 'testing': 'test', '': '',
}
_VIEWS = {listings.fold_name(name): name for name in radiographs.VIEWS} | {
    '': 'unknown', 'lateral': 'L'}


def read(path, *, classes, exclusive, store_px, max_pixels, min_per_class):
    """Yields the images a CSV lists as records.

    Args:
        path: the CSV, or a folder with one CSV in it.
        classes: names of all classes, in the order of the targets; compared with the
            file's without case, spaces, underscores and hyphens.
        exclusive: every image is of one class: a label is a must, and of class
            columns one is 1 and no other. Otherwise blank cells are unknown.
        store_px, max_pixels: of `listings.read_listed`.
        min_per_class: images each class must have; a warning where not `exclusive`.

    Yields:
        Record: as of `listings.read_listed`; targets float32 [K], one-hot from a
        column `label`, or 0, 1 and NaN from the columns of the classes. Images with
        one patient_id are one group.

    Returns:
        dict: as of `listings.read_listed`.

    Raises:
        InputError: a table that can't be read, lacks a column or has a cell of another
            kind; a label that is no class; an image that is listed twice or absent;
            one patient in two given splits; a class with too few images.
        ImageError: a file that can't be read.
        ConfigError: classes that are not different names.
    """
    listed = find_listings(
        path, classes=classes, exclusive=exclusive, min_per_class=min_per_class)
    return (yield from listings.read_listed(
        listed, store_px=store_px, max_pixels=max_pixels))


def find_listings(path, *, classes, exclusive, min_per_class):
    """Lists the rows in their order; for what is raised see `read`."""
    listings.check_classes(classes)
    path = _find_table(Path(path))
    table = tables.read_table(path)
    path_column = table.need(*_PATHS)
    targets_of = _make_targets(table, classes, exclusive)
    columns = {
        'patient': table.column(*_PATIENTS), 'view': table.column('view'),
        'split': table.column('split'), 'origin': table.column('origin'),
    }
    files, sides, rows = {}, {}, []
    for line, row in table.rows:
        file = tables.find_file(path, row[path_column], line, folders=False)
        # One file however it is spelled, './a.png' and 'a.png'.
        before = files.setdefault(os.path.normpath(file), line)
        if before != line:
            raise InputError(path, f'line {line}: {row[path_column]} is in line '
                             f'{before} already')
        cell = {name: row[key] if key else '' for name, key in columns.items()}
        if not identity.names_someone(cell['patient']):
            cell['patient'] = ''
        split = _look_up(cell['split'].casefold(), _SPLITS, 'split', path, line)
        view = _look_up(
            listings.fold_name(cell['view']), _VIEWS, 'view', path, line)
        if cell['patient'] and split:
            side, first = sides.setdefault(cell['patient'], (split, line))
            if side != split:
                raise InputError(path, f'lines {first} and {line}: one patient in '
                                 f'two splits, {side!r} and {split!r}')
        rows.append((
            file, targets_of(row, line), view, cell['patient'], split, cell['origin']
        ))
    listed = [
        Listing(file, case, *rest)
        for case, (file, *rest) in zip(_case_ids(rows, path.parent), rows)
    ]
    listings.check_counts(
        listed, classes, min_per_class=min_per_class, where=path,
        exclusive=exclusive)
    return listed


def _find_table(path):
    if not path.is_dir():
        return path
    found = sorted(
        child for child in path.iterdir()
        if child.suffix.lower() == '.csv' and not child.name.startswith('.')
    )
    if len(found) != 1:
        raise InputError(path, f'{len(found)} CSV files in it, name one')
    return found[0]


def _make_targets(table, classes, exclusive):
    """(row, line) -> float32 [K]."""
    label_column = table.column('label')
    folded = {listings.fold_name(name): name for name in reversed(table.columns)}
    columns = [folded.get(listings.fold_name(name)) for name in classes]
    one_hot = dict(zip(map(listings.fold_name, classes),
                       np.eye(len(classes), dtype=np.float32)))
    if label_column is None and not any(columns):
        raise InputError(table.path, "no column 'label', nor one for each class: "
                         f'{", ".join(map(repr, classes))}')
    if label_column is None and None in columns:
        raise InputError(
            table.path, f'no column for class {classes[columns.index(None)]!r}')

    def from_label(row, line):
        label = row[label_column]
        if not label and not exclusive:
            return np.full(len(classes), np.nan, np.float32)
        if listings.fold_name(label) not in one_hot:
            raise InputError(
                table.path, f'line {line}: label {label!r} is none of the classes '
                f'{", ".join(map(repr, classes))}')
        return one_hot[listings.fold_name(label)]

    def from_columns(row, line):
        values = [
            _look_up(row[column], _VALUES, f'column {column!r}', table.path, line)
            for column in columns
        ]
        if exclusive and values.count(1) != 1:
            raise InputError(table.path, f'line {line}: {values.count(1)} classes are '
                             '1, exactly one is needed')
        return np.array(np.nan_to_num(values) if exclusive else values, np.float32)

    return from_columns if label_column is None else from_label


def _look_up(cell, known, what, path, line):
    if cell not in known:
        raise InputError(
            path, f'line {line}: {what} is {cell!r}, expected one of '
            f'{", ".join(repr(value) for value in known)}')
    return known[cell]


def _case_ids(rows, root):
    """As `identity.case_ids`; of files elsewhere the path without '..' and '/'."""
    files = []
    for file, *_ in rows:
        if not file.is_relative_to(root) or '..' in file.relative_to(root).parts:
            inside = [part for part in file.parts if part not in ('..', file.anchor)]
            file = root.joinpath(*inside[-2:])
        files.append(file)
    return identity.case_ids(files, root)
