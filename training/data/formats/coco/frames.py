"""The frame of a COCO file: whether it was annotated on the pictures as stored, or as seen with their EXIF orientation.

COCO does not say. Where an image lies on its side (orientations 5 to 8) the size in its record tells; where it is only
mirrored or upside down (2, 3, 4), or square, nothing does: then the other images of the file tell, or a person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from faster_coco_eval import mask as mask_api
from numpy.typing import NDArray

from model.runtime.detections import RLE
from training.data.annotations.dataset import Dataset, Problem
from training.data.annotations.fields import BrokenRecord, Segmentation
from training.data.annotations.orientation import pixels_to_stored, points_to_stored
from training.data.annotations.records import Annotations, ImageRecord
from training.data.annotations.repair import mask_bounds
from training.data.formats.assemble import Header, encode_indices, read_header, rectangle

Frame = Literal["stored", "seen"]
Orientation = Literal["auto", "stored", "seen"]
"""What `--orientation` says of images whose size does not tell."""


def to_stored(data: Dataset, orientation: Orientation) -> Dataset:
    """The dataset with all annotations on the stored pixels; opens the header of every image.

    Images of which nothing tells the frame are left out and named in `problems`, unless they have no objects. Sizes
    that fit neither frame are left to the check.
    """
    turned = {row: header for row, record in enumerate(data.images) if (header := _turned(record)) is not None}
    frames = {row: _by_size(data.images[row], header) for row, header in turned.items()}
    unclear = [row for row, frame in frames.items() if frame is None]
    known = {frame for frame in frames.values() if frame is not None}
    told = known.pop() if orientation == "auto" and len(known) == 1 else None
    chosen = told if orientation == "auto" else orientation
    problems = []
    if chosen is None:
        problems = [_problem(data.images[row], turned[row]) for row in unclear if len(data.annotations[row])]
        frames |= dict.fromkeys(unclear, "stored")  # those that stay have no objects to be turned
    else:
        frames |= dict.fromkeys(unclear, chosen)
    seen = [row for row, frame in frames.items() if frame == "seen"]
    notes = _notes(data, seen, frames, unclear, "the other images tell" if told else f"--orientation {orientation}")
    against = [row for row, frame in frames.items() if row not in unclear and frame != orientation != "auto"]
    if against:
        notes.append(
            f"--orientation {orientation} is not what their sizes say of {_count(against)} with EXIF orientation, and "
            f"the sizes count, first: {data.images[against[0]].file}"
        )
    if not seen and not problems:
        return replace(data, notes=(*data.notes, *notes))
    left_out = {problem.image_id for problem in problems}
    images, annotations = list(data.images), list(data.annotations)
    for row in seen:
        header = turned[row]
        annotations[row] = _objects_to_stored(annotations[row], images[row], header)
        images[row] = replace(images[row], width=header.width, height=header.height)
    kept = [row for row, record in enumerate(images) if record.id not in left_out]
    return replace(
        data,
        images=[images[row] for row in kept],
        annotations=[annotations[row] for row in kept],
        problems=(*data.problems, *problems),
        notes=(*data.notes, *notes),
    )


def _turned(record: ImageRecord) -> Header | None:
    """The header of an image that is seen otherwise than it is stored; None for others, and for what the check names.

    A record without either of the picture's sizes is of another picture.
    """
    try:
        header = read_header(record.path)
    except BrokenRecord:
        return None
    stored = (header.width, header.height)
    if header.orientation == 1 or (record.width, record.height) not in (stored, header.upright):
        return None
    return header


def _by_size(record: ImageRecord, header: Header) -> Frame | None:
    if (header.width, header.height) == header.upright:
        return None
    return "seen" if (record.width, record.height) == header.upright else "stored"


def _problem(record: ImageRecord, header: Header) -> Problem:
    message = (
        f"image {record.original_id} has EXIF orientation {header.orientation}, and its size does not tell whether it "
        f"was annotated as seen or as stored: say --orientation seen (most tools) or --orientation stored"
    )
    return Problem("unclear orientation", message, record.file, record.id)


def _notes(
    data: Dataset, seen: Sequence[int], frames: dict[int, Frame | None], unclear: Sequence[int], told_by: str
) -> list[str]:
    sized = [row for row in seen if row not in set(unclear)]
    notes = []
    if sized:
        notes.append(
            f"annotated as seen, by their sizes: {_count(sized)} with EXIF orientation, turned to the stored "
            f"pixels, first: {data.images[sized[0]].file}"
        )
    objects = [row for row in unclear if len(data.annotations[row])]
    for frame in ("seen", "stored"):
        rows = [row for row in objects if frames[row] == frame]
        if rows and not (frame == "stored" and told_by.endswith("auto")):
            notes.append(
                f"taken as annotated as {frame} ({told_by}): {_count(rows)} with EXIF orientation, first: "
                f"{data.images[rows[0]].file}"
            )
    return notes


def _count(rows: Sequence[int]) -> str:
    return f"{len(rows)} image{'s' if len(rows) > 1 else ''}"


def _objects_to_stored(objects: Annotations, record: ImageRecord, header: Header) -> Annotations:
    """Objects of the picture as seen, as objects of the stored one."""
    size = (header.width, header.height)

    def turn(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return points_to_stored(points, size, header.orientation)

    boxes = []
    for x, y, width, height in objects.xywh.tolist():
        corners = turn(rectangle(x, y, width, height))
        boxes.append([*corners.min(axis=0), *np.ptp(corners, axis=0)])
    segmentations: list[Segmentation] = []
    for segmentation in objects.segmentations:
        if isinstance(segmentation, RLE):
            segmentations.append(_rle_to_stored(segmentation, record, header.orientation))
        else:
            segmentations.append(None if segmentation is None else tuple(map(turn, segmentation)))
    keypoints = objects.keypoints
    if keypoints is not None and len(keypoints):
        places = turn(keypoints[..., :2].reshape(-1, 2).astype(np.float64)).reshape(*keypoints.shape[:2], 2)
        labeled = keypoints[..., 2:] > 0
        keypoints = np.concatenate([np.where(labeled, places, 0), keypoints[..., 2:]], axis=2).astype(np.float32)
    xywh = np.array(boxes, np.float64).reshape(-1, 4)
    return replace(objects, xywh=xywh, segmentations=segmentations, keypoints=keypoints)


def _rle_to_stored(rle: RLE, record: ImageRecord, orientation: int) -> RLE:
    """A damaged, empty or mis-sized one stays as it is: the check names it."""
    if rle.size != (record.height, record.width) or mask_bounds(rle) is None:
        return rle
    pixels = mask_api.decode({"size": list(rle.size), "counts": rle.counts})
    return encode_indices(pixels_to_stored(pixels.astype(np.int64), orientation))[1]
