"""The report of spine health: predicted and true index, and whether models shrink."""

import html
import math

import numpy as np

from jaxmed.classification import figures
from jaxmed.classification.intervals import number_of
from jaxmed.metrics import RED_FLAG
from jaxmed.report import Figure, Section, Table
from jaxmed.tasks.spine_cells import BOOTSTRAP, measure, only, sizes_of

BAND = 0.1  # beside the diagonal of the chart: metrics.within_010
LIMITS = 1.96  # standard deviations between which 95% of normal errors are
POINTS_DRAWN = 800


def _agreement(rows):
    """Bias, its limits of agreement, slopes of predicted on true and the reverse, [5].

    Source: Bland and Altman 1986, The Lancet 327:307, for the limits.
    """
    error = rows['index'] - rows['truth']
    bias = np.mean(error) if len(error) else math.nan
    spread = np.std(error, ddof=1) if len(error) > 1 else math.nan
    return np.array([
        bias, bias - LIMITS * spread, bias + LIMITS * spread,
        _slope(rows['index'], on=rows['truth']),
        _slope(rows['truth'], on=rows['index'])])


def _slope(values, *, on):
    """Of least squares; NaN where `on` is constant."""
    if len(on) < 2 or not np.ptp(on) > 0:
        return math.nan
    centred = on - on.mean()
    return float(centred @ values / (centred @ centred))


def predicted_and_true(rows, options):
    """Section of how predictions agree with the truth.

    Args:
        rows: of cases with a rating, see tasks.spine_sections.
        options: of the bootstrap.
    """
    bias, lowest, highest, slope, reverse = measure(rows, _agreement, options)
    flagged = only(rows, rows['truth'] > RED_FLAG)
    text = f'{sizes_of(rows)} with a rating.\n\n{_words_of_slope(slope)}'
    if len(flagged['truth']):
        text += (
            f' Where the true index is over {RED_FLAG:g} '
            f'({number_of(len(flagged["truth"]), "case")}) its mean is '
            f'{flagged["truth"].mean():.2f}, that of the predictions '
            f'{flagged["index"].mean():.2f}.')
    table = Table('Agreement', ['Of predicted and true index', 'Value'], [
        [{'value': 'Bias', 'reason': 'mean of predicted minus true; over 0: spines '
          'are predicted to be worse than they are'}, bias],
        [{'value': 'Limits of agreement, lower', 'reason':
          f'bias - {LIMITS} standard deviations of the difference'}, lowest],
        [{'value': 'Limits of agreement, upper', 'reason':
          '95% of differences lie between them, if they are normal'}, highest],
        [{'value': 'Slope of predicted on true',
          'reason': 'under 1: shrinks towards the mean'}, slope],
        [{'value': 'Slope of true on predicted',
          'reason': '1: differences that are predicted are true on average'}, reverse],
    ], BOOTSTRAP)
    figure = _draw_scatter(rows, slope['value'], bias['value'])
    return Section('Predicted and true', text, [table], [figure] if figure else [])


_UNKNOWN_SLOPE = 'Whether the model shrinks towards the mean can not be told'


def _words_of_slope(slope):
    value, low, high = (slope[name] for name in ('value', 'low', 'high'))
    if math.isnan(value):
        return f'{_UNKNOWN_SLOPE}: {slope["reason"]}.'
    shown = f'slope {value:.2f}'
    if math.isnan(low):
        return f'{_UNKNOWN_SLOPE} ({shown}, no interval).'
    shown += f', {low:.2f} to {high:.2f}'
    if low <= 0:
        return f'The predictions do not follow the truth ({shown}).'
    if high < 1:
        return (
            f'The model shrinks towards the mean: of a true difference of 0.10 its '
            f'predictions show {value / 10:.3f} ({shown}). Good and bad spines look '
            'more alike than they are. Whoever is not sure does best to do so; it is a '
            'fault where the slope of true on predicted is over 1.')
    if low > 1:
        return f'The predictions differ more than the truth does ({shown}).'
    return f'{_UNKNOWN_SLOPE} ({shown}).'


_SHAPES = (  # of the exercises, where they are few: told apart without colours too
    '<circle class="dot" cx="{x}" cy="{y}" r="3.5" fill-opacity="0.6">{title}'
    '</circle>',
    '<rect class="other" x="{left}" y="{top}" width="7" height="7" fill-opacity="0.4">'
    '{title}</rect>',
    '<path class="dot" d="M{x} {top}l4.5 8h-9z" fill-opacity="0.6">{title}</path>',
    '<path class="other" d="M{x} {top}l4 4l-4 4l-4-4z" fill-opacity="0.4">{title}'
    '</path>',
    '<path class="whisker" d="M{left} {top}l7 7m0-7l-7 7">{title}</path>',
)


def _draw_shape(kind, x, y, title=''):
    title = title and f'<title>{html.escape(title)}</title>'
    return _SHAPES[kind].format(
        x=x, y=y, left=round(x - 3.5, 1), top=round(y - 3.5, 1), title=title)


def _draw_scatter(rows, slope, bias):
    """Predicted against true index; None where there is nothing to draw."""
    index, truth = (np.asarray(rows[name], float) for name in ('index', 'truth'))
    places = np.flatnonzero(np.isfinite(index))
    if not len(places):
        return None
    shown = places[np.unique(np.linspace(
        0, len(places) - 1, min(len(places), POINTS_DRAWN)).round().astype(int))]
    names = np.unique(rows['exercise'])
    told = 1 < len(names) <= len(_SHAPES)
    kinds = (np.searchsorted(names, rows['exercise']) if told
             else np.zeros(len(index), int))
    marks = [
        figures.line((0, 1 - BAND), (BAND, 1), 'grid'),
        figures.line((BAND, 1), (0, 1 - BAND), 'grid'),
        figures.line((0, 1), (0, 1), 'ideal'),
        figures.line((RED_FLAG, RED_FLAG), (0, 1), 'mark'),
        figures.line((0, 1), (RED_FLAG, RED_FLAG), 'mark')]
    marks += [
        _draw_shape(kinds[place], *figures.locate(truth[place], index[place]),
                    f'{rows["case_id"][place]}: {index[place]:.2f}, true '
                    f'{truth[place]:.2f}') for place in shown]
    if math.isfinite(slope):
        ends = np.array([truth.min(), truth.max()])
        fitted = truth.mean() + bias + slope * (ends - truth.mean())
        if np.all((fitted >= 0) & (fitted <= 1)):
            marks.append(figures.line(ends, fitted, 'curve curve-1'))
    height = figures.HEIGHT
    for kind, name in enumerate(names if told else ()):
        y, height = height + 12, height + 20
        marks.append(
            _draw_shape(kind, figures.LEFT + 6, y)
            + f'<text x="{figures.LEFT + 18}" y="{y + 4}">'
            f'{html.escape(_shorten(name or "no exercise given"))}</text>')
    caption = (
        f'{sizes_of(rows)}. Dashed: equal, with lines {BAND:g} above and below; red: '
        f'red flag at {RED_FLAG:g}; orange: least squares.')
    if len(shown) < len(places):
        caption += (
            f' {len(shown):,} of {len(places):,} points are drawn, evenly picked.')
    return Figure(
        alt=f'Predicted against true index of {sizes_of(rows)}',
        caption=caption, svg=figures.panel(
            marks, 'True index', 'Predicted index', height=height + 6),
        numbers={'index': index, 'truth': truth, 'exercise': rows['exercise']})


def _shorten(name, limit=38):
    return name if len(name) <= limit else name[:limit - 1] + '…'
