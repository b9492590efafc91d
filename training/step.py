"""One optimizer step: forward and backward passes over its images, however they are shared out.

A step of `accumulate` passes on several processes is the step of one large batch, as far as torchvision's losses allow:

- The draws of anchors and RoIs are the same: they follow from the image's number in the step.
- Among processes the losses are the large batch's. Each is a mean over anchors, RoIs or positive RoIs; processes tell
  each other these numbers before the backward pass, and weigh their parts by them. For keypoints the numbers of
  positive RoIs stand for those of visible keypoints, which is close, but not the same.
- Among passes each loss is the mean of the passes' own means, for the numbers of later passes aren't known yet. That is
  the same where all passes have as many anchors, RoIs and positive RoIs: anchors and RoIs do once there are enough to
  fill each image's sample; the mask and keypoint losses give an object more weight in a pass with fewer of them.
- Batch norm, where it isn't frozen, sees the images of one pass (and process, without `sync_batch_norm`); and images of
  unequal sizes are padded to the largest of their pass. Both differ from the large batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from training.config import TrainConfig
from training.data.loader import Batch, Share
from training.distributed import Process
from training.sampling import begin_batch, loss_counts
from training.state import State, seed_everything


class TrainingError(Exception):
    """A run that cannot go on; the message names the batch and what to try."""


def take_step(config: TrainConfig, state: State, passes: Sequence[Batch], process: Process) -> dict[str, float]:
    """Forward and backward passes and one optimizer step; counts the iteration, and returns the losses of all images.

    A step whose gradient overflows in fp16 is skipped: weights, average and schedule stay, the loss scale falls. Raises
    TrainingError when a loss is not finite.
    """
    seed_everything(config.seed, state.iteration, process.rank)
    state.model.train()
    state.optimizer.zero_grad(set_to_none=True)
    share = Share(process.rank, process.count, len(passes))
    figures: dict[str, float] = {}
    for number, batch in enumerate(passes):
        first = share.first(number, len(batch.images))
        begin_batch(state.model, [(config.seed, state.iteration, first + index) for index in range(len(batch.images))])
        with _communicating(state.network, number + 1 == len(passes)):
            losses = _forward(config, state.network, batch, process.device)
            values, shares = _over_processes(state, losses, process)
            if not bool(values.isfinite().all()):
                raise _not_finite(state.iteration + 1, dict(zip(losses, values[process.rank], strict=True)), batch)
            # Processes average their gradients; the factor makes a sum of it.
            weights = shares[process.rank] * process.count
            total = (torch.stack([loss.float() for loss in losses.values()]) * weights).sum() / len(passes)
            torch.autograd.backward(state.scaler.scale(total))
        for name, value in zip(losses, (values * shares).sum(0).tolist(), strict=True):
            figures[name] = figures.get(name, 0.0) + value / len(passes)
    _update(config, state)
    state.iteration += 1
    return {"loss": sum(figures.values()), **figures}


def _forward(config: TrainConfig, network: nn.Module, batch: Batch, device: torch.device) -> dict[str, Tensor]:
    images = [image.to(device, non_blocking=True).float() / 255 for image in batch.images]
    targets = [
        {name: value.to(device, non_blocking=True) for name, value in target.items()} for target in batch.targets
    ]
    precision = torch.bfloat16 if config.amp == "bf16" else torch.float16
    with torch.autocast(device.type, precision, enabled=config.amp != "none"):
        losses: dict[str, Tensor] = network(images, targets)
    return losses


def _over_processes(state: State, losses: dict[str, Tensor], process: Process) -> tuple[Tensor, Tensor]:
    """Values of the losses and the share that each process has in them, both float32 [processes, losses]."""
    values = torch.stack([loss.detach().float() for loss in losses.values()])
    if process.count == 1:
        return values[None], torch.ones_like(values)[None]
    counts = values.new_tensor(loss_counts(state.model, list(losses)))
    values, counts = process.table(torch.cat((values, counts))).chunk(2, dim=1)
    return values, counts / counts.sum(0).clamp(min=1)


def _update(config: TrainConfig, state: State) -> None:
    if config.optimizer.clip_norm is not None:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(state.model.parameters(), config.optimizer.clip_norm)
    scale = state.scaler.get_scale()
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if state.scaler.get_scale() < scale:  # the gradient overflowed, and the optimizer did nothing
        return
    state.scheduler.step()
    if state.average is not None:
        state.average.update(state.model, state.iteration)


def _communicating(network: nn.Module, last: bool) -> AbstractContextManager[Any]:
    """Processes exchange gradients in the last pass's backward, where all passes have been added up."""
    if isinstance(network, DistributedDataParallel) and not last:
        return network.no_sync()
    return nullcontext()


def _not_finite(iteration: int, values: dict[str, Tensor], batch: Batch) -> TrainingError:
    parts = ", ".join(f"{name} {float(value):.4g}" for name, value in values.items())
    if all(bool(value.isfinite()) for value in values.values()):
        return TrainingError(f"not finite at iteration {iteration} in another process, whose message names the images")
    return TrainingError(
        f"not finite at iteration {iteration}: {parts}, on {', '.join(batch.names)}; the last checkpoint is untouched: "
        f"look at these images, lower --optimizer.rate, or set --optimizer.clip_norm"
    )
