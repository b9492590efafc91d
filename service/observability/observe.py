"""ASGI middleware: `Observe` keeps the request's record and reports it at the end to metrics, log and traces; `Rescue`
makes a 500 problem of what nobody expected.
"""

from __future__ import annotations

import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.problems import ANSWERED, CLIENT_LEFT, INTERNAL, PROBLEM, unexpected
from service.http.protocol import Unheard
from service.observability.logs import current_ids, log_request
from service.observability.metrics import Metrics
from service.observability.record import UNMATCHED, RequestRecord, record_of
from service.observability.trace_context import callers_span
from service.observability.tracing import Tracing


class Observe:
    """Plain ASGI: Starlette's BaseHTTPMiddleware would hide the client's disconnect from the routes."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing | None, access_log: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        record = _begin(scope)
        span = self._tracing.begin(record) if self._tracing is not None else None
        current_ids.set(record.ids)

        async def received() -> Message:
            message = await receive()
            record.bytes_in += len(message.get("body", b""))
            return message

        async def sent(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.start":
                record.status = message["status"]
            record.bytes_out += len(message.get("body", b""))

        try:
            await self._app(scope, received, sent)
        except BaseException:  # raised again; uvicorn answers 500 where nothing was answered yet
            record.status = record.status or INTERNAL.status
            raise
        finally:
            record.status = scope["state"].get(ANSWERED) or record.status or CLIENT_LEFT
            record.problem = scope["state"].get(PROBLEM)
            # The template, not the path: a scanner's thousand paths must not become a thousand series.
            record.route = getattr(scope.get("route"), "path", UNMATCHED)
            record.seconds = time.perf_counter() - start
            self._metrics.request(record)
            if self._access_log:
                log_request(record)
            if self._tracing is not None and span is not None:
                self._tracing.end(span, record)


class Rescue:
    """The last resort: whatever it is, the client gets a problem and the log the trace.

    Inside the middleware for CORS, so that web pages may read this answer as any other.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception as error:  # the server's own mistake, whichever it is
            if scope["type"] != "http" or record_of(scope).status:
                raise  # too late for another answer: the server closes the connection
            await unexpected(error, scope)(scope, receive, send)


def report_unheard(unheard: Unheard, metrics: Metrics, access_log: bool) -> None:
    """Count and log a request that ended below the application."""
    record = RequestRecord(
        request_id=unheard.request_id,
        method=unheard.method,
        path=unheard.path,
        client=unheard.client,
        headers={},
        started_ns=time.time_ns() - round(unheard.seconds * 1e9),
        status=unheard.status,
        seconds=unheard.seconds,
        bytes_in=unheard.bytes_in,
        bytes_out=unheard.bytes_out,
        problem=None if unheard.problem is None else unheard.problem.kind.slug,
    )
    metrics.request(record)
    if access_log:
        log_request(record)


def _begin(scope: Scope) -> RequestRecord:
    headers = Headers(scope=scope)
    client = scope.get("client")
    traced = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
    record = RequestRecord(
        request_id=scope["state"]["request_id"],
        method=scope["method"],
        path=scope["path"],
        client=client[0] if client else None,
        headers=traced,
        started_ns=time.time_ns(),
        scheme=scope["scheme"],
        span=callers_span(traced.get("traceparent")),
    )
    scope["state"]["record"] = record
    return record
