"""The thread pool that hands out its threads by priority."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import pytest

from service.scheduling.pool import Pool
from service.scheduling.priority import INTERACTIVE_TURNS, Priority
from tests.patience import PATIENCE

INTERACTIVE, BULK = Priority.INTERACTIVE, Priority.BULK


def run(scenario: Callable[[Pool], Coroutine[Any, Any, None]], threads: int = 1) -> None:
    async def with_pool() -> None:
        pool = Pool(threads, "test")
        try:
            await asyncio.wait_for(scenario(pool), PATIENCE)
        finally:
            pool.close()

    asyncio.run(with_pool())


async def begin(pool: Pool, work: Callable[[], object], priority: Priority = INTERACTIVE) -> asyncio.Task[object]:
    """Hand over `work`; it is waiting, or on a thread, when this returns."""

    async def result() -> object:
        return (await pool.run(work, priority))[0]

    task = asyncio.create_task(result())
    await asyncio.sleep(0)
    return task


@contextmanager
def gate() -> Iterator[tuple[threading.Event, Callable[[], None]]]:
    """Work that lasts until the event is set, which at the latest happens at the end."""
    opened = threading.Event()

    def wait() -> None:
        assert opened.wait(PATIENCE)

    try:
        yield opened, wait
    finally:
        opened.set()


def test_work_runs_in_its_callers_context() -> None:
    owner: ContextVar[str] = ContextVar("owner")

    async def scenario(pool: Pool) -> None:
        async def ask(name: str) -> str:
            owner.set(name)
            return (await pool.run(owner.get, INTERACTIVE))[0]

        assert await asyncio.gather(*map(ask, "abc")) == ["a", "b", "c"]

    run(scenario)


def test_work_runs_on_a_named_thread_and_its_result_and_time_come_back() -> None:
    async def scenario(pool: Pool) -> None:
        def work() -> str:
            time.sleep(0.02)
            return threading.current_thread().name

        name, seconds = await pool.run(work, BULK)
        assert name.startswith("test")
        assert seconds >= 0.02

    run(scenario)


def test_the_time_is_without_the_wait_for_a_thread() -> None:
    async def scenario(pool: Pool) -> None:
        began = time.monotonic()
        blocker = await begin(pool, lambda: time.sleep(0.5))
        _, seconds = await pool.run(lambda: None, INTERACTIVE)
        waited = time.monotonic() - began
        assert waited >= 0.5
        assert seconds < waited / 2
        await blocker

    run(scenario)


def test_as_much_runs_at_once_as_there_are_threads() -> None:
    async def scenario(pool: Pool) -> None:
        meeting = threading.Barrier(3)  # broken, and so a failure, unless three are there at once
        third = threading.Event()
        tasks = [await begin(pool, lambda: meeting.wait(PATIENCE)) for _ in range(3)]
        tasks.append(await begin(pool, third.set))
        await asyncio.gather(*tasks)
        assert third.is_set()

    run(scenario, threads=3)


def test_what_waits_is_started_by_priority_and_within_one_by_arrival() -> None:
    async def scenario(pool: Pool) -> None:
        order: list[str] = []
        with gate() as (opened, wait):
            tasks = [await begin(pool, wait)]
            for number in range(2):
                tasks.append(await begin(pool, partial(order.append, f"bulk {number}"), BULK))
            for number in range(INTERACTIVE_TURNS + 2):
                tasks.append(await begin(pool, partial(order.append, f"interactive {number}")))
            opened.set()
            await asyncio.gather(*tasks)
        first, last = [f"interactive {n}" for n in range(3)], [f"interactive {n}" for n in range(3, 5)]
        assert order == [*first, "bulk 0", *last, "bulk 1"]

    run(scenario)


def test_an_exception_reaches_the_caller_and_the_thread_is_free_again() -> None:
    async def scenario(pool: Pool) -> None:
        def fail() -> None:
            raise KeyError("no such thing")

        for _ in range(3):
            with pytest.raises(KeyError, match="no such thing"):
                await pool.run(fail, INTERACTIVE)
        assert (await pool.run(lambda: "fine", INTERACTIVE))[0] == "fine"

    run(scenario)


def test_work_that_is_cancelled_while_it_waits_never_runs() -> None:
    async def scenario(pool: Pool) -> None:
        ran: list[str] = []
        with gate() as (opened, wait):
            blocker = await begin(pool, wait)
            cancelled = await begin(pool, lambda: ran.append("cancelled"))
            kept = await begin(pool, lambda: ran.append("kept"))
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            opened.set()
            await asyncio.gather(blocker, kept)
        assert ran == ["kept"]

    run(scenario)


def test_cancelling_what_runs_frees_the_caller_at_once_and_the_thread_when_the_work_has_ended() -> None:
    async def scenario(pool: Pool) -> None:
        ended: list[str] = []
        with gate() as (opened, wait):

            def work() -> None:
                wait()
                ended.append("first")

            running = await begin(pool, work)
            waiting = await begin(pool, lambda: ended.append("second"))
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            await asyncio.sleep(0.05)
            assert ended == []  # the one thread still has the first
            assert not waiting.done()
            opened.set()
            await waiting
        assert ended == ["first", "second"]

    run(scenario)


@pytest.mark.parametrize(
    "with_turn",
    [
        pytest.param(False, id="cancelled before it has its turn"),
        pytest.param(True, id="cancelled with its turn in its hand"),
    ],
)
def test_a_thread_that_becomes_free_in_the_moment_of_a_cancellation_is_not_lost(with_turn: bool) -> None:
    async def scenario(pool: Pool) -> None:
        with gate() as (opened, wait):
            blocker = await begin(pool, wait)
            cancelled = await begin(pool, lambda: "cancelled")
            kept = await begin(pool, lambda: "kept")
            opened.set()
            time.sleep(0.1)  # the event loop stands still while the thread reports that it is free
            if with_turn:
                asyncio.get_running_loop().call_soon(cancelled.cancel)  # behind that report, and before its effect
            else:
                cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            await blocker
            assert await kept == "kept"
            assert (await pool.run(lambda: "free", INTERACTIVE))[0] == "free"

    run(scenario)


def test_closing_lets_running_work_end_and_its_result_go_nowhere() -> None:
    ended = threading.Event()

    def work() -> None:
        time.sleep(0.1)
        ended.set()

    async def scenario() -> None:
        pool = Pool(1, "test")
        task = await begin(pool, work)
        pool.close()
        task.cancel()

    asyncio.run(scenario())
    assert ended.wait(PATIENCE)


def test_what_failed_work_had_waits_for_no_garbage_collection() -> None:
    """The pixels of a file that breaks off, in the frames that its error knows."""

    class Pixels: ...

    left: list[weakref.ref[Pixels]] = []

    def work() -> None:
        pixels = Pixels()
        left.append(weakref.ref(pixels))
        raise ValueError

    async def scenario(pool: Pool) -> None:
        with contextlib.suppress(ValueError):
            await pool.run(work, INTERACTIVE)
        await pool.run(lambda: None, INTERACTIVE)  # the thread itself has nothing of it any more
        assert left[0]() is None

    gc.disable()
    try:
        run(scenario)
    finally:
        gc.enable()
