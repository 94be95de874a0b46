"""Scans drawn about the spine only, one after another or in processes side by side.

The processes are clean interpreters that import what is here and no JAX: neither
forked (JAX has threads) nor spawned by multiprocessing, which would run the launcher
or a user's script again. They end with the process that started them, and where none
can be started this one draws. Which process drew a scan doesn't show in it.
"""

import json
import os
import select
import subprocess
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import NamedTuple

import cv2
import numpy as np

from jaxmed.data.phantoms import ct
from jaxmed.errors import ConfigError

# Pixels are about half as large as what is cut out of them, within these limits.
_FINEST_MM, _COARSEST_MM = 1.2, 1.6
# A network's rows of 1.25 mm see no more in slices that are thinner.
_THINNEST_MM = 1.25
_MARGIN = 4  # pixels about the box
_TRIES = 2000  # patients, until one has fractures or none
_AHEAD = 3  # scans in work for each process
_FEWEST = 4  # scans a process, below which it isn't worth its start
_WATCH_SECONDS = 2.0
_ONE_THREAD = dict.fromkeys(
    ('OPENBLAS_NUM_THREADS', 'OMP_NUM_THREADS', 'MKL_NUM_THREADS'), '1')


class Settings(NamedTuple):
    """Of a set of scans; numbers only."""

    seed: int
    off_mm: float  # deviation of the path from the canal's middle
    front_mm: float  # of ct.column.Box
    back_mm: float
    half_width_mm: float
    pitch_mm: float  # of patch voxels, across the spine
    min_grade: int  # Genant grade from which on a vertebra counts as fractured
    fractured: float | None  # share of scans with a fracture; None: as drawn
    spacing_mm: float | None  # from slice to slice; None: as scanners are drawn
    noise: float  # factor of the scanners' noise


class Drawn(NamedTuple):
    """One scan; its slices are shifted so that the path stays in one place."""

    images_hu: np.ndarray  # int16 [D, H, W], feet to head
    heights_mm: np.ndarray  # [D] LPS
    origins_mm: np.ndarray  # [D, 2] LPS x and y of the first pixel's middle
    place_mm: np.ndarray  # [2] of the path from there, x and y
    pixel_mm: float
    vertebrae: np.ndarray  # [n, 4]: LPS z in mm, is it fractured, grade, VerSe's number


def draw_scan(settings, number):
    """Draws a scan; the same arguments give the same bytes.

    Raises:
        ConfigError: no patient has what `fractured` asks for.
    """
    patient, scanner, rng, vertebrae = _choose(settings, number)
    low, high = ct.scan_range(patient, scanner)
    heights = np.arange(low, high + 1e-6, scanner.spacing_mm)
    # A detector looks every 30 mm and is a little off.
    knots = np.arange(low, high + 30, 30)
    off = np.stack([np.interp(heights, knots, rng.normal(
        0, settings.off_mm, len(knots))) for _ in range(2)], axis=1)
    path = ct.canal_centres(patient, scanner, heights) + off
    pixel = float(np.clip(settings.pitch_mm / 2, _FINEST_MM, _COARSEST_MM))
    place = _MARGIN * pixel + np.array([settings.half_width_mm, settings.front_mm])
    extent = np.array([settings.front_mm + settings.back_mm,
                       2 * settings.half_width_mm])
    shape = tuple(int(n) + 2 * _MARGIN + 1 for n in np.ceil(extent / pixel))
    images = ct.render_column(
        patient, scanner, heights, path - place, shape=shape, spacing_mm=pixel)
    return Drawn(images, heights, path - place, place, pixel, vertebrae)


def _choose(settings, number):
    """(Patient, Scanner, rng, vertebrae) of a scan."""
    want = None
    if settings.fractured is not None:
        draw = np.random.default_rng((settings.seed, number, 2)).random()
        want = bool(draw < settings.fractured)
    for attempt in range(_TRIES):
        # As without a share, where the first is as it should be.
        rng = np.random.default_rng(
            (settings.seed, number, 1) + (attempt,) * (attempt > 0))
        patient, scanner = ct.draw_patient(rng), ct.draw_scanner(rng)
        scanner = _set_up(scanner, settings)
        low, high = ct.scan_range(patient, scanner)
        half = scanner.spacing_mm / 2
        vertebrae = np.array([
            (v.centre_mm[2], v.grade >= settings.min_grade, v.grade, v.label)
            for v in ct.find_vertebrae(patient, scanner)
            if low - half < v.centre_mm[2] < high + half], float).reshape(-1, 4)
        if want is None or want == bool(vertebrae[:, 1].any()):
            return patient, scanner, rng, vertebrae
    raise ConfigError('phantom', f'no patient in {_TRIES} of the '
                      f'{"fractured" if want else "unbroken"} ones asked for')


def _set_up(scanner, settings):
    """The scanner with slices and noise as they are asked for."""
    spacing = settings.spacing_mm or max(scanner.spacing_mm, _THINNEST_MM)
    ratio = spacing / scanner.spacing_mm
    noise = scanner.noise_hu * settings.noise
    if settings.spacing_mm is None:
        noise /= np.sqrt(ratio)  # of thin slices that became thicker
    return scanner._replace(
        spacing_mm=spacing, thickness_mm=scanner.thickness_mm * ratio,
        noise_hu=float(noise), padding=None)


def draw_scans(settings, count):
    """Yields Drawn scans 0 to `count` - 1 in order, drawn ahead of their use."""
    workers = []
    if count >= 2 * _FEWEST:
        workers = _start(min(_count_cores(), count // _FEWEST), settings)
    if not workers:
        for number in range(count):
            yield draw_scan(settings, number)
        return
    idle = SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def ask(number):
        while True:
            worker = idle.get()
            if worker is None:  # all have ended
                idle.put(None)
                return None
            try:
                drawn = _ask(worker, number)
            except (OSError, EOFError, ValueError):
                worker.kill()
                worker.wait()
                if all(worker.poll() is not None for worker in workers):
                    idle.put(None)
            else:
                idle.put(worker)
                return drawn

    threads = ThreadPoolExecutor(len(workers))
    try:
        waiting, first = deque(), 0
        for number in range(count):
            while first < count and len(waiting) < _AHEAD * len(workers):
                waiting.append(threads.submit(ask, first))
                first += 1
            drawn = waiting.popleft().result()
            yield draw_scan(settings, number) if drawn is None else drawn
    finally:
        for worker in workers:
            worker.kill()
        threads.shutdown(cancel_futures=True)
        for worker in workers:
            worker.communicate()


def _count_cores():
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start(count, settings):
    """Processes that run `serve`; none where one core or the system has no room."""
    if count < 2:
        return []
    workers = []
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    try:
        for _ in range(count):
            workers.append(subprocess.Popen(
                [sys.executable, '-c', 'from jaxmed.data.phantoms import ct_column; '
                 'ct_column.serve()'], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, start_new_session=True,
                env=os.environ | _ONE_THREAD | {'PYTHONPATH': paths}))
            _write(workers[-1].stdin, settings)
    except OSError:
        pass
    return workers


def _ask(worker, number):
    """The Drawn scan by a process.

    Raises:
        OSError, EOFError, ValueError: it has ended.
    """
    _write(worker.stdin, number)
    fields = []
    for kind, shape in json.loads(worker.stdout.readline()):
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        data = worker.stdout.read(size)
        if len(data) < size:
            raise EOFError
        fields.append(np.frombuffer(data, kind).reshape(shape))
    drawn = Drawn(*fields)
    return drawn._replace(pixel_mm=float(drawn.pixel_mm))


def _write(stream, value):
    stream.write(json.dumps(value).encode() + b'\n')
    stream.flush()


def serve():
    """Draws what is asked for on stdin until the other side has gone."""
    cv2.setNumThreads(1)
    parent = os.getppid()
    # What libraries print is no part of an answer.
    answers = os.fdopen(os.dup(1), 'wb')
    os.dup2(2, 1)
    with os.fdopen(0, 'rb', buffering=0) as requests:
        settings = Settings(*json.loads(requests.readline()))
        while os.getppid() == parent:
            if not select.select([requests], [], [], _WATCH_SECONDS)[0]:
                continue
            line = requests.readline()
            if not line:
                return
            drawn = [np.asarray(field) for field in draw_scan(
                settings, json.loads(line))]
            _write(answers, [(field.dtype.str, field.shape) for field in drawn])
            for field in drawn:
                answers.write(np.ascontiguousarray(field).tobytes())
            answers.flush()
