"""`--planes all`: each plane of a stack is an image of its own in every format, and a bad one fails alone."""

from __future__ import annotations

import csv
import json
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from pycocotools.coco import COCO

from model.runtime.analysis.file_types import FILE_TYPES, FileFormat
from service.client.command.main import ExitCode, main
from service.client.command.plane_files import of_plane
from tests.service.client.shell import lines, without
from tests.service.harness import Server
from tests.service.routes.test_planes import PLANES, stack

NAMES = [f"-z{z}-channel{channel}" for z in range(3) for channel in range(2)]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "stack.tif"
    path.write_bytes(stack())
    return path


@pytest.fixture
def half_bad(tmp_path: Path) -> Path:
    """Three pages, of which the second cannot be read."""
    path, file = tmp_path / "bad.tif", BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(PLANES[0], metadata=None)
        writer.write(np.zeros((8, 8), np.complex64), metadata=None)
        writer.write(PLANES[1], metadata=None)
    path.write_bytes(file.getvalue())
    return path


def run(server: Server, *arguments: str | Path) -> int:
    return main(["--url", server.url, "--planes", "all", *map(str, arguments)])


def test_a_line_for_each_plane_and_a_picture(server: Server, image: Path, tmp_path: Path) -> None:
    out, drawn = tmp_path / "out", tmp_path / "drawn"
    assert run(server, image, "--output", out, "--overlay", drawn) == ExitCode.ANSWERED
    theirs = server.predict(stack(), planes="all").json()["answers"]
    for line, item in zip(lines(out), theirs, strict=True):
        assert list(line) == ["file", "plane", *item["prediction"]]
        assert (line["file"], line["plane"]) == (str(image), item["plane"])
        assert without(line, "file", "plane", "timing_ms") == without(item["prediction"], "timing_ms")
    assert sorted(path.name for path in drawn.iterdir()) == [f"stack{name}.png" for name in NAMES]
    theirs = server.client.post(
        "/predict", content=stack(), params={"z": 2, "channel": 1}, headers={"Accept": "image/png"}
    ).content
    assert np.array_equal(Image.open(drawn / "stack-z2-channel1.png"), Image.open(BytesIO(theirs)))


@pytest.mark.parametrize(
    ("flags", "planes"),
    [
        (["--channel", "1"], [{"z": z, "channel": 1} for z in range(3)]),
        (["--z", "2"], [{"z": 2, "channel": channel} for channel in range(2)]),
        (["--z", "1", "--channel", "0", "--t", "0"], [{"z": 1, "channel": 0}]),
        (["--channels", "1,,0"], [{"z": z} for z in range(3)]),
    ],
)
def test_what_is_asked_for_narrows_the_planes(
    server: Server, image: Path, tmp_path: Path, flags: list[str], planes: list[dict[str, int]]
) -> None:
    assert run(server, image, "--output", tmp_path / "out", *flags) == ExitCode.ANSWERED
    said = [{axis: which["index"] for axis, which in line["plane"].items()} for line in lines(tmp_path / "out")]
    assert said == planes


def test_coco_has_an_image_for_each_plane(server: Server, image: Path, half_bad: Path, tmp_path: Path) -> None:
    out, images = tmp_path / "out.json", tmp_path / "images.json"
    code = run(server, half_bad, image, "--format", "coco", "--output", out, "--coco-images", images)
    assert code == ExitCode.SOME_FAILED
    said = json.loads(images.read_bytes())["images"]
    assert [one["id"] for one in said] == list(range(1, 10))
    assert [one["plane"] for one in said[:3]] == [{"page": page} for page in range(3)]
    assert [one["plane"] for one in said[3:]] == [{"z": z, "channel": c} for z in range(3) for c in range(2)]
    results = json.loads(out.read_bytes())
    for number, parameters in ((3, {"z": 0, "channel": 0}), (8, {"z": 2, "channel": 1})):
        theirs = server.predict(stack(), format="coco", image_id=number + 1, **parameters).json()
        assert [one for one in results if one["image_id"] == number + 1] == theirs
    assert COCO(images).loadRes(str(out)).getAnnIds(imgIds=[2]) == []


@pytest.mark.parametrize("form", ["geojson", "labels", "imagej"])
def test_a_file_for_each_plane(server: Server, image: Path, tmp_path: Path, form: FileFormat) -> None:
    folder, suffix = tmp_path / "files", FILE_TYPES[form].suffix
    assert run(server, image, "--format", form, "--output", folder, "--z", "1") == ExitCode.ANSWERED
    assert sorted(path.name for path in folder.iterdir()) == [f"stack-z1-channel{c}{suffix}" for c in range(2)]
    alone = server.predict(stack(), format=form, z=1, channel=1).content
    assert (folder / f"stack-z1-channel1{suffix}").read_bytes() == alone


def test_rows_say_which_plane_they_are_of(server: Server, image: Path, tmp_path: Path) -> None:
    assert run(server, image, "--format", "csv", "--output", tmp_path / "out") == ExitCode.ANSWERED
    rows = list(csv.DictReader(StringIO((tmp_path / "out").read_text())))
    of_planes = {(row["page"], row["z"], row["t"], row["channel"]) for row in rows}
    assert of_planes == {("", str(z), "", str(c)) for z in range(3) for c in range(2)}


@pytest.mark.parametrize("form", ["jsonl", "csv", "geojson"])
def test_a_bad_plane_fails_alone(
    server: Server, half_bad: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], form: str
) -> None:
    out = tmp_path / "out"
    assert run(server, half_bad, "--format", form, "--output", out) == ExitCode.SOME_FAILED
    named, summary = capfd.readouterr().err.splitlines()
    assert named.startswith(f"{half_bad} (page 1): ")
    assert summary == "maskserve: 2 planes answered, 1 failed"
    if form == "jsonl":
        assert ["problem" in line for line in lines(out)] == [False, True, False]
        assert lines(out)[1]["plane"] == {"page": {"index": 1, "of": 3}}
    elif form == "geojson":
        assert sorted(path.name for path in out.iterdir()) == ["bad-page0.geojson", "bad-page2.geojson"]


def test_a_plane_overwrites_neither_an_image_nor_another_result(
    server: Server, image: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "out" / "stack-z0-channel0.tif"
    other.parent.mkdir()
    other.write_bytes(image.read_bytes())
    arguments = ["--format", "labels", "--output", other.parent, "--channel", "0"]
    assert run(server, image, other, *arguments) == ExitCode.WRONG_USAGE
    other.rename(tmp_path / other.name)
    (other.parent / other.name).symlink_to(tmp_path / other.name)
    assert run(server, image, tmp_path / other.name, *arguments) != ExitCode.ANSWERED
    assert "would overwrite" in capfd.readouterr().err
    assert (tmp_path / other.name).read_bytes() == image.read_bytes()


def test_an_image_that_has_no_such_plane_fails_alone(
    server: Server, image: Path, half_bad: Path, tmp_path: Path
) -> None:
    assert run(server, half_bad, image, "--z", "1", "--output", tmp_path / "out") == ExitCode.SOME_FAILED
    assert ["problem" in line for line in lines(tmp_path / "out")] == [True, False, False]


def test_ids_of_files_are_none_of_planes(server: Server, image: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.csv").write_text("stack.tif,7\n")
    assert run(server, image, "--format", "coco", "--image-ids", tmp_path / "ids.csv") == ExitCode.WRONG_USAGE


@pytest.mark.parametrize(
    ("plane", "name"),
    [
        ({}, "a.png"),
        ({"z": {"index": 7, "of": 100}}, "a-z07.png"),
        ({"z": {"index": 7, "of": 101}, "channel": {"index": 0, "of": 10}}, "a-z007-channel0.png"),
    ],
)
def test_names_of_planes_sort_as_they_lie(plane: dict[str, dict[str, int]], name: str) -> None:
    assert of_plane(Path("x/a.png"), plane) == Path("x") / name
