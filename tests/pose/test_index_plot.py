"""A plot marks what is red and shows gaps."""

import subprocess
import sys

import numpy as np

from jaxmed.pose.index_plot import plot_index
from jaxmed.pose.panel import RED


def plot(index, **options):
    count = len(index)
    given = dict(
        low=None, high=None, quality_time_s=np.arange(30) / 10,
        quality=np.full(30, 0.9), size_hw=(301, 400)) | options
    return plot_index(np.arange(count) * 0.5, index, **given)


def count_red_dots(picture):
    return int((abs(picture.astype(int) - RED).max(-1) < 12).sum())


def test_a_plot_marks_what_is_red_and_shows_gaps_and_a_lone_index():
    for index in ([], [np.nan], [0.3], [0.2, np.nan, 0.7], [1.4, -0.3]):
        picture = plot(np.array(index))
        assert picture.shape == (301, 400, 3) and picture.dtype == np.uint8
    line = count_red_dots(plot(np.array([0.2])))
    assert count_red_dots(plot(np.array([0.8]))) > line + 10
    np.testing.assert_array_equal(
        plot(np.array([0.1, 0.9])), plot(np.array([0.1, 0.9])))


def test_a_plot_leaves_pyplot_alone():
    code = (
        'import sys, numpy as np; from jaxmed.pose import index_plot; '
        'index_plot.plot_index([0.], [.4], [.3], [.5], quality_time_s=[0.], '
        'quality=[1.], size_hw=(200, 300)); '
        'assert "matplotlib.pyplot" not in sys.modules')
    subprocess.run([sys.executable, '-c', code], check=True, timeout=60)
