"""A server that is killed (SIGKILL, as where memory is short) and started again: clients that try again see nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from service.client import Client
from service.client.attempts import Attempts
from service.client.errors import ClientError, UnreachableError
from tests.service.harness import Server, encode, picture, until

PNG = encode(picture(1))


def test_clients_of_a_server_that_is_killed_are_answered_by_the_next(
    start_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[ClientError] = []

    def noted(self: Attempts, failure: ClientError, wait_after: Callable[..., float] = Attempts.wait_after) -> float:
        failures.append(failure)
        return wait_after(self, failure)

    monkeypatch.setattr(Attempts, "wait_after", noted)
    server = start_server()
    port = server.url.rpartition(":")[2]
    scores: list[list[float]] = []
    enough = threading.Event()

    def keep_asking() -> None:
        with Client(server.url, retries=1000, timeout=120) as client:
            while not enough.is_set():
                scores.append(client.predict(PNG).scores.tolist())

    thread = threading.Thread(target=keep_asking)
    thread.start()
    try:
        for _ in range(2):
            before = len(scores)
            until(lambda before=before: len(scores) > before + 2 or not thread.is_alive())
            assert thread.is_alive(), "a request failed"
            failures.clear()
            server.process.kill()
            server.process.wait()
            # Not before nobody was there: the next one starts so soon that it could be the first to be asked.
            until(lambda: not thread.is_alive() or any(isinstance(one, UnreachableError) for one in failures))
            server = start_server("--port", port)
        before = len(scores)
        until(lambda: len(scores) > before + 2 or not thread.is_alive())
        assert thread.is_alive(), "a request failed"
    finally:
        enough.set()
        thread.join()
    assert all(found == scores[0] for found in scores)
    assert server.stop() == 0
