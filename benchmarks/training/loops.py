"""The two loops that `benchmarks.training` compares, each as a program that does a few steps whenever it is told to.

    python -m benchmarks.training.loops maskserve|torchvision DATA BATCH MIN_SIZE MAX_SIZE WORKERS AMP DEVICE NETWORK

NETWORK is full or dry-run. One line on stdin (a number of steps) is answered by one line of JSON on stdout.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from model.architecture import ArchitectureConfig
from model.network.build import build_model
from training.data.loading.loader import GroupedBatches

ITERATIONS = 90_000
"""Of the schedule that both loops begin."""

NARROW: Mapping[str, Any] = {
    "backbone": "resnet18",
    "fpn_channels": 16,
    "box_head_channels": 32,
    "mask_head_convs": (16,),
    "mask_predictor_channels": 16,
    "rpn_pre_nms_top_n_train": 100,
    "rpn_post_nms_top_n_train": 100,
    "box_batch_size_per_image": 32,
}
"""The network of a dry run: every step, and little to compute."""


@dataclass(frozen=True, slots=True)
class Options:
    """What both loops share. data: a COCO folder. min_size, max_size: pixels. amp: none, bf16 or fp16. device: cpu,
    cuda or cuda:N. dry_run: NARROW in the place of the R50-FPN."""

    data: Path
    batch: int
    min_size: int
    max_size: int
    workers: int
    amp: str
    device: str
    dry_run: bool

    @property
    def architecture(self) -> dict[str, Any]:
        """Of the network that both train."""
        sizes = {"min_size": self.min_size, "max_size": self.max_size}
        return {**NARROW, **sizes} if self.dry_run else sizes


@dataclass(frozen=True, slots=True)
class Turn:
    """What a few steps took. Seconds of wall-clock time; peak_memory in bytes, of this process and its workers;
    peak_device_memory in bytes, of its GPU, since its first step; None on a CPU."""

    images: int
    seconds: float
    waiting: float
    loss: float
    peak_memory: int
    peak_device_memory: int | None
    pids: list[int]


Step = Callable[[Any], float]


def maskserve(options: Options) -> tuple[Iterator[Any], Step]:
    """Our loop's own loader and step, as `training.train` puts them together."""
    from training.config import TrainConfig
    from training.data.loading.source import load_training_data
    from training.distributed import join
    from training.loop.state import start
    from training.loop.step import take_step
    from training.train import batches

    config = TrainConfig.model_validate(
        {
            "data": options.data,
            "resume": "never",
            "on_broken": "skip",
            "workers": options.workers,
            "batch_size": options.batch,
            "amp": options.amp,
            "channels_last": True,
            "trainable_backbone_layers": 3,
            "device": options.device,
            "schedule": {"iterations": ITERATIONS},
            "architecture": options.architecture,
        }
    )
    data = load_training_data(config)
    architecture = config.architecture.model_copy(update={"num_classes": data.train.num_classes})
    config = config.model_copy(update={"architecture": architecture})
    process = join(options.device)
    state = start(config, data, process)
    loader = iter(batches(config, data.train, 0, process))
    return loader, lambda batch: take_step(config, state, [batch], process)["loss"]


def torchvision_reference(options: Options) -> tuple[Iterator[Any], Step]:
    """A loop in the manner of torchvision's references/detection: its dataset, transforms and model.

    Masks of whole images by pycocotools, images as float tensors, resizing inside the model, SGD with warm-up. The
    batches are ours, image by image, so that both loops see the same ones.
    """
    from torchvision.transforms import v2

    from training.data.formats.coco.layouts import find_splits

    split = find_splits(options.data, "masks").train
    dataset = CocoImages(split.images, split.annotations, v2.Compose([v2.ToDtype(torch.float, scale=True)]))
    torch.manual_seed(0)
    classes = len(dataset.categories) + 1
    config = ArchitectureConfig.model_validate({**options.architecture, "num_classes": classes})
    device, precision = torch.device(options.device), torch.float16 if options.amp == "fp16" else torch.bfloat16
    model = build_model(config, trainable_backbone_layers=3).to(device)
    model.transform._skip_resize = False
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.02, momentum=0.9, weight_decay=1e-4)
    scaler = torch.amp.GradScaler(device.type, enabled=options.amp == "fp16")
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.001, total_iters=1000)
    loader = DataLoader(
        dataset,
        batch_sampler=SameBatches(dataset.ratios, options.batch),
        num_workers=options.workers,
        collate_fn=lambda samples: tuple(zip(*samples, strict=True)),
    )

    def step(batch: Any) -> float:
        images = [image.to(device) for image in batch[0]]
        targets = [{name: value.to(device) for name, value in target.items()} for target in batch[1]]
        with torch.autocast(device.type, precision, enabled=options.amp != "none"):
            losses = model(images, targets)
            total = sum(losses.values())
        value = float(total.item())
        if not np.isfinite(value):
            raise SystemExit(f"the reference's loss is {value}")
        optimizer.zero_grad()
        scaler.scale(total).backward()
        scaler.step(optimizer)
        scaler.update()
        warmup.step()
        return value

    model.train()
    return iter(loader), step


class CocoImages(torch.utils.data.Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Images with objects, as torchvision's references read COCO: PIL, pycocotools, every mask in full."""

    def __init__(self, root: Path, annotations: Path, transform: Callable[[Tensor], Tensor]) -> None:
        from contextlib import redirect_stdout

        from pycocotools.coco import COCO

        with redirect_stdout(sys.stderr):
            self.coco = COCO(str(annotations))
        self.root, self.transform = root, transform
        self.ids = [record["id"] for record in self.coco.dataset["images"]]
        self.ratios = [self.coco.imgs[image]["width"] / self.coco.imgs[image]["height"] for image in self.ids]
        self.categories = sorted(self.coco.cats)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        from PIL import Image
        from torchvision.transforms.v2 import functional as F

        record = self.coco.imgs[self.ids[index]]
        image = F.pil_to_tensor(Image.open(self.root / record["file_name"]).convert("RGB"))
        objects = [one for one in self.coco.loadAnns(self.coco.getAnnIds(self.ids[index])) if not one["iscrowd"]]
        empty = np.zeros((0, record["height"], record["width"]), np.uint8)
        masks = torch.from_numpy(np.stack([self.coco.annToMask(one) for one in objects]) if objects else empty)
        xywh = torch.tensor([one["bbox"] for one in objects], dtype=torch.float32).reshape(-1, 4)
        boxes = torch.cat((xywh[:, :2], xywh[:, :2] + xywh[:, 2:]), dim=1)
        labels = torch.tensor([self.categories.index(one["category_id"]) + 1 for one in objects], dtype=torch.int64)
        keep = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        if float(torch.rand(())) < 0.5:
            image, masks = image.flip(-1), masks.flip(-1)
            boxes = torch.stack(
                (record["width"] - boxes[:, 2], boxes[:, 1], record["width"] - boxes[:, 0], boxes[:, 3]), dim=1
            )
        return self.transform(image), {"boxes": boxes[keep], "labels": labels[keep], "masks": masks[keep]}


class SameBatches(Sampler[list[int]]):
    """The images of our loop's batches, in its order."""

    def __init__(self, ratios: list[float], size: int) -> None:
        self.batches = GroupedBatches(ratios, size, seed=0, skip=0, count=ITERATIONS)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            yield [draw.image for draw in batch]


def peak_memory(pids: list[int]) -> int:
    """Bytes: the sum of the processes' own peaks of resident memory, as /proc has them."""
    total = 0
    for pid in pids:
        status = Path(f"/proc/{pid}/status").read_text()
        total += 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    return total


LOOPS = {"maskserve": maskserve, "torchvision": torchvision_reference}


def take_turn(loader: Iterator[Any], step: Step, steps: int, device: torch.device) -> Turn:
    """So many steps, timed until the device has done them."""
    gpu = device.type == "cuda"
    if gpu:
        torch.cuda.synchronize(device)
    began, waiting, losses, images = time.perf_counter(), 0.0, [], 0
    for _ in range(steps):
        asked = time.perf_counter()
        loaded = next(loader)
        waiting += time.perf_counter() - asked
        losses.append(step(loaded))
        images += len(loaded[0])
    if gpu:
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - began
    pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children() if child.pid is not None)]
    on_device = torch.cuda.max_memory_allocated(device) if gpu else None
    return Turn(images, seconds, waiting, sum(losses) / len(losses), peak_memory(pids), on_device, pids)


def main() -> None:
    """Serves turns until stdin ends."""
    name, data, batch, min_size, max_size, workers, amp, device, network = sys.argv[1:]
    if network != "dry-run":  # too small to be shared out among threads, which wait for each other by computing
        torch.set_num_threads(os.cpu_count() or 1)
    sizes = int(batch), int(min_size), int(max_size), int(workers)
    options = Options(Path(data), *sizes, amp, device, network == "dry-run")
    loader, step = LOOPS[name](options)
    for line in sys.stdin:
        print(json.dumps(asdict(take_turn(loader, step, int(line), torch.device(device)))), flush=True)


if __name__ == "__main__":
    main()
