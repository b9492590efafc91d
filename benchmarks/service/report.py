"""What `benchmarks.service` prints: every comparison in a few lines, then the targets beside what was found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.measure import Comparison, validity
from benchmarks.service.turns import OURS
from model.runtime.engines.processor import processor_features

PYTHON_PEERS = ("fastapi", "litserve", "bentoml")
"""Those whose whole server is Python."""

SAME_THRESHOLD = {"f32": 2.2, "bf16": 4.0, "int8": 6.0}
"""By what ours computes in; INT8 on a processor with AMX."""
INT8_WITHOUT_AMX = 3.5
AS_DOCUMENTED = 4.0
NULL_P50 = 1.3
NULL_SHARE = 0.9
ENGINE_SHARE = 0.92
PEAK_BYTES = 700e6
GROWTH_BYTES = 5e6
"""Over `GROWTH_REQUESTS`: below it, a slope is taken for the noise of an allocator."""
GROWTH_REQUESTS = 10_000
START_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Target:
    """What was wanted and what was found; `met` is None when nothing was measured for it."""

    wanted: str
    found: str
    met: bool | None

    def __str__(self) -> str:
        verdict = {True: "met", False: "MISSED", None: "not measured"}[self.met]
        return f"{verdict:12} {self.wanted}: {self.found}"


def describe(comparison: Comparison) -> str:
    """A comparison in a few lines."""
    details = comparison.details
    kind = details["kind"]
    if kind == "engine":
        share = comparison[OURS]
        lines = [
            f"engine alone: the service reaches {share.speedup:.1%} of it "
            f"({share.round_speedups.p10:.1%} to {share.round_speedups.p90:.1%})"
        ]
    elif kind == "growth":
        slope, error = details["slope_bytes_per_request"], details["two_standard_errors"]
        lines = [
            f"memory over {details['requests']} requests ({details['model']} model): "
            f"{details['resident_bytes'][0] / 1e6:.1f} to {details['resident_bytes'][-1] / 1e6:.1f} MB, slope "
            f"{slope:+.0f} ± {error:.0f} bytes a request: at most "
            f"{(slope + error) * GROWTH_REQUESTS / 1e6:+.1f} MB over {GROWTH_REQUESTS}"
        ]
    elif kind == "start":
        lines = ["process start to first answer"]
        for name, seconds in details["seconds_to_first_answer"].items():
            lines.append(f"  {name:22} {median(seconds):6.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")
    else:
        lines = _describe_turns(comparison)
    return "\n".join([*lines, f"  {validity(comparison)}"])


def _describe_turns(comparison: Comparison) -> list[str]:
    details = comparison.details
    ratio = comparison[OURS]
    lines = [
        f"{details['peer']}, {details['kind']}, {details['connections']} connection(s): {ratio.speedup:.2f}x "
        f"({ratio.round_speedups.p10:.2f} to {ratio.round_speedups.p90:.2f})"
    ]
    for name, one in details["servers"].items():
        line = (
            f"  {name:12} {one['requests_per_second']:8.2f} req/s   p50 {one['p50_ms']:9.1f} ms   "
            f"p99 {one['p99_ms']:9.1f} ms   processor {one['processor_ms_per_request']:8.2f} ms a request   "
            f"peak {one['peak_bytes'] / 1e6:5.0f} MB"
        )
        if (agreement := one["agreement"]) is not None:
            line += (
                f"   changed {agreement['changed_images']} of {agreement['images']} images"
                f" (lowest mask IoU {agreement['lowest_iou']:.3f})"
            )
        if one["failed"]:
            line += f"   FAILED: {len(one['failed'])} requests {sorted(set(one['failed']))}"
        lines.append(line)
    return lines


def _same_threshold(precision: str) -> float:
    """What is wanted of ours in it on this processor; of `auto`, what is wanted of INT8."""
    if precision in ("int8", "auto") and "amx_int8" not in processor_features():
        return INT8_WITHOUT_AMX
    return SAME_THRESHOLD.get(precision, SAME_THRESHOLD["int8"])


def targets(comparisons: Sequence[Comparison], precision: str = "f32") -> list[Target]:
    """Every target with the worst that was found for it. `precision` is what ours was told to compute in."""
    turns = [one for one in comparisons if "servers" in one.details]
    served = [one for one in turns if one.details["kind"] != "null"]
    null = [one for one in turns if one.details["kind"] == "null"]
    python = [one for one in null if one.details["peer"] in PYTHON_PEERS]
    engine = [one for one in comparisons if one.details["kind"] == "engine"]
    started = [one for one in comparisons if one.details["kind"] == "start"]

    def kind(name: str) -> list[Comparison]:
        return [one for one in served if one.details["kind"] == name and one.details["connections"] == 8]

    return [
        _least(
            f"same threshold, {precision}, 8 connections, times the best peer",
            _same_threshold(precision),
            kind("tuned"),
            _speedup,
        ),
        _least("as documented, 8 connections, times the best peer", AS_DOCUMENTED, kind("documented"), _speedup),
        _least("p99 of every peer over ours, at 1 and 8 connections", 1.0, served, _p99_ratio, strictly=True),
        _unchanged(served),
        _least("null model, requests per second over every Python peer's", 1.0, python, _speedup, strictly=True),
        *_beside_bare(python),
        _least("share of the engine alone", ENGINE_SHARE, engine, _speedup),
        _most("peak memory under load, MB", PEAK_BYTES / 1e6, [_ours(one, "peak_bytes") / 1e6 for one in served]),
        *_growth(comparisons),
        _most("start to first answer, s", START_SECONDS, [_median_start(one) for one in started], strictly=True),
    ]


def _speedup(comparison: Comparison) -> float:
    return comparison[OURS].speedup


def _ours(comparison: Comparison, figure: str) -> float:
    return float(comparison.details["servers"][OURS][figure])


def _peer(comparison: Comparison) -> dict[str, Any]:
    figures: dict[str, Any] = comparison.details["servers"][comparison.details["peer"]]
    return figures


def _p99_ratio(comparison: Comparison) -> float:
    return float(_peer(comparison)["p99_ms"]) / _ours(comparison, "p99_ms")


def _median_start(comparison: Comparison) -> float:
    return float(median(comparison.details["seconds_to_first_answer"][OURS]))


def _least(
    what: str,
    bound: float,
    comparisons: Sequence[Comparison],
    figure: Callable[[Comparison], float],
    *,
    strictly: bool = False,
) -> Target:
    wanted = f"{what}, {'above' if strictly else 'at least'} {bound:g}"
    if not comparisons:
        return Target(wanted, "-", None)
    worst = min(comparisons, key=figure)
    beside = worst.details.get("peer", "")
    found = figure(worst)
    return Target(wanted, f"{found:.2f} {beside}".strip(), found > bound if strictly else found >= bound)


def _most(what: str, bound: float, found: Sequence[float], *, strictly: bool = False) -> Target:
    wanted = f"{what}, {'below' if strictly else 'at most'} {bound:g}"
    if not found:
        return Target(wanted, "-", None)
    worst = max(found)
    return Target(wanted, f"{worst:.2f}", worst < bound if strictly else worst <= bound)


def _unchanged(served: Sequence[Comparison]) -> Target:
    agreements = [one.details["servers"][OURS]["agreement"] for one in served if one.details["connections"] > 1]
    changed = sum(agreement["changed_answers"] for agreement in agreements)
    answers = sum(agreement["answers"] for agreement in agreements)
    return Target("our answers changed under load, none", f"{changed} of {answers}", changed == 0 if answers else None)


def _beside_bare(python: Sequence[Comparison]) -> list[Target]:
    bare = [one for one in python if one.details["peer"] == "fastapi"]
    alone = [one for one in bare if one.details["connections"] == 1]
    many = [one for one in bare if one.details["connections"] > 1]
    ratios = [_ours(one, "p50_ms") / float(_peer(one)["p50_ms"]) for one in alone]
    return [
        _most("null model, 1 connection, p50 over a bare FastAPI handler's", NULL_P50, ratios),
        _least("null model, 8 connections, share of a bare FastAPI handler's requests", NULL_SHARE, many, _speedup),
    ]


def _growth(comparisons: Sequence[Comparison]) -> list[Target]:
    found = []
    for one in comparisons:
        if one.details["kind"] == "growth":
            slope, error = one.details["slope_bytes_per_request"], one.details["two_standard_errors"]
            bound = (slope + error) * GROWTH_REQUESTS
            met = slope - error <= 0 or bound <= GROWTH_BYTES
            text = f"{slope:+.0f} ± {error:.0f} bytes a request, at most {bound / 1e6:+.1f} MB"
            found.append(Target(f"no growth over {GROWTH_REQUESTS} requests", text, met))
    return found or [Target(f"no growth over {GROWTH_REQUESTS} requests", "-", None)]
