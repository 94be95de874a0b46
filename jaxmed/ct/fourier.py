"""Fourier resampling along one axis, also of signals padded to a common length."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax


@partial(jax.jit, static_argnames=('num', 'axis'))
def fourier_resample(x, num, *, axis):
    """Resamples a periodic signal to `num` samples, as scipy.signal.resample does.

    Output sample m lies at input position m * n / num. The signal counts as
    periodic: its end continues into its start.

    Args:
        x: real numbers, n samples along `axis`.
        num: samples wanted, at least 1.
        axis: which axis to resample.

    Returns:
        float32, `num` samples along `axis`.
    """
    count = x.shape[axis]
    if num < 1 or count < 1 or jnp.iscomplexobj(x):
        raise ValueError(f'{x.dtype} {x.shape} to num={num}, expected real numbers')
    shorter = min(count, num)
    spectrum = jnp.moveaxis(jnp.fft.rfft(x.astype(jnp.float32), axis=axis), axis, -1)
    spectrum = spectrum[..., :shorter // 2 + 1]
    if shorter % 2 == 0 and num != count:
        # The highest frequency of an even length is two frequencies, +f and -f, in
        # one: shrinking folds both into it, stretching parts it into both.
        spectrum = spectrum.at[..., -1].multiply(2.0 if num < count else 0.5)
    resampled = jnp.fft.irfft(spectrum, n=num, axis=-1) * (num / count)
    return jnp.moveaxis(resampled, -1, axis)


def fourier_matrix(count, num, *, size, num_size, mirror):
    """The matrix that resamples `count` samples of a padded signal to `num`.

    `count` and `num` may be traced, so that lengths share a compiled program.

    Without `mirror`, output m lies at input position m * count / num, as above.
    With it the signal is continued by its mirror image about the outer edges of its
    end samples (a, b, c -> a, b, c, c, b, a, ...), so that its end does not ring
    into its start; output m then lies at (m + 1/2) * count / num - 1/2: both ends
    are alike, and the outer edges of the first and the last sample stay where they
    are. (It is the cosine transform DCT-II, cut or continued with zeros.)

    Args:
        count: [] int, real samples at the start of the padded signal, 1 to `size`.
        num: [] int, samples wanted, 1 to `num_size`.
        size: length of the padded signal.
        num_size: length of the padded result.
        mirror: whether to continue the signal by its mirror image.

    Returns:
        float32 [num_size, size]; 0 in the columns of padding and in the rows that
        are not wanted.
    """
    shorter = jnp.minimum(count, num)
    inputs, outputs = jnp.arange(size), jnp.arange(num_size)
    if mirror:
        frequency = jnp.arange(min(size, num_size))
        weight = jnp.where(frequency == 0, 1.0, 2.0) * (frequency < shorter)
        phases = ((2 * outputs + 1, 4 * num), (2 * inputs + 1, 4 * count))
        waves = (jnp.cos,)  # an even signal has no sines
    else:
        frequency = jnp.arange(min(size, num_size) // 2 + 1)
        weight = jnp.where(frequency == 0, 1.0, 2.0) * (2 * frequency <= shorter)
        # See above: shrinking counts the highest frequency twice, as it comes.
        highest = (2 * frequency == shorter) & (num >= count)
        weight = jnp.where(highest, 1.0, weight)
        phases = ((outputs, num), (inputs, count))
        waves = (jnp.cos, jnp.sin)

    def angles(position, period):
        # Whole numbers up to the last step: float32 is too coarse for many turns.
        turns = (position[:, None] * frequency) % period
        return turns.astype(jnp.float32) * (2 * jnp.pi / period)

    to_, from_ = (angles(*phase) for phase in phases)
    matrix = sum(
        jnp.matmul(wave(to_) * (weight / count), wave(from_).T,
                   precision=lax.Precision.HIGHEST)
        for wave in waves)
    return jnp.where((outputs < num)[:, None] & (inputs < count), matrix, 0.0)


@partial(jax.jit, static_argnames=('num_size', 'mirror', 'axis'))
def fourier_resample_padded(x, count, num, *, num_size, mirror, axis):
    """Resamples the first `count` samples of a padded signal; see `fourier_matrix`.

    Args:
        x: real and finite numbers (also the padding), `size` samples along `axis`.
        count: [] int, how many of them are real.
        num: [] int, samples wanted.
        num_size: length of the padded result.
        mirror: whether to continue the signal by its mirror image.
        axis: which axis to resample.

    Returns:
        float32, `num_size` samples along `axis`, those past `num` 0.
    """
    matrix = fourier_matrix(
        count, num, size=x.shape[axis], num_size=num_size, mirror=mirror)
    x = jnp.moveaxis(x.astype(jnp.float32), axis, -1)
    resampled = jnp.matmul(x, matrix.T, precision=lax.Precision.HIGHEST)
    return jnp.moveaxis(resampled, -1, axis)
