"""One CT case from files to patches or to findings, in a process of its own.

The process is fresh so that its peak memory is the case's: what the interpreter and
the compiled networks take is measured before and left out.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# A patch of the paper's model: two vertebrae high, as wide as a spine.
BOX_MM = (60.0, 60.0, 60.0)
TILING = (40.0, (32, 32, 24), 1.0, 370.0, 840.0)


# LPS mm between voxels of the drawn scan, as its files say: x, y, z.
SPACING_MM = (0.8, 0.8, 1.5)


def measure(config, *, rounds, depth, side_px=512, detector=None):
    """Times a drawn scan through the reader, the detector, the path and the patches.

    Args:
        config: nested dicts. Of the task spinal_cord: the network is not trained, and
            any confidence counts, as speed does not depend on what is found. Of the
            task vertebral_fracture: patches go on through three members that are not
            trained, one of each family, with test-time augmentation, to the findings
            and pictures in a folder.
        rounds: timed cases of each format, after a first one.
        depth, side_px: of the scan.
        detector: nested dicts of the task spinal_cord, for vertebral_fracture. It looks
            at the scan untrained; the path is the drawn one.

    Returns:
        {'nifti' and 'dicom': {'seconds': median of each stage, 'total' and
        'first_total'; 'patches'; 'peak_bytes' above the interpreter;
        'reader_peak_bytes' of the process that reads; of the task spinal_cord
        'slices_per_s' of the detector}, 'shape'}.
    """
    import numpy as np
    import SimpleITK as sitk

    with tempfile.TemporaryDirectory() as folder:
        volume_hu, canal_mm = _draw(depth, side_px)
        image = sitk.GetImageFromArray(volume_hu)
        image.SetSpacing(SPACING_MM)
        sitk.WriteImage(image, f'{folder}/scan.nii.gz')
        _write_dicom(image, Path(folder) / 'dicom')
        np.save(f'{folder}/canal.npy', canal_mm)
        answers = {}
        for kind, name in (('nifti', 'scan.nii.gz'), ('dicom', 'dicom')):
            done = subprocess.run(
                [sys.executable, '-m', 'launch.benchmarks.ct_case', json.dumps(config),
                 json.dumps(detector), folder, name, str(rounds)],
                stdout=subprocess.PIPE, text=True, check=True,
            )
            answers[kind] = json.loads(done.stdout.splitlines()[-1])
    return answers | {'shape': [depth, side_px, side_px]}


def _draw(depth, side_px):
    """A drawn trunk, every fourth slice of it repeated, and its canal.

    Returns:
        int16 [D, H, W]; float32 [D, 2], mm of the canal's middle in the files' spacing,
        down and across, from the middle of the first pixel.
    """
    import numpy as np

    from jaxmed.data.phantoms import ct

    rng = np.random.default_rng(0)
    patient, scanner = ct.draw_patient(rng), ct.draw_scanner(rng)
    low, high = ct.scan_range(patient, scanner)
    view = ct.field_of_view(patient, scanner)
    spacing_mm = view.shape[1] * view.spacing_mm / side_px
    heights_mm = np.linspace(low, high, -(-depth // 4))
    slices = [
        ct.render_slice(
            patient, scanner, z_mm, shape=(side_px, side_px), spacing_mm=spacing_mm,
            origin_mm=view.origin_mm,
        ).image_hu for z_mm in heights_mm
    ]
    noise = rng.integers(-8, 8, (4, side_px, side_px), np.int16)
    canal = np.array([ct.canal_centre(patient, scanner, z_mm) for z_mm in heights_mm])
    canal_mm = ((canal - view.origin_mm) / spacing_mm * SPACING_MM[:2])[:, ::-1]
    return (
        np.stack([slices[i // 4] + noise[i % 4] for i in range(depth)]),
        canal_mm[np.arange(depth) // 4].astype(np.float32),
    )


def _write_dicom(image, folder):
    import SimpleITK as sitk

    folder.mkdir()
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(image.GetDepth()):
        one = image[:, :, k]
        for tag, value in (
            ('0008|0016', '1.2.840.10008.5.1.4.1.1.2'), ('0008|0060', 'CT'),
            ('0008|0018', f'1.2.3.{k + 1}'), ('0020|000d', '1.2.3'),
            ('0020|000e', '1.2.3.4'), ('0018|0050', '1.5'), ('0018|1210', 'B31f'),
            ('0008|0008', 'ORIGINAL\\PRIMARY\\AXIAL'),
            ('0020|0032', f'0\\0\\{1.5 * k}'), ('0020|0037', '1\\0\\0\\0\\1\\0'),
            ('0020|0013', str(k + 1)), ('0028|1052', '0'), ('0028|1053', '1'),
        ):
            one.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f'{k:04d}.dcm'))
        writer.Execute(one)


def main(config, detector, folder, name, rounds):
    """The fresh process: prints the answer of one format as JSON.

    Args:
        config, detector: JSON, of `measure`.
        folder: has the scan and canal.npy.
        name: of the scan.
        rounds: of `measure`.
    """
    config, detector = json.loads(config), json.loads(detector)
    if detector is None:
        run = _find_patches(config, Path(folder) / name)
    else:
        run = _find_fractures(config, detector, Path(folder), name)
    next(run)  # compiled
    Path('/proc/self/clear_refs').write_text('5')  # the peak starts anew from here
    before = _memory('self', 'VmRSS')
    cases = [next(run) for _ in range(rounds + 1)]
    seconds = [case.pop('seconds') for case in cases]
    totals = [case.get('total') or sum(case.values()) for case in seconds]
    medians = {
        stage: statistics.median(case[stage] for case in seconds[1:])
        for stage in seconds[0]
    }
    answer = {
        'seconds': medians | {
            'total': statistics.median(totals[1:]), 'first_total': totals[0],
        },
        'peak_bytes': _memory('self', 'VmHWM') - before,
        'reader_peak_bytes': max(_memory(child, 'VmHWM') for child in Path(
            f'/proc/self/task/{os.getpid()}/children').read_text().split()),
        'patches': cases[-1]['patches'],
    }
    if 'slices' in cases[-1]:
        answer['slices_per_s'] = cases[-1]['slices'] / medians['detect']
    print(json.dumps(answer))


def _draw_weights(task, rng):
    """Small positive ones, in the shape of a task's."""
    import jax

    from jaxmed import predict

    return jax.tree.map(
        lambda x: rng.uniform(0.01, 0.1, x.shape).astype(x.dtype),
        predict.weights_spec(task))


def _find_patches(config, file):
    """Yields once the network is compiled, then {'seconds', ...} of case after case."""
    import jax
    import numpy as np

    from jaxmed import predict, runs, train
    from jaxmed.ct import column, detect, patches, path

    options = config['task'] | dict(
        min_confidence=0.0, tolerance_mm=1e4, max_jump_mm=1e4)
    task = runs.make_task(config | {'task': options}, axis_name=train.AXIS)
    weights = _draw_weights(task, np.random.default_rng(0))
    predictor = predict.Predictor([task], [weights], views=1, batch_size=8)
    size = options['size_px']
    jax.block_until_ready(predictor.apply(
        {'inputs': np.zeros((8, size, size, 1), np.int16)}))
    yield
    while True:
        marks = [time.perf_counter()]
        record = task.read(file, case_id='case')
        marks.append(time.perf_counter())
        volume = record['volume']
        grid = {key: options[key] for key in ('size_px', 'pixel_mm', 'step_mm')}
        found = detect.detect(
            predictor.apply, volume.volume_hu, volume.spacing_mm, batch_size=8,
            min_confidence=0.0, **grid)
        marks.append(time.perf_counter())
        cord = path.trace_path(
            found.slices, found.boxes[:, 0].reshape(-1, 2, 2).mean(1)
            * volume.spacing_mm[1:], found.confidence[:, 0],
            num_slices=len(volume.volume_hu), spacing_mm=volume.spacing_mm,
            where=str(file), rules=path.PathRules(0.0, 1e4, 1e4, 1e4, 30.0))
        marks.append(time.perf_counter())
        cut = patches.cut_patches(
            volume.volume_hu, column.make_frame(cord, spacing_mm=volume.spacing_mm),
            box=column.Box(*BOX_MM), tiling=patches.Tiling(*TILING))
        jax.block_until_ready(cut.values)
        marks.append(time.perf_counter())
        stages = ('read', 'detect', 'path', 'patches')
        yield {
            'seconds': {
                stage: end - start
                for stage, start, end in zip(stages, marks, marks[1:])},
            'slices': len(found.slices), 'patches': int(np.sum(cut.mask)),
        }


def _find_fractures(config, detector, folder, name):
    """Yields once networks are compiled, then {'seconds', ...} of case after case.

    Stages: `record`, from the files to patches (reader, detector, path, patches);
    `predict`, of these to findings and pictures; `total`, what launch.predict does to
    a file, from reading to the last file written.
    """
    import numpy as np

    from jaxmed import cohort, findings, predict, runs, train
    from jaxmed.ct import path
    from jaxmed.models.patch_sequence import FAMILIES
    from jaxmed.tasks import TASKS

    rng = np.random.default_rng(0)
    loose = detector['task'] | dict(
        min_confidence=0.0, tolerance_mm=1e4, max_slope=1e4, max_jump_mm=1e4)
    cord = runs.make_task(detector | {'task': loose}, axis_name=train.AXIS)
    look = cord.infer
    centre_mm = np.load(folder / 'canal.npy')
    drawn = path.Path(
        centre_mm, np.ones(len(centre_mm), np.float32),
        np.full(len(centre_mm), path.DETECTED, np.int8))

    def infer(apply, record, *, batch_size):
        found, _ = look(apply, record, batch_size=batch_size)
        return found, drawn

    finder = predict.Predictor(
        [cord._replace(infer=infer)], [_draw_weights(cord, rng)], views=1, batch_size=8)
    tasks = [
        TASKS[config['task_name']](**config['task'] | {
            'detector': finder, 'model': config['task']['model'] | family,
        }, axis_name=train.AXIS) for family in FAMILIES.values()
    ]
    predictor = predict.Predictor(
        tasks, [_draw_weights(task, rng) for task in tasks], batch_size=8,
        views=config['evaluate']['views'])
    size = loose['size_px']
    finder.apply({'inputs': np.zeros((8, size, size, 1), np.int16)})
    predictor.apply({
        key: value[None] for key, value in tasks[0].example.items()
        if hasattr(value, 'shape') and key != 'targets'})  # what a scan has
    yield
    with tempfile.TemporaryDirectory() as output:
        for number in itertools.count():
            marks = [time.perf_counter()]
            _, failed = findings.predict_files(
                lambda: predictor, folder / name, Path(output) / str(number),
                resume=False, engine='local', dicom=(), summarise=cohort.summarise)
            marks.append(time.perf_counter())
            if failed:
                raise RuntimeError('the drawn scan was not processed')
            record = tasks[0].read(folder / name, case_id='case')
            marks.append(time.perf_counter())
            predictor.predict([record])
            marks.append(time.perf_counter())
            total_s, record_s, predict_s = np.diff(marks).tolist()
            yield {
                'seconds': {
                    'record': record_s, 'predict': predict_s, 'total': total_s},
                'patches': int(record['patch_mask'].sum()),
            }


def _memory(process, name):
    """Bytes that the kernel counts for a process; Linux only."""
    status = Path(f'/proc/{process}/status').read_text()
    return int(status.split(f'{name}:')[1].split()[0]) * 1024


if __name__ == '__main__':
    main(*sys.argv[1:5], int(sys.argv[5]))
