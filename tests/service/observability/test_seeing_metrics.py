"""The metrics of a real process, in real situations: what is counted, for which reason, and that all is documented."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.observability.metrics import SCORES
from tests.service.harness import Server, encode, head, picture, until
from tests.service.observability.seeing import (
    BUSY_SECONDS,
    DOCUMENTED,
    FAILING,
    OTHER,
    QUICK,
    STAGES,
    busy,
    in_flight,
    waiting,
)


@pytest.fixture(scope="module")
def small(repository: Path) -> Iterator[Server]:
    """A server that computes one image at a time and lets three in."""
    server = Server.start(repository, "--max-queue-size", "3", "--max-batch-size", "1", "--engine-threads", "1")
    yield server
    server.close()


def growth(server: Server, before: dict[str, float]) -> dict[str, float]:
    """What has changed."""
    after = server.metrics()
    known = Counter(before)
    return {name: value - known[name] for name, value in after.items() if value != known[name]}


def dropped(server: Server, before: dict[str, float]) -> dict[tuple[str, str], float]:
    """By outcome and reason, what has been dropped since."""
    name = re.compile(r'maskserve_dropped_total\{outcome="(.*)",reason="(.*)"\}')
    matches = ((name.fullmatch(key), value) for key, value in growth(server, before).items())
    return {(match[1], match[2]): value for match, value in matches if match}


def test_the_documentation_names_metrics() -> None:
    assert len(DOCUMENTED) > 5


OF_SEVERAL_PROCESSES = {"maskserve_processes", "maskserve_process_deaths_total"}
"""Those of a group's parent: tests/service/group/test_ending.py."""


@pytest.fixture(scope="module")
def existing(server: Server) -> set[str]:
    """The names of metrics and samples of a server that has answered, failed and refused."""
    for image in (QUICK, FAILING, b"no image"):
        server.predict(image)
    text = server.client.get("/metrics").text
    types = set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE))
    return types | set(re.findall(r"^(\w+)[{ ]", text, re.MULTILINE))


@pytest.mark.parametrize("name", sorted(set(DOCUMENTED) - OF_SEVERAL_PROCESSES))
def test_every_metric_that_is_documented_exists(existing: set[str], name: str) -> None:
    assert name in existing


def test_every_metric_that_exists_is_documented(server: Server) -> None:
    types = set(re.findall(r"^# TYPE (maskserve_\w+) ", server.client.get("/metrics").text, re.MULTILINE))
    assert types - set(DOCUMENTED) == set()


@pytest.mark.parametrize(
    ("method", "path", "route"),
    [
        ("POST", "/predict/", "/predict"),
        ("POST", "/predict/batch//", "/predict/batch"),
        ("GET", "/predict/", "/predict"),  # refused only where it leads
        ("GET", "/models/probe/", "/models/{name}"),
        ("HEAD", "/healthz/", "/healthz"),
        ("GET", "/openapi.json/", "/openapi.json"),
        ("GET", "/v2/models/probe/versions/1/", "/v2/models/{name}/versions/{version}"),
    ],
)
def test_a_redirect_for_a_slash_too_many_counts_as_its_route(
    server: Server, method: str, path: str, route: str
) -> None:
    counted = f'maskserve_requests_total{{route="{route}",status="307"}}'
    before = server.metrics().get(counted, 0)
    answer = server.client.request(method, path, follow_redirects=False)
    assert answer.status_code == 307
    assert server.metrics()[counted] == before + 1


def test_refusals_are_counted_with_their_reason(small: Server) -> None:
    before = small.metrics()
    with busy(small) as pool:
        others = [pool.submit(small.predict, QUICK) for _ in range(2)]
        until(lambda: in_flight(small) == 3)
        assert [small.predict(QUICK).status_code for _ in range(4)] == [429] * 4
    assert [one.result().status_code for one in others] == [200] * 2
    assert dropped(small, before) == {("shed", "queue-full"): 4}


def test_what_has_no_chance_is_counted_as_shed(small: Server) -> None:
    assert small.predict(QUICK).status_code == 200  # from now on it is known that an image takes some time
    before = small.metrics()
    with busy(small):
        answer = small.predict(QUICK, timeout_ms=0.001)
    assert answer.status_code == 429
    assert dropped(small, before) == {("shed", "deadline-unreachable"): 1}


def test_expired_requests_are_counted_by_where_they_were(start_server: Callable[..., Server]) -> None:
    server = start_server("--max-batch-size", "1")
    before = server.metrics()
    with server.busy(timeout_ms=2000) as blockers:
        assert server.predict(QUICK, timeout_ms=100).status_code == 504
        assert blockers[0].result().status_code == 504
    assert dropped(server, before) == {("expired", "queue"): 1, ("expired", "inference"): 1}


def test_clients_that_leave_are_counted_by_where_they_were(server: Server) -> None:
    before = server.metrics()
    with busy(server):
        with server.connect() as connection, server.connect() as slow:
            connection.sendall(head(f"Content-Length: {len(QUICK)}") + QUICK)
            slow.sendall(head(f"Content-Length: {len(QUICK)}") + QUICK[:10])
            until(lambda: waiting(server) == 1 and server.metrics()["maskserve_uploads_in_flight"] == 1)
        until(lambda: waiting(server) == 0)
    until(lambda: dropped(server, before) == {("cancelled", "queue"): 1, ("cancelled", "upload"): 1})


def test_failures_are_counted(server: Server) -> None:
    before = server.metrics()
    assert server.predict(FAILING).status_code == 500
    assert dropped(server, before) == {("failed", "internal-error"): 1}
    assert growth(server, before)['maskserve_failed_batches_total{model="probe"}'] == 1


def test_answers_and_clients_mistakes_are_not_counted_as_dropped(server: Server) -> None:
    before = server.metrics()
    server.predict(QUICK)
    server.predict(b"no image")
    server.predict(QUICK, masks="x")
    server.client.get("/models/nothing")
    assert dropped(server, before) == {}


def test_the_score_histogram_holds_what_the_models_own_threshold_gives_whatever_is_asked_for(server: Server) -> None:
    before = server.metrics()
    answers: list[dict[str, Any]] = [server.predict(encode(picture(seed))).json() for seed in range(4)]
    plain = server.predict(QUICK).json()
    answers.append(plain)
    for wishes in ({"score_threshold": 0}, {"labels": "circle"}, {"max_detections": 1}, {"masks": "none"}):
        assert server.predict(QUICK, **wishes).status_code == 200
        answers.append(plain)
    server.predict(QUICK, score_threshold=0.9)  # what lies below is not known
    grown = Counter(growth(server, before))
    scores: dict[str, list[float]] = {}
    for answer in answers:
        for label, score in zip(answer["labels"], answer["scores"], strict=True):
            scores.setdefault(label, []).append(float(np.float32(score)))
    assert len(scores) > 1
    assert grown['maskserve_scored_images_total{model="probe"}'] == len(answers)
    for label, values in scores.items():
        labels = f'{{label="{label}",model="probe"}}'
        assert grown[f"maskserve_detections_total{labels}"] == len(values)
        assert grown[f"maskserve_detection_score_count{labels}"] == len(values)
        assert grown[f"maskserve_detection_score_sum{labels}"] == pytest.approx(sum(values), rel=1e-5)
        for bound in SCORES:
            bucket = f'maskserve_detection_score_bucket{{label="{label}",le="{bound}",model="probe"}}'
            assert grown[bucket] == sum(value <= bound for value in values), bucket
    assert sum(value for name, value in grown.items() if "detections_total" in name) == sum(map(len, scores.values()))


def test_what_is_counted_by_version_is_what_happened(server: Server) -> None:
    before = server.metrics()
    for image in (QUICK, OTHER, b"no image"):
        server.predict(image)
    server.client.post("/predict/batch", files=[("file", QUICK), ("file", OTHER)])
    server.client.get("/models")
    grown = growth(server, before)
    probe = 'model="probe"'
    assert grown[f'maskserve_model_requests_total{{{probe},status="200",version="1"}}'] == 3
    assert grown[f'maskserve_model_requests_total{{{probe},status="400",version="1"}}'] == 1
    assert grown[f'maskserve_model_request_seconds_count{{{probe},version="1"}}'] == 3
    for stage in STAGES:
        images = grown[f'maskserve_model_stage_seconds_count{{{probe},stage="{stage}",version="1"}}']
        assert images == grown[f'maskserve_stage_seconds_count{{stage="{stage}"}}'] == 4
        seconds = grown.get(f'maskserve_model_stage_seconds_sum{{{probe},stage="{stage}",version="1"}}', 0)
        assert seconds == pytest.approx(grown.get(f'maskserve_stage_seconds_sum{{stage="{stage}"}}', 0))
    busy = grown[f'maskserve_model_busy_seconds_total{{device="cpu",{probe},version="1"}}']
    assert 0 < busy <= grown[BUSY_SECONDS]


def test_requests_are_also_counted_by_opentelemetrys_name(server: Server) -> None:
    before = server.metrics()
    server.predict(QUICK)
    server.predict(FAILING)
    server.client.request("PROPFIND", "/nowhere")
    duration = "http_server_request_duration_seconds_count"

    def labels(method: str, route: str, status: str, error: str) -> str:
        return (
            f'{{error_type="{error}",http_request_method="{method}",http_response_status_code="{status}",'
            f'http_route="{route}",url_scheme="http"}}'
        )

    grown = growth(server, before)
    assert grown[duration + labels("POST", "/predict", "200", "")] == 1
    assert grown[duration + labels("POST", "/predict", "500", "500")] == 1
    assert grown[duration + labels("_OTHER", "", "404", "")] == 1


def test_the_batch_fill_is_the_share_of_the_limit(server: Server) -> None:
    before = server.metrics()
    with busy(server) as pool:
        others = [pool.submit(server.predict, image) for image in (QUICK, OTHER)]
        until(lambda: waiting(server) == 2)
    assert {one.result().json()["model"]["name"] for one in others} == {"probe"}
    grown = growth(server, before)
    assert (grown["maskserve_batch_size_count"], grown["maskserve_batch_size_sum"]) == (2, 3)
    assert grown["maskserve_batch_fill_sum"] == 1 / 4 + 2 / 4
    assert grown['maskserve_batch_fill_bucket{le="0.25"}'] == 1
    assert grown['maskserve_batch_fill_bucket{le="0.5"}'] == 2


def test_busy_seconds_rise_while_the_engine_is_busy_and_only_then(small: Server) -> None:
    idle = small.metrics()[BUSY_SECONDS]
    assert small.metrics()[BUSY_SECONDS] == idle
    with busy(small):
        first = small.metrics()[BUSY_SECONDS]
        until(lambda: small.metrics()[BUSY_SECONDS] > first)
        assert first > idle
    after = small.metrics()[BUSY_SECONDS]
    assert small.metrics()[BUSY_SECONDS] == after


def test_the_oldest_wait_rises_while_something_waits(small: Server) -> None:
    def oldest() -> float:
        return small.metrics()["maskserve_queue_oldest_seconds"]

    assert oldest() == 0
    with busy(small) as pool:
        assert oldest() == 0, "what is on the engine does not wait"
        later = [pool.submit(small.predict, QUICK, priority="bulk")]
        until(lambda: waiting(small) == 1)
        metrics = small.metrics()
        assert metrics['maskserve_queue_depth{model="probe",priority="bulk"}'] == 1
        assert metrics['maskserve_queue_depth{model="probe",priority="interactive"}'] == 0
        first = oldest()
        until(lambda: oldest() > first)
        assert first > 0
    assert later[0].result().status_code == 200
    assert oldest() == 0


# Traces
