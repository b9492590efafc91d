"""A run's data: found or generated, checked, and split into training and validation."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from model.architecture import Task, has_keypoints
from training.config import TrainConfig
from training.data.annotations.classes import align_classes, change_splits
from training.data.annotations.dataset import Dataset, DatasetError
from training.data.checking.broken import check, drop_broken, mended, report
from training.data.figures import write_figures
from training.data.formats.locate import Located, Origin, locate
from training.data.shapes import write_shapes


class DataStop(Exception):
    """The data has broken records and the run was told to stop at them; the message is the whole report."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """val is None where the dataset has no validation split."""

    train: Dataset
    val: Dataset | None


def load_training_data(config: TrainConfig) -> TrainingData:
    """The splits of `config.data` or `config.annotations`, in any format of docs/formats.md, or generated: shapes, and
    figures for keypoints. Every record is checked before training starts.

    Classes are renamed, then chosen, as the configuration says; the labels follow the dataset's order. Raises
    DatasetError when there is no dataset or a class is not in it, DataStop when records are broken and `on_broken` is
    "stop".
    """
    origin = Origin.of(config.data, config.annotations, config.images)
    if config.data is None and not config.annotations:
        origin = Origin(config.run_folder / "data", images=config.images)
        write = write_figures if has_keypoints(config.architecture.task) else write_shapes
        write(config.run_folder / "data", seed=config.seed)
    splits = load_splits(origin, config.architecture.task, rename=config.rename, classes=config.classes)
    train = _checked(splits.train, config)
    val = None if splits.val is None else _checked(splits.val, config)
    if val is not None and val.class_names != train.class_names:
        raise DataStop(
            f"the splits have different classes: {', '.join(train.class_names)} to train, "
            f"{', '.join(val.class_names)} to validate; give both files the same categories"
        )
    return TrainingData(train, val)


def keypoint_names(data: Dataset) -> tuple[str, ...]:
    """Names of the K keypoints, "keypoint 1" and so on where the dataset has none; empty without keypoints."""
    unnamed = tuple(f"keypoint {number + 1}" for number in range(data.num_keypoints))
    return next((category.keypoints for category in data.categories if category.keypoints), unnamed)


def flip_pairs(data: Dataset) -> tuple[tuple[int, int], ...]:
    """Indices of keypoints called left_X and right_X, which change places in a mirror image."""
    index = {name: position for position, name in enumerate(keypoint_names(data))}
    pairs = ((position, index.get(name.replace("left", "right"))) for name, position in index.items() if "left" in name)
    return tuple((left, right) for left, right in pairs if right is not None)


def load_splits(
    origin: Origin | Path, task: Task, *, rename: Mapping[str, str] | None = None, classes: Sequence[str] = ()
) -> TrainingData:
    """The splits of a dataset that a training reads, not yet checked; a path is a folder in any format of
    docs/formats.md. A single file of annotations is to train on, whatever its name.

    Classes are changed as `change_splits` says. Raises DatasetError as it does, and where there is no training split.
    """
    located = locate(Origin(origin) if isinstance(origin, Path) else origin, task=task)
    train = located.single or "train"
    if train not in located.splits:
        raise DatasetError(
            f"{origin}, read as {located.format}, has the splits {', '.join(located.splits)}: it needs 'train'"
        )
    names = [train, "val"] if "val" in located.splits and train != "val" else [train]
    found = _read(located, names, rename=rename or {}, classes=classes)
    unused = [name for name in located.splits if name not in (*names, "test")]
    if unused:
        note = f"not used in training: the splits {', '.join(unused)}"
        found[train] = replace(found[train], notes=(*found[train].notes, note))
    return TrainingData(found[train], found["val"] if len(names) > 1 else None)


def load_split(origin: Origin, task: Task, split: str, *, rename: Mapping[str, str], classes: Sequence[str]) -> Dataset:
    """One split, not yet checked, with the classes of all of them; a single file of annotations is meant whatever its
    name.

    Classes are changed as `change_splits` says. Raises DatasetError as it does, and naming the splits that there are.
    """
    located = locate(origin, task=task)
    chosen = located.single or split
    if chosen not in located.splits:
        kind = {"train": "training", "val": "validation"}.get(split, split)
        there = " or ".join(f"--split {name}" for name in located.splits)
        raise DatasetError(f"{origin} has no {kind} split; use {there}")
    return _read(located, list(located.splits), rename=rename, classes=classes)[chosen]


def _read(
    located: Located, names: Sequence[str], *, rename: Mapping[str, str], classes: Sequence[str]
) -> dict[str, Dataset]:
    """Splits by name. COCO's files say themselves which classes there are; other formats list what occurs."""
    found = [located.splits[name]() for name in names]
    if located.format not in ("coco", "coco_keypoints"):
        found = align_classes(found)
    return dict(zip(names, change_splits(found, rename=rename, classes=classes), strict=True))


def _checked(data: Dataset, config: TrainConfig) -> Dataset:
    for line in mended(data):
        print(line, file=sys.stderr)
    problems = check(data, config.architecture.task)
    if not problems:
        return data
    text = f"{data.name} ({data.root}):\n{report(problems)}"
    if config.on_broken == "stop":
        raise DataStop(f"{text}\nMend them, or train without them: --on_broken skip")
    print(text, file=sys.stderr)
    return drop_broken(data, problems)
