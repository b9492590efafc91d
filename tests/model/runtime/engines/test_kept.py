"""What is kept is found again as it was, by nothing else than its own key, and a bad folder costs a line in the log."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from model.runtime.engines import kept

KEY = kept.key_of(["model", "release"])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kept._tell.cache_clear()
    return tmp_path / "cache" / "maskserve" / "networks"


def test_what_is_kept_is_found_and_nobody_else_may_read_it(folder: Path) -> None:
    assert kept.find(KEY) is None
    kept.keep(KEY, b"network")
    assert kept.find(KEY) == b"network"
    kept.keep(KEY, memoryview(b"another"))
    assert kept.find(KEY) == b"another"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [file.stat().st_mode & 0o777 for file in folder.iterdir()] == [0o600]


def test_a_key_stands_for_its_parts_and_their_places() -> None:
    assert len({kept.key_of(parts) for parts in (["a", "b"], ["b", "a"], ["ab"], ["a", "", "b"], ["a"], [])}) == 6


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(flip, id="a bit"),
        pytest.param(lambda file: file.write_bytes(file.read_bytes()[:-1]), id="cut short"),
        pytest.param(lambda file: file.write_bytes(b""), id="empty"),
        pytest.param(lambda file: file.write_bytes(file.read_bytes() + b"x"), id="longer"),
    ],
)
def test_a_damaged_file_is_not_used_and_replaced(
    folder: Path, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    kept.keep(KEY, b"network")
    damage(folder / KEY)
    assert kept.find(KEY) is None
    assert f"compiled anew: {folder / KEY} is damaged" in caplog.text
    kept.keep(KEY, b"network")
    assert kept.find(KEY) == b"network"


def test_a_folder_that_others_could_write_is_not_used(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept.keep(KEY, b"network")
    folder.chmod(0o770)
    for _ in range(2):
        assert kept.find(KEY) is None
        kept.keep(KEY, b"other")
    assert caplog.text.count("is open to others; chmod 700 it") == 1
    folder.chmod(0o700)
    assert kept.find(KEY) == b"network"


def test_a_link_in_the_folders_place_is_not_followed(folder: Path, tmp_path: Path) -> None:
    folder.parent.mkdir(parents=True)
    (tmp_path / "theirs").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "theirs")
    kept.keep(KEY, b"network")
    assert not list((tmp_path / "theirs").iterdir())


def test_where_no_folder_can_be_made_nothing_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").write_bytes(b"a file")
    kept.keep(KEY, b"network")
    assert kept.find(KEY) is None
    assert caplog.text.count("compiled anew: ") == 1


def test_a_full_disk_leaves_nothing_half_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(old: str, new: str) -> None:
        raise OSError(28, "No space left on device", old)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        kept.keep(KEY, b"network")
    assert "No space left on device" in caplog.text
    assert not list(folder.iterdir())


def test_what_was_not_used_for_longest_goes(folder: Path) -> None:
    keys = [kept.key_of([str(number)]) for number in range(kept.MOST_FILES + 1)]
    for age, key in enumerate(keys[:-1]):
        kept.keep(key, b"network")
        os.utime(folder / key, (1000 + age, 1000 + age))
    assert kept.find(keys[0]) is not None  # which makes it the newest
    kept.keep(keys[-1], b"network")
    there = {file.name for file in folder.iterdir()}
    assert there == set(keys) - {keys[1]}
