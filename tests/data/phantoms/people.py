"""One person in one exercise, healthy but for what is asked."""

from jaxmed.data.phantoms import walker_people, walkers
from jaxmed.pose.skeletons import BLAZEPOSE

PLACE = BLAZEPOSE.places
HEALTHY = dict(
    asymmetry=0.0, lean=0.0, stiffness=0.0, lean_side_deg=0.0, lean_forward_deg=0.0)


def draw(exercise, *, number=0, seed=7, noise=0.0, **traits):
    traits = HEALTHY | traits
    subject = walker_people.draw_subject(seed=0, number=number, **traits)
    return subject, walkers.draw_motion(subject, exercise, seed=seed, noise=noise)


def middle(motion, name):
    return motion.world[:, [PLACE[f'left_{name}'], PLACE[f'right_{name}']]].mean(axis=1)
