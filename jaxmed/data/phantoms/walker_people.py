"""Who moves: what the index depends on, the body's measures, and how it is carried."""

from typing import NamedTuple

import numpy as np

# What each trait adds to the index when it is 1.
WEIGHTS = {'asymmetry': 0.3, 'lean': 0.3, 'stiffness': 0.4}
LEAN_DEG = 18.0  # of the trunk, when the lean is 1


class Subject(NamedTuple):
    """A person: what the index depends on, then what it does not."""

    name: str
    asymmetry: float  # [0, 1], of the legs' steps and load
    lean: float  # [0, 1], of the trunk: LEAN_DEG at 1
    stiffness: float  # [0, 1], of the spine
    weak: float  # 1: the left leg is spared, -1: the right
    lean_side_deg: float  # positive to the left
    lean_forward_deg: float
    height_m: float
    thigh_m: float
    shank_m: float
    ankle_m: float
    foot_m: float
    trunk_m: float
    neck_m: float
    upper_arm_m: float
    forearm_m: float
    shoulder_m: float  # half of what is between them
    hip_m: float
    tempo: float  # factor of durations
    suppleness: float  # of hips and legs, [0, 1]
    strength: float  # of the legs, [0, 1]
    arm_swing: float
    arm_out: float  # how far they hang from the body
    elbow: float  # how bent they hang
    step: float  # length, as a share of the height
    stance_m: float  # half of what is between the feet

    @property
    def index(self):
        """In [0, 1], 0 best."""
        total = sum(weight * getattr(self, name) for name, weight in WEIGHTS.items())
        return float(np.clip(total, 0, 1))

    @property
    def leg_m(self):
        """From the hip to the ankle."""
        return self.thigh_m + self.shank_m


def draw_subject(*, seed, number, **changes):
    """A person of a set.

    The traits share a cause, so that the index spreads from 0 to 0.9, and differ enough
    that none tells the others.

    Args:
        seed: of the set, non-negative.
        number: of the person in it.
        changes: fields to be other than drawn. Of a changed lean the degrees follow.

    Returns:
        Subject.
    """
    rng = np.random.default_rng((seed, 0, number))
    severity = rng.uniform(-0.05, 0.95)
    # Reflected, not clipped: no heap of perfect or worst people.
    traits = 1 - np.abs(1 - np.abs(severity + rng.uniform(-0.38, 0.38, 3)))
    traits = dict(zip(WEIGHTS, traits.tolist()))
    traits |= {name: changes[name] for name in WEIGHTS if name in changes}
    direction = np.radians(rng.uniform(35, 55))
    lean_side = rng.choice([-1, 1]) * np.cos(direction) * LEAN_DEG * traits['lean']
    height = float(np.clip(rng.normal(1.70, 0.09), 1.48, 1.95))
    legs, trunk, arms, shoulders, hips, foot = rng.normal(
        1, [0.03, 0.03, 0.035, 0.06, 0.06, 0.04])
    sizes = dict(
        thigh_m=0.245 * legs, shank_m=0.246 * legs, ankle_m=0.039, foot_m=0.152 * foot,
        trunk_m=0.288 * trunk, neck_m=0.112, upper_arm_m=0.172 * arms,
        forearm_m=0.146 * arms, shoulder_m=0.104 * shoulders, hip_m=0.060 * hips)
    drawn = Subject(
        name=f'phantom-{seed}-{number:05d}', **traits, weak=float(rng.choice([-1, 1])),
        lean_side_deg=float(lean_side),
        lean_forward_deg=float(np.sin(direction) * LEAN_DEG * traits['lean']),
        height_m=height, **{name: float(height * x) for name, x in sizes.items()},
        tempo=float(rng.uniform(0.85, 1.2)), suppleness=float(rng.random()),
        strength=float(rng.random()), arm_swing=float(rng.uniform(0.5, 1.0)),
        arm_out=float(rng.uniform(0.08, 0.3)), elbow=float(rng.uniform(0.1, 0.6)),
        step=float(rng.uniform(0.27, 0.34)), stance_m=float(rng.uniform(0.06, 0.12)),
    )
    return drawn._replace(**changes)


def vary(rng, subject, noise):
    """The subject as he is in one take: nobody moves twice in the same way."""
    asymmetry, stiffness, side_deg, forward_deg = noise * rng.normal(
        0, [0.02, 0.02, 0.4, 0.4])
    return subject._replace(
        asymmetry=np.clip(subject.asymmetry + asymmetry, 0, 1),
        stiffness=np.clip(subject.stiffness + stiffness, 0, 1),
        lean_side_deg=subject.lean_side_deg + side_deg,
        lean_forward_deg=subject.lean_forward_deg + forward_deg,
        tempo=subject.tempo * rng.uniform(0.95, 1.05))
