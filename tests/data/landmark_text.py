"""Files of landmarks of the three layouts, and how they are read."""

import json

import numpy as np
import pytest

from jaxmed.data.landmark_files import read_motion
from jaxmed.errors import InputError
from jaxmed.pose.skeletons import BLAZEPOSE, KINECT

OPTIONS = dict(skeleton=KINECT, max_frames=1000, max_seconds=60.0, rate_hz=30.0)
PICTURE = dict(skeleton=BLAZEPOSE, size_hw=(480, 640))
NAMES = BLAZEPOSE.joints


def read(path, **options):
    return read_motion(path, **(OPTIONS | options))


def refuse(path, reason, **options):
    """Asserts that a file is refused in one line with its name and `reason`."""
    with pytest.raises(InputError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert message.startswith(str(path)) and '\n' not in message
    assert reason in message, message


def body(x=0.0, *, y=0.0, z=3.0, state=2):
    """100 numbers: a body of metre-high joints around (x, y, z)."""
    joints = np.zeros((25, 4))
    joints[:, 0], joints[:, 2], joints[:, 3] = x, z, state
    joints[:, 1] = y + np.linspace(0.5, -0.5, 25)
    return joints.ravel()


def save_kimore(path, rows):
    path.write_text('\n'.join(','.join(f'{v:.4f}' for v in row) for row in rows))
    return path


def save_named(path, table):
    lines = [','.join(table)]
    lines += [','.join(map(str, cells)) for cells in zip(*table.values())]
    path.write_text('\n'.join(lines) + '\n')
    return path


def frames(*numbers):
    return {f'{n:.1f}': {name.capitalize(): [n / 100, 0.5, -0.1] for name in NAMES}
            for n in numbers}


def save_json(path, content):
    path.write_text(json.dumps(content))
    return path


def save_shares(path, motion):
    """As Keraal has it, of a z as BlazePose's networks tell it."""
    height, width = motion.size_hw
    shares = motion.joints / [width, height, width / 4]
    return save_json(path, {'positions': {
        str(number): {name: joint.tolist() for name, joint in zip(NAMES, frame)}
        for number, frame in enumerate(shares) if np.isfinite(frame).all()}})
