"""What each thing that the soak's hour does leaves behind in the server's memory, and so what the hour does.

    python -m tests.resilience.growth                              # an hour or more on two cores
    python -m tests.resilience.growth --only reload --scale 0.5    # half as many of one kind
    python -m tests.resilience.growth --json growth.json           # with each look, written anew after each

An hour of the soak is 60 new versions, 78 pictures in tiles, 65 damaged files and 7,777 good ones. A leak of 1 MB in
that is lost in what allocators keep for a while. Here there are hundreds and thousands of each kind, one kind after the
other, and after every few a look at what the process holds when it has nothing to do. A new version comes while a
picture is seen in tiles, each time: its tiles are remembered, and of the same version none would be computed again.
Every answer is compared with the one that the same request got before. The exit status is 1 where one differs, or where
the hour is sure to leave more than 1 MB.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import httpx

from tests.resilience.growth.fitting import Slope, are_enough, says, slope, together
from tests.resilience.soak.asking import Answer, ask, cases
from tests.resilience.soak.figures import MOST_MEGABYTES_AN_HOUR
from tests.resilience.soak.serving import publish, running
from tests.resilience.soak.watching import look

QUIET = 0.3
"""Seconds without a request before a look."""
AT_ONCE = 3
PATIENCE = 600.0
"""Seconds for an answer: a machine that does other work, too, is no finding."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Of event: how many the soak's hour had (docs/reliability.md), how many there are here, and between two looks."""

    name: str
    hourly: int
    events: int
    between: int


# Between two looks each file of a kind is asked for equally often.
KINDS = (Kind("reload", 60, 300, 1), Kind("bad", 65, 3000, 20), Kind("tiled", 78, 120, 1), Kind("good", 7777, 3600, 24))


@dataclass(frozen=True, slots=True)
class Look:
    """Bytes: resident, allocated in the C library, kept free in it. `objects`: Python's small blocks."""

    events: int
    resident: int
    allocated: int
    free: int
    objects: int


@dataclass(frozen=True, slots=True)
class Found:
    """Of one kind, for each event: bytes that are resident, bytes that are allocated, Python's small blocks."""

    resident: Slope
    allocated: Slope
    objects: Slope

    @classmethod
    def of(cls, looks: list[Look]) -> Found:
        events = [one.events for one in looks]
        return cls(
            slope(events, [one.resident for one in looks]),
            slope(events, [one.allocated for one in looks]),
            slope(events, [one.objects for one in looks]),
        )


def row(name: str, looks: list[Look], found: Found) -> str:
    def each(one: Slope, unit: float) -> str:
        return f"{one.each / unit:+.2f} ± {one.within / unit:.2f}"

    last = looks[-1]
    return (
        f"{name:7}{last.events:6d}, each {each(found.resident, 1e3)} kB resident, {each(found.allocated, 1e3)} kB "
        f"allocated, {each(found.objects, 1)} objects; in the end {last.resident / 1e6:.0f} MB, of which "
        f"{last.allocated / 1e6:.0f} allocated; {last.free / 1e6:.0f} free, not all of it resident"
    )


def looked(process: subprocess.Popen[str], events: int) -> Look:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    told = json.loads(process.stdout.readline())
    return Look(events, int(look(process.pid, 0.0).megabytes * 2**20), **told)


class Doing:
    """Does to a server what the soak does, and tells what it answers otherwise than at first."""

    def __init__(self, client: httpx.AsyncClient, models: Path) -> None:
        self.findings: list[str] = []
        self._client = client
        self._models = models
        self._cases = cases()
        self._known: dict[str, Answer] = {}
        self._asked = 0

    async def learn(self, kinds: list[Kind]) -> None:
        """What is answered at first, of these kinds and of what is asked after a new version."""
        asked = {"good", *(kind.name for kind in kinds)}
        self._known = {one.name: (await ask(self._client, one)).answer for one in self._cases if one.kind in asked}

    async def do(self, kind: Kind) -> None:
        """As much as there is between two looks. After each new version, a prediction."""
        if kind.name == "tiled":
            await asyncio.gather(self._predict(kind.name, kind.between), self._reload())
            return
        if kind.name == "reload":
            for _ in range(kind.between):
                await self._reload()
        await self._predict("good" if kind.name == "reload" else kind.name, kind.between)

    async def _reload(self) -> None:
        version = await asyncio.to_thread(publish, self._models)
        answer = await self._client.post("/models/nuclei/reload")
        if answer.status_code != 200 or answer.json()["version"] != version:
            self.findings.append(f"version {version} was not loaded: {answer.text}")

    async def _predict(self, kind: str, count: int) -> None:
        own = [case for case in self._cases if case.kind == kind]
        some = [own[(self._asked + number) % len(own)] for number in range(count)]
        self._asked += count
        for outcome in await asyncio.gather(*(ask(self._client, case) for case in some)):
            if outcome.answer != self._known[outcome.case.name]:
                self.findings.append(f"{outcome.case.name}: answered otherwise: {str(outcome.answer)[:300]}")


async def run(kinds: list[Kind], file: Path | None) -> tuple[dict[str, Found], list[str]]:
    """What each kind leaves behind, and what was answered otherwise. Looks are written into `file` while it runs."""
    seen: dict[str, list[Look]] = {}
    found: dict[str, Found] = {}
    with tempfile.TemporaryDirectory(prefix="maskserve-growth-") as place:
        publish(Path(place))
        with running(Path(place), "tests.resilience.growth.server", subprocess.PIPE) as (process, url):
            limits = httpx.Limits(max_connections=AT_ONCE)
            async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, limits=limits) as client:
                doing = Doing(client, Path(place))
                await doing.learn(kinds)
                for kind in kinds:
                    looks = seen[kind.name] = []
                    for events in range(kind.between, kind.events + 1, kind.between):
                        await doing.do(kind)
                        await asyncio.sleep(QUIET)
                        looks.append(looked(process, events))
                        write(seen, file)
                    found[kind.name] = Found.of(looks)
                    print(row(kind.name, looks, found[kind.name]), flush=True)
    return found, doing.findings


def write(seen: Mapping[str, list[Look]], file: Path | None) -> None:
    if file is not None:
        looks = {name: [asdict(one) for one in each] for name, each in seen.items()}
        file.write_text(json.dumps(looks) + "\n")


def hour(slopes: Mapping[str, Slope]) -> Slope:
    """Megabytes after an hour of the kinds that were measured, of what each event leaves in bytes."""
    return together(slopes, {kind.name: kind.hourly for kind in KINDS}).scaled(1e-6)


def main() -> int:
    names = [kind.name for kind in KINDS]
    parser = argparse.ArgumentParser(
        prog="python -m tests.resilience.growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="KIND", help=f"of {', '.join(names)}"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="how many times as many events (default: 1)")
    parser.add_argument("--json", type=Path, help="write the looks here")
    options = parser.parse_args()
    kinds = [replace(one, events=round(one.events * options.scale)) for one in KINDS if one.name in options.only]
    for kind in kinds:
        if not are_enough(kind.events // kind.between):
            parser.error(f"--scale {options.scale:g} leaves too few looks at {kind.name} for a slope; give more")
    found, findings = asyncio.run(run(kinds, options.json))
    resident = hour({name: one.resident for name, one in found.items()})
    allocated = hour({name: one.allocated for name, one in found.items()})
    for name, one in (("resident", resident), ("allocated", allocated)):
        said = says(one, MOST_MEGABYTES_AN_HOUR)
        print(f"an hour of the soak: {one.each:+.2f} MB {name}, {one.at_least:.2f} to {one.at_most:.2f}: {said}")
        if said == "growing":
            findings.append(f"{name} memory grows by at least {one.at_least:.1f} MB in the soak's hour")
    for finding in dict.fromkeys(findings):
        print(f"FINDING: {finding}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
