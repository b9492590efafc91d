"""A fleet of replicas under a load: each has the service's own gate, decode and postprocess pools and batcher."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from benchmarks.capacity.virtual import Clock, in_virtual_time
from service.http.problems import Problem
from service.scheduling.batcher import Batcher, DeadlinePassedError
from service.scheduling.gate import Gate, Phase, Place
from service.scheduling.pool import Pool
from service.scheduling.priority import Priority
from service.scheduling.waiting import Lane

MODEL: Final = "model"
MOST_SIMULATED: Final = 32
"""Of more replicas so many are simulated, each with its share of the load."""
MOST_LOAD: Final = 0.95
"""Of what the devices can do. Nearer to all of it a queue grows for longer than a simulation lasts."""
LEAST_REQUESTS, EACH = 10_000, 2_000
"""In a simulation, and for each simulated replica: a queue that begins empty takes long to become what it will be."""


@dataclass(frozen=True, slots=True)
class Stages:
    """Seconds that one image takes in each stage alone. `bucket` says with which others it may share a batch; `other`
    is what HTTP costs."""

    bucket: str
    decode: float
    inference: float
    postprocess: float
    other: float


@dataclass(frozen=True, slots=True)
class Machine:
    """One replica. A batch of n takes `growth` * (n - 1) + 1 times as long as one image."""

    devices: int = 1
    threads: int = 2
    max_batch_size: int = 1
    growth: float = 1.0
    max_queue_size: int = 64
    timeout: float = 30.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a load. Seconds are those of answered requests; shares are of all: refused by the gate, and
    accepted but not answered in time."""

    replicas: int
    p50: float
    p99: float
    mean: float
    refused: float
    late: float


class Replica:
    """`in_flight` is what a balancer knows of it."""

    def __init__(self, machine: Machine, clock: Clock) -> None:
        self._machine, self._clock = machine, clock
        self._lane = Lane(MODEL, machine.max_batch_size)
        self._batcher = Batcher[Stages, None](self._compute, devices=machine.devices)
        self._decode, self._postprocess = (Pool(machine.threads, name) for name in ("decode", "postprocess"))
        self._gate = Gate(max_uploads=1)
        self._gate.phase = Phase.READY
        self._gate.devices = machine.devices
        self._gate.seconds_per_image = lambda model: self._lane.seconds_per_item
        self._place = Place(MODEL, Priority.INTERACTIVE, machine.max_queue_size)
        self.in_flight = 0

    async def answer(self, image: Stages) -> None:
        """Raises Problem where the gate refuses it or the deadline passes, and DeadlinePassedError."""
        self.in_flight += 1
        try:
            async with self._gate.admit(self._place, self._machine.timeout) as deadline:
                await self._decode.run(partial(self._clock.spend, image.decode), Priority.INTERACTIVE)
                await self._batcher.submit(image, self._lane, image.bucket, deadline.at)
                await self._postprocess.run(partial(self._clock.spend, image.postprocess), Priority.INTERACTIVE)
            await asyncio.sleep(image.other)
        finally:
            self.in_flight -= 1

    def _compute(self, images: Sequence[Stages], device: int) -> list[None]:
        longest = max(image.inference for image in images)
        self._clock.spend(longest * (1 + self._machine.growth * (len(images) - 1)))
        return [None] * len(images)


Balancer = Callable[[Sequence[int], random.Random], int]
"""Which replica gets the next request, by how many each has in flight."""


def at_random(in_flight: Sequence[int], draws: random.Random) -> int:
    return draws.randrange(len(in_flight))


def power_of_two(in_flight: Sequence[int], draws: random.Random) -> int:
    """The less busy of two."""
    return min(draws.choices(range(len(in_flight)), k=2), key=in_flight.__getitem__)


def least_in_flight(in_flight: Sequence[int], draws: random.Random) -> int:
    """One of the least busy."""
    least = min(in_flight)
    return draws.choice([number for number, count in enumerate(in_flight) if count == least])


BALANCERS: Final[dict[str, Balancer]] = {
    "random": at_random,
    "power-of-two": power_of_two,
    "least-in-flight": least_in_flight,
}


def simulate(
    rate: float,
    mix: Sequence[Stages],
    machine: Machine,
    replicas: int,
    balancer: Balancer,
    *,
    requests: int = 10_000,
    seed: int = 0,
    warm_up: float = 0.1,
) -> Outcome:
    """What becomes of `requests` that come by chance, `rate` a second, each an image of `mix`. warm_up: the share of
    them, the first, that is not counted.
    """
    asked = list(arrivals(rate * min(replicas, MOST_SIMULATED) / replicas, mix, requests, seed))
    return in_virtual_time(partial(_run, asked, machine, replicas, balancer, round(warm_up * requests), seed))


def arrivals(rate: float, mix: Sequence[Stages], requests: int, seed: int) -> Iterator[tuple[float, Stages]]:
    """Seconds until the next one comes (exponential), and its image."""
    draws = random.Random(seed)
    for _ in range(requests):
        yield draws.expovariate(rate), draws.choice(mix)


async def _run(
    asked: Sequence[tuple[float, Stages]],
    machine: Machine,
    replicas: int,
    balancer: Balancer,
    uncounted: int,
    seed: int,
    clock: Clock,
) -> Outcome:
    fleet = [Replica(machine, clock) for _ in range(min(replicas, MOST_SIMULATED))]
    choices = random.Random(seed)  # its own: all balancers have the same requests
    answered: list[float] = []
    refused = late = 0

    async def ask(image: Stages, *, is_counted: bool) -> None:
        nonlocal refused, late
        began = clock.now
        try:
            await fleet[balancer([one.in_flight for one in fleet], choices)].answer(image)
        except (Problem, DeadlinePassedError) as error:
            is_refused = isinstance(error, Problem) and error.kind.status == 429
            refused += is_counted and is_refused
            late += is_counted and not is_refused
        else:
            if is_counted:
                answered.append(clock.now - began)

    async with asyncio.TaskGroup() as tasks:
        for number, (seconds, image) in enumerate(asked):
            await asyncio.sleep(seconds)
            tasks.create_task(ask(image, is_counted=number >= uncounted))
    counted = len(asked) - uncounted
    p50, p99 = np.percentile(answered, [50, 99]) if answered else (math.inf, math.inf)
    mean = float(np.mean(answered)) if answered else math.inf
    return Outcome(replicas, float(p50), float(p99), mean, refused / counted, late / counted)


def enough(replicas: int) -> int:
    """So many requests in a simulation."""
    return max(LEAST_REQUESTS, EACH * min(replicas, MOST_SIMULATED))


def needed(
    rate: float,
    mix: Sequence[Stages],
    machine: Machine,
    balancer: Balancer,
    *,
    p99: float,
    lost: float,
    requests: int | None = None,
) -> Outcome:
    """The fewest replicas with which p99 is at most so many seconds, and no more than a share `lost` refused or late.
    Never fewer than MOST_LOAD allows.

    ValueError where one image alone takes longer, or longer than the deadline.
    """
    alone = max(image.decode + image.inference + image.postprocess + image.other for image in mix)
    if alone > p99:
        raise ValueError(f"one image alone takes {alone:.3g} s, and p99 is to be {p99:g} s")
    if alone > machine.timeout:  # as many replicas as there may be would answer it late
        raise ValueError(f"one image alone takes {alone:.3g} s, and the deadline is {machine.timeout:g} s")
    work = float(np.mean([image.inference for image in mix])) / machine.devices
    batched = (1 + machine.growth * (machine.max_batch_size - 1)) / machine.max_batch_size
    low = math.ceil(rate * work * batched / MOST_LOAD)

    def holds(replicas: int) -> Outcome | None:
        outcome = simulate(rate, mix, machine, replicas, balancer, requests=requests or enough(replicas))
        return outcome if outcome.p99 <= p99 and outcome.refused + outcome.late <= lost else None

    if (found := holds(low)) is not None:
        return found
    high = low + 1
    while (found := holds(high)) is None:
        low, high = high, math.ceil(high * 1.5)
    while high - low > max(1, high // 100):  # to a hundredth: more is noise
        middle = (low + high) // 2
        if (better := holds(middle)) is not None:
            found, high = better, middle
        else:
            low = middle
    return found
