"""Skeletons on pictures, and side by side.

All pictures are uint8 RGB [H, W, 3]. Nothing that is given is changed.
"""

import cv2
import numpy as np

from jaxmed.errors import ConfigError

# Told apart by people who see few colours, and on skin, grass and walls alike.
LEFT, RIGHT, MIDDLE = (255, 150, 20), (40, 150, 255), (245, 245, 245)
FONT = cv2.FONT_HERSHEY_SIMPLEX
_DARK, _GREY, _PAPER = (15, 15, 15), (150, 150, 150), (250, 250, 247)
_FAINT = 0.4  # opacity of what is hidden
_FAR_PX = 1e7  # beyond that no float tells where a line crosses the edge
_FRACTION_BITS = 4  # of a pixel, in OpenCV's fixed-point places


def draw_pose(rgb, joints, visibility, *, skeleton, visible_from, hidden):
    """A skeleton on a picture.

    The person's left is orange, right is blue, bones between the sides are white; a
    dark rim keeps all of them legible on any ground. Joints that are NaN or ten million
    pixels away are left out with their bones, what lies outside the picture
    is cut off.

    Args:
        rgb: uint8 [H, W, 3].
        joints: [J, 2 or 3], x and y in pixels of `rgb`; z is not drawn.
        visibility: [J] in [0, 1].
        skeleton: skeletons.Skeleton of J joints.
        visible_from: the least visibility of a joint that is drawn in full.
        hidden: 'faint' or 'omit', for joints below it and their bones.

    Returns:
        uint8 [H, W, 3], another array.

    Raises:
        ConfigError: `hidden` is neither.
        ValueError: another number of joints, or not an RGB picture.
    """
    if hidden not in ('faint', 'omit'):
        raise ConfigError('hidden', f"{hidden!r} is neither 'faint' nor 'omit'")
    picture = copy_picture(rgb)
    places = np.asarray(joints, np.float64)[:, :2]
    visibility = np.asarray(visibility, np.float64)
    if len(places) != len(skeleton.joints) or visibility.shape != places.shape[:1]:
        raise ValueError(
            f'{len(places)} joints and {visibility.shape} visibilities, expected '
            f'{len(skeleton.joints)} ({skeleton.name})')
    lines, is_dot, side = _find_lines(skeleton)
    height, width = picture.shape[:2]
    thickness = max(1.0, min(height, width) / 180)
    margin = 4 * thickness
    starts, ends, inside = _clip(
        places[lines[:, 0]], places[lines[:, 1]],
        -margin, np.array([width, height]) + margin)
    ends = np.stack([starts, ends], axis=1)
    seen = (visibility >= visible_from)[lines].all(axis=1)
    faint = inside & ~seen
    if hidden == 'faint' and faint.any():
        target = picture.copy()
        _draw_lines(target, ends[faint], is_dot[faint], side[faint], thickness)
        low = np.maximum(np.floor(ends[faint].min(axis=(0, 1)) - margin), 0).astype(int)
        high = np.ceil(ends[faint].max(axis=(0, 1)) + margin).astype(int)
        box = slice(low[1], max(high[1], 0)), slice(low[0], max(high[0], 0))
        if picture[box].size:
            picture[box] = cv2.addWeighted(
                target[box], _FAINT, picture[box], 1 - _FAINT, 0)
    full = inside & seen
    _draw_lines(picture, ends[full], is_dot[full], side[full], thickness)
    return picture


def _find_lines(skeleton):
    """Bones and joints as pairs of joints [n, 2]; which are joints; whose side.

    A joint is a line of no length: its round ends make a dot.
    """
    bones = np.array(skeleton.bones, np.int32).reshape(-1, 2)
    lines = np.concatenate(
        [bones, np.arange(len(skeleton.joints))[:, None].repeat(2, axis=1)])
    sides = _sides(skeleton)[lines]
    side = np.where((sides == sides[:, :1]).all(axis=1), sides[:, 0], 0)
    # From the body's middle to a limb, the limb's side.
    side = np.where(sides.prod(axis=1) == 0, sides.sum(axis=1), side)
    return lines, np.arange(len(lines)) >= len(bones), side


def _draw_lines(picture, ends, is_dot, side, thickness):
    """Rims first, then bones, then joints; [n, 2, 2] of (x, y), changes the picture."""
    for rim in (True, False):
        for dots in (False, True):
            breadth = thickness * (1.9 if dots else 1) + (rim * 0.8 * thickness)
            for number, colour in ((0, MIDDLE), (1, LEFT), (-1, RIGHT)):
                these = (is_dot == dots) & (side == number)
                draw_polylines(
                    picture, ends[these], _DARK if rim else colour, breadth)


def draw_skeleton(
    joints, visibility, time_s, *, skeleton, phases, size_hw, visible_from,
    view='front',
):
    """Stick figures side by side on a plain ground: phases of a movement.

    For landmarks that come without a picture. All phases have one scale and one
    ground, so that a bend is shorter and a jump higher; each stands in the middle of
    its own column, wherever the person went.

    Args:
        joints: [T, J, 3] as in skeletons.Motion, in any unit.
        visibility: [T, J] in [0, 1].
        time_s: [T].
        skeleton: skeletons.Skeleton of J joints.
        phases: figures, evenly over the time in which somebody is seen: of frames with
            half of the joints, or as many as any has.
        size_hw: of the picture, in pixels.
        visible_from: as in `draw_pose`; joints below it are faint.
        view: 'front', or 'side' with what is nearer to the viewer on the left.

    Returns:
        uint8 [H, W, 3]; 'nobody is seen' where nobody is.

    Raises:
        ConfigError: `view` is neither.
    """
    if view not in ('front', 'side'):
        raise ConfigError('view', f"{view!r} is neither 'front' nor 'side'")
    joints = np.asarray(joints, np.float64)
    places = joints[..., [0 if view == 'front' else 2, 1]]
    found = np.isfinite(places).all(axis=-1)
    height, width = size_hw
    picture = np.full((height, width, 3), _PAPER, np.uint8)
    share = found.mean(axis=1)
    if not share.any():
        _write_below(picture, 'nobody is seen', width / 2, height / 2)
        return picture
    frames = np.flatnonzero(share >= min(0.5, share.max()))
    middle = places[:, list(skeleton.hips), 0].mean(axis=1)
    bottom, tall, half_width = _measure(places, found, middle)
    instants = np.linspace(time_s[frames[0]], time_s[frames[-1]], phases)
    seen_s = np.asarray(time_s)[frames]
    chosen = frames[np.abs(seen_s[None] - instants[:, None]).argmin(axis=1)]
    column, edge, foot = width / phases, 0.06 * height, 0.12 * height
    scale = min(
        (height - edge - foot) / max(tall, 1e-9), column / 2.1 / max(half_width, 1e-9))
    ground_y = height - foot
    cv2.line(picture, (0, round(ground_y)), (width, round(ground_y)), _GREY, 1)
    for number, frame in enumerate(chosen):
        centre = column * (number + 0.5)
        origin = middle[frame]
        if not np.isfinite(origin):
            origin = np.nanmedian(places[frame, :, 0])
        drawn = np.stack([
            centre + (places[frame, :, 0] - origin) * scale,
            ground_y + (places[frame, :, 1] - bottom) * scale], axis=1)
        # Each in its column: an outlier doesn't cross its neighbours.
        left, right = round(column * number), round(column * (number + 1))
        drawn[:, 0] -= left
        picture[:, left:right] = draw_pose(
            np.ascontiguousarray(picture[:, left:right]), drawn, visibility[frame],
            skeleton=skeleton, visible_from=visible_from, hidden='faint')
        _write_below(picture, f'{float(time_s[frame]):.1f} s', centre, foot)
    return picture


def _measure(places, found, middle):
    """Where the ground is, and how tall and how wide (to one side) all figures are."""
    # Some sensors jump by metres in a few frames; these don't set the scale.
    top, bottom = np.quantile(places[..., 1][found], [0.005, 0.995])
    beside = np.abs(places[..., 0] - middle[:, None])
    beside = beside[np.isfinite(beside)]
    return bottom, bottom - top, np.quantile(beside, 0.99) if len(beside) else 0.0


def _write_below(picture, words, centre, foot):
    height = len(picture)
    size = 0.45 * height / 360
    (length, _), _ = cv2.getTextSize(words, FONT, size, 1)
    corner = round(centre - length / 2), round(height - foot / 3)
    cv2.putText(picture, words, corner, FONT, size, (60, 60, 60), 1, cv2.LINE_AA)


def copy_picture(rgb):
    """Another array of the same picture; ValueError for what is none."""
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or not rgb.size:
        raise ValueError(
            f'picture is {rgb.dtype} {rgb.shape}, expected uint8 [H, W, 3]')
    return np.array(rgb, order='C')


def _sides(skeleton):
    """Of each joint: 1 left, -1 right, 0 the body's middle."""
    return np.array([
        0 if other == number else 1 if 'left' in name.lower() else -1
        for number, (name, other) in enumerate(zip(skeleton.joints, skeleton.mirror))])


def _clip(starts, ends, low, high):
    """Cuts lines [n, 2] to a box (Liang and Barsky); also whether any is left."""
    # NaN is no less than anything.
    known = ((np.abs(starts) < _FAR_PX) & (np.abs(ends) < _FAR_PX)).all(axis=1)
    starts, ends = (np.where(known[:, None], place, 0.0) for place in (starts, ends))
    along = ends - starts
    level = np.abs(along) < 1e-9
    step = np.where(level, 1.0, along)
    first, second = (low - starts) / step, (high - starts) / step
    within = (starts >= low) & (starts <= high)
    # What runs along an edge of the box is within it all the way, or never.
    never = np.where(within, -np.inf, np.inf)
    enter = np.where(level, never, np.minimum(first, second)).max(axis=1)
    leave = np.where(level, -never, np.maximum(first, second)).min(axis=1)
    enter, leave = np.maximum(enter, 0.0), np.minimum(leave, 1.0)
    inside = known & (enter <= leave)
    enter, leave = (np.where(inside, share, 0.0)[:, None] for share in (enter, leave))
    return starts + enter * along, starts + leave * along, inside


def draw_polylines(picture, lines, colour, thickness):
    """Lines [n, 2, 2] of (x, y) in pixels; changes the picture."""
    if len(lines):
        places = np.round(lines * 2 ** _FRACTION_BITS).astype(np.int32)
        cv2.polylines(picture, list(places), False, colour, max(1, round(thickness)),
                      cv2.LINE_AA, _FRACTION_BITS)
