"""Copies are found whatever was done to them; chests are not one for being alike."""

import cv2
import numpy as np
import pytest

from jaxmed.data import duplicates, images, radiographs

CHANGES = {
    'JPEG 30': lambda p: cv2.imdecode(cv2.imencode('.jpg', p, [1, 30])[1], 0),
    '224 px': lambda p: cv2.resize(p, (224, 224), interpolation=cv2.INTER_AREA),
    'squashed': lambda p: cv2.resize(p, (300, 220), interpolation=cv2.INTER_AREA),
    'brighter': lambda p: (255 * (p / 255) ** 0.6).astype(np.uint8),
    'darker': lambda p: (255 * (p / 255) ** 1.7).astype(np.uint8),
    'equalised': lambda p: cv2.createCLAHE(3, (8, 8)).apply(p),
    '3% cut on all sides': lambda p: cut(p, 0.03, 0.03, 0.03, 0.03),
    '8% cut on all sides': lambda p: cut(p, 0.08, 0.08, 0.08, 0.08),
    '12% cut on one side': lambda p: cut(p, 0, 0.12, 0, 0),
    'cut and small': lambda p: cv2.resize(
        cut(p, 0, 0.05, 0.08, 0.02), (200, 240), interpolation=cv2.INTER_AREA),
    'framed': lambda p: cv2.copyMakeBorder(p, 30, 30, 12, 20, cv2.BORDER_CONSTANT),
    'turned by 3 degrees': lambda p: cv2.warpAffine(
        p, cv2.getRotationMatrix2D((p.shape[1] / 2, p.shape[0] / 2), 3, 1),
        p.shape[::-1]),
    'lettered': lambda p: cv2.putText(
        p.copy(), 'R 12:30', (12, 40), cv2.FONT_HERSHEY_SIMPLEX, 0.8, 255, 2),
}


def cut(picture, top, left, bottom, right):
    height, width = picture.shape
    return np.ascontiguousarray(picture[
        int(top * height):height - int(bottom * height),
        int(left * width):width - int(right * width)])


def find(pictures):
    return duplicates.find_duplicates([duplicates.thumbnail(p) for p in pictures])


@pytest.fixture(scope='module')
def chests():
    """Twelve drawn chests of twelve patients, two of them of each kind."""
    from jaxmed.data.phantoms import radiographs as phantoms

    return [
        phantoms.draw_radiograph(
            np.random.default_rng(seed), size_px=384,
            patterns=phantoms.PATTERNS[seed % 6:seed % 6 + 1])[0]
        for seed in range(12)]


@pytest.mark.parametrize('change', CHANGES)
def test_drawn_copies_are_found_and_nothing_else(chests, change):
    copies = [CHANGES[change](picture) for picture in chests[:6]]
    assert find(chests + copies) == [(i, 12 + i) for i in range(6)]


def test_pictures_of_many_patients_are_not_one():
    from jaxmed.data.phantoms import radiographs as phantoms

    pictures = [
        record['inputs'][..., 0] for record in phantoms.records(
            count=40, seed=5, store_px=192, classes=('COVID', 'Normal'),
            exclusive=True, images_per_patient=1)]
    assert find(pictures) == []


def test_noise_blank_pictures_and_ramps_are_nobodys_copies(drawn):
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 255, 256 * 256).reshape(256, 256).astype(np.uint8)
    pictures = [rng.integers(0, 256, (256, 256), np.uint8) for _ in range(6)]
    pictures += [np.full((256, 256), level, np.uint8) for level in (0, 90, 91, 255)]
    pictures += [ramp, ramp.T.copy(), 255 - ramp, drawn(0), np.zeros((1, 1), np.uint8)]
    with np.errstate(all='raise'):
        assert find(pictures) == []
        assert find(pictures[:1]) == find([]) == []


def test_copies_of_one_picture_are_all_found(chests):
    many = [chests[0], CHANGES['JPEG 30'](chests[0]), CHANGES['brighter'](chests[0])]
    assert find(many + chests[1:4]) == [(0, 1), (0, 2), (1, 2)]


def test_the_nearest_are_looked_for_in_blocks(chests, monkeypatch):
    pictures = chests + [CHANGES['squashed'](picture) for picture in chests[:3]]
    whole = find(pictures)
    monkeypatch.setattr(duplicates, '_BLOCK', 4)
    assert find(pictures) == whole == [(0, 12), (1, 13), (2, 14)]


def test_dark_borders_are_cut_off_and_dark_lungs_are_not(drawn):
    picture = drawn(3)
    framed = cv2.copyMakeBorder(picture, 40, 40, 0, 0, cv2.BORDER_CONSTANT)
    one, two = duplicates.thumbnail(picture), duplicates.thumbnail(framed)
    assert one.shape == two.shape == (128, 128) and one.dtype == np.uint8
    assert np.corrcoef(one.ravel(), two.ravel())[0, 1] > 0.9
    dark = np.zeros((200, 200), np.uint8)
    dark[95:105, 95:105] = 255  # a quarter of each side goes at most
    assert duplicates.thumbnail(dark)[40:90, 40:90].max() > 100


# --- real ones --------------------------------------------------------------------


@pytest.fixture(scope='module')
def real():
    """All real chest pictures: names and grey levels, 640 px at most."""
    import os
    from pathlib import Path

    folder = os.environ.get('JAXMED_SAMPLE_DATA')
    if not folder:
        pytest.skip('JAXMED_SAMPLE_DATA is unset: no real samples on this machine')
    found = {}
    for part in ('three_class', 'covid_chestxray'):
        root = Path(folder, 'cxr', part)
        for path in images.find_images(root):
            grey = radiographs.decode(path, max_pixels=10**7).grey
            found[path.relative_to(root).with_suffix('').as_posix()] = grey
    return found


def test_real_copies_are_found_and_no_two_patients_are_one(real):
    names = list(real)
    found = {tuple(names[i] for i in pair) for pair in find(list(real.values()))}
    series = 'images/covid-19-rapidly-progressive-acute-respiratory-distress-syndrome'
    assert found == {  # by eye, and by matching SIFT features of all pairs
        ('Covid/068', 'Covid/076'),  # squashed in height, with and without a frame
        ('Covid/COVID-00003a', 'images/figure1-5e7c1b8d98c29ab001275405-98'),
        ('images/16660_2_1', f'{series}-ards-admission'),
        ('images/16660_3_1', f'{series}-ards-day-1'),
        ('images/16660_4_1', f'{series}-ards-day-2'),
        ('images/16660_5_1', f'{series}-ards-day-3'),
    }


@pytest.mark.parametrize('change', CHANGES)
def test_changed_real_pictures_are_found_again(real, change):
    pictures = list(real.values())[::12]
    copies = [CHANGES[change](picture) for picture in pictures]
    found = set(find(pictures + copies))
    wanted = {(i, len(pictures) + i) for i in range(len(pictures))}
    assert found <= wanted and len(found) >= len(wanted) - 1
