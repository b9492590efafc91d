"""Small datasets of every format, written by the tests, and what was read of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageOps

from training.data.annotations.dataset import Dataset

WIDTH, HEIGHT = 30, 20
SQUARE = [[2, 1], [12, 1], [12, 9], [2, 9]]
ORIENTATION = 0x0112


def write_image(path: Path, orientation: int = 1, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.new("RGB", size).save(path, exif=exif)
    return path


def write_ids(path: Path, ids: np.ndarray, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids.astype(np.uint16 if ids.max() > 255 else np.uint8))
    if mode == "P":
        image.putpalette(bytes(range(256)) * 3)
    (image if mode in ("L", "P") else image.convert(mode)).save(path)


def two_objects(first: int = 1, second: int = 2) -> np.ndarray:
    """A square with a hole, and an object in two parts."""
    ids = np.zeros((HEIGHT, WIDTH), np.int64)
    ids[1:9, 2:12] = first
    ids[3:6, 5:8] = 0
    ids[12:15, 3:6] = ids[12:15, 20:24] = second
    return ids


def masks_of(data: Dataset, image: int = 0) -> np.ndarray:
    record = data.images[image]
    return data.annotations[image].masks(record.height, record.width)


def names_of(data: Dataset, image: int = 0) -> list[str]:
    return [data.class_names[label - 1] for label in data.annotations[image].labels]


def write_json(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")


def cityscapes(folder: Path, ids: np.ndarray | None) -> None:
    write_image(folder / "leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png")
    (folder / "gtFine/train/ulm").mkdir(parents=True, exist_ok=True)
    if ids is not None:
        write_ids(folder / "gtFine/train/ulm/ulm_000000_000019_gtFine_instanceIds.png", ids)


def voc(folder: Path, objects: np.ndarray, classes: np.ndarray, mode: str = "P") -> None:
    write_image(folder / "JPEGImages/a.jpg")
    write_ids(folder / "SegmentationObject/a.png", objects, mode)
    write_ids(folder / "SegmentationClass/a.png", classes, mode)


def labelme(folder: Path, *shapes: Any, orientation: int = 1, **changes: Any) -> None:
    image = write_image(folder / "a b.jpg", orientation)
    seen = ImageOps.exif_transpose(Image.open(image)).size
    document = {"shapes": list(shapes), "imagePath": "a b.jpg", "imageWidth": seen[0], "imageHeight": seen[1]}
    write_json(folder / "a b.json", document | changes)


def shape(label: Any = "cat", points: Any = SQUARE, **changes: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": "polygon", "flags": {}} | changes


def via(folder: Path, *regions: Any, orientation: int = 1) -> None:
    write_image(folder / "é.png", orientation)
    write_json(folder / "via_region_data.json", {"é.png9": {"filename": "é.png", "size": 9, "regions": list(regions)}})


def region(attributes: Any = None, **outline: Any) -> dict[str, Any]:
    polygon = {"name": "polygon", "all_points_x": [2, 12, 12, 2], "all_points_y": [1, 1, 9, 9]}
    return {
        "shape_attributes": outline or polygon,
        "region_attributes": {"class": "cat"} if attributes is None else attributes,
    }


def yolo(folder: Path, text: str | None, orientation: int = 1, names: Any = ("cat", "dog")) -> None:
    write_image(folder / "images/train/a.jpg", orientation)
    (folder / "labels/train").mkdir(parents=True, exist_ok=True)
    if text is not None:
        (folder / "labels/train/a.txt").write_text(text)
    (folder / "data.yaml").write_text(
        yaml.safe_dump({"path": "/elsewhere", "train": "images/train", "names": list(names)})
    )


def yolo_line(label: int, points: Any, width: int = WIDTH, height: int = HEIGHT) -> str:
    return f"{label} " + " ".join(str(value) for value in (np.array(points) / [width, height]).ravel()) + "\n"
