"""Small COCO folders for the tests of the dataset check: images of noise with rectangles on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from training.data.annotations.dataset import Dataset
from training.data.formats.coco.reader import load_coco


class Box(NamedTuple):
    """An object: x, y, width, height in pixels, its class 1..C; its mask is a polygon, by default the rectangle."""

    xywh: tuple[float, float, float, float]
    label: int = 1
    crowd: bool = False
    mask: bool = True
    polygon: tuple[float, ...] = ()


def write_split(
    folder: Path,
    split: str,
    pictures: Sequence[np.ndarray | tuple[int, int]],
    boxes: Sequence[Sequence[Box]],
    names: Sequence[str] = ("cat", "dog"),
) -> Dataset:
    """Writes images/SPLIT_NUMBER.png and annotations/instances_SPLIT.json. A picture is its pixels or (width, height),
    which gives noise that no other picture has."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (picture, objects) in enumerate(zip(pictures, boxes, strict=True), 1):
        pixels = noise(picture, seed=number + 1000 * len(split)) if isinstance(picture, tuple) else picture
        file = f"{split}_{number}.png"
        Image.fromarray(pixels).save(folder / "images" / file)
        height, width = pixels.shape[:2]
        images.append({"id": number, "file_name": file, "width": width, "height": height})
        annotations += [_record(len(annotations) + row, number, box) for row, box in enumerate(objects, 1)]
    categories = [{"id": label, "name": name} for label, name in enumerate(names, 1)]
    path = folder / "annotations" / f"instances_{split}.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return load_coco(path, folder / "images")


def noise(size: tuple[int, int], seed: int) -> np.ndarray:
    """uint8 [H, W, 3] of large blotches, which no two seeds share."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return np.array(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))


def _record(id_: int, image_id: int, box: Box) -> dict[str, Any]:
    x, y, width, height = box.xywh
    record = {"id": id_, "image_id": image_id, "category_id": box.label, "bbox": list(box.xywh)}
    record |= {"area": width * height, "iscrowd": int(box.crowd)}
    if box.mask:
        rectangle = (x, y, x + width, y, x + width, y + height, x, y + height)
        record["segmentation"] = [list(box.polygon or rectangle)]
    return record
