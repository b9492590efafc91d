"""Traces, as a collector on the loopback receives them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.semconv.attributes import client_attributes, error_attributes, http_attributes, url_attributes

from service import VERSION
from service.observability.record import ImageRecord, RequestRecord
from service.observability.tracing import FLUSH_SECONDS, Tracing, start_tracing
from service.settings.settings import InvalidSettingsError
from tests.service.harness import ROOT

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
SAMPLED = {"traceparent": f"00-{TRACE}-{CALLER}-01"}


def read(attributes: Iterable[KeyValue]) -> dict[str, str | int]:
    values = {pair.key: pair.value for pair in attributes}
    return {key: v.int_value if v.HasField("int_value") else v.string_value for key, v in values.items()}


@dataclass
class Collector:
    """What OTLP over HTTP brought."""

    url: str
    requests: list[ExportTraceServiceRequest] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    @property
    def spans(self) -> list[Span]:
        return [s for r in self.requests for rs in r.resource_spans for scope in rs.scope_spans for s in scope.spans]

    def span(self, name: str) -> Span:
        (found,) = [span for span in self.spans if span.name == name]
        return found

    def children(self, parent: Span) -> list[str]:
        children = [span for span in self.spans if span.parent_span_id == parent.span_id]
        return [span.name for span in sorted(children, key=lambda span: span.start_time_unix_nano)]


@pytest.fixture(autouse=True)
def no_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the developer's shell says."""
    for name in [*os.environ]:
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.requests.append(ExportTraceServiceRequest.FromString(body))
            received.paths.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        received = Collector(f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.url)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield received
        server.shutdown()
        thread.join()


def started() -> Tracing:
    tracing = start_tracing()
    assert tracing is not None
    return tracing


def send(*records: RequestRecord) -> None:
    tracing = started()
    for record in records:
        tracing.end(tracing.begin(record), record)
    tracing.close()


def image(start_ns: int, batch_size: int = 4, detections: int = 7) -> ImageRecord:
    """Four stages of 1 ms each, one after the other."""
    known = ImageRecord(batch_size=batch_size, detections=detections)
    for index, name in enumerate(("decode", "queue", "inference", "postprocess")):
        known.add(name, 1e-3, start_ns + (index + 1) * 1_000_000)
    return known


def predict(images: int = 1, **known: object) -> RequestRecord:
    """A request of 10 ms whose images' stages began 1 ms after it."""
    start = time.time_ns()
    record = RequestRecord("r1", "POST", "/predict", "10.0.0.7", SAMPLED, start, route="/predict", status=200)
    record.seconds = 0.010
    record.images = [image(start + 1_000_000) for _ in range(images)]
    for name, value in known.items():
        setattr(record, name, value)
    return record


def test_a_request_is_a_server_span_under_its_caller(collector: Collector) -> None:
    record = predict(model="nuclei", version=2, priority="high")
    send(record)
    span = collector.span("POST /predict")
    assert span.kind == Span.SPAN_KIND_SERVER
    assert span.trace_id.hex() == TRACE
    assert span.parent_span_id.hex() == CALLER
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (record.started_ns, record.started_ns + 10_000_000)
    assert span.status.code == Status.STATUS_CODE_UNSET
    assert read(span.attributes) == {
        http_attributes.HTTP_REQUEST_METHOD: "POST",
        http_attributes.HTTP_ROUTE: "/predict",
        http_attributes.HTTP_RESPONSE_STATUS_CODE: 200,
        url_attributes.URL_PATH: "/predict",
        url_attributes.URL_SCHEME: "http",
        client_attributes.CLIENT_ADDRESS: "10.0.0.7",
        "maskserve.request_id": "r1",
        "maskserve.model.name": "nuclei",
        "maskserve.model.version": 2,
        "maskserve.priority": "high",
        "maskserve.batch_size": 4,
        "maskserve.detections": 7,
    }
    assert collector.paths == ["/v1/traces"]


def test_every_stage_is_a_span_inside_the_request(collector: Collector) -> None:
    send(predict())
    parent = collector.span("POST /predict")
    assert collector.children(parent) == ["decode", "queue", "inference", "postprocess"]
    end = parent.start_time_unix_nano + 1_000_000
    for name in collector.children(parent):
        child = collector.span(name)
        assert child.trace_id == parent.trace_id
        assert child.start_time_unix_nano == end
        end = child.end_time_unix_nano
        assert end == child.start_time_unix_nano + 1_000_000
    assert end < parent.end_time_unix_nano


def test_several_images_have_a_span_each_around_their_stages(collector: Collector) -> None:
    record = predict(images=3)
    record.images[1] = ImageRecord()  # refused before anything was done with it
    record.images[2].detections = 0
    send(record)
    parent = collector.span("POST /predict")
    assert sorted(collector.children(parent)) == ["image 0", "image 2"]
    assert read(parent.attributes)["maskserve.detections"] == 7
    for name, detections in (("image 0", 7), ("image 2", 0)):
        span = collector.span(name)
        assert read(span.attributes) == {"maskserve.batch_size": 4, "maskserve.detections": detections}
        assert collector.children(span) == ["decode", "queue", "inference", "postprocess"]
        assert span.end_time_unix_nano - span.start_time_unix_nano == 4_000_000


@pytest.mark.parametrize(
    ("known", "name", "some"),
    [
        pytest.param(
            {"status": 500, "problem": "internal-error"},
            "POST /predict",
            {error_attributes.ERROR_TYPE: "500", "maskserve.problem": "internal-error"},
            id="our failure",
        ),
        pytest.param({"status": 422}, "POST /predict", {error_attributes.ERROR_TYPE: None}, id="the client's fault"),
        pytest.param(
            {"method": "GET", "path": "/x/y", "route": "unmatched", "status": 404},
            "GET",
            {http_attributes.HTTP_ROUTE: None, url_attributes.URL_PATH: "/x/y"},
            id="no route: any path must not become a name",
        ),
        pytest.param(
            {"method": "PURGE", "status": 405},
            "HTTP /predict",
            {http_attributes.HTTP_REQUEST_METHOD: "_OTHER", http_attributes.HTTP_REQUEST_METHOD_ORIGINAL: "PURGE"},
            id="a method that the conventions don't know",
        ),
        pytest.param(
            {"status": 0, "client": None},
            "POST /predict",
            {http_attributes.HTTP_RESPONSE_STATUS_CODE: None, client_attributes.CLIENT_ADDRESS: None},
            id="never answered",
        ),
    ],
)
def test_name_and_attributes_follow_the_conventions(
    collector: Collector, known: dict[str, object], name: str, some: dict[str, str | None]
) -> None:
    send(predict(images=0, **known))
    (span,) = collector.spans
    assert span.name == name
    attributes = read(span.attributes)
    assert {key: attributes.get(key) for key in some} == some
    assert (span.status.code == Status.STATUS_CODE_ERROR) == (known["status"] == 500)


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="none"),
        pytest.param({"traceparent": f"00-{TRACE}-{CALLER}"}, id="cut short"),
        pytest.param({"traceparent": f"00-{'0' * 32}-{CALLER}-01"}, id="the invalid trace id"),
        pytest.param({"traceparent": "x" * 10_000, "tracestate": "=" * 10_000}, id="rubbish"),
    ],
)
def test_without_a_valid_traceparent_a_request_begins_a_trace(
    collector: Collector, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    send(predict(headers=headers))
    span = collector.span("POST /predict")
    assert span.parent_span_id == b""
    assert span.trace_id.hex() != TRACE
    assert len(span.trace_id) == 16
    assert caplog.records == []


def test_malformed_tracestate_is_left_out_without_a_word(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    send(predict(headers={**SAMPLED, "tracestate": "no state\x1b"}))
    assert collector.span("POST /predict").trace_id.hex() == TRACE
    assert caplog.records == []


def test_what_the_caller_does_not_sample_is_not_sent(collector: Collector) -> None:
    send(predict(headers={"traceparent": f"00-{TRACE}-{CALLER}-00"}), predict(path="/sampled"))
    assert read(collector.span("POST /predict").attributes)["url.path"] == "/sampled"
    assert len(collector.spans) == 5


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        pytest.param({}, "maskserve", id="nothing said"),
        pytest.param({"OTEL_SERVICE_NAME": "cells"}, "cells", id="by its own variable"),
        pytest.param({"OTEL_RESOURCE_ATTRIBUTES": "service.name=cells,zone=b"}, "cells", id="among the attributes"),
    ],
)
def test_the_service_is_named_as_the_operator_says(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], name: str
) -> None:
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    send(predict())
    resource = read(collector.requests[0].resource_spans[0].resource.attributes)
    assert resource["service.name"] == name
    assert resource["service.version"] == VERSION
    assert resource.get("zone") == ("b" if "OTEL_RESOURCE_ATTRIBUTES" in environment else None)


def test_the_endpoint_for_traces_is_taken_as_it_is(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", collector.url + "/mine")
    send(predict())
    assert collector.paths == ["/mine"]


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        pytest.param("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4318", "http://localhost:4318", id="no URL"),
        pytest.param("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf", id="a protocol that isn't there"),
    ],
)
def test_what_cannot_work_is_told_in_one_line(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, told: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidSettingsError) as caught:
        start_tracing()
    message = str(caught.value)
    assert message.startswith(f"{variable}: {value} ")
    assert told in message
    assert "\n" not in message


def python(code: str, **environment: str) -> str:
    """stdout of a process that runs `code` with these variables; its stderr must stay empty."""
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=FLUSH_SECONDS + 18,
        check=True,
    )
    assert ended.stderr == ""
    return ended.stdout


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({}, id="nothing configured"),
        pytest.param({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, id="empty"),
        pytest.param({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_SDK_DISABLED": "True"}, id="disabled"),
        pytest.param({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_TRACES_EXPORTER": "none"}, id="no exporter"),
    ],
)
def test_nothing_is_imported_unless_configured(environment: dict[str, str]) -> None:
    code = """
import sys
from service.observability.tracing import start_tracing
assert start_tracing() is None
print([name for name in sys.modules if name.startswith(("opentelemetry", "requests", "google"))])
"""
    assert python(code, **environment) == "[]\n"


def test_the_missing_extra_is_named() -> None:
    code = """
import sys
sys.modules["opentelemetry.sdk"] = None  # as if it weren't installed
from service.settings.settings import InvalidSettingsError
from service.observability.tracing import start_tracing
try:
    start_tracing()
except InvalidSettingsError as error:
    print(error)
"""
    (line,) = python(code, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1").splitlines()
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in line
    assert "pip install '.[telemetry]'" in line


SERVE = """
import time
from service.observability.logs import configure_logging
from service.observability.record import RequestRecord
from service.observability.tracing import start_tracing
configure_logging("info", "text")
tracing = start_tracing()
for _ in range(3):
    record = RequestRecord("r1", "GET", "/", None, {}, time.time_ns(), route="/", status=200)
    tracing.end(tracing.begin(record), record)
    time.sleep(0.3)
tracing.close()
"""


def free_port() -> int:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        assert isinstance(port, int)
        return port


def test_a_collector_that_is_down_is_told_once_as_a_warning() -> None:
    written = python(
        SERVE,
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}",
        OTEL_EXPORTER_OTLP_TIMEOUT="0.1",  # too short to try again
        OTEL_BSP_SCHEDULE_DELAY="20",
    )
    (line,) = written.splitlines()
    assert " WARNING opentelemetry." in line
    assert "Failed to export spans batch" in line


def test_a_collector_that_never_answers_does_not_hold_up_the_exit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        # Both the exporter and its queue would wait for longer than this process may live.
        assert python(SERVE, OTEL_EXPORTER_OTLP_ENDPOINT=url, OTEL_EXPORTER_OTLP_TIMEOUT="60") == ""
