"""What spine health reads: videos, folders of frames, files of landmarks, people."""

from pathlib import Path

import jax

from jaxmed.data import landmark_files, listings, movements
from jaxmed.errors import ConfigError, InputError
from jaxmed.pose import landmarks, side_by_side


def find_motion(path, *, skeleton, source_hz, size_hw, max_seconds, video):
    """The movement in a video, or in a file of landmarks, as it was found.

    Args:
        path: of a video, a folder of frames, or a file of landmarks.
        skeleton: Skeleton.
        source_hz: frames a second of landmarks without time stamps, and of a folder.
        size_hw: of the picture, for landmarks that are shares of its sides, or None.
        max_seconds: longest recording.
        video: keywords of pose.landmarks.find_landmarks.

    Raises:
        InputError: it can't be read, nobody is in it, it is too long, it is of shares
            and there is no size_hw, or it is a video and the skeleton another than
            'blazepose'.
        ConfigError: a video, and no model for it, or a wrong one.
    """
    path = Path(path)
    if not _is_video(path):
        motion = landmark_files.read_motion(
            path, skeleton=skeleton, max_frames=int(max_seconds * 240),
            max_seconds=max_seconds, rate_hz=source_hz, size_hw=size_hw)
        return motion._replace(size_hw=None)  # there are no pictures to draw on
    if skeleton.name != 'blazepose':
        raise InputError(
            path, f'a video gives skeleton blazepose, this model takes {skeleton.name}')
    if not video['model']:
        raise ConfigError(
            'task.landmark_model', 'name a .task bundle of BlazePose to read videos '
            '(the README says where there are some)')
    try:
        return landmarks.find_landmarks(
            path, max_seconds=max_seconds, rate_hz=source_hz, **video)
    except InputError as error:
        if error.where not in {
                InputError(video[name], '').where for name in ('model', 'cache')}:
            raise
        # No video's fault: no other one could be read either.
        raise ConfigError(error.where, error.reason) from None


def find_motions_ahead(files, *, skeleton, source_hz, max_seconds, video):
    """Puts landmarks of many videos into the cache, where side by side is faster.

    What can't be found is for find_motion to tell, one by one.

    Args:
        files: paths of recordings, all different.
        others: of find_motion.

    Yields:
        Each of them, as there is nothing more to do for it ahead.
    """
    found = [path for path in files if _is_video(path)]
    if len(found) < 2 or not (
        video['landmarker'] == 'jax' and video['mode'] == 'video' and video['cache']
        and video['model'] and skeleton.name == 'blazepose'
        and jax.default_backend() != 'cpu'  # it computes one after the other
    ):
        yield from files
        return
    yield from (path for path in files if not _is_video(path))
    options = {name: video[name] for name in (
        'model', 'sha256', 'cache', 'max_pixels', 'dtype')}
    try:
        for path, _ in side_by_side.find_side_by_side(
                found, at_once=video['batch_size'], max_seconds=max_seconds,
                rate_hz=source_hz, **options):
            yield path
    except InputError as error:
        raise ConfigError(error.where, error.reason) from None


def look_ahead(entries, *, cut, find_ahead):
    """Entries of Task.files as find_ahead is done with all recordings of each."""
    left, owners = {}, {}
    for entry in entries:
        files = _recordings_of(entry[0], cut)
        left[entry] = len(files)
        owners |= dict.fromkeys(files, entry)
    yield from (entry for entry in entries if not left[entry])
    for file in find_ahead(list(owners)):
        left[owners[file]] -= 1
        if not left[owners[file]]:
            yield owners[file]


def _is_video(path):
    return path.is_dir() or not landmark_files.is_landmarks(path)


def _recordings_of(path, cut):
    """A recording, or those in a person's folder."""
    path = Path(path)
    if path.is_dir() and cut.unit == 'subject' and not movements.is_recording(path):
        return sorted(filter(movements.is_recording, path.iterdir()))
    return [path]


def read_recording(path, *, case_id, find, clean, cut, exercise):
    """A recording, or a person's, to predict: of movements.cut_record, and 'parts'.

    'parts' is a list of (exercise, Motion as found, Motion cleaned, path), in the order
    of the exercises.
    """
    files = _recordings_of(path, cut)
    names = [movements.find_exercise(file.stem, cut.exercises) or exercise
             for file in files]
    movements.check_parts(list(zip(names, files)), cut=cut)
    parts = []
    for name, file in zip(names, files):
        motion = find(file)
        parts.append((name, motion, clean(motion), file))
    parts = movements.in_order(parts, cut=cut)
    record = movements.cut_record(
        [(name, cleaned) for name, _, cleaned, _ in parts], cut=cut, case_id=case_id,
        subject=case_id, where=path)
    listings.warn_of(
        path, f'recordings of none of the exercises {", ".join(cut.exercises)}, whose '
        'index is not to be trusted (task.exercise names one)',
        [file.name for name, file in zip(names, files)
         if movements.number_of(name, cut.exercises) == len(cut.exercises)])
    return record | {'parts': parts}
