"""YOLO-seg (Ultralytics): `data.yaml`, images, and beside them a text file each with lines `class x1 y1 x2 y2 ...`.

Coordinates are shares of the width and height of the picture as seen, EXIF orientation applied. A line of `class x y
width height` is a box (center and sides) without a mask; keypoints follow it where the YAML has `kpt_shape` (YOLO
pose). An image without a text file has no objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from training.data.annotations.dataset import Dataset, DatasetError
from training.data.annotations.fields import BrokenRecord, Kind
from training.data.annotations.orientation import points_to_stored, points_to_upright
from training.data.formats.assemble import Assembly, Found, Header, as_polygons, read_header, rectangle
from training.data.formats.image_files import images_in
from training.data.formats.splits import SPLITS, noting_unused, outside
from training.data.formats.text_files import glance, read_text
from training.data.formats.writing import Placed, Placement, outlines, place_images
from training.data.formats.yolo.files import FILE, class_names, find_yolo, images_of, is_label, label_files
from training.data.formats.yolo.pose import LinesSeen, Pose, Values

LAYOUT = (
    "data.yaml with 'names' and 'train'; or images/ with labels/, lists (train.txt), or .txt files beside the images"
)
FAR = 0.5
"""Share of a side from which a point outside is no slip of the hand: the numbers are in another unit."""


def yolo_splits(folder: Path, file: Path | None = None) -> tuple[str, ...]:
    """The splits that the folder's YAML, or `file`, names and that are there; none if it is not a YOLO folder."""
    found = find_yolo(folder, file)
    if found is None:
        return ()
    return tuple(dict.fromkeys(split for split in (*SPLITS, *found.sources) if split in found.sources))


def yolo_left_out(folder: Path, file: Path | None = None) -> list[str]:
    """What to say of images with lines that are in no split; nothing where lists choose the images."""
    files = find_yolo(folder, file)
    sources = [] if files is None else [source for places in files.sources.values() for source in places]
    if not sources or outside(sources, [folder]) or not all(source.is_dir() for source in sources):
        return []
    others = outside(images_in(folder), sources)
    labeled = [image for image in others if any(is_label(place) for place in label_files(image))]
    return noting_unused(folder, "images with label files", labeled)


def load_yolo(folder: Path, split: str, file: Path | None = None) -> Dataset:
    """Reads a split of the folder that holds data.yaml, or that `file` is about.

    Raises DatasetError when it is not there, the classes are not named, or the lines look like keypoints that the YAML
    does not speak of; broken lines are left out and named in
    `problems`, and so is that no image has a label file.
    """
    files = find_yolo(folder, file)
    if files is None or split not in files.sources:
        raise DatasetError(f"{folder} has no YOLO split '{split}': looked for {LAYOUT}")
    source = files.sources[split][0]
    pose = files.pose
    assembly = Assembly(f"yolo_{split}", source if source.is_dir() else folder, 0 if pose is None else pose.count)
    images, notes = images_of(files, split)
    assembly.notes += [*files.notes, *(() if pose is None else pose.notes), *notes]
    found = [image for image in images if isinstance(image, Path)]
    labels = {image: next((place for place in label_files(image) if place.is_file()), None) for image in found}
    for image in images:
        if isinstance(image, BrokenRecord):
            assembly.broken(image, source)
    if found and not any(labels.values()):
        places = " and ".join(str(place) for place in label_files(found[0]))
        message = f"none of the {len(found)} images has a label file: of {found[0].name}, looked for {places}"
        assembly.broken(BrokenRecord("missing file", message), source)
    if all(place.is_dir() for place in files.sources[split]):  # beside what a list names lie the labels of other splits
        assembly.notes += _unused(labels)
    names = class_names(files, _highest(filter(None, labels.values())) if files.names is None else 0)
    if files.names is None:
        assembly.notes.append(f"nothing in {folder} names the classes: they are {', '.join(names)}; write classes.txt")
    seen = LinesSeen()
    for image, place in labels.items():
        try:
            header = read_header(image)
            reader = _LineReader(names, header, pose, seen)
            objects = [] if place is None else list(_objects(read_text(place).splitlines(), place, reader, assembly))
            assembly.add(image, header.width, header.height, objects)
        except BrokenRecord as broken:
            assembly.broken(broken, image)
    if not files.told:
        seen.require_outlines(assembly.name, files.origin)
    return assembly.finish(names, () if pose is None else pose.names)


def _unused(labels: Mapping[Path, Path | None]) -> list[str]:
    """What to say of label files that are nobody's: an image that they were meant for counts as background."""
    used = {place for place in labels.values() if place is not None}
    unused = [file for folder in {place.parent for place in used} for file in folder.glob("*.txt") if file not in used]
    lonely = sorted(file for file in unused if is_label(file))
    if not lonely:
        return []
    bare = sum(place is None for place in labels.values())
    return [f"{len(lonely)} label files belong to no image, first: {lonely[0]}; {bare} images have none"]


def save_yolo(data: Dataset, folder: Path, split: str, placement: Placement) -> Placed:
    """Adds `images/SPLIT`, `labels/SPLIT` and the split's line in data.yaml.

    Each object is one line: its holes and parts are joined by cuts of no width. Crowd regions are left out: YOLO has no
    such thing, and as objects they would teach wrong outlines.
    """
    images = folder / "images" / split
    placed = place_images(data, images, placement)
    for record, objects, file in zip(data.images, data.annotations, placed.files, strict=True):
        header = read_header(record.path)
        lines = []
        for row in np.flatnonzero(~objects.crowd).tolist():
            if objects.segmentations[row] is None:
                x, y, width, height = objects.xywh[row].tolist()
                corners = points_to_upright(
                    rectangle(x, y, width, height), (header.width, header.height), header.orientation
                )
                low, high = corners.min(axis=0), corners.max(axis=0)
                shapes = [np.stack([(low + high) / 2, high - low])]
            else:
                shapes = outlines(header, objects, row, join=True)
            for points in shapes:
                numbers = " ".join(map(str, _shares(points, header.upright).ravel().tolist()))
                lines.append(f"{objects.labels[row] - 1} {numbers}\n")
        target = label_files(images / file)[0]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("".join(lines))
    written = folder / FILE
    document = yaml.safe_load(written.read_text(encoding="utf-8")) if written.is_file() else {}
    document |= {split: f"images/{split}", "names": dict(enumerate(data.class_names))}
    written.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return placed


def _shares(points: Values, sides: tuple[int, int]) -> Values:
    """Points [P, 2] in pixels as shares of the sides, from which no coordinate comes back smaller: rasterizing cuts off
    what is behind a step of a fifth of a pixel, on which points with two decimals lie."""
    shares = points / sides
    return np.where(shares * sides < points, np.nextafter(shares, np.inf), shares)


def _highest(files: Iterable[Path]) -> int:
    """The highest class number in label files, 0 without any."""
    numbers = (line.split(maxsplit=1)[0] for file in files for line in glance(file).splitlines() if line.strip())
    return max((int(number) for number in numbers if number.isdigit()), default=0)


def _objects(lines: list[str], file: Path, reader: _LineReader, assembly: Assembly) -> Iterator[Found]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield reader.read(line.split(), f"line {number} of {file}")
            except BrokenRecord as broken:
                assembly.broken(broken, file)


class _LineReader(NamedTuple):
    """What the lines of one image are read with."""

    names: tuple[str, ...]
    header: Header
    pose: Pose | None
    seen: LinesSeen

    def read(self, fields: list[str], where: str) -> Found:
        """One line. Raises BrokenRecord."""
        try:
            class_index, shares = float(fields[0]), np.array(fields[1:], np.float64)
        except ValueError:
            raise BrokenRecord("wrong type", f"{where} holds something that is no number") from None
        if not class_index.is_integer() or not 0 <= class_index < len(self.names):
            known = f"the YAML names 0 to {len(self.names) - 1}"
            raise BrokenRecord("unknown category", f"{where} has class {fields[0]}, {known}")
        if not np.isfinite(shares).all():
            raise BrokenRecord("non-finite number", f"{where} holds NaN or infinity")
        name = self.names[int(class_index)]
        if self.pose is not None:
            return self._with_keypoints(name, shares, self.pose.read(shares, where), where)
        self.seen.add(shares)
        if len(shares) < 4 or len(shares) % 2:
            message = f"{where} has {len(shares)} coordinates: it needs x, y of 3 points or more"
            raise BrokenRecord("bad polygon", message)
        _require_shares(shares, "bad polygon", where)
        if len(shares) == 4:
            return Found(name, None, xywh=self._box(shares))
        return Found(name, as_polygons([self._to_stored(shares.reshape(-1, 2))], where))

    def _with_keypoints(self, name: str, shares: Values, keypoints: Values, where: str) -> Found:
        labeled = keypoints[:, 2] > 0
        _require_shares(np.concatenate([shares[:4], keypoints[labeled, :2].ravel()]), "bad keypoints", where)
        points = np.where(labeled[:, None], self._to_stored(keypoints[:, :2]), 0)
        return Found(name, None, xywh=self._box(shares[:4]), keypoints=np.column_stack([points, keypoints[:, 2]]))

    def _box(self, shares: Values) -> tuple[float, float, float, float]:
        center, sides = shares.reshape(2, 2)
        corners = self._to_stored(rectangle(*(center - sides / 2), *sides))
        low, high = corners.min(axis=0), corners.max(axis=0)
        return low[0], low[1], high[0] - low[0], high[1] - low[1]

    def _to_stored(self, points: Values) -> Values:
        """Points [P, 2] as shares of the picture as seen, in pixels of the stored one."""
        size = (self.header.width, self.header.height)
        return points_to_stored(points * self.header.upright, size, self.header.orientation)


def _require_shares(shares: Values, kind: Kind, where: str) -> None:
    if (shares < -FAR).any() or (shares > 1 + FAR).any():
        raise BrokenRecord(kind, f"{where} has coordinates outside 0 to 1: divide by the image's sides")
