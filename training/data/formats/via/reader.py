"""VGG Image Annotator (VIA 1, 2, 3): regions beside the images, as the exported JSON or CSV or the project has them.

VIA runs in the browser, which shows pictures with their EXIF orientation applied. Polygons, polylines, rectangles,
circles and ellipses are areas. The class is the region attribute that is asked for, or named class, label, name, type
or category, or the only one there is; "object" where regions have none. Our own addition is the attribute "crowd".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.annotations.dataset import Dataset, DatasetError
from training.data.annotations.fields import BrokenRecord, get, numbers, text
from training.data.annotations.orientation import points_to_stored
from training.data.formats.assemble import (
    Assembly,
    Found,
    Header,
    as_polygons,
    ellipse,
    read_header,
    rectangle,
)
from training.data.formats.image_files import Wanted, find_images
from training.data.formats.splits import split_folders
from training.data.formats.via.documents import Record, read_images
from training.data.formats.writing import Placed, Placement, outlines, place_images

CLASS_ATTRIBUTES = ("class", "label", "name", "type", "category")
"""Looked for in this order, whatever the case."""
DEFAULT_CLASS = "object"
FILE = "via_region_data.json"
CROWD = "crowd"
LAYOUT = "VIA's JSON, CSV or project beside the images; with folders for splits or without"


def via_splits(folder: Path) -> tuple[str, ...]:
    """The splits of a VIA folder, by its folders, or "train" for the folder itself; none if it is not one."""
    return tuple(split_folders(folder, _via_files))


def load_via(folder: Path, split: str, class_attribute: str | None = None) -> Dataset:
    """Reads the VIA files of a split; classes are sorted by name.

    Raises DatasetError when the split is not there and where two files annotate an image differently; broken records
    are left out and named in `problems`.
    """
    root = split_folders(folder, _via_files).get(split)
    if root is None:
        raise DatasetError(f"{folder} has no VIA split '{split}': looked for {LAYOUT}")
    return load_via_files(_via_files(root), root, f"via_{split}", class_attribute)


def load_via_files(
    files: Sequence[Path], root: Path, name: str = "via_train", class_attribute: str | None = None
) -> Dataset:
    """Reads VIA files whose images lie in `root`. class_attribute: the region attribute that is the class.

    Raises DatasetError as `load_via` does.
    """
    assembly = Assembly(name, root)
    sources: dict[str, tuple[Path, Record]] = {}
    attributes = {}
    for file in files:
        try:
            records = read_images(file) or []
        except BrokenRecord as broken:
            raise DatasetError(broken.message) from None
        attributes[file] = _class_attribute(records, class_attribute)
        for index, record in enumerate(records):
            try:
                key = text(record, "filename", f"image {index} of {file}")
            except BrokenRecord as broken:
                assembly.broken(broken, file)
                continue
            other, known = sources.setdefault(key, (file, record))
            if known is record:
                continue
            if other == file:
                message = f"image {index} of {file}, {key}, is listed before; this one is left out"
                assembly.broken(BrokenRecord("duplicate id", message), file)
            elif _regions(known) != _regions(record):
                raise DatasetError(
                    f"{other} and {file} annotate {key} differently: choose one of them with --annotations FILE"
                )
    unused = [file.name for file in files if all(other != file for other, _ in sources.values())]
    assembly.notes += [f"{one} says the same as the other VIA files and is left out" for one in unused]
    bases = (root, *dict.fromkeys(file.parent for file in files))
    images = find_images([Wanted(key, bases) for key in sources], root)
    assembly.notes += images.notes
    for image, (key, (file, record)) in zip(images.paths, sources.items(), strict=True):
        if isinstance(image, BrokenRecord):
            assembly.broken(image, root / key)
            continue
        try:
            header = read_header(image)
            found = list(_objects(record, f"{image.name} in {file}", attributes[file], header, assembly, image))
            assembly.add(image, header.width, header.height, found)
        except BrokenRecord as broken:
            assembly.broken(broken, image)
    return assembly.finish(assembly.found_names)


def is_via(file: Path) -> bool:
    """Whether a file is VIA's JSON, project or CSV."""
    try:
        return read_images(file) is not None
    except BrokenRecord:
        return False


def save_via(data: Dataset, folder: Path, split: str, placement: Placement) -> Placed:
    """Writes images and `via_region_data.json` into `folder/SPLIT`.

    Each object is one polygon: its holes and parts are joined by cuts of no width. Boxes become rectangles.
    """
    target = folder / split
    placed = place_images(data, target, placement, flat=True, stems=False)
    document: dict[str, Any] = {}
    for record, objects, file in zip(data.images, data.annotations, placed.files, strict=True):
        header = read_header(record.path)
        regions = []
        for row in range(len(objects)):
            attributes = {"class": data.class_names[objects.labels[row] - 1]}
            if objects.crowd[row]:
                attributes[CROWD] = "true"
            for ring in outlines(header, objects, row, join=True):
                shape = {"name": "polygon", "all_points_x": ring[:, 0].tolist(), "all_points_y": ring[:, 1].tolist()}
                regions.append({"shape_attributes": shape, "region_attributes": attributes})
        size = (target / file).stat().st_size
        document[f"{file}{size}"] = {"filename": file, "size": size, "regions": regions, "file_attributes": {}}
    (target / FILE).write_text(json.dumps(document), encoding="utf-8")
    return placed


def _via_files(folder: Path) -> list[Path]:
    return [file for file in sorted((*folder.glob("*.json"), *folder.glob("*.csv"))) if is_via(file)]


def _regions(record: Any) -> list[Any]:
    """VIA 1 numbers its regions in an object, VIA 2 has a list."""
    regions = record.get("regions") if isinstance(record, dict) else None
    if isinstance(regions, dict):
        return list(regions.values())
    return regions if isinstance(regions, list) else []


def _class_attribute(records: list[Any], wanted: str | None) -> str | None:
    """The region attribute that names the class in this file; None where regions have no attribute."""
    names: dict[str, None] = {}
    for record in records:
        for region in _regions(record):
            attributes = region.get("region_attributes") if isinstance(region, dict) else None
            names |= dict.fromkeys(attributes if isinstance(attributes, dict) else ())
    if wanted is not None:
        if wanted not in names:
            there = ", ".join(sorted(names)) or "none"
            raise DatasetError(f"VIA's regions have no attribute '{wanted}' (--class_attribute); there is: {there}")
        return wanted
    known = {name.lower(): name for name in names}
    for name in CLASS_ATTRIBUTES:
        if name in known:
            return known[name]
    others = [name for name in names if name.lower() not in (CROWD, "iscrowd")]
    if len(others) > 1:
        raise DatasetError(
            f"VIA's regions have the attributes {', '.join(sorted(others))}: say with "
            f"--class_attribute NAME which one is the class"
        )
    return others[0] if others else None


def _objects(
    record: Any, where: str, attribute: str | None, header: Header, assembly: Assembly, image: Path
) -> Iterator[Found]:
    for index, region in enumerate(_regions(record)):
        place = f"region {index} of {where}"
        try:
            attributes = get(region, "region_attributes", place)
            if not isinstance(attributes, dict):
                raise BrokenRecord("wrong type", f"'region_attributes' of {place} is no JSON object")
            label = DEFAULT_CLASS if attribute is None else _class(attributes.get(attribute), attribute, place)
            points = _outline(get(region, "shape_attributes", place), place, assembly)
            points = points_to_stored(points, (header.width, header.height), header.orientation)
            crowd = str(attributes.get(CROWD, "")).lower() in ("1", "true", "yes")
            yield Found(label, as_polygons([points], place), crowd)
        except BrokenRecord as broken:
            assembly.broken(broken, image)


def _class(value: Any, attribute: str, where: str) -> str:
    if isinstance(value, dict):  # check boxes
        chosen = [name for name, checked in value.items() if checked]
        value = chosen[0] if len(chosen) == 1 else None
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise BrokenRecord(
            "unknown category", f"{where} has no single '{attribute}', which names its class: choose one"
        )
    return value


def _outline(shape: Any, where: str, assembly: Assembly) -> NDArray[np.float64]:
    """float64 [P, 2] in pixels of the picture as seen."""
    kind = text(shape, "name", where)
    if kind in ("polygon", "polyline"):
        columns = [numbers(get(shape, f"all_points_{axis}", where), f"all_points_{axis} of {where}") for axis in "xy"]
        if len(columns[0]) != len(columns[1]):
            raise BrokenRecord("bad polygon", f"{where} has {len(columns[0])} x and {len(columns[1])} y coordinates")
        return np.stack(columns, axis=1)
    if kind == "rect":
        return rectangle(*_sides(shape, ("x", "y", "width", "height"), where))
    if kind == "circle":
        x, y, radius = _sides(shape, ("cx", "cy", "r"), where)
        return ellipse(x, y, radius, radius)
    if kind == "ellipse":
        x, y, radius_x, radius_y = _sides(shape, ("cx", "cy", "rx", "ry"), where)
        turn = _sides(shape, ("theta",), where)[0] if "theta" in shape else 0.0
        return ellipse(x, y, radius_x, radius_y, turn)
    assembly.unread[kind] += 1
    raise BrokenRecord("no mask", f"{where} is a {kind}, which covers no area: draw a polygon, or delete it")


def _sides(shape: Any, keys: tuple[str, ...], where: str) -> list[float]:
    return [float(value) for value in numbers([get(shape, key, where) for key in keys], f"{'/'.join(keys)} of {where}")]
