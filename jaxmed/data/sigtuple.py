"""The SigTuple layout: NAME.jpg beside NAME-mask.jpg, white on black (paper 002).

Images and masks may be of any format that `images` reads, not of the same one.
"""

from functools import partial
from pathlib import Path

import numpy as np

from jaxmed.data import images, smears
from jaxmed.errors import ImageError

# Masks come as JPEG: nearly black and nearly white.
_THRESHOLD = 127


def read(path, *, tile, max_pixels, group_pattern):
    """Yields the tiles of a folder of labelled smears: see `smears.read_pairs`.

    Yields:
        Record with targets uint8 [tile, tile, 1]: 1 is leucocyte.

    Raises:
        ImageError: as `smears.read_pairs`; a folder without images, an image without
            a mask or with two, a mask without an image.
    """
    return smears.read_pairs(
        find_pairs(path), partial(read_mask, max_pixels=max_pixels), root=Path(path),
        tile=tile, max_pixels=max_pixels, group_pattern=group_pattern)


def find_pairs(folder):
    """Lists (image path, mask path), sorted; for what is raised see `read`."""
    found = images.find_images(folder)
    masks = {}
    for path in found:
        if path.stem.endswith(smears.MASK_ENDING):
            stem = path.stem.removesuffix(smears.MASK_ENDING)
            other = masks.setdefault(path.parent / stem, path)
            if other != path:
                raise ImageError(path, f'a second mask beside {other.name}')
    photographs = [p for p in found if not p.stem.endswith(smears.MASK_ENDING)]
    for path in photographs:
        if path.with_suffix('') not in masks:
            missing = f'{path.stem}{smears.MASK_ENDING}.*'
            raise ImageError(path, f'no mask {missing} beside it')
    orphans = sorted(masks.keys() - {path.with_suffix('') for path in photographs})
    if orphans:
        raise ImageError(masks[orphans[0]], f'no image {orphans[0].name}.* beside it')
    return [(path, masks[path.with_suffix('')]) for path in photographs]


def read_mask(path, *, max_pixels):
    """Reads a mask: uint8 [H, W, 1], 1 where the file is brighter than 127.

    Raises:
        ImageError: as `images.read_grey`, and for a mask that isn't empty but has
            nothing above 127: of 0 and 1, say, which would pass as empty.
    """
    grey = images.read_grey(path, max_pixels=max_pixels)
    brightest = int(grey.max())
    if 0 < brightest <= _THRESHOLD:
        raise ImageError(
            path, f'brightest level is {brightest} of 255: leucocytes must be white')
    return (grey > _THRESHOLD).astype(np.uint8)[..., None]
