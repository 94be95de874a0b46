"""Order, completeness and sharing of batches."""

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxmed.data import pipeline, records
from jaxmed.errors import ConfigError
from tests.commands import ROOT


def ids(batches, count):
    return [batch['example_id'].tolist() for batch in itertools.islice(batches, count)]


def train_ids(source, count, **options):
    return ids(
        pipeline.train_batches(source, batch_size=4, **({'seed': 1} | options)), count
    )


@pytest.fixture
def shards(examples, tmp_path):
    """Ten records on disk: a source that worker processes can open."""
    ten = [examples(10)[i] for i in range(10)]
    records.write_records(ten, tmp_path / 'a', task='t', fractions=(1, 0, 0), seed=0)
    return records.open_records(tmp_path / 'a', 'train', task='t', verify=True)


@pytest.mark.parametrize('workers', [1, 4])
def test_batches_are_the_same_for_any_number_of_workers(shards, workers):
    alone = pipeline.train_batches(shards, batch_size=4, seed=1)
    helped = pipeline.train_batches(shards, batch_size=4, seed=1, workers=workers)
    for one, other in itertools.islice(zip(alone, helped), 9):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize('workers', [0, 4])
def test_a_run_resumed_at_a_batch_sees_what_the_whole_run_saw(shards, workers):
    assert train_ids(shards, 4, start=5, workers=workers) == train_ids(shards, 9)[5:]


def test_every_epoch_holds_every_example_in_another_order(examples):
    seen = sum(train_ids(examples(10), 10), [])
    epochs = [seen[i:i + 10] for i in range(0, 40, 10)]
    assert all(len(set(epoch)) == 10 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_another_seed_is_another_order(examples):
    assert train_ids(examples(10), 2) != train_ids(examples(10), 2, seed=2)


def test_two_processes_share_the_batches_of_one(examples, monkeypatch):
    whole = train_ids(examples(10), 5)
    monkeypatch.setattr(pipeline.jax, 'process_count', lambda: 2)
    shares = []
    for index in (0, 1):
        monkeypatch.setattr(pipeline.jax, 'process_index', lambda: index)
        shares.append(train_ids(examples(10), 5))
    for batch, first, second in zip(whole, *shares):
        assert batch == first + second


def test_a_batch_that_does_not_divide_is_refused(examples, monkeypatch):
    batch = pipeline.stack([examples(6)[i] for i in range(6)])
    with pytest.raises(ConfigError, match='6 examples do not divide among 4 devices'):
        pipeline.shard(batch, devices=4)
    monkeypatch.setattr(pipeline.jax, 'process_count', lambda: 3)
    with pytest.raises(ConfigError, match='4 is not a multiple of 3'):
        train_ids(examples(10), 1)


@pytest.mark.parametrize('size', [1, 4, 10, 11])
@pytest.mark.parametrize('count', [1, 3])
def test_evaluation_reads_every_record_once_in_order(examples, size, count):
    rows = []
    for index in range(count):
        batches = list(pipeline.eval_batches(
            examples(size), batch_size=4, index=index, count=count
        ))
        assert {len(batch['mask']) for batch in batches} == {4}
        rows.append([
            name if real else None for batch in batches
            for name, real in zip(batch['example_id'].tolist(), batch['mask'] > 0)
        ])
    assert len({len(row) for row in rows}) == 1  # collectives need equal counts
    joined = [name for place in zip(*rows) for name in place if name is not None]
    assert joined == [f'example-{i}' for i in range(size)]


def test_strings_never_reach_a_device(examples):
    batch = pipeline.stack([examples(4)[i] for i in range(4)])
    arrays, strings = pipeline.split_strings(batch)
    assert set(strings) == {'example_id', 'case_id', 'patient_id'}
    assert set(pipeline.shard(batch, devices=2)) == set(arrays) == {
        'inputs', 'targets', 'mask'}
    assert pipeline.shard(batch, devices=2)['inputs'].shape == (2, 2, 3)


def test_prefetch_keeps_the_order_and_hands_errors_over():
    def numbers():
        yield from range(5)
        raise ConfigError('file', 'bad')

    with pipeline.Prefetch(numbers(), lambda n: n * 2) as ready:
        assert [next(ready) for _ in range(5)] == [0, 2, 4, 6, 8]
        with pytest.raises(ConfigError, match='file: bad'):
            next(ready)


def test_prefetch_measures_the_wait_and_stops_an_endless_reader():
    def slow():
        for number in itertools.count():
            time.sleep(0.05)
            yield number

    with pipeline.Prefetch(slow(), lambda n: n) as ready:
        assert [next(ready) for _ in range(3)] == [0, 1, 2]
    assert ready.waited_s > 0.1
    assert not ready._thread.is_alive()


def test_balanced_batches_hold_equal_parts_of_each_class_and_all_its_records():
    source = [{'inputs': np.array(n), 'class': c}
              for n, c in enumerate([1, 0, 0, None, 0, 0, 0, 1, 1])]
    groups = pipeline.by_class(source, lambda record: record['class'])
    assert groups == [[1, 2, 4, 5, 6], [0, 7, 8]]
    records = [{'inputs': record['inputs']} for record in source]

    def first(count, **options):
        batches = pipeline.train_batches(
            records, batch_size=4, seed=3, groups=groups, **options)
        return [next(batches)['inputs'] for _ in range(count)]

    batches = first(15)
    for batch in batches:
        # Both halves, too: what two devices see of it.
        assert all(np.isin(half, groups[1]).sum() == 1 for half in np.split(batch, 2))
    seen = np.concatenate(batches)
    assert np.bincount(seen).tolist() == [10, 6, 6, 0, 6, 6, 6, 10, 10]
    epochs = seen[np.isin(seen, groups[0])].reshape(-1, 5)
    assert len({tuple(epoch) for epoch in epochs}) == 6  # shuffled anew each time
    np.testing.assert_array_equal(first(10, start=5), batches[5:])


def test_balanced_batches_need_classes():
    for class_of, words in (
        (None, 'one class per example'), (lambda record: None, 'none is known'),
        (lambda record: record.get('class'), 'all known are 1'),
    ):
        with pytest.raises(ConfigError, match=f'data.sampling: balanced.*{words}'):
            pipeline.by_class([{}, {'class': 1}, {'class': 1}], class_of)


@pytest.mark.skipif(not Path('/proc').is_dir(), reason='looks for processes in /proc')
def test_reading_processes_end_with_a_killed_trainer(tmp_path):
    script = tmp_path / 'read.py'
    script.write_text(READER)
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env=os.environ | {'PYTHONPATH': str(ROOT)},
    )
    workers = json.loads(process.stdout.readline())
    assert len(workers) == 2
    process.kill()
    process.wait()
    until = time.monotonic() + 30
    while any(Path(f'/proc/{worker}').is_dir() for worker in workers):
        assert time.monotonic() < until, 'reading processes have stayed'
        time.sleep(0.1)


# Children by their parent's number: grain says nothing of its processes.
READER = """
import json, os, pathlib, time
import numpy as np
from jaxmed.data import pipeline

class Ten:
    def __len__(self):
        return 10
    def __getitem__(self, index):
        return {'inputs': np.zeros(3)}

def children():
    for status in pathlib.Path('/proc').glob('[0-9]*/status'):
        try:
            text = status.read_text()
        except OSError:
            continue
        command = (status.parent / 'cmdline').read_bytes()
        if f'PPid:\\t{os.getpid()}\\n' in text and b'spawn_main' in command:
            yield int(status.parent.name)

if __name__ == '__main__':
    batches = pipeline.train_batches(Ten(), batch_size=2, seed=0, workers=2)
    for _ in range(4):
        next(batches)
    print(json.dumps(list(children())), flush=True)
    time.sleep(100)
"""
