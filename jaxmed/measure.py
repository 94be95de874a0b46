"""Measures trained runs and writes their reports: one, an ensemble, folds, a table."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
import numpy as np

import jaxmed
from jaxmed import evaluate, findings, predict, report, runs
from jaxmed.checkpoint import Checkpoints
from jaxmed.data import pipeline, records
from jaxmed.errors import ConfigError, RecordError

MODEL, PAPER = 'this model', 'paper'  # what a report calls them


class Outcome(NamedTuple):
    """How a command ended."""

    step: int
    finished: bool  # False: interrupted, to be resumed
    results: list  # of report.Result; the first is this model on the split asked for
    paths: dict  # what it is -> where


class _Group(NamedTuple):
    """Runs that are averaged, and what they are measured on."""

    workdirs: list
    tasks: list
    members: list
    config: dict
    step: int  # of the first member's checkpoint
    points: list  # of its curves
    own: Path  # the first run's records
    at_home: bool  # measured on these, on which all members were trained
    source: Any

    def on(self, split):
        """The same runs on another split of their own records; None if it is empty."""
        name = self.config['task_name']
        if not self.own.is_dir():
            return None
        splits = records.read_manifest(self.own, task=name)['splits']
        if not splits[split]['records']:
            return None
        source = records.open_records(self.own, split, task=name, verify=False)
        # Other records may have been measured: these are checked nowhere else.
        records.check_records(source, self.tasks[0].example, folder=self.own)
        return self._replace(source=source)


def evaluate_run(
    workdirs, *, folder, split, output, which, views, verify, command, external=(),
    pooled=False, beside=None,
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
        beside: name -> run folders, each measured on the same split of its own records
            and counted together, to stand beside.

    Returns:
        Outcome.
    """
    if pooled and (folder is not None or external):
        raise ConfigError('--pooled', 'each run is measured on its own records')
    warnings = []
    if split != 'test':
        warnings.append(f'Split {split!r}: the model was fitted to or chosen by it.')
    open_group = functools.partial(
        _open_group, which=which, verify=verify, warnings=warnings
    )
    groups = [
        open_group(paths, folder, split)
        for paths in ([[path] for path in workdirs] if pooled else [workdirs])
    ]
    data = {split: groups} | _beside(groups, split)
    for place in map(Path, external):
        if place.name in (*data, *records.SPLITS):
            raise ConfigError('--external', f'{place.name!r} is taken: rename {place}')
        data[place.name] = [open_group(workdirs, place, 'test')]
    for name, paths in (beside or {}).items():
        if name in data:
            raise ConfigError('rivals', f'{name!r} is taken')
        data[name] = [open_group([path], None, split) for path in paths]
    first, settings = groups[0], groups[0].config['evaluate']
    views = runs.check_views(
        first.tasks, settings['views'] if views is None else views)
    warnings += _check_calibrations(groups, views)
    results, measured = evaluate.evaluate(
        {name: [(group.tasks, group.members, group.source) for group in parts]
         for name, parts in data.items()},
        name=f'{len(groups)} folds, each on its own' if pooled else MODEL,
        resamples=settings['resamples'], seed=0,
        views=views,
        batch_size=first.config['runtime']['eval_batch_size'],
        rivals=tuple(beside or ()),
        # Each fold's own: the others' have its test people in them.
        train_sources=[getattr(group.on('train'), 'source', None) for group in groups],
    )
    card = first.tasks[0].card
    if card.paper:
        results.append(report.Result(PAPER, card.paper_data, {
            metric: {'value': value} for metric, value in card.paper.items()
        }))
    if jax.process_index():  # all have counted; one writes
        return Outcome(first.step, True, results, {})
    paths = _write(
        groups, measured, output, results=results, split=split, warnings=warnings,
        command=command, folder=first.own if folder is None else Path(folder),
        external=[Path(place).name for place in external],
    )
    return Outcome(first.step, True, results, paths)


def _check_calibrations(groups, views):
    """Warnings of what was fitted with another number of views than is measured."""
    fitted = {
        kept.get('views', 1) for group in groups
        for kept in map(runs.read_calibration, group.workdirs) if kept} - {views}
    return [
        f'Calibrated with {number} of the views and measured with {views}: '
        'probabilities and thresholds need not fit.' for number in sorted(fitted)]


def _open_group(workdirs, folder, split, *, which, verify, warnings):
    """Loads runs and the records they are measured on, without what they have seen."""
    tasks, members, config, steps = runs.load_members(workdirs, which=which)
    name, own = config['task_name'], runs.records_folder(workdirs[0], config)
    places = []
    for workdir in workdirs:
        with Checkpoints(workdir, read_only=True) as checkpoints:
            places.append(checkpoints.place())
    at_home = folder is None or Path(folder).resolve() == own.resolve()
    if at_home and own.is_dir():
        trained_on = {place['data_id'] for place in places}
        at_home = trained_on == {records.fingerprint(own)}
        if folder is None and len(workdirs) == 1 and not at_home:
            raise RecordError(
                own, 'are not the records that the run was trained on: prepared anew? '
                'Named by --records they are measured without what it has seen'
            )
    folder = own if folder is None else Path(folder)
    source = records.open_records(folder, split, task=name, verify=verify)
    records.check_records(source, tasks[0].example, folder=folder)
    records.check_labels(folder, tasks[0].labels)
    if not at_home and split == 'test':
        for workdir in workdirs:
            trained = runs.records_folder(workdir, runs.read_config(workdir))
            source, dropped = evaluate.leave_out_seen(
                source, records.read_cases(folder), split=split,
                seen_in=records.read_cases(workdir),
                copies=_find_copies(tasks[0], source, trained, name, warnings),
            )
            if dropped:
                warnings.append(
                    f'{len(dropped)} cases are left out, since {Path(workdir).name} '
                    f'was trained on them: {", ".join(dropped[:10])}'
                )
    return _Group(
        list(workdirs), tasks, members, config, steps[0], places[0]['points'], own,
        at_home, source,
    )


def _find_copies(task, source, trained, name, warnings):
    """Case ids of a source that are copies of what a run was trained on."""
    if task.find_copies is None:
        return set()
    if not trained.is_dir():
        warnings.append(
            f'{trained} is not there: copies of training images are found only where '
            'their pixels are equal.'
        )
        return set()
    splits = records.read_manifest(trained, task=name)['splits']
    seen = pipeline.Joined(
        records.open_records(trained, split, task=name, verify=False)
        for split in ('train', 'valid') if splits[split]['records']
    )
    return task.find_copies(source, seen)


def _beside(groups, split):
    """What stands beside: the train value, and validation where a report needs it."""
    beside, home = {}, all(group.at_home for group in groups)
    if home and len(groups) == 1 and split != 'train':
        beside['train'] = [groups[0].on('train')]
    # An ensemble of runs on several records: some have seen others' validation. Of
    # several folds, people validate more than one.
    unseen = len(groups) == 1 and (home or len(groups[0].workdirs) == 1)
    if split != 'valid' and groups[0].tasks[0].sections is not None and unseen:
        beside['valid'] = [group.on('valid') for group in groups]
    return {name: parts for name, parts in beside.items() if None not in parts}


def _write(
    groups, measured, output, *, results, split, warnings, command, folder, external
):
    """Writes the report of what was measured; returns what it is -> where."""
    first, pooled = groups[0], len(groups) > 1
    task, config = first.tasks[0], first.config
    cases, rows = measured[split]
    source = pipeline.Joined(group.source for group in groups)
    explain = _make_explain(groups, source)
    overlays = {}

    def render(case_id):
        records.check_case_id(str(case_id))  # another's records may hold anything
        picture = render_case(task, source, rows, case_id, explain)
        overlays[str(case_id)] = Path(output) / 'overlays' / f'{case_id}.png'
        findings.write_png(overlays[str(case_id)], picture)
        return picture

    known = ('train', 'valid') if first.at_home and not pooled else ()
    sections = () if task.sections is None else task.sections(
        cases, valid_cases=measured['valid'][0] if 'valid' in measured else None,
        probe_cases=evaluate.join([
            measured[name][0] for name in (split, *known) if name in measured
        ]),
        found=_found(folder, groups, split),
        changed={probe: measured[probe][0] for probe in task.probes},
        external={name: measured[name][0] for name in external},
        calibrations=[
            runs.read_calibration(path) for group in groups for path in group.workdirs
        ],
        picture=lambda place, number: task.render(
            [source[place]], {name: column[[place]] for name, column in rows.items()},
            explain=lambda _: explain(place, number),
        ), resamples=config['evaluate']['resamples'],
    )
    monitor = config['train']['monitor'].lstrip('-')
    json_path, html_path = report.write(
        output, title=task.card.title, about=task.card.about, results=results,
        cases=cases, scores=task.scores, render=render,
        legend=task.card.legend,
        # Of several folds the curves of one would pass for those of all.
        histories={} if pooled else _histories(first.points, monitor),
        best_step=None if pooled else first.step, warnings=warnings, command=command,
        facts=_facts(groups, folder), sections=sections,
    )
    return {
        'report': html_path, 'numbers': json_path,
        **{'overlay': path for path in [*overlays.values()][-1:]},
    }


def _found(folder, groups, split):
    """What preparation counted, and what of it ended on both sides of the split."""
    name = groups[0].config['task_name']
    found = dict(records.read_manifest(folder, task=name).get('found', {}))
    for group in groups:
        if group.at_home:
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


def render_case(task, source, rows, case_id, explain=None):
    """The picture of a case, from its records and rows."""
    members = np.flatnonzero(rows['case_id'] == case_id)
    options = {}
    if task.explain is not None and explain is not None:
        options['explain'] = functools.partial(explain, int(members[0]))
    return task.render(
        [source[member] for member in members.tolist()],
        {name: column[members] for name, column in rows.items()}, **options,
    )


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


def _facts(groups, folder):
    device = jax.devices()[0]
    own = [str(group.own) for group in groups]
    return {
        'records': ', '.join(own) if len(groups) > 1 else str(folder),
        'members': len(groups[0].workdirs), 'folds': len(groups),
        'devices': f'{jax.device_count()} x {device.device_kind} ({device.platform})',
        'jax': jax.__version__, 'flax': flax.__version__, 'jaxmed': jaxmed.__version__,
        'config': groups[0].config,
    }
