"""torch's files on the disk: where that is full, torch itself ends the process, or raises what names no file."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

from model.runtime.bundles.writing import write_file


def save_whole(save: Callable[[Any], object], path: Path) -> None:
    """Write what `save` writes into the buffer that it is called with. Raises OSError, which names the file."""
    buffer = BytesIO()
    save(buffer)
    write_file(path, buffer.getvalue())
