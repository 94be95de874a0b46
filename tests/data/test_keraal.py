"""Joints of a picture's shares become pixels."""

import numpy as np

from jaxmed.pose.skeletons import BLAZEPOSE, KINECT
from tests.data.landmark_text import NAMES, PICTURE, frames, read, refuse, save_json


def test_frames_of_json_are_sorted_by_number_and_missing_ones_take_their_time(tmp_path):
    path = save_json(tmp_path / 'a.json', {'positions': frames(10, 2, 1, 3)})
    found = read(path, **PICTURE)
    np.testing.assert_allclose(found.joints[:, 7, 0], [6.4, 12.8, 19.2, 64])
    np.testing.assert_allclose(found.time_s, np.array([0, 1, 2, 9]) / 30)
    assert (found.visibility == 1).all() and found.counts['layout'] == 'keraal'


def test_shares_of_the_picture_become_pixels_and_its_depth_a_quarter(tmp_path):
    path = save_json(tmp_path / 'a.json', {'positions': frames(1)})
    found = read(path, **PICTURE)
    np.testing.assert_allclose(found.joints[0, 0], [6.4, 240, -16], rtol=1e-6)
    assert found.size_hw == (480, 640)


def test_shares_of_a_picture_of_unknown_size_are_refused(tmp_path):
    path = save_json(tmp_path / 'a.json', {'positions': frames(1)})
    refuse(path, 'set landmark_size_hw', skeleton=BLAZEPOSE)


def test_joints_that_json_leaves_out_are_unknown(tmp_path):
    positions = frames(1, 2, 3)
    del positions['1.0']['Nose']
    positions['2.0']['Nose'] = None
    positions['3.0'] = {}
    positions['1.0']['Left_eye'] = [0.1, 0.2, 0.3, 0.4]
    path = save_json(tmp_path / 'a.json', {'positions': positions})
    found = read(path, **PICTURE)
    assert np.isnan(found.joints[:, 0]).all() and np.isnan(found.joints[2]).all()
    assert found.visibility[0, NAMES.index('left_eye')] == np.float32(0.4)
    assert found.counts['frames_nobody'] == 1


def test_other_json_is_refused(tmp_path):
    def blaze(content, reason, **options):
        path = save_json(tmp_path / 'a.json', content)
        refuse(path, reason, **({'skeleton': BLAZEPOSE} | options))

    blaze([1, 2], 'another layout')
    blaze({'landmarks': {}}, 'another layout')
    blaze({'positions': [1]}, 'another layout')
    blaze({'positions': {}}, 'no frames')
    blaze({'positions': {'first': {}}}, "frame 'first' is no number")
    blaze({'positions': {'1': {}, '1.0': {}}}, 'a frame is there twice')
    blaze({'positions': {'1': [1, 2]}}, 'a frame is not joint')
    blaze({'positions': frames(1, 2)}, '2 frames, limit 1', max_frames=1)
    blaze({'positions': frames(1)}, '33 joints, 25 are needed', skeleton=KINECT)
    for point in ([1, 2], 'abc', 7, [1, 2, 'c'], [1, 2, [3]]):
        positions = frames(1, 2)
        positions['2.0']['Nose'] = point
        blaze({'positions': positions}, 'frame 2: a joint is not [x, y, z]')
    path = tmp_path / 'a.json'
    path.write_text('{"positions": {"1.0": ')
    refuse(path, 'not JSON')
    path.write_text('[' * 100000)
    refuse(path, 'not JSON')
