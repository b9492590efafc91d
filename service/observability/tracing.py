"""OpenTelemetry traces of requests, if the standard environment variables name a collector.

OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 maskserve serve

Nothing of opentelemetry is imported otherwise: it is an optional extra, and a cold start should not wait for it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING

from model.console.installing import install
from service import VERSION
from service.observability.record import METHODS, UNMATCHED, ImageRecord, RequestRecord
from service.observability.trace_context import SpanIds
from service.settings.settings import InvalidSettingsError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span

FLUSH_SECONDS = 2.0
"""How long the exit waits for a collector at most."""
QUIET_SECONDS = 60.0
"""A collector that is down is told that often, not at every batch."""

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"

# Where the exporter and its queue tell that something was not sent.
_SENDING_LOGGERS = ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry.sdk._shared_internal")
# Where a client's malformed traceparent or tracestate is told: the client's business.
_HEADER_LOGGERS = ("opentelemetry.trace.span", "opentelemetry.trace.propagation.tracecontext")

Attributes = dict[str, str | int]


def start_tracing() -> Tracing | None:
    """Traces to the collector that the environment names; None if it names none or switches tracing off.

    Raises InvalidSettingsError if the environment asks for what cannot be done.
    """
    endpoint = _first_set(ENDPOINTS)
    disabled = _value("OTEL_SDK_DISABLED").lower() == "true" or _value("OTEL_TRACES_EXPORTER").lower() == "none"
    if endpoint is None or disabled:
        return None
    if not _value(endpoint).startswith(("http://", "https://")):
        raise InvalidSettingsError(f"{endpoint}: {_value(endpoint)} is no URL; give one like http://localhost:4318")
    protocol = _first_set(PROTOCOLS)
    if protocol is not None and _value(protocol) != PROTOCOL:
        raise InvalidSettingsError(
            f"{protocol}: {_value(protocol)} is not supported; set it to {PROTOCOL} and {endpoint} to the collector's "
            "HTTP port, usually 4318"
        )
    try:
        return Tracing()
    except ImportError as error:
        raise InvalidSettingsError(
            f"{endpoint} is set but the module {error.name} is missing; {install('telemetry')}, "
            "or set OTEL_SDK_DISABLED=true"
        ) from None


class Tracing:
    """Makes spans of requests; a thread of its own sends those that are over, configured by OTEL_* variables."""

    def __init__(self) -> None:
        """Raises ImportError without the extra's packages."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        _calm_loggers()
        ours = Resource.create({"service.name": "maskserve", "service.version": VERSION})
        resource = ours.merge(OTELResourceDetector().detect())  # once more: what the operator says wins
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("maskserve", VERSION)
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, record: RequestRecord) -> Span:
        """The span of a request that has just come, in its caller's trace or a new one; `record` then knows its ids."""
        from opentelemetry.trace import SpanKind, format_span_id, format_trace_id

        span = self._tracer.start_span(
            _method(record),
            self._propagator.extract(record.headers),
            SpanKind.SERVER,
            _known_at_first(record),
            start_time=record.started_ns,
        )
        context = span.get_span_context()
        record.span = SpanIds(format_trace_id(context.trace_id), format_span_id(context.span_id))
        return span

    def end(self, span: Span, record: RequestRecord) -> None:
        """The request is over: its span ends, with one of each stage in it. Only queues them: it never waits for the
        collector.
        """
        from opentelemetry.trace import StatusCode, set_span_in_context

        if span.is_recording():  # not if it wasn't sampled
            span.update_name(_name(record))
            span.set_attributes(_known_at_last(record))
            if record.is_server_error:
                span.set_status(StatusCode.ERROR)
            self._add_images(record, set_span_in_context(span))
        span.end(record.end_ns)

    def close(self) -> None:
        """Send what is queued; blocks for FLUSH_SECONDS at most, and drops what is then not sent."""
        # The provider's own shutdown would wait for half a minute.
        closing = threading.Thread(target=self._provider.shutdown, name="tracing-close", daemon=True)
        closing.start()
        closing.join(FLUSH_SECONDS)

    def _add_images(self, record: RequestRecord, parent: Context) -> None:
        from opentelemetry.trace import set_span_in_context

        if len(record.images) == 1:
            self._add_stages(record.images[0], parent)
            return
        for index, image in enumerate(record.images):
            if image.stages:  # none: refused before anything was done with it
                start = min(stage.start_ns for stage in image.stages)
                span = self._tracer.start_span(
                    f"image {index}", parent, attributes=_work_attributes(image), start_time=start
                )
                self._add_stages(image, set_span_in_context(span))
                span.end(max(stage.end_ns for stage in image.stages))

    def _add_stages(self, image: ImageRecord, parent: Context) -> None:
        for stage in image.stages:
            self._tracer.start_span(stage.name, parent, start_time=stage.start_ns).end(stage.end_ns)


class _Calm(logging.Filter):
    """Turns errors into warnings without a stack trace, and says the same thing only once a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now - self._said.get(record.msg, -QUIET_SECONDS) < QUIET_SECONDS:
            return False
        self._said[record.msg] = now
        if record.levelno > logging.WARNING:
            record.levelno, record.levelname = logging.WARNING, "WARNING"
        record.exc_info = record.exc_text = None
        return logging.getLogger(record.name).isEnabledFor(record.levelno)


_calm = _Calm()


def _calm_loggers() -> None:
    for name in _SENDING_LOGGERS:
        logging.getLogger(name).addFilter(_calm)  # a filter that is there already isn't added again
    for name in _HEADER_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


def _value(variable: str) -> str:
    return os.environ.get(variable, "").strip()


def _first_set(variables: tuple[str, ...]) -> str | None:
    return next((variable for variable in variables if _value(variable)), None)


def _method(record: RequestRecord) -> str:
    return record.method if record.method in METHODS else "HTTP"


def _name(record: RequestRecord) -> str:
    # The template, not the path: a span's name should be one of few.
    return _method(record) if record.route == UNMATCHED else f"{_method(record)} {record.route}"


def _known_at_first(record: RequestRecord) -> Attributes:
    """OpenTelemetry's names for HTTP servers, of what a sampler may decide by."""
    attributes: Attributes = {
        "url.path": record.path,
        "url.scheme": record.scheme,
        "http.request.method": record.known_method,
    }
    if record.method not in METHODS:
        attributes["http.request.method_original"] = record.method
    if record.client is not None:
        attributes["client.address"] = record.client
    return attributes


def _known_at_last(record: RequestRecord) -> Attributes:
    """OpenTelemetry's names again, and our own under `maskserve.`."""
    attributes: Attributes = {}
    if record.route != UNMATCHED:
        attributes["http.route"] = record.route
    if record.status:  # 0: the client left before there was one
        attributes["http.response.status_code"] = record.status
    if record.is_server_error:
        attributes["error.type"] = str(record.status)
    ours = {
        "maskserve.request_id": record.request_id,
        "maskserve.model.name": record.model,
        "maskserve.model.version": record.version,
        "maskserve.priority": record.priority,
        "maskserve.problem": record.problem,
    }
    attributes |= {name: value for name, value in ours.items() if value is not None}
    return attributes | _work_attributes(record)


def _work_attributes(work: RequestRecord | ImageRecord) -> Attributes:
    attributes: Attributes = {}
    if work.batch_size:
        attributes["maskserve.batch_size"] = work.batch_size
    if work.detections is not None:
        attributes["maskserve.detections"] = work.detections
    return attributes
