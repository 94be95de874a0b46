"""One scan is one array, whatever file it comes from; other files are named errors."""

import gzip
import itertools
import os
import stat
import struct
import tempfile
import zipfile

import numpy as np
import pytest
import SimpleITK as sitk

from jaxmed.data import volumes
from jaxmed.errors import ImageError

LIMITS = dict(min_slices=3, max_voxels=10**6, memory_bytes=300 << 20, seconds=60)
SUFFIXES = ['nii', 'nii.gz', 'mha', 'mhd', 'nrrd']
SPACING_MM, ORIGIN_MM = (2.0, 0.5, 0.75), (-30.0, -40.0, 10.0)  # (d, h, w), (x, y, z)


def scan(shape=(6, 5, 4), seed=0):
    """HU from -1024 to 2000, in the project's orientation."""
    rng = np.random.default_rng(seed)
    return rng.integers(-1024, 2000, shape).astype(np.int16)


def affine():
    d, h, w = SPACING_MM
    x, y, z = ORIGIN_MM
    return np.array([[0, 0, w, x], [0, h, 0, y], [d, 0, 0, z], [0, 0, 0, 1.0]])


def save(path, values, axes=(0, 1, 2), flips=(1, 1, 1), to_patient=None):
    """Writes values [d, h, w], after `axes` and `flips`, with a header that says so."""
    to_patient = affine() if to_patient is None else to_patient
    stored = values.transpose(axes)[tuple(slice(None, None, flip) for flip in flips)]
    image = sitk.GetImageFromArray(np.ascontiguousarray(stored))
    columns = to_patient[:3, :3][:, list(axes)] * flips
    corner = np.zeros(4)
    corner[3] = 1
    for axis, flip in zip(axes, flips):
        corner[axis] = values.shape[axis] - 1 if flip < 0 else 0
    spacing = np.linalg.norm(columns, axis=0)
    image.SetSpacing(spacing[::-1].tolist())
    image.SetDirection((columns / spacing)[:, ::-1].ravel().tolist())
    image.SetOrigin((to_patient @ corner)[:3].tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path


def read(path, **limits):
    return volumes.read_volume(path, **(LIMITS | limits))


def refuse(path, reason, function=read, **options):
    with pytest.raises(ImageError) as caught:
        function(path, **options)
    message = str(caught.value)
    assert message.startswith(str(path)) and '\n' not in message
    assert reason in message, message
    assert 'Roe' not in message and 'MRN' not in message and 'ITK' not in message


def text(*values):
    return 'DS', '\\'.join(f'{value:g}' for value in values)


@pytest.fixture
def series(dicom):
    """Writes `scan` as DICOM files into a folder, in an order of their names."""
    def write(folder, volume_hu, order=None, patient='MRN-4711', uid='1.5'):
        d, h, w = SPACING_MM
        for number, k in enumerate(order or range(len(volume_hu))):
            dicom(folder / f'{number:03d}', volume_hu[k], tags={
                (0x8, 0x16): ('UI', '1.2.840.10008.5.1.4.1.1.2'),
                (0x8, 0x60): ('CS', 'CT'), (0x20, 0xE): ('UI', uid),
                (0x10, 0x20): ('LO', patient),
                (0x20, 0x32): text(*ORIGIN_MM[:2], ORIGIN_MM[2] + d * k),
                (0x20, 0x37): text(1, 0, 0, 0, 1, 0), (0x28, 0x30): text(h, w)})
        return folder

    return write


# --- formats and orientations -----------------------------------------------------


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_each_format_gives_the_same_volume(tmp_path, suffix):
    volume = read(save(tmp_path / f'a.{suffix}', scan()))
    np.testing.assert_array_equal(volume.volume_hu, scan())
    assert volume.volume_hu.dtype == np.int16
    np.testing.assert_allclose(volume.affine, affine())
    np.testing.assert_allclose(volume.spacing_mm, SPACING_MM)
    np.testing.assert_array_equal(volume.to_source, np.eye(4))
    assert volume.source_shape == (6, 5, 4) and volume.facts['exclusion'] == ''


@pytest.mark.parametrize('suffix', ['nii', 'nrrd'])
@pytest.mark.parametrize('axes', list(itertools.permutations(range(3))))
def test_every_orientation_is_turned_to_one(tmp_path, suffix, axes):
    for number, flips in enumerate(itertools.product((1, -1), repeat=3)):
        path = save(tmp_path / f'{number}.{suffix}', scan(), axes, flips)
        volume = read(path)
        np.testing.assert_array_equal(volume.volume_hu, scan())
        np.testing.assert_allclose(volume.affine, affine(), atol=1e-5)
        # to_source leads from each voxel to its place in the file.
        stored = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        assert volume.source_shape == stored.shape
        for voxel in [(0, 0, 0), (5, 1, 3), (2, 4, 0)]:
            place = volume.to_source @ [*voxel, 1]
            assert stored[tuple(place[:3].astype(int))] == scan()[voxel]


def test_an_oblique_scan_keeps_its_rotation_in_the_affine(tmp_path):
    cosine, sine = np.cos(0.3), np.sin(0.3)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[cosine, -sine], [sine, cosine]]
    oblique = turn @ affine()
    path = save(tmp_path / 'a.nii', scan(), (2, 0, 1), (1, -1, 1), oblique)
    volume = read(path)
    np.testing.assert_array_equal(volume.volume_hu, scan())
    np.testing.assert_allclose(volume.affine, oblique, atol=1e-5)


@pytest.mark.parametrize('order', [None, (5, 4, 3, 2, 1, 0), (3, 0, 5, 1, 4, 2)])
def test_dicom_of_any_order_is_the_same_as_nifti(tmp_path, series, order):
    nifti = read(save(tmp_path / 'a.nii.gz', scan()))
    volume = read(series(tmp_path / 'dicom', scan(), order))
    np.testing.assert_array_equal(volume.volume_hu, nifti.volume_hu)
    np.testing.assert_array_equal(volume.affine, nifti.affine)
    np.testing.assert_array_equal(volume.to_source, nifti.to_source)


def test_a_zip_of_a_folder_is_that_folder(tmp_path, series):
    folder = series(tmp_path / 'dicom', scan(), (3, 0, 5, 1, 4, 2))
    with zipfile.ZipFile(tmp_path / 'a.zip', 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('study/readme.txt', 'nothing')
        for file in folder.iterdir():
            archive.write(file, f'study/series/{file.name}')
    before = set(os.listdir(tempfile.gettempdir()))
    volume = read(tmp_path / 'a.zip')
    np.testing.assert_array_equal(volume.volume_hu, scan())
    left = set(os.listdir(tempfile.gettempdir())) - before
    assert not [name for name in left if name.startswith('jaxmed-')]


def test_a_patients_id_is_a_hash_and_else_the_pixels_are(tmp_path, series):
    named = [read(series(tmp_path / name, scan(seed=seed), patient=patient)).patient_id
             for name, seed, patient in (
                 ('a', 0, 'MRN-1'), ('b', 1, 'MRN-1'), ('c', 0, 'MRN-2'))]
    assert named[0] == named[1] != named[2] and 'MRN' not in ''.join(named)
    nobody = read(series(tmp_path / 'd', scan(), patient='anonymous')).patient_id
    nifti = read(save(tmp_path / 'a.nii', scan())).patient_id
    assert nobody == nifti and nobody not in named and len(nobody) == 16


def test_floats_are_rounded_and_values_limited(tmp_path):
    values = scan().astype(np.float32)
    values[0, 0] = [-3024, 0.6, -1.4, 39000]
    volume_hu = read(save(tmp_path / 'a.nii', values)).volume_hu
    assert volume_hu[0, 0].tolist() == [-1024, 1, -1, 32767]
    np.testing.assert_array_equal(volume_hu[1:], scan()[1:])


def test_a_nifti_is_scaled_by_its_header(tmp_path):
    path = save(tmp_path / 'a.nii', scan())
    data = bytearray(path.read_bytes())
    struct.pack_into('<2f', data, 112, 0.5, 10.0)
    path.write_bytes(data)
    np.testing.assert_array_equal(read(path).volume_hu, np.rint(scan() * 0.5 + 10))
    struct.pack_into('<2f', data, 112, 0.0, 10.0)  # 0 means that there is no scale
    path.write_bytes(data)
    np.testing.assert_array_equal(read(path).volume_hu, scan())


def test_a_nifti_without_an_sform_is_turned_by_its_quaternion(tmp_path):
    path = save(tmp_path / 'a.nii', scan(), (2, 0, 1), (1, -1, 1))
    data = bytearray(path.read_bytes())
    struct.pack_into('<h', data, 254, 0)
    path.write_bytes(data)
    volume = read(path)
    np.testing.assert_array_equal(volume.volume_hu, scan())
    np.testing.assert_allclose(volume.affine, affine(), atol=1e-5)


def test_an_orientation_that_no_header_states_is_told(tmp_path):
    for suffix in SUFFIXES:
        facts = read(save(tmp_path / f'a.{suffix}', scan())).facts
        assert facts['orientation_assumed'] is False
    path = save(tmp_path / 'a.nii', scan())
    data = bytearray(path.read_bytes())
    struct.pack_into('<2h', data, 252, 0, 0)
    path.write_bytes(data)
    assert read(path).facts['orientation_assumed'] is True
    path = save(tmp_path / 'a.mha', scan())
    path.write_bytes(path.read_bytes().replace(
        b'TransformMatrix = 1 0 0 0 1 0 0 0 1\n', b''))
    assert read(path).facts['orientation_assumed'] is True


def test_metres_become_millimetres(tmp_path):
    path = save(tmp_path / 'a.nii', scan())
    data = bytearray(path.read_bytes())
    data[123] = data[123] & ~7 | 1
    path.write_bytes(data)
    np.testing.assert_allclose(read(path).affine[:3], 1000 * affine()[:3])


# --- masks ------------------------------------------------------------------------


def labels(highest=9):
    return np.random.default_rng(1).integers(0, highest + 1, (6, 5, 4))


@pytest.mark.parametrize('axes, flips', [
    ((0, 1, 2), (1, 1, 1)), ((2, 0, 1), (1, -1, 1)), ((1, 2, 0), (-1, -1, -1))])
def test_a_mask_is_turned_as_its_scan_is(tmp_path, axes, flips):
    volume = read(save(tmp_path / 'a.nii', scan(), (1, 0, 2), (-1, 1, 1)))
    path = save(tmp_path / 'm.nii.gz', labels().astype(np.uint8), axes, flips)
    mask = volumes.read_mask(path, volume)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, labels())


def test_a_mask_of_floats_and_large_labels_is_read(tmp_path):
    volume = read(save(tmp_path / 'a.nii', scan()))
    path = save(tmp_path / 'm.nii', labels(900).astype(np.float64))
    mask = volumes.read_mask(path, volume)
    assert mask.dtype == np.int16
    np.testing.assert_array_equal(mask, labels(900))


def test_a_mask_on_another_grid_is_refused(tmp_path):
    volume = read(save(tmp_path / 'a.nii', scan()))

    def refuse_mask(values, reason, to_patient=None):
        path = save(tmp_path / 'm.nii', values, to_patient=to_patient)
        refuse(path, reason, volumes.read_mask, volume=volume)

    mask = labels().astype(np.uint8)
    refuse_mask(mask[:, :, :3], 'another grid')
    refuse_mask(np.pad(mask, ((0, 3), (0, 0), (0, 0))), 'limit 120')
    refuse_mask(mask + 0.5, 'no whole numbers')
    refuse_mask(mask.astype(np.int32) + 40000, 'labels beyond')
    beside = affine()
    beside[1, 3] += 0.3  # of voxels of 0.5 mm
    refuse_mask(mask, 'another grid: up to 0.6 voxels', beside)
    beside[1, 3] -= 0.1
    path = save(tmp_path / 'm.nii', mask, to_patient=beside)
    np.testing.assert_array_equal(volumes.read_mask(path, volume), mask)
    wider = affine()
    wider[0, 2] *= 1.3
    refuse_mask(mask, 'another grid', wider)


# --- refused ----------------------------------------------------------------------


@pytest.mark.parametrize('values, reason', [
    (np.where(scan() > 1900, np.nan, scan()).astype(np.float32), 'NaN'),
    (np.where(scan() > 1900, np.inf, scan()).astype(np.float32), 'NaN or infinite'),
    (scan() % 256, 'values from 0 to 255 are grey, not HU'),
    (((scan() % 256) / 255).astype(np.float32), 'are grey, not HU'),
    (scan() % 3000 + 1, 'are not HU'), (scan() * 0 + 40, 'are grey'),
    (scan() // 100 - 3, 'are not HU'), (scan().astype(np.int32) + 10**6, 'not HU'),
    (np.full((6, 5, 4), 3e38, np.float32), 'not HU'),
    (np.where(np.arange(4) < 3, 10**9, scan()), 'beyond -5000 to 40000 are not HU'),
    (scan()[:2], '2 slices, at least 3'), (scan()[:1], 'a single slice'),
    (scan((50, 200, 101)), '101 x 200 x 50 voxels, limit 1000000'),
])
@pytest.mark.parametrize('suffix', ['nii.gz', 'mha'])
def test_values_and_sizes_that_are_no_ct_are_named(tmp_path, values, reason, suffix):
    refuse(save(tmp_path / f'a.{suffix}', values), reason)


def test_more_dimensions_colours_and_two_of_them_are_refused(tmp_path):
    def write(name, image):
        sitk.WriteImage(image, str(tmp_path / name))
        return tmp_path / name

    for suffix in ('nii', 'mha', 'nrrd'):
        four = sitk.JoinSeries([sitk.GetImageFromArray(scan())] * 2)
        refuse(write(f'four.{suffix}', four), '4D: 2 volumes in one file')
        colour = sitk.GetImageFromArray(np.zeros((6, 5, 4, 3), np.uint8), isVector=True)
        reason = 'colour' if suffix != 'nii' else 'is not read'
        try:
            refuse(write(f'colour.{suffix}', colour), reason)
        except AssertionError as error:
            assert suffix == 'nii' and '5D' in str(error)
        flat = sitk.GetImageFromArray(scan()[0])
        refuse(write(f'flat.{suffix}', flat), 'a single slice')
        one = sitk.JoinSeries([sitk.GetImageFromArray(scan())])
        assert read(write(f'one.{suffix}', one)).volume_hu.shape == (6, 5, 4)


@pytest.mark.parametrize('value', [0.0, -1.0, np.nan, np.inf])
def test_spacing_that_is_none_is_refused(tmp_path, value):
    path = save(tmp_path / 'a.nii', scan())
    data = bytearray(path.read_bytes())
    struct.pack_into('<f', data, 88, value)
    path.write_bytes(data)
    refuse(path, f'spacing 0.75 x 0.5 x {value:g} mm')
    path = save(tmp_path / 'a.mha', scan())
    data = path.read_bytes()
    path.write_bytes(data.replace(
        b'ElementSpacing = 0.75 0.5 2', b'ElementSpacing = 0.75 0.5 %g' % value))
    refuse(path, f'spacing 0.75 x 0.5 x {value:g} mm')


def test_skewed_axes_and_two_spacings_are_refused(tmp_path):
    path = save(tmp_path / 'a.nii', scan())
    data = bytearray(path.read_bytes())
    row = struct.unpack_from('<4f', data, 280)
    struct.pack_into('<4f', data, 280, row[0], row[1], 0.4, row[3])
    path.write_bytes(data)
    refuse(path, 'skewed axes')
    struct.pack_into('<4f', data, 280, 2 * row[0], *row[1:])
    path.write_bytes(data)
    refuse(path, 'two spacings')


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_truncated_files_are_refused(tmp_path, suffix):
    path = save(tmp_path / f'a.{suffix}', scan((9, 20, 20)))
    file = path.with_suffix('.raw') if suffix == 'mhd' else path
    if file.suffix == '.raw' and not file.exists():
        file = path.with_suffix('.zraw')
    whole = file.read_bytes()
    for length in (len(whole) - 20, len(whole) // 2, 100, 3, 0):
        file.write_bytes(whole[:length])
        with pytest.raises(ImageError) as caught:
            read(path)
        assert str(caught.value).startswith(f'{path}: ')
        assert '\n' not in str(caught.value)


def test_a_damaged_gzip_is_noticed(tmp_path):
    path = save(tmp_path / 'a.nii.gz', scan((9, 20, 20)))
    data = bytearray(gzip.decompress(path.read_bytes()))
    packed = bytearray(gzip.compress(bytes(data), compresslevel=0))
    packed[len(packed) // 2] ^= 16  # only the check sum knows
    path.write_bytes(packed)
    refuse(path, 'damaged or truncated NIfTI')


def test_a_header_must_not_name_files_elsewhere(tmp_path):
    path = save(tmp_path / 'in' / 'a.mhd', scan())
    raw = next(file for file in path.parent.iterdir() if file != path)
    raw.rename(tmp_path / raw.name)
    header = path.read_text()
    refuse(path, 'is missing')
    for name in (f'../{raw.name}', tmp_path / raw.name, 'LIST', 'a%d.raw 1 6 1'):
        path.write_text(header.replace(raw.name, str(name)))
        refuse(path, 'one file in the same folder')


def test_other_files_are_refused(tmp_path, series):
    folder = series(tmp_path / 'dicom', scan())
    refuse(folder / '002', 'one DICOM file is no scan')
    refuse(tmp_path / 'none.nii', 'No such file or directory')
    (tmp_path / 'a.nii').write_bytes(b'GIF89a')
    refuse(tmp_path / 'a.nii', 'no scan')
    (tmp_path / 'empty').mkdir()
    refuse(tmp_path / 'empty', 'no DICOM files in this folder')
    os.mkfifo(tmp_path / 'pipe.nii')
    refuse(tmp_path / 'pipe.nii', 'not a file')


def test_a_limit_of_memory_is_named_before_the_process_is_lost(tmp_path):
    path = save(tmp_path / 'a.mha', np.tile(scan((50, 200, 100)), (1, 2, 1)))
    refuse(path, 'needed more than 3 MiB', max_voxels=10**7, memory_bytes=3 << 20)
    assert read(path, max_voxels=10**7).volume_hu.shape == (50, 400, 100)


@pytest.mark.parametrize('name, reason', [
    ('../evil', "leads out of it ('..')"), ('a/../../evil', "leads out of it ('..')"),
    ('..\\evil', "leads out of it ('..')"), ('/evil', 'absolute path'),
    ('C:\\evil', 'absolute path'),
])
def test_a_zip_that_leads_out_of_itself_is_refused(tmp_path, name, reason):
    with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as archive:
        archive.writestr(zipfile.ZipInfo(name), 'x')
    refuse(tmp_path / 'a.zip', reason)


def test_other_hostile_zips_are_refused(tmp_path):
    path = tmp_path / 'a.zip'
    link = zipfile.ZipInfo('link')
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr(link, '/etc/passwd')
    refuse(path, 'symbolic link')
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('bomb', bytes(80 << 20))
    refuse(path, 'bytes unpacked, limit')
    # A bomb that declares a hundred bytes.
    data = path.read_bytes().replace(
        struct.pack('<I', 80 << 20), struct.pack('<I', 100))
    path.write_bytes(data)
    refuse(path, 'damaged or truncated zip')
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('a', 'x' * 50)
    data = bytearray(path.read_bytes())
    path.write_bytes(data[:60])
    refuse(path, 'damaged or truncated zip')
    data[6] |= 1
    data[data.index(b'PK\1\2') + 8] |= 1
    path.write_bytes(data)
    refuse(path, 'an encrypted zip')
    path.write_bytes(b'PK\5\6' + bytes(18))
    refuse(path, 'no DICOM files in this zip')


# --- what there is to read --------------------------------------------------------


def test_scans_are_found_with_their_case_ids(tmp_path, series):
    series(tmp_path / 'b' / '1.2.840.7', scan())
    series(tmp_path / 'b' / '1.2.840.8', scan())
    save(tmp_path / 'a.nii.gz', scan())
    save(tmp_path / 'c' / 'ct.nrrd', scan())
    save(tmp_path / 'c' / 'segmentations' / 'rib.nii', scan())
    save(tmp_path / 'c' / 'ct_seg-vert_msk.nii', scan())
    save(tmp_path / 'c' / 'sub_label-22_ct.mha', scan())
    (tmp_path / 'notes.txt').write_text('')
    found = volumes.find_scans(tmp_path)
    assert [(str(path.relative_to(tmp_path)), case) for path, case in found] == [
        ('a.nii.gz', 'a'), ('b/1.2.840.7', 'b/1.2.840.7'),
        ('b/1.2.840.8', 'b/1.2.840.8'), ('c/ct.nrrd', 'c/ct'),
        ('c/sub_label-22_ct.mha', 'c/sub_label-22_ct')]
    assert volumes.find_scans(tmp_path / 'b' / '1.2.840.7') == [
        (tmp_path / 'b' / '1.2.840.7', '1.2.840.7')]
    assert volumes.find_scans(tmp_path / 'a.nii.gz') == [(tmp_path / 'a.nii.gz', 'a')]


def test_a_folder_of_several_patients_is_no_case(tmp_path, series):
    # One patient's scout above the series of the same examination: one case.
    one = tmp_path / 'one'
    series(one, scan(), uid='1.6')
    series(one / 'thin', scan((8, 5, 4)), uid='1.7')
    assert volumes.find_scans(tmp_path) == [(one, 'one')]
    assert len(read(one).volume_hu) == 8
    # A slice gone astray above the patients' folders: each is a case.
    series(tmp_path / 'all' / 'a', scan(), patient='MRN-1')
    series(tmp_path / 'all' / 'b', scan((8, 5, 4)), patient='MRN-2', uid='1.8')
    assert [case for _, case in volumes.find_scans(tmp_path)] == [
        'all/a', 'all/b', 'one']
    series(tmp_path / 'all', scan()[:1], patient='MRN-2', uid='1.8')
    found = volumes.find_scans(tmp_path)
    assert [case for _, case in found] == ['all', 'all/a', 'all/b', 'one']
    refuse(tmp_path / 'all', 'CT of several patients (2)')
    assert len(read(tmp_path / 'all' / 'b').volume_hu) == 8
    assert [case for _, case in volumes.find_scans(tmp_path / 'all')] == [
        'all', 'a', 'b']


def test_no_two_scans_share_a_case_id(tmp_path):
    for name in ('a.nii', 'a.mha', 'b.nii'):
        save(tmp_path / name, scan())
    assert [case for _, case in volumes.find_scans(tmp_path)] == [
        'a.mha', 'a.nii', 'b.nii']


def test_a_place_without_scans_is_named(tmp_path):
    refuse(tmp_path, 'no scans', volumes.find_scans)
    refuse(tmp_path / 'none', 'No such file', volumes.find_scans)


# --- real scans -------------------------------------------------------------------


def read_sample(path):
    return read(path, max_voxels=512 * 512 * 200, memory_bytes=2 << 30)


@pytest.mark.parametrize('name, shape, spacing_mm', [
    ('chest_dicom', (32, 512, 512), (1, 0.76, 0.76)),
    ('totalsegmentator/example_ct_dicom', (20, 512, 512), (2, 0.977, 0.977)),
    ('totalsegmentator/example_ct.nii.gz', (112, 101, 122), (3, 3, 3)),
    ('chest_ct.nii.gz', (100, 512, 512), (2.5, 0.898, 0.898)),
])
def test_real_scans_lie_as_they_should(sample_data, name, shape, spacing_mm):
    volume = read_sample(sample_data / 'ct' / name)
    assert volume.volume_hu.shape == shape and volume.facts['exclusion'] == ''
    np.testing.assert_allclose(volume.spacing_mm, spacing_mm, atol=1e-3)
    assert np.all(np.diag(volume.affine[:3, 2::-1]) > 0)  # z, y, x grow with d, h, w
    # The spine lies behind the middle: more bone there than in front of it.
    bone = volume.volume_hu > 300
    middle = shape[1] // 2
    assert bone[:, middle:].sum() > bone[:, :middle].sum()
    air = np.mean(volume.volume_hu < -900)
    assert 0.05 < air < 0.9 and volume.volume_hu.max() > 800


def test_a_real_mask_covers_bone(sample_data):
    folder = sample_data / 'ct' / 'totalsegmentator'
    volume = read_sample(folder / 'example_ct.nii.gz')
    mask = volumes.read_mask(folder / 'example_seg-totalseg_vertebrae.nii.gz', volume)
    inside, outside = volume.volume_hu[mask > 0], volume.volume_hu[mask == 0]
    assert np.mean(inside > 100) > 0.7 and np.mean(outside > 100) < 0.3
    # Label 26 is S1 and lies below 33, T11.
    assert np.argwhere(mask == 26)[:, 0].max() < np.argwhere(mask == 33)[:, 0].min()
