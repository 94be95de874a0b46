"""What is told of the latencies is near the truth, whatever their number."""

import math
import time

import numpy as np
import pytest

from jaxmed.pose.latencies import Latencies


def test_quantiles_are_told_within_one_percent_from_memory_that_does_not_grow():
    latencies = Latencies()
    values_s = np.random.default_rng(0).lognormal(math.log(0.02), 0.6, 20_000)
    for value_s in values_s:
        latencies.add('landmarks', value_s)
    told = latencies.summary()['landmarks']
    exact = 1e3 * np.quantile(values_s, [0.5, 0.95, 0.99], method='inverted_cdf')
    np.testing.assert_allclose(
        [told['median_ms'], told['p95_ms'], told['p99_ms']], exact, rtol=0.0101)
    assert told['max_ms'] == pytest.approx(1e3 * values_s.max(), abs=1e-3)
    assert told['count'] == 20_000
    assert sum(counts.nbytes for counts in latencies._counts.values()) < 10_000
    latencies.add('landmarks', 0.0)
    latencies.add('landmarks', 1e9)
    assert latencies.summary()['landmarks']['count'] == 20_002


def test_a_lap_is_the_time_since_the_one_before():
    latencies = Latencies()
    lap = latencies.laps(time.perf_counter() - 2.0)
    lap('first')
    before_s = time.perf_counter()
    assert before_s <= lap('second') <= time.perf_counter()
    told = latencies.summary()
    assert 2000 <= told['first']['max_ms'] < 3000
    assert told['second']['max_ms'] < 1000
