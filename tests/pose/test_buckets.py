"""The frames in the system stay bounded, whoever puts and takes them."""

import threading
import time

import pytest

from jaxmed.errors import InputError
from jaxmed.pose.buckets import Buckets


def test_the_frames_in_the_system_never_exceed_n_times_gamma():
    buckets = Buckets(3, 2, waiting=100)
    seen, taken = [], []

    def work():
        while not buckets.ended:
            if buckets.take(0.01) is not None:
                taken.append(1)
                seen.append(buckets.held)
                buckets.done()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(3000):
        buckets.put(number, wait=False)
        seen.append(buckets.held)
    buckets.close()
    for thread in threads:
        thread.join()
    assert max(seen) <= buckets.most <= buckets.limit == 6
    assert len(taken) + buckets.dropped == buckets.put_count == 3000
    assert buckets.held == 0


def test_of_what_waits_the_oldest_is_dropped():
    buckets = Buckets(4, 1, waiting=1)
    for number in range(5):
        assert buckets.put(number, wait=False)
    assert (buckets.take(0), buckets.dropped, buckets.held) == (4, 4, 1)
    assert buckets.take(0) is None
    three = Buckets(4, 2, waiting=3)
    for number in range(5):
        three.put(number, wait=False)
    assert [three.take(0) for _ in range(3)] == [2, 3, 4]


def test_what_is_being_worked_on_counts_until_it_is_done():
    buckets = Buckets(2, 1, waiting=2)
    for number in range(2):
        buckets.put(number, wait=False)
        assert buckets.take(0) == number
    assert not buckets.put(2, wait=False)  # both are out: the new one is dropped
    buckets.done()
    assert buckets.put(3, wait=False)
    assert buckets.take(0) == 3
    with pytest.raises(ValueError, match='nothing was taken'):
        for _ in range(3):
            buckets.done()


def test_whoever_waits_for_room_goes_on_when_there_is_some_or_never_will_be():
    buckets = Buckets(1, 1, waiting=1)
    buckets.put(0, wait=True)
    added = []
    threads = [threading.Thread(
        target=lambda: added.append(buckets.put(1, wait=True))) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    assert not added
    assert buckets.take(1) == 0
    time.sleep(0.05)
    assert not added  # one is out, and that is all there may be
    buckets.done()
    assert buckets.take(1) == 1
    buckets.close()
    for thread in threads:
        thread.join(timeout=5)
    assert sorted(added) == [False, True] and buckets.dropped == 0


def test_an_error_of_the_source_comes_after_what_it_gave():
    buckets = Buckets(4, 1, waiting=4)
    buckets.put('last', wait=False)
    buckets.close(InputError('camera', 'is gone'))
    assert buckets.take(0) == 'last'
    with pytest.raises(InputError, match='is gone'):
        buckets.take(0)
