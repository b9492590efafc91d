"""What is in a dataset, and what is wrong with it.

    maskserve check DIR
    maskserve check DIR --recipe nuclei --json check.json --sheet check.png

Counts objects, names every broken record, and finds what is there twice: in an image, in a split, in several splits.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.progress import Progress

from model.architecture import Task, has_masks
from model.console.arguments import Parser, whole
from model.console.outputs import write_whole
from model.console.running import interruptible
from model.runtime.images.channels import RGB_CHANNELS
from model.runtime.images.values.intensity import Intensity
from training.command_line import load_recipe, require_writable, stop, unbroken_console
from training.config import TrainConfig, recipe_path
from training.data.annotations.dataset import Dataset, DatasetError, Problem
from training.data.checking.advice import advise
from training.data.checking.broken import check, drop_broken, nothing_to_train, openable, report
from training.data.checking.check_tables import BrokenRecords, Survey, print_suggestion, print_survey
from training.data.checking.contact_sheet import draw_sheet
from training.data.checking.depths import image_depths
from training.data.checking.duplicates import duplicate_objects, same_pictures
from training.data.checking.fingerprints import Fingerprint, fingerprint_images, unseen_channels, unusual_images
from training.data.checking.overwriting import encoded_picture, require_apart
from training.data.checking.statistics import class_gaps, gather_objects, split_statistics
from training.data.checking.suggestion import suggest
from training.data.formats.known import NAMES
from training.data.formats.locate import add_origin_flags, locate, origin_of
from training.data.hold_out import add_hold_out_flags, with_held_out


def survey_splits(
    directory: str,
    form: str,
    splits: dict[str, Dataset],
    task: Task,
    config: TrainConfig | None,
    *,
    origin_flags: tuple[str, ...],
    alike: bool,
    workers: int | None,
    progress: Progress,
) -> Survey:
    """Everything that `maskserve check` reports; `config` is what the advice is about: None for what is suggested.
    origin_flags: those of `maskserve train` that name this data.

    Decodes every image once. Raises DatasetError.
    """
    intensity = Intensity() if config is None else config.intensity
    channels = RGB_CHANNELS if config is None else config.architecture.channels
    problems: dict[str, list[Problem]] = {}
    prints: dict[str, list[Fingerprint]] = {}
    for name, data in splits.items():
        found = check(data, task)
        images = openable(data, found)
        bar = progress.add_task(f"reading {name}", total=len(images))
        advance = partial(progress.advance, bar)
        prints[name], undecoded = fingerprint_images(
            images, intensity, channels=channels, workers=workers, progress=advance
        )
        problems[name] = [*found, *undecoded]
    sound = {name: kept for name, data in splits.items() for kept in _sound(data, problems[name])}
    objects = {name: gather_objects(data) for name, data in sound.items()}
    statistics = {name: split_statistics(name, data, objects[name]) for name, data in sound.items()}
    twice = [one for name, data in sound.items() for one in duplicate_objects(name, data, with_masks=has_masks(task))]
    skipping = ("--on_broken", "skip") if any(problems[name] for name in ("train", "val") if name in problems) else ()
    suggestion = suggest(sound, objects, prints.get("train", ()), task)
    about = config or (TrainConfig() if suggestion is None else suggestion.config)
    return Survey(
        directory=directory,
        format=form,
        task=task,
        statistics=tuple(statistics.values()),
        class_gaps=tuple(class_gaps(statistics)),
        broken=tuple(BrokenRecords(split=name, records=tuple(found)) for name, found in problems.items()),
        notes=tuple(
            f"{name}: {note}" for name, data in splits.items() for note in (*data.notes, *unseen_channels(prints[name]))
        ),
        mended=tuple(f"{name}: {repair}" for name, data in splits.items() for repair in data.repairs),
        duplicate_objects=tuple(twice),
        same_pictures=tuple(same_pictures(prints, alike=alike)),
        unusual_images=tuple(unusual_images(prints)),
        depths=tuple(image_depths(prints)),
        empty=_empty(splits, sound),
        advice=tuple(advise(sound, objects, about.architecture)),
        suggestion=suggestion,
        train_flags=(*origin_flags, *skipping) if suggestion else (),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.sheet is not None and options.sheet.suffix.lower() not in (".png", ".jpg"):
        parser.error(f"--sheet {options.sheet}: give a name that ends in .png or .jpg")
    require_writable("--json", options.json, folder=False)
    require_writable("--sheet", options.sheet, folder=False)
    try:
        origin = origin_of(options, options.directory)
        located = locate(origin, options.format, options.task)
        splits = located.read_aligned()
        if located.single is not None:  # what is trained on, whatever its name
            splits = {"train": splits[located.single]}
        splits = with_held_out(splits, options.val, options.seed)
        recipe = None if options.recipe is None else recipe_path(options.recipe)
        outputs = {"--json": options.json, "--sheet": options.sheet}
        require_apart(outputs, origin, splits.values(), recipe)
        task = options.task or _task(splits)
        with Progress(console=Console(stderr=True), transient=True) as progress:
            survey = survey_splits(
                str(origin),
                located.format,
                splits,
                task,
                _config(recipe),
                origin_flags=_origin_flags(options, splits),
                alike=not options.exact,
                workers=options.workers,
                progress=progress,
            )
    except (DatasetError, ValueError) as error:
        stop(str(error))
    console = unbroken_console()
    print_survey(survey, console)
    for split in survey.broken:
        text = report(split.records, options.limit)
        console.print(f"{split.split}: {text}", highlight=False, markup=False, soft_wrap=True)
    if survey.empty is not None:
        console.print(survey.empty, highlight=False, markup=False, soft_wrap=True)
    if survey.leaks:
        console.print(f"leakage: pictures in more than one split: {len(survey.leaks)}", highlight=False)
    print_suggestion(survey, console)
    try:
        if options.json is not None:
            write_whole(options.json, f"{survey.model_dump_json(indent=2)}\n".encode())
        if options.sheet is not None:
            problems = {split.split: split.records for split in survey.broken}
            sheet = draw_sheet(splits, problems, options.count, with_masks=has_masks(task))
            write_whole(options.sheet, encoded_picture(sheet, options.sheet.suffix))
            console.print(f"pictures: {options.sheet}", highlight=False, markup=False, soft_wrap=True)
    except OSError as error:
        stop(f"cannot write {error.filename}: {error.strerror}")
    return 0 if survey.clean else 1


def _empty(splits: dict[str, Dataset], sound: dict[str, Dataset]) -> str | None:
    """Why there is nothing to train on, if that is so."""
    if "train" not in splits:
        return f"no split to train on: there is only {', '.join(splits)}; call one train, or divide it with --val"
    loaded = splits["train"]
    if "train" not in sound:
        return f"{loaded.name} has nothing to train on: every image is broken"
    return nothing_to_train(loaded, sound["train"], ())


def _sound(data: Dataset, problems: Sequence[Problem]) -> list[Dataset]:
    """The dataset without broken records; empty where nothing is left."""
    try:
        return [drop_broken(data, problems)]
    except DatasetError:
        return []


def _task(splits: dict[str, Dataset]) -> Task:
    """The most that the annotations could train."""
    masks = any(one is not None for data in splits.values() for some in data.annotations for one in some.segmentations)
    keypoints = all(data.num_keypoints for data in splits.values())
    if keypoints:
        return "masks_keypoints" if masks else "keypoints"
    return "masks" if masks else "boxes"


def _config(recipe: Path | None) -> TrainConfig | None:
    """The recipe that the advice is about, where one is given. Raises ValueError."""
    return None if recipe is None else TrainConfig(**load_recipe(recipe))


def _origin_flags(options: argparse.Namespace, splits: dict[str, Dataset]) -> tuple[str, ...]:
    """The flags of `maskserve train` that name the data of this check, with a validation split."""
    words: list[str] = []
    if options.directory is not None:
        words += ["--data", str(options.directory)]
    if options.annotations:
        words += ["--annotations", ",".join(map(str, options.annotations))]
    if options.images is not None:
        words += ["--images", str(options.images)]
    for flag, value in (("--orientation", options.orientation), ("--mask_objects", options.mask_objects)):
        words += [flag, value] if value != "auto" else []
    words += ["--class_attribute", options.class_attribute] if options.class_attribute is not None else []
    if options.val is not None:
        words += ["--val", f"{options.val:g}", *(["--seed", str(options.seed)] if options.seed else [])]
    elif "val" not in splits and len(splits.get("train", ())) > 1:
        words += ["--val", "0.2"]
    return tuple(words)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="maskserve check",
        description="Counts, sizes, crowding, duplicates, leakage between splits and broken records of a dataset.",
        epilog="Exit status: 0 clean; 1 broken records, nothing to train on, or pictures that are in more than one "
        "split (the same pixels, or looking the same unless --exact); 2 no dataset, or wrong arguments.",
    )
    parser.add_argument("directory", type=Path, nargs="?", help="dataset folder in any format of docs/formats.md")
    add_origin_flags(parser)
    parser.add_argument("--format", choices=(*NAMES, "auto"), default="auto", help="format of the folder")
    parser.add_argument("--task", choices=get_args(Task), help="what is to be trained; default: all that is annotated")
    add_hold_out_flags(parser)
    parser.add_argument("--recipe", help="recipe (name or .yaml) that the advice is about; default: what is suggested")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything here, nothing left out")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="draw a contact sheet here (.png or .jpg)")
    parser.add_argument("--count", type=whole(1), default=12, help="pictures of each split on the sheet (default 12)")
    parser.add_argument("--limit", type=whole(1), metavar="N", help="broken records of a kind to list; default: all")
    parser.add_argument("--exact", action="store_true", help="look for the same pixels only, not for similar pictures")
    parser.add_argument("--workers", type=whole(1), help="threads that read images; default: one a core")
    return parser


if __name__ == "__main__":
    sys.exit(interruptible(main))
