"""TorchScript: the same network in libtorch, for those who have torch. No other module of the runtime imports torch.

Upstream has deprecated TorchScript, so nothing else may come to depend on this file.
"""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
import torchvision  # noqa: F401  the network uses its operators
from numpy.typing import NDArray

from model.architecture import Task
from model.runtime.detections import RawDetections
from model.runtime.engines.cores import usable_cores
from model.runtime.engines.devices import gpu_index, tell_cpu
from model.runtime.engines.engine import DeviceChoice, EngineError, OutOfMemory, no_device, output_names


class TorchScriptEngine:
    """`model.torchscript.pt` in libtorch."""

    name = "torchscript"

    def __init__(
        self,
        file: Path,
        task: Task,
        device: DeviceChoice = "auto",
        threads: int | None = None,
        content: bytes | None = None,
    ) -> None:
        """Load the network. `content` is what was read of `file`, where it must not be read again.

        Raises Unavailable: no GPU for `device="cuda"`, EngineError: `file` is no network.
        """
        self._outputs = output_names(task)
        missing = None if device == "cpu" else why_no_gpu(gpu_index(device))
        if missing is not None:
            if device != "auto":
                raise no_device(device, missing)
            tell_cpu(missing)
            device = "cpu"
        self.device = "cuda" if device == "auto" else device
        # Settings for the whole process: torch has no threads of a model's own. Float32 is that, not TF32's 10 bits.
        torch.set_num_threads(usable_cores() if threads is None else threads)
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"`torch\.jit\.load` is")  # its class differs between releases
            try:
                source = str(file) if content is None else BytesIO(content)
                network = torch.jit.load(source, map_location=self.device)
            except (RuntimeError, ValueError, OSError) as error:
                raise EngineError(f"{file} cannot be loaded by torch {torch.__version__}: {error}") from error
        self._network: torch.jit.ScriptModule | None = network.eval()

    def run(
        self, images: NDArray[np.uint8], sizes: NDArray[np.int64], score_threshold: NDArray[np.float32]
    ) -> RawDetections:
        """See `Engine.run`."""
        if self._network is None:
            raise EngineError("the engine is closed")
        arrays = (images, sizes, score_threshold)
        # The profiling executor would compile anew for every input shape.
        with torch.inference_mode(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]  # untyped
            try:
                outputs = self._network(*(_tensor(array).to(self.device) for array in arrays))
                values = [output.cpu().numpy() for output in outputs]
            except RuntimeError as error:  # TorchScript wraps what its operators raise, torch.OutOfMemoryError too
                if "out of memory" in str(error) or "can't allocate memory" in str(error):
                    raise OutOfMemory(f"{len(images)} images do not fit into the memory of {self.device}") from error
                raise
        return RawDetections(**dict(zip(self._outputs, values, strict=True)))

    def close(self) -> None:
        """Free the network and its memory. Runs that have begun still end."""
        self._network = None


def why_no_gpu(index: int) -> str | None:
    """Why torch cannot use the GPU of that number, in one line; None if nothing is in the way."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index < gpus:
        return None
    seen = f"{gpus} of them, numbered from 0" if gpus else "no GPU"
    return f"torch sees {seen}"


def _tensor(array: NDArray[np.generic]) -> torch.Tensor:
    # torch has no read-only tensors and warns of one; a decoded image may be read-only.
    return torch.from_numpy(array if array.flags.writeable else array.copy())
