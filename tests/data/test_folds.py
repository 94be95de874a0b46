import numpy as np
import pytest

from jaxmed.data import folds, records
from jaxmed.errors import ConfigError


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    """Eleven people with two cases of two records each."""
    folder = tmp_path_factory.mktemp('folds') / 'records'

    def every():
        for person in range(11):
            for case in range(2):
                for part in range(2):
                    name = f'{person}-{case}'
                    yield {
                        'inputs': np.full(3, person, np.float32), 'case_id': name,
                        'example_id': f'{name}@{part}', 'patient_id': f'p{person}',
                        'content_id': name}

    records.write_records(
        every(), folder, task='t', fractions=(0.5, 0.25, 0.25), seed=1)
    return folder


def deal(prepared, output, fold, *, count=4, valid=0.25, by_person=True):
    folds.deal(prepared, output, task='t', labels=(), folds=count, fold=fold,
               valid=valid, seed=0, by_person=by_person)
    return records.read_cases(output)


def test_everyone_is_tested_once_and_never_on_both_sides(prepared, tmp_path):
    tested = []
    for fold in range(4):
        cases = deal(prepared, tmp_path / str(fold), fold)
        sides = {split: {row['patient_id'] for row in cases if row['split'] == split}
                 for split in records.SPLITS}
        assert sum(map(len, sides.values())) == len(set().union(*sides.values())) == 11
        assert len(sides['test']) in (2, 3) and len(sides['valid']) == 2
        assert len(cases) == 22
        tested += sides['test']
    assert sorted(tested) == sorted({f'p{person}' for person in range(11)})


def test_folds_of_cases_put_people_on_both_sides(prepared, tmp_path):
    cases = deal(prepared, tmp_path / 'leak', 0, valid=0.0, by_person=False)
    sides = {}
    for row in cases:
        sides.setdefault(row['case_id'].split('-')[0], set()).add(row['split'])
    assert any(both == {'train', 'test'} for both in sides.values())
    source = records.open_records(tmp_path / 'leak', 'test', task='t', verify=True)
    # The records of a case stay together.
    names = [source[place]['case_id'] for place in range(len(source))]
    assert all(names.count(name) == 2 for name in names)


def test_more_folds_than_people_are_refused(prepared, tmp_path):
    with pytest.raises(ConfigError, match='12 folds of 11'):
        deal(prepared, tmp_path / 'many', 0, count=12)
    with pytest.raises(ConfigError, match='--folds'):
        deal(prepared, tmp_path / 'one', 0, count=1)
    assert not (tmp_path / 'many').exists()
