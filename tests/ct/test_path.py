"""Tests of jaxmed.ct.path."""

import numpy as np
import pytest

from jaxmed.ct import path
from jaxmed.ct.path import DETECTED, EXTRAPOLATED, INTERPOLATED
from jaxmed.errors import ImageError

RULES = path.PathRules(
    min_confidence=0.5, tolerance_mm=8, max_slope=0.8, max_jump_mm=40,
    extrapolate_mm=30)


def trace(slices, centres_mm, confidences=None, *, num_slices=100, spacing=3.0):
    if confidences is None:
        confidences = np.full(len(slices), 0.9)
    return path.trace_path(
        slices, centres_mm, confidences, num_slices=num_slices,
        spacing_mm=(spacing, 0.8, 0.7), where='scan.nii', rules=RULES)


def straight(slices):
    """A cord that leans back by 0.2 and to the right by 0.1 at 3 mm a slice."""
    slices = np.asarray(slices)
    return np.stack([200 + 0.6 * slices, 150 - 0.3 * slices], axis=1)


def test_between_detections_the_path_is_linear():
    found = trace([20, 30, 50], [[100, 50], [110, 50], [100, 60]], [0.6, 0.8, 1.0])
    np.testing.assert_allclose(found.centre_mm[25], [105, 50], rtol=1e-6)
    np.testing.assert_allclose(found.centre_mm[45], [102.5, 57.5], rtol=1e-6)
    np.testing.assert_allclose(found.confidence[[25, 40]], [0.7, 0.9], rtol=1e-6)
    np.testing.assert_array_equal(found.centre_mm[[20, 30, 50]],
                                  [[100, 50], [110, 50], [100, 60]])


def test_every_slice_says_what_it_stands_on():
    found = trace([20, 30, 50], straight([20, 30, 50]))
    expected = np.full(100, INTERPOLATED)
    expected[:20] = expected[51:] = EXTRAPOLATED
    expected[[20, 30, 50]] = DETECTED
    np.testing.assert_array_equal(found.kind, expected)
    assert path.KINDS[found.kind[0]] == 'extrapolated'


def test_beyond_the_last_detection_the_slope_is_followed_for_30_mm():
    found = trace([20, 30, 40, 50], straight([20, 30, 40, 50]))
    followed = np.clip(np.arange(100), 10, 60)  # 30 mm are ten slices
    np.testing.assert_allclose(found.centre_mm, straight(followed), atol=1e-3)


def test_the_slope_of_an_end_is_that_of_its_60_mm():
    slices = np.arange(10, 91, 10)
    bent = straight(slices)
    bent[:6] = bent[6]  # upright below slice 70, leaning above: 60 mm
    found = trace(slices, bent)
    np.testing.assert_allclose(found.centre_mm[:71], np.tile(bent[6], (71, 1)),
                               atol=1e-3)
    np.testing.assert_allclose(found.centre_mm[99], straight([99])[0], atol=1e-3)


def test_two_neighbouring_slices_tell_no_slope():
    found = trace([40, 41], [[100, 50], [102, 50]])
    np.testing.assert_array_equal(found.centre_mm[0], [100, 50])
    np.testing.assert_array_equal(found.centre_mm[99], [102, 50])


@pytest.mark.parametrize('wrong', [[40], [0], [90], [30, 40], [0, 10], [80, 90]])
def test_detections_that_jump_aside_are_left_out(wrong):
    """One or two in a row take the aorta, 50 mm before the canal."""
    slices = np.arange(0, 91, 10)
    centres = straight(slices)
    centres[np.isin(slices, wrong)] -= [50, 10]
    found = trace(slices, centres)
    inside = slices[~np.isin(slices, wrong)]
    assert set(np.flatnonzero(found.kind == DETECTED)) == set(inside)
    np.testing.assert_allclose(found.centre_mm[inside], straight(inside), rtol=1e-6)
    between = slice(inside[0], inside[-1] + 1)
    np.testing.assert_allclose(
        found.centre_mm[between], straight(np.arange(100))[between], atol=1e-3)


def test_a_curved_spine_is_no_jump():
    slices = np.arange(0, 100, 10)
    curved = np.stack([200 + 30 * np.sin(slices / 15), 150 + slices * 0], axis=1)
    assert (trace(slices, curved).kind == DETECTED).sum() == 10  # slope up to 0.6


def test_of_two_detections_on_a_slice_the_one_in_line_stays():
    slices = [10, 20, 20, 30]
    centres = straight(slices)
    centres[1] += 60
    found = trace(slices, centres, [0.9, 0.99, 0.6, 0.9])
    np.testing.assert_allclose(found.centre_mm[20], straight([20])[0], rtol=1e-6)


def test_of_two_detections_close_together_on_a_slice_the_surer_stays():
    slices = [10, 20, 20, 30]
    centres = straight(slices)
    centres[1] += 3
    found = trace(slices, centres, [0.9, 0.6, 0.8, 0.9])
    np.testing.assert_allclose(found.centre_mm[20], straight([20])[0], rtol=1e-6)


def test_order_and_unsure_detections_do_not_matter():
    slices = np.array([10, 30, 50, 70])
    expected = trace(slices, straight(slices))
    shuffled = np.array([50, 40, 10, 70, 30, 60])
    centres = straight(shuffled)
    centres[[1, 5]] = [[np.nan, 3], [210, 140]]
    found = trace(shuffled, centres, [0.9, 0.9, 0.9, 0.9, 0.9, 0.49])
    for actual, wanted in zip(found, expected):
        np.testing.assert_array_equal(actual, wanted)


@pytest.mark.parametrize('slices, confidences', [
    ([], []), ([10], [1.0]), ([10, 20], [1.0, 0.3]), ([10, 10], [1.0, 1.0])])
def test_fewer_than_two_sure_slices_are_no_spine(slices, confidences):
    with pytest.raises(ImageError, match='scan.nii: no spine found'):
        trace(slices, straight(slices), confidences)


def test_two_detections_that_exclude_each_other_are_no_spine():
    with pytest.raises(ImageError, match='none of which fit together'):
        trace([10, 20], [[100, 50], [200, 150]])


def test_a_slice_outside_of_the_scan_is_refused():
    with pytest.raises(ValueError, match='slices 5 to 100 of a scan of 100'):
        trace([5, 100], straight([5, 100]))


def test_scans_of_a_bucket_share_one_program():
    before = path._trace._cache_size()
    for num_slices, slices in [(200, [20, 30, 50]), (250, [20, 30, 40, 60, 200])]:
        found = trace(slices, straight(slices), num_slices=num_slices)
        assert [len(values) for values in found] == [num_slices] * 3
    assert path._trace._cache_size() <= before + 1
