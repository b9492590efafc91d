"""Cityscapes: `leftImg8bit/SPLIT/CITY/*_leftImg8bit.png` with `gtFine` instance ids, else polygons.

An instance's pixels hold class id x 1000 + number. Where objects could not be told apart, pixels hold the class id
alone (in polygons: a label that ends in "group"): such regions are read as crowd.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from training.data.annotations.dataset import Dataset, DatasetError
from training.data.annotations.fields import BrokenRecord, get, points, text
from training.data.formats.assemble import Assembly, Found, encode_indices, read_header
from training.data.formats.masks.id_masks import read_indices
from training.data.formats.splits import by_split
from training.data.formats.text_files import read_json

CLASSES: Final[Mapping[int, str]] = {
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
"""The classes that the benchmark's instance task evaluates, by the dataset's own ids."""
UNUSED: Final[Mapping[int, str]] = {29: "caravan", 30: "trailer"}
"""Annotated as instances, but not evaluated: read as background."""
STUFF: Final = frozenset(
    {
        "unlabeled",
        "ego vehicle",
        "rectification border",
        "out of roi",
        "static",
        "dynamic",
        "ground",
        "road",
        "sidewalk",
        "parking",
        "rail track",
        "building",
        "wall",
        "fence",
        "guard rail",
        "bridge",
        "tunnel",
        "pole",
        "polegroup",
        "traffic light",
        "traffic sign",
        "vegetation",
        "terrain",
        "sky",
    }
)
"""Labels without instances. Their polygons still hide what lies behind them."""
LAYOUT: Final = "leftImg8bit/SPLIT/CITY/ with gtFine/SPLIT/CITY/"
UNDRAWN: Final = "license plate"

_IMAGE, _IDS, _POLYGONS = "_leftImg8bit.png", "_gtFine_instanceIds.png", "_gtFine_polygons.json"
_BY_NAME: Final = {name: id_ for id_, name in (*CLASSES.items(), *UNUSED.items())}


def cityscapes_splits(folder: Path) -> tuple[str, ...]:
    """The splits of a Cityscapes folder; none if it is not one."""
    return tuple(_folders(folder))


def load_cityscapes(folder: Path, split: str) -> Dataset:
    """Reads a split: every instance mask is decoded once and kept as RLE.

    Raises DatasetError when the split is not there; broken files are left out and named in `problems`.
    """
    truth = _folders(folder).get(split, folder / "gtFine" / split)
    images = folder / "leftImg8bit" / truth.name
    if not truth.is_dir() or not images.is_dir():
        raise DatasetError(f"{folder} has no Cityscapes split '{split}': looked for the folders {images} and {truth}")
    suffixes = {images: (_IMAGE,), truth: (_IDS, _POLYGONS)}
    stems = {
        path.relative_to(root).as_posix().removesuffix(suffix)
        for root, names in suffixes.items()
        for suffix in names
        for path in root.glob(f"*/*{suffix}")
    }
    assembly = Assembly(f"cityscapes_{split}", images)
    for stem in sorted(stems):
        image = images / f"{stem}{_IMAGE}"
        try:
            header = read_header(image)
            ids, polygons = truth / f"{stem}{_IDS}", truth / f"{stem}{_POLYGONS}"
            if ids.is_file():
                indices, source = read_indices(ids, header), ids
            elif polygons.is_file():
                indices, source = _draw(read_json(polygons), polygons, (header.width, header.height)), polygons
            else:
                raise BrokenRecord(
                    "missing file", f"{image} has neither {ids.name} nor {polygons.name} in {ids.parent}"
                )
            assembly.add(image, header.width, header.height, _objects(indices, source))
        except BrokenRecord as broken:
            assembly.broken(broken, image)
    return assembly.finish(tuple(CLASSES.values()))


def _folders(folder: Path) -> dict[str, Path]:
    """The folders of gtFine by split."""
    inside = (folder / "gtFine").iterdir() if (folder / "gtFine").is_dir() else ()
    return by_split((path.name, path) for path in inside if path.is_dir())


def _objects(indices: NDArray[np.int64], source: Path) -> list[Found]:
    found = []
    for value, rle in encode_indices(indices).items():
        class_id = value // 1000 or value
        if value >= 1000 and class_id not in CLASSES and class_id not in UNUSED:
            raise BrokenRecord(
                "bad mask",
                f"{source} holds the value {value}, but class {class_id} has no instances: is it instanceIds?",
            )
        if class_id in CLASSES:
            found.append(Found(CLASSES[class_id], rle, crowd=value < 1000))
    return found


def _draw(document: Any, source: Path, size: tuple[int, int]) -> NDArray[np.int64]:
    """Instance ids [H, W] from polygons, later ones over earlier ones, as the dataset's own tools draw them."""
    width, height = (get(document, key, str(source)) for key in ("imgWidth", "imgHeight"))
    if (width, height) != size:
        raise BrokenRecord(
            "size mismatch", f"{source} is for {width}x{height} pixels, its image has {size[0]}x{size[1]}"
        )
    objects = get(document, "objects", str(source))
    if not isinstance(objects, list):
        raise BrokenRecord("wrong type", f"'objects' of {source} is no list")
    canvas = Image.new("I", size)
    draw = ImageDraw.Draw(canvas)
    counts = dict.fromkeys(_BY_NAME.values(), 0)
    for index, record in enumerate(objects):
        where = f"objects[{index}] of {source}"
        label = text(record, "label", where)
        if record.get("deleted") or label == UNDRAWN:
            continue
        single = label.removesuffix("group") if label not in STUFF else label
        if single not in STUFF and single not in _BY_NAME:
            raise BrokenRecord("unknown category", f"{where} is '{label}', which Cityscapes does not have")
        value = _BY_NAME.get(single, 0)
        if value and single == label:
            counts[value] += 1
            value = value * 1000 + counts[value] - 1
        draw.polygon(_points(record, where), fill=value)
    return np.array(canvas).astype(np.int64)


def _points(record: Any, where: str) -> list[tuple[float, float]]:
    ring = points(get(record, "polygon", where), f"'polygon' of {where}")
    if len(ring) < 3 or not np.isfinite(ring).all():
        raise BrokenRecord("bad polygon", f"'polygon' of {where} needs 3 finite points or more, it has {len(ring)}")
    return [(x, y) for x, y in ring.tolist()]
