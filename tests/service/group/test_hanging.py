"""A change of the models waits for a member while that lives, and no longer."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from service.group import hanging
from service.group.hanging import HangsError, while_alive
from tests.service.group.impatient import SILENT_SECONDS
from tests.service.group.members import clients, pids
from tests.service.harness import Server, encode, picture, until

PNG = {"Content-Type": "image/png"}


@pytest.fixture(scope="module")
def group(repository: Path) -> Iterator[Server]:
    flags = ("--processes", "2", "--engine-threads", "1", "--poll-interval-ms", "0")
    server = Server.start(repository, *flags, module="tests.service.group.impatient")
    yield server
    server.close()


def test_a_member_that_hangs_in_a_change_is_replaced_by_one_that_has_done_it(group: Server) -> None:
    group.errors.clear()
    other = pids(group)[1]
    with clients(group) as ((first,), _):
        os.kill(other, signal.SIGSTOP)
        assert first.post("/v2/repository/models/probe/unload").status_code == 200
    until(lambda: any("is ready\n" in line for line in group.errors))
    assert re.fullmatch(
        rf"maskserve: process 1 \({other}\) hangs, and is killed: a change of the models waits for it, and it has told "
        rf"nothing for {SILENT_SECONDS} s\n"
        rf"maskserve: process 1 \({other}\) has ended with signal SIGKILL; it is started again\n"
        r"maskserve: process 1 \(\d+\) is ready\n",
        "".join(group.errors),
    )
    with clients(group) as members:
        for (client,) in members:
            assert client.post("/predict", content=encode(picture()), headers=PNG).status_code in (404, 503)


def test_a_change_that_kills_who_does_it_first_is_kept_from_the_others(group: Server) -> None:
    group.errors.clear()
    with clients(group) as ((first,), (second,)):
        before, deaths = pids(group), group.metrics()["maskserve_process_deaths_total"]
        with pytest.raises(httpx.TransportError):
            first.post("/models/probe/unpin")
        until(lambda: any("is ready\n" in line for line in group.errors))
        assert second.get("/models").status_code == 200
        assert set(before) & set(pids(group)) == {before[1]}
        counts = group.metrics()
        assert (counts["maskserve_processes"], counts["maskserve_process_deaths_total"]) == (2, deaths + 1)


@pytest.mark.parametrize(
    ("heard", "longest", "reason"),
    [
        pytest.param(lambda: 0, 1, "has told nothing for 0 s", id="silent"),
        pytest.param(itertools.count().__next__, 0.02, "has not done in 0 s what took another 0 s at most", id="late"),
    ],
)
def test_who_is_silent_or_much_too_late_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, heard: Callable[[], float], longest: float, reason: str
) -> None:
    monkeypatch.setattr(hanging, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(hanging, "LEAST_SECONDS", 0.01)
    ended: list[bool] = []

    async def never() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def ask() -> None:
        with pytest.raises(HangsError, match=f"^{reason}$"):
            await while_alive(never(), heard, longest)
        await asyncio.sleep(0)

    asyncio.run(ask())
    assert ended == [True]


def test_who_tells_that_it_lives_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hanging, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(hanging, "SILENT_LOOKS", 10)
    told = itertools.count()

    async def slow() -> str:
        while next(told) < 50:  # looks too count what was told, and so come to the end
            await asyncio.sleep(0.001)
        return "answer"

    async def fail() -> str:
        raise ConnectionError("gone")

    assert asyncio.run(while_alive(slow(), lambda: next(told), 0)) == "answer"
    with pytest.raises(ConnectionError, match="gone"):
        asyncio.run(while_alive(fail(), lambda: 0, 0))
