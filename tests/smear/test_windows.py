import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmed.smear import windows


@jax.jit
def red_channel(inputs):
    return inputs[..., :1].astype(jnp.float32) / 255


def numbered_windows():
    """A 'network' that answers 1 in its first window, 2 in its second, and so on."""
    numbers = itertools.count(1)

    def apply(inputs):
        values = np.array([next(numbers) for _ in inputs], np.float32)
        return jnp.broadcast_to(values[:, None, None, None], (*inputs.shape[:3], 1))

    return apply


def random_image(*size_hw, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size_hw, 3), np.uint8)


def white_image(height, width, *dark_boxes):
    image = np.full((height, width, 3), 255, np.uint8)
    for top, left, bottom, right in dark_boxes:
        image[top:bottom, left:right] = 0
    return image


def test_last_window_is_shifted_back_to_the_border():
    assert windows.window_starts(10, 4, 3) == [0, 3, 6]
    assert windows.window_starts(10, 4, 4) == [0, 4, 6]
    assert windows.window_starts(5, 4, 4) == [0, 1]
    assert windows.window_starts(4, 4, 1) == [0]
    assert windows.window_starts(1, 4, 2) == [0]


@pytest.mark.parametrize('stride', [1, 3, 8])
def test_windows_cover_every_pixel_and_end_inside(stride):
    for length in range(8, 40):
        starts = windows.window_starts(length, 8, stride)
        covered = {start + offset for start in starts for offset in range(8)}
        assert covered == set(range(length))


@pytest.mark.parametrize('stride', [0, 5])
def test_strides_that_leave_gaps_or_never_end_are_refused(stride):
    with pytest.raises(ValueError, match='stride'):
        windows.window_starts(10, 4, stride)


@pytest.mark.parametrize(
    'size_hw', [(1, 1), (5, 700), (128, 128), (129, 127), (300, 131), (671, 2150)])
def test_a_network_that_answers_its_input_gives_the_picture_back(size_hw):
    image = random_image(*size_hw)
    probability = windows.predict_windows(
        red_channel, image, window=128, overlap=40, batch_size=4)
    assert probability.dtype == np.float32
    assert probability.shape == (*size_hw, 1)
    np.testing.assert_allclose(probability[..., 0], image[..., 0] / 255, atol=1e-6)


@pytest.mark.parametrize('overlap', [0, 1, 15])
def test_any_overlap_gives_the_same_picture(overlap):
    image = random_image(37, 50)
    probability = windows.predict_windows(
        red_channel, image, window=16, overlap=overlap, batch_size=5)
    np.testing.assert_allclose(probability[..., 0], image[..., 0] / 255, atol=1e-6)


def test_prediction_does_not_depend_on_the_batch_size():
    @jax.jit
    def contextual(inputs):  # an answer that depends on the place in the window
        return jnp.cumsum(inputs.astype(jnp.float32), axis=2) / 1e4

    image = random_image(70, 90)
    one, three, many = (
        windows.predict_windows(
            contextual, image, window=32, overlap=16, batch_size=batch_size)
        for batch_size in (1, 3, 64))
    np.testing.assert_allclose(one, three, atol=1e-6)
    np.testing.assert_allclose(one, many, atol=1e-6)


def test_a_constant_network_gives_a_constant_map_in_every_class():
    def constant(inputs):
        return jnp.broadcast_to(
            jnp.array([0.25, 0.75], jnp.bfloat16), (*inputs.shape[:3], 2))

    probability = windows.predict_windows(
        constant, random_image(45, 61), window=16, overlap=8, batch_size=4)
    np.testing.assert_allclose(probability[..., 0], 0.25, atol=1e-6)
    np.testing.assert_allclose(probability[..., 1], 0.75, atol=1e-6)


def test_two_windows_are_blended_by_a_raised_cosine():
    # Windows at columns 0-3 and 2-5 answer 1 and 2. Column 2 is the third pixel of
    # the one (weight at 5/8 of half a wave) and the first of the other (1/8).
    probability = windows.predict_windows(
        numbered_windows(), random_image(4, 6), window=4, overlap=2, batch_size=2)
    floor = windows.EDGE_WEIGHT
    first, second = (
        floor + (1 - floor) * np.sin(np.pi * place / 8) ** 2 for place in (5, 1))
    expected = (first + 2 * second) / (first + second)
    np.testing.assert_allclose(
        probability[1, :, 0], [1, 1, expected, 3 - expected, 2, 2], atol=1e-6)


def test_a_picture_smaller_than_a_window_is_continued_by_reflection():
    image, seen = random_image(3, 2), []

    def apply(inputs):
        seen.append(np.asarray(inputs))
        return jnp.zeros((*inputs.shape[:3], 1))

    windows.predict_windows(apply, image, window=8, overlap=0, batch_size=1)
    np.testing.assert_array_equal(
        seen[0][0], np.pad(image, ((0, 5), (0, 6), (0, 0)), mode='reflect'))


def test_thirty_sizes_share_a_few_compilations():
    traces = []

    @jax.jit
    def network(inputs):
        traces.append(inputs.shape)
        return inputs[..., :1].astype(jnp.float32)

    functions = windows._cut, windows._blend, windows._normalise
    before = [function._cache_size() for function in functions]
    sizes = np.random.default_rng(0).integers(1, 360, (30, 2))
    for height, width in sizes:
        windows.predict_windows(
            network, random_image(height, width), window=32, overlap=8, batch_size=24)
    assert len(traces) == 1
    # From 32 x 32 = 2**10 to less than 360 x 360 < 2**17 pixels.
    for function, count in zip(functions, before):
        assert function._cache_size() - count <= 8


def test_a_queued_picture_is_the_same_when_others_come_between():
    images = [random_image(40, 50, seed=seed) for seed in range(3)]
    options = dict(window=16, overlap=4, batch_size=4)
    queued = [windows.queue_windows(red_channel, image, **options) for image in images]
    for image, fetch in zip(images, queued):
        np.testing.assert_allclose(fetch()[..., 0], image[..., 0] / 255, atol=1e-6)


@pytest.mark.parametrize('image', [
    np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8),
    np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_rgb_picture_is_refused(image):
    with pytest.raises(ValueError, match='image'):
        windows.predict_windows(red_channel, image, window=4, overlap=0, batch_size=1)


def test_crops_are_centred_on_dark_regions_and_kept_inside():
    image = white_image(20, 30, (0, 26, 5, 30), (9, 10, 14, 15))
    # Boxes' middles less half a window: (-2, 24) moved to (0, 22), and (7, 8).
    corners = windows.find_crops(image, window=8, threshold=100, min_area=20)
    assert corners == [(0, 22), (7, 8)]


def test_crops_are_in_the_order_of_the_regions_first_pixels():
    image = white_image(40, 60, (3, 50, 9, 55), (2, 30, 20, 33), (25, 1, 29, 8))
    corners = windows.find_crops(image, window=8, threshold=100, min_area=20)
    assert corners == [(7, 27), (2, 48), (23, 0)]


def test_regions_touching_at_a_corner_are_one_and_small_ones_none():
    image = white_image(20, 20, (2, 2, 4, 4), (4, 4, 6, 6), (15, 15, 17, 18))
    find = windows.find_crops
    assert find(image, window=4, threshold=0, min_area=8) == [(2, 2)]
    assert len(find(image, window=4, threshold=0, min_area=6)) == 2
    assert find(image, window=4, threshold=0, min_area=9) == []


def test_a_pixel_at_the_threshold_is_dark():
    image = np.full((4, 4, 3), 100, np.uint8)
    options = dict(window=4, min_area=1)
    assert windows.find_crops(image, threshold=100, **options) == [(0, 0)]
    assert windows.find_crops(image, threshold=99, **options) == []


@pytest.mark.parametrize('batch_size', [1, 2, 4])
def test_later_crops_overwrite_earlier_ones(batch_size):
    # Crops at columns 3-10 and 8-15 of all eight rows; columns 8-10 are in both.
    image = white_image(8, 24, (2, 5, 6, 9), (3, 10, 6, 14))
    probability = windows.predict_crops(
        numbered_windows(), image, window=8, threshold=100, min_area=4,
        batch_size=batch_size)
    np.testing.assert_array_equal(
        probability[4, :, 0], [0] * 3 + [1] * 5 + [2] * 8 + [0] * 8)


def test_the_later_crop_wins_in_whatever_order_a_device_writes():
    # Two windows on the same pixels, the later one (number 2) first in the batch.
    total = windows._paste(
        jnp.zeros((16, 2)), np.array([4, 4]), np.zeros((3, 2), np.int32),
        np.array([2, 1, 0], np.int32), jnp.ones((3, 4, 4, 1)) * jnp.array(
            [0.2, 0.1, 0.9])[:, None, None, None])
    np.testing.assert_array_equal(total, np.tile(np.float32([0.2, 2]), (16, 1)))


def test_a_picture_without_dark_regions_is_all_zero():
    probability = windows.predict_crops(
        numbered_windows(), white_image(9, 5), window=4, threshold=100, min_area=4,
        batch_size=2)
    np.testing.assert_array_equal(probability, np.zeros((9, 5, 1)))


def test_crops_of_a_small_picture_are_cut_back_to_it():
    image = random_image(5, 7) // 4
    probability = windows.predict_crops(
        red_channel, image, window=16, threshold=255, min_area=1, batch_size=2)
    np.testing.assert_allclose(probability[..., 0], image[..., 0] / 255, atol=1e-7)


def test_tiles_are_put_back_and_averaged_where_they_overlap():
    tiles = np.array([[[1, 1, 1]], [[4, 4, 4]]], np.uint8)
    stitched = windows.stitch(tiles, [[0, 0], [0, 2]], (2, 6))
    np.testing.assert_array_equal(
        stitched, [[1, 1, 2.5, 4, 4, 0], [0, 0, 0, 0, 0, 0]])


def test_what_a_tile_has_beyond_the_picture_is_cut_off():
    image = random_image(3, 5)
    tile = np.pad(image, ((1, 4), (2, 9), (0, 0)))
    stitched = windows.stitch(tile[None], [[-1, -2]], (3, 5))
    np.testing.assert_array_equal(stitched, image)
