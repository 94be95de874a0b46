import functools

import numpy as np
import pytest

from jaxmed.data.phantoms import ct, ct_anatomy, ct_shapes, ct_spine

_STRAIGHT = {'angles': np.zeros(3), 'metal': '', 'padding': None}


def patient_with(seed, found):
    """The first patient from `seed` on in whose vertebrae `found` sees something."""
    for number in range(seed, seed + 400):
        patient = ct.draw_patient(np.random.default_rng(number))
        for i in range(ct_anatomy.T1 - ct_anatomy.TOP, ct_anatomy.S1 - ct_anatomy.TOP):
            if found(patient.spine, i):
                return patient, i
    raise AssertionError('no such patient')


@functools.cache
def whole_scan(seed):
    rng = np.random.default_rng(seed)
    patient, scanner = ct.draw_patient(rng), ct.draw_scanner(rng)
    scanner = scanner._replace(
        levels=(7.0, 25.0), spacing_mm=5.0, thickness_mm=2.0, shape=(150, 150),
        field_mm=375.0, metal='', noise_hu=5.0)
    return patient, scanner, ct.render_volume(patient, scanner)


def measured_heights(patient, i):
    """Heights in front, in the middle and at the back of one body, from its mask."""
    spine = patient.spine
    centre, axes = spine.centre_mm[i], spine.axes[i]
    scanner = ct.draw_scanner(np.random.default_rng(0))._replace(
        **_STRAIGHT, shift_mm=np.zeros(3), noise_hu=0.0, sharpening=0.0)
    step, side, fine = 0.5, 90, 0.4
    origin = centre[:2] - side / 2 * step
    reach = 0.5 * spine.height[i] + 0.5 * spine.half_depth[i] + 3
    heights = np.arange(centre[2] - reach, centre[2] + reach, fine)
    labels = np.stack([ct.render_slice(
        patient, scanner, z, shape=(side, side), spacing_mm=step, origin_mm=origin,
    ).labels for z in heights])
    up = np.arange(-0.75, 0.75, 0.005) * spine.height[i]
    found = []
    for back in (-0.85, -0.1, 0.65):
        line = centre + back * spine.half_depth[i] * axes[1] + up[:, None] * axes[2]
        d = np.rint((line[:, 2] - heights[0]) / fine).astype(int)
        h = np.rint((line[:, 1] - origin[1]) / step).astype(int)
        w = np.rint((line[:, 0] - origin[0]) / step).astype(int)
        inside = labels[d.clip(0, len(labels) - 1), h, w] == i + ct_anatomy.TOP
        found.append(inside.sum() * (up[1] - up[0]))
    return np.array(found)


def test_the_same_seed_draws_the_same_bytes():
    drawn = []
    for _ in range(2):
        rng = np.random.default_rng(5)
        patient, scanner = ct.draw_patient(rng), ct.draw_scanner(rng)
        low, high = ct.scan_range(patient, scanner)
        grid = ct.field_of_view(patient, scanner)
        drawn.append(ct.render_slice(
            patient, scanner, (low + high) / 2, shape=(64, 64), spacing_mm=6.0,
            origin_mm=grid.origin_mm))
    assert drawn[0].image_hu.tobytes() == drawn[1].image_hu.tobytes()
    assert drawn[0].box == drawn[1].box


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_the_canal_is_darker_than_the_bone_around_it(seed):
    _, _, scan = whole_scan(seed)
    canal = scan.volume.volume_hu[scan.labels == ct.CANAL]
    bone = scan.volume.volume_hu[(scan.labels > 0) & (scan.labels < ct.CANAL)]
    assert -130 < np.median(canal) < 90
    assert np.median(bone) > np.median(canal) + 60


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_the_middle_of_the_canal_lies_in_its_label_in_every_slice(seed):
    _, _, scan = whole_scan(seed)
    voxels = np.linalg.inv(scan.volume.affine) @ np.vstack(
        [scan.cord_mm.T, np.ones(len(scan.cord_mm))])
    d, h, w = np.rint(voxels[:3]).astype(int)
    np.testing.assert_array_equal(d, np.arange(len(scan.labels)))
    assert np.all(scan.labels[d, h, w] == ct.CANAL)


def test_the_box_of_a_slice_bounds_the_label_of_the_canal():
    patient, scanner, _ = whole_scan(1)
    low, high = ct.scan_range(patient, scanner)
    grid = ct.field_of_view(patient, scanner)
    for z in np.linspace(low, high, 5):
        drawn = ct.render_slice(patient, scanner, z, **grid._asdict())
        rows, columns = np.nonzero(drawn.labels == ct.CANAL)
        # Pixels count by their middles: the label may end up to one pixel earlier.
        want = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        np.testing.assert_allclose(drawn.box, want, atol=1.0)


def test_a_slice_is_the_volume_at_its_height():
    patient, scanner, scan = whole_scan(2)
    grid = ct.field_of_view(patient, scanner)
    for d in (3, 40):
        z = (scan.volume.affine @ [d, 0, 0, 1])[2]
        drawn = ct.render_slice(patient, scanner, z, **grid._asdict())
        np.testing.assert_array_equal(drawn.image_hu, scan.volume.volume_hu[d])
        np.testing.assert_array_equal(drawn.labels, scan.labels[d])
        np.testing.assert_allclose(drawn.centre_mm, scan.cord_mm[d])


def test_the_canal_of_a_slice_does_not_depend_on_its_pixels():
    patient, scanner, scan = whole_scan(0)
    z = scan.cord_mm[30, 2]
    x, y = scan.cord_mm[30, :2]
    for spacing, side in ((0.7, 160), (2.0, 90)):
        drawn = ct.render_slice(patient, scanner, z, shape=(side, side),
                                spacing_mm=spacing, origin_mm=(x - 50, y - 60))
        np.testing.assert_allclose(drawn.centre_mm, scan.cord_mm[30])
        width = (drawn.box[2] - drawn.box[0]) * spacing
        middle = (drawn.box[0] + drawn.box[2]) / 2  # pixel 0 reaches from 0 to 1
        np.testing.assert_allclose((middle - 0.5) * spacing, 50, atol=1e-3)
        assert 11 < width < 40


def test_labels_follow_each_other_from_head_to_feet():
    _, _, scan = whole_scan(0)
    assert [v.label for v in scan.vertebrae] == list(range(8, 25))
    assert [v.level for v in scan.vertebrae][::16] == ['T1', 'L5']
    middle = np.array([v.centre_mm for v in scan.vertebrae])
    assert np.all(np.diff(middle[:, 2]) < 0)
    to_voxel = np.linalg.inv(scan.volume.affine)
    for vertebra in scan.vertebrae:
        d, h, w, _ = np.rint(to_voxel @ [*vertebra.centre_mm, 1]).astype(int)
        near = scan.labels[max(d - 1, 0):d + 2, h, w]
        assert vertebra.label in near, vertebra.level


@pytest.mark.parametrize('seed', [0, 1, 2, 3])
def test_parts_of_a_vertebra_lie_in_their_boxes(seed):
    patient = ct.draw_patient(np.random.default_rng(seed))
    spine, edge, found = patient.spine, 1.5, 0
    for i in range(0, len(spine.height), 2):
        centre = spine.centre_mm[i]
        matrices = np.zeros((40, 3, 3))
        matrices[:] = [[2.5, 0, centre[0] - 80], [0, 2.5, centre[1] - 40], [0, 0, 0]]
        matrices[:, 2, 2] = centre[2] + np.linspace(-70, 40, 40)
        stack = ct_shapes.make_stack(patient, matrices, (60, 64), edge_mm=edge)
        canal = ct_spine.canal_distance(stack)
        *frame, _ = ct_spine._frame(stack, i)
        ends = ct_spine._endplates(stack, i, *frame)
        for low, high, shape in ct_spine._parts(stack, i, canal):
            seen = np.maximum(shape(*frame, canal, ends), -canal) < edge / 2
            found += seen.any()
            for values, least, most in zip(frame, low, high):
                assert not seen.any() or least - edge <= values[seen].min()
                assert not seen.any() or values[seen].max() <= most + edge
    assert found > 50


@pytest.mark.parametrize('grade', [1, 2, 3])
def test_heights_measured_in_the_mask_have_the_drawn_grade(grade):
    patient, i = patient_with(0, lambda spine, i: spine.grade[i] == grade)
    spine = patient.spine
    heights = measured_heights(patient, i)
    want = spine.heights[i] - (0, 2 * spine.hollow[i], 0)
    np.testing.assert_allclose(heights, want, atol=0.7)
    loss = 1 - heights.min() / spine.height[i]
    low, high = {1: (0.2, 0.25), 2: (0.25, 0.4), 3: (0.4, 1.0)}[grade]
    assert low - 0.03 < loss < high + 0.03


@pytest.mark.parametrize('shape', ['wedge', 'biconcave', 'crush'])
def test_a_fracture_is_lowest_where_its_shape_says(shape):
    patient, i = patient_with(
        0, lambda spine, i: spine.shape[i] == shape and spine.grade[i] >= 2)
    front, middle, back = measured_heights(patient, i)
    if shape == 'wedge':
        assert front < middle < back
    elif shape == 'biconcave':
        assert middle < min(front, back) - 1
    else:
        assert np.ptp([front, middle, back]) < 0.1 * patient.spine.height[i]


@pytest.mark.parametrize('confounder', ['mild', 'schmorl', 'odd_l5'])
def test_confounders_have_no_grade(confounder):
    patient, i = patient_with(0, lambda spine, i: spine.confounder[i] == confounder)
    spine = patient.spine
    assert spine.grade[i] == 0
    loss = 1 - spine.heights[i].min() / spine.height[i]
    if confounder == 'mild':
        assert 0.05 < loss < 0.2
    elif confounder == 'odd_l5':
        assert i + ct_anatomy.TOP == 24 and np.argmin(spine.heights[i]) == 2
    else:
        assert loss < 0.12 and spine.schmorl[i, 2] > 0


def test_a_wedged_body_bends_the_spine_forward():
    patient, i = patient_with(
        0, lambda spine, i: spine.shape[i] == 'wedge' and spine.grade[i] == 3)
    spine = patient.spine
    up_above, up_below = spine.axes[i - 2, 2], spine.axes[i + 2, 2]
    assert up_above[1] < up_below[1]  # y runs to the back


def test_spacing_and_ends_are_as_the_scanner_says():
    rng = np.random.default_rng(3)
    patient, scanner = ct.draw_patient(rng), ct.draw_scanner(rng)
    scanner = scanner._replace(
        **_STRAIGHT, levels=(19.0, 20.0), spacing_mm=2.5, shape=(80, 100),
        field_mm=350.0)
    scan = ct.render_volume(patient, scanner)
    np.testing.assert_allclose(scan.volume.spacing_mm, [2.5, 3.5, 3.5])
    assert scan.volume.volume_hu.shape[1:] == (80, 100)
    # From the middle of L1 up to that of T12.
    heights = ct_anatomy.z_of_level(patient, np.array([20.0, 19.0]))
    heights = heights + scanner.shift_mm[2]
    low, high = scan.volume.affine[2, 3], scan.cord_mm[-1, 2]
    np.testing.assert_allclose(low, heights[0])
    assert heights[1] - 2.5 < high <= heights[1] + 1e-6
    assert set(np.unique(scan.labels)) >= {0, 19, 20, ct.CANAL}
    assert not any(v.in_scan for v in scan.vertebrae)


def test_drawn_numbers_are_plausible():
    ages, spans, canals, grades = [], [], [], []
    for seed in range(60):
        patient = ct.draw_patient(np.random.default_rng(seed))
        spine, table = patient.spine, patient.canal
        span = spine.centre_mm[8 - 5, 2] - spine.centre_mm[24 - 5, 2]
        spans.append(span)
        trunk = (table.level > 8) & (table.level < 24.5)
        canals.append([table.half_width[trunk].min(), table.half_width[trunk].max()])
        ages.append(patient.age)
        grades.append(spine.grade.max())
        assert np.all(np.diff(table.z_mm) > 0) and np.all(np.diff(table.level) < 0)
        assert np.all(np.isfinite(spine.centre_mm))
        frames = spine.axes @ np.swapaxes(spine.axes, 1, 2)
        np.testing.assert_allclose(frames, np.broadcast_to(np.eye(3), frames.shape),
                                   atol=1e-9)
    assert 280 < min(spans) and max(spans) < 620  # mm from T1 to L5
    canals = np.array(canals)
    assert 5 < canals[:, 0].min() and canals[:, 1].max() < 22
    assert 0.1 < np.mean(np.array(grades) > 0) < 0.9


def test_values_outside_the_circle_are_the_padding():
    rng = np.random.default_rng(4)
    patient, scanner = ct.draw_patient(rng), ct.draw_scanner(rng)
    scanner = scanner._replace(padding=-2000)
    low, high = ct.scan_range(patient, scanner)
    grid = ct.field_of_view(patient, scanner)
    image = ct.render_slice(
        patient, scanner, (low + high) / 2, shape=(64, 64),
        spacing_mm=scanner.field_mm / 64, origin_mm=grid.origin_mm).image_hu
    assert image[0, 0] == image[-1, -1] == -2000
    assert -1024 <= image[32, 32] <= 3071


def test_a_slice_without_the_canal_has_no_box():
    rng = np.random.default_rng(6)
    patient, scanner = ct.draw_patient(rng), ct.draw_scanner(rng)
    scanner = scanner._replace(levels=(8.0, 32.0))
    low, _ = ct.scan_range(patient, scanner)
    grid = ct.field_of_view(patient, scanner)
    drawn = ct.render_slice(patient, scanner, low, shape=(64, 64), spacing_mm=6.0,
                            origin_mm=grid.origin_mm)
    assert drawn.box is None and drawn.centre_mm is None
    assert not (drawn.labels == ct.CANAL).any()
