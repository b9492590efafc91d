"""A training that is killed at random moments, again and again, ends as one that never was, to the last bit.

    python -m tests.resilience.kills --moments 25            # a line for each run that was resumed to its end
    python -m tests.resilience.kills --moments 1 --seed 7    # other moments

The network is that of tests/training/loop/test_resume.py, which is the short form of this.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.training.runs import SMALL, differing_ends, finish, last_checkpoint, training_process
from training.checkpoint import load_last
from training.data.shapes import write_shapes

FLAGS = (
    *SMALL,
    "--schedule.iterations=16",
    "--checkpoint_every=2",
    "--validation.every=8",
    "--validation.loss=true",
    "--ema=0.9",
)


def killed_run(arguments: list[str], folder: Path, moments: int, longest: float, chance: random.Random) -> int:
    """Trains in `folder` to the end, killed up to so many times; how often it was.

    After each kill the newest checkpoint, or the one before it, can be read, and none is older than before.
    """
    reached = 0
    for killed in range(moments):
        process = training_process([*arguments, f"--output={folder}"])
        process.join(chance.uniform(0, longest))
        if not process.is_alive():
            finish(process)
            return killed
        process.kill()
        process.join()
        checkpoint = load_last(folder / "checkpoints")
        iteration = 0 if checkpoint is None else checkpoint.iteration
        if iteration < reached:
            raise AssertionError(f"after iteration {reached} there is a checkpoint of {iteration} alone")
        reached = iteration
    finish(training_process([*arguments, f"--output={folder}"]))
    return moments


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="maskserve-kills-") as place:
        data = Path(place) / "shapes"
        write_shapes(data, train=8, val=4, seed=0)
        arguments, whole = [*FLAGS, f"--data={data}"], Path(place) / "whole"
        finish(training_process([], program=""))  # whoever is first waits for all imports
        began = time.monotonic()
        finish(training_process([*arguments, f"--output={whole}"]))
        longest = time.monotonic() - began
        left, findings = options.moments, 0
        while left:
            with tempfile.TemporaryDirectory(dir=place) as folder:
                killed = killed_run(arguments, Path(folder) / "run", min(left, 5), longest, chance)
                left -= killed
                differing = differing_ends(Path(folder) / "run", whole)
                done = last_checkpoint(Path(folder) / "run").iteration
            findings += bool(differing)
            print(f"killed {killed} times, {done} iterations: {', '.join(differing) or 'the same'}", flush=True)
    print(f"{options.moments} moments in runs of {longest:.1f} s; {findings} ended otherwise")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
