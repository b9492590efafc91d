"""The real ONNX Runtime with its real CUDA library, on a CUDA that is none: what fails on a GPU is not answered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import onnx
import onnxruntime
import pytest

from model.runtime.engines.devices import count_gpus
from tests.model.runtime.engines import stubs

pytestmark = [
    pytest.mark.skipif(bool(stubs.why_not()), reason=stubs.why_not() or "-"),
    pytest.mark.skipif(count_gpus() > 0, reason="this machine has a GPU"),
]

NETWORK = """<ir_version: 9, opset_import: ["": 17]>
network (uint8[B, H, W, 3] images, int64[B, 2] sizes, float[B] score_threshold)
    => (float[B, 2] boxes, float[n] scores, int64[B, 2] labels, int64[B, 2] image_index)
<float[4, 3, 1, 1] weight = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, int64[1] all = {-1}> {
    pixels = Cast<to = 1>(images)
    first = Transpose<perm = [0, 3, 1, 2]>(pixels)
    seen = LAYER
    scores = Reshape(seen, all)
    boxes = Cast<to = 1>(sizes)
    labels = Identity(sizes)
    image_index = Identity(sizes)
}"""

PROGRAM = """
import json, logging, sys
from pathlib import Path
import numpy as np
import onnxruntime
onnxruntime.preload_dlls = lambda: None  # it would load the real libraries, where torch brought them
from model.runtime.engines.onnx import OnnxEngine
logging.basicConfig(level="INFO", format="%(levelname)s %(message)s", stream=sys.stderr)
told = {}
try:
    engine = OnnxEngine(Path(sys.argv[1]), "boxes", sys.argv[2], 1)
    told["device"] = engine.device
    told["providers"] = engine._session.get_providers()
    told["options"] = engine._session.get_provider_options().get("CUDAExecutionProvider")
    images = np.full((1, 32, 32, 3), 9, np.uint8)
    told["labels"] = engine.run(images, np.array([[32, 32]]), np.zeros(1, np.float32)).labels.tolist()
except Exception as error:
    told["error"] = f"{type(error).__name__}: {error}"
    told["after"] = engine._session.get_providers() if "engine" in globals() else None
print(json.dumps(told))
"""

Run = Callable[..., tuple[dict[str, Any], str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Starts and runs an engine in a process of its own: what it told, and what stood on stderr."""
    folder = tmp_path_factory.mktemp("stubs")
    major = str(onnxruntime.cuda_version).partition(".")[0]

    def run(layer: str, device: str, no_device: bool = False) -> tuple[dict[str, Any], str]:
        libraries = folder / str(no_device)
        if not libraries.exists():
            libraries.mkdir()
            stubs.build(libraries, major, no_device=no_device)
        file = folder / "network.onnx"
        onnx.save(onnx.parser.parse_model(NETWORK.replace("LAYER", layer)), file)
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(file), device],
            env={**os.environ, "LD_LIBRARY_PATH": str(libraries)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), done.stderr  # nothing else on stdout

    return run


def test_its_cuda_library_is_loaded_and_computes(run: Run) -> None:
    told, said = run("Neg(first)", "auto")
    assert told.get("device") == "cuda", (told, said)
    assert told["providers"] == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert told["labels"] == [[32, 32]]
    assert told["options"]["use_tf32"] == "0", "float32 is that"


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_cudnn_that_fails_is_an_error_and_no_answer_of_the_cpu(run: Run, device: str) -> None:
    told, _ = run("Conv(first, weight)", device)
    assert told.get("device") == "cuda"
    assert "labels" not in told
    assert told["error"].startswith("EPFail: "), "what makes its Python start anew on the CPU, if it may"
    assert told["after"] == ["CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_gpu_that_the_driver_sees_and_cuda_does_not_is_told(run: Run, device: str) -> None:
    told, _ = run("Neg(first)", device, no_device=True)
    assert "device" not in told
    assert told["error"].startswith("EngineError: ")
    assert "CUDA failure 100" in told["error"]
