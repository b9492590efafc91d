"""Trackers: the real libraries against local stores, and what happens when they fail."""

from __future__ import annotations

import json
import struct
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from model.architecture import ArchitectureConfig
from model.runtime.bundles.bundle import Bundle, Evaluation, publish_bundle
from model.runtime.bundles.manifest import NETWORK_FILE, ManifestDraft, Provenance
from model.runtime.preprocess import Preprocessing
from tests.service.harness import until
from training.config import TrainConfig
from training.loop.run_log import RunLog, read_metrics
from training.loop.trackers import BackgroundTracker, TrackerError, run_pictures, start_trackers

# MLflow's own use of SQLAlchemy.
MLFLOW = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


@pytest.fixture(autouse=True)
def no_usage_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


def configuration(*loggers: str) -> TrainConfig:
    return TrainConfig.model_validate({"name": "cells", "loggers": loggers, "rename": {"Zelle 1/2?": "cell"}})


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A published bundle with an AP; nobody looks at its network."""
    staging = tmp_path / "staging"
    staging.mkdir()
    (staging / NETWORK_FILE).write_bytes(b"")
    draft = ManifestDraft(
        architecture=ArchitectureConfig(num_classes=2),
        class_names=("cell",),
        preprocessing=Preprocessing.from_architecture(ArchitectureConfig()),
        provenance=Provenance(dataset="none", license="none"),
        evaluation=(Evaluation(dataset="val", images=1, command="", engine="onnx", metrics={"mask/AP": 0.75}),),
    )
    return publish_bundle(staging, draft, tmp_path / "models", "cells")


def draw(folder: Path) -> None:
    """What a run draws."""
    for name in ("curves.png", "samples/0000002/old.png", "samples/0000004/new.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / name)


def run_and_resume(config: TrainConfig, folder: Path, bundle: Bundle) -> None:
    """Four iterations, a crash, and from the checkpoint at 2 on to the end."""
    folder.mkdir()
    with suppress(KeyboardInterrupt), RunLog(folder, 4, 0, 1, start_trackers(config, folder, 0)) as log:
        for iteration in range(1, 5):
            log.step(iteration, {"loss": 10.0 - iteration})
        raise KeyboardInterrupt
    with RunLog(folder, 4, 2, 1, start_trackers(config, folder, 2)) as log:
        for iteration in (3, 4):
            log.step(iteration, {"loss": 1.0 / iteration})
        log.validation(4, {"mask/AP": 0.5})
        draw(folder)
        log.published(bundle)


@MLFLOW
def test_mlflow_gets_figures_parameters_result_and_pictures_in_one_run(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="needs MLflow: pip install mlflow-skinny sqlalchemy alembic")
    pytest.importorskip("sqlalchemy", reason="MLflow's local store needs SQLAlchemy: pip install sqlalchemy alembic")
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)  # artifacts of a local store go there
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    run_and_resume(configuration("mlflow"), tmp_path / "run", bundle)

    client = MlflowClient()
    experiment = client.get_experiment_by_name("maskserve")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("cells", "FINISHED")
    assert run.info.run_id == json.loads((tmp_path / "run" / "trackers.json").read_text())["mlflow"]
    curve = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "loss")]
    # What was repeated after the crash is there twice, like the run.
    assert sorted(curve) == [(1, 9.0), (2, 8.0), (3, pytest.approx(1 / 3)), (3, 7.0), (4, 0.25), (4, 6.0)]
    assert run.data.metrics["val/mask/AP"] == 0.5
    assert run.data.metrics["published/mask/AP"] == 0.75
    assert run.data.tags["bundle"] == str(bundle.path)
    assert run.data.params["optimizer.rate"] == "0.02"
    assert json.loads(run.data.params["rename"]) == {"Zelle 1/2?": "cell"}
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["curves.png", "samples"]
    assert [file.path for file in client.list_artifacts(run.info.run_id, "samples")] == ["samples/new.png"]


@MLFLOW
def test_a_tracking_server_that_is_not_there_stops_a_new_run_and_not_a_resumed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="needs MLflow: pip install mlflow-skinny")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackerError, match=r"mlflow could not start a run .*--loggers"):
        start_trackers(configuration("mlflow"), tmp_path, 0)
    said: list[str] = []
    (tmp_path / "trackers.json").write_text('{"mlflow": "0123"}')
    assert start_trackers(configuration("mlflow"), tmp_path, 5, said.append) == ()
    assert len(said) == 1
    assert "mlflow could not continue its run" in said[0]


def wandb_records(file: Path) -> list[Any]:
    """The records of an offline run: LevelDB's log format, within its first block of 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    content, position, records = file.read_bytes(), 7, []
    assert len(content) < 32768
    while position + 7 <= len(content):
        _, length, _ = struct.unpack("<IHB", content[position : position + 7])
        if position + 7 + length > len(content):
            break  # it is being written
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content[position + 7 : position + 7 + length])
        records.append(record)
        position += 7 + length
    return records


def kind(record: Any) -> str:
    return str(record.WhichOneof("record_type"))


def values(items: Sequence[Any]) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def test_wandb_gets_figures_configuration_result_and_pictures_under_one_id(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="needs Weights & Biases: pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = tmp_path / "run"
    run_and_resume(configuration("wandb"), folder, bundle)

    run_id = json.loads((folder / "trackers.json").read_text())["wandb"]
    files = sorted((folder / "wandb").glob("offline-run-*/*.wandb"), key=lambda file: file.parent.name)
    assert [file.name for file in files] == [f"run-{run_id}.wandb"] * 2
    until(lambda: all("exit" in map(kind, wandb_records(file)) for file in files))  # its own process writes them
    first, second = (wandb_records(file) for file in files)
    for records, rows, status in ((first, [(1, 9.0), (2, 8.0), (3, 7.0), (4, 6.0)], 1), (second, None, 0)):
        [start] = [record.run for record in records if kind(record) == "run"]
        assert (start.run_id, start.project, start.display_name) == (run_id, "maskserve", "cells")
        assert values(start.config.update)["optimizer"]["rate"] == 0.02
        history = [values(r.history.item) for r in records if kind(r) == "history"]
        curve = [(row["iteration"], row["loss"]) for row in history if "loss" in row]
        assert curve == (rows or [(3, pytest.approx(1 / 3, rel=1e-4)), (4, 0.25)])
        [end] = [record.exit for record in records if kind(record) == "exit"]
        assert end.exit_code == status
    summary: dict[str, Any] = {}
    for record in second:
        summary |= values(record.summary.update)
    assert summary["bundle"] == str(bundle.path)
    assert summary["published/mask/AP"] == 0.75
    media = {file.name.split("_")[0] for file in (files[1].parent / "files" / "media").rglob("*.png")}
    assert media == {"curves.png", "new.png"}


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_library_stops_the_start(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    for start in (0, 5):
        with pytest.raises(TrackerError, match=r"pip install '\.\[tracking\]'"):
            start_trackers(configuration(name), tmp_path, start)
    assert start_trackers(configuration(), tmp_path, 0) == ()
    assert not (tmp_path / "trackers.json").exists()


class Recorder:
    """A tracker whose network can be away or stuck."""

    name = "recorder"
    run_id = "1"

    def __init__(self) -> None:
        self.away = False
        self.free = threading.Event()
        self.free.set()
        self.taken: list[object] = []

    def log(self, iteration: int, figures: Mapping[str, float]) -> None:
        self._take(iteration)

    def summarize(self, summary: Mapping[str, float | str], pictures: Sequence[tuple[str, Path]]) -> None:
        self._take("summary")

    def finish(self, succeeded: bool) -> None:
        self._take("succeeded" if succeeded else "failed")

    def _take(self, what: object) -> None:
        self.free.wait()
        if self.away:
            raise ConnectionError("network is unreachable\nand more lines")
        self.taken.append(what)


def test_a_tracker_that_fails_is_told_once_and_never_stops_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker, other = Recorder(), Recorder()
    tracker.away = True
    with RunLog(tmp_path, 3, 0, 1, [tracker, other]) as log:
        for iteration in (1, 2, 3):
            log.step(iteration, {"loss": 1.0})
    assert read_metrics(tmp_path / "metrics.csv")["loss"] == [(1, 1.0), (2, 1.0), (3, 1.0)]
    assert other.taken == [1, 2, 3, "failed"]
    assert capsys.readouterr().err.count("recorder failed (network is unreachable); training goes on") == 1


def test_a_run_that_publishes_nothing_has_succeeded_too(tmp_path: Path) -> None:
    tracker = Recorder()
    with RunLog(tmp_path, 1, 0, 1, [tracker]) as log:
        log.step(1, {"loss": 1.0})
        log.completed()
    assert tracker.taken == [1, "succeeded"]


def test_a_tracker_goes_on_when_its_network_is_back() -> None:
    tracker, said, told = Recorder(), list[str](), threading.Event()
    tracker.away = True

    def say(message: str) -> None:
        said.append(message)
        told.set()

    background = BackgroundTracker(tracker, say)
    background.log(1, {})
    assert told.wait(10)
    tracker.away = False
    background.log(2, {})
    background.finish(True)
    assert tracker.taken == [2, "succeeded"]
    assert len(said) == 1


def test_a_tracker_that_hangs_holds_neither_the_training_nor_its_end() -> None:
    tracker, said = Recorder(), list[str]()
    tracker.free.clear()
    background = BackgroundTracker(tracker, said.append)
    for iteration in range(100):
        background.log(iteration, {})
    background.finish(True, timeout=0.01)
    assert tracker.taken == []
    assert "has not taken all figures" in said[0]
    tracker.free.set()


def test_the_newest_pictures_of_a_run(tmp_path: Path) -> None:
    assert run_pictures(tmp_path) == []
    draw(tmp_path)
    assert [name for name, _ in run_pictures(tmp_path)] == ["curves.png", "samples/new.png"]
