"""What the tests of log, metrics and traces share: requests that can be found again, and a busy engine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import httpx

from tests.service.harness import ROOT, Server, encode, picture, until

QUICK, OTHER = encode(picture(1)), encode(picture(2))
FAILING = encode(picture(fail=True))
BUSY_SECONDS = 'maskserve_engine_busy_seconds_total{device="cpu"}'
STAGES = ("decode", "queue", "inference", "postprocess")
DOCUMENTED = sorted(set(re.findall(r"maskserve_[a-z_]+", (ROOT / "docs" / "serving.md").read_text())))


def ask(
    server: Server, data: bytes, request_id: str = "", path: str = "/predict", **parameters: Any
) -> tuple[str, httpx.Response]:
    """Predict under a request id of its own; gives both."""
    identifier = request_id or uuid4().hex
    headers = {"Content-Type": "image/png", "X-Request-ID": identifier}
    return identifier, server.client.post(path, content=data, headers=headers, params=parameters)


def lines_with(server: Server, request_id: str) -> list[dict[str, Any]]:
    """The log's lines about a request that is over, the one that every request has at the end."""

    def found() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in [*server.log] if request_id in line and line.endswith("\n")]
        return [line for line in lines if line.get("request_id") == request_id]

    until(lambda: any(line["logger"] == "service.requests" for line in found()))
    lines = sorted(found(), key=lambda line: line["logger"] == "service.requests")
    assert [line["logger"] for line in lines].count("service.requests") == 1
    return lines


def in_flight(server: Server) -> float:
    return server.metrics()["maskserve_requests_in_flight"]


def waiting(server: Server) -> float:
    return sum(value for name, value in server.metrics().items() if name.startswith("maskserve_queue_depth"))


@contextmanager
def busy(server: Server) -> Iterator[ThreadPoolExecutor]:
    """While the engine is busy; gives threads for more clients. After it all of them are counted."""
    running = server.metrics()["maskserve_batch_size_count"]
    with ThreadPoolExecutor(8) as pool, server.busy():
        yield pool
    until(lambda: server.metrics()["maskserve_batch_size_count"] > running)


# The log
