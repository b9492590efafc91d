"""Parallel work whose results come in order: bounded, and with nothing finished lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from service.client.command.ordered import AHEAD, in_order

JOBS = 3


def test_results_come_in_order_with_bounded_work_and_memory() -> None:
    running = begun = 0
    emitted: list[int] = []
    generator = random.Random(0)

    def items() -> Iterator[int]:
        nonlocal begun
        for number in range(500):
            begun += 1
            assert begun - len(emitted) <= JOBS * (1 + AHEAD) + 1
            yield number

    async def work(number: int) -> int:
        nonlocal running
        running += 1
        assert running <= JOBS
        for _ in range(generator.randrange(30)):
            await asyncio.sleep(0)
        running -= 1
        return number

    asyncio.run(in_order(items(), work, emitted.append, JOBS))
    assert emitted == list(range(500))


def test_an_error_ends_it_after_what_is_finished() -> None:
    emitted: list[int] = []
    begun: list[int] = []

    async def work(number: int) -> int:
        begun.append(number)
        if number == 4:
            await asyncio.sleep(0.01)
            raise RuntimeError
        if number == 5:
            await asyncio.Event().wait()
        return number

    with pytest.raises(RuntimeError):
        asyncio.run(in_order(range(10_000), work, emitted.append, JOBS))
    assert emitted[:4] == [0, 1, 2, 3]
    assert emitted == [number for number in sorted(begun) if number not in (4, 5)]
    assert len(begun) <= 4 + JOBS * (1 + AHEAD)


def test_cancelled_it_emits_what_is_finished() -> None:
    emitted: list[int] = []
    finished = asyncio.Event()

    async def work(number: int) -> int:
        if number == 1:
            await asyncio.Event().wait()
        if number == 5:
            finished.set()
        return number

    async def scenario() -> None:
        running = asyncio.create_task(in_order(range(6), work, emitted.append, JOBS))
        await finished.wait()
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(scenario())
    assert emitted == [0, 2, 3, 4, 5]
