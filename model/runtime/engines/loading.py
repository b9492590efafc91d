"""Start the engine that is asked for; what an engine needs is imported when it is started."""

from __future__ import annotations

from importlib.util import find_spec
from types import ModuleType
from typing import Final

from model.architecture import ArchitectureConfig
from model.console.installing import install
from model.runtime.bundles.bundle import Bundle
from model.runtime.bundles.manifest import INT8_FILE
from model.runtime.engines.devices import check_device, count_gpus, gpu_index, list_devices, tell_cpu
from model.runtime.engines.engine import (
    INSTEAD,
    MODEL_FILES,
    DeviceChoice,
    Engine,
    EngineError,
    EngineKind,
    FloatPrecision,
    Unavailable,
    no_device,
)

_OTHERS: Final = "engine onnx or auto, or another device"


def load_engine(
    bundle: Bundle,
    kind: EngineKind = "onnx",
    device: DeviceChoice = "auto",
    threads: int | None = None,
    precision: FloatPrecision = "f32",
    model_file: str | None = None,
    batch_size: int = 1,
) -> Engine:
    """Start the engine for a bundle.

    `device`: "auto" takes a GPU when there is one that works. `threads`: CPU threads of one inference; None takes every
    physical core that this process may use. `model_file`: which of the bundle's files runs, such as "model.int8.onnx";
    None is the engine's own (`MODEL_FILES`). `batch_size`: for the cuda engine, which fills batches up to it.

    Raises:
        Unavailable: the bundle lacks the file, the engine cannot compute in this precision, or the device or the
            engine's library is not there.
        EngineError: there is no such engine or device, or the file cannot be loaded.
        DamagedFile: the file is no longer what was published.
    """
    name = _model_file(bundle, kind, model_file)
    file, task = bundle.file(name), bundle.manifest.architecture.task
    try:
        check_device(device)
    except ValueError as error:
        raise EngineError(str(error)) from None
    engine: Engine
    if kind == "cuda":
        if precision == "bf16" or name != MODEL_FILES[kind]:
            raise Unavailable("the cuda engine computes in f16 and f32; choose one of these precisions")
        engine = _cuda().start(bundle, device, precision, batch_size)
        return engine
    # Once more, and the engine gets what was checked: by its name it might read what has taken the file's place since.
    content = bundle.read(name)
    if kind == "openvino":
        if name == INT8_FILE or "f32" not in bundle.manifest.network_precisions:
            wrong = why_no_int8_by_openvino(bundle.manifest.architecture)
            if wrong is not None:
                instead = ", or precision f32" if "f32" in bundle.manifest.network_precisions else ""
                raise Unavailable(f"{wrong}; choose engine onnx{instead}")
        engine = _openvino().OpenVinoEngine(file, task, device, threads, precision, content)
        return engine
    if precision != "f32":
        raise Unavailable(f"the {kind} engine computes in f32, not in {precision}; choose precision f32")
    if kind == "onnx":
        from model.runtime.engines.onnx import OnnxEngine

        return OnnxEngine(file, task, device, threads, content)
    engine = _torchscript().TorchScriptEngine(file, task, device, threads, content)
    return engine


def choose_devices(choice: str, kind: EngineKind = "onnx", instead: str = INSTEAD) -> tuple[str, ...]:
    """The devices that a choice such as "auto" or "cuda:0,cuda:1" means for engines of this kind.

    "auto" is every GPU if there are several and the engine can use them; if it can't, the CPU, with a line in the log
    that says why. instead: what to choose where one that is named is not there.

    Raises ValueError as `list_devices` does, and Unavailable: a device that is named, or the engine's library, is not
    there.
    """
    devices = list_devices(choice)
    if kind == "cuda":
        for device in devices:
            missing = "it computes on NVIDIA GPUs alone" if device == "cpu" else _why_no_gpu(device, kind)
            if missing is not None:
                raise Unavailable(
                    f"the cuda engine was asked for on device {device!r}, but {missing}; choose {_OTHERS}"
                )
        return devices
    for device in devices:
        if device in ("auto", "cpu"):
            continue
        if missing := _why_no_gpu(device, kind):
            if choice != "auto":
                raise no_device(device, missing, instead)
            tell_cpu(missing)
            return ("cpu",)
    return devices


def why_no_cuda_engine(choice: str) -> str | None:
    """Why the cuda engine cannot run on all devices that a choice means, in words that go on after "as"; None if it
    can. torch is imported only where there is a GPU, and torch."""
    if "cpu" in list_devices(choice):
        return "the CPU was asked for"
    if count_gpus() == 0:
        return "there is no GPU"
    if missing := [name for name in ("torch", "torchvision", "onnx") if find_spec(name) is None]:
        return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed ({install('torch')})"
    try:
        reasons = [_why_no_gpu(device, "cuda") for device in list_devices(choice)]
    except Unavailable as error:
        return str(error)
    return next((reason for reason in reasons if reason is not None), None)


def computes_on_cpu(device: DeviceChoice, kind: EngineKind = "onnx") -> bool:
    """Whether an engine of this kind will run on the CPU: it is told to, or "auto" finds no GPU that works."""
    return device == "cpu" or (device == "auto" and _why_no_gpu(device, kind) is not None)


def _why_no_gpu(device: str, kind: EngineKind) -> str | None:
    if kind == "onnx":
        from model.runtime.engines.cuda import why_no_gpu

        return why_no_gpu(gpu_index(device))
    engines = {"openvino": _openvino, "torchscript": _torchscript, "cuda": _cuda}
    reason: str | None = engines[kind]().why_no_gpu(gpu_index(device))
    return reason


def _cuda() -> ModuleType:
    try:
        from model.network.serving import starting
    except Exception as error:  # of another torch than torchvision's, or without a library, they raise whatever they do
        raise _unavailable("the cuda engine needs torch, torchvision and onnx", "torch", error) from error
    return starting


def _torchscript() -> ModuleType:
    try:
        from model.runtime.engines import torchscript
    except Exception as error:  # as above
        raise _unavailable("the torchscript engine needs torch and torchvision", "train", error) from error
    return torchscript


def _unavailable(needs: str, extra: str, error: Exception) -> Unavailable:
    """The error for what an engine imports and cannot; in one line."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return Unavailable(f"{needs} ({reason}); {install(extra)}, or use the onnx engine")


def why_no_int8_by_openvino(architecture: ArchitectureConfig) -> str | None:
    """Why OpenVINO must not compute such a network in INT8, in words that go on after "as"; None if it may.

    Of a C4 network's detections nearly none stood where float32 and ONNX Runtime's INT8 have them, by 2026.4.1 on a
    processor with AVX2: the first block behind the pooled features gives other values as soon as one of its
    convolutions is quantized. Other networks answer as they should (tests/model/network/test_variants.py).
    """
    return "openvino computes C4 networks wrongly in INT8" if architecture.features == "c4" else None


def why_no_openvino() -> str | None:
    """Why the openvino engine cannot run here, in words that go on after "as"; None if it can. Imports it."""
    if find_spec("openvino") is None:
        return "openvino is not installed"
    try:
        _openvino()
    except Unavailable as error:
        return _why_broken(error.__cause__)
    return None


def _openvino() -> ModuleType:
    try:
        from model.runtime.engines import openvino
    except ModuleNotFoundError as error:
        raise Unavailable(
            f"the openvino engine needs openvino ({error}); {install('openvino')}, or use the onnx engine"
        ) from error
    except Exception as error:  # whatever the parts of a damaged installation, or of another release, raise
        raise Unavailable(f"{_why_broken(error)}; install it anew, or use the onnx engine") from error
    return openvino


def _why_broken(error: BaseException | None) -> str:
    """OpenVINO names source files of its own before it says what is wrong, in the last line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["it does not say why"]
    return f"openvino is installed but cannot be loaded ({type(error).__name__}: {lines[-1]})"


def _model_file(bundle: Bundle, kind: EngineKind, name: str | None) -> str:
    if kind not in MODEL_FILES:
        raise EngineError(f"there is no engine {kind!r}; choose one of {', '.join(MODEL_FILES)}")
    name = name or MODEL_FILES[kind]
    if name not in bundle.manifest.files:
        raise Unavailable(
            f"bundle {bundle.path} has no {name}, which the {kind} engine runs; "
            f"use another engine, or export the model again with that file"
        )
    return name
