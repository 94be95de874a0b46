"""Tables of ratings: numbers, files, splits, and no subject in a message."""

import math

import pytest

from jaxmed.data import ratings
from jaxmed.errors import InputError


@pytest.fixture
def table(tmp_path):
    """(text) -> the folder of a ratings.csv with that text, beside a.mp4 to f.mp4."""
    for name in 'abcdef':
        (tmp_path / f'{name}.mp4').write_bytes(b'')

    def write(text):
        (tmp_path / 'ratings.csv').write_text(text)
        return tmp_path

    return write


def refuse(folder, reason, read=ratings.read_ratings):
    with pytest.raises(InputError) as caught:
        read(folder)
    message = str(caught.value)
    assert message.startswith(str(folder)) and '\n' not in message
    assert reason in message, message
    assert 'secret' not in message


def test_rows_are_read_in_their_order_with_exercises_normalised(table):
    folder = table(
        'Subject,exercise,video,rating,group,split\n'
        'secret1,Touch_Toes,a.mp4,85,BackPain,train\n'
        'secret2, touch  toes ,b.mp4,0.5,,Validation\n')
    assert ratings.read_ratings(folder) == [
        ('secret1', 'touch toes', folder / 'a.mp4', 85.0, 'BackPain', 'train'),
        ('secret2', 'touch toes', folder / 'b.mp4', 0.5, '', 'valid'),
    ]


def test_a_missing_rating_is_unknown_and_the_table_may_be_named(table):
    folder = table('subject,exercise,video,rating\np,jump,a.mp4,\np,jump,b.mp4,NaN\n')
    found = ratings.read_ratings(folder / 'ratings.csv')
    assert [math.isnan(row.rating) for row in found] == [True, True]
    assert found[0].group == found[0].split == ''


def test_a_video_may_be_a_folder_of_frames_and_written_as_on_windows(table):
    (table('').joinpath('p1', 'frames')).mkdir(parents=True)
    folder = table('subject,exercise,video,rating\np,jump,p1\\frames,100\n')
    assert ratings.read_ratings(folder)[0].file == folder / 'p1/frames'


@pytest.mark.parametrize('rating, reason', [
    ('101', 'line 3: rating 101 is outside 0-100'),
    ('-1', 'line 3: rating -1 is outside 0-100'),
    ('inf', 'line 3: rating inf is outside 0-100'),
    ('good', "line 3: rating 'good' is no number"),
])
def test_a_rating_outside_its_range_names_its_line(table, rating, reason):
    refuse(table('subject,exercise,video,rating\nsecret,jump,a.mp4,1\n'
                 f'secret,jump,b.mp4,{rating}\n'), reason)


def test_rows_that_say_too_little_are_refused(table):
    head = 'subject,exercise,video,rating,split\n'
    refuse(table(f'{head},jump,a.mp4,1,\n'), 'line 2: no subject')
    refuse(table(f'{head}unknown,jump,a.mp4,1,\n'), 'line 2: no subject')
    refuse(table(f'{head}secret,,a.mp4,1,\n'), 'line 2: no exercise')
    refuse(table(f'{head}secret,jump,,1,\n'), 'line 2: no path')
    refuse(table(f'{head}secret,jump,x.mp4,1,\n'), 'absent; ratings.csv line 2')
    refuse(table(f'{head}secret,jump,a.mp4,1,dev\n'), "line 2: split is 'dev'")
    (table('') / 'x').mkdir()
    refuse(table(f'{head}secret,jump,a.mp4,1,\nsecret,jump,x/../a.mp4,2,\n'),
           'line 3: x/../a.mp4 is in line 2 already')
    refuse(table('subject,video,rating\nsecret,a.mp4,1\n'), "no column 'exercise'")


def test_one_subject_in_two_given_splits_is_refused(table):
    head = 'subject,exercise,video,rating,split\nsecret,jump,a.mp4,1,train\n'
    refuse(table(f'{head}secret,jump,b.mp4,1,\nsecret,jump,c.mp4,1,test\n'),
           "lines 2 and 4: one subject in two splits, 'train' and 'test'")
    assert len(ratings.read_ratings(table(f'{head}secret,jump,b.mp4,1,\n'))) == 2


def test_one_subject_in_several_spellings_is_one(table):
    head = 'subject,exercise,video,rating,split\n'
    found = ratings.read_ratings(table(
        f'{head}P1,jump,a.mp4,1,\np1,walk,b.mp4,1,\n'
        'Zo\u00eb,jump,c.mp4,1,\nZOE\u0308,walk,d.mp4,1,\n'))
    one, again, two, other = (row.subject for row in found)
    assert one == again and two == other != one
    refuse(table(f'{head}Secret,jump,a.mp4,1,train\nsecret,jump,b.mp4,1,test\n'),
           "lines 2 and 3: one subject in two splits, 'train' and 'test'")


def test_a_split_that_one_row_states_is_that_of_the_subject(table):
    found = ratings.read_ratings(table(
        'subject,exercise,video,rating,split\np,jump,a.mp4,1,\nq,jump,b.mp4,1,\n'
        'P,walk,c.mp4,,test\np,walk,d.mp4,1,\n'))
    assert [row.split for row in found] == ['test', '', 'test', 'test']


@pytest.fixture
def kimore(tmp_path):
    def write(rows, files):
        head = 'subject,group,exercise,frames,clinical_TS,clinical_PO\r\n'
        (tmp_path / 'scores.csv').write_bytes((head + '\r\n'.join(rows)).encode())
        for name in files:
            (tmp_path / name).write_bytes(b'')
        return tmp_path

    return write


def test_clinical_scores_of_kimore_are_doubled(kimore):
    folder = kimore(['B_ID2,BackPain,1,904,38,12', 'B_ID2,BackPain,5,1,16.25,'],
                    ['B_ID2_Es1.csv.gz', 'B_ID2_Es5.csv.gz', 'notes.txt'])
    assert ratings.read_kimore(folder) == [
        ('b_id2', 'es1', folder / 'B_ID2_Es1.csv.gz', 76.0, 'BackPain', ''),
        ('b_id2', 'es5', folder / 'B_ID2_Es5.csv.gz', 32.5, 'BackPain', ''),
    ]


def test_files_of_kimore_in_two_spellings_are_of_one_subject(kimore):
    folder = kimore(
        ['e_id\u00e91,Expert,1,9,40,', 'E_ID\u00c91,Expert,2,9,30,'],
        ['E_IDE\u03011_Es1.csv.gz', 'e_id\u00e91_es2.csv.gz'])
    found = ratings.read_kimore(folder)
    assert {row.subject for row in found} == {'e_id\u00e91'}
    assert sorted(row.rating for row in found) == [60, 80]


def test_recordings_without_a_score_are_unrated_and_rows_without_a_file_left_out(
    kimore, caplog
):
    folder = kimore(
        ['A,Expert,1,9,,', 'A,Expert,2,9,40,', 'C,Expert,1,9,40,'],
        ['A_Es1.csv.gz', 'A_Es3.csv', 'B_Es1.csv.gz'])
    found = ratings.read_kimore(folder)
    assert [(row.subject, row.exercise, row.group) for row in found] == [
        ('a', 'es1', 'Expert'), ('a', 'es3', 'Expert'), ('b', 'es1', '')]
    assert all(math.isnan(row.rating) for row in found)
    assert '3 recordings without a score: A_Es1.csv.gz' in caplog.text
    assert '2 rows without a file: line: 3, 4' in caplog.text


def test_tables_of_kimore_that_contradict_themselves_are_refused(kimore):
    def kimore_refuses(rows, files, reason):
        refuse(kimore(rows, files), reason, ratings.read_kimore)

    files = ['secret_Es1.csv']
    kimore_refuses(['secret,E,1,9,51,'], files, 'line 2: rating 51 is outside 0-50')
    kimore_refuses(['secret,E,6,9,5,'], files, "line 2: exercise '6' is none of 1 to 5")
    kimore_refuses(['secret,E,1,9,5,', 'secret,E,1,9,6,'], files,
                   'line 3: the recording of line 2 again')
    with pytest.raises(InputError, match='the same recording as a_Es1.csv'):
        ratings.read_kimore(kimore(['a,E,1,9,5,'], ['a_Es1.csv', 'a_Es1.csv.gz']))
