"""Random changes of the patches of a spine; one draw for the whole spine.

All work on what tasks.vertebral_fracture makes of a batch: inputs['patches'] is
[B, K, pH, pW, pZ, C] in [0, 1], rows from head to feet, front to back, right to left.
Keys are [B].
"""

import jax
import jax.numpy as jnp

from jaxmed import transforms


def _change(change):
    """(key, patches [K, ...]) -> patches, for each spine of a batch."""

    def augment(keys, batch):
        patches = jax.vmap(change)(keys, batch['inputs']['patches'])
        return batch | {'inputs': batch['inputs'] | {'patches': patches}}

    return augment


def _maybe_flipped(axis):
    def change(key, patches):
        flipped = jnp.flip(patches, axis=axis)
        return jnp.where(jax.random.bernoulli(key), flipped, patches)

    return _change(change)


# Left and right change places in half of all cases: the paper's horizontal flip.
mirror = _maybe_flipped(3)

# Each patch is turned upside down in half of all cases: the paper's vertical flip.
# Patches keep their order and positions, which are of the patient's anatomy.
upend = _maybe_flipped(1)


def make_move(*, turn_deg, zoom, shift_mm, pitch_mm):
    """Builds a turn, zoom and shift as seen from the side, each in half of all cases.

    What comes in from outside of a patch repeats its edge.

    Args:
        turn_deg: largest angle to both sides; the paper: 20.
        zoom: half-width of the log of the zoom. The same along and across the spine:
            it is the shape of a vertebra that tells a fracture.
        shift_mm: largest one up, down, forward and back. Patches begin anywhere along
            a spine; labels stay, so a few mm are enough.
        pitch_mm: between rows and columns of a patch.
    """
    scale = jnp.array(pitch_mm)

    def change(key, patches):
        amounts, which = jax.random.split(key)
        turn, larger, *shift = jax.random.uniform(
            amounts, (4,), minval=-1.0) * jax.random.bernoulli(
                which, shape=(3,))[jnp.array([0, 1, 2, 2])]
        angle, size = jnp.deg2rad(turn_deg) * turn, jnp.exp(-zoom * larger)
        cosine, sine = size * jnp.cos(angle), size * jnp.sin(angle)
        # Pixels are not square: turned in mm.
        matrix = jnp.array([[cosine, -sine], [sine, cosine]]) * scale / scale[:, None]
        middle = (jnp.array(patches.shape[1:3]) - 1) / 2
        offset = middle - matrix @ middle + shift_mm * jnp.stack(shift) / scale
        return jax.vmap(lambda x: transforms.sample(x, matrix, offset))(
            patches[..., 0])[..., None]

    return _change(change)


def make_slab(*, strength):
    """Builds thicker slices, in half of all cases.

    Each row gets a share of its neighbours': scanners average over 1 to 5 mm, and how
    sharp an endplate is shall not tell patients apart.

    Args:
        strength: largest share of both neighbours together, up to 2/3, where all
            three count the same.
    """

    def change(key, patches):
        amount, which = jax.random.split(key)
        share = jax.random.uniform(amount, maxval=strength)
        share *= jax.random.bernoulli(which)
        padded = jnp.pad(patches, ((0, 0), (1, 1)) + ((0, 0),) * 3, 'edge')
        around = padded[:, :-2] + padded[:, 2:]
        return patches + share * (around / 2 - patches)

    return _change(change)


def make_light(*, strength):
    """Builds another gain and offset of the HU in half of all cases.

    x -> x * gain + offset, cut off at 0 and 1: scanners, kernels and contrast agent
    differ, bones are denser or less so.

    Args:
        strength: half-width of the log of the gain, and of the offset.
    """

    def change(key, patches):
        amounts, which = jax.random.split(key)
        gain, offset = jax.random.uniform(
            amounts, (2,), minval=-strength, maxval=strength,
        ) * jax.random.bernoulli(which)
        return jnp.clip(patches * jnp.exp(gain) + offset, 0.0, 1.0)

    return _change(change)
