"""Experiment trackers: the figures of metrics.csv and TensorBoard, sent to MLflow or Weights & Biases as well.

Where to is theirs to say: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, WANDB_PROJECT, WANDB_MODE and so on. A run that
is resumed continues its run there; trackers.json in the run's folder holds the ids.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from types import ModuleType
from typing import Final, Protocol

from model.console.installing import install
from model.runtime.bundles.writing import replace_file
from training.config import TrainConfig, flat_fields

PROJECT: Final = "maskserve"
"""MLflow experiment and Weights & Biases project, where the environment names none."""

FINISH_SECONDS: Final = 120.0
"""How long the end of a run waits for a tracker to take what is left."""

# MLflow's own limits: parameters in one request, characters in one value.
_MLFLOW_BATCH: Final = 100
_MLFLOW_VALUE: Final = 6000


class TrackerError(ValueError):
    """A tracker that cannot be started; the message says what to do."""


class Tracker(Protocol):
    """A run on a tracker's side, already started. Any method may raise anything: networks do."""

    name: str
    run_id: str

    def log(self, iteration: int, figures: Mapping[str, float]) -> None:
        """Figures after `iteration` iterations."""

    def summarize(self, summary: Mapping[str, float | str], pictures: Sequence[tuple[str, Path]]) -> None:
        """The run's result, and (name, file) of its pictures."""

    def finish(self, succeeded: bool) -> None:
        """Closes the run."""


class MlflowTracker:
    """A run of MLflow; `run_id` continues one."""

    name = "mlflow"

    def __init__(self, config: TrainConfig, folder: Path, run_id: str | None) -> None:
        self._mlflow = _library("mlflow")
        self._client = self._mlflow.MlflowClient()
        if run_id is None:
            self.run_id: str = self._create(config)
        else:
            self.run_id = run_id
            self._client.update_run(run_id, status="RUNNING")

    def _create(self, config: TrainConfig) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        experiment_id = self._client.create_experiment(name) if experiment is None else experiment.experiment_id
        run_id = str(self._client.create_run(experiment_id, run_name=config.name).info.run_id)
        parameters = [self._mlflow.entities.Param(key, value[:_MLFLOW_VALUE]) for key, value in flat_fields(config)]
        for start in range(0, len(parameters), _MLFLOW_BATCH):
            self._client.log_batch(run_id, params=parameters[start : start + _MLFLOW_BATCH])
        return run_id

    def log(self, iteration: int, figures: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        metrics = [self._mlflow.entities.Metric(name, value, now, iteration) for name, value in figures.items()]
        self._client.log_batch(self.run_id, metrics=metrics)

    def summarize(self, summary: Mapping[str, float | str], pictures: Sequence[tuple[str, Path]]) -> None:
        for name, value in summary.items():
            if isinstance(value, str):
                self._client.set_tag(self.run_id, name, value)
            else:
                self._client.log_metric(self.run_id, name, value)
        for name, file in pictures:
            self._client.log_artifact(self.run_id, str(file), str(Path(name).parent) if "/" in name else None)

    def finish(self, succeeded: bool) -> None:
        self._client.set_terminated(self.run_id, "FINISHED" if succeeded else "FAILED")


class WandbTracker:
    """A run of Weights & Biases; `run_id` continues one. Its local files lie in wandb/ in the run's folder."""

    name = "wandb"

    def __init__(self, config: TrainConfig, folder: Path, run_id: str | None) -> None:
        self._wandb = _library("wandb")
        self.run_id: str = run_id or uuid.uuid4().hex[:16]
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=config.name,
            id=self.run_id,
            resume="allow",
            config=config.model_dump(mode="json"),
            dir=str(folder),
            settings=self._wandb.Settings(console="off"),  # it would wrap stderr, which the progress bar draws on
        )
        # Its own steps may only rise, but a resumed run repeats the iterations since its checkpoint.
        self._run.define_metric("iteration")
        self._run.define_metric("*", step_metric="iteration")

    def log(self, iteration: int, figures: Mapping[str, float]) -> None:
        self._run.log({**figures, "iteration": iteration})

    def summarize(self, summary: Mapping[str, float | str], pictures: Sequence[tuple[str, Path]]) -> None:
        self._run.summary.update(dict(summary))
        if pictures:
            self._run.log({name: self._wandb.Image(str(file)) for name, file in pictures})

    def finish(self, succeeded: bool) -> None:
        self._run.finish(exit_code=0 if succeeded else 1)


_KINDS: Final[Mapping[str, Callable[[TrainConfig, Path, str | None], Tracker]]] = {
    "mlflow": MlflowTracker,
    "wandb": WandbTracker,
}


def warn(message: str) -> None:
    """To stderr, before a run's log exists."""
    print(f"warning: {message}", file=sys.stderr)


def start_trackers(
    config: TrainConfig, folder: Path, start: int, say: Callable[[str], object] = warn
) -> tuple[Tracker, ...]:
    """The trackers of `config.loggers`; a run that goes on from iteration `start` > 0 continues its runs there.

    Raises TrackerError when a library is missing or a new run cannot be started. When it is a resumed run that cannot
    be continued there, such as without a network, `say` tells and the tracker is left out.
    """
    path = folder / "trackers.json"
    known: dict[str, str] = json.loads(path.read_text()) if start > 0 and path.is_file() else {}
    trackers = []
    for kind in dict.fromkeys(config.loggers):
        try:
            trackers.append(_KINDS[kind](config, folder, known.get(kind)))
        except TrackerError:
            raise
        except Exception as error:  # whatever the library or the network came up with
            reason = _first_line(error)
            if start == 0:
                raise TrackerError(
                    f"{kind} could not start a run ({reason}); correct its settings, or train without it: --loggers []"
                ) from error
            say(f"{kind} could not continue its run ({reason}); this training goes on without it")
    if trackers:
        replace_file(path, json.dumps(known | {tracker.name: tracker.run_id for tracker in trackers}).encode())
    return tuple(trackers)


class BackgroundTracker:
    """A tracker in a thread of its own: however slow or broken it is, training neither waits nor stops.

    Its first failure is told through `say`; what comes later is still tried, for a network may come back.
    """

    def __init__(self, tracker: Tracker, say: Callable[[str], object]) -> None:
        self._tracker, self._say = tracker, say
        self._jobs: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._failed = False
        self._thread = Thread(target=self._work, name=f"tracker {tracker.name}", daemon=True)
        self._thread.start()

    def log(self, iteration: int, figures: Mapping[str, float]) -> None:
        """As the tracker's, later."""
        self._jobs.put(partial(self._tracker.log, iteration, dict(figures)))

    def summarize(self, summary: Mapping[str, float | str], pictures: Sequence[tuple[str, Path]]) -> None:
        """As the tracker's, later."""
        self._jobs.put(partial(self._tracker.summarize, dict(summary), tuple(pictures)))

    def finish(self, succeeded: bool, timeout: float = FINISH_SECONDS) -> None:
        """Returns when the tracker has taken everything, or after `timeout` seconds."""
        self._jobs.put(partial(self._tracker.finish, succeeded))
        self._jobs.put(None)
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._say(f"warning: {self._tracker.name} has not taken all figures within {timeout:g} s; giving up on it")

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception as error:  # whatever the library or the network came up with
                if not self._failed:
                    self._failed = True
                    self._say(
                        f"warning: {self._tracker.name} failed ({_first_line(error)}); training goes on, and "
                        f"metrics.csv has all figures"
                    )


def run_pictures(folder: Path) -> list[tuple[str, Path]]:
    """(name, file) of the curves and the newest sample pictures in a run's folder."""
    curves = folder / "curves.png"
    rounds = sorted(path for path in (folder / "samples").glob("*") if path.is_dir())
    samples = sorted(rounds[-1].glob("*.png")) if rounds else []
    return [*([("curves.png", curves)] if curves.is_file() else []), *((f"samples/{p.name}", p) for p in samples)]


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise TrackerError(
            f"--loggers {name} needs a library that is not there ({error}): {install('tracking')}"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
