"""A folder of scans and a table about them: who is meant, and what became of each."""

import csv
import hashlib
import logging
from pathlib import Path

from jaxmed.data import identity, volumes
from jaxmed.errors import ConfigError, InputError, RecordError

LOG = logging.getLogger('jaxmed')


class Cohort:
    """The scans of a folder, by case id or by path, and notes for the manifest.

    Args:
        source: folder of scans, or one.
        read: (path) -> Volume.

    Attributes:
        scans: case id -> path, in order.
        found: count of 'scans' that were read; 'excluded', case id -> reason, of scans
            of a kind that the paper leaves out; 'unprocessable', case id -> reason.

    Raises:
        ImageError: no scans in `source`.
    """

    def __init__(self, source, *, read):
        self.source, self._read = Path(source), read
        self._patients = {}
        self.scans = {case: path for path, case in volumes.find_scans(self.source)}
        self._names = {case: case for case in self.scans} | {
            path.relative_to(self.source).as_posix(): case
            for case, path in self.scans.items() if path != self.source
        }
        self.found = {'scans': 0, 'excluded': {}, 'unprocessable': {}}

    def group(self, table, *, columns, others=()):
        """{case id: [(line, row as dict)]} of a CSV table with a column 'series'.

        Series are named by case id or path, with or without suffix. A column
        'patient_id' tells which series are of one patient, in place of what their
        files tell: NIfTI files tell nothing, so without it each is a patient.

        Args:
            table: the file.
            columns: it must have, beside 'series'.
            others: columns that it may have; what else it has is warned of.

        Raises:
            RecordError: no such file, no column or row, a series that is not there or
                is of two patients.
        """
        cases = {}
        rows = read_rows(table, columns=('series', *columns))
        unused = set(rows[0][1]) - {'series', 'patient_id', *columns, *others, ''}
        if unused:
            LOG.warning('%s: not used, column %s', table, ', '.join(sorted(unused)))
        for line, row in rows:
            if row['series'] not in self._names:
                raise RecordError(
                    table, f'series {row["series"]!r} is not in {self.source}')
            case_id = self._names[row['series']]
            cases.setdefault(case_id, []).append((line, row))
            patient = row.get('patient_id', '')
            if identity.names_someone(patient):
                known = self._patients.setdefault(case_id, patient)
                if known != patient:
                    raise RecordError(table, f'line {line}: series {row["series"]!r} '
                                      f'is of patient {known!r} and of {patient!r}')
        return cases

    def attempt(self, case_id, function):
        """What a function returns; None, with a note, where a scan is at fault."""
        try:
            return function()
        except ConfigError:
            raise
        except InputError as error:
            LOG.warning('%s', error)
            self.found['unprocessable'][case_id] = error.reason

    def read(self, case_id):
        """A scan; None if it can't be read or is of a kind that is left out."""
        self.found['scans'] += 1
        volume = self.attempt(case_id, lambda: self._read(self.scans[case_id]))
        if volume is not None and case_id in self._patients:
            # The name itself is not kept.
            digest = hashlib.sha256(f'patient:{self._patients[case_id]}'.encode())
            volume = volume._replace(patient_id=digest.hexdigest()[:16])
        if volume is None or not volume.facts['exclusion']:
            return volume
        LOG.warning('%s: left out, %s', case_id, volume.facts['exclusion'])
        self.found['excluded'][case_id] = volume.facts['exclusion']


def read_rows(path, *, columns):
    """[(line, row)] of a CSV file; values are stripped, missing ones ''."""
    try:
        with open(path, newline='', encoding='utf-8-sig') as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or []
            for name in columns:
                if name not in names:
                    raise RecordError(path, f'no column {name!r}')
            rows = [
                (reader.line_num, {n: (row[n] or '').strip() for n in names})
                for row in reader
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RecordError(path, getattr(error, 'strerror', None) or 'no CSV') from None
    if not rows:
        raise RecordError(path, 'no rows')
    return rows
