"""Everything that moves while training: made fresh or out of a checkpoint, and written down as one."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from model.network.build import Detector, build_model
from model.network.folding import fold_frozen_batch_norm
from model.network.threaded_align import align_in_threads
from training.checkpoint import Checkpoint, CheckpointError, load_checkpoint, plain_state
from training.config import TrainConfig
from training.data.annotations.dataset import Dataset
from training.data.augmentation.draws import mix
from training.data.loading.source import keypoint_names
from training.distributed import Process
from training.loop.compiling import compile_backbone
from training.loop.ema import WeightAverage
from training.loop.optimization import make_optimizer, make_scheduler
from training.loop.sampling import sample_by_image
from training.starting.starting_point import load_starting_point


@dataclass
class State:
    """A checkpoint is this, written down. iteration counts finished ones; best is the highest validation figure.

    `network` is what a training step calls: the model, or the model in torch's wrapper for several process.
    """

    model: Detector
    network: nn.Module
    average: WeightAverage | None
    optimizer: Optimizer
    scheduler: LambdaLR
    scaler: torch.amp.GradScaler
    origin: list[str]
    iteration: int = 0
    best: float = -1.0
    without_gain: int = 0

    @property
    def evaluated(self) -> Detector:
        """The network that is evaluated and published: the average where there is one."""
        return self.model if self.average is None else self.average.model


def start(config: TrainConfig, data: Dataset, process: Process) -> State:
    """The model, fresh or from given weights, or the run's last checkpoint.

    Raises CheckpointError when the checkpoint is of another model, ValueError when weights cannot be had or settings do
    not go together.
    """
    model = build_model(config.architecture, trainable_backbone_layers=config.trainable_backbone_layers)
    last = config.run_folder / "checkpoints" / "last.pt"
    resumed = load_checkpoint(last) if config.resume == "auto" and last.is_file() else None
    if resumed is not None:
        _require_same_model(resumed, config, data)
        model.load_state_dict(resumed.model)
        origin = [f"resuming after {resumed.iteration} iterations"]
    else:
        origin = load_starting_point(model, config, data.class_names, _keypoint_names(config, data)).lines()
    sample_by_image(model)
    fold_frozen_batch_norm(model)
    align_in_threads(model)
    if config.sync_batch_norm:
        model = _with_sync_batch_norm(model, process)
    model.to(process.device, memory_format=torch.channels_last if config.channels_last else torch.preserve_format)
    average = None if config.ema is None else WeightAverage(model, config.ema)
    if config.compile:
        compile_backbone(model)
    optimizer = make_optimizer(model, config.optimizer, images=step_images(config, process))
    scheduler = make_scheduler(optimizer, config.schedule)
    scaler = torch.amp.GradScaler(process.device.type, enabled=config.amp == "fp16")
    network = model if process.count == 1 else DistributedDataParallel(model, broadcast_buffers=False)
    state = State(model, network, average, optimizer, scheduler, scaler, origin)
    if resumed is not None:
        _restore(state, resumed)
    return state


def step_images(config: TrainConfig, process: Process) -> int:
    """Images of one optimizer step, over all passes and process."""
    return config.batch_size * config.accumulate * process.count


def seed_everything(seed: int, iteration: int, rank: int) -> None:
    """Every generator, from the run's seed and the place in the run alone: resuming needs no generator's state."""
    number = mix((seed, iteration, rank))
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.manual_seed(number)


def snapshot(config: TrainConfig, data: Dataset, state: State) -> Checkpoint:
    """The state as a checkpoint."""
    return Checkpoint(
        iteration=state.iteration,
        config=config.model_dump(mode="json"),
        class_names=data.class_names,
        keypoint_names=_keypoint_names(config, data),
        model=plain_state(state.model),
        ema=None if state.average is None else plain_state(state.average.model),
        optimizer=state.optimizer.state_dict(),
        scheduler=state.scheduler.state_dict(),
        scaler=state.scaler.state_dict(),
        best=state.best,
        without_gain=state.without_gain,
    )


def _keypoint_names(config: TrainConfig, data: Dataset) -> tuple[str, ...]:
    return keypoint_names(data) if config.architecture.has_keypoints else ()


def _require_same_model(resumed: Checkpoint, config: TrainConfig, data: Dataset) -> None:
    if resumed.train_config().architecture != config.architecture or resumed.class_names != data.class_names:
        raise CheckpointError(
            f"{config.run_folder / 'checkpoints' / 'last.pt'} is of another model or other classes: choose another "
            f"--output or --resume never"
        )


def _restore(state: State, resumed: Checkpoint) -> None:
    """Where --ema is new to a run, its average starts from the weights of the checkpoint."""
    if state.average is not None and resumed.ema is not None:
        state.average.model.load_state_dict(resumed.ema)
    try:
        state.optimizer.load_state_dict(resumed.optimizer)
    except ValueError as error:
        raise CheckpointError(
            f"the checkpoint's optimizer has other parameters ({error}): resume with the --optimizer and "
            f"--trainable_backbone_layers that it was started with, or choose another --output or --resume never"
        ) from error
    state.scheduler.load_state_dict(resumed.scheduler)
    state.scaler.load_state_dict(resumed.scaler)
    state.iteration, state.best, state.without_gain = resumed.iteration, resumed.best, resumed.without_gain


def _with_sync_batch_norm(model: Detector, process: Process) -> Detector:
    if process.device.type != "cuda" or process.count == 1:
        raise ValueError(
            "sync_batch_norm needs several processes on GPUs (torchrun --nproc_per_node=N): without them leave it out, "
            "or use --architecture.norm group_norm, which needs no other images"
        )
    converted: Detector = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return converted
