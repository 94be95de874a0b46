"""The whole of a command: train a run to its report, or measure one that is there."""

from pathlib import Path
from typing import NamedTuple

import flax
import jax
import numpy as np
from jax.experimental import multihost_utils

import jaxmed
from jaxmed import evaluate, findings, optimizers, progress, report, runs, train
from jaxmed.checkpoint import Checkpoints
from jaxmed.data import pipeline, records
from jaxmed.errors import ConfigError, InputError, RecordError


class Outcome(NamedTuple):
    """How a command ended."""

    step: int
    finished: bool  # False: interrupted, to be resumed
    results: list  # of report.Result; the first is this model on the split asked for
    paths: dict  # what it is -> where


def train_run(config, workdir, *, command, interrupt):
    """Trains to the end or to an interruption, then measures the best state.

    Args:
        config: nested dicts, as configs/ make them.
        workdir: the run folder; resumed where it has checkpoints.
        command: the command line that resumes it.
        interrupt: train.Interrupt, entered.

    Returns:
        Outcome, of the test split (of the validation split where there is none).
    """
    _check_numbers(config)
    if config['data']['records']:
        # A run must find its records from any folder it is resumed or measured in.
        place = str(Path(config['data']['records']).absolute())
        config = config | {'data': config['data'] | {'records': place}}
    task = runs.make_task(config, axis_name=train.AXIS)
    folder, runtime = runs.records_folder(workdir, config), config['runtime']

    def begin():
        runs.check_config(workdir, config)
        if not config['data']['records'] and not runs.has_begun(workdir):
            _draw_phantoms(task, folder, config)

    _on_first_process(begin)
    settings, name = config['train'], config['task_name']
    splits = records.read_manifest(folder, task=name)['splits']
    train_source, valid_source = (
        records.open_records(folder, split, task=name, verify=runtime['verify'])
        if splits[split]['records'] else None for split in ('train', 'valid')
    )
    if train_source is None:
        raise RecordError(folder, 'no records to train on')
    records.check_records(train_source, task.example, folder=folder)
    steps_per_epoch = settings['steps_per_epoch'] or max(
        1, round(len(train_source) / settings['batch_size'])
    )
    steps = settings['epochs'] * steps_per_epoch
    optimizer = make_optimizer(config, steps=steps, steps_per_epoch=steps_per_epoch)
    _on_first_process(lambda: runs.write_run(workdir, config, records=folder))

    primary = jax.process_index() == 0
    with Checkpoints(workdir) as checkpoints:
        result = train.fit(
            task, optimizer,
            train.init_state(task, optimizer.tx, seed=settings['seed']),
            lambda start: pipeline.train_batches(
                train_source, batch_size=settings['batch_size'], seed=settings['seed'],
                start=start, workers=runtime['workers'],
            ),
            valid_source, checkpoints=checkpoints, seed=settings['seed'], steps=steps,
            eval_batch_size=runtime['eval_batch_size'], eval_every=steps_per_epoch,
            checkpoint_every=settings['checkpoint_every'],
            log_every=runtime['log_every'], monitor=settings['monitor'],
            patience=settings['patience'], data_id=records.fingerprint(folder),
            progress=progress.Progress(
                workdir if primary else None, monitor=settings['monitor'].lstrip('-'),
                render=lambda rows: _render_first(task, valid_source, rows),
            ),
            interrupt=interrupt,
        )
    if not result.finished:
        return Outcome(result.step, False, [], {})
    split = next(s for s in ('test', 'valid', 'train') if splits[s]['records'])
    return evaluate_run(
        [workdir], folder=None, split=split, output=Path(workdir) / 'report',
        which='best', views=None, verify=runtime['verify'], command=command,
    )


def _check_numbers(config):
    """Counts that must be whole and positive; the rest is checked where it is used."""
    for section, names in (
        ('train', ('epochs', 'batch_size', 'checkpoint_every')),
        ('runtime', ('eval_batch_size', 'log_every')),
        ('evaluate', ('views', 'resamples')),
    ):
        for name in names:
            if config[section][name] < 1:
                raise ConfigError(
                    f'{section}.{name}', f'{config[section][name]} is not positive'
                )
    for section, name in (
        ('train', 'steps_per_epoch'), ('train', 'patience'), ('runtime', 'workers'),
        ('data', 'phantoms'),
    ):
        if config[section][name] < 0:
            raise ConfigError(
                f'{section}.{name}', f'{config[section][name]} is negative'
            )


def _on_first_process(function):
    """Runs a function on process 0; what it raises is raised on all of them."""
    error = None
    if jax.process_index() == 0:
        try:
            function()
        except InputError as raised:
            error = raised
    if jax.process_count() > 1:
        words = np.zeros(2000, np.uint8)
        data = str(error or '').encode()[:len(words)]
        words[:len(data)] = np.frombuffer(data, np.uint8)
        words = multihost_utils.broadcast_one_to_all(words)
        if error is None and words.any():
            where, _, reason = bytes(words).rstrip(b'\0').decode().partition(': ')
            error = InputError(where, reason)
    if error is not None:
        raise error


def make_optimizer(config, *, steps, steps_per_epoch):
    """The optimiser a config names."""
    name = config['optimizer_name']
    if name not in optimizers.OPTIMIZERS:
        raise ConfigError(
            'optimizer_name', f'{name!r} is none of {sorted(optimizers.OPTIMIZERS)}'
        )
    try:
        return optimizers.OPTIMIZERS[name](
            **config['optimizer'], steps=steps, steps_per_epoch=steps_per_epoch
        )
    except TypeError as error:
        raise ConfigError(f'optimizer {name}', error) from None


def _draw_phantoms(task, folder, config):
    if not config['data']['phantoms']:
        raise ConfigError(
            'data.records', 'no prepared records are named; make them with '
            'launch.prepare, or take the variant phantom'
        )
    records.write_records(
        task.phantoms(count=config['data']['phantoms'], seed=0), folder,
        task=config['task_name'], fractions=(0.7, 0.1, 0.2), seed=0,
        overwrite=True,
    )


def _render_first(task, source, rows):
    """Pictures of the first four cases."""
    _, first = np.unique(rows['case_id'], return_index=True)
    for place in np.sort(first)[:4]:
        yield _render_case(task, source, rows, rows['case_id'][place])


def _render_case(task, source, rows, case_id):
    members = np.flatnonzero(rows['case_id'] == case_id)
    return task.render(
        [source[member] for member in members.tolist()],
        {name: column[members] for name, column in rows.items()},
    )


def evaluate_run(
    workdirs, *, folder, split, output, which, views, verify, command,
):
    """Measures one run, or several as an ensemble, and writes the report.

    Args:
        workdirs: run folders.
        folder: prepared records; the runs' own where None.
        split: 'test', 'valid' or 'train'. With the runs' own records the train value
            stands beside it: a model is not judged by images it was trained on.
        output: folder of report.json and report.html.
        which: 'best' or 'latest' checkpoint.
        views: number of views of test-time augmentation; None takes the config's.
        verify: compare the SHA-256 sums of the shards.
        command: the command line that repeats this.

    Returns:
        Outcome.
    """
    tasks, members, config, steps = runs.load_members(workdirs, which=which)
    task = tasks[0]
    name, settings = config['task_name'], config['evaluate']
    own = runs.records_folder(workdirs[0], config)
    folder = own if folder is None else folder
    source = records.open_records(folder, split, task=name, verify=verify)
    records.check_records(source, task.example, folder=folder)
    warnings = []
    if split != 'test':
        warnings.append(f'Split {split!r}: the model was fitted to or chosen by it.')
    if Path(folder).resolve() != own.resolve() or len(workdirs) > 1:
        for workdir in workdirs:
            source, dropped = evaluate.leave_out_seen(
                source, records.read_cases(folder), split=split,
                seen_in=records.read_cases(workdir),
            )
            if dropped and split == 'test':
                warnings.append(
                    f'{len(dropped)} cases are left out, since {Path(workdir).name} '
                    f'was trained on them: {", ".join(dropped[:10])}'
                )
    data = {split: [(tasks, members, source)]}
    if split != 'train' and folder == own:
        data['train'] = [(tasks, members, records.open_records(
            own, 'train', task=name, verify=False
        ))]
    results, measured = evaluate.evaluate(
        data, resamples=settings['resamples'], seed=0,
        views=runs.check_views(tasks, settings['views'] if views is None else views),
        batch_size=config['runtime']['eval_batch_size'],
    )
    cases, rows = measured[split]
    results.append(report.Result('paper', task.card.paper_data, {
        metric: {'value': value} for metric, value in task.card.paper.items()
    }))
    with Checkpoints(workdirs[0], read_only=True) as checkpoints:
        points = checkpoints.place()['points']
    if jax.process_index():  # all have counted; one writes
        return Outcome(steps[0], True, results, {})
    overlays, monitor = {}, config['train']['monitor'].lstrip('-')

    def render(case_id):
        records.check_case_id(str(case_id))  # another's records may hold anything
        picture = _render_case(task, source, rows, case_id)
        overlays[str(case_id)] = Path(output) / 'overlays' / f'{case_id}.png'
        findings.write_png(overlays[str(case_id)], picture)
        return picture

    json_path, html_path = report.write(
        output, title=task.card.title, about=task.card.about, results=results,
        cases=cases, scores=task.scores, render=render,
        legend=task.card.legend, histories=_histories(points, monitor),
        best_step=steps[0], warnings=warnings, command=command,
        facts=_facts(config, folder, len(members)),
    )
    return Outcome(steps[0], True, results, {
        'report': html_path, 'numbers': json_path,
        **{'overlay': path for path in [*overlays.values()][-1:]},
    })


def _histories(points, monitor):
    """Curves of training and validation, the losses under one name."""
    histories = {'train': [], 'valid': []}
    for point in points:
        if 'valid_loss' in point:
            histories['valid'].append({
                'step': point['step'], 'loss': point['valid_loss'],
                monitor: point[monitor],
            })
        else:
            histories['train'].append(point)
    return {name: points for name, points in histories.items() if points}


def _facts(config, folder, members):
    device = jax.devices()[0]
    return {
        'records': str(folder), 'members': members,
        'devices': f'{jax.device_count()} x {device.device_kind} ({device.platform})',
        'jax': jax.__version__, 'flax': flax.__version__, 'jaxmed': jaxmed.__version__,
        'config': config,
    }
