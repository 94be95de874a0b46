"""Vertebral compression fractures: patches along the spine as one sequence."""

from functools import partial

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from jaxmed import losses, transforms
from jaxmed.classification import fractures as operation
from jaxmed.ct import augmentation, column, drawing, fractures
from jaxmed.data import spines, volumes
from jaxmed.data.phantoms import spines as phantoms
from jaxmed.errors import ConfigError
from jaxmed.models.patch_sequence import PatchSequence
from jaxmed.tasks import fracture_sections
from jaxmed.types import Card, Task, View

CARD = Card(
    title='Vertebral compression fractures in CT',
    about='A 3D CNN sees patches along the straightened spine; together they tell how '
          'likely a fracture is, and where.',
    legend='the spine in columns, its upper end at the top left; beside each patch, '
           'predicted left and true right: the stronger the magenta, the likelier; '
           'grey: unknown',
    paper={'auc': 0.955},
    paper_data='346 series of its own',
)

# Left and right, which most spines don't tell; each patch upside down; both.
_FLIPS = (-2, -4, (-2, -4))
# Of pictures: patches of a column, least columns; pixels a mm and of a bar.
_COLUMN, _COLUMNS, _PIXELS_PER_MM, _BAR = 8, 3, 2, 10
MOST_PATCHES = 96  # of a scan that is predicted: 3 m of 32 mm each


def make(
    *, detector, model, dtype, box_mm, height_mm, context_mm, patch_shape, pixel_mm,
    num_patches, network_shape, window_centre_hu, window_width_hu, patch_weight, mirror,
    upend, turn_deg, zoom, shift_mm, slab, light, max_voxels, memory_mib, read_seconds,
    min_slices, phantom_off_mm, min_grade, axis_name=None,
) -> Task:
    """Builds the task. Keywords only, no defaults: the config states them all.

    Args:
        detector: a trained run of the task spinal_cord, loaded (predict.Predictor), or
            None where no scan is to be read.
        model: attributes of models.patch_sequence.PatchSequence, but dtype.
        dtype: 'float32' or 'bfloat16'.
        box_mm: before, behind and to each side of the cord, see ct.column.Box.
        height_mm, context_mm, patch_shape, pixel_mm: of ct.patches.Tiling.
        num_patches: that records are filled up to, for training; a scan may have any
            number when it is predicted.
        network_shape: patches are resized to it before the network sees them, so that
            networks of several sizes can be trained on the same records; () for none.
        window_centre_hu, window_width_hu: HU that become [0, 1] (370 and 840).
        patch_weight: lambda of the paper's loss.
        mirror, upend, turn_deg, zoom, shift_mm, slab, light: of ct.augmentation; 0 or
            False leaves one out.
        max_voxels, memory_mib, read_seconds, min_slices: limits of a scan, see
            volumes.read_volume.
        phantom_off_mm: of phantoms.spines.
        min_grade: Genant grade from which on a drawn vertebra is fractured.
        axis_name: mapped axis of the devices, for batch norm.
    """
    if dtype not in ('float32', 'bfloat16'):
        raise ConfigError('task.dtype', f'{dtype!r}: float32 or bfloat16')
    for name, value in (
        ('height_mm', height_mm), ('pixel_mm', pixel_mm), ('num_patches', num_patches),
        ('window_width_hu', window_width_hu), ('min_slices', min_slices),
    ):
        if not value > 0:
            raise ConfigError(f'task.{name}', f'{value!r} is not positive')
    if not context_mm >= 0:
        raise ConfigError('task.context_mm', f'{context_mm!r} is negative')
    if len(box_mm) != 3 or len(patch_shape) != 3 or min(*box_mm, *patch_shape) <= 0:
        raise ConfigError('task.box_mm', 'and patch_shape are three positive numbers')
    box = column.Box(*map(float, box_mm))
    cut = dict(
        box=box, height_mm=height_mm, context_mm=context_mm, shape=tuple(patch_shape),
        pixel_mm=pixel_mm, num_patches=num_patches,
    )
    read_volume = partial(
        volumes.read_volume, min_slices=min_slices, max_voxels=max_voxels,
        memory_bytes=memory_mib << 20, seconds=read_seconds,
    )
    find_cord = partial(find_path, detector=detector)
    seen = tuple(network_shape) or tuple(patch_shape)
    if len(seen) != 3 or min(seen) < 1:
        raise ConfigError('task.network_shape', f'{network_shape!r}: three, or ()')
    steps = [augmentation.mirror] * mirror + [augmentation.upend] * upend
    if turn_deg or zoom or shift_mm:
        steps.append(augmentation.make_move(
            turn_deg=turn_deg, zoom=zoom, shift_mm=shift_mm, pitch_mm=(
                (height_mm + 2 * context_mm) / seen[0],
                (box.front_mm + box.back_mm) / seen[1])))
    if slab:
        steps.append(augmentation.make_slab(strength=slab))
    if light:
        steps.append(augmentation.make_light(strength=light))
    task = Task(
        card=CARD,
        model=PatchSequence(
            **{k: tuple(v) if isinstance(v, list) else v for k, v in model.items()},
            dtype=jnp.dtype(dtype), axis_name=axis_name,
        ),
        example={
            'inputs': np.zeros((num_patches, *patch_shape), np.int16),
            'patch_mask': np.ones(num_patches, np.float32),
            'position': np.zeros(num_patches, np.float32),
            'slice_mm': np.zeros((), np.float32),
            'targets': np.zeros(1 + num_patches, np.float32),
            'grade': np.zeros(num_patches, np.float32),
            'level': np.zeros(num_patches, np.float32),
        },
        sources={'scans': partial(
            spines.read, read_volume=read_volume, find_cord=find_cord, **cut)},
        phantoms=partial(
            phantoms.records, off_mm=phantom_off_mm, min_grade=min_grade, **cut),
        files=volumes.find_scans,
        read=partial(
            spines.read_scan, read_volume=read_volume, find_cord=find_cord,
            cut=cut | {'num_patches': MOST_PATCHES}),
        preprocess=partial(
            preprocess, shape=seen, centre_hu=window_centre_hu,
            width_hu=window_width_hu),
        augment=transforms.compose(*steps),
        loss=lambda outputs, batch: losses.series_and_patches(
            outputs, batch['targets'], patch_weight=patch_weight),
        probabilities=None,  # of the calibration
        views=(transforms.IDENTITY, *(
            View(partial(_flip, axes=axes), lambda p: p) for axes in _FLIPS)),
        rows=rows,
        cases=cases,
        scores={'certainty': True},
        class_of=class_of,
        metrics=operation.METRICS,
        lower_is_better=('brier',),
        baselines={},
        render=render,
        infer=infer,
        findings=None,  # of the calibration, too
        reading=dict(cut, num_patches=None),
        sections=fracture_sections.sections,
        page=fractures.PAGE,
        dicom=fractures.write_dicom,
    )
    return _operated(_calibrated(task, scale=1.0, offset=0.0), None)


def _calibrated(task, *, scale, offset, patches=operation.UNSCALED):
    scaling = {'scale': scale, 'offset': offset, 'patches': patches}
    task = task._replace(
        probabilities=partial(operation.probabilities, **scaling),
        calibrate=partial(
            operation.calibrate, by_maximum=task.model.aggregation == 'max'))
    return task._replace(
        calibrated=lambda values: _operated(
            _calibrated(task, **_read_scaling(values)), values),
        together=lambda calibrations: _together(
            task, operation.calibrate_together(calibrations)),
    )


def _read_scaling(values):
    # Without a word of patches, these are left as they are.
    patches = values.get('patches', operation.UNSCALED)
    return {name: float(values[name]) for name in ('scale', 'offset')} | {
        'patches': {name: float(patches[name]) for name in ('scale', 'offset')}}


def _together(task, values):
    """The first of several members, to whom their mean is scaled once more.

    Args:
        task: calibrated by itself.
        values: of classification.fractures.calibrate_together, None for none.
    """
    if values is None:
        return _operated(task, None)
    rescale = partial(operation.rescale, **_read_scaling(values))
    return _operated(task._replace(
        rows=lambda means, batch: task.rows(rescale(means), batch),
        infer=lambda apply, *record, **options: task.infer(
            lambda batch: rescale(apply(batch)), *record, **options),
    ), values)


def _operated(task, values):
    """The task with a verdict, if thresholds were chosen; `values` None: none were."""
    point = values and fractures.make_operating_point(
        values['thresholds'], rule='specificity')
    return task._replace(findings=partial(
        fractures.findings, operating_point=point,
        calibrated=values is not None and not values['reason'],
        patches_calibrated=(values or {}).get('patches', {}).get('reason') == ''))


def find_path(volume, case_id, *, detector):
    """The cord's path through a scan, ct.path.Path, by a trained detector.

    Raises:
        ConfigError: there is no detector.
        ImageError: no spine found.
    """
    if detector is None:
        raise ConfigError(
            'task.detector', 'name a trained run of the task spinal_cord')
    record = {'volume': volume, 'case_id': case_id}
    _, cord = detector.task.infer(detector.apply, record, batch_size=8)
    return cord


def infer(apply, record, *, batch_size):
    """Probabilities of one scan, of any number of patches.

    Fillers count for nothing: a network is compiled for multiples of 8 patches only.
    """
    del batch_size
    count = int(record['patch_mask'].sum())
    size = -(-count // 8) * 8
    batch = {
        name: record[name][None, :size] for name in ('inputs', 'patch_mask', 'position')
    }
    return jax.tree.map(lambda x: np.asarray(x)[0], apply(batch))


def class_of(record):
    """1 with a fracture, 0 without, None where that is unknown."""
    fracture = record['targets'][0]
    return None if np.isnan(fracture) else int(fracture)


def preprocess(batch, *, shape, centre_hu, width_hu):
    """int16 HU [B, K, pH, pW, pZ] -> the model's inputs, in [0, 1].

    Resized to `shape`, linearly and where smaller with an antialias filter: HU, before
    the window cuts them off.
    """
    hu = batch['inputs'].astype(jnp.float32)
    if hu.shape[2:] != shape:
        hu = jax.image.resize(hu, (*hu.shape[:2], *shape), 'linear')
    patches = jnp.clip((hu - centre_hu) / width_hu + 0.5, 0.0, 1.0)[..., None]
    return batch | {'inputs': {
        'patches': patches, 'mask': batch['patch_mask'], 'position': batch['position'],
    }}


def _flip(inputs, *, axes):
    return inputs | {'patches': jnp.flip(inputs['patches'], axis=axes)}


def rows(probabilities, batch):
    """Of a series [B, 1] and of its patches [B, K], beside what is true."""
    return {
        'probability': probabilities['series'][:, None],
        'patch_probability': probabilities['patches'],
        'targets': batch['targets'][:, :1], 'patch_targets': batch['targets'][:, 1:],
        **{name: batch[name] for name in (
            'patch_mask', 'position', 'grade', 'level', 'slice_mm')},
    }


def cases(rows):
    """One row a scan; `certainty` is the probability of what is true."""
    target, probability = rows['targets'][:, 0], rows['probability'][:, 0]
    right = np.where(target > 0, probability, 1 - probability)
    return {name: rows[name] for name in rows if name != 'loss'} | {
        'certainty': np.where(np.isnan(target), np.nan, right).astype(np.float64),
    }


def render(records, rows):
    """The spine from the side, with what is predicted (left) and true (right)."""
    return draw_spine(
        records[0], rows['patch_probability'][0], truth=rows['patch_targets'][0])


def draw_spine(record, probabilities, *, truth=None):
    """Patches, without context, below each other; small overlaps are seen twice.

    Eight to a column, the first at the top left, and room for three columns, so that
    pictures of most scans are of one scale.

    Args:
        record: of data.spines.make_record.
        probabilities: [K].
        truth: [K] in {0, 1, NaN}, or None.

    Returns:
        uint8 RGB, 2 pixels a mm.
    """
    count = int(record['patch_mask'].sum())
    down, right, _ = record['pitch_mm']
    left_out = round(float(record['context_mm'] / down))
    rows = slice(left_out, record['inputs'].shape[1] - left_out)
    middle = record['inputs'][:count, rows, :, record['inputs'].shape[3] // 2]
    height, width = (round(_PIXELS_PER_MM * float(size) * middle.shape[axis])
                     for axis, size in ((1, down), (2, right)))
    columns = max(-(-count // _COLUMN), _COLUMNS)
    canvas = np.zeros(
        (min(count, _COLUMN) * height, columns * (width + 3 * _BAR), 3), np.uint8)
    for place, patch in enumerate(middle):
        column_of, row_of = divmod(place, _COLUMN)
        cell = canvas[row_of * height:, column_of * (width + 3 * _BAR):]
        cell = cell[:height, :width + 2 * _BAR]
        cell[:, _BAR:-_BAR] = cv2.resize(
            drawing.to_grey(patch), (width, height), interpolation=cv2.INTER_CUBIC
        )[..., None]
        cell[:, :_BAR] = _bar_colour(probabilities[place])
        if truth is not None:
            cell[:, -_BAR:] = _bar_colour(truth[place])
        cell[0] = drawing.GREEN  # where a patch begins
    return canvas


def _bar_colour(value):
    return (90,) * 3 if np.isnan(value) else np.multiply(drawing.MAGENTA, value)
