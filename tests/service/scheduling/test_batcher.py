"""The batcher on a real event loop, in front of an engine whose every batch the test lets go by hand."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence

import pytest

from service.scheduling.batcher import Batcher, BatchReport, DeadlinePassedError
from service.scheduling.waiting import Lane
from tests.service.scheduling.batching import PATIENCE, Engine, run, start, until


def test_items_that_arrive_while_the_engine_is_busy_share_the_next_batch() -> None:
    async def scenario() -> None:
        engine = Engine(held=True)
        batcher, lane = Batcher[str, str](engine), Lane("model", max_batch_size=3)
        first = start(batcher.submit("a", lane, "g"))
        await engine.has_begun(1)
        others = start(*(batcher.submit(item, lane, "g") for item in "bcde"))
        await until(lambda: batcher.depth() == 4)
        engine.release(3)
        answers = await asyncio.gather(*first, *others)
        assert engine.batches == [["a"], ["b", "c", "d"], ["e"]]
        assert [answer.value for answer in answers] == ["A", "B", "C", "D", "E"]
        assert [answer.batch_size for answer in answers] == [1, 3, 3, 3, 1]
        batcher.close()

    run(scenario)


def test_without_a_delay_an_idle_engine_takes_an_item_at_once() -> None:
    async def scenario() -> None:
        engine = Engine()
        batcher, lane = Batcher[str, str](engine), Lane("model", max_batch_size=8, max_delay=0.0)
        answer = await batcher.submit("a", lane, "g")
        assert answer.batch_size == 1
        assert answer.queue_seconds < 1
        batcher.close()

    run(scenario)


def test_the_delay_lets_a_batch_fill_and_then_ends_the_wait() -> None:
    async def scenario() -> None:
        engine = Engine()
        batcher, lane = Batcher[str, str](engine), Lane("model", max_batch_size=8, max_delay=0.1)
        began = time.monotonic()
        answers = await asyncio.gather(*(batcher.submit(item, lane, "g") for item in "abc"))
        assert engine.batches == [["a", "b", "c"]]
        assert time.monotonic() - began >= 0.09
        assert all(answer.queue_seconds >= 0.09 for answer in answers)
        batcher.close()

    run(scenario)


def test_a_full_batch_does_not_wait_for_the_delay() -> None:
    async def scenario() -> None:
        engine = Engine()
        batcher, lane = Batcher[str, str](engine), Lane("model", max_batch_size=2, max_delay=PATIENCE)
        answers = await asyncio.gather(*(batcher.submit(item, lane, "g") for item in "ab"))
        assert engine.batches == [["a", "b"]]
        assert all(answer.queue_seconds < 1 for answer in answers)
        batcher.close()

    run(scenario)


def test_only_items_of_one_group_share_a_batch() -> None:
    async def scenario() -> None:
        engine = Engine(held=True)
        batcher, lane = Batcher[str, str](engine), Lane("model", max_batch_size=8)
        work = start(batcher.submit("a", lane, "g"))
        await engine.has_begun(1)
        work += start(*(batcher.submit(item, lane, item[0]) for item in ("x1", "y1", "x2", "y2")))
        await until(lambda: batcher.depth() == 4)
        engine.release(3)
        await asyncio.gather(*work)
        assert engine.batches == [["a"], ["x1", "x2"], ["y1", "y2"]]
        batcher.close()

    run(scenario)


def test_the_group_with_the_oldest_item_goes_first_however_full_another_is() -> None:
    async def scenario() -> None:
        engine = Engine(held=True)
        batcher, lane = Batcher[str, str](engine), Lane("model", max_batch_size=2)
        work = start(batcher.submit("a", lane, "busy"))
        await engine.has_begun(1)
        work += start(batcher.submit("lonely", lane, "rare"))
        work += start(*(batcher.submit(item, lane, "busy") for item in "bcde"))
        await until(lambda: batcher.depth() == 5)
        for batches in range(2, 5):
            engine.release()
            await engine.has_begun(batches)
        engine.release()
        await asyncio.gather(*work)
        assert engine.batches == [["a"], ["lonely"], ["b", "c"], ["d", "e"]]
        batcher.close()

    run(scenario)


def test_a_steady_stream_of_full_batches_does_not_starve_a_lonely_item() -> None:
    async def scenario() -> None:
        engine = Engine(held=True)
        batcher, lane = Batcher[str, str](engine), Lane("model", max_batch_size=2, max_delay=0.02)
        work = start(*(batcher.submit(item, lane, "busy") for item in ("b0", "b1")))
        await engine.has_begun(1)
        work += start(batcher.submit("lonely", lane, "rare"))
        for batches in range(2, 8):  # before every batch ends, another full one is there
            work += start(*(batcher.submit(f"b{batches}{item}", lane, "busy") for item in "xy"))
            await asyncio.sleep(0.025)
            engine.release()
            await engine.has_begun(batches)
        assert engine.batches.index(["lonely"]) == 1
        engine.release(10)
        await asyncio.gather(*work)
        batcher.close()

    run(scenario)


def test_a_cancelled_item_is_never_computed() -> None:
    async def scenario() -> None:
        engine = Engine(held=True)
        batcher, lane = Batcher[str, str](engine), Lane("model", max_batch_size=8)
        first, cancelled, last = start(*(batcher.submit(item, lane, "g") for item in ("a", "gone", "c")))
        await until(lambda: batcher.depth() == 2)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        assert batcher.depth() == 1
        engine.release(2)
        await asyncio.gather(first, last)
        assert engine.batches == [["a"], ["c"]]
        batcher.close()

    run(scenario)


def test_cancelling_the_item_that_the_timer_waits_for_does_not_strand_the_next() -> None:
    async def scenario() -> None:
        engine = Engine()
        batcher, lane = Batcher[str, str](engine), Lane("model", max_batch_size=8, max_delay=0.3)
        (cancelled,) = start(batcher.submit("gone", lane, "g"))
        await asyncio.sleep(0.1)
        (kept,) = start(batcher.submit("b", lane, "g"))
        await asyncio.sleep(0)
        cancelled.cancel()
        assert (await kept).queue_seconds >= 0.29
        assert engine.batches == [["b"]]
        batcher.close()

    run(scenario)


def test_cancelling_an_item_on_the_engine_harms_no_neighbor() -> None:
    async def scenario() -> None:
        engine = Engine(held=True)
        batcher, lane = Batcher[str, str](engine), Lane("model", max_batch_size=2, max_delay=PATIENCE)
        cancelled, kept = start(*(batcher.submit(item, lane, "g") for item in "ab"))
        await engine.has_begun(1)
        cancelled.cancel()
        engine.release()
        assert (await kept).value == "B"
        batcher.close()

    run(scenario)


def test_an_item_past_its_deadline_is_never_computed() -> None:
    async def scenario() -> None:
        engine = Engine(held=True)
        batcher, lane = Batcher[str, str](engine), Lane("model", max_batch_size=8)
        now = time.monotonic()
        first, late, last = start(
            batcher.submit("a", lane, "g"),
            batcher.submit("late", lane, "g", deadline=now + 0.01),
            batcher.submit("c", lane, "g", deadline=now + PATIENCE),
        )
        await engine.has_begun(1)
        await asyncio.sleep(0.03)
        engine.release(2)
        with pytest.raises(DeadlinePassedError):
            await late
        await asyncio.gather(first, last)
        assert engine.batches == [["a"], ["c"]]
        batcher.close()

    run(scenario)


def test_one_bad_item_fails_alone() -> None:
    async def scenario() -> None:
        engine = Engine(held=True)
        batcher, lane = Batcher[str, str](engine), Lane("model", max_batch_size=3)
        first = start(batcher.submit("a", lane, "g"))
        await engine.has_begun(1)
        others = start(*(batcher.submit(item, lane, "g") for item in ("b", "bad", "c", "later")))
        await until(lambda: batcher.depth() == 4)
        engine.release(10)
        answers = await asyncio.gather(*first, *others, return_exceptions=True)
        assert engine.batches == [["a"], ["b", "bad", "c"], ["b"], ["bad"], ["c"], ["later"]]
        assert isinstance(answers[2], ValueError)
        good = [answer.value for answer in answers if not isinstance(answer, BaseException)]
        assert good == ["A", "B", "C", "LATER"]
        batcher.close()

    run(scenario)


def test_an_engine_that_loses_an_answer_fails_instead_of_hanging() -> None:
    async def scenario() -> None:
        batcher, lane = Batcher[str, str](lambda items, device: []), Lane("model", max_batch_size=2)
        with pytest.raises(RuntimeError, match="answered 0 of 1"):
            await batcher.submit("a", lane, "g")
        batcher.close()

    run(scenario)


def test_the_engine_runs_one_batch_at_a_time_on_one_thread() -> None:
    threads: set[str] = set()
    running = 0

    def engine(items: Sequence[int], device: int) -> list[int]:
        nonlocal running
        running += 1
        threads.add(threading.current_thread().name)
        assert running == 1
        time.sleep(0.001)
        running -= 1
        return [2 * item for item in items]

    async def scenario() -> None:
        batcher, lane = Batcher[int, int](engine), Lane("model", max_batch_size=4)
        answers = await asyncio.gather(*(batcher.submit(item, lane, item % 3) for item in range(100)))
        assert [answer.value for answer in answers] == [2 * item for item in range(100)]
        batcher.close()

    run(scenario)
    assert len(threads) == 1
    assert threading.current_thread().name not in threads


def test_in_a_hurry_nothing_waits_for_the_delay() -> None:
    async def scenario() -> None:
        engine = Engine()
        batcher, lane = Batcher[str, str](engine), Lane("model", max_batch_size=8, max_delay=PATIENCE)
        work = start(*(batcher.submit(item, lane, item) for item in "ab"))
        await until(lambda: batcher.depth() == 2)
        assert engine.batches == []
        batcher.hurry()
        assert [answer.value for answer in await asyncio.gather(*work)] == ["A", "B"]
        assert engine.batches == [["a"], ["b"]]
        batcher.close()

    run(scenario)


def test_every_batch_is_reported_and_throughput_is_measured() -> None:
    async def scenario() -> None:
        reports: list[BatchReport] = []

        def engine(items: Sequence[int], device: int) -> Sequence[int]:
            time.sleep(0.02)
            return items

        batcher = Batcher[int, int](engine, on_batch=reports.append)
        lane = Lane("model", max_batch_size=2, max_delay=PATIENCE)
        assert lane.seconds_per_item == 0
        await asyncio.gather(*(batcher.submit(item, lane, "g") for item in range(4)))
        assert [(report.size, report.limit, report.lane.name, report.failed) for report in reports] == [
            (2, 2, "model", False)
        ] * 2
        assert 0.01 <= lane.seconds_per_item < PATIENCE
        assert sum(report.seconds for report in reports) <= batcher.busy_seconds(0) < 4
        batcher.close()

    run(scenario)
