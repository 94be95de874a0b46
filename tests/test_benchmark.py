"""The benchmark: rivals in processes of their own, and the command as a whole."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import spine_health_lstm, vertebral_fracture
from jaxmed import losses
from jaxmed.data.phantoms import stick_figures, walkers
from jaxmed.errors import InputError
from jaxmed.models.patch_sequence import PatchSequence
from jaxmed.pose import blazepose
from launch import benchmarks
from launch.benchmarks import pose_case, torch_patch_sequence
from tests.commands import ROOT, TINY


def test_a_rival_takes_turns_in_processes_with_and_without_our_malloc(
    tmp_path, monkeypatch
):
    monkeypatch.setenv('GLIBC_TUNABLES', 'glibc.malloc.hugetlb=1')
    log = tmp_path / 'log'
    arrays = np.ones((2, 3, 4, 1), np.float32), np.zeros((2, 5), np.float32)
    config = {'log': str(log)}
    with benchmarks.start('tests.numpy_rival', config, *arrays) as rivals:
        assert list(rivals) == ['numpy', "numpy, jaxmed's malloc"]
        for train, _ in rivals.values():
            train()
        with pytest.raises(RuntimeError, match='numpy ended with code 3'):
            rivals['numpy'][1]()
    assert log.read_text().splitlines() == [
        'train (2, 3, 4, 1) (2, 5) plain',
        'train (2, 3, 4, 1) (2, 5) glibc.malloc.hugetlb=1',
    ]


def test_the_command_times_training_prediction_and_input(tmp_path):
    output = tmp_path / 'speed.json'
    subprocess.run(
        [sys.executable, '-m', 'launch.benchmark', *TINY, '--rounds=2',
         f'--output={output}'], cwd=ROOT, check=True, capture_output=True, timeout=240,
    )
    result = json.loads(output.read_text())
    for kind in ('train', 'forward'):
        times = result['seconds']['jaxmed'][kind]
        assert 0 < times['min'] <= times['median'] <= times['max']
        assert result['images_per_s']['jaxmed'][kind] == pytest.approx(
            result['batch_size'] / times['median'])
    assert 0 <= result['pipeline']['input_wait'] < 1
    assert 0 < result['warm_start']['warm_s'] < result['warm_start']['cold_s']
    assert result['decoding']['images_per_s'] > 0
    assert result['memory']['host_peak_bytes'] > 1e8


def carry(params, model):
    """Writes parameters of PatchSequence into torch_patch_sequence's network."""
    import torch

    def put(target, value):
        assert target.shape == value.shape
        with torch.no_grad():
            target.copy_(torch.tensor(np.asarray(value)))

    convolutions = [m for m in model.represent if isinstance(m, torch.nn.Conv3d)]
    names = sorted(name for name in params if name.startswith('conv'))
    assert len(names) == len(convolutions)
    for name, module in zip(names, convolutions):
        put(module.weight, params[name]['kernel'].transpose(4, 3, 0, 1, 2))
        put(module.bias, params[name]['bias'])
        if 'gain' in params[name]:
            put(module.gain, params[name]['gain'])
    for name in set(params) - set(names):
        module = getattr(model, name.removesuffix('_lstm'))
        if not name.endswith('_lstm'):
            put(module.weight, params[name]['kernel'].T)
            put(module.bias, params[name]['bias'])
            continue
        for way, suffix in enumerate(('', '_reverse')[:len(params[name]) // 3]):
            put(getattr(module, f'weight_ih_l0{suffix}'),
                params[name][f'kernel{way}'].T)
            put(getattr(module, f'weight_hh_l0{suffix}'),
                params[name][f'recurrent{way}'].T)
            put(getattr(module, f'bias_ih_l0{suffix}'), params[name][f'bias{way}'])


def both(options, *, shape, mask):
    """A network here and in PyTorch with the same weights, and one batch.

    Returns:
        ((loss, outputs, gradients) of each, as trees of NumPy under our names).
    """
    import torch

    rng = np.random.default_rng(0)
    mask = np.array(mask, np.float32)
    inputs = {
        'patches': rng.random((*mask.shape, *shape, 1), np.float32),
        'mask': mask, 'position': rng.random(mask.shape, np.float32),
    }
    targets = rng.integers(0, 2, (len(mask), 1 + mask.shape[1])).astype(np.float32)
    targets[:, 1:][mask == 0] = np.nan
    targets[0, 2] = targets[-1, 0] = np.nan
    module = PatchSequence(**options, dtype=jnp.float32, axis_name=None)
    spec = jax.eval_shape(
        lambda key: module.init(key, inputs, train=False), jax.random.key(0))['params']
    params = jax.tree.map(lambda x: (
        rng.normal(size=x.shape) / max(x.size // x.shape[-1], 4) ** 0.5
    ).astype(np.float32), spec)

    @jax.jit
    def run(params):
        def loss(params):
            outputs = module.apply({'params': params}, inputs, train=True)
            values = losses.series_and_patches(outputs, targets, patch_weight=0.7)
            return values.mean(), outputs

        (value, outputs), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return value, outputs, grads

    rival = torch_patch_sequence.build(options, patch_shape=shape, channels=1)
    carry(params, rival)
    trained = [p for p in rival.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == sum(
        x.size for x in jax.tree.leaves(params))
    patches = torch.tensor(inputs['patches']).flatten(0, 1).permute(0, 4, 1, 2, 3)
    series, logits = rival(
        patches, torch.tensor(mask), torch.tensor(inputs['position']))
    loss = torch_patch_sequence.loss(
        series, logits, torch.tensor(targets), patch_weight=0.7)
    loss.backward()
    # The gradients of ours, put where PyTorch's are, must be those.
    value, outputs, grads = jax.device_get(run(params))
    theirs = [p.grad.numpy() for p in trained]
    carry(grads, rival)
    ours = [p.detach().numpy() for p in trained]
    return (value, outputs['series'], outputs['patches'], *ours), (
        loss.item(), series.detach().numpy(), logits.detach().numpy(), *theirs)


def agree(ours, theirs):
    for x, y in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-4 * max(np.abs(y).max(), 1e-3))


SMALL = dict(
    centre=0.3, spread=0.4,
    widths=(3, 4), convolutions=1, batch_norm=False, standardised=False,
    representation='flatten',
    position=True, projection=0, residual=False, window=3, hidden=5, dropout=0.0,
    initialisation='glorot_uniform', first_logit=-1.0,
)


@pytest.mark.parametrize('sequence, aggregation, representation', [
    ('none', 'max', 'flatten'), ('none', 'mean', 'mean'), ('lstm', 'max', 'max'),
    ('bilstm', 'mean', 'flatten'), ('max', 'smoothed_max', 'flatten'),
    ('none', 'attention', 'flatten'), ('lstm', 'bilstm', 'flatten'),
    ('none', 'max', 'rows'), ('bilstm', 'max', 'rows'), ('none', 'noisy_or', 'mean'),
])
def test_pytorchs_rival_is_the_same_network(sequence, aggregation, representation):
    pytest.importorskip('torch')
    options = SMALL | dict(
        sequence=sequence, aggregation=aggregation, representation=representation,
        position=representation == 'flatten', standardised=representation == 'max',
        projection=6 * (representation == 'rows'), residual=representation == 'rows')
    agree(*both(options, shape=(4, 6, 4), mask=[[1, 1, 1, 1], [1, 1, 0, 0]]))


def test_pytorchs_rival_is_the_network_that_is_timed():
    pytest.importorskip('torch')
    task = vertebral_fracture.get_config().to_dict()['task']
    ours, theirs = both(task['model'], shape=task['patch_shape'], mask=[[1, 1]])
    agree(ours, theirs)


def test_pytorchs_rival_of_patches_trains_and_predicts(monkeypatch):
    pytest.importorskip('torch')
    monkeypatch.delenv('GLIBC_TUNABLES', raising=False)
    inputs = {
        'patches': np.ones((2, 3, 4, 6, 4, 1), np.float32),
        'mask': np.ones((2, 3), np.float32), 'position': np.ones((2, 3), np.float32),
    }
    model = SMALL | dict(sequence='lstm', aggregation='max')
    config = {'task': {'model': model, 'dtype': 'float32', 'patch_weight': 1.0}}
    rival = benchmarks.RIVALS['vertebral_fracture']
    targets = np.zeros((2, 4), np.float32)
    with benchmarks.start(rival, config, inputs, targets) as rivals:
        assert list(rivals) == ['channels_last', 'channels_first']
        for steps in rivals.values():
            for step in steps:
                step()


def spine(**task):
    """Config of paper 000 with a small network."""
    config = spine_health_lstm.get_config().to_dict()
    config['task'] |= task
    config['task']['model'] |= dict(embedding=4, hidden=4, dense=4)
    return config


def test_without_a_landmark_model_a_video_is_only_decoded_and_that_is_told():
    result = pose_case.measure(spine(), rounds=1, frames=32, live_s=1.0)
    assert sorted(result) == ['decoding', 'left_out', 'video', 'window']
    assert 'landmark_model' in result['left_out']
    assert result['decoding']['frames_per_s'] > 1
    assert result['window']['median_ms'] > 0
    assert result['window']['frames'] == 150


def test_a_wrong_landmark_model_is_refused_before_videos_are_timed(tmp_path):
    model = tmp_path / 'wrong.task'
    model.write_bytes(b'no bundle')
    with pytest.raises(InputError, match='wrong.task'):
        pose_case.measure(
            spine(landmark_model=str(model)), rounds=1, frames=32, live_s=1.0)


def test_batches_of_an_accelerator_are_timed_from_its_own_memory():
    sample = os.environ.get('JAXMED_SAMPLE_DATA')
    if not sample:
        pytest.skip('JAXMED_SAMPLE_DATA is not set: no landmark model')
    network = blazepose.load(
        f'{sample}/models/pose_landmarker_full.task', sha256='', dtype=jnp.float32)
    sizes = (*pose_case.SIZES, *pose_case.LARGE_SIZES)
    cases = pose_case.list_cases(
        network, np.full((sizes[-1], 8, 8, 3), 90, np.uint8), sizes,
        ('host', 'device'))
    steps = {tuple(case.values()): step for case, step in cases}
    assert len(steps) == len(cases) == 2 * (5 + 5 + 3)
    for place in ('host', 'device'):
        assert {('image', 256, place), ('track', 256, place), ('follow', 16, place),
                } <= set(steps)
        assert ('follow', 64, place) not in steps
    with jax.transfer_guard_host_to_device('disallow_explicit'):
        found = steps['image', 4, 'device']()
    assert found['present'].tolist() == [False] * 4


def test_a_drawn_video_is_watched_for_memory_and_shown_live(tmp_path):
    sample = os.environ.get('JAXMED_SAMPLE_DATA')
    if not sample:
        pytest.skip('JAXMED_SAMPLE_DATA is not set: no landmark model')
    config = spine(
        landmark_model=f'{sample}/models/pose_landmarker_full.task', landmark_batch=16)
    (person,) = walkers.subjects(count=1, seed=0, exercises=('touch_toes',))
    video = str(tmp_path / 'video.mp4')
    stick_figures.write_video(
        video, person.motion, rate_hz=10.0, size_hw=(320, 180), seed=0)
    found = pose_case.watch_memory(config, video, 'mediapipe', 60)
    # Whole batches of 16; the first half of them settles.
    assert (found['frames'], found['settled']) == (64, 32)
    assert found['end_bytes'] <= found['growth_bytes']
    assert found['resident_bytes'][0] > 1e8 and found['frames_per_s'] > 0
    least = pose_case.watch_memory(config, video, 'mediapipe', 1)
    assert (least['frames'], least['settled']) == (32, 16)
    live = pose_case.run_live(config, video, 1.5)
    assert live['frames'] + live['frames_dropped'] <= live['frames_captured']
    assert live['frames'] > live['frames_nobody'] and live['rate_hz'] == 10
    assert {'landmarks', 'draw', 'total'} <= set(live['latency'])
    assert live['growth_bytes'] >= 0
