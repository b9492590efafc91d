"""The line on stderr that says that a server is ready."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Ready:
    """What is served, and by what: lists in words. `chosen` says why, for each engine that was not asked for, `proven`
    for each precision."""

    models: str
    engines: str
    precisions: str
    devices: str
    chosen: str
    proven: str = ""

    def line(self, url: str, seconds: float) -> str:
        runs = f"{self.engines}, {self.precisions}, {self.devices}, {seconds:.1f} s"
        why = (("engine", self.chosen), ("precision", self.proven))
        return f"{self.models} ready at {url} ({runs})" + "".join(
            f"; {name} auto: {text}" for name, text in why if text
        )


def unlike(members: Sequence[Ready]) -> str:
    """How each computes, in one line, where processes that serve the same would not answer alike; else nothing."""
    ways = {(member.models, member.engines, member.precisions) for member in members}
    if len(ways) == len({member.models for member in members}):
        return ""
    each = "; ".join(
        f"process {index} computes by {member.engines} in {member.precisions} on {member.devices}"
        + (f" ({member.chosen})" if member.chosen else "")
        for index, member in enumerate(members)
    )
    return f"the processes do not answer alike: {each}; say --engine and --precision, or name other devices"


def of_several(members: Sequence[Ready]) -> Ready:
    """Of processes that serve the same, each on its devices."""
    first = members[0]
    devices = ", ".join(member.devices.replace(",", "+") for member in members)
    return replace(first, devices=f"{len(members)} processes on {devices}")
