"""What launch.search may train of vertebral fractures: paper 001's pool and tables.

    python -m launch.search --config=configs/vertebral_fracture.py:phantom \
        --grid=pool --count=12 --workdir=/tmp/pool

Each function takes the config (nested dicts) that its runs begin with and returns a
grid as jaxmed.grids describes it.
"""

from jaxmed.models.patch_sequence import FAMILIES
from jaxmed.tasks.fracture_sections import PAPER_TABLE

# What makes copies of a spine that are not quite it; all off is no augmentation.
AUGMENTATIONS = {
    'mirror': False, 'upend': False, 'turn_deg': 0.0, 'zoom': 0.0, 'shift_mm': 0.0,
    'slab': 0.0, 'light': 0.0,
}
RATES = ('learning_rate', 'kernel_rate')  # of optimisers; not all have both


def pool(config):
    """The axes of section 3.3: all models that an ensemble is searched among.

    The paper names the axes, not their values. Of all but the architectures the first
    is the config's, the second ours: patches three quarters as wide, the usual window
    for bone, the other initialisation from another seed, a third of the learning rate,
    and batches as the records come.
    """
    seed = config['train']['seed']
    rates = {
        f'optimizer.{name}': config['optimizer'][name] for name in RATES
        if name in config['optimizer']
    }
    initialisations = sorted(
        ('glorot_uniform', 'he_normal'),
        key=lambda name: name != config['task']['model']['initialisation'])
    own = config['task']['network_shape']
    whole = tuple(own or config['task']['patch_shape'])
    least = 2 ** len(config['task']['model']['widths'])
    small = tuple(max(least, round(0.75 * size)) for size in whole)
    window = tuple(config['task'][f'window_{name}_hu'] for name in ('centre', 'width'))
    return {
        'title': 'Pool of models for the ensemble (paper 001, section 3.3)',
        'count': 12,
        'axes': {
            'architecture': {
                name: {f'task.model.{field}': value for field, value in family.items()}
                for name, family in FAMILIES.items()
            },
            'patches': {
                'x'.join(map(str, shape)): {'task.network_shape': value}
                for shape, value in ((whole, own), (small, small))
            },
            'window, HU': {
                f'c{centre:g}w{width:g}': {
                    'task.window_centre_hu': centre, 'task.window_width_hu': width,
                } for centre, width in (window, (450.0, 1500.0))
            },
            'initialisation': {
                name: {
                    'task.model.initialisation': name, 'train.seed': seed + number,
                } for number, name in enumerate(initialisations)
            },
            'learning rate': {
                f'{rates["optimizer.learning_rate"] / divisor:.2g}': {
                    field: rate / divisor for field, rate in rates.items()
                } for divisor in (1, 3)
            },
            'batches': {
                name: {'data.sampling': name} for name in ('balanced', 'uniform')
            },
        },
        'literature': [[name, *row] for name, row in PAPER_TABLE.items()],
    }


def aggregations(config):
    """Figure 3a: how a series is judged by its patches, without a sequence model.

    Of the third the paper does not say whether it knows positions; here it does. The
    fourth is ours.
    """
    del config

    def row(position, aggregation):
        return {
            'task.model.sequence': 'none', 'task.model.position': position,
            'task.model.aggregation': aggregation,
        }

    return {
        'title': 'Aggregations compared (paper 001, figure 3a)',
        'note': 'The paper: the maximum is best, 0.961 on a tuning set of 311 series.',
        'rows': {
            'max': row(False, 'max'), 'max + position': row(True, 'max'),
            'BiLSTM aggregation': row(True, 'bilstm'),
            'noisy-or + position': row(True, 'noisy_or'),
        },
    }


def ablation(config):
    """What each part is worth: the config's model, and the same without it.

    Where the config's model has no model of the sequence, one row adds it.
    """
    if config['task']['model']['sequence'] == 'none':
        sequence = {'with sequence model (BiLSTM)': {'task.model.sequence': 'bilstm'}}
    else:
        sequence = {'without sequence model': {'task.model.sequence': 'none'}}
    off = {f'task.{name}': value for name, value in AUGMENTATIONS.items()}
    return {
        'title': 'Ablation: the model without its parts',
        'note': 'One run a row: the intervals are of the patients measured, not of '
                'what another seed would train.',
        'rows': {
            'full': {},
            **sequence,
            'without position': {'task.model.position': False},
            'without augmentation': off,
            'without patch labels': {'task.patch_weight': 0.0},
            'without balanced batches': {'data.sampling': 'uniform'},
        },
    }


GRIDS = {'pool': pool, 'aggregations': aggregations, 'ablation': ablation}
