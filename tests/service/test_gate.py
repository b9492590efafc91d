"""Admission: phases, the bound on requests, deadlines and draining."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from service.gate import MAX_RETRY, Gate, Phase
from service.problems import DEADLINE_PASSED, DRAINING, QUEUE_FULL, STARTING, Problem, ProblemKind

LONG = 10.0


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), LONG))


def ready(max_queue_size: int = 8, seconds_per_request: float = 0.0) -> Gate:
    gate = Gate(max_queue_size, lambda: seconds_per_request)
    gate.phase = Phase.READY
    return gate


async def stay(gate: Gate, seconds: float = LONG, timeout: float = LONG) -> None:
    async with gate.admit(timeout):
        await asyncio.sleep(seconds)


@pytest.mark.parametrize(
    ("phase", "kind"),
    [
        pytest.param(Phase.STARTING, STARTING, id="starting"),
        pytest.param(Phase.DRAINING, DRAINING, id="draining"),
    ],
)
def test_nothing_comes_in_unless_ready(phase: Phase, kind: ProblemKind) -> None:
    gate = Gate(8)
    gate.phase = phase
    for check in (gate.check, gate.check_phase):
        with pytest.raises(Problem) as caught:
            check()
        assert caught.value.kind == kind
        assert caught.value.retry_after is not None
        assert caught.value.retry_after >= 1


def test_the_bound_holds_and_a_place_that_is_left_can_be_taken() -> None:
    async def scenario() -> None:
        gate = ready(max_queue_size=2)
        tasks = [asyncio.create_task(stay(gate)) for _ in range(2)]
        await asyncio.sleep(0)
        assert gate.in_flight == 2
        with pytest.raises(Problem) as caught:
            await stay(gate)
        assert caught.value.kind == QUEUE_FULL
        tasks[0].cancel()
        await asyncio.wait([tasks[0]])
        assert gate.in_flight == 1
        await stay(gate, seconds=0)
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])
        assert gate.in_flight == 0

    run(scenario)


@pytest.mark.parametrize(
    ("seconds_per_request", "retry_after"),
    [
        pytest.param(0.0, 1, id="nothing measured yet"),
        pytest.param(0.01, 1, id="fast: at least a second"),
        pytest.param(1.3, 6, id="four waiting, 1.3 s each, rounded up"),
        pytest.param(1e6, MAX_RETRY, id="never more than the most"),
    ],
)
def test_retry_after_follows_the_measured_throughput(seconds_per_request: float, retry_after: int) -> None:
    async def scenario() -> None:
        gate = ready(4, seconds_per_request)
        tasks = [asyncio.create_task(stay(gate)) for _ in range(4)]
        await asyncio.sleep(0)
        with pytest.raises(Problem) as caught:
            gate.check()
        assert caught.value.retry_after == retry_after
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    run(scenario)


def test_a_deadline_ends_the_stay_with_504() -> None:
    async def scenario() -> None:
        gate = ready()
        with pytest.raises(Problem) as caught:
            await stay(gate, timeout=0.01)
        assert caught.value.kind == DEADLINE_PASSED
        assert gate.in_flight == 0

    run(scenario)


def test_a_timeout_of_the_work_itself_is_not_the_deadline() -> None:
    async def scenario() -> None:
        gate = ready()
        with pytest.raises(TimeoutError):
            async with gate.admit(LONG):
                raise TimeoutError

    run(scenario)


def test_draining_waits_for_what_is_in_and_refuses_the_rest() -> None:
    async def scenario() -> None:
        gate = ready()
        accepted = asyncio.create_task(stay(gate, seconds=0.05))
        await asyncio.sleep(0)
        draining = asyncio.create_task(gate.drain(LONG))
        await asyncio.sleep(0)
        with pytest.raises(Problem) as caught:
            await stay(gate)
        assert caught.value.kind == DRAINING
        assert not draining.done()
        assert await draining
        assert accepted.done()
        await accepted

    run(scenario)


def test_draining_cuts_off_uploads_at_once() -> None:
    async def scenario() -> None:
        gate = ready()

        async def upload() -> None:
            async with gate.upload():
                await asyncio.sleep(LONG)

        uploading = asyncio.create_task(upload())
        await asyncio.sleep(0)
        assert await gate.drain(LONG)
        with pytest.raises(Problem) as caught:
            await uploading
        assert caught.value.kind == DRAINING

    run(scenario)


def test_draining_drops_what_takes_too_long(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        gate = ready()
        slow = asyncio.create_task(stay(gate))
        await asyncio.sleep(0)
        assert not await gate.drain(0.01)
        with pytest.raises(Problem) as caught:
            await slow
        assert caught.value.kind == DRAINING
        assert gate.in_flight == 0

    run(scenario)
    assert "1 requests were not answered" in caplog.text


def test_draining_can_be_told_to_give_up() -> None:
    async def scenario() -> None:
        gate = ready()
        gate.give_up()  # nothing drains yet: no effect
        slow = asyncio.create_task(stay(gate))
        await asyncio.sleep(0)
        draining = asyncio.create_task(gate.drain(LONG))
        await asyncio.sleep(0)
        gate.give_up()
        gate.give_up()
        assert not await draining
        with pytest.raises(Problem):
            await slow
        gate.give_up()  # it is over: no effect

    run(scenario)
