"""Which photographs show the same spot: crops of each other, or of one smear.

The SigTuple set (paper 002) needs it: of 120 training patches 4 are cut from its
large training smears and 15 from its test smears, and two show one cell. They are
saved as JPEG anew, so no two of them have equal pixels; put on two sides of a split,
they flatter every number.
"""

import logging

import cv2
import numpy as np

LOG = logging.getLogger('jaxmed')

_REDUCTION = 4  # pairs are looked for in thumbnails, which is 100 times faster
_SMALLEST = 16  # px of a thumbnail's side: on less than this cells look alike
_MANY = 2000
_FLAT = 2.0  # levels of standard deviation; nothing to recognise below

# Measured on the 10011 pairs of SigTuple images: the 20 that overlap correlate by
# 0.91 or more in thumbnails, where 42 others exceed 0.85; in full, the 20 by 0.99 or
# more and the 42 by 0.67 or less.
_LIKELY = 0.85
_SURE = 0.9


def thumbnail(image):
    """uint8 [H, W, 3] -> the grey uint8 [H / 4, W / 4] that `find_overlaps` takes."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    height, width = (max(side // _REDUCTION, 1) for side in grey.shape)
    return cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)


def find_overlaps(thumbnails, read):
    """Finds images that contain the middle of another one.

    Neither mirrored nor turned or rescaled copies are found, nor images that share
    less than the middle half of both sides of the smaller one, nor those of less
    than 64 pixels. Takes about 0.1 ms for a pair: 50 s for 1000 patches.

    Args:
        thumbnails: list of `thumbnail`.
        read: index -> that image in full, uint8 [H, W, 3]; called for likely pairs.

    Returns:
        list of pairs of indices.
    """
    usable = [
        i for i, small in enumerate(thumbnails)
        if min(small.shape) >= _SMALLEST and small.std() > _FLAT
    ]
    usable.sort(key=lambda i: thumbnails[i].size)
    if len(usable) > _MANY:
        LOG.warning(
            'looking for overlaps among %d images: about %.0f minutes; none are looked '
            'for where task.group_pattern tells which images belong together',
            len(usable), len(usable) ** 2 / 2 * 1e-4 / 60,
        )
    found = []
    for n, i in enumerate(usable):
        middle, _ = _middle(thumbnails[i])
        if middle.std() <= _FLAT:
            continue
        inner = None
        for j in usable[n + 1:]:
            score, place = _match(middle, thumbnails[j])
            if score > _LIKELY:
                inner = read(i) if inner is None else inner
                if _agree(inner, read(j), place):
                    found.append((i, j))
    return found


def _middle(grey):
    """The middle half of both sides, and its corner (y, x)."""
    y, x = grey.shape[0] // 4, grey.shape[1] // 4
    return grey[y:y + grey.shape[0] // 2, x:x + grey.shape[1] // 2], (y, x)


def _match(part, whole):
    """Best correlation of `part` in `whole` and its corner (y, x) there."""
    if part.shape[0] > whole.shape[0] or part.shape[1] > whole.shape[1]:
        return 0.0, (0, 0)
    _, score, _, (x, y) = cv2.minMaxLoc(
        cv2.matchTemplate(whole, part, cv2.TM_CCOEFF_NORMED))
    return score, (y, x)


def _agree(image, other, place):
    """Whether two images are equal, JPEG noise aside, wherever they overlap."""
    image, other = (cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
                    for pixels in (image, other))
    part, corner = _middle(image)
    # Around the thumbnail's place only, a thumbnail's pixel to all sides and more.
    y, x = (max(_REDUCTION * start - 2 * _REDUCTION, 0) for start in place)
    window = other[y:y + part.shape[0] + 5 * _REDUCTION,
                   x:x + part.shape[1] + 5 * _REDUCTION]
    _, (dy, dx) = _match(part, window)
    top, left = y + dy - corner[0], x + dx - corner[1]
    height, width = image.shape
    ours = image[max(-top, 0):other.shape[0] - top, max(-left, 0):other.shape[1] - left]
    theirs = other[max(top, 0):top + height, max(left, 0):left + width]
    if ours.std() <= _FLAT or theirs.std() <= _FLAT:
        return False
    return np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > _SURE
