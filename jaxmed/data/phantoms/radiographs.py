"""Drawn chest radiographs whose findings are known: the embedded default of data.

View, exposure, markers and cables are drawn without a look at the findings, and the
mean grey of each picture is set to a value drawn likewise, so none of them tells the
class; the opacities in the lungs do.
"""

import hashlib
import itertools

import cv2
import numpy as np

from jaxmed.data import identity, listings, radiographs
from jaxmed.data.phantoms import chests
from jaxmed.data.phantoms.blood_cells import clouds, soft

# Words in a class's name -> pattern of its opacities. Other classes take the patterns
# that are left, in this order, and then all of them again.
PATTERNS = (
    'focal', 'peripheral', 'diffuse', 'reticular', 'effusion', 'nodules', 'perihilar',
    'bands', 'cavity',
)
_WORDS = {
    'covid': 'peripheral', 'sars': 'peripheral', 'viral': 'reticular',
    'influenza': 'reticular', 'ards': 'diffuse', 'opacity': 'diffuse',
    'edema': 'perihilar', 'bacterial': 'focal', 'strepto': 'focal',
    'consolidation': 'focal', 'effusion': 'effusion', 'tuberculosis': 'cavity',
    'fungal': 'cavity', 'nodule': 'nodules', 'atelectasis': 'bands', 'cavity': 'cavity',
}
_NORMAL = ('normal', 'no finding', 'healthy', 'negative')

_CLEAR = 0.2  # share of patients without a finding where several may occur together
_VIEWS, _VIEW_SHARES = ('PA', 'AP', 'AP Supine'), (0.55, 0.25, 0.2)


def draw_radiograph(rng, *, size_px, patterns, patient=None, view='PA'):
    """Draws one radiograph.

    Args:
        rng: np.random.Generator; with the patient, all the picture depends on.
        size_px: side of the square.
        patterns: names in PATTERNS that it shows; () for clear lungs.
        patient: Patient; None draws one.
        view: in radiographs.FRONTAL. From the front (AP) the heart is larger, lying
            (Supine) the breath is shallow and the lungs are short.

    Returns:
        image uint8 [size_px, size_px]; opacity float32 of the same shape, the
        thickness that the findings add, 0 where there is nothing to find.
    """
    patient = patient or chests.draw_patient(rng)
    # Organs and opacities have no detail that half the pixels would not show.
    coarse_px = max(size_px // 2, min(size_px, 96))
    x, y = chests.coordinates(rng, coarse_px, patient)
    shape = np.random.default_rng(patient.seed)
    lungs = chests.find_lungs(rng, shape, x, y, patient, view)
    thickness, lung = chests.draw_body(shape, x, y, patient, view, lungs)
    opacity = np.zeros_like(thickness)
    for pattern in patterns:
        opacity += _OPACITIES[pattern](rng, x, y, lungs, coarse_px)
    opacity *= lung
    x, y, lung, opacity, thickness = (
        cv2.resize(part, (size_px, size_px), interpolation=cv2.INTER_LINEAR)
        for part in (x, y, lung, opacity, thickness + opacity))
    thickness += chests.draw_vessels(patient.seed, x, y, lung)
    chests.add_devices(rng, thickness, view)
    return chests.expose(rng, thickness, view), opacity


def patterns_of(classes):
    """Class names -> the pattern of each in PATTERNS, '' for clear lungs."""
    folded = [listings.fold_name(name) for name in classes]
    chosen = [
        '' if any(word in name for word in _NORMAL) else next(
            (pattern for word, pattern in _WORDS.items() if word in name), None)
        for name in folded
    ]
    # The second class of a word takes another pattern, as one without any.
    for i, pattern in enumerate(chosen):
        if pattern and pattern in chosen[:i]:
            chosen[i] = None
    left = [pattern for pattern in PATTERNS if pattern not in chosen]
    left = itertools.chain(left, itertools.cycle(PATTERNS))
    return [next(left) if pattern is None else pattern for pattern in chosen]


def records(*, count, seed, store_px, classes, exclusive, images_per_patient):
    """Yields `count` radiographs, as `listings.read_listed` does of real ones.

    Picture i is a function of (seed, i // images_per_patient, i) alone. All pictures
    of a patient show the same findings in other places, views and exposures.

    Args:
        count: pictures.
        seed: non-negative.
        store_px: side of a picture.
        classes: names; one like 'Normal' or 'No Finding' has clear lungs.
        exclusive: one class each, in turn; otherwise each finding by chance, and a
            class of clear lungs is 1 where there is none.
        images_per_patient: that share anatomy, findings and patient id.

    Yields:
        Record: case ids 'phantom-00001' and on; the rest as in
        `listings.read_listed`.
    """
    listings.check_classes(classes)
    patterns = patterns_of(classes)
    for i in range(count):
        number = i // images_per_patient
        person = np.random.default_rng([seed, 0, number])
        patient = chests.draw_patient(person)
        targets = _draw_targets(person, number, patterns, exclusive)
        stored = 'JPEG grey' if person.random() < 0.7 else 'PNG grey'
        rng = np.random.default_rng([seed, 1, i])
        view = str(rng.choice(_VIEWS, p=_VIEW_SHARES))
        shown = {p for p, target in zip(patterns, targets) if target and p}
        image, _ = draw_radiograph(
            rng, size_px=store_px, patterns=sorted(shown), patient=patient, view=view)
        if stored == 'JPEG grey':
            image = _compress(rng, image)
        case = f'phantom-{i + 1:05d}'
        owner = hashlib.sha256(f'radiograph:{seed}:{number}'.encode()).hexdigest()
        yield {
            'inputs': image[..., None],
            'targets': targets,
            'source': np.int8(radiographs.SOURCES.index(stored)),
            'view': np.int8(radiographs.VIEWS.index(view)),
            'origin': np.int16(0),
            'size_hw': np.array(image.shape, np.int32),
            'example_id': case,
            'case_id': case,
            'patient_id': owner[:16],
            'content_id': identity.content_id(image),
        }


def _draw_targets(rng, number, patterns, exclusive):
    targets = np.zeros(len(patterns), np.float32)
    if exclusive:
        targets[number % len(patterns)] = 1
        return targets
    clear = np.array([not pattern for pattern in patterns])
    prevalence = 1 - _CLEAR ** (1 / max(np.sum(~clear), 1))
    targets[:] = ~clear & (rng.random(len(patterns)) < prevalence)
    targets[clear] = not targets.any()
    return targets


def _compress(rng, image):
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 96))]
    return cv2.imdecode(cv2.imencode('.jpg', image, quality)[1], cv2.IMREAD_GRAYSCALE)


def _blob(rng, x, y, at_x, at_y, radius, ragged, size):
    """A soft spot with a ragged border, in [0, 1]."""
    stretch = rng.uniform(0.7, 1.4)
    distance = np.sqrt(((x - at_x) / stretch)**2 + ((y - at_y) * stretch)**2) / radius
    return soft(1 - distance + ragged * clouds(rng, x.shape, max(size // 20, 2)), 0.18)


def _pick(rng, lungs, x, y, likely):
    """A place drawn by a weight over the lungs: its x and y."""
    step = max(x.shape[0] // 64, 1)
    weight = (likely * lungs.mask)[::step, ::step].ravel() + 1e-9
    place = rng.choice(weight.size, p=weight / weight.sum(dtype=np.float64))
    return x[::step, ::step].ravel()[place], y[::step, ::step].ravel()[place]


def _texture(rng, x, pixel, strength):
    return 1 + strength * clouds(rng, x.shape, max(int(x.shape[0] * pixel), 2))


def _focal(rng, x, y, lungs, size):
    """One dense patch in one lobe, with bronchi that stay open."""
    at = _pick(rng, lungs, x, y, lungs.inside > 0.04)
    patch = _blob(rng, x, y, *at, rng.uniform(0.13, 0.24), 0.25, size)
    bronchi = np.clip(clouds(rng, x.shape, max(size // 32, 2)) - 1, 0, 1)
    return rng.uniform(0.28, 0.55) * patch * (1 - 0.4 * bronchi)


def _peripheral(rng, x, y, lungs, size):
    """Ground glass: several pale patches at the pleura of both lungs, low down."""
    likely = (lungs.across > 0.55) * (0.2 + lungs.down)
    total = np.zeros_like(x)
    first = rng.choice([-1, 1])
    for i in range(rng.integers(4, 8)):
        on_side = lungs.side == (first if i % 2 else -first)
        at = _pick(rng, lungs, x, y, likely * on_side)
        patch = _blob(rng, x, y, *at, rng.uniform(0.08, 0.17), 0.3, size)
        total = np.maximum(total, rng.uniform(0.6, 1) * patch)
    return rng.uniform(0.22, 0.42) * total * _texture(rng, x, 0.03, 0.15)


def _diffuse(rng, x, y, lungs, size):
    """A veil over both lungs, denser below."""
    veil = 0.55 + 0.45 * lungs.down + 0.20 * clouds(rng, x.shape, max(size // 4, 2))
    return rng.uniform(0.20, 0.42) * np.clip(veil, 0.1, None) * _texture(
        rng, x, 0.04, 0.12)


def _reticular(rng, x, y, lungs, size):
    """A net of thick interstitium around both hila."""
    net, finer = (clouds(rng, x.shape, max(size // cells, 2)) for cells in (22, 36))
    lines = np.exp(-net * net * 16) + 0.7 * np.exp(-finer * finer * 12)
    reach = rng.uniform(0.55, 0.9)
    around = np.exp(-(lungs.across / reach)**2 - ((y - 0.02) / 0.45)**2)
    return rng.uniform(0.22, 0.42) * around * (lines + 0.2)


def _effusion(rng, x, y, lungs, size):
    """Water above one diaphragm, higher at the ribs."""
    on_side = lungs.side == rng.choice([-1, 1])
    level = lungs.base - rng.uniform(0.10, 0.28) - 0.22 * lungs.across**4
    return rng.uniform(0.4, 0.6) * on_side * soft(y - level, 0.03)


def _nodules(rng, x, y, lungs, size):
    """Round spots of several sizes, more in the upper lungs."""
    total = np.zeros_like(x)
    for _ in range(rng.integers(4, 12)):
        at = _pick(rng, lungs, x, y, 1.3 - lungs.down)
        spot = chests.ball(x - at[0], y - at[1], *rng.uniform(0.025, 0.06, 2), 0)
        total = np.maximum(total, rng.uniform(0.7, 1) * spot)
    return rng.uniform(0.25, 0.4) * total


def _perihilar(rng, x, y, lungs, size):
    """Water in the lungs: wings of a butterfly around the hila."""
    height = (y - rng.uniform(-0.1, 0.05)) / rng.uniform(0.26, 0.36)
    wings = np.exp(-(lungs.across / rng.uniform(0.5, 0.75))**2 - height * height)
    return rng.uniform(0.35, 0.55) * wings * _texture(rng, x, 0.05, 0.15)


def _bands(rng, x, y, lungs, size):
    """Plates of collapsed lung: a few straight, nearly level lines low down."""
    total = np.zeros_like(x)
    for _ in range(rng.integers(2, 5)):
        at = _pick(rng, lungs, x, y, (lungs.down > 0.55) * lungs.across)
        slope, reach = rng.normal(0, 0.25), rng.uniform(0.14, 0.26)
        line = y - at[1] - slope * (x - at[0])
        total = np.maximum(total, chests.flat_top(line / rng.uniform(0.012, 0.022))
                           * chests.flat_top((x - at[0]) / reach))
    return rng.uniform(0.25, 0.40) * total


def _cavity(rng, x, y, lungs, size):
    """A ring or two of consolidation with air inside, in the upper lungs."""
    total = np.zeros_like(x)
    for _ in range(rng.integers(1, 3)):
        at = _pick(rng, lungs, x, y, (lungs.down < 0.5) * (lungs.inside > 0.05))
        radius, wall = rng.uniform(0.09, 0.14), rng.uniform(0.03, 0.05)
        bent = 0.015 * clouds(rng, x.shape, max(size // 10, 2))
        distance = np.hypot(x - at[0], y - at[1]) + bent
        total = np.maximum(total, chests.flat_top((distance - radius) / wall))
    return rng.uniform(0.28, 0.48) * total


_OPACITIES = {
    'focal': _focal, 'peripheral': _peripheral, 'diffuse': _diffuse,
    'reticular': _reticular, 'effusion': _effusion, 'nodules': _nodules,
    'perihilar': _perihilar, 'bands': _bands, 'cavity': _cavity,
}
