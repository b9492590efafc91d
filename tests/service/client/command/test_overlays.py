"""Pictures that `maskserve predict --overlay` draws."""

from __future__ import annotations

import csv
import json
import os
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from service.client.command.main import ExitCode, main
from tests.service.client.shell import lines
from tests.service.harness import Server, encode, picture


@pytest.mark.parametrize("masks", ["rle", "polygon", "none"])
def test_overlays_are_the_servers_pictures(server: Server, images: Path, tmp_path: Path, masks: str) -> None:
    folder = tmp_path / "drawn"
    arguments = ["--overlay", str(folder), "--output", os.devnull, "--score-threshold", "0.1", "--masks", masks]
    assert main([str(images), "--url", server.url, *arguments]) == ExitCode.ANSWERED
    for name, drawn in {"a.png": "a.png", "b.JPG": "b.png", "more/c.tiff": "more/c.png"}.items():
        response = server.client.post(
            "/predict",
            content=(images / name).read_bytes(),
            headers={"Content-Type": "image/png", "Accept": "image/png"},
            params={"score_threshold": 0.1, "masks": masks},
        )
        expected = np.asarray(Image.open(BytesIO(response.content)))
        assert np.array_equal(np.asarray(Image.open(folder / drawn)), expected)


@pytest.mark.parametrize("flags", [[], ["--intensity", "min-max"], ["--low", "100", "--high", "3000"]])
def test_overlays_of_deep_pictures_show_what_the_network_saw(server: Server, tmp_path: Path, flags: list[str]) -> None:
    for name, gray in ("a", picture(3)[..., 0]), ("flat", np.full((20, 20), 9)):
        Image.fromarray(gray.astype(np.uint16) * 16).save(tmp_path / f"{name}.tif")
    output, drawn = tmp_path / "answers.jsonl", tmp_path / "drawn"
    arguments = ["--url", server.url, "--overlay", str(drawn), "--output", str(output), *flags]
    assert main([str(tmp_path / "a.tif"), str(tmp_path / "flat.tif"), *arguments]) == 0
    for answer in map(json.loads, output.read_text().splitlines()):
        said = answer["image"]["intensity"]
        assert flags == [] or said["mode"] in ("min-max", "full-range")
        query = {"intensity": "min-max"} if "min-max" in flags else {"low": said["low"], "high": said["high"]}
        data = Path(answer["file"]).read_bytes()
        expected = server.client.post("/predict", params=query, files={"file": data}, headers={"Accept": "image/png"})
        theirs = np.asarray(Image.open(BytesIO(expected.content)))
        assert np.array_equal(np.asarray(Image.open(drawn / f"{Path(answer['file']).stem}.png")), theirs)


def test_overlays_show_the_plane_that_was_seen(server: Server, tmp_path: Path) -> None:
    pages = [Image.fromarray(picture(seed)) for seed in range(3)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    pages[2].save(tmp_path / "third.png")
    drawn = tmp_path / "drawn"
    arguments = ["--url", server.url, "--overlay", str(drawn), "--output", str(tmp_path / "answers.jsonl")]
    assert main([str(tmp_path / "pages.tif"), "--page", "2", *arguments]) == 0
    assert main([str(tmp_path / "third.png"), *arguments]) == 0
    pictures = [np.asarray(Image.open(drawn / f"{name}.png")) for name in ("pages", "third")]
    assert np.array_equal(*pictures)


def test_overlays_show_the_channels_that_were_seen(server: Server, tmp_path: Path) -> None:
    values = np.stack([picture(seed)[..., 0].astype(np.uint16) << 2 * seed for seed in range(4)])
    tifffile.imwrite(tmp_path / "stack.tif", values, imagej=True, metadata={"axes": "CYX"})
    drawn, table = tmp_path / "drawn", tmp_path / "table.csv"
    arguments = [str(tmp_path / "stack.tif"), "--url", server.url, "--overlay", str(drawn), "--output", str(table)]
    assert main([*arguments, "--channels", "3,,1", "--format", "csv"]) == ExitCode.ANSWERED
    expected = server.client.post(
        "/predict",
        content=(tmp_path / "stack.tif").read_bytes(),
        params={"channels": "3,,1"},
        headers={"Accept": "image/png"},
    )
    theirs = np.asarray(Image.open(BytesIO(expected.content)))
    assert np.array_equal(np.asarray(Image.open(drawn / "stack.png")), theirs)
    (header, row, *_) = list(csv.reader(StringIO(table.read_text())))
    named = dict(zip(header, row, strict=True))
    assert (named["intensity_mean_0"], named["intensity_mean_2"]) == ("", "")
    assert float(named["intensity_max_3"]) > 255 > float(named["intensity_mean_1"]) / 16 > 0


def test_overlays_of_one_name_do_not_overwrite_each_other_and_are_no_input_of_the_next_run(
    server: Server, tmp_path: Path
) -> None:
    for name in ("x/a.png", "x/a.jpg", "y/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encode(picture()))
    drawn, output = tmp_path / "x" / "drawn", tmp_path / "out"
    for _ in range(2):
        sources = [str(tmp_path / "x"), str(tmp_path / "y" / "a.png")]
        assert main([*sources, "--url", server.url, "--overlay", str(drawn), "--output", str(output)]) == 0
        assert sorted(path.name for path in drawn.iterdir()) == ["a-2.png", "a-3.png", "a.png"]
        assert len(lines(output)) == 3


def test_an_overlay_that_cannot_be_written_is_that_images_error(
    server: Server, images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn" / "more").write_text("in the way")
    output = tmp_path / "out"
    arguments = ["--overlay", str(tmp_path / "drawn"), "--output", str(output)]
    assert main([str(images), "--url", server.url, *arguments]) == ExitCode.SOME_FAILED
    assert [("problem" in line) for line in lines(output)] == [False, False, True]
    assert f"{images / 'more/c.tiff'}: The overlay cannot be made: " in capfd.readouterr().err
