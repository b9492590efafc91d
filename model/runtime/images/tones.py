"""The arithmetic of `intensity`: a picture's values counted, and scaled to 8 bits, in bands that bound the memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

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
    return _counted(values) if _is_narrow(values.dtype) else _sampled(values)


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


def _counted(values: NDArray[Any]) -> Summary:
    limits = np.iinfo(values.dtype)
    least, largest = int(limits.min), int(limits.max)
    counts = np.zeros(largest - least + 1, np.int64)
    for band in _bands(values):
        counts += np.bincount(values[band].astype(np.intp).ravel() - least, minlength=len(counts))
    present = np.flatnonzero(counts)
    ordered = (present + least).astype(np.float64)
    return Summary(float(ordered[0]), float(ordered[-1]), 0, ordered, counts[present])


def _sampled(values: NDArray[Any]) -> Summary:
    least, largest, not_finite = np.inf, -np.inf, 0
    step = -(-values.size // SAMPLE)
    offset = 0  # of the next value to take, from its band's start
    samples: list[NDArray[np.float64]] = []
    for band in _bands(values):
        flat = values[band].astype(np.float64).ravel()
        finite = np.isfinite(flat)
        not_finite += flat.size - int(np.count_nonzero(finite))
        least = min(least, float(flat.min(where=finite, initial=np.inf)))
        largest = max(largest, float(flat.max(where=finite, initial=-np.inf)))
        samples.append(flat[offset::step][finite[offset::step]])
        offset = (offset - flat.size) % step
    if largest < least:
        raise DamagedImage("the picture has no finite value: all are NaN or infinite")
    if step > 1:
        samples.append(np.array([least, largest]))
    ordered = np.sort(np.concatenate(samples))
    return Summary(least, largest, not_finite, ordered, np.ones(len(ordered), np.int64))


def _in_window(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.uint8]:
    """As `scale`, of float64, which is overwritten."""
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    with np.errstate(over="ignore", invalid="ignore"):  # of what is far outside, or the window reaches
        values -= low
        values *= 255 / (high - low)
    np.nan_to_num(values, copy=False, nan=0.0, posinf=255.0, neginf=0.0)
    return (np.clip(values, 0, 255, out=values) + 0.5).astype(np.uint8)
