"""Scans and a table of fractures become patches with labels, and with places."""

import functools
import json

import numpy as np
import pytest
import SimpleITK as sitk

from jaxmed.ct import column, patches, path
from jaxmed.data import spines, volumes
from jaxmed.errors import ImageError, RecordError
from tests.commands import drain

BONELESS = spines.BONELESS
CUT = dict(
    box=column.Box(30.0, 20.0, 20.0), height_mm=20.0, context_mm=0.0,
    shape=(10, 10, 8), pixel_mm=2.0, num_patches=6,
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


def write_scan(folder, name, *, depth=40, lowest_hu=-200):
    """HU rise by 10 a slice; 2 mm slices from z = 100 mm upwards."""
    hu = np.broadcast_to(
        (10 * np.arange(depth, dtype=np.int16) + lowest_hu)[:, None, None],
        (depth, 80, 90)).copy()
    hu[:, :, 0] = -1000  # air, beside all patches
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
    assert found == {
        'scans': 1, 'excluded': {}, 'unprocessable': {}, 'unprocessable_targets': {},
        'outside': {}}
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


def test_a_context_shows_more_and_leaves_places_and_labels_as_they_are(tmp_path):
    write_scan(tmp_path, 'a')
    table = 'a,1,150', 'a,,105'
    (plain,), _ = read(tmp_path, *table)
    (wide,), _ = read(tmp_path, *table, context_mm=10.0, shape=(20, 10, 8))
    for name in ('targets', 'span_mm', 'position', 'pitch_mm', 'patch_mask'):
        np.testing.assert_allclose(wide[name], plain[name], atol=1e-5)
    assert wide['context_mm'] == 10
    inner = slice(5, 15)  # rows of 2 mm
    np.testing.assert_allclose(
        wide['inputs'][:4, inner], plain['inputs'][:4], atol=1)
    # Half a patch of each neighbour; air beyond the scan's ends.
    np.testing.assert_allclose(
        wide['inputs'][1, :5], plain['inputs'][0, 5:], atol=1)
    assert (wide['inputs'][0, :5] == column.AIR_HU).all()
    assert (wide['inputs'][3, 15:] == column.AIR_HU).all()
    volume = READ(tmp_path / 'a.nii.gz')
    cord = straight(volume, 'a')
    seen = [spines.describe_scan(record, volume, cord) for record in (plain, wide)]
    for name in ('patch', 'bodies'):
        for one, other in zip(*(getattr(scan, name) for scan in seen)):
            np.testing.assert_allclose(one, other, atol=1e-3)
    np.testing.assert_allclose(seen[0].view_rows, seen[1].view_rows, atol=1e-4)
    np.testing.assert_allclose(seen[0].bone, seen[1].bone)


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
    (['b,1,'], "series 'b'"),
    (['a,1,inf'], '0, 1 or nothing'),
])
def test_a_table_that_contradicts_itself_or_the_scan_is_named(tmp_path, lines, words):
    write_scan(tmp_path, 'a')
    with pytest.raises(RecordError, match=words):
        read(tmp_path, *lines)


def test_a_table_tells_which_scans_are_of_one_patient(tmp_path, caplog):
    for name in 'abcd':
        write_scan(tmp_path, name, depth=40 + ord(name) - 97)
    records, _ = read(
        tmp_path, 'a,1,150,Doe', 'a,,105,', 'b,0,,Doe', 'c,0,,Roe', 'd,0,,n/a',
        columns='series,fracture,z_mm,patient_id')
    a, b, c, d = (record['patient_id'] for record in records)
    assert a == b and len({a, c, d}) == 3 and all(len(x) == 16 for x in (a, c, d))
    alone, _ = read(tmp_path, 'd,0,')
    assert alone[0]['patient_id'] == d  # what is written for everybody is nobody
    assert not caplog.records
    with pytest.raises(RecordError, match="line 3: series 'a' is of patient 'Doe' and"):
        read(tmp_path, 'a,1,150,Doe', 'a,,105,Roe',
             columns='series,fracture,z_mm,patient_id')


def test_a_column_that_nothing_reads_is_named(tmp_path, caplog):
    write_scan(tmp_path, 'a')
    read(tmp_path, 'a,1,150,3', columns='series,fracture,z,Grade')
    assert 'labels.csv: not used, column Grade, z' in caplog.text


def test_a_height_beside_the_scan_costs_no_other_label(tmp_path):
    for name in 'abc':
        write_scan(tmp_path, name)
    # Scans reach from 99 to 179 mm: of b nothing is in the scan, of a one of two.
    records, found = read(tmp_path, 'a,1,900', 'a,,105', 'b,1,98', 'b,,900', 'c,1,150')
    a, c = records
    assert (a['case_id'], c['case_id']) == ('a', 'c')
    np.testing.assert_array_equal(a['targets'], [1, 0, 0, 0, 1, np.nan, np.nan])
    assert found['outside'] == {'a': 'z_mm 900 (line 2) of labels.csv: not in the scan'}
    assert found['excluded'] == {
        'b': 'z_mm 98 (line 4), z_mm 900 (line 5) of labels.csv: not in the scan'}
    assert found['scans'] == 3 and not found['unprocessable']
    json.dumps(found)


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
    assert found['unprocessable_targets'] == {'b': 1}
    records, found = read(tmp_path, 'a,1,', num_patches=3)
    assert records == [] and '4 patches' in found['unprocessable']['a']
    _, found = read(tmp_path, 'b,,', find_cord=find_cord)
    assert found['unprocessable_targets'] == {'b': None}


# --- where patches are --------------------------------------------------------------


def volume_of(hu, *, spacing=(2.0, 1.0, 1.0), origin=(-40.0, -30.0, 100.0)):
    """A Volume along the patient's axes, as a file in the same order."""
    d, h, w = spacing
    x, y, z = origin
    affine = np.array([[0, 0, w, x], [0, h, 0, y], [d, 0, 0, z], [0, 0, 0, 1.0]])
    return volumes.Volume(
        np.ascontiguousarray(hu, np.int16), affine, np.eye(4), hu.shape, '',
        {'format': 'NIfTI', 'exclusion': ''})


def describe(volume, cord, **changes):
    record = spines.make_record(volume, cord, case_id='a', **CUT | changes)
    return record, spines.describe_scan(record, volume, cord)


def test_each_patch_is_a_box_in_the_file_and_in_the_patients_millimetres(tmp_path):
    write_scan(tmp_path, 'a', lowest_hu=300)
    record = spines.read_scan(
        tmp_path / 'a.nii.gz', case_id='a', read_volume=READ, find_cord=straight,
        cut=CUT)
    scan = record['scan']
    # 20 mm are 10 slices, the first patch the uppermost; the cord at (39.5, 44.5) in
    # each, and patches reach 30 mm before it, 20 behind and 20 to each side: voxels of
    # 1 mm whose outer edges are at 9.5 and 59.5, 24.5 and 64.5.
    assert scan.patch.voxels.tolist() == [
        [[d, 10, 25], [d + 10, 60, 65]] for d in (30, 20, 10, 0)]
    np.testing.assert_array_equal(scan.patch.source, scan.patch.voxels)
    np.testing.assert_allclose(scan.patch.corners_mm[0], [
        [24.5 - 40, 9.5 - 30, 159], [64.5 - 40, 59.5 - 30, 179]], atol=1e-3)
    # Bodies lie from 50 mm before the cord, which the patch hasn't, to 3 mm before it.
    assert scan.bodies.voxels[0].tolist() == [[30, 10, 25], [40, 37, 65]]
    np.testing.assert_allclose(scan.outline_mm[0], [
        [4.5, -30.5, 179], [4.5, 6.5, 179], [4.5, 6.5, 159], [4.5, -30.5, 159]],
        atol=1e-3)
    np.testing.assert_allclose(
        scan.z_mm, [[159, 179], [139, 159], [119, 139], [99, 119]], atol=1e-3)
    np.testing.assert_array_equal(scan.position, record['position'][:4])
    assert scan.skipped == ('',) * 4 and scan.judged_mm == pytest.approx(80)
    assert scan.facts['format'] == 'NIfTI'
    assert scan.cord == {
        'detected_share': 1.0, 'interpolated_share': 0.0, 'extrapolated_share': 0.0,
        'detections': 40, 'confidence': 1.0, 'longest_gap_mm': 2.0, 'slices': 40,
        'slice_mm': 2.0}
    json.dumps([scan.cord, scan.facts])


def test_boxes_hold_all_of_a_patch_however_the_file_is_turned_or_sheared():
    rng = np.random.default_rng(0)
    volume = volume_of(rng.integers(-200, 900, (40, 90, 90)))
    # A tilted gantry: rows of the file shift with the slices, which it counts from the
    # head, and the patient lies askew.
    to_source = np.array([
        [-1, 0, 0, 39], [0.3, 1, 0, 2], [0, 0, -1, 89], [0, 0, 0, 1.0]])
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    volume.affine[:3, :3] = turn @ volume.affine[:3, :3]
    volume = volume._replace(to_source=to_source, source_shape=(40, 110, 90))
    d = np.arange(40)
    cord = path.Path(
        np.stack(
            [45 + 8 * np.sin(d / 7), 44 + 5 * np.cos(d / 5)], axis=1
        ).astype(np.float32),
        np.ones(40, np.float32), np.zeros(40, np.int8))
    record, scan = describe(volume, cord)
    frame = column.make_frame(cord, spacing_mm=volume.spacing_mm)
    cut = patches.Patches(
        None, record['patch_mask'], record['position'], record['first_mm'],
        record['pitch_mm'], frame)
    for number in range(4):
        places = rng.uniform(-0.5, np.array(CUT['shape']) - 0.5, (2000, 3))
        voxels = np.asarray(patches.patch_to_voxel(
            cut, np.full(2000, number), places.astype(np.float32)))
        voxels = voxels[((voxels > -0.5) & (voxels < [39.5, 89.5, 89.5])).all(axis=1)]
        files = column.voxel_to_patient(to_source, voxels)
        points = column.voxel_to_patient(volume.affine, voxels)
        low, high = scan.patch.source[number]
        assert (files > low - 0.501).all() and (files < high - 0.499).all()
        low, high = scan.patch.corners_mm[number]
        assert (points > low - 1e-3).all() and (points < high + 1e-3).all()
        # And not much more than that: with 2000 points the edges are nearly reached.
        beyond = np.ptp(scan.patch.source[number], axis=0) - np.ptp(files, axis=0)
        assert (beyond < [4, 12, 8]).all(), beyond
    assert not np.array_equal(scan.patch.source, scan.patch.voxels)


def test_the_side_view_is_straight_and_knows_where_patches_are():
    d = np.arange(40)
    bend = 8 * np.sin(d / 7)
    hu = np.full((40, 200, 60), -200)
    for k in d:  # 20 mm before the cord; in patch 2, from slice 10 to 20, missing
        if not 10 <= k < 20:
            middle = int(round(100 + bend[k] - 20))
            hu[k, middle - 2:middle + 3] = 800
    cord = path.Path(
        np.stack([100 + bend, np.full(40, 30.0)], axis=1).astype(np.float32),
        np.ones(40, np.float32), np.zeros(40, np.int8))
    _, scan = describe(volume_of(hu), cord)
    # 80 mm high, 140 mm wide, half a millimetre a pixel; the cord 80 mm from the left.
    assert scan.side_view.shape == (160, 280)
    np.testing.assert_allclose(scan.view_pitch_mm, 0.5)
    np.testing.assert_allclose(
        scan.view_rows, [[0, 40], [40, 80], [80, 120], [120, 160]], atol=1e-3)
    np.testing.assert_allclose(scan.view_columns, [60, 154])
    bright = scan.side_view > 128
    rows = np.flatnonzero(bright.any(axis=1))
    middles = [np.flatnonzero(bright[row]).mean() for row in rows]
    np.testing.assert_allclose(middles, 120, atol=1.6)
    assert not set(range(88, 112)) & set(rows) and len(rows) > 100
    assert (scan.bone[[0, 1, 3]] > 0.1).all() and scan.bone[2] < 0.02


def test_what_lies_beside_the_scan_is_told():
    volume = volume_of(np.zeros((40, 80, 90)))
    cord = path.Path(
        np.full((40, 2), (10.0, 44.5), np.float32), np.ones(40, np.float32),
        np.repeat([1, 0, 1, 0, 2], [5, 1, 27, 1, 6]).astype(np.int8))
    _, scan = describe(volume, cord)
    # From 30 mm to 3 mm before a cord at 10 mm: 7.5 of 27 mm, counted from -0.5.
    np.testing.assert_allclose(scan.inside, 7.5 / 27, atol=1e-4)
    assert scan.skipped == (spines.OUTSIDE,) * 4 and scan.judged_mm == 0
    # The region ends in the middle of voxel 7, which is part of it.
    assert (scan.bodies.voxels[:, :, 1] == [0, 8]).all()
    assert scan.cord['longest_gap_mm'] == 56 and scan.cord['detections'] == 2
    assert scan.cord['extrapolated_share'] == 0.15


def test_a_network_sees_no_patch_without_bone_or_outside_of_the_scan(tmp_path):
    """250 HU are bone: from the 26th slice on, so of the upper two patches."""
    write_scan(tmp_path, 'a', lowest_hu=0)
    (whole,), _ = read(tmp_path, 'a,0,')
    record = spines.read_scan(
        tmp_path / 'a.nii.gz', case_id='a', read_volume=READ, find_cord=straight,
        cut=CUT)
    assert record['scan'].skipped == ('', '', spines.BONELESS, spines.BONELESS)
    assert record['scan'].judged_mm == pytest.approx(40)
    assert record['patch_mask'].tolist() == [1, 1, 0, 0, 0, 0]
    # Those that are seen come first, wherever they lie; nothing else changes.
    scan = record['scan']._replace(skipped=(spines.BONELESS, '', spines.OUTSIDE, ''))
    moved = spines.skip_patches(whole, scan)
    for name in ('inputs', 'position', 'span_mm', 'first_mm'):
        np.testing.assert_array_equal(
            moved[name], whole[name][[1, 3, 0, 2, 4, 5]], err_msg=name)
    assert moved['patch_mask'].tolist() == [1, 1, 0, 0, 0, 0]
    assert whole['patch_mask'].tolist() == [1, 1, 1, 1, 0, 0]
    write_scan(tmp_path, 'a')
    with pytest.raises(ImageError, match=f'^a: no patch shows the spine: 4 {BONELESS}'):
        spines.read_scan(
            tmp_path / 'a.nii.gz', case_id='a', read_volume=READ, find_cord=straight,
            cut=CUT)


def test_the_length_that_was_seen_counts_overlaps_once(tmp_path):
    hu = np.full((35, 80, 90), 600)  # 70 mm in four patches of 20, which overlap
    cord = path.Path(
        np.full((35, 2), (40.0, 44.5), np.float32), np.ones(35, np.float32),
        np.zeros(35, np.int8))
    _, scan = describe(volume_of(hu), cord)
    assert len(scan.skipped) == 4 and not any(scan.skipped)
    assert scan.judged_mm == pytest.approx(70, abs=0.1)


def test_a_scan_to_predict_holds_no_volume(tmp_path):
    write_scan(tmp_path, 'a', lowest_hu=300)
    record = spines.read_scan(
        tmp_path / 'a.nii.gz', case_id='a', read_volume=READ, find_cord=straight,
        cut=CUT)
    sizes = [x.nbytes for x in record['scan'] if isinstance(x, np.ndarray)]
    assert sum(sizes) < 100_000  # of 576 KB
