"""AlexNet (paper 003) on chest radiographs.

    python -m launch.prepare --config=configs/chest_xray_alexnet.py \
        --layout=class_folders --source=/data/three_class --output=/data/cxr
    python -m launch.train --config=configs/chest_xray_alexnet.py:strong \
        --config.data.records=/data/cxr --workdir=/tmp/cxr

Variants: '' is the paper's recipe, 'strong' the better one on small sets, 'phantom' the
embedded default on drawn radiographs; see configs/chest_xray.py for the ablation's.
`config.task.data_set` chooses the classes: radiography, three_class, covid_chestxray.
"""

from configs import chest_xray


def get_config(variant=''):
    return chest_xray.make(
        'alexnet', variant, options=dict(head_width=4096),
        # Without batch norm more than this does not train.
        strong_rate=3e-4, phantom_epochs=30,
    )
