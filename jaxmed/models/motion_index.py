"""A movement -> its index: features of each frame, then the sequence models."""

from typing import Any, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmed.models.pose_lstm import PoseLSTM
from jaxmed.pose import features
from jaxmed.pose.skeletons import find_skeleton

USUAL_S = 5.0  # paper 000's videos


class MotionIndex(nn.Module):
    """What pose.features makes of a movement, through models.pose_lstm.

    Attributes:
        skeleton: a name in pose.skeletons.
        steps: frames that the sequence model sees, 0 for all.
        parts: of pose.features.extract.
        velocities: of pose.features.extract.
        sequence: attributes of PoseLSTM, but dtype and axis_name.
        members: sequence models, which differ by how they begin and what is dropped,
            each trained by a loss of its own: few people are learnt by heart in as
            many ways, and the mean of several errs less (Lakshminarayanan 2017).
        dtype: of the sequence model.
        axis_name: mapped axis of the devices, or None.
    """

    skeleton: str
    steps: int
    parts: tuple[str, ...]
    velocities: bool
    sequence: Mapping[str, Any]
    members: int
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, movement, *, train: bool) -> jax.Array:
        """A movement (pose.features) -> float32 [B, members, 1 or 2] of PoseLSTM."""
        inputs = self.look(movement)
        return jnp.stack([
            PoseLSTM(**self.sequence, dtype=self.dtype, axis_name=self.axis_name,
                     name=name)(inputs, train=train) for name in self.names], axis=1)

    @property
    def names(self):
        """Of the sequence models, among parameters and limits."""
        return ['sequence', *(
            f'sequence{number}' for number in range(2, self.members + 1))]

    def look(self, movement):
        """A movement -> inputs of PoseLSTM: features, mask and context."""
        if self.steps:
            movement = features.shorten(movement, steps=self.steps)
        skeleton = find_skeleton(self.skeleton)
        seconds = features.seconds_of(movement)
        return {
            'features': features.extract(
                movement, parts=self.parts, velocities=self.velocities,
                skeleton=skeleton),
            'mask': movement['mask'],
            'context': jnp.concatenate([
                movement['segment'].max(axis=1),
                jnp.log(jnp.maximum(seconds, 0.1) / USUAL_S)[:, None],
            ], axis=-1),
        }
