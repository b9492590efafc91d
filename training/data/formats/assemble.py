"""What the readers of all formats share: from the objects found on each image to `Dataset`.

Boxes and areas follow from the outlines. Records get ids 1, 2, ... in the order of reading, classes in the order that
the reader gives.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from faster_coco_eval import mask as mask_api
from numpy.typing import NDArray
from PIL import BmpImagePlugin, Image, ImageFile

from model.runtime.detections import RLE
from model.runtime.images.errors import ImageError
from model.runtime.images.formats.bmp import HEADER_BYTES, keep_palette
from model.runtime.images.reading import probe
from model.runtime.images.signatures import sniff_format
from training.data.annotations.dataset import Category, Dataset, DatasetError, Problem
from training.data.annotations.fields import BrokenRecord, Kind, Segmentation, class_name
from training.data.annotations.keypoints import fit_keypoints
from training.data.annotations.orientation import orientation_of, upright_size
from training.data.annotations.packed import PackedAnnotations
from training.data.annotations.records import LIMITS, Annotations, ImageRecord
from training.data.annotations.repair import Fitted, Repairs, cut_outline, fit, mask_area
from training.data.annotations.segmentations import PackedSegmentations


class Found(NamedTuple):
    """One object. xywh, in pixels, is needed only where there is no segmentation to take it from. keypoints: float64
    [K, 3] as (x in pixels, y, visibility), in formats that have them."""

    label: str
    segmentation: Segmentation
    crowd: bool = False
    xywh: tuple[float, float, float, float] | None = None
    keypoints: NDArray[np.float64] | None = None


class Header(NamedTuple):
    """Width and height as stored, and the EXIF orientation 1 to 8."""

    width: int
    height: int
    orientation: int

    @property
    def upright(self) -> tuple[int, int]:
        """(width, height) as seen."""
        return upright_size((self.width, self.height), self.orientation)


class Assembly:
    """A dataset in the making. Each image is packed as it comes, so that no object outlives its image's turn.

    unread counts shapes of kinds that cover no area, by kind.
    """

    def __init__(self, name: str, root: Path, num_keypoints: int = 0) -> None:
        """num_keypoints: K of every object, 0 in formats without."""
        self.name, self.root, self.num_keypoints = name, root, num_keypoints
        self.problems: list[Problem] = []
        self.repairs = Repairs()
        self.notes: list[str] = []
        self.unread: Counter[str] = Counter()
        self._images: list[ImageRecord] = []
        self._annotations: list[Annotations] = []
        self._labels: dict[str, int] = {}
        self._spellings: dict[str, dict[str, None]] = {}
        self._count = 0

    def relative(self, path: Path) -> str:
        """A file as messages name it: relative to the dataset, with forward slashes."""
        inside = path.is_relative_to(self.root)
        return path.relative_to(self.root).as_posix() if inside else path.name

    def add(self, path: Path, width: int, height: int, found: Sequence[Found]) -> None:
        """One image, sides in pixels as stored, and its objects in pixels of it."""
        self._images.append(ImageRecord(len(self._images) + 1, path, width, height, self.relative(path)))
        objects: list[tuple[Found, Fitted]] = []
        keypoints: list[NDArray[np.float64]] = []
        labels: list[int] = []
        for number, item in enumerate(found, 1):
            where = f"object {number} of {self.relative(path)}"
            box = None if item.xywh is None else np.array(item.xywh, np.float64)
            try:
                fitted = fit(item.segmentation, box, (width, height), where, self.repairs, boxed=box is not None)
                if item.keypoints is not None:
                    keypoints.append(fit_keypoints(item.keypoints, (width, height), where, self.repairs))
                labels.append(self._label(item.label, where))
                objects.append((item, fitted))
            except BrokenRecord as broken:
                self.broken(broken, path)
        self._annotations.append(
            Annotations(
                ids=np.arange(self._count + 1, self._count + 1 + len(objects)),
                xywh=np.array([fitted.xywh for _, fitted in objects], np.float64).reshape(-1, 4),
                labels=np.array(labels, np.int64),
                crowd=np.array([item.crowd for item, _ in objects], np.bool_),
                area=np.array([_area(fitted) for _, fitted in objects], np.float64),
                segmentations=PackedSegmentations.pack(fitted.segmentation for _, fitted in objects),
                keypoints=np.array(keypoints, np.float32).reshape(-1, self.num_keypoints, 3)
                if self.num_keypoints
                else None,
            )
        )
        self._count += len(objects)

    def _why_nothing(self) -> str:
        """What became of the annotations, where none is left."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.unread.most_common())
        if kinds:
            return f": its shapes cover no area ({kinds}); draw polygons"
        if self.problems:
            return f": {len(self.problems)} records are broken, the first: {self.problems[0].message}"
        left_out = [repair for repair in self.repairs.found if repair.kind.endswith("left out")]
        return f": {left_out[0]}" if left_out else ""

    def broken(self, broken: BrokenRecord, path: Path) -> None:
        """Names a record that is left out."""
        self.problems.append(Problem(broken.kind, broken.message, self.relative(path)))

    def _label(self, label: str, where: str) -> int:
        """The number of a class until `finish`. Raises BrokenRecord."""
        name = class_name(label)
        if not name:
            raise BrokenRecord("unknown category", f"{where} has a class whose name is blank")
        self._spellings.setdefault(name, {})[label] = None
        return self._labels.setdefault(name, len(self._labels) + 1)

    @property
    def found_names(self) -> list[str]:
        """The classes of what was found, sorted."""
        return sorted(self._labels)

    def finish(self, class_names: Sequence[str], keypoint_names: tuple[str, ...] = ()) -> Dataset:
        """The dataset, with labels 1..C in the order of `class_names`, which hold every class that was found; names
        that `class_name` makes equal are one class.

        Raises DatasetError when there is no image or no class.
        """
        if not self._images:
            first = f"; first of {len(self.problems)} problems: {self.problems[0].message}" if self.problems else ""
            raise DatasetError(f"{self.name}: no usable image in {self.root}{first}")
        if not class_names:
            raise DatasetError(
                f"{self.name}: nothing is annotated in {self.root}, so there is no class to learn{self._why_nothing()}"
            )
        listed: dict[str, list[str]] = {}
        for written in class_names:
            listed.setdefault(class_name(written), []).append(written)
        for name, spellings in listed.items():
            if len(spellings) == 1:
                spellings = list(self._spellings.get(name, ()))
            if len(spellings) > 1:
                self.repairs.note("classes of one name merged", " and ".join(map(repr, spellings)))
        names = list(listed)
        lookup = np.zeros(len(self._labels) + 1, np.int64)
        for name, label in self._labels.items():
            lookup[label] = names.index(name) + 1
        return Dataset(
            name=self.name,
            root=self.root,
            categories=tuple(Category(id_, name, keypoint_names) for id_, name in enumerate(names, 1)),
            images=self._images,
            annotations=PackedAnnotations.pack(self._annotations).relabel(lookup),
            num_keypoints=self.num_keypoints,
            problems=tuple(self.problems),
            repairs=self.repairs.found,
            notes=tuple(self.notes),
        )


def read_header(path: Path) -> Header:
    """Size and orientation of an image file. Raises BrokenRecord when it is missing or no image."""
    if path.is_file() and sniff_format(_begin(path)) == "TIFF":  # of more kinds than Pillow opens, as training reads it
        try:
            header = probe(path.read_bytes(), LIMITS, upright=False)
        except (OSError, ImageError) as error:
            raise BrokenRecord("unreadable image", f"{path} cannot be opened: {error}") from None
        return Header(header.width, header.height, 1)
    with opened_image(path, "unreadable image") as image:
        return Header(image.width, image.height, orientation_of(image))


def opened_image(path: Path, kind: Kind) -> ImageFile.ImageFile:
    """An image file, not decoded yet. Raises BrokenRecord of `kind` where it is none."""
    if not path.is_file():
        raise BrokenRecord("missing file", f"{path} is not there")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large images, which are fine here
            image = Image.open(path)
        if isinstance(image, BmpImagePlugin.BmpImageFile):
            with path.open("rb") as file:
                keep_palette(image, file.read(HEADER_BYTES))
        return image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BrokenRecord(kind, f"{path} cannot be opened: {error}") from None


def encode_indices(indices: NDArray[np.int64]) -> dict[int, RLE]:
    """Every value but 0 of [H, W] as the RLE of its pixels, in rising value. One pass, however many values."""
    height, width = indices.shape
    flat = indices.ravel(order="F")
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    stops = np.append(starts[1:], flat.size)
    values = flat[starts]
    order = np.argsort(values, kind="stable")
    found: dict[int, RLE] = {}
    for rows in np.split(order, np.flatnonzero(np.diff(values[order])) + 1):
        value = int(values[rows[0]])
        if value == 0:
            continue
        edges = np.stack([starts[rows], stops[rows]], axis=1).ravel()
        runs = np.diff(np.concatenate([[0], edges, [flat.size]]))
        packed = mask_api.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
        found[value] = RLE((height, width), packed["counts"])
    return found


def as_polygons(rings: Iterable[NDArray[np.float64]], where: str) -> Segmentation:
    """Rings [P, 2] as polygons. Raises BrokenRecord for fewer than 3 points and for numbers that are not finite."""
    polygons = tuple(np.ascontiguousarray(ring, np.float64) for ring in rings)
    for polygon in polygons:
        if len(polygon) < 3:
            raise BrokenRecord("bad polygon", f"{where} has {len(polygon)} points: an outline needs 3 or more")
        if not np.isfinite(polygon).all():
            raise BrokenRecord("non-finite number", f"{where} has a point that is NaN or infinite")
    return polygons


def union(parts: Sequence[Segmentation], size: tuple[int, int], where: str, repairs: Repairs) -> Segmentation:
    """Several parts of one object in an image of (width, height): polygons as they are, anything else as one RLE.

    Raises BrokenRecord where polygons beside an RLE lie outside the image.
    """
    polygons = tuple(ring for part in parts if isinstance(part, tuple) for ring in part)
    masks = [{"size": list(part.size), "counts": part.counts} for part in parts if isinstance(part, RLE)]
    if not masks:
        return polygons
    width, height = size
    polygons = cut_outline(polygons, size, where, repairs) if polygons else ()
    drawn = mask_api.frPyObjects([ring.ravel().tolist() for ring in polygons], height, width) if polygons else []
    return RLE((height, width), mask_api.merge([*masks, *drawn])["counts"])


def rectangle(x: float, y: float, width: float, height: float) -> NDArray[np.float64]:
    """float64 [4, 2], clockwise from the top left corner."""
    return np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]], np.float64)


def ellipse(x: float, y: float, radius_x: float, radius_y: float, turn: float = 0.0) -> NDArray[np.float64]:
    """float64 [72, 2]: an ellipse about (x, y), turned by `turn` radians."""
    angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    along, across = radius_x * np.cos(angles), radius_y * np.sin(angles)
    cosine, sine = np.cos(turn), np.sin(turn)
    return np.stack([x + cosine * along - sine * across, y + sine * along + cosine * across], axis=1)


def _area(fitted: Fitted) -> float:
    area = mask_area(fitted.segmentation)
    return float(fitted.xywh[2] * fitted.xywh[3]) if area is None else area


def _begin(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)
