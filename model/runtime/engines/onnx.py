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
from model.runtime.engines.cuda import why_no_gpu
from model.runtime.engines.devices import gpu_index, tell_cpu
from model.runtime.engines.engine import INPUTS, DeviceChoice, EngineError, OutOfMemory, no_device, output_names

# What is an error for ONNX Runtime is raised as well, and is for the caller to tell.
_FATAL_ONLY: Final = 4
onnxruntime.set_default_logger_severity(_FATAL_ONLY)  # of what happens outside of sessions

_CUDA_OPTIONS: Final = {
    # The default, EXHAUSTIVE, tunes every convolution anew for each new input shape.
    "cudnn_conv_algo_search": "HEURISTIC",
    # The default doubles its reserve at every growth and keeps it.
    "arena_extend_strategy": "kSameAsRequested",
    # By default products are of numbers rounded to 10 bits (TF32), which nothing here has compared with float32.
    "use_tf32": "0",
}


_LEFT: Final = "ONNX Runtime left the GPU by itself"


class OnnxEngine:
    """`model.onnx` in ONNX Runtime. `run` is safe from several threads; it releases the GIL."""

    name = "onnx"

    def __init__(
        self,
        file: Path,
        task: Task,
        device: DeviceChoice = "auto",
        threads: int | None = None,
        content: bytes | None = None,
    ) -> None:
        """Load the network. `content` is what was read of `file`, where it must not be read again.

        Raises Unavailable: no GPU for `device="cuda"`, EngineError: `file` is no network of `task`.
        """
        self._outputs = output_names(task)
        self.device = _choose_device(device)
        session = _start(file, self.device, threads, content)
        if not _computes_on(self.device, session):
            if device != "auto":
                raise no_device(device, _LEFT)
            tell_cpu(_LEFT)
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
            # Its arrays lie in the session's memory, all of which stays while one of them does: of an answer that is
            # kept, a network.
            outputs = [np.array(output) for output in self._session.run(self._outputs, feeds)]
        except Exception as error:  # ONNX Runtime's exceptions have no base class besides it
            if _is_out_of_memory(error):
                raise OutOfMemory(f"a batch of {len(images)} does not fit into the memory of {self.device}") from error
            raise
        if not _computes_on(self.device, self._session):
            raise EngineError(f"{_LEFT} while it computed; what it computed since is not answered")
        return RawDetections(**dict(zip(self._outputs, outputs, strict=True)))

    def close(self) -> None:
        """Free the network and its memory. Runs that have begun still end."""
        self._session = None


def _choose_device(device: DeviceChoice) -> str:
    if device == "cpu":
        return "cpu"
    missing = why_no_gpu(gpu_index(device))
    if missing is None:
        return "cuda" if device == "auto" else device
    if device != "auto":
        raise no_device(device, missing)
    tell_cpu(missing)
    return "cpu"


def _computes_on(device: str, session: onnxruntime.InferenceSession) -> bool:
    return device == "cpu" or "CUDAExecutionProvider" in session.get_providers()


def _is_out_of_memory(error: Exception) -> bool:
    """ONNX Runtime has no exception of its own for it: its arenas, the C++ library and CUDA each word it their way."""
    text = str(error).lower()
    return any(words in text for words in ("failed to allocate memory", "bad allocation", "bad_alloc", "out of memory"))


def _start(file: Path, device: str, threads: int | None, content: bytes | None = None) -> onnxruntime.InferenceSession:
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
        providers.insert(0, ("CUDAExecutionProvider", {**_CUDA_OPTIONS, "device_id": gpu_index(device)}))
    try:
        # Its Python would start anew on the CPU when the GPU fails, now or in any run, and say so on stdout at most.
        source = file if content is None else content
        session = onnxruntime.InferenceSession(source, options, providers=providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's exceptions have no base class besides it
        raise EngineError(f"{file} cannot be loaded by ONNX Runtime {onnxruntime.__version__}: {error}") from error
    session._model_bytes = None  # which it keeps to start anew, and never will
    return session
