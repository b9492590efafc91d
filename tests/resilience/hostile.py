"""Damaged files in every accepted format, read as the server reads them and by other libraries.

python -m tests.resilience.hostile --count 20000                 # a line for each finding, then the figures
python -m tests.resilience.hostile --count 1 --seed 4711 --keep DIR   # one again; findings are written to DIR
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.resilience.damage import Hostile, hostile
from tests.resilience.opinions import Decoder, NobodyElse, Opinion, by_pillow, others, ours
from tests.resilience.samples import SIZE

MEGABYTES = 160
"""How much a process may grow that reads pictures of a megapixel, with its libraries."""
SECONDS = 2.0
TOLERANCE = 2
"""Levels of 8 bits by which two decoders of one lossy file may differ."""


@dataclass
class Report:
    """What became of the files: findings, and the counts of what they were answered with."""

    findings: list[tuple[Hostile, str]] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    megabytes: float = 0.0

    def add(self, file: Hostile, opinion: Opinion, finding: str) -> None:
        self.outcomes["refused" if opinion.picture is None else "read"] += 1
        self.slowest = max(self.slowest, opinion.seconds)
        self.megabytes = max(self.megabytes, opinion.megabytes)
        if finding:
            self.findings.append((file, finding))


def read_all(seeds: Iterable[int]) -> Iterator[tuple[Hostile, Opinion, str]]:
    """Each file with our opinion of it, and what is wrong with that, if anything is."""
    with Decoder(ours) as own, Decoder(others) as second, Decoder(by_pillow) as third:
        for seed in seeds:
            file = hostile(seed)
            opinion = own(file.data)
            finding = ""
            if opinion.picture is None:
                if opinion.kind != "ImageError":
                    finding = f"raised {opinion.said}"
            else:
                seen = [
                    decoder(file.data)
                    for decoder in ((second, third) if file.data[:2] in (b"II", b"MM") else (second,))
                ]
                finding = difference(opinion.picture, seen)
            yield file, opinion, finding


def difference(picture: NDArray[Any], seen: Iterable[Opinion]) -> str:
    """Empty where one of the others sees the same."""
    why = []
    for other in seen:
        if other.kind == NobodyElse.__name__:
            return ""
        if other.picture is None:
            why.append(f"another decoder refuses it: {other.said}")
        elif not (found := unlike(picture, other.picture)):
            return ""
        else:
            why.append(found)
    return "; ".join(why)


def unlike(one: NDArray[Any], other: NDArray[Any]) -> str:
    one, other = as_rgb(one), as_rgb(other)
    if one.shape != other.shape:
        return f"{one.shape} against {other.shape}"
    apart = np.abs(one.astype(np.float64) - other.astype(np.float64))
    # Where no frame of a GIF or WebP reaches, ours is white, as pages show it, and others' black.
    if one.shape[:2] != SIZE:
        apart[(one == 255).all(axis=-1) & (other == 0).all(axis=-1)] = 0
    scale = 1.0 if one.dtype.kind == "f" else max(1.0, np.iinfo(one.dtype).max / 255)
    if (apart > TOLERANCE * scale).any():
        return f"{(apart > TOLERANCE * scale).mean():.1%} of the values differ, by up to {apart.max():g}"
    return ""


def as_rgb(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype == bool:
        values = values.astype(np.uint8) * 255
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    return np.stack([values] * 3, axis=-1) if values.ndim == 2 else values


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first file; each is made of its seed alone")
    parser.add_argument("--keep", type=Path, help="folder for the files of findings")
    arguments = parser.parse_args()
    report = Report()
    for file, opinion, finding in read_all(range(arguments.seed, arguments.seed + arguments.count)):
        report.add(file, opinion, finding)
        if finding:
            print(f"{file.story}: {finding}", flush=True)
            if arguments.keep is not None:
                arguments.keep.mkdir(parents=True, exist_ok=True)
                (arguments.keep / file.story.split(":")[0].replace(" ", "-")).write_bytes(file.data)
    print(
        f"{arguments.count} files: {report.outcomes['refused']} refused, {report.outcomes['read']} read, "
        f"{len(report.findings)} findings; the slowest took {report.slowest:.2f} s, the process grew by "
        f"{report.megabytes:.0f} MB"
    )
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
