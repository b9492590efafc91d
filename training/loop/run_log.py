"""What a run leaves for people: a live display, metrics.csv, TensorBoard events."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from types import TracebackType
from typing import Self

from model.runtime.bundles.bundle import Bundle
from model.runtime.bundles.writing import naming, replace_file
from training.loop.board import Board
from training.loop.trackers import BackgroundTracker, Tracker, run_pictures
from training.progress import Display, duration

SMOOTHING = 0.95
"""Share of the old value in the displayed loss's running mean."""


class RunLog:
    """Use as a context manager; `step` once an iteration, `validation` after each evaluation, `published` at the end.

    Raises OSError, which names the file, where one cannot be written: what it held before can still be read.

    On a terminal a progress bar is live; elsewhere a plain line is printed at every `every` iterations. `trackers` get
    what metrics.csv gets; a run that ends without `published` has failed for them.
    """

    def __init__(self, folder: Path, iterations: int, start: int, every: int, trackers: Sequence[Tracker] = ()) -> None:
        self.display = Display()
        self.every, self.iterations = every, iterations
        self.folder = folder
        self.csv_path = folder / "metrics.csv"
        _drop_rows_after(self.csv_path, start)
        self._board = Board(folder / "tensorboard", start)
        self._task = self.display.live.add_task("training", total=iterations, completed=start, figures="")
        self._smooth: float | None = None
        self._sums: dict[str, float] = {}
        self._count = 0
        self._since = time.perf_counter()
        self._succeeded = False
        self._trackers = [BackgroundTracker(tracker, self.say) for tracker in trackers]

    def __enter__(self) -> Self:
        self.display.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.display.__exit__(kind, error, trace)
        self._board.close()
        for tracker in self._trackers:
            tracker.finish(self._succeeded)

    def say(self, message: str) -> None:
        """A line above the progress bar."""
        self.display.say(message)

    def step(self, iteration: int, figures: Mapping[str, float]) -> None:
        """Figures of one finished iteration (counted from 1): losses, rate, waiting time."""
        loss = figures["loss"]
        self._smooth = loss if self._smooth is None else SMOOTHING * self._smooth + (1 - SMOOTHING) * loss
        for name, value in figures.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        self.display.live.update(self._task, completed=iteration, figures=f"loss {self._smooth:.3f}")
        if iteration % self.every and iteration != self.iterations:
            return
        means = {name: value / self._count for name, value in self._sums.items()}
        means["seconds"] = (time.perf_counter() - self._since) / self._count
        self._write(iteration, means)
        if self.display.plain:
            waiting = f", {means['waiting_share']:.0%} waiting for data" if "waiting_share" in means else ""
            self.say(
                f"{iteration:>7}/{self.iterations}  loss {means['loss']:.4f}  "
                f"{means['seconds']:.2f} s an iteration{waiting}, "
                f"{duration(means['seconds'] * (self.iterations - iteration))} left"
            )
        self._sums, self._count, self._since = {}, 0, time.perf_counter()

    def validation(self, iteration: int, figures: Mapping[str, float]) -> None:
        """Figures measured on the validation split after `iteration` iterations."""
        self._write(iteration, {f"val/{name}": value for name, value in figures.items()})
        self.say(f"{iteration:>7}/{self.iterations}  " + "  ".join(f"{k} {v:.4f}" for k, v in figures.items()))
        self._since = time.perf_counter()

    def completed(self) -> None:
        """The run ended as it should, without publishing anything."""
        self._succeeded = True

    def published(self, bundle: Bundle) -> None:
        """The run's result: trackers get the bundle's place and AP, the curves and the newest sample pictures."""
        self._succeeded = True
        summary: dict[str, float | str] = {"bundle": str(bundle.path)}
        if bundle.manifest.evaluation:  # the first is the engine that serves
            metrics = bundle.manifest.evaluation[0].metrics
            summary |= {f"published/{name}": value for name, value in metrics.items()}
        for tracker in self._trackers:
            tracker.summarize(summary, run_pictures(self.folder))

    def _write(self, iteration: int, figures: Mapping[str, float]) -> None:
        """metrics.csv is long-form (iteration, name, value): columns never change while a run grows."""
        new = not self.csv_path.exists()
        with naming(self.csv_path), self.csv_path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["iteration", "name", "value"])
            for name, value in figures.items():
                writer.writerow([iteration, name, f"{value:.6g}"])
        for name, value in figures.items():
            self._board.add(name, value, iteration)
        for tracker in self._trackers:
            tracker.log(iteration, figures)


def read_metrics(path: Path) -> dict[str, list[tuple[int, float]]]:
    """metrics.csv as curves: name -> [(iteration, value), ...]."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for iteration, name, value in _rows(path)[1:]:
        curves.setdefault(name, []).append((int(iteration), float(value)))
    return curves


def _rows(path: Path) -> list[list[str]]:
    """All complete lines, the header first. A killed run may have left a part of one at the end."""
    with path.open(newline="") as file:
        return list(csv.reader(line for line in file if line.endswith("\n")))


def _drop_rows_after(path: Path, start: int) -> None:
    """A resumed run repeats the iterations since its checkpoint; their old rows go."""
    if not path.exists():
        return
    rows = _rows(path)
    if not rows:  # killed before the first line was complete
        path.unlink()
        return
    kept = StringIO(newline="")
    csv.writer(kept).writerows([rows[0], *(row for row in rows[1:] if int(row[0]) <= start)])
    replace_file(path, kept.getvalue().encode())
