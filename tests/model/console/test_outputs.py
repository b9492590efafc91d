"""What commands write: not over what they read, and whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from model.console.outputs import overwritten, why_unwritable, write_whole


@pytest.mark.parametrize(
    ("place", "folder", "why"),
    [
        pytest.param("new", True, "", id="a folder that is not there yet"),
        pytest.param("new/below/it.json", False, "", id="a file in folders that are not there yet"),
        pytest.param("file", False, "", id="a file that is there"),
        pytest.param("there", True, "", id="a folder that is there"),
        pytest.param("file", True, "is a file", id="a file where a folder should be"),
        pytest.param("there", False, "is a folder", id="a folder where a file should be"),
        pytest.param("file/below", True, "cannot be written: Not a directory", id="below a file"),
        pytest.param("/proc/nothing", True, "cannot be written: ", id="a file system that takes nothing"),
        pytest.param("x" * 300, False, "cannot be written: File name too long", id="no name"),
    ],
)
def test_what_cannot_be_written_is_told_before_the_work(place: str, folder: bool, why: str, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("kept")
    said = why_unwritable(tmp_path / place, folder=folder)
    assert why in said
    assert bool(said) == bool(why)
    assert sorted(os.listdir(tmp_path)) == ["file", "there"], "nothing is left behind"
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize(
    ("output", "lost"),
    [
        pytest.param("a.png", "--output would overwrite {here}/a.png, which is read", id="the file itself"),
        pytest.param("data/../a.png", "--output would overwrite {here}/a.png", id="by another path"),
        pytest.param("symbolic", "--output would overwrite {here}/a.png", id="by a symbolic link"),
        pytest.param("hard", "--output would overwrite {here}/a.png", id="by a hard link"),
        pytest.param("data/b.txt", "--output would overwrite {here}/data/b.txt in {here}/data", id="in a folder"),
        pytest.param("data/more/c.xml", "--output would overwrite {here}/data/more/c.xml", id="below a folder"),
        pytest.param("there/b.txt", "--output would overwrite {here}/there/b.txt", id="by a link to the folder"),
        pytest.param("data/new.json", "", id="a new file in the folder"),
        pytest.param("other.json", "", id="a file that is not read"),
        pytest.param("/dev/null", "", id="what is no file"),
    ],
)
def test_an_output_is_no_input(output: str, lost: str, tmp_path: Path) -> None:
    (tmp_path / "data" / "more").mkdir(parents=True)
    for name in ("a.png", "other.json", "data/b.txt", "data/more/c.xml"):
        (tmp_path / name).write_text(name)
    (tmp_path / "symbolic").symlink_to("a.png")
    (tmp_path / "there").symlink_to("data")
    os.link(tmp_path / "a.png", tmp_path / "hard")
    said = overwritten([("--output", tmp_path / output)], [tmp_path / "missing", tmp_path / "a.png", tmp_path / "data"])
    assert said.startswith(lost.format(here=tmp_path)) if lost else not said


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        pytest.param("a.json", "a.json", True, id="one name"),
        pytest.param("a.json", "x/../a.json", True, id="two paths"),
        pytest.param("a.json", "link.json", True, id="a link to what is not there yet"),
        pytest.param("old.json", "hard.json", True, id="two links to one file"),
        pytest.param("new.json", "New.json", True, id="one file where case does not tell"),
        pytest.param("a.json", "b.json", False, id="two files"),
        pytest.param("/dev/null", "/dev/null", False, id="nothing is kept"),
    ],
)
def test_two_outputs_are_two_files(first: str, second: str, same: bool, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "link.json").symlink_to("a.json")
    (tmp_path / "old.json").touch()
    os.link(tmp_path / "old.json", tmp_path / "hard.json")
    said = overwritten([("--json", tmp_path / first), ("--sheet", tmp_path / second)], [])
    assert said.startswith("--sheet and --json are one file, ") == same
    assert bool(said) == same


def test_a_file_is_written_whole_or_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "new" / "a", b"first")
    (tmp_path / "link").symlink_to("new/a")
    write_whole(tmp_path / "link", b"second")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "new" / "a").read_bytes() == b"second"
    write_whole(Path("/dev/null"), b"nothing is kept")

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:2])
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "new" / "a", b"third")
    assert os.listdir(tmp_path / "new") == ["a"]
    assert (tmp_path / "new" / "a").read_bytes() == b"second"
