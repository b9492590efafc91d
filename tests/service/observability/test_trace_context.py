"""Which traceparent names a trace, and that it is the same for the log as for OpenTelemetry."""

from __future__ import annotations

import pytest
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.observability.trace_context import SpanIds, callers_span

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("traceparent", "valid"),
    [
        pytest.param(f"00-{TRACE}-{SPAN}-01", True, id="sampled"),
        pytest.param(f"00-{TRACE}-{SPAN}-00", True, id="not sampled"),
        pytest.param(f"\t 00-{TRACE}-{SPAN}-01 ", True, id="blanks around it"),
        pytest.param(f"cc-{TRACE}-{SPAN}-01-what-a-later-version-adds", True, id="a later version"),
        pytest.param(f"00-{TRACE}-{SPAN}-01-more", False, id="more than this version has"),
        pytest.param(f"ff-{TRACE}-{SPAN}-01", False, id="no version"),
        pytest.param(f"00-{'0' * 32}-{SPAN}-01", False, id="no trace"),
        pytest.param(f"00-{TRACE}-{'0' * 16}-01", False, id="no span"),
        pytest.param(f"00-{TRACE.upper()}-{SPAN}-01", False, id="capital letters"),
        pytest.param(f"00-{TRACE[1:]}-{SPAN}-01", False, id="a digit is missing"),
        pytest.param(f"00-{TRACE}-{SPAN}", False, id="cut short"),
        pytest.param(f"00-{TRACE[:-1]}\u0663-{SPAN}-01", False, id="a digit of another script"),
        pytest.param(f'00-{TRACE}-{SPAN}-01", "level": "ERROR', False, id="hostile"),
        pytest.param(f"cc-{TRACE}-{SPAN}-01-{'x' * 600}", False, id="too long"),
        pytest.param("", False, id="empty"),
    ],
)
def test_what_is_valid_names_trace_and_span(traceparent: str, valid: bool) -> None:
    assert callers_span(traceparent) == (SpanIds(TRACE, SPAN) if valid else None)
    continued = get_current_span(TraceContextTextMapPropagator().extract({"traceparent": traceparent}))
    assert continued.get_span_context().is_valid is valid


def test_without_a_header_there_is_none() -> None:
    assert callers_span(None) is None
