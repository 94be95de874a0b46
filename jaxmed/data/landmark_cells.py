"""Lines of numbers and names of joints, as files of landmarks have them."""

import csv

import numpy as np

from jaxmed.data import listings
from jaxmed.errors import InputError


def check_joints(path, found, skeleton):
    """Refuses folded names that are not those of a skeleton."""
    needed = {fold_joint(name): name for name in skeleton.joints}
    if len(found) != len(needed):
        raise InputError(
            path, f'{len(found)} joints, {len(needed)} are needed ({skeleton.name})')
    missing = [name for folded, name in needed.items() if folded not in found]
    if missing:
        raise InputError(path, f'no joint {missing[0]!r} ({skeleton.name})')


def fold_joint(name):
    """Without case, spaces, underscores and a number behind it: 'left_pinky_1'."""
    name = listings.fold_name(name).replace(' ', '')
    return name.rstrip('0123456789') or name


def is_number(cell):
    try:
        float(cell or 'nan')
    except ValueError:
        return False
    return True


def split_cells(path, number, line):
    try:
        return [cell.strip() for cell in next(csv.reader([line]))]
    except csv.Error as error:
        raise InputError(path, f'line {number}: {error}') from None


def parse_lines(path, lines, width, kept):
    """Lines of `width` cells -> float64 [lines, columns kept]; an empty cell is NaN."""
    commas = np.array([line.count(',') for _, line in lines])
    if np.all(commas == width - 1):
        try:
            return np.loadtxt(
                [line for _, line in lines], delimiter=',', comments=None, ndmin=2,
                usecols=kept, quotechar='"')
        except ValueError:  # empty cells, or text: found out cell by cell
            pass
    table = np.empty((len(lines), len(kept)))
    for row, (number, line) in enumerate(lines):
        cells = split_cells(path, number, line)
        if len(cells) != width:
            raise InputError(
                path, f'line {number}: {len(cells)} cells for {width} columns')
        for place, column in enumerate(kept):
            # What the cell says isn't quoted: it may be somebody's name.
            if not is_number(cells[column]):
                raise InputError(
                    path, f'line {number}: column {column + 1} holds no number')
            table[row, place] = float(cells[column] or 'nan')
    return table
