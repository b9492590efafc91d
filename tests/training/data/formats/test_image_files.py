"""Images that do not lie where annotations say, found by the end of their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.data.annotations.fields import BrokenRecord
from training.data.formats.image_files import Wanted, find_images


def find(folder: Path, files: list[str], names: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """Where each name was found, relative to the folder; for a problem, "?"."""
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    found = find_images([Wanted(name, (folder / "images",)) for name in names], folder)
    places = ["?" if isinstance(path, BrokenRecord) else path.relative_to(folder).as_posix() for path in found.paths]
    return places, found.notes


@pytest.mark.parametrize(
    ("name", "noted"),
    [
        pytest.param("a b.png", False, id="as it lies"),
        pytest.param("../images/a b.png", False, id="climbs out and back"),
        pytest.param("images/a b.png", True, id="a prefix too many"),
        pytest.param("images\\1/a b.png", True, id="Label Studio on Windows"),
        pytest.param("..\\..\\media\\upload\\4\\a b.png", True, id="climbs with backslashes"),
        pytest.param("/home/someone/data/a b.png", True, id="another machine"),
        pytest.param("C:\\Users\\me\\a b.png", True, id="another machine with Windows"),
        pytest.param("a%20b.png", True, id="escaped"),
        pytest.param("/data/local-files/?d=project%2Fa%20b.png", True, id="Label Studio's local files"),
        pytest.param("https://host/x/a%20b.png?key=1", True, id="an address with a query"),
        pytest.param("A B.PNG", True, id="another case"),
    ],
)
def test_an_image_is_found_by_the_end_of_its_name(tmp_path: Path, name: str, noted: bool) -> None:
    places, notes = find(tmp_path, ["images/a b.png", "images/other.png"], [name])
    assert places == ["images/a b.png"]
    assert bool(notes) == noted
    assert all(note.startswith("1 of 1 images were found by the end of their names") for note in notes)


@pytest.mark.parametrize(
    ("files", "names", "expected"),
    [
        pytest.param(["x/0.png", "y/0.png"], ["far/y/0.png"], ["y/0.png"], id="the longest end decides"),
        pytest.param(["x/0.png", "y/0.png"], ["far/0.png"], ["?"], id="two files end so"),
        pytest.param(["x/0.png"], ["a/0.png", "b/0.png"], ["?", "?"], id="two names for one file"),
        pytest.param(["images/0.png"], ["0.png", "b/0.png"], ["images/0.png", "?"], id="one name has it already"),
        pytest.param(["x/0.jpg"], ["0.png"], ["images/0.png"], id="no file: where it should lie"),
    ],
)
def test_what_is_not_clear_is_not_guessed(
    tmp_path: Path, files: list[str], names: list[str], expected: list[str]
) -> None:
    assert find(tmp_path, files, names)[0] == expected


@pytest.mark.parametrize(
    ("files", "names", "expected"),
    [
        pytest.param(["images/0.png"], ["0.jpg"], ["images/0.png"], id="converted"),
        pytest.param(["images/0.JPEG"], ["0.jpg"], ["images/0.JPEG"], id="spelled otherwise"),
        pytest.param(["images/0.png"], ["0"], ["images/0.png"], id="no suffix"),
        pytest.param(["images/v1.5.png"], ["v1.5"], ["images/v1.5.png"], id="a dot in the name"),
        pytest.param(["images/train/0.png"], ["train/0.jpg"], ["images/train/0.png"], id="in a folder"),
        pytest.param(["images/0.png"], ["C:\\data\\0.jpg"], ["images/0.png"], id="of another machine"),
        pytest.param(["images/0.png", "masks/0.png"], ["0.jpg"], ["images/0.png"], id="its mask is called so too"),
        pytest.param(["masks/0.png"], ["0.jpg"], ["images/0.jpg"], id="its mask alone"),
        pytest.param(["images/0.png", "images/0.tif"], ["0.jpg"], ["?"], id="two files"),
        pytest.param(["images/0.png"], ["0.png", "0.jpg"], ["images/0.png", "?"], id="one name has it already"),
        pytest.param(["images/0.png"], ["0.jpg", "0.bmp"], ["?", "?"], id="two names"),
        pytest.param(["images/0.txt"], ["0.jpg"], ["images/0.jpg"], id="no image"),
    ],
)
def test_an_image_with_another_suffix_is_found_where_it_should_lie(
    tmp_path: Path, files: list[str], names: list[str], expected: list[str]
) -> None:
    places, notes = find(tmp_path, files, names)
    assert places == expected
    assert len(notes) == (expected[0] in files and names[0] != expected[0].removeprefix("images/"))
