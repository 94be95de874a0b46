"""Trains the runs of a grid and finds the best few to average, or compares them.

    DIR/search.json, .md, .csv   what was found: the same bytes for the same seed
    DIR/times.csv                seconds of training
    DIR/ensemble.txt             the commands that measure and use what was chosen
    DIR/report/                  of the chosen ensemble
    DIR/plan.json                what the search was begun with (search_plan.py)
    DIR/records/                 drawn once, where the config names no records
    DIR/runs/NAME/               run folders, trained and predicted once (pool.py)

Members are chosen by their averaged probabilities on the validation split, over all
combinations (paper 001, section 3.3; ensembles.py). The test split is predicted after
that.
"""

from typing import NamedTuple

import jax
import numpy as np

from jaxmed import ensembles, findings, search_tables
from jaxmed.data import records
from jaxmed.errors import InputError
from jaxmed.search_plan import make_plan


class Found(NamedTuple):
    """What run_search found."""

    tables: dict  # file name -> path
    text: str  # of search.md
    commands: list  # of ensemble.txt
    results: list  # report.Result of the ensemble; [] of rows


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
    plan = make_plan(
        config, workdir, grid=grid, name=name, members=members, count=count,
        engine=engine, metric=metric, setup=setup, python=python)
    pool = plan.pool
    trained, failed = pool.train()
    _check_enough(plan, trained, failed)
    valid = pool.predict(trained, 'valid')
    ranked = {
        size: ensembles.rank(plan.metric, valid, size=size)
        for size in range(1, plan.members + 1)
    }
    chosen = ranked[plan.members][0][0].names if plan.members else ()
    # Only from here on is the test split looked at.
    splits = records.read_manifest(
        pool.records, task=plan.config['task_name'])['splits']
    test = pool.predict(trained, 'test') if splits['test']['records'] else {}
    summary = _summarise(plan, {'valid': valid, 'test': test}, failed, chosen)
    if not chosen:
        return _write(plan, summary, results=[], commands=[])
    summary |= _summarise_ensembles(plan, valid, test, ranked, chosen)
    return _write(
        plan, summary, results=pool.report(chosen, 'test' if test else 'valid'),
        commands=[
            pool.command('evaluate', chosen),
            pool.command(
                'predict', chosen, *_name_detector(plan.config['task']),
                '--input=SCANS', '--output=FOLDER'),
        ])


def _name_detector(options):
    """The flag without which a task that needs a detector can't read files."""
    if 'detector' not in options:
        return []
    return [f'--task=detector={options["detector"] or "DETECTOR"}']


def _check_enough(plan, trained, failed):
    least = plan.members or 1
    if len(trained) < least:
        name, reason = next(iter(failed.items()))
        raise InputError(
            plan.workdir, f'{len(trained)} of {len(plan.pool.runs)} runs ended, '
            f'{least} are needed; {name}: {reason}')


def _summarise(plan, splits, failed, chosen):
    """What the tables show of the runs, as JSON values."""
    metric, counts, entries = plan.metric, {}, []
    for split, rows in splits.items():
        if rows:
            cases = metric.task.cases(next(iter(rows.values())))
            counts[split] = {
                'cases': len(cases['case_id']),
                'patients': len(np.unique(cases['patient_id']))}
    first = plan.pool.runs[0].name
    for run in plan.pool.runs:
        entry = {
            'run': run.name, 'title': run.title, 'choices': run.choices,
            'changes': run.changes, 'reason': failed.get(run.name, ''),
            'status': 'failed' if run.name in failed else 'trained',
            'chosen': run.name in chosen, 'valid_loss': None,
        }
        if run.name not in failed:
            entry['valid_loss'] = float(np.mean(splits['valid'][run.name]['loss']))
        for split, rows in splits.items():
            own = rows.get(run.name)
            entry[split] = metric.measure(own) if own else None
            if not plan.members:
                known = own and first in rows and run.name != first
                entry[f'{split}_difference'] = (
                    metric.compare(own, rows[first]) if known else None)
        entries.append(entry)
    return {
        'task': plan.config['task_name'], 'grid': plan.name, 'metric': metric.name,
        'smaller_is_better': metric.sign < 0, 'views': plan.pool.views,
        'resamples': metric.resamples, 'splits': counts, 'runs': entries,
    }


def _summarise_ensembles(plan, valid, test, ranked, chosen):
    """What the tables show of the ensembles, as JSON values."""
    metric, (single,) = plan.metric, ranked[1][0][0].names
    on_valid = ensembles.average([valid[name] for name in chosen])
    found, point = {'names': list(chosen), 'valid': metric.measure(on_valid)}, None
    if test:
        on_test = ensembles.average([test[name] for name in chosen])
        found |= {
            'test': metric.measure(on_test), 'best_single': single,
            'difference_to_best_single': metric.compare(on_test, test[single]),
        }
        point = metric.operate(on_valid, on_test)
    return {
        'chosen': found, 'operating_point': point,
        'ensembles': {
            str(size): {'number': number, 'best': [one._asdict() for one in best]}
            for size, (best, number) in ranked.items()
        },
    }


def _write(plan, summary, *, results, commands):
    """Writes the tables, one after the other, each whole."""
    texts = search_tables.make_tables(
        summary, grid=plan.grid, card=plan.metric.task.card)
    texts['times.csv'] = search_tables.make_times(plan.pool.seconds())
    if commands:
        texts['ensemble.txt'] = '\n'.join(commands) + '\n'
    for name, text in texts.items():
        findings.replace(plan.workdir / name, text.encode())
    return Found(
        {name: plan.workdir / name for name in texts}, texts['search.md'], commands,
        results)
