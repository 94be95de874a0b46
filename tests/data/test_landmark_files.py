"""Landmark files: what is written is read back; clear refusals."""

import gzip

import numpy as np
import pytest

from jaxmed.data import landmark_files
from jaxmed.data.landmark_files import write_motion
from jaxmed.errors import InputError
from jaxmed.pose.skeletons import BLAZEPOSE
from tests.data.landmark_text import (
    PICTURE,
    body,
    frames,
    read,
    refuse,
    save_json,
    save_kimore,
)


@pytest.mark.parametrize('name', ['a.csv', 'a.csv.gz'])
def test_what_is_written_is_read_back_to_the_last_bit(tmp_path, motion, name):
    write_motion(tmp_path / name, motion)
    back = read(tmp_path / name, skeleton='blazepose')
    np.testing.assert_array_equal(back.joints, motion.joints)
    np.testing.assert_array_equal(back.visibility, motion.visibility)
    np.testing.assert_array_equal(back.time_s, motion.time_s)
    assert back.joints.dtype == back.visibility.dtype == np.float32
    assert back.counts == {'layout': 'named columns', 'frames': 4, 'frames_nobody': 1}
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_equal_motions_become_equal_files(tmp_path, motion):
    for name in ('a.csv.gz', 'b.csv.gz'):
        write_motion(tmp_path / name, motion)
    assert (tmp_path / 'a.csv.gz').read_bytes() == (tmp_path / 'b.csv.gz').read_bytes()
    with pytest.raises(InputError, match='written as .csv or .csv.gz'):
        write_motion(tmp_path / 'a.json', motion)


def test_files_that_are_no_text_or_not_there_are_refused(tmp_path):
    path = tmp_path / 'a.csv'
    refuse(path, 'no such file')
    refuse(tmp_path, 'not a file')
    path.write_bytes(b'')
    refuse(path, 'empty file')
    path.write_bytes(b'\xff\xd8\xff\xe0' * 9)
    refuse(path, 'not text')
    path.write_bytes(b'1,2\0')
    refuse(path, 'not text')
    path.write_bytes(gzip.compress(b'1,2,3\n' * 9999)[:-20])
    refuse(path, 'damaged or truncated')


def test_a_gzip_bomb_is_left_before_it_fills_the_memory(tmp_path):
    path = tmp_path / 'a.csv.gz'
    path.write_bytes(gzip.compress(b'0,' * (8 << 20), 1))
    refuse(path, 'over 1 MiB, the limit for 3 frames', max_frames=3)


def test_the_size_of_a_picture_leaves_pixels_and_metres_alone(tmp_path, motion):
    write_motion(tmp_path / 'a.csv', motion)
    found = read(tmp_path / 'a.csv', **PICTURE)
    np.testing.assert_array_equal(found.joints, motion.joints)
    path = save_kimore(tmp_path / 'b.csv', [body(0.5)])
    metres = read(path, size_hw=(480, 640))
    np.testing.assert_array_equal(metres.joints, read(path).joints)
    assert found.size_hw is metres.size_hw is None


def test_numbers_of_frames_far_apart_and_too_long_a_recording_are_refused(tmp_path):
    path = save_json(tmp_path / 'a.json', {'positions': {
        '0': frames(1)['1.0'], '1e12': frames(1)['1.0']}})
    refuse(path, 'limit 60', **PICTURE)
    path = save_kimore(tmp_path / 'b.csv', [body()] * 62)
    assert read(path, rate_hz=1.0, max_seconds=61.0).time_s[-1] == 61
    refuse(path, 'are 61 s, limit 60', rate_hz=1.0)


def test_landmark_files_of_a_folder_are_found_and_tables_of_ratings_are_not(tmp_path):
    for name in ('b.csv', 'a/c.JSON', 'a.csv.gz', 'ratings.csv', '.d.csv', 'e.mp4'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('')
    found = landmark_files.find_motions(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        'a/c.JSON', 'a.csv.gz', 'b.csv']
    assert landmark_files.find_motions(tmp_path / 'b.csv') == [tmp_path / 'b.csv']
    with pytest.raises(InputError, match='no such file or folder'):
        landmark_files.find_motions(tmp_path / 'x')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(InputError, match='no files of landmarks'):
        landmark_files.find_motions(tmp_path / 'empty')


def test_real_single_poses_and_keraal_files_are_read(sample_data):
    poses = read(sample_data / 'pose/blazepose/landmarks.csv', skeleton=BLAZEPOSE)
    assert poses.joints.shape == (600, 33, 3) and np.isfinite(poses.joints).all()
    for path in sample_data.glob('pose/keraal/*.json'):
        found = read(path, **PICTURE)
        assert len(found.time_s) > 150 and found.counts['frames_nobody'] == 0
