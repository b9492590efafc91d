"""What an image costs before a network sees it: decoding and augmenting, on one core.

    python -m benchmarks.training.loading --data COCO                       800 to 1333 pixels
    python -m benchmarks.training.loading --data DIR --recipe photos        as a recipe draws and augments

A worker of the loader does the same for each image, so that `workers` of them load so many times what one does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.measure import machine
from training.command_line import parse_train_config
from training.data.annotations.dataset import DatasetError
from training.data.annotations.keypoint_names import flip_pairs
from training.data.augmentation.transforms import Augmentation
from training.data.loading.samples import Draw, TrainingSet
from training.data.loading.source import DataStop, load_training_data


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the figures and writes them; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training.loading", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="dataset in any format")
    parser.add_argument("--recipe", default="coco-r50-fpn", help="whose sizes and augmentation")
    parser.add_argument("--images", type=int, default=100, help="how many are drawn, after ten that are not timed")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the figures here too")
    options = parser.parse_args(arguments)
    config = parse_train_config(["--recipe", options.recipe, "--data", str(options.data), "--on_broken", "skip"])
    torch.set_num_threads(1)
    try:
        data = load_training_data(config).train
    except (DatasetError, DataStop) as error:
        raise SystemExit(f"error: {error}") from error
    augmentation = Augmentation(config.augment, config.architecture, flip_pairs(data))
    dataset = TrainingSet(data, augmentation, config.seed, config.intensity, config.on_broken)
    milliseconds, sizes = [], []
    for number in range(-10, options.images):
        began = time.process_time()
        drawn = dataset[Draw(number + 10, (number + 10) % len(data))]
        if number >= 0:
            milliseconds.append(1000 * (time.process_time() - began))
            sizes.append(sum(part.nbytes for part in (drawn.image, *drawn.target.values())))
    mean = statistics.mean(milliseconds)
    figures = {
        "images": options.images,
        "mean_cpu_milliseconds": mean,
        "median_cpu_milliseconds": statistics.median(milliseconds),
        "images_per_second_and_core": 1000 / mean,
        "mean_megabytes": statistics.mean(sizes) / 1e6,
    }
    print(
        f"{mean:.1f} ms of one core an image (median {figures['median_cpu_milliseconds']:.1f}), so {1000 / mean:.0f} "
        f"images/s a worker; {figures['mean_megabytes']:.1f} MB an image"
    )
    if options.json is not None:
        settings = {name: str(value) for name, value in vars(options).items()}
        facts = {"machine": machine(("torch", "torchvision", "numba")), "settings": settings, "figures": figures}
        options.json.write_text(json.dumps(facts, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
