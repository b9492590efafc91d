"""What good clients notice of those of bad will: their latency in quiet and in hostile seconds, in turns.

    python -m tests.resilience.latency --rounds 6 --seconds 20

Good clients each ask the embedded model for one picture after the other, and compare every answer with the one that the
same request got before, alone. In the hostile seconds there are 2,000 idle connections and the other nuisances of the
soak, in a process of their own. Server and clients share the machine. The exit status is 1 where the median or p99 is
more than twice the quiet one, or an answer differs.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np

from model.console.arguments import whole
from tests.resilience.soak.asking import Answer, Case, ask, cases
from tests.resilience.soak.nuisances import ALL_THERE, nuisances
from tests.resilience.soak.serving import publish, serving

MOST = 2.0
"""How many times the quiet latency the hostile one may be."""
PERCENTILES = (50, 99)


@dataclass
class Latencies:
    """Seconds of the answered requests, quiet and hostile, and what was answered that should not be."""

    quiet: list[float] = field(default_factory=list)
    hostile: list[float] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)

    def ratio(self, percentile: float) -> float:
        """The hostile percentile as a multiple of the quiet one."""
        return float(np.percentile(self.hostile, percentile) / np.percentile(self.quiet, percentile))


def judge(found: Latencies) -> None:
    """Adds what is too slow to the findings."""
    for percentile in PERCENTILES:
        if found.ratio(percentile) > MOST:
            found.findings.append(
                f"the {percentile}th percentile is {found.ratio(percentile):.2f} times the quiet one, {MOST:g} at most"
            )


def row(name: str, seconds: list[float]) -> str:
    p50, p99 = np.percentile(seconds, PERCENTILES) * 1e3
    return f"{name:8} {len(seconds):5d} answers  median {p50:6.0f} ms  p99 {p99:6.0f} ms  longest {max(seconds):.2f} s"


async def phase(
    client: httpx.AsyncClient, known: dict[str, Answer], among: list[Case], clients: int, until: float, seed: int
) -> tuple[list[float], list[str]]:
    """Seconds of each answer until then (perf_counter), and which differ from those known."""
    seconds: list[float] = []
    findings: list[str] = []
    draw = random.Random(seed)

    async def keep_asking() -> None:
        while time.perf_counter() < until:
            outcome = await ask(client, draw.choice(among))
            seconds.append(outcome.seconds)
            if outcome.answer != known[outcome.case.name]:
                findings.append(f"{outcome.case.name}: answered otherwise: {str(outcome.answer)[:300]}")

    await asyncio.gather(*(keep_asking() for _ in range(clients)))
    return seconds, findings


async def measure(rounds: int, length: float, clients: int) -> Latencies:
    found, among = Latencies(), [case for case in cases() if case.kind == "good"]
    with tempfile.TemporaryDirectory(prefix="maskserve-latency-") as place:
        publish(Path(place))
        with serving(Path(place)) as (_, url):
            async with httpx.AsyncClient(base_url=url, timeout=120) as client:
                known = {case.name: (await ask(client, case)).answer for case in among}
                for number in range(rounds):
                    for into, hostile in ((found.quiet, False), (found.hostile, True)):
                        async with nuisances(url, found.findings) if hostile else nullcontext():
                            await asyncio.sleep(ALL_THERE + 1 if hostile else 0)
                            until = time.perf_counter() + length
                            seconds, findings = await phase(client, known, among, clients, until, number)
                        into += seconds
                        found.findings += findings
                    print(f"round {number + 1} of {rounds}")
                    print(f"{row('quiet', found.quiet)}\n{row('hostile', found.hostile)}", flush=True)
    judge(found)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.resilience.latency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=whole(1), default=6, help="(default: %(default)d)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each half of a round (default: %(default)g)")
    parser.add_argument("--clients", type=whole(1), default=2, help="good ones (default: %(default)d)")
    options = parser.parse_args()
    found = asyncio.run(measure(options.rounds, options.seconds, options.clients))
    for percentile in PERCENTILES:
        print(f"the {percentile}th percentile is {found.ratio(percentile):.2f} times the quiet one")
    for finding in dict.fromkeys(found.findings):
        print(f"FINDING: {finding}")
    return 1 if found.findings else 0


if __name__ == "__main__":
    sys.exit(main())
