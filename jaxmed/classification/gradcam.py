"""Grad-CAM: where a network looks for a class, and the picture that shows it."""

import functools

import cv2
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

COLOURS = 'viridis'  # even steps of lightness, also for the colour-blind
OPACITY = 0.6  # of the colour where the map is 1
LEGEND_PX = 24


def make_gradcam(model):
    """Builds (variables, inputs, class_index) -> maps of what speaks for a class.

    The channels of the last features are weighted by the mean gradient of the class's
    logit, summed and cut off at 0: what speaks against the class is not shown. Each map
    is divided by its own maximum, so it says where, not how much; one that nothing
    speaks for is 0 throughout. It is as coarse as the features (7 x 7 of a ResNet50 at
    224 pixels) and is no segmentation.

    Args:
        model: a Linen module with the methods features(inputs, *, train) ->
            [B, h, w, C] and head(features, *, train) -> logits [B, K].

    Returns:
        A pure function for jit: variables of `model`; inputs [B, H, W, channels] as
        the model takes them; class_index [B] int. It gives [B, H, W] float32 in
        [0, 1], resized bilinearly.

    Source: Selvaraju et al. 2017, Grad-CAM, equations 1 and 2.
    """

    def gradcam(variables, inputs, class_index):
        features = model.apply(variables, inputs, train=False, method='features')
        features = features.astype(jnp.float32)

        def logits_of_classes(features):
            logits = model.apply(variables, features, train=False, method='head')
            # Images don't see each other, so the sum's gradient is each one's own.
            return jnp.take_along_axis(logits, class_index[:, None], axis=1).sum()

        weights = jax.grad(logits_of_classes)(features).mean(axis=(1, 2))
        maps = jax.nn.relu(jnp.einsum('bhwc,bc->bhw', features, weights))
        maps = jax.image.resize(
            maps, (len(inputs), *inputs.shape[1:3]), method='bilinear'
        )
        highest = maps.max(axis=(1, 2), keepdims=True)
        return jnp.where(highest > 0, maps / jnp.where(highest > 0, highest, 1), 0)

    return gradcam


def overlay(image, heat):
    """A map in colour over its grey picture, with a legend below.

    Opacity grows with the map: where it is 0 the picture is untouched. The legend runs
    through the same colours and opacities over mid-grey, from 0 to the map's maximum.

    Args:
        image: uint8 [H, W], or [H, W, C] whose channels are averaged.
        heat: [H, W] in [0, 1].

    Returns:
        uint8 RGB [H + LEGEND_PX, W, 3].
    """
    image = np.asarray(image, np.float32)
    image = image.mean(axis=-1) if image.ndim == 3 else image
    width = image.shape[1]
    picture = _blend(image, np.asarray(heat, np.float32))
    legend = np.zeros((LEGEND_PX, width, 3), np.uint8)
    write = functools.partial(
        cv2.putText, legend, fontFace=cv2.FONT_HERSHEY_SIMPLEX, fontScale=0.4,
        color=(255, 255, 255), thickness=1, lineType=cv2.LINE_AA,
    )
    left, right = 18, width - 64
    if right - left >= 32:  # else too narrow for words
        write('0', org=(5, 16))
        write('strongest', org=(right + 4, 16))
    else:
        left, right = 0, width
    ramp = np.tile(np.linspace(0, 1, right - left, dtype=np.float32), (12, 1))
    legend[6:18, left:right] = _blend(np.full_like(ramp, 128), ramp)
    return np.concatenate([picture, legend])


def _blend(grey, heat):
    colour = matplotlib.colormaps[COLOURS](heat)[..., :3] * 255
    opacity = OPACITY * heat[..., None]
    mixed = (1 - opacity) * grey[..., None] + opacity * colour
    return np.round(mixed).astype(np.uint8)
