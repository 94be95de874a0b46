"""Cross-validation: prepared records, dealt out anew."""

import hashlib
from pathlib import Path

from jaxmed.data import records
from jaxmed.errors import ConfigError


def deal(
    folder, output, *, task, labels, folds, fold, valid, seed, by_person
):
    """Writes all records of a folder anew, with one fold of the people as the test.

    Folds are of equal size, give or take one person. What was dealt before stays.

    Args:
        folder: of prepared records; its splits don't matter.
        output: folder to write.
        task, labels: of records.write_records.
        folds: how many.
        fold: number of the one that is the test, from 0.
        valid: share of the other people that validate.
        seed: of the folds.
        by_person: False deals out cases, whoever they are of, as if each were of a
            person of its own: people are on both sides, and results promise too much.
            Who it is of is kept as 'person_id', for intervals over people.

    Raises:
        ConfigError: fewer people, or cases, than folds; numbers out of range; the
            output is there, and was dealt in another way.
    """
    if folds < 2 or not 0 <= fold < folds or not 0 <= valid < 1:
        raise ConfigError('--folds', f'{folds} with a share of {valid} to validate')
    plan = dict(folds=folds, fold=fold, valid=valid, seed=seed, by_person=by_person,
                records=records.fingerprint(folder))
    if Path(output).exists():
        before = records.read_manifest(output, task=task).get('found', {})
        if before.get('dealt', plan) != plan:
            raise ConfigError(output, 'was dealt from other records, or into other '
                              'folds: take another --workdir')
        return
    splits = records.read_manifest(folder, task=task)['splits']
    sources = [
        records.open_records(folder, split, task=task, verify=False)
        for split in records.SPLITS if splits[split]['records']]
    column = 'patient_id' if by_person else 'case_id'
    names = sorted(
        {row[column] for row in records.read_cases(folder)},
        key=lambda name: hashlib.sha256(f'{seed}:{name}'.encode()).digest())
    if len(names) < folds:
        raise ConfigError('--folds', f'{folds} folds of {len(names)}')
    others = [name for place, name in enumerate(names) if place % folds != fold]
    validating = set(others[:round(valid * len(others))])
    sides = dict.fromkeys(names, 'test') | {
        name: 'valid' if name in validating else 'train' for name in others}

    found = records.read_manifest(folder, task=task).get('found', {})

    def dealt():
        for source in sources:
            for place in range(len(source)):
                record = source[place]
                side = sides[record[column]]
                if not by_person:
                    digest = hashlib.sha256(record['case_id'].encode()).hexdigest()
                    record |= {'person_id': record['patient_id'],
                               'patient_id': digest[:16]}
                yield record | {'split': side}
        return found | {'dealt': plan}

    records.write_records(
        dealt(), output, task=task, labels=labels, fractions=(1, 0, 0), seed=seed)
