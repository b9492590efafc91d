"""A server with ten times the work that it can do: what becomes of the requests, and whether it still says it's alive.

    python -m benchmarks.overload                   the embedded model, 20 seconds
    python -m benchmarks.overload --factor 20 --json overload.json

Three kinds of clients at once: sample images at `factor` times the rate that the engine can answer, whatever becomes of
those before; damaged photographs of 12 megapixels without a pause, which keep every decode thread busy and never reach
the engine; and a probe of /healthz. They run in processes of their own and share the machine's cores with the server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from benchmarks.measure import MAX_OTHER_LOAD, OtherLoad, machine

SAMPLES = Path(__file__).resolve().parents[1] / "model" / "samples" / "nuclei"
DECODING_CLIENTS = 8

PROBE = """
import http.client, json, sys, time
connection = http.client.HTTPConnection(sys.argv[1], timeout=60)
end, seconds = time.perf_counter() + float(sys.argv[2]), []
while time.perf_counter() < end:
    began = time.perf_counter()
    connection.request("GET", "/healthz")
    answer = connection.getresponse()
    assert answer.status == 200 and answer.read()
    seconds.append(time.perf_counter() - began)
    time.sleep(0.02)
print(json.dumps(seconds))
"""
DECODE_WITHOUT_PAUSE = """
import collections, concurrent.futures, http.client, json, sys, time
end, photograph = time.perf_counter() + float(sys.argv[2]), sys.stdin.buffer.read()
def ask(_):
    connection, statuses = http.client.HTTPConnection(sys.argv[1], timeout=60), collections.Counter()
    while time.perf_counter() < end:
        connection.request("POST", "/predict?priority=bulk", photograph, {"Content-Type": "image/jpeg"})
        answer = connection.getresponse()
        answer.read()
        statuses[answer.status] += 1
    return statuses
with concurrent.futures.ThreadPoolExecutor() as pool:
    print(json.dumps(sum(pool.map(ask, range(int(sys.argv[3]))), collections.Counter())))
"""


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds, as the client saw them."""

    count: int
    median: float
    p99: float
    max: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        if not seconds:
            return cls(0, 0.0, 0.0, 0.0)
        median, p99 = np.percentile(seconds, [50, 99]) * 1e3
        return cls(len(seconds), float(median), float(p99), max(seconds) * 1e3)

    def __str__(self) -> str:
        return f"{self.count:6d}   median {self.median:8.1f} ms   p99 {self.p99:8.1f} ms   max {self.max:8.1f} ms"


@dataclass(frozen=True, slots=True)
class Overload:
    """What one run found. `missed` requests were accepted and not answered in time."""

    factor: float
    timeout_ms: float
    seconds: float
    answered: Latency
    refused: Latency
    missed: int
    other_statuses: dict[int, int]
    health: Latency
    damaged_photographs: int
    counts_agree: bool
    other_load: float | None
    valid: bool


class Server:
    """`python -m service` with the embedded model on a free port. core: the only one that it may use."""

    def __init__(self, timeout_ms: float, *flags: str, core: int | None = None) -> None:
        command = [sys.executable, "-m", "service", "--port", "0", "--timeout-ms", str(timeout_ms), *flags]
        pin = None if core is None else partial(os.sched_setaffinity, 0, {core})
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=pipe, text=True, preexec_fn=pin)
        assert self.process.stderr is not None
        said = []
        for line in self.process.stderr:  # what it loads, and then where it is
            said.append(line)
            if ready := re.search(r"ready at (http://\S+)", line):
                self.url = ready[1]
                return
        raise RuntimeError(f"the server did not start: {''.join(said)}")

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate()


async def run(server: Server, factor: float, timeout_ms: float, duration: float) -> Overload:
    image = (SAMPLES / "stained.png").read_bytes()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=limits) as client:

        async def ask() -> tuple[int, float]:
            began = time.perf_counter()
            answer = await client.post("/predict", content=image, headers={"Content-Type": "image/png"})
            return answer.status_code, time.perf_counter() - began

        alone = [(await ask())[1] for _ in range(7)]
        interval = statistics.median(alone[2:]) / factor
        before = await _counts(client)
        load = OtherLoad([server.process.pid])
        end = time.perf_counter() + duration

        probing = await _beside(PROBE, server, duration)
        decoding = await _beside(DECODE_WITHOUT_PAUSE, server, duration, str(DECODING_CLIENTS))
        decoded = asyncio.create_task(decoding.communicate(_damaged_photograph()))
        began, asked = time.perf_counter(), []
        while time.perf_counter() < end:
            asked.append(asyncio.create_task(ask()))
            await asyncio.sleep(max(0.0, began + len(asked) * interval - time.perf_counter()))
        outcomes = await asyncio.gather(*asked)
        photographs = Counter({int(status): count for status, count in json.loads((await decoded)[0]).items()})
        health = json.loads((await probing.communicate())[0])
        other = load.share()
        counted = await _counts(client) - before
    statuses = Counter(status for status, _ in outcomes)
    return Overload(
        factor=factor,
        timeout_ms=timeout_ms,
        seconds=duration,
        answered=Latency.of([seconds for status, seconds in outcomes if status == 200]),
        refused=Latency.of([seconds for status, seconds in outcomes if status == 429]),
        missed=statuses[504],
        other_statuses={status: count for status, count in statuses.items() if status not in (200, 429, 504)},
        health=Latency.of(health),
        damaged_photographs=photographs[400],
        counts_agree=counted == statuses + photographs,
        other_load=other,
        valid=other is not None and other <= MAX_OTHER_LOAD,
    )


async def _beside(program: str, server: Server, duration: float, *more: str) -> asyncio.subprocess.Process:
    """Another client in a process of its own."""
    arguments = (sys.executable, "-c", program, server.url.removeprefix("http://"), str(duration), *more)
    return await asyncio.create_subprocess_exec(*arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


async def _counts(client: httpx.AsyncClient) -> Counter[int]:
    """Answers of /predict by status, as the server counts them."""
    text = (await client.get("/metrics")).text
    found = re.findall(r'^maskserve_requests_total\{route="/predict",status="(\d+)"\} (\S+)$', text, re.MULTILINE)
    return Counter({int(status): int(float(number)) for status, number in found})


def _damaged_photograph() -> bytes:
    """A JPEG of 4000 x 3000 pixels that ends too early: all of it is decoded before that is known."""
    smooth = np.random.default_rng(0).integers(0, 256, (15, 20, 3), np.uint8)
    buffer = BytesIO()
    Image.fromarray(smooth).resize((4000, 3000), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=30)
    return buffer.getvalue()[:-1000]


def main() -> int:
    """Prints what became of the requests; the exit status is 1 when an accepted one missed its deadline."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description="A server with too much to do.")
    parser.add_argument("--factor", type=float, default=10, help="offered load over what the engine can do")
    parser.add_argument("--timeout-ms", type=float, default=30_000, help="the server's --timeout-ms")
    parser.add_argument("--seconds", type=float, default=20, help="how long")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    server = Server(options.timeout_ms)
    try:
        found = asyncio.run(run(server, options.factor, options.timeout_ms, options.seconds))
    finally:
        server.stop()
    print(f"answered        {found.answered}")
    print(f"refused (429)   {found.refused}")
    print(f"/healthz        {found.health}")
    print(f"missed their deadline of {found.timeout_ms:g} ms: {found.missed}; other statuses: {found.other_statuses}")
    print(f"damaged photographs decoded meanwhile: {found.damaged_photographs}")
    print(f"the server's counts are the client's: {'yes' if found.counts_agree else 'NO'}")
    share = "unknown" if found.other_load is None else f"{found.other_load:.1%}"
    print(f"other processes used {share} of the cores: {'valid' if found.valid else 'INVALID, do not quote'}")
    if options.json is not None:
        options.json.write_text(
            json.dumps({"machine": machine(("onnxruntime-gpu",)), **asdict(found)}, indent=2) + "\n"
        )
    return int(found.missed > 0)


if __name__ == "__main__":
    sys.exit(main())
