"""What a search will do: checked as a whole before anything is written or trained.

A pool takes hours, so what can't end well is told in the first seconds: a grid that
does not fit the config, runs that could not be averaged, too many combinations, a
metric that the validation split leaves undefined, or a folder of another search.
"""

import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxmed import ensembles, findings, grids, jobs, runs
from jaxmed.data import records
from jaxmed.errors import ConfigError, RecordError
from jaxmed.pool import Pool
from jaxmed.progress import LOG

PLAN = 'plan.json'
MOST = 5_000_000  # combinations: more take too long


class Plan(NamedTuple):
    """A search that can be begun, or gone on with."""

    workdir: Path
    grid: dict
    name: str  # of the grid
    config: dict  # nested dicts, of which the grid changes a part
    pool: Pool
    metric: ensembles.Metric
    members: int  # of the ensemble; 0 of rows


def make_plan(
    config, workdir, *, grid, name, members, count, engine, metric, setup, python,
):
    """Checks a search, notes it in its folder and draws its records, if it is to.

    Args:
        As of search.run_search.

    Returns:
        Plan.

    Raises:
        InputError: something that was asked for does not fit.
    """
    config, workdir = jobs.make_absolute(config), Path(workdir).absolute()
    for field, value in (('--members', members), ('--count', count or 1)):
        if value < 1:
            raise ConfigError(field, f'{value} is not positive')
    if ',' in str(workdir):
        raise ConfigError(workdir, 'a comma parts run folders: name another --workdir')
    listed = grids.expand(
        grid, config, count=count, seed=config['train']['seed'], name=name)
    if 'rows' in grid:
        members = 0
    _check_members(members, len(listed), name)
    task, settings = runs.make_task(config), config['evaluate']
    runs.check_views([task], settings['views'])
    for run in listed:
        _check_example(run, task)
    metric = ensembles.make_metric(
        task, config['train']['monitor'] if metric is None else metric,
        resamples=settings['resamples'])
    named = config['data']['records']
    pool = Pool(
        workdir, listed, Path(named) if named else workdir / 'records',
        settings['views'], engine, setup, python)
    plan = Plan(workdir, grid, name, config, pool, metric, members)
    if named:
        _check_records(plan)
    elif not config['data']['phantoms']:
        raise ConfigError(
            'data.records', 'no prepared records are named; make them with '
            'launch.prepare, or take the variant phantom')
    same = _check_folder(plan)
    if not (workdir / PLAN).is_file():  # the folder is a search's from now on
        _write(plan)
    if not named:
        if not same or not (pool.records / records.MANIFEST).is_file():
            LOG.info('drawing %d phantoms for all runs', config['data']['phantoms'])
            jobs.draw_phantoms(task, pool.records, config)
        _check_records(plan)
    _write(plan)  # only now: records of another plan are drawn anew till they are there
    return plan


def _check_members(members, count, name):
    """Whether so many members can be chosen of so many runs, and in reasonable time."""
    if members > count:
        raise ConfigError(
            '--members', f'{members}, but grid {name} has only {count} runs')
    if any(math.comb(count, size) > MOST for size in range(members + 1)):
        raise ConfigError(
            '--members', f'up to {members} of {count} runs can be chosen in over '
            f'{MOST} ways: take a smaller --count')


def _check_example(run, task):
    """Whether a run reads the records that all others do."""
    other = runs.make_task(run.config)
    for name, value in task.example.items():
        have, want = np.asarray(other.example.get(name)), np.asarray(value)
        if (have.shape, have.dtype) != (want.shape, want.dtype):
            raise ConfigError(
                f'run {run.name}', f'{name} is {have.dtype}{list(have.shape)}, not '
                f'{want.dtype}{list(want.shape)}: all runs read the same records')


def _check_records(plan):
    """Whether the records fit, and the metric is defined on the validation split."""
    task, name, place = plan.metric.task, plan.config['task_name'], plan.pool.records
    splits = records.read_manifest(place, task=name)['splits']
    for split in ('train', 'valid'):
        if not splits[split]['records']:
            raise RecordError(
                place, f'split {split!r} holds no records: members are trained on '
                'train and chosen on valid')
    source = records.open_records(
        place, 'valid', task=name, verify=plan.config['runtime']['verify'])
    records.check_records(source, task.example, folder=place)
    records.check_labels(place, task.labels)
    rows = jobs.predict_constant(task, source, 0.0)
    if plan.members and 'probability' not in rows:
        raise ConfigError(
            f'task {name}', "has no column 'probability' to average: its runs can be "
            "compared by a grid with rows, not searched for ensembles")
    if math.isnan(plan.metric.value(rows)):
        raise RecordError(
            place, f'{jobs.tell_undefined(plan.metric.name, rows)}; prepare more cases '
            'or another --seed')


def _check_folder(plan):
    """Whether the folder holds this very search; refuses another's.

    As long as no run has begun, all may still be corrected; of a single run that has
    not begun, its own changes.
    """
    workdir = plan.workdir
    if workdir.exists() and not workdir.is_dir():
        raise ConfigError(workdir, 'is no folder')
    if not workdir.is_dir() or not any(workdir.iterdir()):
        return False
    try:
        kept = json.loads((workdir / PLAN).read_text())
        before, grid, names = _settings(kept['config']), kept['grid'], [*kept['runs']]
    except FileNotFoundError:
        raise ConfigError(
            workdir, f'is no folder of a search (no {PLAN}): name a new one') from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(workdir / PLAN, f'damaged: {error!r}') from None
    now = _settings(json.loads(json.dumps(plan.config)))
    differ = [
        f'{field} ({before.get(field, "absent")} -> {now.get(field, "absent")})'
        for field in sorted(before.keys() | now.keys())
        if before.get(field) != now.get(field)
    ]
    if grid != plan.name:
        differ.append(f'grid ({grid} -> {plan.name})')
    if differ and any(runs.has_begun(plan.pool.folder(name)) for name in names):
        raise ConfigError(
            workdir, f'changed since this search began: {", ".join(differ)}; take '
            'another --workdir or the old values')
    for run in plan.pool.runs:
        runs.check_config(plan.pool.folder(run.name), run.config)
    return not differ


def _settings(config):
    """Dotted field -> value of what a finished run depends on."""
    return {
        field: value for field, value in grids.flatten(config).items()
        if field.split('.')[0] not in runs.FREE and field != runs.RECORDS
    }


def _write(plan):
    findings.replace(plan.workdir / PLAN, json.dumps({
        'task_name': plan.config['task_name'], 'grid': plan.name,
        'config': plan.config,
        'runs': {run.name: run.changes for run in plan.pool.runs},
    }, indent=1, sort_keys=True).encode())
