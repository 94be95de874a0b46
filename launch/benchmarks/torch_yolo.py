"""The canal detector and its training step as a PyTorch user would write them."""

from launch.benchmarks import serve


def make(config, inputs, targets):
    """A blocking train step and a blocking forward pass on one batch.

    Args:
        config: nested dicts of the jaxmed run.
        inputs: float32 [B, H, W, C], NumPy, preprocessed.
        targets: float32 [B, 5]: presence and box in pixels.

    Returns:
        {name: (train step, forward)}, channels last, on the first GPU if there is one.
    """
    import torch
    from torch import nn
    from torch.nn import functional

    task = config['task']
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    half = task['dtype'] == 'bfloat16'
    anchors = torch.tensor(task['anchors_mm'], device=device) / task['pixel_mm']
    cell_px = 2 ** (len(task['widths']) - 1)
    layers, width = [], inputs.shape[-1]
    for stage, features in enumerate(task['widths']):
        layers += [nn.MaxPool2d(2)] if stage else []
        last = stage == len(task['widths']) - 1
        for _ in range(task['depth'] if last else 1):
            layers += [
                nn.Conv2d(width, features, 3, padding=1, bias=False),
                nn.BatchNorm2d(features), nn.LeakyReLU(0.1, inplace=True),
            ]
            width = features
    layers.append(nn.Conv2d(width, 5 * len(anchors), 1))
    network = nn.Sequential(*layers).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    x = torch.from_numpy(inputs).permute(0, 3, 1, 2).to(device)
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.from_numpy(targets).to(device)

    def apply():
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            out = network(x)
        batch, _, rows, columns = out.shape
        return out.float().view(batch, -1, 5, rows, columns).permute(0, 3, 4, 1, 2)

    def decode(out):
        rows, columns = torch.meshgrid(
            *(torch.arange(n, device=device) for n in out.shape[1:3]), indexing='ij')
        corner = torch.stack([columns, rows], -1)[:, :, None]
        centre = (corner + out[..., :2].sigmoid()) * cell_px
        half_sides = anchors * out[..., 2:4].clamp(-4, 4).exp() / 2
        return torch.cat([centre - half_sides, centre + half_sides], -1)

    def overlap(boxes, others):
        low = torch.maximum(boxes[..., :2], others[..., :2])
        high = torch.minimum(boxes[..., 2:], others[..., 2:])
        shared = (high - low).clamp(min=0).prod(-1)
        sizes = [(b[..., 2:] - b[..., :2]).prod(-1) for b in (boxes, others)]
        return shared / (sizes[0] + sizes[1] - shared)

    def loss_of(out):
        there, box = y[:, 0] > 0, y[:, 1:]
        box = torch.where(there[:, None], box, torch.tensor([0., 0., 1., 1.]).to(box))
        sides, place = box[:, 2:] - box[:, :2], (box[:, :2] + box[:, 2:]) / 2 / cell_px
        cell = place.long()
        similar = (torch.minimum(sides[:, None], anchors).prod(-1) / torch.maximum(
            sides[:, None], anchors).prod(-1)).argmax(-1)
        number = (cell[:, 1] * out.shape[2] + cell[:, 0]) * len(anchors) + similar
        flat, each = out.reshape(len(out), -1, 5), torch.arange(len(out))
        with torch.no_grad():
            reached = overlap(decode(out).reshape(len(out), -1, 4), box[:, None])
        own = flat[each, number]
        offsets = ((own[:, :2].sigmoid() - (place - cell)) ** 2 + (
            own[:, 2:4] - (sides / anchors[similar]).log()) ** 2).sum(-1)
        sure = functional.binary_cross_entropy_with_logits(
            own[:, 4], reached[each, number], reduction='none')
        elsewhere = ~(there[:, None] & (reached > 0.6))
        elsewhere[each, number] &= ~there
        background = (functional.softplus(flat[..., 4]) * elsewhere).sum(-1)
        return (there * (task['box_weight'] * offsets + sure)
                + task['background_weight'] * background).mean()

    def wait():
        if device.type == 'cuda':
            torch.cuda.synchronize()

    def train():
        network.train()
        optimizer.zero_grad(set_to_none=True)
        loss_of(apply()).backward()
        optimizer.step()
        wait()

    def forward():
        network.eval()
        with torch.inference_mode():
            decode(apply())
        wait()

    return {'channels_last': (train, forward)}


if __name__ == '__main__':
    serve(make)
