"""The checkpoint that a run goes on from, and what becomes of an earlier run in its folder where it begins anew."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from training.checkpoint import LAST, Checkpoint, CheckpointError, load_last
from training.config import TrainConfig
from training.distributed import Process
from training.starting.identity import require_same_configuration

PARTS: Final = ("config.yaml", "split.json", "checkpoints", "metrics.csv", "tensorboard", "curves.png", "samples")
"""What a run writes into its folder and an earlier one keeps. Bundles are numbered, and generated data is the same."""


def checkpoint_to_resume(config: TrainConfig, process: Process) -> Checkpoint | None:
    """The last checkpoint of the run's folder as the first process finds it, in every process; None where a run begins.

    Others take it from the first one: on several machines, each has a folder of its own. Writes nothing. Raises
    CheckpointError where it cannot be read or is of a run that was configured otherwise.
    """
    found: Checkpoint | CheckpointError | None = None
    if process.first and config.resume == "auto":
        folder = config.run_folder / "checkpoints"
        try:
            found = load_last(folder)
            if found is not None:
                require_same_configuration(found, config, folder / LAST)
        except CheckpointError as error:
            found = error
    found = process.agree(found)
    if isinstance(found, CheckpointError):
        raise found
    return found


def set_aside(folder: Path) -> Path | None:
    """Moves what an earlier run has left in a run's folder into `earlier-1` there, or the next number that is free.

    So nothing of it is lost or mixed with the new one's, whenever that ends. Returns the new place, None where no run
    has left a checkpoint. Raises CheckpointError where it cannot be moved.
    """
    if not any((folder / "checkpoints").glob("*.pt")):
        return None
    number = 1
    while (place := folder / f"earlier-{number}").exists():
        number += 1
    try:
        place.mkdir()
        for name in PARTS:
            if (folder / name).exists():
                (folder / name).rename(place / name)
    except OSError as error:
        raise CheckpointError(f"the earlier run in {folder} cannot be moved to {place}: {error.strerror}") from error
    return place
