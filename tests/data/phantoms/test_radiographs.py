"""Drawn radiographs: known findings, repeatable, and no way round looking at lungs."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from jaxmed.data import radiographs as real
from jaxmed.data.phantoms import chests
from jaxmed.data.phantoms import radiographs as phantoms
from jaxmed.errors import ConfigError

CLASSES = ('COVID', 'Lung_Opacity', 'Normal', 'Viral Pneumonia')
FINDINGS = ('Pneumonia', 'Viral', 'COVID-19', 'ARDS', 'No Finding')
OPTIONS = dict(
    seed=0, store_px=96, classes=CLASSES, exclusive=True, images_per_patient=2)


def draw(**options):
    return list(phantoms.records(**(OPTIONS | options)))


@pytest.fixture(scope='module')
def many():
    return draw(count=240, images_per_patient=1)


def columns(found):
    pixels = np.stack([record['inputs'][..., 0] for record in found]).astype(float)
    return pixels, np.stack([record['targets'] for record in found])


def test_records_keep_the_contract_of_real_ones():
    found = draw(count=5)
    assert [r['case_id'] for r in found[:2]] == ['phantom-00001', 'phantom-00002']
    for record in found:
        assert record['inputs'].shape == (96, 96, 1)
        assert record['inputs'].dtype == np.uint8
        assert record['targets'].shape == (4,) and record['targets'].dtype == np.float32
        assert record['source'].dtype == record['view'].dtype == np.int8
        assert real.VIEWS[record['view']] in real.FRONTAL
        assert real.SOURCES[record['source']] in ('JPEG grey', 'PNG grey')
        assert record['size_hw'].tolist() == [96, 96]
        assert record['example_id'] == record['case_id']
        assert len(record['patient_id']) == len(record['content_id']) == 16
    patients = [record['patient_id'] for record in found]
    assert patients[0] == patients[1] != patients[2] and len(set(patients)) == 3
    assert len({record['content_id'] for record in found}) == 5


def test_a_record_is_a_function_of_seed_and_number_alone():
    few, more = draw(count=2), draw(count=5)
    for one, other in zip(few, more):
        np.testing.assert_array_equal(one['inputs'], other['inputs'])
    other = draw(count=2, seed=1)
    assert few[0]['patient_id'] != other[0]['patient_id']
    assert np.abs(few[0]['inputs'].astype(int) - other[0]['inputs']).mean() > 5


def test_exclusive_classes_come_in_turn_and_patients_keep_theirs():
    targets = columns(draw(count=16))[1]
    assert targets.sum(axis=1).tolist() == [1] * 16
    assert targets.argmax(axis=1).tolist() == [0, 0, 1, 1, 2, 2, 3, 3] * 2


def test_findings_come_in_any_combination_and_clear_lungs_are_no_finding():
    found = draw(count=120, classes=FINDINGS, exclusive=False, images_per_patient=1,
                 store_px=16)
    targets = columns(found)[1]
    assert set(np.unique(targets)) == {0, 1}
    np.testing.assert_array_equal(targets[:, 4], targets[:, :4].sum(axis=1) == 0)
    # Clear: 0.2 of all, within four standard deviations of a binomial share.
    assert abs(targets[:, 4].mean() - 0.2) < 4 * (0.2 * 0.8 / 120) ** 0.5
    assert len({tuple(row) for row in targets}) > 8  # of 16 combinations
    assert np.all((0.1 < targets.mean(axis=0)) & (targets.mean(axis=0) < 0.6))


@pytest.mark.parametrize('classes, patterns', [
    (CLASSES, ['peripheral', 'diffuse', '', 'reticular']),
    (('Covid', 'Normal', 'Viral_Pneumonia'), ['peripheral', '', 'reticular']),
    (('sick', 'healthy'), ['focal', '']),
    (('COVID-19', 'SARS'), ['peripheral', 'focal']),  # two of one word differ
    (('ARDS', 'x', 'No Finding', 'Effusion'), ['diffuse', 'focal', '', 'effusion']),
])
def test_patterns_follow_the_names_of_classes(classes, patterns):
    assert phantoms.patterns_of(classes) == patterns


def test_any_number_of_classes_has_a_pattern_each():
    names = [f'class {i}' for i in range(14)]
    assert phantoms.patterns_of(names)[:9] == list(phantoms.PATTERNS)
    assert set(phantoms.patterns_of(names)) == set(phantoms.PATTERNS)
    with pytest.raises(ConfigError, match='different names'):
        draw(count=1, classes=('a', 'a'))


@pytest.mark.parametrize('pattern', phantoms.PATTERNS)
def test_a_pattern_adds_to_the_lungs_and_clear_ones_have_nothing(pattern):
    for seed in range(3):
        image, opacity = phantoms.draw_radiograph(
            np.random.default_rng(seed), size_px=128, patterns=[pattern])
        assert image.shape == opacity.shape == (128, 128) and image.dtype == np.uint8
        assert opacity.min() >= 0 and opacity.max() > 0.1
        # At most in both lungs, which are less than half of the film.
        assert 0.002 < np.mean(opacity > 0.05) < 0.5
        # The upper corners are air or a shoulder.
        assert max(opacity[:12, :12].max(), opacity[:12, -12:].max()) < 1e-3
        _, clear = phantoms.draw_radiograph(
            np.random.default_rng(seed), size_px=128, patterns=[])
        assert not clear.any()


@pytest.mark.parametrize('size', [16, 96, 99, 224])
def test_any_size_can_be_drawn(size):
    patterns = list(phantoms.PATTERNS)
    image, _ = phantoms.draw_radiograph(
        np.random.default_rng(0), size_px=size, patterns=patterns)
    assert image.shape == (size, size) and image.std() > 20


def test_hearts_are_larger_from_the_front_and_lungs_shorter_lying():
    def areas(view):
        found = []
        for seed in range(12):
            rng = np.random.default_rng(seed)
            patient = chests.draw_patient(np.random.default_rng(seed))
            x, y = chests.coordinates(rng, 96, patient)
            shape = np.random.default_rng(0)
            lungs = chests.find_lungs(rng, shape, x, y, patient, view)
            _, lung = chests.draw_body(shape, x, y, patient, view, lungs)
            found.append((lungs.mask.mean(), (lungs.mask - lung).mean()))
        return np.mean(found, axis=0)

    upright, front, lying = (areas(view) for view in ('PA', 'AP', 'AP Supine'))
    assert upright[0] > front[0] > lying[0]  # lungs
    assert front[1] > 1.02 * upright[1]  # what the heart covers of them


def test_no_picture_looks_strange(many):
    strange = [real.oddities(record['inputs']) for record in many[:80]]
    assert [words for words in strange if words] == []


def test_neither_grey_nor_contrast_nor_view_nor_source_tells_the_class(many):
    pixels, targets = columns(many)
    codes = np.array([[record['view'], record['source']] for record in many])
    tells = {'mean': pixels.mean((1, 2)), 'median': np.median(pixels, (1, 2)),
             'border': pixels[:, :10].mean((1, 2)), 'view': codes[:, 0],
             'source': codes[:, 1]}
    for name, values in tells.items():
        for k in range(len(CLASSES)):
            area = roc_auc_score(targets[:, k], values)
            # 0.5 has a standard error of 0.043 with 60 in 240.
            assert 0.35 < area < 0.65, (name, CLASSES[k])


def test_the_class_can_be_learned_but_not_from_coarse_grey_alone(many):
    pixels, targets = columns(many)
    labels = targets.argmax(axis=1)
    coarse = pixels.reshape(-1, 12, 8, 12, 8).mean((2, 4)).reshape(len(pixels), -1)
    # Texture by rows and columns: differences, as a first layer would take them.
    fine = np.abs(np.diff(pixels, axis=1))[:, :95 // 5 * 5]
    fine = fine.reshape(-1, 19, 5, 12, 8).mean((2, 4)).reshape(len(pixels), -1)

    def accuracy(features):
        features = (features - features.mean(0)) / (features.std(0) + 1e-6)
        model = LogisticRegression(C=0.01, max_iter=300)
        return model.fit(features[:180], labels[:180]).score(
            features[180:], labels[180:])

    assert accuracy(coarse) < 0.9
    assert accuracy(np.concatenate([coarse, fine], axis=1)) > 0.5  # 0.25 by chance


def test_pictures_of_a_patient_share_the_anatomy():
    def draw_one(patient, seed):
        patient = chests.draw_patient(np.random.default_rng(patient))
        return phantoms.draw_radiograph(
            np.random.default_rng(seed), size_px=96, patterns=[], patient=patient)[0]

    np.testing.assert_array_equal(draw_one(0, 0), draw_one(0, 0))
    # The same pose and film: only the anatomy differs.
    assert np.corrcoef(draw_one(0, 0).ravel(), draw_one(1, 0).ravel())[0, 1] < 0.95
    one, two = (chests.draw_vessels(
        seed, *np.meshgrid(*[np.linspace(-1, 1, 64, dtype=np.float32)] * 2),
        np.ones((64, 64), np.float32)) for seed in (0, 1))
    assert one.max() > 0.1 and np.corrcoef(one.ravel(), two.ravel())[0, 1] < 0.9
