"""Video -> 33 body landmarks of one person in every frame (BlazePose, paper 000)."""

import functools
import hashlib
import json
import logging
import os
import tempfile
import zipfile
import zlib
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxmed.data import images, videos
from jaxmed.data.pipeline import Prefetch
from jaxmed.errors import ConfigError, InputError
from jaxmed.models.blazepose import read_bundle
from jaxmed.pose.skeletons import BLAZEPOSE, BLAZEPOSE_DEPTH, Motion

LOG = logging.getLogger('jaxmed')

KINDS = ('mediapipe', 'jax')
MODES = ('video', 'image')
JOINTS = len(BLAZEPOSE.joints)

# Goes up when the same video would give other landmarks or counts.
_VERSION = 4

# Who is followed among several people: whoever is nearest, but no farther than this
# share of their last height or width; and for how long after they were last seen.
_REACH, _LOST_S = 0.5, 1.0
_TORSO = (*BLAZEPOSE.hips, *BLAZEPOSE.shoulders)


class Pose(NamedTuple):
    """The person followed, in one frame."""

    joints: np.ndarray  # float32 [33, 3], pixels, as in Motion
    visibility: np.ndarray  # float32 [33] in [0, 1]
    world: np.ndarray  # float32 [33, 3], metres about the hips' middle
    people: int  # how many were seen, where the landmarker looked


def find_landmarks(
    source, *, landmarker, model, sha256, cache, max_pixels, max_seconds, mode,
    max_people, batch_size, dtype, rate_hz=None
):
    """Reads a video and finds one person's landmarks in every frame.

    Frames are decoded while others are computed, and never held for longer.

    Args:
        source, max_pixels, max_seconds, rate_hz: of videos.open_video. A camera is
            read for max_seconds.
        landmarker, model, sha256, mode, max_people, dtype: of make_landmarker.
        cache: folder in which landmarks are kept by what the video's and the model's
            bytes are, and by the options; '' for none.
        batch_size: frames that are handed to the landmarker together.

    Returns:
        Motion, 'blazepose', with world and size_hw; NaN and visibility 0 where nobody
        was seen. `counts` holds those of videos.Video, frames_nobody,
        frames_several_people where the landmarker looks for several, and model_sha256,
        a str.

    Raises:
        InputError: nobody is visible in any frame; a wrong or damaged model; no folder
            can be made for the cache.
        ImageError: of videos.open_video.
        ConfigError: of make_landmarker; batch_size.
    """
    if batch_size < 1:
        raise ConfigError('batch_size', f'{batch_size}, at least 1')
    digest = hash_model(model, sha256=sha256)
    make_folder(cache)
    own = [dtype]
    if landmarker == 'mediapipe':
        own = [metadata.version('mediapipe'), max_people]
    kept, motion = recall(
        source, [digest, landmarker, mode, own], cache=cache, max_pixels=max_pixels,
        max_seconds=max_seconds, rate_hz=rate_hz)
    if motion is not None:
        return motion
    with (
        videos.open_video(source, max_pixels=max_pixels, max_seconds=max_seconds,
                          rate_hz=rate_hz) as video,
        make_landmarker(landmarker, model, sha256=digest, mode=mode,
                        max_people=max_people, dtype=dtype) as found,
        Prefetch(_group(video, batch_size), lambda batch: batch, depth=1) as batches,
    ):
        gathered = Gathered()
        for batch in batches:
            gathered.add(batch, found.find(batch))
        return gathered.finish(
            video, source, digest=digest, kept=kept, counts_people=found.counts_people)


def hash_model(model, *, sha256):
    """SHA-256, in hex, of a bundle; InputError for a wrong or damaged one."""
    return hashlib.sha256(read_bundle(model, sha256=sha256)).hexdigest()


def make_folder(cache):
    """Raises InputError where it can't be; '' is none."""
    try:
        if cache:
            Path(cache).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(cache, error.strerror) from None


def recall(source, made_by, *, cache, max_pixels, max_seconds, rate_hz):
    """What is kept of a video.

    Args:
        source, cache, max_pixels, max_seconds, rate_hz: of find_landmarks.
        made_by: [the model's SHA-256, landmarker, mode, its own options].

    Returns:
        (file for its landmarks, None where there is no cache or it is a camera; Motion,
        None where none is kept).

    Raises:
        ImageError: the video can't be read.
    """
    video_digest = videos.hash_video(source) if cache else None
    if video_digest is None:
        return None, None
    folder_hz = float(rate_hz) if Path(source).is_dir() else None
    key = json.dumps([_VERSION, video_digest, folder_hz, *made_by])
    kept = Path(cache, hashlib.sha256(key.encode()).hexdigest() + '.npz')
    motion = _load(kept)
    # Whoever sets a lower limit wants the error.
    if motion is not None and motion.counts['seconds'] <= max_seconds and (
            motion.size_hw[0] * motion.size_hw[1] <= max_pixels):
        return kept, motion
    return kept, None


class Gathered:
    """Poses of one video, from frame to frame, that become a Motion."""

    def __init__(self):
        self._parts, self._times_s = [], []
        self._nobody = self._several = 0

    def add(self, frames, poses):
        """Takes as many videos.Frame as Pose or None."""
        self._several += sum(pose is not None and pose.people > 1 for pose in poses)
        self._nobody += sum(pose is None for pose in poses)
        self._times_s += [frame.time_s for frame in frames]
        self._parts.append(_stack(poses))

    def finish(self, video, source, *, digest, kept, counts_people):
        """The Motion as of find_landmarks; it is written to `kept`, if not None."""
        if self._nobody == len(self._times_s):
            raise InputError(source, f'nobody is visible in {self._nobody} frames')
        counts = video.counts | {'frames_nobody': self._nobody}
        if counts_people:
            counts['frames_several_people'] = self._several
        joints, visibility, world = map(np.concatenate, zip(*self._parts))
        motion = Motion(
            joints, visibility, np.array(self._times_s), BLAZEPOSE.name, world,
            video.size_hw, counts | {'model_sha256': digest})
        if kept is not None:
            _save(kept, motion)
        return motion


def make_landmarker(kind, model, *, sha256, mode, max_people, dtype):
    """A landmarker for one video: what it remembers of one must not reach another.

    `find(frames)` takes a list of videos.Frame, of one size, and returns a list of Pose
    or None; in mode 'video' calls go on where the last one ended. `counts_people` tells
    whether it looks for several people in every frame. It is a context manager.

    Args:
        kind: 'mediapipe', one frame after the other on the CPU; or 'jax', the same
            networks compiled for whatever device there is, in batches.
        model: path of a .task bundle of MediaPipe's PoseLandmarker: lite, full, heavy.
        sha256: what its SHA-256 must be, in hex; '' accepts any.
        mode: 'video' follows a person from frame to frame; 'image' looks at each frame
            by itself, which is shakier, and for 'jax' faster.
        max_people: of 'mediapipe', how many it looks for; among several the largest
            is followed, by the torso, until lost for a second. With 1 in 'video',
            MediaPipe runs its detector only where it has lost the person, smooths the
            landmarks, and chooses whom to take; with more it runs it on every frame in
            which it sees fewer, smooths nothing, and takes longer (31 ms against
            20 ms a frame on two cores). In a video of quick leg raises 1 was more than
            3% of the height away from 'image' in 16 of 100 frames, 2 in one.
        dtype: of 'jax', what networks compute in: 'float32' or 'bfloat16'.

    Raises:
        ConfigError: unknown kind or mode, no people.
        InputError: no such model, another SHA-256, damaged, not such a bundle.
    """
    if kind not in KINDS:
        raise ConfigError('landmarker', f'{kind!r} is none of {KINDS}')
    if mode not in MODES:
        raise ConfigError('landmarker mode', f'{mode!r} is none of {MODES}')
    if max_people < 1:
        raise ConfigError('max_people', f'{max_people}, at least 1')
    data = read_bundle(model, sha256=sha256)
    if kind == 'mediapipe':
        return _MediaPipe(model, data, mode, max_people)
    digest = hashlib.sha256(data).hexdigest()
    return _Jax(load_blazepose(str(model), digest, dtype), mode)


class _MediaPipe:
    """MediaPipe's PoseLandmarker (Tasks API)."""

    def __init__(self, model, data, mode, max_people):
        with images.silent_stderr():  # it tells of its hardware
            from mediapipe import Image, ImageFormat
            from mediapipe.tasks.python import BaseOptions, vision

            running_mode = vision.RunningMode[mode.upper()]
            try:
                self._landmarker = vision.PoseLandmarker.create_from_options(
                    vision.PoseLandmarkerOptions(
                        base_options=BaseOptions(model_asset_buffer=data),
                        running_mode=running_mode, num_poses=max_people))
            except (RuntimeError, ValueError):
                raise InputError(model, 'MediaPipe does not accept it') from None
        self._make = functools.partial(Image, ImageFormat.SRGB)
        self._mode, self._last_ms, self._quiet = mode, -1, False
        self._follower = _Follower()
        self.counts_people = max_people > 1

    def find(self, frames):
        return [self._find(frame) for frame in frames]

    def _find(self, frame):
        if self._quiet:
            found = self._detect(frame)
        else:
            # Each of its parts says something when it is first used; the last of
            # them sees a frame when somebody was found.
            with images.silent_stderr():
                found = self._detect(frame)
            self._quiet = bool(found.pose_landmarks)
        height, width = frame.rgb.shape[:2]
        people = np.array([
            [(mark.x, mark.y, mark.z, mark.visibility or 0.0) for mark in person]
            for person in found.pose_landmarks
        ], np.float32).reshape(-1, JOINTS, 4)
        joints = people[..., :3] * np.float32(
            [width, height, width * BLAZEPOSE_DEPTH])
        chosen = self._follower.choose(joints, frame.time_s)
        if chosen is None:
            return None
        world = np.array([
            (mark.x, mark.y, mark.z) for mark in found.pose_world_landmarks[chosen]
        ], np.float32)
        visibility = np.clip(people[chosen, :, 3], 0, 1)
        return Pose(joints[chosen], visibility, world, len(people))

    def _detect(self, frame):
        image = self._make(np.ascontiguousarray(frame.rgb))
        if self._mode == 'image':
            return self._landmarker.detect(image)
        # It refuses a time that it has seen.
        self._last_ms = max(self._last_ms + 1, round(1000 * frame.time_s))
        return self._landmarker.detect_for_video(image, self._last_ms)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        with images.silent_stderr():
            self._landmarker.close()


class _Follower:
    """Chooses the same person in every frame."""

    def __init__(self):
        self._centre = self._reach_px = self._seen_s = None

    def choose(self, joints, time_s):
        """The place in joints [P, 33, 3] of the one followed, or None."""
        if not len(joints):
            return None
        sides = np.ptp(joints[..., :2], axis=1)
        centres = joints[:, _TORSO, :2].mean(axis=1)
        if self._centre is None or time_s - self._seen_s > _LOST_S:
            chosen = int(np.argmax(sides.prod(axis=1)))
        else:
            distances = np.linalg.norm(centres - self._centre, axis=1)
            chosen = int(np.argmin(distances))
            if distances[chosen] > self._reach_px:
                return None
        self._centre, self._seen_s = centres[chosen], time_s
        self._reach_px = _REACH * sides[chosen].max()
        return chosen


@functools.lru_cache(maxsize=2)
def load_blazepose(model, sha256, dtype):
    """Kept for the next video: it is compiled, and remembers nothing of this one."""
    import jax.numpy as jnp

    from jaxmed.pose import blazepose

    return blazepose.load(model, sha256=sha256, dtype=jnp.dtype(dtype))


class _Jax:
    """BlazePose in JAX."""

    def __init__(self, network, mode):
        self._network = network
        # Of who is followed the detector isn't asked.
        self.counts_people = mode == 'image'
        self._tracks = network.first_tracks(1) if mode == 'video' else None
        self._last_s = -1 / 30  # before the first frame: of no effect
        self._pictures = None

    def find(self, frames):
        if not frames:
            return []
        shape = len(frames), *frames[0].rgb.shape
        if self._pictures is None or self._pictures.shape != shape:
            self._pictures = np.empty(shape, np.uint8)
        # One array for all calls, 100 MB of 16 frames: what they find is copied before
        # they return.
        pictures = np.stack([frame.rgb for frame in frames], out=self._pictures)
        if self._tracks is None:
            found = self._network.image(pictures)
        else:
            times_s = np.array([frame.time_s for frame in frames])
            steps_s = np.diff(times_s, prepend=self._last_s)
            self._last_s = times_s[-1]
            found, self._tracks = self._network.follow(
                pictures, self._tracks, step_s=steps_s)
        return read_poses(found)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass


def read_poses(found):
    """Landmarks of frames, as of blazepose.BlazePose, -> list of Pose or None."""
    found = {name: np.asarray(values) for name, values in found.items()}
    return [
        Pose(found['joints'][i].astype(np.float32)
             * np.float32([1, 1, BLAZEPOSE_DEPTH]),
             found['visibility'][i].astype(np.float32),
             found['world'][i].astype(np.float32), int(found['people'][i]))
        if present else None for i, present in enumerate(found['present'])
    ]


def _group(frames, size):
    """Lists of `size` frames; the last may be shorter."""
    batch = []
    for frame in frames:
        batch.append(frame)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _stack(poses):
    """Joints, visibility and world of frames [n]; NaN and 0 for None."""
    count = len(poses)
    joints = np.full((count, JOINTS, 3), np.nan, np.float32)
    visibility, world = np.zeros((count, JOINTS), np.float32), joints.copy()
    for i, pose in enumerate(poses):
        if pose is not None:
            joints[i], visibility[i], world[i] = pose[:3]
    return joints, visibility, world


def _save(path, motion):
    """Writes the whole file or none: others may read and write at the same time."""
    counts = np.frombuffer(json.dumps(dict(motion.counts)).encode(), np.uint8)
    try:
        number, name = tempfile.mkstemp(dir=path.parent, suffix='.part')
        try:
            with os.fdopen(number, 'wb') as file:
                np.savez(file, joints=motion.joints, visibility=motion.visibility,
                         world=motion.world, time_s=motion.time_s,
                         size_hw=np.array(motion.size_hw), counts=counts)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:  # the landmarks are there all the same
        LOG.warning('%s: %s, landmarks are not kept', path.parent, error.strerror)


def _load(path):
    """The Motion that _save wrote; None if there is none, or a damaged one."""
    try:
        with np.load(path, allow_pickle=False) as file:
            kept = {name: file[name] for name in file.files}
        counts = json.loads(kept.pop('counts').tobytes())
        size_hw = tuple(int(side) for side in kept.pop('size_hw'))
        motion = Motion(
            skeleton=BLAZEPOSE.name, size_hw=size_hw, counts=counts, **kept)
        frames = counts['frames']
        shapes = {'joints': (frames, JOINTS, 3), 'visibility': (frames, JOINTS),
                  'world': (frames, JOINTS, 3), 'time_s': (frames,)}
        if any(getattr(motion, name).shape != shape for name, shape in shapes.items()):
            raise ValueError
        return motion
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zlib.error,
            zipfile.BadZipFile):
        LOG.warning('%s: damaged, its landmarks are found anew', path)
        return None
