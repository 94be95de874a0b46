"""A plot marks what is red and shows gaps; that of a person has all recordings."""

import subprocess
import sys

import numpy as np

from jaxmed.pose import index_plot
from jaxmed.pose.panel import RED


def plot(index, **options):
    count = len(index)
    given = dict(
        low=None, high=None, quality_time_s=np.arange(30) / 10,
        quality=np.full(30, 0.9), size_hw=(301, 400)) | options
    return index_plot.plot_index(np.arange(count) * 0.5, index, **given)


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


def plot_person(index, low=None, high=None, *, count=3, windows=()):
    time_s = np.arange(30) / 10
    return index_plot.plot_person(
        index, low, high, list(windows),
        [(f'number {number}', time_s, np.full(30, 0.9)) for number in range(count)],
        size_hw=(420, 900), title='x')


def test_a_persons_plot_has_the_index_its_interval_and_a_panel_for_each_recording():
    def columns(one, other):
        return np.flatnonzero((one != other).any(axis=(0, 2)))

    plain = plot_person(0.3)
    assert plain.shape == (420, 900, 3) and plain.dtype == np.uint8
    line = count_red_dots(plain)
    assert count_red_dots(plot_person(0.8)) > line + 10
    # The axis goes from 57 to 895 pixels, and from -0.02 to 1.02.
    places = columns(plain, plot_person(0.3, 0.1, 0.7))
    expected = 57 + (np.array([0.1, 0.7]) + 0.02) / 1.04 * 838
    np.testing.assert_allclose([places[0], places[-1]], expected, atol=12)
    assert len(columns(plain, plot_person(0.3, windows=[0.2, 0.4])))
    for count in (1, 2, 5):
        assert np.any(plot_person(0.3, count=count) != plain)


def test_a_plot_leaves_pyplot_alone():
    code = (
        'import sys, numpy as np; from jaxmed.pose import index_plot; '
        'index_plot.plot_index([0.], [.4], [.3], [.5], quality_time_s=[0.], '
        'quality=[1.], size_hw=(200, 300)); '
        'assert "matplotlib.pyplot" not in sys.modules')
    subprocess.run([sys.executable, '-c', code], check=True, timeout=60)
