"""What a sequence model of movements must beat: means, and trees on summaries."""

from functools import partial

import jax
import numpy as np
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jaxmed.models.boosted_trees import from_sklearn
from jaxmed.models.motion_index import DEPTH, TREES
from jaxmed.pose.summaries import summarise

FIELDS = ('inputs', 'frame_mask', 'segment', 'step_s')
_BATCH = 32
MOST_RECORDS = 4096
_RIDGES = np.logspace(0, 5, 12)


def fit(source, *, prepare, skeleton):
    """Fits the baselines to training records.

    Args:
        source: random access to Records, of one window each.
        prepare: the task's preprocess.
        skeleton: pose.skeletons.Skeleton.

    Returns:
        name -> (raw batch -> {'index', 'spread'} [B]): the mean of each exercise, ridge
        regression and gradient boosting on pose.summaries.
    """
    columns = _make_columns(prepare, skeleton)
    summaries, truth, segments = _gather(source, range(len(source)), columns)
    means = {
        number: truth[segments == number].mean() for number in np.unique(segments)}
    models = {
        'ridge': make_pipeline(StandardScaler(), RidgeCV(_RIDGES)),
        'gradient boosting': _boosted(),
    }

    def by_mean(batch):
        first = np.asarray(batch['segment'])[:, 0]
        return np.array([means.get(number, truth.mean()) for number in first])

    def by_model(batch, *, model):
        return model.predict(columns(batch))

    found = {'mean per exercise': by_mean} | {
        name: partial(by_model, model=model.fit(summaries, truth))
        for name, model in models.items()}
    return {name: partial(_answer, predict=predict) for name, predict in found.items()}


def _answer(batch, *, predict):
    index = np.clip(predict(batch), 0, 1).astype(np.float32)
    return {'index': index, 'spread': np.zeros_like(index)}


def grow(source, *, prepare, skeleton):
    """The variables of models.boosted_trees: gradient boosting, of training records.

    Of up to MOST_RECORDS of them, evenly chosen: that is little enough to hold, and
    grown in a minute. Others: see `fit`.
    """
    count = min(len(source), MOST_RECORDS)
    places = np.unique(np.linspace(0, len(source) - 1, count, dtype=int)).tolist()
    summaries, truth, _ = _gather(source, places, _make_columns(prepare, skeleton))
    return from_sklearn(_boosted().fit(summaries, truth))


def _boosted():
    # A sample of columns for each split.
    return GradientBoostingRegressor(
        loss='huber', n_estimators=TREES, max_depth=DEPTH, learning_rate=0.05,
        subsample=0.7, max_features=0.1, random_state=0)


def _make_columns(prepare, skeleton):
    """Raw batch of any size -> summaries [B, S] float64, in batches of one size."""
    look = jax.jit(lambda batch: summarise(prepare(batch)['inputs'], skeleton=skeleton))

    def columns(batch):
        count, parts = len(batch['inputs']), []
        for start in range(0, count, _BATCH):
            places = np.minimum(np.arange(start, start + _BATCH), count - 1)
            parts.append(np.asarray(look({
                name: np.asarray(batch[name])[places] for name in FIELDS})))
        return np.concatenate(parts)[:count].astype(np.float64)

    return columns


def _gather(source, places, columns):
    """Summaries [N, S], truth [N] and first segment [N] of the records with a truth."""
    chunks, truth, segments = [], [], []
    for start in range(0, len(places), _BATCH):
        records = [source[place] for place in places[start:start + _BATCH]]
        chunks.append(columns({
            name: np.stack([record[name] for record in records]) for name in FIELDS}))
        truth += [record['targets'][0] for record in records]
        segments += [record['segment'][0] for record in records]
    truth = np.array(truth, np.float64)
    known = ~np.isnan(truth)
    return np.concatenate(chunks)[known], truth[known], np.array(segments)[known]
