"""A run's figures as TensorBoard reads them."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import scalar

from model.runtime.bundles.writing import naming


class Board:
    """A file of events, each on its way to the disk when it was added.

    torch's own writer has a thread for that, and what the thread cannot write, on a full disk for instance, comes as a
    stack trace on stderr at some later time.
    """

    def __init__(self, folder: Path, start: int) -> None:
        """`start`: events of later iterations, which an earlier start has left, are void. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        place = f"{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self.path = folder / f"events.out.tfevents.{place}"
        self._file = self.path.open("xb")
        self._writer = RecordWriter(self._file)
        self._add(file_version="brain.Event:2", step=start)
        self._add(session_log=SessionLog(status=SessionLog.START), step=start)

    def add(self, name: str, value: float, iteration: int) -> None:
        """Raises OSError, which names the file."""
        self._add(summary=scalar(name, value), step=iteration)

    def close(self) -> None:
        with suppress(OSError):  # of what `add` has raised already
            self._file.close()

    def _add(self, **fields: Any) -> None:
        with naming(self.path):
            self._writer.write(Event(wall_time=time.time(), **fields).SerializeToString())
            self._writer.flush()
