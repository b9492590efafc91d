"""Images of more than 8 bits in a dataset, and what becomes of them on their way to the network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from model.runtime.images.values.intensity import Applied, AppliedMode
from training.data.checking.fingerprints import Fingerprint


class Depth(BaseModel):
    """The images of one split that have one type of values and are made 8 bits of in one way.

    low and high: the least and the largest of the values that become black and white in any of them. not_finite: how
    many of the images have values that are NaN or infinite.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: str
    values: str
    mode: AppliedMode
    images: int
    low: tuple[float, float]
    high: tuple[float, float]
    not_finite: int
    files: tuple[str, ...]


def image_depths(splits: Mapping[str, Sequence[Fingerprint]]) -> list[Depth]:
    """The kinds of images that 8 bits are made of, in the order of their first image; none where all stay as they are.

    Images of one type that `auto` takes for different depths, such as 12 and 14 bits in 16, are of different kinds.
    """
    kinds: dict[tuple[str, str, AppliedMode, int], list[Fingerprint]] = {}
    for split, prints in splits.items():
        for one in prints:
            if one.applied is not None:
                depth = _depth(one.applied) if one.applied.mode == "auto" else 0
                kinds.setdefault((split, one.values, one.applied.mode, depth), []).append(one)
    return [
        Depth(
            split=split,
            values=values,
            mode=mode,
            images=len(prints),
            low=(min(one.low for one in done), max(one.low for one in done)),
            high=(min(one.high for one in done), max(one.high for one in done)),
            not_finite=sum(one.not_finite > 0 for one in done),
            files=tuple(one.file for one in prints),
        )
        for (split, values, mode, _), prints in kinds.items()
        for done in [[one.applied for one in prints if one.applied is not None]]
    ]


def _depth(applied: Applied) -> int:
    """Bits of the window that `auto` found, which may be a little wider than they."""
    return 2 * round(
        (math.log2(applied.high / 2 - applied.low / 2) + 1) / 2
    )  # floats may lie too far apart to subtract
