"""A validation split held out of a dataset that has none.

Which images are held out follows from a seed and the pictures alone, whatever the order of the files. Pictures that are
there twice, or look alike, stay on one side. Every class is shared out by itself, rare ones first, as K. Sechidis, G.
Tsoumakas and I. Vlahavas do it ("On the stratification of multi-label data", 2011).
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.runtime.bundles.writing import replace_file
from training.data.annotations.dataset import Dataset, DatasetError
from training.data.checking.content import fingerprint
from training.data.checking.duplicates import same_pictures
from training.data.checking.fingerprints import Fingerprint, fingerprint_images

FILE = "split.json"
"""Where a run keeps what it holds out, in its folder."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A validation split that was made. data: the fingerprint of what it divides; val: the files of the images held
    out, as the dataset names them, sorted."""

    share: float
    seed: int
    data: str
    val: tuple[str, ...]

    def save(self, folder: Path) -> None:
        """Writes `split.json` into a run's folder."""
        document = {"share": self.share, "seed": self.seed, "data": self.data, "val": self.val}
        replace_file(folder / FILE, (json.dumps(document, indent=1) + "\n").encode())

    def divides(self, data: Dataset) -> bool:
        """Whether it was made of this dataset, its files called as now. Reads as much of every image as tells it from
        others."""
        return set(self.val) <= {record.file for record in data.images} and self.data == _content(data)


def kept_split(folder: Path, share: float, seed: int) -> HeldOut | None:
    """The split that a run's folder keeps, if it is one of this share and seed."""
    try:
        document = json.loads((folder / FILE).read_text(encoding="utf-8"))
        kept = HeldOut(document["share"], document["seed"], document["data"], tuple(document["val"]))
    except (OSError, ValueError, KeyError, TypeError):  # none, or none of ours: it is made anew
        return None
    return kept if (kept.share, kept.seed) == (share, seed) else None


def choose(data: Dataset, share: float, seed: int) -> HeldOut:
    """Decodes every image once and chooses about `share` of them, 0 to 1.

    Raises DatasetError where the images cannot be divided.
    """
    prints, _ = fingerprint_images(data.images)
    groups = _groups(data, prints)
    if len(groups) < 2:
        raise DatasetError(f"{data.name} cannot be divided: its {len(data)} images are all the same or alike")
    digests = {one.file: one.digest for one in prints}
    keys = [_key(group, digests, seed) for group in groups]
    groups = [groups[index] for index in sorted(range(len(groups)), key=keys.__getitem__)]
    chosen = _share_out(_contents(data, groups), share)
    files = sorted(file for index in chosen for file in groups[index])
    return HeldOut(share, seed, _content(data), tuple(files))


def divide(data: Dataset, held_out: HeldOut) -> tuple[Dataset, Dataset]:
    """The images that are trained on, and those held out."""
    val = set(held_out.val)
    return _part(data, val, inside=False), _part(data, val, inside=True)


def with_held_out(splits: Mapping[str, Dataset], share: float | None, seed: int) -> dict[str, Dataset]:
    """The splits of a dataset, of which `share` of the images to train on become "val"; None: as they are.

    Raises DatasetError where there is a validation split already.
    """
    if share is None:
        return dict(splits)
    require_undivided(splits)
    train, val = divide(splits["train"], choose(splits["train"], share, seed))
    return {"train": train, "val": val, **{name: data for name, data in splits.items() if name != "train"}}


def require_undivided(splits: Collection[str]) -> None:
    """Raises DatasetError where a validation split cannot be made of `splits`."""
    if "val" in splits:
        raise DatasetError("the dataset has a validation split already: leave out --val")
    if "train" not in splits:
        raise DatasetError(f"--val takes images of the split train, and there is only {', '.join(splits)}")


def share_of_images(text: str) -> float:
    """The value of --val."""
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no share of the images: give one between 0 and 1, such as 0.2")
    return share


def add_hold_out_flags(parser: argparse.ArgumentParser) -> None:
    """--val and --seed, which `with_held_out` takes."""
    parser.add_argument(
        "--val", type=share_of_images, metavar="SHARE", help="hold out this share of the images as val: 0.2"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of --val, that of the training (default 0)")


def _content(data: Dataset) -> str:
    """The fingerprint of a dataset that is not checked yet: of the images that are there."""
    there = [row for row, record in enumerate(data.images) if record.path.is_file()]
    return fingerprint(data.part(there, data.name))


def _groups(data: Dataset, prints: Sequence[Fingerprint]) -> list[list[str]]:
    """The files of the dataset, those of the same and of similar pictures together."""
    group: dict[str, list[str]] = {record.file: [record.file] for record in data.images}
    for same in same_pictures({"": prints}):
        first = group[same.pictures[0].file]
        for picture in same.pictures[1:]:
            other = group[picture.file]
            if other is not first:
                first += other
                group |= dict.fromkeys(other, first)
    return list({id(files): files for files in group.values()}.values())


def _key(files: Sequence[str], digests: Mapping[str, bytes], seed: int) -> bytes:
    """What puts groups into an order that a seed draws: of the pixels, so that names do not matter either."""
    names = sorted(digests.get(file, file.encode("utf-8", "surrogatepass")) for file in files)
    return hashlib.sha256(b"\0".join((str(seed).encode(), *names))).digest()


def _contents(data: Dataset, groups: Sequence[Sequence[str]]) -> NDArray[np.int64]:
    """int64 [groups, C + 1]: objects of every class, crowd regions aside, and images."""
    index = {file: number for number, files in enumerate(groups) for file in files}
    contents = np.zeros((len(groups), len(data.categories) + 1), np.int64)
    for record, objects in zip(data.images, data.annotations, strict=True):
        row = contents[index[record.file]]
        row[:-1] += np.bincount(objects.labels[~objects.crowd], minlength=data.num_classes)[1:]
        row[-1] += 1
    return contents


def _share_out(contents: NDArray[np.int64], share: float) -> list[int]:
    """The groups that are held out: each goes where more of its rarest class is missing, else more images are."""
    totals = contents.sum(axis=0)
    missing = np.stack([(1 - share) * totals, share * totals])
    left, sides = totals.copy(), np.full(len(contents), -1)
    while (free := sides < 0).any():
        present = np.flatnonzero(left[:-1] > 0)
        column = int(present[left[present].argmin()]) if len(present) else len(left) - 1
        for group in np.flatnonzero(free & (contents[:, column] > 0)).tolist():
            side = int(missing[1, column] > missing[0, column])
            if missing[0, column] == missing[1, column]:
                side = int(missing[1, -1] > missing[0, -1])
            sides[group] = side
            missing[side] -= contents[group]
            left -= contents[group]
    chosen = np.flatnonzero(sides == 1).tolist()
    smallest = np.argsort(contents[:, -1], kind="stable").tolist()
    if not chosen:
        return [int(smallest[0])]
    return [int(group) for group in chosen if len(chosen) < len(contents) or group != smallest[0]]


def _part(data: Dataset, val: set[str], *, inside: bool) -> Dataset:
    rows = [row for row, record in enumerate(data.images) if (record.file in val) is inside]
    problems = tuple(problem for problem in data.problems if (problem.file in val) is inside)
    if inside:
        return data.part(rows, f"{data.name}, held out", problems)
    return replace(data.part(rows, data.name, problems), repairs=data.repairs, notes=data.notes)
