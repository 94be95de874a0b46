"""Trains the runs of a grid and finds the best few to average, or compares them.

    DIR/search.json, .md, .csv   what was found: the same bytes for the same seed
    DIR/times.csv                seconds of training
    DIR/ensemble.txt             the commands that measure and use what was chosen
    DIR/report/                  of the chosen ensemble
    DIR/plan.json                what the search was begun with
    DIR/records/                 drawn once, where the config names no records
    DIR/runs/NAME/               run folders, as launch.train makes them

Members are chosen by their averaged probabilities on the validation split, over all
combinations (paper 001, section 3.3). The test split is predicted after that.
"""

import functools
import io
import itertools
import json
import math
import shlex
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxmed import (
    engines,
    findings,
    grids,
    jobs,
    measure,
    predict,
    report,
    runs,
    search_tables,
    train,
)
from jaxmed.classification import delong, scores
from jaxmed.data import pipeline, records
from jaxmed.errors import ConfigError, InputError, RecordError
from jaxmed.metrics import bootstrap_interval
from jaxmed.progress import LOG

PLAN, TRAINED = 'plan.json', 'trained.json'
STAMP = '.stamp'  # among the columns of saved rows: what they were predicted of
SHOWN = 10  # ensembles of each size
MOST = 5_000_000  # combinations: more take too long
CHUNK = 2 ** 20  # scores at once


class Ensemble(NamedTuple):
    """Members that are averaged, and what they reach on the validation split."""

    names: tuple
    value: float  # of the metric
    loss: float  # mean of the members' validation losses


class Found(NamedTuple):
    """What run_search found."""

    tables: dict  # file name -> path
    text: str  # of search.md
    commands: list  # of ensemble.txt
    results: list  # report.Result of the ensemble; [] of rows


class _Search(NamedTuple):
    workdir: Path
    name: str  # of the grid
    grid: dict
    runs: list  # of grids.Run
    config: dict
    task: object
    records: Path
    metric: str
    sign: int
    size: int  # of the ensemble; 0 of rows
    ask: object  # (function, pieces) -> answers, by the engine
    python: str  # that commands begin with

    def folder(self, name):
        return self.workdir / 'runs' / name

    def value(self, rows):
        """The metric of the rows of a split."""
        return float(self.task.metrics[self.metric](self.task.cases(rows)))


def run_search(
    config, workdir, *, grid, name, members, count, engine, metric, setup, python,
):
    """Trains what is not trained yet, chooses, measures, and writes the tables.

    What a killed search has done stays; runs that failed are tried again.

    Args:
        config: nested dicts, as configs/ make them.
        workdir: DIR; made or gone on with.
        grid: as of grids.expand; with rows each is compared with the first one, with
            axes the best `members` are searched.
        name: of the grid.
        members: of an ensemble.
        count: of runs, of grids.expand.
        engine: of engines.share_out.
        metric: a name in the task's metrics; None takes what training monitors. After
            a minus sign the smallest is the best.
        setup: () -> None, called first in each process.
        python: the interpreter that commands name.

    Returns:
        Found.

    Raises:
        InputError: something that was asked for does not fit, or too few runs ended.
        train.Interrupted: by a signal; what was done is kept.
    """
    # This process counts; devices are for those that it starts.
    jax.config.update('jax_platforms', 'cpu')
    search = _plan(
        jobs.make_absolute(config), Path(workdir).absolute(), grid=grid, name=name,
        members=members, count=count, metric=metric, python=python,
        ask=lambda function, pieces: engines.share_out(
            functools.partial(function, setup), pieces, engine=engine),
    )
    trained, failed = _train_all(search)
    valid = {run: _read_rows(search, run, 'valid') for run in trained}
    _check_enough(search, trained, failed)
    _check_alike(search, valid)
    ensembles = {
        size: rank_ensembles(search, valid, size=size)
        for size in range(1, search.size + 1)
    }
    chosen = ensembles[search.size][0][0].names if search.size else ()
    # Only from here on is the test split looked at.
    test = {}
    if records.read_manifest(
        search.records, task=search.config['task_name']
    )['splits']['test']['records']:
        test = _predict_all(search, trained, 'test')
    summary = _summarise(search, valid, test, ensembles, chosen, failed)
    results = _report(search, chosen, 'test' if test else 'valid') if chosen else []
    return _write(search, summary, results)


def _plan(config, workdir, *, grid, name, members, count, metric, ask, python):
    """Checks all that can be checked before anything is written or trained."""
    for field, value in (('--members', members), ('--count', count or 1)):
        if value < 1:
            raise ConfigError(field, f'{value} is not positive')
    if ',' in str(workdir):
        raise ConfigError(workdir, 'a comma parts run folders: name another --workdir')
    listed = grids.expand(
        grid, config, count=count, seed=config['train']['seed'], name=name)
    ranked = 'axes' in grid
    if ranked and len(listed) < members:
        raise ConfigError(
            '--members', f'{members}, but grid {name} has only {len(listed)} runs')
    if ranked and math.comb(len(listed), members) > MOST:
        raise ConfigError(
            '--members', f'{members} of {len(listed)} runs can be chosen in over '
            f'{MOST} ways: take a smaller --count')
    task = runs.make_task(config)
    runs.check_views([task], config['evaluate']['views'])
    for run in listed:
        _check_example(run, task)
    metric = config['train']['monitor'] if metric is None else metric
    sign, metric = (-1, metric[1:]) if metric.startswith('-') else (1, metric)
    if metric not in task.metrics:
        raise ConfigError(
            '--metric', f'{metric!r} is none of {", ".join(task.metrics)}: members are '
            'compared by a metric of their probabilities')
    named = config['data']['records']
    search = _Search(
        workdir, name, grid, listed, config, task,
        Path(named) if named else workdir / 'records', metric, sign,
        members if ranked else 0, ask, python)
    if named:
        _check_records(search)
    elif not config['data']['phantoms']:
        raise ConfigError(
            'data.records', 'no prepared records are named; make them with '
            'launch.prepare, or take the variant phantom')
    same = _check_plan(search)
    findings.replace(workdir / PLAN, _encode({
        'task_name': config['task_name'], 'grid': name, 'config': config,
        'runs': {run.name: run.changes for run in listed},
    }))
    if not named:
        if not same or not (search.records / records.MANIFEST).is_file():
            LOG.info('drawing %d phantoms for all runs', config['data']['phantoms'])
            jobs.draw_phantoms(task, search.records, config)
        _check_records(search)
    return search


def _check_example(run, task):
    """Whether a run reads the records that all others do."""
    options = run.config['task']
    # What finds things in scans has nothing to do here, and takes time to load.
    found = {'detector': ''} if 'detector' in options else {}
    other = runs.make_task(run.config | {'task': options | found})
    for name, value in task.example.items():
        have, want = np.asarray(other.example.get(name)), np.asarray(value)
        if (have.shape, have.dtype) != (want.shape, want.dtype):
            raise ConfigError(
                f'run {run.name}', f'{name} is {have.dtype}{list(have.shape)}, not '
                f'{want.dtype}{list(want.shape)}: all runs read the same records')


def _check_records(search):
    """Whether the records fit, and the metric is defined on the validation split."""
    task, name = search.task, search.config['task_name']
    splits = records.read_manifest(search.records, task=name)['splits']
    for split in ('train', 'valid'):
        if not splits[split]['records']:
            raise RecordError(
                search.records, f'split {split!r} holds no records: members are '
                'trained on train and chosen on valid')
    source = records.open_records(
        search.records, 'valid', task=name, verify=search.config['runtime']['verify'])
    records.check_records(source, task.example, folder=search.records)
    records.check_labels(search.records, task.labels)
    arrays, _ = pipeline.split_strings(pipeline.stack([source[0]]))
    shapes = jax.eval_shape(
        predict.make_apply([task], views=1), [predict.weights_spec(task)], arrays)

    def constant(batch):
        size = len(batch['mask'])
        return jax.tree.map(
            lambda leaf: np.zeros((size, *leaf.shape[1:]), leaf.dtype), shapes)

    rows = predict.make_split_rows([task], views=1, baseline=constant)(
        (), source, batch_size=min(len(source), 8))
    if search.size and 'probability' not in rows:
        raise ConfigError(
            f'task {name}', "has no column 'probability' to average: its runs can be "
            'compared by a grid with rows, not searched for ensembles')
    if math.isnan(search.value(rows)):
        counts = ''
        if np.shape(rows.get('targets'))[1:] == (1,):
            truth = rows['targets'][:, 0]
            counts = f' ({np.sum(truth == 1)} cases with, {np.sum(truth == 0)} without)'
        raise RecordError(
            search.records, f'{search.metric} is undefined on the validation split: a '
            f'class is absent{counts}; prepare more cases or another --seed')


def _check_plan(search):
    """Whether the folder holds this very search; refuses another's.

    Before a run has begun the config may still be corrected.
    """
    workdir = search.workdir
    if workdir.exists() and not workdir.is_dir():
        raise ConfigError(workdir, 'is no folder')
    if not workdir.is_dir() or not any(workdir.iterdir()):
        return False
    try:
        plan = json.loads((workdir / PLAN).read_text())
        before = _settings(plan['config'])
        changes = {name: dict(fields) for name, fields in plan['runs'].items()}
        grid = plan['grid']
    except FileNotFoundError:
        raise ConfigError(
            workdir, f'is no folder of a search (no {PLAN}): name a new one') from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(workdir / PLAN, f'damaged: {error!r}') from None
    now = _settings(json.loads(_encode(search.config)))
    differ = [
        f'{field} ({before.get(field, "absent")} -> {now.get(field, "absent")})'
        for field in sorted(before.keys() | now.keys())
        if before.get(field) != now.get(field)
    ]
    if grid != search.name:
        differ.append(f'grid ({grid} -> {search.name})')
    differ += [
        f'run {run.name}' for run in search.runs
        if changes.get(run.name) not in (None, json.loads(_encode(run.changes)))
    ]
    if differ and any(runs.has_begun(search.folder(name)) for name in changes):
        raise ConfigError(
            workdir, f'changed since this search began: {", ".join(differ)}; take '
            'another --workdir or the old values')
    for run in search.runs:
        runs.check_config(search.folder(run.name), run.config)
    return not differ


def _settings(config):
    return {
        field: value for field, value in grids.flatten(config).items()
        if field.split('.')[0] not in runs.FREE and field != runs.RECORDS
    }


def _train_all(search):
    """(names of the runs that ended, name -> reason of those that did not)."""
    views, data = search.config['evaluate']['views'], str(search.records)
    todo = [
        run for run in search.runs if _read_rows(search, run.name, 'valid') is None]
    if len(todo) < len(search.runs):
        LOG.info('%d of %d runs were trained before',
                 len(search.runs) - len(todo), len(search.runs))
    pieces = [
        (run.config | {'data': run.config['data'] | {'records': data}},
         str(search.folder(run.name)), views,
         _command(search, 'evaluate', [run.name])) for run in todo
    ]
    failed = {}
    for number, (place, answer) in enumerate(
        search.ask(_train_member, pieces), start=len(search.runs) - len(todo) + 1
    ):
        name, words = todo[place].name, 'trained'
        if answer is None:  # it was told to stop, and so are we
            raise train.Interrupted
        if isinstance(answer, engines.Failure):
            failed[name], words = answer.reason, f'failed: {answer.reason}'
        LOG.info('run %d of %d, %s: %s', number, len(search.runs), name, words)
    return [run.name for run in search.runs if run.name not in failed], failed


def _train_member(setup, config, folder, views, command):
    """Trains a run and predicts its validation split; None if it was interrupted."""
    setup()
    folder, data = Path(folder), records.fingerprint(config['data']['records'])
    LOG.info('training %s', folder.name)
    before = _read_trained(folder)
    try:
        with train.Interrupt() as interrupt:
            if not before['finished'] or before['records'] != data:
                began = time.perf_counter()
                try:
                    finished = jobs.train_run(
                        config, folder, command=command, interrupt=interrupt,
                        split='valid',  # the test split is not looked at before
                    ).finished
                except train.Interrupted:
                    finished = False
                seconds = before['seconds'] + time.perf_counter() - began
                if folder.is_dir():
                    findings.replace(folder / TRAINED, _encode({
                        'finished': finished, 'seconds': seconds, 'records': data}))
                if not finished:
                    return None
            return _predict_split(folder, 'valid', views)
    except train.Interrupted:
        return None


def _read_trained(folder):
    """How far a run of a search is, and the seconds that it took."""
    try:
        trained = json.loads((folder / TRAINED).read_text())
        trained['finished'], trained['seconds'] + 0, trained['records']
        return trained
    except (OSError, ValueError, KeyError, TypeError):
        return {'finished': False, 'seconds': 0.0, 'records': ''}


def _predict_member(setup, folder, split, views):
    setup()
    return _predict_split(Path(folder), split, views)


def _predict_split(folder, split, views):
    """Writes the rows of a split into the run's folder; each is predicted once."""
    tasks, members, config, _ = runs.load_members([folder])
    place = runs.records_folder(folder, config)
    source = records.open_records(
        place, split, task=config['task_name'], verify=config['runtime']['verify'])
    rows = predict.make_split_rows(tasks, views=views)(
        members, source, batch_size=config['runtime']['eval_batch_size'])
    stream = io.BytesIO()
    np.savez(stream, **rows, **{STAMP: np.array(_stamp(place, views))})
    findings.replace(folder / f'rows_{split}.npz', stream.getvalue())
    return True


def _stamp(place, views):
    return json.dumps([records.fingerprint(place), views])


def _read_rows(search, name, split):
    """Rows of a run that has ended, or None where they are not there or of others."""
    folder = search.folder(name)
    stamp = _stamp(search.records, search.config['evaluate']['views'])
    if not _read_trained(folder)['finished']:
        return None
    try:
        with np.load(folder / f'rows_{split}.npz', allow_pickle=False) as saved:
            rows = {name: saved[name] for name in saved.files}
        return rows if str(rows.pop(STAMP)) == stamp else None
    except (OSError, ValueError, KeyError, EOFError):
        return None


def _predict_all(search, names, split):
    """Rows of a split of each run, name -> Rows."""
    todo = [name for name in names if _read_rows(search, name, split) is None]
    views = search.config['evaluate']['views']
    pieces = [(str(search.folder(name)), split, views) for name in todo]
    for place, answer in search.ask(_predict_member, pieces):
        if isinstance(answer, engines.Failure):
            raise InputError(search.folder(todo[place]), answer.reason)
        LOG.info('%s: split %s is predicted', todo[place], split)
    return {name: _read_rows(search, name, split) for name in names}


def _check_enough(search, trained, failed):
    least = search.size or 1
    if len(trained) < least:
        name, reason = next(iter(failed.items()))
        raise InputError(
            search.workdir, f'{len(trained)} of {len(search.runs)} runs ended, '
            f'{least} are needed; {name}: {reason}')


def _check_alike(search, rows):
    """Whether the rows of all runs are of the same cases."""
    first = next(iter(rows))
    for name in rows:
        if rows[name]['example_id'].tolist() != rows[first]['example_id'].tolist():
            raise RecordError(
                search.folder(name), f'has predicted other cases than {first}')


def average(members):
    """Rows of an ensemble: the mean of what is a probability, the rest of the first.

    Args:
        members: sequence of Rows of the same records. 'probability' and columns whose
            name ends with '_probability' are averaged; whole numbers (maps in 1/255)
            are rounded.

    Returns:
        Rows, without 'loss'.
    """
    rows = {name: column for name, column in members[0].items() if name != 'loss'}
    for name, column in rows.items():
        if name == 'probability' or name.endswith('_probability'):
            mean = np.mean([member[name] for member in members], axis=0, dtype=float)
            whole = column.dtype.kind in 'ui'
            rows[name] = (np.round(mean) if whole else mean).astype(
                column.dtype if whole else float)
    return rows


def auc_of_many(probability, truth):
    """Areas under the ROC curves of many models on the same cases.

    Of midranks: the share of pairs in which the case with the class is ranked above
    the other, ties for half.

    Args:
        probability: [M, N], M models.
        truth: [N] bool.

    Returns:
        [M]; NaN where a kind is absent or a probability is NaN.
    """
    count, total = int(truth.sum()), len(truth)
    order = np.argsort(probability, axis=1)
    ranked = np.take_along_axis(probability, order, axis=1)
    new = np.ones(ranked.shape, bool)
    new[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    places = np.arange(total)
    first = np.maximum.accumulate(np.where(new, places, 0), axis=1)
    ends = np.ones(ranked.shape, bool)
    ends[:, :-1] = new[:, 1:]
    last = np.where(ends, places, total)[:, ::-1]
    last = np.minimum.accumulate(last, axis=1)[:, ::-1]
    ranks = (first + last) / 2 + 1
    won = (ranks * truth[order]).sum(axis=1) - count * (count + 1) / 2
    pairs = count * (total - count)
    area = won / pairs if pairs else np.full(len(probability), np.nan)
    return np.where(np.isnan(probability).any(axis=1), np.nan, area)


def rank_ensembles(search, rows, *, size):
    """The best ensembles of a size by the metric on the validation split.

    Of equal values, the lower mean of the members' validation losses goes first, then
    the names in order. One without a value comes last.

    Args:
        search: _Search, or what has its metric, sign and value.
        rows: name -> Rows of the validation split, the same cases for all.
        size: members of each.

    Returns:
        (list of the first Ensembles, at most SHOWN; number of all).
    """
    names = sorted(rows)
    chosen = np.array(list(itertools.combinations(range(len(names)), size)))
    losses = np.array([np.mean(rows[name]['loss']) for name in names])
    losses = np.where(np.isnan(losses), np.inf, losses)
    values = _values(search, [rows[name] for name in names], chosen)
    mean = losses[chosen].mean(axis=1)
    # Equal is equal, whatever order they were added in.
    keys = np.where(np.isnan(values), np.inf, -search.sign * np.round(values, 12))
    order = np.lexsort((np.arange(len(chosen)), np.round(mean, 12), keys))[:SHOWN]
    return [
        Ensemble(tuple(names[i] for i in chosen[place]), float(values[place]),
                 float(mean[place])) for place in order
    ], len(chosen)


def _values(search, members, chosen):
    """The metric of each row of `chosen`, [M, size] places of members: [M]."""
    probability = members[0].get('probability')
    if search.metric == 'auc' and np.ndim(probability) == 2:
        table = np.stack([np.asarray(m['probability'], float) for m in members])
        singles = _areas(table, members[0]['targets'])
        # The quick way only where it is the task's own metric.
        if np.allclose(singles, [search.value(average([m])) for m in members],
                       equal_nan=True):
            step = max(1, CHUNK // table[0].size)
            return np.concatenate([
                _areas(table[chosen[i:i + step]].mean(axis=1), members[0]['targets'])
                for i in range(0, len(chosen), step)
            ])
    return np.array([
        search.value(average([members[i] for i in few])) for few in chosen])


def _areas(probability, targets):
    """Mean area over the classes that have one: [M, N, K], [N, K] -> [M]."""
    columns = []
    for k in range(targets.shape[1]):
        known = ~np.isnan(targets[:, k])
        columns.append(auc_of_many(probability[:, known, k], targets[known, k] == 1))
    columns = np.stack(columns)
    counted = (~np.isnan(columns)).sum(axis=0)
    with np.errstate(invalid='ignore'):
        return np.nansum(columns, axis=0) / np.where(counted, counted, np.nan)


def _summarise(search, valid, test, ensembles, chosen, failed):
    """All that the tables show, as JSON values."""
    settings = search.config['evaluate']
    counts = {}
    for split, rows in (('valid', valid), ('test', test)):
        for some in itertools.islice(rows.values(), 1):
            cases = search.task.cases(some)
            counts[split] = {
                'cases': len(cases['case_id']),
                'patients': len(np.unique(cases['patient_id']))}
    first = search.runs[0].name
    entries = []
    for run in search.runs:
        entry = {
            'run': run.name, 'title': run.title, 'choices': run.choices,
            'changes': run.changes, 'status': 'trained', 'reason': '',
            'chosen': run.name in chosen,
        }
        if run.name in failed:
            entries.append(entry | {
                'status': 'failed', 'reason': failed[run.name], 'valid': None,
                'test': None, 'valid_loss': None})
            continue
        entry['valid_loss'] = float(np.mean(valid[run.name]['loss']))
        for split, rows in (('valid', valid), ('test', test)):
            entry[split] = _measure(search, [rows[run.name]]) if rows else None
            if not search.size:
                entry[f'{split}_difference'] = (
                    None if not rows or run.name == first or first in failed
                    else _compare(search, rows[run.name], rows[first]))
        entries.append(entry)
    summary = {
        'task': search.config['task_name'], 'grid': search.name, 'metric':
        search.metric, 'smaller_is_better': search.sign < 0,
        'views': settings['views'], 'resamples': settings['resamples'],
        'splits': counts, 'runs': entries,
    }
    if not search.size:
        return summary
    single = ensembles[1][0][0].names
    summary['ensembles'] = {
        str(size): {'number': number, 'best': [one._asdict() for one in best]}
        for size, (best, number) in ensembles.items()
    }
    summary['chosen'] = {
        'names': list(chosen),
        'valid': _measure(search, [valid[name] for name in chosen])
    }
    if test:
        together = [test[name] for name in chosen]
        summary['chosen'] |= {
            'test': _measure(search, together),
            'best_single': single[0],
            'difference_to_best_single': _compare(
                search, average(together), test[single[0]]),
        }
    summary['operating_point'] = _operating_point(
        search, [valid[name] for name in chosen], [test[name] for name in chosen]
    ) if test else None
    return summary


def _measure(search, members):
    """{'value', 'low', 'high'} of the average of some members' rows."""
    settings = search.config['evaluate']
    rows = members[0] if len(members) == 1 else average(members)
    found = report.summarise(
        search.task.cases(rows), {search.metric: search.task.metrics[search.metric]},
        resamples=settings['resamples'], seed=0)[search.metric]
    return {key: found[key] for key in ('value', 'low', 'high')}


def _compare(search, rows, others):
    """The metric of some rows minus that of others of the same cases.

    Returns:
        {'value', 'low', 'high', 'p'}: a bootstrap interval over patients, and for an
        area under one ROC curve the p of DeLong's test, else None.
    """
    metric = search.task.metrics[search.metric]
    both = [search.task.cases(one) for one in (rows, others)]
    columns = {
        (side, name): column for side, cases in enumerate(both)
        for name, column in cases.items()
        if np.ndim(column) < 3 and np.asarray(column).dtype.kind not in 'US'
    }

    def value(drawn):
        first, second = (
            metric({name: column for (side, name), column in drawn.items()
                    if side == number}) for number in (0, 1)
        )
        return first - second

    patients = np.asarray(both[0]['patient_id'])
    low, high = bootstrap_interval(
        columns, value, groups=patients, seed=0,
        resamples=search.config['evaluate']['resamples'])
    p = None
    if _is_area(search, both[0]):
        p = delong.compare_aucs(
            both[0]['probability'][:, 0], both[1]['probability'][:, 0],
            both[0]['targets'][:, 0], groups=patients).p
    return {'value': float(value(columns)), 'low': low, 'high': high, 'p': p}


def _is_area(search, cases):
    """Whether the metric is the area under a single ROC curve."""
    return search.metric == 'auc' and np.shape(cases.get('probability'))[1:] == (1,)


def _operating_point(search, valid, test):
    """Sensitivity and specificity on test at the threshold that is best on valid."""
    valid, test = (search.task.cases(average(rows)) for rows in (valid, test))
    if not _is_area(search, valid):
        return None
    threshold = scores.threshold_youden(valid, 0)
    return {'threshold': threshold} | {
        name: float(score(test, exclusive=False, threshold=threshold)[0])
        for name, score in (
            ('sensitivity', scores.recall), ('specificity', scores.specificity))
    }


def _report(search, chosen, split):
    """Writes the report of the chosen ensemble; returns its results."""
    pieces = [(
        [str(search.folder(name)) for name in chosen], split,
        str(search.workdir / 'report'), search.config['evaluate']['views'],
        _command(search, 'evaluate', chosen),
    )]
    for _, answer in search.ask(_report_ensemble, pieces):
        if isinstance(answer, engines.Failure):
            raise InputError(search.workdir / 'report', answer.reason)
    return answer


def _report_ensemble(setup, workdirs, split, output, views, command):
    setup()
    return measure.evaluate_run(
        workdirs, folder=None, split=split, output=output, which='best', views=views,
        verify=True, command=command,
    ).results


def _write(search, summary, results):
    """Writes the tables, one after the other, each whole."""
    seconds = {
        run.name: _read_trained(search.folder(run.name))['seconds']
        for run in search.runs}
    commands = []
    if search.size:
        names = summary['chosen']['names']
        commands = [
            _command(search, 'evaluate', names),
            _command(search, 'predict', names, '--input=SCANS', '--output=FOLDER'),
        ]
    texts = search_tables.make_tables(summary, grid=search.grid, card=search.task.card)
    texts['times.csv'] = search_tables.make_times(seconds)
    if commands:
        texts['ensemble.txt'] = '\n'.join(commands) + '\n'
    for name, text in texts.items():
        findings.replace(search.workdir / name, text.encode())
    return Found(
        {name: search.workdir / name for name in texts}, texts['search.md'], commands,
        results)


def _command(search, module, names, *flags):
    paths = ','.join(str(search.folder(name)) for name in names)
    return shlex.join(
        [search.python, '-m', f'launch.{module}', f'--workdir={paths}', *flags])


def _encode(value):
    return json.dumps(value, indent=1, sort_keys=True).encode()
