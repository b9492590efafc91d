"""Real servers: their stage times, and what becomes of a load, to hold the simulation against."""

from __future__ import annotations

import asyncio
import math
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import httpx
import numpy as np

from benchmarks.capacity.fleet import Balancer, Machine, Outcome, Stages, arrivals, simulate
from benchmarks.measure import MAX_OTHER_LOAD, OtherLoad
from benchmarks.overload import Server

LOADS: Final = (0.5, 0.8, 1.5)
"""Shares of what the engines can answer."""
WITHIN: Final = 0.15
FEW: Final = 0.01
"""A share of requests that makes no difference: refusals of a load that is answered are chance."""
ANY_IMAGE: Final = {"Content-Type": "image/x-any"}
AT_ONCE: Final = 2
"""Images on their way while stage times are measured: one is computed, and another decoded or answered beside it."""
BEFORE: Final = 0.3
"""How long a load is asked for before it counts, as a share of how long it counts."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """One load, real and simulated. It holds where p50, p99 and the shares refused and late agree within WITHIN; it is
    valid where other processes left the machine alone.

    inference: mean seconds, as given to the simulation, and as told under the load.
    """

    load: float
    real: Outcome
    simulated: Outcome
    inference: tuple[float, float]
    other_load: float | None

    @property
    def holds(self) -> bool:
        real, simulated = self.real, self.simulated
        seconds = [(real.p50, simulated.p50), (real.p99, simulated.p99)]
        shares = [(real.refused, simulated.refused), (real.late, simulated.late)]
        return all(abs(ours - theirs) <= WITHIN * theirs for theirs, ours in seconds) and all(
            abs(ours - theirs) <= max(WITHIN * theirs, FEW) for theirs, ours in shares
        )

    @property
    def is_valid(self) -> bool:
        return self.other_load is not None and self.other_load <= MAX_OTHER_LOAD


@contextmanager
def started(machine: Machine, count: int, precision: str) -> Iterator[list[Server]]:
    """So many servers, each on a core of its own where there are several, and none where it is the only one."""
    flags = ["--max-queue-size", machine.max_queue_size, "--max-batch-size", machine.max_batch_size]
    flags += ["--decode-threads", machine.threads, "--precision", precision]
    cores = sorted(os.sched_getaffinity(0))
    servers: list[Server] = []
    try:
        for number in range(count):
            servers.append(Server(machine.timeout * 1e3, *map(str, flags), core=cores[number % len(cores)]))
        yield servers
    finally:
        for server in servers:
            server.stop()


def measure(servers: Sequence[Server], images: Sequence[Path], rounds: int) -> list[Stages]:
    """Each image so many times on each server, AT_ONCE at a time, on all servers together, so that what stages and
    servers share (cores, memory) is in their times. The first round is not counted.
    """

    def ask(server: Server, image: Path) -> Stages:
        began = time.perf_counter()
        answer = client.post(f"{server.url}/predict", content=image.read_bytes(), headers=ANY_IMAGE)
        return _told(image.name, answer.raise_for_status(), time.perf_counter() - began)

    def ask_all(server: Server) -> list[Stages]:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(partial(ask, server), [*images] * (rounds + 1)))[len(images) :]

    with httpx.Client(timeout=120) as client, ThreadPoolExecutor(len(servers)) as pool:
        return [one for found in pool.map(ask_all, servers) for one in found]


def _told(image: str, answer: httpx.Response, whole: float) -> Stages:
    told = {stage: milliseconds / 1e3 for stage, milliseconds in answer.json()["timing_ms"].items()}
    return Stages(image, told["decode"], told["inference"], told["postprocess"], max(0.0, whole - sum(told.values())))


def validate(
    servers: Sequence[Server],
    images: Sequence[Path],
    machine: Machine,
    balancer: Balancer,
    rounds: int,
    seconds: float,
) -> Iterator[Agreement]:
    """The same requests really and simulated. Stage times are those of such a load just before, with other requests."""
    ask = partial(
        _load, [server.url for server in servers], {image.name: image.read_bytes() for image in images}, balancer
    )
    full = measure(servers, images, rounds)
    for load in LOADS:
        other = OtherLoad([server.process.pid for server in servers])
        rate = load * len(servers) * machine.devices / float(np.mean([image.inference for image in full]))
        _, mix = asyncio.run(ask(list(arrivals(rate, full, math.ceil(rate * seconds * BEFORE), seed=1))))
        requests = math.ceil(rate * seconds)
        real, told = asyncio.run(ask(list(arrivals(rate, mix, requests, seed=0))))
        simulated = simulate(rate, mix, machine, len(servers), balancer, requests=requests, warm_up=0)
        given, found = (float(np.mean([image.inference for image in some])) for some in (mix, told))
        yield Agreement(load, real, simulated, (given, found), other.share())


async def _load(
    urls: Sequence[str], contents: Mapping[str, bytes], balancer: Balancer, requests: Sequence[tuple[float, Stages]]
) -> tuple[Outcome, list[Stages]]:
    """Each comes so many seconds after the one before, whatever became of that, and goes where the balancer says. Gives
    the stage times of those answered too.
    """
    answered: list[float] = []
    stages: list[Stages] = []
    statuses: list[int] = []
    in_flight = [0] * len(urls)
    draws = random.Random(0)
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=120, limits=limits) as client, asyncio.TaskGroup() as asked:

        async def ask(image: str) -> None:
            began = time.perf_counter()
            chosen = balancer(in_flight, draws)
            in_flight[chosen] += 1
            answer = await client.post(f"{urls[chosen]}/predict", content=contents[image], headers=ANY_IMAGE)
            whole = time.perf_counter() - began
            in_flight[chosen] -= 1
            statuses.append(answer.status_code)
            if answer.status_code == 200:
                answered.append(whole)
                stages.append(_told(image, answer, whole))

        at = time.perf_counter()
        for seconds, image in requests:
            at += seconds
            await asyncio.sleep(at - time.perf_counter())
            asked.create_task(ask(image.bucket))
    p50, p99 = map(float, np.percentile(answered, [50, 99]))
    refused = statuses.count(429) / len(requests)
    late = 1 - refused - len(answered) / len(requests)
    return Outcome(len(urls), p50, p99, float(np.mean(answered)), refused, late), stages
