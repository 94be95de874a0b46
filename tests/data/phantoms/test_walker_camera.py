"""A pinhole's picture of a whole person, and what a landmarker makes of it."""

import numpy as np
import pytest

from jaxmed.data.phantoms import walker_camera, walkers
from jaxmed.data.phantoms.walker_people import draw_subject
from jaxmed.pose.skeletons import BLAZEPOSE
from tests.data.phantoms.people import PLACE, draw, middle


@pytest.mark.parametrize('exercise', walkers.EXERCISES)
def test_all_of_the_person_is_in_the_picture_and_told_from_the_hips(exercise):
    for seed in range(4):
        _, motion = draw(exercise, seed=seed)
        assert motion.skeleton == BLAZEPOSE.name
        assert motion.joints.shape == (len(motion.time_s), 33, 3) == motion.world.shape
        assert motion.joints.dtype == motion.world.dtype == np.float32
        assert np.all(motion.joints[..., :2] >= 0)
        assert np.all(motion.joints[..., :2] < motion.size_hw[::-1])
        hips = motion.joints[:, list(BLAZEPOSE.hips), 2].mean(axis=1)
        np.testing.assert_allclose(hips, 0, atol=1e-2)
        np.testing.assert_allclose(middle(motion, 'hip'), 0, atol=1e-6)
        assert np.all(np.diff(motion.time_s) > 0) and motion.time_s[0] == 0
        assert 4 < motion.time_s[-1] < 8


def test_pixels_are_metres_in_the_scale_of_their_depth():
    # A pinhole: what is nearer than the hips looks larger, in the ratio of the depths.
    subject = draw_subject(seed=0, number=2)
    walk = walkers.record_exercise(subject, 'touch_toes', seed=1, noise=0.0)
    motion, away_m = walk.motion, walk.truth['distance_m']
    scale = motion.joints[:, :, 2] / np.where(
        np.abs(motion.world[..., 2]) > 0.02, motion.world[..., 2], np.nan)
    at_hips = np.nanmedian(scale, axis=1)
    assert np.nanmax(np.abs(scale / at_hips[:, None] - 1)) < 1e-3
    hips = motion.joints[:, list(BLAZEPOSE.hips), :2].mean(axis=1, keepdims=True)
    offset = motion.joints[..., :2] - hips
    shrunk = offset / at_hips[:, None, None] - motion.world[..., :2]
    # To first order a joint is shifted by its depth over the distance.
    assert np.abs(shrunk).max() < 1.2 * np.abs(motion.world[..., 2]).max() / (
        away_m - 1) * 1.2


def test_the_left_of_who_faces_the_camera_is_on_the_right():
    _, motion = draw('touch_toes')
    first = motion.joints[0]
    assert first[PLACE['left_shoulder'], 0] > first[PLACE['right_shoulder'], 0]
    assert first[PLACE['left_hip'], 0] > first[PLACE['right_hip'], 0]
    assert first[PLACE['nose'], 2] < first[[PLACE['left_ear'], PLACE['right_ear']], 2
                                           ].mean()  # nearer than the ears
    assert first[PLACE['nose'], 1] < first[PLACE['left_hip'], 1]


def test_noise_drops_frames_and_hides_joints_and_exact_motions_have_none():
    noisy = [draw('walk', seed=seed, noise=1.0)[1] for seed in range(12)]
    assert any(np.isnan(motion.joints).any() for motion in noisy)
    for motion in noisy:
        nobody = np.isnan(motion.joints).all(axis=(1, 2))
        assert motion.counts['frames_nobody'] == nobody.sum() < 0.2 * len(nobody)
        assert np.all(motion.visibility[nobody] == 0)
        assert np.isfinite(motion.joints[~nobody]).all()
        assert motion.visibility.min() >= 0 and motion.visibility.max() <= 1
    intervals = [np.ptp(np.diff(motion.time_s)) for motion in noisy]
    assert min(intervals) < 1e-9 < 1e-3 < max(intervals)
    assert len({round(1 / np.diff(motion.time_s).mean()) for motion in noisy}) > 2
    exact = draw('walk')[1]
    assert np.isfinite(exact.joints).all()
    assert exact.visibility.min() < 0.6 < 0.99 < exact.visibility.max()


def test_a_joint_behind_the_trunk_is_hidden_and_one_before_it_is_not():
    points = np.zeros((1, 33, 3))
    for name, x, y in (('shoulder', 20, 0), ('hip', 12, 60)):
        points[0, PLACE[f'left_{name}']] = x, y, 0
        points[0, PLACE[f'right_{name}']] = -x, y, 0
    for side, z in (('left', 40), ('right', -40)):
        points[0, PLACE[f'{side}_wrist']] = 15, 35, z
    hidden = walker_camera._hide(points, np.array([180.0]))
    assert hidden[0, PLACE['left_wrist']] == 1 and hidden[0, PLACE['right_wrist']] == 0
    assert hidden[0, PLACE['left_hip']] == 0  # by its own trunk
