"""Records -> batches: the only place that builds grain datasets.

The host only reads, decodes and stacks. The order is a function of (seed, epoch)
alone and batch number n is a function of n: the place in the data is one integer,
the same for any number of workers, so a run may resume with another number of them.
"""

import multiprocessing.connection
import os
import signal
import threading
import time

import grain
import jax
import numpy as np
from absl import flags

from jaxmed.errors import ConfigError


class Subset:
    """Some records of a source, in order; a place may come several times."""

    def __init__(self, source, places):
        self._source, self._places = source, places

    def __len__(self):
        return len(self._places)

    def __getitem__(self, index):
        return self._source[self._places[index]]

    def __repr__(self):  # grain logs it
        return f'Subset({len(self)} records)'


class Joined:
    """Several sources, one after the other."""

    def __init__(self, sources):
        self._sources = list(sources)
        self._ends = np.cumsum([len(source) for source in self._sources])

    def __len__(self):
        return int(self._ends[-1])

    def part_of(self, index):
        """The number of the source that holds an index."""
        return int(np.searchsorted(self._ends, index, side='right'))

    def __getitem__(self, index):
        part = self.part_of(index)
        source = self._sources[part]
        return source[index - int(self._ends[part]) + len(source)]

    def __repr__(self):  # grain logs it
        return f'Joined({len(self)} records)'


def by_class(source, class_of):
    """The places of the records of each class, for balanced batches.

    Args:
        source: random access to Records.
        class_of: record -> its class, or None where that is unknown: such records are
            left out.

    Returns:
        List of lists of places, by class.

    Raises:
        ConfigError: no class_of, or fewer than two classes are there.
    """
    if class_of is None:
        raise ConfigError('data.sampling', 'balanced needs one class per example')
    groups = {}
    for place in range(len(source)):
        groups.setdefault(class_of(source[place]), []).append(place)
    groups.pop(None, None)
    if len(groups) < 2:
        found = f'all known are {next(iter(groups))}' if groups else 'none is known'
        raise ConfigError(
            'data.sampling', f'balanced batches need two classes, but {found}: prepare '
            'more cases, or take uniform')
    return [groups[number] for number in sorted(groups)]


def stack(records):
    """Stacks records field by field and adds `mask` [B] float32 of ones.

    Strings become NumPy unicode arrays: they stay on the host.
    """
    batch = {
        name: np.stack([np.asarray(record[name]) for record in records])
        for name in records[0]
    }
    batch['mask'] = np.ones(len(records), np.float32)
    return batch


def train_batches(source, *, batch_size, seed, start=0, workers=0, groups=None):
    """Endless shuffled batches of this process's share of `source`.

    Batch n of all processes together holds examples n * batch_size up to
    (n + 1) * batch_size of the shuffled, repeated stream, in that order, however many
    processes share it; epochs meet inside a batch, so no example is ever dropped.

    Args:
        source: random access to Records of equal shapes.
        batch_size: examples in one update, over all processes.
        seed: of the order.
        start: number of the first batch, for resuming.
        workers: reading processes; 0 reads in threads of this one.
        groups: lists of places in `source` that get equal shares of each batch, of
            every part of it that a device sees, too: each is shuffled and repeated by
            itself, so that an epoch of the small ones is shorter. None: all records
            alike.

    Returns:
        Iterator of Batch, arrays [batch_size / processes, ...].
    """
    processes = jax.process_count()
    if batch_size % processes:
        raise ConfigError(
            'batch_size', f'{batch_size} is not a multiple of {processes} processes'
        )
    share = batch_size // processes
    mine = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
    # Numbers are shuffled and batched, records are only read once it is known whose
    # they are: a process reads its part of each batch and nothing else.
    batches = (
        _numbers(len(source), seed, groups)
        .batch(batch_size, drop_remainder=True)[start:]
        .map(lambda numbers: stack([source[n] for n in numbers[mine].tolist()]))
        .to_iter_dataset(
            # Threads already read ahead; in worker processes one is enough.
            grain.ReadOptions(num_threads=1 if workers else 2, prefetch_buffer_size=4)
        )
    )
    if workers:
        if not flags.FLAGS.is_parsed():
            # grain's workers read absl flags; a library's user may have none.
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2),
            worker_init_fn=_follow_parent,
        )
    return iter(batches)


def _numbers(count, seed, groups):
    """The endless shuffled stream of places in a source."""
    if groups is None:
        return grain.MapDataset.range(count).seed(seed).shuffle().repeat()
    return grain.MapDataset.mix([
        grain.MapDataset.source(places)
        .seed(int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
        .shuffle()
        .repeat()
        for number, places in enumerate(groups)
    ])


def _follow_parent(worker, workers):
    """Makes a reading process end with the trainer, and not before it."""
    # A terminal's Ctrl-C reaches the whole group; only the trainer may answer it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow(parent):
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)  # killed, it could not tell us

    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=follow, args=(parent,), daemon=True).start()


def eval_batches(source, *, batch_size, index=0, count=1):
    """Every record once, in order; the last batch is filled up and masked.

    Args:
        source: random access to Records of equal shapes.
        batch_size: examples in a batch of one process.
        index: of this process.
        count: of processes; process i gets records i, i + count, ... All processes
            yield equally many batches, some of them perhaps wholly masked.

    Returns:
        Iterator of Batch, arrays [batch_size, ...].
    """
    per_process = -(-len(source) // count)
    for first in range(0, per_process, batch_size):
        places = [(first + i) * count + index for i in range(batch_size)]
        real = [place for place in places if place < len(source)]
        # A filler is a real record with mask 0: the arithmetic on it is ordinary.
        records = [source[place] for place in real] or [source[len(source) - 1]]
        records += [records[-1]] * (batch_size - len(records))
        batch = stack(records)
        batch['mask'][len(real):] = 0.0
        yield batch


def split_strings(batch):
    """Parts a batch into (arrays for the device, string columns for the host)."""
    arrays = {k: v for k, v in batch.items() if v.dtype.kind in 'biufV'}
    return arrays, {k: v for k, v in batch.items() if k not in arrays}


def shard(batch, *, devices):
    """[B, ...] arrays -> [devices, B / devices, ...], strings left out.

    Raises:
        ConfigError: when B does not divide among the devices.
    """
    arrays, _ = split_strings(batch)
    size = len(arrays['mask'])
    if size % devices:
        raise ConfigError(
            'batch_size', f'{size} examples do not divide among {devices} devices'
        )
    return {
        name: value.reshape(devices, size // devices, *value.shape[1:])
        for name, value in arrays.items()
    }


class Prefetch:
    """Runs `put` on the batches of an iterator in a thread, a few ahead.

    `waited_s` is the time the consumer spent waiting: what the device idles for.
    Closing it (or leaving its `with` block) ends the thread.
    """

    def __init__(self, batches, put, *, depth=2):
        self._batches, self._put = batches, put
        self._ready, self._error, self._done = [], None, False
        self._depth, self._condition = depth, threading.Condition()
        self.waited_s = 0.0
        self._thread = threading.Thread(target=self._fill, daemon=True)
        self._thread.start()

    def _fill(self):
        try:
            for batch in self._batches:
                item = self._put(batch)
                with self._condition:
                    self._condition.wait_for(
                        lambda: self._done or len(self._ready) < self._depth
                    )
                    if self._done:
                        return
                    self._ready.append(item)
                    self._condition.notify_all()
        except Exception as error:  # handed to the consumer, raised there
            self._error = error
        with self._condition:
            self._done = True
            self._condition.notify_all()

    def __iter__(self):
        return self

    def __next__(self):
        start = time.perf_counter()
        with self._condition:
            self._condition.wait_for(lambda: self._ready or self._done)
            self.waited_s += time.perf_counter() - start
            if self._ready:
                item = self._ready.pop(0)
                self._condition.notify_all()
                return item
        if self._error is not None:
            raise self._error
        raise StopIteration

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        with self._condition:
            self._done = True
            self._condition.notify_all()
        # A reader may be inside `put`; joining keeps it from outliving the backend.
        self._thread.join()
