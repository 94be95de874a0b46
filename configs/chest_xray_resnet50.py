"""ResNet50 (paper 003) on chest radiographs.

    python -m launch.prepare --config=configs/chest_xray_resnet50.py \
        --layout=class_folders --source=/data/three_class --output=/data/cxr
    python -m launch.train --config=configs/chest_xray_resnet50.py:strong \
        --config.data.records=/data/cxr --workdir=/tmp/cxr

Variants: '' is the paper's recipe, 'strong' the better one on small sets, 'phantom' the
embedded default on drawn radiographs; see configs/chest_xray.py for the ablation's.
`config.task.data_set` chooses the classes: radiography, three_class, covid_chestxray.
"""

from configs import chest_xray


def get_config(variant=''):
    return chest_xray.make('resnet50', variant, dropout=0.0, phantom_epochs=16)
