"""Admission: phases, the bound on requests, deadlines and draining."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from service.http.problems import (
    DEADLINE_PASSED,
    DRAINING,
    NO_TIME,
    QUEUE_FULL,
    SLOW_UPLOAD,
    STARTING,
    TOO_MANY_UPLOADS,
    Problem,
    ProblemKind,
)
from service.scheduling.gate import HEADROOM, MAX_RETRY, Gate, Phase, Place
from service.scheduling.priority import Priority
from tests.patience import PATIENCE


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), PATIENCE))


PLACE = Place("model", Priority.INTERACTIVE, 8)


def ready(seconds_per_image: float = 0.0, max_uploads: int = 8) -> Gate:
    gate = Gate(max_uploads)
    gate.seconds_per_image = lambda model: seconds_per_image
    gate.phase = Phase.READY
    return gate


async def stay(
    gate: Gate, place: Place = PLACE, seconds: float = PATIENCE, timeout: float = PATIENCE, images: int = 1
) -> None:
    async with gate.admit(place, timeout, images):
        await asyncio.sleep(seconds)


async def fill(gate: Gate, count: int, place: Place = PLACE, timeout: float = 1e9) -> list[asyncio.Task[None]]:
    """So many requests that stay."""
    tasks = [asyncio.create_task(stay(gate, place, timeout=timeout)) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def empty(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


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
    for check in (lambda: gate.check(PLACE, PATIENCE), gate.check_phase):
        with pytest.raises(Problem) as caught:
            check()
        assert caught.value.kind == kind
        assert caught.value.retry_after is not None
        assert caught.value.retry_after >= 1


def test_the_bound_holds_and_a_place_that_is_left_can_be_taken() -> None:
    async def scenario() -> None:
        gate, two = ready(), Place("model", Priority.INTERACTIVE, 2)
        tasks = await fill(gate, 2, two)
        assert gate.in_flight == 2
        with pytest.raises(Problem) as caught:
            await stay(gate, two)
        assert caught.value.kind == QUEUE_FULL
        await empty(tasks[:1])
        assert gate.in_flight == 1
        await stay(gate, two, seconds=0)
        await empty(tasks[1:])
        assert gate.in_flight == 0

    run(scenario)


def test_every_model_and_priority_has_places_of_its_own() -> None:
    async def scenario() -> None:
        gate = ready()
        tasks = await fill(gate, 2, Place("a", Priority.BULK, 2))
        for other in (Place("a", Priority.INTERACTIVE, 2), Place("b", Priority.BULK, 2)):
            await stay(gate, other, seconds=0)
        with pytest.raises(Problem, match="2 bulk images wait for a and at most 2 may"):
            gate.check(Place("a", Priority.BULK, 2), PATIENCE)
        await empty(tasks)

    run(scenario)


def test_a_request_of_several_images_takes_as_many_places_or_none() -> None:
    async def scenario() -> None:
        gate = ready()
        tasks = [asyncio.create_task(stay(gate, images=6))]
        await asyncio.sleep(0)
        assert gate.in_flight == 6
        with pytest.raises(Problem) as caught:
            await stay(gate, images=3)
        assert caught.value.kind == QUEUE_FULL
        assert gate.in_flight == 6
        await stay(gate, images=2, seconds=0)
        await empty(tasks)

    run(scenario)


@pytest.mark.parametrize(
    ("seconds_per_image", "retry_after"),
    [
        pytest.param(0.0, 1, id="nothing measured yet"),
        pytest.param(0.01, 1, id="fast: at least a second"),
        pytest.param(1.3, 6, id="four waiting, 1.3 s each, rounded up"),
        pytest.param(1e6, MAX_RETRY, id="never more than the most"),
    ],
)
def test_retry_after_follows_the_measured_throughput(seconds_per_image: float, retry_after: int) -> None:
    async def scenario() -> None:
        gate, four = ready(), Place("model", Priority.INTERACTIVE, 4)
        tasks = await fill(gate, 4, four)
        gate.seconds_per_image = lambda model: seconds_per_image
        with pytest.raises(Problem) as caught:
            gate.check(four, 1e9)
        assert caught.value.retry_after == retry_after
        await empty(tasks)

    run(scenario)


def test_what_cannot_be_answered_in_its_time_is_refused_at_once() -> None:
    async def scenario() -> None:
        gate = ready(seconds_per_image=1.0)
        gate.check(PLACE, timeout=0.001)  # nothing is ahead: there is no telling before it is tried
        tasks = await fill(gate, 4)
        gate.check(PLACE, timeout=4 / HEADROOM)
        with pytest.raises(Problem) as caught:
            gate.check(PLACE, timeout=4.9)
        assert caught.value.kind == NO_TIME
        assert caught.value.retry_after == 4
        gate.devices = 2
        gate.check(PLACE, timeout=4.9)
        await empty(tasks)

    run(scenario)


def test_a_priority_waits_for_the_others_work_only_as_far_as_its_share_of_the_turns_makes_it() -> None:
    async def scenario() -> None:
        gate = ready(seconds_per_image=1.0)
        tasks = await fill(gate, 8, Place("model", Priority.BULK, 8))
        tasks += await fill(gate, 3, Place("other", Priority.INTERACTIVE, 8))
        assert gate.seconds_ahead(Priority.INTERACTIVE) == 4  # three turns, and one of the bulk work between them
        assert gate.seconds_ahead(Priority.BULK) == 11
        await empty(tasks)

    run(scenario)


def test_no_more_uploads_than_allowed_and_none_that_takes_too_long() -> None:
    async def scenario() -> None:
        gate = ready(max_uploads=1)

        async def upload(timeout: float) -> None:
            async with gate.upload(timeout):
                await asyncio.sleep(PATIENCE)

        first = asyncio.create_task(upload(PATIENCE))
        await asyncio.sleep(0)
        assert gate.uploads == 1
        with pytest.raises(Problem) as caught:
            await upload(PATIENCE)
        assert caught.value.kind == TOO_MANY_UPLOADS
        await empty([first])
        with pytest.raises(Problem) as caught:
            await upload(0.01)
        assert caught.value.kind == SLOW_UPLOAD
        assert gate.uploads == 0

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
            async with gate.admit(PLACE, PATIENCE):
                raise TimeoutError

    run(scenario)


@pytest.mark.parametrize(
    ("extension", "draining", "kind"),
    [
        pytest.param(0.01, False, DEADLINE_PASSED, id="not by enough"),
        pytest.param(PATIENCE, True, DRAINING, id="draining is not put off"),
    ],
)
def test_an_extended_deadline_still_ends(extension: float, draining: bool, kind: ProblemKind) -> None:
    async def stay_longer(gate: Gate) -> None:
        async with gate.admit(PLACE, 0.02) as deadline:
            if draining:
                gate.give_up()
                task = asyncio.create_task(gate.drain(PATIENCE))
                while gate.phase is not Phase.DRAINING:
                    await asyncio.sleep(0)
                await asyncio.sleep(0)
            deadline.extend(extension)
            await asyncio.sleep(PATIENCE)
        await task

    async def scenario() -> None:
        with pytest.raises(Problem) as caught:
            await stay_longer(ready())
        assert caught.value.kind == kind

    run(scenario)


def test_a_deadline_can_be_extended() -> None:
    async def scenario() -> None:
        async with ready().admit(PLACE, 0.02) as deadline:
            before = deadline.at
            deadline.extend(PATIENCE)
            assert deadline.at == before + PATIENCE
            await asyncio.sleep(0.05)

    run(scenario)


def test_draining_waits_for_what_is_in_and_refuses_the_rest() -> None:
    async def scenario() -> None:
        gate = ready()
        accepted = asyncio.create_task(stay(gate, seconds=0.05))
        await asyncio.sleep(0)
        draining = asyncio.create_task(gate.drain(PATIENCE))
        await asyncio.sleep(0)
        with pytest.raises(Problem) as caught:
            await stay(gate)
        assert caught.value.kind == DRAINING
        assert not draining.done()
        assert await draining
        assert accepted.done()
        await accepted

    run(scenario)


def test_draining_waits_for_what_is_being_sent_but_not_for_ever() -> None:
    async def scenario() -> None:
        gate = ready()
        async with gate.admit(PLACE, PATIENCE):
            draining = asyncio.create_task(gate.drain(PATIENCE))
            await asyncio.sleep(0)
        with gate.sending():  # begins where the admission ends
            assert gate.in_flight == 0, "it takes no place"
            with gate.sending():
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.01)
            assert not draining.done()
        assert await draining
        with gate.sending():
            assert not await gate.drain(0.01)

    run(scenario)


def test_draining_cuts_off_uploads_at_once() -> None:
    async def scenario() -> None:
        gate = ready()

        async def upload() -> None:
            async with gate.upload(PATIENCE):
                await asyncio.sleep(PATIENCE)

        uploading = asyncio.create_task(upload())
        await asyncio.sleep(0)
        assert await gate.drain(PATIENCE)
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
        draining = asyncio.create_task(gate.drain(PATIENCE))
        await asyncio.sleep(0)
        gate.give_up()
        gate.give_up()
        assert not await draining
        with pytest.raises(Problem):
            await slow
        gate.give_up()  # it is over: no effect

    run(scenario)


def test_one_who_leaves_still_takes_requests_but_is_not_ready() -> None:
    async def scenario() -> None:
        gate = ready()
        gate.check_ready()
        leaving = asyncio.create_task(gate.leave(PATIENCE))
        await asyncio.sleep(0)
        assert gate.is_leaving
        gate.check(PLACE, PATIENCE)
        with pytest.raises(Problem) as caught:
            gate.check_ready()
        assert caught.value.kind is DRAINING
        tasks = await fill(gate, 1)
        gate.give_up()
        await leaving
        assert await gate.drain(PATIENCE) is False, "nor does it wait for what is in"
        await asyncio.wait(tasks)

    run(scenario)


def test_leaving_ends_by_itself() -> None:
    async def scenario() -> None:
        gate = ready()
        await gate.leave(0.01)
        assert await gate.drain(PATIENCE) is True

    run(scenario)
