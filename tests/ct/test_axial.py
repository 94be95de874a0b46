"""Slices of any size and spacing as one square; places go there and back."""

import numpy as np
import pytest

from jaxmed.ct import axial

GRID = dict(size_px=64, pixel_mm=2.0)


@pytest.mark.parametrize('sides, spacing', [
    ((100, 90), (1.0, 1.0)), ((300, 512), (0.7, 0.7)), ((40, 44), (3.0, 3.0)),
    ((512, 300), (0.9, 0.5)),
])
def test_a_bright_block_comes_to_the_place_that_to_square_names(sides, spacing):
    slices = np.full((1, *sides), -1000, np.int16)
    middle = np.array(sides) // 2 + np.array([7, -5])
    reach = np.ceil(8 / np.array(spacing)).astype(int)
    low, high = middle - reach, middle + reach
    slices[0, low[0]:high[0], low[1]:high[1]] = 1000
    square = np.asarray(axial.resample(slices, spacing, **GRID))[0]
    box = axial.to_square(np.array([low, high]), sides, spacing, **GRID)
    inside = square > 0
    rows, columns = np.nonzero(inside)
    np.testing.assert_allclose(
        [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1], box.ravel(),
        atol=0.51)
    back = axial.from_square(box, sides, spacing, **GRID)
    np.testing.assert_allclose(back, [low, high], atol=1e-9)


def test_outside_of_a_slice_is_air_and_one_size_is_compiled_for_many():
    small = np.full((2, 20, 30), 500, np.int16)
    square = np.asarray(axial.resample(small, (1.0, 1.0), **GRID))
    assert square[0, 0, 0] == axial.AIR_HU and square[0, 32, 32] == 500
    before = axial._resample._cache_size()
    axial.resample(np.zeros((2, 199, 240), np.int16), (0.8, 0.9), **GRID)
    assert axial._resample._cache_size() == before


def test_noise_is_averaged_where_pixels_become_larger():
    rng = np.random.default_rng(0)
    noisy = rng.normal(0, 100, (1, 256, 256)).astype(np.int16)
    coarse = np.asarray(axial.resample(noisy, (0.5, 0.5), **GRID))[0]
    assert coarse[8:-8, 8:-8].std() < 35  # 4 x 4 pixels in each: a quarter, and more
