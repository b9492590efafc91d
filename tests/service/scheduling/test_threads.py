"""Threads that work for an event loop."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable

import numpy as np
import pytest

from service.scheduling.threads import Outcome, Threads
from tests.patience import PATIENCE


async def ask(threads: Threads, work: Callable[[], object]) -> Outcome[object]:
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[Outcome[object]] = loop.create_future()
    threads.submit(loop, work, waiter.set_result)
    return await asyncio.wait_for(waiter, PATIENCE)


def test_work_is_done_on_the_threads_and_told_on_the_loops() -> None:
    told_on: list[str] = []

    async def scenario() -> None:
        threads = Threads(2, "worker")
        loop = asyncio.get_running_loop()
        both, told = threading.Barrier(2, timeout=PATIENCE), asyncio.Event()

        def work() -> str:
            both.wait()  # only two threads get past it
            return threading.current_thread().name

        names: list[str] = []

        def done(outcome: Outcome[str]) -> None:
            names.append(outcome.result())
            told_on.append(threading.current_thread().name)
            if len(names) == 2:
                told.set()

        for _ in range(2):
            threads.submit(loop, work, done)
        await asyncio.wait_for(told.wait(), PATIENCE)
        assert sorted(names) == ["worker_0", "worker_1"]
        threads.close()
        threads.join()

    asyncio.run(scenario())
    assert told_on == [threading.main_thread().name] * 2


def test_one_thread_keeps_the_order() -> None:
    async def scenario() -> None:
        threads, done = Threads(1, "one"), []
        await asyncio.gather(*(ask(threads, lambda index=index: done.append(index)) for index in range(50)))
        assert done == list(range(50))
        threads.close()

    asyncio.run(scenario())


def test_an_error_comes_back_and_the_thread_goes_on() -> None:
    async def scenario() -> None:
        threads = Threads(1, "one")
        outcome = await ask(threads, lambda: 1 / 0)
        assert outcome.seconds >= 0
        with pytest.raises(ZeroDivisionError):
            outcome.result()
        assert (await ask(threads, lambda: "fine")).result() == "fine"
        threads.close()

    asyncio.run(scenario())


def test_an_idle_thread_keeps_nothing_alive() -> None:
    async def scenario() -> None:
        threads = Threads(1, "one")
        image = np.zeros(10)
        gone = weakref.ref(image)

        async def use() -> None:
            nonlocal image
            mine = image
            del image
            await ask(threads, mine.sum)

        await use()
        await ask(threads, lambda: None)  # it waits again by now
        assert gone() is None
        threads.close()

    asyncio.run(scenario())


def test_what_was_handed_over_is_done_before_the_threads_end() -> None:
    async def scenario() -> None:
        threads, done = Threads(1, "one"), []
        waiting = [asyncio.create_task(ask(threads, lambda index=index: done.append(index))) for index in range(3)]
        await asyncio.sleep(0)
        threads.close()
        await asyncio.gather(*waiting)
        threads.join()
        assert done == [0, 1, 2]

    asyncio.run(scenario())


PROGRAM = """
import asyncio, time
from service.scheduling.threads import Threads

async def main():
    Threads(2, "t").submit(asyncio.get_running_loop(), lambda: (time.sleep(0.3), print("done", flush=True)), print)

asyncio.run(main())
"""


def test_the_process_ends_by_itself_after_what_is_running_though_nobody_closed() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")
