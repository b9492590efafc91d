"""The mask of a COCO record: polygons or an RLE, in all the ways in which tools write them."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

import numpy as np
from faster_coco_eval import mask as mask_api
from numpy.typing import NDArray

from model.runtime.detections import RLE
from training.data.annotations.fields import BrokenRecord, Segmentation, get, numbers
from training.data.annotations.repair import Repairs, mask_bounds, sound_parts


def read_segmentation(value: Any, where: str, repairs: Repairs) -> Segmentation:
    """Polygons of 3 points or more, or an RLE, compressed if it was not; None for an absent or empty value.

    A single polygon need not stand in a list of polygons, and RLEs may: those of one record are one mask. Points may be
    pairs. Parts that
    are no outlines are left out where others are. Raises BrokenRecord where none is.
    """
    if isinstance(value, dict):
        return _rle(value, where)
    if value is None or (isinstance(value, list) and all(part == [] for part in value)):
        return None
    if not isinstance(value, list):
        raise BrokenRecord("wrong type", f"segmentation of {where} is neither an RLE nor a list of polygons")
    if all(isinstance(part, dict) for part in value):
        return _merged([_rle(part, where) for part in value], where)
    if not isinstance(value[0], list):
        value = [value]
    elif len(value) >= 3 and all(_is_pair(part) for part in value):  # one outline; no part has a single point
        value = [[number for pair in value for number in pair]]
    else:
        value = [_flat(part) for part in value]
    return sound_parts((_ring(part, where) for part in value), f"a polygon of {where}", repairs)


def _flat(part: Any) -> Any:
    """A part of points [x, y], as one of x and y in turn."""
    if isinstance(part, list) and part and all(_is_pair(point) for point in part):
        return [number for point in part for number in point]
    return part


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(number) in (int, float) for number in value)


def _ring(part: Any, where: str) -> NDArray[np.float64]:
    """float64 [P, 2]; what is no list of pairs of numbers is a ring without points, NaN stays."""
    try:
        points = numbers(part, f"polygon of {where}", finite=False)
    except BrokenRecord:
        return np.empty((0, 2))
    return points.reshape(-1, 2) if len(points) % 2 == 0 else np.empty((0, 2))


def _merged(parts: list[RLE], where: str) -> RLE:
    sizes = {part.size for part in parts}
    if len(sizes) > 1:
        raise BrokenRecord("bad RLE", f"the RLEs of {where} have several sizes, {sorted(sizes)}")
    if len(parts) == 1:
        return parts[0]
    if any(mask_bounds(part) is None for part in parts):
        raise BrokenRecord("bad RLE", f"an RLE of {where} has no pixel, or does not decode")
    packed = mask_api.merge([{"size": list(part.size), "counts": part.counts} for part in parts])
    return RLE(parts[0].size, packed["counts"])


def _rle(value: Mapping[str, Any], where: str) -> RLE:
    counts = get(value, "counts", f"RLE of {where}")
    size = numbers(get(value, "size", f"RLE of {where}"), f"RLE size of {where}")
    if len(size) != 2 or (size < 1).any() or size.prod() >= 2**31:  # the mask API counts pixels in 32 bits
        raise BrokenRecord("bad RLE", f"RLE of {where} has size {size.tolist()}, not [height, width]")
    height, width = int(size[0]), int(size[1])
    if isinstance(counts, str):
        try:
            return RLE((height, width), _without_repr(counts).encode("ascii"))
        except UnicodeEncodeError:
            raise BrokenRecord("bad RLE", f"RLE of {where} has characters that are not ASCII") from None
    runs = numbers(counts, f"RLE counts of {where}")
    if (runs < 0).any() or (runs % 1).any() or int(runs.sum()) != height * width:
        raise BrokenRecord("bad RLE", f"runs of {where} add up to {runs.sum():.0f} pixels, not {height}x{width}")
    packed = mask_api.frPyObjects({"size": [height, width], "counts": runs.astype(int).tolist()}, height, width)
    return RLE((height, width), packed["counts"])


def _without_repr(counts: str) -> str:
    """`str(counts)` of bytes is what many scripts write; a quotation mark is no character of an RLE."""
    if counts[:2] not in ("b'", 'b"'):
        return counts
    try:
        return str(ast.literal_eval(counts).decode("ascii"))
    except (SyntaxError, ValueError):  # left to the check, which says that it does not decode
        return counts
