"""Where a run's weights come from, as the manifest says it, and the version that says so."""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision

from model.architecture import PRESETS
from model.runtime.bundles.bundle import Bundle, BundleError
from model.runtime.bundles.manifest import Provenance
from model.runtime.bundles.repository import Repository
from training.checkpoint import Checkpoint
from training.config import TrainConfig
from training.starting.identity import dataset_name


def provenance(config: TrainConfig, checkpoint: Checkpoint) -> Provenance:
    """What the manifest says about where a checkpoint's weights come from: what its run kept, whatever is given now.

    Checkpoints of older releases know no more of their data than its name.
    """
    trained, ran = checkpoint.trained_on, checkpoint.train_config()
    return Provenance(
        dataset=dataset_name(ran) if trained is None else trained.dataset,
        license=config.license or ("unstated" if ran.data else "generated, none needed"),
        images=None if trained is None else trained.images,
        instances=None if trained is None else trained.instances,
        fingerprint=None if trained is None else trained.train,
        run=checkpoint.run,
        recipe=ran.name,
        iterations=checkpoint.iteration,
        seed=ran.seed,
        initial_weights=_initial_weights(ran.start_from),
        versions={"torch": torch.__version__, "torchvision": torchvision.__version__},
    )


def published_bundle(config: TrainConfig, checkpoint: Checkpoint) -> Bundle | None:
    """The newest version in the run's model repository that holds this checkpoint's weights, None where none does.

    The version itself is the record: a crash leaves it published, or not.
    """
    if not config.model_repository.is_dir():
        return None
    wanted = provenance(config, checkpoint)
    repository = Repository(config.model_repository)
    for version in reversed(repository.models().get(config.name, ())):
        try:
            bundle = repository.get(config.name, version, verify=False)
        except BundleError:
            continue  # damaged, and so not what is served
        found = bundle.manifest.provenance
        same = all(getattr(found, name) == getattr(wanted, name) for name in ("run", "iterations", "recipe", "seed"))
        if same and bundle.manifest.trades is None:
            return bundle
    return None


def _initial_weights(start_from: str) -> str | None:
    """What the manifest says of them; of a file its name alone, for folders are nobody else's business."""
    if start_from == "random":
        return None
    if start_from.partition(":")[0] == "imagenet":
        return f"torchvision {start_from} backbone"
    return f"torchvision {start_from}" if start_from.partition(":")[0] in PRESETS else Path(start_from).name
