"""Rated movements -> records: windows of cleaned landmarks, whatever they come from.

One example is one window of one recording; or, with unit 'subject', the windows of all
exercises of a person, one after the other: paper 000 (III.B) rates three videos once.
"""

import hashlib
import logging
import math
import unicodedata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxmed.data import identity, landmark_files, listings, videos
from jaxmed.errors import ConfigError, InputError
from jaxmed.pose import cleaning
from jaxmed.pose.skeletons import find_skeleton

LOG = logging.getLogger('jaxmed')

UNITS = ('video', 'subject')
SPANS = ('window', 'whole')


class Cut(NamedTuple):
    """How a cleaned recording becomes windows."""

    exercises: tuple[str, ...]  # names; a segment is a place in them, or their number
    unit: str  # of UNITS
    span: str  # 'window': pieces of real time; 'whole': all of it, stretched
    frames: int  # of a window
    stride: int  # frames between the starts of windows
    rate_hz: float  # of the cleaned recordings
    min_seconds: float  # in which somebody must be seen

    @property
    def recordings(self):
        """Of an example, at most."""
        return len(self.exercises) if self.unit == 'subject' else 1

    @property
    def length(self):
        """Frames of an example."""
        return self.frames * self.recordings


def check_cut(cut):
    """Raises ConfigError for options that don't fit each other."""
    for name, value, allowed in (
        ('unit', cut.unit, UNITS), ('span', cut.span, SPANS),
    ):
        if value not in allowed:
            raise ConfigError(f'task.{name}', f'{value!r} is none of {allowed}')
    folded = [listings.fold_name(name) for name in cut.exercises]
    if not folded or len(set(folded)) < len(folded) or not all(folded):
        raise ConfigError('task.exercises', f'{cut.exercises!r}: different names')
    if cut.frames < 2 or not 1 <= cut.stride <= cut.frames:
        raise ConfigError(
            'task.stride', f'{cut.stride} of {cut.frames} frames: from 1 to all')


def cut_record(parts, *, cut, case_id, subject, where):
    """The windows of a recording, or of a person's recordings.

    Args:
        parts: list of (exercise, cleaned Motion), up to R = cut.recordings.
        cut: Cut.
        case_id: str.
        subject: who it is: hashed, not kept.
        where: file or folder, named in errors.

    Returns:
        Record of W windows of T frames: inputs float32 [W, T, J, 4], x, y, z as in
        skeletons.Motion (NaN where unknown) and visibility; frame_mask bool [W, T],
        False on padding, which comes last; segment int8 [W, T], the exercise, or their
        number where it is none of them; step_s float32 [W, T], from a frame to the
        next one of its recording, 0 on padding;
        first_s and last_s float32 [W, R], when each recording's part begins and ends,
        NaN where there is none; seen float32
        [W], share of joints that are known; exercise, a text; example_id, case_id,
        patient_id, content_id; windows_left_out, an int: windows of its recordings in
        which hips and shoulders are known too seldom (cleaning.LEAST_KNOWN), and which
        are none of the W. Recordings are in the order of the exercises.

    Raises:
        InputError: too short; no window of a recording knows enough; more recordings
            than exercises, or none.
    """
    if not 1 <= len(parts) <= cut.recordings:
        raise InputError(
            where, f'{len(parts)} recordings of a person, expected 1 to '
            f'{cut.recordings}')
    pieces, left_out = [], 0
    for exercise, motion in in_order(parts, cut=cut):
        cleaning.check_length(
            motion, where=where,
            min_frames=max(2, math.ceil(cut.min_seconds * cut.rate_hz)))
        number = number_of(exercise, cut.exercises)
        columns = _cut(motion, cut)
        known = _know_trunk(columns[0], columns[1], find_skeleton(motion.skeleton))
        if not known.any():
            raise InputError(
                where, 'hips and shoulders are visible in less than '
                f'{cleaning.LEAST_KNOWN:.0%} of each window')
        left_out += int((~known).sum())
        pieces.append((number, *(column[known] for column in columns)))
    windows = [
        _join([[column[min(window, len(column) - 1)] for column in columns]
               for _, *columns in pieces], [number for number, *_ in pieces], cut)
        for window in range(max(len(columns[0]) for _, *columns in pieces))]
    record = {name: np.stack([window[name] for window in windows])
              for name in windows[0]}
    names = [name_of(number, cut.exercises) for number, *_ in pieces]
    return record | {
        'exercise': names[0] if len(names) == 1 else 'all',
        'example_id': case_id, 'case_id': case_id,
        'patient_id': hash_subject(subject),
        'content_id': identity.content_id(record['inputs']),
        'windows_left_out': left_out,
    }


def hash_subject(subject):
    """16 hex digits that stand for a person in records and reports."""
    return hashlib.sha256(f'subject:{subject}'.encode()).hexdigest()[:16]


def number_of(exercise, exercises):
    """The place of what find_exercise finds; their number where it is none."""
    found = find_exercise(exercise, exercises)
    return exercises.index(found) if found else len(exercises)


def name_of(number, exercises):
    """What an exercise is called that has this number."""
    return exercises[number] if number < len(exercises) else 'other'


def in_order(parts, *, cut):
    """Recordings of a person, (exercise, ...) each, in the order of the exercises."""
    return sorted(parts, key=lambda part: number_of(part[0], cut.exercises))


def find_exercise(name, exercises):
    """The exercise that a table, a file's name or an option names.

    Args:
        name: in any spelling; or one with the words of an exercise in it, 'walk 2 m'.
        exercises: tuple of names.

    Returns:
        The one of this name, or else the longest whose words are in it; '' if none is.
    """
    for exercise in exercises:
        if listings.fold_name(exercise) == listings.fold_name(name):
            return exercise
    found = [exercise for exercise in exercises if _words(exercise) and
             f' {_words(exercise)} ' in f' {_words(name)} ']
    return max(found, key=len, default='')


def check_parts(recordings, *, cut):
    """Refuses recordings of one example whose windows couldn't be told apart.

    Args:
        recordings: list of (exercise, file).
        cut: Cut.

    Raises:
        InputError: of a file that shows the exercise of one before it.
    """
    files = {}
    for exercise, file in recordings:
        number = number_of(exercise, cut.exercises)
        before = files.setdefault(number, file)
        if before is not file:
            which = f'exercise {cut.exercises[number]!r}' if number < len(
                cut.exercises) else 'none of the exercises'
            raise InputError(
                file, f'{Path(file).name} shows {which}, and so does '
                f'{Path(before).name} of the same person')


def _words(name):
    name = unicodedata.normalize('NFC', name.casefold())
    letters = ''.join(c if c.isalnum() else ' ' for c in name)
    return ' '.join(letters.split())


def _cut(motion, cut):
    """inputs [W, frames, J, 4], frame_mask, first_s, last_s, step_s of a recording."""
    if cut.span == 'whole':
        inputs, mask, first_s, seconds = cleaning.stretch(motion, frames=cut.frames)
        return inputs, mask, first_s, first_s + seconds, seconds / (cut.frames - 1)
    inputs, mask, first_s = cleaning.cut_windows(
        motion, frames=cut.frames, stride=cut.stride)
    step_s = np.full(len(inputs), 1 / cut.rate_hz)
    return inputs, mask, first_s, first_s + (mask.sum(axis=1) - 1) * step_s, step_s


def _know_trunk(inputs, mask, skeleton):
    """[W], whether hips and shoulders are known in enough of the frames of a window."""
    known = np.isfinite(inputs[:, :, skeleton.trunk]).all(axis=(2, 3)) & mask
    return known.sum(axis=1) >= cleaning.LEAST_KNOWN * mask.sum(axis=1)


def _join(pieces, numbers, cut):
    """One example of the windows of one or several exercises, padding last."""
    inputs = np.concatenate([piece[0][piece[1]] for piece in pieces])
    count, fill = len(inputs), cut.length - len(inputs)
    lengths = [int(piece[1].sum()) for piece in pieces]
    segment = np.repeat(numbers, lengths)
    blank = np.full((fill, *inputs.shape[1:]), np.nan, np.float32)
    blank[..., 3] = 0
    known = np.isfinite(inputs).all(axis=-1)
    # Stretched to a window, each recording has a step of its own.
    steps_s = np.repeat([piece[4] for piece in pieces], lengths)
    ends_s = np.full((2, cut.recordings), np.nan, np.float32)
    ends_s[:, :len(pieces)] = np.transpose([piece[2:4] for piece in pieces])
    return {
        'inputs': np.concatenate([inputs, blank]).astype(np.float32),
        'frame_mask': np.arange(cut.length) < count,
        'segment': np.pad(
            segment, (0, fill), constant_values=len(cut.exercises)).astype(np.int8),
        'step_s': np.pad(steps_s, (0, fill)).astype(np.float32),
        'first_s': ends_s[0], 'last_s': ends_s[1],
        'seen': np.float32(known.mean()),
    }


def read(source, *, list_rated, read_motion, look_ahead, cut):
    """Yields the examples of rated recordings.

    Args:
        source: folder or table, for `list_rated`.
        list_rated: path -> list of ratings.Rated.
        read_motion: path -> cleaned Motion.
        look_ahead: is told of all paths that `read_motion` will be asked for, and
            yields them as it is done with what can be done for many at once.
        cut: Cut.

    Yields:
        Record: of cut_record, one window each, without its axis; targets float32 [1],
        the index (100 - rating) / 100, 0 best; group, a text. Of a person, the mean of
        the ratings.

    Returns:
        dict, for the manifest: 'recordings', 'subjects'; 'unrated' (left out);
        'other_exercise', how many rated ones show none of the exercises;
        'windows_left_out', of cut_record;
        'unprocessable', case id -> reason; 'counts', what reading and cleaning
        counted: sums of numbers of frames, means of shares.

    Raises:
        InputError: of `list_rated`; no recording has a rating.
    """
    rated = list_rated(Path(source))
    known = [row for row in rated if not math.isnan(row.rating)]
    if not known:
        raise InputError(source, f'none of {len(rated)} recordings has a rating')
    root = Path(source) if Path(source).is_dir() else Path(source).parent
    cases = case_ids([row.file for row in known], root)
    groups = {}
    for row, case_id in zip(known, cases):
        key = case_id if cut.unit == 'video' else f'subject-{hash_subject(row.subject)}'
        groups.setdefault(key, []).append(row)
    others = [row.file.name for row in known
              if number_of(row.exercise, cut.exercises) == len(cut.exercises)]
    listings.warn_of(
        source, f'recordings of none of the exercises {", ".join(cut.exercises)}',
        others)
    found = {
        'recordings': 0, 'unrated': len(rated) - len(known), 'unprocessable': {},
        'other_exercise': len(others),
        'subjects': len({row.subject for row in known}), 'windows_left_out': 0,
    }
    counts = []
    for _ in look_ahead([row.file for row in known]):
        pass
    for case_id, rows in groups.items():
        parts = []
        try:
            check_parts([(row.exercise, row.file) for row in rows], cut=cut)
            for row in rows:
                parts.append((row.exercise, read_motion(row.file)))
            record = cut_record(
                parts, cut=cut, case_id=case_id, subject=rows[0].subject,
                where=rows[0].file)
        except ConfigError:
            raise
        except InputError as error:
            LOG.warning('%s: left out, %s', case_id, error.reason)
            found['unprocessable'][case_id] = error.reason
            continue
        found['recordings'] += len(parts)
        found['windows_left_out'] += record['windows_left_out']
        counts += [motion.counts for _, motion in parts]
        rating = sum(row.rating for row in rows) / len(rows)
        yield from split_windows(
            record, rating=rating, group=rows[0].group,
            **({'split': rows[0].split} if rows[0].split else {}))
    found['counts'] = summarise_counts(counts)
    return found


def split_windows(record, *, rating, **fields):
    """The windows of a record as records of their own."""
    count = len(record['inputs'])
    for window in range(count):
        yield {
            name: value[window] if isinstance(value, np.ndarray) else value
            for name, value in record.items() if name != 'windows_left_out'
        } | fields | {
            'targets': np.float32([(100 - rating) / 100]),
            'example_id': f'{record["case_id"]}@{window}',
        }


def case_ids(files, root):
    """Paths of recordings without their suffixes, all different."""
    return identity.case_ids([
        file.with_suffix('') if file.suffix.lower() == '.gz' else file
        for file in files], root)


def summarise_counts(counts):
    """Sums of numbers of frames, means of shares, over recordings."""
    summary = {}
    for name in dict.fromkeys(name for each in counts for name in each):
        values = [each[name] for each in counts if name in each]
        if not all(isinstance(value, (int, float)) for value in values):
            continue
        if name.endswith('_share'):
            summary[name] = float(np.mean(values))
        elif name.startswith(('frames', 'time_stamps', 'jumps')):
            summary[name] = int(sum(values))
    return summary


def find_recordings(path, *, unit):
    """What there is to predict: videos and files of landmarks.

    Args:
        path: a file, a folder of frames, or a folder of such, at any depth; with unit
            'subject' also a folder of a person's recordings, or of such folders.
        unit: of UNITS.

    Returns:
        list of (path, case id), sorted.

    Raises:
        InputError: nothing is there.
    """
    path = Path(path)
    if not path.is_dir() or videos.is_frames(path):
        if not path.exists():
            raise InputError(path, 'no such file or folder')
        return [(path, case_ids([path], path.parent)[0])]
    files = sorted(_recordings(path))
    if not files:
        raise InputError(path, 'neither videos nor files of landmarks in it')
    if unit == 'subject':
        files = sorted({file.parent for file in files})
        root = path.parent if path in files else path
        return list(zip(files, identity.case_ids(files, root)))
    return list(zip(files, case_ids(files, path)))


def _recordings(folder):
    for child in folder.iterdir():
        if is_recording(child):
            yield child
        elif child.is_dir() and not child.name.startswith('.'):
            yield from _recordings(child)


def is_recording(path):
    """Whether it is a folder of frames, or has the name of a video or of landmarks."""
    name = path.name.lower()
    if name.startswith('.') or path.is_dir():
        return not name.startswith('.') and videos.is_frames(path)
    return landmark_files.is_landmarks(path) or name.endswith(videos.SUFFIXES)
