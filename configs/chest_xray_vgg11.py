"""VGG11 (paper 003) on chest radiographs.

    python -m launch.prepare --config=configs/chest_xray_vgg11.py \
        --layout=class_folders --source=/data/three_class --output=/data/cxr
    python -m launch.train --config=configs/chest_xray_vgg11.py:strong \
        --config.data.records=/data/cxr --workdir=/tmp/cxr

Variants: '' is the paper's recipe, 'strong' the better one on small sets, 'phantom' the
embedded default on drawn radiographs, both with batch norm; see configs/chest_xray.py
for the ablation's.
`config.task.data_set` chooses the classes: radiography, three_class, covid_chestxray.
"""

from configs import chest_xray


def get_config(variant=''):
    # Without batch norm 130 updates on drawn radiographs leave it at chance.
    network = 'vgg11_bn' if variant in ('strong', 'phantom') else 'vgg11'
    return chest_xray.make(
        network, variant, options=dict(head_width=4096), strong_rate=1e-4,
        phantom_epochs=16,
    )
