"""What can be said of a movement without its order in time."""

import jax.numpy as jnp

from jaxmed.pose import features


def summarise(movement, *, skeleton):
    """A movement (pose.features) -> what can be said of it without its order in time.

    Returns:
        float32 [B, S]: of positions from the hips' middle, of the hips' path and of
        joint angles the mean, standard deviation, least and greatest value; of their
        speeds the mean and the root of the mean square; which exercises it holds and
        the log of its seconds.
    """
    mask = movement['mask'][..., None]
    both = features.extract(
        movement, parts=('positions', 'root', 'angles'), velocities=True,
        skeleton=skeleton)
    values, speeds = jnp.split(both, 2, axis=-1)
    count = jnp.maximum(mask.sum(axis=1), 1.0)

    def mean(x):
        return (x * mask).sum(axis=1) / count

    average = mean(values)
    squares = mean((values - average[:, None]) ** 2)
    far = jnp.float32(1e6)  # padding is neither least nor greatest
    return jnp.concatenate([
        average, jnp.sqrt(squares), jnp.where(mask > 0, values, far).min(axis=1),
        jnp.where(mask > 0, values, -far).max(axis=1), mean(jnp.abs(speeds)),
        jnp.sqrt(mean(speeds ** 2)), movement['segment'].max(axis=1),
        jnp.log(jnp.maximum(features.seconds_of(movement), 0.1))[:, None],
    ], axis=-1)
