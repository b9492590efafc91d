"""Several GPUs: whether each answers alike, and whether a process for each is faster than one for all.

    python -m benchmarks.gpu.several --json several.json
    python -m benchmarks.gpu.several --device cpu --dry-run --json several.json     the CPU stands for two, anywhere

The service is started on each GPU alone, by its number, and asked for the same photographs: no score may differ by more
than `served.SCORE`. Then on all of them in one process, and in a process for each, for as many answers as they give.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.case import FULL, TINY, make_case
from benchmarks.gpu.contenders import Skip
from benchmarks.gpu.served import SCORE, SECONDS, answer_of, ask, furthest, published, started

ONE, EACH = "one process for all", "a process each"


def answers(folder: Path, engine: str, device: str) -> list[dict[str, Any]]:
    """What the service says of each photograph on this device."""
    with (
        started(folder, engine, ("--device", device)) as address,
        closing(http.client.HTTPConnection(address, timeout=120)) as connection,
    ):
        return [answer_of(connection, file.read_bytes()) for file in sorted(folder.glob("*.jpg"))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the JSON; the exit status is 1 where a device answers otherwise or a service does not answer. Where there
    is one GPU that is what is written."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.several")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where")
    parser.add_argument("--dry-run", action="store_true", help="a tiny network and tiny images; figures mean nothing")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the figures are written")
    options = parser.parse_args(arguments)
    count = torch.cuda.device_count()
    devices = ["cpu", "cpu"] if options.device == "cpu" else [f"cuda:{index}" for index in range(count)]
    found: dict[str, dict[str, Any]] = {}
    if len(devices) < 2:
        found["several GPUs"] = {"skipped": f"torch sees {count}, and this needs two"}
    else:
        engine = "onnx" if options.device == "cpu" else "cuda"
        seconds = 1.0 if options.dry_run else SECONDS
        device = torch.device(options.device)
        try:
            with published(make_case(TINY if options.dry_run else FULL, device)) as folder:
                found = _all(folder, engine, devices, seconds)
        except Skip as reason:
            found["several GPUs"] = {"good": False, "why": str(reason)}
    options.json.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))
    return 1 if any(one.get("good") is False for one in found.values()) else 0


def _all(folder: Path, engine: str, devices: Sequence[str], seconds: float) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    try:
        first, *others = (answers(folder, engine, device) for device in devices)
        differences = [furthest(first, other) for other in others]
        good = all(one is not None and one <= SCORE for one in differences)
        found["every device answers alike"] = {"good": good, "scores differ by": differences}
    except Skip as reason:
        found["every device answers alike"] = {"good": False, "why": str(reason)}
    every = ("--device", ",".join(devices))
    for name, words in {ONE: every, EACH: (*every, "--processes", str(len(devices)))}.items():
        try:
            served = ask(folder, engine, words, seconds)
            found[name] = {"good": served.good, **asdict(served)}
        except Skip as reason:
            found[name] = {"good": False, "why": str(reason)}
    return found


if __name__ == "__main__":
    sys.exit(main())
