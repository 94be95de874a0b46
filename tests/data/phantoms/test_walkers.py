"""People that move: known truth, whole bodies, and videos in which they are found."""

import os
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from jaxmed.data.phantoms import stick_figures, walkers
from jaxmed.errors import ConfigError, InputError
from jaxmed.pose.skeletons import BLAZEPOSE, KINECT

PLACE = {joint: number for number, joint in enumerate(BLAZEPOSE.joints)}
HEALTHY = dict(
    asymmetry=0.0, lean=0.0, stiffness=0.0, lean_side_deg=0.0, lean_forward_deg=0.0)


def draw(exercise, *, number=0, seed=7, noise=0.0, **traits):
    traits = HEALTHY | traits
    subject = walkers.draw_subject(seed=0, number=number, **traits)
    return subject, walkers.draw_motion(subject, exercise, seed=seed, noise=noise)


def middle(motion, name):
    return motion.world[:, [PLACE[f'left_{name}'], PLACE[f'right_{name}']]].mean(axis=1)


def up_of(motion):
    """The scene's vertical in the camera's axes: along standing legs."""
    way = (middle(motion, 'hip') - middle(motion, 'ankle'))[0]
    return way / np.linalg.norm(way)


def lean_deg(motion):
    """Of the trunk from the legs' direction, while standing at the start."""
    trunk = (middle(motion, 'shoulder') - middle(motion, 'hip'))[0]
    return np.degrees(np.arccos(trunk @ up_of(motion) / np.linalg.norm(trunk)))


def assert_same(first, second):
    for name, value in first._asdict().items():
        np.testing.assert_array_equal(value, getattr(second, name), err_msg=name)


def test_a_walk_is_a_function_of_seed_number_and_exercise_alone():
    few = list(walkers.subjects(count=1, seed=3, exercises=('jump',)))
    more = list(walkers.subjects(count=2, seed=3, exercises=('touch_toes', 'jump')))
    assert_same(few[0].motion, more[1].motion)
    assert few[0].truth == more[1].truth and few[0].subject == more[0].subject
    other = next(walkers.subjects(count=1, seed=4, exercises=('jump',)))
    assert other.truth != few[0].truth
    assert other.subject != few[0].subject  # the first of another set is another one


def test_all_exercises_of_a_subject_have_one_rating():
    walks = list(walkers.subjects(count=2, seed=0, exercises=walkers.EXERCISES))
    assert [walk.exercise for walk in walks] == [*walkers.EXERCISES] * 2
    assert len({walk.rating for walk in walks[:3]}) == 1
    assert walks[0].rating != walks[3].rating
    assert walks[0].motion.joints.shape != walks[1].motion.joints.shape or np.any(
        walks[0].motion.joints != walks[1].motion.joints)


def test_the_rating_is_the_weighted_sum_of_the_traits():
    subject = walkers.draw_subject(
        seed=0, number=0, asymmetry=0.5, lean=0.2, stiffness=1.0)
    walk = walkers.record_exercise(subject, 'walk', seed=0)
    # 0.3 * 0.5 + 0.3 * 0.2 + 0.4 * 1 = 0.61
    assert walk.truth['index'] == pytest.approx(0.61)
    assert walk.rating == pytest.approx(39.0)
    assert walk.truth['stiffness'] == 1.0


def test_indexes_spread_so_that_guessing_the_middle_is_off_by_a_fifth():
    found = [walkers.draw_subject(seed=1, number=n) for n in range(400)]
    index = np.array([subject.index for subject in found])
    assert 0.19 < np.abs(index - np.median(index)).mean() < 0.26
    assert index.min() < 0.1 and index.max() > 0.85
    counts = np.histogram(index, bins=4, range=(0, 1))[0]
    assert counts.min() > 50  # of 100 in each, were it uniform
    traits = np.array([[s.asymmetry, s.lean, s.stiffness] for s in found])
    assert traits.min() >= 0 and traits.max() <= 1
    # No trait gives the others away.
    assert np.corrcoef(traits.T)[np.triu_indices(3, 1)].max() < 0.85


@pytest.mark.parametrize('exercise', walkers.EXERCISES)
def test_bones_keep_their_length_in_every_frame(exercise):
    subject, motion = draw(exercise, stiffness=0.5, asymmetry=0.8)
    for first, last, length_m in (
            ('hip', 'knee', subject.thigh_m), ('knee', 'ankle', subject.shank_m),
            ('shoulder', 'elbow', subject.upper_arm_m),
            ('elbow', 'wrist', subject.forearm_m)):
        for side in ('left', 'right'):
            ends = [motion.world[:, PLACE[f'{side}_{name}']] for name in (first, last)]
            np.testing.assert_allclose(
                np.linalg.norm(ends[0] - ends[1], axis=1), length_m, rtol=1e-4)
    for name, half_m in (('hip', subject.hip_m), ('shoulder', subject.shoulder_m)):
        ends = [motion.world[:, PLACE[f'{side}_{name}']] for side in ('left', 'right')]
        np.testing.assert_allclose(
            np.linalg.norm(ends[0] - ends[1], axis=1), 2 * half_m, rtol=1e-4)


@pytest.mark.parametrize('exercise', walkers.EXERCISES)
def test_all_of_the_person_is_in_the_picture_and_told_from_the_hips(exercise):
    for seed in range(4):
        _, motion = draw(exercise, seed=seed)
        assert motion.skeleton == BLAZEPOSE.name
        assert motion.joints.shape == (len(motion.time_s), 33, 3) == motion.world.shape
        assert motion.joints.dtype == motion.world.dtype == np.float32
        assert np.all(motion.joints[..., :2] >= 0)
        assert np.all(motion.joints[..., :2] < motion.size_hw[::-1])
        hips = motion.joints[:, list(BLAZEPOSE.hips), 2].mean(axis=1)
        np.testing.assert_allclose(hips, 0, atol=1e-2)
        np.testing.assert_allclose(middle(motion, 'hip'), 0, atol=1e-6)
        assert np.all(np.diff(motion.time_s) > 0) and motion.time_s[0] == 0
        assert 4 < motion.time_s[-1] < 8


def test_pixels_are_metres_in_the_scale_of_their_depth():
    # A pinhole: what is nearer than the hips looks larger, in the ratio of the depths.
    subject = walkers.draw_subject(seed=0, number=2)
    walk = walkers.record_exercise(subject, 'touch_toes', seed=1, noise=0.0)
    motion, away_m = walk.motion, walk.truth['distance_m']
    scale = motion.joints[:, :, 2] / np.where(
        np.abs(motion.world[..., 2]) > 0.02, motion.world[..., 2], np.nan)
    at_hips = np.nanmedian(scale, axis=1)
    assert np.nanmax(np.abs(scale / at_hips[:, None] - 1)) < 1e-3
    hips = motion.joints[:, list(BLAZEPOSE.hips), :2].mean(axis=1, keepdims=True)
    offset = motion.joints[..., :2] - hips
    shrunk = offset / at_hips[:, None, None] - motion.world[..., :2]
    # To first order a joint is shifted by its depth over the distance.
    assert np.abs(shrunk).max() < 1.2 * np.abs(motion.world[..., 2]).max() / (
        away_m - 1) * 1.2


def test_the_left_of_who_faces_the_camera_is_on_the_right():
    _, motion = draw('touch_toes')
    first = motion.joints[0]
    assert first[PLACE['left_shoulder'], 0] > first[PLACE['right_shoulder'], 0]
    assert first[PLACE['left_hip'], 0] > first[PLACE['right_hip'], 0]
    assert first[PLACE['nose'], 2] < first[[PLACE['left_ear'], PLACE['right_ear']], 2
                                           ].mean()  # nearer than the ears
    assert first[PLACE['nose'], 1] < first[PLACE['left_hip'], 1]


@pytest.mark.parametrize('exercise', walkers.EXERCISES)
def test_who_leans_stands_at_that_angle(exercise):
    straight = lean_deg(draw(exercise)[1])
    # 12 degrees to one side and none forward, but for hunch and sway.
    leaning = lean_deg(draw(exercise, lean=0.7, lean_side_deg=12.0)[1])
    assert straight < 7 and abs(np.sqrt(leaning**2 - straight**2) - 12) < 4


def test_a_stiff_spine_keeps_its_length_while_the_body_bends():
    def chord(stiffness):
        subject, motion = draw('touch_toes', stiffness=stiffness)
        trunk = np.linalg.norm(middle(motion, 'shoulder') - middle(motion, 'hip'),
                               axis=1)
        return trunk.min() / subject.trunk_m

    # 72 degrees in three pieces (half, 0.3, 0.2 of it) over 0.42, 0.30, 0.28 of the
    # length: the ends at 36, 57.6 and 72 from the root, so the chord is 0.97.
    angle = np.radians(72 * np.cumsum([0.5, 0.3, 0.2]))
    share = [0.42, 0.30, 0.28]
    expected = np.hypot(share @ np.sin(angle), share @ np.cos(angle))
    assert chord(0.0) == pytest.approx(expected, abs=0.015)
    assert chord(1.0) > 0.99


@pytest.mark.parametrize('number', range(6))
def test_a_stiff_person_does_not_reach_the_toes(number):
    def gap_m(stiffness):
        subject, motion = draw('touch_toes', number=number, stiffness=stiffness)
        hands = middle(motion, 'index') - middle(motion, 'foot_index')
        return np.linalg.norm(hands, axis=1).min(), subject.height_m

    # The landmark is a knuckle: who touches with the fingertips is within a hand's
    # length, 0.108 of the height (Winter's table).
    (healthy_m, height_m), (stiff_m, _) = gap_m(0.0), gap_m(1.0)
    assert healthy_m < 0.108 * height_m < stiff_m - 0.05


def steps_m(motion):
    """How far the left foot comes before the right one, and the other way round."""
    feet = motion.world[:, PLACE['left_ankle']] - motion.world[:, PLACE['right_ankle']]
    front = middle(motion, 'foot_index') - middle(motion, 'heel')
    front = front[0] / np.linalg.norm(front[0])
    return (feet @ front).max(), -(feet @ front).min()


def test_the_spared_leg_steps_longer_and_healthy_legs_alike():
    left, right = steps_m(draw('walk')[1])
    assert abs(left - right) < 0.12 * (left + right)
    left, right = steps_m(draw('walk', asymmetry=1.0, weak=1.0)[1])
    assert left > 1.5 * right
    left, right = steps_m(draw('walk', asymmetry=1.0, weak=-1.0)[1])
    assert right > 1.5 * left


def test_a_walk_is_two_metres_and_feet_that_stand_do_not_slide():
    subject = walkers.draw_subject(seed=0, number=0, **HEALTHY)
    plan, _ = walkers._walk(np.random.default_rng(0), subject)
    time_s = np.linspace(0, 6, 361)
    points = walkers._assemble(subject, plan(time_s))
    hips = points[:, list(BLAZEPOSE.hips)].mean(axis=1)
    assert 1.9 < hips[-1, 0] - hips[0, 0] < 2.7
    toes = points[:, [PLACE['left_foot_index'], PLACE['right_foot_index']]]
    moved = np.linalg.norm(np.diff(toes[..., :2], axis=0), axis=-1)
    # One of the feet stands at each moment: less than 3 mm in 1/60 s.
    assert moved.min(axis=1).max() < 0.003
    assert points[..., 2].min() > -0.03  # nobody sinks into the floor
    # The trunk glides: never back, and without jerks.
    speed = np.diff(hips[:, 0]) * 60
    assert speed.min() > -0.05 and np.abs(np.diff(speed)).max() * 60 < 12


def test_flight_follows_gravity():
    subject = walkers.draw_subject(seed=0, number=0, **HEALTHY)
    plan, _ = walkers._jump(np.random.default_rng(0), subject)
    time_s = np.arange(0, 4, 1 / 240)
    points = walkers._assemble(subject, plan(time_s))
    toes = points[:, [PLACE['left_foot_index'], PLACE['right_foot_index']], 2]
    flying = np.flatnonzero(toes.min(axis=1) > 0.04)
    hips = points[flying][:, list(BLAZEPOSE.hips), 2].mean(axis=1)
    fall = 2 * np.polyfit(time_s[flying], hips, 2)[0]
    assert fall == pytest.approx(-9.81, rel=0.02)
    assert np.abs(np.diff(points, axis=0)).max() * 240 < 15  # no joint leaps


def test_stiff_people_jump_less_high_and_crouch_less():
    def rise_and_crouch(stiffness):
        subject = walkers.draw_subject(
            seed=0, number=0, **HEALTHY | {'stiffness': stiffness})
        plan, _ = walkers._jump(np.random.default_rng(0), subject)
        points = walkers._assemble(subject, plan(np.arange(0, 4, 1 / 60)))
        hips = points[:, list(BLAZEPOSE.hips), 2].mean(axis=1)
        return hips.max() - hips[0], hips[0] - hips.min()

    (high, deep), (low, shallow) = rise_and_crouch(0.0), rise_and_crouch(1.0)
    assert high > low + 0.05 and deep > 1.5 * shallow


def test_rotations_turn_left_tilt_forward_and_list_left():
    quarter = np.pi / 2
    for angles, axis, expected in (
            ((quarter, 0, 0), (1, 0, 0), (0, 1, 0)),  # forward turns to the left
            ((0, quarter, 0), (0, 0, 1), (1, 0, 0)),  # up tilts forward
            ((0, 0, quarter), (0, 0, 1), (0, 1, 0))):  # up lists to the left
        turned = walkers._turn(np.array(angles, float)) @ np.array(axis, float)
        np.testing.assert_allclose(turned, expected, atol=1e-12)
    both = walkers._turn(np.array([0.3, -0.8, 1.1]))
    np.testing.assert_allclose(both @ both.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(both) == pytest.approx(1)


def test_noise_drops_frames_and_hides_joints_and_exact_motions_have_none():
    noisy = [draw('walk', seed=seed, noise=1.0)[1] for seed in range(12)]
    assert any(np.isnan(motion.joints).any() for motion in noisy)
    for motion in noisy:
        nobody = np.isnan(motion.joints).all(axis=(1, 2))
        assert motion.counts['frames_nobody'] == nobody.sum() < 0.2 * len(nobody)
        assert np.all(motion.visibility[nobody] == 0)
        assert np.isfinite(motion.joints[~nobody]).all()
        assert motion.visibility.min() >= 0 and motion.visibility.max() <= 1
    intervals = [np.ptp(np.diff(motion.time_s)) for motion in noisy]
    assert min(intervals) < 1e-9 < 1e-3 < max(intervals)
    assert len({round(1 / np.diff(motion.time_s).mean()) for motion in noisy}) > 2
    exact = draw('walk')[1]
    assert np.isfinite(exact.joints).all()
    assert exact.visibility.min() < 0.6 < 0.99 < exact.visibility.max()


def test_a_joint_behind_the_trunk_is_hidden_and_one_before_it_is_not():
    points = np.zeros((1, 33, 3))
    for name, x, y in (('shoulder', 20, 0), ('hip', 12, 60)):
        points[0, PLACE[f'left_{name}']] = x, y, 0
        points[0, PLACE[f'right_{name}']] = -x, y, 0
    for side, z in (('left', 40), ('right', -40)):
        points[0, PLACE[f'{side}_wrist']] = 15, 35, z
    hidden = walkers._hide(points, np.array([180.0]))
    assert hidden[0, PLACE['left_wrist']] == 1 and hidden[0, PLACE['right_wrist']] == 0
    assert hidden[0, PLACE['left_hip']] == 0  # by its own trunk


def test_unknown_exercises_are_refused():
    with pytest.raises(ConfigError, match="'sit' is none of"):
        next(walkers.subjects(count=1, seed=0, exercises=('sit',)))
    with pytest.raises(ConfigError, match="'sit' is none of"):
        walkers.draw_motion(walkers.draw_subject(seed=0, number=0), 'sit', seed=0)


def test_thousands_of_motions_take_a_minute():
    start_s = time.process_time()
    count = len(list(walkers.subjects(count=10, seed=0, exercises=walkers.EXERCISES)))
    assert count / (time.process_time() - start_s) > 50


# Stick figures.


def frames_of(path):
    capture, frames = cv2.VideoCapture(str(path)), []
    while True:
        found, frame = capture.read()
        if not found:
            return frames
        frames.append(frame[..., ::-1])


def test_a_video_has_the_frames_and_landmarks_it_says(tmp_path):
    _, motion = draw('jump')
    joints = stick_figures.write_video(
        tmp_path / 'a.mp4', motion, rate_hz=10.0, size_hw=(240, 320), seed=1)
    frames = frames_of(tmp_path / 'a.mp4')
    assert len(frames) == len(joints) == int(motion.time_s[-1] * 10 + 0.01) + 1
    assert frames[0].shape == (240, 320, 3)
    # Scaled to the smaller side and centred.
    factor = min(240 / motion.size_hw[0], 320 / motion.size_hw[1])
    side = (320 - factor * motion.size_hw[1]) / 2
    np.testing.assert_allclose(
        joints[0, :, 0], motion.joints[0, :, 0] * factor + side, rtol=1e-4)
    # The trunk differs from the wall beside the person.
    trunk = joints[0, [11, 12, 23, 24], :2].mean(axis=0).astype(int)
    wall = frames[0][trunk[1], 2]
    assert np.abs(frames[0][trunk[1], trunk[0]].astype(int) - wall).max() > 30


def test_the_same_seed_gives_the_same_video_and_another_other_clothes(tmp_path):
    _, motion = draw('walk')
    pictures = []
    for name, seed in (('a', 1), ('b', 1), ('c', 2)):
        path = tmp_path / f'{name}.mp4'
        stick_figures.write_video(
            path, motion, rate_hz=2.0, size_hw=(120, 160), seed=seed)
        pictures.append(np.stack(frames_of(path)))
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert np.abs(pictures[0].astype(int) - pictures[2]).mean() > 2


def test_moments_between_frames_are_interpolated_and_gaps_stay_gaps(tmp_path):
    joints = np.zeros((4, 33, 3), np.float32)
    joints[:, :, 0] = np.array([10, 20, np.nan, 40])[:, None]
    motion = draw('walk')[1]._replace(
        joints=joints, time_s=np.array([0.0, 0.2, 0.4, 0.6]), size_hw=(100, 100))
    placed = stick_figures.place_motion(
        motion, rate_hz=10.0, size_hw=(200, 200), where='x')
    np.testing.assert_allclose(
        placed[:, 0, 0], [20, 30, 40, np.nan, np.nan, np.nan, 80], rtol=1e-5)


def test_what_cannot_be_drawn_is_refused_by_name(tmp_path):
    _, motion = draw('walk')
    options = dict(rate_hz=10.0, size_hw=(120, 160), seed=0)
    for bad in (motion._replace(skeleton=KINECT.name), motion._replace(size_hw=None)):
        with pytest.raises(InputError, match='a.mp4: only BlazePose'):
            stick_figures.write_video(tmp_path / 'a.mp4', bad, **options)
    with pytest.raises(ConfigError, match='size_hw'):
        stick_figures.write_video(
            tmp_path / 'a.mp4', motion, **options | {'size_hw': (121, 160)})
    with pytest.raises(ConfigError, match='rate_hz'):
        stick_figures.write_video(
            tmp_path / 'a.mp4', motion, **options | {'rate_hz': 0.0})
    with pytest.raises(InputError, match='b.mp4: the video cannot be written'):
        stick_figures.write_video(tmp_path / 'none' / 'b.mp4', motion, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(
    'JAXMED_SAMPLE_DATA' not in os.environ, reason='JAXMED_SAMPLE_DATA is unset')
def test_mediapipe_finds_the_drawn_person_where_he_is(tmp_path):
    mediapipe = pytest.importorskip('mediapipe')
    from mediapipe.tasks.python import BaseOptions, vision
    model = Path(os.environ['JAXMED_SAMPLE_DATA']) / 'models/pose_landmarker_full.task'
    options = vision.PoseLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=str(model)),
        running_mode=vision.RunningMode.IMAGE)
    found, errors = [], []
    with vision.PoseLandmarker.create_from_options(options) as landmarker:
        for seed, exercise in enumerate(walkers.EXERCISES):
            _, motion = draw(exercise, seed=seed, number=seed)
            path = tmp_path / f'{exercise}.mp4'
            joints = stick_figures.write_video(
                path, motion, rate_hz=2.0, size_hw=(480, 480), seed=seed)
            height_px = stick_figures.measure(joints)
            for number, frame in enumerate(frames_of(path)):
                image = mediapipe.Image(
                    image_format=mediapipe.ImageFormat.SRGB,
                    data=np.ascontiguousarray(frame))
                poses = landmarker.detect(image).pose_landmarks
                found.append(bool(poses))
                for pose in poses:
                    places = np.array([[p.x * 480, p.y * 480] for p in pose])
                    away = np.linalg.norm(places - joints[number, :, :2], axis=1)
                    errors.append(away / height_px[number])
    assert np.mean(found) > 0.85
    assert np.median(errors) < 0.025  # of the height
