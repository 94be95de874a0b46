"""Tests of jaxmed.ct.patches."""

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from jaxmed.ct import column, patches
from jaxmed.ct.column import Box
from jaxmed.ct.path import Path, PathRules, trace_path

BOX = Box(front_mm=30, back_mm=20, half_width_mm=15)
TILING = patches.Tiling(
    height_mm=40.0, shape=(20, 16, 12), pixel_mm=1.0, window_centre_hu=370.0,
    window_width_hu=840.0)
# A window in which no index times ten is clipped: HU = 4000 * value - 1000.
OPEN = TILING._replace(window_centre_hu=1000.0, window_width_hu=4000.0)


def bent_path(count, *, height_mm):
    z = np.arange(count) * height_mm
    centre_mm = np.stack([60 + 8 * np.sin(z / 40), 45 + 5 * np.cos(z / 50)], axis=1)
    return Path(centre_mm.astype(np.float32), np.ones(count), np.zeros(count, np.int8))


def cut(volume, spacing, *, tiling=TILING, box=BOX):
    frame = column.make_frame(
        bent_path(len(volume), height_mm=spacing[0]), spacing_mm=spacing)
    return patches.cut_patches(volume, frame, box=box, tiling=tiling)


def places_of(made):
    """All patch voxels: numbers [n] and places [n, 3], without fillers."""
    count = int(np.sum(made.mask))
    index = np.indices((count, *made.values.shape[1:4])).reshape(4, -1).T
    return index[:, 0], index[:, 1:].astype(np.float32)


@pytest.mark.parametrize('shape, spacing', [
    ((70, 160, 150), (2.5, 0.8, 0.7)), ((40, 60, 50), (5.0, 2.0, 2.2)),
    ((200, 190, 170), (0.7, 0.6, 0.6))])
@pytest.mark.parametrize('axis', [0, 1, 2])
def test_a_patch_voxel_holds_what_lies_where_the_map_says(shape, spacing, axis):
    """Volumes whose HU are their own indices times ten."""
    index = np.indices(shape)[axis] * 10
    made = cut(index.astype(np.int16), spacing, tiling=OPEN)
    numbers, places = places_of(made)
    voxels = np.asarray(patches.patch_to_voxel(made, numbers, places))
    values = np.asarray(made.values)[: numbers.max() + 1].ravel() * 4000 - 1000
    away = np.abs(values / 10 - voxels[:, axis])
    assert voxels[:, 1:].min() > 1  # the box stays within the slices
    inner = (voxels[:, 0] > 2) & (voxels[:, 0] < shape[0] - 3)
    assert away[inner].max() < 0.1
    assert away.max() < 0.5


# The file's axes as columns: a head-first supine scan, a feet-first one, a sagittal
# acquisition and a tilted gantry.
@pytest.mark.parametrize('directions', [
    np.eye(3), np.diag([-1, -1, 1]), [[0, 0, 1], [0, 1, 0], [-1, 0, 0]],
    [[1, 0, 0], [0, 0.9, -0.43589], [0, 0.43589, 0.9]]])
@pytest.mark.parametrize('spacing', [(2.5, 0.8, 0.7), (0.7, 0.6, 0.6)])
def test_patch_voxels_return_from_the_patient(directions, spacing):
    made = cut(np.zeros((90, 20, 20), np.int16), spacing)
    affine = np.eye(4)
    affine[:3, :3] = np.array(directions)[:, ::-1] * spacing
    affine[:3, 3] = [-180, -2200, 1400]
    numbers, places = places_of(made)
    in_patient = column.voxel_to_patient(
        affine, patches.patch_to_voxel(made, numbers, places))
    voxels = column.patient_to_voxel(affine, in_patient).astype(np.float32)
    again, back, inside = patches.voxel_to_patch(made, voxels)
    assert np.all(inside)
    # Where patches overlap, a voxel may return to the neighbour: same place there.
    same = np.asarray(again) == numbers
    assert same.mean() > 0.7
    np.testing.assert_allclose(np.asarray(back)[same], places[same], atol=0.01)
    there = patches.patch_to_voxel(made, again, back)
    np.testing.assert_allclose(there, voxels, atol=0.01)


@pytest.mark.parametrize('count, spacing', [
    (16, 2.5), (17, 2.5), (70, 2.5), (300, 0.7), (40, 5.0), (33, 3.7)])
def test_patches_tile_the_column_with_as_few_as_possible(count, spacing):
    length_mm = count * spacing
    made = cut(np.zeros((count, 9, 9), np.int16), (spacing, 0.8, 0.7))
    wanted = int(np.ceil(length_mm / 40))
    assert made.mask.tolist() == [1] * wanted + [0] * (-wanted % 4)
    starts = np.asarray(made.first_mm)[:wanted, 0]
    assert starts[0] == 0
    if wanted > 1:
        assert starts[-1] + 40 == pytest.approx(length_mm, abs=1e-3)
        steps = np.diff(starts)
        np.testing.assert_allclose(steps, steps[0], atol=1e-3)
        assert steps[0] <= 40.001
    position = np.asarray(made.position)
    np.testing.assert_allclose(
        position[:wanted], (starts + min(40, length_mm) / 2) / length_mm, rtol=1e-5)
    assert not position[wanted:].any()
    # Every height of the scan, to the outer edges of its slices, is in a patch.
    d = np.linspace(-0.5, count - 0.5, 500, dtype=np.float32)
    points = np.stack([(count - 0.5 - d) * spacing, d * 0, d * 0], axis=1)
    _, _, inside = patches.voxel_to_patch(
        made, column.column_to_voxel(made.frame, points.astype(np.float32)))
    assert np.all(inside)


def test_a_short_scan_is_one_patch_with_air_below():
    volume = np.full((10, 160, 150), 790, np.int16)  # 25 of 40 mm
    made = cut(volume, (2.5, 0.8, 0.7))
    assert made.mask.tolist() == [1, 0, 0, 0]
    assert made.position[0] == 0.5
    values = np.asarray(made.values[0, ..., 0])
    np.testing.assert_allclose(values[:12], 1, atol=1e-5)  # rows of 2 mm: 24 mm
    assert not values[13:].any()
    _, _, inside = patches.voxel_to_patch(made, np.float32([[-3, 75, 64]]))
    assert np.all(inside)  # 7.5 mm below the scan's last slice: air of the patch


def test_a_narrow_or_low_scan_is_air_elsewhere():
    made = cut(np.full((16, 75, 150), 790, np.int16), (2.5, 0.8, 0.7))
    numbers, places = places_of(made)
    h = np.asarray(patches.patch_to_voxel(made, numbers, places))[:, 1]
    values = np.asarray(made.values)[0].ravel()
    assert h.max() > 80  # of 75 rows
    assert not values[h > 78].any()
    # The edge moves from slice to slice with the cord, and rings along the column.
    np.testing.assert_allclose(values[h < 71], 1, atol=2e-3)


@pytest.mark.parametrize('hu, value', [
    (-1024, 0), (-50, 0), (160, 0.25), (370, 0.5), (790, 1), (3071, 1)])
def test_the_window_of_the_paper(hu, value):
    made = cut(np.full((70, 160, 150), hu, np.int16), (2.5, 0.8, 0.7))
    assert made.values.shape == (8, 20, 16, 12, 1)  # 175 mm in patches of 40: 5
    np.testing.assert_allclose(np.asarray(made.values)[:5], value, atol=1e-5)
    assert not np.asarray(made.values)[5:].any()


def test_slices_of_other_thickness_show_the_same():
    """A body 2 mm a slice, and 4 mm a slice after averaging pairs."""
    d, h, w = np.indices((100, 160, 150))
    fine = 300 + 200 * np.cos(2 * np.pi * (d + 0.5) / 20) * (w < 64)
    thick = fine.reshape(50, 2, 160, 150).mean(1)
    path = bent_path(100, height_mm=2.0)
    pairs = path.centre_mm.reshape(50, 2, 2).mean(1)
    made = [
        patches.cut_patches(
            volume.round().astype(np.int16),
            column.make_frame(path._replace(centre_mm=centre),
                              spacing_mm=(height, 0.8, 0.7)),
            box=BOX, tiling=TILING)
        for volume, centre, height in [
            (fine, path.centre_mm, 2.0), (thick, pairs, 4.0)]]
    np.testing.assert_allclose(made[0].values, made[1].values, atol=0.02)


def test_a_box_in_the_scan_holds_the_box_in_the_patch():
    made = cut(np.zeros((70, 20, 20), np.int16), (2.5, 0.8, 0.7))
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(0, [19, 15, 11], (2, 30, 3)), axis=0)
    corners = corners.astype(np.float32)
    numbers = rng.integers(0, 5, 30)
    low, high = patches.box_to_voxels(made, numbers, *corners)
    share = rng.uniform(0, 1, (400, 30, 3)).astype(np.float32)
    share[:8] = np.indices((2, 2, 2)).reshape(3, 8).T[:, None]
    places = corners[0] * (1 - share) + corners[1] * share
    voxels = np.asarray(patches.patch_to_voxel(
        made, np.broadcast_to(numbers, share.shape[:2]), places))
    assert np.all(voxels >= np.asarray(low) - 1e-3)
    assert np.all(voxels <= np.asarray(high) + 1e-3)
    # And not wider than the cord's swing makes it.
    np.testing.assert_allclose(voxels.min(0), low, atol=1)
    np.testing.assert_allclose(voxels.max(0), high, atol=1)


def test_a_box_by_hand():
    """An upright cord: 4 rows of 2 mm are 3.2 slices of 2.5 mm."""
    path = Path(np.tile(np.float32([60, 45]), (70, 1)), np.ones(70), np.zeros(70))
    made = patches.cut_patches(
        np.zeros((70, 20, 20), np.int16),
        column.make_frame(path, spacing_mm=(2.5, 0.8, 0.5)), box=BOX, tiling=TILING)
    low, high = patches.box_to_voxels(
        made, np.array([0]), np.float32([[-0.5, -0.5, -0.5]]),
        np.float32([[3.5, 15.5, 11.5]]))
    # 60 - 30 to 60 + 20 mm at 0.8, 45 -+ 15 mm at 0.5.
    np.testing.assert_allclose(low, [[69.5 - 3.2, 37.5, 60]], atol=1e-3)
    np.testing.assert_allclose(high, [[69.5, 100, 120]], atol=1e-3)


def test_scans_of_a_bucket_share_one_program():
    """80 and 93 slices of different size: other counts, same programs."""
    tiling = TILING._replace(shape=(18, 16, 12))
    before = patches._tile._cache_size()
    for shape, spacing in [((80, 130, 110), (2.5, 0.8, 0.7)),
                           ((93, 200, 150), (2.4, 0.9, 0.9))]:
        made = cut(np.zeros(shape, np.int16), spacing, tiling=tiling)
        _ = patches.voxel_to_patch(made, np.zeros((4, 3), np.float32))
    assert made.mask.tolist() == [1] * 6 + [0] * 2
    assert patches._tile._cache_size() == before + 1


def read(path):
    image = sitk.DICOMOrient(sitk.ReadImage(str(path)), 'LPS')
    return sitk.GetArrayFromImage(image), np.array(image.GetSpacing())[::-1]


def canal_path(vertebrae, spacing, rules):
    """The canal's middle where a slice's bone encloses it."""
    slices, centres = [], []
    for d, bone in enumerate(vertebrae > 0):
        holes = ndimage.binary_fill_holes(bone) & ~bone
        regions, _ = ndimage.label(holes)
        areas = np.bincount(regions.ravel())[1:] * spacing[1] * spacing[2]
        if areas.size and areas.max() > 60:  # mm2; a canal has 200 and more
            slices.append(d)
            middle = ndimage.center_of_mass(regions == 1 + areas.argmax())
            centres.append(middle * spacing[1:])
    return trace_path(
        slices, centres, np.ones(len(slices)), num_slices=len(vertebrae),
        spacing_mm=spacing, where='mask', rules=rules)


@pytest.mark.parametrize('vertebrae, bodies, labels', [
    ('totalsegmentator/example_seg-totalseg_vertebrae.nii.gz',
     'totalsegmentator/example_seg-vertebral_bodies.nii.gz', range(27, 34)),
    ('verse004/sub-verse004_seg-vert_msk.nii.gz', None, range(16, 25))])
def test_patches_cover_every_vertebra(sample_data, vertebrae, bodies, labels):
    mask, spacing = read(sample_data / 'ct' / vertebrae)
    mask = np.where(np.isin(mask, list(labels)), mask, 0)
    rules = PathRules(
        min_confidence=0.5, tolerance_mm=8, max_slope=0.8, max_jump_mm=40,
        extrapolate_mm=30)
    frame = column.make_frame(canal_path(mask, spacing, rules), spacing_mm=spacing)
    bone = np.where(mask > 0, 1000, -1000).astype(np.int16)
    tiling = TILING._replace(
        height_mm=80.0, shape=(64, 64, 64), window_centre_hu=0.0,
        window_width_hu=2000.0)
    made = patches.cut_patches(bone, frame, box=Box(60, 60, 60), tiling=tiling)
    if bodies:
        mask = np.maximum(mask, read(sample_data / 'ct' / bodies)[0])
    voxels = np.argwhere(mask > 0).astype(np.float32)
    numbers, places, inside = map(
        np.asarray, patches.voxel_to_patch(made, voxels))
    assert len(voxels) > 10_000
    assert inside.all()
    # Not only by the map: the patch shows bone there. Thin bone is blurred.
    i, j, k = places.round().astype(int).clip(0, 63).T
    shown = np.asarray(made.values)[numbers, i, j, k, 0]
    assert (shown > 0.5).mean() > 0.95
    assert (shown > 0.2).mean() > 0.99
