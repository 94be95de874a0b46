"""The spinal cord's path through a CT scan, from boxes on axial slices (paper 001)."""

from functools import partial

import jax.numpy as jnp
import numpy as np

from jaxmed import transforms
from jaxmed.ct import detect, drawing, path
from jaxmed.data import canals, volumes
from jaxmed.data.phantoms import canals as phantoms
from jaxmed.errors import ConfigError
from jaxmed.models import yolo
from jaxmed.types import Card, Finding, Task

WINDOWS_HU = ((300.0, 1000.0), (40.0, 400.0))  # (centre, width): bone, soft tissue
NEAR_MM, NEAR_IOU = 10.0, 0.5  # what counts as agreement

CARD = Card(
    title='The spinal canal in CT',
    about='A YOLO9000-style detector boxes the spinal canal on axial slices; between '
          'those that were looked at its path is interpolated.',
    legend='green: predicted box; magenta: the true one',
    paper={'agreement': 0.9899},
    paper_data='200 slices, as an expert who saw the boxes judged',
)


def make(
    *, widths, depth, anchors_mm, dtype, size_px, pixel_mm, box_weight,
    background_weight, turn_deg, scale, shift, light, noise, max_voxels, memory_mib,
    read_seconds, min_slices, label_step_mm, phantom_slices, step_mm, min_confidence,
    tolerance_mm, max_slope, max_jump_mm, extrapolate_mm, axis_name=None,
) -> Task:
    """Builds the task. Keywords only, no defaults: the config states them all.

    Args:
        widths, depth, dtype: of models.yolo.YOLO; dtype 'float32' or 'bfloat16'.
        anchors_mm: boxes (width, height) that others are moved and stretched from.
        size_px, pixel_mm: of ct.axial.resample: what the detector sees of a slice.
        box_weight, background_weight: of yolo.loss.
        turn_deg, scale, shift: of transforms.make_box_affine; all 0 is off.
        light: of transforms.make_light; 0 is off.
        noise: deviation of the noise added in training, drawn up to this, in windows.
        max_voxels, memory_mib, read_seconds, min_slices: limits of a scan, see
            volumes.read_volume.
        label_step_mm: least distance between two slices taken from a mask.
        phantom_slices: slices of each drawn patient.
        step_mm, min_confidence: of ct.detect.detect.
        tolerance_mm, max_slope, max_jump_mm, extrapolate_mm: of ct.path.PathRules.
        axis_name: mapped axis of the devices, for batch norm.
    """
    cell_px = 2 ** (len(widths) - 1)
    for name, value, low, high in (
        ('min_confidence', min_confidence, 0, 1), ('step_mm', step_mm, 1e-3, np.inf),
        ('pixel_mm', pixel_mm, 1e-3, np.inf), ('depth', depth, 1, np.inf),
        ('min_slices', min_slices, 2, np.inf), ('noise', noise, 0, np.inf),
        ('phantom_slices', phantom_slices, 1, np.inf),
    ):
        if not low <= value <= high:
            raise ConfigError(f'task.{name}', f'{value!r} is not in [{low}, {high}]')
    if dtype not in ('float32', 'bfloat16'):
        raise ConfigError('task.dtype', f'{dtype!r}: float32 or bfloat16')
    if not widths or size_px % cell_px:
        raise ConfigError('task.size_px', f'{size_px} is not a multiple of {cell_px}')
    if not anchors_mm or any(not side > 0 for pair in anchors_mm for side in pair):
        raise ConfigError('task.anchors_mm', f'{anchors_mm!r}: positive pairs')
    anchors = tuple(tuple(side / pixel_mm for side in pair) for pair in anchors_mm)
    grid = dict(size_px=size_px, pixel_mm=pixel_mm)
    boxes = dict(anchors=anchors, cell_px=cell_px)
    read = partial(
        volumes.read_volume, min_slices=min_slices, max_voxels=max_voxels,
        memory_bytes=memory_mib << 20, seconds=read_seconds,
    )
    steps = [transforms.make_box_affine(turn_deg=turn_deg, scale=scale, shift=shift)]
    if light:
        steps.append(transforms.make_light(strength=light))
    if noise:
        steps.append(transforms.make_noise(strength=noise))
    return Task(
        card=CARD,
        model=yolo.YOLO(
            widths=tuple(widths), depth=depth, anchors=anchors, dtype=jnp.dtype(dtype),
            axis_name=axis_name,
        ),
        example={
            'inputs': np.zeros((size_px, size_px, 1), np.int16),
            'targets': np.zeros(5, np.float32),
        },
        sources={
            'boxes': partial(canals.read_boxes, read=read, **grid),
            'masks': partial(
                canals.read_masks, read=read, read_mask=volumes.read_mask,
                step_mm=label_step_mm, **grid,
            ),
        },
        phantoms=partial(
            phantoms.records, slices_per_patient=phantom_slices, **grid
        ),
        files=volumes.find_scans,
        read=partial(read_one, read=read),
        preprocess=preprocess,
        augment=transforms.compose(*steps),
        loss=lambda outputs, batch: yolo.loss(
            outputs, batch['targets'][:, 1:], batch['targets'][:, 0],
            box_weight=box_weight, background_weight=background_weight, **boxes,
        ),
        probabilities=partial(yolo.decode, **boxes),
        views=(transforms.IDENTITY,),
        rows=partial(rows, pixel_mm=pixel_mm),
        cases=lambda rows: rows,
        scores={'iou': True, 'distance_mm': False},
        metrics={
            'agreement': agreement, 'iou': mean_iou, 'distance_mm': median_distance,
            'found': partial(found, min_confidence=min_confidence),
            'false_alarms': partial(false_alarms, min_confidence=min_confidence),
        },
        lower_is_better=('distance_mm', 'false_alarms'),
        baselines={},
        fit_baselines=fit_mean_box,
        render=partial(render, min_confidence=min_confidence),
        infer=partial(
            infer, step_mm=step_mm, rules=path.PathRules(
                min_confidence, tolerance_mm, max_slope, max_jump_mm, extrapolate_mm
            ), **grid,
        ),
        findings=findings,
    )


def read_one(file, *, case_id, read):
    """A scan as a record: {'volume': Volume, 'case_id': str}."""
    return {'volume': read(file), 'case_id': case_id}


def preprocess(batch):
    """int16 HU [B, S, S, 1] -> float32 [B, S, S, windows], each about in [-1, 1]."""
    hu = batch['inputs'].astype(jnp.float32)
    centres, widths = jnp.array(WINDOWS_HU).T
    inputs = jnp.clip((hu - centres) / (widths / 2), -1.0, 1.0)
    return batch | {'inputs': inputs}


def rows(probabilities, batch, *, pixel_mm):
    """The surest box of each slice beside the true one.

    Returns:
        box [B, 4] in pixels, confidence [B], iou [B] and distance_mm [B] of the
        centres (NaN where no canal is), and the targets.
    """
    best = yolo.suppress(probabilities, iou_limit=1.0, count=1)[:, 0]
    there, true = batch['targets'][:, 0] > 0, batch['targets'][:, 1:]
    apart = (best[:, :2] + best[:, 2:4] - true[:, :2] - true[:, 2:]) / 2 * pixel_mm
    return {
        'box': best[:, :4], 'confidence': best[:, 4], 'targets': batch['targets'],
        'iou': jnp.where(there, yolo.iou(best, true), jnp.nan),
        'distance_mm': jnp.where(there, jnp.linalg.norm(apart, axis=-1), jnp.nan),
    }


def agreement(rows):
    """Share of the slices with a canal whose box is within 10 mm and IoU >= 0.5."""
    there = ~np.isnan(rows['iou'])
    good = (rows['distance_mm'] <= NEAR_MM) & (rows['iou'] >= NEAR_IOU)
    return float(good[there].mean()) if there.any() else float('nan')


def mean_iou(rows):
    """Mean IoU of the surest box with the true one, where there is a canal."""
    known = rows['iou'][~np.isnan(rows['iou'])]
    return float(known.mean()) if len(known) else float('nan')


def median_distance(rows):
    """Median distance of the two centres in mm, where there is a canal."""
    known = rows['distance_mm'][~np.isnan(rows['distance_mm'])]
    return float(np.median(known)) if len(known) else float('nan')


def found(rows, *, min_confidence):
    """Share of the slices with a canal where a box is sure enough."""
    return _sure(rows, rows['targets'][:, 0] == 1, min_confidence)


def false_alarms(rows, *, min_confidence):
    """Share of the slices without a canal where a box is sure enough."""
    return _sure(rows, rows['targets'][:, 0] == 0, min_confidence)


def _sure(rows, chosen, min_confidence):
    sure = rows['confidence'][chosen] >= min_confidence
    return float(sure.mean()) if len(sure) else float('nan')


def fit_mean_box(source):
    """Baseline: the mean box of the training slices, wherever the patient lies."""
    targets = np.stack([source[place]['targets'] for place in range(len(source))])
    there = targets[:, 0] == 1
    box = targets[there, 1:].mean(axis=0) if there.any() else np.zeros(4)
    answer = np.array([*box, there.mean()], np.float32)
    return {'mean place': lambda batch: np.tile(
        answer, (len(batch['inputs']), 1, 1, 1, 1)
    )}


def render(records, rows, *, min_confidence):
    """A slice with its predicted and true box, RGB."""
    sure = rows['confidence'][0] >= min_confidence
    boxes = [(rows['box'][0], drawing.GREEN)] if sure else []
    if rows['targets'][0, 0] == 1:
        boxes.append((rows['targets'][0, 1:], drawing.MAGENTA))
    return drawing.draw_boxes(records[0]['inputs'][..., 0], boxes, pixels=3)


def infer(apply, record, *, batch_size, size_px, pixel_mm, step_mm, rules):
    """The cord's path through a scan: (detect.Detections, path.Path).

    Raises:
        ImageError: no spine found.
    """
    volume = record['volume']
    detections = detect.detect(
        apply, volume.volume_hu, volume.spacing_mm, size_px=size_px, pixel_mm=pixel_mm,
        step_mm=step_mm, min_confidence=rules.min_confidence, batch_size=batch_size,
    )
    candidates = detections.boxes.shape[1]
    # A box counts from the outer corner of the first voxel, a path from its centre.
    centres = detections.boxes.reshape(-1, 2, 2).mean(axis=1) - 0.5
    return detections, path.trace_path(
        np.repeat(detections.slices, candidates), centres * volume.spacing_mm[1:],
        detections.confidence.ravel(), num_slices=len(volume.volume_hu),
        spacing_mm=volume.spacing_mm, where=record['case_id'], rules=rules,
    )


def findings(record, answer):
    """The path in the patient's coordinates, and pictures to judge it by."""
    volume, (detections, cord) = record['volume'], answer
    depth = len(volume.volume_hu)
    voxels = np.column_stack([
        np.arange(depth), cord.centre_mm / volume.spacing_mm[1:], np.ones(depth)
    ])
    places_mm = voxels @ volume.affine.T
    entries = [{
        'slice': canals.slice_number(volume, place),
        **{f'{axis}_mm': round(float(at), 2) for axis, at in zip('xyz', mm)},
        'confidence': round(float(sure), 4), 'kind': path.KINDS[kind],
    } for place, (mm, sure, kind) in enumerate(
        zip(places_mm, cord.confidence, cord.kind)
    )]
    kinds = np.bincount(cord.kind, minlength=len(path.KINDS))
    pictures = {}
    for place, boxes in zip(detections.slices, detections.boxes):
        if cord.kind[place] == path.DETECTED:
            # The path may have left out the surest box: the one that it runs through.
            centres_mm = (boxes.reshape(-1, 2, 2).mean(1) - 0.5) * volume.spacing_mm[1:]
            away = np.linalg.norm(centres_mm - cord.centre_mm[place], axis=1)
            name = f'axial_{canals.slice_number(volume, place):04d}.png'
            pictures[name] = drawing.draw_boxes(
                volume.volume_hu[place],
                [(boxes[away.argmin()][[1, 0, 3, 2]], drawing.GREEN)], pixels=1,
            )
    return Finding(
        row={
            'slices': depth,
            **{name: int(count) for name, count in zip(path.KINDS, kinds)},
            'mean_confidence': round(
                float(cord.confidence[cord.kind == path.DETECTED].mean()), 4),
            'exclusion': volume.facts.get('exclusion', ''),
        },
        details={'scan': dict(volume.facts)},
        pictures={},
        files={
            'cord.json': sorted(entries, key=lambda entry: entry['slice']),
            **drawing.draw_path(volume, cord), **pictures,
        },
    )
