"""Broken records: every one by name, and a dataset without them.

problems = check(data, "masks")
if problems and not skip:
    raise SystemExit(report(problems))
data = drop_broken(data, problems)
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from model.architecture import Task, has_keypoints, has_masks
from model.runtime.detections import RLE
from model.runtime.images.errors import ImageError
from model.runtime.images.reading import probe_file
from model.runtime.kernels.rle import area
from training.data.annotations.boxes import box_fault, listed
from training.data.annotations.dataset import Dataset, DatasetError, Problem
from training.data.annotations.records import LIMITS, Annotations, ImageRecord
from training.data.annotations.repair import mask_bounds
from training.data.annotations.runs import decode_runs

ALIKE = 10
"""Lines of a report that may differ by numbers and files alone."""
AROUND = 0.5
"""Share of a box's side around it within which one of its keypoints must lie."""


def check(data: Dataset, task: Task = "masks") -> list[Problem]:
    """What load_coco found, and what shows next to the images: missing, unreadable and mis-sized files (by the header,
    as stored, before EXIF rotation), boxes away from their masks, for tasks with keypoints those away from their boxes,
    for tasks with masks absent, empty and mis-sized ones. No pixel is decoded.

    Raises DatasetError for a task with keypoints or masks on a dataset without any: no record is to blame for that.
    """
    _require(data, task)
    problems = list(data.problems)
    for image, objects in zip(data.images, data.annotations, strict=True):
        problems += _check_file(image)
        problems += _check_masks(image, objects) if has_masks(task) else ()
        problems += _check_boxes(image, objects)
        problems += _check_keypoints(image, objects) if has_keypoints(task) else ()
    return problems


def add_broken_flag(parser: argparse.ArgumentParser) -> None:
    """--on_broken, which means the same wherever data are read."""
    parser.add_argument(
        "--on_broken", choices=("stop", "skip"), default="stop", help="stop at broken records, or leave them out"
    )


def report(problems: Sequence[Problem], limit: int | None = None) -> str:
    """The problems as text, grouped by kind; of each kind the first `limit`, or all. Without a limit, more than ALIKE
    that differ by numbers and files alone are one line with a count.
    """
    if not problems:
        return "no broken records"
    lines = [f"{len(problems)} broken record{'s' if len(problems) > 1 else ''}"]
    for kind in sorted({problem.kind for problem in problems}):
        group = [problem for problem in problems if problem.kind == kind]
        lines.append(f"{kind}: {len(group)}")
        alike: dict[str, list[Problem]] = {}
        for problem in group[:limit]:
            alike.setdefault(_pattern(problem), []).append(problem)
        for same in alike.values():
            if limit is None and len(same) > ALIKE:
                lines.append(f"{_line(same[0])}; and {len(same) - 1} more like it")
            else:
                lines += map(_line, same)
        if limit is not None and len(group) > limit:
            lines.append(f"  ... and {len(group) - limit} more")
    return "\n".join(lines)


def nothing_to_train(loaded: Dataset, data: Dataset, classes: Sequence[str]) -> str | None:
    """Why `data`, which is `loaded` without broken records, has no object to learn from; None where it has."""
    if any((~objects.crowd).any() for objects in data.annotations):
        return None
    objects, crowds = (
        sum(map(len, loaded.annotations)),
        sum(int(objects.crowd.sum()) for objects in loaded.annotations),
    )
    if objects > crowds:
        reason = f"every one of its {objects - crowds} objects is broken"
    elif crowds:
        reason = f"all of its {crowds} objects are crowd regions (iscrowd), which are not trained on"
    elif loaded.problems:
        reason = f"every annotation is broken, the first: {loaded.problems[0].message}"
    else:
        reason = f"none of its {len(loaded)} images has an object"
    chosen = f" of the classes {', '.join(classes)}" if classes else ""
    return f"{data.name} ({data.root}) has nothing to train on: {reason}{chosen}"


def _require(data: Dataset, task: Task) -> None:
    if has_keypoints(task) and not data.num_keypoints:
        raise DatasetError(
            f"{data.name} has no keypoints: train it with task 'boxes' or 'masks', or give keypoint annotations"
        )
    count = sum(map(len, data.annotations))
    labeled = (objects.keypoints[..., 2] > 0 for objects in data.annotations if objects.keypoints is not None)
    if has_keypoints(task) and count and not any(some.any() for some in labeled):
        raise DatasetError(
            f"{data.name}: none of its {count} objects has a labeled keypoint (visibility 1 or 2): train it with "
            f"--architecture.task boxes or masks, or annotate keypoints"
        )
    segmentations = (one for objects in data.annotations for one in objects.segmentations)
    if has_masks(task) and count and all(one is None for one in segmentations):
        train = "keypoints" if data.num_keypoints else "boxes"
        raise DatasetError(
            f"{data.name}: none of its {count} objects has a mask: train {train} alone with "
            f"--architecture.task {train}, or annotate outlines"
        )


def _line(problem: Problem) -> str:
    return f"  {problem.file}: {problem.message}" if problem.file else f"  {problem.message}"


def _pattern(problem: Problem) -> str:
    """A message without its numbers and its file."""
    message = problem.message.replace(problem.file, "") if problem.file else problem.message
    return re.sub(r"\d[\d.]*", "", message)


def mended(data: Dataset) -> list[str]:
    """What a person should know of the reading: its notes, and one line for each kind of fault that was mended, with a
    count and an example.
    """
    notes = [f"{data.name}, note: {note}" for note in data.notes]
    return [*notes, *(f"{data.name}, mended: {repair}" for repair in data.repairs)]


def openable(data: Dataset, problems: Sequence[Problem]) -> list[ImageRecord]:
    """The images that are there and begin as images do."""
    closed = {problem.image_id for problem in problems if problem.kind in ("missing file", "unreadable image")}
    return [record for record in data.images if record.id not in closed]


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
        yield Problem("missing file", f"image {image.original_id} is not there: {image.path}", image.file, image.id)
        return
    try:
        header = probe_file(image.path, LIMITS, upright=False)
    except (OSError, ImageError) as error:
        yield Problem("unreadable image", f"image {image.original_id} cannot be opened: {error}", image.file, image.id)
        return
    size = f"{header.width}x{header.height}"
    if (header.width, header.height) != (image.width, image.height):
        message = f"image {image.original_id} is {size} pixels, but {image.width}x{image.height} by its record"
        yield Problem("size mismatch", message, image.file, image.id)


def _check_boxes(image: ImageRecord, annotations: Annotations) -> Iterator[Problem]:
    for row in np.flatnonzero(~annotations.crowd).tolist():
        xywh = annotations.xywh[row]
        segmentation = annotations.segmentations[row]
        if isinstance(segmentation, RLE) and segmentation.size != (image.height, image.width):
            continue
        if (fault := box_fault(xywh, mask_bounds(segmentation))) is not None:
            id_ = int(annotations.ids[row])
            message = f"annotation {id_}: box {listed(xywh)} (x, y, width, height) {fault}"
            yield Problem("box off mask", message, image.file, image.id, id_)


def _check_keypoints(image: ImageRecord, annotations: Annotations) -> Iterator[Problem]:
    if annotations.keypoints is None:
        return
    low, high = annotations.xywh[:, :2], annotations.xywh[:, :2] + annotations.xywh[:, 2:]
    slack = AROUND * (high - low)
    places, labeled = annotations.keypoints[..., :2], annotations.keypoints[..., 2] > 0
    near = (places >= (low - slack)[:, None]).all(axis=2) & (places <= (high + slack)[:, None]).all(axis=2)
    for row in np.flatnonzero(labeled.any(axis=1) & ~(labeled & near).any(axis=1) & ~annotations.crowd).tolist():
        id_ = int(annotations.ids[row])
        message = f"annotation {id_}: all labeled keypoints lie away from its box, as if they were another object's"
        yield Problem("bad keypoints", message, image.file, image.id, id_)


def _check_masks(image: ImageRecord, annotations: Annotations) -> Iterator[Problem]:
    for row, segmentation in enumerate(annotations.segmentations):
        id_ = int(annotations.ids[row])
        where = f"annotation {id_}"
        if segmentation is None:
            yield Problem("no mask", f"{where} has no segmentation", image.file, image.id, id_)
        elif isinstance(segmentation, RLE):
            height, width = segmentation.size
            runs = decode_runs(segmentation.counts)
            if (height, width) != (image.height, image.width):
                message = f"{where} has an RLE of {width}x{height} pixels, its image {image.width}x{image.height}"
                yield Problem("bad RLE", message, image.file, image.id, id_)
            elif runs is None or (runs < 0).any() or runs.sum() != height * width:
                message = f"the RLE of {where} does not decode to {width}x{height} pixels"
                yield Problem("bad RLE", message, image.file, image.id, id_)
            elif runs[1::2].sum() == 0:
                yield Problem("empty mask", f"{where} has no foreground pixel", image.file, image.id, id_)
        elif not area(annotations.select([row]).rles(image.height, image.width)[0]):
            unit = all(bool(((ring >= 0) & (ring <= 1)).all()) for ring in segmentation)
            why = ": they lie between 0 and 1, as shares of the sides would; COCO's are in pixels" if unit else ""
            yield Problem("empty mask", f"the polygons of {where} cover no pixel{why}", image.file, image.id, id_)
