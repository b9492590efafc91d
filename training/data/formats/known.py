"""The dataset formats by name, and which of them a folder holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from training.data.annotations.classes import align_classes
from training.data.annotations.dataset import Dataset, DatasetError
from training.data.formats.cityscapes import cityscapes_splits, load_cityscapes
from training.data.formats.coco.writer import (
    coco_splits,
    keypoint_splits,
    load_coco_split,
    load_keypoint_split,
    save_coco,
)
from training.data.formats.instance_png import instance_png_splits, load_instance_png, save_instance_png
from training.data.formats.labelme import labelme_splits, load_labelme, save_labelme
from training.data.formats.via.reader import load_via, save_via, via_splits
from training.data.formats.voc import load_voc, save_voc, voc_splits
from training.data.formats.writing import Placement
from training.data.formats.yolo import load_yolo, save_yolo, yolo_splits


@dataclass(frozen=True, slots=True)
class Format:
    """One format. splits says which splits a folder has in it, none where it is another format; load reads one of them;
    save adds one to a folder and says what it cannot hold."""

    name: str
    splits: Callable[[Path], tuple[str, ...]]
    load: Callable[[Path, str], Dataset]
    save: Callable[[Dataset, Path, str, Placement], list[str]] | None = None


FORMATS = (
    Format("coco", coco_splits, load_coco_split, save_coco),
    Format("coco_keypoints", keypoint_splits, load_keypoint_split, save_coco),
    Format("cityscapes", cityscapes_splits, load_cityscapes),
    Format("voc", voc_splits, load_voc, save_voc),
    Format("yolo", yolo_splits, load_yolo, save_yolo),
    Format("instance_png", instance_png_splits, load_instance_png, save_instance_png),
    Format("labelme", labelme_splits, load_labelme, save_labelme),
    Format("via", via_splits, load_via, save_via),
)
"""In the order in which a folder is asked for them."""
NAMES = tuple(form.name for form in FORMATS)
WRITABLE = tuple(form.name for form in FORMATS if form.save is not None)


def find_format(name: str) -> Format:
    """The format called `name`. Raises DatasetError naming those that there are."""
    for form in FORMATS:
        if form.name == name:
            return form
    raise DatasetError(f"there is no dataset format '{name}'; there are {', '.join(NAMES)}")


def detect_format(folder: Path) -> Format | None:
    """The format of a folder; None where it holds none of them."""
    return next((form for form in FORMATS if form.splits(folder)), None)


def load_dataset(folder: Path, form: Format) -> dict[str, Dataset]:
    """All splits of a folder by name, with the same classes.

    Raises DatasetError where the folder does not hold this format.
    """
    splits = form.splits(folder)
    if not splits:
        raise DatasetError(f"{folder} is no dataset of the format {form.name}; docs/formats.md says how it lies")
    return dict(zip(splits, align_classes([form.load(folder, split) for split in splits]), strict=True))
