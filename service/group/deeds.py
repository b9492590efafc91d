"""What each version did, for the statistics of the Open Inference Protocol: as samples of an account, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from service.group.accounts import LAST_DEED, Account
from service.observability.by_version import STAGES, Deeds, Key, Total

DEEDS: Final = "deeds"
HIDDEN: Final = (DEEDS, LAST_DEED)
"""What an account has and the metrics have not."""


def packed(deeds: Mapping[Key, Deeds]) -> Account:
    sums, last = [], []
    for (model, version), of in deeds.items():
        labels = {"model": model, "version": str(version)}
        for part in _parts(of):
            total = _part(of, part)
            sums += [[f"{part} count", labels, total.count], [f"{part} seconds", labels, total.seconds]]
        last.append(["last", labels, of.last])
    return [[DEEDS, "", "counter", sums], [LAST_DEED, "", "counter", last]]


def unpacked(account: Account) -> dict[Key, Deeds]:
    """The parts that `packed` had; times without their histograms, which are metrics."""
    deeds: dict[Key, Deeds] = {}
    for name, labels, value in (sample for metric in account if metric[0] in HIDDEN for sample in metric[3]):
        of = deeds.setdefault((labels["model"], int(labels["version"])), Deeds())
        part, _, what = name.rpartition(" ")
        if what == "last":
            of.last = value
        elif what == "count":
            _part(of, part).count = round(value)
        else:
            _part(of, part).seconds = value
    return deeds


def _parts(deeds: Deeds) -> Iterator[str]:
    yield from ("answered", "failed")
    yield from (f"stage {stage}" for stage in STAGES)
    yield from (f"run {size}" for size in deeds.runs)
    yield from (f"{side} {size}" for size in deeds.sizes for side in ("before", "behind"))


def _part(deeds: Deeds, part: str) -> Total:
    kind, _, of = part.partition(" ")
    match kind:
        case "answered":
            return deeds.answered
        case "failed":
            return deeds.failed
        case "stage":
            return deeds.stages[of]
        case "run":
            return deeds.runs[int(of)]
        case _:
            return deeds.sizes[int(of)][kind == "behind"]
