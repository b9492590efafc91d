"""What was changed of a group's models since it began: a member that is started again does the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, TypeAlias

Change: TypeAlias = tuple[Any, ...]
"""A method of `Changes`, the model's name and what else it is called with."""

PINNING: Final = ("promote", "unpin")
"""Of these the last one alone decides which version of a model answers."""


class Done:
    """In their order, without those that others have made void: each may cost the time of loading a version."""

    def __init__(self) -> None:
        self._changes: dict[Change, None] = {}

    def __iter__(self) -> Iterator[Change]:
        return iter([*self._changes])

    def __len__(self) -> int:
        return len(self._changes)

    def add(self, change: Change) -> None:
        # The last of equal ones is enough. What is promoted after its model was unloaded is served again besides.
        what, name = change[:2]
        if what in PINNING and not any(one[0] == "unload" and one[1] == name for one in self._changes):
            for one in [one for one in self._changes if one[0] in PINNING and one[1] == name]:
                del self._changes[one]
        self._changes.pop(change, None)
        self._changes[change] = None
