"""A real disk that is full: a small one in memory, which the process that mounts it alone sees."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import torch

from training.checkpoint import Checkpoint, CheckpointError, load_last, save_checkpoint, save_last
from training.config import TrainConfig, save_config
from training.data.hold_out import HeldOut
from training.loop.pictures import draw_curves
from training.loop.run_log import RunLog, read_metrics
from training.train import main

CLONE_NEWNS: Final = 0x00020000
"""Of unshare(2): a mount namespace of its own, which ends with the process."""


class NotPermitted(Exception):
    """This process may not mount anything; the message is the system's."""


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[None]:
    """An empty disk of `size` bytes at `place`, in a namespace that this process gets for it. Raises NotPermitted."""
    system = ctypes.CDLL(None, use_errno=True)
    if system.unshare(CLONE_NEWNS) != 0:
        raise NotPermitted(f"unshare: {os.strerror(ctypes.get_errno())}")
    for words in (["--make-rprivate", "/"], ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]):
        done = subprocess.run(["mount", *words], capture_output=True, text=True)
        if done.returncode != 0:
            raise NotPermitted(done.stderr.strip())
    yield
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@contextmanager
def full(place: Path) -> Iterator[None]:
    """Inside the block there is no block left on the disk at `place`."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(1 << 16)):
            pass
    yield
    filler.unlink()


@dataclass(frozen=True)
class Outcome:
    """Of one file. said: the error. whole: whether all that was there before can be read as before. left: what is new.
    again: whether the same succeeds once there is room."""

    said: str
    whole: bool
    left: list[str]
    again: bool


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def attempt(disk: Path, folder: Path, first: Callable[[], object], then: Callable[[], object]) -> Outcome:
    """Does `first` with room, `then` without, and `then` once more with room."""
    first()
    before = contents(folder)
    said = ""
    with full(disk):
        try:
            then()
        except (OSError, CheckpointError) as error:
            said = str(error)
        after = contents(folder)
    then()
    left = sorted(after.keys() - before.keys())
    return Outcome(said, all(after[name] == content for name, content in before.items()), left, again=True)


def outcomes(disk: Path) -> dict[str, Outcome]:
    """What became of each file that a run writes, in a folder of its own on the disk."""
    small = Checkpoint(1, {}, ("a",), (), {"weight": torch.ones(2)}, {}, {}, {}, 0.5)
    large = replace(small, iteration=2, model={"weight": torch.ones(100_000)})
    found = {}
    for name in ("last.pt", "best.pt", "config.yaml", "split.json", "curves.png"):
        (folder := disk / name).mkdir()
        file = folder / name
        writers: dict[str, Callable[[int], object]] = {
            "last.pt": lambda time, folder=folder: save_last(large if time else small, folder),
            "best.pt": lambda time, file=file: save_checkpoint(large if time else small, file),
            "config.yaml": lambda time, file=file: save_config(TrainConfig(seed=time), file),
            "split.json": lambda time, folder=folder: HeldOut(0.2, time, "", ()).save(folder),
            "curves.png": lambda time, folder=folder, file=file: _curves(time, folder, file),
        }
        write = writers[name]
        found[name] = attempt(disk, folder, lambda write=write: write(0), lambda write=write: write(1))
    found["metrics.csv"] = figures(disk, "metrics.csv")
    found["tensorboard"] = figures(disk, "tensorboard")
    found["metrics.csv, resumed"] = resumed_figures(disk)
    assert (checkpoint := load_last(disk / "last.pt")) is not None
    assert checkpoint.iteration == 2
    return found


def _curves(time: int, folder: Path, file: Path) -> None:
    rows = [f"{iteration},loss,{1 + time / iteration}" for iteration in range(1, 5)]
    metrics = folder.parent.parent / "metrics.csv"  # beside the disk
    metrics.write_text("\n".join(["iteration,name,value", *rows, ""]))
    draw_curves(metrics, file)


def figures(disk: Path, part: str) -> Outcome:
    """A log whose `part`, metrics.csv or tensorboard, is on the disk, and the other beside it: figures until there is
    no room for them."""
    (folder := disk / f"log of {part}").mkdir()
    other = "tensorboard" if part == "metrics.csv" else "metrics.csv"
    elsewhere = Path(tempfile.mkdtemp(dir=disk.parent))
    (folder / other).symlink_to(elsewhere if other == "tensorboard" else elsewhere / other)
    said, step = "", 1
    with RunLog(folder, 10_000, 0, every=1) as log:
        log.step(step, {"loss": 1.0})
        with full(disk):
            try:
                while step < 10_000:
                    step += 1
                    log.step(step, {"loss": float(step)})
            except OSError as error:
                said = str(error)
            curve = read_metrics(folder / "metrics.csv")["loss"]
    # What was to be written when the room ended may be there or not.
    whole = curve[: step - 1] == [(number, float(number)) for number in range(1, step)]
    with RunLog(folder, 10_000, step - 1, every=1) as log:
        log.step(step, {"loss": 7.0})
    again = read_metrics(folder / "metrics.csv")["loss"] == [*curve[: step - 1], (step, 7.0)]
    return Outcome(said, whole, [], again)


def resumed_figures(disk: Path) -> Outcome:
    """A log that is opened again on a full disk, to leave out what comes after a checkpoint."""
    (folder := disk / "resumed").mkdir()

    def first() -> None:
        with RunLog(folder, 9, 0, every=1) as log:
            for iteration in (1, 2, 3):
                log.step(iteration, {"loss": 1.0})

    def then() -> None:
        with RunLog(folder, 9, 2, every=1):
            pass

    return attempt(disk, folder, first, then)


def write_outcomes(place: Path) -> None:
    """Leaves `outcomes` in `place`/outcomes.json, or the reason why there are none as text in `place`/reason."""
    (disk := place / "disk").mkdir()
    try:
        with small_disk(disk, 8 << 20):
            found = {name: asdict(outcome) for name, outcome in outcomes(disk).items()}
    except NotPermitted as reason:
        (place / "reason").write_text(str(reason))
    else:
        (place / "outcomes.json").write_text(json.dumps(found))


def train_into(place: Path, arguments: list[str], size: int) -> None:
    """Trains on a disk of `size` bytes, then on with room for all. What it says is in `place`/said, what is left after
    each start in `place`/full and `place`/whole."""
    (disk := place / "disk").mkdir()
    with small_disk(disk, size), (place / "said").open("w") as said, redirect_stderr(said):
        run = disk / "run"
        statuses = [main([*arguments, f"--output={run}"])]
        shutil.copytree(run, place / "full")
        subprocess.run(["mount", "-o", f"remount,size={4 * size}", str(disk)], check=True)
        statuses.append(main([*arguments, f"--output={run}"]))
        shutil.copytree(run, place / "whole")
        print(f"ended with {statuses}", file=said)
