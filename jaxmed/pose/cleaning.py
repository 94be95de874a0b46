"""From landmarks as they were found to what a sequence model sees.

On the host, of one recording: what was hardly seen is dropped, short gaps are filled,
time becomes uniform, and windows are cut (paper 000, III.A).
"""

from typing import NamedTuple

import numpy as np
from scipy import signal

from jaxmed.errors import ConfigError, InputError
from jaxmed.pose.skeletons import find_skeleton

SMOOTHINGS = ('none', 'one_euro', 'savgol')

# The time around a frame whose median tells where a joint should be, and how far from
# it a joint may be, in torsos: 25 cm off and back again within an eighth of a second
# is faster than hands and feet are in an exercise.
_MEDIAN_S, _JUMP_TORSOS = 0.25, 0.5
# A source that is this much faster than what is made of it is averaged first.
_FASTER = 1.5
# The share of a window's frames with both hips and both shoulders, below which there is
# no index of it.
LEAST_KNOWN = 0.5
# Longest time between two frames of a source without gaps, in its median ones.
_LATE = 2.5


class OneEuro(NamedTuple):
    """The 1 euro filter (Casiez 2012): slow things are smoothed more than fast ones."""

    min_cutoff_hz: float  # of something at rest: lower is smoother
    beta: float  # Hz per torso a second: higher lags less
    derivative_cutoff_hz: float  # of the speed that this goes by


class Savgol(NamedTuple):
    """Savitzky-Golay: a polynomial through the frames around each."""

    window_s: float  # rounded to an odd number of frames
    order: int  # of the polynomial, less than those frames


def clean(
    motion, *, min_visibility, max_gap_s, smoothing, rate_hz, one_euro=None,
    savgol=None,
):
    """Drops what isn't sure, fills short gaps, resamples and smooths.

    In this order:
    1. Joints that are seen less than `min_visibility` are dropped (0.6 in the paper).
    2. So are joints that are half a torso away from their own median over a quarter
       of a second (7 frames of 30 Hz), in the picture's plane: they jump.
    3. Gaps are filled linearly in time if no more than `max_gap_s` lie between the
       known frames at both ends; before the first and after the last frame that is
       known, that one is held, for no longer than that. Longer gaps stay NaN.
    4. Frames at both ends in which nobody is left go; time stamps stay.
    5. Resampled to `rate_hz` on the true time stamps, linearly; a source that is more
       than 1.5 times faster is averaged over the time of a new frame, its values
       joined by lines (of 60 Hz, 1/4 1/2 1/4 for 30 Hz). No frame is made of a gap in
       the time stamps that is longer than `max_gap_s`.
    6. Smoothed, each stretch that is known by itself.

    World coordinates go the same way; visibilities are resampled and otherwise stay: a
    joint that was filled keeps what it was seen with.

    Args:
        motion: Motion.
        min_visibility: in [0, 1].
        max_gap_s: 0 or more.
        smoothing: one of SMOOTHINGS.
        rate_hz: frames a second to make.
        one_euro: OneEuro, for that smoothing. It looks back only, and lags.
        savgol: Savgol, for that smoothing. Stretches shorter than its window stay.

    Returns:
        Motion, its frames 1 / rate_hz apart; of no frames where nobody is left. Counts
        are the motion's and 'frames_before', 'frames_after', 'frames_trimmed' (at the
        ends, of those before), of all joints in all frames that were read
        'joints_dropped_share', 'joints_jumped_share' and 'gaps_filled_share', and
        'joints_unknown_share' of those that are returned.

    Raises:
        ConfigError: options out of range.
    """
    _check(min_visibility, max_gap_s, smoothing, rate_hz, one_euro, savgol)
    skeleton = find_skeleton(motion.skeleton)
    found = np.isfinite(motion.joints).all(axis=-1)
    seen = found & (motion.visibility >= min_visibility)
    values = motion.joints.astype(np.float64)
    if motion.world is not None:
        values = np.concatenate([values, motion.world], axis=-1)
    values[~seen] = np.nan
    jumped = _find_jumps(values, motion.time_s, skeleton)
    values[jumped] = np.nan
    filled = _fill(values, motion.time_s, max_gap_s)
    known = np.isfinite(filled).all(axis=-1)
    counts = dict(motion.counts) | {
        'frames_before': len(found),
        'joints_dropped_share': _share(found & ~seen),
        'joints_jumped_share': _share(jumped),
        'gaps_filled_share': _share(known & (~seen | jumped)),
    }
    frames = np.flatnonzero(known.any(axis=1))
    kept = slice(frames[0], frames[-1] + 1) if len(frames) else slice(0, 0)
    counts['frames_trimmed'] = len(found) - len(range(len(found))[kept])
    filled, time_s = filled[kept], motion.time_s[kept]

    if len(time_s):
        count = 1 + int((time_s[-1] - time_s[0]) * rate_hz + 1e-6)
        grid_s = time_s[0] + np.arange(count) / rate_hz
        filled = _resample(filled, time_s, grid_s, max_gap_s)
        visibility = _resample(
            motion.visibility[kept][..., None].astype(np.float64), time_s, grid_s,
            np.inf)[..., 0]
    else:
        grid_s, visibility = time_s, motion.visibility[kept]
    if smoothing != 'none' and len(grid_s):
        for part in (slice(0, 3), slice(3, 6))[:1 + (motion.world is not None)]:
            filled[..., part] = _smooth(
                filled[..., part], rate_hz, smoothing, one_euro, savgol, skeleton)
    known = np.isfinite(filled).all(axis=-1)
    filled = filled.astype(np.float32)
    return motion._replace(
        joints=filled[..., :3],
        visibility=np.where(
            known.any(axis=-1, keepdims=True), np.clip(visibility, 0, 1), 0,
        ).astype(np.float32),
        time_s=grid_s,
        world=None if motion.world is None else filled[..., 3:],
        counts=counts | {
            'frames_after': len(grid_s), 'joints_unknown_share': _share(~known)},
    )


def check_length(motion, *, min_frames, where):
    """Raises InputError, of the file `where`, if there is too little to judge.

    Without hips and shoulders it isn't known where a body is and how large: a face that
    talks is no movement of a spine.

    Args:
        motion: Motion, cleaned.
        min_frames: least frames with somebody in them, and with both hips and both
            shoulders; at least 1.
        where: the file.
    """
    skeleton = find_skeleton(motion.skeleton)
    known = np.isfinite(motion.joints).all(axis=-1)
    frames = int(known.any(axis=1).sum())
    if not frames:
        raise InputError(where, 'nobody is visible in it')
    if frames < min_frames:
        raise InputError(
            where, f'too short: somebody is visible in {frames} frames, at least '
            f'{min_frames} are needed')
    trunks = int(known[:, skeleton.trunk].all(axis=1).sum())
    if trunks < min_frames:
        raise InputError(
            where, f'hips and shoulders are hardly ever visible: in {trunks} frames, '
            f'at least {min_frames} are needed')


def cut_windows(motion, *, frames, stride):
    """Windows of a motion, all of one length.

    The last one ends with the motion, so it may start less than `stride` after the one
    before. A motion shorter than a window is one window, padded at its end.

    Args:
        motion: Motion, cleaned, of at least one frame.
        frames: of a window (5 s of 30 Hz in the paper).
        stride: frames from one start to the next, in [1, frames].

    Returns:
        inputs float32 [W, frames, J, 4], joints and visibility, NaN and 0 in padding;
        frame_mask bool [W, frames], False in padding; first_s float64 [W], the time
        stamps of first frames.

    Raises:
        ConfigError: a stride that would leave frames out.
    """
    if not 1 <= stride <= frames:
        raise ConfigError('stride', f'{stride}, expected 1 to {frames} frames')
    values = _values(motion)
    last = max(len(values) - frames, 0)
    starts = np.append(np.arange(0, last, stride), last)
    places = starts[:, None] + np.arange(frames)
    mask = places < len(values)
    inputs = values[np.minimum(places, len(values) - 1)]
    inputs[~mask] = np.append(np.full(3, np.nan, np.float32), np.float32(0))
    return inputs, mask, motion.time_s[starts]


def stretch(motion, *, frames):
    """A whole motion as one window, however long it is.

    Resampled as in `clean`: averaged where frames become fewer, and unknown where a
    joint is.

    Args:
        motion: Motion, cleaned, of at least one frame.
        frames: of the window, at least 2.

    Returns:
        inputs, frame_mask and first_s of `cut_windows` with W = 1, and seconds float64
        [W] from the first frame to the last: a second has (frames - 1) / seconds.
    """
    values, time_s = _values(motion), motion.time_s
    grid_s = np.linspace(time_s[0], time_s[-1], frames)
    if len(values) > 1:
        joints = _resample(values[..., :3].astype(np.float64), time_s, grid_s, 0.0)
        visibility = _resample(
            values[..., 3:].astype(np.float64), time_s, grid_s, np.inf)
        values = np.concatenate([joints, np.clip(visibility, 0, 1)], axis=-1)
    else:
        values = np.repeat(values, frames, axis=0)
    return (values[None].astype(np.float32), np.ones((1, frames), bool), time_s[:1],
            time_s[-1:] - time_s[:1])


def _check(min_visibility, max_gap_s, smoothing, rate_hz, one_euro, savgol):
    if not 0 <= min_visibility <= 1:
        raise ConfigError('min_visibility', f'{min_visibility}, expected 0 to 1')
    if not max_gap_s >= 0:
        raise ConfigError('max_gap_s', f'{max_gap_s}, expected 0 or more')
    if not rate_hz > 0:
        raise ConfigError('rate_hz', f'{rate_hz}, expected more than 0')
    if smoothing not in SMOOTHINGS:
        raise ConfigError(
            'smoothing', f'{smoothing!r} is none of {", ".join(SMOOTHINGS)}')
    if smoothing == 'one_euro' and (one_euro is None or not (
            one_euro.min_cutoff_hz > 0 and one_euro.beta >= 0
            and one_euro.derivative_cutoff_hz > 0)):
        raise ConfigError(
            'one_euro', f'{one_euro}: cutoffs above 0, beta of 0 or more are needed')
    if smoothing == 'savgol' and (savgol is None or not (
            0 <= savgol.order < _odd(savgol.window_s * rate_hz))):
        raise ConfigError(
            'savgol', f'{savgol}: an order below the frames of the window is needed')


def _share(flags):
    return float(np.mean(flags)) if np.size(flags) else 0.0


def _odd(frames):
    return 2 * int(frames / 2) + 1


def _values(motion):
    if not len(motion.joints):
        raise ValueError('a motion without frames: check_length comes first')
    return np.concatenate([motion.joints, motion.visibility[..., None]], axis=-1)


def _body_length(joints, skeleton):
    """Median torso of a recording, [T, J, 3] -> float; NaN where it is unknown."""
    hips, shoulders = (
        joints[:, list(pair)].mean(axis=1)
        for pair in (skeleton.hips, skeleton.shoulders))
    axes = 3 if skeleton.depth else 2
    lengths = np.linalg.norm((shoulders - hips)[:, :axes], axis=-1)
    lengths = lengths[np.isfinite(lengths)]
    return float(np.median(lengths)) if len(lengths) else np.nan


def _find_jumps(values, time_s, skeleton):
    """Joints that are off for a moment, bool [T, J]."""
    none = np.zeros(values.shape[:2], bool)
    limit = _JUMP_TORSOS * _body_length(values[..., :3], skeleton)
    frames = _odd(_MEDIAN_S / np.median(np.diff(time_s))) if len(time_s) > 1 else 1
    if not 3 <= frames <= len(values) or not limit > 0:
        return none
    plane = values[..., :2].astype(np.float32)
    known = np.isfinite(plane).all(axis=-1)
    half = frames // 2
    around = np.lib.stride_tricks.sliding_window_view(
        np.pad(plane, [(half, half), (0, 0), (0, 0)], constant_values=np.nan),
        frames, axis=0)
    # NaN sorts last: the median of those that are known, of an even number the upper.
    ordered = np.sort(around, axis=-1)
    count = np.isfinite(around).sum(axis=-1)
    middle = np.take_along_axis(ordered, (count // 2)[..., None].clip(
        max=frames - 1), axis=-1)[..., 0]
    off = np.linalg.norm(plane - middle, axis=-1)
    return known & (off > limit)


def _fill(values, time_s, max_gap_s):
    """Fills gaps of [T, J, C] along time; a joint is known in all of C or in none."""
    known = np.isfinite(values).all(axis=-1)
    count = len(known)
    if not count:
        return values
    frame = np.arange(count)[:, None]
    before = np.maximum.accumulate(np.where(known, frame, -1), axis=0)
    after = np.minimum.accumulate(np.where(known, frame, count)[::-1], axis=0)[::-1]
    # At the ends there is one side only, and the gap ends with the recording.
    start_s = time_s[np.maximum(before, 0)]
    end_s = time_s[np.minimum(after, count - 1)]
    short = end_s - start_s <= max_gap_s
    fillable = ~known & short & ((before >= 0) | (after < count))
    left = np.where(before >= 0, before, after).clip(0, count - 1)
    right = np.where(after < count, after, before).clip(0, count - 1)
    weight = (time_s[:, None] - start_s) / np.where(
        end_s > start_s, end_s - start_s, 1.0)
    weight = np.where(left == right, 0.0, weight)[..., None]
    joint = np.arange(known.shape[1])
    drawn = values[left, joint] * (1 - weight) + values[right, joint] * weight
    return np.where(fillable[..., None], drawn, values)


def _resample(values, time_s, grid_s, max_gap_s):
    """[T, J, C] at `time_s` -> [G, J, C] at `grid_s`, NaN where unknown."""
    if len(time_s) == 1:
        return np.repeat(values, len(grid_s), axis=0)
    source_s = np.median(np.diff(time_s))
    step_s = (grid_s[-1] - grid_s[0]) / max(len(grid_s) - 1, 1)
    longest_s = max(max_gap_s, _LATE * source_s)
    if step_s > _FASTER * source_s:
        return _average(values, time_s, grid_s, step_s, longest_s)
    right = np.searchsorted(time_s, grid_s, side='left').clip(1, len(time_s) - 1)
    left = right - 1
    gap_s = time_s[right] - time_s[left]
    weight = ((grid_s - time_s[left]) / gap_s).clip(0, 1)
    # On a frame it is that frame, though its neighbour be unknown or far away.
    weight = np.where(weight < 1e-6, 0.0, np.where(weight > 1 - 1e-6, 1.0, weight))
    far = (gap_s > longest_s) & (weight > 0) & (weight < 1)
    weight = weight[:, None, None]
    mixed = (np.where(weight == 1, 0.0, values[left] * (1 - weight))
             + np.where(weight == 0, 0.0, values[right] * weight))
    mixed[far] = np.nan
    return mixed


def _average(values, time_s, grid_s, width_s, longest_s):
    """The mean over `width_s` around each time of the lines through known values.

    At the ends of what is known the lines' part that is there counts, if it is half.
    """
    gaps_s = np.diff(time_s)
    known = np.isfinite(values).all(axis=-1)
    lines = known[1:] & known[:-1] & (gaps_s <= longest_s)[:, None]
    slopes = np.where(lines[..., None], np.diff(values, axis=0), 0.0)
    firsts = np.where(lines[..., None], values[:-1], 0.0)
    areas = (firsts + slopes / 2) * gaps_s[:, None, None]
    zero = np.zeros((1, *values.shape[1:]))
    areas = np.concatenate([zero, np.cumsum(areas, axis=0)])
    widths = np.concatenate([zero[..., 0], np.cumsum(lines * gaps_s[:, None], axis=0)])

    def integrate(at_s):
        at_s = at_s.clip(time_s[0], time_s[-1])
        left = np.searchsorted(time_s, at_s, side='right').clip(1, len(time_s) - 1) - 1
        share = ((at_s - time_s[left]) / gaps_s[left])[:, None]
        within_s = share * gaps_s[left][:, None]
        area = areas[left] + within_s[..., None] * (
            firsts[left] + slopes[left] * share[..., None] / 2)
        return area, widths[left] + within_s * lines[left]

    high, low = integrate(grid_s + width_s / 2), integrate(grid_s - width_s / 2)
    covered_s = high[1] - low[1]
    enough = covered_s >= 0.499 * width_s
    return np.where(
        enough[..., None],
        (high[0] - low[0]) / np.where(enough, covered_s, 1.0)[..., None], np.nan)


def _smooth(joints, rate_hz, smoothing, one_euro, savgol, skeleton):
    """Smooths [T, J, 3] at a uniform rate; NaN stays."""
    if smoothing == 'one_euro':
        unit = _body_length(joints, skeleton)
        # Without a torso its filter for things at rest.
        speed = one_euro.beta / unit if unit > 0 else 0.0
        return _one_euro(joints, rate_hz, one_euro, speed)
    window = _odd(savgol.window_s * rate_hz)
    known = np.isfinite(joints).all(axis=-1)
    smooth = joints.copy()
    # All joints of one pattern of gaps together: mostly there is one without any.
    patterns, which = np.unique(known, axis=1, return_inverse=True)
    for number, pattern in enumerate(patterns.T):
        columns = np.flatnonzero(which.ravel() == number)
        edges = np.flatnonzero(np.diff(np.pad(pattern.astype(int), 1)))
        for start, stop in edges.reshape(-1, 2):
            if stop - start >= window:
                smooth[start:stop, columns] = signal.savgol_filter(
                    joints[start:stop, columns], window, savgol.order, axis=0)
    return smooth


def _one_euro(joints, rate_hz, options, speed):
    """Casiez 2012, algorithm 1: each frame depends on the one before, so a loop."""
    def weight(cutoff_hz):
        return 1 / (1 + rate_hz / (2 * np.pi * cutoff_hz))

    smooth = np.empty_like(joints)
    last, rate = np.full((2, *joints.shape[1:]), np.nan)
    slow = weight(options.derivative_cutoff_hz)
    for frame, new in enumerate(joints):
        starts = np.isnan(last)
        change = np.where(starts, 0.0, (new - last) * rate_hz)
        rate = np.where(np.isnan(rate), change, slow * change + (1 - slow) * rate)
        share = weight(options.min_cutoff_hz + speed * np.abs(rate))
        # A joint that is lost starts anew when it is found.
        last = np.where(starts, new, share * new + (1 - share) * last)
        rate = np.where(np.isnan(last), np.nan, rate)
        smooth[frame] = last
    return smooth
