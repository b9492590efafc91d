"""Small faults that annotation tools leave in a record, mended: one bad part never costs the whole object.

Every format mends here, so that an object is the same whatever file it comes from. Each repair is noted, by kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from faster_coco_eval import mask as mask_api
from numpy.typing import NDArray

from model.runtime.detections import RLE
from training.data.annotations.boxes import box_fault, listed
from training.data.annotations.fields import BrokenRecord, Segmentation
from training.data.annotations.runs import decode_runs

Values = NDArray[np.float64]
RepairKind = Literal[
    "part of an outline left out",
    "outline cut at the picture's edge",
    "inner outline taken as a part, not as a hole",
    "box cut at the picture's edge",
    "box taken from the mask",
    "keypoint outside the picture unlabeled",
    "annotation numbered anew",
    "classes of one name merged",
    "root class left out",
    "shape of no class left out",
]

BORDER = 1.0
"""Pixels that a box or an outline may reach over the image's border: rounding does that in COCO's own files."""
LEFT = 0.25
"""Share of a box's area inside the image from which it is cut at the border; with less it is no box of this image."""


@dataclass(frozen=True, slots=True)
class Repair:
    """What was mended in `count` records, and the first of them."""

    kind: RepairKind
    count: int
    example: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.count}, first: {self.example}"


class Repairs:
    """Counts repairs while a dataset is read."""

    def __init__(self) -> None:
        self._counts: Counter[RepairKind] = Counter()
        self._examples: dict[RepairKind, str] = {}

    def note(self, kind: RepairKind, example: str) -> None:
        """One more record was mended."""
        self._counts[kind] += 1
        self._examples.setdefault(kind, example)

    @property
    def found(self) -> tuple[Repair, ...]:
        """One for each kind, in the order in which they came."""
        return tuple(Repair(kind, count, self._examples[kind]) for kind, count in self._counts.items())


class Fitted(NamedTuple):
    """An object inside its image. xywh: float64 [4]; changed: whether its mask was cut."""

    segmentation: Segmentation
    xywh: Values
    changed: bool


def sound_parts(rings: Iterable[Values], where: str, repairs: Repairs) -> tuple[Values, ...]:
    """The parts, each [P, 2], of an outline that have 3 finite points or more.

    Raises BrokenRecord where there is none.
    """
    sound, faults = [], []
    for ring in rings:
        if not len(ring):
            faults.append(BrokenRecord("bad polygon", f"{where} is no list of points x, y"))
        elif len(ring) < 3:
            faults.append(BrokenRecord("bad polygon", f"{where} has {len(ring)} points: an outline needs 3 or more"))
        elif not np.isfinite(ring).all():
            faults.append(BrokenRecord("non-finite number", f"{where} has a point that is NaN or infinite"))
        else:
            sound.append(np.ascontiguousarray(ring, np.float64))
    if not sound:
        raise faults[0] if faults else BrokenRecord("bad polygon", f"{where} has no point")
    for fault in faults:
        repairs.note("part of an outline left out", f"{fault.message}; the other parts stay")
    return tuple(sound)


def fit(
    segmentation: Segmentation,
    xywh: Values | None,
    size: tuple[int, int],
    where: str,
    repairs: Repairs,
    *,
    boxed: bool = True,
) -> Fitted:
    """An object cut at the borders of its image of size (width, height); the box comes from the mask where it is None
    or has no area. boxed: whether the format has boxes beside masks, so that a missing one is a fault.

    Raises BrokenRecord where nothing of the object is inside, and where it has neither box nor mask.
    """
    cut = cut_outline(segmentation, size, where, repairs) if isinstance(segmentation, tuple) else segmentation
    if xywh is None or not (xywh[2] > 0 and xywh[3] > 0):
        if cut is None:
            if xywh is None:
                raise BrokenRecord("empty box", f"{where} has neither a box nor a mask")
            raise BrokenRecord("empty box", f"{where}: box {listed(xywh)} (x, y, width, height) has no area")
        bounds = mask_bounds(cut)
        if bounds is None or not (bounds[2:] > 0).all():
            raise BrokenRecord("empty mask", f"{where} has no box, and its mask covers no pixel")
        if boxed:
            had = "no box" if xywh is None else f"the box {listed(xywh)}"
            repairs.note("box taken from the mask", f"{where} had {had}, which is now {listed(bounds)}")
        return Fitted(cut, bounds, cut is not segmentation)
    return Fitted(cut, _cut_box(xywh, cut, size, where, repairs), cut is not segmentation)


def mask_bounds(segmentation: Segmentation) -> Values | None:
    """float64 [4] (x, y, width, height) around a mask; None without one, without pixels and for a damaged RLE."""
    if segmentation is None:
        return None
    if isinstance(segmentation, RLE):
        runs = decode_runs(segmentation.counts)
        if runs is None or (runs < 0).any() or runs.sum() != segmentation.size[0] * segmentation.size[1]:
            return None
        packed = {"size": list(segmentation.size), "counts": segmentation.counts}
        bounds = np.asarray(mask_api.toBbox(packed), np.float64)
        return bounds if bounds[2] > 0 else None
    low = np.min([ring.min(axis=0) for ring in segmentation], axis=0)
    high = np.max([ring.max(axis=0) for ring in segmentation], axis=0)
    return np.concatenate([low, high - low])


def mask_area(segmentation: Segmentation) -> float | None:
    """Square pixels; None where there is no sound mask to measure. Overlapping parts count twice."""
    if segmentation is None or (isinstance(segmentation, RLE) and mask_bounds(segmentation) is None):
        return None
    if isinstance(segmentation, RLE):
        return float(mask_api.area({"size": list(segmentation.size), "counts": segmentation.counts}))
    return sum(map(_ring_area, segmentation))


def _is_far(polygons: Sequence[Values], size: tuple[int, int]) -> bool:
    """Whether a point lies further out than the image of (width, height) is large."""
    sides = np.array(size)
    return any(bool(((points < -sides) | (points > 2 * sides)).any()) for points in polygons)


def cut_outline(
    polygons: tuple[Values, ...], size: tuple[int, int], where: str, repairs: Repairs
) -> tuple[Values, ...]:
    """Outlines cut at the borders of an image of (width, height). Raises BrokenRecord where nothing is inside, and
    where a point lies too far out."""
    if not any(_reaches_out(ring, size) for ring in polygons):
        return polygons
    picture = f"the image of {size[0]}x{size[1]}"
    if _is_far(polygons, size):
        # such an outline was drawn on another picture, or in another unit
        raise BrokenRecord("bad polygon", f"{where} has polygon points far outside {picture}")
    parts = tuple(part for ring in polygons if len(part := cut_ring(ring, size)) >= 3)
    if not parts:
        raise BrokenRecord("bad polygon", f"{where} lies outside {picture}")
    repairs.note("outline cut at the picture's edge", f"{where} reached out of {picture}")
    return parts


def _reaches_out(ring: Values, size: tuple[int, int]) -> bool:
    right, bottom = ring.max(axis=0).tolist()
    return bool(ring.min() < -BORDER) or right > size[0] + BORDER or bottom > size[1] + BORDER


def cut_ring(ring: Values, size: tuple[int, int]) -> Values:
    """A polygon [P, 2] cut at the borders of an image of (width, height), side by side (Sutherland and Hodgman); empty
    where nothing is inside."""
    for axis in (0, 1):
        for edge, sign in ((0.0, 1.0), (float(size[axis]), -1.0)):
            if not len(ring):
                return ring
            depth = sign * (ring[:, axis] - edge)
            if (depth >= 0).all():
                continue
            points = []
            for (here, inside), (there, beyond) in zip(
                zip(ring, depth, strict=True),
                zip(np.roll(ring, -1, axis=0), np.roll(depth, -1), strict=True),
                strict=True,
            ):
                if inside >= 0:
                    points.append(here)
                if (inside >= 0) != (beyond >= 0):
                    crossing = here + (there - here) * (inside / (inside - beyond))
                    crossing[axis] = edge
                    points.append(crossing)
            ring = np.array(points, np.float64).reshape(-1, 2)
    return ring if len(ring) >= 3 and _ring_area(ring) > 0 else ring[:0]


def _cut_box(xywh: Values, segmentation: Segmentation, size: tuple[int, int], where: str, repairs: Repairs) -> Values:
    x, y, width, height = xywh.tolist()
    if min(x, y) >= -BORDER and x + width <= size[0] + BORDER and y + height <= size[1] + BORDER:
        return xywh
    low, high = xywh[:2], xywh[:2] + xywh[2:]
    inside_low, inside_high = low.clip(0, size), high.clip(0, size)
    sides = inside_high - inside_low
    picture = f"the image of {size[0]}x{size[1]}"
    if sides.prod() < LEFT * xywh[2:].prod():
        message = f"{where}: box {listed(xywh)} (x, y, width, height) reaches out of {picture}"
        raise BrokenRecord("box outside image", message)
    if (fault := box_fault(xywh, mask_bounds(segmentation))) is not None:  # which cutting would hide
        raise BrokenRecord("box off mask", f"{where}: box {listed(xywh)} (x, y, width, height) {fault}")
    repairs.note("box cut at the picture's edge", f"{where}: box {listed(xywh)} reached out of {picture}")
    return np.concatenate([inside_low, sides])


def _ring_area(ring: Values) -> float:
    x, y = (ring - ring[0]).T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
