"""The check before training starts: every broken record by name, and a dataset without them.

    python -m training.data.check DIR
    python -m training.data.check DIR --recipe nuclei --json check.json --sheet check.png

Also counts objects and finds what is there twice: in an image, in a split, and in several splits. From code:

data = load_coco(*find_splits(directory, "masks").train)
problems = check(data, "masks")
if problems and not skip:
    raise SystemExit(report(problems))
data = drop_broken(data, problems)
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from model.architecture import ArchitectureConfig, Task, has_keypoints, has_masks
from model.runtime.detections import RLE
from training.command_line import load_recipe, stop
from training.config import TrainConfig, recipe_path
from training.data.advice import advise
from training.data.check_tables import BrokenRecords, Survey, print_survey
from training.data.coco import Annotations, CocoData, CocoError, ImageRecord, Problem
from training.data.contact_sheet import draw_sheet
from training.data.duplicates import duplicate_objects, same_pictures
from training.data.fingerprints import Fingerprint, fingerprint_images, unusual_images
from training.data.formats import NAMES, Format, detect_format, find_format
from training.data.statistics import class_gaps, gather_objects, split_statistics

BORDER = 1.0
"""Pixels that a box may reach over the image's border: rounding does that in COCO's own files."""


def check(data: CocoData, task: Task = "masks") -> list[Problem]:
    """What load_coco found, and what shows next to the images: missing, unreadable and mis-sized files (by the header,
    as stored, before EXIF rotation), empty boxes, boxes outside the image; for tasks with masks also absent, empty and
    mis-sized masks. No pixel is decoded.

    Raises CocoError for a task with keypoints on a dataset without keypoints: no record is to blame for that.
    """
    if has_keypoints(task) and not data.num_keypoints:
        raise CocoError(
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


def drop_broken(data: CocoData, problems: Sequence[Problem]) -> CocoData:
    """The dataset without the images and annotations that the problems name; its `problems` are empty.

    Raises CocoError when no image is left.
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
        raise CocoError(f"{data.name}: every image is broken; is {data.root} the right folder?")
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
        elif not annotations.select([row]).masks(image.height, image.width).any():
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


def survey_splits(
    directory: Path,
    form: Format,
    splits: dict[str, CocoData],
    task: Task,
    architecture: ArchitectureConfig,
    *,
    alike: bool,
    workers: int | None,
    progress: Progress,
) -> Survey:
    """Everything that `python -m training.data.check` reports. Decodes every image once. Raises CocoError."""
    problems: dict[str, list[Problem]] = {}
    prints: dict[str, list[Fingerprint]] = {}
    for name, data in splits.items():
        found = check(data, task)
        headers = {problem.image_id for problem in found if problem.kind in ("missing file", "unreadable image")}
        images = [record for record in data.images if record.id not in headers]
        bar = progress.add_task(f"reading {name}", total=len(images))
        prints[name], undecoded = fingerprint_images(images, workers=workers, progress=partial(progress.advance, bar))
        problems[name] = [*found, *undecoded]
    sound = {name: kept for name, data in splits.items() for kept in _sound(data, problems[name])}
    objects = {name: gather_objects(data) for name, data in sound.items()}
    statistics = {name: split_statistics(name, data, objects[name]) for name, data in sound.items()}
    twice = [one for name, data in sound.items() for one in duplicate_objects(name, data, with_masks=has_masks(task))]
    return Survey(
        directory=str(directory),
        format=form.name,
        task=task,
        statistics=tuple(statistics.values()),
        class_gaps=tuple(class_gaps(statistics)),
        broken=tuple(BrokenRecords(split=name, records=tuple(found)) for name, found in problems.items()),
        duplicate_objects=tuple(twice),
        same_pictures=tuple(same_pictures(prints, alike=alike)),
        unusual_images=tuple(unusual_images(prints)),
        advice=tuple(advise(sound, objects, architecture)),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.sheet is not None and options.sheet.suffix.lower() not in (".png", ".jpg"):
        parser.error(f"--sheet {options.sheet}: give a name that ends in .png or .jpg")
    if options.count < 1:
        parser.error(f"--count {options.count}: give 1 or more")
    try:
        form = _format(options.directory, options.format, options.task)
        splits = {name: form.load(options.directory, name) for name in form.splits(options.directory)}
        task = options.task or _task(splits)
        with Progress(console=Console(stderr=True), transient=True) as progress:
            survey = survey_splits(
                options.directory,
                form,
                splits,
                task,
                _architecture(options.recipe),
                alike=not options.exact,
                workers=options.workers,
                progress=progress,
            )
    except (CocoError, ValueError) as error:
        stop(str(error))
    console = Console()
    print_survey(survey, console)
    for split in survey.broken:
        text = report(split.records, options.limit)
        console.print(f"{split.split}: {text}", highlight=False, markup=False, soft_wrap=True)
    if survey.leaks:
        console.print(f"leakage: pictures in more than one split: {len(survey.leaks)}", highlight=False)
    try:
        if options.json is not None:
            options.json.write_text(survey.model_dump_json(indent=2) + "\n", encoding="utf-8")
        if options.sheet is not None:
            problems = {split.split: split.records for split in survey.broken}
            sheet = draw_sheet(splits, problems, options.count, with_masks=has_masks(task))
            Image.fromarray(sheet).save(options.sheet)
            console.print(f"pictures: {options.sheet}", highlight=False, markup=False, soft_wrap=True)
    except OSError as error:
        stop(f"cannot write {error.filename}: {error.strerror}")
    return 0 if survey.clean else 1


def _sound(data: CocoData, problems: Sequence[Problem]) -> list[CocoData]:
    """The dataset without broken records; empty where nothing is left."""
    try:
        return [drop_broken(data, problems)]
    except CocoError:
        return []


def _format(directory: Path, name: str, task: Task | None) -> Format:
    if name != "auto":
        form = find_format(name)
    elif task is not None and has_keypoints(task) and find_format("coco_keypoints").splits(directory):
        form = find_format("coco_keypoints")
    else:
        found = detect_format(directory)
        if found is None:
            raise CocoError(f"{directory} holds no known format ({', '.join(NAMES)}): see docs/formats.md")
        form = found
    if not form.splits(directory):
        raise CocoError(f"{directory} is no dataset of the format {form.name}; docs/formats.md says how it lies")
    return form


def _task(splits: dict[str, CocoData]) -> Task:
    """The most that the annotations could train."""
    masks = any(one is not None for data in splits.values() for some in data.annotations for one in some.segmentations)
    keypoints = all(data.num_keypoints for data in splits.values())
    if keypoints:
        return "masks_keypoints" if masks else "keypoints"
    return "masks" if masks else "boxes"


def _architecture(recipe: str | None) -> ArchitectureConfig:
    """What the advice is about: a recipe's, or the defaults. Raises ValueError."""
    return ArchitectureConfig() if recipe is None else TrainConfig(**load_recipe(recipe_path(recipe))).architecture


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.data.check",
        description="Counts, sizes, crowding, duplicates, leakage between splits and broken records of a dataset.",
        epilog="Exit status: 0 clean; 1 broken records, or pictures that are in more than one split (the same pixels, "
        "or looking the same unless --exact); 2 no dataset, or wrong arguments.",
    )
    parser.add_argument("directory", type=Path, help="dataset folder in any format of docs/formats.md")
    parser.add_argument("--format", choices=(*NAMES, "auto"), default="auto", help="format of the folder")
    parser.add_argument("--task", choices=get_args(Task), help="what is to be trained; default: all that is annotated")
    parser.add_argument("--recipe", help="recipe (name or .yaml) that the advice is about; default: torchvision's")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything here, nothing left out")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="draw a contact sheet here (.png or .jpg)")
    parser.add_argument("--count", type=int, default=12, help="pictures of each split on the sheet (default 12)")
    parser.add_argument("--limit", type=int, metavar="N", help="broken records of a kind to list; default: all")
    parser.add_argument("--exact", action="store_true", help="look for the same pixels only, not for similar pictures")
    parser.add_argument("--workers", type=int, help="threads that read images; default: one a core")
    return parser


if __name__ == "__main__":
    sys.exit(main())
