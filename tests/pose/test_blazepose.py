"""BlazePose in JAX: its geometry by hand, and its landmarks against MediaPipe's."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmed.errors import InputError
from jaxmed.pose import blazepose
from jaxmed.pose.blazepose import Regions

RNG = np.random.default_rng(0)


def regions(*rows):
    """(x, y, size, degrees) each."""
    rows = np.array(rows, np.float32)
    return Regions(rows[:, :2], rows[:, 2], np.radians(rows[:, 3]))


# Geometry.


def test_anchors_are_the_middles_of_cells():
    anchors = blazepose._ANCHORS
    assert anchors.shape == (28 * 28 * 2 + 14 * 14 * 2 + 7 * 7 * 6, 2)
    np.testing.assert_allclose(anchors[:3], [[4 / 224] * 2] * 2 + [[12 / 224, 4 / 224]])
    np.testing.assert_allclose(anchors[-6:], [[208 / 224] * 2] * 6)


def test_a_square_frame_of_the_right_size_is_not_changed_by_the_letterbox():
    frames = RNG.integers(0, 256, (2, 8, 8, 3), np.uint8)
    np.testing.assert_array_equal(blazepose.letterbox(frames, 8), frames)


def test_the_letterbox_puts_black_at_both_sides():
    frames = np.full((1, 16, 8, 3), 200, np.uint8)
    square = np.asarray(blazepose.letterbox(frames, 8))[0, ..., 0]
    # 16 rows on 8; 8 columns on the 4 in the middle.
    np.testing.assert_array_equal(square, [[0, 0, 200, 200, 200, 200, 0, 0]] * 8)


def test_an_upright_crop_of_the_whole_frame_is_the_frame():
    frames = RNG.integers(0, 256, (1, 8, 8, 3), np.uint8)
    found = blazepose.crop(frames, regions((4, 4, 8, 0)), 8)
    np.testing.assert_array_equal(found, frames)


def test_a_crop_turned_a_quarter_stands_a_lying_person_up():
    # The white pixel is at the right of the middle; clockwise from up to right is 90.
    frames = np.zeros((1, 9, 9, 3), np.uint8)
    frames[0, 4, 6] = 255
    found = blazepose.crop(frames, regions((4, 4, 8, 90)), 8)
    assert np.argwhere(np.asarray(found)[0, ..., 0] > 200).tolist() == [[2, 4]]


def test_beyond_the_frame_a_crop_repeats_its_edge():
    frames = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1).repeat(3, axis=-1)
    found = np.asarray(blazepose.crop(frames, regions((2, 2, 8, 0)), 8))[0, ..., 0]
    np.testing.assert_array_equal(found[0], [0, 0, 0, 1, 2, 3, 3, 3])
    np.testing.assert_array_equal(found[:, 7], [3, 3, 3, 7, 11, 15, 15, 15])


@pytest.mark.parametrize('point, degrees', [
    ((100, 60), 0), ((140, 100), 90), ((60, 100), -90), ((100, 140), -180)])
def test_a_region_is_a_quarter_wider_than_its_circle(point, degrees):
    found = blazepose._region(jnp.array([[100.0, 100.0]]), jnp.array([point], float))
    np.testing.assert_allclose(found.size, 2 * 40 * 1.25, rtol=1e-6)
    np.testing.assert_allclose(np.degrees(found.angle), degrees, atol=1e-3)


# The detector's outputs.


def outputs(*people):
    """Of anchors (number, score, (x, y), radius), in the square's pixels."""
    boxes = np.zeros((1, 2254, 12), np.float32)
    logits = np.full((1, 2254), -50, np.float32)
    for number, score, (x, y), radius in people:
        origin = blazepose._ANCHORS[number] * 224
        boxes[0, number] = [x, y, 20, 20, x, y, x, y - radius, 0, 0, 0, 0]
        boxes[0, number, [0, 4, 6]] -= origin[0]
        boxes[0, number, [1, 5, 7]] -= origin[1]
        logits[0, number] = np.log(score / (1 - score))
    return boxes, logits


def test_boxes_that_overlap_are_one_person_weighed_by_scores():
    boxes, logits = outputs((5, 0.9, (100, 100), 40), (900, 0.6, (105, 100), 50))
    found = blazepose.find_people(boxes, logits, (448, 448))
    assert found.people.tolist() == [1] and found.present.tolist() == [True]
    # (0.9 * 100 + 0.6 * 105) / 1.5 = 102; radius (0.9 * 40 + 0.6 * 50) / 1.5 = 44.
    np.testing.assert_allclose(found.region.centre, [[204, 200]], rtol=1e-5)
    np.testing.assert_allclose(found.region.size, [2 * 1.25 * 88], rtol=1e-5)
    np.testing.assert_allclose(found.score, [0.9], rtol=1e-5)


def test_of_two_people_the_largest_is_taken():
    boxes, logits = outputs(
        (5, 0.9, (50, 100), 20), (900, 0.6, (150, 100), 40), (7, 0.4, (200, 9), 90))
    found = blazepose.find_people(boxes, logits, (224, 112))
    assert found.people.tolist() == [2]
    # The square is 56 pixels wider than the frame at either side.
    np.testing.assert_allclose(found.region.centre, [[94, 100]], rtol=1e-5)


def test_a_poor_guess_is_not_taken_for_being_a_little_larger():
    boxes, logits = outputs((5, 0.9, (50, 100), 40), (900, 0.51, (150, 100), 41))
    found = blazepose.find_people(boxes, logits, (224, 224))
    np.testing.assert_allclose(found.region.centre, [[50, 100]], rtol=1e-4)


def test_points_are_averaged_exactly_wherever_it_is_computed():
    boxes, logits = outputs((5, 0.9, (50, 100), 40))
    graph = str(jax.make_jaxpr(
        lambda *x: blazepose.find_people(*x, (224, 224)))(boxes, logits))
    products = graph.count('dot_general')
    assert products and graph.count('precision=(Precision.HIGHEST') == products


def test_an_empty_picture_has_nobody():
    boxes, logits = outputs()
    found = blazepose.find_people(boxes, logits, (224, 224))
    assert found.people.tolist() == [0] and found.present.tolist() == [False]


# The landmark network's outputs.


def raw_outputs(x=128.0, y=128.0):
    raw = np.zeros((1, 39, 5), np.float32)
    raw[..., 0], raw[..., 1], raw[..., 2], raw[..., 3] = x, y, 64, np.log(3)
    maps = np.full((1, 64, 64, 39), -9, np.float32)
    world = np.tile(np.array([0.1, 0.2, 0.3], np.float32), 39)[None]
    return raw.reshape(1, -1), maps, world


def test_landmarks_are_turned_and_scaled_back_into_the_frame():
    raw, maps, world = raw_outputs(x=192.0)  # a quarter of the side right of the middle
    found, _ = blazepose.place_landmarks(
        raw, np.array([0.9]), maps, world, regions((300, 200, 400, 90)))
    # Right of a person turned clockwise by a quarter is down.
    np.testing.assert_allclose(found['joints'][0, 7], [300, 300, 100], rtol=1e-5)
    np.testing.assert_allclose(found['world'][0, 7], [-0.2, 0.1, 0.3], rtol=1e-5)
    np.testing.assert_allclose(found['visibility'], np.full((1, 33), 0.75), rtol=1e-5)
    assert found['joints'].shape == (1, 33, 3) and found['people'].tolist() == [1]


def test_nobody_has_no_landmarks():
    raw, maps, world = raw_outputs()
    found, _ = blazepose.place_landmarks(
        raw, np.array([0.4]), maps, world, regions((300, 200, 400, 0)))
    assert not found['present'][0] and not found['visibility'].any()
    assert np.isnan(found['joints']).all() and np.isnan(found['world']).all()


def test_a_sure_map_moves_a_landmark_to_its_middle_and_an_unsure_one_does_not():
    places = np.full((1, 3, 2), [32.5 / 64, 20.5 / 64], np.float32)
    places[0, 2] = [1.2, 0.5]  # outside
    maps = np.full((1, 64, 64, 3), -30, np.float32)
    maps[0, 22, [33, 34], :] = 20  # sure: both count 1
    maps[..., 1] = -1  # never above a half
    found = blazepose._refine(places, maps)[0]
    np.testing.assert_allclose(found[0], [33.5 / 64, 22 / 64], rtol=1e-5)
    np.testing.assert_array_equal(found[1:], places[0, 1:])


def test_a_map_counts_three_cells_around_only():
    places = np.full((1, 1, 2), [32.5 / 64, 20.5 / 64], np.float32)
    maps = np.full((1, 64, 64, 1), -30, np.float32)
    maps[0, 20, [29, 36], :] = 20  # 36 is four away
    np.testing.assert_allclose(blazepose._refine(places, maps)[0, 0, 0], 29 / 64)


# Smoothing.


def moving(values):
    """Landmarks of one video, all joints' x as given."""
    joints = np.zeros((1, 33, 3), np.float32)
    joints[..., 0] = values
    world = np.zeros((1, 33, 3), np.float32)
    world[0, 0, :2] = 1  # the body is 1 m
    return {'present': np.array([True]), 'joints': joints, 'world': world,
            'visibility': np.full((1, 33), values / 100, np.float32),
            'people': np.array([1])}


def test_the_second_frame_is_smoothed_as_worked_out_by_hand():
    tracks = blazepose.BlazePose.first_tracks(1)
    tracks = tracks._replace(region=regions((0, 0, 50, 0)))
    first, tracks = blazepose.smooth(moving(10), tracks, np.array([0.1]))
    np.testing.assert_allclose(first['joints'][0, :, 0], 10)
    np.testing.assert_allclose(first['visibility'], 0.1)
    second, tracks = blazepose.smooth(moving(15), tracks, np.array([0.1]))
    speed = 5 / 50 / 0.1 / (1 + 1 / (2 * np.pi * 0.1))  # of the cutoff 1 Hz
    share = 1 / (1 + 1 / (2 * np.pi * (0.05 + 80 * speed) * 0.1))
    np.testing.assert_allclose(
        second['joints'][0, :, 0], 10 + 5 * share, rtol=1e-5)
    np.testing.assert_allclose(second['visibility'], 0.1 * 0.15 + 0.9 * 0.1, rtol=1e-5)


def test_smoothing_starts_anew_after_nobody_was_there():
    tracks = blazepose.BlazePose.first_tracks(1)
    tracks = tracks._replace(region=regions((0, 0, 50, 0)))
    _, tracks = blazepose.smooth(moving(10), tracks, np.array([0.1]))
    gone = moving(np.nan)
    gone['present'] = np.array([False])
    nobody, tracks = blazepose.smooth(gone, tracks, np.array([0.1]))
    assert np.isnan(nobody['joints'][0, :, 0]).all() and not tracks.tracked[0]
    back, tracks = blazepose.smooth(moving(90), tracks, np.array([0.1]))
    np.testing.assert_allclose(back['joints'][0, :, 0], 90)
    assert np.isfinite(tracks.joints.speed).all()


# Batches and bad input.


def test_batches_are_filled_up_to_a_power_of_two_and_cut_again(monkeypatch):
    monkeypatch.setattr(blazepose, '_MAX_BATCH', 4)
    sizes = []

    def total(params, frames):
        sizes.append(len(frames))
        return frames.astype(jnp.float32).sum((1, 2, 3))

    frames = RNG.integers(0, 256, (7, 2, 2, 3), np.uint8)
    found = blazepose._in_batches(total, None)(frames)
    np.testing.assert_array_equal(found, frames.sum((1, 2, 3)))
    blazepose._in_batches(total, None)(frames[:5])
    assert sizes == [4, 1]  # compiled: 4 + 3 filled up to 4, then 4 + 1


def test_videos_side_by_side_are_filled_up_too_and_may_come_as_a_tuple():
    sizes = []

    def move(params, frames, tracks, step_s):
        sizes.append(len(frames))
        total = frames.astype(jnp.float32).sum((1, 2, 3))
        return total, tracks + total * step_s

    track = blazepose._side_by_side(move, None)
    frames = RNG.integers(0, 256, (3, 2, 2, 3), np.uint8)
    totals = frames.sum((1, 2, 3))
    steps = [1.0, 2.0, 0.5]
    for given in (frames, tuple(frames)):
        found, moved = track(given, np.ones(3, np.float32), step_s=steps)
        np.testing.assert_array_equal(found, totals)
        np.testing.assert_allclose(moved, 1 + totals * steps)
    assert sizes == [4, 4]
    for wrong in ((), (frames[0], frames[0][:1])):
        with pytest.raises(InputError, match='none, or of several sizes'):
            track(wrong, np.ones(len(wrong), np.float32), step_s=steps[:len(wrong)])


@pytest.mark.parametrize('shape, kind', [
    ((2, 8, 8, 3), np.float32), ((8, 8, 3), np.uint8), ((2, 8, 8, 4), np.uint8),
    ((0, 8, 8, 3), np.uint8), ((2, 1, 8, 3), np.uint8)])
def test_frames_of_another_kind_are_refused(shape, kind):
    with pytest.raises(InputError, match='frames'):
        blazepose._check(np.zeros(shape, kind))


# Against MediaPipe.


@pytest.fixture(scope='module')
def folder():
    if not os.environ.get('JAXMED_SAMPLE_DATA'):
        pytest.skip('JAXMED_SAMPLE_DATA is not set')
    return Path(os.environ['JAXMED_SAMPLE_DATA'])


@pytest.fixture(scope='module')
def bundle(folder):
    return folder / 'models' / 'pose_landmarker_full.task'


@pytest.fixture(scope='module')
def model(bundle):
    return blazepose.load(bundle, sha256='', dtype=jnp.float32)


def read_frames(path, numbers):
    cv2 = pytest.importorskip('cv2')
    video, frames = cv2.VideoCapture(str(path)), []
    for number in range(max(numbers) + 1):
        found, frame = video.read()
        assert found
        if number in numbers:
            frames.append(np.ascontiguousarray(frame[..., ::-1]))
    return np.stack(frames)


def landmarks_of(frames, bundle, *, times_ms=None):
    """MediaPipe's, [B, 33, 2] in pixels; smoothed if there are times."""
    mediapipe = pytest.importorskip('mediapipe')
    tasks = mediapipe.tasks
    options = tasks.vision.PoseLandmarkerOptions(
        base_options=tasks.BaseOptions(model_asset_path=str(bundle)),
        running_mode=tasks.vision.RunningMode['VIDEO' if times_ms else 'IMAGE'])
    found = []
    with tasks.vision.PoseLandmarker.create_from_options(options) as landmarker:
        for number, frame in enumerate(frames):
            image = mediapipe.Image(
                image_format=mediapipe.ImageFormat.SRGB, data=frame)
            result = (landmarker.detect_for_video(image, times_ms[number]) if times_ms
                      else landmarker.detect(image))
            found.append([
                (one.x * frame.shape[1], one.y * frame.shape[0])
                for one in result.pose_landmarks[0]])
    return np.array(found)


def test_landmarks_are_within_one_percent_of_the_height_of_mediapipes(
        folder, bundle, model):
    paths = sorted((folder / 'pose' / 'video').glob('*.mp4'))
    assert len(paths) == 2
    frames = np.concatenate([read_frames(path, (10, 30)) for path in paths])
    found = model.image(frames)
    assert found['present'].tolist() == [True] * 4
    assert found['people'].tolist() == [1] * 4
    away = np.linalg.norm(
        found['joints'][..., :2] - landmarks_of(frames, bundle), axis=-1)
    height = frames.shape[1]
    assert away.max() < 0.01 * height
    assert np.median(away) < 0.001 * height


def test_a_followed_person_is_where_mediapipes_video_mode_says(folder, bundle, model):
    path = sorted((folder / 'pose' / 'video').glob('*.mp4'))[0]
    frames = read_frames(path, (0, 1, 2, 3))
    step_s = np.full(4, 0.017)
    tracks = model.first_tracks(1)
    found, tracks = model.follow(frames, tracks, step_s=step_s)
    assert bool(tracks.tracked[0]) and found['people'].tolist() == [1] * 4
    wanted = landmarks_of(frames, bundle, times_ms=[1000, 1017, 1034, 1051])
    away = np.linalg.norm(found['joints'][..., :2] - wanted, axis=-1)
    assert away.max() < 0.01 * frames.shape[1]


def test_a_blank_frame_has_nobody(model):
    found = model.image(np.full((4, 1920, 1080, 3), 127, np.uint8))
    assert not np.any(found['present']) and not np.any(found['people'])
    assert np.isnan(found['joints']).all() and not np.any(found['visibility'])
