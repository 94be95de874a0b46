"""Labelled radiographs -> records, whatever the layout of the data set.

A layout module (`class_folders`, `covid_chestxray`, `csv_labels`) lists files with
their labels; reading, ids, groups and checks are the same for all and live here.
"""

import logging
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxmed.data import duplicates, identity, radiographs
from jaxmed.errors import ConfigError, ImageError

LOG = logging.getLogger('jaxmed')

_MEMORY_BYTES = 256 << 20  # of pictures between the two passes; then they go to disk
_THREADS = 8  # that decode; each holds a picture in full
_NAMED = 20  # how many files a warning or a list names


class Listing(NamedTuple):
    """What a layout says of one picture."""

    path: Path
    case_id: str
    targets: np.ndarray  # float32 [K] in {0, 1, NaN}
    view: str = 'unknown'  # in radiographs.VIEWS
    patient: str = ''  # whatever all pictures of a patient share; '' where unknown
    split: str = ''  # that the data set gives; '' to be drawn
    origin: str = ''  # hospital or collection; '' where unknown


def read_listed(listings, *, store_px, max_pixels):
    """Yields the records of labelled radiographs, in their order.

    Every file is decoded once, by a few threads; then pictures
    that are equal, or copies of each other (`duplicates`), or of one patient are made
    one group, and the records follow. A group that the data set puts into several
    splits goes whole into the first of train, valid and test.

    Args:
        listings: list of Listing; case ids differ.
        store_px: side of the stored square.
        max_pixels: most width x height of a file.

    Yields:
        Record: inputs uint8 [store_px, store_px, 1], targets float32 [K], source and
        view int8 [] (indices into radiographs.SOURCES and VIEWS), origin int16 [] (0,
        or 1 + the place in 'origins'), size_hw int32 [2] of the file, example_id,
        case_id, patient_id (of the group, a hash), content_id; 'split' where one was
        given.

    Returns:
        dict, for the manifest: counts of 'images', 'patients' (ids that were given),
        'exact_duplicates' (images equal to an earlier one), 'near_duplicates' (pairs
        of copies), 'groups', 'groups_of_several', 'largest_group',
        'patients_joined' (ids less their groups), 'label_conflicts' (pairs of equal
        pictures with different labels), 'given_splits_changed' (images), 'oddities'
        (images); 'pairs', the first case ids of copies; 'origins', their names.

    Raises:
        ImageError: as `radiographs.read_radiograph`.
    """
    def decode(listing):
        picture = radiographs.decode(listing.path, max_pixels=max_pixels)
        view = listing.view if listing.view != 'unknown' else picture.view
        return picture._replace(grey=None, view=view), (
            radiographs.square(picture.grey, store_px), picture.grey.shape,
            duplicates.thumbnail(picture.grey), identity.content_id(picture.grey))

    facts, thumbnails = [], []
    with tempfile.SpooledTemporaryFile(_MEMORY_BYTES) as store:
        with ThreadPoolExecutor(min(os.cpu_count(), _THREADS)) as threads:
            for picture, (square, size, small, content) in threads.map(
                decode, listings
            ):
                store.write(square.tobytes())
                thumbnails.append(small)
                facts.append((picture, size, content))
        contents = [content for _, _, content in facts]
        patients = [
            [key for key in [listing.patient or picture.patient] if key]
            for listing, (picture, _, _) in zip(listings, facts)
        ]
        pairs = _find_pairs(contents, thumbnails)
        groups = identity.join(contents, patients, pairs)
        splits = _settle_splits(listings, groups)
        found = _count(listings, facts, patients, pairs, groups, splits)
        origins = sorted({listing.origin for listing in listings} - {''})
        found |= {'origins': origins} if origins else {}
        store.seek(0)
        for listing, (picture, size, content), group in zip(listings, facts, groups):
            square = np.frombuffer(store.read(store_px**2), np.uint8)
            split = splits.get(group)
            yield radiographs.make_record(
                square.reshape(store_px, store_px), size, source=picture.source,
                view=picture.view, case_id=listing.case_id, patient_id=group,
                content_id=content,
                origin=1 + origins.index(listing.origin) if listing.origin else 0,
            ) | {'targets': listing.targets} | ({'split': split} if split else {})
    return found


def check_classes(classes):
    """Raises ConfigError unless these are at least one, different, non-empty names."""
    if not classes or len(set(map(fold_name, classes))) < len(classes) or not all(
        isinstance(name, str) and fold_name(name) for name in classes
    ):
        raise ConfigError('classes', f'{classes!r}: different names are needed')


def check_counts(listings, classes, *, min_per_class, where, exclusive):
    """Looks for classes with fewer than `min_per_class` images.

    Raises:
        ImageError: where classes exclude each other, naming the first one. Of findings
            that occur together some are rare everywhere: a warning names them.
    """
    counts = np.zeros(len(classes), int)
    for listing in listings:
        counts += listing.targets == 1
    few = [(name, count) for name, count in zip(classes, counts)
           if count < min_per_class]
    if few and exclusive:
        name, count = few[0]
        raise ImageError(
            where, f'{count} images of class {name!r}, at least {min_per_class} are '
            'needed (min_per_class)')
    warn_of(where, f'classes with fewer than {min_per_class} images',
            [f'{name} ({count})' for name, count in few])


def fold_name(name):
    """A class name without case, spaces, underscores and hyphens: for comparing."""
    return ' '.join(name.replace('_', ' ').replace('-', ' ').split()).casefold()


def warn_of(where, what, names):
    """Logs how many there are of something, and the first few of them."""
    names = [str(name) for name in names]
    more = ', ...' if len(names) > _NAMED else ''
    if names:
        LOG.warning('%s: %d %s: %s%s', where, len(names), what,
                    ', '.join(names[:_NAMED]), more)


def _find_pairs(contents, thumbnails):
    """Pairs of copies; of equal pictures only the first takes part."""
    first = {}
    for i, content in enumerate(contents):
        first.setdefault(content, i)
    kept = list(first.values())
    near = duplicates.find_duplicates([thumbnails[i] for i in kept])
    return [(kept[i], kept[j]) for i, j in near]


def _settle_splits(listings, groups):
    """Group -> split, for groups to which the data set gives any."""
    splits = {}
    for listing, group in zip(listings, groups):
        if listing.split:
            splits.setdefault(group, set()).add(listing.split)
    # Into the training part first: what is tested on stays unseen.
    order = ('train', 'valid', 'test')
    return {group: min(given, key=order.index) for group, given in splits.items()}


def _count(listings, facts, patients, pairs, groups, splits):
    """Counts for the manifest, and warnings of what a person should look at."""
    first, equal = {}, []
    for i, (_, _, content) in enumerate(facts):
        if first.setdefault(content, i) != i:
            equal.append((first[content], i))

    def name(pair):
        return [listings[i].case_id for i in pair]

    def differ(pair):
        one, two = (listings[i].targets for i in pair)
        return bool(np.any((one == 0) & (two == 1) | (one == 1) & (two == 0)))

    conflicts = [pair for pair in equal + pairs if differ(pair)]
    moved = [
        listing.case_id for listing, group in zip(listings, groups)
        if listing.split and listing.split != splits[group]
    ]
    odd = [
        f'{listing.case_id} ({"; ".join(picture.oddities)})'
        for listing, (picture, _, _) in zip(listings, facts) if picture.oddities
    ]
    warn_of('duplicates', 'pairs of one picture have different labels',
            [' = '.join(name(pair)) for pair in conflicts])
    warn_of('split', 'images are given to another split than their copies', moved)
    warn_of('pictures', 'do not look like radiographs', odd)
    keys = {key for keys in patients for key in keys}
    named = {group for group, keys in zip(groups, patients) if keys}
    _, sizes = np.unique(np.array(groups), return_counts=True)
    return {
        'images': len(listings),
        'patients': len(keys),
        'patients_joined': len(keys) - len(named),
        'exact_duplicates': len(equal),
        'near_duplicates': len(pairs),
        'groups': len(sizes),
        'groups_of_several': int(np.sum(sizes > 1)),
        'largest_group': int(sizes.max(initial=0)),
        'label_conflicts': len(conflicts),
        'given_splits_changed': len(moved),
        'oddities': len(odd),
        'pairs': [name(pair) for pair in (equal + pairs)[:_NAMED]],
    }
