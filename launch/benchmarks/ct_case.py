"""One CT case from files to patches, by stage, in a process of its own.

The process is fresh so that its peak memory is the case's: what the interpreter and
the compiled network take is measured before and left out.
"""

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


def measure(config, *, rounds, depth, side_px=512):
    """Times a drawn scan through the reader, the detector, the path and the patches.

    Args:
        config: nested dicts of the task spinal_cord; the network is not trained, and
            any confidence counts, as speed does not depend on what is found.
        rounds: timed cases of each format, after a first one.
        depth, side_px: of the scan.

    Returns:
        {'nifti' and 'dicom': {'seconds': median of each stage, 'total' and
        'first_total'; 'slices_per_s' of the detector; 'patches'; 'peak_bytes' above
        the interpreter; 'reader_peak_bytes' of the process that reads}, 'shape'}.
    """
    import SimpleITK as sitk

    with tempfile.TemporaryDirectory() as folder:
        image = sitk.GetImageFromArray(_draw(depth, side_px))
        image.SetSpacing((0.8, 0.8, 1.5))
        sitk.WriteImage(image, f'{folder}/scan.nii.gz')
        _write_dicom(image, Path(folder) / 'dicom')
        answers = {}
        for kind, name in (('nifti', 'scan.nii.gz'), ('dicom', 'dicom')):
            done = subprocess.run(
                [sys.executable, '-m', 'launch.benchmarks.ct_case', json.dumps(config),
                 f'{folder}/{name}', str(rounds)],
                stdout=subprocess.PIPE, text=True, check=True,
            )
            answers[kind] = json.loads(done.stdout)
    return answers | {'shape': [depth, side_px, side_px]}


def _draw(depth, side_px):
    """A drawn trunk, every fourth slice of it repeated: [D, H, W] int16."""
    import numpy as np

    from jaxmed.data.phantoms import ct

    rng = np.random.default_rng(0)
    patient, scanner = ct.draw_patient(rng), ct.draw_scanner(rng)
    low, high = ct.scan_range(patient, scanner)
    view = ct.field_of_view(patient, scanner)
    spacing_mm = view.shape[1] * view.spacing_mm / side_px
    slices = [
        ct.render_slice(
            patient, scanner, z_mm, shape=(side_px, side_px), spacing_mm=spacing_mm,
            origin_mm=view.origin_mm,
        ).image_hu for z_mm in np.linspace(low, high, -(-depth // 4))
    ]
    noise = rng.integers(-8, 8, (4, side_px, side_px), np.int16)
    return np.stack([slices[i // 4] + noise[i % 4] for i in range(depth)])


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


def main(config, file, rounds):
    """The fresh process: prints the answer of one format as JSON."""
    import jax
    import numpy as np

    from jaxmed import predict, runs, train
    from jaxmed.ct import column, detect, patches, path

    config = json.loads(config)
    options = config['task'] | dict(
        min_confidence=0.0, tolerance_mm=1e4, max_jump_mm=1e4)
    task = runs.make_task(config | {'task': options}, axis_name=train.AXIS)
    spec = predict.weights_spec(task)
    rng = np.random.default_rng(0)
    weights = jax.tree.map(
        lambda x: rng.uniform(0.01, 0.1, x.shape).astype(x.dtype), spec)
    predictor = predict.Predictor([task], [weights], views=1, batch_size=8)
    size = options['size_px']
    jax.block_until_ready(predictor.apply(
        {'inputs': np.zeros((8, size, size, 1), np.int16)}))
    Path('/proc/self/clear_refs').write_text('5')  # the peak starts anew from here
    before = _memory('self', 'VmRSS')
    seconds = {stage: [] for stage in ('read', 'detect', 'path', 'patches')}
    for _ in range(rounds + 1):
        marks = [time.perf_counter()]
        record = task.read(Path(file), case_id='case')
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
            num_slices=len(volume.volume_hu), spacing_mm=volume.spacing_mm, where=file,
            rules=path.PathRules(0.0, 1e4, 1e4, 1e4, 30.0))
        marks.append(time.perf_counter())
        cut = patches.cut_patches(
            volume.volume_hu, column.make_frame(cord, spacing_mm=volume.spacing_mm),
            box=column.Box(*BOX_MM), tiling=patches.Tiling(*TILING))
        jax.block_until_ready(cut.values)
        marks.append(time.perf_counter())
        for stage, start, end in zip(seconds, marks, marks[1:]):
            seconds[stage].append(end - start)
    totals = [sum(stages) for stages in zip(*seconds.values())]
    medians = {stage: statistics.median(v[1:]) for stage, v in seconds.items()}
    print(json.dumps({
        'seconds': medians | {
            'total': statistics.median(totals[1:]), 'first_total': totals[0],
        },
        'slices_per_s': len(found.slices) / medians['detect'],
        'patches': int(np.sum(cut.mask)),
        'peak_bytes': _memory('self', 'VmHWM') - before,
        'reader_peak_bytes': max(_memory(child, 'VmHWM') for child in Path(
            f'/proc/self/task/{os.getpid()}/children').read_text().split()),
    }))


def _memory(process, name):
    """Bytes that the kernel counts for a process; Linux only."""
    status = Path(f'/proc/{process}/status').read_text()
    return int(status.split(f'{name}:')[1].split()[0]) * 1024


if __name__ == '__main__':
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
