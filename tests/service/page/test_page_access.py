"""The page for everybody: by keyboard alone, narrow and wide, light and dark, and as axe sees it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.service.harness import Server
from tests.service.page.conftest import KEY
from tests.service.page.looking import (
    IMAGE,
    SAMPLES,
    SCHEMES,
    SIZES,
    answer,
    words,
)
from tests.service.page.visitor import Visit


def test_the_keyboard_alone_is_enough(visit: Visit, server: Server, tmp_path: Path) -> None:
    visitor = visit(server)
    visitor.page.on("filechooser", lambda chooser: None)  # a chooser that opens before somebody listens is lost
    keyboard = visitor.page.keyboard
    image = tmp_path / "cells.png"
    image.write_bytes(IMAGE)

    def go_to(target: str, most: int = 60) -> None:
        for _ in range(most):
            keyboard.press("Tab")
            if visitor.page.evaluate("(target) => document.activeElement.matches(target)", target):
                return
        raise AssertionError(f"Tab does not lead to {target}")

    expect(visitor["#model"]).to_be_enabled()
    go_to("#files")
    with visitor.page.expect_file_chooser() as chooser:
        keyboard.press("Enter")
    chooser.value.set_files(image)
    visitor.see("cells.png")
    go_to("#queue")
    go_to("#viewport")
    keyboard.press("+")
    expect(visitor["#viewport"]).to_have_class("viewport zoomed")
    keyboard.press("0")
    expect(visitor["#viewport"]).to_have_class("viewport")
    go_to("#score")
    keyboard.press("End")
    expect(visitor["#count"]).to_have_text("0 objects")
    keyboard.press("Home")
    count = len(answer(server, score_threshold=0.05)["scores"])
    expect(visitor["#count"]).to_have_text(words(count))
    go_to("[data-label=circle]")
    keyboard.press("Space")
    fewer = len(answer(server, score_threshold=0.05, labels=["ring, broken", "square"])["scores"])
    expect(visitor["#count"]).to_have_text(words(fewer))
    expect(visitor["[data-label=circle]"]).to_be_focused()
    go_to("#objects")
    keyboard.press("ArrowDown")
    expect(visitor["#objects [aria-selected=true]"]).to_have_attribute("aria-label", re.compile(r"^2: ring, broken"))
    keyboard.press("End")
    expect(visitor["#objects [aria-selected=true]"]).to_have_attribute("aria-label", re.compile(r"score 0\.\d\d, \d"))
    keyboard.press("Escape")
    expect(visitor["#objects [aria-selected=true]"]).to_have_count(0)
    go_to("#save-csv")
    with visitor.page.expect_download() as download:
        keyboard.press("Enter")
    assert download.value.suggested_filename == "cells-objects.csv"


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("size", SIZES)
def test_it_looks_good(visit: Visit, nuclei: Server, axe: str, screenshots: Path, size: str, scheme: str) -> None:
    """Shown: the embedded model's answer. Checked: axe-core finds nothing, nothing is wider than the window."""
    width, height = SIZES[size]
    visitor = visit(nuclei, size=(width, height), color_scheme=scheme)
    expect(visitor["#samples"]).to_be_visible()
    visitor.page.screenshot(path=screenshots / f"{size}-{scheme}-empty.png")
    assert visitor.violations(axe) == []
    visitor.page.get_by_role("button", name="Stained").click()
    visitor.see("stained.png")
    expected = len(answer(nuclei, (SAMPLES / "stained.png").read_bytes())["scores"])
    expect(visitor["#count"]).to_have_text(words(expected))
    visitor.page.screenshot(path=screenshots / f"{size}-{scheme}.png", full_page=True)
    assert visitor.violations(axe) == []
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", SCHEMES)
def test_axe_finds_nothing_in_failure_and_in_the_dialog(
    visit: Visit, guarded: Server, axe: str, screenshots: Path, scheme: str
) -> None:
    visitor = visit(guarded, 400, 401, size=(360, 740), color_scheme=scheme)
    expect(visitor["#key-dialog"]).to_be_visible()
    visitor.page.screenshot(path=screenshots / f"key-{scheme}.png")
    assert visitor.violations(axe) == []
    visitor["#key"].fill(KEY)
    visitor["#key"].press("Enter")
    visitor.choose(("good.png", IMAGE), ("broken.png", IMAGE[:200]))
    expect(visitor["#progress-text"]).to_have_text("1 of 2 done, 1 failed")
    visitor["#queue [role=option]"].nth(1).click()
    expect(visitor["#main"]).to_have_attribute("data-state", "failed")
    visitor.page.screenshot(path=screenshots / f"failure-{scheme}.png", full_page=True)
    assert visitor.violations(axe) == []
    visitor["#queue [role=option]"].nth(0).click()
    visitor.see("good.png")
    visitor["#layer-labels"].check()
    visitor.page.screenshot(path=screenshots / f"classes-{scheme}.png", full_page=True)
    assert visitor.violations(axe) == []
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 360
