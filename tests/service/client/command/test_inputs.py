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
    assert not found.passed_over


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
    assert found.passed_over == {".txt": 2, ".part": 1, "": 1}
    assert find_images([str(tmp_path / "README"), str(tmp_path / "a.png")]).passed_over == {}, "named, they are taken"
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
