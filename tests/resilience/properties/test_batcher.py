"""The batcher on a simulated clock, whatever comes when and however long it takes, fails or hangs."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from model.runtime.engines.engine import OutOfMemory
from service.scheduling import batcher as scheduling
from service.scheduling import device as devices
from service.scheduling import threads
from service.scheduling.batcher import Batcher, DeadlinePassedError, EngineStalledError
from service.scheduling.priority import MOST_INTERACTIVE_TURNS, Priority
from service.scheduling.waiting import Lane
from tests.resilience.properties.simulated import Clock, few_or_many, often

STALL, HANGS_FOR = 2.0, 50.0
"""Seconds; no run that does not hang takes as long."""


@dataclass(frozen=True)
class Item:
    """What is submitted. `after`: seconds since the one before; `patience` and `leaves`: seconds from then."""

    after: float
    lane: int
    bucket: int
    priority: Priority
    patience: float = float("inf")
    leaves: float | None = None
    is_bad: bool = False


@dataclass(frozen=True)
class Plan:
    """`lanes`: items of a batch, delay, batches at once. `seconds`: of each run, in turns; `bulk_seconds`: of one that
    begins with a bulk item. `fits`: items that memory has room for. `hangs`: runs that do, by number."""

    items: tuple[Item, ...]
    lanes: tuple[tuple[int, float, int], ...]
    devices: int
    seconds: tuple[float, ...]
    early: float
    fits: int = 99
    hangs: frozenset[int] = frozenset()
    recovery: float = 0.0
    bulk_seconds: float | None = None


@dataclass(frozen=True)
class Run:
    at: float
    device: int
    numbers: tuple[int, ...]
    limit: int


@dataclass
class Story:
    """What became of a plan: all runs, and of each item when it came and how and when it ended."""

    clock: Clock
    plan: Plan
    runs: list[Run] = field(default_factory=list)
    computed: list[int] = field(default_factory=list)
    came: dict[int, float] = field(default_factory=dict)
    before: dict[int, int] = field(default_factory=dict)
    """How many runs had begun when an item came."""
    ended: dict[int, tuple[str, float]] = field(default_factory=dict)
    on: dict[int, list[Run]] = field(default_factory=lambda: defaultdict(list))
    free_at: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    out: set[int] = field(default_factory=set)
    ends: float = 0.0
    """When the run ends that was begun last."""
    lanes: list[Lane] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lanes = [
            Lane(f"model {index}", *limits, at_once=at_once) for index, (*limits, at_once) in enumerate(self.plan.lanes)
        ]

    def run(self, numbers: Sequence[int], device: int) -> Callable[[], Sequence[int]]:
        """The engine, which computes its runs one after the other."""
        on_it = self.on[device]
        assert device not in self.out, "it is out of service"
        assert all(len(on_it) < self.lane_of(run.numbers[0]).at_once for run in on_it), "it has no room"
        run = Run(self.clock.now, device, tuple(numbers), self.lane_of(numbers[0]).max_batch_size)
        self.runs.append(run)
        on_it.append(run)
        hangs = len(self.runs) in self.plan.hangs
        takes = HANGS_FOR if hangs else self.plan.seconds[len(self.runs) % len(self.plan.seconds)]
        if self.plan.bulk_seconds is not None and self.priority_of(run) is Priority.BULK:
            takes = self.plan.bulk_seconds
        self.ends = self.free_at[device] = max(self.clock.now, self.free_at[device]) + takes

        def collect() -> Sequence[int]:
            if run not in self.on[device]:  # it was given up
                return [*numbers]
            self.on[device].remove(run)
            if len(numbers) > self.plan.fits:
                raise OutOfMemory("too many")
            if any(self.plan.items[number].is_bad for number in numbers):
                raise ValueError("a bad item")
            self.computed += numbers
            return [10 * number for number in numbers]

        return collect

    def lane_of(self, number: int) -> Lane:
        return self.lanes[self.plan.items[number].lane]

    def priority_of(self, run: Run) -> Priority:
        return self.plan.items[run.numbers[0]].priority

    def nothing_due_waits_for_an_idle_device(self) -> None:
        if all(device in self.out or self.on[device] for device in range(self.plan.devices)):
            return
        begun = {number for run in self.runs for number in run.numbers}
        for number in self.came.keys() - self.ended.keys() - begun:
            assert self.clock.now < self.came[number] + self.lane_of(number).max_delay, f"{number} is due"


class SimulatedThreads:
    """In place of a device's: what feeds it takes no time, and what collects from it as long as the run."""

    def __init__(self, story: Story, name: str) -> None:
        self._story, self._feeds = story, name.startswith("engine")

    def hand_over(self, run: Callable[[], None]) -> None:
        if self._feeds:
            run()
        else:
            self._story.clock.call_at(self._story.ends, run)

    def forget(self) -> None: ...

    def close(self) -> None: ...


def play(plan: Plan) -> Story:
    """The plan as it goes with the real batcher."""
    clock = Clock(early=plan.early)
    story = Story(clock, plan)
    clock.on_pause = story.nothing_due_waits_for_an_idle_device

    async def submit(batcher: Batcher[int, int], number: int) -> None:
        item = plan.items[number]
        story.came[number], story.before[number] = clock.now, len(story.runs)
        try:
            async with asyncio.timeout(item.leaves):
                answer = await batcher.submit(
                    number, story.lanes[item.lane], item.bucket, clock.now + item.patience, item.priority
                )
            assert answer.value == 10 * number, "another item's answer"
            how = "answered"
        except TimeoutError:
            how = "left"
        except DeadlinePassedError:
            how = "too late"
        except EngineStalledError:
            how = "stalled"
        except ValueError:
            how = "failed"
        story.ended[number] = how, clock.now

    async def scenario() -> None:
        def stalled(numbers: Sequence[int], device: int) -> None:
            story.on[device].clear()
            story.free_at[device] = clock.now
            story.out.add(device)
            clock.call_later(plan.recovery, restore, device)

        def restore(device: int) -> None:
            story.out.discard(device)
            batcher.restore(device)

        batcher = Batcher[int, int](story.run, devices=plan.devices, stall_after=STALL, on_stall=stalled)
        clients = []
        for number, item in enumerate(plan.items):
            if item.after:
                await asyncio.sleep(item.after)
            clients.append(asyncio.create_task(submit(batcher, number)))
        await asyncio.gather(*clients)
        await asyncio.sleep(2 * HANGS_FOR)
        assert batcher.depth() == batcher.abandoned == 0
        assert not story.out
        assert not any(story.on.values())
        batcher.close()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(devices, "Threads", lambda count, name: SimulatedThreads(story, name))
        for module in (scheduling, devices, threads):
            patched.setattr(module, "time", SimpleNamespace(monotonic=clock.time, perf_counter=clock.time))
        clock.run(scenario())
    return story


TIMES = st.sampled_from((0.0, 0.001, 0.01, 0.1, 0.7))
PRIORITIES = st.sampled_from(Priority)
DELAYS = st.sampled_from((0.0, 0.0, 0.02, 0.3))


def plans(items: SearchStrategy[Item], **more: SearchStrategy[Any]) -> SearchStrategy[Plan]:
    return st.builds(
        Plan,
        items=few_or_many(items).map(tuple),
        lanes=st.tuples(*[st.tuples(st.integers(1, 4), DELAYS, st.integers(1, 3))] * 2),
        devices=st.integers(1, 3),
        seconds=st.lists(TIMES, min_size=1, max_size=5).map(tuple),
        early=st.sampled_from((0.0, 0.0009)),
        **more,
    )


ITEM: dict[str, SearchStrategy[Any]] = {
    "after": st.one_of(st.just(0.0), TIMES),
    "lane": st.integers(0, 1),
    "bucket": st.integers(0, 1),
    "priority": PRIORITIES,
}
WELL_BEHAVED = st.builds(Item, **ITEM)
ANY = st.builds(
    Item,
    **ITEM,
    patience=st.one_of(st.just(float("inf")), TIMES),
    leaves=st.one_of(st.none(), TIMES),
    is_bad=st.sampled_from((False, False, False, True)),
)
FAULTS: dict[str, SearchStrategy[Any]] = {
    "fits": st.sampled_from((1, 2, 3, 99)),
    "hangs": st.frozensets(st.integers(1, 12), max_size=2),
    "recovery": st.sampled_from((0.0, 0.5, 5.0)),
}


@often
@given(plans(ANY, **FAULTS))
def test_each_item_ends_once_and_as_it_should(plan: Plan) -> None:
    story = play(plan)
    runs = story.runs
    assert story.ended.keys() == set(range(len(plan.items))), "some are lost"
    hung = {number for index, run in enumerate(runs, 1) if index in plan.hangs for number in run.numbers}
    for number, item in enumerate(plan.items):
        how, when = story.ended[number]
        of_it = [run for run in runs if number in run.numbers]
        assert story.computed.count(number) <= 1, "computed twice"
        assert (how != "answered") or number in story.computed
        assert (how != "failed") or (item.is_bad and len(of_it[-1].numbers) == 1)
        assert (how != "too late") or when >= story.came[number] + item.patience
        assert (how != "stalled") or number in hung or len(plan.hangs) >= plan.devices
        for run in of_it:
            assert run.at < story.came[number] + item.patience, "computed in vain"
            assert how != "left" or run.at <= when, "computed though nobody waited"


@often
@given(plans(ANY, **FAULTS))
def test_a_batch_keeps_its_limits_and_the_order_of_arrival(plan: Plan) -> None:
    story = play(plan)
    firsts: dict[tuple[int, int, Priority], list[int]] = defaultdict(list)
    seen: set[int] = set()
    for run in story.runs:
        assert len(run.numbers) <= run.limit
        assert len(set(run.numbers)) == len(run.numbers)
        assert len({(plan.items[number].lane, plan.items[number].bucket) for number in run.numbers}) == 1
        for number in run.numbers:
            item = plan.items[number]
            if number not in seen:
                firsts[item.lane, item.bucket, item.priority].append(number)
            seen.add(number)
    for numbers in firsts.values():
        assert numbers == sorted(numbers)


def waited_for(story: Story, number: int) -> Iterator[Run]:
    """The runs that began while the item was due."""
    due = story.came[number] + story.lane_of(number).max_delay
    for run in itertools.takewhile(lambda run: number not in run.numbers, story.runs[story.before[number] :]):
        if run.at >= due:
            yield run


@often
@given(plans(WELL_BEHAVED))
def test_none_starves(plan: Plan) -> None:
    """Of its own priority what came before it goes first, of the other's no more than the turns allow: of interactive
    runs more than of bulk ones before them, where these took longer."""
    story = play(plan)
    for number, item in enumerate(plan.items):
        passed = [*waited_for(story, number)]
        before = [
            {plan.items[other].priority for other in run.numbers if story.came[other] <= story.came[number]}
            for run in passed
        ]
        own = sum(item.priority in some for some in before)
        others = 1 if item.priority is Priority.INTERACTIVE else MOST_INTERACTIVE_TURNS
        assert len(passed) <= own + others * (own + 1)


@often
@given(st.sampled_from((0.05, 0.2, 0.5)), st.floats(1, 3.5), st.integers(1, 2), st.integers(1, 3))
def test_interactive_work_has_three_quarters_of_the_time(
    seconds: float, longer: float, at_once: int, devices: int
) -> None:
    """Though bulk's runs take longer than interactive ones: of each device, from bulk's first run to the last before
    nothing else waits."""
    items = tuple(Item(0.0, 0, 0, priority) for priority in Priority for _ in range(120))
    story = play(Plan(items, ((1, 0.0, at_once),) * 2, devices, (seconds,), 0.0, bulk_seconds=longer * seconds))
    kinds = [story.priority_of(run) for run in story.runs]
    last = len(kinds) - kinds[::-1].index(Priority.INTERACTIVE)
    spent = {Priority.INTERACTIVE: seconds, Priority.BULK: longer * seconds}
    bulk = [place for place, kind in enumerate(kinds[:last]) if kind is Priority.BULK]
    between = kinds[bulk[0] : bulk[-1]]
    share = sum(spent[kind] for kind in between if kind is Priority.INTERACTIVE) / sum(spent[kind] for kind in between)
    assert 0.7 <= share <= 0.85
