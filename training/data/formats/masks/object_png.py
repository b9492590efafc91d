"""One PNG for each object, all of one class: any pixel but 0 belongs to it. Objects may overlap.

Where a person says so, every connected piece is an object.

`ID/images/*.png` with `ID/masks/*.png` (the 2018 Data Science Bowl), or `images/a.png` with `masks/a/*.png`; each in
folders for splits or without. The class is what `classes.txt` says, otherwise "object".
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.runtime.detections import RLE
from training.data.annotations.dataset import Dataset, DatasetError
from training.data.annotations.fields import BrokenRecord
from training.data.formats.assemble import Assembly, Found, Header, encode_indices, read_header
from training.data.formats.image_files import IMAGE_SUFFIXES, images_in
from training.data.formats.masks.id_masks import BackgroundSeen, MaskObjects, ObjectsSeen, number_pieces, read_indices
from training.data.formats.masks.instance_png import read_class
from training.data.formats.splits import noting_unused, outside, split_folders

SOLE = 0.6
"""Share of an object's pixels that must be of one value; smooth edges have others."""
LAYOUT = "ID/images/ with ID/masks/, or images/ with masks/NAME/: one PNG an object"


class _Image(NamedTuple):
    """masks is the folder of its objects."""

    path: Path
    masks: Path


def object_png_splits(folder: Path) -> tuple[str, ...]:
    """The splits of such a folder, "train" where it is not split; none if it is not one."""
    return tuple(split_folders(folder, _holds))


def object_png_left_out(folder: Path) -> list[str]:
    """What to say of images that are in no split: beside the folders of splits, or in one without masks."""
    others = outside(images_in(folder), split_folders(folder, _holds).values())
    images = [path for path in others if "masks" not in path.relative_to(folder).parts]
    return noting_unused(folder, "images", images)


def load_object_png(folder: Path, split: str, objects: MaskObjects = "auto") -> Dataset:
    """Reads a split: every mask is decoded once and kept as RLE.

    Raises DatasetError when the split is not there, and where the masks show no objects, only foreground or classes, or
    have a background that is not 0; broken files are left out and named in `problems`.
    """
    root = split_folders(folder, _holds).get(split)
    if root is None:
        raise DatasetError(f"{folder} has no split '{split}' with a PNG for each object: looked for {LAYOUT}")
    name = read_class(folder, "object")
    assembly = Assembly(f"{folder.name}_{split}", root)
    assembly.notes += _incomplete(root)
    seen, background = ObjectsSeen(), BackgroundSeen()
    for image in _images(root):
        try:
            header = read_header(image.path)
            rles: list[RLE] = []
            for mask in _masks(image, header, assembly):
                background.add(mask)
                rles += encode_indices(number_pieces(mask) if objects == "pieces" else mask).values()
            if objects == "auto":
                seen.add({f"mask {number} in {image.masks}": rle for number, rle in enumerate(rles, 1)})
            assembly.add(image.path, header.width, header.height, [Found(name, rle) for rle in rles])
        except BrokenRecord as broken:
            assembly.broken(broken, image.path)
    if objects != "values":
        background.require_zero(assembly.name)
    if (note := seen.require_objects(assembly.name)) is not None:
        assembly.notes.append(note)
    return assembly.finish((name,))


def _masks(image: _Image, header: Header, assembly: Assembly) -> Iterator[NDArray[np.int64]]:
    """int64 [H, W] of 0 and 1, one for each file."""
    if not image.masks.is_dir():
        raise BrokenRecord("missing file", f"{image.path} has no masks: looked for the folder {image.masks}")
    for mask in _files(image.masks):
        try:
            values, counts = np.unique(ids := read_indices(mask, header), return_counts=True)
            counts = counts[values != 0]
            if not len(counts):
                raise BrokenRecord("empty mask", f"{mask} has no pixel but 0: delete it")
            if counts.max() < SOLE * counts.sum():
                message = f"{mask} has {len(counts)} values beside 0, but should show one object: write a mask for each"
                raise BrokenRecord("bad mask", message)
            yield (ids != 0).astype(np.int64)
        except BrokenRecord as broken:
            assembly.broken(broken, mask)


def _holds(folder: Path) -> bool:
    return next(_images(folder), None) is not None


def _incomplete(folder: Path) -> list[str]:
    """What to say of folders ID/ that are no image with its masks."""
    if (folder / "images").is_dir():
        return []
    places = [path for path in sorted(folder.glob("*/")) if (path / "images").is_dir() or (path / "masks").is_dir()]
    bare = [place.name for place in places if not (place / "masks").is_dir()]
    unclear = [place.name for place in places if place.name not in bare and len(_files(place / "images")) != 1]
    notes = [f"{len(bare)} folders have no masks/ and are left out, first: {bare[0]}"] if bare else []
    if unclear:
        count = len(_files(folder / unclear[0] / "images"))
        first = f"{unclear[0]}, with {count}"
        notes.append(f"{len(unclear)} folders have no image or several in images/ and are left out, first: {first}")
    return notes


def _images(folder: Path) -> Iterator[_Image]:
    """The images of both layouts, by name."""
    images, masks = folder / "images", folder / "masks"
    if images.is_dir() and masks.is_dir():
        if not _files(masks) and any(path.is_dir() and _files(path) for path in masks.iterdir()):
            yield from (_Image(path, masks / path.stem) for path in _files(images))
        return
    for one in sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []:
        found = _files(one / "images")
        if len(found) == 1 and (one / "masks").is_dir():
            yield _Image(found[0], one / "masks")


def _files(folder: Path) -> list[Path]:
    """The images of a folder, but for what macOS adds to archives."""
    there = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in there if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("._"))
