"""Labelled slices: boxes of a table and holes of a mask, in any orientation."""

import functools

import numpy as np
import pytest
import SimpleITK as sitk

from jaxmed.ct import axial
from jaxmed.data import canals, volumes
from jaxmed.errors import RecordError
from tests.commands import drain

GRID = dict(size_px=64, pixel_mm=2.0)
LIMITS = dict(
    min_slices=3, max_voxels=2**24, memory_bytes=2**31, seconds=60.0)
READ = functools.partial(volumes.read_volume, **LIMITS)


def write_scan(path, *, direction=(1, 1, 1), spacing=(1.0, 1.0, 2.0)):
    """A phantom of 20 slices, a bright ring with a hole in slices 5 to 14.

    Returns its array [k, j, i]; the hole is at rows 40-51 and columns 50-65.
    """
    rng = np.random.default_rng(0)
    scan = rng.integers(-50, 50, (20, 100, 120)).astype(np.int16)
    scan[:, 90:] = -1000
    ring = np.zeros(scan.shape, bool)
    ring[5:15, 34:58, 44:72] = True
    ring[5:15, 40:52, 50:66] = False
    scan[ring] = 800
    image = sitk.GetImageFromArray(scan)
    image.SetSpacing(spacing)
    image.SetDirection(np.diag(direction).astype(float).ravel().tolist())
    sitk.WriteImage(image, str(path))
    return scan, ring


def write_table(path, *lines, columns='series,slice,x0,y0,x1,y1'):
    path.write_text('\n'.join([columns, *lines]) + '\n')
    return path


def boxes_of(records):
    return {r['case_id']: r['targets'].tolist() for r in records}


@pytest.mark.parametrize('direction', [(1, 1, 1), (-1, -1, 1), (1, -1, -1)])
def test_pixels_of_a_table_frame_the_same_place_in_any_orientation(tmp_path, direction):
    scan, _ = write_scan(tmp_path / 'a.nii.gz', direction=direction)
    table = write_table(tmp_path / 'boxes.csv', 'a,7,50,40,66,52', 'a.nii.gz,2,,,,')
    found = list(canals.read_boxes(tmp_path, labels=table, read=READ, **GRID))
    assert len(found) == 2
    with_box = next(r for r in found if r['targets'][0])
    x0, y0, x1, y1 = with_box['targets'][1:].astype(int)
    # 16 x 12 mm at 2 mm a pixel; what it frames is dark and its surroundings bright.
    np.testing.assert_allclose([x1 - x0, y1 - y0], [8, 6], atol=1)
    square = with_box['inputs'][..., 0]
    assert square[y0 + 1:y1 - 1, x0 + 1:x1 - 1].max() < 200
    assert square[y0 - 2, x0:x1].min() > 500 and square[y0:y1, x0 - 2].min() > 500
    assert square.dtype == np.int16 and square.shape == (64, 64)
    assert len({r['patient_id'] for r in found}) == 1


def test_millimetres_of_a_table_are_the_patients(tmp_path):
    write_scan(tmp_path / 'a.nii.gz')
    # The first pixel's centre is the origin, so its outer corner is at -0.5 mm.
    mm = write_table(
        tmp_path / 'mm.csv', 'a,7,49.5,39.5,65.5,51.5',
        columns='series,slice,x0_mm,y0_mm,x1_mm,y1_mm')
    pixels = write_table(tmp_path / 'px.csv', 'a,7,50,40,66,52')
    one, two = (
        boxes_of(canals.read_boxes(tmp_path, labels=t, read=READ, **GRID))
        for t in (mm, pixels))
    assert one.keys() == two.keys()
    np.testing.assert_allclose(*(list(b.values()) for b in (one, two)), atol=1e-4)


def test_masks_have_their_canals_found_by_their_holes(tmp_path):
    (tmp_path / 'scans').mkdir()
    (tmp_path / 'masks').mkdir()
    scan, ring = write_scan(tmp_path / 'scans' / 'a.nii.gz', direction=(-1, -1, 1))
    ring[8, 34:40, 56:59] = False  # a narrow gap is closed
    ring[9, 34:40, 50:66] = False  # a ring that is open is none
    image = sitk.GetImageFromArray(ring.astype(np.uint8))
    image.CopyInformation(sitk.ReadImage(str(tmp_path / 'scans' / 'a.nii.gz')))
    sitk.WriteImage(image, str(tmp_path / 'masks' / 'a.nii.gz'))
    found = list(canals.read_masks(
        tmp_path / 'scans', labels=tmp_path / 'masks', step_mm=4.0, read=READ,
        read_mask=volumes.read_mask, **GRID))
    numbers = [int(r['case_id'].rpartition('/')[2]) for r in found]
    assert numbers == [5, 7, 10, 12, 14]  # every 4 mm, without 9
    for record in found:
        x0, y0, x1, y1 = record['targets'][1:]
        np.testing.assert_allclose([x1 - x0, y1 - y0], [8, 6], atol=0.1)


def test_scans_that_can_not_be_used_are_counted_and_the_others_go_on(tmp_path):
    for folder in ('scans', 'masks'):
        (tmp_path / folder).mkdir()
    _, ring = write_scan(tmp_path / 'scans' / 'a.nii.gz')
    for name in 'bcd':
        write_scan(tmp_path / 'scans' / f'{name}.nii.gz')
    (tmp_path / 'scans' / 'e.nii.gz').write_bytes(b'torn')
    image = sitk.GetImageFromArray(ring.astype(np.uint8))
    image.SetSpacing((1.0, 1.0, 2.0))
    for name in ('a_seg', 'c_one', 'c_two'):
        sitk.WriteImage(image, str(tmp_path / 'masks' / f'{name}.nii.gz'))
    sitk.WriteImage(image[:, :, 2:], str(tmp_path / 'masks' / 'd.nii.gz'))
    found, counts = drain(canals.read_masks(
        tmp_path / 'scans', labels=tmp_path / 'masks', step_mm=4.0, read=READ,
        read_mask=volumes.read_mask, **GRID))
    assert {r['case_id'][0] for r in found} == {'a'}
    assert counts['scans'] == 5 and counts['excluded'] == {}
    reasons = counts['unprocessable']
    assert reasons['b'] == 'no mask' and reasons['c'] == 'several masks'
    assert set(reasons) == {'b', 'c', 'd', 'e'}


def test_scans_that_the_paper_leaves_out_are_named(tmp_path):
    write_scan(tmp_path / 'a.nii.gz')

    def read(path):
        volume = READ(path)
        return volume._replace(facts={**volume.facts, 'exclusion': 'cardiac CT'})

    table = write_table(tmp_path / 'boxes.csv', 'a,7,50,40,66,52')
    found, counts = drain(canals.read_boxes(tmp_path, labels=table, read=read, **GRID))
    assert found == [] and counts['excluded'] == {'a': 'cardiac CT'}


def test_a_tilted_gantry_moves_boxes_with_their_slices(tmp_path):
    """20 degrees, 2 mm slices: 0.73 mm of shear a slice, in 0.5 mm pixels 1.46."""
    shear = 1.456
    to_source = np.eye(4)
    to_source[1] = [-shear, 1, 0, 30]  # the file's row of voxel (d, h, w)
    affine = np.array([[0, 0, 0.5, -60], [-0.2, 0.5, 0, -80], [2.0, 0.1, 0, 9],
                       [0, 0, 0, 1]], float)
    volume = volumes.Volume(
        np.zeros((20, 300, 240), np.int16), affine, to_source, (20, 240, 240), 'x',
        {'exclusion': ''})
    for place in (0, 7, 19):
        assert canals.slice_number(volume, place) == place
        assert canals._slice_of(volume, place) == place
        low, high = np.array([100.0, 110.0]), np.array([130.0, 150.0])  # (h, w)
        corners = [  # (x, y) of both, as the file and as the patient have them
            np.array([w, h - shear * place + 30]) for h, w in (low, high)]
        box = canals._to_voxels(volume, place, np.array(corners), canals._PIXELS)
        np.testing.assert_allclose(box, [*low, *high])
        corners_mm = [
            (affine @ [place, h - 0.5, w - 0.5, 1])[:2] for h, w in (low, high)]
        box = canals._to_voxels(volume, place, np.array(corners_mm), canals._MM)
        np.testing.assert_allclose(box, [*low, *high])


def test_places_in_a_square_and_in_the_table_agree_with_the_pixels(tmp_path):
    scan, _ = write_scan(tmp_path / 'a.nii.gz')
    volume = READ(tmp_path / 'a.nii.gz')
    for number in (0, 7, 19):
        place = canals._slice_of(volume, number)
        assert canals.slice_number(volume, place) == number
        np.testing.assert_array_equal(
            np.sort(volume.volume_hu[place].ravel()), np.sort(scan[number].ravel()))
    assert axial.to_square([50, 60], (100, 120), (1, 1), **GRID).tolist() == [32, 32]


@pytest.mark.parametrize('lines, columns, words', [
    (['a,7,1,1,5,5'], 'series,slice,x0,y0,x1', "no column 'y1'"),
    ([], 'series,slice,x0,y0,x1,y1', 'no rows'),
    (['a,x,1,1,5,5'], 'series,slice,x0,y0,x1,y1', 'line 2: not a number'),
    (['a,7,nan,1,5,5'], 'series,slice,x0,y0,x1,y1', 'line 2: not a number'),
    (['a,77,1,1,5,5'], 'series,slice,x0,y0,x1,y1', 'line 2: slice 77 is not in a'),
    (['a,7,5,5,5,9'], 'series,slice,x0,y0,x1,y1', 'line 2: the box is empty'),
    (['a,7,5,5,500,9'], 'series,slice,x0,y0,x1,y1', 'outside of its slice'),
    (['b,7,1,1,5,5'], 'series,slice,x0,y0,x1,y1', "series 'b' is not in"),
    (['a,7,1,1,5,5', 'a.nii.gz,7,1,1,5,5'], 'series,slice,x0,y0,x1,y1',
     'line 3: slice 7 comes twice'),
    (['../a,7,1,1,5,5'], 'series,slice,x0,y0,x1,y1', "series '../a' is not in"),
])
def test_a_table_that_does_not_fit_is_named(tmp_path, lines, columns, words):
    write_scan(tmp_path / 'a.nii.gz')
    table = write_table(tmp_path / 'boxes.csv', *lines, columns=columns)
    with pytest.raises(RecordError, match=words) as error:
        list(canals.read_boxes(tmp_path, labels=table, read=READ, **GRID))
    assert 'boxes.csv' in str(error.value)
