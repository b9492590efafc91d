"""Runs that hang: told from runs that are slow, their items fail, and the device comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest

from model.runtime.engines.engine import DeviceLost
from service.scheduling.batcher import Batcher, BatchReport, EngineLostError, EngineStalledError
from service.scheduling.waiting import Lane
from service.scheduling.watchdog import LOOKS, Watchdog
from tests.patience import PATIENCE
from tests.service.scheduling.batching import Engine, run, start, until

LIMIT = 0.1
"""Seconds. What is held here is held until the test lets it go, so that no run hangs by being slow."""


def test_who_ends_in_time_does_not_hang_and_who_does_not_is_told_once() -> None:
    async def scenario() -> None:
        hung: list[str] = []
        watchdog = Watchdog[str](LIMIT, hung.append)
        watchdog.begin("ended")
        watchdog.begin("hangs")
        watchdog.end("ended")
        await until(lambda: bool(hung))
        watchdog.begin("another")
        await until(lambda: len(hung) > 1)
        assert hung == ["hangs", "another"]
        watchdog.close()

    run(scenario)


def test_time_in_which_the_process_was_stopped_does_not_count() -> None:
    async def scenario() -> None:
        hung: list[str] = []
        watchdog = Watchdog[str](LIMIT, hung.append)
        watchdog.begin("a")
        for _ in range(LOOKS // 2):
            time.sleep(2 * LIMIT)  # the loop stands still, as all of a stopped process does
            await asyncio.sleep(0)
            assert hung == []
        watchdog.end("a")
        watchdog.close()

    run(scenario)


def test_without_a_limit_nothing_is_watched() -> None:
    watchdog = Watchdog[str](None, lambda work: pytest.fail("nothing hangs"))
    watchdog.begin("a")  # there is no loop that could look
    watchdog.end("a")


def test_a_run_that_hangs_fails_with_all_that_wait_until_the_device_is_restored() -> None:
    async def scenario() -> None:
        engine, lane = Engine(held=True), Lane("model", max_batch_size=2)
        stalled: list[tuple[list[str], int]] = []
        reports: list[BatchReport] = []
        batcher = Batcher[str, str](
            engine,
            on_batch=reports.append,
            stall_after=LIMIT,
            on_stall=lambda items, device: stalled.append((list(items), device)),
        )
        hung = start(batcher.submit("a", lane, "g"))
        await engine.has_begun(1)
        waiting = start(*(batcher.submit(item, lane, group) for item, group in (("b", "g"), ("c", "other"))))
        for one in (*hung, *waiting):
            with pytest.raises(EngineStalledError):
                await one
        assert (stalled, batcher.is_out, batcher.abandoned, batcher.depth()) == ([(["a"], 0)], True, 1, 0)
        assert [(report.size, report.failed) for report in reports] == [(1, True)]
        with pytest.raises(EngineStalledError):
            await batcher.submit("d", lane, "g")

        engine.held = False
        batcher.restore(0)
        assert not batcher.is_out
        assert (await batcher.submit("e", lane, "g")).value == "E"
        assert batcher.abandoned == 1
        engine.release()  # the stuck thread comes back, to nobody
        await until(lambda: batcher.abandoned == 0)
        assert (await batcher.submit("f", lane, "g")).value == "F"
        assert engine.batches == [["a"], ["e"], ["f"]]
        batcher.close()

    run(scenario)


def test_another_device_goes_on_with_what_waits() -> None:
    async def scenario() -> None:
        engine, lane = Engine(held=True), Lane("model", max_batch_size=1)
        out: list[int] = []
        batcher = Batcher[str, str](
            engine, devices=2, stall_after=LIMIT, on_stall=lambda items, device: out.append(device)
        )
        hung = start(batcher.submit("a", lane, "g"))
        await engine.has_begun(1)
        engine.held = False
        for item in "bcd":
            assert (await batcher.submit(item, lane, "g")).value == item.upper()
        with pytest.raises(EngineStalledError):
            await hung[0]
        assert (out, batcher.is_out) == ([0], False)
        assert (await batcher.submit("e", lane, "g")).value == "E"
        engine.release()
        await until(lambda: batcher.abandoned == 0)
        batcher.close()

    run(scenario)


def test_a_client_that_has_left_is_not_failed_again() -> None:
    async def scenario() -> None:
        engine, lane = Engine(held=True), Lane("model", max_batch_size=1)
        stalled: list[int] = []
        batcher = Batcher[str, str](engine, stall_after=LIMIT, on_stall=lambda items, device: stalled.append(device))
        hung, waiting = start(batcher.submit("a", lane, "g"), batcher.submit("b", lane, "g"))
        await engine.has_begun(1)
        hung.cancel()
        waiting.cancel()
        await until(lambda: stalled == [0])
        assert hung.cancelled()
        assert waiting.cancelled()
        engine.release()
        await until(lambda: batcher.abandoned == 0)
        batcher.close()

    run(scenario)


def test_a_lost_device_fails_what_it_has_once_and_what_waits_where_none_is_left() -> None:
    async def scenario() -> None:
        lost: list[tuple[list[str], int, str]] = []
        calls: list[list[str]] = []

        def lose(items: Sequence[str], device: int) -> list[str]:
            calls.append([*items])
            if "bad" in items:
                raise DeviceLost("gone")
            return [item.upper() for item in items]

        pairs, single = Lane("model", max_batch_size=2, max_delay=PATIENCE), Lane("model", max_batch_size=1)
        batcher = Batcher[str, str](
            lose, devices=2, on_loss=lambda items, device, error: lost.append(([*items], device, str(error)))
        )
        for number in range(2):
            batch = start(*(batcher.submit(item, pairs, "g") for item in ("bad", "b")))
            for one in batch:
                with pytest.raises(EngineLostError):
                    await one
            assert lost[number:] == [(["bad", "b"], number, "gone")]
            if not number:
                assert (await batcher.submit("c", single, "g")).value == "C"  # by the other
        assert calls == [["bad", "b"], ["c"], ["bad", "b"]], "nothing is run again"
        assert (batcher.is_out, batcher.abandoned) == (True, 0)
        with pytest.raises(EngineLostError):
            await batcher.submit("d", single, "g")
        batcher.close()

    run(scenario)
