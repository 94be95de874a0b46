"""What the report of spine health says beyond its metrics: of whom, and how sure."""

import html
import math
from collections import Counter

import numpy as np
from scipy import stats

from jaxmed import metrics
from jaxmed.classification import figures
from jaxmed.classification.intervals import (
    number_of,
    resample,
    share_of,
    undefined,
)
from jaxmed.metrics import RED_FLAG
from jaxmed.report import Figure, Section, Table
from jaxmed.tasks.spine_intervals import bounds

BAND = 0.1  # beside the diagonal of the chart: metrics.within_010
LIMITS = 1.96  # standard deviations between which 95% of normal errors are
ROWS_SHOWN = 20  # of a table
POINTS_DRAWN = 800
FEW_PEOPLE = 10  # fewer: their interval means little

BOOTSTRAP = '95% intervals over people (bootstrap).'
WILSON = (
    "95% intervals over people (bootstrap); of shares of all or of none Wilson's, as "
    "if all of a person's cases were alike.")
# What counts of data.movements mean, in the order in which they are shown.
COUNTS = {
    'frames': 'Frames read',
    'frames_nobody': 'Frames with nobody',
    'frames_several_people': 'Frames with several people',
    'frames_jumped': 'Frames with somebody else',
    'frames_dropped': 'Frames missing by their time stamps',
    'frames_undecodable': 'Frames that are damaged',
    'frames_trimmed': 'Frames cut off at the ends, with nobody',
    'frames_after': 'Frames after resampling',
    'time_stamps_mended': 'Time stamps mended',
    'joints_inferred_share': 'Joints that the sensor only inferred',
    'joints_dropped_share': 'Joints dropped: hardly visible',
    'joints_jumped_share': 'Joints dropped: they jump',
    'gaps_filled_share': 'Joints interpolated',
    'joints_unknown_share': 'Joints still unknown after cleaning',
}


def sections(
    cases, *, valid_cases, probe_cases, found, changed, external, calibrations, picture,
    resamples,
):
    """Everything a report says of spine health beyond its table of metrics.

    Args:
        cases: rows of the measured split, [N] each: 'index' and 'truth' in [0, 1]
            (truth NaN where unknown), 'spread' (0 where unknown), 'seen', 'exercise'
            and 'group' (texts, perhaps ''), 'case_id', 'patient_id'.
        found: what launch.prepare counted, {} if nothing: data.movements.read, and
            'shared_patients', people on both sides of the split.
        calibrations: tasks.spine_intervals.calibrate of each run, {} where there is
            none.
        valid_cases, probe_cases, changed, external, picture: of other tasks.
        resamples: of every bootstrap over people.

    Returns:
        list of report.Section.
    """
    del valid_cases, probe_cases, changed, external, picture
    cases = {name: np.asarray(column) for name, column in cases.items()}
    known = np.isfinite(cases['truth'].astype(float))
    rows = {name: column[known] for name, column in cases.items()}
    options = dict(resamples=resamples, seed=0)
    return [
        _predicted_and_true(rows, _measure(rows, _agreement, options)),
        _by_kind(rows, options),
        _red_flag(rows, options),
        _how_sure(rows, calibrations, options),
        _quality(rows, found, options),
        _trust(cases, rows, found, calibrations, options),
    ]


def _people(rows):
    return len(np.unique(rows['patient_id']))


def _people_of(number):
    return f'{number:,} {"person" if number == 1 else "people"}'


def _sizes(rows):
    return f'{number_of(len(rows["truth"]), "case")} of {_people_of(_people(rows))}'


def _why_undefined(rows):
    """Why a number of regression is not defined, or ''."""
    index, truth = (np.asarray(rows[name], float) for name in ('index', 'truth'))
    for undefined_here, reason in (
        (not len(truth), 'nobody here has a rating'),
        (np.isnan(index).any(), 'an index is not a number'),
        (len(truth) == 1, 'one case only'),
        (len(truth) and np.ptp(truth) == 0, 'all true indices are equal'),
        (len(truth) and np.ptp(index) == 0, 'all predicted indices are equal'),
    ):
        if undefined_here:
            return reason
    return ''


def _measure(rows, metric, options):
    """Cells of what `metric` says of rows, float or [M], with bootstrap intervals."""
    columns = {
        name: np.asarray(rows[name], float) for name in ('index', 'truth', 'spread')}
    cells = resample(columns, metric, patients=rows['patient_id'], options=options)
    why = _why_undefined(rows)
    for cell in cells:
        for name in ('value', 'low', 'high'):
            if abs(cell[name]) < 1e-3:  # would be shown as a power of ten
                cell[name] = round(cell[name], 3) + 0.0
        if math.isnan(cell['value']):
            cell['reason'] = why
        elif math.isnan(cell['low']):
            cell['reason'] = 'no interval: one person only' if (
                cell['n_patients'] == 1) else 'no interval: undefined in most resamples'
    return cells


def _share(hits, chosen, people, options, *, why):
    """Cell of the share of hits among the chosen; `why` there are none.

    Args:
        hits, chosen: bool [N].
        people: [N], whose each is.
        options: of the bootstrap.
    """
    if not chosen.any():
        return undefined(why)

    def share(rows):
        count = rows['chosen'].sum()
        return rows['hits'].sum() / count if count else math.nan

    (cell,) = resample({'hits': hits & chosen, 'chosen': chosen}, share,
                       patients=people, options=options)
    if cell['low'] < cell['high'] and 0 < cell['value'] < 1:
        return cell
    return share_of(hits[chosen], people[chosen], why)


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


def _predicted_and_true(rows, agreement):
    bias, lowest, highest, slope, reverse = agreement
    flagged = _only(rows, rows['truth'] > RED_FLAG)
    text = f'{_sizes(rows)} with a rating.\n\n{_words_of_slope(slope)}'
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
        f'{_sizes(rows)}. Dashed: equal, with lines {BAND:g} above and below; red: '
        f'red flag at {RED_FLAG:g}; orange: least squares.')
    if len(shown) < len(places):
        caption += (
            f' {len(shown):,} of {len(places):,} points are drawn, evenly picked.')
    return Figure(
        alt=f'Predicted against true index of {_sizes(rows)}',
        caption=caption, svg=figures.panel(
            marks, 'True index', 'Predicted index', height=height + 6),
        numbers={'index': index, 'truth': truth, 'exercise': rows['exercise']})


def _shorten(name, limit=38):
    return name if len(name) <= limit else name[:limit - 1] + '…'


_KINDS = ('Cases', 'People', 'MAE', 'Spearman', 'Mean true index', 'Bias')


def _row_of(name, rows, options):
    """A row of a table with the columns _KINDS."""
    def measure(columns):
        truth = columns['truth']
        mean = truth.mean() if len(truth) else math.nan
        return np.array([
            metrics.mae(columns), metrics.spearman(columns), mean,
            np.mean(columns['index']) - mean if len(truth) else math.nan])

    return [name, len(rows['truth']), _people(rows), *_measure(rows, measure, options)]


def _by_kind(rows, options):
    tables = [_tabulate('By exercise', 'Exercise', rows, rows['exercise'], options)]
    if np.any(rows['group'] != ''):
        tables.append(_tabulate('By group', 'Group', rows, rows['group'], options))
    patients, of = np.unique(rows['patient_id'], return_inverse=True)
    counts = np.bincount(of)
    averaged = {
        name: np.bincount(of, rows[name].astype(float)) / counts
        for name in ('index', 'truth', 'spread')} | {'patient_id': patients}
    each = f'{len(of) / len(patients):.3g} cases each, on average' if len(of) else ''
    tables.append(Table('By person', ['', *_KINDS], [
        _row_of({'value': 'Mean over cases', 'reason': each}, averaged, options)],
        "Predicted and true index are averaged over a person's cases."))
    text = (
        f'Bias is predicted minus true. {BOOTSTRAP} Of fewer than {FEW_PEOPLE} people '
        'they are too narrow and mean little. To tell people apart within an exercise '
        '(Spearman) is harder than to tell apart exercises that are rated differently.')
    return Section('By exercise, group and person', text, tables)


def _tabulate(title, heading, rows, column, options):
    names = sorted(Counter(column.tolist()).items(), key=lambda pair: -pair[1])
    chosen = sorted(
        (name for name, _ in names[:ROWS_SHOWN]), key=lambda name: (not name, name))
    more = len(names) - len(chosen)
    return Table(
        title, [heading, *_KINDS], [
            _row_of(name or 'none given', _only(rows, column == name), options)
            for name in chosen] or [_row_of('none', rows, options)],
        f'{more:,} with fewer cases not shown.' if more else '')


def _only(rows, chosen):
    return {name: column[chosen] for name, column in rows.items()}


def _red_flag(rows, options):
    index, truth = rows['index'].astype(float), rows['truth'].astype(float)
    flagged, raised = truth > RED_FLAG, index > RED_FLAG
    people = rows['patient_id']
    title, count = 'Red flag', int(flagged.sum())
    if not len(truth) or np.isnan(index).any():
        return Section(title, f'Nothing is counted: {_why_undefined(rows)}.')
    shares = [
        [{'value': name, 'reason': meaning},
         _share(right, chosen, people, options, why=why),
         f'{int(right[chosen].sum()):,} of {int(chosen.sum()):,}']
        for name, meaning, chosen, right, why in (
            ('Sensitivity', 'of true red flags, those raised', flagged, raised,
             'no true red flag'),
            ('Specificity', 'of all others, those not raised', ~flagged, ~raised,
             'only true red flags'),
            ('PPV', 'of raised flags, those that are true', raised, flagged,
             'no flag is raised'),
            ('NPV', 'of all others, those without a true one', ~raised, ~flagged,
             'a flag is raised everywhere'),
            ('Prevalence', 'of all, true red flags', truth >= 0, flagged, ''),
        )]
    (area,) = _measure(rows, metrics.flag_auc, options)
    one_kind = '' if 0 < count < len(truth) else (
        'only true red flags' if count else 'no true red flag')
    if one_kind:
        area = undefined(one_kind)
    shares.append([
        {'value': 'AUC', 'reason': 'by any threshold of the predicted index'}, area,
        None])
    text = (
        f'An index over {RED_FLAG:g} is a red flag: see a professional (paper 000, '
        f'section IV). It is true of {count:,} of {_sizes(rows)}.')
    if one_kind:
        text += f' What it takes both kinds for is not defined: {one_kind}.'
    scored = {'probability': index[:, None], 'targets': flagged[:, None].astype(float)}
    # Over, not from: the next greater number is the first that raises it.
    curve = figures.roc(scored, 0, 'Red flag', points=[np.nextafter(RED_FLAG, 1)])
    return Section(title, text, tables=[
        Table('Counts', ['Cases', 'True red flag', 'None'], [
            ['Raised', int((raised & flagged).sum()), int((raised & ~flagged).sum())],
            ['Not raised', int((~raised & flagged).sum()),
             int((~raised & ~flagged).sum())]]),
        Table('Rates', ['', 'Value', 'Cases'], shares,
              f'PPV and NPV hold where red flags are as frequent as here. {WILSON} One '
              'without width says that no error was seen, not that none will be.'),
    ], figures=[] if curve is None else [curve._replace(
        caption=curve.caption.replace('images', 'cases')
        + f' Dot: an index over {RED_FLAG:g}; dashed: a coin.')])


def _how_sure(rows, calibrations, options):
    text, tables = '', []
    usable = [values for values in calibrations if values.get('width') is not None]
    if not len(rows['truth']) or np.isnan(rows['index'].astype(float)).any():
        text = f'Nothing is measured: {_why_undefined(rows)}.'
        usable = []
    elif not usable:
        reasons = sorted({values.get('reason', '') for values in calibrations} - {''})
        text = (
            'Single predictions come without an interval: '
            f'{"; ".join(reasons) or "none was fitted to validation cases"}.')
    if usable:
        words, table = _coverage(rows, usable, len(calibrations), options)
        text, tables = words, [table]
    spread = rows['spread'].astype(float)
    if not text.startswith('Nothing') and np.all(spread > 0):
        words, table = _by_spread(rows, spread, options)
        text, tables = f'{text}\n\n{words}', [*tables, table]
    elif not text.startswith('Nothing'):
        text += '\n\nThe model gives no spread of its own: it is equally sure of all.'
    return Section('How sure', text, tables)


def _coverage(rows, usable, runs, options):
    """(text, table): how often the truth is within the intervals users are given."""
    index, truth, spread = (
        rows[name].astype(float) for name in ('index', 'truth', 'spread'))
    ends = sorted((
        np.array([bounds(*pair, values)[1:] for pair in zip(index, spread)], float)
        for values in usable), key=lambda ends: np.mean(ends[:, 1] - ends[:, 0]))
    versions = {'': ends[0]} if len(ends) == 1 else {
        'narrowest': ends[0], 'widest': ends[-1]}
    level = usable[0]['level']
    lines, words = [], []
    for version, (low, high) in ((name, both.T) for name, both in versions.items()):
        inside = (truth >= low - 1e-9) & (truth <= high + 1e-9)
        decided = (low > RED_FLAG) | (high <= RED_FLAG)
        for name, chosen in (
            ('All', truth >= 0), (f'True index over {RED_FLAG:g}', truth > RED_FLAG),
            (f'True index {RED_FLAG:g} or less', truth <= RED_FLAG),
        ):
            part = _only(rows, chosen) | {'spread': (high - low)[chosen]}
            (width,) = _measure(
                part, lambda columns: _mean(columns['spread']), options)
            lines.append([
                {'value': name, 'reason': version}, int(chosen.sum()), _people(part),
                *(_share(hits, chosen, rows['patient_id'], options,
                         why='there are none') for hits in (inside, decided)), width])
        words.append(_words_of_coverage(lines[-3][3], level, version))
    people = min(values['people'] for values in usable)
    sources = [_range_of(name, usable) for name in ('cases', 'people')]
    low, high = _luck(people, level)
    of_runs = f', of {len(usable):,} runs' if len(usable) > 1 else ''
    text = (
        f'A prediction comes with an interval that is to hold the truth in {level:.0%} '
        f'of new people, by the errors in {sources[0]} validation cases of '
        f'{sources[1]} people{of_runs}. By the luck of which {people:,} people these '
        f'are it may as well hold it in {low:.0%} to {high:.0%}, as if all of a '
        f'person\'s cases were alike. {" ".join(words)}')
    if any(values['windows'] > values['cases'] for values in usable):
        text += (
            ' A single window of a recording, as shown over time and live, has an '
            f'interval of its own: {_range_of("window_width", usable)} to either side'
            f'{", in spreads" if usable[0]["by_spread"] else ""}, beside '
            f'{_range_of("width", usable)} of a whole recording.')
    if len(usable) > 1:
        text += (
            ' Folds have each their own interval, and which is whose is not told here: '
            'what they reach is between narrowest and widest. The mean of several runs '
            'is given the widest.')
    if len(usable) < runs:
        text += f' Without any: {runs - len(usable):,} of {runs:,} runs.'
    return text, Table('Intervals of single predictions', [
        '', 'Cases', 'People', 'Truth within', f'On one side of {RED_FLAG:g}',
        'Mean width'], lines,
        'Such intervals are right on average, not of each kind: see whether they are '
        f'of those with a red flag. On one side of {RED_FLAG:g}: where the interval '
        f'leaves no doubt whether to raise it. {WILSON}')


def _range_of(name, usable):
    """A number of `calibrate` of one run, or from the least to the greatest of several.
    """
    ends = sorted({min(values[name] for values in usable),
                   max(values[name] for values in usable)})
    return ' to '.join(
        f'{end:,}' if isinstance(end, int) else f'{end:.3f}' for end in ends)


def _luck(count, level):
    """95% of the coverages that split conformal intervals of `count` people have.

    Exactly so with one case each, or equal ones.

    Source: Vovk 2012, Conditional validity of inductive conformal predictors, 2.
    """
    rank = min(math.ceil((count + 1) * level), count)
    return stats.beta.interval(0.95, rank, count + 1 - rank)


def _words_of_coverage(cell, level, version):
    share = f'{cell["value"]:.3f} of these ({cell["low"]:.3f} to {cell["high"]:.3f})'
    verdict = 'in line with that'
    if cell['high'] < level:
        verdict = 'too few: they are too narrow here'
    elif cell['low'] > level:
        verdict = 'more than they should: they are wider than need be'
    whose = f'The {version} hold' if version else 'They hold'
    return f'{whose} the truth in {share}, {verdict}.'


def _mean(values):
    return float(np.mean(values)) if len(values) else math.nan


def _thirds(values):
    """[N] in 0..2 by rank, the same for equal values; None where all are equal."""
    if not len(values) or np.ptp(values) == 0:
        return None
    return np.searchsorted(np.sort(values), values) * 3 // len(values)


_THIRDS = ('Lowest third', 'Middle third', 'Highest third')


def _by_spread(rows, spread, options):
    def related(columns):
        error = np.abs(columns['index'] - columns['truth'])
        return metrics.spearman({'index': columns['spread'], 'truth': error})

    (cell,) = _measure(rows, related, options)
    text = (
        'The model gives each prediction a spread of its own. Where it is greater, '
        'errors should be: ')
    text += ('that can\'t be told here.' if math.isnan(cell['value']) else
             f'their rank correlation is {cell["value"]:.2f}' + (
                 ' (no interval).' if math.isnan(cell['low']) else
                 f' ({cell["low"]:.2f} to {cell["high"]:.2f}).'))
    member = _thirds(spread)
    lines = []
    for number, name in enumerate(_THIRDS if member is not None else ('All',)):
        part = rows if member is None else _only(rows, member == number)
        if not len(part['truth']):
            continue  # equal values share a third
        error, expected = _measure(part, lambda columns: np.array([
            metrics.mae(columns),
            _mean(columns['spread']) * math.sqrt(2 / math.pi)]), options)
        lines.append([
            {'value': name, 'reason': _range(part['spread'])}, len(part['truth']),
            _people(part), error, expected])
    return text, Table(
        'By spread', ['Spread', 'Cases', 'People', 'Mean error', 'Expected'], lines,
        'Mean error: of the absolute errors. Expected: of a normal distribution with '
        f'these spreads. {BOOTSTRAP}')


def _range(values):
    low, high = float(np.min(values)), float(np.max(values))
    return f'{low:.3f}' if low == high else f'{low:.3f} to {high:.3f}'


def _quality(rows, found, options):
    seen, tables, text = rows['seen'].astype(float), [], ''
    member = _thirds(seen)
    if member is not None:
        lines = []
        for number, name in enumerate(_THIRDS):
            part = _only(rows, member == number)
            if len(part['truth']):
                lines.append(_row_of(
                    {'value': name, 'reason': _range(part['seen'])}, part, options))
        tables.append(Table(
            'By share of joints that are known', ['Share', *_KINDS], lines,
            f'Of all joints in all frames, after cleaning. {BOOTSTRAP}'))
    elif len(seen):
        text = (
            f'The share of joints that are known is {seen[0]:.3f} everywhere.')
    counts = found.get('counts') or {}
    if counts:
        tables.append(Table(
            'What reading and cleaning met', ['', 'Value', 'Of all frames'],
            [[_name_of(name), *_amount(name, counts)] for name in (
                *(name for name in COUNTS if name in counts),
                *(name for name in counts if name not in (*COUNTS, 'frames_before')))],
            'Of all splits together. Joints: a mean over recordings.'))
    if 'recordings' not in found:
        text += (
            '\n\nThe records do not tell of recordings that were left out or could '
            'not be read.')
        return Section('Quality of the input', text.strip(), tables)
    failed, unrated = found.get('unprocessable', {}), found.get('unrated', 0)
    text += (
        f'\n\nUsed are {number_of(found["recordings"], "recording")}, by '
        f'{_people_of(found["subjects"])} with a rating, of all splits together; left '
        f'out are {unrated:,} without a rating and {len(failed):,} cases that gave '
        'nothing to judge. Nothing here says how the model would have done on these.')
    if failed:
        more = len(failed) - ROWS_SHOWN
        tables.append(Table(
            'Left out', ['Case', 'Reason'],
            [list(pair) for pair in sorted(failed.items())[:ROWS_SHOWN]],
            f'{more:,} more not shown.' if more > 0 else ''))
    return Section('Quality of the input', text.strip(), tables)


def _name_of(name):
    return COUNTS.get(name, name.replace('_', ' ').capitalize())


def _amount(name, counts):
    """Cells of a count, and of what it is of all frames that were read."""
    value = counts[name]
    if name.endswith('_share'):
        return f'{value:.2%}', None
    shown = f'{value:,}' if isinstance(value, int) else value
    if name == 'frames_after' or not name.startswith('frames_') or (
            not counts.get('frames')):
        return shown, None
    return shown, f'{value / counts["frames"]:.2%}'


def _trust(cases, rows, found, calibrations, options):
    people = _people(rows)
    unknown = len(cases['truth']) - len(rows['truth'])
    lines = [
        ['People measured', people, 'few: intervals of so few are too narrow'
         if people < FEW_PEOPLE else ''],
        ['Cases measured', len(rows['truth']),
         f'{unknown:,} more have no rating and count nowhere' if unknown else ''],
    ]
    mae, rank = _measure(rows, lambda columns: np.array([
        metrics.mae(columns), metrics.spearman(columns)]), options)
    for name, cell in (('MAE', mae), ('Spearman', rank)):
        width = cell['high'] - cell['low']
        lines.append([
            f'Width of the interval of {name}',
            undefined(cell['reason']) if math.isnan(width) else width,
            'as much may change with other people'])
    shared = found.get('shared_patients')
    lines.append(['People on both sides of the split', 'not known' if shared is None
                  else shared, {None: 'measured on records of others', 0: ''}.get(
                      shared, 'the model has seen them: its numbers flatter')])
    widths = [values for values in calibrations if values.get('width') is not None]
    lines.append([
        'People behind the intervals of single predictions',
        ', '.join(f'{values["people"]:,}' for values in widths) or 'none',
        'those of the validation split'])
    text = (
        f'The numbers are of {_sizes(rows)}, and their intervals tell what other such '
        'people would change; other cameras, rooms, exercises or raters are not in '
        'them.' + (
            f' {_people_of(shared)} measured here {"is" if shared == 1 else "are"} '
            'also among those the model was fitted to or chosen by: read nothing here '
            'as of unseen people.' if shared else '') +
        '\n\nThe truth is a rating that a volunteer or a clinician gave. Others, or '
        'the same one on another day, would give another, and a model learns what '
        'they overlook. Of drawn people it is what they were drawn with. The index is '
        f'no diagnosis, and one of {RED_FLAG:g} or less does not rule anything out.'
        '\n\nIn the table of differences, look first whether the model is better than '
        'the mean per exercise, ridge regression and gradient boosting, which see '
        'only summaries of the movement, and whether the intervals leave room for '
        'doubt. Where a split at random stands there, the same people are on both '
        'sides of it: the better it looks, the more such a split flatters, and it '
        'says nothing of people the model has not seen. The value on train is no '
        'measure either.')
    return Section('How far to trust it', text, [
        Table('', ['What', 'Value', 'What it means'], lines)])
