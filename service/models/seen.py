"""What the processes of a group have seen of the repository: one that is started again looks no further than the
others have, or it would serve versions of which they know nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, TypeAlias

Versions: TypeAlias = Mapping[str, tuple[int, ...]]
"""Of every model, rising."""

_within: Final[ContextVar[Versions | None]] = ContextVar("within", default=None)

logger = logging.getLogger(__name__)


def read_versions(value: Mapping[str, Sequence[int]] | None) -> Versions | None:
    """What JSON made of them."""
    return None if value is None else {name: tuple(versions) for name, versions in value.items()}


@contextmanager
def looking_within(seen: Versions | None) -> Iterator[None]:
    """Inside the block this task sees no more of the repository; None: all of it."""
    token = _within.set(seen)
    try:
        yield
    finally:
        _within.reset(token)


def seen_by_this_task(found: Versions) -> Versions:
    """`found`, as far as the task may look."""
    return limited(found, _within.get())


def limited(found: Versions, seen: Versions | None) -> Versions:
    """Of what is there, what was seen; None: all. Where nothing of a model is left of it, what is there in its place,
    with a line in the log: something should answer."""
    if seen is None:
        return found
    left = {}
    for name, versions in found.items():
        if known := seen.get(name):
            left[name] = tuple(version for version in versions if version in known)
            if not left[name]:
                _tell(name, known, versions)
                left[name] = versions
    if left or not found:
        return left
    for name, known in seen.items():
        _tell(name, known, ())
    return found


def _tell(name: str, known: tuple[int, ...], there: tuple[int, ...]) -> None:
    logger.warning(
        "the versions of %s that the other processes have seen (%s) are gone from the repository, which has %s: this "
        "process may answer by others than they do; reload the model",
        name,
        ", ".join(map(str, known)) or "none",
        ", ".join(map(str, there)) or "none",
    )
