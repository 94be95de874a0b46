"""Four virtual CPU devices for every test, and a small task that trains in no time."""

import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ['XLA_FLAGS'] = (
    os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=4'
)

import flax.linen as nn  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from jaxmed import transforms  # noqa: E402
from jaxmed.models.layers import Dropout  # noqa: E402
from jaxmed.types import Card, Task  # noqa: E402


class Network(nn.Module):
    """Dense, batch norm, dropout, dense: what makes an update depend on its batch."""

    dropout: float
    axis_name: str | None

    @nn.compact
    def __call__(self, inputs, *, train):
        # No bias: the norm takes it out, and Adam would blow up the rounding left.
        x = nn.Dense(8, use_bias=False)(inputs)
        x = nn.BatchNorm(use_running_average=not train, axis_name=self.axis_name)(x)
        x = Dropout(self.dropout, axis_name=self.axis_name)(nn.tanh(x), train=train)
        return nn.Dense(1)(x)[..., 0]


def make_task(*, dropout=0.0, axis_name='devices', augment=True):
    """Regression of the first of three inputs; NaN inputs mark fillers."""

    def noise(keys, batch):
        draws = jax.vmap(lambda key: 0.1 * jax.random.normal(key, (3,)))(keys)
        return batch | {'inputs': batch['inputs'] + draws}

    return Task(
        card=Card('toy', '', '', {}, ''),
        model=Network(dropout, axis_name),
        example={'inputs': np.zeros(3, np.float32), 'targets': np.float32(0)},
        sources={}, phantoms=None, files=None, read=None,
        preprocess=lambda batch: batch,
        augment=noise if augment else lambda keys, batch: batch,
        loss=lambda outputs, batch: (outputs - batch['targets']) ** 2,
        probabilities=lambda outputs: outputs,
        views=(transforms.IDENTITY,),
        rows=lambda outputs, batch: {
            'prediction': outputs, 'target': batch['targets']},
        cases=lambda rows: rows,
        scores={},
        metrics={
            'closeness': lambda rows: -float(
                np.mean((rows['prediction'] - rows['target']) ** 2))},
        lower_is_better=(), baselines={}, render=None, infer=None, findings=None,
    )


class Examples:
    """A data source of made-up records."""

    def __init__(self, count, seed=0):
        self._inputs = np.random.default_rng(seed).normal(size=(count, 3))

    def __len__(self):
        return len(self._inputs)

    def __getitem__(self, index):
        return {
            'inputs': self._inputs[index].astype(np.float32),
            'targets': np.float32(self._inputs[index, 0]),
            'example_id': f'example-{index}',
            'case_id': f'example-{index}', 'patient_id': f'patient-{index // 2}',
        }


# The longest first, so that no process is left with one of them in the end.
LONGEST = ('test_launch', 'test_networks', 'test_train', 'test_chest_xray',
           'test_benchmark', 'test_pretrained', 'test_search', 'test_spine_health',
           'test_blazepose', 'test_live', 'test_jobs_folds')


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope='session')
def toy_task():
    return make_task


@pytest.fixture(scope='session')
def examples():
    return Examples


@pytest.fixture
def sample_data():
    """The folder of real samples; a test that needs it is skipped without."""
    folder = os.environ.get('JAXMED_SAMPLE_DATA')
    if not folder:
        pytest.skip('JAXMED_SAMPLE_DATA is unset: no real samples on this machine')
    from pathlib import Path

    return Path(folder)


@pytest.fixture
def devices():
    assert jax.local_device_count() == 4
    return jnp.arange(4)
