"""A run folder: its config, its checkpoints, and the way back to a trained task.

    config.json        what the run was started with; a resume must agree
    cases.csv          what it is trained on
    calibration.json   what was fitted on the validation split afterwards, if anything
    checkpoints/       best and latest
    records/           phantom records, where the config names none
    rivals/            run folders of what the config's rivals name
    events.*           TensorBoard
    report/            what the evaluation wrote
"""

import functools
import hashlib
import inspect
import json
import logging
import os
import sys
from pathlib import Path

from jaxmed import findings, predict
from jaxmed.checkpoint import FOLDER, Checkpoints
from jaxmed.data.records import CASES
from jaxmed.errors import CheckpointError, ConfigError, InputError
from jaxmed.tasks import TASKS

CONFIG = 'config.json'
CALIBRATION = 'calibration.json'
DETECTORS = 'spinal_cord'  # the task whose runs find what another one looks at
RIVALS = 'rivals'  # folder of a run, and section of a config: name -> changes of it
FREE = ('runtime', 'evaluate', RIVALS)  # sections that do not change the parameters
LOG = logging.getLogger('jaxmed')
RECORDS = 'data.records'  # may move: their fingerprint is compared, not their place


def make_task(config, *, axis_name=None):
    """The task a config (nested dicts) describes.

    Another run that it names as its detector is loaded when a file is first read: on
    records a task works without.

    Raises:
        ConfigError: no such task, options that it does not have, or too few of them.
    """
    name = config['task_name']
    if name not in TASKS:
        raise ConfigError('task_name', f'{name!r} is none of {sorted(TASKS)}')
    options = config['task']
    for option, parameter in inspect.signature(TASKS[name]).parameters.items():
        needed = parameter.kind == parameter.KEYWORD_ONLY and (
            parameter.default is parameter.empty)
        if needed and option not in ('axis_name', *options):
            raise ConfigError(
                f'task.{option}', f'missing; a run of task {name} without it was '
                'trained by an older jaxmed: train it anew')
    named = options.get('detector')
    if isinstance(named, (str, os.PathLike)):
        options = options | {'detector': _Detector(named) if named else None}
    try:
        return TASKS[name](**options, axis_name=axis_name)
    except InputError:
        raise
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f'task {name}', error) from None


class _Detector:
    """A run that finds what another task looks at, a predict.Predictor in time."""

    def __init__(self, workdir):
        self._workdir = workdir

    @functools.cached_property
    def _loaded(self):
        try:
            return _load_detector(self._workdir)
        except InputError as error:  # no scan's fault
            raise ConfigError('task.detector', error) from None

    @property
    def task(self):
        return self._loaded.task

    @property
    def apply(self):
        return self._loaded.apply


def _load_detector(workdir):
    name = read_config(workdir)['task_name']
    if name != DETECTORS:
        raise CheckpointError(workdir, f'a run of task {name!r}, not of {DETECTORS!r}')
    return load(workdir)


def check_config(workdir, config):
    """Refuses to go on with a run under another config than it began with.

    A run without a checkpoint has not begun: its config may still be corrected.

    Args:
        workdir: the run folder; may be absent.
        config: nested dicts of JSON values.

    Raises:
        ConfigError: naming the fields that differ.
    """
    if not has_begun(workdir):
        return
    before = _fields(read_config(workdir))
    now = _fields(json.loads(json.dumps(config)))
    differ = [
        f'{name} ({before.get(name, "absent")} -> {now.get(name, "absent")})'
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
        and name.split('.')[0] not in FREE and name != RECORDS
    ]
    if differ:
        raise ConfigError(
            workdir, f'the config changed since this run began: {", ".join(differ)}; '
            'take another --workdir or the old values'
        )


def write_calibration(workdir, values):
    """Keeps what Task.calibrate gave, for every later use of the run."""
    data = json.dumps(values, sort_keys=True).encode()
    findings.replace(Path(workdir) / CALIBRATION, data)


def read_calibration(workdir):
    """What write_calibration kept; {} where there is nothing."""
    path = Path(workdir) / CALIBRATION
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(path, f'damaged: {error}') from None
    if not isinstance(values, dict) or not values:
        raise CheckpointError(path, 'damaged: it holds no named values')
    return values


def has_begun(workdir):
    """Whether the run has a checkpoint."""
    folder = Path(workdir) / FOLDER
    return folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir())


def write_run(workdir, config, *, records):
    """Writes config.json, and which cases the run is trained on, atomically.

    Args:
        workdir: the run folder; made if absent.
        config: nested dicts of JSON values.
        records: prepared folder whose table of cases is copied, so that the run can
            be measured where its training data is not.

    Raises:
        ConfigError: the folder can't be written.
    """
    workdir = Path(workdir)
    contents = {
        CONFIG: json.dumps(config, indent=1, sort_keys=True).encode(),
        CASES: (Path(records) / CASES).read_bytes(),
    }
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(workdir, f"can't be written: {error.strerror}") from None
    for name, data in contents.items():
        findings.replace(workdir / name, data)


def read_config(workdir):
    """The config a run was started with.

    Raises:
        CheckpointError: not a run folder, or its config is damaged.
    """
    path = Path(workdir) / CONFIG
    if not path.is_file():
        raise CheckpointError(workdir, f'not a run folder: it has no {CONFIG}')
    try:
        config = json.loads(path.read_text())
        for section in ('task', 'data', 'optimizer', 'train', 'evaluate', 'runtime'):
            config[section].keys()
        config['task_name'], config['data']['records']
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(path, f'damaged: {error!r}') from None
    return config


def records_folder(workdir, config):
    """Where the records of a run are: as named, or drawn into the run folder."""
    named = config['data']['records']
    return Path(named) if named else Path(workdir) / 'records'


def _fields(config, prefix=''):
    fields = {}
    for name, value in config.items():
        if isinstance(value, dict):
            fields |= _fields(value, f'{prefix}{name}.')
        else:
            fields[prefix + name] = value
    return fields


def load_members(workdirs, *, which='best', task_options=None, calibrate=True):
    """Trained weights of one or several runs of the same task.

    Args:
        workdirs: run folders; several are an ensemble, their models may differ.
        which: 'best' or 'latest'.
        task_options: of the task, in place of those it was trained with: how to
            predict ({'sweep': 'crops'}), not what the model is.
        calibrate: whether a run's calibration is applied.

    Returns:
        (tasks, members, config of the first run, steps), one of each per run.

    Raises:
        ConfigError: a task option that there is not, of another kind, or that would
            change what the network sees or is.
        CheckpointError: a folder is no run, is one of another task than the first or
            reads files in another way, or its checkpoint is damaged or does not fit its
            config.
    """
    tasks, members, steps = [], [], []
    first = read_config(workdirs[0])
    for workdir in workdirs:
        config = read_config(workdir)
        if config['task_name'] != first['task_name']:
            raise CheckpointError(
                workdir,
                f'a run of task {config["task_name"]!r}, not of {first["task_name"]!r}',
            )
        _check_options(config['task'], task_options or {})
        options = config['task'] | (task_options or {})
        if tasks and 'detector' in options:
            options['detector'] = ''  # the first member reads for all
        task = make_task(config | {'task': options})
        if task_options:
            _check_network(config, task)
        for name, value in task.reading.items() if tasks else ():
            if tasks[0].reading[name] != value:
                raise CheckpointError(
                    workdir, f'reads with {name} {value}, and {workdirs[0]} with '
                    f'{tasks[0].reading[name]}: no ensemble'
                )
        if tasks and task.labels != tasks[0].labels:
            raise CheckpointError(
                workdir, f'a run with other labels than {workdirs[0]}'
            )
        calibration = read_calibration(workdir) if calibrate else {}
        try:
            tasks.append(task.calibrated(calibration) if calibration else task)
        except InputError as error:
            raise CheckpointError(
                Path(workdir) / CALIBRATION, error.reason) from None
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                Path(workdir) / CALIBRATION, f'damaged: {error!r}'
            ) from None
        with Checkpoints(workdir, read_only=True) as checkpoints:
            weights, step = checkpoints.restore_weights(
                predict.weights_spec(tasks[-1]), which=which
            )
        members.append(weights)
        steps.append(step)
    if len(tasks) > 1 and calibrate and tasks[0].together is not None:
        tasks[0] = tasks[0].together([read_calibration(path) for path in workdirs])
    return tasks, members, first, steps


def _check_options(trained, options):
    """Raises ConfigError for an option of another kind than the config's value."""
    for name, value in options.items():
        if name not in trained or name == 'detector':
            continue  # make_task names the first, and the second is a run
        own = trained[name]
        kinds = ((bool,), (int, float), (str,), (list, tuple), (dict,))
        kind = next((k for k in kinds if isinstance(own, k)), (object,))
        if not isinstance(value, kind) or isinstance(value, bool) != (kind == (bool,)):
            raise ConfigError(f'task.{name}', f'{value!r} where there was {own!r}')


def _check_network(config, task):
    """Raises ConfigError if a task made with other options is of another network."""
    options = config['task']
    if 'detector' in options:
        options = options | {'detector': ''}
    own = make_task(config | {'task': options})
    if (own.model, _kept(own), _settings(own)) != (
        task.model, _kept(task), _settings(task)
    ):
        raise ConfigError('--task', 'changes what the network is or sees; it was '
                          'trained with other values, and they can\'t be changed')


def _kept(task):
    return {name: value for name, value in task.reading.items()
            if name not in task.of_source}


def _settings(task):
    # Of closures nothing can be told.
    return getattr(task.preprocess, 'keywords', None)


def load(
    workdir, *, views=None, batch_size=8, task_options=None, explain=True, reads=False
):
    """A predictor: `load('RUN')('smear.jpg')` gives a types.Finding.

    Args:
        workdir: a run folder, or a sequence of them to average.
        views: how many views of test-time augmentation; None takes the config's.
        batch_size: examples that go through the network at once.
        task_options: as in load_members.
        explain: as in predict.Predictor.
        reads: whether scans are to be read, and not records alone: then a task that
            looks where a detector tells it must have one.

    Returns:
        predict.Predictor.

    Raises:
        CheckpointError: of load_members, for this run or for its detector.
        ConfigError: no detector is named, and `reads`.
    """
    workdirs = [workdir] if isinstance(workdir, (str, os.PathLike)) else list(workdir)
    changes, detector = dict(task_options or {}), None
    own = read_config(workdirs[0])['task']
    if 'detector' in own:  # what it is counts, and not where
        named = changes.pop('detector', own['detector'])
        if reads and not named:
            raise ConfigError(
                'task.detector', 'name a trained run of the task spinal_cord: '
                '--task=detector=RUN')
        detector = _load_detector(named) if named else None
    tasks, members, config, steps = load_members(workdirs, task_options=(
        changes | {'detector': detector} if 'detector' in own else changes))
    views = check_views(tasks, config['evaluate']['views'] if views is None else views)
    for path in workdirs:
        kept = read_calibration(path)
        if kept and kept.get('views', 1) != views:
            LOG.warning(
                '%s: calibrated with %d of the views, predicts with %d: probabilities '
                'and verdict need not fit', path, kept.get('views', 1), views)
    made_by = hashlib.sha256(json.dumps([
        # Importing the package would be importing upwards.
        sys.modules['jaxmed'].__version__, steps, changes, views, explain,
        detector and detector.made_by,
    ]).encode())
    for path in workdirs:
        for name in (CONFIG, CASES, CALIBRATION):
            if (Path(path) / name).is_file():
                made_by.update((Path(path) / name).read_bytes())
    return predict.Predictor(
        tasks, members, batch_size=batch_size, views=views,
        explain=explain, made_by=made_by.hexdigest()[:16],
    )


def check_views(tasks, views):
    """The number of views of test-time augmentation, if all tasks have as many."""
    most = min(len(task.views) for task in tasks)
    if not isinstance(views, int) or not 1 <= views <= most:
        raise ConfigError('evaluate.views', f'{views} is not in [1, {most}]')
    return views
