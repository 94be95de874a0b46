"""Synthetic people that move, with known truth: the default of spine health.

A body of rigid segments does the three exercises of paper 000 (III.B) before a pinhole
camera, and its joints are told as BlazePose tells them: where they are in the picture,
how far from the hips, how visible, with noise. A subject's asymmetry, lean and
stiffness set the index; size, suppleness of the legs, strength, tempo, style of the
arms, camera and recorder say nothing about it.

    walker_people -> walker_exercises -> walker_bodies -> walker_camera
"""

from typing import Any, Iterator, Mapping, NamedTuple

import numpy as np

from jaxmed.data.phantoms import walker_exercises
from jaxmed.data.phantoms.walker_bodies import assemble
from jaxmed.data.phantoms.walker_camera import draw_times, photograph, sense
from jaxmed.data.phantoms.walker_people import WEIGHTS, draw_subject, vary
from jaxmed.errors import ConfigError
from jaxmed.pose.skeletons import Motion

EXERCISES = tuple(walker_exercises.EXERCISES)


class Walk(NamedTuple):
    """One recorded exercise of a subject and what is true of it."""

    subject: str
    exercise: str
    rating: float  # 100 - 100 index
    motion: Motion
    truth: Mapping[str, Any]  # JSON: index, traits, the camera


def subjects(*, count, seed, exercises) -> Iterator[Walk]:
    """Yields the exercises of drawn people, all of one after the other.

    What is drawn of a subject depends on (seed, subject's number, exercise) alone.

    Args:
        count: people.
        seed: non-negative.
        exercises: names in EXERCISES.

    Raises:
        ConfigError: an exercise is unknown.
    """
    for exercise in exercises:
        _check_exercise(exercise)
    for number in range(count):
        subject = draw_subject(seed=seed, number=number)
        for exercise in exercises:
            yield record_exercise(
                subject, exercise,
                seed=(seed, 1, number, EXERCISES.index(exercise)))


def record_exercise(subject, exercise, *, seed, noise=1.0):
    """One exercise of a subject with its truth, see draw_motion."""
    motion, camera = _record(subject, exercise, seed, noise)
    index = subject.index
    truth = {
        'index': index, **{name: float(getattr(subject, name)) for name in WEIGHTS},
        'lean_side_deg': subject.lean_side_deg,
        'lean_forward_deg': subject.lean_forward_deg, 'weak': subject.weak,
        'height_m': subject.height_m, 'tempo': subject.tempo, **camera,
    }
    return Walk(subject.name, exercise, 100 - 100 * index, motion, truth)


def draw_motion(subject, exercise, *, seed, noise=1.0):
    """One recorded exercise.

    Args:
        subject: Subject.
        exercise: in EXERCISES.
        seed: of the take, the camera and the recorder: int or sequence of them.
        noise: factor of the landmarks' errors; at 0 they are exact, all are found at
            even intervals, and visibility tells which are hidden.

    Returns:
        Motion of BlazePose's 33 landmarks: pixels, and metres in `world`.

    Raises:
        ConfigError: the exercise is unknown.
    """
    return _record(subject, exercise, seed, noise)[0]


def _check_exercise(exercise):
    if exercise not in EXERCISES:
        raise ConfigError('exercises', f'{exercise!r} is none of {EXERCISES}')


def _record(subject, exercise, seed, noise):
    """Motion and what is true of its camera."""
    _check_exercise(exercise)
    rng = np.random.default_rng(seed)
    take = vary(rng, subject, noise)
    plan_exercise, duration_s = walker_exercises.EXERCISES[exercise](rng, take)
    duration_s = max(duration_s + rng.uniform(0.1, 0.6), rng.uniform(4.5, 5.3))
    time_s = draw_times(rng, duration_s, noise)
    points = assemble(take, plan_exercise(time_s))
    seen, camera = photograph(rng, take, points)
    return sense(rng, take, time_s, seen, noise), camera
