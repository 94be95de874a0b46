"""Pictures are made as small as asked, and no smaller."""

import numpy as np
import pytest

from jaxmed.pose.capture import reduce


def test_a_picture_is_reduced_to_the_height_asked_for_and_never_enlarged():
    column = np.linspace(0, 255, 300).astype(np.uint8)
    ramp = np.tile(column[:, None, None], (1, 200, 3))
    for height in (16, 75, 100, 149, 150, 299):
        reduced = reduce(ramp, height)
        assert reduced.shape[0] == height
        assert reduced.shape[1] == pytest.approx(height * 200 / 300, abs=1)
        assert reduced.mean() == pytest.approx(ramp.mean(), abs=1)
    assert reduce(ramp, 300) is ramp and reduce(ramp, 9000) is ramp
