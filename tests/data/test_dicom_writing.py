"""Files for an archive: found again by their study, the same each time, nobody's."""

import io
import re
import sys
import zipfile

import numpy as np
import pytest
import SimpleITK as sitk

from jaxmed.data import dicom_writing, volumes
from jaxmed.errors import ConfigError, ImageError

CT = '1.2.840.10008.5.1.4.1.1.2'
PLACES = [
    dicom_writing.Place('patch 0', 0.9, True, np.array(
        [[5, -30, 90], [5, 10, 90], [5, 12, 50], [5, -28, 50.0]])),
    dicom_writing.Place('patch 1', 0.2, False, np.array(
        [[5, -28, 50], [5, 12, 50], [5, 14, 10], [5, -26, 10.0]])),
]


@pytest.fixture
def pydicom():
    pytest.importorskip('highdicom', reason='highdicom is an optional extra')
    import pydicom
    return pydicom


@pytest.fixture
def series(tmp_path, dicom):
    """Writes 12 slices of a series, 2 mm apart; returns the folder."""
    def write(name, *, kernel='B31f', uids=True, shift_mm=0.0, lean_mm=0.0, count=12,
              study='1.3.77', tags=None):
        rng = np.random.default_rng(0)
        for k in range(count):
            stored = rng.integers(0, 2000, (20, 24)).astype(np.uint16)
            instance = f'1.5.{name}.{count - k}' if uids else ''
            dicom(tmp_path / 'in' / f'{name}-{count - k:02d}', stored, tags={
                (8, 0x16): ('UI', CT if uids else ''), (8, 0x18): ('UI', instance),
                (8, 0x60): ('CS', 'CT'), (0x10, 0x10): ('PN', 'Roe^Jane'),
                (0x10, 0x20): ('LO', 'MRN-4711'), (0x10, 0x30): ('DA', '19470111'),
                (8, 0x20): ('DA', '20260102'), (0x18, 0x1210): ('SH', kernel),
                (0x20, 0xD): ('UI', study if uids else ''),
                (0x20, 0xE): ('UI', f'1.4.{name}' if uids else ''),
                (0x20, 0x52): ('UI', '1.9.9'),
                (0x20, 0x32): ('DS', '\\'.join(map(str, (
                    -10, -20 + k * lean_mm, 10 + 2 * k + shift_mm)))),
                (0x20, 0x37): ('DS', '1\\0\\0\\0\\1\\0'), (0x28, 0x30): ('DS', '1\\1'),
                (0x28, 0x1052): ('DS', '-1024'), (0x28, 0x1053): ('DS', '1'),
            } | (tags or {}))
        return tmp_path / 'in'

    return write


def origin_of(path, **changes):
    volume = volumes.read_volume(
        path, min_slices=5, max_voxels=10**6, memory_bytes=2**31, seconds=60.0)
    return dicom_writing.find_origin(
        path, content_id='c0ffee', affine=changes.get('affine', volume.affine),
        to_source=volume.to_source, facts=volume.facts)


def capture(origin, *, made_by='run'):
    picture = np.random.default_rng(0).integers(0, 255, (30, 20, 3), np.uint8)
    return picture, dicom_writing.write_capture(
        picture, origin, title='Fractures', pixel_mm=0.25, orientation=('P', 'F'),
        made_by=made_by)


def report(origin, *, made_by='run', places=PLACES, called=True):
    return dicom_writing.write_report(
        places, origin, title='Fractures', probability=0.93, called=called,
        threshold=0.4, comments=['Slices are thick.'], made_by=made_by)


def test_the_series_that_was_read_is_found_again_with_its_slices_from_the_feet(series):
    series('0', kernel='L70f')  # the lungs, with the same slices
    series('1')
    series('3', shift_mm=1000.0)  # another place
    folder = series('4', count=6)  # too few of them
    origin = origin_of(folder)
    assert (origin.study, origin.series, origin.frame) == ('1.3.77', '1.4.1', '1.9.9')
    # Files were numbered from the head.
    assert origin.instances == tuple((CT, f'1.5.1.{12 - k}') for k in range(12))


@pytest.mark.parametrize('tags', [
    {(8, 8): ('CS', 'DERIVED\\SECONDARY\\AXIAL')},
    {(8, 0x103E): ('LO', 'CORONARY CTA')},
])
def test_the_series_that_was_read_is_found_beside_a_worse_one_like_it(series, tags):
    """Of the same grid and kernel, in another study; either may come first."""
    series('1', study='1.3.1', tags=tags)
    series('2', study='1.3.2')
    folder = series('3', study='1.3.3', tags=tags)
    origin = origin_of(folder)
    assert (origin.study, origin.series) == ('1.3.2', '1.4.2')
    assert {instance[:6] for _, instance in origin.instances} == {'1.5.2.'}


def test_a_zip_is_looked_into(series, tmp_path):
    folder = series('1')
    with zipfile.ZipFile(tmp_path / 'scan.zip', 'w') as archive:
        for path in folder.iterdir():
            archive.write(path, f'deep/{path.name}')
        archive.writestr('notes.txt', 'no DICOM')
    assert origin_of(tmp_path / 'scan.zip') == origin_of(folder)


def test_a_tilted_gantry_is_followed(series):
    origin = origin_of(series('1', lean_mm=1.0))  # half a millimetre back a millimetre
    assert origin.series == '1.4.1' and len(origin.instances) == 12


@pytest.mark.parametrize('corner_mm', [
    (-10, -20, 500), (90, -20, 10), (-10, 20, 10), (-10, -20, 40)])
def test_slices_elsewhere_are_not_taken_for_the_scan(series, corner_mm):
    affine = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1.0]])
    affine[:3, 3] = corner_mm
    with pytest.raises(ImageError, match='was not found again'):
        origin_of(series('1'), affine=affine)


def test_what_an_anonymiser_emptied_becomes_a_study_of_its_own(series, pydicom):
    origin = origin_of(series('1', uids=False))
    assert origin.study.startswith('2.25.') and not origin.series
    assert origin.frame == '1.9.9' and origin.instances == ()
    assert pydicom.dcmread(io.BytesIO(report(origin))).StudyInstanceUID == origin.study


def test_other_formats_are_a_study_of_their_own(tmp_path):
    hu = np.random.default_rng(0).integers(-1000, 1000, (20, 32, 32), np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(hu), str(tmp_path / 'a.nii.gz'))
    origin = origin_of(tmp_path / 'a.nii.gz')
    assert origin == origin_of(tmp_path / 'a.nii.gz') and origin.series == ''
    uids = {origin.study, origin.frame}
    assert len(uids) == 2 and all(
        uid.startswith('2.25.') and len(uid) <= 64 for uid in uids)


def test_a_capture_holds_the_picture_and_is_filed_by_its_study(
    series, pydicom, tmp_path
):
    picture, data = capture(origin_of(series('1')))
    (tmp_path / 'picture.dcm').write_bytes(data)
    read = pydicom.dcmread(tmp_path / 'picture.dcm')
    assert read.SOPClassUID == '1.2.840.10008.5.1.4.1.1.7'
    assert read.StudyInstanceUID == '1.3.77' and read.SeriesInstanceUID != '1.4.1'
    np.testing.assert_array_equal(read.pixel_array, picture)
    assert list(read.PixelSpacing) == [0.25, 0.25]
    image = sitk.ReadImage(str(tmp_path / 'picture.dcm'))  # through GDCM
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image)[0], picture)


def test_a_report_holds_probabilities_places_and_what_made_it(series, pydicom):
    from highdicom import sr

    data = report(origin_of(series('1')))
    read = pydicom.dcmread(io.BytesIO(data))
    document = sr.Comprehensive3DSR.from_dataset(read)
    tree = document.content
    groups = tree.get_planar_roi_measurement_groups()
    assert [group.tracking_identifier for group in groups] == ['patch 0', 'patch 1']
    for group, place in zip(groups, PLACES):
        measured, = group.get_measurements()
        assert measured.value == place.probability
        np.testing.assert_allclose(
            group.roi.value, [*place.outline_mm, place.outline_mm[0]], atol=1e-4)
        assert group.roi.frame_of_reference_uid == '1.9.9'
    # Only what is called is stated as a finding.
    assert groups[0].finding_type.value == '42942008' and groups[1].finding_type is None
    whole, = tree.get_image_measurement_groups()
    assert [m.value for m in whole.get_measurements()] == [0.93, 0.4]
    for words in (b'run run', b'jaxmed', b'Slices are thick.'):
        assert words in data
    used = document.get_evidence()
    assert [uid for *_, uid, _ in used] == [f'1.5.1.{12 - k}' for k in range(12)]
    assert {(study, name) for study, name, *_ in used} == {('1.3.77', '1.4.1')}


def test_nobody_is_named(series, pydicom):
    origin = origin_of(series('1'))
    for data in (capture(origin)[1], report(origin)):
        for secret in (b'Roe', b'Jane', b'4711', b'1947', b'20260102'):
            # Digits of a UID that was made up may be anything.
            assert secret not in re.sub(rb'2\.25\.[0-9]+', b'', data)
        read = pydicom.dcmread(io.BytesIO(data))
        for name in ('PatientName', 'PatientID', 'PatientBirthDate', 'StudyDate'):
            assert not read[name].value


def test_no_time_is_told_and_a_study_that_is_kept_is_no_lost_identity(
    series, pydicom, tmp_path
):
    of_study = origin_of(series('1'))
    own = of_study._replace(series='', instances=())
    for origin in (of_study, own):
        for data in (capture(origin)[1], report(origin)):
            read = pydicom.dcmread(io.BytesIO(data))
            times = {
                str(element.value) for element in read.iterall()
                if element.VR in ('DA', 'TM', 'DT') and element.value}
            assert times <= {'19000101', '000000'}
            # A study's UID leads whoever has the archive to the patient.
            assert ('PatientIdentityRemoved' in read) == (origin is own)
            assert ('DeidentificationMethod' in read) == (origin is own)


def test_uids_follow_from_the_scan_what_judged_it_and_what_was_found(series, pydicom):
    origin = origin_of(series('1'))
    other = origin._replace(key='another scan')

    def uids(data):
        read = pydicom.dcmread(io.BytesIO(data))
        return read.SOPInstanceUID, read.SeriesInstanceUID

    # The same finding is the same file, to the byte: an archive need not have two.
    for make in (report, lambda origin: capture(origin)[1]):
        assert make(origin) == make(origin)
    # Another one is another instance of the same series.
    found = [uids(report(origin, **changes)) for changes in (
        {}, {'called': False}, {'places': PLACES[:1]})]
    assert len({instance for instance, _ in found}) == 3
    assert len({name for _, name in found}) == 1
    for data in (report(origin), capture(origin)[1]):
        read = pydicom.dcmread(io.BytesIO(data))
        assert read.file_meta.MediaStorageSOPInstanceUID == read.SOPInstanceUID
    different = [uid for data in (
        report(origin), report(origin, made_by='b'), report(other),
        capture(origin)[1], capture(origin, made_by='b')[1], capture(other)[1],
    ) for uid in uids(data)]
    assert len(set(different)) == 12


def test_kinds_and_a_missing_library_are_named(monkeypatch):
    with pytest.raises(ConfigError, match="--dicom: 'pdf' is none of"):
        dicom_writing.check_kinds(['sc', 'pdf'])
    monkeypatch.setitem(sys.modules, 'highdicom', None)  # as if not installed
    with pytest.raises(ConfigError, match=r"pip install 'jaxmed\[dicom\]'"):
        dicom_writing.check_kinds(['sc'])
