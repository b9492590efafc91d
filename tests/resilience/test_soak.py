"""What a soak's figures say: noise is no growth, growth is none of noise's."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.resilience.soak.figures import Minute, Soak, Told, judge, says, table, write
from tests.resilience.soak.watching import Sample, growth


def hour(megabytes_an_hour: float, noise: float = 0.0, descriptors: int = 0, late_p99: float = 1.0) -> Soak:
    """30 quiet minutes of 60: caches fill in the first, and memory then grows by so much."""
    draw, soak = np.random.default_rng(0), Soak(capacity=2.0)
    for number in range(60):
        seconds = 0.5 * (late_p99 if number > 40 else 1.0)
        soak.minutes.append(Minute(number, number % 2 == 1, [Told("good", 200, seconds)] * 100))
        if number % 2 == 0:
            filling = -80 * 0.5**number
            memory = 500 + filling + megabytes_an_hour * number / 60 + draw.normal(0, noise)
            soak.samples.append(Sample(number * 60.0, float(memory), 40 + (descriptors if number > 45 else 0), 12))
    return soak


@pytest.mark.parametrize(
    ("soak", "findings", "memory"),
    [
        pytest.param(hour(0.0), [], "steady", id="nothing"),
        pytest.param(hour(0.0, noise=0.1), [], "steady", id="a little noise"),
        pytest.param(hour(0.0, noise=8.0), [], "undecided", id="much noise"),
        pytest.param(hour(12.0, noise=0.5), ["memory grows by"], "growing", id="a leak"),
        pytest.param(hour(0.0, descriptors=1), ["1 descriptors and 0 threads more"], "steady", id="a descriptor"),
        pytest.param(hour(0.0, late_p99=2.0), ["p99 went from 500 to 1000 ms"], "steady", id="slower"),
    ],
)
def test_an_hour_is_judged(soak: Soak, findings: list[str], memory: str) -> None:
    judge(soak)
    assert len(soak.findings) == len(findings)
    for found, expected in zip(soak.findings, findings, strict=True):
        assert found.startswith(expected)
    assert says(growth(soak.samples)) == memory


def test_a_short_run_is_not() -> None:
    soak = hour(1000.0)
    soak.minutes, soak.samples = soak.minutes[:20], soak.samples[:10]
    judge(soak)
    assert soak.findings == []


def test_refusals_count_in_quiet_minutes() -> None:
    """The others may be too much for the machine."""
    soak = hour(0.0)
    soak.minutes[1].told.extend([Told("good", 429, 0.01)] * 90)
    judge(soak)
    assert soak.findings == []
    soak.minutes[2].told.extend([Told("good", 429, 0.01)] * 90)
    judge(soak)
    (finding,) = soak.findings
    assert finding.startswith("90 of 3090 requests were refused")


def test_the_figures_are_written_while_it_runs(tmp_path: Path) -> None:
    soak = hour(0.0)
    soak.minutes, soak.samples = soak.minutes[:1], soak.samples[:1]
    write(soak, tmp_path / "soak.json")
    found = json.loads((tmp_path / "soak.json").read_text())
    assert (found["minutes"], found["requests"], found["growth"], found["cores"]) == (1, 100, None, os.cpu_count())
    assert "| by status | 200 100 |" in table(soak)
