"""The index of drawn people spreads, and no trait tells the others."""

import numpy as np

from jaxmed.data.phantoms.walker_people import draw_subject


def test_indexes_spread_so_that_guessing_the_middle_is_off_by_a_fifth():
    found = [draw_subject(seed=1, number=n) for n in range(400)]
    index = np.array([subject.index for subject in found])
    assert 0.19 < np.abs(index - np.median(index)).mean() < 0.26
    assert index.min() < 0.1 and index.max() > 0.85
    counts = np.histogram(index, bins=4, range=(0, 1))[0]
    assert counts.min() > 50  # of 100 in each, were it uniform
    traits = np.array([[s.asymmetry, s.lean, s.stiffness] for s in found])
    assert traits.min() >= 0 and traits.max() <= 1
    # No trait gives the others away.
    assert np.corrcoef(traits.T)[np.triu_indices(3, 1)].max() < 0.85
