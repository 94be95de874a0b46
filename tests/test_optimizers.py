"""Learning rates fall when they should, and only then."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmed import optimizers
from jaxmed.errors import ConfigError

PLATEAU = dict(
    learning_rate=1e-2, factor=0.1, patience=2, min_delta=1e-3, min_scale=1e-2,
    steps=100, steps_per_epoch=3,
)


def rates(optimizer, losses):
    params = {'w': jnp.ones((2, 2)), 'b': jnp.ones(2)}
    state, seen = optimizer.tx.init(params), []
    update = jax.jit(
        lambda state, loss: optimizer.tx.update(params, state, params, value=loss)[1]
    )
    for step, loss in enumerate(losses, start=1):
        state = update(state, jnp.float32(loss))
        seen.append(optimizer.learning_rate(state, step))
    return seen


def test_the_rate_falls_tenfold_after_the_patience_of_epochs_without_gain():
    optimizer = optimizers.adam_on_plateau(**PLATEAU)
    # Epochs of three updates: one that sets the mark, then two without a gain.
    seen = rates(optimizer, [0.5] * 12)
    falls = [step for step in range(1, 12) if seen[step] < seen[step - 1]]
    np.testing.assert_allclose(seen[0], 1e-2)
    np.testing.assert_allclose(seen[-1], 1e-3, rtol=1e-5)
    assert falls == [8]  # the ninth update closes the second epoch without a gain


def test_the_rate_stays_while_the_loss_falls_by_more_than_min_delta():
    optimizer = optimizers.adam_on_plateau(**PLATEAU)
    assert rates(optimizer, [0.9 - 0.002 * i for i in range(30)])[-1] == 1e-2
    slow = rates(optimizer, [0.9 - 0.0001 * i for i in range(30)])
    assert slow[-1] < 1e-2


def test_the_rate_never_falls_below_its_floor():
    seen = rates(optimizers.adam_on_plateau(**PLATEAU), [0.5] * 60)
    np.testing.assert_allclose(seen[-1], 1e-2 * 1e-2, rtol=1e-4)


def test_the_cosine_warms_up_and_ends_at_zero():
    optimizer = optimizers.adamw_cosine(
        learning_rate=1e-3, warmup_steps=10, weight_decay=0.1, clip_norm=1.0, steps=110,
        steps_per_epoch=1,
    )
    rate = [optimizer.learning_rate(None, step) for step in (0, 5, 10, 60, 110)]
    np.testing.assert_allclose(rate, [0, 5e-4, 1e-3, 5e-4, 0], atol=1e-9)
    with pytest.raises(ConfigError, match=r'warmup_steps: 110 is not in \[0, 110\)'):
        optimizers.adamw_cosine(
            learning_rate=1e-3, warmup_steps=110, weight_decay=0.1, clip_norm=1.0,
            steps=110, steps_per_epoch=1,
        )


def test_kernels_decay_and_biases_do_not():
    optimizer = optimizers.adamw_cosine(
        learning_rate=1e-3, warmup_steps=0, weight_decay=0.1, clip_norm=1.0, steps=10,
        steps_per_epoch=1,
    )
    params = {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.tx.update(zeros, optimizer.tx.init(params), params)
    np.testing.assert_allclose(updates['kernel'], -1e-3 * 0.1, rtol=1e-5)
    np.testing.assert_array_equal(updates['bias'], 0.0)


def test_muon_moves_a_convolution_as_far_in_all_directions_and_the_rest_as_adamw():
    options = dict(
        learning_rate=1e-3, warmup_steps=0, weight_decay=0.0, clip_norm=1e3, steps=10,
        steps_per_epoch=1)
    optimizer = optimizers.muon_cosine(kernel_rate=1e-2, **options)
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        'kernel': jax.random.normal(keys[0], (3, 3, 3, 2, 4)),
        'dense': jax.random.normal(keys[1], (4, 2)), 'bias': jnp.zeros(4)}
    # Nearly the same for all features: Adam would move along that alone.
    common = jax.random.normal(keys[2], (3, 3, 3, 2, 1))
    grads = jax.tree.map(jnp.ones_like, params) | {
        'kernel': common + 0.1 * params['kernel']}
    updates, _ = optimizer.tx.update(grads, optimizer.tx.init(params), params)
    sizes = np.linalg.svd(np.asarray(updates['kernel']).reshape(54, 4))[1]
    assert sizes.max() / sizes.min() < 2 and 0.005 < sizes.mean() < 0.02
    plain = optax.adamw(1e-3, weight_decay=0.0, nesterov=True)
    expected, _ = plain.update(grads, plain.init(params), params)
    for name in ('dense', 'bias'):
        np.testing.assert_allclose(updates[name], expected[name], rtol=1e-4)
    np.testing.assert_allclose(optimizer.learning_rate(None, 0), 1e-3, rtol=1e-6)
    with pytest.raises(ConfigError, match=r'warmup_steps: 10 is not in'):
        optimizers.muon_cosine(kernel_rate=1e-2, **(options | {'warmup_steps': 10}))
