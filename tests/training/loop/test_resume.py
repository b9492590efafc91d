"""Runs killed at any moment end where an uninterrupted run ends, to the last bit."""

import random
import time
from pathlib import Path

import pytest
import torch

from tests.training.runs import SMALL, differing, finish, last_checkpoint, training_process
from training.loop.run_log import read_metrics


def iterations_done(folder: Path) -> int:
    """Iterations whose row is in metrics.csv, which may be half written."""
    try:
        rows = (folder / "metrics.csv").read_text().splitlines()
    except FileNotFoundError:
        return 0
    return sum(",loss," in row for row in rows)


def train_with_kills(arguments: list[str], folder: Path, kill_after: tuple[int, ...], chance: random.Random) -> None:
    for iterations in kill_after:
        process = training_process(arguments)
        while process.is_alive() and iterations_done(folder) < iterations:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.3))
        process.kill()
        process.join()
        assert process.exitcode == -9, "it ended before it was killed"
    finish(training_process(arguments))


@pytest.mark.parametrize(
    ("flags", "kill_after"),
    [
        pytest.param(["--schedule.iterations=20", "--checkpoint_every=3"], (2, 12), id="plain"),
        pytest.param(
            [
                "--schedule.iterations=6",
                "--checkpoint_every=2",
                "--validation.every=3",
                "--validation.loss=true",
                "--ema=0.9",
                "--accumulate=2",
                "--workers=1",
                "--optimizer.name=adamw",
                "--optimizer.clip_norm=1",
            ],
            (4,),
            id="average, passes, loader process, AdamW",
        ),
    ],
)
def test_a_killed_run_ends_with_the_same_weights(
    flags: list[str], kill_after: tuple[int, ...], shapes: Path, tmp_path: Path
) -> None:
    arguments = [*SMALL, *flags, f"--data={shapes}"]
    finish(training_process([*arguments, f"--output={tmp_path / 'whole'}"]))
    seed = random.randrange(1000)
    folder = tmp_path / "killed"
    train_with_kills([*arguments, f"--output={folder}"], folder, kill_after, random.Random(seed))

    killed, whole = last_checkpoint(folder), last_checkpoint(tmp_path / "whole")
    assert differing(killed.model, whole.model) == [], f"seed {seed}"
    assert (killed.ema is None) == (whole.ema is None) == ("--ema=0.9" not in flags)
    if killed.ema is not None and whole.ema is not None:
        assert differing(killed.ema, whole.ema) == []
        assert differing(killed.ema, killed.model) != []
    for number, state in whole.optimizer["state"].items():
        for name, value in state.items():
            assert torch.equal(killed.optimizer["state"][number][name], value), name
    assert (killed.best, killed.without_gain) == (whole.best, whole.without_gain)
    assert (killed.scheduler, killed.scaler) == (whole.scheduler, whole.scaler)
    assert read_metrics(folder / "metrics.csv")["loss"] == read_metrics(tmp_path / "whole" / "metrics.csv")["loss"]
