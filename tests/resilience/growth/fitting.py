"""What an event leaves behind, of looks at a process's memory: a slope, and the interval that it lies in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
from numpy.typing import ArrayLike

BLOCK = 5
"""Looks of which the lowest counts: what comes and goes is not what stays."""
LEAST_BLOCKS = 3
"""For a line and what it leaves."""


@dataclass(frozen=True, slots=True)
class Slope:
    """What grew with each event, and how far it may be from that, either way, with 95 %."""

    each: float
    within: float

    @property
    def at_least(self) -> float:
        return self.each - self.within

    @property
    def at_most(self) -> float:
        return self.each + self.within

    def scaled(self, factor: float) -> Slope:
        return Slope(self.each * factor, self.within * factor)


def slope(events: ArrayLike, figures: ArrayLike) -> Slope:
    """Of `figures` [N], each looked at after so many `events` [N], rising: a straight line through the lowest of each
    block, after the first third, in which caches fill.

    What an allocator holds depends on what it held before, so neighbors are not N pieces of evidence. The interval is
    that of as many as their correlation leaves (an autoregression of order one, as for trends of temperature: Santer
    et al. 2000, section 4), that correlation being corrected for what a fitted line takes of it. Where too few are
    left it is endless. Raises ValueError: not three blocks are left.
    """
    x, y = _lows(np.asarray(events, float), np.asarray(figures, float))
    count = len(x)
    if count < LEAST_BLOCKS:
        raise ValueError(
            f"{count} blocks of {BLOCK} looks are left after the first third; at least {LEAST_BLOCKS} are wanted"
        )
    deviation = x - x.mean()
    each = float(deviation @ y / (deviation @ deviation))
    rest = y - y.mean() - each * deviation
    left = float(rest @ rest)
    if left == 0.0:
        return Slope(each, 0.0)
    correlation = float(rest[1:] @ rest[:-1]) / left
    correlation = min(1.0, max(0.0, correlation + (1 + 4 * correlation) / count))
    degrees = count * (1 - correlation) / (1 + correlation) - 2
    if degrees < 1:
        return Slope(each, inf)
    from scipy.stats import t  # slow to import, and only a judgment needs it

    error = sqrt(left / degrees / float(deviation @ deviation))
    return Slope(each, float(t.ppf(0.975, degrees)) * error)


def are_enough(looks: int) -> bool:
    """For a slope."""
    return (looks - looks // 3) // BLOCK >= LEAST_BLOCKS


def together(slopes: Mapping[str, Slope], counts: Mapping[str, int]) -> Slope:
    """What so many events of each kind leave behind, the kinds having been measured one by one."""
    each = sum(counts[name] * one.each for name, one in slopes.items())
    return Slope(each, sqrt(sum((counts[name] * one.within) ** 2 for name, one in slopes.items())))


def says(found: Slope, most: float) -> str:
    """Of a slope that may be `most`."""
    if found.at_most <= most:
        return "steady"
    return "growing" if found.at_least > most else "undecided"


def _lows(events: np.ndarray, figures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first = len(events) // 3
    first += (len(events) - first) % BLOCK  # what does not fill a block goes, too
    blocks = figures[first:].reshape(-1, BLOCK)
    lowest = blocks.argmin(axis=1)
    rows = np.arange(len(blocks))
    return events[first:].reshape(-1, BLOCK)[rows, lowest], blocks[rows, lowest]
