"""Broken records: every one by name, and a dataset without them.

problems = check(data, "masks")
if problems and not skip:
    raise SystemExit(report(problems))
data = drop_broken(data, problems)
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.architecture import Task, has_keypoints, has_masks
from model.runtime.detections import RLE
from model.runtime.kernels.rle import area
from training.data.annotations.dataset import Dataset, DatasetError, Problem
from training.data.annotations.records import Annotations, ImageRecord

BORDER = 1.0
"""Pixels that a box may reach over the image's border: rounding does that in COCO's own files."""


def check(data: Dataset, task: Task = "masks") -> list[Problem]:
    """What load_coco found, and what shows next to the images: missing, unreadable and mis-sized files (by the header,
    as stored, before EXIF rotation), empty boxes, boxes outside the image; for tasks with masks also absent, empty and
    mis-sized masks. No pixel is decoded.

    Raises DatasetError for a task with keypoints on a dataset without keypoints: no record is to blame for that.
    """
    if has_keypoints(task) and not data.num_keypoints:
        raise DatasetError(
            f"{data.name} has no keypoints: train it with task 'boxes' or 'masks', or give keypoint annotations"
        )
    problems = list(data.problems)
    for image, objects in zip(data.images, data.annotations, strict=True):
        problems += _check_file(image)
        problems += _check_boxes(image, objects)
        if has_masks(task):
            problems += _check_masks(image, objects)
    return problems


def report(problems: Sequence[Problem], limit: int | None = None) -> str:
    """The problems as text, grouped by kind; of each kind the first `limit`, or all."""
    if not problems:
        return "no broken records"
    lines = [f"{len(problems)} broken record{'s' if len(problems) > 1 else ''}"]
    for kind in sorted({problem.kind for problem in problems}):
        group = [problem for problem in problems if problem.kind == kind]
        lines.append(f"{kind}: {len(group)}")
        for problem in group[:limit]:
            lines.append(f"  {problem.file}: {problem.message}" if problem.file else f"  {problem.message}")
        if limit is not None and len(group) > limit:
            lines.append(f"  ... and {len(group) - limit} more")
    return "\n".join(lines)


def drop_broken(data: Dataset, problems: Sequence[Problem]) -> Dataset:
    """The dataset without the images and annotations that the problems name; its `problems` are empty.

    Raises DatasetError when no image is left.
    """
    # What load_coco left out is gone already, and the id of a duplicate belongs to the record that stays.
    found = set(problems) - set(data.problems)
    broken_annotations = np.array([p.annotation_id for p in found if p.annotation_id is not None], np.int64)
    broken_images = {p.image_id for p in found if p.annotation_id is None}
    kept = [
        (image, objects.select(~np.isin(objects.ids, broken_annotations)))
        for image, objects in zip(data.images, data.annotations, strict=True)
        if image.id not in broken_images
    ]
    if not kept:
        raise DatasetError(f"{data.name}: every image is broken; is {data.root} the right folder?")
    return replace(
        data,
        images=tuple(image for image, _ in kept),
        annotations=tuple(objects for _, objects in kept),
        problems=(),
    )


def _check_file(image: ImageRecord) -> Iterator[Problem]:
    if not image.path.is_file():
        yield Problem("missing file", f"image {image.id} is not there: {image.path}", image.file, image.id)
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large images, which are fine here
            with Image.open(image.path) as header:
                width, height = header.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        yield Problem("unreadable image", f"image {image.id} cannot be opened: {error}", image.file, image.id)
        return
    if (width, height) != (image.width, image.height):
        message = f"image {image.id} is {width}x{height} pixels, but {image.width}x{image.height} by its record"
        yield Problem("size mismatch", message, image.file, image.id)


def _check_boxes(image: ImageRecord, annotations: Annotations) -> Iterator[Problem]:
    x, y, width, height = annotations.xywh.T
    empty = (width <= 0) | (height <= 0)
    outside = (np.minimum(x, y) < -BORDER) | (x + width > image.width + BORDER) | (y + height > image.height + BORDER)
    for row in np.flatnonzero(empty | outside):
        box = ", ".join(f"{number:g}" for number in annotations.xywh[row])
        where = f"annotation {annotations.ids[row]}: box [{box}] (x, y, width, height)"
        id_ = int(annotations.ids[row])
        if empty[row]:
            yield Problem("empty box", f"{where} has no area", image.file, image.id, id_)
        else:
            message = f"{where} reaches out of the image of {image.width}x{image.height}"
            yield Problem("box outside image", message, image.file, image.id, id_)


def _check_masks(image: ImageRecord, annotations: Annotations) -> Iterator[Problem]:
    for row, segmentation in enumerate(annotations.segmentations):
        id_ = int(annotations.ids[row])
        where = f"annotation {id_}"
        if segmentation is None:
            yield Problem("no mask", f"{where} has no segmentation", image.file, image.id, id_)
        elif isinstance(segmentation, RLE):
            height, width = segmentation.size
            runs = _runs(segmentation.counts)
            if (height, width) != (image.height, image.width):
                message = f"{where} has an RLE of {width}x{height} pixels, its image {image.width}x{image.height}"
                yield Problem("bad RLE", message, image.file, image.id, id_)
            elif runs is None or (runs < 0).any() or runs.sum() != height * width:
                message = f"the RLE of {where} does not decode to {width}x{height} pixels"
                yield Problem("bad RLE", message, image.file, image.id, id_)
            elif runs[1::2].sum() == 0:
                yield Problem("empty mask", f"{where} has no foreground pixel", image.file, image.id, id_)
        elif _is_far(segmentation, image):
            # not handed to the rasterizer, whose memory grows with the length of the outline
            message = f"{where} has polygon points far outside the image of {image.width}x{image.height}"
            yield Problem("bad polygon", message, image.file, image.id, id_)
        elif not area(annotations.select([row]).rles(image.height, image.width)[0]):
            yield Problem("empty mask", f"the polygons of {where} cover no pixel", image.file, image.id, id_)


def _is_far(polygons: Sequence[NDArray[np.float64]], image: ImageRecord) -> bool:
    """Whether a point lies further out than the image is large."""
    size = np.array([image.width, image.height])
    return any(bool(((points < -size) | (points > 2 * size)).any()) for points in polygons)


def _runs(counts: bytes) -> NDArray[np.int64] | None:
    """Run lengths [R] of a compressed RLE, or None where the string is not one.

    Each character carries five bits, low ones first, and a sixth that says that more follow; the last one's top bit is
    the sign. From the fourth run on, the difference to the run two before is stored (COCO's maskApi.c, rleFrString).
    """
    codes = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    last = np.flatnonzero((codes & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    if (last - first).max() > 6:  # 35 bits are more than any image has pixels
        return None
    shift = 5 * (np.arange(len(codes)) - np.repeat(first, last - first + 1))
    runs = np.add.reduceat((codes & 31) << shift, first)
    runs -= np.where(codes[last] & 16, np.int64(1) << (shift[last] + 5), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
