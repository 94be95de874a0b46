"""From files to patches: the same case whatever the format and the files' names."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from jaxmed.ct import column, patches, path
from jaxmed.data import volumes

LIMITS = dict(min_slices=10, max_voxels=2**26, memory_bytes=2**31, seconds=60.0)
BOX = column.Box(front_mm=60.0, back_mm=60.0, half_width_mm=60.0)
TILING = patches.Tiling(
    height_mm=15.0, shape=(16, 32, 24), pixel_mm=1.0, window_centre_hu=370.0,
    window_width_hu=840.0)


@pytest.fixture(scope='module')
def series():
    sample = os.environ.get('JAXMED_SAMPLE_DATA')
    if not sample:
        pytest.skip('JAXMED_SAMPLE_DATA is not set: no real scan')
    return Path(sample) / 'ct' / 'chest_dicom'


def cut(file):
    """The patches of a scan around a straight path that leans a little."""
    volume = volumes.read_volume(file, **LIMITS)
    depth, height, width = volume.volume_hu.shape
    share = np.linspace(0, 1, depth)[:, None]
    centre_mm = volume.spacing_mm[1:] * (
        (height / 2, width / 2) + share * (height / 20, width / 30))
    cord = path.Path(
        centre_mm.astype(np.float32), np.ones(depth, np.float32),
        np.zeros(depth, np.int8))
    frame = column.make_frame(cord, spacing_mm=volume.spacing_mm)
    return volume, patches.cut_patches(volume.volume_hu, frame, box=BOX, tiling=TILING)


def test_a_scan_gives_the_same_patches_as_dicom_and_as_nifti(series, tmp_path):
    files = sorted(series.iterdir())
    order = np.random.default_rng(0).permutation(len(files))
    backwards = range(len(files) - 1, -1, -1)
    for name, places in (('shuffled', order), ('reversed', backwards)):
        (tmp_path / name).mkdir()
        for number, place in enumerate(places):
            shutil.copy(files[place], tmp_path / name / f'{number:04d}')
    # Another reader makes the NIfTI file.
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(series)))
    sitk.WriteImage(reader.Execute(), str(tmp_path / 'scan.nii.gz'))
    expected_volume, expected = cut(series)
    assert int(np.sum(expected.mask)) == 3  # 32 slices of 1 mm in patches of 15
    for name in ('shuffled', 'reversed', 'scan.nii.gz'):
        volume, found = cut(tmp_path / name)
        np.testing.assert_allclose(volume.affine, expected_volume.affine, atol=1e-3)
        np.testing.assert_allclose(found.values, expected.values, atol=1e-3)
        np.testing.assert_allclose(found.first_mm, expected.first_mm, atol=1e-3)
    assert 0.05 < float(np.mean(np.asarray(expected.values)[:3])) < 0.8
