"""A run's data: found or generated, checked, and split into training and validation."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from model.architecture import Task, has_keypoints
from model.runtime.images.channels import RGB_CHANNELS
from model.runtime.images.values.intensity import Intensity
from training.config import TrainConfig
from training.data.annotations.classes import align_classes, change_splits
from training.data.annotations.dataset import Dataset, DatasetError
from training.data.checking.broken import check, drop_broken, mended, nothing_to_train, openable, report
from training.data.checking.fingerprints import undecodable
from training.data.figures import write_figures
from training.data.formats.locate import Origin, locate
from training.data.hold_out import HeldOut, choose, divide, kept_split, require_undivided, with_held_out
from training.data.loading.samples import OnBroken
from training.data.shapes import write_shapes

NO_VALIDATION = (
    "no validation split: there will be no AP, no best checkpoint (the last one is published) and no comparison of the "
    "export's AP; --val 0.2 holds out a fifth of the images"
)


class DataStop(Exception):
    """The data has broken records and the run was told to stop at them; the message is the whole report."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """val is None where the dataset has no validation split. held_out says what it is where it was made by `--val`."""

    train: Dataset
    val: Dataset | None
    held_out: HeldOut | None = None


def to_stderr(line: str) -> None:
    """What loading says of the data, where it is the only process or the first."""
    print(line, file=sys.stderr)


def load_training_data(
    config: TrainConfig, held_out: HeldOut | None = None, say: Callable[[str], None] = to_stderr
) -> TrainingData:
    """The splits of `config.data` or `config.annotations`, in any format of docs/formats.md, or generated: shapes, and
    figures for keypoints. Every record is checked before training starts; images to validate on are decoded for that,
    those to train on only when they are drawn.

    held_out is what `config.val` holds out, where that is known: else it is what the run's folder keeps, or is chosen.
    say gets what was mended, what is left out and what will be missing.
    Classes are renamed, then chosen, as the configuration says; the labels follow the dataset's order. Raises
    DatasetError when there is no dataset, a class is not in it or there is nothing to train on, DataStop when records
    are broken and `on_broken` is "stop".
    """
    task = config.architecture.task
    origin = named(config)
    if origin is None:
        origin = Origin(config.run_folder / "data", images=config.images)
        generate(config.run_folder / "data", task, config.seed)
    if config.val is not None:
        held_out = held_out or kept_split(config.run_folder, config.val, config.seed)
    splits = load_splits(
        origin, task, rename=config.rename, classes=config.classes, val=config.val, seed=config.seed, held_out=held_out
    )
    train = sound(splits.train, task, config.on_broken, say=say)
    if (reason := nothing_to_train(splits.train, train, config.classes)) is not None:
        raise DatasetError(reason)
    channels = config.architecture.channels
    val = None if splits.val is None else sound(splits.val, task, config.on_broken, config.intensity, say, channels)
    if val is None:
        say(NO_VALIDATION)
    elif not any((~objects.crowd).any() for objects in val.annotations):
        say(f"{val.name} has no objects: there will be no AP, and no best checkpoint")
    return TrainingData(train, val, splits.held_out)


def named(config: TrainConfig) -> Origin | None:
    """Where the data lie that the configuration names; None where it names none, and they are generated."""
    if config.data is None and not config.annotations:
        return None
    return Origin.of(
        config.data,
        config.annotations,
        config.images,
        config.orientation,
        config.mask_objects,
        config.class_attribute,
    )


def generate(folder: Path, task: Task, seed: int) -> None:
    """Writes a dataset for the task into `folder`: shapes, or figures for keypoints."""
    (write_figures if has_keypoints(task) else write_shapes)(folder, seed=seed)


def sound(
    data: Dataset,
    task: Task,
    on_broken: OnBroken,
    decoded: Intensity | None = None,
    say: Callable[[str], None] = to_stderr,
    channels: int = RGB_CHANNELS,
) -> Dataset:
    """The dataset without broken records; says what was mended and what is left out. decoded: every image is decoded,
    with this rule for more than 8 bits and for so many channels, and those that cannot be are broken records too.

    Raises DataStop where records are broken and not to be skipped, DatasetError where nothing is left.
    """
    for line in mended(data):
        say(line)
    problems = check(data, task)
    if decoded is not None:
        problems += undecodable(openable(data, problems), decoded, channels)
    if not problems:
        return data
    text = f"{data.name} ({data.root}):\n{report(problems)}"
    if on_broken == "stop":
        raise DataStop(f"{text}\nMend them, or go on without them: --on_broken skip")
    say(text)
    return drop_broken(data, problems)


def load_splits(
    origin: Origin | Path,
    task: Task,
    *,
    rename: Mapping[str, str] | None = None,
    classes: Sequence[str] = (),
    val: float | None = None,
    seed: int = 0,
    held_out: HeldOut | None = None,
) -> TrainingData:
    """The splits of a dataset that a training reads, not yet checked; a path is a folder in any format of
    docs/formats.md. A single file of annotations is to train on, whatever its name.

    val is the share of the images that becomes a validation split where there is none: `held_out` where that is of the
    same data, else what `seed` chooses. Classes are renamed, aligned by name, then chosen, as `change_splits` says.
    Raises DatasetError as it does, where there is no training split, and where there is a validation split beside
    `val`.
    """
    located = locate(Origin(origin) if isinstance(origin, Path) else origin, task=task)
    train = located.single or "train"
    if train not in located.splits:
        raise DatasetError(
            f"{origin}, read as {located.format}, has the splits {', '.join(located.splits)}: it needs 'train'"
        )
    found = {"train": located.splits[train]()}
    if "val" in located.splits and train != "val":
        found["val"] = located.splits["val"]()
    unused = [name for name in located.splits if name not in (train, *found, "test")]
    if val is not None:
        require_undivided(found)
        if held_out is None or not held_out.divides(found["train"]):
            held_out = choose(found["train"], val, seed)
        found["train"], found["val"] = divide(found["train"], held_out)
    found = _changed(found, rename=rename or {}, classes=classes)
    if unused:
        note = f"not used in training: the splits {', '.join(unused)}"
        found["train"] = replace(found["train"], notes=(*found["train"].notes, note))
    return TrainingData(found["train"], found.get("val"), held_out)


def load_split(
    origin: Origin,
    task: Task,
    split: str,
    *,
    rename: Mapping[str, str],
    classes: Sequence[str],
) -> Dataset:
    """One split, not yet checked, with the classes of all of them; a single file of annotations is meant whatever its
    name.

    Classes are changed as `change_splits` says. Raises DatasetError as it does, and naming the splits that there are.
    """
    located = locate(origin, task=task)
    found = _changed(located.read(), rename=rename, classes=classes)
    chosen = choose_split(found, located.single or split, origin)
    return replace(chosen, notes=tuple(dict.fromkeys((*chosen.notes, *located.left_out))))


def load_divided(
    origin: Origin, task: Task, val: float, seed: int, *, rename: Mapping[str, str], classes: Sequence[str]
) -> dict[str, Dataset]:
    """All splits, not yet checked, of which "val" is held out; val, seed and the errors are those of `load_splits`."""
    located = locate(origin, task=task)
    found, only = located.read(), located.single
    divided = with_held_out(found if only is None else {"train": found[only]}, val, seed)
    return _changed(divided, rename=rename, classes=classes)


def choose_split(found: Mapping[str, Dataset], split: str, origin: Origin) -> Dataset:
    """One of the splits. Raises DatasetError naming those that there are."""
    if split not in found:
        kind = {"train": "training", "val": "validation"}.get(split, split)
        there = " or ".join(f"--split {name}" for name in found)
        raise DatasetError(f"{origin} has no {kind} split; use {there}, or --val as in its training")
    return found[split]


def _changed(splits: Mapping[str, Dataset], *, rename: Mapping[str, str], classes: Sequence[str]) -> dict[str, Dataset]:
    """Splits by name, with the same classes: renamed, aligned by name, then chosen."""
    renamed = align_classes(change_splits(list(splits.values()), rename=rename, classes=()))
    return dict(zip(splits, change_splits(renamed, rename={}, classes=classes), strict=True))
