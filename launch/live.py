"""Shows a person's skeleton and index while they move, from a camera or a video.

    python -m launch.live --workdir=/tmp/spine --input=0
    python -m launch.live --workdir=/tmp/spine --input=walk.mp4 --output=seen.mp4 \
        --task=landmark_model=pose_landmarker_full.task

Where there is no screen, name a video with --output. Memory is bounded: N frames a
bucket times --buckets (paper 000, equation 1); a slow machine drops frames. Ctrl-C ends
it, and the latency of each stage is printed.
"""

from absl import flags

import launch
from jaxmed import runs
from jaxmed.data import videos
from jaxmed.errors import ConfigError
from jaxmed.pose import player

_WORKDIR = flags.DEFINE_string('workdir', None, 'Run folder.')
_INPUT = flags.DEFINE_string('input', None, 'Number of a camera, or a video.')
_OUTPUT = flags.DEFINE_string('output', None, '.mp4 to write; a window if unset.')
_TASK = flags.DEFINE_list('task', [], 'Options of the task in place of the run\'s.')
_LOOP = flags.DEFINE_bool('loop', False, 'Begin the video again at its end.')
_SECONDS = flags.DEFINE_float(
    'seconds', float('inf'), 'End after so many.', lower_bound=0)
_BUCKETS = flags.DEFINE_integer('buckets', 2, 'gamma of equation 1.')
_STRIDE_S = flags.DEFINE_float('stride_s', 0.2, 'From one index to the next.')
_SMOOTHING_S = flags.DEFINE_float('smoothing_s', 1.0, 'Time constant; 0 for none.')
_HEIGHT = flags.DEFINE_integer('height', 720, 'Higher frames are made smaller.')
_RATE_HZ = flags.DEFINE_float('rate_hz', 30.0, 'Of --output.')
flags.mark_flags_as_required(['workdir', 'input'])


def main(argv):
    player.check_output(_OUTPUT.value, _INPUT.value)
    predictor = runs.load(
        [_WORKDIR.value], batch_size=1, reads=True,
        task_options=launch.parse_options(_TASK.value))
    if predictor.task.live is None:
        raise ConfigError('--workdir', 'this task has nothing to show live')
    parts = predictor.task.live(predictor.apply)
    camera = videos.camera_number(_INPUT.value) is not None
    if camera and _LOOP.value:
        raise ConfigError('--loop', 'does not go with a camera')
    with (
        videos.open_video(
            _INPUT.value, max_pixels=parts.max_pixels, max_seconds=float('inf'),
            rate_hz=parts.source_hz, loop=_LOOP.value) as video,
        parts.make_landmarker() as landmarker,
    ):
        summary = player.play(
            parts.make_live(
                landmarker, buckets=_BUCKETS.value, stride_s=_STRIDE_S.value,
                smoothing_s=_SMOOTHING_S.value,
                max_height=_HEIGHT.value, stall_s=5.0),
            video, name=_INPUT.value, realtime=True, endless=camera,
            output=_OUTPUT.value, output_rate_hz=_RATE_HZ.value,
            seconds=_SECONDS.value)
    latency = summary.pop('latency')
    for name, value in summary.items():
        print(f'{name}: {value}')
    for stage, times in latency.items():
        print(f'{stage:12}' + '  '.join(
            f'{name} {value}' for name, value in times.items()))


if __name__ == '__main__':
    launch.run(main)
