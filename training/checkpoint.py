"""Checkpoints: everything that a run needs to go on as if it had never stopped."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.config import TrainConfig

FORMAT = 2
"""2 added `ema` and `without_gain`, and dropped the generator state: randomness now follows from the iteration."""


class CheckpointError(Exception):
    """A checkpoint that cannot be read or does not belong to this run; the message says what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """iteration: optimizer steps done. config: the run's configuration as JSON data. model: the plain state_dict.

    class_names are the names of labels 1..C, keypoint_names is empty but for keypoint models. ema is the state_dict of
    averaged weights, None where the run keeps none. optimizer, scheduler and scaler are their state_dicts. best is the
    highest validation figure so far, without_gain the number of evaluations since it was reached.

    No generator's state is here: the data and every draw of an iteration follow from the seed and its number.
    """

    iteration: int
    config: dict[str, Any]
    class_names: tuple[str, ...]
    keypoint_names: tuple[str, ...]
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    scaler: dict[str, Any]
    best: float
    ema: dict[str, Tensor] | None = None
    without_gain: int = 0

    @property
    def published_state(self) -> dict[str, Tensor]:
        """The state_dict that is evaluated and published: the average where the run keeps one."""
        return self.model if self.ema is None else self.ema

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

    Format 1 is read too. Raises CheckpointError when the file is missing, damaged, or of a newer format.
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
        if format_ == 1:
            del fields["rng"]
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
