"""A run's data: found or generated, checked, and split into training and validation."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.architecture import Task, has_keypoints
from training.config import TrainConfig
from training.data.annotations.classes import change_splits
from training.data.annotations.dataset import Dataset, DatasetError
from training.data.checking.broken import check, drop_broken, mended, report
from training.data.figures import write_figures
from training.data.formats.coco.reader import find_splits, load_coco
from training.data.formats.known import detect_format, load_dataset
from training.data.shapes import write_shapes


class DataStop(Exception):
    """The data has broken records and the run was told to stop at them; the message is the whole report."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """val is None where the dataset has no validation split."""

    train: Dataset
    val: Dataset | None


def load_training_data(config: TrainConfig) -> TrainingData:
    """The splits of `config.data`, in any format of docs/formats.md, or generated: shapes, and figures for keypoints.
    Every record is checked before training starts.

    Classes are renamed, then chosen, as the configuration says; the labels follow the dataset's order. Raises
    DatasetError when there is no dataset or a class is not in it, DataStop when records are broken and `on_broken` is
    "stop".
    """
    directory = config.data
    if directory is None:
        directory = config.run_folder / "data"
        write = write_figures if has_keypoints(config.architecture.task) else write_shapes
        write(directory, seed=config.seed)
    splits = load_splits(directory, config.architecture.task, rename=config.rename, classes=config.classes)
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
    directory: Path, task: Task, *, rename: Mapping[str, str] | None = None, classes: Sequence[str] = ()
) -> TrainingData:
    """The splits of a folder in any format of docs/formats.md, not yet checked.

    Classes are changed as `change_splits` says. Raises DatasetError as it does, and where there is no training split.
    """
    splits = _as_they_are(directory, task)
    found = [splits.train] if splits.val is None else [splits.train, splits.val]
    train, *val = change_splits(found, rename=rename or {}, classes=classes)
    return TrainingData(train, val[0] if val else None)


def _as_they_are(directory: Path, task: Task) -> TrainingData:
    """COCO goes first: its files depend on the task, and it says best what is missing."""
    form = detect_format(directory)
    if form is None or form.name in ("coco", "coco_keypoints"):
        splits = find_splits(directory, task)
        return TrainingData(load_coco(*splits.train), None if splits.val is None else load_coco(*splits.val))
    data = load_dataset(directory, form)
    if "train" not in data:
        raise DatasetError(f"{directory}, read as {form.name}, has the splits {', '.join(data)}: it needs 'train'")
    return TrainingData(data["train"], data.get("val"))


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
