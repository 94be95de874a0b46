"""What a network sees of a movement: on the device, free of camera and body size.

A movement on the device is a dict, the inputs of models.motion_index:
  joints   float32 [B, T, J, 3]  from the hips' middle, in torso lengths; 0 if unknown
  known    float32 [B, T, J]     1 where a joint was seen
  root     float32 [B, T, 3]     of the hips' middle, from where it is on the average
  mask     float32 [B, T]        1 for a frame, 0 for padding, which comes last
  segment  float32 [B, T, E]     which exercise a frame is of; all 0 where unknown
  recording int32 [B, T]         frames of one recording have one number, and follow
                                 each other; another on padding
  step_s   float32 [B, T]        seconds from a frame to the next of its recording
Axes as in pose.skeletons.Motion: x to the picture's right, y down, z away.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmed.errors import ConfigError

PARTS = ('positions', 'root', 'angles', 'visibility')
LEAST_TORSO = 1e-6  # of whatever unit: a body that small is no body


def normalise(inputs, frame_mask, segment, step_s, *, skeleton, exercises):
    """Centres and scales movements; moving or enlarging the picture changes nothing.

    Each segment (an exercise, of a recording of its own) has its own middle and its
    own scale: the mean distance from the hips' middle to the shoulders', in the
    picture's plane where depth is not measured.

    Args:
        inputs: float32 [B, T, J, 4], x, y, z (NaN where unknown) and visibility.
        frame_mask: bool [B, T].
        segment: int8 [B, T], the exercise in [0, exercises), or `exercises`: unknown;
            another one in each recording.
        step_s: float32 [B, T].
        skeleton: pose.skeletons.Skeleton.
        exercises: E.

    Returns:
        A movement, see above.
    """
    joints = inputs[..., :3]
    known = jnp.isfinite(joints).all(axis=-1) & frame_mask[..., None]
    joints = jnp.where(known[..., None], joints, 0.0)

    def middle(pair):
        return joints[:, :, pair].mean(axis=2), known[:, :, pair].all(axis=2)

    hips, hips_known = middle(np.array(skeleton.hips))
    shoulders, shoulders_known = middle(np.array(skeleton.shoulders))
    of = jax.nn.one_hot(segment, exercises + 1)

    def segment_mean(values, weights):
        weights = of * weights[..., None]
        total = jnp.maximum(weights.sum(axis=1), 1.0)
        means = jnp.einsum('bte,btc->bec', weights, values) / total[..., None]
        return jnp.einsum('bte,bec->btc', of, means)

    axes = 3 if skeleton.depth else 2
    torso = safe_norm((shoulders - hips)[..., :axes])[..., None]
    scale = segment_mean(torso, hips_known & shoulders_known)
    scale = jnp.where(scale > LEAST_TORSO, scale, jnp.inf)
    origin = segment_mean(hips, hips_known)
    root = jnp.where(hips_known[..., None], (hips - origin) / scale, 0.0)
    # Where the hips are not seen, the body is where it is on the average.
    centre = jnp.where(hips_known[..., None], hips, origin)[:, :, None]
    joints = jnp.where(
        known[..., None], (joints - centre) / scale[:, :, None], 0.0)
    return {
        'joints': joints, 'known': known.astype(jnp.float32), 'root': root,
        'mask': frame_mask.astype(jnp.float32), 'segment': of[..., :exercises],
        # Known by themselves: which exercise it is may be forgotten, see make_forget.
        'recording': jnp.where(frame_mask, segment, -1).astype(jnp.int32),
        'step_s': step_s,
    }


def seconds_of(movement):
    """How long movements last, [B]: of several recordings, together."""
    return (movement['mask'] * movement['step_s']).sum(axis=1)


def shorten(movement, *, steps):
    """Fewer frames, each the mean of its neighbours: the paper's 500 or 100.

    Of joints that are unknown in some of them, of the others; of frames of one
    recording only. Padding stays padding, and so does the duration.
    """
    frames = movement['mask'].shape[1]
    if steps == frames:
        return movement
    nearest = (2 * np.arange(steps) + 1) * frames // (2 * steps)
    picked = {name: movement[name][:, nearest]
              for name in ('mask', 'segment', 'recording', 'step_s')}
    # [B, steps, T], each row adding up to 1.
    weights = jax.image.resize(jnp.eye(frames), (steps, frames), 'linear') * (
        picked['recording'][..., None] == movement['recording'][:, None])
    weights = weights / weights.sum(axis=-1, keepdims=True)

    def resize(x):
        return jnp.einsum(
            'bst,bt...->bs...', weights, x, precision=jax.lax.Precision.HIGHEST)

    share = resize(movement['known'])
    known = (share > 0.501).astype(jnp.float32)  # no rounding error decides a tie
    return picked | {
        # What is unknown is 0 already.
        'joints': resize(movement['joints']) * (
            known / jnp.maximum(share, 1e-6))[..., None],
        'root': resize(movement['root']), 'known': known,
        'step_s': picked['step_s'] * frames / steps,
    }


def check_parts(parts):
    """Raises ConfigError where parts are none that `extract` knows."""
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise ConfigError('task.features', f'{parts!r}: one or more of {PARTS}')


def extract(movement, *, parts, velocities, skeleton):
    """A movement -> what is true of each frame, and how fast it changes.

    Args:
        movement: see above.
        parts: of PARTS: 'positions' (torso lengths), 'root' (torso lengths), 'angles'
            (radians, skeleton.angles), 'visibility'.
        velocities: whether the change of each of them per second follows, 0 where it
            is not known and from one recording to the next; not that of 'visibility'.

    Returns:
        float32 [B, T, F], 0 on padding.
    """
    joints, known = movement['joints'], movement['known']
    size, frames = joints.shape[:2]
    found, seen = [], []
    if 'positions' in parts:
        found.append(joints.reshape(size, frames, -1))
        seen.append(jnp.repeat(known, 3, axis=-1))
    if 'root' in parts:
        hips = known[:, :, np.array(skeleton.hips)].prod(axis=-1, keepdims=True)
        found.append(movement['root'])
        seen.append(jnp.repeat(hips, 3, axis=-1))
    if 'angles' in parts:
        places = np.array(list(skeleton.angles.values()))
        found.append(joint_angles(joints, places=places))
        seen.append(known[:, :, places].prod(axis=-1))
    values = jnp.concatenate(found, axis=-1) if found else jnp.zeros((size, frames, 0))
    seen = jnp.concatenate(seen, axis=-1) if seen else values
    values = values * seen
    columns = [values]
    if velocities:
        same = movement['recording'][:, 1:] == movement['recording'][:, :-1]
        both = seen[:, 1:] * seen[:, :-1] * same[..., None]
        change = (values[:, 1:] - values[:, :-1]) * both
        step_s = jnp.where(movement['mask'] > 0, movement['step_s'], 1.0)
        change = change / step_s[:, 1:, None]
        columns.append(jnp.pad(change, [(0, 0), (1, 0), (0, 0)]))
    if 'visibility' in parts:
        columns.append(known)
    return jnp.concatenate(columns, axis=-1) * movement['mask'][..., None]


def joint_angles(joints, *, places):
    """Angles at joints, [B, T, A] in [0, pi]; 0 with gradient 0 where ends coincide.

    Args:
        joints: [B, T, J, 3].
        places: int [A, 3], end, vertex and end of each angle.
    """
    first, vertex, second = (joints[:, :, places[:, i]] for i in range(3))
    one, other = first - vertex, second - vertex
    return jnp.arctan2(
        safe_norm(jnp.cross(one, other)), jnp.sum(one * other, axis=-1) + 1e-12)


def safe_norm(x):
    """Length along the last axis, with gradient 0 where it is 0."""
    squares = jnp.sum(x * x, axis=-1)
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1.0)), 0.0)


def mirror(movement, *, skeleton):
    """The same movement by a person whose left is our right."""
    other = np.array(skeleton.mirror)
    flip = jnp.array([-1.0, 1.0, 1.0])
    return movement | {
        'joints': movement['joints'][:, :, other] * flip,
        'known': movement['known'][:, :, other], 'root': movement['root'] * flip,
    }


# Augmentations, (keys [B], batch) -> batch, of batches whose 'inputs' is a movement.

def _each(change):
    def augment(keys, batch):
        return batch | {'inputs': jax.vmap(change)(keys, batch['inputs'])}

    return augment


def make_mirror(*, skeleton):
    """Left and right change places in half of all cases."""

    def change(key, movement):
        batch = jax.tree.map(lambda x: x[None], movement)
        mirrored = jax.tree.map(lambda x: x[0], mirror(batch, skeleton=skeleton))
        flip = jax.random.bernoulli(key)
        return jax.tree.map(lambda a, b: jnp.where(flip, a, b), mirrored, movement)

    return _each(change)


def make_turn(*, turn_deg):
    """The camera walks around the person, by an angle of this standard deviation."""

    def change(key, movement):
        angle = jnp.deg2rad(turn_deg) * jax.random.normal(key)
        cosine, sine = jnp.cos(angle), jnp.sin(angle)
        matrix = jnp.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])
        return movement | {
            name: movement[name] @ matrix.T for name in ('joints', 'root')}

    return _each(change)


def make_warp(*, strength):
    """Parts of the movement go faster and others slower, and all of it does.

    Args:
        strength: in [0, 1). Frames move by three sines of up to this amplitude over
            pi (over 1, 2 and 3 half periods, each as much less), so that time never
            runs backwards, and the pace of all is multiplied by exp(strength / 2 * n),
            n normal. Recordings of one person are warped alike, each within itself.
    """

    def change(key, movement):
        shape, pace = jax.random.split(key)
        number = jnp.arange(1.0, 4.0)
        amplitude = strength * jax.random.uniform(shape, (3,), minval=-1.0) / (
            3 * number * jnp.pi)
        frames = movement['mask'].shape[0]
        # Neither padding nor another recording must come in.
        first, last = _ends(movement['recording'])
        count = jnp.maximum(last - first, 1).astype(jnp.float32)
        time = (jnp.arange(frames) - first) / count
        moved = time + jnp.sin(jnp.pi * time[:, None] * number) @ amplitude
        place = first + jnp.clip(moved * count, 0, last - first)
        low = jnp.clip(jnp.floor(place).astype(jnp.int32), 0, frames - 2)
        share = place - low

        def sample(x):
            weight = share.reshape(-1, *[1] * (x.ndim - 1))
            return x[low] * (1 - weight) + x[low + 1] * weight

        # The frame after the last one counts for nothing where it has no share.
        known = jnp.minimum(movement['known'][low], jnp.where(
            share[:, None] > 0, movement['known'][low + 1], 1.0))
        speed = jnp.exp(strength / 2 * jax.random.normal(pace))
        return movement | {
            'joints': sample(movement['joints']) * known[..., None], 'known': known,
            'root': sample(movement['root']),
            'step_s': movement['step_s'] * speed,
        }

    return _each(change)


def _ends(recording):
    """The first and the last frame [T] of the recording that each frame is of."""
    frame = jnp.arange(len(recording))
    border = recording[1:] != recording[:-1]
    starts = jnp.pad(border, (1, 0), constant_values=True)
    stops = jnp.pad(border, (0, 1), constant_values=True)
    return (jax.lax.cummax(jnp.where(starts, frame, 0)),
            jax.lax.cummin(jnp.where(stops, frame, len(recording)), reverse=True))


def make_noise(*, noise):
    """Jitter of each joint in each frame, of this standard deviation (torso lengths).
    """

    def change(key, movement):
        jitter = noise * jax.random.normal(key, movement['joints'].shape)
        return movement | {
            'joints': movement['joints'] + jitter * movement['known'][..., None]}

    return _each(change)


def make_forget(*, share):
    """Some movements don't tell which exercise they are: a file may not, either.

    Where a recording ends and the next begins stays known.
    """

    def change(key, movement):
        keep = 1.0 - jax.random.bernoulli(key, share)
        return movement | {'segment': movement['segment'] * keep}

    return _each(change)
