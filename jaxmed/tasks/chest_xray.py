"""Chest X-rays: one class an image, or several findings (papers 003 and 004)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxmed import losses, report, transforms
from jaxmed.classification import calibration, gradcam, scores, sections, tables, trust
from jaxmed.data import (
    class_folders,
    covid_chestxray,
    csv_labels,
    duplicates,
    radiographs,
)
from jaxmed.data.phantoms import radiographs as phantoms
from jaxmed.errors import ConfigError
from jaxmed.models import pretrained
from jaxmed.models.alexnet import AlexNet
from jaxmed.models.cnn import CNN
from jaxmed.models.resnet import ResNet18, ResNet34, ResNet50, ResNet101
from jaxmed.models.vgg import VGG11
from jaxmed.types import Card, Finding, Task

# Name -> (classes, whether they exclude each other).
DATA_SETS = {
    'radiography': (('COVID', 'Lung_Opacity', 'Normal', 'Viral Pneumonia'), True),
    'three_class': (('Covid', 'Normal', 'Viral_Pneumonia'), True),
    'covid_chestxray': ((
        'Pneumonia', 'Viral', 'COVID-19', 'SARS', 'Bacterial', 'Streptococcus',
        'Pneumocystis', 'ARDS', 'No Finding',
    ), False),
}
NETWORKS = {
    'alexnet': AlexNet, 'vgg11': partial(VGG11, batch_norm=False),
    'vgg11_bn': partial(VGG11, batch_norm=True), 'resnet18': ResNet18,
    'resnet34': ResNet34, 'resnet50': ResNet50, 'resnet101': ResNet101,
    'cnn': CNN,
}
# What networks and data sets are called in the paper's tables.
PAPER_NETWORKS = {'alexnet': 'AlexNet', 'vgg11': 'VGG11', 'resnet50': 'ResNet50'}
PAPER_DATA = {name: paper for paper, name in tables.DATA_SETS.items()}
CODES = tuple(trust.CODES)  # columns that say how a picture was made
THUMBNAIL_PX = 32
MIRRORED = (
    ' Left and right were swapped in half of the training images, which puts the heart '
    'on the other side.'
)


def make(
    *, data_set, classes, exclusive, network, options, channels, dropout, dtype,
    store_px, input_px, max_pixels, views, min_per_class, phantom_images_per_patient,
    label_smoothing, class_weights, mixup, mirror, turn_deg, scale, shift, light,
    axis_name=None,
) -> Task:
    """Builds the task. Keywords only, no defaults: the config states them all.

    Args:
        data_set: a name in DATA_SETS, or '' for one's own classes.
        classes: names, in the order of the targets; () for those of the data set.
        exclusive: whether an image has one class; of one's own classes only.
        network: a name in NETWORKS.
        options: the network's own: of models.cnn.CNN all of them, `head_width` of
            AlexNet and VGG; {} for the originals.
        channels: 1, or 3 equal ones as networks trained on photographs expect.
        dropout, dtype: of the network; dtype is 'float32' or 'bfloat16'.
        store_px: side of the square that records hold; see radiographs.
        input_px: side of the square in its middle that goes into the network.
        max_pixels: largest picture that is read.
        views: of covid_chestxray.read, () for views from the front and unknown ones.
        min_per_class: images each class needs.
        phantom_images_per_patient: of phantoms.radiographs.
        label_smoothing, class_weights: of the losses; () weighs all alike.
        mixup: alpha of transforms.make_mixup; 0 is off.
        mirror: whether left and right are swapped in half of all cases (the paper
            does it; see transforms.mirror_sides for why not to).
        turn_deg, scale, shift: of transforms.make_affine; all 0 is off.
        light: half-width of changes of contrast and brightness, in standard
            deviations; 0 is off.
        axis_name: mapped axis of the devices, for batch norm.
    """
    names, single = _classes(data_set, classes, exclusive)
    for field, value, allowed in (
        ('network', network, tuple(NETWORKS)), ('channels', channels, (1, 3)),
        ('dtype', dtype, ('float32', 'bfloat16')),
    ):
        if value not in allowed:
            raise ConfigError(f'task.{field}', f'{value!r} is none of {allowed}')
    if not 0 < input_px <= store_px:
        raise ConfigError('task.input_px', f'{input_px} is not in [1, {store_px}]')
    for field, value, low, high in (
        ('dropout', dropout, 0, 1), ('label_smoothing', label_smoothing, 0, 1),
        ('mixup', mixup, 0, np.inf), ('min_per_class', min_per_class, 0, np.inf),
        ('phantom_images_per_patient', phantom_images_per_patient, 1, np.inf),
    ):
        if not low <= value < high:
            raise ConfigError(f'task.{field}', f'{value!r} is not in [{low}, {high})')
    if any(not weight > 0 for weight in class_weights):
        raise ConfigError('task.class_weights', f'{tuple(class_weights)}: not positive')
    if class_weights and len(class_weights) != len(names):
        raise ConfigError(
            'task.class_weights', f'{len(class_weights)} weights, {len(names)} classes'
        )
    model = NETWORKS[network](
        num_classes=len(names), dropout=dropout, dtype=jnp.dtype(dtype),
        axis_name=axis_name, **{
            key: tuple(value) if isinstance(value, list) else value
            for key, value in options.items()
        },
    )
    steps = [transforms.mirror_sides] if mirror else []
    if turn_deg or scale or shift:
        steps.append(transforms.make_affine(
            turn_deg=turn_deg, scale=scale, shift=shift
        ))
    if light:
        steps.append(transforms.make_light(strength=light))
    if mixup:
        steps.append(transforms.make_mixup(alpha=mixup))
    shared = dict(store_px=store_px, max_pixels=max_pixels)
    folder = dict(classes=names, min_per_class=min_per_class, **shared)
    prepare = partial(preprocess, input_px=input_px, channels=channels)
    loss = losses.cross_entropy if single else losses.known_binary_cross_entropy
    loss = partial(
        loss, label_smoothing=label_smoothing,
        class_weights=tuple(class_weights) or None,
    )
    explain = gradcam.make_gradcam(model)
    task = Task(
        card=Card(
            title='Chest radiographs',
            about=f'{network} for {", ".join(names)}'
                  f'{"" if single else ", each for itself"}.' + MIRRORED * mirror,
            legend='colour: what speaks for the class named (Grad-CAM)',
            paper=_paper(network, data_set, names),
            paper_data='a random split of images, not of patients',
        ),
        model=model,
        example={
            'inputs': np.zeros((store_px, store_px, 1), np.uint8),
            'targets': np.zeros(len(names), np.float32),
            'view': np.zeros((), np.int8), 'source': np.zeros((), np.int8),
            'origin': np.zeros((), np.int16),
        },
        sources={
            'class_folders': partial(class_folders.read, **folder),
            'covid_chestxray': _refuse if single else partial(
                covid_chestxray.read, **folder,
                views=tuple(views) or ('unknown', *radiographs.FRONTAL),
            ),
            'csv': partial(csv_labels.read, exclusive=single, **folder),
        },
        phantoms=partial(
            phantoms.records, store_px=store_px, classes=names, exclusive=single,
            images_per_patient=phantom_images_per_patient,
        ),
        files=radiographs.find_unlabelled,
        read=partial(radiographs.read_one, **shared),
        preprocess=prepare,
        augment=transforms.compose(*steps),
        loss=lambda outputs, batch: loss(outputs, batch['targets']),
        probabilities=None,  # of the temperature, as are calibration and sections
        views=(transforms.IDENTITY,),
        rows=partial(rows, input_px=input_px),
        cases=cases,
        scores={'certainty': True},
        class_of=_class_of if single else None,
        metrics=scores.make_metrics(exclusive=single),
        lower_is_better=(),
        baselines={} if single else {
            'always negative': scores.always_negative(len(names)),
        },
        render=partial(render, classes=names, input_px=input_px),
        infer=None,
        findings=partial(findings, classes=names, exclusive=single, input_px=input_px),
        labels=names,
        find_copies=find_copies,
        pretrained=partial(pretrained.load, model=model),
        explain=lambda variables, batch, number: explain(
            variables, prepare(batch)['inputs'], number
        ),
        probes={
            name: partial(_change, change=change.apply)
            for name, change in trust.CHANGES.items()
        },
        fit_baselines=partial(_majority, single=single),
        tabulate=tabulate,
    )
    return _with_temperature(task, 1.0, names, single)


def _with_temperature(task, temperature, classes, exclusive):
    return task._replace(
        probabilities=partial(
            calibration.scale_logits, temperature=temperature, exclusive=exclusive
        ),
        calibrate=lambda rows: {'temperature': calibration.fit_temperature(
            cases(rows)['probability'], rows['targets'], exclusive=exclusive
        )},
        calibrated=lambda values: _with_temperature(
            task, float(values['temperature']), classes, exclusive
        ),
        sections=partial(make_sections, classes=classes, exclusive=exclusive),
    )


def _class_of(record):
    targets = record['targets']
    return None if np.isnan(targets).any() else int(targets.argmax())


def _classes(data_set, classes, exclusive):
    if not data_set:
        if len(classes) < 1 + bool(exclusive):
            raise ConfigError('task.classes', f'{tuple(classes)!r}: name them')
        return tuple(classes), bool(exclusive)
    if data_set not in DATA_SETS:
        raise ConfigError('task.data_set', f'{data_set!r} is none of {[*DATA_SETS]}')
    names, single = DATA_SETS[data_set]
    return tuple(classes) or names, single


def find_copies(records, others):
    """Ids of cases that show a picture of `others` too: see data.duplicates.

    Pictures as records hold them, squares of what was in the file.
    """
    thumbnails = [
        duplicates.thumbnail(np.ascontiguousarray(source[place]['inputs'][..., 0]))
        for source in (records, others) for place in range(len(source))
    ]
    count = len(records)
    return {
        records[i]['case_id'] for i, j in duplicates.find_duplicates(thumbnails)
        if i < count <= j
    }


def _refuse(path):
    raise ConfigError(
        'task.data_set', f'{path} has several findings an image: take the data set '
        'covid_chestxray, or classes of your own with exclusive=False'
    )


def _paper(network, data_set, classes):
    if network not in PAPER_NETWORKS or data_set not in PAPER_DATA or (
        len(classes) != len(DATA_SETS[data_set][0])
    ):
        return {}
    return tables.paper_values(PAPER_NETWORKS[network], PAPER_DATA[data_set])


def tabulate(runs):
    """The paper's tables (classification.tables), Markdown and CSV, of some runs.

    Args:
        runs: sequence of (keywords of `make`, values of report.summarise).

    Raises:
        ConfigError: two runs are of one network and data set.
    """
    entries = [
        tables.Entry(
            PAPER_NETWORKS.get(options['network'], options['network']),
            _table_row(options['data_set'], options['classes']), values,
        ) for options, values in runs
    ]
    try:
        return {
            'table.md': tables.to_markdown(entries), 'table.csv': tables.to_csv(entries)
        }
    except ValueError as error:
        raise ConfigError('--workdir', error) from None


def _table_row(data_set, classes):
    if data_set in PAPER_DATA and len(classes) in (0, len(DATA_SETS[data_set][0])):
        return PAPER_DATA[data_set]
    return ': '.join(filter(None, (data_set, ', '.join(classes))))


def _crop(images, input_px):
    """The square of input_px in the middle of [..., S, S, C]."""
    start = (images.shape[-2] - input_px) // 2
    return images[..., start:start + input_px, start:start + input_px, :]


def preprocess(batch, *, input_px, channels):
    """uint8 [B, S, S, 1] -> float32 [B, input_px, input_px, channels].

    Normalised as networks pretrained on photographs are, by ImageNet's means and
    deviations (paper 003, 'Preprocessing'); one channel by their means.
    """
    inputs = _crop(batch['inputs'], input_px).astype(jnp.float32) / 255.0
    if channels == 1:
        inputs = (inputs - pretrained.GREY_MEAN) / pretrained.GREY_STD
    else:
        mean, std = jnp.array(pretrained.RGB_MEAN), jnp.array(pretrained.RGB_STD)
        inputs = (inputs - mean) / std
    return batch | {'inputs': inputs}


def rows(probabilities, batch, *, input_px):
    """Columns of an image: what the report counts, and a thumbnail for its probes."""
    images = _crop(batch['inputs'], input_px).astype(jnp.float32)
    thumbnails = jax.image.resize(
        images, (len(images), THUMBNAIL_PX, THUMBNAIL_PX, 1), 'linear'
    )
    return {
        'probability': probabilities,
        'thumbnail': jnp.round(thumbnails[..., 0]).astype(jnp.uint8),
        **{name: batch[name] for name in ('targets', *CODES)},
    }


def cases(rows):
    """One row per image; `certainty` is the mean probability of what is true."""
    targets, probability = rows['targets'], rows['probability'].astype(np.float64)
    right = np.where(targets > 0, probability, 1 - probability)
    known = ~np.isnan(targets)
    certainty = np.where(known, right, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    return {name: rows[name] for name in rows if name != 'loss'} | {
        'probability': probability, 'certainty': certainty,
    }


def _majority(source, *, single):
    targets = np.stack([source[place]['targets'] for place in range(len(source))])
    name = 'majority class' if single else 'majority of each'
    shares = np.nan_to_num(scores.prevalence(targets))  # of known ones; 0 of none
    return {name: scores.majority(shares)}


def _change(batch, *, change):
    return batch | {'inputs': change(batch['inputs'])}


def _picture(record, input_px):
    return np.ascontiguousarray(_crop(record['inputs'], input_px)[..., 0])


def render(records, rows, *, classes, input_px, explain=None):
    """An image; with `explain`, what speaks for the class named."""
    picture = _picture(records[0], input_px)
    if explain is None:
        return np.repeat(picture[..., None], 3, axis=-1)
    return gradcam.overlay(picture, explain(int(rows['probability'][0].argmax())))


def findings(record, probabilities, seen=None, *, classes, exclusive, input_px):
    """Calibrated probabilities, the finding, and where the network looks for it.

    Args:
        record: of radiographs.read_one.
        probabilities: [K].
        seen: [input_px, input_px], where the likeliest class is seen, or None.
        classes, exclusive, input_px: of the task.
    """
    named = int(probabilities.argmax())
    found = [classes[named]] if exclusive else [
        name for name, value in zip(classes, probabilities) if value >= 0.5
    ]
    return Finding(
        row={
            'finding': '; '.join(found), 'warning': record.get('oddities', ''),
            **{name: round(float(p), 4) for name, p in zip(classes, probabilities)},
        },
        details={} if seen is None else {'explained': classes[named]},
        pictures={} if seen is None else {
            'overlays': gradcam.overlay(_picture(record, input_px), seen)
        },
    )


def make_sections(
    cases, *, classes, exclusive, valid_cases, probe_cases, found, changed, external,
    calibrations, picture, resamples,
):
    """The report's parts beyond the table: see classification.sections.

    Args:
        cases, valid_cases: of the measured and of the validation split, or None.
        classes, exclusive: of the task.
        probe_cases: of all splits that may be looked at without a model.
        found: what launch.prepare counted, {} if nothing.
        changed: name of a probe -> cases.
        external: name of another data set -> cases.
        calibrations: of the runs that were measured, {} where there is none.
        picture: (place in cases, class) -> RGB, or None for no pictures.
        resamples: of the bootstrap.
    """
    galleries = None
    if picture is not None:
        picked = sections.pick_cases(cases, classes=classes, exclusive=exclusive)
        galleries = {
            name: [
                report.Figure(
                    alt=f'{caption}: Grad-CAM over the radiograph', caption=caption,
                    pixels=picture(place, number),
                ) for place, number, caption in images
            ] for name, images in picked.items()
        }
    temperatures = [values.get('temperature', 1.0) for values in calibrations]
    return sections.sections(
        cases, classes=classes, exclusive=exclusive,
        temperature=temperatures if len(temperatures) > 1 else temperatures[0],
        valid_rows=valid_cases, probe_rows=probe_cases, duplicates=found or None,
        changed=changed,
        external=external, galleries=galleries, resamples=resamples,
    )
