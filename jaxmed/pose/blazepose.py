"""BlazePose in JAX: batches of frames to 33 landmarks of one person each.

What MediaPipe's PoseLandmarker does one frame at a time on a CPU, in arithmetic that is
compiled for whatever device there is: a detector finds people in the whole frame; a
square about one of them, turned so that the person stands upright, goes to the landmark
network; from two of its auxiliary landmarks follows the square in the next frame.

Numbers without a source below are those of MediaPipe's graphs
(mediapipe/tasks/cc/vision/pose_detector and pose_landmarker).

All frames of a call have one size; there is one compilation for each size and each
power of two of frames.
"""

from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmed.errors import InputError
from jaxmed.models.blazepose import open_bundle

JOINTS = 33

_STRIDES = (8, 16, 32, 32, 32)
_DETECTOR_SIZE, _LANDMARKS_SIZE = 224, 256
_MIN_SCORE, _MIN_OVERLAP, _MIN_PRESENCE = 0.5, 0.5, 0.5
_MAX_LOGIT = 100.0
_MAX_PEOPLE = 16  # further ones aren't counted
_MARGIN = 1.25  # of the square about the circle that the detector sees
_CENTRE, _TOP = 33, 34  # auxiliary landmarks: the hips' middle, a point on that circle
_MAP_REACH, _MIN_MAP = 3, 0.5

# Lowest cutoff in Hz, and Hz more for a body's size a second.
_JOINTS_FILTER, _WORLD_FILTER = (0.05, 80.0), (0.1, 40.0)
_SPEED_CUTOFF_HZ = 1.0
_VISIBILITY_SHARE = 0.1  # of the new frame

# Longer calls are cut, so that few shapes are compiled and memory has an end: 256
# frames of 1080p are 1.6 GB, and what is computed of them at once about twice that.
_MAX_BATCH = 256


class Regions(NamedTuple):
    """Squares in frames, in pixels; x to the right, y down."""

    centre: jax.Array  # [B, 2] x, y
    size: jax.Array  # [B], the side
    angle: jax.Array  # [B], radians clockwise from the picture's upright


class People(NamedTuple):
    """What the detector sees."""

    present: jax.Array  # [B] bool
    region: Regions  # of the one chosen; where nobody is present it means nothing
    score: jax.Array  # [B] of that one, in [0, 1]
    people: jax.Array  # [B] int32, how many, at most 16


class Smoothed(NamedTuple):
    """Where a one-euro filter stands, for any shape."""

    raw: jax.Array  # the last value
    value: jax.Array  # the last value, smoothed
    speed: jax.Array  # a second, smoothed, in units of the body's size


class Tracks(NamedTuple):
    """Where each video's person will be looked for, and how they moved."""

    tracked: jax.Array  # [B] bool
    region: Regions
    joints: Smoothed  # [B, 33, 3] each
    world: Smoothed  # [B, 33, 3] each
    visibility: jax.Array  # [B, 33]


class BlazePose(NamedTuple):
    """Compiled functions of frames, uint8 [B, H, W, 3] RGB; see `load`.

    Landmarks are a dict of
        present: [B] bool.
        joints: [B, 33, 3] pixels of the frame, z in the scale of x and 0 at the hips.
        visibility: [B, 33] in [0, 1].
        world: [B, 33, 3] metres about the hips' middle.
        people: [B] int32, how many the detector saw; where it did not look, 1 or 0.
    Where nobody is present, joints and world are NaN and visibility 0.
    """

    detect: Callable[[Any], People]
    landmarks: Callable[..., dict]  # (frames, regions) -> landmarks
    image: Callable[[Any], dict]  # frames -> landmarks, each frame by itself
    # (a frame of each of B videos, Tracks) -> (landmarks, Tracks). With step_s=[B],
    # seconds since the frame before, landmarks are smoothed as MediaPipe's of videos.
    # A tuple of B frames [H, W, 3] will do, so that nobody need join them on the host.
    track: Callable[..., tuple[dict, Tracks]]
    # (frames of one video in order, Tracks of one) -> the same; step_s is one a frame.
    follow: Callable[..., tuple[dict, Tracks]]
    sha256: str

    @staticmethod
    def first_tracks(videos):
        """Tracks before the first frame: nobody is followed yet."""
        def zeros(*shape):
            return np.zeros((videos, *shape), np.float32)

        still = Smoothed(*[zeros(JOINTS, 3)] * 3)
        return Tracks(
            np.zeros(videos, bool), Regions(zeros(2), zeros(), zeros()), still, still,
            zeros(JOINTS))


def load(path, *, sha256, dtype):
    """Reads a bundle and makes the functions.

    Args:
        path: a .task file of MediaPipe's PoseLandmarker: lite, full or heavy.
        sha256: what its SHA-256 must be, in hexadecimal; '' accepts any.
        dtype: what networks multiply in, jnp.float32 or jnp.bfloat16.

    Returns:
        BlazePose. Among several people it takes the largest, by size times score.

    Raises:
        InputError: as of `open_bundle`.
    """
    networks = open_bundle(path, sha256=sha256)
    params = jax.device_put(networks.params)

    def detect(params, frames):
        inputs = letterbox(frames, _DETECTOR_SIZE) / 127.5 - 1
        boxes, logits = _by_frame(
            lambda x: networks.detector.apply(params['detector'], x, dtype=dtype),
            inputs)
        return find_people(boxes, logits[..., 0], frames.shape[1:3])

    def landmarks(params, frames, regions):
        inputs = crop(frames, regions, _LANDMARKS_SIZE) / 255

        def find(x):
            raw, presence, _, maps, world = networks.landmarks.apply(
                params['landmarks'], x, dtype=dtype)
            return raw, presence, maps, world  # nothing of the mask is computed

        raw, presence, maps, world = _by_frame(find, inputs)
        return place_landmarks(raw, presence[..., 0], maps, world, regions)

    def image(params, frames):
        seen = detect(params, frames)
        found, _ = landmarks(params, frames, seen.region)
        return _mask(found, seen.present, seen.people)

    def track(params, frames, tracks, step_s):
        def look():
            seen = detect(params, frames)
            region = jax.tree.map(
                lambda old, new: _where(tracks.tracked, old, new),
                tracks.region, seen.region)
            return tracks.tracked | seen.present, region, seen.people

        def go_on():
            return tracks.tracked, tracks.region, tracks.tracked.astype(jnp.int32)

        present, region, people = lax.cond(jnp.all(tracks.tracked), go_on, look)
        found, following = landmarks(params, frames, region)
        found = _mask(found, present, people)
        tracks = tracks._replace(region=following)
        if step_s is not None:
            return smooth(found, tracks, step_s)
        return found, tracks._replace(tracked=found['present'])

    def follow(params, frames, tracks, step_s, count):
        def step(number, state):
            every, tracks = state
            steps = None if step_s is None else step_s[number][None]
            found, tracks = track(params, frames[number][None], tracks, steps)
            return jax.tree.map(
                lambda x, one: x.at[number].set(one[0]), every, found), tracks

        found, _ = jax.eval_shape(
            track, params, frames[:1], tracks, None if step_s is None else step_s[:1])
        empty = jax.tree.map(
            lambda x: jnp.zeros((len(frames), *x.shape[1:]), x.dtype), found)
        # Frames beyond `count` only fill the block.
        return lax.fori_loop(0, count, step, (empty, tracks))

    return BlazePose(
        _in_batches(detect, params),
        _in_batches(lambda *args: landmarks(*args)[0], params),
        _in_batches(image, params),
        _side_by_side(track, params),
        _in_blocks(follow, params),
        networks.sha256,
    )


def letterbox(frames, size):
    """Scales whole frames into squares, with black at both sides of the shorter way.

    Pixel u of the square is the frame's at u * scale, without half a pixel's shift, and
    between pixels linearly; nothing is averaged where a frame is much larger. Rounded,
    as MediaPipe's pictures are: landmarks differ from its by half as much then.

    Args:
        frames: uint8 [B, H, W, 3].
        size: pixels of the square's side.

    Returns:
        [B, size, size, 3] float32 in 0..255.
    """
    side = max(frames.shape[1:3])

    def resize(x, axis):
        length = x.shape[axis]
        places = (length - side) / 2 + np.arange(size) * (side / size)
        low = np.floor(places).astype(int)
        total = 0
        for near, share in ((low, 1 - (places - low)), (low + 1, places - low)):
            share = np.where((near >= 0) & (near < length), share, 0)
            share = share.astype(np.float32).reshape(-1, *[1] * (3 - axis))
            total += jnp.take(x, np.clip(near, 0, length - 1), axis=axis) * share
        return total

    return jnp.round(resize(resize(frames, 1), 2))


def crop(frames, regions, size):
    """Cuts turned squares out of frames, upright.

    Pixel u of the square is at u / size of its side, as of `letterbox`. What is beyond
    the frame is as its nearest edge.

    Args:
        frames: uint8 [B, H, W, 3].
        regions: Regions of B.
        size: pixels of the square's side.

    Returns:
        [B, size, size, 3] float32 in 0..255.
    """
    height, width = frames.shape[1:3]
    steps = (jnp.arange(size, dtype=jnp.float32) / size - 0.5) * regions.size[:, None]
    cos, sin = jnp.cos(regions.angle)[:, None], jnp.sin(regions.angle)[:, None]

    def place(middle, along, down, length):
        """[B, size, size]: the pixel before, and how far beyond it."""
        places = (middle[:, None] + along * steps)[:, None] + (down * steps)[..., None]
        # Interpolating at the clipped place is the same as repeating the edge.
        places = jnp.clip(places, 0, length - 1)
        low = jnp.minimum(jnp.floor(places), length - 2)
        return low.astype(jnp.int32), (places - low)[..., None]

    column, right = place(regions.centre[:, 0], cos, -sin, width)
    row, below = place(regions.centre[:, 1], sin, cos, height)
    frame = jnp.broadcast_to(jnp.arange(len(frames))[:, None, None], row.shape)
    four = lax.gather(
        frames, jnp.stack([frame, row, column], axis=-1),
        lax.GatherDimensionNumbers(
            offset_dims=(3, 4, 5), collapsed_slice_dims=(0,),
            start_index_map=(0, 1, 2)),
        (1, 2, 2, 3), mode='promise_in_bounds').astype(jnp.float32)
    four = four[..., 0, :, :] * (1 - below[..., None]) + (
        four[..., 1, :, :] * below[..., None])
    return jnp.round(four[..., 0, :] * (1 - right) + four[..., 1, :] * right)


def find_people(boxes, logits, size_hw):
    """What the detector's outputs say.

    Anchors whose boxes overlap are averaged by their scores, the best first (weighted
    non-maximum suppression: Bazarevsky et al. 2019, BlazeFace, section 3.4).

    Args:
        boxes: [B, 2254, 12]: of a box its middle and its size, then x and y of four
            points, of which the first is the hips' middle and the second is on the
            circle about the whole body; pixels of the square relative to the anchor.
        logits: [B, 2254].
        size_hw: frame's height and width.

    Returns:
        People; among several the largest, by size times score.
    """
    height, width = size_hw
    values = boxes / _DETECTOR_SIZE + np.concatenate(
        [_ANCHORS, np.zeros_like(_ANCHORS), np.tile(_ANCHORS, 4)], axis=-1)
    middle, size = values[..., :2], values[..., 2:4]
    low, high = middle - size / 2, middle + size / 2
    scores = jax.nn.sigmoid(jnp.clip(logits, -_MAX_LOGIT, _MAX_LOGIT))
    area = jnp.prod(size, axis=-1)
    # From the square back to the frame: its middle is the frame's.
    corner = jnp.array([width, height], jnp.float32) / 2
    points = (values[..., 4:8].reshape(*logits.shape, 2, 2) - 0.5) * max(size_hw)
    points = points + corner

    def merge(state):
        left, people, best, chosen = state
        top = jnp.argmax(jnp.where(left, scores, -1.0), axis=1)
        here = left.any(axis=1)
        is_top = jnp.arange(left.shape[1]) == top[:, None]

        def of_top(x):
            place = top.reshape(-1, *[1] * (x.ndim - 1))
            return jnp.take_along_axis(x, place, axis=1)

        ways = jnp.minimum(high, of_top(high)) - jnp.maximum(low, of_top(low))
        shared = jnp.prod(jnp.maximum(ways, 0), axis=-1)
        union = area + of_top(area) - shared
        same = left & ((shared > _MIN_OVERLAP * union) | is_top)
        weights = jnp.where(same, scores, 0.0)
        # An accelerator's usual precision would move points by pixels.
        place = jnp.einsum(
            'bn,bnpc->bpc', weights, points, precision=lax.Precision.HIGHEST)
        place = place / jnp.maximum(weights.sum(axis=1), 1e-6)[:, None, None]
        region = _region(place[:, 0], place[:, 1])
        score = of_top(scores)[:, 0]
        # Of the size alone, a poor guess on the same person may be the largest.
        value = region.size * score
        better = here & (value > best)
        chosen = jax.tree.map(
            lambda old, new: _where(better, new, old), chosen, (region, score))
        best = jnp.where(better, value, best)
        return left & ~same, people + here, best, chosen

    def goes_on(state):
        return state[0].any() & (state[1].max() < _MAX_PEOPLE)

    left = (scores >= _MIN_SCORE) & (size >= 0).all(axis=-1)
    zeros = jnp.zeros_like(scores[:, 0])
    start = (
        left, zeros.astype(jnp.int32), zeros - 1,
        (Regions(jnp.zeros_like(middle[:, 0]), zeros, zeros), zeros))
    _, people, _, (region, score) = lax.while_loop(goes_on, merge, start)
    return People(people > 0, region, score, people)


def place_landmarks(raw, presence, maps, world, regions):
    """What the landmark network's outputs say, in the frame.

    Args:
        raw: [B, 39 * 5]: x, y, z in pixels of the square, logits of visibility and of
            being inside.
        presence: [B], probability that there is a person.
        maps: [B, 64, 64, 39] logits of where each landmark is.
        world: [B, 39 * 3] metres, as the person stands in the square.
        regions: Regions of B.

    Returns:
        (landmarks as of `BlazePose`, people being presence; the next frame's Regions).
    """
    raw = raw.reshape(raw.shape[0], -1, 5)
    flat = _refine(raw[..., :2] / _LANDMARKS_SIZE, maps)
    side = regions.size[:, None, None]
    flat = _turn((flat - 0.5) * side, regions.angle[:, None])
    flat = flat + regions.centre[:, None]
    depth = raw[..., 2:3] / _LANDMARKS_SIZE * side
    world = world.reshape(world.shape[0], -1, 3)[:, :JOINTS]
    turned = _turn(world[..., :2], regions.angle[:, None])
    present = presence > _MIN_PRESENCE
    found = {
        'present': present,
        'joints': jnp.concatenate([flat, depth], axis=-1)[:, :JOINTS],
        'visibility': jax.nn.sigmoid(raw[:, :JOINTS, 3]),
        'world': jnp.concatenate([turned, world[..., 2:]], axis=-1),
    }
    return (
        _mask(found, present, present.astype(jnp.int32)),
        _region(flat[:, _CENTRE], flat[:, _TOP]),
    )


def smooth(found, tracks, step_s):
    """Smooths landmarks over time, the less the faster they move.

    One-euro filters (Casiez et al. 2012) of joints and metres, whose speeds are told in
    sizes of the body, and a plain low pass of the visibility. They start anew with each
    person who appears. The regions of the next frames are not smoothed.

    Args:
        found: landmarks of B videos.
        tracks: Tracks: filters after the frame before, `tracked` of that frame,
            `region` of the next.
        step_s: [B] seconds since the frame before; of no effect where there was nobody.

    Returns:
        (landmarks, Tracks).
    """
    on, present = tracks.tracked, found['present']
    flat = found['world'][..., :2]
    extent = jnp.mean(flat.max(axis=1) - flat.min(axis=1), axis=-1)
    joints = _one_euro(
        found['joints'], tracks.joints, step_s, tracks.region.size, on, *_JOINTS_FILTER)
    world = _one_euro(found['world'], tracks.world, step_s, extent, on, *_WORLD_FILTER)
    visibility = _where(on, _VISIBILITY_SHARE * found['visibility'] + (
        1 - _VISIBILITY_SHARE) * tracks.visibility, found['visibility'])
    found = {
        **found, 'joints': joints.value, 'world': world.value,
        'visibility': jnp.where(present[:, None], visibility, 0.0)}
    return found, Tracks(present, tracks.region, joints, world, visibility)


def _one_euro(values, state, step_s, size, on, min_cutoff_hz, slope):
    step_s = jnp.maximum(step_s, 1e-6)[:, None, None]

    def share(cutoff_hz):
        return 1 / (1 + 1 / (2 * jnp.pi * cutoff_hz * step_s))

    size = jnp.maximum(size, 1e-6)[:, None, None]
    speed = (values - state.raw) / size / step_s
    part = share(_SPEED_CUTOFF_HZ)
    speed = part * speed + (1 - part) * state.speed
    part = share(min_cutoff_hz + slope * jnp.abs(speed))
    value = part * values + (1 - part) * state.value
    return Smoothed(
        values, _where(on, value, values), _where(on, speed, jnp.zeros_like(speed)))


def _where(condition, yes, no):
    """[B] chooses between [B, ...]."""
    return jnp.where(condition.reshape(-1, *[1] * (yes.ndim - 1)), yes, no)


def _refine(places, maps):
    """Landmarks move to the mean of their map about them, where it is sure of them.

    [B, J, 2] x and y in [0, 1] of the square, [B, h, w, J] -> [B, J, 2].
    """
    height, width = maps.shape[1:3]
    size = jnp.array([width, height], jnp.float32)
    centre = jnp.trunc(places * size)
    inside = ((centre >= 0) & (centre < size)).all(axis=-1)
    reach = np.arange(-_MAP_REACH, _MAP_REACH + 1)
    # [B, J, 7, 7]; what is beyond the map is read at its edge and counts nothing.
    columns = jnp.clip(centre[..., 0], -9, width + 9)[..., None, None] + reach
    rows = jnp.clip(centre[..., 1], -9, height + 9)[..., None, None] + reach[:, None]
    counted = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    one, joint = jnp.ogrid[:maps.shape[0], :maps.shape[3]]
    near = maps[
        one[..., None, None], jnp.clip(rows, 0, height - 1).astype(jnp.int32),
        jnp.clip(columns, 0, width - 1).astype(jnp.int32), joint[..., None, None]]
    sure = jnp.where(counted, jax.nn.sigmoid(near), 0.0)
    total = jnp.maximum(sure.sum(axis=(2, 3)), 1e-6)
    moved = jnp.stack(
        [(sure * columns).sum(axis=(2, 3)) / total / width,
         (sure * rows).sum(axis=(2, 3)) / total / height], axis=-1)
    use = inside & (sure.max(axis=(2, 3)) >= _MIN_MAP)
    return jnp.where(use[..., None], moved, places)


def _region(centre, point):
    """The square about the circle around `centre` through `point`, both [B, 2]."""
    way = point - centre
    angle = jnp.pi / 2 - jnp.arctan2(-way[:, 1], way[:, 0])
    angle = angle - 2 * jnp.pi * jnp.floor((angle + jnp.pi) / (2 * jnp.pi))
    size = 2 * _MARGIN * jnp.sqrt(jnp.sum(way**2, axis=-1))
    return Regions(centre, size, angle)


def _turn(ways, angle):
    """[..., 2] turned by [...] radians, clockwise as seen."""
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    x, y = ways[..., 0], ways[..., 1]
    return jnp.stack([cos * x - sin * y, sin * x + cos * y], axis=-1)


def _mask(found, present, people):
    """Landmarks of those present only."""
    present = present & found['present']
    here = present[:, None, None]
    return {
        'present': present,
        'joints': jnp.where(here, found['joints'], jnp.nan),
        'visibility': jnp.where(here[..., 0], found['visibility'], 0.0),
        'world': jnp.where(here, found['world'], jnp.nan),
        'people': people,
    }


def _make_anchors():
    """[2254, 2]: x and y in [0, 1] of the middles of cells.

    Two for each layer, and layers of one stride share a grid (SSD: Liu et al. 2016).
    """
    anchors = []
    for stride in sorted(set(_STRIDES)):
        cells = _DETECTOR_SIZE // stride
        places = (np.arange(cells) + 0.5) / cells
        grid = np.stack(np.meshgrid(places, places), axis=-1).reshape(-1, 2)
        anchors.append(np.repeat(grid, 2 * _STRIDES.count(stride), axis=0))
    return np.concatenate(anchors).astype(np.float32)


_ANCHORS = _make_anchors()


def _by_frame(function, inputs):
    """Calls a network; on a CPU once a frame, whose activations then fit the cache."""
    return lax.platform_dependent(
        inputs,
        cpu=lambda x: lax.map(
            lambda one: jax.tree.map(lambda y: y[0], function(one[None])), x),
        default=function)


def _side_by_side(function, params):
    """As `_in_batches`, of a frame of each video; it is not cut."""
    @jax.jit
    def compiled(params, frames, tracks, step_s):
        frames = jnp.stack(frames) if isinstance(frames, tuple) else frames
        return function(params, frames, tracks, step_s)

    def call(frames, tracks, *, step_s=None):
        count = len(frames)
        steps = None if step_s is None else np.asarray(step_s, np.float32)
        _check(frames)
        if isinstance(frames, tuple):
            frames += frames[-1:] * (_filled(count) - count)
        else:
            frames = _fill(frames)
        return _cut(compiled(params, frames, *_fill((tracks, steps))), count)

    return call


def _in_batches(function, params):
    """Cuts and fills up batches, so that few sizes are compiled."""
    compiled = jax.jit(function)

    def call(*args):
        _check(args[0])
        done = []
        for start in range(0, len(args[0]), _MAX_BATCH):
            part = _cut(args, _MAX_BATCH, start=start)
            done.append(_cut(compiled(params, *_fill(part)), len(part[0])))
        return _join(done)

    return call


def _in_blocks(function, params):
    """As `_in_batches`, of frames in order and what is known from those before."""
    compiled = jax.jit(function)

    def call(frames, tracks, *, step_s=None):
        _check(frames)
        steps = None if step_s is None else np.asarray(step_s, np.float32)
        done = []
        for start in range(0, len(frames), _MAX_BATCH):
            part = _cut((frames, steps), _MAX_BATCH, start=start)
            count = len(part[0])
            frames_now, steps_now = _fill(part)
            found, tracks = compiled(params, frames_now, tracks, steps_now, count)
            done.append(_cut(found, count))
        return _join(done), tracks

    return call


def _check(frames):
    if isinstance(frames, tuple):
        kinds = {(len(frames), *frame.shape, frame.dtype) for frame in frames}
        if len(kinds) != 1:
            raise InputError('frames', 'none, or of several sizes')
        *shape, kind = kinds.pop()
    else:
        shape, kind = np.shape(frames), np.result_type(frames)
    if len(shape) != 4 or shape[-1] != 3 or kind != np.uint8:
        raise InputError('frames', f'{kind} {list(shape)}, not uint8 [B, H, W, 3]')
    if min(shape[:3]) < 1 or min(shape[1:3]) < 2:
        raise InputError('frames', f'{list(shape)} has too few frames or pixels')


def _filled(count):
    """The next power of two."""
    return 1 << (count - 1).bit_length()


def _fill(arrays):
    """Repeats the last of each until they are a power of two."""
    def fill(x):
        missing = _filled(len(x)) - len(x)
        if not missing:
            return x
        many = np if isinstance(x, np.ndarray) else jnp
        return many.concatenate([x, many.repeat(x[-1:], missing, axis=0)])

    return jax.tree.map(fill, arrays)


def _cut(arrays, count, *, start=0):
    """`count` of each at most, from `start`; an accelerator copies what is cut."""
    def cut(x):
        return x if not start and len(x) <= count else x[start:start + count]

    return jax.tree.map(cut, arrays)


def _join(parts):
    if len(parts) == 1:
        return parts[0]
    return jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts)
