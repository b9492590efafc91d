"""What a person at the terminal sees: progress bars if it is one, and lines that stay."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Self

from service.client.lines import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


class Display:
    """On stderr. The bars are drawn if `bar`, and rich is there for it; the lines are written in any case."""

    def __init__(self, total: int, *, bar: bool) -> None:
        self._bars = _bars() if bar and find_spec("rich") else None
        self._task = None if self._bars is None else self._bars.add_task("", total=total)
        self._failed = 0

    def advance(self, *, failed: bool) -> None:
        """One more image is done."""
        self._failed += failed
        if self._bars is not None and self._task is not None:
            text = f"[red]{self._failed} failed" if self._failed else ""
            self._bars.update(self._task, advance=1, description=text)

    @contextmanager
    def part(self, name: str, what: str) -> Iterator[Progress | None]:
        """Who is to be told how many tiles or planes (`what`) of an image are done; None where nobody looks.

        An image of several has a bar of its own while it is worked on.
        """
        bars = self._bars
        if bars is None:
            yield None
            return
        from rich.markup import escape

        task: TaskID | None = None

        def told(done: int, of: int) -> None:
            nonlocal task
            if task is None and of > 1:
                task = bars.add_task(f"{what} of {escape(name)}", total=of)
            if task is not None:
                bars.update(task, completed=done, total=of)

        try:
            yield told
        finally:
            if task is not None:
                bars.remove_task(task)

    def say(self, line: str) -> None:
        if self._bars is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()


def _bars() -> Bars:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    return Progress(*columns, console=Console(stderr=True))
