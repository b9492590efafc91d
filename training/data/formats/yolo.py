"""YOLO-seg (Ultralytics): `data.yaml`, images, and beside them a text file each with lines `class x1 y1 x2 y2 ...`.

Coordinates are shares of the width and height of the picture as seen, EXIF orientation applied. A line of `class x y
width height` is a box (center and sides) without a mask. An image without a text file has no objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml

from training.data.annotations.dataset import Dataset, DatasetError
from training.data.annotations.fields import BrokenRecord
from training.data.annotations.orientation import points_to_stored, points_to_upright
from training.data.formats.assemble import Assembly, Found, Header, as_polygons, images_in, read_header, rectangle
from training.data.formats.writing import Placement, outlines, place_images

FILE = "data.yaml"
FAR = 0.5
"""Share of a side from which a point outside is no slip of the hand: the numbers are in another unit."""
_KEYS = {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}


def yolo_splits(folder: Path) -> tuple[str, ...]:
    """The splits that the folder's YAML names and that are there; none if it is not a YOLO folder."""
    found = _read_yaml(folder)
    if found is None:
        return ()
    return tuple(split for split in _KEYS if _sources(folder, found[1], split))


def load_yolo(folder: Path, split: str) -> Dataset:
    """Reads a split of the folder that holds data.yaml.

    Raises DatasetError when it is not there or the YAML names no classes; broken lines are left out and named in
    `problems`.
    """
    found = _read_yaml(folder)
    sources = [] if found is None else _sources(folder, found[1], split)
    if found is None or not sources:
        raise DatasetError(f"{folder} has no YOLO split '{split}': looked for a .yaml with 'names' and '{split}'")
    file, document = found
    names = _class_names(document["names"], file)
    root = sources[0] if sources[0].is_dir() else folder
    assembly = Assembly(f"yolo_{split}", root)
    for image in _images(sources):
        labels = label_file(image)
        try:
            header = read_header(image)
            lines = labels.read_text(encoding="utf-8").splitlines() if labels.is_file() else []
            assembly.add(image, header.width, header.height, list(_objects(lines, labels, names, header, assembly)))
        except BrokenRecord as broken:
            assembly.broken(broken, image)
        except (OSError, UnicodeDecodeError) as error:
            assembly.broken(BrokenRecord("unreadable annotations", f"cannot read {labels}: {error}"), image)
    return assembly.finish(names)


def save_yolo(data: Dataset, folder: Path, split: str, placement: Placement) -> list[str]:
    """Adds `images/SPLIT`, `labels/SPLIT` and the split's line in data.yaml; what got lost.

    Each object is one line: its holes and parts are joined by cuts of no width. Crowd regions are left out: YOLO has no
    such thing, and as objects they would teach wrong outlines.
    """
    lost: list[str] = []
    files = place_images(data, folder / "images" / split, placement)
    for record, objects, file in zip(data.images, data.annotations, files, strict=True):
        header = read_header(record.path)
        lines = []
        for row in np.flatnonzero(~objects.crowd).tolist():
            if objects.segmentations[row] is None:
                x, y, width, height = objects.xywh[row].tolist()
                corners = points_to_upright(
                    rectangle(x, y, width, height), (header.width, header.height), header.orientation
                )
                low, high = corners.min(axis=0), corners.max(axis=0)
                shapes = [np.stack([(low + high) / 2, high - low])]
            else:
                shapes = outlines(header, objects, row, join=True)
            for points in shapes:
                numbers = " ".join(f"{value:.8g}" for value in (points / header.upright).ravel())
                lines.append(f"{objects.labels[row] - 1} {numbers}\n")
        if objects.crowd.any():
            lost.append(f"{record.file}: {objects.crowd.sum()} crowd regions")
        target = (folder / "labels" / split / PurePosixPath(file)).with_suffix(".txt")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("".join(lines))
    found = _read_yaml(folder)
    document = {} if found is None else found[1]
    document |= {split: f"images/{split}", "names": dict(enumerate(data.class_names))}
    (folder / FILE).write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return lost


def label_file(image: Path) -> Path:
    """Where the lines of an image lie: the last folder called images becomes labels."""
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _read_yaml(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The first YAML, data.yaml before others, that has class names and a split."""
    files = sorted((*folder.glob("*.yaml"), *folder.glob("*.yml")), key=lambda file: (file.name != FILE, file.name))
    for file in files:
        try:
            document = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError):
            continue
        if isinstance(document, dict) and "names" in document and any(key in document for key in ("train", "val")):
            return file, document
    return None


def _sources(folder: Path, document: dict[str, Any], split: str) -> list[Path]:
    """The folders and .txt lists of a split. `path` is where they were on the author's machine, so both are tried."""
    value: Any = next((document[key] for key in _KEYS.get(split, ()) if document.get(key)), [])
    found = []
    for name in [value] if isinstance(value, str) else value:
        # some exporters write ../train/images for what lies in train/images
        candidates = [folder / str(document.get("path") or ""), folder], (str(name), str(name).removeprefix("../"))
        paths = [(base / part) for base in candidates[0] for part in candidates[1]]
        found += [path for path in paths if path.is_dir() or path.is_file()][:1]
    return found


def _images(sources: list[Path]) -> list[Path]:
    found: list[Path] = []
    for source in sources:
        if source.is_dir():
            found += images_in(source)
        else:
            lines = source.read_text(encoding="utf-8").splitlines()
            found += [source.parent / line.strip() for line in lines if line.strip()]
    return list(dict.fromkeys(found))


def _class_names(names: Any, file: Path) -> tuple[str, ...]:
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DatasetError(f"{file}: 'names' must list the classes, or number them from 0 without gaps")
    found = tuple(str(name) for name in names)
    if len(set(found)) < len(found):
        raise DatasetError(f"{file}: 'names' has a class twice")
    return found


def _objects(
    lines: list[str], file: Path, names: tuple[str, ...], header: Header, assembly: Assembly
) -> Iterator[Found]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield _object(line.split(), f"line {number} of {file}", names, header)
            except BrokenRecord as broken:
                assembly.broken(broken, file)


def _object(fields: list[str], where: str, names: tuple[str, ...], header: Header) -> Found:
    try:
        class_index, shares = float(fields[0]), np.array(fields[1:], np.float64)
    except ValueError:
        raise BrokenRecord("wrong type", f"{where} holds something that is no number") from None
    if not class_index.is_integer() or not 0 <= class_index < len(names):
        raise BrokenRecord("unknown category", f"{where} has class {fields[0]}, the YAML names 0 to {len(names) - 1}")
    if not np.isfinite(shares).all():
        raise BrokenRecord("non-finite number", f"{where} holds NaN or infinity")
    if len(shares) < 4 or len(shares) % 2:
        raise BrokenRecord("bad polygon", f"{where} has {len(shares)} coordinates: it needs x, y of 3 points or more")
    if (shares < -FAR).any() or (shares > 1 + FAR).any():
        raise BrokenRecord("bad polygon", f"{where} has coordinates outside 0 to 1: divide by the image's sides")
    name, size = names[int(class_index)], (header.width, header.height)
    if len(shares) == 4:
        center, sides = shares.reshape(2, 2) * header.upright
        corners = points_to_stored(rectangle(*(center - sides / 2), *sides), size, header.orientation)
        low, high = corners.min(axis=0), corners.max(axis=0)
        return Found(name, None, xywh=(low[0], low[1], high[0] - low[0], high[1] - low[1]))
    points = points_to_stored(shares.reshape(-1, 2) * header.upright, size, header.orientation)
    return Found(name, as_polygons([points], where))
