"""Overload, deadlines, clients that leave and a busy engine: real servers, whose engine a test can keep busy."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tests.service.harness import Server, encode, head, picture, until

QUICK = encode(picture(1))
SLOW = encode(picture(slow=78))
VERY_SLOW = encode(picture(slow=177))
"""A second or more on the engine."""


def in_flight(server: Server) -> float:
    return server.metrics()["maskserve_requests_in_flight"]


def engine_runs(server: Server) -> float:
    return server.metrics()["maskserve_batch_size_count"]


def images_run(server: Server) -> float:
    return server.metrics()["maskserve_batch_size_sum"]


def depth(server: Server) -> float:
    return sum(value for name, value in server.metrics().items() if name.startswith("maskserve_queue_depth"))


def test_beyond_the_queue_requests_are_refused_at_once_and_all_are_counted(
    start_server: Callable[..., Server],
) -> None:
    server = start_server("--max-queue-size", "3", "--max-batch-size", "1")
    with ThreadPoolExecutor(20) as pool:
        with server.busy() as blockers:
            waiting = [pool.submit(server.predict, QUICK) for _ in range(2)]
            until(lambda: in_flight(server) == 3)
            refused = [pool.submit(server.predict, QUICK) for _ in range(15)]
            refusals = [one.result() for one in refused]
            assert not any(one.done() for one in (*blockers, *waiting))
        answers = [one.result() for one in (*blockers, *waiting)]
    assert Counter(answer.status_code for answer in answers) == {200: 3}
    assert Counter(answer.status_code for answer in refusals) == {429: 15}
    for answer in refusals:
        assert answer.json()["type"] == "urn:maskserve:problem:queue-full"
        assert 1 <= int(answer.headers["retry-after"]) <= 60
    metrics = server.metrics()
    assert metrics['maskserve_requests_total{route="/predict",status="200"}'] == 3
    assert metrics['maskserve_requests_total{route="/predict",status="429"}'] == 15
    assert metrics["maskserve_batch_size_sum"] == 3
    assert server.predict(QUICK).status_code == 200


def test_a_request_past_its_deadline_gets_504_and_is_never_computed(start_server: Callable[..., Server]) -> None:
    server = start_server("--timeout-ms", "150", "--max-batch-size", "1")
    with ThreadPoolExecutor(3) as pool, server.busy() as blockers:
        waiting = [pool.submit(server.predict, QUICK) for _ in range(3)]
        answers = [one.result() for one in (*blockers, *waiting)]
    assert [answer.status_code for answer in answers] == [504] * 4
    assert all(answer.json()["type"] == "urn:maskserve:problem:deadline-passed" for answer in answers)
    until(lambda: engine_runs(server) == 1)
    # The blocker and nothing else: the engine is free and took none of those that waited.
    assert images_run(server) == 1
    assert depth(server) == 0


def test_a_client_that_leaves_is_never_computed(server: Server) -> None:
    before = Counter(server.metrics())
    with server.busy() as blockers:
        with server.connect() as connection:
            connection.sendall(head(f"Content-Length: {len(QUICK)}") + QUICK)
            until(lambda: depth(server) == 1)
        until(lambda: depth(server) == 0)
        assert in_flight(server) == 1
    assert blockers[0].result().status_code == 200
    after = server.metrics()
    assert after["maskserve_batch_size_sum"] - before["maskserve_batch_size_sum"] == 1
    left = 'maskserve_requests_total{route="/predict",status="499"}'
    assert after[left] - before[left] == 1


def test_a_client_that_leaves_while_uploading_is_forgotten(server: Server) -> None:
    left = 'maskserve_requests_total{route="/predict",status="499"}'
    before = Counter(server.metrics())[left]
    with server.connect() as connection:
        connection.sendall(head("Content-Length: 1000") + b"abc")
    until(lambda: Counter(server.metrics())[left] == before + 1)
    assert in_flight(server) == 0


def test_one_bad_image_in_a_batch_fails_alone(server: Server) -> None:
    uploads = [QUICK, encode(picture(2)), encode(picture(fail=True)), encode(picture(3))]
    with ThreadPoolExecutor(4) as pool:
        with server.busy() as blockers:
            together = [pool.submit(server.predict, upload) for upload in uploads]
            until(lambda: depth(server) == 4)
        answers = [one.result() for one in together]
    assert blockers[0].result().status_code == 200
    assert [answer.status_code for answer in answers] == [200, 200, 500, 200]
    assert answers[0].json()["scores"] == server.predict(QUICK).json()["scores"]
    until(lambda: any("failed, running its images one at a time" in line for line in server.log))


def test_health_answers_while_the_engine_and_the_decoders_are_busy(server: Server) -> None:
    big = encode(np.zeros((1000, 1000, 3), np.uint8))
    waits: list[float] = []
    with ThreadPoolExecutor(12) as pool, server.another_client() as client:
        client.get("/healthz")
        work = [pool.submit(server.predict, VERY_SLOW), *(pool.submit(server.predict, big) for _ in range(25))]
        while not all(one.done() for one in work):
            began = time.monotonic()
            assert client.get("/healthz").status_code == 200
            waits.append(time.monotonic() - began)
        assert {one.result().status_code for one in work} == {200}
        engine = work[0].result().json()["timing_ms"]["inference"] / 1e3
    # However slow the machine is: behind the engine's run, half of them would wait for as long as that.
    assert sorted(waits)[len(waits) // 2] < engine / 2


def test_a_request_may_ask_for_less_time_but_not_for_more(start_server: Callable[..., Server]) -> None:
    patient, hasty = start_server(), start_server("--timeout-ms", "200")
    # Without its own wish the first would wait for 30 s, with its own wish the second for ten minutes.
    for server, timeout_ms in ((patient, 100), (hasty, 600_000)):
        with server.busy():
            assert server.predict(QUICK, timeout_ms=timeout_ms).status_code == 504
        until(lambda server=server: in_flight(server) == 0)
    assert patient.predict(QUICK, timeout_ms=0).status_code == 422


def test_what_cannot_be_answered_in_time_is_refused_before_its_body_is_read(
    start_server: Callable[..., Server],
) -> None:
    server = start_server("--max-batch-size", "1")
    assert server.predict(SLOW).status_code == 200  # from here on the server knows what an image costs
    with ThreadPoolExecutor(3) as pool:
        with server.busy() as blockers, server.connect() as connection:
            waiting = [pool.submit(server.predict, QUICK) for _ in range(3)]
            until(lambda: in_flight(server) == 4)
            hurried = head("Content-Length: 1000").replace(b"/predict", b"/predict?timeout_ms=20")
            connection.sendall(hurried)
            answer = b""
            while b"}" not in answer and (received := connection.recv(65536)):
                answer += received
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"deadline-unreachable" in answer
        assert b"retry-after: " in answer
        assert {one.result().status_code for one in (*blockers, *waiting)} == {200}
    assert images_run(server) == 5


def test_bulk_work_neither_starves_nor_is_starved(start_server: Callable[..., Server]) -> None:
    server = start_server("--max-batch-size", "1", "--max-queue-size", "20")
    step = encode(picture(slow=42))
    order: list[str] = []

    def ask(priority: str) -> int:
        answer = server.predict(step, priority=priority)
        order.append(priority)
        return answer.status_code

    with ThreadPoolExecutor(40) as pool:
        with server.busy():
            # A full bulk queue leaves the other one free.
            bulk = [pool.submit(ask, "bulk") for _ in range(20)]
            until(lambda: depth(server) == 20)
            assert server.predict(QUICK, priority="bulk").status_code == 429
            interactive = [pool.submit(ask, "interactive") for _ in range(12)]
            until(lambda: depth(server) == 32)
        assert {one.result() for one in (*bulk, *interactive)} == {200}
    first = order[: order.index("interactive") + 14]
    assert first.count("bulk") >= 2, "bulk work stood still while the other was there"
    assert order[:18].count("interactive") >= 10, "interactive work had to wait for bulk work"


def test_short_memory_halves_the_batch_and_every_image_is_answered(start_server: Callable[..., Server]) -> None:
    server = start_server("--max-batch-size", "4")
    hungry = encode(picture(2, hungry=12))  # two take 16 MiB, four 256 TiB
    alone = server.predict(hungry).json()["scores"]
    with ThreadPoolExecutor(4) as pool:
        with server.busy():
            together = [pool.submit(server.predict, hungry) for _ in range(4)]
            until(lambda: depth(server) == 4)
        answers = [one.result() for one in together]
    assert [answer.status_code for answer in answers] == [200] * 4
    assert all(answer.json()["scores"] == alone for answer in answers)
    until(lambda: any("the batch limit of probe is now 2" in line for line in server.log))
    assert server.client.get("/models/probe").json()["max_batch_size"] == 2
    metrics = server.metrics()
    assert metrics['maskserve_batch_limit{name="probe",version="1"}'] == 2
    assert metrics['maskserve_failed_batches_total{model="probe"}'] == 1
    too_hungry = server.predict(encode(picture(2, hungry=48)))
    assert too_hungry.status_code == 503
    assert too_hungry.json()["type"] == "urn:maskserve:problem:out-of-memory"
    assert server.predict(QUICK).status_code == 200


def test_two_devices_work_on_one_queue_at_the_same_time(start_server: Callable[..., Server]) -> None:
    server = start_server("--device", "cpu,cpu", "--max-batch-size", "1")
    assert server.client.get("/models/probe").json()["devices"] == ["cpu", "cpu"]
    alone = server.predict(QUICK).json()["scores"]
    with server.busy(2) as both:
        assert in_flight(server) == 2
    assert {one.result().status_code for one in both} == {200}
    until(lambda: busy(server, "cpu") > 0 and busy(server, "cpu#1") > 0)
    assert server.predict(QUICK).json()["scores"] == alone


def busy(server: Server, device: str) -> float:
    return server.metrics()[f'maskserve_engine_busy_seconds_total{{device="{device}"}}']
