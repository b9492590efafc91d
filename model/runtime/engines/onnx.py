"""ONNX Runtime: the engine that serves, on a CPU or an NVIDIA GPU. It needs no torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# Its releases report to their maker unless they find this when they are loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

from model.architecture import Task
from model.runtime.detections import RawDetections
from model.runtime.engines.cores import usable_cores
from model.runtime.engines.devices import count_gpus, gpu_index
from model.runtime.engines.engine import INPUTS, DeviceChoice, EngineError, OutOfMemory, output_names

# What is an error for ONNX Runtime is raised as well, and is for the caller to tell.
_FATAL_ONLY: Final = 4

_CUDA_OPTIONS: Final = {
    # The default, EXHAUSTIVE, tunes every convolution anew for each new input shape: 634 ms against 1.9.
    "cudnn_conv_algo_search": "HEURISTIC",
    # The default doubles its reserve at every growth and keeps it.
    "arena_extend_strategy": "kSameAsRequested",
}


class OnnxEngine:
    """`model.onnx` in ONNX Runtime. `run` is safe from several threads; it releases the GIL."""

    name = "onnx"

    def __init__(self, file: Path, task: Task, device: DeviceChoice = "auto", threads: int | None = None) -> None:
        """Load the network. Raises EngineError: no GPU for `device="cuda"`, or `file` is no network of `task`."""
        self._outputs = output_names(task)
        self.device = _choose_device(device)
        session = _start(file, self.device, threads)
        if self.device != "cpu" and "CUDAExecutionProvider" not in session.get_providers():
            # ONNX Runtime falls back to the CPU by itself when it misses a CUDA library.
            if device != "auto":
                raise EngineError(
                    "ONNX Runtime could not use the GPU: its CUDA or cuDNN libraries are missing or too old; "
                    "install maskserve[cuda] (in a clone, pip install '.[serve,cuda]'), or choose device 'cpu'"
                )
            self.device = "cpu"
        inputs = tuple(value.name for value in session.get_inputs())
        outputs = tuple(value.name for value in session.get_outputs())
        if (inputs, outputs) != (INPUTS, self._outputs):
            raise EngineError(
                f"{file} has inputs {', '.join(inputs)} and outputs {', '.join(outputs)}; a model for {task} has "
                f"inputs {', '.join(INPUTS)} and outputs {', '.join(self._outputs)}. Export it again"
            )
        self._session: onnxruntime.InferenceSession | None = session

    def run(
        self, images: NDArray[np.uint8], sizes: NDArray[np.int64], score_threshold: NDArray[np.float32]
    ) -> RawDetections:
        """See `Engine.run`."""
        if self._session is None:
            raise EngineError("the engine is closed")
        feeds = dict(zip(INPUTS, (images, sizes, score_threshold), strict=True))
        try:
            outputs = self._session.run(self._outputs, feeds)
        except Exception as error:  # ONNX Runtime's exceptions have no base class besides it
            if _is_out_of_memory(error):
                raise OutOfMemory(f"a batch of {len(images)} does not fit into the memory of {self.device}") from error
            raise
        return RawDetections(**dict(zip(self._outputs, outputs, strict=True)))

    def close(self) -> None:
        """Free the network and its memory. Runs that have begun still end."""
        self._session = None


def _choose_device(device: DeviceChoice) -> str:
    if device == "cpu":
        return "cpu"
    missing = _why_no_gpu(gpu_index(device))
    if missing is None:
        return "cuda" if device == "auto" else device
    if device != "auto":
        raise EngineError(f"device {device!r} was asked for, but {missing}; choose 'cpu' or 'auto'")
    return "cpu"


def _why_no_gpu(index: int) -> str | None:
    """None when there is that GPU and an ONNX Runtime built for it. A session without one would only log errors."""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "this ONNX Runtime is built without CUDA (install onnxruntime-gpu)"
    count = count_gpus()
    if count == 0:
        return "there is no NVIDIA driver (libcuda.so.1) that sees a GPU"
    if index >= count:
        return f"the NVIDIA driver sees {count} of them, numbered from 0"
    return None


def _is_out_of_memory(error: Exception) -> bool:
    """ONNX Runtime has no exception of its own for it: its arenas, the C++ library and CUDA each word it their way."""
    text = str(error).lower()
    return any(words in text for words in ("failed to allocate memory", "bad allocation", "bad_alloc", "out of memory"))


def _start(file: Path, device: str, threads: int | None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = usable_cores() if threads is None else threads
    options.inter_op_num_threads = 1
    # A plan of the memory for each size of input seen takes more memory at the peak, and is no faster.
    options.enable_mem_pattern = False
    # Idle threads would burn the cores that decode the next image and answer health checks.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers: list[Any] = ["CPUExecutionProvider"]
    if device != "cpu":
        # Finds the CUDA libraries that came as Python packages; elsewhere the loader's own path counts.
        onnxruntime.preload_dlls()
        providers.insert(0, ("CUDAExecutionProvider", {**_CUDA_OPTIONS, "device_id": gpu_index(device)}))
    try:
        return onnxruntime.InferenceSession(file, options, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions have no base class besides it
        raise EngineError(f"{file} cannot be loaded by ONNX Runtime {onnxruntime.__version__}: {error}") from error
