"""RoIAlign with a thread for each image, while training on a CPU: torchvision's kernel and its gradient use one core.

Each image's part is torchvision's own, so that not a bit differs: no RoI reaches into another image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.ops import MultiScaleRoIAlign

T = TypeVar("T")


def align_in_threads(model: FasterRCNN) -> int:
    """Lets the RoIAligns of `model` use several cores of a CPU, in place; returns how many do.

    The number of threads is torch's own (`torch.get_num_threads`). On another device, in eval mode, or for one image
    they are torchvision's as before.
    """
    aligns = [module for module in model.roi_heads.children() if type(module) is MultiScaleRoIAlign]
    for align in aligns:
        align.__class__ = ThreadedMultiScaleRoIAlign
    return len(aligns)


class ThreadedMultiScaleRoIAlign(MultiScaleRoIAlign):  # type: ignore[misc]  # torchvision has no types
    """torchvision's, image by image in threads."""

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """x: feature maps by name. boxes: of each image float32 [N_i, 4], xyxy in pixels.

        Returns [sum of N_i, C, h, w].
        """
        names = [name for name in self.featmap_names if name in x]
        threads = min(len(boxes), torch.get_num_threads())
        if not self.training or x[names[0]].device.type != "cpu" or threads < 2:
            whole: Tensor = super().forward(x, boxes, image_shapes)
            return whole

        def pool(features: Sequence[Tensor], image: int) -> Tensor:
            part: Tensor = MultiScaleRoIAlign.forward(
                self, dict(zip(names, features, strict=True)), [boxes[image]], image_shapes
            )
            return part

        pooled: Tensor = _ByImage.apply(pool, len(boxes), threads, *(x[name] for name in names))
        return pooled


class _ByImage(torch.autograd.Function):
    """pool([features of one image], image) of every image, and its gradient, each in a thread."""

    @staticmethod
    def forward(
        ctx: Any, pool: Callable[[Sequence[Tensor], int], Tensor], images: int, threads: int, *features: Tensor
    ) -> Tensor:
        autocast = _autocast_as_here()
        inputs = [
            [feature[image : image + 1].detach().requires_grad_(feature.requires_grad) for feature in features]
            for image in range(images)
        ]

        def run(image: int) -> Tensor:
            with autocast(), torch.enable_grad():
                return pool(inputs[image], image)

        outputs = list(_threads(threads).map(run, range(images)))
        ctx.parts, ctx.threads = list(zip(inputs, outputs, strict=True)), threads
        return torch.cat([output.detach() for output in outputs])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows = gradients[0].split([len(output) for _, output in ctx.parts])

        def run(part: tuple[list[Tensor], Tensor], gradient: Tensor) -> list[Tensor | None]:
            inputs, output = part
            learning = [feature for feature in inputs if feature.requires_grad]
            found = iter(torch.autograd.grad(output, learning, gradient, materialize_grads=True))
            return [next(found) if feature.requires_grad else None for feature in inputs]

        of_images = list(_threads(ctx.threads).map(run, ctx.parts, rows))
        ctx.parts = None
        of_features = [
            None if parts[0] is None else torch.cat([part for part in parts if part is not None])
            for parts in zip(*of_images, strict=True)
        ]
        return None, None, None, *of_features


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="roi-align")


def _autocast_as_here() -> Callable[[], AbstractContextManager[Any]]:
    """Autocast is a thread's own setting."""
    enabled, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
    return lambda: torch.autocast("cpu", dtype, enabled=enabled)
