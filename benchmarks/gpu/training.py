"""A step of training on this machine's GPU: what precision, layout, exact boxes and compiling cost and bring.

    python -m benchmarks.gpu.training --json training.json
    python -m benchmarks.gpu.training --device cpu --dry-run --json training.json      the same steps, tiny, anywhere

R50-FPN at 800x1333 with random weights, on images that are in memory: loading them is `benchmarks.training`'s subject.
Each way begins with the same weights and images; one that fails is written down with its reason, and the next is tried.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.gpu.case import FULL, TINY, Scale, make_batch
from benchmarks.gpu.stages import count_syncs, wait
from training.config import TrainConfig
from training.data.loading.loader import Batch
from training.data.loading.source import TrainingData, load_training_data
from training.data.shapes import write_shapes
from training.distributed import Process, join
from training.loop.state import State, start
from training.loop.step import take_step

OBJECTS: Final = 8
"""On each image."""
WARM_UP, TIMED = 3, 10
"""Steps."""


@dataclass(frozen=True)
class Way:
    """A way to take a step. exact_boxes: as always here, or in autocast's type."""

    amp: str
    channels_last: bool
    exact_boxes: bool = True
    compile: bool = False

    def __str__(self) -> str:
        layout = "channels last" if self.channels_last else "contiguous"
        boxes = "" if self.exact_boxes else ", boxes in it too"
        return f"{self.amp}{boxes}, {layout}{', compiled' if self.compile else ''}"


WAYS: Final = (
    Way("none", channels_last=False),
    Way("none", channels_last=True),
    Way("fp16", channels_last=False),
    Way("fp16", channels_last=True),
    Way("bf16", channels_last=True),
    Way("fp16", channels_last=True, exact_boxes=False),
    Way("fp16", channels_last=True, compile=True),  # last, for it may take minutes before its first step
)


@dataclass(frozen=True)
class Taken:
    """What the steps of one way took. first_loss tells whether it computes what the others do. peak_bytes: of the GPU's
    memory, waits: how often the host waited for the GPU in a step; both None on a CPU. waits_before_optimizer:
    whether it did between the backward pass and the optimizer's step."""

    images_per_second: float
    seconds_a_step: float
    first_loss: float
    peak_bytes: int | None
    waits: int | None
    waits_before_optimizer: bool | None


def take(
    way: Way, images: int, scale: Scale, data: TrainingData, process: Process, output: Path, steps: tuple[int, int]
) -> Taken:
    """Warms up, then times; steps: how many of each. Raises whatever a step raises."""
    device, gpu = process.device, process.device.type == "cuda"
    config = TrainConfig.model_validate(
        {
            "output": output,
            "resume": "never",
            "device": str(device),
            "batch_size": images,
            "amp": way.amp,
            "channels_last": way.channels_last,
            "compile": way.compile,
            "trainable_backbone_layers": 3,
            "optimizer": {"name": "sgd", "rate": 1e-4},
            "architecture": {
                "backbone": scale.backbone,
                "norm": "frozen_batch_norm",
                "num_classes": data.train.num_classes,
                "min_size": scale.height,
                "max_size": scale.width,
                "anchor_sizes": [[side] for side in scale.anchor_sides],
                **({} if scale is FULL else {"rpn_post_nms_top_n_train": 20, "box_batch_size_per_image": 8}),
            },
        }
    )
    torch.manual_seed(0)
    exact = nullcontext() if way.exact_boxes else patch("training.loop.state.keep_boxes_exact", lambda model: None)
    with exact:
        state = start(config, data, process)
    batch = make_training_batch(scale, images, data.train.num_classes, gpu)
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    first = take_step(config, state, [batch], process)["loss"]
    for _ in range(steps[0] - 1):
        take_step(config, state, [batch], process)
    waits = count_syncs(lambda: take_step(config, state, [batch], process), device)
    wait(device)
    began = time.perf_counter()
    for _ in range(steps[1]):
        take_step(config, state, [batch], process)
    wait(device)
    seconds = (time.perf_counter() - began) / steps[1]
    return Taken(
        images_per_second=images / seconds,
        seconds_a_step=seconds,
        first_loss=first,
        peak_bytes=torch.cuda.max_memory_allocated() if gpu else None,
        waits=waits,
        waits_before_optimizer=_waits_before_optimizer(config, state, batch, process) if gpu else None,
    )


def make_training_batch(scale: Scale, images: int, classes: int, pin: bool) -> Batch:
    """Images of `make_batch` without its padding, each with OBJECTS rectangles; pinned, as a loader gives them."""
    drawn = make_batch(scale, images, torch.device("cpu"), seed=3).images
    pixels = [image[: scale.height, : scale.width].permute(2, 0, 1).contiguous() for image in drawn]
    generator = torch.Generator().manual_seed(3)
    sides = torch.tensor([scale.width, scale.height, scale.width, scale.height])
    targets = []
    for _ in range(images):
        corners = torch.rand(OBJECTS, 2, generator=generator) * 0.6
        extents = 0.2 + 0.2 * torch.rand(OBJECTS, 2, generator=generator)
        boxes = (torch.cat((corners, corners + extents), dim=1) * sides).round()
        masks = torch.zeros(OBJECTS, scale.height, scale.width, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
            mask[top:bottom, left:right] = 1
        labels = torch.randint(1, classes, (OBJECTS,), generator=generator)
        targets.append({"boxes": boxes, "labels": labels, "masks": masks})

    def placed(value: Tensor) -> Tensor:
        return value.pin_memory() if pin else value

    return Batch(
        [placed(image) for image in pixels],
        [{name: placed(value) for name, value in target.items()} for target in targets],
        [f"image {number}" for number in range(images)],
    )


def _waits_before_optimizer(config: TrainConfig, state: State, batch: Batch, process: Process) -> bool:
    backward, update = torch.autograd.backward, state.scaler.update

    def begin(*arguments: Any, **options: Any) -> None:
        torch.cuda.set_sync_debug_mode("error")
        backward(*arguments, **options)

    def end() -> None:
        update()
        torch.cuda.set_sync_debug_mode("default")

    try:
        with patch.object(torch.autograd, "backward", begin), patch.object(state.scaler, "update", end):
            take_step(config, state, [batch], process)
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


@contextmanager
def _generated() -> Iterator[tuple[TrainingData, Path]]:
    """Any data: a state must be of some. And a folder for a run."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_shapes(place / "data", train=2, val=1, seed=0)
        config = TrainConfig.model_validate({"data": place / "data"})
        yield load_training_data(config), place / "run"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a line a way and writes the JSON; the exit status is 1 when one that is used failed, or waited
    where it should not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.training")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where")
    parser.add_argument("--dry-run", action="store_true", help="a tiny network and tiny images; figures mean nothing")
    parser.add_argument("--batches", type=int, nargs="+", default=(2, 8), help="images a step")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the figures are written")
    options = parser.parse_args(arguments)
    scale, steps = (TINY, (1, 1)) if options.dry_run else (FULL, (WARM_UP, TIMED))
    found: dict[str, dict[str, Any]] = {}
    good = True
    with _generated() as (data, output):
        process = join(options.device)
        for way in WAYS:
            if way.compile and options.dry_run:
                continue  # minutes of a C++ compiler
            for images in options.batches:
                name = f"{images} images, {way}"
                try:
                    taken = take(way, images, scale, data, process, output, steps)
                    found[name] = asdict(taken)
                    good = good and not (way.exact_boxes and taken.waits_before_optimizer)
                except Exception as error:  # whatever it is, it is this way's figure, and not the run's end
                    found[name] = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
                    good = good and not way.exact_boxes
                options.json.write_text(json.dumps(found, indent=2) + "\n")
                print(f"{name}: {json.dumps(found[name])}", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
