"""CVAT's segmentation masks: PNGs whose colors `labelmap.txt` explains, in VOC's folders.

A line of it is `label:red,green,blue:parts:actions`. Objects have colors too, one each, which mean nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.annotations.dataset import DatasetError
from training.data.annotations.fields import BrokenRecord
from training.data.formats.text_files import read_lines

FILE: Final = "labelmap.txt"
_BACKGROUND: Final = ("background", "_background_", "__ignore__")


def read_labelmap(file: Path) -> dict[int, str]:
    """Classes by color, red x 65536 + green x 256 + blue, without the background. Raises DatasetError."""
    found = {}
    for number, line in enumerate(read_lines(file), 1):
        if not line or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        try:
            red, green, blue = (int(part) for part in rest.split(":")[0].split(","))
        except ValueError:
            raise DatasetError(f"line {number} of {file} is not label:red,green,blue:parts:actions") from None
        if name.strip().lower() not in _BACKGROUND:
            found[red << 16 | green << 8 | blue] = name.strip()
    if not found:
        raise DatasetError(f"{file} names no class beside the background")
    return found


def read_colors(path: Path, size: tuple[int, int]) -> NDArray[np.int64]:
    """Colors of a mask as int64 [H, W], as `read_labelmap` has them; palettes count as their colors.

    Raises BrokenRecord for a file that is missing, cannot be decoded, or is not of `size`, (width, height).
    """
    if not path.is_file():
        raise BrokenRecord("missing file", f"{path} is not there")
    try:
        with Image.open(path) as image:
            colors = np.array(image.convert("RGB")).astype(np.int64)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BrokenRecord("bad mask", f"{path} cannot be decoded: {error}") from None
    if colors.shape[:2] != size[::-1]:
        sides = f"{colors.shape[1]}x{colors.shape[0]}"
        raise BrokenRecord(
            "size mismatch", f"{path} has {sides} pixels, its image {size[0]}x{size[1]}: export it again"
        )
    return colors[..., 0] << 16 | colors[..., 1] << 8 | colors[..., 2]
