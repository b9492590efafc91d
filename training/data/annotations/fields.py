"""Single fields of a raw COCO record, read strictly: each function returns a value of the right type or raises
`BrokenRecord`, which says what is wrong with it."""

from __future__ import annotations

import unicodedata
from typing import Any, Literal

import numpy as np
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
    "box off mask",
    "bad keypoints",
    "unclear orientation",
    "size mismatch",
]

_UNSEEN = dict.fromkeys(map(ord, "\u200b\u2060\ufeff\u00ad"))
"""Marks of no width, which come along with copied text."""

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
    """A whole number of 64 bits; 3.0 is one, as tables exported from pandas have it, and "3", as VIA writes it; true is
    not."""
    value = get(record, key, where)
    if isinstance(value, str) and is_number(value):
        value = int(value)
    if (type(value) is int or (isinstance(value, float) and value.is_integer())) and abs(value) < 2**63:
        return int(value)
    raise BrokenRecord("wrong type", f"'{key}' of {where} is {value!r}, not a whole number")


def is_number(value: Any) -> bool:
    """Whether an id is a whole number of 64 bits, or such a number as a text, without zeros or spaces before it."""
    if isinstance(value, str):
        return value.isascii() and value.isdigit() and len(value) < 20 and str(int(value)) == value
    return type(value) is int and abs(value) < 2**63


def flag(record: Any, key: str, where: str) -> bool:
    """True or false, as tools write it: also 0 and 1, as numbers or texts; false where it is null or absent."""
    value = get(record, key, where) if key in record else None
    word = "" if value is None else str(value).strip().lower()
    if word in ("", "0", "0.0", "false"):
        return False
    if word in ("1", "1.0", "true"):
        return True
    raise BrokenRecord("wrong type", f"{key} of {where} is {value!r}, not 0 or 1")


def text(record: Any, key: str, where: str) -> str:
    """A string that is not empty; a number is one too, since names of classes may be 7."""
    value = get(record, key, where)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value:
        raise BrokenRecord("wrong type", f"'{key}' of {where} is {value!r}, not a text")
    return value


def class_name(name: str) -> str:
    """A class's name as all formats have it: one space between words and none around them, composed characters (NFC),
    nothing that is not seen. Names that are then equal are one class."""
    return " ".join(unicodedata.normalize("NFC", name).translate(_UNSEEN).split())


def points(value: Any, where: str) -> NDArray[np.float64]:
    """float64 [P, 2] of a list of points [x, y]; a third number that is 0 for all is left out. NaN stays."""
    try:
        array = np.array(value, np.float64)
    except (TypeError, ValueError):
        array = np.empty(())
    if array.size == 0 and array.ndim > 0:
        return np.empty((0, 2))
    if array.ndim == 2 and array.shape[1] == 3 and not array[:, 2].any():
        array = array[:, :2]
    if array.ndim != 2 or array.shape[1] != 2:
        raise BrokenRecord("bad polygon", f"{where} is no list of points [x, y]")
    return array


def numbers(value: Any, where: str, *, finite: bool = True) -> NDArray[np.float64]:
    """float64 [n]; strings are not numbers here, though numpy would take them. finite: NaN and infinity are none."""
    try:
        array = np.array(value)
    except ValueError:  # ragged
        array = np.empty(0, object)
    if array.ndim != 1 or array.dtype.kind not in "iuf":
        raise BrokenRecord("wrong type", f"{where} is not a list of numbers")
    if finite and not np.isfinite(array).all():
        raise BrokenRecord("non-finite number", f"{where} holds NaN or infinity")
    return array.astype(np.float64)
