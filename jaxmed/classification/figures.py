"""Charts of a classifier for a report: inline SVG in the report's own styles."""

import html
import math

import numpy as np

from jaxmed.classification import calibration, scores
from jaxmed.report import Figure

# The box between a square panel's axes, and the panel, in SVG units.
LEFT, TOP, SIDE, WIDTH, HEIGHT = 42, 24, 270, 320, 338
TICKS = (0, 0.25, 0.5, 0.75, 1)
POINTS = 200  # of one curve
NAME_LENGTH = 16  # letters of a class name along an axis
SHARE_BARS = 20


def panel(marks, x_title, y_title, *, height=HEIGHT, x_ticks=None):
    """A square panel whose axes run from 0 to 1, as SVG.

    Args:
        marks: SVG elements, with places of `locate`.
        x_title, y_title: of the axes.
        height: of the panel, where something stands below the axes.
        x_ticks: share of the width -> label, of another scale than from 0 to 1.
    """
    bottom, right = TOP + SIDE, LEFT + SIDE
    parts = []
    for tick in TICKS:
        _, y = locate(0, tick)
        parts += [
            f'<path class="grid" d="M{LEFT} {y}H{right}"/>',
            f'<text x="{LEFT - 7}" y="{y + 4}" text-anchor="end">{tick:g}</text>',
        ]
    for tick, label in (x_ticks or {tick: f'{tick:g}' for tick in TICKS}).items():
        x, _ = locate(tick, 0)
        parts += [
            f'<path class="axis" d="M{x} {bottom}v5"/>',
            f'<text x="{x}" y="{bottom + 20}" text-anchor="middle">{label}</text>',
        ]
    parts += [
        f'<path class="axis" d="M{LEFT} {bottom}H{right}"/>', *marks,
        f'<text class="title" x="{LEFT + SIDE / 2}" y="{bottom + 39}" '
        f'text-anchor="middle">{x_title}</text>',
        f'<text class="title" x="0" y="12">{y_title}</text>',
    ]
    return f'<svg viewBox="0 0 {WIDTH} {height}">{"".join(parts)}</svg>'


def locate(x, y):
    """Shares in [0, 1] -> place in the panel, to a tenth."""
    return round(LEFT + SIDE * float(x), 1), round(TOP + SIDE * (1 - float(y)), 1)


def line(x, y, kind):
    """A path of the class `kind` through shares in [0, 1]."""
    points = ('{} {}'.format(*locate(*point)) for point in zip(x, y, strict=True))
    return f'<path class="{kind}" d="M{"L".join(points)}"/>'


def thin(*columns):
    """At most POINTS of each, the ends among them."""
    keep = np.linspace(0, len(columns[0]) - 1, min(len(columns[0]), POINTS))
    return [column[np.unique(keep.round().astype(int))] for column in columns]


def _shorten(name, limit=NAME_LENGTH):
    name = str(name)
    return html.escape(name if len(name) <= limit else name[:limit - 1] + '…')


def confusion_matrix(rows, classes):
    """Actual against predicted classes: counts, coloured by the share of the row."""
    counts = scores.confusion(rows)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    longest = max(len(_plain_short(name)) for name in classes)
    side = max(46, min(110, 420 // len(classes)))
    left, top = 18 + 7.2 * longest, 30  # a letter is about 7.2 wide
    slanted = 7.2 * longest > side
    parts = [
        '<text class="title" x="0" y="14">Actual</text>',
        f'<text class="title" x="{left + side * len(classes) / 2}" y="14" '
        'text-anchor="middle">Predicted</text>',
    ]
    bottom = top + side * len(classes)
    for i, name in enumerate(classes):
        middle = side * (i + 0.5)
        parts.append(
            f'<text x="{left - 8}" y="{top + middle + 4}" text-anchor="end">'
            f'{_shorten(name)}</text>'
        )
        x, y = left + middle, bottom + 18
        turn = f' transform="rotate(-40 {x} {y})"' if slanted else ''
        parts.append(
            f'<text x="{x}" y="{y}" text-anchor="{"end" if slanted else "middle"}"'
            f'{turn}>{_shorten(name)}</text>'
        )
        for j, other in enumerate(classes):
            x, y, share = left + side * j, top + side * i, shares[i, j]
            ink = 'inverse' if share > 0.65 else 'over'  # legible in light and dark
            parts.append(
                f'<rect class="share" x="{x + 1}" y="{y + 1}" width="{side - 2}" '
                f'height="{side - 2}" fill-opacity="{max(share, 0.04):.2f}"><title>'
                f'{html.escape(str(name))} called {html.escape(str(other))}: '
                f'{counts[i, j]}, {share:.0%}</title></rect>'
                f'<text class="{ink} strong" x="{x + side / 2}" y="{y + side / 2 + 1}" '
                f'text-anchor="middle">{counts[i, j]}</text>'
                f'<text class="{ink}" x="{x + side / 2}" y="{y + side / 2 + 17}" '
                f'text-anchor="middle">{share:.0%}</text>'
            )
    width = left + side * len(classes) + 4
    height = bottom + 26 + (5.5 * longest if slanted else 0)
    right = int(np.trace(counts))
    return Figure(
        alt=f'Confusion matrix of {len(classes)} classes: {right} of {counts.sum()} '
            'images are right',
        caption=f'Images by actual and predicted class, N = {counts.sum()}; '
                'percentages of each row.',
        svg=f'<svg viewBox="0 0 {width:.0f} {height:.0f}">{"".join(parts)}</svg>',
        numbers={'classes': list(classes), 'counts': counts},
    )


def _plain_short(name):
    return html.unescape(_shorten(name))


def roc(rows, k, name, *, points=()):
    """ROC curve of one class against the rest.

    Args:
        rows: columns.
        k, name: the class.
        points: thresholds, marked with dots where the curve passes them.

    Returns:
        Figure, or None where the class has not images of both kinds.
    """
    false_rates, sensitivities, thresholds = scores.roc_curve(rows, k)
    if not len(thresholds):
        return None
    positives, known = (int(column[k]) for column in scores.support(rows))
    area = float(scores.auc(rows, exclusive=False, only=[k])[0])
    dots = [
        '<circle class="dot" cx="{}" cy="{}" r="5"/>'.format(*locate(
            false_rates[place], sensitivities[place]
        )) for place in (
            np.searchsorted(-thresholds, -point, 'right') - 1 for point in points
            if math.isfinite(point)
        )
    ]
    false_rates, sensitivities, thresholds = thin(
        false_rates, sensitivities, thresholds
    )
    return Figure(
        alt=f'ROC curve of {name}: area {area:.3f}',
        caption=f'{name}: AUC {area:.3f}; {positives} of {known} images.',
        svg=panel([
            line((0, 1), (0, 1), 'ideal'),
            line(false_rates, sensitivities, 'curve curve-0'), *dots,
        ], '1 - specificity', 'Sensitivity'),
        numbers={
            'false_positive_rate': false_rates, 'sensitivity': sensitivities,
            'threshold': thresholds,
        },
    )


def precision_recall(rows, k, name):
    """Precision against recall of one class; dashed: its prevalence. May be None."""
    recalls, precisions, thresholds = scores.precision_recall_curve(rows, k)
    if not len(thresholds):
        return None
    positives, known = (int(column[k]) for column in scores.support(rows))
    area = float(scores.average_precision(rows, exclusive=False, only=[k])[0])
    recalls, precisions, thresholds = thin(recalls, precisions, thresholds)
    share = positives / known
    return Figure(
        alt=f'Precision-recall curve of {name}: average precision {area:.3f}',
        caption=f'{name}: average precision {area:.3f} (chance {share:.3f}); '
                f'{positives} of {known} images.',
        svg=panel([
            line((0, 1), (share, share), 'ideal'),
            line(recalls, precisions, 'curve curve-0'),
        ], 'Recall', 'Precision'),
        numbers={
            'recall': recalls, 'precision': precisions, 'threshold': thresholds,
        },
    )


def reliability_diagram(rows, *, exclusive, title, k=None):
    """How often probabilities come true, with 95% Wilson intervals and a histogram.

    Returns:
        Figure, or None without any known image.
    """
    bins = calibration.reliability(rows, exclusive=exclusive, k=k)
    if not len(bins.count):
        return None
    marks = [line((0, 1), (0, 1), 'ideal')]
    for probability, share, low, high in zip(*bins[1:], strict=True):
        x, y = locate(probability, share)
        marks.append(
            f'<path class="whisker" d="M{x} {locate(0, low)[1]}V{locate(0, high)[1]}"/>'
            f'<circle class="dot" cx="{x}" cy="{y}" r="4.5"/>'
        )
    probability, _ = calibration.sureness(rows, exclusive=exclusive, k=k)
    counts, edges = np.histogram(probability, SHARE_BARS, (0, 1))
    base, tallest = HEIGHT + 46, 40
    marks.append(
        f'<path class="axis" d="M{LEFT} {base}H{LEFT + SIDE}"/>'
        f'<text x="{LEFT - 7}" y="{base - tallest + 8}" text-anchor="end">'
        f'{counts.max()}</text><text x="{LEFT - 7}" y="{base}" '
        'text-anchor="end">0</text>'
    )
    for edge, count in zip(edges, counts):
        size = round(tallest * count / counts.max(), 1)
        if count:
            marks.append(
                f'<rect class="bar" x="{locate(edge, 0)[0]}" y="{base - size}" '
                f'width="{SIDE / SHARE_BARS}" height="{size}">'
                f'<title>{count}</title></rect>'
            )
    return Figure(
        alt=f'Reliability diagram, {title}: {len(bins.count)} bins of '
            f'{len(probability)} answers',
        caption=f'{title}, N = {len(probability)}.',
        svg=panel(marks, 'Probability given', 'Share that came true', height=base + 6),
        numbers=bins._asdict() | {'histogram': counts},
    )


def probability_histogram(rows, k, name):
    """Probabilities of images with the class (up) and without (down). May be None."""
    probability = np.asarray(rows['probability'], float)[:, k]
    targets = np.asarray(rows['targets'], float)[:, k]
    sides = [
        np.histogram(probability[targets == value], SHARE_BARS, (0, 1))[0]
        for value in (1, 0)
    ]
    totals = [side.sum() for side in sides]
    if not sum(totals):
        return None
    shares = [side / max(total, 1) for side, total in zip(sides, totals)]
    top = max(share.max() for share in shares)
    axis, reach, bottom = TOP + SIDE / 2, SIDE / 2 - 8, TOP + SIDE
    parts = []
    for share, kind, sign in zip(shares, ('bar', 'other'), (1, -1)):
        for i, value in enumerate(share):
            size = round(reach * value / top, 1)
            if value:
                y = axis - size if sign > 0 else axis
                parts.append(
                    f'<rect class="{kind}" x="{locate(i / SHARE_BARS, 0)[0]}" y="{y}" '
                    f'width="{SIDE / SHARE_BARS}" height="{size}"/>'
                )
        y = axis - sign * reach + 4
        parts.append(
            f'<text x="{LEFT - 7}" y="{y}" text-anchor="end">{top:.0%}</text>'
        )
    for tick in TICKS:
        x, _ = locate(tick, 0)
        parts.append(
            f'<path class="axis" d="M{x} {bottom}v5"/><text x="{x}" '
            f'y="{bottom + 20}" text-anchor="middle">{tick:g}</text>'
        )
    parts.append(
        f'<path class="axis" d="M{LEFT} {axis}H{LEFT + SIDE}"/>'
        f'<path class="axis" d="M{LEFT} {bottom}H{LEFT + SIDE}"/>'
        f'<text class="title" x="0" y="12">Share with it, up; without, down</text>'
        f'<text class="title" x="{LEFT + SIDE / 2}" y="{bottom + 39}" '
        'text-anchor="middle">Probability given</text>'
    )
    return Figure(
        alt=f'Histogram of the probability of {name}, with and without it',
        caption=f'{name}: {totals[0]} images with it (up), {totals[1]} without (down).',
        svg=f'<svg viewBox="0 0 {WIDTH} {HEIGHT}">{"".join(parts)}</svg>',
        numbers={'with': sides[0], 'without': sides[1]},
    )
