"""The images that a model has not learned from, where its training held them out of the data (`--val`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from model.architecture import Task
from training.data.annotations.classes import order_classes
from training.data.annotations.dataset import Dataset, DatasetError
from training.data.checking.content import fingerprint
from training.data.loading.source import sound


@dataclass(frozen=True, slots=True)
class Learned:
    """What a model knows of its training: the fingerprint of the images that it has learned from, and what divided the
    data. share is None where nothing was held out, or where nobody knows."""

    fingerprint: str
    seed: int
    share: float | None = None


@dataclass(frozen=True, slots=True)
class OwnSplit:
    """The splits of a dataset, and what to say of how they were made."""

    splits: dict[str, Dataset]
    line: str


def divide_as_in_training(
    read: Callable[[float, int], dict[str, Dataset]],
    learned: Learned | None,
    asked: tuple[float, int],
    task: Task,
    class_names: tuple[str, ...],
) -> OwnSplit:
    """Divides the data by share and seed of the model's training, if that gives what it has learned from; otherwise as
    `asked`, with a warning. read makes the splits by share and seed. Raises what it does.
    """
    share, seed = asked
    own = asked if learned is None else (learned.share or share, learned.seed)
    for way in dict.fromkeys((own, asked)):
        splits = read(*way)
        if learned is not None and _has_learned(splits, learned, task, class_names):
            said = "" if way == asked else f", not --val {share:g} --seed {seed}"
            return OwnSplit(splits, f"the split of the model's training: --val {way[0]:g} --seed {way[1]}{said}")
    warning = (
        f"warning: --val {share:g} --seed {seed} does not give the images that the model has learned from, or it does "
        f"not say which: it may have learned from those that it is evaluated on"
    )
    return OwnSplit(splits, warning)


def _has_learned(splits: Mapping[str, Dataset], learned: Learned, task: Task, class_names: tuple[str, ...]) -> bool:
    try:
        train = sound(splits["train"], task, "skip", say=lambda line: None)
        return fingerprint(order_classes(train, class_names)) == learned.fingerprint
    except (DatasetError, OSError):  # nothing of it is left, or can be read: it is other data
        return False
