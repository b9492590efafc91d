"""What the engines do with GPUs that are not what they seem, behind stand-ins for the driver's and CUDA's libraries."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail

from model.architecture import Task
from model.runtime.bundles.bundle import Bundle
from model.runtime.engines import cuda, onnx
from model.runtime.engines.devices import count_gpus
from model.runtime.engines.engine import INPUTS, EngineError
from model.runtime.engines.onnx import OnnxEngine

Publish = Callable[[Task], Bundle]

DRIVER = """
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int *count) { *count = GPUS; return 0; }
int cuDriverGetVersion(int *version) { *version = VERSION; return 0; }
"""
PROGRAM = """
import json, logging, sys
from pathlib import Path
from model.runtime.engines.loading import choose_devices
from model.runtime.engines.onnx import OnnxEngine
logging.basicConfig(level="INFO", format="%(levelname)s %(message)s", stream=sys.stderr)
found = []
for device in choose_devices(sys.argv[2]):
    engine = OnnxEngine(Path(sys.argv[1]), "masks", device, 1)
    found.append((device, engine.device))
print(json.dumps(found))
"""
MAJOR = str(onnxruntime.cuda_version).partition(".")[0]

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler (cc)")
needs_cuda_build = pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(), reason="needs onnxruntime-gpu"
)
needs_no_gpu = pytest.mark.skipif(count_gpus() > 0, reason="this machine has a GPU")


@pytest.fixture
def run(tmp_path: Path, publish: Publish) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Start the engine for a device choice in a process that finds a driver with so many GPUs, and no CUDA library."""
    file = publish("masks").path / "model.onnx"
    libraries = tmp_path / "libraries"
    libraries.mkdir()

    def run(choice: str, gpus: int, version: int) -> subprocess.CompletedProcess[str]:
        library = str(libraries / "libcuda.so.1")
        flags = (f"-DGPUS={gpus}", f"-DVERSION={version}", "-shared", "-fPIC", "-x", "c", "-", "-o", library)
        subprocess.run(["cc", *flags], input=DRIVER, text=True, check=True)
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, str(file), choice],
            env={**os.environ, "LD_LIBRARY_PATH": str(libraries)},
            capture_output=True,
            text=True,
        )

    return run


@needs_no_gpu
@needs_cuda_build
@needs_compiler
@pytest.mark.parametrize(
    ("gpus", "version", "devices", "level", "said"),
    [
        pytest.param(1, 1000 * int(MAJOR or 0), ["auto"], "WARNING", "cannot be loaded", id="one GPU without CUDA"),
        pytest.param(2, 1000 * int(MAJOR or 0), ["cpu"], "WARNING", "cannot be loaded", id="two GPUs without CUDA"),
        pytest.param(1, 11080, ["auto"], "WARNING", "the NVIDIA driver speaks CUDA 11.8", id="an old driver"),
        pytest.param(3, 11080, ["cpu"], "WARNING", "update the driver", id="an old driver and three GPUs"),
        pytest.param(0, 13000, ["auto"], "INFO", "there is no NVIDIA driver", id="a driver without a GPU"),
    ],
)
def test_auto_without_usable_cuda_computes_on_the_cpu_and_says_in_one_line_why(
    run: Callable[..., subprocess.CompletedProcess[str]],
    gpus: int,
    version: int,
    devices: list[str],
    level: str,
    said: str,
) -> None:
    if "cannot be loaded" in said and all(map(cuda._can_load, cuda._libraries(MAJOR))):
        pytest.skip("this machine has CUDA's libraries")
    done = run("auto", gpus, version)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[device, "cpu"] for device in devices], "nothing else on stdout"
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{level} computing on the CPU: ")
    assert said in line


@needs_no_gpu
@needs_cuda_build
@needs_compiler
def test_a_gpu_that_is_asked_for_and_cannot_be_used_is_refused_with_the_reason(
    run: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = run("cuda:1", 2, 11080)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Unavailable: device 'cuda:1' was asked for, but the NVIDIA driver speaks CUDA 11.8" in done.stderr


@needs_cuda_build
def test_cuda_without_cudnn_is_refused_before_a_session_is_made(
    monkeypatch: pytest.MonkeyPatch, publish: Publish
) -> None:
    monkeypatch.setattr(cuda, "count_gpus", lambda: 1)
    monkeypatch.setattr(cuda, "driver_cuda_version", lambda: None)
    monkeypatch.setattr(cuda, "_can_load", lambda library: "cudnn" not in library)
    monkeypatch.setattr(onnx, "_start", lambda *_: pytest.fail("too late"))
    cuda._why_no_cuda.cache_clear()
    try:
        with pytest.raises(EngineError, match=r"ONNX Runtime needs libcudnn\.so\.9 for it, which cannot be loaded"):
            OnnxEngine(publish("masks").path / "model.onnx", "masks", "cuda")
    finally:
        cuda._why_no_cuda.cache_clear()


class Session:
    """A session on the CPU that says it is on a GPU, and whose runs go as they are told."""

    def __init__(self, real: onnxruntime.InferenceSession) -> None:
        self._real = real
        self.providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        self.leaves = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)

    def get_providers(self) -> list[str]:
        return self.providers

    def run(self, *arguments: object) -> object:
        if self.leaves:
            self.providers = ["CPUExecutionProvider"]
        return self._real.run(*arguments)


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch, publish: Publish) -> Session:
    """What the next OnnxEngine gets, on a machine with a GPU as far as it can tell."""
    start = onnx._start
    session = Session(start(publish("masks").path / "model.onnx", "cpu", 1))
    monkeypatch.setattr(onnx, "why_no_gpu", lambda index: None)
    monkeypatch.setattr(onnx, "_start", lambda *_: session)
    return session


def images() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.full((1, 64, 96, 3), 255, np.uint8), np.array([[64, 96]]), np.full(1, 0.3, np.float32)


def test_no_answer_is_computed_on_another_device_than_is_reported(session: Session) -> None:
    engine = OnnxEngine(Path("model.onnx"), "masks", "cuda")
    assert engine.device == "cuda"
    assert len(engine.run(*images()).scores) == 1
    session.leaves = True
    with pytest.raises(EngineError, match="left the GPU"):
        engine.run(*images())


def test_a_session_that_starts_on_the_cpu_is_refused_or_told(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    session.providers = ["CPUExecutionProvider"]
    with pytest.raises(EngineError, match="device 'cuda' was asked for, but ONNX Runtime left the GPU"):
        OnnxEngine(Path("model.onnx"), "masks", "cuda")
    assert OnnxEngine(Path("model.onnx"), "masks", "auto").device == "cpu"
    assert [record.message for record in caplog.records] == [
        "computing on the CPU: ONNX Runtime left the GPU by itself"
    ]


def test_a_run_that_fails_on_the_gpu_is_not_tried_again_on_the_cpu(publish: Publish) -> None:
    """ONNX Runtime's Python starts the session anew on the CPU when a run ends with EP_FAIL, if it may."""
    session = onnx._start(publish("masks").path / "model.onnx", "cpu", 1)

    class Failing:
        def __getattr__(self, name: str) -> object:
            return getattr(native, name)

        def run(self, *arguments: object) -> object:
            raise EPFail("cuDNN failed")

    native, session._sess = session._sess, Failing()
    with pytest.raises(EPFail, match="cuDNN failed"):
        session.run(None, dict(zip(INPUTS, images(), strict=True)))
