"""A panel tells the index, on a picture of any size."""


import numpy as np
import pytest

from jaxmed.pose.panel import CALM, RED, draw_panel


def bar(index, **options):
    """Coloured pixels in the bar's row of a panel on a picture of scale 1."""
    picture = draw_panel(
        np.full((900, 500, 3), 90, np.uint8), index, **options)
    row = picture[58]  # the margin is 8, the bar from 48 to 57 below it
    return (row == CALM).all(-1).sum(), (row == RED).all(-1).sum()


def test_the_bar_is_as_long_as_the_index_and_red_over_one_half():
    assert bar(0.25)[0] == pytest.approx(0.25 * 244, abs=2)
    assert bar(0.499) == (pytest.approx(0.499 * 244, abs=3), 0)
    # The line at the limit hides a pixel or two of the bar.
    assert bar(0.501) == (0, pytest.approx(0.5 * 244, abs=3))
    assert bar(1.0) == (0, pytest.approx(244, abs=3))
    assert bar(7.0) == bar(1.0)
    assert bar(-3.0)[0] <= 1


def test_without_an_index_there_is_no_bar_and_no_flag():
    for unknown in (None, float('nan')):
        assert bar(unknown, low=0.2, high=0.9) == (0, 0)


def flag(index):
    picture = draw_panel(np.full((900, 500, 3), 90, np.uint8), index)
    return bool((picture[15:35, 180:270] == RED).all(-1).sum() > 500)


def test_the_red_flag_is_up_over_one_half():
    assert [flag(index) for index in (None, 0.0, 0.5, 0.51, 0.9)] == [
        False, False, False, True, True]


def test_a_panel_fits_on_a_picture_of_any_size():
    curve = np.arange(9.0), np.array([0.1, np.nan, 0.3, 0.4, np.nan, 0.5, 0.9, 1.2, -1])
    for height, width in (
        (1, 1), (16, 16), (48, 640), (640, 48), (97, 131), (1080, 1920),
    ):
        picture = np.zeros((height, width, 3), np.uint8)
        for some in (None, curve, ((), ())):
            drawn = draw_panel(
                picture, 0.6, low=0.5, high=0.7, text=('index in 3.0 s', 'x' * 200),
                curve=some, curve_s=4.0)
            assert drawn.shape == picture.shape and drawn.dtype == np.uint8
