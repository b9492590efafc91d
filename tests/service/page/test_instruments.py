"""Pictures as instruments make them: planes of a stack, pixels of a known size, answers that come in lines."""

from __future__ import annotations

import csv
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from playwright.sync_api import Route, expect

from tests.service.harness import Server, picture
from tests.service.page.looking import IMAGE, answer
from tests.service.page.visitor import Visit, Visitor

SIDE = 0.325
"""µm from one pixel of the stack to the next."""


def stack() -> bytes:
    """An OME-TIFF of 12 bits with three planes along z, each darker than the one before."""
    gray = picture(3, (96, 128))[..., 0].astype(np.uint16) * 16
    planes = np.stack([gray, gray // 2, gray // 4])
    file = BytesIO()
    size = {f"PhysicalSize{axis}": SIDE for axis in "XY"} | {f"PhysicalSize{axis}Unit": "µm" for axis in "XY"}
    tifffile.imwrite(file, planes, ome=True, metadata={"axes": "ZYX", "SignificantBits": 12, **size})
    return file.getvalue()


def facts(visitor: Visitor) -> dict[str, str]:
    return dict(zip(visitor["#summary dt"].all_inner_texts(), visitor["#summary dd"].all_inner_texts(), strict=True))


def test_a_plane_of_a_stack_is_chosen_seen_measured_and_taken_away(
    visit: Visit, server: Server, tmp_path: Path
) -> None:
    data = stack()
    visitor = visit(server)
    visitor.choose(("stack.tif", data))
    visitor.see("stack.tif")
    expect(visitor["#picture-facts"]).to_contain_text("· z 0 · values 0 to 4,095 as black to white (declared)")
    slider = visitor.page.get_by_role("slider", name="z", exact=True)
    slider.focus()
    slider.press("End")
    expect(visitor["#picture-facts"]).to_contain_text("· z 2 ·")
    visitor.see("stack.tif")
    expect(slider).to_be_focused()
    expect(visitor["#planes output"]).to_have_text("2 (0 to 2)")
    expect(visitor["#queue img"]).to_have_class("mended")  # the browser has no picture of a TIFF
    assert visitor["#queue img"].evaluate("(image) => image.naturalWidth") == 80
    shown = visitor.page.evaluate(
        """() => [...document.getElementById("base").getContext("2d").getImageData(0, 0, 128, 96).data]"""
    )
    gray = picture(3, (96, 128))[..., 0].astype(int)
    assert np.abs(np.array(shown).reshape(96, 128, 4)[..., 0] - gray // 4).max() <= 1

    found = answer(server, data, z=2)
    assert found["image"]["pixel_size_um"]["source"] == "ome"
    with visitor.save("#save-csv", tmp_path).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["plane"] for row in rows] == ["z2"] * len(found["scores"])
    areas = [float(row["area_px"]) for row in rows]
    for row, area in zip(rows, areas, strict=True):
        assert float(row["area_um2"]) == pytest.approx(area * SIDE**2, abs=1e-3)
        assert float(row["equivalent_diameter_um"]) == pytest.approx(2 * (area / np.pi) ** 0.5 * SIDE, abs=1e-3)
    assert facts(visitor)["Mean area"] == f"{float(f'{np.mean(areas) * SIDE**2:.4g}'):,g} µm²"
    assert facts(visitor)["Pixel size"] == "0.325 µm (OME)"
    expect(visitor["#pixel-size"]).to_be_hidden()
    saved = visitor.save("#analysis-imagej", tmp_path)
    assert saved.name == "stack-z2-objects.zip"
    expected = server.client.post(
        "/predict",
        files={"file": ("stack.tif", data)},
        params={"format": "imagej", "z": 2},
    )
    assert saved.read_bytes() == expected.content


def test_who_knows_the_size_of_pixels_may_type_it(visit: Visit, server: Server, tmp_path: Path) -> None:
    visitor = visit(server)
    visitor.choose(("cells.png", IMAGE))
    visitor.see("cells.png")
    in_pixels, asked = facts(visitor), list(visitor.asked)
    visitor["#pixel-size"].fill("0.5")
    expect(visitor["#histogram-title"]).to_have_text("Areas in µm²")
    mean = float(in_pixels["Mean area"].removesuffix(" px").replace(",", ""))
    told = float(facts(visitor)["Mean area"].removesuffix(" µm²").replace(",", ""))
    assert told == pytest.approx(mean / 4, rel=1e-3)
    expect(visitor["#objects [role=option]"].first).to_contain_text("µm²")
    assert visitor.asked == asked
    query = {"format": "csv", "pixel_size_um": 0.5}
    expected = server.client.post("/predict", files={"file": ("cells.png", IMAGE)}, params=query)
    assert visitor.save("#analysis-csv", tmp_path).read_bytes() == expected.content
    for wrong in ("0", "-1", "1e7"):
        visitor["#pixel-size"].fill(wrong)
        expect(visitor["#pixel-size"]).to_have_attribute("aria-invalid", "")
        assert facts(visitor) == in_pixels, wrong
    visitor["#pixel-size"].fill("")
    expect(visitor["#pixel-size"]).not_to_have_attribute("aria-invalid", "")
    assert facts(visitor) == in_pixels


def test_a_button_says_that_its_file_is_being_made(visit: Visit, server: Server) -> None:
    visitor = visit(server)
    visitor.choose(("cells.png", IMAGE))
    visitor.see("cells.png")
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    visitor.page.route(re.compile("format=imagej"), hold)
    button, other = visitor["#analysis-imagej"], visitor["#analysis-geojson"]
    button.click()
    expect(button).to_have_attribute("aria-busy", "true")
    expect(visitor["#status"]).to_have_text("cells-objects.zip is being made.")
    button.click()
    with visitor.page.expect_download():
        other.click()
    expect(button).to_have_attribute("aria-busy", "true")
    with visitor.page.expect_download():
        held[0].continue_()
    expect(visitor["#status"]).to_have_text("Saved cells-objects.zip.")
    expect(button).not_to_have_attribute("aria-busy", "true")
    assert len(held) == 1, "it is made once, however often it is asked for meanwhile"


HEAD = '{"image": {"width": 9}, "detections": 2, "truncated": false}\n'
FOUND = '{"box": [0, 0, 1, 1], "label": "é", "label_id": 1, "score": 0.5}\n'
ERROR = '{"error": {"title": "Too late", "detail": "Its time was over.", "status": 504}}\n'
LINES: dict[str, tuple[str, dict[str, Any] | str, list[list[int]]]] = {
    "whole": (
        '{"progress": {"tiles": 0, "of": 3}}\n{"progress": {"tiles": 2, "of": 3}}\n'
        + HEAD
        + FOUND * 2
        + '{"end": {"detections": 2}}\n',
        {
            "image": {"width": 9},
            "truncated": False,
            "boxes": [[0, 0, 1, 1]] * 2,
            "labels": ["é"] * 2,
            "label_ids": [1, 1],
            "scores": [0.5, 0.5],
        },
        [[0, 3], [2, 3]],
    ),
    "fails on the way": (HEAD + FOUND + ERROR, "Its time was over.", []),
    "fails before the head": ('{"progress": {"tiles": 1, "of": 3}}\n' + ERROR, "Its time was over.", [[1, 3]]),
    "cut off between lines": (HEAD + FOUND, "The answer broke off before its end. Try again.", []),
    "cut off in a line": (HEAD + FOUND[:20], "The answer broke off before its end. Try again.", []),
    "nothing": ("", "The answer broke off before its end. Try again.", []),
}


def test_answers_in_lines_are_whole_or_an_error(visit: Visit, server: Server) -> None:
    """Sent in pieces of seven bytes, which cut lines and letters."""
    visitor = visit(server)
    for case, (text, expected, progress) in LINES.items():
        got = visitor.page.evaluate(
            """async (bytes) => {
                const { readLines } = await import("/page/lines.js");
                const pieces = [];
                for (let at = 0; at < bytes.length; at += 7) pieces.push(new Uint8Array(bytes.slice(at, at + 7)));
                const body = new ReadableStream({
                    pull(to) { pieces.length ? to.enqueue(pieces.shift()) : to.close(); },
                });
                const told = [];
                try {
                    return [await readLines(new Response(body), (...progress) => told.push(progress)), told];
                } catch (error) {
                    return [error.message, told];
                }
            }""",
            list(text.encode()),
        )
        assert got == [expected, progress], case


INCOMPLETE = {
    "nothing was cut off": ({"truncated": False, "scores": [0.9], "image": {}}, 0.5, False),
    "what is missing scores less than what is shown": (
        {"truncated": True, "scores": [0.9, 0.1], "image": {}},
        0.3,
        False,
    ),
    "what is missing may score enough": ({"truncated": True, "scores": [0.9, 0.4], "image": {}}, 0.3, True),
    "a tile may have been full": ({"truncated": True, "scores": [0.9, 0.1], "image": {"tiles": 4}}, 0.3, True),
}


def test_it_is_told_when_objects_may_be_missing(visit: Visit, server: Server) -> None:
    visitor = visit(server)
    for case, (found, threshold, expected) in INCOMPLETE.items():
        assert visitor.call("panels.js", "incomplete", found, threshold) is expected, case
    assert visitor.call("panels.js", "seenWords", {"tiles": 49}) == " · seen in 49 tiles"
    assert visitor.call("panels.js", "seenWords", {}) == ""
    for milliseconds, words in ((0.04, "0.0 ms"), (9999.9, "9,999.9 ms"), (1_184_640.4, "1,184.6 s")):
        assert visitor.call("panels.js", "timeWords", milliseconds) == words
    visitor.call("rows.js", "renderProgress", {"waiting": 0, "working": 1, "done": 1, "failed": 0}, 1.25)
    assert visitor["#progress"].evaluate("(bar) => [bar.value, bar.max]") == [1.25, 2], (
        "a picture in tiles by its tiles"
    )
