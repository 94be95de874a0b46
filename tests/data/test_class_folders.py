"""A folder per class: every image once, with its class, its copies beside it."""

import cv2
import numpy as np
import pytest
from PIL import Image

from jaxmed.data import class_folders, radiographs, records
from jaxmed.errors import ConfigError, ImageError

CLASSES = ('COVID', 'Lung_Opacity', 'Viral Pneumonia')
OPTIONS = dict(classes=CLASSES, store_px=48, max_pixels=10**7, min_per_class=1)


def read(folder, **options):
    """(records, what was found)."""
    found = []

    def drain():
        found.append((yield from class_folders.read(folder, **(OPTIONS | options))))

    return list(drain()), found[0]


@pytest.fixture
def layout(tmp_path, save, drawn):
    """Two images a class in COVID/images, Lung_Opacity/ and Viral Pneumonia/."""
    places = ('COVID/images', 'Lung_Opacity', 'Viral Pneumonia')
    for i, place in enumerate(places):
        for j in range(2):
            save(tmp_path / place / f'{i}-{j}.png', drawn(10 * i + j))
    return tmp_path


def test_both_layouts_give_one_hot_records_in_order(layout):
    found, counts = read(layout)
    assert [record['case_id'] for record in found] == [
        'COVID/images/0-0', 'COVID/images/0-1', 'Lung_Opacity/1-0', 'Lung_Opacity/1-1',
        'Viral Pneumonia/2-0', 'Viral Pneumonia/2-1']
    assert np.stack([record['targets'] for record in found]).tolist() == [
        [1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]
    for record in found:
        assert record['targets'].dtype == np.float32
        assert record['inputs'].shape == (48, 48, 1)
        assert record['size_hw'].tolist() == [256, 256]
        assert record['example_id'] == record['case_id'] and 'split' not in record
    assert len({record['patient_id'] for record in found}) == 6 == counts['groups']
    assert counts['images'] == 6 and counts['near_duplicates'] == 0


def test_inputs_are_what_prediction_reads(layout):
    found, _ = read(layout)
    for record in found:
        path = layout / (record['case_id'] + '.png')
        alone = radiographs.read_one(
            path, case_id=record['case_id'], store_px=48, max_pixels=10**7)
        np.testing.assert_array_equal(record['inputs'], alone['inputs'])
        for name in ('content_id', 'source', 'view'):
            assert record[name] == alone[name]


def test_masks_hidden_files_and_other_files_are_left_out(layout, save, drawn):
    for name in ('COVID/masks/0-0.png', 'COVID/.images.png', '.git/x.png',
                 'COVID/preview.png'):
        save(layout / name, drawn(99))
    for name in ('COVID.metadata.xlsx', 'COVID/Thumbs.db', 'COVID/.DS_Store',
                 'README.md.txt', 'notes/a.txt'):
        (layout / name).parent.mkdir(exist_ok=True)
        (layout / name).write_text('x')
    assert len(read(layout)[0]) == 6


def test_names_are_compared_without_case_and_separators(layout):
    for old, new in (('COVID', 'covid'), ('Viral Pneumonia', 'viral_pneumonia')):
        (layout / old).rename(layout / new)
    found, _ = read(layout)
    assert [int(record['targets'].argmax()) for record in found] == [1, 1, 0, 0, 2, 2]


def test_any_number_of_classes_in_any_order(layout):
    found, _ = read(layout, classes=CLASSES[::-1])
    assert [int(record['targets'].argmax()) for record in found] == [2, 2, 1, 1, 0, 0]


def test_a_folder_that_is_no_class_is_named(layout, save, drawn):
    save(layout / 'Tuberculosis' / 'x.png', drawn(0))
    with pytest.raises(ImageError, match="Tuberculosis: folder 'Tuberculosis' is none"):
        read(layout)


def test_a_class_without_or_with_two_folders_or_few_images_is_named(
    layout, save, drawn
):
    with pytest.raises(ImageError, match="no folder with images of class 'Normal'"):
        read(layout, classes=(*CLASSES, 'Normal'))
    with pytest.raises(ImageError, match="2 images of class 'COVID', at least 3"):
        read(layout, min_per_class=3)
    save(layout / 'covid' / 'x.png', drawn(0))
    with pytest.raises(ImageError, match="a second folder of class 'COVID'"):
        read(layout)


def test_an_image_outside_of_the_folders_and_an_empty_folder_are_named(
    layout, save, drawn, tmp_path_factory
):
    save(layout / 'x.png', drawn(0))
    with pytest.raises(ImageError, match='x.png: an image outside of the class'):
        read(layout)
    with pytest.raises(ImageError, match='no images'):
        read(tmp_path_factory.mktemp('empty'))


@pytest.mark.parametrize('classes', [(), ('a', 'A'), ('a', ''), ('a_b', 'a b')])
def test_classes_must_be_different_names(layout, classes):
    with pytest.raises(ConfigError, match='different names are needed'):
        read(layout, classes=classes)


def test_a_damaged_image_is_named(layout):
    path = layout / 'COVID' / 'images' / '0-1.png'
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ImageError, match='0-1.png: damaged or truncated'):
        read(layout)


def test_images_of_one_name_keep_their_suffixes(layout, save, drawn):
    save(layout / 'Lung_Opacity' / '1-0.jpg', drawn(50))
    found, _ = read(layout)
    cases = [record['case_id'] for record in found]
    assert len(set(cases)) == 7 and 'Lung_Opacity/1-0.jpg' in cases
    for case in cases:
        records.check_case_id(case)


def test_equal_pixels_and_copies_are_one_group_and_counted(layout, save, caplog):
    original = cv2.imread(str(layout / 'Lung_Opacity' / '1-0.png'), 0)
    Image.fromarray(original).save(layout / 'Lung_Opacity' / 'équal.bmp')
    small = cv2.resize(original[8:-12, 5:], (200, 180), interpolation=cv2.INTER_AREA)
    save(layout / 'COVID' / 'images' / 'copy.jpg', small)
    found, counts = read(layout)
    groups = {record['case_id']: record['patient_id'] for record in found}
    assert groups['Lung_Opacity/1-0'] == groups['Lung_Opacity/équal']
    assert groups['Lung_Opacity/1-0'] == groups['COVID/images/copy']
    assert len(set(groups.values())) == 6
    assert counts['exact_duplicates'] == counts['near_duplicates'] == 1
    assert counts['groups'] == 6 and counts['groups_of_several'] == 1
    assert counts['largest_group'] == 3
    # One of the two pairs has two labels.
    assert counts['label_conflicts'] == 1
    assert sorted(map(sorted, counts['pairs'])) == [
        ['COVID/images/copy', 'Lung_Opacity/1-0'],
        ['Lung_Opacity/1-0', 'Lung_Opacity/équal']]
    assert 'different labels: COVID/images/copy = Lung_Opacity/1-0' in caplog.text


def test_copies_are_on_one_side_of_every_split_and_in_the_manifest(layout, save):
    for name in ('0-0', '0-1'):
        picture = cv2.imread(str(layout / 'COVID' / 'images' / f'{name}.png'), 0)
        save(layout / 'Viral Pneumonia' / f'{name}.jpg', picture)
    for seed in range(6):
        manifest = records.write_records(
            class_folders.read(layout, **OPTIONS), layout.parent / f'{seed}', task='t',
            fractions=(0.5, 0, 0.5), seed=seed)
        sides = {case['case_id']: case['split']
                 for case in records.read_cases(layout.parent / f'{seed}')}
        for name in ('0-0', '0-1'):
            assert sides[f'COVID/images/{name}'] == sides[f'Viral Pneumonia/{name}']
    assert manifest['found']['near_duplicates'] == 2
    assert records.read_manifest(
        layout.parent / '5', task='t')['found'] == manifest['found']


def test_patients_in_dicom_headers_are_one_group(tmp_path, dicom, drawn):
    for i, name in enumerate(['p1', 'p1', 'p2', '']):
        tags = {(0x0010, 0x0020): ('LO', name)}
        dicom(tmp_path / 'COVID' / str(i), drawn(i), tags=tags)
    found, counts = read(tmp_path, classes=('COVID',))
    groups = [record['patient_id'] for record in found]
    assert groups[0] == groups[1] and len(set(groups)) == 3
    assert counts['patients'] == 2 and counts['patients_joined'] == 0


def test_odd_pictures_are_counted_and_named(layout, save, caplog):
    colours = np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8)
    save(layout / 'COVID' / 'images' / 'smear.png', colours)
    _, counts = read(layout)
    assert counts['oddities'] == 1 and 'COVID/images/smear (colours)' in caplog.text


def test_many_pictures_go_to_disk_and_come_back(layout, monkeypatch):
    from jaxmed.data import listings

    before, _ = read(layout)
    monkeypatch.setattr(listings, '_MEMORY_BYTES', 1000)
    for one, other in zip(before, read(layout)[0], strict=True):
        np.testing.assert_array_equal(one['inputs'], other['inputs'])


def test_all_real_images_of_three_classes_are_read(sample_data):
    folder = sample_data / 'cxr' / 'three_class'
    classes = ('Covid', 'Normal', 'Viral_Pneumonia')
    found, counts = read(folder, classes=classes)
    assert len(found) == 165
    assert np.sum([record['targets'] for record in found], axis=0).tolist() == [55] * 3
    assert counts['exact_duplicates'] == counts['oddities'] == 0
    assert counts['pairs'] == [['Covid/068', 'Covid/076']]
    groups = {record['case_id']: record['patient_id'] for record in found}
    assert groups['Covid/068'] == groups['Covid/076'] and counts['groups'] == 164
