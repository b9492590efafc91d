"""The batcher's priorities, models and devices, and what it does when memory is short."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from contextvars import ContextVar

import pytest

from model.runtime.engines.engine import OutOfMemory
from service.scheduling.batcher import Batcher
from service.scheduling.priority import INTERACTIVE_TURNS, Priority
from service.scheduling.waiting import Lane
from tests.service.scheduling.batching import PATIENCE, Engine, run, start, until


def test_bulk_work_gets_a_turn_after_every_few_of_interactive_work_and_never_more() -> None:
    async def scenario() -> None:
        engine = Engine(held=True)
        batcher, lane = Batcher[str, str](engine), Lane("model", max_batch_size=1)
        work = start(batcher.submit("first", lane, "g"))
        await engine.has_begun(1)
        work += start(*(batcher.submit(f"b{n}", lane, "g", priority=Priority.BULK) for n in range(6)))
        await until(lambda: batcher.depth(priority=Priority.BULK) == 6)
        work += start(*(batcher.submit(f"i{n}", lane, "g") for n in range(6)))
        await until(lambda: batcher.depth() == 12)
        engine.release(13)
        await asyncio.gather(*work)
        assert INTERACTIVE_TURNS == 3
        order = [batch[0] for batch in engine.batches]
        assert order == ["first", "i0", "i1", "i2", "b0", "i3", "i4", "i5", "b1", "b2", "b3", "b4", "b5"]
        batcher.close()

    run(scenario)


def test_a_batch_of_interactive_items_is_filled_up_with_bulk_items() -> None:
    async def scenario() -> None:
        engine = Engine(held=True)
        batcher, lane = Batcher[str, str](engine), Lane("model", max_batch_size=3)
        work = start(batcher.submit("first", lane, "g"))
        await engine.has_begun(1)
        work += start(*(batcher.submit(item, lane, "g", priority=Priority.BULK) for item in ("b0", "b1")))
        await until(lambda: batcher.depth() == 2)
        work += start(*(batcher.submit(item, lane, "g") for item in ("i0", "i1")))
        await until(lambda: batcher.depth() == 4)
        engine.release(3)
        await asyncio.gather(*work)
        assert engine.batches == [["first"], ["i0", "i1", "b0"], ["b1"]]
        batcher.close()

    run(scenario)


def test_every_device_takes_from_one_queue() -> None:
    async def scenario() -> None:
        on_devices: list[int] = []
        both = threading.Barrier(2, timeout=PATIENCE)

        def engine(items: Sequence[str], device: int) -> Sequence[str]:
            on_devices.append(device)
            both.wait()  # passes only if two batches run at the same time
            return items

        batcher, lane = Batcher[str, str](engine, devices=2), Lane("model", max_batch_size=1)
        answers = await asyncio.gather(*(batcher.submit(item, lane, "g") for item in "abcdef"))
        assert [answer.value for answer in answers] == list("abcdef")
        assert sorted(on_devices) == [0, 0, 0, 1, 1, 1]
        assert batcher.busy_seconds(0) > 0
        assert batcher.busy_seconds(1) > 0
        batcher.close()

    run(scenario)


def test_short_memory_halves_the_limit_of_its_lane_alone_and_every_item_is_computed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        sizes: list[int] = []

        def engine(items: Sequence[str], device: int) -> Sequence[str]:
            sizes.append(len(items))
            if len(items) > 2 and items[0] != "other":
                raise OutOfMemory("eight images do not fit")
            return [item.upper() for item in items]

        batcher, lane = Batcher[str, str](engine), Lane("big", max_batch_size=8, max_delay=PATIENCE)
        other = Lane("small", max_batch_size=4, max_delay=PATIENCE)
        answers = await asyncio.gather(*(batcher.submit(item, lane, "g") for item in "abcdefgh"))
        assert [answer.value for answer in answers] == list("ABCDEFGH")
        assert sizes == [8, 4, 2, 2, 2, 2]
        assert (lane.max_batch_size, other.max_batch_size) == (2, 4)
        await asyncio.gather(*(batcher.submit("other", other, "g") for _ in range(4)))
        assert sizes[6:] == [4]
        batcher.close()

    run(scenario)
    assert "the batch limit of big is now 2" in caplog.text


@pytest.mark.parametrize("error", [OutOfMemory("two do not fit"), ValueError("one is bad")])
@pytest.mark.parametrize(("owners", "named"), [("aa", "a"), ("ab", None)], ids=["of one request", "of two"])
def test_a_line_about_a_batch_is_written_in_what_its_callers_have_in_common(
    monkeypatch: pytest.MonkeyPatch, error: Exception, owners: str, named: str | None
) -> None:
    owner: ContextVar[str | None] = ContextVar("owner", default=None)
    written: list[str | None] = []

    def note(record: logging.LogRecord) -> bool:
        written.append(owner.get())
        return True

    monkeypatch.setattr(logging.getLogger("service.scheduling.batcher"), "filters", [note])

    async def scenario() -> None:
        def engine(items: Sequence[str], device: int) -> Sequence[str]:
            if len(items) > 1:
                raise error
            return items

        batcher, lane = Batcher[str, str](engine), Lane("model", max_batch_size=2, max_delay=PATIENCE)

        async def ask(name: str) -> None:
            owner.set(name)
            await batcher.submit(name, lane, "g")

        await asyncio.gather(*map(ask, owners))
        batcher.close()

    run(scenario)
    assert written == [named]


def test_an_item_that_alone_exceeds_the_memory_fails() -> None:
    async def scenario() -> None:
        def engine(items: Sequence[str], device: int) -> Sequence[str]:
            raise OutOfMemory("too big")

        batcher, lane = Batcher[str, str](engine), Lane("model", max_batch_size=4, max_delay=0.05)
        answers = await asyncio.gather(*(batcher.submit(item, lane, "g") for item in "ab"), return_exceptions=True)
        assert [type(answer) for answer in answers] == [OutOfMemory] * 2
        assert lane.max_batch_size == 1
        batcher.close()

    run(scenario)


def test_items_of_different_models_never_share_a_batch() -> None:
    async def scenario() -> None:
        engine = Engine(held=True)
        batcher = Batcher[str, str](engine)
        one, two = Lane("one", max_batch_size=4), Lane("two", max_batch_size=4)
        work = start(batcher.submit("first", one, "g"))
        await engine.has_begun(1)
        work += start(*(batcher.submit(f"{lane.name}{n}", lane, "g") for n in range(2) for lane in (one, two)))
        await until(lambda: batcher.depth() == 4)
        assert (batcher.depth(one), batcher.depth(two)) == (2, 2)
        assert batcher.oldest_wait() > 0
        engine.release(3)
        await asyncio.gather(*work)
        assert engine.batches == [["first"], ["one0", "one1"], ["two0", "two1"]]
        assert batcher.oldest_wait() == 0
        batcher.close()

    run(scenario)
