"""How a picture's values, of whatever depth, become the network's 8 bits.

One window [low, high] of the file's own values is scaled to 0..255 for all channels alike, so colors do not shift; what
lies outside becomes black or white. `auto`, the default, leaves 8 bits as they are. Of more it believes the file where
that says which range its values have, and otherwise takes the smallest usual depth (8, 10, 12, ... bits) that holds
them, less a camera's dark current. It does not stretch to the picture's own extremes: that would make noise of an empty
field visible, and faint and bright pictures alike. `benchmarks.depth` has the figures behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from model.runtime.images.errors import UnknownRange
from model.runtime.images.values.tones import Summary, counting_of, scale, summarize

Mode = Literal["auto", "full-range", "min-max", "percentile"]
AppliedMode = Literal["auto", "declared", "full-range", "min-max", "percentile"]

PERCENTILES: Final = (0.1, 99.9)
"""Of `percentile` where nothing else is asked for."""

BLACK, MIDDLE, WHITE = 0.1, 50, 99.99
"""Percentiles that `auto` takes for the darkest, the usual and the brightest value: dead and hot pixels are none."""
MARGIN: Final = 1 / 16
"""Share of the range that the darkest value may have, for `auto`, without a dark current."""
BRIGHT_FIELD, DARK_FIELD = 0.6, 0.9
"""How far the usual value lies below the brightest, as a share of the way to the darkest. In between, `auto` takes a
part of the dark current away.
"""
LARGEST_DARK_CURRENT: Final = 1 / 2
"""Share of the range that `auto` takes away at most: what is above the dark current is not magnified any further."""
OVERFLOW: Final = 1 / 8
"""Share of the range by which values may exceed it: a dark current lifts the brightest above their camera's depth."""


class Intensity(BaseModel):
    """The setting. What a request or a manifest leaves out is `auto`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Mode = Field(
        "auto",
        description="`auto`: 8 bits stay as they are, deeper values are scaled by the range that the file declares, or "
        "by the smallest usual depth that holds them, less a dark current; `full-range`: all that the file's type can "
        "hold, or `low` to `high`; `min-max`: the picture's own extremes; `percentile`: `low` to `high` percent",
    )
    low: FiniteFloat | None = Field(
        None, description="what becomes black: a value with `full-range` (default 0), percent with `percentile` (0.1)"
    )
    high: FiniteFloat | None = Field(
        None,
        description="what becomes white: a value with `full-range` (default: the type's largest), percent with "
        "`percentile` (99.9)",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.mode in ("auto", "min-max") and not (self.low is self.high is None):
            raise ValueError(
                f"low and high do not go with {self.mode}, which finds its own: ask for full-range, where they are the "
                f"file's values, or percentile, where they are percent"
            )
        if self.mode == "full-range" and self.high is not None and (self.low or 0.0) >= self.high:
            raise ValueError(f"low ({self.low or 0:g}) must be less than high ({self.high:g})")
        if self.mode == "percentile":
            low, high = self.percentiles
            if not 0 <= low < high <= 100:
                raise ValueError(f"low ({low:g}) and high ({high:g}) must be percentiles from 0 to 100, low the lesser")
        return self

    @property
    def keeps_8_bits(self) -> bool:
        """Whether 8 bits stay as they are, so that a picture of 8 bits may be resized before this is applied."""
        return self.mode == "auto"

    @property
    def percentiles(self) -> tuple[float, float]:
        """`low` and `high` as percent, those that are missing filled in."""
        low, high = PERCENTILES
        return low if self.low is None else self.low, high if self.high is None else self.high


@dataclass(frozen=True, slots=True)
class Declared:
    """What a file says of its values: the least and largest that they can have, and how many bits of them count."""

    range: tuple[float, float] | None = None
    significant_bits: int | None = None


@dataclass(frozen=True, slots=True)
class Applied:
    """What was done: `low` became black and `high` white, in the file's values. `not_finite` values became black."""

    mode: AppliedMode
    low: float
    high: float
    not_finite: int = 0


AUTO: Final = Intensity()
NOTHING: Final = Declared()


def to_uint8(
    values: NDArray[Any], intensity: Intensity = AUTO, declared: Declared = NOTHING
) -> tuple[NDArray[np.uint8], Applied | None]:
    """`values` [H, W] or [H, W, C] of any integer or float type as uint8 of the same shape, and what was done to them.

    8 bits with `auto` come back as they are, and None. Infinite values become black or white, NaN black. Deterministic.

    Raises:
        UnknownRange: `full-range` was asked for and nothing says what that is, or `low` lies above it.
        DamagedImage: no value is finite.
        TypeError: the values are neither integers nor floats, or there are none.
    """
    if values.dtype.kind not in "uif" or values.size == 0:
        raise TypeError(f"a picture's values are integers or floats, at least one, not {values.dtype} {values.shape}")
    applied = find_window(values, intensity, declared)
    return values if applied is None else scale(values, applied.low, applied.high), applied


def find_window(values: NDArray[Any], intensity: Intensity, declared: Declared) -> Applied | None:
    """What `to_uint8` does to the values. Raises as that."""
    if keeps(values.dtype, intensity):
        return None
    return _applied(values.dtype, summarize(values), intensity, declared)


class WindowSearch:
    """`find_window` of `size` values that come in bands of rows, from top to bottom, and need not be kept."""

    def __init__(self, dtype: np.dtype[Any], size: int, intensity: Intensity, declared: Declared) -> None:
        self._dtype, self._intensity, self._declared = dtype, intensity, declared
        self._counting = counting_of(dtype, size)

    def add(self, values: NDArray[Any]) -> None:
        self._counting.add(values)

    def found(self) -> Applied:
        """When all values have come."""
        return _applied(self._dtype, self._counting.summary(), self._intensity, self._declared)


def keeps(dtype: np.dtype[Any], intensity: Intensity) -> bool:
    """Whether values of that type stay as they are, whatever they are."""
    return dtype == np.uint8 and intensity.keeps_8_bits


def _applied(dtype: np.dtype[Any], summary: Summary, intensity: Intensity, declared: Declared) -> Applied:
    mode, low, high = _window(dtype, summary, intensity, declared)
    return Applied(mode, low, high, summary.not_finite)


def _window(
    dtype: np.dtype[Any], summary: Summary, intensity: Intensity, declared: Declared
) -> tuple[AppliedMode, float, float]:
    match intensity.mode:
        case "min-max":
            return "min-max", summary.least, summary.largest
        case "percentile":
            low, high = (summary.percentile(percent) for percent in intensity.percentiles)
            if high <= low:  # nearly all values are the same, and what matters are the others
                low, high = summary.least, summary.largest
            return "percentile", low, high
        case "full-range":
            return "full-range", *_asked_range(dtype, summary, intensity, declared)
    if (believed := _believed_range(summary, declared)) is not None:
        return "declared", *believed
    if (full := _believed_depth(dtype, summary, declared)) is not None:
        return "declared", *_without_dark_current(summary, full)
    for full in _depths(dtype, summary):
        low, high = _without_dark_current(summary, full)
        if high - low <= full * (1 + OVERFLOW):
            return "auto", low, high
    return "auto", summary.least, summary.largest  # floats next to the largest that there are


def _without_dark_current(summary: Summary, full: float) -> tuple[float, float]:
    """The window of values that are meant to lie in 0..full: moved up by a dark current, and wider if they need it.

    A dark current shows where most of the picture is near its darkest value. A bright field is near its brightest, and
    keeps its black at 0.
    """
    black, middle, white = (summary.percentile(percent) for percent in (BLACK, MIDDLE, WHITE))
    low = black
    if black >= 0:
        below = (white - middle) / (white - black) if white > black else 0.0
        darkness = min(max((below - BRIGHT_FIELD) / (DARK_FIELD - BRIGHT_FIELD), 0.0), 1.0)
        low = darkness * min(max(black - full * MARGIN, 0.0), full * LARGEST_DARK_CURRENT)
    return low, low + max(full, white - low)


def _depths(dtype: np.dtype[Any], summary: Summary) -> Iterator[float]:
    """The largest values of the usual depths, rising. Floats up to 1 are taken for 16 bits divided by 65535."""
    if dtype.kind == "f":
        if summary.percentile(WHITE) <= 1 + OVERFLOW:
            yield from ((2**bits - 1) / 65535 for bits in range(8, 18, 2))
        yield from (2.0**bits - 1 for bits in range(2, 8, 2))
    yield from (2.0**bits - 1 for bits in range(8, 1024, 2))


def _believed_range(summary: Summary, declared: Declared) -> tuple[float, float] | None:
    """The declared range, unless all of the picture lies outside, or it is the picture's own least and largest value:
    so write programs that only looked at the picture, and it says nothing of what its values could be.
    """
    if declared.range is None:
        return None
    low, high = declared.range
    if not (np.isfinite(high - low) and low < high and low < summary.largest and high > summary.least):
        return None
    return None if (low, high) == (summary.least, summary.largest) else (low, high)


def _believed_depth(dtype: np.dtype[Any], summary: Summary, declared: Declared) -> float | None:
    """The largest value of the declared bits, where those are fewer than the type's: else they say nothing new.

    Where values are larger, the bits are meant as PNG's sBIT is, the upper ones, and the values fill their type.
    """
    bits, width = declared.significant_bits, dtype.itemsize * 8
    if bits is None or dtype.kind != "u" or not 1 <= bits < width:
        return None
    return 2.0**bits - 1 if summary.largest <= 2**bits - 1 else 2.0**width - 1


def _asked_range(
    dtype: np.dtype[Any], summary: Summary, intensity: Intensity, declared: Declared
) -> tuple[float, float]:
    """Of `full-range`: what is not given comes from the file or its type."""
    low, high = intensity.low, intensity.high
    if high is None:
        least, high = _full_range(dtype, summary, declared)
        low = least if low is None else low
    low = 0.0 if low is None else low
    if low >= high:
        raise UnknownRange(f"low ({low:g}) is not below the largest value that the picture can have ({high:g})")
    return low, high


def _full_range(dtype: np.dtype[Any], summary: Summary, declared: Declared) -> tuple[float, float]:
    if (believed := _believed_range(summary, declared)) is not None:
        return believed
    if (full := _believed_depth(dtype, summary, declared)) is not None:
        return 0.0, full
    if dtype.kind != "f" and dtype.itemsize <= 2:
        limits = np.iinfo(dtype)
        return (float(limits.min) if summary.least < 0 else 0.0), float(limits.max)
    full = 1.0 if dtype.kind == "f" else 65535.0  # nothing fills the 32 bits of an integer
    if summary.least >= 0 and summary.largest <= full:
        return 0.0, full
    raise UnknownRange(
        f"values from {summary.least:g} to {summary.largest:g} as {dtype.name} have no full range; "
        f"give high (and low), or ask for another intensity"
    )
