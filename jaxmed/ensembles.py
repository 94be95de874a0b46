"""Rows of several members averaged, ranked by a metric, and told apart.

Rows are what predict.make_split_rows gives of a split, the same cases for all members.
"""

import itertools
from typing import NamedTuple

import numpy as np
from scipy import stats

from jaxmed import report
from jaxmed.classification import delong, scores
from jaxmed.errors import ConfigError
from jaxmed.metrics import bootstrap_interval
from jaxmed.types import Task

SHOWN = 10  # ensembles of each size
CHUNK = 2 ** 20  # probabilities at once


class Ensemble(NamedTuple):
    """Members that are averaged, and what they reach on the validation split."""

    names: tuple
    value: float  # of the metric
    loss: float  # mean of the members' validation losses


class Metric(NamedTuple):
    """What members are compared by: one of a task's metrics, of the rows of a split."""

    task: Task
    name: str
    sign: int  # -1 where the smallest is the best
    resamples: int  # of the bootstrap

    def value(self, rows):
        """The metric, float."""
        return float(self.task.metrics[self.name](self.task.cases(rows)))

    def measure(self, rows):
        """{'value', 'low', 'high'}, with a bootstrap interval over patients."""
        found = report.summarise(
            self.task.cases(rows), {self.name: self.task.metrics[self.name]},
            resamples=self.resamples, seed=0)[self.name]
        return {key: found[key] for key in ('value', 'low', 'high')}

    def compare(self, rows, others):
        """The metric of some rows minus that of others of the same cases.

        Returns:
            {'value', 'low', 'high', 'p'}: a bootstrap interval over patients, and for
            an area under one ROC curve the p of DeLong's test, else None.
        """
        metric = self.task.metrics[self.name]
        both = [self.task.cases(one) for one in (rows, others)]
        columns = {
            (side, name): column for side, cases in enumerate(both)
            for name, column in cases.items()
            if np.ndim(column) < 3 and np.asarray(column).dtype.kind not in 'US'
        }

        def difference(drawn):
            first, second = (
                metric({name: column for (side, name), column in drawn.items()
                        if side == number}) for number in (0, 1)
            )
            return first - second

        patients = np.asarray(both[0]['patient_id'])
        low, high = bootstrap_interval(
            columns, difference, groups=patients, seed=0, resamples=self.resamples)
        p = None
        if self._is_area(both[0]):
            p = delong.compare_aucs(
                both[0]['probability'][:, 0], both[1]['probability'][:, 0],
                both[0]['targets'][:, 0], groups=patients).p
        return {'value': float(difference(columns)), 'low': low, 'high': high, 'p': p}

    def operate(self, valid, test):
        """How rows of `test` are told apart at the best threshold of those of `valid`.

        Returns:
            {'threshold', 'sensitivity', 'specificity'}: where the sum of both is
            largest on `valid`. None unless the metric is an area under one ROC curve.
        """
        valid, test = self.task.cases(valid), self.task.cases(test)
        if not self._is_area(valid):
            return None
        threshold = scores.threshold_youden(valid, 0)
        return {'threshold': threshold} | {
            name: float(score(test, exclusive=False, threshold=threshold)[0])
            for name, score in (
                ('sensitivity', scores.recall), ('specificity', scores.specificity))
        }

    def _is_area(self, cases):
        return self.name == 'auc' and np.shape(cases.get('probability'))[1:] == (1,)


def make_metric(task, text, *, resamples):
    """The metric that a text names; after a minus sign the smallest is the best."""
    sign, name = (-1, text[1:]) if text.startswith('-') else (1, text)
    if name not in task.metrics:
        raise ConfigError(
            '--metric', f'{name!r} is none of {", ".join(task.metrics)}: members are '
            'compared by a metric of their probabilities')
    return Metric(task, name, sign, resamples)


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


def rank(metric, rows, *, size):
    """The best ensembles of a size, of all, by the metric of their averages.

    Of equal values, the lower mean of the members' validation losses goes first, then
    the names in order. One without a value comes last.

    Args:
        metric: Metric.
        rows: name -> Rows of the validation split, the same cases for all.
        size: members of each.

    Returns:
        (list of the first Ensembles, at most SHOWN; number of all).
    """
    names = sorted(rows)
    # A list of tuples would take four times the memory.
    chosen = np.fromiter(itertools.chain.from_iterable(
        itertools.combinations(range(len(names)), size)), np.int32).reshape(-1, size)
    losses = np.array([np.mean(rows[name]['loss']) for name in names])
    losses = np.where(np.isnan(losses), np.inf, losses)
    values = _values(metric, [rows[name] for name in names], chosen)
    mean = losses[chosen].mean(axis=1)
    # Equal is equal, whatever order they were added in.
    keys = np.where(np.isnan(values), np.inf, -metric.sign * np.round(values, 12))
    order = np.lexsort((np.arange(len(chosen)), np.round(mean, 12), keys))[:SHOWN]
    return [
        Ensemble(tuple(names[i] for i in chosen[place]), float(values[place]),
                 float(mean[place])) for place in order
    ], len(chosen)


def _values(metric, members, chosen):
    """The metric of each row of `chosen`, [M, size] places of members: [M]."""
    probability = members[0].get('probability')
    if metric.name == 'auc' and np.ndim(probability) == 2:
        table = np.stack([np.asarray(m['probability'], float) for m in members])
        targets = members[0]['targets']
        singles = [metric.value(average([member])) for member in members]
        # The quick way only where it is the task's own metric.
        if np.allclose(_areas(table, targets), singles, equal_nan=True):
            step = max(1, CHUNK // table[0].size)
            return np.concatenate([
                _areas(table[chosen[i:i + step]].mean(axis=1), targets)
                for i in range(0, len(chosen), step)
            ])
    return np.array([
        metric.value(average([members[i] for i in few])) for few in chosen])


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
    count = int(truth.sum())
    pairs = count * (len(truth) - count)
    if not pairs:
        return np.full(len(probability), np.nan)
    ranks = stats.rankdata(probability, axis=1)  # all NaN where one of a row is
    return (ranks[:, truth].sum(axis=1) - count * (count + 1) / 2) / pairs
