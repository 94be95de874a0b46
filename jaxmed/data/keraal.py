"""Keraal's JSON: positions -> number of the frame -> joint -> [x, y, z]."""

import json

import numpy as np

from jaxmed.data.landmark_cells import check_joints, fold_joint, is_number
from jaxmed.errors import InputError


def read_positions(path, text, skeleton, max_frames, rate_hz):
    """Reads a file.

    Args:
        path: what errors call it.
        text: of the file.
        skeleton: Skeleton.
        max_frames: most frames.
        rate_hz: frames a second.

    Returns:
        time_s [T]; float64 [T, J, 4], x y z in shares of the picture and visibility,
        NaN where unknown; counts.

    Raises:
        InputError: as landmark_files.read_motion.
    """
    numbers, frames = _read_frames(path, text, max_frames)
    check_joints(path, set().union(*frames), skeleton)
    names = [fold_joint(name) for name in skeleton.joints]
    values = np.full((len(frames), len(names), 4), np.nan)
    try:
        for place, frame in enumerate(frames):
            for joint, name in enumerate(names):
                point = frame.get(name)
                if point is not None:
                    if len(point) not in (3, 4) or isinstance(point, str):
                        raise TypeError
                    values[place, joint, :len(point)] = point
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            path, f'frame {numbers[place]:g}: a joint is not [x, y, z]') from None
    # Frames that were left out took their time as well.
    return (numbers - numbers[0]) / rate_hz, values, {'layout': 'keraal'}


def _read_frames(path, text, max_frames):
    """Numbers of the frames, increasing; of each a dict, folded name -> point."""
    try:
        positions = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(path, f'not JSON: {error}') from None
    if isinstance(positions, dict):
        positions = positions.get('positions')
    if not isinstance(positions, dict):
        raise InputError(
            path, 'JSON of another layout than positions -> frame -> joint -> '
            '[x, y, z]')
    if not positions:
        raise InputError(path, 'no frames')
    if len(positions) > max_frames:
        raise InputError(path, f'{len(positions)} frames, limit {max_frames}')
    numbers = []
    for key in positions:
        if not is_number(key) or not np.isfinite(float(key or 'nan')):
            raise InputError(path, f'frame {key[:20]!r} is no number')
        numbers.append(float(key))
    order = np.argsort(numbers, kind='stable')
    numbers = np.array(numbers)[order]
    if np.any(np.diff(numbers) <= 0):
        raise InputError(path, 'a frame is there twice')
    frames = [list(positions.values())[place] for place in order]
    if not all(isinstance(frame, dict) or frame is None for frame in frames):
        raise InputError(path, 'a frame is not joint -> [x, y, z]')
    return numbers, [
        {fold_joint(name): point for name, point in (frame or {}).items()}
        for frame in frames]
