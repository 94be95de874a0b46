"""The layout of Zheng's two sets: NNN.bmp beside its mask NNN.png.

Source: X. Zheng et al., Fast and robust segmentation of white blood cell images by
self-supervised learning, Micron 107 (2018). Set 1 has 120 x 120 pixels, set 2
300 x 300, with one leucocyte in the middle.
"""

from functools import partial
from pathlib import Path

import numpy as np

from jaxmed.data import images, smears
from jaxmed.errors import ConfigError, ImageError

# Grey level of a mask -> 0 background, 1 cytoplasm, 2 nucleus. PNG loses nothing, so
# there is no other level; 127 is the other way to round half of 255.
_CLASSES = {0: 0, 127: 1, 128: 1, 255: 2}


def read(path, *, tile, max_pixels, group_pattern, num_classes):
    """Yields the tiles of a folder of labelled cells: see `smears.read_pairs`.

    Args:
        num_classes: 1 for the whole leucocyte; 2 for the leucocyte (cytoplasm or
            nucleus) in channel 0 and its nucleus in channel 1.

    Yields:
        Record with targets uint8 [tile, tile, num_classes] in {0, 1}.

    Raises:
        ImageError: as `smears.read_pairs`; a folder without images, an image without
            a mask, a mask without an image, a file that is neither, a grey level
            that is none of the three classes.
        ConfigError: num_classes is neither 1 nor 2.
    """
    if num_classes not in (1, 2):
        raise ConfigError('num_classes', f'{num_classes}, expected 1 or 2')
    return smears.read_pairs(
        find_pairs(path),
        partial(read_mask, max_pixels=max_pixels, num_classes=num_classes),
        root=Path(path), tile=tile, max_pixels=max_pixels, group_pattern=group_pattern)


def find_pairs(folder):
    """Lists (image path, mask path), sorted; for what is raised see `read`."""
    found = images.find_images(folder)
    photographs, masks = {}, {}
    for path in found:
        kind = {'.bmp': photographs, '.png': masks}.get(path.suffix.lower())
        if kind is None:
            raise ImageError(path, 'neither an image (.bmp) nor a mask (.png)')
        if kind.setdefault(path.with_suffix(''), path) != path:
            raise ImageError(path, 'a file of the same name is beside it')
    for stem, path in photographs.items():
        if stem not in masks:
            raise ImageError(path, f'no mask {stem.name}.png beside it')
    for stem, path in masks.items():
        if stem not in photographs:
            raise ImageError(path, f'no image {stem.name}.bmp beside it')
    return [(path, masks[stem]) for stem, path in photographs.items()]


def read_mask(path, *, max_pixels, num_classes):
    """Reads a mask: uint8 [H, W, num_classes] in {0, 1}; see `read`."""
    grey = images.read_grey(path, max_pixels=max_pixels)
    unknown = sorted(set(np.unique(grey).tolist()) - _CLASSES.keys())
    if unknown:
        raise ImageError(
            path,
            f'grey level {unknown[0]} in the mask, expected 0, 128 or 255 '
            '(background, cytoplasm, nucleus)',
        )
    classes = np.zeros(256, np.uint8)
    classes[list(_CLASSES)] = list(_CLASSES.values())
    channels = np.stack([classes >= 1, classes == 2], axis=-1)[:, :num_classes]
    return channels.astype(np.uint8)[grey]
