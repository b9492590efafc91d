"""The gate on a simulated clock, whatever comes when and stays how long, and a drain at any moment."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.http.problems import DEADLINE_PASSED, DRAINING, NO_TIME, QUEUE_FULL, SLOW_UPLOAD, TOO_MANY_UPLOADS, Problem
from service.scheduling import gate as scheduling
from service.scheduling.gate import HEADROOM, Gate, Phase, Place
from service.scheduling.priority import Priority
from tests.resilience.properties.simulated import Clock, few_or_many, often

LIMITS = {"a": 3, "b": 5}
MAX_UPLOADS = 3
EXACTLY = 1e-6
"""Seconds; what happens nearer to each other than that may happen in either order."""


@dataclass(frozen=True)
class Request:
    """`after`: seconds since the one before; its body takes `upload` of them, its images take `stays`."""

    after: float
    model: str
    priority: Priority
    images: int
    upload: float
    stays: float
    timeout: float
    extended: float


@dataclass(frozen=True)
class End:
    """How a request ended, when, and when it was let in (0: never)."""

    how: str
    at: float
    since: float = 0.0


TIMES = st.sampled_from((0.0, 0.03, 0.2, 0.9, 2.0, 7.0))
REQUESTS = st.builds(
    Request,
    after=st.one_of(st.just(0.0), TIMES),
    model=st.sampled_from(sorted(LIMITS)),
    priority=st.sampled_from(Priority),
    images=st.integers(1, 4),
    upload=TIMES,
    stays=TIMES,
    timeout=st.sampled_from((0.05, 0.5, 1.3, 5.0)),
    extended=st.sampled_from((0.0, 0.0, 1.1)),
)


@often
@given(few_or_many(REQUESTS), st.sampled_from((0.0, 0.01, 0.3)), st.integers(1, 2), TIMES, TIMES)
def test_all_are_let_in_or_refused_by_the_rules_and_all_leave(
    requests: Sequence[Request], cost: float, devices: int, drain_after: float, drain_timeout: float
) -> None:
    clock = Clock()
    ends: list[End] = []
    inside: Counter[tuple[str, Priority]] = Counter()
    drained: list[tuple[float, float, bool]] = []
    gate = Gate(MAX_UPLOADS)
    gate.phase, gate.devices, gate.seconds_per_image = Phase.READY, devices, lambda model: cost

    def keeps_its_limits() -> None:
        assert gate.in_flight == inside.total()
        assert all(count <= LIMITS[model] for (model, _), count in inside.items())
        assert gate.uploads <= MAX_UPLOADS

    async def ask(request: Request) -> None:
        key = request.model, request.priority
        place = Place(*key, LIMITS[request.model])
        begin = clock.now
        try:
            async with gate.upload(request.timeout):
                await asyncio.sleep(request.upload)
        except Problem as problem:
            expected = {
                TOO_MANY_UPLOADS: gate.uploads == MAX_UPLOADS and clock.now == begin,
                SLOW_UPLOAD: abs(clock.now - begin - request.timeout) < EXACTLY,
                DRAINING: gate.phase is Phase.DRAINING,
            }
            kind = problem.kind
            assert expected[kind], kind
            ends.append(End("refused", clock.now))
            return
        since, full = clock.now, inside[key] + request.images > LIMITS[request.model]
        work = inside.total() * cost / devices
        let_in = False
        try:
            async with gate.admit(place, request.timeout, request.images) as deadline:
                assert not full
                assert deadline.at == since + request.timeout
                inside[key] += request.images
                let_in = True
                try:
                    deadline.extend(request.extended)
                    await asyncio.sleep(request.stays)
                finally:
                    inside[key] -= request.images
        except Problem as problem:
            expected = {
                QUEUE_FULL: full,
                NO_TIME: work > HEADROOM * request.timeout,
                DRAINING: gate.phase is Phase.DRAINING,
                DEADLINE_PASSED: abs(clock.now - since - request.timeout - request.extended) < EXACTLY,
            }
            kind = problem.kind
            assert expected[kind], kind
            # Not told by the clock: who is let in as the drain ends is cut off at the same moment.
            ends.append(End(kind.slug, clock.now, since) if let_in else End("refused", clock.now))
        else:
            assert request.stays <= request.timeout + request.extended + EXACTLY
            ends.append(End("answered", clock.now, since))

    async def drain() -> None:
        await asyncio.sleep(drain_after)
        begin = clock.now
        in_time = await gate.drain(drain_timeout)
        drained.append((begin, clock.now, in_time))

    async def scenario() -> None:
        clients = [asyncio.create_task(drain())]
        for request in requests:
            if request.after:
                await asyncio.sleep(request.after)
            clients.append(asyncio.create_task(ask(request)))
        await asyncio.gather(*clients)

    clock.on_pause = keeps_its_limits
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scheduling, "time", SimpleNamespace(monotonic=clock.time))
        clock.run(scenario())
    assert len(ends) == len(requests), "some never end"
    assert gate.in_flight == gate.uploads == 0
    ((begin, end, in_time),) = drained
    assert end <= begin + drain_timeout + EXACTLY, "the drain waits for longer than it may"
    cut_off = [one for one in ends if one.how == DRAINING.slug]
    at_the_end = [one for one in ends if one.how == "answered" and abs(one.at - end) < EXACTLY]
    assert in_time == (not cut_off) or at_the_end
    assert all(abs(one.at - end) < EXACTLY for one in cut_off)
    assert not [one for one in ends if one.since > begin], "let in while it drains"
