"""Our training loop beside one written as torchvision's references are: same model, data, batch and threads.

    python -m benchmarks.training --data COCO                         R50-FPN, 800 to 1333 pixels, fp32
    python -m benchmarks.training --data COCO --min_size 320 --max_size 533 --amp bf16
    python -m benchmarks.training --data COCO --device cuda --amp fp16 --batch 8 --workers 8 --steps 20

Each loop is a process with loader processes of its own. They take turns; the one whose turn it isn't is stopped, with
its loaders, so that it can't prepare batches at the other's expense.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.measure import alternate, table, write_json
from benchmarks.training.loops import LOOPS, Turn
from training.data.annotations.dataset import DatasetError
from training.data.formats.coco.layouts import find_splits
from training.distributed import require_device

PACKAGES = ("torch", "torchvision", "pycocotools")


class Loop:
    """One loop's process."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        numbers = (options.batch, options.min_size, options.max_size, options.workers)
        command = [sys.executable, "-m", "benchmarks.training.loops", name, str(options.data), *map(str, numbers)]
        self._process = subprocess.Popen(
            [*command, options.amp, options.device, "dry-run" if options.dry_run else "full"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a group of its own, which can be stopped as a whole
        )
        self.name = name
        self.turns: list[Turn] = []

    def run(self, steps: int) -> Turn:
        """Lets it do `steps` steps. Raises RuntimeError when it has ended instead."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._signal(signal.SIGCONT)
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the {self.name} loop ended: its message is above")
        self._signal(signal.SIGSTOP)
        self.turns.append(Turn(**json.loads(answer)))
        return self.turns[-1]

    def close(self) -> None:
        """Ends it and its loaders."""
        if self._process.poll() is None:
            self._signal(signal.SIGKILL)
        self._process.communicate()

    def _signal(self, number: signal.Signals) -> None:
        os.killpg(self._process.pid, number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints and writes the comparison; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        require_device(options.device)
        find_splits(options.data, "masks")
    except (DatasetError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    loops = {name: Loop(name, options) for name in LOOPS}
    try:
        # First steps start the loaders and allocate memory.
        pids = [pid for loop in loops.values() for pid in loop.run(options.steps).pids]
        for loop in loops.values():
            loop.turns.clear()
        comparison = alternate(
            {name: partial(loop.run, options.steps) for name, loop in loops.items()},
            reference="torchvision",
            rounds=options.rounds,
            warmup=0,
            pids=pids,
            details={"settings": {name: str(value) for name, value in vars(options).items()}, "loops": {}},
        )
    finally:
        for loop in loops.values():
            loop.close()
    for name, loop in loops.items():
        rates, last = [turn.images / turn.seconds for turn in loop.turns], loop.turns[-1]
        comparison.details["loops"][name] = figures = {
            "images_per_second": statistics.median(rates),
            "share_waiting_for_data": sum(t.waiting for t in loop.turns) / sum(t.seconds for t in loop.turns),
            "peak_memory_bytes": last.peak_memory,
            "peak_device_memory_bytes": last.peak_device_memory,
            "mean_loss": statistics.mean(turn.loss for turn in loop.turns),
        }
        print(
            f"{name:12} {figures['images_per_second']:.3f} images/s, "
            f"waiting for data {figures['share_waiting_for_data']:.1%} of the time, "
            f"peak memory {last.peak_memory / 2**20:.0f} MiB"
            + ("" if last.peak_device_memory is None else f", of the GPU {last.peak_device_memory / 2**20:.0f} MiB")
        )
    print(table(comparison))
    if options.json is not None:
        write_json(options.json, comparison, packages=PACKAGES)
    return 0 if comparison.valid else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="COCO folder")
    parser.add_argument("--batch", type=int, default=2, help="images a step")
    parser.add_argument("--min_size", type=int, default=800, help="shorter side of the network input")
    parser.add_argument("--max_size", type=int, default=1333, help="longest side of the network input")
    parser.add_argument("--workers", type=int, default=1, help="loader processes of each loop")
    parser.add_argument("--amp", choices=("none", "bf16", "fp16"), default="none", help="precision of both")
    parser.add_argument("--device", default="cpu", help="of both loops: cpu, cuda or cuda:N")
    parser.add_argument("--dry-run", action="store_true", help="a narrow network: that it runs, and not how fast")
    parser.add_argument("--steps", type=int, default=2, help="optimizer steps a turn")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each loop")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the figures here too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
