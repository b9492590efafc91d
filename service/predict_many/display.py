"""How far a run is: a bar with rate and time left on a terminal, and plain lines elsewhere. On stderr."""

from __future__ import annotations

import re
import sys
import time
from datetime import timedelta
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

PLAIN_SECONDS: Final = 10.0
"""Between two lines where stderr is no terminal: a piped log grows slowly, and a short run leaves none."""
_LINE_ENDS: Final = re.compile(r"[\n\r\v\f\x85\u2028\u2029]")


class Display:
    """Of `total` images, of which `kept` were there already. Use as a context manager."""

    def __init__(self, total: int, kept: int, *, quiet: bool) -> None:
        self._total, self._done, self._kept, self._failed = total, kept, kept, 0
        self._quiet = quiet
        self._began = self._told = time.monotonic()
        console = Console(stderr=True)
        self._is_bar = console.is_terminal and not quiet
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"),
        )
        self._bars = Progress(*columns, console=console, disable=not self._is_bar)
        self._task = self._bars.add_task("images", total=total, completed=kept, said="")

    def advance(self, *, failed: bool) -> None:
        """One more image is done."""
        self._done += 1
        self._failed += failed
        if self._is_bar:
            self._bars.update(self._task, completed=self._done, said=self._said())
            return
        now = time.monotonic()
        if not self._quiet and now - self._told >= PLAIN_SECONDS:
            self._told = now
            say(f"{self._done} of {self._total} images, {self._said()}")

    def _said(self) -> str:
        """The rate of this process, and how long the rest takes at it."""
        rate = (self._done - self._kept) / max(time.monotonic() - self._began, 1e-9)
        left = timedelta(seconds=round((self._total - self._done) / rate))
        failed = f", {self._failed} failed" if self._failed else ""
        return f"{rate:.1f}/s, {left} left{failed}"

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()


def say(line: str) -> None:
    """On one line, whatever names in it are like."""
    line = _LINE_ENDS.sub(" ", line)
    print(f"maskserve: {line}", file=sys.stderr, flush=True)
