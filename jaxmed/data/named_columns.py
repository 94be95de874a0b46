"""Landmarks in a table with names of columns; see landmark_files."""

import io

import numpy as np

from jaxmed.data.landmark_cells import (
    check_joints,
    fold_joint,
    parse_lines,
)
from jaxmed.errors import InputError
from jaxmed.pose.skeletons import find_skeleton

_AXES = ('x', 'y', 'z', 'visibility')
_TIMES = {  # column of time stamps -> its unit in seconds
    'times': 1.0, 'time': 1.0, 'seconds': 1.0, 'timestamp': 1.0, 'timestamps': 1.0,
    'timems': 1e-3, 'milliseconds': 1e-3, 'timestampms': 1e-3,
}


def read_table(path, lines, header, skeleton, rate_hz):
    """Reads the lines of a table.

    Args:
        path: what errors call it.
        lines: (number in the file, text) of each, the header first.
        header: cells of the first line.
        skeleton: Skeleton.
        rate_hz: frames a second, where there is no column of time.

    Returns:
        time_s [T]; float64 [T, J, 4], x y z and visibility, NaN where not told; counts.

    Raises:
        InputError: as landmark_files.read_motion.
    """
    for separator, name in ((';', 'semicolons'), ('\t', 'tabs')):
        if separator in lines[0][1] and len(header) == 1:
            raise InputError(path, f'separated by {name}, commas are needed')
    places, time_column = _find_columns(path, header, skeleton)
    if len(lines) == 1:
        raise InputError(path, 'names of columns and no frames')
    wanted = [*places, *([] if time_column is None else [time_column[0]])]
    kept = [place for place in wanted if place is not None]
    table = parse_lines(path, lines[1:], len(header), kept)
    columns = iter(table.T)
    unknown = np.full(len(table), np.nan)
    values = np.stack(
        [unknown if place is None else next(columns) for place in places], axis=-1)
    values = values.reshape(len(table), len(skeleton.joints), 4)
    told = np.array([place is not None for place in places[3::4]])
    seen = np.isfinite(values[..., :3]).all(axis=-1)
    if np.any(strange := told & seen & np.isnan(values[..., 3])):
        row, joint = np.argwhere(strange)[0]
        raise InputError(
            path, f'line {lines[1 + row][0]}: no visibility of '
            f'{skeleton.joints[joint]}')
    if time_column is None:
        time_s = np.arange(len(table)) / rate_hz
    else:
        time_s = next(columns) * time_column[1]
        _check_times(path, lines, time_s)
    return time_s, values, {'layout': 'named columns'}


def _check_times(path, lines, time_s):
    strange = ~np.isfinite(time_s)
    if strange.any():
        raise InputError(
            path, f'line {lines[1 + int(strange.argmax())][0]}: no finite time')
    late = ~(np.diff(time_s) > 0)
    if late.any():
        row = 1 + int(late.argmax())
        raise InputError(path, f'line {lines[1 + row][0]}: time does not increase')


def _find_columns(path, header, skeleton):
    """Places of x, y, z and visibility of each joint, and (place, unit) of time."""
    axes, folded = {}, {}
    for place, cell in enumerate(header):
        axis, _, name = cell.strip().partition('_')
        if axis.lower() in _AXES and name:
            key = axis.lower(), fold_joint(name)
            if key in axes:
                raise InputError(path, f'column {cell.strip()!r} is there twice')
            axes[key] = place
        folded.setdefault(fold_joint(cell), place)
    found = {name for axis, name in axes if axis != 'visibility'}
    if not found:
        raise InputError(path, 'no columns x_NAME, y_NAME and z_NAME of joints')
    check_joints(path, found, skeleton)
    for name in skeleton.joints:
        for axis in 'xyz':
            if (axis, fold_joint(name)) not in axes:
                raise InputError(path, f'no column {axis}_{name}')
    times = [(folded[name], unit) for name, unit in _TIMES.items() if name in folded]
    return [axes.get((axis, fold_joint(name))) for name in skeleton.joints
            for axis in _AXES], times[0] if times else None


def format_table(motion):
    """Joints, visibilities and time stamps of a Motion as text, with all digits."""
    names = find_skeleton(motion.skeleton).joints
    header = ['time_s', *(f'{axis}_{name}' for name in names for axis in _AXES)]
    table = np.concatenate([
        motion.time_s[:, None],
        np.concatenate([motion.joints, motion.visibility[..., None]], axis=-1).reshape(
            len(motion.time_s), -1)], axis=1)
    text = io.StringIO()
    # 17 digits tell any float64, 9 any float32.
    np.savetxt(text, table, delimiter=',', header=','.join(header), comments='',
               fmt=['%.17g'] + ['%.9g'] * (len(header) - 1))
    return text.getvalue()
