"""Optimisers: optax chains from keywords.

The learning rate is a function of the optimiser's own state, so it can be logged and
survives a resume.
"""

from typing import Any, Callable, NamedTuple

import jax
import optax

from jaxmed.errors import ConfigError
from jaxmed.models.pretrained import scale_by_depth


class Optimizer(NamedTuple):
    """A transformation whose `update` takes `value=loss`, and its learning rate."""

    tx: optax.GradientTransformationExtraArgs
    learning_rate: Callable[[Any, int], float]  # (opt_state, step) -> current rate


def adam_on_plateau(
    *, learning_rate, factor, patience, min_delta, min_scale, steps, steps_per_epoch
):
    """Adam; the rate falls by `factor` when the epoch's mean loss stops falling.

    Paper 002: `ReduceLROnPlateau(monitor='loss', factor=0.1, min_delta=0.001)`.

    Args:
        learning_rate: the first one.
        factor: of each reduction, below 1.
        patience: epochs without an improvement of at least `min_delta`.
        min_delta: absolute, in units of the loss.
        min_scale: the rate never falls below learning_rate * min_scale.
        steps: of the whole run; not used, every optimiser is told.
        steps_per_epoch: updates whose losses are averaged into one value.
    """
    del steps
    tx = optax.chain(
        optax.adam(learning_rate),
        optax.contrib.reduce_on_plateau(
            factor=factor, patience=patience, rtol=0.0, atol=min_delta,
            accumulation_size=steps_per_epoch, min_scale=min_scale,
        ),
    )
    return Optimizer(
        tx, lambda state, step: learning_rate * float(optax.tree.get(state, 'scale'))
    )


def adam(*, learning_rate, layer_decay, freeze, steps, steps_per_epoch):
    """Adam at one rate (paper 003: 1e-4).

    Args:
        learning_rate: of the last layers.
        layer_decay, freeze: of models.pretrained.layer_rates; 1 and '' for all alike.
        steps, steps_per_epoch: not used, every optimiser is told.
    """
    del steps, steps_per_epoch
    return _by_depth([optax.adam(learning_rate)], layer_decay, freeze, learning_rate)


def sgd(
    *, learning_rate, momentum, weight_decay, layer_decay, freeze, steps,
    steps_per_epoch
):
    """SGD with momentum and weight decay, as PyTorch adds it: to the gradient.

    Args:
        learning_rate: of the last layers.
        momentum: of the moving sum of gradients.
        weight_decay: times the parameter, added to its gradient.
        layer_decay, freeze: as in adam.
        steps, steps_per_epoch: not used, every optimiser is told.
    """
    del steps, steps_per_epoch
    return _by_depth([
        optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate, momentum),
    ], layer_decay, freeze, learning_rate)


def _by_depth(links, layer_decay, freeze, learning_rate):
    if layer_decay != 1 or freeze:
        links = [*links, scale_by_depth(decay=layer_decay, freeze=freeze)]
    rate = learning_rate if callable(learning_rate) else lambda step: learning_rate
    return Optimizer(
        optax.with_extra_args_support(optax.chain(*links)),
        lambda state, step: float(rate(step)),
    )


def adamw_cosine(
    *, learning_rate, warmup_steps, weight_decay, clip_norm, steps, steps_per_epoch,
    layer_decay=1.0, freeze='',
):
    """AdamW with a linear warm-up, a cosine to zero and clipped gradients.

    Kernels decay, biases and norms do not (Loshchilov & Hutter 2019; He et al. 2019).

    Args:
        learning_rate: at the end of the warm-up.
        warmup_steps: updates of linear growth from 0.
        weight_decay: per update, times the learning rate.
        clip_norm: largest global norm of a gradient.
        layer_decay, freeze: as in adam.
        steps: of the whole run.
        steps_per_epoch: not used, every optimiser is told.
    """
    del steps_per_epoch
    schedule = _warm_up_cosine(learning_rate, warmup_steps, steps)
    return _by_depth([
        optax.clip_by_global_norm(clip_norm),
        optax.adamw(schedule, weight_decay=weight_decay, mask=_is_kernel),
    ], layer_decay, freeze, schedule)


def muon_cosine(
    *, learning_rate, kernel_rate, warmup_steps, weight_decay, clip_norm, steps,
    steps_per_epoch, layer_decay=1.0, freeze='',
):
    """Muon for convolutions' kernels, AdamW for the rest, adamw_cosine's schedule.

    A momentum's singular values become about 1, so that rare features learn as fast as
    those that all gradients agree on (Jordan et al. 2024). A kernel is the matrix from
    a patch of the input to features. Both have Nesterov's momentum.

    Args:
        learning_rate: of AdamW, at the end of the warm-up.
        kernel_rate: of Muon, then.
        weight_decay: of those kernels.
        warmup_steps, clip_norm, layer_decay, freeze, steps, steps_per_epoch: as in
            adamw_cosine.
    """
    del steps_per_epoch
    schedule = _warm_up_cosine(learning_rate, warmup_steps, steps)
    return _by_depth([
        optax.clip_by_global_norm(clip_norm),
        optax.contrib.muon(
            _warm_up_cosine(kernel_rate, warmup_steps, steps),
            weight_decay=weight_decay, adam_learning_rate=schedule,
            muon_weight_dimension_numbers=_find_convolutions),
    ], layer_decay, freeze, schedule)


def _warm_up_cosine(learning_rate, warmup_steps, steps):
    if not 0 <= warmup_steps < steps:
        raise ConfigError(
            'optimizer.warmup_steps', f'{warmup_steps} is not in [0, {steps})'
        )
    return optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup_steps, steps)


def _find_convolutions(params):
    """Which axes of a kernel are inputs and which features; None for all else."""
    return jax.tree.map(lambda leaf: None if leaf.ndim < 3 else (
        optax.contrib.MuonDimensionNumbers(
            tuple(range(leaf.ndim - 1)), leaf.ndim - 1)), params)


def _is_kernel(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


OPTIMIZERS = {
    'adam': adam, 'adam_on_plateau': adam_on_plateau, 'adamw_cosine': adamw_cosine,
    'muon_cosine': muon_cosine, 'sgd': sgd,
}
