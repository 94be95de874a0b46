"""What launch.search may train of spine health: paper 000's Table II.

    python -m launch.search --config=configs/spine_health_lstm.py:table2 \
        --grid=table2 --workdir=/tmp/table2

Each function takes the config (nested dicts) that its runs begin with and returns a
grid as jaxmed.grids describes it.
"""

SHORT = 100  # images of a sequence, and all 500 of them


def table2(config):
    """LSTM against RNN, on sequences of 500 images and of 100.

    The paper's short sequences also have smaller images, which landmarks don't tell.
    """
    long = config['task']['frames']
    return {
        'title': f'LSTM against RNN, {long} and {SHORT} images (paper 000, Table II)',
        'note': 'The paper, whose "accuracy" is of nothing that it names: LSTM 87% and '
                'RNN 37% of 500 images, LSTM 96% and RNN 92% of 100.',
        'rows': {
            f'{cell.upper()}, {steps or long} images': {
                'task.model.cell': cell, 'task.steps': steps}
            for steps in (0, SHORT) for cell in ('lstm', 'rnn')
        },
    }


GRIDS = {'table2': table2}
