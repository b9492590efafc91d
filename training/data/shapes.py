"""A dataset of plain shapes on textured ground, generated in code: for demos, tests and the default training run.

    python -m training.data.shapes DIR --train 1000 --val 100 --seed 0

Writes PNG images and COCO JSON (compressed RLE, exact visible masks) that `training.data.formats.coco.reader` reads.
Objects overlap, touch and have holes; form alone tells the classes apart, colours are random. Every image follows from
(seed, split, number) alone.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

# First, for it says in one line which package of the others is missing.
from model.console.running import interruptible

# isort: split
import numpy as np
from faster_coco_eval import mask as mask_api
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from model.console.arguments import Parser, whole

SIDES = (128, 160, 192)
"""Image widths and heights, in pixels."""
RADII = (14, 34)
"""Smallest and largest radius of an object, in pixels."""
MOST_OBJECTS = 5
VISIBLE = 0.5
"""Share of an object that later ones must leave visible: what is left can still be told by its form."""
MARKER = "shapes.json"
FORMAT = 1
"""Raise it when the same seed gives other images."""

Coordinates = NDArray[np.float64]


def _circle(u: Coordinates, v: Coordinates) -> NDArray[np.bool_]:
    return u**2 + v**2 <= 1


def _square(u: Coordinates, v: Coordinates) -> NDArray[np.bool_]:
    return np.maximum(np.abs(u), np.abs(v)) <= 0.8


def _triangle(u: Coordinates, v: Coordinates) -> NDArray[np.bool_]:
    """Equilateral, corners on the unit circle."""
    return (v <= 0.5) & (3**0.5 * np.abs(u) - v <= 1)


def _ring(u: Coordinates, v: Coordinates) -> NDArray[np.bool_]:
    distance = u**2 + v**2
    return (distance <= 1) & (distance >= 0.5**2)


FORMS: dict[str, Callable[[Coordinates, Coordinates], NDArray[np.bool_]]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "ring": _ring,
}
"""Class names in the order of their labels 1..C, and whether a point in units of the radius lies inside the form."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One generated image: uint8 [H, W, 3] RGB, labels int64 [N] (1..C), masks bool [N, H, W] of visible pixels."""

    image: NDArray[np.uint8]
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class _Object:
    """One drawn object: center (x, y), radius and area before anything hid it in pixels, visible bool [H, W]."""

    label: int
    center: Coordinates
    radius: float
    color: Coordinates
    area: int
    visible: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ShapesConfig:
    """What a generated folder holds, kept in its shapes.json."""

    train: int
    val: int
    seed: int
    format: int = FORMAT


def make_scene(rng: Generator) -> Scene:
    """Draws one scene: up to 6 objects, and every twelfth time none."""
    height, width = (int(side) for side in rng.choice(SIDES, 2))
    ground = rng.uniform(40, 215) + rng.uniform(-25, 25, 3)
    texture = _texture(rng, height, width)
    image = ground + texture
    size = np.array([width, height])
    count = 0 if rng.random() < 1 / 12 else int(rng.integers(1, MOST_OBJECTS + 1))
    objects: list[_Object] = []
    for _ in range(count):
        label = int(rng.integers(1, len(FORMS) + 1))
        radius = float(rng.uniform(*RADII))
        center = rng.uniform(0.7 * radius, size - 0.7 * radius)
        if objects and rng.random() < 0.25:
            center = _beside(rng, objects[-1], radius)
        angle = rng.uniform(0, 2 * np.pi)
        color = _contrasting(rng, ground, [other.color for other in objects])
        mask = _rasterize(label, center, radius, angle, height, width)
        left = [other.visible & ~mask for other in objects]
        hidden = any(part.sum() < VISIBLE * other.area for part, other in zip(left, objects, strict=True))
        outside = ((center < 0.7 * radius) | (center > size - 0.7 * radius)).any()
        if hidden or outside:
            continue
        image[mask] = color + 0.4 * texture[mask]
        objects = [replace(other, visible=part) for other, part in zip(objects, left, strict=True)]
        objects.append(_Object(label, center, radius, color, int(mask.sum()), mask))
    masks = np.array([item.visible for item in objects], np.bool_).reshape(-1, height, width)
    return Scene(image.clip(0, 255).astype(np.uint8), np.array([item.label for item in objects], np.int64), masks)


def write_shapes(directory: Path, train: int = 1000, val: int = 100, seed: int = 0) -> None:
    """Writes images/ and annotations/instances_{train,val}.json into `directory`; nothing if they are there already.

    The folder appears complete or not at all. Raises FileExistsError when it holds anything but generated shapes.
    """
    config = ShapesConfig(train, val, seed)
    marker = directory / MARKER
    if marker.is_file():
        if json.loads(marker.read_text()) == asdict(config):
            return
    elif directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(f"{directory} holds something other than generated shapes: choose a new folder")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".shapes-", dir=directory.parent) as scratch:
        folder = Path(scratch) / "shapes"
        for number, (split, count) in enumerate((("train", train), ("val", val))):
            _write_split(folder, split, [np.random.default_rng([seed, number, index]) for index in range(count)])
        (folder / MARKER).write_text(json.dumps(asdict(config)))
        if directory.exists():
            shutil.rmtree(directory)
        folder.rename(directory)


def _write_split(folder: Path, split: str, generators: list[Generator]) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    for image_id, rng in enumerate(generators, 1):
        scene = make_scene(rng)
        height, width = scene.image.shape[:2]
        file = f"{split}_{image_id:05d}.png"
        Image.fromarray(scene.image).save(folder / "images" / file, compress_level=1)
        images.append({"id": image_id, "file_name": file, "width": width, "height": height})
        for label, mask in zip(scene.labels, scene.masks, strict=True):
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image_id, "category_id": int(label), **_mask_record(mask)}
            )
    document = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": label, "name": name} for label, name in enumerate(FORMS, 1)],
    }
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))


def _mask_record(mask: NDArray[np.bool_]) -> dict[str, Any]:
    rle = mask_api.encode(np.asfortranarray(mask, np.uint8))
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    left, top = int(columns[0]), int(rows[0])
    return {
        "iscrowd": 0,
        "area": int(mask.sum()),
        "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
        "segmentation": {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")},
    }


def _rasterize(
    label: int, center: NDArray[np.float64], radius: float, angle: float, height: int, width: int
) -> NDArray[np.bool_]:
    """bool [H, W]: pixels whose middle lies in the form, turned by angle (radians) about center (x, y)."""
    y, x = np.mgrid[:height, :width] + 0.5
    x, y = (x - center[0]) / radius, (y - center[1]) / radius
    cosine, sine = np.cos(angle), np.sin(angle)
    form = list(FORMS.values())[label - 1]
    return form(cosine * x + sine * y, cosine * y - sine * x)


def _beside(rng: Generator, other: _Object, radius: float) -> Coordinates:
    """A center from which an object of this radius touches the other, whole circles at least."""
    angle = rng.uniform(0, 2 * np.pi)
    return other.center + (other.radius + radius) * np.array([np.cos(angle), np.sin(angle)])


def _texture(rng: Generator, height: int, width: int) -> Coordinates:
    """float64 [H, W, 1] around 0: blotches of about 14 levels and grain of about 6."""
    coarse = rng.normal(0, 14, (height // 16 + 1, width // 16 + 1))
    blotches = np.asarray(Image.fromarray(coarse.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC))
    texture: Coordinates = blotches + rng.normal(0, 6, (height, width))
    return texture[:, :, None]


def _contrasting(rng: Generator, ground: Coordinates, others: list[Coordinates]) -> Coordinates:
    """An RGB color that is 60 levels brighter or darker than the ground, and differs by as much from each object's."""
    while True:
        color = rng.uniform(0, 255, 3)
        distinct = all(np.abs(color - other).max() >= 60 for other in others)
        if distinct and abs(color.mean() - ground.mean()) >= 60:
            return color


def main() -> int:
    """The command line."""
    parser = Parser(description="Generate the shapes dataset.")
    parser.add_argument("directory", type=Path, help="folder to write; it must be new, empty or generated before")
    parser.add_argument("--train", type=whole(1), default=1000, help="training images (default 1000)")
    parser.add_argument("--val", type=whole(0), default=100, help="validation images (default 100)")
    parser.add_argument("--seed", type=whole(0), default=0, help="same seed, same images (default 0)")
    arguments = parser.parse_args()
    write_shapes(arguments.directory, arguments.train, arguments.val, arguments.seed)
    print(f"{arguments.train} + {arguments.val} images in {arguments.directory}")
    return 0


if __name__ == "__main__":
    sys.exit(interruptible(main))
