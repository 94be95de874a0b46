"""What a report says of predicted and true index, and of how models shrink."""

import math

import numpy as np
import pytest

from jaxmed.classification import figures
from jaxmed.tasks import spine_agreement
from tests.tasks.spine_cases import NAN, make, rows_of, tables_of


def test_bias_limits_and_slopes_are_those_worked_out_by_hand():
    # Predicted = 0.3 + (true - 0.3) / 2 + 0.1: differences 0.25, 0.15, 0.05, -0.05.
    table = tables_of(make(rows_of(
        [0.25, 0.35, 0.45, 0.55], [0, 0.2, 0.4, 0.6]))['Predicted and true'])
    values = [row['Value']['value'] for row in table['Agreement'].values()]
    wide = 1.96 * math.sqrt(2 * (0.15 ** 2 + 0.05 ** 2) / 3)
    assert values == pytest.approx([0.1, 0.1 - wide, 0.1 + wide, 0.5, 2.0])


@pytest.mark.parametrize('slope, words', [
    (0.5, 'shrinks towards the mean: of a true difference of 0.10 its predictions show '
     '0.05'), (1.0, 'can not be told'), (1.5, 'differ more than the truth does'),
    (-0.3, 'do not follow the truth'),
], ids=['shrinks', 'keeps', 'exaggerates', 'contradicts'])
def test_it_says_plainly_whether_predictions_shrink(slope, words):
    random = np.random.default_rng(0)
    truth = 0.35 + 0.3 * random.random(60)
    index = 0.5 + slope * (truth - 0.5) + 0.01 * random.normal(size=60)
    text = make(rows_of(index, truth), resamples=200)['Predicted and true'].text
    assert words in text
    assert ('The model shrinks' in text) == (slope == 0.5)


def test_the_mean_of_those_with_a_red_flag_stands_beside_their_truth():
    text = make(rows_of([0.4, 0.5, 0.1], [0.6, 0.8, 0.5]))['Predicted and true'].text
    assert ('Where the true index is over 0.5 (2 cases) its mean is 0.70, that of the '
            'predictions 0.45.') in text


def test_points_are_where_the_axes_say_and_shapes_tell_exercises_apart():
    cases = rows_of([0.25, 0.5, NAN], [0.75, 0.1, 0.2],
                    exercise=['jump', 'walk & "turn"', 'jump'])
    (figure,) = make(cases)['Predicted and true'].figures
    x, y = figures.locate(0.75, 0.25)
    assert f'<circle class="dot" cx="{x}" cy="{y}" r="3.5"' in figure.svg
    x, y = figures.locate(0.1, 0.5)
    assert f'<rect class="other" x="{x - 3.5:g}" y="{y - 3.5:g}"' in figure.svg
    assert figure.svg.count('<circle') == 2 and figure.svg.count('<rect') == 2  # + key
    assert 'walk &amp; &quot;turn&quot;' in figure.svg
    assert 'case-0: 0.25, true 0.75' in figure.svg


def test_many_exercises_share_a_shape_and_of_many_points_some_are_drawn():
    count = spine_agreement.POINTS_DRAWN + 1
    cases = rows_of(np.linspace(0, 1, count), np.linspace(0, 1, count),
                    exercise=[f'e{i % 6}' for i in range(count)])
    part = make(cases, resamples=2)['Predicted and true']
    assert part.figures[0].svg.count('<circle') == spine_agreement.POINTS_DRAWN
    assert '<rect' not in part.figures[0].svg
    assert '800 of 801 points are drawn' in part.figures[0].caption
