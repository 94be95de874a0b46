"""Augmentation on the device, and the views of test-time augmentation.

An augmentation takes one key per example, (keys [B], batch) -> batch, so that what
happens to an example does not depend on which device it lies on.
"""

import jax
import jax.numpy as jnp

from jaxmed.errors import ConfigError
from jaxmed.types import View


def compose(*augmentations):
    """Applies augmentations in order, each with keys of its own."""

    def augment(keys, batch):
        for number, step in enumerate(augmentations):
            split = jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
            batch = step(split, batch)
        return batch

    return augment


def flip(keys, batch):
    """Mirrors rows and columns, each in half of all cases, image and mask alike.

    Paper 002 meant this; its `img[:, :-1, :]` crops a row instead.
    """
    draws = jax.vmap(lambda key: jax.random.bernoulli(key, 0.5, (2,)))(keys)
    return _on_pair(lambda x, d: _mirror(_mirror(x, d[0], 0), d[1], 1), batch, draws)


def flip_and_turn(keys, batch):
    """Random mirror and quarter turn, the same for image and mask: all 8 alike.

    For smears, which have no up or down. Not for chest X-rays: a mirrored heart
    is another diagnosis (dextrocardia). Needs square images.
    """
    draws = jax.vmap(lambda key: jax.random.bernoulli(key, 0.5, (3,)))(keys)

    def turn(x, d):
        # Transposing and two mirrors generate the symmetries of the square.
        x = jnp.where(d[2], jnp.swapaxes(x, 0, 1), x)
        return _mirror(_mirror(x, d[0], 0), d[1], 1)

    return _on_pair(turn, batch, draws)


def make_colour_and_light(*, strength):
    """Builds random changes of stain and lamp on inputs [B, H, W, C] in [0, 1].

    Per channel a gain, per image a gain, an offset and a gamma, all about 1 or 0:
    x -> clip((x * gain + offset) ** gamma).

    Args:
        strength: half-width of the common gain and of log gamma; channel gains and
            the offset vary by half of it. 0.15 stays within one laboratory.
    """

    def change(key, x):
        common, channel, offset, gamma = jax.random.split(key, 4)
        gain = 1.0 + strength * jax.random.uniform(common, (), minval=-1, maxval=1)
        gain *= 1.0 + strength / 2 * jax.random.uniform(
            channel, x.shape[-1:], minval=-1, maxval=1
        )
        shift = strength / 2 * jax.random.uniform(offset, (), minval=-1, maxval=1)
        power = jnp.exp(strength * jax.random.uniform(gamma, (), minval=-1, maxval=1))
        return jnp.clip(x * gain + shift, 0.0, 1.0) ** power

    def augment(keys, batch):
        return batch | {'inputs': jax.vmap(change)(keys, batch['inputs'])}

    return augment


def make_shift(*, multiple_px):
    """Builds a random shift of image and mask in every second example, around.

    Patches are cut around a cell; in a large smear a cell may lie anywhere in a
    window or be cut by its border, and most windows hold none.

    Args:
        multiple_px: shifts are whole multiples of it. SigTuple's masks are drawn in
            squares of 4 pixels; a network that may learn so outlines them better.
    """

    def shift(x, steps):
        return jnp.roll(x, steps * multiple_px, axis=(0, 1))

    def augment(keys, batch):
        most = batch['inputs'].shape[1] // multiple_px

        def draw(key):
            steps, on = jax.random.split(key)
            drawn = jax.random.randint(steps, (2,), 0, most)
            return drawn * jax.random.bernoulli(on)

        return _on_pair(shift, batch, jax.vmap(draw)(keys))

    return augment


def make_field_stop(*, probability):
    """Builds a dark corner beyond the microscope's round field, seldom drawn.

    A network that only saw patches around cells takes the field's rim for one: on
    smears photographed to the rim it found cells that are not there. Up to a third
    of the picture goes dark behind an arc, softly, and what lies there is no target.
    Within the field the lens leaves a bright line and a violet tinge along the rim.

    Args:
        probability: share of the examples that get one.
    """
    # By channel, red first; a grey picture takes the middle one.
    line, tinge = jnp.array([1.0, 0.95, 0.6]), jnp.array([0.6, 1.0, 0.2])

    def change(key, x, targets):
        keys = jax.random.split(key, 10)
        size = jnp.float32(max(x.shape[:2]))
        angle = jax.random.uniform(keys[0], (), maxval=2 * jnp.pi)
        # The arc passes the middle at `near`; its field is a circle of `radius`.
        near = size * jax.random.uniform(keys[1], (), minval=0.2, maxval=0.7)
        radius = size * jnp.exp(
            jax.random.uniform(keys[2], (), minval=0.0, maxval=jnp.log(6.0))
        )
        back = near - radius
        rows, columns = jnp.meshgrid(
            *(jnp.arange(side) - (side - 1) / 2 for side in x.shape[:2]), indexing='ij'
        )
        distance = jnp.hypot(
            rows - back * jnp.sin(angle), columns - back * jnp.cos(angle)
        )
        softness = jax.random.uniform(keys[3], (), minval=0.5, maxval=4.0)
        dark = jax.nn.sigmoid((distance - radius) / softness)[..., None]
        on = jax.random.bernoulli(keys[4], probability)
        dark *= on
        black = jax.random.uniform(keys[5], (), maxval=0.1)
        inside = jnp.maximum(radius - distance, 0.0)[..., None]
        channels = jnp.arange(3) if x.shape[-1] == 3 else jnp.array([1])
        reach = jax.random.uniform(keys[6], (), minval=10.0, maxval=60.0)
        depth = jax.random.uniform(keys[7], (), maxval=0.2) * on
        x = x * (1.0 - depth * jnp.exp(-inside / reach) * tinge[channels])
        width = jax.random.uniform(keys[8], (), minval=0.5, maxval=4.0)
        glow = jax.random.uniform(keys[9], ()) * on * jnp.exp(-((inside / width) ** 2))
        x = x + (line[channels] - x) * glow
        return x + (black - x) * dark, jnp.where(dark > 0.5, 0.0, targets)

    def augment(keys, batch):
        inputs, targets = jax.vmap(change)(keys, batch['inputs'], batch['targets'])
        return batch | {'inputs': inputs, 'targets': targets}

    return augment


def mirror_sides(keys, batch):
    """Mirrors left and right of the inputs [B, H, W, C] in half of all cases.

    Paper 003 does it. On a chest it puts the heart on the other side, where it is
    only in dextrocardia: a network that learns from it can't tell the two apart.
    """
    draws = jax.vmap(jax.random.bernoulli)(keys)
    inputs = jax.vmap(lambda x, d: _mirror(x, d, 1))(batch['inputs'], draws)
    return batch | {'inputs': inputs}


def make_affine(*, turn_deg, scale, shift):
    """Builds small turns, zooms and shifts of the inputs [B, H, W, C], bilinear.

    What comes in from outside of the picture repeats its edge.

    Args:
        turn_deg: largest angle to both sides, in degrees.
        scale: half-width of the log of the zoom, and of that of width over height.
        shift: largest shift along each side, as a share of it.
    """

    def change(key, x):
        draws = jax.random.uniform(key, (5,), minval=-1.0, maxval=1.0)
        return sample(x, *_draw_map(draws, x.shape[:2], turn_deg, scale, shift))

    def augment(keys, batch):
        return batch | {'inputs': jax.vmap(change)(keys, batch['inputs'])}

    return augment


def make_box_affine(*, turn_deg, scale, shift):
    """Builds make_affine's changes, and mirrors of left and right, with one box each.

    Targets are [B, 5]: whether there is something, then its box (x0, y0, x1, y1) in
    pixels from the outer corner of the first one. The box is that of the ellipse in it
    after the change; what left the picture by its centre is there no more.

    Args:
        turn_deg, scale, shift: of make_affine.
    """

    def change(key, x, target):
        key, mirrors = jax.random.split(key)
        draws = jax.random.uniform(key, (5,), minval=-1.0, maxval=1.0)
        matrix, offset = _draw_map(draws, x.shape[:2], turn_deg, scale, shift)
        mirror = jax.random.bernoulli(mirrors)
        sides = jnp.array(x.shape[:2], jnp.float32)
        there, box = target[0], target[1:].reshape(2, 2)[:, ::-1]  # (y, x) corners
        box = jnp.where(mirror, jnp.stack([box[:, 0], sides[1] - box[:, 1]], 1), box)
        back = jnp.linalg.inv(matrix)
        # Pixel i reaches from i to i + 1 in a box and is at i for `sample`.
        centre = back @ (box.mean(axis=0) - 0.5 - offset) + 0.5
        half = jnp.sqrt(back**2 @ (jnp.abs(box[1] - box[0]) / 2) ** 2)
        inside = jnp.all((centre >= 0) & (centre < sides))
        box = jnp.stack([centre - half, centre + half])[:, ::-1].reshape(4)
        there = jnp.where(inside, there, there * 0.0)  # NaN stays
        picture = sample(_mirror(x, mirror, 1), matrix, offset)
        return picture, jnp.concatenate([there[None], box])

    def augment(keys, batch):
        inputs, targets = jax.vmap(change)(keys, batch['inputs'], batch['targets'])
        return batch | {'inputs': inputs, 'targets': targets}

    return augment


def _draw_map(draws, sides, turn_deg, scale, shift):
    """Five numbers in [-1, 1] -> (matrix [2, 2], offset [2]) of make_affine.

    Pixel (row, column) of the result shows the place matrix @ pixel + offset.
    """
    angle = jnp.deg2rad(turn_deg) * draws[0]
    zoom, stretch = jnp.exp(scale * draws[1]), jnp.exp(scale / 2 * draws[2])
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    matrix = jnp.array([[cosine, -sine], [sine, cosine]]) * jnp.array(
        [1 / (zoom * stretch), stretch / zoom]
    )
    middle = (jnp.array(sides) - 1) / 2
    return matrix, middle - matrix @ middle + shift * draws[3:] * jnp.array(sides)


def sample(x, matrix, offset):
    """An image at other places, bilinear; its edge goes on outside.

    Args:
        x: [H, W, C].
        matrix, offset: [2, 2], [2]; pixel (row, column) of the result shows the place
            matrix @ (row, column) + offset.
    """
    height, width, _ = x.shape
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None]
    places = jnp.stack([
        line[0] * rows + line[1] * columns + start
        for line, start in zip(matrix, offset)
    ])
    # The last row and column are met by weight 0 only.
    last = jnp.array([height - 1.0, width - 1.0])[:, None, None]
    places = jnp.clip(places, 0.0, last)
    low = jnp.minimum(jnp.floor(places), last - 1).astype(jnp.int32)
    down, right = (places - low)[..., None]
    flat = x.reshape(-1, x.shape[-1])
    corner = low[0] * width + low[1]
    above = flat[corner] * (1 - right) + flat[corner + 1] * right
    below = flat[corner + width] * (1 - right) + flat[corner + width + 1] * right
    return above * (1 - down) + below * down


def make_light(*, strength):
    """Builds random contrast and brightness of normalised inputs [B, H, W, C].

    x -> x * gain + offset, both drawn per image; nothing is cut off.

    Args:
        strength: half-width of log gain and of the offset.
    """

    def change(key, x):
        gain, offset = jax.random.uniform(key, (2,), minval=-strength, maxval=strength)
        return x * jnp.exp(gain) + offset

    def augment(keys, batch):
        return batch | {'inputs': jax.vmap(change)(keys, batch['inputs'])}

    return augment


def make_noise(*, strength):
    """Builds noise on the inputs [B, H, W, C], Gaussian, the same in all channels.

    Args:
        strength: its deviation is drawn for each image from 0 to this.
    """

    def change(key, x):
        key, deviations = jax.random.split(key)
        deviation = jax.random.uniform(deviations, maxval=strength)
        return x + deviation * jax.random.normal(key, (*x.shape[:2], 1), x.dtype)

    def augment(keys, batch):
        return batch | {'inputs': jax.vmap(change)(keys, batch['inputs'])}

    return augment


def make_mixup(*, alpha):
    """Builds mixup (Zhang et al. 2018): blends of two examples and of their targets.

    Neighbours in the batch are partners, so that a blend does not depend on how many
    devices share it; each must hold an even number of examples. A finding that is
    unknown (NaN) in one of the two is unknown in the blend.

    Args:
        alpha: of the Beta distribution of an example's own share.
    """

    def augment(keys, batch):
        size = len(batch['inputs'])
        if size % 2:
            raise ConfigError(
                'train.batch_size', f'mixup needs pairs, a device gets {size} examples'
            )
        partners = jnp.arange(size) ^ 1
        own = jax.vmap(lambda key: jax.random.beta(key, alpha, alpha))(keys)

        def blend(x):
            share = own.reshape(-1, *[1] * (x.ndim - 1))
            return x * share + x[partners] * (1 - share)

        return batch | {name: blend(batch[name]) for name in ('inputs', 'targets')}

    return augment


def _mirror(x, draw, axis):
    return jnp.where(draw, jnp.flip(x, axis), x)


def _on_pair(function, batch, draws):
    apply = jax.vmap(function)
    return batch | {k: apply(batch[k], draws) for k in ('inputs', 'targets')}


IDENTITY = View(lambda x: x, lambda x: x)


def _square_view(rows, columns, swap):
    """One symmetry of the square on [B, H, W, C], and its inverse."""
    flipped = tuple(axis for axis, on in ((1, rows), (2, columns)) if on)

    def forward(x):
        return jnp.flip(jnp.swapaxes(x, 1, 2) if swap else x, flipped)

    def inverse(x):
        x = jnp.flip(x, flipped)
        return jnp.swapaxes(x, 1, 2) if swap else x

    return View(forward, inverse)


# The identity first, then the other mirrors and quarter turns.
SQUARE_VIEWS = (IDENTITY, *(
    _square_view(rows, columns, swap)
    for swap in (False, True) for rows in (False, True) for columns in (False, True)
    if (swap, rows, columns) != (False, False, False)
))
