"""Zheng's layout: three grey levels, two ways to count classes."""

import cv2
import numpy as np
import pytest

from jaxmed.data import zheng
from jaxmed.errors import ConfigError, ImageError

OPTIONS = dict(tile=128, max_pixels=10**6, group_pattern='', num_classes=2)
LEVELS = np.array([0, 128, 255], np.uint8)


def save(folder, name, *, size=(120, 120), seed=0, mask=None):
    """Writes an image and a mask of random classes; returns both."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    mask = rng.choice(LEVELS, size) if mask is None else mask
    folder.mkdir(exist_ok=True)
    cv2.imwrite(str(folder / f'{name}.bmp'), image[..., ::-1])
    cv2.imwrite(str(folder / f'{name}.png'), mask)
    return image, mask


def read(folder, **options):
    return list(zheng.read(folder, **(OPTIONS | options)))


def test_two_classes_are_the_cell_and_its_nucleus(tmp_path):
    mask = np.zeros((128, 128), np.uint8)
    mask[0, :4] = 0, 127, 128, 255  # 127: half of 255 rounded down
    save(tmp_path, '001', size=(128, 128), mask=mask)
    record, = read(tmp_path)
    assert record['targets'].shape == (128, 128, 2)
    assert record['targets'].dtype == np.uint8
    np.testing.assert_array_equal(
        record['targets'][0, :4], [[0, 0], [1, 0], [1, 0], [1, 1]])
    assert record['targets'].sum() == 4


def test_one_class_is_the_whole_leucocyte(tmp_path):
    _, mask = save(tmp_path, '001', size=(128, 128))
    record, = read(tmp_path, num_classes=1)
    np.testing.assert_array_equal(record['targets'][..., 0], mask > 0)
    assert record['targets'].shape == (128, 128, 1)


def test_small_images_are_padded_and_say_their_size(tmp_path):
    image, mask = save(tmp_path, '001')
    record, = read(tmp_path)
    np.testing.assert_array_equal(record['inputs'][:120, :120], image)
    np.testing.assert_array_equal(record['targets'][:120, :120, 1], mask == 255)
    np.testing.assert_array_equal(record['inputs'][120], record['inputs'][118])
    assert record['size_hw'].tolist() == [120, 120]
    assert record['example_id'] == '001@0,0'


def test_larger_images_are_tiled(tmp_path):
    save(tmp_path, '001', size=(300, 300))
    assert len(read(tmp_path)) == 9


def test_equal_images_of_two_sets_are_one_patient(tmp_path):
    save(tmp_path / 'one', '001', seed=1)
    save(tmp_path / 'two', '117', seed=1)
    save(tmp_path / 'two', '118', seed=2)
    found = {r['case_id']: r['patient_id'] for r in read(tmp_path)}
    assert found['one/001'] == found['two/117'] != found['two/118']


@pytest.mark.parametrize('level', [1, 64, 126, 129, 192, 254])
def test_any_other_level_is_named(tmp_path, level):
    mask = np.full((120, 120), 128, np.uint8)
    mask[7, 9] = level
    save(tmp_path, '001', mask=mask)
    with pytest.raises(ImageError, match=f'001.png: grey level {level} in the mask'):
        read(tmp_path)


def test_an_image_without_a_mask_is_named(tmp_path):
    save(tmp_path, '001')
    (tmp_path / '001.png').unlink()
    with pytest.raises(ImageError, match='001.bmp: no mask 001.png beside it'):
        read(tmp_path)


def test_a_mask_without_an_image_is_named(tmp_path):
    save(tmp_path, '001')
    (tmp_path / '001.bmp').unlink()
    with pytest.raises(ImageError, match='001.png: no image 001.bmp beside it'):
        read(tmp_path)


def test_a_file_of_another_layout_is_named(tmp_path):
    save(tmp_path, '001')
    (tmp_path / 'a.jpg').touch()
    with pytest.raises(ImageError, match='a.jpg: neither an image'):
        read(tmp_path)


def test_two_images_of_one_name_are_named(tmp_path):
    save(tmp_path, '001')
    (tmp_path / '001.BMP').write_bytes((tmp_path / '001.bmp').read_bytes())
    if len(list(tmp_path.iterdir())) < 3:
        pytest.skip('this file system does not tell .bmp from .BMP')
    with pytest.raises(ImageError, match='001.bmp: a file of the same name'):
        read(tmp_path)


def test_a_mask_of_another_size_is_named(tmp_path):
    save(tmp_path, '001', mask=np.zeros((120, 119), np.uint8))
    with pytest.raises(ImageError, match='001.png: 119 x 120 pixels, its image has'):
        read(tmp_path)


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(ImageError, match='no images'):
        read(tmp_path)


@pytest.mark.parametrize('num_classes', [0, 3])
def test_other_numbers_of_classes_are_refused(tmp_path, num_classes):
    with pytest.raises(ConfigError, match=f'{num_classes}, expected 1 or 2'):
        read(tmp_path, num_classes=num_classes)
