"""What is said of one scan about fractures: numbers with places, and a picture.

The picture is the spine made straight, seen from the side, as in the paper's Figure 4.
Neither holds a name, an id or a file's path.
"""

import textwrap
from collections import Counter
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxmed.data import dicom_writing
from jaxmed.errors import ImageError
from jaxmed.types import Finding, Page

LIKELY = 0.5  # probability from which on a patch is, where no other was chosen

# When a scan is hard to trust, and is said to be. A detector looks every 30 mm: a gap
# of more than two such steps means that it looked and saw nothing.
_MOST_EXTRAPOLATED, _LONGEST_GAP_MM, _FEWEST_DETECTIONS = 0.2, 65.0, 4
_LEAST_CONFIDENCE, _THICKEST_MM = 0.6, 5.0
# Least of the spine that is called below the threshold: three lumbar vertebrae, or four
# thoracic ones. Thresholds are chosen on longer scans; what is likely in a shorter one
# is a finding all the same, but where nothing is, little was looked at.
_SHORTEST_MM = 100.0
ABOVE, BELOW, NOT_JUDGED = 'above', 'below', 'not judged'

AXES = {
    'voxels': "(k, j, i) of the file: slices, rows, columns; 'high' is one past the "
              'last; slices of DICOM count from feet to head',
    'mm': '(x, y, z) of the patient: to the left, to the back, to the head (LPS)',
    'patch': 'all that the network saw at once',
    'bodies': 'its part where vertebral bodies lie: what is boxed in the picture',
    'probability': 'of the patient: of a fracture anywhere, so no less than that of '
                   'any patch, and more where several are doubtful',
    'boxed': 'a finding: likely, or the likeliest if none is, in a patient above the '
             'threshold',
    'likely': 'from the threshold of patches on; a thin box where it is no finding',
    'doubtful': 'misses the spine or lies mostly outside of the scan: skipped, no '
                'network saw it; ? in the picture',
    'position': 'along the spine, 0 at the upper end of the scan and 1 at the lower',
}

PAGE = Page(
    risk='probability', verdict='verdict', picture='overlays', columns={
        'boxed': 'Boxed', 'patches': 'Patches', 'skipped': 'of them skipped',
        'likeliest_z_mm': 'Likeliest at z, mm', 'warnings': 'Warnings',
    },
)
_TITLE = 'Vertebral compression fractures'

# Colours and sizes of the picture, in pixels.
_INK, _GREY, _BOX, _AMBER = (240,) * 3, (150,) * 3, (255, 150, 50), (250, 200, 90)
_THIN = (120, 175, 220)  # likely, and no finding
_BACK = (12, 12, 14)
_LEAST_HIGH, _LEAST_WIDE, _EDGE, _SIDE = 600, 620, 18, 130
_HIGH, _LEAST_SCALE, _GREATEST_SCALE = 840, 2.0, 6.0  # of the view; pixels a mm
_BAR_MM = 50


class OperatingPoint(NamedTuple):
    """From which probability on a patient counts as having a fracture."""

    threshold: float
    chosen_for: str  # 'a specificity of 0.951'
    patch_threshold: float  # from which on a patch is likely


def make_operating_point(thresholds, *, rule):
    """One of the thresholds that a run's calibration chose.

    Args:
        thresholds: of classification.fractures.choose_thresholds.
        rule: 'specificity', 'sensitivity' or 'youden'.

    Returns:
        OperatingPoint, or None where none could be chosen.
    """
    if thresholds[rule] is None:
        return None
    words = 'the largest sum of sensitivity and specificity'
    if rule != 'youden':
        words = f'a {rule} of {thresholds["aims"][rule]:g}'
    patch = thresholds['patch']
    return OperatingPoint(
        thresholds[rule], words, LIKELY if patch is None else patch)


def findings(
    record, probabilities, *, operating_point, calibrated, patches_calibrated
):
    """How likely a fracture is, where, and how far to trust it.

    Args:
        record: of data.spines.read_scan.
        probabilities: 'series' [], 'patches' [K], in the record's order.
        operating_point: OperatingPoint, or None where none was chosen.
        calibrated: whether `series` is.
        patches_calibrated: whether `patches` are.

    Returns:
        Finding: row for findings.csv, details for findings.json, the picture
        'overlays' of draw_findings.

    Raises:
        ImageError: a probability is not a number.
    """
    scan = record['scan']
    series = float(probabilities['series'])
    judged = np.flatnonzero([not reason for reason in scan.skipped])
    parts = np.full(len(scan.skipped), np.nan)
    parts[judged] = np.asarray(probabilities['patches'], float)[:len(judged)]
    if not np.isfinite([series, *parts[judged]]).all():
        raise ImageError(record['case_id'], 'the network gave no number')
    threshold, verdict, words = judge(series, scan, operating_point)
    boxed, likely = choose_patches(parts, verdict, operating_point)
    warnings = find_warnings(scan)
    likeliest = int(np.nanargmax(parts))
    # Patient and patches are calibrated apart, and a part is no likelier than any.
    told = np.minimum(parts, series)
    places = [{
        'probability': None if reason else round(float(told[i]), 4),
        'boxed': bool(boxed[i]), 'likely': bool(likely[i]), 'doubtful': bool(reason),
        'position': round(float(scan.position[i]), 4), 'z_mm': _rounded(scan.z_mm[i]),
        'patch': _place(scan.patch, i), 'bodies': _place(scan.bodies, i),
        'scanned_share': round(float(scan.inside[i]), 3),
        'bone_share': round(float(scan.bone[i]), 3),
    } for i, reason in enumerate(scan.skipped)]
    skipped = [{'patch': i, 'reason': reason}
               for i, reason in enumerate(scan.skipped) if reason]
    return Finding(
        row={
            'probability': round(series, 4), 'verdict': verdict,
            'threshold': '' if threshold is None else round(threshold, 4),
            'patches': len(parts), 'skipped': len(skipped), 'boxed': int(boxed.sum()),
            'likeliest_patch': likeliest,
            'likeliest_probability': round(float(told[likeliest]), 4),
            'likeliest_z_mm': round(float(scan.z_mm[likeliest].mean()), 1),
            'warnings': '; '.join(warnings),
        },
        details={
            'calibrated': bool(calibrated),
            'patches_calibrated': bool(patches_calibrated), 'threshold': threshold,
            'verdict': verdict or None, 'verdict_in_words': words,
            'judged_mm': round(scan.judged_mm, 1), 'warnings': warnings,
            'patches': places, 'skipped': skipped, 'cord': dict(scan.cord),
            'scan': dict(scan.facts), 'axes': AXES,
        },
        pictures={'overlays': draw_findings(
            scan, series, parts, operating_point=operating_point,
            calibrated=calibrated, patches_calibrated=patches_calibrated)},
    )


def judge(series, scan, operating_point):
    """What is said of a patient.

    Args:
        series: probability of the patient.
        scan: data.spines.Scan.
        operating_point: OperatingPoint or None.

    Returns:
        (threshold or None; 'above', 'below', 'not judged' where too little of the spine
        was seen to say 'below', or '' without a threshold; the same in words or None).
    """
    if operating_point is None:
        return None, '', None
    threshold = float(operating_point.threshold)
    if series < threshold and scan.judged_mm < _SHORTEST_MM:
        return threshold, NOT_JUDGED, (
            f'{NOT_JUDGED}: {scan.judged_mm:.0f} mm of the spine were seen, and '
            f'{_SHORTEST_MM:.0f} are needed to call a scan below the threshold')
    verdict = ABOVE if series >= threshold else BELOW
    return threshold, verdict, (
        f'{verdict} the threshold chosen for {operating_point.chosen_for}')


def choose_patches(parts, verdict, operating_point):
    """Which patches are findings, and which only likely.

    Args:
        parts: [k], probabilities; NaN of skipped patches.
        verdict: of judge.
        operating_point: OperatingPoint or None.

    Returns:
        (boxed, likely), [k] bool each. Likely patches are boxed of a patient above the
        threshold; or the likeliest, if none is likely. Of others none is.
    """
    likely = parts >= (
        LIKELY if operating_point is None else operating_point.patch_threshold)
    boxed = likely & (verdict == ABOVE)
    if verdict == ABOVE and not boxed.any():
        boxed[np.nanargmax(parts)] = True
    return boxed, likely


def find_warnings(scan):
    """Sentences without a full stop on why a scan is hard to trust; [] of a good one.

    Args:
        scan: data.spines.Scan.
    """
    cord, facts, found = scan.cord, scan.facts, []
    if cord['extrapolated_share'] > _MOST_EXTRAPOLATED:
        found.append(
            f'{cord["extrapolated_share"]:.0%} of the slices lie beyond the last place '
            'where the spinal canal was found')
    if cord['longest_gap_mm'] > _LONGEST_GAP_MM:
        found.append(
            f'the spinal canal was not found over {cord["longest_gap_mm"]:.0f} mm')
    if cord['detections'] < _FEWEST_DETECTIONS:
        found.append(
            f'the spinal canal was found in {cord["detections"]} slices only')
    if cord['confidence'] is not None and cord['confidence'] < _LEAST_CONFIDENCE:
        found.append(
            f'the spinal canal was found with a confidence of {cord["confidence"]:.2f}')
    if scan.judged_mm < _SHORTEST_MM:
        found.append(f'only {scan.judged_mm:.0f} mm of the spine were seen')
    if cord['slice_mm'] > _THICKEST_MM:
        found.append(
            f'slices are {cord["slice_mm"]:.1f} mm apart: mild fractures may not show')
    reasons = Counter(reason for reason in scan.skipped if reason)
    for reason, count in sorted(reasons.items()):
        found.append(
            f'{count} of {len(scan.skipped)} patches were skipped (marked ?): {reason}')
    if facts.get('exclusion'):
        found.append(f'{facts["exclusion"]}: the network was not made for such scans')
    if facts.get('orientation_assumed'):
        found.append('the file states no orientation: head and feet, left and right '
                     'may be swapped')
    if facts.get('interpolated_slices'):
        found.append(f'{facts["interpolated_slices"]} slices were interpolated, as '
                     'they were missing or unevenly spaced')
    return found


def draw_findings(
    scan, series, parts, *, operating_point, calibrated, patches_calibrated
):
    """The straightened spine from the side, patches that are findings boxed.

    Those that are likely without being one have a thin blue box; others a tick and a
    small grey probability, or '?' where they were skipped. Scales across and along are
    the same.

    Args:
        scan: data.spines.Scan.
        series: probability of the patient.
        parts: [k], of the patches; NaN of those that were skipped.
        operating_point, calibrated, patches_calibrated: of findings.

    Returns:
        uint8 RGB, at least 600 x 620.
    """
    _, verdict, words = judge(series, scan, operating_point)
    boxed, likely = choose_patches(parts, verdict, operating_point)
    rows, columns = scan.side_view.shape
    down, right = scan.view_pitch_mm
    scale = _scale(scan)
    high, wide = round(rows * down * scale), round(columns * right * scale)

    big, middle, small = (ImageFont.load_default(size) for size in (27, 18, 14))
    full = max(_LEAST_WIDE, wide + _SIDE + 2 * _EDGE)
    notes = [
        line for warning in find_warnings(scan)
        for line in textwrap.wrap(f'! {warning}', int((full - 2 * _EDGE) / 6.9))]
    told = words or 'no threshold was chosen'
    if likely.any() and not boxed.any():
        told += '; in blue: likelier than most patches, no finding'
    if not calibrated:
        told += '; probabilities are not calibrated'
    elif not patches_calibrated:
        told += '; those of patches are not calibrated'
    told = textwrap.wrap(
        told[:1].upper() + told[1:], int((full - 2 * _EDGE) / 8.8))
    above_notes = 60 + 24 * len(told)
    head = above_notes + 8 + 18 * len(notes) + (10 if notes else 0)
    foot = 54
    full_high = max(_LEAST_HIGH, head + high + foot)
    canvas = Image.new('RGB', (full, full_high), _BACK)
    draw = ImageDraw.Draw(canvas)

    colour = _BOX if verdict == ABOVE else _INK
    draw.text((_EDGE, 14), f'Vertebral fracture: {series:.2f}', colour, big)
    for number, line in enumerate(told):
        draw.text((_EDGE, 52 + 24 * number), line, _INK, middle)
    for number, line in enumerate(notes):
        draw.text((_EDGE, above_notes + 18 * number), line, _AMBER, small)

    left, top = _EDGE, head + (full_high - foot - head - high) // 2
    picture = Image.fromarray(scan.side_view).resize(
        (wide, high), Image.Resampling.BICUBIC)
    canvas.paste(picture, (left, top))

    def place(row):
        return top + float(row) * down * scale

    front, back = (left + c * right * scale for c in scan.view_columns)
    edge = left + wide
    for i in np.argsort(2 * boxed + likely, kind='stable'):  # boxes above ticks
        shown = '?' if scan.skipped[i] else f'{min(parts[i], series):.2f}'
        upper, lower = (place(row) for row in scan.view_rows[i])
        centre = (upper + lower) / 2
        if boxed[i]:
            draw.rectangle((front, upper + 2, back, lower - 3), outline=_BOX, width=3)
            draw.line((back, centre, edge + 14, centre), _BOX, 1)
            draw.text((edge + 20, centre), shown, _BOX, big, anchor='lm')
        elif likely[i]:
            draw.rectangle((front, upper + 2, back, lower - 3), outline=_THIN)
            draw.line((back, centre, edge + 10, centre), _THIN, 1)
            draw.text((edge + 14, centre), shown, _THIN, middle, anchor='lm')
        else:
            draw.line((edge - 8, centre, edge + 8, centre), _GREY, 1)
            draw.text((edge + 14, centre), shown, _GREY, small, anchor='lm')
    bar_mm = _BAR_MM if rows * down >= _BAR_MM else 10
    x, y = left + 14, top + high - 14
    draw.line((x, y, x, y - bar_mm * scale), _INK, 3)
    draw.text((x + 8, y - bar_mm * scale / 2), f'{bar_mm} mm', _INK, small,
              anchor='lm', stroke_width=2, stroke_fill=_BACK)
    for x, y, letter, anchor in (
        (left + 10, top + 10, 'A', 'lt'), (edge - 12, top + 10, 'P', 'rt'),
    ):
        draw.text((x, y), letter, _INK, middle, anchor, stroke_width=2,
                  stroke_fill=_BACK)
    draw.text((_EDGE, full_high - 40), 'Straightened along the spinal canal, seen from '
              'the side; numbers are', _GREY, small)
    draw.text((_EDGE, full_high - 22), 'probabilities. Made by software (jaxmed). Not '
              'a medical device.', _GREY, small)
    return np.array(canvas)


def _scale(scan):
    """Pixels of the picture a millimetre."""
    length_mm = len(scan.side_view) * scan.view_pitch_mm[0]
    return float(np.clip(_HIGH / length_mm, _LEAST_SCALE, _GREATEST_SCALE))


def write_dicom(file, record, finding, *, kinds, made_by):
    """What `findings` tells, as DICOM files.

    Args:
        file: the scan.
        record: of data.spines.read_scan.
        finding: of `findings`.
        kinds: of dicom_writing.KINDS.
        made_by: str that differs wherever predictions may.

    Returns:
        name -> bytes: 'picture.dcm' and 'report.dcm', as asked.

    Raises:
        ImageError: the series that the scan was read from is not found again.
    """
    scan, told = record['scan'], finding.details
    origin = dicom_writing.find_origin(
        file, content_id=record['content_id'], affine=scan.affine,
        to_source=scan.to_source, facts=scan.facts)
    written = {}
    if 'sc' in kinds:
        written['picture.dcm'] = dicom_writing.write_capture(
            finding.pictures['overlays'], origin, title=_TITLE, made_by=made_by,
            pixel_mm=1 / _scale(scan), orientation=('P', 'F'))
    if 'sr' in kinds:
        comments = [told['verdict_in_words'] or 'no threshold was chosen']
        if not told['calibrated']:
            comments.append('probabilities are not calibrated')
        elif not told['patches_calibrated']:
            comments.append('probabilities of patches are not calibrated')
        comments += told['warnings']
        written['report.dcm'] = dicom_writing.write_report(
            [dicom_writing.Place(
                f'patch {i}', place['probability'], place['boxed'], scan.outline_mm[i])
             for i, place in enumerate(told['patches']) if not place['doubtful']],
            origin, title=_TITLE, probability=finding.row['probability'],
            called=told['verdict'] == ABOVE,
            threshold=told['threshold'], made_by=made_by, comments=[
                f'{words[:1].upper()}{words[1:]}.'
                for words in (*comments, 'not a medical device')])
    return written


def _place(region, i):
    """Of patch i, JSON: voxels of the file and the patient's millimetres."""
    low, high = region.source[i].tolist()
    least, greatest = map(_rounded, region.corners_mm[i])
    return {
        'voxels': {'low': low, 'high': high}, 'mm': {'low': least, 'high': greatest}}


def _rounded(values):
    return [round(float(value), 1) for value in values]
