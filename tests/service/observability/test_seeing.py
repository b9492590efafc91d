"""What whoever runs the server can see of it: its log, its metrics and its traces, of a real process."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.service.harness import Server, head, until
from tests.service.observability.seeing import (
    FAILING,
    OTHER,
    QUICK,
    STAGES,
    ask,
    busy,
    lines_with,
    waiting,
)
from tests.service.observability.test_tracing import CALLER, SAMPLED, TRACE, Collector, read


def test_a_request_is_one_line_with_all_that_is_known(server: Server) -> None:
    with server.client.stream(
        "POST", "/predict", content=QUICK, headers={"Content-Type": "image/png"}, params={"score_threshold": 0.5}
    ) as answer:
        content = b"".join(answer.iter_raw())
    identifier = answer.headers["x-request-id"]
    (line,) = lines_with(server, identifier)
    fields = {
        "level": "INFO",
        "method": "POST",
        "path": "/predict",
        "route": "/predict",
        "status": 200,
        "client": "127.0.0.1",
        "bytes_in": len(QUICK),
        "bytes_out": len(content),
        "model": "probe",
        "version": 1,
        "priority": "interactive",
        "batch_size": 1,
    }
    assert line.items() >= fields.items()
    assert list(line["stages_ms"]) == ["queue", "decode", "inference", "postprocess"]
    assert 0 < sum(line["stages_ms"].values()) <= line["duration_ms"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert line["detections"] == len(server.predict(QUICK, score_threshold=0.5).json()["scores"])
    assert "problem" not in line


@pytest.mark.parametrize(
    ("method", "path", "route", "status", "problem"),
    [
        pytest.param("GET", "/models/probe", "/models/{name}", 200, None, id="a parameter"),
        pytest.param("GET", "/models/nothing", "/models/{name}", 404, "no-such-model", id="an unknown model"),
        pytest.param(
            "GET", "/v2/models/probe/versions/1", "/v2/models/{name}/versions/{version}", 200, None, id="two of them"
        ),
        pytest.param("POST", "/predict", "/predict", 400, "not-an-image", id="a refusal"),
        pytest.param("GET", "/etc/passwd", "unmatched", 404, "about:blank", id="no route"),
        pytest.param("PUT", "/predict", "/predict", 405, "about:blank", id="a wrong method"),
    ],
)
def test_the_line_has_the_routes_template_and_the_problem(
    server: Server, method: str, path: str, route: str, status: int, problem: str | None
) -> None:
    answer = server.client.request(method, path)
    (line,) = lines_with(server, answer.headers["x-request-id"])
    assert (line["route"], line["path"], line["status"], line.get("problem")) == (route, path, status, problem)
    assert "stages_ms" not in line


def test_a_batch_is_one_line_with_its_sums(server: Server) -> None:
    answer = server.client.post("/predict/batch", files=[("file", one) for one in (QUICK, b"no image", OTHER)])
    (line,) = lines_with(server, answer.headers["x-request-id"])
    found = [len(one["prediction"]["scores"]) for one in answer.json()["answers"] if one["status"] == 200]
    assert (line["images"], line["detections"], line["priority"]) == (3, sum(found), "bulk")


def test_a_clients_request_id_is_kept_and_a_hostile_one_replaced(server: Server) -> None:
    identifier, answer = ask(server, QUICK, "trace/4711:a=b@host")
    assert answer.headers["x-request-id"] == identifier
    assert lines_with(server, identifier)
    for hostile in ('x", "level": "ERROR', "two words", "x" * 129, "<script>", "\u00e9\u00e8", "tab\ttab"):
        headers = [(b"Content-Type", b"image/png"), (b"X-Request-ID", hostile.encode())]
        made = server.client.post("/predict", content=QUICK, headers=headers).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", made)
        assert lines_with(server, made)
        assert not any(hostile in line for line in server.log)


def test_the_query_is_never_logged(server: Server) -> None:
    for path in ("/predict", "/models/probe", "/no-such-path"):
        identifier, _ = ask(server, QUICK, path=path, labels="circle", patient="secret-of-a-query")
        lines_with(server, identifier)
    assert not any("secret-of-a-query" in line or "patient" in line for line in server.log)


def test_probes_that_succeed_leave_no_line(server: Server) -> None:
    identifiers = []
    for path in ("/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"):
        answer = server.client.get(path)
        assert answer.status_code == 200
        identifiers.append(answer.headers["x-request-id"])
    identifiers.append(server.client.post("/healthz").headers["x-request-id"])  # no probe does that
    lines_with(server, identifiers[-1])
    assert [one for one in identifiers if any(one in line for line in server.log)] == identifiers[-1:]


def test_a_failure_has_its_trace_in_one_line_with_the_requests_id(server: Server) -> None:
    with ThreadPoolExecutor(4) as pool:
        asked = list(pool.map(lambda image: ask(server, image), [FAILING, QUICK, FAILING, QUICK]))
    for (identifier, answer), fails in zip(asked, (True, False, True, False), strict=True):
        assert answer.status_code == (500 if fails else 200)
        *before, line = lines_with(server, identifier)
        errors = [one for one in before if one["level"] == "ERROR"]
        assert len(errors) == int(fails)
        if fails:
            assert errors[0]["exception"].startswith("Traceback (most recent call last):\n")
            assert errors[0]["message"] == "POST /predict failed"
            assert (line["level"], line["problem"]) == ("WARNING", "internal-error")
    assert all(isinstance(json.loads(line), dict) for line in server.log)


def test_a_bad_image_of_a_batch_has_its_trace_too(server: Server) -> None:
    answer = server.client.post("/predict/batch", files=[("file", FAILING), ("file", QUICK)])
    assert [one["status"] for one in answer.json()["answers"]] == [500, 200]
    traces = [line for line in lines_with(server, answer.headers["x-request-id"]) if line["level"] == "ERROR"]
    assert len(traces) == 1
    assert "Traceback" in traces[0]["exception"]


def test_a_client_that_leaves_has_its_line(server: Server) -> None:
    identifier = uuid4().hex
    with busy(server):
        with server.connect() as connection:
            connection.sendall(head(f"Content-Length: {len(QUICK)}", f"X-Request-ID: {identifier}") + QUICK)
            until(lambda: waiting(server) == 1)
        until(lambda: waiting(server) == 0)
    (line,) = lines_with(server, identifier)
    assert (line["status"], line["level"], line["bytes_in"]) == (499, "INFO", len(QUICK))


def test_the_log_can_be_text_for_people(start_server: Callable[..., Server]) -> None:
    server = start_server("--log-format", "text")
    identifier, _ = ask(server, FAILING)
    until(lambda: sum(identifier in line for line in server.log) >= 2)
    trace, line = (one for one in server.log if identifier in one)
    assert re.match(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} WARNING service\.requests: POST /predict 500 \d+\.\d ms ", line
    )
    assert f" request_id={identifier} " in line
    assert " status=500 " in line
    assert "Traceback (most recent call last):\\n" in trace


def test_without_an_access_log_only_what_matters_is_logged(start_server: Callable[..., Server]) -> None:
    server = start_server("--no-access-log")
    good, _ = ask(server, QUICK)
    bad, _ = ask(server, FAILING)
    until(lambda: any(bad in line for line in server.log))
    assert server.stop() == 0
    lines = [json.loads(line) for line in server.log]
    assert [line["level"] for line in lines if line.get("request_id") == bad] == ["ERROR"]
    assert not any(line.get("request_id") == good or line["logger"] == "service.requests" for line in lines)


def test_a_line_about_a_batch_never_names_a_request_that_was_not_in_it(server: Server) -> None:
    with busy(server) as pool:
        together = [pool.submit(ask, server, image) for image in (QUICK, FAILING)]
        until(lambda: waiting(server) == 2)
    inside = [one.result()[0] for one in together]
    for identifier in inside:
        lines_with(server, identifier)
    lines = [json.loads(line) for line in server.log]
    told = [line for line in lines if line["message"].startswith("a batch of 2 failed")]
    assert told
    assert told[-1].get("request_id") in (None, *inside)


# Traces


def ids(line: dict[str, Any]) -> tuple[str | None, str | None]:
    return line.get("trace_id"), line.get("span_id")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param(SAMPLED, (TRACE, CALLER), id="traced by the caller"),
        pytest.param({"traceparent": f"00-{TRACE}-{CALLER}-00"}, (TRACE, CALLER), id="not sampled"),
        pytest.param({"traceparent": f"00-{'0' * 32}-{CALLER}-01"}, (None, None), id="nothing valid"),
        pytest.param({}, (None, None), id="not traced"),
    ],
)
def test_every_line_about_a_request_names_its_callers_trace(
    server: Server, headers: dict[str, str], expected: tuple[str | None, str | None]
) -> None:
    """Those of the access log, of a failure, and of the batcher about images of this one request alone."""
    files = [("file", FAILING), ("file", FAILING)]
    answers = [
        server.client.get("/models", headers=headers),
        server.client.get("/nowhere", headers=headers),
        server.client.post("/predict", content=FAILING, headers={"Content-Type": "image/png", **headers}),
        server.client.post("/predict/batch", files=files, headers=headers),
    ]
    lines = [lines_with(server, answer.headers["x-request-id"]) for answer in answers]
    assert {ids(line) for those in lines for line in those} == {expected}
    assert [len(those) for those in lines[:3]] == [1, 1, 2]
    assert [line["message"] for line in lines[3]].count("an image of several failed") == 2
    for those in lines:
        for line in those:
            assert ("trace_id" in line, "span_id" in line) == (expected[0] is not None,) * 2


@contextmanager
def collecting() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.requests.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        received = Collector(f"http://127.0.0.1:{listener.server_port}")
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield received
        listener.shutdown()
        thread.join()


def start_traced(repository: Path, collector: str) -> Server:
    return Server.start(
        repository,
        "--engine-threads",
        "1",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector,
        OTEL_BSP_SCHEDULE_DELAY="600000",  # so that nothing is sent before the end
        NO_PROXY="127.0.0.1",
    )


def test_a_request_is_a_trace_that_is_sent_before_the_server_ends(repository: Path) -> None:
    with collecting() as collector:
        server = start_traced(repository, collector.url)
        try:
            headers = {"Content-Type": "image/png", **SAMPLED}
            answer = server.client.post("/predict", content=QUICK, headers=headers)
            failed = server.client.post("/predict", content=FAILING, headers={"Content-Type": "image/png"})
            assert server.client.get("/models/probe").status_code == 200
            assert (answer.status_code, failed.status_code) == (200, 500)
            assert collector.spans == []
            assert server.stop() == 0
        finally:
            server.close()
    requests = {read(span.attributes).get("maskserve.request_id"): span for span in collector.spans}
    span = requests[answer.headers["x-request-id"]]
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, CALLER)
    assert (span.name, span.kind) == ("POST /predict", Span.SPAN_KIND_SERVER)
    attributes = read(span.attributes)
    assert attributes["http.response.status_code"] == 200
    assert attributes["maskserve.detections"] == len(answer.json()["scores"])
    children = [one for one in collector.spans if one.parent_span_id == span.span_id]
    assert {one.name for one in children} == set(STAGES)
    for child in children:
        assert child.trace_id == span.trace_id
        assert span.start_time_unix_nano <= child.start_time_unix_nano <= child.end_time_unix_nano
        assert child.end_time_unix_nano <= span.end_time_unix_nano
    starts = {one.name: one.start_time_unix_nano for one in children}
    assert starts["decode"] <= starts["inference"] <= starts["postprocess"]
    logged = [json.loads(line) for line in server.log]
    for one in (answer, failed):
        identifier = one.headers["x-request-id"]
        lines = [line for line in logged if line.get("request_id") == identifier]
        assert len(lines) == (1 if one is answer else 2)
        own = requests[identifier]
        assert {ids(line) for line in lines} == {(own.trace_id.hex(), own.span_id.hex())}
    failure = read(requests[failed.headers["x-request-id"]].attributes)
    assert (failure["http.response.status_code"], failure["maskserve.problem"]) == (500, "internal-error")
    assert "GET /models/{name}" in {one.name for one in collector.spans}


def test_with_a_collector_that_is_down_requests_work_and_the_end_is_quick(repository: Path) -> None:
    with socket.socket() as collector:
        collector.bind(("127.0.0.1", 0))  # and never listens
        server = start_traced(repository, f"http://127.0.0.1:{collector.getsockname()[1]}")
        try:
            assert {server.predict(QUICK).status_code for _ in range(5)} == {200}
            assert server.stop(timeout=25) == 0  # the exporter's own patience is half a minute
        finally:
            server.close()
    assert not any("Traceback" in line for line in [*server.log, *server.errors])
