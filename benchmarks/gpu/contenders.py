"""Everything that can run the network here. One that can't raises `Skip` with the reason."""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.case import Batch, Case, to_raw, torchvision_detect
from model.network.exporting.torchscript import export_torchscript
from model.network.graph.half import halve
from model.network.graph.inference import InferenceGraph
from model.network.graph.static import StaticGraph
from model.network.serving.engine import StaticEngine
from model.runtime.detections import RawDetections


class Skip(Exception):
    """A contender that can't run on this machine, and why."""


@dataclass(frozen=True)
class Contender:
    """run: a batch on the host to its detections on the host. `engine` is there when batches can be queued."""

    precision: str
    run: Callable[[Batch], RawDetections]
    engine: StaticEngine | None = None
    close: Callable[[], None] = lambda: None


def torchvision_eager(case: Case) -> Contender:
    """torchvision's modules as they are."""

    def run(batch: Batch) -> RawDetections:
        with torch.inference_mode():
            return to_raw(torchvision_detect(case.model, batch, case.device))

    return Contender("fp32", run)


def torchvision_autocast(case: Case) -> Contender:
    """The same under autocast."""
    _need_gpu(case, "float16 autocast")

    def run(batch: Batch) -> RawDetections:
        with torch.inference_mode(), torch.autocast("cuda", torch.float16):
            return to_raw(torchvision_detect(case.model, batch, case.device))

    return Contender("fp16", run)


def graph_eager(case: Case) -> Contender:
    """The whole-batch graph that is exported, in PyTorch."""
    graph = InferenceGraph(case.model).eval()
    return Contender("fp32", lambda batch: _run_graph(graph, graph.output_names, batch, case.device))


def torchscript(case: Case) -> Contender:
    """The bundle's `model.torchscript.pt` in libtorch."""
    with tempfile.TemporaryDirectory() as folder:
        export_torchscript(case.model_on_host(), Path(folder) / "model.pt")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"`torch\.jit\.load` is")  # its class differs between releases
            network: Any = torch.jit.load(str(Path(folder) / "model.pt"), map_location=case.device).eval()
    names = InferenceGraph(case.model).output_names

    def run(batch: Batch) -> RawDetections:
        # As the TorchScript engine does: the profiling executor would compile anew for every shape.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]  # untyped
            return _run_graph(network, names, batch, case.device)

    return Contender("fp32", run)


def static_eager(case: Case) -> Contender:
    """The graph of fixed shapes in float32, kernel by kernel."""
    return _of(StaticEngine(StaticGraph(case.model), capture=False), "fp32")


def half_eager(case: Case) -> Contender:
    """The same with backbone, FPN and heads in float16 (bfloat16 on a CPU), channels-last."""
    dtype, precision = (torch.float16, "fp16") if case.device.type == "cuda" else (torch.bfloat16, "bf16")
    return _of(StaticEngine(halve(case.model, dtype), capture=False), precision)


def static_replayed(case: Case) -> Contender:
    """The graph of fixed shapes in float32, captured once a batch size and replayed."""
    _need_gpu(case, "a CUDA graph")
    return _of(StaticEngine(StaticGraph(case.model)), "fp32")


def half_replayed(case: Case) -> Contender:
    """The half one, captured and replayed."""
    _need_gpu(case, "a CUDA graph")
    return _of(StaticEngine(halve(case.model)), "fp16")


def half_fused_replayed(case: Case) -> Contender:
    """The same with cuDNN's fused convolutions."""
    _need_gpu(case, "cuDNN")
    return _of(StaticEngine(halve(case.model, fused=True)), "fp16")


def half_compiled(case: Case) -> Contender:
    """torch.compile of the half graph, then captured and replayed."""
    _need_gpu(case, "compiling to Triton kernels")
    if importlib.util.find_spec("triton") is None:
        raise Skip("triton is not installed, which torch.compile needs for a GPU")
    graph = halve(case.model)
    return _of(StaticEngine(graph, forward=torch.compile(graph, dynamic=False)), "fp16")


def onnx_cuda(case: Case) -> Contender:
    """`model.onnx` in ONNX Runtime's CUDA provider, with inputs and outputs bound."""
    return _onnx(case, "CUDAExecutionProvider", {})


def tensorrt(case: Case) -> Contender:
    """`model.onnx` in TensorRT (float16), through ONNX Runtime, which runs what TensorRT can't."""
    return _onnx(case, "TensorrtExecutionProvider", {"trt_fp16_enable": "1"})


REFERENCE = "torchvision eager fp32"
AUTOCAST = "torchvision autocast fp16"
BASELINES = (REFERENCE, AUTOCAST)
"""Timed whatever their answers are like: autocast decodes boxes in float16, in steps of a pixel at 1,333."""

CONTENDERS: Mapping[str, Callable[[Case], Contender]] = {
    REFERENCE: torchvision_eager,
    AUTOCAST: torchvision_autocast,
    "graph eager fp32": graph_eager,
    "TorchScript fp32": torchscript,
    "static eager fp32": static_eager,
    "static eager half": half_eager,
    "CUDA graph fp32": static_replayed,
    "CUDA graph half": half_replayed,
    "CUDA graph half, cuDNN fused": half_fused_replayed,
    "ONNX Runtime CUDA": onnx_cuda,
    "TensorRT": tensorrt,
}
COMPILED = "torch.compile half + CUDA graph"
"""Timed last and at one batch size: nothing can interrupt its compiling, which takes minutes."""


def _need_gpu(case: Case, what: str) -> None:
    if case.device.type != "cuda":
        raise Skip(f"{what} needs a CUDA device, and this run is on {case.device}")


def _of(engine: StaticEngine, precision: str) -> Contender:
    def run(batch: Batch) -> RawDetections:
        return engine.submit_tensors(batch.images, batch.sizes, batch.thresholds).result()

    return Contender(precision, run, engine, engine.forget)


def _run_graph(
    graph: Callable[..., tuple[Tensor, ...]], names: list[str], batch: Batch, device: torch.device
) -> RawDetections:
    with torch.inference_mode():
        outputs = graph(*batch.on(device))
        return RawDetections(**{name: part.cpu().numpy() for name, part in zip(names, outputs, strict=True)})


def _onnx(case: Case, provider: str, more: dict[str, str]) -> Contender:
    try:
        import onnxruntime
    except ImportError as error:
        raise Skip("onnxruntime is not installed") from error
    if provider not in onnxruntime.get_available_providers():
        raise Skip(f"this ONNX Runtime ({onnxruntime.__version__}) is built without {provider}")
    _need_gpu(case, provider)
    try:
        from model.network.exporting.export import export_onnx
    except ImportError as error:
        raise Skip(f"exporting needs a package that is not installed: {error}") from error
    onnxruntime.preload_dlls()
    cuda = {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested", "device_id": "0"}
    providers: list[Any] = [("CUDAExecutionProvider", cuda), "CPUExecutionProvider"]
    if more:
        providers.insert(0, (provider, more))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(case.model_on_host(), Path(folder) / "model.onnx")
        session = onnxruntime.InferenceSession(Path(folder) / "model.onnx", options, providers=providers)
    if provider not in session.get_providers():
        raise Skip(f"{provider} did not start: its libraries are missing or too old")
    names = [value.name for value in session.get_inputs()]
    outputs = [value.name for value in session.get_outputs()]

    def run(batch: Batch) -> RawDetections:
        on_device = [part.contiguous() for part in batch.on(case.device)]
        torch.cuda.current_stream().synchronize()  # ONNX Runtime has a stream of its own
        binding = session.io_binding()
        for name, part, element in zip(names, on_device, (np.uint8, np.int64, np.float32), strict=True):
            binding.bind_input(name, "cuda", 0, element, tuple(part.shape), part.data_ptr())
        for name in outputs:
            binding.bind_output(name, "cuda", 0)
        session.run_with_iobinding(binding)
        return RawDetections(**dict(zip(outputs, binding.copy_outputs_to_cpu(), strict=True)))

    return Contender("fp16" if more else "tf32", run)  # its convolutions use TF32 unless told otherwise
