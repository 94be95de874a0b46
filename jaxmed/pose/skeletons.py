"""Body landmarks: how skeletons are laid out, and one recorded movement of a person."""

from typing import Any, Mapping, NamedTuple

import numpy as np

from jaxmed.errors import ConfigError


class Skeleton(NamedTuple):
    """The landmarks that a sensor or network gives, by their places."""

    name: str
    joints: tuple[str, ...]
    bones: tuple[tuple[int, int], ...]
    mirror: tuple[int, ...]  # of each joint the one on the other side, or itself
    hips: tuple[int, int]  # left, right: their middle is where the body is
    shoulders: tuple[int, int]  # left, right; with the hips, how large the body is
    # name -> (end, vertex, end): the bends that are told as angles
    angles: Mapping[str, tuple[int, int, int]]
    # Whether z is measured. A torso's length in space varies by 3% within KIMORE's
    # recordings, by 21 and 28% in two videos with BlazePose's guess of z; in the
    # picture's plane by 4% and by 6 and 5%.
    depth: bool

    @property
    def trunk(self):
        """The joints that tell where a body is: hips and shoulders."""
        return self.hips + self.shoulders

    @property
    def places(self):
        """Joint -> its number."""
        return {joint: number for number, joint in enumerate(self.joints)}


class Motion(NamedTuple):
    """One person over time.

    x goes to the picture's right, y down, z away from the viewer, all in one unit:
    pixels of the upright frame where there is a picture (z in the scale of x, 0 at the
    hips' depth), otherwise metres.
    """

    joints: np.ndarray  # float32 [T, J, 3]; NaN where nobody was found
    visibility: np.ndarray  # float32 [T, J] in [0, 1]; 0 where nobody was found
    time_s: np.ndarray  # float64 [T], increasing, from the first frame
    skeleton: str  # in SKELETONS
    world: np.ndarray | None = None  # float32 [T, J, 3], metres about the hips' middle
    size_hw: tuple[int, int] | None = None  # of the upright frame, in pixels
    counts: Mapping[str, Any] = {}  # what was read, dropped and missed


def _mirror(joints):
    swap = {'left': 'right', 'right': 'left', 'Left': 'Right', 'Right': 'Left'}

    def other(name):
        for side, opposite in swap.items():
            if side in name:
                return name.replace(side, opposite)
        return name

    return tuple(joints.index(other(name)) for name in joints)


def _make(name, joints, bones, hips, shoulders, angles, *, depth):
    joints = tuple(joints.split())
    place = {joint: number for number, joint in enumerate(joints)}
    return Skeleton(
        name, joints,
        tuple(tuple(place[end] for end in bone.split('-')) for bone in bones.split()),
        _mirror(joints),
        tuple(place[joint] for joint in hips), tuple(place[j] for j in shoulders),
        {angle: tuple(place[joint] for joint in ends.split('-'))
         for angle, ends in angles.items()},
        depth,
    )


# BlazePose GHUM topology, 33 landmarks (Bazarevsky 2020, Fig. 3 of paper 000).
BLAZEPOSE = _make(
    'blazepose',
    '''nose left_eye_inner left_eye left_eye_outer right_eye_inner right_eye
    right_eye_outer left_ear right_ear mouth_left mouth_right left_shoulder
    right_shoulder left_elbow right_elbow left_wrist right_wrist left_pinky right_pinky
    left_index right_index left_thumb right_thumb left_hip right_hip left_knee
    right_knee left_ankle right_ankle left_heel right_heel left_foot_index
    right_foot_index''',
    '''nose-left_eye_inner left_eye_inner-left_eye left_eye-left_eye_outer
    left_eye_outer-left_ear nose-right_eye_inner right_eye_inner-right_eye
    right_eye-right_eye_outer right_eye_outer-right_ear mouth_left-mouth_right
    left_shoulder-right_shoulder left_shoulder-left_elbow left_elbow-left_wrist
    left_wrist-left_pinky left_wrist-left_index left_wrist-left_thumb
    left_pinky-left_index right_shoulder-right_elbow right_elbow-right_wrist
    right_wrist-right_pinky right_wrist-right_index right_wrist-right_thumb
    right_pinky-right_index left_shoulder-left_hip right_shoulder-right_hip
    left_hip-right_hip left_hip-left_knee left_knee-left_ankle left_ankle-left_heel
    left_heel-left_foot_index left_ankle-left_foot_index right_hip-right_knee
    right_knee-right_ankle right_ankle-right_heel right_heel-right_foot_index
    right_ankle-right_foot_index''',
    ('left_hip', 'right_hip'), ('left_shoulder', 'right_shoulder'),
    {
        'left elbow': 'left_shoulder-left_elbow-left_wrist',
        'right elbow': 'right_shoulder-right_elbow-right_wrist',
        'left shoulder': 'left_elbow-left_shoulder-left_hip',
        'right shoulder': 'right_elbow-right_shoulder-right_hip',
        'left hip': 'left_shoulder-left_hip-left_knee',
        'right hip': 'right_shoulder-right_hip-right_knee',
        'left knee': 'left_hip-left_knee-left_ankle',
        'right knee': 'right_hip-right_knee-right_ankle',
    },
    depth=False,
)

# Kinect v2, 25 joints (Microsoft's JointType).
KINECT = _make(
    'kinect',
    '''SpineBase SpineMid Neck Head ShoulderLeft ElbowLeft WristLeft HandLeft
    ShoulderRight ElbowRight WristRight HandRight HipLeft KneeLeft AnkleLeft FootLeft
    HipRight KneeRight AnkleRight FootRight SpineShoulder HandTipLeft ThumbLeft
    HandTipRight ThumbRight''',
    '''Head-Neck Neck-SpineShoulder SpineShoulder-SpineMid SpineMid-SpineBase
    SpineShoulder-ShoulderLeft ShoulderLeft-ElbowLeft ElbowLeft-WristLeft
    WristLeft-HandLeft HandLeft-HandTipLeft WristLeft-ThumbLeft
    SpineShoulder-ShoulderRight ShoulderRight-ElbowRight ElbowRight-WristRight
    WristRight-HandRight HandRight-HandTipRight WristRight-ThumbRight
    SpineBase-HipLeft HipLeft-KneeLeft KneeLeft-AnkleLeft AnkleLeft-FootLeft
    SpineBase-HipRight HipRight-KneeRight KneeRight-AnkleRight AnkleRight-FootRight''',
    ('HipLeft', 'HipRight'), ('ShoulderLeft', 'ShoulderRight'),
    {
        'left elbow': 'ShoulderLeft-ElbowLeft-WristLeft',
        'right elbow': 'ShoulderRight-ElbowRight-WristRight',
        'left shoulder': 'ElbowLeft-ShoulderLeft-HipLeft',
        'right shoulder': 'ElbowRight-ShoulderRight-HipRight',
        'left hip': 'ShoulderLeft-HipLeft-KneeLeft',
        'right hip': 'ShoulderRight-HipRight-KneeRight',
        'left knee': 'HipLeft-KneeLeft-AnkleLeft',
        'right knee': 'HipRight-KneeRight-AnkleRight',
        'spine': 'SpineBase-SpineMid-SpineShoulder',
        'neck': 'SpineMid-SpineShoulder-Head',
    },
    depth=True,
)

# BlazePose's networks give a z, in the scale of x, that is this much deeper than their
# own world coordinates: 3.7 to 4.6 times in frames of two videos.
BLAZEPOSE_DEPTH = 1 / 4

SKELETONS = {skeleton.name: skeleton for skeleton in (BLAZEPOSE, KINECT)}


def find_skeleton(name):
    """The skeleton of a name.

    Raises:
        ConfigError: there is none.
    """
    if name not in SKELETONS:
        raise ConfigError('task.skeleton', f'{name!r} is none of {tuple(SKELETONS)}')
    return SKELETONS[name]
