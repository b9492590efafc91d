"""One image of a dataset and its annotations, as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from faster_coco_eval import mask as mask_api
from numpy.typing import NDArray

from model.runtime.detections import RLE
from model.runtime.images.limits import ImageLimits
from model.runtime.kernels.rle import decode_part
from training.data.annotations.fields import Segmentation
from training.data.annotations.segmentations import PackedSegmentations

Window = tuple[int, int, int, int]
"""(top, left, height, width) in pixels of an image, inside it."""


LIMITS = ImageLimits(max_pixels=500_000_000)
"""A user's own images are trusted further than uploads."""


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image as the JSON describes it; width and height in pixels as stored, before any EXIF rotation.

    file is the JSON's file_name, path where that lies. text_id is its id there, where that is no number.
    """

    id: int
    path: Path
    width: int
    height: int
    file: str
    text_id: str = ""

    @property
    def original_id(self) -> int | str:
        """The id as the JSON has it."""
        return self.text_id or self.id


@dataclass(frozen=True, slots=True, eq=False)
class Annotations:
    """The N annotations of one image, in the order of the file.

    ids: int64 [N], the JSON's annotation ids, unique in the dataset.
    xywh: float64 [N, 4] boxes exactly as in the JSON: left, top, width, height in pixels.
    labels: int64 [N], 1..C contiguous, in rising category id (0 is background).
    crowd: bool [N]. area: float64 [N] in square pixels.
    segmentations: N masks as polygons or compressed RLE; None where the record has no mask.
    keypoints: float32 [N, K, 3] as (x, y, visibility: 0 unlabeled, 1 hidden, 2 visible); None without them.
    """

    ids: NDArray[np.int64]
    xywh: NDArray[np.float64]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    area: NDArray[np.float64]
    segmentations: Sequence[Segmentation]
    keypoints: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def boxes(self) -> NDArray[np.float32]:
        """float32 [N, 4], (x1, y1, x2, y2) in pixels; a new array at each call."""
        corners = np.concatenate([self.xywh[:, :2], self.xywh[:, :2] + self.xywh[:, 2:]], axis=1)
        return corners.astype(np.float32)

    def rles(self, height: int, width: int) -> list[RLE]:
        """The N masks as RLE of an image of height x width pixels.

        Raises ValueError where an annotation has no mask or its RLE has another size.
        """
        return [
            _encode(segmentation, height, width, int(id_))
            for segmentation, id_ in zip(self.segmentations, self.ids, strict=True)
        ]

    def masks(
        self, height: int, width: int, window: Window | None = None, size: tuple[int, int] | None = None
    ) -> NDArray[np.uint8]:
        """The N masks of an image of height x width pixels, as uint8 [N, height, width] of 0 and 1.

        window gives only that part of the image, size (height, width) resizes it, by the nearest pixel: [N, *size].
        Nothing larger than what is returned becomes pixels: an outline costs its length, not the area of the image.
        Raises ValueError as `rles` does, for a window outside the image and for an RLE that does not decode.
        """
        window = window or (0, 0, height, width)
        size = size or window[2:]
        masks = np.empty((len(self), *size), np.uint8)
        for mask, rle in zip(masks, self.rles(height, width), strict=True):
            mask[:] = decode_part(rle, window, size)
        return masks

    def select(self, rows: NDArray[np.bool_] | NDArray[np.int64] | Sequence[int]) -> Annotations:
        """The chosen annotations, by boolean mask [N] or by indices."""
        indices = np.arange(len(self))[np.asarray(rows, np.int64 if len(rows) == 0 else None)]
        segmentations: Sequence[Segmentation]
        if isinstance(self.segmentations, PackedSegmentations):
            segmentations = self.segmentations.take(indices)
        else:
            segmentations = tuple(self.segmentations[i] for i in indices)
        return Annotations(
            self.ids[indices],
            self.xywh[indices],
            self.labels[indices],
            self.crowd[indices],
            self.area[indices],
            segmentations,
            None if self.keypoints is None else self.keypoints[indices],
        )


def _encode(segmentation: Segmentation, height: int, width: int, id_: int) -> RLE:
    """One mask as RLE; polygons by the rasterizer that every COCO tool shares."""
    if segmentation is None:
        raise ValueError(f"annotation {id_} has no mask; train this dataset with task 'boxes', or give it masks")
    if isinstance(segmentation, RLE):
        if segmentation.size != (height, width):
            raise ValueError(f"RLE of annotation {id_} has size {segmentation.size}, its image {(height, width)}")
        return segmentation
    parts = mask_api.frPyObjects([polygon.ravel().tolist() for polygon in segmentation], height, width)
    return RLE((height, width), mask_api.merge(parts)["counts"])
