"""Case rows and metrics -> numbers with intervals, a JSON file and one HTML page.

Knows no clinical problem: a task's metrics, columns and pictures are given by name.
The page loads nothing from anywhere: pictures, charts and styles are inside it. The
same input gives the same bytes, so a report can be compared with an earlier one.
"""

import base64
import functools
import importlib.resources
import io
import json
import math
import os
import pathlib
import re
from typing import Any, Mapping, NamedTuple, Sequence
from xml.etree import ElementTree

import jinja2
import markupsafe
import matplotlib.ticker
import numpy as np
from PIL import Image

from jaxmed import metrics as metric_functions
from jaxmed.errors import InputError

# A percentile bootstrap interval of a mean is too narrow by sqrt((n - 1) / n) and by
# using 1.96 where Student's t belongs: below ten patients '95%' covers under 90%.
FEW_PATIENTS = 10
PICTURES = 6  # worst cases shown, and best cases
PICTURE_PIXELS = 480  # greatest side
CASES_SHOWN = 100  # of the table of cases; the JSON file has them all
POINTS_SHOWN = 400  # of one curve
SUMMARY = ('value', 'low', 'high', 'n_patients', 'n_cases', 'resamples', 'seed',
           'description')
# What a section's SVG may hold: shapes and text, nothing that runs or loads.
SVG_TAGS = ('svg', 'g', 'path', 'rect', 'circle', 'line', 'text', 'tspan', 'title')
SVG_ATTRIBUTES = (
    'viewBox', 'class', 'transform', 'd', 'x', 'y', 'x1', 'x2',
    'y1', 'y2', 'dx', 'dy', 'cx', 'cy', 'r', 'width', 'height', 'text-anchor',
    'fill-opacity')
# A chart's size and the box between its axes, in SVG user units.
CHART = dict(width=480, height=240, left=56, right=464, top=28, bottom=194)


class Result(NamedTuple):
    """One column of the table: who was measured, on what, and the values."""

    source: str  # 'this model', 'Otsu threshold', 'paper'
    data: str  # 'test', 'train', 'its own training images'
    values: Mapping[str, Mapping[str, Any]]  # of summarise, or {'value': 0.9}
    differences: Mapping[str, Mapping[str, Any]] = {}  # of compare: the first's minus


class Table(NamedTuple):
    """A table of a Section.

    A cell is a text, a number (NaN reads 'not defined'), None (an empty cell), or a
    mapping as in summarise: {'value': number or text, 'low': .., 'high': ..}, where
    'reason' says why there is no value. JSON keeps all keys of a mapping.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]  # the first cell of a row is its heading
    note: str = ''


class Figure(NamedTuple):
    """A chart, as wide as its viewBox, or a picture; `svg` or `pixels` is given."""

    alt: str  # for those who can't see it
    caption: str
    svg: str = ''  # one <svg viewBox=..> of SVG_TAGS and SVG_ATTRIBUTES
    pixels: Any = None  # uint8 [H, W, 3] or [H, W]
    numbers: Any = None  # what is drawn, for the JSON file


class Section(NamedTuple):
    """A part of a report that a task adds: words, then tables, figures, galleries."""

    title: str
    text: str = ''  # an empty line parts paragraphs
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    galleries: Mapping[str, Sequence[Figure]] = {}  # title -> pictures


class Measured(NamedTuple):
    """Metrics over a whole split, and over as many draws of its patients."""

    case_ids: Any  # [N], in order
    patient_ids: Any  # [N], whose they are
    metrics: Mapping[str, Any]  # name -> function
    values: Mapping[str, float]
    drawn: Mapping[str, Any]  # name -> [resamples], of metrics.resample
    resamples: int
    seed: int


def measure(cases, metrics, *, resamples, seed):
    """Each metric over a whole split, and over draws of its patients.

    Args:
        cases: Rows, one per case, with 'case_id' and 'patient_id'. Columns of text and
            of pictures ([N, H, W]) are kept from the metrics: to draw them anew in each
            resample takes minutes.
        metrics: name -> function of such rows; the first is the headline. The first
            line of a function's docstring tells readers what it means.
        resamples, seed: of the bootstrap.

    Returns:
        Measured. Results on the same cases have the same draws, in whatever order
        their cases come.

    Raises:
        InputError: there are no cases.
    """
    if not len(cases['case_id']):
        raise InputError('cases', 'there are none to measure')
    order = np.argsort(cases['case_id'], kind='stable')
    patients = np.asarray(cases['patient_id'])[order]
    rows = {
        name: np.asarray(column)[order] for name, column in cases.items()
        if np.ndim(column) < 3 and np.asarray(column).dtype.kind not in 'US'}
    return Measured(
        np.asarray(cases['case_id'])[order], patients, metrics,
        {name: float(metric(rows)) for name, metric in metrics.items()},
        {name: metric_functions.resample(
            rows, metric, groups=patients, resamples=resamples, seed=seed)
         for name, metric in metrics.items()}, resamples, seed)


def summarise(cases, metrics, *, resamples, seed):
    """What a report says of each metric of some cases, see measure and describe."""
    return describe(measure(cases, metrics, resamples=resamples, seed=seed))


def describe(measured):
    """What a report says of each metric: its value, a 95% interval over patients.

    Returns:
        name -> {'value', 'low', 'high', 'n_patients', 'n_cases', 'resamples', 'seed',
        'description'}; NaN where the metric or its interval is undefined.
    """
    return {name: dict(zip(SUMMARY, (
        value, *metric_functions.percentile_interval(measured.drawn[name]),
        len(np.unique(measured.patient_ids)), len(measured.case_ids),
        measured.resamples, measured.seed, _first_line(measured.metrics[name]),
    ))) for name, value in measured.values.items()}


def compare(measured, other, *, lower_is_better):
    """Each metric of a result minus that of another on the same cases, paired.

    Both are of the same draws of patients, so what makes a draw hard for both cancels
    out: their intervals may overlap where that of the difference leaves no doubt.

    Args:
        measured, other: Measured.
        lower_is_better: names of metrics.

    Returns:
        name -> {'value', 'low', 'high', 'lower_is_better', 'verdict'}; NaN where one is
        undefined. {} where their cases, or whose these are, differ.
    """
    if not (np.array_equal(measured.case_ids, other.case_ids)
            and np.array_equal(measured.patient_ids, other.patient_ids)
            and (measured.resamples, measured.seed) == (other.resamples, other.seed)):
        return {}
    differences = {}
    for name, value in measured.values.items():
        low, high = metric_functions.percentile_interval(
            measured.drawn[name] - other.drawn[name])
        lower = name in lower_is_better
        differences[name] = {
            'value': value - other.values[name], 'low': low, 'high': high,
            'lower_is_better': lower, 'verdict': _judge(low, high, lower)}
    return differences


def _judge(low, high, lower_is_better):
    """Whether an interval of a difference holds 0, in words."""
    if not (_is_finite(low) and _is_finite(high)):
        return 'interval undefined here'
    if low <= 0 <= high:
        return 'holds 0: undecided'
    return f'excludes 0: {"better" if (high < 0) == lower_is_better else "worse"}'


def write(folder, *, title, about, results, cases, scores, render, legend, histories,
          best_step, warnings, command, facts, sections=()):
    """Writes report.json and report.html; neither is ever there by half.

    Patient ids are left out of both files; case ids are in both.

    Args:
        folder: where to; made if absent.
        title: one line of text. about: a sentence or two, or ''.
        results: Results; the first is the one reported on, its first metric the
            headline. The others stand beside it: baselines, other splits, a paper.
        cases: Rows of the first result, one per case. Columns of pictures ([N, H, W])
            go into neither file.
        scores: column of `cases` -> whether higher is better. Each gets a histogram;
            the first orders the cases and their pictures. May be empty.
        render: case_id -> uint8 [H, W, 3] or [H, W], asked only for the cases shown.
            None for no pictures.
        legend: what the colours in the pictures mean, or ''.
        histories: name, e.g. 'train' -> list of {'step': int, quantity: number}.
        best_step: the step whose parameters were measured, or None.
        warnings: sentences for the top of the page.
        command: the command line that gives this report again, or ''.
        facts: name -> text or number; a mapping (the config) is folded away.
        sections: Sections, shown after the table of metrics.

    Returns:
        (path of the JSON file, path of the HTML file).

    Raises:
        InputError: the files can't be written.
        ValueError: a section's SVG holds what SVG_TAGS and SVG_ATTRIBUTES don't.
    """
    # What a paper doesn't say is None; what is undefined is NaN.
    results = [result._replace(values={
        name: dict.fromkeys(SUMMARY) | dict(value)
        for name, value in result.values.items()}) for result in results]
    main = results[0]
    headline = next(iter(main.values))
    patients = main.values[headline]['n_patients']
    warnings = list(warnings)
    if patients < FEW_PATIENTS:
        warnings.append(f'Only {patients} patient{"s" * (patients != 1)}: too few for '
                        'the interval to mean much.')
    cases = {name: np.asarray(column) for name, column in cases.items()
             if name != 'patient_id' and np.ndim(column) < 3}
    rows = np.arange(len(cases['case_id']))
    orders = {name: _worst_first(cases[name], scores[name]) for name in scores}
    order = next(iter(orders.values()), rows)

    context = {
        'title': title, 'about': about, 'headline': headline, 'warnings': warnings,
        'best_step': best_step, 'command': command}
    text = json.dumps(_plain(context | {
        'results': [result._asdict() for result in results], 'cases': cases,
        'histories': histories, 'facts': facts,
        'sections': [_section_numbers(section) for section in sections],
    }), allow_nan=False, indent=1, sort_keys=True) + '\n'

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined,
                                     trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        show=_show, signed=_show_signed, label=_label,
        json=lambda fact: json.dumps(_plain(fact), indent=2),
        cell=_cell, picture=_picture, drawing=_drawing,
        paragraphs=lambda text: re.split(r'\n\s*\n', text.strip()))
    environment.tests['finite'] = _is_finite
    template = importlib.resources.files('jaxmed').joinpath('report.html')
    page = environment.from_string(template.read_text(encoding='utf-8')).render(
        context, chart=CHART, main=main, results=results, legend=legend, facts=facts,
        comparison=_comparison(headline, results), cases=cases,
        compared=[result for result in results if result.differences],
        n_cases=len(rows),
        columns=[name for name, column in cases.items() if column.ndim == 1],
        sections=sections, listed=[*order, *np.setdiff1d(rows, order)][:CASES_SHOWN],
        histograms=[_histogram(name, cases, orders[name]) for name in scores],
        galleries=_galleries(cases, scores, order, render),
        curves=_curves(histories, best_step))
    return _replace(pathlib.Path(folder), {'report.json': text, 'report.html': page})


def _replace(folder, texts):
    """Writes all files under other names before the first takes its place."""
    partial = {folder / f'.{name}.{os.getpid()}': folder / name for name in texts}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in zip(partial, texts.values()):
            path.write_text(text, encoding='utf-8')
        for path, final in partial.items():
            os.replace(path, final)
    except OSError as error:
        raise InputError(folder, f"can't be written: {error.strerror}") from error
    finally:
        for path in partial if folder.is_dir() else ():
            path.unlink(missing_ok=True)
    return tuple(partial.values())


def _first_line(function):
    while isinstance(function, functools.partial):  # its own docstring is partial's
        function = function.func
    return next(iter((function.__doc__ or '').strip().splitlines()), '').strip()


def _plain(value):
    """What strict JSON can hold: NaN and infinities become None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int)) else str(value)


def _is_finite(value):
    return value is not None and math.isfinite(value)


def _show(value):
    """A value as a reader wants it: three decimals, '–' for what is undefined."""
    value = _plain(value)
    if not isinstance(value, float):
        return '–' if value is None else str(value)
    if value and not 1e-3 <= abs(value) < 1e6:
        return f'{value:.2e}'
    return f'{value:.3f}' if abs(value) < 100 else f'{value:,.1f}'


def _show_signed(value):
    """A difference; small ones are no powers of ten, which are hard to compare."""
    if _is_finite(value) and 0 < abs(value) < 1e-3:
        return f'{value:+.4f}'
    return '+' * (_is_finite(value) and value > 0) + _show(value)


def _label(name):
    words = {'iou': 'IoU', 'f1': 'F1', 'auc': 'AUC', 'mae': 'MAE', 'rmse': 'RMSE',
             'r2': 'R2'}
    name = ' '.join(words.get(word, word) for word in name.split('_'))
    return name[:1].upper() + name[1:]


def _section_numbers(section):
    """What the JSON file holds of a section: all but its drawings."""
    def described(figure):
        return {'alt': figure.alt, 'caption': figure.caption, 'numbers': figure.numbers}

    return {
        'title': section.title, 'text': section.text,
        'tables': [table._asdict() for table in section.tables],
        'figures': [described(figure) for figure in section.figures],
        'galleries': {title: [described(figure) for figure in pictures]
                      for title, pictures in section.galleries.items()}}


def _cell(cell):
    """(main text, small text, whether that is an interval) of a table's cell."""
    details = cell if isinstance(cell, Mapping) else {'value': cell}
    value, reason = _plain(details['value']), details.get('reason') or ''
    if value is None:
        return '' if cell is None else 'not defined', reason, False
    ends = [details.get('low'), details.get('high')]
    if not all(_is_finite(end) for end in ends):
        return _show(value), reason, False
    return _show(value), ' to '.join(map(_show, ends)), True


def _drawing(figure):
    """(SVG as markup, its width), if it only draws; names in it may be anyone's."""
    try:
        root = ElementTree.fromstring(figure.svg)
    except ElementTree.ParseError as error:
        raise ValueError(f'not an SVG: {error}') from None
    for element in root.iter():
        for name in (element.tag, *element.attrib):
            if name not in SVG_TAGS + SVG_ATTRIBUTES:
                raise ValueError(f'an SVG of a report must not hold {name!r}')
    if root.tag != 'svg' or 'viewBox' not in root.attrib:
        raise ValueError('an SVG of a report begins with <svg viewBox=...>')
    root.attrib |= {'role': 'img', 'aria-label': figure.alt}
    # Written anew: what was read here is what a browser will read.
    markup = markupsafe.Markup(ElementTree.tostring(root, encoding='unicode'))
    return markup, float(root.attrib['viewBox'].split()[2])


def _worst_first(scores, higher_is_better):
    """Indices of the defined scores, worst first; ties keep the order of the rows."""
    scores = scores.astype(float)  # unsigned numbers have no negative
    defined = np.flatnonzero(np.isfinite(scores))
    keys = scores[defined] if higher_is_better else -scores[defined]
    return defined[np.argsort(keys, kind='stable')]


def _ticks(values, count, **options):
    """About `count` round numbers, the ends at or beyond those of the values."""
    locator = matplotlib.ticker.MaxNLocator(count, steps=[1, 2, 2.5, 5, 10], **options)
    low, high = min(values), max(values)
    room = (abs(low) or 1) / 10 if low == high else 0
    return locator.tick_values(low - room, high + room)


def _scale(ticks, start, end):
    """Value -> place between `start` and `end`, to a tenth; and the labelled ticks."""
    def place(value):
        share = (value - ticks[0]) / (ticks[-1] - ticks[0])
        return round(float(start + share * (end - start)), 1)

    return place, [(place(tick), f'{tick:g}') for tick in ticks]


_across = functools.partial(_scale, start=CHART['left'], end=CHART['right'])
_up = functools.partial(_scale, start=CHART['bottom'], end=CHART['top'])


def _curves(histories, best_step):
    """One chart per quantity, with a line for each history that has it."""
    points = [point for line in histories.values() for point in line]
    steps = [point['step'] for point in points]
    steps += [best_step] * (best_step is not None)
    charts = []
    for name in dict.fromkeys(name for point in points for name in point):
        values = [point[name] for point in points if _is_finite(point.get(name))]
        if name == 'step' or not values:
            continue
        x, x_ticks = _across(_ticks(steps, 5, integer=True))
        y, y_ticks = _up(_ticks(values, 5))
        paths = []
        for line in histories.values():
            line = [point for point in line if name in point]
            keep = np.linspace(0, len(line) - 1, min(len(line), POINTS_SHOWN))
            path, pen = '', 'M{} {}h0'  # h0: a lone point is a dot
            for point in [line[i] for i in np.unique(keep.astype(int))]:
                # A value that isn't finite breaks the line where training broke.
                finite = _is_finite(point[name])
                path += pen.format(x(point['step']), y(point[name])) if finite else ''
                pen = 'L{} {}' if finite else 'M{} {}h0'
            paths.append(path)
        charts.append({'name': name, 'paths': dict(zip(histories, paths)),
                       'x_ticks': x_ticks, 'y_ticks': y_ticks,
                       'mark': None if best_step is None else x(best_step)})
    return charts


def _histogram(name, cases, order):
    """How one score spreads over the cases, with the worst of them marked."""
    values = cases[name][order].astype(float)
    undefined = len(cases[name]) - len(values)
    if not len(values):
        return {'name': name, 'undefined': undefined, 'bars': []}
    edges = _ticks(values, 20)
    counts, _ = np.histogram(values, edges)
    x, _ = _across(edges)
    y, y_ticks = _up(_ticks([0, counts.max()], 4, integer=True))
    return {
        'name': name, 'undefined': undefined, 'y_ticks': y_ticks,
        'x_ticks': [(x(tick), f'{tick:g}') for tick in _ticks(values, 6)
                    if edges[0] <= tick <= edges[-1]],
        'bars': [(x(left), y(count), x(right) - x(left), int(count))
                 for left, right, count in zip(edges, edges[1:], counts) if count],
        'mark': x(values[0]), 'worst': values[0], 'median': np.median(values),
        'worst_case': cases['case_id'][order[0]]}


def _comparison(headline, results):
    """One axis, in percent of its length, for the headline of every result."""
    shown = [result for result in results
             if _is_finite(result.values.get(headline, {}).get('value'))]
    ends = [result.values[headline][key] for result in shown
            for key in ('value', 'low', 'high')]
    ticks = _ticks([end for end in ends if _is_finite(end)], 5) if ends else []
    place, ticks = _scale(ticks, 0, 100)
    return {'results': shown, 'place': place, 'ticks': ticks}


def _galleries(cases, scores, order, render):
    if render is None or not scores:
        return {}
    name, ids = next(iter(scores)), cases['case_id']
    worst = min(PICTURES, math.ceil(len(order) / 2))  # no case is in both
    best = order[max(worst, len(order) - PICTURES):][::-1]
    return {heading: [(ids[i], f'{_label(name)} {_show(cases[name][i])}',
                       _picture(render(ids[i]))) for i in chosen]
            for heading, chosen in {'Worst': order[:worst], 'Best': best}.items()
            if len(chosen)}


def _picture(pixels):
    image = Image.fromarray(np.asarray(pixels)).convert('RGB')
    image.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS))
    stream = io.BytesIO()
    image.save(stream, 'JPEG', quality=85, subsampling=0)  # thin contours keep colour
    return 'data:image/jpeg;base64,' + base64.b64encode(stream.getvalue()).decode()
