"""Mistakes planted into manifests, so that each check is shown to find one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from tests.docker.kubernetes.manifests import Manifest, build, name_of

REMOVED: Final = object()


@dataclass(frozen=True)
class Mistake:
    """In what `folder` builds, `value` stands at `path`, words and indices, of an object such as Service/maskserve.

    said: part of what a check has to say of it.
    """

    folder: str
    target: str
    path: str
    value: Any
    said: str

    def __str__(self) -> str:
        value = "removed" if self.value is REMOVED else str(self.value)[:40]
        return f"{self.target} {self.path} {value}"

    def planted(self) -> Manifest:
        """The object alone."""
        (one,) = (document for document in self.plant() if name_of(document) == self.target)
        return one

    def plant(self) -> list[Manifest]:
        documents = build(self.folder)
        place: Any = next(document for document in documents if name_of(document) == self.target)
        *parents, last = (int(word) if word.isdecimal() else word for word in self.path.split())
        for key in parents:
            place = place[key]
        if self.value is REMOVED:
            del place[last]
        else:
            assert isinstance(place, list) or place.get(last) != self.value, "nothing would change"
            place[last] = self.value
        return documents
