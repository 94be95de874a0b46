import json
import time
import warnings

import numpy as np
import pytest

from jaxmed import report
from jaxmed.classification import fractures, platt, scores

NAN = float('nan')


def scans(probability, targets):
    return {'probability': np.array(probability, float)[:, None],
            'targets': np.array(targets, float)[:, None],
            'case_id': np.array([f'scan-{n}' for n in range(len(targets))]),
            'patch_mask': np.zeros((len(targets), 1)),
            'patch_targets': np.full((len(targets), 1), NAN),
            'patch_probability': np.zeros((len(targets), 1))}


# Two scans with known patches, one whose patches are unknown; the last place is filler.
PATCHES = {
    'patch_probability': np.array([
        [0.9, 0.8, 0.1, 0.99], [0.7, 0.6, 0.5, 0.99], [0.95, 0.95, 0.95, 0.99]]),
    'patch_targets': np.array([[1, 0, 0, NAN], [0, 1, NAN, NAN], [NAN] * 4]),
    'patch_mask': np.array([[1, 1, 1, 0]] * 3)}


def test_patch_scores_are_worked_out_by_hand():
    # Known: fractured 0.9, 0.6; sound 0.8, 0.1, 0.7. Of six pairs 0.6 loses two.
    assert fractures.patch_auc(PATCHES) == pytest.approx(4 / 6)
    false_a_scan, found, thresholds = fractures.froc(PATCHES)
    # Two scans are counted: one false patch is 1/2 a scan.
    np.testing.assert_allclose(false_a_scan, [0, 0, 0.5, 1, 1, 1.5])
    np.testing.assert_allclose(found, [0, 0.5, 0.5, 0.5, 1, 1])
    np.testing.assert_allclose(thresholds[1:], [0.9, 0.8, 0.7, 0.6, 0.1])
    # Up to 1/2 a scan one of the two is found, from 1 on both.
    np.testing.assert_allclose(
        fractures.froc_sensitivities(PATCHES), [0.5] * 3 + [1.0] * 4)
    assert fractures.froc_sensitivity(PATCHES) == pytest.approx(5.5 / 7)


def test_fillers_and_unknown_patches_change_no_score():
    other = PATCHES | {'patch_probability': np.where(
        fractures.known_patches(PATCHES), PATCHES['patch_probability'], 0.01)}
    wrong = PATCHES | {'patch_targets': np.where(
        PATCHES['patch_mask'] == 0, 1.0, PATCHES['patch_targets'])}
    for metric in (fractures.patch_auc, fractures.froc_sensitivity):
        assert metric(other) == metric(wrong) == metric(PATCHES)


def test_scan_scores_are_worked_out_by_hand():
    rows = scans([0.9, 0.2, 0.6, 0.5], [1, 0, 0, NAN])
    assert fractures.auc(rows) == 1 and fractures.average_precision(rows) == 1
    assert fractures.brier(rows) == pytest.approx((0.01 + 0.04 + 0.36) / 3)
    rows = scans([0.5, 0.2, 0.6], [1, 0, 0])
    assert fractures.auc(rows) == 0.5 and fractures.average_precision(rows) == 0.5


def test_thresholds_are_worked_out_by_hand():
    # Twenty with a fracture at 0.505, 0.515 .. 0.695, and twenty without: ten at 0.1,
    # and 0.51, 0.53 .. 0.69.
    yes, no = 0.505 + np.arange(20) / 100, 0.51 + np.arange(10) / 50
    rows = scans([*yes, *no, *[0.1] * 10], [1] * 20 + [0] * 20)
    chosen = fractures.choose_thresholds(rows, sensitivity=0.9, specificity=0.95)
    # 0.95: one false call, at 0.69, down to the next, 0.67: between 0.675 and 0.67.
    assert chosen['specificity'] == pytest.approx(0.6725)
    # 0.9: 18 of 20, down to 0.525 which costs nine false calls (from 0.53 on); the next
    # one, at 0.515, costs none more: between 0.515 and 0.51.
    assert chosen['sensitivity'] == pytest.approx(0.5125)
    # All are found with ten false calls: sensitivity + specificity = 1.5, no other
    # more; half of the way from 0.505 to 0.1.
    assert chosen['youden'] == pytest.approx(0.3025)
    assert chosen['reason'] == '' and chosen['scans'] == 40
    assert chosen['aims']['sensitivity'] == 0.9
    strict = fractures.choose_thresholds(rows, specificity=1.0)
    assert strict['specificity'] == pytest.approx(0.6925)  # 0.695 alone


def test_separable_scans_are_parted_in_the_middle_by_every_rule():
    chosen = fractures.choose_thresholds(scans(
        [0.2, 0.3, 0.7, 0.9] + [0.1] * 40, [0, 0, 1, 1] + [0] * 40))
    for rule in ('youden', 'specificity', 'sensitivity'):
        assert chosen[rule] == 0.5


@pytest.mark.parametrize('seed', range(5))
def test_thresholds_keep_what_they_promise_and_nothing_cheaper_does(seed):
    random = np.random.default_rng(seed)
    truth = (random.random(90) < 0.4).astype(float)
    score = np.round(1 / (1 + np.exp(-random.normal(size=90) - truth)), 2)  # with ties
    rows = scans(score, truth)
    chosen = fractures.choose_thresholds(rows)

    def rates(threshold):
        return [float(scores.at_threshold(score, 0, threshold)(rows))
                for score in (scores.recall, scores.specificity)]

    every = [rates(threshold) for threshold in np.append(np.unique(score), 1.1)]
    found, passed = rates(chosen['specificity'])
    assert passed >= 0.951
    assert found == max(s for s, p in every if p >= 0.951)
    assert passed == max(p for s, p in every if s == found)
    found, passed = rates(chosen['sensitivity'])
    assert found >= 0.90
    assert passed == max(p for s, p in every if s >= 0.90)
    assert found == max(s for s, p in every if p == passed)
    assert sum(rates(chosen['youden'])) == pytest.approx(max(map(sum, every)))
    near = np.abs(score - chosen['youden']).min()
    assert near > 1e-3  # no score's last digit matters


def test_a_sound_scan_above_all_others_leaves_nothing_to_call():
    for top in (0.8, 1.0):
        chosen = fractures.choose_thresholds(scans([top, 0.5, 0.4], [0, 1, 0]))
        assert chosen['specificity'] > top
        json.dumps(chosen, allow_nan=False)


def test_patches_are_called_at_half_a_false_one_a_scan():
    rows = scans([0.9, 0.1, 0.5], [1, 0, 1]) | PATCHES
    # 0.5 a scan allows the false 0.8, which finds no more than 0.9 alone.
    assert fractures.choose_thresholds(rows)['patch'] == pytest.approx(0.85)
    more = fractures.choose_thresholds(rows, false_patches=1)
    assert more['patch'] == pytest.approx(0.35)


@pytest.mark.parametrize('targets, words', [
    ([0, 0, 0], 'no scan with a fracture'), ([1, 1, 1], 'no scan without a fracture'),
    ([NAN] * 3, 'the truth is known of no scan')])
def test_without_both_kinds_thresholds_are_null_and_the_reason_is_told(targets, words):
    chosen = fractures.choose_thresholds(scans([0.2, 0.3, 0.4], targets))
    assert [chosen[name] for name in ('youden', 'specificity', 'sensitivity', 'patch')
            ] == [None] * 4
    assert chosen['reason'] == words
    assert chosen['patch_reason'] == 'the truth is known of no patch'
    values = fractures.calibrate(scans([0.2, 0.3, 0.4], targets), by_maximum=False)
    assert json.loads(json.dumps(values, allow_nan=False)) == values


def test_calibration_keeps_thresholds_of_calibrated_probabilities():
    random = np.random.default_rng(0)
    truth = (random.random(60) < 0.3).astype(float)
    raw = 1 / (1 + np.exp(-random.normal(size=60) - 2 * truth - 1.5))
    values = fractures.calibrate(scans(raw, truth), by_maximum=True)
    scaled = platt.scale_probabilities(
        raw, scale=values['scale'], offset=values['offset'])
    before = fractures.choose_thresholds(scans(raw, truth))
    for rule in ('youden', 'specificity', 'sensitivity'):  # the same scans are called
        np.testing.assert_array_equal(
            scaled >= values['thresholds'][rule], raw >= before[rule])
    assert abs(scaled.mean() - truth.mean()) < abs(raw.mean() - truth.mean()) / 3


def spines(seed, *, count=60, off=1.5):
    """Rows whose scan is its highest patch; all are too sure by `off`."""
    random = np.random.default_rng(seed)
    truth = random.random((count, 4)) < 0.1
    logits = random.normal(size=truth.shape) + 2 * truth - 3
    patches = 1 / (1 + np.exp(-logits - off))
    mask = np.ones(truth.shape)
    mask[:, 3] = 0
    return scans(patches[:, :3].max(axis=1), truth[:, :3].any(axis=1)) | {
        'patch_mask': mask, 'patch_probability': patches,
        'patch_targets': np.where(mask > 0, truth, NAN)}


def test_a_scan_that_is_its_highest_patch_stays_so_when_both_are_calibrated():
    rows = spines(0)
    values = fractures.calibrate(rows, by_maximum=True)
    assert values['scale'] != 1 and values['patches'] == {
        name: values[name] for name in ('scale', 'offset', 'reason')}
    tuning = values['tuning']
    np.testing.assert_allclose(
        np.array(tuning['patch_probability'])[:, :3].max(axis=1),
        np.ravel(tuning['probability']), rtol=2e-6)
    # Patches are called by what they are scaled to.
    before = fractures.choose_thresholds(rows)['patch']
    np.testing.assert_array_equal(
        np.array(tuning['patch_probability']) >= values['thresholds']['patch'],
        rows['patch_probability'] >= before)


def test_other_patches_are_calibrated_by_their_labels_where_these_are_enough():
    rows = spines(1, count=300)
    values = fractures.calibrate(rows, by_maximum=False)
    flat = fractures.flatten_patches(rows)
    assert values['patches'] == platt.fit_scaling(flat['probability'], flat['targets'])
    assert values['patches']['reason'] == ''
    fitted = np.array(values['tuning']['patch_probability'])
    known = fractures.known_patches(rows)
    assert abs(fitted[known].mean() - flat['targets'].mean()) < 0.01
    few = fractures.calibrate(rows | {'patch_targets': np.where(
        np.arange(300)[:, None] < 20, rows['patch_targets'], NAN)}, by_maximum=False)
    assert (few['patches']['scale'], few['patches']['offset']) == (1, 0)
    assert 'too few patches' in few['patches']['reason'] and few['reason'] == ''
    none = fractures.calibrate(rows | {
        'patch_targets': np.full((300, 4), NAN)}, by_maximum=False)
    assert none['patches']['reason'] == 'the truth is known of no patch'


def test_the_mean_of_several_runs_is_calibrated_once_more():
    # Each sees half of what there is to see: both together are surer than their mean.
    truth = np.random.default_rng(2).random(400) < 0.5
    seen = np.random.default_rng(3).normal(size=(2, 400)) + np.where(truth, 1, -1)
    members = [fractures.calibrate(scans(p, truth), by_maximum=True)
               for p in 1 / (1 + np.exp(-2 * seen))]
    values = fractures.calibrate_together(members)
    p = np.mean([member['tuning']['probability'] for member in members], axis=0)
    truth = np.array(members[0]['tuning']['targets'])
    assert {name: values[name] for name in ('scale', 'offset', 'reason')} == (
        platt.fit_scaling(p, truth))
    assert values['scale'] > 1.2 and values['by_maximum']
    assert all(abs(member['scale'] - 1) < 0.2 for member in members)
    again = platt.scale_probabilities(
        p, scale=values['scale'], offset=values['offset'])
    assert values['thresholds']['youden'] == pytest.approx(
        fractures.choose_thresholds(scans(again[:, 0], truth[:, 0]))['youden'])
    assert 'tuning' not in values


def test_runs_with_other_numbers_of_fillers_are_calibrated_together():
    rows = spines(3)
    fewer = rows | {name: rows[name][:, :3] for name in (
        'patch_mask', 'patch_targets', 'patch_probability')}
    wide, narrow = (
        fractures.calibrate(part, by_maximum=True) for part in (rows, fewer))
    assert fractures.calibrate_together([wide, narrow]) == (
        fractures.calibrate_together([narrow, narrow]))
    other = fractures.calibrate(
        rows | {'patch_mask': np.ones((60, 4))}, by_maximum=True)
    assert fractures.calibrate_together([wide, other]) is None


def test_probabilities_near_0_and_1_are_kept_well_enough_to_be_fitted_anew():
    p = np.array([3e-9, 2e-7, 0.4, 0.6, 1 - 2e-6])
    row = fractures._plain(p)
    np.testing.assert_allclose(
        np.log(row) - np.log1p(-np.array(row)), np.log(p) - np.log1p(-p), atol=0.3)


def test_the_mean_of_several_runs_has_thresholds_of_its_own():
    random = np.random.default_rng(1)
    truth = (random.random(40) < 0.4).astype(float)
    first, second = 1 / (1 + np.exp(-random.normal(size=(2, 40)) - 2 * truth))
    members = [json.loads(json.dumps(fractures.calibrate(scans(p, truth) | {
        'patch_mask': np.ones((40, 1)), 'patch_targets': truth[:, None],
        'patch_probability': p[:, None]}, by_maximum=True)))
        for p in (first, second)]
    scaled = [platt.scale_probabilities(p, scale=m['scale'], offset=m['offset'])
              for p, m in zip((first, second), members)]
    together = fractures.calibrate_together(members)
    chosen = together['thresholds']
    expected = fractures.choose_thresholds(scans(platt.scale_probabilities(
        np.mean(scaled, axis=0), scale=together['scale'], offset=together['offset'],
    ), truth))
    assert chosen['patch'] is not None
    for rule in ('youden', 'specificity', 'sensitivity'):
        assert chosen[rule] == pytest.approx(expected[rule], abs=1e-5)
        assert chosen[rule] != pytest.approx(members[0]['thresholds'][rule], abs=1e-5)
    assert fractures.calibrate_together([members[0], {}]) is None
    other = fractures.calibrate(scans(first[:30], truth[:30]), by_maximum=True)
    assert fractures.calibrate_together([members[0], other]) is None


def test_nothing_to_measure_is_nan_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for rows in (scans([], []), scans([0.5, NAN], [1, 0]), scans([0.5], [NAN])):
            for metric in fractures.METRICS.values():
                assert np.isnan(metric(rows))


def test_the_summary_of_a_split_takes_seconds():
    random = np.random.default_rng(0)
    count, patches = 350, 20
    fractured = random.random((count, patches)) < 0.04
    probability = 1 / (1 + np.exp(3 - random.normal(size=fractured.shape) - fractured))
    rows = {
        'probability': probability.max(axis=1, keepdims=True),
        'targets': fractured.any(axis=1, keepdims=True).astype(float),
        'patch_probability': probability, 'patch_targets': fractured.astype(float),
        'patch_mask': np.ones(fractured.shape), 'case_id': np.arange(count).astype(str),
        'patient_id': np.arange(count).astype(str)}
    begin = time.process_time()
    summary = report.summarise(rows, fractures.METRICS, resamples=200, seed=0)
    assert time.process_time() - begin < 2.0  # takes 0.2
    for value in summary.values():
        assert value['low'] <= value['value'] <= value['high']
        assert value['description'].endswith(('.', 'better.'))
