"""Whichever process answers, it answers as the others: also one that was started again, or whose engine hangs."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.patience import PATIENCE
from tests.service.group.members import clients, pids
from tests.service.harness import HELD, Server, encode, picture, publish_probe, start_afresh, until
from tests.service.holding import HOLD

PNG = {"Content-Type": "image/png"}
STALL_MS = "2000"
"""A run of the probe takes a few milliseconds; one that is held takes for ever."""
GONE = "the versions of probe that the other processes have seen (1, 2, 3) are gone from the repository, which has 4"


@pytest.fixture
def models(repository: Path, tmp_path: Path) -> Path:
    """A repository of the test's own."""
    return Path(shutil.copytree(repository, tmp_path / "models"))


@pytest.fixture
def serve(models: Path) -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start(*flags: str) -> Server:
        common = ("--processes", "2", "--engine-threads", "1", "--poll-interval-ms", "0")
        started.append(Server.start(models, *common, *flags))
        return started[-1]

    yield start
    for server in started:
        server.close()


def predict(client: httpx.Client, data: bytes | None = None) -> httpx.Response:
    return client.post("/predict", content=encode(picture(1)) if data is None else data, headers=PNG)


def answering(server: Server) -> list[int]:
    """By which version each process answers."""
    with clients(server) as members:
        return [predict(client).json()["model"]["version"] for (client,) in members]


def served(server: Server) -> list[list[int]]:
    with clients(server) as members:
        told: list[list[dict[str, Any]]] = [client.get("/models/probe").json()["versions"] for (client,) in members]
    return [[one["version"] for one in versions if one["state"] == "served"] for versions in told]


def start_again(server: Server) -> None:
    """Process 1."""
    server.errors.clear()
    os.kill(pids(server)[1], signal.SIGKILL)
    until(lambda: any("process 1 " in line and "is ready\n" in line for line in server.errors))


def test_who_is_started_again_serves_what_the_others_serve(
    serve: Callable[..., Server], models: Path, tmp_path: Path
) -> None:
    """And not what was published since they looked at the repository, at which they look when they are asked to."""
    publish_probe(tmp_path / "staging", models)
    server = serve("--keep-versions", "2")
    until(lambda: served(server) == [[2, 1], [2, 1]])  # they have looked
    publish_probe(tmp_path / "staging", models)
    with clients(server) as ((first,), _):
        assert first.post("/models/probe/reload").status_code == 200
    assert served(server) == [[3, 2], [3, 2]]
    publish_probe(tmp_path / "staging", models)
    publish_probe(tmp_path / "staging", models, name="another")
    start_again(server)
    until(lambda: served(server) == [[3, 2], [3, 2]])
    assert answering(server) == [3, 3]

    for version in ("1", "2", "3"):
        shutil.rmtree(models / "probe" / version)
    assert not any(GONE in line for line in tuple(server.log))
    start_again(server)
    assert answering(server) == [3, 4]
    until(lambda: any(GONE in line for line in tuple(server.log)))
    with clients(server) as ((first,), _):
        assert first.post("/models/probe/reload").status_code == 200
    assert answering(server) == [4, 4]


def test_whose_engine_hangs_gets_no_connections_before_it_computes_again(
    serve: Callable[..., Server], models: Path, tmp_path: Path
) -> None:
    """It would have the most: whoever refuses is never busy."""
    server, aside = serve("--engine-stall-ms", STALL_MS, "--max-batch-size", "1"), tmp_path / "aside"

    def fresh() -> int:
        with httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
            return client.get("/readyz").status_code

    network = models / "probe" / "1" / "model.onnx"
    network.rename(aside)  # nothing to replace the engine with; without its folder the model would be retired
    (server.holding / HOLD).touch()
    try:
        with clients(server) as (_, (second,)), ThreadPoolExecutor(1) as pool:
            answer = pool.submit(predict, second, HELD).result()
            assert (answer.status_code, answer.json()["type"]) == (503, "urn:maskserve:problem:engine-stalled")
            assert answer.headers["connection"] == "close", "the next may be the other's"
            until(lambda: [fresh() for _ in range(8)] == [200] * 8)
        aside.rename(network)
        until(lambda: any("has a fresh engine" in line for line in tuple(server.log)))
    finally:
        (server.holding / HOLD).unlink()
    assert answering(server) == [1, 1]


def test_processes_that_would_not_answer_alike_do_not_begin(models: Path) -> None:
    flags = ["--port", "0", "--models", str(models), "--processes", "2", "--device", "cpu"]
    process = start_afresh("tests.service.group.unlike", flags, {})
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    *before, reason = errors.splitlines()
    assert not any("ready at" in line or "alike" in line for line in before)
    assert re.fullmatch(
        r"maskserve: the processes do not answer alike: process 0 computes by \w+ in f32 on cpu .*; "
        r"process 1 computes by \w+ in f16 on cpu .*; say --engine and --precision, or name other devices",
        reason,
    )
