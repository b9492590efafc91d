"""The embedded model at 80 % of what it can do, while versions come and clients of bad will do their worst.

    python -m tests.resilience.soak --minutes 60             # a line a minute, then the figures
    python -m tests.resilience.soak --minutes 5 --json soak.json

A new version of the model is published and loaded each minute. 1 % of the requests are damaged files, 1 % pictures that
are seen in tiles. Every answer is compared with the one that the same request got before, alone. In every second minute
there are 2,000 idle connections and slow, endless, abandoned and smuggled requests beside (`nuisances`). Server and
clients share the machine. The exit status is 1 where an answer differs, a version is late, or something grows.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx
import numpy as np

from model.runtime.bundles.bundle import ManifestDraft, open_bundle, publish_bundle
from tests.resilience.soak.asking import Answer, Case, Outcome, ask, cases, choose
from tests.resilience.soak.nuisances import IDLE, annoy
from tests.resilience.soak.watching import Sample, growth, look

EMBEDDED = Path(__file__).resolve().parents[3] / "model" / "embedded" / "nuclei"
SHARE = 0.8
CAPACITY_SECONDS = 30.0
CLIENTS = 3
"""At once, while capacity is measured."""
MINUTE = 60.0
KEPT = 2
"""Versions that stay in the repository."""
JUDGED_MINUTES = 30
"""From so many on a slope and a p99 say something."""
MOST_MEGABYTES_AN_HOUR = 1.0
MOST_REFUSED = 0.01
"""Share of the requests that may get 429: the capacity is a mean."""
STEADY = 1.5
"""How many times the first third's p99 the last third's may be."""


@dataclass
class Minute:
    """One minute of the run. Milliseconds are of good requests that are not tiled."""

    number: int
    nuisances: bool
    outcomes: list[Outcome] = field(default_factory=list)
    unanswered: int = 0
    refused: int = 0

    def milliseconds(self, percentile: float) -> float:
        answered = (outcome for outcome in self.outcomes if outcome.answer.status == 200)
        seconds = [outcome.seconds for outcome in answered if outcome.case.kind == "good"]
        return float(np.percentile(seconds, percentile)) * 1e3 if seconds else 0.0


@dataclass
class Soak:
    """What was found, and what is measured."""

    capacity: float = 0.0
    minutes: list[Minute] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    versions: int = 1
    findings: list[str] = field(default_factory=list)


@contextmanager
def serving(models: Path) -> Iterator[tuple[int, str]]:
    """The process's id and its URL."""
    command = [sys.executable, "-m", "service", "--port", "0", "--models", str(models), "--poll-interval-ms", "0"]
    # Into a file: a pipe that nobody reads is full after what libtiff says of some damaged pictures.
    with tempfile.NamedTemporaryFile("r") as said, open(said.name, "w") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr)
        try:
            while (ready := re.search(r"ready at (http://\S+)", Path(said.name).read_text())) is None:
                assert process.poll() is None, Path(said.name).read_text()
                time.sleep(0.1)
            yield process.pid, ready[1]
        finally:
            process.terminate()
            process.wait()


def publish(models: Path) -> int:
    """The embedded model as another version; older ones than `KEPT` go."""
    source = open_bundle(EMBEDDED / "1", verify=False)
    known = {name: getattr(source.manifest, name) for name in ManifestDraft.model_fields}
    with tempfile.TemporaryDirectory() as staging:
        for name in source.manifest.files:
            (Path(staging) / name).symlink_to(source.file(name))
        version = publish_bundle(Path(staging), ManifestDraft(**known), models, "nuclei").manifest.version
    shutil.rmtree(models / "nuclei" / str(version - KEPT), ignore_errors=True)
    return version


async def capacity(client: httpx.AsyncClient, among: list[Case], seed: int) -> float:
    """Requests of the mix that are answered in a second, when some always wait."""
    draw, end, done = random.Random(seed), time.perf_counter() + CAPACITY_SECONDS, 0

    async def keep_asking() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await ask(client, choose(among, draw))
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(keep_asking() for _ in range(CLIENTS)))
    return done / (time.perf_counter() - began)


async def reload(client: httpx.AsyncClient, models: Path, soak: Soak) -> None:
    version = await asyncio.to_thread(publish, models)
    answer = await client.post("/models/nuclei/reload")
    if answer.status_code != 200 or answer.json()["version"] != version:
        soak.findings.append(f"version {version} was not loaded: {answer.text}")
    soak.versions = version


@asynccontextmanager
async def nuisances(url: str, soak: Soak, present: bool) -> AsyncIterator[None]:
    host, port = url.removeprefix("http://").split(":")
    task = asyncio.create_task(annoy(host, int(port), soak.findings)) if present else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def play(
    client: httpx.AsyncClient, among: list[Case], known: dict[str, Answer], soak: Soak, minute: Minute, seed: int
) -> None:
    """Requests at an even rate, whatever becomes of those before."""
    draw, interval, began = random.Random(seed), 1 / (SHARE * soak.capacity), time.perf_counter()
    asked: list[asyncio.Task[None]] = []
    newest = 0

    async def one(case: Case) -> None:
        nonlocal newest
        least = newest
        try:
            outcome = await ask(client, case)
        except httpx.HTTPError as error:
            minute.unanswered += 1
            soak.findings.append(f"{case.name}: {error!r}")
            return
        minute.outcomes.append(outcome)
        if outcome.answer.status == 429:
            minute.refused += 1  # how many is judged in the end
        elif outcome.answer != known[case.name]:
            soak.findings.append(f"{case.name}: answered otherwise: {str(outcome.answer)[:300]}")
        if outcome.version and outcome.version < least:
            soak.findings.append(f"{case.name}: version {outcome.version} answers after {least}")
        newest = max(newest, outcome.version)

    while time.perf_counter() - began < MINUTE:
        asked.append(asyncio.create_task(one(choose(among, draw))))
        await asyncio.sleep(max(0.0, began + len(asked) * interval - time.perf_counter()))
    await asyncio.gather(*asked)


async def run(minutes: int, seed: int) -> Soak:
    soak, among = Soak(), cases()
    with tempfile.TemporaryDirectory(prefix="maskserve-soak-") as place:
        models = Path(place)
        publish(models)
        with serving(models) as (pid, url):
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=50)
            async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
                known = {case.name: (await ask(client, case)).answer for case in among}
                soak.capacity = await capacity(client, among, seed)
                print(f"capacity {soak.capacity:.2f} requests a second, of which {SHARE:.0%} are asked", flush=True)
                began = time.perf_counter()
                for number in range(minutes):
                    minute = Minute(number, nuisances=number % 2 == 1)
                    soak.minutes.append(minute)
                    async with nuisances(url, soak, minute.nuisances):
                        new = asyncio.create_task(reload(client, models, soak))
                        await play(client, among, known, soak, minute, seed + number)
                        await new
                    if not minute.nuisances:
                        soak.samples.append(look(pid, time.perf_counter() - began))
                    print(line(minute, soak), flush=True)
                await none_failed(client, soak)
    judge(soak)
    return soak


async def none_failed(client: httpx.AsyncClient, soak: Soak) -> None:
    """Nor was anybody else answered with 5xx."""
    text = (await client.get("/metrics")).text
    for failed in re.findall(r'^maskserve_requests_total\{.*status="5\d\d"\} [1-9].*$', text, re.MULTILINE):
        soak.findings.append(failed)


def line(minute: Minute, soak: Soak) -> str:
    statuses = Counter(outcome.answer.status for outcome in minute.outcomes)
    state = soak.samples[-1] if soak.samples else None
    said = f"{state.megabytes:.0f} MB, {state.descriptors} files, {state.threads} threads" if state else ""
    return (
        f"minute {minute.number + 1:3d}{' with nuisances' if minute.nuisances else '':16s}: "
        f"{', '.join(f'{count} x {status}' for status, count in sorted(statuses.items()))}; median "
        f"{minute.milliseconds(50):.0f} ms, p99 {minute.milliseconds(99):.0f} ms; {said}"
    )


def p99(minutes: Sequence[Minute]) -> float:
    return float(np.median([minute.milliseconds(99) for minute in minutes])) if minutes else 0.0


def judge(soak: Soak) -> None:
    """What is known in the end, and of that what only a long run can say."""
    refused, asked = (
        sum(numbers) for numbers in zip(*((m.refused, len(m.outcomes)) for m in soak.minutes), strict=True)
    )
    if refused > MOST_REFUSED * asked:
        soak.findings.append(f"{refused} of {asked} requests were refused for load: the machine does other work, too?")
    if len(soak.minutes) < JUDGED_MINUTES:
        return
    slope, descriptors, threads = growth(soak.samples)
    quiet = [minute for minute in soak.minutes if not minute.nuisances]
    third = len(quiet) // 3
    if slope > MOST_MEGABYTES_AN_HOUR:
        soak.findings.append(f"memory grows by {slope:.1f} MB an hour")
    if descriptors > 0 or threads > 0:
        soak.findings.append(f"{descriptors:g} descriptors and {threads:g} threads more than in the beginning")
    if p99(quiet[-third:]) > STEADY * p99(quiet[:third]):
        soak.findings.append(f"p99 went from {p99(quiet[:third]):.0f} to {p99(quiet[-third:]):.0f} ms")


def report(soak: Soak) -> dict[str, object]:
    outcomes = [outcome for minute in soak.minutes for outcome in minute.outcomes]
    grown = growth(soak.samples) if len(soak.samples) > 2 else None
    quiet = [minute for minute in soak.minutes if not minute.nuisances]
    annoyed = [minute for minute in soak.minutes if minute.nuisances]
    return {
        "minutes": len(soak.minutes),
        "capacity": soak.capacity,
        "requests": len(outcomes),
        "by kind": Counter(outcome.case.kind for outcome in outcomes),
        "by status": Counter(outcome.answer.status for outcome in outcomes),
        "refused (429), unanswered": [
            sum(minute.refused for minute in soak.minutes),
            sum(minute.unanswered for minute in soak.minutes),
        ],
        "versions": soak.versions,
        "median ms": [float(np.median([one.milliseconds(50) for one in some] or [0])) for some in (quiet, annoyed)],
        "p99 ms": [p99(quiet), p99(annoyed)],
        "MB an hour, more descriptors, more threads": grown,
        "samples": [asdict(sample) for sample in soak.samples],
        "findings": soak.findings,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.resilience.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, IDLE + 1000), most))
    soak = asyncio.run(run(options.minutes, options.seed))
    figures = report(soak)
    for name, value in figures.items():
        if name not in ("samples", "findings"):
            print(f"{name}: {dict(value) if isinstance(value, Counter) else value}")
    for finding in dict.fromkeys(soak.findings):
        print(f"FINDING: {finding}")
    if options.json is not None:
        options.json.write_text(json.dumps({"cores": os.cpu_count(), **figures}, indent=2) + "\n")
    return 1 if soak.findings else 0


if __name__ == "__main__":
    sys.exit(main())
