"""Every open question about GPUs in one run of a quarter of an hour, which leaves one JSON and one table.

    benchmarks/gpu/everything.sh
    python -m benchmarks.gpu.everything --json everything.json

Each step is a process of its own with a limit of time: one that fails is written down with the end of what it said, and
the next one runs. What each found is printed and written when it ends, the most telling steps first: a machine may be
taken back sooner.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from benchmarks.gpu.wanted import ENGINE, SHARE, WANTED, lines_of

CUDA: Final = "cuda f16"
"""Among the services: the engine whose rate the fastest contender's is."""
TESTS: Final = ("tests/model/network", "tests/model/runtime", "tests/service/observability")
"""Where there are tests that need a GPU."""
TAIL: Final = 6000
"""Characters of a step's output that are kept."""


@dataclass(frozen=True)
class Step:
    """A command, whose JSON, if it writes one, goes to the file that stands for FILE in it. `limit` in seconds."""

    name: str
    command: tuple[str, ...]
    limit: float


@dataclass(frozen=True)
class Done:
    """What became of a step; `status` is None if its time was over. `found` is the JSON that it left."""

    status: int | None
    seconds: float
    output: str
    found: Any


def steps(dry_run: bool) -> list[Step]:
    """What the machine must have is torch, torchvision and pydantic; a step that needs more says so by failing. A dry
    run has ten times as long for each: what takes a GPU seconds takes a processor minutes."""
    tiny = ("--device", "cpu", "--dry-run") if dry_run else ()
    training = ("--batches", "1") if dry_run else ()
    contenders: tuple[str, ...] = ("-m", "benchmarks.gpu", "--minutes", "4", "--batches", "8", "1")
    if dry_run:
        contenders = ("-m", "benchmarks.gpu", "--batches", "1", "--rounds", "1", "--only", "static eager half")
    # What a test needs may be missing, and what another torch deprecates is no failure.
    lenient = ("--continue-on-collection-errors", "-W", "ignore")
    patience = 10 if dry_run else 1
    every = [
        Step("tests", ("-m", "pytest", "-q", "-m", "gpu", *lenient, *TESTS), 120),
        Step("engine", ("-m", "benchmarks.gpu.engine", *tiny, "--json", "FILE"), 180),
        Step("precision", ("-m", "benchmarks.gpu.precision", *tiny, "--json", "FILE"), 120),
        Step("contenders", (*contenders, *tiny, "--json", "FILE"), 330),
        Step("service", ("-m", "benchmarks.gpu.served", *tiny, "--json", "FILE"), 300),
        Step("training", ("-m", "benchmarks.gpu.training", *tiny, *training, "--json", "FILE"), 240),
        Step("several", ("-m", "benchmarks.gpu.several", *tiny, "--json", "FILE"), 300),
    ]
    return [replace(step, limit=step.limit * patience) for step in every]


def do(step: Step) -> Done:
    """Runs it, in the folder that this runs in."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        command = [sys.executable, *(str(file) if word == "FILE" else word for word in step.command)]
        start = time.monotonic()
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own: what it has started must not keep the GPU
        )
        try:
            said, _ = process.communicate(timeout=step.limit)
            status: int | None = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            said, _ = process.communicate()
            status = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        seconds = time.monotonic() - start
        text = said.decode(errors="replace")
        return Done(status, seconds, text[-TAIL:], _found(file))


def _found(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):  # it wrote none, or was ended while it did
        return None


def lines_of_step(name: str, step: Done) -> list[str]:
    """How it went, and below that what it found: of the contenders their own table."""
    word = {0: "good", None: "out of time"}.get(step.status, f"failed ({step.status})")
    lines = [f"{name:12} {word:12} {step.seconds:6.1f} s"]
    said = step.output.strip().splitlines()
    if name == "contenders":
        return [*lines, *(f"    {line}" for line in said)]
    if step.status != 0:
        lines += [f"    {line[:160]}" for line in said[-1:]]
    for question, answer in (step.found or {}).items():
        verdict = {True: "good ", False: "BAD  "}.get(answer.get("good"), "")
        rest = ", ".join(f"{key} {value}" for key, value in answer.items() if key != "good")
        lines.append(f"    {verdict}{question}: {rest}")
    return lines


def summary(done: Mapping[str, Done]) -> dict[str, float]:
    """What was found of what is wanted (`wanted.WANTED`), by all steps together."""
    contenders, services = (done[name].found if name in done else None for name in ("contenders", "service"))
    comparisons = (contenders or {}).get("comparisons") or [{}]
    found: dict[str, float] = {**comparisons[0].get("details", {}).get("findings", {}).get("reached", {})}
    rate = (services or {}).get(CUDA, {}).get("images_per_second")
    found.pop(SHARE, None)  # of another engine
    return {**found, SHARE: rate / found[ENGINE]} if rate and ENGINE in found else found


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table and writes the JSON; the exit status is 1 unless every step was good."""
    names = ", ".join(step.name for step in steps(dry_run=False))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.everything")
    parser.add_argument("--dry-run", action="store_true", help="tiny, on the CPU; figures mean nothing")
    parser.add_argument("--only", nargs="+", metavar="STEP", help=f"some of: {names}")
    parser.add_argument(
        "--json", type=Path, default=Path("everything.json"), metavar="FILE", help="where it is written"
    )
    options = parser.parse_args(arguments)
    done: dict[str, Done] = {}
    for step in steps(options.dry_run):
        if options.only and step.name not in options.only:
            continue
        done[step.name] = do(step)
        left = {**{name: asdict(one) for name, one in done.items()}, "reached": summary(done), "wanted": WANTED}
        options.json.write_text(json.dumps(left, indent=2) + "\n")
        print(*lines_of_step(step.name, done[step.name]), sep="\n", flush=True)
    print(*lines_of(summary(done)), sep="\n")
    return 0 if all(one.status == 0 for one in done.values()) else 1


def _stop(number: int, frame: object) -> None:
    """On the way out the step that runs is ended, too."""
    sys.exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    sys.exit(main())
