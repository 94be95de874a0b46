"""Landmarks that others have found already: CSV and JSON files -> Motion, and back.

Three layouts, told apart by what is in the file; any of them may be gzipped:

    named columns   a line of names, x_NAME, y_NAME, z_NAME and perhaps visibility_NAME
                    of each joint, in any order, and perhaps time_s; a row is a frame.
                    What `write_motion` writes. Axes and units are those of Motion.
    KIMORE          no names: of each of 25 Kinect joints x, y, z in metres and how it
                    is tracked (0 not, 1 inferred, 2 tracked); a row is a frame, and a
                    longer row one with several bodies (Capecci et al. 2019).
    Keraal          JSON, positions -> number of the frame -> joint -> [x, y, z] or
                    [x, y, z, visibility]; x and y are shares of the picture's sides,
                    so its size must be told, which is not in the file.

Kinect's x grows to the sensor's left, its y up and its z away from the sensor
(Microsoft, CameraSpacePoint). Motion's x goes to the picture's right and its y down, so
both change their sign, which is half a turn about z: left stays left. In files of
KIMORE, where people face the sensor, the left shoulder has the smaller x, as it must.
"""

import csv
import gzip
import io
import json
import os
import zlib
from pathlib import Path

import numpy as np

from jaxmed.data import listings
from jaxmed.errors import InputError
from jaxmed.pose.skeletons import (
    BLAZEPOSE_DEPTH,
    KINECT,
    Motion,
    Skeleton,
    find_skeleton,
)

SUFFIXES = ('.csv', '.csv.gz', '.json', '.json.gz')

_TABLES = ('ratings.csv', 'scores.csv', 'labels.csv')

_MAX_BYTES = 256 << 20  # of a file, decompressed
_FRAME_BYTES = 16 << 10  # of a frame; 33 joints in JSON take 3 KiB
_CHUNK_BYTES = 1 << 20
_GZIP = b'\x1f\x8b'

_AXES = ('x', 'y', 'z', 'visibility')
_TIMES = {  # column of time stamps -> its unit in seconds
    'times': 1.0, 'time': 1.0, 'seconds': 1.0, 'timestamp': 1.0, 'timestamps': 1.0,
    'timems': 1e-3, 'milliseconds': 1e-3, 'timestampms': 1e-3,
}

# Visibility of a Kinect joint by its tracking state. An inferred one is a guess from
# its neighbours, less sure than a tracked one, yet the sensor stands by it: above the
# 0.6 of paper 000, below which joints are dropped.
STATE_VISIBILITY = (0.0, 0.7, 1.0)
_CELLS = 4 * len(KINECT.joints)  # of a body
_IN_SHARES = ('keraal',)  # layouts without pixels or metres
_MAX_BODIES = 6  # that a Kinect follows

# How far the middle of a body gets between two frames: what a landmark may tremble,
# and how fast people move. Beyond it is somebody else, or a ghost. Who is lost for long
# may be anywhere, but whoever appears across the room may as well be another one.
_TREMBLE_M, _SPEED_M_S, _REACH_M = 0.2, 3.0, 1.0
_LOOK_BACK = 64  # runs of frames that may precede a run


def read_motion(
    path, *, skeleton, max_frames, max_seconds, rate_hz, size_hw=None,
):
    """Reads a file of landmarks.

    Of KIMORE's bodies one is followed: runs of frames are made in which a body moves
    no faster than people do, and of all chains of runs that one could have moved along
    the longest is taken, where a frame counts by the mean visibility of its joints. So
    neither the first of two bodies is believed nor the first frame, and whoever jumps
    by metres for a while is absent for that while.

    Args:
        path: file, CSV or JSON, may be gzipped.
        skeleton: Skeleton or its name; whose joints the file must have.
        max_frames: most frames; checked before numbers are parsed.
        max_seconds: from the first frame to the last, at most.
        rate_hz: frames a second, for files without time stamps.
        size_hw: height and width of the picture in pixels, for layouts whose
            coordinates are shares of its sides (z, like x, of its width, and as deep
            as BlazePose's networks tell it); others keep their numbers.

    Returns:
        Motion. A joint is NaN, with visibility 0, if a coordinate is missing, not
        finite or, of Kinect's, all are 0; without a column of visibilities those of
        joints that are there are 1. time_s are the file's, or k / rate_hz. Counts:
        'layout', 'frames', 'frames_nobody' (without a joint), and of KIMORE
        'frames_several_people', 'frames_jumped' (somebody is there, but not the one
        that is followed: a frame with nobody then), 'jumps' (runs of these) and
        'joints_inferred_share'.

    Raises:
        InputError: no such file, damaged, of another layout, with another number of
            joints or names of joints, text where numbers should be, time that doesn't
            increase or isn't finite, visibilities outside [0, 1], no frames, too many
            or for too long, nobody in any of them, or shares of a picture whose size
            isn't given.
    """
    if not isinstance(skeleton, Skeleton):
        skeleton = find_skeleton(skeleton)
    data = _read_bytes(path, max_frames)
    try:
        text = data.decode('utf-8-sig')
    except UnicodeDecodeError:
        raise InputError(path, 'not text (UTF-8), so no landmarks') from None
    start = text.lstrip()[:1]
    if not start:
        raise InputError(path, 'empty file')
    if '\0' in text:
        raise InputError(path, 'not text, so no landmarks')
    if start in '{[':
        time_s, values, counts = _read_json(path, text, skeleton, max_frames, rate_hz)
    else:
        time_s, values, counts = _read_csv(path, text, skeleton, max_frames, rate_hz)
    with np.errstate(over='ignore'):
        seconds = time_s[-1] - time_s[0]
        values = values.astype(np.float32)
    if not seconds <= max_seconds:
        raise InputError(
            path, f'from its first frame to its last are {seconds:.6g} s, limit '
            f'{max_seconds:g} (is its time in seconds?)')
    joints, visibility = values[..., :3], values[..., 3]
    known = np.isfinite(joints).all(axis=-1)
    if not known.any():
        raise InputError(path, f'nobody is in any of its {len(known)} frames')
    shares = counts['layout'] in _IN_SHARES
    if shares and size_hw is None:
        raise InputError(
            path, "coordinates are shares of a picture's sides: set landmark_size_hw "
            'to its height and width')
    if shares:
        depth = 1 if skeleton.depth else BLAZEPOSE_DEPTH
        joints = joints * np.float32([size_hw[1], size_hw[0], size_hw[1] * depth])
    visibility = np.where(np.isnan(visibility), 1, visibility)
    if np.any(known & ((visibility < -1e-3) | (visibility > 1.001))):
        raise InputError(path, 'visibilities outside 0 to 1')
    return Motion(
        np.where(known[..., None], joints, np.float32(np.nan)),
        np.where(known, np.clip(visibility, 0, 1), 0).astype(np.float32),
        time_s - time_s[0], skeleton.name,
        size_hw=tuple(size_hw) if shares else None,
        counts=counts | {
            'frames': len(known),
            'frames_nobody': int(np.sum(~known.any(axis=1)))},
    )


def write_motion(path, motion):
    """Writes joints, visibilities and time stamps as named columns.

    Numbers have the digits it takes to read the same ones back. Neither world
    coordinates nor the frame's size nor counts are written. A file that is there
    already is replaced, whole or not at all.

    Args:
        path: to write; '.csv' or '.csv.gz'.
        motion: Motion.

    Raises:
        InputError: another suffix, or it can't be written.
    """
    path = Path(path)
    if not path.name.lower().endswith(('.csv', '.csv.gz')):
        raise InputError(path, 'landmarks are written as .csv or .csv.gz')
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
    data = text.getvalue().encode()
    if path.name.lower().endswith('.gz'):
        data = gzip.compress(data, mtime=0)  # no time in it: equal motions, equal files
    partial = path.with_name(f'.{path.name}.partial')
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(path, error.strerror) from None


def find_motions(path):
    """Files of landmarks in a folder and those below, sorted.

    Hidden ones are skipped, and so are tables of ratings that lie beside them.

    Args:
        path: folder, or a file, which is returned as it is.

    Returns:
        list of Path, at least one.

    Raises:
        InputError: no such file or folder, or none in it.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(path, 'no such file or folder')
    found = sorted(
        file for file in path.rglob('*')
        if is_landmarks(file) and file.is_file()
        and not any(part.startswith('.') for part in file.relative_to(path).parts))
    if not found:
        raise InputError(path, f'no files of landmarks ({" ".join(SUFFIXES)})')
    return found


def is_landmarks(path):
    """Whether a name is that of a file of landmarks, and not of ratings beside it."""
    name = Path(path).name.lower()
    return name.endswith(SUFFIXES) and name not in _TABLES


def _read_bytes(path, max_frames):
    limit = min(_MAX_BYTES, _CHUNK_BYTES + max_frames * _FRAME_BYTES)
    data = bytearray()
    try:
        if not Path(path).is_file():  # opening a named pipe would wait forever
            raise InputError(
                path, 'not a file' if Path(path).exists() else 'no such file')
        with open(path, 'rb') as file:
            packed = file.read(len(_GZIP)) == _GZIP
            file.seek(0)
            source = gzip.GzipFile(fileobj=file) if packed else file
            while chunk := source.read(_CHUNK_BYTES):
                data += chunk
                if len(data) > limit:  # of a bomb, no more than this is unpacked
                    raise InputError(
                        path, f'over {limit >> 20} MiB, the limit for {max_frames} '
                        'frames')
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(path, f'damaged or truncated: {error}') from None
    except OSError as error:
        raise InputError(path, error.strerror) from None
    return bytes(data)


def _read_csv(path, text, skeleton, max_frames, rate_hz):
    """-> time_s [T], values [T, J, 4], counts."""
    lines = [
        (number, line) for number, line in enumerate(text.splitlines(), start=1)
        if line.strip()]
    first = _cells(path, *lines[0])
    # Numbers with a word among them are a damaged frame, no names.
    named = 2 * sum(map(_is_number, first)) < len(first)
    if len(lines) - named > max_frames:
        raise InputError(
            path, f'{len(lines) - named} frames, limit {max_frames}')
    if not named:
        return _read_kimore(path, lines, skeleton, rate_hz)
    for separator, name in ((';', 'semicolons'), ('\t', 'tabs')):
        if separator in lines[0][1] and len(first) == 1:
            raise InputError(path, f'separated by {name}, commas are needed')
    places, time_column = _find_columns(path, first, skeleton)
    if len(lines) == 1:
        raise InputError(path, 'names of columns and no frames')
    wanted = [*places, *([] if time_column is None else [time_column[0]])]
    kept = [place for place in wanted if place is not None]
    table = _parse(path, lines[1:], len(first), kept)
    columns = iter(table.T)
    unknown = np.full(len(table), np.nan)
    values = np.stack(
        [unknown if place is None else next(columns) for place in places], axis=-1)
    values = values.reshape(len(table), len(skeleton.joints), 4)
    if time_column is None:
        time_s = np.arange(len(table)) / rate_hz
    else:
        time_s = next(columns) * time_column[1]
        strange = ~np.isfinite(time_s)
        if strange.any():
            raise InputError(
                path, f'line {lines[1 + int(strange.argmax())][0]}: no finite time')
        late = ~(np.diff(time_s) > 0)
        if late.any():
            row = 1 + int(late.argmax())
            raise InputError(path, f'line {lines[1 + row][0]}: time does not increase')
    return time_s, values, {'layout': 'named columns'}


def _find_columns(path, header, skeleton):
    """Places of x, y, z and visibility of each joint, and (place, unit) of time."""
    axes, folded = {}, {}
    for place, cell in enumerate(header):
        axis, _, name = cell.strip().partition('_')
        if axis.lower() in _AXES and name:
            key = axis.lower(), _fold(name)
            if key in axes:
                raise InputError(path, f'column {cell.strip()!r} is there twice')
            axes[key] = place
        folded.setdefault(_fold(cell), place)
    found = {name for axis, name in axes if axis != 'visibility'}
    if not found:
        raise InputError(path, 'no columns x_NAME, y_NAME and z_NAME of joints')
    _check_names(path, found, skeleton)
    for name in skeleton.joints:
        for axis in 'xyz':
            if (axis, _fold(name)) not in axes:
                raise InputError(path, f'no column {axis}_{name}')
    times = [(folded[name], unit) for name, unit in _TIMES.items() if name in folded]
    return [axes.get((axis, _fold(name))) for name in skeleton.joints
            for axis in _AXES], times[0] if times else None


def _check_names(path, found, skeleton):
    needed = {_fold(name): name for name in skeleton.joints}
    if len(found) != len(needed):
        raise InputError(
            path, f'{len(found)} joints, {len(needed)} are needed ({skeleton.name})')
    missing = [name for folded, name in needed.items() if folded not in found]
    if missing:
        raise InputError(path, f'no joint {missing[0]!r} ({skeleton.name})')


def _fold(name):
    """Without case, spaces, underscores and a number behind it: 'left_pinky_1'."""
    name = listings.fold_name(name).replace(' ', '')
    return name.rstrip('0123456789') or name


def _is_number(cell):
    try:
        float(cell or 'nan')
    except ValueError:
        return False
    return True


def _cells(path, number, line):
    try:
        return [cell.strip() for cell in next(csv.reader([line]))]
    except csv.Error as error:
        raise InputError(path, f'line {number}: {error}') from None


def _parse(path, lines, width, kept):
    """Lines of `width` cells -> float64 [lines, columns kept]; an empty cell is NaN."""
    commas = np.array([line.count(',') for _, line in lines])
    if np.all(commas == width - 1):
        try:
            return np.loadtxt(
                [line for _, line in lines], delimiter=',', comments=None, ndmin=2,
                usecols=kept, quotechar='"')
        except ValueError:  # empty cells, or text: found out cell by cell
            pass
    table = np.empty((len(lines), len(kept)))
    for row, (number, line) in enumerate(lines):
        cells = _cells(path, number, line)
        if len(cells) != width:
            raise InputError(
                path, f'line {number}: {len(cells)} cells for {width} columns')
        for place, column in enumerate(kept):
            # What the cell says isn't quoted: it may be somebody's name.
            if not _is_number(cells[column]):
                raise InputError(
                    path, f'line {number}: column {column + 1} holds no number')
            table[row, place] = float(cells[column] or 'nan')
    return table


def _read_kimore(path, lines, skeleton, rate_hz):
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
    table = _parse(path, filled, _CELLS * most, range(_CELLS * most))
    bodies = table.reshape(len(table), most, -1, 4)
    joints, states = bodies[..., :3], bodies[..., 3]
    known = np.isfinite(joints).all(axis=-1) & np.any(joints != 0, axis=-1)
    strange = known & ~np.isin(states, range(len(STATE_VISIBILITY)))
    if strange.any():
        number = filled[int(np.argwhere(strange)[0, 0])][0]
        raise InputError(path, f'line {number}: a tracking state that is not 0, 1 or 2')
    states = np.where(known, states, 0).astype(int)
    visibility = np.array(STATE_VISIBILITY)[states]
    joints = np.where(known[..., None], joints * [-1.0, -1.0, 1.0], np.nan)
    time_s = np.arange(len(table)) / rate_hz
    chosen = _follow(joints, visibility, time_s)

    frames = np.arange(len(table))
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


def _follow(joints, visibility, time_s):
    """Which body is the one, of each frame; -1 where it is absent.

    Args:
        joints: [T, P, J, 3], metres; NaN where unknown.
        visibility: [T, P, J]; 0 where unknown.
        time_s: [T].

    Returns:
        int [T].
    """
    known = np.isfinite(joints[..., 0])
    present = known.any(axis=2)
    weights = visibility.mean(axis=2) * present

    def far_m(before, after):
        # The median of its joints: a hand that flies off doesn't move the body.
        steps_m = np.sort(np.linalg.norm(after - before, axis=-1), axis=-1)
        count = np.isfinite(steps_m).sum(axis=-1)  # NaN, of joints not in both, is last
        middle = np.take_along_axis(steps_m, (count // 2)[..., None].clip(
            max=steps_m.shape[-1] - 1), axis=-1)[..., 0]
        return np.where(count > 0, middle, np.inf)

    def reach_m(seconds):
        return np.minimum(_TREMBLE_M + _SPEED_M_S * seconds, _REACH_M)

    linked = np.zeros(present.shape, bool)
    linked[1:] = present[1:] & present[:-1] & (
        far_m(joints[:-1], joints[1:]) <= reach_m(np.diff(time_s))[:, None])
    goes_on = np.zeros(present.shape, bool)
    goes_on[:-1] = linked[1:]
    # Column by column, so that the n-th start and the n-th end are of one run.
    body, first = np.nonzero((present & ~linked).T)
    _, last = np.nonzero((present & ~goes_on).T)
    order = np.argsort(first, kind='stable')
    body, first, last = body[order], first[order], last[order]
    sums = np.concatenate([np.zeros((1, weights.shape[1])), np.cumsum(weights, axis=0)])
    best = sums[last + 1, body] - sums[first, body]
    before = np.full(len(best), -1)
    for run in range(1, len(best)):
        earlier = np.arange(max(run - _LOOK_BACK, 0), run)
        seconds = time_s[first[run]] - time_s[last[earlier]]
        steps_m = far_m(
            joints[last[earlier], body[earlier]], joints[first[run], body[run]])
        able = (last[earlier] < first[run]) & (steps_m <= reach_m(seconds))
        if able.any():
            before[run] = earlier[np.where(able, best[earlier], -1.0).argmax()]
            best[run] += best[before[run]]
    chosen = np.full(len(time_s), -1)
    run = int(best.argmax()) if len(best) else -1
    while run >= 0:
        chosen[first[run]:last[run] + 1] = body[run]
        run = before[run]
    return chosen


def _read_json(path, text, skeleton, max_frames, rate_hz):
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
        if not _is_number(key) or not np.isfinite(float(key or 'nan')):
            raise InputError(path, f'frame {key[:20]!r} is no number')
        numbers.append(float(key))
    order = np.argsort(numbers, kind='stable')
    numbers = np.array(numbers)[order]
    if np.any(np.diff(numbers) <= 0):
        raise InputError(path, 'a frame is there twice')
    frames = [list(positions.values())[place] for place in order]
    if not all(isinstance(frame, dict) or frame is None for frame in frames):
        raise InputError(path, 'a frame is not joint -> [x, y, z]')
    frames = [{_fold(name): point for name, point in (frame or {}).items()}
              for frame in frames]
    _check_names(path, set().union(*frames), skeleton)
    names = [_fold(name) for name in skeleton.joints]
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
