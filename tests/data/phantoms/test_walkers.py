"""Drawn people: known truth, the same for the same seed, and many in no time."""

import time

import numpy as np
import pytest

from jaxmed.data.phantoms import walkers
from jaxmed.data.phantoms.walker_people import draw_subject
from jaxmed.errors import ConfigError


def assert_same(first, second):
    for name, value in first._asdict().items():
        np.testing.assert_array_equal(value, getattr(second, name), err_msg=name)


def test_a_walk_is_a_function_of_seed_number_and_exercise_alone():
    few = list(walkers.subjects(count=1, seed=3, exercises=('jump',)))
    more = list(walkers.subjects(count=2, seed=3, exercises=('touch_toes', 'jump')))
    assert_same(few[0].motion, more[1].motion)
    assert few[0].truth == more[1].truth and few[0].subject == more[0].subject
    other = next(walkers.subjects(count=1, seed=4, exercises=('jump',)))
    assert other.truth != few[0].truth
    assert other.subject != few[0].subject  # the first of another set is another one


def test_all_exercises_of_a_subject_have_one_rating():
    walks = list(walkers.subjects(count=2, seed=0, exercises=walkers.EXERCISES))
    assert [walk.exercise for walk in walks] == [*walkers.EXERCISES] * 2
    assert len({walk.rating for walk in walks[:3]}) == 1
    assert walks[0].rating != walks[3].rating
    assert walks[0].motion.joints.shape != walks[1].motion.joints.shape or np.any(
        walks[0].motion.joints != walks[1].motion.joints)


def test_the_rating_is_the_weighted_sum_of_the_traits():
    subject = draw_subject(
        seed=0, number=0, asymmetry=0.5, lean=0.2, stiffness=1.0)
    walk = walkers.record_exercise(subject, 'walk', seed=0)
    # 0.3 * 0.5 + 0.3 * 0.2 + 0.4 * 1 = 0.61
    assert walk.truth['index'] == pytest.approx(0.61)
    assert walk.rating == pytest.approx(39.0)
    assert walk.truth['stiffness'] == 1.0


def test_unknown_exercises_are_refused():
    with pytest.raises(ConfigError, match="'sit' is none of"):
        next(walkers.subjects(count=1, seed=0, exercises=('sit',)))
    with pytest.raises(ConfigError, match="'sit' is none of"):
        walkers.draw_motion(draw_subject(seed=0, number=0), 'sit', seed=0)


def test_thousands_of_motions_take_a_minute():
    start_s = time.process_time()
    count = len(list(walkers.subjects(count=10, seed=0, exercises=walkers.EXERCISES)))
    assert count / (time.process_time() - start_s) > 50
