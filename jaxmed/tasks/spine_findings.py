"""What a user is told of a movement: index, interval, red flag, quality, pictures."""

import math
import tempfile
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from jaxmed.data import movements, video_writing, videos
from jaxmed.metrics import RED_FLAG
from jaxmed.pose import drawing, index_plot, panel
from jaxmed.tasks.spine_intervals import bounds, of_windows
from jaxmed.types import Finding

_STRIP_HW, _PLOT_HW = (320, 1200), (420, 900)
_HEAD_PX = 40  # over the strips of a person
_PHASES = 6
_MOST_HEIGHT_PX = 720  # of annotated videos


def render(records, rows, *, skeleton, cut):
    """Phases of a movement with its true and predicted index."""
    record = records[0]
    truth = float(np.mean(rows['truth']))
    words = f'predicted {float(np.mean(rows["index"])):.2f}'
    if not np.isnan(truth):
        words += f', true {truth:.2f}'
    return _draw_phases(record, f'{record["exercise"]}: {words}', skeleton, cut)


def _draw_phases(record, words, skeleton, cut):
    """Phases of a window, each recording's in a strip of its own."""
    mask = record['frame_mask']
    numbers = list(dict.fromkeys(record['segment'][mask].tolist()))
    strips = []
    for number in numbers:
        of = mask & (record['segment'] == number)
        inputs, step_s = record['inputs'][of], record['step_s'][of]
        strips.append(drawing.draw_skeleton(
            inputs[..., :3], inputs[..., 3], np.cumsum(step_s) - step_s,
            skeleton=skeleton, phases=_PHASES, size_hw=_STRIP_HW, visible_from=0.5))
    if len(strips) > 1:
        for number, strip in zip(numbers, strips):
            _write(strip, movements.name_of(number, cut.exercises))
        strips.insert(0, np.full((_HEAD_PX, _STRIP_HW[1], 3), 255, np.uint8))
    _write(strips[0], words)
    return np.concatenate(strips)


def _write(picture, words):
    cv2.putText(picture, words, (12, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (40, 40, 40),
                1, cv2.LINE_AA)


def findings(
    record, answer, *, interval, skeleton, cut, annotate, source_hz, max_pixels,
    max_seconds, min_visibility,
):
    """What is found in a recording, or in a person's.

    Args:
        record: of tasks.spine_reading.read_recording.
        answer: index and spread [W], of its windows.
        interval: of tasks.spine_intervals.calibrate, or None.
        skeleton, cut: of the task.
        annotate: whether videos are drawn on.
        source_hz: frames a second of a folder of frames, as it was read with.
        max_pixels, max_seconds: of videos.open_video.
        min_visibility: joints below it are drawn faint.

    Returns:
        Finding: index is the mean over windows; low and high its interval, empty where
        nothing is known of it; red_flag 'yes' where the index is over 0.5; windows
        those with an index, for which hips and shoulders must be visible in half of the
        frames, and windows_left_out the others; seconds those of all recordings
        together; frames_read_share below 1 where a video is damaged, truncated or
        trimmed, of landmark files always 1. Of a person the index is of all recordings,
        and there is none of a single one. Each window has an interval of its own, that
        of single windows.
    """
    index, spread = (np.asarray(answer[name], float) for name in ('index', 'spread'))
    overall, low, high = bounds(index.mean(), spread.mean(), interval)
    found = [part[1] for part in record['parts']]
    counts = {
        name: sum(motion.counts.get(name, 0) for motion in found)
        for name in dict.fromkeys(name for motion in found for name in motion.counts)
        if name.startswith('frames')}
    recordings = [_tell_recording(record, place, cut) for place in range(len(found))]
    seen = [_has_person(motion) for motion in found]
    visible = np.concatenate([
        motion.visibility[person].ravel() for motion, person in zip(found, seen)])
    row = {
        'index': round(float(overall), 4),
        'low': '' if low is None else round(float(low), 4),
        'high': '' if high is None else round(float(high), 4),
        'red_flag': 'yes' if overall > RED_FLAG else 'no',
        'exercise': record['exercise'],
        'windows': len(index), 'windows_left_out': record['windows_left_out'],
        'seconds': round(sum(one['seconds'] for one in recordings), 2),
        'frames_read_share': _read_share(counts),
        'person_share': round(float(np.concatenate(seen).mean()), 4),
        'visibility': round(float(visible.mean()), 4),
        'joints_known_share': round(float(np.mean(record['seen'])), 4),
    }
    windows = [{
        **_tell_times(record, place, recordings), 'index': round(float(one), 4),
        'low': lower, 'high': upper, 'joints_known_share': round(float(share), 4),
    } for place, ((one, lower, upper), share) in enumerate(zip(
        (bounds(*pair, of_windows(interval)) for pair in zip(index, spread)),
        record['seen']))]
    words = f'{record["exercise"]}: index {overall:.2f}'
    if low is not None:
        words += f' ({low:.2f} to {high:.2f})'
    first = {name: value[0] if isinstance(value, np.ndarray) else value
             for name, value in record.items()}
    words += ', red flag' if row['red_flag'] == 'yes' else ''
    picture = _draw_phases(first, words, skeleton, cut)
    curve = _curve(index, spread, interval)
    files = {'index.png': _plot(record, curve, cut) if len(found) == 1
             else _plot_person(record, (overall, low, high), index, recordings)}
    if annotate:
        files |= _annotate_all(
            record, curve, (overall, low, high), recordings, cut, skeleton=skeleton,
            rate_hz=source_hz, max_pixels=max_pixels, max_seconds=max_seconds,
            min_visibility=min_visibility)
    details = {
        'windows_found': windows, 'recordings': recordings, 'read': counts,
        'cleaned': [part[2].counts for part in record['parts']],
        'interval': interval or {'width': None, 'reason': 'not calibrated'},
    }
    return Finding(row=row, details=details, pictures={'overlays': picture},
                   files=files)


def _has_person(motion):
    """[T], whether somebody is seen at all."""
    return np.isfinite(motion.joints).all(axis=-1).any(axis=1)


def _read_share(counts):
    """The share of a video's frames that could be decoded."""
    lost = counts.get('frames_undecodable', 0)
    if not lost:  # counts of landmarks may tell no frames
        return 1.0
    # Rounded down: 1 is all of them.
    return math.floor(1e4 * counts['frames'] / (counts['frames'] + lost)) / 1e4


def _tell_recording(record, place, cut):
    """What one recording of an example shows, and how well."""
    exercise, found, clean, _ = record['parts'][place]
    person = _has_person(found)
    first_s = float(record['first_s'][:, place].min())
    last_s = float(record['last_s'][:, place].max())
    return {
        'exercise': movements.name_of(
            movements.number_of(exercise, cut.exercises), cut.exercises),
        'first_s': round(first_s, 3), 'last_s': round(last_s, 3),
        'seconds': round(last_s - first_s, 2),
        'frames_read_share': _read_share(found.counts),
        'person_share': round(float(person.mean()), 4),
        'visibility': round(float(found.visibility[person].mean()), 4),
        'joints_known_share': round(
            float(np.isfinite(clean.joints).all(axis=-1).mean()), 4),
    }


def _tell_times(record, window, recordings):
    """When a window begins and ends; of a person, in each of the recordings."""
    times = [
        {'first_s': round(float(record['first_s'][window, place]), 3),
         'last_s': round(float(record['last_s'][window, place]), 3)}
        for place in range(len(recordings))]
    if len(times) == 1:
        return times[0]
    return {'recordings': [
        {'exercise': one['exercise']} | time for one, time in zip(recordings, times)]}


def _curve(index, spread, interval):
    """[W] of windows: index, low and high; None in place of both without an interval.
    """
    low, high = zip(*(
        bounds(*pair, of_windows(interval))[1:] for pair in zip(index, spread)))
    known = low[0] is not None
    return index, np.array(low) if known else None, np.array(high) if known else None


def _quality(motion):
    """[T], the share of joints that are known in each frame."""
    return np.isfinite(motion.joints).all(axis=-1).mean(axis=1)


def _plot(record, curve, cut):
    """The index over the time of a single recording; no line where there is none."""
    ((_, _, motion, _),) = record['parts']
    ends_s = record['last_s'][:, 0]
    apart = np.flatnonzero(np.diff(ends_s) > _most_apart_s(cut)) + 1
    curve = [
        None if one is None else np.insert(one, apart, np.nan) for one in curve]
    return index_plot.plot_index(
        np.insert(ends_s, apart, ends_s[apart]), *curve, quality_time_s=motion.time_s,
        quality=_quality(motion), size_hw=_PLOT_HW, title='Spine health index')


def _most_apart_s(cut):
    """From a window's end to the next one's, if none between them was left out."""
    return (cut.stride + 0.5) / cut.rate_hz


def _plot_person(record, overall, index, recordings):
    """A person's index, of all recordings together, and how well each was seen."""
    return index_plot.plot_person(
        *overall, index, [
            (f'{told["exercise"]}\n{told["seconds"]:.1f} s, person seen in '
             f'{told["person_share"]:.0%}', motion.time_s, _quality(motion))
            for told, (_, _, motion, _) in zip(recordings, record['parts'])],
        size_hw=_PLOT_HW, title='Spine health index')


def _annotate_all(record, curve, overall, recordings, cut, **options):
    """File name -> annotated video, of each recording that is a video.

    In a single one the index is what is known by then. Of a person there is none
    before the end of all, so that each shows the one of all.
    """
    single = len(recordings) == 1
    show = partial(
        _known_by, curve=curve, begins_s=record['first_s'][0, 0],
        ends_s=record['last_s'][:, 0], lasts_s=_most_apart_s(cut),
    ) if single else lambda time_s: overall
    return {
        'annotated.mp4' if single else f'annotated {told["exercise"]}.mp4': _annotate(
            path, found, show, () if single else (
                told['exercise'], f'index of {len(recordings)} recordings'), **options)
        for told, (_, found, _, path) in zip(recordings, record['parts'])
        if found.size_hw is not None}  # or else it is landmarks alone


def _known_by(time_s, *, curve, begins_s, ends_s, lasts_s):
    """Of the windows that are over by then the last, in the first one its own.

    None, three times, ahead of them all and where the next one was left out.
    """
    # A time of float32 may be rounded up.
    window = max(int(np.searchsorted(ends_s - 1e-3, time_s, side='right')) - 1, 0)
    if not begins_s - 1e-3 <= time_s <= ends_s[window] + lasts_s:
        return None, None, None
    return [None if one is None else float(one[window]) for one in curve]


def _annotate(
    path, motion, show, words, *, skeleton, rate_hz, max_pixels, max_seconds,
    min_visibility,
):
    """The video with the person's skeleton and the index, as MP4 bytes.

    At the pace of its time stamps, with the rate of its header.

    Args:
        path: of the video.
        motion: as it was found in it.
        show: time in s -> (index, low, high), the last two None where unknown.
        words: further lines.
    """
    scale = min(1.0, _MOST_HEIGHT_PX / motion.size_hw[0])

    def pictures(video):
        for frame, joints, visibility in zip(video, motion.joints, motion.visibility):
            rgb = frame.rgb
            if scale < 1:
                rgb = cv2.resize(rgb, None, fx=scale, fy=scale,
                                 interpolation=cv2.INTER_AREA)
            rgb = drawing.draw_pose(
                rgb, joints[:, :2] * scale, visibility, skeleton=skeleton,
                visible_from=min_visibility, hidden='faint')
            index, low, high = show(frame.time_s)
            rgb = panel.draw_panel(
                rgb, index, low=low, high=high,
                text=(f'{frame.time_s:.1f} s', *words))
            yield frame.time_s, rgb

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, 'annotated.mp4')
        with videos.open_video(
            path, max_pixels=max_pixels, max_seconds=max_seconds, rate_hz=rate_hz
        ) as video:
            video_writing.write_video(
                target, video_writing.pace(pictures(video), rate_hz=video.rate_hz),
                rate_hz=video.rate_hz)
        return target.read_bytes()
