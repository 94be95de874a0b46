"""The three exercises of paper 000 (III.B): what a person asks of the body, when.

Each is (rng, person) -> (plan, duration_s), plan: (time_s [T]) -> walker_bodies.Plan.
"""

from typing import NamedTuple

import numpy as np

from jaxmed.data.phantoms.walker_bodies import SIDE, Plan
from jaxmed.data.phantoms.walker_curves import ease, hermite, wander

_GRAVITY = 9.81


def _stand(rng, person):
    """(time_s [T]) -> Plan of one who stands and sways a little."""
    sway = wander(rng, 9, 2.5)
    toes_out_m = person.stance_m + person.hip_m * 0.3
    places = np.stack([
        rng.normal(0, 0.02, 2), SIDE * toes_out_m, np.full(2, person.ankle_m)], -1)
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
            np.full(len(time_s), person.ankle_m + 0.99 * person.leg_m)], -1)
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
        return Plan(
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
    knees_m = person.leg_m * (
        0.02 + 0.09 * person.stiffness + 0.05 * (1 - person.suppleness))
    lean_side = np.radians(person.lean_side_deg)
    weak, uneven, stiff = person.weak, person.asymmetry, person.stiffness

    def plan(time_s):
        made = stand(time_s)
        bend = ease(time_s, start_s, down_s) - ease(
            time_s, start_s + down_s + hold_s, up_s)
        # The spine follows the hips a little later.
        roll = ease(time_s, start_s + 0.15 * down_s, down_s) - ease(
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


class _Steps(NamedTuple):
    """The steps of a walk, in their order; what is drawn of them, [count]."""

    nominal_m: float
    foot: np.ndarray  # 0: the left one moves
    begin_s: np.ndarray
    last_s: np.ndarray  # from one to the next
    swing_s: np.ndarray  # with the foot in the air
    moves_m: np.ndarray
    height_m: np.ndarray


def _draw_steps(rng, person):
    """Two metres of steps: the leg stood on for less time makes longer ones."""
    start_s = rng.uniform(0.0, 0.5)
    nominal_m = person.step * person.height_m
    count = int(np.ceil(2.0 / nominal_m)) + 1  # the last one only closes up
    first = rng.integers(2)
    foot = (first + np.arange(count)) % 2
    # 1 where the spared leg swings, -1 where it is stood on.
    spared = np.where(SIDE[foot] == person.weak, 1.0, -1.0)
    uneven = person.asymmetry
    length_m = nominal_m * (1 + 0.36 * uneven * spared) * rng.normal(1, 0.02, count)
    last_s = person.tempo * 0.62 * (1 + 0.36 * uneven * spared) * rng.normal(
        1, 0.02, count)
    begin_s = start_s + np.concatenate([[0.0], np.cumsum(last_s)[:-1]])
    # A foot moves past the other one: twice a step, but for the first and the last.
    moves_m = np.concatenate([[0.0], length_m[:-1]]) + length_m
    moves_m[-1] = length_m[-2]
    height_m = rng.uniform(0.035, 0.06) * (1 - 0.35 * uneven * (spared > 0))
    return _Steps(
        nominal_m, foot, begin_s, last_s, 0.74 * last_s, moves_m, height_m)


class _Gait(NamedTuple):
    """Where steps have brought the feet, [T, 2], and what that asks of the trunk, [T].
    """

    forward_m: np.ndarray
    lift_m: np.ndarray
    tilt: np.ndarray
    travel_m: np.ndarray  # of the trunk
    ahead: np.ndarray  # in steps; positive: the left foot is
    load: np.ndarray  # 1: on the left leg, -1: on the right one
    moving: np.ndarray  # in [0, 1]


def _follow(steps, time_s):
    at_s = time_s[:, None]
    swing = ease(at_s, steps.begin_s, steps.swing_s)  # [T, count]
    each = np.eye(2)[steps.foot]  # [count, 2]
    forward_m = (swing * steps.moves_m) @ each
    # The trunk glides on while single feet halt.
    glide_s = 0.35 * steps.last_s
    travel_m = ease(at_s, steps.begin_s - glide_s, steps.last_s + 2 * glide_s) @ (
        steps.moves_m / 2)
    up = np.sin(np.pi * swing) ** 2
    # Heel off before the swing, toes up at its end.
    u = (at_s - steps.begin_s) / steps.swing_s
    size = steps.moves_m / (2 * steps.nominal_m)
    tilt = size * np.interp(
        u, [-0.45, 0.0, 0.25, 0.7, 0.95, 1.3], [0, 0.42, 0.55, -0.05, -0.24, 0])
    return _Gait(
        forward_m, (up * steps.height_m) @ each, tilt @ each, travel_m,
        ahead=(forward_m[:, 0] - forward_m[:, 1]) / steps.nominal_m,
        load=up @ (each * -SIDE).sum(axis=1),
        moving=ease(time_s, steps.begin_s[0], 0.4) - ease(
            time_s, steps.begin_s[-1] + 0.4 * steps.last_s[-1], 0.5))


def _walk(rng, person):
    """Stand, walk two metres, stand.

    The spared leg is stood on for less time, so the other one hurries and steps
    shorter. A stiff spine turns less, and the body rises and falls less.
    """
    stand = _stand(rng, person)
    steps = _draw_steps(rng, person)
    uneven, stiff = person.asymmetry, person.stiffness
    turn = np.radians(17) * (1 - 0.9 * stiff)
    hips_turn = np.radians(8) * (1 - 0.7 * stiff)
    # Arms swing less on a trunk that doesn't turn.
    arm = person.arm_swing * np.radians(32) * (1 - 0.5 * stiff) * (
        1 - 0.4 * uneven * (SIDE == person.weak))
    drop, nod = np.radians(10) * uneven, np.radians(2 + 1.5 * rng.random())

    def plan(time_s):
        made = stand(time_s)
        gait = _follow(steps, time_s)
        ahead, load, moving = gait.ahead, gait.load, gait.moving
        ankles = made.ankles.copy()
        ankles[:, :, 0] += gait.forward_m
        on_weak = np.clip(load * person.weak, 0, 1) * person.weak
        pelvis = made.pelvis + np.stack([
            gait.travel_m, 0.022 * load, -0.04 * moving], -1)
        zero = np.zeros_like(ahead)
        pelvis_turn = made.pelvis_turn + np.stack(
            [-hips_turn * ahead, zero, 0.05 * load - drop * on_weak], -1)
        spine_turn = made.spine_turn + np.stack([
            (turn + hips_turn) * ahead, nod * moving,
            -0.05 * load + 1.9 * drop * on_weak], -1)
        head_turn = made.head_turn - np.stack([
            turn * ahead, nod * moving, drop * on_weak], -1)
        arms = made.arms.copy()
        arms[:, :, 0] += -SIDE * ahead[:, None] * arm
        arms[:, :, 2] += np.clip(arms[:, :, 0], 0, 1) * 0.6
        return made._replace(
            pelvis=pelvis, pelvis_turn=pelvis_turn, spine_turn=spine_turn,
            head_turn=head_turn, ankles=ankles, feet_tilt=gait.tilt, lift=gait.lift_m,
            arms=arms, bob=1 - 0.75 * stiff * moving)

    return plan, steps.begin_s[-1] + steps.last_s[-1] + 0.2


class _Leap(NamedTuple):
    """How the pelvis goes down, up and down again; five lengths after each other."""

    start_s: float
    down_s: float
    push_s: float
    flight_s: float
    land_s: float
    rest_s: float
    depth_m: float  # of the crouch
    sink_m: float  # of the landing
    toes_m: float  # how far it is up when the toes leave the floor and meet it again
    speed: float  # metres a second, then

    @property
    def marks_s(self):
        """[6]: where each of the five begins, and the end."""
        return self.start_s + np.cumsum([
            0, self.down_s, self.push_s, self.flight_s, self.land_s, self.rest_s])

    def rise(self, time_s):
        """How far the pelvis is up, [T], and how much of that is off the floor."""
        marks_s, still = self.marks_s, np.zeros_like(time_s)
        down = -self.depth_m * ease(time_s, marks_s[0], self.down_s)
        push = hermite(time_s, marks_s[1], self.push_s, (-self.depth_m, 0),
                       (self.toes_m, self.speed))
        flown_s = time_s - marks_s[2]
        fly = self.toes_m + self.speed * flown_s - _GRAVITY / 2 * flown_s**2
        land = hermite(time_s, marks_s[3], self.land_s, (self.toes_m, -self.speed),
                       (-self.sink_m, 0))
        rest = -self.sink_m * (1 - ease(time_s, marks_s[4], self.rest_s))
        phase = np.searchsorted(marks_s, time_s, side='right')
        up_m = np.choose(phase, [still, down, push, fly, land, rest, still])
        return up_m, np.where(phase == 3, up_m - self.toes_m, 0)


_TIPTOE = 0.75  # tilt of a foot that leaves the floor


def _draw_leap(rng, person):
    start_s = rng.uniform(0.2, 0.9)
    free = 1 - 0.5 * person.stiffness
    depth_m = person.leg_m * (0.32 + 0.06 * person.strength) * free
    rise_m = (0.14 + 0.20 * person.strength) * free
    toes_m = 0.72 * person.foot_m * np.sin(_TIPTOE)
    speed = np.sqrt(2 * _GRAVITY * rise_m)
    sink_m = 0.75 * depth_m
    return _Leap(
        start_s, down_s=rng.uniform(0.55, 0.8) * person.tempo,
        # From rest to `speed` over the way up, at nearly even acceleration.
        push_s=1.9 * (depth_m + toes_m) / (speed + 0.4),
        flight_s=2 * speed / _GRAVITY, land_s=2.2 * (sink_m + toes_m) / (speed + 0.4),
        rest_s=rng.uniform(0.5, 0.8) * person.tempo, depth_m=depth_m, sink_m=sink_m,
        toes_m=toes_m, speed=speed)


def _jump(rng, person):
    """Crouch, push off, fly as gravity has it, land, stand up.

    A stiff spine allows little crouch and little height; who spares a leg pushes with
    the other one and lands on it.
    """
    stand = _stand(rng, person)
    leap = _draw_leap(rng, person)
    stiff, uneven, weak = person.stiffness, person.asymmetry, person.weak
    crouch_s, push_at_s, off_s, landing_s, up_s, end_s = leap.marks_s
    arms_up = np.radians(rng.uniform(60, 150)) * person.arm_swing
    spine = np.radians(42) * (1 - 0.85 * stiff)
    hips = np.radians(38 + 6 * person.suppleness - 8 * stiff)
    drift_m = rng.normal(0, 0.03)

    def swing_arms(time_s):
        """How far forward."""
        back = np.radians(40) * person.arm_swing * ease(time_s, crouch_s, leap.down_s)
        throw = (arms_up + np.radians(40) * person.arm_swing) * (
            ease(time_s, push_at_s, leap.push_s)
            - ease(time_s, off_s + 0.6 * leap.flight_s, leap.flight_s + leap.land_s))
        return throw - back * (
            1 - ease(time_s, landing_s, leap.land_s + leap.rest_s))

    def plan(time_s):
        made = stand(time_s)
        up_m, off_m = leap.rise(time_s)
        tilt = _TIPTOE * (
            ease(time_s, off_s - 0.45 * leap.push_s, 0.45 * leap.push_s)
            - ease(time_s, landing_s, 0.4 * leap.land_s))
        crouch = np.clip(-up_m / leap.depth_m, 0, 1)
        loaded = ease(time_s, crouch_s, leap.down_s) - ease(time_s, up_s, leap.rest_s)
        fold = crouch**2 * (3 - 2 * crouch)  # no jerk where it starts
        drifted_m = drift_m * ease(time_s, off_s, leap.flight_s)
        pelvis = made.pelvis + np.stack([
            -0.10 * person.leg_m * fold + drifted_m,
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
        ankles[:, :, 0] += drifted_m[:, None]
        # The spared foot leaves the floor first and comes back last.
        spare = (SIDE == weak) * 0.07 * uneven
        lift = off_m[:, None] + spare * np.sin(
            np.pi * np.clip((time_s - off_s) / leap.flight_s, 0, 1))[:, None]
        arms = made.arms.copy()
        arms[:, :, 0] += swing_arms(time_s)[:, None]
        arms[:, :, 2] += 0.5 * crouch[:, None]
        return made._replace(
            pelvis=pelvis, pelvis_turn=pelvis_turn, spine_turn=spine_turn,
            head_turn=head_turn, ankles=ankles,
            feet_tilt=tilt[:, None] * [1, 1], lift=lift, arms=arms)

    return plan, end_s


EXERCISES = {'touch_toes': _touch_toes, 'walk': _walk, 'jump': _jump}
