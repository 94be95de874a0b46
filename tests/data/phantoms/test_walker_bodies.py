"""Bodies are rigid, and turn the way they are asked to."""

import numpy as np
import pytest

from jaxmed.data.phantoms import walker_bodies, walkers
from tests.data.phantoms.people import PLACE, draw


@pytest.mark.parametrize('exercise', walkers.EXERCISES)
def test_bones_keep_their_length_in_every_frame(exercise):
    subject, motion = draw(exercise, stiffness=0.5, asymmetry=0.8)
    for first, last, length_m in (
            ('hip', 'knee', subject.thigh_m), ('knee', 'ankle', subject.shank_m),
            ('shoulder', 'elbow', subject.upper_arm_m),
            ('elbow', 'wrist', subject.forearm_m)):
        for side in ('left', 'right'):
            ends = [motion.world[:, PLACE[f'{side}_{name}']] for name in (first, last)]
            np.testing.assert_allclose(
                np.linalg.norm(ends[0] - ends[1], axis=1), length_m, rtol=1e-4)
    for name, half_m in (('hip', subject.hip_m), ('shoulder', subject.shoulder_m)):
        ends = [motion.world[:, PLACE[f'{side}_{name}']] for side in ('left', 'right')]
        np.testing.assert_allclose(
            np.linalg.norm(ends[0] - ends[1], axis=1), 2 * half_m, rtol=1e-4)


def test_rotations_turn_left_tilt_forward_and_list_left():
    quarter = np.pi / 2
    for angles, axis, expected in (
            ((quarter, 0, 0), (1, 0, 0), (0, 1, 0)),  # forward turns to the left
            ((0, quarter, 0), (0, 0, 1), (1, 0, 0)),  # up tilts forward
            ((0, 0, quarter), (0, 0, 1), (0, 1, 0))):  # up lists to the left
        turned = walker_bodies._turn(np.array(angles, float)) @ np.array(axis, float)
        np.testing.assert_allclose(turned, expected, atol=1e-12)
    both = walker_bodies._turn(np.array([0.3, -0.8, 1.1]))
    np.testing.assert_allclose(both @ both.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(both) == pytest.approx(1)
