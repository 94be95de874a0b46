"""Pictures of a scan with boxes and paths, for a person to look at."""

import cv2
import numpy as np

from jaxmed.ct import column, path

GREEN, MAGENTA, YELLOW = (80, 220, 80), (230, 60, 230), (250, 210, 60)
_WINDOW_HU = (300.0, 1500.0)  # centre and width: bone, with soft tissue still visible
_WIDE = column.Box(front_mm=110.0, back_mm=90.0, half_width_mm=80.0)
_VIEW_PIXEL_MM = 1.0
_BODIES_MM = 22.0  # how far before the cord a coronal view cuts the bodies


def to_grey(values_hu):
    """HU [H, W] -> uint8 [H, W] in a wide bone window."""
    centre, width = _WINDOW_HU
    share = (np.asarray(values_hu, np.float32) - centre) / width + 0.5
    return np.round(np.clip(share, 0, 1) * 255).astype(np.uint8)


def draw_boxes(slice_hu, boxes, *, pixels):
    """An axial slice with boxes.

    Args:
        slice_hu: [H, W].
        boxes: sequence of ((x0, y0, x1, y1) in pixels from the outer corner of the
            first one, RGB).
        pixels: of the picture for each one of the slice.

    Returns:
        uint8 RGB [pixels * H, pixels * W, 3].
    """
    grey = cv2.resize(
        to_grey(slice_hu), None, fx=pixels, fy=pixels, interpolation=cv2.INTER_LINEAR
    )
    picture = np.repeat(grey[..., None], 3, axis=-1)
    for box, colour in boxes:
        x0, y0, x1, y1 = (int(round(float(side) * pixels)) for side in box)
        cv2.rectangle(picture, (x0, y0), (x1 - 1, y1 - 1), colour, 1, cv2.LINE_AA)
    return picture


def draw_path(volume, cord):
    """The spine made straight along its cord, from the side and from the front.

    Args:
        volume: data.volumes.Volume.
        cord: path.Path.

    Returns:
        {'sagittal.png', 'coronal.png'}: uint8 RGB, 1 mm a pixel, head up, the
        patient's front and right on the left. On the left edge: yellow where the
        path was detected, grey where it was interpolated, magenta where it goes on
        beyond the last detection.
    """
    frame = column.make_frame(cord, spacing_mm=volume.spacing_mm)
    straight = column.straighten(
        volume.volume_hu, frame, box=_WIDE, pixel_mm=_VIEW_PIXEL_MM
    )
    depth = len(cord.kind)
    heights = np.arange(len(straight.values_hu)) * depth // len(straight.values_hu)
    kinds = cord.kind[::-1][heights]  # head first
    colours = np.array([YELLOW, (110, 110, 110), MAGENTA], np.uint8)[kinds]
    along = np.array([0, -_BODIES_MM, 0]) - straight.first_mm
    front = int(along[1] / straight.pitch_mm[1])
    pictures = {}
    for name, view, middle in (
        ('sagittal.png', straight.values_hu[:, :, straight.values_hu.shape[2] // 2],
         -straight.first_mm[1] / straight.pitch_mm[1]),
        ('coronal.png', straight.values_hu[:, front, :],
         -straight.first_mm[2] / straight.pitch_mm[2]),
    ):
        picture = np.repeat(to_grey(view)[..., None], 3, axis=-1)
        picture[:, :4] = colours[:, None]
        if name == 'sagittal.png':
            detected = np.flatnonzero(kinds == path.DETECTED)
            picture[detected, int(middle) - 2:int(middle) + 2] = YELLOW
        pictures[name] = picture
    return pictures
