"""An engine that hangs, in a real server: who waits for it is told in time, it is replaced, and all is as before."""

from __future__ import annotations

import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.harness import Server, encode, picture, until
from tests.service.holding import HOLD
from tests.service.http.impatience import problem_type

PNG = encode(picture(1))
STALL_MS = "2000"
"""A run of the probe takes a few milliseconds; one that is held takes for ever."""


@pytest.fixture
def models(repository: Path, tmp_path: Path) -> Path:
    """A repository of the test's own."""
    return Path(shutil.copytree(repository, tmp_path / "models"))


@pytest.fixture
def serve(models: Path) -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start(*flags: str) -> Server:
        started.append(Server.start(models, "--engine-stall-ms", STALL_MS, "--engine-threads", "1", *flags))
        return started[-1]

    yield start
    for server in started:
        server.close()


def found(answer: httpx.Response) -> dict[str, Any]:
    """Without the times."""
    assert answer.status_code == 200, answer.text
    return {name: value for name, value in answer.json().items() if name != "timing_ms"}


def assert_stalled(answer: httpx.Response) -> None:
    assert (answer.status_code, problem_type(answer)) == (503, "engine-stalled"), answer.text
    assert int(answer.headers["retry-after"]) >= 1
    assert "engine is being replaced" in answer.json()["detail"]


def said(server: Server, words: str) -> bool:
    return any(words in line for line in tuple(server.log))


def stuck(server: Server) -> float:
    return server.metrics()["maskserve_stuck_threads"]


def test_its_requests_get_503_and_it_is_replaced(serve: Callable[..., Server], models: Path, tmp_path: Path) -> None:
    server = serve("--poll-interval-ms", "0", "--max-batch-size", "1")
    before = found(server.predict(PNG))
    statuses: Counter[int] = Counter({200: 1})
    aside = tmp_path / "aside"
    with server.busy() as hung:
        (models / "probe").rename(aside)  # nothing to replace it with
        with ThreadPoolExecutor(2) as clients:
            waiting = [clients.submit(server.predict, PNG) for _ in range(2)]
            for one in (*hung, *waiting):
                assert_stalled(one.result())
        answer = server.client.get("/readyz")
        assert (answer.status_code, problem_type(answer)) == (503, "engine-stalled")
        assert server.client.get("/v2/health/ready").status_code == 503
        assert server.client.get("/healthz").status_code == 200
        assert_stalled(server.predict(PNG))
        assert_stalled(server.client.post("/predict/batch", files=[("file", PNG), ("file", PNG)]))
        until(lambda: said(server, "probe/1 has no engine on cpu: "))
        statuses[503] += 4

        aside.rename(models / "probe")
        until(lambda: server.client.get("/readyz").status_code == 200)
        until(lambda: said(server, "a run of probe/1 on cpu hangs"))
        until(lambda: said(server, "probe/1 has a fresh engine on cpu"))
        assert found(server.predict(PNG)) == before
        assert stuck(server) == 1
        statuses[200] += 1
    until(lambda: stuck(server) == 0)
    until(lambda: said(server, "a run that hung has ended"))
    metrics = server.metrics()
    assert metrics['maskserve_engine_stalls_total{device="cpu",model="probe"}'] == 1
    assert metrics['maskserve_failed_batches_total{model="probe"}'] == 1
    for status, count in statuses.items():
        assert metrics[f'maskserve_requests_total{{route="/predict",status="{status}"}}'] == count
    assert metrics['maskserve_dropped_total{outcome="shed",reason="engine-stalled"}'] >= 4
    assert metrics["maskserve_requests_in_flight"] == 0
    assert found(server.predict(PNG)) == before

    with server.busy() as hung:  # as often as it takes; and a thread that is stuck keeps no process alive
        assert_stalled(hung[0].result())
        until(lambda: server.client.get("/readyz").status_code == 200)
        assert found(server.predict(PNG)) == before
        assert server.stop() == 0


def test_of_two_engines_the_other_goes_on(serve: Callable[..., Server]) -> None:
    server = serve("--device", "cpu,cpu", "--max-batch-size", "1")
    with server.busy() as hung:
        while not hung[0].done():
            assert server.client.get("/readyz").status_code == 200
            found(server.predict(PNG))
        assert_stalled(hung[0].result())
        until(lambda: said(server, "has a fresh engine on cpu"))
        found(server.predict(PNG))
        assert stuck(server) == 1


def test_a_process_that_was_stopped_for_longer_has_no_engine_that_hangs(serve: Callable[..., Server]) -> None:
    """SIGSTOP, or a machine that sleeps: what was on its way is answered."""
    server = serve()
    with server.busy() as held, ThreadPoolExecutor(1) as clients:
        server.process.send_signal(signal.SIGSTOP)
        late = clients.submit(server.predict, PNG)
        with pytest.raises(TimeoutError):
            late.result(timeout=1.25 * int(STALL_MS) / 1e3)
        (server.holding / HOLD).rename(server.holding / "held")
        server.process.send_signal(signal.SIGCONT)
        assert held[0].result().status_code == late.result().status_code == 200
        (server.holding / "held").rename(server.holding / HOLD)
    assert 'maskserve_engine_stalls_total{device="cpu",model="probe"}' not in server.metrics()
