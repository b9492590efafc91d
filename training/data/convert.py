"""Turns a dataset of one format into another.

    maskserve convert --from cityscapes --to coco SOURCE TARGET
    maskserve convert --from coco --to yolo SOURCE TARGET --classes person,bike --rename bicycle=bike

TARGET must not exist yet, and appears complete or not at all. Images are copied unless --placement link is given.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from model.console.arguments import Parser
from model.console.running import interruptible
from training.command_line import require_writable, stop
from training.data.annotations.classes import add_class_flags, change_classes
from training.data.annotations.dataset import Dataset, DatasetError
from training.data.checking.broken import add_broken_flag, check, drop_broken, mended, openable, report
from training.data.checking.fingerprints import undecodable
from training.data.checking.read_back import Written, read_back
from training.data.formats.known import NAMES, WRITABLE, Format, find_format
from training.data.formats.locate import Located, add_origin_flags, locate, origin_of, require_there
from training.data.formats.writing import Placement
from training.data.hold_out import add_hold_out_flags, with_held_out

SHOWN = 20
"""Lines about one kind of broken record, or about names; the rest is counted."""


def convert(
    located: Located,
    target: Path,
    writer: Format,
    *,
    classes: Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    placement: Placement = "copy",
    skip_broken: bool = False,
    val: float | None = None,
    seed: int = 0,
) -> list[str]:
    """Reads a dataset, holds out a share `val` of its images, renames classes, then chooses some, and writes `target`;
    what happened, one line each. What was written is read again, and what the target format could not hold is said.

    Raises DatasetError for a source that cannot be read, broken records unless they are skipped, a class that is not
    there and a dataset that the target format cannot hold; FileExistsError when `target` is there already.
    """
    if writer.save is None:
        raise DatasetError(f"{writer.name} is only read; write one of {', '.join(WRITABLE)}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} is there already: give a new folder")
    lines: dict[str, list[str]] = {}
    written: dict[str, Written] = {}
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".convert-", dir=target.parent) as scratch:
        folder = Path(scratch) / "dataset"
        for split, loaded in with_held_out(located.read_aligned(), val, seed).items():
            data, skipped = _sound(loaded, skip_broken)
            data = change_classes(data, rename=rename or {}, classes=classes)
            placed = writer.save(data, folder, split, placement)
            written[split] = Written(data, [placed.folder / file for file in placed.files])
            new = [f"  not written: {line}" for line in placed.renamed[:SHOWN]]
            new += [f"  ... and {len(placed.renamed) - SHOWN} more names"] if len(placed.renamed) > SHOWN else []
            lines[split] = [*mended(loaded), *skipped, *_summary(split, data), *new]
        for split, changes in read_back(written, folder, writer.name).items():
            lines[split] += [f"  {change}" for change in changes]
        if target.exists():
            target.rmdir()
        folder.rename(target)
    images = "copied" if placement == "copy" else f"linked to {located.origin}"
    return [*(line for of_split in lines.values() for line in of_split), f"{target}: {writer.name}, images {images}"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 2 where nothing can be converted, 1 where writing fails on the way, the reason on stderr."""
    parser = Parser(prog="maskserve convert", description="Convert between dataset formats.")
    parser.add_argument("source", type=Path, nargs="?", help="folder of the dataset; none with --annotations")
    parser.add_argument("target", type=Path, help="folder to write; it must not exist")
    parser.add_argument("--from", dest="reader", choices=(*NAMES, "auto"), default="auto", help="format of SOURCE")
    parser.add_argument("--to", dest="writer", choices=WRITABLE, default="coco", help="format of TARGET (default coco)")
    add_class_flags(parser)
    add_origin_flags(parser)
    parser.add_argument(
        "--placement", choices=("copy", "link"), default="copy", help="copy images, or make symbolic links"
    )
    add_broken_flag(parser)
    add_hold_out_flags(parser)
    options = parser.parse_args(arguments)
    if options.source is None and not options.annotations:
        parser.error(f"TARGET is missing, the new folder to write: {options.target} is taken for it")
    require_writable("TARGET", options.target)
    if str(options.images) in ("copy", "link"):  # what --placement was called before --images was a folder
        options.placement, options.images = str(options.images), None
    origin = origin_of(options, options.source)
    try:
        require_there(origin)
    except DatasetError as error:
        stop(str(error))
    try:
        lines = convert(
            locate(origin, options.reader),
            options.target,
            find_format(options.writer),
            classes=options.classes,
            rename=options.rename,
            placement=options.placement,
            skip_broken=options.on_broken == "skip",
            val=options.val,
            seed=options.seed,
        )
    except (DatasetError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, (DatasetError, FileExistsError)) else 1
    print("\n".join(lines))
    return 0


def _sound(data: Dataset, skip_broken: bool) -> tuple[Dataset, list[str]]:
    """The dataset without broken records, and their report. Raises DatasetError where they are not to be skipped."""
    masks = any(item is not None for objects in data.annotations for item in objects.segmentations)
    problems = check(data, "masks" if masks else "boxes")
    # objects with a box alone are fine among others here: each format says what it makes of them
    problems = [problem for problem in problems if problem.kind != "no mask" or problem in data.problems]
    problems += undecodable(openable(data, problems))
    if not problems:
        return data, []
    text = f"{data.name}: {report(problems, SHOWN)}"
    if not skip_broken:
        raise DatasetError(f"{text}\nMend them, or convert without them: --on_broken skip")
    return drop_broken(data, problems), [text]


def _summary(split: str, data: Dataset) -> list[str]:
    objects: Counter[str] = Counter(dict.fromkeys(data.class_names, 0))
    crowds = 0
    for found in data.annotations:
        counts = np.bincount(found.labels[~found.crowd], minlength=data.num_classes)[1:]
        objects.update(dict(zip(data.class_names, counts.tolist(), strict=True)))
        crowds += int(found.crowd.sum())
    crowd = f" and {crowds} crowd regions" if crowds else ""
    lines = [f"{split}: {len(data)} images, {objects.total()} objects{crowd}"]
    return lines + [f"  {name}: {count}" for name, count in objects.items()]


if __name__ == "__main__":
    sys.exit(interruptible(main))
