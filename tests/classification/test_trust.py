import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmed.classification import scores, trust

NAN = float('nan')
FAST = dict(resamples=100, seed=0)


def noise(count):
    random = np.random.default_rng(0)
    return random.integers(0, 200, (count, 32, 32)).astype(np.uint8)


def probe(thumbnails, codes, groups, **options):
    return trust.predict_from_thumbnails(
        thumbnails, codes, groups, name='probe', meaning='.', **FAST | options)


def make_rows(*, count=60, seed=0, sure=1.0):
    random = np.random.default_rng(seed)
    truth = np.arange(count) % 3
    return {
        'case_id': np.array([f'image-{i}' for i in range(count)]),
        'patient_id': np.array([f'secret-{i // 2}' for i in range(count)]),
        'probability': sure * np.eye(3)[truth] + random.random((count, 3)),
        'targets': np.eye(3)[truth], 'thumbnail': noise(count),
        'view': (1 + np.arange(count) // 2 % 2).astype(np.int8)}


def test_lung_fields_are_two_ellipses_in_the_middle():
    mask = trust.lung_fields(320, 320)
    np.testing.assert_array_equal(mask, mask[:, ::-1])
    assert mask.mean() == pytest.approx(0.58, abs=0.01)
    y, x = np.array([96, 150, 220]), 100
    assert mask[y, x].all() and mask[y, 319 - x].all()
    assert not mask[[0, 0, -1, -1], [0, -1, 0, -1]].any()
    assert not mask[290:].any() and not mask[:, :30].any()  # abdomen, arms
    # The same place in a picture of other proportions.
    wide = trust.lung_fields(320, 640)
    assert (wide[:, ::2] == mask).mean() > 0.99


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32])
def test_blacking_out_and_keeping_the_lungs_part_the_picture(dtype):
    images = (1 + noise(2)[..., None]).astype(dtype)
    without, alone = trust.black_out_lungs(images), trust.keep_lungs(images)
    assert without.dtype == alone.dtype == dtype
    np.testing.assert_array_equal(without + alone, images)
    mask = trust.lung_fields(32, 32)
    assert not without[:, mask].any() and without[:, ~mask].all()
    assert not alone[:, ~mask].any() and alone[:, mask].all()
    traced = jax.jit(trust.black_out_lungs)(jnp.asarray(images))
    assert traced.dtype == dtype
    np.testing.assert_array_equal(traced, without)


def test_a_planted_mark_is_found_and_noise_is_not():
    codes = 1 + np.arange(120) % 2
    pictures = noise(120)
    check = probe(pictures, codes, np.arange(120))
    assert check.low < 0.5 < check.high and check.verdict != 'worrying'
    pictures[codes == 2, 10:13, 10:13] = 255
    check = probe(pictures, codes, np.arange(120))
    assert check.value > 0.95 and check.verdict == 'worrying' and check.reason == ''
    assert (check.n_images, check.n_patients) == (120, 120)
    assert check.low <= check.value <= check.high


def test_the_rim_is_all_that_a_border_probe_sees():
    codes, groups = 1 + np.arange(120) % 2, np.arange(120)
    middle, rim = noise(120), noise(120)
    middle[codes == 2, 2:-2, 2:-2] //= 2
    rim[codes == 2, :2, :6] = 255
    assert probe(middle, codes, groups).value > 0.95
    assert probe(middle, codes, groups, border=True).value < 0.7
    assert probe(rim, codes, groups, border=True).value > 0.95


def test_a_patient_is_never_on_both_sides():
    # Each of 20 patients has six copies of one picture, and a code of their own choice.
    pictures, groups = np.repeat(noise(20), 6, axis=0), np.repeat(np.arange(20), 6)
    codes = 1 + np.random.default_rng(1).permutation(np.arange(20) % 2)[groups]
    assert probe(pictures, codes, np.arange(120)).value > 0.95  # it reads the patient
    assert probe(pictures, codes, groups).value < 0.75


def test_more_codes_than_two_are_told_from_the_rest():
    codes, pictures = np.arange(120) % 4, noise(120)
    for code in (1, 2, 3):
        pictures[codes == code, 5 * code:5 * code + 4, 8:12] = 255
    check = probe(pictures, codes, np.arange(120))
    assert check.value > 0.95 and check.n_images == 90  # 0 is unknown, and left out


def test_labels_may_be_several_and_unknown():
    random = np.random.default_rng(0)
    targets = (random.random((120, 3)) < 0.4).astype(float)
    pictures = noise(120)
    for k in range(2):
        pictures[targets[:, k] == 1, 6 * k:6 * k + 4, 8:12] = 255
    targets[:10, 0] = NAN
    targets[:, 2] = 0  # of one kind: left out
    targets[119, :2] = NAN
    check = probe(pictures, targets, np.arange(120))
    assert check.value > 0.9 and check.n_images == 119
    np.testing.assert_array_equal(targets[:10, 0], [NAN] * 10)


@pytest.mark.parametrize('codes, groups, reason', [
    ([0] * 6, [0, 1, 2, 3, 4, 5], 'no code is known'),
    ([1] * 6, [0, 1, 2, 3, 4, 5], 'only one code is known'),
    ([1, 1, 1, 0, 0, 0], [0, 1, 2, 3, 4, 5], 'only one code is known'),
    ([1, 1, 1, 2, 2, 2], [0, 0, 0, 1, 1, 1], 'no code is seen in two patients'),
    ([1, 2, 1, 2, 1, 2], [0] * 6, 'no code is seen in two patients'),
    ([], [], 'no code is known'),
])
def test_what_cannot_be_tested_says_why(codes, groups, reason):
    check = probe(noise(6)[:len(codes)], np.array(codes, int), np.array(groups))
    assert np.isnan([check.value, check.low, check.high]).all()
    assert reason in check.reason and check.verdict == ''


def test_a_view_that_goes_with_the_class_is_worrying():
    targets = np.eye(2)[np.arange(80) % 2]
    views = np.where(np.random.default_rng(0).random(80) < 0.9, np.arange(80) % 2, 0)
    options = dict(name='view', meaning='.', **FAST)
    check = trust.predict_from_codes(views, targets, np.arange(80), **options)
    assert check.value > 0.85 and check.verdict == 'worrying'
    views = np.random.default_rng(0).integers(0, 2, 80)
    check = trust.predict_from_codes(views, targets, np.arange(80), **options)
    assert check.low < 0.5 < check.high and check.verdict != 'worrying'
    check = trust.predict_from_codes(views * 0 + 3, targets, np.arange(80), **options)
    assert np.isnan(check.value) and check.reason == 'all images have the same code'


def test_probes_depend_on_the_seed_alone():
    arguments = noise(60), 1 + np.arange(60) % 2, np.arange(60) // 2
    assert probe(*arguments) == probe(*arguments)
    renamed = np.array([f'patient-{i:03d}' for i in arguments[2]])
    assert probe(*arguments[:2], renamed) == probe(*arguments)
    assert probe(*arguments, seed=1) != probe(*arguments)


def test_auc_of_a_check_is_the_macro_auc():
    rows = make_rows()
    check = trust.check_auc(rows, name='', meaning='', limit=0.6, **FAST)
    assert check.value == scores.macro(scores.auc, exclusive=True)(rows)
    assert (check.n_images, check.n_patients) == (60, 30)
    assert check.verdict == 'worrying' and check.low > 0.6
    blind = make_rows(count=300, sure=0.0)
    check = trust.check_auc(blind, name='', meaning='', limit=0.6, **FAST)
    assert check.verdict == 'not worrying' and check.high < 0.6
    check = trust.check_auc(
        blind, name='', meaning='', limit=check.value, **FAST)
    assert check.verdict.startswith('open: the interval holds')
    unknown = rows | {'targets': np.full_like(rows['targets'], NAN)}
    check = trust.check_auc(unknown, name='', meaning='', limit=0.6, **FAST)
    assert np.isnan(check.value) and check.reason and check.verdict == ''
    one = rows | {'patient_id': np.array(['one'] * 60)}
    check = trust.check_auc(one, name='', meaning='', limit=0.6, **FAST)
    assert np.isnan(check.low) and check.verdict == 'open: no interval'


def test_duplicates_are_counted_in_words():
    checks = trust.check_duplicates(
        {'shared_patients': 2, 'exact_duplicates': 3, 'images': 9, 'pairs': []})
    assert [check.name for check in checks] == [
        'Exact copies', 'Patients on both sides']
    assert [check.value for check in checks] == [3, 2]
    assert [check.verdict for check in checks] == ['', 'worrying']
    (check,) = trust.check_duplicates({'shared_patients': 0})
    assert check.verdict == 'not worrying' and 'above 0' in check.meaning


def test_all_checks_are_there_tested_or_not():
    rows = make_rows(count=30)
    few = trust.run_checks(
        rows, probe_rows=rows, changed={}, external={}, duplicates=None, **FAST)
    all_of_them = trust.run_checks(
        rows, probe_rows=rows | {'source': rows['view']},
        changed=dict.fromkeys(trust.CHANGES, rows),
        external={'elsewhere': rows}, duplicates={'exact_duplicates': 0}, **FAST)
    assert len(few) == len(all_of_them) - 2  # the source, two ways
    assert [check.reason for check in few if check.reason] == [
        'not tested', 'not tested', 'not tested', 'not looked for']
    assert not any(check.reason for check in all_of_them)
    for check in (*few, *all_of_them):
        assert check.meaning.endswith('.') and check.name
        assert (check.n_images == 30 or check.reason or check.n_images is None)
    (black,) = [check for check in all_of_them if 'blacked' in check.name]
    assert black.value == all_of_them[0].value and black.verdict == 'worrying'


def test_without_names_of_patients_their_absence_on_both_sides_proves_nothing():
    counts = {'shared_patients': 0, 'shared_images': 0}
    for patients, expected in ((5, 'not worrying'), (0, 'open: ')):
        checks = trust.check_duplicates(counts | {'patients': patients})
        assert [check.name for check in checks] == [
            'Patients on both sides', 'Copies on both sides']
        assert checks[0].verdict.startswith(expected)
        assert checks[1].verdict == 'not worrying'
    assert trust.check_duplicates({'shared_patients': 1})[0].verdict == 'worrying'
