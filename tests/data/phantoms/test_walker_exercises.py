"""The traits show in how people bend, walk and jump, and physics holds."""

import numpy as np
import pytest

from jaxmed.data.phantoms import walker_bodies
from jaxmed.data.phantoms.walker_exercises import EXERCISES
from jaxmed.data.phantoms.walker_people import draw_subject
from jaxmed.pose.skeletons import BLAZEPOSE
from tests.data.phantoms.people import HEALTHY, PLACE, draw, middle


def up_of(motion):
    """The scene's vertical in the camera's axes: along standing legs."""
    way = (middle(motion, 'hip') - middle(motion, 'ankle'))[0]
    return way / np.linalg.norm(way)


def lean_deg(motion):
    """Of the trunk from the legs' direction, while standing at the start."""
    trunk = (middle(motion, 'shoulder') - middle(motion, 'hip'))[0]
    return np.degrees(np.arccos(trunk @ up_of(motion) / np.linalg.norm(trunk)))


@pytest.mark.parametrize('exercise', EXERCISES)
def test_who_leans_stands_at_that_angle(exercise):
    straight = lean_deg(draw(exercise)[1])
    # 12 degrees to one side and none forward, but for hunch and sway.
    leaning = lean_deg(draw(exercise, lean=0.7, lean_side_deg=12.0)[1])
    assert straight < 7 and abs(np.sqrt(leaning**2 - straight**2) - 12) < 4


def test_a_stiff_spine_keeps_its_length_while_the_body_bends():
    def chord(stiffness):
        subject, motion = draw('touch_toes', stiffness=stiffness)
        trunk = np.linalg.norm(middle(motion, 'shoulder') - middle(motion, 'hip'),
                               axis=1)
        return trunk.min() / subject.trunk_m

    # 72 degrees in three pieces (half, 0.3, 0.2 of it) over 0.42, 0.30, 0.28 of the
    # length: the ends at 36, 57.6 and 72 from the root, so the chord is 0.97.
    angle = np.radians(72 * np.cumsum([0.5, 0.3, 0.2]))
    share = [0.42, 0.30, 0.28]
    expected = np.hypot(share @ np.sin(angle), share @ np.cos(angle))
    assert chord(0.0) == pytest.approx(expected, abs=0.015)
    assert chord(1.0) > 0.99


@pytest.mark.parametrize('number', range(6))
def test_a_stiff_person_does_not_reach_the_toes(number):
    def gap_m(stiffness):
        subject, motion = draw('touch_toes', number=number, stiffness=stiffness)
        hands = middle(motion, 'index') - middle(motion, 'foot_index')
        return np.linalg.norm(hands, axis=1).min(), subject.height_m

    # The landmark is a knuckle: who touches with the fingertips is within a hand's
    # length, 0.108 of the height (Winter's table).
    (healthy_m, height_m), (stiff_m, _) = gap_m(0.0), gap_m(1.0)
    assert healthy_m < 0.108 * height_m < stiff_m - 0.05


def steps_m(motion):
    """How far the left foot comes before the right one, and the other way round."""
    feet = motion.world[:, PLACE['left_ankle']] - motion.world[:, PLACE['right_ankle']]
    front = middle(motion, 'foot_index') - middle(motion, 'heel')
    front = front[0] / np.linalg.norm(front[0])
    return (feet @ front).max(), -(feet @ front).min()


def test_the_spared_leg_steps_longer_and_healthy_legs_alike():
    left, right = steps_m(draw('walk')[1])
    assert abs(left - right) < 0.12 * (left + right)
    left, right = steps_m(draw('walk', asymmetry=1.0, weak=1.0)[1])
    assert left > 1.5 * right
    left, right = steps_m(draw('walk', asymmetry=1.0, weak=-1.0)[1])
    assert right > 1.5 * left


def test_a_walk_is_two_metres_and_feet_that_stand_do_not_slide():
    subject = draw_subject(seed=0, number=0, **HEALTHY)
    plan, _ = EXERCISES['walk'](np.random.default_rng(0), subject)
    time_s = np.linspace(0, 6, 361)
    points = walker_bodies.assemble(subject, plan(time_s))
    hips = points[:, list(BLAZEPOSE.hips)].mean(axis=1)
    assert 1.9 < hips[-1, 0] - hips[0, 0] < 2.7
    toes = points[:, [PLACE['left_foot_index'], PLACE['right_foot_index']]]
    moved = np.linalg.norm(np.diff(toes[..., :2], axis=0), axis=-1)
    # One of the feet stands at each moment: less than 3 mm in 1/60 s.
    assert moved.min(axis=1).max() < 0.003
    assert points[..., 2].min() > -0.03  # nobody sinks into the floor
    # The trunk glides: never back, and without jerks.
    speed = np.diff(hips[:, 0]) * 60
    assert speed.min() > -0.05 and np.abs(np.diff(speed)).max() * 60 < 12


def test_flight_follows_gravity():
    subject = draw_subject(seed=0, number=0, **HEALTHY)
    plan, _ = EXERCISES['jump'](np.random.default_rng(0), subject)
    time_s = np.arange(0, 4, 1 / 240)
    points = walker_bodies.assemble(subject, plan(time_s))
    toes = points[:, [PLACE['left_foot_index'], PLACE['right_foot_index']], 2]
    flying = np.flatnonzero(toes.min(axis=1) > 0.04)
    hips = points[flying][:, list(BLAZEPOSE.hips), 2].mean(axis=1)
    fall = 2 * np.polyfit(time_s[flying], hips, 2)[0]
    assert fall == pytest.approx(-9.81, rel=0.02)
    assert np.abs(np.diff(points, axis=0)).max() * 240 < 15  # no joint leaps


def test_stiff_people_jump_less_high_and_crouch_less():
    def rise_and_crouch(stiffness):
        subject = draw_subject(
            seed=0, number=0, **HEALTHY | {'stiffness': stiffness})
        plan, _ = EXERCISES['jump'](np.random.default_rng(0), subject)
        points = walker_bodies.assemble(subject, plan(np.arange(0, 4, 1 / 60)))
        hips = points[:, list(BLAZEPOSE.hips), 2].mean(axis=1)
        return hips.max() - hips[0], hips[0] - hips.min()

    (high, deep), (low, shallow) = rise_and_crouch(0.0), rise_and_crouch(1.0)
    assert high > low + 0.05 and deep > 1.5 * shallow
