"""Checkpoints: everything that a run needs to go on as if it had never stopped."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.config import TrainConfig

FORMAT = 1


class CheckpointError(Exception):
    """A checkpoint that cannot be read or does not belong to this run; the message says what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """iteration: optimizer steps done. config: the run's configuration as JSON data. model: the plain state_dict.

    class_names are the names of labels 1..C, keypoint_names is empty but for keypoint models. optimizer, scheduler and
    scaler are their state_dicts, rng torch's CPU generator state, best the highest validation figure so far.
    """

    iteration: int
    config: dict[str, Any]
    class_names: tuple[str, ...]
    keypoint_names: tuple[str, ...]
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    scaler: dict[str, Any]
    rng: Tensor
    best: float

    def train_config(self) -> TrainConfig:
        """The configuration that the run had."""
        return TrainConfig.model_validate(self.config)


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Writes beside `path`, then renames: a crash leaves the old checkpoint or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        torch.save({"format": FORMAT, **vars(checkpoint)}, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint onto the CPU without running any code in it.

    Raises CheckpointError when the file is missing, damaged, or of a newer format.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        fields = torch.load(path, map_location="cpu", weights_only=True)
        format_ = fields.pop("format")
        if format_ > FORMAT:
            raise CheckpointError(
                f"{path} has checkpoint format {format_}, this release reads {FORMAT}: upgrade maskserve"
            )
        return Checkpoint(**fields)
    except CheckpointError:
        raise
    except Exception as error:  # torch.load raises half a dozen types for a damaged file
        raise CheckpointError(
            f"{path} is not a readable maskserve checkpoint ({type(error).__name__}: {error})"
        ) from error


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's state_dict on the CPU, in ordinary memory layout, as torchvision would save it."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
