"""The files of VIA's versions as one form, that of VIA 2's JSON: for each image an object with filename and regions.

VIA 1 and 2 export it as JSON or as CSV, and keep it in their project; VIA 3 has a project of its own.
"""

from __future__ import annotations

import csv
import json
from io import StringIO
from pathlib import Path
from typing import Any, Final

from training.data.annotations.fields import BrokenRecord
from training.data.formats.text_files import read_json, read_text

Record = dict[str, Any]
_COLUMNS: Final = {"filename", "region_shape_attributes", "region_attributes"}
_SHAPES: Final = {
    1: ("point", ("cx", "cy")),
    2: ("rect", ("x", "y", "width", "height")),
    3: ("circle", ("cx", "cy", "r")),
    4: ("ellipse", ("cx", "cy", "rx", "ry")),
    5: ("line", ()),
    6: ("polyline", ()),
    7: ("polygon", ()),
    8: ("extreme rectangle", ()),
    9: ("extreme circle", ()),
}
"""VIA 3's numbers of shapes, and what the numbers behind them are; none: x and y in turn."""


def read_images(file: Path) -> list[Record] | None:
    """The images of a VIA file, JSON or CSV; None where it is none of VIA's. Raises BrokenRecord for a file that cannot
    be read at all.
    """
    if file.suffix.lower() == ".csv":
        return _table(file)
    document = read_json(file)
    if not isinstance(document, dict):
        return None
    if {"file", "metadata", "attribute"} <= document.keys():
        return _project_3(document)
    images = document.get("_via_img_metadata", document)
    records = list(images.values()) if isinstance(images, dict) else []
    first = records[0] if records else None
    return records if isinstance(first, dict) and {"filename", "regions"} <= first.keys() else None


def _table(file: Path) -> list[Record] | None:
    """VIA 1 and 2's CSV: a line for each region, and one for an image without. VIA 1 has #filename for filename."""
    try:
        table = csv.DictReader(StringIO(read_text(file), newline=""))
        table.fieldnames = [name.strip().removeprefix("#").strip() for name in table.fieldnames or ()]
        if not set(table.fieldnames) >= _COLUMNS:
            return None
        images: dict[str, Record] = {}
        for row in table:
            image = images.setdefault(row["filename"], {"filename": row["filename"], "regions": []})
            shape, attributes = (json.loads(row[key] or "{}") for key in sorted(_COLUMNS - {"filename"}, reverse=True))
            if shape:
                image["regions"].append({"shape_attributes": shape, "region_attributes": attributes})
    except (ValueError, csv.Error) as error:  # no JSON in a cell
        raise BrokenRecord("unreadable annotations", f"{file} is not VIA's CSV: {error}") from None
    return list(images.values())


def _project_3(document: Record) -> list[Record] | None:
    """VIA 3: files, views of them, and metadata whose `xy` is a shape's number and coordinates."""
    parts = [document[key] for key in ("file", "metadata", "attribute")]
    if not all(isinstance(part, dict) for part in parts):
        return None
    files, metadata, attributes = parts
    images: dict[str, Record] = {
        str(key): {"filename": str(one.get("fname") or one.get("src")), "regions": []}
        for key, one in files.items()
        if isinstance(one, dict)
    }
    views = document.get("view")
    shown = {str(key): _first_file(view) for key, view in views.items()} if isinstance(views, dict) else {}
    for one in metadata.values():
        xy = one.get("xy") if isinstance(one, dict) else None
        image = images.get(shown.get(str(one.get("vid")), str(one.get("vid")))) if xy else None
        if image is not None:
            region = {"shape_attributes": _shape(xy), "region_attributes": _values(one.get("av"), attributes)}
            image["regions"].append(region)
    return list(images.values())


def _first_file(view: Any) -> str:
    files = view.get("fid_list") if isinstance(view, dict) else None
    return str(files[0]) if isinstance(files, list) and files else ""


def _shape(xy: Any) -> Record:
    if not isinstance(xy, list) or xy[0] not in _SHAPES:
        return {"name": f"shape of number {xy[0] if isinstance(xy, list) else xy}"}
    name, keys = _SHAPES[xy[0]]
    if keys:
        return {"name": name, **dict(zip(keys, xy[1:], strict=False))}
    return {"name": name, "all_points_x": xy[1::2], "all_points_y": xy[2::2]}


def _values(chosen: Any, attributes: Record) -> Record:
    """Attribute names and values in words; several ticked options are VIA 2's check boxes."""
    found: Record = {}
    for key, value in (chosen if isinstance(chosen, dict) else {}).items():
        attribute = attributes.get(str(key))
        if isinstance(attribute, dict):
            options = attribute.get("options")
            words = (
                [options.get(part, part) for part in str(value).split(",")] if isinstance(options, dict) else [value]
            )
            found[str(attribute.get("aname"))] = words[0] if len(words) == 1 else dict.fromkeys(words, True)
    return found
