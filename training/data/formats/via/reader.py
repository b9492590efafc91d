"""VGG Image Annotator (VIA 1, 2): a JSON of regions beside the images, as the export or the project has it.

VIA runs in the browser, which shows pictures with their EXIF orientation applied. Polygons, polylines, rectangles,
circles and ellipses are areas. The class is the region attribute named class, label, name, type or category, else the
only one there is; "object" where regions have none. Our own addition is the attribute "crowd".
"""

from __future__ import annotations

import json
from collections.abc import Iterator
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
    beside,
    ellipse,
    read_header,
    read_json,
    rectangle,
    split_folders,
)
from training.data.formats.writing import Placement, outlines, place_images

CLASS_ATTRIBUTES = ("class", "label", "name", "type", "category")
"""Looked for in this order, whatever the case."""
DEFAULT_CLASS = "object"
FILE = "via_region_data.json"
CROWD = "crowd"


def via_splits(folder: Path) -> tuple[str, ...]:
    """The splits of a VIA folder: train/ and val/ in it, or "train" for the folder itself; none if it is not one."""
    return tuple(split_folders(folder, _via_files))


def load_via(folder: Path, split: str) -> Dataset:
    """Reads the VIA files of a split; classes are sorted by name.

    Raises DatasetError when the split is not there; broken records are left out and named in `problems`.
    """
    root = split_folders(folder, _via_files).get(split)
    if root is None:
        raise DatasetError(
            f"{folder} has no VIA split '{split}': looked for VIA's JSON in {folder / split} and {folder}"
        )
    assembly = Assembly(f"via_{split}", root)
    seen: set[Path] = set()
    for file in _via_files(root):
        records = list(_records(read_json(file)).values())
        attribute = _class_attribute(records)
        for index, record in enumerate(records):
            where = f"image {index} of {file}"
            image = file
            try:
                image = beside(root, text(record, "filename", where))
                if image in seen:
                    raise BrokenRecord("duplicate id", f"{where}, {image.name}, is listed before; this one is left out")
                seen.add(image)
                header = read_header(image)
                found = list(_objects(record, f"{image.name} in {file}", attribute, header, assembly, image))
                assembly.add(image, header.width, header.height, found)
            except BrokenRecord as broken:
                assembly.broken(broken, image)
    return assembly.finish(assembly.found_names)


def save_via(data: Dataset, folder: Path, split: str, placement: Placement) -> list[str]:
    """Writes images and `via_region_data.json` into `folder/SPLIT`; what got lost.

    Each object is one polygon: its holes and parts are joined by cuts of no width. Boxes become rectangles.
    """
    target = folder / split
    files = place_images(data, target, placement, flat=True, stems=False)
    document: dict[str, Any] = {}
    boxes = 0
    for record, objects, file in zip(data.images, data.annotations, files, strict=True):
        header = read_header(record.path)
        regions = []
        for row in range(len(objects)):
            boxes += objects.segmentations[row] is None
            attributes = {"class": data.class_names[objects.labels[row] - 1]}
            if objects.crowd[row]:
                attributes[CROWD] = "true"
            for ring in outlines(header, objects, row, join=True):
                shape = {"name": "polygon", "all_points_x": ring[:, 0].tolist(), "all_points_y": ring[:, 1].tolist()}
                regions.append({"shape_attributes": shape, "region_attributes": attributes})
        size = (target / file).stat().st_size
        document[f"{file}{size}"] = {"filename": file, "size": size, "regions": regions, "file_attributes": {}}
    (target / FILE).write_text(json.dumps(document), encoding="utf-8")
    return [f"{boxes} boxes without mask became rectangles"] if boxes else []


def _via_files(folder: Path) -> list[Path]:
    found = []
    for file in sorted(folder.glob("*.json")):
        try:
            records = list(_records(read_json(file)).values())
        except BrokenRecord:
            continue
        if records and isinstance(records[0], dict) and {"filename", "regions"} <= records[0].keys():
            found.append(file)
    return found


def _records(document: Any) -> dict[str, Any]:
    """The images of an export, or of a project."""
    records = document.get("_via_img_metadata", document) if isinstance(document, dict) else None
    return records if isinstance(records, dict) else {}


def _regions(record: Any) -> list[Any]:
    """VIA 1 numbers its regions in an object, VIA 2 has a list."""
    regions = record.get("regions") if isinstance(record, dict) else None
    if isinstance(regions, dict):
        return list(regions.values())
    return regions if isinstance(regions, list) else []


def _class_attribute(records: list[Any]) -> str | None:
    """The region attribute that names the class in this file; None where regions have no attribute."""
    names: dict[str, None] = {}
    for record in records:
        for region in _regions(record):
            attributes = region.get("region_attributes") if isinstance(region, dict) else None
            names |= dict.fromkeys(attributes if isinstance(attributes, dict) else ())
    known = {name.lower(): name for name in names}
    for name in CLASS_ATTRIBUTES:
        if name in known:
            return known[name]
    others = [name for name in names if name.lower() not in (CROWD, "iscrowd")]
    if len(others) > 1:
        raise DatasetError(
            f"VIA's regions have the attributes {', '.join(sorted(others))}: call the one that is the class 'class'"
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
            points = _outline(get(region, "shape_attributes", place), place)
            points = points_to_stored(points, (header.width, header.height), header.orientation)
            crowd = str(attributes.get(CROWD, "")).lower() in ("1", "true", "yes")
            yield Found(label, as_polygons([points], place), crowd)
        except BrokenRecord as broken:
            assembly.broken(broken, image)


def _class(value: Any, attribute: str, where: str) -> str:
    if isinstance(value, dict):  # check boxes
        chosen = [name for name, checked in value.items() if checked]
        value = chosen[0] if len(chosen) == 1 else None
    if not isinstance(value, str) or not value.strip():
        raise BrokenRecord(
            "unknown category", f"{where} has no single '{attribute}', which names its class: choose one"
        )
    return value.strip()


def _outline(shape: Any, where: str) -> NDArray[np.float64]:
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
    raise BrokenRecord("no mask", f"{where} is a {kind}, which covers no area: draw a polygon, or delete it")


def _sides(shape: Any, keys: tuple[str, ...], where: str) -> list[float]:
    return [float(value) for value in numbers([get(shape, key, where) for key in keys], f"{'/'.join(keys)} of {where}")]
