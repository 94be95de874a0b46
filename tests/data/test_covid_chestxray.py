"""covid-chestxray: two spellings of one truth, views, patients, absent images."""

import unicodedata

import numpy as np
import pytest

from jaxmed.data import covid_chestxray, radiographs
from jaxmed.errors import ConfigError, ImageError, InputError

CLASSES = ('Pneumonia', 'Viral', 'COVID-19', 'Bacterial', 'Streptococcus', 'ARDS')
OPTIONS = dict(
    classes=CLASSES, views=radiographs.FRONTAL, store_px=32, max_pixels=10**7,
    min_per_class=0)
COLUMNS = 'patientid,finding,view,modality,folder,filename'
UNKNOWN = np.nan


def read(folder, **options):
    """(records, what was found)."""
    found = []

    def drain():
        found.append((yield from covid_chestxray.read(folder, **(OPTIONS | options))))

    return list(drain()), found[0]


@pytest.fixture
def layout(tmp_path, save, drawn):
    """(rows) -> a folder with metadata.csv and an image for each row that has one."""
    def write(*rows, columns=COLUMNS, absent=(), **options):
        names = [row.rpartition(',')[2].strip() for row in rows]
        for i, name in enumerate(dict.fromkeys(names)):
            if name and name not in absent:
                save(tmp_path / 'images' / name, drawn(i, 128))
        text = '\n'.join([columns, *rows]) + '\n'
        (tmp_path / 'metadata.csv').write_text(text, **options)
        return tmp_path

    return write


@pytest.mark.parametrize('finding, expected', [
    # Both spellings: COVID-19 is viral, Streptococcus is a bacterium. The later one has
    # no place for ARDS.
    ('COVID-19', [1, 1, 1, 0, 0, 0]),
    ('Pneumonia/Viral/COVID-19', [1, 1, 1, 0, 0, UNKNOWN]),
    ('COVID-19, ARDS', [1, 1, 1, 0, 0, 1]),
    ('Streptococcus', [1, 0, 0, 1, 1, 0]),
    ('Pneumonia/Bacterial/Streptococcus', [1, 0, 0, 1, 1, UNKNOWN]),
    ('SARS', [1, 1, 0, 0, 0, 0]),
    ('Pneumonia/Viral/Influenza/H1N1', [1, 1, 0, 0, 0, UNKNOWN]),
    ('Pneumonia/Fungal/Pneumocystis', [1, 0, 0, 0, 0, UNKNOWN]),
    ('Pneumonia/Bacterial/Staphylococcus/MRSA', [1, 0, 0, 1, 0, UNKNOWN]),
    ('Tuberculosis', [0, 0, 0, 0, 0, 0]),
    # Case, spaces, aliases.
    (' pneumonia/viral/covid-19 ', [1, 1, 1, 0, 0, UNKNOWN]),
    ('Covid19,ards', [1, 1, 1, 0, 0, 1]),
    ('Mycoplasma Bacterial Pneumonia', [1, 0, 0, 1, 0, 0]),
    ('Pneumonia/Viral/Herpes ', [1, 1, 0, 0, 0, UNKNOWN]),
    # No cause is named: it is not known, and not absent.
    ('Pneumonia', [1, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN]),
    ('Pneumonia/Viral', [1, 1, UNKNOWN, 0, 0, UNKNOWN]),
    ('Pneumonia/Bacterial', [1, 0, 0, 1, UNKNOWN, UNKNOWN]),
    ('ARDS', [1, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, 1]),
    ('No Finding', [0, 0, 0, 0, 0, 0]),
    ('no finding', [0, 0, 0, 0, 0, 0]),
    *((silent, [UNKNOWN] * 6) for silent in ('todo', 'Todo', 'unknown ', '')),
])
def test_targets_of_a_finding(finding, expected):
    targets = covid_chestxray.targets_of(finding, CLASSES)
    assert targets.dtype == np.float32
    np.testing.assert_array_equal(targets, expected)


def test_no_finding_may_be_a_class():
    def targets(finding):
        return covid_chestxray.targets_of(finding, ('No Finding', 'COVID-19')).tolist()

    assert targets('No Finding') == [1, 0]
    assert targets('Pneumonia/Viral/COVID-19') == [0, 1]
    assert np.isnan(targets('todo')).all()


def test_every_finding_leads_up_to_the_top():
    for finding in covid_chestxray.PARENTS:
        assert covid_chestxray.targets_of(finding, ('Pneumonia',)) == 1


def test_rows_become_records_with_view_and_patient(layout):
    folder = layout(
        '7,COVID-19,PA,X-ray,images,a.jpg', '7,SARS,AP Supine,X-ray,images,b.png',
        '8,No Finding,AP,X-ray,images,c d.jpeg', ',todo,PA,X-ray,,e.jpg',
        ',todo,AP erect,X-ray,,f.jpg')
    found, counts = read(folder)
    assert [record['case_id'] for record in found] == [
        'images/a', 'images/b', 'images/c d', 'images/e', 'images/f']
    views = [radiographs.VIEWS[record['view']] for record in found]
    assert views == ['PA', 'AP Supine', 'AP', 'PA', 'AP Erect']
    groups = [record['patient_id'] for record in found]
    # Two of patient 7; without an id every image is a patient of its own.
    assert groups[0] == groups[1] and len(set(groups)) == 4 == counts['groups']
    assert counts['patients'] == 2
    assert found[0]['targets'].tolist() == [1, 1, 1, 0, 0, 0]
    assert np.isnan(found[3]['targets']).all()


def test_views_that_are_not_wanted_are_left_out_and_counted(layout):
    folder = layout(
        '1,COVID-19,PA,X-ray,images,a.jpg', '1,COVID-19,L,X-ray,images,b.jpg',
        '1,COVID-19,Axial,CT,images,c.jpg', '1,COVID-19,Coronal,CT,images,d.jpg',
        '1,COVID-19,CT,,images,e.jpg', '1,COVID-19,PA,CT,images,f.jpg',
        '1,COVID-19,,X-ray,images,g.jpg', '1,COVID-19,lateral,X-ray,images,h.jpg')
    found, counts = read(folder)
    assert [record['case_id'] for record in found] == ['images/a']
    assert counts['views_left_out'] == {
        'L': 2, 'Axial': 1, 'Coronal': 1, 'CT': 2, 'unknown': 1}
    every, counts = read(folder, views=radiographs.VIEWS)
    assert len(every) == 8 and counts['views_left_out'] == {}
    with pytest.raises(ConfigError, match="'PA erect' is none of"):
        read(folder, views=('PA erect',))


def test_rows_without_an_image_are_counted_and_named(layout, caplog):
    folder = layout(
        '1,COVID-19,PA,X-ray,images,a.jpg', '1,COVID-19,PA,X-ray,images,gone.jpg',
        '2,COVID-19,PA,X-ray,images,', absent=('gone.jpg',))
    found, counts = read(folder)
    assert len(found) == 1 and counts['rows_without_image'] == 2
    assert '2 rows without their image: gone.jpg, line 4' in caplog.text
    (folder / 'images' / 'a.jpg').unlink()
    with pytest.raises(InputError, match='none of 3 rows has an image'):
        read(folder)


def test_findings_outside_of_the_classes_are_counted(layout):
    folder = layout('1,COVID-19,PA,X-ray,images,a.jpg', '2,Moonpox,PA,X-ray,,b.jpg')
    _, counts = read(folder)
    assert counts['findings_not_listed'] == {'Moonpox': 1}
    assert read(folder, classes=('Moonpox',))[0][1]['targets'] == 1
    with pytest.raises(InputError, match="class 'Pneumonai' is no finding of any row"):
        read(folder, classes=('Pneumonai',))


def test_rare_classes_are_named_in_a_warning(layout, caplog):
    folder = layout('1,COVID-19,PA,X-ray,images,a.jpg', '2,SARS,PA,X-ray,images,b.jpg')
    assert len(read(folder, min_per_class=2)[0]) == 2
    assert 'fewer than 2 images: COVID-19 (1), Bacterial (0)' in caplog.text


def test_two_names_of_one_class_are_refused(layout):
    folder = layout('1,COVID-19,PA,X-ray,images,a.jpg')
    with pytest.raises(ConfigError, match='different names are needed'):
        read(folder, classes=('COVID-19', 'covid'))


@pytest.mark.parametrize('newline, encoding', [
    ('\r\n', 'utf-8'), ('\n', 'utf-8-sig'), ('\r', 'utf-8')])
def test_line_ends_and_byte_order_marks_of_any_system(layout, newline, encoding):
    folder = layout('"COVID-19, ARDS",PA,a.jpg', columns='finding,view,filename',
                    encoding=encoding, newline=newline)
    assert read(folder)[0][0]['targets'].tolist() == [1, 1, 1, 0, 0, 1]


def test_early_versions_lack_columns(layout):
    folder = layout('COVID-19,AP,a.jpg', columns='finding,view,Filename')
    found, counts = read(folder)
    assert len(found) == 1 and counts['patients'] == 0
    folder = layout('COVID-19,a.jpg', columns='finding,filename')
    assert len(read(folder, views=('unknown',))[0]) == 1


def test_the_file_itself_may_be_named(layout):
    folder = layout('1,COVID-19,PA,X-ray,images,a.jpg')
    assert len(read(folder / 'metadata.csv')[0]) == 1


def test_names_composed_otherwise_are_found(layout):
    folder = layout('1,COVID-19,PA,X-ray,images,Röntgen.jpg')
    path = folder / 'images' / 'Röntgen.jpg'
    path.rename(path.with_name(unicodedata.normalize('NFD', path.name)))
    assert len(read(folder)[0]) == 1


def test_one_image_in_two_rows_is_read_once_or_refused(layout):
    same = '1,COVID-19,PA,X-ray,images,a.jpg'
    assert len(read(layout(same, same))[0]) == 1
    with pytest.raises(InputError, match='line 3: a.jpg is there twice, with other'):
        read(layout(same, '2,SARS,PA,X-ray,images,a.jpg'))


def test_no_path_leaves_the_folder(layout, save, drawn):
    folder = layout('1,COVID-19,PA,X-ray,images,a.jpg')
    save(folder.parent / 'other.jpg', drawn(0))
    for name in ('../../other.jpg', str(folder.parent / 'other.jpg')):
        (folder / 'metadata.csv').write_text(
            f'{COLUMNS}\n1,COVID-19,PA,X-ray,images,{name}\n')
        with pytest.raises(InputError, match='line 2: a file outside of the folder'):
            read(folder)


@pytest.mark.parametrize('text, reason', [
    ('a;b\n1;2\n', 'separated by semicolons, commas are needed'),
    ('a\tb\n1\t2\n', 'separated by tabs'),
    ('', 'empty file'),
    ('finding,filename\n', 'column names and no rows'),
    ('patientid,finding\n1,x\n', "no column 'filename'"),
    ('patientid,filename\n1,x\n', "no column 'finding'"),
    ('filename,finding,Finding\n1,x,y\n', "column 'finding' is there twice"),
    ('filename,finding\na.jpg,COVID-19, ARDS\n', 'line 2: 3 cells for 2 columns'),
])
def test_tables_that_cannot_be_read_are_named(tmp_path, text, reason):
    (tmp_path / 'metadata.csv').write_text(text)
    with pytest.raises(InputError) as caught:
        read(tmp_path)
    assert str(caught.value).startswith(f'{tmp_path}/metadata.csv: {reason}')
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('data, reason', [
    ('filename,finding\n1,Röntgen\n'.encode('latin-1'), r'not UTF-8 \(line 2\)'),
    ('filename,finding\n'.encode('utf-16'), 'UTF-16, a CSV file in UTF-8'),
    (b'PK\x03\x04 xlsx', 'a spreadsheet, a CSV file'),
])
def test_other_encodings_are_named(tmp_path, data, reason):
    (tmp_path / 'metadata.csv').write_bytes(data)
    with pytest.raises(InputError, match=reason):
        read(tmp_path)
    (tmp_path / 'metadata.csv').unlink()
    with pytest.raises(InputError, match='metadata.csv: No such file'):
        read(tmp_path)


def test_the_real_sample(sample_data, caplog):
    found, counts = read(sample_data / 'cxr' / 'covid_chestxray')
    # 88 rows, 8 of them without an image; of 80 images 8 lateral, 7 of CT.
    assert counts['rows_without_image'] == 8
    assert counts['views_left_out'] == {'L': 8, 'Axial': 4, 'Coronal': 3}
    assert len(found) == counts['images'] == 65
    assert 'nejmoa2001191_f1-PA.jpeg' in caplog.text
    targets = np.stack([record['targets'] for record in found])
    assert np.array_equal(targets.sum(axis=0), [65, 64, 59, 1, 1, 9])
    # Four pictures are there under two ids.
    assert counts['patients'] == 39 and counts['patients_joined'] == 1
    assert counts['near_duplicates'] == 4 and counts['label_conflicts'] == 3
    assert len({record['patient_id'] for record in found}) == 38


def test_a_damaged_image_is_named(layout):
    folder = layout('1,COVID-19,PA,X-ray,images,a.jpg')
    path = folder / 'images' / 'a.jpg'
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ImageError, match='a.jpg: damaged or truncated'):
        read(folder)
