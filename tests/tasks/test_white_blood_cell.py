"""The task on hand-made smears whose numbers are known."""

import jax.numpy as jnp
import numpy as np
import pytest

from configs import white_blood_cell_unet
from jaxmed import runs
from jaxmed.errors import ConfigError
from jaxmed.tasks import white_blood_cell


def make(**changes):
    config = white_blood_cell_unet.get_config('phantom').to_dict()
    small = dict(widths=(4, 8), tile=32, overlap_px=16, min_area_px=20)
    config['task'] |= small | changes
    return runs.make_task(config)


def disc(size, centre, radius):
    rows, columns = np.indices(size)
    return np.hypot(rows - centre[0], columns - centre[1]) <= radius


def rows_of(probability, truth, *, size_hw, origins, tile=32, case='a'):
    """Tiles of one smear as `rows` columns."""
    def cut(whole):
        return np.stack([whole[y:y + tile, x:x + tile] for y, x in origins])

    count = len(origins)
    return {
        'probability': np.round(255 * cut(probability))[..., None].astype(np.uint8),
        'targets': cut(truth)[..., None].astype(np.uint8),
        'origin_yx': np.array(origins), 'size_hw': np.array([size_hw] * count),
        'case_id': np.array([case] * count), 'patient_id': np.array(['p'] * count),
    }


def test_a_perfect_prediction_of_two_cells_over_tile_borders():
    truth = disc((32, 56), (16, 14), 9) | disc((32, 56), (16, 38), 9)
    rows = rows_of(truth, truth, size_hw=(32, 56), origins=[(0, 0), (0, 24)])
    task = make()
    cases = task.cases(rows)
    assert {name: task.metrics[name](cases) for name in task.metrics} == {
        'dice': 1, 'dice_median': 1, 'dice_worst': 1, 'iou': 1, 'precision': 1,
        'recall': 1, 'boundary_f1': 1, 'count_error': 0,
    }
    assert cases['count_actual'].tolist() == [2]
    # Pixels of the overlap are counted once.
    assert cases['actual'].tolist() == [truth.sum()]


def test_half_a_cell_found_gives_the_dice_of_its_areas():
    truth = np.zeros((32, 32), bool)
    truth[8:24, 8:24] = True
    found = truth.copy()
    found[:, 16:] = False
    cases = make().cases(rows_of(found, truth, size_hw=(32, 32), origins=[(0, 0)]))
    np.testing.assert_allclose(cases['dice'], [2 * 128 / (128 + 256)])
    np.testing.assert_allclose(
        make().metrics['recall'](cases), 0.5)


def test_padding_of_a_small_smear_counts_for_nothing():
    truth = disc((32, 32), (10, 10), 6)
    found = truth.copy()
    found[:, 25:] = True  # beyond the smear's 20 columns
    cases = make().cases(rows_of(found, truth, size_hw=(20, 20), origins=[(0, 0)]))
    assert cases['predicted'].tolist() == cases['actual'].tolist()


def test_smears_keep_apart_and_in_order():
    truth = disc((32, 32), (16, 16), 9)
    one = rows_of(truth, truth, size_hw=(32, 32), origins=[(0, 0)], case='z')
    two = rows_of(~truth, truth, size_hw=(32, 32), origins=[(0, 0)], case='b')
    cases = make().cases({name: np.concatenate([one[name], two[name]]) for name in one})
    assert cases['case_id'].tolist() == ['z', 'b']
    assert cases['dice'].tolist() == [1.0, 0.0]


def test_grey_is_opencvs_grey_and_clean_paints_dark_pixels_white():
    import cv2

    picture = np.random.default_rng(0).integers(0, 256, (1, 9, 9, 3), np.uint8)
    grey = cv2.cvtColor(picture[0], cv2.COLOR_RGB2GRAY)
    out = white_blood_cell.preprocess(
        {'inputs': jnp.array(picture)}, colour='grey', clean_threshold=-1)['inputs']
    assert out.shape == (1, 9, 9, 1)
    np.testing.assert_allclose(out[0, ..., 0] * 255, grey, atol=0.51)
    grey[grey <= 100] = 255  # the paper's line
    cleaned = white_blood_cell.preprocess(
        {'inputs': jnp.array(picture)}, colour='grey', clean_threshold=100)['inputs']
    np.testing.assert_allclose(cleaned[0, ..., 0] * 255, grey, atol=0.51)
    rgb = white_blood_cell.preprocess(
        {'inputs': jnp.array(picture)}, colour='rgb', clean_threshold=-1)['inputs']
    np.testing.assert_allclose(rgb * 255, picture, atol=1e-3)


@pytest.mark.parametrize('sweep', ['windows', 'crops'])
def test_a_dark_disc_is_found_at_its_place_in_a_large_smear(sweep):
    picture = np.full((70, 101, 3), 230, np.uint8)
    cell = disc((70, 101), (40, 60), 10)
    picture[cell] = 60
    task = make(sweep=sweep, crop_min_area_px=50)

    def apply(batch):  # a network that calls dark pixels cells
        return (batch['inputs'][..., :1] < 100).astype(jnp.float32)

    record = {'inputs': picture}
    finding = task.findings(record, task.infer(apply, record, batch_size=4))
    assert finding.row['count'] == 1
    assert finding.row['area_px'] == str(cell.sum())
    np.testing.assert_allclose(
        finding.details['cells'][0]['centroid_yx'], (40, 60), atol=0.01)
    np.testing.assert_array_equal(finding.pictures['masks'], np.where(cell, 255, 0))
    assert finding.pictures['overlays'].shape[2] == 3


@pytest.mark.parametrize('field, value', [
    ('colour', 'cmyk'), ('loss', 'hinge'), ('augment', 'x'), ('dtype', 'int8'),
    ('sweep', 'spiral'), ('num_classes', 7), ('tile', 333),
    ('overlap_px', 500), ('dropout', 1), ('threshold', 'high')])
def test_options_out_of_range_are_named(field, value):
    with pytest.raises(ConfigError, match=f'task.{field}: .*{value}'):
        make(**{field: value})


def test_an_option_that_does_not_exist_is_named():
    with pytest.raises(ConfigError, match="task white_blood_cell: .*'colr'"):
        make(colr='rgb')


def test_two_classes_train_on_cell_and_nucleus():
    records = list(make(num_classes=2).phantoms(count=2, seed=0))
    assert records[0]['targets'].shape == (32, 32, 2)
    assert all((r['targets'][..., 1] <= r['targets'][..., 0]).all() for r in records)
