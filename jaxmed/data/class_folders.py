"""The layout of a folder per class: CLASS/NAME.png, or CLASS/images/NAME.png.

The second is that of the COVID-19 Radiography Database (T. Rahman et al., Computers in
Biology and Medicine 132, 2021; paper 003, data set 1), with lung masks in CLASS/masks,
which are left out. Names of folders and classes are compared without case, spaces,
underscores and hyphens.
"""

from pathlib import Path

import numpy as np

from jaxmed.data import identity, listings, radiographs
from jaxmed.data.listings import Listing
from jaxmed.errors import ImageError

_IMAGES = 'images'


def read(path, *, classes, store_px, max_pixels, min_per_class):
    """Yields a folder of classes as records with one-hot targets.

    Args:
        path: folder with one folder per class.
        classes: names of all classes, in the order of the targets.
        store_px, max_pixels: of `listings.read_listed`.
        min_per_class: images each class must have.

    Yields:
        Record: as of `listings.read_listed`, targets float32 [K] one-hot. No
        patient is known but from DICOM headers: a group is a picture and its copies.

    Returns:
        dict: as of `listings.read_listed`.

    Raises:
        ImageError: no such folder, a folder with images that is no class, images
            outside of the class folders, a class without a folder, with two, or with
            too few images; a file that can't be read.
        ConfigError: classes that are not different names.
    """
    listed = find_listings(path, classes=classes, min_per_class=min_per_class)
    return (yield from listings.read_listed(
        listed, store_px=store_px, max_pixels=max_pixels))


def find_listings(path, *, classes, min_per_class):
    """Lists the files of all classes, sorted; for what is raised see `read`."""
    listings.check_classes(classes)
    path, known = Path(path), {listings.fold_name(name): name for name in classes}
    folders, nested, paths, labels = {}, {}, [], []
    for file in radiographs.find_pictures(path):
        folder, *inside = file.relative_to(path).parts
        if not inside:
            raise ImageError(file, 'an image outside of the class folders')
        label = known.get(listings.fold_name(folder))
        if label is None:
            raise ImageError(
                path / folder, f'folder {folder!r} is none of the classes '
                f'{", ".join(map(repr, classes))}')
        if folders.setdefault(label, folder) != folder:
            raise ImageError(
                path / folder, f'a second folder of class {label!r}, beside '
                f'{folders[label]!r}')
        if folder not in nested:
            nested[folder] = _has_images(path / folder)
        # Where there are CLASS/images, nothing else in CLASS is one: masks, previews.
        if not nested[folder] or inside[0].lower() == _IMAGES:
            paths.append(file)
            labels.append(label)
    for name in classes:
        if name not in folders and min_per_class > 0:
            raise ImageError(path, f'no folder with images of class {name!r}')
    one_hot = dict(zip(classes, np.eye(len(classes), dtype=np.float32)))
    listed = [
        Listing(file, case, one_hot[label])
        for file, case, label in zip(paths, identity.case_ids(paths, path), labels)
    ]
    listings.check_counts(
        listed, classes, min_per_class=min_per_class, where=path, exclusive=True)
    return listed


def _has_images(folder):
    return any(
        child.name.lower() == _IMAGES and child.is_dir() for child in folder.iterdir())
