"""What the measure of good clients' latency says: twice the quiet one is allowed, more is not."""

from __future__ import annotations

import pytest

from tests.resilience.latency import Latencies, judge

QUIET = [0.1] * 98 + [0.2, 0.3]


@pytest.mark.parametrize(
    ("hostile", "findings"),
    [
        pytest.param(QUIET, [], id="the same"),
        pytest.param([2 * seconds for seconds in QUIET], [], id="twice"),
        pytest.param([0.21] * 98 + [0.4, 0.4], ["the 50th percentile is 2.10 times"], id="slower"),
        pytest.param([0.1] * 90 + [0.9] * 10, ["the 99th percentile is"], id="some are"),
    ],
)
def test_more_than_twice_the_quiet_latency_is_a_finding(hostile: list[float], findings: list[str]) -> None:
    found = Latencies(quiet=[*QUIET], hostile=hostile)
    judge(found)
    assert len(found.findings) == len(findings)
    for told, expected in zip(found.findings, findings, strict=True):
        assert told.startswith(expected)
