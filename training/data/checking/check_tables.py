"""What the check of a dataset found, as a model for JSON and as tables for the terminal."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ConfigDict
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from model.architecture import Task
from model.console.arguments import this_command
from training.data.annotations.dataset import Problem
from training.data.checking.depths import Depth
from training.data.checking.duplicates import DuplicateObject, SamePicture
from training.data.checking.fingerprints import UnusualImage
from training.data.checking.statistics import ClassGap, ObjectStatistics, SplitStatistics, Spread
from training.data.checking.suggestion import Suggestion

SHOWN = 10
"""Lines of one kind on the terminal; the JSON has all."""
NAMES = 4
"""File names of one group on the terminal."""


class BrokenRecords(BaseModel):
    """The broken records of one split."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: str
    records: tuple[Problem, ...]


class Survey(BaseModel):
    """All that the check found. notes: what reading assumed. mended: one line for each split and kind of fault. empty:
    why there is nothing to train on, None where there is something. suggestion: what to train with, then; train_flags:
    the flags that name the data there.

    statistics are of the sound records; a split without any has none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    directory: str
    format: str
    task: Task
    statistics: tuple[SplitStatistics, ...]
    class_gaps: tuple[ClassGap, ...]
    broken: tuple[BrokenRecords, ...]
    notes: tuple[str, ...]
    mended: tuple[str, ...]
    empty: str | None
    duplicate_objects: tuple[DuplicateObject, ...]
    same_pictures: tuple[SamePicture, ...]
    unusual_images: tuple[UnusualImage, ...]
    depths: tuple[Depth, ...]
    advice: tuple[str, ...]
    suggestion: Suggestion | None
    train_flags: tuple[str, ...]

    @property
    def leaks(self) -> list[SamePicture]:
        """Pictures in more than one split."""
        return [group for group in self.same_pictures if group.leaks]

    @property
    def clean(self) -> bool:
        """Whether no record is broken, something can be trained on, and no picture is in two splits."""
        return not self.leaks and self.empty is None and not any(split.records for split in self.broken)


def print_survey(survey: Survey, console: Console) -> None:
    """The tables and lists, long ones cut short; what has to be mended comes last, where the eye is."""
    console.print(f"{survey.directory}: {survey.format}, checked for task {survey.task}", highlight=False, markup=False)
    for split in survey.statistics:
        console.print(_class_table(split))
    if survey.statistics:
        console.print(_split_table(survey.statistics))
    _section(console, "what this says about settings", survey.advice)
    if len(survey.statistics) > 1 or len(survey.class_gaps):
        _section(console, "classes without objects", (_gap(one) for one in survey.class_gaps))
    _section(console, "how it was read", survey.notes)
    _section(console, "mended in reading", survey.mended)
    _section(console, "unusual images", _unusual(survey.unusual_images))
    _section(console, "images of which 8 bits are made", (_depth(one) for one in survey.depths))
    _section(console, "objects annotated twice", (_duplicate(one) for one in survey.duplicate_objects))
    repeated = [group for group in survey.same_pictures if not group.leaks]
    _section(console, "pictures that are in a split twice", (_group(one) for one in repeated))
    _section(console, "pictures that are in more than one split", (_group(one) for one in survey.leaks))


def print_suggestion(survey: Survey, console: Console) -> None:
    """What fits the data, and the commands to train with; nothing where nothing can be trained on."""
    suggestion = survey.suggestion
    if suggestion is None or survey.empty is not None:
        return
    console.print("[bold]to train on it[/bold]")
    for line in suggestion.reasons:
        console.print(f"- {line}", highlight=False, markup=False, soft_wrap=True)
    if "--on_broken" in survey.train_flags:
        console.print("- without the broken records (--on_broken skip), unless you mend them", highlight=False)
    _command(suggestion.flags, survey, console)
    if suggestion.alternative is not None:
        console.print("without COCO's weights, a smaller network from scratch:", highlight=False)
        _command(suggestion.alternative, survey, console)


def _command(flags: Sequence[str], survey: Survey, console: Console) -> None:
    """On one line of its own, to be pasted into a shell."""
    recipe, rest = flags[:2], flags[2:]
    words = shlex.join(("train", *recipe, *survey.train_flags, *rest))
    console.print(f"{this_command()} {words}", highlight=False, markup=False, soft_wrap=True)


def _class_table(split: SplitStatistics) -> Table:
    # As narrow as it can be: a terminal of 80 columns has room for it.
    table = Table(title=f"{split.name}: {split.images} images", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("class", overflow="fold")
    for column in ("objects", "crowd", "images", "small", "med.", "large", "side, px", "an image"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in (*split.classes, split.total) if len(split.classes) > 1 else split.classes:
        table.add_row(
            escape(one.name), str(one.objects), str(one.crowds), str(one.images), *_shares(one),
            _spread(one.side), _counts(one.per_image), end_section=one is split.classes[-1],
        )  # fmt: skip
    return table


def _split_table(splits: Sequence[SplitStatistics]) -> Table:
    table = Table(title="images and crowding", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("")
    for split in splits:
        table.add_column(escape(split.name), justify="right", overflow="fold")
    rows = {
        "images without objects": [str(split.without_objects) for split in splits],
        "width, px": [_spread(split.width) for split in splits],
        "height, px": [_spread(split.height) for split in splits],
        "objects in a megapixel": [_spread(split.crowding.per_megapixel) for split in splits],
        "box height by width": [_spread(split.total.aspect, ".2g") for split in splits],
        "boxes that overlap another with IoU > 0.5": [f"{split.crowding.crowded:.1%}" for split in splits],
        "mean of each box's best IoU with another": [f"{split.crowding.mean_best_iou:.3f}" for split in splits],
    }
    if any(split.keypoints is not None for split in splits):
        rows["labeled keypoints"] = [str(split.keypoints or 0) for split in splits]
    for name, values in rows.items():
        table.add_row(name, *values)
    return table


def _section(console: Console, title: str, lines: Iterator[str] | Sequence[str]) -> None:
    found = list(lines)
    if not found:
        return
    console.print(f"[bold]{title}[/bold] ({len(found)})")
    for line in found[:SHOWN]:
        console.print(f"- {line}", highlight=False, markup=False, soft_wrap=True)
    if len(found) > SHOWN:
        console.print(f"- ... and {len(found) - SHOWN} more; --json FILE has all", highlight=False)
    console.print()


def _shares(one: ObjectStatistics) -> tuple[str, ...]:
    return tuple(f"{share:.0%}" if one.objects else "-" for share in (one.small, one.medium, one.large))


def _spread(spread: Spread | None, form: str = ".0f") -> str:
    """Median and range."""
    if spread is None:
        return "-"
    return f"{spread.median:{form}} ({spread.smallest:{form}}-{spread.largest:{form}})"


def _counts(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.median:.0f}, max {spread.largest:.0f}"


def _gap(gap: ClassGap) -> str:
    return f"{gap.name}: only in {', '.join(gap.present)}" if gap.present else f"{gap.name}: in no split"


def _unusual(images: Sequence[UnusualImage]) -> Iterator[str]:
    """One line for each kind, with the first few files."""
    files: dict[tuple[str, str], list[str]] = {}
    for image in images:
        files.setdefault((image.split, image.what), []).append(image.file)
    for (split, what), names in files.items():
        yield f"{split}: {what}: {_named(names)}"


def _depth(one: Depth) -> str:
    window = f"{_range(one.low)} becomes black, {_range(one.high)} white"
    broken = f"; {one.not_finite} with NaN or infinite values" if one.not_finite else ""
    return f"{one.split}: {one.images} of {one.values}, {one.mode}: {window}{broken}: {_named(one.files)}"


def _range(ends: tuple[float, float]) -> str:
    return f"{ends[0]:g}" if ends[0] == ends[1] else f"{ends[0]:g} to {ends[1]:g}"


def _duplicate(one: DuplicateObject) -> str:
    return f"{one.split}: {one.file}: {one.label} {one.first} and {one.second}, box IoU {one.box_iou:.2f}"


def _group(group: SamePicture) -> str:
    how = "the same pixels" if group.exact else "they look the same"
    spread = Counter(one.split for one in group.pictures)
    parts = []
    for split in spread:
        parts.append(f"{split}: {_named([one.file for one in group.pictures if one.split == split])}")
    return f"{how}: {'; '.join(parts)}"


def _named(files: Sequence[str]) -> str:
    more = f" and {len(files) - NAMES} more" if len(files) > NAMES else ""
    return ", ".join(files[:NAMES]) + more
