"""Who is who: ids of pictures and cases, and which pictures belong together."""

import hashlib

import numpy as np


def content_id(image):
    """16 hex digits of the SHA-256 of an image's size and pixels.

    The same for two files of different names, folders or lossless formats; not for a
    picture saved as a JPEG again, nor for two crops of one.
    """
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image))
    return digest.hexdigest()[:16]


# What anonymisers and tables write for everybody is nobody's id.
_NOBODY = (
    '', '-', '?', 'anon', 'anonymous', 'anonymized', 'anonymised', 'none', 'null',
    'unknown', 'patient', 'n/a', 'na', 'nan',
)


def names_someone(patient):
    """Whether a patient's id is one: not empty, nor what is written for everybody."""
    return patient.strip().casefold() not in _NOBODY


def printable(name):
    """A file's name may be any bytes; an id is printed, saved and drawn."""
    name = name.encode(errors='backslashreplace').decode()
    return ''.join(c if c.isprintable() and c != '\\' else '_' for c in name)


def case_id(path, root):
    """The path relative to `root` without suffix, printable."""
    return printable(path.relative_to(root).with_suffix('').as_posix())


def case_ids(paths, root):
    """One case id per path, all different.

    Where two would share one, all keep their suffixes; where that isn't enough
    (printing has made two names one), later ones are numbered.
    """
    cases = [case_id(path, root) for path in paths]
    if len(set(cases)) < len(cases):
        cases = [printable(path.relative_to(root).as_posix()) for path in paths]
    seen = set()
    for i, case in enumerate(cases):
        number = 1
        while cases[i] in seen:
            number += 1
            cases[i] = f'{case}~{number}'
        seen.add(cases[i])
    return cases


def join(contents, keys, pairs):
    """Group ids: what shares its content, a key or a pair is one group.

    Sharing is transitive. The id is the smallest content id of the group: a function
    of pixels, so a picture prepared twice, in two data sets, has one id. A picture
    that joins or leaves its group may change the id.

    Args:
        contents: content ids, one per picture.
        keys: for each picture, what else it shares with its group: hashable things.
        pairs: pairs of indices that belong together.

    Returns:
        list of str, one per picture.
    """
    parents = list(range(len(contents)))

    def find(i):
        while parents[i] != i:
            parents[i] = i = parents[parents[i]]
        return i

    first = {}
    for i, (content, others) in enumerate(zip(contents, keys)):
        for key in (('content', content), *others):
            parents[find(i)] = find(first.setdefault(key, i))
    for i, j in pairs:
        parents[find(i)] = find(j)
    groups = {}
    for i, content in enumerate(contents):
        groups[find(i)] = min(content, groups.get(find(i), content))
    return [groups[find(i)] for i in range(len(contents))]
