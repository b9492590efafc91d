"""Which images a command names: the same ones when it goes on, each once, and none left out without a word."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from service.client.command.inputs import UsageError
from service.predict_many.sources import find
from tests.service.harness import encode, picture
from tests.service.predict_many.running import content, predict, rows


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for seed in range(3):
        (folder / f"{seed}.png").write_bytes(encode(picture(seed)))
    return folder


@pytest.mark.parametrize(
    ("sources", "output"),
    [
        pytest.param(lambda images: [images], "found", id="a folder"),
        pytest.param(lambda images: [images], "", id="a folder that takes the results"),
        pytest.param(lambda images: [f"{images}/*"], "found", id="a pattern"),
        pytest.param(lambda images: [f"{images}/**"], "found", id="a pattern of everything"),
        pytest.param(lambda images: [f"{images}/**"], "", id="a pattern of everything, results beside images"),
        pytest.param(lambda images: sorted(images.iterdir()), "found", id="the shell's pattern"),
        pytest.param(lambda images: sorted(images.iterdir()), "", id="the shell's pattern, results beside images"),
        pytest.param(lambda images: sorted(images.rglob("*")), "found", id="the shell's pattern of everything"),
    ],
)
def test_a_run_into_a_folder_among_its_images_goes_on(
    sources: Callable[[Path], list[object]],
    output: str,
    images: Path,
    repository: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its own results are no images, and not another list."""
    found = images / output
    assert predict(repository, *sources(images), "--output", found) == 0
    before = content(found)
    assert len({row["image"] for row in rows(found / "detections.parquet")}) == 3
    capsys.readouterr()
    assert predict(repository, *sources(images), "--output", found) == 0
    assert "3 of 3 images are there already" in capsys.readouterr().err
    assert content(found) == before


def test_an_image_is_predicted_once_however_its_folder_is_spelled(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = find(["images", str(images), "images/0.png", f"file://{images}/../images", "./images/[12].png"], None)
    assert [one.name for one in found.images] == [f"images/{seed}.png" for seed in range(3)]


@pytest.mark.parametrize("other", ["./0.png", "../images/0.png", "{images}/0.png", "file://{images}/0.png"])
def test_a_list_with_two_names_of_one_image_is_refused(other: str, images: Path) -> None:
    other = other.format(images=images)
    (images / "list.txt").write_text(f"0.png\n1.png\n{other}\n")
    with pytest.raises(UsageError) as refused:
        find([str(images / "list.txt")], None)
    assert str(refused.value).endswith(f"list.txt has 0.png and {other}, which are one file: name each image once")


@pytest.mark.parametrize(("name", "flags"), [("images.json", ["--format=coco"]), ("images.parquet", ["--rows=images"])])
def test_a_list_is_not_overwritten(
    name: str, flags: list[str], images: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the merged file of the same name, which another form of the results has."""
    file = images / name
    file.write_text(json.dumps({"images": [{"id": 1, "file_name": "0.png"}]}))
    if name.endswith(".parquet"):
        parquet.write_table(pa.table({"path": ["0.png"]}), file)
    before = file.read_bytes()
    assert predict(repository, file, "--output", images) == 0
    capsys.readouterr()
    assert predict(repository, file, "--output", images, *flags) == 2
    assert f"would overwrite {file}, which is read" in capsys.readouterr().err
    assert file.read_bytes() == before


def test_names_of_windows_are_found(images: Path) -> None:
    """A file that is called so goes first."""
    (images / "below").mkdir()
    for name in ("below/a.png", "below/b.png", "below\\b.png"):
        (images / name).write_bytes(encode(picture(4)))
    (images / "list.txt").write_text("below\\a.png\r\nbelow\\b.png\r\nbelow\\c.png\r\n")
    found = find([str(images / "list.txt")], None).images
    assert [one.name for one in found] == ["below\\a.png", "below\\b.png", "below\\c.png"]
    assert [one.place for one in found] == [images / name for name in ("below/a.png", "below\\b.png", "below/c.png")]
