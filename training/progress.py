"""What a command is doing, told on stderr: lines, and bars with the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_SECONDS = 10.0
"""Between two lines of one bar where stderr is no terminal: a piped log grows slowly, and a short task leaves none."""


class Display:
    """Use as a context manager. On a terminal bars are live and vanish when they are done; elsewhere they are plain
    lines. `figures` of a bar's task is text beside it."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.plain = not self.console.is_terminal
        self.live = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            disable=self.plain,
        )

    def __enter__(self) -> Self:
        self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.stop()

    def say(self, message: str) -> None:
        """A line above the bars."""
        self.console.print(message, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Gives a function to call with the number of parts that are done, of `total`."""
        task = self.live.add_task(what, total=total, figures="")
        began = told = time.monotonic()

        def show(done: int) -> None:
            nonlocal told
            self.live.update(task, completed=done)
            now = time.monotonic()
            if self.plain and 0 < done < total and now - told >= PLAIN_SECONDS:
                told = now
                self.say(f"{what}: {done}/{total}, {duration((now - began) / done * (total - done))} left")

        try:
            yield show
        finally:
            self.live.remove_task(task)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, such as 1:05:09."""
    return str(timedelta(seconds=round(seconds)))
