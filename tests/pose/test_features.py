import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmed.errors import ConfigError
from jaxmed.pose import features
from jaxmed.pose.skeletons import BLAZEPOSE, KINECT

ALL = features.PARTS


def make_raw(seed=0, size=2, frames=12, skeleton=KINECT):
    rng = np.random.default_rng(seed)
    joints = rng.normal(size=(size, frames, len(skeleton.joints), 3))
    hips, shoulders = list(skeleton.hips), list(skeleton.shoulders)
    joints[:, :, shoulders] += joints[:, :, hips] - [0, 5, 0]
    inputs = np.concatenate([joints, np.ones_like(joints[..., :1])], axis=-1)
    return dict(
        inputs=jnp.array(inputs, jnp.float32),
        frame_mask=jnp.ones((size, frames), bool),
        segment=jnp.zeros((size, frames), jnp.int8),
        step_s=jnp.full((size, frames), 0.1, jnp.float32))


def follow(*recordings):
    """Those of one person, each of an exercise of its own, as one."""
    numbered = [raw | {'segment': raw['segment'] + number}
                for number, raw in enumerate(recordings)]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *numbered)


def pad(raw, count):
    """Movements with so many frames of padding, as records have it."""
    def fill(x, value):
        widths = [(0, 0), (0, count)] + [(0, 0)] * (x.ndim - 2)
        return jnp.pad(x, widths, constant_values=value)

    return {name: fill(raw[name], value) for name, value in dict(
        inputs=jnp.nan, frame_mask=False, segment=2, step_s=0.0).items()}


def normalise(raw, skeleton=KINECT, exercises=2):
    return features.normalise(**raw, skeleton=skeleton, exercises=exercises)


def extract(movement, skeleton=KINECT, parts=ALL, velocities=True):
    return features.extract(
        movement, parts=parts, velocities=velocities, skeleton=skeleton)


def assert_same(one, other, tolerance=2e-5):
    for name in one:
        np.testing.assert_allclose(
            one[name], other[name], atol=tolerance, err_msg=name)


def test_moving_and_enlarging_the_picture_changes_nothing():
    raw = make_raw()
    moved = raw['inputs'].at[..., :3].multiply(7.0).at[..., :3].add(
        jnp.array([300.0, -20.0, 5.0]))
    assert_same(normalise(raw), normalise(raw | {'inputs': moved}), 1e-4)


def test_positions_are_in_torso_lengths_from_the_hips():
    joints = np.zeros((1, 3, 25, 4), np.float32)
    joints[..., :3] = 100.0
    joints[0, :, list(KINECT.shoulders), 1] -= 50.0  # above the hips: y goes down
    joints[0, :, 3, 1] -= 75.0
    joints[0, 2, :, 0] += 10.0  # all of the body, in the last frame
    movement = normalise(make_raw(size=1, frames=3) | {'inputs': jnp.array(joints)})
    np.testing.assert_allclose(movement['joints'][0, :, 3], [[0, -1.5, 0]] * 3)
    np.testing.assert_allclose(
        movement['root'][0, :, 0], np.array([-10, -10, 20]) / 150, atol=1e-6)


def test_each_exercise_has_its_own_middle_and_scale():
    one, other = make_raw(1, size=1), make_raw(2, size=1)
    far = other['inputs'].at[..., :3].multiply(0.2).at[..., :3].add(1000.0)
    together = normalise(follow(one, other | {'inputs': far}))
    for start, alone in ((0, one), (12, other)):
        part = slice(start, start + 12)
        for name in ('joints', 'root'):
            np.testing.assert_allclose(
                together[name][:, part], normalise(alone)[name], atol=2e-3)
    change = extract(together, parts=('root',))[0, 12, 3:]
    np.testing.assert_array_equal(change, 0)  # nobody moved from one to the next


def test_unknown_joints_and_padding_are_nought_and_without_speed():
    raw = make_raw(frames=6)
    raw['inputs'] = raw['inputs'].at[:, 2, 5, :3].set(jnp.nan)
    raw['frame_mask'] = raw['frame_mask'].at[:, 4:].set(False)
    raw['segment'] = raw['segment'].at[:, 4:].set(2)
    movement = normalise(raw)
    np.testing.assert_array_equal(movement['known'][:, 2, 5], 0)
    np.testing.assert_array_equal(movement['joints'][:, 2, 5], 0)
    columns = extract(movement, parts=('positions',))
    assert np.isfinite(columns).all()
    np.testing.assert_array_equal(columns[:, 4:], 0)
    speeds = columns[..., 75:].reshape(2, 6, 25, 3)
    np.testing.assert_array_equal(speeds[:, 2:4, 5], 0)
    assert (np.abs(speeds[:, 1, 5]) > 0).any()


def test_a_body_without_hips_anywhere_is_no_number_but_nought():
    raw = make_raw()
    raw['inputs'] = raw['inputs'].at[:, :, np.array(KINECT.hips), :3].set(jnp.nan)
    values = extract(normalise(raw))
    assert np.isfinite(values).all()


def test_angles_are_those_of_the_drawn_triangle():
    joints = jnp.array([[[[1.0, 0, 0], [0, 0, 0], [0, 2.0, 0], [-3.0, 0, 0]]]])
    places = np.array([[0, 1, 2], [0, 1, 3], [0, 1, 0], [1, 1, 2]])
    angles = features.joint_angles(joints, places=places)[0, 0]
    np.testing.assert_allclose(angles, [np.pi / 2, np.pi, 0, 0], atol=1e-6)
    slopes = jax.grad(
        lambda x: features.joint_angles(x, places=places).sum())(joints)
    assert np.isfinite(slopes).all()


def test_velocities_are_changes_a_second():
    raw = make_raw(frames=4)
    values = extract(normalise(raw), parts=('root',))
    np.testing.assert_allclose(
        values[:, 1:, 3:], np.diff(values[..., :3], axis=1) / 0.1, atol=1e-4)
    np.testing.assert_array_equal(values[:, 0, 3:], 0)


def test_each_recording_has_the_velocities_it_has_alone():
    one, other = make_raw(1), make_raw(2)
    other['step_s'] = other['step_s'] * 4
    both = normalise(pad(follow(one, other), 5))
    columns = extract(both)
    assert np.isfinite(columns).all()
    for start, alone in ((0, one), (12, other)):
        np.testing.assert_allclose(
            columns[:, start:start + 12], extract(normalise(alone)), atol=1e-3)
    np.testing.assert_array_equal(columns[:, 24:], 0)
    np.testing.assert_allclose(
        features.seconds_of(both), [12 * 0.1 + 12 * 0.4] * 2, rtol=1e-6)


def test_a_forgotten_exercise_has_its_borders_still():
    movement = normalise(follow(make_raw(1), make_raw(2)))
    keys = jax.random.split(jax.random.key(0), 2)
    forgotten = features.make_forget(share=1.0)(keys, {'inputs': movement})['inputs']
    np.testing.assert_array_equal(forgotten['segment'], 0)
    assert (np.abs(movement['root'][:, 12] - movement['root'][:, 11]) > 1e-3).any()
    np.testing.assert_array_equal(extract(forgotten), extract(movement))
    # Nor are frames of two recordings averaged.
    short = features.shorten(forgotten, steps=8)
    assert_same(short | {'segment': 0}, features.shorten(
        movement, steps=8) | {'segment': 0}, 0)


def test_an_unknown_exercise_between_others_has_borders():
    raw = follow(make_raw(1), make_raw(2))
    raw['segment'] = jnp.where(raw['segment'] == 1, 2, 0)  # of two: unknown
    velocities = extract(normalise(raw), parts=('root',))[..., 3:]
    np.testing.assert_array_equal(velocities[:, 12], 0)
    assert (np.abs(velocities[:, 13]) > 0).any()


@pytest.mark.parametrize('skeleton', [KINECT, BLAZEPOSE], ids=['kinect', 'blazepose'])
def test_a_mirrored_person_mirrored_is_the_first_one(skeleton):
    movement = normalise(make_raw(skeleton=skeleton), skeleton=skeleton)
    mirrored = features.mirror(movement, skeleton=skeleton)
    assert np.abs(mirrored['joints'] - movement['joints']).max() > 0.1
    assert_same(features.mirror(mirrored, skeleton=skeleton), movement)
    angles = extract(movement, skeleton, ('angles',), False)
    other = extract(mirrored, skeleton, ('angles',), False)
    names = list(skeleton.angles)
    swap = [names.index(
        name.replace('left', '?').replace('right', 'left').replace('?', 'right'))
        for name in names]
    np.testing.assert_allclose(angles[..., swap], other, atol=1e-5)


def test_fewer_frames_are_means_of_their_neighbours_and_last_as_long():
    raw = make_raw(frames=100)
    time = jnp.arange(100.0)
    raw['inputs'] = raw['inputs'].at[..., 0].add(time[None, :, None])
    raw['frame_mask'] = raw['frame_mask'].at[:, 60:].set(False)
    movement = normalise(raw)
    short = features.shorten(movement, steps=50)
    assert short['joints'].shape == (2, 50, 25, 3)
    assert short['step_s'].shape == (2, 50)
    np.testing.assert_allclose(short['step_s'], 0.2)
    np.testing.assert_array_equal(short['mask'].sum(axis=1), 30)
    slope = np.diff(np.asarray(short['root'][0, 5:25, 0])).mean()
    before = np.diff(np.asarray(movement['root'][0, 10:50, 0])).mean()
    assert slope == pytest.approx(2 * before, rel=0.05)
    assert features.shorten(movement, steps=100) is movement


def test_recordings_of_a_person_are_shortened_each_by_itself():
    one, other = make_raw(1, frames=40), make_raw(2, frames=40)
    other['step_s'] = other['step_s'] * 3
    together = features.shorten(normalise(pad(follow(one, other), 20)), steps=25)
    for place, raw in enumerate((one, other)):
        alone = features.shorten(normalise(raw), steps=10)
        part = slice(10 * place, 10 * place + 10)
        for name in ('joints', 'root', 'known', 'mask', 'step_s'):
            np.testing.assert_allclose(
                together[name][:, part], alone[name], atol=2e-5, err_msg=name)
    np.testing.assert_array_equal(together['mask'][:, 20:], 0)
    np.testing.assert_allclose(
        features.seconds_of(together), [40 * 0.1 + 40 * 0.3] * 2, rtol=1e-5)


@pytest.mark.parametrize('augmentation', [
    features.make_turn(turn_deg=40.0), features.make_warp(strength=0.5),
    features.make_noise(noise=0.1), features.make_forget(share=0.5),
    features.make_mirror(skeleton=KINECT),
], ids=['turn', 'warp', 'noise', 'forget', 'mirror'])
def test_augmentations_change_movements_by_their_keys_and_padding_never(augmentation):
    raw = make_raw(size=8, frames=40)
    raw['frame_mask'] = raw['frame_mask'].at[:, 30:].set(False)
    movement = normalise(raw)
    keys = jax.random.split(jax.random.key(0), 8)
    changed = augmentation(keys, {'inputs': movement})['inputs']
    again = augmentation(keys, {'inputs': movement})['inputs']
    assert_same(changed, again, 0)
    assert any(np.abs(changed[name] - movement[name]).max() > 0.05 for name in changed)
    np.testing.assert_array_equal(changed['mask'], movement['mask'])
    assert all(np.isfinite(value).all() for value in changed.values())
    np.testing.assert_array_equal(
        extract(changed)[:, 30:], 0)
    one = jax.tree.map(lambda x: x[3:4], {'inputs': movement})
    alone = augmentation(keys[3:4], one)
    assert_same(jax.tree.map(lambda x: x[3:4], changed), alone['inputs'])


def test_a_turned_camera_changes_no_angle():
    movement = normalise(make_raw())
    turned = features.make_turn(turn_deg=60.0)(
        jax.random.split(jax.random.key(1), 2), {'inputs': movement})['inputs']
    np.testing.assert_allclose(
        extract(movement, parts=('angles',), velocities=False),
        extract(turned, parts=('angles',), velocities=False), atol=1e-3)


def test_warped_time_runs_forward_and_ends_where_it_did():
    frames = 50
    movement = normalise(make_raw(size=6, frames=frames))
    movement['root'] = jnp.tile(jnp.linspace(0, 1, frames)[None, :, None], (6, 1, 3))
    warped = features.make_warp(strength=0.9)(
        jax.random.split(jax.random.key(2), 6), {'inputs': movement})['inputs']
    path = np.asarray(warped['root'][..., 0])
    assert (np.diff(path, axis=1) >= -1e-6).all()
    np.testing.assert_allclose(path[:, 0], 0, atol=1e-6)
    np.testing.assert_allclose(path[:, -1], 1, atol=1e-5)
    assert np.abs(path - np.linspace(0, 1, frames)).max() > 0.05
    assert np.ptp(np.asarray(warped['step_s'])) > 0


def test_recordings_of_a_person_are_warped_each_within_itself():
    one, other = make_raw(1, size=6), make_raw(2, size=6, frames=30)
    keys = jax.random.split(jax.random.key(2), 6)

    def warp(raw):
        return features.make_warp(strength=0.9)(
            keys, {'inputs': normalise(raw)})['inputs']

    together = warp(pad(follow(one, other), 9))
    for start, raw in ((0, one), (12, other)):
        alone, part = warp(raw), slice(start, start + len(raw['step_s'][0]))
        assert np.abs(alone['root'] - normalise(raw)['root']).max() > 0.1
        for name in ('joints', 'root', 'known', 'step_s'):
            np.testing.assert_allclose(
                together[name][:, part], alone[name], atol=1e-3, err_msg=name)
    np.testing.assert_array_equal(together['recording'][0], np.repeat(
        [0, 1, -1], [12, 30, 9]))
    # One pace for a person, by which all of it goes faster or slower.
    pace = np.asarray(together['step_s'][:, :42] / 0.1)
    np.testing.assert_allclose(pace, np.broadcast_to(pace[:, :1], pace.shape))


def test_parts_that_are_none_are_refused_by_name():
    with pytest.raises(ConfigError, match='task.features'):
        features.check_parts(('positions', 'smell'))
    with pytest.raises(ConfigError, match='task.features'):
        features.check_parts(())


def test_fewer_frames_of_half_known_joints_are_means_of_those_known():
    raw = make_raw(size=1, frames=10)
    movement = normalise(raw)
    ones = jnp.ones_like(movement['joints'])
    known = movement['known'].at[:, 3:7].set(0)
    movement |= {'joints': ones * known[..., None], 'known': known}
    short = features.shorten(movement, steps=5)
    seen = np.asarray(short['known']) > 0
    assert seen.any() and not seen.all()
    np.testing.assert_allclose(np.asarray(short['joints'])[seen], 1, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(short['joints'])[~seen], 0)
