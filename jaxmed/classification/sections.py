"""The parts of a report that a classifier adds: class by class, calibration, trust."""

import functools

import numpy as np

from jaxmed import report
from jaxmed.classification import calibration, figures, scores, trust
from jaxmed.metrics import bootstrap_interval

SENSITIVITY = 0.95
FEW_PATIENTS = 5  # with (or without) a class: fewer give no interval
# Whose patients a score is about, and why it may be undefined though they are there.
NEEDS = {
    'recall': ('with',), 'precision': ('with',), 'ppv': ('with',),
    'specificity': ('without',), 'npv': ('without',),
    'auc': ('with', 'without'), 'average_precision': ('with', 'without'),
}
REASONS = {'precision': 'never called', 'ppv': 'never called', 'npv': 'always called'}


def sections(
    rows, *, classes, exclusive, temperature=1.0, uncalibrated=None, valid_rows=None,
    duplicates=None, changed=None, external=None, probe_rows=None, galleries=None,
    resamples=1000, seed=0,
):
    """Everything a report says of a classifier beyond its table of metrics.

    Args:
        rows: one row per image of the test split, with the probabilities a user is
            given: 'case_id', 'patient_id', 'probability' [N, K], 'targets' [N, K],
            and what trust.run_checks takes.
        classes: [K] names.
        exclusive: whether they exclude each other.
        temperature: with which the probabilities of `rows` were scaled; 1 for none,
            several for the folds of a cross-validation.
        uncalibrated: the rows before scaling; None undoes the one temperature, which
            is exact for a model that averages neither members nor views.
        valid_rows: rows of the validation split, scaled alike, on which operating
            points are chosen; None leaves them out.
        duplicates, changed, external: as in trust.run_checks.
        probe_rows: the same; `rows` by default.
        galleries: title -> report.Figures with pixels, e.g. Grad-CAM of `pick_cases`.
        resamples, seed: of every bootstrap over patients.

    Returns:
        list of report.Section.
    """
    options = dict(resamples=resamples, seed=seed)
    parts = [
        _class_by_class(rows, classes, exclusive, options),
        _thresholds(rows, classes),
        _calibration(rows, exclusive, temperature, uncalibrated, options),
    ]
    if valid_rows is not None:
        parts.append(_operating_points(rows, valid_rows, classes, options))
    parts.append(_trust(trust.run_checks(
        rows, probe_rows=rows if probe_rows is None else probe_rows,
        duplicates=duplicates, changed=changed or {}, external=external or {},
        **options,
    )))
    if galleries:
        parts.append(report.Section(
            'Where the model looks',
            'Yellow marks what speaks most for the class (Grad-CAM). Each picture is '
            'scaled to its own maximum: it says where, not how much, and only '
            'to within a few patches. A plausible place does not prove a reason.',
            galleries=galleries,
        ))
    return parts


def _measure(rows, metrics, reasons, options):
    """Cells of report.Table, one a metric; `reasons` says why it may be undefined."""
    summary = report.summarise(rows, metrics, **options)
    return [_with_reason(summary[name], reasons[name]) for name in metrics]


def _measure_classes(rows, metrics, options):
    """The same for name -> (rows -> [K]), from one bootstrap: name -> K cells."""
    def every(rows):
        return np.concatenate([metric(rows) for metric in metrics.values()])

    slim = {name: rows[name] for name in ('probability', 'targets')}
    patients, values = rows['patient_id'], every(slim)
    low, high = bootstrap_interval(slim, every, groups=patients, **options)
    values, low, high = np.broadcast_arrays(values, low, high)
    cells = [
        dict(zip(report.SUMMARY, (
            *map(float, triple), len(np.unique(patients)), len(patients),
            options['resamples'], options['seed'],
        ))) for triple in zip(values, low, high, strict=True)
    ]
    each = len(cells) // len(metrics)
    return {name: cells[i * each:][:each] for i, name in enumerate(metrics)}


def _with_reason(cell, reason):
    return cell | {'reason': '' if np.isfinite(cell['value']) else reason}


def _class_cells(measured, rows, k):
    """Cells of class k, without the intervals that too few patients would make up.

    A class that one patient has is drawn with that patient or not at all: its interval
    would have no width.
    """
    targets, patients = np.asarray(rows['targets'])[:, k], rows['patient_id']
    kinds = {
        kind: len(np.unique(patients[targets == value]))
        for kind, value in (('with', 1), ('without', 0))
    }
    why = f'only one class: {"no" if not kinds["with"] else "all"} images have it'
    if not kinds['with'] and not kinds['without']:
        why = 'unknown in all images'
    for score, cells in measured.items():
        cell = _with_reason(cells[k], REASONS.get(score, why))
        scarce = [kind for kind in NEEDS[score] if kinds[kind] < FEW_PATIENTS]
        if scarce and np.isfinite(cell['value']):
            cell |= {'low': np.nan, 'high': np.nan, 'reason': 'no interval: '
                     f'{_count(kinds[scarce[0]], "patient")} {scarce[0]} it'}
        yield cell


def _count(number, thing):
    return f'{number} {thing}{"s" * (number != 1)}'


def _class_by_class(rows, classes, exclusive, options):
    positives, known = scores.support(rows)
    measured = _measure_classes(rows, {
        score.__name__: functools.partial(score, exclusive=exclusive)
        for score in (scores.recall, scores.specificity, scores.precision, scores.auc,
                      scores.average_precision)
    }, options)
    table = []
    for k, name in enumerate(classes):
        with_class = np.asarray(rows['targets'])[:, k] == 1
        patients = len(np.unique(rows['patient_id'][with_class]))
        table.append([
            name, {
                'value': f'{positives[k]} of {known[k]}',
                'reason': _count(patients, 'patient'),
            }, *_class_cells(measured, rows, k),
        ])
    left_out = scores.classes_left_out(rows)
    called = 'most probable' if exclusive else 'given a probability of 0.5 or more'
    return report.Section(
        'Class by class',
        f'A class is called where it is {called}.' + (
            f' {left_out} of {len(classes)} classes have no images of both kinds, with '
            'it and without it; means of AUC and average precision leave them out.'
            if left_out else ''
        ),
        tables=[report.Table(
            '', ['Class', 'Images with it', 'Sensitivity', 'Specificity', 'Precision',
                 'AUC', 'Average precision'], table,
            f'Below each value its 95% interval over patients ({options["resamples"]} '
            'bootstrap resamples), if enough of them have the class. One of no width '
            'says that no error was seen, not that none will be: none in n patients '
            'leaves room for 3 in n. A coin has AUC 0.5, and the share of images with '
            'the class as average precision.',
        )],
        figures=[figures.confusion_matrix(rows, classes)] if exclusive else [],
    )


def _thresholds(rows, classes):
    drawn = [
        figure for k, name in enumerate(classes)
        for figure in (figures.roc(rows, k, name),
                       figures.precision_recall(rows, k, name),
                       figures.probability_histogram(rows, k, name))
        if figure is not None
    ]
    text = (
        'Each class against the rest, at every threshold; dashed: a coin. Then the '
        'probabilities given to images with the class (up) and without it (down).'
    )
    positives, known = scores.support(rows)
    missing = [name for k, name in enumerate(classes) if positives[k] in (0, known[k])]
    if missing:
        text += (
            ' Not defined, for want of images with it or without it: '
            f'{", ".join(missing)}.'
        )
    return report.Section('Every threshold', text, figures=drawn)


def _calibration(rows, exclusive, temperature, uncalibrated, options):
    temperatures = np.atleast_1d(temperature)
    if uncalibrated is None and len(temperatures) == 1 and temperatures[0] != 1:
        uncalibrated = rows | {'probability': calibration.apply_temperature(
            rows['probability'], 1 / temperatures[0], exclusive=exclusive
        )}
    versions = {'As given': rows}
    if uncalibrated is not None:
        versions = {'Before scaling': uncalibrated, 'After scaling': rows}
    metrics = {
        name: functools.partial(function, exclusive=exclusive) for name, function in (
            ('Calibration error', calibration.expected_calibration_error),
            ('Brier score', calibration.brier),
            ('Log loss, nats', calibration.log_loss),
        )
    }
    reasons = dict.fromkeys(metrics, 'no image with a known answer')
    cells = [_measure(version, metrics, reasons, options)
             for version in versions.values()]
    table = [[name, *row] for name, row in zip(metrics, zip(*cells), strict=True)]
    chances = [calibration.error_by_chance(version, exclusive=exclusive)
               for version in versions.values()]
    table.insert(1, ['The same of a perfectly calibrated model', *(
        {'value': mean, 'reason': 'no image with a known answer'
         if np.isnan(mean) else f'up to {high:.3f} in 95 of 100 draws'}
        for mean, high in chances
    )])
    value, (_, limit) = cells[-1][0]['value'], chances[-1]
    text = 'When the model says 80%, is it right in 80 of 100 images? '
    text += (
        'Asked of the class it names. ' if exclusive else 'Asked of every known label. '
    )
    text += _temperature_text(temperatures)
    if np.isfinite(value):
        text += (
            f'The error of {value:.3f} is more than chance gives a calibrated model '
            'with so many images: read the probabilities as a ranking.'
            if value > limit else
            f'The error of {value:.3f} is within what chance gives a calibrated model '
            'with so many images.'
        )
    drawn = [
        figures.reliability_diagram(version, exclusive=exclusive, title=title)
        for title, version in versions.items()
    ]
    return report.Section(
        'Calibration', text,
        tables=[report.Table('', ['Measure', *versions], table, (
            f'Calibration error: mean gap over {calibration.BINS} bins of equally many '
            'answers. Lower is better in every row. 95% intervals over patients. In '
            'the diagrams, dots on the dashed line are calibrated; the bars through '
            'them are 95% Wilson intervals; below, how often each probability is given.'
        ))],
        figures=[figure for figure in drawn if figure is not None],
    )


def _temperature_text(temperatures):
    if (temperatures == 1).all():
        return 'The probabilities were not scaled. '
    shown = ', '.join(f'{value:.2f}' for value in temperatures)
    if len(temperatures) > 1:
        return f'Temperatures of {shown}, fitted on validation images, scale them. '
    meaning = 'too sure' if temperatures[0] > 1 else 'not sure enough'
    return (
        f'A temperature of {shown}, fitted on validation images, scales them '
        f'(the model was {meaning} there). '
    )


def _operating_points(rows, valid_rows, classes, options):
    every = range(len(classes))
    rules = {
        f'{SENSITIVITY:.0%} sensitivity': np.array([
            scores.threshold_for_sensitivity(valid_rows, k, sensitivity=SENSITIVITY)
            for k in every
        ]),
        "Youden's J": np.array([scores.threshold_youden(valid_rows, k) for k in every]),
    }
    measured = {
        rule: _measure_classes(rows, {
            score.__name__: functools.partial(
                score, exclusive=False, threshold=thresholds
            ) for score in (scores.recall, scores.specificity, scores.ppv, scores.npv)
        }, options) for rule, thresholds in rules.items()
    }
    table, left_out = [], []
    for k, name in enumerate(classes):
        for rule, thresholds in rules.items():
            if np.isfinite(thresholds[k]):
                table.append([
                    {'value': name, 'reason': rule}, thresholds[k],
                    *_class_cells(measured[rule], rows, k),
                ])
            elif name not in left_out:
                left_out.append(name)
    return report.Section(
        'Operating points',
        'Thresholds are chosen on the validation images, for each class against the '
        'rest, and measured on the test images: what was aimed at need not be reached.',
        tables=[report.Table(
            '', ['Class and rule', 'Threshold', 'Sensitivity', 'Specificity',
                 'PPV', 'NPV'], table,
            'PPV and NPV hold where the class is as frequent as in these images; '
            'elsewhere they do not. 95% intervals over patients. '
            f'Validation: {_count(len(valid_rows["case_id"]), "image")}.' + (
                ' For want of validation images with the class or without it, a rule '
                f'gives no threshold: {", ".join(left_out)}.' if left_out else ''
            ),
        )],
    )


def _trust(checks):
    alarms = [check.name for check in checks if check.verdict == 'worrying']
    text = (
        'A classifier can score well by reading the scanner, a letter in the corner or '
        'the age of the patients. These tests look for that.'
    )
    if alarms:
        text += f'\n\nWorrying here: {"; ".join(alarms)}.'
    table = [
        [
            check.name, {
                'value': check.value, 'low': check.low, 'high': check.high,
                'n_cases': check.n_images, 'n_patients': check.n_patients,
                'reason': check.reason,
            },
            check.verdict, _measured_on(check), check.meaning,
        ] for check in checks
    ]
    return report.Section(
        'Can the number be trusted?', text,
        tables=[report.Table(
            '', ['Test', 'Value', 'Verdict', 'Measured on', 'What it says'], table,
            '95% intervals over patients.',
        )],
    )


def _measured_on(check):
    if check.n_images is None:
        return 'all splits'
    if not check.n_images:
        return None
    return f'{_count(check.n_images, "image")}, {_count(check.n_patients, "patient")}'


def pick_cases(rows, *, classes, exclusive, count=3):
    """Images to show: of each class those the model misses worst and knows best.

    Args:
        rows: columns.
        classes, exclusive: as in sections.
        count: how many of each kind.

    Returns:
        class name -> list of (row index, class index, caption), worst first; classes
        without an image are left out, and no image comes twice under a class.
    """
    probability = np.asarray(rows['probability'], float)
    picked = {}
    for k, name in enumerate(classes):
        members = np.flatnonzero(np.asarray(rows['targets'])[:, k] == 1)
        order = members[np.argsort(probability[members, k], kind='stable')]
        worst = order[:min(count, (len(order) + 1) // 2)]
        best = order[max(len(worst), len(order) - count):][::-1]
        if len(order):
            picked[name] = [
                (int(i), k, f'{kind}: {_answer(probability[i], k, classes, exclusive)}')
                for kind, chosen in (('Worst', worst), ('Best', best)) for i in chosen
            ]
    return picked


def _answer(probability, k, classes, exclusive):
    text = f'{classes[k]} {probability[k]:.3f}'
    called = int(np.argmax(probability))
    if exclusive and called != k:
        text += f', called {classes[called]} {probability[called]:.3f}'
    return text
