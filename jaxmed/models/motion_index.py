"""A movement -> its index: features of each frame, then the sequence model."""

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
        dtype: of the sequence model.
        axis_name: mapped axis of the devices, or None.
    """

    skeleton: str
    steps: int
    parts: tuple[str, ...]
    velocities: bool
    sequence: Mapping[str, Any]
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, movement, *, train: bool) -> jax.Array:
        """A movement (pose.features) -> float32 [B, 1], or [B, 2] of PoseLSTM."""
        inputs = self.look(movement)
        return PoseLSTM(
            **self.sequence, dtype=self.dtype, axis_name=self.axis_name,
            name='sequence')(inputs, train=train)

    def look(self, movement):
        """A movement -> inputs of PoseLSTM: features, mask and context."""
        if self.steps:
            movement = features.shorten(movement, steps=self.steps)
        seconds = movement['mask'].sum(axis=1) * movement['step_s']
        return {
            'features': features.extract(
                movement, parts=self.parts, velocities=self.velocities,
                skeleton=find_skeleton(self.skeleton)),
            'mask': movement['mask'],
            'context': jnp.concatenate([
                movement['segment'].max(axis=1),
                jnp.log(jnp.maximum(seconds, 0.1) / USUAL_S)[:, None],
            ], axis=-1),
        }
