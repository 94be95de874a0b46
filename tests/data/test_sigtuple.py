"""SigTuple folders: every pixel in a tile, every smear in one group."""

import cv2
import numpy as np
import pytest

from jaxmed.data import overlaps, sigtuple, smears
from jaxmed.errors import ConfigError, ImageError

OPTIONS = dict(tile=128, max_pixels=10**7, group_pattern='')


def noise(height, width, seed):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def scene(height, width, seed):
    """Noise in blots of some 12 pixels: what two crops have in common survives JPEG."""
    return cv2.resize(
        noise(height // 12, width // 12, seed), (width, height),
        interpolation=cv2.INTER_CUBIC)


def save(path, image, mask=None, *, mask_suffix='.png'):
    """Writes an image (RGB) and its mask (bool or grey); returns the image's path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image[..., ::-1])
    mask = image[..., 0] > 127 if mask is None else mask
    mask = mask.astype(np.uint8) * 255 if mask.dtype == bool else mask
    cv2.imwrite(str(path.with_name(f'{path.stem}-mask{mask_suffix}')), mask)
    return path


def read(folder, **options):
    return list(sigtuple.read(folder, **(OPTIONS | options)))


def patients(folder, **options):
    """case id -> patient id."""
    return {r['case_id']: r['patient_id'] for r in read(folder, **options)}


def test_a_patch_is_one_record_with_its_ids(tmp_path):
    image = noise(128, 128, 0)
    save(tmp_path / 'sub' / 'train-7.png', image)
    record, = read(tmp_path)
    np.testing.assert_array_equal(record['inputs'], image)
    np.testing.assert_array_equal(record['targets'][..., 0], image[..., 0] > 127)
    assert record['inputs'].dtype == record['targets'].dtype == np.uint8
    assert record['targets'].shape == (128, 128, 1)
    assert record['size_hw'].tolist() == [128, 128]
    assert record['origin_yx'].tolist() == [0, 0]
    assert record['size_hw'].dtype == record['origin_yx'].dtype == np.int32
    assert record['example_id'] == 'sub/train-7@0,0'
    assert record['case_id'] == 'sub/train-7'
    for name in ('patient_id', 'content_id'):
        assert len(record[name]) == 16 and int(record[name], 16) >= 0


@pytest.mark.parametrize('suffix', ['.jpg', '.jpeg', '.png', '.bmp'])
@pytest.mark.parametrize('mask_suffix', ['.jpg', '.png', '.bmp'])
def test_image_and_mask_may_be_of_different_formats(tmp_path, suffix, mask_suffix):
    save(tmp_path / f'a{suffix}', noise(128, 128, 0), mask_suffix=mask_suffix)
    assert len(read(tmp_path)) == 1


def test_the_mask_is_white_above_127(tmp_path):
    mask = np.array([[0, 1, 126, 127, 128, 129, 254, 255]], np.uint8)
    save(tmp_path / 'a.png', noise(1, 8, 0), mask)
    target = sigtuple.read_mask(tmp_path / 'a-mask.png', max_pixels=100)
    np.testing.assert_array_equal(target[..., 0], [[0, 0, 0, 0, 1, 1, 1, 1]])


def test_a_16_bit_mask_has_the_same_threshold(tmp_path):
    mask = np.array([[0, 127 * 257, 128 * 257, 65535]], np.uint16)
    cv2.imwrite(str(tmp_path / 'a-mask.png'), mask)
    target = sigtuple.read_mask(tmp_path / 'a-mask.png', max_pixels=100)
    np.testing.assert_array_equal(target[..., 0], [[0, 0, 1, 1]])


def test_tiles_cover_every_pixel_of_every_size():
    rng = np.random.default_rng(0)
    sizes = [(h, w) for h in (1, 2, 127, 128, 129, 255, 256, 257, 400)
             for w in (1, 128, 129, 383)]
    sizes += [tuple(rng.integers(1, 401, 2)) for _ in range(120)]
    for height, width in sizes:
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        mask = (image[..., :1] > 127).astype(np.uint8)
        seen = np.zeros((height, width), int)
        tiles = list(smears.cut(
            image, mask, tile=128, case_id='a', patient_id='b', content_id='c'))
        assert len({tile['example_id'] for tile in tiles}) == len(tiles)
        for tile in tiles:
            assert tile['inputs'].shape == (128, 128, 3)
            assert tile['targets'].shape == (128, 128, 1)
            y, x = tile['origin_yx']
            h, w = np.minimum(tile['size_hw'] - tile['origin_yx'], 128)
            np.testing.assert_array_equal(
                tile['inputs'][:h, :w], image[y:y + h, x:x + w])
            np.testing.assert_array_equal(
                tile['targets'][:h, :w], mask[y:y + h, x:x + w])
            seen[y:y + h, x:x + w] += 1
        assert seen.min() >= 1, (height, width)
        # No tile too many: as many as it takes side by side.
        assert len(tiles) == -(-height // 128) * -(-width // 128)


def test_the_last_tile_is_shifted_back_to_the_border():
    image = noise(130, 300, 0)
    tiles = smears.cut(
        image, image[..., :1], tile=128, case_id='a', patient_id='b', content_id='c')
    origins = [tuple(tile['origin_yx'].tolist()) for tile in tiles]
    assert origins == [(0, 0), (0, 128), (0, 172), (2, 0), (2, 128), (2, 172)]


def test_a_smaller_image_is_continued_by_reflection_below_and_right():
    image = noise(3, 128, 0)
    tile, = smears.cut(
        image, image[..., :1], tile=128, case_id='a', patient_id='b', content_id='c')
    # Rows 0 1 2 go on 1 0 1 2 1 0 ...
    np.testing.assert_array_equal(tile['inputs'][:7], image[[0, 1, 2, 1, 0, 1, 2]])
    np.testing.assert_array_equal(
        tile['targets'][:7], image[[0, 1, 2, 1, 0, 1, 2]][..., :1])
    assert tile['size_hw'].tolist() == [3, 128]


def test_different_smears_are_different_patients(tmp_path):
    for i in range(5):
        save(tmp_path / f'{i}.png', noise(128, 128, i))
    assert len(set(patients(tmp_path).values())) == 5


def test_equal_pixels_are_one_patient_whatever_name_and_format(tmp_path):
    save(tmp_path / 'a.png', noise(128, 128, 0))
    save(tmp_path / 'b.bmp', noise(128, 128, 0))
    save(tmp_path / 'c.png', noise(128, 128, 1))
    found = patients(tmp_path)
    assert found['a'] == found['b'] != found['c']
    found = patients(tmp_path, group_pattern='(.)')  # whatever the pattern says
    assert found['a'] == found['b'] != found['c']


def test_equal_names_in_two_folders_are_one_patient(tmp_path):
    for i, name in enumerate(['x/a.png', 'y/a.png', 'y/b.png']):
        save(tmp_path / name, noise(128, 128, i))
    found = patients(tmp_path)
    assert found['x/a'] == found['y/a'] != found['y/b']


def test_a_pattern_groups_by_what_it_finds(tmp_path):
    for i, name in enumerate(['s1_a.png', 's1_b.png', 's2_a.png']):
        save(tmp_path / name, noise(128, 128, i))
    found = patients(tmp_path, group_pattern=r'(s\d+)_')
    assert found['s1_a'] == found['s1_b'] != found['s2_a']
    assert len(set(patients(tmp_path).values())) == 3


def test_with_a_pattern_equal_names_in_two_folders_are_two_patients(tmp_path):
    for i, name in enumerate(['A/001.png', 'A/002.png', 'B/001.png']):
        save(tmp_path / name, noise(128, 128, i))
    found = patients(tmp_path, group_pattern='^([^/]+)/')
    assert found['A/001'] == found['A/002'] != found['B/001']


@pytest.mark.parametrize('seeds', [(0, 1), (1, 0)])
def test_groups_are_joined_through_a_common_member(tmp_path, seeds):
    # Below 64 pixels no overlap is looked for.
    save(tmp_path / 'x' / 'a.png', noise(32, 32, seeds[0]))
    save(tmp_path / 'y' / 'a.png', noise(32, 32, seeds[1]))  # the name of x/a
    save(tmp_path / 'y' / 'b.png', noise(32, 32, seeds[1]))  # the pixels of y/a
    save(tmp_path / 'z' / 'c.png', noise(32, 32, 2))
    found = patients(tmp_path)
    assert found['x/a'] == found['y/a'] == found['y/b'] != found['z/c']


def test_a_patch_cut_from_a_smear_and_saved_anew_belongs_to_it(tmp_path):
    smear = scene(400, 500, 0)
    save(tmp_path / 'smear.jpg', smear)
    save(tmp_path / 'cut.jpg', smear[101:229, 203:331])
    save(tmp_path / 'border.jpg', smear[272:, 372:])
    save(tmp_path / 'other.jpg', scene(128, 128, 1))
    found = patients(tmp_path)
    assert found['smear'] == found['cut'] == found['border'] != found['other']
    grouped = patients(tmp_path, group_pattern='(.+)')  # the user says: all different
    assert len(set(grouped.values())) == 4


def test_patches_that_share_their_middle_belong_together():
    smear = scene(300, 300, 0)
    crops = [smear[:128, :128], smear[25:153, 21:149], smear[160:288, 160:288]]
    thumbnails = [overlaps.thumbnail(crop) for crop in crops]
    assert overlaps.find_overlaps(thumbnails, crops.__getitem__) == [(0, 1)]


def test_blank_images_do_not_overlap():
    blank = [np.full((128, 128, 3), level, np.uint8) for level in (200, 200, 210)]
    blank.append(scene(128, 128, 0))
    thumbnails = [overlaps.thumbnail(image) for image in blank]
    with np.errstate(all='raise'):  # nothing is divided by no contrast
        assert overlaps.find_overlaps(thumbnails, blank.__getitem__) == []


def test_ids_are_a_function_of_content(tmp_path):
    save(tmp_path / 'one' / 'a.png', noise(200, 150, 0))
    save(tmp_path / 'two' / 'deep' / 'b.bmp', noise(200, 150, 0))
    save(tmp_path / 'two' / 'c.bmp', noise(200, 150, 1))
    one, two = read(tmp_path / 'one'), read(tmp_path / 'two')
    same = [r for r in two if r['case_id'] == 'deep/b']
    for name in ('patient_id', 'content_id'):
        assert {r[name] for r in one} == {r[name] for r in same}
    unlabelled, = smears.read_unlabelled(tmp_path / 'one', max_pixels=10**6)
    assert unlabelled['content_id'] == one[0]['content_id']


def test_pixels_in_another_shape_are_another_content():
    image = noise(6, 4, 0)
    assert smears.content_id(image) != smears.content_id(image.reshape(4, 6, 3))


@pytest.mark.parametrize('pattern, reason', [
    ('s[', 'unterminated character set'), (r's\d+', r'has no \(group\)')])
def test_a_pattern_that_cannot_group_is_named(tmp_path, pattern, reason):
    save(tmp_path / 'a.png', noise(8, 8, 0))
    with pytest.raises(ConfigError, match=f'group_pattern: .*{reason}'):
        read(tmp_path, group_pattern=pattern)


def test_a_name_without_the_pattern_is_named(tmp_path):
    save(tmp_path / 's1_a.png', noise(8, 8, 0))
    save(tmp_path / 'other.png', noise(8, 8, 1))
    with pytest.raises(ImageError, match='other.png: group_pattern .* not in its name'):
        read(tmp_path, group_pattern=r'(s\d+)_')


def test_an_image_without_a_mask_is_named(tmp_path):
    save(tmp_path / 'a.png', noise(8, 8, 0))
    cv2.imwrite(str(tmp_path / 'b.jpg'), noise(8, 8, 1))
    with pytest.raises(ImageError, match=r'b.jpg: no mask b-mask.\* beside it'):
        read(tmp_path)


def test_a_mask_without_an_image_is_named(tmp_path):
    save(tmp_path / 'a.png', noise(8, 8, 0))
    save(tmp_path / 'b.png', noise(8, 8, 1)).unlink()
    with pytest.raises(ImageError, match=r'b-mask.png: no image b.\* beside it'):
        read(tmp_path)


def test_a_mask_of_another_size_is_named(tmp_path):
    save(tmp_path / 'a.png', noise(20, 30, 0), np.zeros((20, 29), bool))
    with pytest.raises(
        ImageError, match='a-mask.png: 29 x 20 pixels, its image has 30 x 20'
    ):
        read(tmp_path)


def test_two_masks_or_two_images_of_one_name_are_named(tmp_path):
    save(tmp_path / 'm' / 'a.png', noise(8, 8, 0))
    save(tmp_path / 'm' / 'a.png', noise(8, 8, 0), mask_suffix='.jpg')
    with pytest.raises(ImageError, match='a-mask.png: a second mask beside a-mask.jpg'):
        read(tmp_path / 'm')
    save(tmp_path / 'i' / 'a.png', noise(8, 8, 0))
    save(tmp_path / 'i' / 'a.jpg', noise(8, 8, 1))
    with pytest.raises(ImageError, match='a.png: an image of the same name'):
        read(tmp_path / 'i')


def test_a_mask_of_zeros_and_ones_is_refused_and_an_empty_one_is_not(tmp_path):
    save(tmp_path / 'a.png', noise(8, 8, 0), np.eye(8, dtype=np.uint8))
    with pytest.raises(ImageError, match='a-mask.png: brightest level is 1 of 255'):
        read(tmp_path)
    save(tmp_path / 'a.png', noise(8, 8, 0), np.zeros((8, 8), bool))
    record, = read(tmp_path)
    assert record['targets'].max() == 0


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(ImageError, match='no images'):
        read(tmp_path)


def test_a_damaged_image_or_mask_is_named(tmp_path):
    save(tmp_path / 'a.png', noise(64, 64, 0))
    path = tmp_path / 'a-mask.png'
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ImageError, match='a-mask.png: damaged or truncated'):
        read(tmp_path)
    save(tmp_path / 'a.png', noise(64, 64, 0)).write_bytes(b'nothing')
    with pytest.raises(ImageError, match='a.png: not a JPEG'):
        read(tmp_path)


def test_prediction_lists_images_but_no_masks(tmp_path):
    save(tmp_path / 'a.jpg', noise(8, 8, 0))
    save(tmp_path / 'sub' / 'b.png', noise(8, 8, 1))
    cv2.imwrite(str(tmp_path / '001.bmp'), noise(8, 8, 2))  # Zheng's image and mask
    cv2.imwrite(str(tmp_path / '001.png'), np.zeros((8, 8), np.uint8))
    listed = smears.find_unlabelled(tmp_path)
    assert [case for _, case in listed] == ['001', 'a', 'sub/b']
    assert [path.name for path, _ in listed] == ['001.bmp', 'a.jpg', 'b.png']


def test_prediction_tells_images_of_one_name_apart(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.jpg'), noise(8, 8, 0))
    cv2.imwrite(str(tmp_path / 'a.png'), noise(8, 8, 1))
    assert [case for _, case in smears.find_unlabelled(tmp_path)] == ['a.jpg', 'a.png']


def test_prediction_goes_on_after_a_bad_file(tmp_path):
    for i, name in enumerate('abc'):
        cv2.imwrite(str(tmp_path / f'{name}.png'), noise(40, 50, i))
    (tmp_path / 'b.png').write_bytes(b'nothing')
    good, bad = [], []
    for path, case in smears.find_unlabelled(tmp_path):
        try:
            good.append(smears.read_one(path, case_id=case, max_pixels=10**6))
        except ImageError as error:
            bad.append(str(error))
    assert [record['case_id'] for record in good] == ['a', 'c']
    assert len(bad) == 1 and 'b.png: not a JPEG' in bad[0]
    assert good[1]['inputs'].shape == (40, 50, 3)
    assert good[1]['example_id'] == 'c@0,0' and 'targets' not in good[1]


def test_prediction_takes_one_file_and_refuses_a_folder_of_masks(tmp_path):
    path = save(tmp_path / 'a.png', noise(40, 50, 0))
    record, = smears.read_unlabelled(path, max_pixels=10**6)
    assert record['case_id'] == 'a' and record['size_hw'].tolist() == [40, 50]
    path.unlink()
    with pytest.raises(ImageError, match='no images but masks'):
        smears.find_unlabelled(tmp_path)


def test_all_real_smears_are_read_and_no_pixel_is_lost(sample_data):
    folder = sample_data / 'wbc' / 'train'
    found = {}
    for record in read(folder):
        found.setdefault(record['case_id'], []).append(record)
    assert len(found) == 122
    for case in ('54A84627F362', '1467973104'):
        image = smears.read_one(
            folder / f'{case}.jpg', case_id=case, max_pixels=10**7)['inputs']
        mask = sigtuple.read_mask(folder / f'{case}-mask.jpg', max_pixels=10**7)
        again, truth = np.zeros_like(image), np.zeros_like(mask)
        for tile in found[case]:
            y, x = tile['origin_yx']
            again[y:y + 128, x:x + 128] = tile['inputs']
            truth[y:y + 128, x:x + 128] = tile['targets']
        np.testing.assert_array_equal(again, image)
        np.testing.assert_array_equal(truth, mask)
    # 18% of a patch is leucocyte, measured with OpenCV on the masks as they are.
    areas = [tiles[0]['targets'].mean() for tiles in found.values() if len(tiles) == 1]
    assert len(areas) == 120 and 0.17 < np.mean(areas) < 0.20


def test_real_patches_cut_from_real_smears_are_found(sample_data):
    found = {}
    for record in read(sample_data / 'wbc' / 'train'):
        found.setdefault(record['patient_id'], set()).add(record['case_id'])
    groups = sorted(sorted(group) for group in found.values() if len(group) > 1)
    assert groups == [  # by eye: the same cells
        ['1467973104', 'train-90'],
        ['54A84627F362', 'train-107', 'train-108', 'train-110'],
        ['train-57', 'train-58']]


def test_a_real_test_image_that_is_a_training_smear_has_its_ids(sample_data, tmp_path):
    folder = sample_data / 'wbc'
    name = '017532875DDF'  # the duplicate that the sample data's README names
    if not (folder / 'train' / f'{name}.jpg').exists():
        name = '1467973104'  # absent from this copy: make one
    original = folder / 'train' / f'{name}.jpg'
    (tmp_path / 'renamed.jpg').write_bytes(original.read_bytes())
    record, = smears.read_unlabelled(tmp_path, max_pixels=10**7)
    known = {r['content_id'] for r in read(folder / 'train') if r['case_id'] == name}
    assert known == {record['content_id']}
