"""Train a Mask R-CNN and publish a bundle that the server loads.

    python -m training.train                                   generated shapes, minutes on a CPU
    python -m training.train --recipe nuclei --data DIR        a recipe on a COCO folder
    python -m training.train --recipe my.yaml --optimizer.rate 0.01

Writes into the run's folder (`--output`, default runs/NAME): config.yaml, checkpoints/, metrics.csv, tensorboard/,
curves.png, samples/, and the published bundle under models/NAME/VERSION. Started again, it goes on where it stopped.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from model.network.build import Detector, build_model
from model.network.published import load_imagenet_backbone
from training.checkpoint import Checkpoint, CheckpointError, load_checkpoint, plain_state, save_checkpoint
from training.command_line import parse_train_config, stop
from training.config import TrainConfig, save_config
from training.data.coco import CocoData, CocoError
from training.data.loader import Batch, make_loader
from training.data.samples import TrainingSet, UnreadableImage
from training.data.source import DataStop, TrainingData, flip_pairs, keypoint_names, load_training_data
from training.data.transforms import Augmentation
from training.optimization import make_optimizer, make_scheduler
from training.pictures import draw_curves, draw_samples
from training.publish import GateError, publish_run
from training.run_log import RunLog
from training.validation import eager_predictor, main_kind, validate


class TrainingError(Exception):
    """A run that cannot go on; the message names the batch and what to try."""


@dataclass
class State:
    """Everything that moves while training; a checkpoint is this, written down."""

    model: Detector
    optimizer: Optimizer
    scheduler: LambdaLR
    scaler: torch.amp.GradScaler
    iteration: int = 0
    best: float = -1.0


def setup(arguments: Sequence[str]) -> tuple[TrainConfig, TrainingData, torch.device]:
    """Configuration, checked data and device; seeds set, the run's folder made and its config.yaml written."""
    config = parse_train_config(arguments)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    random.seed(config.seed)
    np.random.seed(config.seed)
    torch.manual_seed(config.seed)
    folder = config.run_folder
    folder.mkdir(parents=True, exist_ok=True)
    data = load_training_data(config)
    architecture = config.architecture.model_copy(update={"num_classes": data.train.num_classes})
    if architecture.task == "keypoints":
        architecture = architecture.model_copy(update={"num_keypoints": data.train.num_keypoints})
    config = config.model_copy(update={"architecture": architecture})
    save_config(config, folder / "config.yaml")
    name = config.device if config.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    return config, data, torch.device(name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the whole line; returns the exit status."""
    try:
        config, data, device = setup(sys.argv[1:] if arguments is None else arguments)
        state = start(config, data.train, device)
    except (DataStop, CocoError, CheckpointError, ValueError) as error:
        stop(str(error))
    folder = config.run_folder
    with RunLog(folder, config.schedule.iterations, state.iteration, config.log_every) as log:
        log.say(f"{config.name}: {describe(config, data, state.model)}; {device}, writing to {folder}")
        try:
            fit(config, data, state, device, log)
            log.say("exporting, comparing with the eager model, publishing")
            bundle = publish_run(config, data, best_or_last(folder), log.say)
        except (TrainingError, GateError, UnreadableImage) as error:
            # A loader process sends its stack trace along; the message is the last line.
            log.say(f"error: {str(error).strip().splitlines()[-1]}")
            return 1
        log.say(f"published {bundle.path}")
        log.say(f"serve it:  MASKSERVE_MODELS={config.model_repository} python -m service")
    return 0


def start(config: TrainConfig, data: CocoData, device: torch.device) -> State:
    """The model, fresh or from published weights, or the run's last checkpoint."""
    model = build_model(config.architecture, trainable_backbone_layers=config.trainable_backbone_layers)
    last = config.run_folder / "checkpoints" / "last.pt"
    resumed = load_checkpoint(last) if config.resume == "auto" and last.is_file() else None
    if resumed is None and config.start_from == "imagenet":
        load_imagenet_backbone(model, config.architecture)
    if resumed is not None:
        if resumed.train_config().architecture != config.architecture or resumed.class_names != data.class_names:
            raise CheckpointError(
                f"{last} is of another model or other classes: choose another --output or --resume never"
            )
        model.load_state_dict(resumed.model)
    model.to(device, memory_format=torch.channels_last if config.channels_last else torch.preserve_format)
    optimizer = make_optimizer(model, config.optimizer)
    scheduler = make_scheduler(optimizer, config.schedule)
    state = State(model, optimizer, scheduler, torch.amp.GradScaler(device.type, enabled=config.amp == "fp16"))
    if resumed is not None:
        optimizer.load_state_dict(resumed.optimizer)
        scheduler.load_state_dict(resumed.scheduler)
        state.scaler.load_state_dict(resumed.scaler)
        torch.set_rng_state(resumed.rng)
        state.iteration, state.best = resumed.iteration, resumed.best
    return state


def fit(config: TrainConfig, data: TrainingData, state: State, device: torch.device, log: RunLog) -> None:
    """All remaining iterations, with checkpoints and evaluations on the way."""
    iterations = config.schedule.iterations
    loader = batches(config, data.train, state.iteration, device)
    waiting = time.perf_counter()
    for batch in loader:
        waited = time.perf_counter() - waiting
        losses = step(state, batch, device, config)
        state.iteration += 1
        rate = float(state.scheduler.get_last_lr()[0])
        log.step(state.iteration, losses | {"rate": rate, "waiting": waited})
        due = config.validation.every and state.iteration % config.validation.every == 0
        finished = state.iteration == iterations
        if data.val is not None and (due or finished):
            evaluate(config, data.train, data.val, state, log)
        if finished or due or state.iteration % config.checkpoint_every == 0:
            save_checkpoint(snapshot(config, data.train, state), config.run_folder / "checkpoints" / "last.pt")
        waiting = time.perf_counter()


def step(state: State, batch: Batch, device: torch.device, config: TrainConfig) -> dict[str, float]:
    """One forward and backward pass and one optimizer step; returns the losses."""
    state.model.train()
    images = [image.to(device, non_blocking=True).float() / 255 for image in batch.images]
    targets = [
        {name: value.to(device, non_blocking=True) for name, value in target.items()} for target in batch.targets
    ]
    precision = torch.bfloat16 if config.amp == "bf16" else torch.float16
    with torch.autocast(device.type, precision, enabled=config.amp != "none"):
        losses: dict[str, Tensor] = state.model(images, targets)
    total = torch.stack([value.float() for value in losses.values()]).sum()
    figures = {"loss": float(total.detach()), **{name: float(value.detach()) for name, value in losses.items()}}
    if not math.isfinite(figures["loss"]):
        parts = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        raise TrainingError(
            f"not finite at iteration {state.iteration + 1}: {parts}, on {', '.join(batch.names)}; the last checkpoint "
            f"is untouched: look at these images, lower --optimizer.rate, or set --optimizer.clip_norm"
        )
    state.optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(state.scaler.scale(total))
    if config.optimizer.clip_norm is not None:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(state.model.parameters(), config.optimizer.clip_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.scheduler.step()
    return figures


def evaluate(config: TrainConfig, data: CocoData, val: CocoData, state: State, log: RunLog) -> None:
    """COCO AP on the validation split; keeps the best checkpoint; draws curves and samples."""
    task = config.architecture.task
    predictor = eager_predictor(state.model.eval(), config.architecture)
    outcome = validate(predictor, val, task, max_detections=config.validation.max_detections)
    figures = outcome.metrics.headline()
    log.validation(state.iteration, {name: value for name, value in figures.items() if value >= 0})
    folder = config.run_folder
    score = figures[f"{main_kind(task)}/AP"]
    if score > state.best:
        state.best = score
        save_checkpoint(snapshot(config, data, state), folder / "checkpoints" / "best.pt")
    draw_curves(folder / "metrics.csv", folder / "curves.png")
    draw_samples(val, outcome.detections, config.validation.samples, folder / "samples" / f"{state.iteration:07d}")


def batches(config: TrainConfig, data: CocoData, skip: int, device: torch.device) -> DataLoader[Batch]:
    """The run's batches from number `skip` on."""
    augmentation = Augmentation(config.augment, config.architecture, flip_pairs(data))
    return make_loader(
        TrainingSet(data, augmentation, config.seed),
        batch_size=config.batch_size,
        workers=config.workers,
        skip=skip,
        count=config.schedule.iterations,
        same_size=config.augment.crop is not None,
        pin=device.type == "cuda",
    )


def snapshot(config: TrainConfig, data: CocoData, state: State) -> Checkpoint:
    """The state as a checkpoint."""
    return Checkpoint(
        iteration=state.iteration,
        config=config.model_dump(mode="json"),
        class_names=data.class_names,
        keypoint_names=keypoint_names(data) if config.architecture.task == "keypoints" else (),
        model=plain_state(state.model),
        optimizer=state.optimizer.state_dict(),
        scheduler=state.scheduler.state_dict(),
        scaler=state.scaler.state_dict(),
        rng=torch.get_rng_state(),
        best=state.best,
    )


def best_or_last(folder: Path) -> Path:
    """best.pt where something was evaluated, else last.pt."""
    best = folder / "checkpoints" / "best.pt"
    return best if best.is_file() else folder / "checkpoints" / "last.pt"


def describe(config: TrainConfig, data: TrainingData, model: nn.Module) -> str:
    """One line on what is about to be trained."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    objects = sum(len(annotations) for annotations in data.train.annotations)
    val = f", {len(data.val)} to validate" if data.val is not None else ""
    return (
        f"{config.architecture.torchvision_class} {config.architecture.backbone}, {parameters / 1e6:.1f} M parameters; "
        f"{len(data.train)} images, {objects} objects in {len(data.train.categories)} classes{val}; "
        f"{config.schedule.iterations} iterations of {config.batch_size}"
    )


if __name__ == "__main__":
    sys.exit(main())
