"""Synthetic people that move, with known truth: the default of spine health.

A body of rigid segments does the three exercises of paper 000 (III.B) before a pinhole
camera, and its joints are told as BlazePose tells them: where they are in the picture,
how far from the hips, how visible, with noise. A subject's asymmetry, lean and
stiffness set the index; size, suppleness of the legs, strength, tempo, style of the
arms, camera and recorder say nothing about it.

The scene's axes are forward, to the subject's left, and up, in metres; its floor is at
0. Angles are in degrees where a name says so, and otherwise in radians.
"""

from typing import Any, Iterator, Mapping, NamedTuple

import numpy as np

from jaxmed.errors import ConfigError
from jaxmed.pose.skeletons import BLAZEPOSE, Motion

EXERCISES = ('touch_toes', 'walk', 'jump')

# What each trait adds to the index when it is 1.
WEIGHTS = {'asymmetry': 0.3, 'lean': 0.3, 'stiffness': 0.4}
LEAN_DEG = 18.0  # of the trunk, when the lean is 1

_GRAVITY = 9.81
_PLACE = {joint: number for number, joint in enumerate(BLAZEPOSE.joints)}
_SIDE = np.array([1.0, -1.0])  # left, right, along the second axis
_HEIGHT = np.array([0.0, 0.0, 1.0])

# Three pieces of spine from the hips' middle to the shoulders': share of the length,
# and of the bending forward, to the side, and of the turning.
_SPINE = np.array([0.42, 0.30, 0.28])
_FLEXION = np.array([0.50, 0.30, 0.20])
_BENDING = np.array([0.55, 0.30, 0.15])
_TWIST = np.array([0.20, 0.40, 0.40])

# Landmarks of the head from the middle between the ears, as shares of the height.
_FACE = {
    'nose': (0.060, 0, -0.012), 'eye_inner': (0.050, 0.010, 0.012),
    'eye': (0.050, 0.018, 0.012), 'eye_outer': (0.047, 0.025, 0.012),
    'ear': (0, 0.043, 0), 'mouth': (0.052, 0.014, -0.034),
}

# What may hide a joint from the camera: from joint, to joint, radius as a share of the
# height. A joint isn't hidden by its own.
_COVERS = (
    ('left_shoulder', 'left_hip', 0.055), ('right_shoulder', 'right_hip', 0.055),
    ('left_hip', 'left_knee', 0.035), ('right_hip', 'right_knee', 0.035),
    ('left_knee', 'left_ankle', 0.025), ('right_knee', 'right_ankle', 0.025),
)


class Subject(NamedTuple):
    """A person: what the index depends on, then what it does not."""

    name: str
    asymmetry: float  # [0, 1], of the legs' steps and load
    lean: float  # [0, 1], of the trunk: LEAN_DEG at 1
    stiffness: float  # [0, 1], of the spine
    weak: float  # 1: the left leg is spared, -1: the right
    lean_side_deg: float  # positive to the left
    lean_forward_deg: float
    height_m: float
    thigh_m: float
    shank_m: float
    ankle_m: float
    foot_m: float
    trunk_m: float
    neck_m: float
    upper_arm_m: float
    forearm_m: float
    shoulder_m: float  # half of what is between them
    hip_m: float
    tempo: float  # factor of durations
    suppleness: float  # of hips and legs, [0, 1]
    strength: float  # of the legs, [0, 1]
    arm_swing: float
    arm_out: float  # how far they hang from the body
    elbow: float  # how bent they hang
    step: float  # length, as a share of the height
    stance_m: float  # half of what is between the feet

    @property
    def index(self):
        """In [0, 1], 0 best."""
        total = sum(weight * getattr(self, name) for name, weight in WEIGHTS.items())
        return float(np.clip(total, 0, 1))


class Walk(NamedTuple):
    """One recorded exercise of a subject and what is true of it."""

    subject: str
    exercise: str
    rating: float  # 100 - 100 index
    motion: Motion
    truth: Mapping[str, Any]  # JSON: index, traits, the camera


class _Plan(NamedTuple):
    """What a body is asked to do, over T moments; second axis left, right."""

    pelvis: np.ndarray  # [T, 3], wished: the legs' reach may hold it lower
    pelvis_turn: np.ndarray  # [T, 3]: turn to the left, tilt forward, list to the left
    spine_turn: np.ndarray  # [T, 3], the same, all of the spine over the pelvis
    head_turn: np.ndarray  # [T, 3], over the spine's upper end
    ankles: np.ndarray  # [T, 2, 3], of feet flat on the floor where they tread
    feet_tilt: np.ndarray  # [T, 2], positive with the heel up, on the toes
    lift: np.ndarray  # [T, 2], metres
    arms: np.ndarray  # [T, 2, 3]: forward, outward, and bend of the elbow
    reach: np.ndarray  # [T, 2] in [0, 1], hands on the way to the toes
    bob: np.ndarray  # [T]: how much of the rise and fall that legs ask for is left


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


def draw_subject(*, seed, number, **changes):
    """A person of a set.

    The traits share a cause, so that the index spreads from 0 to 0.9, and differ enough
    that none tells the others.

    Args:
        seed: of the set, non-negative.
        number: of the person in it.
        changes: fields to be other than drawn. Of a changed lean the degrees follow.

    Returns:
        Subject.
    """
    rng = np.random.default_rng((seed, 0, number))
    severity = rng.uniform(-0.05, 0.95)
    # Reflected, not clipped: no heap of perfect or worst people.
    traits = 1 - np.abs(1 - np.abs(severity + rng.uniform(-0.38, 0.38, 3)))
    traits = dict(zip(WEIGHTS, traits.tolist()))
    traits |= {name: changes[name] for name in WEIGHTS if name in changes}
    direction = np.radians(rng.uniform(35, 55))
    lean_side = rng.choice([-1, 1]) * np.cos(direction) * LEAN_DEG * traits['lean']
    height = float(np.clip(rng.normal(1.70, 0.09), 1.48, 1.95))
    legs, trunk, arms, shoulders, hips, foot = rng.normal(
        1, [0.03, 0.03, 0.035, 0.06, 0.06, 0.04])
    sizes = dict(
        thigh_m=0.245 * legs, shank_m=0.246 * legs, ankle_m=0.039, foot_m=0.152 * foot,
        trunk_m=0.288 * trunk, neck_m=0.112, upper_arm_m=0.172 * arms,
        forearm_m=0.146 * arms, shoulder_m=0.104 * shoulders, hip_m=0.060 * hips)
    drawn = Subject(
        name=f'phantom-{seed}-{number:05d}', **traits, weak=float(rng.choice([-1, 1])),
        lean_side_deg=float(lean_side),
        lean_forward_deg=float(np.sin(direction) * LEAN_DEG * traits['lean']),
        height_m=height, **{name: float(height * x) for name, x in sizes.items()},
        tempo=float(rng.uniform(0.85, 1.2)), suppleness=float(rng.random()),
        strength=float(rng.random()), arm_swing=float(rng.uniform(0.5, 1.0)),
        arm_out=float(rng.uniform(0.08, 0.3)), elbow=float(rng.uniform(0.1, 0.6)),
        step=float(rng.uniform(0.27, 0.34)), stance_m=float(rng.uniform(0.06, 0.12)),
    )
    return drawn._replace(**changes)


def _check_exercise(exercise):
    if exercise not in EXERCISES:
        raise ConfigError('exercises', f'{exercise!r} is none of {EXERCISES}')


def _record(subject, exercise, seed, noise):
    """Motion and what is true of its camera."""
    _check_exercise(exercise)
    rng = np.random.default_rng(seed)
    take = _vary(rng, subject, noise)
    plan_exercise, duration_s = _PLANS[exercise](rng, take)
    duration_s = max(duration_s + rng.uniform(0.1, 0.6), rng.uniform(4.5, 5.3))
    time_s = _draw_times(rng, duration_s, noise)
    points = _assemble(take, plan_exercise(time_s))
    seen, camera = _photograph(rng, take, points)
    return _sense(rng, take, time_s, seen, noise), camera


def _vary(rng, subject, noise):
    """The subject as he is in one take: nobody moves twice in the same way."""
    asymmetry, stiffness, side_deg, forward_deg = noise * rng.normal(
        0, [0.02, 0.02, 0.4, 0.4])
    return subject._replace(
        asymmetry=np.clip(subject.asymmetry + asymmetry, 0, 1),
        stiffness=np.clip(subject.stiffness + stiffness, 0, 1),
        lean_side_deg=subject.lean_side_deg + side_deg,
        lean_forward_deg=subject.lean_forward_deg + forward_deg,
        tempo=subject.tempo * rng.uniform(0.95, 1.05))


def _draw_times(rng, duration_s, noise):
    """float64 [T] from 0: a steady camera, or a phone that hesitates and skips."""
    rate_hz = rng.choice([24, 25, 30, 30, 30, 50, 60])
    steps = np.full(int(duration_s * rate_hz), 1 / rate_hz)
    if rng.random() < 0.25 and noise:
        steps *= rng.uniform(0.75, 1.25, len(steps))
        steps *= 1 + (rng.random(len(steps)) < 0.02)
    return np.concatenate([[0.0], np.cumsum(steps)[:-1]])


def _ease(time_s, start_s, length_s):
    """From 0 to 1 with no speed or acceleration at the ends (least jerk)."""
    u = np.clip((time_s - start_s) / length_s, 0, 1)
    return u**3 * (10 + u * (6 * u - 15))


def _wander(rng, count, period_s):
    """`count` slow signals, each (time_s [T]) -> [T, count] of deviation about 1."""
    periods_s = period_s * rng.uniform(0.6, 1.8, (3, count))
    phases = rng.uniform(0, 2 * np.pi, (3, count))

    def evaluate(time_s):
        angle = 2 * np.pi * time_s[:, None, None] / periods_s + phases
        return np.sin(angle).sum(axis=1) * np.sqrt(2 / 3)

    return evaluate


def _stand(rng, person):
    """(time_s [T]) -> _Plan of one who stands and sways a little."""
    sway = _wander(rng, 9, 2.5)
    toes_out_m = person.stance_m + person.hip_m * 0.3
    places = np.stack([
        rng.normal(0, 0.02, 2), _SIDE * toes_out_m, np.full(2, person.ankle_m)], -1)
    lean_side, lean_forward = np.radians(
        [person.lean_side_deg, person.lean_forward_deg])
    hunch = np.radians(rng.normal(4, 1))
    look = np.radians(rng.normal(0, 4))
    swing = rng.normal(0, 0.06, 2)

    def plan(time_s):
        moved = sway(time_s)
        ankles = np.broadcast_to(places, (len(time_s), 2, 3)).copy()
        pelvis = np.stack([
            0.010 * moved[:, 0] + 0.02 - 0.10 * lean_forward,
            # Who leans to one side puts the hips to the other.
            0.008 * moved[:, 1] - 0.10 * lean_side,
            np.full(len(time_s), person.ankle_m + 0.99 * _leg(person))], -1)
        pelvis_turn = np.radians(0.8) * moved[:, 2:5] + np.stack(
            [0, 0.25 * lean_forward, 0.25 * lean_side])
        spine_turn = np.radians(0.8) * moved[:, 5:8] + np.stack(
            [0, hunch + 0.75 * lean_forward, 0.75 * lean_side])
        head_turn = np.stack([
            look + np.radians(3) * moved[:, 8], -0.8 * lean_forward - hunch
            + np.radians(2) * moved[:, 0], np.full(len(time_s), -0.6 * lean_side)], -1)
        arms = np.stack(np.broadcast_arrays(
            swing + 0.03 * moved[:, :2], person.arm_out, person.elbow), -1)
        nothing = np.zeros((len(time_s), 2))
        return _Plan(
            pelvis, pelvis_turn, spine_turn, head_turn, ankles, nothing, nothing.copy(),
            arms, nothing.copy(), np.ones(len(time_s)))

    return plan


def _touch_toes(rng, person):
    """Bend forward, reach for the toes, come back.

    A stiff spine bends less and slower, and hips and knees make up for some of it.
    """
    stand = _stand(rng, person)
    start_s = rng.uniform(0.1, 0.6)
    pace_s = person.tempo * (1 + 0.35 * person.stiffness)
    down_s, hold_s, up_s = (
        rng.uniform(1.0, 1.3) * pace_s, rng.uniform(0.2, 0.6),
        rng.uniform(0.9, 1.2) * pace_s)
    effort = rng.uniform(0.95, 1.0)
    hips = np.radians(52 + 10 * person.suppleness + 6 * person.stiffness) * effort
    spine = np.radians(72) * (1 - 0.78 * person.stiffness) * effort
    knees_m = _leg(person) * (
        0.02 + 0.09 * person.stiffness + 0.05 * (1 - person.suppleness))
    lean_side = np.radians(person.lean_side_deg)
    weak, uneven, stiff = person.weak, person.asymmetry, person.stiffness

    def plan(time_s):
        made = stand(time_s)
        bend = _ease(time_s, start_s, down_s) - _ease(
            time_s, start_s + down_s + hold_s, up_s)
        # The spine follows the hips a little later.
        roll = _ease(time_s, start_s + 0.15 * down_s, down_s) - _ease(
            time_s, start_s + down_s + hold_s, 0.9 * up_s)
        pelvis = made.pelvis + bend[:, None] * [
            -0.075 * person.height_m, -weak * 0.10 * uneven, -knees_m]
        pelvis_turn = made.pelvis_turn + bend[:, None] * [
            weak * np.radians(12) * uneven, hips, -weak * np.radians(7) * uneven]
        # What of the standing lean forward would be added is within the bend.
        spine_turn = made.spine_turn + roll[:, None] * [
            weak * np.radians(10) * uneven, spine, 0.5 * lean_side]
        head_turn = made.head_turn + roll[:, None] * [
            0, np.radians(25) * (1 - stiff), 0]
        reach = np.clip(1.3 * bend, 0, 1)[:, None] * [1, 1]
        return made._replace(
            pelvis=pelvis, pelvis_turn=pelvis_turn, spine_turn=spine_turn,
            head_turn=head_turn, reach=reach)

    return plan, start_s + down_s + hold_s + up_s


def _walk(rng, person):
    """Stand, walk two metres, stand.

    The spared leg is stood on for less time, so the other one hurries and steps
    shorter. A stiff spine turns less, and the body rises and falls less.
    """
    stand = _stand(rng, person)
    start_s = rng.uniform(0.0, 0.5)
    nominal_m = person.step * person.height_m
    count = int(np.ceil(2.0 / nominal_m)) + 1  # the last one only closes up
    first = rng.integers(2)  # 0: the left foot steps first
    foot = (first + np.arange(count)) % 2
    # 1 where the spared leg swings, -1 where it is stood on.
    spared = np.where(_SIDE[foot] == person.weak, 1.0, -1.0)
    uneven, stiff = person.asymmetry, person.stiffness
    length_m = nominal_m * (1 + 0.36 * uneven * spared) * rng.normal(1, 0.02, count)
    last_s = person.tempo * 0.62 * (1 + 0.36 * uneven * spared) * rng.normal(
        1, 0.02, count)
    begin_s = start_s + np.concatenate([[0.0], np.cumsum(last_s)[:-1]])
    swing_s = 0.74 * last_s
    # A foot moves past the other one: twice a step, but for the first and the last.
    moves_m = np.concatenate([[0.0], length_m[:-1]]) + length_m
    moves_m[-1] = length_m[-2]
    height_m = rng.uniform(0.035, 0.06) * (1 - 0.35 * uneven * (spared > 0))
    turn = np.radians(17) * (1 - 0.9 * stiff)
    hips_turn = np.radians(8) * (1 - 0.7 * stiff)
    # Arms swing less on a trunk that doesn't turn.
    arm = person.arm_swing * np.radians(32) * (1 - 0.5 * stiff) * (
        1 - 0.4 * uneven * (_SIDE == person.weak))
    drop, nod = np.radians(10) * uneven, np.radians(2 + 1.5 * rng.random())

    def plan(time_s):
        made = stand(time_s)
        at_s = time_s[:, None]
        swing = _ease(at_s, begin_s, swing_s)  # [T, count]
        each = np.eye(2)[foot]  # [count, 2]
        forward_m = (swing * moves_m) @ each
        # The trunk glides on while single feet halt.
        glide_s = 0.35 * last_s
        travel_m = _ease(
            at_s, begin_s - glide_s, last_s + 2 * glide_s) @ (moves_m / 2)
        ankles = made.ankles.copy()
        ankles[:, :, 0] += forward_m
        up = np.sin(np.pi * swing) ** 2
        lift = (up * height_m) @ each
        # Heel off before the swing, toes up at its end.
        u = (at_s - begin_s) / swing_s
        size = moves_m / (2 * nominal_m)
        tilt = size * np.interp(
            u, [-0.45, 0.0, 0.25, 0.7, 0.95, 1.3], [0, 0.42, 0.55, -0.05, -0.24, 0])
        load = up @ (each * -_SIDE).sum(axis=1)  # 1: on the left leg
        ahead = (forward_m[:, 0] - forward_m[:, 1]) / nominal_m  # 1: left foot
        on_weak = np.clip(load * person.weak, 0, 1) * person.weak
        moving = _ease(time_s, start_s, 0.4) - _ease(
            time_s, begin_s[-1] + 0.4 * last_s[-1], 0.5)
        pelvis = made.pelvis + np.stack([
            travel_m, 0.022 * load, -0.04 * moving], -1)
        zero = np.zeros_like(ahead)
        pelvis_turn = made.pelvis_turn + np.stack(
            [-hips_turn * ahead, zero, 0.05 * load - drop * on_weak], -1)
        spine_turn = made.spine_turn + np.stack([
            (turn + hips_turn) * ahead, nod * moving,
            -0.05 * load + 1.9 * drop * on_weak], -1)
        head_turn = made.head_turn - np.stack([
            turn * ahead, nod * moving, drop * on_weak], -1)
        arms = made.arms.copy()
        arms[:, :, 0] += -_SIDE * ahead[:, None] * arm
        arms[:, :, 2] += np.clip(arms[:, :, 0], 0, 1) * 0.6
        return made._replace(
            pelvis=pelvis, pelvis_turn=pelvis_turn, spine_turn=spine_turn,
            head_turn=head_turn, ankles=ankles, feet_tilt=tilt @ each, lift=lift,
            arms=arms, bob=1 - 0.75 * stiff * moving)

    return plan, begin_s[-1] + last_s[-1] + 0.2


def _jump(rng, person):
    """Crouch, push off, fly as gravity has it, land, stand up.

    A stiff spine allows little crouch and little height; who spares a leg pushes with
    the other one and lands on it.
    """
    stand = _stand(rng, person)
    start_s = rng.uniform(0.2, 0.9)
    stiff, uneven, weak = person.stiffness, person.asymmetry, person.weak
    depth_m = _leg(person) * (0.32 + 0.06 * person.strength) * (1 - 0.5 * stiff)
    rise_m = (0.14 + 0.20 * person.strength) * (1 - 0.5 * stiff)
    tiptoe = 0.75
    # How far the pelvis is up when the toes leave the floor and meet it again.
    toes_m = 0.72 * person.foot_m * np.sin(tiptoe)
    speed = np.sqrt(2 * _GRAVITY * rise_m)
    down_s = rng.uniform(0.55, 0.8) * person.tempo
    # From rest to `speed` over the way up, at nearly even acceleration.
    push_s = 1.9 * (depth_m + toes_m) / (speed + 0.4)
    flight_s = 2 * speed / _GRAVITY
    sink_m = 0.75 * depth_m
    land_s = 2.2 * (sink_m + toes_m) / (speed + 0.4)
    rest_s = rng.uniform(0.5, 0.8) * person.tempo
    marks_s = start_s + np.cumsum([0, down_s, push_s, flight_s, land_s, rest_s])
    arms_up = np.radians(rng.uniform(60, 150)) * person.arm_swing
    spine = np.radians(42) * (1 - 0.85 * stiff)
    hips = np.radians(38 + 6 * person.suppleness - 8 * stiff)
    drift_m = rng.normal(0, 0.03)

    def plan(time_s):
        made = stand(time_s)
        down = -depth_m * _ease(time_s, marks_s[0], down_s)
        push = _hermite(time_s, marks_s[1], push_s, (-depth_m, 0), (toes_m, speed))
        flown_s = time_s - marks_s[2]
        fly = toes_m + speed * flown_s - _GRAVITY / 2 * flown_s**2
        land = _hermite(time_s, marks_s[3], land_s, (toes_m, -speed), (-sink_m, 0))
        rest = -sink_m * (1 - _ease(time_s, marks_s[4], rest_s))
        phase = np.searchsorted(marks_s, time_s, side='right')
        up_m = np.choose(
            phase, [np.zeros_like(down), down, push, fly, land, rest, 0 * down])
        flying = phase == 3
        off_m = np.where(flying, up_m - toes_m, 0)
        tilt = tiptoe * (
            _ease(time_s, marks_s[2] - 0.45 * push_s, 0.45 * push_s)
            - _ease(time_s, marks_s[3], 0.4 * land_s))
        crouch = np.clip(-up_m / depth_m, 0, 1)
        loaded = _ease(time_s, marks_s[0], down_s) - _ease(
            time_s, marks_s[4], rest_s)
        fold = crouch**2 * (3 - 2 * crouch)  # no jerk where it starts
        pelvis = made.pelvis + np.stack([
            -0.10 * _leg(person) * fold + drift_m * _ease(
                time_s, marks_s[2], flight_s),
            -weak * 0.10 * uneven * loaded, up_m], -1)
        pelvis_turn = made.pelvis_turn + np.stack([
            weak * np.radians(7) * uneven * loaded, hips * fold,
            -weak * np.radians(6) * uneven * loaded], -1)
        spine_turn = made.spine_turn + np.stack([
            weak * np.radians(4) * uneven * loaded, spine * fold,
            weak * np.radians(3) * uneven * loaded], -1)
        head_turn = made.head_turn - np.stack([
            0 * fold, 0.75 * (hips + spine) * fold, 0 * fold], -1)
        ankles = made.ankles.copy()
        ankles[:, :, 0] += drift_m * _ease(time_s, marks_s[2], flight_s)[:, None]
        # The spared foot leaves the floor first and comes back last.
        spare = (_SIDE == weak) * 0.07 * uneven
        lift = off_m[:, None] + spare * np.sin(
            np.pi * np.clip(flown_s / flight_s, 0, 1))[:, None]
        back = np.radians(40) * person.arm_swing * _ease(time_s, marks_s[0], down_s)
        throw = (arms_up + np.radians(40) * person.arm_swing) * (
            _ease(time_s, marks_s[1], push_s)
            - _ease(time_s, marks_s[2] + 0.6 * flight_s, flight_s + land_s))
        arms = made.arms.copy()
        arms[:, :, 0] += (throw - back * (1 - _ease(
            time_s, marks_s[3], land_s + rest_s)))[:, None]
        arms[:, :, 2] += 0.5 * crouch[:, None]
        return made._replace(
            pelvis=pelvis, pelvis_turn=pelvis_turn, spine_turn=spine_turn,
            head_turn=head_turn, ankles=ankles,
            feet_tilt=tilt[:, None] * [1, 1], lift=lift, arms=arms)

    return plan, marks_s[5]


_PLANS = {'touch_toes': _touch_toes, 'walk': _walk, 'jump': _jump}


def _hermite(time_s, start_s, length_s, first, last):
    """From (place, speed) to (place, speed)."""
    u = np.clip((time_s - start_s) / length_s, 0, 1)
    (x0, v0), (x1, v1) = first, last
    return (x0 * (1 + 2 * u) * (1 - u)**2 + v0 * length_s * u * (1 - u)**2
            + x1 * u * u * (3 - 2 * u) + v1 * length_s * u * u * (u - 1))


def _leg(person):
    return person.thigh_m + person.shank_m


def _turn(angles):
    """Rotation [..., 3, 3]: turned left, tilted forward and listed left, [..., 3]."""
    (cy, ct, cl), (sy, st, sl) = (
        np.moveaxis(f(angles), -1, 0) for f in (np.cos, np.sin))
    sl = -sl  # about the forward axis, to the left is negative
    rows = [
        [cy * ct - sy * sl * st, -sy * cl, cy * st + sy * sl * ct],
        [sy * ct + cy * sl * st, cy * cl, sy * st - cy * sl * ct],
        [-cl * st, sl, cl * ct],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def _unit(vectors):
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(length, 1e-9)


def _bend(root, target, upper_m, lower_m, towards):
    """A limb of two bones whose end goes to the target, or as near as it reaches.

    Args:
        root, target: [..., 3].
        upper_m, lower_m: lengths of the bones.
        towards: [..., 3], the way the middle joint bends.

    Returns:
        Middle joint and end, [..., 3].
    """
    way = target - root
    length = np.linalg.norm(way, axis=-1, keepdims=True)
    axis = way / np.maximum(length, 1e-9)
    length = np.clip(length, 1.05 * abs(upper_m - lower_m) + 0.02,
                     0.9995 * (upper_m + lower_m))
    along = (upper_m**2 + length**2 - lower_m**2) / (2 * length)
    across = np.sqrt(np.maximum(upper_m**2 - along**2, 0))
    aside = _unit(towards - np.sum(towards * axis, -1, keepdims=True) * axis)
    return root + along * axis + across * aside, root + length * axis


def _assemble(person, plan):
    """A plan -> the 33 landmarks in the scene, float64 [T, 33, 3]."""
    count = len(plan.pelvis)
    turned = _turn(plan.pelvis_turn)
    hips_out = turned[:, :, 1][:, None] * (_SIDE * person.hip_m)[:, None]
    # The foot rolls over its toes, or over its heel.
    ahead, behind = 0.72 * person.foot_m, 0.28 * person.foot_m
    flat, foot = (
        _turn(np.stack(np.broadcast_arrays(_SIDE * 0.12, tilt, 0.0), -1))
        for tilt in (0 * plan.feet_tilt, plan.feet_tilt))
    pivot = np.where(plan.feet_tilt > 0, ahead, -behind)[..., None] * [1.0, 0, 0]
    pivot = pivot - [0, 0, person.ankle_m]
    ankles = plan.ankles + plan.lift[..., None] * _HEIGHT + (
        (flat - foot) @ pivot[..., None])[..., 0]
    # As high as both legs allow, without a kink where one takes over.
    wished = plan.pelvis[:, 2]
    across = plan.pelvis[:, None, :2] + hips_out[..., :2] - ankles[..., :2]
    allowed = ankles[..., 2] - hips_out[..., 2] + np.sqrt(np.maximum(
        (0.998 * _leg(person))**2 - np.sum(across**2, -1), 0.01))
    heights = np.concatenate([wished[:, None], allowed], axis=1)
    soft_m = 0.012
    lowest = heights.min(axis=1)
    height = lowest - soft_m * np.log(
        np.exp((lowest[:, None] - heights) / soft_m).sum(axis=1))
    held = np.percentile(height, 15)
    height = np.where(height > held, held + (height - held) * plan.bob, height)
    pelvis = np.concatenate([plan.pelvis[:, :2], height[:, None]], axis=1)

    hips = pelvis[:, None] + hips_out
    facing = turned[:, :, 0].copy()
    facing[:, 2] = 0
    knees_to = _unit(facing)[:, None] + turned[:, :, 1][:, None] * (
        _SIDE * 0.12)[:, None]
    knees, ankles = _bend(hips, ankles, person.thigh_m, person.shank_m, knees_to)
    heels, toes = (
        ankles + (foot @ np.array([x, 0, -person.ankle_m]))
        for x in (-behind, ahead))

    top = pelvis
    for share, *parts in zip(_SPINE, _TWIST, _FLEXION, _BENDING):
        turned = turned @ _turn(plan.spine_turn * parts)
        top = top + turned[:, :, 2] * (share * person.trunk_m)
    shoulders = top[:, None] + turned[:, :, 1][:, None] * (
        _SIDE * person.shoulder_m)[:, None]
    head = turned @ _turn(plan.head_turn)
    ears = (top + (turned[:, :, 2] * 0.45 + head[:, :, 2] * 0.55) * person.neck_m
            + head[:, :, 0] * 0.012 * person.height_m)

    # Arms hang and swing along the way the chest faces, whatever its tilt, unless a
    # hand is wanted somewhere.
    chest = np.stack([turned[:, 0, 1], turned[:, 1, 1], np.zeros(count)], -1)
    chest = _unit(chest)  # to the left
    front = np.stack([chest[:, 1], -chest[:, 0], np.zeros(count)], -1)
    tilt = np.arctan2(
        np.sum(turned[:, :, 2] * front, -1), turned[:, 2, 2])[:, None]
    forward, outward, elbow = np.moveaxis(plan.arms, -1, 0)
    # A little of the tilt goes into the arms while they hang.
    forward = forward - 0.15 * tilt
    pieces = [
        np.sin(angle)[..., None] * front[:, None] - (
            np.cos(angle) * np.cos(outward))[..., None] * _HEIGHT
        + (np.sin(outward) * _SIDE)[..., None] * chest[:, None]
        for angle in (forward, forward + elbow)
    ]
    pieces = [_unit(piece) for piece in pieces]
    elbows = shoulders + pieces[0] * person.upper_arm_m
    wrists = elbows + pieces[1] * person.forearm_m
    goal = toes + [0.02, 0, 0.04 * person.height_m]
    wrists = wrists + plan.reach[..., None] * (goal - wrists)
    elbows, wrists = _bend(
        shoulders, wrists, person.upper_arm_m, person.forearm_m, elbows - shoulders)

    points = np.zeros((count, len(BLAZEPOSE.joints), 3))
    for name, place in _FACE.items():
        place = np.array(place) * person.height_m
        if name == 'nose':
            points[:, 0] = ears + head @ place
            continue
        for side, sign in zip(('left', 'right'), _SIDE):
            joint = f'mouth_{side}' if name == 'mouth' else f'{side}_{name}'
            points[:, _PLACE[joint]] = ears + head @ (place * [1, sign, 1])
    along = _unit(wrists - elbows)
    knuckles = front[:, None] - np.sum(
        front[:, None] * along, -1, keepdims=True) * along
    knuckles = _unit(knuckles + 1e-3 * chest[:, None])
    hands = {
        name: wrists + person.height_m * (a * along + b * knuckles)
        for name, a, b in (('pinky', 0.046, -0.016), ('index', 0.052, 0.014),
                           ('thumb', 0.022, 0.020))}
    for name, pair in dict(
            shoulder=shoulders, elbow=elbows, wrist=wrists, hip=hips, knee=knees,
            ankle=ankles, heel=heels, foot_index=toes, **hands).items():
        points[:, [_PLACE[f'left_{name}'], _PLACE[f'right_{name}']]] = pair
    return points


class _Seen(NamedTuple):
    """What is before a camera, exactly."""

    joints: np.ndarray  # [T, 33, 3]: pixels; z from the hips' middle in x's scale
    world: np.ndarray  # [T, 33, 3]: metres about the hips' middle, camera's axes
    scale: np.ndarray  # [T], pixels a metre at the hips
    hidden: np.ndarray  # [T, 33] in [0, 1]
    size_hw: tuple[int, int]


def _photograph(rng, person, points):
    """What a camera sees of the scene, and what is true of the camera.

    It stands slantwise before the person, as paper 000 has it (IV), on one side.
    """
    yaw, pitch, roll = np.radians([
        rng.uniform(15, 45), np.clip(rng.normal(4, 1.5), 0, 8), rng.normal(0, 0.5)])
    distance_m = rng.uniform(3.0, 6.0)
    size_hw = [(1280, 720), (720, 1280), (1080, 1920), (1920, 1080), (480, 640)][
        rng.integers(5)]
    # Facing the camera at yaw 0: forward is to the viewer, left is to the right.
    axes = np.array([[np.sin(yaw), np.cos(yaw), 0], [0, 0, -1.0],
                     [-np.cos(yaw), np.sin(yaw), 0]])
    c, s = np.cos(pitch), np.sin(pitch)
    axes = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ axes
    c, s = np.cos(roll), np.sin(roll)
    axes = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ axes
    low, high = points.min(axis=(0, 1)), points.max(axis=(0, 1))
    placed = (points - (low + high) / 2) @ axes.T
    depth_m = placed[..., 2] + distance_m
    flat = placed[..., :2] / depth_m[..., None]
    # Zoomed and moved until all of the exercise fills a share of the picture.
    low, high = flat.min(axis=(0, 1)), flat.max(axis=(0, 1))
    fill = rng.uniform(0.55, 0.86)
    size_wh = np.array(size_hw[::-1])
    focal_px = fill * np.min(size_wh / (high - low + 0.08 / distance_m))
    free = size_wh - focal_px * (high - low)
    corner = free * rng.uniform(0.35, 0.65, 2)
    hips_m = placed[:, list(BLAZEPOSE.hips)].mean(axis=1, keepdims=True)
    world = placed - hips_m
    scale = focal_px / (hips_m[:, 0, 2] + distance_m)
    joints = np.concatenate([
        focal_px * (flat - low) + corner, world[..., 2:] * scale[:, None, None]], -1)
    hidden = _hide(joints, scale * person.height_m)
    camera = {
        'yaw_deg': float(np.degrees(yaw)), 'pitch_deg': float(np.degrees(pitch)),
        'roll_deg': float(np.degrees(roll)), 'distance_m': float(distance_m),
    }
    return _Seen(joints, world, scale, hidden, size_hw), camera


def _hide(joints, height_px):
    """How far joints are behind other parts of the body, [T, 33] in [0, 1]."""
    first, last = (
        joints[:, [_PLACE[cover[end]] for cover in _COVERS]][:, None]
        for end in (0, 1))  # [T, 1, covers, 3]
    radius = np.array([cover[2] for cover in _COVERS]) * height_px[:, None, None]
    along = (last - first)[..., :2]
    from_first = joints[:, :, None] - first
    share = np.clip(
        np.sum(from_first[..., :2] * along, -1)
        / np.maximum(np.sum(along**2, -1), 1e-6), 0, 1)
    nearest = share[..., None] * (last - first)
    away = from_first - nearest
    distance = np.hypot(away[..., 0], away[..., 1]) / radius
    behind = away[..., 2] / radius
    hidden = np.clip(3 * (1.2 - distance), 0, 1) * np.clip(1.5 * (behind - 1), 0, 1)
    own = np.array([[joint in cover[:2] for cover in _COVERS]
                    for joint in BLAZEPOSE.joints])
    return np.where(own, 0, hidden).max(axis=2)


def _sense(rng, person, time_s, seen, noise):
    """What a landmarker makes of what is seen: Motion."""
    count, joints = seen.hidden.shape
    height_px = seen.scale * person.height_m
    # Errors in shares of the height: steady for a take (where a network puts a joint
    # of this person in these clothes), slow, and from frame to frame. Depth is guessed.
    quality = rng.uniform(0.5, 1.0)
    axes = [1.0, 1.0, 1.5]
    steady = rng.normal(0, 0.0025, (joints, 3))
    slow = 0.003 * _wander(rng, joints * 3, 0.8)(time_s).reshape(count, joints, 3)
    quick = rng.normal(0, 0.0025, (count, joints, 3))
    error = (steady + (slow + quick) * (1 + 3 * seen.hidden[..., None])) * axes
    # The face is found as one.
    error[:, 1:11] = error[:, :1] + 0.25 * error[:, 1:11]
    stray = rng.random((count, joints, 1)) < 0.002
    error += stray * rng.normal(0, 0.06, (count, joints, 3))
    error *= noise * quality
    deep = 1 + noise * rng.normal(0, 0.05)
    size = 1 + noise * rng.normal(0, 0.05)
    pixels = seen.joints * [1, 1, deep] + error * height_px[:, None, None]
    world = (seen.world * [1, 1, deep] + error * person.height_m) * size
    # Both are told from the hips' middle.
    for places, axis in ((pixels, slice(2, 3)), (world, slice(0, 3))):
        middle = places[:, list(BLAZEPOSE.hips)].mean(axis=1, keepdims=True)
        places[..., axis] -= middle[..., axis]
    visibility = 1 - 0.75 * seen.hidden
    visibility -= noise * 0.06 * np.abs(rng.normal(0, 1, (count, joints)))
    outside = np.any(
        (pixels[..., :2] < 0) | (pixels[..., :2] >= seen.size_hw[::-1]), axis=-1)
    visibility = np.clip(visibility - 0.5 * outside, 0.01, 0.9999)
    lost = np.zeros(count, bool)
    for _ in range(rng.poisson(0.5) if noise else 0):
        start = rng.integers(count)
        lost[start:start + rng.integers(1, 7)] = True
    pixels[lost], world[lost], visibility[lost] = np.nan, np.nan, 0
    return Motion(
        pixels.astype(np.float32), visibility.astype(np.float32), time_s,
        BLAZEPOSE.name, world.astype(np.float32), seen.size_hw,
        {'frames': count, 'frames_nobody': int(lost.sum())})
