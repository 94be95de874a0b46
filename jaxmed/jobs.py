"""The whole of launch.train: a run from its config to its report."""

from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxmed import evaluate, grids, measure, optimizers, predict, progress, runs, train
from jaxmed.checkpoint import Checkpoints
from jaxmed.data import folds as fold_sets
from jaxmed.data import pipeline, records
from jaxmed.errors import ConfigError, InputError, RecordError

LEAK = 'split at random'


def train_run(config, workdir, *, command, interrupt, split='test'):
    """Trains to the end or to an interruption, then measures the best state.

    So it does with the config's rivals, runs of other options on the same records,
    which stand beside it in the report.

    Args:
        config: nested dicts, as configs/ make them.
        workdir: the run folder; resumed where it has checkpoints.
        command: the command line that resumes it.
        interrupt: train.Interrupt, entered.
        split: to be measured in the end; where it is empty, validation or training.

    Returns:
        measure.Outcome.
    """
    step, rivals = _train_all(config, workdir, interrupt)
    if rivals is None:
        return measure.Outcome(step, False, [], {})
    splits = records.read_manifest(
        runs.records_folder(workdir, make_absolute(config)),
        task=config['task_name'])['splits']
    split = next(s for s in (split, 'valid', 'train') if splits[s]['records'])
    return measure.evaluate_run(
        [workdir], folder=None, split=split, output=Path(workdir) / 'report',
        which='best', views=None, verify=config['runtime']['verify'], command=command,
        beside={name: [path] for name, path in rivals.items()},
    )


def cross_validate(config, workdir, *, folds, valid, leak, command, interrupt):
    """Trains a run for each fold and measures all together, on everyone once.

    Args:
        config: nested dicts; names records, or how many to draw.
        workdir: gets fold_0 to fold_N, and with `leak` leak_0 to leak_N, each a run
            folder with its records; records, where they are drawn; and report.
        folds: how many, at least 2; nobody is in two of them.
        valid: share of the others' people that training is validated with.
        leak: also train as many runs whose folds are of examples, not of people, so
            that everyone is on both sides: what such a split promises stands beside.
        command, interrupt: of train_run.

    Returns:
        measure.Outcome.
    """
    config, workdir = make_absolute(config), Path(workdir)
    task = runs.make_task(config)
    _make_rivals(config)  # refused before anything is dealt
    folder = runs.records_folder(workdir, config)
    if folds < 2:
        raise ConfigError('--folds', f'{folds}: at least 2')

    def begin():  # on one process alone: the others would see what it writes
        if not config['data']['records'] and not folder.is_dir():
            draw_phantoms(task, folder, config)

    _on_first_process(begin)
    found, rivals = {}, {}
    for kind in ('fold', 'leak') if leak else ('fold',):
        for number in range(folds):
            place = workdir / f'{kind}_{number}'
            dealt = place / 'records'
            _on_first_process(lambda: fold_sets.deal(
                folder, dealt, task=config['task_name'], labels=task.labels,
                folds=folds, fold=number, valid=valid, seed=config['train']['seed'],
                by_person=kind == 'fold'))
            progress.LOG.info('%s %d of %d', kind, number + 1, folds)
            own = config | {'data': config['data'] | {'records': str(dealt)}}
            if kind == 'leak':
                own = own | {runs.RIVALS: {}}
            step, others = _train_all(own, place, interrupt)
            if others is None:
                return measure.Outcome(step, False, [], {})
            found.setdefault(kind, []).append(place)
            for name, path in others.items():
                rivals.setdefault(name, []).append(path)
    beside = rivals | ({LEAK: found['leak']} if leak else {})
    return measure.evaluate_run(
        found['fold'], folder=None, split='test', output=workdir / 'report',
        which='best', views=None, verify=config['runtime']['verify'], command=command,
        pooled=True, beside=beside)


def _train_all(config, workdir, interrupt):
    """(step, folders of its rivals by name) of a run; None if it was interrupted."""
    config = make_absolute(config)
    others, place = _make_rivals(config), Path(workdir) / runs.RIVALS

    def check():
        for name, other in others.items():
            runs.check_config(place / name, other)

    _on_first_process(check)
    result = _train(config, workdir, interrupt)
    folder, found = runs.records_folder(workdir, config), {}
    for name, other in others.items():
        if not result.finished:
            break
        progress.LOG.info('rival %s', name)
        other['data'] = other['data'] | {'records': str(Path(folder).absolute())}
        found[name] = place / name
        result = _train(other, found[name], interrupt)
    return result.step, found if result.finished else None


def _make_rivals(config):
    """Name -> config of each rival; what is wrong is told before hours of work.

    Raises:
        ConfigError: a name that is none of a folder or that a report has for something
            else; changes that do not fit the config, or its task.
    """
    config, others = make_absolute(config), {}
    taken = {*records.SPLITS, measure.MODEL, measure.PAPER, LEAK}
    for name, changes in config.get(runs.RIVALS, {}).items():
        if (Path(name).name != name or name.startswith('.') or not name.isprintable()
                or not 1 <= len(name.encode()) <= 200):
            raise ConfigError(runs.RIVALS, f'{name!r} can not name a folder')
        if name.casefold() in taken:
            raise ConfigError(runs.RIVALS, f'{name!r} is taken')
        taken.add(name.casefold())
        others[name] = grids.change(
            config | {runs.RIVALS: {}}, grids.flatten(changes), name=f'rival {name}')
        task = runs.make_task(others[name])
        if name in {*task.baselines, *task.probes}:
            raise ConfigError(runs.RIVALS, f'{name!r} is taken')
    return others


def _train(config, workdir, interrupt):
    """Trains one run to its end or to an interruption; train.Result."""
    _check_numbers(config)
    config = make_absolute(config)
    task = runs.make_task(config, axis_name=train.AXIS)
    folder, runtime = runs.records_folder(workdir, config), config['runtime']

    def begin():
        runs.check_config(workdir, config)
        if not config['data']['records'] and not runs.has_begun(workdir):
            draw_phantoms(task, folder, config)

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
    records.check_labels(folder, task.labels)
    if valid_source is None:
        progress.LOG.warning(
            'no validation split: training does not stop early, its last state counts'
        )
    else:
        _check_monitor(task, valid_source, settings)
    sampling = config['data'].get('sampling', 'uniform')
    if sampling not in ('uniform', 'balanced'):
        raise ConfigError('data.sampling', f'{sampling!r}: uniform or balanced')
    groups = None
    if sampling == 'balanced':
        groups = pipeline.by_class(train_source, task.class_of)
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
            _make_start(task, optimizer.tx, settings, workdir, train_source),
            lambda start: pipeline.train_batches(
                train_source, batch_size=settings['batch_size'], seed=settings['seed'],
                start=start, workers=runtime['workers'], groups=groups,
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
    if result.finished and task.calibrate is not None and valid_source is not None:
        _calibrate(workdir, valid_source, config)
    return result


def make_absolute(config):
    """The config as runs keep it: files are found from any folder."""
    for section, field in (
        ('data', 'records'), ('train', 'init_from'), ('task', 'detector'),
        ('task', 'landmark_model'), ('task', 'cache'),
    ):
        if config[section].get(field):
            place = str(Path(config[section][field]).absolute())
            config = config | {section: config[section] | {field: place}}
    return config


def _calibrate(workdir, source, config):
    """Fits what a task fits to the validation split: of the best state, as it came.

    Averaged over as many views as it is used with later, which is kept as 'views'.
    """
    (task,), members, _, _ = runs.load_members([workdir], calibrate=False)
    views = runs.check_views([task], config['evaluate']['views'])
    rows = predict.make_split_rows([task], views=views)(
        members, source, batch_size=config['runtime']['eval_batch_size'])
    values = task.calibrate(evaluate.by_person(rows)) | {'views': views}
    _on_first_process(lambda: runs.write_calibration(workdir, values))


def _check_monitor(task, source, settings):
    """Tells before training where no state can be the best, for want of a class.

    Raises:
        RecordError: and training were to stop by it.
    """
    metric = task.metrics.get(settings['monitor'].lstrip('-'))
    if metric is None or task.class_of is None:
        return
    # Where nothing is predicted, or everything, another metric may be undefined, too.
    for value in (0.0, 1.0):
        rows = task.cases(predict_constant(task, source, value))
        if not np.isnan(metric(rows)):
            return
    words = tell_undefined(settings['monitor'], rows)
    if settings['patience']:
        raise RecordError(
            'train.monitor', f'{words}, so nothing tells when to stop: prepare more '
            'cases, or set train.patience to 0')
    progress.LOG.warning('%s; no state is the best one, the last counts', words)


def tell_undefined(metric, rows):
    """Why a metric has no value on a validation split, of which classes are absent."""
    truth, counts = rows.get('targets'), ''
    if np.shape(truth)[1:] == (1,):
        counts = f' ({np.sum(truth == 1)} cases with, {np.sum(truth == 0)} without)'
    return f'{metric} is undefined on the validation split: a class is absent{counts}'


def predict_constant(task, source, value):
    """Rows of a source with one probability for everything, without a network."""
    arrays, _ = pipeline.split_strings(pipeline.stack([source[0]]))
    shapes = jax.eval_shape(
        predict.make_apply([task], views=1), [predict.weights_spec(task)], arrays)

    def baseline(batch):
        size = len(batch['mask'])
        return jax.tree.map(
            lambda leaf: np.full((size, *leaf.shape[1:]), value, leaf.dtype), shapes)

    return predict.make_split_rows([task], views=1, baseline=baseline)(
        (), source, batch_size=min(len(source), 8))


def _make_start(task, tx, settings, workdir, source):
    """The state training begins with: fresh, or weights from elsewhere."""
    state = train.init_state(task, tx, seed=settings['seed'])
    path = settings.get('init_from', '')
    if runs.has_begun(workdir):
        return state
    if task.begin is not None:
        variables = task.begin(
            source, {'params': state.params, **state.model_state})
        params = variables.pop('params')
        state = train.TrainState(state.step, params, variables, tx.init(params))
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
        ('runtime', ('eval_batch_size', 'log_every', 'cpu_devices')),
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
        except BaseException as raised:  # whatever it is, the others must not wait
            error = raised
    if jax.process_count() > 1:
        words = np.zeros(2000, np.uint8)
        text = '' if error is None else str(error) or f'process 0: {error!r}'
        data = text.encode()[:len(words)]
        words[:len(data)] = np.frombuffer(data, np.uint8)
        words = multihost_utils.broadcast_one_to_all(words)
        if error is None and words.any():
            text = bytes(words).rstrip(b'\0').decode(errors='replace')
            where, _, reason = text.partition(': ')
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
    except InputError:
        raise
    except (TypeError, ValueError) as error:  # optax's own checks are ValueErrors
        raise ConfigError(f'optimizer {name}', error) from None


def draw_phantoms(task, folder, config):
    """Prepares drawn records, as a config without records asks for."""
    if not config['data']['phantoms']:
        raise ConfigError(
            'data.records', 'no prepared records are named; make them with '
            'launch.prepare, or take the variant phantom'
        )
    records.write_records(
        task.phantoms(count=config['data']['phantoms'], seed=0), folder,
        task=config['task_name'], seed=0, overwrite=True, labels=task.labels,
        fractions=records.check_fractions(
            tuple(config['data']['phantom_splits']), where='data.phantom_splits'),
    )


def _render_first(task, source, rows):
    """Pictures of the first four cases."""
    _, first = np.unique(rows['case_id'], return_index=True)
    for place in np.sort(first)[:4]:
        yield measure.render_case(task, source, rows, rows['case_id'][place])
