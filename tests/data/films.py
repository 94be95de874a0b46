"""Small videos whose frames tell their numbers."""

import cv2
import numpy as np
import pytest

from jaxmed.data import videos
from jaxmed.errors import ImageError

HEIGHT, WIDTH, RATE_HZ = 48, 64, 25
LIMITS = dict(max_pixels=10**6, max_seconds=60)


def picture(number):
    """Red in the upper left corner, brightness tells the number; RGB."""
    frame = np.full((HEIGHT, WIDTH, 3), 40 + 5 * (number % 42), np.uint8)
    frame[:16, :16] = 255, 0, 0
    return frame


def number_of(rgb):
    return round((float(rgb[24:, 24:].mean()) - 38.7) / 5)


def write_film(folder, name, *, frames, rate_hz):
    """Writes a video of `picture`s and returns its path."""
    codec = {'.mp4': 'mp4v', '.avi': 'MJPG', '.mkv': 'mp4v', '.mpg': 'mpg1'}
    path = folder / name
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec[path.suffix]),
        rate_hz, (WIDTH, HEIGHT))
    assert writer.isOpened()
    for number in range(frames):
        writer.write(np.ascontiguousarray(picture(number)[..., ::-1]))
    writer.release()
    return path


def read(source, **options):
    with videos.open_video(source, **(LIMITS | options)) as video:
        return list(video), video


def refuse(source, reason, **options):
    with pytest.raises(ImageError) as caught:
        read(source, **options)
    message = str(caught.value)
    assert reason in message and '\n' not in message, message
