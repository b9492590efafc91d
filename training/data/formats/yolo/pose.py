"""YOLO pose: lines of `class x y width height` and K keypoints `x y`, or `x y visibility`.

`kpt_shape: [K, 2 or 3]` in the YAML says so. Where it is missing, such lines would pass for outlines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training.data.annotations.dataset import DatasetError
from training.data.annotations.fields import BrokenRecord

Values = NDArray[np.float64]

SHAPE: Final = "kpt_shape"
_NEAR: Final = 0.1
"""Share of a box's side by which its keypoints may lie outside."""
_SPREAD: Final = 0.75
"""Share of a box's sides that its keypoints span, where that alone tells them from an outline."""
_MOST: Final = 0.9
"""Share of the lines that must look alike."""


@dataclass(frozen=True, slots=True)
class Pose:
    """Keypoints of an object, and numbers of each (2 or 3). names may be empty, notes says what they come from."""

    count: int
    numbers: int
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def read(self, shares: Values, where: str) -> Values:
        """float64 [K, 3] (x, y, visibility) of a line's numbers after its class, all keypoints unlabeled in a line that
        is a box alone. Of 2 numbers, those that are negative or both 0 are unlabeled.

        Raises BrokenRecord for another count.
        """
        if len(shares) == 4:
            return np.zeros((self.count, 3))
        if len(shares) != 4 + self.count * self.numbers:
            raise BrokenRecord(
                "keypoint count",
                f"{where} has {len(shares)} numbers after its class, not a box and {SHAPE} {self.count} x "
                f"{self.numbers}, which are {4 + self.count * self.numbers}",
            )
        keypoints = shares[4:].reshape(self.count, self.numbers)
        if self.numbers == 3:
            return keypoints
        labeled = (keypoints.min(axis=1) >= 0) & (keypoints.max(axis=1) > 0)
        return np.concatenate([keypoints * labeled[:, None], 2.0 * labeled[:, None]], axis=1)


def read_pose(document: Mapping[str, Any], file: Path) -> Pose | None:
    """What a YAML says of keypoints; None where it says nothing. Raises DatasetError for a shape that is none."""
    shape = document.get(SHAPE)
    if not shape:
        return None
    if not isinstance(shape, list) or len(shape) != 2 or type(shape[0]) is not int or shape[0] < 1:
        raise DatasetError(f"{file}: '{SHAPE}' is {shape!r}: it needs the number of keypoints, then 2 or 3")
    if shape[1] not in (2, 3):
        raise DatasetError(f"{file}: '{SHAPE}' is {shape!r}: a keypoint is 2 numbers (x, y) or 3 (x, y, visibility)")
    count, numbers = shape
    names = document.get("kpt_names")
    if isinstance(names, dict) and names:  # by class; a model has the same for all
        names = next(iter(names.values()))
    if isinstance(names, list) and len(names) == len(set(map(str, names))) == count:
        return Pose(count, numbers, tuple(map(str, names)))
    swapped = document.get("flip_idx")
    if isinstance(swapped, list) and sorted(map(str, swapped)) == sorted(map(str, range(count))):
        return Pose(count, numbers, *_sides([int(number) for number in swapped]))
    return Pose(count, numbers)


def _sides(swapped: list[int]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names by which a mirror image swaps keypoint i with swapped[i], and a note on them."""
    names = [f"keypoint {number + 1}" for number in range(len(swapped))]
    for first, second in enumerate(swapped):
        if first < second and swapped[second] == first:
            names[first], names[second] = f"left_{first + 1}", f"right_{first + 1}"
    paired = any(name.startswith("left") for name in names)
    notes = ("keypoints have no names: the first of each pair in flip_idx is called left",) if paired else ()
    return tuple(names), notes


class LinesSeen:
    """Whether the lines of a split are outlines, or a box and keypoints each, told from all of them together."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._alike: dict[int, Counter[int]] = {2: Counter(), 3: Counter()}

    def add(self, shares: Values) -> None:
        """One more line: the numbers after its class."""
        if len(shares) <= 4:
            return
        self._counts[len(shares)] += 1
        for numbers, alike in self._alike.items():
            alike[len(shares)] += _has_pose(shares, numbers)

    def require_outlines(self, name: str, origin: Path) -> None:
        """Raises DatasetError, which starts with `name`, where they are no outlines; `origin` is where names stand."""
        count, lines = next(iter(self._counts.most_common(1)), (0, 0))
        if not lines or lines < _MOST * self._counts.total():
            return
        numbers = max(self._alike, key=lambda one: self._alike[one][count])
        if self._alike[numbers][count] < _MOST * lines:
            return
        keypoints = (count - 4) // numbers
        file = origin if origin.is_file() else origin / "data.yaml"
        raise DatasetError(
            f"{name}: the lines look like YOLO pose (class, box and {keypoints} keypoints each), which would be wrong "
            f"outlines, and nothing says what they are: write {SHAPE}: [{keypoints}, {numbers}] into {file}, or "
            f"{SHAPE}: [] if they are outlines"
        )


def _has_pose(shares: Values, numbers: int) -> bool:
    """Whether a line can be a box with keypoints inside, and no outline."""
    rest = len(shares) - 4
    if rest % numbers or not np.isfinite(shares).all():
        return False
    center, sides, points = shares[:2], shares[2:4], shares[4:].reshape(-1, numbers)
    if numbers == 3:
        if not np.isin(points[:, 2], (0, 1, 2)).all():
            return False
        points = points[points[:, 2] > 0]
    points = points[(points[:, :2] > 0).any(axis=1), :2]
    low, high = center - sides / 2, center + sides / 2
    slack = _NEAR * sides
    in_image = (low > -_NEAR).all() and (high < 1 + _NEAR).all() and (sides > 0).all()
    if not len(points) or not in_image or (points < low - slack).any() or (points > high + slack).any():
        return False
    if numbers == 3:
        return True  # an outline has no numbers that are all 0, 1 or 2
    if (np.ptp(points, axis=0) >= _SPREAD * sides).all():
        return True  # the first point of an outline is at its edge, not in the middle
    # as an outline, the sides would be a point of it
    around = np.concatenate([points, center[None]])
    size = np.ptp(around, axis=0)
    return bool(((sides < around.min(axis=0) - size) | (sides > around.max(axis=0) + size)).any())
