"""A rival for tests of the benchmark: NumPy is always installed."""

import os

import numpy as np

from launch.benchmarks import serve


def make(config, inputs, targets):
    malloc = os.environ.get('GLIBC_TUNABLES', 'plain')

    def train():
        np.tanh(inputs).sum()
        with open(config['log'], 'a') as file:
            file.write(f'train {inputs.shape} {targets.shape} {malloc}\n')

    def forward():
        raise SystemExit(3)

    return {'numpy': (train, forward)}


if __name__ == '__main__':
    serve(make)
