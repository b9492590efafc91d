"""The dataset formats by name, and which of them a folder holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from training.data.annotations.dataset import Dataset, DatasetError
from training.data.formats.coco import layouts
from training.data.formats.coco.writer import save_coco
from training.data.formats.labelme import reader as labelme
from training.data.formats.masks import cityscapes, instance_png, object_png, voc
from training.data.formats.via import reader as via
from training.data.formats.writing import Placed, Placement
from training.data.formats.yolo import reader as yolo


@dataclass(frozen=True, slots=True)
class Format:
    """One format. layout is how it lies, for messages; splits says which splits a folder has in it, none where it is
    another format; load reads one of them; save adds one to a folder; left_out says what of a folder is in no split."""

    name: str
    layout: str
    splits: Callable[[Path], tuple[str, ...]]
    load: Callable[[Path, str], Dataset]
    save: Callable[[Dataset, Path, str, Placement], Placed] | None = None
    left_out: Callable[[Path], list[str]] = lambda _: []


FORMATS = (
    Format("coco", layouts.LAYOUT, layouts.coco_splits, layouts.load_coco_split, save_coco),
    Format("coco_keypoints", layouts.KEYPOINTS, layouts.keypoint_splits, layouts.load_keypoint_split, save_coco),
    Format("cityscapes", cityscapes.LAYOUT, cityscapes.cityscapes_splits, cityscapes.load_cityscapes),
    Format("voc", voc.LAYOUT, voc.voc_splits, voc.load_voc, voc.save_voc),
    Format(
        "object_png",
        object_png.LAYOUT,
        object_png.object_png_splits,
        object_png.load_object_png,
        left_out=object_png.object_png_left_out,
    ),
    Format("yolo", yolo.LAYOUT, yolo.yolo_splits, yolo.load_yolo, yolo.save_yolo, yolo.yolo_left_out),
    Format(
        "instance_png",
        instance_png.LAYOUT,
        instance_png.instance_png_splits,
        instance_png.load_instance_png,
        instance_png.save_instance_png,
        instance_png.instance_png_left_out,
    ),
    Format(
        "labelme",
        labelme.LAYOUT,
        labelme.labelme_splits,
        labelme.load_labelme,
        labelme.save_labelme,
        labelme.labelme_left_out,
    ),
    Format("via", via.LAYOUT, via.via_splits, via.load_via, via.save_via),
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
