"""The API's documentation in a browser: with our own files alone, behind prefixes, and with a key."""

from __future__ import annotations

import http.server
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Route, expect

from service.routes.page import POLICY
from tests.service.harness import Server
from tests.service.page.conftest import KEY
from tests.service.page.looking import IMAGE
from tests.service.page.visitor import Visit, Visitor


@contextmanager
def proxy(server: Server, prefix: str, *, strip: bool = True, header: str | None = None) -> Iterator[Server]:
    """A proxy in front of `server`, which shows it below `prefix` and answers everything else itself with 404."""

    class Proxy(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path != prefix and not self.path.startswith(f"{prefix}/"):
                self.answer(404, [], b"another site")
                return
            path = (self.path.removeprefix(prefix) or "/") if strip else self.path
            kept = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
            if header is not None:
                kept["X-Forwarded-Prefix"] = header
            request = urllib.request.Request(server.url + path, body or None, kept, method=self.command)
            try:
                upstream = urllib.request.build_opener(NoRedirect).open(request)
            except urllib.error.HTTPError as error:
                upstream = error
            with upstream:
                self.answer(upstream.status, list(upstream.headers.items()), upstream.read())

        do_GET = do_POST = do_HEAD = forward

        def answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, daemon=True).start()
        shown = Server(server.process, f"http://127.0.0.1:{running.server_port}{prefix}", server.holding)
        try:
            yield shown
        finally:
            shown.client.close()
            running.shutdown()


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def open_docs(visitor: Visitor) -> None:
    visitor.page.goto(f"{visitor.server.url}/docs")


def describe_one(visitor: Visitor) -> None:
    """Leaves of the API's description, when it comes, the operation that `try_out` uses: to draw all of them takes a
    browser most of the time, and a test that is about addresses has no need to see what another has seen."""

    def shorten(route: Route) -> None:
        answer = route.fetch()
        document = answer.json() if answer.ok else {}
        for path in [path for path in document.get("paths", ()) if path != "/models"]:
            del document["paths"][path]
        route.fulfill(response=answer, **({"json": document} if document else {}))

    visitor.page.route("**/openapi.json", shorten)


def try_out(visitor: Visitor) -> None:
    """Ask for the models from the documentation; the answer stands there."""
    block = visitor.page.locator("#operations-models-list_models")
    block.locator("button.opblock-summary-control").click()
    block.get_by_role("button", name="Try it out").click()
    block.get_by_role("button", name="Execute").click()
    expect(block.locator(".live-responses-table tbody .response-col_status")).to_contain_text("200")


def test_it_is_read_and_tried_out_with_our_own_files(visit: Visit, server: Server, screenshots: Path) -> None:
    visitor = visit(server)
    open_docs(visitor)
    expect(visitor.page.locator(".opblock")).not_to_have_count(0)
    try_out(visitor)
    visitor.page.screenshot(path=screenshots / "docs.png", full_page=True)
    answer = server.client.get("/docs")
    assert answer.headers["content-security-policy"] == POLICY
    assert "<script>" not in answer.text
    assert "http" not in answer.text.replace("http-equiv", "")


def test_with_keys_it_asks_for_one(visit: Visit, guarded: Server, screenshots: Path) -> None:
    visitor = visit(guarded, 401)
    describe_one(visitor)
    open_docs(visitor)
    visitor["#key"].fill("a-wrong-key-0123456789")
    visitor["#key"].press("Enter")
    expect(visitor["#words"]).to_contain_text("not one of this server's")
    visitor.page.screenshot(path=screenshots / "docs-key.png")
    visitor["#key"].fill(KEY)
    visitor["#key"].press("Enter")
    expect(visitor["#key-form"]).to_be_hidden()
    try_out(visitor)


PROXIES = {
    "cut off, told": ("/lab/seg", True, "/lab/seg"),
    "cut off, told with a slash": ("/seg", True, "/seg/"),
    "cut off, not told": ("/seg", True, None),
    "like a path of ours": ("/models", True, "/models"),
}


@pytest.mark.parametrize(("prefix", "strip", "header"), PROXIES.values(), ids=PROXIES)
def test_the_docs_and_the_page_work_behind_a_prefix(
    visit: Visit, server: Server, prefix: str, strip: bool, header: str | None
) -> None:
    with proxy(server, prefix, strip=strip, header=header) as shown:
        visitor = visit(shown)
        visitor.choose(("cells.png", IMAGE))
        visitor.see("cells.png")
        describe_one(visitor)
        visitor.page.get_by_role("link", name="API docs").click()
        try_out(visitor)
        visitor.page.close()


@pytest.mark.parametrize("strip", [True, False], ids=["cut off", "left"])
def test_the_prefix_itself_leads_to_the_page_also_without_a_slash(visit: Visit, guarded: Server, strip: bool) -> None:
    with proxy(guarded, "/lab/a&b", strip=strip, header="/lab/a&b") as shown:
        visitor = visit(shown, 401)
        answer = visitor.page.goto(shown.url)
        assert answer is not None
        assert answer.status == 200
        expect(visitor.page.locator("header.top img")).not_to_have_js_property("naturalWidth", 0)
        expect(visitor.page.get_by_role("link", name="API docs")).to_have_js_property("href", f"{shown.url}/docs")
        expect(visitor["#key"]).to_be_visible()
        visitor.page.close()


@pytest.mark.parametrize("strip", [True, False], ids=["cut off", "left"])
def test_a_prefix_may_be_a_setting(visit: Visit, repository: Path, strip: bool) -> None:
    server = Server.start(repository, "--engine-threads", "1", "--root-path", "/seg")
    try:
        with proxy(server, "/seg", strip=strip) as shown:
            visitor = visit(shown)
            describe_one(visitor)
            open_docs(visitor)
            try_out(visitor)
            assert shown.client.get("/openapi.json").json()["servers"] == [{"url": "/seg"}]
            visitor.page.close()
    finally:
        server.close()
