"""Paper 002's U-Net and its training step as a PyTorch user would write them."""

from launch.benchmarks import serve


def build(*, channels, num_classes, widths, dropout, batch_norm):
    """The same network as jaxmed.models.unet.UNet, for NCHW float32."""
    import torch
    from torch import nn
    from torch.nn import functional

    def block(inputs, outputs):
        layers = []
        for size in (inputs, outputs):
            layers.append(
                nn.Conv2d(size, outputs, 3, padding=1, bias=not batch_norm)
            )
            layers += [nn.BatchNorm2d(outputs)] if batch_norm else []
            layers.append(nn.ReLU(inplace=True))
        return nn.Sequential(*layers)

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            sizes = [channels, *widths]
            self.down = nn.ModuleList(map(block, sizes[:-1], sizes[1:]))
            self.up = nn.ModuleList(
                block(deep + wide, wide)
                for deep, wide in zip(widths[:0:-1], widths[-2::-1])
            )
            self.outputs = nn.Conv2d(widths[0], num_classes, 1)
            self.drop = nn.Dropout(dropout)

        def forward(self, x):
            skips = []
            for level, layers in enumerate(self.down):
                if level:
                    skips.append(x)
                    x = self.drop(functional.max_pool2d(x, 2))
                x = layers(x)
            for layers in self.up:
                x = functional.interpolate(x, scale_factor=2, mode='nearest')
                x = self.drop(layers(torch.cat([x, skips.pop()], dim=1)))
            return self.outputs(x)

    return UNet()


def make(config, inputs, targets):
    """A blocking train step and a blocking forward pass on one batch.

    Args:
        config: nested dicts of the jaxmed run.
        inputs, targets: float32 [B, H, W, C] and [B, H, W, K], NumPy, preprocessed.

    Returns:
        {layout: (train step, forward)} for both memory layouts, on the first GPU if
        there is one.
    """
    import torch

    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    half = config['task']['dtype'] == 'bfloat16'
    return {
        name: _make(config, inputs, targets, device, half, layout)
        for name, layout in (
            ('channels_first', torch.contiguous_format),
            ('channels_last', torch.channels_last),
        )
    }


def _make(config, inputs, targets, device, half, layout):
    import torch

    task = config['task']
    network = build(
        channels=inputs.shape[-1], num_classes=task['num_classes'],
        widths=list(task['widths']), dropout=task['dropout'],
        batch_norm=task['batch_norm'],
    ).to(device, memory_format=layout)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    x, y = (
        torch.from_numpy(array).permute(0, 3, 1, 2).contiguous(memory_format=layout)
        .to(device) for array in (inputs, targets)
    )

    def wait():
        if device.type == 'cuda':
            torch.cuda.synchronize()

    def train():
        network.train()
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            predicted = torch.sigmoid(network(x).float())
        overlap = (predicted * y).sum((1, 2, 3))
        size = predicted.sum((1, 2, 3)) + y.sum((1, 2, 3))
        loss = (1 - (2 * overlap + 1) / (size + 1)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        wait()

    def forward():
        network.eval()
        with torch.inference_mode(), torch.autocast(
            device.type, torch.bfloat16, enabled=half
        ):
            torch.sigmoid(network(x))
        wait()

    return train, forward


if __name__ == '__main__':
    serve(make)
