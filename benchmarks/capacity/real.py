"""A real server: its stage times alone, and what becomes of a load, to hold the simulation against."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import numpy as np

from benchmarks.capacity.fleet import BALANCERS, Machine, Outcome, Stages, arrivals, simulate
from benchmarks.measure import MAX_OTHER_LOAD, OtherLoad
from benchmarks.overload import Server

LOADS: Final = (0.5, 0.8, 1.5)
"""Shares of what the engine can answer."""
WITHIN: Final = 0.15


@dataclass(frozen=True, slots=True)
class Agreement:
    """One load, real and simulated. It holds where p50 and the share that is answered agree within WITHIN; it is valid
    where other processes left the machine alone."""

    load: float
    real: Outcome
    simulated: Outcome
    other_load: float | None

    @property
    def holds(self) -> bool:
        answered = [1 - one.refused - one.late for one in (self.real, self.simulated)]
        pairs = [(self.real.p50, self.simulated.p50), (answered[0], answered[1])]
        return all(abs(simulated - real) <= WITHIN * real for real, simulated in pairs)

    @property
    def is_valid(self) -> bool:
        return self.other_load is not None and self.other_load <= MAX_OTHER_LOAD


def measure(server: Server, images: Sequence[Path], rounds: int) -> list[Stages]:
    """Each image, one after the other, so many times; the first time of each is not counted."""
    found = []
    with httpx.Client(base_url=server.url, timeout=120) as client:
        for number in range(rounds + 1):
            for image in images:
                began = time.perf_counter()
                answer = client.post("/predict", content=image.read_bytes(), headers={"Content-Type": "image/x-any"})
                whole = time.perf_counter() - began
                told = answer.raise_for_status().json()["timing_ms"]
                decode, inference, postprocess = (told[stage] / 1e3 for stage in ("decode", "inference", "postprocess"))
                other = max(0.0, whole - decode - inference - postprocess)
                if number:
                    found.append(Stages(image.name, decode, inference, postprocess, other))
    return found


def validate(server: Server, images: Sequence[Path], machine: Machine, rounds: int, seconds: float) -> list[Agreement]:
    """The same requests really and simulated, with stage times that are measured anew before each load."""
    found = []
    contents = {image.name: image.read_bytes() for image in images}
    for load in LOADS:
        other = OtherLoad([server.process.pid])
        mix = measure(server, images, rounds)
        rate = load * machine.devices / float(np.mean([image.inference for image in mix]))
        requests = math.ceil(rate * seconds)
        asked = [(wait, contents[image.bucket]) for wait, image in arrivals(rate, mix, requests, seed=0)]
        real = asyncio.run(_load(server.url, asked))
        simulated = simulate(rate, mix, machine, 1, BALANCERS["random"], requests=requests, warm_up=0)
        found.append(Agreement(load, real, simulated, other.share()))
    return found


async def _load(url: str, requests: Sequence[tuple[float, bytes]]) -> Outcome:
    """Each comes so many seconds after the one before, whatever became of that."""
    answered: list[float] = []
    statuses: list[int] = []
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client, asyncio.TaskGroup() as asked:

        async def ask(content: bytes) -> None:
            began = time.perf_counter()
            answer = await client.post("/predict", content=content, headers={"Content-Type": "image/x-any"})
            statuses.append(answer.status_code)
            if answer.status_code == 200:
                answered.append(time.perf_counter() - began)

        for seconds, content in requests:
            await asyncio.sleep(seconds)
            asked.create_task(ask(content))
    p50, p99 = map(float, np.percentile(answered, [50, 99]))
    refused = statuses.count(429) / len(requests)
    return Outcome(1, p50, p99, float(np.mean(answered)), refused, 1 - refused - len(answered) / len(requests))
