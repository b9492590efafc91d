"""Checkpoints: everything that a run needs to go on as if it had never stopped."""

from __future__ import annotations

import os
import sys
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.config import TrainConfig

FORMAT = 3
"""3 added `run`, `trained_on` and `step_images`: which run this is, and what it has learned from.
2 added `ema` and `without_gain`, and dropped the generator state: randomness now follows from the iteration."""


LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"
"""Files of a run's checkpoints folder."""


class CheckpointError(Exception):
    """A checkpoint that cannot be read or does not belong to this run; the message says what to do."""


class DamagedCheckpoint(CheckpointError):
    """A file that was cut short, changed, or never was a checkpoint."""


@dataclass(frozen=True)
class TrainedOn:
    """The data of a run. dataset is what people call it; images and instances are those of the training split.

    train and val are the fingerprints of what the splits contain, val None where there is none.
    """

    dataset: str
    images: int
    instances: int
    train: str
    val: str | None


@dataclass(frozen=True)
class Checkpoint:
    """iteration: optimizer steps done. config: the run's configuration as JSON data. model: the plain state_dict.

    class_names are the names of labels 1..C, keypoint_names is empty but for keypoint models. ema is the state_dict of
    averaged weights, None where the run keeps none. optimizer, scheduler and scaler are their state_dicts. best is the
    highest validation figure so far, without_gain the number of evaluations since it was reached.

    run is the run's own id, made when it began; trained_on what its weights have seen, step_images the images of one of
    its steps. They are None in checkpoints of formats 1 and 2, which do not say.

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
    run: str | None = None
    trained_on: TrainedOn | None = None
    step_images: int | None = None

    @property
    def published_state(self) -> dict[str, Tensor]:
        """The state_dict that is evaluated and published: the average where the run keeps one."""
        return self.model if self.ema is None else self.ema

    def train_config(self) -> TrainConfig:
        """The configuration that the run had."""
        return TrainConfig.model_validate(self.config)


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Writes beside `path`, then renames: a crash leaves the old checkpoint or the new one, never half of one.

    Raises CheckpointError where it cannot be written; the old one stays.
    """
    _write(checkpoint, path).replace(path)


def save_last(checkpoint: Checkpoint, folder: Path) -> None:
    """last.pt in `folder`, and the one before it as previous.pt, should this one be damaged later.

    Raises as `save_checkpoint` does.
    """
    last, previous = folder / LAST, folder / PREVIOUS
    written = _write(checkpoint, last)
    if last.is_file():
        last.replace(previous)
    written.replace(last)


def _write(checkpoint: Checkpoint, path: Path) -> Path:
    """A whole file beside `path`, on the disk and not yet under its name."""
    partial = path.with_name(f".{path.name}.partial")
    trained_on = None if checkpoint.trained_on is None else asdict(checkpoint.trained_on)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save({"format": FORMAT, **vars(checkpoint), "trained_on": trained_on}, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch makes a RuntimeError of a write that failed
        partial.unlink(missing_ok=True)
        reason = (isinstance(error, OSError) and error.strerror) or str(error).splitlines()[0]
        raise CheckpointError(
            f"{path} cannot be written ({reason}): make room, or choose another --output; what was there before is "
            f"untouched"
        ) from error
    return partial


def load_last(folder: Path) -> Checkpoint | None:
    """last.pt in `folder`; where it is damaged or missing, previous.pt, which is said on stderr. None without both.

    Raises CheckpointError where none of them can be read.
    """
    last, previous = folder / LAST, folder / PREVIOUS
    try:
        return load_checkpoint(last)
    except DamagedCheckpoint as error:
        if not previous.is_file():
            raise
        reason = str(error)
    except CheckpointError:
        if last.is_file():
            raise
        if not previous.is_file():
            return None
        reason = f"{last} is missing"
    before = load_checkpoint(previous)
    print(f"warning: {reason}; going on from {previous}, after {before.iteration} iterations", file=sys.stderr)
    return before


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint onto the CPU without running any code in it.

    Formats 1 and 2 are read too. Raises CheckpointError when the file is missing or of a newer format, and its subclass
    DamagedCheckpoint when it is damaged.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch does not look at the checksums that it writes
        if damaged is not None:
            raise ValueError(f"{damaged} in it was changed")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises half a dozen types for a damaged file
        reason = str(error).strip().partition("\n")[0]
        raise DamagedCheckpoint(
            f"{path} is not a readable maskserve checkpoint ({type(error).__name__}: {reason})"
        ) from error
    return as_checkpoint(content, path)


def is_checkpoint(content: object) -> bool:
    """Whether what torch read from a file is a checkpoint of ours, of any format."""
    return isinstance(content, dict) and isinstance(content.get("format"), int)


def as_checkpoint(content: Any, path: Path) -> Checkpoint:
    """The checkpoint that torch read from `path`. Raises as `load_checkpoint` does."""
    if not is_checkpoint(content):
        raise DamagedCheckpoint(
            f"{path} is not a readable maskserve checkpoint: another program saved it (weights to train on from: "
            f"--start_from {path})"
        )
    fields = dict(content)
    format_ = fields.pop("format")
    if format_ > FORMAT:
        raise CheckpointError(f"{path} has checkpoint format {format_}, this release reads {FORMAT}: upgrade maskserve")
    try:
        if format_ == 1:
            del fields["rng"]
        if fields.get("trained_on") is not None:
            fields["trained_on"] = TrainedOn(**fields["trained_on"])
        return Checkpoint(**fields)
    except (KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"{path} is not a readable maskserve checkpoint ({error})") from error


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's state_dict on the CPU, in ordinary memory layout, as torchvision would save it."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
