"""What a run leaves for people: a live display, metrics.csv, TensorBoard events."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

SMOOTHING = 0.95
"""Share of the old value in the displayed loss's running mean."""


class RunLog:
    """Use as a context manager; `step` once an iteration, `validation` after each evaluation.

    On a terminal a progress bar is live; elsewhere a plain line is printed at every `every` iterations.
    """

    def __init__(self, folder: Path, iterations: int, start: int, every: int) -> None:
        self.console = Console(stderr=True)
        self.every, self.iterations = every, iterations
        self.csv_path = folder / "metrics.csv"
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start)
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._progress.add_task("training", total=iterations, completed=start, figures="")
        self._smooth: float | None = None
        self._sums: dict[str, float] = {}
        self._count = 0
        self._since = time.perf_counter()
        _drop_rows_after(self.csv_path, start)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        self._board.close()

    def say(self, message: str) -> None:
        """A line above the progress bar."""
        self.console.print(message, highlight=False, soft_wrap=True)

    def step(self, iteration: int, figures: Mapping[str, float]) -> None:
        """Figures of one finished iteration (counted from 1): losses, rate, waiting time."""
        loss = figures["loss"]
        self._smooth = loss if self._smooth is None else SMOOTHING * self._smooth + (1 - SMOOTHING) * loss
        for name, value in figures.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        self._progress.update(self._task, completed=iteration, figures=f"loss {self._smooth:.3f}")
        if iteration % self.every and iteration != self.iterations:
            return
        means = {name: value / self._count for name, value in self._sums.items()}
        means["seconds"] = (time.perf_counter() - self._since) / self._count
        self._write(iteration, means)
        if not self.console.is_terminal:
            self.say(
                f"{iteration:>7}/{self.iterations}  loss {means['loss']:.4f}  {means['seconds']:.2f} s an iteration"
            )
        self._sums, self._count, self._since = {}, 0, time.perf_counter()

    def validation(self, iteration: int, figures: Mapping[str, float]) -> None:
        """Figures measured on the validation split after `iteration` iterations."""
        self._write(iteration, {f"val/{name}": value for name, value in figures.items()})
        self.say(f"{iteration:>7}/{self.iterations}  " + "  ".join(f"{k} {v:.4f}" for k, v in figures.items()))
        self._since = time.perf_counter()

    def _write(self, iteration: int, figures: Mapping[str, float]) -> None:
        """metrics.csv is long-form (iteration, name, value): columns never change while a run grows."""
        new = not self.csv_path.exists()
        with self.csv_path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["iteration", "name", "value"])
            for name, value in figures.items():
                writer.writerow([iteration, name, f"{value:.6g}"])
                self._board.add_scalar(name, value, iteration)


def read_metrics(path: Path) -> dict[str, list[tuple[int, float]]]:
    """metrics.csv as curves: name -> [(iteration, value), ...]."""
    curves: dict[str, list[tuple[int, float]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            curves.setdefault(row["name"], []).append((int(row["iteration"]), float(row["value"])))
    return curves


def _drop_rows_after(path: Path, start: int) -> None:
    """A resumed run repeats the iterations since its checkpoint; their old rows go."""
    if not path.exists():
        return
    with path.open(newline="") as file:
        header, *rows = list(csv.reader(file))
    kept = [row for row in rows if int(row[0]) <= start]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *kept])
