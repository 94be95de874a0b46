"""What a user is told of a movement: index, interval, red flag, quality, pictures."""

import tempfile
from pathlib import Path

import cv2
import numpy as np

from jaxmed.data import video_writing, videos
from jaxmed.metrics import RED_FLAG
from jaxmed.pose import drawing, index_plot, panel
from jaxmed.types import Finding

_STRIP_HW, _PLOT_HW = (320, 1200), (420, 900)
_PHASES = 6
_MOST_HEIGHT_PX = 720  # of annotated videos


def render(records, rows, *, skeleton, cut):
    """Phases of a movement with its true and predicted index."""
    record = records[0]
    picture = _draw_phases(record, skeleton)
    truth = float(np.mean(rows['truth']))
    words = f'predicted {float(np.mean(rows["index"])):.2f}'
    if not np.isnan(truth):
        words += f', true {truth:.2f}'
    _write(picture, f'{record["exercise"]}: {words}')
    return picture


def _draw_phases(record, skeleton):
    inputs = record['inputs']
    time_s = np.cumsum(record['step_s']) - record['step_s']
    return drawing.draw_skeleton(
        inputs[..., :3], inputs[..., 3], time_s, skeleton=skeleton, phases=_PHASES,
        size_hw=_STRIP_HW, visible_from=0.5)


def _write(picture, words):
    cv2.putText(picture, words, (12, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (40, 40, 40),
                1, cv2.LINE_AA)


def findings(
    record, answer, *, interval, skeleton, cut, annotate, source_hz, max_pixels,
    max_seconds, min_visibility,
):
    """What is found in a recording.

    Args:
        record: of tasks.spine_reading.read_recording.
        answer: index and spread [W], of its windows.
        interval: of tasks.spine_health.calibrate, or None.
        skeleton, cut: of the task.
        annotate: whether videos are drawn on.
        source_hz: frames a second of a folder of frames, as it was read with.
        max_pixels, max_seconds: of videos.open_video.
        min_visibility: joints below it are drawn faint.

    Returns:
        Finding: index is the mean over windows; low and high its interval, empty where
        nothing is known of it; red_flag 'yes' where the index is over 0.5.
    """
    index, spread = (np.asarray(answer[name], float) for name in ('index', 'spread'))
    overall, low, high = bounds(index.mean(), spread.mean(), interval)
    found = [part[1] for part in record['parts']]
    counts = {
        name: sum(motion.counts.get(name, 0) for motion in found)
        for name in dict.fromkeys(name for motion in found for name in motion.counts)
        if name.startswith('frames')}
    seen = [np.isfinite(motion.joints).all(axis=-1) for motion in found]
    person = np.concatenate([frames.any(axis=1) for frames in seen])
    visible = np.concatenate([
        motion.visibility[frames.any(axis=1)].ravel()
        for motion, frames in zip(found, seen)])
    row = {
        'index': round(float(overall), 4),
        'low': '' if low is None else round(float(low), 4),
        'high': '' if high is None else round(float(high), 4),
        'red_flag': 'yes' if overall > RED_FLAG else 'no',
        'exercise': record['exercise'],
        'windows': len(index),
        'seconds': round(float(max(record['last_s']) - min(record['first_s'])), 2),
        'person_share': round(float(person.mean()), 4),
        'visibility': round(float(visible.mean()), 4),
        'joints_known_share': round(float(np.mean(record['seen'])), 4),
    }
    windows = [{
        'first_s': round(float(first), 3), 'last_s': round(float(last), 3),
        'index': round(float(one), 4), 'low': lower, 'high': upper,
        'joints_known_share': round(float(share), 4),
    } for first, last, (one, lower, upper), share in zip(
        record['first_s'], record['last_s'],
        (bounds(*pair, interval) for pair in zip(index, spread)), record['seen'])]
    first = {name: value[0] if isinstance(value, np.ndarray) else value
             for name, value in record.items()}
    picture = _draw_phases(first, skeleton)
    words = f'{record["exercise"]}: index {overall:.2f}'
    if low is not None:
        words += f' ({low:.2f} to {high:.2f})'
    _write(picture, words + (', red flag' if row['red_flag'] == 'yes' else ''))
    files = {'index.png': _plot(record, index, spread, interval)}
    if annotate and len(found) == 1 and found[0].size_hw is not None:
        files['annotated.mp4'] = _annotate(
            record, found[0], index, spread, interval, skeleton=skeleton,
            rate_hz=source_hz, max_pixels=max_pixels, max_seconds=max_seconds,
            min_visibility=min_visibility)
    details = {
        'windows_found': windows, 'read': counts,
        'cleaned': [part[2].counts for part in record['parts']],
        'interval': interval or {'width': None, 'reason': 'not calibrated'},
    }
    return Finding(row=row, details=details, pictures={'overlays': picture},
                   files=files)


def bounds(index, spread, interval):
    """(index, low, high), all in [0, 1]; None, None without an interval."""
    index = float(index)
    if interval is None or interval['width'] is None:
        return index, None, None
    half = interval['width'] * (float(spread) if interval['by_spread'] else 1.0)
    return index, max(index - half, 0.0), min(index + half, 1.0)


def _curve(index, spread, interval):
    """[W] arrays of index, low and high; None in place of those without an interval."""
    low, high = zip(*(
        bounds(*pair, interval)[1:] for pair in zip(index, spread)))
    known = low[0] is not None
    return index, np.array(low) if known else None, np.array(high) if known else None


def _plot(record, index, spread, interval):
    """The index over time; exercises of a person follow each other."""
    motion = record['parts'][0][2]
    quality = np.isfinite(motion.joints).all(axis=-1).mean(axis=1)
    index, low, high = _curve(index, spread, interval)
    return index_plot.plot_index(
        record['last_s'], index, low, high, quality_time_s=motion.time_s,
        quality=quality, size_hw=_PLOT_HW, title='Spine health index')


def _annotate(
    record, motion, index, spread, interval, *, skeleton, rate_hz, max_pixels,
    max_seconds, min_visibility,
):
    """The video with the person's skeleton and the index so far, as MP4 bytes.

    At the pace of its time stamps, with the rate of its header.
    """
    path = record['parts'][0][3]
    index, low, high = _curve(index, spread, interval)
    ends = np.asarray(record['last_s']) - 1e-3  # more than float32 rounds by
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
            # What is known by then; before the first window is over, of that one.
            place = max(int(np.searchsorted(ends, frame.time_s, side='right')) - 1, 0)
            rgb = panel.draw_panel(
                rgb, float(index[place]),
                low=None if low is None else float(low[place]),
                high=None if high is None else float(high[place]),
                text=(f'{frame.time_s:.1f} s',))
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
