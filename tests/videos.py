"""Videos as a player would show them."""

import cv2
import numpy as np


def read_video(path):
    """Pictures a second, and the pictures: list of uint8 [H, W, 3], RGB."""
    capture, frames = cv2.VideoCapture(str(path)), []
    while True:
        found, frame = capture.read()
        if not found:
            return capture.get(cv2.CAP_PROP_FPS), frames
        frames.append(np.ascontiguousarray(frame[..., ::-1]))


def read_frames(path):
    return read_video(path)[1]
