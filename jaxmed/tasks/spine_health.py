"""Spine health from video: body landmarks as one sequence, an index (paper 000)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxmed import losses, metrics, transforms
from jaxmed.data import movements, ratings
from jaxmed.data.phantoms import walkers
from jaxmed.errors import ConfigError
from jaxmed.models.motion_index import MotionIndex
from jaxmed.pose import cleaning, features, landmarks
from jaxmed.pose.skeletons import find_skeleton
from jaxmed.tasks import (
    spine_baselines,
    spine_findings,
    spine_intervals,
    spine_live,
    spine_reading,
    spine_sections,
)
from jaxmed.types import Card, Page, Task, View

CARD = Card(
    title='Spine health from movement',
    about='Landmarks of a body that does an exercise become an index, 0 best and 1 '
          'worst, as the person (or a clinician) rates it: (100 - rating) / 100. '
          'Measured on people that the model has never seen. Paper 000 reports an '
          '"accuracy" of 98.4%, without saying of what; there is nothing to compare.',
    legend='phases of the movement, left to right; left limbs and right limbs have '
           'colours of their own',
    paper={},
    paper_data='',
)
PAGE = Page(
    risk='index', verdict='red_flag', picture='overlays',
    columns={'exercise': 'Exercise', 'low': 'From', 'high': 'To',
             'frames_read_share': 'Frames read', 'person_share': 'Person seen',
             'visibility': 'Visibility'},
)
LOSSES = {
    'mse': losses.squared_error, 'huber': losses.huber, 'gaussian': losses.gaussian,
}


def make(
    *, skeleton, exercises, unit, span, frames, stride, rate_hz, min_seconds,
    min_visibility, max_gap_s, smoothing, features_of_frames, velocities, steps,
    model, tree_share, dtype, loss, mirror, turn_deg, warp, noise, forget,
    limits_quantile, landmarker, landmark_model, landmark_sha256, landmark_mode,
    landmark_dtype, landmark_batch, max_people, cache, max_pixels, max_seconds,
    exercise, annotate, source_hz, landmark_size_hw, axis_name=None,
) -> Task:
    """Builds the task. Keywords only, no defaults: the config states them all.

    Args:
        skeleton: a name in pose.skeletons.
        exercises, unit, span, frames, stride, rate_hz, min_seconds: of
            data.movements.Cut.
        min_visibility, max_gap_s, smoothing: of pose.cleaning.clean.
        features_of_frames: `parts` of pose.features.extract.
        velocities: of pose.features.extract.
        steps: frames that the sequence model sees; 0 for all.
        model: attributes of models.pose_lstm.PoseLSTM, but dtype.
        tree_share: of the index, that boosted trees on summaries have; 0: there are
            none.
        dtype: 'float32' or 'bfloat16'.
        loss: a name in LOSSES.
        mirror, turn_deg, warp, noise, forget: of pose.features; 0 or False is off.
        limits_quantile: the model's inputs are scaled by this quantile of the training
            set, and one less it: 0 is its least and greatest values.
        landmarker: 'mediapipe' or 'jax', of pose.landmarks.make_landmarker.
        landmark_model, landmark_sha256: of a .task bundle; needed for videos only.
        landmark_mode, landmark_dtype, max_people, cache, max_pixels, max_seconds: of
            pose.landmarks.find_landmarks.
        landmark_batch: frames of a video that go to the landmarker together, at most
            256; three times as many are held decoded, and with 'jax' once more joined:
            25 MB of 1080p for each. With 'jax', mode 'video', a cache and an
            accelerator it is also how many videos of a folder are tracked side by side,
            a frame of each at a time; each has a process that decodes it.
        exercise: that files to predict show, where their names don't tell.
        annotate: whether a video comes back with skeleton and index drawn on it.
        source_hz: frames a second of landmarks without time stamps and of folders of
            frames.
        landmark_size_hw: height and width of the picture, in pixels, for files of
            landmarks that are shares of its sides; empty where there are none. Like
            source_hz it tells of what is read, and not of the model: another source
            may have others.
        axis_name: mapped axis of the devices.
    """
    layout = find_skeleton(skeleton)
    cut = movements.Cut(
        tuple(exercises), unit, span, frames, stride, float(rate_hz),
        float(min_seconds))
    movements.check_cut(cut)
    features.check_parts(features_of_frames)
    for name, value, allowed in (
        ('dtype', dtype, ('float32', 'bfloat16')), ('loss', loss, tuple(LOSSES)),
        ('smoothing', smoothing, cleaning.SMOOTHINGS),
        ('landmarker', landmarker, landmarks.KINDS),
        ('landmark_mode', landmark_mode, landmarks.MODES),
        ('landmark_dtype', landmark_dtype, ('float32', 'bfloat16')),
    ):
        if value not in allowed:
            raise ConfigError(f'task.{name}', f'{value!r} is none of {allowed}')
    for name, value, least, most in (
        ('rate_hz', rate_hz, 0.1, 1000), ('source_hz', source_hz, 0.1, 1000),
        ('min_visibility', min_visibility, 0, 1),
        ('turn_deg', turn_deg, 0, 180), ('warp', warp, 0, 0.99), ('noise', noise, 0, 1),
        ('forget', forget, 0, 1), ('max_gap_s', max_gap_s, 0, np.inf),
        ('max_seconds', max_seconds, 0, 1e7), ('max_pixels', max_pixels, 1, 2 ** 31),
        ('tree_share', tree_share, 0, 1), ('landmark_batch', landmark_batch, 1, 256),
    ):
        if not least <= value <= most:
            raise ConfigError(f'task.{name}', f'{value}: from {least} to {most}')
    if (model.get('likelihood') == 'gaussian') != (loss == 'gaussian'):
        raise ConfigError(
            'task.loss', f'{loss!r} does not go with task.model.likelihood '
            f'{model.get("likelihood")!r}')
    if not 0 <= limits_quantile < 0.5:
        raise ConfigError('task.limits_quantile', f'{limits_quantile}: [0, 0.5)')
    if not 0 <= steps <= cut.length:
        raise ConfigError('task.steps', f'{steps} of {cut.length} frames')
    size_hw = tuple(landmark_size_hw)
    if size_hw and not (len(size_hw) == 2 and all(
            isinstance(side, int) and 1 <= side < 1e5 for side in size_hw)):
        raise ConfigError(
            'task.landmark_size_hw', f'{size_hw}: height and width in pixels, or ()')
    if exercise and movements.find_exercise(exercise, cut.exercises) == '':
        raise ConfigError('task.exercise', f'{exercise!r} is none of {cut.exercises}')
    clean = partial(
        cleaning.clean, min_visibility=min_visibility, max_gap_s=max_gap_s,
        smoothing=smoothing, rate_hz=rate_hz, **SMOOTHING_OPTIONS.get(smoothing, {}))
    video = dict(
        landmarker=landmarker, model=landmark_model, sha256=landmark_sha256,
        cache=cache, max_pixels=max_pixels, mode=landmark_mode,
        max_people=max_people, batch_size=landmark_batch, dtype=landmark_dtype)
    find = partial(
        spine_reading.find_motion, skeleton=layout, source_hz=float(source_hz),
        size_hw=size_hw or None, max_seconds=max_seconds, video=video)
    find_ahead = partial(
        spine_reading.find_motions_ahead, skeleton=layout, source_hz=float(source_hz),
        max_seconds=max_seconds, video=video)
    network = MotionIndex(
        skeleton=skeleton, steps=steps, parts=tuple(features_of_frames),
        velocities=velocities,
        sequence={k: tuple(v) if isinstance(v, list) else v for k, v in model.items()},
        trees=tree_share > 0, dtype=jnp.dtype(dtype), axis_name=axis_name)
    prepare = partial(preprocess, skeleton=layout, exercises=len(cut.exercises))
    augmentations = [features.make_mirror(skeleton=layout)] * bool(mirror)
    for strength, build, option in (
        (turn_deg, features.make_turn, 'turn_deg'),
        (warp, features.make_warp, 'strength'), (noise, features.make_noise, 'noise'),
        (forget, features.make_forget, 'share'),
    ):
        if strength:
            augmentations.append(build(**{option: strength}))

    def read_motion(path):
        return clean(find(path))

    read_rated = partial(
        partial, movements.read, read_motion=read_motion, look_ahead=find_ahead,
        cut=cut)
    task = Task(
        card=CARD,
        model=network,
        example={
            'inputs': np.zeros((cut.length, len(layout.joints), 4), np.float32),
            'frame_mask': np.ones(cut.length, bool),
            'segment': np.zeros(cut.length, np.int8),
            'step_s': np.full(cut.length, 1 / rate_hz, np.float32),
            'seen': np.float32(1),
            'targets': np.zeros(1, np.float32),
        },
        sources={
            'ratings': read_rated(list_rated=ratings.read_ratings),
            'kimore': read_rated(list_rated=ratings.read_kimore),
        },
        phantoms=partial(draw, clean=clean, cut=cut, skeleton=layout),
        files=partial(movements.find_recordings, unit=unit),
        read=partial(
            spine_reading.read_recording, find=find, clean=clean, cut=cut,
            exercise=exercise),
        preprocess=prepare,
        augment=transforms.compose(*augmentations),
        loss=lambda outputs, batch: LOSSES[loss](
            outputs['sequence'], batch['targets']),
        probabilities=partial(
            probabilities, gaussian=loss == 'gaussian', tree_share=tree_share),
        views=(transforms.IDENTITY, View(
            partial(features.mirror, skeleton=layout), lambda answer: answer)),
        rows=rows,
        cases=cases,
        scores={'error': False},
        metrics={
            'mae': metrics.mae, 'rmse': metrics.rmse, 'spearman': metrics.spearman,
            'r2': metrics.r2, 'within_0.05': metrics.within_005,
            'within_0.1': metrics.within_010, 'flag_auc': metrics.flag_auc,
            'flag_sensitivity': metrics.flag_sensitivity,
            'flag_specificity': metrics.flag_specificity,
        },
        lower_is_better=('mae', 'rmse'),
        baselines={},
        render=partial(spine_findings.render, skeleton=layout, cut=cut),
        infer=infer,
        findings=None,  # of the calibration
        begin=partial(
            begin, model=network, prepare=prepare, quantile=limits_quantile,
            grow=partial(
                spine_baselines.grow, prepare=prepare, skeleton=layout)),
        fit_baselines=partial(
            spine_baselines.fit, prepare=prepare, skeleton=layout),
        calibrate=lambda rows: spine_intervals.calibrate(cases(rows), rows),
        sections=spine_sections.sections,
        reading=dict(
            cut._asdict(), skeleton=skeleton, min_visibility=min_visibility,
            max_gap_s=max_gap_s, smoothing=smoothing, source_hz=source_hz,
            landmark_size_hw=size_hw),
        of_source=('source_hz', 'landmark_size_hw'),
        page=PAGE,
        look_ahead=partial(
            spine_reading.look_ahead, cut=cut, find_ahead=find_ahead),
    )

    def with_interval(values):
        return task._replace(findings=partial(
            spine_findings.findings, interval=values, skeleton=layout, cut=cut,
            annotate=annotate, source_hz=float(source_hz), max_pixels=max_pixels,
            max_seconds=max_seconds, min_visibility=min_visibility),
            live=partial(
                spine_live.make_parts, interval=values, skeleton=layout, cut=cut,
                segment=movements.number_of(exercise, cut.exercises), clean=clean,
                max_pixels=max_pixels, rate_hz=rate_hz, source_hz=float(source_hz),
                max_gap_s=max_gap_s, min_visibility=min_visibility,
                landmarker=dict(
                    kind=landmarker, model=landmark_model, sha256=landmark_sha256,
                    mode='video', max_people=max_people, dtype=landmark_dtype)))

    return with_interval(None)._replace(
        calibrated=lambda values: with_interval(spine_intervals.check(values)),
        together=lambda several: with_interval(spine_intervals.join(several)))


SMOOTHING_OPTIONS = {
    # Lively enough for a jump: 0.1 s of lag at rest, less in motion.
    'one_euro': {'one_euro': cleaning.OneEuro(1.5, 2.0, 1.0)},
    'savgol': {'savgol': cleaning.Savgol(0.3, 2)},
}


def draw(*, count, seed, clean, cut, skeleton):
    """Records of drawn people: count recordings, three exercises of each person.

    Raises:
        ConfigError: phantoms have another skeleton.
    """
    if skeleton.name != 'blazepose':
        raise ConfigError(
            'data.phantoms', f'drawn people are blazepose, not {skeleton.name}')
    each = len(cut.exercises)
    people = walkers.subjects(
        count=-(-count // each), seed=seed,
        exercises=tuple(name.replace(' ', '_') for name in cut.exercises))
    parts = []
    for number, walk in enumerate(people):
        parts.append((walk.exercise, clean(walk.motion)))
        if cut.unit == 'subject' and (number + 1) % each:
            continue
        case_id = f'{walk.subject}/{walk.exercise}' if len(parts) == 1 else walk.subject
        record = movements.cut_record(
            parts, cut=cut, case_id=case_id, subject=walk.subject, where='phantom')
        parts = []
        yield from movements.split_windows(record, rating=walk.rating, group='')


def preprocess(batch, *, skeleton, exercises):
    """Windows [B, T, J, 4] -> 'inputs', a movement (pose.features)."""
    return batch | {'inputs': features.normalise(
        batch['inputs'], batch['frame_mask'], batch['segment'], batch['step_s'],
        skeleton=skeleton, exercises=exercises)}


def begin(source, variables, *, model, prepare, quantile, grow):
    """The variables with the training set's limits: paper 000's min-max scaling.

    And with trees that are grown, where the model has them.

    Args:
        source: random access to the training records.
        variables: fresh ones.
        model: MotionIndex.
        prepare: preprocess of the task.
        quantile: 0 for the least and greatest values of all records; others are those
            of up to 1024 of them, evenly chosen.
        grow: source -> variables of models.boosted_trees.
    """
    @jax.jit
    def look(batch):
        inputs = model.look(prepare(batch)['inputs'])
        return inputs['features'], inputs['mask']

    def values_of(place):
        record = source[int(place)]
        values, mask = look({
            name: np.asarray(record[name])[None]
            for name in ('inputs', 'frame_mask', 'segment', 'step_s')})
        return np.asarray(values[0])[np.asarray(mask[0]) > 0]

    if quantile:
        count = min(len(source), 1024)  # little enough to hold
        places = np.unique(np.linspace(0, len(source) - 1, count, dtype=int))
        low, high = np.quantile(
            np.concatenate([values_of(place) for place in places]),
            [quantile, 1 - quantile], axis=0)
    else:
        low, high = np.inf, -np.inf
        for place in range(len(source)):
            values = values_of(place)
            low = np.minimum(low, values.min(axis=0))
            high = np.maximum(high, values.max(axis=0))
    # What never changes says nothing: limits that are equal make it 0.
    high = np.where(high - low > 1e-6, high, low)
    limits = {'low': low.astype(np.float32), 'high': high.astype(np.float32)}
    variables = variables | {'limits': {'sequence': limits}}
    if model.trees:
        variables['trees'] = {'summaries': grow(source)}
    return variables


def probabilities(outputs, *, gaussian, tree_share):
    """Outputs of MotionIndex -> index [B] in [0, 1] and its spread [B].

    The index is the mean of the sequence model's and the trees', by their shares. The
    spread, with Gaussians, is the deviation that the sequence model expects of its own,
    for spine_intervals to make an interval of; else 0: unknown.
    """
    sequence = outputs['sequence']
    index = jnp.clip(sequence[..., 0], 0.0, 1.0)
    spread = jnp.exp(sequence[..., 1]) if gaussian else jnp.zeros_like(index)
    if tree_share:
        trees = jnp.clip(outputs['trees'], 0.0, 1.0)
        index = (1 - tree_share) * index + tree_share * trees
    return {'index': index, 'spread': spread}


def rows(answer, batch):
    """Of a window: index, spread and truth [B], and the share of joints seen."""
    return {
        'index': answer['index'], 'spread': answer['spread'],
        'truth': batch['targets'][:, 0], 'seen': batch['seen'],
    }


def cases(rows):
    """One row a case: the mean over its windows."""
    _, first, of = np.unique(rows['case_id'], return_index=True, return_inverse=True)
    counts = np.bincount(of)
    means = {
        name: np.bincount(of, np.asarray(rows[name], float)) / counts
        for name in ('index', 'spread', 'truth', 'seen')}
    texts = {name: column[first] for name, column in rows.items()
             if column.dtype.kind == 'U' and name != 'example_id'}
    return texts | means | {
        'windows': counts, 'error': np.abs(means['index'] - means['truth'])}


def infer(apply, record, *, batch_size):
    """Answers for the windows of a record, index and spread [W]."""
    names = ('inputs', 'frame_mask', 'segment', 'step_s')
    count, parts = len(record['inputs']), []
    for start in range(0, count, batch_size):
        # Two sizes are compiled for: one window, and a whole batch.
        size = 1 if count == 1 else batch_size
        places = np.minimum(np.arange(start, start + size), count - 1)
        answer = apply({name: record[name][places] for name in names})
        parts.append(jax.tree.map(np.asarray, answer))
    return jax.tree.map(lambda *columns: np.concatenate(columns)[:count], *parts)
