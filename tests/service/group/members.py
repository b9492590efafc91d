"""What the tests of groups share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from tests.service.harness import Server, until


def pids(server: Server) -> list[int]:
    """Of the members that live."""
    parent = server.process.pid
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def process_of(server: Server, request_id: str) -> int:
    """Which process has answered the request, by the log."""

    def lines() -> list[str]:
        return [line for line in server.log if f'"request_id":"{request_id}"' in line]

    until(lambda: bool(lines()))
    process: int = json.loads(lines()[0])["process"]
    return process


@contextmanager
def clients(server: Server, each: int = 1, processes: int = 2) -> Iterator[list[list[httpx.Client]]]:
    """So many clients of each process: a connection that stays open stays with the process that has it."""
    found: list[list[httpx.Client]] = [[] for _ in range(processes)]
    with ExitStack() as stack:
        while any(len(of_one) < each for of_one in found):
            client = stack.enter_context(server.another_client())
            answer = client.get("/models")
            found[process_of(server, answer.headers["x-request-id"])].append(client)
        yield [of_one[:each] for of_one in found]
