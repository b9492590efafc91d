"""Where a run's weights come from, as the manifest says it."""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision

from model.architecture import PRESETS
from model.runtime.bundles.manifest import Provenance
from training.config import TrainConfig
from training.data.annotations.dataset import Dataset


def provenance(config: TrainConfig, data: Dataset | None, iterations: int) -> Provenance:
    """What the manifest says about where a run's weights come from; counts are left out where `data` is not at hand."""
    generated = "figures" if config.architecture.has_keypoints else "shapes"
    return Provenance(
        dataset=config.data.name if config.data else f"generated {generated}",
        license=config.license or ("unstated" if config.data else "generated, none needed"),
        images=None if data is None else len(data),
        instances=None if data is None else sum(len(annotations) for annotations in data.annotations),
        recipe=config.name,
        iterations=iterations,
        seed=config.seed,
        initial_weights=_initial_weights(config.start_from),
        versions={"torch": torch.__version__, "torchvision": torchvision.__version__},
    )


def _initial_weights(start_from: str) -> str | None:
    """What the manifest says of them; of a file its name alone, for folders are nobody else's business."""
    if start_from == "random":
        return None
    if start_from.partition(":")[0] == "imagenet":
        return f"torchvision {start_from} backbone"
    return f"torchvision {start_from}" if start_from.partition(":")[0] in PRESETS else Path(start_from).name
