"""Tests of jaxmed.ct.fourier."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import fft, signal

from jaxmed.ct.fourier import fourier_resample, fourier_resample_padded

# Odd and even, to fewer, as many and more.
LENGTHS = [(7, 5), (7, 12), (8, 5), (8, 6), (8, 11), (8, 16), (9, 4), (8, 8), (7, 7),
           (1, 3), (2, 1), (100, 334)]


def signals(count):
    return np.random.default_rng(count).normal(size=(3, count)).astype(np.float32)


def resample_padded(x, num, *, mirror, size=128, num_size=384):
    # Padding that would be seen if it were used.
    padded = np.pad(x, ((0, 0), (0, size - x.shape[1])), constant_values=1e4)
    return np.asarray(fourier_resample_padded(
        padded, np.int32(x.shape[1]), np.int32(num), num_size=num_size,
        mirror=mirror, axis=1))


def assert_close(actual, expected):
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize('count, num', LENGTHS)
def test_resampling_is_scipys(count, num):
    x = signals(count)
    expected = signal.resample(x.astype(float), num, axis=1)
    assert_close(fourier_resample(jnp.array(x), num, axis=1), expected)
    assert_close(fourier_resample(jnp.array(x.T), num, axis=0), expected.T)


@pytest.mark.parametrize('count, num', LENGTHS)
def test_a_padded_signal_is_resampled_like_the_signal_alone(count, num):
    x = signals(count)
    result = resample_padded(x, num, mirror=False)
    assert_close(result[:, :num], signal.resample(x.astype(float), num, axis=1))
    assert not result[:, num:].any()


@pytest.mark.parametrize('count, num', LENGTHS)
def test_a_mirrored_signal_is_resampled_by_its_cosine_transform(count, num):
    x = signals(count).astype(float)
    cosines = fft.dct(x, norm='ortho', axis=1)[:, :num]
    cosines = np.pad(cosines, ((0, 0), (0, num - cosines.shape[1])))
    expected = fft.idct(cosines, norm='ortho', axis=1) * np.sqrt(num / count)
    result = resample_padded(signals(count), num, mirror=True)
    assert_close(result[:, :num], expected)
    assert not result[:, num:].any()


def test_long_signals_keep_their_precision():
    x = signals(1500)
    result = resample_padded(x, 1100, mirror=False, size=1536, num_size=1536)
    assert_close(result[:, :1100], signal.resample(x.astype(float), 1100, axis=1))


def test_mirrored_samples_lie_where_the_docstring_says():
    count, num = 40, 65
    places = (np.arange(num) + 0.5) * count / num - 0.5
    # An even wave about both outer edges, slow enough for both samplings.

    def wave(index):
        return np.cos(np.pi * 7 * (index + 0.5) / count)

    result = resample_padded(
        wave(np.arange(count, dtype=np.float32))[None], num, mirror=True)
    np.testing.assert_allclose(result[0, :num], wave(places), atol=1e-5)


def test_the_mirror_keeps_the_feet_out_of_the_head():
    """A column that is bone below and air above, twice as finely sampled."""
    x = np.linspace(0, 1000, 60, dtype=np.float32)[None]
    places = (np.arange(120) + 0.5) / 2 - 0.5
    truth = np.clip(places, 0, 59) * 1000 / 59
    mirrored = resample_padded(x, 120, mirror=True)[0, :120]
    periodic = resample_padded(x, 120, mirror=False)[0, :120]
    assert np.abs(mirrored - truth).max() < 10  # half a step from slice to slice
    assert np.abs(periodic - np.arange(120) * 500 / 59)[:118].max() > 50
    assert abs(periodic[119] - 500) < 60  # half way from the head down to the feet


def test_both_ends_are_alike():
    x = signals(33)
    forth = resample_padded(x, 50, mirror=True)[:, :50]
    back = resample_padded(x[:, ::-1], 50, mirror=True)[:, :50]
    np.testing.assert_allclose(back[:, ::-1], forth, atol=1e-5)


def test_lengths_of_a_bucket_share_one_program():
    x = np.ones((2, 64), np.float32)
    before = fourier_resample_padded._cache_size()
    for count, num in [(60, 70), (50, 90), (33, 65)]:
        fourier_resample_padded(
            x, np.int32(count), np.int32(num), num_size=96, mirror=True, axis=1)
    assert fourier_resample_padded._cache_size() == before + 1


def test_complex_numbers_are_refused():
    with pytest.raises(ValueError, match='complex64'):
        fourier_resample(jnp.ones(4, jnp.complex64), 8, axis=0)
