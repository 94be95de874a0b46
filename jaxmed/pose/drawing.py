"""What a person looks at: skeletons on pictures, the index as a panel and over time.

All pictures are uint8 RGB [H, W, 3]. Nothing that is given is changed.
"""

import itertools
import math
import os
from pathlib import Path

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jaxmed.errors import ConfigError, ImageError, InputError
from jaxmed.metrics import RED_FLAG

# Told apart by people who see few colours, and on skin, grass and walls alike.
LEFT, RIGHT, MIDDLE = (255, 150, 20), (40, 150, 255), (245, 245, 245)
_DARK, _RED, _CALM = (15, 15, 15), (235, 50, 45), (90, 205, 150)
_GREY, _PAPER = (150, 150, 150), (250, 250, 247)
_FAINT = 0.4  # opacity of what is hidden
_FAR_PX = 1e7  # beyond that no float tells where a line crosses the edge
_FRACTION_BITS = 4  # of a pixel, in OpenCV's fixed-point places
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_PANEL_PX = 264, 104  # width and height, without lines of text, at a short side of 500
_LINE_PX = 19
_LONGEST_STILL_S = 10.0  # of one picture in a written video


def draw_pose(rgb, joints, visibility, *, skeleton, visible_from, hidden):
    """A skeleton on a picture.

    The person's left is orange, right is blue, bones between the sides are white; a
    dark rim keeps all of them legible on any ground. Joints that are NaN or ten million
    pixels away are left out with their bones, what lies outside the picture
    is cut off.

    Args:
        rgb: uint8 [H, W, 3].
        joints: [J, 2 or 3], x and y in pixels of `rgb`; z is not drawn.
        visibility: [J] in [0, 1].
        skeleton: skeletons.Skeleton of J joints.
        visible_from: the least visibility of a joint that is drawn in full.
        hidden: 'faint' or 'omit', for joints below it and their bones.

    Returns:
        uint8 [H, W, 3], another array.

    Raises:
        ConfigError: `hidden` is neither.
        ValueError: another number of joints, or not an RGB picture.
    """
    if hidden not in ('faint', 'omit'):
        raise ConfigError('hidden', f"{hidden!r} is neither 'faint' nor 'omit'")
    picture = _copy(rgb)
    places = np.asarray(joints, np.float64)[:, :2]
    visibility = np.asarray(visibility, np.float64)
    if len(places) != len(skeleton.joints) or visibility.shape != places.shape[:1]:
        raise ValueError(
            f'{len(places)} joints and {visibility.shape} visibilities, expected '
            f'{len(skeleton.joints)} ({skeleton.name})')
    bones = np.array(skeleton.bones, np.int32).reshape(-1, 2)
    # A joint is a line of no length: its round ends make a dot.
    lines = np.concatenate([bones, np.arange(len(places))[:, None].repeat(2, axis=1)])
    is_dot = np.arange(len(lines)) >= len(bones)
    sides = _sides(skeleton)[lines]
    side = np.where((sides == sides[:, :1]).all(axis=1), sides[:, 0], 0)
    # From the body's middle to a limb, the limb's side.
    side = np.where(sides.prod(axis=1) == 0, sides.sum(axis=1), side)

    height, width = picture.shape[:2]
    thickness = max(1.0, min(height, width) / 180)
    margin = 4 * thickness
    starts, ends, inside = _clip(
        places[lines[:, 0]], places[lines[:, 1]],
        -margin, np.array([width, height]) + margin)
    seen = (visibility >= visible_from)[lines].all(axis=1)
    for wanted in (False, True) if hidden == 'faint' else (True,):
        chosen = inside & (seen == wanted)
        if not chosen.any():
            continue
        target = picture if wanted else picture.copy()
        for rim in (True, False):
            for dots in (False, True):
                breadth = thickness * (1.9 if dots else 1) + (rim * 0.8 * thickness)
                for number, colour in ((0, MIDDLE), (1, LEFT), (-1, RIGHT)):
                    these = chosen & (is_dot == dots) & (side == number)
                    _polylines(
                        target, np.stack([starts, ends], axis=1)[these],
                        _DARK if rim else colour, breadth)
        if not wanted:
            ends_px = np.concatenate([starts[chosen], ends[chosen]])
            low = np.maximum(np.floor(ends_px.min(axis=0) - margin), 0).astype(int)
            high = np.ceil(ends_px.max(axis=0) + margin).astype(int)
            box = slice(low[1], max(high[1], 0)), slice(low[0], max(high[0], 0))
            if picture[box].size:
                picture[box] = cv2.addWeighted(
                    target[box], _FAINT, picture[box], 1 - _FAINT, 0)
    return picture


def draw_panel(rgb, index, *, low=None, high=None, text=(), curve=None, curve_s=None):
    """The index in the upper left corner: number, bar, red flag, interval, curve.

    Args:
        rgb: uint8 [H, W, 3].
        index: in [0, 1], 0 best; None or NaN where there is none.
        low, high: its interval; None where there is none.
        text: further lines.
        curve: (times in s, indices), two sequences of the same length, the index NaN
            where there was none; None draws no curve.
        curve_s: the seconds that the curve's width stands for; its right end is the
            last time.

    Returns:
        uint8 [H, W, 3], another array.
    """
    picture = _copy(rgb)
    height, width = picture.shape[:2]
    text = [str(line) for line in text]
    panel_width, panel_height = _PANEL_PX
    panel_height += _LINE_PX * len(text) - (0 if curve else 46)
    unit = min(
        max(min(height, width) / 500, 0.6), (width - 2) / panel_width,
        (height - 2) / panel_height)
    if unit < 0.2:  # a picture too small for words
        return picture

    def place(x, y):
        return round(x * unit), round(y * unit)

    def write(words, x, y, scale, colour=(255, 255, 255)):
        # The same letters beside themselves: thicker ones would also be wider.
        thickness, aside = max(1, round(1.6 * scale * unit)), max(1, round(unit))
        for shade, shift in (((0, 0, 0), aside), (colour, 0)):
            left, base = place(x, y)
            cv2.putText(picture, words, (left + shift, base + shift), _FONT,
                        scale * unit, shade, thickness, cv2.LINE_AA)

    margin = 8 if min(width, height) > 300 * unit else 0
    x0, y0 = margin, margin
    left, top = place(x0, y0)
    right, bottom = place(x0 + panel_width, y0 + panel_height)
    ground = picture[top:bottom, left:right]
    picture[top:bottom, left:right] = cv2.convertScaleAbs(ground, alpha=0.28)

    known = index is not None and np.isfinite(index)
    flagged = bool(known and index > RED_FLAG)
    colour = _RED if flagged else _CALM
    write('spine index', x0 + 10, y0 + 16, 0.4, (215, 215, 215))
    if known:
        write(f'{index:.2f}', x0 + 10, y0 + 42, 0.85)
    else:
        write('none', x0 + 10, y0 + 40, 0.55)
    has_interval = known and None not in (low, high) and np.isfinite([low, high]).all()
    if has_interval:
        write(f'{low:.2f} to {high:.2f}', x0 + 82, y0 + 42, 0.45, (215, 215, 215))
    if flagged:
        cv2.rectangle(picture, place(x0 + 176, y0 + 7), place(x0 + 256, y0 + 27), _RED,
                      -1, cv2.LINE_AA)
        write('RED FLAG', x0 + 185, y0 + 21, 0.4)

    bar_left, bar_width, bar_top, bar_bottom = x0 + 10, 244, y0 + 48, y0 + 57

    def along(value):
        return bar_left + bar_width * float(np.clip(value, 0, 1))

    cv2.rectangle(picture, place(bar_left, bar_top),
                  place(bar_left + bar_width, bar_bottom), (70, 70, 70), -1)
    if known:
        cv2.rectangle(picture, place(bar_left, bar_top),
                      place(along(index), bar_bottom), colour, -1)
    if has_interval:
        middle = (bar_top + bar_bottom) / 2
        cv2.line(picture, place(along(low), middle), place(along(high), middle),
                 (255, 255, 255), max(1, round(2 * unit)), cv2.LINE_AA)
    cv2.line(picture, place(along(RED_FLAG), bar_top - 2),
             place(along(RED_FLAG), bar_bottom + 2), (255, 255, 255),
             max(1, round(unit)))

    line_top = y0 + 58
    if curve:
        _draw_curve(picture, curve, curve_s, place, x0 + 10, y0 + 64, 244, 38)
        line_top = y0 + 104
    for number, line in enumerate(text):
        write(line, x0 + 10, line_top + 12 + _LINE_PX * number, 0.42)
    return picture


def _draw_curve(picture, curve, curve_s, place, x, y, width, height):
    times_s, values = (np.asarray(column, np.float64) for column in curve)
    limit = y + height * (1 - RED_FLAG)
    cv2.rectangle(picture, place(x, y), place(x + width, y + height), (55, 55, 55), -1)
    cv2.line(picture, place(x, limit), place(x + width, limit), (150, 60, 60), 1)
    if not len(times_s):
        return
    span_s = curve_s or max(float(times_s[-1] - times_s[0]), 1e-6)
    points = np.stack([
        x + width * (1 - (times_s[-1] - times_s) / span_s),
        y + height * (1 - np.clip(values, 0, 1))], axis=1)
    kept = np.isfinite(points).all(axis=1) & (points[:, 0] >= x)
    joined = kept[1:] & kept[:-1]
    segments = np.stack([points[:-1], points[1:]], axis=1)[joined]
    last = points[-1:][kept[-1:]]
    segments = np.concatenate([segments, np.stack([last, last], axis=1)])
    unit = place(1000, 0)[0] / 1000
    _polylines(picture, segments * unit, (255, 255, 255), max(1.0, 1.5 * unit))


def draw_skeleton(
    joints, visibility, time_s, *, skeleton, phases, size_hw, visible_from,
    view='front',
):
    """Stick figures side by side on a plain ground: phases of a movement.

    For landmarks that come without a picture. All phases have one scale and one
    ground, so that a bend is shorter and a jump higher; each stands in the middle of
    its own column, wherever the person went.

    Args:
        joints: [T, J, 3] as in skeletons.Motion, in any unit.
        visibility: [T, J] in [0, 1].
        time_s: [T].
        skeleton: skeletons.Skeleton of J joints.
        phases: figures, evenly over the time in which somebody is seen.
        size_hw: of the picture, in pixels.
        visible_from: as in `draw_pose`; joints below it are faint.
        view: 'front', or 'side' with what is nearer to the viewer on the left.

    Returns:
        uint8 [H, W, 3].

    Raises:
        ConfigError: `view` is neither.
        InputError: nobody in any frame.
    """
    if view not in ('front', 'side'):
        raise ConfigError('view', f"{view!r} is neither 'front' nor 'side'")
    joints = np.asarray(joints, np.float64)
    places = joints[..., [0 if view == 'front' else 2, 1]]
    found = np.isfinite(places).all(axis=-1)
    frames = np.flatnonzero(found.mean(axis=1) >= 0.5)
    if not len(frames):
        raise InputError('landmarks', 'nobody is seen in any frame')
    # Some sensors jump by metres in a few frames; these don't set the scale.
    heights = places[..., 1][found]
    top, bottom = np.quantile(heights, [0.005, 0.995])
    middle = places[:, list(skeleton.hips), 0].mean(axis=1)
    beside = np.abs(places[..., 0] - middle[:, None])
    half_width = np.quantile(beside[np.isfinite(beside)], 0.99) if np.isfinite(
        beside).any() else 0.0

    instants = np.linspace(time_s[frames[0]], time_s[frames[-1]], phases)
    seen_s = np.asarray(time_s)[frames]
    chosen = frames[np.abs(seen_s[None] - instants[:, None]).argmin(axis=1)]
    height, width = size_hw
    column, edge, foot = width / phases, 0.06 * height, 0.12 * height
    scale = min(
        (height - edge - foot) / max(bottom - top, 1e-9),
        column / 2.1 / max(half_width, 1e-9))
    picture = np.full((height, width, 3), _PAPER, np.uint8)
    ground_y = height - foot
    cv2.line(picture, (0, round(ground_y)), (width, round(ground_y)), _GREY, 1)
    for number, frame in enumerate(chosen):
        centre = column * (number + 0.5)
        origin = middle[frame]
        if not np.isfinite(origin):
            origin = np.nanmedian(places[frame, :, 0])
        drawn = np.stack([
            centre + (places[frame, :, 0] - origin) * scale,
            ground_y + (places[frame, :, 1] - bottom) * scale], axis=1)
        # Each in its column: an outlier doesn't cross its neighbours.
        left, right = round(column * number), round(column * (number + 1))
        drawn[:, 0] -= left
        picture[:, left:right] = draw_pose(
            np.ascontiguousarray(picture[:, left:right]), drawn, visibility[frame],
            skeleton=skeleton, visible_from=visible_from, hidden='faint')
        words = f'{float(time_s[frame]):.1f} s'
        size = 0.45 * height / 360
        (length, _), _ = cv2.getTextSize(words, _FONT, size, 1)
        corner = round(centre - length / 2), round(height - foot / 3)
        cv2.putText(
            picture, words, corner, _FONT, size, (60, 60, 60), 1, cv2.LINE_AA)
    return picture


def plot_index(time_s, index, low, high, *, quality_time_s, quality, size_hw, title=''):
    """The index over time, and below it how much of the person was seen.

    Args:
        time_s: [n], of each index: the end of its window.
        index: [n], NaN where there is none.
        low, high: [n] or None, its interval.
        quality_time_s: [m].
        quality: [m], the share of visible joints in each frame.
        size_hw: of the picture, in pixels.
        title: above it.

    Returns:
        uint8 [H, W, 3].
    """
    time_s, index = np.asarray(time_s, float), np.asarray(index, float)
    height, width = size_hw
    figure = Figure(
        figsize=(width / 100, height / 100), dpi=100, layout='constrained')
    canvas = FigureCanvasAgg(figure)
    upper, lower = figure.subplots(
        2, 1, sharex=True, gridspec_kw={'height_ratios': [3, 1]})
    calm, red = np.array(_CALM) / 255 * 0.75, np.array(_RED) / 255
    upper.axhspan(RED_FLAG, 1, color=red, alpha=0.07, linewidth=0)
    upper.axhline(RED_FLAG, color=red, linewidth=1.2, linestyle='--')
    upper.text(0.005, RED_FLAG + 0.015, f'red flag over {RED_FLAG:g}', color=red,
               fontsize=8, transform=upper.get_yaxis_transform())
    if low is not None and high is not None:
        low, high = np.asarray(low, float), np.asarray(high, float)
        upper.fill_between(time_s, low, high, color='tab:blue', alpha=0.2, linewidth=0)
        upper.vlines(time_s, low, high, color='tab:blue', alpha=0.35, linewidth=1)
    upper.plot(time_s, index, color='0.25', linewidth=1.5)
    flagged = index > RED_FLAG
    # A lone index has no line to be seen by.
    size = float(np.clip(300 / max(len(index), 1), 6, 36))
    for chosen, colour in ((flagged, red), (~flagged, calm)):
        upper.scatter(time_s[chosen], index[chosen], s=size, color=[colour], zorder=3)
    if not np.isfinite(index).any():
        upper.text(0.5, 0.25, 'no index', ha='center', va='center', color='0.4',
                   transform=upper.transAxes)
    # Overshoots show: an index need not lie within 0 and 1.
    reach = np.concatenate([index, *(
        edge for edge in (low, high) if edge is not None)])
    reach = reach[np.isfinite(reach)]
    upper.set_ylim(min(0.0, *reach, 0.0) - 0.02, max(1.0, *reach, 1.0) + 0.02)
    upper.set_ylabel('index (0 best)')
    upper.set_title(title, fontsize=10)
    lower.fill_between(
        np.asarray(quality_time_s, float), 0, np.asarray(quality, float),
        color='0.6', step='mid', linewidth=0)
    lower.set_ylim(0, 1)
    lower.set_ylabel('joints seen')
    lower.set_xlabel('time, s')
    for axes in (upper, lower):
        axes.grid(color='0.9', linewidth=0.6)
        axes.set_axisbelow(True)
        for edge in ('top', 'right'):
            axes.spines[edge].set_visible(False)
    ends = np.concatenate([time_s, np.asarray(quality_time_s, float)])
    if len(ends) and ends.min() < ends.max():
        lower.set_xlim(ends.min(), ends.max() + 0.02 * (ends.max() - ends.min()))
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


class VideoFile:
    """An mp4 that appears whole: written under another name, then renamed.

    A context manager. Left by an exception, nothing is left behind, and what was
    there before is still there.

    Args:
        path: ends in .mp4.
        rate_hz: pictures a second.

    Raises:
        ConfigError: another suffix or a rate that is none.
        InputError: can't be written.
    """

    def __init__(self, path, *, rate_hz):
        self.path = Path(path)
        self.frames = 0
        if self.path.suffix.lower() != '.mp4':
            raise ConfigError(path, 'annotated videos are written as .mp4')
        if not (np.isfinite(rate_hz) and 0 < rate_hz <= 1000):
            raise ConfigError('rate_hz', f'{rate_hz} is not above 0 and at most 1000')
        self._rate_hz, self._writer, self._size_hw = float(rate_hz), None, None
        self._partial = self.path.with_name(f'.{self.path.stem}.{os.getpid()}.mp4')

    def __enter__(self):
        # Before an hour is recorded, and with the reason, which OpenCV doesn't tell.
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.is_dir():
                raise InputError(self.path, 'is a folder')
            self._partial.write_bytes(b'')
        except OSError as error:
            raise InputError(
                self.path, f"can't be written: {error.strerror}") from None
        return self

    def write(self, rgb):
        """Adds a picture, uint8 [H, W, 3]; all of one size.

        An odd side is continued by one pixel: codecs store colour for two.
        """
        size_hw = rgb.shape[:2]
        if self._writer is None:
            self._open(size_hw)
        if size_hw != self._size_hw:
            raise ImageError(
                self.path, f'pictures of {self._size_hw} and of {size_hw}')
        bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
        if size_hw[0] % 2 or size_hw[1] % 2:
            bgr = cv2.copyMakeBorder(
                bgr, 0, size_hw[0] % 2, 0, size_hw[1] % 2, cv2.BORDER_REPLICATE)
        self._writer.write(bgr)
        self.frames += 1

    def _open(self, size_hw):
        height, width = (side + side % 2 for side in size_hw)
        # MPEG-4 part 2: the one that all of OpenCV's wheels can encode into an mp4.
        self._writer = cv2.VideoWriter(
            str(self._partial), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*'mp4v'),
            self._rate_hz, (width, height))
        self._size_hw = size_hw
        if not self._writer.isOpened():
            raise InputError(
                self.path, f"OpenCV can't write an mp4 of {width} x {height} pixels")

    def __exit__(self, kind, error, trace):
        try:
            if self._writer is not None:
                self._writer.release()
            if kind is None:
                self._finish()
        finally:
            self._partial.unlink(missing_ok=True)

    def _finish(self):
        if not self.frames:
            raise InputError(self.path, 'no pictures to write')
        # The writer tells no errors; a full disk leaves a file without its index.
        reader = cv2.VideoCapture(str(self._partial), cv2.CAP_FFMPEG)
        written = int(reader.get(cv2.CAP_PROP_FRAME_COUNT)) if reader.isOpened() else 0
        reader.release()
        if written != self.frames:
            raise InputError(
                self.path, f'{written} of {self.frames} pictures could be written: '
                'is the disk full?')
        try:
            os.replace(self._partial, self.path)
        except OSError as error:
            raise InputError(
                self.path, f"can't be written: {error.strerror}") from None


def pace(pictures, *, rate_hz):
    """Pictures of any times as those of a constant rate, at the same pace.

    Each comes at the nearest of the rate's instants, and again until the next one's,
    for 10 s at most: what is missing for longer is cut out. Of several at one instant
    the first is shown.

    Args:
        pictures: iterable of (time in s, picture); times don't decrease.
        rate_hz: pictures a second.

    Yields:
        Pictures.
    """
    most = max(int(_LONGEST_STILL_S * rate_hz), 1)
    start_s = previous = None
    shown = 0
    for time_s, picture in pictures:
        start_s = time_s if start_s is None else start_s
        missing = math.floor((time_s - start_s) * rate_hz + 0.5) + 1 - shown
        if missing > most:
            start_s += (missing - most) / rate_hz
            missing = most
        if missing > 0:
            yield from itertools.repeat(
                picture if previous is None else previous, missing - 1)
            yield picture
            shown += missing
        previous = picture


def write_video(path, frames, *, rate_hz):
    """Writes pictures as an mp4: whole, or not at all.

    Args:
        path: ends in .mp4.
        frames: iterable of uint8 [H, W, 3], RGB, all of one size.
        rate_hz: pictures a second.

    Returns:
        The number of pictures.

    Raises:
        ConfigError: another suffix or a rate that is none.
        InputError: no pictures, sizes that differ, can't be written.
    """
    with VideoFile(path, rate_hz=rate_hz) as video:
        for rgb in frames:
            video.write(rgb)
    return video.frames


def _copy(rgb):
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or not rgb.size:
        raise ValueError(
            f'picture is {rgb.dtype} {rgb.shape}, expected uint8 [H, W, 3]')
    return np.array(rgb, order='C')


def _sides(skeleton):
    """Of each joint: 1 left, -1 right, 0 the body's middle."""
    return np.array([
        0 if other == number else 1 if 'left' in name.lower() else -1
        for number, (name, other) in enumerate(zip(skeleton.joints, skeleton.mirror))])


def _clip(starts, ends, low, high):
    """Cuts lines [n, 2] to a box (Liang and Barsky); also whether any is left."""
    # NaN is no less than anything.
    known = ((np.abs(starts) < _FAR_PX) & (np.abs(ends) < _FAR_PX)).all(axis=1)
    starts, ends = (np.where(known[:, None], place, 0.0) for place in (starts, ends))
    along = ends - starts
    level = np.abs(along) < 1e-9
    step = np.where(level, 1.0, along)
    first, second = (low - starts) / step, (high - starts) / step
    within = (starts >= low) & (starts <= high)
    # What runs along an edge of the box is within it all the way, or never.
    never = np.where(within, -np.inf, np.inf)
    enter = np.where(level, never, np.minimum(first, second)).max(axis=1)
    leave = np.where(level, -never, np.maximum(first, second)).min(axis=1)
    enter, leave = np.maximum(enter, 0.0), np.minimum(leave, 1.0)
    inside = known & (enter <= leave)
    enter, leave = (np.where(inside, share, 0.0)[:, None] for share in (enter, leave))
    return starts + enter * along, starts + leave * along, inside


def _polylines(picture, lines, colour, thickness):
    """Lines [n, 2, 2] of (x, y) in pixels."""
    if len(lines):
        places = np.round(lines * 2 ** _FRACTION_BITS).astype(np.int32)
        cv2.polylines(picture, list(places), False, colour, max(1, round(thickness)),
                      cv2.LINE_AA, _FRACTION_BITS)
