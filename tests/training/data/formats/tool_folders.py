"""Small datasets as annotation tools lay them down: two classes, two red objects and one green on every image."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tests.training.data.formats.samples import write_ids, write_json

WIDTH, HEIGHT = 40, 30
NAMES = ("red", "green")


class Box(NamedTuple):
    label: int
    x: int
    y: int
    width: int
    height: int

    @property
    def corners(self) -> list[list[int]]:
        right, bottom = self.x + self.width, self.y + self.height
        return [[self.x, self.y], [right, self.y], [right, bottom], [self.x, bottom]]


BOXES = (Box(0, 2, 3, 10, 8), Box(1, 20, 4, 9, 12), Box(0, 5, 16, 12, 10))


def pictures(folder: Path, *names: str, shade: int = 40) -> tuple[str, ...]:
    """Writes images, by default 0.png and 1.png, each with its objects; their names."""
    names = names or ("0.png", "1.png")
    for number, name in enumerate(names):
        pixels = np.full((HEIGHT, WIDTH, 3), shade + number, np.uint8)
        for box in BOXES:
            pixels[box.y : box.y + box.height, box.x : box.x + box.width, box.label] = 220
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    return names


def coco(file: Path, names: Sequence[str], **changes: Any) -> None:
    """COCO JSON; `names` are the file_names."""
    annotations = [
        {
            "id": 3 * image + number,
            "image_id": image,
            "category_id": box.label + 1,
            "bbox": box[1:],
            "area": box.width * box.height,
            "iscrowd": 0,
            "segmentation": [np.ravel(box.corners).tolist()],
        }
        for image in range(len(names))
        for number, box in enumerate(BOXES, 1)
    ]
    images = [{"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT} for number, name in enumerate(names)]
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES, 1)]
    write_json(file, {"images": images, "annotations": annotations, "categories": categories} | changes)


def labelme(folder: Path, *names: str, kind: str = "polygon", prefix: str = "", embed: bool = False) -> None:
    """LabelMe's JSON for images called `names`, which lie in `prefix`; embed: and only in the JSON."""
    for name in names:
        shapes: list[dict[str, Any]] = [
            {"label": NAMES[box.label], "points": box.corners, "shape_type": kind, "group_id": None, "flags": {}}
            for box in BOXES
        ]
        document: dict[str, Any] = {
            "shapes": shapes,
            "imagePath": prefix + name,
            "imageWidth": WIDTH,
            "imageHeight": HEIGHT,
        }
        if embed:
            content = BytesIO()
            Image.new("RGB", (WIDTH, HEIGHT), (0, 0, names.index(name))).save(content, "PNG")
            document["imageData"] = base64.b64encode(content.getvalue()).decode()
        write_json(folder / Path(name).with_suffix(".json"), document)


def yolo(folder: Path, *names: str) -> None:
    """Label files for images called `names`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        shares = [(box.label, np.array(box.corners) / [WIDTH, HEIGHT]) for box in BOXES]
        lines = [f"{label} {' '.join(map(str, points.ravel()))}\n" for label, points in shares]
        (folder / name).with_suffix(".txt").write_text("".join(lines))


def via_images(names: Sequence[str], attribute: str = "class") -> dict[str, Any]:
    """VIA 2's JSON."""
    regions = [
        {
            "shape_attributes": {
                "name": "polygon",
                "all_points_x": [x for x, _ in box.corners],
                "all_points_y": [y for _, y in box.corners],
            },
            "region_attributes": {attribute: NAMES[box.label]},
        }
        for box in BOXES
    ]
    return {f"{name}9": {"filename": name, "size": 9, "regions": regions, "file_attributes": {}} for name in names}


def via_csv(file: Path, names: Sequence[str], first: str = "filename") -> None:
    """first: what the first column is called."""
    columns = f"{first},file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
    with file.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(columns.split(","))
        for image in via_images(names).values():
            for number, region in enumerate(image["regions"]):
                shape, attributes = (json.dumps(region[key]) for key in ("shape_attributes", "region_attributes"))
                table.writerow([image["filename"], 9, "{}", len(image["regions"]), number, shape, attributes])


def via_3(file: Path, names: Sequence[str]) -> None:
    metadata = {
        f"{image}_{number}": {"vid": str(image), "z": [], "xy": [2, *box[1:]], "av": {"1": str(box.label)}}
        for image in range(len(names))
        for number, box in enumerate(BOXES)
    }
    write_json(
        file,
        {
            "project": {"data_format_version": "3.1.1"},
            "attribute": {"1": {"aname": "class", "type": 4, "options": dict(zip("01", NAMES, strict=True))}},
            "file": {str(n): {"fid": n, "fname": name, "type": 2, "src": name} for n, name in enumerate(names)},
            "view": {str(n): {"fid_list": [str(n)]} for n in range(len(names))},
            "metadata": metadata,
        },
    )


def ids() -> np.ndarray:
    """int64 [H, W] of 1, 2, 3."""
    found = np.zeros((HEIGHT, WIDTH), np.int64)
    for number, box in enumerate(BOXES, 1):
        found[box.y : box.y + box.height, box.x : box.x + box.width] = number
    return found


def object_masks(folder: Path) -> None:
    """A PNG of 0 and 255 for each object."""
    for number in (1, 2, 3):
        write_ids(folder / f"{number}.png", (ids() == number) * 255)


def cvat_masks(folder: Path, names: Sequence[str]) -> None:
    """CVAT's "Segmentation mask": colors for classes and objects; green is pure blue, which VOC's void would be."""
    colors = np.array([[0, 0, 0], [250, 50, 83], [0, 0, 255]], np.uint8)
    objects = np.array([[0, 0, 0], [128, 0, 0], [0, 0, 255], [0, 128, 0]], np.uint8)
    classes = np.array([0, *(box.label + 1 for box in BOXES)])
    for kind, picture in (("SegmentationClass", colors[classes[ids()]]), ("SegmentationObject", objects[ids()])):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for name in names:
            Image.fromarray(picture).save((folder / kind / name).with_suffix(".png"))
    lines = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nred:250,50,83::\ngreen:0,0,255::\n"
    (folder / "labelmap.txt").write_text(lines)
    (folder / "ImageSets/Segmentation").mkdir(parents=True)
    (folder / "ImageSets/Segmentation/default.txt").write_text("".join(f"{Path(name).stem}\n" for name in names))
