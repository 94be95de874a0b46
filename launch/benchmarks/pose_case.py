"""A drawn video from the decoder to landmarks, to an index, and live.

Each part runs in a process of its own, so that none inherits another's memory or
threads. Rates are of untrained networks: speed does not depend on what they say.
"""

import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZE_HW, RATE_HZ = (1920, 1080), 30.0
SIZES, LARGE_SIZES = (1, 4, 16), (64, 256)  # of JAX's batches; on accelerators too
BATCH = 16  # frames that MediaPipe is timed on
FOLLOWED = 16  # frames of one video go one after the other: more in a call gain nothing
SETTLED = 200  # frames after which memory is watched
LIVE = dict(  # as launch.live has it
    buckets=2, stride_s=0.2, smoothing_s=1.0, max_height=720,
    stall_s=5.0)
LIMITS = dict(max_pixels=40_000_000, max_seconds=float('inf'))


def measure(config, *, rounds, frames, live_s):
    """Times the video path of the task spine_health.

    Args:
        config: nested dicts of the task. `landmark_model` names the .task bundle;
            without one, what needs landmarks is left out.
        rounds: timed turns of each landmarker, after a first one.
        frames: that memory is watched over, with either landmarker.
        live_s: seconds of the live run.

    Returns:
        JSON, {'window', 'video', 'decoding', 'landmarks', 'memory', 'live'}, each as
        its function here says; or 'left_out', why the last three are missing.

    Raises:
        InputError: a wrong or damaged .task bundle.
    """
    reason = _find_obstacle(config['task'])
    with tempfile.TemporaryDirectory() as folder:
        video = f'{folder}/video.mp4'
        result = {
            'video': _draw(video),
            'decoding': _run('decoding', video=video, rounds=rounds),
            'window': _run('window', config=config, rounds=rounds),
        }
        if reason:
            return result | {'left_out': reason}
        options = {'config': config, 'video': video}
        return result | {
            'landmarks': _run('landmarks', **options, rounds=rounds, sizes=SIZES),
            'memory': {
                kind: _run('memory', **options, kind=kind, frames=frames)
                for kind in ('mediapipe', 'jax')},
            'live': _run('live', **options, seconds=live_s),
        }


def _find_obstacle(task):
    """Why videos of a task's config give no landmarks, or ''."""
    from jaxmed.models import blazepose

    if task['skeleton'] != 'blazepose':
        return f'skeleton {task["skeleton"]} is not a landmarker\'s'
    if (task['span'], task['unit']) != ('window', 'video'):
        return 'a live index needs windows of single videos'
    if not task['landmark_model']:
        return 'task.landmark_model names no .task bundle'
    blazepose.open_bundle(task['landmark_model'], sha256=task['landmark_sha256'])
    return ''


def _run(part, **options):
    """A part's answer, from a fresh process."""
    done = subprocess.run(
        [sys.executable, '-m', 'launch.benchmarks.pose_case', part,
         json.dumps(options)],
        stdout=subprocess.PIPE, text=True, check=True,
        # An accelerator's memory is mostly taken, by whoever started this.
        env={'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'} | os.environ,
    )
    return json.loads(done.stdout.splitlines()[-1])


def _draw(path):
    """Somebody who touches the toes, in an upright video of a phone's size."""
    from jaxmed.data.phantoms import stick_figures, walkers

    (person,) = walkers.subjects(count=1, seed=0, exercises=('touch_toes',))
    drawn = stick_figures.write_video(
        path, person.motion, rate_hz=RATE_HZ, size_hw=SIZE_HW, seed=0)
    return {
        'size_hw': SIZE_HW, 'rate_hz': RATE_HZ, 'frames': len(drawn),
        'codec': 'MPEG-4 part 2', 'bytes': Path(path).stat().st_size,
    }


def main(part, options):
    """The fresh process: prints a part's answer as JSON."""
    print(json.dumps(PARTS[part](**json.loads(options))))


def time_decoding(video, rounds):
    """Reads the whole video, as fast as it comes.

    Returns:
        {'frames_per_s', from the first frame to the last; 'first_frame_s', from the
        opening, the start of the decoder's process in it}, medians.
    """
    from jaxmed.data import videos

    first_s, rates = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        with videos.open_video(video, **LIMITS) as frames:
            next(iter(frames))
            first_s.append(time.perf_counter() - began)
            began = time.perf_counter()
            count = sum(1 for _ in frames)
            rates.append(count / (time.perf_counter() - began))
    return {'frames_per_s': statistics.median(rates),
            'first_frame_s': statistics.median(first_s)}


def _load(config):
    """The task, and an untrained network of it: raw windows to index and spread."""
    import jax
    import optax

    from jaxmed import predict, runs, train

    task = runs.make_task(config, axis_name=train.AXIS)
    state = jax.device_get(train.init_state(task, optax.identity(), seed=0))
    predictor = predict.Predictor(
        [task], [{'params': state.params, 'model_state': state.model_state}],
        views=config['evaluate']['views'], batch_size=1)
    return task, predictor.apply


def time_window(config, rounds):
    """One window after the other, from raw landmarks to the index.

    Returns:
        {'median_ms', over turns of many windows each; 'frames' of a window, 'views',
        'rounds', 'compile_s'}.
    """
    import jax
    import numpy as np

    from jaxmed import benchmark

    task, apply = _load(config)
    window = {
        name: np.asarray(task.example[name])[None]
        for name in ('inputs', 'frame_mask', 'segment', 'step_s')}
    rng = np.random.default_rng(0)
    window['inputs'] = rng.random(window['inputs'].shape, np.float32)

    def judge():
        jax.device_get(apply(window))

    first_s, _ = _time(judge)
    median_s = statistics.median(
        benchmark.time_calls(judge, least_s=benchmark.TURN_S) for _ in range(rounds))
    return {
        'median_ms': 1e3 * median_s, 'frames': window['inputs'].shape[1],
        'views': config['evaluate']['views'], 'rounds': rounds,
        'compile_s': first_s - median_s,
    }


def _make_landmarker(config, kind, *, mode):
    from jaxmed.pose import landmarks

    task = config['task']
    return landmarks.make_landmarker(
        kind, task['landmark_model'], sha256=task['landmark_sha256'], mode=mode,
        max_people=1, dtype=task['landmark_dtype'])


def time_landmarks(config, video, rounds, sizes):
    """MediaPipe and BlazePose in JAX on the same decoded frames, turn by turn.

    Returns:
        {'model_sha256', 'mediapipe': {'video' and 'image': {'frames_per_s' and
        'ms_per_frame', medians}}, 'jax': list of {'mode': 'image', every frame by
        itself, 'track', a frame of each of many videos, or 'follow', frames of one
        video; 'dtype'; 'batch_size'; 'frames_in': 'host' or 'device' memory;
        'frames_per_s'; 'ms_per_frame'; 'compile_s'; 'found', share of frames with a
        person; 'times_faster_than_mediapipe': {'video' and 'image': median over turns
        of the ratio in a turn}}}.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxmed import benchmark
    from jaxmed.data import videos
    from jaxmed.pose import blazepose

    jax.config.update('jax_enable_compilation_cache', False)  # it is timed
    accelerated = jax.default_backend() != 'cpu'
    sizes = (*sizes, *LARGE_SIZES) if accelerated else tuple(sizes)
    with videos.open_video(video, **LIMITS) as source:
        frames = list(itertools.islice(source, max(sizes[-1], BATCH)))
    pictures = np.stack([frame.rgb for frame in frames])
    pictures = pictures[np.arange(sizes[-1]) % len(frames)]
    cases = []
    for dtype in ('float32', 'bfloat16')[:1 + accelerated]:
        network = blazepose.load(
            config['task']['landmark_model'], dtype=jnp.dtype(dtype),
            sha256=config['task']['landmark_sha256'])
        cases += [(case | {'dtype': dtype}, step) for case, step in list_cases(
            network, pictures, sizes, ('host', 'device')[:1 + accelerated])]
    modes = ('video', 'image')
    with contextlib.ExitStack() as stack:
        rivals = [
            stack.enter_context(_make_landmarker(config, 'mediapipe', mode=mode))
            for mode in modes]
        rival_s, own_s, compile_s, found = [], [], [], []
        for turn in range(rounds + 1):  # the first compiles
            last = dict(least_s=benchmark.TURN_S if turn else 0.0)
            rival_s.append([
                _time(lambda: rival.find(frames[:BATCH]), **last)[0] / BATCH
                for rival in rivals])
            timed = [_time(step, **last) for _, step in cases]
            own_s.append([
                seconds / case['batch_size']
                for (seconds, _), (case, _) in zip(timed, cases)])
            if not turn:
                compile_s = [seconds for seconds, _ in timed]
        found = [float(np.mean(np.asarray(people['present']))) for _, people in timed]
    rival_s, own_s = np.array(rival_s[1:]), np.array(own_s[1:])  # [rounds, ...]
    ratios = np.median(rival_s[:, None] / own_s[..., None], axis=0)
    seconds = np.median(own_s, axis=0)
    told = [
        case | _rate(seconds[i]) | {
            'compile_s': compile_s[i] - case['batch_size'] * seconds[i],
            'found': found[i],
            'times_faster_than_mediapipe': dict(zip(modes, ratios[i].tolist())),
        } for i, (case, _) in enumerate(cases)]
    return {
        'model_sha256': network.sha256, 'jax': told,
        'mediapipe': dict(zip(modes, map(_rate, np.median(rival_s, axis=0)))),
    }


def list_cases(network, pictures, sizes, places):
    """What is timed: list of ({'mode', 'batch_size', 'frames_in'}, () -> landmarks).

    Args:
        network: blazepose.BlazePose.
        pictures: uint8 [B, H, W, 3] in the host's memory, as many as the largest size.
        sizes: of batches.
        places: 'host' or 'device': where frames are when the time begins. Those on the
            device were put there before and stay: 2.1 GB of 1080p for a network.
    """
    import jax

    cases = []
    for place, size in itertools.product(places, sizes):
        part = pictures[:size]
        if place == 'device':
            part = jax.block_until_ready(jax.device_put(part))
        cases += [
            ({'mode': mode, 'batch_size': size, 'frames_in': place}, step)
            for mode, step in _modes(network, part)]
    return cases


def _modes(network, pictures):
    """(mode, () -> landmarks) of what BlazePose does with frames."""
    import numpy as np

    step_s = np.full(len(pictures), 1 / RATE_HZ, np.float32)

    def go_on(function, tracks):
        def step():
            nonlocal tracks
            found, tracks = function(pictures, tracks, step_s=step_s)
            return found
        return step

    yield 'image', lambda: network.image(pictures)
    yield 'track', go_on(network.track, network.first_tracks(len(pictures)))
    if len(pictures) <= FOLLOWED:
        yield 'follow', go_on(network.follow, network.first_tracks(1))


def _time(function, *, least_s=0.0):
    """(mean seconds of calls that take least_s together, the last answer)."""
    import jax

    from jaxmed import benchmark

    answer = None

    def call():
        nonlocal answer
        answer = jax.block_until_ready(function())

    return benchmark.time_calls(call, least_s=least_s), answer


def _rate(seconds):
    return {'frames_per_s': float(1 / seconds), 'ms_per_frame': float(1e3 * seconds)}


def watch_memory(config, video, kind, frames):
    """The video, over and over, through decoder and landmarker as find_landmarks does.

    Args:
        config, video: as elsewhere.
        kind: of the landmarker.
        frames: so many, or up to a batch more; two batches at least.

    Returns:
        {'frames'; 'settled', frames that come before all else; 'frames_per_s';
        'resident_bytes', about 20 from then to the end, the decoder's process in them;
        'growth_bytes', the most less the first; 'end_bytes', the last less the first}.
        A heap that is never handed back grows in steps to what it needs at once.
    """
    from jaxmed.data import videos
    from jaxmed.data.pipeline import Prefetch

    size = config['task']['landmark_batch']
    batches = max(-(-frames // size), 2)
    settled = min(-(-SETTLED // size), batches // 2)
    resident = []
    with (
        videos.open_video(video, loop=True, **LIMITS) as source,
        _make_landmarker(config, kind, mode='video') as landmarker,
        Prefetch(
            iter(lambda: list(itertools.islice(source, size)), []),
            lambda batch: batch, depth=1) as ready,
    ):
        for number, batch in enumerate(itertools.islice(ready, batches), start=1):
            landmarker.find(batch)
            if number == settled:
                began = time.perf_counter()
            if number >= settled:
                resident.append(_resident_bytes())
        seconds = time.perf_counter() - began
    return {
        'frames': batches * size, 'settled': settled * size,
        'frames_per_s': (batches - settled) * size / seconds,
        'growth_bytes': max(resident) - resident[0],
        'end_bytes': resident[-1] - resident[0],
        'resident_bytes': resident[::-(-len(resident) // 20)],
    }


def _resident_bytes():
    """Of this process and those that it started; Linux only."""
    children = Path(f'/proc/self/task/{os.getpid()}/children').read_text().split()
    return sum(
        int(Path(f'/proc/{process}/status').read_text().split('VmRSS:')[1].split()[0])
        for process in ('self', *children)) * 1024


def run_live(config, video, seconds):
    """The video in a loop, at its own pace, through what launch.live does, unseen.

    Returns:
        pose.live.Live.summary, with `latency` in ms by stage; 'rate_hz' of the video;
        'growth_bytes' of memory as in watch_memory, of the second half.
    """
    from jaxmed.data import videos

    options = config['task'] | {'landmarker': 'mediapipe', 'max_people': 1}
    task, apply = _load(config | {'task': options})
    parts = task.live(apply)
    resident, due_s = [], seconds / 2
    with (
        videos.open_video(video, loop=True, **LIMITS) as source,
        parts.make_landmarker() as landmarker,
    ):
        runner = parts.make_live(landmarker, **LIVE)
        for view in runner.run(
            source, name=video, realtime=True, endless=False, seconds=seconds,
        ):
            if view.time_s >= due_s:
                resident.append(_resident_bytes())
                due_s += 1
    return runner.summary() | {
        'rate_hz': source.rate_hz, 'options': LIVE,
        'growth_bytes': max(resident) - resident[0],
    }


PARTS = {
    'decoding': time_decoding, 'window': time_window, 'landmarks': time_landmarks,
    'memory': watch_memory, 'live': run_live,
}


if __name__ == '__main__':
    main(*sys.argv[1:])
