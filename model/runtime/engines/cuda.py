"""Whether ONNX Runtime can compute on a GPU here, found out before it tries: what it does by itself when it can't is to
print raw lines to stdout, or to compute on the CPU.
"""

from __future__ import annotations

import ctypes
import io
import os
from contextlib import redirect_stdout
from functools import cache

# Before ONNX Runtime is loaded, see `onnx`.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

from model.console.installing import install
from model.runtime.engines.devices import count_gpus, driver_cuda_version, said_of_visible_gpus


def why_no_gpu(index: int) -> str | None:
    """Why ONNX Runtime cannot use the GPU of that number, in one line; None if nothing is in the way."""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "this ONNX Runtime is built without CUDA (install onnxruntime-gpu)"
    count = count_gpus()
    if count == 0:
        return f"there is no NVIDIA driver (libcuda.so.1) that sees a GPU{said_of_visible_gpus()}"
    if index >= count:
        return f"the NVIDIA driver sees {count} of them, numbered from 0{said_of_visible_gpus()}"
    return _why_no_cuda()


@cache
def _why_no_cuda() -> str | None:
    built, driver = str(onnxruntime.cuda_version), driver_cuda_version()
    major = built.partition(".")[0]
    if driver is not None and major.isdigit() and driver[0] < int(major):
        return (
            f"the NVIDIA driver speaks CUDA {driver[0]}.{driver[1]}, and this ONNX Runtime is built for {built}; "
            "update the driver"
        )
    # Finds the libraries that came as Python packages; elsewhere the loader's own path counts. It prints what it lacks.
    with redirect_stdout(io.StringIO()):
        onnxruntime.preload_dlls()
    missing = [library for library in _libraries(major) if not _can_load(library)]
    if missing:
        return f"ONNX Runtime needs {' and '.join(missing)} for it, which cannot be loaded; {install('cuda')}"
    return None


def _libraries(major: str) -> tuple[str, ...]:
    """What its CUDA library is linked to, and cuDNN, without which it starts and fails at the first convolution."""
    return (
        f"libcudart.so.{major}",
        f"libcublasLt.so.{major}",
        f"libcublas.so.{major}",
        "libcurand.so.10",
        "libcudnn.so.9",
    )


def _can_load(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
