"""What versions did is counted for as long as somebody may ask, whether or not anybody does."""

from __future__ import annotations

import pytest

from service.observability import by_version
from service.observability.by_version import ByVersion


def test_old_versions_are_forgotten_though_nobody_reads_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = ByVersion()
    for version in range(1, 101):
        counted.served = lambda: {("nuclei", version), ("nuclei", version - 1)}  # noqa: B023  # called in this round
        if version == 60:
            assert len(counted.deeds) == 59
            monkeypatch.setattr(by_version, "FORGOTTEN_SECONDS", -1.0)
        counted.begin("nuclei", version)
        counted.batch("nuclei", version, "cpu", 1, 0.1, failed=False)
    assert [*counted.deeds] == [("nuclei", 99), ("nuclei", 100)]
