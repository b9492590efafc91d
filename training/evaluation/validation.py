"""Detections of a whole dataset and their COCO figures, through the serving runtime's pre- and postprocessing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from model.architecture import ArchitectureConfig, Task
from model.network.build import Detector
from model.network.engine import EagerEngine
from model.runtime.detections import Detections
from model.runtime.images.values.intensity import Intensity
from model.runtime.predict import Predictor
from model.runtime.preprocess import Preprocessing
from training.data.annotations.dataset import Dataset
from training.data.loading.samples import load_prepared
from training.distributed import Process
from training.evaluation.evaluation import KINDS, Kind, Metrics, evaluate_detections

SCORE_THRESHOLD = 0.05
"""Lower scores are not counted; torchvision leaves them out too."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one pass over a dataset gave: the figures, and each image's detections in the dataset's order."""

    metrics: Metrics
    detections: list[Detections]


def main_kind(task: Task) -> Kind:
    """The kind of AP by which a model of this task is chosen."""
    return KINDS[task][-1]


def eager_predictor(model: Detector, architecture: ArchitectureConfig, intensity: Intensity) -> Predictor:
    """A model in training, behind the interface that serves it."""
    return Predictor(EagerEngine(model), Preprocessing.from_architecture(architecture, intensity))


def detect(
    predictor: Predictor,
    data: Dataset,
    *,
    max_detections: int,
    score_threshold: float,
    progress: Callable[[int], None] | None = None,
) -> list[Detections]:
    """Up to `max_detections` above `score_threshold` in each image of `data`, in its order.

    `progress` is called after each image with the number done.
    """
    detections: list[Detections] = []
    for record in data.images:
        image = load_prepared(record, predictor.preprocessing)
        detections += predictor.predict_prepared([image], score_threshold, max_detections)
        if progress is not None:
            progress(len(detections))
    return detections


def detect_shared(
    predictor: Predictor,
    data: Dataset,
    process: Process,
    *,
    max_detections: int,
    progress: Callable[[int], None] | None = None,
) -> list[Detections]:
    """`detect`, the images shared out among the processes: all detections in the first one, nothing in the others.

    `progress` is told of this process's images as if all were at the same number.
    """
    mine: list[Detections] = []
    for record in data.images[process.rank :: process.count]:
        image = load_prepared(record, predictor.preprocessing)
        mine += predictor.predict_prepared([image], SCORE_THRESHOLD, max_detections)
        if progress is not None:
            progress(min(len(mine) * process.count, len(data)))
    parts = process.gather(mine)
    if not process.first:
        return []
    return [parts[number % process.count][number // process.count] for number in range(len(data))]


def validate(
    predictor: Predictor,
    data: Dataset,
    task: Task,
    *,
    max_detections: int = 100,
    score_threshold: float = SCORE_THRESHOLD,
    progress: Callable[[int], None] | None = None,
) -> Outcome:
    """COCO figures of `predictor` on `data`, counting up to `max_detections` an image above `score_threshold`."""
    detections = detect(
        predictor, data, max_detections=max_detections, score_threshold=score_threshold, progress=progress
    )
    return Outcome(evaluate_detections(data, detections, KINDS[task], limits(max_detections)), detections)


def limits(max_detections: int) -> tuple[int, ...]:
    """The numbers of detections at which recall is measured: COCO's first two, and the most."""
    return tuple(sorted({1, 10, max_detections}))
