"""What is said of one scan: numbers with places, a picture, words of caution."""

import io
import json

import numpy as np
import pytest

from jaxmed.ct import column, fractures, path
from jaxmed.data import spines, volumes
from jaxmed.errors import ImageError

CUT = dict(
    box=column.Box(60.0, 60.0, 60.0), height_mm=40.0, context_mm=0.0,
    shape=(8, 24, 24), pixel_mm=2.0, num_patches=8)
POINT = fractures.OperatingPoint(0.37, 'a specificity of 0.951', 0.5)
ORANGE, BLUE = np.array([255, 150, 50]), np.array([120, 175, 220])


def scan_record(
    *, depth=80, facts=None, kinds=0, confidence=0.9, spacing_mm=2.0, boneless=()
):
    """A bright bar before a straight cord; 2 mm slices, so 160 mm in four patches."""
    hu = np.full((depth, 150, 130), 0, np.int16)
    hu[:, 45:75, 50:80] = 600
    hu[list(boneless)] = 0
    affine = np.array([
        [0, 0, 1.0, -65], [0, 1.0, 0, -90], [spacing_mm, 0, 0, 500], [0, 0, 0, 1]])
    volume = volumes.Volume(
        hu, affine, np.eye(4), hu.shape, 'p',
        {'format': 'NIfTI', 'exclusion': '', 'orientation_assumed': False}
        | (facts or {}))
    cord = path.Path(
        np.tile(np.float32([90, 65]), (depth, 1)), np.full(depth, confidence, 'f4'),
        np.broadcast_to(np.int8(kinds), depth).copy())
    record = spines.make_record(volume, cord, case_id='a', **CUT)
    return spines.skip_patches(record, spines.describe_scan(record, volume, cord))


def find(
    record, parts, *, series=None, point=POINT, calibrated=True, patches_calibrated=True
):
    parts = np.pad(np.array(parts, float), (0, 8 - len(parts)))
    return fractures.findings(
        record, {'series': parts.max() if series is None else series, 'patches': parts},
        operating_point=point, calibrated=calibrated,
        patches_calibrated=patches_calibrated)


def test_findings_say_how_likely_where_and_against_which_threshold():
    finding = find(scan_record(), [0.1, 0.8, 0.2, 0.05])
    assert finding.row == {
        'probability': 0.8, 'verdict': 'above', 'threshold': 0.37, 'patches': 4,
        'skipped': 0, 'boxed': 1, 'likeliest_patch': 1, 'likeliest_probability': 0.8,
        # Slices from 500 - 1 mm up; the second of four patches of 40 mm from above.
        'likeliest_z_mm': 599.0, 'warnings': ''}
    details = json.loads(json.dumps(finding.details, allow_nan=False))
    assert details['verdict_in_words'] == (
        'above the threshold chosen for a specificity of 0.951')
    patch = details['patches'][1]
    assert patch['boxed'] and patch['z_mm'] == [579.0, 619.0] and not patch['doubtful']
    assert details['skipped'] == [] and details['judged_mm'] == 160.0
    # The cord at row 90 and column 65: 60 mm to each side, cut at the scan's edges.
    assert patch['patch']['voxels'] == {'low': [40, 30, 5], 'high': [60, 150, 126]}
    assert patch['bodies']['voxels'] == {'low': [40, 40, 33], 'high': [60, 88, 98]}
    assert patch['bodies']['mm'] == {
        'low': [-32.0, -50.0, 579.0], 'high': [32.0, -3.0, 619.0]}


def test_no_patch_is_told_as_likelier_than_its_patient():
    finding = find(scan_record(), [0.1, 0.81, 0.8, 0.05], series=0.8)
    told = [patch['probability'] for patch in finding.details['patches']]
    assert told == [0.1, 0.8, 0.8, 0.05]
    assert finding.row['likeliest_patch'] == 1
    assert finding.row['likeliest_probability'] == 0.8


def test_without_a_calibration_there_is_no_verdict():
    finding = find(scan_record(), [0.9, 0.1, 0, 0], point=None, calibrated=False)
    assert finding.row['verdict'] == finding.row['threshold'] == ''
    assert finding.details['verdict'] is finding.details['threshold'] is None
    assert finding.details['verdict_in_words'] is None
    assert not finding.details['calibrated']
    # Nothing is a finding without one, however likely.
    assert finding.row['boxed'] == 0 and finding.details['patches'][0]['likely']


@pytest.mark.parametrize('verdict, parts, point, boxed, likely', [
    ('', [0.6, 0.7, 0.2], None, [0, 0, 0], [1, 1, 0]),
    ('above', [0.1, 0.3, 0.2], POINT, [0, 1, 0], [0, 0, 0]),  # the likeliest at least
    ('above', [0.1, 0.3, np.nan], POINT, [0, 1, 0], [0, 0, 0]),
    ('above', [0.9, 0.5, 0.4], POINT, [1, 1, 0], [1, 1, 0]),
    ('below', [0.1, 0.6, 0.2], POINT, [0, 0, 0], [0, 1, 0]),
    ('not judged', [0.1, 0.6, 0.2], POINT, [0, 0, 0], [0, 1, 0]),
    ('below', [0.1, 0.6, 0.2], POINT._replace(patch_threshold=0.2), [0] * 3, [0, 1, 1]),
])
def test_likely_patches_are_findings_of_a_patient_above_the_threshold(
    verdict, parts, point, boxed, likely
):
    chosen = fractures.choose_patches(np.array(parts), verdict, point)
    assert [one.astype(int).tolist() for one in chosen] == [boxed, likely]


def test_an_operating_point_is_what_a_calibration_chose():
    thresholds = {
        'youden': 0.3, 'specificity': 0.4, 'sensitivity': None, 'patch': None,
        'aims': {'sensitivity': 0.9, 'specificity': 0.951, 'patch': 1.0}}
    point = fractures.make_operating_point(thresholds, rule='specificity')
    assert point == (0.4, 'a specificity of 0.951', 0.5)
    assert fractures.make_operating_point(thresholds, rule='sensitivity') is None
    point = fractures.make_operating_point(thresholds | {'patch': 0.2}, rule='youden')
    assert point.patch_threshold == 0.2 and 'largest sum' in point.chosen_for


@pytest.mark.parametrize('changes, words', [
    (dict(kinds=[0] * 50 + [2] * 30), '38% of the slices lie beyond the last place'),
    (dict(kinds=[0] * 20 + [1] * 40 + [0] * 20), 'not found over 82 mm'),
    (dict(kinds=([0] + [1] * 25) * 3 + [2] * 2), 'in 3 slices only'),
    (dict(confidence=0.55), 'a confidence of 0.55'),
    (dict(depth=40), 'only 80 mm of the spine were seen'),
    (dict(spacing_mm=6.0, depth=30), 'slices are 6.0 mm apart'),
    (dict(facts={'exclusion': 'cardiac CT'}), 'cardiac CT: the network'),
    (dict(facts={'orientation_assumed': True}), 'states no orientation'),
    (dict(facts={'interpolated_slices': 3}), '3 slices were interpolated'),
])
def test_a_scan_that_is_hard_to_trust_is_said_to_be(changes, words):
    scan = scan_record(**changes)['scan']
    warnings = fractures.find_warnings(scan)
    assert len(warnings) == 1 and words in warnings[0], warnings
    assert fractures.find_warnings(scan_record()['scan']) == []


def test_patches_that_miss_the_spine_decide_nothing():
    """The second and the last of four show no bone; the network sees the others."""
    record = scan_record(boneless=[*range(40, 60), *range(20)])
    assert record['patch_mask'].tolist() == [1, 1] + [0] * 6
    whole = scan_record()
    np.testing.assert_array_equal(  # but where slices are mixed with their neighbours
        record['inputs'][:2, 1:-1], whole['inputs'][[0, 2], 1:-1])
    np.testing.assert_array_equal(record['position'][:2], whole['position'][[0, 2]])
    finding = find(record, [0.1, 0.3, 0.9, 0.9], series=0.4)  # the last two: fillers
    patches = finding.details['patches']
    assert [p['probability'] for p in patches] == [0.1, None, 0.3, None]
    assert [p['doubtful'] for p in patches] == [False, True, False, True]
    assert [p['boxed'] for p in patches] == [False, False, True, False]
    np.testing.assert_allclose(
        [p['position'] for p in patches], whole['position'][:4], atol=1e-4)
    reason = 'hardly any bone where vertebral bodies should be'
    assert finding.details['skipped'] == [
        {'patch': 1, 'reason': reason}, {'patch': 3, 'reason': reason}]
    assert finding.row['likeliest_patch'] == 2 and finding.row['skipped'] == 2
    assert finding.row['likeliest_z_mm'] == 559.0 and finding.row['patches'] == 4
    assert f'2 of 4 patches were skipped (marked ?): {reason}' in (
        finding.row['warnings'])
    json.dumps(finding.details, allow_nan=False)


@pytest.mark.parametrize('record, judged_mm', [
    (dict(depth=40), 80.0), (dict(depth=48), 96.0), (dict(boneless=range(40)), 80.0)])
def test_too_little_spine_is_never_below_the_threshold(record, judged_mm):
    record = scan_record(**record)
    finding = find(record, [0.1, 0.2])
    assert finding.details['judged_mm'] == judged_mm
    assert finding.row['verdict'] == finding.details['verdict'] == 'not judged'
    assert finding.details['verdict_in_words'] == (
        f'not judged: {judged_mm:.0f} mm of the spine were seen, and 100 are needed to '
        'call a scan below the threshold')
    # What is likely there is a finding all the same.
    assert find(record, [0.1, 0.8]).row['verdict'] == 'above'
    assert find(record, [0.1, 0.2], point=None).row['verdict'] == ''
    assert find(scan_record(depth=52), [0.1, 0.2]).row['verdict'] == 'below'  # 104 mm


def test_a_scan_without_any_spine_is_an_error_that_says_why():
    reason = 'no patch shows the spine: 4 hardly any bone where'
    with pytest.raises(ImageError, match=f'^a: {reason}'):
        scan_record(boneless=range(80))


@pytest.mark.parametrize('series, parts', [
    (np.nan, [0.1, 0.2, 0.1, 0.1]), (0.1, [0.1, np.nan, 0.1, 0.1]),
    (np.inf, [0.1, 0.2, 0.1, 0.1])])
def test_what_is_no_number_is_no_verdict(series, parts):
    with pytest.raises(ImageError, match='^a: the network gave no number$'):
        find(scan_record(), parts, series=series)
    record = scan_record(boneless=range(40))
    find(record, [0.1, 0.2, np.nan, np.nan], series=0.2)  # fillers may be anything


def test_below_the_threshold_likely_patches_look_otherwise():
    def count(picture, colour):
        near = np.abs(picture.astype(int) - colour).sum(axis=2) < 30
        return near[:, :18 + 140 * 5].sum(axis=1).max()  # pixels of the longest line

    for series, point, solid, thin in (
        (0.4, POINT, True, False), (0.3, POINT, False, True), (0.9, None, False, True),
    ):
        picture = find(
            scan_record(), [0.1, 0.8, 0.2, 0], series=series, point=point,
        ).pictures['overlays']
        assert (count(picture, ORANGE) > 200) == solid
        assert (count(picture, BLUE) > 200) == thin


def test_the_box_lies_where_the_patch_and_its_bodies_are():
    record = scan_record()
    picture = find(record, [0.1, 0.8, 0.2, 0.05]).pictures['overlays']
    assert picture.dtype == np.uint8 and picture.shape[0] >= 600
    # 160 mm are 840 pixels high: 5.25 a millimetre, across as along.
    inside = picture[:, :18 + 140 * 5]
    orange = (np.abs(inside.astype(int) - ORANGE).sum(axis=2) < 30)
    orange[:85] = False  # the heading
    long = np.flatnonzero(orange.sum(axis=1) > 200)
    sides = np.flatnonzero(orange.sum(axis=0) > 150)
    assert abs(np.ptp(sides) - 47 * 5.25) < 6 and abs(np.ptp(long) - 40 * 5.25) < 8
    # Before the cord by 50 to 3 mm, which is 80 mm from the left edge at 18.
    assert abs(sides[0] - (18 + 30 * 5.25)) < 4
    bright = picture[:, sides[0]:sides[-1], 0] > 200  # 600 HU: 4/5 of white
    top, bottom = np.flatnonzero(bright.sum(axis=1) > 100)[[0, -1]]  # of the view
    assert abs(bottom - top - 840) < 10
    assert abs(long[0] - (top + 210)) < 8  # the second of four


def test_pictures_differ_in_no_more_than_what_is_told():
    """The same scan under another name, of another patient, is the same picture."""
    a, b = scan_record(), scan_record()
    b |= {'case_id': 'Roe_Jane', 'patient_id': 'MRN-4711', 'example_id': 'Roe_Jane'}
    a, b = find(a, [0.4, 0.3, 0, 0]), find(b, [0.4, 0.3, 0, 0])
    np.testing.assert_array_equal(a.pictures['overlays'], b.pictures['overlays'])
    assert a.details == b.details and a.row == b.row


@pytest.mark.parametrize('depth, height_mm', [(4, 8.0), (14, 40.0), (300, 40.0)])
def test_short_and_long_scans_have_a_picture_of_a_good_size(depth, height_mm):
    hu = np.full((depth, 80, 80), 600, np.int16)
    volume = volumes.Volume(
        hu, np.array([[0, 0, 1, 0], [0, 1, 0, 0], [2.0, 0, 0, 0], [0, 0, 0, 1]]),
        np.eye(4), hu.shape, '', {'format': 'NIfTI', 'exclusion': ''})
    cord = path.Path(
        np.full((depth, 2), 40, np.float32), np.ones(depth, np.float32),
        np.zeros(depth, np.int8))
    record = spines.make_record(
        volume, cord, case_id='a', **CUT | {
            'num_patches': 16, 'height_mm': height_mm})
    record = spines.skip_patches(
        record, spines.describe_scan(record, volume, cord))
    picture = fractures.findings(
        record, {'series': 0.7, 'patches': np.full(16, 0.7)}, operating_point=None,
        calibrated=False, patches_calibrated=False).pictures['overlays']
    assert 600 <= picture.shape[0] <= 1600 and 600 <= picture.shape[1] <= 1100


def test_findings_go_into_dicom_files():
    pydicom = pytest.importorskip('pydicom', reason='highdicom is an optional extra')
    pytest.importorskip('highdicom', reason='highdicom is an optional extra')
    record = scan_record(facts={'interpolated_slices': 3})
    finding = find(record, [0.1, 0.8, 0.2, 0.05])
    made = [fractures.write_dicom(
        'a.nii.gz', record, finding, kinds=('sc', 'sr'), made_by='run') for _ in 'ab']
    capture, report = (
        pydicom.dcmread(io.BytesIO(made[0][name]))
        for name in ('picture.dcm', 'report.dcm'))
    np.testing.assert_array_equal(capture.pixel_array, finding.pictures['overlays'])
    np.testing.assert_allclose(capture.PixelSpacing, 1 / 5.25)
    assert list(capture.PatientOrientation) == ['P', 'F']
    assert capture.StudyInstanceUID == report.StudyInstanceUID
    texts = [item.TextValue for item in report.ContentSequence if 'TextValue' in item]
    assert '3 slices were interpolated, as they were missing or unevenly spaced.' in (
        texts)
    again = pydicom.dcmread(io.BytesIO(made[1]['report.dcm']))
    assert again.SOPInstanceUID == report.SOPInstanceUID
    assert fractures.write_dicom(
        'a.nii.gz', record, finding, kinds=('sr',), made_by='run').keys() == {
            'report.dcm'}


@pytest.mark.parametrize('series, point, stated', [
    (0.8, POINT, ['patient', 'patch 1']),
    # Likely patches of a patient below the threshold, or without one, are none.
    (0.3, POINT, []), (0.9, None, []),
    # 0.36996 is 0.37 when rounded, as findings.csv has it.
    (0.36996, POINT, []),
])
def test_a_report_states_fractures_of_patients_above_the_threshold(
    series, point, stated
):
    pydicom = pytest.importorskip('pydicom', reason='highdicom is an optional extra')
    pytest.importorskip('highdicom', reason='highdicom is an optional extra')
    record = scan_record(boneless=range(20))
    finding = find(record, [0.1, 0.8, 0.2], series=series, point=point)
    report = pydicom.dcmread(io.BytesIO(fractures.write_dicom(
        'a.nii.gz', record, finding, kinds=('sr',), made_by='run')['report.dcm']))
    groups = {}
    for part in report.ContentSequence:
        if part.ValueType == 'CONTAINER':
            for group in part.ContentSequence:
                texts = {i.ConceptNameCodeSequence[0].CodeMeaning: i
                         for i in group.ContentSequence}
                name = texts['Tracking Identifier'].TextValue
                groups[name] = any(
                    'ConceptCodeSequence' in item
                    and item.ConceptCodeSequence[0].CodeValue == '42942008'
                    for item in group.ContentSequence)
    assert [name for name in groups if groups[name]] == stated
    # The fourth was skipped: there is no number to tell.
    assert groups.keys() == {'patient', 'patch 0', 'patch 1', 'patch 2'}
