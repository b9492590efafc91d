"""Images beside PNGs or TIFFs of instance ids, all of one class: 0 is background, every other value one object, or
every connected piece, where a person says so.

Folders: `PNGImages/` with `PedMasks/` (Penn-Fudan), or `images/` with `masks/`, with a folder for each split in them,
around them, or none; or image and mask in one folder (Cellpose). The mask of `a.jpg` is `a.png` or `a_mask.png`, or
what Cellpose saves: `a_masks.tif`, `a_cp_masks.png`; that of `a_img.png` may be `a_masks.png` too, as in Cellpose's own
data. The class is what `classes.txt` says; "person" for Penn-Fudan, otherwise "object".
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.annotations.dataset import Dataset, DatasetError
from training.data.annotations.fields import BrokenRecord
from training.data.formats.assemble import Assembly, Found, Header, encode_indices, read_header
from training.data.formats.image_files import images_in
from training.data.formats.masks.id_masks import BackgroundSeen, MaskObjects, ObjectsSeen, number_pieces, read_indices
from training.data.formats.splits import noting_unused, outside, split_folders, split_of
from training.data.formats.text_files import read_lines
from training.data.formats.writing import Placed, Placement, paint, place_images

LAYOUTS = (("PNGImages", "PedMasks", "person"), ("images", "masks", "object"))
"""Folder of images, folder of masks, and the class where `classes.txt` names none."""
LAYOUT = "images/ with masks/, PNGImages/ with PedMasks/: PNGs or TIFFs of instance ids; or NAME_cp_masks beside NAME"
CLASS_FILE = "classes.txt"
_MASKS: Final = ("_cp_masks", "_masks", "_mask")
_IMAGES: Final = ("_img", "_image")
"""What may stand in an image's name where its mask's has one of _MASKS."""
_BYPRODUCTS: Final = ("_cp_output", "_flows", "_cp_flows", "_outlines", "_dP", "_cellprob")
"""What Cellpose saves beside masks."""


class _Folders(NamedTuple):
    images: Path
    masks: Path
    class_name: str


def instance_png_splits(folder: Path) -> tuple[str, ...]:
    """The splits of such a folder, "train" where it is not split; none if it is not one."""
    return tuple(_find(folder))


def instance_png_left_out(folder: Path) -> list[str]:
    """What to say of images that are in no split: beside the folders of splits, or in one without its masks."""
    found = _find(folder)
    names = {masks for _, masks, _ in LAYOUTS}
    others = outside(images_in(folder), (place for one in found.values() for place in (one.images, one.masks)))
    images = [path for path in others if _is_image(path) and names.isdisjoint(path.relative_to(folder).parts)]
    notes = []
    for name, masks, _ in LAYOUTS:
        for place in sorted((folder / name).glob("*/")):
            inside = [path for path in images if path.is_relative_to(place)]
            missing = folder / masks / place.name
            if inside and split_of(place.name) and not missing.is_dir():
                shown = f"{inside[0].relative_to(folder).as_posix()}; {masks}/{place.name} is not there"
                notes.append(f"{len(inside)} images have no folder of masks and are left out, first: {shown}")
                images = outside(images, [place])
    return [*notes, *noting_unused(folder, "images", images)]


def load_instance_png(folder: Path, split: str, objects: MaskObjects = "auto") -> Dataset:
    """Reads a split: every mask is decoded once and kept as RLE.

    Raises DatasetError when the split is not there, and where the masks show no objects, only foreground or classes, or
    have a background that is not 0; broken files are left out and named in `problems`.
    """
    folders = _find(folder).get(split)
    if folders is None:
        raise DatasetError(f"{folder} has no split '{split}' of images and masks of ids: looked for {LAYOUT}")
    masks = _mask_files(folders)
    assembly = Assembly(f"{folder.name}_{split}", folders.images)
    seen, background = ObjectsSeen(), BackgroundSeen()
    for image in _image_files(folders):
        stem = image.relative_to(folders.images).with_suffix("").as_posix()
        try:
            mask = next((masks.pop(name) for name in (stem, *_mask_names(stem)) if name in masks), None)
            header = read_header(image)
            ids = _ids(image, mask, header)
            background.add(ids)
            found = encode_indices(number_pieces(ids) if objects == "pieces" else ids)
            if objects == "auto":
                seen.add({f"value {value} of {mask}": rle for value, rle in found.items()})
            assembly.add(image, header.width, header.height, [Found(folders.class_name, rle) for rle in found.values()])
        except BrokenRecord as broken:
            assembly.broken(broken, image)
    for _, mask in sorted(masks.items()):
        assembly.broken(BrokenRecord("unknown image", f"{mask} belongs to no image in {folders.images}"), mask)
    if objects != "values":
        background.require_zero(assembly.name)
    if (note := seen.require_objects(assembly.name)) is not None:
        assembly.notes.append(note)
    return assembly.finish((folders.class_name,))


def read_class(folder: Path, default: str) -> str:
    """The first name in the folder's classes.txt. Raises DatasetError where that is no text."""
    file = folder / CLASS_FILE
    names = read_lines(file) if file.is_file() else []
    return next(filter(None, names), default)


def save_instance_png(data: Dataset, folder: Path, split: str, placement: Placement) -> Placed:
    """Writes `images/SPLIT`, `masks/SPLIT` (8 or 16 bits, by the number of objects) and classes.txt.

    Where objects overlap, the smaller one is on top. Raises DatasetError for a dataset of several classes.
    """
    if len(data.categories) != 1:
        raise DatasetError(
            f"instance-id PNGs have one class, the dataset has {', '.join(data.class_names)}: choose one with --classes"
        )
    placed = place_images(data, folder / "images" / split, placement)
    for record, objects, file in zip(data.images, data.annotations, placed.files, strict=True):
        painted = paint(record, objects)
        target = (folder / "masks" / split / file).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(painted.ids.astype(np.uint8 if len(painted.labels) < 256 else np.uint16)).save(target)
    (folder / CLASS_FILE).write_text(f"{data.class_names[0]}\n", encoding="utf-8")
    return placed


def _find(folder: Path) -> dict[str, _Folders]:
    for images, masks, default in LAYOUTS:
        name = read_class(folder, default)
        inside = split_folders(folder / images, images_in)
        if (folder / masks).is_dir() and inside:
            if list(inside.values()) == [folder / images]:
                return {"train": _Folders(folder / images, folder / masks, name)}
            paired = {split: path for split, path in inside.items() if (folder / masks / path.name).is_dir()}
            return {split: _Folders(path, folder / masks / path.name, name) for split, path in paired.items()}
        around = split_folders(folder, partial(_has_folders, (images, masks)))
        if around:
            return {split: _Folders(path / images, path / masks, name) for split, path in around.items()}
    beside = split_folders(folder, _has_masks_beside)
    return {split: _Folders(path, path, read_class(folder, "object")) for split, path in beside.items()}


def _has_folders(names: Iterable[str], folder: Path) -> bool:
    return all((folder / name).is_dir() for name in names)


def _has_masks_beside(folder: Path) -> bool:
    stems = {path.stem for path in images_in(folder)} | {path.stem for path in folder.rglob("*_seg.npy")}
    return any(name in stems for stem in stems for name in (*_mask_names(stem), f"{stem}_seg"))


def _mask_names(stem: str) -> list[str]:
    """What the mask of an image may be called before the suffix, the likeliest first."""
    bases = (stem, *(stem.removesuffix(ending) for ending in _IMAGES if stem.endswith(ending)))
    return [f"{base}{ending}" for base in bases for ending in _MASKS]


def _image_files(folders: _Folders) -> list[Path]:
    if folders.images != folders.masks:
        return images_in(folders.images)
    return [path for path in images_in(folders.images) if _is_image(path)]


def _is_image(path: Path) -> bool:
    """By its name, where masks may lie beside images."""
    return not path.stem.endswith((*_MASKS, *_BYPRODUCTS))


def _mask_files(folders: _Folders) -> dict[str, Path]:
    """By what precedes the suffix, relative to the folder."""
    found = images_in(folders.masks)
    if folders.images == folders.masks:
        found = [path for path in found if path.stem.endswith(_MASKS)]
    return {path.relative_to(folders.masks).with_suffix("").as_posix(): path for path in found}


def _ids(image: Path, mask: Path | None, header: Header) -> NDArray[np.int64]:
    """int64 [H, W]. Raises BrokenRecord where there is no mask, or only one that is not safe to open."""
    if mask is not None:
        return read_indices(mask, header)
    pickled = image.with_name(f"{image.stem}_seg.npy")
    if pickled.is_file():
        message = (
            f"{image} has its mask in {pickled.name} alone, a Python pickle, which may run any program when it is "
            f"opened: save the masks as PNG or TIFF in Cellpose (--save_png, --save_tif)"
        )
        raise BrokenRecord("bad mask", message)
    raise BrokenRecord(
        "missing file", f"{image} has no mask: looked for {image.stem} with {', '.join(_MASKS)} or alone"
    )
