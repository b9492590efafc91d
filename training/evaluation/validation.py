"""Detections of a whole dataset and their COCO figures, through the serving runtime's pre- and postprocessing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from model.architecture import ArchitectureConfig, Task
from model.network.build import Detector
from model.network.engine import EagerEngine
from model.runtime.detections import Detections
from model.runtime.predict import Predictor
from model.runtime.preprocess import Preprocessing
from training.config import AugmentConfig
from training.data.augmentation.transforms import Augmentation
from training.data.formats.coco import CocoData
from training.data.loading.samples import Draw, TrainingSet, load_stored
from training.distributed import Process
from training.evaluation.evaluation import KINDS, Kind, Metrics, evaluate_detections
from training.loop.sampling import begin_batch, drawn_counts

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


def eager_predictor(model: Detector, architecture: ArchitectureConfig) -> Predictor:
    """A model in training, behind the interface that serves it."""
    return Predictor(EagerEngine(model), Preprocessing.from_architecture(architecture))


def detect(
    predictor: Predictor,
    data: CocoData,
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
        detections += predictor.predict([load_stored(record)], score_threshold, max_detections)
        if progress is not None:
            progress(len(detections))
    return detections


def detect_shared(predictor: Predictor, data: CocoData, process: Process, *, max_detections: int) -> list[Detections]:
    """`detect`, the images shared out among the processes: all detections in the first one, nothing in the others."""
    mine: list[Detections] = []
    for record in data.images[process.rank :: process.count]:
        mine += predictor.predict([load_stored(record)], SCORE_THRESHOLD, max_detections)
    parts = process.gather(mine)
    if not process.first:
        return []
    return [parts[number % process.count][number // process.count] for number in range(len(data))]


@torch.inference_mode()
def validation_losses(
    model: Detector, data: CocoData, architecture: ArchitectureConfig, process: Process
) -> dict[str, float]:
    """The training losses on `data`, whole images at the served size, and their sum as "loss"; in every process.

    Means over all of its anchors, RoIs and positive RoIs; the draws are the same each time, and the same however many
    processes share the images. Normalization and dropout work as when serving; weights, statistics and global
    generators stay as they are. The model is left in eval mode, and must draw by image (`sample_by_image`).
    """
    dataset = TrainingSet(data, Augmentation(AugmentConfig(horizontal_flip=0.0), architecture), seed=0)
    model.eval()
    for part in (model, model.rpn, model.roi_heads):
        part.training = True  # these decide about losses; layers below them stay in eval mode
    sums: dict[str, Tensor] = {}
    try:
        for number in range(process.rank, len(data), process.count):
            image, target, _ = dataset[Draw(number, number)]
            begin_batch(model, [(number,)])
            losses = model(
                [image.to(process.device).float() / 255],
                [{name: value.to(process.device) for name, value in target.items()}],
            )
            for (name, loss), count in zip(losses.items(), drawn_counts(model).of(losses), strict=True):
                part_sum = torch.tensor([float(loss) * count, count], dtype=torch.float64)
                sums[name] = sums.get(name, torch.zeros(2, dtype=torch.float64)) + part_sum
    finally:
        model.eval()
    parts = process.agree(process.gather(sums))
    names = list(dict.fromkeys(name for part in parts for name in part))
    totals = {name: sum((part[name] for part in parts if name in part), torch.zeros(2)) for name in names}
    means = {name: float(total[0] / total[1].clamp(min=1)) for name, total in totals.items()}
    return {"loss": sum(means.values()), **means}


def validate(
    predictor: Predictor,
    data: CocoData,
    task: Task,
    *,
    max_detections: int = 100,
    score_threshold: float = SCORE_THRESHOLD,
) -> Outcome:
    """COCO figures of `predictor` on `data`, counting up to `max_detections` an image above `score_threshold`."""
    detections = detect(predictor, data, max_detections=max_detections, score_threshold=score_threshold)
    return Outcome(evaluate_detections(data, detections, KINDS[task], limits(max_detections)), detections)


def limits(max_detections: int) -> tuple[int, ...]:
    """The numbers of detections at which recall is measured: COCO's first two, and the most."""
    return tuple(sorted({1, 10, max_detections}))
