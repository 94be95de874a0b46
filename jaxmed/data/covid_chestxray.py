"""The layout of covid-chestxray-dataset: metadata.csv beside images/.

Source: J. P. Cohen et al., COVID-19 Image Data Collection: Prospective Predictions
Are the Future, arXiv 2006.11988 (paper 003, updated data set 3). Findings are spelled
in two ways: early versions list them ('COVID-19, ARDS'), later ones name a place in a
hierarchy ('Pneumonia/Viral/COVID-19'). Both give the same targets here.
"""

import unicodedata
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from jaxmed.data import identity, listings, radiographs, tables
from jaxmed.data.listings import Listing
from jaxmed.errors import ConfigError, InputError

METADATA = 'metadata.csv'

# Finding -> what it is a kind of, after the later versions. ARDS is from the early
# ones; the later ones write 'Pneumonia' for it.
PARENTS = {
    'Viral': 'Pneumonia', 'Bacterial': 'Pneumonia', 'Fungal': 'Pneumonia',
    'Lipoid': 'Pneumonia', 'Aspiration': 'Pneumonia', 'ARDS': 'Pneumonia',
    'COVID-19': 'Viral', 'SARS': 'Viral', 'MERS-CoV': 'Viral', 'Influenza': 'Viral',
    'H1N1': 'Influenza', 'Varicella': 'Viral', 'Herpes': 'Viral',
    'Streptococcus': 'Bacterial', 'Klebsiella': 'Bacterial', 'Legionella': 'Bacterial',
    'Mycoplasma': 'Bacterial', 'Chlamydophila': 'Bacterial', 'E.Coli': 'Bacterial',
    'Nocardia': 'Bacterial', 'Staphylococcus': 'Bacterial', 'MRSA': 'Staphylococcus',
    'Pneumocystis': 'Fungal', 'Aspergillosis': 'Fungal',
}
NO_FINDING = 'No Finding'
FINDINGS = ('Pneumonia', *PARENTS, 'Tuberculosis', NO_FINDING)

_ALIASES = {
    'covid': 'COVID-19', 'covid19': 'COVID-19', 'sars cov 2': 'COVID-19',
    'mers': 'MERS-CoV', 'e. coli': 'E.Coli', 'e coli': 'E.Coli',
    'viral pneumonia': 'Viral', 'bacterial pneumonia': 'Bacterial',
    'fungal pneumonia': 'Fungal', 'mycoplasma bacterial pneumonia': 'Mycoplasma',
    'pneumocystis jirovecii': 'Pneumocystis', 'influenza h1n1': 'H1N1',
    'normal': NO_FINDING, 'no findings': NO_FINDING,
    **{listings.fold_name(name): name for name in FINDINGS},
}
_SILENT = ('', 'todo', 'unknown', 'nan', 'n/a')

# Says how a patient stood, not what causes a pneumonia: it settles no cause.
_SYNDROMES = ('ARDS',)

_VIEWS = {listings.fold_name(name): name for name in radiographs.VIEWS} | {
    'lateral': 'L', 'aps': 'AP Supine', 'ap semierect': 'AP Semi Erect'}
_CT = ('Axial', 'Coronal', 'CT')


def read(path, *, classes, views, store_px, max_pixels, min_per_class):
    """Yields the radiographs of metadata.csv with the findings as targets.

    Rows whose image is absent and rows of other views are left out and counted; a
    warning names the absent ones.

    Args:
        path: folder of metadata.csv and images/, or the file itself.
        classes: findings, in the order of the targets; 'No Finding' may be one.
        views: names in `radiographs.VIEWS` that are kept, `radiographs.FRONTAL` for
            radiographs from the front or behind. A slice of CT is 'Axial', 'Coronal'
            or 'CT'; 'unknown' is a row that names no view.
        store_px, max_pixels: of `listings.read_listed`.
        min_per_class: a warning names classes found in fewer images.

    Yields:
        Record: as of `listings.read_listed`, targets as of `targets_of`. Images
        with one patientid are one group.

    Returns:
        dict: as of `listings.read_listed`, and 'rows_without_image',
        'views_left_out' and 'findings_not_listed' (name -> rows).

    Raises:
        InputError: a table that can't be read or lacks 'filename' or 'finding', one
            image in two rows that differ, a class that is neither known nor found.
        ImageError: a file that can't be read.
        ConfigError: classes that are no different names, views that don't exist.
    """
    listed, counts = find_listings(
        path, classes=classes, views=views, min_per_class=min_per_class)
    found = yield from listings.read_listed(
        listed, store_px=store_px, max_pixels=max_pixels)
    return found | counts


def find_listings(path, *, classes, views, min_per_class):
    """Lists the rows that are kept, and counts the others; see `read`."""
    listings.check_classes([_canonical(name) for name in classes])
    for view in views:
        if view not in radiographs.VIEWS:
            raise ConfigError('views', f'{view!r} is none of {radiographs.VIEWS}')
    path = Path(path)
    metadata = path / METADATA if path.is_dir() else path
    table = tables.read_table(metadata)
    name_column, finding_column = table.need('filename'), table.need('finding')
    optional = {
        name: table.column(name)
        for name in ('patientid', 'view', 'modality', 'folder', 'url')
    }
    files, rows, absent, left_out = {}, [], [], Counter()
    found = Counter()
    for line, row in table.rows:
        cell = {name: row[key] if key else '' for name, key in optional.items()}
        folder = cell['folder'] or 'images'
        file = _find(folder, row[name_column], line, metadata)
        if file is None:
            absent.append(row[name_column] or f'line {line}')
            continue
        view = _view_of(cell['view'], cell['modality'])
        if view not in views:
            left_out[view] += 1
            continue
        found.update(_named(row[finding_column]))
        patient = cell['patientid']
        facts = (
            row[finding_column], view,
            patient if identity.names_someone(patient) else '',
        )
        if file in files:
            if files[file] != facts:
                raise InputError(metadata, f'line {line}: {file.name} is there twice, '
                                 'with other findings, view or patient')
            continue
        files[file] = facts
        # Who published it: most hospitals are named once, and in many ways.
        rows.append((file, *facts, _host(cell['url'])))
    if not rows:
        raise InputError(
            metadata, f'none of {len(table.rows)} rows has an image of a view among '
            f'{", ".join(views)} ({len(absent)} images are absent)')
    for name in classes:
        if _canonical(name) not in FINDINGS and _canonical(name) not in found:
            raise InputError(metadata, f'class {name!r} is no finding of any row, nor '
                             f'one of {", ".join(FINDINGS)}')
    listings.warn_of(metadata, 'rows without their image', absent)
    cases = identity.case_ids([row[0] for row in rows], metadata.parent)
    listed = [
        Listing(
            file, case, targets_of(finding, classes), view, patient, origin=origin
        ) for case, (file, finding, view, patient, origin) in zip(cases, rows)
    ]
    listings.check_counts(
        listed, classes, min_per_class=min_per_class, where=metadata,
        exclusive=False)
    for name in classes:
        found.pop(_canonical(name), None)
    return listed, {
        'rows_without_image': len(absent), 'views_left_out': dict(left_out),
        'findings_not_listed': dict(found),
    }


def targets_of(finding, classes):
    """A cell of the column `finding` -> float32 [K] in {0, 1, NaN}.

    Every level of the hierarchy that is named or implied is 1: COVID-19 is a viral
    pneumonia in both spellings. What stops short of a cause says nothing of it:
    'Pneumonia' leaves Viral and COVID-19 unknown, 'Pneumonia/Viral' leaves Bacterial
    0 and COVID-19 unknown. The hierarchy has no place for ARDS, which it may leave
    unnamed in any pneumonia: unknown there. 'No Finding' is 0 everywhere (1 in the
    class of that name); todo, unknown and an empty cell are NaN everywhere; the rest
    is 0.
    """
    named = _named(finding)
    if not named:
        return np.full(len(classes), np.nan, np.float32)
    positive = {level for name in named for level in _lineage(name)}
    settled = {
        PARENTS[name] for name in positive if name in PARENTS and name not in _SYNDROMES
    }
    open_ended = positive - settled

    def target(name):
        if name in positive:
            return 1.0
        if name in _SYNDROMES:
            later = '/' in finding or named == {PARENTS[name]}
            unknown = later and PARENTS[name] in positive
        else:
            unknown = open_ended & set(_lineage(name)[1:])
        return np.nan if unknown else 0.0

    return np.array([target(_canonical(name)) for name in classes], np.float32)


def _named(finding):
    """The findings in a cell, canonical; empty where it is silent."""
    parts = finding.replace('/', ',').replace(';', ',').replace('|', ',').split(',')
    parts = [part.strip() for part in parts]
    return {_canonical(part) for part in parts if part.casefold() not in _SILENT}


def _canonical(name):
    return _ALIASES.get(listings.fold_name(name), name.strip())


def _lineage(name):
    """A finding and all that it is a kind of."""
    levels = [name]
    while levels[-1] in PARENTS:
        levels.append(PARENTS[levels[-1]])
    return levels


def _view_of(view, modality):
    view = _VIEWS.get(listings.fold_name(view), 'unknown')
    # Early versions have no modality and write CT for the view.
    if modality.strip().upper() == 'CT' and view not in _CT:
        return 'CT'
    return view


def _host(url):
    try:
        return urlsplit(url).hostname or ''
    except ValueError:
        return ''


def _find(folder, name, line, metadata):
    """The file, or None where it is absent."""
    for part in (folder, name):
        if Path(part).is_absolute() or '..' in Path(part).parts:
            raise InputError(metadata, f'line {line}: a file outside of the folder')
    # Another system may have composed the letters of a name otherwise.
    for form in (name, *(unicodedata.normalize(f, name) for f in ('NFC', 'NFD'))):
        file = metadata.parent / folder / form
        if name and file.is_file():
            return file
    return None
