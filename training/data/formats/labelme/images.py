"""The images of LabelMe's JSON files: beside them, in a folder of their own, or inside the JSON as `imageData`."""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from training.data.annotations.fields import BrokenRecord, text
from training.data.formats.image_files import Wanted, find_images
from training.data.formats.text_files import read_json


def locate_images(files: list[Path], root: Path, dataset: Path) -> tuple[dict[Path, Path | BrokenRecord], list[str]]:
    """Where the image of each readable JSON file lies, and notes. root holds the files, dataset the images.

    What lies in the JSON alone is written into a folder of the user's cache, named by its content, since training reads
    files.
    """
    names: dict[Path, str] = {}
    embedded: set[Path] = set()
    for file in files:
        try:
            document = read_json(file)
            names[file] = text(document, "imagePath", str(file))
        except BrokenRecord:
            continue  # named where the shapes are read
        if document.get("imageData"):
            embedded.add(file)
    wanted = [Wanted(name, (file.parent, root, dataset)) for file, name in names.items()]
    found = find_images(wanted, dataset)
    paths = dict(zip(names, found.paths, strict=True))
    lonely = [file for file in names if file in embedded and not _is_there(paths[file])]
    for file in lonely:
        try:
            paths[file] = _unpack(read_json(file), file)
        except BrokenRecord as broken:
            paths[file] = broken
    notes = list(found.notes)
    if lonely:
        notes.append(f"{len(lonely)} images are in the JSON alone (imageData); they were written to {_cache()}")
    return paths, notes


def _is_there(path: Path | BrokenRecord) -> bool:
    return isinstance(path, Path) and path.is_file()


def _unpack(document: dict[str, Any], file: Path) -> Path:
    try:
        content = base64.b64decode(text(document, "imageData", str(file)), validate=True)
        with Image.open(BytesIO(content)) as image:
            suffix = (image.format or "png").lower()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BrokenRecord("unreadable image", f"'imageData' of {file} is no base64 image: {error}") from None
    target = _cache() / f"{hashlib.sha256(content).hexdigest()}.{suffix}"
    if target.is_file():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as half:
            half.write(content)
        os.replace(half.name, target)  # several processes of a training write the same
    except OSError as error:
        raise BrokenRecord(
            "unreadable image", f"cannot write the image of {file} to {target}: {error.strerror}"
        ) from None
    return target


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "maskserve" / "labelme"
