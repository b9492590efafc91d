"""Everything that moves while training: made fresh or out of a checkpoint, and written down as one."""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from model.network.build import Detector, build_model
from model.network.folding import fold_frozen_batch_norm
from model.network.full_precision import keep_boxes_exact
from model.network.threaded_align import align_in_threads
from training.checkpoint import LAST, Checkpoint, TrainedOn, plain_state
from training.config import TrainConfig
from training.data.annotations.dataset import Dataset
from training.data.annotations.keypoint_names import keypoint_names
from training.data.augmentation.draws import mix
from training.data.loading.source import TrainingData
from training.distributed import Process
from training.loop.compiling import compile_backbone
from training.loop.ema import WeightAverage
from training.loop.optimization import make_optimizer, make_scheduler, restore_optimizer
from training.loop.sampling import sample_by_image
from training.starting.identity import describe_data, require_same_data
from training.starting.starting_point import load_starting_point


@dataclass
class State:
    """A checkpoint is this, written down. iteration counts finished ones; best is the highest validation figure.

    run is the run's own id, trained_on its data. `network` is what a training step calls: the model, or the model in
    torch's wrapper for several process.
    """

    model: Detector
    network: nn.Module
    average: WeightAverage | None
    optimizer: Optimizer
    scheduler: LambdaLR
    scaler: torch.amp.GradScaler
    origin: list[str]
    run: str
    trained_on: TrainedOn
    iteration: int = 0
    best: float = -1.0
    without_gain: int = 0

    @property
    def evaluated(self) -> Detector:
        """The network that is evaluated and published: the average where there is one."""
        return self.model if self.average is None else self.average.model


def start(config: TrainConfig, data: TrainingData, process: Process, resumed: Checkpoint | None = None) -> State:
    """The model, fresh or from given weights, or `resumed`, the run's last checkpoint.

    Raises CheckpointError when the checkpoint is of other data, ValueError when weights cannot be had, settings do not
    go together or processes have unequal data.
    """
    trained_on = describe_data(config, data)
    _require_equal_data(trained_on, process)
    images, names = step_images(config, process), (data.train.class_names, _keypoint_names(config, data.train))
    model = build_model(config.architecture, trainable_backbone_layers=config.trainable_backbone_layers)
    if resumed is not None:
        last = config.run_folder / "checkpoints" / LAST
        require_same_data(resumed, trained_on, (*names[0], *names[1]), images, last)
        model.load_state_dict(resumed.model)
        origin = [f"resuming after {resumed.iteration} iterations"]
    else:
        origin = load_starting_point(model, config, *names).lines()
    sample_by_image(model)
    keep_boxes_exact(model)
    fold_frozen_batch_norm(model)
    align_in_threads(model)
    if config.sync_batch_norm:
        model = _with_sync_batch_norm(model, process)
    # Tensor cores and bfloat16 units compute in this layout; in another every convolution would copy.
    channels_last = config.amp != "none" if config.channels_last is None else config.channels_last
    model.to(process.device, memory_format=torch.channels_last if channels_last else torch.preserve_format)
    average = None if config.ema is None else WeightAverage(model, config.ema)
    if config.compile:
        compile_backbone(model, same_size=config.augment.crop is not None)
    fused = process.device.type == "cuda" or config.amp == "fp16"
    optimizer = make_optimizer(model, config.optimizer, images=images, fused=fused)
    scheduler = make_scheduler(optimizer, config.schedule)
    scaler = torch.amp.GradScaler(process.device.type, enabled=config.amp == "fp16")
    network = model if process.count == 1 else DistributedDataParallel(model, broadcast_buffers=False)
    run = process.agree(uuid.uuid4().hex)
    state = State(model, network, average, optimizer, scheduler, scaler, origin, run, trained_on)
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


def snapshot(config: TrainConfig, data: Dataset, state: State, process: Process) -> Checkpoint:
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
        run=state.run,
        trained_on=state.trained_on,
        step_images=step_images(config, process),
    )


def _keypoint_names(config: TrainConfig, data: Dataset) -> tuple[str, ...]:
    return keypoint_names(data) if config.architecture.has_keypoints else ()


def _require_equal_data(trained_on: TrainedOn, process: Process) -> None:
    """Every process reads the data by itself, on several machines from folders of their own."""
    content = (trained_on.train, trained_on.val)
    differing = [rank for rank, other in enumerate(process.gather(content)) if other != content]
    if differing := process.agree(differing):
        raise ValueError(
            f"process {', '.join(map(str, differing))} found other data than process 0 under the same --data: give "
            f"every machine the same images and annotations"
        )


def _restore(state: State, resumed: Checkpoint) -> None:
    """A run of an older release's checkpoint has its id and data from here on."""
    if state.average is not None and resumed.ema is not None:
        state.average.model.load_state_dict(resumed.ema)
    restore_optimizer(state.optimizer, resumed.optimizer)
    state.scheduler.load_state_dict(resumed.scheduler)
    state.scaler.load_state_dict(resumed.scaler)
    state.iteration, state.best, state.without_gain = resumed.iteration, resumed.best, resumed.without_gain
    state.run, state.trained_on = resumed.run or state.run, resumed.trained_on or state.trained_on


def _with_sync_batch_norm(model: Detector, process: Process) -> Detector:
    if process.device.type != "cuda" or process.count == 1:
        raise ValueError(
            "sync_batch_norm needs several processes on GPUs (torchrun --nproc_per_node=N): without them leave it out, "
            "or use --architecture.norm group_norm, which needs no other images"
        )
    converted: Detector = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return converted
