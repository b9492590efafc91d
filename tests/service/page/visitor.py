"""A browser at the page of a real server, which notes what must not happen there."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import ConsoleMessage, FilePayload, Locator, Page, Request, expect

from tests.patience import PATIENCE
from tests.service.harness import Server

expect.set_options(timeout=1000 * PATIENCE)  # milliseconds; a busy machine is slow, not wrong


@dataclass
class Visitor:
    """`foul` gathers console errors, exceptions, and requests to other hosts.

    A browser reports every answer from 400 on as an error on its console, whatever the page makes of it: those whose
    status is in `refusals` are expected.
    """

    page: Page
    server: Server
    refusals: frozenset[int] = frozenset()
    foul: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    """Method and path with query of every request to the server."""

    def __post_init__(self) -> None:
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.foul.append(f"exception: {error}"))
        self.page.on("request", self._request)
        self.page.goto(f"{self.server.url}/")

    def __getitem__(self, selector: str) -> Locator:
        return self.page.locator(selector)

    def choose(self, *files: tuple[str, bytes]) -> None:
        """Put files, as (name, content), into the file chooser."""
        self["#files"].set_input_files(
            [FilePayload(name=name, mimeType="image/png", buffer=content) for name, content in files]
        )

    def see(self, name: str) -> None:
        """Wait until the image of this name and its detections are shown."""
        expect(self["#picture"]).to_have_attribute("aria-label", re.compile(rf"^{re.escape(name)} with"))
        expect(self["#main"]).to_have_attribute("data-state", "done")

    def move_score(self, value: float) -> None:
        self["#score"].fill(f"{value:.2f}")
        expect(self["#score-value"]).to_have_text(f"{value:.2f}")

    def save(self, button: str, folder: Path) -> Path:
        """Click a button that downloads; the file, under the name that the page gives it."""
        with self.page.expect_download() as download:
            self[button].click()
        path = folder / download.value.suggested_filename
        download.value.save_as(path)
        return path

    def brightness(self, x: float, y: float) -> float:
        """0 to 255, of what is on the screen at a place of the picture, given in shares of its width and height."""
        for layer in ("masks", "outlines", "boxes", "labels"):
            self[f"#layer-{layer}"].set_checked(False)
        screen = Image.open(BytesIO(self["#picture"].screenshot())).convert("L")
        return float(np.asarray(screen)[int(y * screen.height), int(x * screen.width)])

    def painted(self, canvas: str) -> int:
        """Pixels of a canvas on which there is something, once it has been drawn."""
        return int(
            self.page.evaluate(
                """async (id) => {
                    for (let i = 0; i < 2; i++) await new Promise(requestAnimationFrame);
                    const canvas = document.getElementById(id);
                    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
                    return data.filter((value, i) => i % 4 === 3 && value > 0).length;
                }""",
                canvas,
            )
        )

    def call(self, module: str, name: str, *arguments: Any) -> Any:
        """What a module's function returns, typed arrays as lists; its exception's message if it throws."""
        return self.page.evaluate(
            """async ([module, name, args]) => {
                const listed = (key, value) => ArrayBuffer.isView(value) ? [...value] : value;
                const plain = (value) => JSON.parse(JSON.stringify(value, listed));
                const exported = (await import(module))[name];
                try {
                    return plain(typeof exported === "function" ? exported(...args) : exported);
                } catch (error) {
                    return error.message;
                }
            }""",
            [f"/page/{module}", name, arguments],
        )

    def violations(self, axe: str) -> Sequence[str]:
        """What axe-core finds, as rule and place."""
        self.page.evaluate(axe)
        found = self.page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{violation['id']}: {node['html']} {node['failureSummary']}"
            for violation in found["violations"]
            for node in violation["nodes"]
        ]

    def _console(self, message: ConsoleMessage) -> None:
        refused = re.search(r"the server responded with a status of (\d+)", message.text)
        if refused and int(refused[1]) in self.refusals:
            return
        if message.type == "error":
            self.foul.append(f"error: {message.text}")

    def _request(self, request: Request) -> None:
        if request.url.startswith(("blob:", "data:")):
            return
        if not f"{request.url}/".startswith(f"{self.server.url}/"):
            self.foul.append(f"request to another host: {request.url}")
        self.asked.append(f"{request.method} {request.url.removeprefix(self.server.url)}")


Visit = Callable[..., Visitor]
"""The fixture: a visitor of a server, with statuses that it may meet and options of the browser's context."""
