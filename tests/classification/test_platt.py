import jax
import numpy as np
import pytest
from scipy import special

from jaxmed.classification import calibration, fractures, platt, scores

NAN = float('nan')


def draw(*, count, scale, offset, seed=0):
    """Probabilities that come true once scaled by these values."""
    random = np.random.default_rng(seed)
    logits = 2 * random.normal(size=count) + 1
    truth = random.random(count) < special.expit(scale * logits + offset)
    return special.expit(logits)[:, None], truth.astype(float)[:, None]


@pytest.mark.parametrize('scale, offset', [(1.0, 0.0), (0.5, -1.5), (2.0, 1.0)])
def test_the_values_the_truth_was_drawn_with_are_found(scale, offset):
    fitted = platt.fit_scaling(*draw(count=5000, scale=scale, offset=offset))
    # Standard errors are about 0.03 of the scale and 0.07 of the offset.
    assert fitted['scale'] == pytest.approx(scale, rel=0.12)
    assert fitted['offset'] == pytest.approx(offset, abs=0.2)
    assert fitted['reason'] == ''


def test_scaling_mends_what_a_temperature_cannot():
    valid = draw(count=100, scale=1.0, offset=-2.0, seed=1)
    probability, targets = draw(count=2000, scale=1.0, offset=-2.0, seed=2)
    fitted = platt.fit_scaling(*valid)
    temperature = calibration.fit_temperature(*valid, exclusive=False)
    losses = [calibration.log_loss(
        {'probability': version, 'targets': targets}, exclusive=False)
        for version in (
            platt.scale_probabilities(
                probability, scale=fitted['scale'], offset=fitted['offset']),
            calibration.apply_temperature(probability, temperature, exclusive=False),
            probability)]
    assert losses[0] < losses[1] < losses[2]


def test_at_the_fit_the_slope_of_its_cost_is_zero():
    probability, targets = draw(count=40, scale=0.7, offset=-1.0)
    fitted = platt.fit_scaling(probability, targets)
    logits = special.logit(probability)
    error = special.expit(fitted['scale'] * logits + fitted['offset']) - targets
    assert np.sum(error) + fitted['offset'] / 4 == pytest.approx(0, abs=1e-4)
    assert fitted['scale'] * np.sum(error * logits) + np.log(
        fitted['scale']) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize('count', [2, 20, 100])
@pytest.mark.parametrize('sureness', [0.51, 0.9, 1.0])
def test_few_scans_told_apart_without_a_mistake_do_not_make_it_infinitely_sure(
    count, sureness
):
    truth = (np.arange(count) % 2).astype(float)
    probability = np.where(truth == 1, sureness, 1 - sureness)
    fitted = platt.fit_scaling(probability, truth)
    assert 0.5 < fitted['scale'] < platt.SCALES[1]
    assert abs(fitted['offset']) < 1e-3  # nothing leans to one side
    if sureness == 0.9:  # the belief costs (ln a)^2 / 2 nats, a mistake is 2.2 away
        assert fitted['scale'] < 3.5
    rows = {'targets': truth[:, None], 'probability': platt.scale_probabilities(
        probability, scale=fitted['scale'], offset=fitted['offset'])[:, None]}
    assert scores.auc(rows, exclusive=False) == 1


@pytest.mark.parametrize('targets, words', [
    ([0, 0, NAN], 'no scan with a fracture'), ([1, 1, 1], 'no scan without'),
    ([NAN] * 3, 'no scan with a fracture')])
def test_one_kind_alone_changes_nothing_and_says_why(targets, words):
    fitted = platt.fit_scaling([0.2, 0.4, 0.3], targets)
    assert (fitted['scale'], fitted['offset']) == (1, 0) and words in fitted['reason']
    broken = platt.fit_scaling([NAN, 0.4], [1, 0])
    assert broken['scale'] == 1 and 'not a number' in broken['reason']


def test_unknown_scans_do_not_count():
    probability, targets = draw(count=60, scale=2.0, offset=1.0)
    more = np.append(probability, [[0.5], [NAN]], axis=0)
    assert platt.fit_scaling(more, np.append(targets, [[NAN], [NAN]], axis=0)) == (
        platt.fit_scaling(probability, targets))


def test_device_and_host_scale_alike_and_keep_the_order():
    logits = np.random.default_rng(0).normal(size=200) * 4
    values = dict(scale=1.7, offset=-2.3)
    scaled = jax.jit(lambda x: platt.scale_logits(x, **values))(logits)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(
        scaled, platt.scale_probabilities(special.expit(logits), **values), rtol=2e-5)
    np.testing.assert_array_equal(np.argsort(scaled), np.argsort(logits))
    np.testing.assert_allclose(
        platt.undo(np.asarray(scaled, float), **values), special.expit(logits),
        rtol=1e-4)


def test_probabilities_that_are_0_or_1_stay_finite():
    scaled = platt.scale_probabilities(
        np.float32([0, 1e-30, 0.5, 1]), scale=1.0, offset=0.0)
    assert np.all(np.diff(scaled) > 0) and scaled[0] > 0 and scaled[-1] < 1


def test_a_scan_and_its_patches_are_each_scaled_by_their_own():
    outputs = {
        'series': np.float32([0.0, 2.0]), 'patches': np.float32([[0, 1], [2, 0]])}
    scaling = dict(scale=2.0, offset=-1.0, patches={'scale': 0.5, 'offset': 3.0})
    given = fractures.probabilities(outputs, **scaling)
    np.testing.assert_allclose(given['series'], special.expit([-1.0, 3.0]), rtol=1e-6)
    np.testing.assert_allclose(
        given['patches'], special.expit(outputs['patches'] / 2 + 3), rtol=1e-6)
    plain = {name: special.expit(logits) for name, logits in outputs.items()}
    for name, again in jax.jit(
            lambda means: fractures.rescale(means, **scaling))(plain).items():
        np.testing.assert_allclose(again, given[name], rtol=1e-5)
    assert np.isfinite(platt.rescale(np.float32([0, 1]), scale=3.0, offset=1.0)).all()
