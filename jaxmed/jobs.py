"""The whole of a command: train a run to its report, or measure one that is there."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
import numpy as np
from jax.experimental import multihost_utils

import jaxmed
from jaxmed import (
    evaluate,
    findings,
    optimizers,
    predict,
    progress,
    report,
    runs,
    train,
)
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
    sampling = config['data'].get('sampling', 'uniform')
    if sampling not in ('uniform', 'balanced'):
        raise ConfigError('data.sampling', f'{sampling!r}: uniform or balanced')
    if sampling == 'balanced':
        train_source = pipeline.balance(train_source)
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
            _make_start(task, optimizer.tx, settings),
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
    if task.calibrate is not None and valid_source is not None:
        _calibrate(workdir, valid_source, runtime['eval_batch_size'])
    split = next(s for s in ('test', 'valid', 'train') if splits[s]['records'])
    return evaluate_run(
        [workdir], folder=None, split=split, output=Path(workdir) / 'report',
        which='best', views=None, verify=runtime['verify'], command=command,
    )


def _calibrate(workdir, source, batch_size):
    """Fits what a task fits to the validation split: of the best state, as it came."""
    (task,), members, _, _ = runs.load_members([workdir], calibrate=False)
    split_rows = predict.make_split_rows([task], views=1)
    values = task.calibrate(
        task.cases(split_rows(members, source, batch_size=batch_size))
    )
    _on_first_process(lambda: runs.write_calibration(workdir, values))


def _make_start(task, tx, settings):
    """The state training begins with: fresh, or weights from elsewhere."""
    state = train.init_state(task, tx, seed=settings['seed'])
    path = settings.get('init_from', '')
    if not path:
        return state
    if task.pretrained is None:
        raise ConfigError('train.init_from', 'this task takes no weights of others')
    variables, loaded = task.pretrained(
        path, variables={'params': state.params, **state.model_state},
        sha256=settings.get('init_sha256', ''),
    )
    progress.LOG.info('%s', loaded)
    params = variables.pop('params')
    return train.TrainState(state.step, params, variables, tx.init(params))


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


def _render_case(task, source, rows, case_id, explain=None):
    members = np.flatnonzero(rows['case_id'] == case_id)
    options = {}
    if task.explain is not None and explain is not None:
        options['explain'] = functools.partial(explain, int(members[0]))
    return task.render(
        [source[member] for member in members.tolist()],
        {name: column[members] for name, column in rows.items()}, **options,
    )


class _Group(NamedTuple):
    """Runs that are averaged, and what they are measured on."""

    workdirs: list
    tasks: list
    members: list
    config: dict
    step: int  # of the first member's checkpoint
    own: Path  # the first run's records
    source: Any


def evaluate_run(
    workdirs, *, folder, split, output, which, views, verify, command, external=(),
    pooled=False,
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
        external: folders of prepared records, whose tests stand beside.
        pooled: each run is measured on its own records and all cases are counted
            together: the folds of a cross-validation.

    Returns:
        Outcome.
    """
    if pooled and (folder is not None or external):
        raise ConfigError('--pooled', 'each run is measured on its own records')
    warnings = []
    if split != 'test':
        warnings.append(f'Split {split!r}: the model was fitted to or chosen by it.')
    groups = [
        _open_group(paths, folder, split, which, verify, warnings)
        for paths in ([[path] for path in workdirs] if pooled else [workdirs])
    ]
    first = groups[0]
    task, name, settings = (
        first.tasks[0], first.config['task_name'], first.config['evaluate']
    )
    folder = first.own if folder is None else folder
    at_home = not pooled and folder == first.own
    data = {split: [(group.tasks, group.members, group.source) for group in groups]}
    extra = {part: first.own for part in ('train', *['valid'] * (
        task.sections is not None)) if part != split and at_home}
    for part, place in extra.items():
        if records.read_manifest(place, task=name)['splits'][part]['records']:
            data[part] = [(first.tasks, first.members, records.open_records(
                place, part, task=name, verify=False
            ))]
    for place in external:
        beside = _open_group(workdirs, Path(place), 'test', which, verify, warnings)
        data[Path(place).name] = [(beside.tasks, beside.members, beside.source)]
    results, measured = evaluate.evaluate(
        data, resamples=settings['resamples'], seed=0,
        views=runs.check_views(
            first.tasks, settings['views'] if views is None else views
        ),
        batch_size=first.config['runtime']['eval_batch_size'],
        train_source=records.open_records(
            first.own, 'train', task=name, verify=False
        ) if first.own.is_dir() else None,
    )
    cases, rows = measured[split]
    if task.card.paper:
        results.append(report.Result('paper', task.card.paper_data, {
            metric: {'value': value} for metric, value in task.card.paper.items()
        }))
    with Checkpoints(workdirs[0], read_only=True) as checkpoints:
        points = checkpoints.place()['points']
    if jax.process_index():  # all have counted; one writes
        return Outcome(first.step, True, results, {})
    source = pipeline.Joined(group.source for group in groups)
    explain = _make_explain(groups, source)
    overlays, monitor = {}, first.config['train']['monitor'].lstrip('-')

    def render(case_id):
        records.check_case_id(str(case_id))  # another's records may hold anything
        picture = _render_case(task, source, rows, case_id, explain)
        overlays[str(case_id)] = Path(output) / 'overlays' / f'{case_id}.png'
        findings.write_png(overlays[str(case_id)], picture)
        return picture

    sections = () if task.sections is None else task.sections(
        cases, valid_cases=measured['valid'][0] if 'valid' in measured else None,
        found=_found(folder, name, groups if at_home or pooled else (), split),
        changed={probe: measured[probe][0] for probe in task.probes},
        external={Path(place).name: measured[Path(place).name][0]
                  for place in external},
        calibrations=[runs.read_calibration(group.workdirs[0]) for group in groups],
        picture=lambda place, number: task.render(
            [source[place]], {name: column[[place]] for name, column in rows.items()},
            explain=lambda _: explain(place, number),
        ), resamples=settings['resamples'],
    )
    json_path, html_path = report.write(
        output, title=task.card.title, about=task.card.about, results=results,
        cases=cases, scores=task.scores, render=render,
        legend=task.card.legend, histories=_histories(points, monitor),
        best_step=first.step, warnings=warnings, command=command,
        facts=_facts(first.config, folder, len(workdirs)), sections=sections,
    )
    return Outcome(first.step, True, results, {
        'report': html_path, 'numbers': json_path,
        **{'overlay': path for path in [*overlays.values()][-1:]},
    })


def _found(folder, name, groups, split):
    """What preparation counted, and what of it ended on both sides of the split."""
    found = dict(records.read_manifest(folder, task=name).get('found', {}))
    for group in groups:
        cases = records.read_cases(group.workdirs[0])
        for key, count in evaluate.count_shared(cases, split=split).items():
            found[key] = found.get(key, 0) + count
    return found


def tabulate_runs(workdirs, *, split, output, which, views, verify, command):
    """Measures several runs, each apart, and writes one table of all.

    Args:
        workdirs: run folders of one task; each gets its report in report_SPLIT.
        output: folder of the tables.
        split, which, views, verify, command: of evaluate_run.

    Returns:
        File name in `output` -> text.
    """
    configs = [runs.read_config(workdir) for workdir in workdirs]
    names = sorted({config['task_name'] for config in configs})
    task = runs.make_task(configs[0])
    if len(names) > 1 or task.tabulate is None:
        raise ConfigError('--table', f'there is none of {" with ".join(names)}')
    task.tabulate([(config['task'], {}) for config in configs])  # fit side by side?
    texts = task.tabulate([
        (config['task'], evaluate_run(
            [workdir], folder=None, split=split, which=which, views=views,
            output=Path(workdir) / f'report_{split}', verify=verify, command=command,
        ).results[0].values) for workdir, config in zip(workdirs, configs)
    ])
    if jax.process_index() == 0:
        for name, text in texts.items():
            findings.replace(Path(output) / name, text.encode())
    return texts


def _open_group(workdirs, folder, split, which, verify, warnings):
    """Loads runs and the records they are measured on, without what they have seen."""
    tasks, members, config, steps = runs.load_members(workdirs, which=which)
    name, own = config['task_name'], runs.records_folder(workdirs[0], config)
    folder = own if folder is None else folder
    source = records.open_records(folder, split, task=name, verify=verify)
    records.check_records(source, tasks[0].example, folder=folder)
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
    return _Group(list(workdirs), tasks, members, config, steps[0], own, source)


def _make_explain(groups, source):
    """(place in the joined source, class) -> map, by the group that was measured."""
    predictors = {}

    def explain(place, number):
        part = source.part_of(place)
        if part not in predictors:
            group = groups[part]
            predictors[part] = predict.Predictor(
                group.tasks, group.members, views=1, batch_size=1
            )
        return predictors[part].explain(source[place], number)

    return explain


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
