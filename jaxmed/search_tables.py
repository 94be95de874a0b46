"""The tables of a search as Markdown, CSV and JSON; no paths, no times."""

import csv
import io
import json
import math

# Of grids.py's 'literature'.
LITERATURE = ('', 'AUC', 'sensitivity', 'specificity', 'cases', 'kind')
INTERVAL = ('value', 'low', 'high')


def make_tables(summary, *, grid, card):
    """File name -> text of search.md, search.csv and search.json.

    Args:
        summary: of search.run_search.
        grid: of grids.py: its title, note and literature.
        card: types.Card of the task.
    """
    return {
        'search.md': _markdown(summary, grid, card),
        'search.csv': _csv(summary),
        'search.json': json.dumps(
            _plain(summary), allow_nan=False, indent=1, sort_keys=True) + '\n',
    }


def make_times(seconds):
    """CSV of run -> seconds of training."""
    return 'run,seconds\n' + ''.join(
        f'{name},{value:.1f}\n' for name, value in seconds.items())


def _markdown(summary, grid, card):
    metric = summary['metric']
    counts = '; '.join(
        '{}: {cases} cases of {patients} patients or groups'.format(split, **count)
        for split, count in summary['splits'].items())
    views, resamples = summary['views'], summary['resamples']
    parts = [
        f'# {grid.get("title", summary["grid"])}',
        f'{card.title}. Metric: {metric}, views: {views}; {counts}. '
        f'Intervals: 95%, {resamples} bootstrap samples of patients.',
    ]
    if 'ensembles' in summary:
        parts += _ensembles(summary, grid) + _members(summary)
    else:
        parts += _rows(summary)
    failed = [run for run in summary['runs'] if run['status'] == 'failed']
    if failed:
        parts += ['## Runs that failed', _table(
            ('run', 'reason'), [(run['run'], run['reason']) for run in failed])]
    if grid.get('note'):
        parts.append(grid['note'])
    return '\n\n'.join(parts) + '\n'


def _ensembles(summary, grid):
    """What was chosen, the best of each size, the best few of the size asked for."""
    chosen, metric = summary['chosen'], summary['metric']
    size = len(chosen['names'])
    parts = ['## Chosen', _table(
        ('', f'valid {metric}', f'test {metric}'), [
            (f'best {size} of {_number(summary, size)}', _show(chosen['valid']),
             _show(chosen.get('test'))), _best_single(summary),
        ])]
    parts.append(
        'Members: ' + ', '.join(f'`{name}`' for name in chosen['names']) + '. Chosen '
        'on valid, over all combinations; the test split was predicted after that.')
    difference = chosen.get('difference_to_best_single')
    if difference:
        parts.append(
            'Ensemble minus best single run on test: '
            f'{_show(difference, signed=True)}{_p(difference)}.')
    parts += [f'## Best of each size, by valid {metric}', _table(
        ('members', 'of', f'valid {metric}', 'loss', 'runs'), [
            (members, _number(summary, members), _number_of(one['value']),
             _number_of(one['loss']), ', '.join(one['names']))
            for members, one in (
                (int(key), found['best'][0])
                for key, found in summary['ensembles'].items())
        ])]
    best = summary['ensembles'][str(size)]['best']
    parts += [f'## Best {len(best)} of {_number(summary, size)}, by valid {metric}',
              _table(('rank', f'valid {metric}', 'loss', 'members'), [
                  (rank, _number_of(one['value']), _number_of(one['loss']),
                   ', '.join(one['names'])) for rank, one in enumerate(best, start=1)])]
    point = summary['operating_point']
    if point and grid.get('literature'):
        rows = [[_blank(cell) for cell in row] for row in grid['literature']]
        rows.append((
            'this ensemble', _number_of(chosen['test']['value']),
            _number_of(point['sensitivity']), _number_of(point['specificity']),
            summary['splits']['test']['cases'], 'test split'))
        parts += ['## Beside the literature', _table(LITERATURE, rows),
                  'Each on data of its own. Sensitivity and specificity here at the '
                  f'threshold {point["threshold"]:.3f}, where their sum is largest on '
                  'valid.']
    return parts


def _best_single(summary):
    single = summary['ensembles']['1']['best'][0]['names'][0]
    run = next(run for run in summary['runs'] if run['run'] == single)
    return 'best single run', _show(run['valid']), _show(run['test'])


def _number(summary, size):
    return summary['ensembles'][str(size)]['number']


def _members(summary):
    """All runs, best first; what failed has no row here."""
    metric = summary['metric']
    done = [run for run in summary['runs'] if run['status'] != 'failed']
    sign = 1 if summary['smaller_is_better'] else -1
    done.sort(key=lambda run: (
        math.inf if math.isnan(run['valid']['value']) else
        sign * round(run['valid']['value'], 12), run['valid_loss'], run['run']))
    axes = list(done[0]['choices'])
    return ['## Members', _table(
        ('chosen', *axes, f'valid {metric}', 'valid loss', f'test {metric}', 'run'), [
            ('yes' if run['chosen'] else '', *run['choices'].values(),
             _show(run['valid']), _number_of(run['valid_loss']), _show(run['test']),
             run['run']) for run in done
        ])]


def _rows(summary):
    """Runs in the order of the grid, each beside the first."""
    metric, first = summary['metric'], summary['runs'][0]['title']
    split = 'test' if 'test' in summary['splits'] else 'valid'
    difference = f'{split}: minus {first}'
    return [_table(
        ('', f'valid {metric}', f'test {metric}', difference, 'p (DeLong)'), [
            (run['title'], _show(run['valid']), _show(run['test']),
             _show(run.get(f'{split}_difference'), signed=True),
             _number_of((run.get(f'{split}_difference') or {}).get('p')))
            for run in summary['runs']
        ])]


def _csv(summary):
    """One line a run: its choices, or its changed fields where it has none."""
    axes = list(summary['runs'][0]['choices'])
    if not axes:
        axes = sorted({field for run in summary['runs'] for field in run['changes']})
    kinds = ['valid', 'test']
    if 'ensembles' not in summary:
        kinds += ['valid_difference', 'test_difference']
    columns = ['run', *axes, 'status', 'reason', 'chosen', 'valid_loss'] + [
        f'{kind}_{key}' for kind in kinds
        for key in INTERVAL + ('p',) * kind.endswith('difference')]
    stream = io.StringIO()
    writer = csv.DictWriter(
        stream, columns, restval='', extrasaction='ignore', lineterminator='\n')
    writer.writeheader()
    for run in summary['runs']:
        line = run | run['changes'] | run['choices'] | {'chosen': int(run['chosen'])}
        for kind in kinds:
            found = run.get(kind) or {}
            line |= {f'{kind}_{key}': _plain(value) for key, value in found.items()}
        writer.writerow({name: '' if value is None else value
                         for name, value in line.items()})
    return stream.getvalue()


def _table(header, rows):
    def line(cells):
        return '| ' + ' | '.join(
            str(cell).replace('|', '/') for cell in cells) + ' |'

    return '\n'.join([line(header), line(['---'] * len(header)), *map(line, rows)])


def _show(found, *, signed=False):
    """'0.951 (0.930 to 0.970)'."""
    if found is None:
        return '–'
    value, low, high = (_number_of(found[key], signed=signed) for key in INTERVAL)
    unsure = math.isnan(found['value']) or math.isnan(found['low'])
    return value if unsure else f'{value} ({low} to {high})'


def _p(found):
    return '' if found.get('p') is None else f', p {_number_of(found["p"])} (DeLong)'


def _number_of(value, *, signed=False):
    if value is None:
        return '–'
    if math.isnan(value):
        return 'not defined'
    return f'{value:+.3f}' if signed else f'{value:.3f}'


def _blank(cell):
    return '–' if cell is None else cell


def _plain(value):
    """What strict JSON can hold: NaN and infinities are None."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
