"""A person who is one white dot: pictures, a landmarker and a score of it."""

import time
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from jaxmed.pose import cleaning
from jaxmed.pose.live import Live
from jaxmed.pose.skeletons import BLAZEPOSE

SIZE_HW = 120, 160
TRUNK = [*BLAZEPOSE.hips, *BLAZEPOSE.shoulders]


class Frame(NamedTuple):
    rgb: Any
    time_s: float
    number: int


class Pose(NamedTuple):
    joints: Any
    visibility: Any
    people: int


class Spotter:
    """A landmarker of people who are one white dot; it may take its time."""

    counts_people = False

    def __init__(self, seconds=0.0, *, visible=slice(None)):
        self.seconds, self.visible = seconds, visible

    def find(self, frames):
        time.sleep(self.seconds)
        return [self._find(frame.rgb[..., 0]) for frame in frames]

    def _find(self, grey):
        if grey.max() < 100:
            return None
        rows, columns = np.nonzero(grey > grey.max() / 2)
        place = np.array([columns.mean() + 0.5, rows.mean() + 0.5, 0], np.float32)
        visibility = np.zeros(33, np.float32)
        visibility[self.visible] = 1
        return Pose(np.tile(place, (33, 1)), visibility, 1)


def make_frames(count, *, rate_hz=30.0, size_hw=SIZE_HW, present=lambda number: True):
    """A dot that walks to the right by half a pixel a frame."""
    for number in range(count):
        rgb = np.zeros((*size_hw, 3), np.uint8)
        if present(number):
            left = 20 + number // 2
            rgb[40:44, left:left + 4] = 255
        yield Frame(rgb, number / rate_hz, number)


def where_it_is(inputs, frame_mask):
    """The mean x of the window, in widths of the picture: what a score may be."""
    index = np.nanmean(inputs[frame_mask][..., 0]) / SIZE_HW[1] if (
        frame_mask.any()) else 0.0
    return index, index - 0.1, index + 0.1


def cleaner(**options):
    return partial(cleaning.clean, **dict(
        min_visibility=0.5, max_gap_s=0.2, smoothing='none', rate_hz=30.0) | options)


def make_live(landmarker=None, score=where_it_is, **options):
    return Live(landmarker or Spotter(), score, skeleton=BLAZEPOSE, **dict(
        frames=30, buckets=2, rate_hz=30, stride_s=0.0, clean=cleaner(), max_gap_s=0.2,
        least_known=0.5, smoothing_s=0.0, max_height=480, visible_from=0.5,
        stall_s=5.0) | options)


def run(system, source, **options):
    return list(system.run(source, **dict(
        name='video', realtime=False, endless=False) | options))
