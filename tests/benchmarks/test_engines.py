"""What can be compared here, how far answers are apart, and a run of it. The engines are tested where they live."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import engines
from benchmarks.contender import Contender, Running
from benchmarks.engines import REFERENCE, differences, main, possible
from model.runtime.bundles.bundle import open_bundle
from model.runtime.detections import Detections


def found(*boxes: tuple[float, float], labels: tuple[int, ...] = (1, 1)) -> Detections:
    """Boxes of 10 pixels that begin at x and score what is said, as (x, score)."""
    corners = np.array([[x, 0, x + 10, 10] for x, _ in boxes], np.float32).reshape(-1, 4)
    scores = np.array([score for _, score in boxes], np.float32)
    return Detections(boxes=corners, scores=scores, labels=np.array(labels[: len(boxes)], np.int64))


def write_data(folder: Path) -> None:
    """Three images of noise with a square in each, and the tiny model's classes."""
    noise = np.random.default_rng(0)
    square = {"bbox": [8, 8, 16, 16], "area": 256, "segmentation": [[8, 8, 24, 8, 24, 24, 8, 24]], "iscrowd": 0}
    document = {
        "images": [{"id": id, "file_name": f"{id}.png", "width": 80, "height": 64} for id in (1, 2, 3)],
        "annotations": [{"id": id, "image_id": id, "category_id": 2, **square} for id in (1, 2, 3)],
        "categories": [{"id": id, "name": name} for id, name in enumerate(("circle", "square", "star", "ring"), 1)],
    }
    (folder / "val").mkdir(parents=True)
    for id in (1, 2, 3):
        Image.fromarray(noise.integers(0, 256, (64, 80, 3), np.uint8)).save(folder / "val" / f"{id}.png")
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        pytest.param(found((0, 0.9), (50, 0.5)), (2, 0, 0.0, 0.0), id="the same"),
        pytest.param(found((50, 0.5), (0, 0.9)), (2, 0, 0.0, 0.0), id="another order"),
        pytest.param(found((0.25, 0.8), (50, 0.5)), (2, 0, 0.25, 0.1), id="moved, and less sure"),
        pytest.param(found((0, 0.9)), (1, 1, 0.0, 0.0), id="one is missing"),
        pytest.param(found(), (0, 2, 0.0, 0.0), id="nothing"),
        pytest.param(found((0, 0.9), (50, 0.5), labels=(1, 2)), (2, 1, 0.0, 0.0), id="another label"),
    ],
)
def test_differences(actual: Detections, expected: tuple[int, int, float, float]) -> None:
    assert differences([found((0, 0.9), (50, 0.5))], [actual]) == pytest.approx(expected)


def test_what_cannot_run_is_named(tiny_repository: Path) -> None:
    able, left_out = possible(open_bundle(tiny_repository / "tiny" / "1"), frozenset())
    assert able[0] == REFERENCE
    assert "onnx int8: the bundle has no model.int8.onnx" in left_out
    assert any(line.startswith("torchscript f32: ") for line in left_out)
    assert any(line.startswith("openvino bf16: ") for line in left_out)


def test_a_run_compares_what_is_here(
    tiny_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(tmp_path / "data")
    again = Contender("onnx f32 again", "onnx")
    monkeypatch.setattr(engines, "CONTENDERS", (REFERENCE, again, Contender("int8", "onnx", file="model.int8.onnx")))
    model, report = tiny_repository / "tiny" / "1", tmp_path / "engines.json"
    flags = {"model": model, "data": tmp_path / "data", "images": 2, "threads": 1, "rounds": 1, "json": report}
    main([f"--{name}={value}" for name, value in flags.items()])  # whether the machine was calm is not the test's
    [comparison] = json.loads(report.read_text())["comparisons"]
    details = comparison["details"]
    assert (
        [timing["name"] for timing in comparison["timings"]] == list(details["found"]) == [REFERENCE.name, again.name]
    )
    assert details["left_out"] == ["int8: the bundle has no model.int8.onnx"]
    assert (details["ap_images"], details["timed_images"]) == (3, 2)
    found = details["found"][again.name]
    assert found.keys() == {field.name for field in fields(engines.Found)}
    assert found["detections"] == details["found"][REFERENCE.name]["detections"] > 0
    assert (found["unmatched"], found["largest_box_difference"], found["largest_score_difference"]) == (0, 0, 0)
    assert min(found["start_seconds"], found["restart_seconds"], found["peak_memory"]) > 0
    assert "mask/AP" in found["ap"]
    assert "onnx f32 again: " in capsys.readouterr().out


def test_a_contender_that_ends_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="onnx f32 has ended with 1; stderr has the reason"):
        Running(REFERENCE, tmp_path / "not there", max_detections=1, threads=1, cache=tmp_path)
    assert "not there" in capfd.readouterr().err
