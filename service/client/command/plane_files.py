"""The names of the files that are made of an image's planes, known only when the server has said which there are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from model.console.outputs import overwritten
from service.client.command.formats import PlaneSaid, UnwrittenError


class PlaneFiles:
    """`read` are the files that must stay, `written` the run's others. Belongs to the event loop."""

    def __init__(self, read: Sequence[Path], written: Iterable[Path]) -> None:
        self._read = read
        self._taken = set(map(os.path.realpath, written))

    def claim(self, path: Path) -> None:
        """Raises UnwrittenError where it is read, or written already."""
        if wrong := overwritten([("the plane's file", path)], self._read):
            raise UnwrittenError(wrong)
        real = os.path.realpath(path)
        if real in self._taken:
            raise UnwrittenError(f"{path} is already another result of this run: give the image another name")
        self._taken.add(real)


def of_plane(path: Path, plane: PlaneSaid) -> Path:
    """`cells-z07-channel1.png` of cells.png: the name says which of the image's planes the file is made of."""
    parts = [f"-{axis}{which['index']:0{len(str(which['of'] - 1))}}" for axis, which in plane.items()]
    return path.with_name(path.stem + "".join(parts) + path.suffix)
