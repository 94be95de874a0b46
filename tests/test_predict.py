"""Rows of a split: complete, in order, averaged over members and views."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmed import evaluate, predict, train
from jaxmed.errors import RecordError
from jaxmed.types import View


def members_of(task, count=1):
    import optax

    states = [train.init_state(task, optax.sgd(0.1), seed=n) for n in range(count)]
    return [{'params': s.params, 'model_state': s.model_state} for s in states]


def test_rows_come_in_the_order_of_the_records_for_any_batch_size(toy_task, examples):
    task = toy_task()
    (member,) = members_of(task)
    split_rows = predict.make_split_rows([task], views=1)
    source = examples(11)
    inputs = np.stack([source[i]['inputs'] for i in range(11)])
    by_hand = task.model.apply(
        {'params': member['params'], **member['model_state']}, inputs, train=False
    )
    for batch_size in (1, 4, 7, 50):
        rows = split_rows([member], source, batch_size=batch_size)
        assert rows['example_id'].tolist() == [f'example-{i}' for i in range(11)]
        np.testing.assert_allclose(rows['prediction'], by_hand, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            rows['loss'], (by_hand - inputs[:, 0]) ** 2, rtol=1e-4, atol=1e-6)


def test_members_and_views_are_averaged(toy_task, examples):
    task = toy_task()
    members = members_of(task, 2)
    one = task._replace(views=(*task.views, View(lambda x: -x, lambda y: y + 1.0)))
    # Members may preprocess differently.
    two = one._replace(
        preprocess=lambda batch: batch | {'inputs': 2.0 * batch['inputs']})
    batch = {'inputs': jnp.array(examples(4)._inputs, jnp.float32)}
    together = predict.make_apply([one, two], views=2)(members, batch)
    apart = [
        predict.make_apply([task._replace(views=(view,))], views=1)([member], batch)
        for task, member in zip((one, two), members) for view in one.views
    ]
    np.testing.assert_allclose(together, np.mean(apart, axis=0), rtol=1e-5, atol=1e-6)
    assert not np.allclose(apart[0], apart[1])


def test_a_baseline_takes_the_models_place(toy_task, examples):
    task = toy_task()
    split_rows = predict.make_split_rows(
        [task], views=1, baseline=lambda batch: batch['inputs'][:, 0]
    )
    rows = split_rows(members_of(task), examples(11), batch_size=4)
    np.testing.assert_array_equal(rows['prediction'], rows['target'])


def test_ids_travel_between_processes():
    ids = np.array(['a', 'smear-7@0,128', 'Färbung'])
    np.testing.assert_array_equal(predict._decode(predict._encode(ids, 20)), ids)


def test_cases_that_were_trained_on_are_left_out(examples):
    source = examples(8)
    cases = [
        {'split': 'test', 'case_id': f'example-{i}', 'patient_id': f'patient-{i // 2}',
         'content_id': f'content-{i}'} for i in range(8)
    ]
    seen = [
        {'split': 'train', 'patient_id': 'patient-0', 'content_id': ''},
        {'split': 'valid', 'patient_id': 'other', 'content_id': 'content-5'},
        {'split': 'test', 'patient_id': 'patient-3', 'content_id': 'content-7'},
    ]
    rest, dropped = evaluate.leave_out_seen(source, cases, split='test', seen_in=seen)
    assert dropped == ['example-0', 'example-1', 'example-5']
    assert [rest[i]['case_id'] for i in range(len(rest))] == [
        f'example-{i}' for i in (2, 3, 4, 6, 7)]
    everything = [case | {'split': 'train'} for case in cases]
    with pytest.raises(RecordError, match='all cases to be measured were trained on'):
        evaluate.leave_out_seen(source, cases, split='test', seen_in=everything)


def test_shapes_of_the_weights_are_known_without_computing_any(toy_task):
    task = toy_task()
    spec = predict.weights_spec(task)
    (member,) = members_of(task)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), spec) == jax.tree.map(
        lambda x: (x.shape, x.dtype), member
    )


def test_what_lies_on_both_sides_of_a_split_is_counted():
    cases = [
        {'split': split, 'patient_id': patient, 'content_id': content}
        for split, patient, content in (
            ('train', 'a', '1'), ('train', 'b', '2'), ('valid', 'c', '3'),
            ('test', 'a', '4'), ('test', 'a', '5'), ('test', 'd', '3'),
            ('test', '', ''), ('train', '', ''),
        )
    ]
    assert evaluate.count_shared(cases, split='test') == {
        'shared_patients': 1, 'shared_images': 1}
    assert evaluate.count_shared(cases, split='valid') == {
        'shared_patients': 0, 'shared_images': 0}
    assert evaluate.count_shared(cases[:2], split='train') == {
        'shared_patients': 0, 'shared_images': 0}
