"""A model behind a camera sees what it was trained on, within the task's limits."""

import numpy as np
import pytest

from configs import spine_health_lstm
from jaxmed import runs
from jaxmed.pose import cleaning


def test_live_parts_clean_and_are_limited_as_the_task_says():
    config = spine_health_lstm.get_config().to_dict()
    config['task'] |= dict(
        landmark_model='any.task', max_pixels=12_345, frames=20, stride=20,
        rate_hz=10.0, source_hz=25.0, min_visibility=0.4, max_gap_s=0.3)
    task = runs.make_task(config, axis_name='batch')
    seen = []

    def apply(arrays):
        seen.append(arrays)
        return {'index': np.float32([0.3]), 'spread': np.float32([0.0])}

    parts = task.live(apply)
    chosen = parts.make_live.keywords
    assert parts.source_hz == 25  # of folders of frames; rate_hz is the window's
    assert parts.max_pixels == 12_345 and chosen['visible_from'] == 0.4
    assert chosen['clean'].func is cleaning.clean
    assert {name: chosen['clean'].keywords[name] for name in (
        'min_visibility', 'max_gap_s', 'rate_hz', 'smoothing')} == dict(
            min_visibility=0.4, max_gap_s=0.3, rate_hz=10.0, smoothing='none')
    # A joint that cleaning filled in keeps what it was seen with, and is known.
    inputs = np.ones((20, 33, 4), np.float32)
    inputs[3, 5, 3] = 0.1
    assert chosen['score'](inputs, np.ones(20, bool)) == (np.float32(0.3), None, None)
    np.testing.assert_array_equal(seen[0]['inputs'][0], inputs)
    # What is shown is one window's, whatever is known of whole recordings.
    chosen = task.calibrated({
        'width': 0.1, 'window_width': 0.2, 'by_spread': False,
    }).live(apply).make_live.keywords
    assert chosen['score'](inputs, np.ones(20, bool)) == (
        pytest.approx((0.3, 0.1, 0.5)))
