"""What half precision changes in the embedded model's answers: its five sample images in fp16 beside float32.

    python -m benchmarks.gpu.precision --json precision.json
    python -m benchmarks.gpu.precision --device cpu --dry-run --json precision.json    one image, in bfloat16

The weights are trained ones, as those of the other benchmarks are not. Float32 is that: without TF32.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np
import torch

from benchmarks.gpu.answers import agree
from model.network.graph.half import halve
from model.network.serving.engine import StaticEngine
from model.network.weights import load_network
from model.runtime.bundles.bundle import open_bundle
from model.runtime.preprocess import prepare_file, stack

ROOT: Final = Path(__file__).parents[2]
BUNDLE, SAMPLES = ROOT / "model" / "embedded" / "nuclei" / "1", ROOT / "model" / "samples" / "nuclei"
LEAST_FOUND: Final = 0.9
"""Share of the detections, over all images, that must be found again, and of what is found the share that was there."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a line an image and writes the JSON; the exit status is 1 when an answer is another."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.precision")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where")
    parser.add_argument("--dry-run", action="store_true", help="the smallest image alone")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the answers are written")
    options = parser.parse_args(arguments)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    bundle = open_bundle(BUNDLE)
    preprocessing = bundle.manifest.preprocessing
    model = load_network(bundle).to(options.device)
    precision = "fp16" if options.device == "cuda" else "bf16"
    half = StaticEngine(halve(copy.deepcopy(model), torch.float16 if precision == "fp16" else torch.bfloat16))
    exact = StaticEngine(halve(model, torch.float32))
    found = {}
    files = sorted(SAMPLES.glob("*.png"), key=lambda file: file.stat().st_size)
    for file in files[:1] if options.dry_run else files:
        images, sizes = stack([prepare_file(file.read_bytes(), preprocessing)])
        threshold = np.full(1, bundle.manifest.defaults.score_threshold, np.float32)
        agreement = agree(half.run(images, sizes, threshold), exact.run(images, sizes, threshold), precision, 1)
        found[file.name] = asdict(agreement) | {
            "good": agreement.found >= LEAST_FOUND and agreement.extra <= 1 - LEAST_FOUND
        }
        options.json.write_text(json.dumps(found, indent=2) + "\n")
        print(f"{file.name}: {json.dumps(found[file.name])}", flush=True)
    print(f"computed again: {half.answered_again}")
    return 0 if all(answer["good"] for answer in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
