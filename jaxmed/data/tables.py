"""CSV files -> rows by column name, or one line that says why not."""

import csv
import io
import unicodedata
from pathlib import PureWindowsPath
from typing import NamedTuple

from jaxmed.errors import ImageError, InputError

_MARKS = {  # first bytes of encodings that are not UTF-8
    b'\xff\xfe': 'UTF-16', b'\xfe\xff': 'UTF-16', b'PK\x03\x04': 'a spreadsheet',
}


class Table(NamedTuple):
    """A CSV file. Cells and column names have no spaces around them."""

    path: object
    columns: list  # of str, in order
    rows: list  # of (line in the file, {column: cell})

    def column(self, *names):
        """The column that has one of these names, in any case; None without one."""
        folded = {column.casefold(): column for column in reversed(self.columns)}
        for name in names:
            if name.casefold() in folded:
                return folded[name.casefold()]
        return None

    def need(self, *names):
        """As `column`; a missing one raises InputError naming it."""
        column = self.column(*names)
        if column is None:
            raise InputError(
                self.path, f'no column {names[0]!r}; there are '
                f'{", ".join(self.columns)[:200]!r}')
        return column


def read_table(path):
    """Reads a CSV file with a line of column names.

    UTF-8 with or without a byte order mark, line ends of any system, quoted cells
    that span lines. Empty lines are skipped, missing cells at the end are ''.

    Returns:
        Table.

    Raises:
        InputError: no such file, another encoding, another separator than a comma, no
            rows, a column twice, a row with more cells than columns.
    """
    try:
        with open(path, 'rb') as file:
            data = file.read()
    except OSError as error:
        raise InputError(path, error.strerror) from None
    for mark, what in _MARKS.items():
        if data.startswith(mark):
            raise InputError(path, f'{what}, a CSV file in UTF-8 is needed')
    try:
        text = data.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        line = data[:error.start].count(b'\n') + 1
        raise InputError(
            path, f'not UTF-8 (line {line}): save it as CSV UTF-8') from None
    if not text.strip():
        raise InputError(path, 'empty file')
    header = text.lstrip().splitlines()[0]
    for separator, name in ((';', 'semicolons'), ('\t', 'tabs')):
        if separator in header and ',' not in header:
            raise InputError(path, f'separated by {name}, commas are needed')
    reader = csv.reader(io.StringIO(text, newline=''))
    try:
        return _to_table(path, reader)
    except csv.Error as error:
        raise InputError(path, f'line {reader.line_num}: {error}') from None


def _to_table(path, reader):
    columns, rows = None, []
    for cells in reader:
        cells = [cell.strip() for cell in cells]
        if not any(cells):
            continue
        if columns is None:
            columns = cells
            named = [column.casefold() for column in columns if column]
            for column in columns:
                if column and named.count(column.casefold()) > 1:
                    raise InputError(path, f'column {column!r} is there twice')
            continue
        if any(cells[len(columns):]):
            raise InputError(
                path, f'line {reader.line_num}: {len(cells)} cells for '
                f'{len(columns)} columns; quote cells with commas in them')
        cells += [''] * (len(columns) - len(cells))
        rows.append((reader.line_num, dict(zip(columns, cells))))
    if not rows:
        raise InputError(path, 'column names and no rows')
    return Table(path, columns, rows)


def find_file(table, name, line, *, folders):
    """The file that a cell of a table names, relative to the table.

    Args:
        table: Path of the table.
        name: the cell; letters may be composed otherwise than in the file's name, and
            separators may be those of Windows.
        line: of the row, for messages.
        folders: whether it may be a folder.

    Raises:
        InputError: the cell is empty.
        ImageError: nothing is there.
    """
    if not name:
        raise InputError(table, f'line {line}: no path')
    forms = [name, *(unicodedata.normalize(form, name) for form in ('NFC', 'NFD'))]
    if '\\' in name:
        forms.append(PureWindowsPath(name).as_posix())
    for form in forms:
        path = table.parent / form
        if path.is_file() or folders and path.is_dir():
            return path
    raise ImageError(table.parent / name, f'absent; {table.name} line {line} lists it')
