"""The page in a browser at a real server: images in; detections, measurements and files out; by mouse or keyboard."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from tests.patience import PATIENCE
from tests.service.harness import Server, encode, picture, publish_probe, until
from tests.service.page.conftest import KEY
from tests.service.page.looking import (
    DEFAULT,
    IMAGE,
    answer,
    covered,
    drop,
    paste,
    point_at,
    words,
)
from tests.service.page.visitor import Visit


def test_a_dropped_image_shows_what_the_server_found(visit: Visit, server: Server) -> None:
    visitor = visit(server)
    drop(visitor, "cells.png", IMAGE)
    visitor.see("cells.png")
    found = answer(server)
    expect(visitor["#count"]).to_have_text(words(len(found["scores"])))
    expect(visitor["#objects [role=option]:visible"]).to_have_count(len(found["scores"]))
    expect(visitor["#picture-facts"]).to_have_text("128 × 96 px · probe, version 1")
    expect(visitor["#status"]).to_have_text(f"cells.png: {words(len(found['scores']))}.")
    assert visitor.painted("tint") == covered(found["masks"])
    assert [line for line in visitor.asked if line.startswith("POST")] == [
        "POST /predict?score_threshold=0.05&model=probe"
    ]


def test_images_are_pasted_and_picked(visit: Visit, server: Server) -> None:
    visitor = visit(server)
    paste(visitor, IMAGE)
    visitor.see("pasted-1.png")
    visitor.choose(("first.png", IMAGE), ("second.png", encode(picture(4))))
    visitor.see("first.png")
    expect(visitor["#queue [role=option]"]).to_have_count(3)
    visitor["#remove"].click()
    visitor.see("second.png")
    visitor["#clear"].click()
    expect(visitor["#stage"]).to_be_hidden()
    expect(visitor["#queue [role=option]"]).to_have_count(0)


def test_score_and_class_filter_without_asking_again(visit: Visit, server: Server) -> None:
    visitor = visit(server)
    visitor.choose(("cells.png", IMAGE))
    visitor.see("cells.png")
    asked = len(visitor.asked)
    for threshold in (0.05, 0.5, 0.7):
        visitor.move_score(threshold)
        found = answer(server, score_threshold=threshold)
        expect(visitor["#count"]).to_have_text(words(len(found["scores"])))
        assert visitor.painted("tint") == covered(found["masks"])
    visitor.move_score(0.05)
    visitor.page.get_by_role("checkbox", name="circle").uncheck()
    found = answer(server, score_threshold=0.05, labels=["ring, broken", "square"])
    expect(visitor["#count"]).to_have_text(words(len(found["scores"])))
    assert visitor.painted("tint") == covered(found["masks"])
    expect(visitor["#queue .words"]).to_have_text(words(len(found["scores"])))
    visitor.page.get_by_role("button", name="None", exact=True).click()
    expect(visitor["#count"]).to_have_text("0 objects")
    assert visitor.painted("tint") == 0
    visitor.page.get_by_role("button", name="All", exact=True).click()
    expect(visitor["#count"]).to_have_text(words(len(answer(server, score_threshold=0.05)["scores"])))
    assert len(visitor.asked) == asked


def test_labels_have_their_own_thresholds_until_one_is_chosen(
    visit: Visit, tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    publish_probe(tmp_path / "staging", tmp_path / "models", score_thresholds={"circle": 0.7, "ring, broken": 0.1})
    server = start_server("--models", str(tmp_path / "models"))
    visitor = visit(server)
    visitor.choose(("cells.png", IMAGE))
    visitor.see("cells.png")
    own, one = answer(server), answer(server, score_threshold=0.5)
    assert len(own["scores"]) != len(one["scores"])
    expect(visitor["#count"]).to_have_text(words(len(own["scores"])))
    expect(visitor["#score-value"]).to_have_text("0.10 to 0.70, by class")
    expect(visitor["#score-own"]).to_be_hidden()
    assert "score_threshold" not in visitor["#snippet"].inner_text()
    visitor.move_score(0.5)
    expect(visitor["#count"]).to_have_text(words(len(one["scores"])))
    assert "score_threshold=0.5" in visitor["#snippet"].inner_text()
    visitor.page.get_by_role("button", name="As the model sets it").click()
    expect(visitor["#count"]).to_have_text(words(len(own["scores"])))
    expect(visitor["#score"]).to_be_focused()


def test_measurements_are_those_of_the_masks(visit: Visit, server: Server, tmp_path: Path) -> None:
    visitor = visit(server)
    visitor.choose(('a "quoted", name.png', IMAGE))
    visitor.see('a "quoted", name.png')
    found = answer(server)
    areas = [int(coco_mask.area({**mask, "counts": mask["counts"].encode()})) for mask in found["masks"]]
    facts = dict(zip(visitor["#summary dt"].all_inner_texts(), visitor["#summary dd"].all_inner_texts(), strict=True))
    assert facts["Objects"] == str(len(areas))
    assert facts["Area covered"] == f"{100 * covered(found['masks']) / (96 * 128):.1f} %"
    assert facts["Mean area"] == f"{np.mean(areas):,.1f} px"
    assert facts["Median area"] == f"{np.median(areas):,.1f} px"
    assert facts["Smallest to largest"] == f"{min(areas):,} to {max(areas):,} px"
    visitor["#histogram summary"].click()
    assert sum(map(int, visitor["#histogram tbody td:last-child"].all_inner_texts())) == len(areas)

    with visitor.save("#save-csv", tmp_path).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ['a "quoted", name.png'] * len(areas)
    assert [row["label"] for row in rows] == found["labels"]
    assert [int(row["area_px"]) for row in rows] == areas
    for row, area, (x1, _, x2, _), score in zip(rows, areas, found["boxes"], found["scores"], strict=True):
        assert float(row["equivalent_diameter_px"]) == pytest.approx((4 * area / np.pi) ** 0.5, abs=1e-3)
        assert float(row["width_px"]) == pytest.approx(x2 - x1, abs=1e-3)
        assert float(row["score"]) == pytest.approx(score, abs=1e-3)


def test_coco_files_of_all_images_open_in_pycocotools(visit: Visit, server: Server, tmp_path: Path) -> None:
    visitor = visit(server)
    images = {"one.png": IMAGE, "two.png": encode(picture(5))}
    visitor.choose(*images.items())
    expect(visitor["#progress-text"]).to_have_text("2 of 2 done")
    visitor.see("one.png")
    visitor.page.get_by_label("CSV and COCO of all images").check()
    for button in ("#save-rle", "#save-polygons"):
        coco = COCO(visitor.save(button, tmp_path))
        assert {image["file_name"] for image in coco.dataset["images"]} == set(images)
        assert [category["name"] for category in coco.dataset["categories"]] == ["circle", "ring, broken", "square"]
        for image in coco.dataset["images"]:
            found = answer(server, images[image["file_name"]])
            annotations = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
            assert [annotation["score"] for annotation in annotations] == found["scores"]
            for annotation, mask in zip(annotations, found["masks"], strict=True):
                theirs, ours = {**mask, "counts": mask["counts"].encode()}, coco.annToRLE(annotation)
                assert annotation["area"] == coco_mask.area(theirs)
                if button == "#save-rle":
                    assert ours == mask
                else:  # holes are filled, and pycocotools rounds polygons in its own way
                    kept = coco_mask.area(coco_mask.merge([theirs, ours], intersect=True))
                    assert kept >= 0.98 * annotation["area"]


def test_the_png_is_the_picture_as_the_server_draws_what_is_shown(visit: Visit, server: Server, tmp_path: Path) -> None:
    visitor = visit(server)
    visitor.choose(("cells.png", IMAGE))
    visitor.see("cells.png")
    label = answer(server)["labels"][0]
    for hide in (False, True):
        if hide:
            visitor.page.get_by_role("checkbox", name=label).uncheck()
        kept = sorted({one for one in answer(server)["labels"] if not (hide and one == label)})
        expected = server.client.post(
            "/predict",
            content=IMAGE,
            headers={"Content-Type": "image/png", "Accept": "image/png"},
            params={"score_threshold": DEFAULT, "labels": kept},
        ).content
        drawn = np.array(Image.open(visitor.save("#save-png", tmp_path)).convert("RGB"))
        np.testing.assert_array_equal(drawn, np.array(Image.open(BytesIO(expected)).convert("RGB")))
        assert (drawn != np.array(Image.open(BytesIO(IMAGE)).convert("RGB"))).any()


def test_files_for_analysis_tools_hold_what_is_shown(visit: Visit, server: Server, tmp_path: Path) -> None:
    visitor = visit(server)
    visitor.choose(("cells.png", IMAGE))
    visitor.see("cells.png")
    visitor.page.get_by_role("checkbox", name=answer(server)["labels"][0]).uncheck()
    kept = sorted(set(answer(server)["labels"][1:]) - {answer(server)["labels"][0]})
    for form, name in (
        ("geojson", "cells-objects.geojson"),
        ("imagej", "cells-objects.zip"),
        ("labels", "cells-objects.tif"),
        ("csv", "cells-objects.measurements.csv"),
    ):
        saved = visitor.save(f"#analysis-{form}", tmp_path)
        assert saved.name == name
        query = {"format": form, "score_threshold": DEFAULT, "labels": kept}
        expected = server.client.post("/predict", files={"file": ("cells.png", IMAGE)}, params=query)
        assert saved.read_bytes() == expected.content


@pytest.mark.parametrize("language", ["curl", "Python"])
def test_the_code_gives_the_answer_that_is_shown(visit: Visit, guarded: Server, tmp_path: Path, language: str) -> None:
    if language == "curl" and shutil.which("curl") is None:
        pytest.skip("needs curl")
    name = "it's $HOME & more.png"
    visitor = visit(guarded, 401)
    visitor["#key"].fill(KEY)
    visitor.page.get_by_role("button", name="Use this key").click()
    visitor.choose((name, IMAGE))
    visitor.see(name)
    visitor.move_score(0.5)
    visitor.page.get_by_role("checkbox", name="circle").uncheck()
    visitor.page.get_by_role("radio", name=language).check()
    code = visitor["#snippet"].inner_text()
    assert KEY not in code
    (tmp_path / name).write_bytes(IMAGE)
    command = ["bash", "-c", code] if language == "curl" else [sys.executable, "-c", code]
    output = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "API_KEY": KEY},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    ).stdout
    count = len(json.loads(output)["scores"]) if language == "curl" else int(output.split()[0])
    expect(visitor["#count"]).to_have_text(words(count))


def test_an_object_is_singled_out_by_pointing_at_it(visit: Visit, server: Server) -> None:
    visitor = visit(server)
    visitor.choose(("cells.png", IMAGE))
    visitor.see("cells.png")
    assert visitor.painted("focus") == 0
    point_at(visitor, 0.35, 0.8)  # only the square that fills the picture is here
    assert visitor.painted("focus") > 0
    point_at(visitor, 0.02, 0.02)  # nothing
    until(lambda: visitor.painted("focus") == 0)
    point_at(visitor, 0.3, 0.3, click=True)
    chosen = visitor["#objects [aria-selected=true]"]
    expect(chosen).to_contain_text("circle")
    expect(visitor["#objects"]).to_have_attribute("aria-activedescendant", str(chosen.get_attribute("id")))
    visitor.page.keyboard.press("Escape")
    expect(visitor["#objects [aria-selected=true]"]).to_have_count(0)
    visitor["#zoom-in"].click()
    expect(visitor["#viewport"]).to_have_class("viewport zoomed")
    point_at(visitor, 0.3, 0.3, click=True)
    expect(visitor["#objects [aria-selected=true]"]).to_contain_text("circle")


def test_ten_images_of_which_one_is_broken(visit: Visit, server: Server) -> None:
    visitor = visit(server, 400)
    names = [f"image {number}.png" for number in range(10)]
    images = {name: encode(picture(number)) for number, name in enumerate(names)}
    images[names[4]] = images[names[4]][:300]
    visitor.choose(*images.items())
    expect(visitor["#progress-text"]).to_have_text("9 of 10 done, 1 failed", timeout=1000 * PATIENCE)
    rows = visitor["#queue [role=option]"]
    for row, name in enumerate(names):
        expected = (
            words(len(answer(server, images[name])["scores"])) if row != 4 else "The image is damaged or truncated"
        )
        expect(rows.nth(row).locator(".words")).to_have_text(expected)
    rows.nth(4).click()
    detail = server.predict(images[names[4]]).json()["detail"]
    expect(visitor["#stage-message"]).to_have_text(detail)
    expect(visitor["#results"]).to_be_hidden()
    visitor["#queue"].press("ArrowDown")
    visitor.see(names[5])
    expect(visitor["#results"]).to_be_visible()


def test_a_busy_server_is_asked_again_and_one_that_is_gone_is_told_of(
    visit: Visit, start_server: Callable[..., Server]
) -> None:
    server = start_server("--max-queue-size", "1")
    visitor = visit(server, 429)
    with server.busy():
        visitor.choose(*((f"late {number}.png", encode(picture(number))) for number in range(3)))
        until(lambda: server.metrics().get('maskserve_requests_total{route="/predict",status="429"}', 0) > 0)
    expect(visitor["#progress-text"]).to_have_text("3 of 3 done", timeout=1000 * PATIENCE)

    server.stop()
    visitor.choose(("late.png", IMAGE))
    expect(visitor["#stage-message"]).to_contain_text("The server cannot be reached.")
    assert visitor.foul == ["error: Failed to load resource: net::ERR_CONNECTION_REFUSED"]
    visitor.foul.clear()


def test_the_key_is_asked_for(visit: Visit, guarded: Server) -> None:
    visitor = visit(guarded, 401)
    dialog = visitor.page.get_by_role("dialog", name="API key")
    expect(dialog).to_be_visible()
    dialog.get_by_label("Key", exact=True).fill("wrong-key-0123456789")
    dialog.get_by_label("Key", exact=True).press("Enter")
    expect(visitor["#key-error"]).to_contain_text("The key is not one of this server's")
    dialog.get_by_label("Key", exact=True).press("Escape")
    expect(visitor["#notice-text"]).to_contain_text("The key is not one of this server's")
    visitor.page.get_by_role("button", name="API key").click()
    dialog.get_by_label("Key", exact=True).fill(KEY)
    dialog.get_by_role("button", name="Use this key").click()
    expect(visitor["#notice"]).to_be_hidden()
    visitor.choose(("cells.png", IMAGE))
    visitor.see("cells.png")
    visitor.page.reload()
    visitor.choose(("again.png", IMAGE))  # the tab knows it still
    visitor.see("again.png")


def test_an_older_version_can_be_asked(visit: Visit, guarded: Server) -> None:
    visitor = visit(guarded, 401)
    visitor["#key"].fill(KEY)
    visitor["#key"].press("Enter")
    visitor.choose(("cells.png", IMAGE))
    visitor.see("cells.png")
    expect(visitor["#picture-facts"]).to_contain_text("probe, version 2")
    visitor["#model"].select_option(label="probe, version 1")
    expect(visitor["#picture-facts"]).to_contain_text("probe, version 1")
    expect(visitor["#about-list"]).to_contain_text("Version\n1", use_inner_text=True)


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_pictures_are_shown_upright_even_if_the_browser_cannot_read_them(
    visit: Visit, server: Server, form: str
) -> None:
    halves = np.zeros((60, 100, 3), np.uint8)
    halves[5:-5, 5:50] = 200  # the upper half, when turned; the black edge keeps the probe from being steered
    exif = Image.Exif()
    exif[0x0112] = 6
    visitor = visit(server)
    visitor.choose((f"turned.{form.lower()}", encode(halves, form, exif=exif)))
    visitor.see(f"turned.{form.lower()}")
    expect(visitor["#picture-facts"]).to_contain_text("60 × 100 px")
    top, bottom = visitor.page.evaluate(
        """() => [25, 75].map((y) =>
            document.getElementById("base").getContext("2d").getImageData(30, y, 1, 1).data[0])"""
    )
    assert top > 150
    assert bottom < 50


def test_deep_pictures_are_shown_as_the_network_sees_them(visit: Visit, server: Server) -> None:
    """A browser shows the upper byte of 16 bits: of 12, next to nothing."""
    gray = picture(3, (96, 128))[..., 0]
    data = encode(gray.astype(np.uint16) * 16)
    visitor = visit(server)
    visitor.choose(("deep.png", data))
    visitor.see("deep.png")
    expect(visitor["#picture-facts"]).to_contain_text("values 0 to 4,095 as black to white (auto)")
    shown = visitor.page.evaluate(
        """() => [...document.getElementById("base").getContext("2d").getImageData(0, 0, 128, 96).data]"""
    )
    assert np.abs(np.array(shown).reshape(96, 128, 4)[..., 0] - gray).max() <= 1
    visitor.choose(("plain.png", IMAGE))
    visitor.see("plain.png")
    expect(visitor["#picture-facts"]).not_to_contain_text("black to white")


def test_the_contrast_is_of_the_view_alone(visit: Visit, server: Server) -> None:
    image = np.full((40, 60, 3), 20, np.uint8)
    image[10:30, 20:40] = 60
    visitor = visit(server)
    visitor.choose(("faint.png", encode(image)))
    visitor.see("faint.png")
    asked, before = list(visitor.asked), visitor.brightness(0.5, 0.5)
    expect(visitor["#contrast-value"]).to_have_text("× 1.0")
    visitor["#contrast"].fill("20")
    expect(visitor["#contrast-value"]).to_have_text("× 4.0")
    ground = visitor.brightness(0.1, 0.1)
    assert visitor.brightness(0.5, 0.5) > before + 50  # what is brighter than the mean
    assert ground < 20  # what is darker
    visitor["#contrast"].fill("0")
    assert abs(visitor.brightness(0.5, 0.5) - before) <= 2
    assert visitor.asked == asked
