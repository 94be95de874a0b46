"""What a camera sees of a body, and what a landmarker tells of that."""

from typing import NamedTuple

import numpy as np

from jaxmed.data.phantoms.walker_curves import wander
from jaxmed.pose.skeletons import BLAZEPOSE, Motion

_PLACE = BLAZEPOSE.places

# What may hide a joint from the camera: from joint, to joint, radius as a share of the
# height. A joint isn't hidden by its own.
_COVERS = (
    ('left_shoulder', 'left_hip', 0.055), ('right_shoulder', 'right_hip', 0.055),
    ('left_hip', 'left_knee', 0.035), ('right_hip', 'right_knee', 0.035),
    ('left_knee', 'left_ankle', 0.025), ('right_knee', 'right_ankle', 0.025),
)


def draw_times(rng, duration_s, noise):
    """float64 [T] from 0: a steady camera, or a phone that hesitates and skips."""
    rate_hz = rng.choice([24, 25, 30, 30, 30, 50, 60])
    steps = np.full(int(duration_s * rate_hz), 1 / rate_hz)
    if rng.random() < 0.25 and noise:
        steps *= rng.uniform(0.75, 1.25, len(steps))
        steps *= 1 + (rng.random(len(steps)) < 0.02)
    return np.concatenate([[0.0], np.cumsum(steps)[:-1]])


class Seen(NamedTuple):
    """What is before a camera, exactly."""

    joints: np.ndarray  # [T, 33, 3]: pixels; z from the hips' middle in x's scale
    world: np.ndarray  # [T, 33, 3]: metres about the hips' middle, camera's axes
    scale: np.ndarray  # [T], pixels a metre at the hips
    hidden: np.ndarray  # [T, 33] in [0, 1]
    size_hw: tuple[int, int]


def photograph(rng, person, points):
    """What a camera sees of the scene, and what is true of the camera.

    It stands slantwise before the person, as paper 000 has it (IV), on one side.
    """
    yaw, pitch, roll = np.radians([
        rng.uniform(15, 45), np.clip(rng.normal(4, 1.5), 0, 8), rng.normal(0, 0.5)])
    distance_m = rng.uniform(3.0, 6.0)
    size_hw = [(1280, 720), (720, 1280), (1080, 1920), (1920, 1080), (480, 640)][
        rng.integers(5)]
    low, high = points.min(axis=(0, 1)), points.max(axis=(0, 1))
    placed = (points - (low + high) / 2) @ _aim(yaw, pitch, roll).T
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
    return Seen(joints, world, scale, hidden, size_hw), camera


def _aim(yaw, pitch, roll):
    """The camera's axes in the scene, radians -> [3, 3]: right, down and away."""
    # Facing the camera at yaw 0: forward is to the viewer, left is to the right.
    axes = np.array([[np.sin(yaw), np.cos(yaw), 0], [0, 0, -1.0],
                     [-np.cos(yaw), np.sin(yaw), 0]])
    c, s = np.cos(pitch), np.sin(pitch)
    axes = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ axes
    c, s = np.cos(roll), np.sin(roll)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ axes


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


def sense(rng, person, time_s, seen, noise):
    """What a landmarker makes of what is seen: Motion."""
    count, joints = seen.hidden.shape
    height_px = seen.scale * person.height_m
    error = _draw_errors(rng, time_s, seen.hidden, noise)
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


def _draw_errors(rng, time_s, hidden, noise):
    """Errors in shares of the height, [T, 33, 3].

    Steady for a take (where a network puts a joint of this person in these clothes),
    slow, and from frame to frame. Depth is guessed.
    """
    count, joints = hidden.shape
    quality = rng.uniform(0.5, 1.0)
    axes = [1.0, 1.0, 1.5]
    steady = rng.normal(0, 0.0025, (joints, 3))
    slow = 0.003 * wander(rng, joints * 3, 0.8)(time_s).reshape(count, joints, 3)
    quick = rng.normal(0, 0.0025, (count, joints, 3))
    error = (steady + (slow + quick) * (1 + 3 * hidden[..., None])) * axes
    # The face is found as one.
    error[:, 1:11] = error[:, :1] + 0.25 * error[:, 1:11]
    stray = rng.random((count, joints, 1)) < 0.002
    error += stray * rng.normal(0, 0.06, (count, joints, 3))
    return error * (noise * quality)
