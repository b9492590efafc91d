"""A training sample of a large photograph with outlines: CPU seconds and memory, and the check of its records.

    python -m benchmarks.samples
    python -m benchmarks.samples --objects 200 --json runs/samples.json

The other way, torchvision's references' and many loaders', makes every mask at the size of the photograph and resizes
it. Each way runs in a process of its own, so that its peak of memory is its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import machine
from training.data.annotations.records import Annotations

SIZE = (3024, 4032)
"""(height, width) of 12 megapixels."""
SEEN = (800, 1067)
"""What the network is given of it."""
WAYS = ("maskserve", "full size", "check", "image alone")


@dataclass(frozen=True)
class Cost:
    """What one way costs: processor seconds of the second call (the first compiles), and the process's peak above what
    it held before."""

    way: str
    objects: int
    cpu_seconds: float
    peak_mib: float


def outlines(count: int) -> Annotations:
    """`count` objects of 100 points each, from 2 % to 30 % of the shorter side."""
    rng = np.random.default_rng(0)
    height, width = SIZE
    parts = []
    for _ in range(count):
        angles = np.linspace(0, 2 * np.pi, 100, endpoint=False)
        radius = np.exp(rng.uniform(np.log(0.01), np.log(0.15))) * height * (1 + 0.1 * np.sin(5 * angles))
        center = rng.uniform(0, (width, height))
        parts.append(
            np.clip(center + np.stack([np.cos(angles), np.sin(angles)], 1) * radius[:, None], 0, (width, height))
        )
    corners = np.array([[*part.min(0), *part.max(0)] for part in parts])
    return Annotations(
        ids=np.arange(count),
        xywh=np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1),
        labels=np.ones(count, np.int64),
        crowd=np.zeros(count, np.bool_),
        area=np.ones(count),
        segmentations=tuple((part,) for part in parts),
    )


def run(way: str, image: NDArray[np.uint8], objects: Annotations) -> None:
    """One sample, or one check, by the way of that name."""
    from torchvision.transforms.v2 import functional as F

    from training.data.augmentation.geometry import cut_window

    height, width = SIZE
    if way == "check":
        from model.runtime.kernels.rle import area

        assert all(area(rle) for rle in objects.rles(height, width))
        return
    sample = cut_window(image, objects, (0, 0, height, width), SEEN, with_masks=way == "maskserve")
    if way == "full size":
        import torch
        from torchvision import tv_tensors
        from torchvision.transforms import InterpolationMode

        masks = tv_tensors.Mask(torch.from_numpy(objects.masks(height, width)))
        F.resize(masks, list(SEEN), InterpolationMode.NEAREST_EXACT)
    assert sample.image.shape[-2:] == SEEN


def measure(way: str, count: int) -> Cost:
    """Runs in this process; the peak is the process's so far."""
    image = np.zeros((*SIZE, 3), np.uint8)
    run(way, image[:], outlines(1))
    objects = outlines(count)
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.process_time()
    run(way, image, objects)
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before.ru_maxrss
    return Cost(way, count, seconds, peak / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(asdict(measure(options.one, options.objects[0]))))
        return
    costs = []
    for count in options.objects:
        for way in WAYS:
            command = [sys.executable, "-m", "benchmarks.samples", "--one", way, "--objects", str(count)]
            cost = Cost(**json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
            costs.append(cost)
            print(
                f"{count:4} objects  {way:12} {cost.cpu_seconds:7.3f} CPU s  {cost.peak_mib:7.0f} MiB more at the peak"
            )
    if options.json is not None:
        facts = {"machine": machine(("torch", "torchvision", "numba")), "costs": [asdict(cost) for cost in costs]}
        options.json.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
