"""Scans and a table of fractures become patches with labels."""

import functools

import numpy as np
import pytest
import SimpleITK as sitk

from jaxmed.ct import column, path
from jaxmed.data import spines, volumes
from jaxmed.errors import ImageError, RecordError
from tests.commands import drain

CUT = dict(
    box=column.Box(30.0, 20.0, 20.0), height_mm=20.0, shape=(10, 10, 8), pixel_mm=2.0,
    num_patches=6,
)
READ = functools.partial(
    volumes.read_volume, min_slices=3, max_voxels=2**24, memory_bytes=2**31,
    seconds=60.0)


def straight(volume, case_id):
    """The cord in the middle of every slice."""
    depth, *sides = volume.volume_hu.shape
    middle = (np.array(sides) - 1) / 2 * volume.spacing_mm[1:]
    return path.Path(
        np.tile(middle.astype(np.float32), (depth, 1)), np.ones(depth, np.float32),
        np.zeros(depth, np.int8))


def write_scan(folder, name, *, depth=40):
    """HU rise by 10 a slice; 2 mm slices from z = 100 mm upwards."""
    hu = np.broadcast_to(
        (10 * np.arange(depth, dtype=np.int16) - 200)[:, None, None], (depth, 80, 90))
    image = sitk.GetImageFromArray(np.ascontiguousarray(hu))
    image.SetSpacing((1.0, 1.0, 2.0))
    image.SetOrigin((-40.0, -30.0, 100.0))
    sitk.WriteImage(image, str(folder / f'{name}.nii.gz'))


def read(folder, *lines, find_cord=straight, columns='series,fracture,z_mm', **changes):
    table = folder / 'labels.csv'
    table.write_text('\n'.join([columns, *lines]))
    return drain(spines.read(
        folder, labels=table, read_volume=READ, find_cord=find_cord, **CUT | changes))


def test_patches_hold_the_scans_hu_from_head_to_feet(tmp_path):
    write_scan(tmp_path, 'a')
    (record,), found = read(tmp_path, 'a,0,')
    assert found == {'scans': 1, 'excluded': {}, 'unprocessable': {}}
    assert record['patch_mask'].tolist() == [1, 1, 1, 1, 0, 0]  # 80 mm in four of 20
    assert record['inputs'].shape == (6, 10, 10, 8)
    assert record['inputs'].dtype == np.int16
    # Slices are 2 mm and 10 HU apart, as rows are: from -200 + 390 downwards.
    rows = record['inputs'][:4, :, 4, 4].ravel()
    np.testing.assert_allclose(rows[5:-5], 190 - 10 * np.arange(40)[5:-5], atol=4)
    # The scan reaches from 99 to 179 mm, its outermost slices' edges.
    np.testing.assert_allclose(
        record['span_mm'][:4], [[179, 159], [159, 139], [139, 119], [119, 99]],
        atol=1e-3)
    np.testing.assert_array_equal(record['targets'][:5], 0)
    assert np.isnan(record['targets'][5:]).all()


def test_heights_say_which_patches_are_fractured_and_silence_is_unknown(tmp_path):
    for name in 'abc':
        write_scan(tmp_path, name)
    records, _ = read(tmp_path, 'a,1,150', 'a,,105', 'b.nii.gz,1,', 'c,,')
    a, b, c = (r['targets'] for r in records)
    np.testing.assert_array_equal(a, [1, 0, 1, 0, 1, np.nan, np.nan])
    assert b[0] == 1 and np.isnan(b[1:]).all()
    assert np.isnan(c).all()


@pytest.mark.parametrize('lines, words', [
    (['a,0,150'], 'contradicts the series'), (['a,0,', 'a,1,'], 'contradicts'),
    (['a,2,'], 'fracture is 0, 1 or nothing'), (['a,yes,'], 'not a number'),
    (['a,1,900'], 'z_mm 900.0 is not in the scan a'), (['b,1,'], "series 'b'"),
    (['a,1,inf'], '0, 1 or nothing'),
])
def test_a_table_that_contradicts_itself_or_the_scan_is_named(tmp_path, lines, words):
    write_scan(tmp_path, 'a')
    with pytest.raises(RecordError, match=words):
        read(tmp_path, *lines)


def test_scans_without_a_spine_or_too_long_cost_a_row(tmp_path):
    for name in 'ab':
        write_scan(tmp_path, name)

    def find_cord(volume, case_id):
        if case_id == 'b':
            raise ImageError(case_id, 'no spine found: 0 sure slices, at least 2')
        return straight(volume, case_id)

    records, found = read(tmp_path, 'a,1,', 'b,1,', find_cord=find_cord)
    assert [r['case_id'] for r in records] == ['a']
    assert 'no spine found' in found['unprocessable']['b']
    records, found = read(tmp_path, 'a,1,', num_patches=3)
    assert records == [] and '4 patches' in found['unprocessable']['a']
