"""A plain CSV: labels in one column or one each, given splits, clear refusals."""

import numpy as np
import pytest

from jaxmed.data import csv_labels, radiographs, records
from jaxmed.errors import ImageError, InputError

CLASSES = ('COVID-19', 'Normal')
OPTIONS = dict(
    classes=CLASSES, exclusive=True, store_px=32, max_pixels=10**7, min_per_class=0)


def read(path, **options):
    """(records, what was found)."""
    found = []

    def drain():
        found.append((yield from csv_labels.read(path, **(OPTIONS | options))))

    return list(drain()), found[0]


@pytest.fixture
def table(tmp_path, save, drawn):
    """(text) -> labels.csv with that text, beside a.png to f.png."""
    for i, name in enumerate('abcdef'):
        save(tmp_path / f'{name}.png', drawn(i))

    def write(text, **options):
        (tmp_path / 'labels.csv').write_text(text, **options)
        return tmp_path / 'labels.csv'

    return write


def refuse(path, reason, **options):
    """Asserts that a table is refused in one line with its name and `reason`."""
    with pytest.raises(InputError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert message.startswith(str(path.parent)) and '\n' not in message
    assert reason in message
    assert 'p-secret' not in message


def test_a_column_of_labels_becomes_one_hot(table):
    path = table('path,label\na.png,Normal\nb.png,COVID-19\nc.png,covid_19\n')
    found, counts = read(path)
    assert [record['case_id'] for record in found] == ['a', 'b', 'c']
    assert [record['targets'].tolist() for record in found] == [[0, 1], [1, 0], [1, 0]]
    assert all(record['targets'].dtype == np.float32 for record in found)
    assert all('split' not in record and record['view'] == 0 for record in found)
    assert counts['images'] == counts['groups'] == 3 and counts['patients'] == 0


def test_a_column_per_class_holds_0_1_and_unknown(table):
    path = table('path,normal,COVID-19,age\na.png,1,0,7\nb.png,,1.0,\nc.png,0,,9\n')
    found, _ = read(path, exclusive=False)
    np.testing.assert_array_equal(
        [record['targets'] for record in found], [[0, 1], [1, np.nan], [np.nan, 0]])


def test_exclusive_classes_need_exactly_one(table):
    path = table('path,Normal,COVID-19\na.png,1,0\nb.png,,1\n')
    assert [r['targets'].tolist() for r in read(path)[0]] == [[0, 1], [1, 0]]
    for row, count in (('1,1', 2), ('0,0', 0), (',', 0)):
        refuse(table(f'path,Normal,COVID-19\na.png,1,0\nb.png,{row}\n'),
               f'line 3: {count} classes are 1, exactly one is needed')


def test_an_empty_label_is_unknown_or_refused(table):
    path = table('path,label\na.png,\nb.png,Normal\n')
    refuse(path, "line 2: label '' is none of the classes 'COVID-19', 'Normal'")
    assert np.isnan(read(path, exclusive=False)[0][0]['targets']).all()


def test_patients_views_and_splits_are_read(table):
    path = table(
        'Path,Label,Patient_ID,view,split\n'
        'a.png,Normal,p1,PA,train\nb.png,Normal,p1,,Training\n'
        'c.png,Normal,p2,ap supine,test\nd.png,Normal,,AP,val\ne.png,Normal,p3,L,\n')
    found, counts = read(path)
    views = [radiographs.VIEWS[record['view']] for record in found]
    assert views == ['PA', 'unknown', 'AP Supine', 'AP', 'L']
    assert [record.get('split') for record in found] == [
        'train', 'train', 'test', 'valid', None]
    groups = [record['patient_id'] for record in found]
    assert groups[0] == groups[1] and len(set(groups)) == 4
    assert counts['patients'] == 3


def test_given_splits_are_kept_and_the_rest_is_drawn(table, tmp_path):
    path = table('path,label,split\na.png,Normal,test\nb.png,COVID-19,train\n'
                 'c.png,Normal,train\n')
    manifest = records.write_records(
        csv_labels.read(path, **OPTIONS), tmp_path / 'records', task='t',
        fractions=(0.8, 0.1, 0.1), seed=0)
    sides = {case['case_id']: case['split']
             for case in records.read_cases(tmp_path / 'records')}
    assert sides == {'a': 'test', 'b': 'train', 'c': 'train'}
    assert manifest['splits']['valid']['records'] == 0
    source = records.open_records(tmp_path / 'records', 'test', task='t', verify=True)
    assert 'split' not in source[0] and source[0]['targets'].tolist() == [0, 1]
    # Those without one are drawn: all into valid here.
    path = table('path,label,split\na.png,Normal,test\nb.png,COVID-19,train\n'
                 'c.png,Normal,\n')
    manifest = records.write_records(
        csv_labels.read(path, **OPTIONS), tmp_path / 'drawn', task='t',
        fractions=(0, 1, 0), seed=0)
    assert [manifest['splits'][split]['records'] for split in records.SPLITS] == [1] * 3


def test_one_patient_in_two_given_splits_is_refused(table):
    refuse(table('path,label,patient_id,split\na.png,Normal,p-secret,train\n'
                 'b.png,Normal,p2,test\nc.png,Normal,p-secret,test\n'),
           "lines 2 and 4: one patient in two splits, 'train' and 'test'")


def test_a_copy_in_another_given_split_moves_to_train(
    table, tmp_path, save, drawn, caplog
):
    save(tmp_path / 'copy.jpg', drawn(0)[6:, :-8])
    path = table('path,label,split\na.png,Normal,test\ncopy.jpg,Normal,train\n'
                 'b.png,Normal,test\n')
    found, counts = read(path)
    assert [record['split'] for record in found] == ['train', 'train', 'test']
    assert counts['near_duplicates'] == counts['given_splits_changed'] == 1
    assert '1 images are given to another split than their copies: a' in caplog.text


@pytest.mark.parametrize('text, reason', [
    ('file_path,label\na.png,Normal\n', "no column 'path'"),
    ('path,diagnosis\na.png,Normal\n',
     "no column 'label', nor one for each class: 'COVID-19', 'Normal'"),
    ('path,Normal\na.png,1\n', "no column for class 'COVID-19'"),
    ('path;label\na.png;Normal\n', 'separated by semicolons'),
    ('path,label\na.png,Pneumonia\n', "line 2: label 'Pneumonia' is none of"),
    ('path,label\n,Normal\n', 'line 2: no path'),
    ('path,label\ngone.png,Normal\n', 'gone.png: absent; labels.csv line 2 lists it'),
    ('path,label\na.png,Normal\n./a.png,Normal\n', './a.png is in line 2 already'),
    ('path,label,split\na.png,Normal,dev\n', "line 2: split is 'dev', expected one of"),
    ('path,label,view\na.png,Normal,up\n', "line 2: view is 'up', expected one of"),
    ('path,Normal,COVID-19\na.png,1,yes\n', "line 2: column 'COVID-19' is 'yes'"),
    ('path,Normal,COVID-19\na.png,1,-1\n', "'-1', expected one of '0', '0.0', '1'"),
    ('path,label\n', 'column names and no rows'),
])
def test_what_is_wrong_is_said_with_its_line(table, text, reason):
    refuse(table(text), reason)


def test_a_class_with_few_images_is_named_or_warned_of(table, caplog):
    text = 'path,label\na.png,Normal\nb.png,Normal\nc.png,COVID-19\n'
    refuse(table(text), "1 images of class 'COVID-19', at least 2", min_per_class=2)
    assert len(read(table(text), min_per_class=2, exclusive=False)[0]) == 3
    assert 'fewer than 2 images: COVID-19 (1)' in caplog.text


def test_paths_of_other_places_and_systems(table, tmp_path, save, drawn):
    save(tmp_path / 'sub dir' / 'ä b.PNG', drawn(7))
    elsewhere = tmp_path.parent / f'{tmp_path.name}-elsewhere'
    save(elsewhere / 'x.png', drawn(8))
    path = table(
        f'path,label\r\nsub dir\\ä b.PNG,Normal\r\n{elsewhere}/x.png,Normal\r\n'
        f'../{elsewhere.name}/../{tmp_path.name}/a.png,Normal\r\n',
        encoding='utf-8-sig', newline='')
    found, _ = read(path)
    assert [record['case_id'] for record in found] == [
        'sub dir/ä b', f'{elsewhere.name}/x', f'{tmp_path.name}/a']
    for record in found:
        records.check_case_id(record['case_id'])


def test_a_folder_stands_for_the_one_csv_in_it(table, tmp_path):
    table('path,label\na.png,Normal\n')
    assert len(read(tmp_path)[0]) == 1
    (tmp_path / 'more.CSV').write_text('path,label\n')
    with pytest.raises(InputError, match='2 CSV files in it, name one'):
        read(tmp_path)


def test_pictures_and_dicom_files_may_be_mixed(table, tmp_path, dicom, drawn):
    dicom(tmp_path / 'x.dcm', drawn(20), tags={(0x0018, 0x5101): ('CS', 'AP')})
    found, _ = read(table('path,label\na.png,Normal\nx.dcm,COVID-19\n'))
    assert radiographs.VIEWS[found[1]['view']] == 'AP'
    assert found[1]['inputs'].shape == (32, 32, 1)
    (tmp_path / 'x.dcm').write_text('no picture')
    with pytest.raises(ImageError, match='x.dcm: not a DICOM file'):
        read(tmp_path / 'labels.csv')


def test_a_real_folder_listed_in_a_table(sample_data, tmp_path):
    folder = sample_data / 'cxr' / 'three_class'
    paths = [path for name in ('Covid', 'Normal')
             for path in sorted((folder / name).iterdir())[:10]]
    rows = [f'{path},{path.parent.name}' for path in paths]
    (tmp_path / 'labels.csv').write_text('\n'.join(['path,label', *rows]))
    found, counts = read(tmp_path, classes=('Covid', 'Normal'))
    assert len(found) == 20 == len({record['case_id'] for record in found})
    assert np.sum([record['targets'] for record in found], axis=0).tolist() == [10, 10]
    assert counts['near_duplicates'] == 0
