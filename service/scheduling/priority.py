"""The two priorities of requests, and whose turn it is when both wait."""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum
from typing import Final


class Priority(Enum):
    """`INTERACTIVE` is for someone who waits, `BULK` for work that can take its time."""

    INTERACTIVE = "interactive"
    BULK = "bulk"

    __hash__ = object.__hash__  # Enum's own is Python, which a request would call twenty times


INTERACTIVE_TURNS: Final = 3
"""Turns of INTERACTIVE for one of BULK while both wait: bulk work gets on, and costs the others at most a quarter."""

SHARES: Final = {
    Priority.INTERACTIVE: INTERACTIVE_TURNS / (INTERACTIVE_TURNS + 1),
    Priority.BULK: 1 / (INTERACTIVE_TURNS + 1),
}
"""The share of all turns that each priority can count on, however much of the other waits."""


class Turns:
    """Hands out turns so that neither priority starves the other."""

    def __init__(self) -> None:
        self._streak = 0

    def choose(self, waiting: Collection[Priority]) -> Priority:
        """Whose turn it is now, of those that wait (one or both), who takes it."""
        chosen = self.following(waiting)
        self._streak = self._streak + 1 if len(waiting) > 1 and chosen is Priority.INTERACTIVE else 0
        return chosen

    def following(self, waiting: Collection[Priority]) -> Priority:
        """Whose turn it is now, and stays until it is taken."""
        if len(waiting) == 1:
            return next(iter(waiting))
        return Priority.INTERACTIVE if self._streak < INTERACTIVE_TURNS else Priority.BULK
