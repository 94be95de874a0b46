"""The shapes and records every layer agrees on.

Shape letters, used in every docstring and comment:
  B  batch                      D H W  depth, height, width (slices first)
  T  frames or sequence steps   C      channels
  K  classes or findings        J      body landmarks (33, BlazePose)
  N  rows of a whole split      V      views of test-time augmentation
"""

from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Sequence

import flax.linen as nn
import jax
import numpy as np

# One example, without a batch axis, in its smallest honest storage type. Always:
#   inputs      array (uint8 pixels, int16 HU, ...), as read
#   targets     array; NaN or absent where unknown
#   example_id  str, unique in its data set ('train-7@0,128': tile of train-7)
#   case_id     str, what a reader reports on ('train-7'); several examples may share it
#   patient_id  str, a hash; all examples of a patient share it
# plus whatever undoes the geometry (origin_yx, size_hw, spacing_mm, ...).
Record = dict[str, Any]

# Stacked records: every array [B, ...]; `mask` [B] float32 is 0 for an example that
# only fills the last batch. Strings stay on the host: a device never sees an id.
Batch = dict[str, Any]

# Columns over a whole split, NumPy, [N, ...].
Rows = dict[str, np.ndarray]


class View(NamedTuple):
    """One view of test-time augmentation and the way back."""

    forward: Callable[[jax.Array], jax.Array]  # inputs -> inputs
    inverse: Callable[[Any], Any]  # probabilities -> probabilities


class Finding(NamedTuple):
    """What prediction says about one case."""

    row: dict[str, Any]  # scalars: one line of findings.csv
    details: dict[str, Any]  # JSON: findings.json
    pictures: dict[str, np.ndarray]  # 'overlays' -> uint8 [H, W, 3] or [H, W]
    # in the case's own folder: name -> picture, JSON, or bytes as they are
    files: Mapping[str, Any] = {}


class Page(NamedTuple):
    """How the findings of a folder are summed up on one page, see jaxmed.cohort."""

    risk: str  # column of findings.csv, in [0, 1]: what cases are sorted by
    verdict: str  # column of a few different words; '' where there is none
    picture: str  # of Finding.pictures
    columns: Mapping[str, str]  # more of them -> headings


class Card(NamedTuple):
    """What a report says of a task in words, and what its paper measured."""

    title: str
    about: str
    legend: str  # what the colours in its pictures mean
    paper: Mapping[str, float]  # metric -> the paper's value
    paper_data: str  # what the paper measured it on


class Task(NamedTuple):
    """One clinical problem: all that trainer, evaluator and predictor are told.

    Functions marked 'device' are pure, traced and compiled; the others run on the
    host. A task never sees a config, a flag or a checkpoint.
    """

    card: Card
    model: nn.Module
    example: Record  # a record of zeros: shapes and types to compile for
    sources: Mapping[str, Callable[[Path], Iterator[Record]]]  # layout -> its reader
    phantoms: Callable[..., Iterator[Record]]  # (count=, seed=) -> drawn records
    files: Callable[[Path], list[tuple[Path, str]]]  # file or folder -> (path, case id)
    read: Callable[..., Record]  # (path, case_id=) of one of these -> unlabelled record
    preprocess: Callable[[Batch], Batch]  # device; storage types -> model inputs
    augment: Callable[[jax.Array, Batch], Batch]  # device; (keys [B], preprocessed)
    loss: Callable[[Any, Batch], jax.Array]  # device; outputs -> [B], not yet masked
    probabilities: Callable[[Any], Any]  # device; outputs -> what views may average
    views: Sequence[View]  # device; the first one is the identity
    rows: Callable[[Any, Batch], Batch]  # device; (probabilities, raw batch) -> columns
    cases: Callable[[Rows], Rows]  # all rows of a split -> one row per case
    scores: Mapping[str, bool]  # columns of cases, each with: higher is better
    metrics: Mapping[str, Callable[[Rows], float]]  # over cases
    lower_is_better: Sequence[str]  # of these metrics; of the others higher is
    baselines: Mapping[str, Callable[[Batch], Any]]  # raw batch -> probabilities
    render: Callable[[Sequence[Record], Rows], np.ndarray]  # one case -> RGB picture
    # (apply, record, *, batch_size) -> probabilities of a record of any size; None: a
    # record is one example, and many go through the network together
    infer: Callable[..., Any] | None
    # (record, probabilities) -> what a user reads; of a task with `explain` a third is
    # the map [H, W] of the likeliest class, or None
    findings: Callable[..., Finding]
    # What only some tasks have; None or nothing leaves it out.
    # record -> class, None where unknown: what balanced batches have in equal shares
    class_of: Callable[[Record], int | None] | None = None
    labels: Sequence[str] = ()  # of the targets' only axis; records must have the same
    # (records, those trained on) -> case ids of the first that are copies of the others
    find_copies: Callable[..., set] | None = None
    pretrained: Callable[..., Any] | None = None  # (path, variables=, sha256=) -> both
    # (training source, fresh variables) -> the variables that training begins with
    begin: Callable[..., Any] | None = None
    # device; (variables, raw batch, class [B]) -> maps [B, H, W]
    explain: Callable[[Any, Batch, Any], Any] | None = None
    calibrate: Callable[[Rows], dict] | None = None  # all rows of valid -> JSON values
    calibrated: Callable[[dict], 'Task'] | None = None  # these values -> the same task
    probes: Mapping[str, Callable[[Batch], Batch]] = {}  # changes of the raw batch
    fit_baselines: Callable[..., Mapping] | None = None  # training source -> more
    sections: Callable[..., list] | None = None  # cases, ... -> parts of a report
    # calibrations of all members -> the first one's task, which scales their mean and
    # words what they find
    together: Callable[[Sequence[dict]], 'Task'] | None = None
    reading: Mapping[str, Any] = {}  # how a file becomes a record; of members the same
    of_source: Sequence[str] = ()  # those of `reading` that a trained model may change
    # [(keywords of its make, values of report.summarise)] -> file name -> text
    tabulate: Callable[[Sequence[tuple]], Mapping[str, str]] | None = None
    page: Page | None = None
    # many of `files` -> the same in any order, each once `read` will be quick about it
    look_ahead: Callable[[Sequence[tuple]], Iterator[tuple]] | None = None
    live: Callable[..., Any] | None = None  # (apply) -> spine_live.Parts
    # (file, record, Finding, *, kinds, made_by) -> name -> bytes of a DICOM file
    dicom: Callable[..., Mapping[str, bytes]] | None = None
