"""From a probability map to cells one can count, measure and look at.

All on the host: cells are few and their shapes irregular, and the map is already here.
"""

import cv2
import numpy as np
from scipy import ndimage

# Neighbours of a pixel: (row, column) steps, straight ones first.
STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, -1), (-1, 1))

PREDICTED_COLOUR = (0, 220, 0)
TRUTH_COLOUR = (255, 0, 255)


def separate(
    probability, *, threshold, min_confidence, min_area_px, min_distance_px, neck_ratio
):
    """Labels cells, touching ones separately; every foreground pixel keeps a label.

    The depth of a pixel is its distance to the background. A ridge of depth runs
    through each cell, and where two cells touch it dips at the neck. Two peaks are
    two cells only if the neck is narrower than `neck_ratio` times the smaller
    cell: an h-maxima criterion on the logarithm of depth, so it splits alike at
    every size, and a bent or notched cell stays one. Two equal discs of radius r
    are split when their centres are over 2 r sqrt(1 - neck_ratio**2) apart.

    Each pixel first climbs to the peak above it, then basins are merged, highest
    saddle first. (scipy.ndimage.watershed_ift and cv2.watershed order pixels by
    differences, not heights, and so miss the necks of a distance map.)

    Args:
        probability: [H, W] in [0, 1].
        threshold: probability from which on a pixel is foreground.
        min_confidence: components of a smaller mean probability are dropped. Networks
            are sure of most of a cell; of dust and of stain at the field's rim they
            are unsure all over.
        min_area_px: smaller components are dropped; a smaller part of a component
            is merged with the neighbour it is joined to most broadly. Holes under
            a tenth of it are noise.
        min_distance_px: peaks closer than this are one cell.
        neck_ratio: in (0, 1); the neck's width over the smaller cell's width below
            which they are two.

    Returns:
        int32 [H, W]: 0 for background, then 1, 2, ... in the order of the cells'
        first pixels. A hole in a cell is filled; a gap between several cells is not.
    """
    foreground = np.asarray(probability) >= threshold
    # Pinholes are noise and would halve the depth. Larger holes wait until the cells
    # are known: a clump with its gap filled looks like one big cell.
    holes, _ = _holes(foreground)
    foreground |= (holes > 0) & (np.bincount(holes.ravel())[holes] < min_area_px / 10)
    parts, _ = ndimage.label(foreground, structure=np.ones((3, 3)))
    areas = np.bincount(parts.ravel())
    sums = np.bincount(parts.ravel(), np.asarray(probability, np.float64).ravel())
    foreground &= ((areas >= min_area_px) & (sums >= min_confidence * areas))[parts]
    if foreground.all() or not foreground.any():  # no outline, so no depth
        return foreground.astype(np.int32)

    depth = _depth(foreground)
    basins, peaks = _climb(depth)
    cells = _merge(
        basins, peaks, depth, min_area_px=min_area_px,
        min_distance_px=min_distance_px, neck_ratio=neck_ratio)
    labels = np.zeros(foreground.shape, np.int32)
    labels[foreground] = _renumber(cells[basins[foreground]])
    return _fill(labels)


def _holes(foreground):
    """Background [H, W] that does not reach the frame, numbered, and how many."""
    return ndimage.label(ndimage.binary_fill_holes(foreground) & ~foreground)


def _fill(labels):
    """Gives each hole that a single cell surrounds to that cell."""
    holes, count = _holes(labels > 0)
    inside = holes > 0
    cells = np.where(labels > 0, labels, labels.max() + 1)
    lowest = np.full(count + 1, labels.max() + 1)
    highest = np.zeros(count + 1, int)
    np.minimum.at(lowest, holes[inside], ndimage.minimum_filter(cells, 3)[inside])
    np.maximum.at(highest, holes[inside], ndimage.maximum_filter(labels, 3)[inside])
    owner = np.where(lowest == highest, highest, 0)
    return np.where(inside, owner[holes], labels).astype(np.int32)


def _renumber(values):
    """1, 2, ... in the order in which the values [n] first appear."""
    _, first, index = np.unique(values, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first)] = np.arange(1, len(first) + 1)
    return rank[index]


def _follow(parents):
    """Where each of [n] ends up when it follows its parents."""
    while True:  # each round doubles the length of the path taken
        further = parents[parents]
        if np.array_equal(further, parents):
            return parents
        parents = further


def _depth(foreground):
    """Distance [H, W] to the background's edge; the picture's frame is no edge."""
    distance = cv2.distanceTransform(
        foreground.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # Half a pixel less: from the pixel's middle to the edge, not to the next middle.
    return np.maximum(distance - 0.5, 0)


def _climb(depth):
    """Follows the steepest ascent from every pixel to a peak.

    Returns:
        basins [H, W], the number of each pixel's peak, -1 in the background, and
        peaks [n], their flat indices. A plateau may hold several.
    """
    height, width = depth.shape
    padded = np.pad(depth, 1, constant_values=-1)
    indices = np.arange(depth.size).reshape(depth.shape)
    steepest = np.zeros_like(depth)
    above = indices.copy()
    for row, column in STEPS:
        neighbour = padded[1 + row:1 + row + height, 1 + column:1 + column + width]
        slope = (neighbour - depth) / np.hypot(row, column)
        steeper = slope > steepest
        steepest[steeper] = slope[steeper]
        above[steeper] = indices[steeper] + row * width + column
    foreground = depth > 0
    tops = _follow(above.ravel()).reshape(depth.shape)[foreground]
    basins = np.full(depth.shape, -1)
    peaks, basins[foreground] = np.unique(tops, return_inverse=True)
    return basins, peaks


def _saddles(basins, depth):
    """The deepest pass between each two neighbouring basins of the foreground.

    Returns:
        pairs [n, 2] of basins and passes [n], the deepest pass first.
    """
    height, width = depth.shape
    pairs, passes = [], []
    for row, column in ((0, 1), (1, 0), (1, 1), (1, -1)):
        left, right = max(-column, 0), width - max(column, 0)
        here = np.s_[:height - row, left:right]
        there = np.s_[row:, left + column:right + column]
        lower = np.minimum(depth[here], depth[there])
        border = (basins[here] != basins[there]) & (lower > 0)
        pairs.append(np.sort(
            np.stack([basins[here][border], basins[there][border]], -1), axis=-1))
        passes.append(lower[border])
    pairs, passes = np.concatenate(pairs), np.concatenate(passes)
    order = np.argsort(-passes, kind='stable')
    pairs, passes = pairs[order], passes[order]
    _, first = np.unique(pairs, axis=0, return_index=True)
    first.sort()
    return pairs[first], passes[first]


def _merge(basins, peaks, depth, *, min_area_px, min_distance_px, neck_ratio):
    """Joins basins that are one cell; returns the cell [n] of each basin."""
    cell = np.arange(len(peaks))
    area = np.bincount(basins[depth > 0])
    peak = depth.ravel()[peaks]
    position = np.stack(np.unravel_index(peaks, depth.shape), -1)

    def find(basin):
        while cell[basin] != basin:
            cell[basin] = cell[cell[basin]]
            basin = cell[basin]
        return basin

    for (one, other), neck in zip(*_saddles(basins, depth)):
        high, low = find(one), find(other)
        if high == low:
            continue
        if peak[high] < peak[low]:
            high, low = low, high
        distance = np.hypot(*(position[high] - position[low]))
        small = min(area[high], area[low]) < min_area_px
        if neck >= neck_ratio * peak[low] or distance < min_distance_px or small:
            cell[low] = high
            area[high] += area[low]
    return _follow(cell)


def measure(labels, probability):
    """Describes every cell.

    Args:
        labels: int [H, W], as `separate` gives them; numbers may be missing.
        probability: [H, W] in [0, 1].

    Returns:
        A list of dicts, ascending by label: 'label'; 'area_px'; 'mean_probability'
        over the cell's pixels; 'centroid_yx' in pixels, the first pixel's middle
        being (0, 0); 'bbox', (top, left, bottom, right), the last two exclusive.
    """
    flat = labels.ravel()
    area = np.bincount(flat, minlength=1)
    count = np.maximum(area, 1)
    rows, columns = np.indices(labels.shape)
    row, column, confidence = (
        np.bincount(flat, weights=np.ravel(values), minlength=1) / count
        for values in (rows, columns, probability))
    return [
        {
            'label': label,
            'area_px': int(area[label]),
            'mean_probability': float(confidence[label]),
            'centroid_yx': (float(row[label]), float(column[label])),
            'bbox': (box[0].start, box[1].start, box[0].stop, box[1].stop),
        }
        for label, box in enumerate(ndimage.find_objects(labels), start=1)
        if box is not None
    ]


def otsu(image):
    """The trivial model: everything darker than Otsu's grey level is a cell.

    Otsu splits the grey values in two, so it answers 'background or blood cell',
    not 'leucocyte': dark red cells are found as well. What a network adds to it is
    what it learned.

    Args:
        image: uint8 [H, W, 3], RGB.

    Returns:
        float32 [H, W], 0 or 1; all 0 for a picture of one grey value.
    """
    return _above_otsu(255 - cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))


def otsu_purple(image):
    """The trivial model to beat: Otsu's level on how much blue exceeds green.

    Azure dyes leucocytes purple, which passes blue and stops green; red cells and
    the dark rim of the field of view hardly differ in the two. On the 120 training
    patches of paper 002 its mean Dice is 0.75, where `otsu` reaches 0.50 (and Otsu
    on HSV saturation 0.67).

    Args:
        image: uint8 [H, W, 3], RGB.

    Returns:
        float32 [H, W], 0 or 1; all 0 where no pixel stands out.
    """
    return _above_otsu(cv2.subtract(image[..., 2], image[..., 1]))


def _above_otsu(values):
    """Pixels [H, W] over the level that best splits the uint8 `values` in two."""
    if values.min() == values.max():  # OpenCV would call either side the object
        return np.zeros(values.shape, np.float32)
    _, above = cv2.threshold(
        np.ascontiguousarray(values), 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return above.astype(np.float32)


def boundary_scores(predicted, actual, *, tolerance_px):
    """How much of each outline lies close to the other one.

    A cell's outline is its pixels with another label (or background) above, below,
    left or right; the picture's frame is no outline.

    Args:
        predicted, actual: [H, W], masks or labels; between touching labels runs an
            outline too.
        tolerance_px: distance up to which an outline pixel is matched.

    Returns:
        (precision, recall): the share of the predicted outline near the actual one
        and the reverse. Both 0 if just one of the two has an outline, both NaN if
        neither has.
    """
    outlines = [_outline(np.asarray(labels)) for labels in (predicted, actual)]
    found, wanted = (outline.any() for outline in outlines)
    if not (found and wanted):
        nothing = 0.0 if found or wanted else float('nan')
        return nothing, nothing
    to_predicted, to_actual = (
        cv2.distanceTransform(
            (~outline).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        for outline in outlines)
    return (float(np.mean(to_actual[outlines[0]] <= tolerance_px)),
            float(np.mean(to_predicted[outlines[1]] <= tolerance_px)))


def _outline(labels):
    outline = np.zeros(labels.shape, bool)
    down, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    outline[1:] |= down
    outline[:-1] |= down
    outline[:, 1:] |= right
    outline[:, :-1] |= right
    return outline & (labels != 0)


def draw(image, labels, *, truth=None):
    """Outlines every cell, numbers it and says above the picture how many there are.

    A small picture is enlarged, so that lines stay thin beside a cell. Nothing but
    lines and numbers covers the pixels: the caption has a strip of its own.

    Args:
        image: uint8 [H, W, 3], RGB.
        labels: int [H, W], predicted cells (green).
        truth: [H, W], actual cells (magenta, below the green), or None. Labels, or
            a boolean mask whose connected parts are the cells.

    Returns:
        uint8 [H', W', 3], RGB.
    """
    factor = max(1, min(4, -(-480 // max(labels.shape))))
    picture = cv2.resize(
        image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    thickness = max(1, round(max(picture.shape) / 700))
    if truth is not None:
        if truth.dtype == bool:
            truth, _ = ndimage.label(truth, structure=np.ones((3, 3)))
        _draw_outlines(picture, truth, TRUTH_COLOUR, factor, thickness)
    _draw_outlines(picture, labels, PREDICTED_COLOUR, factor, thickness)
    _draw_numbers(picture, labels, factor)

    entries = [(_cells(labels) + ' found', PREDICTED_COLOUR)]
    if truth is not None:
        entries.append((_cells(truth) + ' in truth', TRUTH_COLOUR))
    return np.concatenate([_caption(entries, picture.shape[1]), picture])


def _cells(labels):
    count = np.count_nonzero(np.unique(labels))
    return f'{count} cell' if count == 1 else f'{count} cells'


def _draw_outlines(picture, labels, colour, factor, thickness):
    """Polygons through the middles of the outermost pixels, cell by cell."""
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        contours, _ = cv2.findContours(
            (labels[box] == label).astype(np.uint8), cv2.RETR_EXTERNAL,
            cv2.CHAIN_APPROX_NONE)
        corner = np.array([box[1].start, box[0].start])
        for contour in contours:
            # OpenCV takes fixed-point coordinates: sixteenths of a pixel.
            points = ((contour + corner + 0.5) * factor - 0.5) * 16
            cv2.polylines(
                picture, [np.round(points).astype(np.int32)], True, colour,
                thickness, cv2.LINE_AA, 4)


def _draw_numbers(picture, labels, factor):
    """A cell's number at its upper right, white with a dark rim."""
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, max(0.7, max(picture.shape) / 1200)
    bold = max(1, round(2 * scale))
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        text = str(label)
        (width, height), _ = cv2.getTextSize(text, font, scale, bold)
        # A seventh of the box inwards is where the diagonal leaves a round cell.
        right = box[1].stop - (box[1].stop - box[1].start) / 7
        top = box[0].start + (box[0].stop - box[0].start) / 7
        left = np.clip(right * factor + 2, 2, picture.shape[1] - width - 4)
        bottom = np.clip(top * factor - 2, height + 4, picture.shape[0] - 4)
        rim = max(1, round(1.5 * scale))
        # A rim of thicker strokes would not line up: OpenCV 5 widens the glyphs.
        for down, across in ((-1, -1), (-1, 1), (1, -1), (1, 1), (0, 0)):
            colour = (255, 255, 255) if (down, across) == (0, 0) else (0, 0, 0)
            cv2.putText(
                picture, text, (int(left) + rim * across, int(bottom) + rim * down),
                font, scale, colour, bold, cv2.LINE_AA)


def _caption(entries, width):
    """A dark strip [h, width, 3] with coloured texts side by side, made to fit."""
    gap, font = '   ', cv2.FONT_HERSHEY_SIMPLEX
    (full, _), _ = cv2.getTextSize(gap.join(text for text, _ in entries), font, 1, 1)
    scale = min(max(0.6, width / 1400), (width - 8) / max(full, 1))
    scale = max(scale, 0.3)
    height = round(40 * scale)
    strip = np.full((height, width, 3), 32, np.uint8)
    left = 4
    for text, colour in entries:
        cv2.putText(
            strip, text, (left, round(height * 0.72)), font, scale, colour,
            max(1, round(1.5 * scale)), cv2.LINE_AA)
        (advance, _), _ = cv2.getTextSize(text + gap, font, scale, 1)
        left += advance
    return strip
