"""White blood cells: segment and count leucocytes in stained smears (paper 002)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxmed import losses, metrics, transforms
from jaxmed.data import sigtuple, smears, zheng
from jaxmed.data.phantoms import smears as phantoms
from jaxmed.errors import ConfigError
from jaxmed.models.unet import UNet
from jaxmed.smear import cells, windows
from jaxmed.types import Card, Finding, Task

GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601, as OpenCV reads grey

CARD = Card(
    title='White blood cells in stained smears',
    about='A U-Net outlines leucocytes; touching ones are parted and counted. '
          'Measured on whole smears, put together from tiles side by side; '
          'launch.predict blends overlapping ones.',
    legend='green: predicted cell; magenta: the expert\'s outline',
    paper={'dice': 0.942729},
    paper_data='its own training images',
)

LOSSES = {
    'dice': losses.soft_dice,
    'dice_cross_entropy': lambda logits, targets: (
        losses.soft_dice(logits, targets) + losses.pixel_cross_entropy(logits, targets)
    ),
}


def make(
    *, colour, widths, dropout, batch_norm, num_classes, dtype, loss, augment,
    shift_px, colour_strength, field_stop, clean_threshold, tile, max_pixels,
    group_pattern, threshold, min_confidence, min_area_px, min_distance_px, neck_ratio,
    boundary_px, sweep, overlap_px, crop_threshold, crop_min_area_px, axis_name=None,
) -> Task:
    """Builds the task. Keywords only, no defaults: the config states them all.

    Args:
        colour: 'grey' (the paper) or 'rgb'.
        widths, dropout, batch_norm, num_classes, dtype: of models.unet.UNet; dtype is
            'float32' or 'bfloat16'. Two classes are cell and nucleus.
        loss: a name in LOSSES.
        augment: 'none', 'flips' (the paper) or 'turns' (and mirrors).
        shift_px: multiple of transforms.make_shift; 0 is off.
        colour_strength: of transforms.make_colour_and_light; 0 is off.
        field_stop: of transforms.make_field_stop; 0 is off.
        clean_threshold: pixels of at most this grey value become white before all
            else (the paper's CLEAN_THRESH); -1 is off.
        tile: pixels of a side that go through the network.
        max_pixels: largest picture that is read.
        group_pattern: regex whose first group in a file's name tells slide or
            patient; '' groups by content and name alone.
        threshold: probability from which on a pixel is cell.
        min_confidence, min_area_px, min_distance_px, neck_ratio: of
            smear.cells.separate.
        boundary_px: tolerance of the boundary F1.
        sweep: how large pictures are predicted: 'windows' or 'crops' (the paper).
        overlap_px: of windows.
        crop_threshold, crop_min_area_px: of smear.windows.find_crops.
        axis_name: mapped axis of the devices, for batch norm.
    """
    for name, value, allowed in (
        ('colour', colour, ('grey', 'rgb')),
        ('dtype', dtype, ('float32', 'bfloat16')),
        ('loss', loss, tuple(LOSSES)),
        ('augment', augment, ('none', 'flips', 'turns')),
        ('sweep', sweep, ('windows', 'crops')),
        ('num_classes', num_classes, (1, 2)),
    ):
        if value not in allowed:
            raise ConfigError(f'task.{name}', f'{value!r} is none of {allowed}')
    for name, value, high in (
        ('overlap_px', overlap_px, tile), ('dropout', dropout, 1),
    ):
        if not 0 <= value < high:
            raise ConfigError(f'task.{name}', f'{value!r} is not in [0, {high})')
    for name, value in (
        ('threshold', threshold), ('min_confidence', min_confidence),
    ):
        if not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise ConfigError(f'task.{name}', f'{value!r} is not in [0, 1]')
    if not widths:
        raise ConfigError('task.widths', 'at least one is needed')
    if tile % 2 ** (len(widths) - 1):
        raise ConfigError(
            'task.tile', f'{tile} is not a multiple of {2 ** (len(widths) - 1)}'
        )
    separate = partial(
        cells.separate, threshold=threshold, min_confidence=min_confidence,
        min_area_px=min_area_px, min_distance_px=min_distance_px,
        neck_ratio=neck_ratio,
    )
    labelled = dict(tile=tile, max_pixels=max_pixels, group_pattern=group_pattern)
    steps = [{'flips': transforms.flip, 'turns': transforms.flip_and_turn}.get(augment)]
    if shift_px:
        steps.append(transforms.make_shift(multiple_px=shift_px))
    if colour_strength:
        steps.append(transforms.make_colour_and_light(strength=colour_strength))
    if field_stop:
        steps.append(transforms.make_field_stop(probability=field_stop))
    return Task(
        card=CARD,
        model=UNet(
            num_classes=num_classes, widths=tuple(widths), dropout=dropout,
            batch_norm=batch_norm, dtype=jnp.dtype(dtype), axis_name=axis_name,
        ),
        example={
            'inputs': np.zeros((tile, tile, 3), np.uint8),
            'targets': np.zeros((tile, tile, num_classes), np.uint8),
            'origin_yx': np.zeros(2, np.int32),
            'size_hw': np.full(2, tile, np.int32),
        },
        sources={
            'sigtuple': partial(sigtuple.read, **labelled),
            'zheng': partial(zheng.read, **labelled, num_classes=num_classes),
        },
        phantoms=partial(
            phantoms.records, size_hw=(tile, tile), tile=tile, smears_per_patient=4,
            num_classes=num_classes,
        ),
        files=smears.find_unlabelled,
        read=partial(smears.read_one, max_pixels=max_pixels),
        preprocess=partial(preprocess, colour=colour, clean_threshold=clean_threshold),
        augment=transforms.compose(*(step for step in steps if step is not None)),
        loss=lambda outputs, batch: LOSSES[loss](outputs, batch['targets']),
        probabilities=jax.nn.sigmoid,
        views=transforms.SQUARE_VIEWS,
        rows=rows,
        cases=partial(cases, separate=separate, boundary_px=boundary_px),
        scores={'dice': True},
        metrics={
            'dice': metrics.dice, 'dice_median': metrics.dice_median,
            'dice_worst': metrics.dice_worst, 'iou': metrics.iou,
            'precision': metrics.precision, 'recall': metrics.recall,
            'boundary_f1': metrics.boundary_f1, 'count_error': metrics.count_error,
        },
        lower_is_better=('count_error',),
        baselines={
            'Otsu on grey': partial(
                otsu, threshold=cells.otsu, num_classes=num_classes
            ),
            'Otsu on purple': partial(
                otsu, threshold=cells.otsu_purple, num_classes=num_classes
            ),
        },
        render=partial(render, separate=separate),
        infer=partial(
            infer, tile=tile, sweep=sweep, overlap_px=overlap_px,
            crop_threshold=crop_threshold, crop_min_area_px=crop_min_area_px,
        ),
        findings=partial(findings, separate=separate),
    )


def preprocess(batch, *, colour, clean_threshold):
    """uint8 RGB [B, H, W, 3] -> float32 in [0, 1], [B, H, W, 1 or 3]."""
    inputs = batch['inputs'].astype(jnp.float32)
    grey = jnp.sum(inputs * jnp.array(GREY_WEIGHTS), axis=-1, keepdims=True)
    if colour == 'grey':
        inputs = grey
    # Paper 002, `img[img <= CLEAN_THRESH] = 255`; OpenCV rounds grey to integers.
    inputs = jnp.where(jnp.round(grey) <= clean_threshold, 255.0, inputs) / 255.0
    ready = batch | {'inputs': inputs}
    if 'targets' in batch:
        ready['targets'] = batch['targets'].astype(jnp.float32)
    return ready


def rows(probabilities, batch):
    """What `cases` needs of a tile, in bytes: [B, H, W, K] uint8 maps and the place."""
    return {
        'probability': jnp.round(probabilities * 255.0).astype(jnp.uint8),
        **{name: batch[name] for name in ('targets', 'origin_yx', 'size_hw')},
    }


def _stitch_cases(rows):
    """Yields (first row's number, probability [H, W, K], truth [H, W, K]) per case."""
    _, first = np.unique(rows['case_id'], return_index=True)
    for place in np.sort(first):
        members = rows['case_id'] == rows['case_id'][place]
        origins, size_hw = rows['origin_yx'][members], rows['size_hw'][place]
        yield place, *(
            windows.stitch(rows[name][members], origins, size_hw) / scale
            for name, scale in (('probability', 255.0), ('targets', 1.0))
        )


def cases(rows, *, separate, boundary_px):
    """Tiles -> one row per smear: areas and overlaps in pixels, counts of cells.

    Measured on the first class, the cell. The actual count is that of the true mask,
    parted in the same way: SigTuple's masks do not say which pixel is whose.
    """
    columns = []
    for place, probability, truth in _stitch_cases(rows):
        # What is measured is what launch.predict writes: separated cells, without
        # specks, holes filled.
        found, wanted = separate(probability[..., 0]), separate(truth[..., 0])
        predicted, actual = found > 0, truth[..., 0] >= 0.5
        precision, recall = cells.boundary_scores(
            predicted, actual, tolerance_px=boundary_px
        )
        intersection, sizes = (predicted & actual).sum(), predicted.sum() + actual.sum()
        columns.append({
            'case_id': rows['case_id'][place], 'patient_id': rows['patient_id'][place],
            'dice': 2.0 * intersection / sizes if sizes else np.nan,
            'intersection': intersection,
            'predicted': predicted.sum(), 'actual': actual.sum(),
            'boundary_precision': precision, 'boundary_recall': recall,
            'count_predicted': found.max(), 'count_actual': wanted.max(),
        })
    return {name: np.array([column[name] for column in columns]) for name in columns[0]}


def otsu(batch, *, threshold, num_classes):
    """Baseline: cells by one threshold per tile, [B, H, W, K] in {0, 1}."""
    maps = np.stack([threshold(image) for image in batch['inputs']])
    return np.repeat(maps[..., None].astype(np.float32), num_classes, axis=-1)


def render(records, rows, *, separate):
    """A smear with predicted and true contours, RGB [H, W, 3]."""
    (_, probability, truth), = _stitch_cases(rows)
    image = windows.stitch(
        np.stack([record['inputs'] for record in records]),
        rows['origin_yx'], rows['size_hw'][0],
    ).round().astype(np.uint8)
    return cells.draw(
        image, separate(probability[..., 0]), truth=separate(truth[..., 0])
    )


def infer(
    apply, record, *, batch_size, tile, sweep, overlap_px, crop_threshold,
    crop_min_area_px,
):
    """Probabilities [H, W, K] of a smear of any size."""

    def apply_tiles(tiles):
        return apply({'inputs': tiles})

    shared = dict(window=tile, batch_size=batch_size)
    if sweep == 'crops':
        return windows.predict_crops(
            apply_tiles, record['inputs'], threshold=crop_threshold,
            min_area=crop_min_area_px, **shared,
        )
    return windows.predict_windows(
        apply_tiles, record['inputs'], overlap=overlap_px, **shared
    )


def findings(record, probabilities, *, separate):
    """Mask, overlay, and count, area and mean probability of each cell."""
    probability = probabilities[..., 0]
    labels = separate(probability)
    measured = cells.measure(labels, probability)
    areas = [cell['area_px'] for cell in measured]
    return Finding(
        row={
            'count': len(measured),
            'area_px': ' '.join(map(str, areas)),
            'mean_probability': (
                round(float(probability[labels > 0].mean()), 4) if measured else ''
            ),
        },
        details={'cells': measured, 'size_hw': list(probability.shape)},
        pictures={
            'masks': np.where(labels > 0, 255, 0).astype(np.uint8),
            'overlays': cells.draw(record['inputs'], labels),
        },
    )
