"""Which trace a request belongs to, as its caller says: W3C Trace Context, section 3.2."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LONGEST = 512
_TRACEPARENT = re.compile(r"[ \t]*([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?[ \t]*")


@dataclass(frozen=True, slots=True)
class SpanIds:
    """As the log data model of OpenTelemetry has them: 32 and 16 hexadecimal digits, in small letters."""

    trace_id: str
    span_id: str


def callers_span(traceparent: str | None) -> SpanIds | None:
    """The span of the caller that `traceparent` names; None when there is none, or nothing valid.

    What is valid here is what OpenTelemetry's own propagator continues.
    """
    match = _TRACEPARENT.fullmatch(traceparent or "") if len(traceparent or "") <= _LONGEST else None
    if match is None:
        return None
    version, trace_id, span_id, more = match.groups()
    if version == "ff" or (version == "00" and more) or not (int(trace_id, 16) and int(span_id, 16)):
        return None
    return SpanIds(trace_id, span_id)
