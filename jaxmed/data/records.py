"""ArrayRecord shards and their manifest: written whole or not at all, read by index.

A folder of prepared records holds

    manifest.json             schema, task, fractions, seed, counts, SHA-256 per shard
    cases.csv                 split, case_id, patient_id, content_id, records
    train-00000.arrayrecord   records as msgpack; no pickle anywhere
    ...

Splits are drawn by a hash of the patient id, never by image: the same patient is on
the same side for the same seed, however many others come or go.
"""

import contextlib
import csv
import glob
import hashlib
import json
import logging
import os
import shutil
from pathlib import Path

import grain
import numpy as np
from array_record.python import array_record_module
from flax import serialization

from jaxmed.errors import RecordError

SCHEMA = 1
SPLITS = ('train', 'valid', 'test')
LOG = logging.getLogger('jaxmed')
MANIFEST = 'manifest.json'
CASES = 'cases.csv'
CASE_COLUMNS = ('split', 'case_id', 'patient_id', 'content_id', 'records')
SHARD_BYTES = 256 << 20  # large enough to read in one sweep, small enough to copy


def split_of(patient_id, *, fractions, seed, fold=0):
    """Names the split a patient belongs to, by hash: no state, no order.

    Args:
        patient_id: str.
        fractions: three shares (train, valid, test) that add up to 1.
        seed: another seed draws another split.
        fold: moves the splits on by that many shares of test, around: with 0.2 for
            the test, every patient is in the test of one of the folds 0 to 4.
    """
    digest = hashlib.sha256(f'{seed}:{patient_id}'.encode()).digest()
    draw = (int.from_bytes(digest[:8], 'big') / 2.0**64 + fold * fractions[2]) % 1.0
    for split, share in zip(SPLITS, fractions):
        draw -= share
        if draw < 0:
            return split
    # Rounding: 0.8 + 0.1 + 0.1 may fall short of 1 by a hair.
    return [split for split, share in zip(SPLITS, fractions) if share > 0][-1]


def parse_fractions(text):
    """'0.8,0.1,0.1' -> (0.8, 0.1, 0.1), checked."""
    try:
        fractions = tuple(float(part) for part in text.split(','))
    except ValueError:
        raise RecordError('--splits', f'not three numbers: {text!r}') from None
    return check_fractions(fractions, where='--splits')


def check_fractions(fractions, *, where):
    """The shares, if they are three that add up to 1; `where` names them."""
    # Written so that NaN fails: it passes no comparison.
    if not (
        len(fractions) == 3 and all(f >= 0 for f in fractions)
        and abs(sum(fractions) - 1) < 1e-6
    ):
        text = ','.join(map(str, fractions))
        raise RecordError(
            where, f'three shares >= 0 that add up to 1 are needed: {text!r}')
    return fractions


class _Shards:
    """The shards of one split; a new one starts when the last one is full."""

    def __init__(self, folder, split):
        self.folder, self.split = folder, split
        self.shards, self.writer = [], None

    def write(self, data):
        if self.writer is None or self.shards[-1]['bytes'] + len(data) > SHARD_BYTES:
            self.close()
            name = f'{self.split}-{len(self.shards):05d}.arrayrecord'
            self.shards.append({'file': name, 'records': 0, 'bytes': 0})
            # Groups of one: random access reads a record and not its neighbours.
            self.writer = array_record_module.ArrayRecordWriter(
                str(self.folder / name), 'group_size:1'
            )
        self.writer.write(data)
        self.shards[-1]['records'] += 1
        self.shards[-1]['bytes'] += len(data)

    def close(self):
        if self.writer is not None:
            self.writer.close()
            self.writer = None
            self.shards[-1]['sha256'] = _sha256(self.folder / self.shards[-1]['file'])

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        # What the source or a signal raised leaves a writer open, with threads at work.
        if self.writer is not None:
            with contextlib.suppress(RuntimeError, OSError):
                self.writer.close()
            self.writer = None


def write_records(
    records, folder, *, task, fractions, seed, fold=0, overwrite=False, labels=()
):
    """Writes records into `folder`, which appears complete or not at all.

    Args:
        records: iterable of Record; drained once, one in memory at a time. A record
            may name its own 'split', which is not stored; all others are drawn. What
            a generator returns in the end, counts of what its reader found, a
            mapping that JSON can hold, becomes the manifest's 'found'.
        folder: the target; must not exist unless `overwrite`.
        task: name of the task the records are for.
        fractions: shares of train, valid, test.
        seed, fold: of the split, see split_of.
        overwrite: replace what is there.
        labels: names along the axis of 'targets'; they are kept and counted.

    Returns:
        The manifest.

    Raises:
        RecordError: the target exists, no records came, an example id came twice,
            no patient fell into a split whose share is not 0, or no example of one of
            several classes, which exclude each other, into the training split.
        InputError: whatever the reader raises; nothing is left behind.
    """
    folder = Path(folder).absolute()
    check_target(folder, overwrite=overwrite)
    partial, old = (
        folder.with_name(f'.{folder.name}.{what}-{os.getpid()}')
        for what in ('partial', 'old')
    )
    try:
        _remove_leftovers(folder)
        partial.mkdir(parents=True)
        with contextlib.ExitStack() as stack:
            manifest = _write_all(
                records, partial, folder, labels=labels, task=task,
                fractions=fractions, seed=seed, fold=fold, shards={
                    split: stack.enter_context(_Shards(partial, split))
                    for split in SPLITS},
            )
        if folder.exists():
            os.replace(folder, old)
        os.replace(partial, folder)
    except OSError as error:
        raise RecordError(folder, f"can't be written: {error.strerror}") from None
    finally:
        if old.exists() and not folder.exists():  # stopped between the two renames
            os.replace(old, folder)
        for path in (partial, old):
            shutil.rmtree(path, ignore_errors=True)
    return manifest


def check_target(folder, *, overwrite):
    """Raises RecordError where records may not be written: cheap, before reading."""
    folder = Path(folder)
    if folder.exists() and not overwrite:
        raise RecordError(folder, 'exists already; --overwrite replaces it')
    if folder.exists() and not (folder / MANIFEST).is_file():
        raise RecordError(folder, f'is no folder of records (no {MANIFEST}): kept')


def _remove_leftovers(folder):
    """Removes what a killed preparation of this folder left, not a living one's.

    The old records, where it was killed before the new ones had their place, go back.
    """
    for path in folder.parent.glob(f'.{glob.escape(folder.name)}.*-*'):
        what, _, process = path.name.rpartition('.')[2].partition('-')
        if what not in ('partial', 'old') or not process.isdigit() or _lives(process):
            continue
        if what == 'old' and not folder.exists():
            os.replace(path, folder)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _lives(process):
    # In a container a process started again often has the number of the killed one.
    if int(process) == os.getpid():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass  # another user's
    return True


def _write_all(
    records, partial, folder, *, labels, task, fractions, seed, fold, shards
):
    cases, seen, first, found, sides, drawn = {}, set(), None, {}, {}, False
    tally = _Tally(labels)
    for record in _keep_result(records, found):
        if record['example_id'] in seen:
            raise RecordError(folder, f'example id {record["example_id"]} came twice')
        check_case_id(record['case_id'])
        shapes = {
            name: (value.shape, value.dtype) for name, value in record.items()
            if isinstance(value, np.ndarray)
        }
        if seen and shapes != first:
            raise RecordError(
                folder, f'{record["example_id"]} has other fields, shapes or types '
                f'than the first example: {shapes} and {first}'
            )
        first = shapes
        seen.add(record['example_id'])
        split, patient = record.get('split'), record['patient_id']
        if split is None:
            split = split_of(patient, fractions=fractions, seed=seed, fold=fold)
            drawn = True
        if split not in SPLITS or sides.setdefault(patient, split) != split:
            raise RecordError(
                folder, f'{record["example_id"]} is given to split {split!r}, others '
                f'of its patient to {sides.get(patient)!r}'
            )
        record = {name: value for name, value in record.items() if name != 'split'}
        tally.add(split, record)
        shards[split].write(serialization.msgpack_serialize(record))
        case = split, record['case_id'], patient, record.get('content_id', '')
        cases[case] = cases.get(case, 0) + 1
    if not seen:
        raise RecordError(folder, 'the source holds no example')
    manifest = {
        'schema': SCHEMA, 'task': task, 'seed': seed, 'fold': fold,
        'fractions': list(fractions), 'splits': {},
        **({'found': found} if found else {}),
        **({'labels': list(labels)} if labels else {}),
    }
    tally.check(folder)
    for (split, writer), share in zip(shards.items(), fractions):
        writer.close()
        patients = {case[2] for case in cases if case[0] == split}
        if drawn and share > 0 and not patients:
            everyone = {case[2] for case in cases}
            raise RecordError(
                folder, f'none of {len(everyone)} patients fell into split {split!r} '
                f'({share:g}); {_advise(everyone, fractions)}'
            )
        manifest['splits'][split] = {
            'records': sum(shard['records'] for shard in writer.shards),
            'cases': sum(case[0] == split for case in cases),
            'patients': len(patients),
            'shards': writer.shards,
            **({'labels': tally.counts[split].tolist()} if labels else {}),
        }
    with open(partial / CASES, 'w', newline='') as file:
        table = csv.writer(file)
        table.writerow(CASE_COLUMNS)
        table.writerows([*case, count] for case, count in sorted(cases.items()))
    (partial / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))
    return manifest


class _Tally:
    """How many examples of each label fall into each split."""

    def __init__(self, labels):
        self.labels, self.one_hot = labels, True
        self.counts = {split: np.zeros(len(labels), int) for split in SPLITS}

    def add(self, split, record):
        if self.labels:
            self.counts[split] += record['targets'] == 1
            self.one_hot &= bool(np.sum(record['targets']) == 1)

    def check(self, folder):
        """Classes that exclude each other must be there to be learned; else a warning.
        """
        anywhere = sum(self.counts.values())
        for split, counts in self.counts.items():
            absent = [
                name for name, count, total in zip(self.labels, counts, anywhere)
                if total and not count
            ]
            if not absent or not counts.any():
                continue
            if split == 'train' and self.one_hot:
                raise RecordError(
                    folder, f'no example of class {absent[0]!r} fell into split train: '
                    'it has too few groups for these --splits, or for this --seed'
                )
            LOG.warning('%s: split %s has no %s', folder, split, ', '.join(absent))


def _keep_result(records, found):
    """Yields the records; what their generator returns goes into `found`."""
    found.update((yield from records) or {})


def _advise(patients, fractions):
    wanted = {split for split, share in zip(SPLITS, fractions) if share > 0}
    for seed in range(1000):
        if wanted == {split_of(p, fractions=fractions, seed=seed) for p in patients}:
            return f'--seed={seed} fills all splits'
    return 'there are too few for that: try --splits=0.8,0,0.2 or --splits=1,0,0'


def check_case_id(case_id):
    """Case ids name files that are written: refuses those that leave their folder.

    Raises:
        RecordError: not a relative path without '..', or with control characters.
    """
    parts = case_id.split('/')
    if (
        not case_id or '\\' in case_id or not case_id.isprintable()
        or any(part in ('', '.', '..') for part in parts) or len(case_id) > 200
    ):
        raise RecordError('case id', f'{case_id[:200]!r} can not name a file')


def read_manifest(folder, *, task):
    """The manifest of a folder of records.

    Raises:
        RecordError: no or damaged manifest, another schema, another task.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise RecordError(folder, f'no {MANIFEST}: make records with launch.prepare')
    try:
        manifest = json.loads(path.read_text())
        schema, made_for = manifest['schema'], manifest['task']
        for split in SPLITS:
            for field in ('records', 'cases', 'patients', 'shards'):
                manifest['splits'][split][field]
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError(path, f'damaged manifest: {error!r}') from None
    if schema != SCHEMA:
        raise RecordError(path, f'schema {schema}, this version reads {SCHEMA}')
    if made_for != task:
        raise RecordError(path, f'records of task {made_for!r}, not of {task!r}')
    return manifest


def read_cases(folder):
    """Rows of cases.csv: dicts of split, case_id, patient_id, content_id."""
    path = Path(folder) / CASES
    try:
        with open(path, newline='') as file:
            table = csv.DictReader(file)
            rows = list(table)
    except OSError as error:
        raise RecordError(path, error.strerror) from None
    if tuple(table.fieldnames or ()) != CASE_COLUMNS:
        raise RecordError(path, f'its columns are not {", ".join(CASE_COLUMNS)}')
    return rows


def check_records(source, example, *, folder):
    """Compares the records of a source with what a task expects.

    Args:
        source: RecordSource, not empty.
        example: record of zeros of the task; its arrays count, ids do not.
        folder: named in errors.

    Raises:
        RecordError: naming the first field that differs.
    """
    record = source[0]
    for name, value in example.items():
        if name not in record:
            raise RecordError(folder, f'no {name} in these records: prepare them again')
        want, have = np.asarray(value), np.asarray(record[name])
        if (want.shape, want.dtype) != (have.shape, have.dtype):
            raise RecordError(
                folder, f'{name} is {have.dtype}{list(have.shape)} in these records, '
                f'the task needs {want.dtype}{list(want.shape)}; prepare them with the '
                'same task options'
            )


def check_labels(folder, labels):
    """Compares the labels of prepared records with a task's, in their order.

    Raises:
        RecordError: others. Records that were written without labels pass.
    """
    stored = json.loads((Path(folder) / MANIFEST).read_text()).get('labels')
    if stored is not None and stored != list(labels):
        raise RecordError(
            folder, f'labels {", ".join(stored)} in these records, the task has '
            f'{", ".join(labels) or "none"}'
        )


class RecordSource:
    """Random access to the records of one split; a grain data source."""

    def __init__(self, paths):
        self._source = grain.sources.ArrayRecordDataSource([str(p) for p in paths])

    def __len__(self):
        return len(self._source)

    def __getitem__(self, index):
        return serialization.msgpack_restore(self._source[index])

    def __repr__(self):  # grain logs it; no paths there
        return f'RecordSource({len(self)} records)'


def open_records(folder, split, *, task, verify):
    """Opens one split after checking its shards against the manifest.

    Args:
        folder: of prepared records.
        split: 'train', 'valid' or 'test'.
        task: name the manifest must carry.
        verify: compare SHA-256 sums (reads every byte once, about 1 GB/s).

    Returns:
        RecordSource.

    Raises:
        RecordError: naming the manifest or the shard at fault.
    """
    folder = Path(folder)
    entry = read_manifest(folder, task=task)['splits'].get(split)
    if entry is None or not entry['records']:
        raise RecordError(folder, f'split {split!r} holds no records')
    for shard in entry['shards']:
        path = folder / shard['file']
        if not path.is_file():
            raise RecordError(path, 'shard is missing')
        if verify and _sha256(path) != shard['sha256']:
            raise RecordError(path, 'damaged shard: its SHA-256 is not the manifest\'s')
    source = RecordSource(folder / shard['file'] for shard in entry['shards'])
    if len(source) != entry['records']:
        raise RecordError(
            folder, f'{len(source)} records in {split!r}, manifest: {entry["records"]}'
        )
    return source


def fingerprint(folder):
    """SHA-256 of the manifest: tells prepared data apart, shard sums included."""
    return _sha256(Path(folder) / MANIFEST)


def _sha256(path):
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()
