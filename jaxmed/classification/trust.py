"""Is it the lungs that the model reads? Tests that a good score alone can't pass.

Chest X-ray classifiers are known for scores that don't hold elsewhere: patients on both
sides of the split, copies, and models that recognise the source of a picture (scanner,
view, age group, a letter in the corner) where sources differ by diagnosis. DeGrave,
Janizek and Lee 2021 (Nature Machine Intelligence 3:610) and Maguolo and Nanni 2021
(Information Fusion 76:1) show it for COVID-19; the tests here follow theirs.

Each test is a pure function that gives a Check: a number, on whom, and what it means.
"""

import warnings
from typing import Any, Callable, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from jaxmed import metrics
from jaxmed.classification import scores

# Superellipses |(x - cx) / a|^2.5 + |(y - cy) / b|^2.5 <= 1, in shares of the picture.
# Drawn around the lungs of 165 frontal radiographs (three classes, cropped square):
# apices, bases and the heart between them are inside, shoulders and corners outside.
LUNGS_CENTRES_X, LUNGS_CENTRE_Y = (0.31, 0.69), 0.46
LUNGS_HALF_WIDTH, LUNGS_HALF_HEIGHT, LUNGS_POWER = 0.21, 0.42, 2.5

FRAME_PX = 2  # of a thumbnail's 32
FOLDS = 5
COMPONENTS = 40  # principal components of a thumbnail that a probe sees
SUSPICIOUS_AUC = 0.6  # 0.5 is chance; a small sample's noise reaches this


class Check(NamedTuple):
    """One test of trust: a number, who it was measured on, and what it says."""

    name: str
    value: float  # an AUC, or a count; NaN where undefined
    low: float  # 95% interval over patients; NaN where undefined or a count
    high: float
    n_images: int | None  # None: all that were prepared
    n_patients: int | None
    meaning: str  # what the number means, and which value should worry
    reason: str = ''  # why the value is undefined
    verdict: str = ''  # 'worrying', 'not worrying', 'open: why', or '' for none


def lung_fields(height, width):
    """Where the lungs of a centred frontal radiograph lie, bool [height, width].

    An anatomical pair of superellipses, not a segmentation: it covers the lungs and
    the heart between them in almost every upright frontal view that fills the picture
    (58% of it), and more than them in a wide one. A lateral view or a slice of a CT
    has no such place.
    """
    y = (np.arange(height)[:, None] + 0.5) / height
    x = (np.arange(width)[None, :] + 0.5) / width
    vertical = np.abs((y - LUNGS_CENTRE_Y) / LUNGS_HALF_HEIGHT) ** LUNGS_POWER
    return np.any([
        np.abs((x - centre) / LUNGS_HALF_WIDTH) ** LUNGS_POWER + vertical <= 1
        for centre in LUNGS_CENTRES_X
    ], axis=0)


def black_out_lungs(images):
    """Pictures with the lung fields at 0: what is left is background.

    For raw pixels, before normalisation (where 0 isn't black). Works on NumPy and on
    traced JAX arrays.

    Args:
        images: [B, H, W, C], any type.

    Returns:
        Same shape and type.
    """
    return _keep(images, ~lung_fields(*images.shape[1:3]))


def keep_lungs(images):
    """The reverse of black_out_lungs: all but the lung fields is 0."""
    return _keep(images, lung_fields(*images.shape[1:3]))


def _keep(images, mask):
    return images * mask[None, :, :, None].astype(images.dtype)


class Change(NamedTuple):
    """A change of the picture that a model is measured on."""

    apply: Callable[[Any], Any]  # images [B, H, W, C] -> images
    meaning: str
    limit: float | None  # mean AUC whose excess is worrying


CHANGES = {
    'lungs blacked out': Change(
        black_out_lungs,
        'Mean AUC of the model when it is shown everything but the lung fields. 0.5 is '
        'chance. Heart, ribs and lines may say a little; worrying if the interval lies '
        f'above {SUSPICIOUS_AUC}: the model then reads the background.', SUSPICIOUS_AUC,
    ),
    'lungs alone': Change(
        keep_lungs,
        'The reverse: mean AUC on the lung fields alone. Worrying if it is far below '
        'that of the whole picture, or below the one with the lungs blacked out.', None,
    ),
}


def macro_auc(rows, *, groups, resamples, seed):
    """(value, low, high, images, patients) of the mean AUC over classes.

    Images without any known class don't count.
    """
    known = ~np.isnan(rows['targets']).all(axis=1)
    slim = {name: rows[name][known] for name in ('probability', 'targets')}
    groups = np.asarray(groups)[known]
    metric = scores.macro(scores.auc, exclusive=False)
    value = metric(slim)
    low, high = metrics.bootstrap_interval(
        slim, metric, groups=groups, resamples=resamples, seed=seed
    ) if np.isfinite(value) else (np.nan, np.nan)
    return value, low, high, int(known.sum()), len(np.unique(groups))


def check_auc(rows, *, name, meaning, limit, resamples, seed):
    """AUC of the model on changed or other pictures, e.g. with the lungs blacked out.

    Args:
        rows: of the model on those pictures, with 'patient_id'.
        name, meaning: of the Check.
        limit: AUC whose excess is worrying, None for a number without a verdict.
        resamples, seed: of the bootstrap over patients.
    """
    value, low, high, images, patients = macro_auc(
        rows, groups=rows['patient_id'], resamples=resamples, seed=seed
    )
    reason = '' if np.isfinite(value) else 'no class has images of both kinds'
    return Check(
        name, value, low, high, images, patients, meaning, reason,
        '' if limit is None or reason else _verdict(low, high, limit),
    )


def _verdict(low, high, limit):
    if not np.isfinite([low, high]).all():
        return 'open: no interval'
    if low <= limit < high:
        return f'open: the interval holds {limit}'
    return 'worrying' if low > limit else 'not worrying'


def predict_from_thumbnails(thumbnails, codes, groups, *, name, meaning, seed=0,
                            resamples=1000, border=False, limit=SUSPICIOUS_AUC):
    """How well logistic regression tells codes from tiny pictures.

    Cross-validated with all images of a group on one side; one regression a code,
    against the rest, on the 40 main components of the pixels. The interval resamples
    groups among the predictions made for images that were left out.

    Args:
        thumbnails: uint8 [N, 32, 32].
        codes: int [N], 0 unknown (views, sources: one against the rest), or float
            [N, K] in {0, 1, NaN} (classes).
        groups: [N], patients.
        name, meaning: of the Check.
        seed: of the folds and the bootstrap.
        resamples: of the bootstrap.
        border: see the outermost FRAME_PX pixels only.
        limit: AUC whose excess is worrying; None for a number without a verdict.

    Returns:
        Check with the mean AUC over codes; NaN with a reason where there are fewer
        than two codes, or none is seen in two groups and absent from two others.
    """
    pixels = np.asarray(thumbnails, np.float32) / 255
    seen = np.ones(pixels.shape[1:], bool)
    if border:
        seen[FRAME_PX:-FRAME_PX, FRAME_PX:-FRAME_PX] = False
    return _probe(
        pixels[:, seen], codes, groups, name=name, meaning=meaning, seed=seed,
        resamples=resamples, limit=limit,
    )


def predict_from_codes(codes, targets, groups, *, name, meaning, seed=0,
                       resamples=1000, limit=SUSPICIOUS_AUC):
    """How well a view or source alone tells the class; as predict_from_thumbnails.

    Args:
        codes: int [N]; unknown ones (0) are a group like the others.
        targets: float [N, K] in {0, 1, NaN}.
    """
    codes = np.asarray(codes)
    kinds = np.unique(codes)
    if len(kinds) < 2:
        return _undefined(name, meaning, codes, groups, 'all images have the same code')
    return _probe(
        (codes[:, None] == kinds).astype(np.float32), targets, groups, name=name,
        meaning=meaning, seed=seed, resamples=resamples, limit=limit,
    )


def _undefined(name, meaning, images, groups, reason):
    return Check(
        name, np.nan, np.nan, np.nan, len(images), len(np.unique(groups)), meaning,
        reason,
    )


def _probe(features, codes, groups, *, name, meaning, seed, resamples, limit):
    codes, groups = np.asarray(codes), np.asarray(groups)
    if codes.ndim == 1:
        kinds = np.unique(codes[codes != 0])
        if len(kinds) < 2:
            known = codes != 0
            return _undefined(
                name, meaning, codes[known], groups[known],
                'only one code is known' if len(kinds) else 'no code is known',
            )
        targets = np.where(codes[:, None] == 0, np.nan, codes[:, None] == kinds)
    else:
        targets = codes.astype(float)
    nothing = 'no code is seen in two patients and absent from two others'
    if not any(_folds(target, groups) for target in targets.T):
        return _undefined(name, meaning, codes, groups, nothing)
    from sklearn.decomposition import PCA  # a second that only reports need to spend

    # Components are found without targets, so no answer leaks from the images left out.
    count, size = features.shape
    solver = 'full' if count < size else 'covariance_eigh'
    # Threads that wait for each other cost more than they give with so little.
    with threadpool_limits(1):
        features = PCA(
            min(COMPONENTS, count, size), svd_solver=solver
        ).fit_transform(features)
        probability = np.stack([
            _predict_left_out(features, target, groups, seed) for target in targets.T
        ], axis=1)
    # What no fold could predict is unknown to the mean as well.
    rows = {
        'probability': probability, 'patient_id': groups,
        'targets': np.where(np.isnan(probability), np.nan, targets),
    }
    check = check_auc(
        rows, name=name, meaning=meaning, limit=limit, resamples=resamples, seed=seed
    )
    if not np.isfinite(check.value):
        return _undefined(name, meaning, codes, groups, nothing)
    return check


def _folds(target, groups):
    """How many folds leave images of both kinds to train on; 0 for none."""
    kinds = [len(np.unique(groups[target == value])) for value in (0, 1)]
    return min(FOLDS, *kinds) if min(kinds) > 1 else 0


def _predict_left_out(features, target, groups, seed):
    """Probability of each image from a model that saw no image of its group, [N].

    NaN where the target is unknown, and throughout where it can't be cross-validated.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    probability = np.full(len(target), np.nan)
    known = np.flatnonzero(~np.isnan(target))
    features, target, groups = features[known], target[known], groups[known]
    folds = _folds(target, groups)
    if not folds:
        return probability
    fold = _deal(target, groups, folds, seed)
    for number in range(folds):
        train, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        if len(np.unique(target[train])) < 2:  # a group holds all there are
            probability[known[test]] = target[train].mean()
            continue
        model = LogisticRegression(solver='newton-cholesky')
        with warnings.catch_warnings():
            # A probe that hasn't quite converged is still a probe.
            warnings.simplefilter('ignore', ConvergenceWarning)
            model.fit(features[train], target[train])
        probability[known[test]] = model.predict_proba(features[test])[:, 1]
    return probability


def _deal(target, groups, folds, seed):
    """The fold of each image, [N]: shuffled groups in turn, those with positives first.

    scikit-learn's StratifiedGroupKFold balances better, in a minute for 4000 groups.
    """
    names, member = np.unique(groups, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    positive = np.bincount(member, weights=target) > 0
    order = order[np.argsort(~positive[order], kind='stable')]
    fold_of_group = np.empty(len(names), int)
    fold_of_group[order] = np.arange(len(names)) % folds
    return fold_of_group[member]


# What preparation counts (data.radiographs.read_listed) or an evaluation may add:
# name -> (title, what a reader should make of it, whether any at all is worrying).
DUPLICATES = {
    'exact_duplicates': (
        'Exact copies', 'Images with the same pixels as an earlier one. Copies on one '
        'side of the split do no harm.', False,
    ),
    'near_duplicates': (
        'Near copies', 'Pairs of images of which one is a cropped, recompressed or '
        'rescaled copy of the other; also kept on one side. Mirrored and strongly '
        'turned copies are not looked for.', False,
    ),
    'label_conflicts': (
        'Copies that disagree', 'Pairs of copies with different labels. Worrying if '
        'above 0: one of each pair is labelled wrongly.', True,
    ),
    'given_splits_changed': (
        'Images moved', 'Images that the data set gives to one side of a split, moved '
        'to where their copy or patient is. Above 0, its own split is not fair.', False,
    ),
    'shared_patients': (
        'Patients on both sides', 'Patients with images in the training and in the '
        'test split. Worrying if above 0: the model may recognise the patient.', True,
    ),
    'shared_images': (
        'Copies on both sides', 'Images of the test split with a copy in the training '
        'split. Worrying if above 0: they measure memory.', True,
    ),
}


def check_duplicates(counts):
    """Counts of copies and shared patients -> Checks, in the order of DUPLICATES.

    Args:
        counts: name -> number, over all splits, e.g. what preparation found. Names that
            DUPLICATES lacks are left out, as is what was not looked for. Where
            'patients' is 0, none was named, and 'Patients on both sides' stays open.
    """
    checks = []
    for key, (name, meaning, alarms) in DUPLICATES.items():
        if key not in counts:
            continue
        verdict = ('worrying' if counts[key] else 'not worrying') * alarms
        if key == 'shared_patients' and counts.get('patients') == 0:
            verdict = 'open: the data set names no patients; a picture and its copies '
            verdict += 'count as one'
        checks.append(Check(
            name, int(counts[key]), np.nan, np.nan, None, None, meaning, verdict=verdict
        ))
    return checks


# Columns of codes that a model could recognise in place of a disease: name -> what.
CODES = {
    'view': 'the view, AP or PA',
    'source': 'the kind of file',
    'origin': 'the hospital or collection',
}


def run_checks(
    rows, *, probe_rows, changed, external, duplicates, resamples=1000, seed=0
):
    """All the tests, on whom they could be made.

    Args:
        rows: of the model on the test split: 'patient_id' [N], 'probability' [N, K],
            'targets' [N, K].
        probe_rows: rows whose 'thumbnail' uint8 [N, 32, 32], 'targets', 'patient_id'
            and columns in CODES, int [N], as far as there are any, are probed without
            the model. The test split's, or more: more make a sharper probe.
        changed: name in CHANGES -> rows of the test images so changed.
        external: name of another data set -> rows of the model on it.
        duplicates: counts for check_duplicates; None if none were looked for.
        resamples, seed: of every bootstrap over patients; the seed also of the folds.

    Returns:
        list of Check; what was not tested is there with a reason.
    """
    options = dict(resamples=resamples, seed=seed)
    checks = [check_auc(
        rows, name='The model on the whole picture', limit=None,
        meaning='Mean AUC over the classes, for comparison with what follows.',
        **options,
    )]
    for name, change in CHANGES.items():
        title = f'The model with {name}'
        checks.append(_undefined(title, change.meaning, [], [], 'not tested') if (
            name not in changed
        ) else check_auc(
            changed[name], name=title, meaning=change.meaning, limit=change.limit,
            **options,
        ))
    pixels, groups = probe_rows['thumbnail'], probe_rows['patient_id']
    targets = probe_rows['targets']
    checks += [
        predict_from_thumbnails(
            pixels, targets, groups, border=True,
            name='The class, from the rim of a 32-pixel thumbnail',
            meaning='Mean AUC of a logistic regression that sees the two outermost '
            'pixels of a thumbnail, where no lung is. Worrying if the interval lies '
            f'above {SUSPICIOUS_AUC}: the class is then given away by letters, borders '
            'or field of view.', **options,
        ),
        predict_from_thumbnails(
            pixels, targets, groups, limit=None,
            name='The class, from a 32-pixel thumbnail',
            meaning='The same from all of the thumbnail, too coarse for most findings. '
            'Worrying if it comes near the model: the data set is then easy for '
            'reasons that may not hold elsewhere.', **options,
        ),
    ]
    for column, what in CODES.items():
        if column not in probe_rows:
            continue
        checks += [
            predict_from_thumbnails(
                pixels, probe_rows[column], groups, limit=None,
                name=f'{what[0].upper()}{what[1:]}, from a 32-pixel thumbnail',
                meaning='Mean AUC of telling it from the picture. Often high, which is '
                'worrying where the next line is high as well.', **options,
            ),
            predict_from_codes(
                probe_rows[column], targets, groups, name=f'The class, from {what}',
                meaning='Mean AUC of guessing the class without a picture. Worrying if '
                f'the interval lies above {SUSPICIOUS_AUC}: a model can then score by '
                'recognising how a picture was made.', **options,
            ),
        ]
    elsewhere = (
        'Mean AUC on a data set from elsewhere, over the classes that occur in it. '
        'Worrying if it is clearly below the first line.'
    )
    checks += [
        check_auc(other, name=f'The model on {name}', meaning=elsewhere, limit=None,
                  **options)
        for name, other in external.items()
    ]
    if not external:
        checks.append(_undefined(
            'The model on another data set', elsewhere, [], [], 'not tested'
        ))
    if duplicates is not None:
        return checks + check_duplicates(duplicates)
    return [*checks, _undefined(
        'Copies and shared patients', 'Images and patients on both sides of the split: '
        'there must be none.', [], [], 'not looked for',
    )]
