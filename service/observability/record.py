"""What is known of one request: filled in on its way, read once at its end by metrics, log and tracing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.types import Scope

from service.observability.trace_context import SpanIds

AT = ("upload", "decode", "queue", "inference", "postprocess", "answer")
"""Where an image can be, in order."""
METHODS = frozenset(["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"])
"""Those that OpenTelemetry's conventions name; a client may send any other."""
UNMATCHED = "unmatched"
"""The route of a request that no route took."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One span of one image's way: "decode", "queue", "inference" or "postprocess". A name may come twice."""

    name: str
    start_ns: int
    """On the wall clock (`time.time_ns()`), as traces want it."""
    seconds: float

    @property
    def end_ns(self) -> int:
        return self.start_ns + round(self.seconds * 1e9)


@dataclass(slots=True)
class ImageRecord:
    """One image of the request. `batch_size` is 0 until a run of the network took it, `detections` None until then.

    `at` is the stage where it is now, or where it ended.
    """

    stages: list[Stage] = field(default_factory=list)
    batch_size: int = 0
    detections: int | None = None
    at: str = "upload"

    def add(self, name: str, seconds: float, end_ns: int | None = None) -> None:
        """A stage that took `seconds` and ended at `end_ns` (`time.time_ns()`), or just now."""
        end = time.time_ns() if end_ns is None else end_ns
        self.stages.append(Stage(name, end - round(seconds * 1e9), seconds))

    def stage_seconds(self) -> dict[str, float]:
        """Seconds of each stage; one that came twice is counted together."""
        sums: dict[str, float] = {}
        for stage in self.stages:
            sums[stage.name] = sums.get(stage.name, 0.0) + stage.seconds
        return sums


@dataclass(slots=True)
class RequestRecord:
    """`path` is without the query, which may hold what no log should; `route` is the path's template."""

    request_id: str
    method: str
    path: str
    client: str | None
    """The client's address."""
    headers: Mapping[str, str]
    """Only traceparent and tracestate, their names in lower case."""
    started_ns: int
    """On the wall clock (`time.time_ns()`)."""
    scheme: str = "http"
    span: SpanIds | None = None
    """The request's own span, where it is traced; else its caller's, if that has sent one."""
    route: str = UNMATCHED
    status: int = 0
    seconds: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    model: str | None = None
    version: int | None = None
    priority: str | None = None
    problem: str | None = None
    """Slug of the problem answered."""
    images: list[ImageRecord] = field(default_factory=list)

    @property
    def end_ns(self) -> int:
        return self.started_ns + round(self.seconds * 1e9)

    @property
    def ids(self) -> dict[str, str]:
        """What every line of the log about this request carries, by the name that it has there."""
        if self.span is None:
            return {"request_id": self.request_id}
        return {"request_id": self.request_id, "trace_id": self.span.trace_id, "span_id": self.span.span_id}

    @property
    def known_method(self) -> str:
        """The method, or what OpenTelemetry's conventions have for any other."""
        return self.method if self.method in METHODS else "_OTHER"

    @property
    def is_server_error(self) -> bool:
        return self.status >= 500

    @property
    def batch_size(self) -> int:
        """The largest batch that one of the images was in; 0 if none was in any."""
        return max((image.batch_size for image in self.images), default=0)

    @property
    def detections(self) -> int | None:
        """All images' together; None if no image got that far."""
        counts = [image.detections for image in self.images if image.detections is not None]
        return sum(counts) if counts else None

    def stage_seconds(self) -> dict[str, float]:
        """Seconds of each stage, all images' together."""
        sums: dict[str, float] = {}
        for image in self.images:
            for name, seconds in image.stage_seconds().items():
                sums[name] = sums.get(name, 0.0) + seconds
        return sums

    @property
    def at(self) -> str:
        """The stage where the request is now, or where it ended: that of the image that is least far."""
        return min((image.at for image in self.images), key=AT.index, default=AT[0])


def record_of(scope: Scope) -> RequestRecord:
    """The record that `observe` keeps for the request that is being handled."""
    record = scope["state"]["record"]
    assert isinstance(record, RequestRecord)
    return record
