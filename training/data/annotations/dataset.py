"""A dataset in memory: images, what is annotated on them, classes, and what could not be read. Whatever format it came
from, and whatever it is written as.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from training.data.annotations.fields import Kind
from training.data.annotations.packed import PackedAnnotations, PackedImages
from training.data.annotations.records import Annotations, ImageRecord
from training.data.annotations.repair import Repair


class DatasetError(ValueError):
    """A file or folder that is not a dataset of its format at all, COCO or another."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One broken record.

    file is the image's file name, image_id and annotation_id the JSON's ids; each is None where it is not known. The
    annotation is the broken record where annotation_id is given, otherwise the image is (or a category).
    """

    kind: Kind
    message: str
    file: str | None = None
    image_id: int | None = None
    annotation_id: int | None = None


@dataclass(frozen=True, slots=True)
class Category:
    """A class as the JSON names it. keypoints are the names of its K keypoints, empty where it has none."""

    id: int
    name: str
    keypoints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """A dataset in memory. annotations[i] belongs to images[i]; images without annotations are there too.

    images and annotations may be given as any sequence and are packed, so that worker processes can share them.
    categories are sorted by id; label l is categories[l - 1]. problems names the records that were left out in loading.
    repairs counts what was mended there; notes says what else a person should know of the reading, a sentence each.
    num_keypoints is K, 0 in a dataset without keypoints.
    """

    name: str
    root: Path
    categories: tuple[Category, ...]
    images: Sequence[ImageRecord]
    annotations: Sequence[Annotations]
    num_keypoints: int = 0
    problems: tuple[Problem, ...] = ()
    repairs: tuple[Repair, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", PackedImages.pack(self.images))
        object.__setattr__(self, "annotations", PackedAnnotations.pack(self.annotations))

    def __len__(self) -> int:
        return len(self.images)

    def part(self, rows: Sequence[int], name: str, problems: tuple[Problem, ...] = ()) -> Dataset:
        """The images of these rows as a dataset of their own; what was mended and noted stays with the whole."""
        return replace(
            self,
            name=name,
            images=[self.images[row] for row in rows],
            annotations=[self.annotations[row] for row in rows],
            problems=problems,
            repairs=(),
            notes=(),
        )

    @property
    def num_classes(self) -> int:
        """Classes including the background, as `ArchitectureConfig.num_classes` counts them."""
        return len(self.categories) + 1

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of labels 1..C."""
        return tuple(category.name for category in self.categories)

    def label_to_category(self, label: int) -> int:
        """The JSON's category id of a label 1..C."""
        if not 1 <= label <= len(self.categories):
            raise ValueError(f"label {label} is not a class of {self.name}: it has labels 1 to {len(self.categories)}")
        return self.categories[label - 1].id
