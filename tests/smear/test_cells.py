import numpy as np
import pytest

from jaxmed.smear import cells

OPTIONS = dict(
    threshold=0.5, min_confidence=0.0, min_area_px=20, min_distance_px=5, neck_ratio=0.8
)


def discs(*circles, size_hw=(96, 128)):
    """Mask of discs given as (row, column, radius)."""
    rows, columns = np.indices(size_hw)
    return np.any([
        (rows - row) ** 2 + (columns - column) ** 2 <= radius ** 2
        for row, column, radius in circles], axis=0)


def count(mask, **options):
    return cells.separate(mask, **(OPTIONS | options)).max()


def test_touching_equal_discs_are_parted_halfway():
    mask = discs((40, 30, 20), (40, 62, 20))  # the chord lies at column 46
    labels = cells.separate(mask, **OPTIONS)
    assert labels.dtype == np.int32
    assert set(labels[:, :46][mask[:, :46]]) == {1}
    assert set(labels[:, 47:][mask[:, 47:]]) == {2}


def test_a_big_and_a_small_disc_are_parted_at_their_chord():
    mask = discs((40, 30, 24), (40, 63, 12))
    labels = cells.separate(mask, **OPTIONS)
    # (d^2 + R^2 - r^2) / 2d = 23.05 from the big disc's centre.
    columns = np.indices(mask.shape)[1]
    assert set(labels[mask & (columns < 51.5)]) == {1}
    assert set(labels[mask & (columns > 54.5)]) == {2}


@pytest.mark.parametrize('distance, expected', [(40, 1), (46, 1), (50, 2), (60, 2)])
def test_equal_discs_part_where_the_docstring_says(distance, expected):
    # 2 * 40 * sqrt(1 - 0.8^2) = 48.
    mask = discs((50, 50, 40), (50, 50 + distance, 40), size_hw=(100, 200))
    assert count(mask) == expected


def test_three_in_a_row_are_three():
    assert count(discs((40, 20, 15), (40, 46, 15), (40, 72, 15))) == 3


def test_four_in_a_clump_are_four_and_the_gap_between_them_stays():
    mask = discs((30, 30, 15), (30, 56, 15), (56, 30, 15), (56, 56, 15))
    assert not mask[43, 43]
    labels = cells.separate(mask, **(OPTIONS | dict(min_area_px=100)))
    assert labels.max() == 4
    np.testing.assert_array_equal(labels > 0, mask)


@pytest.mark.parametrize('radius', [4, 9, 20.5, 44])
def test_a_disc_is_one(radius):
    assert count(discs((47, 60, radius))) == 1


def test_a_kidney_is_one():
    kidney = discs((45, 60, 32)) & ~discs((12, 60, 18))
    assert count(kidney) == 1


def test_a_bent_sausage_is_one():
    ring = discs((60, 60, 34)) & ~discs((60, 60, 14))
    ring[60:] = False
    assert count(ring) == 1


@pytest.mark.parametrize('semiaxes', [(10, 40), (30, 12), (6, 44)])
def test_an_ellipse_is_one(semiaxes):
    rows, columns = np.indices((96, 128))
    ellipse = ((rows - 48) / semiaxes[0]) ** 2 + ((columns - 60) / semiaxes[1]) ** 2
    assert count(ellipse <= 1) == 1


def test_a_rectangle_is_one_although_its_ridge_is_flat():
    mask = np.zeros((50, 90), bool)
    mask[10:31, 10:80] = True
    assert count(mask) == 1


def test_a_cell_cut_by_the_frame_is_one():
    assert count(discs((0, 60, 20))) == 1
    assert count(discs((-12, 60, 20))) == 1


@pytest.mark.parametrize('shape', [
    discs((40, 30, 20), (40, 62, 20)), discs((40, 30, 24), (40, 63, 12)),
    discs((45, 60, 32)) & ~discs((12, 60, 18))])
def test_count_does_not_change_with_scale_or_turns(shape):
    expected = count(shape)
    for factor in (2, 3):
        larger = shape.repeat(factor, axis=0).repeat(factor, axis=1)
        assert count(larger, min_distance_px=5 * factor) == expected
    for turns in (1, 2, 3):
        assert count(np.rot90(shape, turns)) == expected
    assert count(shape[:, ::-1]) == expected


def test_every_foreground_pixel_keeps_a_label():
    rows, columns = np.random.default_rng(0).integers(0, 200, (2, 40))
    mask = discs(*((row, column, 12) for row, column in zip(rows, columns)),
                 size_hw=(200, 200))
    labels = cells.separate(mask, **(OPTIONS | dict(min_area_px=1)))
    assert np.all(labels[mask] > 0)
    assert sorted(np.unique(labels)) == list(range(labels.max() + 1))


def test_holes_are_filled_and_specks_removed():
    mask = discs((40, 40, 20))
    holed = mask & ~discs((40, 40, 8))
    holed[80:83, 100:105] = True  # 15 pixels, fewer than 20
    np.testing.assert_array_equal(cells.separate(holed, **OPTIONS), mask)


@pytest.mark.parametrize(
    'row, column, radius', [(40, 46, 8), (36, 40, 12), (40, 40, 1)])
def test_a_cell_with_a_hole_is_one(row, column, radius):
    mask = discs((40, 40, 20))
    labels = cells.separate(mask & ~discs((row, column, radius)), **OPTIONS)
    np.testing.assert_array_equal(labels, mask)


def test_pinholes_do_not_part_a_long_cell():
    rows, columns = np.indices((96, 128))
    mask = ((rows - 48) / 12) ** 2 + ((columns - 60) / 40) ** 2 <= 1
    holed = mask & ~discs((48, 45, 1), (47, 70, 1))
    labels = cells.separate(holed, **(OPTIONS | dict(min_area_px=100)))
    np.testing.assert_array_equal(labels, mask)


def test_min_area_is_the_smallest_area_that_stays():
    mask = np.zeros((20, 20), bool)
    mask[3:7, 3:8] = True
    assert count(mask, min_area_px=20) == 1
    assert count(mask, min_area_px=21) == 0


def test_a_small_part_of_a_component_joins_its_neighbour():
    mask = discs((40, 30, 20), (40, 54, 5))
    assert count(mask) == 2
    labels = cells.separate(mask, **(OPTIONS | dict(min_area_px=100)))
    np.testing.assert_array_equal(labels, mask)


def test_a_small_part_joined_at_a_corner_joins_its_neighbour():
    mask = np.zeros((30, 30), bool)
    mask[5:15, 5:15] = mask[15:18, 15:18] = True
    np.testing.assert_array_equal(cells.separate(mask, **OPTIONS), mask)


def test_neck_ratio_is_a_ratio_of_widths():
    mask = np.zeros((9, 20), bool)
    mask[2:5, 2:5] = mask[2:5, 9:12] = mask[3, 5:9] = True  # a bridge 1 wide, ends 3
    options = dict(min_area_px=1, min_distance_px=2)
    assert count(mask, neck_ratio=0.32, **options) == 1
    assert count(mask, neck_ratio=0.35, **options) == 2


def test_peaks_closer_than_the_minimum_distance_are_one_cell():
    mask = discs((40, 30, 20), (40, 62, 20))
    assert count(mask, min_distance_px=30) == 2
    assert count(mask, min_distance_px=34) == 1


def test_cells_touching_only_at_a_corner_are_two():
    mask = np.zeros((40, 40), bool)
    mask[5:15, 5:15] = mask[15:25, 15:25] = True
    assert count(mask) == 2


def test_cells_are_numbered_in_the_order_of_their_first_pixels():
    # Their tops are in rows 15, 20 and 60; their middles in rows 45, 30 and 70.
    labels = cells.separate(discs((45, 40, 30), (30, 90, 10), (70, 90, 10)), **OPTIONS)
    assert [labels[45, 40], labels[30, 90], labels[70, 90]] == [1, 2, 3]


def test_pictures_without_background_or_without_cells_have_one_and_none():
    assert count(np.ones((30, 40))) == 1
    assert count(np.zeros((30, 40))) == 0
    assert count(np.full((1, 1), 0.5), min_area_px=1) == 1


def test_measures_are_those_worked_out_by_hand():
    labels = np.array([[0, 1, 1], [0, 1, 0], [3, 0, 0]])
    probability = np.array([[0.1, 0.8, 0.6], [0.0, 1.0, 0.2], [0.7, 0.0, 0.0]])
    one, three = cells.measure(labels, probability)
    assert one['label'] == 1 and three['label'] == 3
    assert one['area_px'] == 3 and three['area_px'] == 1
    assert one['mean_probability'] == pytest.approx(0.8)
    assert one['centroid_yx'] == pytest.approx((1 / 3, 4 / 3))
    assert one['bbox'] == (0, 1, 2, 3)
    assert three['bbox'] == (2, 0, 3, 1)


def test_nothing_measured_gives_an_empty_list():
    assert cells.measure(np.zeros((4, 5), np.int32), np.ones((4, 5))) == []


def square(left, *, size_hw=(30, 40)):
    mask = np.zeros(size_hw, bool)
    mask[10:20, left:left + 10] = True
    return mask


def test_outlines_three_pixels_apart_match_in_part():
    # Of the 36 outline pixels the 10 on the far side and 4 in the middle of the near
    # side are 3 pixels off; all others lie within 2 of the other square's outline.
    scores = cells.boundary_scores(square(10), square(13), tolerance_px=2)
    assert scores == pytest.approx((22 / 36, 22 / 36))
    assert cells.boundary_scores(square(10), square(13), tolerance_px=3) == (1, 1)


def test_boundary_precision_and_recall_are_not_swapped():
    both = square(2) | square(25)
    assert cells.boundary_scores(square(2), both, tolerance_px=2) == (1, 0.5)
    assert cells.boundary_scores(both, square(2), tolerance_px=2) == (0.5, 1)


def test_one_empty_mask_scores_zero_and_two_are_undefined():
    empty = np.zeros((30, 40), bool)
    assert cells.boundary_scores(empty, square(3), tolerance_px=2) == (0, 0)
    assert cells.boundary_scores(square(3), empty, tolerance_px=2) == (0, 0)
    assert np.isnan(cells.boundary_scores(empty, empty, tolerance_px=2)).all()


def test_the_frame_is_no_outline_but_the_border_between_labels_is():
    full = np.ones((30, 40), int)
    halves = full.copy()
    halves[:, 20:] = 2
    assert np.isnan(cells.boundary_scores(full, full, tolerance_px=2)).all()
    assert cells.boundary_scores(halves, halves, tolerance_px=0) == (1, 1)
    assert cells.boundary_scores(full, halves, tolerance_px=2) == (0, 0)


def test_otsu_finds_what_is_dark_and_otsu_purple_what_is_purple():
    image = np.full((20, 30, 3), 220, np.uint8)
    image[2:8, 2:8] = (180, 120, 125)  # a red cell
    image[10:18, 10:18] = (90, 40, 140)  # a leucocyte
    dark, purple = cells.otsu(image), cells.otsu_purple(image)
    assert dark.dtype == purple.dtype == np.float32
    assert dark.sum() == 36 + 64
    assert purple.sum() == 64 and purple[10:18, 10:18].all()


@pytest.mark.parametrize('level', [0, 130, 255])
def test_a_picture_of_one_colour_holds_no_cell(level):
    image = np.full((6, 7, 3), level, np.uint8)
    assert not cells.otsu(image).any()
    assert not cells.otsu_purple(image).any()


def test_drawing_has_outlines_numbers_and_a_caption_but_leaves_the_rest():
    image = np.full((600, 500, 3), 200, np.uint8)
    labels = cells.separate(
        discs((300, 100, 40), (300, 350, 40), size_hw=(600, 500)), **OPTIONS)
    drawn = cells.draw(image, labels)
    strip = drawn.shape[0] - 600
    assert drawn.dtype == np.uint8 and drawn.shape[1:] == (500, 3) and strip > 10
    picture = drawn[strip:]
    red, green, blue = picture[300, 60].astype(int)  # leftmost pixel of cell 1
    assert green > red + 100 and green > blue + 100
    assert (picture[..., 0] <= picture[..., 1]).all()  # nothing magenta
    assert (picture[:200] == 200).all() and (picture[400:] == 200).all()
    assert (picture[290:310, 90:110] == 200).all()
    assert (image == 200).all()


def test_truth_is_drawn_in_its_own_colour_as_labels_or_mask():
    image = np.zeros((600, 500, 3), np.uint8)
    truth = discs((300, 100, 40), size_hw=(600, 500))
    for actual in (truth, truth.astype(np.int32)):
        drawn = cells.draw(image, np.zeros((600, 500), np.int32), truth=actual)
        picture = drawn[drawn.shape[0] - 600:]
        red, green, blue = picture[300, 60]
        assert red > 200 and blue > 200 and green < 50


@pytest.mark.parametrize(
    'size_hw, factor', [((128, 128), 4), ((1, 1), 4), ((240, 9), 2), ((480, 9), 1)])
def test_small_pictures_are_enlarged(size_hw, factor):
    labels = np.ones(size_hw, np.int32)
    drawn = cells.draw(np.zeros((*size_hw, 3), np.uint8), labels)
    assert drawn.shape[1] == factor * size_hw[1]
    assert drawn.shape[0] > factor * size_hw[0]


def test_what_the_network_is_unsure_of_all_over_is_no_cell():
    probability = np.zeros((40, 80))
    probability[10:30, 10:30] = 0.6  # sure in the middle only: mean 0.7
    probability[15:25, 15:25] = 1.0
    probability[10:30, 50:70] = 0.6  # sure of nearly all: mean 0.924
    probability[11:29, 51:69] = 1.0
    options = OPTIONS | {'min_confidence': 0.9}
    labels = cells.separate(probability, **options)
    assert labels.max() == 1 and (labels[10:30, 50:70] == 1).all()
    assert cells.separate(probability, **OPTIONS).max() == 2
