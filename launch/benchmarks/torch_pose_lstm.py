"""The network of paper 000 and its training step as a PyTorch user would write them."""

import math

from launch.benchmarks import serve


def build(model, *, features, context):
    """models.pose_lstm.PoseLSTM in PyTorch, limits at 0 and 1.

    Recurrent layers have PyTorch's second bias, and dropout is PyTorch's own, of single
    values. Options that no layer of PyTorch has are refused.

    Args:
        model: attributes of PoseLSTM by name, as config['task']['model'] has them.
        features, context: numbers of them.

    Returns:
        Module that maps features [B, T, F], mask [B, T] and context [B, C] to [B, 1],
        or [B, 2] with likelihood 'gaussian'. Each movement has a frame.
    """
    import torch
    from torch import nn
    from torch.nn import functional

    from jaxmed.errors import ConfigError
    from jaxmed.models.pose_lstm import DEVIATIONS, SEEN

    slope, pooling, norm = model['slope'], model['pooling'], model['norm']
    width, stride = model['width'], model['stride']
    if model.get('recurrent_dropout') or norm == 'batch':
        raise ConfigError(
            'task.model', 'PyTorch has neither dropout within an LSTM nor a batch norm '
            'that knows fillers: time it without')

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            size = features + context
            if model['embedding']:
                self.embedding = nn.Linear(size, model['embedding'])
                size = model['embedding']
            count = model['convolutions']
            self.norms = nn.ModuleList(
                nn.LayerNorm(size) for _ in range(count + 1) if norm == 'layer')
            self.convolutions = nn.ModuleList(
                nn.Conv1d(size, size, width, stride=stride, padding=width // 2)
                for _ in range(count))
            if model['cell'] != 'none':
                kind = getattr(nn, model['cell'].upper())
                self.cell = kind(
                    size, model['hidden'], model['layers'], batch_first=True,
                    dropout=model['dropout'], bidirectional=model['bidirectional'])
                size = model['hidden'] * (1 + model['bidirectional'])
            if pooling == 'attention':
                self.attention_hidden = nn.Linear(size, model['hidden'])
                self.attention = nn.Linear(model['hidden'], 1)
            parts = {'mean_max': 2, 'statistics': 3}.get(pooling, 1)
            size = size * parts + context
            if model['dense']:
                self.dense = nn.Linear(size, model['dense'])
                size = model['dense']
            self.index = nn.Linear(size, 1 + (model['likelihood'] == 'gaussian'))
            self.drop = nn.Dropout(model['dropout'])

        def forward(self, x, mask, context):
            real = mask[..., None] > 0
            repeated = context[:, None].expand(-1, x.shape[1], -1)
            x = torch.cat([x.clip(-SEEN, SEEN), repeated], -1).masked_fill(~real, 0)
            if model['embedding']:
                x = self.embedding(x)
                if norm == 'layer':
                    x = self.norms[0](x)
            # The same units in all frames.
            x = x * functional.dropout(
                torch.ones_like(x[:, :1]), model.get('embedding_dropout', 0.0),
                self.training)
            for number, convolve in enumerate(self.convolutions, start=1):
                x = x.masked_fill(~real, 0)
                y = convolve(x.transpose(1, 2)).transpose(1, 2)
                x, real = x[:, ::stride], real[:, ::stride]
                y = self.norms[number](y) if norm == 'layer' else y
                y = functional.leaky_relu(y, slope)
                x = x + y if model.get('residual', True) else y
            last = None
            if model['cell'] != 'none':
                x, last = self.read(x, real)
            x = torch.cat([self.pool(x, real, last), context], -1)
            x = self.drop(x)
            if model['dense']:
                x = self.drop(functional.leaky_relu(self.dense(x), slope))
            x = self.index(x).float()
            index = functional.leaky_relu(x[:, :1], slope)
            if model['likelihood'] == 'point':
                return index
            low, high = map(math.log, DEVIATIONS)
            half = (high - low) / 2
            return torch.cat(
                [index, (high + low) / 2 + half * torch.tanh(x[:, 1:] / half)], -1)

        def read(self, x, real):
            if real.all():  # as fast as PyTorch can be
                states, last = self.cell(x)
            else:
                packed = nn.utils.rnn.pack_padded_sequence(
                    x, real[..., 0].sum(1).cpu(), batch_first=True,
                    enforce_sorted=False)
                states, last = self.cell(packed)
                states, _ = nn.utils.rnn.pad_packed_sequence(
                    states, batch_first=True, total_length=x.shape[1])
            last = last[0] if isinstance(last, tuple) else last
            last = last[-1 - model['bidirectional']:]
            return states, last.transpose(0, 1).flatten(1)

        def pool(self, x, real, last):
            if pooling == 'last' and last is not None:
                return last
            if pooling == 'last':
                return x[torch.arange(len(x)), real[..., 0].sum(1) - 1]
            if pooling == 'attention':
                scores = self.attention(torch.tanh(self.attention_hidden(x)))
                scores = scores.float().masked_fill(~real, -torch.inf)
                return (scores.softmax(1) * x.masked_fill(~real, 0)).sum(1)
            mean = x.masked_fill(~real, 0).sum(1) / real.sum(1)
            if pooling == 'mean':
                return mean
            most = x.masked_fill(~real, -torch.inf).amax(1)
            if pooling == 'mean_max':
                return torch.cat([mean, most], -1)
            squares = ((x - mean[:, None]) ** 2).masked_fill(~real, 0).sum(1)
            deviation = (squares / real.sum(1) + 1e-6).sqrt()
            return torch.cat([mean, most, deviation], -1)

    return Network()


def loss(outputs, targets, *, name):
    """The squared error, or what the config names, averaged over movements."""
    from torch.nn import functional

    index, target = outputs[:, 0], targets[:, 0]
    if name == 'gaussian':
        log_deviation = outputs[:, 1]
        errors = (index - target) / log_deviation.exp()
        return (0.5 * errors.square() + log_deviation).mean()
    if name == 'huber':
        return functional.huber_loss(index, target, delta=0.1) / 0.1
    return functional.mse_loss(index, target)


def make(config, inputs, targets):
    """A blocking train step and a blocking forward pass on one batch.

    Args:
        config: nested dicts of the jaxmed run.
        inputs: float32 NumPy, {'features': [B, T, F], 'mask': [B, T], 'context':
            [B, C]}; or a movement as the task's model takes it, from which those are
            made once, ahead of what is timed.
        targets: float32 [B, ...], of which the first of each is the index.

    Returns:
        {'torch': (train step, forward), 'torch, fillers as frames': (..)} on the first
        GPU if there is one. The first is the same network, which packs sequences where
        there are fillers; the second does what is faster and takes them for frames.
    """
    import torch

    task = config['task']
    if 'features' not in inputs:
        inputs = _look(task, inputs)
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    half = task['dtype'] == 'bfloat16'
    x, mask, context = (
        torch.from_numpy(inputs[name]).to(device)
        for name in ('features', 'mask', 'context'))
    y = torch.from_numpy(targets.reshape(len(targets), -1)).to(device)

    def wait():
        if device.type == 'cuda':
            torch.cuda.synchronize()

    def pair(mask):
        network = build(
            task['model'], features=x.shape[2], context=context.shape[1]).to(device)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-5)

        def apply():
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                return network(x, mask, context)

        def train():
            network.train()
            optimizer.zero_grad(set_to_none=True)
            loss(apply(), y, name=task['loss']).backward()
            optimizer.step()
            wait()

        def forward():
            network.eval()
            with torch.inference_mode():
                apply()
            wait()

        return train, forward

    return {
        'torch': pair(mask), 'torch, fillers as frames': pair(torch.ones_like(mask))}


def _look(task, movement):
    """What jaxmed's sequence model sees of a movement, as writable NumPy arrays."""
    import numpy as np

    from jaxmed.models.motion_index import MotionIndex

    seen = MotionIndex(
        skeleton=task['skeleton'], steps=task['steps'],
        parts=tuple(task['features_of_frames']), velocities=task['velocities'],
        sequence=task['model'], trees=False, dtype=np.float32, axis_name=None,
    ).look(movement)
    return {name: np.array(value, np.float32) for name, value in seen.items()}


if __name__ == '__main__':
    serve(make)
