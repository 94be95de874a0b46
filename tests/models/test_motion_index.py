"""A movement to its index: what the sequence model is given, and what it is told."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmed.errors import ConfigError
from jaxmed.models.motion_index import USUAL_S, MotionIndex
from jaxmed.models.pose_lstm import PoseLSTM
from jaxmed.pose import features
from jaxmed.pose.skeletons import BLAZEPOSE, KINECT, find_skeleton
from jaxmed.pose.summaries import summarise
from tests.models.trees import computed

SEQUENCE = dict(
    embedding=5, cell='lstm', hidden=4, layers=1, bidirectional=False, convolutions=0,
    width=3, stride=1, norm='none', pooling='last', dense=3, dropout=0.0,
    embedding_dropout=0.0, recurrent_dropout=0.0, slope=0.5, likelihood='point',
    first_index=0.3, residual=True,
)
FRAMES, EXERCISES = 16, 3


def make_model(*, steps=0, parts=('positions',), velocities=False, skeleton='blazepose',
               trees=False, **sequence):
    return MotionIndex(
        skeleton=skeleton, steps=steps, parts=parts, velocities=velocities,
        sequence=SEQUENCE | sequence, trees=trees, dtype=jnp.float32,
        axis_name=None)


def make_movement(*, lengths=(FRAMES, 10), skeleton=BLAZEPOSE, step_s=0.1, seed=0):
    """Raw windows through pose.features, as the task does it."""
    rng = np.random.default_rng(seed)
    joints = rng.normal(size=(len(lengths), FRAMES, len(skeleton.joints), 3))
    inputs = np.concatenate([joints, np.ones_like(joints[..., :1])], axis=-1)
    mask = np.arange(FRAMES) < np.array(lengths)[:, None]
    inputs[~mask] = np.nan
    return normalise(
        inputs.astype(np.float32), mask, np.where(mask, 1, EXERCISES).astype(np.int8),
        np.where(mask, step_s, 0).astype(np.float32), skeleton=skeleton.name)


@functools.partial(jax.jit, static_argnames='skeleton')
def normalise(*raw, skeleton):
    return features.normalise(
        *raw, skeleton=find_skeleton(skeleton), exercises=EXERCISES)


def begin(model, movement):
    return computed(lambda: model.init(jax.random.key(0), movement, train=False))


def apply(model, variables, movement):
    return computed(lambda *of: model.apply(*of, train=False), variables, movement)


def look(model, movement):
    return computed(model.look, movement)


def shapes_of(model, movement):
    return jax.eval_shape(
        lambda: model.init(jax.random.key(0), movement, train=False))


@pytest.mark.parametrize('parts, velocities, count', [
    (('positions',), False, 33 * 3),
    (('positions',), True, 2 * 33 * 3),
    (('positions', 'root', 'angles'), True, 2 * (33 * 3 + 3 + len(BLAZEPOSE.angles))),
    # Visibilities have no speed.
    (('angles', 'visibility'), True, 2 * len(BLAZEPOSE.angles) + 33),
])
def test_a_frame_has_the_features_that_are_asked_for(parts, velocities, count):
    model, movement = make_model(parts=parts, velocities=velocities), make_movement()
    inputs = jax.eval_shape(model.look, movement)
    assert inputs['features'].shape == (2, FRAMES, count)
    variables = shapes_of(model, movement)
    assert variables['limits']['sequence']['low'].shape == (count,)
    # The embedding also takes the exercises and the duration.
    kernel = variables['params']['sequence']['embedding']['kernel']
    assert kernel.shape == (count + EXERCISES + 1, SEQUENCE['embedding'])


def test_the_papers_network_on_blazepose_has_its_parameters():
    model = make_model(embedding=193, hidden=193, dense=193)
    variables = shapes_of(model, make_movement())
    count = sum(leaf.size for leaf in jax.tree.leaves(variables['params']))
    features_and_context, context = 99 + EXERCISES + 1, EXERCISES + 1
    assert count == (
        193 * (features_and_context + 1) + 4 * 193 * (193 + 193 + 1)
        + 193 * (193 + context + 1) + 193 + 1)


def test_the_context_is_the_exercise_and_the_duration_in_the_papers_five_seconds():
    context = look(make_model(), make_movement())['context']
    np.testing.assert_array_equal(context[:, :EXERCISES], [[0, 1, 0]] * 2)
    np.testing.assert_allclose(
        context[:, EXERCISES], np.log([1.6 / USUAL_S, 1.0 / USUAL_S]), rtol=1e-5)
    # Of 5 s it is 0; of nothing it is not infinite.
    context = look(make_model(), make_movement(lengths=(10, 0), step_s=0.5))['context']
    np.testing.assert_allclose(
        context[:, EXERCISES], [0, math.log(0.1 / USUAL_S)], atol=1e-6)


def test_the_duration_of_a_person_is_that_of_the_recordings_together():
    movement = make_movement(lengths=(FRAMES,))
    movement['step_s'] = jnp.where(jnp.arange(FRAMES) < 6, 0.1, 0.25)[None]
    context = look(make_model(), movement)['context']
    np.testing.assert_allclose(
        context[0, EXERCISES], np.log((6 * 0.1 + 10 * 0.25) / USUAL_S), rtol=1e-5)


def test_fewer_steps_last_as_long_as_all_frames_did():
    movement = make_movement()
    whole, short = (look(make_model(steps=steps), movement) for steps in (0, 8))
    assert short['features'].shape == (2, 8, 99) and short['mask'].shape == (2, 8)
    np.testing.assert_array_equal(short['mask'].sum(axis=1), [8, 5])
    np.testing.assert_allclose(short['context'], whole['context'], atol=1e-6)


def test_it_is_the_sequence_model_of_its_features():
    model, movement = make_model(velocities=True), make_movement()
    variables = begin(model, movement)
    inside = {name: tree['sequence'] for name, tree in variables.items()}
    expected = apply(PoseLSTM(**SEQUENCE, dtype=jnp.float32, axis_name=None),
                     inside, look(model, movement))
    found = apply(model, variables, movement)
    assert found.keys() == {'sequence'}
    assert found['sequence'].shape == (2, 1)
    assert found['sequence'].dtype == jnp.float32
    np.testing.assert_allclose(found['sequence'], expected, atol=1e-6)


def test_trees_read_the_summaries_of_all_frames():
    model, movement = make_model(trees=True, steps=8), make_movement()
    variables = begin(model, movement)
    seen = computed(
        lambda: summarise(movement, skeleton=BLAZEPOSE))
    # Every tree asks for the last column, the log of the seconds, at its root.
    grown = jax.tree.map(np.zeros_like, variables['trees']['summaries'])
    grown['column'][:] = seen.shape[1] - 1
    grown['threshold'][:] = seen[:, -1].mean()
    grown['value'][0, 0], grown['value'][0, -1] = 0.25, 0.75
    grown['base'] = np.float32(0.125)
    grown = variables | {'trees': {'summaries': grown}}
    found = apply(model, grown, movement)
    # The first movement lasts longer.
    np.testing.assert_allclose(found['trees'], [0.875, 0.375])
    np.testing.assert_array_equal(
        found['sequence'], apply(make_model(steps=8), variables, movement)['sequence'])


def test_a_likelihood_has_a_second_output():
    model, movement = make_model(likelihood='gaussian'), make_movement()
    outputs, _ = jax.eval_shape(lambda: model.init_with_output(
        jax.random.key(0), movement, train=False))
    assert outputs['sequence'].shape == (2, 2)


def test_padding_and_the_neighbours_in_a_batch_change_no_index():
    model = make_model(
        parts=features.PARTS, velocities=True, bidirectional=True, pooling='mean_max')
    movement = make_movement()
    variables = begin(model, movement)
    both = apply(model, variables, movement)
    alone = jax.tree.map(lambda leaf: leaf[1:, :12] if leaf.ndim > 1 else leaf[1:],
                         movement)  # with 2 fillers in place of 6
    np.testing.assert_allclose(
        apply(model, variables, alone)['sequence'][0], both['sequence'][1], atol=1e-6)
    strange = movement | {'joints': jnp.where(
        movement['mask'][..., None, None] > 0, movement['joints'], jnp.nan)}
    np.testing.assert_array_equal(
        apply(model, variables, strange)['sequence'], both['sequence'])


def test_limits_are_used_and_not_changed_by_training():
    model, movement = make_model(dropout=0.5), make_movement()
    variables = begin(model, movement)
    limits = {'low': jnp.full(99, -3.0), 'high': jnp.full(99, 3.0)}
    scaled = variables | {'limits': {'sequence': limits}}
    assert np.any(apply(model, variables, movement)['sequence']
                  != apply(model, scaled, movement)['sequence'])
    _, state = computed(lambda variables: model.apply(
        variables, movement, train=True, mutable=['limits'],
        rngs={'dropout': jax.random.key(1)}), scaled)
    jax.tree.map(
        np.testing.assert_array_equal, state['limits'], scaled['limits'])


def test_a_skeleton_has_the_joints_it_has():
    model = make_model(skeleton='kinect', parts=('positions', 'angles'))
    inputs = jax.eval_shape(model.look, make_movement(skeleton=KINECT))
    assert inputs['features'].shape[-1] == 25 * 3 + len(KINECT.angles)
    with pytest.raises(ConfigError, match="skeleton: 'octopus'"):
        shapes_of(make_model(skeleton='octopus'), make_movement())
