"""A trained task on a split: rows -> cases -> report. Prediction, then counting."""

from jaxmed import predict, report
from jaxmed.errors import RecordError


class _Subset:
    """Some records of a source, in order."""

    def __init__(self, source, places):
        self._source, self._places = source, places

    def __len__(self):
        return len(self._places)

    def __getitem__(self, index):
        return self._source[self._places[index]]


def leave_out_seen(source, cases, *, split, seen_in):
    """Drops the records of cases that a model may have been trained on.

    Args:
        source: records to be measured.
        cases: rows of their table of cases (records.read_cases).
        split: of them that `source` holds.
        seen_in: rows of the table of what the model was trained on; its train and
            valid splits count as seen. A case is the same if patient or content is.

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
        if case['split'] == split and seen & {case['patient_id'], case['content_id']}
    }
    if split != 'test' or not dropped:
        return source, []
    places = [
        place for place in range(len(source))
        if source[place]['case_id'] not in dropped
    ]
    if not places:
        raise RecordError('records', 'all cases to be measured were trained on')
    return _Subset(source, places), sorted(dropped)


def evaluate(tasks, members, sources, *, views, batch_size, resamples, seed):
    """Measures a task and its baselines.

    Args:
        tasks: one Task per member; the first one counts.
        members: sequence of weights.
        sources: name of the data -> source; the first is reported on with baselines
            and pictures, the others stand beside it.
        views: how many views of test-time augmentation.
        batch_size: examples at once.
        resamples: of the bootstrap over patients.
        seed: of the bootstrap.

    Returns:
        (list of report.Result, cases of the first, rows of the first).
    """
    task = tasks[0]
    split_rows = predict.make_split_rows(tasks, views=views)
    results, first = [], None
    for name, source in sources.items():
        rows = split_rows(members, source, batch_size=batch_size)
        cases = task.cases(rows)
        results.append(report.Result('this model', name, report.summarise(
            cases, task.metrics, resamples=resamples, seed=seed
        )))
        if first is not None:
            continue
        first = cases, rows
        for baseline, function in task.baselines.items():
            rows_of = predict.make_split_rows([task], views=1, baseline=function)
            cases = task.cases(rows_of(members, source, batch_size=batch_size))
            results.append(report.Result(baseline, name, report.summarise(
                cases, task.metrics, resamples=resamples, seed=seed
            )))
    return results, *first
