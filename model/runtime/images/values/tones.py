"""The arithmetic of `intensity`: a picture's values counted, and scaled to 8 bits, in bands that bound the memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from model.runtime.images.errors import DamagedImage

BAND: Final = 1 << 20
"""Values that are worked on at once: some 30 MB besides the picture and its answer."""
SAMPLE: Final = 1 << 22
"""Values wider than 16 bits of which percentiles are exact; of more, evenly spaced ones stand for all."""


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """A picture's finite values: their extremes, and `ordered` float64 [N], rising, each as often as `counts` says.

    `not_finite` is how many were NaN or infinite.
    """

    least: float
    largest: float
    not_finite: int
    ordered: NDArray[np.float64]
    counts: NDArray[np.int64]

    def percentile(self, percent: float) -> float:
        """As NumPy's: between two values, in proportion."""
        ends = np.cumsum(self.counts)
        last = int(ends[-1]) - 1
        below, share = divmod(percent / 100 * last, 1)
        first, second = np.searchsorted(ends, [int(below), min(int(below) + 1, last)], side="right")
        return float(self.ordered[first] * (1 - share) + self.ordered[second] * share)


def summarize(values: NDArray[Any]) -> Summary:
    """Of integers or floats of any shape, at least one. Raises DamagedImage when none is finite."""
    counting = counting_of(values.dtype, values.size)
    counting.add(values)
    return counting.summary()


def counting_of(dtype: np.dtype[Any], size: int) -> Counting:
    """Counts `size` values of that type, which come one part after the other."""
    return _Counted(dtype) if _is_narrow(dtype) else _Sampled(size)


def scale(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """`low` to 0 and `high` to 255, rounded to the nearest, what lies outside cut off; uint8 of the same shape.

    NaN becomes 0, and so does everything where `high` is not above `low`.
    """
    scaled = np.empty(values.shape, np.uint8)
    if _is_narrow(values.dtype):
        limits = np.iinfo(values.dtype)
        least, largest = int(limits.min), int(limits.max)
        table = _in_window(np.arange(least, largest + 1, dtype=np.float64), low, high)
        for band in _bands(values):
            scaled[band] = table[values[band].astype(np.intp) - least]
    else:
        for band in _bands(values):
            scaled[band] = _in_window(values[band].astype(np.float64), low, high)
    return scaled


def _is_narrow(dtype: np.dtype[Any]) -> bool:
    """Whether a table holds a place for every value."""
    return dtype.kind in "ui" and dtype.itemsize <= 2


def _bands(values: NDArray[Any]) -> Iterator[slice]:
    """Rows of about BAND values."""
    rows = max(1, BAND * len(values) // values.size)
    return (slice(start, start + rows) for start in range(0, len(values), rows))


class _Counted:
    """Of values that have a place in a table, whose order does not matter."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        limits = np.iinfo(dtype)
        self._least = int(limits.min)
        self._counts = np.zeros(int(limits.max) - self._least + 1, np.int64)

    def add(self, values: NDArray[Any]) -> None:
        for band in _bands(values):
            places = values[band].astype(np.intp).ravel() - self._least
            self._counts += np.bincount(places, minlength=len(self._counts))

    def summary(self) -> Summary:
        present = np.flatnonzero(self._counts)
        ordered = (present + self._least).astype(np.float64)
        return Summary(float(ordered[0]), float(ordered[-1]), 0, ordered, self._counts[present])


class _Sampled:
    """Of values without number, in the picture's order: its parts are bands of rows, from top to bottom."""

    def __init__(self, size: int) -> None:
        self._least, self._largest, self._not_finite = np.inf, -np.inf, 0
        self._step = -(-size // SAMPLE)
        self._offset = 0  # of the next value to take, from its band's start
        self._samples: list[NDArray[np.float64]] = []

    def add(self, values: NDArray[Any]) -> None:
        for band in _bands(values):
            flat = values[band].astype(np.float64).ravel()
            finite = np.isfinite(flat)
            self._not_finite += flat.size - int(np.count_nonzero(finite))
            self._least = min(self._least, float(flat.min(where=finite, initial=np.inf)))
            self._largest = max(self._largest, float(flat.max(where=finite, initial=-np.inf)))
            taken = slice(self._offset, None, self._step)
            self._samples.append(flat[taken][finite[taken]])
            self._offset = (self._offset - flat.size) % self._step

    def summary(self) -> Summary:
        least, largest, samples = self._least, self._largest, self._samples
        if largest < least:
            raise DamagedImage("the picture has no finite value: all are NaN or infinite")
        if self._step > 1:
            samples = [*samples, np.array([least, largest])]
        ordered = np.sort(np.concatenate(samples))
        return Summary(least, largest, self._not_finite, ordered, np.ones(len(ordered), np.int64))


Counting: TypeAlias = _Counted | _Sampled


def _in_window(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.uint8]:
    """As `scale`, of float64, which is overwritten."""
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    if not np.isfinite(high - low):  # as far apart as floats can be
        values, low, high = values / 2, low / 2, high / 2
    with np.errstate(over="ignore", invalid="ignore"):  # of what is far outside, or the window reaches
        values -= low
        values *= 255 / (high - low)
    np.nan_to_num(values, copy=False, nan=0.0, posinf=255.0, neginf=0.0)
    return (np.clip(values, 0, 255, out=values) + 0.5).astype(np.uint8)
