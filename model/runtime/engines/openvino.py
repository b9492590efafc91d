"""OpenVINO: `model.onnx` on processors that compute in bfloat16 or INT8 faster than ONNX Runtime does. No torch."""

from __future__ import annotations

import hashlib
import importlib
import io
import logging
import re
import sys
import threading
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model.architecture import Task
from model.runtime.detections import RawDetections
from model.runtime.engines import kept
from model.runtime.engines.cores import usable_cores
from model.runtime.engines.devices import gpu_index, tell_cpu
from model.runtime.engines.engine import (
    INPUTS,
    DeviceChoice,
    EngineError,
    FloatPrecision,
    OutOfMemory,
    Unavailable,
    no_device,
    output_names,
)
from model.runtime.engines.processor import processor_identity

_CONVERTER: Final = "openvino.tools.ovc"
_REWRITTEN: Final = "divide_exactly, convert_pooled"
"""What is done to a network before it is compiled; another name where that changes, for what was kept of it."""
_EXACT_DIVISION: Final = "nonconvertable_divide_0"
"""OpenVINO's name (and spelling) for the mark of a division that must not become a multiplication."""


def _imported() -> Any:
    """The package without its model converter, which reports to its maker that it was imported."""
    if "openvino" in sys.modules:
        return sys.modules["openvino"]
    sys.modules[_CONVERTER] = None  # type: ignore[assignment]  # the import system's word for what cannot be imported
    try:
        return importlib.import_module("openvino")
    finally:
        del sys.modules[_CONVERTER]


openvino = _imported()

_OLDEST: Final = (2026, 4)
"""The first release by which answers have been compared with ONNX Runtime's, as pyproject.toml has it."""


def _require_release(version: str) -> None:
    """version: such as "2026.4.1-22133-1b9e2bd"; one that tells no release is a build of somebody's own."""
    release = re.match(r"(\d+)\.(\d+)\.", version)
    if release is not None and (int(release[1]), int(release[2])) < _OLDEST:
        raise ImportError(f"it is {version}, which is older than {'.'.join(map(str, _OLDEST))}")


_require_release(openvino.get_version())

CORE: Final = openvino.Core()
"""One for the process, and never freed. Each loads the CPU plugin anew, which replaces the alternate stack of the
thread that it is loaded on, where Python handles signals. When it is freed it puts back the stack that it found: after
two were freed in the order in which they came, one that is no more, and the next signal kills the process."""

CAPABILITIES: Final = tuple(CORE.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
"""What it computes in on this processor, such as "BF16". To ask loads the CPU plugin: where that cannot be loaded, this
module cannot be imported, and nobody takes the engine for one that works."""

logger = logging.getLogger(__name__)


class OpenVinoEngine:
    """`model.onnx` in OpenVINO. `run` may be called from any thread; one computes, others wait."""

    name = "openvino"
    device = "cpu"

    def __init__(
        self,
        file: Path,
        task: Task,
        device: DeviceChoice = "auto",
        threads: int | None = None,
        precision: FloatPrecision = "f32",
        content: bytes | None = None,
    ) -> None:
        """Load the network, compiled as it was kept, or compile and keep it. `content` is what was read of `file`,
        where it must not be read again.

        Raises Unavailable: another device than the CPU, or no bfloat16 here; EngineError: `file` is no network of
        `task`.
        """
        if device not in ("auto", "cpu"):
            raise no_device(device, why_no_gpu(gpu_index(device)))
        if device == "auto":
            tell_cpu(why_no_gpu(0))
        self._outputs = output_names(task)
        if precision == "bf16" and "BF16" not in CAPABILITIES:
            raise Unavailable("precision bf16 was asked for, but this processor does not compute in it; choose f32")
        network = _load(file, content, _options(usable_cores() if threads is None else threads, precision))
        inputs = tuple(port.get_any_name() for port in network.inputs)
        outputs = tuple(port.get_any_name() for port in network.outputs)
        if (inputs, outputs) != (INPUTS, self._outputs):
            raise EngineError(
                f"{file} has inputs {', '.join(inputs)} and outputs {', '.join(outputs)}; a model for {task} has "
                f"inputs {', '.join(INPUTS)} and outputs {', '.join(self._outputs)}. Export it again"
            )
        self._lock = threading.Lock()
        self._request: Any = network.create_infer_request()

    def run(
        self, images: NDArray[np.uint8], sizes: NDArray[np.int64], score_threshold: NDArray[np.float32]
    ) -> RawDetections:
        """See `Engine.run`."""
        with self._lock:
            if self._request is None:
                raise EngineError("the engine is closed")
            try:
                outputs = self._request.infer(dict(enumerate((images, sizes, score_threshold))), share_inputs=True)
            except (MemoryError, RuntimeError) as error:  # OpenVINO's own, and what its libraries raise
                if _is_out_of_memory(error):
                    raise OutOfMemory(f"a batch of {len(images)} does not fit into the memory of cpu") from error
                raise
            return RawDetections(**{name: outputs[row] for row, name in enumerate(self._outputs)})

    def close(self) -> None:
        """Free the network and its memory, once a run that has begun has ended."""
        with self._lock:
            self._request = None


def why_no_gpu(index: int) -> str:
    """Why the engine does not use the NVIDIA GPU of that number."""
    return "the openvino engine uses no NVIDIA GPU"


def _options(threads: int, precision: FloatPrecision) -> dict[str, Any]:
    return {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        # Left alone it computes in bfloat16, or half precision on ARM, wherever the processor can.
        "INFERENCE_PRECISION_HINT": precision,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        # Its cache of what it prepared for each shape keeps growing: images of 60 sizes took 1,247 MB at the peak with
        # it and 767 without. It saves little: 20 smaller sizes took 20.9 s of processor time and 21.7 (one run each).
        "CPU_RUNTIME_CACHE_CAPACITY": 0,
        # Two engines would be pinned to the same cores.
        "ENABLE_CPU_PINNING": False,
    }


def _load(file: Path, content: bytes | None, options: dict[str, Any]) -> Any:
    """An `openvino.CompiledModel`. Raises EngineError."""
    try:
        content = file.read_bytes() if content is None else content
        key = _key(content, options)
        if (found := kept.find(key)) is not None:
            try:
                return CORE.import_model(found, "CPU", options)
            except RuntimeError as error:
                logger.warning("compiling %s anew, what was kept of it cannot be loaded: %s", file, _short(error))
        read = CORE.read_model(content)
        divide_exactly(read)
        if options["INFERENCE_PRECISION_HINT"] == "bf16":
            convert_pooled(read)
        network = CORE.compile_model(read, "CPU", options)
    except (OSError, RuntimeError) as error:
        raise EngineError(f"{file} cannot be loaded by OpenVINO {openvino.get_version()}: {_short(error)}") from error
    compiled = io.BytesIO()
    network.export_model(compiled)
    kept.keep(key, compiled.getbuffer())
    return network


def _key(content: bytes, options: dict[str, Any]) -> str:
    """What the compiled network depends on. The processor is told by the system, and by OpenVINO, which compiles for
    what it finds, where the system tells little."""
    return kept.key_of(
        (
            hashlib.sha256(content).hexdigest(),
            openvino.get_version(),
            *processor_identity(),
            str(CORE.get_property("CPU", "FULL_DEVICE_NAME")),
            *sorted(CAPABILITIES),
            repr(sorted(options.items())),
            _REWRITTEN,
        )
    )


def divide_exactly(network: Any) -> None:
    """Have no division computed as a multiplication by the reciprocal, as OpenVINO does where nothing forbids it.

    The distance of anchors is the image's side divided by the cells of a level, rounded down. 1312 times the float32
    next to 1/41 is less than 32, so that they stood 31 pixels apart, and nearly nothing was found in images of 1,312 or
    1,504 pixels.
    """
    for node in network.get_ordered_ops():
        if node.get_type_name() == "Divide":
            node.get_rt_info()[_EXACT_DIVISION] = True


def convert_pooled(network: Any) -> None:
    """Have RoIAlign, in a network that will compute in bfloat16, read its features from a conversion to float32.

    Its kernel computes in float32, and OpenVINO lets a kernel take the layout of its input only from what is of its own
    type. Features in bfloat16 were laid out anew for it, channel by channel, where the kernel takes five times as long:
    half of the time of the whole network. The conversion, which is made in any case, keeps the layout, and as the
    features are in bfloat16 already, it changes no value. Those of a quantized network are not, so it stays as it is.
    """
    convert = importlib.import_module("openvino.opset13").convert
    nodes = network.get_ordered_ops()
    if any(node.get_type_name() == "FakeQuantize" for node in nodes):
        return
    converted: dict[tuple[str, int], Any] = {}
    for node in nodes:
        if node.get_type_name() == "ROIAlign":
            features = node.input(0).get_source_output()
            key = features.get_node().get_name(), features.get_index()
            if key not in converted:
                converted[key] = convert(convert(features, "bf16"), "f32").output(0)
            node.input(0).replace_source_output(converted[key])
    network.validate_nodes_and_infer_types()


def _short(error: Exception) -> str:
    """Its last line: OpenVINO names source files of its own before it says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in ("bad_alloc", "failed to allocate"))
