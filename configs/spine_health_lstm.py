"""BlazePose landmarks and an LSTM: a spine health index from movement (paper 000).

    python -m launch.train --config=configs/spine_health_lstm.py:phantom \
        --workdir=/tmp/spine

Variants: '' is the paper's setting, 'strong' the better one, 'phantom' the embedded
default on drawn people (no records needed), 'kimore' for the data set of that name,
'table2' for --grid=table2 of launch.search.

Measured, 2026-11-22, two CPU cores with other work on them. phantom: MAE of the index
0.046 (95% interval 0.043 to 0.049, 627 drawn recordings of 209 people), with an RNN in
place of the LSTM 0.049 (0.046 to 0.053), 3.5 minutes for both. kimore with
--folds=5 on the sample's 199 recordings of 40 people: MAE 0.105 (0.086 to 0.125),
Spearman 0.803 (0.716 to 0.854); gradient boosting 0.120 and 0.772, an LSTM alone 0.110
and 0.775. table2: MAE 0.117 to 0.138 of 114 recordings of 38 drawn people, 8 minutes
for its four networks. '' was not trained to its end.
"""

from ml_collections import ConfigDict


def get_config(variant=''):
    config = ConfigDict()
    config.task_name = 'spine_health'
    config.task = ConfigDict(dict(
        skeleton='blazepose', exercises=('touch toes', 'walk', 'jump'), unit='video',
        span='window', frames=150, stride=75, rate_hz=30.0, min_seconds=1.0,
        min_visibility=0.6, max_gap_s=0.5, smoothing='none',
        features_of_frames=('positions',), velocities=False, steps=0,
        model=dict(
            embedding=193, cell='lstm', hidden=193, layers=1, bidirectional=False,
            convolutions=0, width=5, stride=2, norm='none', pooling='last',
            dense=193, dropout=0.0, embedding_dropout=0.0, recurrent_dropout=0.0,
            slope=0.01, likelihood='point', first_index=0.3, residual=True,
        ),
        tree_share=0.0, dtype='float32', loss='mse',
        mirror=False, turn_deg=0.0, warp=0.0, noise=0.0, forget=0.0,
        limits_quantile=0.0,
        landmarker='mediapipe', landmark_model='', landmark_sha256='',
        landmark_mode='video', landmark_dtype='float32', landmark_batch=4,
        max_people=2, cache='', max_pixels=40_000_000, max_seconds=600.0, exercise='',
        annotate=False,
        # Of sources that don't say: frames a second, and height and width of the
        # picture that landmarks in shares of it were found in. Where a trained model
        # reads another source: --task='source_hz=25,landmark_size_hw=(480,640)'.
        source_hz=30.0, landmark_size_hw=(),
    ))
    config.data = ConfigDict(dict(
        records='', phantoms=0, phantom_splits=(0.7, 0.1, 0.2),
    ))
    config.optimizer_name = 'adam'
    config.optimizer = ConfigDict(dict(
        learning_rate=1e-3, layer_decay=1.0, freeze='',
    ))
    config.train = ConfigDict(dict(
        seed=0, epochs=100, steps_per_epoch=0, batch_size=32, monitor='-mae',
        patience=0, checkpoint_every=500,
    ))
    # Trained on the same records and reported beside: name -> changes of this config.
    config.rivals = ConfigDict()
    config.evaluate = ConfigDict(dict(views=1, resamples=1000))
    config.runtime = ConfigDict(dict(
        workers=0, log_every=10, eval_batch_size=32, verify=True, cpu_devices=1,
    ))
    if variant in ('strong', 'phantom', 'kimore'):
        config.task.update(dict(
            features_of_frames=('positions', 'root', 'angles'), velocities=True,
            mirror=True, turn_deg=15.0, warp=0.2, noise=0.01,
            forget=0.1, limits_quantile=0.01, tree_share=0.5,
        ))
        config.task.model.update(dict(
            embedding=64, hidden=64, dense=64, convolutions=2, bidirectional=True,
            norm='layer', pooling='statistics', dropout=0.3, embedding_dropout=0.1,
        ))
        config.optimizer_name = 'adamw_cosine'
        config.optimizer = ConfigDict(dict(
            learning_rate=2e-3, warmup_steps=20, weight_decay=5e-2, clip_norm=1.0,
        ))
        config.train.update(dict(epochs=40))
        config.evaluate.views = 2
    if variant == 'kimore':
        config.task.update(dict(
            skeleton='kinect', exercises=('es1', 'es2', 'es3', 'es4', 'es5'),
            span='whole', forget=0.0,
        ))
        config.rivals['LSTM alone'] = dict(task=dict(tree_share=0.0))
    if variant == 'phantom':
        # Drawn people are all seen from one side.
        config.task.update(dict(
            mirror=False, turn_deg=0.0, warp=0.0, tree_share=0.0))
        config.task.model.update(dict(embedding=96, hidden=96, dropout=0.15))
        config.evaluate.views = 1
        config.data.phantoms = 3000
        config.train.update(dict(epochs=12))
        config.rivals.RNN = dict(task=dict(model=dict(cell='rnn')))
    if variant == 'table2':  # 5 s as 500 frames; see configs/spine_health_grids.py
        config.task.update(dict(frames=500, stride=250, rate_hz=100.0))
        config.data.phantoms = 600
        config.train.update(dict(epochs=15))
    if variant not in ('', 'strong', 'phantom', 'kimore', 'table2'):
        raise ValueError(
            f'variant {variant!r}: there are strong, phantom, kimore and table2')
    return config
