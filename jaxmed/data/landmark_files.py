"""Landmarks that others have found already: CSV and JSON files -> Motion, and back.

Three layouts, told apart by what is in the file; any of them may be gzipped:

    named columns   a line of names, x_NAME, y_NAME, z_NAME and perhaps visibility_NAME
                    of each joint, in any order, and perhaps time_s; a row is a frame.
                    What `write_motion` writes. Axes and units are those of Motion, or
                    BlazePose's x and y are shares of the picture's sides, as MediaPipe
                    gives them: what lies nearly all from 0 to 1 is taken for these.
    KIMORE          no names: of each of 25 Kinect joints x, y, z in metres and how it
                    is tracked (0 not, 1 inferred, 2 tracked); a row is a frame, and a
                    longer row one with several bodies (Capecci et al. 2019).
    Keraal          JSON, positions -> number of the frame -> joint -> [x, y, z] or
                    [x, y, z, visibility]; x and y are shares of the picture's sides,
                    so its size must be told, which is not in the file.
"""

import gzip
import os
import zlib
from pathlib import Path

import numpy as np

from jaxmed.data import keraal, kimore, named_columns
from jaxmed.data.landmark_cells import is_number, split_cells
from jaxmed.errors import InputError
from jaxmed.pose.skeletons import BLAZEPOSE_DEPTH, Motion, Skeleton, find_skeleton

SUFFIXES = ('.csv', '.csv.gz', '.json', '.json.gz')

_TABLES = ('ratings.csv', 'scores.csv', 'labels.csv')

_MAX_BYTES = 256 << 20  # of a file, decompressed
_FRAME_BYTES = 16 << 10  # of a frame; 33 joints in JSON take 3 KiB
_CHUNK_BYTES = 1 << 20
_GZIP = b'\x1f\x8b'
# Where nearly all of a body is in shares of a picture's sides, part of it perhaps below
# the picture. Metres about the hips have half of it on the other side of 0.
_SHARES, _SHARES_MOST = (-0.1, 2.0), 0.9
_ON_HEAD_MOST = 0.75  # of the frames


def read_motion(
    path, *, skeleton, max_frames, max_seconds, rate_hz, size_hw=None,
):
    """Reads a file of landmarks.

    Of KIMORE's bodies one is followed, see kimore.read_rows.

    Args:
        path: file, CSV or JSON, may be gzipped.
        skeleton: Skeleton or its name; whose joints the file must have.
        max_frames: most frames; checked before numbers are parsed.
        max_seconds: from the first frame to the last, at most.
        rate_hz: frames a second, for files without time stamps.
        size_hw: height and width of the picture in pixels, for coordinates that are
            shares of its sides (z, like x, of its width, and as deep as BlazePose's
            networks tell it); others keep their numbers.

    Returns:
        Motion. A joint is NaN, with visibility 0, if its coordinates are missing,
        not finite or, of Kinect's, all 0; without a column of visibilities those of
        joints that are there are 1. time_s are the file's, or k / rate_hz. Counts:
        'layout', 'frames', 'frames_nobody' (without a joint), and of KIMORE
        'frames_several_people', 'frames_jumped' (somebody is there, but not the one
        that is followed: a frame with nobody then), 'jumps' (runs of these) and
        'joints_inferred_share'.

    Raises:
        InputError: no such file, damaged, of another layout, with another number of
            joints or names of joints, text where numbers should be, time that doesn't
            increase or isn't finite, visibilities outside [0, 1], no frames, too many
            or for too long, nobody in any of them, shares of a picture whose size
            isn't given, a joint of which only some coordinates are told, or a body on
            its head, since y goes up.
    """
    if not isinstance(skeleton, Skeleton):
        skeleton = find_skeleton(skeleton)
    time_s, values, counts = _read(path, skeleton, max_frames, rate_hz)
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
    shares = counts['layout'] == 'keraal' or (
        not skeleton.depth and _is_in_shares(joints[known, :2]))
    if shares and size_hw is None:
        raise InputError(
            path, "coordinates are shares of a picture's sides: set landmark_size_hw "
            "to its height and width, --task='landmark_size_hw=(H,W)' for a trained "
            "model and --config.task.landmark_size_hw='(H,W)' before")
    if shares:
        depth = 1 if skeleton.depth else BLAZEPOSE_DEPTH
        joints = joints * np.float32([size_hw[1], size_hw[0], size_hw[1] * depth])
    _check_whole(path, joints, skeleton)
    _check_upright(path, joints, skeleton)
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


def _check_whole(path, joints, skeleton):
    """Refuses a joint that is told in part: of one that is not seen nothing is."""
    finite = np.isfinite(joints)
    partly = finite.any(axis=-1) & ~finite.all(axis=-1)
    if partly.any():
        frame, joint = np.argwhere(partly)[0]
        raise InputError(
            path, f'frame {frame + 1}, joint {skeleton.joints[joint]}: some '
            'coordinates are no numbers')


def _is_in_shares(points):
    least, most = _SHARES
    inside = np.all((points >= least) & (points <= most), axis=-1)
    return inside.mean() > _SHARES_MOST


def _check_upright(path, joints, skeleton):
    """Refuses a body on its head, with y up rather than down: its index means nothing.

    On its head are frames with the shoulders below the hips, more than beside them, and
    the ankles above these, if known: who bends down has theirs below. Of 600 single
    poses of sports 2% are, and of KIMORE's, Keraal's and drawn recordings no frame.
    """
    def middle(left, right):
        return (joints[:, left, :2] + joints[:, right, :2]) / 2

    hips = middle(*skeleton.hips)
    torso = middle(*skeleton.shoulders) - hips
    legs = middle(*(
        skeleton.angles[f'{side} knee'][2] for side in ('left', 'right'))) - hips
    known = np.isfinite(torso).all(axis=-1)
    on_head = (torso[:, 1] > np.abs(torso[:, 0])) & ~(legs[:, 1] > 0)
    if on_head.sum() > _ON_HEAD_MOST * known.sum():
        raise InputError(
            path, f'shoulders are below the hips and feet above them in '
            f'{on_head.sum()} of {known.sum()} frames: does its y go up? It must go '
            'down, as in pictures')


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
    data = named_columns.format_table(motion).encode()
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


def _read(path, skeleton, max_frames, rate_hz):
    """time_s [T], values [T, J, 4] and counts, by the layout."""
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
        return keraal.read_positions(path, text, skeleton, max_frames, rate_hz)
    lines = [
        (number, line) for number, line in enumerate(text.splitlines(), start=1)
        if line.strip()]
    first = split_cells(path, *lines[0])
    # Numbers with a word among them are a damaged frame, no names.
    named = 2 * sum(map(is_number, first)) < len(first)
    if len(lines) - named > max_frames:
        raise InputError(
            path, f'{len(lines) - named} frames, limit {max_frames}')
    if named:
        return named_columns.read_table(path, lines, first, skeleton, rate_hz)
    return kimore.read_rows(path, lines, skeleton, rate_hz)


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
