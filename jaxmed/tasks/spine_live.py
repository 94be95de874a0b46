"""A trained model of spine health behind a camera: what pose.live needs of it."""

from functools import partial
from typing import Any, Callable, NamedTuple

import numpy as np

from jaxmed.errors import ConfigError
from jaxmed.pose import cleaning, landmarks
from jaxmed.pose.live import Live
from jaxmed.tasks.spine_intervals import bounds, of_windows


class Parts(NamedTuple):
    """What a model has to say about a live run."""

    make_live: Callable[..., Live]  # (landmarker, ...): options that it leaves open
    make_landmarker: Callable[[], Any]
    source_hz: float  # of a folder of frames, which has no rate of its own
    max_pixels: int  # of a frame


def make_parts(
    apply, *, interval, skeleton, cut, segment, clean, rate_hz, source_hz,
    max_gap_s, min_visibility, max_pixels, landmarker,
):
    """The parts of a model that looks at windows of real time.

    Args:
        apply: raw arrays [1, ...] -> {'index', 'spread'} [1], of predict.Predictor.
        interval: of tasks.spine_intervals.calibrate, or None: that of single windows is
            shown.
        skeleton, cut: of the task.
        segment: which exercise is done, as in data.movements.
        clean: pose.cleaning.clean with the task's options, some of which are
        rate_hz, max_gap_s, min_visibility: of the task.
        source_hz: frames a second of a folder of frames.
        max_pixels: of data.videos.open_video.
        landmarker: keywords of pose.landmarks.make_landmarker, and 'kind'.

    Returns:
        Parts.

    Raises:
        ConfigError: a model of whole recordings, of a person's recordings, or of
            another skeleton than a landmarker's.
    """
    if cut.span != 'window' or cut.unit != 'video':
        raise ConfigError(
            'task.span', 'a live index needs a model of windows of single videos')
    if skeleton.name != 'blazepose':
        raise ConfigError(
            'task.skeleton', f'a camera gives blazepose, the model takes '
            f'{skeleton.name}')
    if not landmarker['model']:
        raise ConfigError('task.landmark_model', 'name a .task bundle of BlazePose')

    def score(inputs, frame_mask):
        answer = apply({
            'inputs': inputs[None], 'frame_mask': frame_mask[None],
            'segment': np.full((1, len(inputs)), segment, np.int8),
            'step_s': np.full((1, len(inputs)), 1 / rate_hz, np.float32),
        })
        return bounds(np.asarray(answer['index'])[0], np.asarray(answer['spread'])[0],
                      of_windows(interval))

    return Parts(
        partial(
            Live, score=score, skeleton=skeleton, frames=cut.frames, rate_hz=rate_hz,
            clean=clean, max_gap_s=max_gap_s, visible_from=min_visibility,
            least_known=cleaning.LEAST_KNOWN),
        lambda: landmarks.make_landmarker(**landmarker), source_hz, max_pixels)
