"""The right series of a folder, as one regular stack; or one line that says why not."""

import hashlib
import json

import numpy as np
import pytest

from jaxmed.data import dicom_series
from jaxmed.errors import ImageError

CT, ENHANCED = '1.2.840.10008.5.1.4.1.1.2', '1.2.840.10008.5.1.4.1.1.2.1'
CAPTURE = '1.2.840.10008.5.1.4.1.1.7'
IMAGE_TYPE, CLASS, MODALITY = (0x8, 0x8), (0x8, 0x16), (0x8, 0x60)
DESCRIPTION, PROTOCOL, KERNEL = (0x8, 0x103E), (0x18, 0x1030), (0x18, 0x1210)
ACQUISITION, SERIES, STUDY = (0x20, 0x12), (0x20, 0xE), (0x20, 0xD)
POSITION, ORIENTATION, SPACING = (0x20, 0x32), (0x20, 0x37), (0x28, 0x30)
PADDING = (0x28, 0x120)
INTERCEPT, SLOPE, CENTRE = (0x28, 0x1052), (0x28, 0x1053), (0x28, 0x1050)
AXIAL = (1, 0, 0, 0, 1, 0)


def numbers(*values):
    return 'DS', '\\'.join(f'{value:g}' for value in values)


def scan(count=6, shape=(5, 4), seed=0):
    """HU from -1024 to 2000, [count, *shape]."""
    rng = np.random.default_rng(seed)
    return rng.integers(-1024, 2000, (count, *shape)).astype(np.int16)


@pytest.fixture
def series(tmp_path, dicom):
    """Writes slices, one file each, 2 mm apart from z = 10 mm; returns the folder."""
    def write(volume_hu, *, name='a', z_mm=None, tags=None, each=None, order=None,
              **options):
        count = len(volume_hu)
        z_mm = 10 + 2 * np.arange(count) if z_mm is None else z_mm
        order = range(count) if order is None else order
        for number, k in enumerate(order):
            header = {
                CLASS: ('UI', CT), MODALITY: ('CS', 'CT'), SERIES: ('UI', f'1.{name}'),
                POSITION: numbers(-30, -40, z_mm[k]), ORIENTATION: numbers(*AXIAL),
                SPACING: numbers(0.5, 0.75), INTERCEPT: numbers(-1024),
                SLOPE: numbers(1), KERNEL: ('SH', 'B31f'),
            } | (tags or {}) | (each(k) if each else {})
            stored = (volume_hu[k].astype(int) + 1024).astype(np.uint16)
            dicom(tmp_path / f'{name}-{number:03d}', stored, tags=header, **options)
        return tmp_path

    return write


def read(folder, min_slices=3, max_voxels=10**6):
    files = [(path, str(path)) for path in dicom_series.find_files(folder)]
    return dicom_series.read_series(
        files, folder, min_slices=min_slices, max_voxels=max_voxels)


def refuse(folder, reason, **limits):
    with pytest.raises(ImageError) as caught:
        read(folder, **limits)
    message = str(caught.value)
    assert message.startswith(str(folder)) and '\n' not in message
    assert reason in message, message
    assert 'Roe' not in message and 'MRN' not in message


# --- geometry ---------------------------------------------------------------------


def test_slices_are_stacked_from_feet_to_head(series):
    volume_hu = scan()
    stack = read(series(volume_hu))
    np.testing.assert_array_equal(stack.volume_hu, volume_hu)
    assert stack.source_shape == (6, 5, 4)
    # k by 2 mm along z, j by 0.5 mm along y, i by 0.75 mm along x.
    np.testing.assert_allclose(stack.affine, [
        [0, 0, 0.75, -30], [0, 0.5, 0, -40], [2, 0, 0, 10], [0, 0, 0, 1]])
    np.testing.assert_array_equal(stack.to_source, np.eye(4))


@pytest.mark.parametrize('order', [(5, 4, 3, 2, 1, 0), (2, 5, 0, 1, 4, 3)])
def test_names_and_order_of_files_do_not_matter(series, order):
    volume_hu = scan()
    np.testing.assert_array_equal(read(series(volume_hu, order=order)).volume_hu,
                                  volume_hu)


def test_other_files_and_folders_are_looked_through(series):
    folder = series(scan())
    (folder / 'deeper').mkdir()
    (folder / 'a-000').rename(folder / 'deeper' / 'a.b.1')
    (folder / 'report.txt').write_text('nothing')
    (folder / 'empty').write_text('')
    offset = {(0x4, 0x1200): ('UL', bytes(4)), (0x7FE0, 0x10): None}
    series(scan(1), name='DICOMDIR', tags=offset | {MODALITY: None})
    np.testing.assert_array_equal(read(folder).volume_hu, scan())


def test_rescaling_rounds_and_is_limited(series, tmp_path):
    stored = np.array([[-1024, -1000, 0, 2000]] * 2, np.int16)[None].repeat(4, 0)
    tags = {SLOPE: numbers(0.25), INTERCEPT: numbers(-3.1)}
    # 0, 24, 1024 and 3024 times a quarter, less 3.1.
    values = read(series(stored, tags=tags)).volume_hu
    assert values[0, 0].tolist() == [-3, 3, 253, 753]
    tags = {SLOPE: numbers(20), INTERCEPT: numbers(-3024)}
    values = read(series(stored, tags=tags)).volume_hu
    assert values[0, 0].tolist() == [-1024, -1024, 17456, 32767]


def test_each_slice_has_its_own_rescaling(series):
    volume_hu = scan()
    folder = series(volume_hu, each=lambda k: {INTERCEPT: numbers(-1024 + k)})
    expected = volume_hu + np.arange(6, dtype=np.int16)[:, None, None]
    np.testing.assert_array_equal(read(folder).volume_hu, expected)


def test_padding_is_air(series):
    volume_hu = scan()
    volume_hu[0, 0, 0] = 31000
    stored = ('US', np.uint16(31000 + 1024).tobytes())
    assert read(series(volume_hu)).volume_hu[0, 0, 0] == 31000
    folder = series(volume_hu, tags={PADDING: stored})
    assert read(folder).volume_hu[0, 0, 0] == -1024


@pytest.mark.parametrize('cosines, signs', [
    ((-1, 0, 0, 0, -1, 0), (-1, -1, 1)),  # prone
    ((1, 0, 0, 0, -1, 0), (1, -1, 1)),  # the normal leads to the feet
])
def test_slices_go_to_the_head_however_their_rows_lie(series, cosines, signs):
    stack = read(series(scan(), tags={ORIENTATION: numbers(*cosines)}))
    np.testing.assert_array_equal(stack.volume_hu, scan())
    np.testing.assert_allclose(
        np.diag(stack.affine[:3, 2::-1]), np.multiply(signs, (0.75, 0.5, 2)))


def test_copies_are_dropped_and_counted(series):
    series(scan(), name='a')
    folder = series(scan()[2:4], name='b', z_mm=[14, 16], tags={SERIES: ('UI', '1.a')})
    stack = read(folder)
    np.testing.assert_array_equal(stack.volume_hu, scan())
    assert stack.facts['duplicates'] == 2


def test_the_larger_of_two_acquisitions_is_kept_whole(series):
    series(scan(), name='a', tags={ACQUISITION: ('IS', '2')})
    tags = {SERIES: ('UI', '1.a'), ACQUISITION: ('IS', '1')}
    folder = series(scan(4, seed=1), name='b', tags=tags)
    stack = read(folder)
    np.testing.assert_array_equal(stack.volume_hu, scan())
    assert stack.facts['other_acquisitions'] == 4


def test_two_different_slices_at_one_place_are_refused(series):
    series(scan(), name='a')
    folder = series(scan(1, seed=1), name='b', z_mm=[14],
                    tags={SERIES: ('UI', '1.a')})
    refuse(folder, 'two different slices at z = 14 mm')


def test_a_missing_slice_is_interpolated(series):
    volume_hu = scan()
    keep = [0, 1, 2, 4, 5]
    folder = series(volume_hu[keep], z_mm=10 + 2 * np.array(keep))
    stack = read(folder)
    expected = volume_hu.astype(float)
    expected[3] = (expected[2] + expected[4]) / 2
    np.testing.assert_array_equal(stack.volume_hu, np.rint(expected))
    assert stack.source_shape == (6, 5, 4) and stack.affine[2, 0] == 2
    assert stack.facts['interpolated_slices'] == 1


def test_uneven_spacing_becomes_even(series):
    # A scan that is linear in z: interpolation gives it exactly.
    z_mm = np.array([0, 1, 2, 3, 4, 5, 8, 9, 11.0])
    volume_hu = np.broadcast_to(100 * z_mm[:, None, None] - 100, (9, 5, 4))
    stack = read(series(volume_hu.astype(np.int16), z_mm=z_mm))
    assert stack.affine[2, 0] == 1 and len(stack.volume_hu) == 12
    np.testing.assert_array_equal(
        stack.volume_hu[:, 0, 0], 100 * np.arange(12) - 100)


def test_a_hole_is_named(series):
    z_mm = np.array([10, 12, 14, 30, 32, 34])
    refuse(series(scan(), z_mm=z_mm), 'no slices between z = 14.0 and 30.0 mm')


def test_noise_in_positions_is_no_uneven_spacing(series):
    z_mm = np.round(0.625 * np.arange(8), 1)
    stack = read(series(scan(8), z_mm=z_mm))
    np.testing.assert_array_equal(stack.volume_hu, scan(8))


@pytest.mark.parametrize('tilt', [12.0, -20.0])
def test_a_tilted_gantry_is_straightened(series, tilt):
    # Slices that lean by `tilt` about x while the table moves along z.
    cosine, sine = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
    down = np.array([0, cosine, sine])
    normal = np.array([0, -sine, cosine])
    rows, count = 40, 8

    def value(point):  # linear in space, so interpolation is exact
        return 300 + 4 * point[..., 1] + 3 * point[..., 2] + 2 * point[..., 0]

    origins = np.array([[-30, -40, 10 + 4 * k] for k in range(count)], float)
    place = (origins[:, None, None] + 0.5 * np.arange(rows)[None, :, None, None] * down
             + 0.75 * np.arange(6)[None, None, :, None] * np.array([1, 0, 0]))
    folder = series(
        np.rint(value(place)).astype(np.int16), z_mm=origins[:, 2],
        tags={ORIENTATION: ('DS', '\\'.join(map(repr, (1.0, 0.0, 0.0, *down.tolist())))
                            )})
    stack = read(folder)
    affine = stack.affine
    np.testing.assert_allclose(affine[:3, 0], 4 * cosine * normal, atol=1e-5)
    np.testing.assert_allclose(affine[:3, 1], 0.5 * down, atol=1e-5)
    assert stack.facts['tilt_degrees'] == pytest.approx(abs(tilt), abs=0.01)
    voxels = np.argwhere(stack.volume_hu > -1024)
    files = voxels @ stack.to_source[:3, :3].T + stack.to_source[:3, 3]
    inside = np.all((files > 0.01) & (files < np.array([9, rows - 1.01, 9])), axis=1)
    assert inside.sum() > 0.8 * count * rows * 5
    points = voxels @ affine[:3, :3].T + affine[:3, 3]
    found = stack.volume_hu[tuple(voxels[inside].T)]
    np.testing.assert_allclose(found, value(points[inside]), atol=1.01)
    # Where a voxel lies in its file is where it lies in the patient.
    k, j, i = files[inside].T
    where = origins[np.rint(k).astype(int)] + 0.5 * j[:, None] * down
    where[:, 0] += 0.75 * i
    np.testing.assert_allclose(where, points[inside], atol=1e-4)


# --- the choice -------------------------------------------------------------------


def test_the_axial_series_with_most_slices_in_a_soft_or_bone_kernel_is_chosen(series):
    series(scan(9, seed=1), name='b', tags={KERNEL: ('SH', 'LUNG')})
    series(scan(5, seed=2), name='c', tags={KERNEL: ('SH', 'BONEPLUS')})
    series(scan(8, seed=3), name='d',
           tags={IMAGE_TYPE: ('CS', 'DERIVED\\SECONDARY\\AXIAL')})
    series(scan(8, seed=4), name='e', tags={ORIENTATION: numbers(1, 0, 0, 0, 0, -1)})
    series(scan(7, seed=5), name='f', tags={CLASS: ('UI', CAPTURE)})
    series(scan(1, seed=6), name='g',
           tags={IMAGE_TYPE: ('CS', 'ORIGINAL\\PRIMARY\\LOCALIZER')})
    series(scan(9, seed=7), name='h', tags={MODALITY: ('CS', 'MR')})
    series(scan(9, seed=8), name='i',
           tags={IMAGE_TYPE: ('CS', 'DERIVED\\SECONDARY\\MIP')})
    stack = read(series(scan(6), name='a'))
    np.testing.assert_array_equal(stack.volume_hu, scan(6))
    assert stack.facts['kernel'] == 'B31f' and stack.facts['kernel_kind'] == 'soft'
    left = {(part['files'], part['reason']) for part in stack.facts['left_out']}
    assert left == {
        (9, 'another series, lung kernel, lung kernel only'),
        (5, 'another series, bone kernel'), (8, 'another derived series, soft kernel'),
        (8, 'not axial'), (7, 'secondary capture'), (1, 'localiser'),
        (9, 'modality MR'), (9, 'projection'),
    }


def test_a_localiser_within_the_series_is_left_out(series):
    series(scan(), name='a')
    folder = series(
        scan(1, (9, 9)), name='b', tags={
            SERIES: ('UI', '1.a'), IMAGE_TYPE: ('CS', 'ORIGINAL\\PRIMARY\\LOCALIZER'),
            ORIENTATION: numbers(1, 0, 0, 0, 0, -1)})
    np.testing.assert_array_equal(read(folder).volume_hu, scan())


def test_the_series_that_was_read_leaves_a_hash_and_no_uid(series):
    series(scan(5), name='b', tags={SERIES: ('UI', '1.2.276.4711')})
    folder = series(scan(9), name='a', tags={SERIES: ('UI', '1.2.840.4712')})
    facts = read(folder).facts
    expected = hashlib.sha256(b'series:1.2.840.4712').hexdigest()[:16]
    assert facts['series_hash'] == expected
    assert '471' not in json.dumps(facts | {'series_hash': ''})
    series(scan(9), name='a', tags={SERIES: None})
    assert read(folder).facts['series_hash'] == ''


def test_facts_are_technical(series):
    tags = {DESCRIPTION: ('LO', 'Roe Jane 2021'), KERNEL: ('SH', 'Roe^Jane'),
            (0x8, 0x70): ('LO', 'Roe Hospital')}
    stack = read(series(scan(), tags=tags))
    text = json.dumps(stack.facts)
    assert 'Roe' not in text and '2021' not in text and 'MRN' not in text
    assert len(stack.patient) == 16 and 'MRN' not in stack.patient


@pytest.mark.parametrize('kernel, centre, kind', [
    ('B31f', 40, 'soft'), ('Br38f\\3', 40, 'soft'), ('I70f', 450, 'bone'),
    ('B70f', -600, 'lung'), ('Bl57d', 40, 'lung'), ('STANDARD', -600, 'soft'),
    ('BONEPLUS', -600, 'bone'), ('LUNG', 40, 'lung'), ('FC08', 40, 'soft'),
    ('FC30', 300, 'bone'), ('FC51', 40, 'lung'), ('FC86', -600, 'lung'),
    ('B', 40, 'soft'), ('L', -600, 'lung'), ('YB', -600, 'lung'), ('D', 300, 'bone'),
    ('B_SOFT_B', 40, 'soft'), ('B_SHARP_C', 300, 'bone'), ('B_SHARP_C', -600, 'lung'),
    ('B_VSHARP_C', 300, 'bone'), ('', 40, 'unknown'), ('', -600, 'lung'),
    ('XYZZY', 40, 'unknown'),
])
def test_kernels_are_told_by_their_names(series, kernel, centre, kind):
    tags = {KERNEL: ('SH', kernel), CENTRE: numbers(centre)}
    facts = read(series(scan(), tags=tags)).facts
    assert facts['kernel_kind'] == kind
    assert bool(facts['exclusion']) == (kind == 'lung')


@pytest.mark.parametrize('tags, reason', [
    ({DESCRIPTION: ('LO', 'CorCTA 0.75 Bv40 BestDiast 70 %')}, 'cardiac CT'),
    ({PROTOCOL: ('LO', 'Ca_Score')}, 'cardiac CT'),
    ({(0x18, 0x15): ('CS', 'HEART')}, 'cardiac CT'),
    ({DESCRIPTION: ('LO', 'Thorax non-cardiac')}, ''),
    ({DESCRIPTION: ('LO', 'CTAC 3.75 thick')}, 'PET-CT'),
    ({PROTOCOL: ('LO', 'PETCT_WholeBody')}, 'PET-CT'),
    ({DESCRIPTION: ('LO', 'CT Body 3.0'), PROTOCOL: ('LO', 'FDG_TK_KM'),
      (0x8, 0x1090): ('LO', 'Biograph40_mCT 4R')}, ''),
    ({DESCRIPTION: ('LO', 'St. Peter abdomen')}, ''),
    ({KERNEL: ('SH', 'B80f'), CENTRE: numbers(-600)}, 'lung kernel only'),
    ({KERNEL: None, CENTRE: numbers(-600)}, 'lung window only'),
])
def test_the_papers_exclusions_follow_from_the_header(series, tags, reason):
    stack = read(series(scan(), tags=tags))
    assert stack.facts['exclusion'] == reason
    np.testing.assert_array_equal(stack.volume_hu, scan())


def test_ct_beside_pet_of_the_same_study_is_pet_ct(series):
    study = {STUDY: ('UI', '1.7')}
    series(scan(), tags=study)
    assert read(series(scan())).facts['exclusion'] == ''
    series(scan(), tags=study)
    folder = series(scan(), name='b', tags=study | {MODALITY: ('CS', 'PT')})
    assert read(folder).facts['exclusion'] == 'PET-CT'


def test_a_series_that_counts_is_chosen_before_an_excluded_one(series):
    series(scan(9), name='b', tags={DESCRIPTION: ('LO', 'Coronary CTA')})
    stack = read(series(scan(6), name='a'))
    assert len(stack.volume_hu) == 6 and stack.facts['exclusion'] == ''


# --- refused ----------------------------------------------------------------------


@pytest.mark.parametrize('tags, reason', [
    ({MODALITY: ('CS', 'MR')}, 'modality MR'),
    ({IMAGE_TYPE: ('CS', 'ORIGINAL\\PRIMARY\\LOCALIZER')}, 'localiser'),
    ({CLASS: ('UI', ENHANCED)}, 'multi-frame'),
    ({(0x28, 0x8): ('IS', '40')}, 'multi-frame'),
    ({ORIENTATION: numbers(1, 0, 0, 0, 0, -1)}, 'not axial'),
    ({ORIENTATION: numbers(1, 0, 0, 1, 0, 0)}, 'orientation that is none'),
    ({POSITION: None}, 'no slice position'),
    ({POSITION: numbers(1, 2, 3)}, 'all slices at one position'),
    ({POSITION: ('DS', '1\\2\\nan')}, 'slice position that is no 3 finite numbers'),
    ({SPACING: None}, 'no pixel spacing'),
    ({SPACING: numbers(0, 1)}, 'pixel spacing 0 x 1 mm'),
    ({SPACING: numbers(1, -1)}, 'pixel spacing 1 x -1 mm'),
    ({SPACING: ('DS', 'inf\\1')}, 'pixel spacing that is no 2 finite numbers'),
    ({SLOPE: numbers(0)}, 'rescale slope 0'),
    ({SLOPE: ('DS', 'nan')}, 'rescale slope or intercept that is no number'),
    ({(0x28, 0x1054): ('LO', 'MGML')}, 'values that are not HU'),
])
def test_what_is_no_scan_is_named(series, tags, reason):
    refuse(series(scan(), tags=tags), reason)


def test_too_few_slices_are_named(series):
    refuse(series(scan(4)), 'series of 4 slices, at least 5 are needed', min_slices=5)


def test_a_limit_is_checked_before_pixels_are_read(series):
    folder = series(scan())
    refuse(folder, '4 x 5 x 6 voxels, limit 119', max_voxels=119)
    huge = {(0x28, 0x10): ('US', b'\xff\xff'), (0x28, 0x11): ('US', b'\xff\xff')}
    refuse(series(scan(), tags=huge), '65535 x 65535 x 6 voxels', max_voxels=10**9)


@pytest.mark.parametrize('each, reason', [
    (lambda k: {SPACING: numbers(0.5, 0.75 + 0.1 * (k == 2))}, 'pixel spacings'),
    (lambda k: {ORIENTATION: numbers(1, 0, 0, 0, 1, 0.1 * (k == 2))}, 'orientations'),
    (lambda k: {(0x10, 0x20): ('LO', f'MRN-{k}')}, 'several patients'),
    (lambda k: {POSITION: numbers(20 * (k == 2), 0, k)}, 'mixed geometry'),
])
def test_mixed_slices_are_refused(series, each, reason):
    refuse(series(scan(), each=each), reason)


def test_a_damaged_slice_is_named(series):
    folder = series(scan())
    file = folder / 'a-003'
    whole = file.read_bytes()
    known = whole.index(b'1.a') + 4  # the series it belongs to
    for length in (len(whole) - 1, len(whole) - 10, len(whole) - 41, known + 9, known):
        file.write_bytes(whole[:length])
        with pytest.raises(ImageError) as caught:
            read(folder)
        assert str(caught.value).startswith(f'{file}: ')
        assert 'truncated DICOM' in str(caught.value)
    # Nobody knows what this was; the slices around it are the neighbours of a gap.
    for length in (known - 5, 200, 133):
        file.write_bytes(whole[:length])
        facts = read(folder).facts
        assert facts['interpolated_slices'] == 1
        (left,) = facts['left_out']
        assert left['files'] == 1 and 'truncated DICOM' in left['reason']


@pytest.mark.parametrize('modality', ['SR', 'PR'])
def test_damaged_files_of_other_kinds_do_not_matter(series, modality):
    tags = {MODALITY: ('CS', modality), (0x7FE0, 0x10): None}
    folder = series(scan(1), name='b', tags=tags)
    file = folder / 'b-000'
    file.write_bytes(file.read_bytes() + bytes(6))
    series(scan(), name='a')
    stack = read(folder)
    np.testing.assert_array_equal(stack.volume_hu, scan())
    assert stack.facts['left_out'] == [{'files': 1, 'reason': f'modality {modality}'}]


def test_deflated_files_and_truncated_scouts_are_left_out(series, dicom):
    folder = series(scan())
    dicom(folder / 'deflated', scan(1)[0], syntax='1.2.840.10008.1.2.1.99')
    series(scan(1), name='b', tags={
        SERIES: ('UI', '1.a'), IMAGE_TYPE: ('CS', 'ORIGINAL\\PRIMARY\\LOCALIZER')})
    file = folder / 'b-000'
    file.write_bytes(file.read_bytes()[:-70])
    stack = read(folder)
    np.testing.assert_array_equal(stack.volume_hu, scan())
    left = {part['reason'] for part in stack.facts['left_out']}
    assert left == {"transfer syntax '1.2.840.10008.1.2.1.99' is not read", 'localiser'}


def test_the_next_best_series_is_read_where_the_best_can_not_be(series):
    keep = [0, 1, 2, 6, 7, 8]
    series(scan(9, seed=1)[keep], name='a', z_mm=10 + 2 * np.array(keep))  # a hole
    folder = series(scan(8, seed=2), name='b')
    file = folder / 'b-003'
    file.write_bytes(file.read_bytes()[:-1])
    series(scan(7, seed=3) % 200, name='c', tags={INTERCEPT: numbers(0)})  # grey
    refuse_reasons = {'no slices between z = 14.0 and 22.0 mm', 'truncated', 'not HU'}
    series(scan(5, seed=4), name='d', tags={KERNEL: ('SH', 'LUNG')})
    stack = read(folder)
    np.testing.assert_array_equal(stack.volume_hu, scan(5, seed=4))
    reasons = [part['reason'] for part in stack.facts['left_out']]
    assert len(reasons) == 3
    for reason in refuse_reasons:
        assert any(reason in found for found in reasons), reasons
    for path in folder.glob('d-*'):
        path.unlink()
    with pytest.raises(ImageError) as caught:  # of the best one: eight slices
        read(folder)
    assert str(caught.value).startswith(f'{file}: damaged or truncated DICOM')


def test_a_damaged_copy_costs_its_series_alone(series):
    series(scan(8, seed=1), name='b')
    folder = series(scan(1), name='c', z_mm=[14], tags={SERIES: ('UI', '1.b')})
    file = folder / 'c-000'
    file.write_bytes(file.read_bytes()[:-1])
    series(scan(), name='a')
    np.testing.assert_array_equal(read(folder).volume_hu, scan())


def test_values_that_no_scanner_writes_are_counted_before_they_are_limited(series):
    folder = series(scan(), tags={SLOPE: numbers(1000)})
    refuse(folder, 'values beyond -5000 to 40000 are not HU')
    # Padding is no value, however much there is of it.
    volume_hu = scan()
    volume_hu[:, :3] = 30000
    tags = {SLOPE: numbers(2), INTERCEPT: numbers(-2048),
            PADDING: ('US', np.uint16(31024).tobytes())}
    stack = read(series(volume_hu, tags=tags))
    assert np.all(stack.volume_hu[:, :3] == -1024)
    np.testing.assert_array_equal(stack.volume_hu[:, 3:], np.clip(
        2 * volume_hu[:, 3:].astype(int), -1024, None))
    refuse(series(volume_hu, tags=tags | {PADDING: None}), 'are not HU')


def acquired(number):
    return {SERIES: ('UI', '1.a'), ACQUISITION: ('IS', str(number))}


def test_two_regions_that_share_a_position_are_one_scan(series):
    series(scan(4, seed=1), name='a', tags=acquired(1))  # z = 10 to 16 mm
    folder = series(scan(5, seed=2), name='b', z_mm=16 + 2 * np.arange(5),
                    tags=acquired(2))
    stack = read(folder)
    np.testing.assert_array_equal(
        stack.volume_hu, np.concatenate([scan(4, seed=1)[:3], scan(5, seed=2)]))
    assert stack.facts['other_acquisitions'] == 1


def test_each_slice_may_have_an_acquisition_of_its_own(series):
    series(scan(), name='a', each=lambda k: acquired(k + 1))
    folder = series(scan(1, seed=1), name='b', z_mm=[14], tags=acquired(99))
    stack = read(folder)
    np.testing.assert_array_equal(stack.volume_hu, scan())
    assert stack.facts['other_acquisitions'] == 1


def test_slices_of_another_time_do_not_come_between(series):
    # The second pass shares z = 10 and 14 mm; its z = 11 mm is no slice of the first.
    series(scan(), name='a', tags=acquired(1))
    folder = series(scan(4, seed=1), name='b', z_mm=[8, 10, 11, 14], tags=acquired(2))
    stack = read(folder)
    np.testing.assert_array_equal(
        stack.volume_hu, np.concatenate([scan(4, seed=1)[:1], scan()]))
    assert stack.facts['other_acquisitions'] == 3


@pytest.mark.parametrize('z_mm', [10 + 2 * np.arange(6), 10.5 + 1.5 * np.arange(6)])
def test_reconstructions_under_one_uid_are_told_by_their_kernels(series, z_mm):
    series(scan(6, seed=1), name='b', z_mm=z_mm,
           tags={SERIES: ('UI', '1.a'), KERNEL: ('SH', 'B80f'), CENTRE: numbers(-600)})
    stack = read(series(scan(), name='a'))
    np.testing.assert_array_equal(stack.volume_hu, scan())
    assert stack.facts['left_out'] == [
        {'files': 6, 'reason': 'another series, lung kernel, lung kernel only'}]


def test_parts_with_kernels_of_their_own_are_left_together(series):
    folder = series(scan(), each=lambda k: {KERNEL: ('SH', 'B31f' if k < 4 else 'H31')})
    np.testing.assert_array_equal(read(folder).volume_hu, scan())


def test_series_of_several_patients_are_refused(series):
    patient = (0x10, 0x20)
    series(scan(), name='a')
    folder = series(scan(8), name='b', tags={patient: ('LO', 'anonymous')})
    assert len(read(folder).volume_hu) == 8  # it may be the same one's
    series(scan(8), name='c', tags={patient: ('LO', 'MRN-5'), MODALITY: ('CS', 'SR')})
    assert len(read(folder).volume_hu) == 8
    series(scan(8), name='b', tags={patient: ('LO', 'MRN-5')})
    refuse(folder, 'CT of several patients (2): name the folder of one')


def test_files_without_a_preamble_are_read(series):
    # Implicit little endian, as old archives wrote them.
    folder = series(scan(), syntax='1.2.840.10008.1.2',
                    tags={(0x8, 0x5): ('CS', 'ISO_IR 100')})
    for file in folder.iterdir():
        data = file.read_bytes()
        file.write_bytes(data[data.index(b'\x08\0\x05\0'):])
    np.testing.assert_array_equal(read(folder).volume_hu, scan())
    for start in (b'\x08\0\0\0', b'\x08\0\x05\0\x04\0\0\0abcd' * 9, bytes(600)):
        (folder / 'other').write_bytes(start)
        assert folder / 'other' not in dicom_series.find_files(folder)


def test_fewer_pixels_than_the_header_says_are_refused(series):
    folder = series(scan(), each=lambda k: {(0x28, 0x11): ('US', b'\xc8\0')})
    refuse(folder, '40 bytes for 200 x 5 pixels')


def test_sequences_deep_within_each_other_are_refused(series):
    deep = b''.join(
        b'\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff'
        for _ in range(100000))
    refuse(series(scan(), tags={(0x8, 0x1140): deep}), 'damaged or truncated DICOM')
