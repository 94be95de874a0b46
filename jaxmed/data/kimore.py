"""KIMORE's rows of 25 Kinect joints, of one body or several, of which one is followed.

Of each joint x, y, z in metres and how it is tracked (Capecci et al. 2019). Kinect's x
grows to the sensor's left, its y up and its z away from the sensor (Microsoft,
CameraSpacePoint). Motion's x goes to the picture's right and its y down, so both change
their sign, which is half a turn about z: left stays left. In files of KIMORE, where
people face the sensor, the left shoulder has the smaller x, as it must.
"""

import numpy as np

from jaxmed.data.landmark_cells import parse_lines
from jaxmed.errors import InputError
from jaxmed.pose.skeletons import KINECT

# Visibility of a Kinect joint by its tracking state. An inferred one is a guess from
# its neighbours, less sure than a tracked one, yet the sensor stands by it: above the
# 0.6 of paper 000, below which joints are dropped.
_STATE_VISIBILITY = (0.0, 0.7, 1.0)
_CELLS = 4 * len(KINECT.joints)  # of a body
_MAX_BODIES = 6  # that a Kinect follows

# How far the middle of a body gets between two frames: what a landmark may tremble,
# and how fast people move. Beyond it is somebody else, or a ghost. Who is lost for long
# may be anywhere, but whoever appears across the room may as well be another one.
_TREMBLE_M, _SPEED_M_S, _REACH_M = 0.2, 3.0, 1.0
_LOOK_BACK = 64  # runs of frames that may precede a run


def read_rows(path, lines, skeleton, rate_hz):
    """Reads the lines of a file and follows one body.

    Runs of frames are made in which a body moves no faster than people do, and of all
    chains of runs that one could have moved along the longest is taken, where a frame
    counts by the mean visibility of its joints. So neither the first of two bodies is
    believed nor the first frame, and whoever jumps by metres for a while is absent for
    that while.

    Args:
        path: what errors call it.
        lines: (number in the file, text) of each.
        skeleton: Skeleton; KINECT, or it is refused.
        rate_hz: frames a second.

    Returns:
        time_s [T]; float64 [T, J, 4], x y z and visibility, NaN where unknown; counts.

    Raises:
        InputError: as landmark_files.read_motion.
    """
    joints, states = _read_bodies(path, lines, skeleton)
    known = np.isfinite(joints).all(axis=-1)
    visibility = np.array(_STATE_VISIBILITY)[states]
    time_s = np.arange(len(joints)) / rate_hz
    chosen = _follow(joints, visibility, time_s)

    frames = np.arange(len(joints))
    values = np.concatenate([joints, visibility[..., None]], axis=-1)[frames, chosen]
    values[chosen < 0] = np.nan
    present = known.any(axis=2)
    jumped = present.any(axis=1) & (chosen < 0)
    followed = (known[frames, chosen] & (chosen >= 0)[:, None])
    inferred = followed & (states[frames, chosen] == 1)
    return time_s, values, {
        'layout': 'kimore',
        'frames_several_people': int(np.sum(present.sum(axis=1) > 1)),
        'frames_jumped': int(jumped.sum()),
        'jumps': int(np.sum(np.diff(jumped.astype(int), prepend=0) == 1)),
        'joints_inferred_share': float(inferred.sum() / max(followed.sum(), 1)),
    }


def _read_bodies(path, lines, skeleton):
    """Joints [T, P, J, 3] in Motion's axes, NaN where unknown; states [T, P, J]."""
    rows = []
    for number, line in lines:
        cells = 1 + line.count(',')
        if cells % _CELLS == 1 and line.rstrip().endswith(','):
            line, cells = line.rstrip()[:-1], cells - 1
        bodies, rest = divmod(cells, _CELLS)
        if rest or bodies > _MAX_BODIES:
            joints = f'{cells // 4} joints' if cells % 4 == 0 else f'{cells} values'
            raise InputError(
                path, f'no names of columns, and line {number} has {joints}: '
                f'{len(KINECT.joints)} joints of x, y, z and tracking state are '
                f'needed, for 1 to {_MAX_BODIES} bodies')
        rows.append((number, line, bodies))
    if skeleton.name != KINECT.name:
        raise InputError(
            path, f'{len(KINECT.joints)} joints, {len(skeleton.joints)} are needed '
            f'({skeleton.name})')
    most = max(bodies for _, _, bodies in rows)
    filled = [
        (number, line + ',nan' * (_CELLS * (most - bodies)))
        for number, line, bodies in rows]
    table = parse_lines(path, filled, _CELLS * most, range(_CELLS * most))
    bodies = table.reshape(len(table), most, -1, 4)
    joints, states = bodies[..., :3], bodies[..., 3]
    finite = np.isfinite(joints)
    partly = finite.any(axis=-1) & ~finite.all(axis=-1)
    if partly.any():
        row, _, joint = np.argwhere(partly)[0]
        raise InputError(
            path, f'line {filled[row][0]}, joint {KINECT.joints[joint]}: some '
            'coordinates are no numbers')
    known = finite.all(axis=-1) & np.any(joints != 0, axis=-1)
    strange = known & ~np.isin(states, range(len(_STATE_VISIBILITY)))
    if strange.any():
        number = filled[int(np.argwhere(strange)[0, 0])][0]
        raise InputError(path, f'line {number}: a tracking state that is not 0, 1 or 2')
    return (np.where(known[..., None], joints * [-1.0, -1.0, 1.0], np.nan),
            np.where(known, states, 0).astype(int))


def _follow(joints, visibility, time_s):
    """Which body is the one, of each frame; -1 where it is absent.

    Args:
        joints: [T, P, J, 3], metres; NaN where unknown.
        visibility: [T, P, J]; 0 where unknown.
        time_s: [T].

    Returns:
        int [T].
    """
    present = np.isfinite(joints[..., 0]).any(axis=2)
    weights = visibility.mean(axis=2) * present
    body, first, last = _find_runs(joints, present, time_s)
    sums = np.concatenate([np.zeros((1, weights.shape[1])), np.cumsum(weights, axis=0)])
    best = sums[last + 1, body] - sums[first, body]
    before = np.full(len(best), -1)
    for run in range(1, len(best)):
        earlier = np.arange(max(run - _LOOK_BACK, 0), run)
        seconds = time_s[first[run]] - time_s[last[earlier]]
        steps_m = _far_m(
            joints[last[earlier], body[earlier]], joints[first[run], body[run]])
        able = (last[earlier] < first[run]) & (steps_m <= _reach_m(seconds))
        if able.any():
            before[run] = earlier[np.where(able, best[earlier], -1.0).argmax()]
            best[run] += best[before[run]]
    chosen = np.full(len(time_s), -1)
    run = int(best.argmax()) if len(best) else -1
    while run >= 0:
        chosen[first[run]:last[run] + 1] = body[run]
        run = before[run]
    return chosen


def _find_runs(joints, present, time_s):
    """Frames in which a body goes on: its place in the row, first and last, by first.
    """
    linked = np.zeros(present.shape, bool)
    linked[1:] = present[1:] & present[:-1] & (
        _far_m(joints[:-1], joints[1:]) <= _reach_m(np.diff(time_s))[:, None])
    goes_on = np.zeros(present.shape, bool)
    goes_on[:-1] = linked[1:]
    # Column by column, so that the n-th start and the n-th end are of one run.
    body, first = np.nonzero((present & ~linked).T)
    _, last = np.nonzero((present & ~goes_on).T)
    order = np.argsort(first, kind='stable')
    return body[order], first[order], last[order]


def _far_m(before, after):
    # The median of its joints: a hand that flies off doesn't move the body.
    steps_m = np.sort(np.linalg.norm(after - before, axis=-1), axis=-1)
    count = np.isfinite(steps_m).sum(axis=-1)  # NaN, of joints not in both, is last
    middle = np.take_along_axis(steps_m, (count // 2)[..., None].clip(
        max=steps_m.shape[-1] - 1), axis=-1)[..., 0]
    return np.where(count > 0, middle, np.inf)


def _reach_m(seconds):
    return np.minimum(_TREMBLE_M + _SPEED_M_S * seconds, _REACH_M)
