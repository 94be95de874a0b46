"""A movement -> its index: features of each frame, then the sequence models."""

from typing import Any, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmed.models.boosted_trees import BoostedTrees
from jaxmed.models.pose_lstm import PoseLSTM
from jaxmed.pose import features
from jaxmed.pose.skeletons import find_skeleton
from jaxmed.pose.summaries import summarise

TREES, DEPTH = 200, 3  # as deep as people and exercises are few
USUAL_S = 5.0  # paper 000's videos


class MotionIndex(nn.Module):
    """What pose.features makes of a movement, through models.pose_lstm, and trees.

    Attributes:
        skeleton: a name in pose.skeletons.
        steps: frames that the sequence model sees, 0 for all.
        parts: of pose.features.extract.
        velocities: of pose.features.extract.
        sequence: attributes of PoseLSTM, but dtype and axis_name.
        trees: whether boosted trees on pose.summaries stand beside. Grown ahead of
            training, of what says nothing of the order in time, they err otherwise than
            a sequence model does, so that the mean of both errs less.
        dtype: of the sequence model.
        axis_name: mapped axis of the devices, or None.
    """

    skeleton: str
    steps: int
    parts: tuple[str, ...]
    velocities: bool
    sequence: Mapping[str, Any]
    trees: bool
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, movement, *, train: bool) -> dict[str, jax.Array]:
        """A movement (pose.features) -> {'sequence': [B, 1 or 2] of PoseLSTM, and with
        `trees` 'trees': [B], the index}, float32.
        """
        sequence = PoseLSTM(
            **self.sequence, dtype=self.dtype, axis_name=self.axis_name,
            name='sequence')
        outputs = {'sequence': sequence(self.look(movement), train=train)}
        if self.trees:
            outputs['trees'] = BoostedTrees(TREES, DEPTH, name='summaries')(
                summarise(movement, skeleton=find_skeleton(self.skeleton)))
        return outputs

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
