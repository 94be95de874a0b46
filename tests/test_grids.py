"""Grids: what they multiply, draw and refuse, and those of the paper."""

import copy
import re

import jax
import numpy as np
import pytest

from configs import vertebral_fracture as config_file
from configs.grids import GRIDS
from jaxmed import grids, runs
from jaxmed.errors import ConfigError

CONFIG = {
    'task_name': 'toy', 'task': {'model': {'depth': 2, 'name': 'a'}, 'shape': ()},
    'data': {'records': '', 'phantoms': 0}, 'optimizer': {'rate': 0.1},
    'train': {'seed': 0, 'long': True}, 'evaluate': {'views': 1},
}
AXES = {
    'depth': {'one': {'task.model.depth': 1}, 'two': {'task.model.depth': 2}},
    'optimizer.rate': [0.1, 0.01, 0.001],
    'task.shape': [(), [8, 8]],
}


def expand(grid, count=None, seed=0):
    return grids.expand(grid, CONFIG, count=count, seed=seed, name='g')


def test_axes_are_multiplied_and_change_nothing_else():
    before = copy.deepcopy(CONFIG)
    listed = expand({'axes': AXES})
    assert len(listed) == 2 * 3 * 2 and CONFIG == before
    assert listed[0].name == 'one-rate-0.1-shape-own'
    assert listed[-1].name == 'two-rate-0.001-shape-8x8'
    last = listed[-1]
    assert last.choices == {
        'depth': 'two', 'optimizer.rate': 'rate 0.001', 'task.shape': 'shape 8x8'}
    assert last.config == CONFIG | {
        'task': {'model': {'depth': 2, 'name': 'a'}, 'shape': (8, 8)},
        'optimizer': {'rate': 0.001}}


def test_rows_stand_as_they_are():
    listed = expand({'rows': {'full': {}, 'max + place': {'train.long': False}}})
    assert [(r.name, r.title) for r in listed] == [
        ('full', 'full'), ('max-place', 'max + place')]
    assert listed[0].config == CONFIG and not listed[1].config['train']['long']


@pytest.mark.parametrize('seed', [0, 1])
def test_a_draw_takes_every_choice_about_equally_often_and_can_grow(seed):
    axes = {name: {f'{name}{i}': {} for i in range(size)}
            for name, size in dict(a=3, b=2, c=2, d=4).items()}
    twelve = expand({'axes': axes}, count=12, seed=seed)
    assert twelve[0].name == 'a0-b0-c0-d0'
    for axis, choices in axes.items():
        taken = [sum(r.choices[axis] == choice for r in twelve) for choice in choices]
        assert max(taken) - min(taken) <= 1, (axis, taken)
    # No two axes go hand in hand: each pair of choices comes, where 12 runs allow it.
    for one, two in ('ab', 'ac', 'bc', 'bd', 'cd'):
        pairs = {(r.choices[one], r.choices[two]) for r in twelve}
        assert len(pairs) == len(axes[one]) * len(axes[two]), (one, two)
    seven = expand({'axes': axes}, count=7, seed=seed)
    assert [r.name for r in seven] == [r.name for r in twelve[:7]]
    assert len(expand({'axes': axes, 'count': 5}, seed=seed)) == 5
    other = expand({'axes': axes}, count=12, seed=seed + 7)
    assert [r.name for r in other] != [r.name for r in twelve]


@pytest.mark.parametrize('grid, words', [
    ([], 'axes'), ({'axes': {}, 'rows': {}}, 'either'), ({'rows': {}}, "'rows'"),
    ({'axes': AXES, 'cuont': 3}, "'cuont'"), ({'axes': AXES, 'count': 0}, 'count'),
    ({'axes': AXES, 'title': 3}, "'title'"),
    ({'axes': AXES, 'literature': [('a', 1)]}, "'literature'"),
    ({'rows': {'a': {'task.modle.depth': 1}}}, "no field 'task.modle.depth'"),
    ({'rows': {'a': {'task.model.depth.x': 1}}}, "no field 'task.model.depth.x'"),
    ({'rows': {'a': {'task.model.depth': 'deep'}}}, "'deep' does not fit"),
    ({'rows': {'a': {'task.model.depth': True}}}, 'True does not fit'),
    ({'rows': {'a': {'task.model': {'depth': 1}}}}, 'fields of its own'),
    ({'rows': {'a': {'data.records': '/b'}}}, 'same for all runs'),
    ({'rows': {'a': {'task_name': 'other'}}}, 'same for all runs'),
    ({'rows': {'a': {'evaluate.views': 2}}}, 'same for all runs'),
    ({'rows': {'a b': {}, 'A-b': {}}}, "the same as 'a b'"),
    ({'rows': {'../..': {}}}, 'can not name a run'),
    ({'rows': {'a': 3}}, "'rows'"),
    ({'axes': {'optimizer.rate': [0.1, 1e-1]}}, 'a value twice'),
    ({'axes': {'x': {'a': {'train.seed': 1}}, 'train.seed': [1]}}, "by 'x' and"),
    ({'axes': {f'a{i}': {str(j): {} for j in range(10)} for i in range(6)}}, 'limit'),
])
def test_a_grid_that_does_not_fit_is_told_where(grid, words):
    with pytest.raises(ConfigError, match=re.escape(words)) as raised:
        expand(grid)
    assert str(raised.value).startswith('grid g: ')


@pytest.mark.parametrize('variant', ['', 'phantom'])
def test_the_papers_grids_fit_the_config_of_fractures(variant):
    config = config_file.get_config(variant).to_dict()
    found = {
        name: grids.expand(make(config), config, count=None, seed=0, name=name)
        for name, make in GRIDS['vertebral_fracture'].items()}
    # The config's own setting, but of the architecture.
    first = found['pool'][0].config
    model = {name: first['task']['model'][name] for name in (
        'convolutions', 'sequence', 'aggregation')}
    assert first == config | {
        'task': config['task'] | {'model': config['task']['model'] | model}}
    assert len(found['pool'][0].choices) == 6
    full, *others = found['ablation']
    assert full.config == config
    for one in others:
        assert one.config != config, f'{one.name} leaves out nothing'
    for listed in found.values():
        for one in listed:
            runs.make_task(one.config)


@pytest.mark.parametrize('variant', ['', 'phantom'])
def test_the_ablation_leaves_no_augmentation(variant):
    config = config_file.get_config(variant).to_dict()
    # What the config leaves out is there as well, whatever comes to be added.
    for name, value in [*config['task'].items()]:
        if isinstance(value, float) and not value and name != 'context_mm':
            config['task'][name] = 0.1
    listed = grids.expand(
        GRIDS['vertebral_fracture']['ablation'](config), config, count=None, seed=0,
        name='ablation')
    batch = {'inputs': {'patches': np.random.default_rng(0).random(
        (2, 3, *config['task']['patch_shape'], 1), np.float32)}}

    def changed(name):
        (one,) = (one for one in listed if one.name == name)
        after = runs.make_task(one.config).augment(
            jax.random.split(jax.random.key(0), 2), batch)['inputs']['patches']
        return not np.array_equal(after, batch['inputs']['patches'])

    assert changed('full') and not changed('without-augmentation')


def test_all_learning_rates_of_an_optimiser_are_divided_together():
    config = config_file.get_config('').to_dict()
    config['optimizer'] |= {'learning_rate': 0.003, 'kernel_rate': 0.03}
    listed = grids.expand(
        GRIDS['vertebral_fracture']['pool'](config), config, count=None, seed=0,
        name='pool')
    rates = {(one.config['optimizer']['learning_rate'],
              one.config['optimizer']['kernel_rate']) for one in listed}
    np.testing.assert_allclose(sorted(rates), [(0.001, 0.01), (0.003, 0.03)])
