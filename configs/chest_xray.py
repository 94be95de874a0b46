"""What the configs of chest radiographs share; see chest_xray_<network>.py."""

from ml_collections import ConfigDict

# The paper's ablation (003, 3.3), and a recipe for small sets without pretraining.
VARIANTS = (
    '', 'strong', 'phantom', 'lr_0.01', 'lr_0.1', 'batch_8', 'batch_128', 'sgd',
)


def make(
    network, variant, *, input_px=224, store_px=256, channels=3, dropout=0.5,
    options=None, strong_rate=1e-3, phantom_epochs=5, cpu_devices=1,
):
    """The config of one network.

    Args:
        network: a name in jaxmed.tasks.chest_xray.NETWORKS.
        variant: one of VARIANTS.
        input_px, store_px, channels, dropout, options: of the task.
        strong_rate: learning rate of 'strong' and 'phantom'.
        phantom_epochs: how often 'phantom' goes through its drawn radiographs.
        cpu_devices: of launch.train on a CPU: 2 for narrow networks, 1 for wide ones.
    """
    if variant not in VARIANTS:
        raise ValueError(f'variant {variant!r}: there are {", ".join(VARIANTS[1:])}')
    config = ConfigDict()
    config.task_name = 'chest_xray'
    config.task = ConfigDict(dict(
        data_set='three_class', classes=(), exclusive=True, network=network,
        options=options or {}, channels=channels, dropout=dropout, dtype='float32',
        store_px=store_px, input_px=input_px, max_pixels=100_000_000, views=(),
        min_per_class=2, phantom_images_per_patient=2, label_smoothing=0.0,
        class_weights=(), mixup=0.0, mirror=True, turn_deg=0.0, scale=0.0, shift=0.0,
        light=0.0,
    ))
    config.data = ConfigDict(dict(
        records='', phantoms=0, phantom_splits=(0.7, 0.1, 0.2), sampling='uniform',
    ))
    config.optimizer_name = 'adam'
    config.optimizer = ConfigDict(dict(
        learning_rate=1e-4, layer_decay=1.0, freeze='',
    ))
    config.train = ConfigDict(dict(
        seed=0, epochs=50, steps_per_epoch=0, batch_size=32, monitor='-valid_loss',
        patience=0, checkpoint_every=500, init_from='', init_sha256='',
    ))
    config.evaluate = ConfigDict(dict(views=1, resamples=1000))
    config.runtime = ConfigDict(dict(
        workers=0, log_every=10, eval_batch_size=32, verify=True,
        cpu_devices=cpu_devices,
    ))
    if variant.startswith('lr_'):
        config.optimizer.learning_rate = float(variant.removeprefix('lr_'))
    if variant.startswith('batch_'):
        config.train.batch_size = int(variant.removeprefix('batch_'))
    if variant == 'sgd':
        config.optimizer_name = 'sgd'
        config.optimizer = ConfigDict(dict(
            learning_rate=1e-4, momentum=0.9, weight_decay=0.5, layer_decay=1.0,
            freeze='',
        ))
    if variant in ('strong', 'phantom'):
        config.task.update(dict(
            mirror=False, turn_deg=7.0, scale=0.1, shift=0.05, light=0.2,
            label_smoothing=0.1,
        ))
        config.optimizer_name = 'adamw_cosine'
        config.optimizer = ConfigDict(dict(
            learning_rate=strong_rate, warmup_steps=20, weight_decay=1e-2,
            clip_norm=1.0, layer_decay=1.0, freeze='',
        ))
    if variant == 'phantom':
        config.data.phantoms = 240
        config.task.update(dict(store_px=72, input_px=64))
        config.train.update(dict(epochs=phantom_epochs, batch_size=16))
    return config
