"""Quality values of what a client accepts."""

from __future__ import annotations

import pytest

from service.http.accept import preference, qualities


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


@pytest.mark.parametrize(
    ("accept", "picture"),
    [
        ("image/png", True),
        ("image/*", True),
        ("IMAGE/*;q=0.1", True),
        ("image/png, */*", True),
        ("image/avif,image/webp,image/*,*/*;q=0.8", True),
        ("application/json;q=0.5, image/*", True),
        ("image/png;q=0.9, application/json;q=0.8, */*;q=0.1", True),
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("image/png, application/json", False),
        ("image/*, application/json", False),
        ("image/png;q=0.5, */*", False),
        ("image/png;q=0, image/*", False),
        ("image/jpeg", False),
        ("text/html,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8", False),
    ],
)
def test_the_picture_is_for_clients_that_prefer_it_to_json(accept: str, picture: bool) -> None:
    assert (preference(accept, "image/png") > preference(accept, "application/json")) is picture
