"""What a sequence model of movements must beat: means, and trees on summaries."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jaxmed.pose import features

FIELDS = ('inputs', 'frame_mask', 'segment', 'step_s')
_BATCH = 32
# Trees as deep as people and exercises are few; a sample of columns for each split.
_TREES = dict(
    loss='huber', n_estimators=200, max_depth=3, learning_rate=0.05, subsample=0.7,
    max_features=0.1, random_state=0)
_RIDGES = np.logspace(0, 5, 12)


def fit(source, *, prepare, skeleton):
    """Fits the baselines to training records.

    Args:
        source: random access to Records, of one window each.
        prepare: the task's preprocess.
        skeleton: pose.skeletons.Skeleton.

    Returns:
        name -> (raw batch -> {'index', 'spread'} [B]): the mean of each exercise, ridge
        regression and gradient boosting on `summarise`.
    """
    look = jax.jit(lambda batch: summarise(prepare(batch)['inputs'], skeleton=skeleton))

    def columns(batch):
        """Of any number of records, in batches of one size."""
        count, parts = len(batch['inputs']), []
        for start in range(0, count, _BATCH):
            places = np.minimum(np.arange(start, start + _BATCH), count - 1)
            parts.append(np.asarray(look({
                name: np.asarray(batch[name])[places] for name in FIELDS})))
        return np.concatenate(parts)[:count].astype(np.float64)

    chunks, truth, segments = [], [], []
    for start in range(0, len(source), _BATCH):
        records = [source[place] for place in range(
            start, min(start + _BATCH, len(source)))]
        chunks.append(columns({
            name: np.stack([record[name] for record in records]) for name in FIELDS}))
        truth += [record['targets'][0] for record in records]
        segments += [record['segment'][0] for record in records]
    summaries, truth = np.concatenate(chunks), np.array(truth, np.float64)
    segments, known = np.array(segments), ~np.isnan(truth)
    summaries, truth, segments = summaries[known], truth[known], segments[known]
    means = {
        number: truth[segments == number].mean() for number in np.unique(segments)}
    models = {
        'ridge': make_pipeline(StandardScaler(), RidgeCV(_RIDGES)),
        'gradient boosting': GradientBoostingRegressor(**_TREES),
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


def summarise(movement, *, skeleton):
    """A movement (pose.features) -> what can be said of it without its order in time.

    Returns:
        float32 [B, S]: of positions from the hips' middle, of the hips' path and of
        joint angles the mean, standard deviation, least and greatest value; of their
        speeds the mean and the root of the mean square; which exercises it holds and
        the log of its seconds.
    """
    mask = movement['mask'][..., None]
    both = features.extract(
        movement, parts=('positions', 'root', 'angles'), velocities=True,
        skeleton=skeleton)
    values, speeds = jnp.split(both, 2, axis=-1)
    count = jnp.maximum(mask.sum(axis=1), 1.0)

    def mean(x):
        return (x * mask).sum(axis=1) / count

    average = mean(values)
    squares = mean((values - average[:, None]) ** 2)
    far = jnp.float32(1e6)  # padding is neither least nor greatest
    return jnp.concatenate([
        average, jnp.sqrt(squares), jnp.where(mask > 0, values, far).min(axis=1),
        jnp.where(mask > 0, values, -far).max(axis=1), mean(jnp.abs(speeds)),
        jnp.sqrt(mean(speeds ** 2)), movement['segment'].max(axis=1),
        jnp.log(jnp.maximum(features.seconds_of(movement), 0.1))[:, None],
    ], axis=-1)
