"""Optimisers: optax chains from keywords.

The learning rate is a function of the optimiser's own state, so it can be logged and
survives a resume.
"""

from typing import Any, Callable, NamedTuple

import jax
import optax

from jaxmed.errors import ConfigError


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


def adamw_cosine(
    *, learning_rate, warmup_steps, weight_decay, clip_norm, steps, steps_per_epoch
):
    """AdamW with a linear warm-up, a cosine to zero and clipped gradients.

    Kernels decay, biases and norms do not (Loshchilov & Hutter 2019; He et al. 2019).

    Args:
        learning_rate: at the end of the warm-up.
        warmup_steps: updates of linear growth from 0.
        weight_decay: per update, times the learning rate.
        clip_norm: largest global norm of a gradient.
        steps: of the whole run.
        steps_per_epoch: not used, every optimiser is told.
    """
    del steps_per_epoch
    if not 0 <= warmup_steps < steps:
        raise ConfigError(
            'optimizer.warmup_steps', f'{warmup_steps} is not in [0, {steps})'
        )
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, warmup_steps, steps
    )
    tx = optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.adamw(schedule, weight_decay=weight_decay, mask=_is_kernel),
    )
    return Optimizer(
        optax.with_extra_args_support(tx), lambda state, step: float(schedule(step))
    )


def _is_kernel(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


OPTIMIZERS = {'adam_on_plateau': adam_on_plateau, 'adamw_cosine': adamw_cosine}
