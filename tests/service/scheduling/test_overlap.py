"""The batcher before engines that are given a batch while they compute another: all that it promises still holds."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from model.runtime.engines.engine import OutOfMemory
from service.scheduling.batcher import Batcher, BatchReport, DeadlinePassedError, EngineStalledError
from service.scheduling.priority import Priority
from service.scheduling.waiting import Lane
from tests.service.scheduling.batching import start
from tests.service.scheduling.simulated import Clock, Gpu, simulate

__all__ = ["simulate"]

Simulate = Callable[[Callable[[Clock], Coroutine[Any, Any, None]]], None]


def lane(size: int, delay: float = 0.0, name: str = "model") -> Lane:
    return Lane(name, size, delay, at_once=2)


def test_a_device_has_its_next_batch_before_the_last_one_ends(simulate: Simulate) -> None:
    async def scenario(clock: Clock) -> None:
        reports: list[BatchReport] = []
        gpu, two = Gpu(clock, seconds=1.0, feeding=0.25), lane(2)
        batcher = Batcher[str, str](gpu, on_batch=reports.append)
        work = start(*(batcher.submit(f"i{n}", two, "g") for n in range(12)))
        answers = await asyncio.gather(*work)
        assert [answer.value for answer in answers] == [f"I{n}" for n in range(12)]
        batches = [items for _, items in gpu.computed]
        # The first goes at once, as the device is idle; the last is not full.
        assert batches == [["i0"], *([f"i{n}", f"i{n + 1}"] for n in range(1, 11, 2)), ["i11"]]
        assert gpu.most == 2
        # Only the first batch was waited for while it was fed, and the last, which another item could have joined.
        assert clock.time() == pytest.approx(7 * 1.0 + 2 * 0.25)
        assert batcher.busy_seconds(0) == pytest.approx(clock.time())
        assert [report.seconds for report in reports] == pytest.approx([1.25, 1, 1, 1, 1, 1, 1.25])
        assert [answer.run_seconds for answer in answers[1:11]] == pytest.approx([1.0] * 10)
        assert [answer.queue_seconds for answer in answers[1:11]] == pytest.approx(
            [1.25 + n // 2 for n in range(10)], abs=1e-6
        )
        batcher.close()

    simulate(scenario)


def test_what_is_not_full_waits_for_more_until_the_device_is_idle_or_nothing_more_comes(simulate: Simulate) -> None:
    async def scenario(clock: Clock) -> None:
        gpu, four = Gpu(clock), lane(4)
        batcher = Batcher[str, str](gpu)
        work = start(batcher.submit("a", four, "g"))
        await asyncio.sleep(0.1)
        work += start(*(batcher.submit(item, four, "g") for item in "bc"))
        await asyncio.sleep(0.1)
        assert gpu.given == [(0, ["a"])]
        work += start(batcher.submit("d", four, "g"))
        await asyncio.gather(*work)
        assert gpu.given == [(0, ["a"]), (0, ["b", "c", "d"])]

        work = start(*(batcher.submit(item, four, "g") for item in "ef"))
        await asyncio.sleep(0.1)
        batcher.hurry()
        await asyncio.sleep(0.1)
        assert gpu.given[2:] == [(0, ["e"]), (0, ["f"])]
        await asyncio.gather(*work)
        batcher.close()

    simulate(scenario)


def test_full_batches_do_not_pass_what_has_waited_for_longer(simulate: Simulate) -> None:
    """However many of them there are, so that the device is never idle."""

    async def scenario(clock: Clock) -> None:
        gpu, two = Gpu(clock), lane(2)
        batcher = Batcher[str, str](gpu)
        work = start(*(batcher.submit(item, two, "busy") for item in "abc"))
        await asyncio.sleep(0.1)
        work += start(batcher.submit("lonely", two, "rare"))
        await asyncio.sleep(0.1)
        for number in range(6):
            work += start(*(batcher.submit(f"{number}{item}", two, "busy") for item in "xy"))
            await asyncio.sleep(0.9)
        assert [items for _, items in gpu.given[:3]] == [["a"], ["b", "c"], ["lonely"]]
        await asyncio.gather(*work)
        batcher.close()

    simulate(scenario)


def test_a_backlog_of_full_batches_does_not_take_the_turn_of_the_other_priority(simulate: Simulate) -> None:
    """Though it came first, and the one image of the other fills no batch."""

    async def scenario(clock: Clock) -> None:
        gpu, bulk = Gpu(clock), lane(1, name="bulk")
        batcher = Batcher[str, str](gpu)
        work = start(*(batcher.submit(f"b{n}", bulk, "g", priority=Priority.BULK) for n in range(20)))
        await asyncio.sleep(0.1)
        work += start(batcher.submit("i", lane(4), "g"))
        await asyncio.gather(*work)
        # Two were on the device already; it gets what is not full when it is idle.
        assert [items for _, items in gpu.given[:4]] == [["b0"], ["b1"], ["i"], ["b2"]]
        batcher.close()

    simulate(scenario)


@pytest.mark.parametrize("at_once", [1, 2])
def test_an_engine_that_gives_its_answers_at_once_has_one_batch(simulate: Simulate, at_once: int) -> None:
    """Whatever its lane says: while it computes it takes no other."""

    async def scenario(clock: Clock) -> None:
        computing: list[int] = [0]

        def engine(items: list[str], device: int) -> list[str]:
            computing[0] += 1
            assert computing == [1]
            clock.sleep_until(clock.time() + 1)
            computing[0] -= 1
            return items

        batcher, one = Batcher[str, str](engine), Lane("model", 1, at_once=at_once)
        answers = await asyncio.gather(*(batcher.submit(item, one, "g") for item in "abcd"))
        assert [answer.value for answer in answers] == list("abcd")
        assert clock.time() == pytest.approx(4)
        batcher.close()

    simulate(scenario)


def test_lanes_with_and_without_overlap_share_a_device_in_turn(simulate: Simulate) -> None:
    async def scenario(clock: Clock) -> None:
        gpu = Gpu(clock)
        order: list[str] = []

        def engine(items: list[str], device: int) -> Any:
            order.append(items[0])
            if not items[0].startswith("s"):
                return gpu(items, device)
            clock.sleep_until(clock.time() + 1.5)  # not as long as the other: which ends first must not be by chance
            return items

        batcher = Batcher[str, str](engine)
        ahead, alone = lane(1, name="ahead"), Lane("alone", 1)
        names = ["a0", "s0", "a1", "s1", "a2"]
        work = []
        for name in names:
            work += start(batcher.submit(name, alone if name[0] == "s" else ahead, "g"))
            await asyncio.sleep(0.01)
        await asyncio.gather(*work)
        assert order == names
        assert gpu.most == 1  # nothing is given to a device whose thread computes
        batcher.close()

    simulate(scenario)


def test_interactive_items_overtake_what_waits_but_nothing_on_the_device(simulate: Simulate) -> None:
    async def scenario(clock: Clock) -> None:
        gpu, one = Gpu(clock), lane(1)
        batcher = Batcher[str, str](gpu)
        work = start(*(batcher.submit(f"b{n}", one, "g", priority=Priority.BULK) for n in range(4)))
        await asyncio.sleep(0.1)
        work += start(batcher.submit("i", one, "g"))
        await asyncio.gather(*work)
        assert [items[0] for _, items in gpu.computed] == ["b0", "b1", "i", "b2", "b3"]
        batcher.close()

    simulate(scenario)


def test_who_leaves_or_is_late_before_his_batch_is_given_to_the_device_is_never_computed(simulate: Simulate) -> None:
    async def scenario(clock: Clock) -> None:
        gpu, one = Gpu(clock), lane(1)
        batcher = Batcher[str, str](gpu)
        on_device = start(*(batcher.submit(item, one, "g") for item in "ab"))
        late, gone, last = start(
            batcher.submit("late", one, "g", deadline=0.5),
            batcher.submit("gone", one, "g"),
            batcher.submit("c", one, "g"),
        )
        await asyncio.sleep(0.1)
        gone.cancel()
        on_device[1].cancel()  # is computed, for nobody
        with pytest.raises(DeadlinePassedError):
            await late
        assert (await last).value == "C"
        assert gpu.computed == [(0, ["a"]), (0, ["b"]), (0, ["c"])]
        batcher.close()

    simulate(scenario)


@pytest.mark.parametrize("bad", ["bad", "unreadable"], ids=["when it is collected", "when it is fed"])
def test_a_bad_item_fails_alone_whatever_else_is_on_the_device(simulate: Simulate, bad: str) -> None:
    async def scenario(clock: Clock) -> None:
        reports: list[BatchReport] = []
        gpu, three = Gpu(clock), lane(3)
        batcher = Batcher[str, str](gpu, on_batch=reports.append)
        items = ["first", "a", bad, "b", "c", "d", "e"]
        answers = await asyncio.gather(*(batcher.submit(item, three, "g") for item in items), return_exceptions=True)
        assert isinstance(answers.pop(2), ValueError)
        assert [answer.value for answer in answers] == ["FIRST", "A", "B", "C", "D", "E"]
        assert sorted((report.size, report.failed) for report in reports) == sorted(
            [(1, False), (3, True), (3, False), (1, False), (1, True), (1, False)]
        )
        assert gpu.given.count((0, ["c", "d", "e"])) == 1
        batcher.close()

    simulate(scenario)


def test_short_memory_halves_the_limit_though_another_batch_of_the_old_size_is_on_the_device(
    simulate: Simulate,
) -> None:
    async def scenario(clock: Clock) -> None:
        gpu, eight = Gpu(clock, fits=2), lane(8, delay=10)
        batcher = Batcher[str, str](gpu)
        names = [f"i{n}" for n in range(16)]
        answers = await asyncio.gather(*(batcher.submit(name, eight, "g") for name in names))
        assert [answer.value for answer in answers] == [name.upper() for name in names]
        assert eight.max_batch_size == 2
        sizes = [len(items) for _, items in gpu.computed]
        assert max(sizes) == 8
        assert sum(size for size in sizes if size <= 2) == 16
        batcher.close()

    simulate(scenario)


def test_an_item_that_alone_exceeds_the_memory_fails(simulate: Simulate) -> None:
    async def scenario(clock: Clock) -> None:
        batcher = Batcher[str, str](Gpu(clock, fits=0))
        with pytest.raises(OutOfMemory):
            await batcher.submit("a", lane(4), "g")
        batcher.close()

    simulate(scenario)


def test_a_batch_that_waits_for_another_does_not_hang(simulate: Simulate) -> None:
    async def scenario(clock: Clock) -> None:
        gpu, one = Gpu(clock, seconds=0.9), lane(1)
        batcher = Batcher[str, str](gpu, stall_after=1.0, on_stall=lambda items, device: pytest.fail("nothing hangs"))
        await asyncio.gather(*(batcher.submit(f"i{n}", one, "g") for n in range(6)))
        assert gpu.most == 2
        batcher.close()

    simulate(scenario)


def test_what_is_behind_a_batch_that_hangs_is_computed_by_another_device(simulate: Simulate) -> None:
    async def scenario(clock: Clock) -> None:
        stalls: list[tuple[list[str], int]] = []
        gpu, one = Gpu(clock), lane(1)
        batcher = Batcher[str, str](
            gpu, devices=2, stall_after=3.0, on_stall=lambda items, device: stalls.append(([*items], device))
        )
        hangs, *others = start(*(batcher.submit(item, one, "g") for item in ["hangs", "a", "b", "c", "d"]))
        with pytest.raises(EngineStalledError):
            await hangs
        assert [answer.value for answer in await asyncio.gather(*others)] == ["A", "B", "C", "D"]
        assert stalls == [(["hangs"], 0)]
        assert (batcher.abandoned, batcher.is_out) == (1, False)
        assert {device for device, _ in gpu.computed} == {1}
        batcher.close()

    simulate(scenario)


def test_without_another_device_all_fail_and_a_replaced_one_computes_again(simulate: Simulate) -> None:
    async def scenario(clock: Clock) -> None:
        reports: list[BatchReport] = []
        gpu, one = Gpu(clock), lane(1)
        batcher = Batcher[str, str](gpu, stall_after=3.0, on_batch=reports.append)
        work = start(*(batcher.submit(item, one, "g") for item in ["a", "hangs", "b", "c"]))
        ended = await asyncio.gather(*work, return_exceptions=True)
        assert [type(one) for one in ended[1:]] == [EngineStalledError] * 3
        assert batcher.is_out
        assert [(report.size, report.failed) for report in reports] == [(1, False), (1, True)]
        gpu.replace(0)
        batcher.restore(0)
        assert (await batcher.submit("d", one, "g")).value == "D"
        assert batcher.abandoned == 1
        batcher.close()

    simulate(scenario)


@pytest.mark.parametrize("seed", range(8))
def test_every_item_is_answered_once_whatever_fails(simulate: Simulate, seed: int) -> None:
    draw = random.Random(seed)

    async def scenario(clock: Clock) -> None:
        reports: list[BatchReport] = []
        gpu = Gpu(clock, seconds=0.05, feeding=0.005, fits=draw.choice([2, 4]))
        batcher: Batcher[str, str] = Batcher(
            gpu,
            devices=draw.choice([1, 2]),
            stall_after=1.0,
            on_batch=reports.append,
            on_stall=lambda items, device: clock.call_later(
                0.5, lambda: (gpu.replace(device), batcher.restore(device))
            ),
        )
        lanes = [lane(4, 0.02, "a"), lane(8, 0.0, "b"), Lane("c", 2, 0.01, at_once=1)]
        odd = {7: "bad", 31: "unreadable", 60: "hangs", 90: "slow"}

        async def ask(number: int) -> str:
            await asyncio.sleep(draw.uniform(0, 3))
            name = odd.get(number, f"i{number}")
            if draw.random() < 0.1:
                with pytest.raises((TimeoutError, EngineStalledError)):
                    await asyncio.wait_for(submit(name, number), 0.001)
                return "left"
            try:
                return await submit(name, number)
            except (ValueError, EngineStalledError, DeadlinePassedError, OutOfMemory) as error:
                return type(error).__name__

        async def submit(name: str, number: int) -> str:
            priority = draw.choice([*Priority])
            answer = await batcher.submit(name, lanes[number % 3], number % 2, clock.time() + 8, priority)
            assert answer.value == name.upper()
            assert answer.queue_seconds >= -1e-9
            return "answered"

        ended = await asyncio.gather(*(ask(number) for number in range(120)))
        assert ended.count("answered") >= 25
        assert batcher.depth() == 0
        assert gpu.most <= 2
        assert sum(report.size for report in reports if not report.failed) >= ended.count("answered")
        batcher.close()

    simulate(scenario)
