"""Outputs of a command that would overwrite the dataset that it reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from model.console.outputs import overwritten
from training.command_line import stop
from training.data.annotations.dataset import Dataset
from training.data.formats.locate import Origin

COMMENT: Final = "made by maskserve"
"""What a picture or a page says in its metadata that a command has written."""
_RESULTS: Final = ({"advice", "statistics"}, {"instances", "operating_point"})
"""Keys of the JSON files that commands write."""


def require_apart(
    outputs: Mapping[str, Path | None], origin: Origin, splits: Iterable[Dataset], *others: Path | None
) -> None:
    """Ends the program with one line where an output, by its flag, is a file that is read or another output.

    What lies in the dataset's folders is read: each format says by itself which files it takes. Results of an earlier
    run may lie there, and are written anew. others: further files and folders that are read.
    """
    given = [(flag, path) for flag, path in outputs.items() if path is not None]
    if not given:
        return
    folders = {split.root for split in splits} | {path for path in (origin.folder, origin.images) if path is not None}
    files = [*origin.annotations, *(record.path for split in splits for record in split.images)]
    foreign = [(flag, path) for flag, path in given if not _is_result(path)]
    read = [path for path in others if path is not None]
    files += (path for path in read if path.is_file())
    if wrong := overwritten(given, files) or overwritten(foreign, [*folders, *read]):
        stop(wrong)


def encoded_picture(picture: NDArray[np.uint8], suffix: str) -> bytes:
    """uint8 RGB [H, W, 3] as a .png or .jpg that says in its metadata what it is."""
    said = PngInfo()
    said.add_text("comment", COMMENT)
    stream = BytesIO()
    if suffix.lower() == ".png":
        Image.fromarray(picture).save(stream, "PNG", pnginfo=said)
    else:
        Image.fromarray(picture).save(stream, "JPEG", comment=COMMENT)
    return stream.getvalue()


def _is_result(path: Path) -> bool:
    """Whether a command wrote the file, and no dataset has it."""
    try:
        if path.suffix == ".html":
            return COMMENT.encode() in path.read_bytes()
        if path.suffix.lower() in (".png", ".jpg"):
            with Image.open(path) as picture:
                said = picture.info.get("comment", "")
            return said in (COMMENT, COMMENT.encode())
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and any(keys <= document.keys() for keys in _RESULTS)
