"""Which run a folder's checkpoint belongs to: the one that is started, or another, which is refused.

A run is its data, architecture, classes and configuration. What may change from one start to the next is `MAY_CHANGE`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from training.checkpoint import Checkpoint, CheckpointError, TrainedOn
from training.config import TrainConfig, flat_fields
from training.data.checking.content import fingerprint
from training.data.loading.source import TrainingData
from training.distributed import Process

MAY_CHANGE: Final = frozenset(
    {
        # Where things are, and who computes.
        "output",
        "repository",
        "data",
        "annotations",
        "images",
        "workers",
        "device",
        "threads",
        "channels_last",
        "compile",
        # How a step's images are shared out; how many they are is compared by itself.
        "batch_size",
        "accumulate",
        # What is written, and how long it goes on.
        "resume",
        "loggers",
        "log_every",
        "checkpoint_every",
        "validation.every",
        "validation.samples",
        "validation.loss",
        "validation.patience",
        "schedule.iterations",
        # What becomes of it.
        "name",
        "license",
        "publish",
        "publish_if",
        "export_half",
        "export_int8",
        "export_f16",
        "export_references",
        # These change the data, and what they make of it is compared.
        "on_broken",
        "orientation",
        "mask_objects",
        "class_attribute",
        "val",
        "classes",
        "rename",
        "architecture.num_classes",
        "architecture.num_keypoints",
    }
)
"""Fields of the configuration that a run may be started again with other values of."""

OF_A_MACHINE: Final = frozenset(
    {"output", "repository", "data", "annotations", "images", "val", "start_from", "workers", "threads"}
)
"""Where things are, and how many compute: what each process of a run may have of its own."""


def require_one_run(config: TrainConfig, process: Process) -> None:
    """Raises ValueError, in every process, where one is configured otherwise than the first: they would not train one
    network, or wait for each other in vain.
    """
    everyone = process.gather({name: value for name, value in flat_fields(config) if name not in OF_A_MACHINE})
    differing = [
        f"{name} is {value} in process 0 and {other[name]} in process {rank}"
        for rank, other in enumerate(everyone)
        for name, value in everyone[0].items()
        if other[name] != value
    ]
    if differing := process.agree(differing):
        raise ValueError(f"{'; '.join(differing)}: start every process of a run with the same flags")


def describe_data(config: TrainConfig, data: TrainingData) -> TrainedOn:
    """What is trained on. Reads of every image as much as tells it from others."""
    return TrainedOn(
        dataset=dataset_name(config),
        images=len(data.train),
        instances=sum(len(annotations) for annotations in data.train.annotations),
        train=fingerprint(data.train),
        val=None if data.val is None else fingerprint(data.val),
    )


def dataset_name(config: TrainConfig) -> str:
    """What a manifest calls the data: the name of its folder or files, for where it lies is nobody else's business."""
    if config.annotations:
        return ", ".join(file.name for file in config.annotations)
    if config.data is None:
        return "generated figures" if config.architecture.has_keypoints else "generated shapes"
    return config.data.resolve().name or str(config.data)


def require_same_configuration(resumed: Checkpoint, config: TrainConfig, path: Path) -> None:
    """Raises CheckpointError, naming every field, where the run of the checkpoint at `path` is configured otherwise."""
    before = dict(flat_fields(resumed.train_config()))
    changed = [
        f"{name} was {before[name]} and is {value}"
        for name, value in flat_fields(config)
        if name not in MAY_CHANGE and before[name] != value
    ]
    if resumed.trained_on is None and resumed.train_config().data != config.data:
        changed.append(
            f"data was {resumed.train_config().data} and is {config.data} (this checkpoint is of an older release, "
            f"which knew data by its place alone)"
        )
    if changed:
        raise CheckpointError(_refusal(path, changed))


def require_same_data(
    resumed: Checkpoint, trained_on: TrainedOn, names: tuple[str, ...], step_images: int, path: Path
) -> None:
    """Raises CheckpointError where the checkpoint at `path` has learned from something else than `trained_on`.

    names are those of the run's classes and keypoints, step_images the images of one of its steps.
    """
    changed = list(_changes(resumed, trained_on, names, step_images))
    if changed:
        raise CheckpointError(_refusal(path, changed))


def _changes(resumed: Checkpoint, trained_on: TrainedOn, names: tuple[str, ...], step_images: int) -> Iterator[str]:
    theirs = (*resumed.class_names, *resumed.keypoint_names)
    if theirs != names:
        yield f"its classes and keypoints were {', '.join(theirs)} and are {', '.join(names)}"
    if resumed.step_images not in (None, step_images):
        yield (
            f"its steps had {resumed.step_images} images and have {step_images} (batch_size x accumulate x number of "
            f"processes)"
        )
    before = resumed.trained_on
    if before is None:
        return
    if before.train != trained_on.train:
        yield (
            f"it has learned from {before.dataset} ({before.images} images, {before.instances} objects), and "
            f"{trained_on.dataset} ({trained_on.images} images, {trained_on.instances} objects) is other data"
        )
    if before.val != trained_on.val:
        change = "is new" if before.val is None else "is gone" if trained_on.val is None else "is another"
        yield f"its validation split {change}"


def _refusal(path: Path, changed: list[str]) -> str:
    return (
        f"{path} is of another run: {'; '.join(changed)}. Start that run as it was, or choose another --output, or "
        f"begin anew with --resume never"
    )
