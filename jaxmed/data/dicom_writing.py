"""Findings as DICOM: a picture (Secondary Capture) and a report (Structured Report).

They belong to the study of the scan, by its Study Instance UID, by which an archive
files them; of a scan that was no DICOM they are a study of their own. They never hold a
patient's name, id or dates, nor a burned-in name: those fields are empty, and whoever
sends them on (a gateway, the archive) fills them in from the study.

All UIDs follow from the scan, the networks that judged it and what they found, and
there is no time of day: to predict once more makes the same bytes, not further
instances of the same finding. A report's Content Date, which must be there, is one that
none was made on.
"""

import hashlib
import importlib.metadata
import io
import itertools
import re
import uuid
import zipfile
from pathlib import Path
from typing import NamedTuple, Sequence

import numpy as np

from jaxmed.data import dicom, dicom_series
from jaxmed.errors import ConfigError, ImageError

KINDS = ('sc', 'sr')

_SPACE = uuid.UUID('8f0e3f1c-64b2-5a0c-9d53-5e3c1a3f0b77')
_MAKER = 'jaxmed'
_SERIES_NUMBERS = {'sc': 9501, 'sr': 9502}  # beyond those of scanners

_CLASS, _INSTANCE = (0x0008, 0x0016), (0x0008, 0x0018)
_MODALITY, _KERNEL = (0x0008, 0x0060), (0x0018, 0x1210)
_STUDY, _SERIES = (0x0020, 0x000D), (0x0020, 0x000E)
_POSITION, _FRAME = (0x0020, 0x0032), (0x0020, 0x0052)
_WANTED = frozenset((
    _CLASS, _INSTANCE, _MODALITY, _KERNEL, _STUDY, _SERIES, _POSITION, _FRAME))
_CT = '1.2.840.10008.5.1.4.1.1.2'
_START_BYTES = 1 << 17  # of a file: all that comes before its position, and more
_SAME_PX = 0.5
_LEAST_MATCHED = 0.9
_NO_DAY, _NO_TIME = '19000101', '000000'


class Origin(NamedTuple):
    """What a scan was read from, as far as DICOM must know it."""

    study: str  # UIDs
    frame: str  # of reference: what millimetres are counted in
    key: str  # differs wherever scans do
    instances: Sequence[tuple[str, str]]  # (class, instance) of slices, feet first
    series: str  # '' of a scan that was no DICOM


class Place(NamedTuple):
    """A number and where in the patient it was found."""

    name: str  # tells it from the others, 'patch 3'
    probability: float
    called: bool  # whether that is a finding
    outline_mm: np.ndarray  # [n, 3] LPS: corners of a flat outline, in order


def check_kinds(kinds):
    """Checks that these kinds of files can be written here.

    Raises:
        ConfigError: an unknown kind; highdicom is not installed.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError('--dicom', f'{kind!r} is none of {KINDS}')
    try:
        import highdicom  # noqa: F401
    except ImportError:
        raise ConfigError(
            '--dicom', "highdicom is not installed: pip install 'jaxmed[dicom]'"
        ) from None


def make_uid(*words):
    """A UID (2.25.x) that is the same for the same words."""
    return f'2.25.{uuid.uuid5(_SPACE, chr(0).join(words)).int}'


def find_origin(file, *, content_id, affine, to_source, facts):
    """The series that a scan was read from; a study of its own where it has no UIDs.

    The reader keeps no UIDs. Here headers are looked at once more, for the slices of
    the series whose hash it kept that lie where the volume says; where reconstructions
    share a series, of the one with its kernel, and then with as many slices.

    Args:
        file: what volumes.read_volume was given.
        content_id: str that differs wherever scans do.
        affine, to_source, facts: of the Volume.

    Returns:
        Origin.

    Raises:
        ImageError: no series of the file matches the volume.
    """
    if facts['format'] != 'DICOM':
        return Origin(
            make_uid('study', content_id), make_uid('frame', content_id), content_id,
            (), '')
    to_file = np.asarray(to_source) @ np.linalg.inv(np.asarray(affine, np.float64))
    found = {}
    for header in _headers(file):
        position = header.numbers(_POSITION)
        if header.text(_MODALITY).upper() != 'CT' or not position or len(position) != 3:
            continue
        if dicom_series.hide_series(header) != facts['series_hash']:
            continue
        k, j, i = (to_file @ [*position, 1])[:3]
        # Of slices that belong to it the outermost voxel of the file is there.
        if max(abs(j), abs(i)) < _SAME_PX and -_SAME_PX < k:
            kernel = header.text(_KERNEL).split('\\')[0]
            found.setdefault((header.text(_SERIES), kernel), []).append((k, header))
    wanted, kernel = facts['slices'], facts.get('kernel', '')
    found = {
        name: slices for name, slices in found.items()
        if len(slices) >= _LEAST_MATCHED * wanted}
    if not found:
        raise ImageError(file, 'the DICOM series of this scan was not found again')
    series = min(found, key=lambda name: (
        name[1] != kernel, abs(len(found[name]) - wanted), name))
    slices = sorted(found[series], key=lambda entry: entry[0])
    instances = {}
    for k, header in slices:  # one for each place
        instances.setdefault(round(k, 2), (header.text(_CLASS), header.text(_INSTANCE)))
    first = slices[0][1]
    study, frame = first.text(_STUDY), first.text(_FRAME)
    if not _is_uid(frame):
        frame = make_uid('frame', content_id)
    if not _is_uid(study) or not _is_uid(series[0]):  # an anonymiser emptied them
        return Origin(make_uid('study', content_id), frame, content_id, (), '')
    whole = all(map(_is_uid, itertools.chain(*instances.values())))
    return Origin(
        study, frame, f'{series[0]} {content_id}',
        tuple(instances.values()) if whole else (), series[0])


def write_capture(picture, origin, *, title, pixel_mm, orientation, made_by):
    """A picture as a Secondary Capture.

    Args:
        picture: uint8 RGB [H, W, 3], without anything that names the patient.
        origin: Origin.
        title: of the series.
        pixel_mm: of the picture, down and along, so that a viewer can measure.
        orientation: letters of where rows and columns lead to: ('P', 'F').
        made_by: str that differs wherever predictions may.

    Returns:
        bytes of a file, uncompressed.
    """
    import highdicom

    image = highdicom.sc.SCImage(
        pixel_array=np.ascontiguousarray(picture), photometric_interpretation='RGB',
        bits_allocated=8, coordinate_system='PATIENT',
        patient_orientation=orientation, pixel_spacing=(pixel_mm, pixel_mm),
        **_common('sc', origin, made_by), **_nobody(),
    )
    image.SeriesDescription, image.BodyPartExamined = title, 'SPINE'
    image.BurnedInAnnotation = 'NO'
    return _finish(image, 'sc', origin, made_by)


def write_report(
    places, origin, *, title, probability, called, threshold, comments, made_by
):
    """Numbers with places as a Structured Report (Comprehensive 3D, TID 1500).

    One group of measurements is the patient's: probability, and threshold if there is
    one. Each place is a group of its own with its outline in the patient's
    millimetres. Only of what is called a finding is 'compression fracture of vertebral
    column' (SNOMED CT) stated as one; all have the probability of it.

    Args:
        places: Places.
        origin: Origin.
        title: of the series.
        probability: of the patient.
        called: whether that is a finding.
        threshold: from which on that is a finding, or None.
        comments: sentences.
        made_by: str that differs wherever predictions may.

    Returns:
        bytes of a file.
    """
    from highdicom import sr
    from pydicom import Dataset
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    fracture = Code('42942008', 'SCT', 'Compression fracture of vertebral column')
    # There is a code for a probability, and none for that of a fracture.
    likely = Code('VCF', '99JAXMED', 'Probability of vertebral compression fracture')
    spine = sr.FindingSite(anatomic_location=codes.SCT.Spine)
    algorithm = sr.AlgorithmIdentification(
        name=title, version=_version(), parameters=[f'run {made_by}'])

    def measured(name, value):
        return sr.Measurement(
            name=name, value=round(float(value), 4), unit=codes.UCUM.NoUnits)

    def named(name, called):
        return dict(
            tracking_identifier=sr.TrackingIdentifier(
                uid=make_uid(origin.key, made_by, name), identifier=name),
            finding_type=fracture if called else None, finding_sites=[spine],
            algorithm_id=algorithm)

    numbers = [measured(likely, probability)]
    if threshold is not None:
        numbers.append(measured(codes.DCM.ThresholdValue, threshold))
    groups = [sr.MeasurementsAndQualitativeEvaluations(
        **named('patient', called), measurements=numbers)]
    for place in places:
        # Closed, and flat to the last digit that a file holds of it (float32).
        corners = np.asarray(place.outline_mm, np.float32)
        groups.append(sr.PlanarROIMeasurementsAndQualitativeEvaluations(
            **named(place.name, place.called), measurements=[
                measured(likely, place.probability)],
            referenced_region=sr.ImageRegion3D(
                'POLYGON', np.vstack([corners, corners[:1]]), origin.frame)))
    context = sr.ObservationContext(
        observer_device_context=sr.ObserverContext(
            observer_type=codes.DCM.Device,
            observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
                uid=make_uid('device', made_by), name=_MAKER, manufacturer_name=_MAKER,
                model_name=title)))
    content = sr.MeasurementReport(
        observation_context=context, imaging_measurements=groups,
        procedure_reported=codes.SCT.ComputedTomography,
        title=codes.DCM.ImagingMeasurementReport)
    for comment in comments:
        content[0].ContentSequence.append(sr.TextContentItem(
            name=codes.DCM.Comment, value=comment,
            relationship_type=sr.RelationshipTypeValues.CONTAINS))

    evidence = []
    # highdicom copies the study from what is referred to: there must be something.
    for sop_class, instance in origin.instances or [(_CT, origin.study)]:
        item = Dataset()
        item.StudyInstanceUID = origin.study
        item.SeriesInstanceUID = origin.series or origin.study
        item.SOPClassUID, item.SOPInstanceUID = sop_class, instance
        for name in _EMPTY:
            setattr(item, name, '')
        evidence.append(item)
    report = sr.Comprehensive3DSR(
        evidence=evidence, content=content[0], is_complete=True,
        record_evidence=bool(origin.instances),
        **{k: v for k, v in _common('sr', origin, made_by).items()
           if k != 'study_instance_uid'},
    )
    report.SeriesDescription = title
    return _finish(report, 'sr', origin, made_by)


# What an archive or gateway fills in: they must be there, and may be empty.
_EMPTY = (
    'PatientID', 'PatientName', 'PatientBirthDate', 'PatientSex', 'AccessionNumber',
    'StudyID', 'StudyDate', 'StudyTime', 'ReferringPhysicianName')


def _nobody():
    return dict(
        patient_id='', patient_name='', patient_birth_date='', patient_sex=None,
        accession_number='', study_id='', study_date=None, study_time=None,
        referring_physician_name='')


def _common(kind, origin, made_by):
    return dict(
        study_instance_uid=origin.study,
        series_instance_uid=make_uid(origin.key, made_by, kind, 'series'),
        series_number=_SERIES_NUMBERS[kind],
        # Until all that it holds is known, see _finish.
        sop_instance_uid=make_uid(origin.key, made_by, kind), instance_number=1,
        manufacturer=_MAKER)


def _finish(dataset, kind, origin, made_by):
    """bytes of a file whose instance UID no other content has."""
    dataset.ManufacturerModelName = _MAKER
    dataset.SoftwareVersions = _version()
    if not origin.series:  # else its study's UID leads to the patient
        dataset.PatientIdentityRemoved = 'YES'
        dataset.DeidentificationMethod = 'No identity is read or written'
    dataset.walk(_forget_time)
    if kind == 'sr':
        dataset.ContentDate, dataset.ContentTime = _NO_DAY, _NO_TIME
    digest = hashlib.sha256(_encode(dataset)).hexdigest()
    dataset.SOPInstanceUID = make_uid(origin.key, made_by, kind, digest)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return _encode(dataset)


def _forget_time(dataset, element):
    if element.VR in ('DA', 'TM', 'DT') and element.value:
        del dataset[element.tag]


def _version():
    try:
        return importlib.metadata.version('jaxmed')
    except importlib.metadata.PackageNotFoundError:  # of a folder that isn't installed
        return 'unknown'


def _encode(dataset):
    data = io.BytesIO()
    dataset.save_as(data, enforce_file_format=True)
    return data.getvalue()


def _is_uid(text):
    return re.fullmatch(r'[0-9][0-9.]{1,63}', text) is not None


def _headers(file):
    """Yields headers of the DICOM files in a folder or a zip, damaged ones as well."""
    try:
        for start in _starts(file):
            try:
                yield dicom.parse_header(memoryview(start), _WANTED)[0]
            except dicom.Damaged as error:  # most files are longer than their start
                yield error.header
            except dicom.Unread:
                pass
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        reason = getattr(error, 'strerror', None) or 'damaged zip'
        raise ImageError(file, reason) from None


def _starts(file):
    if Path(file).is_dir():
        for path in dicom_series.find_files(file):
            with open(path, 'rb') as source:
                yield source.read(_START_BYTES)
        return
    # The reader has been through it: no more files and bytes than it allows.
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                with archive.open(member) as source:
                    yield source.read(_START_BYTES)
