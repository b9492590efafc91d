"""Runs killed at any moment end where an uninterrupted run ends, to the last bit."""

import random
import time
from pathlib import Path

import pytest

from tests.training.runs import LIGHT, differing, differing_ends, finish, last_checkpoint, training_process


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
    arguments = [*LIGHT, *flags, f"--data={shapes}"]
    finish(training_process([*arguments, f"--output={tmp_path / 'whole'}"]))
    seed = random.randrange(1000)
    folder = tmp_path / "killed"
    train_with_kills([*arguments, f"--output={folder}"], folder, kill_after, random.Random(seed))

    assert differing_ends(folder, tmp_path / "whole") == [], f"seed {seed}"
    average = last_checkpoint(folder).ema
    assert (average is None) == ("--ema=0.9" not in flags)
    assert average is None or differing(average, last_checkpoint(folder).model) != []
