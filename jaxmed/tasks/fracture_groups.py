"""Fractures by group: by grade, slice thickness, length and region of the spine."""

import math

import numpy as np

from jaxmed.classification import fractures
from jaxmed.classification.intervals import (
    WILSON,
    area_of,
    number_of,
    rates_of,
    share_of,
    sizes_of,
    truth_of,
    undefined,
)
from jaxmed.report import Section, Table

GRADES = {1: 'Genant 1, mild', 2: 'Genant 2, moderate', 3: 'Genant 3, severe'}
SLICES_MM = ((0.0, 1.5), (1.5, 3.0), (3.0, math.inf))
PATCHES = ((0, 7), (7, 13), (13, math.inf))
# VerSe's numbers (data.spines.LEVELS); 28 is T13.
REGIONS = {
    'Neck, C1 to C7': tuple(range(1, 8)),
    'Thoracic, T1 to T10': tuple(range(8, 18)),
    'Thoracolumbar, T11 to L2': (18, 19, 28, 20, 21),
    'Lumbar, L3 to L6': tuple(range(22, 26)),
}
THIRDS = ('Upper third', 'Middle third', 'Lower third')


def make_section(cases, thresholds, *, chosen_on):
    """The part 'By group' of a report.

    Args:
        cases: rows, see fracture_sections.sections.
        thresholds: of fractures.choose_thresholds.
        chosen_on: a sentence about them.

    Returns:
        report.Section.
    """
    called = [
        f'No scan is called, for want of a threshold: {thresholds["reason"]}.'
        if thresholds['youden'] is None else
        f'Scans are called from {thresholds["youden"]:.3f} on (Youden\'s index).',
        f'No patch is called, for want of a threshold: {thresholds["patch_reason"]}.'
        if thresholds['patch'] is None else
        f'Patches are called from {thresholds["patch"]:.3f} on, chosen for at most '
        f'{thresholds["aims"]["patch"]:g} false ones a scan in the tuning set.']
    if thresholds['youden'] is not None or thresholds['patch'] is not None:
        called.insert(0, chosen_on)
    return Section(
        'By group', f'{" ".join(called)} Groups are small: read their intervals.',
        tables=[_by_grade(cases, thresholds), _by_slice(cases, thresholds),
                _by_length(cases, thresholds), _by_region(cases, thresholds)])


def _patch_share(cases, chosen, thresholds, reason):
    """Cell of the share of some patches [N, K] that are called."""
    if thresholds['patch'] is None:
        return undefined(f'no threshold: {thresholds["patch_reason"]}')
    probability = np.asarray(cases['patch_probability'], float)[chosen]
    if np.isnan(probability).any():
        return undefined('a probability is not a number')
    patients = np.repeat(np.asarray(cases['patient_id']), chosen.sum(axis=1))
    return share_of(probability >= thresholds['patch'], patients, reason)


def _false_patches(cases, sound, among, thresholds):
    """Cell of the sound patches [N, K] that are called, a scan that has any `among`."""
    share = _patch_share(cases, sound, thresholds, 'no patch without a fracture')
    if not np.isfinite(share['value']):
        return share
    return share['value'] * float(sound.sum()) / float(among.any(axis=1).sum())


def highest_grade(cases):
    """Highest Genant grade of each scan, [N]; NaN where it is unknown or has none.

    A fractured patch of unknown grade could be of any: only 3 is then known.
    """
    broken = fractures.known_patches(cases) & (np.asarray(cases['patch_targets']) == 1)
    grade = np.where(broken, np.asarray(cases['grade'], float), 0.0)
    highest = np.nan_to_num(grade).max(axis=1, initial=0)
    told = (highest == 3) | (~np.isnan(grade).any(axis=1) & (highest > 0))
    return np.where(told, highest, np.nan)


def _by_grade(cases, thresholds):
    probability, target = truth_of(cases)
    patients = np.asarray(cases['patient_id'])
    highest = highest_grade(cases)
    broken = fractures.known_patches(cases) & (np.asarray(cases['patch_targets']) == 1)
    grade = np.asarray(cases['grade'], float)
    rows = []
    for value, name in (*GRADES.items(), (None, 'Grade not told')):
        inside, some = (
            np.isnan(grades) if value is None else grades == value
            for grades in (highest, grade))
        inside, some = inside & (target == 1), some & broken
        if value is None and not inside.any() and not some.any():
            continue
        chosen = np.where(inside | (target == 0), target, np.nan)
        group = {'probability': probability[:, None],
                 'targets': np.where(inside, target, np.nan)[:, None],
                 'patient_id': patients}
        rows.append([
            name, number_of(int(inside.sum()), 'scan'),
            *([undefined('no scan of this grade')] * 2 if not inside.any() else [
                rates_of(group, thresholds, 'youden')[0],
                area_of(probability, chosen, patients, thing='scan')]),
            _patch_share(cases, some, thresholds, 'no patch of this grade')
            | {'n': int(some.sum())},
        ])
    return Table(
        'By Genant grade', ['Highest grade of the scan', 'Scans', 'Sensitivity',
                            'AUC against scans without', 'Patches of the grade found'],
        rows, 'The paper names grade 1, a loss of 20 to 25% of height on which readers '
        'agree least, a common source of its mistakes. ' + WILSON)


def _by_slice(cases, thresholds):
    # Headers tell 1.5 mm as 1.5000001, too.
    slice_mm = np.round(np.asarray(cases['slice_mm'], float).ravel(), 2)
    return Table(
        'By slice thickness', ['Between slices', *_SCAN_COLUMNS],
        _scan_rows(cases, thresholds, slice_mm, SLICES_MM, ' mm'),
        'From one slice to the next, as the scan was read.')


def _by_length(cases, thresholds):
    count = np.sum(np.asarray(cases['patch_mask']) > 0, axis=1)
    return Table(
        'By length of the spine', ['Patches of the scan', *_SCAN_COLUMNS],
        _scan_rows(cases, thresholds, count, PATCHES, ''),
        'More patches are more chances of a false one.')


_SCAN_COLUMNS = ['With a fracture', 'AUC', 'Sensitivity', 'Specificity']


def _scan_rows(cases, thresholds, values, limits, unit):
    """Rows of _SCAN_COLUMNS, of scans whose value [N] lies between two limits."""
    rows = []
    groups = {
        ', '.join(
            [f'over {low:g}{unit}'] * (low > 0)
            + [f'up to {high:g}{unit}'] * (high < math.inf)
        ).capitalize(): (values > low) & (values <= high)
        for low, high in limits}
    if np.isnan(values).any():
        groups['Not told'] = np.isnan(values)
    for name, inside in groups.items():
        group = {key: np.asarray(cases[key])[inside]
                 for key in ('probability', 'targets', 'patient_id')}
        rows.append([
            name, sizes_of(group),
            *([undefined('no scan like this')] * 3 if not inside.any() else [
                area_of(*truth_of(group), group['patient_id'], thing='scan'),
                *rates_of(group, thresholds, 'youden')[:2]])])
    return rows


def _by_region(cases, thresholds):
    known = fractures.known_patches(cases)
    target = np.asarray(cases['patch_targets'], float)
    level = np.where(known, np.asarray(cases['level'], float), np.nan)
    # Where only fractured vertebrae are named, a region would hold nothing else.
    named = np.any(~np.isnan(level) & (target == 0), axis=1)
    groups = {
        name: np.isin(level, numbers) & (named[:, None] | (target == 1))
        for name, numbers in REGIONS.items()}
    if not groups['Neck, C1 to C7'].any():
        del groups['Neck, C1 to C7']
    third = np.clip(np.asarray(cases['position'], float) * 3, 0, 2).astype(int)
    if (known & ~named[:, None]).any():
        groups |= {name: known & ~named[:, None] & (third == place)
                   for place, name in enumerate(THIRDS)}
    lost = int(np.sum(known & named[:, None] & np.isnan(level)))
    patients = np.asarray(cases['patient_id'])
    rows = []
    for name, inside in groups.items():
        mixed = inside & (named[:, None] if name in REGIONS else True)
        rows.append([
            name, f'{np.sum(inside & (target == 1)):,} of {inside.sum():,}',
            *([undefined('no patch there')] * 3 if not inside.any() else [
                area_of(
                    np.asarray(cases['patch_probability'], float)[mixed],
                    target[mixed], np.repeat(patients, mixed.sum(axis=1)),
                    thing='patch'),
                _patch_share(cases, inside & (target == 1), thresholds,
                             'no patch with a fracture'),
                _false_patches(cases, mixed & (target == 0), mixed, thresholds)])])
    note = 'A patch is of the region of the vertebra next to its middle.'
    if not named.all():
        note += (
            f' Vertebrae are named in {number_of(int(named.sum()), "scan")}; the '
            'patches of the others are told apart by the third of the scan\'s length '
            'they lie in, whatever it shows of the spine. Of these, fractured patches '
            'whose vertebra is named count for the sensitivity of its region as well.')
    if lost:
        note += (f' {lost:,} of the patches where vertebrae are named have none in '
                 'them, and are left out.')
    return Table(
        'By region of the spine',
        ['Region', 'Patches with a fracture', 'AUC of patches',
         'Sensitivity for patches', 'False patches a scan'], rows, f'{note} {WILSON}')
