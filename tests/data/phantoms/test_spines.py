import subprocess
import sys

import numpy as np
import pytest

from jaxmed.ct import column
from jaxmed.ct.column import Box
from jaxmed.ct.path import DETECTED, Path
from jaxmed.data.phantoms import ct, ct_column, ct_scanner, spines
from jaxmed.errors import ConfigError

_CUT = dict(
    height_mm=40.0, context_mm=0.0, shape=(32, 32, 24), pixel_mm=1.0, num_patches=20)
_BODIES = Box(50, 10, 25)


def settings_of(**changes):
    return ct_column.Settings(**dict(
        seed=0, off_mm=1.0, front_mm=50.0, back_mm=10.0, half_width_mm=25.0,
        pitch_mm=1.9, min_grade=1, fractured=None, spacing_mm=None, noise=1.0,
    ) | changes)


_SMALL = settings_of(
    seed=4, spacing_mm=9.0, front_mm=12.0, back_mm=4.0, half_width_mm=6.0, pitch_mm=4.0)


def draw_records(count, **changes):
    options = dict(seed=3, off_mm=1.0, box=_BODIES, min_grade=1, **_CUT) | changes
    return list(spines.records(count=count, **options))


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


@pytest.fixture
def processes(monkeypatch):
    """Those that were started, as if there were two cores."""
    monkeypatch.setattr(ct_column, '_count_cores', lambda: 2)
    started, start = [], ct_column._start

    def watch(*args):
        started.extend(start(*args))
        return started

    monkeypatch.setattr(ct_column, '_start', watch)
    yield started
    assert all(process.poll() is not None for process in started)  # none is left


def test_scans_are_the_same_bytes_whichever_process_draws_them(processes):
    by_processes = list(ct_column.draw_scans(_SMALL, 8))
    assert len(processes) == 2
    for number in (0, 3, 6, 7):
        here = ct_column.draw_scan(_SMALL, number)
        assert_same(by_processes[number]._asdict(), here._asdict())


@pytest.mark.parametrize('dead', [1, 2])
def test_scans_of_processes_that_die_are_drawn_all_the_same(processes, dead):
    scans = ct_column.draw_scans(_SMALL, 8)
    drawn = [next(scans)]
    for process in processes[:dead]:
        process.kill()
    drawn.extend(scans)
    for number, scan in enumerate(drawn):
        patient, scanner, *_ = ct_column._choose(_SMALL, number)
        assert scan.heights_mm[0] == ct.scan_range(patient, scanner)[0]


def test_no_process_is_left_behind_by_who_stops_early(processes):
    scans = ct_column.draw_scans(_SMALL, 50)
    next(scans)
    scans.close()
    assert len(processes) == 2  # the fixture looks whether they have ended


def test_scans_are_drawn_here_where_no_process_can_be_started(processes, monkeypatch):
    monkeypatch.setattr(sys, 'executable', '/nowhere/python')
    assert len(list(ct_column.draw_scans(_SMALL, 8))) == 8
    assert not processes


def test_what_draws_does_not_import_jax():
    code = ('import sys; from jaxmed.data.phantoms import ct_column; '
            'sys.exit("jax" in sys.modules)')
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0


def test_records_tell_what_was_drawn():
    for number, record in enumerate(draw_records(3, spacing_mm=3.0)):
        drawn = ct_column.draw_scan(
            settings_of(seed=3, pitch_mm=1.875, spacing_mm=3.0), number)
        broken = drawn.vertebrae[drawn.vertebrae[:, 1] > 0]
        assert record['targets'][0] == bool(len(broken))
        low, high = record['span_mm'].min(axis=1), record['span_mm'].max(axis=1)
        for k in np.flatnonzero(record['patch_mask']):
            inside = (low[k] <= broken[:, 0]) & (broken[:, 0] <= high[k])
            assert record['targets'][1 + k] == inside.any()
            assert record['grade'][k] == max(broken[inside, 2], default=0)
        assert np.isnan(record['targets'][1:][record['patch_mask'] == 0]).all()
        step = drawn.heights_mm[1] - drawn.heights_mm[0]
        np.testing.assert_allclose(record['slice_mm'], step, rtol=1e-5)
        # The spine's ends, to half a slice.
        np.testing.assert_allclose(
            [high.max(), low[record['patch_mask'] > 0].min()],
            [drawn.heights_mm[-1] + step / 2, drawn.heights_mm[0] - step / 2],
            atol=0.05)


def test_the_share_of_fractured_scans_is_as_asked_for():
    for share in (0.0, 0.45, 1.0):
        settings = settings_of(fractured=share)
        broken = [ct_column._choose(settings, n)[3][:, 1].any() for n in range(60)]
        # Four deviations of 60 draws.
        assert abs(np.mean(broken) - share) <= 4 * np.sqrt(share * (1 - share) / 60)


def test_a_share_of_fractures_that_nobody_has_is_an_error(monkeypatch):
    monkeypatch.setattr(ct_column, '_TRIES', 3)
    with pytest.raises(ConfigError, match='no patient in 3 of the fractured ones'):
        draw_records(1, fractured=1.0, min_grade=4)


def test_a_set_may_have_other_slices_and_no_noise():
    thick, = draw_records(1, spacing_mm=4.0, noise=0.0)
    assert thick['slice_mm'] == 4
    scanners = [ct_column._choose(settings_of(), n)[1] for n in range(30)]
    spacings = {scanner.spacing_mm for scanner in scanners}
    assert min(spacings) == 1.25 and max(spacings) == 5


@pytest.mark.parametrize('box', [_BODIES, Box(60, 60, 60)])
def test_the_canal_is_where_the_path_says_and_bodies_are_before_it(box):
    record, = draw_records(1, box=box, off_mm=0.0, noise=0.0, spacing_mm=4.0)
    count, pitch = int(record['patch_mask'].sum()), record['pitch_mm']
    # The window holds the box; beside gas a sharp kernel may fall as low.
    assert (record['inputs'][:count] == -1024).mean() < 1e-4
    middle = record['inputs'][:count, :, :, 11:13].mean(axis=3)
    at = int(box.front_mm / pitch[1])
    canal, bodies = middle[:, :, at], middle[:, :, int((box.front_mm - 25) / pitch[1])]
    assert -130 < np.median(canal) < 90
    assert np.percentile(bodies, 75) > np.median(canal) + 60


@pytest.mark.parametrize('levels', [(11.0, 14.0), (20.0, 22.5)])
def test_a_column_is_what_single_slices_show(levels):
    patient, scanner, _, _ = ct_column._choose(settings_of(), 6)
    scanner = scanner._replace(
        noise_hu=0.0, thickness_mm=1.0, spacing_mm=2.0, metal='',
        levels=levels, angles=np.array([5.0, -9.0, 8.0]))
    low, high = ct.scan_range(patient, scanner)
    heights = np.arange(low, high + 1e-6, 2.0)
    origins = ct.canal_centres(patient, scanner, heights) - [30, 46]
    np.testing.assert_allclose(
        origins[7] + [30, 46], ct.canal_centre(patient, scanner, heights[7]), atol=1e-3)
    grid = dict(shape=(75, 50), spacing_mm=1.2)
    column_hu = ct.render_column(patient, scanner, heights, origins, **grid)
    for d in range(0, len(heights), 4):
        drawn = ct.render_slice(
            patient, scanner, heights[d], origin_mm=origins[d], **grid)
        away = np.abs(column_hu[d].astype(float) - drawn.image_hu)
        bone = (drawn.labels > 0) & (drawn.labels < ct.CANAL)
        assert bone.sum() > 200
        # The same arithmetic in single precision; soft tissue is interpolated.
        assert np.median(away[bone]) < 2 and np.percentile(away[bone], 95) < 20
        assert away[drawn.labels == ct.CANAL].max(initial=0) < 20


def test_a_patch_voxel_is_as_noisy_as_on_the_pixels_of_a_scanner():
    scanner = ct.draw_scanner(np.random.default_rng(0))._replace(
        noise_hu=20.0, sharpening=0.3, streaks=0.0, gain=1.0, blur_mm=0.5)
    box, deviations = Box(24, 24, 24), []
    for spacing in (0.7, 1.2):
        side = int(48 / spacing) + 10
        images = np.zeros((24, side, side), np.float32)
        if spacing == 0.7:
            rng = np.random.default_rng(1)
            noisy = np.stack([
                ct_scanner.reconstruct(rng, i, scanner, spacing) for i in images])
        else:
            noisy = ct_scanner.reconstruct_column(
                np.random.default_rng(1), images, scanner, spacing, np.zeros(24))
        path = Path(np.full((24, 2), (side - 1) / 2 * spacing, np.float32),
                    np.ones(24, np.float32), np.full(24, DETECTED, np.int8))
        frame = column.make_frame(path, spacing_mm=[2.0, spacing, spacing])
        cut = column.sample_slices(noisy, frame, box=box, shape=(24, 24))
        deviations.append(np.asarray(cut)[:24].std())
    np.testing.assert_allclose(deviations[1], deviations[0], rtol=0.1)


def test_rays_through_more_water_leave_more_noise():
    scanner = ct.draw_scanner(np.random.default_rng(0))._replace(
        noise_hu=20.0, sharpening=0.0, streaks=1.0)
    images = np.zeros((40, 40, 40), np.float32)
    shadow_mm = np.repeat([150.0, 450.0], 20)
    noisy = ct_scanner.reconstruct_column(
        np.random.default_rng(1), images, scanner, 1.2, shadow_mm)
    assert noisy[20:].std() > 1.5 * noisy[:20].std()
