"""The page's files: who gets them, and what browsers may do with them."""

from __future__ import annotations

import pytest

from service.routes.page import MEDIA_TYPES, PAGE, POLICY, SAMPLES
from tests.service.harness import Server

PARTS = sorted(f"/page/{file.name}" for file in PAGE.iterdir() if file.suffix in MEDIA_TYPES)
IMAGES = sorted(f"/page/samples/{file.name}" for file in SAMPLES.glob("*.png"))


def test_the_page_runs_its_own_scripts_only(server: Server) -> None:
    answer = server.client.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"] == POLICY
    assert "unsafe" not in POLICY
    assert "http" not in POLICY
    assert answer.text == (PAGE / "index.html").read_text("utf-8")


@pytest.mark.parametrize("path", [*PARTS, *IMAGES])
def test_every_part_is_served_as_what_it_is(server: Server, path: str) -> None:
    answer = server.client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"].split(";")[0] == MEDIA_TYPES[path[path.rindex(".") :]]
    head = server.client.head(path)
    assert (head.status_code, head.content) == (200, b"")


def test_what_the_browser_has_is_not_sent_again(server: Server) -> None:
    for path in ("/", "/page/main.js"):
        first = server.client.get(path)
        assert first.headers["cache-control"] == "no-cache"
        again = server.client.get(path, headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "path",
    [
        "/page/missing.js",
        "/page/index.html",
        "/page/samples/missing.png",
        "/page/samples/LICENSE.md",
        "/page/..%2froutes%2fpage.js",
        "/page/%2e%2e%2f%2e%2e%2fREADME.md",
        "/page/samples/..%2f..%2fLICENSE.md",
        "/page/nul%00.js",
    ],
)
def test_nothing_else_is_served(server: Server, path: str) -> None:
    answer = server.client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_the_page_opens_without_the_key_that_its_requests_need(guarded: Server) -> None:
    with guarded.another_client() as client:
        assert client.get("/").status_code == 200
        assert client.get("/page/main.js").status_code == 200
        assert client.get("/models").status_code == 401
