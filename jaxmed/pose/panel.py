"""The index in the corner of a picture: number, bar, red flag, interval, curve."""

import cv2
import numpy as np

from jaxmed.metrics import RED_FLAG
from jaxmed.pose.drawing import FONT, copy_picture, draw_polylines

RED, CALM = (235, 50, 45), (90, 205, 150)
_WHITE, _PALE = (255, 255, 255), (215, 215, 215)
# In units of the panel: width and height, without lines of text; of a line; of the
# curve and the gap above it; from the left edge to what is within; of bar and curve.
_WIDTH, _HEIGHT, _LINE, _CURVE, _LEFT, _BREADTH = 264, 104, 19, 46, 10, 244


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
    picture = copy_picture(rgb)
    height, width = picture.shape[:2]
    text = [str(line) for line in text]
    tall = _HEIGHT + _LINE * len(text) - (0 if curve else _CURVE)
    unit = min(
        max(min(height, width) / 500, 0.6), (width - 2) / _WIDTH, (height - 2) / tall)
    if unit < 0.2:  # a picture too small for words
        return picture
    panel = _Panel(picture, unit, 8 if min(width, height) > 300 * unit else 0)
    left, top = panel.place(0, 0)
    right, bottom = panel.place(_WIDTH, tall)
    ground = picture[top:bottom, left:right]
    picture[top:bottom, left:right] = cv2.convertScaleAbs(ground, alpha=0.28)

    if index is not None and not np.isfinite(index):
        index = None
    interval = None
    if index is not None and None not in (low, high) and np.isfinite([low, high]).all():
        interval = low, high
    _draw_number(panel, index, interval)
    _draw_bar(panel, index, interval)
    if curve:
        _draw_curve(panel, curve, curve_s, top=64, height=38)
    line_top = 104 if curve else 58
    for number, line in enumerate(text):
        panel.write(line, _LEFT, line_top + 12 + _LINE * number, 0.42)
    return picture


class _Panel:
    """A picture's corner, in places that grow with the picture."""

    def __init__(self, picture, unit, margin):
        self.picture, self.unit, self.margin = picture, unit, margin

    def place(self, x, y):
        """Pixels."""
        return round((self.margin + x) * self.unit), round(
            (self.margin + y) * self.unit)

    def write(self, words, x, y, scale, colour=_WHITE):
        # The same letters beside themselves: thicker ones would also be wider.
        thickness = max(1, round(1.6 * scale * self.unit))
        for shade, shift in (((0, 0, 0), max(1, round(self.unit))), (colour, 0)):
            left, base = self.place(x, y)
            cv2.putText(self.picture, words, (left + shift, base + shift), FONT,
                        scale * self.unit, shade, thickness, cv2.LINE_AA)

    def fill(self, left, top, right, bottom, colour, kind=cv2.LINE_8):
        cv2.rectangle(self.picture, self.place(left, top), self.place(right, bottom),
                      colour, -1, kind)

    def line(self, first, last, colour, thickness, kind=cv2.LINE_8):
        cv2.line(self.picture, self.place(*first), self.place(*last), colour, thickness,
                 kind)


def _draw_number(panel, index, interval):
    panel.write('spine index', _LEFT, 16, 0.4, _PALE)
    if index is None:
        panel.write('none', _LEFT, 40, 0.55)
        return
    panel.write(f'{index:.2f}', _LEFT, 42, 0.85)
    if interval is not None:
        panel.write('{:.2f} to {:.2f}'.format(*interval), 82, 42, 0.45, _PALE)
    if index > RED_FLAG:
        panel.fill(176, 7, 256, 27, RED, cv2.LINE_AA)
        panel.write('RED FLAG', 185, 21, 0.4)


def _draw_bar(panel, index, interval, *, top=48, bottom=57):
    def along(value):
        return _LEFT + _BREADTH * float(np.clip(value, 0, 1))

    panel.fill(_LEFT, top, _LEFT + _BREADTH, bottom, (70, 70, 70))
    if index is not None:
        panel.fill(_LEFT, top, along(index), bottom, RED if index > RED_FLAG else CALM)
    if interval is not None:
        middle = (top + bottom) / 2
        panel.line(*((along(end), middle) for end in interval), _WHITE,
                   max(1, round(2 * panel.unit)), cv2.LINE_AA)
    panel.line((along(RED_FLAG), top - 2), (along(RED_FLAG), bottom + 2), _WHITE,
               max(1, round(panel.unit)))


def _draw_curve(panel, curve, curve_s, *, top, height):
    times_s, values = (np.asarray(column, np.float64) for column in curve)
    right, limit = _LEFT + _BREADTH, top + height * (1 - RED_FLAG)
    panel.fill(_LEFT, top, right, top + height, (55, 55, 55))
    panel.line((_LEFT, limit), (right, limit), (150, 60, 60), 1)
    if not len(times_s):
        return
    span_s = curve_s or max(float(times_s[-1] - times_s[0]), 1e-6)
    points = np.stack([
        _LEFT + _BREADTH * (1 - (times_s[-1] - times_s) / span_s),
        top + height * (1 - np.clip(values, 0, 1))], axis=1)
    kept = np.isfinite(points).all(axis=1) & (points[:, 0] >= _LEFT)
    joined = kept[1:] & kept[:-1]
    segments = np.stack([points[:-1], points[1:]], axis=1)[joined]
    last = points[-1:][kept[-1:]]
    segments = np.concatenate([segments, np.stack([last, last], axis=1)])
    unit = round(1000 * panel.unit) / 1000
    draw_polylines(panel.picture, (panel.margin + segments) * unit, _WHITE,
                   max(1.0, 1.5 * unit))
