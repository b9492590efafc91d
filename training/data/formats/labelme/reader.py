"""LabelMe: one JSON for each image, in the same folder or pointing to it by `imagePath`.

Polygons, rectangles, circles and masks are areas; shapes of one label and `group_id` are one object. LabelMe annotates
the picture as seen, with its EXIF orientation applied. Our own addition is the flag "crowd". Classes are those of
`labels.txt`, otherwise what occurs, sorted.
"""

from __future__ import annotations

import base64
import json
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from io import BytesIO
from itertools import permutations
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from faster_coco_eval import mask as mask_api
from numpy.typing import NDArray
from PIL import Image

from training.data.annotations import fields
from training.data.annotations.dataset import Dataset, DatasetError
from training.data.annotations.fields import BrokenRecord, Segmentation, class_name, get, text
from training.data.annotations.orientation import pixels_to_stored, points_to_stored
from training.data.formats.assemble import (
    Assembly,
    Found,
    Header,
    as_polygons,
    ellipse,
    encode_indices,
    read_header,
    rectangle,
    union,
)
from training.data.formats.image_files import files_below, images_in
from training.data.formats.labelme.images import locate_images
from training.data.formats.splits import noting_unused, outside, split_folders, up_to
from training.data.formats.text_files import has_keys, read_json, read_lines
from training.data.formats.writing import Placed, Placement, outlines, place_images

CLASS_FILE = "labels.txt"
VERSION = "5.5.0"
"""The LabelMe release whose form is written."""
CROWD = "crowd"
LAYOUT = "LabelMe's JSON files, with folders for splits or without"
_KEYS = (re.compile(rb'"shapes"\s*:'), re.compile(rb'"imagePath"\s*:'))
_PARENTS = ("annotations", "labels", "json")
"""Folders that may hold those of the splits, where the images have folders of their own."""
_NO_CLASSES = ("__ignore__", "_background_")
"""What LabelMe's own exporters take for regions that do not count and for the background."""
_OUTLINES = ("polygon", "oriented_rectangle", "rotation")
"""Kinds whose points are an outline. X-AnyLabeling's rectangle is one too: it has four points, LabelMe's has two."""


def labelme_splits(folder: Path) -> tuple[str, ...]:
    """The splits of a LabelMe folder, by its folders, or "train" for the folder itself; none if it is none."""
    return tuple(split_folders(folder, _is_labelme, _PARENTS))


def labelme_left_out(folder: Path) -> list[str]:
    """What to say of annotations that are in no split: those beside the folders of splits."""
    roots = split_folders(folder, _is_labelme, _PARENTS).values()
    files = [file for file in outside(files_below(folder, (".json",)), roots) if _has_shapes(file)]
    return noting_unused(folder, "of LabelMe's JSON files", files)


def load_labelme(folder: Path, split: str) -> Dataset:
    """Reads a split, with the folders in it. Images without a JSON count as not annotated yet and are left out, which
    is noted.

    Raises DatasetError when the split is not there; broken records are left out and named in `problems`.
    """
    root = split_folders(folder, _is_labelme, _PARENTS).get(split)
    if root is None:
        raise DatasetError(
            f"{folder} has no LabelMe split '{split}': looked for JSON files in {folder / split} and {folder}"
        )
    assembly = Assembly(f"labelme_{split}", root)
    files = _leave_out_others(files_below(root, (".json",)), assembly)
    images, notes = locate_images(files, root, root if root.parent == folder else folder)
    assembly.notes += [*notes, *_unannotated(folder, root, images.values())]
    for file in files:
        try:
            document = read_json(file)
            shapes = get(document, "shapes", str(file))
            text(document, "imagePath", str(file))
            image = images[file]
            if isinstance(image, BrokenRecord):
                raise image
            header = read_header(image)
            stated = (document.get("imageWidth"), document.get("imageHeight"))
            if None not in stated and stated != header.upright:
                message = (
                    f"{file} is for {stated[0]}x{stated[1]} pixels, {image} has {header.upright[0]}x{header.upright[1]}"
                )
                raise BrokenRecord("size mismatch", f"{message} (as seen): annotate it again")
            if not isinstance(shapes, list):
                raise BrokenRecord("wrong type", f"'shapes' of {file} is no list")
            assembly.add(image, header.width, header.height, list(_objects(shapes, file, header, assembly)))
        except BrokenRecord as broken:
            assembly.broken(broken, file)
    names = [place / CLASS_FILE for place in up_to(folder, root)]
    return assembly.finish(
        next((_class_names(file, assembly) for file in names if file.is_file()), assembly.found_names)
    )


def save_labelme(data: Dataset, folder: Path, split: str, placement: Placement) -> Placed:
    """Writes images and JSON files into `folder/SPLIT` and labels.txt.

    Holes become cuts of no width, an object in several parts a group, a crowd region the flag "crowd".
    """
    target = folder / split
    placed = place_images(data, target, placement, flat=True)
    for record, objects, file in zip(data.images, data.annotations, placed.files, strict=True):
        header = read_header(record.path)
        shapes = []
        for row in range(len(objects)):
            rings = outlines(header, objects, row, join=False)
            shapes += [
                {
                    "label": data.class_names[objects.labels[row] - 1],
                    "points": ring.tolist(),
                    "group_id": int(objects.ids[row]) if len(rings) > 1 else None,
                    "description": "",
                    "shape_type": "polygon",
                    "flags": {CROWD: True} if objects.crowd[row] else {},
                    "mask": None,
                }
                for ring in rings
            ]
        width, height = header.upright
        document: dict[str, Any] = {
            "version": VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": file,
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        path = target / PurePosixPath(file).with_suffix(".json")
        path.write_text(json.dumps(document, indent=1), encoding="utf-8")
    lines = (*_NO_CLASSES, *data.class_names)
    (folder / CLASS_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return placed


def _is_labelme(folder: Path) -> bool:
    return any(_has_shapes(file) for file in files_below(folder, (".json",)))


def _has_shapes(file: Path) -> bool:
    """By its keys: with the image inside, a file is large, and most of it is not read for that."""
    return has_keys(file, _KEYS)


def _unannotated(folder: Path, root: Path, found: Iterable[Path | BrokenRecord]) -> list[str]:
    """What to say of images among those of a split that no JSON of the dataset names or is called as."""
    used = {Path(os.path.abspath(path)) for path in found if isinstance(path, Path)}
    places = {path.parent for path in used if path.is_relative_to(os.path.abspath(folder))}
    near = {*images_in(root), *(path for place in places for path in images_in(place) if path.parent == place)}
    stems = {file.stem for file in files_below(folder, (".json",))}
    bare = sorted({path for image in near if (path := Path(os.path.abspath(image))).stem not in stems} - used)
    if not bare:
        return []
    return [f"{len(bare)} images have no JSON: they count as not annotated and are left out, first: {bare[0].name}"]


def _leave_out_others(files: list[Path], assembly: Assembly) -> list[Path]:
    """LabelMe's files among JSON files. Those that cannot be read may be LabelMe's, and are broken records."""
    own, others = [], []
    for file in files:
        if _has_shapes(file):
            own.append(file)
            continue
        try:
            read_json(file)
            others.append(file)
        except BrokenRecord as broken:
            assembly.broken(broken, file)
    if others:
        assembly.notes.append(f"{len(others)} JSON files are not LabelMe's and are left out, first: {others[0].name}")
    return own


def _objects(shapes: list[Any], file: Path, header: Header, assembly: Assembly) -> Iterator[Found]:
    """The objects of one image; a broken shape is left out of its group where the group has others."""
    groups: dict[Any, list[Segmentation]] = {}
    labels: dict[Any, tuple[str, bool]] = {}
    faults: list[tuple[Any, BrokenRecord]] = []
    for index, shape in enumerate(shapes):
        where = f"shapes[{index}] of {file}"
        group: Any = index
        try:
            label = text(shape, "label", where)
            if class_name(label) in _NO_CLASSES:
                assembly.repairs.note("shape of no class left out", f"{where} is '{label}'")
                continue
            if shape.get("group_id") is not None:
                group = (label, str(shape["group_id"]))
            flags = shape.get("flags")
            crowd = bool(isinstance(flags, dict) and flags.get(CROWD))
            groups.setdefault(group, []).append(_area(shape, where, header, assembly))
            labels[group] = label, crowd or (group in labels and labels[group][1])
        except BrokenRecord as broken:
            faults.append((group, broken))
    for group, fault in faults:
        if groups.get(group):
            assembly.repairs.note("part of an outline left out", f"{fault.message}; the other parts stay")
        else:
            assembly.broken(fault, file)
    for group, parts in groups.items():
        if parts:
            label, crowd = labels[group]
            if _is_around(parts, header):
                example = f"'{label}', group {group[1]} of {file}; draw a hole as a cut in the outline, or as a mask"
                assembly.repairs.note("inner outline taken as a part, not as a hole", example)
            size = (header.width, header.height)
            try:
                yield Found(label, union(parts, size, f"a '{label}' of {file}", assembly.repairs), crowd)
            except BrokenRecord as broken:
                assembly.broken(broken, file)


def _is_around(parts: list[Segmentation], header: Header) -> bool:
    """Whether an outline of a group lies inside another, where it adds no pixel."""
    rings = [ring for part in parts if isinstance(part, tuple) for ring in part]
    for inner, outer in permutations(rings, 2):
        if (inner.min(axis=0) > outer.min(axis=0)).all() and (inner.max(axis=0) < outer.max(axis=0)).all():
            drawn = mask_api.frPyObjects(
                [ring.ravel().tolist() for ring in (outer, inner)], header.height, header.width
            )
            if mask_api.area(mask_api.merge(drawn)) == mask_api.area(drawn[0]):
                return True
    return False


def _area(shape: dict[str, Any], where: str, header: Header, assembly: Assembly) -> Segmentation:
    kind = shape.get("shape_type") or "polygon"
    points = fields.points(get(shape, "points", where), f"'points' of {where}")
    if not np.isfinite(points).all():
        raise BrokenRecord("non-finite number", f"{where} has a point that is NaN or infinite")
    if kind == "rectangle" and len(points) == 4:
        kind = "polygon"
    if kind in ("rectangle", "circle", "mask") and len(points) != 2:
        raise BrokenRecord("bad polygon", f"{where}, a {kind}, has {len(points)} points, not 2")
    if kind == "mask":
        return _mask(shape, points, where, header, assembly)
    if kind == "rectangle":
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        points = rectangle(left, top, right - left, bottom - top)
    elif kind == "circle":
        radius = float(np.hypot(*(points[1] - points[0])))
        points = ellipse(points[0, 0], points[0, 1], radius, radius)
    elif kind not in _OUTLINES:
        assembly.unread[kind] += 1
        raise BrokenRecord("no mask", f"{where} is a {kind}, which covers no area: draw a polygon, or delete it")
    return as_polygons([points_to_stored(points, (header.width, header.height), header.orientation)], where)


def _mask(
    shape: dict[str, Any], corners: NDArray[np.float64], where: str, header: Header, assembly: Assembly
) -> Segmentation:
    """A mask shape: a base64 PNG whose top left pixel lies at the first corner; what lies outside the image is cut."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels = np.array(
                Image.open(BytesIO(base64.b64decode(text(shape, "mask", where), validate=True))).convert("1")
            )
    except (OSError, ValueError, SyntaxError) as error:
        raise BrokenRecord("bad mask", f"'mask' of {where} is no base64 PNG: {error}") from None
    width, height = header.upright
    x, y = (round(value) for value in corners.min(axis=0).tolist())
    if x < 0 or y < 0 or x + pixels.shape[1] > width or y + pixels.shape[0] > height:
        message = f"the mask of {where} reached out of the image of {width}x{height} (as seen)"
        assembly.repairs.note("outline cut at the picture's edge", message)
        pixels = pixels[max(0, -y) : max(0, height - y), max(0, -x) : max(0, width - x)]
        x, y = max(0, x), max(0, y)
    canvas = np.zeros((height, width), np.int64)
    canvas[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels
    found = encode_indices(pixels_to_stored(canvas, header.orientation))
    if not found:
        raise BrokenRecord("empty mask", f"the mask of {where} has no pixel: delete the shape")
    return found[1]


def _class_names(file: Path, assembly: Assembly) -> list[str]:
    """The file's, and behind them what else was found."""
    names = [line for line in read_lines(file) if line and line not in _NO_CLASSES]
    known = set(map(class_name, names))
    return names + [name for name in assembly.found_names if name not in known]
