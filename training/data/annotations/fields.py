"""Single fields of a raw COCO record, read strictly: each function returns a value of the right type or raises
`BrokenRecord`, which says what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from faster_coco_eval import mask as mask_api
from numpy.typing import NDArray

from model.runtime.detections import RLE

Kind = Literal[
    "missing key",
    "wrong type",
    "non-finite number",
    "duplicate id",
    "unknown image",
    "unknown category",
    "bad polygon",
    "bad RLE",
    "keypoint count",
    "no mask",
    "empty mask",
    "empty box",
    "box outside image",
    "missing file",
    "unreadable image",
    "unreadable annotations",
    "bad mask",
    "size mismatch",
]

Segmentation = tuple[NDArray[np.float64], ...] | RLE | None
"""Polygons, each float64 [P, 2] as (x, y) in pixels; or one compressed RLE; or None where the record has no mask."""


class BrokenRecord(Exception):
    """A record that cannot be represented."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


def get(record: Any, key: str, where: str) -> Any:
    """A value that must be there; `where` names the record in messages, here and below."""
    if not isinstance(record, dict):
        raise BrokenRecord("wrong type", f"{where} is {type(record).__name__}, not a JSON object")
    if key not in record:
        raise BrokenRecord("missing key", f"{where} has no '{key}'")
    return record[key]


def integer(record: Any, key: str, where: str) -> int:
    """A whole number of 64 bits; 3.0 is one, as tables exported from pandas have it, true and "3" are not."""
    value = get(record, key, where)
    if (type(value) is int or (isinstance(value, float) and value.is_integer())) and abs(value) < 2**63:
        return int(value)
    raise BrokenRecord("wrong type", f"'{key}' of {where} is {value!r}, not a whole number")


def text(record: Any, key: str, where: str) -> str:
    """A string that is not empty."""
    value = get(record, key, where)
    if not isinstance(value, str) or not value:
        raise BrokenRecord("wrong type", f"'{key}' of {where} is {value!r}, not a text")
    return value


def numbers(value: Any, where: str) -> NDArray[np.float64]:
    """float64 [n]; strings are not numbers here, though numpy would take them."""
    try:
        array = np.array(value)
    except ValueError:  # ragged
        array = np.empty(0, object)
    if array.ndim != 1 or array.dtype.kind not in "iuf":
        raise BrokenRecord("wrong type", f"{where} is not a list of numbers")
    if not np.isfinite(array).all():
        raise BrokenRecord("non-finite number", f"{where} holds NaN or infinity")
    return array.astype(np.float64)


def read_segmentation(value: Any, where: str) -> Segmentation:
    """Polygons of 3 points or more, or an RLE, compressed if it was not; None for an absent or empty value."""
    if value is None or value == []:
        return None
    if isinstance(value, dict):
        return _rle(value, where)
    if not isinstance(value, list) or not all(isinstance(polygon, list) for polygon in value):
        raise BrokenRecord("wrong type", f"segmentation of {where} is neither an RLE nor a list of polygons")
    polygons = []
    for polygon in value:
        points = numbers(polygon, f"polygon of {where}")
        if len(points) < 6 or len(points) % 2:
            raise BrokenRecord(
                "bad polygon", f"{where} has a polygon of {len(points)} numbers: it needs 3 points or more"
            )
        polygons.append(points.reshape(-1, 2))
    return tuple(polygons)


def _rle(value: Mapping[str, Any], where: str) -> RLE:
    counts = get(value, "counts", f"RLE of {where}")
    size = numbers(get(value, "size", f"RLE of {where}"), f"RLE size of {where}")
    if len(size) != 2 or (size < 1).any() or size.prod() >= 2**31:  # the mask API counts pixels in 32 bits
        raise BrokenRecord("bad RLE", f"RLE of {where} has size {size.tolist()}, not [height, width]")
    height, width = int(size[0]), int(size[1])
    if isinstance(counts, str):
        try:
            return RLE((height, width), counts.encode("ascii"))
        except UnicodeEncodeError:
            raise BrokenRecord("bad RLE", f"RLE of {where} has characters that are not ASCII") from None
    runs = numbers(counts, f"RLE counts of {where}")
    if (runs < 0).any() or (runs % 1).any() or int(runs.sum()) != height * width:
        raise BrokenRecord("bad RLE", f"runs of {where} add up to {runs.sum():.0f} pixels, not {height}x{width}")
    packed = mask_api.frPyObjects({"size": [height, width], "counts": runs.astype(int).tolist()}, height, width)
    return RLE((height, width), packed["counts"])
