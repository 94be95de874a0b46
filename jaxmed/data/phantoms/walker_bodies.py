"""A body of rigid segments: from what it is asked to do to where its joints are.

The scene's axes are forward, to the subject's left, and up, in metres; its floor is at
0. Angles are in radians.
"""

from typing import NamedTuple

import numpy as np

from jaxmed.pose.skeletons import BLAZEPOSE

SIDE = np.array([1.0, -1.0])  # left, right, along the second axis
_HEIGHT = np.array([0.0, 0.0, 1.0])
_PLACE = BLAZEPOSE.places

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


class Plan(NamedTuple):
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


def assemble(person, plan):
    """A plan -> the 33 landmarks in the scene, float64 [T, 33, 3]."""
    turned = _turn(plan.pelvis_turn)
    pelvis, pairs = _place_legs(person, plan, turned)
    chest, head, pairs['shoulder'], ears = _place_trunk(person, plan, pelvis, turned)
    # To the left and ahead as the chest faces, whatever its tilt.
    nothing = np.zeros(len(pelvis))
    left = _unit(np.stack([chest[:, 0, 1], chest[:, 1, 1], nothing], -1))
    front = np.stack([left[:, 1], -left[:, 0], nothing], -1)
    elbows, wrists = _place_arms(
        person, plan, chest, left, front, pairs['shoulder'], pairs['foot_index'])
    pairs |= {'elbow': elbows, 'wrist': wrists} | _place_hands(
        person, elbows, wrists, left, front)

    points = np.zeros((len(pelvis), len(BLAZEPOSE.joints), 3))
    for name, place in _FACE.items():
        place = np.array(place) * person.height_m
        if name == 'nose':
            points[:, 0] = ears + head @ place
            continue
        for side, sign in zip(('left', 'right'), SIDE):
            joint = f'mouth_{side}' if name == 'mouth' else f'{side}_{name}'
            points[:, _PLACE[joint]] = ears + head @ (place * [1, sign, 1])
    for name, pair in pairs.items():
        points[:, [_PLACE[f'left_{name}'], _PLACE[f'right_{name}']]] = pair
    return points


def _place_legs(person, plan, turned):
    """The hips' middle [T, 3], and name -> [T, 2, 3] of the joints below it.

    Args:
        turned: [T, 3, 3], of the pelvis.
    """
    hips_out = turned[:, :, 1][:, None] * (SIDE * person.hip_m)[:, None]
    # The foot rolls over its toes, or over its heel.
    ahead, behind = 0.72 * person.foot_m, 0.28 * person.foot_m
    flat, foot = (
        _turn(np.stack(np.broadcast_arrays(SIDE * 0.12, tilt, 0.0), -1))
        for tilt in (0 * plan.feet_tilt, plan.feet_tilt))
    pivot = np.where(plan.feet_tilt > 0, ahead, -behind)[..., None] * [1.0, 0, 0]
    pivot = pivot - [0, 0, person.ankle_m]
    ankles = plan.ankles + plan.lift[..., None] * _HEIGHT + (
        (flat - foot) @ pivot[..., None])[..., 0]
    pelvis = _hold_pelvis(person, plan, hips_out, ankles)

    hips = pelvis[:, None] + hips_out
    facing = turned[:, :, 0].copy()
    facing[:, 2] = 0
    knees_to = _unit(facing)[:, None] + turned[:, :, 1][:, None] * (
        SIDE * 0.12)[:, None]
    knees, ankles = _bend(hips, ankles, person.thigh_m, person.shank_m, knees_to)
    heels, toes = (
        ankles + (foot @ np.array([x, 0, -person.ankle_m]))
        for x in (-behind, ahead))
    return pelvis, {
        'hip': hips, 'knee': knees, 'ankle': ankles, 'heel': heels, 'foot_index': toes}


def _hold_pelvis(person, plan, hips_out, ankles):
    """As high as both legs allow, without a kink where one takes over: [T, 3]."""
    wished = plan.pelvis[:, 2]
    across = plan.pelvis[:, None, :2] + hips_out[..., :2] - ankles[..., :2]
    allowed = ankles[..., 2] - hips_out[..., 2] + np.sqrt(np.maximum(
        (0.998 * person.leg_m)**2 - np.sum(across**2, -1), 0.01))
    heights = np.concatenate([wished[:, None], allowed], axis=1)
    soft_m = 0.012
    lowest = heights.min(axis=1)
    height = lowest - soft_m * np.log(
        np.exp((lowest[:, None] - heights) / soft_m).sum(axis=1))
    held = np.percentile(height, 15)
    height = np.where(height > held, held + (height - held) * plan.bob, height)
    return np.concatenate([plan.pelvis[:, :2], height[:, None]], axis=1)


def _place_trunk(person, plan, pelvis, turned):
    """From the pelvis up.

    Returns:
        Rotations of chest and head [T, 3, 3], shoulders [T, 2, 3], the middle between
        the ears [T, 3].
    """
    top = pelvis
    for share, *parts in zip(_SPINE, _TWIST, _FLEXION, _BENDING):
        turned = turned @ _turn(plan.spine_turn * parts)
        top = top + turned[:, :, 2] * (share * person.trunk_m)
    shoulders = top[:, None] + turned[:, :, 1][:, None] * (
        SIDE * person.shoulder_m)[:, None]
    head = turned @ _turn(plan.head_turn)
    ears = (top + (turned[:, :, 2] * 0.45 + head[:, :, 2] * 0.55) * person.neck_m
            + head[:, :, 0] * 0.012 * person.height_m)
    return turned, head, shoulders, ears


def _place_arms(person, plan, chest, left, front, shoulders, toes):
    """Elbows and wrists, [T, 2, 3].

    Arms hang and swing along the way the chest faces unless a hand is wanted at the
    toes.

    Args:
        chest: [T, 3, 3]; left, front: [T, 3], where it faces.
    """
    tilt = np.arctan2(
        np.sum(chest[:, :, 2] * front, -1), chest[:, 2, 2])[:, None]
    forward, outward, elbow = np.moveaxis(plan.arms, -1, 0)
    # A little of the tilt goes into the arms while they hang.
    forward = forward - 0.15 * tilt
    pieces = [
        np.sin(angle)[..., None] * front[:, None] - (
            np.cos(angle) * np.cos(outward))[..., None] * _HEIGHT
        + (np.sin(outward) * SIDE)[..., None] * left[:, None]
        for angle in (forward, forward + elbow)
    ]
    pieces = [_unit(piece) for piece in pieces]
    elbows = shoulders + pieces[0] * person.upper_arm_m
    wrists = elbows + pieces[1] * person.forearm_m
    goal = toes + [0.02, 0, 0.04 * person.height_m]
    wrists = wrists + plan.reach[..., None] * (goal - wrists)
    return _bend(
        shoulders, wrists, person.upper_arm_m, person.forearm_m, elbows - shoulders)


def _place_hands(person, elbows, wrists, left, front):
    """Name -> [T, 2, 3] of the knuckles, in line with the forearm."""
    along = _unit(wrists - elbows)
    knuckles = front[:, None] - np.sum(
        front[:, None] * along, -1, keepdims=True) * along
    knuckles = _unit(knuckles + 1e-3 * left[:, None])
    return {
        name: wrists + person.height_m * (a * along + b * knuckles)
        for name, a, b in (('pinky', 0.046, -0.016), ('index', 0.052, 0.014),
                           ('thumb', 0.022, 0.020))}


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
