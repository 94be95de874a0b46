"""Tests of jaxmed.ct.buckets."""

import pytest

from jaxmed.ct.buckets import bucket


def test_sizes_grow_by_a_third_or_a_half():
    assert [bucket(n) for n in (1, 64, 65, 97, 129, 193, 250, 1200)] == [
        64, 64, 96, 128, 192, 256, 256, 1536]


def test_every_count_fits_and_wastes_at_most_half():
    for count in range(64, 3000):
        assert count <= bucket(count) < 1.5 * count


def test_nothing_has_no_bucket():
    with pytest.raises(ValueError, match='count=0'):
        bucket(0)
