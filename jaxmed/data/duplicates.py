"""Which radiographs are one: re-encoded, resized, cropped or brightened copies.

Collections of chest X-rays are copied from each other, and the copies are scaled,
squashed and cut anew, so no two have equal pixels; put on two sides of a split they
flatter every number. Unrelated chests look alike, so what finds copies must not stop
at the outline of ribs and heart. Three steps, each on fewer pairs than the last:

1. a signature, low frequencies of the picture, of all pairs at once (matrix products);
2. one template match of fine detail for the nearest few of each picture;
3. registration (an affine map through 16 matched places) and then the correlation of
   the finest detail, place by place: vessels, bone texture and noise, in which two
   pictures of one patient differ as well.
"""

import cv2
import numpy as np

# Measured on all 29890 pairs of 245 real chest pictures, of which 6 pairs are copies:
# in step 3 the copies reach 0.80 or more, two patients 0.39 or less, two days of one
# patient 0.44 or less. Of 868 made copies (14 kinds: JPEG 30, 224 px, gamma 0.6 and
# 1.7, clipped, equalised, crops of up to 8% on each side or 12% on one, framed, turned
# by 3 degrees, lettered) 863 are found. Drawn chests, which have no texture but their
# ribs, reach 0.66.
_NEAREST = 16  # pictures that step 1 hands on, for each
_LIKELY_SIGNATURE = 0.7
_LIKELY_DETAIL = 0.6
_LIKELY_PLACES = 0.7
_SURE = 0.7
_PART = 0.3

_SIDE = 128  # px of a thumbnail
_FLAT = 2.0  # levels of standard deviation; nothing to recognise below

# A signature is the discrete cosine transform of a window of the picture: one that is
# the whole of it, and crops, so that a picture finds what is cut out of it.
_SIGNATURE_SIDE = 32
_FREQUENCIES = 10
_SPANS = ((0, 1), (0, 0.92), (0.04, 0.96), (0.08, 1), (0.08, 0.92))
_WINDOWS = tuple((*rows, *columns) for rows in _SPANS for columns in _SPANS)
_BLOCK = 512  # pictures compared with all others at once

_DETAIL_SIDE, _DETAIL_MARGIN, _DETAIL_REACH = 64, 10, 5  # px, of step 2
_PLACES, _PATCH, _REACH = 4, 28, 8  # per side; px, of the registration
_FEWEST_PLACES, _MATCHED = 8, 0.45  # places, and from which correlation on they count
_CELL, _CELL_MARGIN, _FEWEST_CELLS = 20, 4, 11  # px, px, cells of the last step
_TEXTURE = 0.3  # levels of standard deviation of a cell's finest detail


def thumbnail(grey):
    """uint8 [H, W] -> uint8 [128, 128], what `find_duplicates` takes.

    Dark borders (collimation, a frame) are cut off and the rest is squashed into a
    square: copies come with and without, and squashed.
    """
    small = cv2.resize(grey, (64, 64), interpolation=cv2.INTER_AREA).astype(np.float32)
    low, high = np.quantile(small, [0.01, 0.99])
    limit = low + 0.12 * (high - low)
    slices = []
    for axis, side in ((1, grey.shape[0]), (0, grey.shape[1])):
        # Letters in the border don't count: 85% of a dark row or column is dark.
        bright = np.flatnonzero(np.quantile(small, 0.85, axis=axis) > limit)
        first, last = (bright[0], bright[-1] + 1) if bright.size else (0, 64)
        # At most a quarter of each side goes: an opaque lung is dark as well.
        first, last = min(first, 16), max(last, 48)
        slices.append(slice(first * side // 64, max(last * side // 64, 1)))
    cut = grey[slices[0], slices[1]]
    return cv2.resize(cut, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)


def find_duplicates(thumbnails):
    """Finds pictures that are copies of each other, whatever was done to them.

    Found are other encodings, sizes, aspect ratios and grey curves, small turns, and
    crops that leave 84% or more of each side. Mirrored, inverted and strongly turned
    copies are not found, nor pictures without detail. Takes two to five minutes for
    20,000 pictures on two cores, and a time that grows with the square of their number
    beyond.

    Args:
        thumbnails: list of `thumbnail`.

    Returns:
        list of pairs of indices, i < j, sorted.
    """
    usable = np.array(
        [i for i, small in enumerate(thumbnails) if small.std() > _FLAT], int)
    if len(usable) < 2:
        return []
    thumbnails = [thumbnails[i] for i in usable]
    signatures = np.stack([_signatures(small) for small in thumbnails])
    details = [_detail(small) for small in thumbnails]
    found = []
    for i, j in _nearest(signatures):
        inner, outer, window = _place(signatures, i, j)
        if (
            _detail_match(details[inner], details[outer], window) > _LIKELY_DETAIL
            and _agreement(thumbnails[inner], thumbnails[outer], window) > _SURE
        ):
            found.append(tuple(sorted((int(usable[i]), int(usable[j])))))
    return sorted(found)


def _even_out(picture, sigma, floor):
    """Takes slow changes of brightness and of contrast out of a float32 picture."""
    # A box of the same deviation: a tenth of the time of a wide Gaussian.
    size = (int(sigma * 12**0.5) | 1,) * 2
    picture = picture - cv2.blur(picture, size)
    return picture / np.sqrt(cv2.blur(picture**2, size) + floor)


def _crop(picture, window):
    side = picture.shape[0]
    top, bottom, left, right = (round(end * side) for end in window)
    return picture[top:bottom, left:right]


def _signatures(small):
    """Unit vectors, one for each window: float32 [windows, frequencies^2 - 1]."""
    side = 3 * _SIGNATURE_SIDE
    picture = cv2.resize(small, (side, side), interpolation=cv2.INTER_AREA)
    picture = _even_out(picture.astype(np.float32), 0.1 * side, 4)
    vectors = []
    for window in _WINDOWS:
        part = cv2.resize(
            _crop(picture, window), (_SIGNATURE_SIDE, _SIGNATURE_SIDE),
            interpolation=cv2.INTER_AREA)
        waves = cv2.dct(part)[:_FREQUENCIES, :_FREQUENCIES].ravel()[1:]
        vectors.append(waves / (np.linalg.norm(waves) + 1e-6))
    return np.stack(vectors)


def _nearest(signatures):
    """Pairs (i, j), i < j: j or a crop of it among the nearest to i, or i to j."""
    count, windows, _ = signatures.shape
    whole = np.ascontiguousarray(signatures[:, 0].T)
    keep = min(_NEAREST, count - 1)
    pairs = set()
    for start in range(0, count, _BLOCK):
        block = signatures[start:start + _BLOCK]
        rows = np.arange(len(block))
        best = np.full((len(block), count), -1, np.float32)
        for window in range(windows):
            np.maximum(best, block[:, window] @ whole, out=best)
        best[rows, start + rows] = -1
        columns = np.argpartition(best, -keep, axis=1)[:, -keep:]
        likely = best[rows[:, None], columns] > _LIKELY_SIGNATURE
        for row, column in zip(*np.nonzero(likely)):
            i, j = start + int(row), int(columns[row, column])
            pairs.add((min(i, j), max(i, j)))
    return sorted(pairs)


def _place(signatures, i, j):
    """(picture that is cropped, the other one, window that makes them most alike)."""
    crops_of_i = signatures[i] @ signatures[j, 0]
    crops_of_j = signatures[j] @ signatures[i, 0]
    if crops_of_i.max() >= crops_of_j.max():
        return i, j, _WINDOWS[crops_of_i.argmax()]
    return j, i, _WINDOWS[crops_of_j.argmax()]


def _band(picture, fine, coarse):
    picture = picture.astype(np.float32)
    return (cv2.GaussianBlur(picture, (0, 0), fine)
            - cv2.GaussianBlur(picture, (0, 0), coarse))


def _detail(small):
    """Evened-out detail of 2 to 8 px of 64, as uint8 [64, 64] around 128."""
    picture = cv2.resize(
        small, (_DETAIL_SIDE, _DETAIL_SIDE), interpolation=cv2.INTER_AREA)
    picture = _even_out(_band(picture, 0.6, 2.5), 6, 1)
    return np.clip(128 + 40 * picture, 0, 255).astype(np.uint8)


def _detail_match(detail, other, window):
    """Best correlation of the middle of `other` near its place in a crop."""
    part = cv2.resize(
        _crop(detail, window), (_DETAIL_SIDE, _DETAIL_SIDE),
        interpolation=cv2.INTER_LINEAR)
    low, high = _DETAIL_MARGIN, _DETAIL_SIDE - _DETAIL_MARGIN
    around = slice(low - _DETAIL_REACH, high + _DETAIL_REACH)
    return cv2.matchTemplate(
        part[around, around], other[low:high, low:high], cv2.TM_CCOEFF_NORMED).max()


def _agreement(small, other, window):
    """Correlation of the finest detail after registration; 0 without one.

    That which 7 of 10 cells reach: letters and arrows on a copy spoil some, while
    drawn or simple pictures agree in half of them by their outlines alone.
    """
    top, bottom, left, right = window
    crop = np.array(
        [[right - left, 0, left * _SIDE], [0, bottom - top, top * _SIDE]], np.float32)
    onto = _register(_warp(small, crop), other)
    if onto is None:
        return 0.0
    whole = (crop @ np.vstack([onto, [0, 0, 1]])).astype(np.float32)
    inside = _warp(np.full_like(small, 255), whole) > 127
    detail, expected = _band(_warp(small, whole), 0.6, 2), _band(other, 0.6, 2)
    inside, ours, theirs = (_cells(p) for p in (inside, detail, expected))
    sizes = np.stack([ours.std(1), theirs.std(1)])
    usable = (inside.mean(1) > 0.95) & (sizes.max(0) > _TEXTURE)
    if usable.sum() < _FEWEST_CELLS:
        return 0.0
    ours, theirs = (cells - cells.mean(1, keepdims=True) for cells in (ours, theirs))
    scores = (ours * theirs).mean(1) / (sizes.prod(0) + 1e-6)
    return float(np.quantile(scores[usable], _PART))


def _cells(picture):
    """[128, 128] -> [cells, pixels], the border left out."""
    count = (_SIDE - 2 * _CELL_MARGIN) // _CELL
    ends = slice(_CELL_MARGIN, _CELL_MARGIN + count * _CELL)
    cells = picture[ends, ends].reshape(count, _CELL, count, _CELL)
    return cells.swapaxes(1, 2).reshape(count**2, _CELL**2)


def _warp(picture, matrix):
    """picture(matrix @ (x, y, 1)) at every (x, y) of a thumbnail."""
    return cv2.warpAffine(
        picture, matrix, (_SIDE, _SIDE), borderMode=cv2.BORDER_CONSTANT,
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)


def _register(small, other):
    """Affine map from places in `other` to the same places in `small`, or None."""
    small, other = (_even_out(_band(p, 0.8, 6), 12, 1) for p in (small, other))
    scores, ours, theirs = [], [], []
    for y in np.linspace(_REACH, _SIDE - _PATCH - _REACH, _PLACES).astype(int):
        for x in np.linspace(_REACH, _SIDE - _PATCH - _REACH, _PLACES).astype(int):
            patch = small[y:y + _PATCH, x:x + _PATCH]
            if cv2.norm(patch) < 0.15 * _PATCH:  # nothing there
                continue
            match = cv2.matchTemplate(
                other[y - _REACH:y + _PATCH + _REACH, x - _REACH:x + _PATCH + _REACH],
                patch, cv2.TM_CCOEFF_NORMED)
            _, score, _, (dx, dy) = cv2.minMaxLoc(match)
            scores.append(score)
            ours.append((x, y))
            theirs.append((x - _REACH + _peak(match[dy], dx),
                           y - _REACH + _peak(match[:, dx], dy)))
    if len(scores) < _FEWEST_PLACES or np.median(scores) < _LIKELY_PLACES:
        return None
    # Patches are matched by their corners; affine maps act on their middles.
    scores, half = np.array(scores), (_PATCH - 1) / 2
    ours, theirs = np.array(ours) + half, np.array(theirs) + half
    kept = scores > _MATCHED
    for _ in range(2):
        if kept.sum() < _FEWEST_PLACES:
            return None
        places = np.column_stack([theirs, np.ones(len(theirs))])
        matrix, *_ = np.linalg.lstsq(places[kept], ours[kept], rcond=None)
        errors = np.linalg.norm(places @ matrix - ours, axis=1)
        kept = (errors < max(1.5, 2 * np.median(errors))) & (scores > _MATCHED)
    return matrix.T


def _peak(values, i):
    """Place of a maximum between samples: the top of a parabola through three."""
    if not 0 < i < len(values) - 1:
        return float(i)
    before, at, after = values[i - 1:i + 2]
    bend = before - 2 * at + after
    return i + 0.5 * (before - after) / bend if bend < -1e-6 else float(i)
