"""What a person at the terminal sees: a progress bar if it is one, and lines that stay."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress


class Display:
    """On stderr. The bar is drawn if `bar`, and rich is there for it; the lines are written in any case."""

    def __init__(self, total: int, *, bar: bool) -> None:
        self._progress = _bar() if bar and find_spec("rich") else None
        self._task = None if self._progress is None else self._progress.add_task("", total=total)
        self._failed = 0

    def advance(self, *, failed: bool) -> None:
        """One more image is done."""
        self._failed += failed
        if self._progress is not None and self._task is not None:
            text = f"{self._failed} failed" if self._failed else ""
            self._progress.update(self._task, advance=1, description=text)

    def say(self, line: str) -> None:
        if self._progress is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("[red]{task.description}"))
    return Progress(*columns, console=Console(stderr=True))
