"""The checkpoint that a run goes on from."""

from __future__ import annotations

from training.checkpoint import LAST, Checkpoint, CheckpointError, load_last
from training.config import TrainConfig
from training.distributed import Process
from training.starting.identity import require_same_configuration


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
