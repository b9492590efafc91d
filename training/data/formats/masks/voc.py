"""Pascal VOC segmentation: `JPEGImages/` with the palette PNGs of `SegmentationClass/` and `SegmentationObject/`.

Object PNGs number the objects of an image from 1; the class PNG says what each one is. 255, the void that lines objects
and covers what should not count, belongs to no object. Classes are VOC's 20, or those of `class_names.txt`, as
LabelMe's exporter writes it; with CVAT's `labelmap.txt`, both PNGs hold colors, and that file says which class each is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.annotations.dataset import Dataset, DatasetError
from training.data.annotations.fields import BrokenRecord
from training.data.formats.assemble import Assembly, Found, encode_indices, read_header
from training.data.formats.image_files import images_in
from training.data.formats.masks.id_masks import read_indices
from training.data.formats.masks.labelmap import FILE as LABELMAP
from training.data.formats.masks.labelmap import read_colors, read_labelmap
from training.data.formats.splits import by_split
from training.data.formats.text_files import read_lines
from training.data.formats.writing import Placed, Placement, paint, place_images

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
LAYOUT = "JPEGImages/ with SegmentationObject/ and SegmentationClass/ (VOC; CVAT with labelmap.txt)"
_NOT_CLASSES = ("__ignore__", "_background_", "background")


def voc_splits(folder: Path) -> tuple[str, ...]:
    """The splits of a VOC folder, by `ImageSets/Segmentation`; "train" where that is missing; none if it is not one."""
    if not (folder / "SegmentationObject").is_dir():
        return ()
    return tuple(_lists(folder)) or ("train",)


def names_splits(folder: Path) -> bool:
    """Whether `ImageSets/Segmentation` says which images are of which split."""
    return bool(_lists(folder))


def load_voc(folder: Path, split: str) -> Dataset:
    """Reads a split of the folder that holds SegmentationObject: every mask is decoded once and kept as RLE.

    Raises DatasetError when the split is not there; broken files are left out and named in `problems`.
    """
    if split not in voc_splits(folder):
        raise DatasetError(
            f"{folder} has no VOC segmentation split '{split}': looked for SegmentationObject/ and "
            f"{_list_file(folder, split)}; give the folder that holds JPEGImages (VOC2012)"
        )
    colors = read_labelmap(folder / LABELMAP) if (folder / LABELMAP).is_file() else None
    names = _class_names(folder) if colors is None else tuple(dict.fromkeys(colors.values()))
    images = folder / "JPEGImages"
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path in images_in(images):
        by_stem[path.relative_to(images).with_suffix("").as_posix()].append(path)
    assembly = Assembly(f"voc_{split}", images)
    for stem in _stems(folder, split):
        image, *others = by_stem.get(stem, [images / f"{stem}.jpg"])
        try:
            if others:
                paths = " and ".join(path.name for path in (image, *others))
                raise BrokenRecord(
                    "unknown image", f"{paths} lie side by side, and '{stem}' is either: keep one of them"
                )
            header = read_header(image)
            masks = [folder / kind / f"{stem}.png" for kind in ("SegmentationObject", "SegmentationClass")]
            if colors is None:
                objects, classes = (read_indices(mask, header) for mask in masks)
                objects, classes = (np.where(values == VOID, 0, values) for values in (objects, classes))
                known = dict(enumerate(names, 1))
            else:
                objects, classes = (read_colors(mask, (header.width, header.height)) for mask in masks)
                known = colors
            found = [
                Found(_class_of(classes[objects == value], value, known, masks[1]), rle)
                for value, rle in encode_indices(objects).items()
            ]
            assembly.add(image, header.width, header.height, found)
        except BrokenRecord as broken:
            assembly.broken(broken, image)
    return assembly.finish(names)


def save_voc(data: Dataset, folder: Path, split: str, placement: Placement) -> Placed:
    """Adds a split to a VOC folder, with `class_names.txt`.

    Where objects overlap, the smaller one is on top; crowd regions become void. Folders among the images become part of
    the file names. Raises DatasetError for more than 254 classes or objects in an image.
    """
    if len(data.categories) >= VOID:
        raise DatasetError(
            f"VOC's PNGs hold 254 classes, the dataset has {len(data.categories)}: choose with --classes"
        )
    placed = place_images(data, folder / "JPEGImages", placement, flat=True)
    for name in ("SegmentationObject", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    stems = [PurePosixPath(file).stem for file in placed.files]
    for record, objects, stem in zip(data.images, data.annotations, stems, strict=True):
        painted = paint(record, objects, crowd=VOID)
        if len(painted.labels) >= VOID:
            raise DatasetError(
                f"VOC's PNGs hold 254 objects, {record.path} has {len(painted.labels)}: use another format"
            )
        lookup = np.zeros(VOID + 1, np.int64)
        lookup[1 : len(painted.labels) + 1] = painted.labels
        lookup[VOID] = VOID
        _save(painted.ids, folder / "SegmentationObject" / f"{stem}.png")
        _save(lookup[painted.ids], folder / "SegmentationClass" / f"{stem}.png")
    _list_file(folder, split).write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")
    (folder / CLASS_FILE).write_text("\n".join(("_background_", *data.class_names)) + "\n", encoding="utf-8")
    return placed


def _class_of(classes: NDArray[np.int64], value: int, names: Mapping[int, str], file: Path) -> str:
    """The class that most of an object's pixels have; `names` are those of VOC's values, or of CVAT's colors."""
    values, counts = np.unique(classes[classes > 0], return_counts=True)
    if not len(values):
        raise BrokenRecord("bad mask", f"{file} gives no class to the pixels of object {value}")
    label = int(values[counts.argmax()])
    if label in names:
        return names[label]
    if label <= VOID and 1 in names:
        message = f"{file} has class {label}, but there are {len(names)}: list yours in {CLASS_FILE}"
    else:
        color = ",".join(map(str, label.to_bytes(3, "big")))
        message = f"{file} has the color {color}, which {LABELMAP} does not explain"
    raise BrokenRecord("unknown category", message)


def _class_names(folder: Path) -> tuple[str, ...]:
    file = folder / CLASS_FILE
    if not file.is_file():
        return CLASSES
    return tuple(line for line in read_lines(file) if line and line not in _NOT_CLASSES)


def _list_file(folder: Path, split: str) -> Path:
    return folder / "ImageSets" / "Segmentation" / f"{split}.txt"


def _lists(folder: Path) -> dict[str, Path]:
    """The lists by split. VOC's trainval repeats two of them."""
    files = sorted((folder / "ImageSets" / "Segmentation").glob("*.txt"))
    own = [file for file in files if file.stem.lower() != "trainval"] or files
    return by_split((file.stem, file) for file in own)


def _stems(folder: Path, split: str) -> list[str]:
    file = _lists(folder).get(split)
    if file is not None:
        return [line for line in read_lines(file) if line]
    masks = folder / "SegmentationObject"
    return sorted(path.relative_to(masks).with_suffix("").as_posix() for path in masks.rglob("*.png"))


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
