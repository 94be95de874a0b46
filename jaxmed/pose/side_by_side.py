"""Many videos at once through BlazePose in JAX: one frame of each goes into a call.

Where a person is looked for follows from the frame before, so that the frames of one
video can only go one after the other, which leaves most of an accelerator idle.
"""

import itertools
from functools import partial

import jax
import numpy as np

from jaxmed.data import videos
from jaxmed.data.pipeline import Prefetch
from jaxmed.errors import ConfigError, InputError
from jaxmed.pose import landmarks

_DECODED = 2  # frames of each video that wait for their turn


def find_side_by_side(
    sources, *, at_once, model, sha256, cache, max_pixels, max_seconds, dtype,
    rate_hz=None
):
    """Does what landmarks.find_landmarks does, of many videos in mode 'video'.

    A video that ends makes place for the next. Calls hold frames of one size. Each
    video is decoded by a process and a thread of its own, which also takes its frames
    to the device; a quarter more than `at_once` are open, so that the next one's first
    frames are there when its turn comes. Eight frames of each are held, and its
    landmarks, 1.3 kB a frame, until it ends.

    A CPU, which computes one frame after the other anyway, gives the landmarks of
    find_landmarks to the last bit. An accelerator adds up in another order for each
    size of a call; that moves where the person is looked for next, and grows to the
    pixels by which landmarks tremble. Who goes with whom follows from the order of
    `sources` and not from chance, so that the same videos give the same again.

    Args:
        sources: iterable of videos; no cameras, whose frames can't wait.
        at_once: most videos in a call.
        others: of landmarks.find_landmarks, of the landmarker 'jax'.

    Yields:
        (source, Motion) as each ends, or (source, the InputError that says why there
        are no landmarks); those in the cache among them.

    Raises:
        InputError: a wrong or damaged model; no folder can be made for the cache.
        ConfigError: at_once.
    """
    if at_once < 1:
        raise ConfigError('at_once', f'{at_once}, at least 1')
    digest = landmarks.hash_model(model, sha256=sha256)
    landmarks.make_folder(cache)
    network = landmarks.load_blazepose(str(model), digest, dtype)
    track = _track_each if jax.default_backend() == 'cpu' else _track_together
    limits = dict(max_pixels=max_pixels, max_seconds=max_seconds, rate_hz=rate_hz)
    begin = partial(
        _Running, limits=limits, cache=cache, digest=digest,
        made_by=[digest, 'jax', 'video', [dtype]], tracks=network.first_tracks(1))
    waiting, running = iter(sources), []
    try:
        while True:
            free = at_once + 1 + at_once // 4 - len(running)
            running += map(begin, itertools.islice(waiting, free))
            if not running:
                return
            several = {}  # by the size of their frames
            # In turn and not as frames come: who goes together is the same each time.
            for one in running[:at_once]:
                if one.read():
                    several.setdefault(one.frame.rgb.shape, []).append(one)
                else:
                    running.remove(one)
                    yield one.source, one.close()
            for group in several.values():
                found = track(network, group)
                for one, pose in zip(group, landmarks.read_poses(found)):
                    one.gathered.add([one.frame], [pose])
    finally:
        for one in running:
            one.close()


def _track_together(network, group):
    """Landmarks of the latest frames of videos, which are of one size."""
    tracks = _join([one.tracks for one in group])
    found, tracks = jax.device_get(network.track(
        tuple(one.frame.rgb for one in group), tracks,
        step_s=np.array([one.step_s for one in group])))
    for number, one in enumerate(group):
        one.tracks = jax.tree.map(lambda x: x[number:number + 1], tracks)
    return found


def _track_each(network, group):
    """As _track_together, one after the other."""
    every = []
    for one in group:
        found, one.tracks = network.follow(
            np.asarray(one.frame.rgb)[None], one.tracks, step_s=[one.step_s])
        every.append(found)
    return _join(every)


def _join(trees):
    return jax.tree.map(lambda *xs: np.concatenate(xs), *trees)


class _Running:
    """A video on its way.

    Attributes:
        source: as given.
        frame, step_s: its latest frame, and the seconds since the one before.
        tracks: blazepose.Tracks of this video alone.
        gathered: landmarks.Gathered.
    """

    def __init__(self, source, *, limits, cache, digest, made_by, tracks):
        self.source, self.tracks = source, tracks
        self.gathered, self.frame, self.step_s = landmarks.Gathered(), None, 1 / 30
        self._digest, self._kept, self._video = digest, None, None
        self._answer = None
        self._decoded = self._decode(limits, cache, made_by)
        self._frames = Prefetch(
            self._decoded, lambda frame: frame._replace(rgb=jax.device_put(frame.rgb)),
            depth=_DECODED)

    def _decode(self, limits, cache, made_by):
        """In a thread."""
        self._kept, self._answer = landmarks.recall(
            self.source, made_by, cache=cache, **limits)
        if self._answer is None:
            with videos.open_video(self.source, **limits) as self._video:
                yield from self._video

    def read(self):
        """Goes on by a frame; False where there is none."""
        before = self.frame
        try:
            self.frame = next(self._frames, None)
            if self.frame is None and self._answer is None:
                self._answer = self.gathered.finish(
                    self._video, self.source, digest=self._digest, kept=self._kept,
                    counts_people=False)
        except InputError as error:
            self.frame, self._answer = None, error
        if self.frame is not None and before is not None:
            self.step_s = self.frame.time_s - before.time_s
        return self.frame is not None

    def close(self):
        """Ends the decoder; the Motion, or the InputError, if there is one."""
        self._frames.__exit__()
        self._decoded.close()
        return self._answer
