import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmed.classification import gradcam

BRIGHT, DARK = 0, 1


class Detector(nn.Module):
    """Bright and dark patches of 4 x 4 pixels, averaged and weighed by hand."""

    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.weights = self.param('weights', lambda key: jnp.eye(2))

    def features(self, inputs, *, train):
        blocks = nn.avg_pool(inputs, (4, 4), (4, 4))
        return nn.relu(jnp.concatenate([blocks, -blocks], axis=-1)).astype(self.dtype)

    def head(self, features, *, train):
        return features.mean(axis=(1, 2)) @ self.weights

    def __call__(self, inputs, *, train):
        return self.head(self.features(inputs, train=train), train=train)


def make_images():
    """Grey; one with a bright and a dark patch, one with a bright one, [2, 24, 16, 1].
    """
    images = np.zeros((2, 24, 16, 1), np.float32)
    images[0, 4:8, 4:8] = 1.0
    images[0, 16:20, 8:12] = -1.0
    images[1, 12:16, 0:4] = 1.0
    return images


@functools.cache  # compiled once for all tests
def make_gradcam(dtype):
    return jax.jit(gradcam.make_gradcam(Detector(dtype)))


def run(images, classes, weights=((1.0, 0.0), (0.0, 1.0)), dtype=jnp.float32):
    variables = {'params': {'weights': np.array(weights, np.float32)}}
    return np.asarray(make_gradcam(dtype)(variables, images, np.array(classes)))


def place_of_maximum(heat):
    """The middle of all that reaches the maximum, (row, column) in pixels."""
    return np.argwhere(heat > heat.max() - 1e-6).mean(axis=0)


def test_the_map_lights_up_where_the_pattern_decides():
    images = make_images()
    maps = run(images[[0, 0, 1]], [BRIGHT, DARK, BRIGHT])
    assert maps.shape == (3, 24, 16) and maps.dtype == np.float32
    assert maps.min() == 0 and maps.max() == 1
    np.testing.assert_allclose(place_of_maximum(maps[0]), [5.5, 5.5])
    np.testing.assert_allclose(place_of_maximum(maps[1]), [17.5, 9.5])
    assert maps[2, 12:16, 0:4].mean() > 0.7  # bilinear: it fades towards its rim
    assert maps[0, 16:, :].max() == 0 and maps[1, :12, :].max() == 0


def test_the_map_is_the_one_worked_out_by_hand():
    # Logit of class k: the mean over 24 cells of sum_c F_c W_ck. Its gradient is
    # W_ck / 24 everywhere, so the map is relu(F W_k) over its maximum.
    images = np.random.default_rng(0).normal(size=(3, 24, 16, 1)).astype(np.float32)
    weights, classes = np.array([[1.0, -0.5], [0.3, 2.0]]), np.array([0, 1, 1])
    maps = run(images, classes, weights)
    blocks = images.reshape(3, 6, 4, 4, 4).mean(axis=(2, 4))
    features = np.stack([np.maximum(blocks, 0), np.maximum(-blocks, 0)], axis=-1)
    expected = np.maximum(np.einsum('bhwc,cb->bhw', features, weights[:, classes]), 0)
    expected = jax.image.resize(expected, (3, 24, 16), method='bilinear')
    expected /= expected.max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(maps, expected, atol=1e-5)


def test_what_speaks_against_a_class_is_not_shown():
    maps = run(make_images()[[0] * 3], [BRIGHT] * 3, [[-1.0, 0.0], [0.0, 1.0]])
    assert not maps.any() and not np.isnan(maps).any()


def test_images_of_a_batch_do_not_see_each_other():
    images = make_images()
    one, other, _ = run(images[[0, 1, 1]], [BRIGHT, BRIGHT, DARK])
    np.testing.assert_allclose(run(images[[0, 0, 0]], [BRIGHT] * 3)[1], one, atol=1e-6)
    alone = run(images[[1, 0, 0]], [BRIGHT] * 3)[0]
    np.testing.assert_allclose(alone, other, atol=1e-6)


def test_features_in_bfloat16_give_the_same_map():
    images = make_images()[[0, 1, 1]]
    np.testing.assert_allclose(
        run(images, [BRIGHT] * 3, dtype=jnp.bfloat16), run(images, [BRIGHT] * 3),
        atol=0.02)


class Network(nn.Module):
    """Convolution, batch norm, pooling and dropout, as the real ones have them."""

    def setup(self):
        self.conv = nn.Conv(2, (3, 3))
        self.norm = nn.BatchNorm()
        self.dropout = nn.Dropout(0.5)
        self.dense = nn.Dense(2)

    def features(self, inputs, *, train):
        x = self.norm(self.conv(inputs), use_running_average=not train)
        return nn.max_pool(nn.relu(x), (2, 2), (2, 2))

    def head(self, features, *, train):
        x = self.dropout(features.mean(axis=(1, 2)), deterministic=not train)
        return self.dense(x)

    def __call__(self, inputs, *, train):
        return self.head(self.features(inputs, train=train), train=train)


def test_the_mark_that_decides_is_found_among_others_that_do_not():
    # A cross decides for class 1; bars as bright as it are everywhere and do not.
    cross = np.array([[-1, 1, -1], [1, 1, 1], [-1, 1, -1]], np.float32)
    bar = np.array([[0, 0, 0], [1, 1, 1], [0, 0, 0]], np.float32)
    images = np.zeros((2, 24, 24, 1), np.float32)
    images[:, 3::6, 2:22] = 1.0
    images[:, 13:18, 4:9] = 0.0
    images[0, 14:17, 5:8, 0] = cross > 0
    kernel = np.stack([cross, bar], axis=-1)[:, :, None]
    ones, zeros = np.ones(2, np.float32), np.zeros(2, np.float32)
    variables = {
        'params': {
            'conv': {'kernel': kernel, 'bias': np.float32([-4, 0])},
            'norm': {'scale': ones, 'bias': zeros},
            'dense': {'kernel': np.float32([[0, 9], [0.2, 0]]), 'bias': zeros}},
        'batch_stats': {'norm': {'mean': zeros, 'var': ones}}}
    heat, nothing = jax.jit(gradcam.make_gradcam(Network()))(
        variables, images, np.array([1, 1]))
    row, column = place_of_maximum(heat)
    assert 13 < row < 18 and 4 < column < 9
    assert heat[:10].max() == 0 and heat[:, 12:].max() == 0
    assert nothing.max() == 0  # no cross, no reason


def test_overlay_leaves_the_picture_alone_where_the_map_is_0():
    image = np.random.default_rng(0).integers(0, 256, (40, 160), np.uint8)
    heat = np.zeros((40, 160))
    heat[10:20, 10:20] = 1
    drawn = gradcam.overlay(image, heat)
    assert drawn.shape == (40 + gradcam.LEGEND_PX, 160, 3) and drawn.dtype == np.uint8
    untouched = heat == 0
    for channel in range(3):
        np.testing.assert_array_equal(drawn[:40, :, channel][untouched],
                                      image[untouched])
    # 40% of the picture, 60% of viridis' last colour, (253, 231, 37).
    expected = 0.4 * image[15, 15] + 0.6 * np.array([253, 231, 37])
    np.testing.assert_allclose(drawn[15, 15], expected, atol=1)


@pytest.mark.parametrize('width', [8, 64, 224])
@pytest.mark.parametrize('channels', [(), (1,), (3,)])
def test_overlay_takes_any_picture_and_has_a_legend_from_grey_to_yellow(
        width, channels):
    drawn = gradcam.overlay(
        np.full((30, width, *channels), 90, np.uint8), np.zeros((30, width)))
    assert (drawn[:30] == 90).all()
    ramp = drawn[30 + 12].astype(int)
    yellow = ramp[:, 0] - ramp[:, 2]  # red minus blue
    assert yellow.max() > 100 and (np.abs(np.ptp(ramp, axis=1)) < 8).any()
