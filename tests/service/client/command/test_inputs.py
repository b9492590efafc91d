"""Which files of a folder are images, and what is said about the others."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from model.runtime.images.limits import ENDINGS, FORMATS
from service.client.command.inputs import SUFFIXES, UsageError, find_images, told


@pytest.mark.parametrize("format", FORMATS)
def test_files_of_every_format_that_is_accepted_are_taken(format: str, tmp_path: Path) -> None:
    names = [f"{case(ending[1:])}.{case(ending[1:])}" for ending in ENDINGS[format] for case in (str.lower, str.upper)]  # type: ignore[index]
    for name in names:
        (tmp_path / name).touch()
    found = find_images([str(tmp_path)])
    assert {one.path.name for one in found.images} == set(names)
    assert not found.beside.files


def test_an_ending_belongs_to_one_format() -> None:
    assert len(SUFFIXES) == sum(map(len, ENDINGS.values()))
    assert {".jpg", ".tif", ".heic", ".avif", ".jp2"} <= SUFFIXES


def test_what_lies_beside_images_is_counted_by_its_ending(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "out").mkdir()
    for name in ("a.png", "b.TXT", "below/c.txt", "below/d.png.part", "README", ".hidden.txt", "out/e.txt"):
        (tmp_path / name).touch()
    found = find_images([str(tmp_path)], [tmp_path / "out"])
    assert [one.path.name for one in found.images] == ["a.png"]
    assert found.beside.files == {".txt": 2, ".part": 1, "": 1}
    assert find_images([str(tmp_path / "README"), str(tmp_path / "a.png")]).beside.files == {}, "named, they are taken"
    (tmp_path / "a.png").unlink()
    with pytest.raises(UsageError, match=r"no images in there \(files that end in \.apng, .*\); 4 files passed over"):
        find_images([str(tmp_path)], [tmp_path / "out"])


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        pytest.param({".txt": 1}, "1 file passed over, no images by their endings: .txt (1)", id="one"),
        pytest.param(
            {"": 1, ".xml": 3, ".csv": 3},
            "7 files passed over, no images by their endings: .csv (3), .xml (3), none (1)",
            id="the most frequent first",
        ),
        pytest.param(
            dict.fromkeys([".a", ".b", ".c", ".d", ".e", ".f", ".g"], 1),
            "7 files passed over, no images by their endings: .a (1), .b (1), .c (1), .d (1), .e (1), others (2)",
            id="not more than a line",
        ),
    ],
)
def test_what_was_passed_over_is_one_line(counts: dict[str, int], said: str) -> None:
    assert told(Counter(counts)) == said


def test_links_to_folders_are_told(tmp_path: Path) -> None:
    """Who sees fewer images than there are hears of it."""
    for name in ("images/a.png", "elsewhere/b.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    (tmp_path / "images" / "linked").symlink_to(tmp_path / "elsewhere")
    found = find_images([str(tmp_path / "images")])
    assert [one.path.name for one in found.images] == ["a.png"]
    said = f"a link to a folder is not followed ({tmp_path}/images/linked): name what is linked to, where it is wanted"
    assert found.beside.remarks() == [said]
    assert [one.path.name for one in find_images([str(tmp_path / "images" / "linked")]).images] == ["b.png"], "named"
    (tmp_path / "images" / "a.png").unlink()
    with pytest.raises(UsageError, match=r"no images in there \(files .*\); a link to a folder is not followed"):
        find_images([str(tmp_path / "images")])


def test_an_image_by_several_spellings_of_its_folder_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").touch()
    (tmp_path / "linked").symlink_to("images")
    monkeypatch.chdir(tmp_path)
    spellings = ["images", "./images", str(tmp_path / "images"), "linked", "images/../images/a.png", "linked/*.png"]
    assert [str(one.path) for one in find_images(spellings).images] == ["images/a.png"]


def test_a_pattern_does_not_name_results(tmp_path: Path) -> None:
    """Which an earlier run wrote, or the command would see another list when it goes on."""
    for name in ("a.png", "notes.txt", "out/b.png", "out/plan.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_images([f"{tmp_path}/**"], [tmp_path / "out"], lambda path: path.name in ("plan.json", "b.png"))
    assert {one.path.name for one in found.images} == {"a.png", "notes.txt"}
    assert set(found.beside.results) == {tmp_path / "out"}
