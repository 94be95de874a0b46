"""Paper 003's networks and their training step as a PyTorch user would write them.

Layer by layer torchvision's, under its names, so that a state dict of one fits the
other; written out because torchvision need not be installed.
"""

import sys

from launch.benchmarks import serve

NETWORKS = ('alexnet', 'vgg11', 'vgg11_bn', 'resnet18', 'resnet50')


def build(model, *, channels, num_classes):
    """A network as torchvision has it, for NCHW float32.

    Args:
        model: one of NETWORKS.
        channels: of the images.
        num_classes: outputs.
    """
    from torch import nn

    def dense(sizes, places):
        # AlexNet drops before its hidden layers, VGG after them; ReLU between.
        layers = {place: nn.Linear(*size) for place, size in zip(places, sizes)}
        drops = (0, 3) if 1 in places else (2, 5)
        return nn.Sequential(*(
            layers.get(i) or (nn.Dropout() if i in drops else nn.ReLU(inplace=True))
            for i in range(7)
        ))

    class Plain(nn.Module):
        def __init__(self, features, side, sizes, places):
            super().__init__()
            self.features = nn.Sequential(*features)
            self.avgpool = nn.AdaptiveAvgPool2d(side)
            self.classifier = dense(sizes, places)

        def forward(self, x):
            return self.classifier(self.avgpool(self.features(x)).flatten(1))

    class Block(nn.Module):
        def __init__(self, inputs, width, stride, bottleneck):
            super().__init__()
            shapes = [(inputs, width, 3, stride), (width, width, 3, 1)]
            if bottleneck:
                shapes = [(inputs, width, 1, 1), (width, width, 3, stride),
                          (width, 4 * width, 1, 1)]
            for i, (a, b, size, step) in enumerate(shapes, start=1):
                conv = nn.Conv2d(a, b, size, step, size // 2, bias=False)
                setattr(self, f'conv{i}', conv)
                setattr(self, f'bn{i}', nn.BatchNorm2d(b))
            self.depth, outputs = len(shapes), shapes[-1][1]
            self.relu = nn.ReLU(inplace=True)
            self.downsample = None
            if stride > 1 or inputs != outputs:
                self.downsample = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                    nn.BatchNorm2d(outputs),
                )

        def forward(self, x):
            shortcut = x if self.downsample is None else self.downsample(x)
            for i in range(1, self.depth + 1):
                x = getattr(self, f'bn{i}')(getattr(self, f'conv{i}')(x))
                x = self.relu(x + shortcut if i == self.depth else x)
            return x

    class ResNet(nn.Module):
        def __init__(self, blocks, bottleneck):
            super().__init__()
            self.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
            self.bn1 = nn.BatchNorm2d(64)
            self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
            inputs = 64
            for stage, count in enumerate(blocks):
                layers = []
                for i in range(count):
                    width, stride = 64 * 2**stage, 2 if stage and not i else 1
                    layers.append(Block(inputs, width, stride, bottleneck))
                    inputs = width * (4 if bottleneck else 1)
                setattr(self, f'layer{stage + 1}', nn.Sequential(*layers))
            self.avgpool = nn.AdaptiveAvgPool2d(1)
            self.fc = nn.Linear(inputs, num_classes)

        def forward(self, x):
            x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
            x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
            return self.fc(self.avgpool(x).flatten(1))

    if model in ('resnet18', 'resnet50'):
        blocks = (2, 2, 2, 2) if model == 'resnet18' else (3, 4, 6, 3)
        return ResNet(blocks, bottleneck=model == 'resnet50')
    if model == 'alexnet':
        features = [nn.Conv2d(channels, 64, 11, 4, 2), nn.ReLU(inplace=True),
                    nn.MaxPool2d(3, 2)]
        features += [nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(inplace=True),
                     nn.MaxPool2d(3, 2)]
        for inputs, outputs in ((192, 384), (384, 256), (256, 256)):
            features += [nn.Conv2d(inputs, outputs, 3, 1, 1), nn.ReLU(inplace=True)]
        features.append(nn.MaxPool2d(3, 2))
        sizes = (256 * 36, 4096), (4096, 4096), (4096, num_classes)
        return Plain(features, 6, sizes, (1, 4, 6))
    features, inputs = [], channels
    for block in ((64,), (128,), (256, 256), (512, 512), (512, 512)):
        for width in block:
            features.append(nn.Conv2d(inputs, width, 3, 1, 1))
            features += [nn.BatchNorm2d(width)] if model == 'vgg11_bn' else []
            features.append(nn.ReLU(inplace=True))
            inputs = width
        features.append(nn.MaxPool2d(2))
    sizes = (512 * 49, 4096), (4096, 4096), (4096, num_classes)
    return Plain(features, 7, sizes, (0, 3, 6))


def make(config, inputs, targets):
    """A blocking train step and a blocking forward pass on one batch.

    Args:
        config: nested dicts of the jaxmed run; config['task']['network'] is the
            network's name.
        inputs: float32 [B, H, W, C], NumPy, preprocessed.
        targets: float32 [B, K], shares of the classes; the loss is the cross-entropy.

    Returns:
        {name: (train step, forward)}, channels last, on the first GPU if there is one:
        'channels_last' and, where torch.compile works, 'channels_last, compiled'.
        Nothing for a network that `build` does not have.
    """
    import torch

    if config['task']['network'] not in NETWORKS:
        return {}

    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    rivals = {'channels_last': _make(config, inputs, targets, device, compiled=False)}
    try:
        compiled = _make(config, inputs, targets, device, compiled=True)
        for step in compiled:  # compiles, or fails: there may be no compiler
            step()
    except Exception as error:  # torch raises many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        print(f'torch.compile does not work here: {reason}', file=sys.stderr)
    else:
        rivals['channels_last, compiled'] = compiled
    return rivals


def _make(config, inputs, targets, device, *, compiled):
    import torch

    half = config['task']['dtype'] == 'bfloat16'
    network = build(
        config['task']['network'], channels=inputs.shape[-1],
        num_classes=targets.shape[-1],
    ).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    x = torch.from_numpy(inputs).permute(0, 3, 1, 2).to(device)
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.from_numpy(targets).to(device)
    apply = torch.compile(network) if compiled else network

    def wait():
        if device.type == 'cuda':
            torch.cuda.synchronize()

    def train():
        network.train()
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            logits = apply(x)
        loss = torch.nn.functional.cross_entropy(logits.float(), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        wait()

    def forward():
        network.eval()
        with torch.inference_mode(), torch.autocast(
            device.type, torch.bfloat16, enabled=half
        ):
            apply(x).float().softmax(-1)
        wait()

    return train, forward


if __name__ == '__main__':
    serve(make)
