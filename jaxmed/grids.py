"""A grid: named changes of a config, each of them a run of launch.search.

    {'axes': {'architecture': {'lstm': {'task.model.sequence': 'lstm'}, ...},
              'optimizer.learning_rate': [1e-3, 3e-4]}, 'count': 12}
    {'rows': {'full': {}, 'without position': {'task.model.position': False}}}

Axes are multiplied; an axis that is a field by itself may list its values. Rows stand
as they are, the first is what others are compared with. 'title' and 'note' go over and
under the table, 'count' is how many of the product are trained unless told otherwise,
and 'literature' holds others' (name, AUC, sensitivity, specificity, cases, kind).
"""

import copy
import itertools
import json
import math
import re
from pathlib import Path
from typing import Any, Mapping, NamedTuple

import numpy as np

from jaxmed.errors import ConfigError

KEYS = ('axes', 'rows', 'count', 'title', 'note', 'literature')
MOST = 100_000  # runs of a product: more is a mistake
# The same for all runs, lest they could not be compared or averaged.
SHARED = ('task_name', 'data.records', 'data.phantoms', 'evaluate')


class Run(NamedTuple):
    """One run of a grid."""

    name: str  # of its folder
    title: str  # of its row
    choices: Mapping[str, str]  # axis -> its choice; {} of a row
    changes: Mapping[str, Any]  # dotted field -> value
    config: Mapping[str, Any]  # nested dicts, with these changes


def read_grid(path):
    """A grid from a JSON file."""
    try:
        return json.loads(Path(path).read_text())
    except OSError as error:
        raise ConfigError(path, error.strerror) from None
    except ValueError as error:
        raise ConfigError(path, f'not JSON: {error}') from None


def expand(grid, config, *, count, seed, name):
    """The runs of a grid.

    Where `count` is less than the product of the axes, the runs are drawn such that
    every choice of an axis comes about equally often; the first takes the first choice
    of each axis. The first n are the same for each count, so that a search can be made
    larger later.

    Args:
        grid: mapping as above.
        config: nested dicts, before the changes.
        count: how many runs; None takes the grid's own count, or all.
        seed: of the draw.
        name: of the grid, for messages.

    Returns:
        list of Run.

    Raises:
        ConfigError: no grid, or naming the field that the config does not have, the
            value of another type than its own, or the two runs of the same name.
    """
    axes, rows = _check(grid, name)
    if rows is not None:
        if count is not None:
            raise ConfigError('--count', f'{name} has rows, which are all trained')
        listed = [(title, {}, changes) for title, changes in rows.items()]
    else:
        listed = _multiply(axes, grid.get('count') if count is None else count, seed,
                           name)
    found, names = [], {}
    for title, choices, changes in listed:
        folder = re.sub(r'[^A-Za-z0-9._]+', '-', title).strip('-.')
        if not folder or len(folder) > 150 or folder.casefold() in names:
            raise ConfigError(
                f'grid {name}', f'{title!r} can not name a run: it is empty, too long '
                f'or the same as {names.get(folder.casefold())!r}')
        names[folder.casefold()] = title
        found.append(Run(
            folder, title, choices, changes, change(config, changes, name=name)))
    return found


def change(config, changes, *, name):
    """A config with dotted fields changed; the given one stays as it is."""
    config = copy.deepcopy(config)
    for field, value in changes.items():
        *path, last = field.split('.')
        place = config
        for part in path:
            place = place.get(part) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place:
            raise ConfigError(f'grid {name}', f'the config has no field {field!r}')
        if field in SHARED or path and path[0] in SHARED:
            raise ConfigError(f'grid {name}', f'{field!r} is the same for all runs')
        place[last] = _fit(value, place[last], field, name)
    return config


def _fit(value, before, field, name):
    """A value of the type that stood there; JSON has no tuples and few floats."""
    kinds = {float: (int, float), tuple: (list, tuple), list: (list, tuple)}
    kind = type(before)
    fits = isinstance(value, kinds.get(kind, kind))
    if not fits or isinstance(value, bool) != isinstance(before, bool):
        raise ConfigError(
            f'grid {name}', f'{field!r} is {before!r}, which {value!r} does not fit')
    if isinstance(before, dict):
        raise ConfigError(f'grid {name}', f'{field!r} has fields of its own: name them')
    return kind(value)


def flatten(config, prefix=''):
    """Nested dicts -> {dotted field: value}."""
    fields = {}
    for name, value in config.items():
        inside = isinstance(value, dict)
        fields |= (
            flatten(value, f'{prefix}{name}.') if inside else {prefix + name: value})
    return fields


def _check(grid, name):
    """(axes or None, rows or None) of a grid, each choice a mapping of fields."""
    where = f'grid {name}'
    if not isinstance(grid, Mapping) or ('axes' in grid) == ('rows' in grid):
        raise ConfigError(where, "is an object with either 'axes' or 'rows'")
    if unknown := sorted(set(grid) - set(KEYS)):
        raise ConfigError(where, f'{unknown[0]!r} is none of {", ".join(KEYS)}')
    number = grid.get('count', 1)
    if not isinstance(number, int) or number < 1:
        raise ConfigError(where, f"'count' is {number!r}, not a positive number")
    for key in ('title', 'note'):
        if not isinstance(grid.get(key, ''), str):
            raise ConfigError(where, f'{key!r} is no text')
    others = grid.get('literature', ())
    if not isinstance(others, (list, tuple)) or not all(
        isinstance(row, (list, tuple)) and len(row) == 6 for row in others
    ):
        raise ConfigError(where, "'literature' is no list of rows of six")
    if 'rows' in grid:
        return None, _check_choices(grid['rows'], 'rows', where)
    axes = grid['axes']
    if not isinstance(axes, Mapping) or not axes:
        raise ConfigError(where, "'axes' is no object of axes")
    axes = {
        axis: _check_choices(_name_values(axis, choices, where), axis, where)
        for axis, choices in axes.items()
    }
    owners = {}
    for axis, choices in axes.items():
        for field in {field for changes in choices.values() for field in changes}:
            if owners.setdefault(field, axis) != axis:
                raise ConfigError(
                    where, f'{field!r} is changed by {owners[field]!r} and {axis!r}')
    return axes, None


def _check_choices(choices, axis, where):
    if not isinstance(choices, Mapping) or not choices or not all(
        isinstance(changes, Mapping) for changes in choices.values()
    ):
        raise ConfigError(
            where, f'{axis!r} is no object of named changes, each of them an object: '
            'field -> value')
    return choices


def _name_values(axis, choices, where):
    """Values of a field as named changes; what is no list stays."""
    if not isinstance(choices, (list, tuple)):
        return choices
    named = {}
    for value in choices:
        word = f'{value:g}' if isinstance(value, float) else str(value)
        if isinstance(value, (list, tuple)):
            word = 'x'.join(map(str, value)) or 'own'
        named[f'{axis.rpartition(".")[2]} {word}'] = {axis: value}
    if len(named) < len(choices):
        raise ConfigError(where, f'{axis!r} lists a value twice: {list(choices)}')
    return named


def _multiply(axes, count, seed, name):
    """(title, choices, changes) of `count` runs of the product, or of all."""
    total = math.prod(map(len, axes.values()))
    if total > MOST:
        raise ConfigError(f'grid {name}', f'{total} runs; the limit is {MOST}')
    if count is not None and count > total:
        raise ConfigError('--count', f'{count}, but {name} has {total} runs')
    every = np.array(list(itertools.product(*(range(len(c)) for c in axes.values()))))
    chosen = range(total) if count in (None, total) else _draw(every, count, seed)
    listed = []
    for place in chosen:
        choices = {
            axis: list(axes[axis])[number]
            for axis, number in zip(axes, every[place])
        }
        changes = {
            field: value for axis, choice in choices.items()
            for field, value in axes[axis][choice].items()
        }
        listed.append(('-'.join(choices.values()), choices, changes))
    return listed


def _draw(every, count, seed):
    """Places of `count` rows of [runs, axes], each choice about equally often.

    One after the other, the run whose choices were taken least often so far; of equals
    the one that shares the fewest pairs of choices with those taken; then the first in
    an order drawn by the seed.
    """
    order = np.concatenate(
        [[0], 1 + np.random.default_rng(seed).permutation(len(every) - 1)])
    taken = [np.zeros(column.max() + 1) for column in every.T]
    pairs, free, chosen = np.zeros(len(every)), np.ones(len(every), bool), []
    for _ in range(count):
        # As a share of what is due: an axis of two choices takes each more often.
        singles = sum(
            counts[column] * counts.size for counts, column in zip(taken, every.T))
        ranks = np.lexsort((pairs[order], singles[order], ~free[order]))
        place = int(order[ranks[0]])
        free[place] = False
        chosen.append(place)
        shared = (every == every[place]).sum(axis=1)
        pairs += shared * (shared - 1) / 2
        for counts, number in zip(taken, every[place]):
            counts[number] += 1
    return chosen
