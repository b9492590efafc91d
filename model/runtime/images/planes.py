"""Which of the pictures in one file is meant: pages, channels, focal planes, points of time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PlaneChoice:
    """What was asked for, counted from 0. None where nothing was: then the first is taken.

    `page` counts all planes in the file's own order; `z`, `t` and `channel` go by the axes that it states.
    """

    page: int | None = None
    z: int | None = None
    t: int | None = None
    channel: int | None = None


FIRST_PLANE = PlaneChoice()


@dataclass(frozen=True, slots=True)
class PlaneAxis:
    """Which of several was taken: `index`, counted from 0, of `size` along the axis page, z, t or channel."""

    name: str
    index: int
    size: int
