"""Shards and manifest: whole or absent, split by patient, checked on opening."""

import json
import os
import subprocess

import numpy as np
import pytest

from jaxmed.data import records
from jaxmed.errors import InputError, RecordError

FRACTIONS = (0.5, 0.25, 0.25)


def write(examples, folder, count=60, **options):
    source = examples(count)
    defaults = dict(task='toy', fractions=FRACTIONS, seed=0)
    return records.write_records(
        (source[i] for i in range(count)), folder, **(defaults | options)
    )


def read(folder, split, **options):
    options = {'task': 'toy', 'verify': True} | options
    return records.open_records(folder, split, **options)


def test_what_is_written_is_read_again(examples, tmp_path):
    write(examples, tmp_path / 'a')
    found = {}
    for split in records.SPLITS:
        source = read(tmp_path / 'a', split)
        found |= {source[i]['example_id']: source[i] for i in range(len(source))}
    assert len(found) == 60
    for index in range(60):
        record = examples(60)[index]
        for name, value in record.items():
            np.testing.assert_array_equal(found[record['example_id']][name], value)


def test_a_patient_is_never_on_two_sides(examples, tmp_path):
    manifest = write(examples, tmp_path / 'a')
    sides = {}
    for case in records.read_cases(tmp_path / 'a'):
        sides.setdefault(case['patient_id'], set()).add(case['split'])
    assert len(sides) == 30 and all(len(side) == 1 for side in sides.values())
    assert sum(split['patients'] for split in manifest['splits'].values()) == 30


def test_a_patients_side_does_not_depend_on_the_others(examples, tmp_path):
    write(examples, tmp_path / 'few', count=40)
    write(examples, tmp_path / 'many', count=60)
    few, many = (
        {case['case_id']: case['split'] for case in records.read_cases(tmp_path / name)}
        for name in ('few', 'many')
    )
    assert all(many[case] == split for case, split in few.items())


def test_shares_are_close_to_the_fractions():
    splits = [records.split_of(f'p{i}', fractions=(0.8, 0.1, 0.1), seed=0)
              for i in range(5000)]
    for split, share in zip(records.SPLITS, (0.8, 0.1, 0.1)):
        # Four standard deviations of a binomial share.
        deviation = (share * (1 - share) / 5000) ** 0.5
        assert abs(splits.count(split) / 5000 - share) < 4 * deviation


def test_shards_roll_over_and_keep_their_order(examples, tmp_path, monkeypatch):
    monkeypatch.setattr(records, 'SHARD_BYTES', 1000)
    manifest = write(examples, tmp_path / 'a', fractions=(0, 0, 1))
    shards = manifest['splits']['test']['shards']
    assert len(shards) > 5 and all(shard['bytes'] <= 1000 for shard in shards)
    source = read(tmp_path / 'a', 'test')
    assert [source[i]['example_id'] for i in range(60)] == [
        f'example-{i}' for i in range(60)]


def test_a_damaged_shard_is_named(examples, tmp_path):
    write(examples, tmp_path / 'a')
    shard = tmp_path / 'a' / 'train-00000.arrayrecord'
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(RecordError, match='train-00000.arrayrecord: damaged shard'):
        read(tmp_path / 'a', 'train')
    shard.unlink()
    with pytest.raises(RecordError, match='shard is missing'):
        read(tmp_path / 'a', 'train')


def test_records_of_another_task_or_schema_are_refused(examples, tmp_path):
    write(examples, tmp_path / 'a')
    with pytest.raises(RecordError, match="records of task 'toy', not of 'other'"):
        read(tmp_path / 'a', 'train', task='other')
    path = tmp_path / 'a' / records.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {'schema': 99}))
    with pytest.raises(RecordError, match='schema 99, this version reads 1'):
        read(tmp_path / 'a', 'train')
    path.write_text('{')
    with pytest.raises(RecordError, match='damaged manifest'):
        read(tmp_path / 'a', 'train')
    with pytest.raises(RecordError, match='no manifest.json'):
        read(tmp_path, 'train')


def test_no_writer_stays_open_when_the_source_fails(examples, tmp_path, monkeypatch):
    opened, real = [], records.array_record_module.ArrayRecordWriter

    class Watched:
        def __init__(self, *args):
            opened.append(self)
            writer = real(*args)
            self.write, self._close, self.closed = writer.write, writer.close, False

        def close(self):
            self._close()
            self.closed = True

    monkeypatch.setattr(records.array_record_module, 'ArrayRecordWriter', Watched)

    def source():
        yield from (examples(60)[i] for i in range(60))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        records.write_records(
            source(), tmp_path / 'a', task='toy', fractions=FRACTIONS, seed=0)
    assert len(opened) == 3 and all(writer.closed for writer in opened)
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_fails_leaves_nothing_behind(examples, tmp_path):
    def broken():
        yield examples(1)[0]
        raise InputError('scan.png', 'truncated')

    with pytest.raises(InputError, match='scan.png: truncated'):
        records.write_records(
            broken(), tmp_path / 'a', task='toy', fractions=(1, 0, 0), seed=0
        )
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_kept_unless_told(examples, tmp_path):
    write(examples, tmp_path / 'a', count=40)
    with pytest.raises(RecordError, match='exists already'):
        write(examples, tmp_path / 'a')
    assert len(records.read_cases(tmp_path / 'a')) == 40
    write(examples, tmp_path / 'a', overwrite=True)
    assert len(records.read_cases(tmp_path / 'a')) == 60


def test_sources_that_make_no_split_are_refused(examples, tmp_path):
    with pytest.raises(RecordError, match='holds no example'):
        write(examples, tmp_path / 'a', count=0)
    with pytest.raises(RecordError, match='none of 1 patients fell into split'):
        write(examples, tmp_path / 'a', count=2)
    with pytest.raises(RecordError, match='example-0 came twice'):
        records.write_records(
            [examples(1)[0]] * 2, tmp_path / 'a', task='toy', fractions=(1, 0, 0),
            seed=0,
        )
    write(examples, tmp_path / 'b', fractions=(0, 0, 1))
    with pytest.raises(RecordError, match="split 'train' holds no records"):
        read(tmp_path / 'b', 'train')


@pytest.mark.parametrize('text', ['1,1', 'a,b,c', '0.5,0.5,0.5', '-0.5,1,0.5', ''])
def test_fractions_that_do_not_add_up_are_refused(text):
    with pytest.raises(RecordError, match='--splits'):
        records.parse_fractions(text)


def test_the_fingerprint_tells_prepared_data_apart(examples, tmp_path):
    for name, seed in (('a', 0), ('b', 0), ('c', 1)):
        write(examples, tmp_path / name, seed=seed)
    a, b, c = (records.fingerprint(tmp_path / name) for name in 'abc')
    assert a == b != c


def test_folds_put_every_patient_into_the_test_once():
    patients = [f'p{number}' for number in range(2000)]
    fractions = (0.7, 0.1, 0.2)
    sides = np.array([[
        records.split_of(patient, fractions=fractions, seed=3, fold=fold)
        for fold in range(5)
    ] for patient in patients])
    assert ((sides == 'test').sum(axis=1) == 1).all()
    # Each split keeps its share in each fold: 0.1 of 2000, 13 being one sigma.
    assert (abs((sides == 'valid').sum(axis=0) - 200) < 60).all()
    assert list(sides[:, 0]) == [
        records.split_of(patient, fractions=fractions, seed=3) for patient in patients
    ]


def leave_behind(folder, what, process):
    """What a killed preparation leaves."""
    left = folder.with_name(f'.{folder.name}.{what}-{process}')
    folder.rename(left)
    return left


def ended_process():
    process = subprocess.Popen(['true'])
    process.wait()
    return process.pid


@pytest.mark.parametrize('process', [ended_process, os.getpid])
def test_the_old_records_go_back_where_a_killed_overwrite_left_none(
    examples, tmp_path, process
):
    write(examples, tmp_path / 'a', count=40)
    before = records.fingerprint(tmp_path / 'a')
    left = leave_behind(tmp_path / 'a', 'old', process())
    with pytest.raises(RecordError, match='holds no example'):
        write(examples, tmp_path / 'a', count=0, overwrite=True)
    assert records.fingerprint(tmp_path / 'a') == before and not left.exists()


def test_what_a_living_process_writes_is_left_alone(examples, tmp_path):
    write(examples, tmp_path / 'a', count=40)
    left = leave_behind(tmp_path / 'a', 'partial', os.getppid())
    write(examples, tmp_path / 'a')
    assert left.is_dir()


def test_an_error_between_the_renames_brings_the_old_records_back(
    examples, tmp_path, monkeypatch
):
    write(examples, tmp_path / 'a', count=40)
    before, rename = records.fingerprint(tmp_path / 'a'), os.replace

    def fail(source, target):
        if '.partial-' in str(source):
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(records.os, 'replace', fail)
    with pytest.raises(KeyboardInterrupt):
        write(examples, tmp_path / 'a', overwrite=True)
    assert records.fingerprint(tmp_path / 'a') == before


def classified(examples, classes):
    """Records of one-hot targets, one patient each."""
    for number, which in enumerate(classes):
        record = examples(len(classes))[number] | {'patient_id': f'p{number}'}
        yield record | {'targets': np.eye(2, dtype=np.float32)[which]}


def test_labels_are_kept_counted_and_compared(examples, tmp_path):
    manifest = records.write_records(
        classified(examples, [0, 1] * 20), tmp_path / 'a', task='toy', seed=0,
        fractions=FRACTIONS, labels=('x', 'y'),
    )
    counts = [split['labels'] for split in manifest['splits'].values()]
    assert np.sum(counts, axis=0).tolist() == [20, 20]
    records.check_labels(tmp_path / 'a', ('x', 'y'))
    with pytest.raises(RecordError, match='labels x, y in these .* the task has y, x'):
        records.check_labels(tmp_path / 'a', ('y', 'x'))


def test_a_class_that_could_not_be_learned_is_named(examples, tmp_path):
    for seed in range(100):
        if records.split_of('p0', fractions=FRACTIONS, seed=seed) == 'test':
            break
    with pytest.raises(RecordError, match="no example of class 'x' fell into split tr"):
        records.write_records(
            classified(examples, [0] + 40 * [1]), tmp_path / 'a', task='toy', seed=seed,
            fractions=FRACTIONS, labels=('x', 'y'),
        )
    assert not list(tmp_path.iterdir())
