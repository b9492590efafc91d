"""Killed at any moment and started again: each image once, nothing computed twice, the bytes of an undisturbed run."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.service.harness import encode, picture, until
from tests.service.holding import HOLD, PASS
from tests.service.predict_many.running import content, predict, rows, start

SHARD = 2


@pytest.fixture
def holding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where images are let through the engine one by one."""
    folder = tmp_path_factory.mktemp("holding")
    (folder / HOLD).touch()
    return folder


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 images that stay on the engine until they may pass, one of them broken."""
    folder = tmp_path_factory.mktemp("held")
    for seed in range(40):
        (folder / f"{seed:02}.png").write_bytes(encode(picture(seed, held=True)))
    (folder / "17.png").write_bytes(b"broken")
    return folder


@pytest.fixture(scope="module")
def undisturbed(repository: Path, held: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert predict(repository, held, "--output", folder, "--shard-size", SHARD) == 1
    return content(folder)


def parts(folder: Path) -> dict[str, tuple[int, int]]:
    """Which file each finished part is, and when it was written."""
    found = ((file, file.stat()) for file in (folder / "_parts").glob("part-*"))
    return {file.name: (status.st_ino, status.st_mtime_ns) for file, status in found}


def let_through(holding: Path, folder: Path, count: int) -> None:
    """One image after the other, until so many parts are there."""

    def are_there() -> bool:
        (holding / PASS).touch()
        return len(parts(folder)) >= count

    until(are_there)


def test_killed_and_started_again(
    repository: Path,
    held: Path,
    undisturbed: dict[str, bytes],
    holding: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    generator = random.Random(0)
    kept: dict[str, tuple[int, int]] = {}
    for _ in range(3):
        process = start(repository, held, "--output", tmp_path, "--shard-size", SHARD, holding=holding)
        let_through(holding, tmp_path, len(kept) + generator.randint(1, 4))
        if not kept:
            assert predict(repository, held, "--output", tmp_path, "--quiet") == 2
            assert "another predict-many writes into" in capsys.readouterr().err
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        now = parts(tmp_path)
        assert kept.items() < now.items()
        kept = now
    assert predict(repository, held, "--output", tmp_path) == 1
    assert kept.items() < parts(tmp_path).items()
    assert content(tmp_path) == undisturbed
    shards = sorted((tmp_path / "_parts").iterdir())
    assert [row["image_id"] for file in shards for row in rows(file)] == list(range(1, 41))


def test_interrupted(
    repository: Path, held: Path, undisturbed: dict[str, bytes], holding: Path, tmp_path: Path
) -> None:
    process = start(repository, held, "--output", tmp_path, "--shard-size", SHARD, "--quiet", holding=holding)
    let_through(holding, tmp_path, 3)
    process.send_signal(signal.SIGINT)

    def has_ended() -> bool:
        (holding / PASS).touch()  # one image after the other: all at once might be done before it hears of the signal
        return process.poll() is not None

    until(has_ended)
    _, said = process.communicate()
    (holding / HOLD).unlink()
    assert process.returncode == 130
    assert said == "maskserve: interrupted; the same command goes on from what is finished\n"
    assert not [name for name in content(tmp_path) if "partial" in name]
    assert predict(repository, held, "--output", tmp_path) == 1
    assert content(tmp_path) == undisturbed


def test_an_engine_that_hangs_ends_the_run_and_the_images_keep_their_chance(
    repository: Path, held: Path, undisturbed: dict[str, bytes], holding: Path, tmp_path: Path
) -> None:
    """It computes nothing more, and every image after it would be a row with an error, and kept."""
    words = (held, "--output", tmp_path, "--shard-size", SHARD, "--quiet")
    process = start(repository, *words, "--engine-stall-ms", 500, holding=holding)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 3, said
    (line,) = said.splitlines()
    assert line.startswith(f"maskserve: the engine has not ended a run in 0.5 s, at {held}/")
    assert line.endswith("; the same command goes on from what is finished")
    assert not parts(tmp_path)
    (holding / HOLD).unlink()
    assert predict(repository, *words) == 1
    assert content(tmp_path) == undisturbed
