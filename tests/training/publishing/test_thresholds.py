"""Thresholds of their own for classes: in the manifest, and from an export's validation split into it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from model.runtime.bundles.manifest import Manifest
from model.runtime.bundles.repository import Repository
from training.checkpoint import load_checkpoint
from training.evaluate import main
from training.export import main as export


def test_an_export_writes_the_thresholds_that_the_evaluation_finds(
    finished_run: Path, findable: Path, tmp_path: Path
) -> None:
    checkpoint = finished_run / "checkpoints" / "best.pt"
    flags = [f"--checkpoint={checkpoint}", f"--output={tmp_path / 'models'}", "--references=none"]
    assert export([*flags, f"--data={findable}", "--without", "torchscript", "f16"]) == 0
    bundle = Repository(tmp_path / "models").latest("shapes")
    thresholds = bundle.manifest.defaults.score_thresholds
    assert thresholds
    assert set(thresholds) < set(load_checkpoint(checkpoint).class_names)  # the others were never found
    # It was evaluated on this data, and trained on its run's.
    trained, provenance = load_checkpoint(checkpoint).trained_on, bundle.manifest.provenance
    assert trained is not None
    assert (provenance.dataset, provenance.images, provenance.fingerprint) == (trained.dataset, 8, trained.train)
    assert bundle.manifest.evaluation[0].dataset == f"{findable.name}: instances_val"
    limit = load_checkpoint(checkpoint).train_config().validation.max_detections
    file = tmp_path / "figures.json"
    assert main([f"--model={bundle.path}", f"--data={findable}", f"--json={file}", f"--max_detections={limit}"]) == 0
    classes = json.loads(file.read_text())["operating_point"]["classes"]
    assert {one["name"]: one["best_threshold"] for one in classes if one["best_threshold"] is not None} == thresholds
    assert all(one["best_F1"] > 0 for one in classes if one["name"] in thresholds)


def test_a_checkpoint_has_the_figures_of_its_bundle(
    finished_run: Path, findable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Repository(finished_run / "models").latest("shapes")
    models = {"eager": str(bundle.path), "checkpoint": str(finished_run / "checkpoints" / "best.pt")}
    figures = {}
    for name, model in models.items():
        file = tmp_path / name
        folder = tmp_path / "report" / name
        arguments = [f"--model={model}", f"--data={findable}", f"--json={file}", f"--report={folder}"]
        assert main(arguments + (["--engine=eager"] if name == "eager" else [])) == 0
        figures[name] = json.loads(file.read_text())
        page = folder / "index.html"
        assert f"report: {page}" in capsys.readouterr().out
        assert f"{figures[name]['boundary']['AP']:.4f}" in page.read_text()
    assert figures["checkpoint"] == figures["eager"]
    assert figures["checkpoint"]["mask"]["AP"] > 0
    assert figures["checkpoint"]["boundary"]["AP"] > 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        pytest.param(["--engine=onnx"], "leave out --engine onnx", id="engine"),
        pytest.param(["--operating_point=1"], "--operating_point 1: give", id="nothing scores more"),
        pytest.param(["--operating_point=0.01"], "from --score_threshold", id="below what is counted"),
    ],
)
def test_a_wrong_wish_is_explained(
    finished_run: Path, shapes: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([f"--model={finished_run / 'checkpoints' / 'best.pt'}", f"--data={shapes}", *flags])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def _manifest(finished_run: Path, **defaults: Any) -> Manifest:
    document = Repository(finished_run / "models").latest("shapes").manifest.model_dump(mode="json")
    return Manifest.model_validate(document | {"defaults": defaults})


def test_an_older_manifest_has_no_thresholds_of_classes(finished_run: Path) -> None:
    manifest = _manifest(finished_run, score_threshold=0.5, max_detections=20)
    assert manifest.defaults.score_thresholds == {}


def test_thresholds_survive_the_file(finished_run: Path, tmp_path: Path) -> None:
    manifest = _manifest(finished_run, score_thresholds={"circle": 0.25, "ring": 0})
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        pytest.param({"circle": 1.0}, "less than 1", id="nothing scores more"),
        pytest.param({"circle": -0.1}, "greater than or equal to 0", id="negative"),
        pytest.param({"circle": float("nan")}, "score_thresholds", id="no number"),
        pytest.param({"blob": 0.5}, "'blob', which class_names does not have", id="unknown class"),
    ],
)
def test_a_bad_threshold_is_refused(finished_run: Path, thresholds: dict[str, float], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        _manifest(finished_run, score_thresholds=thresholds)
