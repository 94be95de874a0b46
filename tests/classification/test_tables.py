import csv
import io

import pytest

from jaxmed.classification import tables
from jaxmed.classification.tables import Entry


def value(number, low=None, high=None):
    return {'value': number, 'low': low, 'high': high, 'n_cases': 33, 'n_patients': 30}


def entry(network='VGG11', data_set='Dataset2', **values):
    return Entry(network, data_set, values)


def test_the_paper_has_nine_cells_per_metric():
    for metric, cells in tables.PAPER.items():
        assert list(cells) == ['Dataset1', 'Dataset2', 'Dataset3'], metric
        for row in cells.values():
            assert list(row) == ['AlexNet', 'VGG11', 'ResNet50']
            assert all(0 < number < 1 for number in row.values())
    assert tables.paper_values('VGG11', 'Dataset2') == {
        'accuracy': 0.9548, 'precision': 0.9568, 'recall': 0.9549, 'f1': 0.9548}
    assert tables.paper_values('cnn', 'Dataset2') == {}


def test_macro_f1_of_the_paper_is_possible_where_the_note_says_so():
    # Macro F1 is at most the mean of macro precision and macro recall.
    for data_set in tables.PAPER['f1']:
        for network, f1 in tables.PAPER['f1'][data_set].items():
            bound = (tables.PAPER['precision'][data_set][network]
                     + tables.PAPER['recall'][data_set][network]) / 2
            impossible = data_set == 'Dataset3' and network != 'AlexNet'
            assert (f1 > bound + 1e-4) == impossible, (data_set, network)


def test_ours_stands_beside_the_papers_value():
    text = tables.to_markdown([entry(accuracy=value(0.91234, 0.85, 0.95))])
    assert '| | AlexNet | VGG11 | ResNet50 |' in text
    assert ('| Dataset2 (three_class) |  / 0.9312 | 0.912 (0.850 to 0.950; 33 images, '
            '30 patients) / 0.9548 |  / 0.9426 |') in text
    assert text.count('\n### ') + text.startswith('### ') == 4


def test_empty_cells_have_a_reason():
    rows = list(csv.DictReader(io.StringIO(tables.to_csv([
        entry(accuracy=value(0.9)), entry(network='AlexNet', f1=value(float('nan'))),
        Entry('ResNet50', 'Dataset1', {}, 'the data set is the user\'s to download'),
    ]))))
    assert len(rows) == 4 * 9 and list(rows[0]) == list(tables.COLUMNS)
    cells = {(row['metric'], row['data_set'], row['network']): row for row in rows}
    found = cells['accuracy', 'Dataset2', 'VGG11']
    assert (found['value'], found['paper'], found['reason']) == ('0.9', '0.9548', '')
    assert cells['f1', 'Dataset2', 'VGG11']['reason'] == 'the run has no f1 score'
    undefined = cells['f1', 'Dataset2', 'AlexNet']
    assert undefined['value'] == ''
    assert undefined['reason'] == 'undefined on these images'
    assert 'to download' in cells['recall', 'Dataset1', 'ResNet50']['reason']
    assert cells['recall', 'Dataset3', 'VGG11']['reason'] == tables.NOT_RUN
    assert all(row['reason'] for row in rows if not row['value'])


def test_other_networks_and_data_sets_follow_without_a_value_of_the_paper():
    entries = [entry('cnn', 'phantom|2', accuracy=value(0.5))]
    text = tables.to_markdown(entries)
    assert '| | AlexNet | VGG11 | ResNet50 | cnn |' in text
    assert '| phantom\\|2 |  |  |  | 0.500 (33 images, 30 patients) /  |' in text
    for line in text.splitlines():
        if line.startswith('| phantom'):
            assert line.replace('\\|', '').count('|') == 6
    assert len(tables.cells(entries)) == 4 * 4 * 4


def test_two_runs_of_one_cell_are_refused():
    with pytest.raises(ValueError, match='two entries of VGG11 on Dataset2'):
        tables.to_csv([entry(), entry()])
    assert tables.to_markdown([]).count(tables.NOT_RUN) == 9
