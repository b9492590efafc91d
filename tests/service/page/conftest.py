from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from model.runtime.bundles.repository import EMBEDDED
from tests.patience import PATIENCE
from tests.service.harness import Server, publish_probe

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext

    from tests.service.page.visitor import Visitor

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
KEY = "ordinary-key-0123456789"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Not longer than a module: while it runs, nothing else of this thread can run an event loop.
    api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    program = next((path for name in NAMES if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"the page needs a browser, one of {', '.join(NAMES)} (Debian: apt-get install chromium)")
    with api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=program, args=QUIET)
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """axe-core as a script."""
    pytest.importorskip("axe_playwright_python", reason="needs the package axe-playwright-python")
    return (files("axe_playwright_python") / "axe.min.js").read_text("utf-8")


@pytest.fixture(scope="session")
def nuclei() -> Iterator[Server]:
    """A server with the embedded model."""
    server = Server.start(EMBEDDED)
    yield server
    server.close()


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that wants KEY, with two versions of the probe."""
    repository = tmp_path_factory.mktemp("versions")
    for version in ("one", "two"):
        publish_probe(tmp_path_factory.mktemp(version), repository)
    server = Server.start(repository, "--engine-threads", "1", "--api-keys", KEY)
    yield server
    server.close()


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures of the page are kept to be looked at: MASKSERVE_SCREENSHOTS, or among pytest's temporary files."""
    named = os.environ.get("MASKSERVE_SCREENSHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def context_of(browser: Browser) -> Callable[..., BrowserContext]:
    """A browser context of these settings, one for all who want the same: a new one is half the cost of a visit."""

    @cache
    def open_context(**settings: Any) -> BrowserContext:
        width, height = settings.pop("size", (1280, 800))
        context = browser.new_context(viewport={"width": width, "height": height}, **settings)
        context.set_default_timeout(1000 * PATIENCE)
        context.new_page()  # with its last tab a context gives up its processes
        return context

    return open_context


@pytest.fixture
def visit(context_of: Callable[..., BrowserContext]) -> Iterator[Callable[..., Visitor]]:
    """Opens the page of a server in a tab of its own, which is all that the page keeps anything for (sessionStorage),
    with `refusals` and settings of a browser context, its viewport as `size`. At the end nothing was foul."""
    from tests.service.page.visitor import Visitor

    visitors: list[Visitor] = []

    def open_page(server: Server, *refusals: int, **settings: Any) -> Visitor:
        visitors.append(Visitor(context_of(**settings).new_page(), server, frozenset(refusals)))
        return visitors[-1]

    yield open_page
    foul = [line for visitor in visitors for line in visitor.foul]
    for visitor in visitors:
        visitor.page.close()
    assert foul == []
