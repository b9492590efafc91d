"""Quality values of what a client accepts."""

from __future__ import annotations

import pytest

from service.http.accept import qualities


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        pytest.param("image/png", {"image/png": 1.0}, id="no quality is the highest"),
        pytest.param("gzip;q=0.5, br ; q=1.0", {"gzip": 0.5, "br": 1.0}, id="spaces"),
        pytest.param("GZIP;Q=0", {"gzip": 0.0}, id="capitals"),
        pytest.param("image/png;level=1;q=0.2", {"image/png": 0.2}, id="other parameters"),
        pytest.param("gzip;q=x, br;q=2, a;q=0.1234", {"gzip": 0.0, "br": 0.0, "a": 0.0}, id="no qualities"),
        pytest.param("", {"": 1.0}, id="nothing"),
    ],
)
def test_qualities(header: str, expected: dict[str, float]) -> None:
    assert qualities(header) == expected
