"""The embedded model at 80 % of what it can do, while versions come and clients of bad will do their worst.

    python -m tests.resilience.soak --minutes 60             # a line a minute, then the figures
    python -m tests.resilience.soak --minutes 5 --json soak.json    # written anew each minute

A new version of the model is published and loaded each minute. 1 % of the requests are damaged files, 1 % pictures that
are seen in tiles. Every answer is compared with the one that the same request got before, alone. In every second minute
there are 2,000 idle connections and slow, endless, abandoned and smuggled requests beside (`nuisances`), and the 80 %
are of what the server can do meanwhile. Server and clients share the machine. The exit status is 1 where an answer
differs, a version is late, or something grows.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import httpx

from model.runtime.bundles.errors import BundleError
from tests.resilience.soak.asking import SHARES, Answer, Case, ask, cases, choose
from tests.resilience.soak.figures import Minute, Soak, Told, judge, line, table, write
from tests.resilience.soak.nuisances import ALL_THERE, nuisances
from tests.resilience.soak.serving import publish, serving
from tests.resilience.soak.watching import Sample, watched

SHARE = 0.8
CAPACITY_SECONDS = 15.0
"""For each kind."""
CLIENTS = 3
"""At once, while capacity is measured."""
MINUTE = 60.0


async def capacity(client: httpx.AsyncClient, among: list[Case], seed: int) -> float:
    """Requests of the mix that are answered in a second, when some always wait: each kind alone, and then by shares,
    for half a minute of the mix may hold no tiled picture, or two.
    """

    async def rate(kind: str) -> float:
        draw, done, began = random.Random(seed), 0, time.perf_counter()
        own = [case for case in among if case.kind == kind]

        async def keep_asking() -> None:
            nonlocal done
            while time.perf_counter() < began + CAPACITY_SECONDS:
                await ask(client, draw.choice(own))
                done += 1

        await asyncio.gather(*(keep_asking() for _ in range(CLIENTS)))
        return done / (time.perf_counter() - began)

    return 1 / sum([share / await rate(kind) for kind, share in SHARES.items()])


async def reload(client: httpx.AsyncClient, models: Path, soak: Soak) -> None:
    try:
        version = await asyncio.to_thread(publish, models)
        answer = await client.post("/models/nuclei/reload")
    except (httpx.HTTPError, OSError, BundleError) as error:
        soak.findings.append(f"a version was not loaded: {error!r}")
        return
    if answer.status_code != 200 or answer.json()["version"] != version:
        soak.findings.append(f"version {version} was not loaded: {answer.text}")
    soak.versions = version


async def play(
    client: httpx.AsyncClient, among: list[Case], known: dict[str, Answer], soak: Soak, minute: Minute, seed: int
) -> None:
    """Requests at an even rate, whatever becomes of those before."""
    capacity = soak.capacity_beside if minute.nuisances else soak.capacity
    draw, interval, began = random.Random(seed), 1 / (SHARE * capacity), time.perf_counter()
    asked: list[asyncio.Task[None]] = []
    newest = 0

    async def one(case: Case) -> None:
        nonlocal newest
        least = newest
        try:
            outcome = await ask(client, case)
        except (httpx.HTTPError, ValueError) as error:  # or it is no JSON
            minute.unanswered += 1
            soak.findings.append(f"{case.name}: {error!r}")
            return
        minute.told.append(Told(case.kind, outcome.answer.status, outcome.seconds))
        if (
            outcome.answer.status != 429 and outcome.answer != known[case.name]
        ):  # how many of those is judged in the end
            soak.findings.append(f"{case.name}: answered otherwise: {str(outcome.answer)[:300]}")
        if outcome.version and outcome.version < least:
            soak.findings.append(f"{case.name}: version {outcome.version} answers after {least}")
        newest = max(newest, outcome.version)

    while time.perf_counter() - began < MINUTE:
        asked.append(asyncio.create_task(one(choose(among, draw))))
        await asyncio.sleep(max(0.0, began + len(asked) * interval - time.perf_counter()))
    await asyncio.gather(*asked)


async def run(minutes: int, seed: int, file: Path | None) -> Soak:
    """Writes the figures into `file` after each minute: whatever ends the run, those before are not lost."""
    soak, among = Soak(), cases()
    with tempfile.TemporaryDirectory(prefix="maskserve-soak-") as place:
        models = Path(place)
        publish(models)
        with serving(models) as (pid, url):
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=50)
            async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
                known = {case.name: (await ask(client, case)).answer for case in among}
                soak.capacity = await capacity(client, among, seed)
                async with nuisances(url, soak.findings):
                    await asyncio.sleep(ALL_THERE)
                    soak.capacity_beside = await capacity(client, among, seed)
                print(
                    f"capacity {soak.capacity:.2f} requests a second, {soak.capacity_beside:.2f} beside nuisances, of "
                    f"which {SHARE:.0%} are asked",
                    flush=True,
                )
                began = time.perf_counter()
                for number in range(minutes):
                    minute = Minute(number, nuisances=number % 2 == 1)
                    soak.minutes.append(minute)
                    seen: list[Sample] = []
                    beside = nuisances(url, soak.findings) if minute.nuisances else nullcontext()
                    async with beside, watched(pid, began, seen):
                        new = asyncio.create_task(reload(client, models, soak))
                        await play(client, among, known, soak, minute, seed + number)
                        await new
                    if not minute.nuisances:
                        soak.samples += seen
                    print(line(minute, soak), flush=True)
                    write(soak, file)
                    if not seen:
                        soak.findings.append("the server is gone")
                        break
                await none_failed(client, soak)
    judge(soak)
    return soak


async def none_failed(client: httpx.AsyncClient, soak: Soak) -> None:
    """Nor was anybody else answered with 5xx."""
    try:
        text = (await client.get("/metrics")).text
    except httpx.HTTPError as error:
        soak.findings.append(f"no metrics: {error!r}")
        return
    for failed in re.findall(r'^maskserve_requests_total\{.*status="5\d\d"\} [1-9].*$', text, re.MULTILINE):
        soak.findings.append(failed)


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
    soak = asyncio.run(run(options.minutes, options.seed, options.json))
    write(soak, options.json)
    print(table(soak))
    for finding in dict.fromkeys(soak.findings):
        print(f"FINDING: {finding}")
    return 1 if soak.findings else 0


if __name__ == "__main__":
    sys.exit(main())
