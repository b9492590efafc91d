"""Images beside PNGs of instance ids, all of one class: 0 is background, every other value one object (Penn-Fudan).

Folders: `PNGImages/` with `PedMasks/` (Penn-Fudan), or `images/` with `masks/`, each with a folder for each split if
there are several. The mask of `a.jpg` is `a.png` or `a_mask.png`. The class is what `classes.txt` says; "person" for
Penn-Fudan, otherwise "object".
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from training.data.annotations.dataset import Dataset, DatasetError
from training.data.annotations.fields import BrokenRecord
from training.data.formats.assemble import Assembly, Found, encode_indices, images_in, read_header, read_indices
from training.data.formats.writing import Placement, paint, place_images

LAYOUTS = (("PNGImages", "PedMasks", "person"), ("images", "masks", "object"))
"""Folder of images, folder of masks, and the class where `classes.txt` names none."""
CLASS_FILE = "classes.txt"


class _Folders(NamedTuple):
    images: Path
    masks: Path
    class_name: str


def instance_png_splits(folder: Path) -> tuple[str, ...]:
    """The splits of such a folder, "train" where it is not split; none if it is not one."""
    return tuple(split for split in ("train", "val", "test") if _find(folder, split) is not None)


def load_instance_png(folder: Path, split: str) -> Dataset:
    """Reads a split: every mask is decoded once and kept as RLE.

    Raises DatasetError when the split is not there; broken files are left out and named in `problems`.
    """
    folders = _find(folder, split)
    if folders is None:
        pairs = ", ".join(f"{images}/ with {masks}/" for images, masks, _ in LAYOUTS)
        raise DatasetError(f"{folder} has no split '{split}' of images and mask PNGs: looked for {pairs}")
    masks = {path.relative_to(folders.masks).with_suffix("").as_posix(): path for path in folders.masks.rglob("*.png")}
    assembly = Assembly(f"{folder.name}_{split}", folders.images)
    for image in images_in(folders.images):
        stem = image.relative_to(folders.images).with_suffix("").as_posix()
        try:
            mask = masks.pop(stem, None) or masks.pop(f"{stem}_mask", None)
            if mask is None:
                raise BrokenRecord("missing file", f"{image} has no mask: neither {stem}.png nor {stem}_mask.png")
            header = read_header(image)
            rles = encode_indices(read_indices(mask, header)).values()
            found = [Found(folders.class_name, rle) for rle in rles]
            assembly.add(image, header.width, header.height, found)
        except BrokenRecord as broken:
            assembly.broken(broken, image)
    for _, mask in sorted(masks.items()):
        assembly.broken(BrokenRecord("unknown image", f"{mask} belongs to no image in {folders.images}"), mask)
    return assembly.finish((folders.class_name,))


def save_instance_png(data: Dataset, folder: Path, split: str, placement: Placement) -> list[str]:
    """Writes `images/SPLIT`, `masks/SPLIT` (8 or 16 bits, by the number of objects) and classes.txt; what got lost.

    Where objects overlap, the smaller one is on top. Raises DatasetError for a dataset of several classes.
    """
    if len(data.categories) != 1:
        raise DatasetError(
            f"instance-id PNGs have one class, the dataset has {', '.join(data.class_names)}: choose one with --classes"
        )
    files = place_images(data, folder / "images" / split, placement)
    lost: list[str] = []
    for record, objects, file in zip(data.images, data.annotations, files, strict=True):
        painted = paint(record, objects)
        lost += painted.lost
        target = (folder / "masks" / split / file).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(painted.ids.astype(np.uint8 if len(painted.labels) < 256 else np.uint16)).save(target)
    (folder / CLASS_FILE).write_text(f"{data.class_names[0]}\n", encoding="utf-8")
    return lost


def _find(folder: Path, split: str) -> _Folders | None:
    for images, masks, default in LAYOUTS:
        names = _read_class(folder, default)
        if (folder / images / split).is_dir() and (folder / masks / split).is_dir():
            return _Folders(folder / images / split, folder / masks / split, names)
        if split == "train" and (folder / images).is_dir() and (folder / masks).is_dir():
            return _Folders(folder / images, folder / masks, names)
    return None


def _read_class(folder: Path, default: str) -> str:
    file = folder / CLASS_FILE
    names = file.read_text(encoding="utf-8").split("\n") if file.is_file() else []
    return next((name.strip() for name in names if name.strip()), default)
