"""Members die and are replaced; the group ends with everything answered."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.patience import PATIENCE
from tests.service.group.members import clients, pids
from tests.service.harness import Server, encode, picture, until

ANSWERED = 'maskserve_requests_total{route="/predict",status="200"}'
PNG = {"Content-Type": "image/png"}


def test_a_member_that_is_killed_is_replaced_and_then_sigterm_loses_nothing(
    start_server: Callable[..., Server],
) -> None:
    server = start_server("--processes", "2", "--max-batch-size", "4", "--max-queue-size", "16")
    for number in range(20):
        with server.another_client() as client:  # each by a connection of its own
            assert client.post("/predict", content=encode(picture(number)), headers=PNG).status_code == 200
    with clients(server) as ((first,), _):
        assert first.post("/v2/repository/models/probe/unload").status_code == 200
        before = server.metrics()
        assert before[ANSWERED] == 20
        killed = pids(server)[1]
        os.kill(killed, signal.SIGSTOP)  # it hangs: what it last told is taken
        assert f"{ANSWERED} 20.0" in first.get("/metrics").text
        os.kill(killed, signal.SIGKILL)
        until(lambda: any(f"({killed}) has ended with signal SIGKILL" in line for line in server.errors))
        counts = server.metrics()
        assert (counts[ANSWERED], counts["maskserve_processes"], counts["maskserve_process_deaths_total"]) == (20, 1, 1)
        until(lambda: any("is ready\n" in line for line in server.errors))
        assert server.metrics()["maskserve_processes"] == 2
    said = [line for line in server.errors if "process" in line and "ready at" not in line]
    assert re.fullmatch(
        rf"maskserve: process (\d) \({killed}\) has ended with signal SIGKILL; it is started again\n"
        r"maskserve: process \1 \(\d+\) is ready\n",
        "".join(said),
    )
    with clients(server) as members:
        for (client,) in members:  # the new one, too, serves what the others do
            assert client.post("/predict", content=encode(picture()), headers=PNG).status_code in (404, 503)
        counts = server.metrics()
        assert counts[ANSWERED] == 20
        assert all(counts[name] >= value for name, value in before.items() if name.endswith(("_total", "_count")))
        assert members[0][0].post("/models/probe/reload").status_code == 200
    _end_under_load(server)


def _end_under_load(server: Server) -> None:
    stopped = threading.Event()
    before = sum('"route":"/predict"' in line and '"status":200' in line for line in server.log)

    def client(number: int) -> Counter[int]:
        """Ask until refused because of the end; how often which status came."""
        seen: Counter[int] = Counter()
        with server.another_client() as connection:
            while True:
                try:
                    answer = connection.post("/predict", content=encode(picture(number, slow=21)), headers=PNG)
                except httpx.TransportError:  # it came when all was answered; the log tells if an answer was lost
                    assert stopped.is_set()
                    return seen
                seen[answer.status_code] += 1
                if answer.status_code == 503:
                    assert answer.json()["type"] == "urn:maskserve:problem:draining"
                    assert stopped.is_set()
                    return seen

    with ThreadPoolExecutor(9) as pool, server.busy() as held:
        asking = [pool.submit(client, number) for number in range(8)]
        until(lambda: server.metrics()[ANSWERED] > 50)
        stopped.set()
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.get_afresh("/readyz").status_code == 503)
        for _ in range(40):  # the one that is not busy has drained, and stays for those who come
            assert server.get_afresh("/readyz").status_code == 503
    assert held[0].result().status_code == 200
    seen = [*(one.result() for one in asking), Counter({200: 1})]
    assert server.process.wait(PATIENCE) == 0
    assert {status for one in seen for status in one} <= {200, 429, 503}
    answered = before + sum(one[200] for one in seen)
    until(lambda: sum('"route":"/predict"' in line and '"status":200' in line for line in server.log) >= answered)
    lines = [line for line in server.log if '"route":"/predict"' in line and '"status":200' in line]
    assert len(lines) == answered, "the group counts other answers than the clients got"
    assert {re.search(r'"process":(\d)', line)[1] for line in lines} == {"0", "1"}  # type: ignore[index]  # all have one


def test_a_member_that_hangs_keeps_the_others_only_until_a_second_signal(start_server: Callable[..., Server]) -> None:
    server = start_server("--processes", "2")
    with clients(server) as ((client,), _):
        _, hung = pids(server)
        os.kill(hung, signal.SIGSTOP)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: client.get("/readyz").status_code == 503)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: pids(server) == [hung])
    os.kill(hung, signal.SIGKILL)
    assert server.process.wait(PATIENCE) == 128 + signal.SIGKILL
