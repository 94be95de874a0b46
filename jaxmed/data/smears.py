"""Blood smears and their masks -> records, whatever the layout of the folder.

A layout module (`sigtuple`, `zheng`) says which file is whose mask and what a mask's
grey levels mean; tiles, ids, groups and checks are the same for all and live here.
"""

import re
from pathlib import Path

import numpy as np

from jaxmed.data import identity, images, overlaps
from jaxmed.data.identity import content_id
from jaxmed.errors import ConfigError, ImageError
from jaxmed.smear.windows import window_starts

MASK_ENDING = '-mask'  # SigTuple's NAME-mask.jpg


def read_pairs(pairs, read_mask, *, root, tile, max_pixels, group_pattern):
    """Yields the tiles of labelled smears.

    Two passes: one for the groups, one for the records. One smear is in memory at a
    time, and a thumbnail of 1/48 of its size of each.

    Args:
        pairs: sequence of (image path, mask path).
        read_mask: path -> uint8 [H, W, C] in {0, 1}.
        root: folder; case ids are paths relative to it, without suffix.
        tile: pixels of a tile's side.
        max_pixels: of an image.
        group_pattern: regular expression, searched in the case id, whose first group
            names the slide or patient. '' for none: then images that show the same
            spot (`overlaps`) are a group, which takes a time that grows with the
            square of their number.

    Yields:
        Record: inputs uint8 [tile, tile, 3], targets uint8 [tile, tile, C], size_hw
        int32 [2] of the whole image, origin_yx int32 [2] of the tile, example_id
        'NAME@y,x', case_id 'NAME', patient_id, content_id. Below and right of
        size_hw - origin_yx a tile is a reflection.

    Raises:
        ImageError: any file that can't be read, a mask of another size than its
            image, two images of one name, a name without the pattern.
        ConfigError: a pattern that is no regular expression with a group.
    """
    cases = [identity.case_id(image_path, root) for image_path, _ in pairs]
    seen = set()
    for (path, _), case in zip(pairs, cases):
        if case in seen:
            raise ImageError(path, 'an image of the same name is beside it')
        seen.add(case)
    names = _names(cases, pairs, group_pattern)

    def read(i):
        return images.read_image(pairs[i][0], max_pixels=max_pixels)

    contents, thumbnails = [], []
    for i in range(len(pairs)):
        image = read(i)
        contents.append(content_id(image))
        thumbnails.append(overlaps.thumbnail(image))
    same = [] if group_pattern else overlaps.find_overlaps(thumbnails, read)
    patients = group(contents, cases, names, same)
    for i, (_, mask_path) in enumerate(pairs):
        image, mask = read(i), read_mask(mask_path)
        if mask.shape[:2] != image.shape[:2]:
            height, width = mask.shape[:2]
            raise ImageError(
                mask_path,
                f'{width} x {height} pixels, its image has '
                f'{image.shape[1]} x {image.shape[0]}',
            )
        yield from cut(
            image, mask, tile=tile, case_id=cases[i], patient_id=patients[i],
            content_id=contents[i])


def cut(image, mask, *, tile, case_id, patient_id, content_id):
    """Yields the records of one smear, row by row; see `read_pairs`.

    Every pixel is in a tile. The last tile of a row or column is shifted back to end
    at the border; a side shorter than a tile is continued by reflection. The paper
    (002, 'Preparing the data') drops the rest at the right and at the bottom, and
    all tiles without a leucocyte.
    """
    height, width = image.shape[:2]
    margins = (0, max(tile - height, 0)), (0, max(tile - width, 0)), (0, 0)
    image, mask = (np.pad(pixels, margins, 'reflect') for pixels in (image, mask))
    for y in window_starts(height, tile, tile):
        for x in window_starts(width, tile, tile):
            yield {
                'inputs': image[y:y + tile, x:x + tile].copy(),
                'targets': mask[y:y + tile, x:x + tile].copy(),
                'size_hw': np.array([height, width], np.int32),
                'origin_yx': np.array([y, x], np.int32),
                'example_id': f'{case_id}@{y},{x}',
                'case_id': case_id,
                'patient_id': patient_id,
                'content_id': content_id,
            }


def find_unlabelled(path):
    """Lists what to predict on: one file, or a folder's images that are no masks.

    A mask is NAME-mask.* (SigTuple) or the NAME.png beside a NAME.bmp (Zheng). A
    file named by itself is taken as it is.

    Returns:
        list of (Path, case id), at least one. The case id is the path relative to
        the folder without suffix; where two images would share one, all keep theirs.

    Raises:
        ImageError: as `images.find_images`, or a folder of nothing but masks.
    """
    path = Path(path)
    if not path.is_dir():
        return [(path, identity.printable(path.stem))]
    found = images.find_images(path)
    photographs = {p.with_suffix('') for p in found if p.suffix.lower() == '.bmp'}
    smears = [
        p for p in found
        if not p.stem.endswith(MASK_ENDING)
        and not (p.suffix.lower() == '.png' and p.with_suffix('') in photographs)
    ]
    if not smears:
        raise ImageError(path, f'no images but masks (*{MASK_ENDING}.*)')
    return list(zip(smears, identity.case_ids(smears, path)))


def read_one(path, *, case_id, max_pixels):
    """Reads one whole smear without labels.

    Returns:
        Record: inputs uint8 [H, W, 3], size_hw, origin_yx (0, 0) and the ids as in
        `read_pairs`; the patient is the image alone.

    Raises:
        ImageError: as `images.read_image`.
    """
    image = images.read_image(path, max_pixels=max_pixels)
    content = content_id(image)
    return {
        'inputs': image,
        'size_hw': np.array(image.shape[:2], np.int32),
        'origin_yx': np.zeros(2, np.int32),
        'example_id': f'{case_id}@0,0',
        'case_id': case_id,
        'patient_id': content,
        'content_id': content,
    }


def read_unlabelled(path, *, max_pixels):
    """Yields `read_one` of everything in `find_unlabelled`; ends at a bad file.

    To go on after a bad file, loop over `find_unlabelled` and call `read_one`.
    """
    for image_path, case in find_unlabelled(path):
        yield read_one(image_path, case_id=case, max_pixels=max_pixels)


def group(contents, cases, names, same):
    """Patient ids: images that share pixels, a name or a spot are a group.

    Sharing is transitive; for the id see `identity.join`.

    Args:
        contents: content ids, one per image.
        cases: case ids; the part after the last / is the file name.
        names: what the pattern found in each, which then counts in place of the file
            name; '' where there is no pattern.
        same: pairs of indices of images that show the same spot.

    Returns:
        list of str, one per image.
    """
    keys = [
        [('name', name) if name else ('stem', case.rpartition('/')[2])]
        for case, name in zip(cases, names)
    ]
    return identity.join(contents, keys, same)


def _names(cases, pairs, group_pattern):
    if not group_pattern:
        return [''] * len(cases)
    try:
        pattern = re.compile(group_pattern)
    except re.error as error:
        raise ConfigError('group_pattern', f'{group_pattern!r}: {error}') from None
    if not pattern.groups:
        raise ConfigError('group_pattern', f'{group_pattern!r} has no (group)')
    names = []
    for case, (path, _) in zip(cases, pairs):
        match = pattern.search(case)
        if not match or not match[1]:
            # Left alone, it might land on the other side of its own patient.
            raise ImageError(path, f'group_pattern {group_pattern!r} not in its name')
        names.append(match[1])
    return names
