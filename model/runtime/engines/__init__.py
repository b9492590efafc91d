"""Engines run a bundle's network: one small interface, ONNX Runtime behind it by default, TorchScript on request."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from model.architecture import Task, has_keypoints, has_masks
from model.runtime.detections import RawDetections
from model.runtime.engines.devices import check_device

if TYPE_CHECKING:
    from model.runtime.bundles.bundle import Bundle

EngineKind = Literal["onnx", "torchscript"]
DeviceChoice = str
"""Where an engine runs: "auto", "cpu", "cuda" or "cuda:N"; see `devices`."""

MODEL_FILES: dict[EngineKind, str] = {"onnx": "model.onnx", "torchscript": "model.torchscript.pt"}
"""The bundle's file that each engine runs."""

INPUTS = ("images", "sizes", "score_threshold")
"""The network's inputs, in order."""


class EngineError(RuntimeError):
    """An engine that cannot be started: no such model file, device or library, or a file that is not such a model."""


class OutOfMemory(EngineError):
    """A run that its device's memory could not hold. A smaller batch may fit; the engine can go on."""


class Engine(Protocol):
    """Runs the network on whole batches. `run` may be called from any thread, by several at once."""

    @property
    def name(self) -> str:
        """What runs the network, such as "onnx"."""

    @property
    def device(self) -> str:
        """Where it runs: "cpu", "cuda" or "cuda:N"."""

    def run(
        self, images: NDArray[np.uint8], sizes: NDArray[np.int64], score_threshold: NDArray[np.float32]
    ) -> RawDetections:
        """Detect.

        images: uint8 [B, H, W, 3] RGB, each image in the top left corner.
        sizes: int64 [B, 2], the valid (height, width) of each in pixels; what lies outside does not count.
        score_threshold: float32 [B]; only detections that score strictly more are returned.

        Raises:
            OutOfMemory: the batch does not fit into the device's memory.
        """

    def close(self) -> None:
        """Free the network. `run` must not be called any more."""


def output_names(task: Task) -> tuple[str, ...]:
    """The network's outputs in order, for what the network predicts."""
    masks = ("masks",) if has_masks(task) else ()
    heatmaps = ("keypoint_heatmaps",) if has_keypoints(task) else ()
    return ("boxes", "scores", "labels", "image_index", *masks, *heatmaps)


def load_engine(
    bundle: Bundle, kind: EngineKind = "onnx", device: DeviceChoice = "auto", threads: int | None = None
) -> Engine:
    """Start the engine for a bundle.

    `device`: "auto" takes a GPU when there is one that works. `threads`: CPU threads of one inference; None takes every
    physical core that this process may use.

    Raises:
        EngineError: the bundle lacks the engine's file, the device is not there or the file cannot be loaded.
    """
    file = _model_file(bundle, kind)
    try:
        check_device(device)
    except ValueError as error:
        raise EngineError(str(error)) from None
    if kind == "onnx":
        from model.runtime.engines.onnx import OnnxEngine

        return OnnxEngine(file, bundle.manifest.architecture.task, device, threads)
    from model.runtime.engines.torchscript import TorchScriptEngine

    return TorchScriptEngine(file, bundle.manifest.architecture.task, device, threads)


def _model_file(bundle: Bundle, kind: EngineKind) -> Path:
    if kind not in MODEL_FILES:
        raise EngineError(f"there is no engine {kind!r}; choose one of {', '.join(MODEL_FILES)}")
    name = MODEL_FILES[kind]
    if name not in bundle.manifest.files:
        raise EngineError(
            f"bundle {bundle.path} has no {name}, which the {kind} engine runs; "
            f"use another engine, or export the model again with that file"
        )
    return bundle.path / name
