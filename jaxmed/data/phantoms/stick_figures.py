"""Videos of drawn people: landmarks -> pixels, for what starts from pixels."""

from pathlib import Path

import cv2
import numpy as np

from jaxmed.data import video_writing
from jaxmed.errors import ConfigError, InputError
from jaxmed.pose.skeletons import BLAZEPOSE

_PLACE = BLAZEPOSE.places
_SKINS = ((141, 85, 58), (198, 134, 96), (224, 172, 130), (241, 205, 175))
_SHIRTS = ((176, 58, 52), (52, 96, 160), (60, 128, 84), (214, 190, 90), (120, 80, 140))
_TROUSERS = ((44, 52, 78), (70, 70, 74), (96, 84, 66), (34, 34, 38))
_HAIR = ((30, 24, 20), (74, 50, 32), (128, 96, 60), (58, 56, 58))
_LIGHT = np.array([-0.45, -0.65])  # comes from the left and above
_SUBPIXELS = 4  # bits of cv2's fixed-point coordinates

# Limbs: from joint, to joint, what covers it, radius there and here as shares of the
# height of the person.
_LIMBS = tuple(
    (f'{side}_{first}', f'{side}_{last}', cover, *radii)
    for side in ('left', 'right')
    for first, last, cover, *radii in (
        ('shoulder', 'elbow', 'shirt', 0.033, 0.025),
        ('elbow', 'wrist', 'skin', 0.023, 0.016),
        ('wrist', 'index', 'skin', 0.018, 0.014),
        ('wrist', 'pinky', 'skin', 0.016, 0.011),
        ('wrist', 'thumb', 'skin', 0.013, 0.009),
        ('hip', 'knee', 'trousers', 0.052, 0.034),
        ('knee', 'ankle', 'trousers', 0.033, 0.023),
        ('heel', 'foot_index', 'shoes', 0.018, 0.015),
        ('ankle', 'heel', 'shoes', 0.022, 0.020),
    ))


def write_video(path, motion, *, rate_hz, size_hw, seed):
    """Writes a movement as an MP4 of a clothed person in a room.

    The picture of the motion is scaled to fit the video and put in its middle; moments
    between frames are interpolated, and where nobody was found the room is empty.

    Args:
        path: of the file, .mp4; what is there is replaced by the whole video, its
            folder is made.
        motion: Motion of BlazePose's landmarks in pixels, with size_hw.
        rate_hz: frames a second of the video.
        size_hw: of the video, in pixels, both even.
        seed: of room, clothes and body; non-negative.

    Returns:
        float32 [frames, 33, 3]: the landmarks as drawn, pixels of the video.

    Raises:
        ConfigError: rate, size or suffix make no video.
        InputError: the motion has other joints or no picture, or the file can't be
            written.
    """
    path = Path(path)
    if not 0 < rate_hz <= 1000:
        raise ConfigError('rate_hz', f'{rate_hz} is not above 0 and at most 1000')
    if min(size_hw) < 16 or any(side % 2 for side in size_hw):
        raise ConfigError('size_hw', f'{tuple(size_hw)}: even sides of 16 or more')
    joints = place_motion(motion, rate_hz=rate_hz, size_hw=size_hw, where=path)
    look = _dress(np.random.default_rng(seed))
    room = _draw_room(np.random.default_rng((seed, 1)), joints, size_hw)
    height_px = measure(joints)

    def pictures():
        for points, tall_px in zip(joints, height_px):
            picture = room.copy()
            if np.isfinite(points).all():
                draw_person(picture, points, height_px=tall_px, look=look)
            yield picture

    video_writing.write_video(path, pictures(), rate_hz=rate_hz)
    return joints


def place_motion(motion, *, rate_hz, size_hw, where):
    """Landmarks at even times in the pixels of another picture.

    Args:
        motion: as in write_video.
        rate_hz, size_hw: of the new one.
        where: the file that errors name.

    Returns:
        float32 [frames, 33, 3], from the first to at most the last moment of the
        motion; NaN where either neighbour in time shows nobody.

    Raises:
        InputError: the motion has other joints or no picture.
    """
    if motion.skeleton != BLAZEPOSE.name or motion.size_hw is None:
        raise InputError(where, 'only BlazePose landmarks in a picture can be drawn')
    time_s = np.asarray(motion.time_s)
    # A whole number of frames would lose its last to rounding.
    count = int(np.floor((time_s[-1] - time_s[0]) * rate_hz + 1e-6)) + 1
    moments_s = np.minimum(time_s[0] + np.arange(count) / rate_hz, time_s[-1])
    after = np.searchsorted(time_s, moments_s).clip(1, max(len(time_s) - 1, 1))
    if len(time_s) == 1:
        joints = motion.joints.astype(np.float64)
    else:
        share = (moments_s - time_s[after - 1]) / (time_s[after] - time_s[after - 1])
        share = share[:, None, None]
        first, last = motion.joints[after - 1], motion.joints[after]
        # At a frame's own moment the other one does not matter, even if it is NaN.
        joints = np.where(share <= 0, first, np.where(
            share >= 1, last, first + share * (last - first)))
    factor = np.min(np.array(size_hw) / motion.size_hw)
    corner_hw = (np.array(size_hw) - factor * np.array(motion.size_hw)) / 2
    return (joints * factor + [*corner_hw[::-1], 0]).astype(np.float32)


def measure(joints):
    """How tall the person is in each frame, from the legs' bones: pixels [T]."""
    ends = [[_PLACE[f'{side}_{name}'] for side in ('left', 'right')]
            for name in ('hip', 'knee', 'ankle')]
    hip, knee, ankle = (joints[:, places] for places in ends)
    legs = np.linalg.norm(hip - knee, axis=-1) + np.linalg.norm(knee - ankle, axis=-1)
    return legs.mean(axis=1) / 0.491  # of the height: Winter's table of segments


def _dress(rng):
    """Colours of a person, and how stout he is."""
    def choose(colours):
        colour = np.array(colours[rng.integers(len(colours))], float)
        return np.clip(colour + rng.normal(0, 8, 3), 0, 255)

    return {
        'skin': choose(_SKINS), 'shirt': choose(_SHIRTS), 'hair': choose(_HAIR),
        'trousers': choose(_TROUSERS), 'shoes': choose(((40, 40, 44), (200, 196, 190))),
        'stout': float(rng.uniform(0.92, 1.12)), 'stripes': int(rng.integers(0, 3)),
    }


def _draw_room(rng, joints, size_hw):
    """A wall, a floor on which the feet stand, and grain: uint8 [H, W, 3]."""
    height, width = size_hw
    known = joints[np.isfinite(joints).all(axis=(1, 2))]
    feet_y, person = 0.85 * height, 0.6 * height
    if len(known):
        feet_y = np.percentile(known[:, 27:33, 1], 20)
        person = np.median(measure(known))
    edge = int(np.clip(feet_y - 0.13 * person, 0.3 * height, height - 2))
    wall, floor = rng.uniform(165, 215, 3), rng.uniform(105, 150, 3)
    wall, floor = (0.7 * c.mean() + 0.3 * c for c in (wall, floor))
    y, x = np.mgrid[:height, :width].astype(np.float32)
    light = 1.06 - 0.16 * x / width - 0.08 * y / height
    room = np.where((y < edge)[..., None], wall, floor) * light[..., None]
    skirting = (y >= edge - 0.02 * person) & (y < edge)
    room[skirting] *= 1.1
    grain = rng.normal(0, 3, (height // 2 + 1, width // 2 + 1)).astype(np.float32)
    grain = cv2.resize(grain, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.clip(room + grain[..., None], 0, 255).astype(np.uint8)


def draw_person(picture, points, *, height_px, look):
    """Draws a clothed person into a picture, the far parts first.

    Args:
        picture: uint8 [H, W, 3], changed.
        points: [33, 3], pixels, all finite.
        height_px: of the person, standing.
        look: of _dress.
    """
    if not (np.isfinite(height_px) and height_px > 1):
        return
    points = np.asarray(points, float)
    at = {name: points[number] for name, number in _PLACE.items()}
    _draw_shadow(picture, points, height_px)
    parts = []  # (depth, function that draws it)
    for first, last, cover, *radii in _LIMBS:
        radii = np.array(radii) * height_px * look['stout']
        start, end = at[first], at[last]
        depth = (start[2] + end[2]) / 2
        # Hands lie on the clothes and the shirt falls over the trousers.
        depth += height_px * {'trousers': 0.06, 'shoes': 0.05}.get(cover, -0.03)
        parts.append((depth, _capsule, ((start, end), radii, look[cover])))
    shoulders = at['left_shoulder'], at['right_shoulder']
    hips = at['left_hip'], at['right_hip']
    trunk = np.mean([*shoulders, *hips], axis=0)[2]
    parts.append((trunk, _draw_trunk, (shoulders, hips, height_px, look)))
    ears = (at['left_ear'] + at['right_ear']) / 2
    parts.append((min(ears[2], trunk) - 0.02 * height_px, _draw_head,
                  (at, shoulders, height_px, look)))
    for _, draw, options in sorted(parts, key=lambda part: -part[0]):
        draw(picture, *options)


def _fill(picture, outline, colour):
    points = np.round(outline * 2**_SUBPIXELS).astype(np.int32)
    cv2.fillPoly(picture, [points], [int(c) for c in np.clip(colour, 0, 255)],
                 lineType=cv2.LINE_AA, shift=_SUBPIXELS)


def _capsule(picture, ends, radii, colour):
    """The hull of discs, round to the eye: the nearer to its middle, the lighter.

    Args:
        picture: changed.
        ends: middles of the discs, each [2] or more.
        radii: of each, pixels.
        colour: RGB.
    """
    angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], -1)
    radii = np.broadcast_to(radii, len(ends)).astype(float)
    for layer in range(5):
        share = layer / 5
        outline = np.concatenate([
            end[:2] + radius * ((1 - share) * circle + 0.45 * share * _LIGHT)
            for end, radius in zip(ends, radii)])
        outline = cv2.convexHull(outline.astype(np.float32))[:, 0]
        _fill(picture, outline, colour * (0.68 + 0.42 * share))


def _draw_shadow(picture, points, height_px):
    feet = points[27:33, :2]
    x, y = feet[:, 0].mean(), feet[:, 1].max()
    across = feet[:, 0].max() - feet[:, 0].min() + 0.12 * height_px
    reach = int(0.6 * across) + 2, int(0.035 * height_px) + 2
    top, left = max(int(y) - reach[1], 0), max(int(x) - reach[0], 0)
    region = picture[top:max(int(y) + reach[1], 0), left:max(int(x) + reach[0], 0)]
    if not region.size:
        return
    shade = region.copy()
    cv2.ellipse(shade, (int(x) - left, int(y) - top), (reach[0] - 2, reach[1] - 2),
                0, 0, 360, (60, 60, 60), -1, cv2.LINE_AA)
    region[:] = cv2.addWeighted(shade, 0.45, region, 0.55, 0)


def _draw_trunk(picture, shoulders, hips, height_px, look):
    """Trousers' waist, then the shirt from the shoulders to it, and the neck's root."""
    unit = height_px * look['stout']
    _capsule(picture, hips, 0.050 * unit, look['trousers'])
    waist = [hip + 0.22 * (shoulder - hip) for hip, shoulder in zip(hips, shoulders)]
    radii = np.array([0.034, 0.034, 0.042, 0.042]) * unit
    _capsule(picture, [*shoulders, *waist], radii, look['shirt'])
    # Stripes across, as a shirt may have.
    for stripe in range(look['stripes']):
        share = 0.35 + 0.25 * stripe
        ends = [shoulder + share * (hip - shoulder)
                for shoulder, hip in zip(shoulders, hips)]
        _capsule(picture, ends, 0.008 * unit, look['shirt'] * 0.6 + 60)


def _draw_head(picture, at, shoulders, height_px, look):
    """Neck, hair, face and what is seen of eyes, nose and mouth."""
    ears = (at['left_ear'] + at['right_ear']) / 2
    eyes = (at['left_eye'] + at['right_eye']) / 2
    mouth = (at['mouth_left'] + at['mouth_right']) / 2
    up = eyes - mouth
    up = up / max(np.linalg.norm(up), 1e-6)
    ahead = at['nose'] - ears
    ahead = ahead / max(np.linalg.norm(ahead), 1e-6)
    base = (shoulders[0] + shoulders[1]) / 2
    middle = ears + 0.012 * height_px * up
    chin = ears + height_px * (0.030 * ahead - 0.046 * up)
    crown = middle + height_px * (0.028 * up - 0.004 * ahead)
    skin, hair = look['skin'], look['hair']
    _capsule(picture, [base, ears - 0.03 * height_px * up],
             np.array([0.036, 0.030]) * height_px, skin * 0.88)
    _capsule(picture, [crown - 0.012 * height_px * ahead, middle],
             np.array([0.052, 0.048]) * height_px, hair)
    face = [middle + 0.016 * height_px * ahead, chin]
    _capsule(picture, face, np.array([0.045, 0.029]) * height_px, skin)
    fringe = crown + height_px * (0.016 * up + 0.012 * ahead)
    _capsule(picture, [fringe, crown], np.array([0.034, 0.042]) * height_px, hair)
    for side in ('left', 'right'):
        ear = at[f'{side}_ear']
        if ear[2] < ears[2] + 0.015 * height_px:
            _capsule(picture, [ear - 0.008 * height_px * up,
                               ear + 0.008 * height_px * up],
                     0.009 * height_px, skin * 0.9)
        eye = at[f'{side}_eye']
        # On the far side of the head it is not seen.
        if eye[2] < ears[2] + 0.008 * height_px:
            inner, outer = at[f'{side}_eye_inner'], at[f'{side}_eye_outer']
            _capsule(picture, [inner, outer], 0.006 * height_px,
                     np.array([235.0, 232, 228]))
            _capsule(picture, [eye], 0.005 * height_px, np.array([40.0, 28, 20]))
            raised = 0.014 * height_px * up
            _capsule(picture, [inner + raised, outer + raised], 0.003 * height_px, hair)
    if ahead[2] < 0.25:
        bridge = eyes + 0.002 * height_px * up
        _capsule(picture, [bridge, at['nose']],
                 np.array([0.004, 0.009]) * height_px, skin * 0.95)
        _capsule(picture, [at['mouth_left'], at['mouth_right']], 0.005 * height_px,
                 np.array([150.0, 62, 60]) * 0.6 + skin * 0.3)
