"""The GPU benchmark on a CPU, tiny: every step runs, wrong answers are noticed, and what can't run says why."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu.__main__ import main
from benchmarks.gpu.answers import agree
from benchmarks.gpu.contenders import CONTENDERS, REFERENCE
from model.runtime.detections import RawDetections

ANSWER = RawDetections(
    boxes=np.array([[0, 0, 10, 10], [20, 20, 40, 50], [5, 5, 30, 20]], np.float32),
    scores=np.array([0.9, 0.5, 0.7], np.float32),
    labels=np.array([1, 2, 1]),
    image_index=np.array([0, 0, 1]),
    masks=np.full((3, 28, 28), 0.9, np.float32),
)


def test_a_dry_run_goes_through_every_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "gpu.json"
    only = ["static eager half", "CUDA graph half", "ONNX Runtime CUDA"]
    options = ["--device", "cpu", "--dry-run", "--batches", "1", "--rounds", "1", "--json", str(file), "--only", *only]
    assert main(options) == 0
    (comparison,) = json.loads(file.read_text())["comparisons"]
    assert [timing["name"] for timing in comparison["timings"]] == [REFERENCE, "static eager half"]
    findings = comparison["details"]["findings"]
    assert findings["answers"]["static eager half"]["good"]
    errors = findings["layer_errors"]["static eager half"]
    assert len(errors) == 9
    assert all(0 < error < 0.1 for error in errors.values())
    assert findings["best"]["contender"] == "static eager half"
    assert "CUDA device" in findings["skipped"]["CUDA graph half"]
    assert "CUDA device" in findings["skipped"]["service"]
    stages = findings["stages"]["milliseconds"]
    assert all(value > 0 for value in stages.values())
    assert stages["proposals"] > stages["proposals.head"]
    assert findings["stages"]["work"]["flops"] > 1e9
    assert findings["stages"]["work"]["layer_bytes"] > 1e6
    assert findings["pipeline"]["masks_encoded"] > 0
    assert findings["pipeline"]["inexact_images"] == 0
    table = capsys.readouterr().out
    assert "wanted on an H200: 300 or more (150 at least)" in table
    assert findings["reached"]["engine, images/s"] == findings["best"]["images_per_second"]
    assert all(f"skipped: {name}" in table for name in only[1:])


def test_torchscript_is_compared_where_there_is_no_onnx() -> None:
    program = """
import sys
for name in ("onnx", "onnxscript", "onnxruntime", "numba"):
    sys.modules[name] = None
import torch
from benchmarks.gpu.case import TINY, make_batch, make_case
from benchmarks.gpu.contenders import torchscript
device = torch.device("cpu")
print(len(torchscript(make_case(TINY, device)).run(make_batch(TINY, 1, device)).scores))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


def test_the_same_answer_agrees() -> None:
    found = agree(ANSWER, ANSWER, "fp32", 2)
    assert found.good
    assert (found.detections, found.found, found.extra, found.mask_iou) == (3, 1, 0, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        replace(ANSWER, labels=np.array([2, 2, 1])),
        replace(ANSWER, boxes=ANSWER.boxes + np.array([8, 0, 8, 0], np.float32)),
        replace(ANSWER, scores=ANSWER.scores - np.float32(0.3)),
        ANSWER.of_image(0),
        RawDetections(*(values[:0] for values in (ANSWER.boxes, ANSWER.scores, ANSWER.labels, ANSWER.image_index))),
    ],
    ids=["another label", "boxes moved", "other scores", "an image is missing", "nothing"],
)
def test_another_answer_does_not_agree(wrong: RawDetections) -> None:
    assert not agree(wrong, ANSWER, "fp32", 2).good


def test_a_detection_too_many_does_not_agree() -> None:
    assert not agree(ANSWER, ANSWER.of_image(0), "fp32", 2).good


def test_the_full_size_is_refused_on_a_cpu() -> None:
    with pytest.raises(SystemExit, match="add --dry-run"):
        main(["--device", "cpu"])
    assert len(CONTENDERS) > 10
