"""Images that only decoding shows to be damaged: one verdict wherever data are read."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.training.runs import LIGHT
from training import evaluate, export, train
from training.checkpoint import load_checkpoint
from training.data import check, convert

Command = Callable[[Path, Path, Path], tuple[Callable[[Sequence[str] | None], int], list[str]]]
"""A command and its arguments, of the data, a finished run and a folder to write to."""

TRUNCATED = "cannot be decoded"


def cut(file: Path) -> str:
    """Takes the end of an image away, which its header does not show; its name."""
    file.write_bytes(file.read_bytes()[: -file.stat().st_size // 3])
    return file.name


def image_of(folder: Path, split: str, number: int = 0) -> Path:
    return sorted(folder.glob(f"images/{split}*"))[number]


def evaluation(data: Path, run: Path, _: Path) -> tuple[Callable[[Sequence[str] | None], int], list[str]]:
    return evaluate.main, [f"--model={run / 'checkpoints/best.pt'}", f"--data={data}", "--threads=1"]


def conversion(data: Path, _: Path, target: Path) -> tuple[Callable[[Sequence[str] | None], int], list[str]]:
    return convert.main, [str(data), str(target / "converted"), "--to=yolo"]


def exporting(data: Path, run: Path, target: Path) -> tuple[Callable[[Sequence[str] | None], int], list[str]]:
    return export.main, [
        f"--checkpoint={run / 'checkpoints/best.pt'}",
        f"--data={data}",
        f"--output={target / 'models'}",
        *("--references=none", "--without", "torchscript", "weights", "f16"),
    ]


def training(data: Path, _: Path, target: Path) -> tuple[Callable[[Sequence[str] | None], int], list[str]]:
    return train.main, [
        *LIGHT,
        f"--data={data}",
        f"--output={target / 'run'}",
        "--schedule.iterations=1",
        "--publish=false",
    ]


@pytest.fixture
def damaged(shapes: Path, tmp_path: Path) -> Path:
    """The dataset with a truncated image to validate on."""
    shutil.copytree(shapes, tmp_path / "damaged")
    cut(image_of(tmp_path / "damaged", "val"))
    return tmp_path / "damaged"


@pytest.mark.parametrize("command", [evaluation, conversion, exporting, training])
def test_refused_at_the_start_or_left_out(
    command: Command, damaged: Path, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = image_of(damaged, "val").name
    main, arguments = command(damaged, finished_run, tmp_path)
    try:
        status = main(arguments)
    except SystemExit as stopped:
        status = int(str(stopped.code))
    printed = capsys.readouterr().err
    assert status in (1, 2)
    assert name in printed
    assert TRUNCATED in printed
    assert "--on_broken skip" in printed
    assert not (tmp_path / "run/checkpoints").exists()

    assert main([*arguments, "--on_broken=skip"]) == 0
    captured = capsys.readouterr()
    assert re.search(rf"1 broken record\b[\s\S]*{name}[\s\S]*{TRUNCATED}", captured.err + captured.out)


def test_the_check_names_it(damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main([str(damaged)]) == 1
    assert TRUNCATED in capsys.readouterr().out


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_to_train_on_ends_the_run_after_a_checkpoint_or_is_left_out(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    shutil.copytree(shapes, tmp_path / "data")
    order = np.random.default_rng([0, 0]).permutation(8)  # of the first epoch
    names = [cut(image_of(tmp_path / "data", "train", number)) for number in order[[2, 7]]]
    arguments = [*LIGHT, f"--data={tmp_path / 'data'}", f"--output={tmp_path / 'run'}", "--checkpoint_every=100"]
    arguments += ["--validation.every=0", "--publish=false", f"--workers={workers}", "--schedule.iterations=5"]
    assert train.main(arguments) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert names[0] in error
    assert "--on_broken skip" in error
    assert load_checkpoint(tmp_path / "run/checkpoints/last.pt").iteration == 1

    assert train.main([*arguments, "--on_broken=skip"]) == 0
    printed = capsys.readouterr().err
    assert "resuming after 1 iterations" in printed
    for name in names:
        assert printed.count(name) == 1, "each is named once, in the epoch where it comes first"
    assert load_checkpoint(tmp_path / "run/checkpoints/last.pt").iteration == 5
