"""Tests of jaxmed.ct.column."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxmed.ct import column
from jaxmed.ct.column import Box
from jaxmed.ct.path import Path

BOX = Box(front_mm=30, back_mm=20, half_width_mm=15)
SPACING = np.array([2.5, 0.8, 0.7])


def bent_path(count, *, height_mm=2.5):
    """A cord that swings by 8 mm to the back and 5 mm to the left."""
    z = np.arange(count) * height_mm
    centre_mm = np.stack([60 + 8 * np.sin(z / 40), 45 + 5 * np.cos(z / 50)], axis=1)
    return Path(centre_mm.astype(np.float32), np.ones(count), np.zeros(count, np.int8))


def ramp(shape, axis, step):
    values = np.arange(shape[axis]) * step
    values = values.reshape([-1 if a == axis else 1 for a in range(3)])
    return np.broadcast_to(values, shape).astype(np.int16)


def column_voxels(made):
    """Where each sample of a Column comes from, as its docstring says."""
    index = np.moveaxis(np.indices(made.values_hu.shape), 0, -1)
    return np.asarray(column.column_to_voxel(
        made.frame, made.first_mm + (index + 0.5) * made.pitch_mm))


@pytest.mark.parametrize('pixel_mm', [0.6, 1.0, 3.0])
@pytest.mark.parametrize('axis', [0, 1, 2])
def test_a_sample_holds_what_lies_where_the_map_says(axis, pixel_mm):
    """Volumes whose HU are their own indices times ten."""
    volume = ramp((70, 130, 110), axis, 10)
    frame = column.make_frame(bent_path(70), spacing_mm=SPACING)
    made = column.straighten(volume, frame, box=BOX, pixel_mm=pixel_mm)
    voxels = column_voxels(made)
    assert voxels.reshape(-1, 3)[:, 1:].min() > 2  # the box stays within the slices
    away = np.abs(made.values_hu / 10 - voxels[..., axis])
    inner = (voxels[..., 0] > 2) & (voxels[..., 0] < 67)
    assert away[inner].max() < 0.05
    assert away.max() < 0.3  # the mirror bends the ramp at the outermost slices


def test_the_column_begins_at_the_head_and_is_as_long_as_the_scan():
    volume = ramp((70, 130, 110), 0, 10)
    frame = column.make_frame(bent_path(70), spacing_mm=SPACING)
    made = column.straighten(volume, frame, box=BOX, pixel_mm=1.1)
    assert made.values_hu.shape == (159, 45, 27)  # 175, 50 and 30 mm over 1.1
    np.testing.assert_allclose(
        made.pitch_mm * made.values_hu.shape, [175, 50, 30], rtol=1e-6)
    assert np.all(np.diff(made.values_hu[:, 20, 10]) < 0)


def test_a_bent_cord_becomes_straight():
    d, h, w = np.indices((60, 150, 130))
    path = bent_path(60)
    away = np.hypot(h * 0.8 - path.centre_mm[d, 0], w * 0.7 - path.centre_mm[d, 1])
    volume = (1000 * np.exp(-(away / 4) ** 2)).astype(np.int16)
    frame = column.make_frame(path, spacing_mm=SPACING)
    made = column.straighten(volume, frame, box=BOX, pixel_mm=1.0)
    places = made.values_hu.reshape(len(made.values_hu), -1).argmax(1)
    y, x = np.unravel_index(places, made.values_hu.shape[1:])
    assert set(y) <= {29, 30} and set(x) <= {14, 15}  # 30 mm from the front, 15 aside
    assert made.values_hu.max(axis=(1, 2)).min() > 930


def test_slices_are_sampled_bilinearly():
    rng = np.random.default_rng(0)
    volume = rng.integers(-1000, 1500, (3, 160, 140)).astype(np.int16)
    path = bent_path(3)
    frame = column.make_frame(path, spacing_mm=SPACING)
    sampled = np.asarray(column.sample_slices(volume, frame, box=BOX, shape=(80, 60)))
    y = (np.arange(80) + 0.5) * 50 / 80 - 30
    x = (np.arange(60) + 0.5) * 30 / 60 - 15
    for d in range(3):
        places = np.meshgrid((path.centre_mm[d, 0] + y) / 0.8,
                             (path.centre_mm[d, 1] + x) / 0.7, indexing='ij')
        expected = ndimage.map_coordinates(volume[d].astype(float), places, order=1)
        np.testing.assert_allclose(sampled[d], expected, atol=0.1)
    assert not sampled[3:].any()


def test_beyond_the_scan_is_air():
    volume = np.full((4, 100, 60), 200, np.int16)
    path = bent_path(4)
    path.centre_mm[:] = [5, 21]  # a box of 30 mm in a slice of 42, 25 mm too high
    path.centre_mm[3] = [900, -500]
    frame = column.make_frame(path, spacing_mm=SPACING)
    sampled = np.asarray(column.sample_slices(volume, frame, box=BOX, shape=(50, 30)))
    np.testing.assert_allclose(sampled[:3, :24], -1024, rtol=1e-5)
    np.testing.assert_allclose(sampled[:3, 26:], 200, rtol=1e-5)
    np.testing.assert_allclose(sampled[3], -1024, rtol=1e-5)


def test_air_around_the_scan_changes_nothing():
    volume = np.random.default_rng(1).integers(-900, 900, (40, 150, 130))
    volume = volume.astype(np.int16)
    path = bent_path(40)
    frame = column.make_frame(path, spacing_mm=SPACING)
    expected = column.straighten(volume, frame, box=BOX, pixel_mm=1.0)
    wider = np.pad(volume, ((0, 0), (20, 40), (10, 0)), constant_values=-1024)
    moved = path._replace(
        centre_mm=path.centre_mm + np.array([16, 7], np.float32))
    frame = column.make_frame(moved, spacing_mm=SPACING)
    actual = column.straighten(wider, frame, box=BOX, pixel_mm=1.0)
    np.testing.assert_allclose(actual.values_hu, expected.values_hu, atol=0.5)


@pytest.mark.parametrize('ratio', [0.3, 1.0, 1.003, 1.2, 2.0, 3.7])
def test_weights_keep_every_ramp(ratio):
    centres = jnp.linspace(10, 20, 33)
    weights = np.asarray(column.linear_weights(centres, ratio, size=40))
    np.testing.assert_allclose(weights.sum(1), 1, atol=2e-5)
    np.testing.assert_allclose(weights @ np.arange(40), centres, atol=5e-4)
    assert weights.min() >= 0
    # As wide as a triangle of half-width `ratio`, which has variance ratio^2 / 6; a
    # place between two pixels is spread over both, and that adds up to 1/4.
    offsets = np.arange(40) - np.asarray(centres)[:, None]
    spread = (weights * offsets ** 2).sum(1).mean()
    assert abs(spread - max(ratio, 1) ** 2 / 6) < 0.03


def test_a_shrunken_slice_does_not_show_single_pixels():
    board = (np.indices((128, 128)).sum(0) % 2 * 1000).astype(np.int16)[None]
    path = bent_path(1)
    frame = column.make_frame(path, spacing_mm=(2.5, 0.8, 0.8))
    sampled = column.sample_slices(board, frame, box=BOX, shape=(25, 15))
    np.testing.assert_allclose(sampled[0], 500, atol=25)


def test_the_maps_are_inverse_to_each_other():
    frame = column.make_frame(bent_path(70), spacing_mm=SPACING)
    voxels = np.random.default_rng(0).uniform(-3, 75, (200, 3)).astype(np.float32)
    back = column.column_to_voxel(frame, column.voxel_to_column(frame, voxels))
    np.testing.assert_allclose(back, voxels, atol=1e-3)


def test_the_map_by_hand():
    """Ten slices of 4 mm; the middle of slice 7 lies 10 mm below the top's edge."""
    path = Path(np.tile(np.float32([40, 30]), (10, 1)), np.ones(10), np.zeros(10))
    frame = column.make_frame(path, spacing_mm=(4, 0.5, 2))
    np.testing.assert_allclose(
        column.column_to_voxel(frame, np.float32([10, -20, 6])), [7, 40, 18])
    assert column.corner_mm(BOX).tolist() == [0, -30, -15]


def test_patient_millimetres_follow_the_affine():
    turned = np.array([[0, 0.1, 0.7, -100], [0.2, 0.8, 0, -2000], [2.5, 0, 0, 900],
                       [0, 0, 0, 1.0]])
    np.testing.assert_allclose(
        column.voxel_to_patient(turned, [2, 10, 20]), [-85, -1991.6, 905])
    voxels = np.random.default_rng(0).uniform(0, 500, (50, 3))
    back = column.patient_to_voxel(turned, column.voxel_to_patient(turned, voxels))
    np.testing.assert_allclose(back, voxels, atol=1e-9)


def test_scans_of_a_bucket_share_one_program():
    """Other counts of slices, other pixels, other fields of view."""
    before = column._sample_block._cache_size()
    rows = column._resample_rows._cache_size()
    for shape, spacing in [((70, 130, 110), (2.5, 0.8, 0.7)),
                           ((90, 200, 150), (2.0, 0.75, 0.75))]:
        frame = column.make_frame(bent_path(shape[0]), spacing_mm=spacing)
        volume = np.zeros(shape, np.int16)
        column.straighten(volume, frame, box=Box(31, 20, 16), pixel_mm=1.0)
    assert column._sample_block._cache_size() == before + 1
    assert column._resample_rows._cache_size() == rows + 1


@pytest.mark.parametrize('volume', [
    np.zeros((5, 9, 9), np.float32), np.zeros((6, 9, 9), np.int16),
    np.zeros((9, 9), np.int16)])
def test_a_volume_that_is_not_the_paths_is_refused(volume):
    frame = column.make_frame(bent_path(5), spacing_mm=SPACING)
    with pytest.raises(ValueError, match='with the 5 slices of the path'):
        column.straighten(volume, frame, box=BOX, pixel_mm=1.0)


def test_a_path_or_spacing_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match='above 0'):
        column.make_frame(bent_path(5), spacing_mm=(1, 0, 1))
    path = bent_path(5)
    path.centre_mm[2] = np.nan
    with pytest.raises(ValueError, match='not finite'):
        column.make_frame(path, spacing_mm=SPACING)
    with pytest.raises(ValueError, match='is empty'):
        column.straighten(
            np.zeros((5, 9, 9), np.int16),
            column.make_frame(bent_path(5), spacing_mm=SPACING),
            box=Box(10, -10, 5), pixel_mm=1.0)


def test_geometry_passes_through_jit():
    frame = column.make_frame(bent_path(70), spacing_mm=SPACING)
    point = np.float32([10, 0, 0])
    inside = jax.jit(lambda f: column.column_to_voxel(f, point))(frame)
    np.testing.assert_allclose(inside, column.column_to_voxel(frame, point), rtol=1e-6)
