"""The findings as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.gpu.contenders import REFERENCE
from benchmarks.gpu.wanted import ENGINE, OVER_EAGER, OVER_ONNX, SHARE, lines_of
from benchmarks.measure import Comparison

ONNX = "ONNX Runtime CUDA"
"""Among the contenders."""


def rates(comparisons: Sequence[Comparison]) -> dict[str, dict[int, float]]:
    """Images a second by contender and batch size, from the median of the rounds."""
    found: dict[str, dict[int, float]] = {}
    for comparison in comparisons:
        batch = comparison.details["batch"]
        for timing in comparison.timings:
            found.setdefault(timing.name, {})[batch] = batch / timing.seconds.median
    return found


def best(comparisons: Sequence[Comparison], right: Sequence[str]) -> tuple[str, int, float, float] | None:
    """Name, batch size, images a second and speedup over torchvision at its own best batch size; None without any.

    Of the contenders `right`, whose answers are the reference's.
    """
    found = rates(comparisons)
    candidates = [(rate, name, batch) for name in right for batch, rate in found.get(name, {}).items()]
    if not candidates or REFERENCE not in found:
        return None
    rate, name, batch = max(candidates)
    return name, batch, rate, rate / max(found[REFERENCE].values())


def reached(comparisons: Sequence[Comparison], findings: Mapping[str, Any]) -> dict[str, float]:
    """What was found of what is wanted."""
    fastest = findings.get("best")
    if fastest is None:
        return {}
    found = {ENGINE: fastest["images_per_second"], OVER_EAGER: fastest["speedup"]}
    if onnx := rates(comparisons).get(ONNX):
        found[OVER_ONNX] = fastest["images_per_second"] / max(onnx.values())
    share = findings.get("service", {}).get("share_of_engine")
    return found if share is None else {**found, SHARE: share}


def text(comparisons: Sequence[Comparison], findings: Mapping[str, Any]) -> str:
    """One table and what belongs to it."""
    found = rates(comparisons)
    batches = sorted({comparison.details["batch"] for comparison in comparisons})
    names = [*found, *(name for name in findings["skipped"] if name not in found)]
    width = max(map(len, names), default=10)
    lines = [f"{'images/s at batch':{width}} {''.join(f'{batch:>9}' for batch in batches)}   answer  host syncs"]
    for name in names:
        cells = "".join(f"{found[name][b]:9.1f}" if b in found.get(name, {}) else f"{'-':>9}" for b in batches)
        check = findings["answers"].get(name)
        verdict = "-" if check is None else f"{check['found']:.1%}" if check["good"] else "WRONG"
        syncs = findings["syncs"].get(name)
        lines.append(f"{name:{width}} {cells}  {verdict:>7}  {'-' if syncs is None else syncs:>10}")
    lines += [f"skipped: {name}: {reason}" for name, reason in findings["skipped"].items()]
    for comparison in comparisons:
        if not comparison.valid:
            lines.append(
                f"INVALID at batch {comparison.details['batch']}: others used {comparison.other_load} of the CPU"
            )
    lines += _stages(findings)
    if pipeline := findings.get("pipeline"):
        lines.append(
            f"pipeline, {pipeline['contender']} at batch {pipeline['batch']}: {pipeline['engine']:.1f} images/s "
            f"queued, {pipeline['with_masks']:.1f} with every mask encoded by {pipeline['threads']} threads"
        )
    if service := findings.get("service"):
        lines.append(
            f"service, {service['engine']} engine, {service['connections']} connections: "
            f"{service['images_per_second']:.1f} images/s from JPEG to JSON"
        )
    if (fastest := findings.get("best")) is None:
        return "\n".join([*lines, "no contender but torchvision was both right and timed"])
    lines.append(f"fastest right one: {fastest['contender']} at batch {fastest['batch']}")
    return "\n".join([*lines, *lines_of(reached(comparisons, findings))])


def _stages(findings: Mapping[str, Any]) -> list[str]:
    stages = findings.get("stages")
    if not stages:
        return []
    lines = [f"stages of {stages['contender']} at batch {stages['batch']}, ms a batch:"]
    lines += [f"  {name:24} {value:9.3f}" for name, value in stages["milliseconds"].items()]
    floor = stages["floor"]
    lines.append(
        f"floors: arithmetic {floor['arithmetic'] * 1e3:.2f} ms ({stages['work']['flops'] / 1e9:.0f} GFLOP), memory "
        f"{floor['memory'] * 1e3:.2f} ms ({stages['work']['layer_bytes'] / 1e9:.2f} GB); the larger is "
        f"{floor['share_of_time']:.1%} of {stages['best']}'s time"
    )
    return lines
