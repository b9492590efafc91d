"""What the writers of all formats share: where images go, masks as outlines or as painted ids."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.runtime.detections import RLE
from model.runtime.kernels.masks import to_polygons
from training.data.annotations.dataset import Dataset
from training.data.annotations.orientation import points_to_upright
from training.data.annotations.records import Annotations, ImageRecord
from training.data.formats.assemble import Header, rectangle
from training.data.formats.naming import Names, findable, target_name, with_image_suffix

Placement = Literal["copy", "link"]
"""Images are copied, or linked to by absolute symbolic links."""
Ring = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Placed:
    """files[i] is the name of image i in its new folder, relative; renamed: those that others had, one line each."""

    folder: Path
    files: list[str]
    renamed: list[str]


def place_images(
    data: Dataset, folder: Path, placement: Placement, *, flat: bool = False, stems: bool = True
) -> Placed:
    """Copies or links every image into `folder`, and nowhere else, whatever its name.

    Folders inside the dataset are kept, or become part of the name where the format is `flat`. An image whose name is
    taken gets a number; so does one whose name differs by the suffix alone in a format that pairs files by `stems`.
    Such formats are read by searching folders: those that would mean something there become part of the name too.
    Raises DatasetError where such a format would not find an image again.
    """
    names = Names(stems=stems, taken=(path.relative_to(folder).as_posix() for path in folder.rglob("*")))
    placed = Placed(folder, [], [])
    for record in data.images:
        wanted = target_name(record, flat=flat)
        wanted = with_image_suffix(findable(wanted), record.path) if stems else wanted
        name = names.free(wanted)
        if name != wanted:
            placed.renamed.append(f"{record.file}: its name, which another image has; it is {name}")
        placed.files.append(name)
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if placement == "copy":
            shutil.copyfile(record.path, target)
        else:
            target.symlink_to(record.path.resolve())
    return placed


@dataclass(frozen=True, slots=True, eq=False)
class Painted:
    """An image's masks in one layer. ids: int64 [H, W], 1..N and 0 for background; labels: int64 [N], the class of each
    id."""

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]


def paint(record: ImageRecord, objects: Annotations, crowd: int = 0) -> Painted:
    """Numbers the objects of an image that have masks, in their order. Smaller ones lie on top of larger ones.

    Crowd regions get the value `crowd`, beneath the objects; 0 leaves them out.
    """
    masked = np.array([segmentation is not None for segmentation in objects.segmentations], np.bool_)
    regions, objects = objects.select(masked & objects.crowd), objects.select(masked & ~objects.crowd)
    canvas = np.zeros((record.height, record.width), np.int64)
    for row in np.argsort(-objects.area, kind="stable").tolist():
        canvas[objects.select([row]).masks(record.height, record.width)[0] > 0] = row + 1
    seen = np.unique(canvas[canvas > 0])
    ids = np.where(canvas > 0, np.searchsorted(seen, canvas) + 1, 0)
    for row in range(len(regions)) if crowd else ():
        region = regions.select([row]).masks(record.height, record.width)[0] > 0
        ids[region & (canvas == 0)] = crowd
    return Painted(ids, objects.labels[seen - 1])


def outlines(header: Header, objects: Annotations, row: int, *, join: bool) -> list[Ring]:
    """One object's outlines on the image of `header`, each float64 [P, 2] (x, y) in pixels of the picture as seen.

    Holes are joined to the outline around them by a cut of no width, and so are the parts where `join` asks for a
    single outline. A box without mask gives its rectangle. Pixels stay exactly the same.
    """
    segmentation = objects.segmentations[row]
    rings: list[Ring]
    if segmentation is None:
        x, y, width, height = objects.xywh[row].tolist()
        rings = [rectangle(x, y, width, height)]
    elif isinstance(segmentation, RLE) or (join and len(segmentation) > 1):
        # parts may overlap, and a single outline around both would cut out what they share
        rle = objects.select([row]).rles(header.height, header.width)[0]
        parts = [_joined([np.array(ring, np.float64).reshape(-1, 2) for ring in part]) for part in to_polygons(rle)]
        rings = [_joined(parts)] if join and parts else parts
    else:
        rings = list(segmentation)
    return [points_to_upright(ring, (header.width, header.height), header.orientation) for ring in rings]


def _joined(rings: list[Ring]) -> Ring:
    """One ring that runs through all of them, along cuts that it goes there and back."""
    joined, rest = rings[0], rings[1:]
    for ring in rest:
        here, there = _nearest(joined, ring)
        loop = np.concatenate([ring[there:], ring[: there + 1]])
        joined = np.concatenate([joined[: here + 1], loop, joined[here:]])
    return joined


def _nearest(first: Ring, second: Ring) -> tuple[int, int]:
    """Indices of a point of `first` and of `second` close to it: nearest to the start of `second`, to save memory."""
    here = int(((first - second[0]) ** 2).sum(axis=1).argmin())
    return here, int(((second - first[here]) ** 2).sum(axis=1).argmin())
