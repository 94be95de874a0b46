"""How a value goes from one to the next, or wanders, over time."""

import numpy as np


def ease(time_s, start_s, length_s):
    """From 0 to 1 with no speed or acceleration at the ends (least jerk)."""
    u = np.clip((time_s - start_s) / length_s, 0, 1)
    return u**3 * (10 + u * (6 * u - 15))


def hermite(time_s, start_s, length_s, first, last):
    """From (place, speed) to (place, speed)."""
    u = np.clip((time_s - start_s) / length_s, 0, 1)
    (x0, v0), (x1, v1) = first, last
    return (x0 * (1 + 2 * u) * (1 - u)**2 + v0 * length_s * u * (1 - u)**2
            + x1 * u * u * (3 - 2 * u) + v1 * length_s * u * u * (u - 1))


def wander(rng, count, period_s):
    """`count` slow signals, each (time_s [T]) -> [T, count] of deviation about 1."""
    periods_s = period_s * rng.uniform(0.6, 1.8, (3, count))
    phases = rng.uniform(0, 2 * np.pi, (3, count))

    def evaluate(time_s):
        angle = 2 * np.pi * time_s[:, None, None] / periods_s + phases
        return np.sin(angle).sum(axis=1) * np.sqrt(2 / 3)

    return evaluate
