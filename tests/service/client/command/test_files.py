"""Files for analysis tools from the command and from programs: one for each image, as the server sends it."""

from __future__ import annotations

import asyncio
import os
import zipfile
from io import BytesIO
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import tifffile
from PIL import Image

from model.runtime.analysis.file_types import FILE_TYPES, FileFormat
from model.runtime.images.picture import PixelSize
from service.client import AsyncClient, Client, ServerProblem
from service.client.command.main import ExitCode, main
from tests.service.harness import Server, encode, picture

OF_EACH_IMAGE = ("geojson", "imagej", "labels")


def written(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("form", OF_EACH_IMAGE)
def test_each_image_has_a_file_under_its_name(server: Server, images: Path, tmp_path: Path, form: FileFormat) -> None:
    folder, suffix = tmp_path / "new" / "results", FILE_TYPES[form].suffix
    arguments = ["--format", form, "--output", str(folder), "--score-threshold", "0.1"]
    assert main([str(images), "--url", server.url, *arguments]) == ExitCode.ANSWERED
    assert written(folder) == [f"a{suffix}", f"b{suffix}", f"more/c{suffix}"]
    for name in ("a.png", "b.JPG", "more/c.tiff"):
        expected = server.predict((images / name).read_bytes(), format=form, score_threshold=0.1).content
        assert (folder / name).with_suffix(suffix).read_bytes() == expected


def test_files_of_one_name_do_not_overwrite_each_other_and_are_no_input_of_the_next_run(
    server: Server, tmp_path: Path
) -> None:
    for seed, name in enumerate(("x/a.png", "x/a.jpg", "y/a.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encode(picture(seed)))
    folder = tmp_path / "x" / "labels"
    for _ in range(2):
        sources = [str(tmp_path / "x"), str(tmp_path / "y" / "a.png")]
        assert main([*sources, "--url", server.url, "--format", "labels", "--output", str(folder)]) == 0
        assert written(folder) == ["a-2.tif", "a-3.tif", "a.tif"]


def test_an_image_is_never_overwritten_by_its_labels(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "a.tif"
    Image.fromarray(picture()).save(image)
    before = image.read_bytes()
    arguments = ["--url", server.url, "--format", "labels", "--output", str(tmp_path)]
    assert main([str(image), *arguments]) == ExitCode.WRONG_USAGE
    assert f"--output {tmp_path} would overwrite {image}, which is read" in capfd.readouterr().err
    assert image.read_bytes() == before


def test_a_bad_image_has_no_file_and_is_named(
    server: Server, images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (images / "bad.png").write_bytes(b"no image")
    arguments = ["--url", server.url, "--format", "geojson", "--output", str(tmp_path / "out")]
    assert main([str(images), *arguments]) == ExitCode.SOME_FAILED
    assert written(tmp_path / "out") == ["a.geojson", "b.geojson", "more/c.geojson"]
    out, errors = capfd.readouterr()
    assert out == ""
    assert f"{images / 'bad.png'}: The upload is not an image" in errors


def test_a_file_that_cannot_be_written_is_that_images_error(
    server: Server, images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "more").write_text("in the way")
    arguments = ["--url", server.url, "--format", "geojson", "--output", str(tmp_path / "out")]
    assert main([str(images), *arguments]) == ExitCode.SOME_FAILED
    assert written(tmp_path / "out") == ["a.geojson", "b.geojson", "more"]
    assert f"{images / 'more/c.tiff'}: The results cannot be written: " in capfd.readouterr().err


@pytest.mark.parametrize("form", ["csv", "imagej"])
def test_pictures_are_drawn_beside_the_files(server: Server, images: Path, tmp_path: Path, form: str) -> None:
    drawn, output = tmp_path / "drawn", tmp_path / "out"
    arguments = ["--format", form, "--output", str(output), "--overlay", str(drawn)]
    assert main([str(images / "a.png"), "--url", server.url, *arguments]) == ExitCode.ANSWERED
    headers = {"Accept": "image/png", "Content-Type": "image/png"}
    theirs = server.client.post("/predict", content=(images / "a.png").read_bytes(), headers=headers)
    assert np.array_equal(Image.open(drawn / "a.png"), Image.open(BytesIO(theirs.content)))
    assert output.is_dir() == (form == "imagej")


@pytest.mark.parametrize("form", ["coco", "csv", "imagej"])
def test_what_a_limit_cut_off_is_told_where_the_results_do_not(
    server: Server, images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], form: str
) -> None:
    arguments = [str(images / "a.png"), "--url", server.url, "--format", form, "--output", str(tmp_path / form)]
    for limit, told in (("1", True), ("100", False)):
        assert main([*arguments, "--max-detections", limit]) == ExitCode.ANSWERED
        assert ("a limit cut objects off" in capfd.readouterr().err) == told


@pytest.mark.parametrize("form", get_args(FileFormat))
def test_programs_get_files_too(server: Server, form: FileFormat) -> None:
    image = picture(5)
    expected = server.predict(encode(image), format=form, pixel_size_um=0.5).content
    with Client(server.url) as client:
        found = client.predict_file(image, form, pixel_size_um=0.5)
        assert client.predict_file(image, form, max_detections=1).truncated

    async def ask() -> bytes:
        async with AsyncClient(server.url) as client:
            return (await client.predict_file(image, form, pixel_size_um=0.5)).content

    assert found.content == asyncio.run(ask())
    assert not found.truncated
    if form == "labels":
        assert np.array_equal(tifffile.imread(BytesIO(found.content)), tifffile.imread(BytesIO(expected)))
    elif form == "imagej":
        assert zipfile.ZipFile(BytesIO(found.content)).namelist()
    else:
        assert found.content == expected


def test_a_problem_is_a_problem_whatever_was_asked_for(server: Server) -> None:
    with Client(server.url) as client, pytest.raises(ServerProblem, match="not an image"):
        client.predict_file(b"no image", "imagej")


def test_predictions_know_the_pixels_size(server: Server) -> None:
    with Client(server.url) as client:
        assert client.predict(picture(), pixel_size_um=0.5).pixel_size == PixelSize(0.5, 0.5, "request")
        assert client.predict(picture()).pixel_size is None


def test_json_lines_need_no_second_request(server: Server, images: Path) -> None:
    before = server.metrics()["maskserve_batch_size_sum"]
    arguments = ["--url", server.url, "--output", os.devnull]
    assert main([str(images / "a.png"), *arguments]) == ExitCode.ANSWERED
    assert server.metrics()["maskserve_batch_size_sum"] == before + 1
