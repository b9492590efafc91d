"""When the clients try again, how long they wait, and when they give up."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from service.client import (
    AsyncClient,
    Client,
    ClientError,
    Prediction,
    ServerProblem,
    TimedOutError,
    UnreachableError,
    UnreadableFileError,
)
from service.client.attempts import FIRST_WAIT, JITTER, LONGEST_WAIT, Attempts
from service.client.calls import checked
from tests.patience import PATIENCE
from tests.service.client.loopback import NOTHING_FOUND, Reply, loopback, problem
from tests.service.harness import Server, encode, picture, until

QUICK = encode(picture(1))
LONG = 1e6


def predict(url: str, is_async: bool, timeout: float = 30, retries: int = 5, timeout_ms: float | None = None) -> None:
    """Ask for one prediction with either client."""

    async def ask() -> Prediction:
        async with AsyncClient(url, timeout=timeout, retries=retries) as client:
            return await client.predict(b"image", timeout_ms=timeout_ms)

    if is_async:
        asyncio.run(ask())
    else:
        with Client(url, timeout=timeout, retries=retries) as client:
            client.predict(b"image", timeout_ms=timeout_ms)


either_client = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


@pytest.mark.parametrize(("is_async", "status"), [(False, 429), (True, 503)], ids=["sync, 429", "async, 503"])
def test_retry_after_is_waited_for_and_then_it_works(is_async: bool, status: int) -> None:
    with loopback([problem(status, "busy", Retry_After="1"), Reply()]) as server:
        predict(server.url, is_async)
        first, second = server.times
        assert second - first >= 1


CUT_OFF = Reply(headers={"Content-Length": "9999", "Connection": "close"})
LOST_BY_A_PROXY = Reply(500, b"Internal Server Error", {"Content-Type": "text/plain"})


@either_client
@pytest.mark.parametrize(
    "lost", [Reply(0), LOST_BY_A_PROXY, CUT_OFF], ids=["closed", "a proxy's 500", "half an answer"]
)
def test_a_server_that_is_lost_under_the_request_is_asked_once_more(is_async: bool, lost: Reply) -> None:
    with loopback([lost, Reply()]) as server:
        predict(server.url, is_async)
        assert len(server.times) == 2


@either_client
@pytest.mark.parametrize("second", [Reply(0), LOST_BY_A_PROXY], ids=["closed", "a proxy's 500"])
def test_an_image_that_ends_servers_ends_no_third_one(is_async: bool, second: Reply) -> None:
    with loopback([Reply(0), problem(503, "starting", Retry_After="0"), second, Reply()]) as server:
        with pytest.raises(ClientError):
            predict(server.url, is_async)
        assert len(server.times) == 3


@either_client
def test_after_the_last_retry_the_error_is_raised(is_async: bool) -> None:
    with loopback([problem(503, "starting", Retry_After="0")]) as server:
        with pytest.raises(ServerProblem) as caught:
            predict(server.url, is_async, retries=3)
        assert caught.value.type == "urn:maskserve:problem:starting"
        assert len(server.times) == 4


@either_client
@pytest.mark.parametrize("status", [400, 401, 404, 408, 413, 422, 500])
def test_what_will_not_change_is_not_tried_again(is_async: bool, status: int) -> None:
    with loopback([problem(status, "wrong", Retry_After="0")]) as server:
        with pytest.raises(ServerProblem) as caught:
            predict(server.url, is_async)
        assert caught.value.status == status
        assert len(server.times) == 1


@either_client
@pytest.mark.parametrize(("timeout_ms", "tries"), [(None, 2), (100, 1)], ids=["the server's deadline", "the caller's"])
def test_a_deadline_that_passed_is_tried_once_more_unless_the_caller_set_it(
    is_async: bool, timeout_ms: float | None, tries: int
) -> None:
    with loopback([problem(504, "deadline-passed", Retry_After="0")]) as server:
        with pytest.raises(ServerProblem):
            predict(server.url, is_async, timeout_ms=timeout_ms)
        assert len(server.times) == tries


@either_client
def test_a_wait_that_would_be_too_long_is_not_begun(is_async: bool) -> None:
    with loopback([problem(429, "queue-full", Retry_After="1000")]) as server:
        began = time.monotonic()
        with pytest.raises(ServerProblem) as caught:
            predict(server.url, is_async, timeout=PATIENCE)
        assert caught.value.retry_after == 1000
        assert time.monotonic() - began < PATIENCE


@either_client
@pytest.mark.parametrize(
    "reply", [Reply(seconds=60), Reply(pieces=len(NOTHING_FOUND))], ids=["no answer", "byte by byte"]
)
def test_the_time_is_bounded_whatever_the_server_does(is_async: bool, reply: Reply) -> None:
    with loopback([reply]) as server:
        with pytest.raises(TimedOutError, match=r"after 0\.5 s"):
            predict(server.url, is_async, timeout=0.5)
        assert len(server.times) == 1


def test_a_server_that_comes_up_late_is_reached() -> None:
    with loopback([Reply()]) as server:
        url = server.url
    port = int(url.rpartition(":")[2])
    failures: list[ClientError] = []

    def ask() -> None:
        try:
            predict(url, is_async=False)
        except ClientError as error:
            failures.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.2)
    with loopback([Reply()], port) as server:
        asking.join()
        assert not failures
        assert len(server.times) == 1


def test_readiness_is_asked_once() -> None:
    with pytest.raises(UnreachableError), Client("http://127.0.0.1:1", retries=1000, timeout=LONG) as client:
        client.ready()


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, b"<html>", {"Content-Type": "text/html"}),
        Reply(502, b"<html>", {"Content-Type": "text/html"}),
        Reply(400, b"[1", {"Content-Type": "application/json"}),
        Reply(400, b"[]", {"Content-Type": "application/json"}),
        Reply(307, b"", {"Location": "https://elsewhere/predict"}),
    ],
    ids=["a page", "a proxy's page", "broken JSON", "other JSON", "a redirect"],
)
def test_what_is_no_answer_of_the_server_is_named_so(reply: Reply) -> None:
    with loopback([reply]) as server, pytest.raises(ServerProblem) as caught:
        predict(server.url, is_async=False, retries=0)
    assert caught.value.status == reply.status
    assert caught.value.type == "about:blank"
    assert ("elsewhere" if reply.status == 307 else "is http://127.0.0.1:") in caught.value.detail


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        pytest.param("7", 7.0, id="seconds"),
        pytest.param("in an hour", 3600.0, id="a date"),
        pytest.param("Wed, 21 Oct 2015 07:28:00 GMT", 0.0, id="a date that is past"),
        pytest.param("soon", None, id="nonsense"),
        pytest.param("-1", None, id="negative"),
        pytest.param(None, None, id="none"),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(header: str | None, expected: float | None) -> None:
    if header == "in an hour":
        header = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    headers = {} if header is None else {"Retry-After": header}
    response = httpx.Response(503, headers=headers, request=httpx.Request("GET", "http://host/"))
    with pytest.raises(ServerProblem) as caught:
        checked(response, b"")
    assert caught.value.retry_after == (None if expected is None else pytest.approx(expected, abs=60))


def test_waits_without_retry_after_double_up_to_a_limit() -> None:
    attempts = Attempts(LONG, retries=8)
    waits = [attempts.wait_after(UnreachableError("")) for _ in range(8)]
    expected = [min(FIRST_WAIT * 2**number, LONGEST_WAIT) for number in range(8)]
    for wait, shortest in zip(waits, expected, strict=True):
        assert shortest <= wait <= shortest * (1 + JITTER)
    assert expected[-1] == LONGEST_WAIT


def test_clients_refused_together_come_back_apart() -> None:
    busy = ServerProblem(429, "", "", "", retry_after=7.0)
    waits = {Attempts(LONG, retries=1).wait_after(busy) for _ in range(20)}
    assert len(waits) == 20
    assert all(7 <= wait <= 7 * (1 + JITTER) for wait in waits)


@pytest.mark.parametrize("error", [TimedOutError(""), UnreadableFileError("")], ids=["time is over", "unreadable"])
def test_the_clients_own_failures_are_final(error: ClientError) -> None:
    with pytest.raises(type(error)):
        Attempts(LONG, retries=5).wait_after(error)


def test_a_late_answer_among_other_troubles_still_counts_once() -> None:
    attempts = Attempts(LONG, retries=9)
    late, busy = ServerProblem(504, "", "", ""), ServerProblem(503, "", "", "", retry_after=0)
    for failure in (busy, busy, late, busy):
        attempts.wait_after(failure)
    with pytest.raises(ServerProblem):
        attempts.wait_after(late)


def test_a_real_servers_full_queue_is_waited_out(start_server: Callable[..., Server]) -> None:
    server = start_server("--max-queue-size", "2", "--max-batch-size", "1")

    refused = 'maskserve_requests_total{route="/predict",status="429"}'

    async def ask() -> list[Prediction]:
        async with AsyncClient(server.url, timeout=PATIENCE, retries=30) as client:
            return await asyncio.gather(*(client.predict(QUICK) for _ in range(3)))

    with ThreadPoolExecutor(1) as pool:
        with server.busy():
            asking = pool.submit(asyncio.run, ask())
            until(lambda: Counter(server.metrics())[refused] >= 2)
        found = asking.result()
    assert [one.json["scores"] for one in found] == [server.predict(QUICK).json()["scores"]] * 3
