"""The network of paper 001 and its training step as a PyTorch user would write them."""

import math

from launch.benchmarks import serve

_DIRECTIONS = {'lstm': 1, 'bilstm': 2}


def build(model, *, patch_shape, channels):
    """models.patch_sequence.PatchSequence in PyTorch.

    An LSTM's second bias, which PyTorch has and nobody else, stays at zero, so that
    there are as many parameters. Batch norms count fillers.

    Args:
        model: attributes of PatchSequence by name, as config['task']['model'] has them.
        patch_shape: (pH, pW, pZ).
        channels: of the patches.

    Returns:
        Module that maps patches [B * k, C, pH, pW, pZ], mask [B, k] and position
        [B, k] to logits [B] and [B, k]. Fillers are behind all patches, and each
        series has a patch.
    """
    import torch
    from torch import nn
    from torch.nn import functional

    hidden, window, sequence = model['hidden'], model['window'], model['sequence']
    aggregation, representation = model['aggregation'], model['representation']

    def mean_logit(logits, mask):
        sums = [
            functional.logsigmoid(sign * logits).masked_fill(
                ~mask, -torch.inf).logsumexp(-1) for sign in (1, -1)
        ]
        return sums[0] - sums[1]

    def neighbours(values, fill):
        reach = window // 2
        return functional.pad(values, (reach, reach), value=fill).unfold(1, window, 1)

    def make_lstm(kind, inputs):
        lstm = nn.LSTM(
            inputs, hidden, batch_first=True, bidirectional=_DIRECTIONS[kind] == 2)
        for name, parameter in lstm.named_parameters():
            if name.startswith('bias_hh'):
                nn.init.zeros_(parameter).requires_grad_(False)
        return lstm

    def read(lstm, items, mask):
        packed = nn.utils.rnn.pack_padded_sequence(
            items, mask.sum(1).cpu(), batch_first=True, enforce_sorted=False)
        states, (last, _) = lstm(packed)
        states, _ = nn.utils.rnn.pad_packed_sequence(
            states, batch_first=True, total_length=mask.shape[1])
        return states, last.transpose(0, 1).flatten(1)

    class Standardised(nn.Conv3d):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.gain = nn.Parameter(torch.ones(self.out_channels))

        def forward(self, x):
            axes = 1, 2, 3, 4
            kernel = self.weight - self.weight.mean(axes, keepdim=True)
            count = kernel[0].numel()
            deviation = (count * kernel.square().mean(axes) + 1e-6).sqrt()
            factor = self.gain * math.sqrt(2 / (1 - 1 / math.pi)) / deviation
            kernel = kernel * factor.view(-1, 1, 1, 1, 1)
            return self._conv_forward(x, kernel, self.bias)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            blocks, width, side = [], channels, 2 ** len(model['widths'])
            for features in model['widths']:
                for number in range(model['convolutions']):
                    norm = model['batch_norm']
                    convolve = Standardised if model['standardised'] else nn.Conv3d
                    blocks.append(convolve(
                        width, features, 3, padding=1, bias=not norm))
                    blocks += [nn.BatchNorm3d(features)] if norm else []
                    blocks.append(nn.ReLU(inplace=True))
                    width = features
                blocks.append(nn.MaxPool3d(2))
            self.represent = nn.Sequential(*blocks)
            if representation == 'flatten':
                for pixels in patch_shape:
                    width *= pixels // side
            elif representation == 'rows':
                width *= patch_shape[0] // side
            width += model['position']
            if model['projection']:
                self.projection = nn.Linear(width, model['projection'])
                width = model['projection']
            self.dropout = nn.Dropout(model['dropout'])
            if sequence in _DIRECTIONS:
                self.sequence = make_lstm(sequence, width)
                width = hidden * _DIRECTIONS[sequence] + width * model['residual']
            self.patch_logits = nn.Linear(width, 1)
            width += 1
            if aggregation in _DIRECTIONS:
                self.aggregation = make_lstm(aggregation, width)
                self.series_logit = nn.Linear(hidden * _DIRECTIONS[aggregation], 1)
            if aggregation == 'attention':
                self.attention_hidden = nn.Linear(width, hidden)
                self.attention = nn.Linear(hidden, 1)
                self.series_logit = nn.Linear(width, 1)

        def forward(self, patches, mask, position):
            x, mask = (patches - model['centre']) / model['spread'], mask > 0
            x = self.represent(x)
            if representation == 'flatten':
                # Features last, as jaxmed has them: weights fit as they are.
                x = x.permute(0, 2, 3, 4, 1).flatten(1)
            elif representation == 'rows':
                x = x.amax((3, 4)).swapaxes(1, 2).flatten(1)
            elif representation == 'mean':
                x = x.mean((2, 3, 4))
            else:
                x = x.amax((2, 3, 4))
            x = x.view(*mask.shape, -1)
            if model['position']:
                x = torch.cat([x, position[..., None].to(x.dtype)], -1)
            if model['projection']:
                x = torch.relu(self.projection(x))
            x = self.dropout(x.masked_fill(~mask[..., None], 0))
            if sequence in _DIRECTIONS:
                states, _ = read(self.sequence, x, mask)
                x = torch.cat([states, x], -1) if model['residual'] else states
            logits = self.patch_logits(x)[..., 0].float()
            if sequence == 'max':
                logits = neighbours(
                    logits.masked_fill(~mask, -torch.inf), -torch.inf).amax(-1)
            logits = logits.masked_fill(~mask, 0)
            return self.aggregate(x, logits, mask), logits

        def aggregate(self, x, logits, mask):
            if aggregation == 'max':
                return logits.masked_fill(~mask, -torch.inf).amax(1)
            if aggregation == 'mean':
                return mean_logit(logits, mask)
            if aggregation == 'noisy_or':
                rest = functional.softplus(logits).masked_fill(~mask, 0).sum(1)
                return rest + torch.log(-torch.expm1(-rest))
            if aggregation == 'smoothed_max':
                # A filler's own neighbourhood may be empty: NaN, masked before it.
                near = neighbours(mask, False) | ~mask[..., None]
                smooth = mean_logit(neighbours(logits, 0.0), near)
                return smooth.masked_fill(~mask, -torch.inf).amax(1)
            items = torch.cat([x, logits.sigmoid()[..., None].to(x.dtype)], -1)
            if aggregation == 'attention':
                weights = self.attention(torch.tanh(self.attention_hidden(items)))
                weights = weights.float().masked_fill(~mask[..., None], -torch.inf)
                pooled = (weights.softmax(1) * items).sum(1)
            else:
                _, pooled = read(self.aggregation, items, mask)
            return self.series_logit(pooled)[..., 0].float()

    return Network()


def loss(series, patches, targets, *, patch_weight):
    """losses.series_and_patches in PyTorch, averaged over series."""
    import torch
    from torch.nn import functional

    def known_loss(logits, targets):
        known = ~torch.isnan(targets)
        each = functional.binary_cross_entropy_with_logits(
            logits, torch.where(known, targets, 0), reduction='none')
        return torch.where(known, each, 0).sum(1) / known.sum(1).clamp(min=1)

    return (known_loss(series[:, None], targets[:, :1])
            + patch_weight * known_loss(patches, targets[:, 1:])).mean()


def make(config, inputs, targets):
    """A blocking train step and a blocking forward pass on one batch.

    Args:
        config: nested dicts of the jaxmed run.
        inputs: float32 NumPy, {'patches': [B, k, pH, pW, pZ, C], 'mask': [B, k],
            'position': [B, k]}, preprocessed.
        targets: float32 [B, 1 + k], of the series and its patches.

    Returns:
        {name: (train step, forward)} on the first GPU if there is one, 'channels_last'
        and 'channels_first', of which the first is the faster one on a CPU.
    """
    import torch

    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    half = config['task']['dtype'] == 'bfloat16'
    shape = inputs['patches'].shape
    y, mask, position = (
        torch.from_numpy(x).to(device)
        for x in (targets, inputs['mask'], inputs['position']))

    def make_one(layout):
        network = build(
            config['task']['model'], patch_shape=shape[2:5], channels=shape[5],
        ).to(device, memory_format=layout)
        optimizer = torch.optim.Adam(
            [p for p in network.parameters() if p.requires_grad], lr=1e-5)
        patches = torch.from_numpy(inputs['patches']).flatten(0, 1)
        patches = patches.permute(0, 4, 1, 2, 3)
        # Copied: one channel counts as contiguous in any layout and keeps its strides,
        # by which PyTorch chooses the layout of all that follows.
        x = torch.empty(
            patches.shape, memory_format=layout, device=device).copy_(patches)

        def apply():
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                return network(x, mask, position)

        def wait():
            if device.type == 'cuda':
                torch.cuda.synchronize()

        def train():
            network.train()
            optimizer.zero_grad(set_to_none=True)
            loss(*apply(), y, patch_weight=config['task']['patch_weight']).backward()
            optimizer.step()
            wait()

        def forward():
            network.eval()
            with torch.inference_mode():
                for logits in apply():
                    logits.sigmoid()
            wait()

        return train, forward

    return {
        'channels_last': make_one(torch.channels_last_3d),
        'channels_first': make_one(torch.contiguous_format),
    }


if __name__ == '__main__':
    serve(make)
