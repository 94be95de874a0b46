"""The last frames of landmarks on a uniform grid of time, in memory of a fixed size."""

import math

import numpy as np

from jaxmed.pose.skeletons import Motion

# Poses that are kept: so many a second, of so long before the window and a gap.
_MOST_HZ, _SETTLED_S, _LONGEST_GAP_S = 120.0, 1.0, 10.0


class Window:
    """The last N frames of landmarks, cleaned as recordings are.

    Poses of a little more time than that are kept as they were found. `read` cleans
    them: its frames are the last N of all that cleaning the whole recording would give,
    but for what goes by its median torso (jumps, the 1 euro filter).
    They lie on a uniform grid of time, which begins where somebody is first seen.

    Of poses that come faster than 120 a second, or twice the grid's rate, some are left
    out, so that what is kept has a fixed size.

    Args:
        frames: N.
        skeleton: skeletons.Skeleton of J joints.
        clean: Motion -> Motion, cleaning.clean with its options.
        rate_hz, max_gap_s: of these options.
        visible_from: least visibility of a joint that counts as seen: min_visibility of
            these options.
    """

    def __init__(self, frames, *, skeleton, clean, rate_hz, max_gap_s, visible_from):
        self._skeleton, self._clean = skeleton, clean
        self._rate_hz, self._max_gap_s = float(rate_hz), float(max_gap_s)
        self._visible_from = visible_from
        # What begins a gap or a smoothing before the window shows in it.
        self._before_s = min(self._max_gap_s, _LONGEST_GAP_S) + _SETTLED_S
        most_hz = max(_MOST_HZ, 2 * self._rate_hz)
        self._least_s = (1 - 1e-3) / most_hz
        most = math.ceil((frames / self._rate_hz + self._before_s) * most_hz) + 2
        self._poses = np.empty((most, len(skeleton.joints), 4), np.float32)
        self._times_s = np.empty(most)
        self._known = np.zeros(frames, bool)
        self.restarts = 0
        self._clear()

    def _clear(self):
        self._count, self._next = 0, 0  # poses, and frames of the grid, so far
        self._first_s = self._last_s = self._start_s = None
        self._last_known = False
        self._known[:] = False

    @property
    def filled(self):
        """Frames of the grid that lie within the recording, at most N."""
        return min(self._next, len(self._known))

    def add(self, time_s, joints, visibility):
        """Adds a frame.

        A time before the last frame's is another recording: the window begins anew.

        Args:
            time_s: of the frame.
            joints: [J, 3], NaN where unknown; None where nobody was found.
            visibility: [J]; None where nobody was found.
        """
        pose = np.full(self._poses.shape[1:], np.nan, np.float32)
        pose[:, 3] = 0
        if joints is not None:
            pose[:, :3], pose[:, 3] = joints, visibility
        if self._last_s is not None and time_s < self._last_s:
            self.restarts += 1
            self._clear()
        if self._last_s is None:
            self._first_s = time_s
        elif time_s - self._last_s < self._least_s:
            return
        self._poses[self._count % len(self._poses)] = pose
        self._times_s[self._count % len(self._poses)] = time_s
        self._count += 1
        seen = self._seen(pose)
        if self._start_s is None and seen.any():
            # Whoever is seen soon was there from the beginning, for cleaning.
            soon = time_s - self._first_s <= self._max_gap_s
            self._start_s = self._first_s if soon else time_s
        known = bool(seen[list(self._skeleton.trunk)].all())
        if self._start_s is not None:
            self._go_on(time_s, known)
        self._last_s, self._last_known = time_s, known

    def _seen(self, poses):
        return np.isfinite(poses[..., :3]).all(axis=-1) & (
            poses[..., 3] >= self._visible_from)

    def _go_on(self, time_s, known):
        """Frames of the grid until `time_s`: in which are hips and shoulders known?"""
        frames = len(self._known)
        # A grid instant that rounding puts a microsecond later is this one.
        last = math.floor((time_s - self._start_s) * self._rate_hz + 1e-6)
        numbers = np.arange(max(self._next, last - frames + 1), last + 1)
        at_s = self._start_s + numbers / self._rate_hz
        near_s = 0.5 / self._rate_hz
        found = known & (np.abs(at_s - time_s) <= near_s)
        if self._last_s is not None and self._last_known:
            between = known and time_s - self._last_s <= self._max_gap_s
            found |= between | (np.abs(at_s - self._last_s) <= near_s)
        self._known[numbers % frames] = found
        self._next = max(self._next, last + 1)

    def read(self):
        """The window, oldest frame first.

        Returns:
            inputs float32 [N, J, 4], x y z as in skeletons.Motion and visibility, NaN
            and 0 where nobody was found; frame_mask bool [N], False on the frames at
            the end that a recording shorter than N doesn't have.
        """
        frames, filled = len(self._known), self.filled
        inputs = np.full((frames, *self._poses.shape[1:]), np.nan, np.float32)
        inputs[..., 3] = 0
        mask = np.arange(frames) < filled
        if not filled:
            return inputs, mask
        first = self._next - filled
        order = np.arange(max(self._count - len(self._poses), 0), self._count)
        order %= len(self._poses)
        since_s = self._start_s + first / self._rate_hz - self._before_s
        order = order[self._times_s[order] >= since_s]
        times_s, poses = self._times_s[order], self._poses[order]
        if times_s[0] > self._first_s:  # else it is all of the recording
            times_s, poses = self._begin_on_grid(times_s, poses)
        cleaned = self._clean(Motion(
            poses[..., :3], poses[..., 3], times_s, self._skeleton.name))
        places = np.rint(
            (cleaned.time_s - self._start_s) * self._rate_hz).astype(int) - first
        within = (places >= 0) & (places < filled)
        inputs[places[within], :, :3] = cleaned.joints[within]
        inputs[places[within], :, 3] = cleaned.visibility[within]
        return inputs, mask

    def _begin_on_grid(self, times_s, poses):
        """Times and poses whose first known one is at an instant of the grid.

        With that one cleaning begins its own grid, or with the first of all, where it
        fills what is before; so both are moved.
        """
        first_s, last_s = ((times_s[[0, -1]] - self._start_s) * self._rate_hz)
        numbers = np.arange(math.ceil(first_s - 1e-6), math.floor(last_s + 1e-6) + 1)
        if len(times_s) == 1 or not len(numbers):
            return times_s, poses
        at_s = self._start_s + numbers / self._rate_hz
        left = np.searchsorted(times_s, at_s, side='right') - 1
        left = left.clip(0, len(times_s) - 2)
        gap_s = times_s[left + 1] - times_s[left]
        share = ((at_s - times_s[left]) / gap_s).clip(0, 1)
        share = np.where(share < 1e-4, 0, np.where(share > 1 - 1e-4, 1, share))
        seen = self._seen(poses)
        usable = np.select(
            [(share == 0)[:, None], (share == 1)[:, None], (
                gap_s <= self._max_gap_s)[:, None]],
            [seen[left], seen[left + 1], seen[left] & seen[left + 1]], False,
        ).any(axis=1)
        if not usable.any():
            return times_s, poses
        place = np.argmax(usable)
        one, other, share = poses[left[place]], poses[left[place] + 1], share[place]
        if 0 < share < 1:
            begun = one * (1 - share) + other * share
            # A joint that is hardly seen in one of both isn't known.
            begun[:, 3] = np.minimum(one[:, 3], other[:, 3])
        else:
            begun = other if share else one
        moved = left[place] + (share == 1)
        times_s, poses = times_s.copy(), poses.copy()
        poses[:moved, :, :3], poses[:moved, :, 3] = np.nan, 0
        poses[moved], times_s[moved] = begun, at_s[place]
        if moved:
            times_s[0] = self._start_s + math.floor(first_s + 1e-6) / self._rate_hz
        return times_s, poses

    def wait_s(self, least_known):
        """Seconds until it is full and known enough, if the person stays in view."""
        frames = len(self._known)
        order = np.arange(self._next - frames, self._next) % frames
        left = np.append(self._known[order], 0)[::-1].cumsum()[::-1]
        coming = np.arange(frames + 1)
        enough = (left + coming >= least_known * frames) & (
            coming >= frames - self.filled)
        return float(np.argmax(enough)) / self._rate_hz
