"""Pascal VOC segmentation: `JPEGImages/` with the palette PNGs of `SegmentationClass/` and `SegmentationObject/`.

Object PNGs number the objects of an image from 1; the class PNG says what each one is. 255, the void that lines objects
and covers what should not count, belongs to no object. Classes are VOC's 20, or those of `class_names.txt`, as
LabelMe's exporter writes it.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.annotations.dataset import Dataset, DatasetError
from training.data.annotations.fields import BrokenRecord
from training.data.formats.assemble import IMAGE_SUFFIXES, Assembly, Found, encode_indices, read_header, read_indices
from training.data.formats.writing import Placement, paint, place_images

CLASSES: Final = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
VOID: Final = 255
CLASS_FILE = "class_names.txt"
_NOT_CLASSES = ("__ignore__", "_background_", "background")


def voc_splits(folder: Path) -> tuple[str, ...]:
    """The splits of a VOC folder, by `ImageSets/Segmentation`; "train" where that is missing; none if it is not one."""
    if not (folder / "SegmentationObject").is_dir():
        return ()
    named = tuple(split for split in ("train", "val", "test") if _list_file(folder, split).is_file())
    return named or ("train",)


def load_voc(folder: Path, split: str) -> Dataset:
    """Reads a split of the folder that holds SegmentationObject: every mask is decoded once and kept as RLE.

    Raises DatasetError when the split is not there; broken files are left out and named in `problems`.
    """
    if split not in voc_splits(folder):
        raise DatasetError(
            f"{folder} has no VOC segmentation split '{split}': looked for SegmentationObject/ and "
            f"{_list_file(folder, split)}; give the folder that holds JPEGImages (VOC2012)"
        )
    names = _class_names(folder)
    images = folder / "JPEGImages"
    by_stem = {path.stem: path for path in sorted(images.glob("*")) if path.suffix.lower() in IMAGE_SUFFIXES}
    assembly = Assembly(f"voc_{split}", images)
    for stem in _stems(folder, split):
        image = by_stem.get(stem, images / f"{stem}.jpg")
        try:
            header = read_header(image)
            objects, classes = (
                read_indices(folder / kind / f"{stem}.png", header)
                for kind in ("SegmentationObject", "SegmentationClass")
            )
            where = str(folder / "SegmentationClass" / f"{stem}.png")
            found = [
                Found(_class_of(classes[objects == value], value, names, where), rle)
                for value, rle in encode_indices(np.where(objects == VOID, 0, objects)).items()
            ]
            assembly.add(image, header.width, header.height, found)
        except BrokenRecord as broken:
            assembly.broken(broken, image)
    return assembly.finish(names)


def save_voc(data: Dataset, folder: Path, split: str, placement: Placement) -> list[str]:
    """Adds a split to a VOC folder, with `class_names.txt`; what got lost.

    Where objects overlap, the smaller one is on top; crowd regions become void. Folders among the images become part of
    the file names. Raises DatasetError for more than 254 classes or objects in an image.
    """
    if len(data.categories) >= VOID:
        raise DatasetError(
            f"VOC's PNGs hold 254 classes, the dataset has {len(data.categories)}: choose with --classes"
        )
    files = place_images(data, folder / "JPEGImages", placement, flat=True)
    for name in ("SegmentationObject", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    lost: list[str] = []
    stems = [PurePosixPath(file).stem for file in files]
    for record, objects, stem in zip(data.images, data.annotations, stems, strict=True):
        painted = paint(record, objects, crowd=VOID)
        if len(painted.labels) >= VOID:
            raise DatasetError(
                f"VOC's PNGs hold 254 objects, {record.path} has {len(painted.labels)}: use another format"
            )
        lost += painted.lost
        lookup = np.zeros(VOID + 1, np.int64)
        lookup[1 : len(painted.labels) + 1] = painted.labels
        lookup[VOID] = VOID
        _save(painted.ids, folder / "SegmentationObject" / f"{stem}.png")
        _save(lookup[painted.ids], folder / "SegmentationClass" / f"{stem}.png")
    _list_file(folder, split).write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")
    (folder / CLASS_FILE).write_text("\n".join(("_background_", *data.class_names)) + "\n", encoding="utf-8")
    return lost


def _class_of(classes: NDArray[np.int64], value: int, names: tuple[str, ...], where: str) -> str:
    """The class that most of an object's pixels have."""
    inside = classes[(classes > 0) & (classes != VOID)]
    if not len(inside):
        raise BrokenRecord("bad mask", f"{where} gives no class to the pixels of object {value}")
    label = int(np.bincount(inside).argmax())
    if label > len(names):
        raise BrokenRecord(
            "unknown category", f"{where} has class {label}, but there are {len(names)}: list yours in {CLASS_FILE}"
        )
    return names[label - 1]


def _class_names(folder: Path) -> tuple[str, ...]:
    file = folder / CLASS_FILE
    if not file.is_file():
        return CLASSES
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    return tuple(line for line in lines if line and line not in _NOT_CLASSES)


def _list_file(folder: Path, split: str) -> Path:
    return folder / "ImageSets" / "Segmentation" / f"{split}.txt"


def _stems(folder: Path, split: str) -> list[str]:
    file = _list_file(folder, split)
    if file.is_file():
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    return sorted(path.stem for path in (folder / "SegmentationObject").glob("*.png"))


def _save(values: NDArray[np.int64], path: Path) -> None:
    image = Image.fromarray(values.astype(np.uint8))
    image.putpalette(_palette())
    image.save(path)


def _palette() -> bytes:
    """VOC's colors, 256 x RGB: a number's bits are dealt out to red, green and blue, highest color bits first."""
    numbers = np.arange(256)
    colors = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= (((numbers >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colors.tobytes()
