"""Ctrl-C while training: the iteration is finished and kept in a checkpoint before the run ends."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any, Final, Self

ASKED: Final = b"\ninterrupted: finishing this iteration, then a checkpoint is written; Ctrl-C again ends at once\n"


class Interruption:
    """Use as a context manager: `requested` says whether SIGINT came meanwhile. A second one is a KeyboardInterrupt.

    alone: this is the run's only process. To several torchrun hands the terminal's signal on: two may come at once.
    """

    def __init__(self, *, alone: bool) -> None:
        self.requested = False
        self._alone = alone
        self._before: Any = None

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.requested and self._alone:
            raise KeyboardInterrupt
        if not self.requested:
            os.write(2, ASKED)  # what was interrupted may be in the middle of a print
        self.requested = True
