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
"""Turns of INTERACTIVE for one of BULK while both wait, and at least so many times the seconds of that: bulk work gets
on, and costs the others at most a quarter."""

MOST_INTERACTIVE_TURNS: Final = 30
"""However short they are."""

SHARES: Final = {
    Priority.INTERACTIVE: INTERACTIVE_TURNS / (INTERACTIVE_TURNS + 1),
    Priority.BULK: 1 / (INTERACTIVE_TURNS + 1),
}
"""The share of the time that each priority can count on, however much of the other waits; BULK where its turns take no
less than the others'."""

SLACK: Final = 0.01
"""Seconds that nobody is owed: of turns that are as long, none ever takes exactly as long as another."""

NEWEST_WEIGHT: Final = 0.2
"""Of the last turn in the running mean of BULK's seconds."""


class Turns:
    """Hands out turns so that neither priority starves the other. Turns of which nobody tells how long they took count
    as equally long."""

    def __init__(self) -> None:
        self._streak = 0
        self._streak_seconds = 0.0
        self._bulk_seconds = 0.0

    def choose(self, waiting: Collection[Priority]) -> Priority:
        """Whose turn it is now, of those that wait (one or both), who takes it."""
        chosen = self.following(waiting)
        if len(waiting) > 1 and chosen is Priority.INTERACTIVE:
            self._streak += 1
        else:
            self._streak, self._streak_seconds = 0, 0.0
        return chosen

    def took(self, priority: Priority, seconds: float) -> None:
        """A turn of this priority has ended, after so long."""
        if priority is Priority.BULK:
            before = self._bulk_seconds
            self._bulk_seconds = before + NEWEST_WEIGHT * (seconds - before) if before else seconds
        elif self._streak:
            self._streak_seconds += seconds

    def following(self, waiting: Collection[Priority]) -> Priority:
        """Whose turn it is now, and stays until it is taken."""
        if len(waiting) == 1:
            return next(iter(waiting))
        is_owed = INTERACTIVE_TURNS * self._bulk_seconds - self._streak_seconds > SLACK
        most = MOST_INTERACTIVE_TURNS if is_owed else INTERACTIVE_TURNS
        return Priority.INTERACTIVE if self._streak < most else Priority.BULK
