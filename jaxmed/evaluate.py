"""A trained task on a split: rows -> cases -> report. Prediction, then counting."""

import numpy as np

from jaxmed import predict, report
from jaxmed.data import pipeline
from jaxmed.errors import RecordError


def leave_out_seen(source, cases, *, split, seen_in, copies=frozenset()):
    """Drops the records of cases that a model may have been trained on.

    Args:
        source: records to be measured.
        cases: rows of their table of cases (records.read_cases).
        split: of them that `source` holds.
        seen_in: rows of the table of what the model was trained on; its train and
            valid splits count as seen. A case is the same if patient or content is.
        copies: ids of cases that are known to show what it was trained on, for more
            reasons than these.

    Returns:
        (source without them, sorted case ids that were left out).

    Raises:
        RecordError: nothing would be left.
    """
    seen = {
        case[name] for case in seen_in if case['split'] != 'test'
        for name in ('patient_id', 'content_id')
    } - {''}
    dropped = {
        case['case_id'] for case in cases
        if case['split'] == split and (
            case['case_id'] in copies
            or seen & {case['patient_id'], case['content_id']}
        )
    }
    if split != 'test' or not dropped:
        return source, []
    places = [
        place for place in range(len(source))
        if source[place]['case_id'] not in dropped
    ]
    if not places:
        raise RecordError('records', 'all cases to be measured were trained on')
    return pipeline.Subset(source, places), sorted(dropped)


def count_shared(cases, *, split):
    """How many patients and pictures of a split a model was fitted to or chosen by.

    Args:
        cases: rows of a table of cases (records.read_cases).
        split: that is measured.

    Returns:
        {'shared_patients', 'shared_images'}: both are 0 unless the split is leaky.
    """
    fitted = {'train', 'valid'} - {split}
    counts = {}
    for name, column in (
        ('shared_patients', 'patient_id'), ('shared_images', 'content_id')
    ):
        inside, outside = (
            {case[column] for case in cases if case['split'] in sides} - {''}
            for sides in ({split}, fitted)
        )
        counts[name] = len(inside & outside)
    return counts


def evaluate(
    data, *, views, batch_size, resamples, seed, train_sources=(), name='this model',
    rivals=(),
):
    """Measures a task, its baselines and its probes.

    Args:
        data: name of the data -> list of (tasks, members, source). Several are
            measured apart and counted together: the folds of a cross-validation.
            The first name is reported on, with baselines, probes and pictures; the
            others stand beside it.
        views: how many views of test-time augmentation.
        batch_size: examples at once.
        resamples: of the bootstrap over patients.
        seed: of the bootstrap.
        train_sources: of each part of the first data, what its baselines are fitted
            to; with None among them, or nothing, such baselines are left out.
        name: of the model, for tables.
        rivals: names in `data` that are of other models on what the first is of.

    Returns:
        (list of report.Result, name of the data or of a probe -> (cases, rows)). Where
        several are counted together, cases have a 'fold': which of them, from 0.
        Results of rivals and baselines hold how much the first differs from them.

    Raises:
        RecordError: a case comes twice in what is counted together.
    """
    results, found, measured = [], [], {}

    def measure(source_name, part, baselines=None, **options):
        each = [
            predict.make_split_rows(
                tasks, baseline=baselines and baselines[number], **options
            )(members, source, batch_size=batch_size)
            for number, (tasks, members, source) in enumerate(data[part])
        ]
        rows, task = join(each), data[part][0][0][0]
        cases = task.cases(by_person(rows))
        again, counts = np.unique(cases['case_id'], return_counts=True)
        if counts.max() > 1:
            raise RecordError('records', f'case {again[counts.argmax()]} comes twice')
        if len(each) > 1:
            fold_of = {case_id: fold for fold, found_there in enumerate(each)
                       for case_id in found_there['case_id']}
            cases = cases | {'fold': np.array([
                fold_of[case_id] for case_id in cases['case_id']])}
        found.append(report.measure(
            cases, task.metrics, resamples=resamples, seed=seed))
        results.append(report.Result(
            source_name, next(iter(data)) if part in rivals else part,
            report.describe(found[-1]),
            report.compare(found[0], found[-1], lower_is_better=task.lower_is_better)
            if part in rivals or baselines else {}))
        return cases, rows

    for part in data:
        first, task = not measured, data[part][0][0][0]
        measured[part] = measure(
            part if part in rivals else name, part, views=views)
        if first:
            baselines = {
                baseline: [function] * len(data[part])
                for baseline, function in task.baselines.items()}
            fitted = [
                task.fit_baselines(source) for source in train_sources
                if task.fit_baselines is not None and source is not None]
            if len(fitted) == len(data[part]):
                baselines |= {
                    baseline: [functions[baseline] for functions in fitted]
                    for baseline in fitted[0]}
            for baseline, functions in baselines.items():
                measure(baseline, part, baselines=functions, views=1)
            for probe, function in task.probes.items():
                measured[probe] = measure(probe, part, views=views, change=function)
    return results, measured


def by_person(rows):
    """Rows whose patients are people, also where cases were dealt out: data.folds.

    What a person is called goes no further than 'patient_id', which no report shows.
    """
    rows = dict(rows)
    if 'person_id' in rows:
        rows['patient_id'] = rows.pop('person_id')
    return rows


def join(parts):
    """Rows, one after the other."""
    return {
        name: np.concatenate([rows[name] for rows in parts]) for name in parts[0]
    }
