"""The training losses on a validation split, which an overfitting network gives away first."""

from __future__ import annotations

import torch
from torch import Tensor

from model.architecture import ArchitectureConfig
from model.network.build import Detector
from model.runtime.images.values.intensity import AUTO, Intensity
from training.config import AugmentConfig
from training.data.annotations.dataset import Dataset
from training.data.augmentation.transforms import Augmentation
from training.data.loading.samples import Draw, TrainingSet
from training.distributed import Process
from training.loop.sampling import begin_batch, drawn_counts


@torch.inference_mode()
def validation_losses(
    model: Detector, data: Dataset, architecture: ArchitectureConfig, process: Process, intensity: Intensity = AUTO
) -> dict[str, float]:
    """The training losses on `data`, whole images at the served size, and their sum as "loss"; in every process.

    Means over all of its anchors, RoIs and positive RoIs; the draws are the same each time, and the same however many
    processes share the images. Normalization and dropout work as when serving; weights, statistics and global
    generators stay as they are. The model is left in eval mode, and must draw by image (`sample_by_image`).
    """
    unchanged = Augmentation(AugmentConfig(horizontal_flip=0.0), architecture)
    dataset = TrainingSet(data, unchanged, seed=0, intensity=intensity)
    model.eval()
    for part in (model, model.rpn, model.roi_heads):
        part.training = True  # these decide about losses; layers below them stay in eval mode
    sums: dict[str, Tensor] = {}
    try:
        for number in range(process.rank, len(data), process.count):
            image, target, _, _ = dataset[Draw(number, number)]
            begin_batch(model, [(number,)])
            losses = model(
                [image.to(process.device).float() / 255],
                [{name: value.to(process.device) for name, value in target.items()}],
            )
            for (name, loss), count in zip(losses.items(), drawn_counts(model).of(losses).tolist(), strict=True):
                part_sum = torch.tensor([float(loss) * count, count], dtype=torch.float64)
                sums[name] = sums.get(name, torch.zeros(2, dtype=torch.float64)) + part_sum
    finally:
        model.eval()
    parts = process.agree(process.gather(sums))
    names = list(dict.fromkeys(name for part in parts for name in part))
    totals = {name: sum((part[name] for part in parts if name in part), torch.zeros(2)) for name in names}
    means = {name: float(total[0] / total[1].clamp(min=1)) for name, total in totals.items()}
    return {"loss": sum(means.values()), **means}
