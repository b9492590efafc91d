"""One optimizer step: forward and backward passes over its images, however they are shared out.

A step of `accumulate` passes on several processes is the step of one large batch:

- The draws of anchors and RoIs are the same: they follow from the image's number in the step.
- The losses are the large batch's. Each is a mean over anchors, RoIs, positive RoIs or visible keypoints; every pass of
  every process is weighed by its share in their number. What later passes will have is counted before the first one,
  which costs each of them a forward pass up to the proposals without gradients. A step of a single pass needs that for
  keypoints alone: its other numbers are known once the losses are.
- Batch norm, where it isn't frozen, sees the images of one pass (and process, without `sync_batch_norm`); and images of
  unequal sizes are padded to the largest of their pass. In both it is not the large batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from model.network.build import Detector
from training.config import TrainConfig
from training.data.loading.loader import Batch, Share
from training.distributed import Process
from training.loop.sampling import Counts, begin_batch, count_ahead, drawn_counts
from training.loop.state import State, seed_everything


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
    scale = state.scaler.get_scale()  # before anything is queued that it would wait for
    share = Share(process.rank, process.count, len(passes))

    def begin(number: int, batch: Batch) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        first = share.first(number, len(batch.images))
        begin_batch(state.model, [(config.seed, state.iteration, first + index) for index in range(len(batch.images))])
        return _inputs(batch, process.device)

    ahead: list[Counts] = []
    if len(passes) > 1 or (process.count > 1 and config.architecture.has_keypoints):
        for number, batch in enumerate(passes):
            with _precision(config, process.device):
                ahead.append(count_ahead(state.model, *begin(number, batch)))
        seed_everything(config.seed, state.iteration, process.rank)
    names: list[str] = []
    seen: list[Tensor] = []
    for number, batch in enumerate(passes):
        inputs = begin(number, batch)
        with _communicating(state.network, number + 1 == len(passes)):
            with _precision(config, process.device):
                losses: dict[str, Tensor] = state.network(*inputs)
            values, shares = _in_the_step(state.model, losses, ahead, number, process)
            # Processes average their gradients; the factor makes a sum of it.
            weights = shares[process.rank] * process.count
            total = (torch.stack([loss.float() for loss in losses.values()]) * weights).sum()
            torch.autograd.backward(state.scaler.scale(total))
        names = list(losses)
        seen.append(torch.stack((values, shares)))
    _descend(config, state)
    # Here a step waits for the device: all of it is queued.
    table = torch.stack(seen).cpu()
    for batch, (values, _) in zip(passes, table, strict=True):
        if not bool(values.isfinite().all()):
            raise _not_finite(state.iteration + 1, dict(zip(names, values[process.rank], strict=True)), batch)
    if state.scaler.get_scale() >= scale:
        state.scheduler.step()
        if state.average is not None:
            state.average.update(state.model, state.iteration)
    state.iteration += 1
    figures = dict(zip(names, table.prod(1).sum((0, 1)).tolist(), strict=True))
    return {"loss": sum(figures.values()), **figures}


def _inputs(batch: Batch, device: torch.device) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    images = [image.to(device, non_blocking=True).float() / 255 for image in batch.images]
    targets = [
        {name: value.to(device, non_blocking=True) for name, value in target.items()} for target in batch.targets
    ]
    return images, targets


def _precision(config: TrainConfig, device: torch.device) -> AbstractContextManager[Any]:
    precision = torch.bfloat16 if config.amp == "bf16" else torch.float16
    return torch.autocast(device.type, precision, enabled=config.amp != "none")


def _in_the_step(
    model: Detector, losses: Mapping[str, Tensor], ahead: Sequence[Counts], number: int, process: Process
) -> tuple[Tensor, Tensor]:
    """Values of pass `number`'s losses and the share that they have in the step's, float32 [processes, losses]."""
    values = torch.stack([loss.detach().float() for loss in losses.values()])
    if process.count == 1 and not ahead:
        return values[None], torch.ones_like(values)[None]
    own = ahead[number] if ahead else drawn_counts(model)
    counts = own.of(losses)
    whole = torch.stack([counted.of(losses) for counted in ahead]).sum(0) if ahead else counts
    values, counts, whole = process.table(torch.cat((values, counts, whole))).chunk(3, dim=1)
    return values, counts / whole.sum(0).clamp(min=1)


def _descend(config: TrainConfig, state: State) -> None:
    """The optimizer's step. Where the gradient overflows the loss scale falls instead, which nobody waits to hear."""
    if config.optimizer.clip_norm is not None:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(state.model.parameters(), config.optimizer.clip_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()


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
