"""Where the live index is seen: a window, or a video; until somebody ends it."""

import math
import os
import signal
import subprocess
import sys

import cv2

from jaxmed.data.video_writing import VideoFile, pace
from jaxmed.errors import ConfigError, InputError


class Stop:
    """Ctrl-C and SIGTERM as a wish to end; a second one ends at once.

    A context manager; outside of the main thread, where signals are somebody else's,
    it does nothing.
    """

    def __init__(self):
        self.wanted = False

    def __enter__(self):
        self._old = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._old[number] = signal.signal(number, self._note)
            except ValueError:
                break
        return self

    def _note(self, number, frame):
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True

    def __exit__(self, *exception):
        for number, handler in self._old.items():
            signal.signal(number, handler)


def play(
    live, source, *, name, realtime, endless, output, output_rate_hz, seconds=math.inf,
):
    """Runs until the source ends, the window is closed, or Ctrl-C or SIGTERM.

    Args:
        live: Live.
        source, name, realtime, endless, seconds: as in `Live.run`.
        output: .mp4 to write; None shows a window. It is as long as what was seen
            took, whatever was dropped.
        output_rate_hz: pictures a second of `output`.

    Returns:
        Live.summary().

    Raises:
        ConfigError: a window where there is no screen.
        InputError: as `Live.run` and VideoFile. What was seen before a
            camera vanished is written.
    """
    if output is None:
        check_screen()
    with Stop() as stop:
        views = live.run(
            source, name=name, realtime=realtime, endless=endless, seconds=seconds,
            stop=lambda: stop.wanted)
        try:
            if output is None:
                _show(views, name)
            else:
                _record(views, output, output_rate_hz)
        finally:
            views.close()
    return live.summary()


def check_output(output, source):
    """Refuses to write over what is read.

    Args:
        output: .mp4 to write, or None.
        source: a video, or a camera's number.

    Raises:
        ConfigError: they are one file, whatever its names.
    """
    if output is None:
        return
    try:
        same = os.path.samefile(output, source)
    except OSError:  # one of them is not there (yet)
        return
    if same:
        raise ConfigError('--output', f'{output} is the --input: name another file')


def check_screen():
    """Refuses to show a window where none can be.

    Raises:
        ConfigError: no screen, or OpenCV was built without windows.
    """
    advice = 'name a video with --output'
    if sys.platform.startswith('linux') and not (
            os.environ.get('DISPLAY') or os.environ.get('WAYLAND_DISPLAY')):
        raise ConfigError('--output', f'there is no screen: {advice}')
    # In a process of its own: where the screen doesn't answer, Qt ends the process.
    try:
        done = subprocess.run(
            [sys.executable, '-c', "import cv2; cv2.namedWindow('jaxmed')"],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
        works = done.returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        works = False
    if not works:
        raise ConfigError('--output', f'OpenCV can open no window here: {advice}')


def _show(views, title):
    cv2.namedWindow(
        title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
    sized = False
    try:
        for view in views:
            if not sized:
                cv2.resizeWindow(title, view.picture.shape[1], view.picture.shape[0])
                sized = True
            cv2.imshow(title, cv2.cvtColor(view.picture, cv2.COLOR_RGB2BGR))
            key = cv2.waitKey(1) & 0xff
            if key in (ord('q'), 27) or (
                    cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) < 1):
                return
    finally:
        cv2.destroyAllWindows()


def _record(views, output, rate_hz):
    failed = []

    def kept():
        try:
            yield from views
        except InputError as error:  # the source's: what was seen is still a video
            failed.append(error)

    with VideoFile(output, rate_hz=rate_hz) as video:
        for picture in pace(
                ((view.time_s, view.picture) for view in kept()), rate_hz=rate_hz):
            video.write(picture)
        if failed and not video.frames:
            raise failed[0]
    if failed:
        raise failed[0]
