"""The paper's tables, networks by data sets, with our values beside its own."""

import csv
import io
import math
from typing import Any, Mapping, NamedTuple

# Paper 003 (Concordia University, COMP 6721, group D), section 3.1, 'Parameters and
# Hyperparameters': metric -> data set -> network -> value. Accuracies are printed there
# in percent. Neither splits nor averaging are described; patients are on both sides.
# The F1 row of data set 3 stands apart from its table in the text we have, in this
# order and without a label. Two of its values can't be macro means of the precision and
# recall above them, since macro F1 is at most half their sum: 0.16, 0.07 and 0.15.
# Its data set 3 has 27 classes, each cell a mean over them; ours has the findings that
# occur often enough to be measured.
PAPER = {
    'accuracy': {
        'Dataset1': {'AlexNet': 0.9151, 'VGG11': 0.9436, 'ResNet50': 0.9094},
        'Dataset2': {'AlexNet': 0.9312, 'VGG11': 0.9548, 'ResNet50': 0.9426},
        'Dataset3': {'AlexNet': 0.7754, 'VGG11': 0.7503, 'ResNet50': 0.6402},
    },
    'precision': {
        'Dataset1': {'AlexNet': 0.9361, 'VGG11': 0.9461, 'ResNet50': 0.9090},
        'Dataset2': {'AlexNet': 0.9351, 'VGG11': 0.9568, 'ResNet50': 0.9451},
        'Dataset3': {'AlexNet': 0.2143, 'VGG11': 0.0815, 'ResNet50': 0.1945},
    },
    'recall': {
        'Dataset1': {'AlexNet': 0.9106, 'VGG11': 0.9550, 'ResNet50': 0.9236},
        'Dataset2': {'AlexNet': 0.9317, 'VGG11': 0.9549, 'ResNet50': 0.9429},
        'Dataset3': {'AlexNet': 0.1148, 'VGG11': 0.0492, 'ResNet50': 0.1115},
    },
    'f1': {
        'Dataset1': {'AlexNet': 0.9152, 'VGG11': 0.8880, 'ResNet50': 0.9095},
        'Dataset2': {'AlexNet': 0.9313, 'VGG11': 0.9548, 'ResNet50': 0.9426},
        'Dataset3': {'AlexNet': 0.1154, 'VGG11': 0.2615, 'ResNet50': 0.2692},
    },
}
TITLES = {
    'accuracy': 'Accuracy', 'precision': 'Precision', 'recall': 'Recall',
    'f1': 'F1 score',
}
# What the paper's data sets are called in this project.
DATA_SETS = {
    'Dataset1': 'radiography', 'Dataset2': 'three_class', 'Dataset3': 'covid_chestxray',
}
NOT_RUN = 'no run of this network on this data set was given'


class Entry(NamedTuple):
    """One run: what was trained on what, and its values."""

    network: str  # as in PAPER, or any other
    data_set: str  # as in PAPER, or any other
    values: Mapping[str, Mapping[str, Any]]  # of report.summarise
    reason: str = ''  # why values lack: said beside the empty cell


def paper_values(network, data_set):
    """The paper's cells of one run, metric -> value: for a Card. Empty if it has none.
    """
    return {
        metric: cells[data_set][network] for metric, cells in PAPER.items()
        if network in cells.get(data_set, {})
    }


def cells(entries):
    """Every cell of the four tables, ours beside the paper's.

    The paper's rows and columns come first and are all there; other networks and data
    sets follow in the order of the entries.

    Args:
        entries: Entry sequence, one per (network, data set).

    Returns:
        list of dicts with the keys of COLUMNS; None where there is no value, and then
        a reason.

    Raises:
        ValueError: two entries are of the same network and data set.
    """
    runs = {}
    for entry in entries:
        if runs.setdefault((entry.network, entry.data_set), entry) is not entry:
            raise ValueError(f'two entries of {entry.network} on {entry.data_set}')
    networks = dict.fromkeys([*PAPER['accuracy']['Dataset1'], *(n for n, _ in runs)])
    data_sets = dict.fromkeys([*PAPER['accuracy'], *(name for _, name in runs)])
    table = []
    for metric, printed in PAPER.items():
        for data_set in data_sets:
            for network in networks:
                entry = runs.get((network, data_set))
                value, reason = {}, NOT_RUN
                if entry is not None:
                    value = entry.values.get(metric, {})
                    reason = entry.reason or f'the run has no {TITLES[metric].lower()}'
                found = _number(value.get('value'))
                if found is not None:
                    reason = ''
                elif 'value' in value:
                    reason = 'undefined on these images'
                table.append({
                    'metric': metric, 'data_set': data_set, 'network': network,
                    'value': found, 'low': _number(value.get('low')),
                    'high': _number(value.get('high')),
                    'n_images': value.get('n_cases'),
                    'n_patients': value.get('n_patients'),
                    'paper': printed.get(data_set, {}).get(network), 'reason': reason,
                })
    return table


COLUMNS = (
    'metric', 'data_set', 'network', 'value', 'low', 'high', 'n_images', 'n_patients',
    'paper', 'reason',
)


def _number(value):
    return None if value is None or not math.isfinite(value) else float(value)


def to_csv(entries):
    """All cells as CSV, one line each: COLUMNS, empty where there is no value."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator='\n')
    writer.writeheader()
    writer.writerows(cells(entries))
    return stream.getvalue()


def to_markdown(entries):
    """The paper's four tables as Markdown, with the reasons for empty cells below.

    A cell reads 'ours (95% interval; images, patients) / paper'.
    """
    table, texts, reasons = cells(entries), [], {}
    networks = list(dict.fromkeys(cell['network'] for cell in table))
    for metric, title in TITLES.items():
        lines = [
            f'### {title}: ours (95% interval) / paper', '',
            '| | ' + ' | '.join(map(_escape, networks)) + ' |',
            '|---' * (len(networks) + 1) + '|',
        ]
        rows = {}
        for cell in table:
            if cell['metric'] == metric:
                rows.setdefault(cell['data_set'], []).append(_text(cell))
            if cell['reason']:
                where = f'{cell["network"]} on {cell["data_set"]}'
                reasons.setdefault(where, {})[cell['reason']] = None
        for data_set, row in rows.items():
            known = DATA_SETS.get(data_set)
            name = f'{data_set} ({known})' if known else data_set
            lines.append('| ' + ' | '.join([_escape(name), *row]) + ' |')
        texts.append('\n'.join(lines))
    if reasons:
        texts.append('Empty cells:\n' + '\n'.join(
            f'- {_escape(where)}: {_escape("; ".join(why))}'
            for where, why in reasons.items()
        ))
    return '\n\n'.join(texts) + '\n'


def _text(cell):
    ours = ''
    if cell['value'] is not None:
        notes = []
        if cell['low'] is not None and cell['high'] is not None:
            notes.append(f'{cell["low"]:.3f} to {cell["high"]:.3f}')
        if cell['n_images']:
            notes.append(f'{cell["n_images"]} images, {cell["n_patients"]} patients')
        ours = f'{cell["value"]:.3f}' + (f' ({"; ".join(notes)})' if notes else '')
    paper = '' if cell['paper'] is None else f'{cell["paper"]:.4f}'
    return f'{ours} / {paper}' if ours or paper else ''


def _escape(text):
    return str(text).replace('|', '\\|').replace('\n', ' ')
